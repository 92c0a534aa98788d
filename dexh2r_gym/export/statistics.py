"""Statistics of features as LeRobot stores them: of each episode, and of all frames together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
_POINT_STEP, _PIXEL_STEP = 16, 8  # of clouds every 16th point counts, of pictures every 8th pixel along each side


def samples(values: NDArray, kind: str) -> NDArray:
    """What of T frames counts, (N, D): all numbers of vectors, some points of clouds, some pixels of pictures.

    Args:
        values: (T, D); of clouds (T, P, 3); of pictures (T, H, W, 3) uint8.
        kind: vector, cloud or picture.
    """
    if kind == "cloud":
        return values[:, ::_POINT_STEP].reshape(-1, values.shape[-1])
    if kind == "picture":
        return values[:, ::_PIXEL_STEP, ::_PIXEL_STEP].reshape(-1, values.shape[-1])
    return values.reshape(len(values), -1)


def summary(chosen: NDArray, frames: int, kind: str) -> dict[str, Any]:
    """min, max, mean, std, count and quantiles of samples (N, D), as lists that json can hold.

    They are exact for the samples, those of the whole data set too: LeRobot's own are means of the episodes' quantiles.
    Pictures count from 0 to 1 and have the shape (3, 1, 1), as LeRobot wants it.
    """
    x = chosen.astype(np.float64) / (255.0 if kind == "picture" else 1.0)
    found = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0)}
    found |= {f"q{round(100 * q):02d}": value for q, value in zip(QUANTILES, np.quantile(x, QUANTILES, 0), strict=True)}
    if kind == "picture":
        found = {name: value[:, None, None] for name, value in found.items()}
    return {name: value.tolist() for name, value in found.items()} | {"count": [frames]}


class Statistics:
    """Gathers what counts of each episode, for the statistics of all: 600 bytes a frame for the flat state."""

    def __init__(self, kinds: dict[str, str]):
        """kinds: vector, cloud or picture, by feature."""
        self._kinds = kinds
        self._chosen: dict[str, list[NDArray]] = {name: [] for name in kinds}
        self._frames = 0

    def add(self, episode: dict[str, NDArray]) -> dict[str, dict[str, Any]]:
        """Statistics of one episode, of T frames, by feature."""
        frames = len(next(iter(episode.values())))
        self._frames += frames
        found = {}
        for name, kind in self._kinds.items():
            chosen = samples(episode[name], kind).copy()
            self._chosen[name].append(chosen)
            found[name] = summary(chosen, frames, kind)
        return found

    def total(self) -> dict[str, dict[str, Any]]:
        """Statistics of all episodes together, by feature."""
        return {
            name: summary(np.concatenate(self._chosen[name]), self._frames, kind) for name, kind in self._kinds.items()
        }
