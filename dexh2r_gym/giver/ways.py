"""The ways in which people hold an object: searched once for the mean hand, adapted to every other in milliseconds.

File: one npz an object, without pickle, all arrays over the K ways of both hands. `side` (K,) uint8, place in `SIDES`;
`style` and `place` (K,) uint8, in `STYLES` and `PLACES`; `wrist` (K, 7), pose of the mean hand's rest frame in the
object's; `flexion` (K, 5, 3), `adduction`, `opposition` (K,), see `Grip`; `touch` (K, 16), share of the contact on each
bone; all float32. `metadata`: JSON text with format, object, its volume and the seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver.closing import FingerDrive, Grip, close_fingers
from dexh2r_gym.giver.fit import PLACES, STYLES, Graspable, GraspFit, coarse_score, judge
from dexh2r_gym.giver.hand import SIDES, GiverHand
from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.npz import read_npz
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply, quat_rotate
from dexh2r_gym.types import NUM_GIVER_JOINTS

FOLDER = Path(__file__).parent.parent / "assets" / "giver_grasps"
MAX_WAYS = 64  # of one object in a file, both hands together
_MAX_BYTES = 100_000  # of such a file, unpacked
_FORMAT = 1
_ARRAYS = {  # key -> shape after the first axis
    "wrist": (7,),
    "flexion": (5, 3),
    "adduction": (),
    "opposition": (),
    "touch": (NUM_GIVER_JOINTS,),
}
_TRIES = 3  # candidates for each way
_JITTER = (0.003, 0.06)  # metres, radians: standard deviations of a candidate's wrist
_STEPS = 12  # of closing fingers, which are nearly closed
_LOOSE = 0.2  # how far fingers open before they close anew, in units of their rates
_SEAT = 0.015  # metres: at most how far the palm moves to meet the surface


@dataclass(frozen=True)
class GiverWays:
    """K ways to hold one object with one hand, for the hand of mean shape."""

    name: str  # of the object
    side: str  # right | left
    wrist: Tensor  # (K, 7) float32, pose of the hand's rest frame in the object's
    grip: Grip
    touch: Tensor  # (K, 16) float32, share of the contact on each bone
    style: tuple[str, ...]  # of STYLES
    place: tuple[str, ...]  # of PLACES

    def __len__(self) -> int:
        return len(self.wrist)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """At most `count` different ways, long (N,): as many different pairs of style and place as there are."""
        order = torch.randperm(len(self), generator=generator).tolist()
        seen: dict[tuple[str, str], int] = {}
        turn = {}
        for i in order:
            pair = (self.style[i], self.place[i])
            turn[i] = seen[pair] = seen.get(pair, -1) + 1
        return torch.tensor(sorted(order, key=turn.__getitem__)[:count], dtype=torch.long)


def adapt_ways(
    hand: GiverHand, obj: Graspable, ways: GiverWays, *, generator: torch.Generator, limit: int | None = None
) -> GraspFit:
    """The ways as this hand holds the object: wrist and fingers fitted anew, judged exactly, the best first.

    At most `limit` ways, drawn by the generator (`GiverWays.draw`), are tried; `GraspFit.index` is the way each grasp
    came from, style and place are those measured on the grasp itself. What cannot be had is left out.
    """
    if hand.side != ways.side:
        raise ValueError(f"these ways are for the {ways.side} hand, the giver's hand is a {hand.side} one")
    rows = ways.draw(len(ways) if limit is None else limit, generator)
    if len(rows) == 0:
        return judge(hand, obj, torch.zeros(0, 61), ways.grip[rows], torch.zeros(0), rows)
    drive = FingerDrive(hand)
    way = rows.repeat_interleave(_TRIES)
    noise = torch.randn(len(way), 6, generator=generator)
    noise[::_TRIES] = 0.0
    wrist, grip, touch = ways.wrist[way], ways.grip[way], ways.touch[way]
    rotation = quat_multiply(wrist[:, 3:], quat_from_axis_angle(_JITTER[1] * noise[:, 3:]))
    same = _held_point(drive, grip, touch) - _held_point(_mean_drive(ways.side), grip, touch)
    position = wrist[:, :3] - quat_rotate(wrist[:, 3:], same) + _JITTER[0] * noise[:, :3]
    mano = hand.mano(position, rotation, drive.pose(grip))
    mano = _seat(drive, obj, mano, rotation, on_palm=touch[:, 0] > 0)
    grip = grip.bent(grip.flexion.new_full((len(way), 5), -_LOOSE))
    grip = _open_until_clear(drive, obj, mano, grip)
    grip, touched = close_fingers(drive, mano, grip, obj.signed_distance_fast, max_steps=_STEPS)
    mano = drive.hold(mano, grip)
    score = coarse_score(hand, obj, mano, touched)
    best = score.unflatten(0, (-1, _TRIES)).argmax(-1) + torch.arange(0, len(way), _TRIES)
    best = best[score[best].isfinite()]
    best = best[score[best].argsort(descending=True, stable=True)]
    fit = judge(hand, obj, mano[best], grip[best], score[best], way[best])
    return fit[fit.room]


def _held_point(drive: FingerDrive, grip: Grip, touch: Tensor) -> Tensor:
    """Middle of the bones that touch, weighted by their share (N, 16), in the hand's rest frame. -> (N, 3)"""
    hand = drive.hand
    flat = torch.zeros(len(touch), 3)
    mano = drive.hold(hand.mano(flat, quat_from_axis_angle(flat)), grip)
    joints = hand.joints(mano)
    ends = torch.cat((joints[:, 1:].unflatten(1, (5, 3))[:, :, 1:], hand.tips(mano)[:, :, None]), dim=2)
    middle = (joints[:, 1:] + ends.flatten(1, 2)) / 2
    palm = (joints[:, :1] + joints[:, 1:13:3].mean(1, keepdim=True)) / 2
    return (touch[..., None] * torch.cat((palm, middle), dim=1)).sum(1) / touch.sum(-1, keepdim=True)


