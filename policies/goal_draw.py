"""A goal drawn by diffusion, for policies that are not told one: where a hand might go, given what was seen.

There are many goals that one could go for, and their mean is none; so one is drawn, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, silu

from policies.modulated import ModulatedBlocks
from policies.unet1d import SinusoidalEmbedding

_WIDTH, _BLOCKS, _STEP = 256, 3, 32


class GoalDraw(nn.Module):
    """Goals as numbers (B, size) of mean 0 and deviation 1; condition (B, C): what was seen."""

    def __init__(self, size: int, condition: int) -> None:
        super().__init__()
        self.condition = nn.Sequential(nn.LayerNorm(condition), nn.Linear(condition, _WIDTH))
        self.step = nn.Sequential(SinusoidalEmbedding(_STEP), nn.Linear(_STEP, _WIDTH))
        self.start = nn.Linear(size, _WIDTH)
        self.blocks = ModulatedBlocks(_WIDTH, _BLOCKS)
        self.end = nn.Linear(_WIDTH, size)

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """The goals that noisy ones (B, size) of steps (B,) come from."""
        return self.clean(noisy, self.films(step, condition))

    def films(self, step: Tensor, condition: Tensor) -> list[Tensor]:
        """How each block's numbers are scaled and shifted, as `ConditionalUNet1D.films`."""
        told = self.step(step.flatten()).unflatten(0, step.shape)
        given = silu(self.condition(condition) + told)
        return self.blocks.films(given)

    def clean(self, noisy: Tensor, films: Sequence[Tensor]) -> Tensor:
        """`forward`, from `films`."""
        return self.end(self.blocks(self.start(noisy), films))

    def loss(self, goal: Tensor, condition: Tensor, scheduler: Any, generator: torch.Generator) -> Tensor:
        """Mean squared error of the clean goal; scheduler: one of diffusers' that predicts samples."""
        step = torch.randint(scheduler.config.num_train_timesteps, (len(goal),), generator=generator).to(goal.device)
        noise = torch.randn(goal.shape, generator=generator).to(goal.device)
        return mse_loss(self(scheduler.add_noise(goal, noise, step), step, condition), goal)


class Cleaner(Protocol):
    """A network that takes the noise off; see `ConditionalUNet1D`."""

    def films(self, step: Tensor, condition: Tensor) -> list[Tensor]: ...

    def clean(self, noisy: Tensor, films: Sequence[Tensor]) -> Tensor: ...


def denoise(net: Cleaner, noise: Tensor, condition: Tensor, scheduler: Any, steps: int) -> Tensor:
    """What net makes of noise (B, ...) in so many steps; condition (B, C): what it is told.

    Without gradients it works in inference mode, which is quicker; the answer is an ordinary tensor all the same.
    """
    scheduler.set_timesteps(steps)
    with torch.inference_mode(not torch.is_grad_enabled()):
        films = net.films(scheduler.timesteps[:, None].to(noise.device), condition)
        for step, *now in zip(scheduler.timesteps, *films, strict=True):
            noise = scheduler.step(net.clean(noise, now), step, noise, return_dict=False)[0]
    return noise.clone()
