"""Where to place a hand to pinch: postures in which the pad of the thumb faces the pads of index and middle finger, or
the side of the index finger, and the places of an object that are thin enough to go between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dexh2r_gym.giver.closing import FingerDrive, Grip
from dexh2r_gym.giver.fit import Graspable
from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.rotations import pose_apply, quat_conjugate, quat_from_matrix, quat_multiply, quat_rotate

_POSTURES, _KEPT = 20_000, 512  # of each kind, drawn and kept at most
_PAD_AT = 0.6  # where on its phalanx a pad is, as a share of the length
_FACING = 0.6  # cosine between a pad's normal and the way to the opposite pad
_UNEVEN = (0.006, 0.012)  # metres between index and middle finger at most, towards the thumb and from the wrist
_MIN_SLACK = 0.006  # metres wider than the object at which a pinch begins
_OPPOSITE = (0.005, -0.85)  # metres off the line through the object; cosine between the normals on its two sides


class Kind(NamedTuple):
    """A kind of pinch."""

    most: float  # metres of object between thumb and fingers
    slack: float  # metres, at most as much wider than the object when it begins
    thumb_share: float  # of the way to the object that the thumb goes, fingers the rest


PADS = Kind(0.06, 0.02, 0.5)
LATERAL = Kind(0.025, 0.035, 1.0)


@dataclass(frozen=True)
class PinchPostures:
    """N open pinches of one hand, in its rest frame."""

    grip: Grip
    center: Tensor  # (N, 3) metres, between the pads
    frame: Tensor  # (N, 4) x from the thumb's pad to the opposite, y as far as possible from the wrist to the center
    width: Tensor  # (N,) metres between the pads
    kind: Kind


def draw_postures(hand: GiverHand, generator: torch.Generator) -> tuple[PinchPostures, PinchPostures]:
    """Pinches between the pads, and lateral ones: random flexions of which those are kept in which the pads face."""
    drive = FingerDrive(hand)

    def uniform(*limits: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(limits).unbind(-1)
        return low + (high - low) * torch.rand(_POSTURES, len(limits), generator=generator)

    index, thumb = uniform((0.1, 1.2), (0.15, 1.1), (0.05, 0.5)), uniform((-0.6, 0.3), (0.0, 0.7), (0.0, 0.6))
    middle = index + torch.cat((uniform((-0.1, 0.25)), torch.zeros(_POSTURES, 2)), dim=-1)
    outer = middle + uniform((-0.1, 0.5), (0.0, 0.4), (0.0, 0.2))  # ring and little finger
    adduction, opposition = uniform((0.5, 1.0), (0.5, 1.5)).unbind(-1)
    pads = _facing(drive, Grip(torch.stack((index, middle, outer, outer, thumb), dim=1), adduction, opposition), PADS)

    index, thumb = uniform((0.6, 1.3), (0.5, 1.5), (0.2, 0.9)), uniform((-0.8, 0.1), (0.0, 0.7), (0.0, 0.7))
    other = index + uniform((0.0, 0.2), (0.0, 0.2), (0.0, 0.2))
    adduction, opposition = uniform((0.6, 1.0), (-0.5, 0.4)).unbind(-1)
    grip = Grip(torch.stack((index, other, other, other, thumb), dim=1), adduction, opposition)
    return pads, _facing(drive, grip, LATERAL)


def _facing(drive: FingerDrive, grip: Grip, kind: Kind) -> PinchPostures:
    """Those of the grips in which the thumb faces index and middle finger side by side, or the side of the index."""
    flat = torch.zeros(len(grip.adduction), 61)
    bones = drive.hand.bone_poses(drive.hold(flat, grip))
    (thumb, thumb_normal), *others = (_pad(drive, bones, 15),) + (
        (_side_of_index(drive, bones),) if kind is LATERAL else (_pad(drive, bones, 3), _pad(drive, bones, 6))
    )
    across = torch.stack([at for at, _ in others]).mean(0) - thumb
    width = across.norm(dim=-1)
    x = across / width[:, None]
    center = thumb + across / 2
    y = torch.nn.functional.normalize(center - (center * x).sum(-1, keepdim=True) * x, dim=-1)
    good = ((thumb_normal * x).sum(-1) > _FACING) & (width > _MIN_SLACK) & (width < kind.most + kind.slack)
    for at, normal in others:
        beside = at - others[0][0]
        level = ((beside * x).sum(-1).abs() < _UNEVEN[0]) & ((beside * y).sum(-1).abs() < _UNEVEN[1])
        good &= level & ((normal * x).sum(-1) < -_FACING)
    good = good.nonzero()[:_KEPT, 0]
    frame = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    return PinchPostures(grip[good], center[good], frame[good], width[good], kind)


def _pad(drive: FingerDrive, bones: Tensor, joint: int) -> tuple[Tensor, Tensor]:
    """Pad of the last phalanx, named by its joint, of hands with bones (N, 16, 7): place and normal, both (N, 3)."""
    chain = joint // 3 - 1
    bone = drive.hand.rest_tips[chain] - drive.hand.rest_joints[joint]
    return _skin_beyond(drive.hand, bones, joint, bone, torch.linalg.cross(drive.axes[chain, 2], bone, dim=-1))


def _side_of_index(drive: FingerDrive, bones: Tensor) -> tuple[Tensor, Tensor]:
    """Side of the index finger's middle phalanx that is next to the thumb: place and normal, both (N, 3)."""
    bone = drive.hand.rest_joints[3] - drive.hand.rest_joints[2]
    outward = bone.new_tensor([0.0, 0.0, 1.0])
    return _skin_beyond(drive.hand, bones, 2, bone, outward - (outward @ bone) / (bone @ bone) * bone)


