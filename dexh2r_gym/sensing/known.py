"""All objects and givers there are, as tables on one device: clouds without choosing anything by what is found.

What `CloudSensor` does world by world and with the few balls that may hide something, is done here for all worlds, all
cameras and all balls alike, so that nothing has to be read back from the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.constants import constant
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import quat_conjugate, quat_rotate
from dexh2r_gym.sensing.occlusion import Views, giver_balls, hand_bodies, robot_balls
from dexh2r_gym.sensing.visibility import box_frame, surface, view_of, visibility

_NEVER = 1e9  # squared, beyond all that is in a picture


class KnownThings:
    """Attributes: pool, points of a surface; surface (6, K, pool), middle (K, 3), radius (K,), axes (K, 2, 3) of K
    objects, as in `CloudSensor`; object_of and giver_of (n,) long, which each pair is made of."""

    def __init__(
        self,
        pairs: Sequence[tuple[ObjectModel, GiverHand]],
        pool: int,
        distances: Sequence[Sequence[float]],
        device: torch.device,
    ) -> None:
        """distances: of each camera the one or two, m, for which it has tables; none where nothing hides anything."""
        objects = list(dict.fromkeys(obj for obj, _ in pairs))
        givers = list(dict.fromkeys(giver for _, giver in pairs))
        self.pool = pool
        self.object_of = torch.tensor([objects.index(obj) for obj, _ in pairs], device=device)
        self.giver_of = torch.tensor([givers.index(giver) for _, giver in pairs], device=device)
        boxes = [box_frame(obj) for obj in objects]
        self.surface = torch.from_numpy(np.stack([surface(obj, pool) for obj in objects], axis=1)).to(device)
        self.middle = torch.from_numpy(np.stack([box.middle for box in boxes])).to(device)
        self.radius = torch.tensor([box.radius for box in boxes], dtype=torch.float64, device=device)
        self.axes = torch.from_numpy(np.stack([box.axes for box in boxes])).to(device)
        if not distances:
            return
        different = sorted({d for own in distances for d in own})
        self._near = torch.tensor([different.index(own[0]) for own in distances], device=device)  # of each camera
        self._far = torch.tensor([different.index(own[-1]) for own in distances], device=device)
        tables = [
            visibility(obj, pool, distance)
            for obj in tqdm(objects, "surfaces", unit="object", leave=False, delay=2)
            for distance in different
        ]
        ends = np.cumsum([len(table.seen) for table in tables])
        first = np.stack([table.first + end - len(table.seen) for table, end in zip(tables, ends, strict=True)])
        self._first = torch.from_numpy(first).to(device).view(len(objects), len(different), -1)  # rows of `_seen`
        self._seen = torch.from_numpy(np.concatenate([table.seen for table in tables])).to(device)
        robot, hands = robot_balls(), [giver_balls(giver) for giver in givers]
        centre = np.stack([np.concatenate((robot.centre, hand.centre)) for hand in hands])
        self._centre = torch.from_numpy(centre).movedim(-1, 0).contiguous().to(device)  # (3, givers, balls)
        radius = np.stack([np.concatenate((robot.radius, hand.radius)) for hand in hands])
        self._ball_radius = torch.from_numpy(radius).to(device)  # (givers, balls)
        shapes = hand_bodies()
        self._body = torch.from_numpy(np.repeat(shapes.body, np.diff(shapes.first))).to(device)  # (balls,)

    def draw(self, obj: Tensor, direction: Tensor, far: Tensor, chance: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """See `CloudSensor._draw`. obj: (W,); direction (W, C, 3) of the cameras, far (W, C) bool, chance (W, C) in
        [0, 1) -> places (W, C, slots) long, valid (W, C, slots)."""
        cell, table = view_of(direction), torch.where(far, self._far, self._near)
        begin, end = (self._first[obj[:, None], table, cell + k].long() for k in (0, 1))
        size = end - begin
        most = size.amax(1, keepdim=True)
        count = torch.where(most <= slots, size, size * slots // most.clamp_min(1))
        step = torch.arange(slots, device=obj.device)
        at = (chance * size).long()[..., None] + step
        at = torch.where(at < size[..., None], at, at - size[..., None])
        valid = step < count[..., None]
        return torch.where(valid, self._seen[torch.where(valid, begin[..., None] + at, 0)].long(), 0), valid

    def hide(self, giver: Tensor, frames: Tensor, views: Views, seen: Tensor, distance: Tensor) -> Tensor:
        """See `occlusion.Hands.hide`. giver: (W,), which each world has. -> (G, N) bool"""
        cx, cy, cz = self._centre[:, giver]
        f = frames[:, :, self._body]  # (12, W, balls)
        place = [f[3 * k] * cx + f[3 * k + 1] * cy + f[3 * k + 2] * cz + f[9 + k] for k in range(3)]
        cameras = len(distance) // len(giver)
        own = (v[:, None].expand(-1, cameras, -1).flatten(0, 1) for v in (*place, self._ball_radius[giver]))
        x, y, z, radius = own  # (G, balls)
        dx, dy, dz = (v - views.eye[:, k, None] for k, v in enumerate((x, y, z)))
        u, v, ahead = (dx * a[:, :1] + dy * a[:, 1:2] + dz * a[:, 2:] for a in views[1:])
        squared = dx * dx + dy * dy + dz * dz - radius * radius
        before = (squared > 0) & (ahead > 0)  # one that holds the camera does not count
        tangent = squared.clamp_min(0.0).sqrt()
        scale = torch.where(before, 1 / (tangent + ahead), 0.0)
        u, v, r = u * scale, v * scale, radius * scale
        rest = torch.where(before, u * u + v * v - r * r, _NEVER)
        disc = torch.stack((-2 * u, -2 * v, torch.ones_like(u), rest), dim=-1)  # (G, balls, 4)
        return ((disc @ seen < 0) & (tangent[..., None] < distance[:, None])).any(1)


def in_pictures(eyes: Tensor, points: Tensor, radius: Tensor, slopes: tuple[tuple[float, float], ...]) -> Tensor:
    """Whether points (W, C, N, 3) are in the pictures of cameras eyes (W, C, 7), whose slopes are given; all are where
    the ball of radius (W,) about the origin is wholly in it. -> (W, C, N) bool"""
    across, down = constant(slopes, eyes).unbind(-1)  # (C,)
    back = quat_conjugate(eyes[..., 3:])
    x, y, z = quat_rotate(back, -eyes[..., :3]).unbind(-1)  # (W, C), of the box's middle
    margin = [(z * s - v.abs()) / (1 + s * s).sqrt() for v, s in ((x, across), (y, down))]
    whole = torch.minimum(*margin) >= radius[:, None]
    x, y, z = quat_rotate(back[:, :, None], points.double() - eyes[:, :, None, :3]).unbind(-1)
    return whole[..., None] | ((x.abs() < z * across[:, None]) & (y.abs() < z * down[:, None]))
