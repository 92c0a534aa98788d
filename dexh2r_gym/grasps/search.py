"""Search of ShadowHand grasps on an object: sampled approaches, then gradient descent of many grasps at once.

The energy is in the manner of DexGraspNet (Wang et al., ICRA 2023, https://arxiv.org/abs/2210.02697): distance of
contacts, force closure, penetration, self-penetration and joint limits. Two things differ. Contacts are not drawn at
random: every pad of the hand offers its point nearest to the object. And the forces are not all equal: they are those
that come closest to balance (no net force or torque without friction), found along with the grasp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.hand import (
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    LINK_NAMES,
    SURFACE_LINK,
    clamp_joints,
    forward_kinematics,
    hand_capsules,
    surface_points_local,
)
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import pose_apply, quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_normalize

PALM_CENTER = (0.0, -0.015, 0.085)  # m, palm frame: the hollow of the palm
_FINGERS = ("ff", "mf", "rf", "lf", "th")
_TORQUE_LENGTH = 0.05  # m, a torque counts as the force that makes it at this lever
_CONTACT_RANGE = 0.006  # m, a pad further from the surface than about this carries no force
_REACH = 0.03  # m, pads nearer to the surface than about this are drawn to it more than others
_PAD_POINTS = 12  # surface points that stand for a pad

# Pads: links whose inner side takes hold, where that side faces (link frame), and how much contact there counts.
_INWARD = (0.0, -1.0, 0.0)
_PADS = (
    *((f"rh_{f}{part}", _INWARD, w) for part, w in (("distal", 1.0), ("middle", 0.5), ("proximal", 0.25))
      for f in ("ff", "mf", "rf", "lf")),
    ("rh_thdistal", _INWARD, 2.0),
    ("rh_thmiddle", (-1.0, 0.0, 0.0), 0.5),
    ("rh_palm", _INWARD, 0.5),
)  # fmt: skip

_PRESHAPE = {"THJ5": 0.2, "THJ4": 1.15, "THJ2": -0.2}  # rad: fingers straight, thumb away from the palm


@dataclass(frozen=True)
class SearchOptions:
    """How hard to search, and what counts in the energy."""

    steps: int = 120
    learning_rate: float = (
        0.01  # of Adam: rad of the palm's turn; a quarter of it in m of its shift, three times in joints
    )
    distance: float = 3.0  # per pad that is far from the surface
    closure: float = 2.0  # of the square of the force and torque left over, when the forces sum to one
    penetration: float = 1000.0  # per metre of the deepest point, and of the mean depth
    self_penetration: float = 200.0  # per metre of overlap
    limits: float = 5.0  # per radian


def search_grasps(
    obj: ObjectModel, num: int, generator: torch.Generator, options: SearchOptions = SearchOptions()
) -> tuple[Tensor, Tensor]:
    """`num` grasps by gradient descent from random approaches: palm poses (num, 7), object frame, and joints (num, 22).

    float32. Nothing is promised about them: test them with `dexh2r_gym.grasps.stability` and measure their depth.
    """
    start, joints = sample_approaches(obj, num, generator)
    energy = _Energy(obj, num, options)
    shift = torch.zeros(num, 3, requires_grad=True)
    turn = torch.zeros(num, 3, requires_grad=True)
    joints = joints.requires_grad_()
    rate = options.learning_rate
    optimizer = torch.optim.Adam(
        [{"params": [shift], "lr": rate / 4}, {"params": [turn], "lr": rate}, {"params": [joints], "lr": 3 * rate}]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps, eta_min=rate / 20)
    for _ in range(options.steps):
        optimizer.zero_grad()
        energy(_moved(start, shift, turn), joints).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return _moved(start, shift, turn), clamp_joints(joints)


def sample_approaches(obj: ObjectModel, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Open hands before random places of the surface, palms towards it: palm poses (num, 7), joints (num, 22).

    Three in four lay the fingers across the object's long axis, give or take; the others at random.
    """
    at = torch.randint(len(obj.points), (num,), generator=generator)
    facing = normalize(obj.normals[at] + 0.35 * torch.randn(num, 3, generator=generator), dim=-1)  # palm's +y
    long_axis = torch.linalg.eigh(obj.points.T.cov())[1][:, -1]
    across = torch.linalg.cross(facing, long_axis.expand_as(facing))
    fingers = torch.where(torch.rand(num, 1, generator=generator) < 0.5, across, -across)
    anywhere = torch.randn(num, 3, generator=generator)
    loose = torch.rand(num, 1, generator=generator) < 0.25
    fingers = torch.where(loose, anywhere, normalize(fingers, dim=-1) + 0.3 * anywhere)
    z = normalize(fingers - (fingers * facing).sum(-1, keepdim=True) * facing, dim=-1)
    x = torch.linalg.cross(facing, z)
    rotation = quat_from_matrix(torch.stack((x, facing, z), dim=-1))

    joints = torch.tensor([_PRESHAPE.get(name, 0.0) for name in JOINT_NAMES]).repeat(num, 1)
    joints = clamp_joints(joints + 0.1 * torch.randn(num, 22, generator=generator))
    pose = torch.cat((obj.points[at] + 0.01 * facing, rotation), dim=-1)
    pose[:, :3] = pose_apply(pose, -torch.tensor(PALM_CENTER))
    # Back off until nothing is inside the object.
    local = surface_points_local()[0][::8]
    for _ in range(4):
        points = pose_apply(forward_kinematics(pose, joints)[:, SURFACE_LINK[::8]], local)
        deep = (-obj.signed_distance_fast(points)).amax(-1, keepdim=True).clamp_min(0.0)
        pose[:, :3] += (deep + 0.002 * (deep > 0)) * facing
    return pose, joints


