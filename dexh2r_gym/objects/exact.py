"""Exact signed distance to unions of convex parts, many objects at once.

The solid is the union of convex parts. The sign is decided by the parts (inside, if inside all half-spaces of any
part), the magnitude by the triangles of the union's surface. Both tests are culled with axis-aligned boxes, around
each part and around leaves of `LEAF` triangles that lie close together, so that a point meets a few dozen triangles
instead of hundreds.

Vectors are held component first, (3, ...), and pairs of a point and a triangle as flat lists: that is what runs fast
here. All arithmetic is elementwise: a point's distance does not depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

LEAF = 8  # triangles in a culling box
BEYOND = 1e-6  # m past a plane, so that a point on the surface counts as outside
CHUNK = 8192  # points handled at a time, bounds memory


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product, components first and summed in a fixed order. (3, ...), (3, ...) -> (...)"""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Vector product, components first. (3, ...), (3, ...) -> (3, ...)"""
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))


def triangle_distance_squared(point: Tensor, corners: Tensor) -> Tensor:
    """Squared distance of points (3, M) from triangles (3 corners, 3, M). -> (M,)

    The smallest of the distances to the three edges and, where the point projects into the triangle, to its plane:
    slivers, even triangles without area, need no special treatment.
    """
    normal = cross(corners[1] - corners[0], corners[2] - corners[0])
    area = dot(normal, normal)
    height = dot(point - corners[0], normal)
    plane = height * height / area.clamp_min(1e-24)
    inside = area > 1e-24
    squared = torch.full_like(plane, torch.inf)
    for k in range(3):
        edge, offset = corners[k - 2] - corners[k], point - corners[k]
        along = (dot(offset, edge) / dot(edge, edge).clamp_min(1e-20)).clamp(0.0, 1.0)
        foot = offset - along * edge
        squared = torch.minimum(squared, dot(foot, foot))
        inside &= dot(cross(normal, edge), offset) > 0  # on the inner side of this edge
    return torch.where(inside, torch.minimum(plane, squared), squared)


@dataclass(frozen=True)
class ExactDistance:
    """Signed distance to K solids. Float32 tables of object-frame metres; queries work in the dtype of their points."""

    triangles: Tensor  # (3 corners, 3, T) all solids' triangles, leaf after leaf
    leaf_box: Tensor  # (2, 3, K, L) lower and upper corners, infinite where a solid has fewer leaves
    leaf_start: Tensor  # (K,) first leaf of each solid
    planes: Tensor  # (4, parts, P) outward normal and offset, inside where n . x + d <= 0
    part_box: Tensor  # (2, 3, K, most parts)
    part_start: Tensor  # (K,) first part of each solid

    @classmethod
    def build(cls, parts: Sequence[Sequence[np.ndarray]], surfaces: Sequence[np.ndarray]) -> ExactDistance:
        """parts[k]: (V, 3) hull vertices of each part of solid k; surfaces[k]: (F, 3, 3) corners of its triangles."""
        leaves = [_runs(surface[_spatial_order(surface.mean(1))], LEAF) for surface in surfaces]
        planes = [_half_spaces(part) for solid in parts for part in solid]
        leaf_box, leaf_start = _boxes([[leaf.reshape(-1, 3) for leaf in solid] for solid in leaves])
        part_box, part_start = _boxes(parts)
        width = max(map(len, planes))
        return cls(
            triangles=_table(np.concatenate(leaves).reshape(-1, 3, 3).transpose(1, 2, 0)),
            leaf_box=leaf_box,
            leaf_start=leaf_start,
            planes=_table(np.concatenate([_runs(p, width) for p in planes]).transpose(2, 0, 1)),
            part_box=part_box,
            part_start=part_start,
        )

    def to(self, device: torch.device | str) -> ExactDistance:
        """The same on another device."""
        return ExactDistance(*(getattr(self, f.name).to(device) for f in fields(self)))

    def inside(self, index: Tensor, points: Tensor) -> Tensor:
        """Whether points (N, 3) lie in the solids index (N,). -> (N,) bool"""
        at = points.T.contiguous()
        row, slot = torch.nonzero(box_distance_squared(at, self.part_box, index) <= 0, as_tuple=True)
        planes = self.planes[:, self.part_start[index[row]] + slot].to(points.dtype)  # (4, pairs, P)
        within = (dot(planes[:3], at[:, row, None]) + planes[3]).amax(-1) <= 0
        result = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        result[row[within]] = True
        return result

    def depth(self, index: Tensor, points: Tensor) -> Tensor:
        """Depth of points (N, 3) inside the solids index (N,), 0 outside. -> (N,)

        A point's depth in a convex part is its distance to the nearest of that part's planes, and the depth in the
        union is no less. It is just that if the foot on this plane lies in no other part; else the triangles decide.
        """
        depth, foot = self._depth_in_parts(index, points)
        inside = torch.nonzero(depth > 0)[:, 0]
        covered = inside[self.inside(index[inside], foot[inside])]
        return depth.index_put((covered,), self.distance(index[covered], points[covered]))

    def _depth_in_parts(self, index: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Greatest depth (N,) in any one part, 0 outside all, and a point (N, 3) just beyond the plane it is from."""
        at = points.T.contiguous()
        row, slot = torch.nonzero(box_distance_squared(at, self.part_box, index) <= 0, as_tuple=True)
        planes = self.planes[:, self.part_start[index[row]] + slot].to(points.dtype)  # (4, pairs, P)
        height, side = (dot(planes[:3], at[:, row, None]) + planes[3]).max(-1)
        depth = points.new_zeros(len(points)).scatter_reduce(0, row, -height, "amax")
        chosen = torch.nonzero((depth[row] == -height) & (height < 0))[:, 0]
        normal = planes[:3, chosen, side[chosen]].T
        foot = points.index_put((row[chosen],), points[row[chosen]] + (BEYOND - height[chosen])[:, None] * normal)
        return depth, foot

    def distance(self, index: Tensor, points: Tensor) -> Tensor:
        """Unsigned distance of points (N, 3) from the surfaces of solids index (N,). -> (N,)"""
        at = points.T.contiguous()
        start = self.leaf_start[index]
        bound = box_distance_squared(at, self.leaf_box, index)  # (N, L)
        nearest = bound.argmin(-1, keepdim=True)
        best = self._leaf_distance_squared(at, start + nearest[:, 0])
        bound.scatter_(1, nearest, torch.inf)
        row, slot = torch.nonzero(bound < best[:, None], as_tuple=True)
        others = self._leaf_distance_squared(at[:, row], start[row] + slot)
        return best.scatter_reduce(0, row, others, "amin").sqrt()

    def signed(self, index: Tensor, points: Tensor) -> Tensor:
        """Signed distance, metres, negative inside. index (N,) solid of each point, points (N, 3) -> (N,)"""
        out = torch.empty(len(points), dtype=points.dtype, device=points.device)
        for start in range(0, len(points), CHUNK):
            i, p = index[start : start + CHUNK], points[start : start + CHUNK]
            distance = self.distance(i, p)
            out[start : start + CHUNK] = torch.where(self.inside(i, p), -distance, distance)
        return out

    def _leaf_distance_squared(self, at: Tensor, leaf: Tensor) -> Tensor:
        """Squared distance of points (3, M) from the triangles of leaves (M,). -> (M,)"""
        triangle = leaf * LEAF + torch.arange(LEAF, device=leaf.device)[:, None]  # (LEAF, M)
        corners = self.triangles[:, :, triangle.reshape(-1)].to(at.dtype)
        return triangle_distance_squared(at.repeat(1, LEAF), corners).reshape(LEAF, -1).amin(0)


