"""Random windows of consecutive frames, for imitation and for models of motion.

Frames of the trials wanted are read once and kept (about 0.1 MB a trial); a batch of windows is then a few gathers.
Object clouds are made on the fly: points of the object's surface carried along with its pose, or, where the store has
recorded clouds, read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dexh2r_gym.replay.replay import ReplayError
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.replay.validate import DATA
from dexh2r_gym.rotations import quat_to_matrix

COLUMNS = tuple(key for key in DATA if key != "goal_free")
KEYS = (*COLUMNS, "cloud")
NUM_POINTS = 4096  # surface points of an object


class ReplayWindows(Dataset):
    """All windows of `length` frames of the trials of a split; window i of trial t starts at frame i of it.

    `windows[3]` is one window, `windows[[3, 5, 8]]` (any list, array or tensor of numbers) a batch, both a dict:

    - "object_pose" (..., length, 7), "giver" (..., length, 61), "hand_state" (..., length, 28): as in `Replay`, float32
    - "cloud" (..., length, num_points, 3): object points, world, metres; the same points of the object in all frames
      of a window of a synthetic store, points as recorded elsewhere
    - "trial" (...,) long: number of the trial in the store

    A `torch.utils.data.DataLoader` fetches whole batches: `DataLoader(windows, batch_size=256, shuffle=True,
    collate_fn=lambda batch: batch)`. Which points of a cloud are drawn follows from `seed` and the window's number.

    Args:
        store: an open store, or what `ReplayStore.open` takes.
        split: "train", "validation", "test" or "all".
        length: frames of a window.
        keys: of `KEYS`. "hand_state" leaves out trials without a demonstration.
        pad: frames that a window may reach beyond the beginning and the end of its trial; they repeat the first and the
            last frame.
        num_points: of a cloud.
        recorded: clouds as recorded (True), from the object's surface (False), or recorded where there are any (None).
        seed: of the choice of points.

    Raises:
        ReplayError: for unknown keys, or where no trial is long enough.
    """

    def __init__(
        self,
        store: ReplayStore | str,
        split: str = "train",
        *,
        length: int = 16,
        keys: Sequence[str] = ("hand_state", "object_pose", "cloud"),
        pad: tuple[int, int] = (0, 0),
        num_points: int = 1024,
        recorded: bool | None = None,
        seed: int = 0,
    ) -> None:
        self.store = store if isinstance(store, ReplayStore) else ReplayStore.open(store)
        if unknown := sorted(set(keys) - set(KEYS)):
            raise ReplayError(f"unknown keys {', '.join(unknown)}; keys of a window: {', '.join(KEYS)}")
        if length < 1 or min(pad) < 0:
            raise ValueError(f"length must be at least 1 and pad at least 0, got {length} and {pad}")
        self.keys, self.length, self.num_points, self.seed = tuple(keys), length, num_points, seed
        self.recorded = "cloud" in self.store.sensors if recorded is None else recorded
        if not 1 <= num_points <= NUM_POINTS:
            raise ValueError(f"num_points must be 1 to {NUM_POINTS}, got {num_points}")
        if self.recorded and "cloud" in keys and "cloud" not in self.store.sensors:
            raise ReplayError("has no recorded clouds; recorded=False makes them", store=self.store.name)
        wanted = set(self.store.ids(split))
        infos = self.store.infos
        trials = [
            i for i, info in enumerate(infos) if info.id in wanted and (info.has_demo or "hand_state" not in keys)
        ]
        frames = np.array([infos[i].num_frames for i in trials], dtype=np.int64)
        count = np.maximum(frames + sum(pad) - length + 1, 0)  # windows of each trial
        if count.sum() == 0:
            raise ReplayError(f"no trial of split {split!r} has a window of {length} frames", store=self.store.name)
        self._ends = torch.from_numpy(np.cumsum(count))  # window number at which each trial's windows end
        self._count = torch.from_numpy(count)
        self._trial = torch.tensor(trials)
        self._frames = torch.from_numpy(frames)
        self._begin = torch.from_numpy(np.cumsum(frames) - frames)  # row of each trial's first frame
        self._pad = pad[0]
        rows = np.concatenate([np.r_[self.store.frames_of(i)] for i in trials])
        needed = {key for key in keys if key in COLUMNS} | ({"object_pose"} if "cloud" in keys else set())
        self._columns = {key: torch.from_numpy(self.store.column(key)[rows]) for key in sorted(needed)}
        if "cloud" in keys and not self.recorded:
            names = sorted({infos[i].object for i in trials})
            self._surface = _shuffled_points([self.store.object_model(name).points for name in names], seed)
            self._object = torch.tensor([names.index(infos[i].object) for i in trials])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int | Sequence[int] | np.ndarray | Tensor) -> dict[str, Tensor]:
        number = torch.as_tensor(index, dtype=torch.long)
        window = number.reshape(-1)
        if ((window < 0) | (window >= len(self))).any():
            raise IndexError(f"windows are numbered 0 to {len(self) - 1}, asked for {window.tolist()[:8]}")
        trial = torch.searchsorted(self._ends, window, right=True)
        first = window - (self._ends - self._count)[trial] - self._pad
        frame = (first[:, None] + torch.arange(self.length)).clamp_min(0).minimum(self._frames[trial, None] - 1)
        rows = self._begin[trial, None] + frame
        out = {key: self._columns[key][rows] for key in self.keys if key in COLUMNS}
        if "cloud" in self.keys:
            out["cloud"] = self._recorded(trial, frame, window) if self.recorded else self._made(trial, rows, window)
        out["trial"] = self._trial[trial]
        return {key: value.reshape(number.shape + value.shape[1:]) for key, value in out.items()}

    __getitems__ = __getitem__  # what a DataLoader asks for a batch

    def _made(self, trial: Tensor, rows: Tensor, window: Tensor) -> Tensor:
        """Surface points moved with the object, (B, L, P, 3)."""
        pose = self._columns["object_pose"][rows]
        begin = (
            window * 2654435761 + self.seed
        ) % NUM_POINTS  # the points are shuffled: any stretch is a random choice
        points = self._surface[self._object[trial, None], begin[:, None] + torch.arange(self.num_points)]  # (B, P, 3)
        turn = quat_to_matrix(pose[..., 3:]).permute(0, 3, 1, 2).flatten(2)  # (B, 3, L * 3): all frames in one product
        moved = torch.baddbmm(pose[..., :3].flatten(1)[:, None], points, turn)
        return moved.unflatten(-1, (self.length, 3)).permute(0, 2, 1, 3)

    def _recorded(self, trial: Tensor, frame: Tensor, window: Tensor) -> Tensor:
        """Recorded points, (B, L, P, 3): the same columns of each frame's cloud."""
        clouds = []
        for number, at, seed in zip(self._trial[trial].tolist(), frame, window.tolist(), strict=True):
            low, high = int(at[0]), int(at[-1]) + 1
            cloud = self.store[number].sensor("cloud", slice(low, high))
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
            chosen = torch.randperm(cloud.shape[1], generator=generator)[: self.num_points]
            clouds.append(cloud[at - low][:, chosen])
        return torch.stack(clouds)


def _shuffled_points(points: Sequence[Tensor], seed: int) -> Tensor:
    """(K, 2 * NUM_POINTS, 3): each object's points in a random order, twice over, so that a stretch never runs out."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([p[torch.randperm(len(p), generator=generator)] for p in points])
    return torch.cat((shuffled, shuffled), dim=1)
