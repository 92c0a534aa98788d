"""Confidence intervals of rates and means, 95%."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of a rate: (low, high) in 0..1; (0, 1) for no trial at all."""
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie in 0 .. total, got {successes} of {total}")
    if total == 0:
        return 0.0, 1.0
    z2 = float(ndtri(0.5 + CONFIDENCE / 2)) ** 2
    rate = successes / total
    center = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = np.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * total)) / total) / (1 + z2 / total)
    # the ends that are exact are not left to rounding
    low = float(center - half) if successes > 0 else 0.0
    high = float(center + half) if successes < total else 1.0
    return low, high


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's t interval of a mean, (N,) -> (low, high); unbounded for fewer than two values."""
    if len(values) < 2:
        return -np.inf, np.inf
    half = stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
