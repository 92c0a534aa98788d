"""Kinematic table of Universal Robots' UR10e with the ShadowHand at its flange, forward kinematics and Jacobian.

Sources: Universal Robots, "DH parameters for calculations of kinematics and dynamics" and the UR10e's data sheet (joint
ranges and speeds; the elbow's range of +-180 degrees is that of the driver's limits); offsets of the links beside the
joints' axes and radii of capsules after the published drawings. Shadow Robot's URDF: forearm 213 mm, wrist to palm 34.
Metres, radians, seconds. Everything is elementwise, so a world's result does not depend on those beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, radians, sin
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.rotations import quat_from_matrix

Vec3 = tuple[float, float, float]
NUM_ARM_JOINTS = 6


@dataclass(frozen=True)
class ArmJoint:
    """A joint by Denavit and Hartenberg: turn about z by its angle, then d along z, a along x, alpha about x."""

    name: str
    d: float  # m
    a: float  # m
    alpha: float  # rad
    range: float  # rad, to both sides
    speed: float  # rad/s


ARM_JOINTS = (
    ArmJoint("shoulder_pan", 0.1807, 0.0, pi / 2, 2 * pi, radians(120)),
    ArmJoint("shoulder_lift", 0.0, -0.6127, 0.0, 2 * pi, radians(120)),
    ArmJoint("elbow", 0.0, -0.57155, 0.0, pi, radians(180)),
    ArmJoint("wrist_1", 0.17415, 0.0, pi / 2, 2 * pi, radians(180)),
    ArmJoint("wrist_2", 0.11985, 0.0, -pi / 2, 2 * pi, radians(180)),
    ArmJoint("wrist_3", 0.11655, 0.0, 0.0, 2 * pi, radians(180)),
)
ARM_RANGE = torch.tensor([j.range for j in ARM_JOINTS], dtype=torch.float64)  # (6,) rad
ARM_SPEED = torch.tensor([j.speed for j in ARM_JOINTS], dtype=torch.float64)  # (6,) rad/s

BASE_POSITION: Vec3 = (-0.7, -0.2, 0.5)  # m, world
BASE_AXES: tuple[Vec3, Vec3, Vec3] = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))  # x y z, world
"""The arm lies on its side on a column, and moves mostly in upright planes. A UR10e's wrist cannot come within 17 cm of
the axis of its base: upright, anywhere behind the workspace, it misses up to a quarter of the starts of the open data.
So it reaches all of them, and 19 in 20 poses of their demonstrations."""
PALM_OFFSET = 0.213 + 0.034  # m, of the palm in front of the flange, axes alike: the ShadowHand's forearm and wrist
REACH = 0.6127 + 0.57155  # m, from the shoulder's axis to that of the first wrist joint, stretched


@dataclass(frozen=True)
class ArmCapsule:
    """A capsule of link `link`: 0 stands still, link i turns with joint i, about its frame's z. Metres."""

    link: int
    p0: Vec3
    p1: Vec3
    radius: float


ARM_CAPSULES = (
    ArmCapsule(0, (0.0, 0.42, -0.16), (0.0, 0.0, -0.16), 0.08),  # column
    ArmCapsule(0, (0.0, 0.0, -0.16), (0.0, 0.0, 0.0), 0.08),  # flange that holds the arm's base
    ArmCapsule(1, (0.0, 0.0, 0.04), (0.0, 0.0, 0.1807), 0.085),  # base and shoulder
    ArmCapsule(1, (0.0, 0.0, 0.1807), (0.0, -0.10, 0.1807), 0.085),
    ArmCapsule(2, (0.0, 0.0, 0.10), (0.0, 0.0, 0.1762), 0.08),  # upper arm, beside the shoulder
    ArmCapsule(2, (0.0, 0.0, 0.1762), (-0.6127, 0.0, 0.1762), 0.065),
    ArmCapsule(3, (0.0, 0.0, 0.1762), (0.0, 0.0, 0.0393), 0.065),  # elbow, forearm
    ArmCapsule(3, (0.0, 0.0, 0.0393), (-0.57155, 0.0, 0.0393), 0.055),
    ArmCapsule(4, (0.0, 0.0, 0.0393), (0.0, 0.0, 0.17415), 0.048),  # three wrist joints
    ArmCapsule(5, (0.0, 0.0, 0.0), (0.0, 0.0, 0.11985), 0.048),
    ArmCapsule(6, (0.0, 0.0, 0.0), (0.0, 0.0, 0.10), 0.045),
    ArmCapsule(6, (0.0, 0.0, 0.165), (0.0, 0.0, 0.275), 0.060),  # the hand's forearm
    ArmCapsule(6, (0.0, 0.0, 0.30), (0.0, 0.0, 0.34), 0.038),  # its wrist
    ArmCapsule(6, (0.0, 0.0, 0.38), (0.0, 0.0, 0.52), 0.045),  # palm and fingers, for self collision alone
)
NUM_OWN_CAPSULES = 1  # the last of these are the hand, which the scene has in full


