"""Objects from convex parts, and from any mesh a user brings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from dexh2r_gym.objects.decompose import decompose
from dexh2r_gym.objects.geometry import (
    GRID_SPACING,
    decimate,
    distance_grid,
    hull_vertices,
    reduce_hull,
    sample_surface,
    union,
)
from dexh2r_gym.objects.grid import decode_grid, encode_grid
from dexh2r_gym.objects.model import MAX_PARTS, MAX_VISUAL_FACES, ObjectModel


def build_object(
    name: str,
    parts: Sequence[np.ndarray],
    *,
    mass: float | None = None,
    density: float = 500.0,
    visual: trimesh.Trimesh | None = None,
    metadata: dict[str, Any] | None = None,
    recentre: bool = True,
) -> ObjectModel:
    """An object from the vertices of its convex parts, metres.

    mass in kg, else density in kg/m^3 times the volume. visual: mesh for display in the same frame, else the solid
    itself. recentre: move to the library's frame (longest extent along z, origin at the centre of mass).
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ValueError(f"object {name!r} has {len(parts)} convex parts, 1 to {MAX_PARTS} are allowed")
    parts = [reduce_hull(p) for p in parts]
    visual = (
        decimate(visual, MAX_VISUAL_FACES).copy()
        if visual is not None
        else trimesh.Trimesh(*union(parts), process=False)
    )
    if recentre:
        corners = np.concatenate(parts)
        turn = np.roll(np.eye(3), 2 - int(np.ptp(corners, axis=0).argmax()), axis=0)  # cyclic: longest axis to z
        parts = [p @ turn.T for p in parts]
        centre = trimesh.Trimesh(*union(parts), process=False).center_mass
        parts = [hull_vertices(p - centre) for p in parts]
        visual.vertices = visual.vertices @ turn.T - centre
    vertices, faces = union(parts)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    if not solid.is_watertight or solid.volume <= 0:
        raise ValueError(f"object {name!r}: the union of its parts has no watertight surface")
    mass = float(mass if mass is not None else density * solid.volume)
    solid.density = mass / solid.volume
    points, normals = sample_surface(vertices, faces)
    grid, origin = distance_grid(parts, vertices, faces)
    return ObjectModel(
        name=name,
        mass=mass,
        parts=tuple(parts),
        vertices=vertices,
        faces=faces,
        points=torch.from_numpy(points),
        normals=torch.from_numpy(normals),
        sdf_grid=torch.from_numpy(decode_grid(encode_grid(grid))),
        sdf_origin=torch.from_numpy(origin),
        sdf_spacing=GRID_SPACING,
        volume=float(solid.volume),
        center_of_mass=np.asarray(solid.center_mass),
        inertia=np.asarray(solid.moment_inertia),
        visual_vertices=np.asarray(visual.vertices, dtype=np.float32),
        visual_faces=np.asarray(visual.faces, dtype=np.int32),
        metadata=dict(metadata or {}),
    )


def load_mesh(path: str | Path, scale: float = 1.0) -> trimesh.Trimesh:
    """A mesh file (obj, ply, stl ...) as one mesh without texture, metres once multiplied by `scale`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mesh file at {path}")
    try:
        mesh = trimesh.load_mesh(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a mesh: {error}") from error
    if isinstance(mesh, trimesh.Scene):
        mesh = mesh.to_mesh()
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) < 4 or not np.isfinite(mesh.vertices).all():
        raise ValueError(f"{path}: holds no mesh of a solid")
    mesh = trimesh.Trimesh(mesh.vertices * scale, mesh.faces)
    longest = float(mesh.extents.max())
    if not 0.01 <= longest <= 2.0:
        raise ValueError(f"{path}: longest extent is {longest:.4g} m, expected 0.01 to 2; `scale` converts to metres")
    return mesh


def from_mesh(
    path: str | Path,
    *,
    name: str | None = None,
    mass: float | None = None,
    density: float = 500.0,
    scale: float = 1.0,
    vessel: bool = False,
    recentre: bool = False,
) -> ObjectModel:
    """An object from a mesh file; mass in kg, else density in kg/m^3; vessel: hollow, to be closed.

    The mesh's own frame is kept unless recentre, so that recorded poses of that mesh stay right. Convex parts: the
    fewest that fit of one hull, slabs across each axis and, for watertight meshes where it is installed, CoACD
    (`decompose.py`). Takes seconds, a minute for intricate shapes; `write_object` keeps the result.
    """
    mesh = load_mesh(path, scale)
    parts, method, excess = decompose(mesh, vessel)
    if excess > 0.1:
        warnings.warn(
            f"{path}: the convex parts enclose {100 * excess:.0f}% more than the mesh; vessel=True closes a hollow one",
            stacklevel=2,
        )
    return build_object(
        name or Path(path).stem,
        parts,
        mass=mass,
        density=density,
        visual=mesh,
        metadata={
            "source": Path(path).name,
            "decomposition": method,
            "volume_excess": round(excess, 4),
            "vessel": vessel,
        },
        recentre=recentre,
    )
