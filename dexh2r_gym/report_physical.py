"""The part of a report that is about physics: whether the object was received, and how the giver's hand was touched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.envs.receive import HOLD_TIME, SHAKE_DISTANCE, SHAKE_TIME
from dexh2r_gym.hand import LINK_NAMES
from dexh2r_gym.intervals import mean_interval, wilson_interval
from dexh2r_gym.safety import (
    FORCES,
    QUASI_STATIC_LIMIT,
    TRANSIENT_LIMIT,
    TRANSIENT_TIME,
    safety_metrics,
    transient_speed_limit,
)
from dexh2r_gym.types import GIVER_PARTS

Row = Mapping[str, Any]


def physical_row(record: Mapping[str, np.ndarray], link_depth: Tensor) -> dict[str, Any]:
    """What one recorded episode (`run_folder.RECORD`) says; link_depth (F, 18) m: `dexh2r_gym.depth.link_depths`."""
    peak, impulse, speed = (torch.from_numpy(record[k])[None] for k in ("giver_peak", "giver_impulse", "contact_speed"))
    fps, drop = float(record["fps"]), float(record["drop_time"])
    safety = safety_metrics(peak, impulse, speed, torch.tensor([peak.shape[1]]), 1.0 / fps)
    release = int(record["release_frame"])
    deepest = link_depth.amax(0) if len(link_depth) else torch.zeros(len(LINK_NAMES))
    return {
        **{name: value[0].tolist() for name, value in safety.items()},
        "held": str(record["outcome"]) == "HELD",
        "outcome": str(record["outcome"]),
        "decided_frame": int(record["decided_frame"]),
        "reason": str(record["reason"]),
        "release_time": (release - int(record["approach_frames"]) + 1) / fps if release >= 0 else None,
        "drop_time": drop if math.isfinite(drop) else None,
        "slip": float(record["slip"]),
        "link_depth_cm": (100.0 * deepest).tolist(),
        "link_frames": (link_depth > 0).sum(0).tolist(),
    }


def summarise_handover(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether objects were received. Shares in percent with Wilson's intervals, means with Student's."""
    released = [row["release_time"] for row in rows if row["release_time"] is not None]
    return {
        "held": _share([row["held"] for row in rows]),
        "outcomes": dict(Counter(row["outcome"] for row in rows).most_common()),
        "release_s": _mean(released),
        "slip_cm": _mean([row["slip"] for row in rows if row["held"]]),
        "drop_s": _mean([row["drop_time"] for row in rows if row["drop_time"] is not None]),
    }


def summarise_safety(rows: Sequence[Row]) -> dict[str, Any]:
    """How the giver's hand was touched, and which links of the robot went into the object."""
    peak, time, impulse = (np.array([row[k] for row in rows]) for k in ("giver_peak", "contact_time", "giver_impulse"))
    worst, speed = peak.max(1), np.array([row["contact_speed"] for row in rows])
    depth, frames = (np.array([row[k] for row in rows]) for k in ("link_depth_cm", "link_frames"))
    parts = {
        part: {
            "touched": _share(peak[:, i] > 0),
            "peak_N": float(peak[:, i].max()),
            "impulse_Ns": float(impulse[:, i].max()),
            "time_s": float(time[:, i].max()),
        }
        for i, part in enumerate(GIVER_PARTS)
    }
    links = {
        link: {"deepest_cm": float(depth[:, i].max()), "frames": int(frames[:, i].sum())}
        for i, link in enumerate(LINK_NAMES)
        if frames[:, i].any()
    }
    return {
        "safe_force": _share([row["safe_force"] for row in rows]),
        "below_N": {f"{force:g}": _share(worst <= force) for force in FORCES},
        "parts": parts,
        "contact_speed_m_s": float(speed.max()),
        "speed_limit_m_s": transient_speed_limit(),
        "below_speed_limit": _share(speed <= transient_speed_limit()),
        "links": dict(sorted(links.items(), key=lambda item: -item[1]["deepest_cm"])),
    }


def handover_lines(found: Mapping[str, Any], episodes: int) -> list[str]:
    """Markdown of `summarise_handover`."""
    return [
        "## Physical handover",
        "",
        "After the grasp is reached the fingers close, the robot lifts, the giver lets go when the robot carries the "
        f"weight, and the object must stay in the hand for {HOLD_TIME:g} s and then through a shake of "
        f"{100 * SHAKE_DISTANCE:g} cm in {SHAKE_TIME:g} s along each of six directions.",
        "",
        f"held: {_cell(found['held'])} %. From the grasp to the giver's letting go {_cell(found['release_s'], 2)} s; "
        f"slip of objects that were held {_cell(found['slip_cm'], 2)} cm; loss of those that were not "
        f"{_cell(found['drop_s'], 2)} s after letting go.",
        "",
        "| outcome | episodes | % |",
        "|---|---|---|",
        *(f"| {name} | {count} | {100 * count / episodes:.1f} |" for name, count in found["outcomes"].items()),
    ]


def safety_lines(found: Mapping[str, Any]) -> list[str]:
    """Markdown of `summarise_safety`."""
    lines = [
        "## Safety of the giver's hand",
        "",
        f"safe_force: {_cell(found['safe_force'])} % of episodes; no part of the hand was pressed with more than "
        f"{QUASI_STATIC_LIMIT:g} N, what ISO/TS 15066 (table A.2) allows a contact that holds on; shorter than "
        f"{TRANSIENT_TIME:g} s {TRANSIENT_LIMIT:g} N are allowed. `safe` above is the paper's, about the object.",
        "",
        "| limit on every part of the hand (N) | episodes below it (%) |",
        "|---|---|",
        *(f"| {force} | {_cell(share)} |" for force, share in found["below_N"].items()),
        "",
        f"Fastest first touch {found['contact_speed_m_s']:.2f} m/s; ISO/TS 15066 (A.6) allows this robot "
        f"{found['speed_limit_m_s']:.2f} m/s, kept in {_cell(found['below_speed_limit'])} % of episodes.",
        "",
        "| part | touched (% of episodes) | peak (N) | impulse (N s) | longest contact (s) |",
        "|---|---|---|---|---|",
    ]
    for part, value in found["parts"].items():
        numbers = f"{value['peak_N']:.1f} | {value['impulse_Ns']:.2f} | {value['time_s']:.2f}"
        lines.append(f"| {part} | {_cell(value['touched'])} | {numbers} |")
    if found["links"]:
        lines += ["", "| link of the robot in the object | deepest (cm) | frames |", "|---|---|---|"]
        lines += [f"| {link} | {v['deepest_cm']:.2f} | {v['frames']} |" for link, v in found["links"].items()]
    return lines


def _share(flags: Sequence[bool] | np.ndarray) -> dict[str, float | None]:
    count = int(np.sum(flags))
    low, high = wilson_interval(count, len(flags))
    return {"value": 100.0 * count / len(flags) if len(flags) else None, "low": 100.0 * low, "high": 100.0 * high}


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    low, high = mean_interval(np.array(values, dtype=np.float64))
    known = math.isfinite(low)
    return {
        "value": float(np.mean(values)) if len(values) else None,
        "low": max(low, 0.0) if known else None,
        "high": high if known else None,
    }


def _cell(value: Mapping[str, float | None], digits: int = 1) -> str:
    if value["value"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
