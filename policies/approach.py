"""What the approach policies (stage 2: MotionNet, DP, DP3, flow) have in common, and the agent that carries one out.

A policy looks at the last few frames and plans the next few hand states; the agent keeps the frames of each world, asks
for a plan where the last one is used up, and hands out its frames one by one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.types import HAND_STATE_SIZE
from policies.agent import fresh_worlds, threads_for
from policies.hand_vectors import base_of, decode, encode
from policies.normalizer import Normalizer


class ApproachModel(nn.Module):
    """A policy that plans hand states.

    Attributes:
        config: a frozen dataclass of plain values from which the same network can be made; `observed` frames are looked
            at, `executed` frames of a plan are carried out, `rotation` and `frame` are of `policies.hand_vectors`.
        needs: keys of an observation that it looks at. answers: what its actions are.
    """

    config: Any
    needs: ClassVar[tuple[str, ...]]
    answers: ClassVar[str] = f"hand state, {HAND_STATE_SIZE} numbers, absolute"

    future_numbers: Normalizer  # of `future`

    @property
    def ahead(self) -> int:
        """Frames that are learned, after the present one."""
        return self.config.horizon

    @property
    def attempt(self) -> int:
        """Frames after which plans are drawn from other noise, 0 for never."""
        return 0

    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """Take the statistics of a large batch, before training."""
        self.future_numbers.fit(self._numbers(batch))

    def future(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What is to be learned (B, horizon, numbers): normalised differences to the present hand."""
        return self.future_numbers(self._numbers(batch))

    def said(self, numbers: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
        """The hand states (B, horizon, 28) that such numbers mean to who has `seen` them."""
        base = base_of(seen["agent_pos"][:, -1], self.config.frame)
        return decode(self.future_numbers.inverse(numbers), base, self.config.rotation)

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The hand states (B, horizon, 28) that are learned."""
        return batch["future"]

    def _numbers(self, batch: Mapping[str, Tensor]) -> Tensor:
        base = base_of(batch["agent_pos"][:, -1], self.config.frame)
        return encode(self.states(batch), base, self.config.rotation)

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted losses by name, whose sum is trained; batch: see `policies.approach_data`."""

    def kept(self, frame: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a frame, each of `needs` (B, ...), is remembered until it is `seen` by `plan`."""
        return dict(frame)

    @abstractmethod
    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """The next hand states (B, `executed` or more, 28), float32, world frame.

        seen: each of `needs` (B, observed, ...), the last frame last, world frame. key: (B,) long, names the noise.
        """

    def env_options(self) -> dict[str, Any]:
        """Arguments of the environment in which it sees what it needs."""
        modes = [mode for mode, key in (("point_cloud", "point_cloud"), ("rgbd", "image")) if key in self.needs]
        if "giver_joints" in self.needs or not modes:
            modes.append("state_dict")
        options: dict[str, Any] = {"obs_mode": "+".join(modes)}
        if "point_cloud" in self.needs:
            options["num_points"] = self.config.num_points
        if "image" in self.needs:
            options |= {"cameras": self.config.cameras, "image_size": self.config.image_size}
        if "goal_pos" in self.needs:
            options["goal_pos"] = True
        return options


@dataclass(frozen=True)
class ApproachState:
    """What the agent remembers of B worlds."""

    seen: dict[str, Tensor]  # each (B, observed, ...)
    plan: Tensor  # (B, executed, 28)
    left: Tensor  # (B,) long, frames of the plan that are still to come
    age: Tensor  # (B,) long, frames since the episode began

    def sparing(self, worlds: Tensor) -> ApproachState:
        """The same, but these worlds (B,) bool need no plan in the next frame; they see it, and plan anew after it."""
        return replace(self, left=self.left.masked_fill(worlds, 1))


# CPUs multiply matrices of fewer rows in other ways, and a plan would depend, in its last bits, on how many worlds
# ask beside it. A world alone is left so: for it, time counts.
STEADY = 16
_ATTEMPT = 1_000_003  # between the keys of one attempt's noise and the next's


def least_rows(env: HandoverVectorEnv | None) -> int:
    """For how many worlds at once the agent of an environment makes plans, at least."""
    return 1 if env is None or env.num_envs == 1 else STEADY


class ApproachAgent:
    """A `policies.Agent` of a policy. Its actions are absolute hand states (`control_mode="absolute"`)."""

    def __init__(self, model: ApproachModel, seed: int = 0, *, name: str = "policy", least: int = 1):
        """`least`: plans are made for so many worlds at once, some of them in vain where fewer ask; see `STEADY`."""
        self.model, self.name = model.eval(), name
        self._seed, self._least = seed, least

    @torch.no_grad()
    def predict(
        self,
        observation: Mapping[str, Any],
        state: ApproachState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, ApproachState]:
        """See `policies.Agent`. All plans of a seed are drawn from the same noise: who can do a thing in two ways
        goes on in the way it began, until the next attempt of a model that has them; and a world does not depend on its
        neighbours. `deterministic` changes nothing.

        Raises:
            ValueError: the observation lacks what the policy looks at.
        """
        now = self.model.kept(self._seen_now(observation))
        worlds = len(next(iter(now.values())))
        fresh = torch.from_numpy(fresh_worlds(worlds, state, episode_start))
        state = _remember(now, state, fresh, self.model.config.observed, self.model.config.executed)
        asked = (state.left == 0).nonzero()[:, 0]
        if len(asked):
            state = self._plan(state, asked)
        rows = torch.arange(worlds)
        action = state.plan[rows, self.model.config.executed - state.left]
        return action.numpy(), ApproachState(state.seen, state.plan, state.left - 1, state.age + 1)

    def _plan(self, state: ApproachState, asked: Tensor) -> ApproachState:
        executed = self.model.config.executed
        rows = asked[torch.arange(max(self._least, len(asked))) % len(asked)]
        key = torch.full_like(rows, self._seed)
        if self.model.attempt:
            key = key + _ATTEMPT * (state.age[rows] // self.model.attempt)
        with threads_for(len(rows)):
            plan = self.model.plan({name: value[rows] for name, value in state.seen.items()}, key)
        plan = plan[: len(asked), :executed]
        return ApproachState(
            state.seen,
            state.plan.index_put((asked,), plan.float()),
            state.left.index_fill(0, asked, executed),
            state.age,
        )

    def _seen_now(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        missing = [key for key in self.model.needs if not isinstance(observation, Mapping) or key not in observation]
        if missing:
            options = ", ".join(f"{name}={value!r}" for name, value in self.model.env_options().items())
            raise ValueError(
                f"{self.name} looks at {', '.join(self.model.needs)}, the observation has no {', '.join(missing)}; "
                f"make the environment with {options}"
            )
        return {key: torch.as_tensor(np.asarray(observation[key])) for key in self.model.needs}


def _remember(
    now: Mapping[str, Tensor], old: ApproachState | None, fresh: Tensor, observed: int, executed: int
) -> ApproachState:
    """The state with this frame in it; a world that starts has seen nothing else."""
    start = {key: value[:, None].expand(-1, observed, *value.shape[1:]) for key, value in now.items()}
    worlds = len(fresh)
    if old is None:
        none = torch.zeros(worlds, dtype=torch.long)
        return ApproachState(start, torch.zeros(worlds, executed, HAND_STATE_SIZE), none, none)
    seen, w = {}, fresh.nonzero()[:, 0]
    for key, value in start.items():
        seen[key] = torch.cat((old.seen[key][:, 1:], value[:, :1]), dim=1)
        seen[key][w] = value[w]
    return ApproachState(seen, old.plan, old.left.masked_fill(fresh, 0), old.age.masked_fill(fresh, 0))
