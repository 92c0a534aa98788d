"""Givers that do not play their recording as it is: how they deviate, as pure functions of B worlds.

What an episode draws follows from its key alone (`dexh2r_gym.sensing.hashing`), so that neither the number of worlds
nor the order of episodes changes it. Seconds are those of the episode, counted from its first frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.rotations import quat_from_axis_angle, quat_rotate
from dexh2r_gym.sensing.hashing import normal, uniform

PAUSE_RAMP = 0.3  # s in which a hesitating giver slows down, and in which it gets going again
PAUSE_SPREAD = (0.5, 1.5)  # a pause is that many times the expected one, evenly spread; so is a release's shift
PAUSE_BEGIN = (0.1, 0.6)  # part of the recording's duration at which a pause begins
YAW_PER_METRE = 1.0  # rad standard deviation of the turn for each metre of `pose_offset`
OFFSET_CUT = 2.0  # standard deviations beyond which an offset is cut off
RETRACTION_FORCE = 5.0  # N of the robot on the giver's hand, from which on it draws back
RETRACTION_WAY = 0.08  # m
RETRACTION_HOLD = 1.0  # s, from the last push until it comes back
RETRACTION_RATE = 8.0  # 1/s of the critically damped motion there and back: at most 0.24 m/s, within 5 mm after 0.6 s
_PERIODS = ((4.0, 12.0), (1.0, 4.0))  # s, of the two waves of a time warp: one about constant in an episode, one not
_WEIGHTS = (0.6, 0.4)
_WARP, _PAUSE, _OFFSET, _RELEASE = 21, 22, 23, 24  # streams
_RANGES = {"time_warp": (0.0, 1.0), "hesitation": (0.0, 10.0), "pose_offset": (0.0, 0.1), "release": (-1.0, 2.0)}
_UNITS = {"time_warp": "", "hesitation": " s", "pose_offset": " m", "release": " s"}


@dataclass(frozen=True)
class GiverBehaviour:
    """How a giver deviates from its recording, anew in each episode; by default not at all.

    Raises:
        ValueError: a value outside its range; the message names it.
    """

    time_warp: float = 0.0
    """0 to 1. Playing speed wanders smoothly between 1 / (1 + time_warp) and 1 + time_warp times the recorded one."""
    hesitation: float = 0.0
    """Seconds, 0 to 10, that the giver stands still on the average, once, at some moment on the way; half to one and a
    half times as long. It slows down before and gets going after, 0.3 s each."""
    pose_offset: float = 0.0
    """Metres, 0 to 0.1, standard deviation along each axis of a fixed shift of object and giver together, with a turn
    about the vertical through the object's start of 1 rad for each metre; cut off at two deviations."""
    retraction: bool = False
    """Pushed by the robot with more than 5 N on the hand, the giver draws back 8 cm with the object, and comes back a
    second after the last push. The recording goes on meanwhile. Needs a backend with contact forces."""
    release: float = 0.0
    """Seconds, -1 (early) to 2 (late), by which the giver lets go of the object at another moment than when the robot
    has taken over its weight, on the average; half to one and a half times as much."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                unit = _UNITS[name]
                raise ValueError(f"giver's {name} must be {low:g} to {high:g}{unit}, got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether anything deviates."""
        return self != GiverBehaviour()

    @property
    def moves(self) -> bool:
        """Whether object and giver are ever elsewhere than the recording has them in that frame."""
        return bool(self.time_warp or self.hesitation or self.pose_offset or self.retraction)

    def longest(self, frames: int, fps: float) -> int:
        """Most frames that playing this many recorded frames can take."""
        standing = PAUSE_SPREAD[1] * self.hesitation + 2 * PAUSE_RAMP if self.hesitation else 0.0
        slack = 1 if self.time_warp or self.hesitation else 0
        return math.ceil((frames - 1) * (1 + self.time_warp) + standing * fps) + 1 + slack


@dataclass(frozen=True)
class Draws:
    """What the episodes of n worlds have drawn."""

    period: Tensor  # (n, 2) s, of the waves of the playing speed
    phase: Tensor  # (n, 2) in turns
    pause_begin: Tensor  # (n,) s, when the giver stands still
    pause: Tensor  # (n,) s, how long
    shift: Tensor  # (n, 7) pose by which object and giver are moved, world
    release: Tensor  # (n,) s

    @classmethod
    def none(cls, num_worlds: int, device: torch.device | str = "cpu") -> Draws:
        """Nothing is drawn yet."""
        zero = torch.zeros(num_worlds, 7, dtype=torch.float64, device=device)
        return cls(zero[:, :2] + 1.0, zero[:, :2], zero[:, 0], zero[:, 0], zero, zero[:, 0])


