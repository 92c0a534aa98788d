"""The giver's hand: 16 joints and a skin, driven by MANO's 61 numbers.

61 numbers a frame, as MANO orders them: translation (3, metres), global orientation (3, axis-angle), the pose of 15
joints (45, axis-angle, zero = flat hand), shape (10). Rest frame of the right hand: wrist at the origin, fingers along
-x, palm facing -y, index side +z; the left hand is its mirror image in x. As in MANO the hand turns about the wrist
joint and is then translated; here that joint is the origin of the rest frame, so the translation is where the wrist is.

The skin is an open (CC0) hand, not MANO: same joints and order, other offsets and mesh, and no pose blend shapes. Its
ten shape numbers are its own, each about one standard deviation a unit among adults, every one a factor
exp(rate * beta):

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

from dexh2r_gym.giver.capsules import fitted_capsules
from dexh2r_gym.rotations import (
    pose_apply,
    quat_from_axis_angle,
    quat_multiply,
    quat_rotate,
    quat_to_axis_angle,
    quat_to_matrix,
)
from dexh2r_gym.types import MANO_SIZE, NUM_GIVER_JOINTS

SIDES = ("right", "left")
CHAINS = ("index", "middle", "pinky", "ring", "thumb")  # MANO's order: joints 1-3, 4-6, 7-9, 10-12, 13-15
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
_RATES = {"size": 0.06, "length": 0.05, "thickness": 0.06, "palm": 0.05, "index_over_ring": 0.03}


class GiverHand:
    """One person's hand, right or left: its rest shape, skeleton and skin.

    Attributes: side; betas (10,) float64; rest_joints (16, 3) and rest_vertices (V, 3) float64, metres, rest frame;
    rest_tips (5, 3), tips of `CHAINS`; weights (V, 16) float64, rows sum to 1; faces (F, 3) int64, outward.
    """

    def __init__(self, side: str = "right", betas: Tensor | np.ndarray | list[float] | None = None) -> None:
        if side not in SIDES:
            raise ValueError(f"side of a hand is {side!r}; valid: {', '.join(SIDES)}")
        self.side = side
        self.betas = _check_betas(betas)
        data = _template()
        mirror = torch.tensor([1.0 if side == "right" else -1.0, 1.0, 1.0], dtype=torch.float64)
        stretch = _stretch(self.betas, data)
        self.rest_joints, self.rest_tips, self.rest_vertices = (mirror * x for x in _reshape(stretch, data))
        self._capsules = fitted_capsules(stretch, mirror)
        self.weights = data["weights"]
        self.faces = data["faces"] if side == "right" else data["faces"].flip(-1)

    @classmethod
    def from_mano(cls, mano: Tensor | np.ndarray, side: str) -> GiverHand:
        """The hand whose shape is that of MANO numbers (..., 61), which must be the same in every frame."""
        shape = torch.as_tensor(mano, dtype=torch.float64)
        _check_mano(shape)
        shape = shape[..., 51:].reshape(-1, 10)
        if shape.shape[0] == 0 or (shape != shape[0]).any():
            raise ValueError("the shape numbers mano[..., 51:61] must be there and the same in every frame")
        return cls(side, shape[0])

    def mano(self, position: Tensor, orientation: Tensor, pose: Tensor | None = None) -> Tensor:
        """61 numbers of this hand: wrist position (..., 3), orientation (..., 4), pose (..., 45) or None for flat."""
        pose = position.new_zeros(*position.shape[:-1], 45) if pose is None else pose
        parts = (position, quat_to_axis_angle(orientation), pose, self.betas.to(position))
        batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.expand(*batch, p.shape[-1]) for p in parts], dim=-1)

    def bone_poses(self, mano: Tensor) -> Tensor:
        """MANO numbers (..., 61) -> pose (..., 16, 7) of every bone: origin at its joint, axes those of the rest frame.

        The shape part of the numbers is not read: it is this hand's own `betas`.
        """
        _check_mano(mano)
        turns = quat_from_axis_angle(mano[..., 3:51].unflatten(-1, (NUM_GIVER_JOINTS, 3)))
        offsets = self.rest_joints.to(mano)
        offsets = (offsets - offsets[list(PARENTS)])[1:].unflatten(0, (5, 3)).expand(*mano.shape[:-1], 5, 3, 3)
        chains = turns[..., 1:, :].unflatten(-2, (5, 3))  # (..., 5, 3, 4)
        position, rotation = mano[..., None, :3], turns[..., :1, :]
        levels = []
        for k in range(3):  # from the palm outward, all five chains at once
            position = position + quat_rotate(rotation, offsets[..., k, :])
            rotation = quat_multiply(rotation, chains[..., k, :])
            levels.append(torch.cat((position, rotation), dim=-1))
        wrist = torch.cat((mano[..., :3], turns[..., 0, :]), dim=-1)
        return torch.cat((wrist[..., None, :], torch.stack(levels, dim=-2).flatten(-3, -2)), dim=-2)

    def joints(self, mano: Tensor) -> Tensor:
        """Joint positions (..., 16, 3), the wrist first."""
        return self.bone_poses(mano)[..., :3]

    def tips(self, mano: Tensor) -> Tensor:
        """Finger tips (..., 5, 3), in the order of `CHAINS`."""
        local = (self.rest_tips - self.rest_joints[3::3]).to(mano)
        return pose_apply(self.bone_poses(mano)[..., 3::3, :], local.expand(*mano.shape[:-1], 5, 3))

    def vertices(self, mano: Tensor, subset: Tensor | None = None) -> Tensor:
        """Skin (..., V, 3) by linear blend skinning; with `subset`, long (S,), those vertices alone."""
        return self.skin(self.bone_poses(mano), subset)

    def skin(self, bones: Tensor, subset: Tensor | None = None) -> Tensor:
        """Skin (..., V, 3) of given bone poses (..., 16, 7)."""
        rest, weights = self.rest_vertices, self.weights
        if subset is not None:
            rest, weights = rest[subset], weights[subset]
        homogeneous = torch.cat((rest, torch.ones_like(rest[:, :1])), dim=-1)
        basis = (weights[:, :, None] * homogeneous[:, None, :]).flatten(1).to(bones)  # (V, 16 * 4)
        columns = quat_to_matrix(bones[..., 3:]).transpose(-1, -2)  # (..., 16, 3, 3), row i is the image of axis i
        origin = bones[..., :3] - quat_rotate(bones[..., 3:], self.rest_joints.to(bones).expand_as(bones[..., :3]))
        return basis @ torch.cat((columns, origin[..., None, :]), dim=-2).flatten(-3, -2)

    def capsules(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bone (C,) long; ends p0, p1 (C, 3) metres, frame of that bone; radius (C,). C is the same for all hands."""
        return self._capsules


