"""Films of the same trials by different agents, side by side in one (the paper's Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

_WIDTH = 320  # pixels of one film
_LINE = 28  # pixels above each row, for the agent's name
_ENDED = 0.55  # brightness of a film that has ended


def video_wall(films: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Write a film whose rows are agents and whose columns are trials; those that end early stay, darker.

    films: of each agent the films of the same trials in the same order. FileNotFoundError names one that is missing.
    """
    rows = {agent: [_read(path) for path in paths] for agent, paths in films.items()}
    length = max(len(film) for row in rows.values() for film, _ in row)
    rate = next(iter(rows.values()))[0][1]
    partial = out.with_name(f"partial_{out.name}")
    # imageio's own `with` leaves ffmpeg running where an error ends it
    with closing(imageio.get_writer(partial, fps=rate, macro_block_size=2)) as writer:
        for t in tqdm(range(length), desc="video wall", unit="frame", leave=False, delay=2):
            wall = []
            for agent, row in rows.items():
                pictures = np.concatenate([_at(film, t) for film, _ in row], axis=1)
                wall += [_label(agent, pictures.shape[1]), pictures]
            writer.append_data(np.concatenate(wall))
    partial.replace(out)


def _read(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """Frames of a film, made small, and its rate."""
    if not path.is_file():
        raise FileNotFoundError(f"no film {path}: evaluate the agent with --video")
    reader: Any = imageio.get_reader(path)
    with reader:
        rate = float(reader.get_meta_data()["fps"])
        frames = [Image.fromarray(frame) for frame in reader]
    height = round(_WIDTH * frames[0].height / frames[0].width / 2) * 2
    return [np.asarray(frame.resize((_WIDTH, height))) for frame in frames], rate


def _at(film: Sequence[NDArray[np.uint8]], t: int) -> NDArray[np.uint8]:
    return film[t] if t < len(film) else (_ENDED * film[-1]).astype(np.uint8)


def _label(text: str, width: int) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (width, _LINE), (24, 24, 28))
    ImageDraw.Draw(picture).text((8, 5), text, fill=(240, 240, 240), font=ImageFont.load_default(size=16))
    return np.asarray(picture)
