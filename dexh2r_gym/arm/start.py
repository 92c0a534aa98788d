"""How the arm stands at the start of an episode: of the ways to hold the palm there, whence it goes best."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.arm.collision import self_clearance
from dexh2r_gym.arm.ik import palm_error, solve
from dexh2r_gym.arm.kinematics import ARM_SPEED, NUM_ARM_JOINTS, arm_frames, palm_jacobian
from dexh2r_gym.arm.motion import MARGIN, move
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply, quat_slerp

MIDDLE = (0.0, 0.0, 1.05)  # m, about where objects are handed over
TURNS = ((0, 0, 0), (0, 0, 0.8), (0, 0, -0.8), (0, 0.8, 0), (0, -0.8, 0), (0.8, 0, 0), (-0.8, 0, 0))  # rad, world
_SEEDS, _SEED_STEPS = 32, 40
_REACHED, _SAME = 1e-3, 1e-2  # m; rad
_TRIAL_FRAMES, _TRIAL_TIME = 6, 1.2  # the way to the middle, s


def start_joints(palm: Tensor) -> Tensor:
    """Joints (6,) rad with the palm at a pose (7,), or as near as the arm comes; always the same.

    Solutions are found from seeds; from each the arm tries to go to the middle of the workspace with several rotations,
    and the one that is held back least is chosen, of equals the one furthest from a singularity.
    """
    palm = palm.double()
    found = solve(_seeds(), palm.expand(_SEEDS, 7), steps=_SEED_STEPS)
    found = found - torch.round(found / (2 * torch.pi)) * 2 * torch.pi  # leaves turns free to both sides
    frames = arm_frames(found)
    missed = (palm_error(frames, palm.expand(_SEEDS, 7)).norm(dim=-1) - _REACHED).clamp_min(0.0)
    missed = missed + 10.0 * (MARGIN - self_clearance(frames)).clamp_min(0.0)
    singular = torch.linalg.svdvals(palm_jacobian(frames))[:, -1]
    if not (missed == 0).any():
        return found[missed.argmin()]
    good = [int(i) for i in (missed == 0).nonzero()]
    good = [i for n, i in enumerate(good) if not any((found[i] - found[j]).abs().amax() < _SAME for j in good[:n])]
    return found[good][(singular[good] - _held_back(found[good], palm)).argmax()]


def _held_back(joints: Tensor, palm: Tensor) -> Tensor:
    """In how many frames of its trial ways an arm with joints (N, 6) and its palm at (7,) could not follow: (N,)."""
    turns = quat_multiply(quat_from_axis_angle(palm.new_tensor(TURNS)), palm[3:].expand(len(TURNS), 4))
    goal = torch.cat((palm.new_tensor(MIDDLE).expand(len(TURNS), 3), turns), dim=-1)
    count = torch.zeros(len(joints), dtype=torch.float64)
    at = joints.repeat_interleave(len(TURNS), dim=0)
    for frame in range(1, _TRIAL_FRAMES + 1):
        t = frame / _TRIAL_FRAMES
        position = palm[:3] + t * (goal[:, :3] - palm[:3])
        rotation = quat_slerp(palm[3:].expand(len(TURNS), 4), goal[:, 3:], t)
        target = torch.cat((position, rotation), dim=-1).repeat(len(joints), 1)
        at, far, _ = move(at, target, ARM_SPEED * (_TRIAL_TIME / _TRIAL_FRAMES))
        count += far.view(len(joints), len(TURNS)).sum(dim=1)
    return count


def _seeds() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (2.0 * torch.rand(_SEEDS, NUM_ARM_JOINTS, generator=random, dtype=torch.float64) - 1.0) * (0.9 * torch.pi)
