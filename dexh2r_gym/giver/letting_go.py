"""How the giver lets go: the fingers open, and the hand draws back along the way that is clear of object and robot."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dexh2r_gym.giver.hand import PARENTS, GiverHand
from dexh2r_gym.rotations import (
    pose_apply,
    quat_conjugate,
    quat_multiply,
    quat_rotate,
    quat_to_axis_angle,
)

OPEN_TIME, WITHDRAW_TIME = 0.3, 0.7  # s; the hand sets off when the fingers are half open
WITHDRAW_DISTANCE = 0.20  # m
_OPENED = 0.85  # of the way from the fingers' grasp to the flat hand
_LOOKED_AT = 6  # moments of a way at which it is judged
_CLEAR = 0.02  # m, a clearance beyond which more is no better
_DETOUR = 0.004  # m of clearance that a way must gain for each right angle that it leaves the best one by


def let_go(
    hand: GiverHand, bones: Tensor, dt: float, object_distance: Callable[[Tensor], Tensor], robot: Tensor
) -> Tensor:
    """The giver's bones in each frame after letting go, until the hand has come to rest.

    The fingers open in `OPEN_TIME`; the hand moves `WITHDRAW_DISTANCE` in `WITHDRAW_TIME`, starting and ending at rest.
    Of 26 directions that is taken which keeps the hand clearest of object and robot, as they are now, the back of the
    hand and the forearm first.

    Args:
        hand: whose hand it is. bones: (16, 7) where it lets go, world. dt: seconds a frame.
        object_distance: signed distance of points (N, 3), world, to the object, metres (N,).
        robot: (P, 3) points on the robot's hand, world.

    Returns:
        (K, 16, 7) float64, world; the first frame is one frame after letting go.
    """
    time = dt * torch.arange(1, round((OPEN_TIME / 2 + WITHDRAW_TIME) / dt) + 1, dtype=torch.float64)
    opening = _smooth(time / OPEN_TIME)
    leaving = WITHDRAW_DISTANCE * _smooth((time - OPEN_TIME / 2) / WITHDRAW_TIME)
    opened = _opened(hand, bones.double(), _OPENED * opening)  # (K, 16, 7), not yet moving
    ways = _directions(hand, bones.double())  # (W, 3), the best first
    looked = torch.linspace(0, len(time) - 1, _LOOKED_AT + 1).round().long()[1:]
    bone, p0, p1, radius = hand.capsules()
    ends = torch.stack((p0, (p0 + p1) / 2, p1))  # (3, C, 3)
    skin = pose_apply(opened[looked][:, None, bone], ends[None])  # (L, 3, C, 3)
    moved = skin + (leaving[looked, None] * ways[:, None])[:, :, None, None]  # (W, L, 3, C, 3)
    room = torch.minimum(
        object_distance(moved.reshape(-1, 3)).view(moved.shape[:-1]),
        torch.cdist(moved.reshape(-1, 3), robot.double()).amin(-1).view(moved.shape[:-1]),
    )
    clear = (room - radius).clamp_max(_CLEAR).flatten(1).amin(-1)
    turned = torch.acos((ways @ ways[0]).clamp(-1, 1)) / (torch.pi / 2)
    best = ways[(clear - _DETOUR * turned).argmax()]
    opened[..., :3] += leaving[:, None, None] * best
    return opened


def _smooth(part: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, at rest at both."""
    part = part.clamp(0, 1)
    return part**3 * (10 - 15 * part + 6 * part**2)


def _opened(hand: GiverHand, bones: Tensor, part: Tensor) -> Tensor:
    """The hand (16, 7) with its fingers part (K,) of the way to flat. -> (K, 16, 7)"""
    turns = bones[:, 3:]
    local = quat_to_axis_angle(quat_multiply(quat_conjugate(turns[list(PARENTS)]), turns))[1:].flatten()  # (45,)
    return hand.bone_poses(hand.mano(bones[0, :3], bones[0, 3:], (1 - part)[:, None] * local))


def _directions(hand: GiverHand, bones: Tensor) -> Tensor:
    """Ways to draw back (26, 3), unit, world: along the back of the hand and towards the forearm first."""
    side = 1.0 if hand.side == "right" else -1.0
    steps = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    steps = steps[steps.any(-1)]
    steps = steps / steps.norm(dim=-1, keepdim=True)
    home = torch.tensor([side, 1.0, 0.0], dtype=torch.float64)  # rest frame: forearm along x, back of the hand +y
    order = (steps @ home).argsort(descending=True, stable=True)
    return quat_rotate(bones[0, 3:].expand(len(steps), 4), steps[order])
