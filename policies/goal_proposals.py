"""Goal grasps for objects as they are seen: proposed by a generator, filtered against the giver and the object as seen.

Stage 1 of DexH2R's pipeline (section 4.1), without anything that a robot could not know: the giver's hand is the 16
joint positions of a hand tracker, the object is its cloud.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.alignment import ALIGNMENT_DEPTH
from dexh2r_gym.giver.shape import PARENTS
from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.grasps.filters import Fallback
from dexh2r_gym.grasps.generators import GraspGenerator
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.rotations import pose_apply

GIVER_MARGIN = 0.003  # m that a free goal keeps from the giver's fingers
_PALM_RADIUS = 0.015  # m, of the giver's hand about a line from the wrist to a knuckle
_FINGER_RADIUS = 0.010  # m, about a line from joint to joint
_TIP = 0.9  # length of a fingertip, which no joint ends, in parts of the bone before it
_CHUNK = 64  # grasps looked at together
_AT_ONCE = 8  # clouds whose distances to a hand stay in the processor's cache


@dataclass(frozen=True)
class SeenGoals:
    """Goals of B worlds, G each, in the frame of the points that they were proposed for."""

    palm_pose: Tensor  # (B, G, 7)
    joints: Tensor  # (B, G, 22)
    usable: Tensor  # (B, G) bool; at least one in each world
    fallback: Tensor  # (B,) long, of `Fallback`: what is wrong with those that are usable


def propose_goals(generator: GraspGenerator, points: Tensor, giver: Tensor, *, num: int, seed: int = 0) -> SeenGoals:
    """`num` goals for each cloud (B, P, 3), filtered; giver: (B, 16, 3) joint positions in the same frame.

    Usable are the goals that keep 3 mm from the giver and whose hand goes no deeper into the cloud than the alignment
    may (6.5 mm). Where none is, those that keep from the giver (`Fallback.NO_STABLE`: what is so deep cannot close);
    where none does, the one that does best (`Fallback.NO_FREE`).
    """
    poses, joints, gaps, depths = [], [], [], []
    for cloud, hand in tqdm(zip(points, giver, strict=True), "goals", len(points), unit="world", leave=False, delay=2):
        found = generator.propose(cloud, num=num, seed=seed)
        poses.append(found.palm_pose)
        joints.append(found.joints)
        gaps.append(giver_gap(found.palm_pose, found.joints, hand))
        depths.append(cloud_depth(found.palm_pose, found.joints, cloud.expand(num, -1, -1)))
    gap, depth = torch.stack(gaps), torch.stack(depths)
    clear = gap > GIVER_MARGIN
    good = clear & (depth <= ALIGNMENT_DEPTH)
    best = torch.zeros_like(clear).scatter(1, gap.argmax(1, keepdim=True), torch.ones_like(clear))
    any_good, any_clear = good.any(1, keepdim=True), clear.any(1, keepdim=True)
    usable = torch.where(any_good, good, torch.where(any_clear, clear, best))
    fallback = torch.where(any_good, Fallback.NONE, torch.where(any_clear, Fallback.NO_STABLE, Fallback.NO_FREE))
    return SeenGoals(torch.stack(poses), torch.stack(joints), usable, fallback[:, 0])


def giver_gap(pose: Tensor, joints: Tensor, giver: Tensor) -> Tensor:
    """Least distance of hands (G, 7), (G, 22) to the giver's hand with joints (16, 3), (G,) metres, negative inside.

    The giver is a capsule from each joint to its parent, and one for each fingertip.
    """
    parent = torch.tensor(PARENTS[1:])
    tips = [joint for joint in range(1, len(PARENTS)) if joint not in PARENTS]
    before = giver[[PARENTS[joint] for joint in tips]]
    p0 = torch.cat((giver[parent], giver[tips]))
    p1 = torch.cat((giver[1:], giver[tips] + _TIP * (giver[tips] - before)))
    radius = torch.where(
        torch.cat((parent == 0, torch.zeros(len(tips), dtype=torch.bool))), _PALM_RADIUS, _FINGER_RADIUS
    )
    gaps = []
    for rows in torch.arange(len(pose)).split(_CHUNK):
        a0, a1, own = _capsules(pose[rows], joints[rows])
        apart = segment_distance(a0[:, :, None], a1[:, :, None], p0.to(a0), p1.to(a0))
        gaps.append((apart - own[:, None] - radius).flatten(1).amin(1))
    return torch.cat(gaps)


def cloud_depth(pose: Tensor, joints: Tensor, points: Tensor) -> Tensor:
    """Depth of the deepest of points (N, P, 3) in the solid of hands (N, 7), (N, 22): (N,) metres, 0 outside."""
    starts, ends, radius = _capsules(pose, joints)
    depths = []
    for p0, p1, start in zip(*(part.split(_AT_ONCE) for part in (starts, ends, points.float())), strict=True):
        along = p1 - p0
        # the squared distance to a segment by products of matrices alone: |x - p0|^2 - t (2 (x - p0).a - t |a|^2)
        length = along.square().sum(-1)[:, None]  # (n, 1, K)
        ahead = (start @ along.transpose(1, 2)).sub_((p0 * along).sum(-1)[:, None])  # (n, P, K), (x - p0).a
        t = (ahead / length.clamp_min(1e-12)).clamp_(0, 1)
        nearer = ahead.mul_(2).sub_(t * length).mul_(t)
        squared = start.square().sum(-1, keepdim=True) - 2 * start @ p0.transpose(1, 2)
        distance = squared.add_(p0.square().sum(-1)[:, None]).sub_(nearer).clamp_min_(0).sqrt_()
        depths.append(distance.sub_(radius).flatten(1).amin(1).neg_().clamp_min_(0))
    return torch.cat(depths)


def _capsules(pose: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ends (N, K, 3) twice and radius (K,) of the capsules of hands, float32."""
    link, p0, p1, radius = hand_capsules()
    links = forward_kinematics(pose.float(), joints.float())[:, link]
    return pose_apply(links, p0.float()), pose_apply(links, p1.float()), radius.float()
