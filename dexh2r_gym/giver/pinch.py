"""Where to place a hand to pinch: postures in which the pads of thumb, index and middle finger face each other, and
the places of an object that are thin enough to go between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.giver.closing import FingerDrive, Grip
from dexh2r_gym.giver.fit import Graspable
from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.rotations import pose_apply, quat_conjugate, quat_from_matrix, quat_multiply, quat_rotate

MAX_WIDTH = 0.06  # metres between the pads
_POSTURES = 20_000  # drawn
_PAD_AT = 0.6  # where on the last phalanx the pad is, as a share of its length
_FACING = 0.6  # cosine between a pad's normal and the way to the opposite pad
_SLACK = (0.006, 0.02)  # metres wider than the object at which a pinch begins
_OPPOSITE = (0.005, -0.85)  # metres off the line through the object; cosine between the normals on its two sides


@dataclass(frozen=True)
class PinchPostures:
    """N open pinches of one hand, in its rest frame."""

    grip: Grip
    center: Tensor  # (N, 3) metres, between the pads
    frame: Tensor  # (N, 4) x from the thumb's pad to the fingers', y as far as possible from the wrist to the center
    width: Tensor  # (N,) metres between the pads


def draw_postures(hand: GiverHand, generator: torch.Generator) -> PinchPostures:
    """Random flexions of which those are kept whose pads face each other, with index and middle finger side by side."""
    drive = FingerDrive(hand)

    def uniform(*limits: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(limits).unbind(-1)
        return low + (high - low) * torch.rand(_POSTURES, len(limits), generator=generator)

    fingers, thumb = uniform((0.1, 1.2), (0.15, 1.1), (0.05, 0.5)), uniform((-0.6, 0.3), (0.0, 0.7), (0.0, 0.6))
    middle = fingers + torch.cat((uniform((-0.1, 0.25)), torch.zeros(_POSTURES, 2)), dim=-1)
    outer = middle + uniform((-0.1, 0.5), (0.0, 0.4), (0.0, 0.2))  # ring and little finger
    flexion = torch.stack((fingers, middle, outer, outer, thumb), dim=1)
    adduction, opposition = uniform((0.5, 1.0), (0.5, 1.5)).unbind(-1)
    grip = Grip(flexion, adduction, opposition)
    flat = torch.zeros(_POSTURES, 3)
    bones = hand.bone_poses(drive.hold(torch.cat((flat, flat, torch.zeros(_POSTURES, 55)), dim=-1), grip))
    at, normal = _pads(drive, bones)
    thumb_at, center = at[:, 2], at[:, :2].mean(1)
    across = center - thumb_at
    width = across.norm(dim=-1)
    x = across / width[:, None]
    forward = (center + thumb_at) / 2
    y = torch.nn.functional.normalize(forward - (forward * x).sum(-1, keepdim=True) * x, dim=-1)
    beside = at[:, 1] - at[:, 0]
    level = (beside * x).sum(-1).abs() < 0.006  # both fingers equally far from the thumb
    ahead = (beside * y).sum(-1).abs() < 0.012
    facing = ((normal[:, 2] * x).sum(-1) > _FACING) & ((normal[:, :2] * x[:, None]).sum(-1) < -_FACING).all(-1)
    good = level & ahead & facing & (width > _SLACK[0]) & (width < MAX_WIDTH + _SLACK[1])
    frame = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    return PinchPostures(grip[good], forward[good], frame[good], width[good])


def _pads(drive: FingerDrive, bones: Tensor) -> tuple[Tensor, Tensor]:
    """Pads of index, middle and thumb of hands with bones (N, 16, 7): places and outward normals, both (N, 3, 3)."""
    hand = drive.hand
    chains = [0, 1, 4]
    last, tips = hand.rest_joints[3::3][chains], hand.rest_tips[chains]
    normal = torch.nn.functional.normalize(torch.linalg.cross(drive.axes[chains, 2], tips - last, dim=-1), dim=-1)
    start = last + _PAD_AT * (tips - last)
    owner = hand.weights.argmax(-1)
    local = []
    for k, chain in enumerate(chains):  # the skin furthest out along the normal, near the line through the start
        skin = hand.rest_vertices[owner == 3 + 3 * chain] - start[k]
        out = skin @ normal[k]
        off = (skin - out[:, None] * normal[k]).norm(dim=-1)
        local.append(start[k] + out[(out - 3 * off).argmax()] * normal[k] - last[k])
    pose = bones[:, [3, 6, 15]]
    count = len(bones)
    at = pose_apply(pose, torch.stack(local).to(bones).expand(count, -1, -1))
    return at, quat_rotate(pose[..., 3:], normal.to(bones).expand(count, -1, -1))


def pinch_wrists(
    obj: Graspable, postures: PinchPostures, held: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Grip]:
    """Wrist positions (N, 3), rotations (N, 4) and open grips that pinch the object, N at most `count`.

    held (P,) bool: the points of the object that may lie under the thumb.
    """
    points, normals = obj.points.float(), obj.normals.float()
    held = torch.nonzero(held)[:, 0]
    pick = held[torch.randint(len(held), (count,), generator=generator)]
    apart = points[pick][:, None] - points  # (count, P, 3)
    depth = (apart * normals[pick][:, None]).sum(-1)
    off = (apart - depth[..., None] * normals[pick][:, None]).norm(dim=-1)
    through = (off < _OPPOSITE[0]) & (normals[pick] @ normals.T < _OPPOSITE[1]) & (depth > 0.002)
    thickness = torch.where(through, depth, torch.inf).amin(-1)
    thin = torch.nonzero(thickness < MAX_WIDTH)[:, 0]
    pick, thickness = pick[thin], thickness[thin]
    # A posture a little wider than the object there, drawn among those that fit.
    slack = postures.width - thickness[:, None]  # (n, N)
    fits = ((slack > _SLACK[0]) & (slack < _SLACK[1])).float()
    possible = fits.sum(-1) > 0
    pick, thickness, fits = pick[possible], thickness[possible], fits[possible]
    if len(pick) == 0:
        return torch.zeros(0, 3), torch.zeros(0, 4), postures.grip[torch.zeros(0, dtype=torch.long)]
    posture = torch.multinomial(fits, 1, generator=generator)[:, 0]
    x = -normals[pick]  # from the thumb through the object
    y = torch.nn.functional.normalize(torch.linalg.cross(x, torch.randn(len(pick), 3, generator=generator)), dim=-1)
    frame = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    rotation = quat_multiply(frame, quat_conjugate(postures.frame[posture]))
    center = points[pick] + x * thickness[:, None] / 2
    return center - quat_rotate(rotation, postures.center[posture]), rotation, postures.grip[posture]
