"""What an observation is made of: parts by name, their shapes, and the space of each `obs_mode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.sensing.rgbd import MAX_DEPTH, picture_keys
from dexh2r_gym.types import HAND_STATE_SIZE, SceneState, join_hand_state

if TYPE_CHECKING:
    from dexh2r_gym.envs.options import HandoverOptions

OBS_MODES = ("state", "state_dict", "point_cloud", "rgbd")
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
PROPRIOCEPTION = ("agent_pos", "agent_vel", "phase")  # known without looking, so never late
NO_GOAL_DISTANCE = 10.0


def parse_obs_mode(obs_mode: str) -> tuple[str, ...]:
    """The modes that a name such as `point_cloud+state` unites. ValueError lists the valid ones."""
    modes = tuple(obs_mode.split("+")) if isinstance(obs_mode, str) else ()
    unknown = [mode for mode in modes if mode not in OBS_MODES]
    if unknown or not modes or len(set(modes)) < len(modes):
        raise ValueError(
            f"unknown obs_mode {obs_mode!r}; choose one of {', '.join(OBS_MODES)}, or several joined by '+', "
            "such as point_cloud+state"
        )
    return modes


def observation_space(options: HandoverOptions) -> spaces.Space:
    """Box (148,) for `state` alone; a Dict for everything else, whose keys are those of all modes that it unites."""
    modes = parse_obs_mode(options.obs_mode)
    if modes == ("state",) and not options.goal_pos:
        return _box(sum(STATE_SHAPES.values()))
    parts: dict[str, spaces.Space] = {}
    if "state_dict" in modes:
        parts |= {name: _box(size) for name, size in STATE_SHAPES.items()}
    if "state" in modes:
        parts["state"] = _box(sum(STATE_SHAPES.values()))
    parts["agent_pos"] = _box(HAND_STATE_SIZE)
    if options.goal_pos:
        parts["goal_pos"] = _box(HAND_STATE_SIZE)
    if "point_cloud" in modes:
        parts["point_cloud"] = _box(options.num_points, 3)
    if "rgbd" in modes:
        width, height = options.image_size
        for names in picture_keys(find_cameras(options.cameras, options.image_size), options.segmentation):
            for kind, name in names.items():
                parts[name] = _picture(kind, height, width)
    return spaces.Dict(parts)


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _picture(kind: str, height: int, width: int) -> spaces.Box:
    if kind == "depth":
        return spaces.Box(0.0, MAX_DEPTH, (height, width), np.float32)
    return spaces.Box(0, 255, (height, width, 3) if kind == "image" else (height, width), np.uint8)


def state_parts(
    scene: SceneState,
    giver_joints: Tensor,
    goal_pose: Tensor,
    goal_joints: Tensor,
    d: Tensor,
    aligning: Tensor,
    progress: Tensor,
) -> dict[str, Tensor]:
    """The parts of `STATE_SHAPES`, (B, size) float32, in that order.

    giver_joints: (B, 16, 3). goal_pose: (B, 7) world. goal_joints: (B, 22). d: (B,) metres or inf. aligning: (B,) bool.
    progress: (B,) in [0, 1].
    """
    parts = {
        "agent_pos": join_hand_state(scene.hand_pose, scene.hand_joints),
        "agent_vel": scene.hand_velocity,
        "object_pose": scene.object_pose,
        "object_vel": scene.object_velocity,
        "giver_joints": giver_joints.flatten(1),
        "goal_state": join_hand_state(goal_pose, goal_joints),
        "goal_distance": d.clamp_max(NO_GOAL_DISTANCE)[:, None],
        "phase": torch.stack((aligning.to(progress), progress), dim=-1),
    }
    return {name: value.float() for name, value in parts.items()}


def assemble(parts: dict[str, Any], space: spaces.Space) -> Any:
    """An observation of this space from parts (B, ...) that hold at least what it needs."""
    if isinstance(space, spaces.Dict):
        return {name: _flat(parts) if name == "state" else parts[name] for name in space.spaces}
    return _flat(parts)


def _flat(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([parts[name] for name in STATE_SHAPES], dim=-1)
