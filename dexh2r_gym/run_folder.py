"""A run folder: what a rollout writes and scoring reads.

    config.json                 everything the numbers depend on, written first
    episodes/<replay id>.npz    one finished episode each, written whole or not at all
    videos/<replay id>.mp4      where asked for
    speed.json                  frames and wall time of the last rollout
    episodes.jsonl report.json report.md    written by scoring, which needs nothing but the above and the replay store

Slashes and other special characters of a replay id are written as in web addresses: s01/can/003 -> s01%2Fcan%2F003.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

# One finished episode of T frames: name -> shape. Scalars have shape (). World frame, metres, radians, newtons. All but
# the first `approach_frames` frames are of the physical handover (ending "hold").
RECORD: dict[str, tuple[str, ...]] = {
    "replay": (),
    "object": (),
    "subject": (),
    "kind": (),
    "mode": (),
    "fps": (),
    "status": (),  # name of an `EpisodeStatus`
    "alignment_begin": (),  # first frame moved by goal pose alignment, -1 if it never began
    "approach_frames": (),  # frames up to the grasp, which the paper's metrics count
    "outcome": (),  # name of an `Outcome` of the physical handover
    "release_frame": (),  # in which the giver let go, -1 if never
    "drop_time": (),  # s from then to the loss of the object, inf if it was not lost
    "slip": (),  # cm that the object has moved in the hand
    "decided_frame": (),  # see `dexh2r_gym.verdict`
    "reason": (),
    "hand_state": ("T", "28"),
    "object_pose": ("T", "7"),
    "d": ("T",),  # palm to the nearest free goal, inf where none is free
    "depth": ("T",),  # mesh-exact, deepest surface point of the hand
    "phase": ("T",),  # `Phase`
    "giver_force": ("T",),  # on the giver's hand
    "giver_peak": ("T", "6"),  # greatest of the frame, on each of `types.GIVER_PARTS`
    "giver_impulse": ("T", "6"),  # N s that the frame adds
    "contact_speed": ("T",),  # m/s of the robot relative to the giver's hand where they touch
    "load": ("T", "3"),  # mean force of the robot on the object in the frame
    "giver_bones": ("T", "16", "7"),  # poses
}
# What only some episodes have: of a giver who plays the recording in its own way, of a policy in real time.
SOMETIMES: dict[str, tuple[str, ...]] = {
    "recording_frame": ("T",),  # of the replay, nearest to what was shown
    "latency_ms": (),  # mean over the episode's actions
}


class RunFolder:
    """Reads and writes one run folder; the files of an episode appear whole or not at all."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config that the run was started with."""
        file = self.path / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} is not a run folder: it has no config.json")
        return json.loads(file.read_text())

    def start(self, config: dict[str, Any], *, resume: bool) -> None:
        """Begin a run here, or go on with one of the same config.

        Raises:
            FileExistsError: a run is here already and `resume` is False.
            ValueError: it has another config; the message names each field that differs.
        """
        config = json.loads(json.dumps(config))  # as it will be read back
        if not (self.path / "config.json").exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json("config.json", config)
            return
        if not resume:
            raise FileExistsError(f"{self.path} holds a run already: choose another folder, or go on with resume=True")
        if changes := list(_differences(self.config, config)):
            raise ValueError(
                f"{self.path} holds a run with another config and cannot be resumed; choose another folder. "
                "Different: " + "; ".join(changes)
            )

    def episode_path(self, replay_id: str) -> Path:
        return self.path / "episodes" / f"{quote(replay_id, safe='')}.npz"

    def video_path(self, replay_id: str) -> Path:
        return self.path / "videos" / f"{quote(replay_id, safe='')}.mp4"

    def recorded_ids(self) -> set[str]:
        """Replay ids whose episodes are here and readable; what a broken disk cut short counts as missing."""
        files = (self.path / "episodes").glob("*.npz")
        return {unquote(file.stem) for file in files if zipfile.is_zipfile(file)}

    def save_episode(self, record: dict[str, Any]) -> None:
        """Write a finished episode; `record` holds the keys of `RECORD`."""
        arrays = {name: np.asarray(value) for name, value in record.items()}
        _check_record(arrays, "episode record")
        file = self.episode_path(str(arrays["replay"]))
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".partial")
        with open(partial, "wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        os.replace(partial, file)

    def load_episode(self, replay_id: str) -> dict[str, np.ndarray]:
        """The record of one episode, checked."""
        file = self.episode_path(replay_id)
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} has no episode of replay {replay_id!r}") from None
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{file} cannot be read ({error}): delete it and resume the run") from error
        _check_record(arrays, str(file))
        if str(arrays["replay"]) != replay_id:
            raise ValueError(f"{file} holds the episode of another replay, {str(arrays['replay'])!r}")
        return arrays

    def read_json(self, name: str) -> Any:
        """Content of a json file of the run, None if it is not there."""
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else None

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all."""
        partial = self.path / f"{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)


def _check_record(arrays: dict[str, np.ndarray], where: str) -> None:
    if missing := [name for name in RECORD if name not in arrays]:
        raise ValueError(
            f"{where}: missing {', '.join(missing)} (an episode of another version? evaluate again into another folder)"
        )
    frames = len(arrays["depth"]) if arrays["depth"].ndim else 0
    for name, shape in (RECORD | {name: SOMETIMES[name] for name in SOMETIMES if name in arrays}).items():
        expected = tuple(frames if size == "T" else int(size) for size in shape)
        if arrays[name].shape != expected:
            raise ValueError(f"{where}: {name} must be {expected} beside depth, got {arrays[name].shape}")
        bad = np.isnan(arrays[name]) if name == "d" else ~np.isfinite(arrays[name]) if shape else np.zeros(1, bool)
        if bad.any():
            raise ValueError(f"{where}: {name} has NaN or infinite numbers in frame {int(np.argwhere(bad)[0][0])}")
    if frames == 0:
        raise ValueError(f"{where}: an episode has at least one frame")


def _differences(old: Any, new: Any, name: str = ""):
    """Yield 'field: old here, new now' for all that differs between two json values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) + len(new) > 8:
        if old != new:
            gone, added = set(map(str, old)) - set(map(str, new)), set(map(str, new)) - set(map(str, old))
            yield f"{name} ({len(gone)} no longer, {len(added)} new)"
    elif old != new:
        yield f"{name}: {old!r} in the folder, {new!r} now"
