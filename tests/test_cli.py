"""The command line as a user meets it: help, examples that parse, mistakes in one line, an evaluation."""

import json
import os
import re
import subprocess
import sys

import pytest

from dexh2r_gym.cli import (
    arm,
    audit,
    export,
    grasps,
    imports,
    replays,
    robustness,
    runs,
    simulators,
    table3,
    table4,
    view,
)
from policies import cli as policies_cli

LEAVES = {
    "evaluate": runs.Evaluate,
    "score": runs.Score,
    "view": view.View,
    "table3": table3.Table3,
    "table4": table4.Table4,
    "audit": audit.Audit,
    "robustness": robustness.Robustness,
    "latency": robustness.Latency,
    "arm-gap": arm.ArmGap,
    "bench": runs.Bench,
    "parity": simulators.Parity,
    "sweep": simulators.Sweep,
    "replays import dexh2r": imports.ImportDexH2R,
    "replays import dexh2r-zarr": imports.ImportDexH2RZarr,
    "replays import dexycb": imports.ImportDexYCB,
    "replays import khanna": imports.ImportKhanna,
    "replays generate": replays.Generate,
    "replays goals": replays.Goals,
    "replays visited": replays.Visited,
    "replays info": replays.Info,
    "replays check": replays.Check,
    "replays migrate": replays.Migrate,
    "grasps make": grasps.MakeGrasps,
    "grasps data": grasps.GraspData,
    "grasps info": grasps.GraspInfo,
    "export minari": export.ExportMinari,
    "export lerobot": export.ExportLeRobot,
    "export isaacgym": export.ExportIsaacGym,
    "train": policies_cli.Train,
    "checkpoints list": policies_cli.ListCheckpoints,
    "checkpoints verify": policies_cli.VerifyCheckpoints,
}


def example_of(name: str) -> str:
    return re.search(r"Example: dexh2r (.*)", LEAVES[name].__doc__ or "")[1]


@pytest.mark.parametrize("name", LEAVES)
def test_help_of_every_command_has_an_example(name, dexh2r, capsys):
    assert dexh2r(f"{name} --help") == 0
    assert f"Example: dexh2r {name}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", LEAVES)
def test_the_example_in_the_help_is_a_command(name, dexh2r, monkeypatch):
    seen = []
    for leaf in LEAVES.values():
        monkeypatch.setattr(leaf, "run", lambda self: seen.append(type(self)))
    assert dexh2r(example_of(name)) == 0
    assert seen == [LEAVES[name]]


@pytest.mark.parametrize("group", ["", "replays", "replays import", "grasps", "export", "checkpoints"])
def test_help_of_a_group_lists_its_commands_with_examples(group, dexh2r, capsys):
    assert dexh2r(f"{group} --help") == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    leaves = [name for name in LEAVES if name.startswith(group) and name.count(" ") == len(group.split())]
    assert leaves and all(f"• {name.split()[-1]} " in out for name in leaves)
    assert all(f"Example: dexh2r {name}" in out for name in leaves)


def test_who_reads_only_the_first_lines_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "dexh2r_gym", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert done.returncode == 1 and not done.stderr


def test_python_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "dexh2r_gym", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "usage: dexh2r" in done.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate --agent scritped", ("unknown agent 'scritped' (did you mean 'scripted'?)", "replay, random")),
        ("evaluate --agent nowhere.at_all:make", ("'nowhere.at_all:make' cannot be imported",)),
        ("evaluate --replays nothing-here", ("no replays 'nothing-here'", "mini")),
        ("replays check nothing-here", ("no replays 'nothing-here'", "mini")),
        ("replays import khanna nothing-here out.zarr.zip", ("nothing-here",)),
        ("score nothing-here", ("nothing-here",)),
        ("grasps make hamer", ("unknown object 'hamer' (did you mean 'hammer'?)", "power_drill")),
    ],
)
def test_a_mistake_is_one_line_that_lists_what_is_valid(line, words, dexh2r, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = dexh2r(line)
    assert isinstance(message, str), "a text as exit code is printed, and the code is 1"
    assert message.startswith("dexh2r: ") and "\n" not in message
    assert all(word in message for word in words), message
    assert not any(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("evaluate --backend bullet", "'mujoco', 'mjwarp', 'kinematic'"),
        ("evaluate --mode medium", "'easy', 'hard'"),
        ("evaluate --split val", "'train', 'validation', 'test', 'all'"),
        ("replays import dexicb a b", "dexh2r, dexh2r-zarr, dexycb, khanna"),
        (
            "evalute",
            "evaluate, score, view, audit, table3, table4, robustness, latency, arm-gap, bench, parity, sweep, "
            "replays, grasps, export, train, checkpoints",
        ),
    ],
)
def test_a_wrong_choice_is_refused_with_the_right_ones(line, choices, dexh2r, capsys):
    assert dexh2r(line) == 2
    err = capsys.readouterr().err
    assert choices in " ".join(err.replace("│", " ").split()) and "Traceback" not in err


def test_evaluate_writes_a_report_and_score_writes_it_again(dexh2r, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert dexh2r("evaluate --agent replay --split validation --backend kinematic --num-envs 8") == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name == "replay-mini-validation-hard-kinematic"
    report = json.loads((out / "report.json").read_text())
    assert report["overall"]["paper"]["succ"]["value"] > 50
    text = (out / "report.md").read_text()
    assert text in capsys.readouterr().out
    (out / "report.md").unlink()
    assert dexh2r(f"score {out}") == 0
    assert (out / "report.md").read_text() == text
    next((out / "episodes").iterdir()).unlink()
    assert "episodes are missing" in str(dexh2r(f"score {out}"))
    assert dexh2r(f"score {out} --allow-incomplete") == 0


def test_your_own_agent_is_found_in_the_present_folder(dexh2r, tmp_path, monkeypatch):
    """Also by the script `dexh2r`, whose path does not begin there."""
    (tmp_path / "mine_alone.py").write_text("def make_agent(env, seed):\n    raise ValueError(f'made with {seed}')\n")
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    assert dexh2r("evaluate --agent mine_alone:make_agent --seed 7 --split validation") == "dexh2r: made with 7"
