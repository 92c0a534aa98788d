"""How long agents think: one world, and many side by side, in the same run. Only `predict` is timed.

A frame is 33 ms at 30 Hz. Policies that plan several frames at once think seldom: what counts is the mean over the
frames of a plan, of which the table gives the median and the 95th percentile.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.bench import cpu_name

WORLDS = 64
_WARM = 8  # frames that are not counted


def bench_agents(out: Path, agents: Sequence[str], *, seconds: float, replays: str = "mini") -> str:
    """Measure agents and write OUT/agents.json and agents.md; returns the markdown."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for agent in tqdm(agents, unit="agent"):
        alone, many = (_think(agent, worlds, seconds, replays) for worlds in (1, WORLDS))
        rows.append(
            {
                "agent": agent,
                "p50_ms": 1e3 * float(np.percentile(alone, 50)),
                "p95_ms": 1e3 * float(np.percentile(alone, 95)),
                "alone_per_s": float(1 / alone.mean()),
                "many_per_s": float(WORLDS / many.mean()),
            }
        )
    result = {"rows": rows, "machine": {"cpu": cpu_name(), "cores": os.cpu_count()}, "seconds": seconds}
    (out / "agents.json").write_text(json.dumps(result, indent=2) + "\n")
    table = agents_table(result)
    (out / "agents.md").write_text(table)
    return table


def agents_table(result: dict[str, Any]) -> str:
    """What was found as markdown."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {result['seconds']:g} s a measurement",
        "",
        f"| agent | ms a frame, median | 95% | frames / s alone | frames / s, {WORLDS} worlds | times |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        times = row["many_per_s"] / row["alone_per_s"]
        lines.append(
            f"| {row['agent']} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['alone_per_s']:,.0f} | "
            f"{row['many_per_s']:,.0f} | {times:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _think(name: str, worlds: int, seconds: float, replays: str) -> np.ndarray:
    """Seconds a frame, each the mean over the frames of a plan, (N,)."""
    maker = find_agent(name)
    env = gym.make_vec(
        "DexH2R-Handover-v0",
        num_envs=worlds,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        backend="kinematic",
        replays=replays,
        split="all",
        released_metrics=False,
        **getattr(maker, "env_options", {}),
    ).unwrapped
    agent = maker(env, 0)
    observation, _ = env.reset(seed=0)
    state, start = None, np.ones(worlds, dtype=bool)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 4 * _WARM or time.perf_counter() - began < seconds:
        before = time.perf_counter()
        action, state = agent.predict(observation, state, start)
        taken.append(time.perf_counter() - before)
        observation, _, terminated, truncated, _ = env.step(action)
        start = terminated | truncated
    env.close()
    plan = getattr(getattr(getattr(agent, "model", None), "config", None), "executed", 1)
    counted = np.array(taken[_WARM:])
    return counted[: len(counted) // plan * plan].reshape(-1, plan).mean(1)
