"""Writing a store: all or nothing, and the same bytes for the same trials."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.replay import SIDES, SPLITS, ReplayError, Trial, replay_id

CHUNK_FRAMES = 2048
LEVEL = 5  # of zstd; 9 would save 5% and take ten times as long
RESOLUTION = 2.0**-18  # metres, radians: 4 micrometres, far below what any recording resolves


@dataclass(frozen=True, eq=False)
class StoredObject:
    """An object as a store carries it: its goal grasps and, unless the built-in library has it, its geometry."""

    goals: NDArray[np.floating]  # (G, 29) palm pose in the object frame, joints; 1 to 64 of them
    parts: Sequence[NDArray[np.floating]] | None = None  # vertices (V_i, 3) of the convex parts, metres, object frame
    mass: float | None = None  # kg, with parts
    metadata: Mapping[str, Any] = field(default_factory=dict)  # with parts: licence, source ...; what json can hold


def write_store(
    path: str | Path,
    trials: Iterable[Trial],
    objects: Mapping[str, StoredObject],
    *,
    licence: str,
    provenance: Mapping[str, Any],
    seed: int | None = None,
    resolution: float | None = RESOLUTION,
    overwrite: bool = False,
    progress: Callable[[Iterable[Trial]], Iterable[Trial]] = iter,
) -> Path:
    """Write trials to a store: one file if `path` ends in `.zip`, else a folder.

    Trials are checked as they come. They are written beside `path` and moved there when complete, so `path` never holds
    a part of a store. Equal trials give equal bytes.

    Args:
        trials: in the order they shall have; may be a generator.
        objects: every object that the trials name, in the order they shall have.
        licence: of the data, as an SPDX name or a sentence.
        provenance: how and from what the data was made; what json can hold.
        seed: of the generator, where there was one.
        resolution: frames are rounded to multiples of it, which makes the store a third smaller; None keeps every bit
            of float32. Best a power of two.
        overwrite: replace a store at `path`; without it an existing path is an error.
        progress: wraps the trials, for instance `tqdm`.

    Returns:
        The path.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another path or say overwrite")
    validate.check_names(list(objects))
    for name, item in objects.items():
        validate.check_goals(np.asarray(item.goals), f"objects/{name}/goals")
    columns = _collect(progress(trials), objects, resolution)
    attrs = {
        "format": validate.FORMAT,
        "version": validate.VERSION,
        "objects": list(objects),
        "licence": licence,
        "provenance": dict(provenance),
        "seed": seed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        built = Path(folder, "store")
        _write_folder(built, columns, objects, attrs)
        if path.suffix == ".zip":
            packed = Path(folder, "packed")
            _pack(built, packed)
            built = packed
        if path.is_dir():
            path.rename(Path(folder, "old"))
        os.replace(built, path)
    return path


def _collect(
    trials: Iterable[Trial], objects: Mapping[str, StoredObject], resolution: float | None
) -> dict[str, NDArray]:
    """Check trials and put their rows one after the other, by key of the store."""
    names = list(objects)
    columns: dict[str, list] = defaultdict(list)
    taken: Counter[tuple[int, str]] = Counter()
    ids: set[str] = set()
    frames = 0
    for trial in trials:
        if trial.object not in objects:
            raise ReplayError(f"trial {len(ids)} has object {trial.object!r}; objects given: {', '.join(names)}")
        number = taken[trial.subject, trial.object] if trial.number is None else trial.number
        taken[trial.subject, trial.object] += 1
        id = replay_id(trial.subject, trial.object, number)
        if id in ids:
            raise ReplayError("more than one trial of this id", key="meta/number", replay=id)
        ids.add(id)
        for what, allowed in (("side", SIDES), ("split", SPLITS)):
            if getattr(trial, what) not in allowed:
                raise ReplayError(f"unknown {what} {getattr(trial, what)!r}; one of {', '.join(allowed)}", replay=id)
        goals = len(objects[trial.object].goals)
        arrays: dict[str, Any] = {"object_pose": trial.object_pose, "giver": trial.giver, "goal_free": trial.goal_free}
        if trial.demo is not None:
            arrays["hand_state"] = trial.demo
        arrays = {key: _rounded(np.asarray(value), validate.DATA[key][0], resolution) for key, value in arrays.items()}
        hand_start = np.asarray(trial.hand_start, dtype=np.float32)
        validate.check_frames(arrays, hand_start, goals, replay=id)
        num_frames = len(arrays["object_pose"])
        frames += num_frames
        arrays.setdefault("hand_state", np.zeros((num_frames, *validate.DATA["hand_state"][1]), np.float32))
        arrays["goal_free"] = np.pad(arrays["goal_free"], ((0, 0), (0, validate.MAX_GOALS - goals)))
        for key, value in arrays.items():
            columns[f"data/{key}"].append(value)
        row = {
            "episode_ends": frames,
            "subject": trial.subject,
            "object": names.index(trial.object),
            "number": number,
            "side": SIDES.index(trial.side),
            "split": SPLITS.index(trial.split),
            "fps": trial.fps,
            "grasp_begin": trial.grasp_begin,
            "has_demo": trial.demo is not None,
            "hand_start": hand_start,
        }
        for key, value in row.items():
            columns[f"meta/{key}"].append(value)
    if not frames:
        raise ReplayError("no trial to write")
    table = {key: np.concatenate(columns.pop(key)) for key in [f"data/{key}" for key in validate.DATA]}
    meta = {key: np.asarray(columns[f"meta/{key}"], dtype=kind[0]) for key, kind in validate.META.items()}
    validate.check_meta(meta, frames, names, "trials to write")
    return table | {f"meta/{key}": value for key, value in meta.items()}


def _rounded(value: NDArray, dtype: str, resolution: float | None) -> NDArray:
    if resolution is not None and dtype == "float32":
        value = np.round(value.astype(np.float64) / resolution) * resolution
    return value.astype(dtype)


def _write_folder(
    folder: Path, columns: Mapping[str, NDArray], objects: Mapping[str, StoredObject], attrs: dict[str, Any]
) -> None:
    root = zarr.create_group(folder, zarr_format=3, attributes=attrs)
    for key, value in columns.items():
        _write_array(root, key, value)
    for name, item in objects.items():
        key = f"objects/{name}"
        _write_array(root, f"{key}/goals", np.asarray(item.goals, dtype=np.float32))
        if item.parts is not None:
            parts = [np.asarray(part, dtype=np.float32) for part in item.parts]
            _write_array(root, f"{key}/part_vertices", np.concatenate(parts))
            _write_array(root, f"{key}/part_ends", np.cumsum([len(part) for part in parts], dtype=np.int64))
            root[key].attrs.update({"mass": item.mass, "metadata": dict(item.metadata)})


def _write_array(root: zarr.Group, key: str, value: NDArray) -> None:
    """Compressed, with a checksum a chunk; chunks of zeros are written too, so that one that is missing is noticed."""
    root.create_array(
        key,
        data=value,
        chunks=(min(len(value), CHUNK_FRAMES), *value.shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=LEVEL), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def _pack(folder: Path, target: Path) -> None:
    """Zip a folder without compressing again: sorted names, one fixed time, so that equal content gives equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for entry in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            info = zipfile.ZipInfo(entry.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            file.writestr(info, entry.read_bytes())
