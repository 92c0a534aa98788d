"""Goal choice, alignment and control by hand-made cases."""

import math

import pytest
import torch

from dexh2r_gym.alignment import (
    ALIGNMENT_SPEED,
    SpeedLimits,
    advance,
    alignment_fraction,
    nearest_goal,
    reachable_fraction,
)
from dexh2r_gym.envs.control import action_space, check_action, hand_target
from dexh2r_gym.hand import JOINT_UPPER, OPEN_HAND
from dexh2r_gym.rotations import pose_multiply, quat_angle, quat_from_axis_angle, quat_normalize
from dexh2r_gym.types import join_hand_state, split_hand_state

DT = 1 / 30


def pose(x=0.0, y=0.0, z=0.0, turn=(0.0, 0.0, 0.0)):
    return torch.cat(
        (torch.tensor([x, y, z], dtype=torch.float64), quat_from_axis_angle(torch.tensor(turn, dtype=torch.float64)))
    )


def joints(n=1):
    return OPEN_HAND.repeat(n, 1)


def test_nearest_goal_weighs_metres_and_radians_alike():
    goals = torch.stack((pose(0.3), pose(0.1, turn=(0.4, 0, 0)), pose(1.0)))[None]
    free = torch.ones(1, 3, dtype=torch.bool)
    index, d = nearest_goal(pose()[None], goals, free)
    assert index.item() == 0 and d.item() == pytest.approx(0.3)  # 0.3 < sqrt(0.1^2 + 0.4^2)
    free[0, 0] = False
    index, d = nearest_goal(pose()[None], goals, free)
    assert index.item() == 1 and d.item() == pytest.approx(0.1)


def test_no_free_goal_has_infinite_distance_and_names_the_least_bad():
    goals = torch.stack((pose(0.5), pose(0.2)))[None]
    index, d = nearest_goal(pose()[None], goals, torch.zeros(1, 2, dtype=torch.bool))
    assert index.item() == 1 and math.isinf(d.item())


def test_nearest_goal_is_the_same_in_every_frame():
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(50, 9, 7, generator=generator, dtype=torch.float64)
    draw = torch.cat((0.3 * draw[..., :3], quat_normalize(draw[..., 3:])), dim=-1)
    hand, frame, goals = draw[:, 0], draw[:, 1], draw[:, 2:]
    free = torch.rand(50, 7, generator=generator) < 0.7
    index, d = nearest_goal(hand, goals, free)
    moved, moved_d = nearest_goal(pose_multiply(frame, hand), pose_multiply(frame[:, None], goals), free)
    assert torch.equal(index, moved)
    torch.testing.assert_close(d, moved_d)
    offset = (goals[..., :3] - hand[:, None, :3]).norm(dim=-1)
    cost = (offset**2 + quat_angle(goals[..., 3:], hand[:, None, 3:]) ** 2).masked_fill(~free, torch.inf)
    assert torch.equal(index[free.any(-1)], cost.argmin(-1)[free.any(-1)])


def test_alignment_takes_n_frames_of_two_centimetres():
    hand, goal = pose()[None], pose(0.06, turn=(0.09, 0, 0))[None]
    fraction = alignment_fraction(hand, joints(), goal, joints(), None, DT)
    assert fraction.item() == pytest.approx(1 / 3)  # N = d / v = 3
    moved, _ = advance(hand, joints(), goal, joints(), fraction)
    assert moved[0, 0].item() == pytest.approx(ALIGNMENT_SPEED)
    assert quat_angle(moved[:, 3:], hand[:, 3:]).item() == pytest.approx(0.03)


def test_alignment_waits_for_the_slowest_part():
    hand, goal = pose()[None], pose(0.02, turn=(4 * DT * 4, 0, 0))[None]  # the turn alone needs four frames
    fraction = alignment_fraction(hand, joints(), goal, joints(), SpeedLimits(), DT)
    assert fraction.item() == pytest.approx(0.25)


def test_speed_limits_hold_for_each_part_on_its_own():
    far = pose(1.0, turn=(1.0, 0, 0))[None]
    fraction = reachable_fraction(pose()[None], joints(), far, joints() + 0.01, SpeedLimits(1.5, 4.0, 4.0), DT)
    torch.testing.assert_close(fraction, torch.tensor([[1.5 * DT, 4 * DT, 1.0]], dtype=torch.float64))
    assert (reachable_fraction(pose()[None], joints(), far, joints(), None, DT) == 1).all()


def test_absolute_target_within_reach_is_taken_as_it_is():
    here = pose(0.0, 0.0, 1.0)[None]
    action = join_hand_state(pose(0.02, 0.0, 1.01, turn=(0.05, 0, 0))[None], joints() + 0.05)
    target, target_joints = hand_target(action, here, joints(), "absolute", SpeedLimits(), DT)
    torch.testing.assert_close(join_hand_state(target, target_joints), action)


def test_targets_stay_in_workspace_and_joint_ranges():
    action = join_hand_state(pose(9.0, -9.0, 9.0)[None], joints() + 9.0)
    target, target_joints = hand_target(action, pose(0, 0, 1.0)[None], joints(), "absolute", None, DT)
    assert target[0, :3].tolist() == [0.6, -1.0, 1.8]
    torch.testing.assert_close(target_joints[0], JOINT_UPPER)


def test_delta_of_one_is_the_most_a_frame_allows():
    action = torch.zeros(1, 28, dtype=torch.float64)
    action[0, :3], action[0, 6:] = 1.0, -1.0
    start = joints() * 0 + 0.2
    start[:] = torch.minimum(start, JOINT_UPPER)
    target, target_joints = hand_target(action, pose(0, 0, 1.0)[None], start, "delta", SpeedLimits(), DT)
    assert (target[0, :3] - torch.tensor([0, 0, 1.0])).norm().item() == pytest.approx(1.5 * DT)
    free = start[0] - 4 * DT > -0.2  # joints that do not meet their range first
    moved = (start - target_joints)[0][free]
    assert moved.max().item() == pytest.approx(4 * DT)


@pytest.mark.parametrize("mode", ["absolute", "delta"])
def test_every_action_of_the_space_gives_a_valid_target(mode):
    space = action_space(mode)
    space.seed(0)
    for action in (space.low, space.high, space.sample()):
        target, target_joints = hand_target(
            torch.from_numpy(action)[None].double(), pose(0, 0, 1.0)[None], joints(), mode, SpeedLimits(), DT
        )
        assert torch.isfinite(target).all() and target[0, 3:].norm().item() == pytest.approx(1.0)
        assert (target_joints <= JOINT_UPPER).all()


def test_wrong_actions_name_the_world():
    good = torch.zeros(3, 28)
    check_action(good, 3)
    bad = good.clone()
    bad[1, 7] = torch.nan
    with pytest.raises(ValueError, match=r"world 1 .* index 7"):
        check_action(bad, 3)
    with pytest.raises(ValueError, match="2 worlds given, 3 expected"):
        check_action(good[:2], 3)
    with pytest.raises(ValueError, match="world 0"):
        check_action(torch.zeros(3, 30), 3)


def test_speed_limits_must_be_positive():
    with pytest.raises(ValueError, match="palm_linear"):
        SpeedLimits(palm_linear=0.0)


def test_hand_state_round_trip():
    state = join_hand_state(pose(0.1, 0.2, 0.3, turn=(0.5, -0.4, 0.3))[None], joints())
    torch.testing.assert_close(join_hand_state(*split_hand_state(state)), state)
