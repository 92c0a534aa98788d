"""The command `dexh2r` (= `python -m dexh2r_gym`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, arg, subcommand

from dexh2r_gym.cli.grasps import Grasps
from dexh2r_gym.cli.replays import Replays
from dexh2r_gym.cli.runs import Bench, Evaluate, Score

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
