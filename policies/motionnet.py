"""MotionNet, the paper's own approach policy: goal-conditioned, a residual network that says how the hand moves on.

After section 4.2 and the supplement: it sees the last hand states, a feature of each of the last object clouds, and of
points on the hand's surface where they are, how they move, and how far they are from the same points of the goal hand;
all in the present palm's frame. It answers with the change of the hand at each of the next frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.hand.kinematics import LINK_NAMES
from dexh2r_gym.hand.surface import POINTS_PER_LINK, surface_points_local
from dexh2r_gym.rotations import pose_apply
from dexh2r_gym.types import split_hand_state
from policies.approach import ApproachModel
from policies.hand_vectors import base_of, decode, encode, vector_size
from policies.normalizer import Normalizer
from policies.pointnet import PointNet
from policies.proprioception import proprioception, proprioception_size, to_frame


@dataclass(frozen=True)
class MotionNetConfig:
    """Sizes; the defaults run in real time on a CPU, `PAPER` has those of the paper."""

    observed: int = 5
    executed: int = 5
    horizon: int = 10
    num_points: int = 128
    rotation: str = "6d"
    frame: str = "palm"
    point_widths: tuple[int, ...] = (32, 64, 128)
    hand_points: int = 4  # of each link
    width: int = 512
    blocks: int = 3


PAPER = MotionNetConfig(num_points=1024, point_widths=(64, 128, 1024), hand_points=22, width=2048)


class MotionNet(ApproachModel):
    """Looks at `point_cloud`, `agent_pos` and the goal grasp, `goal_pos`."""

    needs = ("agent_pos", "point_cloud", "goal_pos")

    def __init__(self, config: MotionNetConfig = MotionNetConfig()) -> None:
        super().__init__()
        self.config = c = config
        size = vector_size(c.rotation)
        self.point_net = PointNet(c.point_widths)
        points = 3 * len(LINK_NAMES) * c.hand_points
        seen = c.observed * c.point_widths[-1] + 3 * points + proprioception_size(c.observed, c.rotation, c.frame)
        self.start = nn.Linear(seen, c.width)
        self.blocks = nn.ModuleList(_Residual(c.width) for _ in range(c.blocks))
        self.end = nn.Linear(c.width, c.horizon * size)
        self.future_numbers = Normalizer(c.horizon, size)

    @property
    def ahead(self) -> int:
        """See `ApproachModel`."""
        return self.config.horizon

    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """Take the statistics of a large batch."""
        self.future_numbers.fit(self._changes(batch))

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Normalised changes (B, horizon, size)."""
        c, states = self.config, seen["agent_pos"]
        cloud = to_frame(seen["point_cloud"], states[:, -1], c.frame)
        feature = self.point_net(cloud.flatten(0, 1)).unflatten(0, cloud.shape[:2]).flatten(1)
        before, now, goal = (
            to_frame(_hand_points(s, c.hand_points), states[:, -1], c.frame).flatten(1)
            for s in (states[:, -2], states[:, -1], seen["goal_pos"][:, -1])
        )
        own = proprioception(states, c.rotation, c.frame)
        x = self.start(torch.cat((feature, now, 10 * (now - before), goal - now, own), dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.end(x).unflatten(1, (c.horizon, -1))

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `ApproachModel`: L1 on the hand states."""
        return {"plan": l1_loss(self(batch), self.future_numbers(self._changes(batch)))}

    def plan(self, seen: Mapping[str, Tensor], key: Tensor) -> Tensor:
        """See `ApproachModel`; there is no noise."""
        c = self.config
        changes = self.future_numbers.inverse(self(seen))
        return decode(changes, base_of(seen["agent_pos"][:, -1], c.frame), c.rotation)

    def _changes(self, batch: Mapping[str, Tensor]) -> Tensor:
        return encode(batch["future"], base_of(batch["agent_pos"][:, -1], self.config.frame), self.config.rotation)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _hand_points(states: Tensor, per_link: int) -> Tensor:
    """So many points on each link of hands (B, 28), world. -> (B, 18 * per_link, 3)"""
    links = forward_kinematics(*split_hand_state(states))  # (B, 18, 7)
    local = surface_points_local().points.unflatten(0, (-1, POINTS_PER_LINK))[:, :per_link]  # the first are far apart
    return pose_apply(links[:, :, None], local.to(links)).flatten(1, 2)
