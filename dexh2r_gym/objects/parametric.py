"""Everyday objects drawn with a few numbers: bottles, tools, boxes, food. Our own, no source mesh.

Each is a list of convex parts along z, metres. `sides` is the number of corners of a round section: few for the
solid, many for display. Polygons are drawn with the circle's area, so volume does not depend on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

Parts = list[np.ndarray]
SOLID_SIDES, VISUAL_SIDES = 16, 48
PARAMETRIC: dict[str, tuple[Callable[[int], Parts], float]] = {}  # name -> (parts of a number of sides, mass in kg)


def _object(mass: float) -> Callable[[Callable[[int], Parts]], Callable[[int], Parts]]:
    def register(make: Callable[[int], Parts]) -> Callable[[int], Parts]:
        PARAMETRIC[make.__name__] = make, mass
        return make

    return register


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


def across(parts: Parts, z: float) -> Parts:
    """Parts along z laid along x, at height z."""
    return [part[:, [2, 1, 0]] * [1, -1, 1] + [0, 0, z] for part in parts]


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


@_object(0.50)
def water_bottle(n: int) -> Parts:
    return (
        tube(n, (0, 0.030), (0.006, 0.0335), (0.145, 0.0335))
        + tube(n, (0.143, 0.0335), (0.165, 0.031), (0.190, 0.014))
        + tube(n, (0.188, 0.014), (0.215, 0.014))
    )


@_object(0.40)
def thermos(n: int) -> Parts:
    return tube(n, (0, 0.0345), (0.185, 0.0345), (0.200, 0.029)) + tube(n, (0.195, 0.026), (0.250, 0.024))


@_object(0.35)
def aerosol_can(n: int) -> Parts:
    return tube(n, (0, 0.0275), (0.150, 0.0275), (0.158, 0.022)) + tube(n, (0.155, 0.0225), (0.190, 0.0215))


@_object(0.20)
def crisps_tube(n: int) -> Parts:
    return tube(n, (0, 0.0365), (0.225, 0.0365)) + tube(n, (0.223, 0.0385), (0.236, 0.0385))


@_object(0.25)
def pepper_mill(n: int) -> Parts:
    return (
        tube(n, (0, 0.029), (0.020, 0.029), (0.050, 0.021))
        + tube(n, (0.049, 0.021), (0.101, 0.018))
        + tube(n, (0.100, 0.018), (0.135, 0.026))
        + tube(n, (0.134, 0.026), (0.160, 0.027), (0.182, 0.022), (0.195, 0.010))
    )


@_object(0.30)
def skittle(n: int) -> Parts:
    return (
        tube(n, (0, 0.020), (0.045, 0.031), (0.085, 0.032), (0.125, 0.022))
        + tube(n, (0.124, 0.022), (0.166, 0.0135))
        + tube(n, (0.165, 0.0135), (0.190, 0.0185), (0.215, 0.0185), (0.232, 0.009))
    )


@_object(0.50)
def pasta_box(n: int) -> Parts:
    return box((0.072, 0.040, 0.225))


@_object(0.14)
def toothpaste_box(n: int) -> Parts:
    return box((0.048, 0.037, 0.195))


@_object(0.38)
def book(n: int) -> Parts:
    return box((0.125, 0.026, 0.190))


@_object(0.30)
def spirit_level(n: int) -> Parts:
    return box((0.050, 0.023, 0.240))


@_object(0.55)
def hammer(n: int) -> Parts:
    return (
        tube(n, (0, 0.017, 0.013), (0.110, 0.015, 0.012))
        + tube(n, (0.108, 0.013, 0.010), (0.250, 0.011, 0.009))
        + box((0.050, 0.024, 0.028), (0.0, 0.0, 0.258))
        + across(tube(n, (-0.055, 0.0145), (-0.020, 0.0145)), 0.258)
        + [
            np.array(
                [(0.02, y, z) for y in (-0.012, 0.012) for z in (0.245, 0.272)]
                + [(0.062, y, 0.248) for y in (-0.012, 0.012)]
            )
        ]
    )


@_object(0.45)
def mallet(n: int) -> Parts:
    return tube(n, (0, 0.0155), (0.100, 0.0145), (0.215, 0.012)) + across(
        tube(n, (-0.050, 0.029), (0.050, 0.029)), 0.225
    )


@_object(0.45)
def rolling_pin(n: int) -> Parts:
    return (
        tube(n, (0, 0.008), (0.012, 0.0135), (0.070, 0.011))
        + tube(n, (0.069, 0.026), (0.280, 0.026))
        + tube(n, (0.279, 0.011), (0.338, 0.0135), (0.350, 0.008))
    )


@_object(0.08)
def wooden_spoon(n: int) -> Parts:
    return tube(n, (0, 0.008), (0.010, 0.0105), (0.210, 0.0085)) + tube(
        n, (0.205, 0.0085), (0.230, 0.024, 0.010), (0.260, 0.031, 0.011), (0.285, 0.024, 0.008), (0.295, 0.012, 0.004)
    )


@_object(0.40)
def wrench(n: int) -> Parts:
    return (
        box((0.024, 0.012, 0.130), (0, 0, 0.085))
        + tube(n, (0.0, 0.012, 0.006), (0.012, 0.018, 0.007), (0.030, 0.012, 0.006))
        + box((0.052, 0.015, 0.028), (0, 0, 0.160))
        + box((0.018, 0.015, 0.036), (-0.017, 0, 0.190))
        + box((0.014, 0.015, 0.028), (0.019, 0, 0.186))
    )


@_object(0.10)
def paint_brush(n: int) -> Parts:
    return (
        tube(n, (0, 0.008), (0.012, 0.0125), (0.090, 0.0105), (0.125, 0.016, 0.010))
        + box((0.054, 0.019, 0.045), (0, 0, 0.145))
        + box((0.050, 0.015, 0.055), (0, 0, 0.194))
    )


@_object(0.16)
def lint_roller(n: int) -> Parts:
    return (
        tube(n, (0, 0.011), (0.015, 0.0155), (0.095, 0.0125))
        + tube(n, (0.093, 0.009), (0.125, 0.009))
        + tube(n, (0.120, 0.024), (0.222, 0.024))
    )


@_object(0.35)
def folded_umbrella(n: int) -> Parts:
    return (
        tube(n, (0, 0.013), (0.008, 0.017), (0.055, 0.016))
        + tube(n, (0.053, 0.021), (0.160, 0.027), (0.245, 0.023))
        + tube(n, (0.243, 0.008), (0.262, 0.008))
    )


@_object(1.0)
def dumbbell(n: int) -> Parts:
    return (
        tube(n, (0, 0.025), (0.008, 0.029), (0.035, 0.029), (0.043, 0.025))
        + tube(n, (0.040, 0.015), (0.150, 0.015))
        + tube(n, (0.147, 0.025), (0.155, 0.029), (0.182, 0.029), (0.190, 0.025))
    )


@_object(0.30)
def microphone(n: int) -> Parts:
    return tube(n, (0, 0.0125), (0.165, 0.0185)) + tube(
        n, (0.160, 0.0215), (0.175, 0.0255), (0.192, 0.0265), (0.209, 0.022), (0.218, 0.012)
    )


@_object(0.50)
def hair_dryer(n: int) -> Parts:
    return (
        tube(n, (0, 0.017, 0.0135), (0.125, 0.019, 0.0155))
        + across(tube(n, (-0.055, 0.032), (0.030, 0.036), (0.050, 0.028)), 0.150)
        + across(tube(n, (-0.100, 0.025), (-0.050, 0.0275)), 0.150)
    )


@_object(0.10)
def maraca(n: int) -> Parts:
    return tube(n, (0, 0.0125), (0.006, 0.0145), (0.125, 0.0105)) + tube(
        n, (0.118, 0.012), (0.135, 0.027), (0.158, 0.0345), (0.182, 0.033), (0.203, 0.022), (0.213, 0.009)
    )


@_object(0.25)
def baguette(n: int) -> Parts:
    return tube(
        n, (0, 0.010, 0.008), (0.030, 0.027, 0.021), (0.150, 0.033, 0.027), (0.270, 0.027, 0.021), (0.300, 0.010, 0.008)
    )


@_object(0.32)
def cucumber(n: int) -> Parts:
    return bent(n, [0.008, 0.019, 0.022, 0.022, 0.019, 0.007], 0.235, 0.35)


@_object(0.16)
def banana(n: int) -> Parts:
    return bent(n, [0.006, 0.0145, 0.0180, 0.0185, 0.0165, 0.0070, 0.0055], 0.205, 1.4)


@_object(0.15)
def carrot(n: int) -> Parts:
    return tube(n, (0, 0.004), (0.060, 0.0125), (0.170, 0.020), (0.188, 0.020), (0.196, 0.013))
