"""Whether a hand holds an object, and how: the judgement shared by all who look for grasps of the giver.

A grasp is sound if the thumb and two fingers (or the index alone) touch, a finger faces thumb or palm across the
object, nothing is deep inside it, and forearm and thumb are clear. What kind it is, is measured on its contacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from dexh2r_gym.giver.closing import FingerDrive, Grip, close_fingers
from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.rotations import pose_apply, quat_from_axis_angle, quat_multiply, quat_rotate
from dexh2r_gym.types import NUM_GIVER_JOINTS

MAX_OVERLAP = 0.003  # metres, deepest skin vertex of a grasp that is kept
CONTACT = 0.0015  # metres, skin that comes nearer than this is in contact
MIN_FREE = 0.45  # share of the surface that a hold of the middle leaves free
STYLES = ("power", "pinch")
PLACES = ("end", "other_end", "handle", "middle")  # end: towards positive numbers along the longest extent
_CLEARANCE = 0.03  # metres: object points nearer than this to the skin are taken by the giver
_FREE_END = 0.3  # share of an object's length, from the far end, into which the hand at the other end must not reach
_END = 1 / 3  # share of an object's length that counts as one end
_FOREARM = (0.05, 0.20)  # metres behind the wrist that must be clear of the object
_MIN_SQUEEZE = 0.6  # cosine between the outward normals of two contacts, reversed: 1 is directly opposite
_GRID_REACH = 0.008  # metres: more than the error of a lookup, so nothing beyond it can be in contact
_IN_HANDLE = (0.8, 0.005)  # share of the contacts that must lie in the handle's box; metres the box is widened
_PALM_SIDE = (0, 1, 4, 7, 10, 13)  # bones: palm with the ball of the thumb, and the first phalanges of the fingers
_FINALISTS = 24  # candidates that are judged with every vertex and the exact distance


class Graspable(Protocol):
    """What is asked of an object, in its own frame; `dexh2r_gym.objects.ObjectModel` is one.

    It may have a `handle`, (2, 3) corners of a box around it, or None.
    """

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
    grip: Grip  # of the K hands
    index: Tensor  # (K,) long, the way or candidate each grasp came from
    score: Tensor  # (K,) higher is better
    contacts: Tensor  # (K, 5) bool, in the order of `giver.CHAINS`
    touch: Tensor  # (K, 16) share of the contact that is on each bone
    overlap: Tensor  # (K,) metres, deepest skin vertex inside the object (exact)
    free: Tensor  # (K,) share of the object's surface further than 3 cm from the hand
    room: Tensor  # (K,) bool: the far end is left to the receiver, or enough of the surface if held in the middle
    style: tuple[str, ...]  # K of STYLES: pinch if only the outer phalanges touch
    place: tuple[str, ...]  # K of PLACES

    def __len__(self) -> int:
        return len(self.mano)

    def __getitem__(self, rows: Tensor) -> GraspFit:
        """The grasps named by a mask (K,) or by numbers (N,)."""
        chosen = torch.arange(len(self))[rows].tolist()
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*_MEASURES, "grip")}
        parts |= {name: tuple(getattr(self, name)[i] for i in chosen) for name in _WORDS}
        return GraspFit(**parts)

    @classmethod
    def joined(cls, fits: Sequence[GraspFit]) -> GraspFit:
        """All grasps of one or more fits, one fit after another."""
        parts: dict[str, Any] = {name: torch.cat([getattr(fit, name) for fit in fits]) for name in _MEASURES}
        parts |= {name: tuple(word for fit in fits for word in getattr(fit, name)) for name in _WORDS}
        return cls(grip=Grip.joined([fit.grip for fit in fits]), **parts)


_WORDS = ("style", "place")
_MEASURES = tuple(f.name for f in fields(GraspFit) if f.name not in (*_WORDS, "grip"))


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
    mano, grip, score = close_palm_first(hand, obj, position, rotation, generator)
    return judge_best(hand, obj, mano, grip, score - 0.1 * noise.square().sum(-1))


def close_palm_first(
    hand: GiverHand, obj: Graspable, position: Tensor, rotation: Tensor, generator: torch.Generator
) -> tuple[Tensor, Grip, Tensor]:
    """Open hands with wrists at position (N, 3), rotation (N, 4) move in along the palm's normal and close.

    Returns mano (N, 61), the closed grip and `coarse_score` (N,).
    """
    drive = FingerDrive(hand)
    adduction, opposition, knuckle = torch.rand(3, len(position), generator=generator)
    grip = Grip.opened(0.3 + 0.6 * adduction, 0.3 + 1.1 * opposition, 0.8 * knuckle)
    mano = hand.mano(position, rotation, drive.pose(grip))
    mano, met = _move_in(drive, obj, mano, rotation)
    grip, touched = close_fingers(drive, mano, grip, obj.signed_distance_fast)
    mano = drive.hold(mano, grip)
    score = coarse_score(hand, obj, mano, touched)
    return mano, grip, torch.where(met, score, -torch.inf)


def _move_in(drive: FingerDrive, obj: Graspable, mano: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Start 12 cm off along the palm's normal and move until the skin touches. -> mano (N, 61), touched (N,) bool."""
    subset = torch.cat((drive.palm, drive.pads.flatten()))
    skin = drive.hand.vertices(mano, subset)
    back = quat_rotate(rotation, torch.tensor([0.0, 1.0, 0.0]).expand(len(mano), 3))
    lift = torch.full((len(mano), 1), 0.12)
    for _ in range(25):  # as far as the nearest vertex allows, which never passes the surface
        gap = obj.signed_distance_fast(skin + (lift * back)[:, None]).amin(-1, keepdim=True)
        lift = lift - gap
    moved = mano.clone()
    moved[:, :3] += lift * back
    return moved, (gap[:, 0].abs() < 0.002) & (lift[:, 0] > -0.08)


