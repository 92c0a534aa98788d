"""What a store must look like, and the checks that every replay passes before anything else sees it.

`check_layout` needs only metadata and is done when a store is opened; `check_frames` is done when a replay is read or
written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import SIDES, SPLITS, ReplayError
from dexh2r_gym.types import HAND_STATE_SIZE, MANO_SIZE, NUM_JOINTS

FORMAT, VERSION = "dexh2r-replays", 1
MAX_GOALS = 64
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
    "goal_free": ("bool", (MAX_GOALS,)),
}
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
    "hand_start": ("float32", (HAND_STATE_SIZE,)),
}
# Per object: goals, and the geometry of objects that are not of the built-in library.
GOALS = ("float32", (GOAL_SIZE,))
PART_VERTICES = ("float32", (3,))  # convex parts' vertices, one part after the other, object frame
PART_ENDS = ("int64", ())  # where each part ends in part_vertices


def check_array(array, key: str, dtype: str, row: tuple[int, ...], sizes: Mapping[str, int], store: str) -> int:
    """Check an array's metadata and that all of its chunks are there; return its length.

    zarr reads a missing chunk as zeros without a word, so the chunks are compared with the entries that are really
    there (`sizes`: bytes of each, by name below the array), before anything is allocated.
    """
    if not hasattr(array, "chunks"):
        raise ReplayError("is a group, expected an array", store=store, key=key)
    if str(array.dtype) != dtype or len(array.shape) != 1 + len(row) or tuple(array.shape[1:]) != row:
        expected = f"{dtype} ({', '.join(['N', *map(str, row)])}{'' if row else ','})"
        raise ReplayError(f"expected {expected}, found {array.dtype} {tuple(array.shape)}", store=store, key=key)
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise ReplayError(f"chunks of {chunk_bytes} bytes, at most {MAX_CHUNK_BYTES} allowed", store=store, key=key)
    if array.shards is not None:
        raise ReplayError("sharded arrays are not supported", store=store, key=key)
    if tuple(array.chunks[1:]) != row:
        raise ReplayError(f"chunks of shape {array.chunks}, expected whole rows of {row}", store=store, key=key)
    count = -(-array.shape[0] // array.chunks[0])
    for index in range(count):  # ends at the first one missing, however many the metadata claim
        name = array.metadata.encode_chunk_key((index, *[0] * len(row)))
        if name not in sizes:
            raise ReplayError(f"chunk missing, number {index} of {count}", store=store, key=f"{key}/{name}")
        if not 0 < sizes[name] <= chunk_bytes + 4096:
            raise ReplayError(f"{sizes[name]} bytes for a chunk of {chunk_bytes}", store=store, key=f"{key}/{name}")
    return array.shape[0]


def check_names(names: Any, store: str | None = None) -> None:
    """Check the list of objects' names: each once, and fit to be a part of a replay's id and of a path."""
    wrong = not isinstance(names, list) or len(set(map(repr, names))) != len(names)
    if wrong or not all(isinstance(name, str) and name.strip(". ") and "/" not in name for name in names):
        raise ReplayError(f"attribute 'objects' must list names without '/', each once; found {names!r}", store=store)


def check_meta(meta: Mapping[str, NDArray], num_frames: int, object_names: list[str], store: str) -> None:
    """Check the values of all `meta` arrays, for `num_frames` frames in `data`."""
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
    ranges: list[tuple[str, NDArray[np.bool_], str]] = [
        ("subject", meta["subject"] < 0, "at least 0"),
        ("number", meta["number"] < 0, "at least 0"),
        ("object", (meta["object"] < 0) | (meta["object"] >= len(object_names)), f"0 to {len(object_names) - 1}"),
        ("side", meta["side"] >= len(SIDES), "0 (right) or 1 (left)"),
        ("split", meta["split"] >= len(SPLITS), "0 (train), 1 (validation) or 2 (test)"),
        ("fps", ~((meta["fps"] > 0) & (meta["fps"] <= 1000)), "above 0 and up to 1000"),
        ("grasp_begin", (meta["grasp_begin"] < -1) | (meta["grasp_begin"] >= durations), "-1 or a frame of the trial"),
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
    """Check one trial's frames: `arrays` holds every key of `DATA`, `hand_state` only if there is a demonstration.

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
    """Check one object's goals, (G, 29) with 1 <= G <= 64: finite, unit quaternions."""
    if goals.ndim != 2 or goals.shape[1] != GOAL_SIZE or not 1 <= len(goals) <= MAX_GOALS:
        raise ReplayError(f"expected shape (1 to {MAX_GOALS}, {GOAL_SIZE}), found {goals.shape}", store=store, key=key)
    _check_numbers(goals, key, store, None, "goal")
    norm = np.linalg.norm(goals[:, 3:7].astype(np.float64), axis=-1)
    if bad := _first(np.abs(norm - 1.0) >= UNIT_TOLERANCE):
        raise ReplayError(f"goal {bad[0]}: quaternion of norm {norm[bad[0]]:.6g}, expected 1", store=store, key=key)


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
