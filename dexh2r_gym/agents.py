"""Agents by name: whatever installed packages offer under the entry point group `dexh2r_gym.agents`, or `module:maker`.

A package offers agents by an entry point that names a function without arguments; it returns a dict from agent names to
makers, each a function of (vector environment, seed) that returns something with Stable-Baselines3's `predict`. A maker
may have `env_options`, a dict of the environment's arguments that its agent needs, and `identity`, words for its
weights and settings. A name that begins with a dot is a suffix of files: what it names makes a maker of a path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dexh2r_gym.plugins import find, installed

GROUP = "dexh2r_gym.agents"
Maker = Callable[..., Any]  # of a `HandoverVectorEnv` and a seed


def find_agent(name: str) -> Maker:
    """The maker of an agent.

    Args:
        name: of an installed agent, `module:function` for a maker of your own, or the path of a checkpoint.

    Raises:
        ValueError: nothing of that name; the message lists the installed agents.
    """
    offered = installed(GROUP)
    if (suffix := Path(name).suffix) in offered and not name.startswith("."):
        return offered[suffix](Path(name))
    return find(name, GROUP, "agent")


def agent_title(name: str) -> str:
    """The name of an agent as tables and folders have it: of a checkpoint without its folder and suffix."""
    return name.replace(":", ".") if ":" in name else Path(name).stem


def installed_agents() -> dict[str, Maker]:
    """All agents that installed packages offer, by name."""
    return {name: maker for name, maker in installed(GROUP).items() if not name.startswith(".")}
