"""Command that shows what an arm changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class ArmGap:
    """Evaluate an agent with a floating hand and with one on a UR10e, and show side by side what the arm costs.

    Writes arm_gap.md, arm_gap.json, wall.mp4 and wall.png, and a run folder for each. Killed and started again, it
    goes on.

    Example: dexh2r arm-gap --agent scripted --out runs/arm-gap
    """

    out: Path = Path("runs/arm-gap")
    """Folder of the table; made if missing."""
    agent: str = "scripted"
    """An installed agent, the path of a checkpoint, or module:function for your own."""
    mode: Literal["easy", "hard"] = "hard"
    split: Literal["train", "validation", "test", "all"] = "test"
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    num_envs: int = 48
    """Worlds side by side; the numbers do not depend on it."""
    video: int = 2
    """Show so many trials in wall.mp4, a row a robot; 0 for no film."""
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.arm_gap import arm_gap

        arm_gap(
            self.out,
            agent=self.agent,
            mode=self.mode,
            replays=self.replays,
            split=self.split,
            num_envs=self.num_envs,
            seed=self.seed,
            video=self.video,
        )
        print((self.out / "arm_gap.md").read_text())
        print(f"table: {self.out / 'arm_gap.md'}")
