"""Trials on their way into a store: batches in a folder beside it, so that work that was stopped goes on.

settings.json        what the trials depend on; other settings empty the shelf
00012.npz            one batch, written whole or not at all: arrays `<i>/<name>`, and `titles`, JSON text
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dexh2r_gym.replay.replay import Trial

_ARRAYS = ("object_pose", "giver", "hand_start", "goal_free", "demo")
_TITLE = ("subject", "object", "number", "side", "split", "fps", "way")


@dataclass(frozen=True, eq=False)
class SyntheticTrial(Trial):
    """A trial, and how its giver holds the object."""

    way: str = ""  # style and place, for instance "pinch handle"


class Shelf:
    """A folder of batches of synthetic trials."""

    def __init__(self, path: Path):
        self.path = path

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, or go on with it if it was made with the same settings; else what it holds is removed."""
        text = json.dumps(settings, sort_keys=True)
        file = self.path / "settings.json"
        if not file.is_file() or file.read_text() != text:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            file.write_text(text)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)

    def has(self, number: int) -> bool:
        """Whether a batch is there."""
        return self._file(number).is_file()

    def save(self, number: int, trials: Sequence[SyntheticTrial]) -> None:
        """Write a batch."""
        titles = json.dumps([{key: getattr(trial, key) for key in _TITLE} for trial in trials])
        arrays = {
            f"{i}/{key}": value.astype(bool if value.dtype == bool else np.float32)
            for i, trial in enumerate(trials)
            for key in _ARRAYS
            if (value := getattr(trial, key)) is not None
        }
        partial = self.path / f"{number}.partial.{os.getpid()}.npz"
        np.savez_compressed(partial, **arrays, titles=np.array(titles))
        partial.replace(self._file(number))

    def titles(self, number: int) -> list[dict[str, Any]]:
        """Of every trial of a batch: subject, object, number, side, split, fps, way."""
        return json.loads(str(_open(self._file(number))["titles"]))

    def trial(self, number: int, i: int) -> SyntheticTrial:
        """Trial i of a batch."""
        file = _open(self._file(number))
        arrays = {key: file[f"{i}/{key}"] for key in _ARRAYS if f"{i}/{key}" in file}
        return SyntheticTrial(**self.titles(number)[i], **arrays)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:05d}.npz"


@cache
def _open(path: Path) -> Any:
    """The file, whose arrays are read when asked for."""
    return np.load(path, allow_pickle=False)
