"""Stores of version 1 become stores of today with the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from dexh2r_gym.replay import ReplayError, ReplayStore, Trial
from dexh2r_gym.replay.migrate import migrate
from tests.test_replay import BOX, make_goals, make_trial

GOALS = {"cup": make_goals(5, 1), "rod": make_goals(64, 2)}


def version_1(folder: Path) -> list[Trial]:
    """Write a store as release 0.1 did; the trials in it."""
    trials = [
        make_trial(s, name, split, n, goal_free=np.random.default_rng(n).random((n, len(GOALS[name]))) < 0.5)
        for s, name, split, n in ((1, "cup", "train", 40), (3, "rod", "test", 9))
    ]
    root = zarr.create_group(folder, zarr_format=3)
    root.attrs.update(
        {
            "format": "dexh2r-replays", "version": 1, "objects": ["cup", "rod"], "licence": "CC0-1.0",
            "provenance": {"made by": "test"}, "seed": 3,
        }
    )  # fmt: skip

    def put(key: str, value, dtype: str) -> None:
        root.create_array(key, data=np.asarray(value, dtype=dtype), config={"write_empty_chunks": True})

    wide = [np.pad(t.goal_free, ((0, 0), (0, 64 - t.goal_free.shape[1]))) for t in trials if t.goal_free is not None]
    demos = [np.zeros((len(t.giver), 28)) if t.demo is None else t.demo for t in trials]
    put("data/object_pose", np.concatenate([t.object_pose for t in trials]), "float32")
    put("data/giver", np.concatenate([t.giver for t in trials]), "float32")
    put("data/hand_state", np.concatenate(demos), "float32")
    put("data/goal_free", np.concatenate(wide), "bool")
    put("meta/episode_ends", [40, 49], "int64")
    for key, dtype, values in (
        ("subject", "int32", [1, 3]), ("object", "int32", [0, 1]), ("number", "int32", [0, 2]),
        ("side", "uint8", [1, 1]), ("split", "uint8", [0, 2]), ("fps", "float32", [30, 30]),
        ("grasp_begin", "int32", [37, -1]), ("has_demo", "bool", [True, False]),
        ("hand_start", "float32", [t.hand_start for t in trials]),
    ):  # fmt: skip
        put(f"meta/{key}", values, dtype)
    for name, goals in GOALS.items():
        put(f"objects/{name}/goals", goals, "float32")
        put(f"objects/{name}/part_vertices", BOX, "float32")
        put(f"objects/{name}/part_ends", [8], "int64")
        root[f"objects/{name}"].attrs.update({"mass": 0.4, "metadata": {}})
    return trials


def test_values_are_kept(tmp_path: Path) -> None:
    trials = version_1(tmp_path / "old.zarr")
    with pytest.raises(ReplayError, match="dexh2r replays migrate"):
        ReplayStore.open(tmp_path / "old.zarr")
    store = ReplayStore.open(migrate(tmp_path / "old.zarr", tmp_path / "new.zarr.zip"))
    store.check()
    assert store.ids() == ["s01/cup/000", "s03/rod/002"] and store.giver_model == "open"
    assert (store.attrs["seed"], store.attrs["licence"]) == (3, "CC0-1.0")
    assert store.attrs["provenance"] == {"made by": "test"}
    for trial, replay in zip(trials, store, strict=True):
        assert torch.equal(replay.giver, torch.from_numpy(trial.giver.astype(np.float32)).double())
        assert trial.goal_free is not None and torch.equal(replay.goal_free, torch.from_numpy(trial.goal_free))
        goals = torch.from_numpy(GOALS[trial.object].astype(np.float32)).double()
        torch.testing.assert_close(replay.goal_pose, goals[:, :7], atol=1e-6, rtol=0)
        assert (replay.demo is None) == (trial.demo is None) and replay.has_giver
    assert store[0].object_model.mass == 0.4


@pytest.mark.parametrize("key", ["data/giver", "meta/side", "objects/cup/goals"])
def test_a_damaged_store_leaves_nothing(tmp_path: Path, key: str) -> None:
    version_1(tmp_path / "old.zarr")
    (tmp_path / "old.zarr" / key / "zarr.json").write_text("{")
    with pytest.raises(ReplayError, match=r"old\.zarr"):
        migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.zarr"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("meta/object", [0, 2], "meta/object: allowed: 0 to 1"),
        ("meta/split", [0, 9], "meta/split: allowed: 0 to 2"),
        ("meta/episode_ends", [40, 48], "arrays of different lengths"),
        ("meta/episode_ends", [49, 49], "trial 1 ends at frame 49, less than 2 frames after"),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, key: str, value: list[int], message: str) -> None:
    version_1(tmp_path / "old.zarr")
    zarr.open_array(tmp_path / "old.zarr" / key, mode="r+")[:] = np.array(value)
    with pytest.raises(ReplayError, match=message):
        migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()


def test_another_format_or_version_is_refused(tmp_path: Path) -> None:
    version_1(tmp_path / "old.zarr")
    new = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    with pytest.raises(ReplayError, match="expected 'dexh2r-replays', version 1; found 'dexh2r-replays', version 2"):
        migrate(new, tmp_path / "newer.zarr")
