"""One object, and a stack of objects asked for distances together.

The solid of an object is the union of its convex parts. Watertight surface, surface points, distances, volume and
inertia are all derived from that one solid, so they agree by construction; only the visual mesh may differ from it
(it is finer, and a vessel that is open in the visual is closed in the solid; then `metadata["vessel"]` is true).

Object frame, library objects: origin at the centre of mass, longest extent along z. A mesh brought by a user keeps
its own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.objects import blind
from dexh2r_gym.objects.exact import ExactDistance
from dexh2r_gym.objects.grid import GridDistance

MAX_PARTS = 12
MAX_VISUAL_FACES = 4000


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """A rigid object. Metres, kilograms, object frame. Meshes are numpy (for MuJoCo), points and grids torch."""

    name: str
    mass: float
    parts: tuple[np.ndarray, ...]  # at most MAX_PARTS of (V, 3) float64, vertices of convex hulls
    vertices: np.ndarray  # (V, 3) float64, watertight surface of the union of the parts
    faces: np.ndarray  # (F, 3) int32, outward
    points: Tensor  # (4096, 3) float32, uniform on that surface
    normals: Tensor  # (4096, 3) float32, outward
    sdf_grid: Tensor  # (nx, ny, nz) float32, signed distance, negative inside
    sdf_origin: Tensor  # (3,) float32, position of sdf_grid[0, 0, 0]
    sdf_spacing: float
    volume: float  # m^3
    center_of_mass: np.ndarray  # (3,) float64
    inertia: np.ndarray  # (3, 3) float64, kg m^2 about the centre of mass, axes of the object frame
    visual_vertices: np.ndarray  # (V, 3) float32, for display
    visual_faces: np.ndarray  # (F, 3) int32, at most MAX_VISUAL_FACES
    metadata: dict[str, Any] = field(default_factory=dict)  # creator, licence, source, vessel, handle, ...

    def __repr__(self) -> str:
        size = " x ".join(f"{100 * e:.1f}" for e in self.extents)
        return f"ObjectModel({self.name!r}, {size} cm, {self.mass:.3f} kg, {len(self.parts)} parts)"

    @property
    def extents(self) -> np.ndarray:
        """(3,) edges of the bounding box, metres."""
        return np.ptp(self.vertices, axis=0)

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin of the object frame."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    @property
    def handle(self) -> Tensor | None:
        """(2, 3) float32: lower and upper corner of a box around the handle, object frame; None: it has none.

        Raises ValueError where metadata["handle"] is not {"low": [x, y, z], "high": [x, y, z]} with low < high.
        """
        box = self.metadata.get("handle")
        if box is None:
            return None
        try:
            corners = torch.tensor([box["low"], box["high"]], dtype=torch.float32)
        except (TypeError, KeyError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(_handle_error(self.name, box)) from error
        if corners.shape != (2, 3) or not corners.isfinite().all() or not (corners[0] < corners[1]).all():
            raise ValueError(_handle_error(self.name, box))
        return corners

    @cached_property
    def _alone(self) -> ObjectBatch:
        return ObjectBatch([self])

    def signed_distance(self, points: Tensor) -> Tensor:
        """Exact signed distance, negative inside. (..., 3) -> (...)"""
        return self._alone.over(self._alone.signed_distance, points)

    def signed_distance_fast(self, points: Tensor) -> Tensor:
        """Signed distance by grid lookup, negative inside (see `grid.py` for its error). (..., 3) -> (...)"""
        return self._alone.over(self._alone.signed_distance_fast, points)

    def penetration(self, points: Tensor) -> Tensor:
        """Exact depth inside the solid, 0 outside. (..., 3) -> (...)"""
        return self._alone.over(self._alone.penetration, points)

    @classmethod
    def from_mesh(cls, path: Any, **options: Any) -> ObjectModel:
        """An object from a mesh file; options of `dexh2r_gym.objects.build.from_mesh`."""
        from dexh2r_gym.objects.build import from_mesh

        return from_mesh(path, **options)


def _handle_error(name: str, box: Any) -> str:
    return (
        f"object {name!r}: metadata['handle'] is {box!r}, expected "
        "{'low': [x, y, z], 'high': [x, y, z]} in metres with each of low below its high"
    )


class ObjectBatch:
    """K objects whose distances are asked for together; a point names its object by its place in the stack."""

    def __init__(self, objects: Sequence[ObjectModel]) -> None:
        if not objects:
            raise ValueError("ObjectBatch needs at least one object")
        self.objects = tuple(objects)
        self._exact = ExactDistance.build([o.parts for o in objects], [o.vertices[o.faces] for o in objects])
        self._grid = GridDistance.build(
            [o.sdf_grid for o in objects], [o.sdf_origin for o in objects], [o.sdf_spacing for o in objects]
        )

    def __len__(self) -> int:
        return len(self.objects)

    def to(self, device: torch.device | str) -> ObjectBatch:
        """The same on another device."""
        moved = object.__new__(ObjectBatch)
        moved.objects = self.objects
        moved._exact, moved._grid = self._exact.to(device), self._grid.to(device)
        return moved

    def signed_distance(self, index: Tensor, points: Tensor) -> Tensor:
        """Exact signed distance, negative inside. index (N,) long, points (N, 3) -> (N,)"""
        return self._exact.signed(index, points)

    def signed_distance_fast(self, index: Tensor, points: Tensor) -> Tensor:
        """Signed distance by grid lookup. index (N,) long, points (N, 3) -> (N,)"""
        return self._grid.signed(index, points)

    def penetration(self, index: Tensor, points: Tensor) -> Tensor:
        """Exact depth inside the solid, 0 outside. index (N,) long, points (N, 3) -> (N,)

        The grid settles all points that are surely outside; only the others are looked at exactly.
        """
        depth = torch.zeros(len(points), dtype=points.dtype, device=points.device)
        near = torch.nonzero(self._grid.signed(index, points) <= self._grid.error[index])[:, 0]
        depth[near] = self._exact.depth(index[near], points[near])
        return depth

    def exact_depth(self, index: Tensor, points: Tensor) -> Tensor:
        """As `penetration`, without the grid's help: for few points that are likely to be inside."""
        return self._exact.depth(index, points)

    def grid_error(self, index: Tensor) -> Tensor:
        """Bound on the error of `signed_distance_fast` in and near these solids, metres. (N,) long -> (N,)"""
        return self._grid.error[index]

    def maybe_inside(self, index: Tensor, points: Tensor) -> Tensor:
        """False where a point is surely outside, at little cost. index (M,) long, points (3, M, P) -> (M, P)"""
        return self._grid.maybe_inside(index, points)

    def nearest(self, index: Tensor, points: Tensor) -> Tensor:
        """The nearest value of the grid, within its error of the truth. index (M,) long, points (3, M, P) -> (M, P)"""
        return self._grid.nearest(index, points)

    def depth_in_parts(self, index: Tensor, points: Tensor) -> Tensor:
        """Depth in that part of the solid in which it is the greatest. index (N,) long, points (N, 3) -> (N,)"""
        return blind.depth_in_parts(self._exact, index, points)[0]

    def blind_depth(self, index: Tensor, points: Tensor) -> Tensor:
        """`exact_depth` by the same work for all points: see `blind`. index (N,) long, points (N, 3) -> (N,)"""
        return blind.depth(self._exact, index, points)

    @staticmethod
    def over(function: Any, points: Tensor) -> Tensor:
        """Apply a function of (index, points) to points (..., 3) that all belong to object 0. -> (...)"""
        flat = points.reshape(-1, 3)
        index = torch.zeros(len(flat), dtype=torch.long, device=points.device)
        return function(index, flat).reshape(points.shape[:-1])
