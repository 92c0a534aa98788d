"""Which goal grasps are stable, clear of the giver's hand and the nearest, and what is chosen where none is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import product

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dexh2r_gym.alignment import nearest_goal
from dexh2r_gym.giver import GiverHand, add_giver
from dexh2r_gym.giver.hulls import bone_hulls
from dexh2r_gym.giver.model import giver_mocap_ids
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.grasps.clearance import MARGIN, GiverClearance
from dexh2r_gym.grasps.collision import box_hull_distance, segment_box_distance
from dexh2r_gym.grasps.filters import Fallback, GoalFilter, choose_goal, nearest_goal_released
from dexh2r_gym.grasps.giver_box import GiverBox
from dexh2r_gym.grasps.solids import capsule_bones, giver_solid
from dexh2r_gym.grasps.stability import STABLE_DISTANCE
from dexh2r_gym.hand import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, OPEN_HAND, add_hand, surface_points
from dexh2r_gym.rotations import pose_apply, pose_multiply, quat_angle, quat_from_axis_angle, quat_normalize
from tests.mano_files import write_mano_file

IDENTITY = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)


def poses(rng: np.random.Generator, *shape: int, spread: float = 0.05) -> torch.Tensor:
    position = torch.from_numpy(rng.normal(scale=spread, size=(*shape, 3)))
    return torch.cat((position, quat_normalize(torch.from_numpy(rng.normal(size=(*shape, 4))))), dim=-1)


def some_joints(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return JOINT_LOWER + (JOINT_UPPER - JOINT_LOWER) * torch.from_numpy(rng.uniform(size=(*shape, 22)))


def some_bones(rng: np.random.Generator, giver: GiverHand, spread: float = 0.1) -> torch.Tensor:
    """A bent hand somewhere around the origin, (16, 7)."""
    wrist = poses(rng, spread=spread)
    return giver.bone_poses(giver.mano(wrist[:3], wrist[3:], torch.from_numpy(rng.normal(scale=0.3, size=45))))


@pytest.fixture(scope="module")
def mano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GiverHand]:
    """A hand of (made-up) MANO, which collides as convex hulls."""
    folder = tmp_path_factory.mktemp("mano")
    write_mano_file(folder, "left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEXH2R_MANO", os.fspath(folder))
        yield GiverHand("left", model="mano")


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize(
    ("segment", "half", "distance"),
    [
        ([[2, 0, 0], [5, 0, 0]], [1, 1, 1], 1.0),  # off a face, end on
        ([[-3, 0, 2], [3, 0, 2]], [1, 1, 1], 1.0),  # past a face, ends outside of it
        ([[4, 5, 0], [4, 5, 9]], [1, 1, 10], 5.0),  # along an edge
        ([[2, 2, 2], [3, 4, 5]], [1, 1, 1], math.sqrt(3)),  # off a corner
        ([[-2, 0, 0], [2, 0.5, 0]], [1, 1, 1], 0.0),  # through
        ([[0.1, 0, 0], [0.2, 0, 0.3]], [1, 1, 1], 0.0),  # inside
        ([[3, 0, 0], [0, 3, 0]], [1, 1, 1], math.sqrt(0.5)),  # across an edge: its middle is nearest
        ([[1, 2, -1], [1, 2, 1]], [0, 0, 3], math.sqrt(5)),  # the box is a segment, parallel
        ([[0, 3, 4], [0, 3, 4]], [0, 0, 0], 5.0),  # two points
    ],
)
def test_segment_box_distance_of_known_cases(segment: list[list[float]], half: list[float], distance: float) -> None:
    for signs in product((1.0, -1.0), repeat=3):
        ends = torch.tensor(segment, dtype=torch.float64) * torch.tensor(signs, dtype=torch.float64)
        for p0, p1 in (ends, ends.flip(0)):
            box = torch.tensor(half, dtype=torch.float64)
            found = segment_box_distance(p0[:, None], p1[:, None], box[:, None])
            assert found.tolist() == pytest.approx([distance], abs=1e-12)
            hull = box_hull_distance(box[None], torch.stack((p0, p1))[None])
            assert hull.tolist() == pytest.approx([distance], abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-3, 1.0]))
def test_segment_box_distance_against_sampling(seed: int, flat: float) -> None:
    """Random segments and boxes, with edges of 0 or nearly so."""
    rng = np.random.default_rng(seed)
    p0, p1 = (torch.from_numpy(rng.normal(size=(3, 20))) for _ in range(2))
    half = torch.from_numpy(rng.uniform(size=(3, 20)) * rng.choice([flat, 1.0], size=(3, 1)))
    x = p0 + torch.linspace(0, 1, 801, dtype=torch.float64)[:, None, None] * (p1 - p0)
    sampled = (x - torch.minimum(torch.maximum(x, -half), half)).norm(dim=1).amin(0)
    exact = segment_box_distance(p0, p1, half)
    assert (exact <= sampled + 1e-12).all()
    assert (sampled <= exact + (p1 - p0).norm(dim=0) / 1600 + 1e-12).all()
    assert torch.allclose(segment_box_distance(p0.float(), p1.float(), half.float()).double(), exact, atol=1e-5)
    hull = box_hull_distance(half.T, torch.stack((p0.T, p1.T), dim=1))
    assert torch.allclose(hull, exact, atol=2e-5)


def test_box_hull_distance_of_two_cubes() -> None:
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    shifts = torch.tensor([[5.0, 0, 0], [5, 6, 0], [4, 4, 4], [1.5, 1, 0], [0, 0, 0], [2.5, 0.3, 1.9]]).double()
    half = torch.full((6, 3), 0.5, dtype=torch.float64)
    expected = (shifts.abs() - 1.5).clamp_min(0).norm(dim=-1)
    assert torch.allclose(box_hull_distance(half, shifts[:, None] + corners), expected, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31))
def test_box_hull_distance_against_a_general_solver(seed: int) -> None:
    """The least distance over convex combinations of the vertices, by SciPy; near and far change none between."""
    rng = np.random.default_rng(seed)
    vertices = torch.from_numpy(rng.normal(size=(5, 15, 3)) * 0.4 + rng.normal(size=(5, 1, 3)) * 1.2)
    half = torch.from_numpy(rng.uniform(size=(5, 3)) * 0.6)
    found = box_hull_distance(half, vertices)
    for points, edge, distance in zip(vertices.numpy(), half.numpy(), found.tolist(), strict=True):

        def squared(weights: np.ndarray, points: np.ndarray = points, edge: np.ndarray = edge) -> float:
            x = weights @ points
            return float(np.square(x - np.clip(x, -edge, edge)).sum())

        sums = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
        start, options = np.full(15, 1 / 15), {"ftol": 1e-14, "maxiter": 500}
        best = minimize(squared, start, bounds=[(0, 1)] * 15, constraints=sums, method="SLSQP", options=options)
        assert distance == pytest.approx(math.sqrt(max(best.fun, 0.0)), abs=1e-4)
    assert torch.allclose(box_hull_distance(half, vertices, found - 0.1, found + 0.1), found, atol=2e-5)
    assert (box_hull_distance(half, vertices, found + 0.1, found + 0.2) < found + 0.1).all()
    apart = found > 0.1
    assert (box_hull_distance(half, vertices, found - 0.2, found - 0.1)[apart] > (found - 0.1)[apart]).all()


def test_hulls_lie_in_their_outer_capsules_and_hold_their_inner_ones(mano: GiverHand) -> None:
    solid, rng = giver_solid(mano), np.random.default_rng(0)
    assert solid.vertices is not None
    for bone, hull in enumerate(bone_hulls(mano)):
        own = capsule_bones() == bone
        p0, p1 = solid.ends[:, own]
        inside = torch.from_numpy(rng.dirichlet(np.full(len(hull.vertices), 0.2), size=2000)) @ hull.vertices
        along = p1 - p0
        t = (((inside[:, None] - p0) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
        apart = (inside[:, None] - p0 - t[..., None] * along).norm(dim=-1)
        assert (apart <= solid.radii[2, own] + 1e-9).any(-1).all()
        normal = torch.from_numpy(hull.face_normals.copy())
        offset = (normal * torch.from_numpy(hull.triangles[:, 0].copy())).sum(-1)
        for ball, place in ((0, (0.5,)), (1, (0.0, 0.3, 1.0))):
            for c in own.nonzero()[:, 0].tolist():
                for s in place:
                    center = solid.ends[0, c] + s * (solid.ends[1, c] - solid.ends[0, c])
                    assert solid.radii[ball, c] < 0 or ((normal @ center) + solid.radii[ball, c] <= offset + 1e-9).all()


# ---------------------------------------------------------------- collision with the giver


def all_free(judge: GiverClearance | GiverBox, *frame: torch.Tensor) -> torch.Tensor:
    """Which of all grasps are free in this frame, (W, G) bool."""
    judge.see(*frame)
    return judge.free(torch.ones_like(judge._free))


def mujoco_gaps(palm: torch.Tensor, joints: torch.Tensor, giver: GiverHand, bones: torch.Tensor) -> torch.Tensor:
    """Least distance of the hands' geoms in MuJoCo, (G,) metres; negative where they meet."""
    spec = mujoco.MjSpec()
    add_hand(spec, visuals=False)
    add_giver(spec, giver, visuals=False)
    model = spec.compile()
    data = mujoco.MjData(model)
    kinds = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, b).startswith("giver_") for b in model.geom_bodyid]
    theirs, ours = np.flatnonzero(kinds), np.flatnonzero(~np.array(kinds))
    ids = giver_mocap_ids(model)
    data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3], bones[:, 3:]
    gaps = []
    for pose, angles in zip(palm.numpy(), joints.numpy(), strict=True):
        data.qpos[:7] = pose
        for name, angle in zip(JOINT_NAMES, angles, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        gaps.append(min(mujoco.mj_geomDistance(model, data, a, b, 0.05, None) for a in ours for b in theirs))
    return torch.tensor(gaps, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["open", "mano"])
def test_free_is_what_mujoco_measures(kind: str, mano: GiverHand) -> None:
    rng = np.random.default_rng(1)
    giver = mano if kind == "mano" else GiverHand("right", rng.normal(size=10))
    bones = some_bones(rng, giver, spread=0.02)
    palm, joints = poses(rng, 40, spread=0.1), some_joints(rng, 40)
    gaps = mujoco_gaps(palm, joints, giver, bones)
    free = all_free(GiverClearance(palm[None], joints[None], [giver]), bones[None])[0]
    sure = (gaps - MARGIN).abs() > 1e-4
    assert 8 < int(free.sum()) < 32 and sure.sum() > 35
    assert torch.equal(free[sure], gaps[sure] > MARGIN)
    for i in (gaps - 0.01).abs().argsort()[:3].tolist():  # the threshold stands where the gap is
        for margin, expected in ((float(gaps[i]) - 1e-4, True), (float(gaps[i]) + 1e-4, False)):
            one = GiverClearance(palm[None, i : i + 1], joints[None, i : i + 1], [giver], margin=margin)
            assert bool(all_free(one, bones[None])) == expected


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-5, 1e-3, 0.02]), st.booleans())
def test_answers_do_not_depend_on_earlier_frames_or_on_neighbours(
    mano: GiverHand, seed: int, speed: float, convex: bool
) -> None:
    """A giver that moves and bends as it likes: every frame is judged as if it were the first and its world alone."""
    rng = np.random.default_rng(seed)
    givers = [mano if convex else GiverHand("left"), GiverHand("right", rng.normal(size=10))]
    palm, joints = poses(rng, 2, 25, spread=0.08), some_joints(rng, 2, 25)
    bones = torch.stack([some_bones(rng, giver, spread=0.03) for giver in givers])
    together = GiverClearance(palm, joints, givers)
    for _ in range(6):
        free = all_free(together, bones)
        for w in (0, 1):
            alone = GiverClearance(palm[w : w + 1], joints[w : w + 1], givers[w : w + 1])
            assert torch.equal(free[w], all_free(alone, bones[w : w + 1])[0])
        turn = quat_from_axis_angle(torch.from_numpy(rng.normal(scale=10 * speed, size=(2, 16, 3))))
        shift = torch.from_numpy(rng.normal(scale=speed, size=(2, 1, 3))).expand(2, 16, 3)
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], size=(2, 16, 1)))  # the same rotation
        bones = pose_multiply(bones, torch.cat((shift, sign * turn), dim=-1))


