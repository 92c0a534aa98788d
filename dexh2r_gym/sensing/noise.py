"""Errors of measured poses: where a tracker believes the object and the giver's hand to be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply
from dexh2r_gym.sensing.hashing import normal
from dexh2r_gym.types import SceneState

MAX_NOISE = 1.0  # m or rad
_OBJECT, _GIVER = 1, 2  # streams of noise


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
    scale = scene.object_pose.new_tensor([noise.position] * 3 + [noise.rotation] * 3)
    error, before = (scale * normal(at, _OBJECT, 6).to(scale) for at in (key, key - 1))
    position = scene.object_pose[:, :3] + error[:, :3]
    rotation = quat_multiply(quat_from_axis_angle(error[:, 3:]), scene.object_pose[:, 3:])
    measured = replace(
        scene,
        object_pose=torch.cat((position, rotation), dim=-1),
        object_velocity=scene.object_velocity + (error - before) / dt,
    )
    return measured, giver_joints + noise.giver * normal(key, _GIVER, 48).to(giver_joints).view(-1, 16, 3)
