"""What late actions cost an agent: success over latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dexh2r_gym.envs.latency import latency_frames
from dexh2r_gym.extras import import_extra
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.variants import DEFAULTS, Variant, estimates, evaluate_variants, markdown, write

MILLISECONDS = (0.0, 33.0, 67.0, 100.0, 200.0)
_EXPLANATION = (
    "Every action takes effect so many frames after it was given, what the environment does by itself at once."
)
_STYLE = {"succ": ("#0072B2", "o-"), "safe": ("#E69F00", "s--")}  # Okabe and Ito


def latency_variants(milliseconds: Sequence[float], fps: float) -> list[Variant]:
    """A variant for each latency, in frames rounded up; two that come to the same frames are one, no latency is first.

    Raises:
        ValueError: none is given, or one is negative or too long.
    """
    if not milliseconds:
        raise ValueError("latencies must be one or more numbers of milliseconds")
    frames = sorted({0, *(latency_frames(ms, fps) for ms in milliseconds)})
    return [
        Variant(f"latency-{n}", "latency" if n else "no latency", f"{1000 * n / fps:.0f} ms ({n} fr)", {"latency": n})
        for n in frames
    ]


def latency_curve(
    out: Path,
    agent: str,
    *,
    milliseconds: Sequence[float] = MILLISECONDS,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate the agent at each latency; write OUT/latency.json, .md and .png.

    Args:
        agent: a name as of `dexh2r_gym.agents.find_agent`. options: of all evaluations, see `evaluate_variants`.
    """
    fps = ReplayStore.open(options.get("replays", DEFAULTS["replays"])).infos[0].fps
    variants = latency_variants(milliseconds, fps)
    table = evaluate_variants(out, agent, variants, progress=progress, **options)
    for row, variant in zip(table["variants"], variants, strict=True):
        row["latency_frames"] = variant.options["latency"]
        row["latency_ms"] = 1000 * row["latency_frames"] / fps
    write(out, "latency", table, markdown(table, "Late actions", _EXPLANATION))
    plot_latency(table, out / "latency.png")
    return table


def plot_latency(table: Mapping[str, Any], path: Path) -> None:
    """succ and safe over latency, with their intervals.

    MissingExtraError where matplotlib is not installed.
    """
    rows, setting = table["variants"], table["setting"]
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=(6.4, 4.2))
    axis = figure.subplots()
    at = np.array([row["latency_ms"] for row in rows])
    apart = 0.007 * max(at[-1], 1.0)  # that intervals do not lie on each other
    for side, (metric, (colour, style)) in zip((-1, 1), _STYLE.items(), strict=True):
        value, reach = estimates(rows, metric)
        axis.errorbar(
            at + side * apart, value, yerr=reach, fmt=style, color=colour, capsize=3, markersize=5, label=metric
        )
    axis.set_xlabel("latency of actions (ms)")
    axis.set_ylabel("% of trials")
    axis.set_ylim(0, 103)
    axis.set_xticks(at, [f"{x:.0f}" for x in at])
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    figure.suptitle(
        f"{setting['agent']}: {rows[0]['episodes']} trials of {setting['replays']}, {setting['mode']} mode, "
        "95% intervals",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
