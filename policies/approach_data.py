"""Demonstrations of a store as batches of what was observed and what the hand did next.

Numbers of all frames are kept in memory (0.6 kB a frame); clouds and pictures are read from disk as they are drawn,
see `policies.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import START_DISTANCE
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.replay.visited import is_visited
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle
from dexh2r_gym.types import split_hand_state
from policies.expert import ReactiveAnswers, moved
from policies.frames import open_frames

Labels = Literal["expert", "demonstrations"]

_IDLE = (0.005, 0.05)  # m, rad: a hand that is no farther than that from where it began has not set off
_LEAD = 2  # frames before the hand sets off that are kept
_THERE = 0.01  # m from the last grasp, where the hand has arrived
_REST = 3  # frames after it has arrived that are kept
SPREAD = (0.04, 0.25, 0.15)  # m, rad, rad: deviations of palm position and rotation and of joints when shifted
UNSTEADY = (0.004, 0.03, 0.03)  # the same of how it got there, a frame
_SHIFTED = 0.8  # part of the windows
_FARTHEST = 4.0  # by which deviations are multiplied at most, for who is not told the goal
_WAYS = 4  # of the expert in each trial
_ROWS = 4096  # whose nearest goals are looked for at once
_SEED = 17


class ApproachWindows:
    """Windows of the demonstrations of a split: `observed` frames up to t and the `ahead` frames after it.

    A batch is a dict: "future" (B, ahead, 28) hand states; each (B, observed, ...), "agent_pos" and "goal_pos" (28),
    the grasp that the future leads to, carried along with the object; and of what is asked for, as the environment
    shows it: "giver_joints" (48); "point_cloud" (P, 3); "image" (H, W, 3) uint8 and "depth" (H, W).

    What is to be learned, the future, is by default the expert's answer from where the hand is, see `policies.expert`.
    Policies that are told the goal see the hand where the demonstration has it, others on the expert's own ways to the
    nearest goals. In four of five windows it is shifted first, so that a policy also knows what to do where its own
    errors brought it (DAgger, Ross et al., AISTATS 2011, with states drawn around the ways).

    Windows in which the hand waits or has long arrived are left out, for who learns to wait waits for ever. Where goals
    are not told, a hand has arrived where the environment aligns it: no goal is near where such a policy has to go on.

    In a store of `replay.visited` hands are where a policy had them, as they are; the expert goes to the nearest goal.
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
                or its trials have several frame rates; or nobody demonstrates anything in it, and labels are
                demonstrations.
        """
        visited = is_visited(store)
        if visited and labels == "demonstrations":
            raise ValueError(
                f"hands in {store.path} are where a policy had them, nothing to imitate; use labels=expert"
            )
        ids = [id for id in store.ids(split) if store.info(id).has_demo]
        if not ids:
            raise ValueError(f"split {split!r} of {store.path} has no demonstrations to learn from")
        if max_trials is not None and max_trials < len(ids):
            ids = [ids[i * len(ids) // max_trials] for i in range(max_trials)]
        rates = {store.info(id).fps for id in ids}
        if len(rates) > 1:
            raise ValueError(f"{store.path} has trials of {sorted(rates)} frames a second; policies learn one rate")
        self.observed, self.ahead, self.needs, self.labels = observed, ahead, tuple(needs), labels
        replays = [store.replay(id) for id in ids]
        lasts = [r.num_frames - 2 if visited else min(_arrives(r), r.num_frames - 2) for r in replays]  # that teach
        self._frames = open_frames(store, ids, self.needs, cache, counts=[n + 1 for n in lasts], **(frames or {}))
        self.objects = sorted({replay.object for replay in replays})
        self.num_trials = len(replays)
        self._giver = torch.cat([_giver_joints(r) for r in replays]) if "giver_joints" in self.needs else None
        count = torch.tensor([replay.num_frames for replay in replays])
        first = count.cumsum(0) - count
        self._first, self._last = (v.repeat_interleave(count) for v in (first, first + count - 1))  # rows, of each row
        begin, end = first + torch.tensor([_sets_off(replay) for replay in replays]), first + torch.tensor(lasts)
        rows = torch.arange(len(self._last))
        # the frames kept of a trial are its first ones, one trial after the other
        kept = torch.tensor(lasts) + 1
        self._skipped = (first - (kept.cumsum(0) - kept)).repeat_interleave(count)
        told = not visited and ("goal_pos" in self.needs or labels == "demonstrations")
        self._shifted = None if visited or labels == "demonstrations" else partial(shifted, told=told)
        self._expert = ReactiveAnswers(replays, told=told, dt=1.0 / rates.pop())
        self._hand = torch.cat([replay.demo for replay in replays if replay.demo is not None]).float()[None]
        if told:
            taught = rows >= begin.repeat_interleave(count)
        else:
            if visited:
                parts = zip(self._hand[0].split(_ROWS), rows.split(_ROWS), strict=True)
                left = torch.cat([self._expert.left(hand, row) for hand, row in parts])[None]
            else:
                draw = torch.Generator().manual_seed(_SEED)
                ways = [self._expert.ways(draw) for _ in range(_WAYS)]
                self._hand, left = (torch.stack(parts) for parts in zip(*ways, strict=True))
            taught = left[:, (rows - _REST).maximum(self._first)] > START_DISTANCE["hard"]
        self._starts = (taught & (rows <= end.repeat_interleave(count))).expand(len(self._hand), -1).nonzero()

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, size: int, generator: torch.Generator, *, pictures: bool = True) -> dict[str, Tensor]:
        """Random windows, with or without clouds and pictures."""
        way, row = self._starts[torch.randint(len(self), (size,), generator=generator)].unbind(1)
        past = (row[:, None] + torch.arange(1 - self.observed, 1)).maximum(self._first[row, None])
        out = self._frames.read(past - self._skipped[past]) if pictures else {}
        if self._giver is not None:
            out["giver_joints"] = self._giver[past]
        hand = self._hand[way[:, None], past]
        if self._shifted is not None:
            hand = self._shifted(hand, generator)
        if self.labels == "expert":
            out["future"] = self._expert.plans(hand[:, -1], row, self.ahead)
        else:
            future = (row[:, None] + torch.arange(1, self.ahead + 1)).minimum(self._last[row, None])
            out["future"] = self._hand[0, future]
        return out | {"agent_pos": hand, "goal_pos": self._expert.goals(hand[:, -1], row, past)}


def shifted(states: Tensor, generator: torch.Generator, *, told: bool) -> Tensor:
    """Hand states (B, T, 28) up to now, most of them moved off, and as if the hand had come there unsteadily.

    told: the policy knows the goal, and so the way back. For others a few are moved so far that the way is lost.
    """
    worlds, frames = states.shape[:2]
    some = (torch.rand(worlds, 1, generator=generator) < _SHIFTED) * torch.rand(worlds, 1, generator=generator)
    if not told:
        some = _FARTHEST * some**3
    spread, unsteady = (
        torch.cat([torch.full((n,), s) for n, s in zip((3, 3, 22), sizes, strict=True)]) for sizes in (SPREAD, UNSTEADY)
    )
    by, drift = (some * size * torch.randn(worlds, 28, generator=generator) for size in (spread, unsteady))
    ago = torch.arange(frames - 1, -1, -1)
    return moved(states, by[:, None] - ago[:, None] * drift[:, None])


def _giver_joints(replay: Replay) -> Tensor:
    """Of each frame (T, 48)."""
    hand = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
    return hand.bone_poses(replay.giver)[..., :3].flatten(1).float()


def _arrives(replay: Replay) -> int:
    """The last frame of a demonstration that teaches: shortly after the hand has come to where it ends."""
    assert replay.demo is not None
    pose, _ = split_hand_state(replay.demo)
    there = pose_multiply(pose_inverse(replay.object_pose), pose)[:, :3]
    apart = (there - there[-1]).norm(dim=-1) > _THERE
    return int(apart.nonzero().max()) + _REST if apart.any() else 0


def _sets_off(replay: Replay) -> int:
    """The first frame of a demonstration that teaches: shortly before the hand sets off."""
    assert replay.demo is not None
    pose, _ = split_hand_state(replay.demo)
    went = ((pose[:, :3] - pose[0, :3]).norm(dim=-1) > _IDLE[0]) | (quat_angle(pose[:, 3:], pose[0, 3:]) > _IDLE[1])
    return max(0, int(np.argmax(went.numpy())) - _LEAD)
