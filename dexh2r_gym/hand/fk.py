"""Forward kinematics of the ShadowHand: palm pose and 22 joints to the poses of its 18 links.

The five fingers are worked out together, joint by joint from the palm outwards (a finger of four joints gets a
fixed one at its base), so the cost is that of five small elementwise steps whatever the number of hands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Tuple  # noqa: UP035 - the IsaacGymEnvs task reads this file in Python 3.8

import torch
from torch import Tensor

from dexh2r_gym.hand.kinematics import (
    FINGERS,
    JOINT_NAMES,
    JOINTS,
    LINK_NAMES,
    PALM,
    WRIST,
    WRIST_POSITION,
)
from dexh2r_gym.rotations import pose_apply, quat_multiply

Planes = Tuple[Tensor, ...]  # noqa: UP006
_LEVELS = 5  # joints from palm to fingertip


class _Chain(NamedTuple):
    """The table as arrays: level (5) by finger (5), and where each link is found in them."""

    joint: Tensor  # (25,) long, index of the joint; the added fixed joints point at joint 0 with zero weight
    half: Tensor  # (25,) half an angle per radian of joint: 0.5, or 0 for a fixed joint
    cosine: Tensor  # (5, 5, 4) a joint's quaternion is cos(angle / 2) cosine + sin(angle / 2) sine
    sine: Tensor  # (5, 5, 4)
    position: Tensor  # (5, 5, 3) of the joint in its parent
    link: Tensor  # (18,) long, into [palm, wrist, 25 chain bodies]
    wrist: Tensor  # (3,)


@lru_cache(maxsize=8)
def _chain(dtype: torch.dtype, device: torch.device) -> _Chain:
    joint = torch.zeros(_LEVELS, len(FINGERS), dtype=torch.long)
    half = torch.zeros(_LEVELS, len(FINGERS), dtype=torch.float64)
    cosine = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).repeat(_LEVELS, len(FINGERS), 1)
    sine = torch.zeros(_LEVELS, len(FINGERS), 4, dtype=torch.float64)
    position = torch.zeros(_LEVELS, len(FINGERS), 3, dtype=torch.float64)
    bodies = {PALM: 0, WRIST: 1}
    for index, row in enumerate(JOINTS):
        finger = FINGERS.index(row.name[:2].lower())
        level = _LEVELS - int(row.name[-1])
        joint[level, finger], half[level, finger] = index, 0.5
        cosine[level, finger] = torch.tensor(row.frame, dtype=torch.float64)
        sine[level, finger] = quat_multiply(cosine[level, finger], torch.tensor((0.0, *row.axis), dtype=torch.float64))
        position[level, finger] = torch.tensor(row.position, dtype=torch.float64)
        bodies[row.child] = 2 + level * len(FINGERS) + finger
    link = torch.tensor([bodies[name] for name in LINK_NAMES])
    wrist = torch.tensor(WRIST_POSITION, dtype=torch.float64)
    return _Chain(
        joint=joint.flatten().to(device),
        half=half.flatten().to(device, dtype),
        cosine=cosine.to(device, dtype),
        sine=sine.to(device, dtype),
        position=position.to(device, dtype),
        link=link.to(device),
        wrist=wrist.to(device, dtype),
    )


def forward_kinematics(pose: Tensor, joints: Tensor) -> Tensor:
    """Poses of the links `LINK_NAMES` in the frame the palm's pose is given in.

    Args:
        pose: (..., 7) palm, m and unit quaternion w x y z.
        joints: (..., 22) rad, in the order `JOINT_NAMES`.

    Returns:
        (..., 18, 7). Differentiable in both arguments; leading shapes broadcast.
    """
    if pose.shape[-1] != 7 or joints.shape[-1] != len(JOINT_NAMES):
        raise ValueError(
            f"palm pose must be (..., 7) and joints (..., {len(JOINT_NAMES)}), "
            f"got {tuple(pose.shape)} and {tuple(joints.shape)}"
        )
    dtype = torch.promote_types(pose.dtype, joints.dtype)
    chain = _chain(dtype, joints.device)
    batch = torch.broadcast_shapes(pose.shape[:-1], joints.shape[:-1])
    pose, joints = pose.to(dtype).expand(*batch, 7), joints.to(dtype).expand(*batch, len(JOINT_NAMES))

    # Rotations and places are kept as planes, one tensor per component: contiguous, so fast for many hands too.
    half_angle = joints[..., chain.joint] * chain.half  # (..., 25), level by level
    grid = (_LEVELS, len(FINGERS))
    cosines, sines = torch.cos(half_angle).unflatten(-1, grid), torch.sin(half_angle).unflatten(-1, grid)
    local = [cosines * chain.cosine[..., i] + sines * chain.sine[..., i] for i in range(4)]  # each (..., 5, 5)
    turn: Planes = tuple(pose[..., 3 + i, None].expand(*batch, len(FINGERS)) for i in range(4))
    turns = [turn]  # of the palm, then of every level
    for level in range(_LEVELS):
        turn = _multiply(turn, tuple(q[..., level, :] for q in local))
        turns.append(turn)
    rotation = [torch.stack([q[i] for q in turns], dim=-2) for i in range(4)]  # each (..., 6, 5)
    steps = _rotate(tuple(q[..., :-1, :] for q in rotation), chain.position.unbind(-1))
    place = [pose[..., i, None, None] + step.cumsum(-2) for i, step in enumerate(steps)]  # each (..., 5, 5)
    fingers = torch.stack((*place, *(q[..., 1:, :] for q in rotation)), dim=-1).flatten(-3, -2)  # (..., 25, 7)

    wrist = pose_apply(pose, chain.wrist.expand(*batch, 3))
    wrist_pose = torch.cat((wrist, pose[..., 3:]), dim=-1)
    bodies = torch.cat((pose[..., None, :], wrist_pose[..., None, :], fingers), dim=-2)
    return bodies.index_select(-2, chain.link)


def _multiply(a: Planes, b: Planes) -> Planes:
    """Quaternion product a b, each given as its four components."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def _rotate(q: Planes, v: Planes) -> Planes:
    """Vector v turned by the unit quaternion q, both given as components."""
    w, x, y, z = q
    vx, vy, vz = v
    tx, ty, tz = 2.0 * (y * vz - z * vy), 2.0 * (z * vx - x * vz), 2.0 * (x * vy - y * vx)
    return (
        vx + w * tx + y * tz - z * ty,
        vy + w * ty + z * tx - x * tz,
        vz + w * tz + x * ty - y * tx,
    )
