"""The arm that carries the hand in B worlds: it takes the palm where it can, and says why where it cannot.

What is modelled is the arm's kinematics: reach, joint ranges, joint speeds, collisions with itself and its column. Its
dynamics are not: within these limits it follows at once, and contact does not push it off.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from dexh2r_gym.arm.collision import self_clearance
from dexh2r_gym.arm.ik import ROTATION_WEIGHT, palm_error, solve
from dexh2r_gym.arm.kinematics import ARM_RANGE, ARM_SPEED, NUM_ARM_JOINTS, arm_frames, palm_jacobian, palm_pose

REASONS = ("reach", "joint range", "speed", "self collision")
LIMITED_DISTANCE, LIMITED_ANGLE = 0.005, 0.05  # m, rad: an arm that is further from its target is limited
MARGIN = 0.01  # m, that links keep from each other
_TOUCHES = 1e-6  # rad; a joint this close to a bound is at it
_FRACTIONS = (0.5, 0.25, 0.0)  # of a step that would bring links together
_SEEDS, _SEED_STEPS = 32, 40
_REMEMBERED = 8192  # starts


class ArmRobot:
    """Follows palm targets frame by frame.

    Attributes:
        joints: (B, 6) rad. frames, limited: (B,) how many frames the episode has had, and in how many of them the arm
        was limited; reasons: (B, 4) how many of those for which of `REASONS`.
    """

    def __init__(self, num_worlds: int, dt: float) -> None:
        self._step = ARM_SPEED * dt  # (6,) rad a frame
        self.joints = torch.zeros(num_worlds, NUM_ARM_JOINTS, dtype=torch.float64)
        self.frames = torch.zeros(num_worlds, dtype=torch.long)
        self.limited = torch.zeros(num_worlds, dtype=torch.long)
        self.reasons = torch.zeros(num_worlds, len(REASONS), dtype=torch.long)
        self._starts: OrderedDict[bytes, Tensor] = OrderedDict()

    def begin(self, worlds: Tensor, palm: Tensor) -> Tensor:
        """Stand with the palm at these poses (n, 7), or as near as the arm can: (n, 7)."""
        for world, pose in zip(worlds.tolist(), palm.double(), strict=True):
            key = pose.numpy().tobytes()
            if key not in self._starts:
                self._starts[key] = start_joints(pose)
                if len(self._starts) > _REMEMBERED:
                    self._starts.popitem(last=False)
            self.joints[world] = self._starts[key]
        self.frames[worlds], self.limited[worlds], self.reasons[worlds] = 0, 0, 0
        return palm_pose(arm_frames(self.joints[worlds]))

    def follow(self, target: Tensor, on: Tensor) -> Tensor:
        """The palm's pose (B, 7) after a frame in which the worlds that are on (B,) bool move towards target (B, 7)."""
        w = on.nonzero().squeeze(1)
        before = self.joints[w]
        joints, stopped = self._move(before, target[w])
        frames = arm_frames(joints)
        error = palm_error(frames, target[w])
        far = error[:, :3].norm(dim=-1) > LIMITED_DISTANCE
        far |= error[:, 3:].norm(dim=-1) > ROTATION_WEIGHT * LIMITED_ANGLE
        fast = ((joints - before).abs() > self._step - _TOUCHES).any(dim=-1)
        at_end = (joints.abs() > ARM_RANGE - _TOUCHES).any(dim=-1)
        reason = torch.where(stopped, 3, torch.where(at_end, 1, torch.where(fast, 2, 0)))
        self.joints = self.joints.index_put((w,), joints)
        self.frames[w] += 1
        self.limited[w] += far
        self.reasons[w[far], reason[far]] += 1
        out = target.clone()
        out[w] = palm_pose(frames)
        return out

    def summary(self, worlds: Tensor) -> tuple[Tensor, list[str]]:
        """Of worlds (n,): the part of frames in which the arm was limited, (n,), and most often by what, or ''."""
        part = self.limited[worlds].double() / self.frames[worlds].clamp_min(1)
        most = self.reasons[worlds].argmax(dim=-1).tolist()
        return part, [REASONS[i] if p > 0 else "" for i, p in zip(most, part.tolist(), strict=True)]

    def _move(self, before: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (n, 6) after a frame, and whether a collision with itself stopped the arm, (n,) bool."""
        lower = torch.maximum(before - self._step, -ARM_RANGE)
        upper = torch.minimum(before + self._step, ARM_RANGE)
        joints = solve(before, target, lower, upper)
        clearance = self_clearance(arm_frames(joints))
        stopped = clearance < MARGIN
        w = stopped.nonzero().squeeze(1)
        if len(w) == 0:
            return joints, stopped
        step, chosen, undecided = joints[w] - before[w], before[w].clone(), torch.ones(len(w), dtype=torch.bool)
        stood = self_clearance(arm_frames(before[w]))
        for fraction in (1.0, *_FRACTIONS):
            tried = before[w] + fraction * step
            at = self_clearance(arm_frames(tried))
            fine = undecided & ((at >= MARGIN) | ((at > stood) & (fraction > 0)))  # out of a collision, always
            chosen[fine] = tried[fine]
            undecided &= ~fine
            stopped[w[fine]] = fraction < 1.0
        joints[w] = chosen
        return joints, stopped


def start_joints(palm: Tensor) -> Tensor:
    """Joints (6,) rad with the palm at a pose (7,), or as near as can be, found from several seeds; always the same.

    Of those that get there and keep clear of themselves, the one that is furthest from a singularity.
    """
    random = torch.Generator().manual_seed(0)
    seeds = (2.0 * torch.rand(_SEEDS, NUM_ARM_JOINTS, generator=random, dtype=torch.float64) - 1.0) * (0.9 * torch.pi)
    joints = solve(seeds, palm.expand(_SEEDS, 7), steps=_SEED_STEPS)
    turns = torch.round(joints / (2 * torch.pi)) * 2 * torch.pi
    joints = joints - turns  # as many turns as there are stay free to both sides
    frames = arm_frames(joints)
    error = palm_error(frames, palm.expand(_SEEDS, 7)).norm(dim=-1)
    singular = torch.linalg.svdvals(palm_jacobian(frames))[:, -1]
    missed = 10.0 * (error - 1e-3).clamp_min(0.0) + 100.0 * (MARGIN - self_clearance(frames)).clamp_min(0.0)
    return joints[(missed - torch.where(missed > 0, 0.0, singular)).argmin()]
