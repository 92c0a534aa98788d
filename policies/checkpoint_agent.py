"""Agents of trained approach policies: how to make one from a checkpoint, and the environment that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dexh2r_gym.envs import HandoverVectorEnv
from policies.agent import Agent, check_takes_hand_states
from policies.approach import ApproachAgent, ApproachModel, least_rows
from policies.checkpoint import load_checkpoint, make_model, read_card
from policies.plans_ahead import plans_ahead


@dataclass(frozen=True)
class CheckpointAgent:
    """A maker of agents, see `dexh2r_gym.agents`; nothing is read before it is asked.

    Raises, when asked: FileNotFoundError, ValueError as `policies.checkpoint.load_checkpoint`; also for a checkpoint
    that is no approach policy.
    """

    path: Path

    def __call__(self, env: HandoverVectorEnv | None = None, seed: int = 0) -> Agent:
        """The agent. An environment, if given, must take absolute hand states; if late, the agent plans ahead."""
        if env is not None:
            check_takes_hand_states(env, self.path.stem)
        return plans_ahead(self.agent(seed, least_rows(env)), env)

    def agent(self, seed: int = 0, least: int = 1) -> ApproachAgent:
        """The agent for whatever environment; `least` as for `ApproachAgent`."""
        return ApproachAgent(self._checked(load_checkpoint(self.path)), seed, name=self.path.stem, least=least)

    @cached_property
    def env_options(self) -> dict[str, Any]:
        """Arguments of an environment that shows what the policy looks at."""
        about = read_card(self.path)
        return self._checked(make_model(about["policy"], about["config"])).env_options()

    @property
    def identity(self) -> str:
        """Of its weights."""
        return read_card(self.path)["sha256"]

    def _checked(self, model: Any) -> ApproachModel:
        if not isinstance(model, ApproachModel):
            raise ValueError(f"{self.path} is no approach policy but a {type(model).__name__}, which takes no actions")
        return model
