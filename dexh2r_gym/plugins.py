"""What installed packages offer under an entry point group, by name; or `module:name` for what is in no package.

An entry point names a function without arguments that returns a dict from names to what is offered.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from dexh2r_gym.hints import did_you_mean


def installed(group: str) -> dict[str, Any]:
    """All that installed packages offer under a group, by name."""
    found: dict[str, Any] = {}
    for entry in entry_points(group=group):
        found |= entry.load()()
    return found


def find(name: str, group: str, what: str) -> Any:
    """One of them by its name, or an object of your own by `module:name`.

    Raises:
        ValueError: nothing of that name; the message says `what` it was to be and lists those installed.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    offered = installed(group)
    if name not in offered:
        names = [known for known in offered if not known.startswith(".")]
        hint = did_you_mean(name, names)
        raise ValueError(f"unknown {what} {name!r}{hint}; choose one of {', '.join(names)}, or module:function")
    return offered[name]
