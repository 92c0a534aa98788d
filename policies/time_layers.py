"""Layers over sequences (B, T, C), for networks that plan.

On CPUs, PyTorch's convolutions and Mish take most of the time in which a plan is made. Without gradients, convolutions
are products of two matrices here, in half the time; with gradients, and on GPUs, PyTorch's own serve better.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, linear, mish

from policies.approach import STEADY


class Conv(nn.Conv1d):
    """`torch.nn.Conv1d` of one group and no dilation, (B, T, C) -> (B, T', outputs)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.weight = _time_first(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T', outputs)"""
        if _learns_or_on_gpu(x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        kernel, edge = self.kernel_size[0], int(self.padding[0])
        if edge:
            x = torch.constant_pad_nd(x, (0, 0, edge, edge))
        windows = x.unfold(1, kernel, self.stride[0]).transpose(2, 3)  # (B, T', kernel, C)
        rows = windows.reshape(-1, kernel * self.in_channels)
        y = linear(rows, self.weight.transpose(1, 2).flatten(1), self.bias)
        return y.view(len(x), -1, self.out_channels)


class Doubled(nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` of kernel 4, stride 2 and padding 1: twice as fine in time."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, 2, 1)
        self.weight = _time_first(self.weight)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, C) -> (B, 2 T, C)"""
        part = (x @ self.weight.transpose(1, 2).flatten(1)).unflatten(-1, (4, -1))  # what each frame gives to four
        y = part[:, :, 1:3] + self.bias
        y[:, 1:, 0] += part[:, :-1, 3]
        y[:, :-1, 1] += part[:, 1:, 0]
        return y.flatten(1, 2)


class Norm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        picture = x.transpose(1, 2).unsqueeze(2)  # channels last, which it is quick at
        return group_norm(picture, self.num_groups, self.weight, self.bias, self.eps).squeeze(2).transpose(1, 2)


class Mish(nn.Module):
    """x tanh(ln(1 + e^x)) (Misra, BMVC 2020).

    PyTorch's has other last bits for what is left over of whole vectors; for few rows it is the quicker one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if _learns_or_on_gpu(x) or len(x) < STEADY:
            return mish(x)
        power = x.exp().add_(1)
        return torch.addcdiv(x, x, power.mul_(power).add_(1), value=-2)  # x - 2 x / ((1 + e^x)^2 + 1)


def _learns_or_on_gpu(x: Tensor) -> bool:
    return torch.is_grad_enabled() or x.is_cuda


def _time_first(weight: Tensor) -> nn.Parameter:
    """Weights (a, b, kernel) laid out in memory as (a, kernel, b): what `Conv` multiplies by is a view of it."""
    return nn.Parameter(weight.detach().transpose(1, 2).contiguous().transpose(1, 2))
