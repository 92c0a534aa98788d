"""Grasps of the giver: a hand that holds an object and leaves most of it free.

Wrist poses are sampled with the palm towards the surface, the open hand moves in until it touches, the fingers close,
and the grasps are judged: thumb and at least two fingers touch, a finger faces thumb or palm across the object, nothing
is deep inside it, forearm and thumb are clear, and the far end stays free for the receiver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dexh2r_gym.giver.closing import FingerDrive, close_fingers
from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.rotations import pose_apply, quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_rotate

MAX_OVERLAP = 0.003  # metres, deepest skin vertex of a grasp that is kept
CONTACT = 0.0015  # metres, a finger whose skin comes nearer than this is in contact
_CLEARANCE = 0.03  # metres: object points nearer than this to the skin are taken by the giver
_REACH = 0.10  # metres: what counts as one end of an object, at most this much of its length
_FREE_END = 0.3  # share of an object's length, from the far end, into which the hand at the other end must not reach
_FOREARM = (0.05, 0.20)  # metres behind the wrist that must be clear of the object
_MIN_SQUEEZE = 0.6  # cosine between the outward normals of two contacts, reversed: 1 is directly opposite
_FINALISTS = 24  # candidates that are checked with every vertex and the exact distance


class Graspable(Protocol):
    """What is asked of an object, in its own frame; `dexh2r_gym.objects.ObjectModel` is one."""

    @property
    def points(self) -> Tensor:
        """On the surface, (P, 3) metres."""

    @property
    def normals(self) -> Tensor:
        """Outward, (P, 3)."""

    def signed_distance(self, points: Tensor) -> Tensor:
        """Exact, metres, negative inside. (..., 3) -> (...)"""

    def signed_distance_fast(self, points: Tensor) -> Tensor:
        """The same by lookup."""


@dataclass(frozen=True)
class GraspFit:
    """K grasps of one object by one hand, the best first. May be empty."""

    mano: Tensor  # (K, 61) float64, the hand in the object's frame
    score: Tensor  # (K,) higher is better
    contacts: Tensor  # (K, 5) bool, in the order of `giver.CHAINS`
    overlap: Tensor  # (K,) metres, deepest skin vertex inside the object (exact)
    free: Tensor  # (K,) share of the object's surface further than 3 cm from the hand

    def __len__(self) -> int:
        return len(self.mano)


def grasp_end(
    hand: GiverHand, obj: Graspable, *, end: Tensor | None = None, num_candidates: int = 192, generator: torch.Generator
) -> GraspFit:
    """Grasps at one end of an object.

    end (3,): direction, object frame, in which the held end lies; None: one end of the longest extent, drawn by the
    generator. The same generator state gives the same grasps.
    """
    if end is None:
        axis = torch.linalg.svd(obj.points - obj.points.mean(0), full_matrices=False)[2][0]
        end = axis * (1.0 if torch.rand((), generator=generator) < 0.5 else -1.0)
    end = torch.nn.functional.normalize(torch.as_tensor(end, dtype=torch.float32), dim=-1)
    position, rotation = _wrists_at_end(hand, obj, end, num_candidates, generator)
    along = obj.points.float() @ end
    guard = torch.cat((end, torch.lerp(along.min(), along.max(), _FREE_END)[None]))
    return _fit(hand, obj, position, rotation, generator, guard=guard)


def grasp_near(
    hand: GiverHand,
    obj: Graspable,
    wrist: Tensor,
    *,
    spread: tuple[float, float] = (0.03, 0.35),
    num_candidates: int = 192,
    generator: torch.Generator,
) -> GraspFit:
    """Grasps whose wrist is near a measured one, `wrist` (7,) pose in the object's frame, of the hand's rest frame.

    spread: standard deviations of the search, metres and radians; grasps further away score less.
    """
    noise = torch.randn(num_candidates, 6, generator=generator)
    noise[0] = 0.0
    near = wrist.to(noise).expand(num_candidates, 7)
    position = near[:, :3] + spread[0] * noise[:, :3]
    rotation = quat_multiply(near[:, 3:], quat_from_axis_angle(spread[1] * noise[:, 3:]))
    prior = -0.1 * noise.square().sum(-1)
    return _fit(hand, obj, position, rotation, generator, prior=prior)


def _wrists_at_end(
    hand: GiverHand, obj: Graspable, end: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample wrist positions (N, 3) and rotations (N, 4) whose palm faces a surface point near the end."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    along = obj.points @ end
    reach = min(_REACH, 0.4 * float(along.max() - along.min()))
    held = torch.nonzero(along > along.max() - reach)[:, 0]
    pick = held[torch.randint(len(held), (count,), generator=generator)]
    point, normal = obj.points[pick].float(), obj.normals[pick].float()
    # The palm's normal (rest -y) meets the surface; the forearm points anywhere but to the free end.
    forearm = end - (normal @ end)[:, None] * normal
    any_way = torch.linalg.cross(normal, torch.randn(count, 3, generator=generator), dim=-1)
    forearm = torch.nn.functional.normalize(
        torch.where(forearm.norm(dim=-1, keepdim=True) < 0.3, any_way, forearm), dim=-1
    )
    side = 1.0 if hand.side == "right" else -1.0
    x = side * quat_rotate(quat_from_axis_angle(normal * uniform(-1.9, 1.9)[:, None]), forearm)
    z = torch.linalg.cross(x, normal, dim=-1)
    rotation = quat_from_matrix(torch.stack((x, normal, z), dim=-1))
    tilt = 0.2 * torch.randn(count, 3, generator=generator)
    rotation = quat_multiply(rotation, quat_from_axis_angle(tilt))
    # Between the middle of the palm and the pads of the fingers: what lies over the surface point.
    size = float(hand.rest_tips[1, 0].abs())
    anchor = torch.stack((-side * size * uniform(0.35, 0.85), 0 * along[pick], uniform(-0.02, 0.02)), dim=-1)
    return point - quat_rotate(rotation, anchor), rotation


def _fit(
    hand: GiverHand,
    obj: Graspable,
    position: Tensor,
    rotation: Tensor,
    generator: torch.Generator,
    *,
    prior: Tensor | None = None,
    guard: Tensor | None = None,
) -> GraspFit:
    """Move in, close, judge. position (N, 3), rotation (N, 4) of wrists.

    prior (N,) is added to the score; guard (4,), normal and offset: the whole skin must lie beyond this plane.
    """
    count = len(position)
    drive = FingerDrive(hand)
    adduction, opposition, knuckle = torch.rand(3, count, generator=generator)
    grip = {"adduction": 0.3 + 0.6 * adduction, "opposition": 0.3 + 1.1 * opposition, "knuckle": 0.8 * knuckle}
    opened = drive.pose(drive.open_flexion(grip["knuckle"]), grip["adduction"], grip["opposition"])
    mano = hand.mano(position, rotation, opened)
    mano, met = _move_in(hand, drive, obj, mano, rotation)
    mano, touched = close_fingers(drive, mano, obj.signed_distance_fast, **grip)
    fingers = touched.any(-1)
    score = _coarse_score(hand, obj, mano, fingers, met)
    if prior is not None:
        score = score + prior
    if guard is not None:
        clear = (hand.vertices(mano, drive.pads.flatten()) @ guard[:3]).amin(-1) > guard[3]
        score = torch.where(clear, score, -torch.inf)
    best = score.topk(min(_FINALISTS, count)).indices
    best = best[score[best].isfinite()]
    return _judge(hand, obj, mano[best].double(), score[best])


def _move_in(
    hand: GiverHand, drive: FingerDrive, obj: Graspable, mano: Tensor, rotation: Tensor
) -> tuple[Tensor, Tensor]:
    """Start 12 cm off along the palm's normal and move until the skin touches. -> mano (N, 61), touched (N,) bool."""
    subset = torch.cat((drive.palm, drive.pads.flatten()))
    skin = hand.vertices(mano, subset)
    back = quat_rotate(rotation, torch.tensor([0.0, 1.0, 0.0]).expand(len(mano), 3))
    lift = torch.full((len(mano), 1), 0.12)
    for _ in range(25):  # as far as the nearest vertex allows, which never passes the surface
        gap = obj.signed_distance_fast(skin + (lift * back)[:, None]).amin(-1, keepdim=True)
        lift = lift - gap
    moved = mano.clone()
    moved[:, :3] += lift * back
    return moved, (gap[:, 0].abs() < 0.002) & (lift[:, 0] > -0.08)