def _moved(pose: Tensor, shift: Tensor, turn: Tensor) -> Tensor:
    """Pose (N, 7) shifted by (N, 3) metres and turned by axis-angle (N, 3) about the palm's centre."""
    rotation = quat_normalize(quat_multiply(quat_from_axis_angle(turn), pose[:, 3:]))
    center = torch.tensor(PALM_CENTER)
    position = pose_apply(pose, center) + shift
    turned = torch.cat((torch.zeros_like(position), rotation), dim=-1)
    return torch.cat((position - pose_apply(turned, center), rotation), dim=-1)


class _Energy:
    """Energy of N grasps; keeps the balancing forces from one call to the next."""

    def __init__(self, obj: ObjectModel, num: int, options: SearchOptions) -> None:
        self._options = options
        self._grid = obj.sdf_grid.permute(2, 1, 0)[None, None].contiguous()  # grid_sample wants depth, height, width
        self._origin = obj.sdf_origin
        self._extent = obj.sdf_spacing * (torch.tensor(obj.sdf_grid.shape) - 1)
        self._center = torch.as_tensor(obj.center_of_mass, dtype=torch.float32)
        self._force = torch.full((num, len(_PADS)), 1.0 / len(_PADS))

    def __call__(self, pose: Tensor, joints: Tensor) -> Tensor:
        """palm (N, 7) in the object's frame, joints (N, 22) -> (N,)"""
        o, hand = self._options, _hand_points()
        links = forward_kinematics(pose, joints)
        body = self._distance(pose_apply(links[:, hand.body_link], hand.body))  # (N, P)
        pads = pose_apply(links[:, hand.pad_link], hand.pads).unflatten(1, (len(_PADS), _PAD_POINTS))
        nearest = self._distance(pads).min(dim=-1)
        gap = nearest.values.clamp_min(0.0)  # (N, pads)
        contact = pads.gather(2, nearest.indices[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)
        return (
            o.distance * (hand.pad_weight * gap / (gap + _REACH)).sum(-1)
            + o.closure * self._imbalance(contact, gap)
            + o.penetration * (-body).clamp_min(0.0).amax(-1)
            + o.penetration * (-body).clamp_min(0.0).mean(-1)
            + o.self_penetration * _self_penetration(links)
            + o.limits * ((joints - JOINT_UPPER).clamp_min(0) + (JOINT_LOWER - joints).clamp_min(0)).sum(-1).float()
        )

    def _distance(self, points: Tensor) -> Tensor:
        """Signed distance (...,) by trilinear lookup, with a gradient, also outside of the grid. points (..., 3)"""
        unit = 2 * (points - self._origin) / self._extent - 1
        held = unit.clamp(-1, 1)
        value = grid_sample(self._grid, held.reshape(1, 1, 1, -1, 3), align_corners=True).view(points.shape[:-1])
        return value + ((unit - held) * self._extent / 2).square().sum(-1).add(1e-12).sqrt() - 1e-6

    def _imbalance(self, contact: Tensor, gap: Tensor) -> Tensor:
        """How far the best forces along the surface's normals are from balance. (N, C, 3), (N, C) -> (N,)"""
        h = 0.003
        offsets = h * torch.cat((torch.eye(3), -torch.eye(3)))
        around = self._distance(contact[:, :, None] + offsets)  # (N, C, 6)
        normal = normalize(around[..., :3] - around[..., 3:], dim=-1)
        lever = (contact - self._center) / _TORQUE_LENGTH
        wrench = torch.cat((normal, torch.linalg.cross(lever, normal, dim=-1)), dim=-1)  # (N, C, 6)
        with torch.no_grad():
            absent = 1 - torch.exp(-gap / _CONTACT_RANGE)
            for _ in range(4):  # exponentiated gradient: forces stay positive and sum to one
                net = (self._force[..., None] * wrench).sum(1, keepdim=True)
                slope = (wrench * net).sum(-1) + absent
                self._force = torch.softmax(self._force.clamp_min(1e-4).log() - 0.5 * slope, dim=-1)
        return (self._force[..., None] * wrench).sum(1).square().sum(-1)


@dataclass(frozen=True)
class _HandPoints:
    body: Tensor  # (P, 3) link frame, points that must stay outside of the object
    body_link: Tensor  # (P,)
    pads: Tensor  # (pads * _PAD_POINTS, 3) link frame
    pad_link: Tensor
    pad_weight: Tensor  # (pads,)


@cache
def _hand_points() -> _HandPoints:
    points, normals = surface_points_local()
    pads, links = [], []
    for name, direction, _ in _PADS:
        link = LINK_NAMES.index(name)
        own = (SURFACE_LINK == link).nonzero().squeeze(1)
        facing = (normals[own].float() * torch.tensor(direction)).sum(-1)
        pads.append(points[own[facing.topk(_PAD_POINTS).indices]].float())
        links += [link] * _PAD_POINTS
    return _HandPoints(
        points[::6].float(),
        SURFACE_LINK[::6],
        torch.cat(pads),
        torch.tensor(links),
        torch.tensor([p[2] for p in _PADS]),
    )


@cache
def _capsule_pairs() -> tuple[Tensor, Tensor]:
    """Pairs of capsules that may meet: of different fingers, or of a fingertip and the palm. (2, pairs), (pairs,) m"""
    link, _, _, radius = hand_capsules()
    part = torch.tensor([_FINGERS.index(name[3:5]) if name[3:5] in _FINGERS else -1 for name in LINK_NAMES])[link]
    tip = torch.tensor([name.endswith("distal") for name in LINK_NAMES])[link]
    first, second = torch.triu_indices(len(link), len(link), offset=1)
    meet = (part[first] >= 0) & (part[second] >= 0) | tip[first] | tip[second]
    meet &= part[first] != part[second]
    first, second = first[meet], second[meet]
    return torch.stack((first, second)), (radius[first] + radius[second]).float()


def _self_penetration(links: Tensor) -> Tensor:
    """Sum of the overlaps between capsules of the hand. (N, 18, 7) -> (N,) metres"""
    link, p0, p1, _ = hand_capsules()
    a, b = (pose_apply(links[:, link], p.to(links)) for p in (p0, p1))
    (i, j), reach = _capsule_pairs()
    return (reach - segment_distance(a[:, i], b[:, i], a[:, j], b[:, j])).clamp_min(0.0).sum(-1)
