"""Commands that make, import and check recorded trials."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tyro.conf import Positional, subcommand

from dexh2r_gym.cli.imports import Import, say_next


@dataclass
class Generate:
    """Make synthetic trials: givers that hold everyday objects and move them in front of the robot.

    Killed and started again, it goes on. The same preset and seed give the same bytes, whatever the number of workers.

    Example: dexh2r replays generate --preset paper --seed 0 open.zarr.zip
    """

    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    preset: Literal["mini", "train", "paper"] = "mini"
    """mini: the 240 trials that come with the package. paper: 4282 trials, 39 givers, 56 objects, as in DexH2R. train:
    1536 trials to learn from for whoever is tested on mini, without its unseen objects (take another seed than 0)."""
    seed: int = 0
    demonstrations: Literal["varied", "reactive", "none"] = "varied"
    """How each object is taken is shown by a scripted expert, every time in another manner, as people do; or by a
    reactive one, whose every step follows from where hand and goal are, which is easier to learn. Without
    demonstrations it is several times as fast."""
    workers: int | None = None
    """Processes; by default one a core."""
    ray: str | None = None
    """Make them on a Ray cluster (extra `scale`): its address, `auto` for the one of this machine, or `local`. The
    store is written here; the bytes are the same."""
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.generate import generate

        demonstrator = {"varied": "scripted", "reactive": "reactive", "none": None}[self.demonstrations]
        generate(
            self.out,
            preset=self.preset,
            seed=self.seed,
            demonstrator=demonstrator,
            workers=self.workers,
            ray=self.ray,
            overwrite=self.overwrite,
        )
        say_next(self.out)


@dataclass
class Info:
    """Say what is in a store; with --out also measure it, and write a card with plots.

    Example: dexh2r replays info mini --out card
    """

    store: Positional[str] = "mini"
    """`mini`, or the path of a store."""
    out: Path | None = None
    """Folder for card.md, statistics.json and plots."""

    def run(self) -> None:
        from dexh2r_gym.replay import ReplayStore
        from dexh2r_gym.replay.card import describe, write_card

        store = ReplayStore.open(self.store)
        print(describe(store))
        if self.out:
            card = write_card(store, self.out, progress=lambda trials: tqdm(trials, total=len(store), unit="trial"))
            print(f"card: {card}")


@dataclass
class Check:
    """Read all of a store and list what is wrong: damage, numbers that cannot be, jumps that no hand can do.

    Example: dexh2r replays check mini
    """

    store: Positional[str] = "mini"
    """`mini`, or the path of a store."""

    def run(self) -> None:
        from dexh2r_gym.replay import ReplayStore

        store = ReplayStore.open(self.store)
        problems = list(store.problems(progress=lambda trials: tqdm(trials, total=len(store), unit="trial")))
        for problem in problems:
            print(problem)
        if problems:
            sys.exit(f"dexh2r: {store}: {len(problems)} problems")
        print(f"{store}: all {len(store)} trials are sound, and nothing was changed since it was written")


@dataclass
class Migrate:
    """Turn a store of an older version of the format into the present one.

    Example: dexh2r replays migrate old.zarr.zip new.zarr.zip
    """

    old: Positional[Path]
    """The store to read."""
    new: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.migrate import migrate

        migrate(self.old, self.new, overwrite=self.overwrite, progress=lambda trials: tqdm(trials, unit="trial"))
        print(f"wrote {self.new}")


@dataclass
class Goals:
    """Add goal grasps to the trials of a store: proposed by a generator and tested, as the paper prepares them.

    The 64 goals an object of the trials made here lie far apart; the released code works with 500 proposals. Trials and
    demonstrations stay as they are. Killed and started again, it goes on.

    Example: dexh2r replays goals mini mini500.zarr.zip
    """

    store: Positional[str]
    """`mini`, or the path of a store."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    generator: str = "diffusion"
    """What proposes them: cvae or diffusion, those without pre-training too, or module:function for one of yours."""
    num: int = 500
    """Proposals an object. Kept are those that a hand can come to and take hold in, up to 512 with the old goals."""
    seed: int = 0
    workers: int | None = None
    """Processes; by default one a core."""
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.regoal import add_goals

        add_goals(
            self.store,
            self.out,
            generator=self.generator,
            num=self.num,
            seed=self.seed,
            workers=self.workers,
            overwrite=self.overwrite,
        )
        say_next(self.out)


@dataclass
class Visited:
    """Keep where the hand of a policy went in a run, for it to learn from what its own errors bring about (DAgger).

    The store has the trials of the run, up to where alignment took over, with the hand and the object as they were. In
    training the expert says how to go on from there. A run that was stopped will do.

    Example: dexh2r replays visited runs/dp3_train visited.zarr.zip
    after: dexh2r evaluate --agent dp3 --split train --replays train500.zarr.zip --out runs/dp3_train
    then: dexh2r train dp3 --init dp3.safetensors --replays train500.zarr.zip visited.zarr.zip --out runs/dp3
    """

    run_folder: Positional[Path]
    """The folder of a run, as `dexh2r evaluate` makes it."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.visited import keep_visited

        keep_visited(self.run_folder, self.out, overwrite=self.overwrite)
        print(f"wrote {self.out}; next: dexh2r train POLICY --init WEIGHTS --replays STORE {self.out} --out OUT")


@dataclass
class Replays:
    """Make, import and check recorded trials."""

    command: (
        Annotated[Import, subcommand("import")]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Goals, subcommand("goals")]
        | Annotated[Visited, subcommand("visited")]
        | Annotated[Info, subcommand("info")]
        | Annotated[Check, subcommand("check")]
        | Annotated[Migrate, subcommand("migrate")]
    )

    def run(self) -> None:
        self.command.run()
