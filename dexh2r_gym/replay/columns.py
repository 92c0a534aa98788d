"""One array of a store, written block by block while trials come, so that a store may be larger than the memory."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

CHUNK_ROWS = 2048
CHUNK_BYTES = 1 << 20  # a chunk of larger rows has fewer of them
LEVEL = 5  # of zstd; 9 would save 5% and take ten times as long


def chunk_rows(dtype: str, row: tuple[int, ...]) -> int:
    """Rows of a chunk of an array with rows of this shape: at most `CHUNK_ROWS`, and about `CHUNK_BYTES`."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (math.prod(row) * np.dtype(dtype).itemsize)))


def content_hash(digest: hashlib._Hash, rows: NDArray) -> None:
    """Add rows to the hash of an array's content: their bytes in C order, little endian."""
    digest.update(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).data)


class Column:
    """An array of `root` that grows: `append` rows, then `close`, which returns the SHA-256 of all of them.

    Compressed, with a checksum a chunk; chunks of zeros are written too, so that one that is missing is noticed.
    """

    def __init__(self, root: zarr.Group, key: str, dtype: str, row: tuple[int, ...]) -> None:
        self._size = chunk_rows(dtype, row)
        self._array = root.create_array(
            key,
            shape=(0, *row),
            dtype=dtype,
            chunks=(self._size, *row),
            compressors=[BloscCodec(cname="zstd", clevel=LEVEL), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        self.row = row
        self._waiting: list[NDArray] = []
        self._digest = hashlib.sha256()
        self.length = 0  # rows given so far

    def append(self, rows: NDArray) -> None:
        """Rows (n, *row), of the array's dtype."""
        self._waiting.append(rows)
        self.length += len(rows)
        if sum(map(len, self._waiting)) >= self._size:
            block = np.concatenate(self._waiting)
            whole = len(block) // self._size * self._size
            self._write(block[:whole])
            self._waiting = [block[whole:].copy()]

    def close(self) -> str:
        """Write what is left; the hash of the content, as hexadecimal digits."""
        if rest := [rows for rows in self._waiting if len(rows)]:
            self._write(np.concatenate(rest))
        return self._digest.hexdigest()

    def _write(self, block: NDArray) -> None:
        content_hash(self._digest, block)
        self._array.append(block)
