"""Pictures of a scene: a model with visuals per object and giver, posed from the simulator's state."""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import mujoco
import numpy as np
from torch import Tensor

from dexh2r_gym.arm.kinematics import BASE_POSITION
from dexh2r_gym.arm.mjspec import ARM_JOINT_NAMES
from dexh2r_gym.giver import GiverHand, correct_skin, giver_mocap_ids
from dexh2r_gym.giver.model import set_giver_skin
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.scene import scene_model, scene_spec
from dexh2r_gym.types import SceneState

WIDTH, HEIGHT = 640, 480
MAX_CANVASES = 64  # kept at once, one an object, some 15 MB each
_SAMPLES, _SHADOWS = 4, 2048  # of a pixel; edge of the shadows' map, pixels
_CLOSING = 5.0  # s at most until a window is gone
_MAX_GEOMS = 1000  # drawn in one picture
_DISTANCE, _ARM_DISTANCE = 0.85, 1.75  # m, of pictures from what they show


class Canvas:
    """What draws one object, in the current OpenGL context, with any open hand or any hand of MANO of one side."""

    def __init__(
        self, obj: ObjectModel, giver: GiverHand, arm: bool, width: int, height: int, samples: int, shadows: int
    ) -> None:
        self.model = scene_spec(obj, giver, visuals=True, arm=arm).compile()  # its own: it is dressed as each giver
        visual = self.model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        visual.quality.offsamples, visual.quality.shadowsize = samples, shadows
        self._drawing = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._drawing.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.data = mujoco.MjData(self.model)
        self.scene = mujoco.MjvScene(self.model, _MAX_GEOMS)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = False  # skins of left hands are wound as those of right
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows > 0
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._options, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._giver = giver

    def pose(
        self, scene: SceneState, world: int, giver: GiverHand, bones: Tensor, camera: mujoco.MjvCamera | None = None
    ) -> None:
        """Bring `scene` to where one world stands; bones (16, 7): the giver's. Without a camera, it is aimed later."""
        if giver != self._giver:
            set_giver_skin(self.model, giver)
            self._giver = giver
        pose_scene(self.model, self.data, scene, world, giver, bones)
        camera = camera or mujoco.MjvCamera()
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.model, self.data, self._options, self._perturb, camera, every, self.scene)

    def read(self, colour: np.ndarray, depth: np.ndarray | None = None) -> None:
        """Draw `scene` into (H, W, 3) uint8 and the depth buffer (H, W) float32, 0 at the far end; upper row first."""
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
        mujoco.mjr_render(self._rect, self.scene, self._drawing)
        mujoco.mjr_readPixels(colour, depth, self._rect, self._drawing)
        colour[:] = colour[::-1].copy()
        if depth is not None:
            depth[:] = depth[::-1].copy()

    def free(self) -> None:
        """Free what it holds of the current OpenGL context."""
        self._drawing.free()


class Canvases:
    """An OpenGL context and the canvases in it, the last used last; beyond `MAX_CANVASES` the oldest goes."""

    def __init__(self, width: int, height: int, *, samples: int = 0, shadows: int = 0) -> None:
        """Nothing of OpenGL is touched before the first canvas."""
        self._format = (width, height, samples, shadows)
        self._context: mujoco.GLContext | None = None
        self._all: dict[Any, Canvas] = {}

    def canvas(self, obj: ObjectModel, giver: GiverHand, *, arm: bool = False) -> Canvas:
        """One for this object, whoever gives, with or without an arm; who gave before makes no difference.

        Raises RuntimeError where no OpenGL context can be made, with what to install or set.
        """
        self._make_current()
        key = (obj, giver.side if giver.convex else None, arm)
        canvas = self._all.pop(key, None)
        if canvas is None:
            while len(self._all) >= MAX_CANVASES:
                self._all.pop(next(iter(self._all))).free()
            try:
                canvas = Canvas(obj, giver if giver.convex else GiverHand(), arm, *self._format)
            except mujoco.FatalError as error:
                raise _no_opengl(error) from error
        self._all[key] = canvas
        return canvas

    def close(self) -> None:
        """Free all."""
        if self._context is not None:
            self._context.make_current()
            while self._all:
                self._all.popitem()[1].free()
            self._context.free()
            self._context = None

    def __del__(self) -> None:
        self.close()  # while the context is there: MuJoCo's own end of a drawing needs it

    def _make_current(self) -> None:
        _load_triton_first()
        try:
            if self._context is None:
                self._context = mujoco.GLContext(*self._format[:2])
                atexit.register(_close_at_exit, weakref.ref(self))
            self._context.make_current()
        except Exception as error:
            raise _no_opengl(error) from error


