"""Search for the ways to hold an object, and the files of `ways` made from it.

`python -m dexh2r_gym.giver.search [OBJECT ...]` makes the packaged files anew, after an object or its goals changed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.giver.closing import FingerDrive, close_fingers
from dexh2r_gym.giver.fit import Graspable, GraspFit, close_palm_first, coarse_score, judge_best
from dexh2r_gym.giver.hand import CHAINS, SIDES, GiverHand
from dexh2r_gym.giver.pinch import PinchPostures, draw_postures, pinch_wrists
from dexh2r_gym.giver.ways import FOLDER, GiverWays, write_ways
from dexh2r_gym.grasps import free_of_giver, load_pool
from dexh2r_gym.grasps.pool import GraspPool
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.rotations import quat_angle, quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_rotate
from dexh2r_gym.workers import Workers, num_workers

MIN_GOALS = 8  # goals of the robot with an open way that a way to hold leaves
MAX_PER_HAND = 16
_APPROACH = 0.10  # metres: the robot's hand comes from this far behind a goal
_POWER, _PINCH, _CLOSED = 128, 1000, 128  # wrists drawn for each part of an object, and pinches closed of those clear
_GRAZE = 0.0015  # metres that the skin may be in the object before a pinch closes
_STRETCHED = 2.0  # radians less than its neighbour, all three joints together
_SPREAD = (0.03, 0.5)  # metres, radians: wrists this far apart in position, or in rotation, count as equally different
_UNLIKE = 3.0  # such differences, and more is no better


def find_ways(obj: ObjectModel, pool: GraspPool, side: str, generator: torch.Generator) -> GiverWays:
    """At most `MAX_PER_HAND` different ways that leave the robot enough goals, spread over styles and places."""
    hand = GiverHand(side)
    postures = draw_postures(hand, generator)
    fits = []
    for held, forearm in _parts(obj):
        fits.append(_power(hand, obj, held, forearm, generator))
        fits += [_pinch(hand, obj, pinches, held, generator) for pinches in postures]
    fit = GraspFit.joined(fits)
    fit = fit[fit.room & _firm(fit)]
    fit = fit[open_goals(hand, pool, fit.mano) >= MIN_GOALS]
    if len(fit) == 0:
        raise ValueError(f"no way to hold {obj.name} with the {side} hand leaves {MIN_GOALS} goals to the robot")
    fit = fit[_spread_out(fit)]
    wrist = torch.cat((fit.mano[:, :3], quat_from_axis_angle(fit.mano[:, 3:6])), dim=-1)
    return GiverWays(obj.name, side, wrist.float(), fit.grip, fit.touch.float(), fit.style, fit.place)


def _firm(fit: GraspFit) -> Tensor:
    """(K,) bool: power grasps with two fingers, pinches with the index, no finger stretched out beside a bent one."""
    power = torch.tensor([style == "power" for style in fit.style], dtype=torch.bool)
    index, middle, pinky, ring = fit.grip.flexion[:, :4].sum(-1).unbind(-1)
    stretched = (middle - index > _STRETCHED) | (ring - pinky > _STRETCHED)
    return torch.where(power, fit.contacts[:, :4].sum(-1) >= 2, fit.contacts[:, CHAINS.index("index")]) & ~stretched


def _parts(obj: ObjectModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Points (P,) bool to be held and where the forearm keeps to (3,): both ends, the middle, the handle if any."""
    points = obj.points
    axis = int((points.amax(0) - points.amin(0)).argmax())
    along = (points[:, axis] - points[:, axis].amin()) / (points[:, axis].amax() - points[:, axis].amin())
    out = torch.nn.functional.one_hot(torch.tensor(axis), 3).float()
    yield along > 0.6, out
    yield along < 0.4, -out
    yield (along - 0.5).abs() < 0.25, 0 * out
    if obj.handle is not None:
        low, high = obj.handle
        held = ((points > low) & (points < high)).all(-1)
        away = (low + high) / 2 - points.mean(0)
        if held.any():
            yield held, torch.nn.functional.normalize(away, dim=0)


