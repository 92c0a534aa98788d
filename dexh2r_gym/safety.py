"""How hard and how fast the robot touches the giver's hand, against the limits of ISO/TS 15066 (collaborative robots).

`safe` of the paper is about the object alone; `safe_force` stands beside it. ISO/TS 15066:2016, annex A, table A.2: a
quasi-static contact may press a hand or its fingers with at most 140 N, a transient one (shorter than 0.5 s, the hand
free to give way) with twice that. Table A.3: a hand weighs 0.6 kg and gives way by 75 N/mm, from which (A.6) follows
how fast a robot of some mass may hit it. Its limits of pressure are not judged here: contacts have no area.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

QUASI_STATIC_LIMIT = 140.0  # N
TRANSIENT_LIMIT = 280.0  # N
TRANSIENT_TIME = 0.5  # s
GIVER_HAND_MASS, GIVER_HAND_STIFFNESS = 0.6, 75_000.0  # kg, N/m
ROBOT_MASS = 1.7  # kg, of the hand as it is modelled
FORCES = (20.0, 35.0, 70.0, QUASI_STATIC_LIMIT, TRANSIENT_LIMIT)  # N, thresholds of the sensitivity table


def transient_speed_limit(robot_mass: float = ROBOT_MASS) -> float:
    """How fast, m/s, a robot of so many kg may hit a hand that is free to give way: ISO/TS 15066 (A.6)."""
    reduced = 1.0 / (1.0 / GIVER_HAND_MASS + 1.0 / robot_mass)
    return TRANSIENT_LIMIT / math.sqrt(reduced * GIVER_HAND_STIFFNESS)


def safety_metrics(peak: Tensor, impulse: Tensor, speed: Tensor, length: Tensor, dt: float) -> dict[str, Tensor]:
    """Contacts of the robot with the giver's hand in B episodes, padded to T frames; the padding is not read.

    Args:
        peak: (B, T, 6) N, greatest force of each frame on each of `types.GIVER_PARTS`. impulse: (B, T, 6) N s.
        speed: (B, T) m/s, of the robot relative to the giver's hand where they touch. length: (B,) frames. dt: s.

    Returns:
        giver_peak (B, 6) N; giver_impulse (B, 6) N s; contact_time (B, 6) s, the longest contact without a break;
        contact_speed (B,) m/s, the greatest in a frame in which a contact begins, 0 where there is none; safe_force
        (B,) bool: no part was ever pressed with more than `QUASI_STATIC_LIMIT`, however short.
    """
    frames = peak.shape[1]
    counted = torch.arange(frames, device=peak.device) < length[:, None]
    touched = (peak > 0) & counted[..., None]
    run, longest = torch.zeros_like(peak[:, 0]), torch.zeros_like(peak[:, 0])
    for t in range(frames):
        run = (run + 1) * touched[:, t]
        longest = torch.maximum(longest, run)
    begins = touched & ~torch.cat((torch.zeros_like(touched[:, :1]), touched[:, :-1]), dim=1)
    worst = torch.where(counted[..., None], peak, 0.0).amax(1)
    return {
        "giver_peak": worst,
        "giver_impulse": torch.where(counted[..., None], impulse, 0.0).sum(1),
        "contact_time": dt * longest,
        "contact_speed": torch.where(begins.any(-1), speed, 0.0).amax(-1),
        "safe_force": (worst <= QUASI_STATIC_LIMIT).all(-1),
    }
