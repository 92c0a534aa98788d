"""Which points the hands hide from a camera.

Both hands are taken as balls: their capsules as chains, their boxes as rounded grids, so that silhouettes are off by
less than 1 mm, at the edges of boxes 3 mm. Of a giver's hand of MANO, which collides as convex hulls, the capsules
about these hulls are taken: it hides a few millimetres more than its skin.

A ball is seen as a circle, and the stereographic projection draws every circle on the sphere of view as a circle: with
the camera at the origin looking along z, x goes to (x, y) / (|x| + z), and the ball of radius r at b is the disc about
(bx, by) / (t + bz) of radius r / (t + bz), t the length of the tangents. A point within the disc is hidden if it is
farther than t. So one product of matrices tests all points of a camera against all balls.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.solids import capsule_bones, giver_solid, hand_solid
from dexh2r_gym.hand.kinematics import LINK_NAMES
from dexh2r_gym.rotations import pose_apply

_SAG = 0.00075  # m, by which a chain of balls is here thicker than its capsule and there thinner, a grid than its box
_ROUND = 0.008  # m, radius of the balls of a box at most


Numbers = np.ndarray | Sequence[np.ndarray]  # an array for each number, of shapes that fit together


class Balls(NamedTuple):
    """Balls of shapes, one shape after the other."""

    shape: np.ndarray  # (N,) int, which shape a ball is of
    centre: np.ndarray  # (N, 3) float32, m, frame of the shape's body
    radius: np.ndarray  # (N,) float32, m


class Bodies(NamedTuple):
    """What does not differ among hands: the S shapes of robot and giver, and their bodies."""

    body: np.ndarray  # (S,) of each shape: the robot's links, then the giver's bones
    first: np.ndarray  # (S + 1,) the balls of shape s are first[s] to first[s + 1]


@lru_cache(maxsize=1)
def robot_balls() -> Balls:
    solid = hand_solid()
    parts = []
    halves = solid.half.double().numpy()
    for frame, half, radius in zip(solid.frame.numpy(), halves, solid.radius.tolist(), strict=True):
        ball = radius if radius > 0 else min(_ROUND, float(half.min()))
        inner = half if radius > 0 else half - ball
        spacing = _spacing(ball)
        counts = [1 + int(np.ceil(2 * max(h, 0) / spacing - 1e-6)) for h in inner]
        ticks = [np.linspace(-h, h, count) if h > 0 else [0.0] for h, count in zip(inner, counts, strict=True)]
        grid = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, 3)
        shell = (np.abs(grid) >= np.abs(inner) - 1e-9).any(1)
        parts.append((_moved(frame, grid[shell]), ball))
    return _together(parts)


@lru_cache(maxsize=256)
def giver_balls(giver: GiverHand) -> Balls:
    """As many of each capsule in all hands."""
    solid = giver_solid(giver)
    low, high = solid.ends.double().numpy()
    return _together(
        [
            (np.linspace(a, b, count), float(radius))
            for a, b, radius, count in zip(low, high, solid.radii[2], _giver_counts(), strict=True)
        ]
    )


@lru_cache(maxsize=1)
def _giver_counts() -> tuple[int, ...]:
    low, high = giver_solid(GiverHand()).ends
    length = (high - low).norm(dim=-1).tolist()
    radius = giver_solid(GiverHand()).radii[2].tolist()
    return tuple(1 + int(np.ceil(a / _spacing(r))) for a, r in zip(length, radius, strict=True))


@lru_cache(maxsize=1)
def hand_bodies() -> Bodies:
    """Bodies are counted through: the robot's links, then the giver's bones."""
    counts = np.concatenate((np.bincount(robot_balls().shape), np.bincount(giver_balls(GiverHand()).shape)))
    body = np.concatenate((hand_solid().link.numpy(), len(LINK_NAMES) + capsule_bones().numpy()))
    return Bodies(body, np.append(0, np.cumsum(counts)))


def _spacing(radius: float) -> float:
    """Distance of balls of this radius + _SAG whose chain is nowhere thinner than this radius - _SAG."""
    return 4 * float(np.sqrt(radius * _SAG))


def _moved(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    return pose_apply(torch.from_numpy(frame), torch.from_numpy(points)).numpy()


def _together(parts: Sequence[tuple[np.ndarray, float]]) -> Balls:
    counts = [len(points) for points, _ in parts]
    return Balls(
        np.repeat(np.arange(len(parts)), counts),
        np.concatenate([points for points, _ in parts]).astype(np.float32),
        np.repeat([radius + _SAG for _, radius in parts], counts).astype(np.float32),
    )


class Views(NamedTuple):
    """What G cameras look at with: eyes and axes (right, down, forward), all in one frame each."""

    eye: Tensor  # (G, 3) m
    right: Tensor  # (G, 3) unit
    down: Tensor
    forward: Tensor


def aim(eyes: Tensor, axes: Tensor) -> Views:
    """Views from eyes (W, C, 3) to the origin, the first of axes (W, 2, 3) lying along the picture. -> G = W * C

    What is looked at along the first axis lies along the second, so that a long object fills a narrow box.
    """
    forward = -eyes / _length(eyes)
    across = [torch.linalg.cross(forward, axes[:, k, None].expand_as(forward)) for k in range(2)]
    right = torch.where(_length(across[0]) > 0.2, across[0], across[1])
    right = right / _length(right)
    down = torch.linalg.cross(forward, right)
    return Views(*(v.flatten(0, 1).float() for v in (eyes, right, down, forward)))


def _length(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    return (x * x + y * y + z * z).sqrt()[..., None]


def picture(views: Views, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Points, x y z (G, N) each -> (G, 4, N): picture x, y, x^2 + y^2, 1; and distance (G, N), m."""
    x, y, z = (p - views.eye[:, k, None] for k, p in enumerate(points))
    distance = (x * x + y * y + z * z).sqrt()
    across, down, ahead = (x * a[:, :1] + y * a[:, 1:2] + z * a[:, 2:] for a in views[1:])
    scale = 1 / (distance + ahead)
    out = x.new_empty(len(x), 4, x.shape[1])
    u, v = torch.mul(across, scale, out=out[:, 0]), torch.mul(down, scale, out=out[:, 1])
    torch.add(u * u, v * v, out=out[:, 2])
    out[:, 3] = 1
    return out, distance


