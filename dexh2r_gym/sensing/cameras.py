"""The cameras of the paper's set-up (figure 2): four Azure Kinects at the corners, two RealSense at the wrist.

The published calibrations are of one room; places here are ours, sizes and focal lengths those of the devices. Pinhole
without distortion. Camera frame as in OpenCV: x right, y down, z forward; pixel (u, v) is column and row, the middle of
the first pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.rotations import pose_multiply

WIDTH, HEIGHT = 320, 180  # pixels, as DP's pictures (section 5)
MAX_PIXELS = 1920  # of a picture's edge
_MIDDLE = (0.05, 0.0, 1.05)  # m, world, where objects change hands
_CORNERS = ((-1.05, -1.1), (-1.05, 1.1), (1.15, -1.1), (1.15, 1.1))  # m, world x and y
_CORNER_HEIGHT = 1.75  # m
_WRIST = (0.085, -0.055, -0.09)  # m, palm frame, of the thumb's side
_WRIST_AIM = (0.0, -0.055, 0.13)  # m, palm frame: before the fingers of an open hand
_KINECT_FOCAL, _REALSENSE_FOCAL = 610.0 / 1280, 915.0 / 1280  # of the picture's width: colour cameras of both at 16:9


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, fixed in the world or to the palm."""

    name: str
    mount: Literal["world", "palm"]
    pose: tuple[float, ...]  # 7 numbers, camera in the world's or in the palm's frame
    focal: float  # of the width; pixels are square
    width: int = WIDTH
    height: int = HEIGHT

    def intrinsics(self) -> np.ndarray:
        """(3, 3) float64, pixels."""
        f = self.focal * self.width
        return np.array([[f, 0, (self.width - 1) / 2], [0, f, (self.height - 1) / 2], [0, 0, 1.0]])

    @property
    def fovy(self) -> float:
        """Vertical field of view, degrees."""
        return float(2 * np.degrees(np.arctan(0.5 * self.height / (self.focal * self.width))))

    def pose_world(self, palm_pose: Tensor) -> Tensor:
        """Where it is, seen from palms (..., 7) in the world -> (..., 7) float64, camera to world."""
        own = constant(self.pose, palm_pose.double()).expand(palm_pose.shape)
        return pose_multiply(palm_pose.double(), own) if self.mount == "palm" else own

    def sized(self, width: int, height: int) -> Camera:
        """The same view in a picture of another size; of another shape, it sees more or less above and below."""
        return replace(self, width=width, height=height)


def look_at(eye: Sequence[float], target: Sequence[float], up: Sequence[float]) -> tuple[float, ...]:
    """Pose (7 numbers) of a camera at `eye` that looks at `target`, the picture's upper edge towards `up`."""
    forward = np.subtract(target, eye)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    matrix = np.stack((right, np.cross(forward, right), forward), axis=1)
    return (*map(float, eye), *_quaternion(matrix))


def _quaternion(matrix: np.ndarray) -> tuple[float, ...]:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat(canonical=True).tolist()
    return w, x, y, z


def _wrist(number: int, side: float) -> Camera:
    eye, aim = (side * _WRIST[0], *_WRIST[1:]), _WRIST_AIM
    return Camera(f"wrist_{number}", "palm", look_at(eye, aim, (0.0, -1.0, 0.0)), _REALSENSE_FOCAL)


CAMERAS: dict[str, Camera] = {
    camera.name: camera
    for camera in (
        *(
            Camera(f"kinect_{i}", "world", look_at((*corner, _CORNER_HEIGHT), _MIDDLE, (0.0, 0.0, 1.0)), _KINECT_FOCAL)
            for i, corner in enumerate(_CORNERS)
        ),
        _wrist(0, 1.0),
        _wrist(1, -1.0),
    )
}
CORNER_CAMERAS = tuple(name for name, camera in CAMERAS.items() if camera.mount == "world")


def find_cameras(names: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Camera, ...]:
    """Cameras by name, with pictures of `size` (width, height) pixels.

    Raises ValueError for an unknown name (the valid ones are listed), a name given twice, none, or an impossible size.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"cameras must be different names of {', '.join(CAMERAS)}; got {list(names)}")
    for name in names:
        if name not in CAMERAS:
            raise ValueError(f"unknown camera {name!r}; choose from {', '.join(CAMERAS)}")
    width, height = size
    if not (8 <= width <= MAX_PIXELS and 8 <= height <= MAX_PIXELS):
        raise ValueError(f"a picture's size must be 8 to {MAX_PIXELS} pixels each way (width, height), got {size}")
    return tuple(CAMERAS[name].sized(width, height) for name in names)
