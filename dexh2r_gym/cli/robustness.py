"""Commands that evaluate one agent under several circumstances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dexh2r_gym.agents import agent_title


@dataclass
class _Circumstances:
    """What both commands have in common."""

    agent: str
    """scripted, motionnet, another installed agent, the path of a checkpoint, or module:function for your own."""
    out: Path | None = None
    """Folder of the table; made if missing. By default runs/ and a name made of command and agent."""
    mode: Literal["easy", "hard"] = "hard"
    backend: Literal["mujoco", "kinematic"] = "mujoco"
    ending: Literal["grasp", "hold"] = "grasp"
    """hold: the giver lets go and the robot must keep the object."""
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    split: Literal["train", "validation", "test", "all"] = "test"
    num_envs: int = 48
    """Worlds side by side; the numbers do not depend on it."""
    seed: int = 0

    def folder(self, command: str) -> Path:
        return self.out or Path("runs") / f"{command}-{agent_title(self.agent)}"

    def setting(self) -> dict[str, Any]:
        names = ("mode", "backend", "ending", "replays", "split", "num_envs", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass
class Robustness(_Circumstances):
    """Evaluate an agent with givers that react: other pace, hesitation, another place, drawing back when pushed; with
    `--ending hold` also letting go early or late.

    Writes robustness.json, robustness.md and robustness.png, and a run folder for each kind of giver. Killed and
    started again, it goes on.

    Example: dexh2r robustness --agent scripted --out runs/robustness
    """

    def run(self) -> None:
        from dexh2r_gym.robustness import robustness

        out = self.folder("robustness")
        robustness(out, self.agent, **self.setting())
        print((out / "robustness.md").read_text())
        print(f"table: {out / 'robustness.md'}")


@dataclass
class Latency(_Circumstances):
    """Evaluate an agent whose actions are late, for each of several latencies.

    Writes latency.json, latency.md and latency.png, and a run folder for each latency. Killed and started again, it
    goes on.

    Example: dexh2r latency --agent best --ms 0 33 67 100 200 --out runs/latency
    """

    ms: tuple[float, ...] = (0.0, 33.0, 67.0, 100.0, 200.0)
    """Latencies in milliseconds, rounded up to frames; none is always among them."""

    def run(self) -> None:
        from dexh2r_gym.latency_curve import latency_curve

        out = self.folder("latency")
        latency_curve(out, self.agent, milliseconds=self.ms, **self.setting())
        print((out / "latency.md").read_text())
        print(f"table: {out / 'latency.md'}")
