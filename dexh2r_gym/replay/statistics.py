"""Measures of recorded trials: how well the giver holds the object, and how they move it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay.replay import Replay
from dexh2r_gym.rotations import pose_inverse, pose_multiply, pose_velocity

CONTACT = 0.002  # m, a finger whose skin comes nearer than this touches
MOVING = 0.05  # m/s, an object faster than this moves
_CHUNK = 64  # frames looked at together


@dataclass(frozen=True)
class TrialStatistics:
    """Measures of one trial."""

    seconds: float
    overlap: float  # m, deepest skin vertex of the giver inside the object, over all frames
    held: float  # share of the frames in which the thumb and a finger touch the object
    path: float  # m, of the object
    mean_speed: float  # m/s, object, while it moves
    peak_speed: float  # m/s
    offer_speed: float  # m/s, mean over the last third
    mean_turning: float  # rad/s, object, while it moves
    largest_step: float  # m, object from one frame to the next
    start_distance: float  # m, robot's palm from the object's origin at frame 0
    free_goals: int  # least number in a frame of the last third


def trial_statistics(replay: Replay) -> TrialStatistics:
    """Measure one trial."""
    velocity = pose_velocity(replay.object_pose[:-1], replay.object_pose[1:], 1.0 / replay.fps)
    speed, turning = velocity[:, :3].norm(dim=-1), velocity[:, 3:].norm(dim=-1)
    moving = speed > MOVING
    last = 2 * replay.num_frames // 3
    overlap, held = giver_contact(replay)
    return TrialStatistics(
        seconds=(replay.num_frames - 1) / replay.fps,
        overlap=float(overlap.max()),
        held=float(held.double().mean()),
        path=float(speed.sum() / replay.fps),
        mean_speed=float(speed[moving].mean()) if moving.any() else 0.0,
        peak_speed=float(speed.max()),
        offer_speed=float(speed[last:].mean()),
        mean_turning=float(turning[moving].mean()) if moving.any() else 0.0,
        largest_step=float(speed.max() / replay.fps),
        start_distance=float((replay.hand_start[:3] - replay.object_pose[0, :3]).norm()),
        free_goals=int(replay.goal_free[last:].sum(-1).min()),
    )


def giver_contact(replay: Replay) -> tuple[Tensor, Tensor]:
    """Overlap (T,) of the giver's skin with the object, metres, and whether thumb and a finger touch it, (T,) bool."""
    hand = GiverHand.from_mano(replay.giver, replay.side)
    bones = pose_multiply(pose_inverse(replay.object_pose)[:, None], hand.bone_poses(replay.giver))
    chain = hand.weights[:, 1:].unflatten(-1, (5, 3)).sum(-1) > 0.5  # (V, 5)
    overlap, held = [], []
    for part in bones.split(_CHUNK):
        distance = replay.object_model.signed_distance_fast(hand.skin(part).float())  # (t, V)
        touch = torch.stack([distance[:, chain[:, f]].amin(-1) < CONTACT for f in range(5)], dim=-1)
        overlap.append((-distance.amin(-1)).clamp_min(0.0))
        held.append(touch[:, 4] & touch[:, :4].any(-1))
    return torch.cat(overlap), torch.cat(held)


def statistics(
    replays: Iterable[Replay], progress: Callable[[Iterable[Replay]], Iterable[Replay]] = iter
) -> dict[str, dict[str, float]]:
    """Of every measure the median, the 5th and 95th percentile and the extremes over the trials."""
    rows = [asdict(trial_statistics(replay)) for replay in progress(replays)]
    if not rows:
        raise ValueError("no trials to measure")
    summary = {}
    for name in (field.name for field in fields(TrialStatistics)):
        values = np.array([row[name] for row in rows])
        low, median, high = np.percentile(values, (5, 50, 95))
        summary[name] = {"min": values.min(), "p5": low, "median": median, "p95": high, "max": values.max()}
    return {name: {key: float(value) for key, value in row.items()} for name, row in summary.items()}
