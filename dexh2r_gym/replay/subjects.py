"""The givers of synthetic trials: the hand, the arm and the habits of each.

World frame, z up. A giver stands at +x and faces -x, so their right arm is at +y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dexh2r_gym.giver import SIDES


@dataclass(frozen=True)
class Subject:
    """One giver: the hand, and habits that all of their trials share."""

    number: int
    side: str  # the hand that gives
    betas: tuple[float, ...]  # (10,) shape of the hand
    shoulder: tuple[float, float, float]  # m
    offer: tuple[float, float, float]  # m, where the wrist comes to rest, give or take
    speed: float  # m/s, mean of a movement
    turning: float  # rad/s, how fast forearm and wrist turn on the way, one standard deviation
    seconds: float  # of a trial, the median
    pausing: float  # probability of a pause between two movements
    hesitation: float  # probability that the last movement is taken back in part
    second_offer: float  # probability that a first offer is withdrawn and another made
    patience: float  # share of a trial in which the object is held out
    drift: float  # probability that the object keeps moving while it is held out
    tremor: float  # m, amplitude of the slow sway
    fussiness: float  # how strongly one way of grasping is preferred to another, 0: not at all

    @property
    def outward(self) -> float:
        """Sign of y on the side of the arm."""
        return 1.0 if self.side == "right" else -1.0


def draw_subjects(count: int, seed: int) -> list[Subject]:
    """`count` different givers, numbered from 0; one in four is left-handed (at least one if there are two or more)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    left = set(rng.permutation(count)[: max(count // 4, int(count > 1))].tolist())
    subjects = []
    for number in range(count):
        side = SIDES[int(number in left)]
        outward = 1.0 if side == "right" else -1.0
        betas = np.clip(rng.normal(size=10), -2, 2) * np.r_[1.0, np.full(9, 0.7)]
        subjects.append(
            Subject(
                number,
                side,
                tuple(betas.tolist()),
                shoulder=(rng.uniform(0.50, 0.62), outward * rng.uniform(0.16, 0.22), rng.uniform(1.27, 1.43)),
                offer=(rng.uniform(0.05, 0.17), outward * rng.uniform(-0.08, 0.12), rng.uniform(0.92, 1.12)),
                speed=float(np.clip(rng.lognormal(np.log(0.25), 0.24), 0.14, 0.45)),
                turning=rng.uniform(0.3, 0.8),
                seconds=float(np.clip(rng.lognormal(np.log(3.5), 0.12), 3.0, 5.0)),
                pausing=rng.uniform(0.1, 0.5),
                hesitation=rng.uniform(0.05, 0.4),
                second_offer=rng.uniform(0.0, 0.2),
                patience=rng.uniform(0.18, 0.36),
                drift=rng.uniform(0.3, 1.0),
                tremor=rng.uniform(0.002, 0.006),
                fussiness=rng.uniform(0.0, 1.5),
            )
        )
    return subjects
