"""The physical test of grasps on hand-made cases, and the scores drawn from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.grasps.scores import diversity, grasp_depth, released_grasp_depth, stable_any, stable_one
from dexh2r_gym.grasps.stability import DIRECTIONS, GRAVITY, RELEASED, STABLE_DISTANCE, displacements, is_stable
from dexh2r_gym.hand import surface_points
from dexh2r_gym.objects import ObjectModel, load_object
from dexh2r_gym.objects.build import build_object
from dexh2r_gym.objects.shapes import box
from dexh2r_gym.rotations import quat_rotate
from tests.grasp_cases import FLAT_HAND, IDENTITY, RADIUS, beside_palm, cage

BACK = 0.014 + RADIUS  # m, from the palm's plane to the axis of a can that lies on the back of the hand


@pytest.fixture(scope="module")
def can() -> ObjectModel:
    """A can of 5.5 cm diameter and 19 cm length along z, 0.35 kg."""
    return load_object("aerosol_can")


def cases() -> tuple[torch.Tensor, torch.Tensor]:
    """A cage, a flat hand before the can, a cage half a metre away from it."""
    palm, closed = cage()
    away = palm.clone()
    away[:, :3] += 0.5
    return torch.cat((palm, palm, away)), torch.cat((closed, FLAT_HAND[None], closed))


@pytest.mark.parametrize("protocol", [RELEASED, GRAVITY])
def test_a_cage_holds_and_an_open_or_distant_hand_does_not(can: ObjectModel, protocol) -> None:
    moved = displacements(can, *cases(), protocol, num_threads=1)
    assert moved.shape == (3, 6) and moved.dtype == torch.float64
    assert is_stable(moved).tolist() == [True, False, False], moved
    assert (moved[2] >= STABLE_DISTANCE).all()  # held by nothing, it goes whichever way it is pushed


def test_a_can_that_nothing_holds_falls_as_far_as_it_is_followed(can: ObjectModel) -> None:
    """It is lost at 3 cm; looked at every twelfth of a second, it has then fallen by less than 12 cm."""
    moved = displacements(can, cases()[0][2:], cases()[1][2:], GRAVITY, num_threads=1)
    steps = torch.arange(1, 3) * 5 * GRAVITY.substeps  # until it is more than 3 cm away
    fallen = [0.5 * 9.81 * (n / 60 / GRAVITY.substeps) ** 2 for n in steps.tolist()]
    expected = next(x for x in fallen if x > 0.03)
    assert torch.allclose(moved, torch.full_like(moved, expected), rtol=0.15)


def test_result_does_not_depend_on_what_stands_beside_or_on_threads(can: ObjectModel) -> None:
    palm, closed = cage()
    palms = palm.repeat(3, 1)
    palms[:, 2] += torch.tensor([0.0, 0.01, -0.02], dtype=torch.float64)
    joints = closed.repeat(3, 1)
    together = displacements(can, palms, joints, GRAVITY, num_threads=2)
    assert torch.equal(together, displacements(can, palms, joints, GRAVITY, num_threads=1))
    assert torch.equal(together[1:2], displacements(can, palms[1:2], joints[1:2], GRAVITY, num_threads=1))
    again = displacements(can, palms.flip(0), joints, GRAVITY, num_threads=1)
    assert torch.equal(together.flip(0), again)


def test_grasps_of_two_objects_together_are_as_each_alone(can: ObjectModel) -> None:
    stick = build_object("stick", box((0.03, 0.03, 0.2)), mass=0.1)
    palms, joints = cases()
    index = torch.tensor([1, 0, 0, 1])
    rows = torch.tensor([0, 0, 1, 1])
    both = displacements((can, stick), palms[rows], joints[rows], RELEASED, index=index, num_threads=1)
    for number, obj in enumerate((can, stick)):
        own = index == number
        alone = displacements(obj, palms[rows][own], joints[rows][own], RELEASED, num_threads=1)
        assert torch.equal(both[own], alone)
    assert is_stable(both).any() and not is_stable(both).all()


def test_pushes_are_along_the_given_directions_of_the_objects_frame(can: ObjectModel) -> None:
    """On the back of a flat hand a can bears a push into the hand, not one away from it."""
    palm = beside_palm(BACK)
    away = quat_rotate(palm[:, 3:], torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    directions = torch.stack((away, -away), dim=1)  # (1, 2, 3)
    moved = displacements(can, palm, FLAT_HAND[None], RELEASED, directions=directions, num_threads=1)[0]
    assert moved[0] > STABLE_DISTANCE > moved[1]


def test_directions_may_differ_from_grasp_to_grasp_and_the_six_are_the_default(can: ObjectModel) -> None:
    palms, joints = cases()
    six = displacements(can, palms, joints, RELEASED, num_threads=1)
    chosen = torch.tensor([[4, 1], [0, 3], [5, 5]])
    some = displacements(can, palms, joints, RELEASED, directions=DIRECTIONS[chosen], num_threads=1)
    assert torch.equal(some, six.gather(1, chosen))


def test_no_grasps_no_displacements(can: ObjectModel) -> None:
    assert displacements(can, torch.zeros(0, 7), torch.zeros(0, 22), RELEASED).shape == (0, 6)
    assert grasp_depth(can, torch.zeros(0, 7), torch.zeros(0, 22)).shape == (0,)
    assert released_grasp_depth(can, torch.zeros(0, 7), torch.zeros(0, 22)).shape == (0,)


def test_depth_of_a_hand_in_a_brick_is_that_of_its_deepest_surface_point() -> None:
    brick = build_object("brick", box((0.1, 0.1, 0.2)), mass=0.5, recentre=False)
    half = torch.tensor([0.05, 0.05, 0.1], dtype=torch.float64)
    palms = IDENTITY.repeat(3, 1)
    palms[:, 2] = torch.tensor([-0.35, -0.27, 0.5])  # below the brick, fingertips in it, far off
    joints = FLAT_HAND.repeat(3, 1)
    points = surface_points(palms, joints)[0] - torch.as_tensor(brick.vertices.mean(0))
    inside = (half - points.abs()).amin(-1).clamp_min(0)
    depth = grasp_depth(brick, palms, joints)
    assert torch.allclose(depth, inside.amax(-1), atol=1e-5), depth
    assert depth[0] == 0 and depth[1] > 0.01 and depth[2] == 0
    # the released definition: to the nearest of 4096 samples of the surface, so never less than exact
    released = released_grasp_depth(brick, palms[1:2], joints[1:2])
    assert 0 <= float(released - depth[1]) < 0.004


def test_succ_by_three_readings() -> None:
    moved = torch.full((3000, 6), 0.5)
    moved[:1000] = 0.0
    moved[1000:2000, 2] = 0.019
    assert is_stable(moved).sum() == 1000
    assert stable_any(moved).sum() == 2000
    one = stable_one(moved, torch.Generator().manual_seed(0))
    assert one[:1000].all() and not one[2000:].any()
    assert float(one[1000:2000].float().mean()) == pytest.approx(1 / 6, abs=0.04)
    assert torch.equal(one, stable_one(moved, torch.Generator().manual_seed(0)))
    assert not is_stable(torch.tensor([0.0, 0, 0, 0, 0, STABLE_DISTANCE]))
    assert not stable_any(torch.full((6,), torch.inf))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_one_push_lies_between_all_and_any(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    moved = 0.04 * torch.rand(50, 6, generator=generator)
    one = stable_one(moved, generator)
    assert (is_stable(moved) <= one).all() and (one <= stable_any(moved)).all()


def test_diversity_is_the_spread_of_the_joints_of_stable_grasps() -> None:
    joints = torch.tensor([0.0, 1.0, 40.0])[:, None].repeat(1, 22)
    moved = torch.zeros(3, 6)
    moved[2, 0] = 1.0
    assert diversity(joints, moved) == pytest.approx(math.sqrt(0.5))
    joints[:, 1:] = 0.3  # one joint of 22 differs
    assert diversity(joints, moved) == pytest.approx(math.sqrt(0.5) / 22)
    moved[1, 0] = 1.0
    assert math.isnan(diversity(joints, moved))
