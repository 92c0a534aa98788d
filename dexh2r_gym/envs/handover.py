"""The single environment: world 0 of a vector environment of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from dexh2r_gym.envs.handover_vector import HandoverVectorEnv


class HandoverEnv(gym.Env[Any, np.ndarray]):
    """One world of `HandoverVectorEnv`, whose docstring is the specification of spaces, rewards, info and arguments.

    `reset(seed=, options={"replay": id})`; info holds plain values.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, **options: Any):
        if options.get("output", "numpy") != "numpy":
            raise ValueError(f"output={options['output']!r} is for vector environments: use gymnasium.make_vec")
        self._vector = HandoverVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.render_mode = self._vector.render_mode
        self.metadata = self.metadata | {"render_fps": self._vector.metadata["render_fps"]}
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    @property
    def vector(self) -> HandoverVectorEnv:
        """The vector environment of one world behind this one."""
        return self._vector

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `options["replay"]` names the trial, else it is drawn from the split."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        return _first(observation), world_info(info, 0)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one recorded frame. Raises ValueError for an action of wrong shape or with NaN."""
        observation, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), world_info(info, 0)

    def render(self) -> Any:
        """Picture (H, W, 3) uint8 in rgb_array mode; a window in human mode."""
        frames = self._vector.render()
        return frames if frames is None else frames[0]

    def close(self) -> None:
        self._vector.close()


def _first(observation: Any) -> Any:
    return {k: v[0] for k, v in observation.items()} if isinstance(observation, dict) else observation[0]


def world_info(info: dict[str, Any], world: int) -> dict[str, Any]:
    """One world of a vector info as plain Python values, where its mask is set."""
    values = {k: v[world] for k, v in info.items() if not k.startswith("_") and info[f"_{k}"][world]}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
