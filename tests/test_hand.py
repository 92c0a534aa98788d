"""The ShadowHand: three independent kinematics agree, the solid and its surface are one, the servos track."""

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from dexh2r_gym.hand import (
    BASE_LEAD_TIME,
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    LINK_CENTER,
    LINK_NAMES,
    LINK_RADIUS,
    OPEN_HAND,
    SURFACE_LINK,
    add_hand,
    forward_kinematics,
    hand_capsules,
    hand_shapes,
    surface_points,
    surface_points_from_links,
    surface_points_local,
)
from dexh2r_gym.rotations import pose_multiply, quat_to_matrix

DEGREE = np.pi / 180
# Shadow Robot's table, written down a second time: joint, parent, child, xyz, axis, range, turn (axis-angle, degrees).
FINGER: list[tuple] = [
    ("J3", "knuckle", "proximal", (0, 0, 0), (1, 0, 0), (-0.2618, 1.5708)),
    ("J2", "proximal", "middle", (0, 0, 0.045), (1, 0, 0), (0, 1.5708)),
    ("J1", "middle", "distal", (0, 0, 0.025), (1, 0, 0), (0, 1.5708)),
]
TABLE: list[tuple] = []
for f, base, where, about in [
    ("FF", "palm", (0.033, 0, 0.095), (0, -1, 0)),
    ("MF", "palm", (0.011, 0, 0.099), (0, -1, 0)),
    ("RF", "palm", (-0.011, 0, 0.095), (0, 1, 0)),
    ("LF", "lfmetacarpal", (0, 0, 0.06579), (0, 1, 0)),
]:
    if f == "LF":
        TABLE.append(
            ("LFJ5", "palm", "lfmetacarpal", (-0.033, 0, 0.02071), (0.573576, 0, 0.819152), (0, 0.7854), (0, 0, 0))
        )
    TABLE.append((f + "J4", base, f.lower() + "knuckle", where, about, (-0.3491, 0.3491), (0, 0, 0)))
    for joint, parent, child, place, ax, span in FINGER:
        TABLE.append((f + joint, f.lower() + parent, f.lower() + child, place, ax, span, (0, 0, 0)))
TABLE += [
    ("THJ5", "palm", "thbase", (0.034, -0.00858, 0.029), (0, 0, -1), (-1.0472, 1.0472), (0, 45, 0)),
    ("THJ4", "thbase", "thproximal", (0, 0, 0), (1, 0, 0), (0, 1.2217), (0, 0, 0)),
    ("THJ3", "thproximal", "thhub", (0, 0, 0.038), (1, 0, 0), (-0.2094, 0.2094), (0, 0, 0)),
    ("THJ2", "thhub", "thmiddle", (0, 0, 0), (0, -1, 0), (-0.6981, 0.6981), (0, 0, 0)),
    ("THJ1", "thmiddle", "thdistal", (0, 0, 0.032), (1, 0, 0), (-0.2618, 1.5708), (0, 0, -90)),
]


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, (3, 3)."""
    angle = np.linalg.norm(axis_angle)
    if angle == 0:
        return np.eye(3)
    x, y, z = axis_angle / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def table_kinematics(palm: np.ndarray, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Body name -> (4, 4), by matrices, from the table above."""
    frames = {"palm": palm}
    wrist = np.eye(4)
    wrist[2, 3] = -0.034
    frames["wrist"] = palm @ wrist
    for (_, parent, child, xyz, axis, _, turn), angle in zip(TABLE, joints, strict=True):
        local = np.eye(4)
        unit = np.array(axis, dtype=float) / np.linalg.norm(axis)
        local[:3, :3] = rotation(np.array(turn) * DEGREE) @ rotation(unit * angle)
        local[:3, 3] = xyz
        frames[child] = frames[parent] @ local
    return frames


