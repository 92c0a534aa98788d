"""Goal pose alignment (section 4.3) of B worlds as it goes on: whether it is under way, to which goal, and how next.

The steps themselves, and which goal counts as nearest, are in `dexh2r_gym.alignment`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.alignment import (
    ALIGNMENT_DEPTH,
    CLOSED_ANGLE,
    REACHED_DISTANCE,
    SpeedLimits,
    alignment_candidates,
    nearest_goal,
    retreat,
)
from dexh2r_gym.metrics import hand_object_depth
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.rotations import pose_integrate, pose_multiply
from dexh2r_gym.types import SceneState, join_hand_state


class Aligner:
    """Brings hands to their goals, and gives up goals that cannot be had.

    Attributes:
        under_way: (B,) bool, alignment has begun. goal: (B,) the nearest of the goals that are free and not given up.
    """

    def __init__(self, num_worlds: int, dt: float, limits: SpeedLimits | None) -> None:
        self._dt, self._limits = dt, limits
        self.under_way = torch.zeros(num_worlds, dtype=torch.bool)
        self.goal = torch.zeros(num_worlds, dtype=torch.long)
        self._retreating = torch.zeros(num_worlds, dtype=torch.bool)
        self._stalled = torch.zeros(num_worlds, dtype=torch.long)  # frames that the hand has stood at its goal
        self._given_up = torch.zeros(num_worlds, MAX_GOALS, dtype=torch.bool)

    def forget(self, worlds: Tensor) -> None:
        """New episodes in worlds (n,)."""
        self.under_way[worlds], self._retreating[worlds] = False, False
        self._stalled[worlds], self._given_up[worlds] = 0, False

    def begin(self, worlds: Tensor) -> None:
        """Alignment begins in worlds (n,)."""
        self.under_way[worlds] = True

    def look(self, worlds: Tensor, hand_pose: Tensor, goals: Tensor, free: Tensor) -> Tensor:
        """Which goal is the nearest now in worlds (n,), and how far away it is: d (n,) metres, inf where none is left.

        hand_pose: (n, 7) palm and goals: (n, G, 7), object frame. free: (n, G) bool, clear of the giver's hand.
        """
        free = free & ~self._given_up[worlds, : free.shape[1]]
        goal, d = nearest_goal(hand_pose, goals, free)
        self.goal = self.goal.index_put((worlds,), goal)  # a new tensor: what was handed out stays as it was
        return d

    def reached(self, worlds: Tensor, d: Tensor, told_joints: Tensor, goal_joints: Tensor) -> Tensor:
        """Whether alignment has brought the hands of worlds (n,) to their goals, (n,) bool: the palm is within 1 cm,
        d (n,), and the fingers have been told (n, 22) to close as the goal's (n, 22)."""
        open_by = (goal_joints - told_joints).abs().amax(dim=-1)
        return (d < REACHED_DISTANCE) & self.under_way[worlds] & (open_by < CLOSED_ANGLE)

    def command(
        self,
        worlds: Tensor,
        told: tuple[Tensor, Tensor],
        goal: tuple[Tensor, Tensor],
        scene: SceneState,
        depth: Tensor,
        objects: ObjectBatch,
        index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the hands of worlds (n,) are told next: palm (n, 7), world, and joints (n, 22), of the candidates the
        first that passes the collision check.

        The object is expected where it would go next, "assuming motion is linear in a short time" (section 4.3).

        Args:
            told: palm (n, 7), world, and joints (n, 22) that they were told last.
            goal: palm (n, 7), object frame, and joints (n, 22), those of `goal`.
            scene: of all B worlds. depth: (n,) metres, hand in object now.
            index: (n,) which of `objects` each world has.
        """
        w, (pose, joints), (goal_pose, goal_joints) = worlds, told, goal
        ahead = pose_integrate(scene.object_pose[w], scene.object_velocity[w], self._dt)
        goal_pose = pose_multiply(ahead, goal_pose)
        candidates = alignment_candidates(pose, joints, goal_pose, goal_joints, self._limits, self._dt)
        limit = depth.clamp_min(ALIGNMENT_DEPTH)
        choice = torch.full_like(w, len(candidates) - 1)  # which leads away from the object and needs no check
        open_ = torch.arange(len(w))  # worlds that have found no clear step yet
        for number, candidate in enumerate(candidates[:-1]):
            state = join_hand_state(*candidate)[open_]
            clear = hand_object_depth(state, ahead[open_], index[open_], objects, exact=False) <= limit[open_]
            choice[open_[clear]], open_ = number, open_[~clear]
        blocked = choice == len(candidates) - 1
        choice[self._retreat(w, blocked, told, (goal_pose, goal_joints))] = len(candidates) - 1
        rows = torch.arange(len(w))
        poses, closings = (torch.stack(parts) for parts in zip(*candidates, strict=True))
        return poses[choice, rows], closings[choice, rows]

    def _retreat(self, w: Tensor, blocked: Tensor, told: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor]) -> Tensor:
        """Which hands of worlds w (n,) go back behind their goals, (n,) bool: those that are blocked (n,) bool, until
        they are there. told and goal: palms (n, 7), world, and joints (n, 22).

        A goal that is blocked even from behind it, or held off by contact once there, is given up for this episode.
        """
        retreating, stalled, give_up = retreat(told, goal, blocked, self._retreating[w], self._stalled[w])
        self._given_up[w[give_up], self.goal[w[give_up]]] = True
        self._retreating[w], self._stalled[w] = retreating, stalled
        return retreating
