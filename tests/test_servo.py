"""The reactive expert's step: it gets there from anywhere, follows what moves, and comes in from behind."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.alignment import RETREAT
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.servo import JOINT_SPEED, SPEED, TURN_SPEED, servo_plan, servo_step
from tests.test_approach import states

DT = 1 / 30


def test_a_hand_behind_its_goal_goes_straight_in_and_slows_down():
    goal = torch.zeros(1, 28, dtype=torch.float64)
    back = torch.tensor(RETREAT, dtype=torch.float64)
    back = back / back.norm()
    hand = goal.clone()
    hand[:, :3], hand[:, 6:] = 0.1 * back, OPEN_HAND
    path = servo_plan(hand, goal[:, None].expand(-1, 61, -1), DT)[0]
    behind = path[:, :3] @ back
    torch.testing.assert_close(path[:, :3], behind[:, None] * back, atol=1e-9, rtol=0)
    assert abs(0.1 - behind[0] - 5.0 * 0.1 * DT) < 1e-9  # the gain's part of the way
    assert (behind.diff() <= 1e-9).all() and behind[-1] < 1e-9
    assert (path[0, 6:] - OPEN_HAND).abs().max() < 1e-6 and path[-1, 6:].abs().max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_from_anywhere_it_gets_there(seed):
    hand, goal = states(seed, 2, 8).double()
    last = servo_plan(hand, goal[:, None].expand(-1, 201, -1), DT)[:, -1]
    pose, joints = split_hand_state(last)
    wanted, closed = split_hand_state(goal)
    assert (pose - wanted)[:, :3].norm(dim=-1).max() < 1e-3
    assert quat_angle(pose[:, 3:], wanted[:, 3:]).max() < 1e-2
    assert (joints - closed).abs().max() < 1e-2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_a_goal_that_moves_is_caught_and_kept(seed):
    hand, goal = states(seed, 2, 8).double()
    velocity = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1
    ahead = torch.arange(241)[:, None] * DT * velocity[:, None]  # (8, 241, 3)
    goals = goal[:, None].repeat(1, 241, 1)
    goals[..., :3] += ahead
    path = servo_plan(hand, goals, DT)
    assert (path[:, -20:, :3] - goals[:, -20:, :3]).norm(dim=-1).max() < 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_no_step_is_faster_than_said_and_none_enters_from_the_side(seed):
    hand, goal = states(seed, 2, 8).double()
    goals = goal[:, None].expand(-1, 201, -1)
    path = torch.cat((hand[:, None], servo_plan(hand, goals, DT)), dim=1)
    pose, joints = split_hand_state(path)
    assert pose[..., :3].diff(dim=1).norm(dim=-1).max() < SPEED[1] * DT + 1e-9
    assert quat_angle(pose[:, 1:, 3:], pose[:, :-1, 3:]).max() < TURN_SPEED[1] * DT + 1e-6
    assert joints.diff(dim=1).abs().max() < JOINT_SPEED * DT + 1e-9
    place, _ = split_hand_state(goals[:, :1])
    offset = pose_apply(pose_inverse(place), pose[..., :3])
    back = torch.tensor(RETREAT, dtype=torch.float64)
    behind = offset @ (back / back.norm())
    beside = (offset - behind[..., None] * back / back.norm()).norm(dim=-1)
    near = (offset.norm(dim=-1) < 0.05) & (behind[:, :1] > 0.12)  # where it began behind the goal, at whatever side
    assert (beside[near] < 0.04).all()


def test_where_the_world_is_looked_at_from_changes_nothing():
    hand, goal = states(3, 2, 8).double()
    following = goal.clone()
    following[:, 0] += 0.01
    step = servo_step(hand, goal, following, DT)
    moved = [s.clone() for s in (hand, goal, following)]
    for s in moved:
        s[:, :3] += torch.tensor([1.0, -2.0, 0.5])
    again = servo_step(moved[0], moved[1], moved[2], DT)
    torch.testing.assert_close(again[:, 3:], step[:, 3:])
    torch.testing.assert_close(again[:, :3] - step[:, :3], torch.tensor([[1.0, -2.0, 0.5]]).double().expand(8, 3))


def test_batches_and_single_hands_agree():
    hand, goal = states(4, 2, 6)
    whole = servo_step(hand, goal, goal, DT)
    single = torch.stack([servo_step(h, g, g, DT) for h, g in zip(hand, goal, strict=True)])
    assert torch.equal(whole, single)
    assert join_hand_state(*split_hand_state(whole)).shape == hand.shape