def wrists_over(
    hand: GiverHand, obj: Graspable, held: Tensor, forearm: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Wrist positions (N, 3) and rotations (N, 4), N = count, whose palm faces a point of the surface.

    held (P,) bool: which of the object's points; forearm (3,): direction to which the forearm keeps, give or take,
    zero for none.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    held = torch.nonzero(held)[:, 0]
    pick = held[torch.randint(len(held), (count,), generator=generator)]
    point, normal = obj.points[pick].float(), obj.normals[pick].float()
    # The palm's normal (rest -y) meets the surface.
    forearm = forearm - (normal @ forearm)[:, None] * normal
    any_way = torch.linalg.cross(normal, torch.randn(count, 3, generator=generator), dim=-1)
    forearm = torch.where(forearm.norm(dim=-1, keepdim=True) < 0.3, any_way, forearm)
    forearm = torch.nn.functional.normalize(forearm, dim=-1)
    side = 1.0 if hand.side == "right" else -1.0
    x = side * quat_rotate(quat_from_axis_angle(normal * uniform(-1.9, 1.9)[:, None]), forearm)
    z = torch.linalg.cross(x, normal, dim=-1)
    rotation = quat_from_matrix(torch.stack((x, normal, z), dim=-1))
    tilt = 0.2 * torch.randn(count, 3, generator=generator)
    rotation = quat_multiply(rotation, quat_from_axis_angle(tilt))
    # Between the middle of the palm and the pads of the fingers: what lies over the surface point.
    size = float(hand.rest_tips[1, 0].abs())
    offset = uniform(0.35, 0.85), uniform(-0.02, 0.02)
    anchor = torch.stack((-side * size * offset[0], 0 * offset[0], offset[1]), dim=-1)
    return point - quat_rotate(rotation, anchor), rotation


def _power(hand: GiverHand, obj: ObjectModel, held: Tensor, forearm: Tensor, generator: torch.Generator) -> GraspFit:
    position, rotation = wrists_over(hand, obj, held, forearm, _POWER, generator)
    return judge_best(hand, obj, *close_palm_first(hand, obj, position, rotation, generator))


def _pinch(
    hand: GiverHand, obj: ObjectModel, postures: PinchPostures, held: Tensor, generator: torch.Generator
) -> GraspFit:
    position, rotation, grip = pinch_wrists(obj, postures, held, _PINCH, generator)
    drive = FingerDrive(hand)
    mano = hand.mano(position, rotation, drive.pose(grip))
    skin = hand.vertices(mano, torch.cat((drive.palm[::4], drive.pads[:, ::4].flatten())))
    clear = (obj.signed_distance_fast(skin).amin(-1) > -_GRAZE).nonzero()[:_CLOSED, 0]
    mano, grip = mano[clear], grip[clear]
    grip, touched = close_fingers(drive, mano, grip, obj.signed_distance_fast)
    mano = drive.hold(mano, grip)
    return judge_best(hand, obj, mano, grip, coarse_score(hand, obj, mano, touched))


def open_goals(hand: GiverHand, pool: GraspPool, mano: Tensor) -> Tensor:
    """How many of the robot's goals keep clear of each hand (N, 61), on the way in too. -> (N,) long"""
    goal = pool.palm_pose.double()
    behind = goal.clone()
    behind[:, :3] += _APPROACH * quat_rotate(goal[:, 3:], goal.new_tensor([0.0, 1.0, 0.0]).expand(len(goal), 3))
    here = goal.new_tensor([0.0, 0, 0, 1, 0, 0, 0]).expand(len(mano), 7)
    joints = pool.joints.double()
    return (free_of_giver(goal, joints, here, hand, mano) & free_of_giver(behind, joints, here, hand, mano)).sum(-1)


def _spread_out(fit: GraspFit) -> Tensor:
    """Rows (N,) of at most `MAX_PER_HAND` grasps, none much like another.

    Round after round one more of every pair of style and place: good ones, and those unlike what was chosen before.
    """
    pairs = list(zip(fit.style, fit.place, strict=True))
    turn = quat_from_axis_angle(fit.mano[:, 3:6])
    shift = (fit.mano[:, None, :3] - fit.mano[:, :3]).norm(dim=-1) / _SPREAD[0]
    different = (shift.square() + (quat_angle(turn[:, None], turn) / _SPREAD[1]).square()).sqrt()  # (K, K)
    nearest = torch.full_like(fit.score, _UNLIKE)
    chosen: list[int] = []
    before = -1
    while before < len(chosen) < MAX_PER_HAND:
        before = len(chosen)
        for pair in sorted(set(pairs)):
            own = torch.tensor([p == pair for p in pairs]) & (nearest > 1.0)
            if own.any() and len(chosen) < MAX_PER_HAND:
                chosen.append(int(torch.where(own, fit.score + nearest, -torch.inf).argmax()))
                nearest = torch.minimum(nearest, different[chosen[-1]])
    return torch.tensor(chosen)


def make_ways(objects: Sequence[str] = (), *, out: Path = FOLDER, seed: int = 0, workers: int | None = None) -> None:
    """Make the giver's ways to hold objects of the library anew; their goal grasps must be there. Seconds each.

    Args:
        objects: names of objects; none for all of the library.
        out: folder to write OBJECT.npz to; by default the package's own.
        seed: same seed, same ways.
        workers: processes; None for one a core.
    """
    names = list(objects) or object_names()
    for name in names:
        load_object(name), load_pool(name)  # an unknown name is refused before the work begins
    out.mkdir(parents=True, exist_ok=True)
    with Workers(min(num_workers(workers), len(names))) as pool:
        for line in tqdm(pool.map(partial(_make_file, seed=seed, out=out), names), total=len(names), unit="object"):
            tqdm.write(line)


def _make_file(name: str, seed: int, out: Path) -> str:
    """Make one object's file; a line that says what was found."""
    obj, pool = load_object(name), load_pool(name)
    hands = [find_ways(obj, pool, side, torch.Generator().manual_seed(2 * seed + i)) for i, side in enumerate(SIDES)]
    write_ways(out / f"{name}.npz", hands, seed=seed, volume=obj.volume)
    lines = []
    for ways in hands:
        count = Counter(f"{s} {p}" for s, p in zip(ways.style, ways.place, strict=True))
        lines.append(f"{ways.side} {len(ways)} ({', '.join(f'{n} {pair}' for pair, n in sorted(count.items()))})")
    return f"{name}: {'; '.join(lines)}"


if __name__ == "__main__":
    make_ways(sys.argv[1:])