def test_replaced_worlds_are_judged_anew() -> None:
    rng = np.random.default_rng(3)
    givers = [GiverHand("right"), GiverHand("left")]
    palm, joints = poses(rng, 2, 30, spread=0.1), some_joints(rng, 2, 30)
    bones = torch.stack([some_bones(rng, giver, spread=0.02) for giver in givers])
    clearance, box = GiverClearance(palm, joints, givers), GiverBox(palm, joints, givers)
    world = poses(rng, 2)
    before, boxed = all_free(clearance, bones), all_free(box, bones, world)
    for one in (clearance, box):
        one.replace(torch.tensor([1]), palm[:1], joints[:1], [givers[0]])
    bones = bones[[0, 0]]
    assert torch.equal(all_free(clearance, bones), before[[0, 0]])
    assert torch.equal(all_free(box, bones, world[[0, 0]]), boxed[[0, 0]])


def test_clearance_ranks_by_how_far_the_giver_is() -> None:
    giver = GiverHand()
    palm = IDENTITY.repeat(1, 5, 1)
    palm[0, :, 1] = torch.tensor([0.02, 0.3, 0.05, 0.1, 0.0])
    wrist = giver.mano(torch.tensor([0.0, -0.02, 0.1], dtype=torch.float64), IDENTITY[3:])
    bones = giver.bone_poses(wrist)[None]
    judge = GiverClearance(palm, OPEN_HAND.expand(1, 5, 22), [giver])
    judge.see(bones)
    clearance = judge.clearance(torch.tensor([0]))
    assert clearance[0].argsort(descending=True).tolist() == [1, 3, 2, 0, 4]
    assert clearance[0, 1] > 0.2 and clearance[0, 4] < 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-4, 0.01, 0.5]))
