"""How a giver moves an object: overlapping minimum-jerk movements of the arm that lead to an offer.

A free movement of the arm is close to a sum of short minimum-jerk movements that overlap in time (Flash and Hogan, J.
Neurosci. 1985; Henis and Flash, Biol. Cybern. 1995). The hand rides on the forearm: movements are of six numbers, the
wrist's position, the roll of the forearm and the two bends of the wrist, so turning follows from moving as it does in
an arm. On the way the giver may pause, hesitate (back a little, then on) or offer a second time elsewhere; while the
object is held out it stands still but for sway, or keeps drifting. Speeds and lengths follow recorded handovers.

World frame, z up. The giver stands at +x and faces -x, so their right arm is at +y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.replay.subjects import Subject
from dexh2r_gym.rotations import quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_rotate

MAX_REACH = 0.70  # m, wrist from shoulder
MIN_REACH = 0.25
MAX_WRIST_BEND = 1.1  # rad between the hand and the forearm
MAX_ROLL = 1.9  # rad of the forearm to either side of thumb up
_UPPER_ARM = (0.02, 0.06, -0.30)  # m, elbow seen from the shoulder; the second number points away from the body
_WRIST_LOW, _WRIST_HIGH = (-0.12, -0.32, 0.78), (0.42, 0.32, 1.40)  # m, where the wrist may be
_OFFER_SPREAD = (0.03, 0.06, 0.05)  # m, of the offers of one subject
_OFFER_ROLL, _OFFER_BEND = 1.3, 0.35  # rad: roll at most, bend as a standard deviation
_DRIFT_SPEED, _DRIFT_TURN = (0.04, 0.17), 0.25  # m/s; rad/s, standard deviation of each angle
_DRIFT_SECONDS = 1.2  # of one of the movements that make up a drift, each half over when the next one begins
_WEIGHT = np.array((1.0, 1.0, 0.8))  # how readily the wrist moves along x, y, z
_ANGLES = np.array((1.0, 0.5, 0.5))  # how readily it turns: roll, bends

Numbers = TypeVar("Numbers", NDArray, Tensor)


@dataclass(frozen=True)
class Schedule:
    """M movements of a trial one after another; seconds from frame 0."""

    start: NDArray  # (M,)
    duration: NDArray  # (M,)
    back: NDArray  # (M,) bool: takes back a part of the movement before it


def forearm_direction(subject: Subject, wrist: Tensor) -> Tensor:
    """Unit direction from the wrist (..., 3) to the elbow, which hangs below the shoulder. -> (..., 3)"""
    elbow = wrist.new_tensor(subject.shoulder) + wrist.new_tensor(_UPPER_ARM) * wrist.new_tensor(
        [1.0, subject.outward, 1.0]
    )
    return torch.nn.functional.normalize(elbow - wrist, dim=-1)


def hand_axis(side: str, orientation: Tensor) -> Tensor:
    """Direction from the fingers to the wrist of a giver's hand with orientation (..., 4). -> (..., 3)"""
    axis = orientation.new_tensor([1.0 if side == "right" else -1.0, 0.0, 0.0])
    return quat_rotate(orientation, axis.expand(*orientation.shape[:-1], 3))


def wrist_pose(subject: Subject, arm: Tensor) -> Tensor:
    """Pose (..., 7) of the giver's wrist for an arm (..., 6): wrist position, roll from thumb up, bends (rad).

    Without roll and bend the hand is in line with the forearm, its thumb up and its palm inward.
    """
    position = arm[..., :3]
    back = forearm_direction(subject, position)
    x = subject.outward * back  # rest frame: fingers along -x (right hand), palm -y, index finger +z
    up = position.new_tensor([0.0, 0.0, 1.0]).expand_as(x)
    y = torch.nn.functional.normalize(torch.linalg.cross(up, x, dim=-1), dim=-1)
    upright = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    roll = quat_from_axis_angle(back * arm[..., 3:4])
    bend = quat_from_axis_angle(torch.nn.functional.pad(arm[..., 4:], (1, 0)))
    return torch.cat((position, quat_multiply(roll, quat_multiply(upright, bend))), dim=-1)


def within_reach(subject: Subject, wrist: Tensor) -> Tensor:
    """Whether the arm of the subject can bring the wrist to poses (..., 7). -> (...) bool"""
    position = wrist[..., :3]
    reach = (position - wrist.new_tensor(subject.shoulder)).norm(dim=-1)
    bend = (hand_axis(subject.side, wrist[..., 3:]) * forearm_direction(subject, position)).sum(-1)
    low, high = wrist.new_tensor(_WRIST_LOW), wrist.new_tensor(_WRIST_HIGH)
    inside = ((position >= low) & (position <= high)).all(-1)
    return inside & (reach < MAX_REACH) & (reach > MIN_REACH) & (bend > np.cos(MAX_WRIST_BEND))


def draw_offers(subject: Subject, count: int, rng: np.random.Generator) -> Tensor:
    """Arms (count, 6) with which the subject may hold an object out, the palm anywhere between up and down."""
    position = rng.normal(subject.offer, _OFFER_SPREAD, (count, 3))
    roll = rng.uniform(-_OFFER_ROLL, _OFFER_ROLL, (count, 1))
    bend = rng.normal(0.0, _OFFER_BEND, (count, 2)).clip(-0.7, 0.7)
    return torch.from_numpy(np.concatenate((position, roll, bend), axis=1))