def random_hands(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    pose = torch.randn(count, 7, generator=g, dtype=torch.float64)
    pose[:, 3:] /= pose[:, 3:].norm(dim=-1, keepdim=True)
    joints = JOINT_LOWER + (JOINT_UPPER - JOINT_LOWER) * torch.rand(count, 22, generator=g, dtype=torch.float64)
    return pose, joints


def matrices(poses: torch.Tensor) -> np.ndarray:
    out = np.tile(np.eye(4), (*poses.shape[:-1], 1, 1))
    out[..., :3, :3], out[..., :3, 3] = quat_to_matrix(poses[..., 3:]).numpy(), poses[..., :3].numpy()
    return out


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return hand_model()


def hand_model(**kwargs) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.option.timestep = 1 / 240
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    add_hand(spec, **{"visuals": False, **kwargs})
    return spec.compile()


# ---------------------------------------------------------------- kinematics


def test_joint_names_and_ranges_are_those_of_the_table(model):
    assert list(JOINT_NAMES) == [row[0] for row in TABLE]
    assert np.array_equal(np.stack([JOINT_LOWER, JOINT_UPPER], -1), np.array([row[5] for row in TABLE]))
    for name, *_, span, _ in TABLE:
        assert model.joint(name).range == pytest.approx(span, abs=1e-9)
        assert model.joint(name).limited
        assert model.actuator(name).ctrlrange == pytest.approx(span)
    assert len(LINK_NAMES) == len(set(LINK_NAMES)) == 18
    assert ((OPEN_HAND > JOINT_LOWER) | (OPEN_HAND == 0)).all() and (OPEN_HAND < JOINT_UPPER).all()


def test_table_torch_and_mujoco_agree(model):
    pose, joints = random_hands(40)
    ours = forward_kinematics(pose, joints)
    data = mujoco.MjData(model)
    for k in range(len(pose)):
        frames = table_kinematics(matrices(pose[k]), joints[k].numpy())
        expected = np.stack([frames[name.removeprefix("rh_")] for name in LINK_NAMES])
        np.testing.assert_allclose(matrices(ours[k]), expected, atol=1e-6)
        data.qpos[:7], data.qpos[7:] = pose[k], joints[k]
        mujoco.mj_kinematics(model, data)
        position = np.stack([data.body(name).xpos for name in LINK_NAMES])
        turn = np.stack([data.body(name).xmat.reshape(3, 3) for name in LINK_NAMES])
        np.testing.assert_allclose(position, expected[:, :3, 3], atol=1e-6)
        np.testing.assert_allclose(turn, expected[:, :3, :3], atol=1e-6)


def test_straight_fingers_end_where_the_table_says():
    """Hand-made: at zero angles the index finger's last joint is 0.095 + 0.045 + 0.025 above the palm."""
    identity = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    links = forward_kinematics(identity, torch.zeros(22, dtype=torch.float64))
    assert links[LINK_NAMES.index("rh_ffdistal"), :3].tolist() == pytest.approx([0.033, 0, 0.165])
    # middle finger flexed 90 degrees at J3 points to the palm's inner side, -y
    bent = torch.zeros(22, dtype=torch.float64)
    bent[JOINT_NAMES.index("MFJ3")] = torch.pi / 2
    links = forward_kinematics(identity, bent)
    assert links[LINK_NAMES.index("rh_mfdistal"), :3].tolist() == pytest.approx([0.011, -0.07, 0.099])
    # the thumb stands 45 degrees outwards, towards +x
    thumb = links[LINK_NAMES.index("rh_thmiddle"), :3] - links[LINK_NAMES.index("rh_thproximal"), :3]
    assert thumb.tolist() == pytest.approx([0.038 / 2**0.5, 0, 0.038 / 2**0.5])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_moving_the_palm_moves_every_link_with_it(seed):
    pose, joints = random_hands(2, seed)
    home = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    expected = pose_multiply(pose[:, None].expand(2, 18, 7), forward_kinematics(home, joints))
    torch.testing.assert_close(forward_kinematics(pose, joints), expected, atol=1e-12, rtol=0)


def test_gradient_is_right():
    pose, joints = random_hands(1)
    assert torch.autograd.gradcheck(forward_kinematics, (pose.requires_grad_(), joints.requires_grad_()))


def test_a_hand_does_not_depend_on_its_neighbours():
    pose, joints = (x.float() for x in random_hands(37))
    together = forward_kinematics(pose, joints)
    points = surface_points(pose, joints)[0]
    for k in (0, 17, 36):
        assert torch.equal(forward_kinematics(pose[k], joints[k]), together[k])
        assert torch.equal(surface_points(pose[k : k + 1], joints[k : k + 1])[0][0], points[k])


def test_leading_shapes_broadcast_and_wrong_ones_are_refused():
    pose, joints = random_hands(6)
    links = forward_kinematics(pose[:, None], joints[None, :])
    assert links.shape == (6, 6, 18, 7)
    assert torch.equal(links[2, 4], forward_kinematics(pose[2], joints[4]))
    with pytest.raises(ValueError, match=r"\(\.\.\., 22\)"):
        forward_kinematics(pose, joints[:, :21])


# ---------------------------------------------------------------- solid and surface


def distance_to_link(link: int, points: torch.Tensor) -> torch.Tensor:
    return torch.stack([s.signed_distance(points) for s in hand_shapes() if s.link == link]).amin(0)


def test_surface_points_lie_on_the_solid_with_normals_outwards():
    points, normals = (x.double() for x in surface_points_local())
    assert points.shape == normals.shape == (2304, 3)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(2304, dtype=torch.float64), atol=1e-6, rtol=0)
    for link in range(18):
        own = SURFACE_LINK == link
        assert own.sum() == 128
        p, n = points[own], normals[own]
        assert distance_to_link(link, p).abs().max() < 1e-6
        # a hair's breadth along the normal is outside, against it inside
        assert distance_to_link(link, p + 1e-5 * n).min() > 0.9e-5
        assert distance_to_link(link, p - 1e-5 * n).max() < 0


