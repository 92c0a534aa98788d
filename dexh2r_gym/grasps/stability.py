"""Physical test of grasps: does the object stay in the fingers when it is pushed along each of the six axes?

Two protocols share one procedure. The hand is fixed, its joints are position-driven, there is no gravity. The grasp is
tightened: fingers that start a little open close on the object and press. Then the object is pushed along +x -x +y -y
+z -z of its frame, each time from the tightened state, and how far it then is from where the grasp was planned is
measured at its centre of mass.

`RELEASED` takes its numbers from the released code of DexH2R (PhysX there, MuJoCo here: friction 2, 1000 kg/m^3,
damping 10/s linear and 100/s angular, 200 steps of tightening, 50 steps of 500 N/m^3 at 60 Hz, stable below 2 cm).
`GRAVITY` is harder: the object's own mass, its weight in place of those gentle forces, friction 0.8 and no damping.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import mujoco.batch
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dexh2r_gym.hand import (
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    LINK_NAMES,
    SURFACE_LINK,
    add_hand,
    clamp_joints,
    surface_points,
)
from dexh2r_gym.objects import ObjectModel, add_object
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_rotate

STABLE_DISTANCE = 0.02  # m
DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float64)
TIGHTEN_RANGE = 0.005  # m, surface points this near to the object press on it
TIGHTEN_STEP = 0.08  # rad, how far the joint that helps a finger most moves its target
_FINGERS = ("FF", "MF", "RF", "LF", "TH")
_CLOSING_STEPS = 20  # of 1/60 s, in which the fingers close from a little open to their targets
_GRAVITY = 9.81  # m/s^2
_WORLDS = 64  # grasps simulated side by side


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
    substeps: int = 4


RELEASED = Protocol(2.0, 1000.0, 500.0, 10.0, 100.0, tighten_steps=200, push_steps=50)
GRAVITY = Protocol(0.8, None, None, 0.0, 0.0, tighten_steps=60, push_steps=60)


def tighten(obj: ObjectModel, palm_pose: Tensor, joints: Tensor, step: float = TIGHTEN_STEP) -> Tensor:
    """Joint targets (..., 22) that press the fingers of a grasp, palm (..., 7) and joints (..., 22), on the object.

    One step of the joints along the gradient that moves surface points within 5 mm of the object against its normals.
    Each finger's step is scaled so that its most useful joint moves by `step` radians.
    """
    with torch.enable_grad():
        moving = joints.detach().float().requires_grad_()
        points, normals = surface_points(palm_pose.detach().float(), moving)
        fingers = ~torch.tensor([name in ("rh_palm", "rh_wrist") for name in LINK_NAMES])[SURFACE_LINK]
        near = (obj.signed_distance_fast(points.detach()).abs() < TIGHTEN_RANGE) & fingers
        outward = _outward(obj, points.detach())
        facing = (normals.detach() * outward).sum(-1) < 0  # the back of a finger pulls nothing
        push = torch.where(near & facing, -(points * outward).sum(-1), 0.0).sum()
        (slope,) = torch.autograd.grad(push, moving)
    finger = torch.tensor([_FINGERS.index(name[:2]) for name in JOINT_NAMES]).expand(slope.shape)
    largest = slope.new_zeros(*slope.shape[:-1], len(_FINGERS)).scatter_reduce(-1, finger, slope.abs(), "amax")
    target = joints + step * (slope / largest.gather(-1, finger).clamp_min(1e-6)).to(joints)
    return clamp_joints(target)


def displacements(
    obj: ObjectModel, palm_pose: Tensor, joints: Tensor, protocol: Protocol, num_threads: int = 0
) -> Tensor:
    """How far each push moves the object from where the grasp was planned: (G, 6) metres; inf where physics diverged.

    palm_pose (G, 7) in the object's frame, joints (G, 22). Deterministic, and the same whatever G and the threads.
    """
    targets = tighten(obj, palm_pose, joints)
    model = _model(obj, protocol)
    parts = []
    for first in range(0, len(joints), _WORLDS):
        pose, planned, pressed = (x[first : first + _WORLDS].double().numpy() for x in (palm_pose, joints, targets))
        parts.append(_run(model, obj, protocol, pose, planned, pressed, num_threads))
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, 6, dtype=torch.float64)


def is_stable(displacement: Tensor) -> Tensor:
    """Stable under all six pushes (succ6). (..., 6) -> (...) bool"""
    return (displacement < STABLE_DISTANCE).all(-1)


def _outward(obj: ObjectModel, points: Tensor, h: float = 0.003) -> Tensor:
    """Unit gradient of the distance field at points (..., 3), by differences over h metres."""
    offsets = h * torch.eye(3).to(points)
    p = points[..., None, :]
    return normalize(obj.signed_distance_fast(p + offsets) - obj.signed_distance_fast(p - offsets), dim=-1)


def _model(obj: ObjectModel, protocol: Protocol) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.option.timestep = 1 / 60 / protocol.substeps
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # grip: friction as stiff as contact, no creep
    spec.option.gravity = [0, 0, 0]
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    add_hand(spec, visuals=False, fixed_base=True)
    body = add_object(spec, obj, visuals=False)
    if protocol.density is not None:
        scale = protocol.density * obj.volume / obj.mass
        body.mass *= scale
        body.fullinertia = scale * np.array(body.fullinertia)
    model = spec.compile()
    model.geom_friction[:, 0] = protocol.friction
    start = model.joint("object_free").dofadr[0]
    index = model.body("object").id
    model.dof_damping[start : start + 3] = protocol.linear_damping * model.body_mass[index]
    model.dof_damping[start + 3 : start + 6] = protocol.angular_damping * model.body_inertia[index].max()
    return model


def _run(
    model: mujoco.MjModel,
    obj: ObjectModel,
    protocol: Protocol,
    palm_pose: np.ndarray,
    joints: np.ndarray,
    targets: np.ndarray,
    num_threads: int,
) -> np.ndarray:
    """One batch of worlds, a grasp each: (G, 6) metres."""
    count = len(joints)
    batch = mujoco.batch.Batch(model, nsim=count, nthread=num_threads)
    qpos, qvel, ctrl, wrench = (batch.bind(name) for name in ("qpos", "qvel", "ctrl", "xfrc_applied"))
    joint_q = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
    actuator = [int(model.actuator(name).id) for name in JOINT_NAMES]
    at = int(model.joint("object_free").qposadr[0])
    body = model.body("object").id

    object_pose = pose_inverse(torch.from_numpy(palm_pose))  # the hand stays at the origin
    center = torch.from_numpy(obj.center_of_mass)
    planned = pose_apply(object_pose, center)
    qpos[:, at : at + 7] = object_pose.numpy()
    lower, upper = JOINT_LOWER.numpy(), JOINT_UPPER.numpy()
    opened = np.clip(joints - (targets - joints), lower, upper)  # clear of the object, so that nothing is thrown out
    qpos[:, joint_q] = opened
    alive = np.ones(count, dtype=bool)
    for closed in np.linspace(0, 1, _CLOSING_STEPS):
        ctrl[:, actuator] = opened + closed * (targets - opened)
        alive = _advance(batch, protocol.substeps, alive)
    alive = _advance(batch, (protocol.tighten_steps - _CLOSING_STEPS) * protocol.substeps, alive)
    tight = qpos.copy(), qvel.copy(), batch.bind("qacc_warmstart").copy()

    mass = float(model.body_mass[body])
    force = mass * _GRAVITY if protocol.force_density is None else protocol.force_density * obj.volume
    distance = np.full((count, len(DIRECTIONS)), np.inf)
    for k, direction in enumerate(DIRECTIONS):
        qpos[:], qvel[:], batch.bind("qacc_warmstart")[:] = tight
        push = quat_rotate(object_pose[:, 3:], torch.from_numpy(force * direction).expand(count, 3))
        wrench[:, body, :3] = push.numpy()
        survived = _advance(batch, protocol.push_steps * protocol.substeps, alive)
        now = pose_apply(torch.from_numpy(qpos[:, at : at + 7]), center)
        moved = (now - planned).norm(dim=-1).numpy()
        distance[:, k] = np.where(survived & np.isfinite(moved), moved, np.inf)
    return distance


def _advance(batch: mujoco.batch.Batch, steps: int, alive: np.ndarray) -> np.ndarray:
    """Step the worlds that are sound, and say which still are. (G,) bool -> (G,) bool"""
    try:
        batch.step(ids=np.flatnonzero(alive).astype(np.int32), nstep=steps)
    except mujoco.batch.SimulationError as error:
        alive = alive.copy()
        alive[error.ids] = False
    return alive & np.isfinite(batch.bind("qpos")).all(-1)
