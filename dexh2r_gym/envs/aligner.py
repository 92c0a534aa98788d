"""Goal pose alignment (section 4.3) of B worlds as it goes on: whether it is under way, to which goal, and how next.

The steps themselves, and which goal counts as nearest, are in `dexh2r_gym.alignment`.
"""

from __future__ import annotations

from collections.abc import Callable

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
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.rotations import pose_integrate, pose_multiply
from dexh2r_gym.types import SceneState, join_hand_state
from dexh2r_gym.worlds import among, numbers, put, put_, put_at_, take


class Aligner:
    """Brings hands to their goals, and gives up goals that cannot be had.

    Attributes:
        under_way: (B,) bool, alignment has begun. goal: (B,) the nearest of the goals that are free and not given up.
    """

    def __init__(
        self,
        num_worlds: int,
        dt: float,
        limits: SpeedLimits | None,
        depth: Callable[..., Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        """depth: `dexh2r_gym.depth.hand_object_depth`, or what stands for it."""
        self._dt, self._limits, self._depth = dt, limits, depth
        self.under_way = torch.zeros(num_worlds, dtype=torch.bool, device=device)
        self.goal = torch.zeros(num_worlds, dtype=torch.long, device=device)
        self._retreating = torch.zeros(num_worlds, dtype=torch.bool, device=device)
        self._stalled = torch.zeros(num_worlds, dtype=torch.long, device=device)  # frames that it has stood at its goal
        self._given_up = torch.zeros(num_worlds, MAX_GOALS, dtype=torch.bool, device=device)

    def forget(self, worlds: Tensor) -> None:
        """New episodes in worlds (n,)."""
        self.under_way = put(self.under_way, worlds, False)
        for values in (self._retreating, self._stalled, self._given_up):
            put_(values, worlds, False)

    def begin(self, worlds: Tensor) -> None:
        """Alignment begins in worlds (n,)."""
        self.under_way = put(self.under_way, worlds, True)

    def look(self, worlds: Tensor, hand_pose: Tensor, goals: Tensor, free: Tensor) -> Tensor:
        """Which goal is the nearest now in worlds (n,), and how far away it is: d (n,) metres, inf where none is left.

        hand_pose: (n, 7) palm and goals: (n, G, 7), object frame. free: (n, G) bool, clear of the giver's hand.
        """
        free = free & ~take(self._given_up[:, : free.shape[1]], worlds)
        goal, d = nearest_goal(hand_pose, goals, free)
        self.goal = put(self.goal, worlds, goal)
        return d

    def reached(self, worlds: Tensor, d: Tensor, told_joints: Tensor, goal_joints: Tensor) -> Tensor:
        """Whether alignment has brought the hands of worlds (n,) to their goals, (n,) bool: the palm is within 1 cm,
        d (n,), and the fingers have been told (n, 22) to close as the goal's (n, 22)."""
        open_by = (goal_joints - told_joints).abs().amax(dim=-1)
        return (d < REACHED_DISTANCE) & take(self.under_way, worlds) & (open_by < CLOSED_ANGLE)

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
        ahead = pose_integrate(take(scene.object_pose, w), take(scene.object_velocity, w), self._dt)
        goal_pose = pose_multiply(ahead, goal_pose)
        candidates = alignment_candidates(pose, joints, goal_pose, goal_joints, self._limits, self._dt)
        limit = depth.clamp_min(ALIGNMENT_DEPTH)
        last = len(candidates) - 1  # which leads away from the object and needs no check
        row = torch.arange(len(w), device=w.device)
        choice, open_ = torch.full_like(row, last), w if w.dtype == torch.bool else row  # no clear step found yet
        for number, candidate in enumerate(candidates[:-1]):
            state, at, which = (take(x, open_) for x in (join_hand_state(*candidate), ahead, index))
            clear = self._depth(state, at, which, objects, exact=False) <= take(limit, open_)
            choice, open_ = put(choice, among(open_, clear), number), among(open_, ~clear)
        choice = choice.masked_fill(self._retreat(w, choice == last, told, (goal_pose, goal_joints)), last)
        poses, closings = (torch.stack(parts) for parts in zip(*candidates, strict=True))
        return poses[choice, row], closings[choice, row]

    def _retreat(self, w: Tensor, blocked: Tensor, told: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor]) -> Tensor:
        """Which hands of worlds w (n,) go back behind their goals, (n,) bool: those that are blocked (n,) bool, until
        they are there. told and goal: palms (n, 7), world, and joints (n, 22).

        A goal that is blocked even from behind it, or held off by contact once there, is given up for this episode.
        """
        number = take(self.goal, w)
        retreating, stalled, give_up = retreat(told, goal, blocked, take(self._retreating, w), take(self._stalled, w))
        put_at_(self._given_up, w, number, give_up | self._given_up[numbers(w), number])
        put_(self._stalled, w, stalled)
        put_(self._retreating, w, retreating)
        return retreating
