"""Actions to hand targets: absolute or delta, within the joint ranges, the workspace and the robot's speed limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import SpeedLimits, advance, reachable_fraction
from dexh2r_gym.constants import constant
from dexh2r_gym.hand.kinematics import JOINT_LOWER, JOINT_UPPER, clamp_joints
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply
from dexh2r_gym.types import HAND_STATE_SIZE, split_hand_state

if TYPE_CHECKING:
    from gymnasium import spaces

WORKSPACE_LOWER = (-1.5, -1.0, 0.2)  # palm position, metres, world frame; the robot stands at -x
WORKSPACE_UPPER = (0.6, 1.0, 1.8)
CONTROL_MODES = ("absolute", "delta")


def action_space(control_mode: str) -> spaces.Box:
    """Box (28,): a hand state (absolute) or the change of one frame in parts of the greatest allowed (delta)."""
    from gymnasium import spaces  # here: the IsaacGymEnvs task reads this file where there is none

    if control_mode == "delta":
        return spaces.Box(-1.0, 1.0, (HAND_STATE_SIZE,), np.float32)
    low = np.concatenate((WORKSPACE_LOWER, np.full(3, -np.pi), JOINT_LOWER.numpy()))
    high = np.concatenate((WORKSPACE_UPPER, np.full(3, np.pi), JOINT_UPPER.numpy()))
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def check_action(action: Tensor, num_worlds: int) -> None:
    """Raise ValueError, naming the world, for an action of wrong shape or with NaN or infinity."""
    check_shape(action, num_worlds)
    bad = ~torch.isfinite(action).all(dim=-1)
    if bad.any():
        world = int(bad.nonzero()[0])
        entry = int((~torch.isfinite(action[world])).nonzero()[0])
        raise ValueError(f"action of world {world} has a NaN or infinite number at index {entry}")


def check_shape(action: Tensor, num_worlds: int) -> None:
    """Raise ValueError for actions of wrong shape."""
    if action.shape != (num_worlds, HAND_STATE_SIZE):
        worlds = action.shape[0] if action.ndim == 2 else "no"
        raise ValueError(
            f"actions must have shape ({num_worlds}, {HAND_STATE_SIZE}), got {tuple(action.shape)}"
            + (f": {worlds} worlds given, {num_worlds} expected" if action.ndim == 2 and worlds != num_worlds else
               f": every world, from world 0 on, needs {HAND_STATE_SIZE} numbers")
        )  # fmt: skip


def hand_target(
    action: Tensor, hand_pose: Tensor, joints: Tensor, control_mode: str, limits: SpeedLimits | None, dt: float
) -> tuple[Tensor, Tensor]:
    """The palm pose (B, 7) and joints (B, 22) to command for the next frame.

    Args:
        action: (B, 28). absolute: hand state. delta: change of position, rotation (axis-angle, world frame) and joints,
            1 being the most the robot can do in one frame (the default limits where `limits` is None).
        hand_pose, joints: where the hand was last told to be, (B, 7), (B, 22).
        limits: a target further away than these allow in dt seconds is approached at that speed.
    """
    if control_mode == "delta":
        scale = limits or SpeedLimits()
        turn = quat_from_axis_angle(action[:, 3:6] * (scale.palm_angular * dt / 3**0.5))
        position = hand_pose[:, :3] + action[:, :3] * (scale.palm_linear * dt / 3**0.5)
        target = torch.cat((position, quat_multiply(turn, hand_pose[:, 3:])), dim=-1)
        target_joints = joints + action[:, 6:] * (scale.joint * dt)
    else:
        target, target_joints = split_hand_state(action)
    low, high = (constant(x, target) for x in (WORKSPACE_LOWER, WORKSPACE_UPPER))
    target = torch.cat((target[:, :3].clamp(low, high), target[:, 3:]), dim=-1)
    target_joints = clamp_joints(target_joints)
    fraction = reachable_fraction(hand_pose, joints, target, target_joints, limits, dt)
    return advance(hand_pose, joints, target, target_joints, fraction)
