"""Arrays of a zarr (format 2) folder that somebody else wrote, read chunk by chunk along the first axis.

zarr itself would run the filters that the metadata name, and read a chunk that is missing as zeros. Here an array has
no filter, is packed by Blosc or not at all, and what a chunk claims is compared with what it must be before it is
unpacked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.replay.untrusted import Folder, fits, shape_text

MAX_CHUNK = 256 << 20  # bytes of an unpacked chunk
MAX_ROWS = 1 << 32
_BLOSC_HEADER = 16


class RowArray:
    """An array (N, ...) of numbers; `rows(begin, end)` reads some of them. The chunk read last is kept."""

    def __init__(self, folder: Folder, key: str, row: tuple[int | None, ...], kinds: str) -> None:
        """The array at `key`, with rows of this shape (None: any length) and a dtype of these numpy kinds ("fiu")."""
        self._folder, self.key = folder, key
        about = folder.json(f"{key}/.zarray")
        self._blosc, self._separator = self._layout(about)
        self.shape, self._chunk = self._sizes(about, "shape"), self._sizes(about, "chunks")
        self.dtype = self._dtype(about, kinds)
        if not fits(self.shape, wanted := (None, *row)) or 0 in self.shape[1:]:
            raise folder.error(key, f"expected shape {shape_text(wanted, first='N')}, found {self.shape}")
        if len(self._chunk) != len(self.shape) or self._chunk[1:] != self.shape[1:] or self._chunk[0] < 1:
            raise folder.error(key, f"chunks {self._chunk} of an array {self.shape}, expected whole rows")
        self._bytes = math.prod(self._chunk) * self.dtype.itemsize
        if self._bytes > MAX_CHUNK or self.shape[0] > MAX_ROWS:
            raise folder.error(key, f"chunks of {self._bytes} bytes, at most {MAX_CHUNK} are allowed")
        self._read = lru_cache(1)(self._chunk_rows)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, begin: int, end: int) -> NDArray:
        """Rows begin to end, the last not included. ReplayError names a chunk that is missing or damaged."""
        size = self._chunk[0]
        parts = [
            self._read(i)[max(begin - i * size, 0) : end - i * size] for i in range(begin // size, -(-end // size))
        ]
        return np.concatenate(parts)

    def _chunk_rows(self, index: int) -> NDArray:
        key = f"{self.key}/{self._separator.join(map(str, [index, *[0] * (len(self.shape) - 1)]))}"
        raw = self._folder.file(key, self._bytes + _BLOSC_HEADER + 4096).read_bytes()
        if self._blosc:
            from numcodecs.blosc import Blosc

            claims = np.frombuffer(raw[4:_BLOSC_HEADER], "<u4")  # bytes unpacked, of a block, packed
            if len(raw) < _BLOSC_HEADER or claims[0] != self._bytes or claims[2] != len(raw):
                raise self._folder.error(key, f"is not a whole chunk of {self._bytes} bytes packed by Blosc")
            try:
                raw = Blosc().decode(raw)
            except (RuntimeError, ValueError) as error:
                raise self._folder.error(key, f"cannot be unpacked ({error})") from error
        if len(raw) != self._bytes:
            raise self._folder.error(key, f"{len(raw)} bytes, expected {self._bytes}")
        return np.frombuffer(raw, self.dtype).reshape(self._chunk)

    def _layout(self, about: dict[str, Any]) -> tuple[bool, str]:
        """Whether chunks are packed, and what stands between the numbers in their names."""
        packed = about.get("compressor")
        name = packed.get("id") if isinstance(packed, dict) else packed
        separator = about.get("dimension_separator", ".")
        wrong = {
            "zarr_format": about.get("zarr_format") != 2,
            "filters": about.get("filters") not in (None, []),
            "order": about.get("order") != "C",
            "compressor": name not in (None, "blosc"),
            "dimension_separator": separator not in (".", "/"),
        }
        if bad := [key for key, is_wrong in wrong.items() if is_wrong]:
            raise self._folder.error(self.key, f"{bad[0]} {str(about.get(bad[0]))[:80]} is not read here")
        return name == "blosc", separator

    def _sizes(self, about: dict[str, Any], name: str) -> tuple[int, ...]:
        value = about.get(name)
        if not isinstance(value, list) or not value or not all(type(n) is int and n >= 0 for n in value):
            raise self._folder.error(self.key, f"{name} must be a list of sizes, found {str(value)[:80]}")
        return tuple(value)

    def _dtype(self, about: dict[str, Any], kinds: str) -> np.dtype:
        try:
            dtype = np.dtype(str(about.get("dtype")))
        except TypeError as error:
            raise self._folder.error(self.key, str(error)) from error
        if dtype.kind not in kinds or dtype.itemsize > 8:
            allowed = " or ".join({"f": "floats", "i": "integers", "u": "unsigned integers"}[kind] for kind in kinds)
            raise self._folder.error(self.key, f"expected {allowed}, found {dtype}")
        return dtype


@dataclass(frozen=True)
class Episode:
    """Frames of one episode: `begin` to `end`, the last not included."""

    begin: int
    end: int


def read_episodes(folder: Folder, num_frames: int) -> list[Episode]:
    """The episodes of `meta/episode_ends`, which must cover `num_frames` frames."""
    key = "meta/episode_ends"
    array = RowArray(folder, key, (), "iu")
    ends = array.rows(0, len(array)).astype(np.int64).tolist()
    begins = [0, *ends[:-1]]
    if not ends or ends[-1] != num_frames or any(end <= begin for begin, end in zip(begins, ends, strict=True)):
        raise folder.error(key, f"must grow and end at {num_frames}, the number of frames; found {str(ends)[-80:]}")
    return [Episode(begin, end) for begin, end in zip(begins, ends, strict=True)]
