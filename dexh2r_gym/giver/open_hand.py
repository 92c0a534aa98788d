"""The open (CC0) hand and its ten shape numbers.

Not MANO: the same joints in the same order, other offsets and mesh, and no pose blend shapes. Each shape number is
about one standard deviation a unit among adults, and a factor exp(rate * beta):

| beta | what it scales | rate |
|---|---|---|
| 0 | everything | 0.06 |
| 1 | length of the four fingers | 0.05 |
| 2 | thickness of the four fingers | 0.06 |
| 3, 4, 5 | palm: width, length, thickness | 0.05 |
| 6 | length of the thumb | 0.05 |
| 7 | thickness of the thumb | 0.06 |
| 8 | length of index over ring finger (one longer, the other shorter) | 0.03 |
| 9 | length of the little finger | 0.05 |
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver.capsules import open_capsules, stretched_capsules
from dexh2r_gym.giver.shape import PARENTS, HandShape
from dexh2r_gym.types import NUM_GIVER_JOINTS

_RATES = {"size": 0.06, "length": 0.05, "thickness": 0.06, "palm": 0.05, "index_over_ring": 0.03}


def open_shape(side: str, betas: Tensor) -> HandShape:
    """The open hand of a side with shape numbers (10,) float64."""
    data = _template()
    mirror = torch.tensor([1.0 if side == "right" else -1.0, 1.0, 1.0], dtype=torch.float64)
    stretch = _stretch(betas, data)
    joints, tips, vertices = (mirror * x for x in _reshape(stretch, data))
    bone, p0, p1, radius = stretched_capsules(open_capsules(), stretch)
    faces = data["faces"] if side == "right" else data["faces"].flip(-1)
    return HandShape(joints, tips, vertices, data["weights"], faces, (bone, mirror * p0, mirror * p1, radius))


@cache
def _template() -> dict[str, Tensor]:
    path = files("dexh2r_gym") / "assets" / "giver_hand" / "open_hand_right.npz"
    with path.open("rb") as f, np.load(f, allow_pickle=False) as data:
        real = {k: torch.from_numpy(data[k].astype(np.float64)) for k in ("v_template", "J", "weights", "tips")}
        real["weights"] /= real["weights"].sum(-1, keepdim=True)
        return real | {"faces": torch.from_numpy(data["faces"].astype(np.int64))}


def _stretch(betas: Tensor, data: dict[str, Tensor]) -> Tensor:
    """(16, 3, 3): how each bone of the right hand grows about its joint; the palm along x, y, z, a finger's bone along
    its direction and across it."""
    length = _RATES["length"] * betas[[1, 1, 1, 1, 6]]  # index, middle, pinky, ring, thumb
    uneven = _RATES["index_over_ring"] * betas[8]
    length = length + torch.stack((uneven, 0 * uneven, _RATES["length"] * betas[9], -uneven, 0 * uneven))
    across = _RATES["thickness"] * betas[[2, 2, 2, 2, 7]]
    along, across = (x.exp().repeat_interleave(3)[:, None, None] for x in (length, across))
    ends = torch.cat((data["J"][1:].unflatten(0, (5, 3))[:, 1:], data["tips"][:, None]), dim=1).flatten(0, 1)
    direction = torch.nn.functional.normalize(ends - data["J"][1:], dim=-1)
    outer = direction[:, :, None] * direction[:, None, :]
    palm = (_RATES["palm"] * betas[[4, 5, 3]]).exp().diag()  # x length, y thickness, z width
    size = (_RATES["size"] * betas[0]).exp()
    return size * torch.cat((palm[None], across * torch.eye(3, dtype=torch.float64) + (along - across) * outer))


def _reshape(stretch: Tensor, data: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Joints (16, 3), tips (5, 3) and vertices (V, 3) of the right hand at rest: every bone stretches about its joint,
    joints ride on their parents, and vertices blend the bones by their skinning weights."""
    rest, template = data["J"], data["v_template"]
    joints = torch.zeros_like(rest)

    def image(bones: list[int], points: Tensor) -> Tensor:
        return joints[bones] + ((points - rest[bones])[..., None, :] * stretch[bones]).sum(-1)

    for k in range(1, 4):
        level = list(range(k, NUM_GIVER_JOINTS, 3))
        joints[level] = image([PARENTS[j] for j in level], rest[level])
    moved = image(list(range(NUM_GIVER_JOINTS)), template[:, None, :])  # (V, 16, 3)
    return joints, image([3, 6, 9, 12, 15], data["tips"]), (moved * data["weights"][..., None]).sum(1)
