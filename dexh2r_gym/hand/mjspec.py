"""The ShadowHand as MuJoCo bodies: collision primitives, Shadow's meshes to look at, position servos.

The palm `rh_palm` floats on a free joint and is drawn to the mocap body `rh_target` by six servos that act between the
sites of the two, in the target's axes. A caller moves the target by writing its mocap pose; the servos' own controls,
offsets from that pose in metres and radians, stay zero. A servo trails a target that moves at constant velocity by
`BASE_LEAD_TIME`: give the step that starts at time t the target of time t + `BASE_LEAD_TIME`, and there is no lag.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from dexh2r_gym.hand.kinematics import JOINTS, LINK_NAMES, PALM, WRIST, WRIST_POSITION, Vec3
from dexh2r_gym.hand.shapes import Capsule, hand_shapes

HAND_CONTYPE, HAND_CONAFFINITY = 1, 6  # meets objects (2) and givers (4)
_OPPOSED = 8  # the outer thumb (contype) meets the outer fingers (conaffinity); no other two parts of the hand do

BASE_STIFFNESS = (16000.0, 100.0)  # N/m, N m/rad; critically damped, as measured: about 100 rad/s
BASE_LEAD_TIME = 0.02  # s, damping over stiffness
BASE_LIMIT = (150.0, 10.0)  # N, N m
_BASE_CENTER = (0.007, 0.0, 0.06)  # m, palm frame: near the centre of mass, so that pushing does not turn the hand

JOINT_STIFFNESS = 7.5  # N m/rad
JOINT_LEAD_TIME = 0.02  # s, damping over stiffness
_JOINT_ARMATURE = 1e-3  # kg m^2, the motor's inertia seen at the joint
_JOINT_LIMIT = {"J5": 2.0, "J4": 2.0, "J3": 2.0, "J2": 1.2, "J1": 1.2}  # N m

_PALM_MASS, _PALM_INERTIA = 1.0, 0.006  # kg, kg m^2: with a share of the arm that carries it
_MASS = {
    WRIST: 0.2, "knuckle": 0.008, "proximal": 0.030, "middle": 0.017, "distal": 0.013,
    "lfmetacarpal": 0.030, "thbase": 0.010, "thproximal": 0.040, "thhub": 0.005, "thmiddle": 0.020, "thdistal": 0.017,
}  # fmt: skip
"""kg, by link or by part of a finger; finger parts as in Shadow Robot's URDF."""
_SMALL_RADIUS = 0.008  # m, bodies without a shape of their own have the inertia of a ball of this radius

_ASSETS = Path(__file__).parent.parent / "assets" / "shadow_hand"
_DARK, _METAL, _RUBBER = (0.20, 0.21, 0.23, 1.0), (0.58, 0.59, 0.61, 1.0), (0.11, 0.11, 0.12, 1.0)
_LOOKS = {
    "palm": _DARK, "wrist": _METAL, "lf_metacarpal": _DARK, "f_knuckle": _METAL, "f_proximal": _DARK,
    "f_middle": _DARK, "f_distal": _RUBBER, "th_proximal": _DARK, "th_middle": _DARK, "th_distal": _RUBBER,
}  # fmt: skip


def add_hand(
    spec: mujoco.MjSpec, *, visuals: bool = True, fixed_base: bool = False, prefix: str = ""
) -> mujoco.MjsBody:
    """Add the hand to the world of `spec` and return its palm's body.

    Joints and their position actuators bear the names `JOINT_NAMES`; an actuator's control is the joint's target angle.

    Args:
        visuals: add Shadow's meshes (group 2) over the primitives (group 3); else the primitives are what is seen.
        fixed_base: leave out the free joint `rh_base`, the mocap body `rh_target` and the six servos `rh_base_*`.
        prefix: put before every name.
    """
    world = spec.worldbody
    palm = world.add_body(name=prefix + PALM, gravcomp=1)
    if not fixed_base:
        palm.add_freejoint(name=prefix + "rh_base")
        _add_base_servos(spec, palm, prefix)
    unit = 180 / np.pi if spec.compiler.degree else 1.0  # of joint ranges in this spec
    bodies = {PALM: palm, WRIST: palm.add_body(name=prefix + WRIST, pos=WRIST_POSITION, gravcomp=1)}
    for row in JOINTS:
        body = bodies[row.parent].add_body(name=prefix + row.child, pos=row.position, quat=row.frame, gravcomp=1)
        bodies[row.child] = body
        limit = _JOINT_LIMIT[row.name[-2:]]
        body.add_joint(
            name=prefix + row.name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=row.axis,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=np.array([row.lower, row.upper]) * unit,
            armature=_JOINT_ARMATURE,
        )
        spec.add_actuator(
            name=prefix + row.name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target=prefix + row.name,
            ctrllimited=mujoco.mjtLimited.mjLIMITED_TRUE,
            ctrlrange=[row.lower, row.upper],
            **_servo(JOINT_STIFFNESS, JOINT_LEAD_TIME * JOINT_STIFFNESS, limit),
        )
    _add_shapes(bodies, visuals, prefix)
    _add_masses(bodies)
    if visuals:
        _add_meshes(spec, bodies, prefix)
    return palm


