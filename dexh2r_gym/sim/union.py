"""One model with the meshes of all objects and givers, and tables of what else differs between their scenes.

A simulator that steps many worlds of one model gives each its object by writing a row of the tables to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hulls import bone_hulls
from dexh2r_gym.giver.model import add_hull_mesh
from dexh2r_gym.objects import MAX_PARTS, ObjectModel
from dexh2r_gym.objects.spec import CONAFFINITY, CONTYPE, add_part_mesh
from dexh2r_gym.scene import scene_model, scene_spec
from dexh2r_gym.sim import Pair

DIFFERS = (  # between the scenes of two pairs, beside the meshes
    *("body_inertia", "body_invweight0", "body_ipos", "body_iquat", "body_mass", "body_subtreemass", "dof_invweight0"),
    *("geom_aabb", "geom_pos", "geom_quat", "geom_rbound", "geom_size"),
)


@dataclass(frozen=True)
class Union:
    """What the scenes of some pairs are made of.

    Attributes:
        shapes: how many objects, and hands of MANO, it has meshes of.
        model: with every mesh; its own numbers are those of the first pair. All of the object's slots collide.
        geom_dataid: (P, ngeom) int32, mesh of each geom, -1 where there is none: an unused slot of an object, or no
            mesh geom. values: of `DIFFERS`, (P, ...) float64 each, as they are in MjModel.
    """

    shapes: tuple[int, int]
    model: mujoco.MjModel
    geom_dataid: Tensor
    values: dict[str, Tensor]

    @classmethod
    def of(cls, pairs: Sequence[Pair], timestep: float, before: Union | None = None) -> Union:
        """That of these pairs, whose givers are all open hands or all hands of MANO.

        before: that of the first of them, whose model is kept if it has all the meshes.
        """
        if len({giver.convex for _, giver in pairs}) > 1:
            raise ValueError(
                "worlds of one environment must all have open hands as givers, or all hands of MANO: they are laid out "
                "differently"
            )
        objects = {id(obj): obj for obj, _ in pairs}
        givers = {id(giver): giver for _, giver in pairs if giver.convex}
        shapes = len(objects), len(givers)
        if before is not None and before.shapes == shapes:
            model = before.model
        else:
            model = _model(list(objects.values()), list(givers.values()), pairs[0][1])
            model.opt.timestep = timestep
        number, hand = ({key: i for i, key in enumerate(those)} for those in (objects, givers))
        mesh = [_meshes(model, obj, number[id(obj)], hand.get(id(giver))) for obj, giver in pairs]
        scenes = [scene_model(*pair, timestep=timestep) for pair in pairs]
        values = {name: torch.from_numpy(np.stack([getattr(m, name) for m in scenes])) for name in DIFFERS}
        return cls(shapes, model, torch.from_numpy(np.stack(mesh)), values)


def _model(objects: list[ObjectModel], givers: list[GiverHand], giver: GiverHand) -> mujoco.MjModel:
    """The scene of the first object and a giver, with the meshes of all objects and of all givers that have some."""
    spec = scene_spec(objects[0], giver, visuals=False)
    for i, obj in enumerate(objects):
        for slot, part in enumerate(obj.parts):
            add_part_mesh(spec, _part_name(i, slot), part)
    for i, hand in enumerate(givers):
        for bone, hull in enumerate(bone_hulls(hand)):
            add_hull_mesh(spec, _hull_name(i, bone), hull)
    for slot in range(MAX_PARTS):
        geom = spec.geom(f"object_part_{slot:02d}")
        geom.contype, geom.conaffinity = CONTYPE, CONAFFINITY
    return spec.compile()


def _meshes(model: mujoco.MjModel, obj: ObjectModel, number: int, hand: int | None) -> np.ndarray:
    """The mesh of every geom, (ngeom,) int32, with the object and the giver of these numbers."""
    names = {f"object_part_{slot:02d}": _part_name(number, slot) for slot in range(len(obj.parts))}
    if hand is not None:
        names |= {name: _hull_name(hand, bone) for bone, name in enumerate(_hulls(model))}
    out = np.full(model.ngeom, -1, dtype=np.int32)
    for geom, mesh in names.items():
        out[model.geom(geom).id] = model.mesh(mesh).id
    return out


def _hulls(model: mujoco.MjModel) -> list[str]:
    """Names of the giver's geoms, where they are hulls."""
    names = (model.geom(i).name for i in range(model.ngeom))
    return [name for name in names if name.startswith("giver_hull_")]


def _part_name(number: int, slot: int) -> str:
    return f"object_{number}_part_{slot:02d}"


def _hull_name(number: int, bone: int) -> str:
    return f"giver_{number}_hull_{bone}"
