"""A small residual network for pictures, with group normalisation in place of batch normalisation (as Diffusion Policy)
and spatial softmax (Levine et al. 2016): each channel answers with the place where it is strongest, and how strong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

_GROUPS = 8


class ImageEncoder(nn.Module):
    """Pictures (B, channels, H, W) -> (B, feature)."""

    def __init__(
        self, channels: int, widths: Sequence[int], feature: int, *, strides: Sequence[int], coordinates: int = 2
    ) -> None:
        """strides: edge of the first patches, and stride of each block. coordinates: of a place: 2 in the picture,
        3 in space."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], strides[0], strides[0])]  # of patches
        for (a, b), stride in zip(pairwise(widths), strides[1:], strict=True):
            layers.append(_Block(a, b, stride))
        self.layers = nn.Sequential(*layers)
        self.end = nn.Linear((1 + coordinates) * widths[-1], feature)

    def forward(self, picture: Tensor, points: Tensor | None = None, depth: Tensor | None = None) -> Tensor:
        """points (B, 3, H, W): what the pixels show, where places are those in space, and its depth (B, H, W)."""
        maps = self.layers(picture)
        places = _grid(maps) if points is None or depth is None else _foremost(points, depth, maps.shape[2:])
        weight = maps.flatten(2).softmax(-1)  # (B, C, cells)
        where = weight @ places.flatten(2).transpose(1, 2).to(weight)
        return self.end(torch.cat((where.flatten(1), maps.flatten(2).max(-1).values), dim=-1))


def _grid(maps: Tensor) -> Tensor:
    """Places in the picture, from -1 to 1 across and down, (1, 2, h, w)."""
    down, across = (torch.linspace(-1, 1, n, device=maps.device) for n in maps.shape[2:])
    return torch.stack(torch.meshgrid(across, down, indexing="xy"))[None]


def _foremost(points: Tensor, depth: Tensor, size: Sequence[int]) -> Tensor:
    """Of each of h x w cells the point that is nearest to the camera, (B, 3, h, w)."""
    _, index = adaptive_max_pool2d(-depth[:, None], tuple(size), return_indices=True)
    picked = points.flatten(2).gather(2, index.flatten(2).expand(-1, points.shape[1], -1))
    return picked.unflatten(2, tuple(size))


class _Block(nn.Module):
    """Two convolutions with a way round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.GroupNorm(_GROUPS, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.GroupNorm(_GROUPS, outputs),
        )
        self.round = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.round(x))
