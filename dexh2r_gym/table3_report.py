"""The table of approaching motion: pure functions, rows of episodes -> table (json-able) -> markdown and plot.

Rates have Wilson's 95% intervals, means Student's. Agents are compared on the same trials: success and safety by
McNemar's exact test, penetration by Wilcoxon's signed ranks; p is corrected for the number of pairs (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

from dexh2r_gym.extras import import_extra
from dexh2r_gym.report import cell, summarise

Row = dict[str, Any]
Cell = tuple[str, str, str]  # agent, mode, backend
COLUMNS = {
    "succ": "succ %",
    "safe": "safe %",
    "pen_dep_cm": "pen_dep cm",
    "pen_fr": "pen_fr",
    "infer_fr": "infer_fr",
}
COMPARED = ("succ", "safe", "pen_dep")
# DexH2R (ICCV 2025), Table 3: succ, safe, pen_dep cm, pen_fr, infer_fr
PUBLISHED: dict[tuple[str, str], tuple[float, ...]] = {
    ("MotionNet", "easy"): (71.1, 25.9, 0.72, 8.3, 87.4),
    ("DP", "easy"): (39.4, 42.6, 0.69, 6.8, 97.7),
    ("DP3", "easy"): (66.3, 50.1, 0.73, 5.0, 96.8),
    ("MotionNet", "hard"): (26.6, 15.4, 0.79, 14.5, 99.6),
    ("DP", "hard"): (8.3, 38.5, 0.78, 9.7, 101.2),
    ("DP3", "hard"): (27.1, 33.7, 0.84, 9.3, 103.7),
}
PUBLISHED_LABEL = "published, on the DexH2R dataset, another simulator and alignment: not comparable one to one"
_SIGNIFICANT = 0.05
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")  # Okabe, Ito; grey


def build_table(runs: Mapping[Cell, Sequence[Row]], *, replays: str, split: str) -> dict[str, Any]:
    """The whole table of the episodes of each cell."""
    cells = [
        {"agent": agent, "mode": mode, "backend": backend, **summarise(rows)}
        for (agent, mode, backend), rows in runs.items()
    ]
    settings = list(dict.fromkeys((mode, backend) for _, mode, backend in runs))
    compared = []
    for mode, backend in settings:
        agents = [agent for agent, *setting in runs if tuple(setting) == (mode, backend)]
        compared += compare({agent: runs[agent, mode, backend] for agent in agents}, mode=mode, backend=backend)
    published = [
        {"method": method, "mode": mode, **dict(zip(COLUMNS, values, strict=True))}
        for (method, mode), values in PUBLISHED.items()
    ]
    return {
        "replays": replays,
        "split": split,
        "cells": cells,
        "compared": compared,
        "published": published,
        "published_label": PUBLISHED_LABEL,
    }


def compare(runs: Mapping[str, Sequence[Row]], **setting: str) -> list[dict[str, Any]]:
    """Each pair of agents on the trials that both have, by the paper's definitions.

    ValueError where two agents have no trial in common.
    """
    out: list[dict[str, Any]] = []
    for first, second in combinations(runs, 2):
        a, b = ({row["replay"]: row for row in runs[agent]} for agent in (first, second))
        common = sorted(set(a) & set(b))
        if not common:
            raise ValueError(f"{first} and {second} were evaluated on different trials")
        for metric in COMPARED:
            x, y = (np.array([float(rows[id][metric]) for id in common]) for rows in (a, b))
            p = paired_test(x, y, rate=metric != "pen_dep")
            scale = 1.0 if metric == "pen_dep" else 100.0
            difference = scale * float((y - x).mean())
            found = {"first": first, "second": second, "metric": metric, "difference": difference, "p": p}
            out.append({**setting, **found, "trials": len(common)})
    for metric in COMPARED:
        rows = [row for row in out if row["metric"] == metric]
        for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = corrected
    return out


def paired_test(x: np.ndarray, y: np.ndarray, *, rate: bool) -> float:
    """Two-sided p that two agents do alike on the same trials (N,): McNemar's exact for 0 and 1, else Wilcoxon's."""
    if rate:
        better, worse = int((y > x).sum()), int((y < x).sum())
        return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return float(wilcoxon(x, y).pvalue) if (x != y).any() else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction for many tests."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = least
    return corrected.tolist()


def table_markdown(table: Mapping[str, Any]) -> str:
    """The table as markdown, the published numbers beside it."""
    count = table["cells"][0]["episodes"]
    lines = [
        "# Approaching motion",
        "",
        f"Replays `{table['replays']}`, split {table['split']}, {count} trials, 95% intervals in brackets.",
    ]
    for definition in ("paper", "released"):
        lines += ["", f"## By the {'paper' if definition == 'paper' else 'released code'}'s definitions", ""]
        lines += ["| agent | mode | backend | " + " | ".join(COLUMNS.values()) + " |"]
        lines += ["|" + "---|" * (3 + len(COLUMNS))]
        for found in table["cells"]:
            numbers = [cell(found[definition][name], name) for name in COLUMNS]
            lines.append(f"| {found['agent']} | {found['mode']} | {found['backend']} | " + " | ".join(numbers) + " |")
    lines += ["", f"## Table 3 of the paper ({table['published_label']})", ""]
    lines += ["| method | mode | " + " | ".join(COLUMNS.values()) + " |"]
    lines += ["|" + "---|" * (2 + len(COLUMNS))]
    for row in table["published"]:
        lines.append(f"| {row['method']} | {row['mode']} | " + " | ".join(f"{row[n]:g}" for n in COLUMNS) + " |")
    told = [row for row in table["compared"] if row["p_holm"] < _SIGNIFICANT]
    lines += ["", "## Who differs from whom", ""]
    lines += [
        "Paired by trial, paper's definitions: McNemar's exact test for succ and safe (percentage points), Wilcoxon's "
        "signed ranks for pen_dep (cm); p corrected by Holm for the pairs of a setting. Pairs with p under 0.05:",
        "",
    ]
    for row in told:
        unit = "cm" if row["metric"] == "pen_dep" else "points"
        lines.append(
            f"- {row['mode']}, {row['backend']}: {row['second']} against {row['first']}, {row['metric']} "
            f"{row['difference']:+.3g} {unit}, p = {row['p_holm']:.2g}"
        )
    if not told:
        lines.append("- none")
    return "\n".join(lines) + "\n"


def plot_table(table: Mapping[str, Any], path: Path) -> None:
    """Bars with intervals: succ, safe and pen_dep of every agent, a group for each mode and backend.

    MissingExtraError where matplotlib is not installed.
    """
    cells = table["cells"]
    agents = list(dict.fromkeys(cell["agent"] for cell in cells))
    settings = list(dict.fromkeys((cell["mode"], cell["backend"]) for cell in cells))
    size = (3 + 0.5 * len(settings) * (1 + len(agents)), 8)
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=size)
    axes = figure.subplots(3, 1, sharex=True)
    titles = {"succ": "succ (%)", "safe": "safe (%)", "pen_dep_cm": "pen_dep (cm)"}
    width = 0.8 / len(agents)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for number, agent in enumerate(agents):
            mine = {(c["mode"], c["backend"]): c["paper"][name] for c in cells if c["agent"] == agent}
            at = np.array([i for i, setting in enumerate(settings) if setting in mine])
            found = [mine[settings[i]] for i in at]
            value, low, high = (np.array([f[key] for f in found], dtype=float) for key in ("value", "low", "high"))
            spread = np.stack((value - low, high - value)).clip(0)
            axis.bar(
                at + (number - (len(agents) - 1) / 2) * width,
                value,
                0.92 * width,
                yerr=spread,
                color=_COLOURS[number % len(_COLOURS)],
                label=agent,
                error_kw={"elinewidth": 1, "capsize": 2},
            )
        axis.set_ylabel(title)
        axis.set_ylim(0, 100 if name != "pen_dep_cm" else None)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xticks(range(len(settings)), [f"{mode}, {backend}" for mode, backend in settings])
    axes[0].legend(ncols=min(len(agents), 4), loc="lower left", bbox_to_anchor=(0, 1.02), frameon=False)
    figure.suptitle(f"Approaching motion, {table['replays']} {table['split']}, 95% intervals", y=0.995)
    figure.savefig(path, dpi=110, bbox_inches="tight")