def _skin_beyond(hand: GiverHand, bones: Tensor, joint: int, bone: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """The skin of a phalanx furthest in direction `out` (3,) from a point on its bone (3,), and that direction."""
    out = torch.nn.functional.normalize(out, dim=0)
    start = hand.rest_joints[joint] + _PAD_AT * bone
    skin = hand.rest_vertices[hand.weights.argmax(-1) == joint] - start
    height = skin @ out
    off = (skin - height[:, None] * out).norm(dim=-1)
    local = _PAD_AT * bone + height[(height - 3 * off).argmax()] * out
    pose = bones[:, joint]
    turned = quat_rotate(pose[:, 3:], out.to(bones).expand(len(bones), 3))
    return pose_apply(pose, local.to(bones).expand(len(bones), 3)), turned


def pinch_wrists(
    obj: Graspable, postures: PinchPostures, held: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Grip]:
    """Wrist positions (N, 3), rotations (N, 4) and open grips that pinch the object, N at most `count`.

    held (P,) bool: the points of the object that may lie under the thumb.
    """
    points, normals = obj.points.float(), obj.normals.float()
    held = torch.nonzero(held)[:, 0]
    pick = held[torch.randint(len(held), (count,), generator=generator)]
    under, out = points[pick], normals[pick]
    depth = (under * out).sum(-1, keepdim=True) - out @ points.T  # (count, P) metres behind the point under the thumb
    off = torch.cdist(under, points).square() - depth.square()  # square metres from the line through it
    through = (off < _OPPOSITE[0] ** 2) & (out @ normals.T < _OPPOSITE[1]) & (depth > 0.002)
    thickness = torch.where(through, depth, torch.inf).amin(-1)
    # A posture a little wider than the object there, drawn among those that fit.
    slack = postures.width - thickness[:, None]  # (count, N)
    fits = (slack > _MIN_SLACK) & (slack < postures.kind.slack) & (thickness < postures.kind.most)[:, None]
    possible = fits.any(-1)
    pick, thickness, fits = pick[possible], thickness[possible], fits[possible]
    if len(pick) == 0:
        return torch.zeros(0, 3), torch.zeros(0, 4), postures.grip[pick]
    posture = torch.multinomial(fits.float(), 1, generator=generator)[:, 0]
    x = -normals[pick]  # from the thumb through the object
    y = torch.nn.functional.normalize(torch.linalg.cross(x, torch.randn(len(pick), 3, generator=generator)), dim=-1)
    frame = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    rotation = quat_multiply(frame, quat_conjugate(postures.frame[posture]))
    thumb = -postures.kind.thumb_share * (postures.width[posture] - thickness)  # metres along x, from the surface
    center = points[pick] + x * (thumb + postures.width[posture] / 2)[:, None]
    return center - quat_rotate(rotation, postures.center[posture]), rotation, postures.grip[posture]
