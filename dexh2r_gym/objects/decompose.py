"""A mesh as a few convex parts.

Slabs: the mesh is cut across an axis, and each slab replaced by its convex hull; where to cut is chosen by dynamic
programming so that the hulls together enclose as little as possible. It suits bottles, tools, cans and boxes, needs
no watertight mesh, and closes vessels. CoACD (optional, `pip install dexh2r-gym[mesh]`) serves shapes that branch; it
needs a watertight mesh.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import trimesh
from scipy.spatial import ConvexHull, QhullError

from dexh2r_gym.objects.geometry import filled_volume, union
from dexh2r_gym.objects.model import MAX_PARTS

OVERLAP = 0.0005  # metres that neighbouring slabs reach into each other, so that no gap can open between them
LEVELS = 40  # places along the axis where a cut is considered
GOOD = 0.05  # excess of volume that needs no better method
TOLERANCE = 0.01  # volume above the finest slabs' that is accepted to have fewer parts


def _level_points(mesh: trimesh.Trimesh, axis: int, levels: np.ndarray) -> list[np.ndarray]:
    """For each gap between levels, points whose hull is the hull of the mesh between them."""
    ends = mesh.vertices[mesh.edges_unique]  # (E, 2, 3)
    height = ends[..., axis]
    cuts = []
    for level in levels:
        crossing = (height.min(1) < level) & (height.max(1) > level)
        a, b = ends[crossing, 0], ends[crossing, 1]
        cuts.append(a + (b - a) * ((level - a[:, axis]) / (b[:, axis] - a[:, axis]))[:, None])
    own = mesh.vertices[:, axis]
    return [
        np.concatenate((mesh.vertices[(own >= low) & (own <= high)], cuts[i], cuts[i + 1]))
        for i, (low, high) in enumerate(itertools.pairwise(levels))
    ]


def _hull(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Volume and vertices of a hull; a flat or empty set has no volume."""
    if len(points) < 4:
        return 0.0, points
    try:
        hull = ConvexHull(points)
    except QhullError:
        return 0.0, points
    return float(hull.volume), points[hull.vertices]


def _lengthened(points: np.ndarray, axis: int, low: float, high: float, down: bool, up: bool) -> np.ndarray:
    """A slab's vertices with those in its lower (down) and upper (up) cut moved outwards by OVERLAP."""
    points = points.copy()
    height = points[:, axis]
    close = 1e-6 * (high - low)
    height[down & (height < low + close)] -= OVERLAP
    height[up & (height > high - close)] += OVERLAP
    return points


def slabs(mesh: trimesh.Trimesh, axis: int = 2, limit: int = MAX_PARTS) -> list[np.ndarray]:
    """Convex hulls of slabs across an axis: as few as reach the volume to within TOLERANCE, at most `limit`."""
    low, high = mesh.bounds[:, axis]
    levels = np.linspace(low, high, LEVELS + 1)
    thin = _level_points(mesh, axis, levels)
    cost = np.full((LEVELS + 1, LEVELS + 1), np.inf)
    hulls = {}
    for start in range(LEVELS):
        points = np.empty((0, 3))
        for stop in range(start + 1, LEVELS + 1):
            cost[start, stop], points = _hull(np.concatenate((points, thin[stop - 1])))
            hulls[start, stop] = points
    best = np.full((limit + 1, LEVELS + 1), np.inf)
    best[0, 0] = 0.0
    come = np.zeros((limit + 1, LEVELS + 1), dtype=int)
    for k in range(1, limit + 1):
        total = best[k - 1][:, None] + cost
        best[k], come[k] = total.min(0), total.argmin(0)
    finest = sum(cost[i, i + 1] for i in range(LEVELS))
    good = np.flatnonzero(best[:, -1] <= (1 + TOLERANCE) * finest)
    k = int(good[0]) if len(good) else int(best[:, -1].argmin())
    parts, stop = [], LEVELS
    while stop > 0:
        start = int(come[k, stop])
        parts.append(_lengthened(hulls[start, stop], axis, levels[start], levels[stop], start > 0, stop < LEVELS))
        stop, k = start, k - 1
    return [p for p in parts[::-1] if _hull(p)[0] > 0]


def coacd(mesh: trimesh.Trimesh) -> list[np.ndarray]:
    """Approximate convex decomposition by CoACD (Wei et al., SIGGRAPH 2022), seeded; seconds to a minute."""
    try:
        import coacd as library
    except ImportError as error:
        raise ImportError("CoACD is not installed: pip install 'dexh2r-gym[mesh]'") from error
    library.set_log_level("error")
    pieces = library.run_coacd(
        library.Mesh(mesh.vertices, mesh.faces), threshold=0.08, max_convex_hull=MAX_PARTS, mcts_iterations=60, seed=0
    )
    return [np.asarray(vertices) for vertices, _ in pieces]


def decompose(mesh: trimesh.Trimesh, vessel: bool = False) -> tuple[list[np.ndarray], str, float]:
    """Parts of any mesh, the method that gave them, and the fraction by which their volume exceeds the mesh's.

    One hull, slabs across each axis and, where they exceed by more than GOOD, CoACD if it is installed and the mesh
    watertight. The parts cover the mesh, so the smallest volume is the closest fit; fewer parts are preferred within
    TOLERANCE of it. A vessel is closed: slabs only. It, and a mesh that is not watertight, is measured against the
    volume of its filled z contours.
    """
    solid = mesh.is_volume and not vessel
    true = float(mesh.volume) if solid else filled_volume(mesh.vertices, mesh.faces)
    found = {"convex hull": [_hull(mesh.vertices)[1]]}
    found |= {f"slabs along {letter}": slabs(mesh, axis) for axis, letter in enumerate("xyz")}
    volume = {method: _volume(parts) for method, parts in found.items()}
    if solid and min(volume.values()) > (1 + GOOD) * true:
        with contextlib.suppress(ImportError):
            found["coacd"] = coacd(mesh)
            volume["coacd"] = _volume(found["coacd"])
    least = min(volume.values())
    method = min((m for m in found if volume[m] <= (1 + TOLERANCE) * least), key=lambda m: (len(found[m]), volume[m]))
    return found[method], method, volume[method] / true - 1.0


def _volume(parts: list[np.ndarray]) -> float:
    return float(trimesh.Trimesh(*union(parts), process=False).volume)
