"""What the reactive expert answers from any hand state in any frame of the trials that policies learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dexh2r_gym.alignment import nearest_goal
from dexh2r_gym.replay import Replay
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_from_axis_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.servo import servo_plan, servo_step

DISTURBANCE = (0.004, 0.03, 0.02)  # m, rad, rad a frame: deviations of what pushes palm position, rotation and joints
_LASTS = 0.9  # what is left of a push in the next frame
_DISTURBED = 0.75  # part of the ways


class ReactiveAnswers:
    """Of N trials, whose frames are rows, one trial after the other.

    The goal is the grasp that the trial's demonstration ends in, for policies that are told it; for those that are not,
    the nearest one that is free in this frame, as the environment measures it (section 4.1): so the answer follows from
    where hand and object are, and there is one.
    """

    def __init__(self, replays: Sequence[Replay], *, told: bool, dt: float) -> None:
        """dt: seconds between frames."""
        self._told, self._dt = told, dt
        counts = torch.tensor([replay.num_frames for replay in replays])
        self._first = counts.cumsum(0) - counts
        self._trial = torch.arange(len(replays)).repeat_interleave(counts)
        self._last = (self._first + counts - 1)[self._trial]
        self._object = torch.cat([replay.object_pose for replay in replays]).float()
        self._start = torch.stack([replay.hand_start for replay in replays]).float()
        grasps = [_last_grasp(replay) if told else (replay.goal_pose, replay.goal_joints) for replay in replays]
        self._pose, self._joints = (_padded([grasp[i].float() for grasp in grasps]) for i in (0, 1))  # (N, G, ...)
        if not told:
            most = self._pose.shape[1]
            self._free = torch.zeros(len(self._trial), most, dtype=torch.bool)
            for first, replay in zip(self._first.tolist(), replays, strict=True):
                self._free[first : first + replay.num_frames, : replay.goal_free.shape[1]] = replay.goal_free

    def goals(self, hand: Tensor, row: Tensor, rows: Tensor) -> Tensor:
        """The goal of hands (B, 28) in frames row (B,), as hand states (B, T, 28) in frames rows (B, T)."""
        trial = self._trial[row]
        index = torch.zeros_like(trial)
        if not self._told:
            pose, _ = split_hand_state(hand)
            here = pose_multiply(pose_inverse(self._object[row]), pose)
            index, _ = nearest_goal(here, self._pose[trial], self._free[row])
        grasp, joints = self._pose[trial, index], self._joints[trial, index]
        carried = pose_multiply(self._object[rows], grasp[:, None])
        return join_hand_state(carried, joints[:, None].expand(-1, rows.shape[1], -1))

    def left(self, hand: Tensor, row: Tensor) -> Tensor:
        """How far the palms of hands (B, 28) in frames row (B,) are from their goals: (B,) metres."""
        return (self.goals(hand, row, row[:, None])[:, 0] - hand)[:, :3].norm(dim=-1)

    def plans(self, hand: Tensor, row: Tensor, ahead: int) -> Tensor:
        """How the expert goes on in the next frames, (B, ahead, 28), from hands (B, 28) in frames row (B,)."""
        rows = (row[:, None] + torch.arange(ahead + 1)).minimum(self._last[row, None])
        return servo_plan(hand, self.goals(hand, row, rows), self._dt)

    def ways(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The expert's way in each trial, most of them under disturbances that it mends (DART, Laskey et al., CoRL
        2017): of each row the hand state (R, 28) and how far the goal is (R,), metres."""
        out, left = torch.empty(len(self._trial), 28), torch.empty(len(self._trial))
        hand, trials = self._start, len(self._start)
        sizes = torch.cat([torch.full((n,), s) for n, s in zip((3, 3, 22), DISTURBANCE, strict=True)])
        some = (torch.rand(trials, 1, generator=generator) < _DISTURBED) * torch.rand(trials, 1, generator=generator)
        push = torch.zeros(trials, 28)
        for t in range(int((self._last - self._first[self._trial]).max()) + 1):
            row = (self._first + t).minimum(self._last[self._first])
            out[row] = hand
            following = (row + 1).minimum(self._last[row])
            goals = self.goals(hand, row, torch.stack((row, following), dim=1))
            left[row] = (goals[:, 0] - hand)[:, :3].norm(dim=-1)
            push = _LASTS * push + (1 - _LASTS**2) ** 0.5 * sizes * some * torch.randn(trials, 28, generator=generator)
            hand = moved(servo_step(hand, goals[:, 0], goals[:, 1], self._dt), push)
        return out, left


def moved(states: Tensor, by: Tensor) -> Tensor:
    """Hand states (..., 28) moved by so much: metres in the world, radians of axis-angle in the palm, radians."""
    pose, joints = split_hand_state(states)
    turn = torch.cat((torch.zeros_like(by[..., :3]), quat_from_axis_angle(by[..., 3:6])), dim=-1)
    turned = pose_multiply(pose, turn)
    return join_hand_state(torch.cat((pose[..., :3] + by[..., :3], turned[..., 3:]), dim=-1), joints + by[..., 6:])


def _last_grasp(replay: Replay) -> tuple[Tensor, Tensor]:
    """The grasp that a demonstration ends in: palm (1, 7) in the object frame and joints (1, 22)."""
    assert replay.demo is not None
    pose, joints = split_hand_state(replay.demo[-1:])
    return pose_multiply(pose_inverse(replay.object_pose[-1:]), pose), joints


def _padded(goals: Sequence[Tensor]) -> Tensor:
    """Tensors (G_i, ...) as one (N, G, ...), the first repeated."""
    most = max(len(g) for g in goals)
    return torch.stack([torch.cat((g, g[:1].expand(most - len(g), -1))) for g in goals])
