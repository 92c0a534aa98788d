"""What a store must hold, key by key, and the checks that every replay passes before anything else sees it.

`check_array` needs only metadata and is done when a store is opened; `check_frames` is done when a replay is read or
written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import SIDES, SPLITS, ReplayError
from dexh2r_gym.types import HAND_STATE_SIZE, MANO_SIZE, NUM_JOINTS

FORMAT, VERSION = "dexh2r-replays", 2
MAX_GOALS = 512
GOAL_SIZE = 7 + NUM_JOINTS  # palm pose in the object frame, joints
MAX_CHUNK_BYTES = 64 << 20  # of one decoded chunk
MAX_FRAMES = 100_000  # of one replay: almost an hour at 30 Hz
LARGEST = 100.0  # no number of a trial (metres, radians, MANO shape) is larger
UNIT_TOLERANCE = 1e-3

# Per frame, key -> (dtype, shape of a row).
DATA: dict[str, tuple[str, tuple[int, ...]]] = {
    "object_pose": ("float32", (7,)),
    "giver": ("float32", (MANO_SIZE,)),
    "hand_state": ("float32", (HAND_STATE_SIZE,)),
    "goal_free": ("uint8", (MAX_GOALS // 8,)),  # one bit a goal, goal 0 in the lowest bit of byte 0
}
# Per frame, where it was recorded: dtype and number of axes of a row. A cloud is in units of CLOUD_UNIT.
SENSORS: dict[str, tuple[str, int]] = {"cloud": ("int16", 2), "depth": ("uint16", 3), "image": ("uint8", 4)}
CLOUD_UNIT = 1e-4  # m
CLOUD_REACH = CLOUD_UNIT * np.iinfo(np.int16).max  # m: no point is further from the world's origin, along x, y or z
# Per trial.
META: dict[str, tuple[str, tuple[int, ...]]] = {
    "episode_ends": ("int64", ()),
    "subject": ("int32", ()),
    "object": ("int32", ()),
    "number": ("int32", ()),
    "side": ("uint8", ()),
    "split": ("uint8", ()),
    "fps": ("float32", ()),
    "grasp_begin": ("int32", ()),
    "has_demo": ("bool", ()),
    "has_giver": ("bool", ()),
    "hand_start": ("float32", (HAND_STATE_SIZE,)),
    "goals_begin": ("int64", ()),  # first row of the trial's goals in `goals`; trials may share rows
    "goals_count": ("int32", ()),
    "calibration": ("int32", ()),  # index into the attribute `calibrations`, -1: none
}
GOALS = ("float32", (GOAL_SIZE,))  # goal grasps of all objects and trials, object frame
# Geometry of objects that are not of the built-in library.
PART_VERTICES = ("float32", (3,))  # convex parts' vertices, one part after the other, object frame
PART_ENDS = ("int64", ())  # where each part ends in part_vertices


def check_array(array, key: str, dtype: str, row: tuple[int, ...] | int, sizes: Mapping[str, int], store: str) -> None:
    """Check an array's metadata and that all of its chunks are there. `row`: the shape of a row, or its number of axes.

    zarr reads a missing chunk as zeros without a word, so the chunks are compared with the entries that are really
    there (`sizes`: bytes of each, by name below the array), before anything is allocated.
    """
    if not hasattr(array, "chunks"):
        raise ReplayError("is a group, expected an array", store=store, key=key)
    found = tuple(array.shape[1:]) if isinstance(row, tuple) else len(array.shape) - 1
    if str(array.dtype) != dtype or len(array.shape) == 0 or found != row:
        sizes_of_row = map(str, row) if isinstance(row, tuple) else ("any",) * row
        expected = f"{dtype} ({', '.join(['N', *sizes_of_row])}{'' if row else ','})"
        raise ReplayError(f"expected {expected}, found {array.dtype} {tuple(array.shape)}", store=store, key=key)
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise ReplayError(f"chunks of {chunk_bytes} bytes, at most {MAX_CHUNK_BYTES} allowed", store=store, key=key)
    if array.shards is not None:
        raise ReplayError("sharded arrays are not supported", store=store, key=key)
    if array.chunks[1:] != array.shape[1:]:
        raise ReplayError(f"chunks of shape {array.chunks}, expected whole rows", store=store, key=key)
    count = -(-array.shape[0] // array.chunks[0])
    for index in range(count):  # ends at the first one missing, however many the metadata claim
        name = array.metadata.encode_chunk_key((index, *[0] * (len(array.shape) - 1)))
        if name not in sizes:
            raise ReplayError(f"chunk missing, number {index} of {count}", store=store, key=f"{key}/{name}")
        if not 0 < sizes[name] <= chunk_bytes + 4096:
            raise ReplayError(f"{sizes[name]} bytes for a chunk of {chunk_bytes}", store=store, key=f"{key}/{name}")


def check_names(names: Any, store: str | None = None) -> None:
    """Check the list of objects' names: each once, and fit to be a part of a replay's id and of a path."""
    wrong = not isinstance(names, list) or len(set(map(repr, names))) != len(names)
    if wrong or not all(isinstance(name, str) and name.strip(". ") and "/" not in name for name in names):
        raise ReplayError(f"attribute 'objects' must list names without '/', each once; found {names!r}", store=store)


def check_meta(
    meta: Mapping[str, NDArray],
    num_frames: int,
    object_names: Sequence[str],
    num_goals: int,
    num_calibrations: int,
    store: str,
) -> None:
    """Check the values of all `meta` arrays, for `num_frames` frames in `data` and so many rows of `goals`."""
    lengths = {key: len(value) for key, value in meta.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
        raise ReplayError(f"arrays of different lengths: {listed}", store=store, key="meta")
    ends = meta["episode_ends"]
    if len(ends) == 0:
        raise ReplayError("no trial", store=store, key="meta/episode_ends")
    durations = np.diff(ends, prepend=0)
    if bad := _first(durations < 2):
        raise ReplayError(
            f"trial {bad[0]} ends at frame {ends[bad[0]]}, less than 2 frames after it began",
            store=store,
            key="meta/episode_ends",
        )
    if bad := _first(durations > MAX_FRAMES):
        raise ReplayError(
            f"trial {bad[0]} has {durations[bad[0]]} frames, at most {MAX_FRAMES}", store=store, key="meta/episode_ends"
        )
    if ends[-1] != num_frames:
        raise ReplayError(
            f"ends at frame {ends[-1]}, but data has {num_frames} frames", store=store, key="meta/episode_ends"
        )
    first, count = meta["goals_begin"], meta["goals_count"]
    ranges: list[tuple[str, NDArray[np.bool_], str]] = [
        ("subject", meta["subject"] < 0, "at least 0"),
        ("number", meta["number"] < 0, "at least 0"),
        ("object", (meta["object"] < 0) | (meta["object"] >= len(object_names)), f"0 to {len(object_names) - 1}"),
        ("side", meta["side"] >= len(SIDES), "0 (right) or 1 (left)"),
        ("split", meta["split"] >= len(SPLITS), "0 (train), 1 (validation) or 2 (test)"),
        ("fps", ~((meta["fps"] > 0) & (meta["fps"] <= 1000)), "above 0 and up to 1000"),
        ("grasp_begin", (meta["grasp_begin"] < -1) | (meta["grasp_begin"] >= durations), "-1 or a frame of the trial"),
        ("goals_count", (count < 1) | (count > MAX_GOALS), f"1 to {MAX_GOALS}"),
        ("goals_begin", (first < 0) | (first > num_goals - count), f"rows that exist, of {num_goals}"),
        (
            "calibration",
            (meta["calibration"] < -1) | (meta["calibration"] >= num_calibrations),
            f"-1 to {num_calibrations - 1}",
        ),
    ]
    for key, wrong, allowed in ranges:
        if bad := _first(wrong):
            raise ReplayError(
                f"trial {bad[0]} has {meta[key][bad[0]]}, allowed: {allowed}", store=store, key=f"meta/{key}"
            )


def check_frames(
    arrays: Mapping[str, NDArray],
    hand_start: NDArray,
    num_goals: int,
    *,
    store: str | None = None,
    replay: str | None = None,
) -> None:
    """Check one trial's frames: `arrays` holds every key of `DATA`, `hand_state` only if there is a demonstration,
    `goal_free` unpacked, (T, num_goals) bool.

    Raises ReplayError naming key and frame on: wrong shapes, frames of different lengths, numbers that are not finite
    or beyond `LARGEST`, quaternions whose norm is not 1, goals beyond the object's pool.
    """
    num_frames = len(arrays["object_pose"])
    for key, array in arrays.items():
        row = (num_goals,) if key == "goal_free" else DATA[key][1]
        if array.shape[1:] != row:
            raise ReplayError(
                f"expected shape (T, {row[0]}), found {array.shape}", store=store, key=f"data/{key}", replay=replay
            )
        if len(array) != num_frames:
            raise ReplayError(
                f"{len(array)} frames, but object_pose has {num_frames}", store=store, key=f"data/{key}", replay=replay
            )
        if key != "goal_free":
            _check_numbers(array, f"data/{key}", store, replay)
    if hand_start.shape != (HAND_STATE_SIZE,):
        raise ReplayError(
            f"expected shape (28,), found {hand_start.shape}", store=store, key="meta/hand_start", replay=replay
        )
    _check_numbers(hand_start[None], "meta/hand_start", store, replay)
    norm = np.linalg.norm(arrays["object_pose"][:, 3:].astype(np.float64), axis=-1)
    if bad := _first(np.abs(norm - 1.0) >= UNIT_TOLERANCE):
        raise ReplayError(
            f"quaternion of norm {norm[bad[0]]:.6g}, expected 1",
            store=store,
            key="data/object_pose",
            replay=replay,
            frame=bad[0],
        )


def check_goals(goals: NDArray, key: str, *, store: str | None = None) -> None:
    """Check the goals of an object or trial, (G, 29) with 1 <= G <= 512: finite, unit quaternions."""
    if goals.ndim != 2 or goals.shape[1] != GOAL_SIZE or not 1 <= len(goals) <= MAX_GOALS:
        raise ReplayError(f"expected shape (1 to {MAX_GOALS}, {GOAL_SIZE}), found {goals.shape}", store=store, key=key)
    _check_numbers(goals, key, store, None, "goal")
    norm = np.linalg.norm(goals[:, 3:7].astype(np.float64), axis=-1)
    if bad := _first(np.abs(norm - 1.0) >= UNIT_TOLERANCE):
        raise ReplayError(f"goal {bad[0]}: quaternion of norm {norm[bad[0]]:.6g}, expected 1", store=store, key=key)


def sensor_rows(name: str, rows: NDArray, num_frames: int, *, replay: str) -> NDArray:
    """Recorded rows of a sensor as they are stored: checked, a cloud (T, P, 3) in metres turned into its unit."""
    key = f"sensors/{name}"
    if name not in SENSORS:
        raise ReplayError(f"unknown sensor; one of {', '.join(SENSORS)}", key=key, replay=replay)
    dtype, axes = SENSORS[name]
    if rows.ndim != 1 + axes or 0 in rows.shape or (name != "depth" and rows.shape[-1] != 3):
        raise ReplayError(f"unexpected shape {rows.shape}", key=key, replay=replay)
    if len(rows) != num_frames:
        raise ReplayError(f"{len(rows)} frames, but object_pose has {num_frames}", key=key, replay=replay)
    if name == "cloud":
        if bad := _first(~(np.abs(rows) <= CLOUD_REACH)):  # true for NaN
            what = f"point {bad[1]} is at {rows[bad]}, allowed up to {CLOUD_REACH:g} m; is it in metres?"
            raise ReplayError(what, key=key, replay=replay, frame=bad[0])
        return np.round(rows / CLOUD_UNIT).astype(np.int16)
    if str(rows.dtype) != dtype:
        raise ReplayError(f"expected {dtype}, found {rows.dtype}", key=key, replay=replay)
    return rows


def check_parts(vertices: NDArray, ends: NDArray, key: str, store: str | None = None) -> None:
    """Check an object's convex parts, laid out as `PART_VERTICES` and `PART_ENDS`."""
    if len(ends) == 0 or (np.diff(ends, prepend=0) < 4).any() or ends[-1] != len(vertices):
        raise ReplayError(
            f"parts of at least 4 vertices must end at {len(vertices)}, found {ends.tolist()}",
            store=store,
            key=f"{key}/part_ends",
        )
    _check_numbers(vertices, f"{key}/part_vertices", store, None, "vertex")


def _check_numbers(array: NDArray, key: str, store: str | None, replay: str | None, row: str = "frame") -> None:
    fine = np.abs(array) <= LARGEST  # false for NaN
    if bad := _first(~fine):
        value = array[bad]
        wrong = f"column {bad[1]} is {value}" + (f", beyond {LARGEST:g}" if np.isfinite(value) else "")
        if row == "frame":
            frame = bad[0] if key.startswith("data/") else None
            raise ReplayError(wrong, store=store, key=key, replay=replay, frame=frame)
        raise ReplayError(f"{row} {bad[0]}: {wrong}", store=store, key=key)


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...] | None:
    """Index of the first true element, or None."""
    flat = np.flatnonzero(wrong)
    return tuple(int(i) for i in np.unravel_index(flat[0], wrong.shape)) if len(flat) else None
