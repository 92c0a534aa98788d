"""Primitive and random shapes of hand-held size, each from a number: to pre-train on before any real object is seen.

Boxes, round bodies with a random outline, bent bars, plates, and tools of a handle and a head.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dexh2r_gym.objects.build import build_object
from dexh2r_gym.objects.model import ObjectModel
from dexh2r_gym.objects.shapes import Parts, across, bent, box, plate, tilted, tube

_SIDES = 16
_DENSITY = (250.0, 900.0)  # kg/m^3


@lru_cache(maxsize=8)
def random_shape(number: int) -> ObjectModel:
    """The shape of this number, 0 or more: named `shape_00012`, always the same, built in about a second."""
    rng = np.random.default_rng([2025, number])
    kind = (_box, _round, _tool, _bar, _plate)[number % 5]
    parts = kind(rng)
    return build_object(f"shape_{number:05d}", parts, density=float(rng.uniform(*_DENSITY)))


def _box(rng: np.random.Generator) -> Parts:
    x, y = np.sort(rng.uniform((0.015, 0.025), (0.06, 0.10)))
    return box((float(x), float(y), float(rng.uniform(0.10, 0.26))))


def _round(rng: np.random.Generator) -> Parts:
    """A bottle, can, vase or cone: convex pieces between rings of random radius."""
    length, widest = rng.uniform(0.12, 0.28), rng.uniform(0.018, 0.045)
    count = int(rng.integers(2, 5))
    height = np.concatenate(([0.0], np.sort(rng.uniform(0.15, 0.85, count - 1)), [1.0])) * length
    radius = widest * rng.uniform(0.35, 1.0, count + 1)
    radius[int(rng.integers(count + 1))] = widest
    flat = rng.uniform(0.6, 1.0)  # of an oval section
    return [
        part
        for i in range(count)
        for part in tube(
            _SIDES,
            (height[i] - 0.0005, radius[i], flat * radius[i]),
            (height[i + 1] + 0.0005, radius[i + 1], flat * radius[i + 1]),
        )
    ]


def _tool(rng: np.random.Generator) -> Parts:
    """A handle with a head across it, at an angle, or in line."""
    handle = float(rng.uniform(0.12, 0.22))
    grip = float(rng.uniform(0.010, 0.022))
    parts = tube(_SIDES, (0.0, grip, rng.uniform(0.7, 1.0) * grip), (handle, grip * rng.uniform(0.6, 1.0)))
    head, thick = float(rng.uniform(0.05, 0.13)), float(rng.uniform(0.015, 0.035))
    place = handle - 0.5 * thick
    form = rng.integers(3)
    if form == 0:
        offset = rng.uniform(-0.3, 0.3) * head
        parts += across(tube(_SIDES, (-head / 2 + offset, thick), (head / 2 + offset, thick)), place)
    elif form == 1:
        parts += tilted(box((thick, thick, head)), float(rng.uniform(0.4, 1.57)), (0.0, 0.0, place))
    else:
        parts += tube(_SIDES, (place, 0.6 * thick), (place + 0.4 * head, thick), (place + head, 0.5 * thick))
    return parts


def _bar(rng: np.random.Generator) -> Parts:
    count = int(rng.integers(4, 8))
    radii = (rng.uniform(0.012, 0.026) * rng.uniform(0.6, 1.0, count)).tolist()
    return bent(_SIDES, radii, float(rng.uniform(0.14, 0.26)), float(rng.uniform(0.2, 1.6)))


def _plate(rng: np.random.Generator) -> Parts:
    """A flat body, half of the time with a grip in line with it."""
    wide, long, thick = rng.uniform((0.04, 0.09, 0.010), (0.12, 0.20, 0.028))
    corner = 0.3 * min(wide, long)
    w, h = wide / 2, long / 2
    outline = [(-w, corner - h), (corner - w, -h), (w - corner, -h), (w, corner - h)]
    outline += [(w, h - corner), (w - corner, h), (corner - w, h), (-w, h - corner)]
    parts = plate([(float(x), float(z)) for x, z in outline], float(thick))
    if rng.random() < 0.5:
        grip = float(rng.uniform(0.009, 0.016))
        parts += tube(_SIDES, (float(h - 0.01), grip), (float(h + rng.uniform(0.08, 0.13)), grip))
    return parts
