"""What simulators with contacts share: where the scene's numbers are in MuJoCo's arrays, how targets move within a
frame, and what its contacts come to. All of it is batched and stays on the device of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from dexh2r_gym.giver import giver_mocap_ids
from dexh2r_gym.hand import BASE_LEAD_TIME, JOINT_LEAD_TIME, JOINT_NAMES
from dexh2r_gym.rotations import quat_conjugate, quat_from_axis_angle, quat_multiply, quat_rotate, quat_to_axis_angle
from dexh2r_gym.scene import OBJECT_WELD_IMPEDANCE, OBJECT_WELD_TIME
from dexh2r_gym.types import GIVER_PARTS, MAX_SPEED, NUM_GIVER_JOINTS, SceneState

OBJECT_LEAD_TIME = 2 * OBJECT_WELD_IMPEDANCE * OBJECT_WELD_TIME  # damping over stiffness of the weld
NUM_TARGETS = 2 + NUM_GIVER_JOINTS  # mocap bodies: of the palm, of the object, and the giver's bones
_TOUCH: dict[str, tuple[int, ...]] = {
    "giver_force": (),
    "giver_peak": (len(GIVER_PARTS),),
    "giver_impulse": (len(GIVER_PARTS),),
    "contact_speed": (),
    "load": (3,),
}


@dataclass(frozen=True)
class Layout:
    """Addresses, the same in all scenes of a batch: in qpos (_q), qvel (_v), ctrl (_u) and sensordata (_s).

    Attributes:
        mocap: (18,) rows of the mocap bodies: palm, object, giver's bones. lead: (18,) s that their targets lead by.
    """

    object_body: int
    palm_q: slice
    palm_v: slice
    object_q: slice
    object_v: slice
    joint_q: Tensor
    joint_v: Tensor
    joint_u: Tensor
    mocap: Tensor
    lead: Tensor
    force_s: Tensor
    speed_s: Tensor
    load_s: Tensor

    @classmethod
    def of(cls, model: mujoco.MjModel, device: torch.device | str = "cpu") -> Layout:
        """That of a scene's model."""
        palm, thing = model.joint("rh_base"), model.joint("object_free")
        joints = [model.joint(name) for name in JOINT_NAMES]
        servo = [int(model.body(name).mocapid[0]) for name in ("rh_target", "object_target")]

        def sensed(names: list[str]) -> Tensor:
            adr = torch.tensor([int(model.sensor(name).adr[0]) for name in names], device=device)
            return (adr[:, None] + torch.arange(3, device=device)).flatten()

        return cls(
            object_body=int(model.body("object").id),
            palm_q=slice(int(palm.qposadr[0]), int(palm.qposadr[0]) + 7),
            palm_v=slice(int(palm.dofadr[0]), int(palm.dofadr[0]) + 6),
            object_q=slice(int(thing.qposadr[0]), int(thing.qposadr[0]) + 7),
            object_v=slice(int(thing.dofadr[0]), int(thing.dofadr[0]) + 6),
            joint_q=torch.tensor([int(j.qposadr[0]) for j in joints], device=device),
            joint_v=torch.tensor([int(j.dofadr[0]) for j in joints], device=device),
            joint_u=torch.tensor([int(model.actuator(name).id) for name in JOINT_NAMES], device=device),
            mocap=torch.tensor(servo + giver_mocap_ids(model).tolist(), device=device),
            lead=torch.tensor(
                [BASE_LEAD_TIME, OBJECT_LEAD_TIME] + [0.0] * NUM_GIVER_JOINTS, dtype=torch.float64, device=device
            ),
            force_s=sensed([f"giver_force_{i}" for i in range(NUM_GIVER_JOINTS)]),
            speed_s=sensed([f"giver_speed_{i}" for i in range(NUM_GIVER_JOINTS)]),
            load_s=sensed(["load"]),
        )

    def targets(
        self, last: Tensor, target: Tensor, last_joints: Tensor, joints: Tensor, num_substeps: int, dt: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What servos are told in every substep: mocap positions (n, substeps, 18, 3), rotations (n, substeps, 18, 4),
        joints (n, substeps, 22).

        Targets move at constant velocity from last (n, 18, 7) and last_joints (n, 22) to target and joints at the
        frame's end. A servo follows a moving target late by its damping over its stiffness; hand and object targets
        lead by that time, so that neither trails behind.
        """
        gone = torch.arange(num_substeps, dtype=torch.float64, device=last.device) / num_substeps  # part of the frame
        ahead = gone[:, None] + self.lead / dt  # (substeps, 18)
        way = target[..., :3] - last[..., :3]
        position = last[:, None, :, :3] + ahead[..., None] * way[:, None]
        turn = quat_to_axis_angle(quat_multiply(target[..., 3:], quat_conjugate(last[..., 3:])))
        rotation = quat_multiply(quat_from_axis_angle(ahead[..., None] * turn[:, None]), last[:, None, :, 3:])
        closing = (gone + JOINT_LEAD_TIME / dt)[:, None]
        return position, rotation, last_joints[:, None] + closing * (joints - last_joints)[:, None]

    def touch(self, sensed: Tensor, dt: float) -> dict[str, Tensor]:
        """The contacts of a frame of dt seconds, as `SceneState` has them; sensed (n, substeps, sensors)."""
        force = sensed[..., self.force_s].unflatten(-1, (-1, 3)).norm(dim=-1)  # (n, substeps, 16)
        parts = torch.stack((force[..., 0], *force[..., 1:].unflatten(-1, (5, 3)).sum(-1).unbind(-1)), dim=-1)
        speed = sensed[..., self.speed_s].unflatten(-1, (-1, 3)).norm(dim=-1)
        return {
            "giver_force": force.sum(dim=-1).amax(dim=-1),
            "giver_peak": parts.amax(dim=1),
            "giver_impulse": parts.sum(dim=1) * dt / sensed.shape[1],
            "contact_speed": speed.flatten(1).amax(dim=-1),
            "load": -sensed[..., self.load_s].mean(dim=1),  # the sensor says what the object does to the hand
        }

    def state(
        self, qpos: Tensor, qvel: Tensor, touch: dict[str, Tensor], diverged: Tensor, before: SceneState | None
    ) -> SceneState:
        """What worlds show, qpos (B, nq) and qvel (B, nv) float64. Those that have diverged, (B,) bool, keep the last
        poses that were sound."""
        palm, thing = qpos[:, self.palm_q], qpos[:, self.object_q]
        linear, spin = qvel[:, self.palm_v].split(3, dim=-1)
        thing_linear, thing_spin = qvel[:, self.object_v].split(3, dim=-1)
        # MuJoCo's spins are in the bodies' frames
        hand_velocity = torch.cat((linear, quat_rotate(palm[:, 3:], spin), qvel[:, self.joint_v]), dim=-1)
        object_velocity = torch.cat((thing_linear, quat_rotate(thing[:, 3:], thing_spin)), dim=-1)

        def sound(x: Tensor, last: Tensor | None) -> Tensor:
            keep = diverged.view(-1, *[1] * (x.ndim - 1))
            return torch.where(keep, x.new_zeros(()) if last is None else last, x)

        return SceneState(
            hand_pose=sound(palm, None if before is None else before.hand_pose),
            hand_joints=sound(qpos[:, self.joint_q], None if before is None else before.hand_joints),
            hand_velocity=sound(hand_velocity, None),
            object_pose=sound(thing, None if before is None else before.object_pose),
            object_velocity=sound(object_velocity, None),
            **{name: sound(value, None) for name, value in touch.items()},
            diverged=diverged.clone(),
        )


def firm_friction(model: mujoco.MjModel) -> None:
    """Options of a model in which hands grip: cones as they are, and as many iterations as the solver asks for.

    Cut short, or with pyramids for cones, it lets held objects creep out of the fingers.
    """
    model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    model.opt.impratio, model.opt.tolerance = 10.0, 1e-6
    model.opt.iterations, model.opt.ls_iterations = 100, 50


def no_touch(num_worlds: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Worlds in which nothing touches, as `Layout.touch` has them."""
    return {name: torch.zeros(num_worlds, *size, dtype=torch.float64, device=device) for name, size in _TOUCH.items()}


def unsound(qpos: Tensor, qvel: Tensor) -> Tensor:
    """Worlds whose numbers are not physics any more, (B,) bool."""
    return ~torch.isfinite(qpos).all(dim=-1) | ~(qvel.abs().amax(dim=-1) < MAX_SPEED)
