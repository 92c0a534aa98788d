"""Numbers brought to mean 0 and deviation 1; the statistics are buffers, so they travel with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST = 1e-3  # a deviation below this counts as this: what never changes is not blown up


class Normalizer(nn.Module):
    """Statistics of arrays of one shape, each number on its own."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def fit(self, values: Tensor) -> None:
        """Take the statistics of values (N, *shape)."""
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(values.std(0).clamp_min(_LEAST))

    def forward(self, values: Tensor) -> Tensor:
        """(..., *shape) -> normalised."""
        return (values - self.mean) / self.deviation

    def inverse(self, values: Tensor) -> Tensor:
        """(..., *shape) -> as they were."""
        return values * self.deviation + self.mean
