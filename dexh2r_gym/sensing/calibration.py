"""Where cameras are and how they project, as matrices; depth to points and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.rotations import quat_to_matrix
from dexh2r_gym.sensing.cameras import Camera


def calibration(cameras: Sequence[Camera], palm_pose: Tensor) -> dict[str, dict[str, Any]]:
    """Of each camera by name, in OpenCV's convention (x right, y down, z forward).

    `intrinsics` (3, 3) pixels, the middle of the first pixel at (0, 0); `camera_to_world` (4, 4) metres; `width` and
    `height` pixels. palm_pose: (7,) world, that cameras at the wrist go with.
    """
    found = {}
    for camera in cameras:
        pose = camera.pose_world(palm_pose)
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = quat_to_matrix(pose[3:]).numpy(), pose[:3].numpy()
        found[camera.name] = {
            "intrinsics": camera.intrinsics(),
            "camera_to_world": matrix,
            "width": camera.width,
            "height": camera.height,
        }
    return found


def back_project(depth: NDArray, intrinsics: NDArray, camera_to_world: NDArray) -> NDArray:
    """World points of a depth picture: (..., H, W) metres along the camera's axis -> (..., H, W, 3) float64 metres.

    Pixels whose depth is 0, where nothing was in reach, give the camera's own place.
    """
    height, width = depth.shape[-2:]
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack((u, v, np.ones_like(u)), axis=-1)  # (H, W, 3)
    rays = pixels @ np.linalg.inv(intrinsics).T
    return (depth[..., None] * rays) @ camera_to_world[:3, :3].T + camera_to_world[:3, 3]


def project(points: NDArray, intrinsics: NDArray, camera_to_world: NDArray) -> NDArray:
    """Columns, rows and depths of world points: (..., 3) metres -> (..., 3), pixels, pixels, metres."""
    seen = (points - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
    image = seen @ intrinsics.T
    return np.concatenate((image[..., :2] / image[..., 2:], seen[..., 2:]), axis=-1)
