"""The giver's hand: skeleton, skin, shape, capsules and its MuJoCo bodies."""

import math

import mujoco
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.giver import (
    CHAINS,
    NUM_CAPSULES,
    GiverHand,
    add_giver,
    giver_mocap_ids,
    mirror_axis_angle,
    move_mano,
    set_giver_geoms,
)
from dexh2r_gym.objects import load_object
from dexh2r_gym.rotations import pose_apply, quat_from_axis_angle
from dexh2r_gym.scene import scene_model, scene_spec

SIDES = ("right", "left")


def random_mano(seed: int, count: int, bend: float = 0.4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mano = bend * torch.randn(count, 61, generator=g, dtype=torch.float64)
    mano[:, 51:] = 0
    return mano


def capsule_distance(hand: GiverHand, mano: torch.Tensor) -> torch.Tensor:
    """Signed distance (V,) of the skin to the union of the capsules, for one pose (61,)."""
    bone, p0, p1, radius = hand.capsules()
    bones = hand.bone_poses(mano)[bone]
    a, b = pose_apply(bones, p0), pose_apply(bones, p1)
    skin = hand.vertices(mano)[:, None]
    t = (((skin - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)).clamp(0, 1)
    return ((skin - a - t[..., None] * (b - a)).norm(dim=-1) - radius).amin(-1)


# --- skeleton and skin ---


@pytest.mark.parametrize("side", SIDES)
def test_flat_hand_is_the_template(side):
    hand = GiverHand(side)
    flat = torch.zeros(61, dtype=torch.float64)
    sign = -1.0 if side == "right" else 1.0
    torch.testing.assert_close(hand.vertices(flat), hand.rest_vertices)
    torch.testing.assert_close(hand.joints(flat), hand.rest_joints)
    assert hand.joints(flat)[0].norm() == 0  # wrist at the origin
    middle_tip = hand.tips(flat)[1]
    assert sign * middle_tip[0] == pytest.approx(0.19, abs=0.001)
    mesh = trimesh.Trimesh(hand.rest_vertices.numpy(), hand.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.volume == pytest.approx(3.04e-4, rel=0.01)  # positive: faces point outward


def test_weights_sum_to_one_and_float32_agrees_with_float64():
    hand = GiverHand()
    torch.testing.assert_close(hand.weights.sum(-1), torch.ones(len(hand.weights), dtype=torch.float64))
    mano = random_mano(0, 3)
    assert hand.vertices(mano.float()).dtype == torch.float32
    torch.testing.assert_close(hand.vertices(mano.float()).double(), hand.vertices(mano), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "sign"), [("right", 1.0), ("left", -1.0)])
def test_bending_the_index_by_a_right_angle(side, sign):
    """A finger bent 90 degrees at the knuckle points the way the palm faces (-y), at its full length."""
    hand = GiverHand(side)
    mano = torch.zeros(61, dtype=torch.float64)
    mano[6:9] = torch.tensor([0.0, 0.0, sign * math.pi / 2])
    knuckle, tip, rest_tip = hand.rest_joints[1], hand.tips(mano)[0], hand.rest_tips[0]
    along = (rest_tip - knuckle)[0].abs()
    torch.testing.assert_close(tip - knuckle, torch.stack((rest_tip[1] * 0, -along, (rest_tip - knuckle)[2])))
    others = hand.tips(mano)[1:]
    torch.testing.assert_close(others, hand.rest_tips[1:])
    moved = (hand.vertices(mano) - hand.rest_vertices).norm(dim=-1)
    assert moved[hand.weights[:, 1:4].sum(-1) == 0].max() < 1e-12 and moved.max() > 0.1


def test_middle_phalanges_turn_about_their_own_joint():
    hand = GiverHand()
    mano = torch.zeros(61, dtype=torch.float64)
    mano[9:12] = torch.tensor([0.0, 0.0, math.pi / 2])  # index2
    poses = hand.bone_poses(mano)
    torch.testing.assert_close(poses[:3, :3], hand.rest_joints[:3])  # joints up to it stay
    reach = hand.rest_joints[3] - hand.rest_joints[2]
    torch.testing.assert_close(poses[3, :3] - poses[2, :3], torch.stack((-reach[1], reach[0], reach[2])))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SIDES))
