"""Long work: its folder, files that are there as a whole or not at all, and processes that end when they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from dexh2r_gym.replay import ReplayError
from dexh2r_gym.replay.work import load_arrays, open_work, save_arrays
from dexh2r_gym.workers import Workers, num_cores, num_workers


def test_a_folder_is_gone_on_with_by_the_same_work_only(tmp_path: Path) -> None:
    store = tmp_path / "new" / "a.zarr"
    work = open_work(store, {"seed": 1, "sensors": ("cloud",)})
    assert work == tmp_path / "new" / "a.zarr.partial"
    (work / "kept").touch()
    assert open_work(store, {"seed": 1, "sensors": ("cloud",)}) == work
    with pytest.raises(ReplayError, match=r"sensors was \['cloud'\], is \[\]\); remove .*a\.zarr\.partial, or choose"):
        open_work(store, {"seed": 1, "sensors": ()})
    with pytest.raises(ReplayError, match=r"other was None, is 2, seed was 1, is None"):
        open_work(store, {"other": 2, "sensors": ["cloud"]})
    assert (work / "kept").exists()
    for damage in ("", "[1]", "{"):
        (work / "manifest.json").write_text(damage)
        with pytest.raises(ReplayError, match="not a folder of work on a store; remove"):
            open_work(store, {"seed": 1})


def test_arrays_are_read_as_written_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.npz"
    assert load_arrays(path) is None
    save_arrays(path, {"x": np.arange(1000), "empty": np.zeros((0, 3), bool)}, {"n": [1, None]})
    assert [entry.name for entry in path.parent.iterdir()] == ["a.npz"]
    found = load_arrays(path)
    assert found is not None and found[0].keys() == {"x", "empty"} and found[1] == {"n": [1, None]}
    np.testing.assert_array_equal(found[0]["x"], np.arange(1000))
    assert found[0]["empty"].shape == (0, 3) and found[0]["empty"].dtype == bool
    content = path.read_bytes()
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        assert load_arrays(path) is None


def test_workers_are_as_many_as_wanted_or_as_there_are_cores(monkeypatch) -> None:
    assert num_workers(3) == 3 and num_workers(None) == num_cores() >= 1
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        num_workers(0)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert num_cores() == 7


def about(job: int) -> tuple[int, int, int]:
    return job * job, os.getpid(), torch.get_num_threads()


def die(job: int) -> None:
    os._exit(1)


def fail_or_wait(job: int) -> None:
    if job == 0:
        raise ValueError("of a job")
    time.sleep(600)


def wait(job: int) -> None:
    if job:
        _ = get_context("spawn").Lock()  # as libraries make them
        time.sleep(600)


def large_then_wait(job: int) -> bytes:
    if job > 1:
        time.sleep(600)
    return bytes(50_000_000)


def test_one_worker_is_this_process_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Workers(1) as workers:
            assert list(workers.map(about, [2, 1, 3])) == [(n * n, os.getpid(), 1) for n in (2, 1, 3)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_processes_take_jobs_until_an_error_ends_them_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match="of a job"), Workers(2) as workers:
        for _ in range(2):
            squares, processes, threads = zip(*workers.map(about, range(20)), strict=True)
            assert sorted(squares) == [n * n for n in range(20)]
            assert os.getpid() not in processes and set(threads) == {1}
        list(workers.map(fail_or_wait, range(3)))
    assert time.monotonic() - begun < 60


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"a worker process died.* run again to go on"), Workers(2) as workers:
        list(workers.map(die, [0]))


SCRIPT = """
import signal, sys, time
from dexh2r_gym.workers import Workers
from tests.test_work import {job}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
    print("begun", flush=True)
    with Workers(2) as workers:
        for _ in workers.map({job}, range(8)):
            print("done", flush=True)
"""


@pytest.mark.parametrize(("job", "after"), [("wait", "done"), ("wait", "begun"), ("large_then_wait", "done")])
def test_ctrl_c_ends_all_processes_with_one_traceback(tmp_path: Path, job: str, after: str) -> None:
    process = start(tmp_path, job)
    assert process.stdout is not None and process.stderr is not None
    while process.stdout.readline().strip() != after:
        pass
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    errors = process.communicate(timeout=60)[1]  # ends when the last process that could write has ended
    assert process.returncode != 0
    assert errors.count("Traceback") == 1 and errors.strip().endswith("KeyboardInterrupt"), errors


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "wait")
    assert process.stdout is not None
    while process.stdout.readline().strip() != "done":
        pass
    process.kill()
    process.communicate(timeout=60)


def start(folder: Path, job: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT.format(job=job))
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
