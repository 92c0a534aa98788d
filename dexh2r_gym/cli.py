"""The command `dexh2r` (= `python -m dexh2r_gym`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand


@dataclass
class Evaluate:
    """Run an agent on every trial of a split and write a report, as the paper's Table 3 does.

    Writes one record an episode, report.json and report.md into the folder. Killed and started again, it goes on.

    Example: dexh2r evaluate --agent scripted --mode hard --split test --num-envs 32 --out runs/scripted
    """

    out: Path | None = None
    """Folder of the run; made if missing. By default runs/ and a name made of agent, replays, split and mode."""
    agent: str = "scripted"
    """scripted, replay, random, another installed agent, or module:function for your own."""
    mode: Literal["easy", "hard"] = "hard"
    """Alignment takes over 10 cm (easy) or 5 cm (hard) from the goal."""
    split: Literal["train", "validation", "test", "all"] = "test"
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    backend: Literal["mujoco", "kinematic"] = "mujoco"
    num_envs: int = 32
    """Worlds side by side; the numbers do not depend on it."""
    seed: int = 0
    video: int = 0
    """How many of the first episodes to film."""
    speed_limits: tuple[float, float, float] | None = (1.5, 4.0, 4.0)
    """Palm m/s, palm rad/s, joints rad/s; None for the paper's unlimited kinematics."""

    def run(self) -> None:
        from dexh2r_gym.agents import find_agent
        from dexh2r_gym.evaluate import evaluate

        maker = find_agent(self.agent)
        store = Path(self.replays).name.split(".")[0]
        out = self.out or Path("runs") / "-".join(
            (self.agent.replace(":", "."), store, self.split, self.mode, self.backend)
        )
        evaluate(
            lambda env: maker(env, self.seed),
            out=out,
            agent_name=self.agent,
            replays=self.replays,
            split=self.split,
            num_envs=self.num_envs,
            seed=self.seed,
            video=self.video,
            mode=self.mode,
            backend=self.backend,
            speed_limits=self.speed_limits,
        )
        print((out / "report.md").read_text())
        print(f"report: {out / 'report.md'}")


@dataclass
class Score:
    """Score a run folder again from its recorded episodes. An incomplete run is refused.

    Example: dexh2r score runs/scripted
    """

    run_folder: Positional[Path]
    allow_incomplete: bool = False
    """Score the episodes that are there."""

    def run(self) -> None:
        from dexh2r_gym.evaluate import score

        score(self.run_folder, allow_incomplete=self.allow_incomplete)
        print((self.run_folder / "report.md").read_text())


@dataclass
class Bench:
    """Measure simulated seconds per wall second, beside EnvPool's HandManipulateBlock (extra `bench`) in the same run.

    Example: dexh2r bench --out runs/bench
    """

    out: Path = Path("runs/bench")
    """Folder for bench.json and bench.md."""
    seconds: float = 10.0
    """Wall seconds of each measurement."""
    num_envs: tuple[int, ...] = (64, 512, 2048)
    """Worlds side by side, one measurement each per backend."""

    def run(self) -> None:
        from dexh2r_gym.bench import bench

        print(bench(self.out, seconds=self.seconds, num_envs=self.num_envs))


@dataclass
class Import:
    """Turn recordings of others into a replay store.

    khanna: one recorded human-to-human handover of Handovers@RPL (Khanna et al. 2023), a folder of 30 csv files at
    120 Hz with baton_pose_saved.csv among them.

    Example: dexh2r replays import khanna handover_Sample baton.zarr.zip
    """

    source: Positional[Literal["khanna"]]
    path: Positional[Path]
    """Folder of the recording."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.replay.khanna import import_khanna

        import_khanna(self.path, self.out, seed=self.seed)
        print(f"wrote {self.out}; next: dexh2r evaluate --replays {self.out}")


@dataclass
class Check:
    """Read every trial of a store and report the first thing that is wrong.

    Example: dexh2r replays check mini
    """

    store: Positional[str] = "mini"

    def run(self) -> None:
        from tqdm import tqdm

        from dexh2r_gym.replay import ReplayStore

        store = ReplayStore.open(self.store)
        store.check(progress=lambda trials: tqdm(trials, total=len(store), unit="trial"))
        print(f"{store}: all {len(store)} trials are sound")


@dataclass
class Generate:
    """Make synthetic trials: givers that hold everyday objects and move them in front of the robot.

    Example: dexh2r replays generate --seed 0 my.zarr.zip
    """

    out: Positional[Path]
    preset: Literal["mini"] = "mini"
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.replay.generate import generate

        generate(self.out, preset=self.preset, seed=self.seed)


@dataclass
class Replays:
    """Make, import and check recorded trials."""

    command: (
        Annotated[Import, subcommand("import")]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Check, subcommand("check")]
    )

    def run(self) -> None:
        self.command.run()


@dataclass
class Make:
    """Search goal grasps for objects, test them in simulation and keep the good and diverse ones.

    Example: dexh2r grasps make hammer --out pools
    """

    objects: Positional[tuple[str, ...]] = ()
    """Names of the library; none for all of it."""
    out: Path = Path("grasps")
    """Folder for one npz an object."""
    num: int = 40
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.grasps.pool import make_pools

        make_pools(self.objects, out=self.out, num=self.num, seed=self.seed)


@dataclass
class Info:
    """List the goal grasps that come with the library.

    Example: dexh2r grasps info
    """

    def run(self) -> None:
        from dexh2r_gym.grasps import load_pool
        from dexh2r_gym.objects import object_names

        print(f"{'object':20} {'grasps':>6} {'hold its weight':>15} {'deepest':>10}")
        for name in object_names():
            pool = load_pool(name)
            held, deepest = int(pool.holds_weight.sum()), 1000 * float(pool.depth.max())
            print(f"{name:20} {len(pool.depth):6} {held:15} {deepest:7.1f} mm")


@dataclass
class Grasps:
    """Goal grasps of the ShadowHand."""

    command: Annotated[Make, subcommand("make")] | Annotated[Info, subcommand("info")]

    def run(self) -> None:
        self.command.run()


Command = (
    Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Replays, subcommand("replays")]
    | Annotated[Grasps, subcommand("grasps")]
)


@dataclass
class Main:
    """Dexterous human-to-robot handover: evaluate agents, make and import trials, search grasps, measure speed."""

    command: Annotated[Command, arg(name="")] = field()


def main() -> None:
    """Entry point. Mistakes of the user end with one line that says what is wrong, not with a traceback."""
    command = tyro.cli(Main, prog="dexh2r", config=(OmitSubcommandPrefixes, OmitArgPrefixes)).command
    try:
        command.run()
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"dexh2r: {error}")