def draw_motions(
    subject: Subject, offers: Tensor, num_frames: int, fps: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Motions that lead to offers (K, 6), alike in rhythm: wrist poses (K, T, 7), and those the arm can do (K,) bool.

    The offer is reached after all but the last `subject.patience` of the frames, give or take, and held from there on.
    """
    count = len(offers)
    times = np.arange(num_frames) / fps
    arrival = (1 - np.clip(rng.normal(subject.patience, 0.05), 0.15, 0.5)) * times[-1]
    schedule = draw_schedule(subject, arrival, rng)
    steps = _draw_steps(subject, schedule, count, rng)  # (K, M, 6)
    done = minimum_jerk((times[:, None] - schedule.start) / schedule.duration)  # (T, M)
    arm = offers.numpy()[:, None] - (1 - done) @ steps
    if rng.random() < subject.drift:
        arm = arm + _draw_drift(times, arrival, count, rng)
    sway = subject.tremor * np.array([1.0] * 3 + [3.0] * 3)  # m, rad
    arm = torch.from_numpy(arm + _sway(times, count, rng) * sway)
    wrist = wrist_pose(subject, arm)
    return wrist, (within_reach(subject, wrist) & (arm[..., 3].abs() < MAX_ROLL)).all(-1)


def minimum_jerk(phase: Numbers) -> Numbers:
    """Part of a movement from rest to rest that is done at a phase; 0 before 0, 1 after 1 (Flash and Hogan 1985)."""
    s = phase.clip(0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s**2)


def draw_schedule(subject: Subject, seconds: float, rng: np.random.Generator) -> Schedule:
    """Movements that fill this time: free ones that overlap or are parted by pauses, and the one that holds out.

    A hesitation takes a part of the last movement back, waits, and goes on. A second offer draws the object back from a
    first one and presents it elsewhere.
    """
    tail_duration: list[float] = []
    tail_gap: list[float] = []
    if rng.random() < subject.hesitation:
        tail_duration, tail_gap = [rng.uniform(0.4, 0.6), rng.uniform(0.6, 0.9)], [-0.15, rng.uniform(0.0, 0.3)]
    elif rng.random() < subject.second_offer:
        tail_duration, tail_gap = [rng.uniform(0.6, 0.9), rng.uniform(0.6, 0.9)], [rng.uniform(0.2, 0.5), -0.2]
    free = max(1, round((seconds - sum(tail_duration) - sum(tail_gap)) / 0.75 + rng.uniform(-0.7, 0.7)))
    duration = list(rng.uniform(0.6, 1.3, free))
    gap = [
        rng.uniform(0.1, 0.5) if rng.random() < subject.pausing else -rng.uniform(0.15, 0.45) * duration[i]
        for i in range(free - 1)
    ]
    length = np.array(duration + tail_duration)
    start = np.concatenate(([0.0], np.cumsum(length[:-1] + (gap + tail_gap))))
    back = np.arange(len(length)) == (free if tail_duration else -1)
    scale = seconds / (start + length).max()
    return Schedule(start * scale, length * scale, back)


def _draw_steps(subject: Subject, schedule: Schedule, count: int, rng: np.random.Generator) -> NDArray:
    """What each movement adds to the arm, (K, M, 6) metres and radians."""
    moves = len(schedule.start)
    speed = subject.speed * rng.lognormal(0.0, 0.15)  # one mood for the whole trial
    length = speed * schedule.duration * rng.lognormal(0.0, 0.15, (count, moves))
    heading = rng.normal(size=(count, moves, 3)) * _WEIGHT
    turn = rng.normal(0.0, subject.turning, (count, moves, 3)) * _ANGLES * schedule.duration[:, None]
    heading[:, -1, 0] = -1.5 * np.abs(heading[:, -1, 0])  # the last movement holds the object out to the robot
    for i in range(1, moves):
        if schedule.back[i]:
            heading[:, i] = -heading[:, i - 1] + 0.3 * heading[:, i]
            length[:, i] *= 0.7
            turn[:, i] = -0.5 * turn[:, i - 1]
        else:  # an arm has little room: movements tend to come back
            heading[:, i, 1:] -= 0.5 * heading[:, i - 1, 1:]
            turn[:, i] -= 0.5 * turn[:, i - 1]
    step = length[..., None] * heading / np.linalg.norm(heading, axis=-1, keepdims=True)
    return np.concatenate((step, turn), axis=-1)


def _draw_drift(times: NDArray, arrival: float, count: int, rng: np.random.Generator) -> NDArray:
    """(K, T, 6): a slow movement on from the arrival to the end and beyond; zero in the middle of that time."""
    period = _DRIFT_SECONDS / 2
    start = np.arange(arrival - period, times[-1], period)  # (D,)
    heading = rng.normal(size=(count, 1, 3)) + np.cumsum(rng.normal(0.0, 0.4, (count, len(start), 3)), axis=1)
    speed = rng.uniform(*_DRIFT_SPEED)
    step = speed * period * heading / np.linalg.norm(heading, axis=-1, keepdims=True)
    turn = np.broadcast_to(rng.normal(0.0, _DRIFT_TURN, (count, 1, 3)) * _ANGLES * period, step.shape)
    middle = np.append(times, (arrival + times[-1]) / 2)
    done = minimum_jerk((middle[:, None] - start) / _DRIFT_SECONDS)
    return (done[:-1] - done[-1]) @ np.concatenate((step, turn), axis=-1)


def _sway(times: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """(K, T, 6) of amplitude about 1: slow sway, and a tremor a twentieth as large at 5 to 9 Hz."""
    out = np.zeros((count, len(times), 6))
    for low, high, amplitude in ((0.15, 0.6, 0.7), (0.15, 0.6, 0.5), (5.0, 9.0, 0.05)):
        frequency, phase = rng.uniform(low, high, (count, 1, 6)), rng.uniform(0, 2 * np.pi, (count, 1, 6))
        out += amplitude * np.sin(2 * np.pi * frequency * times[:, None] + phase)
    return out
