"""One recorded sequence, whichever layout it came from, and what a sequence's description must say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from reprlib import repr  # bounded, whatever a file holds
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.replay.replay import SIDES
from dexh2r_gym.replay.untrusted import Folder, numbers

# Number in `ycb_ids` -> name of the model's folder and mass, kg (Calli et al., IEEE RAM 2015, table of the objects).
OBJECTS: dict[int, tuple[str, float]] = {
    1: ("002_master_chef_can", 0.414),
    2: ("003_cracker_box", 0.411),
    3: ("004_sugar_box", 0.514),
    4: ("005_tomato_soup_can", 0.349),
    5: ("006_mustard_bottle", 0.603),
    6: ("007_tuna_fish_can", 0.171),
    7: ("008_pudding_box", 0.187),
    8: ("009_gelatin_box", 0.097),
    9: ("010_potted_meat_can", 0.370),
    10: ("011_banana", 0.066),
    11: ("019_pitcher_base", 0.178),
    12: ("021_bleach_cleanser", 1.131),
    13: ("024_bowl", 0.147),
    14: ("025_mug", 0.118),
    15: ("035_power_drill", 0.895),
    16: ("036_wood_block", 0.729),
    17: ("037_scissors", 0.082),
    18: ("040_large_marker", 0.0158),
    19: ("051_large_clamp", 0.125),
    20: ("052_extra_large_clamp", 0.202),
    21: ("061_foam_brick", 0.028),
}
VESSELS = ("019_pitcher_base", "024_bowl", "025_mug")  # hollow; their solid is closed


@dataclass(frozen=True)
class Sequence:
    """Where a sequence lies and what is known of it before its frames are read."""

    name: str  # "20200709-subject-01/20200709_141754"
    subject: str  # the first part of the name
    object: int  # number of the grasped object in `OBJECTS`
    column: int  # its place among the sequence's objects
    num_objects: int
    side: str  # the giver's hand
    betas: tuple[float, ...]  # 10
    place: Any  # of its frames, known to the layout


@dataclass(frozen=True, eq=False)
class Recording:
    """Frames of one sequence, T of them at 30 Hz, z up, origin on the table; float64."""

    object_pose: Tensor  # (T, 7) of the grasped object
    mano: Tensor  # (T, 61) of the model "mano"; meaningless where the hand is not seen
    object_seen: NDArray[np.bool_]  # (T,)
    hand_seen: NDArray[np.bool_]  # (T,)

    def cut(self, begin: int, end: int) -> Recording:
        """Frames from `begin` to before `end`."""
        span = slice(begin, end)
        return Recording(self.object_pose[span], self.mano[span], self.object_seen[span], self.hand_seen[span])


class Layout(Protocol):
    """One of the two forms in which the sequences come."""

    folder: Folder

    def sequences(self, subjects: Collection[str] | None, sequences: Collection[str] | None) -> list[Sequence]:
        """Those chosen, in the order of HandoverSim's scenes."""

    def read(self, sequence: Sequence) -> Recording:
        """Its frames."""

    def mesh(self, name: str) -> str:
        """File of an object's mesh."""

    def scene(self, sequence: Sequence) -> int | None:
        """HandoverSim's number of the scene, None where it cannot be told."""


def describe(folder: Folder, file: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Check the entries that both layouts share, from `file`, and return what `Sequence` needs of them."""
    ids, column, sides = meta["ycb_ids"], meta["ycb_grasp_ind"], meta["mano_sides"]
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i in OBJECTS for i in ids):
        raise folder.error(file, f"ycb_ids must list objects 1 to {max(OBJECTS)}, found {repr(ids)}")
    if type(column) is not int or not 0 <= column < len(ids):
        raise folder.error(file, f"ycb_grasp_ind must be 0 to {len(ids) - 1}, found {repr(column)}")
    if not isinstance(sides, list) or len(sides) != 1 or sides[0] not in SIDES:
        raise folder.error(file, f"mano_sides must be one of {', '.join(SIDES)} in a list, found {repr(sides)}")
    return {"object": ids[column], "column": column, "num_objects": len(ids), "side": sides[0]}


def shape_numbers(folder: Folder, file: str, value: Any) -> tuple[float, ...]:
    """Ten shape numbers of a hand, from `file`."""
    betas = numbers(value, 10)
    if betas is None:
        raise folder.error(file, f"betas must be 10 numbers, found {repr(value)}")
    return tuple(betas.tolist())


def mano_numbers(translation: Tensor, turn: Tensor, pose: Tensor, betas: tuple[float, ...]) -> Tensor:
    """(T, 3), (T, 3) axis-angle, (T, 45) -> (T, 61)."""
    return torch.cat((translation, turn, pose, torch.tensor(betas, dtype=torch.float64).expand(len(pose), 10)), dim=-1)


def choose(what: str, wanted: Collection[str] | None, known: list[str]) -> set[str]:
    """The wanted ones, all where None; an unknown one is an error."""
    if wanted is None:
        return set(known)
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"no {what} {name!r}{hint}; there are {len(known)}: {', '.join(known[:20])}")
    return set(wanted)
