"""What a goal-conditioned policy sees, as numbers in the present palm's frame (MotionNet, section 4.2 and supplement).

The last hand states, a feature of each of the last object clouds, and points on the hand's surface: where they are, how
they move, and how far they are from the same points of the goal hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.hand.kinematics import LINK_NAMES
from dexh2r_gym.hand.surface import POINTS_PER_LINK, surface_points_local
from dexh2r_gym.rotations import pose_apply
from dexh2r_gym.types import split_hand_state
from policies.pointnet import PointNet
from policies.proprioception import proprioception, proprioception_size, to_frame

_FASTER = 10.0  # by which the motion of points is scaled


class GoalView(nn.Module):
    """Attributes: size, how many numbers it gives."""

    def __init__(self, observed: int, point_widths: Sequence[int], hand_points: int, rotation: str, frame: str) -> None:
        """observed: frames, at least 2; hand_points: on each of the 18 links."""
        super().__init__()
        self._hand_points, self._rotation, self._frame = hand_points, rotation, frame
        self.point_net = PointNet(point_widths)
        points = 3 * len(LINK_NAMES) * hand_points
        self.size = observed * point_widths[-1] + 3 * points + proprioception_size(observed, rotation, frame)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        """`agent_pos`, `point_cloud` and `goal_pos` (B, observed, ...) -> (B, size)"""
        states, present = seen["agent_pos"], seen["agent_pos"][:, -1]
        cloud = to_frame(seen["point_cloud"], present, self._frame)
        feature = self.point_net(cloud.flatten(0, 1)).unflatten(0, cloud.shape[:2]).flatten(1)
        hands = torch.stack((states[:, -2], present, seen["goal_pos"][:, -1]), dim=1)
        points = to_frame(_surface(hands, self._hand_points), present, self._frame)
        before, now, goal = points.flatten(2).unbind(1)
        own = proprioception(states, self._rotation, self._frame)
        return torch.cat((feature, now, _FASTER * (now - before), goal - now, own), dim=-1)


def _surface(states: Tensor, per_link: int) -> Tensor:
    """So many points on each link of hands (..., 28), world. -> (..., 18 * per_link, 3)"""
    links = forward_kinematics(*split_hand_state(states))  # (..., 18, 7)
    local = surface_points_local().points.unflatten(0, (-1, POINTS_PER_LINK))[:, :per_link]  # the first are far apart
    return pose_apply(links[..., None, :], local.to(links)).flatten(-3, -2)
