"""Exported episodes, read back by the libraries they are for, are those that were played, and can be played again."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

import policies
from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import rollout
from dexh2r_gym.export.episodes import plan, play
from dexh2r_gym.export.lerobot import export_lerobot
from dexh2r_gym.export.minari import export_minari, read_minari
from dexh2r_gym.export.statistics import QUANTILES
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.run_folder import RunFolder
from tests.test_env import vector

FAST = {"backend": "kinematic", "mode": "easy", "split": "validation"}
PICTURES = {"obs_mode": "rgbd+point_cloud+state", "image_size": (64, 48), "cameras": ("kinect_0", "wrist_0")}


def planned(agent="replay", **options):
    return plan(find_agent(agent), agent_name=agent, **(FAST | {"episodes": 3} | options))


def played(what, num_envs=2):
    return list(play(what, num_envs=num_envs, progress=False))


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def same_episodes(some, others):
    for a, b in zip(some, others, strict=True):
        assert (a.replay, a.seed, a.scores) == (b.replay, b.seed, b.scores)
        for name in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
            same(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("agent", ["replay", "random"])
def test_episodes_do_not_depend_on_how_many_worlds_run_side_by_side(agent):
    options = {"obs_mode": "point_cloud+state", "num_points": 32, "giver": {"hesitation": 0.5}}
    what = planned(agent, **options)
    episodes = played(what, 1)
    assert tuple(episode.replay for episode in episodes) == what.ids
    same_episodes(episodes, played(what, 3))
    for episode in episodes:
        assert len(episode.observations["state"]) == len(episode) + 1 == len(episode.infos["depth"])
        assert not (episode.terminations | episode.truncations)[:-1].any()
        assert (episode.terminations | episode.truncations)[-1]
        assert episode.success == (agent == "replay")


def test_they_are_what_an_evaluation_records(tmp_path):
    """The same seeds, the same hand states in every frame."""
    what = planned(obs_mode="state_dict")
    folder = RunFolder(tmp_path / "run")
    folder.start({}, resume=False)
    env = vector(2, autoreset=AutoresetMode.DISABLED, **FAST)
    rollout(policies.load("replay", env), env, what.ids, folder, seed=what.seed)
    env.close()
    for episode in played(what):
        record = folder.load_episode(episode.replay)
        np.testing.assert_array_equal(record["hand_state"].astype(np.float32), episode.observations["agent_pos"])
        assert str(record["status"]) == episode.scores["status"]


def test_one_agent_in_two_environments_at_once_acts_as_it_does_alone():
    """A policy that keeps what belongs to an episode mixes them up, silently: huggingface/lerobot#4327."""
    shared = policies.load("flow")
    options = FAST | {"agent_name": "flow", "episodes": 2} | policies.env_options("flow")
    plans = [plan(shared, **options), plan(shared, **(options | {"split": "test"}))]
    alone = [played(what) for what in plans]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(played, plans))
    for a, b in zip(alone, together, strict=True):
        same_episodes(a, b)


