"""Agents whose actions arrive late: they go on from where the hand was told to be, not from where it is seen.

What is seen is older than what was told, by as many actions as are under way. An agent that says where the hand is next
from where it sees it says the same again, and the hand slows down to a part of its speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dexh2r_gym.envs import HandoverVectorEnv
from policies.agent import Agent, fresh_worlds


class PlansAhead:
    """A `policies.Agent` around another one that tells hand states and looks at `agent_pos`: it is shown what it told
    last in its place. The object and the giver it sees as late as they are."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def predict(
        self,
        observation: Mapping[str, Any],
        state: tuple[Any, np.ndarray] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[Any, np.ndarray]]:
        """See `policies.Agent`."""
        inner, told = (None, None) if state is None else state
        if told is not None:
            fresh = fresh_worlds(len(told), state, episode_start)[:, None]
            observation = {**observation, "agent_pos": np.where(fresh, observation["agent_pos"], told)}
        action, inner = self._agent.predict(observation, inner, episode_start, deterministic)
        return action, (inner, action)


def plans_ahead(agent: Agent, env: HandoverVectorEnv | None) -> Agent:
    """The agent as it is best in this environment, where its actions may arrive late."""
    return PlansAhead(agent) if acts_late(env) else agent


def acts_late(env: HandoverVectorEnv | None) -> bool:
    """Whether actions may arrive late in this environment."""
    return env is not None and (env.options.latency > 0 or env.options.realtime)