def _seat(drive: FingerDrive, obj: Graspable, mano: Tensor, rotation: Tensor, on_palm: Tensor) -> Tensor:
    """Move hands (N, 61) along the palm's normal until the palm meets the surface; if not `on_palm`, only out of it."""
    skin = drive.hand.vertices(mano, drive.palm)
    back = quat_rotate(rotation, torch.tensor([0.0, 1.0, 0.0]).expand(len(mano), 3))
    lift = torch.zeros(len(mano), 1)
    least = torch.where(on_palm, -_SEAT, 0.0)[:, None]
    for _ in range(4):
        gap = obj.signed_distance_fast(skin + (lift * back)[:, None]).amin(-1, keepdim=True)
        lift = (lift - gap).clamp(min=least, max=torch.tensor(_SEAT))
    return torch.cat((mano[:, :3] + lift * back, mano[:, 3:]), dim=-1)


def _open_until_clear(drive: FingerDrive, obj: Graspable, mano: Tensor, grip: Grip) -> Grip:
    """Open the fingers that are in the object, up to four times."""
    for _ in range(4):
        skin = drive.hand.vertices(drive.hold(mano, grip), drive.pads.flatten())
        stuck = (obj.signed_distance_fast(skin).unflatten(-1, drive.pads.shape) < 0).any(-1)
        if not stuck.any():
            break
        grip = grip.bent(-_LOOSE * stuck.to(mano))
    return grip


@cache
def _mean_drive(side: str) -> FingerDrive:
    return FingerDrive(GiverHand(side))


