"""What makes one hand differ from another: where its joints are at rest, its skin and its capsules."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SIDES = ("right", "left")
CHAINS = ("index", "middle", "pinky", "ring", "thumb")  # MANO's order: joints 1-3, 4-6, 7-9, 10-12, 13-15
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
Capsules = tuple[Tensor, Tensor, Tensor, Tensor]  # bone (C,) long, ends p0 and p1 (C, 3) in its frame, radius (C,)


@dataclass(frozen=True)
class HandShape:
    """A hand at rest: metres, wrist joint at the origin, fingers of the right hand along -x, palm facing -y. float64.

    V vertices. Poses leave the skin as it is at rest unless there are `pose_directions`: MANO's corrections, linear in
    the entries of the 15 joints' rotation matrices less the identity.
    """

    joints: Tensor  # (16, 3)
    tips: Tensor  # (5, 3), of CHAINS
    vertices: Tensor  # (V, 3)
    weights: Tensor  # (V, 16), rows sum to 1
    faces: Tensor  # (F, 3) int64, outward
    capsules: Capsules
    pose_directions: Tensor | None = None  # (V, 3, 135)
    root: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # translation to wrist joint
    convex: bool = False  # collides as one convex hull a bone in MuJoCo, else as its capsules
