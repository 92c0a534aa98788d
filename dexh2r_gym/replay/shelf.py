"""Batches of synthetic trials in files, on their way into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dexh2r_gym.replay.replay import Trial
from dexh2r_gym.replay.work import load_arrays, save_arrays

_ARRAYS = ("object_pose", "giver", "hand_start", "goal_free", "demo")
_TITLE = ("subject", "object", "number", "side", "split", "fps", "way")


@dataclass(frozen=True, eq=False)
class SyntheticTrial(Trial):
    """A trial with its number, and how its giver holds the object."""

    number: int = 0
    way: str = ""  # style and place, for instance "pinch handle"


def save_batch(path: Path, trials: Sequence[SyntheticTrial]) -> None:
    """Write a batch, at once or not at all; numbers as float32."""
    arrays = {
        f"{i}/{key}": value.astype(bool if value.dtype == bool else np.float32)
        for i, trial in enumerate(trials)
        for key in _ARRAYS
        if (value := getattr(trial, key)) is not None
    }
    save_arrays(path, arrays, [{key: getattr(trial, key) for key in _TITLE} for trial in trials])


def load_batch(path: Path) -> list[SyntheticTrial] | None:
    """The trials of a batch; None if there is no such file, or none that can be read."""
    if (found := load_arrays(path)) is None:
        return None
    arrays, titles = found
    trials = []
    for i, title in enumerate(titles):
        values: dict[str, Any] = {key: arrays[f"{i}/{key}"] for key in _ARRAYS if f"{i}/{key}" in arrays}
        trials.append(SyntheticTrial(**title, **values))
    return trials