def draw(behaviour: GiverBehaviour, keys: Tensor, start: Tensor, seconds: Tensor) -> Draws:
    """What episodes with these keys (n,) long draw. start: (n, 3) m, where their objects are recorded to start;
    seconds: (n,) duration of their recordings."""
    waves = uniform(keys, _WARP, 4).to(start)
    low, high = (constant(x, start) for x in zip(*_PERIODS, strict=True))
    pause = uniform(keys, _PAUSE, 2).to(start)
    moved = behaviour.pose_offset * normal(keys, _OFFSET, 4).to(start).clamp(-OFFSET_CUT, OFFSET_CUT)
    turn = torch.zeros_like(start)
    turn[:, 2] = YAW_PER_METRE * moved[:, 3]
    rotation = quat_from_axis_angle(turn)
    position = start - quat_rotate(rotation, start) + moved[:, :3]
    return Draws(
        period=low + (high - low) * waves[:, :2],
        phase=waves[:, 2:],
        pause_begin=(_between(PAUSE_BEGIN, pause[:, 0]) * seconds).clamp_min(PAUSE_RAMP),
        pause=behaviour.hesitation * _between(PAUSE_SPREAD, pause[:, 1]),
        shift=torch.cat((position, rotation), dim=-1),
        release=behaviour.release * _between(PAUSE_SPREAD, uniform(keys, _RELEASE, 1)[:, 0].to(start)),
    )


def playing_speed(time_warp: float, period: Tensor, phase: Tensor, seconds: Tensor) -> Tensor:
    """How many times as fast as recorded, (B,), at these seconds (B,). period (B, 2) s, phase (B, 2): see `Draws`."""
    slow, fast = torch.sin(2 * math.pi * (seconds[:, None] / period + phase)).unbind(-1)
    return torch.exp(math.log1p(time_warp) * (_WEIGHTS[0] * slow + _WEIGHTS[1] * fast))


def going(begin: Tensor, pause: Tensor, seconds: Tensor) -> Tensor:
    """What is left of the playing speed, (B,) in [0, 1]: 0 from `begin` (B,) s on for `pause` (B,) s."""
    return 1.0 - _smooth((seconds - begin) / PAUSE_RAMP + 1.0) + _smooth((seconds - begin - pause) / PAUSE_RAMP)


@dataclass(frozen=True)
class Retraction:
    """How far the givers of B worlds have drawn back."""

    offset: Tensor  # (B, 3) m, of object and giver, world
    velocity: Tensor  # (B, 3) m/s
    away: Tensor  # (B, 3) unit vector, whither
    left: Tensor  # (B,) s until they come back

    @classmethod
    def none(cls, num_worlds: int, device: torch.device | str = "cpu") -> Retraction:
        """Nobody was pushed."""
        zero = torch.zeros(num_worlds, 3, dtype=torch.float64, device=device)
        return cls(zero, zero, zero, zero[:, 0])

    def step(self, force: Tensor, palm: Tensor, giver: Tensor, dt: float) -> Retraction:
        """After dt seconds. force: (B,) N on the giver's hand; palm, giver: (B, 3) m, the robot's and the giver's."""
        pushed = force > RETRACTION_FORCE
        begins = pushed & (self.left <= 0)
        apart = giver - palm
        apart = apart / apart.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        away = torch.where(begins[:, None], apart, self.away)
        left = torch.where(pushed, RETRACTION_HOLD, (self.left - dt).clamp_min(0.0))
        target = torch.where(left[:, None] > 0, RETRACTION_WAY * away, 0.0)
        gap, decay = self.offset - target, math.exp(-RETRACTION_RATE * dt)
        push = self.velocity + RETRACTION_RATE * gap
        return Retraction(
            offset=target + decay * (gap + dt * push),
            velocity=decay * (self.velocity - RETRACTION_RATE * dt * push),
            away=away,
            left=left,
        )


def _between(bounds: tuple[float, float], part: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * part


def _smooth(x: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, without a jump of its slope."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