def _servo(stiffness: float, damping: float, limit: float) -> dict:
    """Actuator fields of force = stiffness (control - position) - damping velocity, within +-limit."""
    gain, bias = np.zeros(10), np.zeros(10)
    gain[0], bias[1], bias[2] = stiffness, -stiffness, -damping
    return {
        "gaintype": mujoco.mjtGain.mjGAIN_FIXED,
        "biastype": mujoco.mjtBias.mjBIAS_AFFINE,
        "gainprm": gain,
        "biasprm": bias,
        "forcelimited": mujoco.mjtLimited.mjLIMITED_TRUE,
        "forcerange": [-limit, limit],
    }


def _add_base_servos(spec: mujoco.MjSpec, palm: mujoco.MjsBody, prefix: str) -> None:
    target = spec.worldbody.add_body(name=prefix + "rh_target", mocap=True)
    target.add_site(name=prefix + "rh_target_site", pos=_BASE_CENTER, group=5)
    palm.add_site(name=prefix + "rh_palm_site", pos=_BASE_CENTER, group=5)
    for i, name in enumerate(("x", "y", "z", "rx", "ry", "rz")):
        stiffness, limit = BASE_STIFFNESS[i // 3], BASE_LIMIT[i // 3]
        spec.add_actuator(
            name=f"{prefix}rh_base_{name}",
            trntype=mujoco.mjtTrn.mjTRN_SITE,
            target=prefix + "rh_palm_site",
            refsite=prefix + "rh_target_site",
            gear=np.eye(6)[i],
            **_servo(stiffness, BASE_LEAD_TIME * stiffness, limit),
        )


def _add_shapes(bodies: dict[str, mujoco.MjsBody], visuals: bool, prefix: str) -> None:
    for number, shape in enumerate(hand_shapes()):
        link = LINK_NAMES[shape.link]
        outer = link.endswith(("middle", "distal"))
        thumb = link.startswith("rh_th")
        geom = bodies[link].add_geom(
            name=f"{prefix}{link}_{number}",
            contype=HAND_CONTYPE | (_OPPOSED if outer and thumb else 0),
            conaffinity=HAND_CONAFFINITY | (_OPPOSED if outer and not thumb else 0),
            friction=[1.0, 0.005, 0.0001],
            solref=[0.01, 1.0],
            group=3 if visuals else 2,
            rgba=_RUBBER if link.endswith("distal") else _DARK,
        )
        if isinstance(shape, Capsule):
            geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
            geom.fromto = [*shape.p0, *shape.p1]
            geom.size[0] = shape.radius
        else:
            geom.type = mujoco.mjtGeom.mjGEOM_BOX
            geom.pos, geom.quat, geom.size = shape.center, shape.quat, shape.half


def _add_masses(bodies: dict[str, mujoco.MjsBody]) -> None:
    """The palm's is given; other bodies spread theirs over their shapes, one without any is a small ball."""
    for link, body in bodies.items():
        if link == PALM:
            _set_inertia(body, _PALM_MASS, _PALM_INERTIA, _BASE_CENTER)
            continue
        name = link.removeprefix("rh_")
        mass = next(_MASS[key] for key in (link, name, name[2:]) if key in _MASS)
        if not body.geoms:
            _set_inertia(body, mass, 0.4 * mass * _SMALL_RADIUS**2, (0.0, 0.0, 0.0))
        for geom in body.geoms:
            geom.mass = mass / len(body.geoms)


def _set_inertia(body: mujoco.MjsBody, mass: float, inertia: float, center: Vec3) -> None:
    body.mass, body.inertia, body.ipos, body.explicitinertial = mass, [inertia] * 3, center, True


def _add_meshes(spec: mujoco.MjSpec, bodies: dict[str, mujoco.MjsBody], prefix: str) -> None:
    for name in _LOOKS:
        spec.add_mesh(name=f"{prefix}rh_{name}", file=str(_ASSETS / f"{name}.obj"), scale=[0.001] * 3)
    for link, body in bodies.items():
        name = link.removeprefix("rh_")
        if name.startswith(("ff", "mf", "rf", "lf", "th")):
            kind, part = ("th" if name.startswith("th") else "f"), name[2:]
            name = "lf_metacarpal" if part == "metacarpal" else f"{kind}_{part}"
        if name in _LOOKS:
            body.add_geom(
                name=f"{prefix}{link}_visual",
                type=mujoco.mjtGeom.mjGEOM_MESH,
                meshname=f"{prefix}rh_{name}",
                contype=0,
                conaffinity=0,
                group=2,
                mass=0,
                rgba=_LOOKS[name],
            )
