"""Laying points of a surface onto many points of the same surface, whatever the pose."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from dexh2r_gym.replay.dexh2r.rigid import fit_rigid, principal_frame
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_from_matrix

ALIKE = 0.1  # part by which the spread of two samples of one surface may differ
_STARTS = torch.from_numpy(Rotation.create_group("O").as_matrix())  # (24, 3, 3): every way to put an axis on an axis
_COARSE, _FINE = 400, 15  # points and steps of the search from each start
_REFINE = 30  # steps with all points


def fit_surface(points: Tensor, surface: NDArray[np.floating]) -> tuple[Tensor, float] | None:
    """Pose (7,) that lays points (P, 3) of a surface onto many points (S, 3) of the same one, and the root mean square
    of the distances left, metres; None if the two are not alike in size.

    Closest points are matched again and again, from 24 starts with principal axes laid on one another.
    """
    target = torch.from_numpy(np.asarray(surface, dtype=np.float64))
    (own, spread), (its, wide) = principal_frame(points), principal_frame(target)
    if ((spread - wide).abs() > ALIKE * wide.amax()).any():
        return None
    inverse = pose_inverse(own)
    tree = cKDTree(target.numpy())
    some = points[:: max(1, len(points) // _COARSE)].double()
    zeros = torch.zeros(3, dtype=torch.float64)
    best, least = its, float("inf")
    for turn in _STARTS:
        start = pose_multiply(its, pose_multiply(torch.cat((zeros, quat_from_matrix(turn))), inverse))
        pose, left = _closest_points(some, tree, target, start, _FINE)
        if left < least:
            best, least = pose, left
    return _closest_points(points.double(), tree, target, best, _REFINE)


def _closest_points(points: Tensor, tree: cKDTree, target: Tensor, pose: Tensor, steps: int) -> tuple[Tensor, float]:
    for _ in range(steps):
        _, nearest = tree.query(pose_apply(pose, points).numpy())
        pose = fit_rigid(points, target[torch.from_numpy(nearest)][None])[0][0]
    distance, _ = tree.query(pose_apply(pose, points).numpy())
    return pose, float(np.sqrt(np.square(distance).mean()))