def test_the_box_is_the_released_codes_whatever_was_before(seed: int, speed: float) -> None:
    rng = np.random.default_rng(seed)
    giver = GiverHand("right", rng.normal(size=10))
    palm, joints, world = poses(rng, 1, 20, spread=0.15), some_joints(rng, 1, 20), poses(rng, 1, spread=0.5)
    bones = some_bones(rng, giver, spread=0.05)[None]
    box = GiverBox(palm, joints, [giver])
    for _ in range(4):
        skin = pose_apply(world, giver.skin(bones[0]))
        points = pose_apply(world, surface_points(palm[0], joints[0]).points)
        beside = torch.maximum(skin.amin(0) - points, points - skin.amax(0)).amax(-1).amin(-1)  # (20,)
        sure = beside.abs() > 1e-5
        assert torch.equal(all_free(box, bones, world)[0][sure], (beside > 0)[sure])
        turn = quat_from_axis_angle(torch.from_numpy(rng.normal(scale=speed, size=(1, 3))))
        world = pose_multiply(world, torch.cat((torch.from_numpy(rng.normal(scale=speed, size=(1, 3))), turn), dim=-1))
        bones = pose_multiply(bones, torch.cat((torch.full((3,), speed / 5, dtype=torch.float64), IDENTITY[3:])))


