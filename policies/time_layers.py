"""Layers over sequences (B, T, C), for networks that plan.

On CPUs, PyTorch's convolutions and Mish take most of the time in which a plan is made. Without gradients, convolutions
are products of two matrices here; with gradients, and on GPUs, PyTorch's own serve better. Of few frames and channels,
a whole sequence is multiplied by one matrix, which is kept until the weights change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv_transpose1d, group_norm, linear, mish

from policies.approach import STEADY

_SMALL = 2**18  # numbers of a matrix for whole sequences, at most: 1 MB


class Conv(nn.Conv1d):
    """`torch.nn.Conv1d` of one group and no dilation, (B, T, C) -> (B, T', outputs)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.weight = _time_first(self.weight)
        self._whole = _WholeSequence()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T', outputs)"""
        if _learns_or_on_gpu(x):
            return self.pytorchs(x, self.bias)
        frames, kernel, stride, edge = x.shape[1], self.kernel_size[0], self.stride[0], int(self.padding[0])
        if (kernel, stride, edge) == (1, 1, 0):
            return linear(x, self.weight[..., 0], self.bias)
        if self._whole.suits(self, frames, frames // stride):
            return self._whole(self, x)
        if edge:
            x = torch.constant_pad_nd(x, (0, 0, edge, edge))
        windows = x.unfold(1, kernel, stride).transpose(2, 3)  # (B, T', kernel, C)
        rows = windows.reshape(-1, kernel * self.in_channels)
        y = linear(rows, self.weight.transpose(1, 2).flatten(1), self.bias)
        return y.view(len(x), -1, self.out_channels)

    def pytorchs(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As PyTorch computes it, with this bias."""
        return conv1d(x.transpose(1, 2), self.weight, bias, self.stride, self.padding).transpose(1, 2)


class Doubled(nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` of kernel 4, stride 2 and padding 1: twice as fine in time."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, 2, 1)
        self.weight = _time_first(self.weight)
        self._whole = _WholeSequence()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, C) -> (B, 2 T, C)"""
        if not _learns_or_on_gpu(x) and self._whole.suits(self, x.shape[1], 2 * x.shape[1]):
            return self._whole(self, x)
        part = (x @ self.weight.transpose(1, 2).flatten(1)).unflatten(-1, (4, -1))  # what each frame gives to four
        y = part[:, :, 1:3] + self.bias
        y[:, 1:, 0] += part[:, :-1, 3]
        y[:, :-1, 1] += part[:, 1:, 0]
        return y.flatten(1, 2)

    def pytorchs(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As PyTorch computes it, with this bias."""
        return conv_transpose1d(x.transpose(1, 2), self.weight, bias, 2, 1).transpose(1, 2)


class _WholeSequence:
    """What a layer does to sequences of so many frames as one matrix, until its weights change."""

    def __init__(self) -> None:
        self._of: tuple[int, ...] = ()
        self._matrix = self._bias = torch.empty(0)

    def suits(self, layer: Conv | Doubled, frames: int, answered: int) -> bool:
        """Whether the matrix is small, and changes of the weights are seen, as they are not of inference tensors."""
        numbers = frames * layer.in_channels * answered * layer.out_channels
        return numbers <= _SMALL and not layer.weight.is_inference()

    def __call__(self, layer: Conv | Doubled, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T', outputs), without gradients."""
        worlds, frames, channels = x.shape
        weight, bias = layer.weight, layer.bias
        assert bias is not None
        of = (frames, weight.data_ptr(), weight._version, bias.data_ptr(), bias._version)
        if of != self._of:
            one_each = torch.eye(frames * channels, dtype=weight.dtype, device=weight.device)
            each = one_each.unflatten(1, (frames, channels))
            with torch.autocast(weight.device.type, enabled=False):
                answers = layer.pytorchs(each, None)  # exact: products by 0 and 1
            self._matrix, self._bias = answers.flatten(1), bias.detach().repeat(answers.shape[1])
            self._of = of
        return torch.addmm(self._bias, x.flatten(1), self._matrix).view(worlds, -1, layer.out_channels)


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
