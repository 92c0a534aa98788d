"""Stores of older versions of the format, turned into the present one.

Version 1 (releases up to 0.1) kept one array of at most 64 goals an object and `data/goal_free` as (N, 64) bool; it had
no hashes, no sensors, no calibration, no trials with goals of their own, and only givers of the open hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.arrays import StoreArrays
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
    name = str(old)
    arrays = StoreArrays(Path(old), name)
    attrs = arrays.attrs()
    if (attrs.get("format"), attrs.get("version")) != (validate.FORMAT, 1):
        found = f"{attrs.get('format')!r}, version {attrs.get('version')!r}"
        raise ReplayError(f"expected {validate.FORMAT!r}, version 1; found {found}", store=name)
    validate.check_names(attrs.get("objects"), name)

    def read(key: str, dtype: str, row: tuple[int, ...]) -> np.ndarray:
        arrays.open(key, dtype, row)
        return arrays.read(key)

    data = {key: read(f"data/{key}", *kind) for key, kind in _DATA.items()}
    meta = {key: read(f"meta/{key}", *kind) for key, kind in _META.items()}
    objects = {}
    for item in attrs["objects"]:
        key = f"objects/{item}"
        objects[item] = StoredObject(read(f"{key}/goals", *validate.GOALS))
        if f"{key}/part_vertices" in arrays:
            ends = read(f"{key}/part_ends", *validate.PART_ENDS)
            vertices = read(f"{key}/part_vertices", *validate.PART_VERTICES)
            validate.check_parts(vertices, ends, key, name)
            own = arrays.attrs(key)
            with arrays.guard(key):
                geometry = (np.split(vertices, ends[:-1]), own["mass"], own["metadata"])
            objects[item] = StoredObject(objects[item].goals, *geometry)
    with arrays.guard(""):
        about = {key: attrs[key] for key in ("licence", "provenance", "seed")}
    trials = _trials(data, meta, objects, name)
    return write_store(new, trials, objects, **about, resolution=None, overwrite=overwrite, progress=progress)


def _trials(
    data: dict[str, np.ndarray], meta: dict[str, np.ndarray], objects: dict[str, StoredObject], store: str
) -> Iterator[Trial]:
    names = list(objects)
    lengths = {len(value) for value in data.values()}, {len(value) for value in meta.values()}
    if max(map(len, lengths)) > 1 or meta["episode_ends"][-1:].tolist() != [len(data["giver"])]:
        raise ReplayError("arrays of different lengths", store=store)
    for key, values in (("object", names), ("side", SIDES), ("split", SPLITS)):
        if not ((meta[key] >= 0) & (meta[key] < len(values))).all():
            raise ReplayError(
                f"allowed: 0 to {len(values) - 1}; found {meta[key].tolist()}", store=store, key=f"meta/{key}"
            )
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
