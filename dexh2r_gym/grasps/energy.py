"""Energy of ShadowHand grasps on one solid, differentiable, many grasps at once.

In the manner of DexGraspNet (Wang et al., ICRA 2023, https://arxiv.org/abs/2210.02697): distance of contacts, force
closure, penetration, self-penetration and joint limits. Two things differ. Contacts are not drawn at random: every pad
of the hand offers its point nearest to the object. And the forces are not all equal: they are those that come closest
to balance (no net force or torque without friction), found along with the grasp.

Vectors are held component first, (3, ...): contiguous, so fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.grasps.field import DistanceField
from dexh2r_gym.hand import (
    JOINT_LOWER,
    JOINT_UPPER,
    LINK_NAMES,
    SURFACE_LINK,
    forward_kinematics,
    hand_capsules,
    surface_points_local,
)
from dexh2r_gym.objects.exact import cross, dot
from dexh2r_gym.rotations import quat_to_matrix

_FINGERS = ("ff", "mf", "rf", "lf", "th")
_TORQUE_LENGTH = 0.05  # m, a torque counts as the force that makes it at this lever
_CONTACT_RANGE = 0.006  # m, a pad further from the surface than about this carries no force
_REACH = 0.03  # m, pads nearer to the surface than about this are drawn to it more than others
_PAD_POINTS = 12  # surface points that stand for a pad
_BODY_POINTS = 20  # surface points a link that must stay outside of the object

# Pads: links whose inner side takes hold, where that side faces (link frame), and how much contact there counts.
_INWARD = (0.0, -1.0, 0.0)
_PADS = (
    *((f"rh_{f}{part}", _INWARD, w) for part, w in (("distal", 1.0), ("middle", 0.5), ("proximal", 0.25))
      for f in ("ff", "mf", "rf", "lf")),
    ("rh_thdistal", _INWARD, 2.0),
    ("rh_thmiddle", (-1.0, 0.0, 0.0), 0.5),
    ("rh_palm", _INWARD, 0.5),
)  # fmt: skip


@dataclass(frozen=True)
class EnergyWeights:
    """What counts in the energy."""

    distance: float = 3.0  # per pad that is far from the surface
    closure: float = 2.0  # of the square of the force and torque left over, when the forces sum to one
    penetration: float = 1000.0  # per metre of the deepest point, and of the mean depth
    self_penetration: float = 200.0  # per metre of overlap
    limits: float = 5.0  # per radian


class GraspEnergy:
    """Energy of N grasps on one solid; keeps the balancing forces from one call to the next."""

    def __init__(self, field: DistanceField, num: int, weights: EnergyWeights = EnergyWeights()) -> None:
        self._field, self._weights = field, weights
        self._force = torch.full((num, len(_PADS)), 1.0 / len(_PADS))

    def __call__(self, pose: Tensor, joints: Tensor) -> Tensor:
        """palm (N, 7) in the object's frame, joints (N, 22) -> (N,)"""
        w, hand = self._weights, _hand_points()
        links = forward_kinematics(pose, joints)
        turn, shift = quat_to_matrix(links[..., 3:]), links[..., :3]
        body = self._field.distance(_placed(turn, shift, hand.body)).flatten(1)  # (N, P)
        pads = _placed(turn[:, hand.pad_link], shift[:, hand.pad_link], hand.pads)  # (3, N, pads, points)
        nearest = self._field.distance(pads).min(dim=-1)
        gap = nearest.values.clamp_min(0.0)  # (N, pads)
        contact = pads.gather(3, nearest.indices[None, ..., None].expand(3, -1, -1, 1)).squeeze(3)  # (3, N, pads)
        inside = (-body).clamp_min(0.0)
        return (
            w.distance * (hand.pad_weight * gap / (gap + _REACH)).sum(-1)
            + w.closure * self._imbalance(contact, gap)
            + w.penetration * (inside.amax(-1) + inside.mean(-1))
            + w.self_penetration * _self_penetration(turn, shift)
            + w.limits * ((joints - JOINT_UPPER).clamp_min(0) + (JOINT_LOWER - joints).clamp_min(0)).sum(-1).float()
        )

    def _imbalance(self, contact: Tensor, gap: Tensor) -> Tensor:
        """How far the best forces along the surface's normals are from balance. (3, N, C), (N, C) -> (N,)"""
        normal = self._field.slope(contact)
        lever = (contact - self._field.center[:, None, None]) / _TORQUE_LENGTH
        wrench = torch.cat((normal, cross(lever, normal)))  # (6, N, C)
        with torch.no_grad():
            absent = 1 - torch.exp(-gap / _CONTACT_RANGE)
            for _ in range(4):  # exponentiated gradient: forces stay positive and sum to one
                net = (self._force * wrench).sum(-1, keepdim=True)
                slope = (wrench * net).sum(0) + absent
                self._force = torch.softmax(self._force.clamp_min(1e-4).log() - 0.5 * slope, dim=-1)
        return (self._force * wrench).sum(-1).square().sum(0)


