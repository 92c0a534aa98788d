"""From per-episode numbers to a report: pure functions, rows -> report (a json-able dict) -> markdown.

A row is what `dexh2r_gym.evaluate.episode_row` computes from one recorded episode: its metrics under both definitions,
why it ended, and in how many frames the two depths disagree. Rates are in percent, with Wilson's 95% intervals; means
have Student's; differences are released minus paper, paired by episode.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dexh2r_gym.intervals import mean_interval, wilson_interval
from dexh2r_gym.metrics import METRICS, PEN_FRAME_DEPTH, RELEASED_SKIPPED_FRAMES, SAFE_MEAN_DEPTH
from dexh2r_gym.report_physical import handover_lines, safety_lines, summarise_handover, summarise_safety
from dexh2r_gym.sim import PHYSICAL

REPORTED = dict(zip(METRICS, ("succ", "safe", "pen_dep_cm", "pen_fr", "infer_fr", "traj_len_m"), strict=True))
RATES = ("succ", "safe")
UNITS = {
    "succ": "%",
    "safe": "%",
    "pen_dep_cm": "cm",
    "pen_fr": "frames",
    "infer_fr": "frames",
    "traj_len_m": "m",
    "giver_force_N": "N",
}

Row = dict[str, Any]


def build_report(
    rows: Sequence[Row],
    *,
    config: dict[str, Any],
    missing: Sequence[str] = (),
    speed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole report of a run. `missing`: replay ids of the split that have no episode yet."""
    rows = sorted(rows, key=lambda row: row["replay"])
    setting = config["evaluation"]
    return {
        "config": config,
        "episodes": len(rows),
        "missing": sorted(missing),
        "units": UNITS,
        "overall": summarise(rows),
        "by_kind": _by(rows, "kind"),
        "by_object": _by(rows, "object"),
        "ended": dict(Counter(row["status"] for row in rows).most_common()),
        "released_depth": false_positives(rows),
        "safety": summarise_safety(rows) if rows and setting["backend"] in PHYSICAL else None,
        "handover": summarise_handover(rows) if rows and setting["ending"] == "hold" else None,
        "speed": speed,
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Metrics of a group of episodes, each as {value, low, high}: paper, released, difference; force on the giver."""
    paper, released, difference = {}, {}, {}
    for metric, name in REPORTED.items():
        a, b = _values(rows, metric), _values(rows, f"{metric}_released")
        paper[name], released[name] = _estimate(metric, a), _estimate(metric, b)
        difference[name] = _mean(_scale(metric) * (b - a), lowest=-math.inf)
    return {
        "episodes": len(rows),
        "paper": paper,
        "released": released,
        "difference": difference,
        "giver_force_N": _estimate("giver_force", _values(rows, "max_giver_force")),
    }


def false_positives(rows: Sequence[Row]) -> dict[str, Any]:
    """How much the released definition's depth errs, over the frames that it counts: against the mesh-exact depth."""
    total = {
        name: int(_values(rows, name).sum()) for name in ("frames", "pen_fr_released", "false_frames", "missed_frames")
    }
    true_penetrating = _values(rows, "pen_fr_released") - _values(rows, "false_frames")
    unsafe = _values(rows, "pen_fr_released") > 0
    depth_cm, false_cm = _values(rows, "pen_dep_released"), _values(rows, "false_depth_cm")
    return {
        "frames": total["frames"],
        "penetrating_frames": total["pen_fr_released"],
        "false_frames": total["false_frames"],  # penetrating, but the hand is wholly outside the mesh
        "missed_frames": total["missed_frames"],  # not penetrating, but a hand point is inside the mesh
        "deepest_false_cm": float(_values(rows, "deepest_false_cm").max(initial=0.0)),
        "unsafe_episodes": int(unsafe.sum()),
        "unsafe_only_by_false_frames": int((unsafe & (true_penetrating == 0)).sum()),
        "safe": _estimate("safe", ~unsafe),
        "safe_without_false_frames": _estimate("safe", true_penetrating == 0),
        "pen_dep_cm": _estimate("pen_dep", depth_cm),
        "pen_dep_cm_without_false_frames": _estimate("pen_dep", depth_cm - false_cm),
    }


def _by(rows: Sequence[Row], key: str) -> dict[str, Any]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(row)
    return {name: summarise(groups[name]) for name in sorted(groups)}


def _values(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _scale(metric: str) -> float:
    return 100.0 if metric in RATES else 1.0


def _estimate(metric: str, values: np.ndarray) -> dict[str, float | None]:
    if metric not in RATES:
        return _mean(values, lowest=0.0)
    low, high = wilson_interval(int(values.sum()), len(values))
    value = 100.0 * float(values.mean()) if len(values) else None
    return {"value": value, "low": 100.0 * low, "high": 100.0 * high}


def _mean(values: np.ndarray, lowest: float) -> dict[str, float | None]:
    """Mean and its interval, which never goes below what the quantity can be; None: unknown (fewer than two values)."""
    low, high = mean_interval(values)
    known = math.isfinite(low)
    return {
        "value": float(values.mean()) if len(values) else None,
        "low": max(low, lowest) if known else None,
        "high": high if known else None,
    }


# ------------------------------------------------------------------------------------------------------------- markdown
def to_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    config, n = report["config"], report["episodes"]
    setting = config["evaluation"]
    lines = [
        f"# {setting['agent']}: {setting['split']} split, {setting['mode']} mode, {setting['backend']}",
        "",
        f"{n} episodes of {len(config['replay_ids'])} replays from `{setting['replays']}`, seed {setting['seed']}.",
    ]
    if report["missing"]:
        lines += ["", f"**Incomplete: {len(report['missing'])} episodes are missing.**"]
    overall = report["overall"]
    lines += ["", "## Approach", "", "| | paper | released code | difference |", "|---|---|---|---|"]
    for name in REPORTED.values():
        cells = [cell(overall[column][name], name) for column in ("paper", "released", "difference")]
        lines.append(f"| {name}{_unit(name)} | {' | '.join(cells)} |")
    lines += [
        "",
        "95% intervals in brackets; difference: released minus paper, paired by episode.",
        "",
        "- Paper: depth by mesh-exact signed distance, over all frames. succ: the palm came within 1 cm of the goal "
        "(with alignment none also: the hand stood still in a stable grasp of its own). "
        f"safe: mean depth below {1000 * SAFE_MEAN_DEPTH:g} mm. pen_fr: frames deeper than "
        f"{1000 * PEN_FRAME_DEPTH:g} mm. (The paper does not give its thresholds.)",
        "- Released code: depth by nearest surface sample and the sign of its normal, over the frames that the policy "
        f"moved the hand, the first {RELEASED_SKIPPED_FRAMES} left out. succ: goal pose alignment began (or "
        "the agent reached a grasp by itself). safe: no frame with any depth. pen_fr: frames with any depth.",
        "",
        f"Largest force on the giver's hand, mean over episodes: {cell(overall['giver_force_N'], 'giver_force_N')} N.",
        "",
        "## Why episodes ended",
        "",
        "| status | episodes | % |",
        "|---|---|---|",
        *(f"| {status} | {count} | {100 * count / n:.1f} |" for status, count in report["ended"].items()),
        "",
    ]
    if report["handover"]:
        lines += [*handover_lines(report["handover"], n), ""]
    if report["safety"]:
        lines += [*safety_lines(report["safety"]), ""]
    lines += ["## How far the released depth errs", "", *_false_positive_lines(report["released_depth"])]
    for title, key in (("By kind of trial", "by_kind"), ("By object", "by_object")):
        lines += ["", f"## {title}", "", *_group_table(report[key])]
    if speed := report["speed"]:
        lines += [
            "",
            "## Speed",
            "",
            f"{speed['frames_per_second']:.0f} frames/s ({speed['frames']} frames in {speed['seconds']:.1f} s, "
            f"{speed['num_envs']} worlds side by side).",
        ]
    return "\n".join(lines) + "\n"


def _false_positive_lines(found: dict[str, Any]) -> list[str]:
    frames, penetrating = found["frames"], found["penetrating_frames"]
    share = f" ({100 * found['false_frames'] / penetrating:.1f}% of them)" if penetrating else ""
    return [
        f"Of {frames} frames that the released definition counts, it calls {penetrating} penetrating; in "
        f"{found['false_frames']}{share} the hand is wholly outside the mesh, the worst by a "
        f"depth of {found['deepest_false_cm']:.1f} cm. It misses {found['missed_frames']} frames in which a hand "
        "point is inside the mesh.",
        "",
        "| released definition | as it is | without its false frames |",
        "|---|---|---|",
        f"| safe (%) | {cell(found['safe'], 'safe')} | {cell(found['safe_without_false_frames'], 'safe')} |",
        f"| pen_dep_cm | {cell(found['pen_dep_cm'], 'pen_dep_cm')} | "
        f"{cell(found['pen_dep_cm_without_false_frames'], 'pen_dep_cm')} |",
        "",
        f"{found['unsafe_only_by_false_frames']} of {found['unsafe_episodes']} episodes that it calls unsafe are so "
        "only by false frames.",
    ]


def _group_table(groups: dict[str, Any]) -> list[str]:
    names = list(REPORTED.values())
    heads = [f"{name}{_unit(name)}" for name in names] + ["succ released (%)", "safe released (%)"]
    table = [f"| | episodes | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for group, summary in groups.items():
        cells = [cell(summary["paper"][name], name) for name in names]
        cells += [cell(summary["released"][name], name) for name in ("succ", "safe")]
        table.append(f"| {group} | {summary['episodes']} | {' | '.join(cells)} |")
    return table


def _unit(name: str) -> str:
    return f" ({UNITS[name]})" if UNITS[name] == "%" else ""


def cell(estimate: dict[str, float | None], name: str) -> str:
    """An estimate of that quantity as reports write it: its value, and its interval where one is known."""
    if estimate["value"] is None:
        return "-"
    digits: Callable[[float], str] = lambda x: f"{x:.{3 if UNITS[name] in ('cm', 'm') else 1}f}"  # noqa: E731
    value = digits(estimate["value"])
    if estimate["low"] is None or estimate["high"] is None:
        return value
    return f"{value} [{digits(estimate['low'])}, {digits(estimate['high'])}]"
