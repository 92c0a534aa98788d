"""Stores of older versions of the format, turned into the present one.

Version 1 (releases up to 0.1) kept one array of at most 64 goals an object and `data/goal_free` as (N, 64) bool; it had
no hashes, no sensors, no calibration, no trials with goals of their own, and only givers of the open hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.entries import list_entries
from dexh2r_gym.replay.replay import SIDES, SPLITS, ReplayError, Trial
from dexh2r_gym.replay.write import StoredObject, write_store

_ADDED = {"has_giver", "goals_begin", "goals_count", "calibration"}  # keys of `meta` that version 1 did not have
_DATA = validate.DATA | {"goal_free": ("bool", (64,))}
_META = {key: kind for key, kind in validate.META.items() if key not in _ADDED}


def migrate(
    old: str | Path,
    new: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[Iterable[Trial]], Iterable[Trial]] = iter,
) -> Path:
    """Write the trials of a version 1 store as a new store; values do not change.

    Raises:
        ReplayError: if `old` is not a whole and sound store of version 1.
    """
    old = Path(old)
    name = str(old)
    entries = list_entries(old, name)
    try:
        zip_file = old.is_file()
        files = zarr.storage.ZipStore(old, mode="r") if zip_file else zarr.storage.LocalStore(old, read_only=True)
        root = zarr.open_group(files, mode="r", zarr_format=3)
        attrs: dict[str, Any] = dict(root.attrs)
        if (attrs.get("format"), attrs.get("version")) != (validate.FORMAT, 1):
            found = f"{attrs.get('format')!r}, version {attrs.get('version')!r}"
            raise ReplayError(f"expected {validate.FORMAT!r}, version 1; found {found}", store=name)
        validate.check_names(attrs.get("objects"), name)

        def read(key: str, dtype: str, row: tuple[int, ...]) -> np.ndarray:
            if key not in entries:
                raise ReplayError("missing", store=name, key=key)
            validate.check_array(root[key], key, dtype, row, entries[key], name)
            return np.asarray(root[key][:])  # type: ignore[index]

        data = {key: read(f"data/{key}", *kind) for key, kind in _DATA.items()}
        meta = {key: read(f"meta/{key}", *kind) for key, kind in _META.items()}
        objects = {}
        for item in attrs["objects"]:
            key = f"objects/{item}"
            goals = read(f"{key}/goals", *validate.GOALS)
            objects[item] = StoredObject(goals)
            if f"{key}/part_vertices" in entries:
                ends = read(f"{key}/part_ends", *validate.PART_ENDS)
                parts = np.split(read(f"{key}/part_vertices", *validate.PART_VERTICES), ends[:-1])
                own: dict[str, Any] = dict(root[key].attrs)
                objects[item] = StoredObject(goals, parts, own["mass"], own["metadata"])
        return write_store(
            new,
            _trials(data, meta, objects, name),
            objects,
            licence=attrs["licence"],
            provenance=attrs["provenance"],
            seed=attrs["seed"],
            resolution=None,
            overwrite=overwrite,
            progress=progress,
        )
    except (ReplayError, FileExistsError):
        raise
    except Exception as error:
        reason = f"cannot be read, damaged or incomplete ({type(error).__name__}: {error})"
        raise ReplayError(reason, store=name) from error


def _trials(
    data: dict[str, np.ndarray], meta: dict[str, np.ndarray], objects: dict[str, StoredObject], store: str
) -> Iterator[Trial]:
    names = list(objects)
    lengths = {len(value) for value in data.values()}, {len(value) for value in meta.values()}
    if max(map(len, lengths)) > 1 or meta["episode_ends"][-1] != len(data["giver"]):
        raise ReplayError("arrays of different lengths", store=store)
    begin = 0
    for i, end in enumerate(meta["episode_ends"].tolist()):
        frames = slice(begin, end)
        begin = end
        name = names[meta["object"][i]]
        goals = objects[name].goals
        assert goals is not None
        yield Trial(
            subject=int(meta["subject"][i]),
            object=name,
            side=SIDES[meta["side"][i]],
            split=SPLITS[meta["split"][i]],
            fps=float(meta["fps"][i]),
            object_pose=data["object_pose"][frames],
            giver=data["giver"][frames],
            hand_start=meta["hand_start"][i],
            goal_free=data["goal_free"][frames, : len(goals)],
            demo=data["hand_state"][frames] if meta["has_demo"][i] else None,
            grasp_begin=int(meta["grasp_begin"][i]),
            number=int(meta["number"][i]),
        )
