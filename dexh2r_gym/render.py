"""Pictures of a scene: a model with visuals per object and giver, posed from the simulator's state."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import mujoco
import numpy as np
from torch import Tensor

from dexh2r_gym.giver import GiverHand, correct_skin, giver_mocap_ids
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.scene import scene_model
from dexh2r_gym.types import SceneState

WIDTH, HEIGHT = 640, 480
MAX_CANVASES = 16  # OpenGL contexts kept, one an object
_MAX_GEOMS = 1000  # drawn in one picture


class Canvas:
    """An OpenGL context that can draw one object with any open hand, or with the hand of MANO it was made for."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, samples: int) -> None:
        """samples: of each pixel. RuntimeError where no context can be made; it says what to install or set."""
        _load_triton_first()
        model.vis.quality.offsamples = samples
        try:
            self._context = mujoco.GLContext(width, height)
            self._context.make_current()
            self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:
            raise RuntimeError(
                f"no OpenGL context could be made ({error}); without a screen set MUJOCO_GL=egl (Debian: libegl1) "
                "or MUJOCO_GL=osmesa (libosmesa6) before Python starts; observations of state and point_cloud need none"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
        self._drawing.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self.data = mujoco.MjData(model)
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def read(self, colour: np.ndarray | None, depth: np.ndarray | None = None) -> None:
        """Draw `scene` into (H, W, 3) uint8 and the depth buffer (H, W) float32, 0 at the far end; upper row first."""
        self._context.make_current()
        mujoco.mjr_render(self._rect, self.scene, self._drawing)
        mujoco.mjr_readPixels(colour, depth, self._rect, self._drawing)
        for picture in (colour, depth):
            if picture is not None:
                picture[:] = picture[::-1].copy()

    def close(self) -> None:
        """Free the context."""
        self._context.make_current()
        self._drawing.free()
        self._context.free()


class Canvases:
    """The canvases in use, the last used last; beyond `MAX_CANVASES` the oldest goes."""

    def __init__(self, width: int, height: int, samples: int) -> None:
        self._format = (width, height, samples)
        self._all: dict[Any, Canvas] = {}

    def canvas(self, obj: ObjectModel, giver: GiverHand) -> Canvas:
        """One for this object, whoever gives."""
        key = (obj, giver if giver.convex else None)
        canvas = self._all.pop(key, None)
        if canvas is None:
            while len(self._all) >= MAX_CANVASES:
                self._all.pop(next(iter(self._all))).close()
            canvas = Canvas(scene_model(obj, giver, visuals=True), *self._format)
        self._all[key] = canvas
        return canvas

    def close(self) -> None:
        """Free all."""
        while self._all:
            self._all.popitem()[1].close()


def pose_scene(
    model: mujoco.MjModel, data: mujoco.MjData, scene: SceneState, world: int, giver: GiverHand, bones: Tensor
) -> None:
    """Bring a model with visuals of this giver to where one world stands; bones (16, 7): the giver's."""
    palm, thing = model.joint("rh_base").qposadr[0], model.joint("object_free").qposadr[0]
    data.qpos[palm : palm + 7] = scene.hand_pose[world].numpy()
    data.qpos[thing : thing + 7] = scene.object_pose[world].numpy()
    data.qpos[[model.joint(name).qposadr[0] for name in JOINT_NAMES]] = scene.hand_joints[world].numpy()
    ids = giver_mocap_ids(model)
    data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3].numpy(), bones[:, 3:].numpy()
    correct_skin(model, giver, bones)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


class SceneRenderer:
    """Draws any world of any simulator. `MUJOCO_GL=egl` renders without a screen."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT):
        self._size = (width, height)
        self._canvases = Canvases(width, height, samples=4)
        self._options, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._window: Any = None
        self._window_data: mujoco.MjData | None = None
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.85, 62.0, -16.0

    def draw(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> np.ndarray:
        """Picture (height, width, 3) uint8 of one world; bones (16, 7): the giver's."""
        model, canvas = scene_model(obj, giver, visuals=True), self._canvases.canvas(obj, giver)
        pose_scene(model, canvas.data, scene, world, giver, bones)
        self._aim(scene, world)
        mujoco.mjv_updateScene(
            model, canvas.data, self._options, self._perturb, self._camera, mujoco.mjtCatBit.mjCAT_ALL, canvas.scene
        )
        picture = np.empty((*self._size[::-1], 3), np.uint8)
        canvas.read(picture)
        return picture

    def show(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> None:
        """One world in a window."""
        import mujoco.viewer

        model = scene_model(obj, giver, visuals=True)
        if self._window is None or self._window.m is not model:
            if self._window is not None:
                self._window.close()
            self._window_data = mujoco.MjData(model)
            self._window = mujoco.viewer.launch_passive(
                model, self._window_data, show_left_ui=False, show_right_ui=False
            )
        assert self._window_data is not None
        pose_scene(model, self._window_data, scene, world, giver, bones)
        self._aim(scene, world)
        self._window.cam.lookat[:] = self._camera.lookat
        self._window.cam.distance = self._camera.distance
        self._window.sync()

    def close(self) -> None:
        """Free the OpenGL contexts and close the window."""
        self._canvases.close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def _aim(self, scene: SceneState, world: int) -> None:
        """Look between palm and object."""
        self._camera.lookat[:] = (0.4 * scene.hand_pose[world, :3] + 0.6 * scene.object_pose[world, :3]).numpy()


@cache
def _load_triton_first() -> None:
    """Triton comes with CUDA builds of torch; its LLVM crashes when loaded after that of Mesa's software OpenGL."""
    with suppress(ImportError):
        import_module("triton._C.libtriton")
