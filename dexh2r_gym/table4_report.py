"""The table of proposed grasps: pure functions, what was measured -> scores -> report (json-able) -> markdown and plot.

Objects are what was sampled: a mean is over objects, each with as many grasps, and has Student's 95% interval over
them. First choices are counted over trials, with Wilson's. The plot needs matplotlib (extra `view`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from dexh2r_gym.extras import import_extra
from dexh2r_gym.grasps.scores import diversity, stable_any, stable_one
from dexh2r_gym.grasps.splits import TRAIN_OBJECTS
from dexh2r_gym.grasps.stability import is_stable
from dexh2r_gym.intervals import mean_interval, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dexh2r_gym.table4 import Measured

Row = dict[str, Any]


class Column(NamedTuple):
    """One score of the table."""

    title: str
    digits: int
    most: float  # what it cannot exceed


COLUMNS = {
    "succ6": Column("succ6 %", 1, 100.0),
    "succ1": Column("succ1 %", 1, 100.0),
    "succ1_any": Column("succ1 (any) %", 1, 100.0),
    "gravity": Column("gravity %", 1, 100.0),
    "div_rad": Column("div rad", 3, math.inf),
    "pen_depth_cm": Column("pen_depth cm", 2, math.inf),
    "pen_depth_exact_cm": Column("pen_depth (exact) cm", 2, math.inf),
    "false_depth": Column("false depth %", 1, 100.0),
}
# DexH2R (ICCV 2025), Table 4: generator of ours that is its counterpart -> its row
PUBLISHED: dict[str, Row] = {
    "cvae": {
        "method": "cVAE", "pre_trained": True, "succ6": 35.00, "succ1": 79.38, "div_rad": 0.134, "pen_depth_cm": 2.23
    },
    "cvae-scratch": {
        "method": "cVAE", "pre_trained": False, "succ6": 35.56, "succ1": 76.56, "div_rad": 0.105, "pen_depth_cm": 2.36
    },
    "diffusion": {
        "method": "DexGraspAnything",
        "pre_trained": True, "succ6": 52.81, "succ1": 88.75, "div_rad": 0.123, "pen_depth_cm": 1.64
    },
    "diffusion-scratch": {
        "method": "DexGraspAnything",
        "pre_trained": False, "succ6": 50.62, "succ1": 89.38, "div_rad": 0.112, "pen_depth_cm": 1.83
    },
}  # fmt: skip
FALSE_DEPTH = 0.01  # m, by which the released definition has to be deeper than the exact depth to be called false
PUBLISHED_LABEL = "published, on the DexH2R dataset, Isaac Gym: another dataset, not comparable one to one"
# Okabe and Ito's colours, told apart by colour-blind readers too
_BAR, _THEIRS = "#56B4E9", "#D55E00"
_LEGEND = (
    "Means over objects, 95% intervals in brackets (Student's t: objects are what was sampled).",
    "",
    "- succ6: the object moves less than 2 cm under each of six pushes of 500 N/m3. succ1: under one of them, drawn at "
    "random (the paper's words); any: under at least one (the released code). gravity: under its own weight along each "
    "of the six axes, 2 s, friction 0.8, no damping.",
    "- div: standard deviation of the joints over the grasps that succ6 counts, mean of the 22; objects with fewer "
    "than two such grasps are left out.",
    "- pen_depth: deepest hand point by the released code's definition, mean over grasps; exact: by signed distance to "
    "the solid. The released definition (nearest sample, sign by its normal) takes points beside a thin or sharp-edged "
    f"part for points inside: false depth is the share of grasps that it has {100 * FALSE_DEPTH:g} cm deeper than they "
    "are, or more.",
)
_CHOICE_LEGEND = (
    "Grasps left (median over trials) passed the tests named and keep clear of the giver's hand in the last frame; the "
    "nearest of them to the robot's start is taken. It holds if the object then moves less than 2 cm in 2 s under its "
    "own weight, which pulls as in the last frame; friction 0.8. Disturbed: the palm 3 mm and 3 degrees off in random "
    "directions, friction 0.6, which judges also those fairly that were chosen by the gravity test. A trial with none "
    "left counts as not held. 95% intervals (Wilson's) over trials."
)
_PANELS = {"succ6": "succ6 (%)", "succ1": "succ1, one random push (%)", "pen_depth_cm": "pen_depth, released code (cm)"}


def object_scores(measured: Measured, seed: int) -> Row:
    """The columns of the table for one object: rates in percent, depths in cm; div_rad is None where it is unknown.

    `seed`: of the one push drawn for each grasp, for succ1.
    """
    rates = {
        "succ6": is_stable(measured.released),
        "succ1": stable_one(measured.released, torch.Generator().manual_seed(seed)),
        "succ1_any": stable_any(measured.released),
        "gravity": is_stable(measured.gravity),
    }
    false = measured.depth_released > measured.depth + FALSE_DEPTH
    div = diversity(measured.joints, measured.released)
    return {
        **{name: 100.0 * float(good.double().mean()) for name, good in rates.items()},
        "div_rad": div if math.isfinite(div) else None,
        "pen_depth_cm": 100.0 * float(measured.depth_released.double().mean()),
        "pen_depth_exact_cm": 100.0 * float(measured.depth.double().mean()),
        "false_depth": 100.0 * float(false.double().mean()),
        "seconds": measured.seconds,
        "threads": measured.threads,
    }


def build_report(
    config: Row, scores: Mapping[str, Mapping[str, Row]], choices: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
    """The whole table.

    Args:
        config: of the run.
        scores: generator -> object -> columns (`object_scores`).
        choices: generator -> rows of `dexh2r_gym.table4.first_choices`.
    """
    return {
        "config": config,
        "generators": {
            name: {
                "mean": {column: _mean([row[column] for row in rows.values()], column) for column in COLUMNS},
                "by_object": dict(rows),
                "propose_seconds": {
                    "median": median(row["seconds"] for row in rows.values()),
                    "most": max(row["seconds"] for row in rows.values()),
                    "threads": max(row["threads"] for row in rows.values()),
                },
                "first_choice": summarise_choices(choices[name]),
                "trials": list(choices[name]),
            }
            for name, rows in scores.items()
        },
        "published": {"label": PUBLISHED_LABEL, "rows": PUBLISHED},
    }


def summarise_choices(rows: Sequence[Row]) -> dict[str, Row]:
    """Filter -> trials, trials it leaves no grasp in, grasps left, and rates; an empty pool counts as not held."""
    summary = {}
    for tests in dict.fromkeys(row["filter"] for row in rows):
        own = [row for row in rows if row["filter"] == tests]
        summary[tests] = {
            "trials": len(own),
            "none_passed": sum(row["passed"] == 0 for row in own),
            "emptied": sum(row["left"] == 0 for row in own),
            "median_left": median(row["left"] for row in own),
            **{name: _rate([row.get(name, False) for row in own]) for name in ("held", "held_disturbed")},
        }
    return summary


def _mean(values: Sequence[float | None], column: str) -> Row:
    """Mean over the objects for which the value is known, and its interval, never beyond what the score can be."""
    known = np.array([value for value in values if value is not None])
    low, high = (float(np.clip(x, 0.0, COLUMNS[column].most)) for x in mean_interval(known))
    several = len(known) > 1
    return {
        "value": float(known.mean()) if len(known) else None,
        "low": low if several else None,
        "high": high if several else None,
        "objects": len(known),
    }


def _rate(held: Sequence[bool]) -> Row:
    low, high = wilson_interval(sum(held), len(held))
    return {"value": 100.0 * sum(held) / len(held), "low": 100.0 * low, "high": 100.0 * high}


# ------------------------------------------------------------------------------------------------------------- markdown
def to_markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    setting, generators = report["config"]["table4"], report["generators"]
    objects, num = setting["objects"], setting["num"]
    heads = [column.title for column in COLUMNS.values()]
    seen = [name for name in objects if name in TRAIN_OBJECTS]
    threads = max(found["propose_seconds"]["threads"] for found in generators.values())
    lines = [
        f"# Table 4: grasps proposed for {len(objects)} objects",
        "",
        f"{num} proposals for each of {', '.join(objects)}; seed {setting['seed']}.",
        *(["", f"**Not unseen: the generators of this library learned from {', '.join(seen)}.**"] if seen else []),
        "",
        "## Ours: objects of this library, MuJoCo",
        "",
        *_head("generator", *heads, f"s for {num}"),
    ]
    for name, found in generators.items():
        cells = [_cell(found["mean"][column], COLUMNS[column].digits) for column in COLUMNS]
        lines.append(_line(name, *cells, f"{found['propose_seconds']['median']:.2f}"))
    lines += [
        "",
        f"## {PUBLISHED_LABEL[0].upper()}{PUBLISHED_LABEL[1:]}",
        "",
        *_head("method", "pre-trained", "succ6 %", "succ1 %", "div rad", "pen_depth cm", "ours"),
    ]
    for name, row in PUBLISHED.items():
        rates = [f"{row[column]:.2f}" for column in ("succ6", "succ1")]
        pre_trained = "yes" if row["pre_trained"] else "no"
        lines.append(
            _line(row["method"], pre_trained, *rates, f"{row['div_rad']:.3f}", f"{row['pen_depth_cm']:.2f}", name)
        )
    lines += ["", *_LEGEND, f"- Time: median over objects of one call, {threads} thread(s) of torch."]
    lines += ["", "## First choice of the pipeline", "", *_choice_lines(report)]
    for name, found in generators.items():
        lines += ["", f"## By object: {name}", "", *_head("object", *heads, f"s for {num}")]
        for object_name, row in found["by_object"].items():
            cells = [_number(row[column], COLUMNS[column].digits) for column in COLUMNS]
            lines.append(_line(object_name, *cells, f"{row['seconds']:.2f}"))
    return "\n".join(lines) + "\n"


def _choice_lines(report: dict[str, Any]) -> list[str]:
    replays = report["config"]["table4"]["replays"]
    count = len(report["config"]["replay_ids"])
    if count == 0:
        return [f"None was tested: no trial of `{replays}` with these objects was asked for, or there is none."]
    lines = _head("generator", "tests passed", "grasps left", "none left", "holds %", "holds, disturbed %")
    for name, found in report["generators"].items():
        for tests, row in found["first_choice"].items():
            rates = [_cell(row[column], 1) for column in ("held", "held_disturbed")]
            lines.append(_line(name, tests, f"{row['median_left']:g}", f"{row['emptied']} of {row['trials']}", *rates))
    names = sorted({row["object"] for found in report["generators"].values() for row in found["trials"]})
    return [*lines, "", f"{count} trials of `{replays}` with {', '.join(names)}. {_CHOICE_LEGEND}"]


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|" + "---|" * len(cells)]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cell(estimate: Row, digits: int) -> str:
    value, low, high = (_number(estimate[key], digits) for key in ("value", "low", "high"))
    return value if estimate["low"] is None else f"{value} [{low}, {high}]"


# ----------------------------------------------------------------------------------------------------------------- plot
def draw_report(report: dict[str, Any], path: str | Path) -> None:
    """Bars of succ6, succ1 and pen_depth with their intervals, and the published values as diamonds: a PNG file.

    MissingExtraError where matplotlib is not installed.
    """
    generators = report["generators"]
    width = 3.6 * len(_PANELS)
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=(width, 1.8 + 0.4 * len(generators)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (column, label) in zip(panels, _PANELS.items(), strict=True):
        _draw_column(axes, {name: found["mean"][column] for name, found in generators.items()}, column)
        axes.set_xlabel(label)
        axes.set_xlim(0, 100 if COLUMNS[column].most == 100 else None)
    panels[0].invert_yaxis()  # shared: the first generator on top
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _draw_column(axes: Axes, means: Mapping[str, Row], column: str) -> None:
    names = list(means)
    known = [(place, means[name]) for place, name in enumerate(names) if means[name]["value"] is not None]
    places, values = [place for place, _ in known], [mean["value"] for _, mean in known]
    ends = [[mean["value"] if mean[end] is None else mean[end] for _, mean in known] for end in ("low", "high")]
    reach = np.abs(np.array(ends) - values)
    axes.barh(places, values, xerr=reach, color=_BAR, capsize=3, label="here: mean over objects, 95% interval")
    theirs = [name for name in names if name in PUBLISHED]
    axes.plot(
        [PUBLISHED[name][column] for name in theirs],
        [names.index(name) for name in theirs],
        "D",
        color=_THEIRS,
        markeredgecolor="black",
        label="published: another dataset (DexH2R, Isaac Gym)",
    )
    axes.set_yticks(range(len(names)), names)
    axes.spines[["top", "right"]].set_visible(False)