def test_surface_points_are_spread_evenly():
    points = surface_points_local()[0].unflatten(0, (18, 128))
    gaps = torch.cdist(points, points) + torch.eye(128)
    nearest = gaps.amin(-1)
    assert (nearest.amin(-1) > 0.4 * nearest.mean(-1)).all()


def test_surface_is_fixed_by_its_seed():
    first = surface_points_local()
    surface_points_local.cache_clear()
    torch.manual_seed(12345)
    again = surface_points_local()
    assert first is not again and torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_surface_moves_with_the_links():
    pose, joints = random_hands(3)
    links = forward_kinematics(pose, joints)
    points, normals = surface_points(pose, joints)
    frames = matrices(links)[:, SURFACE_LINK]  # (3, 2304, 4, 4)
    local, local_normals = (x.double().numpy() for x in surface_points_local())
    expected = np.einsum("bnij,nj->bni", frames[..., :3, :3], local) + frames[..., :3, 3]
    np.testing.assert_allclose(points, expected, atol=1e-9)
    np.testing.assert_allclose(normals, np.einsum("bnij,nj->bni", frames[..., :3, :3], local_normals), atol=1e-9)
    assert torch.equal(surface_points_from_links(links)[0], points)


def test_bounding_spheres_hold_the_surface():
    points = surface_points_local()[0].double()
    assert ((points - LINK_CENTER[SURFACE_LINK]).norm(dim=-1) <= LINK_RADIUS[SURFACE_LINK] + 1e-6).all()
    assert LINK_RADIUS.max() < 0.08


