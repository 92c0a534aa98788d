"""Reading a dataset from a folder that is not trusted: errors name the file, nothing large is allocated blindly."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import ReplayError

MAX_TEXT = 1 << 20  # bytes of a yaml or json file
MAX_ARRAY = 64 << 20  # bytes of one array
MAX_MESH = 128 << 20  # bytes of a mesh file


class Folder:
    """A folder of a dataset. Files are named relative to it; what lies outside, behind a link too, is refused."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._root = self.path.resolve()
        if not self.path.is_dir():
            raise ReplayError("no such folder", store=str(path))

    def error(self, file: str, message: str) -> ReplayError:
        return ReplayError(message, store=str(self.path), key=file)

    def file(self, name: str, limit: int) -> Path:
        """Path of a file of at most `limit` bytes."""
        path = self.path / name
        try:
            inside = path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError) as error:
            raise self.error(name, f"cannot be followed ({error})") from error
        if not inside:
            raise self.error(name, "leads out of the dataset's folder")
        if not path.is_file():
            raise self.error(name, "missing")
        if (size := path.stat().st_size) > limit:
            raise self.error(name, f"{size} bytes, at most {limit} expected")
        return path

    def folders(self, name: str = ".") -> list[str]:
        """Names of the folders in a folder, sorted; hidden ones are left out."""
        return sorted(p.name for p in (self.path / name).iterdir() if p.is_dir() and not p.name.startswith("."))

    def yaml(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        """A yaml file that holds a mapping with at least these keys."""
        return self._mapping(name, keys, yaml.safe_load)

    def json(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        """A json file that holds an object with at least these keys."""
        return self._mapping(name, keys, json.loads)

    def _mapping(self, name: str, keys: Sequence[str], parse: Callable[[str], Any]) -> dict[str, Any]:
        path = self.file(name, MAX_TEXT)
        try:
            value = parse(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            raise self.error(name, f"cannot be read ({error})") from error
        missing = [key for key in keys if not isinstance(value, dict) or key not in value]
        if missing:
            raise self.error(name, f"missing: {', '.join(missing)}; expected at least {', '.join(keys)}")
        return value

    def arrays(self, name: str, **shapes: tuple[int | None, ...]) -> list[NDArray[np.float64]]:
        """Arrays of numbers of an npz file, by name and shape (None: any length), float64 and finite."""
        path = self.file(name, MAX_ARRAY)
        try:
            with zipfile.ZipFile(path) as file:
                return [self._array(file, name, key, shape) for key, shape in shapes.items()]
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise self.error(name, f"not a whole npz file ({error})") from error

    def _array(self, file: zipfile.ZipFile, name: str, key: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
        try:
            size = file.getinfo(f"{key}.npy").file_size
        except KeyError:
            raise self.error(name, f"holds no array {key}") from None
        if size > MAX_ARRAY:
            raise self.error(name, f"{key} has {size} bytes, at most {MAX_ARRAY} expected")
        with file.open(f"{key}.npy") as entry:
            content = io.BytesIO(entry.read(MAX_ARRAY + 1))
        try:
            version = np.lib.format.read_magic(content)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, _, dtype = read(content)
            if dtype.hasobject or math.prod(found) * dtype.itemsize != size - content.tell():
                raise ValueError(f"{dtype} {found} in {size} bytes")
            content.seek(0)
            array = np.lib.format.read_array(content, allow_pickle=False)
        except ValueError as error:
            raise self.error(name, f"{key} cannot be read ({error})") from error
        fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=False))
        if not fits or array.dtype.kind not in "fiu":
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise self.error(name, f"{key}: expected numbers of shape ({wanted}), found {array.dtype} {array.shape}")
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise self.error(name, f"{key}: frame {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite")
        return array


def numbers(value: Any, count: int) -> NDArray[np.float64] | None:
    """A list of so many finite numbers, from a yaml or json file, as an array; None where it is not that."""
    plain = isinstance(value, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
    if not plain or len(value) != count:
        return None
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError:
        return None
    return array if np.isfinite(array).all() else None
