"""Which of B worlds something is done for: one code for processors that choose rows and for devices that must not wait.

`worlds` is either the numbers (n,) long of some worlds, and tensors that go with it have n rows; or a mask (B,) bool,
and they have all B rows, of which those of the mask count. To choose rows, a GPU's memory has to be read; a mask never
is, so that the host can run ahead.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(mask: Tensor, *, blindly: bool) -> Tensor:
    """The worlds of a mask (B,) bool: the mask itself if `blindly`, else their numbers (n,)."""
    return mask if blindly else mask.nonzero().squeeze(1)


def surely_none(worlds: Tensor) -> bool:
    """Whether it is known, without looking, that there is no world."""
    return worlds.dtype != torch.bool and len(worlds) == 0


def numbers(worlds: Tensor) -> Tensor:
    """The number of the world of each row, (n,) or (B,) long."""
    return torch.arange(len(worlds), device=worlds.device) if worlds.dtype == torch.bool else worlds


def mask_of(worlds: Tensor, num_worlds: int) -> Tensor:
    """(B,) bool, which worlds these are."""
    if worlds.dtype == torch.bool:
        return worlds
    return torch.zeros(num_worlds, dtype=torch.bool, device=worlds.device).index_fill_(0, worlds, True)


def among(worlds: Tensor, where: Tensor) -> Tensor:
    """Those of the worlds where it holds, (n,) or (B,) bool."""
    return worlds & where if worlds.dtype == torch.bool else worlds[where]


def take(values: Tensor, worlds: Tensor) -> Tensor:
    """Rows of values (B, ...): those of the worlds, or all as they are (not a copy)."""
    return values if worlds.dtype == torch.bool else values[worlds]


def put(values: Tensor, worlds: Tensor, new: Tensor | float | bool) -> Tensor:
    """Values (B, ...) with new ones in these worlds, as a new tensor: what was handed out before stays as it was."""
    if worlds.dtype == torch.bool:
        return torch.where(_beside(worlds, values), new, values)
    out = values.clone()
    out[worlds] = new
    return out


def put_both(values: tuple[Tensor, Tensor], worlds: Tensor, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`put` for two, such as a pose and joints."""
    return put(values[0], worlds, new[0]), put(values[1], worlds, new[1])


def put_(values: Tensor, worlds: Tensor, new: Tensor | float | bool) -> None:
    """The same in place."""
    if worlds.dtype == torch.bool:
        values.copy_(torch.where(_beside(worlds, values), new, values))
    else:
        values[worlds] = new


def put_at_(values: Tensor, worlds: Tensor, column: Tensor, new: Tensor) -> None:
    """In each of these worlds, a new value (n, ...) or (B, ...) in a column (n,) or (B,) of values (B, C, ...)."""
    row = numbers(worlds)
    if worlds.dtype == torch.bool:
        old = values[row, column]
        new = torch.where(_beside(worlds, old), new, old)
    values[row, column] = new


def _beside(mask: Tensor, values: Tensor) -> Tensor:
    """A mask (B,) that broadcasts against values (B, ...)."""
    return mask.view(-1, *[1] * (values.ndim - 1))
