"""The files of LeRobot's data set format v3.0: frames and episodes in parquet files, pictures in mp4 files.

data/chunk-000/file-000.parquet                         frames, many episodes a file
videos/<feature>/chunk-000/file-000.mp4                 films, many episodes a file
meta/episodes/chunk-000/file-000.parquet                where the frames and films of each episode lie, its statistics
meta/tasks.parquet  meta/info.json  meta/stats.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.export.lerobot_features import Feature
from dexh2r_gym.export.statistics import Statistics
from dexh2r_gym.extras import import_extra

VERSION = "v3.0"
CHUNK_SIZE = 1000  # files a folder
DATA_MB, VIDEO_MB = 100, 200  # a file is closed once it is larger
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"


class LeRobotFiles:
    """Writes a data set into an empty folder, episode by episode; it is complete after `finish`."""

    def __init__(self, root: Path, features: dict[str, Feature], fps: int):
        self._root, self._features, self._fps = root, features, fps
        self._pq = import_extra("pyarrow.parquet", "export")
        self._data = _Rolling(DATA_MB)
        self._tables: Any = None  # the open parquet file of frames
        self._films = {name: _Film(root, name, fps) for name, f in features.items() if f.dtype == "video"}
        self._statistics = Statistics({name: feature.kind for name, feature in features.items()})
        self._episodes: list[dict[str, Any]] = []
        self.frames = 0
        self.tasks: list[str] = []

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def task_index(self, task: str) -> int:
        """Number of a task, a new one if it is new."""
        if task not in self.tasks:
            self.tasks.append(task)
        return self.tasks.index(task)

    def add(self, values: dict[str, NDArray], task: str) -> None:
        """Append an episode: values (T, ...) of every feature."""
        length = len(values["index"])
        row: dict[str, Any] = {
            "episode_index": self.num_episodes,
            "tasks": [task],
            "length": length,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
            **self._data.place("data"),
        }
        self._write_table({name: v for name, v in values.items() if name not in self._films})
        for name, film in self._films.items():
            row |= film.add(values[name])
        for name, found in self._statistics.add(values).items():
            row |= {f"stats/{name}/{key}": value for key, value in found.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self._episodes.append(row)
        self.frames += length

    def finish(self, robot_type: str, split: str) -> None:
        """Close the files and write what is known of the whole."""
        self.close()
        pa = import_extra("pyarrow", "export")
        path = self._root / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._pq.write_table(pa.Table.from_pylist(self._episodes), path)
        self._pq.write_table(_task_table(self.tasks), self._root / "meta/tasks.parquet")
        self._json("meta/stats.json", self._statistics.total())
        info = {
            "codebase_version": VERSION,
            "robot_type": robot_type,
            "total_episodes": self.num_episodes,
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": self._fps,
            "splits": {split: f"0:{self.num_episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._films else None,
            "features": {name: feature.as_json(self._fps) for name, feature in self._features.items()},
        }
        self._json("meta/info.json", info)

    def close(self) -> None:
        """Close what is open."""
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        for film in self._films.values():
            film.close()

    def _write_table(self, values: dict[str, NDArray]) -> None:
        pa = import_extra("pyarrow", "export")
        table = pa.table({name: _column(value, self._features[name], pa) for name, value in values.items()})
        if self._tables is None:
            path = self._root / DATA_PATH.format(**self._data.indices)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._tables = self._pq.ParquetWriter(path, table.schema)
        self._tables.write_table(table)  # a row group an episode
        if self._data.grown(table.nbytes):
            self._tables.close()
            self._tables = None

    def _json(self, name: str, content: Any) -> None:
        (self._root / name).write_text(json.dumps(content, indent=4) + "\n")


class _Rolling:
    """Numbers of files that are followed by another one when they are large."""

    def __init__(self, megabytes: int):
        self._limit, self._bytes, self._number = megabytes << 20, 0, 0

    @property
    def indices(self) -> dict[str, int]:
        return {"chunk_index": self._number // CHUNK_SIZE, "file_index": self._number % CHUNK_SIZE}

    def place(self, name: str) -> dict[str, int]:
        return {f"{name}/{key}": value for key, value in self.indices.items()}

    def grown(self, more: int) -> bool:
        """Count bytes written; True if the next go into another file."""
        self._bytes += more
        if self._bytes < self._limit:
            return False
        self._bytes, self._number = 0, self._number + 1
        return True


class _Film:
    """The films of one camera. Every second picture stands alone, as LeRobot has it, so that any can be sought."""

    def __init__(self, root: Path, name: str, fps: int):
        self._root, self._name, self._fps = root, name, fps
        self._files = _Rolling(VIDEO_MB)
        self._writer: Any = None
        self._path = root
        self._frames = self._size = 0

    def add(self, pictures: NDArray[np.uint8]) -> dict[str, Any]:
        """Append pictures (T, H, W, 3); says where they are."""
        if self._writer is None:
            self._path = self._root / VIDEO_PATH.format(video_key=self._name, **self._files.indices)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._frames = self._size = 0
            self._writer = imageio.get_writer(
                self._path,
                fps=self._fps,
                codec="libx264",
                quality=None,
                macro_block_size=1,
                pixelformat="yuv420p",
                output_params=["-g", "2", "-bf", "0", "-crf", "18"],
            )
        for picture in pictures:
            self._writer.append_data(picture)
        first, self._frames = self._frames, self._frames + len(pictures)
        key = f"videos/{self._name}"
        place = {
            **self._files.place(key),
            f"{key}/from_timestamp": first / self._fps,
            f"{key}/to_timestamp": self._frames / self._fps,
        }
        size = self._path.stat().st_size if self._path.exists() else 0
        if self._files.grown(size - self._size):
            self.close()
        self._size = size
        return place

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _column(values: NDArray, feature: Feature, pa: Any) -> Any:
    """Values (T, ...) as a column: plain numbers, lists of them, or lists of lists."""
    values = np.ascontiguousarray(values, dtype=feature.dtype)
    if feature.shape == (1,):
        return pa.array(values.reshape(-1))
    column = pa.array(values.reshape(-1))
    for size in reversed(feature.shape[1:]):
        offsets = np.arange(0, len(column) + 1, size, dtype=np.int32)
        column = pa.ListArray.from_arrays(pa.array(offsets), column)
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(column, feature.shape[0])
    offsets = np.arange(0, len(column) + 1, feature.shape[0], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), column)


def _task_table(tasks: list[str]) -> Any:
    """What pandas writes for a frame whose index are the tasks, which is how LeRobot reads it."""
    pa = import_extra("pyarrow", "export")
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
