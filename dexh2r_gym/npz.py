"""Reading the package's own npz files: arrays and json text `metadata`; what is no such file is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 64 << 20  # of all arrays of a file, unpacked


def read_npz(
    path: str | Path, keys: Iterable[str], what: str, *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, NDArray], Any]:
    """Arrays of an npz file by key, and what its `metadata` says; nothing is unpickled.

    Raises:
        FileNotFoundError: there is none.
        ValueError: damaged, larger than `max_bytes` once unpacked, or without one of the keys: no `what`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > max_bytes:
            raise ValueError(f"{size} bytes unpacked, at most {max_bytes} expected")
        with np.load(path, allow_pickle=False) as file:
            missing = sorted({*keys, "metadata"} - set(file.files))
            data = {key: file[key] for key in keys if key not in missing}
            metadata = json.loads(str(file["metadata"])) if "metadata" not in missing else None
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not a readable {what}: {error}") from error
    if missing:
        raise ValueError(f"{path}: not a {what}, keys missing: {', '.join(missing)}")
    return data, metadata
