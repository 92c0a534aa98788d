"""The giver's hand in MuJoCo: 16 mocap bodies that carry collision geoms and MuJoCo's own skin.

An open hand collides as its capsules, and a compiled model is given another one (side and shape) by `set_giver_geoms`.
A hand of MANO collides as the convex hull of each bone's skin and is compiled for itself. Within each kind all hands
share one data layout: models that differ only in the giver can stand side by side in one batch.
"""

from __future__ import annotations

import mujoco
import numpy as np
import trimesh
from torch import Tensor

from dexh2r_gym.giver.capsules import NUM_CAPSULES
from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.giver.hulls import MAX_HULL_FACES, bone_hulls
from dexh2r_gym.objects.spec import pad_faces
from dexh2r_gym.types import NUM_GIVER_JOINTS

BODY_PREFIX = "giver_"
SKIN_NAME = "giver_skin"
CONTYPE, CONAFFINITY = 4, 1  # meets the robot hand alone: neither the object, nor itself, nor the ground
SKIN_RGBA = (0.85, 0.64, 0.52, 1.0)
_GEOM_PREFIX = "giver_capsule_"


def add_giver(spec: mujoco.MjSpec, hand: GiverHand | None = None, *, visuals: bool = True) -> None:
    """Add bodies `giver_0` to `giver_15` (mocap, in the order of the joints), their collision geoms and the skin.

    Geoms are the capsules `giver_capsule_*`, or `giver_hull_0` to `giver_hull_15` if the hand is `convex`. The bodies
    start in the rest pose; drive them by `data.mocap_pos/quat` with `GiverHand.bone_poses`. Without `hand` the right
    hand of mean shape is built. `visuals=False` leaves out the skin.
    """
    hand = hand or GiverHand()
    bodies = [
        # ipos: boxes of bodies, by which MuJoCo looks for contacts, are in the inertial frame
        spec.worldbody.add_body(name=f"{BODY_PREFIX}{i}", pos=p, ipos=[0, 0, 0], mocap=True, explicitinertial=True)
        for i, p in enumerate(hand.rest_joints.numpy())
    ]
    collision = {"contype": CONTYPE, "conaffinity": CONAFFINITY, "group": 3, "rgba": SKIN_RGBA}
    if hand.convex:
        _add_hulls(spec, bodies, hand, collision)
    else:
        for i, (bone, size, pos, quat) in enumerate(_capsule_geoms(hand)):
            name, kind = f"{_GEOM_PREFIX}{i}", mujoco.mjtGeom.mjGEOM_CAPSULE
            bodies[bone].add_geom(name=name, type=kind, size=size, pos=pos, quat=quat, **collision)
    if visuals:
        skin = spec.add_skin(name=SKIN_NAME, rgba=SKIN_RGBA, group=2)
        skin.bodyname = [body.name for body in bodies]
        skin.vert = hand.rest_vertices.float().numpy().ravel()
        skin.face = hand.faces.int().numpy().ravel()
        skin.bindpos = hand.rest_joints.float().numpy().ravel()
        skin.bindquat = np.tile(np.array([1, 0, 0, 0], np.float32), NUM_GIVER_JOINTS)
        moved = [np.flatnonzero(column) for column in hand.weights.numpy().T]
        skin.vertid = [ids.astype(np.int32) for ids in moved]
        skin.vertweight = [hand.weights[ids, b].float().numpy() for b, ids in enumerate(moved)]


def giver_mocap_ids(model: mujoco.MjModel) -> np.ndarray:
    """(16,) rows of `data.mocap_pos` and `data.mocap_quat` that are the giver's joints, in order."""
    return np.array([model.body(f"{BODY_PREFIX}{i}").mocapid[0] for i in range(NUM_GIVER_JOINTS)])


