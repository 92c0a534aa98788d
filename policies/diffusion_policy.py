"""Plans by diffusion over hand states: what DP and DP3 share, whatever they see (Chi et al., RSS 2023).

A plan is a sequence of differences to the present hand, cleaned of noise step by step by a conditional U-Net. As
published, its first frames are those observed, so that `horizon - observed + 1` of them lie ahead.

Not as published: with `goal_first`, a goal is drawn before the plan and told to the U-Net. Nobody says where the goals
of a trial are, so the nearest may be missed: another is drawn every `attempt` frames, and the hand goes on from there.
Both are drawn from `noise` of less deviation than in training, 1, which keeps to what is likely. And a plan is carried
out `pace` times as fast as it was learned, which takes more trials; the robot's speed limits are the environment's, and
hold as ever. Each sampling step stands for the middle of its part of the noise (`midway`), not for its lower end: the
first then stands for almost all noise also where there are few steps, and the last still has something to clean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn.functional import mse_loss

from dexh2r_gym.sensing.hashing import normal
from policies.approach import ApproachModel
from policies.goal_draw import GoalDraw, denoise
from policies.hand_vectors import base_of, encode, vector_size
from policies.normalizer import Normalizer
from policies.unet1d import ConditionalUNet1D


class DiffusionPolicy(ApproachModel):
    """A policy whose config has observed, executed, horizon, rotation, frame, widths, kernel, train_steps,
    sampling_steps, midway, noise, pace, goal_first and attempt."""

    scheduler: Any  # one of diffusers'
    goal_draw: GoalDraw | None

    def _build(self, condition: int) -> None:
        """The parts that do not see; condition: numbers of `observe`."""
        c = self.config
        if c.executed * c.pace > self.ahead:
            raise ValueError(
                f"{c.executed} frames executed at pace {c.pace} take {c.executed * c.pace} frames of a plan, but "
                f"horizon {c.horizon} with {c.observed} observed leaves {self.ahead}; choose a longer horizon"
            )
        self.scheduler = _scheduler(c.train_steps, c.sampling_steps, c.midway)
        size = vector_size(c.rotation)
        self.goal_draw = None
        if c.goal_first:
            self.goal_draw = GoalDraw(size, condition)
            self.goal_numbers = Normalizer(1, size)
            condition += size
        self.net = ConditionalUNet1D(size, condition, c.widths, c.kernel)
        self.future_numbers = Normalizer(c.horizon, size)

    @abstractmethod
    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What was seen as numbers (B, condition)."""

    @property
    def attempt(self) -> int:
        """See `ApproachModel`."""
        return self.config.attempt

    @property
    def ahead(self) -> int:
        """See `ApproachModel`."""
        return self.config.horizon - self.config.observed + 1

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `ApproachModel`: mean squared error of the clean sequence."""
        clean = self.future(batch)
        step = torch.randint(self.config.train_steps, (len(clean),), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, step)
        condition, losses = self.observe(batch), {}
        if self.goal_draw is not None:
            goal = self.goal_numbers(self._goal(batch)).flatten(1)
            losses["goal"] = self.goal_draw.loss(goal, condition, self.scheduler, generator)
            condition = torch.cat((condition, goal), dim=-1)
        return losses | {"plan": mse_loss(self.net(noisy, step, condition), clean)}

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`; every `pace`-th of the hand states ahead."""
        c, size = self.config, vector_size(self.config.rotation)
        condition, (calm_goal, calm) = self.observe(seen), c.noise
        if (draw := self.goal_draw) is not None:
            goal = denoise(draw, calm_goal * normal(key, 1, size), condition, self.scheduler, c.sampling_steps)
            condition = torch.cat((condition, goal), dim=-1)
        noise = calm * normal(key, 0, c.horizon * size).unflatten(1, (c.horizon, -1))
        sequence = denoise(self.net, noise, condition, self.scheduler, c.sampling_steps)
        return self.said(sequence, seen)[:, c.observed + c.pace - 2 :: c.pace]

    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """See `ApproachModel`."""
        super().fit(batch)
        if self.goal_draw is not None:
            self.goal_numbers.fit(self._goal(batch))

    def _goal(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The goal (B, 1, numbers), as differences to the present hand."""
        base = base_of(batch["agent_pos"][:, -1], self.config.frame)
        return encode(batch["goal_pos"][:, -1:], base, self.config.rotation)

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The state that follows each observed frame, and those after it."""
        return torch.cat((batch["agent_pos"][:, 1:], batch["future"]), dim=1)


def _scheduler(train_steps: int, sampling_steps: int, midway: bool) -> Any:
    """The noise of sequences, and how it is taken off: DDPM in as many steps as were learned, DDIM in fewer."""
    about: dict[str, Any] = {
        "num_train_timesteps": train_steps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "sample",
        "clip_sample": False,
    }
    if sampling_steps == train_steps:
        return DDPMScheduler(**about)
    return DDIMScheduler(**about, steps_offset=train_steps // sampling_steps // 2 if midway else 0)
