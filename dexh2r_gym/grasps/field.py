"""A distance field around one solid, looked up with its slope: what the energy of grasps is made from.

Made from an object's own grid, or from a point cloud with normals alone, as a generator of grasps sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample

from dexh2r_gym.objects import ObjectModel

_SPACING = 0.004  # m, of a cloud's grid; more for one of more nodes than _MAX_NODES
_MAX_NODES = 1_000_000
_PADDING = 0.02  # m, around the cloud
_NEIGHBOURS = 4  # samples whose tangent planes say together on which side a node of the grid is

_WINDING_POINTS = 1024  # samples that say what is surrounded
_WINDING_CHUNK = 4096  # places looked at together


@dataclass(frozen=True)
class DistanceField:
    """Signed distance, metres, negative inside, and its slope, on a grid in the object's frame."""

    values: Tensor  # (1, 4, nz, ny, nx) float32: distance, then slope along x, y, z
    origin: Tensor  # (3,) position of the first value
    extent: Tensor  # (3,) from the first value to the last
    center: Tensor  # (3,) centre of mass, or what comes nearest to it

    @classmethod
    def of_object(cls, obj: ObjectModel) -> DistanceField:
        """The field of an object's solid."""
        center = torch.as_tensor(obj.center_of_mass, dtype=torch.float32)
        return cls._build(obj.sdf_grid, obj.sdf_origin, obj.sdf_spacing, center)

    @classmethod
    def of_cloud(cls, points: Tensor, normals: Tensor) -> DistanceField:
        """The field of the surface that oriented points (P, 3), normals (P, 3), are samples of.

        Distance to the nearest sample; the side is that of the nearest samples' tangent planes, and close to the
        surface so is the distance. Away from it, what is inside must also be surrounded by the samples (Barill et al.,
        Fast winding numbers for soups and clouds, SIGGRAPH 2018). The centre is that of the inside.
        """
        cloud, outward = points.double().numpy(), normals.double().numpy()
        low = cloud.min(0) - _PADDING
        size = cloud.max(0) + _PADDING - low
        spacing = max(_SPACING, float((size.prod() / _MAX_NODES) ** (1 / 3)))
        counts = np.ceil(size / spacing).astype(int) + 1
        axes = [o + spacing * np.arange(n) for o, n in zip(low, counts, strict=True)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        distance, near = cKDTree(cloud).query(nodes, k=_NEIGHBOURS, workers=-1)
        weight = 1.0 / (distance + 1e-3) ** 2
        height = ((nodes[:, None] - cloud[near]) * outward[near]).sum(-1)
        height = (weight * height).sum(1) / weight.sum(1)
        nearest = distance[:, 0]
        doubtful = np.flatnonzero((height < 0) & (nearest > spacing))  # off an edge, planes alone may call it inside
        height[doubtful[_winding(nodes[doubtful], cloud, outward) < 0.5]] *= -1
        value = np.where(nearest < 2 * spacing, height.clip(-nearest, nearest), np.sign(height) * nearest)
        inside = nodes[value < 0]
        center = inside.mean(0) if len(inside) else cloud.mean(0)
        grid = torch.from_numpy(value.reshape(counts)).float()
        return cls._build(grid, torch.from_numpy(low).float(), spacing, torch.from_numpy(center).float())

    @classmethod
    def _build(cls, grid: Tensor, origin: Tensor, spacing: float, center: Tensor) -> DistanceField:
        slope = torch.stack(torch.gradient(grid, spacing=spacing))
        slope = slope / slope.norm(dim=0).clamp_min(1e-6)
        values = torch.cat((grid[None], slope)).permute(0, 3, 2, 1)[None].contiguous()
        return cls(values, origin, spacing * (torch.tensor(grid.shape) - 1.0), center)

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance (...) of points (3, ...), components first, with the field's slope as its gradient."""
        return _Distance.apply(points, self)

    def slope(self, points: Tensor) -> Tensor:
        """Unit outward slope (3, ...) at points (3, ...), components first; differentiable."""
        direction, _ = self._look_up(points)
        direction = direction[1:]
        return direction / (direction * direction).sum(0).sqrt().clamp_min(1e-6)

    def _look_up(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The grid's values (4, ...) at the nearest places within it, and the way (3, ...) on from there, metres."""
        unit = torch.stack([2 * (points[i] - self.origin[i]) / self.extent[i] - 1 for i in range(3)], dim=-1)
        held = unit.clamp(-1, 1)
        values = grid_sample(self.values, held.reshape(1, 1, 1, -1, 3), align_corners=True)
        beyond = ((unit - held) * self.extent / 2).movedim(-1, 0)
        return values.view(4, *points.shape[1:]), beyond


def _winding(at: np.ndarray, cloud: np.ndarray, outward: np.ndarray) -> np.ndarray:
    """How often oriented samples (P, 3), normals (P, 3), surround places (N, 3): about 1 inside, 0 outside. -> (N,)"""
    chosen = np.random.default_rng(0).permutation(len(cloud))[:_WINDING_POINTS]
    points, normals = cloud[chosen], outward[chosen]
    area = np.pi * cKDTree(points).query(points, k=_NEIGHBOURS + 1)[0][:, -1] ** 2 / _NEIGHBOURS  # (P,) of each sample
    table = torch.from_numpy(area[:, None] * normals).float()
    samples = torch.from_numpy(points).float()
    parts = []
    for places in torch.from_numpy(at).float().split(_WINDING_CHUNK):
        apart = torch.cdist(places, samples).clamp_min(1e-4)
        flux = (table * samples).sum(-1) - places @ table.T  # (n, P) of n . (sample - place)
        parts.append((flux / apart**3).sum(-1) / (4 * torch.pi))
    return torch.cat([torch.zeros(0), *parts]).numpy()


class _Distance(torch.autograd.Function):
    """Outside of the grid: the value at its border and the way from there."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, field: DistanceField) -> Tensor:
        values, beyond = field._look_up(points)
        way = (beyond * beyond).sum(0).sqrt()
        outside = way > 0
        slope = torch.where(outside, beyond / way.clamp_min(1e-9), values[1:])
        ctx.save_for_backward(slope)
        return values[0] + way

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad[0] * slope, None


class FieldStack:
    """K fields asked for together: value and slope of the nearest node, carried on along the slope."""

    def __init__(self, fields: Sequence[DistanceField]) -> None:
        grids = [field.values[0].permute(3, 2, 1, 0) for field in fields]  # (nx, ny, nz, 4)
        shape = torch.tensor([grid.shape[:3] for grid in grids])
        size = shape.prod(-1)
        self._rows = torch.cat([grid.reshape(-1, 4) for grid in grids])
        self._start = size.cumsum(0) - size
        self._last = (shape - 1).float()  # (K, 3)
        self._stride = torch.stack((shape[:, 1] * shape[:, 2], shape[:, 2], torch.ones_like(size)), dim=-1)
        self._origin = torch.stack([field.origin for field in fields])
        self._spacing = torch.stack([field.extent for field in fields]) / self._last
        self.center = torch.stack([field.center for field in fields])  # (K, 3)
        self._elsewhere: dict[torch.device, FieldStack] = {}

    def to(self, device: torch.device) -> FieldStack:
        """The same fields on a device; they are sent there once."""
        if self.center.device == device:
            return self
        if device not in self._elsewhere:
            there = copy(self)
            there.__dict__ = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
            self._elsewhere[device] = there
        return self._elsewhere[device]

    def look_up(self, index: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance (B, P), differentiable, and slope (B, P, 3) at points (B, P, 3) of solids index (B,)."""
        origin, spacing, last = (x[index, None] for x in (self._origin, self._spacing, self._last))
        unit = (points.detach() - origin) / spacing
        node = torch.minimum(unit.round().clamp_min(0.0), last)
        at = (node.long() * self._stride[index, None]).sum(-1) + self._start[index, None]
        rows = self._rows[at]  # (B, P, 4)
        way = points - (origin + node * spacing)
        beyond = torch.minimum(unit.clamp_min(0.0), last) - unit
        outside = (beyond != 0).any(-1)
        apart = way.detach().norm(dim=-1, keepdim=True)
        slope = torch.where(outside[..., None], way.detach() / apart.clamp_min(1e-6), rows[..., 1:])
        return rows[..., 0] + (way * slope).sum(-1), slope
