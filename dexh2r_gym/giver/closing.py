"""How a human hand closes on an object: every finger flexes until it meets the surface, many hands at once.

A finger's three joints flex at fixed relative rates. When a phalanx touches, the joints up to it stop and those beyond
it go on, so that a finger wraps around what it meets. Steps follow from the distance left: no vertex moves further in
one step than the object is away from it (but for a least step of half a degree), so thin things are not passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from dexh2r_gym.giver.hand import GiverHand, mirror_axis_angle
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply, quat_to_axis_angle

SignedDistance = Callable[[Tensor], Tensor]  # points (..., 3) -> (...), metres, negative inside

TOUCH = 0.0008  # metres: a phalanx nearer than this touches
REST_DEPTH = 0.0  # metres: where a closing finger would come to rest
_STEP_RANGE = (0.008, 0.35)  # radians of the fastest joint in one step
# Rows: index, middle, pinky, ring, thumb; columns: the joints from the palm outward. Radians.
_RATE = torch.tensor([[0.9, 1.0, 0.6]] * 4 + [[0.6, 0.8, 1.0]], dtype=torch.float64)
_OPEN = torch.tensor([[-0.15, 0.1, 0.05]] * 4 + [[-0.9, 0.0, 0.0]], dtype=torch.float64)
_UPPER = torch.tensor([[1.5, 1.8, 1.2]] * 4 + [[0.5, 0.9, 1.3]], dtype=torch.float64)
_IDLE_CURL = 0.6  # how far a finger that meets nothing is flexed, in units of its rates
_THUMB_FLEXION_AXIS = (0.49, -0.86, 0.12)  # right hand at rest: along the width of the thumb's nail
_PADS_PER_FINGER, _PADS_OF_PALM = 60, 120


@dataclass(frozen=True)
class Grip:
    """How the fingers of N hands are held, whoever's hands they are."""

    flexion: Tensor  # (N, 5, 3) radians, fingers in the order of `CHAINS`, joints from the palm outward
    adduction: Tensor  # (N,) 0 leaves the fingers fanned out, 1 makes them parallel
    opposition: Tensor  # (N,) radians the thumb has turned about the length of the palm: 0 beside the index, 1 opposite

    def __getitem__(self, rows: Tensor) -> Grip:
        return Grip(self.flexion[rows], self.adduction[rows], self.opposition[rows])

    @classmethod
    def joined(cls, grips: Sequence[Grip]) -> Grip:
        """All hands of one or more grips."""
        return cls(*(torch.cat([getattr(grip, f.name) for grip in grips]) for f in fields(cls)))

    @classmethod
    def opened(cls, adduction: Tensor, opposition: Tensor, knuckle: Tensor) -> Grip:
        """Open hands, all arguments (N,); `knuckle` radians are added to the first joint of the four fingers."""
        flexion = _OPEN.to(knuckle).repeat(len(knuckle), 1, 1)
        flexion[:, :4, 0] += knuckle[:, None]
        return cls(flexion, adduction, opposition)

    def bent(self, amount: Tensor) -> Grip:
        """Every finger flexed further by `amount` (N, 5), in units of its joints' rates, within their limits."""
        rate, lower, upper = (x.to(self.flexion) for x in (_RATE, _OPEN, _UPPER))
        flexion = torch.minimum(torch.maximum(self.flexion + amount[..., None] * rate, lower), upper)
        return Grip(flexion, self.adduction, self.opposition)


