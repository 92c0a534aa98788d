"""How a giver moves an object: superposed minimum-jerk movements of the wrist that end in an offer held almost still.

A free movement of the arm is close to a sum of short minimum-jerk movements that overlap in time (Flash and Hogan, J.
Neurosci. 1985; Henis and Flash, Biol. Cybern. 1995). Speeds and lengths follow measured handovers: about 0.3 m/s while
the object moves, peaks below 1 m/s, 3 to 5 s.

World frame, z up. The giver stands at +x and faces -x, so their right arm is at +y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.giver import SIDES
from dexh2r_gym.rotations import quat_from_axis_angle, quat_from_matrix, quat_multiply, quat_rotate

MAX_REACH = 0.70  # m, wrist from shoulder
MIN_REACH = 0.25
MAX_WRIST_BEND = 1.1  # rad between the hand and the forearm
HOLD_SHARE = 0.36  # last part of a trial, in which the object is held out
_UPPER_ARM = (0.02, 0.06, -0.30)  # m, elbow seen from the shoulder; the second number points away from the body
_WRIST_LOW, _WRIST_HIGH = (-0.10, -0.30, 0.80), (0.42, 0.30, 1.35)  # m, where the wrist may be
_BEND_SPREAD = 0.35  # rad, hand against forearm in an offer
_ROLL_RANGE = 1.3  # rad to either side of thumb up

Numbers = TypeVar("Numbers", NDArray, Tensor)


@dataclass(frozen=True)
class Subject:
    """One giver: the hand, and habits that all of their trials share."""

    number: int
    side: str  # the hand that gives
    betas: tuple[float, ...]  # (10,) shape of the hand
    shoulder: tuple[float, float, float]  # m
    offer: tuple[float, float, float]  # m, where the wrist comes to rest, give or take
    speed: float  # m/s, mean of a movement
    turning: float  # rad, how much the wrist turns on the way
    hesitation: float  # probability of a pause between two movements
    tremor: float  # m, amplitude of the slow sway while holding out


def draw_subjects(count: int, seed: int) -> list[Subject]:
    """`count` different givers, numbered from 0; one in four is left-handed (at least one if there are two or more)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    left = set(rng.permutation(count)[: max(count // 4, int(count > 1))].tolist())
    subjects = []
    for number in range(count):
        side = SIDES[int(number in left)]
        outward = 1.0 if side == "right" else -1.0
        shoulder = (rng.uniform(0.50, 0.62), outward * rng.uniform(0.16, 0.22), rng.uniform(1.27, 1.43))
        offer = (rng.uniform(0.06, 0.16), outward * rng.uniform(-0.06, 0.10), rng.uniform(0.94, 1.08))
        betas = np.clip(rng.normal(size=10), -2, 2) * np.r_[1.0, np.full(9, 0.7)]
        subjects.append(
            Subject(
                number,
                side,
                tuple(betas.tolist()),
                shoulder,
                offer,
                speed=rng.uniform(0.20, 0.30),
                turning=rng.uniform(0.25, 0.55),
                hesitation=rng.uniform(0.1, 0.5),
                tremor=rng.uniform(0.002, 0.006),
            )
        )
    return subjects


def forearm_direction(subject: Subject, wrist: Tensor) -> Tensor:
    """Unit direction from the wrist (..., 3) to the elbow, which hangs below the shoulder. -> (..., 3)"""
    outward = 1.0 if subject.side == "right" else -1.0
    elbow = wrist.new_tensor(subject.shoulder) + wrist.new_tensor(_UPPER_ARM) * wrist.new_tensor([1.0, outward, 1.0])
    return torch.nn.functional.normalize(elbow - wrist, dim=-1)


def hand_axis(side: str, orientation: Tensor) -> Tensor:
    """Direction from the fingers to the wrist of a giver's hand with orientation (..., 4). -> (..., 3)"""
    axis = orientation.new_tensor([1.0 if side == "right" else -1.0, 0.0, 0.0])
    return quat_rotate(orientation, axis.expand(*orientation.shape[:-1], 3))


def within_reach(subject: Subject, wrist: Tensor) -> Tensor:
    """Whether the arm of the subject can bring the wrist to poses (..., 7). -> (...) bool"""
    position = wrist[..., :3]
    reach = (position - wrist.new_tensor(subject.shoulder)).norm(dim=-1)
    bend = (hand_axis(subject.side, wrist[..., 3:]) * forearm_direction(subject, position)).sum(-1)
    low, high = wrist.new_tensor(_WRIST_LOW), wrist.new_tensor(_WRIST_HIGH)
    inside = ((position >= low) & (position <= high)).all(-1)
    return inside & (reach < MAX_REACH) & (reach > MIN_REACH) & (bend > np.cos(MAX_WRIST_BEND))


def draw_offers(subject: Subject, count: int, rng: np.random.Generator) -> Tensor:
    """Wrist poses (count, 7) in which the subject may hold an object out: in line with the forearm, give or take, and
    rolled anywhere between palm up and palm down."""
    position = torch.from_numpy(rng.normal(subject.offer, (0.03, 0.05, 0.04), (count, 3)))
    back = forearm_direction(subject, position)
    outward = 1.0 if subject.side == "right" else -1.0
    x = outward * back  # rest frame: fingers along -x (right hand), palm -y, index finger +z
    z = position.new_tensor([0.0, 0.0, 1.0]).expand_as(x)  # the thumb up
    y = torch.nn.functional.normalize(torch.linalg.cross(z, x, dim=-1), dim=-1)
    upright = quat_from_matrix(torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1))
    roll = back * torch.from_numpy(rng.uniform(-_ROLL_RANGE, _ROLL_RANGE, (count, 1)))
    bend = torch.from_numpy(rng.normal(0.0, _BEND_SPREAD, (count, 3)).clip(-0.7, 0.7))
    bend[:, 0] = 0.0  # about the hand's own length that would be roll
    rotation = quat_multiply(quat_from_axis_angle(roll), quat_multiply(upright, quat_from_axis_angle(bend)))
    return torch.cat((position, rotation), dim=-1)


def draw_motion(
    subject: Subject, offer: Tensor, num_frames: int, fps: float, rng: np.random.Generator
) -> Tensor | None:
    """Wrist poses (T, 7) float64 that end at the offer (7,), or None where the arm would not reach.

    The wrist moves in two to four overlapping or separate movements, then stays for the last `HOLD_SHARE` of the frames
    but for sway and tremor.
    """
    times = np.arange(num_frames) / fps
    moving = (1 - HOLD_SHARE) * times[-1]
    count = int(rng.integers(2, 5))
    start, duration = _schedule(count, moving, subject.hesitation, rng)
    length = subject.speed * duration * rng.lognormal(0.0, 0.15, count)
    heading = rng.normal(size=(count, 3)) * (1.0, 1.0, 0.8)
    heading[-1, 0] = -2.0 * abs(heading[-1, 0])  # the last movement holds the object out to the robot
    step = length[:, None] * heading / np.linalg.norm(heading, axis=1, keepdims=True)
    turn = rng.normal(0.0, subject.turning / np.sqrt(3 * count), (count, 3))
    done = minimum_jerk((times[:, None] - start) / duration)  # (T, count)
    left = torch.from_numpy((1 - done) @ np.concatenate((step, turn), axis=1))  # what is still to come, (T, 6)
    sway = torch.from_numpy(_sway(times, rng)) * torch.tensor([subject.tremor] * 3 + [3 * subject.tremor] * 3)
    rotation = quat_multiply(quat_from_axis_angle(sway[:, 3:] - left[:, 3:]), offer[3:].expand(num_frames, 4))
    wrist = torch.cat((offer[:3] - left[:, :3] + sway[:, :3], rotation), dim=-1)
    return wrist if within_reach(subject, wrist).all() else None


def minimum_jerk(phase: Numbers) -> Numbers:
    """Part of a movement from rest to rest that is done at a phase; 0 before 0, 1 after 1 (Flash and Hogan 1985)."""
    s = phase.clip(0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s**2)


def _schedule(count: int, moving: float, hesitation: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Start and duration (count,) of movements that fill `moving` seconds, with overlaps and pauses between them."""
    duration = rng.uniform(0.7, 1.3, count)
    gap = np.where(
        rng.random(count - 1) < hesitation, rng.uniform(0.1, 0.4, count - 1), -rng.uniform(0.1, 0.3, count - 1)
    )
    start = np.concatenate(([0.0], np.cumsum(duration[:-1] + gap)))
    scale = moving / (start[-1] + duration[-1])
    return start * scale, duration * scale


def _sway(times: NDArray, rng: np.random.Generator) -> NDArray:
    """(T, 6) of amplitude about 1: drift of a few tenths of a hertz, and a tremor a twentieth as large at 5 to 9 Hz."""
    out = np.zeros((len(times), 6))
    for low, high, amplitude in ((0.15, 0.6, 0.7), (0.15, 0.6, 0.5), (5.0, 9.0, 0.05)):
        frequency, phase = rng.uniform(low, high, 6), rng.uniform(0, 2 * np.pi, 6)
        out += amplitude * np.sin(2 * np.pi * frequency * times[:, None] + phase)
    return out
