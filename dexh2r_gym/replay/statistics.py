"""Measures of recorded trials: how the giver moves and holds the object, and how the demonstration takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.replay.replay import Replay
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, pose_velocity
from dexh2r_gym.types import split_hand_state

CONTACT = 0.002  # m, a finger whose skin comes nearer than this touches
MOVING = 0.05  # m/s, an object faster than this moves
PAUSE = 0.2  # s, an object that is slower for at least this long pauses
REACHED = (
    0.01  # m, the demonstration has its grasp once its palm stays this close to where it ends, seen from the object
)
TAKING = 0.2  # s before that, over which the object's speed is taken
_CHUNK = 64  # frames looked at together


class Measure(NamedTuple):
    """How a measure is written: its name in a table, the unit it is told in, SI units per that unit, decimals."""

    label: str
    unit: str
    scale: float
    digits: int


def _measure(label: str, unit: str = "", scale: float = 1.0, digits: int = 2) -> Any:
    return field(metadata={"measure": Measure(label, unit, scale, digits)})


@dataclass(frozen=True)
class TrialStatistics:
    """Measures of one trial in SI units; None where the trial has no giver or no demonstration to measure."""

    seconds: float = _measure("duration", "s", digits=1)
    frames: int = _measure("frames", digits=0)
    path: float = _measure("object's path", "m")
    net_displacement: float = _measure("object's first place to its last", "m")
    mean_speed: float = _measure("object's speed while it moves (over 5 cm/s), mean", "m/s")
    peak_speed: float = _measure("object's speed, peak", "m/s")
    offer_speed: float = _measure("object's speed in the last third, mean", "cm/s", 0.01, 1)
    taken_speed: float | None = _measure("object's speed in the 0.2 s before the robot has its grasp, mean", "m/s")
    turned: float = _measure("object's rotation, summed over the frames", "°", np.pi / 180, 0)
    mean_turning: float = _measure("object's rotation while it moves, mean", "rad/s")
    pauses: int = _measure("pauses of 0.2 s or more between its movements", digits=0)
    largest_step: float = _measure("object's largest step from frame to frame", "cm", 0.01, 1)
    start_distance: float = _measure("robot's palm from the object at frame 0", "m")
    goals: int = _measure("goal grasps", digits=0)
    free_goals: int = _measure("goal grasps free in every frame of the last third", digits=0)
    demo_seconds: float | None = _measure("demonstration: time to its grasp", "s", digits=1)
    demo_path: float | None = _measure("demonstration: palm's path to its grasp", "m")
    clearance: float | None = _measure("demonstration: least gap to the giver's hand", "mm", 0.001, 0)
    overlap: float | None = _measure("giver's skin inside the object, deepest", "mm", 0.001, 1)
    held: float | None = _measure("frames with thumb and a finger in contact (2 mm)", "%", 0.01, 0)


MEASURES: dict[str, Measure] = {f.name: f.metadata["measure"] for f in fields(TrialStatistics)}


def trial_statistics(replay: Replay, *, contact: bool = True) -> TrialStatistics:
    """Measure one trial. Speeds are differences from frame to frame, not smoothed.

    `contact=False` leaves out `overlap` and `held`, which take several times as long as all the others.
    """
    velocity = pose_velocity(replay.object_pose[:-1], replay.object_pose[1:], 1.0 / replay.fps)
    velocity = velocity if len(velocity) else velocity.new_zeros(1, 6)
    speed, turning = velocity[:, :3].norm(dim=-1), velocity[:, 3:].norm(dim=-1)
    moving = speed > MOVING
    last = min(2 * replay.num_frames // 3, len(speed) - 1)
    free = replay.goal_free[2 * replay.num_frames // 3 :]
    reach = reach_frame(replay)
    demo = replay.demo
    overlap, held = giver_contact(replay) if contact and replay.has_giver else (None, None)
    return TrialStatistics(
        seconds=(replay.num_frames - 1) / replay.fps,
        frames=replay.num_frames,
        path=float(speed.sum() / replay.fps),
        net_displacement=float((replay.object_pose[-1, :3] - replay.object_pose[0, :3]).norm()),
        mean_speed=float(speed[moving].mean()) if moving.any() else 0.0,
        peak_speed=float(speed.max()),
        offer_speed=float(speed[last:].mean()),
        taken_speed=None if reach is None else _speed_before(speed, reach, replay.fps),
        turned=float(turning.sum() / replay.fps),
        mean_turning=float(turning[moving].mean()) if moving.any() else 0.0,
        pauses=count_pauses(speed, replay.fps),
        largest_step=float(speed.max() / replay.fps),
        start_distance=float((replay.hand_start[:3] - replay.object_pose[0, :3]).norm()),
        goals=replay.goal_free.shape[1],
        free_goals=int(free.sum(-1).min()),
        demo_seconds=None if reach is None else reach / replay.fps,
        demo_path=None
        if reach is None or demo is None
        else float(demo[: reach + 1, :3].diff(dim=0).norm(dim=-1).sum()),
        clearance=giver_clearance(replay) if demo is not None and replay.has_giver else None,
        overlap=None if overlap is None else float(overlap.max()),
        held=None if held is None else float(held.double().mean()),
    )


def reach_frame(replay: Replay) -> int | None:
    """Frame at which the demonstration has its grasp: the one recorded, else the first from which the palm stays within
    `REACHED` of its last place in the object's frame. None without a demonstration."""
    if replay.demo is None:
        return None
    if replay.grasp_begin >= 0:
        return replay.grasp_begin
    palm = pose_apply(pose_inverse(replay.object_pose), replay.demo[:, :3])
    away = ((palm - palm[-1]).norm(dim=-1) > REACHED).nonzero()
    return int(away[-1]) + 1 if len(away) else 0


