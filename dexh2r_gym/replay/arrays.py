"""The arrays of a store as they are on disk: opened once each is checked, read chunk by chunk, every error named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage
from numpy.typing import NDArray

from dexh2r_gym.replay import validate
from dexh2r_gym.replay.columns import content_hash
from dexh2r_gym.replay.entries import list_entries
from dexh2r_gym.replay.replay import ReplayError

CACHED_CHUNKS = 64  # 0.25 MB each on average


class StoreArrays:
    """Arrays by key ("data/giver") of a folder or zip file; `name` stands in errors. Opening reads metadata only."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._entries = list_entries(path, name)
        self._open: dict[str, zarr.Array] = {}
        with self.guard(""):
            zip_file = path.is_file()
            files = zarr.storage.ZipStore(path, mode="r") if zip_file else zarr.storage.LocalStore(path, read_only=True)
            self._root = zarr.open_group(files, mode="r", zarr_format=3)
        self._chunk = lru_cache(CACHED_CHUNKS)(self._read_chunk)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def keys(self) -> list[str]:
        """Keys of the arrays that were opened."""
        return list(self._open)

    def attrs(self, group: str = "") -> dict[str, Any]:
        """Attributes of a group."""
        with self.guard(group):
            return dict(self._root[group].attrs if group else self._root.attrs)

    @contextmanager
    def guard(self, key: str, replay: str | None = None) -> Iterator[None]:
        """Whatever a damaged file makes the libraries below raise is reported as a ReplayError of this key."""
        try:
            yield
        except ReplayError:
            raise
        except Exception as error:
            reason = f"cannot be read, damaged or incomplete ({type(error).__name__}: {error})"
            raise ReplayError(reason, store=self.name, key=key, replay=replay) from error

    def open(self, key: str, dtype: str, row: tuple[int, ...] | int) -> int:
        """Check an array's form and that all of it is there (`validate.check_array`). -> its length"""
        if key not in self._entries:
            raise ReplayError("missing", store=self.name, key=key)
        with self.guard(key):
            array = self._root[key]
        validate.check_array(array, key, dtype, row, self._entries[key], self.name)
        self._open[key] = array  # type: ignore[assignment]
        return array.shape[0]  # type: ignore[union-attr, return-value]

    def read(self, key: str, rows: slice = slice(None), replay: str | None = None) -> NDArray:
        """Rows of an array that was opened, read anew."""
        with self.guard(key, replay):
            return np.asarray(self._open[key][rows])

    def rows(self, key: str, rows: slice, replay: str | None = None) -> NDArray:
        """The same through the cache of chunks, for neighbours that will be asked for soon; slice of two numbers."""
        size = self._open[key].chunks[0]
        first, last = rows.start // size, -(-rows.stop // size)
        with self.guard(key, replay):
            block = np.concatenate([self._chunk(key, number) for number in range(first, last)])
        return block[rows.start - first * size : rows.stop - first * size]

    def digest(self, key: str) -> str:
        """SHA-256 of the content, as `columns.Column` makes it when it is written."""
        array, digest = self._open[key], hashlib.sha256()
        with self.guard(key):
            for number in range(-(-array.shape[0] // array.chunks[0])):
                content_hash(digest, self._read_chunk(key, number))
        return digest.hexdigest()

    def _read_chunk(self, key: str, number: int) -> NDArray:
        size = self._open[key].chunks[0]
        return np.asarray(self._open[key][number * size : (number + 1) * size])