def set_giver_geoms(model: mujoco.MjModel, hand: GiverHand) -> None:
    """Write another hand's capsules, with the bounds collision detection uses, and its skin into a compiled model.

    Both hands are open hands: those of MANO have hulls, which are compiled.
    """
    if hand.convex:
        raise ValueError("a hand of MANO collides as convex hulls; compile a model for it with add_giver")
    ids = np.array([model.geom(f"{_GEOM_PREFIX}{i}").id for i in range(NUM_CAPSULES)])
    bones, sizes, positions, quats = zip(*_capsule_geoms(hand), strict=True)
    radius, half = np.array(sizes).T[:2]
    model.geom_size[ids, :2] = np.stack((radius, half), -1)
    model.geom_pos[ids], model.geom_quat[ids] = positions, quats
    model.geom_sameframe[ids] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    model.geom_rbound[ids] = radius + half
    model.geom_aabb[ids] = np.stack((0 * radius, 0 * radius, 0 * radius, radius, radius, radius + half), -1)

    p0, p1 = (p.numpy() for p in hand.capsules()[1:3])
    low, high = np.minimum(p0, p1) - radius[:, None], np.maximum(p0, p1) + radius[:, None]
    for bone in range(NUM_GIVER_JOINTS):  # every node of a body's bounding tree gets the bound of the whole body
        body, own = model.body(f"{BODY_PREFIX}{bone}").id, np.array(bones) == bone
        bottom, top = low[own].min(0), high[own].max(0)
        nodes = slice(model.body_bvhadr[body], model.body_bvhadr[body] + model.body_bvhnum[body])
        model.bvh_aabb[nodes] = np.concatenate(((top + bottom) / 2, (top - bottom) / 2))

    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SKIN, SKIN_NAME) >= 0:
        set_giver_skin(model, hand)


def set_giver_skin(model: mujoco.MjModel, hand: GiverHand) -> None:
    """Write another hand's skin alone into a compiled model with visuals: enough to draw it, not to touch it.

    Both hands are open hands, or both MANO's of the same side: their skins have the same weights.
    """
    skin = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SKIN, SKIN_NAME)
    vert, face, bone = model.skin_vertadr[skin], model.skin_faceadr[skin], model.skin_boneadr[skin]
    model.skin_vert[vert : vert + len(hand.rest_vertices)] = hand.rest_vertices
    model.skin_face[face : face + len(hand.faces)] = hand.faces
    model.skin_bonebindpos[bone : bone + NUM_GIVER_JOINTS] = hand.rest_joints


def correct_skin(model: mujoco.MjModel, hand: GiverHand, bones: Tensor) -> None:
    """Make the skin drawn from a compiled model exact for bone poses (16, 7): what MANO's pose corrections add to the
    skin at rest is written into the model. An open hand has none."""
    correction = hand.pose_correction(bones.double())
    if correction is not None:
        first = model.skin_vertadr[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SKIN, SKIN_NAME)]
        model.skin_vert[first : first + len(correction)] = hand.rest_vertices + correction


def _add_hulls(spec: mujoco.MjSpec, bodies: list[mujoco.MjsBody], hand: GiverHand, collision: dict) -> None:
    missing = 0
    for i, (body, hull) in enumerate(zip(bodies, bone_hulls(hand), strict=True)):
        mesh = add_hull_mesh(spec, f"giver_hull_{i}", hull)
        body.add_geom(name=mesh.name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh.name, **collision)
        missing += MAX_HULL_FACES - len(hull.faces)
    pad_faces(spec, "giver_padding", missing)


def add_hull_mesh(spec: mujoco.MjSpec, name: str, hull: trimesh.Trimesh) -> mujoco.MjsMesh:
    """The hull of one bone's skin as a mesh."""
    return spec.add_mesh(
        name=name,
        uservert=hull.vertices.ravel(),
        userface=hull.faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
    )


def _capsule_geoms(hand: GiverHand) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Per capsule: bone, size (radius, half length of its cylinder, 0), position, quaternion (z on its axis)."""
    bone, p0, p1, radius = (x.numpy() for x in hand.capsules())
    length = np.linalg.norm(p1 - p0, axis=-1)
    size = np.stack((radius, length / 2, 0 * radius), -1)
    quats = np.zeros((NUM_CAPSULES, 4))
    for quat, axis in zip(quats, p1 - p0, strict=True):
        mujoco.mju_quatZ2Vec(quat, axis)
    return list(zip(bone.tolist(), size, (p0 + p1) / 2, quats, strict=True))
