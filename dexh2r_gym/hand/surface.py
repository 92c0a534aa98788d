"""Points on the outer surface of the ShadowHand's solid, with outward normals: 128 on each of its 18 links.

The number a link is that of the released DexH2R code. Points are spread evenly over the surface of the union of the
link's shapes, once, with a fixed seed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.hand.fk import forward_kinematics
from dexh2r_gym.hand.kinematics import LINK_NAMES
from dexh2r_gym.hand.shapes import Box, Capsule, Shape, hand_shapes
from dexh2r_gym.rotations import quat_rotate, quat_to_matrix

POINTS_PER_LINK = 128
SURFACE_LINK = torch.arange(len(LINK_NAMES)).repeat_interleave(POINTS_PER_LINK)  # (2304,) link of each point
_CANDIDATES = 512  # a link, from which the points are chosen
_SEED = 2025


class Surface(NamedTuple):
    """Oriented points, in link frames or in the frame of the palm's pose."""

    points: Tensor  # (..., 2304, 3) m
    normals: Tensor  # (..., 2304, 3) unit, outward


@lru_cache(maxsize=1)
def surface_points_local() -> Surface:
    """The 2304 points and normals in their link's frame, float32. Point i lies on link `SURFACE_LINK[i]`."""
    generator = torch.Generator().manual_seed(_SEED)
    links = [[s for s in hand_shapes() if s.link == link] for link in range(len(LINK_NAMES))]
    points, normals = zip(*(_candidates(shapes, generator) for shapes in links), strict=True)
    chosen = _farthest_points(torch.stack(points), POINTS_PER_LINK)  # (18, 128)
    index = chosen[..., None].expand(-1, -1, 3)
    picked = (torch.stack(values).gather(1, index).flatten(0, 1).float() for values in (points, normals))
    return Surface(*picked)


def surface_points_from_links(link_poses: Tensor) -> Surface:
    """Surface of hands whose link poses (..., 18, 7) are known. -> (..., 2304, 3) points, normals."""
    local = surface_points_local()
    points, normals = (
        x.to(link_poses).T.unflatten(1, (len(LINK_NAMES), POINTS_PER_LINK)) for x in (local.points, local.normals)
    )  # (3, 18, 128)
    turn = quat_to_matrix(link_poses[..., 3:])[..., None]  # (..., 18, 3, 3, 1)

    def turned(v: Tensor, axis: int) -> Tensor:  # plane by plane: contiguous, so fast
        return turn[..., axis, 0, :] * v[0] + turn[..., axis, 1, :] * v[1] + turn[..., axis, 2, :] * v[2]

    return Surface(
        torch.stack([turned(points, i) + link_poses[..., i, None] for i in range(3)], dim=-1).flatten(-3, -2),
        torch.stack([turned(normals, i) for i in range(3)], dim=-1).flatten(-3, -2),
    )


def surface_points(pose: Tensor, joints: Tensor) -> Surface:
    """Surface of hands at palm pose (..., 7) with joints (..., 22): points, normals (..., 2304, 3). Differentiable."""
    return surface_points_from_links(forward_kinematics(pose, joints))


def _candidates(shapes: list[Shape], generator: torch.Generator) -> Surface:
    """`_CANDIDATES` points spread at random over the outer surface of the union of a link's shapes."""
    area = torch.tensor([_area(shape) for shape in shapes], dtype=torch.float64)
    counts = (area / area.sum() * 4 * _CANDIDATES).round().int().tolist()
    points, normals = [], []
    for shape, count in zip(shapes, counts, strict=True):
        p, n = _on_capsule(shape, count, generator) if isinstance(shape, Capsule) else _on_box(shape, count, generator)
        others = [s.signed_distance(p) for s in shapes if s is not shape]
        outside = torch.stack(others).amin(0) > 0 if others else torch.ones(count, dtype=torch.bool)
        points.append(p[outside])
        normals.append(n[outside])
    p, n = torch.cat(points), torch.cat(normals)
    order = torch.randperm(len(p), generator=generator)[:_CANDIDATES]
    if len(order) < _CANDIDATES:
        raise RuntimeError(f"only {len(order)} of {_CANDIDATES} candidates on link {LINK_NAMES[shapes[0].link]}")
    return Surface(p[order], n[order])


def _area(shape: Shape) -> float:
    if isinstance(shape, Capsule):
        length = float((torch.tensor(shape.p1) - torch.tensor(shape.p0)).norm())
        return 2 * torch.pi * shape.radius * (length + 2 * shape.radius)
    a, b, c = shape.half
    return 8 * (a * b + b * c + c * a)


def _on_capsule(capsule: Capsule, count: int, generator: torch.Generator) -> Surface:
    p0, p1 = (torch.tensor(p, dtype=torch.float64) for p in (capsule.p0, capsule.p1))
    length = (p1 - p0).norm()
    axis = (p1 - p0) / length
    direction = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    along = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    on_side = torch.rand(count, 1, generator=generator, dtype=torch.float64) < length / (length + 2 * capsule.radius)
    height = (direction * axis).sum(-1, keepdim=True)
    normal = torch.nn.functional.normalize(torch.where(on_side, direction - height * axis, direction), dim=-1)
    foot = torch.where(on_side, p0 + along * (p1 - p0), torch.where(height > 0, p1, p0))
    return Surface(foot + capsule.radius * normal, normal)


def _on_box(box: Box, count: int, generator: torch.Generator) -> Surface:
    half = torch.tensor(box.half, dtype=torch.float64)
    face_area = half.prod() / half  # of the faces across x, y, z
    face = torch.multinomial(face_area, count, replacement=True, generator=generator)
    points = (2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1) * half
    side = points.gather(1, face[:, None]).sign()
    points = points.scatter(1, face[:, None], side * half[face, None])
    normals = torch.zeros_like(points).scatter(1, face[:, None], side)
    quat = torch.tensor(box.quat, dtype=torch.float64).expand(count, 4)
    return Surface(
        quat_rotate(quat, points) + torch.tensor(box.center, dtype=torch.float64), quat_rotate(quat, normals)
    )


def _farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices (L, count) of points that lie far apart, chosen one by one from each of L sets (L, N, 3)."""
    row = torch.arange(len(points))
    chosen = torch.zeros(len(points), count, dtype=torch.long)
    nearest = points.new_full(points.shape[:2], torch.inf)
    for i in range(1, count):
        last = points[row, chosen[:, i - 1]][:, None]
        nearest = torch.minimum(nearest, (points - last).square().sum(-1))
        chosen[:, i] = nearest.argmax(dim=1)
    return chosen
