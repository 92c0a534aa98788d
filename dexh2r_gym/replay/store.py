"""The store of replays: zarr v3, a folder or a `.zarr.zip`, read lazily.

Frames of all trials are concatenated in `data/`, `meta/` has one row a trial and `meta/episode_ends` (as
diffusion-policy datasets do), `objects/<name>/` has the goal grasps of an object and, if it is not of the built-in
library, its geometry. Keys, dtypes and shapes are listed in `dexh2r_gym.replay.validate`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
import zarr.storage
from numpy.typing import NDArray

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.entries import list_entries
from dexh2r_gym.replay.replay import SIDES, SPLITS, Replay, ReplayError, ReplayInfo, UnknownReplayError, replay_id
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
        self._entries = list_entries(self.path, self.name)
        with self._guard(""):
            zip_file = self.path.is_file()
            self._zarr = (
                zarr.storage.ZipStore(self.path, mode="r")
                if zip_file
                else zarr.storage.LocalStore(self.path, read_only=True)
            )
            self._root = zarr.open_group(self._zarr, mode="r", zarr_format=3)
        self.attrs: dict[str, Any] = dict(self._root.attrs)
        self._check_format()
        self.object_names: tuple[str, ...] = tuple(self.attrs["objects"])
        self._data = {key: self._array(f"data/{key}", *kind) for key, kind in validate.DATA.items()}
        lengths = {key: array.shape[0] for key, array in self._data.items()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise ReplayError(f"frames of different lengths: {listed}", store=self.name, key="data")
        arrays = {key: self._array(f"meta/{key}", *kind) for key, kind in validate.META.items()}
        self._meta = {key: self._read(array, f"meta/{key}") for key, array in arrays.items()}
        validate.check_meta(self._meta, lengths["object_pose"], list(self.object_names), self.name)
        self._goals = {name: self._array(f"objects/{name}/goals", *validate.GOALS) for name in self.object_names}
        self.infos: tuple[ReplayInfo, ...] = tuple(self._infos())
        self._by_id = {info.id: index for index, info in enumerate(self.infos)}
        if len(self._by_id) != len(self.infos):
            twice = next(info.id for index, info in enumerate(self.infos) if self._by_id[info.id] != index)
            raise ReplayError("more than one trial of this id", store=self.name, key="meta/number", replay=twice)
        self._cached = lru_cache(CACHED_REPLAYS)(self._load)
        self._cached_goals = lru_cache(None)(self._load_goals)
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

    def check(self, progress: Callable[[Iterator[int]], Iterator[int]] = iter) -> None:
        """Read and check every replay and goal; raises ReplayError at the first bad one. `progress` may be tqdm."""
        for name in self.object_names:
            self._cached_goals(name)
        for index in progress(iter(range(len(self)))):
            self._load(index)

    def _check_format(self) -> None:
        found, version, names = (self.attrs.get(key) for key in ("format", "version", "objects"))
        if found != validate.FORMAT:
            raise ReplayError(
                f"not a store of replays: format is {found!r}, expected {validate.FORMAT!r}", store=self.name
            )
        if version != validate.VERSION:
            raise ReplayError(
                f"version {version!r} of the format, this release reads {validate.VERSION}", store=self.name
            )
        validate.check_names(names, self.name)

    @contextmanager
    def _guard(self, key: str, replay: str | None = None) -> Iterator[None]:
        """Whatever a damaged file makes the libraries below raise is reported as a ReplayError of this key."""
        try:
            yield
        except ReplayError:
            raise
        except Exception as error:
            reason = f"cannot be read, damaged or incomplete ({type(error).__name__}: {error})"
            raise ReplayError(reason, store=self.name, key=key, replay=replay) from error

    def _array(self, key: str, dtype: str, row: tuple[int, ...]) -> zarr.Array:
        if key not in self._entries:
            raise ReplayError("missing", store=self.name, key=key)
        with self._guard(key):
            array = self._root[key]
        validate.check_array(array, key, dtype, row, self._entries[key], self.name)
        return array  # type: ignore[return-value]

    def _read(self, array: zarr.Array, key: str, rows: slice = slice(None), replay: str | None = None) -> NDArray:
        with self._guard(key, replay):
            return np.asarray(array[rows])

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
            )

    def _load(self, index: int) -> Replay:
        info = self.infos[index]
        goals = self._cached_goals(info.object)
        end = int(self._meta["episode_ends"][index])
        frames = slice(end - info.num_frames, end)
        keys = [key for key in validate.DATA if key != "hand_state" or info.has_demo]
        arrays = {key: self._read(self._data[key], f"data/{key}", frames, info.id) for key in keys}
        beyond = arrays["goal_free"][:, len(goals) :].any(axis=-1)
        if beyond.any():
            raise ReplayError(
                f"goal beyond the {len(goals)} of {info.object}",
                store=self.name,
                key="data/goal_free",
                replay=info.id,
                frame=int(beyond.argmax()),
            )
        arrays["goal_free"] = arrays["goal_free"][:, : len(goals)]
        hand_start = self._meta["hand_start"][index]
        validate.check_frames(arrays, hand_start, len(goals), store=self.name, replay=info.id)
        return Replay(
            **vars(info),
            object_pose=_unit(torch.from_numpy(arrays["object_pose"].astype(np.float64))),
            giver=torch.from_numpy(arrays["giver"].astype(np.float64)),
            hand_start=torch.from_numpy(hand_start.astype(np.float64)),
            demo=torch.from_numpy(arrays["hand_state"].astype(np.float64)) if info.has_demo else None,
            goal_free=torch.from_numpy(np.ascontiguousarray(arrays["goal_free"])),
            goal_pose=_unit(goals[:, :7]),
            goal_joints=goals[:, 7:],
            load_object=self.object_model,
        )

    def _load_goals(self, name: str) -> torch.Tensor:
        key = f"objects/{name}/goals"
        goals = self._read(self._goals[name], key)
        validate.check_goals(goals, key, store=self.name)
        return torch.from_numpy(goals.astype(np.float64))

    def _load_model(self, name: str) -> ObjectModel:
        from dexh2r_gym.objects import load_object
        from dexh2r_gym.objects.build import build_object

        key = f"objects/{name}"
        if f"{key}/part_vertices" not in self._entries:
            with self._guard(key):
                return load_object(name)
        vertices = self._read(self._array(f"{key}/part_vertices", *validate.PART_VERTICES), f"{key}/part_vertices")
        ends = self._read(self._array(f"{key}/part_ends", *validate.PART_ENDS), f"{key}/part_ends")
        validate.check_parts(vertices, ends, key, self.name)
        with self._guard(key):
            attrs: dict[str, Any] = dict(self._root[key].attrs)
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