def count_pauses(speed: Tensor, fps: float) -> int:
    """How often an object of this speed (T - 1,), m/s, stays at or below `MOVING` for `PAUSE` between two movements."""
    moves = (speed > MOVING).nonzero()[:, 0]
    return int(((moves.diff() - 1) / fps >= PAUSE).sum())


def giver_clearance(replay: Replay) -> float:
    """Least gap between the demonstration's hand and the giver's over all frames, metres; negative where they overlap.

    Both hands are taken as their capsules.
    """
    assert replay.demo is not None
    hand = _giver_hand(replay)
    link, p0, p1, hand_radius = hand_capsules()
    bone, q0, q1, giver_radius = hand.capsules()
    links = forward_kinematics(*split_hand_state(replay.demo))[:, link]  # (T, K, 7)
    bones = hand.bone_poses(replay.giver)[:, bone]  # (T, C, 7)
    a0, a1, b0, b1 = (pose_apply(p, x.to(p)) for p, x in ((links, p0), (links, p1), (bones, q0), (bones, q1)))
    apart = torch.cdist((a0 + a1) / 2, (b0 + b1) / 2) - hand_radius[:, None] - giver_radius  # (T, K, C), of the middles
    half = (a1 - a0).norm(dim=-1)[..., None] / 2 + (b1 - b0).norm(dim=-1)[:, None] / 2
    t, k, c = (apart - half <= apart.min()).nonzero(as_tuple=True)  # no other pair can be the nearest
    gap = segment_distance(a0[t, k], a1[t, k], b0[t, c], b1[t, c]) - hand_radius[k] - giver_radius[c]
    return float(gap.min())


def giver_contact(replay: Replay) -> tuple[Tensor, Tensor]:
    """Overlap (T,) of the giver's skin with the object, metres, and whether thumb and a finger touch it, (T,) bool."""
    hand = _giver_hand(replay)
    bones = pose_multiply(pose_inverse(replay.object_pose)[:, None], hand.bone_poses(replay.giver))
    chain = hand.weights[:, 1:].unflatten(-1, (5, 3)).sum(-1) > 0.5  # (V, 5)
    overlap, held = [], []
    for part in bones.split(_CHUNK):
        distance = replay.object_model.signed_distance_fast(hand.skin(part).float())  # (t, V)
        touch = torch.stack([distance[:, chain[:, f]].amin(-1) < CONTACT for f in range(5)], dim=-1)
        overlap.append((-distance.amin(-1)).clamp_min(0.0))
        held.append(touch[:, 4] & touch[:, :4].any(-1))
    return torch.cat(overlap), torch.cat(held)


def measure_trials(
    replays: Iterable[Replay],
    *,
    contact: Callable[[int], bool] = lambda index: True,
    progress: Callable[[Iterable[Replay]], Iterable[Replay]] = iter,
) -> dict[str, NDArray[np.float64]]:
    """Every measure as a column (n,) over the trials, NaN where a trial does not have it.

    Args:
        replays: any number of trials, looked at one after the other.
        contact: of a trial's place in `replays`, whether the giver's contact with the object is measured.
        progress: wraps the trials, for instance `tqdm`.
    """
    rows = [asdict(trial_statistics(r, contact=contact(i))) for i, r in enumerate(progress(replays))]
    if not rows:
        raise ValueError("no trials to measure")
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in MEASURES}


def summarise(columns: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Of every measure that some trial has: how many have it, median, 5th and 95th percentile, mean and extremes."""
    summary = {}
    for name, column in columns.items():
        values = column[~np.isnan(column)]
        if len(values):
            low, median, high = np.percentile(values, (5, 50, 95))
            found = {"min": values.min(), "p5": low, "median": median, "p95": high, "max": values.max()}
            summary[name] = {"trials": len(values), "mean": float(values.mean())} | {
                k: float(v) for k, v in found.items()
            }
    return summary


def statistics(
    replays: Iterable[Replay], progress: Callable[[Iterable[Replay]], Iterable[Replay]] = iter
) -> dict[str, dict[str, float]]:
    """`summarise` of all measures of these trials."""
    return summarise(measure_trials(replays, progress=progress))


def _speed_before(speed: Tensor, frame: int, fps: float) -> float:
    return float(speed[max(0, frame - round(TAKING * fps)) : max(1, frame)].mean())


def _giver_hand(replay: Replay) -> GiverHand:
    return GiverHand.from_mano(replay.giver, replay.side, model=replay.giver_model)
