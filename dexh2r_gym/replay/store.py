"""The store of replays: zarr v3, a folder or a `.zarr.zip`, read lazily.

Frames of all trials are concatenated in `data/` (and `sensors/`, where clouds or pictures were recorded), `meta/` has
one row a trial and `meta/episode_ends` (as diffusion-policy datasets do), `goals` the goal grasps, of which a trial
names its rows, `objects/<name>/` the geometry of objects that are not of the built-in library. Keys, dtypes and shapes
are listed in `dexh2r_gym.replay.validate`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.arrays import StoreArrays
from dexh2r_gym.replay.continuity import check_continuity
from dexh2r_gym.replay.replay import (
    GIVER_MODELS,
    SENSORS,
    SIDES,
    SPLITS,
    Replay,
    ReplayError,
    ReplayInfo,
    UnknownReplayError,
    replay_id,
)
from dexh2r_gym.replay.splits import trial_kind

if TYPE_CHECKING:
    from dexh2r_gym.objects import ObjectModel

CACHED_REPLAYS = 256  # about 0.1 MB each


class ReplayStore:
    """Recorded trials: `len(store)`, `store.ids("test")`, `store[i]`, `store.replay("s03/spray_bottle/002")`.

    Opening reads metadata only, and refuses a store whose structure is wrong or that lacks a part; the frames of a
    replay are read and checked on first use and then kept for a while. Every refusal is a `ReplayError` that names key,
    replay and frame. A store can be sent to other processes: each opens it anew.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store at `path`; see `open` for stores by name."""
        self.path = Path(path)
        self.name = str(path)
        self._arrays = StoreArrays(self.path, self.name)
        self.attrs: dict[str, Any] = self._arrays.attrs()
        self._check_format()
        self.object_names: tuple[str, ...] = tuple(self.attrs["objects"])
        self.giver_model: str = self.attrs["giver_model"]
        self.sensors = tuple(name for name in SENSORS if f"sensors/{name}" in self._arrays)
        lengths = {key: self._arrays.open(f"data/{key}", *kind) for key, kind in validate.DATA.items()}
        lengths |= {name: self._arrays.open(f"sensors/{name}", *validate.SENSORS[name]) for name in self.sensors}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise ReplayError(f"frames of different lengths: {listed}", store=self.name, key="data")
        num_goals = self._arrays.open("goals", *validate.GOALS)
        self._meta = {key: self._read(f"meta/{key}", *kind) for key, kind in validate.META.items()}
        calibrations = len(self.attrs["calibrations"])
        validate.check_meta(self._meta, lengths["object_pose"], self.object_names, num_goals, calibrations, self.name)
        self.infos: tuple[ReplayInfo, ...] = tuple(self._infos())
        self._by_id = {info.id: index for index, info in enumerate(self.infos)}
        if len(self._by_id) != len(self.infos):
            twice = next(info.id for index, info in enumerate(self.infos) if self._by_id[info.id] != index)
            raise ReplayError("more than one trial of this id", store=self.name, key="meta/number", replay=twice)
        self._cached = lru_cache(CACHED_REPLAYS)(self._load)
        self._cached_goals = lru_cache(CACHED_REPLAYS)(self._load_goals)
        self._cached_model = lru_cache(None)(self._load_model)

    @classmethod
    def open(cls, path_or_name: str | Path) -> ReplayStore:
        """Open a store that ships with the package by name ("mini"), or any by its path."""
        shipped = shipped_stores()
        if str(path_or_name) in shipped:
            return cls(shipped[str(path_or_name)])
        if not Path(path_or_name).exists():
            raise ReplayError(
                f"no replays {str(path_or_name)!r}: neither a path that exists nor a store of the package"
                f" ({', '.join(shipped) or 'none is installed'})"
            )
        return cls(path_or_name)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Replay:
        """Replay by its number in the store."""
        if not -len(self) <= index < len(self):
            raise UnknownReplayError(f"no replay {index}: there are {len(self)}, 0 to {len(self) - 1}", store=self.name)
        return self._cached(int(index) % len(self))

    def __iter__(self) -> Iterator[Replay]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self):
        return type(self), (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"ReplayStore({self.name!r}, {len(self)} replays, {len(self.object_names)} objects)"

    def replay(self, id: str) -> Replay:
        """Replay by its id, for instance "s03/spray_bottle/002"."""
        return self._cached(self.index(id))

    def index(self, id: str) -> int:
        """Number in the store of a replay."""
        if id not in self._by_id:
            close = difflib.get_close_matches(str(id), self._by_id, n=3, cutoff=0.3) or list(self._by_id)[:3]
            raise UnknownReplayError(
                f"no replay {id!r} among {len(self)}; near it: {', '.join(close)}; `ids()` lists all", store=self.name
            )
        return self._by_id[id]

    def info(self, id: str) -> ReplayInfo:
        """What is known of a replay without reading its frames."""
        return self.infos[self.index(id)]

    def ids(self, split: str | None = None) -> list[str]:
        """Ids in the order of the store, of one split ("train", "validation", "test") or of all (None or "all")."""
        if split not in (None, "all", *SPLITS):
            raise ReplayError(f"unknown split {split!r}; splits: {', '.join(SPLITS)}, all", store=self.name)
        return [info.id for info in self.infos if split in (None, "all", info.split)]

    def object_model(self, name: str) -> ObjectModel:
        """Geometry of an object: the store's own if it carries one, else that of the built-in library."""
        if name not in self.object_names:
            raise ReplayError(f"no object {name!r}; objects: {', '.join(self.object_names)}", store=self.name)
        return self._cached_model(name)

    def carries(self, name: str) -> bool:
        """Whether the store has the geometry of this object itself; else it is that of the built-in library."""
        return f"objects/{name}/part_vertices" in self._arrays

    def column(self, key: str) -> NDArray:
        """All frames of all trials of a key of `validate.DATA` at once, as stored: (N, ...), N of `frames_of`.

        Read anew at every call and not checked; "goal_free" is packed. For those that draw from all trials at random.
        """
        if key not in validate.DATA:
            raise ReplayError(f"no column {key!r}; columns: {', '.join(validate.DATA)}", store=self.name)
        return self._arrays.read(f"data/{key}")

    def frames(self, key: str, index: int) -> NDArray:
        """The same of one trial, by its number: (T, ...)."""
        return self._arrays.rows(f"data/{key}", self.frames_of(index))

    def goals_of(self, index: int) -> NDArray:
        """Goal grasps of a trial, by its number, as stored: (G, 29) float32, palm pose in the object frame, joints."""
        begin = int(self._meta["goals_begin"][index])
        return self._arrays.rows("goals", slice(begin, begin + int(self._meta["goals_count"][index])))

    def frames_of(self, index: int) -> slice:
        """Rows of a trial, by its number, in the columns."""
        end = int(self._meta["episode_ends"][index])
        return slice(end - self.infos[index].num_frames, end)

    def check(self, progress: Callable[[Iterator[int]], Iterator[int]] = iter) -> None:
        """Read and check everything; raises the first of `problems`. `progress` may be tqdm."""
        for problem in self.problems(progress):
            raise problem

    def problems(self, progress: Callable[[Iterator[int]], Iterator[int]] = iter) -> Iterator[ReplayError]:
        """All that is wrong: trials and goals that cannot be read or whose numbers cannot be, jumps no hand can do
        (`continuity`), objects without sound geometry, and content that is not what its hash says."""
        for name in self.object_names:
            try:
                self.object_model(name)
            except ReplayError as problem:
                yield problem
        for index in progress(iter(range(len(self)))):
            try:
                check_continuity(self._load(index), store=self.name)
            except ReplayError as problem:
                yield problem
        for key in self._arrays.keys:
            try:
                if self._arrays.digest(key) != self.attrs["sha256"].get(key):
                    what = "content is not what its SHA-256 says: changed after writing"
                    yield ReplayError(what, store=self.name, key=key)
            except ReplayError as problem:
                yield problem

    def _check_format(self) -> None:
        found, version, names = (self.attrs.get(key) for key in ("format", "version", "objects"))
        if found != validate.FORMAT:
            raise ReplayError(
                f"not a store of replays: format is {found!r}, expected {validate.FORMAT!r}", store=self.name
            )
        if version != validate.VERSION:
            way = "; `dexh2r replays migrate OLD NEW` converts it" if version == 1 else ""
            raise ReplayError(
                f"version {version!r} of the format, this release reads {validate.VERSION}{way}", store=self.name
            )
        validate.check_names(names, self.name)
        if self.attrs.get("giver_model") not in GIVER_MODELS:
            what = f"attribute 'giver_model' is {self.attrs.get('giver_model')!r}, expected {' or '.join(GIVER_MODELS)}"
            raise ReplayError(what, store=self.name)
        for key, kind in (("calibrations", list), ("sha256", dict)):
            if not isinstance(self.attrs.get(key), kind):
                raise ReplayError(f"attribute {key!r} is missing or no {kind.__name__}", store=self.name)

    def _read(self, key: str, dtype: str, row: tuple[int, ...]) -> NDArray:
        self._arrays.open(key, dtype, row)
        return self._arrays.read(key)

    def _infos(self) -> Iterator[ReplayInfo]:
        meta = {key: value.tolist() for key, value in self._meta.items() if key != "hand_start"}
        durations = np.diff(self._meta["episode_ends"], prepend=0).tolist()
        training = self._meta["split"] == SPLITS.index("train")
        subjects = set(self._meta["subject"][training].tolist())
        objects = {self.object_names[index] for index in self._meta["object"][training]}
        for i, num_frames in enumerate(durations):
            name, subject, split = self.object_names[meta["object"][i]], meta["subject"][i], SPLITS[meta["split"][i]]
            yield ReplayInfo(
                id=replay_id(subject, name, meta["number"][i]),
                object=name,
                subject=subject,
                side=SIDES[meta["side"][i]],
                split=split,
                kind=trial_kind(split, subject, name, subjects, objects),
                fps=meta["fps"][i],
                num_frames=num_frames,
                grasp_begin=meta["grasp_begin"][i],
                has_demo=meta["has_demo"][i],
                has_giver=meta["has_giver"][i],
            )

    def _load(self, index: int) -> Replay:
        info, meta = self.infos[index], {key: value[index] for key, value in self._meta.items()}
        goals = self._cached_goals(int(meta["goals_begin"]), int(meta["goals_count"]))
        frames = self.frames_of(index)
        keys = [key for key in validate.DATA if key != "hand_state" or info.has_demo]
        arrays = {key: self._arrays.rows(f"data/{key}", frames, info.id) for key in keys}
        free = np.unpackbits(arrays["goal_free"], axis=1, bitorder="little").view(bool)
        beyond = free[:, len(goals) :].any(axis=-1)
        if beyond.any():
            raise ReplayError(
                f"goal beyond the {len(goals)} of this trial",
                store=self.name,
                key="data/goal_free",
                replay=info.id,
                frame=int(beyond.argmax()),
            )
        arrays["goal_free"] = np.ascontiguousarray(free[:, : len(goals)])
        validate.check_frames(arrays, meta["hand_start"], len(goals), store=self.name, replay=info.id)
        return Replay(
            **vars(info),
            object_pose=_unit(torch.from_numpy(arrays["object_pose"].astype(np.float64))),
            giver=torch.from_numpy(arrays["giver"].astype(np.float64)),
            giver_model=self.giver_model,
            hand_start=torch.from_numpy(meta["hand_start"].astype(np.float64)),
            demo=torch.from_numpy(arrays["hand_state"].astype(np.float64)) if info.has_demo else None,
            goal_free=torch.from_numpy(arrays["goal_free"]),
            goal_pose=_unit(goals[:, :7]),
            goal_joints=goals[:, 7:],
            sensors=self.sensors,
            calibration=self.attrs["calibrations"][meta["calibration"]] if meta["calibration"] >= 0 else None,
            load_object=self.object_model,
            load_sensor=lambda name, part: self._load_sensor(name, frames, part, info.id),
        )

    def _load_sensor(self, name: str, frames: slice, part: slice, replay: str) -> torch.Tensor:
        begin, end, step = part.indices(frames.stop - frames.start)
        wanted = slice(frames.start + begin, frames.start + max(begin, end))
        block = self._arrays.read(f"sensors/{name}", wanted, replay)
        rows = torch.from_numpy(block[::step].copy())
        return rows * torch.tensor(validate.CLOUD_UNIT) if name == "cloud" else rows

    def _load_goals(self, begin: int, count: int) -> torch.Tensor:
        goals = self._arrays.rows("goals", slice(begin, begin + count))
        validate.check_goals(goals, "goals", store=self.name)
        return torch.from_numpy(goals.astype(np.float64))

    def _load_model(self, name: str) -> ObjectModel:
        from dexh2r_gym.objects import load_object
        from dexh2r_gym.objects.build import build_object

        key = f"objects/{name}"
        if not self.carries(name):
            with self._arrays.guard(key):
                return load_object(name)
        vertices = self._read(f"{key}/part_vertices", *validate.PART_VERTICES)
        ends = self._read(f"{key}/part_ends", *validate.PART_ENDS)
        validate.check_parts(vertices, ends, key, self.name)
        attrs = self._arrays.attrs(key)
        with self._arrays.guard(key):
            parts = np.split(vertices.astype(np.float64), ends[:-1])
            return build_object(name, parts, mass=float(attrs["mass"]), metadata=attrs["metadata"], recentre=False)


def shipped_stores() -> dict[str, Path]:
    """Stores that come with the package, by name."""
    folder = resources.files("replays")
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".zarr.zip"))
    return {name.removesuffix(".zarr.zip"): Path(str(folder / name)) for name in found}


def _unit(pose: torch.Tensor) -> torch.Tensor:
    """Poses with the rounding error taken off the quaternions."""
    return torch.cat((pose[..., :3], torch.nn.functional.normalize(pose[..., 3:], dim=-1)), dim=-1)
