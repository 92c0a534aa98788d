"""The whole pipeline by name: goals proposed by a generator, a trained approach policy, goal pose alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.grasps.generators import load_generator
from policies.agent import Agent, check_takes
from policies.approach import least_rows
from policies.checkpoint_agent import CheckpointAgent
from policies.dynamic_grasp import DynamicGrasp
from policies.plans_ahead import acts_late, plans_ahead


@dataclass(frozen=True)
class PipelineAgent:
    """A maker of `policies.dynamic_grasp.DynamicGrasp`, see `dexh2r_gym.agents`."""

    approach: CheckpointAgent
    generator: str = "cvae"  # in validation trials the pipeline does better with it than with "diffusion", and sooner

    def __call__(self, env: HandoverVectorEnv | None = None, seed: int = 0) -> Agent:
        """The agent; without an environment for hard mode, 30 frames a second and the default limits of speed."""
        return plans_ahead(self._agent(env, seed), env)

    def _agent(self, env: HandoverVectorEnv | None, seed: int) -> DynamicGrasp:
        settings: dict[str, Any] = {}
        if env is not None:
            check_takes(env, f"dynamic-grasp-{self.approach.path.stem}")
            settings = {"mode": env.options.mode, "limits": env.options.speed_limits, "fps": env.task.fps}
            settings["late"] = acts_late(env)
        return DynamicGrasp(
            load_generator(self.generator), self.approach.agent(seed, least_rows(env)), seed=seed, **settings
        )

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of an environment that shows what the agent looks at."""
        return self._agent(None, 0).env_options()

    @property
    def identity(self) -> str:
        """Of its weights and settings."""
        return f"{self.approach.identity} {self.generator}"
