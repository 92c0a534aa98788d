"""A trial as a video or a sheet of pictures, drawn without a screen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.show.timeline import Timeline

SIZE = (640, 480)  # of a video's frame, pixels: width, height
SHEET = (4, 3)  # pictures of a sheet: across, down
SHEET_SIZE = (400, 300)  # of each of them, with the gap to the next
GAP = 4  # pixels


def film(timeline: Timeline, path: str | Path, *, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> Path:
    """Draw a trial with its demonstration, or with the robot waiting where the trial has none; or a run's episode.

    Args:
        timeline: of the trial or episode.
        path: `.mp4` for a video in real time, `.png` for a sheet of twelve moments. Replaced if it exists, and never
            left half written.
        progress: wraps the numbers of the frames, for instance `tqdm`.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.
        RuntimeError: no OpenGL context could be made.
    """
    path = Path(path)
    writers = {".mp4": _write_all, ".png": _write_sheet}
    if path.suffix.lower() not in writers:
        raise ValueError(f"cannot write {path.name}: the name must end in {' or '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial_{path.name}")
    try:
        writers[path.suffix.lower()](timeline, partial, progress)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def pictures(timeline: Timeline, frames: Iterable[int], size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Pictures (height, width, 3) of some frames; size is width, height."""
    from dexh2r_gym.render import SceneRenderer

    renderer = SceneRenderer(*size)
    obj = timeline.replay.object_model
    try:
        for frame in frames:
            yield renderer.draw(timeline.scene, frame, obj, timeline.giver, timeline.bones[frame])
    finally:
        renderer.close()


def _write_all(timeline: Timeline, path: Path, progress: Callable[[Iterable[int]], Iterable[int]]) -> None:
    write_video(timeline, path, progress(range(timeline.replay.num_frames)))


def write_video(timeline: Timeline, path: Path, frames: Iterable[int]) -> None:
    """Some frames as a video in real time."""
    # imageio's own `with` leaves ffmpeg running where an error ends it
    with closing(imageio.get_writer(path, fps=timeline.replay.fps, macro_block_size=2)) as writer:
        for picture in pictures(timeline, frames, SIZE):
            writer.append_data(picture)


def _write_sheet(timeline: Timeline, path: Path, progress: Callable[[Iterable[int]], Iterable[int]]) -> None:
    """Moments at equal distances in time, the first and the last frame among them, read row by row."""
    across, down = SHEET
    moments = np.linspace(0, timeline.replay.num_frames - 1, across * down).round().astype(int).tolist()
    drawn = np.stack(list(pictures(timeline, progress(moments), SHEET_SIZE)))
    drawn[:, -GAP:], drawn[:, :, -GAP:] = 255, 255
    height, width = drawn.shape[1:3]
    sheet = drawn.reshape(down, across, height, width, 3).swapaxes(1, 2).reshape(down * height, across * width, 3)
    imageio.imwrite(path, sheet[:-GAP, :-GAP])
