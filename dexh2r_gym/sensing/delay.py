"""Observations that arrive late."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


class Delay:
    """Gives back what was shown so many frames ago; in the first frames of an episode, its first frame."""

    def __init__(self, frames: int, in_time: Collection[str] = ()) -> None:
        """frames: at least 0. in_time: names of parts that are not delayed."""
        self._frames, self._in_time = frames, frozenset(in_time)
        self._past: dict[str, Tensor] = {}  # (frames + 1, B, ...), the oldest first

    def show(self, parts: dict[str, Tensor], moved: Tensor, begun: Tensor) -> dict[str, Tensor]:
        """Take in parts (B, ...) of the worlds that `moved` (B,) bool, of which those `begun` forget what was before.

        Returns parts (B, ...) as they were `frames` frames ago, in memory of their own.
        """
        if self._frames == 0:
            return parts
        out = {}
        for name, new in parts.items():
            if name in self._in_time:
                out[name] = new
                continue
            if name not in self._past:
                self._past[name] = torch.stack([new] * (self._frames + 1))
            past = self._past[name]
            past[:-1, moved] = past[1:, moved]
            past[-1, moved] = new[moved]
            past[:, begun] = new[begun]
            out[name] = past[0].clone()
        return out
