"""What is really in a store, found without zarr: zarr does not tell a missing chunk from one of zeros."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

from dexh2r_gym.replay.replay import ReplayError

MAX_METADATA_BYTES = 16 << 20  # of one zarr.json


def list_entries(path: Path, name: str) -> dict[str, dict[str, int]]:
    """What is in a folder or zip: array or group key -> entry below it ("c/0/0") -> size in bytes."""
    if path.is_file():
        try:
            with zipfile.ZipFile(path) as file:
                sizes = {entry.filename: entry.file_size for entry in file.infolist()}
        except (zipfile.BadZipFile, OSError, struct.error) as error:
            raise ReplayError(f"not a whole zip file ({error})", store=name, key=_cut_entry(path)) from error
    elif path.is_dir():
        files = [Path(folder, file) for folder, _, names in os.walk(path) for file in names]
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    else:
        raise ReplayError("no such file or folder", store=name)
    described = [entry for entry in sizes if entry.endswith("zarr.json")]
    for entry in described:
        if sizes[entry] > MAX_METADATA_BYTES:
            raise ReplayError(f"{sizes[entry]} bytes, at most {MAX_METADATA_BYTES} expected", store=name, key=entry)
    keys = {entry.removesuffix("zarr.json").rstrip("/") for entry in described}
    entries: dict[str, dict[str, int]] = {key: {} for key in keys}
    for entry, size in sizes.items():
        key, chunk, rest = entry.rpartition("/c/")
        if chunk and key in entries:
            entries[key][f"c/{rest}"] = size
    return entries


def _cut_entry(path: Path) -> str | None:
    """The entry in which a zip file without its directory (which stands at the end) breaks off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position, last = 0, None
        while True:
            file.seek(position)
            header = file.read(30)
            if len(header) < 30 or header[:4] != b"PK\x03\x04":
                return last
            stored, name_length, extra_length = struct.unpack("<I4xHH", header[18:30])
            last = file.read(name_length).decode(errors="replace")
            position += 30 + name_length + extra_length + stored
            if position > size:
                return last
