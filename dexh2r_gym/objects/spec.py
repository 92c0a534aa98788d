"""An object in a MuJoCo scene. Every object takes the same slots, so all their models share one data layout."""

from __future__ import annotations

import colorsys
import zlib

import mujoco
import numpy as np
from scipy.spatial import ConvexHull

from dexh2r_gym.objects.model import MAX_PARTS, MAX_VISUAL_FACES, ObjectModel

BODY = "object"
JOINT = "object_free"
_IDLE = 1 << 16  # meets nothing, but keeps an unused slot in the body's bounding tree, whose size is part of the layout
_OFF_CENTRE = 1e-6  # m; MuJoCo lays a body whose centre of mass is exactly its origin out differently
MAX_PART_FACES = 60  # of a hull of 32 vertices
CONTYPE, CONAFFINITY = 2, 1  # meets what has contype 1 (the robot's hand) or conaffinity 2


def colour(name: str) -> tuple[float, float, float]:
    """A colour of its own for each name, red, green and blue in 0 to 1."""
    return colorsys.hsv_to_rgb(zlib.crc32(name.encode()) / 2**32, 0.55, 0.85)


def add_object(
    spec: mujoco.MjSpec,
    obj: ObjectModel,
    *,
    visuals: bool = True,
    friction: float = 0.8,
    rgba: tuple[float, float, float, float] | None = None,
) -> mujoco.MjsBody:
    """Add the free body "object" (joint "object_free") with collision geoms "object_part_00" to "object_part_11".

    Slots beyond the object's parts repeat its first part and collide with nothing. Mass and inertia are the solid's.
    The visual mesh "object_visual" is in group 2, collision geoms in group 3. friction: sliding coefficient against
    anything smoother; rgba: of the visual, else a colour that belongs to the name.
    """
    body = spec.worldbody.add_body(name=BODY)
    body.add_freejoint(name=JOINT)
    body.explicitinertial = True
    body.mass = obj.mass
    body.ipos = obj.center_of_mass + _OFF_CENTRE
    inertia = obj.inertia
    body.fullinertia = [inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2]]
    faces = 0
    for slot in range(MAX_PARTS):
        used = slot < len(obj.parts)
        part = obj.parts[slot if used else 0]
        mesh = add_part_mesh(spec, f"object_part_{slot:02d}", part)
        faces += len(ConvexHull(part).simplices)
        body.add_geom(
            name=f"object_part_{slot:02d}",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh.name,
            contype=CONTYPE if used else _IDLE,
            conaffinity=CONAFFINITY if used else 0,
            friction=[friction, 0.005, 0.0001],
            condim=4,
            solref=[0.01, 1.0],
            group=3,
            rgba=[0.2, 0.6, 0.9, 0.4 if used else 0.0],
        )
    if visuals:
        faces += len(obj.visual_faces) - MAX_VISUAL_FACES
        mesh = spec.add_mesh(
            name="object_visual",
            uservert=obj.visual_vertices.ravel(),
            userface=obj.visual_faces.ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
        body.add_geom(
            name="object_visual",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh.name,
            contype=0,
            conaffinity=0,
            group=2,
            rgba=rgba or (*colour(obj.name), 1.0),
        )
    pad_faces(spec, "object_padding", MAX_PART_FACES * MAX_PARTS - faces)
    return body


def add_part_mesh(spec: mujoco.MjSpec, name: str, part: np.ndarray) -> mujoco.MjsMesh:
    """The hull of one of an object's convex parts, vertices (n, 3), as a mesh."""
    return spec.add_mesh(
        name=name, uservert=np.ascontiguousarray(part).ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    )


def pad_faces(spec: mujoco.MjSpec, name: str, missing: int) -> None:
    """Add a mesh that nothing uses, of `missing` faces and 4 more: meshes that vary have equally many faces together.

    MuJoCo's data holds a flag for every node of every mesh's bounding tree, so their number is part of the layout.
    """
    count = missing + 4  # at least a tetrahedron
    angle = np.arange(count + 2) * 0.5
    strip = np.stack((np.cos(angle), np.sin(angle), 0.1 * angle), axis=-1)
    face = np.arange(count)[:, None] + np.arange(3)
    spec.add_mesh(
        name=name,
        uservert=strip.ravel(),
        userface=face.astype(np.int32).ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )
