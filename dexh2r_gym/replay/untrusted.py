"""Files of a dataset that somebody else wrote: nothing outside of its folder is opened, nothing large read blindly.

Errors name the file. Nothing that is read here can run code.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import ReplayError

MAX_TEXT = 1 << 20  # bytes of a json, yaml or urdf file
MAX_ARRAY = 64 << 20  # bytes of one array
MAX_MESH = 256 << 20  # bytes of a mesh file


@dataclass(frozen=True)
class Folder:
    """The folder of a dataset. Files in it are named by keys, their paths below it: "object_model/mug.obj".

    All that is read raises ReplayError, with the key, if it is missing, too large, damaged, or leads out of the folder.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise ReplayError("no such folder", store=str(self.root))

    def error(self, key: str, message: str) -> ReplayError:
        """The error that names a file of this folder."""
        return ReplayError(message, store=str(self.root), key=key)

    def below(self, key: str) -> Folder:
        """A folder of this folder."""
        return Folder(self._inside(key))

    def has(self, key: str) -> bool:
        """There is something of this name, be it a broken link."""
        path = self.root / key
        return path.is_symlink() or path.exists()

    def file(self, key: str, limit: int | None = None) -> Path:
        """Path of an ordinary file of at most `limit` bytes."""
        path = self._inside(key)
        if not path.exists():
            raise self.error(key, "missing")
        if not path.is_file():
            raise self.error(key, "is not a file")
        if limit is not None and (size := path.stat().st_size) > limit:
            raise self.error(key, f"{size} bytes, at most {limit} are allowed")
        return path

    def names(self, key: str) -> list[str]:
        """Sorted names of what is in a folder, but for hidden files and what archives of macOS leave behind."""
        path = self._inside(key)
        if not path.is_dir():
            raise self.error(key, "is not a folder" if path.exists() else "missing, expected a folder")
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith((".", "__MACOSX")))

    def folders(self, key: str) -> list[str]:
        """Names of the folders in a folder, sorted; one that leads elsewhere is refused."""
        return [name for name in self.names(key) if self._inside(f"{key}/{name}").is_dir()]

    def stamps(self, keys: Iterable[str]) -> dict[str, list[int]]:
        """Size and time of the last change of files, which tell whether they are still the same."""
        found = {key: self.file(key).stat() for key in sorted(keys)}
        return {key: [stat.st_size, stat.st_mtime_ns] for key, stat in found.items()}

    def text(self, key: str) -> str:
        """Text in UTF-8, at most `MAX_TEXT` bytes."""
        try:
            return self.file(key, MAX_TEXT).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(key, f"is not text in UTF-8 ({error})") from error

    def json(self, key: str, required: Sequence[str] = ()) -> dict[str, Any]:
        """A json object with at least the keys `required`; numbers that are not finite are refused."""
        return self._mapping(key, required, lambda text: json.loads(text, parse_constant=_finite, parse_float=_finite))

    def yaml(self, key: str, required: Sequence[str] = ()) -> dict[str, Any]:
        """A yaml mapping of plain values with at least the keys `required`; aliases, which can grow without bound,
        are refused."""
        return self._mapping(key, required, lambda text: yaml.load(text, Loader=_PlainLoader))

    def _mapping(self, key: str, required: Sequence[str], parse: Callable[[str], Any]) -> dict[str, Any]:
        text = self.text(key)
        try:
            value = parse(text)
        except Exception as error:  # a yaml value that is not what its tag says fails in many ways
            raise self.error(key, f"cannot be read ({' '.join(str(error).split())})") from error
        if not isinstance(value, dict):
            raise self.error(key, f"expected keys and values, found {type(value).__name__}")
        if missing := [name for name in required if name not in value]:
            raise self.error(key, f"missing: {', '.join(missing)}; expected at least {', '.join(required)}")
        return value

    def arrays(self, key: str, **shapes: tuple[int | None, ...]) -> list[NDArray[np.float64]]:
        """Arrays of numbers of an npz file, by name and shape (None: any length), float64 and finite."""
        path = self.file(key, MAX_ARRAY)
        try:
            with zipfile.ZipFile(path) as file:
                return [self._array(file, key, name, shape) for name, shape in shapes.items()]
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise self.error(key, f"not a whole npz file ({error})") from error

    def _array(self, file: zipfile.ZipFile, key: str, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
        try:
            size = file.getinfo(f"{name}.npy").file_size
        except KeyError:
            raise self.error(key, f"holds no array {name}") from None
        if size > MAX_ARRAY:
            raise self.error(key, f"{name} has {size} bytes, at most {MAX_ARRAY} are allowed")
        with file.open(f"{name}.npy") as entry:
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
            raise self.error(key, f"{name} cannot be read ({error})") from error
        if not fits(array.shape, shape) or array.dtype.kind not in "fiu":
            wanted = f"expected numbers of shape {shape_text(shape)}"
            raise self.error(key, f"{name}: {wanted}, found {array.dtype} {array.shape}")
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise self.error(key, f"{name}: frame {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite")
        return array

    def _inside(self, key: str) -> Path:
        path = self.root / key
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError) as error:  # a link to itself
            raise self.error(key, f"cannot be followed ({error})") from error
        if not inside:
            raise self.error(key, "leads out of the dataset's folder; put the files themselves there")
        return path


def fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is the wanted one; None: any length."""
    return len(shape) == len(wanted) and all(n in (None, m) for n, m in zip(wanted, shape, strict=True))


def shape_text(wanted: Sequence[int | None], *, first: str = "any") -> str:
    """A wanted shape for a message: "(any, 3)"; `first` names an axis 0 of any length."""
    axes = [str(n) if n is not None else "any" if i else first for i, n in enumerate(wanted)]
    return f"({', '.join(axes)})"


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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Plain values and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases are not allowed")
        return super().compose_node(parent, index)
