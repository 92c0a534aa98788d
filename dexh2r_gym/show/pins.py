"""Small meshes that mark a place and a direction."""

from __future__ import annotations

import mujoco
import numpy as np
import trimesh
from numpy.typing import NDArray

_LENGTH, _RADIUS, _HEAD = 0.04, 0.0007, 0.003  # m

# At a goal: a dart at the palm, its tip where the fingers point, its keel where the palm looks. Metres.
DART = np.array([[-0.005, 0, 0], [0.005, 0, 0], [0, -0.009, 0], [0, 0, 0.03]], np.float32)
DART_FACES = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]], np.uint32)


def _pin() -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    needle = trimesh.creation.cylinder(_RADIUS, height=_LENGTH, sections=6)
    head = trimesh.creation.icosphere(1, _HEAD)
    up = np.array([0, 0, _LENGTH])
    vertices = np.concatenate((needle.vertices + up / 2, head.vertices + up))
    faces = np.concatenate((needle.faces, head.faces + len(needle.vertices)))
    return vertices.astype(np.float32), faces.astype(np.uint32)


PIN, PIN_FACES = _pin()  # at a contact: its point is at the origin, its head on +z


def upright(normals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Quaternions (N, 4) that turn +z to normals (N, 3); no turn where a normal is zero."""
    quats = np.zeros((len(normals), 4))
    for quat, normal in zip(quats, normals.astype(np.float64), strict=True):
        mujoco.mju_quatZ2Vec(quat, normal)
    return quats.astype(np.float32)
