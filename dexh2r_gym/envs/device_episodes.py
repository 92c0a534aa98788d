"""When episodes begin and end, and what is told of it in tensors on the device, from which a step reads nothing.

All trials of the split are loaded before. Which of them a world runs, and the noise it has, follow from its seed and
from how many episodes it has had (`dexh2r_gym.sensing.hashing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from torch import Tensor

from dexh2r_gym.envs.asked import replays_of, seeds_of
from dexh2r_gym.envs.control import check_shape
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.sensing.hashing import joined
from dexh2r_gym.types import EpisodeStatus

Results = tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]
_TRIAL, _NOISE = 31, 32  # streams


class DeviceEpisodes:
    """Episodes of B worlds. Whether any has ended is not known here, so all that may have to be told always is."""

    def __init__(self, task: HandoverTask, num_worlds: int, mode: AutoresetMode) -> None:
        self._task, self._mode, self._worlds = task, mode, num_worlds
        self._trials = task.load(task.replay_ids)  # numbered as in `replay_ids`
        self._all = torch.ones(num_worlds, dtype=torch.bool, device=task.device)
        self._seed = torch.tensor([_any_seed() for _ in range(num_worlds)], device=task.device)
        self._episode = torch.zeros_like(self._seed)  # how many have begun since seeding
        self._trial = torch.zeros_like(self._seed)
        self._idle = self._all  # not running: never reset, or ended and not yet reset

    def reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any], *, started: bool
    ) -> tuple[Any, dict[str, Any]]:
        """See `HandoverVectorEnv.reset`. Without seed and replay, and with a mask on the device, nothing is read."""
        if options.get("calibration"):
            raise ValueError("options['calibration'] needs output='numpy'")
        mask = self._check_mask(options.get("reset_mask"))
        if not started and not mask.all():
            raise ValueError("the first reset must start all worlds: leave options['reset_mask'] out")
        if seed is not None:
            seeds = seeds_of(seed, self._worlds)
            told = mask & mask.new_tensor([s is not None for s in seeds])
            self._seed = torch.where(told, self._seed.new_tensor([s or 0 for s in seeds]), self._seed)
            self._episode = torch.where(told, 0, self._episode)
        asked = replays_of(options.get("replay"), self._worlds)
        trial = None
        if any(asked):
            number = {id: i for i, id in enumerate(self._task.replay_ids)}
            if unknown := [id for id in asked if id and id not in number]:
                self._task.store.index(unknown[0])  # raises where there is no such trial at all
                raise ValueError(f"replay {unknown[0]!r} is not of split {self._task.options.split!r}")
            trial = mask.new_tensor([number[id] if id else -1 for id in asked], dtype=torch.long)
        self._begin(mask, trial)
        return self._task.observation(), self._step_info(mask)

    def step(self, actions: Any, thought: float) -> Results:
        """See `HandoverVectorEnv.step`."""
        task = self._task
        given = actions if isinstance(actions, Tensor) else torch.from_numpy(np.asarray(actions))
        action = given.to(task.device).double()
        check_shape(action, self._worlds)
        on = ~self._idle
        reward = task.advance(action, on).float()
        ended = task.status != EpisodeStatus.RUNNING
        terminated = (task.status == EpisodeStatus.REACHED) | (task.status == EpisodeStatus.DIVERGED)
        truncated, finished = ended & ~terminated, on & ended
        final = _masked(finished, **task.scores(), status=task.status)
        if self._mode == AutoresetMode.SAME_STEP:
            observation, info = task.observation(), self._step_info(finished) | final
            final = {"final_obs": observation, "_final_obs": finished, "final_info": info, "_final_info": finished}
            self._begin(finished)
        elif self._mode == AutoresetMode.NEXT_STEP:
            terminated, truncated = terminated & on, truncated & on
            self._begin(self._idle)
            self._idle = finished
        else:
            self._idle = self._idle | finished
        return task.observation(), reward, terminated, truncated, self._step_info(self._all) | final

    def _begin(self, mask: Tensor, asked: Tensor | None = None) -> None:
        """Start the worlds of the mask (B,) bool with the trials asked for, (B,) long, or where that is -1 with others.

        A world's own numbers tell which, whatever stands beside it.
        """
        key = joined(self._seed, self._episode)
        drawn = joined(key, _TRIAL) % len(self._trials)
        trial = drawn if asked is None else torch.where(asked < 0, drawn, asked)
        self._trial = torch.where(mask, trial, self._trial)
        self._episode = torch.where(mask, self._episode + 1, self._episode)
        self._idle = self._idle & ~mask
        self._task.begin(mask, self._trials[self._trial], joined(key, _NOISE))

    def _step_info(self, mask: Tensor) -> dict[str, Any]:
        """What is told in every step of the worlds of the mask (B,) bool."""
        task = self._task
        seen = {"points_seen": task.observer.points_seen} if task.observer.sees_points else {}
        return _masked(
            mask,
            **seen,
            trial=self._trial,
            goal_distance=task.d,
            depth=task.depth,
            giver_force=task.scene.giver_force.clone(),
        )

    def _check_mask(self, mask: Any) -> Tensor:
        if mask is None:
            return self._all
        found = torch.as_tensor(mask) if isinstance(mask, np.ndarray) else mask
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != (self._worlds,):
            raise ValueError(f"options['reset_mask'] must be a bool array or tensor of shape ({self._worlds},)")
        return found.to(self._task.device)


def _masked(mask: Tensor, **values: Tensor) -> dict[str, Any]:
    """Values (B, ...), each with its `_key` mask (B,) bool of the worlds in which it means something."""
    return values | {f"_{key}": mask for key in values}


def _any_seed() -> int:
    return int(seeding.np_random(None)[0].integers(1 << 62))
