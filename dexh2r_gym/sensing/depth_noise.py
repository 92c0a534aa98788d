"""Errors of a camera's depth, along the ray of each point, and points that it does not see.

Time of flight: what comes back of the light falls with the square of the distance and with the slant of the surface,
and the standard deviation grows as it falls. Toelgyessy et al., "Evaluation of the Azure Kinect", Sensors 2021,
21(2):413, confirm its maker's bound of 17 mm up to 3.5 m. The defaults are our choice below it:
1.4 mm at 1.7 m, 6 mm at 3.5 m. Steep surfaces are lost, and some of all points. The wrist's stereo
cameras are given the same errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.sensing.hashing import normal, uniform

LOST = 2.0  # a cosine that no surface has
_LENGTH = 1 << 20  # numbers of a strip
_ROW = 1 << 16  # numbers that are made with one key
_START, _NORMAL, _FACING = 11, 12, 13  # streams


@dataclass(frozen=True)
class DepthNoise:
    """How a depth camera errs."""

    axial: float = 0.0005  # m standard deviation at 1 m and head on; with distance^2 / cosine of the slant
    slant: float = 78.0  # degrees between ray and normal, from which on points are lost more and more
    steepest: float = 87.0  # degrees, from which on all are
    dropout: float = 0.02  # part of the others that is lost

    def __post_init__(self) -> None:
        if not 0 <= self.axial <= 0.1:
            raise ValueError(f"axial depth noise must be 0 to 0.1 m at 1 m, got {self.axial}")
        if not 0 <= self.slant <= self.steepest <= 90:
            raise ValueError(
                f"slant and steepest must be 0 <= slant <= steepest <= 90 degrees, got {self.slant}, {self.steepest}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def needed_cosine(self, chance: Tensor) -> Tensor:
        """Cosine of the slant beyond which a point with this chance, uniform in (0, 1), is seen."""
        low, high = (math.cos(math.radians(angle)) for angle in (self.steepest, self.slant))
        cosine = low + (high - low) * chance / (1 - self.dropout)
        return torch.where(chance > 1 - self.dropout, LOST, cosine)


class Strips:
    """A long strip of standard normal numbers and one of needed cosines; each world and frame reads at its own place.

    So a frame takes a few hashed numbers a world instead of thousands.
    """

    def __init__(self, noise: DepthNoise, device: torch.device | str = "cpu") -> None:
        rows = torch.arange(_LENGTH // _ROW)  # made on the CPU, so that they are the same on every device
        self._normal = normal(rows, _NORMAL, _ROW).flatten().to(device)
        self._facing = noise.needed_cosine(uniform(rows, _FACING, _ROW).flatten()).to(device)

    def normals(self, start: Tensor, count: int) -> Tensor:
        """Standard normal numbers from places start (B,) in [0, 1). -> (B, count)"""
        return _read(self._normal, start, count)

    def cosines(self, start: Tensor, count: int) -> Tensor:
        """Needed cosines from places start (B,) in [0, 1). -> (B, count)"""
        return _read(self._facing, start, count)


def starts(key: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each key (B,) long. -> (B, count) float64"""
    return uniform(key, _START, count).double()


def _read(strip: Tensor, start: Tensor, count: int) -> Tensor:
    at = (start * (len(strip) - count)).long()
    return strip.unfold(0, count, 1)[at]
