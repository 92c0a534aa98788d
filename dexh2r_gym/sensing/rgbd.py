"""Colour, depth and segmentation as the cameras of the set-up see them, by MuJoCo's renderer.

Colour and depth come from one pass, one sample a pixel: the depth of a pixel is that of what it shows, at edges too.
Shadows and reflections are left out, which cost more than the picture itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.arm.mjspec import ARM_PREFIX
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.render import Canvases
from dexh2r_gym.rotations import quat_to_matrix
from dexh2r_gym.sensing.cameras import Camera
from dexh2r_gym.types import SceneState

MAX_DEPTH = 5.0  # m
_NEAR, _FAR = 0.02, 30.0  # m, between which things are drawn
_IDENTITIES = [int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)]
BACKGROUND, ROBOT, OBJECT, GIVER = range(4)  # of a segmentation


def picture_keys(cameras: Sequence[Camera], segmentation: bool) -> list[dict[str, str]]:
    """Of each camera, the keys of its pictures in an observation by kind: image, depth and, if asked, segmentation."""
    kinds = ("image", "depth", "segmentation") if segmentation else ("image", "depth")
    if len(cameras) == 1:
        return [{kind: kind for kind in kinds}]
    return [{kind: f"{kind}_{camera.name}" for kind in kinds} for camera in cameras]


class RGBDSensor:
    """Cameras of one size, that look at one world at a time."""

    def __init__(self, cameras: Sequence[Camera], *, segmentation: bool = False) -> None:
        """Nothing of OpenGL is touched before the first picture."""
        self._cameras, self._segmentation = tuple(cameras), segmentation
        self._keys = picture_keys(cameras, segmentation)
        width, height = cameras[0].width, cameras[0].height
        self._canvases = Canvases(width, height)
        self._shape = (height, width)

    def draw(
        self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor
    ) -> dict[str, np.ndarray]:
        """Pictures of one world by key; bones (16, 7): the giver's.

        `image` (H, W, 3) uint8; `depth` (H, W) float32, metres along the camera's axis, 0 where nothing is within
        `MAX_DEPTH`; `segmentation` (H, W) uint8: 0 background, 1 robot, 2 object, 3 giver.

        Raises RuntimeError where there is no OpenGL, with what to install or set.
        """
        canvas = self._canvases.canvas(obj, giver, arm=scene.arm_joints is not None)
        canvas.pose(scene, world, giver, bones)
        drawn = canvas.scene
        kinds = _kinds_drawn(drawn, canvas.model) if self._segmentation else None
        out: dict[str, np.ndarray] = {}
        for camera, keys in zip(self._cameras, self._keys, strict=True):
            _aim(drawn, camera, scene.hand_pose[world])
            image, buffer = np.empty((*self._shape, 3), np.uint8), np.empty(self._shape, np.float32)
            canvas.read(image, buffer)
            out[keys["image"]], out[keys["depth"]] = image, _metres(buffer)
            if kinds is not None:
                drawn.flags[_IDENTITIES] = True
                canvas.read(identities := np.empty_like(image))
                drawn.flags[_IDENTITIES] = False
                out[keys["segmentation"]] = kinds[identities @ np.array([1, 256, 65536])]
        return out

    def close(self) -> None:
        """Free the OpenGL context."""
        self._canvases.close()


def _aim(drawn: mujoco.MjvScene, camera: Camera, palm_pose: Tensor) -> None:
    """Both eyes of the scene where the camera is."""
    pose = camera.pose_world(palm_pose)
    turn = quat_to_matrix(pose[3:]).numpy()
    half = _NEAR * 0.5 * camera.height / (camera.focal * camera.width)
    for eye in drawn.camera:
        eye.pos, eye.forward, eye.up = pose[:3].numpy(), turn[:, 2], -turn[:, 1]
        eye.frustum_center, eye.frustum_bottom, eye.frustum_top = 0.0, -half, half
        eye.frustum_near, eye.frustum_far, eye.frustum_width, eye.orthographic = _NEAR, _FAR, 0.0, 0


def _metres(buffer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth along the axis from the depth buffer, which is 1 at the near plane and 0 at the far one."""
    depth = _NEAR * _FAR / (_NEAR + buffer.astype(np.float64) * (_FAR - _NEAR))
    return np.where(depth <= MAX_DEPTH, depth, 0.0).astype(np.float32)


def _kinds_drawn(drawn: mujoco.MjvScene, model: mujoco.MjModel) -> NDArray[np.uint8]:
    """What each colour of a segmentation pass is, background first."""
    kinds = np.zeros(drawn.ngeom + 1, np.uint8)
    for geom in drawn.geoms[: drawn.ngeom]:
        if geom.segid < 0:
            continue
        if geom.objtype == mujoco.mjtObj.mjOBJ_SKIN:
            kinds[geom.segid + 1] = GIVER
        elif geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
            kinds[geom.segid + 1] = _kind(model.body(model.geom_bodyid[geom.objid]).name)
    return kinds


def _kind(body: str) -> int:
    for start, kind in (("giver_", GIVER), ("object", OBJECT), ("rh_", ROBOT), (ARM_PREFIX, ROBOT)):
        if body.startswith(start):
            return kind
    return BACKGROUND