def test_minari_reads_what_was_played_and_its_environment_plays_it_again(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    what = planned(backend="mujoco", obs_mode="state_dict", speed_limits=(1.5, 4.0, 4.0))
    folder = export_minari(what, tmp_path, num_envs=2, progress=False)
    assert folder == tmp_path / "dexh2r/mini-validation-replay-v0"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert list(minari.list_local_datasets()) == ["dexh2r/mini-validation-replay-v0"]
    dataset = minari.load_dataset("dexh2r/mini-validation-replay-v0")
    expected = played(what, 3)
    assert dataset.total_episodes == 3 and dataset.total_steps == sum(map(len, expected))
    about = dataset.storage.metadata
    assert about["licence"] == "CC0-1.0" and about["algorithm_name"] == "replay"
    assert about["dexh2r"]["source"] == "mini.zarr.zip" and about["dexh2r"]["split"] == "validation"
    assert about["requirements"][0].startswith("dexh2r-gym==")
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space and env.unwrapped.vector.options == what.options
    for found, episode, metadata in zip(
        dataset, expected, dataset.storage.get_episode_metadata(dataset.episode_indices), strict=True
    ):
        for name in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
            same(getattr(found, name), getattr(episode, name))
        assert metadata["task"] == episode.task and bool(metadata["succ"]) == episode.success
        assert all(dataset.action_space.contains(action) for action in found.actions)
        observation, info = env.reset(seed=metadata["seed"], options=dict(metadata["options"]))
        same(observation, {key: value[0] for key, value in found.observations.items()})
        for t, action in enumerate(found.actions):
            observation, reward, terminated, truncated, info = env.step(action)
            same(observation, {key: value[t + 1] for key, value in found.observations.items()})
            assert (reward, terminated, truncated) == (
                found.rewards[t],
                found.terminations[t],
                found.truncations[t],
            )
        assert info["status"] == metadata["status"]
    env.close()


def test_minari_keeps_pictures_and_clouds_bit_for_bit(tmp_path):
    pytest.importorskip("minari")
    what = planned(episodes=1, **PICTURES)
    (expected,) = played(what)
    (found,) = read_minari(export_minari(what, tmp_path, dataset_id="mine/pictures-v3", progress=False))
    same(found.observations, expected.observations)
    assert found.observations["image_wrist_0"].dtype == np.uint8
    (lossy,) = read_minari(export_minari(what, tmp_path, dataset_id="mine/lossy-v0", jpeg=True, progress=False))
    error = lossy.observations["image_wrist_0"].astype(float) - expected.observations["image_wrist_0"]
    assert 0 < np.abs(error).mean() < 10


@pytest.fixture(scope="module")
def lerobot_data(tmp_path_factory):
    pytest.importorskip("pyarrow")
    what = planned(**PICTURES)
    out = tmp_path_factory.mktemp("lerobot") / "data"
    return export_lerobot(what, out, num_envs=2, progress=False), played(what, 3)


def test_lerobot_files_hold_what_was_played(lerobot_data):
    """Read with pyarrow and ffmpeg alone, by the published layout."""
    import pyarrow.parquet as pq

    root, expected = lerobot_data
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 30 and info["splits"] == {"validation": "0:3"}
    assert info["total_episodes"] == 3 and info["total_frames"] == sum(map(len, expected))
    assert info["features"]["action"]["names"][6:] == list(JOINT_NAMES)
    place = {"chunk_index": 0, "file_index": 0}
    frames = pq.read_table(root / info["data_path"].format(**place))
    films = {name: f for name, f in info["features"].items() if f["dtype"] == "video"}
    assert set(frames.column_names) | set(films) == set(info["features"])
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    pictures = {}
    for name in films:
        with imageio.get_reader(root / info["video_path"].format(video_key=name, **place), "ffmpeg") as film:
            pictures[name] = [np.array(picture) for picture in film]
    for number, (row, episode) in enumerate(zip(episodes, expected, strict=True)):
        assert row["episode_index"] == number and row["length"] == len(episode) and row["tasks"] == [episode.task]
        part = frames.slice(row["dataset_from_index"], row["length"]).to_pydict()
        assert set(part["episode_index"]) == {number}
        assert [tasks["task"][i] for i in part["task_index"]] == [episode.task] * len(episode)
        assert part["frame_index"] == list(range(len(episode)))
        np.testing.assert_allclose(part["timestamp"], np.arange(len(episode)) / 30, atol=1e-6)
        seen = {
            "observation.state": episode.observations["agent_pos"][:-1],
            "observation.environment_state": episode.observations["state"][:-1],
            "observation.point_cloud": episode.observations["point_cloud"][:-1],
            "action": episode.actions,
            "next.reward": episode.rewards.astype(np.float32),
        }
        for name, value in seen.items():
            same(np.array(part[name], dtype=np.float32), value)
        assert part["next.done"] == [False] * (len(episode) - 1) + [True]
        assert part["next.success"][-1] == episode.success
        for camera in ("kinect_0", "wrist_0"):
            key = f"videos/observation.images.{camera}"
            begin, end = (round(30 * row[f"{key}/{side}_timestamp"]) for side in ("from", "to"))
            shown = np.array(pictures[f"observation.images.{camera}"][begin:end], dtype=float)
            assert np.abs(shown - episode.observations[f"image_{camera}"][:-1]).mean() < 6
    about = json.loads((root / "meta/dexh2r.json").read_text())
    assert about["licence"] == "CC0-1.0" and [e["seed"] for e in about["episodes"]] == [e.seed for e in expected]


def test_statistics_are_those_of_all_frames(lerobot_data):
    root, expected = lerobot_data
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([episode.actions for episode in expected]).astype(float)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(np, name)(actions, axis=0), rtol=1e-9)
    for q in QUANTILES:
        np.testing.assert_allclose(stats["action"][f"q{round(100 * q):02d}"], np.quantile(actions, q, axis=0))
    assert stats["action"]["count"] == [len(actions)]
    pictures = np.concatenate([e.observations["image_kinect_0"][:-1, ::8, ::8] for e in expected]) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.images.kinect_0"]["mean"]), pictures.mean((0, 1, 2)))
    assert np.shape(stats["observation.images.kinect_0"]["std"]) == (3, 1, 1)
    assert np.shape(stats["observation.point_cloud"]["q50"]) == (3,)


