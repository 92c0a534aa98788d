"""Batched rotations and rigid poses in torch.

Quaternions are unit, ordered w x y z. A pose is 7 numbers [x y z, qw qx qy qz] and maps points of its own frame to the
frame it is given in. Every function takes any leading batch shape, broadcasts, is differentiable, and is written in
elementwise operations alone, so that a world's result does not depend on how many worlds stand beside it. For the same
reason there is no `torch.atan2`: on a CPU its last bits depend on where in the batch a number stands (`angle_of`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Rotation b followed by rotation a. (..., 4), (..., 4) -> (..., 4)."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )


def quat_conjugate(q: Tensor) -> Tensor:
    """Inverse of a unit quaternion. (..., 4) -> (..., 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def quat_rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors: (..., 4), (..., 3) -> (..., 3)."""
    w, x, y, z = q.unbind(-1)
    vx, vy, vz = v.unbind(-1)
    tx, ty, tz = 2.0 * (y * vz - z * vy), 2.0 * (z * vx - x * vz), 2.0 * (x * vy - y * vx)
    return torch.stack(
        (vx + w * tx + y * tz - z * ty, vy + w * ty + z * tx - x * tz, vz + w * tz + x * ty - y * tx), dim=-1
    )


def quat_normalize(q: Tensor) -> Tensor:
    """Unit quaternion with w >= 0. (..., 4) -> (..., 4)."""
    q = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.where(q[..., :1] < 0, -q, q)


def quat_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between two rotations, radians in [0, pi]. (..., 4), (..., 4) -> (...)."""
    d = quat_multiply(quat_conjugate(a), b)
    return 2.0 * angle_of(d[..., 1:].norm(dim=-1), d[..., 0].abs())


def angle_of(sine: Tensor, cosine: Tensor) -> Tensor:
    """Angle in [0, pi] of a sine of 0 or more and its cosine, (...), radians, by the tangent of its half."""
    return 2.0 * torch.atan(sine / (1.0 + cosine).clamp_min(1e-15))


def quat_slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Rotation a fraction t (..., 1) of the way from a to b along the shorter arc. -> (..., 4)."""
    delta = quat_to_axis_angle(quat_multiply(b, quat_conjugate(a)))
    return quat_normalize(quat_multiply(quat_from_axis_angle(delta * t), a))


def quat_from_axis_angle(v: Tensor) -> Tensor:
    """Axis-angle (..., 3), radians, to unit quaternion (..., 4)."""
    angle = v.norm(dim=-1, keepdim=True)
    half = 0.5 * angle
    small = angle < 1e-6
    scale = torch.where(small, 0.5 - angle * angle / 48.0, torch.sin(half) / torch.where(small, 1.0, angle))
    return torch.cat((torch.cos(half), v * scale), dim=-1)


def quat_to_axis_angle(q: Tensor) -> Tensor:
    """Unit quaternion (..., 4) to axis-angle (..., 3), angle in [0, pi]."""
    q = torch.where(q[..., :1] < 0, -q, q)
    n = q[..., 1:].norm(dim=-1, keepdim=True)
    small = n < 1e-7
    scale = torch.where(small, 2.0, 2.0 * angle_of(n, q[..., :1]) / torch.where(small, 1.0, n))
    return q[..., 1:] * scale


def quat_from_matrix(m: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) to unit quaternion (..., 4), w >= 0 (Shepperd's method: the largest of four)."""
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    candidates = torch.stack(
        (
            torch.stack(
                (
                    1 + m00 + m11 + m22,
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                ),
                -1,
            ),
            torch.stack(
                (
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + m00 - m11 - m22,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                ),
                -1,
            ),
            torch.stack(
                (
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 0, 1] + m[..., 1, 0],
                    1 - m00 + m11 - m22,
                    m[..., 1, 2] + m[..., 2, 1],
                ),
                -1,
            ),
            torch.stack(
                (
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 - m00 - m11 + m22,
                ),
                -1,
            ),
        ),
        dim=-2,
    )  # (..., 4, 4), row i has q_i * 4 q
    best = torch.stack([candidates[..., i, i] for i in range(4)], -1).argmax(-1)
    row = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return quat_normalize(row)


def quat_to_matrix(q: Tensor) -> Tensor:
    """Unit quaternion (..., 4) to rotation matrix (..., 3, 3)."""
    w, x, y, z = q.unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def pose_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Pose b, given in frame a, expressed where a is expressed. (..., 7), (..., 7) -> (..., 7)."""
    position = a[..., :3] + quat_rotate(a[..., 3:], b[..., :3])
    rotation = quat_multiply(a[..., 3:], b[..., 3:])
    return torch.cat((position, rotation), dim=-1)


def pose_inverse(p: Tensor) -> Tensor:
    """(..., 7) -> (..., 7)."""
    q = quat_conjugate(p[..., 3:])
    return torch.cat((-quat_rotate(q, p[..., :3]), q), dim=-1)


def pose_apply(p: Tensor, points: Tensor) -> Tensor:
    """Points of frame p, (..., 3), in the frame p is given in. Poses (..., 7) broadcast against points."""
    return p[..., :3] + quat_rotate(p[..., 3:], points)


def pose_velocity(before: Tensor, after: Tensor, dt: Tensor | float) -> Tensor:
    """World-frame velocity [linear m/s, angular rad/s] between two poses dt seconds apart. (..., 7) -> (..., 6)."""
    turn = quat_to_axis_angle(quat_multiply(after[..., 3:], quat_conjugate(before[..., 3:])))
    return torch.cat((after[..., :3] - before[..., :3], turn), dim=-1) / dt


def pose_integrate(pose: Tensor, velocity: Tensor, dt: Tensor | float) -> Tensor:
    """Pose after dt seconds at a constant world-frame velocity; inverse of `pose_velocity`. (..., 7), (..., 6)."""
    step = velocity * dt
    turn = quat_multiply(quat_from_axis_angle(step[..., 3:]), pose[..., 3:])
    return torch.cat((pose[..., :3] + step[..., :3], turn), dim=-1)
