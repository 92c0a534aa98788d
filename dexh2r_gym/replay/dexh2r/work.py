"""Work that may be interrupted: files of what is done, and processes to do the rest."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import ReplayError

_MANIFEST = "manifest.json"
J = TypeVar("J")
R = TypeVar("R")


def open_work(path: Path, manifest: Mapping[str, Any]) -> Path:
    """The folder of an import under way: made, or found again if it belongs to the same source and options.

    ReplayError says in what it differs if it belongs to another import.
    """
    file = path / _MANIFEST
    if not path.exists():
        path.mkdir(parents=True)
        file.write_text(json.dumps(manifest))
    for name in ("trials", "objects", "goals"):
        (path / name).mkdir(exist_ok=True)
    remedy = f"remove {path}, or choose another path for the store"
    try:
        found = json.loads(file.read_text())
        differ = {key for key in {*found, *manifest} if found.get(key) != json.loads(json.dumps(manifest)).get(key)}
    except (OSError, ValueError, AttributeError) as error:
        raise ReplayError(f"not the folder of an import under way; {remedy}", store=str(path)) from error
    if differ:
        listed = ", ".join(f"{key} was {found.get(key)}, is {manifest.get(key)}" for key in sorted(differ))
        raise ReplayError(f"left by an import with other options ({listed}); {remedy}", store=str(path))
    return path


def save_arrays(path: Path, arrays: Mapping[str, NDArray], info: Mapping[str, Any]) -> None:
    """Write arrays and what json can hold to an .npz file, at once or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{**arrays, "info": np.array(json.dumps(info))})
    part.replace(path)


def load_arrays(path: Path) -> tuple[dict[str, NDArray], dict[str, Any]] | None:
    """What `save_arrays` wrote; None if there is no such file, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return arrays, json.loads(str(arrays.pop("info")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def remove_work(path: Path) -> None:
    """Remove the folder of an import that is complete."""
    shutil.rmtree(path)


class Workers:
    """Processes that take jobs; with one worker the jobs are done in this process."""

    def __init__(self, count: int) -> None:
        self._pool = (
            ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin) if count > 1 else None
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
        """Results in the order in which they come. Left early, jobs that have not begun are given up."""
        if self._pool is None:
            yield from map(function, jobs)
            return
        futures = [self._pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError("a worker process died, perhaps for lack of memory; run again to go on") from error
        finally:
            for future in futures:
                future.cancel()


def _begin() -> None:
    """One thread for each worker, and an end when the process that started it is killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
