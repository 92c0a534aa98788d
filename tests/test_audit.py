"""Verdicts from records made by hand, and the command that shows them."""

import math

import numpy as np
import pytest

from dexh2r_gym.cli import main
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.verdict import safety_words, verdict
from policies.scripted import ScriptedExpert
from tests.test_report import record


@pytest.mark.parametrize(
    "changes, frame, words",
    [
        ({"d": np.array([0.3, 0.04, 0.008])}, 2, "within 1 cm of its goal"),
        ({"d": np.array([0.3, 0.04, 0.05])}, 2, "a stable grasp of its own"),
        ({"status": "TIMEOUT_APPROACH", "d": np.array([0.3, 0.07, 0.2])}, 2, "below 5 cm; nearest.*frame 1, 7.0 cm"),
        ({"status": "TIMEOUT_APPROACH", "mode": "easy"}, 2, "below 10 cm; no free goal"),
        ({"status": "TIMEOUT_ALIGNMENT", "alignment_begin": 1}, 2, "2 frames into alignment"),
        ({"status": "DIVERGED"}, 2, "physics became invalid"),
        ({"outcome": "HELD", "release_frame": 1, "slip": 0.7}, 2, "let go in frame 1.*no more than 0.7 cm"),
        ({"outcome": "NOT_RELEASED", "approach_frames": 1}, 2, "never carried"),
        (
            {"outcome": "DROPPED", "release_frame": 0, "drop_time": 1 / 30, "phase": np.array([4, 5, 5])},
            1,
            "while shaking: 0.03 s after",
        ),
    ],
)
def test_the_frame_and_the_reason(changes, frame, words):
    import re

    decided, reason = verdict(record("s01/can/000", **changes))
    assert decided == frame and re.search(words, reason), reason


def test_the_hardest_touch_in_words():
    assert "never touched" in safety_words(record("s01/can/000"))
    peak = np.zeros((3, 6))
    peak[1, 2] = 150.0
    words = safety_words(record("s01/can/000", giver_peak=peak))
    assert "middle was pressed with 150 N in frame 1 (approach), above the limit of 140 N" in words
    assert math.isinf(record("s01/can/000")["drop_time"])


def test_the_command_prints_and_writes_what_the_record_says(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    evaluate(
        lambda env, seed: ScriptedExpert(env), out=run, split="validation", num_envs=12, progress=False, ending="hold"
    )
    monkeypatch.setattr("sys.argv", ["dexh2r", "audit", str(run)])
    main()
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 36 and any("  HELD  " in line for line in listed)
    id = next(line.split()[0] for line in listed if "  HELD  " in line)
    monkeypatch.setattr("sys.argv", ["dexh2r", "audit", str(run), id, "--clip"])
    main()
    text = capsys.readouterr().out
    out = run / "audits" / id.replace("/", "%2F")
    assert f"# {id}: " in text and "outcome HELD" in text and "| shaking |" in text
    assert {p.name for p in out.iterdir()} == {"audit.md", "contacts.png", "clip.mp4"}
    assert (out / "clip.mp4").stat().st_size > 1000
