"""A small residual network for pictures, with group normalisation in place of batch normalisation (as Diffusion Policy)
and spatial softmax (Levine et al. 2016): each channel answers with the place where it is strongest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_GROUPS = 8


class ImageEncoder(nn.Module):
    """Pictures (B, channels, H, W) in [0, 1] -> (B, feature)."""

    def __init__(self, channels: int, widths: Sequence[int], feature: int) -> None:
        super().__init__()
        first = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(channels, first, 7, 4, 3), nn.GroupNorm(_GROUPS, first), nn.ReLU()]
        for a, b in pairwise(widths):
            layers.append(_Block(a, b))
        self.layers = nn.Sequential(*layers)
        self.end = nn.Linear(2 * widths[-1], feature)

    def forward(self, picture: Tensor) -> Tensor:
        maps = self.layers(picture)
        weight = maps.flatten(2).softmax(-1).unflatten(-1, maps.shape[2:])
        rows, columns = (torch.linspace(-1, 1, n, device=maps.device) for n in maps.shape[2:])
        down, across = (weight.sum(3) * rows).sum(-1), (weight.sum(2) * columns).sum(-1)
        return self.end(torch.cat((across, down), dim=-1))


class _Block(nn.Module):
    """Two convolutions at half the size, with a way round them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1),
            nn.GroupNorm(_GROUPS, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.GroupNorm(_GROUPS, outputs),
        )
        self.round = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.round(x))
