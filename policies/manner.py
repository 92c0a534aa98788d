"""In which manner the scripted expert takes an object: always directly, or in a manner of its own for each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GOAL_SPREAD = 0.15  # standard deviation of what a goal seems to cost; about what 15 cm of way cost
DETOUR = (0.04, 0.07, 0.06)  # m, standard deviations along x, y and z


@dataclass
class Manner:
    """Of B worlds."""

    pause: Tensor  # (B,) 0..1, how much of the spare time passes before the hand sets off
    reach_speed: Tensor  # (B,) m/s, mean over the reach; its peak is 1.875 times that
    turn_speed: Tensor  # (B,) rad/s, mean over the reach
    retreats: Tensor  # (B,) how many retreats behind the goal the hand goes first, before it moves in
    approach: Tensor  # (B,) frames from there to the goal
    detour: Tensor  # (B, 3) m, off the straight way, greatest in the middle of it; world frame
    goal_cost: Tensor  # (B, G) added to what each goal costs


def direct_manner(num_worlds: int, num_goals: int) -> Manner:
    """No pause, no detour, the cheapest goal."""

    def all_of(value: float, *shape: int) -> Tensor:
        return torch.full((num_worlds, *shape), value, dtype=torch.float64)

    return Manner(
        pause=all_of(0.0),
        reach_speed=all_of(0.40),
        turn_speed=all_of(1.3),
        retreats=all_of(2.0),
        approach=all_of(16.0),
        detour=all_of(0.0, 3),
        goal_cost=all_of(0.0, num_goals),
    )


def varied_manner(seed: int, replay_ids: Sequence[str], num_goals: int) -> Manner:
    """A manner for each trial, named by the seed and the trial's id."""
    manner = direct_manner(len(replay_ids), num_goals)
    for i, replay_id in enumerate(replay_ids):
        digest = hashlib.sha256(f"{seed}/{replay_id}".encode()).digest()
        rng = np.random.default_rng(list(digest[:16]))
        pace = rng.lognormal(0.0, 0.25)
        manner.pause[i] = rng.uniform()
        manner.reach_speed[i] *= pace
        manner.turn_speed[i] *= pace * rng.lognormal(0.0, 0.1)
        manner.retreats[i] = rng.uniform(1.5, 3.0)
        manner.approach[i] = round(16.0 / pace * rng.lognormal(0.0, 0.15))
        manner.detour[i] = torch.from_numpy(rng.normal(0.0, DETOUR))
        manner.goal_cost[i] = torch.from_numpy(rng.normal(0.0, GOAL_SPREAD, num_goals))
    return manner
