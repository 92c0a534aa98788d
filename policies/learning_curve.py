"""How a policy does while reinforcement learning trains it: every trial of a split once, a row of a table each time."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.extras import import_extra
from dexh2r_gym.intervals import wilson_interval
from dexh2r_gym.replay import ReplayStore
from policies.agent import Agent

_PANELS = (  # key, axis, colour (Okabe and Ito)
    ("succ", "trials that succeed, %", "#0072B2"),
    ("pen_dep", "mean penetration, cm", "#D55E00"),
    ("train_return", "return of training episodes", "#009E73"),
)


class LearningCurve:
    """FOLDER/curve.csv, a row a measurement, and its figure FOLDER/curve.png (extra `view`).

    Columns: what the trainer tells (`steps` of all worlds together, `train_return`), `seconds` of wall time and
    `cpu_seconds` of this process so far, measurements included, and of the measured trials `succ` with its 95% interval
    `succ_low`, `succ_high` (Wilson), `safe` (all in %), `pen_dep` (cm), by the paper's definitions.
    """

    def __init__(self, folder: Path, *, first: int = 0, split: str = "validation", **options: Any) -> None:
        """first: steps from which the training goes on; rows of later ones are dropped. options: of the environment."""
        self.path = folder / "curve.csv"
        self.rows = [row for row in read_curve(self.path) if row["steps"] <= first] if first else []
        self.split = split
        self._ids = list(ReplayStore.open(options.get("replays", "mini")).ids(split))
        self._env = HandoverVectorEnv(
            len(self._ids), autoreset_mode=AutoresetMode.DISABLED, split=split, released_metrics=False, **options
        )
        past = self.rows[-1] if self.rows else {"seconds": 0.0, "cpu_seconds": 0.0}
        self._began = time.monotonic() - past["seconds"], time.process_time() - past["cpu_seconds"]

    def measure(self, agent: Agent, **told: float) -> dict[str, float]:
        """Run every trial once; the new row, which begins with what is told: steps, train_return."""
        scores = play(agent, self._env, self._ids)
        low, high = wilson_interval(int(scores["succ"].sum()), len(self._ids))
        row = {
            **told,
            "seconds": time.monotonic() - self._began[0],
            "cpu_seconds": time.process_time() - self._began[1],
            "succ": 100.0 * float(scores["succ"].mean()),
            "succ_low": 100.0 * low,
            "succ_high": 100.0 * high,
            "safe": 100.0 * float(scores["safe"].mean()),
            "pen_dep": float(scores["pen_dep"].mean()),
        }
        self.rows.append({name: round(float(value), 4) for name, value in row.items()})
        with self.path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(row))
            table.writeheader()
            table.writerows(self.rows)
        draw_curve(self.rows, self.path.with_suffix(".png"), self.split)
        return row

    def close(self) -> None:
        """Free the worlds."""
        self._env.close()


def play(agent: Agent, env: HandoverVectorEnv, replay_ids: list[str]) -> dict[str, np.ndarray]:
    """Each replay once, in a world of its own: `succ`, `safe`, `pen_dep` (cm), (N,) each."""
    observation, _ = env.reset(seed=0, options={"replay": replay_ids})
    start, over, state = np.ones(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=bool), None
    scores = {name: np.zeros(env.num_envs) for name in ("succ", "safe", "pen_dep")}
    while not over.all():
        action, state = agent.predict(observation, state=state, episode_start=start, deterministic=True)
        observation, _, terminated, truncated, info = env.step(action)
        start, ended = np.zeros_like(start), (terminated | truncated) & ~over
        for name, values in scores.items():
            if ended.any():
                values[ended] = info[name][ended]
        over |= ended
    return scores


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a curve.csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw_curve(rows: Sequence[Mapping[str, float]], path: Path, split: str) -> None:
    """Success, penetration and return over millions of steps, as a picture.

    Raises:
        MissingExtraError where matplotlib is not installed.
    """
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=(12.0, 3.6), layout="constrained")
    steps = [row["steps"] / 1e6 for row in rows]
    for axes, (key, label, colour) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        axes.plot(steps, [row[key] for row in rows], "o-", color=colour, markersize=3)
        axes.set_xlabel("steps of all worlds together, millions")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if key == "succ":
            low, high = ([row[f"succ_{end}"] for row in rows] for end in ("low", "high"))
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_ylim(0, 100)
        elif key == "pen_dep":
            axes.set_ylim(bottom=0)
    minutes = rows[-1]["seconds"] / 60 if rows else 0.0
    figure.suptitle(f"{split} trials while training; 95% intervals; {minutes:.0f} min in all")
    figure.savefig(path, dpi=110)
