"""Grasps made by hand, with known outcomes."""

from __future__ import annotations

import math

import torch

from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.rotations import pose_inverse, quat_from_axis_angle

IDENTITY = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
FLAT_HAND = torch.zeros(22, dtype=torch.float64)
RADIUS = 0.0275  # of the can `aerosol_can`, which lies along z, m
_CAGE = {"J3": 0.42, "J2": 1.0, "J1": 0.7, "LFJ3": 0.2} | {
    "THJ5": 0.3,
    "THJ4": 1.2,
    "THJ3": 0.0,
    "THJ2": 0.0,
    "THJ1": 0.4,
}


def beside_palm(offset: float) -> torch.Tensor:
    """A palm (1, 7) in the frame of a can that lies along its x, its axis at y = offset, before the knuckles."""
    turn = quat_from_axis_angle(torch.tensor([0.0, math.pi / 2, 0.0], dtype=torch.float64))
    return pose_inverse(torch.cat((torch.tensor([0.0, offset, 0.092], dtype=torch.float64), turn)))[None]


def cage() -> tuple[torch.Tensor, torch.Tensor]:
    """A hand whose palm touches the can and whose fingers and thumb go around it: palm pose (1, 7), joints (1, 22)."""
    joints = torch.tensor([_CAGE.get(name, _CAGE.get(name[-2:], 0.0)) for name in JOINT_NAMES])
    return beside_palm(-0.014 - RADIUS), joints[None].double()