def _close_at_exit(drawing: weakref.ref[Any]) -> None:
    """Before Python's end, where MuJoCo's display goes first."""
    left = drawing()
    if left is not None:
        left.close()


def _no_opengl(error: Exception) -> RuntimeError:
    return RuntimeError(
        f"no OpenGL context could be made ({error}); without a screen set MUJOCO_GL=egl (Debian: libegl1) "
        "or MUJOCO_GL=osmesa (libosmesa6) before Python starts; observations of state and point_cloud need none"
    )


def pose_scene(
    model: mujoco.MjModel, data: mujoco.MjData, scene: SceneState, world: int, giver: GiverHand, bones: Tensor
) -> None:
    """Bring a model of this giver, and any skin, to where one world stands; bones (16, 7): the giver's."""
    palm, thing = model.joint("rh_base").qposadr[0], model.joint("object_free").qposadr[0]
    data.qpos[palm : palm + 7] = scene.hand_pose[world].numpy()
    data.qpos[thing : thing + 7] = scene.object_pose[world].numpy()
    data.qpos[[model.joint(name).qposadr[0] for name in JOINT_NAMES]] = scene.hand_joints[world].numpy()
    if scene.arm_joints is not None:
        data.qpos[[model.joint(name).qposadr[0] for name in ARM_JOINT_NAMES]] = scene.arm_joints[world].numpy()
    ids = giver_mocap_ids(model)
    data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3].numpy(), bones[:, 3:].numpy()
    if model.nskin:
        correct_skin(model, giver, bones)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


class SceneRenderer:
    """Draws any world of any simulator. `MUJOCO_GL=egl` renders without a screen."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT):
        self._size = (width, height)
        self._canvases = Canvases(width, height, samples=_SAMPLES, shadows=_SHADOWS)
        self._window: Any = None
        self._window_data: mujoco.MjData | None = None
        self._window_threads: set[threading.Thread] = set()
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = _DISTANCE, 62.0, -16.0

    def draw(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> np.ndarray:
        """Picture (height, width, 3) uint8 of one world; bones (16, 7): the giver's."""
        canvas = self._canvases.canvas(obj, giver, arm=scene.arm_joints is not None)
        self._aim(scene, world)
        canvas.pose(scene, world, giver, bones, self._camera)
        picture = np.empty((*self._size[::-1], 3), np.uint8)
        canvas.read(picture)
        return picture

    def show(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> None:
        """One world in a window."""
        model = scene_model(obj, giver, visuals=True, arm=scene.arm_joints is not None)
        if self._window is None or self._window.m is not model:
            self._open_window(model)
        assert self._window_data is not None
        pose_scene(model, self._window_data, scene, world, giver, bones)
        self._aim(scene, world)
        self._window.cam.lookat[:] = self._camera.lookat
        self._window.sync()

    def close(self) -> None:
        """Free the OpenGL context and close the window."""
        self._canvases.close()
        self._close_window()

    def __del__(self) -> None:
        self._close_window()

    def _open_window(self, model: mujoco.MjModel) -> None:
        """A window that looks from where pictures do, or as the one before, which is closed, was turned by hand."""
        import mujoco.viewer

        view = None if self._window is None else self._window.cam
        self._close_window()
        before = set(threading.enumerate())
        self._window_data = mujoco.MjData(model)
        self._window = mujoco.viewer.launch_passive(model, self._window_data, show_left_ui=False, show_right_ui=False)
        self._window_threads = set(threading.enumerate()) - before
        atexit.register(_close_at_exit, weakref.ref(self))  # after the viewer's own, so that it comes first
        view = view or self._camera
        for name in ("distance", "azimuth", "elevation"):
            setattr(self._window.cam, name, getattr(view, name))

    def _close_window(self) -> None:
        """And wait until it is gone: Python, or the next window, crashes on one that is still drawn."""
        if self._window is not None:
            self._window.close()
            for thread in self._window_threads:
                thread.join(_CLOSING)
            self._window = None

    def _aim(self, scene: SceneState, world: int) -> None:
        """Look between palm and object; at an arm, its base and the object, from further off."""
        palm, thing = scene.hand_pose[world, :3].numpy(), scene.object_pose[world, :3].numpy()
        if scene.arm_joints is None:
            self._camera.distance = _DISTANCE
            self._camera.lookat[:] = 0.4 * palm + 0.6 * thing
        else:
            self._camera.distance = _ARM_DISTANCE
            self._camera.lookat[:] = 0.35 * np.array(BASE_POSITION) + 0.25 * palm + 0.4 * thing


@cache
def _load_triton_first() -> None:
    """Triton comes with CUDA builds of torch; its LLVM crashes when loaded after that of Mesa's software OpenGL."""
    with suppress(ImportError):
        import_module("triton._C.libtriton")
