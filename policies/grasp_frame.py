"""The turned frame in which generators of grasps work, and the 25 numbers they predict in it.

The cloud, centred, is turned such that the palm of the grasp to be predicted has no rotation; a network predicts where
the palm is and how the joints are, never the rotation (DexH2R's released code). The rotations are chosen beforehand: 25
approach directions, spread over the object by farthest point sampling, x 20 turns about each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER, clamp_joints
from dexh2r_gym.rotations import pose_inverse, quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_rotate

SIZE = 25  # palm position 3, joints 22
TURNS = 20  # about each approach direction
_POSITION_SCALE = 0.1  # m, palm positions about the object's centre are of this order
_PATCH = 0.015  # m, an approach direction is the mean normal of the surface this near to its point


def encode(position: Tensor, joints: Tensor) -> Tensor:
    """Palm positions (..., 3) in the turned frame and joints (..., 22) as 25 numbers of order one. -> (..., 25)"""
    middle, half = _ranges(joints)
    return torch.cat((position / _POSITION_SCALE, (joints - middle) / half), dim=-1)


def decode(grasp: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `encode`: positions (..., 3), metres, and joints (..., 22), brought within their ranges."""
    middle, half = _ranges(grasp)
    return grasp[..., :3] * _POSITION_SCALE, clamp_joints(middle + half * grasp[..., 3:])


def _ranges(like: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = JOINT_LOWER.to(like), JOINT_UPPER.to(like)
    return (lower + upper) / 2, (upper - lower) / 2


def palm_in_object(rotation: Tensor, center: Tensor, position: Tensor) -> Tensor:
    """Palm poses (B, 7) in the object's frame of palms at positions (B, 3) in the turned frame.

    rotation: (B, 4) of the palm in the object's frame; center: (B, 3) or (3,) of the cloud, object frame.
    """
    return torch.cat((center + quat_rotate(rotation, position), rotation), dim=-1)


def frame_of(rotation: Tensor, center: Tensor) -> Tensor:
    """The turned frame as a pose (B, 7) in the object's frame; its inverse takes the cloud into it."""
    return torch.cat((center.expand(len(rotation), 3), rotation), dim=-1)


def turned(frame: Tensor, points: Tensor) -> Tensor:
    """Points (P, 3) or (B, P, 3) of the object's frame in turned frames (B, 7). -> (B, P, 3)"""
    inverse = pose_inverse(frame)[:, None]
    return inverse[..., :3] + quat_rotate(inverse[..., 3:], points.expand(len(frame), -1, 3))


def proposal_rotations(points: Tensor, normals: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """`num` rotations of the palm for a cloud (P, 3) with normals (P, 3): its approach directions x 20 turns. (N, 4)

    An approach direction faces the surface: the palm's inner side (-y) looks against the mean normal of a patch. The
    first patch and the first turn are drawn at random. Raises ValueError for num below 1.
    """
    if num < 1:
        raise ValueError(f"num of proposals must be at least 1, got {num}")
    directions = -(-num // TURNS)
    chosen = _farthest(points, min(directions, len(points)), generator)
    patch = (torch.cdist(points[chosen], points) < _PATCH).float()
    facing = normalize(patch @ normals + 1e-6 * normals[chosen], dim=-1)  # (D, 3), the palm's +y
    facing = facing.repeat(-(-directions // len(facing)), 1)[:directions]
    helper = torch.eye(3)[facing.abs().argmin(dim=-1)]
    z = normalize(torch.linalg.cross(facing, helper), dim=-1)
    start = quat_from_matrix(torch.stack((torch.linalg.cross(facing, z), facing, z), dim=-1))
    angle = (torch.rand(directions, 1, generator=generator) + torch.arange(TURNS)) * (2 * torch.pi / TURNS)
    turn = quat_from_axis_angle(angle[..., None] * facing[:, None])  # (D, 20, 4)
    return quat_multiply(turn, start[:, None]).flatten(0, 1)[:num]


def _farthest(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) of points far apart, from a random first one. points (P, 3)"""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = torch.full((len(points),), torch.inf)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(-1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
