"""Observations as pure functions of the scene; shapes and spaces in one place."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dexh2r_gym.types import SceneState, join_hand_state

OBS_MODES = ("state", "state_dict")
STATE_SHAPES = {
    "agent_pos": 28,  # hand state: palm position m, axis-angle rad, joints rad
    "agent_vel": 28,  # palm linear m/s, angular rad/s (world), joints rad/s
    "object_pose": 7,
    "object_vel": 6,
    "giver_joints": 48,  # 16 joint positions, m
    "goal_state": 28,  # hand state of the nearest goal grasp
    "goal_distance": 1,  # d: palm to goal palm, m; 10 where no goal is free
    "phase": 2,  # alignment under way (0 or 1), part of the recording that has passed
}
NO_GOAL_DISTANCE = 10.0


def observation_space(obs_mode: str) -> spaces.Space:
    """Box (148,) for `state`, the same numbers as a Dict of boxes for `state_dict`."""

    def box(size: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    if obs_mode == "state":
        return box(sum(STATE_SHAPES.values()))
    return spaces.Dict({name: box(size) for name, size in STATE_SHAPES.items()})


def state_observation(
    scene: SceneState,
    giver_bones: Tensor,
    goal_pose: Tensor,
    goal_joints: Tensor,
    d: Tensor,
    aligning: Tensor,
    progress: Tensor,
    obs_mode: str,
) -> Tensor | dict[str, Tensor]:
    """The `state` observation, float32.

    Args:
        giver_bones: (B, 16, 7). goal_pose: (B, 7) world. goal_joints: (B, 22). d: (B,) metres or inf.
        aligning: (B,) bool. progress: (B,) in [0, 1].

    Returns:
        (B, 148), or a dict of (B, size) with the keys of `STATE_SHAPES` in that order.
    """
    parts = {
        "agent_pos": join_hand_state(scene.hand_pose, scene.hand_joints),
        "agent_vel": scene.hand_velocity,
        "object_pose": scene.object_pose,
        "object_vel": scene.object_velocity,
        "giver_joints": giver_bones[..., :3].flatten(1),
        "goal_state": join_hand_state(goal_pose, goal_joints),
        "goal_distance": d.clamp_max(NO_GOAL_DISTANCE)[:, None],
        "phase": torch.stack((aligning.to(progress), progress), dim=-1),
    }
    if obs_mode == "state":
        return torch.cat([parts[k] for k in STATE_SHAPES], dim=-1).float()
    return {k: v.float() for k, v in parts.items()}
