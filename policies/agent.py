"""What an agent is: Stable-Baselines3's own `predict`, batched, so its models drop in, and any such function."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dexh2r_gym.agents import find_agent
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.workers import threads

APPROACHES = ("motionnet", "dp", "dp3", "flow")  # approach policies whose weights can come with the package
BEST = "flow"  # of which the pipeline is the one to beat


@runtime_checkable
class Agent(Protocol):
    """Acts in B worlds at once. Whatever it remembers travels in `state`, carried by the caller, never in the agent."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Actions (B, 28) for observations of B worlds, and the state to hand in with the next call.

        Args:
            observation: batched, as the environment's `obs_mode` gives it.
            state: what the last call returned, None at the first.
            episode_start: (B,) bool, worlds whose episode starts here; None means all where state is None.
            deterministic: the best action instead of a random one, where the agent knows both.
        """


class FunctionAgent:
    """A plain function of the observation as an agent: it remembers nothing."""

    def __init__(self, act: Callable[[Any], np.ndarray]):
        """act: actions (B, 28) for observations of B worlds."""
        self._act = act

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        """See `policies.Agent`; `deterministic` changes nothing."""
        return self._act(observation), None


def agents() -> dict[str, Callable[..., Any]]:
    """How to make each agent that comes with the package, by name; a maker takes the environment and a seed.

    ".safetensors" is not an agent but makes makers, of checkpoint files; see `dexh2r_gym.agents`.
    """
    from policies.baselines import DemonstrationAgent, RandomAgent
    from policies.checkpoint import FOLDER
    from policies.checkpoint_agent import CheckpointAgent
    from policies.pipeline_agent import PipelineAgent
    from policies.reactive import ReactiveExpert
    from policies.scripted import ScriptedExpert

    files = {name: FOLDER / f"{name}.safetensors" for name in APPROACHES}
    trained = {name: CheckpointAgent(file) for name, file in files.items() if file.exists()}
    pipelines = {f"dynamic-grasp-{name}": PipelineAgent(maker) for name, maker in trained.items()}
    best = {"best": pipelines[f"dynamic-grasp-{BEST}"]} if BEST in trained else {}
    return {
        "scripted": lambda env, seed: ScriptedExpert(env),
        "reactive": lambda env, seed: ReactiveExpert(env),
        "replay": lambda env, seed: DemonstrationAgent(env),
        "random": lambda env, seed: RandomAgent(env, seed),
        **trained,
        **pipelines,
        **best,
        ".safetensors": CheckpointAgent,
    }


def load(name: str, env: HandoverVectorEnv | None = None, seed: int = 0) -> Agent:
    """The agent of that name, for this vector environment: names and errors as in `dexh2r_gym.agents.find_agent`.

    Those that look behind the scenes (scripted, replay, random) need the environment, trained ones do not.
    """
    maker = find_agent(name)
    if env is None and not hasattr(maker, "env_options"):
        raise ValueError(f"{name} acts on an environment: load({name!r}, env.unwrapped)")
    return maker(env, seed)


def env_options(name: str) -> dict[str, Any]:
    """What to make an environment with for the agent of that name: `gym.make(ID, **env_options(name))`."""
    return dict(getattr(find_agent(name), "env_options", {}))


def check_takes(env: HandoverVectorEnv, name: str, control_mode: str = "absolute") -> None:
    """Raise ValueError where an environment's actions are not what the agent of that name answers."""
    if env.options.control_mode != control_mode:
        commands = {"absolute": "hand states", "delta": "changes of the hand"}[control_mode]
        raise ValueError(f"{name} commands {commands}; make the environment with control_mode={control_mode!r}")


def threads_for(worlds: int) -> AbstractContextManager[None]:
    """The threads of torch on which to think for so many worlds: one for one. To share out its small products takes
    longer than they do, and many times longer where another core is busy."""
    return threads(1) if worlds == 1 else nullcontext()


def fresh_worlds(num_worlds: int, state: Any, episode_start: np.ndarray | None) -> np.ndarray:
    """(B,) bool: the worlds whose state must be made anew."""
    if state is None:
        return np.ones(num_worlds, dtype=bool)
    return np.zeros(num_worlds, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