class ArmFrames(NamedTuple):
    """Where the seven links 0 to 6 and the palm of N arms are, world frame."""

    position: Tensor  # (N, 7, 3) m, origins of the links
    x: Tensor  # (N, 7, 3) axes of the links
    y: Tensor  # (N, 7, 3)
    z: Tensor  # (N, 7, 3); of links 1 to 6 the axes of the joints
    palm: Tensor  # (N, 3) m; the palm's axes are those of link 6


def arm_frames(joints: Tensor) -> ArmFrames:
    """Forward kinematics. joints: (N, 6) rad."""
    x, y, z = joints.new_tensor(BASE_AXES)[None].expand(len(joints), 3, 3).unbind(1)
    p = joints.new_tensor(BASE_POSITION).expand(len(joints), 3)
    frames = [(p, x, y, z)]
    c, s = joints.cos(), joints.sin()
    for i, joint in enumerate(ARM_JOINTS):
        ci, si = c[:, i, None], s[:, i, None]
        x, y = ci * x + si * y, ci * y - si * x
        frames.append((p, x, y, z))
        if joint.a:
            p = p + joint.a * x
        if joint.d:
            p = p + joint.d * z
        if joint.alpha:
            y, z = (z, -y) if joint.alpha > 0 else (-z, y)
    position, xs, ys, zs = (torch.stack(part, dim=1) for part in zip(*frames, strict=True))
    return ArmFrames(position, xs, ys, zs, p + PALM_OFFSET * z)


def palm_pose(frames: ArmFrames) -> Tensor:
    """Pose of the palm, (N, 7)."""
    matrix = torch.stack((frames.x[:, 6], frames.y[:, 6], frames.z[:, 6]), dim=-1)
    return torch.cat((frames.palm, quat_from_matrix(matrix)), dim=-1)


def palm_jacobian(frames: ArmFrames) -> Tensor:
    """Velocity of the palm per joint speed: (N, 6 numbers of linear m/s and angular rad/s, 6 joints)."""
    axis, arm = frames.z[:, 1:], frames.palm[:, None] - frames.position[:, 1:]  # (N, 6, 3)
    return torch.cat((torch.linalg.cross(axis, arm), axis), dim=-1).transpose(1, 2)


def arm_segments(frames: ArmFrames) -> tuple[Tensor, Tensor]:
    """Ends (N, K, 3) of the axes of the K `ARM_CAPSULES`, world frame."""
    links = [capsule.link for capsule in ARM_CAPSULES]
    origin, x, y, z = (axes[:, links] for axes in (frames.position, frames.x, frames.y, frames.z))
    ends = frames.palm.new_tensor([(capsule.p0, capsule.p1) for capsule in ARM_CAPSULES])  # (K, 2, 3)
    return tuple(origin + e[:, :1] * x + e[:, 1:2] * y + e[:, 2:] * z for e in ends.unbind(1))  # type: ignore[return-value]


def dh_matrix(joint: ArmJoint, angle: float) -> Tensor:
    """The (4, 4) matrix of one row of the table, as in textbooks: what forward kinematics is tested against."""
    c, s, ca, sa = cos(angle), sin(angle), cos(joint.alpha), sin(joint.alpha)
    rows = [
        [c, -s * ca, s * sa, joint.a * c],
        [s, c * ca, -c * sa, joint.a * s],
        [0.0, sa, ca, joint.d],
        [0.0, 0.0, 0.0, 1.0],
    ]
    return torch.tensor(rows, dtype=torch.float64)