# ---------------------------------------------------------------- nearness and choice


def turned(angle: float) -> torch.Tensor:
    return quat_from_axis_angle(torch.tensor([0.0, 0.0, angle], dtype=torch.float64))


def test_the_released_nearest_is_the_least_turned_of_the_forty_nearest_by_translation() -> None:
    goals = IDENTITY.repeat(1, 42, 1)
    goals[0, :, 0] = 0.01 * torch.arange(1, 43)
    goals[0, :, 3:] = turned(1.0)
    goals[0, 17, 3:] = -turned(-0.3)  # the same rotation as turned(-0.3)
    goals[0, 39, 3:] = turned(0.2)  # the 40th
    goals[0, 40, 3:] = turned(0.1)  # the 41st does not count
    free = torch.ones(1, 42, dtype=torch.bool)
    index, d = nearest_goal_released(IDENTITY[None], goals, free)
    assert index.tolist() == [39] and d.tolist() == pytest.approx([0.4])
    free[0, 0] = False  # now the 41st is the 40th
    assert nearest_goal_released(IDENTITY[None], goals, free)[0].tolist() == [40]
    free[0, 39:] = False
    assert nearest_goal_released(IDENTITY[None], goals, free)[0].tolist() == [17]
    index, d = nearest_goal_released(IDENTITY[None], goals, torch.zeros(1, 42, dtype=torch.bool))
    assert 0 <= int(index) < 42 and d.tolist() == [math.inf]
    few = nearest_goal_released(IDENTITY[None], goals[:, :3], torch.ones(1, 3, dtype=torch.bool))
    assert few[0].tolist() == [0]


