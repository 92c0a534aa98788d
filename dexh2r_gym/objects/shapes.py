"""Convex parts of simple form, to draw objects with. Metres.

`sides` is the number of corners of a round section. Polygons are drawn with the circle's area, so volume does not
depend on it.
"""

from __future__ import annotations

import itertools

import numpy as np

Parts = list[np.ndarray]


def box(size: tuple[float, float, float], at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Parts:
    """A box of edges `size` centred at `at`."""
    corners = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return [corners * size + at]


def tube(sides: int, *rings: tuple[float, float, float] | tuple[float, float], x: float = 0.0) -> Parts:
    """One convex part through rings (z, radius) or (z, radius along x, radius along y), centred at (x, 0)."""
    turn = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    grow = np.sqrt(2 * np.pi / sides / np.sin(2 * np.pi / sides))
    circle = grow * np.stack((np.cos(turn), np.sin(turn)), axis=-1)
    return [
        np.concatenate([np.column_stack((circle * ring[1:] + [x, 0.0], np.full(sides, ring[0]))) for ring in rings])
    ]


def oval(sides: int, x: float, y: float, at: tuple[float, float, float]) -> np.ndarray:
    """The corners of an oval section of radii x and y at a place."""
    return tube(sides, (0.0, x, y))[0] + at


def across(parts: Parts, z: float) -> Parts:
    """Parts along z laid along x, at height z."""
    return [part[:, [2, 1, 0]] * [1, -1, 1] + [0, 0, z] for part in parts]


def ring(count: int, *levels: tuple[float, float, float], stretch: float = 1.0) -> Parts:
    """A ring of `count` convex segments through levels (z, inner radius, outer radius); stretch: of its y axis."""
    turn = 2 * np.pi * (np.arange(count + 1) + 0.5) / count
    grow = np.sqrt(2 * np.pi / count / np.sin(2 * np.pi / count))
    circle = grow * np.stack((np.cos(turn), stretch * np.sin(turn)), axis=-1)
    spans = [
        [np.column_stack((circle[k : k + 2] * radius, np.full(2, z))) for z, *radii in levels for radius in radii]
        for k in range(count)
    ]
    return [np.concatenate(span) for span in spans]


def plate(outline: list[tuple[float, float]], thickness: float, chamfer: float = 0.0) -> Parts:
    """A convex outline of corners (x, z) as thick along y, its edges broken by about `chamfer`."""
    edge = np.array(outline)
    offset = edge - edge.mean(0)
    face = edge - chamfer * offset / np.linalg.norm(offset, axis=1, keepdims=True)
    sides = ((edge, thickness / 2 - chamfer), (face, thickness / 2))
    return [np.concatenate([np.insert(at, 1, y * side, axis=1) for at, y in sides for side in (-1, 1)])]


def facing(parts: Parts, y: float = 0.0) -> Parts:
    """Parts along z turned to lie along -y: what was at height 0 is at `y`, what was along y is along z."""
    return [part[:, [0, 2, 1]] * [1, -1, 1] + [0, y, 0] for part in parts]


def tilted(parts: Parts, angle: float, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Parts:
    """Parts turned about y by `angle` radians (z towards x), then moved by `at`."""
    c, s = np.cos(angle), np.sin(angle)
    return [part @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + at for part in parts]


def bent(sides: int, radii: list[float], length: float, angle: float) -> Parts:
    """A bar of round sections `radii`, bent by `angle` radians in all along its length."""
    ring = tube(sides, (0.0, 1.0))[0]
    turn = angle * np.linspace(-0.5, 0.5, len(radii))
    arm = length / angle
    sections = [
        np.column_stack(((arm + ring[:, 0] * r) * np.cos(t) - arm, ring[:, 1] * r, (arm + ring[:, 0] * r) * np.sin(t)))
        for r, t in zip(radii, turn, strict=True)
    ]
    return [np.concatenate(pair) for pair in itertools.pairwise(sections)]
