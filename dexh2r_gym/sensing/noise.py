"""Errors of measured poses: where a tracker believes object and giver to be, and where the robot believes its hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply
from dexh2r_gym.sensing.hashing import normal
from dexh2r_gym.types import HAND_STATE_SIZE, NUM_JOINTS, SceneState

MAX_NOISE = 1.0  # m or rad
_OBJECT, _GIVER, _HAND = 1, 2, 3  # streams of noise


@dataclass(frozen=True)
class PoseNoise:
    """Standard deviations of independent errors in every frame; the defaults are of the size that trackers have.

    Errors of successive frames are independent, hence also large errors of measured velocity: position / dt * sqrt(2).
    """

    position: float = 0.003  # m, of the object, each axis
    rotation: float = 0.03  # rad, of the object, about each axis of the world
    giver: float = 0.005  # m, of each joint of the giver's hand, each axis

    def __post_init__(self) -> None:
        for name in ("position", "rotation", "giver"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_NOISE:
                raise ValueError(f"{name} of the pose noise must be 0 to {MAX_NOISE} (m or rad), got {value}")


def measured_scene(
    scene: SceneState, giver_joints: Tensor, noise: PoseNoise, key: Tensor, dt: float
) -> tuple[SceneState, Tensor]:
    """The scene and the giver's joints (B, 16, 3) as measured, in B worlds.

    key: (B,) long, one number for each episode and frame, growing by 1 from frame to frame, on which alone the errors
    depend; dt: seconds of a frame. The object's velocity has the errors of the difference of two measured poses.
    """
    scale = constant((noise.position,) * 3 + (noise.rotation,) * 3, scene.object_pose)
    error, before = (scale * normal(at, _OBJECT, 6).to(scale) for at in (key, key - 1))
    position = scene.object_pose[:, :3] + error[:, :3]
    rotation = quat_multiply(quat_from_axis_angle(error[:, 3:]), scene.object_pose[:, 3:])
    measured = replace(
        scene,
        object_pose=torch.cat((position, rotation), dim=-1),
        object_velocity=scene.object_velocity + (error - before) / dt,
    )
    return measured, giver_joints + noise.giver * normal(key, _GIVER, 48).to(giver_joints).view(-1, 16, 3)


def measured_hand(
    scene: SceneState, palm_position: float, palm_rotation: float, joints: float, key: Tensor, dt: float
) -> SceneState:
    """The scene with the robot's hand as its own sensors tell it, in B worlds.

    Standard deviations of independent errors in every frame: of the palm in m, each axis, and rad, about each axis of
    the world; of each joint in rad. key, dt: as for `measured_scene`, and velocities have errors of the same kind.
    """
    scale = constant((palm_position,) * 3 + (palm_rotation,) * 3 + (joints,) * NUM_JOINTS, scene.hand_pose)
    error, before = (scale * normal(at, _HAND, HAND_STATE_SIZE).to(scale) for at in (key, key - 1))
    rotation = quat_multiply(quat_from_axis_angle(error[:, 3:6]), scene.hand_pose[:, 3:])
    return replace(
        scene,
        hand_pose=torch.cat((scene.hand_pose[:, :3] + error[:, :3], rotation), dim=-1),
        hand_joints=scene.hand_joints + error[:, 6:],
        hand_velocity=scene.hand_velocity + (error - before) / dt,
    )