def _discs(views: Numbers, x: np.ndarray, y: np.ndarray, z: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, ...]:
    """Disc x, y, radius and tangent length of balls as seen by views, 12 numbers each; radius -1: not in front."""
    dx, dy, dz = x - views[0], y - views[1], z - views[2]
    u, v, ahead = (dx * views[k] + dy * views[k + 1] + dz * views[k + 2] for k in (3, 6, 9))
    squared = dx * dx + dy * dy + dz * dz - radius * radius
    tangent = np.sqrt(np.maximum(squared, 0.0))
    before = (squared > 0) & (ahead > 0)  # one that holds the camera does not count
    scale = 1 / np.where(before, tangent + ahead, np.float32(1))
    return u * scale, v * scale, np.where(before, radius * scale, np.float32(-1)), tangent


def _overlaps(disc: tuple[np.ndarray, ...], box: Numbers) -> np.ndarray:
    """Whether discs reach boxes of points in the picture, 5 numbers each, and are nearer than the farthest point."""
    x, y, r, tangent = disc
    left, top, right, bottom, far = box
    beside = np.maximum(np.maximum(left - x, x - right), 0)
    above = np.maximum(np.maximum(top - y, y - bottom), 0)
    return (r > 0) & (beside * beside + above * above < r * r) & (tangent < far)


