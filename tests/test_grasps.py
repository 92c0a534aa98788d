"""Goal grasps: distances between capsules, clearance from the giver, making of pools, the pools that are shipped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.cli.grasps import GraspInfo
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import GraspPool, free_of_giver, load_pool, make, make_pool, make_pools, pool_files, read_pool
from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.grasps.make import MAX_APPROACH_DEPTH, MAX_DEPTH, NUM_GRASPS, approach_depth, diverse_order
from dexh2r_gym.grasps.pool import FOLDER, MAX_GRASPS
from dexh2r_gym.grasps.pool_files import MeshOptions
from dexh2r_gym.grasps.scores import grasp_depth
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, displacements, is_stable
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER, OPEN_HAND, forward_kinematics, hand_capsules
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.replay import MAX_GOALS
from dexh2r_gym.rotations import pose_apply, pose_multiply, quat_from_axis_angle, quat_rotate
from tests.grasp_cases import FLAT_HAND, IDENTITY, cage

YCB = Path(__file__).parents[2] / "shared" / "testdata" / "objects_ycb"


@pytest.fixture(scope="module")
def cylinder() -> ObjectModel:
    """A can of 5.5 cm diameter and 19 cm length along z, 0.35 kg."""
    return load_object("aerosol_can")


def test_approach_depth_of_a_free_and_of_a_blocked_way(cylinder: ObjectModel) -> None:
    palm, closed = cage()
    assert float(approach_depth(cylinder, palm, closed)) < 0.01
    behind = palm.clone()  # the can is behind the hand's back, where the hand comes from
    behind[:, :3] += quat_rotate(palm[:, 3:], torch.tensor([[0.0, -0.1, 0.0]], dtype=torch.float64))
    assert float(grasp_depth(cylinder, behind, FLAT_HAND[None])) == 0.0
    assert float(approach_depth(cylinder, behind, FLAT_HAND[None])) > 0.005


def brute_force(p0: np.ndarray, p1: np.ndarray, q0: np.ndarray, q1: np.ndarray, count: int = 161) -> float:
    t = np.linspace(0, 1, count)[:, None]
    a, b = p0 + t * (p1 - p0), q0 + t * (q1 - q0)
    return float(np.linalg.norm(a[:, None] - b[None], axis=-1).min())


@pytest.mark.parametrize(
    ("segments", "distance"),
    [
        ([[-1, 0, 0], [1, 0, 0], [0, -1, 0.5], [0, 1, 0.5]], 0.5),  # crossing
        ([[0, 0, 0], [1, 0, 0], [0.5, 2, 0], [3, 2, 0]], 2.0),  # parallel, side by side
        ([[0, 0, 0], [1, 0, 0], [4, 4, 0], [6, 4, 0]], 5.0),  # parallel, one after the other
        ([[0, 0, 0], [1, 0, 0], [1.5, 0, 0], [2, 0, 0]], 0.5),  # in line
        ([[0, 0, 0], [0, 0, 0], [1, -1, 0], [1, 1, 0]], 1.0),  # a point and a segment
        ([[0, 0, 0], [0, 0, 0], [0, 3, 4], [0, 3, 4]], 5.0),  # two points
        ([[0, 0, 0], [1, 0, 0], [2, 1, 0], [2, 3, 0]], math.sqrt(2)),  # end to end
    ],
)
def test_segment_distance_of_known_cases(segments: list[list[float]], distance: float) -> None:
    p0, p1, q0, q1 = torch.tensor(segments, dtype=torch.float64)
    for a, b in ((p0, p1), (p1, p0)):
        for c, d in ((q0, q1), (q1, q0)):
            assert float(segment_distance(a, b, c, d)) == pytest.approx(distance, abs=1e-12)
            assert float(segment_distance(c, d, a, b)) == pytest.approx(distance, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-4, 1e-2, 1.0]))
def test_segment_distance_against_brute_force(seed: int, skew: float) -> None:
    """Random segments; with a small skew they are nearly parallel."""
    rng = np.random.default_rng(seed)
    p0, p1, q0, other = rng.normal(size=(4, 3))
    q1 = q0 + rng.normal() * (p1 - p0) + skew * other
    exact = float(segment_distance(*map(torch.from_numpy, (p0, p1, q0, q1))))
    sampled = brute_force(p0, p1, q0, q1)
    half_step = (np.linalg.norm(p1 - p0) + np.linalg.norm(q1 - q0)) / 320
    assert exact <= sampled + 1e-9
    assert sampled <= exact + half_step + 1e-9


def giver_beside(shift: torch.Tensor) -> tuple[GiverHand, torch.Tensor]:
    """A flat right hand with its wrist at shift (T, 3)."""
    giver = GiverHand()
    return giver, giver.mano(shift, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(len(shift), 4))


def capsule_gap(palm: torch.Tensor, joints: torch.Tensor, giver: GiverHand, mano: torch.Tensor) -> float:
    """Least distance between the surfaces of the two hands' capsules, by sampling their axes."""
    t = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    link, p0, p1, r = hand_capsules()
    bone, q0, q1, s = giver.capsules()
    links, bones = forward_kinematics(palm, joints)[link], giver.bone_poses(mano)[bone]
    a = pose_apply(links[:, None], p0[:, None] + t * (p1 - p0)[:, None])  # (K, 60, 3)
    b = pose_apply(bones[:, None], q0[:, None] + t * (q1 - q0)[:, None])  # (C, 60, 3)
    gap = torch.cdist(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, (-1, 60)).unflatten(2, (-1, 60)).amin((1, 3))
    return float((gap - r[:, None] - s).min())


