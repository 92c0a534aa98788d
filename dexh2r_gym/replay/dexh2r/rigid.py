"""Rigid motion that takes one set of points to another."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.rotations import pose_apply, quat_from_matrix

TOLERANCE = 0.002  # m, root mean square; points further off than this are not those of the same rigid object


def fit_rigid(reference: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Poses (T, 7) that take points (P, 3) to their images (T, P, 3) with least squares (Kabsch), and the root mean
    square of what is left, (T,) metres. float64"""
    reference, moved = reference.double(), moved.double()
    middle, image = reference.mean(-2), moved.mean(-2)
    u, _, vh = torch.linalg.svd((reference - middle).mT @ (moved - image[:, None]))
    proper = torch.ones(len(moved), 3, dtype=torch.float64)
    proper[:, 2] = torch.linalg.det(vh.mT @ u.mT)  # a mirror image is no motion
    turn = (vh.mT * proper[:, None, :]) @ u.mT
    rotation = quat_from_matrix(turn)
    pose = torch.cat((image - (turn @ middle[:, None])[..., 0], rotation), dim=-1)
    left = (pose_apply(pose[:, None], reference) - moved).square().sum(-1).mean(-1).sqrt()
    return pose, left


def principal_frame(points: Tensor) -> tuple[Tensor, Tensor]:
    """Pose (7,) at the middle of points (P, 3) with their principal axes, the longest along z, and the standard
    deviations (3,) along them. float64"""
    points = points.double()
    middle = points.mean(0)
    variance, axes = torch.linalg.eigh((points - middle).T.cov())
    axes[:, 2] *= torch.linalg.det(axes)
    return torch.cat((middle, quat_from_matrix(axes))), variance.clamp_min(0).sqrt()
