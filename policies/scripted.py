"""A privileged expert: it sees the true scene, picks a goal grasp and moves there as people do.

The hand goes to a point behind the goal (where the palm is drawn back from the object) with the bell-shaped speed of a
minimum-jerk reach (Flash and Hogan 1985), the fingers open, and then straight in. Both legs are carried along with the
moving object. It makes the demonstrations and shows what the task allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.rotations import (
    pose_apply,
    pose_inverse,
    pose_multiply,
    quat_angle,
    quat_from_axis_angle,
    quat_multiply,
    quat_rotate,
    quat_slerp,
)
from dexh2r_gym.types import join_hand_state
from policies.agent import fresh_worlds

RETREAT = (0.0, 0.11, -0.02)  # m, palm frame: where the hand waits before it moves in
OPENING = 0.75  # how far the fingers are opened from the goal's joints towards the open hand on the way in
REACH_SPEED = 0.40  # m/s, mean over the reach; its peak is 1.875 times that
TURN_SPEED = 1.3  # rad/s, mean over the reach
APPROACH_FRAMES = 16  # from behind the goal to the goal
GIVER_CLEARANCE = 0.13  # m, palm to the giver's joints
OBJECT_CLEARANCE = 0.10  # m, palm to the object's surface on the way
_PATH = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)


@dataclass
class Plan:
    """One plan a world, (B, ...)."""

    start: Tensor  # (B, 7) palm, world
    start_joints: Tensor  # (B, 22)
    goal: Tensor  # (B, 7) palm in the object frame
    goal_joints: Tensor  # (B, 22)
    frames: Tensor  # (B,) of the reach
    begin: Tensor  # (B,) time of the recording at which the plan was made


class ScriptedExpert:
    """See the module. Works with every `obs_mode`, since it does not look at observations."""

    def __init__(self, env: HandoverVectorEnv):
        if env.options.control_mode != "absolute":
            raise ValueError(
                "the scripted expert commands hand states; make the environment with control_mode='absolute'"
            )
        self._task = env.task
        self._dt = 1.0 / env.task.fps

    def predict(
        self,
        observation: Any,
        state: Plan | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Plan]:
        """See `policies.Agent`; `deterministic` changes nothing."""
        task = self._task
        fresh = torch.from_numpy(fresh_worlds(len(task.time), state, episode_start))
        plan = self._plan(fresh, state)
        scene = task.scene
        velocity = scene.object_velocity * self._dt
        turn = quat_multiply(quat_from_axis_angle(velocity[:, 3:]), scene.object_pose[:, 3:])
        object_next = torch.cat((scene.object_pose[:, :3] + velocity[:, :3], turn), dim=-1)
        goal = pose_multiply(object_next, plan.goal)
        wait = pose_multiply(goal, _retreat(goal))
        elapsed = (task.time - plan.begin + 1).double()
        reach = minimum_jerk(elapsed / plan.frames)[:, None]
        close_in = minimum_jerk((elapsed - plan.frames) / APPROACH_FRAMES)[:, None]
        target = _between(_between(plan.start, wait, reach), goal, close_in)
        opened = plan.goal_joints + OPENING * (OPEN_HAND.to(target) - plan.goal_joints)
        joints = plan.start_joints + reach * (opened - plan.start_joints)
        joints = joints + close_in * (plan.goal_joints - joints)
        return join_hand_state(target, joints).float().numpy(), plan

    def _plan(self, fresh: Tensor, old: Plan | None) -> Plan:
        """A plan for the worlds that need one; the others keep theirs."""
        if old is not None and not fresh.any():
            return old
        scene, task = self._task.scene, self._task
        goal, joints = self._choose_goal()
        wait = pose_multiply(pose_multiply(scene.object_pose, goal), _retreat(goal))
        seconds = torch.maximum(
            (wait[:, :3] - scene.hand_pose[:, :3]).norm(dim=-1) / REACH_SPEED,
            quat_angle(wait[:, 3:], scene.hand_pose[:, 3:]) / TURN_SPEED,
        )
        new = Plan(
            start=scene.hand_pose.clone(),
            start_joints=scene.hand_joints.clone(),
            goal=goal,
            goal_joints=joints,
            frames=(seconds / self._dt).clamp_min(10).round(),
            begin=task.time.clone(),
        )
        if old is None:
            return new
        return Plan(
            **{k: torch.where(fresh.view(-1, *[1] * (v.ndim - 1)), v, getattr(old, k)) for k, v in vars(new).items()}
        )

    def _choose_goal(self) -> tuple[Tensor, Tensor]:
        """The goal (B, 7) in the object frame, and joints (B, 22), that is free for good and easiest to get to."""
        task, scene = self._task, self._task.scene
        goals = task.goals_now()
        world = pose_multiply(scene.object_pose[:, None], goals.pose)  # (B, G, 7)
        wait = pose_multiply(world, _retreat(world))
        offset = (wait[..., :3] - scene.hand_pose[:, None, :3]).norm(dim=-1)
        angle = quat_angle(wait[..., 3:], scene.hand_pose[:, None, 3:])
        path = scene.hand_pose[:, None, None, :3] + _PATH[:, None] * (
            wait[..., None, :3] - scene.hand_pose[:, None, None, :3]
        )
        to_giver = (path[..., None, :] - goals.giver_joints[:, None, None]).norm(dim=-1).amin(dim=(-1, -2))  # (B, G)
        local = pose_apply(pose_inverse(scene.object_pose)[:, None, None], path)
        index = goals.object_index[:, None, None].expand(local.shape[:3])
        distance = goals.objects.signed_distance_fast(index.flatten(), local.flatten(0, 2)).view(local.shape[:3])
        to_object = distance.amin(dim=-1)
        inward = -quat_rotate(world[..., 3:], world.new_tensor([0.0, 1.0, 0.0]))  # palm's inner side, world
        cost = offset + 0.3 * angle - 0.3 * inward[..., 0]
        cost = (
            cost + 10.0 * (GIVER_CLEARANCE - to_giver).clamp_min(0) + 10.0 * (OBJECT_CLEARANCE - to_object).clamp_min(0)
        )
        cost = cost + torch.where(goals.free_at_end, 0.0, 1e3) + torch.where(goals.free, 0.0, 1e1)
        best = cost.argmin(dim=-1)
        rows = torch.arange(len(best))
        return goals.pose[rows, best], goals.joints[rows, best]


def minimum_jerk(x: Tensor) -> Tensor:
    """Part of the way at part x of the time, x clamped to [0, 1]: 10 x^3 - 15 x^4 + 6 x^5."""
    x = x.clamp(0.0, 1.0)
    return x * x * x * (10.0 - 15.0 * x + 6.0 * x * x)


def _between(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Pose a part t (B, 1) of the way from a to b, (B, 7)."""
    return torch.cat((a[:, :3] + t * (b[:, :3] - a[:, :3]), quat_slerp(a[:, 3:], b[:, 3:], t)), dim=-1)


def _retreat(like: Tensor) -> Tensor:
    """From the goal's palm frame to the waiting point's, (7,)."""
    return like.new_tensor([*RETREAT, 1.0, 0.0, 0.0, 0.0])
