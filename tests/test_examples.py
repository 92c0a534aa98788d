"""The examples, run as a user runs them, at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dexh2r_gym.replay import ReplayStore, write_store
from tests.trials import object_of, trial_of

ROOT = Path(__file__).parents[1]
TRIALS = {"train": 6, "validation": 1, "test": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A few trials of each split of mini."""
    mini = ReplayStore.open("mini")
    replays = [mini.replay(id) for split, count in TRIALS.items() for id in mini.ids(split)[:count]]
    return write_store(
        tmp_path_factory.mktemp("store") / "few.zarr.zip",
        [trial_of(r, demo=r.demo.numpy(), number=i) for i, r in enumerate(replays)],
        {r.object: object_of(r) for r in replays},
        licence="CC0-1.0",
        provenance={},
    )


def run(*words, folder, code=0):
    """What `python WORDS` prints in that folder."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def example(line, folder, **options):
    name, *words = line.split()
    return run(ROOT / "examples" / name, *words, folder=folder, **options)


def scores_of(run_folder, episodes=TRIALS["test"]):
    """succ, safe and pen_dep by the paper's definitions, checked by both to be what such numbers can be."""
    report = json.loads((run_folder / "report.json").read_text())
    assert report["episodes"] == episodes and not report["missing"]
    for definition in ("paper", "released"):
        succ, safe, pen_dep = (report["overall"][definition][n]["value"] for n in ("succ", "safe", "pen_dep_cm"))
        assert 0 <= succ <= 100 and 0 <= safe <= 100 and 0 <= pen_dep < 20
    return {name: report["overall"]["paper"][name]["value"] for name in ("succ", "safe", "pen_dep_cm")}


def test_quickstart(tmp_path):
    assert "REACHED" in example("quickstart.py", tmp_path)


def test_a_plain_function_takes_objects_as_a_script_and_as_an_agent_of_the_command(store, tmp_path):
    out = tmp_path / "own"
    options = ("--replays", store, "--mode", "easy", "--backend", "kinematic")
    printed = example(f"own_agent.py --out {out} {' '.join(map(str, options))}", tmp_path)
    scores = scores_of(out)
    assert scores["succ"] == 100, "chance takes none of them"
    assert f"'succ': {scores['succ']}" in printed and "released {" in printed
    command = ("-m", "dexh2r_gym", "evaluate", "--agent", "examples.own_agent:make_agent", "--out", tmp_path / "again")
    run(*command, *options, folder=ROOT)
    assert scores_of(tmp_path / "again") == scores
    assert "holds a run already" in example(f"own_agent.py --out {out} --replays {store}", tmp_path, code=1)


def test_stable_baselines3_trains_on_the_environment(tmp_path):
    assert "total_timesteps" in example("train_sb3.py 64", tmp_path)
    assert (tmp_path / "runs/ppo_handover.zip").stat().st_size > 0
