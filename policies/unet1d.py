"""The conditional U-Net over time of Diffusion Policy (Chi et al., RSS 2023), shared by DP and DP3.

A sequence is cleaned by residual blocks of convolutions at coarser and coarser time and back; what was observed and how
noisy the sequence is scale and shift the channels of every block (FiLM, Perez et al., AAAI 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from policies.time_layers import Conv, Doubled, Mish, Norm

_GROUPS = 8


class ConditionalUNet1D(nn.Module):
    """Sequences (B, T, size) -> (B, T, size); T a multiple of 2 ** (len(widths) - 1)."""

    def __init__(self, size: int, condition: int, widths: Sequence[int] = (512, 1024, 2048), kernel: int = 5) -> None:
        """condition: numbers that describe what was observed; the paper's widths and kernel by default."""
        super().__init__()
        step = min(256, widths[0])
        self.step_net = nn.Sequential(
            SinusoidalEmbedding(step), nn.Linear(step, 4 * step), Mish(), nn.Linear(4 * step, step)
        )
        condition += step
        pairs = list(zip((size, *widths), widths, strict=False))
        self.down = nn.ModuleList()
        for level, (a, b) in enumerate(pairs):
            coarser = Conv(b, b, 3, 2, 1) if level < len(pairs) - 1 else nn.Identity()
            self.down.append(_Level(a, b, condition, kernel, coarser))
        top = widths[-1]
        self.middle = nn.ModuleList([_Block(top, top, condition, kernel) for _ in range(2)])
        self.up = nn.ModuleList()
        for a, b in reversed(pairs[1:]):
            self.up.append(_Level(2 * b, a, condition, kernel, Doubled(a)))
        first = widths[0]
        self.end = nn.Sequential(_conv(first, first, kernel), Conv(first, size, 1))

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """noisy (B, T, size), step (B,) of the noise, condition (B, condition)."""
        return self.clean(noisy, self.films(step, condition))

    def films(self, step: Tensor, condition: Tensor) -> list[Tensor]:
        """What the channels of each block are multiplied by, and what is added to them: (B, 1, channels) each.

        step: (B,), or (S, 1) for (S, B, 1, channels): then what depends on the condition (B, condition) alone is
        computed once for all S.
        """
        told = self.step_net(step.flatten()).unflatten(0, step.shape)
        return [film for block in self._blocks() for film in block.modulation(condition, told)]

    def clean(self, noisy: Tensor, films: Sequence[Tensor]) -> Tensor:
        """`forward`, from `films`."""
        film, x, kept = iter(films), noisy, []
        for level in self.down:
            x, coarser = level(x, film)
            kept.append(x)
            x = coarser
        for block in self.middle:
            x = block(x, film)
        for level in self.up:
            _, x = level(torch.cat((x, kept.pop()), dim=-1), film)
        return self.end(x)

    def _blocks(self) -> Iterator[_Block]:
        """In the order in which `clean` goes through them."""
        return (module for module in self.modules() if isinstance(module, _Block))


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a number at geometric frequencies. (B,) -> (B, size)"""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._half = size // 2

    def forward(self, number: Tensor) -> Tensor:
        rate = torch.exp(torch.arange(self._half, device=number.device) * (-math.log(10_000) / (self._half - 1)))
        angle = number[:, None].float() * rate
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, outputs, kernel, padding=kernel // 2), Norm(_GROUPS, outputs), Mish())


class _Level(nn.Module):
    """Two blocks, then the same at another rate of time."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, resample: nn.Module) -> None:
        super().__init__()
        self.first, self.second = (_Block(n, outputs, condition, kernel) for n in (inputs, outputs))
        self.resample = resample

    def forward(self, x: Tensor, film: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        x = self.second(self.first(x, film), film)
        return x, self.resample(x)


class _Block(nn.Module):
    """Two convolutions with a way round them; the condition scales and shifts between the two."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, kernel), _conv(outputs, outputs, kernel)
        self.film = nn.Sequential(Mish(), nn.Linear(condition, 2 * outputs))
        self.round = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def modulation(self, condition: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Factors and summands (..., 1, outputs); condition (..., C) and step (..., S) are broadcast."""
        mish, layer = self.film[0], cast(nn.Linear, self.film[1])
        parts = layer.weight.split((condition.shape[-1], step.shape[-1]), dim=1)
        film = linear(mish(condition), parts[0], layer.bias) + linear(mish(step), parts[1])
        scale, shift = film[..., None, :].chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, x: Tensor, film: Iterator[Tensor]) -> Tensor:
        factor, summand = next(film), next(film)
        return self.second(torch.addcmul(summand, self.first(x), factor)) + self.round(x)
