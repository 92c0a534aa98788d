"""Agents by name: whatever installed packages offer under the entry point group `dexh2r_gym.agents`, or `module:maker`.

A package offers agents by an entry point that names a function without arguments; it returns a dict from agent names to
makers, each a function of (vector environment, seed) that returns something with Stable-Baselines3's `predict`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.hints import did_you_mean

Maker = Callable[[HandoverVectorEnv, int], Any]


def find_agent(name: str) -> Maker:
    """The maker of an agent.

    Args:
        name: of an installed agent, or `module:function` for a maker of your own.

    Raises:
        ValueError: nothing of that name; the message lists the installed agents.
    """
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"agent {name!r} cannot be imported: {error}") from error
    makers = installed_agents()
    if name not in makers:
        hint = did_you_mean(name, makers)
        raise ValueError(f"unknown agent {name!r}{hint}; choose one of {', '.join(makers)}, or module:function")
    return makers[name]


def installed_agents() -> dict[str, Maker]:
    """All agents that installed packages offer, by name."""
    makers: dict[str, Maker] = {}
    for entry in entry_points(group="dexh2r_gym.agents"):
        makers |= entry.load()()
    return makers
