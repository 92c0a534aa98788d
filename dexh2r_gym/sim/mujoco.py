"""Many worlds of contact physics on a thread pool: `mujoco.batch`, one model per world."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.scene import SUBSTEPS_PER_SECOND, scene_model
from dexh2r_gym.sim import Pair
from dexh2r_gym.sim.layout import NUM_TARGETS, Layout, firm_friction, no_touch, unsound
from dexh2r_gym.sim.randomise import randomised_model
from dexh2r_gym.types import NUM_JOINTS, SceneState

_CONTROL = mujoco.mjtState.mjSTATE_CTRL | mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT


class MujocoSimulator:
    """See `dexh2r_gym.sim.Simulator`; how targets move within a frame: `Layout.targets`."""

    def __init__(self, num_worlds: int, dt: float, num_threads: int = 0):
        self._dt = dt
        self._num_substeps = max(1, round(dt * SUBSTEPS_PER_SECOND))
        self._num_worlds = num_worlds
        self._num_threads = num_threads
        self._pairs: list[Pair] = []
        self._models: list[mujoco.MjModel] = []
        self._batch: mujoco.batch.Batch | None = None
        self.state: SceneState

    def _start(self, model: mujoco.MjModel) -> None:
        """Everything that needs a first model: all models share its layout."""
        n = self._num_worlds
        self._models = [model] * n
        self._batch = batch = mujoco.batch.Batch(model, nsim=n, nthread=self._num_threads)
        self._qpos, self._qvel = (torch.from_numpy(batch.bind(x)) for x in ("qpos", "qvel"))
        self._mocap_pos, self._mocap_quat = (torch.from_numpy(batch.bind(x)) for x in ("mocap_pos", "mocap_quat"))
        self._ctrl = torch.from_numpy(batch.bind("ctrl"))
        self._clock = torch.from_numpy(batch.bind("time")).reshape(n)  # seconds
        self._layout = Layout.of(model)
        self._weld = batch.bind("eq_active")  # (n, equalities); `object_held` is the only one
        # where each mocap body was told to be at the end of the last frame, and the joints
        self._last = torch.zeros(n, NUM_TARGETS, 7, dtype=torch.float64)
        self._last[..., 3] = 1
        self._last_joints = torch.zeros(n, NUM_JOINTS, dtype=torch.float64)
        self._touch = no_touch(n)
        self._diverged = torch.zeros(n, dtype=torch.bool)

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """See `dexh2r_gym.sim.Simulator`. A model is compiled when it is first needed."""
        self._pairs += pairs

    def reset(
        self,
        worlds: Tensor,
        pair: Tensor,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        factors: Tensor | None = None,
    ) -> None:
        models = [scene_model(*self._pairs[i], timestep=self._dt / self._num_substeps) for i in pair.tolist()]
        if factors is not None:
            models = [randomised_model(*drawn) for drawn in zip(models, factors, strict=True)]
        if self._batch is None:
            self._start(models[0])
        assert self._batch is not None
        for world, model in zip(worlds.tolist(), models, strict=True):
            self._models[world] = model
        self._batch.set_models(self._models)
        self._batch.reset(ids=worlds.numpy().astype(np.int32), stage=mujoco.mjtStage.mjSTAGE_NONE)
        at, poses = self._layout, torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones), dim=1)
        self._last[worlds] = poses
        self._last_joints[worlds] = joints.double()
        self._qpos[worlds, at.palm_q] = hand_pose
        self._qpos[worlds, at.object_q] = object_pose
        self._qpos[worlds[:, None], at.joint_q] = self._last_joints[worlds]
        self._mocap_pos[worlds[:, None], at.mocap] = poses[..., :3]
        self._mocap_quat[worlds[:, None], at.mocap] = poses[..., 3:]
        self._ctrl[worlds[:, None], at.joint_u] = self._last_joints[worlds]
        for value in self._touch.values():
            value[worlds] = 0
        self._diverged[worlds] = False
        self._read_state()

    def grip(self, worlds: Tensor) -> None:
        """See `dexh2r_gym.sim.Simulator`."""
        assert self._batch is not None, "reset comes before grip"
        for world in worlds.tolist():
            model = self._models[world] = copy.copy(self._models[world])
            firm_friction(model)
        self._batch.set_models(self._models)

    def close(self) -> None:
        """Nothing to free: it goes with this object."""

    def step(
        self,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        active: Tensor,
        held: Tensor,
    ) -> None:
        assert self._batch is not None, "reset comes before step"
        ids = (active & ~self._diverged).nonzero().squeeze(1)
        if len(ids) == 0:
            return
        target = torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones), dim=1)[ids]
        self._weld[ids.numpy(), 0] = held[ids].numpy()
        control = self._substep_controls(ids, target, joints[ids])
        due = self._clock[ids] + (self._num_substeps - 0.5) * self._dt / self._num_substeps
        try:
            record = self._batch.rollout(
                self._num_substeps,
                control=control.numpy(),
                control_spec=int(_CONTROL),
                record=("sensordata",),
                ids=ids.numpy().astype(np.int32),
            )
        except mujoco.batch.SimulationError as error:
            self._diverged[torch.as_tensor(np.asarray(error.ids, dtype=np.int64))] = True
            for value in self._touch.values():
                value[ids] = 0
        else:
            for name, value in self._layout.touch(torch.from_numpy(record["sensordata"]), self._dt).items():
                self._touch[name][ids] = value
        self._diverged[ids] |= self._clock[ids] < due  # a warning of MuJoCo's stops a world before the frame's end
        self._last[ids] = target
        self._last_joints[ids] = joints[ids]
        self._read_state()

    def _substep_controls(self, ids: Tensor, target: Tensor, joints: Tensor) -> Tensor:
        """Controls of every substep, (n, substeps, nu + 7 * nmocap), for worlds ids;

        target (n, 18, 7), joints (n, 22): at the end of the frame.
        """
        n, k, at = len(ids), self._num_substeps, self._layout
        position, rotation, closing = at.targets(self._last[ids], target, self._last_joints[ids], joints, k, self._dt)
        pos = self._mocap_pos[ids][:, None].repeat(1, k, 1, 1)
        quat = self._mocap_quat[ids][:, None].repeat(1, k, 1, 1)
        pos[:, :, at.mocap], quat[:, :, at.mocap] = position, rotation
        ctrl = self._ctrl[ids][:, None].repeat(1, k, 1)
        ctrl[:, :, at.joint_u] = closing
        return torch.cat((ctrl, pos.reshape(n, k, -1), quat.reshape(n, k, -1)), dim=-1)

    def _read_state(self) -> None:
        self._diverged |= unsound(self._qpos, self._qvel)
        before = getattr(self, "state", None)
        self.state = self._layout.state(self._qpos, self._qvel, self._touch, self._diverged, before)
