"""Residual layers that heed a condition (as adaptive layer normalisation does in DiT, Peebles and Xie, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class ModulatedBlocks(nn.ModuleList):
    """Residual blocks one after the other, each scaled and shifted by what it makes of the condition."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(_Block(width) for _ in range(count))

    def films(self, given: Tensor) -> list[Tensor]:
        """Scales and shifts (..., 2 width) of each block; given: the condition (..., width)."""
        return [cast(_Block, block).modulation(given) for block in self]

    def forward(self, x: Tensor, films: Sequence[Tensor]) -> Tensor:
        """(B, width), and (B, 2 width) for each block -> (B, width)"""
        for block, film in zip(self, films, strict=True):
            x = block(x, film)
        return x


class _Block(nn.Module):
    """Residual layers, scaled and shifted: (B, width), (B, 2 width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)
