"""How far the arm's links are from each other, from the object and from the giver's hand."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dexh2r_gym.arm.kinematics import ARM_CAPSULES, NUM_OWN_CAPSULES, ArmFrames, arm_segments
from dexh2r_gym.grasps.collision import segment_distance

# Links next to each other touch where they are joined; the shoulder's housing is wider than the upper arm is away.
_JOINED = frozenset({(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 3)})


@cache
def _pairs() -> tuple[list[int], list[int]]:
    """Capsules that may meet."""
    links = [capsule.link for capsule in ARM_CAPSULES]
    pairs = [(i, j) for j in range(len(links)) for i in range(j) if links[i] != links[j]]
    pairs = [(i, j) for i, j in pairs if (links[i], links[j]) not in _JOINED]
    return [i for i, _ in pairs], [j for _, j in pairs]


@cache
def _radii() -> Tensor:
    return torch.tensor([capsule.radius for capsule in ARM_CAPSULES], dtype=torch.float64)


def self_clearance(frames: ArmFrames) -> Tensor:
    """Least distance between two links of each arm that are not joined, m, negative where they meet: (N,)."""
    (p0, p1), (a, b), radius = arm_segments(frames), _pairs(), _radii()
    between = segment_distance(p0[:, a], p1[:, a], p0[:, b], p1[:, b]) - radius[a] - radius[b]
    return between.amin(dim=-1)


def capsule_clearance(frames: ArmFrames, q0: Tensor, q1: Tensor, radius: Tensor) -> Tensor:
    """Least distance of each arm, its hand left out, to capsules q0 q1 (N, C, 3) of radius (N, C), world, m: (N,)."""
    p0, p1 = (ends[:, :-NUM_OWN_CAPSULES, None] for ends in arm_segments(frames))
    own = _radii()[:-NUM_OWN_CAPSULES, None]
    return (segment_distance(p0, p1, q0[:, None], q1[:, None]) - own - radius[:, None]).amin(dim=(-2, -1))
