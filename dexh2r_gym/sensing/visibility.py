"""What of an object's surface can be seen from where, as far as the object itself is in the way.

A table per object: for each direction of a grid on the cube around it, the surface points that a camera at a given
distance sees. It is exact for the middles of the grid's cells; a camera is up to some 6 degrees off the nearest one, so
the edge of a shadow thrown across 5 cm may be some 3 mm off.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from dexh2r_gym.objects import ObjectModel

CELLS = 10  # an edge of the cube's faces, 9 degrees each
NUM_VIEWS = 6 * CELLS * CELLS
MAX_TABLES = 256  # kept, of 0.4 to 2.5 MB each
_CHUNK = 1 << 15  # rays at once
_PLANES = 4  # after which rays are left out that pass by
_CLEAR = 1e-5  # m, within which a ray may graze a part


class BoxFrame(NamedTuple):
    """Where an object's bounding box is. Points and directions here are seen from its middle, axes as the object's."""

    middle: np.ndarray  # (3,) m, object frame
    radius: float  # m, of a ball about the middle that holds the object
    axes: np.ndarray  # (2, 3) unit, the longest axis and the next


class Visibility(NamedTuple):
    """Which points of a surface are seen from each of NUM_VIEWS directions."""

    first: np.ndarray  # (NUM_VIEWS + 1,) int32: the points of view v are seen[first[v] : first[v + 1]]
    seen: np.ndarray  # (...,) int16, places of points, those of a view in random order


@lru_cache(maxsize=MAX_TABLES)
def box_frame(obj: ObjectModel) -> BoxFrame:
    low, high = obj.vertices.min(0), obj.vertices.max(0)
    middle = (low + high) / 2
    radius = float(np.linalg.norm(obj.vertices - middle, axis=1).max())
    return BoxFrame(middle, radius, np.eye(3)[np.argsort(low - high, kind="stable")[:2]])


@lru_cache(maxsize=MAX_TABLES)
def surface(obj: ObjectModel, num_points: int) -> np.ndarray:
    """(6, P) float32: of an object's points, which are in order of faces, P at equal steps, less the middle of its box,
    m, and the outward normals."""
    some = np.arange(num_points) * len(obj.points) // num_points
    points = obj.points.double().numpy()[some] - box_frame(obj).middle
    return np.concatenate((points.T, obj.normals.numpy()[some].T)).astype(np.float32)


@lru_cache(maxsize=MAX_TABLES)
def visibility(obj: ObjectModel, num_points: int, distance: float) -> Visibility:
    """The table of `num_points` points of an object's surface for cameras `distance` metres from its middle."""
    middle, radius, _ = box_frame(obj)
    points, normals = surface(obj, num_points).astype(np.float64).reshape(2, 3, -1).transpose(0, 2, 1)
    eyes = view_directions() * max(distance, 1.5 * radius)
    view, point = np.nonzero(eyes @ normals.T > (points * normals).sum(-1))
    hidden = _hidden([part - middle for part in obj.parts], eyes, points, view, point)
    view, point = view[~hidden], point[~hidden]
    point = point[np.argsort(view + np.random.default_rng(0).random(len(point)))]  # each view's in an order of its own
    first = np.searchsorted(view, np.arange(NUM_VIEWS + 1)).astype(np.int32)
    return Visibility(first, point.astype(np.int16))


def view_directions() -> np.ndarray:
    """(NUM_VIEWS, 3) unit vectors to the middles of the cells."""
    slope = np.tan(((np.arange(CELLS) + 0.5) / CELLS - 0.5) * np.pi / 2)
    v, u = np.meshgrid(slope, slope, indexing="ij")
    out = np.empty((3, 2, CELLS, CELLS, 3))
    for axis in range(3):
        for side, sign in enumerate((1.0, -1.0)):
            out[axis, side, ..., axis] = sign
            out[axis, side, ..., (axis + 1) % 3], out[axis, side, ..., (axis + 2) % 3] = u, v
    middle = out.reshape(-1, 3)
    return middle / np.linalg.norm(middle, axis=1, keepdims=True)


def view_of(direction: Tensor) -> Tensor:
    """The cell that a direction (..., 3), of any length, lies in. -> (...) long"""
    size = direction.abs()
    axis = size.argmax(-1)
    along, u, v = (direction.gather(-1, ((axis + k) % 3)[..., None]).squeeze(-1) for k in range(3))
    u, v = (((torch.atan(x / along.abs()) * (2 / torch.pi) + 0.5) * CELLS).long().clamp(0, CELLS - 1) for x in (u, v))
    return ((axis * 2 + (along < 0)) * CELLS + v) * CELLS + u


def _hidden(
    parts: list[np.ndarray], eyes: np.ndarray, points: np.ndarray, view: np.ndarray, point: np.ndarray
) -> np.ndarray:
    """Whether a convex part is between point and eye, for pairs (N,) of views and points."""
    out = np.zeros(len(view), dtype=bool)
    if len(parts) == 1:
        return out  # what faces the eye of a convex object is seen
    for part in parts:
        boxes = np.concatenate((np.eye(3), -np.eye(3))), np.concatenate((part.max(0), -part.min(0)))
        rest = np.nonzero(~out)[0]
        rest = rest[_crossed(*boxes, eyes, points, view[rest], point[rest])]
        hull = ConvexHull(part).equations
        hull = hull[np.unique(np.round(hull, 6), axis=0, return_index=True)[1]]
        out[rest] = _crossed(hull[:, :3], -hull[:, 3], eyes, points, view[rest], point[rest])
    return out


def _crossed(
    normals: np.ndarray, offsets: np.ndarray, eyes: np.ndarray, points: np.ndarray, view: np.ndarray, point: np.ndarray
) -> np.ndarray:
    """Whether the way from point to eye leads through the solid normals (F, 3) x <= offsets (F,). -> (N,) bool"""
    at_eye = (normals @ eyes.T - offsets[:, None]).astype(np.float32)  # (F, V), m above each plane
    at_point = (normals @ points.T - offsets[:, None]).astype(np.float32)
    out = np.zeros(len(view), dtype=bool)
    for i in range(0, len(view), _CHUNK):
        out[i : i + _CHUNK] = _pierced(at_eye, at_point, view[i : i + _CHUNK], point[i : i + _CHUNK])
    return out


def _pierced(at_eye: np.ndarray, at_point: np.ndarray, view: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The same by heights above the planes; plane by plane, and only for those that may still be led through it."""
    out, rest = np.zeros(len(view), dtype=bool), np.arange(len(view))
    enter, leave = np.zeros(len(view), np.float32), np.ones(len(view), np.float32)  # parts of the way
    for number, (ends, starts) in enumerate(zip(at_eye, at_point, strict=True)):
        start = starts[point]
        rise = ends[view] - start
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (start + _CLEAR) / -rise  # where the plane is met
        np.minimum(leave, at, out=leave, where=rise > 0)
        np.maximum(enter, at, out=enter, where=rise < 0)
        leave[(rise == 0) & (start > -_CLEAR)] = -1.0
        if number % _PLANES == _PLANES - 1:
            keep = leave > enter
            rest, view, point = rest[keep], view[keep], point[keep]
            enter, leave = enter[keep], leave[keep]
    out[rest] = leave > enter
    return out
