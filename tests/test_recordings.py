"""Trials as the environment holds them: rows of all trials one after another, goals padded to the widest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dexh2r_gym.envs.recordings import Recordings
from dexh2r_gym.replay import ReplayStore, write_store
from tests.trials import object_of, trial_of


@pytest.fixture
def store(tmp_path: Path) -> ReplayStore:
    """Three trials of the embedded store, the second with three goals of its own."""
    mini = ReplayStore.open("mini")
    trials, objects = [], {}
    for index, own in ((0, None), (5, [4, 1, 2]), (9, None)):
        replay = mini[index]
        objects[replay.object] = stored = object_of(replay)
        changes = {"goals": stored.goals[own], "goal_free": replay.goal_free[:, own].numpy()} if own else {}
        trials.append(trial_of(replay, split="train", **changes))
    return ReplayStore.open(write_store(tmp_path / "a.zarr", trials, objects, licence="CC0-1.0", provenance={}))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2)])
def test_goals_of_all_trials_stay_in_place_whatever_is_loaded_first(store: ReplayStore, order: tuple[int, ...]) -> None:
    recordings = Recordings(store)
    for number in order:
        recordings.indices([store.infos[number].id])
    for place, number in enumerate(order):
        replay, frames = store[number], slice(int(recordings.offset[place]), None)
        count = len(replay.goal_pose)
        rows = recordings.goal_free[frames][: replay.num_frames]
        assert torch.equal(rows[:, :count], replay.goal_free) and not rows[:, count:].any()
        assert torch.equal(recordings.goal_pose[place, :count], replay.goal_pose)
        assert torch.equal(recordings.goal_joints[place, :count], replay.goal_joints)
        assert (recordings.goal_pose[place, count:] == replay.goal_pose[0]).all()
        assert torch.equal(recordings.object_pose[frames][: replay.num_frames], replay.object_pose)
