"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` at the end, and of which nothing is left after an error.

    Raises:
        FileExistsError: something is at `out` already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already: choose another place, or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        folder = partial / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
