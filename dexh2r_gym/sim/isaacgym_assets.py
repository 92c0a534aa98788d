"""Hand, objects and givers as the files that Isaac Gym reads: URDF, convex meshes, and `scene.json` that names them.

The hand's 28 dofs: three slides and three hinges from the heavy carrier to the palm, then the 22 joints. Links,
inertias and shapes are those of the MuJoCo scene, with two differences: the wrist, which never moves, is part of the
palm's link, and the palm's centre of mass is at its origin. An object's link has its frame at the centre of mass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import mujoco
import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hulls import bone_hulls
from dexh2r_gym.hand import BASE_LIMIT, JOINT_NAMES, LINK_NAMES, add_hand
from dexh2r_gym.hand.kinematics import JOINTS, PALM, WRIST, WRIST_POSITION
from dexh2r_gym.hand.shapes import Capsule, Shape, hand_shapes
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.types import NUM_GIVER_JOINTS

BASE_NAMES = ("base_x", "base_y", "base_z", "base_rx", "base_ry", "base_rz")
_BASE_RANGE = (0.5, 1.5)  # m, rad: how far the palm may give way
_HEAVY = (1000.0, 100.0)  # kg, kg m^2: not moved by what pushes it
_LIGHT = (0.01, 1e-4)  # of the links between the base dofs
_MAX_SPEED = 100.0  # m/s, rad/s
_JSON = "scene.json"


def write_scene(folder: Path, objects: Sequence[ObjectModel], givers: Sequence[GiverHand]) -> None:
    """Write all files into a folder that exists. Objects and givers are numbered in this order."""
    hand, effort = _hand()
    (folder / "hand.urdf").write_text(hand)
    files = []
    for i, obj in enumerate(objects):
        shapes = []
        for k, part in enumerate(obj.parts):
            name = f"object_{i}_{k}.obj"
            _write_hull(folder / name, trimesh.convex.convex_hull(part - obj.center_of_mass))
            shapes.append(_mesh(name))
        own, heavy = _inertial(obj.mass, obj.inertia), _inertial(*_HEAVY)
        named = {"free": f"object_{i}.urdf", "held": f"object_{i}_held.urdf"}
        (folder / named["free"]).write_text(_robot("object", [_link("object", own, shapes)]))
        (folder / named["held"]).write_text(_robot("object", [_link("object", heavy, shapes)]))
        files.append(named)
    bones = [_write_giver(folder, i, giver) for i, giver in enumerate(givers)]
    scene = {
        "hand": "hand.urdf",
        "base": BASE_NAMES,
        "joints": JOINT_NAMES,
        "effort": effort,
        "objects": files,
        "givers": bones,
    }
    (folder / _JSON).write_text(json.dumps(scene))


def _write_giver(folder: Path, number: int, giver: GiverHand) -> list[str]:
    shapes: list[list[str]] = [[] for _ in range(NUM_GIVER_JOINTS)]
    if giver.convex:
        for i, hull in enumerate(bone_hulls(giver)):
            name = f"giver_{number}_{i}.obj"
            _write_hull(folder / name, hull)
            shapes[i].append(_mesh(name))
    else:
        bone, p0, p1, radius = (x.numpy() for x in giver.capsules())
        for i, a, b, r in zip(bone, p0, p1, radius, strict=True):
            shapes[i].append(_capsule(a, b, r))
    names = [f"giver_{number}_{i}.urdf" for i in range(NUM_GIVER_JOINTS)]
    for name, own in zip(names, shapes, strict=True):
        (folder / name).write_text(_robot("bone", [_link("bone", _inertial(*_HEAVY), own)]))
    return names


def _hand() -> tuple[str, dict[str, float]]:
    """URDF of the hand on its carrier, and the greatest force or torque of each dof."""
    spec = mujoco.MjSpec()
    add_hand(spec, visuals=False, fixed_base=True)
    model = spec.compile()
    shapes: dict[str, list[str]] = {}
    for shape in hand_shapes():
        name, shift = LINK_NAMES[shape.link], np.zeros(3)
        if name == WRIST:
            name, shift = PALM, np.array(WRIST_POSITION)
        shapes.setdefault(name, []).append(_shape(shape, shift))
    body = {name: model.body(name) for name in (PALM, WRIST, *(j.child for j in JOINTS))}
    wrist = float(body[WRIST].mass[0])
    palm = body[PALM].inertia[0] + wrist * np.square(WRIST_POSITION).sum()

    parts = [_link("carrier", _inertial(*_HEAVY), [])]
    effort = {}
    chain = ("carrier", *(f"{name}_link" for name in BASE_NAMES[:-1]), PALM)
    for i, name in enumerate(BASE_NAMES):
        effort[name] = BASE_LIMIT[i // 3]
        if i < 5:
            parts.append(_link(chain[i + 1], _inertial(*_LIGHT), []))
        kind, reach = ("prismatic", "revolute")[i // 3], _BASE_RANGE[i // 3]
        parts.append(
            _joint(name, kind, chain[i], chain[i + 1], np.zeros(3), np.eye(3)[i % 3], (-reach, reach), effort[name])
        )
    parts.append(_link(PALM, _inertial(float(body[PALM].mass[0]) + wrist, palm), shapes[PALM]))
    for row in JOINTS:
        own = body[row.child]
        turn = _rotation(own.iquat).as_matrix()
        inertia = turn @ np.diag(own.inertia) @ turn.T
        parts.append(_link(row.child, _inertial(float(own.mass[0]), inertia, own.ipos), shapes.get(row.child, [])))
        effort[row.name] = float(model.actuator(row.name).forcerange[1])
        limits, position = (row.lower, row.upper), np.array(row.position)
        parts.append(
            _joint(row.name, "revolute", row.parent, row.child, position, row.axis, limits, effort[row.name], row.frame)
        )
    return _robot("hand", parts), effort


def _rotation(quat: Sequence[float] | np.ndarray) -> Rotation:
    """From w x y z."""
    return Rotation.from_quat(np.roll(np.asarray(quat, dtype=np.float64), -1))


def _robot(name: str, parts: list[str]) -> str:
    return f'<?xml version="1.0"?>\n<robot name="{name}">\n' + "\n".join(parts) + "\n</robot>\n"


def _link(name: str, inertial: str, shapes: list[str]) -> str:
    return f'<link name="{name}">{inertial}' + "".join(f"<collision>{s}</collision>" for s in shapes) + "</link>"


def _joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    position: np.ndarray,
    axis: Iterable[float],
    limits: tuple[float, float],
    effort: float,
    frame: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
) -> str:
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'{_origin(position, _rotation(frame))}<axis xyz="{_numbers(axis)}"/>'
        f'<limit lower="{limits[0]}" upper="{limits[1]}" effort="{effort}" velocity="{_MAX_SPEED}"/></joint>'
    )


def _inertial(mass: float, inertia: float | np.ndarray, centre: Iterable[float] = (0, 0, 0)) -> str:
    """inertia: kg m^2 about the centre, axes of the link: (3, 3), or one number for all axes."""
    m = np.asarray(inertia, dtype=np.float64)
    m = m * np.eye(3) if m.ndim == 0 else m
    entries = " ".join(
        f'{name}="{m[i, j]:.9g}"'
        for name, i, j in (
            ("ixx", 0, 0),
            ("ixy", 0, 1),
            ("ixz", 0, 2),
            ("iyy", 1, 1),
            ("iyz", 1, 2),
            ("izz", 2, 2),
        )
    )
    return f'<inertial><origin xyz="{_numbers(centre)}"/><mass value="{mass:.9g}"/><inertia {entries}/></inertial>'


def _origin(position: Iterable[float], turn: Rotation) -> str:
    return f'<origin xyz="{_numbers(position)}" rpy="{_numbers(turn.as_euler("xyz"))}"/>'


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{v:.9g}" for v in values)


def _shape(shape: Shape, shift: np.ndarray) -> str:
    if isinstance(shape, Capsule):
        return _capsule(shape.p0 + shift, shape.p1 + shift, shape.radius)
    origin = _origin(shape.center + shift, _rotation(shape.quat))
    return f'{origin}<geometry><box size="{_numbers(2 * np.array(shape.half))}"/></geometry>'


def _capsule(p0: np.ndarray, p1: np.ndarray, radius: float) -> str:
    """A cylinder, which Isaac Gym is told to replace with a capsule."""
    length = float(np.linalg.norm(p1 - p0))
    turn, _ = Rotation.align_vectors([(p1 - p0) / length], [[0.0, 0.0, 1.0]])
    shape = f'<cylinder radius="{radius:.9g}" length="{length:.9g}"/>'
    return f"{_origin((p0 + p1) / 2, turn)}<geometry>{shape}</geometry>"


def _mesh(file: str) -> str:
    return f'<origin xyz="0 0 0"/><geometry><mesh filename="{file}"/></geometry>'


def _write_hull(path: Path, hull: trimesh.Trimesh) -> None:
    lines = [f"v {_numbers(v)}" for v in hull.vertices] + [f"f {a} {b} {c}" for a, b, c in hull.faces + 1]
    path.write_text("\n".join(lines) + "\n")
