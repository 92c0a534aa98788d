"""Agents without a policy: random actions, and the recorded demonstration played back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from dexh2r_gym.envs import HandoverVectorEnv
from policies.agent import fresh_worlds


class RandomAgent:
    """Uniform actions. Each world draws from the seed, its trial and the frame, whatever worlds stand beside it."""

    def __init__(self, env: HandoverVectorEnv, seed: int = 0):
        self._env = env
        self._seed = seed

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """See `policies.Agent`; `deterministic` changes nothing."""
        env, space = self._env, self._env.single_action_space
        assert isinstance(space, Box)
        fresh = fresh_worlds(env.num_envs, state, episode_start)
        generators: list[Any] = list(state or [None] * env.num_envs)
        for i in np.flatnonzero(fresh).tolist():
            name = env.task.replay_of(i).id.encode()
            generators[i] = np.random.default_rng([self._seed, *name])
        unit = np.stack([g.random(space.shape[0]) for g in generators])
        return (space.low + unit * (space.high - space.low)).astype(np.float32), generators


class DemonstrationAgent:
    """Plays the demonstration of each world's trial, frame by frame."""

    def __init__(self, env: HandoverVectorEnv):
        if env.options.control_mode != "absolute":
            raise ValueError("the replay agent commands hand states; make the environment with control_mode='absolute'")
        self._env = env

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """See `policies.Agent`; `deterministic` changes nothing.

        Raises:
            ValueError: a world's trial has no demonstration.
        """
        task = self._env.task
        actions = []
        for world, time in enumerate(task.time.tolist()):
            replay = task.replay_of(world)
            if replay.demo is None:
                raise ValueError(f"trial {replay.id} has no demonstration; choose another agent for these replays")
            actions.append(replay.demo[min(time + 1, replay.num_frames - 1)])
        return torch.stack(actions).float().numpy(), None
