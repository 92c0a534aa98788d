"""How a hand goes to a goal grasp from wherever it is: one step, a function of hand and goal alone.

The hand heads for a point behind the goal that lies the nearer to it, the better the hand is lined up: it comes in
along the goal's own way and never stops in between. So each step can be told from what is seen now, which makes it what
policies learn best: from any hand state there is one answer, and no clock.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.alignment import RETREAT
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_angle, quat_slerp
from dexh2r_gym.types import join_hand_state, split_hand_state

GAIN = 5.0  # 1/s, of what is left of the way and of the turn
SPEED, TURN_SPEED = (0.12, 0.6), (0.3, 2.2)  # m/s, rad/s: least and greatest
JOINT_SPEED = 4.0  # rad/s
BEHIND = 0.10  # m, farthest behind the goal that the hand goes first
LINED_UP = (0.01, 0.1)  # m, rad: a hand no farther off the goal's way comes straight in
_SLOPE = (1.5, 0.1)  # m behind the goal for each m, rad that it is farther off
_CLOSE = (0.005, 0.035)  # m from the goal, between which the fingers close
_CARRIED = 0.3  # m from the goal, within which the goal's own motion is added


def servo_step(hand: Tensor, goal: Tensor, goal_next: Tensor, dt: float) -> Tensor:
    """The next hand state, of hand and goal grasp now and the goal dt seconds later; all (..., 28), in the world."""
    pose, joints = split_hand_state(hand)
    goal_now, _ = split_hand_state(goal)
    target, closed = split_hand_state(goal_next)
    way_in = goal.new_tensor(RETREAT)
    way_in = way_in / way_in.norm()
    offset = pose_apply(pose_inverse(goal_now), pose[..., :3])
    behind = (offset * way_in).sum(-1).clamp_min(0)
    beside = (offset - behind[..., None] * way_in).norm(dim=-1)
    turned = quat_angle(goal_now[..., 3:], pose[..., 3:])
    off = _SLOPE[0] * (beside - LINED_UP[0]).clamp_min(0) + _SLOPE[1] * (turned - LINED_UP[1]).clamp_min(0)
    mouth = pose_apply(target, off.clamp_max(BEHIND)[..., None] * way_in)

    way = mouth - pose[..., :3]
    far = way.norm(dim=-1, keepdim=True)
    carried = (target - goal_now)[..., :3].norm(dim=-1, keepdim=True) * (far < _CARRIED)
    move = (GAIN * far).clamp(*SPEED) * dt + carried
    position = pose[..., :3] + way * (move / far.clamp_min(1e-9)).clamp_max(1.0)
    angle = quat_angle(target[..., 3:], pose[..., 3:])[..., None]
    turn = (GAIN * angle).clamp(*TURN_SPEED) * dt
    rotation = quat_slerp(pose[..., 3:], target[..., 3:], (turn / angle.clamp_min(1e-9)).clamp_max(1.0))
    left = (target[..., :3] - position).norm(dim=-1, keepdim=True)
    closing = ((_CLOSE[1] - left) / (_CLOSE[1] - _CLOSE[0])).clamp(0, 1)
    opened = OPEN_HAND.to(joints).expand_as(joints)
    bend = (opened + closing * (closed - opened) - joints).clamp(-JOINT_SPEED * dt, JOINT_SPEED * dt)
    return join_hand_state(torch.cat((position, rotation), dim=-1), joints + bend)


def servo_plan(hand: Tensor, goals: Tensor, dt: float) -> Tensor:
    """Hand states of the next T frames, (B, T, 28): hand (B, 28), goals (B, 1 + T, 28) now and in those frames."""
    states = []
    for now, following in zip(goals[:, :-1].unbind(1), goals[:, 1:].unbind(1), strict=True):
        hand = servo_step(hand, now, following, dt)
        states.append(hand)
    return torch.stack(states, dim=1)