def test_a_grasp_is_free_exactly_when_the_hands_are_further_apart_than_the_margin() -> None:
    giver, mano = giver_beside(torch.tensor([[0.25, 0.02, 0.03]], dtype=torch.float64))
    gap = capsule_gap(IDENTITY, OPEN_HAND, giver, mano[0])
    assert 0.01 < gap < 0.2

    def free(margin: float) -> bool:
        return bool(free_of_giver(IDENTITY[None], OPEN_HAND[None], IDENTITY[None], giver, mano, margin))

    assert free(gap - 1e-3) and not free(gap + 1e-3)


def test_free_of_giver_frame_by_frame_in_a_moving_frame() -> None:
    shifts = torch.tensor([[0.0, -0.03, 0.05], [1.0, 0.0, 0.0], [0.0, -0.03, 0.05]], dtype=torch.float64)
    giver, mano = giver_beside(shifts)
    palm = torch.stack((IDENTITY, IDENTITY))
    palm[1, :3] = torch.tensor([0.95, 0.01, -0.05])
    joints = OPEN_HAND.repeat(2, 1)
    world = IDENTITY.repeat(3, 1)
    expected = [[False, True], [True, False], [False, True]]
    assert free_of_giver(palm, joints, world, giver, mano).tolist() == expected
    # The same when object and giver are carried elsewhere together, a different way in each frame.
    generator = torch.Generator().manual_seed(0)
    turn = quat_from_axis_angle(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    carry = torch.cat((torch.randn(3, 3, generator=generator, dtype=torch.float64), turn), dim=-1)
    wrist = pose_multiply(carry, torch.cat((shifts, world[:, 3:]), dim=-1))
    carried = giver.mano(wrist[:, :3], wrist[:, 3:])
    assert free_of_giver(palm, joints, carry, giver, carried).tolist() == expected


def test_diverse_order_takes_those_that_hold_first_and_spreads_them() -> None:
    palm = IDENTITY.repeat(5, 1).float()
    palm[:, 2] = torch.tensor([0.0, 0.001, 0.1, 0.05, 0.9])
    first = torch.tensor([True, True, True, True, False])
    assert diverse_order(palm, first).tolist() == [0, 2, 3, 1, 4]


def test_spacing_is_the_mean_distance_to_the_grasp_most_alike() -> None:
    palm = IDENTITY.repeat(3, 1)
    palm[1, 0], palm[2, 0] = 0.02, 0.08  # nearest: 2 cm, 2 cm, 6 cm
    assert pool_at(palm).spacing == pytest.approx(0.1 / 3)
    palm[1] = IDENTITY
    palm[1, 3:] = quat_from_axis_angle(torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64))
    assert pool_at(palm[:2]).spacing == pytest.approx(0.04, rel=1e-3)
    assert math.isnan(pool_at(palm[:1]).spacing)


def pool_at(palm: torch.Tensor) -> GraspPool:
    """Open hands at palms (G, 7) that hold."""
    count = len(palm)
    numbers = {"joints": OPEN_HAND.repeat(count, 1), "depth": torch.zeros(count), "approach": torch.zeros(count)}
    moves = {"released": torch.zeros(count, 6), "gravity": torch.zeros(count, 6)}
    arrays = {"palm_pose": palm} | numbers | moves
    return GraspPool(**{name: x.float() for name, x in arrays.items()})


