"""Writing a store: all or nothing, trial by trial, and the same bytes for the same trials."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.columns import Column
from dexh2r_gym.replay.replay import GIVER_MODELS, SIDES, SPLITS, ReplayError, Trial, replay_id

RESOLUTION = 2.0**-18  # metres, radians: 4 micrometres, far below what any recording resolves


@dataclass(frozen=True, eq=False)
class StoredObject:
    """An object as a store carries it: its goal grasps and, unless the built-in library has it, its geometry."""

    goals: NDArray[np.floating] | None = None  # (G, 29) palm pose in the object frame, joints; 1 to 512 of them.
    # None: each of its trials brings its own
    parts: Sequence[NDArray[np.floating]] | None = None  # vertices (V_i, 3) of the convex parts, metres, object frame
    mass: float | None = None  # kg, with parts
    metadata: Mapping[str, Any] = field(default_factory=dict)  # with parts: licence, source ...; what json can hold


def free_path(path: str | Path, overwrite: bool) -> Path:
    """A path to write to; FileExistsError if something is there that may not be replaced."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another path or say overwrite")
    return path


def write_store(
    path: str | Path,
    trials: Iterable[Trial],
    objects: Mapping[str, StoredObject],
    *,
    licence: str,
    provenance: Mapping[str, Any],
    seed: int | None = None,
    giver_model: str = "open",
    resolution: float | None = RESOLUTION,
    overwrite: bool = False,
    progress: Callable[[Iterable[Trial]], Iterable[Trial]] = iter,
) -> Path:
    """Write trials to a store: one file if `path` ends in `.zip`, else a folder.

    Trials are checked and written as they come, beside `path`, and the whole is moved there when complete: `path` never
    holds a part of a store, and no more than a few trials are in memory. Equal trials give equal bytes.

    Args:
        trials: in the order they shall have; may be a generator.
        objects: every object that the trials name, in the order they shall have.
        licence: of the data, as an SPDX name or a sentence.
        provenance: how and from what the data was made; what json can hold. Read when all trials have come.
        seed: of the generator, where there was one.
        giver_model: whose 61 numbers the givers' are, "open" or "mano" (see `dexh2r_gym.giver`).
        resolution: frames are rounded to multiples of it, which makes the store a third smaller; None keeps every bit
            of float32. Best a power of two.
        overwrite: replace a store at `path`; without it an existing path is an error.
        progress: wraps the trials, for instance `tqdm`.

    Returns:
        The path.
    """
    path = free_path(path, overwrite)
    if giver_model not in GIVER_MODELS:
        raise ValueError(f"unknown giver_model {giver_model!r}; one of {', '.join(GIVER_MODELS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        built = Path(folder, "store")
        writer = _Writer(built, objects, resolution)
        for trial in progress(trials):
            writer.add(trial)
        attrs = {"licence": licence, "provenance": dict(provenance), "seed": seed, "giver_model": giver_model}
        writer.close(attrs)
        if path.suffix == ".zip":
            packed = Path(folder, "packed")
            _pack(built, packed)
            built = packed
        if path.is_dir():
            path.rename(Path(folder, "old"))
        os.replace(built, path)
    return path


class _Writer:
    """A store under construction, as a folder."""

    def __init__(self, folder: Path, objects: Mapping[str, StoredObject], resolution: float | None) -> None:
        validate.check_names(list(objects))
        self._resolution = resolution
        self._objects = objects
        self._names = list(objects)
        self._root = zarr.create_group(folder, zarr_format=3)
        self._columns = {f"data/{key}": Column(self._root, f"data/{key}", *kind) for key, kind in validate.DATA.items()}
        self._goals = self._columns["goals"] = Column(self._root, "goals", *validate.GOALS)
        self._sensors: set[str] = set()
        self._meta: dict[str, list] = {key: [] for key in validate.META}
        self._taken: Counter[tuple[int, str]] = Counter()
        self._ids: set[str] = set()
        self._calibrations: list[str] = []
        self._own: dict[str, tuple[int, int]] = {}  # object -> first row and number of its goals
        for name, item in objects.items():
            if item.goals is not None:
                self._own[name] = self._add_goals(item.goals, f"objects/{name}/goals")
            if item.parts is not None:
                parts = [np.asarray(part, dtype=np.float32) for part in item.parts]
                self._write(f"objects/{name}/part_vertices", np.concatenate(parts))
                ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
                self._write(f"objects/{name}/part_ends", ends)
                self._root[f"objects/{name}"].attrs.update({"mass": item.mass, "metadata": dict(item.metadata)})

    def add(self, trial: Trial) -> None:
        """Check one trial and write its rows."""
        if trial.object not in self._objects:
            listed = ", ".join(self._names)
            raise ReplayError(f"trial {len(self._ids)} has object {trial.object!r}; objects given: {listed}")
        number = self._taken[trial.subject, trial.object] if trial.number is None else trial.number
        self._taken[trial.subject, trial.object] += 1
        id = replay_id(trial.subject, trial.object, number)
        if id in self._ids:
            raise ReplayError("more than one trial of this id", key="meta/number", replay=id)
        for what, allowed in (("side", SIDES), ("split", SPLITS)):
            if getattr(trial, what) not in allowed:
                raise ReplayError(f"unknown {what} {getattr(trial, what)!r}; one of {', '.join(allowed)}", replay=id)
        if trial.goals is not None:
            begin, count = self._add_goals(trial.goals, f"goals of {id}")
        elif trial.object in self._own:
            begin, count = self._own[trial.object]
        else:
            raise ReplayError(f"neither the trial nor its object {trial.object!r} has goal grasps", replay=id)
        hand_start = np.asarray(trial.hand_start, dtype=np.float32)
        for key, rows in self._frames(trial, id, hand_start, count).items():
            self._columns[key].append(rows)
        self._add_sensors(trial, id)
        self._ids.add(id)
        row = {
            "episode_ends": self._columns["data/object_pose"].length,
            "subject": trial.subject,
            "object": self._names.index(trial.object),
            "number": number,
            "side": SIDES.index(trial.side),
            "split": SPLITS.index(trial.split),
            "fps": trial.fps,
            "grasp_begin": trial.grasp_begin,
            "has_demo": trial.demo is not None,
            "has_giver": trial.has_giver,
            "hand_start": hand_start,
            "goals_begin": begin,
            "goals_count": count,
            "calibration": self._add_calibration(trial.calibration),
        }
        for key, value in row.items():
            self._meta[key].append(value)

    def close(self, attrs: dict[str, Any]) -> None:
        """Write what is left; `attrs` are joined with those that follow from the trials."""
        if not self._ids:
            raise ReplayError("no trial to write")
        meta = {key: np.asarray(self._meta[key], dtype=kind[0]) for key, kind in validate.META.items()}
        frames, goals = self._columns["data/object_pose"].length, self._goals.length
        validate.check_meta(meta, frames, self._names, goals, len(self._calibrations), "trials to write")
        for key, value in meta.items():
            self._write(f"meta/{key}", value)
        own: dict[str, Any] = {
            "format": validate.FORMAT,
            "version": validate.VERSION,
            "objects": self._names,
            "calibrations": [json.loads(text) for text in self._calibrations],
            "sha256": {key: column.close() for key, column in sorted(self._columns.items())},
        }
        self._root.attrs.update(own | attrs)

    def _write(self, key: str, value: NDArray) -> None:
        column = self._columns[key] = Column(self._root, key, str(value.dtype), value.shape[1:])
        column.append(value)

    def _add_goals(self, goals: NDArray, key: str) -> tuple[int, int]:
        rows = np.asarray(goals, dtype=np.float32)
        validate.check_goals(rows, key)
        self._goals.append(rows)
        return self._goals.length - len(rows), len(rows)

    def _add_calibration(self, calibration: Mapping[str, Any] | None) -> int:
        if calibration is None:
            return -1
        text = json.dumps(calibration, sort_keys=True)
        if text not in self._calibrations:
            self._calibrations.append(text)
        return self._calibrations.index(text)

    def _frames(self, trial: Trial, id: str, hand_start: NDArray, num_goals: int) -> dict[str, NDArray]:
        num_frames = len(trial.object_pose)
        free = np.ones((num_frames, num_goals), bool) if trial.goal_free is None else np.asarray(trial.goal_free, bool)
        arrays = {"object_pose": self._rounded(trial.object_pose), "giver": self._rounded(trial.giver)}
        if trial.demo is not None:
            arrays["hand_state"] = self._rounded(trial.demo)
        validate.check_frames(arrays | {"goal_free": free}, hand_start, num_goals, replay=id)
        arrays.setdefault("hand_state", np.zeros((num_frames, *validate.DATA["hand_state"][1]), np.float32))
        whole = np.pad(free, ((0, 0), (0, validate.MAX_GOALS - num_goals)))
        arrays["goal_free"] = np.packbits(whole, axis=1, bitorder="little")
        return {f"data/{key}": value for key, value in arrays.items()}

    def _rounded(self, value: Any) -> NDArray:
        value = np.asarray(value)
        if self._resolution is not None:
            value = np.round(value.astype(np.float64) / self._resolution) * self._resolution
        return value.astype(np.float32)

    def _add_sensors(self, trial: Trial, id: str) -> None:
        if not self._ids:
            self._sensors = set(trial.sensors)
        if set(trial.sensors) != self._sensors:
            had, has = (", ".join(sorted(s)) or "none" for s in (self._sensors, set(trial.sensors)))
            raise ReplayError(f"sensors {has}, but trials before it have {had}", key="sensors", replay=id)
        for name, rows in trial.sensors.items():
            key = f"sensors/{name}"
            rows = validate.sensor_rows(name, np.asarray(rows), len(trial.object_pose), replay=id)
            if key not in self._columns:
                self._columns[key] = Column(self._root, key, str(rows.dtype), rows.shape[1:])
            if rows.shape[1:] != (before := self._columns[key].row):
                raise ReplayError(f"rows {rows.shape[1:]}, in trials before it {before}", key=key, replay=id)
            self._columns[key].append(rows)


def _pack(folder: Path, target: Path) -> None:
    """Zip a folder without compressing again: sorted names, one fixed time, so that equal content gives equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for entry in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            info = zipfile.ZipInfo(entry.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            file.writestr(info, entry.read_bytes())
