"""Pose of a rigid object, followed from its observed clouds, batched over B worlds.

The cloud of the first frame is the model, and the pose is how it has moved since. Every frame is matched to the model
by a few steps of trimmed ICP, point-to-plane (Chen and Medioni 1992) with a weaker pull from point to point, started
where the last motion would lead ("assuming motion is linear in a short time", DexH2R section 4.3) or, if the caller
knows it, where the hand that holds the object went. Where a cloud does not say how the object moved, as about the axis
of a can, it is that start which remains.

Where the object will be a frame later is what a hand beside it must know. What is held out is seldom carried evenly: a
hand that expects it to be is up to 6 mm off at 30 frames a second. So the motion is expected to change on as it did, as
far as changes have lately been of one mind; those that are noise are not, and then it goes on evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.rotations import (
    pose_apply,
    pose_integrate,
    pose_inverse,
    pose_multiply,
    pose_velocity,
    quat_from_axis_angle,
    quat_from_matrix,
    quat_normalize,
    quat_rotate,
)

_AT_ONCE = 4  # worlds whose points are compared
MODEL_POINTS = 512
FRAME_POINTS = 256
STEPS = 4  # of ICP a frame
KEPT = 0.9  # of the pairs of a step; the others are points that the model lacks, or errors
_NEIGHBOURS = 12  # of a point of the model, which say where its tangent plane lies
_ARM = 0.05  # m, at which a turn counts as a move
_HOLD = 0.3  # weight of a pair's gap as it is, beside that of its part along the normal
_DAMPING = 0.02  # part of the weight of all pairs that speaks against any change, in each step
_TRUST = 5.0  # the same where it is known how the object was carried
_CARRIED_STEPS = 2  # of ICP, then
_MEMORY = 0.8  # a frame, of how far changes of the motion follow the ones before


@dataclass(frozen=True)
class Track:
    """What is known of the objects of B worlds; float32."""

    points: Tensor  # (B, MODEL_POINTS, 3) of the first cloud, m, about its middle
    normals: Tensor  # (B, MODEL_POINTS, 3) unit, of either sign
    pose: Tensor  # (B, 7) of the model in the world; at first unturned, at the middle of the first cloud
    motion: Tensor  # (B, 6) m and rad of the last frame, world axes
    change: Tensor  # (B, 6) of the motion, since the frame before
    agreement: Tensor  # (B, 2) of changes with the ones before, and of these with themselves: sums that fade, m^2

    def expected(self) -> Tensor:
        """Where the model would be a frame later if it went on as it does, (B, 7)."""
        agreed, most = self.agreement.unbind(-1)
        part = (agreed / most.clamp_min(1e-12)).clamp(0, 1)
        return pose_integrate(self.pose, self.motion + part[:, None] * self.change, 1.0)


def start_track(cloud: Tensor) -> Track:
    """Begin with the clouds (B, P, 3) of the first frame, world frame."""
    points = _thinned(cloud.float(), MODEL_POINTS)
    middle = points.mean(1)
    points = points - middle[:, None]
    near = torch.cdist(points, points).topk(_NEIGHBOURS, largest=False).indices  # (B, M, K)
    offset = points[torch.arange(len(points))[:, None, None], near]
    offset = offset - offset.mean(2, keepdim=True)
    normals = torch.linalg.eigh(offset.transpose(-1, -2) @ offset).eigenvectors[..., 0]
    unturned = points.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4)
    still, none = points.new_zeros(len(points), 6), points.new_zeros(len(points), 2)
    return Track(points, normals, torch.cat((middle, unturned), dim=-1), still, still, none)


def follow(track: Track, cloud: Tensor, carried: Tensor | None = None) -> Track:
    """The track one frame later, when clouds (B, P, 3) are seen, world frame.

    An object that is not seen at all, whose cloud is all zero, stays where it is, or goes where it is carried.

    Args:
        carried: (B, 7) how what holds the object moved since the last frame, as `rigid_motion` gives it; None: the
            object is expected to go on as it did.
    """
    seen = (cloud != 0).flatten(1).any(-1, keepdim=True)
    start = track.expected() if carried is None else pose_multiply(carried.float(), track.pose)
    pose, cloud = start, _thinned(cloud.float(), FRAME_POINTS)
    steps, damping = (STEPS, _DAMPING) if carried is None else (_CARRIED_STEPS, _TRUST)
    for _ in range(steps):
        pose = _step(track, cloud, pose, damping)
    pose = torch.where(seen, pose, track.pose if carried is None else start)
    pose = torch.cat((pose[:, :3], quat_normalize(pose[:, 3:])), dim=-1)
    motion = pose_velocity(track.pose, pose if carried is None else start, 1.0)
    change = (motion - track.motion) * (track.motion != 0).any(-1, keepdim=True)  # none from the first to the second
    arms = constant((1.0, 1.0, 1.0, _ARM, _ARM, _ARM), change)
    now, before = change * arms, track.change * arms
    agreement = torch.stack(((now * before).sum(-1), before.square().sum(-1)), dim=-1)
    return replace(track, pose=pose, motion=motion, change=change, agreement=_MEMORY * track.agreement + agreement)


def restart(track: Track, fresh: Tensor, cloud: Tensor) -> Track:
    """The track with the worlds of fresh (B,) bool begun anew with their clouds, of (B, P, 3)."""
    w = fresh.nonzero()[:, 0]
    if len(w) == 0:
        return track
    new = start_track(cloud[w])
    return Track(**{name: value.index_put((w,), getattr(new, name)) for name, value in vars(track).items()})


def rigid_motion(before: Tensor, after: Tensor) -> Tensor:
    """The pose (B, 7) that brings points before (B, J, 3) nearest to after (B, J, 3) (Kabsch 1976)."""
    middle, target = before.mean(1), after.mean(1)
    product = (after - target[:, None]).transpose(1, 2) @ (before - middle[:, None])
    left, _, right = torch.linalg.svd(product)
    flip = torch.ones_like(middle)
    flip[:, 2] = torch.linalg.det(left @ right).sign()
    turn = quat_from_matrix(left @ (flip[..., None] * right))
    return torch.cat((target - quat_rotate(turn, middle), turn), dim=-1)


def _thinned(cloud: Tensor, count: int) -> Tensor:
    """(B, count, 3): every so manieth point, since the order of a cloud means nothing."""
    return cloud[:, torch.linspace(0, cloud.shape[1] - 1, count).long()]


def _nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each of points (B, N, 3) the nearest of others (B, M, 3): the squared distance (B, N) and its place (B, N).

    A few worlds at a time, whose table of distances stays in the processor's cache.
    """
    bias = others.square().sum(-1)[:, None]
    table = points.new_empty(_AT_ONCE, points.shape[1], others.shape[1])
    squared, nearest = points.new_empty(points.shape[:2]), torch.empty(points.shape[:2], dtype=torch.long)
    for rows in (slice(i, i + _AT_ONCE) for i in range(0, len(points), _AT_ONCE)):
        part, across = points[rows], others[rows].transpose(1, 2)
        apart = table[: len(part)]
        torch.baddbmm(bias[rows].expand_as(apart), part, across, alpha=-2.0, out=apart)
        nearest[rows] = torch.from_numpy(apart.numpy().argmin(-1))  # several times as fast as torch's
        squared[rows] = apart.gather(-1, nearest[rows][..., None])[..., 0]
    return squared + points.square().sum(-1), nearest


