"""Fixed numbers as tensors of any device, brought there once: a copy from the host makes a GPU's queue wait."""

from __future__ import annotations

from functools import lru_cache
from typing import Tuple, Union  # noqa: UP035 - the IsaacGymEnvs task reads this file in Python 3.8

import torch
from torch import Tensor

Numbers = Union[Tuple[float, ...], Tuple[Tuple[float, ...], ...]]  # noqa: UP006, UP007


def constant(numbers: Numbers | Tensor, like: Tensor) -> Tensor:
    """A tuple, or a tensor that nobody changes, with the dtype and on the device of another one. Do not write to it."""
    return _kept(numbers, like.dtype, like.device)


@lru_cache(maxsize=1024)
def _kept(numbers: Numbers | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    made = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=dtype)
    return made.to(device, dtype)
