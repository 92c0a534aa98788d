"""The arm as MuJoCo bodies of capsules: for pictures, and for solvers that read MuJoCo models."""

from __future__ import annotations

from math import cos, sin

import mujoco
import numpy as np
import torch

from dexh2r_gym.arm.kinematics import (
    ARM_CAPSULES,
    ARM_JOINTS,
    BASE_AXES,
    BASE_POSITION,
    NUM_OWN_CAPSULES,
    PALM_OFFSET,
)
from dexh2r_gym.rotations import quat_from_matrix

ARM_PREFIX = "arm_"
ARM_JOINT_NAMES = tuple(ARM_PREFIX + joint.name for joint in ARM_JOINTS)
PALM_SITE = "arm_palm"
_SILVER, _BLUE, _DARK = (0.80, 0.81, 0.83, 1.0), (0.36, 0.49, 0.62, 1.0), (0.20, 0.21, 0.23, 1.0)


def add_arm(spec: mujoco.MjSpec, *, visuals: bool = True) -> mujoco.MjsBody:
    """Add the arm to the world of `spec`, without the hand, and return its last link.

    Joints `arm_shoulder_pan` to `arm_wrist_3`; the site `arm_palm` is where the hand's palm is. Nothing collides.

    Args:
        visuals: the capsules are seen (group 2), else they are in group 3.
    """
    axes = quat_from_matrix(torch.tensor(BASE_AXES, dtype=torch.float64).T).tolist()
    body = spec.worldbody.add_body(name=ARM_PREFIX + "base", pos=BASE_POSITION, quat=axes)
    bodies, pos, quat = [body], np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
    unit = 180 / np.pi if spec.compiler.degree else 1.0  # of joint ranges in this spec
    for joint in ARM_JOINTS:
        body = body.add_body(name=ARM_PREFIX + joint.name, pos=pos, quat=quat, gravcomp=1)
        body.add_joint(
            name=ARM_PREFIX + joint.name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=[0, 0, 1],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=[-joint.range * unit, joint.range * unit],
        )
        bodies.append(body)
        pos = np.array([joint.a, 0.0, joint.d])
        quat = np.array([cos(joint.alpha / 2), sin(joint.alpha / 2), 0.0, 0.0])
    body.add_site(name=PALM_SITE, pos=pos + np.array([0.0, 0.0, PALM_OFFSET]), group=5)
    group = 2 if visuals else 3
    for number, capsule in enumerate(ARM_CAPSULES[:-NUM_OWN_CAPSULES]):
        own = capsule.link == 6 and capsule.p0[2] > 0.1  # of the hand
        bodies[capsule.link].add_geom(
            name=f"{ARM_PREFIX}{number}",
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[*capsule.p0, *capsule.p1],
            size=[capsule.radius, 0, 0],
            contype=0,
            conaffinity=0,
            group=group,
            density=1000,
            rgba=_DARK if own or capsule.link == 0 else _SILVER,
        )
    if visuals:
        _add_caps(bodies)
    return body


def _add_caps(bodies: list[mujoco.MjsBody]) -> None:
    """Rings where a link's joint is, in the makers' blue."""
    for link, at, radius in (
        (1, (0, -0.17, 0.1807), 0.075),
        (2, (0, 0, 0.245), 0.062),
        (2, (-0.6127, 0, 0.245), 0.058),
        (4, (0, 0, -0.012), 0.044),
        (5, (0, 0, -0.052), 0.044),
        (6, (0, 0, -0.050), 0.042),
    ):
        along = (0, 1, 0) if link == 1 else (0, 0, 1)
        ends = [np.array(at) + s * 0.006 * np.array(along) for s in (-1, 1)]
        bodies[link].add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            name=f"{ARM_PREFIX}cap_{link}_{at[0]}",
            fromto=[*ends[0], *ends[1]],
            size=[radius, 0, 0],
            contype=0,
            conaffinity=0,
            group=2,
            mass=0,
            rgba=_BLUE,
        )
