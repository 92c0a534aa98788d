"""Actions that take effect late: by so many frames, or by as many as the policy has thought."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.types import HAND_STATE_SIZE
from dexh2r_gym.worlds import chosen, numbers, put, put_, put_at_, take

MAX_LATENCY = 90  # frames; longer thinking counts as that
_SAME_MS = 0.5  # 67 ms are two frames at 30 a second


class ActionDelay:
    """The actions of B worlds on their way. Each takes effect so many frames after it was given; where several arrive
    in one frame the newest does, and one that arrives after a newer one is dropped."""

    def __init__(
        self, num_worlds: int, longest: int, device: torch.device | str = "cpu", *, blindly: bool = False
    ) -> None:
        """longest: the most frames that an action may be late."""
        self._longest, self._blindly = longest, blindly
        slots = longest + 1
        self._frame = torch.zeros(num_worlds, dtype=torch.long, device=device)
        self._action = torch.zeros(num_worlds, slots, HAND_STATE_SIZE, dtype=torch.float64, device=device)  # by arrival
        self._given = torch.full((num_worlds, slots), -1, device=device)  # frame in which it was given, -1: none
        self._last = torch.full((num_worlds,), -1, device=device)  # when that was given which was the last to arrive
        self._now = torch.zeros(num_worlds, HAND_STATE_SIZE, dtype=torch.float64, device=device)

    def begin(self, worlds: Tensor) -> None:
        """New episodes in these worlds, where nothing is on its way."""
        for values, new in ((self._frame, 0), (self._given, -1), (self._last, -1)):
            put_(values, worlds, new)

    def exchange(self, action: Tensor, late: Tensor, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Send the actions (B, 28) of the worlds that are on, (B,) bool, each to arrive `late` (B,) frames from now.

        Returns:
            the actions (B, 28) that have arrived last, up to now; whether there is any, (B,) bool; and whether it has
            arrived in this very frame, (B,) bool.
        """
        w = chosen(on, blindly=self._blindly)
        frame, last, row = take(self._frame, w), take(self._last, w), numbers(w)
        arrival = (frame + take(late, w).clamp(0, self._longest)) % (self._longest + 1)
        put_at_(self._action, w, arrival, take(action, w))
        put_at_(self._given, w, arrival, frame)
        here = frame % (self._longest + 1)
        given = self._given[row, here]
        fresh = given > last
        self._now = put(self._now, w, torch.where(fresh[:, None], self._action[row, here], take(self._now, w)))
        self._last = put(self._last, w, torch.where(fresh, given, last))
        put_at_(self._given, w, here, torch.full_like(here, -1))
        self._frame = put(self._frame, w, frame + 1)
        return self._now, self._last >= 0, put(torch.zeros_like(on), w, fresh)


class Stopwatch:
    """How long the policy thinks: wall time from `start` to `stop`, less what is skipped."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()

    def start(self) -> None:
        self._began = self._clock()

    def stop(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    def skip(self, seconds: float) -> None:
        """Do not count these."""
        self._began += seconds


class Thinking:
    """What the policy's thinking has taken in the running or last episode of each of B worlds."""

    def __init__(self, num_worlds: int) -> None:
        self._seconds = np.zeros(num_worlds)
        self._actions = np.zeros(num_worlds)

    def begin(self, mask: np.ndarray) -> None:
        """New episodes in the worlds of the mask, (B,) bool."""
        self._seconds[mask], self._actions[mask] = 0.0, 0.0

    def add(self, seconds: float, on: np.ndarray) -> None:
        """The policy has thought so long about an action for the worlds that are on, (B,) bool."""
        self._seconds += np.where(on, seconds, 0.0)
        self._actions += on

    @property
    def mean_ms(self) -> np.ndarray:
        """Mean time of an action in each world, (B,) ms."""
        return 1000.0 * self._seconds / np.maximum(self._actions, 1)


def frames_late(seconds: float, fps: float) -> int:
    """Frames in which an action that took so long arrives: the next one at the earliest, at most `MAX_LATENCY`."""
    return min(max(math.ceil(seconds * fps), 1), MAX_LATENCY)


def latency_frames(milliseconds: float, fps: float) -> int:
    """A latency in frames, rounded up, half a millisecond overlooked.

    ValueError where it is negative or longer than `MAX_LATENCY`.
    """
    frames = max(0, math.ceil((milliseconds - _SAME_MS) * fps / 1000)) if math.isfinite(milliseconds) else -1
    if milliseconds < 0 or not 0 <= frames <= MAX_LATENCY:
        most = 1000 * MAX_LATENCY / fps
        raise ValueError(f"latency must be 0 to {most:g} ms at {fps:g} frames a second, got {milliseconds:g}")
    return frames
