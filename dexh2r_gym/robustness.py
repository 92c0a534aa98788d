"""How well an agent copes with givers that do not play their recording as it is: a variant for each deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dexh2r_gym.envs.giver_behaviour import GiverBehaviour
from dexh2r_gym.extras import import_extra
from dexh2r_gym.sim import PHYSICAL
from dexh2r_gym.variants import DEFAULTS, HELD, Variant, estimates, evaluate_variants, markdown, write

AS_RECORDED = "as recorded"
# Two levels of each continuous deviation; what they mean is said in `GiverBehaviour`.
DEVIATIONS: dict[str, tuple[tuple[str, GiverBehaviour], ...]] = {
    "time warp": (("0.3", GiverBehaviour(time_warp=0.3)), ("0.6", GiverBehaviour(time_warp=0.6))),
    "hesitation": (("0.5 s", GiverBehaviour(hesitation=0.5)), ("1 s", GiverBehaviour(hesitation=1.0))),
    "pose offset": (("3 cm", GiverBehaviour(pose_offset=0.03)), ("6 cm", GiverBehaviour(pose_offset=0.06))),
    "retraction": (("on a push", GiverBehaviour(retraction=True)),),
    "release": (("0.3 s early", GiverBehaviour(release=-0.3)), ("0.5 s late", GiverBehaviour(release=0.5))),
}
_EXPLANATION = "Each row lets the givers deviate in one way, drawn anew in each episode; see `GiverBehaviour`."
_COLOURS = {"succ": "#0072B2", "safe": "#E69F00", HELD: "#009E73"}  # Okabe and Ito


def giver_variants(backend: str, ending: str = "grasp") -> list[Variant]:
    """The giver as recorded, and one variant for each level of what can deviate with this backend and this ending."""
    out = [Variant("as-recorded", AS_RECORDED, "")]
    for what, levels in DEVIATIONS.items():
        if (what == "retraction" and backend not in PHYSICAL) or (what == "release" and ending != "hold"):
            continue  # nobody is pushed, nothing is let go
        for level, behaviour in levels:
            name = f"{what}-{level}".replace(" ", "-") if len(levels) > 1 else what
            out.append(Variant(name, what, level, {"giver": asdict(behaviour)}))
    return out


def robustness(
    out: Path,
    agent: str,
    *,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate the agent with each deviation of the giver; write OUT/robustness.json, .md and .png.

    Args:
        agent: a name as of `dexh2r_gym.agents.find_agent`. options: of all evaluations, see `evaluate_variants`.
    """
    setting = {**DEFAULTS, **options}
    variants = giver_variants(setting["backend"], setting["ending"])
    table = evaluate_variants(out, agent, variants, progress=progress, **options)
    write(out, "robustness", table, markdown(table, "Givers that react", _EXPLANATION))
    plot_robustness(table, out / "robustness.png")
    return table


def plot_robustness(table: Mapping[str, Any], path: Path) -> None:
    """succ, safe and, where objects are let go, held, with their intervals: a line for each deviation of the giver.

    MissingExtraError where matplotlib is not installed.
    """
    rows = table["variants"]
    setting, metrics = table["setting"], [name for name in _COLOURS if name in rows[0]["paper"]]
    size = (1.6 + 3.2 * len(metrics), 1.6 + 0.42 * len(rows))
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=size)
    axes = figure.subplots(1, len(metrics), sharey=True)
    at = np.arange(len(rows))
    for axis, metric in zip(axes, metrics, strict=True):
        value, reach = estimates(rows, metric)
        axis.axvspan(value[0] - reach[0, 0], value[0] + reach[1, 0], color="0.92", zorder=0, label="as recorded, 95%")
        axis.axvline(value[0], color="0.6", linewidth=1, zorder=1)
        axis.errorbar(
            value, at, xerr=reach, fmt="o", color=_COLOURS[metric], capsize=3, markersize=5, linewidth=1.5, zorder=2
        )
        axis.set_xlabel(f"{metric} (% of trials)")
        axis.set_xlim(-2, 102)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(at, [f"{row['what']} {row['level']}".strip() for row in rows])
    axes[0].invert_yaxis()
    for axis in axes[1:]:
        axis.tick_params(axis="y", length=0)
    axes[0].legend(loc="lower left", frameon=False, fontsize=8, bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    figure.suptitle(
        f"{setting['agent']} with givers that react: {rows[0]['episodes']} trials of {setting['replays']}, "
        f"{setting['mode']} mode, 95% intervals",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
