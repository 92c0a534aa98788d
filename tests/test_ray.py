"""Work on a Ray cluster of two local nodes, whose workers are killed: the numbers of one process, to the bit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from dexh2r_gym import ray_cluster
from dexh2r_gym.evaluate import evaluate, fingerprint
from dexh2r_gym.extras import MissingExtraError
from dexh2r_gym.ray_cluster import RayCluster, UnlikeError
from dexh2r_gym.replay import generate as generating
from dexh2r_gym.replay.generate import generate
from dexh2r_gym.replay.presets import PRESETS
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.shards import Shard, agent_print, run_shard
from tests.test_evaluate import Chaser, store, without_speed  # noqa: F401  a fixture
from tests.test_generate import TINY

_FOLDER = "DEXH2R_TEST_RAY"  # names a folder in which files tell agents what to do


def armed(name: str) -> Path:
    return Path(os.environ[_FOLDER], name)


class Troubled(Chaser):
    """Kills its own process in the middle of an episode, once; fails wherever the hand starts inside the object."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        action, age = super().predict(observation, state, episode_start, deterministic)
        if armed("fail").exists() and (abs(observation["agent_pos"][:, 0]) < 0.1).any():
            raise LookupError("of the agent")
        if (age >= 5).any() and armed("kill").exists():
            armed("kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return action, age


def troubled(env, seed):
    return Troubled()


troubled.env_options = {"obs_mode": "state_dict", "backend": "kinematic"}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of a cluster of two nodes, one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ[_FOLDER] = str(tmp_path_factory.mktemp("armed"))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        nodes.shutdown()
        del os.environ[_FOLDER]


def run(store, out, **changes):  # noqa: F811
    return evaluate("tests.test_ray:troubled", out=out, **({"replays": store, "progress": False} | changes))


@pytest.fixture(scope="module")
def alone(cluster, store, tmp_path_factory):  # noqa: F811
    """A run by one process."""
    out = tmp_path_factory.mktemp("alone")
    run(store, out)
    return out


def assert_same_run(a: Path, b: Path) -> None:
    reports = [json.loads((out / "report.json").read_text()) for out in (a, b)]
    assert len({json.dumps(without_speed(report)) for report in reports}) == 1
    assert (a / "episodes.jsonl").read_bytes() == (b / "episodes.jsonl").read_bytes()
    tables = [
        [line for line in (out / "report.md").read_text().splitlines() if "frames/s" not in line] for out in (a, b)
    ]
    assert tables[0] == tables[1]
    for replay in RunFolder(a).recorded_ids() | RunFolder(b).recorded_ids():
        one, other = RunFolder(a).load_episode(replay), RunFolder(b).load_episode(replay)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes(), name


def test_a_run_whose_worker_is_killed_is_that_of_one_process(cluster, store, alone, tmp_path, dexh2r, capsys):  # noqa: F811
    armed("kill").touch()
    line = f"evaluate --agent tests.test_ray:troubled --replays {store} --backend kinematic --out {tmp_path}"
    assert dexh2r(f"{line} --ray {cluster}") == 0
    assert not armed("kill").exists()
    assert "failed with the death of its worker: WorkerCrashedError" in capsys.readouterr().err
    assert_same_run(alone, tmp_path)


def test_a_shard_that_fails_three_times_stops_the_run_which_then_goes_on(cluster, store, alone, tmp_path):  # noqa: F811
    armed("fail").touch()
    try:
        with pytest.raises(
            RuntimeError, match=r"shard of s02/water_bottle/00\d failed 3 times.*LookupError: of the agent"
        ):
            run(store, tmp_path, ray=cluster)
    finally:
        armed("fail").unlink()
    kept = RunFolder(tmp_path).recorded_ids()
    assert kept and not any("water_bottle" in replay for replay in kept)
    run(store, tmp_path, ray=cluster, video=1)
    assert RunFolder(tmp_path).video_path("s01/aerosol_can/000").exists()
    assert_same_run(alone, tmp_path)
    (tmp_path / "episodes" / "s02%2Faerosol_can%2F000.npz").unlink()
    run(store, tmp_path)  # without Ray
    assert_same_run(alone, tmp_path)


def test_a_generation_whose_worker_is_killed_gives_the_same_bytes(cluster, tmp_path, monkeypatch, dexh2r):
    monkeypatch.setattr(generating, "_BATCH", 2)
    plain = generate(tmp_path / "plain.zarr.zip", preset=TINY, demonstrator=None, workers=1, progress=False)
    killed: list[int] = []
    mark = {_FOLDER: os.environ[_FOLDER]}  # workers of this cluster

    def kill_one() -> None:
        before = time.monotonic()
        while not killed and time.monotonic() - before < 120:
            for process in psutil.process_iter(["name", "cmdline"]):
                ours = "ray::work" in " ".join(process.info["cmdline"] or ()) and marked(process, mark)
                if ours and not killed:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    monkeypatch.setitem(PRESETS, "mini", TINY)
    there = tmp_path / "there.zarr.zip"
    assert dexh2r(f"replays generate --preset mini --demonstrations none --ray {cluster} {there}") == 0
    killer.join()
    assert killed and there.read_bytes() == plain.read_bytes()
    assert [path.name for path in tmp_path.iterdir()].count("there.zarr.zip.partial") == 0


def fail_as_unlike(job: int) -> None:
    raise UnlikeError("not the same")


def wait(job: int) -> None:
    if job:
        time.sleep(600)


def test_machines_that_are_not_alike_are_refused(cluster, store, monkeypatch):  # noqa: F811
    with RayCluster(cluster) as workers:
        assert workers.cores == 2
        with pytest.raises(UnlikeError, match="not the same"):
            list(workers.map(fail_as_unlike, [0, 1]))
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "torch" else real(name))
    with (
        pytest.raises(UnlikeError, match=rf"other software \(torch {re.escape(real('torch'))} there, 0\.1 here\)"),
        RayCluster(cluster) as workers,
    ):
        list(workers.map(wait, [0]))


