"""MotionNet, the paper's own approach policy: goal-conditioned, a residual network that says how the hand moves on.

It answers with the change of the hand at each of the next frames (section 4.2 of the paper); see `policies.goal_view`
for what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from policies.approach import ApproachModel
from policies.goal_view import GoalView
from policies.hand_vectors import vector_size
from policies.normalizer import Normalizer


@dataclass(frozen=True)
class MotionNetConfig:
    """Sizes; the defaults run in real time on a CPU, `PAPER` has those of the paper."""

    observed: int = 5
    executed: int = 2  # of 5 in the paper: the sooner it looks again, the less the object has moved
    horizon: int = 10
    num_points: int = 128
    rotation: str = "6d"
    frame: str = "palm"
    point_widths: tuple[int, ...] = (32, 64, 128)
    hand_points: int = 4  # of each link
    width: int = 512
    blocks: int = 3


PAPER = MotionNetConfig(executed=5, num_points=1024, point_widths=(64, 128, 1024), hand_points=22, width=2048)


class MotionNet(ApproachModel):
    """Looks at `point_cloud`, `agent_pos` and the goal grasp, `goal_pos`."""

    needs = ("agent_pos", "point_cloud", "goal_pos")

    def __init__(self, config: MotionNetConfig = MotionNetConfig()) -> None:
        super().__init__()
        self.config = c = config
        size = vector_size(c.rotation)
        self.view = GoalView(c.observed, c.point_widths, c.hand_points, c.rotation, c.frame)
        self.start = nn.Linear(self.view.size, c.width)
        self.blocks = nn.ModuleList(_Residual(c.width) for _ in range(c.blocks))
        self.end = nn.Linear(c.width, c.horizon * size)
        self.future_numbers = Normalizer(c.horizon, size)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Normalised changes (B, horizon, size)."""
        x = self.start(self.view(seen))
        for block in self.blocks:
            x = block(x)
        return self.end(x).unflatten(1, (self.config.horizon, -1))

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `ApproachModel`: L1 on the hand states."""
        return {"plan": l1_loss(self(batch), self.future(batch))}

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`; there is no noise."""
        return self.said(self(seen), seen)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layer = (nn.BatchNorm1d(width), nn.LeakyReLU(0.2), nn.Linear(width, width))
        again = (nn.BatchNorm1d(width), nn.LeakyReLU(0.2), nn.Linear(width, width))
        self.layers = nn.Sequential(*layer, *again)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
