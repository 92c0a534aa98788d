"""Hand states as networks see and say them: palm poses as differences to one pose, rotations as 6 numbers or 3.

6 numbers are the first two columns of the rotation matrix (Zhou et al., CVPR 2019), continuous everywhere; 3 are the
axis-angle of the paper's DP and DP3. `frame="palm"` takes differences to the present hand, as MotionNet does;
`frame="world"` keeps poses in the world, as DP and DP3 do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.rotations import (
    pose_inverse,
    pose_multiply,
    quat_from_axis_angle,
    quat_from_matrix,
    quat_to_axis_angle,
    quat_to_matrix,
)
from dexh2r_gym.types import NUM_JOINTS, join_hand_state, split_hand_state

ROTATIONS = {"6d": 6, "axis_angle": 3}  # numbers of each representation
FRAMES = ("palm", "world")


def vector_size(rotation: str) -> int:
    """Numbers of a hand state in this representation of rotation."""
    return 3 + ROTATIONS[rotation] + NUM_JOINTS


def base_of(present: Tensor, frame: str) -> Tensor:
    """What present hand states (B, 28) are the differences to, as hand states (B, 28)."""
    return present if frame == "palm" else torch.zeros_like(present)


def encode(states: Tensor, base: Tensor, rotation: str) -> Tensor:
    """Hand states (B, T, 28) of the world as differences to base (B, 28). -> (B, T, 31 or 28)"""
    pose, joints = split_hand_state(states)
    base_pose, base_joints = split_hand_state(base[:, None])
    local = pose_multiply(pose_inverse(base_pose).expand_as(pose), pose)
    return torch.cat((local[..., :3], turn_numbers(local[..., 3:], rotation), joints - base_joints), dim=-1)


def decode(vectors: Tensor, base: Tensor, rotation: str) -> Tensor:
    """The inverse of `encode`: (B, T, 31 or 28) -> hand states (B, T, 28)."""
    position, turn, joints = vectors.split((3, ROTATIONS[rotation], NUM_JOINTS), dim=-1)
    base_pose, base_joints = split_hand_state(base[:, None])
    local = torch.cat((position, _quaternion(turn, rotation)), dim=-1)
    return join_hand_state(pose_multiply(base_pose.expand_as(local), local), joints + base_joints)


def turn_numbers(quaternion: Tensor, rotation: str) -> Tensor:
    """Rotations (..., 4) as (..., 6) or (..., 3)."""
    if rotation == "axis_angle":
        return quat_to_axis_angle(quaternion)
    return quat_to_matrix(quaternion)[..., :2].transpose(-1, -2).flatten(-2)


def _quaternion(turn: Tensor, rotation: str) -> Tensor:
    if rotation == "axis_angle":
        return quat_from_axis_angle(turn)
    first = torch.nn.functional.normalize(turn[..., :3], dim=-1)
    second = turn[..., 3:] - (first * turn[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return quat_from_matrix(torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1))
