"""The recorded trials an environment has drawn so far, as flat tensors that worlds index by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectBatch, ObjectModel
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.types import split_hand_state


def open_split(replays: str | Path, split: str) -> tuple[ReplayStore, list[str], float]:
    """A replay store, the ids of the trials of one of its splits ("all" for all), and their frames a second.

    ValueError where there are no trials, or not all of one frame rate.
    """
    store = ReplayStore.open(replays)
    ids = store.ids(None if split == "all" else split)
    if not ids:
        raise ValueError(f"split {split!r} of {replays} has no trials; try split='all'")
    rates = {store.info(i).fps for i in ids}
    if len(rates) > 1:
        raise ValueError(f"trials of one environment must share a frame rate, {replays} has {sorted(rates)}")
    return store, ids, rates.pop()


class Recordings:
    """Loads trials on first use and keeps them: world w at time t looks at row `offset[trial[w]] + t`.

    Attributes:
        replays, givers: per trial, what it was loaded from and whose hand it shows.
        object_pose: (N, 7) float64, all frames of all loaded trials one after another.
        giver_bones: (N, 16, 7) float64, poses of the giver's bones.
        goal_free: (N, G) bool, G: most goals of a loaded trial.
        goal_pose, goal_joints: (n, G, 7) in the object frame and (n, G, 22), per trial, padded with copies of goal 0
            whose `goal_free` is False.
        offset, length, object_index: (n,) per trial.
        hand_pose, hand_joints: (n, 7) palm and (n, 22), where the robot's hand starts, per trial.
        objects: the solids of the loaded trials, indexed by `object_index`.
        device: where all of these are.
    """

    def __init__(self, store: ReplayStore, device: torch.device | str = "cpu"):
        self._store, self.device = store, torch.device(device)
        self._index: dict[str, int] = {}
        self._room: dict[str, Tensor] = {}  # arrays of frames with rows to spare
        self._object_names: list[str] = []
        self.replays: list[Replay] = []
        self.givers: list[GiverHand] = []
        self._hands: dict[tuple, GiverHand] = {}
        none = torch.zeros(0, dtype=torch.float64, device=device)
        self.object_pose = none.new_zeros(0, 7)
        self.giver_bones = none.new_zeros(0, 16, 7)
        self.goal_free = none.new_zeros(0, 1, dtype=torch.bool)
        self.goal_pose, self.goal_joints = none.new_zeros(0, 1, 7), none.new_zeros(0, 1, 22)
        self.hand_pose, self.hand_joints = none.new_zeros(0, 7), none.new_zeros(0, 22)
        self.offset, self.length, self.object_index = none.long(), none.long(), none.long()
        self.objects: ObjectBatch

    def indices(self, ids: Sequence[str]) -> Tensor:
        """Trial numbers (n,) of these replay ids, loading those not seen before."""
        new = [i for i in dict.fromkeys(ids) if i not in self._index]
        if new:
            shown = tqdm(new, "trials", unit="trial", leave=False, delay=2)
            self._load([self._store.replay(i) for i in shown])
        return torch.tensor([self._index[i] for i in ids], device=self.device)

    def object_of(self, trial: int) -> ObjectModel:
        """The object of a loaded trial."""
        return self.objects.objects[int(self.object_index[trial])]

    def bones_of(self, trial: int) -> Tensor:
        """The giver's bones in all frames of a loaded trial, (T, 16, 7)."""
        return self.giver_bones[self.offset[trial] : self.offset[trial] + self.length[trial]]

    def _hand_of(self, replay: Replay) -> GiverHand:
        """The giver's hand, one object for all trials of the same hand."""
        key = (replay.side, tuple(replay.giver[0, 51:].tolist()))
        return self._hands.setdefault(key, GiverHand.from_mano(replay.giver, replay.side, replay.giver_model))

    def _load(self, replays: list[Replay]) -> None:
        known = len(self._object_names)
        for r in replays:
            self._index[r.id] = len(self._index)
            if r.object not in self._object_names:
                self._object_names.append(r.object)
        self.replays += replays
        frames = torch.tensor([r.num_frames for r in replays], device=self.device)
        self.offset = torch.cat((self.offset, len(self.object_pose) + frames.cumsum(0) - frames))
        self.length = torch.cat((self.length, frames))
        numbers = torch.tensor([self._object_names.index(r.object) for r in replays], device=self.device)
        self.object_index = torch.cat((self.object_index, numbers))
        self.object_pose = self._longer("object_pose", [r.object_pose for r in replays])
        givers = [self._hand_of(r) for r in replays]
        self.givers += givers
        start = split_hand_state(torch.stack([r.hand_start for r in replays]))
        self.hand_pose, self.hand_joints = (
            torch.cat((old, new.to(self.device)))
            for old, new in zip((self.hand_pose, self.hand_joints), start, strict=True)
        )
        bones = [giver.bone_poses(r.giver) for giver, r in zip(givers, replays, strict=True)]
        self.giver_bones = self._longer("giver_bones", bones)
        width = max(self.goal_free.shape[1], *(r.goal_free.shape[1] for r in replays))
        if width > self.goal_free.shape[1]:
            self._room["goal_free"] = self.goal_free = _pad(self.goal_free, width)
        self.goal_free = self._longer("goal_free", [_pad(r.goal_free, width) for r in replays])
        poses = (self.goal_pose, *(r.goal_pose[None].to(self.device) for r in replays))
        joints = (self.goal_joints, *(r.goal_joints[None].to(self.device) for r in replays))
        self.goal_pose, self.goal_joints = (
            torch.cat([_repeat_first(goals, width) for goals in kind]) for kind in (poses, joints)
        )
        if len(self._object_names) > known:
            models = [self._store.object_model(name) for name in self._object_names]
            self.objects = ObjectBatch(models).to(self.device)

    def _longer(self, name: str, parts: list[Tensor]) -> Tensor:
        """An array with rows added, in room that is doubled when it is full, so that not every trial copies all."""
        old = getattr(self, name)
        size = len(old) + sum(map(len, parts))
        room = self._room.get(name, old)
        if len(room) < size:
            room = old.new_empty(max(size, 2 * len(room)), *old.shape[1:])
            room[: len(old)] = old
            self._room[name] = room
        room[len(old) : size] = torch.cat(parts)
        return room[:size]


def _pad(free: Tensor, width: int) -> Tensor:
    """(T, G) -> (T, width), goals that do not exist are not free."""
    return torch.nn.functional.pad(free, (0, width - free.shape[1]))


def _repeat_first(goals: Tensor, width: int) -> Tensor:
    """(n, G, k) -> (n, width, k), goals that do not exist repeat the first."""
    return torch.cat((goals, goals[:, :1].expand(-1, width - goals.shape[1], -1)), dim=1)
