"""Agents of trained policies: how to make one from a checkpoint, and the environment that it needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dexh2r_gym.envs import HandoverVectorEnv
from policies.agent import Agent, check_takes
from policies.approach import ApproachAgent, ApproachModel, least_rows
from policies.checkpoint import load_checkpoint, make_model, read_card
from policies.plans_ahead import plans_ahead
from policies.reacher import Reacher


@dataclass(frozen=True)
class CheckpointAgent:
    """A maker of agents, see `dexh2r_gym.agents`; nothing is read before it is asked.

    Raises, when asked: FileNotFoundError, ValueError as `policies.checkpoint.load_checkpoint`; also for a checkpoint
    that takes no actions.
    """

    path: Path

    def __call__(self, env: HandoverVectorEnv | None = None, seed: int = 0) -> Agent:
        """The agent. An environment, if given, must take its actions; where they are late, an approach policy plans
        ahead."""
        if env is not None:
            check_takes(env, self.path.stem, self.env_options.get("control_mode", "absolute"))
        if read_card(self.path)["policy"] == "reacher":
            return load_checkpoint(self.path)
        return plans_ahead(self.agent(seed, least_rows(env)), env)

    def agent(self, seed: int = 0, least: int = 1) -> ApproachAgent:
        """The agent of an approach policy for whatever environment; `least` as for `ApproachAgent`."""
        model = load_checkpoint(self.path)
        if not isinstance(model, ApproachModel):
            raise ValueError(f"{self.path} is no approach policy but a {type(model).__name__}, which plans nothing")
        return ApproachAgent(model, seed, name=self.path.stem, least=least)

    @cached_property
    def env_options(self) -> dict[str, Any]:
        """Arguments of an environment that shows what the policy looks at."""
        return self._untrained().env_options()

    @property
    def identity(self) -> str:
        """Of its weights and of its settings, some of which change what it does with the same weights."""
        settings = json.dumps(asdict(self._untrained().config), sort_keys=True)
        return f"{read_card(self.path)['sha256']} {hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def _untrained(self) -> ApproachModel | Reacher:
        """A model of its kind and settings, with other weights."""
        about = read_card(self.path)
        model = make_model(about["policy"], about["config"])
        if not isinstance(model, ApproachModel | Reacher):
            raise ValueError(f"{self.path} is no approach policy but a {type(model).__name__}, which takes no actions")
        return model
