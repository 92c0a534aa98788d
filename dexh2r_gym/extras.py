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
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        raise MissingExtraError(f'{library} is not installed: pip install "dexh2r-gym[{extra}]"') from error