class Hands:
    """The balls of both hands in W worlds."""

    def __init__(self, num_worlds: int) -> None:
        robot, any_giver = robot_balls(), giver_balls(GiverHand())
        self._bodies = hand_bodies()
        centre = np.concatenate((robot.centre, any_giver.centre)).T
        self._centre = centre[:, None].repeat(num_worlds, axis=1)  # (3, W, balls)
        self._radius = np.concatenate((robot.radius, any_giver.radius))[None].repeat(num_worlds, axis=0)
        self._about = self._bounds(self._centre, self._radius)  # (4, W, S), a ball about the balls of each shape

    def place(self, world: int, giver: GiverHand) -> None:
        """Another giver in a world."""
        balls, own = giver_balls(giver), slice(world, world + 1)
        self._centre[:, world, -len(balls.radius) :] = balls.centre.T
        self._radius[world, -len(balls.radius) :] = balls.radius
        self._about[:, own] = self._bounds(self._centre[:, own], self._radius[own])

    def of(self, worlds: np.ndarray) -> Hands:
        """The hands of some worlds (n,)."""
        part = copy.copy(self)
        part._centre, part._radius = self._centre[:, worlds], self._radius[worlds]
        part._about = self._about[:, worlds]
        return part

    def _bounds(self, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
        first = self._bodies.first[:-1]
        low = np.minimum.reduceat(centre, first, axis=-1)
        high = np.maximum.reduceat(centre, first, axis=-1)
        grown = np.linalg.norm(high - low, axis=0) / 2 + np.maximum.reduceat(radius, first, axis=-1)
        return np.concatenate(((low + high) / 2, grown[None]))

    def hide(self, frames: np.ndarray, views: Views, seen: Tensor, distance: Tensor) -> np.ndarray:
        """Which points are hidden from G = W * C cameras, C a world, one world after the other. -> (G, N) bool

        frames (12, W, bodies) float32: rotation, row by row, and place of the bodies in the frame of views and points;
        seen (G, 4, N) and distance (G, N): of `picture`.
        """
        eyes = torch.cat(views, dim=1).T.contiguous().numpy()  # (12, G)
        corners = (seen[:, :2].amin(-1), seen[:, :2].amax(-1), distance.amax(-1, keepdim=True))
        box = torch.cat(corners, dim=1).T.contiguous().numpy()  # (5, G) left, top, right, bottom, farthest
        group, ball, body = self._candidates(frames, eyes, box)
        world = group // (len(distance) // frames.shape[1])
        centre = self._centre.reshape(3, -1)[:, ball]
        x, y, z = _placed(frames.reshape(12, -1)[:, body + world * frames.shape[2]], centre)
        disc = _discs(eyes[:, group], x, y, z, self._radius.ravel()[ball])
        near = np.flatnonzero(_overlaps(disc, box[:, group]))
        nearest = distance.amin(-1).numpy()
        beside = disc[3][near] >= nearest[group[near]]  # of these the distance counts as well
        near = near[np.argsort(2 * group[near] + beside, kind="stable")]
        group = group[near]
        x, y, r, tangent = (part[near] for part in disc)
        ones = np.ones_like(x)
        inside = np.stack((-2 * x, -2 * y, ones, x * x + y * y - r * r), axis=1)  # negative within the disc
        behind = np.stack((tangent, -ones), axis=1)  # negative beyond the tangents' length
        ends = np.searchsorted(group, np.arange(len(distance) + 1)).tolist()
        before = np.bincount(group[tangent < nearest[group]], minlength=len(distance)).tolist()
        points, lines = seen.numpy(), torch.stack((torch.ones_like(distance), distance), dim=1).numpy()
        out = np.zeros(distance.shape, dtype=bool)
        for g, (a, b) in enumerate(pairwise(ends)):
            if a == b:
                continue
            within = inside[a:b] @ points[g] < 0
            c = before[g]
            if a + c < b:
                within[c:] &= behind[a + c : b] @ lines[g] < 0
            np.logical_or.reduce(within, axis=0, out=out[g])
        return out

    def _candidates(
        self, frames: np.ndarray, eyes: np.ndarray, box: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Balls of the shapes that may hide something, sorted by camera: camera, ball (of all worlds'), body, (N,)."""
        shapes, first = self._bodies
        worlds = frames.shape[1]
        x, y, z = _placed(frames[:, :, shapes], self._about[:3])
        disc = _discs(eyes.reshape(12, worlds, -1, 1), *(v[:, None] for v in (x, y, z, self._about[3])))
        world, camera, shape = np.nonzero(_overlaps(disc, box.reshape(5, worlds, -1, 1)))
        counts = (first[1:] - first[:-1])[shape]
        ball = np.arange(counts.sum()) + np.repeat(first[shape] - (np.cumsum(counts) - counts), counts)
        group = world * (box.shape[1] // worlds) + camera
        world, group, body = (np.repeat(i, counts) for i in (world, group, shapes[shape]))
        return group, ball + world * int(first[-1]), body


def _placed(frames: np.ndarray, points: Numbers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, x y z, of frames given by 12 numbers."""
    x, y, z = points
    a = frames
    return (
        a[0] * x + a[1] * y + a[2] * z + a[9],
        a[3] * x + a[4] * y + a[5] * z + a[10],
        a[6] * x + a[7] * y + a[8] * z + a[11],
    )
