"""The arguments of the environment, checked once, with errors that list what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dexh2r_gym.alignment import START_DISTANCE, SpeedLimits
from dexh2r_gym.envs.control import CONTROL_MODES
from dexh2r_gym.envs.observations import OBS_MODES
from dexh2r_gym.envs.rewards import REWARD_MODES
from dexh2r_gym.replay import SPLITS
from dexh2r_gym.sim import BACKENDS

RENDER_MODES = ("rgb_array", "human")
DEFAULT_LIMITS = SpeedLimits()
_CHOICES = {
    "mode": tuple(START_DISTANCE),
    "backend": BACKENDS,
    "obs_mode": OBS_MODES,
    "control_mode": CONTROL_MODES,
    "alignment": ("env", "none"),
    "split": (*SPLITS, "all"),
    "reward_mode": REWARD_MODES,
}


@dataclass(frozen=True)
class HandoverOptions:
    """See `dexh2r_gym.envs.HandoverVectorEnv` for what each means.

    Raises:
        ValueError: for a value that is not among the valid ones; the message lists them.
    """

    mode: str = "hard"
    backend: str = "mujoco"
    obs_mode: str = "state"
    control_mode: str = "absolute"
    alignment: str = "env"
    replays: str | Path = "mini"
    split: str = "train"
    reward_mode: str = "dense"
    render_mode: str | None = None
    speed_limits: SpeedLimits | tuple[float, float, float] | None = DEFAULT_LIMITS
    released_metrics: bool = True
    num_threads: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"unknown render_mode {self.render_mode!r}; choose None or one of {', '.join(RENDER_MODES)}"
            )
        if isinstance(self.speed_limits, tuple | list):
            if len(self.speed_limits) != 3:
                raise ValueError(
                    f"speed_limits needs 3 numbers (palm m/s, palm rad/s, joints rad/s), got {self.speed_limits}"
                )
            object.__setattr__(self, "speed_limits", SpeedLimits(*self.speed_limits))
