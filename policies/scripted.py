"""A privileged expert: it sees the true scene, knows how the giver will move, picks a goal grasp and moves there as
people do, round the giver's hand.

The hand goes to a point behind the goal (where the palm is drawn back from the object) with the bell-shaped speed of a
minimum-jerk reach (Flash and Hogan 1985), the fingers open, and then straight in. Both legs are carried along with the
moving object. It makes the demonstrations and shows what the task allows; its `varied` form takes each trial
in a manner of its own: another pause, pace, detour, way in and goal.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import advance
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.hand import OPEN_HAND, forward_kinematics
from dexh2r_gym.replay.motion import minimum_jerk
from dexh2r_gym.rotations import pose_integrate, pose_multiply, quat_angle
from dexh2r_gym.types import join_hand_state
from policies.agent import check_takes, fresh_worlds
from policies.goal_choice import choose_goal
from policies.manner import Manner, direct_manner, varied_manner
from policies.reach import behind, least_distance

MIN_FRAMES = 10  # of a reach
SPARE_FRAMES = 14  # at the end of the recording, left to the alignment by an expert that takes its time
MAX_PAUSE = 60  # frames
WAY_CLEARANCE = 0.10  # m, origins of the hand's links to the giver's joints on the way
_LOOKED_AT = torch.linspace(0.1, 1.0, 16, dtype=torch.float64)  # parts of a reach
_DETOUR_COST = 0.05  # m of clearance that a metre of detour must gain
_sides = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
_DETOURS = torch.cat((_sides[13:14], *(size * _sides[_sides.any(-1)] for size in (0.1, 0.2))))  # m, (53, 3)


@dataclass
class Plan:
    """One plan a world, (B, ...)."""

    start: Tensor  # (B, 7) palm, world
    start_joints: Tensor  # (B, 22)
    goal: Tensor  # (B, 7) palm in the object frame
    goal_joints: Tensor  # (B, 22)
    frames: Tensor  # (B,) of the reach
    begin: Tensor  # (B,) time of the recording at which the reach begins
    retreats: Tensor  # (B,) behind the goal: where the hand goes first, before it moves in
    approach: Tensor  # (B,) frames from there to the goal
    detour: Tensor  # (B, 3) m, off the straight way


def follow(plan: Plan, object_pose: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
    """The hands of plans (B, ...) so many frames (B,) after their reach began, with objects (B, 7): palm, joints."""
    goal = pose_multiply(object_pose, plan.goal)
    wait = behind(goal, plan.retreats)
    reach = minimum_jerk(elapsed / plan.frames)[:, None]
    close_in = minimum_jerk((elapsed - plan.frames) / plan.approach)[:, None]
    closing = (2.0 * close_in - 1.0).clamp_min(0.0)  # over the last retreat
    opened = OPEN_HAND.to(goal).expand_as(plan.start_joints)
    pose, joints = advance(plan.start, plan.start_joints, wait, opened, reach)
    pose[:, :3] += 16 * (reach * (1 - reach)).square() * plan.detour
    parts = torch.cat((close_in, close_in, closing), dim=-1)
    return advance(pose, joints, goal, plan.goal_joints, parts)


class ScriptedExpert:
    """See the module. Works with every `obs_mode`, since it does not look at observations."""

    def __init__(self, env: HandoverVectorEnv):
        check_takes(env, "the scripted expert")
        self._task = env.task
        self._dt = 1.0 / env.task.fps
        self._variety: int | None = None

    def varied(self, seed: int) -> ScriptedExpert:
        """The same expert, who takes each trial in a manner of its own, named by the seed and the trial's id."""
        other = copy(self)
        other._variety = seed
        return other

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
        object_next = pose_integrate(scene.object_pose, scene.object_velocity, self._dt)
        pose, joints = follow(plan, object_next, (task.time - plan.begin + 1).double())
        return join_hand_state(pose, joints).float().numpy(), plan

    def _plan(self, fresh: Tensor, old: Plan | None) -> Plan:
        """A plan for the worlds that need one; the others keep theirs."""
        if old is not None and not fresh.any():
            return old
        task, worlds = self._task, fresh.nonzero()[:, 0]
        hand_pose, object_pose = task.scene.hand_pose[worlds], task.scene.object_pose[worlds]
        manner = self._manner(worlds, task.goals_now().pose.shape[1])
        goal, joints = choose_goal(task, worlds, manner.retreats, manner.goal_cost)
        wait = behind(pose_multiply(object_pose, goal), manner.retreats)
        seconds = torch.maximum(
            (wait[:, :3] - hand_pose[:, :3]).norm(dim=-1) / manner.reach_speed,
            quat_angle(wait[:, 3:], hand_pose[:, 3:]) / manner.turn_speed,
        )
        frames = (seconds / self._dt).clamp_min(MIN_FRAMES).round()
        begin = task.time[worlds]
        if self._variety is not None:  # as much as the recording has time for
            length = torch.tensor([task.replay_of(world).num_frames for world in worlds.tolist()])
            left = length - begin - SPARE_FRAMES - manner.approach
            frames = torch.minimum(frames, left.clamp_min(MIN_FRAMES))
            begin = begin + (manner.pause * (left - frames).clamp(0, MAX_PAUSE)).long()
        new = Plan(
            start=hand_pose,
            start_joints=task.scene.hand_joints[worlds],
            goal=goal,
            goal_joints=joints,
            frames=frames,
            begin=begin,
            retreats=manner.retreats,
            approach=manner.approach,
            detour=manner.detour,
        )
        new = replace(new, detour=new.detour + self._way_round(worlds, new))
        if old is None:
            return new
        return Plan(**{key: getattr(old, key).index_put((worlds,), value) for key, value in vars(new).items()})

    def _way_round(self, worlds: Tensor, plan: Plan) -> Tensor:
        """Which of `_DETOURS` (n, 3) keeps the hands of worlds (n,) off the giver on their way behind the goal, at the
        least cost. The giver is where the recording will have it."""
        ways, parts = len(_DETOURS), len(_LOOKED_AT)
        frames = plan.begin[:, None] + (plan.frames[:, None] * _LOOKED_AT).long()  # (n, F)
        object_pose, giver_joints = self._task.recorded(worlds, frames)
        each = Plan(**{key: value.repeat_interleave(ways * parts, 0) for key, value in vars(plan).items()})
        tried = _DETOURS.repeat_interleave(parts, 0).repeat(len(worlds), 1)
        pose, joints = follow(
            replace(each, detour=each.detour + tried),
            object_pose[:, None].expand(-1, ways, -1, -1).flatten(0, 2),
            (each.frames.view(-1, parts) * _LOOKED_AT).flatten(),
        )
        links = forward_kinematics(pose, joints)[..., :3].view(len(worlds), ways, parts, -1, 3)
        crowding = WAY_CLEARANCE - least_distance(links.movedim(2, 1).flatten(0, 1), giver_joints.flatten(0, 1))
        crowding = crowding.view(len(worlds), parts, ways).clamp_min(0).amax(1)
        return _DETOURS[(crowding + _DETOUR_COST * _DETOURS.norm(dim=-1)).argmin(-1)]

    def _manner(self, worlds: Tensor, num_goals: int) -> Manner:
        """How to take the object in each of these worlds (n,)."""
        if self._variety is None:
            return direct_manner(len(worlds), num_goals)
        return varied_manner(self._variety, [str(id) for id in self._task.running_ids[worlds.numpy()]], num_goals)