class _HandPoints(NamedTuple):
    body: Tensor  # (3, 18, points) link frame, points that must stay outside of the object
    pads: Tensor  # (3, pads, points) link frame
    pad_link: Tensor  # (pads,)
    pad_weight: Tensor  # (pads,)


@cache
def _hand_points() -> _HandPoints:
    points, normals = (x.float() for x in surface_points_local())
    pads, links = [], []
    for name, direction, _ in _PADS:
        link = LINK_NAMES.index(name)
        own = (SURFACE_LINK == link).nonzero().squeeze(1)
        facing = (normals[own] * torch.tensor(direction)).sum(-1)
        pads.append(points[own[facing.topk(_PAD_POINTS).indices]])
        links.append(link)
    # the points of a link were chosen farthest first: the first of them are spread over it
    body = points.unflatten(0, (len(LINK_NAMES), -1))[:, :_BODY_POINTS]
    return _HandPoints(
        body.movedim(-1, 0).contiguous(),
        torch.stack(pads).movedim(-1, 0).contiguous(),
        torch.tensor(links),
        torch.tensor([p[2] for p in _PADS]),
    )


def _placed(turn: Tensor, shift: Tensor, local: Tensor) -> Tensor:
    """Points (3, L, P) of links with rotations (N, L, 3, 3) and positions (N, L, 3). -> (3, N, L, P)"""
    t = turn[..., None]
    return torch.stack(
        [
            t[..., i, 0, :] * local[0] + t[..., i, 1, :] * local[1] + t[..., i, 2, :] * local[2] + shift[..., i, None]
            for i in range(3)
        ]
    )


class _Capsules(NamedTuple):
    ends: Tensor  # (3, 2 K, 1) link frame, first ends then second ends
    link: Tensor  # (2 K,)
    first: Tensor  # (pairs,)
    second: Tensor  # (pairs,)
    reach: Tensor  # (pairs,) m


@cache
def _capsule_pairs() -> _Capsules:
    """Capsules of the hand, and the pairs that may meet: of different fingers, or of a fingertip and the palm."""
    link, p0, p1, radius = hand_capsules()
    part = torch.tensor([_FINGERS.index(name[3:5]) if name[3:5] in _FINGERS else -1 for name in LINK_NAMES])[link]
    tip = torch.tensor([name.endswith("distal") for name in LINK_NAMES])[link]
    first, second = torch.triu_indices(len(link), len(link), offset=1)
    meet = (part[first] >= 0) & (part[second] >= 0) | tip[first] | tip[second]
    meet &= part[first] != part[second]
    first, second = first[meet], second[meet]
    ends = torch.cat((p0, p1)).float().T[..., None].contiguous()
    return _Capsules(ends, link.repeat(2), first, second, (radius[first] + radius[second]).float())


def _self_penetration(turn: Tensor, shift: Tensor) -> Tensor:
    """Sum of the overlaps between capsules of the hand. Links (N, 18, 3, 3), (N, 18, 3) -> (N,) metres"""
    hand = _capsule_pairs()
    ends = _placed(turn[:, hand.link], shift[:, hand.link], hand.ends).squeeze(-1)  # (3, N, 2 K)
    start, stop = ends.chunk(2, dim=-1)
    with torch.no_grad():  # most pairs are too far apart to meet, in every grasp
        middle, half = (start + stop) / 2, (dot(stop - start, stop - start).sqrt() / 2).amax(0)
        offset = middle[..., hand.first] - middle[..., hand.second]
        apart = dot(offset, offset).sqrt() - half[hand.first] - half[hand.second] - hand.reach
        row, pair = (apart < 0).nonzero(as_tuple=True)
    i, j = hand.first[pair], hand.second[pair]
    gap = segment_distance(start[:, row, i].T, stop[:, row, i].T, start[:, row, j].T, stop[:, row, j].T)
    overlap = (hand.reach[pair] - gap).clamp_min(0.0)
    return shift.new_zeros(len(shift)).index_add(0, row, overlap)
