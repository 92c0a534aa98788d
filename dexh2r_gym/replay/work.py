"""Long work that may be interrupted: a folder of what is done, beside the store it is for.

<store>.partial/manifest.json    what the work depends on
<store>.partial/...              files of what is done, each there as a whole or not at all
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import ReplayError

_MANIFEST = "manifest.json"


def open_work(store: Path, manifest: Mapping[str, Any]) -> Path:
    """The folder for work on a store: made, or found again if it was left by work with the same manifest.

    ReplayError says in what the manifests differ. Remove the folder when the store is complete.
    """
    path = store.with_name(f"{store.name}.partial")
    file = path / _MANIFEST
    manifest = json.loads(json.dumps(manifest))
    path.mkdir(parents=True, exist_ok=True)
    if not any(path.iterdir()):
        file.write_text(json.dumps(manifest))
    remedy = f"remove {path}, or choose another path for the store"
    try:
        found = json.loads(file.read_text())
        differ = sorted(key for key in {*found, *manifest} if found.get(key) != manifest.get(key))
        listed = ", ".join(f"{key} was {found.get(key)!s:.200}, is {manifest.get(key)!s:.200}" for key in differ)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ReplayError(f"not a folder of work on a store; {remedy}", store=str(path)) from error
    if differ:
        raise ReplayError(f"left by work with other options ({listed}); {remedy}", store=str(path))
    return path


def save_arrays(path: Path, arrays: Mapping[str, NDArray], info: Any) -> None:
    """Write arrays and what json can hold to an .npz file, at once or not at all. Its folder is made if need be."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    content: dict[str, Any] = {**arrays, "info": np.array(json.dumps(info))}
    with part.open("wb") as file:
        np.savez_compressed(file, **content)
    part.replace(path)


def load_arrays(path: Path) -> tuple[dict[str, NDArray], Any] | None:
    """What `save_arrays` wrote; None if there is no such file, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return arrays, json.loads(str(arrays.pop("info")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