def test_moving_the_wrist_moves_the_whole_hand_rigidly(seed, side):
    hand = GiverHand(side)
    mano = random_mano(seed, 2)
    g = torch.Generator().manual_seed(seed + 1)
    turn = quat_from_axis_angle(torch.randn(2, 3, generator=g, dtype=torch.float64))
    pose = torch.cat((torch.randn(2, 3, generator=g, dtype=torch.float64), turn), dim=-1)
    moved = hand.vertices(move_mano(pose, mano))
    torch.testing.assert_close(moved, pose_apply(pose[:, None], hand.vertices(mano)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_left_is_the_mirror_image_of_right(seed):
    betas = torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mano = random_mano(seed, 2)
    image = mano.clone()
    image[:, 0] *= -1
    image[:, 3:51] = (mano[:, 3:51].unflatten(-1, (16, 3)) * mirror_axis_angle("left")).flatten(-2)
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    right, left = GiverHand("right", betas), GiverHand("left", betas)
    torch.testing.assert_close(left.vertices(image), flip * right.vertices(mano))
    torch.testing.assert_close(left.tips(image), flip * right.tips(mano))


def test_batches_of_any_shape_and_subsets():
    hand = GiverHand()
    mano = random_mano(4, 6).reshape(2, 3, 61)
    one = torch.stack([torch.stack([hand.vertices(m) for m in row]) for row in mano])
    torch.testing.assert_close(hand.vertices(mano), one)
    ids = torch.tensor([0, 7, 1610])
    torch.testing.assert_close(hand.vertices(mano, ids), one[..., ids, :])
    assert torch.equal(hand.bone_poses(mano)[1, 2], hand.bone_poses(mano[1, 2]))  # bits do not depend on the batch


# --- shape ---


def test_every_shape_number_does_what_the_table_says():
    def lengths(hand):
        out = (hand.rest_tips - hand.rest_joints[1::3]).norm(dim=-1)
        return dict(zip(CHAINS, out.tolist(), strict=True))

    def shaped(i, value):
        betas = [0.0] * 10
        betas[i] = value
        return GiverHand("right", betas)

    mean = GiverHand()
    torch.testing.assert_close(shaped(0, 1).rest_vertices, mean.rest_vertices * math.exp(0.06))
    expected = {1: ("index", "middle", "pinky", "ring"), 6: ("thumb",), 9: ("pinky",)}
    for i in range(1, 10):
        hand = shaped(i, 2.0)
        ratio = {c: lengths(hand)[c] / lengths(mean)[c] for c in CHAINS}
        longer = {c for c in CHAINS if ratio[c] > 1.0 + 1e-9}
        if i == 8:
            assert ratio["index"] == pytest.approx(math.exp(0.06)) and ratio["ring"] == pytest.approx(math.exp(-0.06))
        else:
            assert longer == set(expected.get(i, ())), i
            assert all(ratio[c] == pytest.approx(math.exp(0.10)) for c in longer)
    for i, axis in ((3, 2), (4, 0), (5, 1)):
        palm = mean.weights[:, 0] == 1.0
        ratio = shaped(i, 2.0).rest_vertices[palm] / mean.rest_vertices[palm]
        want = torch.ones(3, dtype=torch.float64)
        want[axis] = math.exp(0.10)
        torch.testing.assert_close(ratio.nanmedian(0).values, want)
    for i, chain in ((2, 1), (7, 4)):
        radius = shaped(i, 2.0).capsules()[3] / mean.capsules()[3]
        assert radius[5 + 3 * chain].item() == pytest.approx(math.exp(0.12), rel=5e-3) and radius[0] == 1.0


def test_from_mano_reads_the_shape():
    mano = random_mano(1, 5)
    mano[:, 51:] = torch.arange(10.0) / 5
    hand = GiverHand.from_mano(mano, "left")
    assert hand.side == "left" and torch.equal(hand.betas, mano[0, 51:])
    written = hand.mano(mano[:, :3], quat_from_axis_angle(mano[:, 3:6]), mano[:, 6:51])
    torch.testing.assert_close(written, mano)
    mano[2, 55] += 0.1
    with pytest.raises(ValueError, match="same in every frame"):
        GiverHand.from_mano(mano, "left")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GiverHand("both"), "valid: right, left"),
        (lambda: GiverHand("right", [0.0] * 9), r"10 shape numbers.*\(9,\)"),
        (lambda: GiverHand("right", [math.nan] + [0.0] * 9), "finite"),
        (lambda: GiverHand().vertices(torch.zeros(4, 51)), r"61\) MANO numbers.*\(4, 51\)"),
    ],
)
def test_errors_name_what_was_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- capsules and MuJoCo ---


@pytest.mark.parametrize("betas", [None, [2.0, -1, 1, 1, -1, 1, 1, -1, 1, -1]])
@pytest.mark.parametrize("side", SIDES)
def test_capsules_follow_the_skin(side, betas):
    hand = GiverHand(side, betas)
    flat = capsule_distance(hand, torch.zeros(61, dtype=torch.float64)).abs()
    assert flat.median() < 0.001 and flat.quantile(0.95) < 0.003 and flat.max() < 0.010
    fist = torch.zeros(61, dtype=torch.float64)
    fist[6:42].unflatten(-1, (12, 3))[:, 2] = 1.2 * mirror_axis_angle(side)[2]
    assert capsule_distance(hand, fist).abs().quantile(0.95) < 0.005