class FingerDrive:
    """The flexion of one hand's fingers: from a grip to MANO pose, and the skin it carries."""

    def __init__(self, hand: GiverHand) -> None:
        self.hand = hand
        self.mirror = mirror_axis_angle(hand.side)

    @cached_property
    def axes(self) -> Tensor:
        """(5, 3, 3) flexion axis of every joint, rest frame of this hand."""
        bones = (self.hand.rest_tips - self.hand.rest_joints[1::3])[:4]
        axes = torch.linalg.cross(bones, torch.tensor([[0.0, -1.0, 0.0]], dtype=torch.float64).expand(4, 3))
        thumb = self.mirror * torch.tensor(_THUMB_FLEXION_AXIS, dtype=torch.float64)
        axes = torch.nn.functional.normalize(torch.cat((axes, thumb[None])), dim=-1)
        return axes[:, None].expand(5, 3, 3)

    @cached_property
    def fan(self) -> Tensor:
        """(5, 3) axis-angle that turns each finger parallel to the middle one (thumb: zero)."""
        bones = self.hand.rest_tips - self.hand.rest_joints[1::3]
        angle = torch.atan2(bones[:, 2], bones[:, 0].abs()) * self.mirror[1]
        turn = angle[1] - angle
        turn[4] = 0.0
        return torch.stack((0 * turn, turn, 0 * turn), dim=-1)

    @cached_property
    def pads(self) -> Tensor:
        """(5, P) long: skin vertices of every finger, spread evenly (farthest-point sampling)."""
        chain_weight = self.hand.weights[:, 1:].unflatten(-1, (5, 3)).sum(-1)  # (V, 5)
        return torch.stack([self._spread(chain_weight[:, f] > 0.5, _PADS_PER_FINGER) for f in range(5)])

    @cached_property
    def palm(self) -> Tensor:
        """(Q,) long: vertices of the palm and wrist, spread evenly."""
        return self._spread(self.hand.weights[:, 0] > 0.3, _PADS_OF_PALM)

    @cached_property
    def pad_phalanx(self) -> Tensor:
        """(5, P) long in 0..2: the phalanx each pad vertex rides on."""
        weights = self.hand.weights[self.pads][..., 1:].unflatten(-1, (5, 3))  # (5, P, 5, 3)
        return torch.stack([weights[f, :, f].argmax(-1) for f in range(5)])

    @cached_property
    def levers(self) -> Tensor:
        """(5, P, 3): at most how far each pad vertex moves per radian of each joint of its finger, metres."""
        joints = self.hand.rest_joints[1:].unflatten(0, (5, 1, 3))
        reach = (self.hand.rest_vertices[self.pads][:, :, None] - joints).norm(dim=-1)
        return reach * (self.pad_phalanx[..., None] >= torch.arange(3))

    def pose(self, grip: Grip) -> Tensor:
        """MANO hand pose (N, 45)."""
        flexion = grip.flexion
        first = self.fan.to(flexion) * grip.adduction[:, None, None]
        along = self.mirror.to(flexion) * flexion.new_tensor([1.0, 0.0, 0.0])
        thumb = along * grip.opposition[:, None]
        first = torch.cat((first[:, :4], thumb[:, None]), dim=1)
        base = torch.stack((first, 0 * first, 0 * first), dim=-2)  # (N, 5, 3 joints, 3)
        flex = quat_from_axis_angle(flexion[..., None] * self.axes.to(flexion))
        return quat_to_axis_angle(quat_multiply(quat_from_axis_angle(base), flex)).flatten(1)

    def hold(self, mano: Tensor, grip: Grip) -> Tensor:
        """The hands `mano` (N, 61) with their fingers as in `grip`."""
        return torch.cat((mano[:, :6], self.pose(grip), mano[:, 51:]), dim=-1)

    def _spread(self, mask: Tensor, count: int) -> Tensor:
        ids = torch.nonzero(mask)[:, 0]
        points = self.hand.rest_vertices[ids]
        chosen = [int(points[:, 0].abs().argmax())]
        gap = (points - points[chosen[0]]).norm(dim=-1)
        while len(chosen) < count:
            chosen.append(int(gap.argmax()))
            gap = torch.minimum(gap, (points - points[chosen[-1]]).norm(dim=-1))
        return ids[chosen]


def close_fingers(
    drive: FingerDrive, mano: Tensor, grip: Grip, signed_distance: SignedDistance, *, max_steps: int = 30
) -> tuple[Grip, Tensor]:
    """Close all fingers of N hands on one object.

    mano (N, 61) in the object's frame, of which wrist and shape are read; grip, from which they close. Returns the
    closed grip and which phalanges touch (N, 5, 3) bool. A finger that meets nothing is left in a light curl, one that
    slides along the surface without touching it is left there after `max_steps`.
    """
    hand, pads = drive.hand, drive.pads.flatten()
    rate, upper, levers = (x.to(mano) for x in (_RATE, _UPPER, drive.levers))
    on_phalanx = torch.nn.functional.one_hot(drive.pad_phalanx, 3).bool()  # (5, P, 3)
    flexion = grip.flexion.clone()
    touched = torch.zeros_like(flexion, dtype=torch.bool)
    busy = torch.arange(len(mano))
    for _ in range(max_steps):
        now = Grip(flexion, grip.adduction, grip.opposition)[busy]
        distance = signed_distance(hand.vertices(drive.hold(mano[busy], now), pads)).unflatten(-1, drive.pads.shape)
        near = ((distance < TOUCH)[..., None] & on_phalanx).any(-2)  # distance (n, 5, P), near (n, 5, 3)
        touched[busy] |= near
        stopped = touched[busy].flip(-1).cummax(-1).values.flip(-1)  # a touch beyond a joint stops it
        speed = rate * ~(stopped | (now.flexion >= upper))  # (n, 5, 3)
        if not speed.any():
            break
        travel = (levers * speed[:, :, None]).sum(-1)  # (n, 5, P) metres per unit step
        step = ((distance - REST_DEPTH) / travel.clamp_min(1e-9)).amin(-1).clamp(*_STEP_RANGE)
        flexion[busy] = torch.minimum(now.flexion + step[..., None] * speed, upper)
        busy = busy[speed.flatten(1).any(-1)]
    idle = ~touched.any(-1, keepdim=True)
    curl = grip.bent(torch.full_like(grip.flexion[..., 0], _IDLE_CURL)).flexion
    return Grip(torch.where(idle, torch.minimum(curl, flexion), flexion), grip.adduction, grip.opposition), touched
