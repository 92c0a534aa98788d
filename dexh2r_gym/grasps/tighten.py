"""Tightening of a grasp: where to drive the joints so that the fingers press on the object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dexh2r_gym.hand import JOINT_NAMES, LINK_NAMES, SURFACE_LINK, clamp_joints, surface_points
from dexh2r_gym.objects import ObjectBatch, ObjectModel

TIGHTEN_RANGE = 0.005  # m, surface points this near to the object press on it
TIGHTEN_STEP = 0.08  # rad, how far the joint that helps a finger most moves its target
_FINGERS = ("FF", "MF", "RF", "LF", "TH")


def tighten(
    objects: ObjectModel | Sequence[ObjectModel] | ObjectBatch,
    palm_pose: Tensor,
    joints: Tensor,
    *,
    index: Tensor | None = None,
    step: float = TIGHTEN_STEP,
) -> Tensor:
    """Joint targets (G, 22) that press the fingers of grasps, palm (G, 7) and joints (G, 22), on their objects.

    One step of the joints along the gradient that moves surface points within 5 mm of the object against its normals.
    Each finger's step is scaled so that its most useful joint moves by `step` radians.

    index: (G,) long, the object of each grasp; None: all hold the first.
    """
    if isinstance(objects, ObjectModel):
        objects = (objects,)
    batch = objects if isinstance(objects, ObjectBatch) else ObjectBatch(tuple(objects))
    index = torch.zeros(len(joints), dtype=torch.long, device=joints.device) if index is None else index
    with torch.enable_grad():
        moving = joints.detach().float().requires_grad_()
        points, normals = surface_points(palm_pose.detach().float(), moving)
        fixed = points.detach().flatten(0, 1)
        own = index.repeat_interleave(points.shape[1])
        fingers = (~torch.tensor([name in ("rh_palm", "rh_wrist") for name in LINK_NAMES]))[SURFACE_LINK].to(own.device)
        distance = batch.signed_distance_fast(own, fixed)
        near = ((distance.abs() < TIGHTEN_RANGE) & fingers.repeat(len(joints))).nonzero().squeeze(1)
        outward = torch.zeros_like(fixed)
        outward[near] = _outward(batch, own[near], fixed[near])
        outward = outward.view_as(points)
        facing = (normals.detach() * outward).sum(-1) < 0  # the back of a finger pulls nothing
        push = torch.where(facing, -(points * outward).sum(-1), 0.0).sum()
        (slope,) = torch.autograd.grad(push, moving)
    finger = torch.tensor([_FINGERS.index(name[:2]) for name in JOINT_NAMES], device=slope.device).expand(slope.shape)
    largest = slope.new_zeros(*slope.shape[:-1], len(_FINGERS)).scatter_reduce(-1, finger, slope.abs(), "amax")
    target = joints + step * (slope / largest.gather(-1, finger).clamp_min(1e-6)).to(joints)
    return clamp_joints(target)


def _outward(batch: ObjectBatch, index: Tensor, points: Tensor, h: float = 0.003) -> Tensor:
    """Unit gradient of the distance field at points (N, 3), by differences over h metres."""
    slope = []
    for axis in range(3):
        offset = points.new_zeros(3)
        offset[axis] = h
        ahead, behind = (batch.signed_distance_fast(index, points + sign * offset) for sign in (1, -1))
        slope.append(ahead - behind)
    return normalize(torch.stack(slope, dim=-1), dim=-1)
