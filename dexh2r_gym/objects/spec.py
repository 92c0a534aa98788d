"""An object in a MuJoCo scene. Every object takes the same slots, so models of different objects share one data layout."""

from __future__ import annotations

import mujoco
import numpy as np

from dexh2r_gym.objects.model import MAX_PARTS, ObjectModel

BODY = "object"
JOINT = "object_free"
CONTYPE, CONAFFINITY = 2, 1  # meets what has contype 1 (the robot's hand) or conaffinity 2


def add_object(
    spec: mujoco.MjSpec,
    obj: ObjectModel,
    *,
    visuals: bool = True,
    friction: float = 0.8,
    rgba: tuple[float, float, float, float] = (0.85, 0.65, 0.35, 1.0),
) -> mujoco.MjsBody:
    """Add the free body "object" (joint "object_free") with collision geoms "object_part_00" to "object_part_11".

    Slots beyond the object's parts repeat its first part and collide with nothing. Mass and inertia are the solid's. The visual mesh
    "object_visual" is in group 2, collision geoms in group 3. friction: sliding coefficient against anything smoother.
    """
    body = spec.worldbody.add_body(name=BODY)
    body.add_freejoint(name=JOINT)
    body.explicitinertial = True
    body.mass = obj.mass
    body.ipos = obj.center_of_mass
    inertia = obj.inertia
    body.fullinertia = [inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2]]
    for slot in range(MAX_PARTS):
        used = slot < len(obj.parts)
        part = obj.parts[slot if used else 0]
        mesh = spec.add_mesh(name=f"object_part_{slot:02d}", uservert=np.ascontiguousarray(part).ravel())
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
        body.add_geom(
            name=f"object_part_{slot:02d}",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh.name,
            contype=CONTYPE if used else 0,
            conaffinity=CONAFFINITY if used else 0,
            friction=[friction, 0.005, 0.0001],
            condim=4,
            solref=[0.01, 1.0],
            group=3,
            rgba=[0.2, 0.6, 0.9, 0.4 if used else 0.0],
        )
    if visuals:
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
            rgba=rgba,
        )
    return body
