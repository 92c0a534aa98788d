"""Command for the table of approaching motion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Table3:
    """Evaluate agents on the same trials in both modes, with and without physics, as the paper's Table 3 does.

    Writes table3.json, table3.md and table3.png with tests between agents, and a run folder for each of them. Killed
    and started again, it goes on. `--replays` may be an imported DexH2R.

    Example: dexh2r table3 --agents motionnet scripted --out runs/table3
    """

    out: Path = Path("runs/table3")
    """Folder of the table; made if missing."""
    agents: tuple[str, ...] = ("motionnet", "dynamic-grasp-motionnet")
    """Installed agents, paths of checkpoints, or module:function for your own."""
    modes: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
    backends: tuple[Literal["mujoco", "kinematic"], ...] = ("mujoco", "kinematic")
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    split: Literal["train", "validation", "test", "all"] = "test"
    num_envs: int = 48
    """Worlds side by side; the numbers do not depend on it."""
    video: int = 0
    """Show so many trials in wall.mp4, a row an agent."""
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.table3 import table3

        table3(
            self.out,
            agents=self.agents,
            modes=self.modes,
            backends=self.backends,
            replays=self.replays,
            split=self.split,
            num_envs=self.num_envs,
            video=self.video,
            seed=self.seed,
        )
        print((self.out / "table3.md").read_text())
        print(f"table: {self.out / 'table3.md'}")
