"""More goal grasps for trials: proposals that are takeable, beside those that a store has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dexh2r_gym.alignment import START_DISTANCE, nearest_goal
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import free_of_giver
from dexh2r_gym.grasps.generators import Proposals
from dexh2r_gym.grasps.make import MAX_APPROACH_DEPTH, MAX_DEPTH, approach_depth
from dexh2r_gym.grasps.scores import grasp_depth
from dexh2r_gym.grasps.stability import RELEASED, displacements, is_stable
from dexh2r_gym.replay import Replay, ReplayError, ReplayStore, Trial, regoal, write_store
from dexh2r_gym.replay.regoal import add_goals
from dexh2r_gym.replay.validate import MAX_GOALS
from policies.frames import open_frames
from tests.test_replay import make_goals, make_trial, write
from tests.trials import object_of, trial_of


class Twenty:
    """Proposes the same grasps for everything, and counts how often."""

    asked = 0

    def propose(self, points: torch.Tensor, normals: torch.Tensor, *, num: int, seed: int) -> Proposals:
        self.asked += 1
        rows = torch.from_numpy(make_goals(num, seed)).float()
        return Proposals(rows[:, :7], rows[:, 7:])


@pytest.fixture
def twenty(monkeypatch: pytest.MonkeyPatch) -> Twenty:
    """All grasps are takeable but the last five."""
    generator = Twenty()
    regoal._generator.cache_clear()
    monkeypatch.setattr(regoal, "load_generator", lambda name: generator)
    monkeypatch.setattr(regoal, "takeable", lambda obj, pose, joints, num_threads: (pose[:-5], joints[:-5]))
    return generator


def trial(*pair, **changes) -> Trial:
    """A made-up trial whose giver keeps the shape of the hand."""
    made = make_trial(*pair, **changes)
    made.giver[:, 51:] = made.giver[0, 51:]
    return made


def written(path: Path) -> Path:
    pairs = ((1, "cup", "train", 40), (1, "cup", "train", 31), (2, "rod", "validation", 7), (3, "rod", "test", 2))
    return write(path, [trial(*pair) for pair in pairs])


def store_of(path: Path, *replays: Replay) -> Path:
    """Replays of `mini` with their demonstrations as a store of their own."""
    return write_store(
        path,
        [trial_of(replay, demo=replay.demo.numpy()) for replay in replays],
        {replay.object: object_of(replay) for replay in replays},
        licence="CC0-1.0",
        provenance={},
    )


def make(store: Path, out: Path, **options) -> ReplayStore:
    return ReplayStore(add_goals(store, out, generator="twenty", workers=1, progress=False, **options))


def test_old_goals_come_first_and_trials_stay_as_they_are(twenty: Twenty, tmp_path: Path) -> None:
    old = ReplayStore(written(tmp_path / "old.zarr"))
    new = make(old.path, tmp_path / "new.zarr.zip", num=20, seed=3)
    changed = {key for key, digest in old.attrs["sha256"].items() if new.attrs["sha256"][key] != digest}
    assert changed == {"data/goal_free", "goals", "meta/goals_count", "meta/goals_begin"}
    assert new.infos == old.infos
    fifteen = make_goals(20, 3)[:15].astype(np.float32)
    for i, replay in enumerate(old):
        had = len(replay.goal_pose)
        goals = new.goals_of(i)
        np.testing.assert_array_equal(goals[:had], old.goals_of(i))
        np.testing.assert_array_equal(goals[had:], fifteen[: MAX_GOALS - had])
        assert len(goals) == min(had + 15, MAX_GOALS)
        assert torch.equal(new[i].goal_free[:, :had], replay.goal_free)
    assert new.attrs["provenance"] == {
        "made by": "test", "proposals": 20, "proposed_by": "twenty", "proposals_seed": 3
    }  # fmt: skip
    assert [new.object_model(name).mass for name in new.object_names] == [0.4, 0.1]
    assert not list(tmp_path.glob("*.partial"))
    assert not list(new.problems())


def test_a_new_goal_is_free_where_it_is_clear_of_the_giver(twenty: Twenty, tmp_path: Path) -> None:
    replay = ReplayStore.open("mini").replay("s00/hammer/000")
    old = store_of(tmp_path / "old.zarr", replay)
    new = make(old, tmp_path / "new.zarr", num=40)[0]
    giver = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
    free = free_of_giver(new.goal_pose, new.goal_joints, new.object_pose, giver, new.giver)
    assert torch.equal(new.goal_free[:, 64:], free[:, 64:])
    assert 0 < int(free[:, 64:].sum()) < free[:, 64:].numel()
    assert torch.equal(new.demo, ReplayStore(old)[0].demo)


def test_trials_with_goals_of_their_own_keep_them(twenty: Twenty, tmp_path: Path) -> None:
    trials = [trial(1, "cup", "train", 9), trial(2, "cup", "test", 8, goals=make_goals(7, 9), goal_free=None)]
    old = ReplayStore(write(tmp_path / "old.zarr", trials))
    new = make(old.path, tmp_path / "new.zarr", num=20)
    assert [len(replay.goal_pose) for replay in new] == [20, 22]
    for i in (0, 1):
        np.testing.assert_array_equal(new.goals_of(i)[: len(old.goals_of(i))], old.goals_of(i))


def test_killed_it_goes_on(twenty: Twenty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = written(tmp_path / "old.zarr")
    whole = make(old, tmp_path / "whole.zarr.zip", num=20).path.read_bytes()
    assert twenty.asked == 2
    takeable, calls = regoal.takeable, []

    def dies(obj, *arguments, **options):
        calls.append(obj.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return takeable(obj, *arguments, **options)

    monkeypatch.setattr(regoal, "takeable", dies)
    out = tmp_path / "new.zarr.zip"
    with pytest.raises(KeyboardInterrupt):
        make(old, out, num=20)
    assert not out.exists()
    with pytest.raises(ReplayError, match="proposals was 20, is 21"):
        make(old, out, num=21)
    assert make(old, out, num=20).path.read_bytes() == whole
    assert calls == ["cup", "rod", "rod"]


def test_real_proposals_are_takeable_whatever_the_number_of_processes(tmp_path: Path) -> None:
    mini = ReplayStore.open("mini")
    replays = [mini.replay(id) for id in ("s00/hammer/000", "s06/thermos/000")]
    old = store_of(tmp_path / "old.zarr", *replays)
    one, two = (
        add_goals(old, tmp_path / f"{n}.zarr.zip", generator="cvae", num=24, workers=n, progress=False) for n in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()
    for replay in ReplayStore(one):
        obj, pose, joints = replay.object_model, replay.goal_pose[64:].float(), replay.goal_joints[64:].float()
        assert 1 <= len(pose) <= 24
        assert grasp_depth(obj, pose, joints).max() < MAX_DEPTH
        assert approach_depth(obj, pose, joints).max() < MAX_APPROACH_DEPTH
        assert is_stable(displacements(obj, pose, joints, RELEASED)).all()


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    old, out = written(tmp_path / "old.zarr"), tmp_path / "new.zarr"
    with pytest.raises(ValueError, match=r"unknown generator 'cvea'.*cvae"):
        add_goals(old, out, generator="cvea")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        add_goals(old, out, num=0)
    with pytest.raises(FileExistsError):
        add_goals(old, old)
    with pytest.raises(ReplayError, match="no replays 'nothing'"):
        add_goals("nothing", out)
    assert not out.exists() and not list(tmp_path.glob("*.partial"))


def test_clouds_made_for_a_store_serve_the_same_trials_with_more_goals(twenty: Twenty, tmp_path: Path) -> None:
    replay = ReplayStore.open("mini")[0]
    old = store_of(tmp_path / "old.zarr", replay)
    new = make(old, tmp_path / "new.zarr", num=20)
    clouds = [
        open_frames(store, store.ids(), ("point_cloud",), tmp_path / "cache", counts=[3], num_points=16).read(
            torch.tensor([[0, 2]])
        )["point_cloud"]
        for store in (ReplayStore(old), new)
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert torch.equal(*clouds)


def near_another(replay: Replay) -> tuple[float, float]:
    """Part of the free goals that lie within 5 cm of the one that is nearest of the other free ones, by the paper's
    rule; and how many are free. Halfway and near the end."""
    parts, counts = [], []
    for frame in (replay.num_frames // 2, replay.num_frames - 10):
        goals = replay.goal_pose[replay.goal_free[frame]]
        others = ~torch.eye(len(goals), dtype=torch.bool)
        d = nearest_goal(goals, goals.expand(len(goals), -1, -1), others)[1]
        parts.append(float((d < START_DISTANCE["hard"]).double().mean()))
        counts.append(len(goals))
    return sum(parts) / 2, sum(counts) / 2


def test_mini500_has_the_trials_of_mini_and_goals_as_dense_as_is_said() -> None:
    mini, dense = (ReplayStore.open(name) for name in ("mini", "mini500"))
    assert dense.path.stat().st_size < 5e6
    dense.check()
    assert dense.infos == mini.infos
    assert dense.attrs["provenance"] == mini.attrs["provenance"] | {
        "proposals": 500, "proposed_by": "diffusion", "proposals_seed": 0
    }  # fmt: skip
    for key in ("object_pose", "giver", "hand_state"):
        np.testing.assert_array_equal(dense.column(key), mini.column(key))
    for i in range(len(mini)):
        np.testing.assert_array_equal(dense.goals_of(i)[:64], mini.goals_of(i))
    counts = [len(replay.goal_pose) for replay in dense]
    assert (min(counts), max(counts)) == (305, 512)
    said = {}
    for store in (mini, dense):
        by_object: dict[str, list[tuple[float, float]]] = {}
        for id in store.ids("test"):
            by_object.setdefault(store.info(id).object, []).append(near_another(store.replay(id)))
        said[store.path.name] = np.mean([np.mean(found, axis=0) for found in by_object.values()], axis=0)
    np.testing.assert_allclose(said["mini.zarr.zip"], [0.24, 26], rtol=0.02)
    np.testing.assert_allclose(said["mini500.zarr.zip"], [0.73, 157], rtol=0.02)
