"""DP3 (Ze et al., RSS 2024) as the paper uses it: diffusion from the object's cloud and the hand's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.diffusion_policy import DiffusionPolicy
from policies.pointnet import PointNet
from policies.proprioception import proprioception, proprioception_size, to_frame


@dataclass(frozen=True)
class DP3Config:
    """Sizes; the defaults run in real time on a CPU, `PAPER` has those of the paper.

    noise: deviations of what a goal and a plan are drawn from; both are 1 in training.
    pace: how many times as fast as it was learned a plan is carried out; published is 1.
    midway: whether each sampling step stands for the middle of its part of the noise; published is its lower end.
    """

    observed: int = 2
    executed: int = 2
    horizon: int = 8
    num_points: int = 128
    rotation: str = "6d"
    frame: str = "palm"
    point_widths: tuple[int, ...] = (48, 96, 256)
    feature: int = 128
    widths: tuple[int, ...] = (64, 128, 192)
    kernel: int = 5
    goal_first: bool = True
    attempt: int = 16
    noise: tuple[float, float] = (0.5, 0.3)
    pace: int = 2
    train_steps: int = 100
    sampling_steps: int = 5  # less than train_steps: DDIM in place of DDPM
    midway: bool = True


PAPER = DP3Config(
    observed=5,
    executed=2,
    num_points=4096,
    point_widths=(64, 128, 256),
    feature=64,
    rotation="axis_angle",
    frame="world",
    widths=(512, 1024, 2048),
    goal_first=False,
    attempt=0,
    noise=(1.0, 1.0),
    pace=1,
    sampling_steps=10,
    midway=False,
)  # section 5 of the paper


class DP3(DiffusionPolicy):
    """Looks at `point_cloud` and `agent_pos`; does not know the goal grasps."""

    needs = ("agent_pos", "point_cloud")

    def __init__(self, config: DP3Config = DP3Config()) -> None:
        super().__init__()
        self.config = c = config
        self.point_net = PointNet(c.point_widths)
        self.point_feature = nn.Sequential(
            nn.LayerNorm(c.point_widths[-1]), nn.Linear(c.point_widths[-1], c.feature), nn.LayerNorm(c.feature)
        )
        self._build(c.observed * (c.feature + 3) + proprioception_size(c.observed, c.rotation, c.frame))

    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """See `DiffusionPolicy`: of each cloud its middle and the feature of its points about it."""
        c = self.config
        cloud = to_frame(seen["point_cloud"], seen["agent_pos"][:, -1], c.frame)  # (B, T, P, 3)
        middle = cloud.mean(2, keepdim=True)
        feature = self.point_feature(self.point_net((cloud - middle).flatten(0, 1))).unflatten(0, cloud.shape[:2])
        clouds = torch.cat((feature, middle.squeeze(2)), dim=-1).flatten(1)
        return torch.cat((clouds, proprioception(seen["agent_pos"], c.rotation, c.frame)), dim=-1)
