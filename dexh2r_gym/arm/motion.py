"""One frame of the arm: towards a palm target, within ranges and speeds, and never into itself."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.arm.collision import self_clearance
from dexh2r_gym.arm.ik import ROTATION_WEIGHT, palm_error, solve
from dexh2r_gym.arm.kinematics import ARM_RANGE, arm_frames

REASONS = ("reach", "joint range", "speed", "self collision")
LIMITED_DISTANCE, LIMITED_ANGLE = 0.005, 0.05  # m, rad: an arm that is further from its target is limited
MARGIN = 0.01  # m, that links keep from each other
_AT_BOUND = 1e-6  # rad; a joint this close to a bound is at it
_NUDGE = 1e-4  # rad, for slopes
_FRACTIONS = (1.0, 0.5, 0.25)  # of a step, tried in turn where all of it would bring links together


def move(before: Tensor, target: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move towards targets as far as can be.

    Args:
        before: (N, 6) rad, the joints. target: (N, 7), of the palm, world. step: (6,) rad, the most a joint may move.

    Returns:
        the joints (N, 6); whether the palm is further than `LIMITED_DISTANCE` or `LIMITED_ANGLE` from its target, (N,)
        bool; and which of `REASONS` holds it back there, (N,) long.
    """
    lower, upper = torch.maximum(before - step, -ARM_RANGE), torch.minimum(before + step, ARM_RANGE)
    joints = solve(before, target, lower, upper)
    stopped = self_clearance(arm_frames(joints)) < MARGIN
    w = stopped.nonzero().squeeze(1)
    if len(w) > 0:
        joints[w], stopped[w] = _short_of_itself(before[w], joints[w], lower[w], upper[w])
    error = palm_error(arm_frames(joints), target)
    far = error[:, :3].norm(dim=-1) > LIMITED_DISTANCE
    far |= error[:, 3:].norm(dim=-1) > ROTATION_WEIGHT * LIMITED_ANGLE
    at_end = (joints.abs() > ARM_RANGE - _AT_BOUND).any(dim=-1)
    fast = ((joints - before).abs() > step - _AT_BOUND).any(dim=-1)
    reason = torch.where(stopped, 3, torch.where(at_end, 1, torch.where(fast, 2, 0)))
    return joints, far, reason


def _short_of_itself(before: Tensor, wanted: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The first of these that keeps links apart, or leads out of where they are too close; was it changed, (N,) bool.

    The steps (N, 6) as wanted; the same sliding along; half and a quarter of both; none.
    """
    stood = self_clearance(arm_frames(before))
    aside = torch.minimum(torch.maximum(before + _along(before, wanted - before, stood), lower), upper)
    joints, changed = before.clone(), torch.ones(len(before), dtype=torch.bool)
    open_ = torch.ones(len(before), dtype=torch.bool)
    for fraction in _FRACTIONS:
        for way in (wanted, aside):
            tried = before + fraction * (way - before)
            clearance = self_clearance(arm_frames(tried))
            fine = open_ & ((clearance >= MARGIN) | (clearance > stood))
            joints[fine], changed[fine] = tried[fine], fraction < 1.0 or way is aside
            open_ &= ~fine
    return joints, changed


def _along(joints: Tensor, step: Tensor, clearance: Tensor) -> Tensor:
    """Steps (N, 6) changed as little as keeps links 1.5 times `MARGIN` apart, to first order: they slide along."""
    nudged = joints[:, None] + _NUDGE * torch.eye(joints.shape[1]).to(joints)  # (N, 6, 6)
    slope = (self_clearance(arm_frames(nudged.flatten(0, 1))).view(-1, 6) - clearance[:, None]) / _NUDGE
    rises, steep = (slope * step).sum(-1), (slope * slope).sum(-1).clamp_min(1e-9)
    missing = (1.5 * MARGIN - clearance - rises).clamp_min(0.0)
    return step + (missing / steep)[:, None] * slope