def test_mujoco_has_the_same_solid(model):
    """Distance from points to MuJoCo's own geoms equals the table's, so contact and depth speak of one solid."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    shapes = hand_shapes()
    assert model.ngeom == len(shapes)
    for index, shape in enumerate(shapes):
        geom = next(g for g in range(model.ngeom) if model.geom(g).name.endswith(f"_{index}"))
        assert model.body(model.geom_bodyid[geom]).name == LINK_NAMES[shape.link]
        assert (model.geom_contype[geom] & 7, model.geom_conaffinity[geom] & 7) == (1, 6)
        points = LINK_CENTER[shape.link] + 0.03 * torch.randn(
            50, 3, generator=torch.Generator().manual_seed(index), dtype=torch.float64
        )
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
        local = (points.numpy() - model.geom_pos[geom]) @ turn.reshape(3, 3)
        size = model.geom_size[geom]
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
            local[:, 2] -= np.clip(local[:, 2], -size[1], size[1])
            expected = np.linalg.norm(local, axis=-1) - size[0]
        else:
            q = np.abs(local) - size
            expected = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)
        np.testing.assert_allclose(shape.signed_distance(points), expected, atol=1e-9)


def test_capsules_lie_in_the_solid_and_fill_it():
    link, p0, p1, radius = hand_capsules()
    assert (radius > 0).all()
    along = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    for k in range(len(link)):
        inside = -distance_to_link(int(link[k]), p0[k] + along * (p1[k] - p0[k]))
        assert (inside >= radius[k] - 1e-6).all()
    points = surface_points_local()[0].double()
    axis = p1 - p0
    offset = points[:, None] - p0
    t = ((offset * axis).sum(-1) / (axis * axis).sum(-1).clamp_min(1e-12)).clamp(0, 1)
    gap = (offset - t[..., None] * axis).norm(dim=-1) - radius
    gap = gap.masked_fill(SURFACE_LINK[:, None] != link, torch.inf).amin(-1)
    assert gap.max() < 0.008 and gap.mean() < 0.0015  # corners of boxes are cut off


# ---------------------------------------------------------------- MuJoCo model


@pytest.mark.parametrize("joints", [OPEN_HAND, torch.zeros(22)], ids=["open", "zero"])
def test_free_hand_touches_nothing_and_holds_still(model, joints):
    data = mujoco.MjData(model)
    data.qpos[7:] = joints
    for name, angle in zip(JOINT_NAMES, joints, strict=True):
        data.actuator(name).ctrl = angle
    for _ in range(240):
        mujoco.mj_step(model, data)
        assert data.ncon == 0
    assert np.abs(data.qpos[:3]).max() < 1e-4  # gravity compensated
    assert np.abs(data.qpos[7:] - joints.numpy()).max() < 1e-3


def test_thumb_and_fingers_meet(model):
    """Thumb and fingers closed into each other's way: they collide, and no other parts of the hand do."""
    data = mujoco.MjData(model)
    angles = dict.fromkeys(JOINT_NAMES, 0.0) | {"THJ5": 1.04, "THJ4": 1.2, "THJ1": 0.8}
    angles |= {f"{f}J{i}": 1.2 for f in ("FF", "MF", "RF", "LF") for i in (1, 2, 3)}
    deepest, pairs = 0.0, set()
    for step in range(240):
        for name, angle in angles.items():
            data.actuator(name).ctrl = angle * min(1, step / 120)
        mujoco.mj_step(model, data)
        for contact in data.contact:
            deepest = min(deepest, contact.dist)
            pairs.add(tuple(sorted(model.geom(g).name[3:5] for g in contact.geom)))
    assert pairs and all("th" in pair and len(set(pair)) == 2 for pair in pairs)
    assert deepest > -0.004


@pytest.mark.parametrize("rate", [240, 200])
def test_servo_tracks_a_smooth_motion(rate):
    """0.6 m/s and 1 rad/s, accelerating all the time: within 3 mm and 0.02 rad, with the target leading."""
    model = hand_model()
    model.opt.timestep = dt = 1 / rate
    data = mujoco.MjData(model)
    mocap = model.body("rh_target").mocapid[0]
    axis, period = np.array([1, 2, -1]) / 6**0.5, 3.0

    def target(t):
        s = (1 - np.cos(2 * np.pi * t / period)) * period / (2 * np.pi)  # speed is sin(2 pi t / period)
        return np.array([0.6 * s, 0, 1.0]), np.array([np.cos(s / 2), *(np.sin(s / 2) * axis)])

    data.qpos[:3], data.qpos[3:7] = target(0)
    errors = []
    for step in range(int(period * rate)):
        data.mocap_pos[mocap], data.mocap_quat[mocap] = target(step * dt + BASE_LEAD_TIME)
        mujoco.mj_step(model, data)
        position, quat = target((step + 1) * dt)
        turn = np.zeros(3)
        mujoco.mju_subQuat(turn, data.qpos[3:7], quat)
        errors.append((np.linalg.norm(data.qpos[:3] - position), np.linalg.norm(turn)))
    assert (np.max(errors, axis=0) < (0.003, 0.02)).all()