def move_mano(pose: Tensor, mano: Tensor) -> Tensor:
    """MANO numbers (..., 61) given in a frame whose pose is (..., 7) -> the same hand in the outer frame."""
    _check_mano(mano)
    position = pose_apply(pose, mano[..., :3])
    turn = quat_to_axis_angle(quat_multiply(pose[..., 3:], quat_from_axis_angle(mano[..., 3:6])))
    return torch.cat((position, turn, mano[..., 6:].expand(*position.shape[:-1], MANO_SIZE - 6)), dim=-1)


def mirror_axis_angle(side: str) -> Tensor:
    """(3,) factors that turn an axis-angle of the right hand into that of the given side."""
    return torch.tensor([1.0, 1.0, 1.0] if side == "right" else [1.0, -1.0, -1.0], dtype=torch.float64)


@cache
def _template() -> dict[str, Tensor]:
    path = files("dexh2r_gym") / "assets" / "giver_hand" / "open_hand_right.npz"
    with path.open("rb") as f, np.load(f, allow_pickle=False) as data:
        real = {k: torch.from_numpy(data[k].astype(np.float64)) for k in ("v_template", "J", "weights", "tips")}
        real["weights"] /= real["weights"].sum(-1, keepdim=True)
        return real | {"faces": torch.from_numpy(data["faces"].astype(np.int64))}


def _check_betas(betas: Tensor | np.ndarray | list[float] | None) -> Tensor:
    out = torch.zeros(10, dtype=torch.float64) if betas is None else torch.as_tensor(betas, dtype=torch.float64).clone()
    if out.shape != (10,):
        raise ValueError(f"betas must be 10 shape numbers, got an array of shape {tuple(out.shape)}")
    if not out.isfinite().all():
        raise ValueError(f"betas must be finite, got {out.tolist()}")
    return out


def _check_mano(mano: Tensor) -> None:
    if mano.shape[-1:] != (MANO_SIZE,):
        raise ValueError(f"a hand is (..., {MANO_SIZE}) MANO numbers, got an array of shape {tuple(mano.shape)}")


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
