"""Shadow Robot's meshes of the hand and where they are, for viewers other than MuJoCo."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.hand import JOINT_NAMES, add_hand


class HandMesh(NamedTuple):
    """A mesh that the hand has N of."""

    name: str
    vertices: NDArray[np.float32]  # (V, 3) metres, the mesh's own frame
    faces: NDArray[np.int32]  # (F, 3)
    colour: tuple[int, int, int]
    geoms: NDArray[np.int64]  # (N,) geoms of `_model` that show it


@cache
def hand_meshes() -> tuple[HandMesh, ...]:
    """The meshes of the hand, each once."""
    model = _model()
    meshes = []
    for number in range(model.nmesh):
        shown = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_dataid == number)
        geoms = np.flatnonzero(shown)
        vertex, face = model.mesh_vertadr[number], model.mesh_faceadr[number]
        red, green, blue = (round(255 * float(c)) for c in model.geom_rgba[geoms[0], :3])
        meshes.append(
            HandMesh(
                name=model.mesh(number).name.removeprefix("rh_"),
                vertices=model.mesh_vert[vertex : vertex + model.mesh_vertnum[number]].copy(),
                faces=model.mesh_face[face : face + model.mesh_facenum[number]].copy(),
                colour=(red, green, blue),
                geoms=geoms,
            )
        )
    return tuple(meshes)


def mesh_poses(pose: NDArray[np.float64], joints: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Palm pose (7,) and joints (22,) -> by name of a mesh the poses (N, 7) of its copies, in the palm pose's frame."""
    model = _model()
    data = mujoco.MjData(model)
    palm = model.joint("rh_base").qposadr[0]
    data.qpos[palm : palm + 7] = pose
    data.qpos[[model.joint(name).qposadr[0] for name in JOINT_NAMES]] = joints
    mujoco.mj_kinematics(model, data)
    quats = np.empty((model.ngeom, 4))
    for quat, matrix in zip(quats, data.geom_xmat, strict=True):
        mujoco.mju_mat2Quat(quat, matrix)
    poses = np.concatenate((data.geom_xpos, quats), axis=-1)
    return {mesh.name: poses[mesh.geoms] for mesh in hand_meshes()}


@cache
def _model() -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    add_hand(spec, visuals=True)
    return spec.compile()
