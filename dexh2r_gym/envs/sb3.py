"""Many worlds of the task as Stable-Baselines3's `VecEnv` (extra `rl`): all in one process, stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from dexh2r_gym.envs.handover import world_info
from dexh2r_gym.envs.handover_vector import HandoverVectorEnv


class HandoverVecEnv(VecEnv):
    """`PPO("MlpPolicy", HandoverVecEnv(64, control_mode="delta"))`; the options are those of `HandoverVectorEnv`.

    A world that has ended begins anew in the same step; its info then holds `terminal_observation`,
    `TimeLimit.truncated`, the episode's scores, and `is_success`, by the paper's definition.
    """

    def __init__(self, num_envs: int, **options: Any):
        if options.get("output", "numpy") != "numpy":
            raise ValueError("Stable-Baselines3 takes arrays of numpy: leave output out")
        self.vector = HandoverVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self._actions = np.zeros(self.vector.action_space.shape or ())
        super().__init__(num_envs, self.vector.single_observation_space, self.vector.single_action_space)

    def reset(self) -> Any:
        """New episodes in all worlds, by what `seed` and `set_options({"replay": id})` have asked for, if anything."""
        replays = [asked.get("replay") for asked in self._options]
        observation, info = self.vector.reset(seed=self._seeds, options={"replay": replays})
        self.reset_infos = [world_info(info, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, info = self.vector.step(self._actions)
        final_obs, final_info = info.pop("final_obs", None), info.pop("final_info", None)
        infos = [world_info(info, i) for i in range(self.num_envs)]
        ended = terminated | truncated
        for i in np.flatnonzero(ended).tolist():
            self.reset_infos[i], infos[i] = infos[i], world_info(final_info, i)
            infos[i] |= {
                "terminal_observation": final_obs[i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                "is_success": infos[i]["succ"],
            }
        return observation, reward.astype(np.float32), ended, infos

    def close(self) -> None:
        self.vector.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.vector.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Of the environment of all worlds."""
        return [getattr(self.vector, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("the worlds are not environments of their own: give options when making them")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Calls the method once, of the environment of all worlds."""
        found = getattr(self.vector, method_name)(*args, **kwargs)
        return [found for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