def box_distance_squared(at: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    """Squared distance of points (3, N) from the boxes (2, 3, K, W) of solids index (N,); 0 inside. -> (N, W)"""
    low, high = boxes[:, :, index].to(at.dtype)
    gap = torch.maximum(low - at[..., None], at[..., None] - high).clamp_min(0.0)
    return dot(gap, gap)


def _spatial_order(centres: np.ndarray) -> np.ndarray:
    """Order in which runs of LEAF items lie close together: halving across the widest axis. (N, 3) -> (N,)"""

    def halve(items: np.ndarray) -> list[np.ndarray]:
        if len(items) <= LEAF:
            return [items]
        axis = np.ptp(centres[items], axis=0).argmax()
        items = items[np.argsort(centres[items, axis], kind="stable")]
        middle = LEAF * max(1, len(items) // (2 * LEAF))
        return halve(items[:middle]) + halve(items[middle:])

    return np.concatenate(halve(np.arange(len(centres))))


def _half_spaces(part: np.ndarray) -> np.ndarray:
    """Outward planes [n, d] of a convex part, coplanar facets once. (V, 3) -> (P, 4)"""
    planes = ConvexHull(part).equations
    return planes[np.unique(np.round(planes, 9), axis=0, return_index=True)[1]]


def _runs(items: np.ndarray, length: int) -> np.ndarray:
    """Items cut into runs of `length`, the last one filled up with the last item. (N, ...) -> (runs, length, ...)"""
    padded = np.arange(-(-len(items) // length) * length).clip(max=len(items) - 1)
    return items[padded].reshape(-1, length, *items.shape[1:])


def _boxes(groups: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Bounding boxes (2, 3, K, W) of the point sets of each solid, and the place (K,) of its first in a flat list."""
    counts = np.array([len(group) for group in groups])
    boxes = np.full((2, 3, len(groups), counts.max()), np.inf)
    for k, group in enumerate(groups):
        boxes[:, :, k, : len(group)] = np.stack([(p.min(0), p.max(0)) for p in group], axis=-1)
    return _table(boxes), torch.as_tensor(np.cumsum(counts) - counts)


def _table(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)