def _coarse_score(hand: GiverHand, obj: Graspable, mano: Tensor, fingers: Tensor, met: Tensor) -> Tensor:
    """(N,) score of closed hands, -inf for those that cannot be a grasp."""
    subset = torch.arange(0, len(hand.rest_vertices), 5)
    skin = hand.vertices(mano, subset)
    bones = hand.bone_poses(mano)
    overlap = (-obj.signed_distance_fast(skin)).amax(-1)
    points = obj.points[:: max(1, len(obj.points) // 512)].float()
    free = (torch.cdist(points.expand(len(mano), -1, -1), skin).amin(-1) > _CLEARANCE).float().mean(-1)
    behind = torch.linspace(*_FOREARM, 6) * (1.0 if hand.side == "right" else -1.0)
    line = torch.stack((behind, 0 * behind, 0 * behind), dim=-1)
    forearm = obj.signed_distance_fast(pose_apply(bones[:, :1], line[None].expand(len(mano), -1, -1))).amin(-1)
    squeeze = _squeeze(hand, obj, skin, subset)
    count = fingers[:, :4].sum(-1)
    good = (
        met
        & fingers[:, 4]
        & (count >= 2)
        & (overlap < MAX_OVERLAP)
        & (forearm > 0.03)
        & (_self_gap(hand, bones) > -0.004)
        & (squeeze > _MIN_SQUEEZE)
    )
    score = 0.2 * count + squeeze + 3.0 * free - 100.0 * overlap.clamp_min(0.0)
    return torch.where(good, score, -torch.inf)


def _squeeze(hand: GiverHand, obj: Graspable, skin: Tensor, subset: Tensor) -> Tensor:
    """(N,): how directly a finger faces thumb or palm across the object, 1 fully; -1 where no such pair touches.

    skin (N, S, 3) are the hand's vertices `subset`.
    """
    finger = hand.weights[subset, 1:13].sum(-1) > 0.5
    h = 0.002 * torch.eye(3)
    sides = []
    for part in (skin[:, finger], skin[:, ~finger]):
        near, index = obj.signed_distance_fast(part).topk(24, largest=False, dim=-1)
        at = part.gather(1, index[..., None].expand(-1, -1, 3))
        slope = [obj.signed_distance_fast(at + h[i]) - obj.signed_distance_fast(at - h[i]) for i in range(3)]
        sides.append((near < 0.003, torch.nn.functional.normalize(torch.stack(slope, dim=-1), dim=-1)))
    (near_a, normal_a), (near_b, normal_b) = sides
    facing = -(normal_a[:, :, None] * normal_b[:, None]).sum(-1)
    return torch.where(near_a[:, :, None] & near_b[:, None], facing, -1.0).flatten(1).amax(-1)


def _self_gap(hand: GiverHand, bones: Tensor) -> Tensor:
    """(N,) gap between the thumb's capsules and those of the fingers, metres, negative where they overlap."""
    bone, p0, p1, radius = hand.capsules()
    finger, thumb = (bone > 0) & (bone < 13), bone > 13
    t = torch.linspace(0, 1, 5, dtype=p0.dtype)[:, None, None]
    along = (p0 + t * (p1 - p0)).transpose(0, 1).to(bones)  # (C, 5, 3)
    world = pose_apply(bones[:, bone, None], along.expand(len(bones), -1, -1, -1))  # (N, C, 5, 3)
    a, b = world[:, finger].flatten(1, 2), world[:, thumb].flatten(1, 2)
    reach = radius[finger].repeat_interleave(5)[:, None] + radius[thumb].repeat_interleave(5)
    return (torch.cdist(a, b) - reach.to(bones)).flatten(1).amin(-1)


def _judge(hand: GiverHand, obj: Graspable, mano: Tensor, score: Tensor) -> GraspFit:
    """The final check: every vertex, exact distances. Keeps what passes, best first."""
    skin = hand.vertices(mano)
    distance = obj.signed_distance(skin.float()).double()
    chain = hand.weights[:, 1:].unflatten(-1, (5, 3)).sum(-1) > 0.5  # (V, 5)
    contacts = torch.stack([distance[:, chain[:, f]].amin(-1) < CONTACT for f in range(5)], dim=-1)
    overlap = (-distance.amin(-1)).clamp_min(0.0)
    free = (torch.cdist(obj.points.double().expand(len(mano), -1, -1), skin[:, ::4]).amin(-1) > _CLEARANCE).double()
    keep = contacts[:, 4] & (contacts[:, :4].sum(-1) >= 2) & (overlap <= MAX_OVERLAP)
    return GraspFit(mano[keep], score[keep].double(), contacts[keep], overlap[keep], free.mean(-1)[keep])
