"""Plans by diffusion over hand states: what DP and DP3 share, whatever they see (Chi et al., RSS 2023).

A plan is a sequence of differences to the present hand, cleaned of noise step by step by a conditional U-Net. As
published, its first frames are those observed, so that `horizon - observed + 1` of them lie ahead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from dexh2r_gym.sensing.hashing import normal
from policies.approach import ApproachModel
from policies.hand_vectors import vector_size
from policies.normalizer import Normalizer
from policies.unet1d import ConditionalUNet1D


class DiffusionPolicy(ApproachModel):
    """A policy whose config has observed, executed, horizon, rotation, frame, widths, kernel, train_steps and
    sampling_steps, and whose scheduler is one of diffusers'."""

    scheduler: Any

    def _build(self, condition: int) -> None:
        """The parts that do not see; condition: numbers of `observe`."""
        c = self.config
        size = vector_size(c.rotation)
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
        return {"plan": mse_loss(self.net(noisy, step, self.observe(batch)), clean)}

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`."""
        c = self.config
        condition = self.observe(seen)
        sequence = normal(key, 0, c.horizon * vector_size(c.rotation)).unflatten(1, (c.horizon, -1))
        self.scheduler.set_timesteps(c.sampling_steps)
        for step in self.scheduler.timesteps:
            clean = self.net(sequence, step.expand(len(sequence)), condition)
            sequence = self.scheduler.step(clean, step, sequence, return_dict=False)[0]
        return self.said(sequence, seen)[:, c.observed - 1 :]

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The state that follows each observed frame, and those after it."""
        return torch.cat((batch["agent_pos"][:, 1:], batch["future"]), dim=1)