def test_the_two_readings_differ() -> None:
    goals = IDENTITY.repeat(1, 2, 1)
    goals[0, 0, :3] = torch.tensor([0.02, 0.0, 0.0])
    goals[0, 0, 3:], goals[0, 1, 0] = turned(0.1), 0.5
    free = torch.ones(1, 2, dtype=torch.bool)
    assert nearest_goal(IDENTITY[None], goals, free)[0].tolist() == [0]
    assert nearest_goal_released(IDENTITY[None], goals, free)[0].tolist() == [1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 90), st.floats(0.05, 1.0))
def test_the_released_nearest_one_world_at_a_time(seed: int, count: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    hand, goals = poses(rng, 5), poses(rng, 5, count)
    free = torch.from_numpy(rng.uniform(size=(5, count)) < part)
    index, d = nearest_goal_released(hand, goals, free)
    for w in range(5):
        usable = free[w].nonzero()[:, 0].tolist()
        if not usable:
            assert d[w] == math.inf
            continue
        usable.sort(key=lambda g: float((goals[w, g, :3] - hand[w, :3]).norm()))
        best = min(usable[:40], key=lambda g: float(quat_angle(goals[w, g, 3:], hand[w, 3:])))
        assert int(index[w]) == best
        assert float(d[w]) == pytest.approx(float((goals[w, best, :3] - hand[w, :3]).norm()))


def test_what_is_chosen_and_what_is_wrong_with_it() -> None:
    goals = IDENTITY.repeat(5, 3, 1)
    goals[:, :, 0] = torch.tensor([0.1, 0.2, 0.3])
    held, slips, lost = 0.01, 0.05, math.inf
    displacement = torch.tensor(
        [[slips, held, held], [held, lost, slips], [held, held, slips], [slips, lost, lost], [lost, lost, lost]]
    )
    free = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    clearance = torch.tensor([[0.0, 0, 0], [0, 0, 0], [-0.02, -0.01, 0.002], [-0.01, -0.03, -0.02], [0, 0, 0]])
    choice = choose_goal(IDENTITY.repeat(5, 1), goals, free, displacement, clearance)
    assert choice.index.tolist() == [1, 2, 1, 0, 1]
    assert choice.d.tolist() == pytest.approx([0.2, 0.3, 0.2, 0.1, 0.2])
    expected = [Fallback.NONE, Fallback.NO_STABLE, Fallback.NO_FREE, Fallback.NEITHER, Fallback.NO_STABLE]
    assert choice.fallback.tolist() == expected
    exists = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    choice = choose_goal(IDENTITY.repeat(5, 1), goals, free, displacement, clearance, exists=exists)
    assert choice.index.tolist() == [2, 1, 0, 2, 2]
    assert choice.fallback.tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([nearest_goal, nearest_goal_released]))
