"""The conditional U-Net over time of Diffusion Policy (Chi et al., RSS 2023), shared by DP and DP3.

A sequence is cleaned by residual blocks of convolutions at coarser and coarser time and back; what was observed and how
noisy the sequence is scale and shift the channels of every block (FiLM, Perez et al., AAAI 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_GROUPS = 8


class ConditionalUNet1D(nn.Module):
    """Sequences (B, T, size) -> (B, T, size); T a multiple of 2 ** (len(widths) - 1)."""

    def __init__(self, size: int, condition: int, widths: Sequence[int] = (512, 1024, 2048), kernel: int = 5) -> None:
        """condition: numbers that describe what was observed; the paper's widths and kernel by default."""
        super().__init__()
        step = min(256, widths[0])
        self.step_net = nn.Sequential(
            SinusoidalEmbedding(step), nn.Linear(step, 4 * step), nn.Mish(), nn.Linear(4 * step, step)
        )
        condition += step
        pairs = list(zip((size, *widths), widths, strict=False))
        self.down = nn.ModuleList()
        for level, (a, b) in enumerate(pairs):
            coarser = nn.Conv1d(b, b, 3, 2, 1) if level < len(pairs) - 1 else nn.Identity()
            self.down.append(_Level(a, b, condition, kernel, coarser))
        top = widths[-1]
        self.middle = nn.ModuleList([_Block(top, top, condition, kernel) for _ in range(2)])
        self.up = nn.ModuleList()
        for a, b in reversed(pairs[1:]):
            self.up.append(_Level(2 * b, a, condition, kernel, nn.ConvTranspose1d(a, a, 4, 2, 1)))
        first = widths[0]
        self.end = nn.Sequential(_conv(first, first, kernel), nn.Conv1d(first, size, 1))

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """noisy (B, T, size), step (B,) of the noise, condition (B, condition)."""
        condition = torch.cat((condition, self.step_net(step)), dim=-1)
        x, kept = noisy.transpose(1, 2), []
        for level in self.down:
            x, coarser = level(x, condition)
            kept.append(x)
            x = coarser
        for block in self.middle:
            x = block(x, condition)
        for level in self.up:
            _, x = level(torch.cat((x, kept.pop()), dim=1), condition)
        return self.end(x).transpose(1, 2)


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
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(_GROUPS, outputs), nn.Mish()
    )


class _Level(nn.Module):
    """Two blocks, then the same at another rate of time."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, resample: nn.Module) -> None:
        super().__init__()
        self.first, self.second = (_Block(n, outputs, condition, kernel) for n in (inputs, outputs))
        self.resample = resample

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(self.first(x, condition), condition)
        return x, self.resample(x)


class _Block(nn.Module):
    """Two convolutions with a way round them; the condition scales and shifts between the two."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, kernel), _conv(outputs, outputs, kernel)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.round = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        return self.second(self.first(x) * (1 + scale) + shift) + self.round(x)