def test_made_pool_has_what_it_says(cylinder: ObjectModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_ROUND", 24)
    seen: list[int] = []
    pool = make_pool(cylinder, seed=3, num=4, num_threads=1, progress=seen.append)
    assert len(pool) == 4 and pool.holds_weight.all()
    assert seen == sorted(seen) and seen[-1] == 4
    assert pool.metadata == {"object": "aerosol_can", "volume": cylinder.volume, "seed": 3, "num": 4} | {
        "tries": 24 * len(seen)
    }
    grasps = pool.palm_pose, pool.joints
    assert torch.allclose(grasp_depth(cylinder, *grasps), pool.depth, atol=1e-6)
    assert torch.allclose(approach_depth(cylinder, *grasps), pool.approach, atol=1e-6)
    assert pool.depth.max() < MAX_DEPTH and pool.approach.max() < MAX_APPROACH_DEPTH
    for protocol, said in ((RELEASED, pool.released), (GRAVITY, pool.gravity)):
        moved = displacements(cylinder, *grasps, protocol, num_threads=1)
        assert torch.equal(moved.float(), said) and is_stable(moved).all()
    again = make_pool(cylinder, seed=3, num=4, num_threads=2)
    assert torch.equal(again.palm_pose, pool.palm_pose) and torch.equal(again.gravity, pool.gravity)


def searches(monkeypatch: pytest.MonkeyPatch, heights: list[float], holds: float, released: float = 0.0) -> list:
    """Let rounds of search find open hands at these heights, of which those above `holds` hold the weight."""
    rounds = []

    def search(obj, num, generator, options, around):
        rounds.append(around)
        palm = IDENTITY.float().repeat(len(heights), 1)
        palm[:, 2] = torch.tensor(heights) + 0.001 * len(rounds)
        return palm, OPEN_HAND.float().repeat(len(heights), 1)

    def test(obj, palm, joints, protocol, num_threads):
        moved = torch.zeros(len(palm), 6, dtype=torch.float64)
        moved[:, 0] = released if protocol is RELEASED else torch.where(palm[:, 2] > holds, 0.0, 1.0)
        return moved

    monkeypatch.setattr(make, "search_grasps", search)
    monkeypatch.setattr(make, "displacements", test)
    return rounds


def test_search_goes_on_beside_grasps_that_hold_until_there_are_enough(cylinder, monkeypatch) -> None:
    rounds = searches(monkeypatch, [2.0, 3.0, 4.0, 5.0], holds=4.5)
    pool = make_pool(cylinder, num=3)
    assert len(pool) == 3 and pool.holds_weight.all()
    assert rounds[0] is None
    assert [len(around) for around in rounds[1:]] == list(range(1, len(rounds)))
    assert (torch.cat(rounds[1:])[:, 2] > 4.5).all()


def test_grasps_that_do_not_hold_the_weight_only_fill_up(cylinder, monkeypatch) -> None:
    rounds = searches(monkeypatch, [2.0, 3.0, 4.0, 5.0], holds=5.0015)  # none of the first round
    searches_ended = make._IDLE_ROUNDS
    monkeypatch.setattr(make, "_MIN_TRIES", 3 * make._ROUND)
    monkeypatch.setattr(make, "_TRIES_EACH", 1)
    pool = make_pool(cylinder, num=5)
    assert len(rounds) == 3 < searches_ended
    assert pool.holds_weight.tolist() == [True, True, False, False, False]
    assert sorted(pool.palm_pose[2:, 2].tolist())[0] < 2.5  # far from one another
    nothing = searches(monkeypatch, [2.0], holds=9.0)
    monkeypatch.setattr(make, "_MIN_TRIES", 100 * make._ROUND)
    assert not make_pool(cylinder, num=5).holds_weight.any()
    assert len(nothing) == make._IDLE_ROUNDS


def test_no_grasp_at_all_is_an_error_that_says_what_the_object_is_like(cylinder, monkeypatch) -> None:
    searches(monkeypatch, [2.0, 3.0], holds=9.0, released=1.0)
    with pytest.raises(ValueError, match=r"no stable grasp of 'aerosol_can'.* 5\.5 x 5\.5 x 19\.1 cm .*12 cm.*metres"):
        make_pool(cylinder, num=3)
    for num in (0, MAX_GRASPS + 1):
        with pytest.raises(ValueError, match=f"1 to {MAX_GRASPS}, got {num}"):
            make_pool(cylinder, num=num)


def test_a_pool_may_have_as_many_grasps_as_a_trial_goals() -> None:
    assert MAX_GRASPS == MAX_GOALS


def small_pool() -> GraspPool:
    arrays = {"palm_pose": IDENTITY.repeat(2, 1), "joints": OPEN_HAND.repeat(2, 1), "depth": torch.zeros(2)}
    arrays["approach"] = torch.zeros(2)
    moves = {"released": torch.zeros(2, 6), "gravity": torch.tensor([[0.0] * 6, [0.0] * 5 + [0.5]])}
    return GraspPool(**{name: x.float() for name, x in (arrays | moves).items()}, metadata={"object": "rod"})


def test_a_pool_comes_back_from_its_file(tmp_path) -> None:
    pool = small_pool()
    pool.save(tmp_path / "rod.npz")
    back = read_pool(tmp_path / "rod.npz")
    assert len(back) == 2 and back.metadata == {"object": "rod"}
    assert torch.equal(back.palm_pose, pool.palm_pose) and torch.equal(back.joints, pool.joints)
    assert back.holds_weight.tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.pop("joints"), "keys missing: joints"),
        (lambda d: d.update(joints=d["joints"][:, :21]), "joints has shape"),
        (lambda d: d["palm_pose"].__setitem__((1, 0), np.nan), "palm_pose of grasp 1 is not finite"),
        (lambda d: d["palm_pose"].__setitem__((1, 3), 0.5), "grasp 1 is not a unit quaternion"),
        (lambda d: d["joints"].__setitem__((0, 3), 3.0), "joints of grasp 0 are beyond their limits"),
    ],
)
def test_a_damaged_pool_is_refused(tmp_path, change, reason: str) -> None:
    path = tmp_path / "rod.npz"
    small_pool().save(path)
    with np.load(path) as file:
        data = {key: file[key].copy() for key in file.files}
    change(data)
    np.savez(path, **data)
    with pytest.raises(ValueError, match=reason):
        read_pool(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable grasp file"):
        read_pool(path)


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    known = object_names()[0]
    with pytest.raises(ValueError, match=known):
        load_pool("no_such_object")
    with pytest.raises(ValueError, match=known):
        make_pools(("no_such_object",))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects whose pools are made, here without a search; `crate` has none."""
    names: list[str] = []

    def instead(obj: ObjectModel, *, seed: int, num: int, num_threads: int, progress) -> GraspPool:
        names.append(obj.name)
        if obj.name == "crate":
            raise ValueError("no stable grasp")
        progress(num)
        pool = pool_at(IDENTITY.repeat(num, 1))
        pool.metadata.update(object=obj.name, volume=obj.volume, seed=seed, num=num)
        return pool

    monkeypatch.setattr(pool_files, "make_pool", instead)
    return names


def test_pools_that_are_there_are_kept_if_they_were_asked_for_in_the_same_way(tmp_path: Path, made: list[str]) -> None:
    make_pools(("hammer", "banana"), out=tmp_path, num=2, workers=1)
    make_pools(("hammer", "wrench"), out=tmp_path, num=2, workers=1)
    assert made == ["hammer", "banana", "wrench"]
    with pytest.raises(ValueError, match=r"hammer\.npz was made with num 2 instead of 3"):
        make_pools(("hammer",), out=tmp_path, num=3, workers=1)
    with pytest.raises(ValueError, match="seed 0 instead of 1"):
        make_pools(("hammer",), out=tmp_path, num=2, seed=1, workers=1)
    make_pools(("hammer",), out=tmp_path, num=3, workers=1, overwrite=True)
    assert made[3:] == ["hammer"] and len(read_pool(tmp_path / "hammer.npz")) == 3


def test_mesh_files_become_objects_with_what_is_said_of_them(tmp_path: Path, made: list[str], capsys) -> None:
    trimesh.creation.box((40, 60, 160)).export(tmp_path / "brick.stl")
    options = MeshOptions(scale=0.001, mass=0.3)
    make_pools([tmp_path / "brick.stl"], out=tmp_path, num=2, mesh=options, workers=1)
    assert "4.0 x 6.0 x 16.0 cm, 0.3 kg, 1 convex parts" in capsys.readouterr().out
    pool = read_pool(tmp_path / "brick.npz")
    assert pool.metadata["volume"] == pytest.approx(0.04 * 0.06 * 0.16, rel=1e-5)
    make_pools([tmp_path / "brick.stl"], out=tmp_path, num=2, mesh=options, workers=1)
    make_pools([tmp_path / "brick.stl"], out=tmp_path, num=2, mesh=options, name="stone", workers=1)
    assert made == ["brick", "stone"]
    with pytest.raises(ValueError, match=r"mass 0\.3 instead of 0\.5"):
        make_pools([tmp_path / "brick.stl"], out=tmp_path, num=2, mesh=MeshOptions(0.001, 0.5), workers=1)


def test_a_mesh_that_is_not_watertight_is_told(tmp_path: Path, made: list[str], capsys) -> None:
    mesh = trimesh.creation.cylinder(0.03, 0.15, sections=24)
    trimesh.Trimesh(mesh.vertices, mesh.faces[2:]).export(tmp_path / "torn.ply")
    make_pools([tmp_path / "torn.ply"], out=tmp_path, num=2, workers=1)
    assert "not watertight" in capsys.readouterr().out


def test_one_object_without_grasps_does_not_stop_the_others(tmp_path: Path, made: list[str]) -> None:
    for name in ("crate", "can"):
        trimesh.creation.box((0.05, 0.05, 0.2)).export(tmp_path / f"{name}.obj")
    with pytest.raises(ValueError, match="for 1 of 2 objects:\ncrate: no stable grasp"):
        make_pools([tmp_path / "crate.obj", tmp_path / "can.obj"], out=tmp_path, num=2, workers=1)
    assert made == ["crate", "can"]
    assert (tmp_path / "can.npz").exists() and not (tmp_path / "crate.npz").exists()


def test_wrong_mesh_files_and_names_are_refused_before_the_search(tmp_path: Path, made: list[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        trimesh.creation.box((0.05, 0.05, 0.2)).export(tmp_path / folder / "visual.obj")
    both = [tmp_path / folder / "visual.obj" for folder in ("a", "b")]
    trimesh.creation.box((50, 50, 200)).export(tmp_path / "mm.obj")
    (tmp_path / "text.obj").write_text("no mesh")
    for objects, options, reason in (
        (both, {}, "more than one object is called visual"),
        (both, {"name": "mug"}, "a name can be given to a single mesh file"),
        (["hammer"], {"name": "mug"}, "a name can be given to a single mesh file"),
        (["hammer"], {"mesh": MeshOptions(mass=1.0)}, "are for mesh files"),
        ([tmp_path / "mm.obj"], {}, "200 m, expected 0.01 to 2; `scale` converts to metres"),
        ([tmp_path / "text.obj"], {}, "text.obj"),
        (["mug.dae"], {}, r"mug\.dae is no mesh file, which end in \.obj"),
    ):
        with pytest.raises(ValueError, match=reason):
            make_pools(objects, out=tmp_path / "out", workers=1, **options)
    with pytest.raises(ValueError, match="1 to 512, got 513"):
        make_pools(["hammer"], out=tmp_path / "out", num=513, workers=1)
    with pytest.raises(FileNotFoundError, match="no mesh file at"):
        make_pools([tmp_path / "none.obj"], out=tmp_path / "out", workers=1)
    assert not made and not (tmp_path / "out").exists()


@pytest.mark.skipif(not YCB.is_dir(), reason="YCB meshes are not here")
def test_ycb_mesh_gets_a_pool_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(make, "_ROUND", 32)
    path = YCB / "004_sugar_box" / "visual.obj"
    make_pools([path], out=tmp_path, num=2, mesh=MeshOptions(mass=0.2), name="sugar", workers=1)
    assert len(read_pool(tmp_path / "sugar.npz")) == 2
    GraspInfo(tmp_path).run()
    assert "sugar" in capsys.readouterr().out


@pytest.mark.parametrize("name", object_names())
def test_shipped_pools(name: str) -> None:
    pool, obj = load_pool(name), load_object(name)
    assert len(pool) >= NUM_GRASPS and int(pool.holds_weight.sum()) >= 64
    assert pool.spacing > 0.03
    assert pool.metadata["volume"] == pytest.approx(obj.volume, rel=1e-6), "made for another shape: make it anew"
    assert is_stable(pool.released).all()
    assert pool.depth.max() < MAX_DEPTH and pool.approach.max() < MAX_APPROACH_DEPTH
    few = torch.arange(0, len(pool), len(pool) // 3)
    depth = grasp_depth(obj, pool.palm_pose[few], pool.joints[few])
    assert torch.allclose(depth, pool.depth[few], atol=1e-5)
    assert ((pool.joints >= JOINT_LOWER - 1e-5) & (pool.joints <= JOINT_UPPER + 1e-5)).all()
    assert (pool.palm_pose[:, 3:].norm(dim=-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("name", object_names()[::20])
def test_shipped_grasps_pass_the_physical_test_again(name: str) -> None:
    pool, obj = load_pool(name), load_object(name)
    few = torch.arange(0, len(pool), len(pool) // 4)
    for protocol, measured in ((RELEASED, pool.released), (GRAVITY, pool.gravity)):
        moved = displacements(obj, pool.palm_pose[few], pool.joints[few], protocol)
        assert torch.equal(is_stable(moved), is_stable(measured[few]))


def test_no_pool_without_an_object() -> None:
    assert {path.stem for path in FOLDER.glob("*.npz")} <= set(object_names())


def test_shipped_pools_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 5e6
