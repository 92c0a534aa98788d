"""The examples, run as a user runs them, at a tiny size."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import pytest

from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.replay import ReplayStore, write_store
from policies.learning_curve import read_curve
from tests.trials import object_of, trial_of

ROOT = Path(__file__).parents[1]
TRIALS = {"train": 6, "validation": 1, "test": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A few trials of each split of mini, demonstrated."""
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


def test_a_policy_is_trained_and_its_checkpoint_evaluated(store, tmp_path):
    line = f"train_policy.py --replays {store} --test-replays {store} --max-trials 2 --steps 4 --batch-size 8 --seed 3"
    printed = example(f"{line} --mode easy --backend kinematic --out mine", tmp_path)
    card = json.loads((tmp_path / "mine.json").read_text())
    assert card["policy"] == "motionnet" and card["card"]["trials"] == 2
    assert card["card"]["options"]["steps"] == 4 and card["card"]["options"]["seed"] == 3
    evaluated = json.loads((tmp_path / "mine/config.json").read_text())["evaluation"]
    assert evaluated["agent_identity"].startswith(card["sha256"]) and evaluated["seed"] == 3
    assert evaluated["obs_mode"] == "point_cloud"
    assert f"'succ': {round(scores_of(tmp_path / 'mine')['succ'], 3)}" in printed and "released {" in printed


def test_agents_are_compared_in_a_table_and_a_figure(store, tmp_path):
    agents = {"replay": "replay", "random": "random", "own_agent:make_agent": "own_agent.make_agent"}
    line = f"compare_agents.py --agents {' '.join(agents)} --replays {store} --backend kinematic --figure seen.png"
    printed = example(line, tmp_path)
    table = (tmp_path / "runs/compare_agents/table.md").read_text()
    assert table in printed
    rows = [[word.strip() for word in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, d] for name in agents.values() for d in ("paper", "released")]
    succ = {name: scores_of(tmp_path / "runs/compare_agents" / name)["succ"] for name in agents.values()}
    assert succ["replay"] == succ["own_agent.make_agent"] == 100 and succ["random"] == 0
    assert all(row[2].startswith(f"{succ[row[0]]:.1f} [") for row in rows if row[1] == "paper")
    picture = imageio.imread(tmp_path / "seen.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 1000
    colours = {tuple(colour) for colour in picture[..., :3].reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= colours, "bars of both definitions"


def test_wrappers(store, tmp_path):
    printed = example(f"wrappers.py --num-envs 3 --episodes 3 --backend kinematic --replays {store}", tmp_path)
    assert "REACHED return" in printed and printed.count("world ") >= 3


def test_demonstrations_become_datasets_and_are_played_again(store, tmp_path):
    line = f"export_datasets.py --episodes 2 --out data --replays {store}"
    printed = example(line, tmp_path)
    assert "Minari: 2 episodes" in printed and printed.count("played again: True") == 2
    assert (tmp_path / "data/lerobot/meta/info.json").exists()
    assert "FileExistsError" in example(line, tmp_path, code=1)


def test_ppo_is_trained_goes_on_and_is_an_agent(store, tmp_path, monkeypatch):
    line = f"train_sb3.py --num-envs 8 --every 1024 --replays {store} --backend kinematic --tensorboard"
    printed = example(f"{line} --steps 2048", tmp_path)
    out = tmp_path / "runs/train_sb3"
    assert_trained(out, printed, steps=[1024, 2048], evaluation=out / "evaluation_2048")
    assert list((out / "tensorboard").rglob("events.*"))
    weights = (out / "policy.safetensors").read_bytes()
    printed = example(f"{line} --steps 3072", tmp_path)
    scores = assert_trained(out, printed, steps=[1024, 2048, 3072], evaluation=out / "evaluation_3072")
    assert (out / "policy.safetensors").read_bytes() != weights
    assert json.loads((out / "policy.json").read_text())["card"]["steps"] == 3072
    monkeypatch.chdir(tmp_path)
    same_again("runs/train_sb3/policy.safetensors", store, scores)
    assert "give another --out" in example(f"{line} --mode hard", tmp_path, code=1)


def test_rsl_rl_trains_the_same_policy(store, tmp_path, monkeypatch):
    line = f"train_rsl_rl.py --num-envs 8 --every 2 --replays {store} --backend kinematic --measured-on kinematic"
    printed = example(f"{line} --device cpu --iterations 3", tmp_path)
    out = tmp_path / "runs/train_rsl_rl"
    assert_trained(out, printed, steps=[256, 768], evaluation=out / "evaluation_3")
    assert "ETA" in printed and "episode/succ" in printed and not list(out.rglob("*.pt"))
    printed = example(f"{line} --device cpu --iterations 5", tmp_path)
    scores = assert_trained(out, printed, steps=[256, 768, 1280], evaluation=out / "evaluation_5")
    monkeypatch.chdir(tmp_path)
    same_again("runs/train_rsl_rl/policy.safetensors", store, scores)
    assert "give another --out" in example(f"{line} --device cpu --mode hard", tmp_path, code=1)


def assert_trained(out, printed, *, steps, evaluation):
    """The learning curve and the scores of a training; the scores."""
    rows = read_curve(out / "curve.csv")
    assert [row["steps"] for row in rows] == steps
    assert all(0 <= row["succ_low"] <= row["succ"] <= row["succ_high"] <= 100 for row in rows)
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(rows))
    assert imageio.imread(out / "curve.png").shape[1] > 1000
    evaluated = json.loads((evaluation / "config.json").read_text())["evaluation"]
    assert evaluated["control_mode"] == "delta" and evaluated["split"] == "test"
    scores = scores_of(evaluation)
    assert f"'succ': {round(scores['succ'], 3)}" in printed and f"of {TRIALS['test']} test trials" in printed
    return scores


def test_a_torch_module_learns_from_demonstrations(store, tmp_path, monkeypatch):
    line = f"own_torch_policy.py --frames 150 --num-envs 6 --steps 400 --replays {store} --backend kinematic"
    printed = example(f"{line} --device cpu", tmp_path)
    scores = scores_of(tmp_path / "runs/own_torch_policy/evaluation")
    assert f"'succ': {round(scores['succ'], 3)}" in printed
    assert scores["succ"] >= 50, "chance takes none, and 75 were measured"
    monkeypatch.chdir(tmp_path)
    same_again("examples.own_torch_policy:make_agent", store, scores)


def same_again(agent, store, scores):
    """What was saved acts the same as an agent of the command."""
    setting = {"mode": "easy", "backend": "kinematic", "progress": False}
    evaluate(find_agent(agent), out="again", replays=store, **setting)
    assert scores_of(Path("again")) == scores
