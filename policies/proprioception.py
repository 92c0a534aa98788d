"""The hand's own state as numbers for a network: where it was before, how it stands in the world, its joints."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.rotations import pose_apply, pose_inverse
from dexh2r_gym.types import split_hand_state
from policies.hand_vectors import base_of, encode, vector_size

_SCALE = 0.1  # m, to which lengths are compared
MIDDLE = (0.0, 0.0, 1.0)  # m, where objects change hands


def proprioception_size(observed: int, rotation: str, frame: str) -> int:
    """Numbers of `proprioception`."""
    return observed * vector_size(rotation) + (vector_size("6d") if frame == "palm" else 0)


def proprioception(states: Tensor, rotation: str, frame: str) -> Tensor:
    """Hand states (B, T, 28) as `policies.hand_vectors` says them and, where they are differences to the present hand,
    this as well, in the world. -> (B, proprioception_size)"""
    seen = _scaled(encode(states, base_of(states[:, -1], frame), rotation), frame)
    if frame == "world":
        return seen.flatten(1)
    own = _scaled(encode(states[:, -1:], torch.zeros_like(states[:, -1]), "6d"), "world")
    return torch.cat((seen.flatten(1), own.flatten(1)), dim=1)


def _scaled(numbers: Tensor, frame: str) -> Tensor:
    middle = numbers.new_tensor(MIDDLE if frame == "world" else (0.0, 0.0, 0.0))
    return torch.cat(((numbers[..., :3] - middle) / _SCALE, numbers[..., 3:]), dim=-1)


def to_frame(points: Tensor, present: Tensor, frame: str) -> Tensor:
    """Points (B, ..., 3) of the world in the frame of `hand_vectors`, in tenths of a metre; present (B, 28)."""
    if frame == "palm":
        pose = pose_inverse(split_hand_state(present)[0])
        points = pose_apply(pose.view(-1, *[1] * (points.ndim - 2), 7), points)
    return points / _SCALE