def compiled(hand: GiverHand | None, **options) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    add_giver(spec, hand, **options)
    ball = spec.worldbody.add_body(name="ball", mocap=False)
    ball.add_freejoint()
    ball.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], contype=1, conaffinity=6)
    return spec.compile()


def place(model: mujoco.MjModel, hand: GiverHand, mano: torch.Tensor) -> mujoco.MjData:
    data = mujoco.MjData(model)
    poses = hand.bone_poses(mano).numpy()
    ids = giver_mocap_ids(model)
    data.mocap_pos[ids], data.mocap_quat[ids] = poses[:, :3], poses[:, 3:]
    return data


def test_mujoco_bodies_are_the_bones_and_the_skin_is_the_skin():
    hand = GiverHand("left", [1.0] * 10)
    model = compiled(hand)
    mano = random_mano(3, 1)[0]
    data = place(model, hand, mano)
    mujoco.mj_forward(model, data)
    bodies = [model.body(f"giver_{i}").id for i in range(16)]
    np.testing.assert_allclose(data.xpos[bodies], hand.joints(mano).numpy(), atol=1e-12)
    # MuJoCo's own skinning, asked for through the abstract scene.
    scene, camera, option = mujoco.MjvScene(model, 100), mujoco.MjvCamera(), mujoco.MjvOption()
    mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    assert scene.nskin == 1
    np.testing.assert_allclose(scene.skinvert.reshape(-1, 3), hand.vertices(mano).numpy(), atol=1e-6)


def test_a_model_dressed_as_another_hand_collides_like_one_compiled_for_it():
    hand = GiverHand("left", [2.0, -2, 1, 2, -1, 1, 2, -1, 1, -2])
    dressed, built = compiled(None), compiled(hand)
    set_giver_geoms(dressed, hand)
    for name in ("geom_size", "geom_pos", "geom_quat", "geom_rbound", "geom_aabb", "skin_vert", "skin_face"):
        np.testing.assert_allclose(getattr(dressed, name), getattr(built, name), atol=1e-7, err_msg=name)
    mano = random_mano(5, 1, bend=0.2)[0]
    datas = [place(m, hand, mano) for m in (dressed, built)]
    g = np.random.default_rng(0)
    touching = 0
    for point in hand.vertices(mano)[::8].numpy() + 0.006 * g.normal(size=(202, 3)):
        found = []
        for model, data in zip((dressed, built), datas, strict=True):
            data.qpos[:3] = point
            mujoco.mj_forward(model, data)
            found.append(sorted((c.geom[0], c.geom[1], round(c.dist, 6)) for c in data.contact))
        assert found[0] == found[1]
        touching += bool(found[0])
    assert touching > 50


def test_giver_meets_the_robot_alone_and_has_a_fixed_layout():
    model = compiled(None, visuals=False)
    assert model.nskin == 0 and model.ngeom == NUM_CAPSULES + 1
    own = [i for i in range(model.ngeom) if model.geom(i).name.startswith("giver")]
    assert set(model.geom_contype[own]) == {4} and set(model.geom_conaffinity[own]) == {1}
    hand = GiverHand()
    data = place(model, hand, torch.zeros(61, dtype=torch.float64))
    data.qpos[:3] = [1, 0, 0]
    mujoco.mj_forward(model, data)
    assert data.ncon == 0  # overlapping capsules of the hand do not meet each other


def test_a_shared_scene_finds_the_contacts_of_one_compiled_for_its_giver():
    """MuJoCo looks for contacts by boxes about bodies: were they misplaced, contacts would be lost without a word."""
    obj, rng = load_object("banana"), np.random.default_rng(0)
    hand = GiverHand("left", rng.normal(size=10))
    shared, own = scene_model(obj, hand), scene_spec(obj, hand, visuals=False).compile()
    bones = hand.bone_poses(hand.mano(torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([1.0, 0, 0, 0]).double()))
    found = []
    for model in (shared, own):
        data, ids = mujoco.MjData(model), giver_mocap_ids(model)
        data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3], bones[:, 3:]
        palm, thing = (model.joint(name).qposadr[0] for name in ("rh_base", "object_free"))
        data.qpos[thing : thing + 3] = [0, 0, 5]
        depths = []
        for seed in range(40):
            place = np.random.default_rng(seed)
            data.qpos[palm : palm + 3] = bones[:, :3].mean(0).numpy() + place.normal(0, 0.06, 3)
            data.qpos[palm + 3 : palm + 7] = place.normal(size=4)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_collision(model, data)
            bodies = [[model.body(model.geom_bodyid[g]).name for g in pair] for pair in data.contact.geom]
            touched = [any(name.startswith("giver_") for name in pair) for pair in bodies]
            depths.append(np.sort(data.contact.dist[np.array(touched, dtype=bool)]))
        found.append(depths)
    assert sum(map(len, found[1])) > 200
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
