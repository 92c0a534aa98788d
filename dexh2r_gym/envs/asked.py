"""What a reset may ask for, one value for each of B worlds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def seeds_of(seed: int | Sequence[int | None] | None, num_worlds: int) -> list[int | None]:
    """The seed of each world: seed + i, or as listed; None for one that goes on as it was."""
    if seed is None:
        return [None] * num_worlds
    seeds: list[int | None] = (
        [int(seed) + i for i in range(num_worlds)] if isinstance(seed, int | np.integer) else list(seed)
    )
    if len(seeds) != num_worlds:
        raise ValueError(f"seed needs one number or {num_worlds}, got {len(seeds)}")
    return seeds


def replays_of(replay: str | Sequence[str | None] | None, num_worlds: int) -> list[str | None]:
    """The trial that each world is to run; None where it is drawn."""
    asked: list[str | None] = [replay] * num_worlds if replay is None or isinstance(replay, str) else list(replay)
    if len(asked) != num_worlds:
        raise ValueError(f"options['replay'] needs one id or {num_worlds}, got {len(asked)}")
    return asked
