"""What stands beside the scene: words on the frame, and curves over the frames with a cursor, drawn as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.alignment import START_DISTANCE
from dexh2r_gym.show.contacts import PAIRS, Contacts
from dexh2r_gym.show.timeline import Timeline

WIDTH, HEIGHT, LABEL = 300, 36, 16  # of a curve and of the line of text above it, in the SVG's units
_LEFT = 8
_CURVE, _CURSOR, _SHADE = "#0072b2", "#d55e00", "#cc79a7"


@dataclass(frozen=True)
class Curve:
    """A number over the frames."""

    name: str
    unit: str
    values: NDArray[np.float64]  # (T,), inf where there is none
    least_top: float  # of the upper edge, at least: noise is not drawn large
    line: float | None = None  # drawn across

    @property
    def top(self) -> float:
        """What the upper edge stands for; the lower one is 0."""
        finite = self.values[np.isfinite(self.values)]
        return max(self.least_top, float(finite.max(initial=0.0)))


class Charts:
    """Curves of a timeline below each other: d, and of an episode depth and the force on the giver's hand."""

    def __init__(self, timeline: Timeline, d: NDArray[np.float64]):
        record = timeline.record
        self._frames = timeline.replay.num_frames
        start = None if record is None else START_DISTANCE.get(str(record["mode"]))
        self._curves = [Curve("d, palm to the nearest free goal", "cm", 100 * d, 10.0, start and 100 * start)]
        if record is not None:
            self._curves += [
                Curve("depth of the hand in the object", "mm", 1000 * record["depth"], 2.0),
                Curve("force on the giver's hand", "N", record["giver_force"], 1.0),
            ]
        self._fixed = [self._still(curve, timeline.alignment_begin) for curve in self._curves]

    def svg(self, t: int) -> str:
        """The curves with a cursor at frame t."""
        x, step = self._x(t), HEIGHT + LABEL + 6
        parts = []
        for i, (curve, fixed) in enumerate(zip(self._curves, self._fixed, strict=True)):
            value = curve.values[t]
            now = f"<tspan font-weight='bold'>{value:.1f}</tspan> of " if np.isfinite(value) else "none is free; "
            parts.append(
                f'<g transform="translate(0 {i * step})"><text x="{_LEFT}" y="11">{escape(curve.name)}</text>'
                f'<text x="{WIDTH - 2}" y="11" text-anchor="end">{now}{curve.top:.3g} {curve.unit}</text>{fixed}'
                f'<line class="cursor" x1="{x:.2f}" x2="{x:.2f}" y1="{LABEL}" y2="{LABEL + HEIGHT}" '
                f'stroke="{_CURSOR}" stroke-width="1.5"/></g>'
            )
        return (
            f'<svg class="charts" viewBox="0 0 {WIDTH} {len(parts) * step}" width="100%" font-size="10.5" '
            f'fill="currentColor" style="display:block;padding:0 0.6em;box-sizing:border-box">{"".join(parts)}</svg>'
        )

    def _x(self, t: float) -> float:
        return _LEFT + (WIDTH - _LEFT - 2) * t / max(1, self._frames - 1)

    def _still(self, curve: Curve, begin: int) -> str:
        """What does not depend on the cursor: frame, shade over the alignment, curve."""
        left, right, bottom = self._x(0), self._x(self._frames - 1), LABEL + HEIGHT

        def y(value: float) -> float:
            return bottom - HEIGHT * value / curve.top

        parts = [f'<rect x="{left}" y="{LABEL}" width="{right - left}" height="{HEIGHT}" fill="#80808018"/>']
        if begin < self._frames:
            x = self._x(begin)
            parts.append(
                f'<rect class="alignment" x="{x:.2f}" y="{LABEL}" width="{max(1.0, right - x):.2f}" height="{HEIGHT}" '
                f'fill="{_SHADE}" fill-opacity="0.25"/>'
            )
        if curve.line is not None:
            parts.append(
                f'<line x1="{left}" x2="{right}" y1="{y(curve.line):.2f}" y2="{y(curve.line):.2f}" '
                f'stroke="{_SHADE}" stroke-dasharray="3 2"/>'
            )
        for run in _runs(np.isfinite(curve.values)):
            points = " ".join(f"{self._x(t):.2f},{y(curve.values[t]):.2f}" for t in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{_CURVE}" stroke-width="1.3"/>')
        return "".join(parts)


def describe(timeline: Timeline, t: int, d: float, contacts: Contacts) -> str:
    """Markdown on frame t."""
    replay, record = timeline.replay, timeline.record
    free = replay.goal_free[t]
    if record is not None:
        what, ended = timeline.phase(t), timeline.phase(replay.num_frames - 1)
        head, phase = f"**{replay.id}**: {ended}", f"phase: **{what}**"
    else:
        head = f"**{replay.id}** ({replay.kind.replace('_', ' ')}), {replay.side} hand"
        phase = "demonstration" if replay.has_demo else "no demonstration: the robot waits"
    numbers = [f"d {100 * d:.1f} cm" if np.isfinite(d) else "no goal is free"]
    if record is not None:
        numbers.append(f"depth {1000 * record['depth'][t]:.1f} mm, force on the giver {record['giver_force'][t]:.1f} N")
    lines = [
        head,
        f"{t / replay.fps:.2f} of {(replay.num_frames - 1) / replay.fps:.2f} s (frame {t}), {phase}",
        ", ".join(numbers),
        f"{int(free.sum())} of {len(free)} goals free",
        "contacts: " + ", ".join(f"{contacts.count(pair)} {pair}" for pair in PAIRS),
    ]
    return "\n\n".join(lines)


def key(name: str, colours: dict[str, tuple[int, int, int]]) -> str:
    """HTML that says what the colours mean."""
    spots = (
        f'<span style="white-space:nowrap"><span style="color:rgb{colour}">&#9679;</span> {escape(what)}</span>'
        for what, colour in colours.items()
    )
    words = f"{escape(name)}: {' &ensp;'.join(spots)}"
    return f'<div style="padding:0 0.8em 0.4em;font-size:0.8em;line-height:1.5">{words}</div>'


def _runs(shown: NDArray[np.bool_]) -> list[range]:
    """Stretches of frames that are shown."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], shown, [False])).astype(np.int8)))
    return [range(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
