"""From convex parts to one solid: hulls with few vertices, their union, points on it, its distance grid.

Used when objects are built, not while an environment runs. numpy and trimesh in, numpy out; metres, object frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import manifold3d
import numpy as np
import torch
import trimesh
from scipy import ndimage
from scipy.spatial import ConvexHull

from dexh2r_gym.objects.exact import ExactDistance

NUM_POINTS = 4096
MAX_HULL_VERTICES = 32
GRID_SPACING = 0.003
GRID_PADDING = 0.02


def hull_vertices(points: np.ndarray) -> np.ndarray:
    """Vertices of the convex hull of points (N, 3), float32 values held as float64 (as files keep them)."""
    points = np.asarray(points, dtype=np.float32).astype(np.float64)
    return points[np.sort(ConvexHull(points).vertices)]


def reduce_hull(points: np.ndarray, limit: int = MAX_HULL_VERTICES) -> np.ndarray:
    """A hull of at most `limit` vertices with the hull's volume and proportions. (N, 3) -> (V, 3)

    Vertices are taken greedily, each time the one furthest outside of the hull so far. What is lost at the curved
    sides is made up by stretching the result about its centroid until its second moments, then its volume, are those
    of the full hull.
    """
    points = hull_vertices(points)
    if len(points) <= limit:
        return points
    full = trimesh.convex.convex_hull(points)
    chosen = list(dict.fromkeys([*points.argmin(0), *points.argmax(0)]))
    hull = ConvexHull(points[chosen], incremental=True, qhull_options="QJ")
    while len(chosen) < limit:
        outside = (points @ hull.equations[:, :3].T + hull.equations[:, 3]).max(1)
        outside[chosen] = -np.inf
        chosen.append(int(outside.argmax()))
        hull.add_points(points[chosen[-1:]])
    hull.close()
    few = trimesh.convex.convex_hull(points[chosen])
    offset = few.vertices - few.center_mass
    offset = offset * np.sqrt(_spread(full) / _spread(few))
    offset = offset * (full.volume / ConvexHull(offset).volume) ** (1 / 3)
    return hull_vertices(full.center_mass + offset)


def _spread(solid: trimesh.Trimesh) -> np.ndarray:
    """Mean squared distance of a solid's matter from its centroid along x, y and z. -> (3,) m^2"""
    about = np.diag(solid.moment_inertia) / solid.volume
    return about.sum() / 2 - about


def union(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Watertight surface of the union of convex parts. -> vertices (V, 3) float64, faces (F, 3) int32"""
    hulls = [manifold3d.Manifold.hull_points(np.ascontiguousarray(p)) for p in parts]
    solid = manifold3d.Manifold.batch_boolean(hulls, manifold3d.OpType.Add)
    mesh = solid.to_mesh64()
    return np.array(mesh.vert_properties[:, :3], dtype=np.float64), np.array(mesh.tri_verts, dtype=np.int32)


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int = NUM_POINTS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over a surface, and outward normals. -> (count, 3), (count, 3) float32

    Systematic sampling by area: a triangle of a share s of the area gets s * count points, to within one.
    """
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    rng = np.random.default_rng(seed)
    ticks = (np.arange(count) + rng.random(count)) / count * area.sum()
    face = np.minimum(np.searchsorted(np.cumsum(area), ticks, side="right"), len(faces) - 1)
    u, v = rng.random((2, count, 1))
    root = np.sqrt(u)
    a, b, c = corners[face].transpose(1, 0, 2)
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    return points.astype(np.float32), (cross[face] / area[face, None]).astype(np.float32)


def distance_grid(
    parts: Sequence[np.ndarray], vertices: np.ndarray, faces: np.ndarray, spacing: float = GRID_SPACING
) -> tuple[np.ndarray, np.ndarray]:
    """Exact signed distances on a grid around the solid. -> grid (nx, ny, nz) float32, origin (3,) float32"""
    origin = (vertices.min(0) - GRID_PADDING).astype(np.float32)
    counts = np.ceil((vertices.max(0) + GRID_PADDING - origin) / spacing).astype(int) + 1
    axes = [o + spacing * np.arange(n) for o, n in zip(origin, counts, strict=True)]
    at = torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3), dtype=torch.float32)
    exact = ExactDistance.build([parts], [vertices[faces]])
    values = exact.signed(torch.zeros(len(at), dtype=torch.long), at)
    return values.numpy().reshape(counts), origin


def filled_volume(vertices: np.ndarray, faces: np.ndarray, pitch: float = 0.0015) -> float:
    """Volume inside a mesh that need not be watertight, m^3, by voxels; every contour of a z slice is filled.

    So an upright vessel counts as closed. Voxels the surface runs through count half.
    """
    area = trimesh.Trimesh(vertices, faces, process=False).area
    points, _ = sample_surface(vertices, faces, count=int(16 * area / pitch**2))
    cells = np.round((points - points.min(0)) / pitch).astype(int)
    shell = np.zeros(cells.max(0) + 1, dtype=bool)
    shell[tuple(cells.T)] = True
    inner = np.stack([ndimage.binary_fill_holes(layer) for layer in shell.transpose(2, 0, 1)], axis=-1)
    # Of the surface's voxels only those at the outside bound the filled solid; those within are matter.
    outside = ndimage.binary_dilation(~np.pad(inner, 1))[1:-1, 1:-1, 1:-1]
    return float((inner.sum() - 0.5 * (shell & outside).sum()) * pitch**3)


def decimate(mesh: trimesh.Trimesh, max_faces: int) -> trimesh.Trimesh:
    """A mesh for display of at most max_faces: vertices in one cell of a grid become one, cells grow as needed."""
    cell = float(mesh.extents.max()) / 300
    simple = mesh
    while len(simple.faces) > max_faces:
        keys, inverse = np.unique(np.floor(mesh.vertices / cell).astype(int), axis=0, return_inverse=True)
        centre = np.zeros(keys.shape)
        np.add.at(centre, inverse.ravel(), mesh.vertices)
        centre /= np.bincount(inverse.ravel())[:, None]
        simple = trimesh.Trimesh(centre, inverse.ravel()[mesh.faces])
        simple.update_faces(simple.nondegenerate_faces() & simple.unique_faces())
        simple.remove_unreferenced_vertices()
        cell *= 1.15
    return simple
