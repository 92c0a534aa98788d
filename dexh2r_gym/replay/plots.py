"""Plots of a store for its data card. Needs matplotlib (extra `view`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.extras import import_extra
from dexh2r_gym.replay.reference import DEXH2R, ONE_HAND, PASSING, REFERENCES, RPL, WALKING
from dexh2r_gym.replay.replay import SPLITS
from dexh2r_gym.replay.splits import TEST_KINDS
from dexh2r_gym.replay.statistics import MEASURES
from dexh2r_gym.replay.store import ReplayStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too; the markers tell the sources apart without colour
_BARS, _OURS = "#56B4E9", "#0072B2"
_LOOKS = {
    RPL: ("#D55E00", "D"),
    WALKING: ("#000000", "o"),
    ONE_HAND: ("#009E73", "s"),
    PASSING: ("#CC79A7", "^"),
    DEXH2R: ("#E69F00", "v"),
}
_ROW = 0.075  # height of a row of marks above a histogram, in heights of the axes
_SPLIT_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
_ROBOT = "#D55E00"
_DPI = 100
_BINS = 20
_PATHS = 40  # trials whose paths are drawn

_MOTION = {
    "seconds": "duration (s)",
    "frames": "frames of a trial",
    "path": "object's path (m)",
    "net_displacement": "first place to last (m)",
    "mean_speed": "mean speed while moving (m/s)",
    "peak_speed": "peak speed (m/s)",
    "taken_speed": "speed as the robot takes it (m/s)",
    "turned": "rotation, summed (°)",
}
_TAKING = {
    "demo_seconds": "robot's time to its grasp (s)",
    "demo_path": "robot's path to its grasp (m)",
    "clearance": "robot's least gap to the giver (mm)",
    "start_distance": "robot's start from the object (m)",
    "free_goals": "goals free to the end",
    "overlap": "giver's skin in the object (mm)",
}


def write_plots(
    store: ReplayStore, columns: Mapping[str, NDArray[np.float64]], folder: str | Path, *, seed: int = 0
) -> list[Path]:
    """Draw what `measure_trials` found in a store, and write PNG files into a folder that exists.

    Args:
        store: whose trials they are.
        columns: `measure_trials` of all its trials, in their order.
        folder: where to.
        seed: of the choice of trials whose paths are drawn.

    Returns:
        The files written: counts, motion, paths, taking.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = {
        "counts": counts_figure(store),
        "motion": histogram_figure(columns, _MOTION),
        "paths": paths_figure(store, seed),
        "taking": histogram_figure(columns, _TAKING),
    }
    paths = []
    for name, figure in drawn.items():
        paths.append(Path(folder, f"{name}.png"))
        figure.savefig(paths[-1], dpi=_DPI, metadata={"Software": None})
    return paths