def test_every_choice_exists_and_none_is_better(seed: int, count: int, nearest) -> None:
    rng = np.random.default_rng(seed)
    hand, goals = poses(rng, 4), poses(rng, 4, count)
    free, exists = (torch.from_numpy(rng.uniform(size=(4, count)) < part) for part in rng.uniform(size=2) ** 2)
    exists[:, int(rng.integers(count))] = True
    displacement = torch.from_numpy(rng.choice([0.0, 0.019, 0.021, math.inf], size=(4, count)))
    clearance = torch.from_numpy(rng.normal(size=(4, count)))
    choice = choose_goal(hand, goals, free, displacement, clearance, exists=exists, nearest=nearest)
    assert choice.d.isfinite().all()
    for w, (index, fallback) in enumerate(zip(choice.index.tolist(), choice.fallback.tolist(), strict=True)):
        stable, usable = displacement[w] < STABLE_DISTANCE, free[w] & exists[w]
        assert exists[w, index]
        if fallback == Fallback.NONE:
            assert usable[index] and stable[index]
            assert index == int(nearest(hand[w : w + 1], goals[w : w + 1], (usable & stable)[None])[0])
        elif fallback == Fallback.NO_STABLE:
            assert usable[index] and not (usable & stable).any()
            assert displacement[w, index] == displacement[w][usable].min()
        else:
            among = exists[w] & stable if fallback == Fallback.NO_FREE else exists[w]
            assert not usable.any() and (exists[w] & stable).any() == (fallback == Fallback.NO_FREE)
            assert clearance[w, index] == clearance[w][among].max()


# ---------------------------------------------------------------- all together


def world_of(name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, GiverHand, torch.Tensor]:
    """Goals of an object, 16 of them, and a giver beside it: poses, joints, displacement, the hand and its bones."""
    pool, rng = load_pool(name), np.random.default_rng(seed)
    giver = GiverHand("right" if seed % 2 else "left")
    rows = slice(0, 16)
    return (
        pool.palm_pose[rows].double(),
        pool.joints[rows].double(),
        pool.gravity[rows].amax(-1),
        giver,
        some_bones(rng, giver, spread=0.2),
    )


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("shape", ["solid", "box"])
def test_a_filter_chooses_the_nearest_stable_and_free_goal_of_every_world(shape: str, reading: str) -> None:
    worlds = [world_of(name, seed) for seed, name in enumerate(("aerosol_can", "hammer", "banana"))]
    palm, joints, displacement, bones = (torch.stack([w[i] for w in worlds]) for i in (0, 1, 2, 4))
    givers = [w[3] for w in worlds]
    exists = torch.ones(3, 16, dtype=torch.bool)
    exists[1, 9:], palm[1, 9:], joints[1, 9:] = False, torch.nan, torch.nan  # padding is not read
    filter_ = GoalFilter(palm, joints, displacement, givers, exists=exists, shape=shape, reading=reading)
    hand, world = poses(np.random.default_rng(0), 3), poses(np.random.default_rng(1), 3)
    choice, free = filter_.choose(hand, bones, world), filter_.free(bones, world)
    for w, goals in ((0, 16), (1, 9), (2, 16)):
        if shape == "solid":
            gaps = mujoco_gaps(palm[w, :goals], joints[w, :goals], givers[w], bones[w])
            assert torch.equal(free[w, :goals], gaps > MARGIN)
        assert not free[w, goals:].any()
        good = free[w, :goals] & (displacement[w, :goals] < STABLE_DISTANCE)
        assert good.any(), "of a scene with a goal in every world"
        nearest = nearest_goal if reading == "paper" else nearest_goal_released
        index, d = nearest(hand[w : w + 1], palm[w : w + 1, :goals], good[None])
        assert (choice.index[w], choice.fallback[w]) == (index[0], Fallback.NONE)
        assert float(choice.d[w]) == pytest.approx(float(d))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["solid", "box"]), st.sampled_from(["paper", "released"]))
