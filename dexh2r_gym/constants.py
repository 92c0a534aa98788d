"""Fixed numbers as tensors of any device, brought there once: a copy from the host makes a GPU's queue wait."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]


def constant(numbers: Numbers | Tensor, like: Tensor) -> Tensor:
    """A tuple, or a tensor that nobody changes, with the dtype and on the device of another one. Do not write to it."""
    return _kept(numbers, like.dtype, like.device)


@lru_cache(maxsize=1024)
def _kept(numbers: Numbers | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.as_tensor(numbers, dtype=dtype, device=device)
