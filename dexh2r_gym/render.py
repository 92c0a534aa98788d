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
MAX_RENDERERS = 8  # OpenGL contexts kept, one a model: worlds that take turns do not make theirs anew


class SceneRenderer:
    """Draws any world of any simulator. `MUJOCO_GL=egl` renders without a screen."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT):
        self._size = (height, width)
        self._renderers: dict[mujoco.MjModel, mujoco.Renderer] = {}  # the last used last
        self._data: dict[mujoco.MjModel, mujoco.MjData] = {}
        self._window: Any = None
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.85, 62.0, -16.0

    def draw(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> np.ndarray:
        """Picture (height, width, 3) uint8 of one world; bones (16, 7): the giver's."""
        model, data = self._pose(scene, world, obj, giver, bones)
        renderer = self._renderers.pop(model, None) or self._new_renderer(model)
        self._renderers[model] = renderer
        renderer.update_scene(data, self._camera)
        return renderer.render().copy()

    def show(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> None:
        """One world in a window."""
        import mujoco.viewer

        model, data = self._pose(scene, world, obj, giver, bones)
        if self._window is None or self._window.m is not model:
            if self._window is not None:
                self._window.close()
            self._window = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
        self._window.cam.lookat[:] = self._camera.lookat
        self._window.cam.distance = self._camera.distance
        self._window.sync()

    def close(self) -> None:
        """Free the OpenGL contexts and close the window."""
        while self._renderers:
            self._renderers.popitem()[1].close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def _new_renderer(self, model: mujoco.MjModel) -> mujoco.Renderer:
        if len(self._renderers) >= MAX_RENDERERS:
            oldest = next(iter(self._renderers))
            self._renderers.pop(oldest).close()
            del self._data[oldest]
        _load_triton_first()
        try:
            return mujoco.Renderer(model, *self._size)
        except Exception as error:
            raise RuntimeError(
                f"no OpenGL context could be made ({error}); without a screen set MUJOCO_GL=egl (Debian: libegl1) "
                "or MUJOCO_GL=osmesa (libosmesa6) before Python starts"
            ) from error

    def _pose(
        self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor
    ) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = scene_model(obj, giver, visuals=True)
        if model not in self._data:
            self._data[model] = mujoco.MjData(model)
        data = self._data[model]
        palm, thing = model.joint("rh_base").qposadr[0], model.joint("object_free").qposadr[0]
        data.qpos[palm : palm + 7] = scene.hand_pose[world].numpy()
        data.qpos[thing : thing + 7] = scene.object_pose[world].numpy()
        data.qpos[[model.joint(name).qposadr[0] for name in JOINT_NAMES]] = scene.hand_joints[world].numpy()
        ids = giver_mocap_ids(model)
        data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3].numpy(), bones[:, 3:].numpy()
        correct_skin(model, giver, bones)
        mujoco.mj_forward(model, data)
        between = 0.4 * scene.hand_pose[world, :3] + 0.6 * scene.object_pose[world, :3]
        self._camera.lookat[:] = between.numpy()
        return model, data


@cache
def _load_triton_first() -> None:
    """Triton comes with CUDA builds of torch; its LLVM crashes when loaded after that of Mesa's software OpenGL."""
    with suppress(ImportError):
        import_module("triton._C.libtriton")
