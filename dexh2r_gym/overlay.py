"""What happens in an episode, written into its picture."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_PANEL = (20, 24, 30, 175)  # rgba
_TEXT, _MUTED = (245, 245, 245), (170, 176, 184)
_COLOURS = {"approach": (86, 180, 233), "alignment": (230, 159, 0), "reached": (0, 158, 115)}  # Okabe and Ito
_ENDED = (213, 94, 0)
_FAR = 6.0  # times U, the distance at which the bar is empty


def draw_overlay(
    picture: NDArray[np.uint8],
    *,
    frame: int,
    d: float,
    start_distance: float,
    phase: str,
    depth: float,
    giver_force: float,
) -> NDArray[np.uint8]:
    """A copy of a picture (H, W, 3) with a panel in its upper left corner.

    Args:
        frame: of the recording.
        d: m, palm to goal palm; inf where no goal is free. It is drawn as a bar too, full at the goal, with a mark at
            `start_distance` (U, m), where alignment takes over.
        phase: approach, alignment, reached, or how the episode ended.
        depth: m, penetration of the hand into the object.
        giver_force: N, on the giver's hand.
    """
    height = picture.shape[0]
    size = max(9, round(height / 32))
    font, colour = _font(size), _COLOURS.get(phase, _ENDED)
    distance = "no free goal" if math.isinf(d) else f"{100 * d:.1f} cm"
    rows = [
        (phase, colour, f"frame {frame}"),
        ("d", _MUTED, distance),
        ("penetration", _MUTED, f"{1000 * depth:.1f} mm"),
        ("force on giver", _MUTED, f"{giver_force:.1f} N"),
    ]
    line, gap = round(1.35 * size), round(0.6 * size)
    width = round(13.5 * size)
    base = Image.fromarray(picture)
    panel = Image.new("RGBA", (width + 2 * gap, 5 * line + gap), _PANEL)
    pen = ImageDraw.Draw(panel)
    for i, (name, tint, value) in enumerate(rows):
        at = gap // 2 + i * line + (line if i > 1 else 0)  # the bar stands below d
        pen.text((gap, at), name, fill=tint, font=font)
        pen.text((gap + width, at), value, fill=_TEXT, font=font, anchor="ra")
    top = gap // 2 + 2 * line + line // 4
    box = (gap, top, gap + width, top + line // 2)
    pen.rectangle(box, fill=(70, 76, 86, 255))
    pen.rectangle((*box[:2], gap + width * _part(d, start_distance), box[3]), fill=colour)
    mark = gap + width * _part(start_distance, start_distance)
    pen.line((mark, top - 2, mark, box[3] + 2), fill=_TEXT, width=max(1, size // 8))
    base.paste(panel, (gap, gap), panel)
    return np.asarray(base)


def _part(d: float, start_distance: float) -> float:
    """How full the bar is: 0 from far away on, 1 at the goal; square root, so that the last centimetres show."""
    return 1 - min(1.0, d / (_FAR * start_distance)) ** 0.5


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
