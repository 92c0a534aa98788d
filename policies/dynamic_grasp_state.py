"""What the pipeline agent remembers of its worlds, and what it makes of how the hand gets on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dexh2r_gym.envs.own_grasp import STILL_ANGLE, STILL_DISTANCE
from dexh2r_gym.grasps.pool import difference_between
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.goal_proposals import SeenGoals
from policies.tracking import Track, start_track

_HELD_FRAMES, _NEARER = 8, 0.015  # a hand that comes no nearer by so many m in these is held up
_PUSHED = (0.005, 0.12)  # m of the palm, rad of a joint from where it was told to be: it touches something
_ALIKE = 0.8  # goals that differ by less are given up together, see `grasps.pool.difference`


@dataclass(frozen=True)
class DynamicGraspState:
    """What the agent remembers of B worlds."""

    begun: Tensor  # (B,) bool, the object was seen, so there are goals
    track: Track
    goals: SeenGoals  # in the frame of the track's model
    goal: Tensor  # (B,) long, the goal that the hand goes for
    undecided: Tensor  # (B,) bool, it has not been chosen yet
    given_up: Tensor  # (B, G) bool, goals that did not prove good
    aligning: Tensor  # (B,) bool
    retreating: Tensor  # (B,) bool
    stalled: Tensor  # (B,) long, frames that the hand has stood at its goal
    rest: Tensor  # (B, 28) hand state in the frame of the track's model, from which it has not moved since
    rested: Tensor  # (B,) long, so many frames
    nearest: Tensor  # (B,) m, how near it has come to it on the way
    stuck: Tensor  # (B,) long, frames since it came nearer
    lagged: Tensor  # (B,) long, frames that the hand has not been where it was told to be, in alignment
    tries: Tensor  # (B,) long, times that the way to the goal was blocked
    command: Tensor  # (B, 28) hand state last told
    giver: Tensor  # (B, 16, 3) m, world
    approach: Any

    @property
    def fallback(self) -> Tensor:
        """(B,) long, of `dexh2r_gym.grasps.filters.Fallback`: what is wrong with the goals of each world."""
        return self.goals.fallback


def nothing_known(cloud: Tensor, hand: Tensor, giver: Tensor, num_goals: int) -> DynamicGraspState:
    """The state before the first look: clouds (B, P, 3), hand states (B, 28), giver (B, 16, 3)."""
    worlds, no = len(hand), torch.zeros(len(hand), dtype=torch.bool)
    pose, joints = split_hand_state(hand)
    every = torch.ones(worlds, num_goals, dtype=torch.bool)
    pose, joints = (x[:, None].expand(-1, num_goals, -1) for x in (pose, joints))
    goals = SeenGoals(pose, joints, every, torch.zeros(worlds, dtype=torch.long))
    none = torch.zeros(worlds, dtype=torch.long)
    frames = dict.fromkeys(("stalled", "rested", "stuck", "lagged", "tries"), none)
    flags = dict.fromkeys(("begun", "aligning", "retreating"), no)
    return DynamicGraspState(
        **frames, **flags, track=start_track(cloud), goals=goals, goal=none, undecided=~no, given_up=~every,
        rest=hand, nearest=none.float(), command=hand, giver=giver, approach=None,
    )  # fmt: skip


def notice_held_up(state: DynamicGraspState, d: Tensor, hand: Tensor) -> tuple[Tensor, DynamicGraspState]:
    """Hands (B, 28) that are held up on the way to their goals, d (B,) metres from them: (B,) bool.

    Something is in the way, or the approach does not know it: they go behind the goal and come in from there. Frames in
    which a hand touches something count for three.
    """
    nearer = d < state.nearest - _NEARER
    off = hand - state.command
    pushed = (off[:, :3].norm(dim=-1) > _PUSHED[0]) | (off[:, 6:].abs().amax(-1) > _PUSHED[1])
    stuck = (state.stuck + torch.where(pushed, 3, 1)) * (~nearer & ~state.aligning & state.begun)
    held_up = stuck > _HELD_FRAMES
    return held_up, replace(
        state,
        nearest=torch.where(nearer, d, state.nearest).masked_fill(held_up, torch.inf),
        stuck=stuck * ~held_up,
        retreating=state.retreating | held_up,
        tries=state.tries + held_up,
    )


def at_rest(state: DynamicGraspState, w: Tensor, hand: Tensor) -> tuple[Tensor, Tensor]:
    """How long hands (n, 28) of worlds w (n,) have stood still beside the object, as where a grasp is tested.

    -> what they rest at, (n, 28) in the frame of the track's model, and (n,) for how many frames
    """
    pose, joints = split_hand_state(hand)
    now = join_hand_state(pose_multiply(pose_inverse(state.track.pose[w]), pose), joints)
    before, joints_before = split_hand_state(state.rest[w])
    pose, joints = split_hand_state(now)
    moved = (pose[:, :3] - before[:, :3]).norm(dim=-1) > STILL_DISTANCE
    moved |= quat_angle(pose[:, 3:], before[:, 3:]) > STILL_ANGLE
    moved |= (joints - joints_before).abs().amax(-1) > STILL_ANGLE
    return torch.where(moved[:, None], now, state.rest[w]), torch.where(moved, 0, state.rested[w] + 1)


def alike(palm_pose: Tensor, index: Tensor) -> Tensor:
    """Which of the goals (n, G, 7) are much like the one of this index (n,), itself included: (n, G) bool."""
    own = palm_pose[torch.arange(len(index)), index]
    return difference_between(palm_pose, own[:, None]) < _ALIKE
