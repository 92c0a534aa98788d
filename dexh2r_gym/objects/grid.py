"""Signed distance by trilinear lookup in grids, many objects at once: fast, and within a known distance of the truth.

A signed distance changes by at most the way gone, so trilinear interpolation of exact corner values at spacing h errs by at
most h sqrt(3) / 2 (mean of the corners' distances); it is far better away from edges and medial surfaces. Outside the grid,
a distance f at the nearest point of the grid's box and d from it give sqrt(f^2 + d^2): never more than the true distance.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class GridDistance:
    """Signed distance grids of K solids in one flat buffer."""

    def __init__(self, grids: Sequence[Tensor], origins: Sequence[Tensor], spacings: Sequence[float]) -> None:
        """grids[k] (nx, ny, nz) values at origins[k] (3,) + spacings[k] * (i, j, k), object frame, metres."""
        self.values = torch.cat([g.reshape(-1) for g in grids])
        self.shape = torch.tensor([g.shape for g in grids])  # (K, 3)
        sizes = self.shape.prod(-1)
        self.start = sizes.cumsum(0) - sizes
        self.origin = torch.stack(list(origins))
        self.spacing = torch.tensor(spacings, dtype=self.origin.dtype)

    @property
    def error(self) -> Tensor:
        """(K,) bound on |lookup - exact| inside the grid, metres."""
        return self.spacing * (3**0.5 / 2) + QUANTUM / 2

    def to(self, device: torch.device | str) -> GridDistance:
        """The same on another device."""
        moved = object.__new__(GridDistance)
        moved.__dict__ = {name: tensor.to(device) for name, tensor in self.__dict__.items()}
        return moved

    def signed(self, index: Tensor, points: Tensor) -> Tensor:
        """Signed distance, metres, negative inside. index (N,) solid of each point, points (N, 3) -> (N,)"""
        spacing = self.spacing[index, None].to(points.dtype)
        shape = self.shape[index]
        free = (points - self.origin[index].to(points.dtype)) / spacing
        held = torch.minimum(free.clamp_min(0.0), (shape - 1).to(points.dtype))
        corner = torch.minimum(held.long(), shape - 2)
        t = held - corner
        strides = torch.stack((shape[:, 1] * shape[:, 2], shape[:, 2], torch.ones_like(index)), dim=-1)
        base = self.start[index] + (corner * strides).sum(-1)
        value = torch.zeros_like(points[:, 0])
        for x in (0, 1):
            for y in (0, 1):
                for z in (0, 1):
                    weight = _share(t[:, 0], x) * _share(t[:, 1], y) * _share(t[:, 2], z)
                    at = base + x * strides[:, 0] + y * strides[:, 1] + z
                    value = value + weight * self.values[at].to(points.dtype)
        gap = (free - held) * spacing
        squared = dot(gap, gap)
        return torch.where(squared > 0, (value * value + squared).sqrt(), value)


def _share(t: Tensor, corner: int) -> Tensor:
    return t if corner else 1.0 - t
