"""Trials of a store and their objects, as stored to the last bit, on their way into another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.replay.replay import Trial
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.replay.write import StoredObject


def trial_again(store: ReplayStore, index: int, **changes: Any) -> Trial:
    """Trial number `index` of the store, with the same id; changes: fields that are to be other.

    Its goals are those of its object in `objects_again`, unless they are its own or changed.
    """
    replay, goals = store[index], store.goals_of(index)
    fields: dict[str, Any] = {
        "subject": replay.subject,
        "object": replay.object,
        "side": replay.side,
        "split": replay.split,
        "fps": replay.fps,
        "object_pose": store.frames("object_pose", index),
        "giver": store.frames("giver", index),
        "hand_start": replay.hand_start.numpy(),
        "goal_free": replay.goal_free.numpy(),
        "demo": store.frames("hand_state", index) if replay.has_demo else None,
        "grasp_begin": replay.grasp_begin,
        "has_giver": replay.has_giver,
        "number": int(replay.id.rsplit("/", 1)[1]),
    }
    if "goals" not in changes and not np.array_equal(goals, store.goals_of(_first_trial(store, replay.object))):
        fields["goals"] = goals
    if "sensors" not in changes:
        fields["sensors"] = {name: replay.sensor(name).numpy() for name in replay.sensors}
        fields["calibration"] = replay.calibration
    return Trial(**(fields | changes))


def objects_again(store: ReplayStore, more: Mapping[str, NDArray] | None = None) -> dict[str, StoredObject]:
    """The objects of the store with the goals of their first trial, and more of them (n, 29) by name of the object."""
    used, out = {info.object for info in store.infos}, {}
    for name in store.object_names:
        goals = store.goals_of(_first_trial(store, name)) if name in used else None
        if goals is not None and more is not None:
            goals = joined(goals, more[name])
        obj, own = store.object_model(name), store.carries(name)
        out[name] = StoredObject(goals, obj.parts, obj.mass, obj.metadata) if own else StoredObject(goals)
    return out


def joined(goals: NDArray, more: NDArray) -> NDArray:
    """Goals (G, 29) and more of them, as many as there may be."""
    return np.concatenate((goals, more))[:MAX_GOALS]


def _first_trial(store: ReplayStore, name: str) -> int:
    """The number of an object's first trial."""
    return next(i for i, info in enumerate(store.infos) if info.object == name)
