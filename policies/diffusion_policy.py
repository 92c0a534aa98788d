"""Plans by diffusion over hand states: what DP and DP3 share, whatever they see (Chi et al., RSS 2023).

A plan is a sequence of differences to the present hand, cleaned of noise step by step by a conditional U-Net. As
published, its first frames are those observed, so that `horizon - observed + 1` of them lie ahead.

Not as published: with `guess`, where the hand is going is learned beside the plan, from the same features, and told to
the U-Net: a plan of a few frames says little about the grasp that it leads to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dexh2r_gym.sensing.hashing import normal
from policies.approach import ApproachModel
from policies.hand_vectors import base_of, encode, vector_size
from policies.normalizer import Normalizer
from policies.unet1d import ConditionalUNet1D

_WIDTH = 256  # of what guesses the goal


class DiffusionPolicy(ApproachModel):
    """A policy whose config has observed, executed, horizon, rotation, frame, widths, kernel, train_steps,
    sampling_steps and guess, and whose scheduler is one of diffusers'."""

    scheduler: Any
    guess: nn.Module | None

    def _build(self, condition: int) -> None:
        """The parts that do not see; condition: numbers of `observe`."""
        c = self.config
        size = vector_size(c.rotation)
        self.guess = None
        if c.guess:
            self.guess = nn.Sequential(nn.Linear(condition, _WIDTH), nn.Mish(), nn.Linear(_WIDTH, size))
            self.goal_numbers = Normalizer(1, size)
            condition += size
        self.net = ConditionalUNet1D(size, condition, c.widths, c.kernel)
        self.future_numbers = Normalizer(c.horizon, size)

    @abstractmethod
    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What was seen as numbers (B, condition)."""

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
        condition, guess = self._condition(batch)
        losses = {"plan": mse_loss(self.net(noisy, step, condition), clean)}
        if guess is not None:
            losses["goal"] = mse_loss(guess, self.goal_numbers(self._goal(batch)).flatten(1))
        return losses

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`."""
        c = self.config
        condition, _ = self._condition(seen)
        sequence = normal(key, 0, c.horizon * vector_size(c.rotation)).unflatten(1, (c.horizon, -1))
        self.scheduler.set_timesteps(c.sampling_steps)
        for step in self.scheduler.timesteps:
            clean = self.net(sequence, step.expand(len(sequence)), condition)
            sequence = self.scheduler.step(clean, step, sequence, return_dict=False)[0]
        return self.said(sequence, seen)[:, c.observed - 1 :]

    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """See `ApproachModel`."""
        super().fit(batch)
        if self.guess is not None:
            self.goal_numbers.fit(self._goal(batch))

    def _condition(self, seen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What the U-Net is told (B, ...), and the guess in it (B, numbers)."""
        observed = self.observe(seen)
        if self.guess is None:
            return observed, None
        guess = self.guess(observed)
        return torch.cat((observed, guess), dim=-1), guess

    def _goal(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The goal (B, 1, numbers), as differences to the present hand."""
        base = base_of(batch["agent_pos"][:, -1], self.config.frame)
        return encode(batch["goal_pos"][:, -1:], base, self.config.rotation)

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The state that follows each observed frame, and those after it."""
        return torch.cat((batch["agent_pos"][:, 1:], batch["future"]), dim=1)
