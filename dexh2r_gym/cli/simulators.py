"""Commands that compare simulators, and measure the one on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backend = Literal["mujoco", "mjwarp", "kinematic"]


@dataclass
class Parity:
    """Run the same trials with the same actions in two backends, and compare the verdicts.

    Writes parity.md, with every episode whose verdicts differ, and parity.json, with all, into the folder.

    Example: dexh2r parity --ending hold --device cpu --out runs/parity
    """

    out: Path = Path("runs/parity")
    """Folder of the comparison; made if missing."""
    backends: tuple[Backend, Backend] = ("mujoco", "mjwarp")
    """The agent sees the first; its actions go to both."""
    device: str | None = None
    """Of the backends that run on any, such as cpu; by default a GPU for mjwarp."""
    agent: str = "scripted"
    """scripted, motionnet, another installed agent, the path of a checkpoint, or module:function for your own."""
    episodes: int = 64
    """Evenly spread over the split."""
    mode: Literal["easy", "hard"] = "hard"
    ending: Literal["grasp", "hold"] = "grasp"
    """hold: the giver lets go and the robot must keep the object."""
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    split: Literal["train", "validation", "test", "all"] = "all"
    num_envs: int = 32
    """Worlds side by side."""
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.parity import parity

        parity(
            self.out,
            agent=self.agent,
            backends=self.backends,
            device=self.device,
            episodes=self.episodes,
            num_envs=self.num_envs,
            mode=self.mode,
            ending=self.ending,
            replays=self.replays,
            split=self.split,
            seed=self.seed,
        )
        print((self.out / "parity.md").read_text())


@dataclass
class Sweep:
    """Measure how many environment steps a second `mjwarp` makes, from 256 to 8192 worlds, with state and with clouds.

    Example: dexh2r sweep --out runs/sweep
    """

    out: Path = Path("runs/sweep")
    """Folder for sweep.json and sweep.md."""
    device: str | None = None
    """By default a GPU where there is one, else the processor, as the table then says."""
    num_envs: tuple[int, ...] = ()
    """Worlds side by side, one measurement each; by default 256 to 8192, without a GPU 4 to 64."""
    observations: tuple[Literal["state", "point_cloud"], ...] = ("state", "point_cloud")
    seconds: float = 10.0
    """Wall seconds of each measurement."""
    replays: str = "mini"
    """`mini`, or the path of a replay store."""

    def run(self) -> None:
        from dexh2r_gym.bench_sweep import sweep

        print(
            sweep(
                self.out,
                device=self.device,
                num_envs=self.num_envs,
                observations=self.observations,
                seconds=self.seconds,
                replays=self.replays,
            )
        )
