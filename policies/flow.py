"""Our own approach policy: goal-conditioned, aware of the giver, closed loop at every frame, by flow matching.

A straight way from noise to a short plan is learned (Lipman et al., ICLR 2023) and followed in a few steps; only the
first frame of a plan is carried out, so the next look at the object comes 33 ms later. From MotionNet it has the view
of the goal, from DP3 that a plan is drawn and not averaged; neither sees the giver's hand, as this one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, silu

from dexh2r_gym.sensing.hashing import normal
from policies.approach import ApproachModel
from policies.goal_view import GoalView
from policies.hand_vectors import vector_size
from policies.modulated import ModulatedBlocks
from policies.normalizer import Normalizer
from policies.proprioception import to_frame
from policies.unet1d import SinusoidalEmbedding

_TIME = 32  # numbers that say how far along the flow is
_CALM = 0.5  # deviation of the noise that a plan is drawn from; 1 in training


@dataclass(frozen=True)
class FlowConfig:
    """Sizes."""

    observed: int = 3
    executed: int = 1
    horizon: int = 6
    num_points: int = 128
    rotation: str = "6d"
    frame: str = "palm"
    point_widths: tuple[int, ...] = (32, 64, 128)
    hand_points: int = 4  # of each link
    width: int = 512
    blocks: int = 4
    sampling_steps: int = 4


class Flow(ApproachModel):
    """Looks at `point_cloud`, `agent_pos`, `goal_pos` and the giver's joints as a tracker sees them, `giver_joints`."""

    needs = ("agent_pos", "point_cloud", "goal_pos", "giver_joints")

    def __init__(self, config: FlowConfig = FlowConfig()) -> None:
        super().__init__()
        self.config = c = config
        size = c.horizon * vector_size(c.rotation)
        self.view = GoalView(c.observed, c.point_widths, c.hand_points, c.rotation, c.frame)
        self.condition = nn.Linear(self.view.size + 2 * 48, c.width)
        self.time = nn.Sequential(SinusoidalEmbedding(_TIME), nn.Linear(_TIME, c.width))
        self.start = nn.Linear(size, c.width)
        self.blocks = ModulatedBlocks(c.width, c.blocks)
        self.end = nn.Linear(c.width, size)
        self.future_numbers = Normalizer(c.horizon, vector_size(c.rotation))

    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What is seen as numbers (B, width): the view of the goal, the giver's joints and how they move."""
        joints = seen["giver_joints"][:, -2:].unflatten(-1, (16, 3))
        now = to_frame(joints, seen["agent_pos"][:, -1], self.config.frame)
        giver = torch.cat((now[:, 1], 10 * (now[:, 1] - now[:, 0])), dim=1).flatten(1)
        return self.condition(torch.cat((self.view(seen), giver), dim=-1))

    def forward(self, plan: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Whither plans (B, horizon, size) flow at times (B,) in [0, 1]."""
        return self._flow(plan, self._films(time, condition))

    def _films(self, time: Tensor, condition: Tensor) -> list[Tensor]:
        """How each block's numbers are scaled and shifted, as `ConditionalUNet1D.films`."""
        given = silu(condition + self.time(1000 * time.flatten()).unflatten(0, time.shape))
        return self.blocks.films(given)

    def _flow(self, plan: Tensor, films: Sequence[Tensor]) -> Tensor:
        return self.end(self.blocks(self.start(plan.flatten(1)), films)).view_as(plan)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `ApproachModel`: mean squared error of the flow from noise to the demonstration."""
        clean = self.future(batch)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        time = torch.rand(len(clean), generator=generator).to(clean.device)
        part = time[:, None, None]
        flow = self(noise + part * (clean - noise), time, self.observe(batch))
        return {"plan": mse_loss(flow, clean - noise)}

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`."""
        c = self.config
        condition = self.observe(seen)
        plan = _CALM * normal(key, 0, c.horizon * vector_size(c.rotation)).unflatten(1, (c.horizon, -1))
        times = torch.arange(c.sampling_steps, device=condition.device)[:, None] / c.sampling_steps
        for films in zip(*self._films(times, condition), strict=True):
            plan = plan + self._flow(plan, films) / c.sampling_steps
        return self.said(plan, seen)
