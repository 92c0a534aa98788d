"""MANO's hand of given shape numbers, from its model file."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dexh2r_gym.giver.capsules import fit_capsules, stretched_capsules
from dexh2r_gym.giver.mano_file import ManoModel
from dexh2r_gym.giver.open_hand import open_shape
from dexh2r_gym.giver.shape import Capsules, HandShape
from dexh2r_gym.types import NUM_GIVER_JOINTS


def mano_shape(model: ManoModel, side: str, betas: Tensor) -> HandShape:
    """MANO of a side with shape numbers (10,) float64, moved so that its wrist joint is the origin.

    Joints, skin and pose directions are MANO's own. MANO has no finger tips: a tip is the vertex of the mean hand's
    last phalanx that is furthest from its joint. Capsules are fitted to the mean hand and stretched with the shape.

    Raises ValueError for shape numbers so far out that they turn a bone inside out.
    """
    vertices, joints = _at_rest(model, betas)
    mean_vertices, mean_joints = _at_rest(model, torch.zeros_like(betas))
    stretch = _affine(mean_vertices - mean_joints[:, None], vertices - joints[:, None], model.weights.T)
    if (torch.linalg.det(stretch) <= 0).any():
        raise ValueError(
            f"shape numbers turn MANO's hand inside out, they should be within about -3 to 3: {betas.tolist()}"
        )
    return HandShape(
        joints=joints - joints[0],
        tips=vertices[_tip_vertices(model)] - joints[0],
        vertices=vertices - joints[0],
        weights=model.weights,
        faces=model.faces,
        capsules=stretched_capsules(_mean_capsules(model, side), stretch),
        pose_directions=model.pose_directions,
        root=joints[0],
        convex=True,
    )


def _at_rest(model: ManoModel, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices (778, 3) and joints (16, 3) in the model's own frame."""
    vertices = model.template + model.shape_directions @ betas
    return vertices, model.joint_regressor @ vertices


@lru_cache(maxsize=8)
def _tip_vertices(model: ManoModel) -> Tensor:
    """Vertices (5,) of the mean hand that are the finger tips."""
    vertices, joints = _at_rest(model, model.template.new_zeros(10))
    reach = torch.cdist(joints[3::3], vertices).masked_fill(model.weights.T[3::3] < 0.5, -1)
    return reach.argmax(-1)


@lru_cache(maxsize=8)
def _mean_capsules(model: ManoModel, side: str) -> Capsules:
    """Capsules of the mean hand: those of the open hand, moved along with the joints, then fitted to the skin."""
    vertices, joints = _at_rest(model, model.template.new_zeros(10))
    open_hand = open_shape(side, model.template.new_zeros(10))
    before = _landmarks(open_hand.joints, open_hand.tips)
    after = _landmarks(joints, vertices[_tip_vertices(model)])
    start = stretched_capsules(open_hand.capsules, _affine(before, after, torch.ones_like(before[..., 0])))
    return fit_capsules(start, joints, vertices, model.weights)


def _landmarks(joints: Tensor, tips: Tensor) -> Tensor:
    """(16, 5, 3): from the wrist the first joints of the fingers, from another joint the next one or the tip, and 0."""
    following = torch.cat((joints[1:].unflatten(0, (5, 3))[:, 1:], tips[:, None]), dim=1).flatten(0, 1)
    out = joints.new_zeros(NUM_GIVER_JOINTS, 5, 3)
    out[0], out[1:, 0] = joints[1::3] - joints[0], following - joints[1:]
    return out


def _affine(before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """Linear maps (16, 3, 3) that take points (16, N, 3) nearly onto others, by weighted least squares.

    Directions in which a bone has no points keep their length.
    """
    covariance = torch.einsum("bn,bni,bnj->bij", weights, before, before)
    images = torch.einsum("bn,bni,bnj->bij", weights, after, before)
    still = 1e-3 * covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * torch.eye(3, dtype=before.dtype)
    return torch.linalg.solve(covariance + still, images + still, left=False)