def test_servo_is_finite_and_recovers():
    """Driven 8 cm into a fixed block it presses with no more than its limit, and comes back when called."""
    spec = mujoco.MjSpec()
    spec.option.timestep = 1 / 240
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    add_hand(spec, visuals=False)
    spec.worldbody.add_geom(
        name="block", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.2, 0.1, 0.3], pos=[0, -0.16, 0], contype=4, conaffinity=1
    )
    model = spec.compile()
    data = mujoco.MjData(model)
    for target, steps in ((-0.08, 240), (0.05, 240)):
        start = data.mocap_pos[0, 1]
        for i in range(steps):
            data.mocap_pos[0] = [0, start + (target - start) * min(1, 2 * i / steps), 0]
            mujoco.mj_step(model, data)
            force = np.zeros(6)
            total = np.zeros(3)
            for c in range(data.ncon):
                mujoco.mj_contactForce(model, data, c, force)
                total += data.contact[c].frame.reshape(3, 3).T @ force[:3]
        if target < 0:
            assert 20 < np.linalg.norm(total) < 1.1 * 150 * 3**0.5
            assert data.qpos[1] > -0.06  # stopped by the block
    assert np.abs(data.qpos[:3] - [0, 0.05, 0]).max() < 1e-3
    assert np.abs(data.qvel).max() < 0.1


def test_a_target_turned_round_at_once_is_reached_calmly(model):
    data = mujoco.MjData(model)
    data.mocap_quat[0] = [0, 0.6, 0, 0.8]
    for _ in range(240):
        mujoco.mj_step(model, data)
    turn = np.zeros(3)
    mujoco.mju_subQuat(turn, data.qpos[3:7], data.mocap_quat[0])
    assert np.linalg.norm(turn) < 1e-3 and np.abs(data.qvel).max() < 1e-2


def test_fixed_base_prefix_and_meshes():
    model = hand_model(fixed_base=True, prefix="robot_", visuals=True)
    assert (model.nq, model.nv, model.nu, model.nmocap) == (22, 22, 22, 0)
    assert all(model.actuator("robot_" + name) and model.joint("robot_" + name) for name in JOINT_NAMES)
    seen = model.geom_group == 2
    assert (model.geom_contype[seen] == 0).all() and (model.geom_conaffinity[seen] == 0).all()
    assert (model.geom_group[~seen] == 3).all() and (~seen).sum() == len(hand_shapes())
    assert (model.geom_type[seen] == mujoco.mjtGeom.mjGEOM_MESH).all() and seen.sum() == 22
    bare = hand_model(fixed_base=True)
    np.testing.assert_allclose(model.body_mass, bare.body_mass)


def test_meshes_and_solid_coincide():
    """The picture is the solid: what the meshes show lies within millimetres of the shapes, in any part of the hand."""
    model = hand_model(visuals=True)
    data = mujoco.MjData(model)
    data.qpos[7:] = OPEN_HAND
    mujoco.mj_kinematics(model, data)
    vertices = []
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        turn, place = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
        vertices.append(model.mesh_vert[start : start + count] @ turn.T + place)
    points = np.concatenate(vertices)
    outside = np.full(len(points), np.inf)
    for shape in hand_shapes():
        body = data.body(LINK_NAMES[shape.link])
        local = torch.from_numpy((points - body.xpos) @ body.xmat.reshape(3, 3))
        outside = np.minimum(outside, shape.signed_distance(local).numpy())
    assert np.quantile(outside, 0.95) < 0.0025
    assert outside.max() < 0.01
    # and nothing of the solid stands far off: every surface point has a mesh vertex near by
    surface = surface_points(torch.tensor([0.0, 0, 0, 1, 0, 0, 0]).double(), OPEN_HAND)[0].numpy()
    off = cKDTree(points).query(surface)[0]
    assert np.quantile(off, 0.95) < 0.008