def coarse_score(hand: GiverHand, obj: Graspable, mano: Tensor, touched: Tensor) -> Tensor:
    """(N,) score of closed hands (N, 61) whose phalanges touch as in (N, 5, 3), -inf for those that are no grasp."""
    fingers = touched.any(-1)
    subset = torch.arange(0, len(hand.rest_vertices), 5)
    skin = hand.vertices(mano, subset)
    bones = hand.bone_poses(mano)
    overlap = (-obj.signed_distance_fast(skin)).amax(-1)
    behind = torch.linspace(*_FOREARM, 6) * (1.0 if hand.side == "right" else -1.0)
    line = torch.stack((behind, 0 * behind, 0 * behind), dim=-1)
    forearm = obj.signed_distance_fast(pose_apply(bones[:, :1], line[None].expand(len(mano), -1, -1))).amin(-1)
    squeeze = _squeeze(hand, obj, skin, subset)
    count = fingers[:, :4].sum(-1)
    good = (
        _holds(fingers)
        & (overlap < MAX_OVERLAP)
        & (forearm > 0.03)
        & (_self_gap(hand, bones) > -0.004)
        & (squeeze > _MIN_SQUEEZE)
    )
    score = 0.2 * count + squeeze + 3.0 * _free_share(obj, skin) - 100.0 * overlap.clamp_min(0.0)
    return torch.where(good, score, -torch.inf)


def _holds(contacts: Tensor) -> Tensor:
    """(N,) bool: which of the contacts (N, 5) hold: the thumb with two fingers or with the index finger."""
    return contacts[:, 4] & (contacts[:, 0] | (contacts[:, :4].sum(-1) >= 2))


def _free_share(obj: Graspable, skin: Tensor) -> Tensor:
    """(N,) share of the object's surface that lies further than 3 cm from skin (N, S, 3)."""
    points = obj.points[:: max(1, len(obj.points) // 512)].to(skin)
    return (torch.cdist(points.expand(len(skin), -1, -1), skin).amin(-1) > _CLEARANCE).float().mean(-1)


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


def judge_best(hand: GiverHand, obj: Graspable, mano: Tensor, grip: Grip, score: Tensor) -> GraspFit:
    """`judge` the candidates (N, 61) of highest score (N,), `index` being their place among all."""
    best = score.topk(min(_FINALISTS, len(score))).indices
    best = best[score[best].isfinite()]
    return judge(hand, obj, mano[best], grip[best], score[best], best)


def judge(hand: GiverHand, obj: Graspable, mano: Tensor, grip: Grip, score: Tensor, index: Tensor) -> GraspFit:
    """The final check of hands (N, 61): every vertex, exact distances. Keeps what passes, in the order given."""
    mano = torch.cat((mano[:, :51].double(), hand.betas.expand(len(mano), -1)), dim=-1)
    skin = hand.vertices(mano)
    distance = obj.signed_distance_fast(skin.float()).double()
    near = distance < _GRID_REACH
    distance[near] = obj.signed_distance(skin[near].float()).double()
    chain = hand.weights[:, 1:].unflatten(-1, (5, 3)).sum(-1) > 0.5  # (V, 5)
    contacts = torch.stack([distance[:, chain[:, f]].amin(-1) < CONTACT for f in range(5)], dim=-1)
    overlap = (-distance.amin(-1)).clamp_min(0.0)
    meets = (distance < CONTACT).double()  # (N, V)
    count = meets.sum(-1, keepdim=True).clamp_min(1.0)
    own = torch.nn.functional.one_hot(hand.weights.argmax(-1), NUM_GIVER_JOINTS).double()
    touch = meets @ own / count
    free = _free_share(obj, skin[:, ::4].float())
    place, room = _place(obj, skin, meets / count, free)
    style = tuple(STYLES[int(not palm)] for palm in (touch[:, _PALM_SIDE] > 0).any(-1))
    keep = _holds(contacts) & (overlap <= MAX_OVERLAP)
    return GraspFit(mano, grip, index, score.double(), contacts, touch, overlap, free, room, style, place)[keep]


def _place(obj: Graspable, skin: Tensor, share: Tensor, free: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Where hands hold an object, and whether they leave it enough room (N,), given the share (N, V) of the contact
    that is on each vertex of skin (N, V, 3)."""
    points = obj.points.to(skin)
    axis = int((points.amax(0) - points.amin(0)).argmax())  # the longest extent
    low, high = points[:, axis].amin(), points[:, axis].amax()
    along = (skin[..., axis] - low) / (high - low)
    center = (share * along).sum(-1)
    upper, lower = center > 1 - _END, center < _END
    room = torch.where(
        upper, along.amin(-1) > _FREE_END, torch.where(lower, along.amax(-1) < 1 - _FREE_END, free >= MIN_FREE)
    )
    name = torch.where(upper, PLACES.index("end"), PLACES.index("middle"))
    name = torch.where(lower, PLACES.index("other_end"), name)
    if (box := getattr(obj, "handle", None)) is not None:
        bottom, top = box.to(skin) + skin.new_tensor([[-_IN_HANDLE[1]], [_IN_HANDLE[1]]])
        inside = ((skin > bottom) & (skin < top)).all(-1)
        held = (share * inside).sum(-1) >= _IN_HANDLE[0]
        name = torch.where(held, PLACES.index("handle"), name)
    return tuple(PLACES[i] for i in name.tolist()), room
