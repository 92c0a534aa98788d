"""How good grasps are: depth by two definitions, stability by three readings, and how much they differ (Table 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.depth import penetration_depth
from dexh2r_gym.grasps.stability import STABLE_DISTANCE, is_stable
from dexh2r_gym.hand import surface_points
from dexh2r_gym.objects import ObjectModel

_CHUNK = 64  # grasps whose surface points are looked at together


def grasp_depth(obj: ObjectModel, palm_pose: Tensor, joints: Tensor) -> Tensor:
    """Exact depth of the hand's deepest surface point in the object, 0 if none: (G, 7), (G, 22) -> (G,) metres."""
    if len(joints) == 0:
        return joints.new_zeros(0)
    chunks = zip(palm_pose.split(_CHUNK), joints.split(_CHUNK), strict=True)
    return torch.cat([obj.penetration(surface_points(*grasp)[0]).amax(-1) for grasp in chunks])


def released_grasp_depth(obj: ObjectModel, palm_pose: Tensor, joints: Tensor) -> Tensor:
    """Depth by the released code's definition (`dexh2r_gym.depth.penetration_depth`). (G, 7), (G, 22) -> (G,) metres"""
    if len(joints) == 0:
        return joints.new_zeros(0)
    chunks = zip(palm_pose.split(_CHUNK), joints.split(_CHUNK), strict=True)
    return torch.cat([penetration_depth(surface_points(*grasp)[0], obj.points, obj.normals) for grasp in chunks])


def stable_any(displacement: Tensor) -> Tensor:
    """Stable under at least one of the six pushes: succ1 as the released code counts it. (..., 6) -> (...) bool"""
    return (displacement < STABLE_DISTANCE).any(-1)


def stable_one(displacement: Tensor, generator: torch.Generator) -> Tensor:
    """Stable under one push drawn at random: succ1 as the paper words it. (G, 6) -> (G,) bool"""
    push = torch.randint(displacement.shape[-1], (len(displacement), 1), generator=generator)
    return displacement.gather(1, push).squeeze(1) < STABLE_DISTANCE


def diversity(joints: Tensor, displacement: Tensor) -> float:
    """Standard deviation of each joint angle over the grasps that are stable (succ6), mean of the 22, radians.

    (G, 22), (G, 6) -> rad; nan where fewer than two are stable.
    """
    good = joints[is_stable(displacement)]
    return float(good.std(dim=0).mean()) if len(good) > 1 else float("nan")
