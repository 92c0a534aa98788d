"""Point sets of any size brought to a fixed one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLERS = ("random", "farthest")


def pick_evenly(kept: np.ndarray, count: int, phase: np.ndarray) -> np.ndarray:
    """Places (B, count) of those kept (B, N) bool, evenly spread over their row from phase (B,) in [0, 1).

    Each is as likely as any other. Where fewer are kept than `count`, all are taken, some more than once; of a row that
    keeps none, place 0.
    """
    number = np.count_nonzero(kept, axis=1)
    start = np.cumsum(number) - number
    flat = np.append(np.flatnonzero(kept.ravel()), 0)
    rank = ((np.arange(count) + phase[:, None]) * (number / count)[:, None]).astype(np.int64)
    rank = np.minimum(rank, np.maximum(number - 1, 0)[:, None]) + start[:, None]
    row = np.arange(len(kept))[:, None] * kept.shape[1]
    return np.where(number[:, None] > 0, flat[np.minimum(rank, len(flat) - 1)] - row, 0)


def pick_evenly_blindly(kept: Tensor, count: int, phase: Tensor) -> Tensor:
    """`pick_evenly` of tensors, (B, N) bool and (B,) float64, whose values need not be read. -> (B, count) long"""
    number, slots = kept.sum(1, keepdim=True), kept.shape[1]
    order = torch.where(kept, kept.cumsum(1) - 1, slots)
    column = torch.arange(slots, device=kept.device).expand(kept.shape)
    place = column.new_zeros(len(kept), slots + 1).scatter_(1, order, column)  # of the first kept, the second, ...
    rank = ((torch.arange(count, device=kept.device) + phase[:, None]) * (number.double() / count)).long()
    rank = rank.minimum((number - 1).clamp_min(0))
    return torch.where(number > 0, place.gather(1, rank), 0)


def pick_farthest(points: Tensor, kept: Tensor, count: int, phase: Tensor) -> Tensor:
    """Places (B, count) by farthest point sampling: each is the one farthest from those before it.

    points (3, B, N) m; kept (B, N) bool; phase (B,) in [0, 1) chooses the first. Where fewer are kept than `count`,
    they are taken again in the same order; of a row that keeps none, place 0. It takes `count` passes over all points.
    """
    number = kept.sum(1)
    order = kept.cumsum(1) - 1
    rank = (phase * number).long().minimum((number - 1).clamp_min(0))
    place = ((order == rank[:, None]) & kept).long().argmax(1, keepdim=True)
    apart = torch.where(kept, torch.inf, -1.0)
    x, y, z = points.unbind(0)
    places = []
    for _ in range(count):
        places.append(place)
        dx, dy, dz = (v - v.gather(1, place) for v in (x, y, z))
        apart = torch.minimum(apart, dx * dx + dy * dy + dz * dz)
        place = apart.argmax(1, keepdim=True)
    again = torch.arange(count, device=kept.device) % number.clamp_min(1)[:, None]
    return torch.cat(places, dim=1).gather(1, again)
