"""Distance fields, the energy of grasps and its search, tightening: hand-made cases, brute force, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.grasps.energy import EnergyWeights, GraspEnergy
from dexh2r_gym.grasps.field import DistanceField, FieldStack
from dexh2r_gym.grasps.search import SearchOptions, sample_approaches, search_grasps
from dexh2r_gym.grasps.tighten import TIGHTEN_STEP, tighten
from dexh2r_gym.hand import (
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    LINK_NAMES,
    OPEN_HAND,
    SURFACE_LINK,
    clamp_joints,
    forward_kinematics,
    hand_capsules,
    surface_points,
)
from dexh2r_gym.objects import ObjectModel, load_object
from dexh2r_gym.objects.build import build_object
from dexh2r_gym.objects.shapes import box
from dexh2r_gym.rotations import pose_apply
from tests.grasp_cases import IDENTITY, cage

HALF = torch.tensor([0.02, 0.03, 0.08])
NOTHING = EnergyWeights(distance=0.0, closure=0.0, penetration=0.0, self_penetration=0.0, limits=0.0)


@pytest.fixture(scope="module")
def brick() -> ObjectModel:
    return build_object("brick", box((0.04, 0.06, 0.16)), mass=0.5)


@pytest.fixture(scope="module")
def field(brick: ObjectModel) -> DistanceField:
    return DistanceField.of_object(brick)


def around_brick(count: int, beyond: float, seed: int = 0) -> torch.Tensor:
    """Points (count, 3) in the brick's bounding box, wider by so many metres on each side."""
    unit = 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 1
    return unit * (HALF + beyond)


def weights(**some: float) -> EnergyWeights:
    return EnergyWeights(**{**vars(NOTHING), **some})


# Fields


def test_field_of_an_object_is_its_distance_to_half_a_cell(brick: ObjectModel, field: DistanceField) -> None:
    points = around_brick(4000, 0.015)
    error = (field.distance(points.T) - brick.signed_distance(points)).abs()
    assert error.max() < math.sqrt(3) / 2 * brick.sdf_spacing
    assert error.mean() < 0.1 * brick.sdf_spacing


