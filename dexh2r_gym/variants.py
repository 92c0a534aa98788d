"""One agent under several circumstances: an evaluation for each, then a table. Robustness and latency are both that.

Every variant is an evaluation of its own (`dexh2r_gym.evaluate`), in OUT/<its name>: it resumes, and can be scored and
looked at on its own. The first is the one that the others are compared with, on the same trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dexh2r_gym.agents import agent_title, find_agent
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.report import cell, summarise
from dexh2r_gym.report_physical import summarise_handover
from dexh2r_gym.table3_report import holm, paired_test

Row = dict[str, Any]
COLUMNS = {
    "succ": "succ %",
    "safe": "safe %",
    "pen_dep_cm": "pen_dep cm",
    "infer_fr": "infer_fr",
}
HELD = "held"
DEFAULTS: dict[str, Any] = {  # of every evaluation
    "mode": "hard",
    "backend": "mujoco",
    "replays": "mini",
    "split": "test",
    "ending": "grasp",
    "num_envs": 48,
    "seed": 0,
}


@dataclass(frozen=True)
class Variant:
    """Circumstances to evaluate an agent in."""

    name: str  # of its folder
    what: str  # what is varied
    level: str  # how much, with its unit
    options: Mapping[str, Any] = field(default_factory=dict)  # of the environment


def evaluate_variants(
    out: Path, agent: str, variants: Sequence[Variant], *, progress: bool = True, **options: Any
) -> dict[str, Any]:
    """Evaluate the agent in every variant and tabulate.

    Args:
        agent: a name as of `dexh2r_gym.agents.find_agent`.
        options: of `dexh2r_gym.evaluate.evaluate`, the same for all; else `DEFAULTS`.
    """
    options = {**DEFAULTS, **options}
    maker = find_agent(agent)
    runs: dict[str, list[Row]] = {}
    with tqdm(variants, unit="run", disable=not progress) as bar:
        for variant in bar:
            bar.set_description(variant.name)
            folder = out / variant.name
            evaluate(maker, out=folder, agent_name=agent_title(agent), progress=False, **{**options, **variant.options})
            runs[variant.name] = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    setting = {name: str(options[name]) for name in ("split", "mode", "backend", "ending")}
    setting |= {"agent": agent_title(agent), "replays": Path(options["replays"]).name}
    rows = tabulate(variants, runs)
    if setting["ending"] == "hold":
        for row in rows:
            row["paper"][HELD] = summarise_handover(runs[row["name"]])["held"]
    return {"setting": setting, "variants": rows}


def tabulate(variants: Sequence[Variant], runs: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """A row for each variant: its scores, and for all but the first the difference in succ to the first, paired by
    trial: percentage points, and p of McNemar's exact test, corrected for the number of variants (Holm)."""
    base = {row["replay"]: float(row["succ"]) for row in runs[variants[0].name]}
    out, tested = [], []
    for number, variant in enumerate(variants):
        rows = runs[variant.name]
        found = {"name": variant.name, "what": variant.what, "level": variant.level, **summarise(rows)}
        if number:
            x, y = (np.array(v) for v in zip(*((base[r["replay"]], float(r["succ"])) for r in rows), strict=True))
            found["succ_difference"] = 100.0 * float((y - x).mean())
            found["p"] = paired_test(x, y, rate=True)
            tested.append(found)
        out.append(found)
    for found, p in zip(tested, holm([found["p"] for found in tested]), strict=True):
        found["p_holm"] = p
    return out


def markdown(table: Mapping[str, Any], title: str, explanation: str) -> str:
    """The table for people."""
    setting, rows = table["setting"], table["variants"]
    columns = COLUMNS | ({HELD: "held %"} if HELD in rows[0]["paper"] else {})
    lines = [
        f"# {title}: {setting['agent']}",
        "",
        f"Replays `{setting['replays']}`, split {setting['split']}, {rows[0]['episodes']} trials, {setting['mode']} "
        f"mode, {setting['backend']}, paper's definitions, 95% intervals in brackets. {explanation}",
        "",
        f"| | | {' | '.join(columns.values())} | force on the giver N | succ, difference in points | p |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for row in rows:
        numbers = [cell(row["paper"][name], "succ" if name == HELD else name) for name in columns]
        numbers.append(cell(row["giver_force_N"], "giver_force_N"))
        numbers += [f"{row['succ_difference']:+.1f}", f"{row['p_holm']:.2g}"] if "p" in row else ["", ""]
        lines.append(f"| {row['what']} | {row['level']} | {' | '.join(numbers)} |")
    lines += [
        "",
        f"Differences to the row '{rows[0]['what']}' on the same trials, McNemar's exact test, p corrected by Holm.",
    ]
    return "\n".join(lines) + "\n"


def write(out: Path, name: str, table: Mapping[str, Any], text: str) -> None:
    """OUT/NAME.json and OUT/NAME.md."""
    (out / f"{name}.json").write_text(json.dumps(table, indent=2) + "\n")
    (out / f"{name}.md").write_text(text)


def estimates(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (N,) of a metric of the paper's, and how far their intervals reach below and above, (2, N)."""
    value, low, high = (
        np.array([row["paper"][metric][key] for row in rows], float) for key in ("value", "low", "high")
    )
    return value, np.stack((value - low, high - value)).clip(0)
