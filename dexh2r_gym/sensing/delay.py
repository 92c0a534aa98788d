"""Observations that arrive late."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from dexh2r_gym.worlds import chosen, put_, take


class Delay:
    """Gives back what was shown so many frames ago; in the first frames of an episode, its first frame."""

    def __init__(self, frames: int, in_time: Collection[str] = (), *, blindly: bool = False) -> None:
        """frames: at least 0. in_time: names of parts that are not delayed. blindly: see `dexh2r_gym.worlds`."""
        self._frames, self._in_time, self._blindly = frames, frozenset(in_time), blindly
        self._past: dict[str, Tensor] = {}  # (B, frames + 1, ...), the oldest first

    def show(self, parts: dict[str, Tensor], moved: Tensor, begun: Tensor) -> dict[str, Tensor]:
        """Take in parts (B, ...) of the worlds that `moved` (B,) bool, of which those `begun` forget what was before.

        Returns parts (B, ...) as they were `frames` frames ago, in memory of their own.
        """
        if self._frames == 0:
            return parts
        out, moved, begun = {}, *(chosen(mask, blindly=self._blindly) for mask in (moved, begun))
        for name, new in parts.items():
            if name in self._in_time:
                out[name] = new
                continue
            if name not in self._past:
                self._past[name] = torch.stack([new] * (self._frames + 1), dim=1)
            past, latest = self._past[name], new[:, None]
            put_(past, moved, torch.cat((take(past, moved)[:, 1:], take(latest, moved)), dim=1))
            put_(past, begun, take(latest, begun))
            out[name] = past[:, 0].clone()
        return out
