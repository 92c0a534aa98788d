"""Commands that turn episodes into datasets of others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, subcommand


@dataclass
class _Episodes:
    """What to play: an agent in the trials of a split."""

    out: Positional[Path]
    agent: str = "replay"
    """replay (the recorded demonstrations), another installed agent, the path of a checkpoint, or module:function."""
    split: Literal["train", "validation", "test", "all"] = "train"
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    episodes: int | None = None
    """Only the first so many trials."""
    mode: Literal["easy", "hard"] = "hard"
    """Alignment takes over 10 cm (easy) or 5 cm (hard) from the goal."""
    backend: Literal["mujoco", "kinematic", "isaacgym"] = "mujoco"
    robot: Literal["floating", "ur10e"] = "floating"
    ending: Literal["grasp", "hold"] = "grasp"
    control_mode: Literal["absolute", "delta"] | None = None
    """By default what the agent commands."""
    reward_mode: Literal["dense", "sparse"] = "dense"
    obs_mode: str | None = None
    """state, state_dict, point_cloud, rgbd, or several joined by +; by default what the agent looks at."""
    cameras: tuple[str, ...] = ("kinect_0",)
    """Of rgbd: kinect_0 to kinect_3, wrist_0, wrist_1."""
    image_size: tuple[int, int] = (320, 180)
    """Of rgbd: width and height."""
    num_envs: int = 32
    """Worlds side by side; the episodes do not depend on it."""
    seed: int = 0

    def plan(self) -> Any:
        """See `dexh2r_gym.export.episodes.plan`."""
        from dexh2r_gym.agents import agent_title, find_agent
        from dexh2r_gym.export.episodes import plan

        options: dict[str, Any] = {
            name: value for name in ("obs_mode", "control_mode") if (value := getattr(self, name)) is not None
        }
        if "rgbd" in (self.obs_mode or "").split("+"):
            options |= {"cameras": self.cameras, "image_size": self.image_size}
        return plan(
            find_agent(self.agent),
            agent_name=agent_title(self.agent),
            replays=self.replays,
            split=self.split,
            seed=self.seed,
            episodes=self.episodes,
            mode=self.mode,
            backend=self.backend,
            robot=self.robot,
            ending=self.ending,
            reward_mode=self.reward_mode,
            **options,
        )


@dataclass
class ExportMinari(_Episodes):
    """Write a Minari dataset: observations, actions, rewards and infos bit for bit, seeds, scores, the environment.

    OUT is a folder of Minari datasets: what MINARI_DATASETS_PATH names, or ~/.minari/datasets, where Minari looks
    otherwise. The dataset is written whole or not at all. Needs the extra `export`.

    Example: dexh2r export minari runs/minari --agent replay --split train
    """

    dataset_id: str | None = None
    """namespace/name-v0; by default dexh2r/<replays>-<split>-<agent>-v0."""
    jpeg: bool = False
    """Compress pictures, with losses."""

    def run(self) -> None:
        from dexh2r_gym.export.minari import export_minari

        out = export_minari(self.plan(), self.out, dataset_id=self.dataset_id, num_envs=self.num_envs, jpeg=self.jpeg)
        name = self.dataset_id or out.relative_to(self.out.expanduser()).as_posix()
        print(f"wrote {out}; next: MINARI_DATASETS_PATH={self.out} minari show {name}")


@dataclass
class ExportLeRobot(_Episodes):
    """Write a LeRobot data set, format v3.0: state, action, reward, task in words; colour pictures as films.

    OUT is a new folder, written whole or not at all. Needs the extra `export`; lerobot itself only to read it.

    Example: dexh2r export lerobot runs/lerobot --obs-mode rgbd --cameras kinect_0 wrist_0
    """

    def run(self) -> None:
        from dexh2r_gym.export.lerobot import export_lerobot

        out = export_lerobot(self.plan(), self.out, num_envs=self.num_envs)
        print(f"wrote {out}; next: LeRobotDataset('local/handover', root='{out}')")


@dataclass
class ExportIsaacGym:
    """Write the trials of a split for the IsaacGymEnvs task DexH2RHandover: URDF, meshes, recordings, goals.

    OUT is a new folder, written whole or not at all. Training then runs in Isaac Gym's own Python 3.8.

    Example: dexh2r export isaacgym runs/isaacgym --split train
    """

    out: Positional[Path]
    split: Literal["train", "validation", "test", "all"] = "train"
    replays: str = "mini"
    """`mini`, or the path of a replay store."""

    def run(self) -> None:
        from dexh2r_gym import isaacgymenvs
        from dexh2r_gym.export.isaacgym import export_isaacgym

        out = export_isaacgym(self.out, replays=self.replays, split=self.split).resolve()
        train = Path(isaacgymenvs.__file__).with_name("train.py")
        print(f"wrote {out}; next, in Python 3.8 with Isaac Gym and IsaacGymEnvs:")
        print(f"  python {train} task=DexH2RHandover task.env.assets={out} headless=True")


@dataclass
class Export:
    """Write what others read: episodes of an agent for Minari and LeRobot, trials for IsaacGymEnvs."""

    command: (
        Annotated[ExportMinari, subcommand("minari")]
        | Annotated[ExportLeRobot, subcommand("lerobot")]
        | Annotated[ExportIsaacGym, subcommand("isaacgym")]
    )

    def run(self) -> None:
        try:
            self.command.run()
        except KeyboardInterrupt:
            sys.exit("\nstopped; nothing was written")
