"""Figures of handovers recorded by others, to be put beside ours."""

from __future__ import annotations

from typing import NamedTuple

RPL = "Handovers@RPL (Khanna et al. 2023), one trial"
WALKING = "1000 dynamic handovers by walking givers, 30 Hz"
ONE_HAND = "sequences of handling objects with one hand, 30 fps"
PASSING = "sequences of passing objects, 25 fps"
DEXH2R = "DexH2R (Wang et al. 2025), from the paper"
SOURCES = (RPL, WALKING, ONE_HAND, PASSING, DEXH2R)


class Reference(NamedTuple):
    """A figure of others: a value, or the range from `low` to `high`, of a measure of `TrialStatistics`, SI units."""

    measure: str
    source: str
    what: str
    low: float
    high: float


REFERENCES = (
    Reference("seconds", WALKING, "median", 4.2, 4.2),
    Reference("frames", DEXH2R, "mean", 106, 106),
    Reference("path", RPL, "value", 1.4, 1.4),
    Reference("net_displacement", WALKING, "value", 1.49, 1.49),
    Reference("mean_speed", RPL, "value", 0.32, 0.32),
    Reference("mean_speed", WALKING, "5 to 95%", 0.37, 0.67),
    Reference("mean_speed", ONE_HAND, "range", 0.17, 0.31),
    Reference("mean_speed", PASSING, "range", 0.5, 0.9),
    Reference("peak_speed", RPL, "smoothed", 0.65, 0.65),
    Reference("peak_speed", WALKING, "typical", 1.03, 1.03),
    Reference("peak_speed", ONE_HAND, "range", 0.8, 1.8),
    Reference("peak_speed", PASSING, "range", 1.5, 2.2),
    Reference("taken_speed", RPL, "when the taker's grip starts", 0.13, 0.13),
    Reference("demo_path", DEXH2R, "range", 1.0, 2.0),
)
