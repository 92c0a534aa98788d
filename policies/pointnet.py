"""PointNet (Qi et al., CVPR 2017) without its alignment nets: one feature of a set of points."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class PointNet(nn.Module):
    """The same small network at every point, then the greatest value of each channel."""

    def __init__(self, widths: Sequence[int], inputs: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, points: Tensor) -> Tensor:
        """(B, P, inputs) -> (B, last of widths)"""
        features = self.layers(points)
        if features.requires_grad:
            return features.max(dim=1).values  # its backward is cheaper than that of amax
        return features.amax(dim=1)
