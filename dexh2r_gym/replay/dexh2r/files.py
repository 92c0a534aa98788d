"""Files of a dataset that somebody else wrote: nothing outside of its folder is opened, and text is limited in size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dexh2r_gym.replay.replay import ReplayError

MAX_TEXT = 1 << 20  # bytes of a json, yaml or urdf file


@dataclass(frozen=True)
class Folder:
    """The folder of a dataset. Files in it are named by keys, their paths below it: "object_model/mug.obj"."""

    root: Path

    def error(self, key: str, message: str) -> ReplayError:
        """The error that names a file of this folder."""
        return ReplayError(message, store=str(self.root), key=key)

    def below(self, key: str) -> Folder:
        """A folder of this folder; one that leads out is refused."""
        return Folder(self._inside(key))

    def has(self, key: str) -> bool:
        """There is something of this name, be it a broken link."""
        path = self.root / key
        return path.is_symlink() or path.exists()

    def file(self, key: str, limit: int | None = None) -> Path:
        """Path of an ordinary file of at most `limit` bytes. ReplayError if it is missing, too large or elsewhere."""
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

    def stamp(self, key: str) -> tuple[int, int]:
        """Size and time of the last change of a file, which tell whether it is still the same."""
        found = self.file(key).stat()
        return found.st_size, found.st_mtime_ns

    def json(self, key: str) -> dict[str, Any]:
        """A json object; numbers that are not finite are refused."""
        return self._mapping(key, lambda text: json.loads(text, parse_constant=_refuse_constant))

    def yaml(self, key: str) -> dict[str, Any]:
        """A yaml mapping of plain values; aliases, which can grow without bound, are refused."""
        return self._mapping(key, _load_yaml)

    def text(self, key: str) -> str:
        """Text in UTF-8, at most `MAX_TEXT` bytes."""
        try:
            return self.file(key, MAX_TEXT).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(key, f"is not text in UTF-8 ({error})") from error

    def _mapping(self, key: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            value = parse(self.text(key))
        except ReplayError:
            raise
        except (ValueError, RecursionError) as error:
            raise self.error(key, f"cannot be read ({error})") from error
        if not isinstance(value, dict):
            raise self.error(key, f"expected keys and values, found {type(value).__name__}")
        return value

    def _inside(self, key: str) -> Path:
        path = self.root / key
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError) as error:  # a link to itself
            raise self.error(key, f"cannot be followed ({error})") from error
        if not inside:
            raise self.error(key, "leads out of the dataset's folder; put the files themselves there")
        return path


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _load_yaml(text: str) -> Any:
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not allowed")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader=PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
