"""A privileged expert without a plan: it picks a goal grasp once, then goes there by `policies.servo`, frame by frame.

What it does follows from where hand and goal are and from nothing else, so it can go on from any state that another
agent got into. Its demonstrations are what the approach policies learn from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.rotations import pose_integrate, pose_multiply
from dexh2r_gym.types import join_hand_state
from policies.agent import check_takes, fresh_worlds
from policies.goal_choice import choose_goal
from policies.servo import servo_step

_RETREATS = 2.0  # behind the goal, by which it is chosen


class ReactiveExpert:
    """See the module. Works with every `obs_mode`, since it does not look at observations."""

    def __init__(self, env: HandoverVectorEnv):
        check_takes(env, "the reactive expert")
        self._task = env.task
        self._dt = 1.0 / env.task.fps

    def predict(
        self,
        observation: Any,
        state: tuple[Tensor, Tensor] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[Tensor, Tensor]]:
        """See `policies.Agent`; `deterministic` changes nothing. The state is the goal: palm in the object frame (B, 7)
        and joints (B, 22)."""
        scene = self._task.scene
        fresh = torch.from_numpy(fresh_worlds(len(self._task.time), state, episode_start)).nonzero()[:, 0]
        if state is None:
            state = scene.hand_pose, scene.hand_joints
        if len(fresh):
            retreats = torch.full((len(fresh),), _RETREATS, dtype=torch.float64)
            chosen = choose_goal(self._task, fresh, retreats)
            state = state[0].index_put((fresh,), chosen[0]), state[1].index_put((fresh,), chosen[1])
        ahead = pose_integrate(scene.object_pose, scene.object_velocity, self._dt)
        goal, following = (
            join_hand_state(pose_multiply(pose, state[0]), state[1]) for pose in (scene.object_pose, ahead)
        )
        hand = join_hand_state(scene.hand_pose, scene.hand_joints)
        return servo_step(hand, goal, following, self._dt).float().numpy(), state
