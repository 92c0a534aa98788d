"""Films chosen episodes of a rollout, one mp4 each."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from dexh2r_gym.run_folder import RunFolder


class VideoRecorder:
    """Writes `videos/<replay id>.mp4` of a run folder for the episodes in `filmed`, at their recording's frame rate.

    A film is written under another name and takes its own when its episode has ended, so one cut short is never left.
    """

    def __init__(self, folder: RunFolder, filmed: Collection[str]):
        self._folder = folder
        self._filmed = frozenset(filmed)
        self._open: dict[int, tuple[Any, Path, Path]] = {}

    def start(self, episodes: Mapping[int, str], env: Any) -> None:
        """Episodes (world -> replay id) have just been reset: film their first frame."""
        for world, replay_id in episodes.items():
            if replay_id not in self._filmed:
                continue
            final = self._folder.video_path(replay_id)
            final.parent.mkdir(exist_ok=True)
            partial = final.with_name(f"partial_{final.name}")
            writer = imageio.get_writer(partial, fps=env.metadata["render_fps"], macro_block_size=2)
            self._open[world] = writer, partial, final
            self._add(world, env)

    def add_frames(self, env: Any) -> None:
        """After a step: a frame of each world that is being filmed."""
        for world in self._open:
            self._add(world, env)

    def finish(self, world: int) -> None:
        """The episode of this world has ended."""
        if world in self._open:
            writer, partial, final = self._open.pop(world)
            writer.close()
            os.replace(partial, final)

    def close(self) -> None:
        """Drop what is unfinished."""
        for writer, partial, _ in self._open.values():
            writer.close()
            partial.unlink(missing_ok=True)
        self._open.clear()

    def _add(self, world: int, env: Any) -> None:
        self._open[world][0].append_data(np.asarray(env.render_world(world)))
