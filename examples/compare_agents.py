"""Several agents on the same trials, as a table in the manner of the paper's Table 3, and a figure.

    python examples/compare_agents.py --agents scripted motionnet random --out runs/compare
    python examples/compare_agents.py --agents scripted own_agent:make_agent --figure own.png

`dexh2r table3` does more: both modes, physics and kinematics, tests between agents. Needs matplotlib (extra `view`).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from dexh2r_gym.agents import agent_title, find_agent
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.report import cell

COLUMNS = {"succ": "succ (%)", "safe": "safe (%)", "pen_dep_cm": "pen_dep (cm)"}
BARS = (("paper", "paper's definition", -0.2, "#0072B2"), ("released", "released code's definition", 0.2, "#E69F00"))


def main(
    agents: tuple[str, ...] = ("scripted", "motionnet", "random"),
    out: Path = Path("runs/compare_agents"),
    figure: Path | None = None,
    replays: str = "mini",
    split: Literal["train", "validation", "test", "all"] = "test",
    mode: Literal["easy", "hard"] = "hard",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    seed: int = 0,
) -> None:
    """Evaluate agents by name on the trials of a split, print a table, and draw it with its 95% intervals.

    Args:
        agents: installed agents, paths of checkpoints (runs/motionnet.safetensors), or module:function of your own.
        out: folder of the runs, one an agent, and of table.md. Killed and started again, it goes on.
        figure: where the figure is saved (.png, .pdf, .svg); by default table.png in the folder.
        replays: `mini`, or the path of a replay store.
        split: of the replays.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: contact physics, or the hand goes where it is told.
        seed: of agents and of the environment's noise.
    """
    setting = {"replays": replays, "split": split, "mode": mode, "backend": backend, "seed": seed}
    reports = {}
    for agent in agents:
        title = agent_title(agent)
        reports[title] = evaluate(find_agent(agent), out=out / title, agent_name=agent, **setting)

    lines = ["| agent | definition | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for title, report in reports.items():
        for definition in ("paper", "released"):
            cells = [cell(report["overall"][definition][name], name) for name in COLUMNS]
            lines.append(f"| {title} | {definition} | " + " | ".join(cells) + " |")
    table = "\n".join(lines) + "\n"
    (out / "table.md").write_text(table)
    print(table)

    drawing = Figure(figsize=(10, 1.8 + 0.5 * len(agents)), layout="constrained")
    drawing.suptitle(
        f"{Path(replays).name}, {split} split, {mode} mode, {backend}: {report['episodes']} trials, 95% intervals"
    )
    rows = np.arange(len(reports))
    for axis, (name, title) in zip(drawing.subplots(1, len(COLUMNS), sharey=True), COLUMNS.items(), strict=True):
        for definition, label, shift, colour in BARS:
            found = [report["overall"][definition][name] for report in reports.values()]
            value, low, high = np.array([[f[key] for key in ("value", "low", "high")] for f in found], dtype=float).T
            axis.barh(rows + shift, value, 0.36, xerr=(value - low, high - value), color=colour, capsize=2, label=label)
        axis.set(xlabel=title, xlim=(0, 105) if "%" in title else (0, None))
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    axis.set_yticks(rows, list(reports))
    axis.invert_yaxis()
    drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    drawing.savefig(figure or out / "table.png", dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
