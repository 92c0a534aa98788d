"""Residual layers that heed a condition (as adaptive layer normalisation does in DiT, Peebles and Xie, ICCV 2023)."""

from __future__ import annotations

from torch import Tensor, nn


class ModulatedBlock(nn.Module):
    """Residual layers, scaled and shifted by the condition: (B, width), (B, width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.modulated(x, self.modulation(condition))

    def modulated(self, x: Tensor, film: Tensor) -> Tensor:
        """`forward`, from what `modulation` makes of the condition."""
        scale, shift = film.chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)
