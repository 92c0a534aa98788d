"""A recording of a giver as a trial: moved into the scene, with goal grasps and a place where the robot waits.

What a recording must hold is where the object and the giver's hand were, frame by frame, in one frame whose z axis
points up. `into_scene` moves both to where the robot is; `hold_still` lets the giver wait for it; `recorded_trial` adds
which goal grasps the giver leaves free and where the robot starts.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.replay.replay import Trial
from dexh2r_gym.replay.write import StoredObject
from dexh2r_gym.rotations import pose_apply, pose_multiply, quat_from_axis_angle
from dexh2r_gym.types import join_hand_state

HANDOVER = (0.0, 0.0, 1.0)  # m, where the giver offers the object
START_DISTANCE = 0.5  # m, from there to the waiting robot's palm, towards -x
START_GAP = 0.05  # m, left at least between the waiting hand and everything that comes near, along x
FOREARM = 0.25  # m behind the wrist: a point of the giver's forearm, which tells on which side they stand
_SKIN = 0.03  # m, no skin is further than this from the hand's joints and tips


class Goals(Protocol):
    """Goal grasps of an object; `dexh2r_gym.grasps.GraspPool` is one."""

    @property
    def palm_pose(self) -> Tensor:
        """(G, 7), object frame."""

    @property
    def joints(self) -> Tensor:
        """(G, 22), radians."""


def scene_pose(giver: GiverHand, object_pose: Tensor, mano: Tensor) -> Tensor:
    """Pose (7,), in the scene, of a frame with z up: puts the object of an offer at `HANDOVER` and its giver at +x.

    object_pose (7,) and mano (61,) of the offer. The giver stands where the forearm points, seen from the object. Only
    the heading is turned: what was vertical stays so.
    """
    bone = giver.bone_poses(mano)[0]
    behind = bone.new_tensor([FOREARM if giver.side == "right" else -FOREARM, 0.0, 0.0])
    way = pose_apply(bone, behind) - object_pose[:3]
    yaw = -torch.atan2(way[1], way[0])
    pose = torch.cat((torch.zeros_like(way), quat_from_axis_angle(torch.stack((0 * yaw, 0 * yaw, yaw)))))
    pose[:3] = way.new_tensor(HANDOVER) - pose_apply(pose, object_pose[:3])
    return pose


def into_scene(giver: GiverHand, object_pose: Any, mano: Any) -> tuple[Tensor, Tensor]:
    """Object poses (T, 7) and MANO numbers (T, 61), both in a frame with z up, moved by the `scene_pose` of the end."""
    object_pose, mano = (torch.as_tensor(x, dtype=torch.float64) for x in (object_pose, mano))
    pose = scene_pose(giver, object_pose[-1], mano[-1])
    return pose_multiply(pose, object_pose), move_mano(pose, mano, giver.root)


def hold_still(rows: Tensor, count: int) -> Tensor:
    """Rows (T, ...), followed by the last one `count` times. -> (T + count, ...)"""
    return torch.cat((rows, rows[-1:].expand(count, *rows.shape[1:])))


def waiting_hand(obj: ObjectModel, giver: GiverHand, object_pose: Tensor, mano: Tensor) -> Tensor:
    """Hand state (28,) of a robot that waits on the -x side: open, fingers to +x, thumb up, palm to +y.

    `START_DISTANCE` from the handover, further back where the object or the giver's hand comes near at any time of
    the trial, object_pose (T, 7) and mano (T, 61), so that a robot that stays there is never touched.
    """
    from dexh2r_gym.hand import OPEN_HAND, surface_points

    pose = torch.tensor([*HANDOVER, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    reach = surface_points(pose, OPEN_HAND.double())[0][:, 0].max() - pose[0]
    corners = torch.from_numpy(obj.vertices).to(object_pose)
    nearest = pose_apply(object_pose[:, None], corners)[..., 0].min()
    hand = torch.cat((giver.joints(mano), giver.tips(mano)), dim=-2)
    nearest = torch.minimum(nearest, hand[..., 0].min() - _SKIN)
    pose[0] += torch.minimum(nearest - HANDOVER[0] - START_GAP - reach, -torch.tensor(START_DISTANCE))
    return join_hand_state(pose, OPEN_HAND.double())


def recorded_trial(
    obj: ObjectModel,
    goals: Goals,
    giver: GiverHand,
    object_pose: Tensor,
    mano: Tensor,
    *,
    subject: int = 0,
    split: str = "test",
    fps: float = 30.0,
    grasp_begin: int = -1,
    number: int | None = None,
) -> Trial:
    """A trial of a recording that is in the scene: object_pose (T, 7), mano (T, 61), float64.

    A goal is free in the frames in which it is clear of the giver's hand. There is no demonstration.
    """
    from dexh2r_gym.grasps import free_of_giver

    free = free_of_giver(goals.palm_pose.double(), goals.joints.double(), object_pose, giver, mano)
    return Trial(
        subject=subject,
        object=obj.name,
        side=giver.side,
        split=split,
        fps=fps,
        object_pose=object_pose.numpy(),
        giver=mano.numpy(),
        hand_start=waiting_hand(obj, giver, object_pose, mano).numpy(),
        goal_free=free.numpy(),
        grasp_begin=grasp_begin,
        number=number,
    )


def recorded_object(obj: ObjectModel, goals: Goals) -> StoredObject:
    """An object as a store carries it, with its geometry and goal grasps."""
    rows = torch.cat((goals.palm_pose, goals.joints), dim=-1).numpy()
    return StoredObject(rows, obj.parts, obj.mass, obj.metadata)
