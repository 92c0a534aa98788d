"""Signed distance by trilinear lookup in grids, many objects at once: fast, and within a known distance of the truth.

A signed distance changes by at most the way gone, so trilinear interpolation of exact corner values at spacing h errs
by at most h sqrt(3) / 2 (mean of the corners' distances); it is far better away from edges and medial surfaces.
Outside the grid, a distance f at the nearest point of the grid's box and d from it give sqrt(f^2 + d^2): never more
than the true distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.objects.exact import dot

QUANTUM = 0.0002  # metres, resolution of stored grids


def encode_grid(grid: np.ndarray) -> np.ndarray:
    """Grid (nx, ny, nz), metres -> int16 differences along all three axes, small and hence compressible."""
    steps = np.round(grid.astype(np.float64) / QUANTUM).astype(np.int16)
    for axis in range(3):
        steps = np.diff(steps, axis=axis, prepend=np.int16(0))
    return steps


def decode_grid(steps: np.ndarray) -> np.ndarray:
    """Inverse of `encode_grid`, to within QUANTUM / 2. -> (nx, ny, nz) float32"""
    for axis in range(3):
        steps = np.cumsum(steps, axis=axis, dtype=np.int16)
    return steps.astype(np.float32) * np.float32(QUANTUM)


@dataclass(frozen=True)
class GridDistance:
    """Signed distance grids of K solids in one flat buffer; queries work in the dtype of their points."""

    values: Tensor  # (sum of grid sizes,) metres
    start: Tensor  # (K,) where each grid begins in values
    shape: Tensor  # (3, K)
    origin: Tensor  # (3, K) position of the first value, object frame
    spacing: Tensor  # (K,)

    @classmethod
    def build(cls, grids: Sequence[Tensor], origins: Sequence[Tensor], spacings: Sequence[float]) -> GridDistance:
        """grids[k] (nx, ny, nz): signed distances at origins[k] (3,) + spacings[k] * (i, j, k)."""
        shape = torch.tensor([grid.shape for grid in grids])
        size = shape.prod(-1)
        return cls(
            values=torch.cat([grid.reshape(-1) for grid in grids]),
            start=size.cumsum(0) - size,
            shape=shape.T.contiguous(),
            origin=torch.stack(list(origins), dim=-1),
            spacing=torch.tensor(spacings),
        )

    @property
    def error(self) -> Tensor:
        """(K,) bound on |lookup - exact| inside the grid, metres."""
        return self.spacing * (3**0.5 / 2) + QUANTUM / 2

    def to(self, device: torch.device | str) -> GridDistance:
        """The same on another device."""
        return GridDistance(*(getattr(self, f.name).to(device) for f in fields(self)))

    def maybe_inside(self, index: Tensor, points: Tensor) -> Tensor:
        """Points that may be inside, by one value of the grid each: False only where a point is surely outside.

        index (M,) solid of each group of points, points (3, M, P), components first -> (M, P) bool
        """
        return self.nearest(index, points) <= self.error[index][:, None]

    def nearest(self, index: Tensor, points: Tensor) -> Tensor:
        """The value of the grid that is nearest to each point, within `error` of the truth.

        A point beyond its grid is given the value at the grid's border, which lies clear of the solid.

        index (M,) solid of each group of points, points (3, M, P), components first -> (M, P) metres
        """
        dtype = points.dtype
        scale = (1.0 / self.spacing[index].to(dtype))[:, None]
        shape = self.shape[:, index].to(dtype)[..., None]
        i, j, k = (
            ((points[axis] - self.origin[axis, index].to(dtype)[:, None]) * scale)
            .round_()
            .clamp_min_(0.0)
            .minimum(shape[axis] - 1.0)
            for axis in range(3)
        )
        at = ((i * shape[1] + j) * shape[2] + k).long() + self.start[index][:, None]
        return self.values[at]

    def signed(self, index: Tensor, points: Tensor) -> Tensor:
        """Signed distance, metres, negative inside. index (N,) solid of each point, points (N, 3) -> (N,)"""
        dtype = points.dtype
        spacing, shape = self.spacing[index].to(dtype), self.shape[:, index]
        free = (points.T - self.origin[:, index].to(dtype)) / spacing
        held = torch.minimum(free.clamp_min(0.0), (shape - 1).to(dtype))
        corner = torch.minimum(held.long(), shape - 2)
        tx, ty, tz = held - corner
        row, layer = shape[2], shape[1] * shape[2]
        base = self.start[index] + corner[0] * layer + corner[1] * row + corner[2]

        def along_z(at: Tensor) -> Tensor:
            low, high = self.values[at].to(dtype), self.values[at + 1].to(dtype)
            return low + tz * (high - low)

        def along_yz(at: Tensor) -> Tensor:
            low, high = along_z(at), along_z(at + row)
            return low + ty * (high - low)

        low, high = along_yz(base), along_yz(base + layer)
        value = low + tx * (high - low)
        gap = (free - held) * spacing
        squared = dot(gap, gap)
        return torch.where(squared > 0, (value * value + squared).sqrt(), value)
