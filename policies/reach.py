"""What it costs a hand to reach each of several goal grasps: way, turn, and whatever stands beside the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dexh2r_gym.alignment import RETREAT, behind_goal
from dexh2r_gym.hand import OPEN_HAND, forward_kinematics
from dexh2r_gym.rotations import quat_angle, quat_rotate

GIVER_CLEARANCE = 0.13  # m, palm to the giver's joints
LINK_CLEARANCE = 0.06  # m, origins of the hand's links to the giver's joints, on the way in and at the goal
OBJECT_CLEARANCE = 0.10  # m, palm to the object's surface on the way
_PATH = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)


def reach_cost(
    hand_pose: Tensor,
    goal_pose: Tensor,
    goal_joints: Tensor,
    retreats: Tensor,
    giver_joints: Tensor,
    object_distance: Callable[[Tensor], Tensor],
) -> Tensor:
    """Cost (B, G) of going from hand_pose (B, 7) behind each goal (B, G, 7), (B, G, 22) and in; about metres of way.

    All in the world. retreats: (B,), how far behind, see `behind`. giver_joints: (B, J, 3). object_distance: from
    points (B, G, P, 3) to their distance (B, G, P) from the object's surface.
    """
    wait = behind(goal_pose, retreats[:, None])
    offset = (wait[..., :3] - hand_pose[:, None, :3]).norm(dim=-1)
    angle = quat_angle(wait[..., 3:], hand_pose[:, None, 3:])
    path = hand_pose[:, None, None, :3] + _PATH.to(hand_pose)[:, None] * (
        wait[..., None, :3] - hand_pose[:, None, None, :3]
    )
    to_giver = least_distance(path, giver_joints)  # (B, G)
    to_object = object_distance(path).amin(dim=-1)
    opened = OPEN_HAND.to(goal_pose)
    links = torch.cat(
        (
            forward_kinematics(goal_pose, goal_joints),
            forward_kinematics(behind_goal(goal_pose), opened),
            forward_kinematics(wait, opened),
        ),
        dim=-2,
    )[..., :3]
    crowding = (LINK_CLEARANCE - least_distance(links, giver_joints)).clamp_min(0)
    inward = -quat_rotate(goal_pose[..., 3:], goal_pose.new_tensor([0.0, 1.0, 0.0]))  # palm's inner side, world
    cost = offset + 0.3 * angle - 0.3 * inward[..., 0] + 20.0 * crowding
    return cost + 10.0 * (GIVER_CLEARANCE - to_giver).clamp_min(0) + 10.0 * (OBJECT_CLEARANCE - to_object).clamp_min(0)


def behind(goal: Tensor, retreats: Tensor) -> Tensor:
    """As `dexh2r_gym.alignment.behind_goal`, each goal (..., 7) with its own number of retreats (...)."""
    shift = retreats[..., None] * goal.new_tensor(RETREAT)
    return torch.cat(
        (goal[..., :3] + quat_rotate(goal[..., 3:], shift.expand_as(goal[..., :3])), goal[..., 3:]), dim=-1
    )


def least_distance(points: Tensor, joints: Tensor) -> Tensor:
    """Least distance of points (B, G, P, 3) from joints (B, J, 3), (B, G) metres."""
    return (points[..., None, :] - joints[:, None, None]).norm(dim=-1).amin(dim=(-1, -2))
