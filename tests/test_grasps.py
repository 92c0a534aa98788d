"""Goal grasps: distances between capsules, the physical test on hand-made grasps, the pools that are shipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import GraspPool, free_of_giver, load_pool, make_pools, read_pool
from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.grasps.pool import FOLDER, MAX_APPROACH_DEPTH, MAX_DEPTH, approach_depth, diverse_order, grasp_depth
from dexh2r_gym.grasps.search import SearchOptions, sample_approaches, search_grasps
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, displacements, is_stable, tighten
from dexh2r_gym.hand import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, OPEN_HAND, forward_kinematics, hand_capsules
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_from_axis_angle, quat_rotate

IDENTITY = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
FLAT_HAND = torch.zeros(22, dtype=torch.float64)
RADIUS = 0.0275  # of the test cylinder, m


@pytest.fixture(scope="module")
def cylinder() -> ObjectModel:
    """A can of 5.5 cm diameter and 19 cm length along z, 0.35 kg."""
    return load_object("aerosol_can")


def cage() -> tuple[torch.Tensor, torch.Tensor]:
    """A hand whose palm touches the can and whose fingers and thumb go around it: palm pose (1, 7), joints (1, 22)."""
    joints = torch.tensor([_CAGE.get(name, _CAGE.get(name[-2:], 0.0)) for name in JOINT_NAMES])
    # The can lies along the palm's x, in front of the knuckles: palm y is away from it.
    turn = quat_from_axis_angle(torch.tensor([0.0, math.pi / 2, 0.0], dtype=torch.float64))
    can_in_palm = torch.cat((torch.tensor([0.0, -0.014 - RADIUS, 0.092], dtype=torch.float64), turn))
    return pose_inverse(can_in_palm)[None], joints[None].double()


_CAGE = {"J3": 0.42, "J2": 1.0, "J1": 0.7, "LFJ3": 0.2} | {
    "THJ5": 0.3,
    "THJ4": 1.2,
    "THJ3": 0.0,
    "THJ2": 0.0,
    "THJ1": 0.4,
}


def test_a_cage_holds_and_an_open_or_distant_hand_does_not(cylinder: ObjectModel) -> None:
    palm, closed = cage()
    away = palm.clone()
    away[:, :3] += 0.5
    palms = torch.cat((palm, palm, away))
    joints = torch.cat((closed, FLAT_HAND[None], closed))
    for protocol in (RELEASED, GRAVITY):
        moved = displacements(cylinder, palms, joints, protocol, num_threads=1)
        assert moved.shape == (3, 6)
        assert is_stable(moved).tolist() == [True, False, False], moved
    # Nothing holds the can in the last world: half of g t^2 in one second.
    assert torch.allclose(moved[2], torch.full((6,), 9.81 / 2, dtype=moved.dtype), rtol=0.02)


def test_displacements_do_not_depend_on_batch_or_threads(cylinder: ObjectModel) -> None:
    palm, closed = cage()
    palms = palm.repeat(3, 1)
    palms[:, 2] += torch.tensor([0.0, 0.01, -0.02], dtype=torch.float64)
    joints = closed.repeat(3, 1)
    together = displacements(cylinder, palms, joints, GRAVITY, num_threads=2)
    assert torch.equal(together, displacements(cylinder, palms, joints, GRAVITY, num_threads=1))
    assert torch.equal(together[1:2], displacements(cylinder, palms[1:2], joints[1:2], GRAVITY, num_threads=1))


def test_tightening_closes_the_fingers_that_are_near_and_no_others(cylinder: ObjectModel) -> None:
    palm, closed = cage()
    moved = (tighten(cylinder, palm, closed) - closed)[0]
    by_name = dict(zip(JOINT_NAMES, moved.tolist(), strict=True))
    assert all(by_name[f"{finger}J3"] > 0.02 for finger in ("FF", "RF"))
    far = palm.clone()
    far[:, :3] += 1.0
    assert torch.equal(tighten(cylinder, far, closed), closed)


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


def test_search_is_reproducible_and_closes_on_the_object(cylinder: ObjectModel) -> None:
    options = SearchOptions(steps=30)
    first, again = (search_grasps(cylinder, 6, torch.Generator().manual_seed(3), options) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    palm, joints = first
    assert palm.shape == (6, 7) and joints.shape == (6, 22)
    assert (palm[:, 3:].norm(dim=-1) - 1).abs().max() < 1e-5
    assert ((joints >= JOINT_LOWER.float()) & (joints <= JOINT_UPPER.float())).all()
    start = sample_approaches(cylinder, 6, torch.Generator().manual_seed(3))
    tips = [forward_kinematics(*grasp)[:, [3, 6, 9, 12, 16], :3] for grasp in (start, first)]
    before, after = (cylinder.signed_distance(x).abs().mean() for x in tips)
    assert after < 0.6 * before


def test_diverse_order_takes_those_that_hold_first_and_spreads_them() -> None:
    palm = IDENTITY.repeat(5, 1).float()
    palm[:, 2] = torch.tensor([0.0, 0.001, 0.1, 0.05, 0.9])
    first = torch.tensor([True, True, True, True, False])
    assert diverse_order(palm, first).tolist() == [0, 2, 3, 1, 4]


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


@pytest.mark.parametrize("name", object_names())
def test_shipped_pools(name: str) -> None:
    pool, obj = load_pool(name), load_object(name)
    assert 16 <= len(pool) <= 64
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