def histogram_figure(columns: Mapping[str, NDArray[np.float64]], labels: Mapping[str, str]) -> Figure:
    """A histogram a measure, with the figures of others as lines and bands. Measures that no trial has are left out."""
    shown = [name for name in labels if not np.isnan(columns[name]).all()]
    rows = 1 if len(shown) <= 4 else 2
    figure = _figure(3.1 * -(-len(shown) // rows), 2.9 * rows + 0.6)
    grid = figure.subplots(rows, -(-len(shown) // rows), squeeze=False).flat
    marks: dict[str, Any] = {}
    for axes, name in zip(grid, shown, strict=False):
        scale = MEASURES[name].scale
        values = columns[name][~np.isnan(columns[name])] / scale
        counts, _, _ = axes.hist(values, bins=_bins(values, name), color=_BARS, edgecolor="white", linewidth=0.3)
        references = [r for r in REFERENCES if r.measure == name]
        low, median, high = np.percentile(values, (5, 50, 95))
        marks["these trials: median, 5 to 95%"] = _mark(axes, 0, low, median, high, _OURS, "|")
        for row, r in enumerate(references, start=1):
            marks[r.source] = _mark(axes, row, r.low / scale, None, r.high / scale, *_LOOKS[r.source])
        axes.set_ylim(0, counts.max() / (1 - _ROW * (len(references) + 2)))
        if values.min() >= 0:
            axes.set_xlim(left=0)
        axes.set_xlabel(labels[name])
        axes.set_ylabel("trials")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def counts_figure(store: ReplayStore) -> Figure:
    """Trials of each kind and of each object, and the giver's ways to hold where the store's provenance counts them."""
    kinds = count_kinds(store)
    colours = [_SPLIT_COLOURS.get(kind, _SPLIT_COLOURS["test"]) for kind in kinds]
    objects: dict[str, dict[str, int]] = {}
    for info in store.infos:
        counts = objects.setdefault(info.object, dict.fromkeys(_SPLIT_COLOURS, 0))
        counts[info.split] += 1
    ways = giver_ways(store)
    layout: Any = [["kinds", "objects"], ["ways", "objects"]] if ways else [["kinds", "objects"]]
    figure = _figure(11.0, max(3.2, 1.2 + 0.16 * len(objects)))
    panels = figure.subplot_mosaic(layout, width_ratios=(1, 1.4))
    _bars(panels["kinds"], kinds, colours)
    if ways:
        _bars(panels["ways"], ways, [_BARS] * len(ways))
        panels["ways"].set_title("giver's ways to hold", fontsize=11)
    right = panels["objects"]
    names = sorted(objects, key=lambda name: sum(objects[name].values()))
    start = np.zeros(len(names))
    for split, colour in _SPLIT_COLOURS.items():
        count = np.array([objects[name][split] for name in names])
        right.barh(range(len(names)), count, left=start, color=colour, label=split)
        start += count
    right.set_yticks(range(len(names)), [_words(name) for name in names], fontsize=8)
    right.set_ylim(-0.6, len(names) - 0.4)
    right.set_xlabel("trials")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def paths_figure(store: ReplayStore, seed: int = 0) -> Figure:
    """Paths of the object from above and from the side in up to 40 trials drawn at random, and the robot's starts."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(store))[:_PATHS])
    paths = [store[int(i)].object_pose[:, :3].numpy() for i in chosen]
    starts = np.stack([store[int(i)].hand_start[:3].numpy() for i in chosen])
    figure = _figure(11.0, 5.0)
    views = figure.subplots(1, 2)
    for axes, (across, up), title in zip(views, ((0, 1), (0, 2)), ("from above", "from the side"), strict=True):
        for path in paths:
            line = axes.plot(path[:, across], path[:, up], color="#0072B2", linewidth=0.9, alpha=0.6)[0]
            end = axes.plot(*path[-1, [across, up]], "o", color="black", markersize=4)[0]
        start = axes.plot(starts[:, across], starts[:, up], "^", color=_ROBOT, markersize=6)[0]
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"{'xyz'[across]} (m)")
        axes.set_ylabel(f"{'xyz'[up]} (m)")
        axes.set_title(f"{title}, {len(paths)} trials", fontsize=11)
        axes.grid(linewidth=0.4, color="#DDDDDD")
    labels = ("object's path", "its end", "robot's palm at frame 0")
    figure.legend((line, end, start), labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def count_kinds(store: ReplayStore) -> dict[str, int]:
    """Trials of each kind that occurs, train and validation first."""
    counts = Counter(info.kind for info in store.infos)
    return {kind: counts[kind] for kind in sorted(counts, key=(*SPLITS[:2], *TEST_KINDS, *sorted(counts)).index)}


def giver_ways(store: ReplayStore) -> dict[str, int]:
    """How often the giver holds in which way, as the store's provenance tells it under "giver_ways"; else empty."""
    ways = store.attrs.get("provenance", {}).get("giver_ways", {})
    if not isinstance(ways, Mapping):
        return {}
    return {str(name): count for name, count in ways.items() if isinstance(count, int)}


def _figure(width: float, height: float) -> Figure:
    return import_extra("matplotlib.figure", "view").Figure(figsize=(width, height), layout="constrained")


def _bins(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """At most `_BINS` bins; of whole numbers each bin holds equally many."""
    low, high = float(values.min()), float(values.max())
    if MEASURES[name].digits == 0 and MEASURES[name].scale == 1.0:
        step = max(1.0, np.ceil((high - low + 1) / _BINS))
        return np.arange(low - 0.5, high + step + 0.5, step)
    return np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, high + 0.5, 3)


def _mark(axes: Axes, row: int, low: float, middle: float | None, high: float, colour: str, marker: str) -> Any:
    """A range as a line, and its middle or both its ends as markers, in one of the rows above a histogram."""
    ends = [low, high] if middle is None else [low, middle, high]
    place = axes.get_xaxis_transform()  # heights in heights of the axes
    height = [1 - _ROW * (row + 0.5)] * len(ends)
    return axes.plot(ends, height, color=colour, marker=marker, markersize=6, linewidth=1.8, transform=place)[0]


def _bars(axes: Axes, counts: Mapping[str, int], colours: Sequence[str]) -> None:
    names = list(counts)[::-1]
    bars = axes.barh([_words(name) for name in names], [counts[n] for n in names], color=list(colours)[::-1])
    axes.bar_label(bars, padding=3)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("trials")


def _words(name: str) -> str:
    return name.replace("_", " ")
