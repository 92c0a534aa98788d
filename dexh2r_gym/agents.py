"""Agents by name: whatever installed packages offer under the entry point group `dexh2r_gym.agents`, or `module:maker`.

A package offers agents by an entry point that names a function without arguments; it returns a dict from agent names to
makers, each a function of (vector environment, seed) that returns something with Stable-Baselines3's `predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.plugins import find, installed

GROUP = "dexh2r_gym.agents"
Maker = Callable[[HandoverVectorEnv, int], Any]


def find_agent(name: str) -> Maker:
    """The maker of an agent.

    Args:
        name: of an installed agent, or `module:function` for a maker of your own.

    Raises:
        ValueError: nothing of that name; the message lists the installed agents.
    """
    return find(name, GROUP, "agent")


def installed_agents() -> dict[str, Maker]:
    """All agents that installed packages offer, by name."""
    return installed(GROUP)
