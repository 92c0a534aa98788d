"""Which goal grasps stay clear of the giver's hand, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply

_CHUNK = 1_000_000  # capsule pairs looked at together: bounds memory to about 100 MB
_RESOLUTION = 1e-4  # m, frames in which the giver is this close to another frame, seen from the object, are one


def segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """Least distance between segments p0 p1 and q0 q1, each (..., 3), broadcast. -> (...).

    Closest points of the two lines, clamped first on one segment, then on the other (Ericson, Real-Time Collision
    Detection, 2005, section 5.1.9). Segments may be parallel or of zero length.
    """
    u, v, r = p1 - p0, q1 - q0, p0 - q0
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ur, vr = (u * r).sum(-1), (v * r).sum(-1)
    tiny = torch.finfo(uu.dtype).tiny
    det = uu * vv - uv * uv
    parallel = det <= 1e-6 * uu * vv
    s = torch.where(parallel, 0.0, (uv * vr - ur * vv) / torch.where(parallel, 1.0, det)).clamp(0, 1)
    t = ((uv * s + vr) / vv.clamp_min(tiny)).clamp(0, 1)
    s = ((uv * t - ur) / uu.clamp_min(tiny)).clamp(0, 1)
    return (r + s[..., None] * u - t[..., None] * v).norm(dim=-1)


def free_of_giver(
    palm_pose: Tensor, joints: Tensor, object_pose: Tensor, giver: GiverHand, mano: Tensor, margin: float = 0.003
) -> Tensor:
    """Which of G grasps keep at least `margin` metres from the giver's hand, in each of T frames. -> (T, G) bool.

    palm_pose (G, 7) and joints (G, 22) are in the object's frame; object_pose (T, 7) and mano (T, 61) in the world.
    Both hands are taken as their capsules.
    """
    link, p0, p1, hand_radius = hand_capsules()
    links = forward_kinematics(palm_pose, joints)[:, link]  # (G, K, 7)
    a0, a1 = (pose_apply(links, p[None].to(links)).float() for p in (p0, p1))  # (G, K, 3), object frame

    bone, q0, q1, giver_radius = giver.capsules()
    bones = pose_multiply(pose_inverse(object_pose)[:, None], giver.bone_poses(mano.to(object_pose)))[:, bone]
    ends = torch.stack([pose_apply(bones, q[None].to(bones)) for q in (q0, q1)], dim=1)  # (T, 2, C, 3), object frame
    # A giver who holds the object firmly does not move in its frame: look at each different frame once.
    ends, frame = (ends / _RESOLUTION).round().unique(dim=0, return_inverse=True)
    ends = (ends * _RESOLUTION).float()

    reach = (hand_radius[:, None] + giver_radius + margin).float()  # (K, C)
    free = torch.empty(len(ends), len(palm_pose), dtype=torch.bool)
    step = max(1, _CHUNK // (a0.shape[0] * reach.numel()))
    for i in range(0, len(ends), step):
        b0, b1 = ends[i : i + step, :, None, None].unbind(1)  # (t, 1, 1, C, 3)
        gap = segment_distance(a0[:, :, None], a1[:, :, None], b0, b1)  # (t, G, K, C)
        free[i : i + step] = (gap > reach).all(-1).all(-1)
    return free[frame]
