"""Where the hand of a policy went in a run, as a store to learn from."""

import json

import numpy as np
import pytest
import torch

from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.visited import is_visited, keep_visited
from dexh2r_gym.run_folder import RunFolder
from policies import FunctionAgent
from policies.approach_data import ApproachWindows

NEEDS = ("agent_pos", "point_cloud")


def half_way(env, seed):
    """To the nearest goal; worlds with an odd number only to 20 cm from it."""

    def act(observation):
        hand, goal = (observation[key] for key in ("agent_pos", "goal_state"))
        stays = np.arange(len(hand)) % 2 * (np.linalg.norm((goal - hand)[:, :3], axis=1) < 0.2)
        return np.where(stays[:, None], hand, goal)

    return FunctionAgent(act)


half_way.env_options = {"obs_mode": "state_dict"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    evaluate(half_way, out=out, split="validation", backend="kinematic", num_envs=36, progress=False)
    return out


@pytest.fixture(scope="module")
def visited(run):
    return ReplayStore.open(keep_visited(run, run.parent / "visited.zarr.zip", progress=False))


def test_hand_and_object_are_as_they_were_up_to_alignment(run, visited):
    folder, mini = RunFolder(run), ReplayStore.open("mini")
    assert is_visited(visited) and not is_visited(mini)
    assert visited.attrs["provenance"]["visited_by"].startswith("half_way")
    assert len(visited) >= 30 and set(visited.ids()) <= set(mini.ids("validation"))
    cut = 0
    for replay in visited:
        record, old = folder.load_episode(replay.id), mini.replay(replay.id)
        frames, begin = replay.num_frames, int(record["alignment_begin"])
        assert frames == (len(record["depth"]) if begin < 0 else min(begin + 16, len(record["depth"])))
        cut += begin >= 0
        for key, value in (("hand_state", replay.demo), ("object_pose", replay.object_pose)):
            np.testing.assert_allclose(value, record[key][:frames], atol=1e-6)
        assert torch.equal(replay.giver, old.giver[:frames]) and torch.equal(replay.goal_free, old.goal_free[:frames])
        assert torch.equal(replay.goal_pose, old.goal_pose) and torch.equal(replay.hand_start, old.hand_start)
    assert 12 < cut < len(visited)
    visited.check()


def test_windows_show_the_hand_as_it_was_and_what_the_expert_does_from_there(visited, tmp_path):
    windows = ApproachWindows(visited, "validation", observed=2, ahead=4, needs=NEEDS, cache=tmp_path)
    batch = windows.batch(400, torch.Generator().manual_seed(0))
    hands = torch.cat([replay.demo for replay in visited]).float()
    now = batch["agent_pos"][:, -1]
    apart = torch.cdist(now, hands, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)
    assert apart.max() < 1e-5  # none is shifted
    far = (batch["goal_pos"][:, -1] - now)[:, :3].norm(dim=-1)
    assert far.max() > 0.2
    nearer = far - (batch["goal_pos"][:, -1] - batch["future"][:, -1])[:, :3].norm(dim=-1)
    assert (nearer > 0.02).float().mean() > 0.9  # the expert goes on where the policy stood still
    assert batch["point_cloud"].shape == (400, 2, 1024, 3)


def test_where_alignment_has_taken_over_nothing_is_learned(visited, tmp_path):
    windows = ApproachWindows(visited, "validation", observed=2, ahead=4, needs=("agent_pos",), cache=tmp_path)
    batch = windows.batch(4000, torch.Generator().manual_seed(0))
    far = (batch["goal_pos"][:, -1] - batch["agent_pos"][:, -1])[:, :3].norm(dim=-1)
    assert (far > 0.05).float().mean() > 0.95  # a hand that has just arrived is shown for three frames


def test_whom_the_goal_is_told_learns_of_the_nearest_one_too(visited, tmp_path):
    windows = ApproachWindows(
        visited, "validation", observed=2, ahead=4, needs=("agent_pos", "goal_pos"), cache=tmp_path
    )
    batch = windows.batch(64, torch.Generator().manual_seed(0))
    assert torch.isfinite(batch["goal_pos"]).all()


def test_what_cannot_be_learned_from_is_refused(run, visited, tmp_path):
    with pytest.raises(ValueError, match="nothing to imitate"):
        ApproachWindows(visited, "validation", observed=1, ahead=1, needs=("agent_pos",), labels="demonstrations")
    with pytest.raises(FileExistsError, match="overwrite"):
        keep_visited(run, visited.path, progress=False)
    other = tmp_path / "other"
    other.mkdir()
    config = RunFolder(run).config
    (other / "config.json").write_text(json.dumps(config | {"store_sha256": "0" * 64}))
    with pytest.raises(ReplayError, match="has changed since"):
        keep_visited(other, tmp_path / "out.zarr.zip", progress=False)
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ReplayError, match="no trial"):
        keep_visited(other, tmp_path / "out.zarr.zip", progress=False)
    assert not (tmp_path / "out.zarr.zip").exists()
    record = RunFolder(run).load_episode(visited.ids()[0])
    RunFolder(other).save_episode(record | {"recording_frame": np.arange(len(record["depth"]))})
    with pytest.raises(ReplayError, match="did not play their recording"):
        keep_visited(other, tmp_path / "out.zarr.zip", progress=False)


def test_the_command_says_how_to_go_on(run, tmp_path, dexh2r, capsys):
    out = tmp_path / "visited.zarr.zip"
    assert dexh2r(f"replays visited {run} {out}") == 0
    assert f"--replays STORE {out}" in capsys.readouterr().out and is_visited(ReplayStore.open(out))