def test_a_choice_is_that_among_all_goals_though_few_are_looked_at(seed: int, shape: str, reading: str) -> None:
    """Two worlds of 200 goals, a giver who moves; some worlds have no stable goal, or none that is free."""
    rng = np.random.default_rng(seed)
    givers = [GiverHand("left"), GiverHand("right")]
    palm, joints = poses(rng, 2, 200, spread=rng.choice([0.02, 0.1, 0.2])), some_joints(rng, 2, 200)
    displacement = torch.from_numpy(rng.uniform(0, rng.choice([0.021, 0.1, 2.0]), (2, 200)))
    bones = torch.stack([some_bones(rng, giver, spread=0.03) for giver in givers])
    lazy, full = (GoalFilter(palm, joints, displacement, givers, shape=shape, reading=reading) for _ in range(2))
    for _ in range(4):
        hand, world = poses(rng, 2, spread=0.2), poses(rng, 2)
        choice, free = lazy.choose(hand, bones, world), full.free(bones, world)
        clearance = full._giver.clearance(torch.arange(2))
        nearest = nearest_goal if reading == "paper" else nearest_goal_released
        expected = choose_goal(hand, palm, free, displacement, clearance, nearest=nearest)
        assert torch.equal(choice.index, expected.index) and torch.equal(choice.fallback, expected.fallback)
        bones = pose_multiply(poses(rng, 2, spread=0.02)[:, None], bones) if rng.random() < 0.5 else bones


@pytest.mark.parametrize("shape", ["solid", "box"])
def test_a_giver_in_the_way_of_every_goal_gives_the_least_bad_one_marked(shape: str) -> None:
    giver = GiverHand()
    bones = giver.bone_poses(giver.mano(torch.zeros(3, dtype=torch.float64), IDENTITY[3:]))[None]
    palm = IDENTITY.repeat(1, 3, 1)
    palm[0, :, :3] = torch.tensor([[-0.04, 0, 0], [0.03, 0.01, -0.02], [-0.02, 0, -0.03]])
    joints = OPEN_HAND.expand(1, 3, 22).double()
    world = IDENTITY[None]
    filter_ = GoalFilter(palm, joints, torch.tensor([[0.0, 0.0, 0.5]]), [giver], shape=shape)
    assert not filter_.free(bones, world).any()
    choice = filter_.choose(IDENTITY[None], bones, world)
    assert (choice.index.tolist(), choice.fallback.tolist()) == ([1], [Fallback.NO_FREE])
    filter_.replace(torch.tensor([0]), palm, joints, torch.tensor([[0.5, 0.5, 0.5]]), [giver])
    assert filter_.choose(IDENTITY[None], bones, world).fallback.tolist() == [Fallback.NEITHER]


# ---------------------------------------------------------------- bad input


def arguments() -> dict:
    return {
        "palm_pose": IDENTITY.repeat(2, 3, 1),
        "joints": OPEN_HAND.expand(2, 3, 22).double(),
        "displacement": torch.zeros(2, 3),
        "givers": [GiverHand(), GiverHand()],
    }


