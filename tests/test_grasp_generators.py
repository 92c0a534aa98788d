"""Generators of goal grasps: their frame, training, checkpoints, and what they propose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.cli import commands
from dexh2r_gym.grasps.cloud import prepare_cloud
from dexh2r_gym.grasps.dataset import TriedGrasps, write_tried
from dexh2r_gym.grasps.generators import installed_generators, load_generator
from dexh2r_gym.grasps.pool import load_pool
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER, forward_kinematics, surface_points
from dexh2r_gym.objects import load_object
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_normalize, quat_rotate
from dexh2r_gym.table4 import module_digest
from policies import train as training
from policies import verify
from policies.checkpoint import load_checkpoint, make_model, read_card, save_checkpoint, shipped
from policies.grasp_data import GraspSet, hand_points
from policies.grasp_diffusion import GraspDiffusion, Guidance
from policies.grasp_frame import decode, encode, frame_of, palm_in_object, proposal_rotations, turned
from policies.train import TrainOptions
from policies.train_grasps import train

POLICIES = ("grasp-cvae", "grasp-diffusion")
SMALL = {
    "grasp-cvae": {"num_points": 32, "feature": 16, "width": 32},
    "grasp-diffusion": {"basis": 16, "feature": 16, "width": 32, "blocks": 1, "samples": 2, "train_steps": 20},
}
OBJECTS = ("water_bottle", "hammer")


def tried(name: str) -> TriedGrasps:
    """The shipped grasps of an object as if they had just been tried, and a bad one."""
    pool, obj = load_pool(name), load_object(name)
    released = torch.cat((pool.released, torch.ones(1, 6)))
    arrays = [torch.cat((x, x[:1])) for x in (pool.palm_pose, pool.joints, pool.depth)]
    return TriedGrasps(*arrays, released, metadata={"object": name, "volume": obj.volume, "seed": 0, "across": 0.0})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tried")
    for name in OBJECTS:
        write_tried(tried(name), folder / f"{name}.npz")
    return folder


# turned frame
def test_numbers_of_a_known_grasp() -> None:
    middle = ((JOINT_LOWER + JOINT_UPPER) / 2).float()
    grasp = encode(torch.tensor([0.1, -0.05, 0.0]), middle)
    assert torch.allclose(grasp, torch.tensor([1.0, -0.5, 0.0] + [0.0] * 22), atol=1e-6)
    position, joints = decode(torch.tensor([1.0, 0.0, 0.0] + [5.0] * 22))
    assert position.tolist() == pytest.approx([0.1, 0.0, 0.0]) and torch.allclose(joints, JOINT_UPPER.float())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_turned_frame_and_back(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    palm = torch.cat(
        (torch.randn(4, 3, generator=generator), quat_normalize(torch.randn(4, 4, generator=generator))), dim=-1
    )
    center, points = torch.randn(4, 3, generator=generator), torch.randn(4, 6, 3, generator=generator)
    frame = frame_of(palm[:, 3:], center)
    in_frame = pose_multiply(pose_inverse(frame), palm)
    assert torch.allclose(in_frame[:, 3:].abs(), torch.tensor([1.0, 0, 0, 0]).expand(4, 4), atol=1e-5)
    assert torch.allclose(palm_in_object(palm[:, 3:], center, in_frame[:, :3]), palm, atol=1e-5)
    seen = turned(frame, points)
    expected = quat_rotate(palm[:, None, 3:], seen) + center[:, None]
    assert torch.allclose(expected, points, atol=1e-4)


def test_rotations_face_the_surface_and_turn_evenly() -> None:
    obj = load_object("book")
    rotation = proposal_rotations(obj.points, obj.normals, 500, torch.Generator().manual_seed(0))
    assert rotation.shape == (500, 4) and torch.allclose(rotation.norm(dim=-1), torch.ones(500), atol=1e-5)
    facing = quat_rotate(rotation, torch.tensor([0.0, 1.0, 0.0]).expand(500, 3)).view(25, 20, 3)
    assert (facing - facing[:, :1]).abs().max() < 1e-5  # turns keep the direction
    faces = facing[:, 0].abs().amax(-1)  # a book has six flat faces; patches at edges see two or three of them
    assert (faces > 0.99).sum() >= 8 and (faces > 0.55).all()
    fingers = quat_rotate(rotation, torch.tensor([0.0, 0.0, 1.0]).expand(500, 3)).view(25, 20, 3)
    cosine = (fingers * fingers.roll(1, 1)).sum(-1)
    assert torch.allclose(cosine, torch.full_like(cosine, float(np.cos(2 * np.pi / 20))), atol=1e-4)
    few = proposal_rotations(obj.points, obj.normals, 30, torch.Generator().manual_seed(0))
    assert few.shape == (30, 4)


def test_a_batch_shows_each_grasp_and_its_object_in_one_frame() -> None:
    grasps = GraspSet([tried(name) for name in OBJECTS], num_points=512)
    assert grasps.num_grasps == sum(len(load_pool(name)) for name in OBJECTS)  # without the bad ones
    batch = grasps.batch(12, torch.Generator().manual_seed(1))
    hand = hand_points(batch.grasp, 6)
    distance, slope = batch.scene.look_up(hand)
    palm = palm_in_object(batch.scene.frame[:, 3:], batch.scene.frame[:, :3], decode(batch.grasp)[0])
    points, _ = surface_points(palm, decode(batch.grasp)[1])
    points = points.unflatten(1, (18, 128))[:, :, :6].flatten(1, 2)
    for row in range(12):
        obj = load_object(OBJECTS[int(batch.scene.index[row])])
        exact = obj.signed_distance(points[row])
        near = exact < 0.015
        assert near.any() and (distance[row][near] - exact[near]).abs().max() < 0.003
        apart = torch.cdist(hand[row], batch.cloud[row]).amin(-1)  # the cloud is where the field says the surface is
        assert (apart[near] - exact[near].abs()).abs().max() < 0.02
    assert torch.allclose(slope.norm(dim=-1), torch.ones(12, 108), atol=0.2)


# training
@pytest.mark.parametrize("policy", POLICIES)
def test_training_lowers_the_loss_and_goes_on_bit_for_bit(
    policy: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(steps=60, batch_size=16, learning_rate=3e-3, warmup=5, seed=4)
    monkeypatch.setattr(training, "_STATE_EVERY", 20)
    monkeypatch.setattr(training, "_LOG_EVERY", 5)
    whole = train(policy, data, tmp_path / "whole", options, config=SMALL[policy])
    log = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    total = [sum(value for name, value in row.items() if name != "step") for row in log]
    assert len(log) == 12 and np.mean(total[-3:]) < 0.8 * np.mean(total[:2])

    real, count = GraspSet.batch, 0

    def stops(self: GraspSet, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count == 45:
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GraspSet, "batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train(policy, data, tmp_path / "parts", options, config=SMALL[policy])
    with pytest.raises(ValueError, match="another training"):
        train(policy, data, tmp_path / "parts", TrainOptions(steps=61), config=SMALL[policy])
    parts = train(policy, data, tmp_path / "parts", options, config=SMALL[policy])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert not (tmp_path / "parts.training").exists()
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_loss_that_is_no_number_stops_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_class = type(make_model("grasp-cvae", SMALL["grasp-cvae"]))
    real = model_class.loss
    calls = 0

    def poisoned(self: object, *arguments: object) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        losses = real(self, *arguments)  # type: ignore[arg-type]
        ninth = calls == training._CHECK_STEPS + 9
        return {name: value * torch.nan for name, value in losses.items()} if ninth else losses

    monkeypatch.setattr(model_class, "loss", poisoned)
    monkeypatch.setattr(training, "_STATE_EVERY", 4)
    with pytest.raises(FloatingPointError, match=r"in step 8 .*hammer"):
        train("grasp-cvae", data, tmp_path / "out", TrainOptions(steps=20, batch_size=16), config=SMALL["grasp-cvae"])
    assert torch.load(tmp_path / "out.training", weights_only=True)["step"] == 8


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dexh2r grasps data"):
        train("grasp-cvae", tmp_path, tmp_path / "out")
    bad = tried("hammer")
    bad = TriedGrasps(bad.palm_pose, bad.joints, bad.depth + 1, bad.released, bad.metadata)
    with pytest.raises(ValueError, match=r"none of the .* grasps of hammer is good"):
        GraspSet([bad], 32)
    other = TriedGrasps(bad.palm_pose, bad.joints, bad.depth, bad.released, bad.metadata | {"volume": 1.0})
    with pytest.raises(ValueError, match="another shape"):
        GraspSet([other], 32)


# checkpoints
@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_checkpoint(make_model("grasp-cvae", SMALL["grasp-cvae"]), path, {"seed": 3})
    return path


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    for policy in POLICIES:
        model, path = make_model(policy, SMALL[policy]), tmp_path / f"{policy}.safetensors"
        save_checkpoint(model, path, {"seed": 3})
        back = load_checkpoint(path, policy)
        assert read_card(path)["card"] == {"seed": 3}
        for a, b in zip(model.parameters(), back.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)  # float16 on disk


def edit(path: Path, **changes: object) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | changes))


def test_a_wrong_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint of grasp-cvae, grasp-diffusion was asked for"):
        load_checkpoint(checkpoint, "grasp-diffusion")
    with pytest.raises(FileNotFoundError, match="in that folder: weights"):
        load_checkpoint(tmp_path / "none.safetensors")
    edit(checkpoint, policy="no-policy")
    with pytest.raises(ValueError, match="unknown policy 'no-policy'; this version knows grasp-cvae"):
        load_checkpoint(checkpoint)
    edit(checkpoint, policy="grasp-cvae", config=SMALL["grasp-cvae"] | {"depth": 3})
    with pytest.raises(ValueError, match="no setting depth"):
        load_checkpoint(checkpoint)
    edit(checkpoint, config=SMALL["grasp-cvae"] | {"width": 48})
    with pytest.raises(ValueError, match="weights do not fit grasp-cvae"):
        load_checkpoint(checkpoint)
    edit(checkpoint, format=99)
    with pytest.raises(ValueError, match="format 99, this version reads format 1"):
        load_checkpoint(checkpoint)


def test_changed_weights_are_refused(checkpoint: Path) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(ValueError, match="sha256 differs"):
        load_checkpoint(checkpoint)


# proposals
@pytest.mark.parametrize("policy", POLICIES)
def test_proposals_keep_their_promises(policy: str) -> None:
    torch.manual_seed(0)
    model = make_model(policy, SMALL[policy]).eval()
    obj = load_object("hammer")
    first, again = (model.propose(obj.points, obj.normals, num=40, seed=2) for _ in range(2))
    other = model.propose(obj.points, obj.normals, num=40, seed=3)
    assert torch.equal(first.palm_pose, again.palm_pose) and torch.equal(first.joints, again.joints)
    assert not torch.equal(first.palm_pose, other.palm_pose)
    assert first.palm_pose.shape == (40, 7) and first.joints.shape == (40, 22)
    assert (first.palm_pose[:, 3:].norm(dim=-1) - 1).abs().max() < 1e-5
    assert ((first.joints >= JOINT_LOWER.float() - 1e-6) & (first.joints <= JOINT_UPPER.float() + 1e-6)).all()
    assert not first.palm_pose.requires_grad and not first.joints.requires_grad


@pytest.mark.parametrize("policy", POLICIES)
def test_proposals_move_with_the_cloud_that_moves(policy: str) -> None:
    """The turned frame sees the same whatever the place of the object; only the turns' first angle is the frame's."""
    torch.manual_seed(0)
    model = make_model(policy, SMALL[policy]).eval()
    if isinstance(model, GraspDiffusion):  # without descents, which make much of rounding
        model.guidance = Guidance(guided_steps=1, descents=0, final_descents=0, surplus=1.0)
    obj, shift = load_object("banana"), torch.tensor([0.25, -0.5, 1.0])
    here, there = (model.propose(obj.points + s, obj.normals, num=20, seed=2) for s in (torch.zeros(3), shift))
    assert torch.allclose(here.palm_pose[:, :3] + shift, there.palm_pose[:, :3], atol=2e-2)
    assert torch.allclose(here.palm_pose[:, 3:], there.palm_pose[:, 3:], atol=1e-3)


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (torch.zeros(0, 3), "is empty"),
        (torch.zeros(300, 4), r"must be \(P, 3\), got \(300, 4\)"),
        (torch.full((300, 3), torch.nan), "NaN or infinite numbers in 300 of 300 points"),
        (torch.rand(64, 3) * 0.1, "has 64 points, at least 128 are needed"),
        (torch.rand(300, 3) * 200, "in millimetres"),
        (torch.rand(300, 3) * 1e-3, "less than 0.01 m"),
    ],
)
def test_a_bad_cloud_is_refused(cloud: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        prepare_cloud(cloud)
    with pytest.raises(ValueError, match=reason):
        make_model("grasp-cvae", SMALL["grasp-cvae"]).propose(cloud)


def test_normals_are_checked_and_estimated() -> None:
    obj = load_object("water_bottle")
    with pytest.raises(ValueError, match=r"normals must be finite and shaped like the points \(4096, 3\)"):
        prepare_cloud(obj.points, obj.normals[:5])
    for name in ("water_bottle", "hammer", "beer_mug"):
        obj = load_object(name)
        cloud = prepare_cloud(obj.points)
        assert ((cloud.normals * obj.normals).sum(-1) > 0).float().mean() > 0.98
    many = prepare_cloud(obj.points.repeat(2, 1), obj.normals.repeat(2, 1), seed=1)
    assert many.points.shape == (4096, 3)


def test_a_table_tells_other_settings_of_a_generator_apart() -> None:
    torch.manual_seed(0)
    model = make_model("grasp-diffusion", SMALL["grasp-diffusion"])
    before = module_digest(model)
    assert before == module_digest(model)
    model.guidance = Guidance(final_descents=1)  # type: ignore[assignment]
    assert before != module_digest(model)


def test_verify_compares_with_the_card(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"succ6": (60.0, 50.0, 70.0)}
    monkeypatch.setattr(verify, "FOLDER", checkpoint.parent)
    monkeypatch.setattr(verify, "grasp_scores", lambda *_: (found, {"objects": []}))
    assert not verify.verify(["weights"]) and "NOT IN THE CARD" in capsys.readouterr().out
    assert verify.verify(["weights"], write=True) and verify.verify(["weights"])
    assert read_card(checkpoint)["card"]["seed"] == 3  # what the card said before is kept
    found["succ6"] = (49.0, 40.0, 58.0)
    assert not verify.verify(["weights"]) and "49.000, card [50.000, 70.000]  OUTSIDE" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="in that folder: weights"):
        verify.verify(["wieghts"])


# what is shipped
def test_generators_by_name() -> None:
    assert {"cvae", "cvae-scratch", "diffusion", "diffusion-scratch"} <= set(installed_generators())
    with pytest.raises(ValueError, match=r"unknown generator 'difusion' \(did you mean 'diffusion'\?\); choose one of"):
        load_generator("difusion")
    with pytest.raises(ValueError, match="cannot be imported"):
        load_generator("no_such_module:maker")
    assert {"train", "checkpoints"} <= set(commands())


@pytest.mark.parametrize("name", ["cvae", "cvae-scratch", "diffusion", "diffusion-scratch"])
def test_shipped_generators_close_on_an_unseen_object(name: str) -> None:
    obj = load_object("dumbbell")
    proposals = load_generator(name).propose(obj.points, obj.normals, num=20)
    tips = forward_kinematics(proposals.palm_pose, proposals.joints)[:, [3, 6, 9, 12, 16], :3]
    assert obj.signed_distance(tips).median() < 0.025
    depth = obj.penetration(surface_points(proposals.palm_pose, proposals.joints)[0]).amax(-1)
    assert depth.median() < 0.015


def test_shipped_cards_say_what_they_must() -> None:
    generators = [path for path in shipped() if path.stem.startswith("grasp_")]
    assert len(generators) == 4 and sum(path.stat().st_size for path in shipped()) < 90e6
    for path in generators:
        card = read_card(path)["card"]
        assert path.stat().st_size < 25e6
        assert {"objects", "grasps", "options", "command", "expected", "measured_on"} <= set(card)
        assert not {*card["measured_on"]["objects"]} & {*card["objects"]}, "scores must be on unseen objects"
        assert all(low <= value <= high for value, low, high in card["expected"].values())
