"""Demonstrations of a store as batches of what was observed and what the hand did next.

Numbers of all frames are kept in memory (0.6 kB a frame); clouds and pictures are read from disk as they are drawn,
see `policies.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle, quat_from_axis_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.frames import open_frames
from policies.servo import servo_plan

Labels = Literal["expert", "demonstrations"]

_IDLE = (0.005, 0.05)  # m, rad: a hand that is no farther than that from where it began has not set off
_LEAD = 2  # frames before the hand sets off that are kept
_THERE = 0.01  # m from the last grasp, where the hand has arrived
_REST = 3  # frames after it has arrived that are kept
SPREAD = (
    0.04,
    0.25,
    0.15,
)  # m, rad, rad: deviations of palm position, palm rotation and joints where a hand is shifted
UNSTEADY = (0.004, 0.03, 0.03)  # the same of how it got there, a frame
_SHIFTED = 0.8  # part of the windows


class ApproachWindows:
    """Windows of the demonstrations of a split: `observed` frames up to t and the `ahead` frames after it.

    A batch is a dict: "future" (B, ahead, 28) hand states, and of what is asked for, each (B, observed, ...), as the
    environment shows it: "agent_pos", "goal_pos" (28), the grasp that the demonstration ends in, carried along with the
    object; "giver_joints" (48); "point_cloud" (P, 3); "image" (H, W, 3) uint8 and "depth" (H, W).

    What is to be learned, the future, is by default the expert's answer (`policies.servo`): the demonstration says
    where the hand is and which grasp it ends in, the expert how it goes on from there. In four of five windows the hand
    is shifted first, so a policy also knows what to do where its own errors brought it (DAgger, Ross et al., AISTATS
    2011, with states drawn around the demonstrations).

    Windows in which the hand waits or has long arrived are left out, for who learns to wait waits for ever.
    """

    def __init__(
        self,
        store: ReplayStore,
        split: str,
        *,
        observed: int,
        ahead: int,
        needs: Sequence[str],
        frames: Mapping[str, Any] | None = None,
        cache: Path | None = None,
        max_trials: int | None = None,
        labels: Labels = "expert",
    ) -> None:
        """frames: of clouds and pictures, see `policies.frames.open_frames`, kept in the folder cache.

        max_trials: at most so many, evenly spread over the split.
        labels: "expert", or "demonstrations": the future as it was shown, and no hand is shifted.

        Raises:
            ValueError: the split has no demonstrations, or the store no clouds or pictures and no givers to make any;
                or its trials have several frame rates.
        """
        ids = [id for id in store.ids(split) if store.info(id).has_demo]
        if not ids:
            raise ValueError(f"split {split!r} of {store.path} has no demonstrations to learn from")
        if max_trials is not None and max_trials < len(ids):
            ids = [ids[i * len(ids) // max_trials] for i in range(max_trials)]
        rates = {store.info(id).fps for id in ids}
        if len(rates) > 1:
            raise ValueError(f"{store.path} has trials of {sorted(rates)} frames a second; policies learn one rate")
        self.observed, self.ahead, self.needs, self.labels = observed, ahead, tuple(needs), labels
        self._dt = 1.0 / rates.pop()
        replays = [store.replay(id) for id in ids]
        lasts = [min(_arrives(replay), replay.num_frames - 2) for replay in replays]  # frames that teach end here
        self._frames = open_frames(store, ids, self.needs, cache, counts=[n + 1 for n in lasts], **(frames or {}))
        self.objects = sorted({replay.object for replay in replays})
        self.num_trials = len(replays)
        columns = [_columns(replay, self.needs) for replay in replays]
        self._columns = {key: torch.cat([c[key] for c in columns]) for key in columns[0]}
        count = torch.tensor([replay.num_frames for replay in replays])
        first = count.cumsum(0) - count
        self._first, self._last = (v.repeat_interleave(count) for v in (first, first + count - 1))  # rows, of each row
        begin = first + torch.tensor([_sets_off(replay) for replay in replays])
        end = first + torch.tensor(lasts)
        rows = torch.arange(len(self._last))
        taught = (rows >= begin.repeat_interleave(count)) & (rows <= end.repeat_interleave(count))
        self._starts = rows[taught]
        # the frames kept of a trial are its first ones, one trial after the other
        kept = torch.tensor(lasts) + 1
        self._skipped = (first - (kept.cumsum(0) - kept)).repeat_interleave(count)

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, size: int, generator: torch.Generator, *, pictures: bool = True) -> dict[str, Tensor]:
        """Random windows, with or without clouds and pictures."""
        row = self._starts[torch.randint(len(self), (size, 1), generator=generator)]
        past = (row + torch.arange(1 - self.observed, 1)).maximum(self._first[row])
        future = (row + torch.arange(self.ahead + 1)).minimum(self._last[row])  # from now on
        out = {key: self._columns[key][past] for key in self._columns if key == "agent_pos" or key in self.needs}
        if pictures:
            out |= self._frames.read(past - self._skipped[past])
        if self.labels == "demonstrations":
            return out | {"future": self._columns["agent_pos"][future[:, 1:]]}
        out["agent_pos"] = shifted(out["agent_pos"], generator)
        return out | {"future": servo_plan(out["agent_pos"][:, -1], self._columns["goal_pos"][future], self._dt)}


def shifted(states: Tensor, generator: torch.Generator) -> Tensor:
    """Hand states (B, T, 28) up to now, most of them moved off, and as if the hand had come there unsteadily."""
    worlds, frames = states.shape[:2]
    some = (torch.rand(worlds, 1, generator=generator) < _SHIFTED) * torch.rand(worlds, 1, generator=generator)
    spread, unsteady = (
        torch.cat([torch.full((n,), s) for n, s in zip((3, 3, 22), sizes, strict=True)]) for sizes in (SPREAD, UNSTEADY)
    )
    by, drift = (some * size * torch.randn(worlds, 28, generator=generator) for size in (spread, unsteady))
    ago = torch.arange(frames - 1, -1, -1)
    return _moved(states, by[:, None] - ago[:, None] * drift[:, None])


def _moved(states: Tensor, by: Tensor) -> Tensor:
    pose, joints = split_hand_state(states)
    turn = torch.cat((torch.zeros_like(by[..., :3]), quat_from_axis_angle(by[..., 3:6])), dim=-1)
    turned = pose_multiply(pose, turn)
    return join_hand_state(torch.cat((pose[..., :3] + by[..., :3], turned[..., 3:]), dim=-1), joints + by[..., 6:])


def _columns(replay: Replay, needs: Sequence[str]) -> dict[str, Tensor]:
    """The numbers of each frame (T, ...)."""
    assert replay.demo is not None
    out = {"agent_pos": replay.demo}
    out["goal_pos"] = _goal(replay)
    if "giver_joints" in needs:
        hand = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
        out["giver_joints"] = hand.bone_poses(replay.giver)[..., :3].flatten(1)
    return {key: value.float() for key, value in out.items()}


def _goal(replay: Replay) -> Tensor:
    """The grasp that a demonstration ends in, carried along with the object (T, 28)."""
    assert replay.demo is not None
    pose, joints = split_hand_state(replay.demo[-1])
    grasp = pose_multiply(pose_inverse(replay.object_pose[-1]), pose)
    carried = pose_multiply(replay.object_pose, grasp.expand(replay.num_frames, -1))
    return join_hand_state(carried, joints.expand(replay.num_frames, -1))


def _arrives(replay: Replay) -> int:
    """The last frame of a demonstration that teaches: shortly after the hand has come to where it ends."""
    assert replay.demo is not None
    apart = (replay.demo - _goal(replay))[:, :3].norm(dim=-1) > _THERE
    return int(apart.nonzero().max()) + _REST if apart.any() else 0


def _sets_off(replay: Replay) -> int:
    """The first frame of a demonstration that teaches: shortly before the hand sets off."""
    assert replay.demo is not None
    pose, _ = split_hand_state(replay.demo)
    moved = ((pose[:, :3] - pose[0, :3]).norm(dim=-1) > _IDLE[0]) | (quat_angle(pose[:, 3:], pose[0, 3:]) > _IDLE[1])
    return max(0, int(np.argmax(moved.numpy())) - _LEAD)
