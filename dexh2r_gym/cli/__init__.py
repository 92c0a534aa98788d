"""The command `dexh2r` (= `python -m dexh2r_gym`)."""

from __future__ import annotations

import os
import sys
from dataclasses import make_dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, arg, subcommand

from dexh2r_gym.cli.arm import ArmGap
from dexh2r_gym.cli.audit import Audit
from dexh2r_gym.cli.export import Export
from dexh2r_gym.cli.grasps import Grasps
from dexh2r_gym.cli.replays import Replays
from dexh2r_gym.cli.robustness import Latency, Robustness
from dexh2r_gym.cli.runs import Bench, Evaluate, Score
from dexh2r_gym.cli.simulators import Parity, Sweep
from dexh2r_gym.cli.table3 import Table3
from dexh2r_gym.cli.table4 import Table4
from dexh2r_gym.cli.view import View
from dexh2r_gym.plugins import installed

_ABOUT = (
    "Dexterous human-to-robot handover: evaluate agents, make, import and view trials, search grasps, train, measure."
)
COMMANDS: dict[str, Any] = {
    "evaluate": Evaluate,
    "score": Score,
    "view": View,
    "audit": Audit,
    "table3": Table3,
    "table4": Table4,
    "robustness": Robustness,
    "latency": Latency,
    "arm-gap": ArmGap,
    "bench": Bench,
    "parity": Parity,
    "sweep": Sweep,
    "replays": Replays,
    "grasps": Grasps,
    "export": Export,
}


def commands() -> dict[str, Any]:
    """Every command by name: our own, and those of packages with an entry point in the group `dexh2r_gym.commands`,
    which names a function without arguments that returns a dict from names to dataclasses with a method `run`."""
    return COMMANDS | installed("dexh2r_gym.commands")


def main() -> None:
    """Entry point. Mistakes of the user end with one line that says what is wrong, not with a traceback."""
    sys.path.append(os.getcwd())  # last: `module:function` finds your own modules in the present folder
    union = reduce(or_, (Annotated[command, subcommand(name)] for name, command in commands().items()))
    command_type = make_dataclass("Main", [("command", Annotated[union, arg(name="")])])
    command_type.__doc__ = _ABOUT
    try:
        parsed: Any = tyro.cli(command_type, prog="dexh2r", config=(OmitSubcommandPrefixes, OmitArgPrefixes))
        parsed.command.run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    except BrokenPipeError:  # who reads what is printed has read enough: dexh2r evaluate --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which Python flushes when it ends
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"dexh2r: {error}")
