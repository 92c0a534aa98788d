"""Which object a set of surface points is: one met before, one of a folder of models, or a new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.replay.dexh2r.objects import make_object, object_of_parts, read_mesh
from dexh2r_gym.replay.dexh2r.pieces import slabs_of_points
from dexh2r_gym.replay.dexh2r.rigid import TOLERANCE, fit_rigid, principal_frame
from dexh2r_gym.replay.dexh2r.surface import fit_surface
from dexh2r_gym.replay.replay import ReplayError
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.replay.write import StoredObject
from dexh2r_gym.rotations import pose_apply, pose_inverse

SURFACE_POINTS = 50_000  # of a model, for the fit


@dataclass(frozen=True, eq=False)
class Found:
    """An object: its name, its points (P, 3) float64 in its own frame, and what a store carries of it."""

    name: str
    points: Tensor
    stored: StoredObject


@dataclass(frozen=True, eq=False)
class _Model:
    mesh: trimesh.Trimesh
    mass: float | None  # kg
    surface: NDArray[np.float64]  # (SURFACE_POINTS, 3)


class Catalogue:
    """The objects met so far, in `found`; `made` names those whose solid was made from their points alone.

    The points of an object are the same in every frame and trial, moved rigidly.
    """

    def __init__(self, models: str | Path | None) -> None:
        """`models`: a folder with <object>.obj files, or None."""
        self.found: list[Found] = []
        self.made: list[str] = []
        self._models = _read_models(models)

    def find(self, points: Tensor) -> Found:
        """The object whose points (P, 3) these are, in any pose."""
        for found in self.found:
            if found.points.shape == points.shape and float(fit_rigid(found.points, points[None])[1]) < TOLERANCE:
                return found
        new = self._of_model(points) or self._of_points(points)
        self.found.append(new)
        return new

    def _of_model(self, points: Tensor) -> Found | None:
        """The model that fits best, if its surface is nearer than `TOLERANCE` and no other object has it."""
        taken = {found.name for found in self.found}
        fits = {name: fit_surface(points, model.surface) for name, model in self._models.items() if name not in taken}
        near = {name: fit for name, fit in fits.items() if fit is not None and fit[1] < TOLERANCE}
        if not near:
            return None
        name = min(near, key=lambda name: near[name][1])
        pose, left = near[name]
        metadata = {"source": f"DexH2R, {name}", "fit": f"{1000 * left:.2f} mm root mean square"}
        model = self._models[name]
        return Found(name, pose_apply(pose, points), make_object(model.mesh, model.mass, metadata))

    def _of_points(self, points: Tensor) -> Found:
        """A new object with its middle as origin and its longest axis along z; hollow ones are closed."""
        own = pose_apply(pose_inverse(principal_frame(points)[0]), points)
        pieces, how = slabs_of_points(own.numpy())
        metadata: dict[str, Any] = {"source": "points of a DexH2R zarr file", "decomposition": how, "vessel": True}
        name = f"object_{len(self.found):02d}"
        self.made.append(name)
        return Found(name, own, object_of_parts(pieces, None, metadata))


def _read_models(path: str | Path | None) -> dict[str, _Model]:
    """Every model of a folder by its name, with points of its surface."""
    if path is None:
        return {}
    folder = Folder(Path(path))
    names = sorted({name.rpartition(".")[0] for name in folder.names(".") if name.endswith((".obj", ".urdf"))})
    if not names:
        raise ReplayError("no object model here: expected <object>.obj", store=str(path))
    models = {}
    for name in names:
        mesh, mass = read_mesh(folder, name)
        surface, _ = trimesh.sample.sample_surface(mesh, SURFACE_POINTS, seed=0)
        models[name] = _Model(mesh, mass, np.asarray(surface))
    return models
