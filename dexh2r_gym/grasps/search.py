"""Search of ShadowHand grasps on an object: sampled approaches, then gradient descent of many grasps at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dexh2r_gym.grasps.energy import EnergyWeights, GraspEnergy
from dexh2r_gym.grasps.field import DistanceField
from dexh2r_gym.hand import JOINT_NAMES, SURFACE_LINK, clamp_joints, forward_kinematics, surface_points_local
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import (
    pose_apply,
    quat_from_axis_angle,
    quat_from_matrix,
    quat_multiply,
    quat_normalize,
    quat_rotate,
)

PALM_CENTER = (0.0, -0.015, 0.085)  # m, palm frame: the hollow of the palm
_PRESHAPE = {"THJ5": 0.2, "THJ4": 1.15, "THJ2": -0.2}  # rad: fingers straight, thumb away from the palm
_BESIDE = (0.02, 0.3)  # m, rad: how far an approach starts from the grasp that it starts beside


@dataclass(frozen=True)
class SearchOptions:
    """How hard to search, where, and what counts in the energy."""

    steps: int = 120
    # of Adam: rad of the palm's turn; a quarter of it in m of its shift, three times in joints
    learning_rate: float = 0.01
    across: float = 0.75  # part of the approaches that lay the fingers across the object's long axis, give or take
    weights: EnergyWeights = field(default_factory=EnergyWeights)


def search_grasps(
    obj: ObjectModel,
    num: int,
    generator: torch.Generator,
    options: SearchOptions = SearchOptions(),
    around: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`num` grasps by gradient descent from random approaches: palm poses (num, 7), object frame, and joints (num, 22).

    around: (K, 7) palm poses of grasps that proved good; about half of the search then starts beside these.
    float32. Nothing is promised about them: test them with `dexh2r_gym.grasps.stability` and measure their depth.
    """
    start, joints = sample_approaches(obj, num, generator, options.across, around)
    energy = GraspEnergy(DistanceField.of_object(obj), num, options.weights)
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


def sample_approaches(
    obj: ObjectModel, num: int, generator: torch.Generator, across: float = 0.75, around: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Open hands before random places of the surface, palms towards it: palm poses (num, 7), joints (num, 22).

    A part `across` of them lay the fingers across the object's long axis, give or take; the others at random.
    around: (K, 7) palm poses, K >= 1; about half of the approaches start beside one of these instead.
    """
    at = torch.randint(len(obj.points), (num,), generator=generator)
    facing = normalize(obj.normals[at] + 0.35 * torch.randn(num, 3, generator=generator), dim=-1)  # palm's +y
    long_axis = torch.linalg.eigh(obj.points.T.cov())[1][:, -1]
    sideways = torch.linalg.cross(facing, long_axis.expand_as(facing))
    fingers = torch.where(torch.rand(num, 1, generator=generator) < 0.5, sideways, -sideways)
    anywhere = torch.randn(num, 3, generator=generator)
    loose = torch.rand(num, 1, generator=generator) >= across
    fingers = torch.where(loose, anywhere, normalize(fingers, dim=-1) + 0.3 * anywhere)
    z = normalize(fingers - (fingers * facing).sum(-1, keepdim=True) * facing, dim=-1)
    x = torch.linalg.cross(facing, z)
    rotation = quat_from_matrix(torch.stack((x, facing, z), dim=-1))

    joints = torch.tensor([_PRESHAPE.get(name, 0.0) for name in JOINT_NAMES]).repeat(num, 1)
    joints = clamp_joints(joints + 0.1 * torch.randn(num, 22, generator=generator))
    pose = torch.cat((obj.points[at] + 0.01 * facing, rotation), dim=-1)
    pose[:, :3] = pose_apply(pose, -torch.tensor(PALM_CENTER))
    if around is not None:
        old = around[torch.randint(len(around), (num,), generator=generator)].float()
        shift, turn = (by * torch.randn(num, 3, generator=generator) for by in _BESIDE)
        chosen = torch.rand(num, 1, generator=generator) < 0.5
        pose = torch.where(chosen, _moved(old, shift, turn), pose)
        facing = quat_rotate(pose[:, 3:], torch.tensor([0.0, 1.0, 0.0]).expand(num, 3))
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