@cache
def load_ways(name: str, side: str) -> GiverWays:
    """The ways to hold a packaged object with the right or left hand; the same instance every time."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        names = sorted(p.stem for p in FOLDER.glob("*.npz"))
        hint = did_you_mean(name, names)
        raise ValueError(f"no ways to hold object {name!r}{hint}; there are some for: {', '.join(names) or 'none'}")
    return read_ways(path, side)


def read_ways(path: str | Path, side: str) -> GiverWays:
    """The ways of one hand from a file that `write_ways` wrote; a damaged one is refused with the reason."""
    if side not in SIDES:
        raise ValueError(f"side of a hand is {side!r}; valid: {', '.join(SIDES)}")
    data, name = _checked_arrays(Path(path))
    own = data["side"] == SIDES.index(side)
    wrist, flexion, adduction, opposition, touch = (torch.from_numpy(data[key][own]) for key in _ARRAYS)
    style = tuple(STYLES[i] for i in data["style"][own])
    place = tuple(PLACES[i] for i in data["place"][own])
    return GiverWays(name, side, wrist, Grip(flexion, adduction, opposition), touch, style, place)


def write_ways(path: str | Path, hands: Sequence[GiverWays], *, seed: int, volume: float) -> None:
    """Write the ways of both hands to one file; seed and volume (m^3) of the object say what they were made from."""
    rows = [(ways, i) for ways in hands for i in range(len(ways))]
    arrays: dict[str, Any] = {
        "side": [SIDES.index(ways.side) for ways, _ in rows],
        "style": [STYLES.index(ways.style[i]) for ways, i in rows],
        "place": [PLACES.index(ways.place[i]) for ways, i in rows],
    }
    fields = ([w.wrist, w.grip.flexion, w.grip.adduction, w.grip.opposition, w.touch] for w in hands)
    arrays = {key: np.array(x, np.uint8) for key, x in arrays.items()}
    arrays |= {key: torch.cat(x).float().numpy() for key, x in zip(_ARRAYS, zip(*fields, strict=True), strict=True)}
    metadata = {"format": _FORMAT, "object": hands[0].name, "seed": seed, "volume": volume}
    path = Path(path)
    partial = path.with_suffix(".partial.npz")  # a reader never meets half a file
    np.savez_compressed(partial, **arrays, metadata=np.array(json.dumps(metadata, sort_keys=True)))
    partial.replace(path)


def _checked_arrays(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of a file, float32 and uint8, and the name of its object."""
    keys = ("side", "style", "place", *_ARRAYS)
    data, metadata = read_npz(path, keys, "file of giver's ways", max_bytes=_MAX_BYTES)
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT or "object" not in metadata:
        raise ValueError(f"{path}: ways of another format; this version reads format {_FORMAT}")
    count = len(data["wrist"]) if data["wrist"].ndim else 0
    if not 0 < count <= MAX_WAYS:
        raise ValueError(f"{path}: {count} ways, expected 1 to {MAX_WAYS}")
    for key, words in (("side", SIDES), ("style", STYLES), ("place", PLACES)):
        array = data[key]
        if array.shape != (count,) or array.dtype != np.uint8 or array.max() >= len(words):
            raise ValueError(f"{path}: {key} must be {count} bytes below {len(words)}")
    for key, shape in _ARRAYS.items():
        array = data[key]
        if array.shape != (count, *shape) or array.dtype != np.float32:
            raise ValueError(f"{path}: {key} is {array.dtype} {array.shape}, expected float32 {(count, *shape)}")
        if not np.isfinite(array).all() or np.abs(array).max() > 10:
            raise ValueError(f"{path}: {key} has values that are not finite, or absurdly large")
    if (np.abs(np.linalg.norm(data["wrist"][:, 3:], axis=-1) - 1) > 1e-4).any():
        raise ValueError(f"{path}: wrist has an orientation that is not a unit quaternion")
    if (data["touch"] < 0).any() or (np.abs(data["touch"].sum(-1) - 1) > 1e-3).any():
        raise ValueError(f"{path}: touch must be shares that sum to 1")
    return data, str(metadata["object"])
