"""Search for the ways to hold an object, and the files of `ways` made from it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.giver.closing import FingerDrive, close_fingers
from dexh2r_gym.giver.fit import GraspFit, close_palm_first, coarse_score, judge_best, wrists_over
from dexh2r_gym.giver.hand import SIDES, GiverHand
from dexh2r_gym.giver.pinch import PinchPostures, draw_postures, pinch_wrists
from dexh2r_gym.giver.ways import FOLDER, GiverWays, write_ways
from dexh2r_gym.grasps import free_of_giver, load_pool
from dexh2r_gym.grasps.pool import GraspPool
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.rotations import quat_angle, quat_from_axis_angle, quat_rotate

MIN_GOALS = 8  # goals of the robot with an open way that a way to hold leaves
MAX_PER_HAND = 16
_APPROACH = 0.10  # metres: the robot's hand comes from this far behind a goal
_POWER, _PINCH = 160, 1200  # wrists tried for each part of an object
_CLEAR = 0.02  # share of ...
_SPREAD = (0.03, 0.5)  # metres, radians: wrists this far apart in position, or in rotation, count as equally different


def find_ways(obj: ObjectModel, pool: GraspPool, side: str, generator: torch.Generator) -> GiverWays:
    """At most `MAX_PER_HAND` different ways that leave the robot enough goals, spread over styles and places."""
    hand = GiverHand(side)
    postures = draw_postures(hand, generator)
    fits = []
    for held, forearm in _parts(obj):
        fits.append(_power(hand, obj, held, forearm, generator))
        fits.append(_pinch(hand, obj, postures, held, generator))
    fits = [fit[fit.room] for fit in fits]
    fits = [fit[open_goals(hand, pool, fit.mano) >= MIN_GOALS] for fit in fits if len(fit)]
    return _choose(obj.name, side, [fit for fit in fits if len(fit)])


def _parts(obj: ObjectModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Points (P,) bool to be held and where the forearm keeps to (3,): both ends, the middle, the handle if any."""
    points = obj.points
    axis = int((points.amax(0) - points.amin(0)).argmax())
    along = (points[:, axis] - points[:, axis].amin()) / (points[:, axis].amax() - points[:, axis].amin())
    out = torch.nn.functional.one_hot(torch.tensor(axis), 3).float()
    yield along > 0.6, out
    yield along < 0.4, -out
    yield (along - 0.5).abs() < 0.25, 0 * out
    if (box := obj.metadata.get("handle")) is not None:
        low, high = points.new_tensor(box["low"]), points.new_tensor(box["high"])
        held = ((points > low) & (points < high)).all(-1)
        away = (low + high) / 2 - points.mean(0)
        if held.any():
            yield held, torch.nn.functional.normalize(away, dim=0)


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
    clear = obj.signed_distance_fast(skin).amin(-1) > 0
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


def _choose(name: str, side: str, fits: Sequence[GraspFit]) -> GiverWays:
    """Round after round one more of every pair of style and place: the best first, then those unlike the chosen."""
    if not fits:
        raise ValueError(f"{name}: no way to hold it with the {side} hand leaves {MIN_GOALS} goals to the robot")
    mano, score, touch = (torch.cat([getattr(fit, x) for fit in fits]) for x in ("mano", "score", "touch"))
    flexion, adduction, opposition = (
        torch.cat([getattr(fit.grip, x) for fit in fits]) for x in ("flexion", "adduction", "opposition")
    )
    pairs = [pair for fit in fits for pair in zip(fit.style, fit.place, strict=True)]
    turn = quat_from_axis_angle(mano[:, 3:6])
    shift = (mano[:, None, :3] - mano[:, :3]).norm(dim=-1) / _SPREAD[0]
    different = (shift.square() + (quat_angle(turn[:, None], turn) / _SPREAD[1]).square()).sqrt()  # (N, N)
    nearest = torch.full_like(score, 3.0)
    chosen: list[int] = []
    while len(chosen) < MAX_PER_HAND:
        before = len(chosen)
        for pair in sorted(set(pairs)):
            own = torch.tensor([p == pair for p in pairs]) & (nearest > 1.0)
            if own.any() and len(chosen) < MAX_PER_HAND:
                chosen.append(int(torch.where(own, score + nearest.clamp_max(3.0), -torch.inf).argmax()))
                nearest = torch.minimum(nearest, different[chosen[-1]])
        if len(chosen) == before:
            break
    rows = torch.tensor(chosen)
    wrist = torch.cat((mano[rows, :3], turn[rows]), dim=-1).float()
    grip = type(fits[0].grip)(flexion, adduction, opposition)[rows]
    style, place = zip(*(pairs[i] for i in chosen), strict=True)
    return GiverWays(name, side, wrist, grip, touch[rows].float(), style, place)


def make_ways(objects: Sequence[str] = (), *, out: Path = FOLDER, seed: int = 0, jobs: int = 0) -> None:
    """Make the giver's ways to hold objects of the library anew; their goal grasps must be there. Seconds each.

    Args:
        objects: names of objects; none for all of the library.
        out: folder to write OBJECT.npz to; by default the package's own.
        seed: same seed, same ways.
        jobs: objects worked on at the same time, 0 for one a core.
    """
    names = list(objects) or object_names()
    for name in names:
        load_object(name), load_pool(name)  # an unknown name is refused before the work begins
    out.mkdir(parents=True, exist_ok=True)
    workers = min(jobs or os.cpu_count() or 1, len(names))
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        running = [pool.submit(_make_file, name, seed, out) for name in names]
        for done in tqdm(as_completed(running), total=len(names), unit="object"):
            tqdm.write(done.result())


def _make_file(name: str, seed: int, out: Path) -> str:
    """Make one object's file; a line that says what was found."""
    obj, pool = load_object(name), load_pool(name)
    hands = [find_ways(obj, pool, side, torch.Generator().manual_seed(seed)) for side in SIDES]
    write_ways(out / f"{name}.npz", hands, seed=seed, volume=obj.volume)
    lines = []
    for ways in hands:
        count = Counter(f"{s} {p}" for s, p in zip(ways.style, ways.place, strict=True))
        lines.append(f"{ways.side} {len(ways)} ({', '.join(f'{n} {pair}' for pair, n in sorted(count.items()))})")
    return f"{name}: {'; '.join(lines)}"
