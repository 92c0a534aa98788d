"""Exact signed distance to unions of convex parts, many objects at once.

The solid is the union of convex parts. The sign is decided by the parts (inside, if inside all half-spaces of any part),
the magnitude by the triangles of the union's surface. Both tests are culled with axis-aligned boxes, triangle boxes
holding `LEAF` triangles that lie close together, so that a point meets a few dozen triangles instead of hundreds.
All arithmetic that reaches the result is elementwise: a point's distance does not depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

LEAF = 8  # triangles in a culling box
CHUNK = 4096  # points handled at a time, bounds memory


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of (..., 3) vectors, summed in a fixed order. -> (...)"""
    p = a * b
    return p[..., 0] + p[..., 1] + p[..., 2]


def box_distance(points: Tensor, box: Tensor) -> Tensor:
    """Distance of points (..., 3) from boxes (..., 2, 3) [lower, upper]; 0 inside. -> (...)"""
    gap = torch.maximum(box[..., 0, :] - points, points - box[..., 1, :]).clamp_min(0.0)
    return dot(gap, gap).sqrt()


def triangle_distance(points: Tensor, triangles: Tensor) -> Tensor:
    """Distance of points (..., 3) from triangles (..., 3 corners, 3). -> (...)

    The smallest of the distances to the three edges and, where the point projects into the triangle, to its plane: slivers
    and even triangles of no area are handled without special cases.
    """
    edges = triangles.roll(-1, dims=-2) - triangles  # (..., 3, 3)
    offset = points[..., None, :] - triangles
    normal = torch.linalg.cross(edges[..., 0, :], edges[..., 1, :])
    area = dot(normal, normal)
    along = dot(offset, edges) / dot(edges, edges).clamp_min(1e-20)
    foot = offset - along.clamp(0.0, 1.0)[..., None] * edges
    squared = dot(foot, foot).amin(-1)
    side = dot(torch.linalg.cross(normal[..., None, :], edges), offset)  # > 0: on the inner side of the edge
    inside = (side > 0).all(-1) & (area > 1e-24)
    height = dot(offset[..., 0, :], normal)
    return torch.where(inside, torch.minimum(squared, height * height / area.clamp_min(1e-24)), squared).sqrt()


def _spatial_order(centres: np.ndarray) -> np.ndarray:
    """Order in which consecutive runs of LEAF items lie close together: halving along the widest axis. (N, 3) -> (N,)"""

    def halve(items: np.ndarray) -> list[np.ndarray]:
        if len(items) <= LEAF:
            return [items]
        spread = np.ptp(centres[items], axis=0)
        items = items[np.argsort(centres[items, spread.argmax()], kind="stable")]
        middle = LEAF * max(1, len(items) // (2 * LEAF))
        return halve(items[:middle]) + halve(items[middle:])

    return np.concatenate(halve(np.arange(len(centres))))


def _half_spaces(part: np.ndarray) -> np.ndarray:
    """Outward planes [n, d] of a convex part, inside where n . x + d <= 0; coplanar facets once. (V, 3) -> (P, 4)"""
    planes = ConvexHull(part).equations
    return planes[np.unique(np.round(planes, 9), axis=0, return_index=True)[1]]


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Rows cut into runs of `length`; a run that is not full repeats its last entry. -> (runs, length, ...)"""
    runs = [
        row[np.minimum(np.arange(start, start + length), len(row) - 1)]
        for row in rows
        for start in range(0, len(row), length)
    ]
    return np.stack(runs)


class ExactDistance:
    """Signed distance to K solids, each given by its convex parts and the triangles of their union."""

    def __init__(self, parts: Sequence[Sequence[np.ndarray]], surfaces: Sequence[np.ndarray]) -> None:
        """parts[k]: list of (V, 3) hull vertices; surfaces[k]: (F, 3, 3) triangle corners, object frame, metres."""
        leaves = [_padded([s[_spatial_order(s.mean(1))]], LEAF) for s in surfaces]
        planes = [_half_spaces(p) for solid in parts for p in solid]
        self.leaf_triangles = _tensor(np.concatenate(leaves))  # (leaves, LEAF, 3, 3)
        self.part_planes = _tensor(_padded(planes, max(map(len, planes))))  # (parts, P, 4)
        leaf_boxes = [np.stack((x.min((1, 2)), x.max((1, 2))), 1) for x in leaves]
        part_boxes = [np.stack([(p.min(0), p.max(0)) for p in solid]) for solid in parts]
        self.leaf_box, self.leaf_start = _stack_boxes(leaf_boxes)
        self.part_box, self.part_start = _stack_boxes(part_boxes)

    def to(self, device: torch.device | str) -> ExactDistance:
        """The same on another device."""
        moved = object.__new__(ExactDistance)
        moved.__dict__ = {name: tensor.to(device) for name, tensor in self.__dict__.items()}
        return moved

    def inside(self, index: Tensor, points: Tensor) -> Tensor:
        """Whether points (N, 3) lie in the solids index (N,). -> (N,) bool"""
        boxes = self.part_box[index].to(points.dtype)
        row, slot = torch.nonzero(box_distance(points[:, None], boxes) <= 0, as_tuple=True)
        planes = self.part_planes[self.part_start[index[row]] + slot].to(points.dtype)
        within = (dot(planes[..., :3], points[row, None]) + planes[..., 3]).amax(-1) <= 0
        result = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        result[row[within]] = True
        return result

    def distance(self, index: Tensor, points: Tensor) -> Tensor:
        """Unsigned distance of points (N, 3) from the surfaces of solids index (N,). -> (N,)"""
        bound = box_distance(points[:, None], self.leaf_box[index].to(points.dtype))  # (N, leaves)
        first = self.leaf_start[index] + bound.argmin(-1)
        best = triangle_distance(points[:, None], self.leaf_triangles[first].to(points.dtype)).amin(-1)
        bound.scatter_(1, (first - self.leaf_start[index])[:, None], torch.inf)
        row, slot = torch.nonzero(bound < best[:, None], as_tuple=True)
        triangles = self.leaf_triangles[self.leaf_start[index[row]] + slot].to(points.dtype)
        return best.scatter_reduce(0, row, triangle_distance(points[row, None], triangles).amin(-1), "amin")

    def signed(self, index: Tensor, points: Tensor) -> Tensor:
        """Signed distance, metres, negative inside. index (N,) solid of each point, points (N, 3) -> (N,)"""
        out = torch.empty(len(points), dtype=points.dtype, device=points.device)
        for start in range(0, len(points), CHUNK):
            i, p = index[start : start + CHUNK], points[start : start + CHUNK]
            distance = self.distance(i, p)
            out[start : start + CHUNK] = torch.where(self.inside(i, p), -distance, distance)
        return out


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float64)


def _stack_boxes(boxes: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Boxes of each solid padded to one width with boxes at infinity, and where each solid starts in a flat list."""
    counts = np.array([len(b) for b in boxes])
    stacked = np.full((len(boxes), counts.max(), 2, 3), np.inf)
    for row, box in zip(stacked, boxes, strict=True):
        row[: len(box)] = box
    return _tensor(stacked), torch.as_tensor(np.cumsum(counts) - counts)
