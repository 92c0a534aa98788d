"""Kinematic table of the right ShadowHand E3M5, rooted at the palm.

Source: Shadow Robot's own URDF (sr_description, E3M5), the hand recorded in DexH2R. Metres and radians, quaternions
w x y z. Fingers point along +z of the palm, the inner side of the palm faces -y, the thumb is on +x. The two wrist
joints are fixed at zero, so the wrist is a rigid part of the palm; poses of the hand are those of `rh_palm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin, sqrt
from typing import Tuple  # noqa: UP035 - the IsaacGymEnvs task reads this file in Python 3.8

import torch

from dexh2r_gym.constants import constant

Vec3 = Tuple[float, float, float]  # noqa: UP006
Quat = Tuple[float, float, float, float]  # noqa: UP006

PALM = "rh_palm"
WRIST = "rh_wrist"
WRIST_POSITION: Vec3 = (0.0, 0.0, -0.034)  # of the wrist's frame in the palm, both wrist joints at zero
FINGERS = ("ff", "mf", "rf", "lf", "th")  # first (index), middle, ring, little, thumb


@dataclass(frozen=True)
class Joint:
    """A hinge between two bodies: where its frame stands in the parent, and what it may do."""

    name: str
    parent: str
    child: str
    position: Vec3  # m, in the parent's frame
    axis: Vec3  # unit, in the joint's frame
    lower: float  # rad
    upper: float  # rad
    frame: Quat = (1.0, 0.0, 0.0, 0.0)  # turn of the joint's frame in the parent, at angle zero


_ORIGIN: Vec3 = (0.0, 0.0, 0.0)
_X: Vec3 = (1.0, 0.0, 0.0)
_Y: Vec3 = (0.0, 1.0, 0.0)
_MINUS_Y: Vec3 = (0.0, -1.0, 0.0)
_LITTLE_METACARPAL: Vec3 = (sin(radians(35)), 0.0, cos(radians(35)))
_TURN_Y_45: Quat = (sqrt(2.0 + sqrt(2.0)) / 2.0, 0.0, sqrt(2.0 - sqrt(2.0)) / 2.0, 0.0)
_TURN_Z_MINUS_90: Quat = (sqrt(0.5), 0.0, 0.0, -sqrt(0.5))


def _finger(finger: str, base: str, position: Vec3, axis: Vec3) -> tuple[Joint, ...]:
    """The four joints that every finger but the thumb has: spread (J4), then three that flex."""
    j, b = finger.upper() + "J", f"rh_{finger}"
    return (
        Joint(j + "4", base, b + "knuckle", position, axis, -0.3491, 0.3491),
        Joint(j + "3", b + "knuckle", b + "proximal", _ORIGIN, _X, -0.2618, 1.5708),
        Joint(j + "2", b + "proximal", b + "middle", (0.0, 0.0, 0.045), _X, 0.0, 1.5708),
        Joint(j + "1", b + "middle", b + "distal", (0.0, 0.0, 0.025), _X, 0.0, 1.5708),
    )


JOINTS: tuple[Joint, ...] = (
    *_finger("ff", PALM, (0.033, 0.0, 0.095), _MINUS_Y),
    *_finger("mf", PALM, (0.011, 0.0, 0.099), _MINUS_Y),
    *_finger("rf", PALM, (-0.011, 0.0, 0.095), _Y),
    Joint("LFJ5", PALM, "rh_lfmetacarpal", (-0.033, 0.0, 0.02071), _LITTLE_METACARPAL, 0.0, 0.7854),
    *_finger("lf", "rh_lfmetacarpal", (0.0, 0.0, 0.06579), _Y),
    Joint("THJ5", PALM, "rh_thbase", (0.034, -0.00858, 0.029), (0.0, 0.0, -1.0), -1.0472, 1.0472, _TURN_Y_45),
    Joint("THJ4", "rh_thbase", "rh_thproximal", _ORIGIN, _X, 0.0, 1.2217),
    Joint("THJ3", "rh_thproximal", "rh_thhub", (0.0, 0.0, 0.038), _X, -0.2094, 0.2094),
    Joint("THJ2", "rh_thhub", "rh_thmiddle", _ORIGIN, _MINUS_Y, -0.6981, 0.6981),
    Joint("THJ1", "rh_thmiddle", "rh_thdistal", (0.0, 0.0, 0.032), _X, -0.2618, 1.5708, _TURN_Z_MINUS_90),
)

JOINT_NAMES: tuple[str, ...] = tuple(j.name for j in JOINTS)
JOINT_LOWER = torch.tensor([j.lower for j in JOINTS], dtype=torch.float64)  # (22,) rad
JOINT_UPPER = torch.tensor([j.upper for j in JOINTS], dtype=torch.float64)  # (22,) rad

LINK_NAMES: tuple[str, ...] = (
    PALM,
    *(f"rh_{finger}{part}" for finger in ("ff", "mf", "rf", "lf") for part in ("proximal", "middle", "distal")),
    "rh_lfmetacarpal",
    "rh_thproximal",
    "rh_thmiddle",
    "rh_thdistal",
    WRIST,
)
"""The 18 links that have a surface; knuckles, thumb base and thumb hub have none of their own."""


def _joints(**degrees: float) -> torch.Tensor:
    """Joint vector (22,) from angles by joint name, zero where not named."""
    return torch.deg2rad(torch.tensor([degrees.get(name, 0.0) for name in JOINT_NAMES], dtype=torch.float64))


OPEN_HAND = _joints(
    FFJ4=-5, FFJ3=10, FFJ2=15, FFJ1=10,
    MFJ3=10, MFJ2=15, MFJ1=10,
    RFJ4=-3, RFJ3=10, RFJ2=15, RFJ1=10,
    LFJ5=3, LFJ4=-8, LFJ3=10, LFJ2=15, LFJ1=10,
    THJ5=10, THJ4=45, THJ2=10, THJ1=15,
)  # fmt: skip
"""A relaxed open hand, ready to take: fingers a little bent and spread, thumb opposed. (22,) rad."""


def clamp_joints(joints: torch.Tensor) -> torch.Tensor:
    """Joints (..., 22) brought within the hand's ranges."""
    return joints.clamp(constant(JOINT_LOWER, joints), constant(JOINT_UPPER, joints))
