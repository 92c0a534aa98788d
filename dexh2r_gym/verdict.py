"""Why an episode came out as it did: the frame that decided it and the reason in words, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dexh2r_gym.alignment import REACHED_DISTANCE, START_DISTANCE
from dexh2r_gym.envs.receive import DROP_DISTANCE, HOLD_TIME, LIFT_TIME, Phase
from dexh2r_gym.safety import QUASI_STATIC_LIMIT
from dexh2r_gym.types import GIVER_PARTS


def verdict(record: Mapping[str, Any]) -> tuple[int, str]:
    """The deciding frame of an episode (`run_folder.RECORD`) and why it ended as it did."""
    frames, approach, fps = len(record["d"]), int(record["approach_frames"]), float(record["fps"])
    outcome, release = str(record["outcome"]), int(record["release_frame"])
    if outcome == "NOT_REACHED":
        return _approach(record, approach - 1)
    if outcome == "DIVERGED":
        return frames - 1, "the physics of the handover became invalid"
    if outcome == "NOT_RELEASED":
        most = float(np.asarray(record["load"])[approach:, 2].max(initial=0.0))
        return frames - 1, (
            f"the giver did not let go: in {LIFT_TIME:g} s of lifting the robot never carried the object for long "
            f"enough (at most {most:.1f} N upwards)"
        )
    if outcome == "DROPPED":
        frame = min(release + round(float(record["drop_time"]) * fps), frames - 1)
        doing = Phase(int(record["phase"][frame])).name.lower()
        return frame, (
            f"dropped while {doing}: {float(record['drop_time']):.2f} s after the giver let go (frame {release}) the "
            f"object had moved by {100 * DROP_DISTANCE:g} cm in the hand"
        )
    return frames - 1, (
        f"held: the giver let go in frame {release}, and for {HOLD_TIME:g} s and a shake along six directions the "
        f"object moved by no more than {float(record['slip']):.1f} cm in the hand"
    )


def _approach(record: Mapping[str, Any], last: int) -> tuple[int, str]:
    """Of an episode that had no physical handover, whose last frame is given."""
    status, d = str(record["status"]), np.asarray(record["d"])[: last + 1]
    best = int(d.argmin())
    nearest = (
        f"nearest to a free goal in frame {best}, {100 * d[best]:.1f} cm" if np.isfinite(d[best]) else "no free goal"
    )
    if status == "REACHED":
        how = f"the palm came within {100 * REACHED_DISTANCE:g} cm of its goal"
        if d[last] >= REACHED_DISTANCE:
            how = "the hand stood still in a stable grasp of its own"
        return last, how
    if status == "DIVERGED":
        return last, "the physics became invalid"
    if status == "TIMEOUT_ALIGNMENT":
        return last, f"the recording ended {last - int(record['alignment_begin']) + 1} frames into alignment; {nearest}"
    start = 100 * START_DISTANCE[str(record["mode"])]
    return last, f"the recording ended before alignment, which begins below {start:g} cm; {nearest}"


def safety_words(record: Mapping[str, Any]) -> str:
    """The hardest touch of the giver's hand, in words."""
    peak = np.asarray(record["giver_peak"])
    frame, part = np.unravel_index(int(peak.argmax()), peak.shape)
    if peak[frame, part] <= 0:
        return "the giver's hand was never touched"
    limit = "within" if peak[frame, part] <= QUASI_STATIC_LIMIT else "above"
    phase = Phase(int(record["phase"][frame])).name.lower()
    return (
        f"the giver's {GIVER_PARTS[part]} was pressed with {peak[frame, part]:.0f} N in frame {frame} ({phase}), "
        f"{limit} the limit of {QUASI_STATIC_LIMIT:g} N"
    )