def _step(track: Track, cloud: Tensor, pose: Tensor, damping: float) -> Tensor:
    """One step of ICP: the pose (B, 7) that brings the model nearer to the points (B, N, 3) of the cloud."""
    local = pose_apply(pose_inverse(pose)[:, None], cloud)  # (B, N, 3), model frame
    squared, nearest = _nearest(local, track.points)
    at = nearest[..., None].expand(-1, -1, 3)
    gap, normal = local - track.points.gather(1, at), track.normals.gather(1, at)
    limit = squared.kthvalue(round(KEPT * squared.shape[1]), dim=-1, keepdim=True).values
    weight = (squared <= limit).float()[..., None, None]  # (B, N, 1, 1)
    # to move the model by m and turn it by r, in its own frame, changes the gap along an axis a by -a.m - (local x a).r
    axes = torch.cat((normal[..., None, :], _HOLD**0.5 * torch.eye(3).expand(*gap.shape, 3)), dim=-2)  # (B, N, 4, 3)
    turned = torch.linalg.cross(local[..., None, :].expand_as(axes), axes, dim=-1) / _ARM
    slope = torch.cat((axes, turned), dim=-1)  # (B, N, 4, 6)
    weighted = (weight * slope).flatten(1, 2).transpose(1, 2)
    matrix = weighted @ slope.flatten(1, 2) + damping * weight.sum(1) * torch.eye(6)
    change = torch.linalg.solve(matrix, weighted @ (axes @ gap[..., None]).flatten(1, 2)).squeeze(-1)
    return pose_multiply(pose, torch.cat((change[:, :3], quat_from_axis_angle(change[:, 3:] / _ARM)), dim=-1))
