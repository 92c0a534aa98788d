"""Exact depth without choosing points by what is found: the same work for every point, for devices that must not wait.

As `ExactDistance.depth`, but each point is held against all parts of its solid, and its distance to the surface is that
to the triangles of the `LEAVES` leaves whose boxes are nearest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dexh2r_gym.objects.exact import BEYOND, LEAF, ExactDistance, box_distance_squared, dot, triangle_distance_squared

LEAVES = 32


def depth(solids: ExactDistance, index: Tensor, points: Tensor) -> Tensor:
    """Depth of points (N, 3) inside the solids index (N,), 0 outside. -> (N,)"""
    in_parts, foot = depth_in_parts(solids, index, points)
    covered = inside(solids, index, foot) & (in_parts > 0)
    return torch.where(covered, torch.maximum(in_parts, distance(solids, index, points)), in_parts)


def depth_in_parts(solids: ExactDistance, index: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Greatest depth (N,) of points (N, 3) in any one part of the solids index (N,), 0 outside all, and a point (N, 3)
    just beyond the plane it is from."""
    at = points.T
    depth, foot = torch.zeros_like(at[0]), at
    for slot, there in _parts(solids, index):
        planes = solids.planes[:, slot].to(points.dtype)  # (4, N, P)
        height, side = (dot(planes[:3], at[..., None]) + planes[3]).max(-1)
        deeper = there & (-height > depth)
        normal = planes[:3].gather(-1, side[None, :, None].expand(3, -1, 1)).squeeze(-1)
        depth = torch.where(deeper, -height, depth)
        foot = torch.where(deeper, at + (BEYOND - height) * normal, foot)
    return depth, foot.T


def inside(solids: ExactDistance, index: Tensor, points: Tensor) -> Tensor:
    """Whether points (N, 3) lie in the solids index (N,). -> (N,) bool"""
    at, found = points.T, torch.zeros_like(index, dtype=torch.bool)
    for slot, there in _parts(solids, index):
        planes = solids.planes[:, slot].to(points.dtype)
        found |= there & ((dot(planes[:3], at[..., None]) + planes[3]).amax(-1) <= 0)
    return found


def distance(solids: ExactDistance, index: Tensor, points: Tensor) -> Tensor:
    """Unsigned distance of points (N, 3) from the surfaces of solids index (N,). -> (N,)"""
    at, count = points.T.contiguous(), min(LEAVES, solids.leaf_box.shape[-1])
    bound, slot = box_distance_squared(at, solids.leaf_box, index).topk(count, largest=False)
    leaf = torch.where(bound.isinf(), 0, slot) + solids.leaf_start[index][:, None]  # (N, leaves)
    triangle = (leaf[..., None] * LEAF + torch.arange(LEAF, device=leaf.device)).flatten(1)
    corners = solids.triangles[:, :, triangle].to(at.dtype)  # (3 corners, 3, N, triangles)
    return triangle_distance_squared(at[..., None].expand_as(corners[0]), corners).amin(1).sqrt()


def _parts(solids: ExactDistance, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each place among a solid's parts: which part (N,) of all is there, and whether there is one, (N,) bool."""
    for slot in range(solids.part_box.shape[-1]):
        there = solids.part_box[0, 0, :, slot][index].isfinite()
        yield torch.where(there, solids.part_start[index] + slot, 0), there
