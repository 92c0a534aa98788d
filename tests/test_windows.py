"""Windows of frames: what they hold, where they begin and end, and the clouds made for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.windows import ReplayWindows
from dexh2r_gym.rotations import pose_apply, pose_inverse
from tests.test_replay import make_trial, write

FRAMES = (40, 31, 16, 7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ReplayStore:
    trials = [make_trial(subject, "cup", "train", frames) for subject, frames in zip((1, 2, 3, 4), FRAMES, strict=True)]
    return ReplayStore.open(write(tmp_path_factory.mktemp("windows") / "a.zarr.zip", trials, resolution=None))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 5), st.integers(0, 5))
def test_every_window_of_every_trial_is_there_once(store: ReplayStore, length: int, before: int, after: int) -> None:
    windows = ReplayWindows(store, length=length, pad=(before, after), keys=("object_pose",))
    batch = windows[torch.arange(len(windows))]
    at = 0
    for number, replay in enumerate(store):
        pose = replay.object_pose.float()
        for first in range(-before, replay.num_frames + after - length + 1):
            frames = torch.arange(first, first + length).clamp(0, replay.num_frames - 1)
            torch.testing.assert_close(batch["object_pose"][at], pose[frames], atol=1e-6, rtol=0)
            assert batch["trial"][at] == number
            at += 1
    assert at == len(windows)


def test_windows_with_hand_states_leave_out_trials_without(store: ReplayStore) -> None:
    windows = ReplayWindows(store, length=7, keys=("hand_state", "giver"))
    assert set(windows[np.arange(len(windows))]["trial"].tolist()) == {0, 1, 3}
    one = windows[len(windows) - 1]
    replay = store[3]
    assert replay.demo is not None and torch.equal(one["hand_state"].double(), replay.demo)
    assert torch.equal(one["giver"].double(), replay.giver)


def test_clouds_lie_on_the_object_and_follow_it(store: ReplayStore) -> None:
    windows = ReplayWindows(store, length=5, num_points=300, keys=("object_pose", "cloud"))
    batch = windows[[3, 40, 60]]
    assert batch["cloud"].shape == (3, 5, 300, 3)
    local = pose_apply(pose_inverse(batch["object_pose"])[..., None, :], batch["cloud"])
    assert local[:, 0].sub(local[:, 4]).abs().max() < 1e-5  # the same points of the object in every frame
    cup = store.object_model("cup")
    assert cup.signed_distance(local).abs().max() < 1e-4
    again = ReplayWindows(store, length=5, num_points=300, keys=("object_pose", "cloud"))[40]
    assert torch.equal(again["cloud"], batch["cloud"][1])
    other = ReplayWindows(store, length=5, num_points=300, keys=("cloud",), seed=1)[40]
    assert not torch.equal(other["cloud"], again["cloud"])


def test_recorded_clouds_are_read_where_there_are_any(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(-1, 1, (frames, 64, 3)) for frames in (12, 9)]
    trials = [make_trial(frames=len(cloud), sensors={"cloud": cloud}) for cloud in clouds]
    path = write(tmp_path / "a.zarr", trials)
    windows = ReplayWindows(str(path), length=4, pad=(1, 0), num_points=20)
    batch = windows[[0, 11]]
    for got, cloud, frames in (
        (batch["cloud"][0], clouds[0], [0, 0, 1, 2]),
        (batch["cloud"][1], clouds[1], [0, 1, 2, 3]),
    ):
        expected = torch.from_numpy(cloud[frames]).float()
        for frame in range(4):
            assert (got[frame][:, None] - expected[frame]).norm(dim=-1).amin(-1).max() < 1e-4
    assert torch.equal(windows[11]["cloud"], batch["cloud"][1])
    made = ReplayWindows(str(path), length=4, num_points=20, recorded=False)[0]["cloud"]
    assert made.shape == (4, 20, 3) and not torch.equal(made, windows[1]["cloud"])


def test_a_data_loader_fetches_batches(store: ReplayStore) -> None:
    windows = ReplayWindows(store, length=8, num_points=32)
    loader = DataLoader(windows, batch_size=16, shuffle=True, collate_fn=lambda batch: batch)
    seen = sum(len(batch["trial"]) for batch in loader)
    assert seen == len(windows)


def test_what_cannot_be_drawn_is_refused(store: ReplayStore) -> None:
    with pytest.raises(
        ReplayError, match="unknown keys clouds; keys of a window: object_pose, giver, hand_state, cloud"
    ):
        ReplayWindows(store, keys=("clouds",))
    with pytest.raises(ReplayError, match="no trial of split 'train' has a window of 41 frames"):
        ReplayWindows(store, length=41)
    with pytest.raises(ReplayError, match="no trial of split 'test'"):
        ReplayWindows(store, "test")
    with pytest.raises(ReplayError, match="no recorded clouds; recorded=False makes them"):
        ReplayWindows(store, recorded=True)
    with pytest.raises(ValueError, match="num_points must be 1 to 4096"):
        ReplayWindows(store, num_points=5000)
    with pytest.raises(IndexError, match="numbered 0 to"):
        ReplayWindows(store)[10**6]
