"""Libraries that only some commands need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError, RuntimeError):
    """A library that is not installed, with the extra of this package that brings it."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module of an optional dependency.

    Raises:
        MissingExtraError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name != module.split(".")[0]:
            raise
        raise MissingExtraError(f'{error.name} is not installed: pip install "dexh2r-gym[{extra}]"') from error
