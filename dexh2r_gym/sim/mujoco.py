"""Many worlds of contact physics on a thread pool: `mujoco.batch`, one model per world."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import giver_mocap_ids
from dexh2r_gym.hand import BASE_LEAD_TIME, JOINT_LEAD_TIME, JOINT_NAMES
from dexh2r_gym.rotations import quat_conjugate, quat_from_axis_angle, quat_multiply, quat_rotate, quat_to_axis_angle
from dexh2r_gym.scene import OBJECT_WELD_IMPEDANCE, OBJECT_WELD_TIME, SUBSTEPS_PER_SECOND, scene_model
from dexh2r_gym.sim import Pair
from dexh2r_gym.sim.randomise import randomised_model
from dexh2r_gym.types import GIVER_PARTS, NUM_GIVER_JOINTS, SceneState

OBJECT_LEAD_TIME = 2 * OBJECT_WELD_IMPEDANCE * OBJECT_WELD_TIME  # damping over stiffness of the weld
_TOUCH: dict[str, tuple[int, ...]] = {
    "giver_force": (),
    "giver_peak": (len(GIVER_PARTS),),
    "giver_impulse": (len(GIVER_PARTS),),
    "contact_speed": (),
    "load": (3,),
}
MAX_SPEED = 100.0  # m/s or rad/s; a body faster than this is not physics any more
_CONTROL = mujoco.mjtState.mjSTATE_CTRL | mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT


class MujocoSimulator:
    """See `dexh2r_gym.sim.Simulator`.

    Within a frame the targets move at constant velocity, substep by substep. A servo follows a moving target late by
    its damping over its stiffness; hand and object targets lead by that time, so that neither trails behind.
    """

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

        def qpos_at(name: str) -> int:
            return int(model.joint(name).qposadr[0])

        def dof_at(name: str) -> int:
            return int(model.joint(name).dofadr[0])

        self._palm_q, self._palm_v = qpos_at("rh_base"), dof_at("rh_base")
        self._object_q, self._object_v = qpos_at("object_free"), dof_at("object_free")
        self._joint_q = torch.tensor([qpos_at(j) for j in JOINT_NAMES])
        self._joint_v = torch.tensor([dof_at(j) for j in JOINT_NAMES])
        self._joint_u = torch.tensor([int(model.actuator(j).id) for j in JOINT_NAMES])
        servo = [int(model.body(name).mocapid[0]) for name in ("rh_target", "object_target")]
        self._mocap = torch.tensor(servo + giver_mocap_ids(model).tolist())
        self._lead = torch.tensor([BASE_LEAD_TIME, OBJECT_LEAD_TIME] + [0.0] * NUM_GIVER_JOINTS, dtype=torch.float64)

        def sensed(names: list[str]) -> Tensor:
            adr = torch.tensor([int(model.sensor(name).adr[0]) for name in names])
            return (adr[:, None] + torch.arange(3)).flatten()

        self._force_s = sensed([f"giver_force_{i}" for i in range(NUM_GIVER_JOINTS)])
        self._speed_s = sensed([f"giver_speed_{i}" for i in range(NUM_GIVER_JOINTS)])
        self._load_s = sensed(["load"])
        self._weld = batch.bind("eq_active")  # (n, equalities); `object_held` is the only one
        # where each mocap body was told to be at the end of the last frame, and the joints: (n, 18, 7), (n, 22)
        self._last_mocap = torch.zeros(n, len(self._mocap), 7, dtype=torch.float64)
        self._last_mocap[..., 3] = 1
        self._last_joints = torch.zeros(n, len(JOINT_NAMES), dtype=torch.float64)
        self._touch = {
            name: torch.zeros(n, *size, dtype=torch.float64) for name, size in _TOUCH.items()
        }  # contacts of the last frame, as `SceneState` has them
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
        poses = torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones.to(hand_pose)), dim=1)
        self._last_mocap[worlds] = poses
        self._last_joints[worlds] = joints.double()
        self._qpos[worlds, self._palm_q : self._palm_q + 7] = hand_pose
        self._qpos[worlds, self._object_q : self._object_q + 7] = object_pose
        self._qpos[worlds[:, None], self._joint_q] = self._last_joints[worlds]
        self._mocap_pos[worlds[:, None], self._mocap] = poses[..., :3]
        self._mocap_quat[worlds[:, None], self._mocap] = poses[..., 3:]
        self._ctrl[worlds[:, None], self._joint_u] = self._last_joints[worlds]
        for value in self._touch.values():
            value[worlds] = 0
        self._diverged[worlds] = False
        self._read_state()

    def grip(self, worlds: Tensor) -> None:
        """See `dexh2r_gym.sim.Simulator`: cones as they are, and as many iterations as the solver asks for.

        Cut short, or with pyramids for cones, it lets held objects creep out of the fingers.
        """
        assert self._batch is not None, "reset comes before grip"
        for world in worlds.tolist():
            model = self._models[world] = copy.copy(self._models[world])
            model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
            model.opt.impratio, model.opt.tolerance = 10.0, 1e-6
            model.opt.iterations, model.opt.ls_iterations = 100, 50
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
        target = torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones.to(hand_pose)), dim=1)[ids]
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
            self._feel(ids, torch.from_numpy(record["sensordata"]))
        self._diverged[ids] |= self._clock[ids] < due  # a warning of MuJoCo's stops a world before the frame's end
        self._last_mocap[ids] = target
        self._last_joints[ids] = joints[ids]
        self._read_state()

    def _feel(self, ids: Tensor, sensed: Tensor) -> None:
        """The contacts of a frame of worlds ids (n,); sensed (n, substeps, sensors)."""
        force = sensed[..., self._force_s].unflatten(-1, (-1, 3)).norm(dim=-1)  # (n, substeps, 16)
        parts = torch.stack((force[..., 0], *force[..., 1:].unflatten(-1, (5, 3)).sum(-1).unbind(-1)), dim=-1)
        touch = self._touch
        touch["giver_force"][ids] = force.sum(dim=-1).amax(dim=-1)
        touch["giver_peak"][ids] = parts.amax(dim=1)
        touch["giver_impulse"][ids] = parts.sum(dim=1) * self._dt / self._num_substeps
        speed = sensed[..., self._speed_s].unflatten(-1, (-1, 3)).norm(dim=-1)
        touch["contact_speed"][ids] = speed.flatten(1).amax(dim=-1)
        touch["load"][ids] = -sensed[..., self._load_s].mean(dim=1)  # the sensor says what the object does to the hand

    def _substep_controls(self, ids: Tensor, target: Tensor, joints: Tensor) -> Tensor:
        """Controls of every substep, (n, substeps, nu + 7 * nmocap), for worlds ids;

        target (n, 18, 7), joints (n, 22): at the end of the frame.
        """
        n, k = len(ids), self._num_substeps
        time = torch.arange(k, dtype=torch.float64) / k  # (k,) part of the frame gone when a substep starts
        last = self._last_mocap[ids]
        ahead = time[:, None] + self._lead / self._dt  # (k, 18)
        step = target[..., :3] - last[..., :3]
        position = last[:, None, :, :3] + ahead[..., None] * step[:, None]
        turn = quat_to_axis_angle(quat_multiply(target[..., 3:], quat_conjugate(last[..., 3:])))
        rotation = quat_multiply(quat_from_axis_angle(ahead[..., None] * turn[:, None]), last[:, None, :, 3:])
        pos = self._mocap_pos[ids][:, None].repeat(1, k, 1, 1)
        quat = self._mocap_quat[ids][:, None].repeat(1, k, 1, 1)
        pos[:, :, self._mocap], quat[:, :, self._mocap] = position, rotation
        ctrl = self._ctrl[ids][:, None].repeat(1, k, 1)
        last_joints = self._last_joints[ids]
        closing = (time + JOINT_LEAD_TIME / self._dt)[:, None]
        ctrl[:, :, self._joint_u] = last_joints[:, None] + closing * (joints - last_joints)[:, None]
        return torch.cat((ctrl, pos.reshape(n, k, -1), quat.reshape(n, k, -1)), dim=-1)

    def _read_state(self) -> None:
        pq, pv, oq, ov = self._palm_q, self._palm_v, self._object_q, self._object_v
        palm, thing = self._qpos[:, pq : pq + 7], self._qpos[:, oq : oq + 7]
        palm_spin = quat_rotate(palm[:, 3:], self._qvel[:, pv + 3 : pv + 6])  # MuJoCo's is in the body frame
        thing_spin = quat_rotate(thing[:, 3:], self._qvel[:, ov + 3 : ov + 6])
        joint_velocity = self._qvel[:, self._joint_v]
        hand_velocity = torch.cat((self._qvel[:, pv : pv + 3], palm_spin, joint_velocity), dim=-1)
        bad = ~torch.isfinite(self._qpos).all(dim=-1) | ~(self._qvel.abs().amax(dim=-1) < MAX_SPEED)
        self._diverged |= bad

        def sound(x: Tensor, before: Tensor | None) -> Tensor:
            """A diverged world keeps the last values that were sound."""
            keep = self._diverged.view(-1, *[1] * (x.ndim - 1))
            return torch.where(keep, x.new_zeros(()) if before is None else before, x)

        old = getattr(self, "state", None)
        self.state = SceneState(
            hand_pose=sound(palm, old and old.hand_pose),
            hand_joints=sound(self._qpos[:, self._joint_q], old and old.hand_joints),
            hand_velocity=sound(hand_velocity, None),
            object_pose=sound(thing, old and old.object_pose),
            object_velocity=sound(torch.cat((self._qvel[:, ov : ov + 3], thing_spin), dim=-1), None),
            **{name: sound(value, None) for name, value in self._touch.items()},
            diverged=self._diverged.clone(),
        )
