"""Random numbers as a function of a key: the same for a world whatever stands beside it, and nothing to be kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio, as int64
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SHIFTS = (30, 27, 31)


def uniform(key: Tensor, stream: int, count: int) -> Tensor:
    """Numbers in (0, 1), float32, from keys (B,) long; other streams give other numbers. -> (B, count)

    SplitMix64 (Steele, Lea and Flood 2014) of the key's own mix and the number's place.
    """
    start = _mix(_mix(key) + _wrapped(stream * _ODD))
    bits = _mix(start[:, None] + torch.arange(1, count + 1, device=key.device) * _ODD)
    return (_shifted(bits, 41).float() + 0.5) * 2.0**-23  # 23 bits: exact, and never 0 or 1


def normal(key: Tensor, stream: int, count: int) -> Tensor:
    """Standard normal numbers, float32, as `uniform`. -> (B, count)"""
    u, v = uniform(key, stream, 2 * count).unflatten(1, (2, count)).unbind(1)
    return (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()


def joined(key: Tensor, number: Tensor | int) -> Tensor:
    """One key (B,) long, at least 0 and below 2^62, for each pair of a key (B,) long and a number, (B,) long or one."""
    return _shifted(_mix(_mix(key) + (_wrapped(number * _ODD) if isinstance(number, int) else number * _ODD)), 2)


def _wrapped(x: int) -> int:
    """As int64 arithmetic has it."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix(x: Tensor) -> Tensor:
    for shift, factor in zip(_SHIFTS[:2], _MIX, strict=True):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, _SHIFTS[2])


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
