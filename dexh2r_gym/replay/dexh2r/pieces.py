"""An object's solid from points on its surface alone: convex hulls of slabs across one axis."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

COUNTS = (1, 2, 3, 4, 6, 8, 12)  # slabs tried
TOLERANCE = 0.1  # part of the least volume that is given up to have fewer slabs; thin slabs of few points cut corners
MARGIN = 0.003  # m that slabs reach into each other, about the distance between 4096 points of a hand-sized thing


def slabs_of_points(points: NDArray[np.floating]) -> tuple[list[NDArray[np.float64]], str]:
    """Vertices (V, 3) of the convex hulls of slabs of points (P, 3), and how they were cut.

    The axis and the number of slabs are those that enclose least, or nearly so with fewer slabs. What is hollow is
    closed. ValueError if the points are too few or flat.
    """
    points = np.asarray(points, dtype=np.float64)
    found = []
    for axis in range(3):
        height = points[:, axis]
        for count in COUNTS:
            ends = np.linspace(height.min(), height.max(), count + 1)
            slabs = [points[(height >= low - MARGIN) & (height <= high + MARGIN)] for low, high in pairwise(ends)]
            try:
                hulls = [ConvexHull(slab) for slab in slabs]
            except (QhullError, ValueError):  # a slab with too few points
                continue
            pieces = [slab[hull.vertices] for slab, hull in zip(slabs, hulls, strict=True)]
            # The volume without what slabs share, as if they ended where they were cut.
            shares = [
                (high - low) / np.ptp(slab[:, axis]) for low, high, slab in zip(ends[:-1], ends[1:], slabs, strict=True)
            ]
            volume = sum(hull.volume * min(share, 1.0) for hull, share in zip(hulls, shares, strict=True))
            found.append((volume, count, axis, pieces))
    if not found:
        raise ValueError(f"{len(points)} points span no solid")
    least = min(volume for volume, *_ in found)
    enough = [entry for entry in found if entry[0] <= (1 + TOLERANCE) * least]
    _, count, axis, pieces = min(enough, key=lambda entry: (entry[1], entry[0]))
    return pieces, "hull of the points" if count == 1 else f"{count} slabs of the points along {'xyz'[axis]}"
