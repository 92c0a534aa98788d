"""Rollouts and scoring on a small store of our own, with the kinematic simulator."""

import json

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.evaluate import episode_seed, evaluate, fingerprint, score
from dexh2r_gym.metrics import METRICS
from dexh2r_gym.replay import StoredObject, Trial, write_store

FRAMES = 30
CLEAR, PIERCED = "aerosol_can", "water_bottle"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Seven test trials. All goals are clear of the object; the hand starts clear of the one, inside the other."""
    forward = np.array((np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0))  # fingers (+z of the palm) along +x
    goal = np.concatenate(((-0.28, 0.0, 0.0), forward, np.full(22, 0.1)))[None]
    objects = {name: StoredObject(goal) for name in (CLEAR, PIERCED)}

    def trial(subject: int, name: str, number: int, frames: int) -> Trial:
        time = np.arange(frames) / 30
        pose = np.zeros((frames, 7))
        pose[:, 1], pose[:, 2], pose[:, 3] = 0.05 * np.sin(time + subject + number), 1.0, 1.0
        giver = np.zeros((frames, 61))
        giver[:, 0], giver[:, 2] = 0.3, 1.0
        start = np.zeros(28)
        start[:3], start[4] = (-0.5 - 0.02 * number if name == CLEAR else 0.0, 0.0, 1.0), np.pi / 2
        return Trial(
            subject, name, "right", "test", 30.0, pose, giver, start, np.ones((frames, 1), bool), number=number
        )

    trials = [trial(1, CLEAR, n, FRAMES + 5 * n) for n in range(3)]
    trials += [trial(2, PIERCED, n, FRAMES + 3 * n) for n in range(3)] + [trial(2, CLEAR, 0, FRAMES)]
    path = tmp_path_factory.mktemp("store") / "small.zarr.zip"
    return write_store(path, trials, objects, licence="CC0-1.0", provenance={"source": "test"})


class Chaser:
    """Waits some frames, then goes for the nearest goal. The count is carried by the caller, as the contract has it."""

    def __init__(self, wait: int = 2, fail_after: int | None = None):
        self.wait, self.calls_left = wait, fail_after

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise KeyboardInterrupt
        age = np.where(episode_start, 0, 0 if state is None else state + 1)
        go = (age >= self.wait)[:, None]
        return np.where(go, observation["goal_state"], observation["agent_pos"]), age


def run(store, out, agent=None, **changes):
    arguments = {"replays": store, "backend": "kinematic", "obs_mode": "state_dict", "num_envs": 3, "progress": False}
    return evaluate(agent or Chaser(), out=out, **(arguments | changes))


def without_speed(report):
    return {key: value for key, value in report.items() if key != "speed"}


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(store, out)


def test_every_replay_once_and_the_files_agree(finished):
    out, report = finished
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [row["replay"] for row in rows] == report["config"]["replay_ids"] and len(rows) == 7
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["ended"] == {"REACHED": 7}
    assert report["by_object"][CLEAR]["paper"]["succ"]["value"] == 100.0
    assert report["by_object"][CLEAR]["paper"]["pen_dep_cm"]["value"] == 0.0
    assert report["by_object"][CLEAR]["paper"]["safe"]["value"] == 100.0
    assert report["by_object"][PIERCED]["paper"]["pen_dep_cm"]["value"] > 0.0
    assert report["overall"]["released"]["succ"]["value"] == 100.0
    assert "7 episodes of 7 replays" in (out / "report.md").read_text()
    assert report["speed"]["frames"] == sum(row["infer_fr"] for row in rows)


def test_numbers_do_not_depend_on_the_number_of_worlds(finished, store, tmp_path):
    _, report = finished
    for num_envs in (1, 16):
        assert without_speed(run(store, tmp_path / str(num_envs), num_envs=num_envs)) == without_speed(report)


def test_killed_run_goes_on_to_the_same_report(finished, store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path, Chaser(fail_after=15), agent_name="Chaser")
    (tmp_path / "episodes" / "half_written.partial").write_bytes(b"PK")
    done = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "episodes").glob("*.npz")}
    assert 0 < len(done) < 7
    with pytest.raises(
        ValueError, match=rf"incomplete, {7 - len(done)} of 7 episodes are missing: .*s02/aerosol_can/000"
    ):
        score(tmp_path)
    partial = score(tmp_path, allow_incomplete=True)
    assert partial["episodes"] == len(done) and "s02/aerosol_can/000" in partial["missing"]
    report = run(store, tmp_path, num_envs=2)
    assert without_speed(report) == without_speed(finished[1])
    assert done == {name: (tmp_path / "episodes" / name).stat().st_mtime_ns for name in done}  # not run again


def test_finished_run_is_scored_again_without_a_rollout(finished, store):
    out, report = finished
    assert score(out) == report
    assert run(store, out, Chaser(fail_after=0), agent_name="Chaser") == report


def test_changed_config_is_refused(finished, store):
    out, _ = finished
    with pytest.raises(ValueError, match=r"evaluation\.mode: 'hard' in the folder, 'easy' now"):
        run(store, out, mode="easy")
    with pytest.raises(ValueError, match=r"evaluation\.seed: 0 in the folder, 1 now"):
        run(store, out, seed=1)
    with pytest.raises(FileExistsError):
        run(store, out, resume=False)


def test_changed_store_is_refused(store, tmp_path):
    copy = tmp_path / "copy.zarr.zip"
    copy.write_bytes(store.read_bytes())
    run(copy, tmp_path / "run")
    assert fingerprint(copy) == fingerprint(store)
    with copy.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"store_sha256"):
        run(copy, tmp_path / "run")


def test_waiting_agent_runs_out_of_time(store, tmp_path):
    patient = run(store, tmp_path / "a", Chaser(wait=FRAMES + 20))
    assert patient["ended"] == {"TIMEOUT_APPROACH": 7}
    assert patient["overall"]["paper"]["succ"]["value"] == patient["overall"]["released"]["succ"]["value"] == 0.0
    assert patient["overall"]["paper"]["infer_fr"]["value"] == pytest.approx((30 + 35 + 40 + 30 + 33 + 36 + 30) / 7)


def test_report_equals_what_the_environment_says_at_the_end_of_an_episode(finished, store):
    row = next(
        row for row in map(json.loads, (finished[0] / "episodes.jsonl").read_text().splitlines())
        if row["replay"] == f"s02/{PIERCED}/001"
    )  # fmt: skip
    env = gym.make_vec(
        "DexH2R-Handover-v0", num_envs=1, replays=store, split="test", backend="kinematic", obs_mode="state_dict",
        autoreset_mode=AutoresetMode.DISABLED,
    )  # fmt: skip
    observation, _ = env.reset(options={"replay": row["replay"]})
    agent, state, ended = Chaser(), None, False
    while not ended:
        action, state = agent.predict(observation, state, np.array([state is None]))
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated[0] or truncated[0]
    env.close()
    for name in [*METRICS, *(f"{metric}_released" for metric in METRICS), "status", "end_frame", "max_giver_force"]:
        assert info[name][0] == row[name], name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"split": "tests"}, "tests.*train, validation, test"),
        ({"backend": "bullet"}, "bullet.*mujoco, mjwarp, kinematic"),
        ({"mode": "medium"}, "medium.*easy, hard"),
        ({"split": "train"}, "no replays"),
        ({"num_envs": 0}, "num_envs"),
    ],
)
def test_bad_arguments_are_named_and_leave_no_run(store, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(store, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_agent_may_be_made_from_the_environment(store, tmp_path, finished):
    def chaser(env, seed):
        assert isinstance(env, HandoverVectorEnv) and seed == 0
        return Chaser()

    report = run(store, tmp_path, chaser)
    assert report["config"]["evaluation"]["agent"] == "chaser" and report["overall"] == finished[1]["overall"]


def test_episode_seed_is_of_seed_and_replay_alone():
    assert episode_seed(0, "a") == episode_seed(0, "a")
    assert len({episode_seed(s, r) for s in range(3) for r in "abc"}) == 9


def test_films_of_the_first_episodes(store, tmp_path, monkeypatch):
    def picture(env, world):
        return np.full((48, 64, 3), 8 * int(env.task.time[world]), np.uint8)

    monkeypatch.setattr(HandoverVectorEnv, "render_world", picture)
    run(store, tmp_path)
    run(store, tmp_path, video=1)  # asked for later: that episode is run again
    (film,) = (tmp_path / "videos").iterdir()
    assert film.name == "s01%2Faerosol_can%2F000.mp4"
    frames = imageio.imread(film)
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert len(frames) == rows[0]["infer_fr"]
    assert np.abs(frames.mean((1, 2, 3)) - 8 * np.arange(len(frames))).max() < 4
    assert imageio.immeta(film)["fps"] == 30
