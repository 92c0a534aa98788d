"""The object's cloud as depth cameras around it observe it, without a graphics context.

The union of what the cameras see of the object, segmented: what the object itself hides is known from a table for each
object (`visibility`), what the hands hide is tested (`occlusion`), steep surfaces are lost, and depth has errors along
the ray of the camera that saw the point (`depth_noise`). A camera sees a part of the surface the denser the more of it
it sees: points are drawn from each camera's own list, so what two cameras see is twice as dense. Pixels are left out:
at 640 x 576 they are 3 mm apart on the object, closer than 1024 points are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.constants import constant
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_conjugate, quat_rotate, quat_to_matrix
from dexh2r_gym.sensing.cameras import CORNER_CAMERAS, find_cameras
from dexh2r_gym.sensing.depth_noise import DepthNoise, Strips, starts
from dexh2r_gym.sensing.known import KnownThings, in_pictures
from dexh2r_gym.sensing.occlusion import Hands, Views, aim, picture
from dexh2r_gym.sensing.sampling import SAMPLERS, pick_evenly, pick_evenly_blindly, pick_farthest
from dexh2r_gym.sensing.visibility import Visibility, box_frame, surface, view_of, visibility
from dexh2r_gym.worlds import put

__all__ = ["CLOUDS", "SAMPLERS", "Box", "Cloud", "CloudSensor", "DepthNoise", "check_crop"]

CLOUDS = ("observed", "clean")
Box = tuple[tuple[float, float, float], tuple[float, float, float]]  # lower and upper corner, m, world
MAX_POINTS = 4096  # of an object's surface
_SMALL = 2048  # surface points that are looked at for clouds of up to 1024
_SPARE = 1.5  # points drawn for each one wanted
_DISTANCES = {"world": (1.7,), "palm": (0.2, 0.4)}  # m, camera to object, for which tables are made
_BLIND_WORLDS = 256  # looked at together where nothing is chosen: about 1.5 GB for clouds of 1024
_NO_NOISE = DepthNoise(axial=0.0, slant=90.0, steepest=90.0, dropout=0.0)


class Cloud(NamedTuple):
    points: Tensor  # (W, P, 3) float32, m, world
    seen: Tensor  # (W,) long, how many different points of the surface were seen among those looked at


def check_crop(crop: Box | None) -> None:
    """Raises ValueError unless crop is None or ((x, y, z), (x, y, z)), metres, each number of the first lower."""
    if crop is None:
        return
    try:
        low, high = np.asarray(crop, dtype=np.float64)
        valid = low.shape == high.shape == (3,) and bool((low < high).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"crop must be None or a box ((x, y, z), (x, y, z)), lower corner below upper, got {crop!r}")


class CloudSensor:
    """Clouds of P points of the object in W worlds.

    Where fewer are seen than P, they are repeated with other errors; where none is, all are zero and `seen` is 0.
    """

    def __init__(
        self,
        num_worlds: int,
        num_points: int = 1024,
        *,
        kind: str = "observed",
        sampler: str = "random",
        cameras: tuple[str, ...] = CORNER_CAMERAS,
        crop: Box | None = None,
        noise: DepthNoise | None = DepthNoise(),  # noqa: B008
        device: torch.device | str = "cpu",
    ) -> None:
        """kind: "observed", or "clean" for points of the whole surface without errors; sampler: "random", or "farthest"
        for farthest point sampling, evenly spread and much slower; crop: points outside this box of the world are not
        seen, and errors do not carry a point out of it; noise: None for none; device: for clouds of things that it was
        told to `know`.

        Raises ValueError for an unknown kind, sampler or camera (the valid ones are listed), a crop that is no box, or
        an impossible number.
        """
        for name, value, valid in (("kind", kind, CLOUDS), ("sampler", sampler, SAMPLERS)):
            if value not in valid:
                raise ValueError(f"unknown {name} {value!r} of clouds; choose from {', '.join(valid)}")
        check_crop(crop)
        if num_worlds < 1 or not 1 <= num_points <= MAX_POINTS:
            raise ValueError(
                f"clouds need at least 1 world and 1 to {MAX_POINTS} points, got {num_worlds} and {num_points}"
            )
        self._cameras = find_cameras(cameras)
        self._observed, self._sampler, self._crop = kind == "observed", sampler, crop
        self._worlds, self._points = num_worlds, num_points
        self._pool = MAX_POINTS if not self._observed or num_points > _SMALL // 2 else _SMALL
        count = len(self._cameras) if self._observed else 1
        self._slots = min(self._pool, math.ceil(_SPARE * num_points / count))
        self._noise = noise or _NO_NOISE
        self._strips = Strips(self._noise, device) if self._observed else None
        self._hands = Hands(num_worlds) if self._observed else None
        self._tables: list[list[list[Visibility]]] = [[] for _ in range(num_worlds)]  # of each camera, by distance
        self._surface = torch.zeros(6, num_worlds, self._pool)  # m and unit normals, frame of the object's box
        self._middle = torch.zeros(num_worlds, 3, dtype=torch.float64)  # of the box, object frame
        self._radius = torch.zeros(num_worlds, dtype=torch.float64)
        self._axes = torch.zeros(num_worlds, 2, 3, dtype=torch.float64)
        self._known: KnownThings | None = None
        self._pair = torch.zeros(num_worlds, dtype=torch.long, device=device)  # which of those known each world has

    def know(self, pairs: Sequence[tuple[ObjectModel, GiverHand]]) -> None:
        """All objects and givers that there will be. An object that was never seen before takes up to a second."""
        distances = [_DISTANCES[camera.mount] for camera in self._cameras] if self._observed else []
        self._known = KnownThings(pairs, self._pool, distances, self._pair.device)

    def show(self, worlds: Tensor, pair: Tensor) -> None:
        """Other pairs (n,) of those known in these worlds, see `dexh2r_gym.worlds`."""
        self._pair = put(self._pair, worlds, pair)

    def place(self, worlds: Tensor, objects: Sequence[ObjectModel], givers: Sequence[GiverHand]) -> None:
        """Other objects and givers in worlds (n,). An object that was never seen before takes up to a second."""
        every = zip(worlds.tolist(), objects, givers, strict=True)
        for world, obj, giver in tqdm(every, "surfaces", len(worlds), unit="world", leave=False, delay=2):
            frame = box_frame(obj)
            self._middle[world], self._radius[world] = torch.from_numpy(frame.middle), frame.radius
            self._axes[world] = torch.from_numpy(frame.axes)
            self._surface[:, world] = torch.from_numpy(surface(obj, self._pool))
            if self._hands is not None:
                self._tables[world] = [
                    [visibility(obj, self._pool, distance) for distance in _DISTANCES[c.mount]] for c in self._cameras
                ]
                self._hands.place(world, giver)

    def of(self, worlds: Tensor) -> CloudSensor:
        """A sensor of some of these worlds (n,), which sees there what this one would."""
        part = copy.copy(self)
        part._worlds = len(worlds)
        part._tables = [self._tables[world] for world in worlds.tolist()]
        part._surface = self._surface[:, worlds]
        part._middle, part._radius, part._axes = self._middle[worlds], self._radius[worlds], self._axes[worlds]
        part._hands = None if self._hands is None else self._hands.of(worlds.numpy())
        return part

    def look(self, object_pose: Tensor, giver_bones: Tensor, link_poses: Tensor, key: Tensor) -> Cloud:
        """Clouds of objects (W, 7) among the giver's bones (W, 16, 7) and the robot's links (W, 18, 7), world frame.

        key: (W,) long, one number for each episode and frame, on which alone all that is random depends.
        """
        shown = object_pose, giver_bones, link_poses, key
        if self._known is None:
            return self._look(*shown)
        some = [slice(first, first + _BLIND_WORLDS) for first in range(0, self._worlds, _BLIND_WORLDS)]
        clouds = [self._known_of(rows)._look(*(x[rows] for x in shown)) for rows in some]
        return Cloud(*(torch.cat(parts) for parts in zip(*clouds, strict=True)))

    def _known_of(self, rows: slice) -> CloudSensor:
        """A sensor of some worlds by what is known of their pairs."""
        part, known = copy.copy(self), self._known
        assert known is not None
        part._pair = self._pair[rows]
        part._worlds, obj = len(part._pair), known.object_of[part._pair]
        part._surface, part._middle = known.surface[:, obj], known.middle[obj]
        part._radius, part._axes = known.radius[obj], known.axes[obj]
        return part

    def _look(self, object_pose: Tensor, giver_bones: Tensor, link_poses: Tensor, key: Tensor) -> Cloud:
        pose = object_pose.double()
        pose = torch.cat((pose_apply(pose, self._middle), pose[:, 3:]), dim=-1)  # of the box
        chance = starts(key, 3 + len(self._cameras))
        row = torch.arange(self._worlds, device=key.device)
        if self._hands is None or self._strips is None:
            place = torch.arange(self._pool, device=key.device).expand(self._worlds, -1)
            kept = torch.ones_like(place, dtype=torch.bool)
            return self._finish(pose, place, kept, chance, None)
        eyes = torch.stack([camera.pose_world(link_poses[:, 0]) for camera in self._cameras], dim=1)  # (W, C, 7)
        inverse = pose_inverse(pose)[:, None]
        eyes = pose_multiply(inverse, eyes)
        views = aim(eyes[..., :3], self._axes)
        place, kept = self._draw(eyes, chance[:, 3:])
        at = (place + self._pool * row[:, None, None]).flatten()
        points = self._surface.flatten(1).index_select(1, at).view(6, -1, self._slots).unbind(0)
        seen, distance = picture(views, points[:3])
        kept &= self._faces(views, points, distance, self._strips.cosines(chance[:, 0], kept[0].numel()))
        self._keep_in_pictures(eyes, points, kept)
        bodies = pose_multiply(inverse, torch.cat((link_poses, giver_bones), dim=1).double())
        frames = torch.cat((quat_to_matrix(bodies[..., 3:]).flatten(-2), bodies[..., :3]), dim=-1)
        frames = frames.float().permute(2, 0, 1).contiguous()
        if self._known is not None:
            hidden = self._known.hide(self._known.giver_of[self._pair], frames, views, seen, distance)
        else:
            hidden = torch.from_numpy(self._hands.hide(frames.numpy(), views, seen, distance))
        kept &= ~hidden.view_as(kept)
        return self._finish(pose, place.flatten(1), kept.flatten(1), chance, views.eye.view(self._worlds, -1, 3))

    def _draw(self, eyes: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
        """Surface points from the list of each camera, as many of each list as of its neighbours in proportion.

        The points of a list are in random order, so a run of it from a random place is a random draw.
        -> places (W, C, slots) long, valid (W, C, slots)
        """
        away = eyes[..., :3].norm(dim=-1) > math.prod(_DISTANCES["palm"]) ** 0.5  # nearer the second distance
        if self._known is not None:
            return self._known.draw(self._known.object_of[self._pair], eyes[..., :3], away, chance, self._slots)
        cells, part, far = view_of(eyes[..., :3]).tolist(), chance.tolist(), away.tolist()
        place = np.zeros((self._worlds, len(self._cameras), self._slots), dtype=np.int16)
        number = np.zeros(place.shape[:2], dtype=np.int64)
        for w, choices in enumerate(self._tables):
            tables = [choice[-1] if away else choice[0] for choice, away in zip(choices, far[w], strict=True)]
            spans = [table.first[cell : cell + 2].tolist() for table, cell in zip(tables, cells[w], strict=True)]
            most = max((b - a for a, b in spans), default=0)
            for c, (table, (a, b)) in enumerate(zip(tables, spans, strict=True)):
                size = b - a
                count = size if most <= self._slots else size * self._slots // most
                number[w, c] = count
                begin = a + int(part[w][c] * size)
                first = min(count, b - begin)
                place[w, c, :first] = table.seen[begin : begin + first]
                place[w, c, first:count] = table.seen[a : a + count - first]
        valid = torch.from_numpy(np.arange(self._slots) < number[..., None])
        return torch.from_numpy(place).long(), valid

    def _faces(self, views: Views, points: Sequence[Tensor], distance: Tensor, needed: Tensor) -> Tensor:
        """Whether points (G, N) face the camera at more than the needed cosine."""
        toward = [views.eye[:, k, None] - points[k] for k in range(3)]
        cosine = toward[0] * points[3] + toward[1] * points[4] + toward[2] * points[5]
        return (cosine > needed.reshape_as(distance) * distance).view(self._worlds, -1, self._slots)

    def _keep_in_pictures(self, eyes: Tensor, points: Sequence[Tensor], kept: Tensor) -> None:
        """Take away from kept (W, C, N) what is beyond a camera's picture, where an object is not wholly in it."""
        slopes = tuple((0.5 / c.focal, 0.5 * c.height / c.width / c.focal) for c in self._cameras)
        if self._known is not None:
            places = torch.stack([p.view_as(kept) for p in points[:3]], dim=-1)
            kept &= in_pictures(eyes, places, self._radius, slopes)
            return
        towards = quat_rotate(quat_conjugate(eyes[..., 3:]), -eyes[..., :3])  # (W, C, 3), of the box's middle
        for c, (across, down) in enumerate(slopes):
            x, y, z = towards[:, c].unbind(-1)
            margin = torch.stack([(z * s - v.abs()) / (1 + s * s) ** 0.5 for v, s in ((x, across), (y, down))])
            for w in (margin.amin(0) < self._radius).nonzero()[:, 0].tolist():
                row = torch.stack([p.view(*kept.shape)[w, c] for p in points[:3]], dim=-1).double()
                x, y, z = quat_rotate(quat_conjugate(eyes[w, c, 3:]), row - eyes[w, c, :3]).unbind(-1)
                kept[w, c] &= (x.abs() < z * across) & (y.abs() < z * down)

    def _finish(self, pose: Tensor, place: Tensor, kept: Tensor, chance: Tensor, eyes: Tensor | None) -> Cloud:
        """The cloud from surface points `place` (W, N) of which some are `kept`; eyes (W, C, 3): seen by N / C each."""
        row = torch.arange(self._worlds, device=place.device)[:, None]
        at, turn = place + self._pool * row, quat_to_matrix(pose[:, 3:]).float()
        origin = pose[:, :3].float()
        if self._crop is not None:
            kept &= self._inside(_moved(turn, origin, self._surface[:3, row, place]))
        if self._sampler == "farthest":
            picked = pick_farthest(self._surface[:3, row, place], kept, self._points, chance[:, 1])
        elif self._known is not None:
            picked = pick_evenly_blindly(kept, self._points, chance[:, 1])
        else:
            picked = torch.from_numpy(pick_evenly(kept.numpy(), self._points, chance[:, 1].numpy()))
        chosen = at.gather(1, picked).flatten()
        local = self._surface.flatten(1).index_select(1, chosen).view(6, self._worlds, -1)
        true = _moved(turn, origin, local[:3])
        points = true
        if eyes is not None and self._strips is not None and self._noise.axial > 0:
            camera = picked.div(self._slots).long() + len(self._cameras) * row
            ray = local[:3] - eyes.flatten(0, 1).T.contiguous().index_select(1, camera.flatten()).view_as(local[:3])
            squared = ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]
            slant = -(ray[0] * local[3] + ray[1] * local[4] + ray[2] * local[5])  # distance * cosine
            # error / distance = axial * distance^2 / cosine / distance
            spread = self._noise.axial * squared / slant.clamp_min(1e-3)
            error = self._strips.normals(chance[:, 2], self._points) * spread
            points = _moved(turn, origin, local[:3] + ray * error)
        if self._crop is not None:
            points = torch.where(self._inside(points), points, true)
        looked = torch.zeros(self._worlds * self._pool + 1, dtype=torch.bool, device=at.device)
        looked.index_fill_(0, torch.where(kept, at, len(looked) - 1).flatten(), True)
        seen = looked[:-1].view(self._worlds, -1).sum(1)
        points = torch.stack(tuple(points), dim=-1)
        return Cloud(points * (seen > 0)[:, None, None], seen)

    def _inside(self, points: Tensor) -> Tensor:
        """Whether points (3, W, N) of the world are in the crop."""
        assert self._crop is not None
        low, high = (constant(tuple(corner), points)[:, None, None] for corner in self._crop)
        return ((points > low) & (points < high)).all(0)


def _moved(turn: Tensor, origin: Tensor, points: Tensor) -> Tensor:
    """Points (3, W, N) turned by (W, 3, 3) and moved by (W, 3), in elementwise operations. -> (3, W, N)"""
    x, y, z = points
    return torch.stack(
        [x * turn[:, k, :1] + y * turn[:, k, 1:2] + z * turn[:, k, 2:] + origin[:, k, None] for k in range(3)]
    )
