"""Trials of a store on their way into another one."""

from __future__ import annotations

from typing import Any

import torch

from dexh2r_gym.replay import Replay, StoredObject, Trial


def trial_of(replay: Replay, **changes: Any) -> Trial:
    """What was recorded of a replay, without demonstration and sensors, as a trial to be written."""
    recorded: dict[str, Any] = {
        "subject": replay.subject,
        "object": replay.object,
        "side": replay.side,
        "split": replay.split,
        "fps": replay.fps,
        **{key: getattr(replay, key).numpy() for key in ("object_pose", "giver", "hand_start", "goal_free")},
    }
    return Trial(**(recorded | changes))


def object_of(replay: Replay) -> StoredObject:
    """The replay's object, of the library, with its goals."""
    return StoredObject(torch.cat((replay.goal_pose, replay.goal_joints), dim=-1).numpy())
