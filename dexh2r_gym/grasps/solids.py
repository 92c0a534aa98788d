"""The solids of both hands as `clearance` looks at them: shapes about balls, in balls, and hulls in capsules."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hulls import MAX_HULL_VERTICES, bone_hulls
from dexh2r_gym.hand import hand_shapes
from dexh2r_gym.hand.shapes import Capsule
from dexh2r_gym.types import NUM_GIVER_JOINTS

_ROUNDING = 1e-6  # m, by which a capsule about points is wider than it need be


class HandSolid(NamedTuple):
    """The K shapes of the robot's hand, each a box whose half edges may be 0, grown by a radius."""

    link: Tensor  # (K,) long
    frame: Tensor  # (K, 7) pose in the link's frame, float64
    half: Tensor  # (K, 3) m
    radius: Tensor  # (K,) m
    inner: Tensor  # (K,) m, float64, of the ball about the middle that the shape holds
    outer: Tensor  # (K,) m, float64, of the ball that it lies in


@lru_cache(maxsize=1)
def hand_solid() -> HandSolid:
    frames, halves, radii = [], [], []
    for shape in hand_shapes():
        if isinstance(shape, Capsule):
            p0, p1 = (torch.tensor(p, dtype=torch.float64) for p in (shape.p0, shape.p1))
            axis = torch.nn.functional.normalize(p1 - p0, dim=-1)
            axis = -axis if axis[2] < 0 else axis
            turn = torch.stack((1 + axis[2], -axis[1], axis[0], torch.zeros_like(axis[0])))  # of z onto the axis
            frames.append(torch.cat(((p0 + p1) / 2, torch.nn.functional.normalize(turn, dim=-1))))
            halves.append((0.0, 0.0, float((p1 - p0).norm()) / 2))
            radii.append(shape.radius)
        else:
            frames.append(torch.tensor((*shape.center, *shape.quat), dtype=torch.float64))
            halves.append(shape.half)
            radii.append(0.0)
    half, radius = torch.tensor(halves, dtype=torch.float64), torch.tensor(radii, dtype=torch.float64)
    return HandSolid(
        link=torch.tensor([shape.link for shape in hand_shapes()]),
        frame=torch.stack(frames),
        half=half.float(),
        radius=radius.float(),
        inner=half.amin(-1) + radius,
        outer=half.norm(dim=-1) + radius,
    )


class GiverSolid(NamedTuple):
    """A giver's hand: C capsules, and the hulls that are between the smaller and the greater ones of a convex hand."""

    ends: Tensor  # (2, C, 3) m, frame of the bone
    radii: Tensor  # (3, C) m, of a ball about the middle, a capsule inside, capsules that together cover; < 0: none
    reach: Tensor  # (16,) m, no point of a bone is further from its joint
    vertices: Tensor | None  # (16, V, 3) m, frame of the bone, the last repeated


@lru_cache(maxsize=1)
def capsule_bones() -> Tensor:
    """(C,) long, bone of each capsule, the same in all hands."""
    return GiverHand().capsules()[0]


@lru_cache(maxsize=256)
def giver_solid(giver: GiverHand) -> GiverSolid:
    bone, p0, p1, radius = giver.capsules()
    ends = torch.stack((p0, p1))
    if not giver.convex:
        return GiverSolid(ends, radius.repeat(3, 1), _reach(ends, radius), None)
    ends, radii = torch.empty_like(ends), torch.empty(3, len(bone), dtype=torch.float64)
    vertices = []
    for b, hull in enumerate(bone_hulls(giver)):
        corners = torch.from_numpy(hull.vertices.copy())
        normal = torch.from_numpy(hull.face_normals.copy())
        offset = (normal * torch.from_numpy(hull.triangles[:, 0].copy())).sum(-1)
        own = (bone == b).nonzero()[:, 0]
        for c, points in zip(own.tolist(), _slices(corners, len(own)), strict=True):
            ends[:, c], radii[2, c] = _capsule_about(points)
            middle = ends[:, c].mean(0, keepdim=True)
            radii[0, c], radii[1, c] = ((offset - x @ normal.T).amin() for x in (middle, ends[:, c]))  # from the faces
        vertices.append(torch.cat((corners, corners[-1:].expand(MAX_HULL_VERTICES - len(corners), 3))))
    radii[:2] = torch.where(radii[:2] > 0, radii[:2], -1.0)
    return GiverSolid(ends, radii, _reach(ends, radii[2]), torch.stack(vertices))


def _slices(corners: Tensor, count: int) -> list[Tensor]:
    """Points whose hulls hold the slices, equally wide across its second axis, of the hull of corners (V, 3)."""
    across = (corners - corners.mean(0)) @ torch.linalg.eigh(corners.T.cov())[1][:, 1]  # (V,)
    planes = torch.linspace(float(across.min()), float(across.max()), count + 1, dtype=torch.float64)
    i, j = torch.triu_indices(len(corners), len(corners), 1)
    out = []
    for low, high in pairwise(planes):
        points = [corners[(across >= low - _ROUNDING) & (across <= high + _ROUNDING)]]
        for plane in (low, high):
            t = (plane - across[i]) / (across[j] - across[i])
            cut = (t > 0) & (t < 1)
            points.append(corners[i[cut]] + t[cut, None] * (corners[j[cut]] - corners[i[cut]]))
        out.append(torch.cat(points))
    return out


def _capsule_about(points: Tensor) -> tuple[Tensor, Tensor]:
    """A capsule that holds points (N, 3), along their first axis: ends (2, 3) and radius ()."""
    axis = torch.linalg.eigh(points.T.cov())[1][:, -1]
    along = points @ axis
    beside = points - along[:, None] * axis
    middle = (beside.amin(0) + beside.amax(0)) / 2
    apart = (beside - middle).norm(dim=-1)
    radius = apart.amax() + _ROUNDING
    cap = (radius**2 - apart**2).sqrt()  # how far beyond an end a point may be
    low, high = (along + cap).amin(), (along - cap).amax()
    low, high = torch.minimum(low, (low + high) / 2), torch.maximum(high, (low + high) / 2)
    return torch.stack((middle + low * axis, middle + high * axis)), radius


def _reach(ends: Tensor, radius: Tensor) -> Tensor:
    reach = ends.norm(dim=-1).amax(0) + radius
    return reach.new_zeros(NUM_GIVER_JOINTS).scatter_reduce(0, capsule_bones(), reach, "amax")