def test_field_beyond_its_grid_is_never_below_the_distance_and_grows_straight_on(
    brick: ObjectModel, field: DistanceField
) -> None:
    far = around_brick(1000, 0.5, seed=1)
    assert (field.distance(far.T) > brick.signed_distance(far) - brick.sdf_spacing).all()
    ray = torch.zeros(3, 2)
    ray[0] = torch.tensor([0.3, 0.7])  # from the middle of a face, 0.28 m and 0.68 m away
    assert torch.allclose(field.distance(ray), torch.tensor([0.28, 0.68]), atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradient_before_a_face_is_its_normal(field: DistanceField, axis: int) -> None:
    for side, depth in ((1, 0.006), (-1, 0.006), (1, -0.006), (1, 0.2), (-1, 0.2)):
        point = torch.zeros(3, 1)
        point[axis] = side * (HALF[axis] + depth)
        (gradient,) = torch.autograd.grad(field.distance(point.requires_grad_()).sum(), point)
        normal = torch.zeros(3).index_fill(0, torch.tensor(axis), side)
        assert torch.allclose(gradient[:, 0], normal, atol=0.02)
        if depth < 0.1:
            assert torch.allclose(field.slope(point.detach())[:, 0], normal, atol=0.02)


def test_field_of_a_cloud_has_the_objects_sign_distance_and_centre() -> None:
    obj = load_object("hammer")
    field = DistanceField.of_cloud(obj.points, obj.normals)
    generator = torch.Generator().manual_seed(0)
    points = obj.points + 0.012 * torch.randn(4096, 3, generator=generator)
    truth, seen = obj.signed_distance(points), field.distance(points.T)
    clear = truth.abs() > 0.004  # a cell
    assert ((truth < 0) == (seen < 0))[clear].float().mean() > 0.995
    error = (seen - truth).abs()
    assert error.mean() < 0.001 and error.quantile(0.99) < 0.004
    assert (field.center - torch.as_tensor(obj.center_of_mass)).norm() < 0.005


@pytest.mark.parametrize("name", ["kitchen_knife", "hammer"])
def test_nothing_off_an_edge_counts_as_inside_of_a_cloud(name: str) -> None:
    """The nearest samples' planes alone call places inside that are up to 7 cm off these objects' edges."""
    obj = load_object(name)
    field = DistanceField.of_cloud(obj.points, obj.normals)
    points = obj.points.repeat(4, 1) + 0.04 * torch.randn(16384, 3, generator=torch.Generator().manual_seed(0))
    away = points[obj.signed_distance(points) > 0.008]
    assert (field.distance(away.T) > 0).all()


def test_a_stack_asks_each_field_of_its_own_solid(brick: ObjectModel, field: DistanceField) -> None:
    can = load_object("aerosol_can")
    stack = FieldStack([field, DistanceField.of_object(can)])
    index = torch.tensor([1, 0, 1])
    points = torch.stack([around_brick(300, 0.01, seed) for seed in range(3)]).requires_grad_()
    distance, slope = stack.look_up(index, points)
    for row, obj in enumerate((can, brick, can)):
        error = (distance[row] - obj.signed_distance(points[row].detach())).abs()
        assert error.max() < 1.5 * obj.sdf_spacing and error.mean() < 0.2 * obj.sdf_spacing
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    assert torch.equal(gradient, slope)
    alone = FieldStack([field]).look_up(torch.tensor([0]), points[1:2].detach())
    assert torch.equal(alone[0], distance[1:2].detach())


# Energy


def random_grasps(count: int, seed: int = 0, reach: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    shift = reach * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    spread = torch.rand(count, 22, generator=generator)
    joints = JOINT_LOWER.float() + spread * (JOINT_UPPER - JOINT_LOWER).float()
    return torch.cat((shift, turn), dim=-1), joints


@pytest.mark.parametrize(
    "some", [{"distance": 3.0}, {"self_penetration": 200.0}, {"limits": 5.0}, {"distance": 3.0, "limits": 1.0}]
)
def test_gradient_is_that_of_finite_differences(field: DistanceField, some: dict[str, float]) -> None:
    palm, joints = random_grasps(8)
    joints = 1.2 * joints  # some beyond their limits
    energy = GraspEnergy(field, 8, weights(**some))
    palm.requires_grad_(), joints.requires_grad_()
    slopes = torch.autograd.grad(energy(palm, joints).sum(), (palm, joints), allow_unused=True)
    slope = torch.cat([torch.zeros(8, n) if s is None else s for s, n in zip(slopes, (7, 22), strict=True)], dim=-1)
    generator = torch.Generator().manual_seed(1)
    way = torch.randn(8, 29, generator=generator)
    way[:, 3:7] = 0  # a quaternion moved is none any more
    way[:, :3] *= 0.1
    h = 1e-3
    with torch.no_grad():
        ahead, behind = (energy(palm + s * h * way[:, :7], joints + s * h * way[:, 7:]) for s in (1, -1))
    measured, said = (ahead - behind) / (2 * h), (slope * way).sum(-1)
    assert said.abs().max() > 0.1
    assert torch.allclose(measured, said, rtol=0.05, atol=0.05 * float(said.abs().max()))


def test_penetration_counts_the_deepest_point_and_the_mean(brick: ObjectModel, field: DistanceField) -> None:
    palm, joints = random_grasps(6, reach=0.06)
    away = palm.clone()
    away[:, :3] *= 10
    energy = GraspEnergy(field, 6, weights(penetration=1.0))
    assert (energy(away, joints) == 0).all()
    first = torch.cat([(SURFACE_LINK == link).nonzero()[:20, 0] for link in range(len(LINK_NAMES))])
    depth = brick.penetration(surface_points(palm, joints)[0][:, first])
    assert (depth.amax(-1) > 0.005).any()
    expected = depth.amax(-1) + depth.mean(-1)
    assert torch.allclose(energy(palm, joints), expected.float(), atol=2 * brick.sdf_spacing)


def overlap(palm: torch.Tensor, joints: torch.Tensor) -> float:
    """Sum of the overlaps of capsules of different fingers, or of a fingertip and palm or wrist, by sampled axes."""
    link, p0, p1, radius = hand_capsules()
    links = forward_kinematics(palm, joints)[link]
    t = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    axes = pose_apply(links[:, None], p0[:, None] + t * (p1 - p0)[:, None])  # (K, 40, 3)
    names = [LINK_NAMES[i].removeprefix("rh_") for i in link.tolist()]
    total = 0.0
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            on_finger = [n[:2] in ("ff", "mf", "rf", "lf", "th") for n in (a, b)]
            tips = a.endswith("distal") or b.endswith("distal")
            if (all(on_finger) and a[:2] != b[:2]) or (sum(on_finger) == 1 and tips):
                total += max(0.0, float(radius[i] + radius[j] - torch.cdist(axes[i], axes[j]).min()))
    return total


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31))
def test_self_penetration_against_brute_force(field_seed: int) -> None:
    palm, joints = random_grasps(1, field_seed)
    energy = GraspEnergy(_FIELD(), 1, weights(self_penetration=1.0))
    assert float(energy(palm, joints)) == pytest.approx(overlap(palm[0].double(), joints[0].double()), abs=1e-3)


