"""Where object and giver are now: the recording as it is, or as a giver plays it who behaves in its own way."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from dexh2r_gym.envs.giver_behaviour import Draws, GiverBehaviour, Retraction, draw, going, playing_speed
from dexh2r_gym.envs.recordings import Recordings
from dexh2r_gym.rotations import pose_integrate, pose_multiply, pose_velocity
from dexh2r_gym.types import NUM_GIVER_JOINTS
from dexh2r_gym.worlds import mask_of, put

Parts = TypeVar("Parts", Draws, Retraction)


class Playback:
    """Plays a recording in each of B worlds, one frame a step; from its last frame on the giver holds still.

    Without a behaviour object and giver are, bit for bit, where the recording has them. With one the recording is
    played at a clock of its own, between two frames too, and what comes of it is moved.

    Attributes:
        object_pose: (B, 7) and giver_bones: (B, 16, 7), now. A new tensor after each step.
        frame: (B,) long, the recorded frame nearest to now. row: (B,) the same, as a row of the `Recordings`.
        ended: (B,) bool, the recording is at its last frame.
        progress: (B,) part of the recording that has passed.
        release_shift: (B,) s by which each giver lets go late (early where negative).
        moves: whether there is a behaviour by which object or giver are elsewhere than recorded.
    """

    def __init__(self, num_worlds: int, recordings: Recordings, fps: float, behaviour: GiverBehaviour | None = None):
        self._recordings, self._dt = recordings, 1.0 / fps
        self._behaviour = behaviour or GiverBehaviour()
        self.moves = self._behaviour.moves
        device = recordings.device
        zero = torch.zeros(num_worlds, dtype=torch.float64, device=device)
        self._offset, self._last = zero.long(), zero.long()
        self._time = zero.long()  # frames played
        self._clock = zero  # where in the recording, frames
        self._draws, self._retraction = Draws.none(num_worlds, device), Retraction.none(num_worlds, device)
        self.object_pose = zero.new_zeros(num_worlds, 7)
        self.giver_bones = zero.new_zeros(num_worlds, NUM_GIVER_JOINTS, 7)

    @property
    def frame(self) -> Tensor:
        return self._clock.round().long()

    @property
    def row(self) -> Tensor:
        return self._offset + self.frame

    @property
    def ended(self) -> Tensor:
        return self._clock >= self._last

    @property
    def progress(self) -> Tensor:
        return self._clock / self._last.clamp_min(1)

    @property
    def release_shift(self) -> Tensor:
        return self._draws.release

    def longest(self, trials: Tensor) -> int:
        """Most frames that an episode of any of these trials (n,) can have."""
        return self._behaviour.longest(int(self._recordings.length[trials].max()), 1.0 / self._dt)

    def begin(self, worlds: Tensor, trials: Tensor, keys: Tensor) -> None:
        """The first frame of these trials in worlds (n,); keys (n,) long name what the givers draw."""
        rec = self._recordings
        offset, last = rec.offset[trials], rec.length[trials] - 1
        self._offset, self._last = put(self._offset, worlds, offset), put(self._last, worlds, last)
        self._time, self._clock = put(self._time, worlds, 0), put(self._clock, worlds, 0.0)
        if self._behaviour.active:
            drawn = draw(self._behaviour, keys, rec.object_pose[offset, :3], last * self._dt)
            self._draws = _put(self._draws, worlds, drawn)
            self._retraction = _put(self._retraction, worlds, Retraction.none(len(worlds), worlds.device))
        self._show(mask_of(worlds, len(self._clock)))

    def advance(self, on: Tensor, force: Tensor, palm: Tensor) -> None:
        """One frame of the worlds that are on, (B,) bool.

        force: (B,) N of the robot on the giver's hand in the frame before, 0 where it is expected; palm: (B, 3) m,
        where the robot's palm is.
        """
        b, draws = self._behaviour, self._draws
        speed = torch.ones_like(self._clock)
        seconds = (self._time + 0.5) * self._dt  # in the middle of the frame
        if b.time_warp:
            speed = playing_speed(b.time_warp, draws.period, draws.phase, seconds)
        if b.hesitation:
            speed = speed * going(draws.pause_begin, draws.pause, seconds)
        self._clock = torch.where(on, torch.minimum(self._clock + speed, self._last), self._clock)
        self._time = torch.where(on, self._time + 1, self._time)
        if b.retraction:
            new = self._retraction.step(force, palm, self.giver_bones[:, 0, :3], self._dt)
            self._retraction = _put(self._retraction, on, new)
        self._show(on)

    def recorded(self, worlds: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Object poses (n, F, 7) and giver's bones (n, F, 16, 7) of recorded frames (n, F) in worlds (n,), moved by
        this episode's offset. The last frame lasts."""
        rec, shift = self._recordings, self._draws.shift[worlds, None]
        row = self._offset[worlds, None] + frame.minimum(self._last[worlds, None])
        object_pose, giver_bones = rec.object_pose[row], rec.giver_bones[row]
        if self._behaviour.pose_offset:
            return pose_multiply(shift, object_pose), pose_multiply(shift[:, :, None], giver_bones)
        return object_pose, giver_bones

    def _show(self, on: Tensor) -> None:
        """Poses of the worlds that are on."""
        object_pose, giver_bones = (
            self._now(poses) for poses in (self._recordings.object_pose, self._recordings.giver_bones)
        )
        self.object_pose = torch.where(on[:, None], object_pose, self.object_pose)
        self.giver_bones = torch.where(on[:, None, None], giver_bones, self.giver_bones)

    def _now(self, recorded: Tensor) -> Tensor:
        """Recorded poses (N, ..., 7) as they are played now, (B, ..., 7)."""
        if not self.moves:
            return recorded[self.row]
        before = self._clock.floor().long()
        shape = (-1, *[1] * (recorded.ndim - 1))
        first, second = (recorded[self._offset + frame] for frame in (before, (before + 1).minimum(self._last)))
        part = (self._clock - before).view(shape)
        pose = pose_integrate(first, pose_velocity(first, second, 1.0), part)
        if self._behaviour.pose_offset:
            pose = pose_multiply(self._draws.shift.view((*shape[:-1], 7)).expand_as(pose), pose)
        if self._behaviour.retraction:
            pose = torch.cat((pose[..., :3] + self._retraction.offset.view((*shape[:-1], 3)), pose[..., 3:]), dim=-1)
        return pose


def _put(old: Parts, worlds: Tensor, new: Parts) -> Parts:
    """Tensors of B worlds, those of worlds (n,) replaced by new ones (n, ...)."""
    return replace(old, **{f.name: put(getattr(old, f.name), worlds, getattr(new, f.name)) for f in fields(old)})
