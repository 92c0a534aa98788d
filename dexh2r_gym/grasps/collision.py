"""Which goal grasps stay clear of the giver's hand, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply

_CHUNK = 1_000_000  # pairs of capsules looked at together, bounds memory
_SLACK = 1e-3  # m, more than the rounding of distances in float32
_RESOLUTION = 1e-4  # m, frames in which the giver is this close to another frame, seen from the object, are one


def segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """Least distance between segments p0 p1 and q0 q1, each (..., 3), broadcast. -> (...).

    Closest points of the two lines, clamped first on one segment, then on the other (Ericson, Real-Time Collision
    Detection, 2005, section 5.1.9). Segments may be parallel or of zero length.
    """
    u, v, r = p1 - p0, q1 - q0, p0 - q0
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ur, vr = (u * r).sum(-1), (v * r).sum(-1)
    number = torch.finfo(uu.dtype)
    det = uu * vv - uv * uv
    parallel = det <= 16 * number.eps * uu * vv
    s = torch.where(parallel, 0.0, (uv * vr - ur * vv) / torch.where(parallel, 1.0, det)).clamp(0, 1)
    t = ((uv * s + vr) / vv.clamp_min(number.tiny)).clamp(0, 1)
    s = ((uv * t - ur) / uu.clamp_min(number.tiny)).clamp(0, 1)
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
    a0, a1 = (pose_apply(links, p.to(links)).float() for p in (p0, p1))  # (G, K, 3), object frame

    bone, q0, q1, giver_radius = giver.capsules()
    bones = pose_multiply(pose_inverse(object_pose)[:, None], giver.bone_poses(mano.to(object_pose)))[:, bone]
    ends = torch.stack([pose_apply(bones, q.to(bones)) for q in (q0, q1)], dim=1)  # (T, 2, C, 3), object frame
    # A giver who holds the object firmly does not move in its frame: look at each different frame once.
    ends, frame = (ends / _RESOLUTION).round().unique(dim=0, return_inverse=True)
    ends = (ends * _RESOLUTION).float()

    reach = (hand_radius[:, None] + giver_radius + margin).float()  # (K, C)
    hand_middle, hand_half = (a0 + a1) / 2, (a1 - a0).norm(dim=-1)[0] / 2
    giver_middle, giver_half = ends.mean(1), (ends[:, 1] - ends[:, 0]).norm(dim=-1).amax(0) / 2
    bound = reach + hand_half[:, None] + giver_half + _SLACK  # middles further apart than this cannot clash
    free = torch.ones(len(ends), len(palm_pose), dtype=torch.bool)
    step = max(1, _CHUNK // (hand_middle.shape[0] * reach.numel()))
    for i in range(0, len(ends), step):
        apart = torch.cdist(hand_middle.flatten(0, 1), giver_middle[i : i + step].flatten(0, 1))
        apart = apart.view(*hand_middle.shape[:2], -1, reach.shape[1])  # (G, K, t, C)
        g, k, t, c = (apart < bound[:, None]).nonzero(as_tuple=True)
        gap = segment_distance(a0[g, k], a1[g, k], ends[t + i, 0, c], ends[t + i, 1, c])
        clash = gap <= reach[k, c]
        free[t[clash] + i, g[clash]] = False
    return free[frame]
