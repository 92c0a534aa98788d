"""From convex parts to one solid: hulls with few vertices, their union, points on it, its distance grid.

Used when objects are built, not while an environment runs. numpy and trimesh in, numpy out; metres, object frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import manifold3d
import numpy as np
import torch
import trimesh
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
    """A hull of at most `limit` of the hull's vertices and the same volume. (N, 3) -> (V, 3)

    Vertices are taken greedily, each time the one furthest outside of the hull so far; the little that is lost is made up
    by growing the result about its centroid.
    """
    points = hull_vertices(points)
    if len(points) <= limit:
        return points
    full = ConvexHull(points)
    # A simplex of extreme points to start from: the two ends of each box axis.
    chosen = list(dict.fromkeys([*points.argmin(0), *points.argmax(0)]))
    hull = ConvexHull(points[chosen], incremental=True, qhull_options="QJ")
    while len(chosen) < limit:
        outside = (points @ hull.equations[:, :3].T + hull.equations[:, 3]).max(1)
        outside[chosen] = -np.inf
        worst = int(outside.argmax())
        chosen.append(worst)
        hull.add_points(points[[worst]])
    hull.close()
    few = points[chosen]
    centre = trimesh.convex.convex_hull(few).center_mass
    return hull_vertices(centre + (few - centre) * (full.volume / ConvexHull(few).volume) ** (1 / 3))


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
    exact = ExactDistance([parts], [vertices[faces]])
    values = exact.signed(torch.zeros(len(at), dtype=torch.long), at)
    return values.numpy().reshape(counts), origin


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume enclosed by a watertight surface, m^3."""
    return float(
        np.einsum("fi,fi->f", vertices[faces[:, 0]], np.cross(vertices[faces[:, 1]], vertices[faces[:, 2]])).sum() / 6
    )
