"""The giver's hand: 16 joints and a skin, driven by MANO's 61 numbers.

61 numbers a frame, as MANO orders them: translation (3, metres), global orientation (3, axis-angle), the pose of 15
joints (45, axis-angle, zero = flat hand), shape (10). Rest frame of the right hand: wrist at the origin, fingers along
-x, palm facing -y, index side +z; the left hand is its mirror image in x. The hand turns about its wrist joint and is
then translated. Two models read these numbers:

- "open": the open (CC0) hand of `dexh2r_gym.giver.open_hand`. Its shape numbers are its own, and the translation is
  where the wrist is.
- "mano": MANO itself, exactly, from the files in $DEXH2R_MANO. Numbers as smplx takes them with `flat_hand_mean=True`
  and no principal components: the wrist is at translation + `root`, some 10 cm away. Where $DEXH2R_MANO is not set the
  open hand of mean shape stands in, at the wrist of MANO's mean shape. Then wrist, orientation and the way each finger
  bends are right; bone lengths, the skin, so contacts, are another hand's; shape numbers have no effect. A warning says
  so once.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver.mano import mano_shape
from dexh2r_gym.giver.mano_file import FOLDER_VARIABLE, load_mano
from dexh2r_gym.giver.open_hand import open_shape
from dexh2r_gym.giver.shape import CHAINS, PARENTS, SIDES, Capsules, HandShape
from dexh2r_gym.rotations import (
    pose_apply,
    quat_conjugate,
    quat_from_axis_angle,
    quat_multiply,
    quat_rotate,
    quat_to_axis_angle,
    quat_to_matrix,
)
from dexh2r_gym.types import MANO_SIZE, NUM_GIVER_JOINTS

__all__ = ["CHAINS", "MODELS", "PARENTS", "SIDES", "GiverHand", "mirror_axis_angle", "move_mano"]
MODELS = ("open", "mano")
_MEAN_WRIST = (0.09566994, 0.00638343, 0.0061863)  # m, MANO's right wrist in its rest frame, mean shape


class GiverHand:
    """One person's hand, right or left: its rest shape, skeleton and skin.

    Attributes: side; betas (10,) float64; model; rest_joints (16, 3) and rest_vertices (V, 3) float64, metres, rest
    frame; rest_tips (5, 3), tips of `CHAINS`; weights (V, 16) float64, rows sum to 1; faces (F, 3) int64, outward;
    root (3,) float64, metres, from the translation to the wrist joint; convex: in MuJoCo it collides as one convex hull
    a bone, else as its capsules.

    Raises ValueError for another side, model, or shape numbers; for model "mano" also what `load_mano` raises if
    $DEXH2R_MANO is set.
    """

    def __init__(
        self, side: str = "right", betas: Tensor | np.ndarray | list[float] | None = None, model: str = "open"
    ) -> None:
        if side not in SIDES:
            raise ValueError(f"side of a hand is {side!r}; valid: {', '.join(SIDES)}")
        if model not in MODELS:
            raise ValueError(f"model of a hand is {model!r}; valid: {', '.join(MODELS)}")
        self.side, self.model = side, model
        self.betas = _check_betas(betas)
        shape = open_shape(side, self.betas) if model == "open" else _mano_or_stand_in(side, self.betas)
        self.rest_joints, self.rest_tips, self.rest_vertices = shape.joints, shape.tips, shape.vertices
        self.weights, self.faces = shape.weights, shape.faces
        self.root, self.convex = shape.root, shape.convex
        self._pose_directions, self._capsules = shape.pose_directions, shape.capsules

    @classmethod
    def from_mano(cls, mano: Tensor | np.ndarray, side: str, model: str = "open") -> GiverHand:
        """The hand whose shape is that of MANO numbers (..., 61), which must be the same in every frame."""
        shape = torch.as_tensor(mano, dtype=torch.float64)
        _check_mano(shape)
        shape = shape[..., 51:].reshape(-1, 10)
        if shape.shape[0] == 0 or (shape != shape[0]).any():
            raise ValueError("the shape numbers mano[..., 51:61] must be there and the same in every frame")
        return cls(side, shape[0], model)

    def mano(self, position: Tensor, orientation: Tensor, pose: Tensor | None = None) -> Tensor:
        """61 numbers of this hand: wrist position (..., 3), orientation (..., 4), pose (..., 45) or None for flat."""
        pose = position.new_zeros(*position.shape[:-1], 45) if pose is None else pose
        translation = position - self.root.to(position)
        parts = (translation, quat_to_axis_angle(orientation), pose, self.betas.to(position))
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
        wrist = torch.cat((mano[..., :3] + self.root.to(mano), turns[..., 0, :]), dim=-1)
        position, rotation = wrist[..., None, :3], wrist[..., None, 3:]
        levels = []
        for k in range(3):  # from the palm outward, all five chains at once
            position = position + quat_rotate(rotation, offsets[..., k, :])
            rotation = quat_multiply(rotation, chains[..., k, :])
            levels.append(torch.cat((position, rotation), dim=-1))
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
        skin = basis @ torch.cat((columns, origin[..., None, :]), dim=-2).flatten(-3, -2)
        correction = self.pose_correction(bones, subset)
        if correction is None:
            return skin
        turns = (weights.to(bones) @ columns.flatten(-2)).unflatten(-1, (3, 3))  # (..., V, 3, 3)
        return skin + (correction[..., None, :] @ turns).squeeze(-2)

    def pose_correction(self, bones: Tensor, subset: Tensor | None = None) -> Tensor | None:
        """What bone poses (..., 16, 7) add to the rest vertices, (..., V, 3), before they follow the bones.

        None for a hand whose skin follows its bones alone.
        """
        if self._pose_directions is None:
            return None
        directions = self._pose_directions if subset is None else self._pose_directions[subset]
        turns = quat_multiply(quat_conjugate(bones[..., PARENTS[1:], 3:]), bones[..., 1:, 3:])
        feature = quat_to_matrix(turns) - torch.eye(3, dtype=bones.dtype, device=bones.device)
        return (feature.flatten(-3) @ directions.to(bones).flatten(0, 1).T).unflatten(-1, (-1, 3))

    def capsules(self) -> Capsules:
        """Bone (C,) long; ends p0, p1 (C, 3) metres, frame of that bone; radius (C,). C is the same for all hands."""
        return self._capsules


def move_mano(pose: Tensor, mano: Tensor, root: Tensor | None = None) -> Tensor:
    """MANO numbers (..., 61) given in a frame whose pose is (..., 7) -> the same hand in the outer frame.

    root: `GiverHand.root` of a hand of MANO, whose translation is not where its wrist is.
    """
    _check_mano(mano)
    offset = mano.new_zeros(3) if root is None else root.to(mano)
    position = pose_apply(pose, mano[..., :3] + offset) - offset
    turn = quat_to_axis_angle(quat_multiply(pose[..., 3:], quat_from_axis_angle(mano[..., 3:6])))
    return torch.cat((position, turn, mano[..., 6:].expand(*position.shape[:-1], MANO_SIZE - 6)), dim=-1)


def mirror_axis_angle(side: str) -> Tensor:
    """(3,) factors that turn an axis-angle of the right hand into that of the given side."""
    return torch.tensor([1.0, 1.0, 1.0] if side == "right" else [1.0, -1.0, -1.0], dtype=torch.float64)


def _mano_or_stand_in(side: str, betas: Tensor) -> HandShape:
    if os.environ.get(FOLDER_VARIABLE):
        return mano_shape(load_mano(side), side, betas)
    _warn_of_stand_in()
    root = torch.tensor(_MEAN_WRIST, dtype=torch.float64)
    root[0] *= 1 if side == "right" else -1
    return replace(open_shape(side, torch.zeros_like(betas)), root=root)


@cache
def _warn_of_stand_in() -> None:
    warnings.warn(
        f"${FOLDER_VARIABLE} is not set: the open hand of mean shape stands in for givers of MANO, an approximation; "
        "set it to the folder of MANO_RIGHT.pkl and MANO_LEFT.pkl (https://mano.is.tue.mpg.de) for the exact hand",
        stacklevel=4,
    )


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