def test_lerobot_reads_what_was_played(lerobot_data):
    """Where lerobot is installed: it wants another torch than we pin, so an environment of its own."""
    pytest.importorskip("lerobot")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root, expected = lerobot_data
    dataset = LeRobotDataset("local/handover", root=root, video_backend="pyav")
    assert dataset.num_episodes == 3 and len(dataset) == sum(map(len, expected)) and dataset.fps == 30
    frames = iter(range(len(dataset)))
    for episode in expected:
        for t in range(len(episode)):
            frame = dataset[next(frames)]
            assert frame["task"] == episode.task and frame["frame_index"] == t
            for name, key in (("state", "agent_pos"), ("environment_state", "state"), ("point_cloud", "point_cloud")):
                same(frame[f"observation.{name}"].numpy(), episode.observations[key][t])
            same(frame["action"].numpy(), episode.actions[t])
            assert frame["next.reward"] == np.float32(episode.rewards[t])
            picture = frame["observation.images.wrist_0"].numpy().transpose(1, 2, 0) * 255
            assert np.abs(picture - episode.observations["image_wrist_0"][t]).mean() < 6
    last = LeRobotDataset("local/handover", root=root, video_backend="pyav", episodes=[2])
    assert len(last) == len(expected[2])
    ahead = {"action": [0, 1 / 30, 2 / 30], "observation.images.kinect_0": [-1 / 30, 0]}
    window = LeRobotDataset("local/handover", root=root, video_backend="pyav", delta_timestamps=ahead)[4]
    same(window["action"].numpy(), expected[0].actions[4:7])


def test_many_files(tmp_path, monkeypatch):
    """Large data sets go into several files of frames, and each episode says where it is."""
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("dexh2r_gym.export.lerobot_files.DATA_MB", 0)
    monkeypatch.setattr("dexh2r_gym.export.lerobot_files.CHUNK_SIZE", 2)
    what = planned()
    root = export_lerobot(what, tmp_path / "data", progress=False)
    places = [f"data/chunk-{i // 2:03d}/file-{i % 2:03d}.parquet" for i in range(3)]
    assert sorted(str(p.relative_to(root)) for p in root.glob("data/*/*")) == places
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["data/chunk_index"], row["data/file_index"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    for number, (path, episode) in enumerate(zip(places, played(what), strict=True)):
        table = pq.read_table(root / path).to_pydict()
        assert set(table["episode_index"]) == {number}
        same(np.array(table["observation.state"], dtype=np.float32), episode.observations[:-1])


class Breaks:
    """Acts for a while."""

    def __init__(self):
        self.left = 20

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return np.zeros((len(observation), 28), dtype=np.float32), None


@pytest.mark.parametrize("export", [export_minari, export_lerobot])
def test_an_export_is_whole_or_not_there(export, tmp_path):
    pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    what = plan(Breaks(), **FAST)
    with pytest.raises(RuntimeError, match="no more"):
        export(what, tmp_path / "data", progress=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")]
    whole = planned(episodes=1)
    out = export(whole, tmp_path / "data", progress=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="exists already"):
        export(whole, tmp_path / "data", progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("bad", ["../up-v0", "/abs-v0", "name", "a/../b-v0", "a//b-v0", "a b-v0", ".hidden-v0"])
def test_a_dataset_id_cannot_lead_elsewhere(bad, tmp_path):
    pytest.importorskip("minari")
    with pytest.raises(ValueError, match="name-v0"):
        export_minari(planned(), tmp_path / "root", dataset_id=bad, progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"realtime": True}, "realtime"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"obs_mode": "smell"}, "unknown obs_mode"),
        ({"wheels": 4}, "unknown argument 'wheels'"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_played(options, words):
    with pytest.raises(ValueError, match=words):
        planned(**options)


def test_odd_pictures_make_no_film(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="even width and height, got 63 x 48"):
        export_lerobot(planned(obs_mode="rgbd", image_size=(63, 48)), tmp_path / "data", progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "library"), [("minari", "minari"), ("lerobot", "pyarrow")])
def test_a_missing_library_is_named_with_its_extra(command, library, dexh2r, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    message = dexh2r(f"export {command} {tmp_path / 'out'}")
    assert message == f'dexh2r: {library} is not installed: pip install "dexh2r-gym[export]"'


def test_the_command(dexh2r, tmp_path, monkeypatch, capsys):
    """Also into paths below the present folder, which Minari itself reads wrongly while it writes."""
    pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    words = "--split validation --episodes 2 --backend kinematic --mode easy --agent random --seed 4"
    assert dexh2r(f"export minari some/minari {words}") == 0
    out = Path("some/minari/dexh2r/mini-validation-random-v0")
    assert f"wrote {out}" in capsys.readouterr().out
    assert len(read_minari(out)) == 2 and read_minari(out).storage.metadata["dexh2r"]["seed"] == 4
    assert dexh2r(f"export lerobot some/lerobot {words}") == 0
    assert json.loads(Path("some/lerobot/meta/info.json").read_text())["total_episodes"] == 2
    assert "exists already" in str(dexh2r(f"export lerobot some/lerobot {words}"))


def test_the_spec_of_an_export_survives_json():
    what = planned(giver={"hesitation": 0.2}, crop=((-1, -1, 0), (1, 1, 2)), speed_limits=None)
    env = gym.make(EnvSpec.from_json(what.spec.to_json()))
    assert env.unwrapped.vector.options == what.options
    env.close()
