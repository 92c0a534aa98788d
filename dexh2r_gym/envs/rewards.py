"""Reward terms as pure batched functions, and the two rewards made of them."""

from __future__ import annotations

import torch
from torch import Tensor

REWARD_MODES = ("dense", "sparse")
PROGRESS_WEIGHT = 5.0  # per metre of d gained
REACHED_BONUS = 10.0
DEPTH_WEIGHT = 20.0  # per metre of penetration and frame
FORCE_WEIGHT = 0.002  # per newton on the giver and frame
TIME_COST = 0.01  # per frame
HELD_BONUS = 10.0


def progress(d_before: Tensor, d: Tensor) -> Tensor:
    """Metres gained towards the nearest goal, (B,); 0 where either distance is not finite (no goal free)."""
    gained = d_before - d
    return torch.where(torch.isfinite(gained), gained, 0.0)


def dense(d_before: Tensor, d: Tensor, reached: Tensor, depth: Tensor, giver_force: Tensor) -> Tensor:
    """Progress and a bonus, less what is unsafe: depth (B,) metres into the object, force (B,) newtons on the giver."""
    gain = PROGRESS_WEIGHT * progress(d_before, d).clamp(-0.1, 0.1) + REACHED_BONUS * reached
    return gain - DEPTH_WEIGHT * depth - FORCE_WEIGHT * giver_force - TIME_COST


def dense_handover(held: Tensor, giver_force: Tensor) -> Tensor:
    """Once the grasp is reached: a bonus where the object has proved to be held (B,), less the force on the giver."""
    return HELD_BONUS * held - FORCE_WEIGHT * giver_force


def sparse(done: Tensor) -> Tensor:
    """1 in the frame in which the goal pose is reached, or with ending "hold" the object has proved to be held, else 0.
    (B,)."""
    return done.to(torch.float64)