def test_other_replays_and_agents_are_refused(store, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(_FOLDER, str(tmp_path))
    agent = "tests.test_ray:troubled"
    options = {"replays": str(store), "split": "test"}
    with pytest.raises(UnlikeError, match=r"has other replays at .*copy them there"):
        run_shard(Shard(("s01/aerosol_can/000",), agent, agent_print(agent), "0" * 64, 1, 0, options))
    with pytest.raises(UnlikeError, match=r"cannot read the replays .*at the same path on every machine"):
        lost = options | {"replays": str(tmp_path / "lost.zarr.zip")}
        run_shard(Shard(("s01/aerosol_can/000",), agent, agent_print(agent), "0" * 64, 1, 0, lost))
    sha256 = fingerprint(store)
    with pytest.raises(UnlikeError, match="has another agent 'scripted'"):
        run_shard(Shard(("s01/aerosol_can/000",), "scripted", "another", sha256, 1, 0, options))
    with pytest.raises(UnlikeError, match=r"does not have the agent 'nowhere:agent' \(.*install its package there"):
        run_shard(Shard(("s01/aerosol_can/000",), "nowhere:agent", "", sha256, 1, 0, options))


def test_what_cannot_be_is_refused(store, tmp_path, monkeypatch):  # noqa: F811
    with pytest.raises(ValueError, match="with ray, agent must be a name"):
        evaluate(Chaser(), out=tmp_path, replays=store, ray="local")
    with pytest.raises(ValueError, match="latency cannot be measured"):
        evaluate("scripted", out=tmp_path, replays=store, ray="local", realtime=True)
    with pytest.raises(ValueError, match="workers is of this machine"):
        generate(tmp_path / "a.zarr", ray="auto", workers=2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "dexh2r-gym\[scale\]"'):
        RayCluster("local")
    assert not list(tmp_path.iterdir())


def test_no_cluster_is_said(monkeypatch):
    pytest.importorskip("ray")
    with pytest.raises(ConnectionError, match=r"no Ray cluster at 'nowhere'.*`local`"), RayCluster("nowhere"):
        pass


SCRIPT = """
import signal
from dexh2r_gym.ray_cluster import RayCluster
from tests.test_ray import wait

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
with RayCluster("local", cores=2) as cluster:
    for _ in cluster.map(wait, range(4)):
        print("done", flush=True)
"""


def test_ctrl_c_leaves_no_process(tmp_path):
    pytest.importorskip("ray")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    mark = {"DEXH2R_TEST_MARK": str(tmp_path)}
    root = str(Path(ray_cluster.__file__).parents[1])
    environment = {**os.environ, **mark, "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().strip() == "done", process.stderr.read()
    assert sum(marked(other, mark) for other in psutil.process_iter()) > 3  # of Ray
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and errors.strip().endswith("KeyboardInterrupt"), errors
    for _ in range(100):
        if not (left := [other for other in psutil.process_iter() if marked(other, mark)]):
            return
        time.sleep(0.1)
    raise AssertionError(left)


def marked(process: psutil.Process, mark: dict[str, str]) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and mark.items() <= process.environ().items()
    except psutil.Error:
        return False
