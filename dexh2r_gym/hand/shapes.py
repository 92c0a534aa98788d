"""The solid of the ShadowHand: capsules and boxes on its 18 links.

One table for everything that touches or measures: collision geoms, surface points and distance queries are made from
it. Fitted to Shadow Robot's visual meshes (least absolute error of the signed distance within 4 mm of the surface;
mean error 0.3 to 0.8 mm a link). Open shells and slots that another part fills are taken as solid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.hand.kinematics import LINK_NAMES, PALM, WRIST, Quat, Vec3
from dexh2r_gym.rotations import quat_conjugate, quat_from_axis_angle, quat_rotate


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the segment p0 p1. Metres, link frame."""

    link: int
    p0: Vec3
    p1: Vec3
    radius: float

    def signed_distance(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the link frame -> (...), negative inside."""
        p0, p1 = points.new_tensor(self.p0), points.new_tensor(self.p1)
        axis, offset = p1 - p0, points - p0
        along = ((offset * axis).sum(-1, keepdim=True) / (axis * axis).sum()).clamp(0, 1)
        return (offset - along * axis).norm(dim=-1) - self.radius


@dataclass(frozen=True)
class Box:
    """Centre and half edge lengths, metres, and rotation, in the link frame."""

    link: int
    center: Vec3
    half: Vec3
    quat: Quat

    def signed_distance(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the link frame -> (...), negative inside."""
        turn = quat_conjugate(points.new_tensor(self.quat)).expand(*points.shape[:-1], 4)
        excess = quat_rotate(turn, points - points.new_tensor(self.center)).abs() - points.new_tensor(self.half)
        return excess.clamp_min(0).norm(dim=-1) + excess.amax(dim=-1).clamp_max(0)


Shape = Capsule | Box


def _m(*millimetres: float) -> Vec3:
    x, y, z = millimetres
    return x / 1000, y / 1000, z / 1000


def _capsule(link: str, p0: tuple[float, ...], p1: tuple[float, ...], radius: float) -> Capsule:
    """From millimetres."""
    return Capsule(LINK_NAMES.index(link), _m(*p0), _m(*p1), radius / 1000)


def _box(
    link: str, center: tuple[float, ...], half: tuple[float, ...], turn: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> Box:
    """From millimetres and an axis-angle turn in radians."""
    w, x, y, z = quat_from_axis_angle(torch.tensor(turn, dtype=torch.float64)).tolist()
    return Box(LINK_NAMES.index(link), _m(*center), _m(*half), (w, x, y, z))


@lru_cache(maxsize=1)
def hand_shapes() -> tuple[Shape, ...]:
    """The shapes of all links, in the order of `LINK_NAMES`."""
    fingers = [
        shape
        for finger in ("rh_ff", "rh_mf", "rh_rf", "rh_lf")
        for shape in (
            _capsule(finger + "proximal", (0, -0.5, 0), (0, -0.2, 43), 9.4),
            _capsule(finger + "middle", (0, 0, 0), (0, -0.2, 23.8), 9.0),
            _capsule(finger + "distal", (0, -1.2, 4.1), (0, 0.8, 24.4), 7.7),
        )
    ]
    return (
        _box(PALM, (11.5, 0.3, 81.8), (30.4, 10.5, 10.8)),  # knuckle row
        _box(PALM, (-1.1, -0.2, 43.2), (19, 11, 44.4)),  # under middle and ring finger
        _box(PALM, (25.9, 4.9, 37.4), (16, 5.9, 39.7)),  # back plate on the thumb's side
        _box(PALM, (27.6, -1.8, 59.3), (13.7, 5.8, 16.3), (0.22, -0.02, 0.255)),  # slope towards the thumb
        _capsule(PALM, (-31, 0.1, 23.4), (-20, 0, 38.7), 11.2),  # bearing of the little finger's metacarpal
        _box(PALM, (2.3, -0.6, 7.9), (39.5, 9.4, 16.6)),  # lower palm with the wrist's bearings
        _box(PALM, (-11.4, -8.7, 14.5), (24.8, 9.4, 16.7), (-0.335, 0, -0.04)),  # heel
        _capsule(PALM, (2.3, -11.1, 3.5), (32.3, -11.9, 8.1), 10.7),  # heel below the thumb
        _capsule(PALM, (4.6, -8.9, 39.9), (25.6, -22.0, 16.2), 4.6),  # rim around the thumb's base
        _box(PALM, (0, 0, -1.8), (2.4, 17.8, 13.7)),  # pulley of the wrist
        *fingers,
        _box("rh_lfmetacarpal", (0, 0, 40.6), (9, 11, 18)),
        _box("rh_lfmetacarpal", (12, 0, 26.2), (15.1, 11, 5.1), (0, 0.615, 0)),
        _box("rh_lfmetacarpal", (-3.6, 0, 18), (2.6, 10.8, 8.5), (0, 0.474, 0)),
        _capsule("rh_thproximal", (0, 0, -2), (0, 0, 38.8), 10.9),
        _capsule("rh_thmiddle", (0, 0, -0.8), (0, 0, 31.8), 10.4),
        _capsule("rh_thdistal", (3.4, -0.8, 4.5), (0.9, 1.4, 26.2), 8.6),
        _capsule("rh_thdistal", (-3.4, -0.8, 4.5), (-0.9, 1.4, 26.2), 8.6),
        _capsule(WRIST, (0, -2.6, 0), (0, 2.6, 0), 13.8),
        _box(WRIST, (-26.2, 0, 30.2), (4.5, 9.5, 13.8)),
        _box(WRIST, (31.3, 0, 30.3), (5, 9.5, 13.7)),
        _box(WRIST, (-18.7, 0, 8.3), (4.3, 8.8, 11.1), (0, -0.755, 0)),
        _box(WRIST, (23.1, 0, 5.8), (4.2, 8.4, 13.7), (0, 0.75, 0)),
    )


def _bounding_spheres() -> tuple[Tensor, Tensor]:
    centers, radii = [], []
    for link in range(len(LINK_NAMES)):
        ends, margins = zip(*(_hull(shape) for shape in hand_shapes() if shape.link == link), strict=True)
        points, margin = torch.cat(ends), torch.cat(margins)
        center = ((points - margin[:, None]).amin(0) + (points + margin[:, None]).amax(0)) / 2
        centers.append(center)
        radii.append(((points - center).norm(dim=-1) + margin).amax())
    return torch.stack(centers), torch.stack(radii)


def _hull(shape: Shape) -> tuple[Tensor, Tensor]:
    """Points (N, 3) and margins (N,) such that the shape is the hull of balls of these radii about them."""
    if isinstance(shape, Capsule):
        return torch.tensor((shape.p0, shape.p1), dtype=torch.float64), torch.full(
            (2,), shape.radius, dtype=torch.float64
        )
    corners = torch.cartesian_prod(*(torch.tensor((-h, h), dtype=torch.float64) for h in shape.half))
    quat = torch.tensor(shape.quat, dtype=torch.float64).expand(8, 4)
    return quat_rotate(quat, corners) + torch.tensor(shape.center, dtype=torch.float64), corners.new_zeros(8)


LINK_CENTER, LINK_RADIUS = _bounding_spheres()
"""A sphere about the solid of each link: centre (18, 3) in the link's frame, radius (18,); metres, float64."""


class CapsuleSet(NamedTuple):
    """K capsules in link frames."""

    link: Tensor  # (K,) long, index into LINK_NAMES
    p0: Tensor  # (K, 3) m
    p1: Tensor  # (K, 3) m
    radius: Tensor  # (K,) m


@lru_cache(maxsize=1)
def hand_capsules() -> CapsuleSet:
    """The hand as capsules alone, for cheap queries: a box becomes a row of capsules inside it, along its longest edge.

    Edges and corners of boxes are cut off: 8 mm at most, 1.3 mm on average over the palm. float64.
    """
    capsules: list[Capsule] = []
    for shape in hand_shapes():
        capsules += [shape] if isinstance(shape, Capsule) else _row_of_capsules(shape)
    return CapsuleSet(
        torch.tensor([c.link for c in capsules]),
        torch.tensor([c.p0 for c in capsules], dtype=torch.float64),
        torch.tensor([c.p1 for c in capsules], dtype=torch.float64),
        torch.tensor([c.radius for c in capsules], dtype=torch.float64),
    )


def _row_of_capsules(box: Box) -> list[Capsule]:
    thin, middle, long = sorted(range(3), key=lambda i: box.half[i])
    radius = box.half[thin]
    count = max(1, round(box.half[middle] / radius))
    reach = box.half[middle] - radius
    ends = torch.zeros(2, count, 3, dtype=torch.float64)
    ends[:, :, middle] = torch.linspace(-reach, reach, count, dtype=torch.float64) if count > 1 else 0.0
    ends[0, :, long] = radius - box.half[long]
    ends[1, :, long] = box.half[long] - radius
    quat = torch.tensor(box.quat, dtype=torch.float64).expand(2, count, 4)
    p0, p1 = (quat_rotate(quat, ends) + torch.tensor(box.center, dtype=torch.float64)).tolist()
    return [Capsule(box.link, tuple(a), tuple(b), radius) for a, b in zip(p0, p1, strict=True)]