def _FIELD() -> DistanceField:
    """Any field: self-penetration does not look at it."""
    grid = torch.ones(2, 2, 2)
    return DistanceField._build(grid, torch.zeros(3), 1.0, torch.zeros(3))


def test_an_open_hand_does_not_meet_itself_and_crossed_fingers_do() -> None:
    crossed = OPEN_HAND.clone()
    crossed[JOINT_NAMES.index("FFJ4")], crossed[JOINT_NAMES.index("MFJ4")] = JOINT_LOWER[0], JOINT_UPPER[4]
    joints = torch.stack((OPEN_HAND, crossed)).float()
    energy = GraspEnergy(_FIELD(), 2, weights(self_penetration=1.0))
    flat, cross = energy(IDENTITY.float().repeat(2, 1), joints).tolist()
    assert flat == 0 and cross > 0.005


def test_forces_from_two_sides_balance_and_from_one_do_not(field: DistanceField) -> None:
    """Contacts in two places, opposite each other; all in one; opposite, but the far half out of reach."""
    energy = GraspEnergy(field, 4, NOTHING)
    pads = energy._force.shape[1]
    side = torch.where(torch.arange(pads) % 2 == 0, 1.0, -1.0)
    contact = torch.zeros(3, 4, pads)
    contact[0] = HALF[0]
    contact[0, [0, 2]] = side * HALF[0]
    contact[0, 3], contact[2, 3] = side * HALF[0], side * 0.05  # a couple: forces balance, torques do not
    gap = torch.zeros(4, pads)
    gap[2, side < 0] = 0.05
    for _ in range(30):
        balanced, one_sided, out_of_reach, couple = energy._imbalance(contact, gap).tolist()
    assert balanced < 0.01
    assert one_sided == pytest.approx(1.0, abs=0.05)  # unit force, no torque about the centre
    assert out_of_reach > 0.1 and couple > 0.1


def test_limits_count_in_radians() -> None:
    joints = clamp_joints(torch.zeros(3, 22))
    joints[1, 0] = JOINT_UPPER[0] + 0.25
    joints[2, 1] = JOINT_LOWER[1] - 0.5
    energy = GraspEnergy(_FIELD(), 3, weights(limits=1.0))(IDENTITY.float().repeat(3, 1), joints)
    assert energy.tolist() == pytest.approx([0, 0.25, 0.5], abs=1e-5)


# Search


@pytest.fixture(scope="module")
def can() -> ObjectModel:
    return load_object("aerosol_can")


