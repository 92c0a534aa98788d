"""The table of approaching motion (DexH2R, Table 3): agents on the same trials, both modes, physics and kinematics.

Every cell is an evaluation of its own (`dexh2r_gym.evaluate`), in OUT/<agent>-<mode>-<backend>: it resumes, and can be
scored and looked at on its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dexh2r_gym.agents import agent_title, find_agent
from dexh2r_gym.alignment import START_DISTANCE
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.sim import BACKENDS
from dexh2r_gym.table3_report import build_table, plot_table, table_markdown
from dexh2r_gym.video_wall import video_wall


def table3(
    out: Path,
    *,
    agents: Sequence[str],
    modes: Sequence[str] = ("easy", "hard"),
    backends: Sequence[str] = ("mujoco", "kinematic"),
    replays: str = "mini",
    split: str = "test",
    num_envs: int = 48,
    seed: int = 0,
    video: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate agents and write OUT/table3.json, table3.md and table3.png; with `video` also OUT/wall.mp4.

    Args:
        agents: names as of `dexh2r_gym.agents.find_agent`. modes, backends: of the environment.
        video: how many trials the wall shows, the first of the split: a row an agent, a column a trial, in the last
            mode and the first backend.

    Raises:
        ValueError: an unknown agent, mode or backend, before anything is run.
    """
    for what, names, valid in (("mode", modes, tuple(START_DISTANCE)), ("backend", backends, BACKENDS)):
        if unknown := [name for name in names if name not in valid]:
            raise ValueError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(valid)}")
    makers = {agent_title(agent): find_agent(agent) for agent in agents}
    if not makers or len(makers) < len(agents):
        raise ValueError("agents must be one or more, of different names")
    cells = list(product(makers, modes, backends))
    folders = {cell: RunFolder(out / "-".join(cell)) for cell in cells}
    filmed = (modes[-1], backends[0])
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    with tqdm(cells, unit="run", disable=not progress) as bar:
        for agent, mode, backend in bar:
            bar.set_description(f"{agent} {mode} {backend}")
            folder = folders[agent, mode, backend]
            evaluate(
                makers[agent],
                out=folder.path,
                agent_name=agent,
                replays=replays,
                split=split,
                num_envs=num_envs,
                seed=seed,
                mode=mode,
                backend=backend,
                video=video if (mode, backend) == filmed else 0,
                progress=False,
            )
            rows = [json.loads(line) for line in (folder.path / "episodes.jsonl").read_text().splitlines()]
            runs[agent, mode, backend] = rows
    table = build_table(runs, replays=Path(replays).name, split=split)
    (out / "table3.json").write_text(json.dumps(table, indent=2) + "\n")
    (out / "table3.md").write_text(table_markdown(table))
    plot_table(table, out / "table3.png")
    if video:
        ids = [row["replay"] for row in next(iter(runs.values()))][:video]
        films = {agent: [folders[agent, *filmed].video_path(id) for id in ids] for agent in makers}
        video_wall(films, out / "wall.mp4")
    return table
