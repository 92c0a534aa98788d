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
    """Joints (n, 6) rad with the palms at poses (n, 7), or as near as the arm comes; always the same for a pose.

    Solutions are found from seeds; from each the arm tries to go to the middle of the workspace with several rotations,
    and the one that is held back least is chosen, of equals the one furthest from a singularity.
    """
    palm = palm.double()
    target = palm.repeat_interleave(_SEEDS, dim=0)
    found = solve(_seeds().repeat(len(palm), 1), target, steps=_SEED_STEPS)
    found = found - torch.round(found / (2 * torch.pi)) * 2 * torch.pi  # leaves turns free to both sides
    frames = arm_frames(found)
    missed = (palm_error(frames, target).norm(dim=-1) - _REACHED).clamp_min(0.0)
    missed = missed + 10.0 * (MARGIN - self_clearance(frames)).clamp_min(0.0)
    found, missed = found.view(-1, _SEEDS, NUM_ARM_JOINTS), missed.view(-1, _SEEDS)
    tried = [_different(joints, bad) for joints, bad in zip(found, missed, strict=True)]
    candidates = torch.cat([joints[rows] for joints, rows in zip(found, tried, strict=True)])
    counts = torch.tensor([len(rows) for rows in tried])
    singular = torch.linalg.svdvals(palm_jacobian(arm_frames(candidates)))[:, -1]
    good = singular - _held_back(candidates, palm.repeat_interleave(counts, dim=0))
    parts = zip(candidates.split(counts.tolist()), good.split(counts.tolist()), strict=True)
    return torch.stack([joints[score.argmax()] for joints, score in parts])


def _different(joints: Tensor, missed: Tensor) -> list[int]:
    """Which of solutions (S, 6) to try: those that miss nothing, each once; the one that misses least if all do."""
    good = [int(i) for i in (missed == 0).nonzero()] or [int(missed.argmin())]
    return [i for n, i in enumerate(good) if not any((joints[i] - joints[j]).abs().amax() < _SAME for j in good[:n])]


def _held_back(joints: Tensor, palm: Tensor) -> Tensor:
    """In how many frames of its trial ways an arm with joints (N, 6) and its palm at (N, 7) could not follow: (N,)."""
    n, ways = len(joints), len(TURNS)
    turns = quat_from_axis_angle(palm.new_tensor(TURNS)).repeat(n, 1)
    start, at = palm.repeat_interleave(ways, dim=0), joints.repeat_interleave(ways, dim=0)
    position, rotation = palm.new_tensor(MIDDLE), quat_multiply(turns, start[:, 3:])
    count = torch.zeros(n, dtype=torch.float64)
    for frame in range(1, _TRIAL_FRAMES + 1):
        t = frame / _TRIAL_FRAMES
        between = start[:, :3] + t * (position - start[:, :3])
        target = torch.cat((between, quat_slerp(start[:, 3:], rotation, t)), dim=-1)
        at, far, _ = move(at, target, ARM_SPEED * (_TRIAL_TIME / _TRIAL_FRAMES))
        count += far.view(n, ways).sum(dim=1)
    return count


def _seeds() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (2.0 * torch.rand(_SEEDS, NUM_ARM_JOINTS, generator=random, dtype=torch.float64) - 1.0) * (0.9 * torch.pi)
