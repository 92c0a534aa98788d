"""Batches of tried grasps with the clouds of their objects, in the turned frame: what generators learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.grasps.dataset import TriedGrasps, find_shape
from dexh2r_gym.grasps.field import DistanceField, FieldStack
from dexh2r_gym.grasps.scores import stable_any
from dexh2r_gym.grasps.stability import is_stable
from dexh2r_gym.hand import forward_kinematics, surface_points_local
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_conjugate, quat_rotate
from policies.grasp_frame import decode, encode, frame_of, turned

_NOISE = 0.001  # m, of the points of a cloud


@dataclass(frozen=True)
class GraspBatch:
    """B grasps, good and bad, each with what its object looks like from the palm to be predicted."""

    grasp: Tensor  # (B, 25), see `grasp_frame.encode`
    good: Tensor  # (B,) bool: `TriedGrasps.valid`; such are to be made
    stable: Tensor  # (B, 2) bool: under all six pushes, under at least one
    cloud: Tensor  # (B, P, 3) points of the object, turned frame
    scene: Scene

    def to(self, device: torch.device) -> GraspBatch:
        """The batch on a device."""
        grasp, good, stable, cloud = (x.to(device) for x in (self.grasp, self.good, self.stable, self.cloud))
        return GraspBatch(grasp, good, stable, cloud, self.scene.to(device))


@dataclass(frozen=True)
class Scene:
    """The solids of B grasps, for distances in the turned frame."""

    fields: FieldStack
    index: Tensor  # (B,) which of the fields
    frame: Tensor  # (B, 7) the turned frame in the object's

    def select(self, rows: Tensor) -> Scene:
        """The scenes of these rows, given by their numbers or a (B,) bool."""
        return Scene(self.fields, self.index[rows], self.frame[rows])

    def to(self, device: torch.device) -> Scene:
        """The scenes on a device."""
        return Scene(self.fields.to(device), self.index.to(device), self.frame.to(device))

    def look_up(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance (B, P), differentiable, and slope (B, P, 3) at points (B, P, 3), all in the turned frame."""
        distance, slope = self.fields.look_up(self.index, pose_apply(self.frame[:, None], points))
        return distance, quat_rotate(quat_conjugate(self.frame[:, None, 3:]), slope)


class GraspSet:
    """Tried grasps of many objects, all in memory; every object is drawn as often as every other.

    Raises ValueError where an object's grasps were made for another shape than the library's, or none is good.
    """

    def __init__(self, tried: Sequence[TriedGrasps], num_points: int) -> None:
        objects = []
        for grasps in tqdm(tried, desc="objects", unit="object", leave=False):
            obj = find_shape(grasps.metadata["object"])
            if abs(grasps.metadata["volume"] / obj.volume - 1) > 1e-4:
                raise ValueError(f"grasps of {obj.name} were made for another shape; make them anew")
            if not grasps.valid.any():
                raise ValueError(f"none of the {len(grasps.joints)} grasps of {obj.name} is good; leave its file out")
            objects.append(obj)
        self.names = [obj.name for obj in objects]
        self._good = torch.cat([grasps.valid for grasps in tried])
        self.num_grasps = int(self._good.sum())  # good ones
        released = torch.cat([grasps.released for grasps in tried])
        self._stable = torch.stack((is_stable(released), stable_any(released)), dim=-1)
        self._num_points = num_points
        self._cloud = torch.stack([obj.points for obj in objects])  # (K, 4096, 3)
        self._center = self._cloud.mean(1)
        self._fields = FieldStack([DistanceField.of_object(obj) for obj in objects])
        self._palm = torch.cat([grasps.palm_pose for grasps in tried])
        self._joints = torch.cat([grasps.joints for grasps in tried])
        self._count = torch.tensor([len(grasps.joints) for grasps in tried])
        self._start = self._count.cumsum(0) - self._count

    def batch(self, size: int, generator: torch.Generator) -> GraspBatch:
        """`size` grasps drawn at random, each with other points of its object."""
        index = torch.randint(len(self.names), (size,), generator=generator)
        row = self._start[index] + (torch.rand(size, generator=generator) * self._count[index]).long()
        palm, joints = self._palm[row], self._joints[row]
        frame = frame_of(palm[:, 3:], self._center[index])
        position = pose_multiply(pose_inverse(frame), palm)[:, :3]
        picked = torch.randint(self._cloud.shape[1], (size, self._num_points), generator=generator)
        cloud = turned(frame, self._cloud[index[:, None], picked])
        cloud = cloud + _NOISE * torch.randn(cloud.shape, generator=generator)
        scene = Scene(self._fields, index, frame)
        return GraspBatch(encode(position, joints), self._good[row], self._stable[row], cloud, scene)


def hand_points(grasp: Tensor, per_link: int) -> Tensor:
    """Surface points of hands given by 25 numbers (B, 25), turned frame: `per_link` on each link. (B, 18 * n, 3)"""
    position, joints = decode(grasp)
    still = grasp.new_tensor([1.0, 0.0, 0.0, 0.0])
    links = forward_kinematics(torch.cat((position, still.expand(len(grasp), 4)), dim=-1), joints)  # (B, 18, 7)
    local = surface_points_local()[0].unflatten(0, (links.shape[1], -1))[:, :per_link].to(grasp)
    return pose_apply(links[:, :, None], local).flatten(1, 2)
