"""Pictures of a scene: a model with visuals per object and giver, posed from the simulator's state."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from torch import Tensor

from dexh2r_gym.giver import GiverHand, giver_mocap_ids
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.scene import scene_model
from dexh2r_gym.types import SceneState

WIDTH, HEIGHT = 640, 480


class SceneRenderer:
    """Draws any world of any simulator. `MUJOCO_GL=egl` renders without a screen."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT):
        self._size = (height, width)
        self._renderer: mujoco.Renderer | None = None
        self._model: mujoco.MjModel | None = None
        self._data: mujoco.MjData | None = None
        self._shown: Any = None
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.85, 62.0, -16.0

    def draw(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> np.ndarray:
        """Picture (height, width, 3) uint8 of one world; bones (16, 7): the giver's."""
        model, data = self._pose(scene, world, obj, giver, bones)
        if self._renderer is None or self._renderer.model is not model:
            self.close()
            try:
                self._renderer = mujoco.Renderer(model, *self._size)
            except Exception as error:
                raise RuntimeError(
                    f"no OpenGL context could be made ({error}); without a screen set MUJOCO_GL=egl (Debian: libegl1) "
                    "or MUJOCO_GL=osmesa (libosmesa6) before Python starts"
                ) from error
        options = mujoco.MjvOption()
        options.flags[mujoco.mjtVisFlag.mjVIS_SKIN] = True
        self._renderer.update_scene(data, self._camera, options)
        return self._renderer.render().copy()

    def show(self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor) -> None:
        """One world in a window."""
        import mujoco.viewer

        model, data = self._pose(scene, world, obj, giver, bones)
        if self._shown is None or self._shown[0] is not model:
            if self._shown is not None:
                self._shown[2].close()
            self._shown = (model, data, mujoco.viewer.launch_passive(model, data))
        shown = self._shown[1]
        shown.qpos[:], shown.mocap_pos[:], shown.mocap_quat[:] = data.qpos, data.mocap_pos, data.mocap_quat
        mujoco.mj_forward(model, shown)
        self._shown[2].sync()

    def close(self) -> None:
        """Free the OpenGL context and close the window."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _pose(
        self, scene: SceneState, world: int, obj: ObjectModel, giver: GiverHand, bones: Tensor
    ) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = scene_model(obj, giver, visuals=True)
        if self._data is None or self._model is not model:
            self._model, self._data = model, mujoco.MjData(model)
        data = self._data
        palm, thing = model.joint("rh_base").qposadr[0], model.joint("object_free").qposadr[0]
        data.qpos[palm : palm + 7] = scene.hand_pose[world].numpy()
        data.qpos[thing : thing + 7] = scene.object_pose[world].numpy()
        data.qpos[[model.joint(name).qposadr[0] for name in JOINT_NAMES]] = scene.hand_joints[world].numpy()
        ids = giver_mocap_ids(model)
        data.mocap_pos[ids], data.mocap_quat[ids] = bones[:, :3].numpy(), bones[:, 3:].numpy()
        mujoco.mj_forward(model, data)
        between = 0.4 * scene.hand_pose[world, :3] + 0.6 * scene.object_pose[world, :3]
        self._camera.lookat[:] = between.numpy()
        return model, data