def spoilt(value: torch.Tensor, number: float) -> torch.Tensor:
    value = value.clone()
    value[1, 0] = number
    return value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"palm_pose": torch.zeros(2, 0, 7)}, r"the pool of goals is empty \(G = 0\)"),
        ({"palm_pose": torch.zeros(3, 7)}, r"palm_pose must be \(W, G, 7\), got \(3, 7\)"),
        ({"palm_pose": spoilt(IDENTITY.repeat(2, 3, 1), math.nan)}, "palm_pose has NaN or infinite numbers in world 1"),
        ({"palm_pose": spoilt(IDENTITY.repeat(2, 3, 1), 0.0)}, "palm_pose of goal 0 in world 1 is not a unit"),
        ({"joints": torch.zeros(2, 4, 22)}, r"joints must be \(2, 3, 22\), got \(2, 4, 22\)"),
        ({"joints": spoilt(torch.zeros(2, 3, 22), math.inf)}, "joints has NaN or infinite numbers in world 1"),
        ({"displacement": torch.zeros(2)}, r"displacement must be \(2, 3\), got \(2,\)"),
        ({"displacement": spoilt(torch.zeros(2, 3), math.nan)}, "displacement has NaN in world 1"),
        ({"givers": [GiverHand()]}, "givers must be a hand for each of 2 worlds, got 1"),
        ({"exists": torch.ones(2, 2, dtype=torch.bool)}, r"exists must be bool \(2, 3\), got torch.bool \(2, 2\)"),
        ({"exists": torch.ones(2, 3)}, r"exists must be bool \(2, 3\), got torch.float32"),
        ({"exists": torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()}, "the pool of goals of world 1 is empty"),
        ({"shape": "ball"}, "shape is 'ball'; valid: solid, box"),
        ({"reading": "mine"}, "reading is 'mine'; valid: paper, released"),
        ({"margin": -0.01}, "margin is -0.01; it must be at least 0"),
    ],
)
def test_bad_goals_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        GoalFilter(**(arguments() | changes))


def test_bad_frames_are_refused() -> None:
    filter_ = GoalFilter(**arguments())
    bones = torch.zeros(2, 16, 7)
    bones[..., 3] = 1
    hand = IDENTITY.repeat(2, 1)
    with pytest.raises(ValueError, match=r"bones must be \(2, 16, 7\), got \(1, 16, 7\)"):
        filter_.free(bones[:1])
    with pytest.raises(ValueError, match="bones has NaN or infinite numbers in world 1"):
        filter_.free(spoilt(bones, math.nan))
    with pytest.raises(ValueError, match=r"hand_pose must be \(2, 7\), got \(7,\)"):
        filter_.choose(IDENTITY, bones)
    with pytest.raises(ValueError, match="hand_pose has NaN or infinite numbers in world 1"):
        filter_.choose(spoilt(hand, math.nan), bones)
    with pytest.raises(ValueError, match=r"shape 'box' needs object_pose \(W, 7\)"):
        GoalFilter(**arguments(), shape="box").free(bones)
    with pytest.raises(ValueError, match=r"object_pose must be \(2, 7\), got \(1, 7\)"):
        GoalFilter(**arguments(), shape="box").free(bones, hand[:1])
    with pytest.raises(ValueError, match=r"palm_pose must be \(1, 3, 7\): .* as many goals as before"):
        filter_.replace(
            torch.tensor([0]), torch.zeros(1, 2, 7) + IDENTITY, torch.zeros(1, 2, 22), torch.zeros(1, 2), [GiverHand()]
        )
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"clearance must be \(2, 3\), got \(3,\)"):
        choose_goal(hand, arguments()["palm_pose"], ones.bool(), ones, ones[0])
    with pytest.raises(ValueError, match=r"free must be \(2, 3\), got \(2, 4\)"):
        choose_goal(hand, arguments()["palm_pose"], torch.ones(2, 4).bool(), ones, ones)
