"""Everyday objects drawn with a few numbers: bottles, tools, boxes, food. Our own, no source mesh.

Each is a list of convex parts along z, metres, as a function of the number of corners of a round section: few for the
solid, many for display.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dexh2r_gym.objects.shapes import Parts, across, bent, box, facing, oval, plate, ring, tilted, tube

SOLID_SIDES, VISUAL_SIDES = 16, 48
PARAMETRIC: dict[str, tuple[Callable[[int], Parts], float]] = {}  # name -> (parts of a number of sides, mass in kg)


def _object(mass: float) -> Callable[[Callable[[int], Parts]], Callable[[int], Parts]]:
    def register(make: Callable[[int], Parts]) -> Callable[[int], Parts]:
        PARAMETRIC[make.__name__] = make, mass
        return make

    return register


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


@_object(0.70)
def frying_pan(n: int) -> Parts:
    """A pan of 18 cm, its bottom at y = 0, with a handle that rises slightly."""
    neck = np.concatenate([oval(n, 0.011, 0.006, (0, -0.030, -0.084)), oval(n, 0.009, 0.007, (0, -0.040, -0.125))])
    grip = np.concatenate([oval(n, 0.010, 0.008, (0, -0.040, -0.123)), oval(n, 0.014, 0.010, (0, -0.052, -0.250))])
    bottom = tube(n, (0, 0.075), (0.006, 0.076))
    wall = ring(n // 2, (0.005, 0.070, 0.0755), (0.038, 0.083, 0.090))
    return [*facing(bottom + wall), neck, grip]


@_object(0.14)
def scissors(n: int) -> Parts:
    """Closed, in the x-z plane: two loops of segments, a shank and the blades."""
    loop = facing(ring(n // 3, (-0.0075, 0.0130, 0.0215), (0.0075, 0.0130, 0.0215), stretch=1.5))
    return (
        tilted(loop, 0.12, (-0.0205, 0, -0.027))
        + tilted(loop, -0.12, (0.0205, 0, -0.027))
        + plate([(-0.030, 0), (0.030, 0), (0.012, 0.042), (-0.012, 0.042)], 0.014, 0.002)
        + plate([(-0.012, 0.030), (0.012, 0.030), (0.003, 0.120), (-0.003, 0.120)], 0.007, 0.001)
    )


@_object(0.30)
def stapler(n: int) -> Parts:
    """Lying on its back: base towards -x, hinge at the lower end, mouth at the upper."""
    return (
        plate([(-0.006, -0.075), (0.006, -0.075), (0.006, 0.075), (-0.006, 0.072)], 0.036, 0.004)
        + plate([(0.004, -0.072), (0.036, -0.066), (0.042, -0.040), (0.018, -0.040), (0.004, -0.050)], 0.034, 0.004)
        + plate([(0.018, -0.042), (0.042, -0.042), (0.048, 0.030), (0.045, 0.073), (0.030, 0.075)], 0.034, 0.004)
        + plate([(0.012, -0.045), (0.020, -0.045), (0.034, 0.070), (0.024, 0.070)], 0.022, 0.001)
    )


@_object(0.12)
def hairbrush(n: int) -> Parts:
    """Handle below, bristles in five rows towards -y."""
    rows = [(0.130, 0.032), (0.147, 0.044), (0.164, 0.048), (0.181, 0.044), (0.198, 0.032)]
    return (
        tube(n, (0, 0.010, 0.008), (0.010, 0.0145, 0.011), (0.060, 0.0125, 0.010), (0.100, 0.009, 0.008))
        + tube(n, (0.098, 0.009, 0.008), (0.130, 0.025, 0.010), (0.164, 0.031, 0.010))
        + tube(n, (0.164, 0.031, 0.010), (0.198, 0.025, 0.009), (0.215, 0.012, 0.007))
        + [part for z, width in rows for part in box((width, 0.024, 0.009), (0, -0.018, z))]
    )


@_object(0.25)
def game_controller(n: int) -> Parts:
    """Two grips along -x, a body along z between them, and two sticks towards -y."""
    grip = tube(n, (-0.030, 0.018, 0.012), (-0.015, 0.027, 0.018), (0.010, 0.027, 0.019), (0.070, 0.013, 0.012))
    stick = facing(tube(n, (0, 0.006), (0.008, 0.006), (0.010, 0.009), (0.013, 0.008)), -0.016)
    return (
        tube(n, (-0.050, 0.026, 0.017), (-0.025, 0.025, 0.019), (0.025, 0.025, 0.019), (0.050, 0.026, 0.017))
        + tilted(grip, -np.pi / 2 - 0.2, (0, 0, -0.048))
        + tilted(grip, -np.pi / 2 + 0.2, (0, 0, 0.048))
        + tilted(stick, 0.0, (-0.010, 0, -0.022))
        + tilted(stick, 0.0, (-0.010, 0, 0.022))
    )


@_object(0.20)
def toy_plane(n: int) -> Parts:
    """A wooden plane, nose up along z, wings along x, fin towards y."""
    fin = plate([(0, -0.108), (0, -0.065), (0.045, -0.090), (0.045, -0.108)], 0.010)
    cabin = plate([(0, -0.010), (0, 0.045), (0.034, 0.025), (0.034, 0.005)], 0.022, 0.003)
    return (
        tube(n, (-0.110, 0.010), (-0.020, 0.020), (0.060, 0.023), (0.085, 0.020), (0.095, 0.013))
        + tube(n, (0.094, 0.008), (0.112, 0.005))
        + box((0.180, 0.012, 0.052), (0, -0.004, 0.035))
        + box((0.085, 0.010, 0.032), (0, 0, -0.092))
        + [part[:, [1, 0, 2]] for part in fin + cabin]
    )
