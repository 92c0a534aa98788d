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

_POINTS = 96  # of an object's surface: some 2 cm apart, the links are 4 to 6 cm thick
_GIVER_RADIUS = 0.30  # m, about the wrist: holds any hand


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
        meets = torch.zeros(len(worlds), dtype=torch.bool)
        near = _near(frames, giver_bones[:, :1, :3], torch.full((len(worlds), 1), _GIVER_RADIUS).to(giver_bones))
        if len(near) > 0:
            w, close = worlds[near], ArmFrames(*(part[near] for part in frames))
            bone = self._bone[w][..., None].expand(-1, -1, 7)
            p0, p1 = pose_apply(giver_bones[near].gather(1, bone)[:, None], self._ends[w]).unbind(1)
            meets[near] = capsule_clearance(close, p0, p1, self._thick[w]) < 0
        near = _near(frames, object_pose[:, None, :3], self._radius[worlds])
        if len(near) > 0:
            close = ArmFrames(*(part[near] for part in frames))
            points = pose_apply(object_pose[near, None], self._points[worlds[near]])
            meets[near] |= capsule_clearance(close, points, points, points.new_zeros(points.shape[:2])) < 0
        return meets


def _near(frames: ArmFrames, middle: Tensor, radius: Tensor) -> Tensor:
    """Which arms meet the balls about (n, 1, 3) of radius (n, 1): (m,)."""
    return (capsule_clearance(frames, middle, middle, radius) < 0).nonzero().squeeze(1)