def test_search_is_reproducible_closes_on_the_object_and_lowers_the_energy(can: ObjectModel) -> None:
    options = SearchOptions(steps=30)
    first, again = (search_grasps(can, 6, torch.Generator().manual_seed(3), options) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    palm, joints = first
    assert palm.shape == (6, 7) and joints.shape == (6, 22)
    assert (palm[:, 3:].norm(dim=-1) - 1).abs().max() < 1e-5
    assert ((joints >= JOINT_LOWER.float()) & (joints <= JOINT_UPPER.float())).all()
    start = sample_approaches(can, 6, torch.Generator().manual_seed(3))
    tips = [forward_kinematics(*grasp)[:, [3, 6, 9, 12, 16], :3] for grasp in (start, first)]
    before, after = (can.signed_distance(x).abs().mean() for x in tips)
    assert after < 0.6 * before
    energy = GraspEnergy(DistanceField.of_object(can), 6)
    assert (energy(*first) < energy(*start)).all()


def test_approaches_are_open_hands_clear_of_the_object_with_their_palms_to_it(can: ObjectModel) -> None:
    palm, joints = sample_approaches(can, 40, torch.Generator().manual_seed(0))
    deepest = can.penetration(surface_points(palm, joints)[0]).amax(-1)
    assert (deepest < 0.005).float().mean() > 0.8  # backing off ends after a few steps
    middle = torch.as_tensor(can.center_of_mass, dtype=torch.float32)
    inner = torch.tensor([0.0, -1.0, 0.0])
    ahead = pose_apply(palm, 0.1 * inner) - palm[:, :3]
    assert (((middle - palm[:, :3]) * ahead).sum(-1) > 0).float().mean() > 0.8


def test_half_of_the_approaches_start_beside_grasps_that_are_given(can: ObjectModel) -> None:
    given = torch.cat((torch.tensor([[0.0, 0.0, 5.0]]), IDENTITY[None, 3:].float()), dim=-1)
    palm, _ = sample_approaches(can, 60, torch.Generator().manual_seed(0), around=given)
    beside = (palm[:, :3] - given[0, :3]).norm(dim=-1) < 0.2
    assert 15 < beside.sum() < 45
    assert (palm[~beside, :3].norm(dim=-1) < 0.4).all()
    assert len(np.unique(palm[beside, 0].numpy().round(6))) == int(beside.sum())  # each a little elsewhere


# Tightening


def test_tightening_closes_the_fingers_that_are_near_and_no_others(can: ObjectModel) -> None:
    palm, closed = cage()
    target = tighten(can, palm, closed)
    by_name = dict(zip(JOINT_NAMES, (target - closed)[0].tolist(), strict=True))
    assert all(by_name[f"{finger}J3"] > 0.02 for finger in ("FF", "RF"))
    most = max(abs(by_name[name]) for name in JOINT_NAMES if name.startswith("RF"))
    assert most == pytest.approx(TIGHTEN_STEP, rel=1e-4)
    assert torch.equal(clamp_joints(target), target)
    far = palm.clone()
    far[:, :3] += 1.0
    assert torch.equal(tighten(can, far, closed), closed)


def test_tightening_takes_each_grasp_with_its_own_object(can: ObjectModel, brick: ObjectModel) -> None:
    palm, closed = cage()
    both = tighten((brick, can), palm.repeat(2, 1), closed.repeat(2, 1), index=torch.tensor([1, 0]))
    assert torch.equal(both[:1], tighten(can, palm, closed))
    assert torch.equal(both[1:], tighten(brick, palm, closed))
    assert not torch.equal(both[0], both[1])


def test_the_field_of_a_large_cloud_is_coarser_not_larger() -> None:
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0))
    face = torch.arange(3000) % 6  # of a cube with an edge of 1 m
    points[torch.arange(3000), face % 3] = (face // 3).float()
    normals = torch.zeros_like(points)
    normals[torch.arange(3000), face % 3] = 2.0 * (face // 3) - 1
    field = DistanceField.of_cloud(points, normals)
    assert field.values[0, 0].numel() < 1.1e6
    middle, outside = field.distance(torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 1.015]])).tolist()
    assert middle == pytest.approx(-0.5, abs=0.02) and outside == pytest.approx(0.015, abs=0.01)
