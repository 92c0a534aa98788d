"""When episodes begin and end, and what Gymnasium is told of it in numpy: trials drawn by generators of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from torch import Tensor

from dexh2r_gym.envs import control
from dexh2r_gym.envs.asked import replays_of, seeds_of
from dexh2r_gym.envs.infos import calibration_info, final_info, masked, step_info
from dexh2r_gym.envs.latency import Thinking, frames_late
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.types import EpisodeStatus

Results = tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
_NOISE = 1  # tells the generators of noise from those that draw trials


class HostEpisodes:
    """Episodes of B worlds. World i draws its trials from the split with a generator of its own.

    Attributes:
        thinking: what the policy's thinking has taken.
    """

    def __init__(self, task: HandoverTask, num_worlds: int, mode: AutoresetMode) -> None:
        self._task, self._mode, self._worlds = task, mode, num_worlds
        self._rngs = [seeding.np_random(None)[0] for _ in range(num_worlds)]
        self._noise_rngs = [seeding.np_random(None)[0] for _ in range(num_worlds)]
        self._idle = np.ones(num_worlds, dtype=bool)  # not running: never reset, or ended and not yet reset
        self.thinking = Thinking(num_worlds)

    def reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any], *, started: bool
    ) -> tuple[Any, dict[str, Any]]:
        """See `HandoverVectorEnv.reset`."""
        mask = self._check_mask(options.get("reset_mask"))
        if not started and not mask.all():
            raise ValueError("the first reset must start all worlds: leave options['reset_mask'] out")
        for i, s in enumerate(seeds_of(seed, self._worlds)):
            if s is not None and mask[i]:
                self._rngs[i] = seeding.np_random(s)[0]
                self._noise_rngs[i] = np.random.default_rng([s, _NOISE])
        self._begin(mask, options.get("replay"))
        observation = self._observation()
        info = step_info(self._task, mask)
        return observation, info | (calibration_info(self._task, mask) if options.get("calibration") else {})

    def step(self, actions: Any, thought: float) -> Results:
        """See `HandoverVectorEnv.step`. thought: seconds since the last observation."""
        task, device = self._task, self._task.device
        action = torch.as_tensor(np.asarray(actions)).double()
        control.check_action(action, self._worlds)
        on = ~self._idle
        late = self._lateness(thought, on) if task.options.realtime else None
        reward = task.advance(action.to(device), torch.from_numpy(on).to(device), late).cpu().numpy()
        status = task.status.cpu().numpy()
        ended = status != EpisodeStatus.RUNNING
        terminated = (status == EpisodeStatus.REACHED) | (status == EpisodeStatus.DIVERGED)
        truncated = ended & ~terminated
        finished = on & ended
        final = self._final_info(finished) if finished.any() else {}
        if self._mode == AutoresetMode.SAME_STEP and finished.any():
            last_observation, last_info = self._observation(), step_info(task, finished)
            self._begin(finished, None)
            final_obs = np.full(self._worlds, None, dtype=object)
            for i in np.flatnonzero(finished).tolist():
                final_obs[i] = _world(last_observation, i)
            final = {
                "final_obs": final_obs,
                "_final_obs": finished,
                "final_info": last_info | final,
                "_final_info": finished,
            }
        else:
            if self._mode == AutoresetMode.NEXT_STEP:
                terminated, truncated = terminated & on, truncated & on
                if self._idle.any():
                    self._begin(self._idle.copy(), None)
            self._idle |= finished
        observation = self._observation()
        info = step_info(task, np.ones(self._worlds, dtype=bool)) | final
        return observation, reward, terminated, truncated, info

    def _begin(self, mask: np.ndarray, replay: str | Sequence[str | None] | None) -> None:
        """Start the worlds of the mask with the trials asked for, else drawn with each world's own generator."""
        task, asked = self._task, replays_of(replay, self._worlds)
        worlds, ids = np.flatnonzero(mask), task.replay_ids
        drawn = [asked[w] or ids[int(self._rngs[w].integers(len(ids)))] for w in worlds]
        keys = torch.tensor([int(self._noise_rngs[w].integers(1 << 62)) for w in worlds])
        task.begin(torch.from_numpy(worlds).to(task.device), task.load(drawn), keys.to(task.device))
        self.thinking.begin(mask)
        self._idle[mask] = False

    def _lateness(self, seconds: float, on: np.ndarray) -> Tensor:
        """Frames that the actions of all worlds are late, (B,): the time since the last observation, rounded up."""
        self.thinking.add(seconds, on)
        return torch.full((self._worlds,), frames_late(seconds, self._task.fps), device=self._task.device)

    def _final_info(self, finished: np.ndarray) -> dict[str, Any]:
        """What is told of the worlds of the mask, (B,) bool, whose episodes are over."""
        thought = {"latency_ms": self.thinking.mean_ms[finished]} if self._task.options.realtime else {}
        return final_info(self._task, finished) | masked(finished, **thought)

    def _observation(self) -> Any:
        out = self._task.observation()
        return out.cpu().numpy() if isinstance(out, Tensor) else {k: v.cpu().numpy() for k, v in out.items()}

    def _check_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self._worlds, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self._worlds,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self._worlds},) with a True, got {mask!r}"
            )
        return mask


def _world(observation: Any, i: int) -> Any:
    """Observation of one world."""
    return {k: v[i].copy() for k, v in observation.items()} if isinstance(observation, dict) else observation[i].copy()
