"""Which goal grasp an expert that sees the true scene goes for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dexh2r_gym.envs.goals import Goals
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply
from policies.reach import reach_cost


def choose_goal(
    task: HandoverTask, worlds: Tensor, retreats: Tensor, dearer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The goal that is free for good and easiest to get to, of worlds (n,): palm (n, 7) in the object frame and joints
    (n, 22).

    retreats: (n,), how far behind a goal the hand will go first, see `policies.reach.behind`. dearer: (n, G), added to
    what each goal costs.
    """
    goals = _of_worlds(task.goals_now(), worlds)
    hand_pose, object_pose = task.scene.hand_pose[worlds], task.scene.object_pose[worlds]
    world = pose_multiply(object_pose[:, None], goals.pose)  # (n, G, 7)

    def to_object(points: Tensor) -> Tensor:
        local = pose_apply(pose_inverse(object_pose)[:, None, None], points)
        index = goals.object_index[:, None, None].expand(local.shape[:3])
        return goals.objects.signed_distance_fast(index.flatten(), local.flatten(0, 2)).view(local.shape[:3])

    cost = reach_cost(hand_pose, world, goals.joints, retreats, goals.giver_joints, to_object)
    if dearer is not None:
        cost = cost + dearer
    cost = cost + torch.where(goals.free_at_end, 0.0, 1e3) + torch.where(goals.free, 0.0, 1e1)
    best = cost.argmin(dim=-1)
    rows = torch.arange(len(best))
    return goals.pose[rows, best], goals.joints[rows, best]


def _of_worlds(goals: Goals, worlds: Tensor) -> Goals:
    """Those of some worlds (n,)."""
    parts: dict[str, Any] = {key: value[worlds] for key, value in vars(goals).items() if isinstance(value, Tensor)}
    return replace(goals, **parts)
