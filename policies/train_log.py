"""Where a training says how it goes: a bar with the time left, OUT.jsonl, and if asked TensorBoard and W&B."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dexh2r_gym.extras import MissingExtraError

_INSTALL = {"tensorboard": '"dexh2r-gym[train]"', "wandb": "wandb"}
_PROJECT = "dexh2r"  # of W&B


def check_trackers(trackers: Sequence[str]) -> None:
    """MissingExtraError where one of `tensorboard`, `wandb` is not installed; the message says how to install it."""
    for name in trackers:
        if find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed: pip install {_INSTALL[name]}")


class TrainLog:
    """Losses of the steps of a training; only the main process has one, and the others must not write.

    OUT.jsonl has a line a record and nothing of the clock, so it is the same for a training that went on. TensorBoard
    and W&B (project `dexh2r`, run OUT) get the learning rate and steps a second as well.
    """

    def __init__(self, out: Path, *, first: int, steps: int, trackers: Sequence[str] = ()) -> None:
        """out: the checkpoint; TensorBoard's files are in the folder `runs/NAME` beside it.

        first: step from which the training goes on; what was logged of later ones is dropped.
        """
        path = out.with_suffix(".jsonl")
        lines = path.read_text().splitlines() if first and path.exists() else []
        path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= first))
        self._file = path.open("a")
        self._bar = tqdm(total=steps, initial=first, unit="step", desc=out.stem)
        self._trackers = [_tracker(name, out, first) for name in trackers]
        self._last = first, time.monotonic()

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()

    def advance(self) -> None:
        """A step was taken."""
        self._bar.update()

    def write(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """The losses of the last of so many steps."""
        record = {name: round(value, 6) for name, value in losses.items()}
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in record.items()})
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        (before, then), now = self._last, time.monotonic()
        self._last = step, now
        speed = (step - before) / max(now - then, 1e-9)
        for tracker in self._trackers:
            scalars = {f"loss/{name}": value for name, value in losses.items()}
            tracker.log(scalars | {"learning_rate": learning_rate, "steps_per_second": speed}, step=step)


def _tracker(name: str, out: Path, first: int) -> Any:
    """One of accelerate's trackers, started."""
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    tracker = (
        TensorBoardTracker(out.stem, out.parent / "runs", purge_step=first + 1)
        if name == "tensorboard"
        else WandBTracker(_PROJECT, name=out.stem)
    )
    tracker.start()
    return tracker
