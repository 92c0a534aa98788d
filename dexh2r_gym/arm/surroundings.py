"""Where the arm itself, the hand's forearm and wrist included, meets the object or the giver's hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dexh2r_gym.arm.collision import capsule_clearance
from dexh2r_gym.arm.kinematics import ArmFrames
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.capsules import NUM_CAPSULES
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import pose_apply

_POINTS = 256  # of an object's surface


class Surroundings:
    """The object, as points of its surface, and the giver's hand, as capsules, of B worlds."""

    def __init__(self, num_worlds: int) -> None:
        self._radius = torch.zeros(num_worlds, 1, dtype=torch.float64)  # about the object's origin
        self._points = torch.zeros(num_worlds, _POINTS, 3, dtype=torch.float64)
        self._bone = torch.zeros(num_worlds, NUM_CAPSULES, dtype=torch.long)
        self._ends = torch.zeros(num_worlds, 2, NUM_CAPSULES, 3, dtype=torch.float64)
        self._thick = torch.zeros(num_worlds, NUM_CAPSULES, dtype=torch.float64)

    def begin(self, worlds: Tensor, objects: Sequence[ObjectModel], givers: Sequence[GiverHand]) -> None:
        """These are in worlds (n,) now."""
        for world, obj, giver in zip(worlds.tolist(), objects, givers, strict=True):
            bone, p0, p1, radius = giver.capsules()
            points = obj.points[:: max(1, len(obj.points) // _POINTS)][:_POINTS].double()
            self._points[world] = points[torch.arange(_POINTS) % len(points)]
            self._radius[world] = points.norm(dim=-1).amax()
            self._bone[world], self._thick[world] = bone, radius
            self._ends[world] = torch.stack((p0, p1))

    def meet(self, worlds: Tensor, frames: ArmFrames, object_pose: Tensor, giver_bones: Tensor) -> Tensor:
        """Whether these n arms, of worlds (n,), do: (n,) bool. object_pose: (n, 7), giver_bones: (n, 16, 7)."""
        bone = self._bone[worlds][..., None].expand(-1, -1, 7)
        p0, p1 = pose_apply(giver_bones.gather(1, bone)[:, None], self._ends[worlds]).unbind(1)
        meets = capsule_clearance(frames, p0, p1, self._thick[worlds]) < 0
        middle = object_pose[:, None, :3]
        near = (capsule_clearance(frames, middle, middle, self._radius[worlds]) < 0).nonzero().squeeze(1)
        if len(near) > 0:  # of the object's ball: look at its surface
            points = pose_apply(object_pose[near, None], self._points[worlds[near]])
            close = ArmFrames(*(part[near] for part in frames))
            meets[near] |= capsule_clearance(close, points, points, points.new_zeros(points.shape[:2])) < 0
        return meets
