"""Physical test of grasps: does the object stay in the fingers when it is pushed along each of the six axes?

Two protocols share one procedure. The hand is fixed, its joints are position-driven, there is no gravity. The grasp is
tightened: fingers that start a little open close on the object and press. Then the object is pushed along +x -x +y -y
+z -z of its frame, each time from the tightened state, and how far it then is from where the grasp was planned is
measured at its centre of mass.

`RELEASED` takes its numbers from the released code of DexH2R (PhysX there, MuJoCo here: friction 2, 1000 kg/m^3,
damping 10/s linear and 100/s angular, 200 steps of tightening, 50 steps of 500 N/m^3 at 60 Hz, 2 substeps, stable below
2 cm). `GRAVITY` is harder: the object's own mass, its weight in place of those gentle forces, for 2 s, friction 0.8 and
no damping.

Many grasps run side by side, each with its own object. A world stops early where the outcome is settled: the object is
lost (further off than it could be called back from), or it rests, so slow that in the time that is left it could not
move by two millimetres. Each world is judged by itself: its numbers do not depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.grasps.tighten import tighten
from dexh2r_gym.hand import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, add_hand
from dexh2r_gym.objects import ObjectModel, add_object
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_rotate

STABLE_DISTANCE = 0.02  # m
DIRECTIONS = torch.tensor(
    [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64
)  # (6, 3) of the pushes, object frame
_LOST_DISTANCE = 0.03  # m, an object this far off does not come back
_CREEP = 0.002  # m, what an object at rest could still move by in the time that is left
_JOINT_REST = 0.1  # rad/s, joints slower than this have closed
_CLOSING_STEPS = 20  # of 1/60 s, in which the fingers close from a little open to their targets
_LOOK_STEPS = 5  # of 1/60 s between two looks at whether a world is settled
_GRAVITY = 9.81  # m/s^2
_WORLDS = 256  # grasps simulated side by side


@dataclass(frozen=True)
class Protocol:
    """What a grasp has to bear. Steps are of 1/60 s."""

    friction: float
    density: float | None  # kg/m^3; None: the object's own mass
    force_density: float | None  # N/m^3 of volume; None: the object's weight
    linear_damping: float  # 1/s, deceleration per speed
    angular_damping: float  # 1/s
    tighten_steps: int
    push_steps: int
    substeps: int


RELEASED = Protocol(2.0, 1000.0, 500.0, 10.0, 100.0, tighten_steps=200, push_steps=50, substeps=2)
GRAVITY = Protocol(0.8, None, None, 0.0, 0.0, tighten_steps=60, push_steps=120, substeps=2)


def displacements(
    objects: ObjectModel | Sequence[ObjectModel],
    palm_pose: Tensor,
    joints: Tensor,
    protocol: Protocol,
    *,
    index: Tensor | None = None,
    directions: Tensor | None = None,
    num_threads: int = 0,
) -> Tensor:
    """How far each push moves the object from where the grasp was planned: (G, K) metres.

    Deterministic, and the same whatever stands beside a grasp and however many threads there are.

    Args:
        objects: one object, or those that `index` points into.
        palm_pose: (G, 7) in the object's frame; joints: (G, 22).
        index: (G,) long, the object of each grasp; None: all hold the first.
        directions: (G, K, 3) unit, in the object's frame, of the K pushes of each grasp; None: the six `DIRECTIONS`.
        num_threads: of the simulation, 0 for all cores.

    Returns:
        (G, K) float64; an object that is lost counts as being where it was when that was plain, 3 cm away or further;
        inf where physics diverged.
    """
    objects = (objects,) if isinstance(objects, ObjectModel) else tuple(objects)
    index = torch.zeros(len(joints), dtype=torch.long) if index is None else index
    directions = DIRECTIONS.expand(len(joints), -1, -1) if directions is None else directions.double()
    parts = [torch.zeros(0, directions.shape[1], dtype=torch.float64)]
    for first in range(0, len(joints), _WORLDS):
        rows = slice(first, first + _WORLDS)
        run = _Run(objects, index[rows], palm_pose[rows], joints[rows], protocol, num_threads)
        parts.append(torch.from_numpy(run.result(directions[rows])))
    return torch.cat(parts)


def is_stable(displacement: Tensor) -> Tensor:
    """Stable under all six pushes (succ6). (..., 6) -> (...) bool"""
    return (displacement < STABLE_DISTANCE).all(-1)


@lru_cache(maxsize=256)
def _model(obj: ObjectModel, protocol: Protocol) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.option.timestep = 1 / 60 / protocol.substeps
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # grip: friction as stiff as contact, no creep
    spec.option.tolerance = 1e-6  # with as many iterations as that takes: cut short, the solver drops grasps that hold
    spec.option.gravity = [0, 0, 0]
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_MIDPHASE
    add_hand(spec, visuals=False, fixed_base=True)
    body = add_object(spec, obj, visuals=False)
    if protocol.density is not None:
        scale = protocol.density * obj.volume / obj.mass
        body.mass *= scale
        body.fullinertia = scale * np.array(body.fullinertia)
    model = spec.compile()
    model.geom_friction[:, 0] = protocol.friction
    start = model.joint("object_free").dofadr[0]
    number = model.body("object").id
    model.dof_damping[start : start + 3] = protocol.linear_damping * model.body_mass[number]
    model.dof_damping[start + 3 : start + 6] = protocol.angular_damping * model.body_inertia[number].max()
    return model


class _Run:
    """The test of at most _WORLDS grasps, a world each. The hands stay at the origin."""

    def __init__(
        self,
        objects: tuple[ObjectModel, ...],
        index: Tensor,
        palm_pose: Tensor,
        joints: Tensor,
        protocol: Protocol,
        num_threads: int,
    ) -> None:
        own = [objects[i] for i in index.tolist()]
        models = [_model(obj, protocol) for obj in own]
        model = models[0]
        self._protocol = protocol
        self._batch = mujoco.batch.Batch(model, nsim=len(own), nthread=num_threads)
        self._batch.set_models(models)
        self._qpos, self._qvel, self._ctrl, self._wrench = (
            self._batch.bind(name) for name in ("qpos", "qvel", "ctrl", "xfrc_applied")
        )
        self._joint_q = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
        self._joint_v = [int(model.joint(name).dofadr[0]) for name in JOINT_NAMES]
        self._actuator = [int(model.actuator(name).id) for name in JOINT_NAMES]
        self._body = model.body("object").id
        self._at = int(model.joint("object_free").qposadr[0])
        self._speed_at = int(model.joint("object_free").dofadr[0])

        targets = tighten(objects, palm_pose, joints, index=index).double().numpy()
        planned = joints.double().numpy()
        self._object_pose = pose_inverse(palm_pose.double())
        self._center = torch.from_numpy(np.stack([obj.center_of_mass for obj in own]))
        self._planned = pose_apply(self._object_pose, self._center)
        self._reach = np.array([obj.radius for obj in own])  # m, a turn moves no point of the object by more than this
        mass = np.array([m.body_mass[self._body] for m in models])
        volume = np.array([obj.volume for obj in own])
        density = protocol.force_density
        self._force = mass * _GRAVITY if density is None else density * volume  # N
        # a little open first, clear of the object, so that nothing is thrown out
        self._opened = np.clip(planned - (targets - planned), JOINT_LOWER.numpy(), JOINT_UPPER.numpy())
        self._targets = targets
        self._qpos[:, self._at : self._at + 7] = self._object_pose.numpy()
        self._qpos[:, self._joint_q] = self._opened

    def result(self, directions: Tensor) -> np.ndarray:
        """Displacements (G, K), metres, under pushes along directions (G, K, 3)."""
        protocol, count = self._protocol, len(self._force)
        alive = np.ones(count, dtype=bool)
        for closed in np.linspace(0, 1, _CLOSING_STEPS):
            self._ctrl[:, self._actuator] = self._opened + closed * (self._targets - self._opened)
            alive = self._advance(1, alive)
        alive = self._until_settled(protocol.tighten_steps - _CLOSING_STEPS, alive)
        warm = self._batch.bind("qacc_warmstart")
        tight = self._qpos.copy(), self._qvel.copy(), warm.copy()
        lost = self._moved() > _LOST_DISTANCE
        distance = np.where(alive, self._moved(), np.inf)[:, None].repeat(directions.shape[1], axis=1)
        for k in range(directions.shape[1]):
            self._qpos[:], self._qvel[:], warm[:] = tight
            push = torch.from_numpy(self._force)[:, None] * directions[:, k]
            self._wrench[:, self._body, :3] = quat_rotate(self._object_pose[:, 3:], push).numpy()
            pushed = alive & ~lost
            survived = self._until_settled(protocol.push_steps, pushed)
            distance[pushed, k] = np.where(survived, self._moved(), np.inf)[pushed]
        return distance

    def _until_settled(self, steps: int, alive: np.ndarray) -> np.ndarray:
        """At most so many steps of the worlds that are alive, each until it is settled. -> (G,) bool, still sound"""
        running = alive.copy()
        for done in range(0, steps, _LOOK_STEPS):
            if not running.any():
                break
            sound = self._advance(min(_LOOK_STEPS, steps - done), running)
            alive = alive & (sound | ~running)
            running = running & sound & ~self._settled((steps - done - _LOOK_STEPS) / 60)
        return alive

    def _settled(self, left: float) -> np.ndarray:
        """(G,) bool: lost, or at rest for good, with so many seconds left."""
        velocity = self._qvel[:, self._speed_at : self._speed_at + 6]
        speed = np.linalg.norm(velocity[:, :3], axis=1) + self._reach * np.linalg.norm(velocity[:, 3:], axis=1)
        closed = np.abs(self._qvel[:, self._joint_v]).max(axis=1) < _JOINT_REST
        return (closed & (speed * max(left, 0.0) < _CREEP)) | (self._moved() > _LOST_DISTANCE)

    def _moved(self) -> np.ndarray:
        """(G,) metres from where the grasp was planned; inf where that is no number."""
        now = pose_apply(torch.from_numpy(self._qpos[:, self._at : self._at + 7]), self._center)
        moved = (now - self._planned).norm(dim=-1).numpy()
        return np.where(np.isfinite(moved), moved, np.inf)

    def _advance(self, steps: int, alive: np.ndarray) -> np.ndarray:
        """Step the worlds that are alive, and say which of them still are. (G,) bool -> (G,) bool"""
        try:
            self._batch.step(ids=np.flatnonzero(alive).astype(np.int32), nstep=steps * self._protocol.substeps)
        except mujoco.batch.SimulationError as error:
            alive = alive.copy()
            alive[error.ids] = False
        return alive & np.isfinite(self._qpos).all(-1)
