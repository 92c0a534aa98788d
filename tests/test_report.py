"""From rows with known numbers to a report and its tables; run folders."""

import json
import math

import numpy as np
import pytest

from dexh2r_gym.metrics import METRICS
from dexh2r_gym.report import REPORTED, build_report, false_positives, summarise, to_markdown
from dexh2r_gym.run_folder import RunFolder

CONFIG = {
    "evaluation": {
        "agent": "scripted", "replays": "mini", "split": "test", "mode": "hard", "backend": "mujoco", "seed": 0,
        "ending": "hold",
    },
    "replay_ids": ["s01/can/000", "s01/can/001", "s02/box/000", "s02/box/001"],
}  # fmt: skip


def row(replay: str, succ: bool, pen_dep: float, released_frames: int = 0, false_frames: int = 0) -> dict:
    subject, obj, _ = replay.split("/")
    paper = dict(zip(METRICS, (succ, pen_dep < 0.2, pen_dep, 3, 40, 0.5), strict=True))
    released = dict(zip(METRICS, (True, released_frames == 0, pen_dep + 1.0, released_frames, 30, 0.4), strict=True))
    return {
        "replay": replay,
        "object": obj,
        "subject": int(subject[1:]),
        "kind": f"{'seen' if obj == 'can' else 'unseen'}_object",
        "status": "REACHED" if succ else "TIMEOUT_APPROACH",
        **paper,
        **{f"{name}_released": value for name, value in released.items()},
        "max_giver_force": 2.0,
        "frames": 30,
        "false_frames": false_frames,
        "missed_frames": 1,
        "false_depth_cm": 0.5 * false_frames,
        "deepest_false_cm": 7.0 * (false_frames > 0),
        "giver_peak": [0.0, 150.0 * (pen_dep > 0.2), 10.0, 0.0, 0.0, 0.0],
        "giver_impulse": [0.0, 2.0, 0.5, 0.0, 0.0, 0.0],
        "contact_time": [0.0, 0.1, 0.3, 0.0, 0.0, 0.0],
        "contact_speed": 0.4,
        "safe_force": pen_dep < 0.2,
        "held": succ and pen_dep < 0.2,
        "outcome": ("HELD" if pen_dep < 0.2 else "DROPPED") if succ else "NOT_REACHED",
        "release_time": 0.7 if succ else None,
        "drop_time": 0.5 if succ and pen_dep > 0.2 else None,
        "slip": 1.0 * succ,
        "decided_frame": 29,
        "reason": "by hand",
        "link_depth_cm": [0.0] * 17 + [0.4],
        "link_frames": [0] * 17 + [3],
    }


ROWS = [
    row("s01/can/000", True, 0.1),
    row("s01/can/001", True, 0.3, released_frames=2, false_frames=2),
    row("s02/box/000", False, 0.1, released_frames=3, false_frames=1),
    row("s02/box/001", True, 0.1),
]


def test_summary_by_hand():
    got = summarise(ROWS)
    assert got["episodes"] == 4
    assert got["paper"]["succ"]["value"] == 75.0
    assert got["paper"]["succ"]["low"] == pytest.approx(30.06, abs=0.01)  # Wilson, 3 of 4
    assert got["paper"]["succ"]["high"] == pytest.approx(95.44, abs=0.01)
    assert got["released"]["succ"]["value"] == 100.0
    assert got["difference"]["succ"]["value"] == pytest.approx(25.0)
    assert got["paper"]["safe"]["value"] == 75.0 and got["released"]["safe"]["value"] == 50.0
    assert got["paper"]["pen_dep_cm"]["value"] == pytest.approx(0.15)
    assert got["paper"]["pen_dep_cm"]["low"] == 0.0  # 0.15 - 0.159, but no depth is negative
    assert got["paper"]["pen_dep_cm"]["high"] == pytest.approx(0.15 + 3.18245 * 0.1 / 2, abs=1e-5)
    assert got["difference"]["pen_dep_cm"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert got["difference"]["traj_len_m"]["value"] == pytest.approx(-0.1)
    assert got["giver_force_N"]["value"] == 2.0
    assert set(got["paper"]) == set(got["released"]) == set(got["difference"]) == set(REPORTED.values())


def test_false_positives_by_hand():
    got = false_positives(ROWS)
    assert (got["frames"], got["penetrating_frames"], got["false_frames"], got["missed_frames"]) == (120, 5, 3, 4)
    assert got["deepest_false_cm"] == 7.0
    assert (got["unsafe_episodes"], got["unsafe_only_by_false_frames"]) == (2, 1)
    assert got["safe"]["value"] == 50.0 and got["safe_without_false_frames"]["value"] == 75.0
    assert got["pen_dep_cm"]["value"] == pytest.approx(1.15)
    assert got["pen_dep_cm_without_false_frames"]["value"] == pytest.approx(1.15 - 1.5 / 4)


def test_one_episode_has_no_interval_of_a_mean_and_none_has_no_value():
    assert summarise(ROWS[:1])["paper"]["pen_dep_cm"] == {"value": pytest.approx(0.1), "low": None, "high": None}
    empty = build_report([], config=CONFIG, missing=CONFIG["replay_ids"])
    assert empty["overall"]["paper"]["succ"] == {"value": None, "low": 0.0, "high": 100.0}
    assert "4 episodes are missing" in to_markdown(empty)


def test_report_groups_counts_and_is_json():
    report = build_report(ROWS, config=CONFIG)
    assert report["ended"] == {"REACHED": 3, "TIMEOUT_APPROACH": 1}
    assert list(report["by_object"]) == ["box", "can"] and report["by_object"]["box"]["episodes"] == 2
    assert report["by_kind"]["seen_object"]["paper"]["succ"]["value"] == 100.0
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert build_report(ROWS[::-1], config=CONFIG) == report  # whatever the order of the episodes


def test_markdown_shows_the_numbers():
    text = to_markdown(build_report(ROWS, config=CONFIG, speed={
        "frames": 120, "seconds": 2.0, "frames_per_second": 60.0, "num_envs": 4
    }))  # fmt: skip
    assert "| succ (%) | 75.0 [30.1, 95.4] | 100.0 [51.0, 100.0] | 25.0 [-54.6, 104.6] |" in text
    assert "| TIMEOUT_APPROACH | 1 | 25.0 |" in text
    assert "1 of 2 episodes that it calls unsafe are so only by false frames" in text
    assert "60 frames/s (120 frames in 2.0 s, 4 worlds side by side)" in text
    widths = {title: {line.count("|") for line in block.splitlines() if line.startswith("|")}
              for title, block in (part.split("\n", 1) for part in text.split("\n## ")[1:])}  # fmt: skip
    assert widths["By object"] == {11} and widths["Approach"] == {5}


# ----------------------------------------------------------------------------------------------------------- run folder
def record(replay: str, frames: int = 3, **changes) -> dict:
    values = {
        "replay": replay, "object": "can", "subject": 1, "kind": "train", "mode": "hard", "fps": 30.0,
        "status": "REACHED", "alignment_begin": -1, "approach_frames": frames,
        "outcome": "NOT_REACHED", "release_frame": -1, "drop_time": math.inf, "slip": 0.0,
        "decided_frame": frames - 1, "reason": "by hand",
        "hand_state": np.zeros((frames, 28)), "object_pose": np.zeros((frames, 7)),
        "d": np.full(frames, math.inf), "depth": np.zeros(frames), "giver_force": np.zeros(frames),
        "phase": np.zeros(frames), "giver_peak": np.zeros((frames, 6)), "giver_impulse": np.zeros((frames, 6)),
        "contact_speed": np.zeros(frames), "load": np.zeros((frames, 3)), "giver_bones": np.zeros((frames, 16, 7)),
    }  # fmt: skip
    return values | changes


def test_episode_comes_back_as_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start({"a": 1}, resume=True)
    folder.save_episode(record("s01/a can/00%0", depth=np.arange(3.0)))
    assert folder.recorded_ids() == {"s01/a can/00%0"}
    got = folder.load_episode("s01/a can/00%0")
    assert got["depth"].tolist() == [0.0, 1.0, 2.0] and got["status"].item() == "REACHED"
    assert np.isinf(got["d"]).all()
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depth": np.zeros(4)}, r"hand_state must be \(4, 28\) beside depth, got \(3, 28\)"),
        ({"hand_state": np.zeros((3, 30))}, r"hand_state must be \(3, 28\)"),
        ({"giver_force": np.array([0, np.nan, 0])}, "giver_force has NaN or infinite numbers in frame 1"),
        ({"d": np.array([0, 0, np.nan])}, "d has NaN or infinite numbers in frame 2"),
    ],
)
def test_bad_record_is_refused_with_its_place(tmp_path, changes, message):
    folder = RunFolder(tmp_path)
    folder.start({}, resume=True)
    with pytest.raises(ValueError, match=message):
        folder.save_episode(record("s01/can/000", **changes))
    assert not folder.recorded_ids()


def test_cut_episode_file_counts_as_missing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({}, resume=True)
    folder.save_episode(record("s01/can/000"))
    file = folder.episode_path("s01/can/000")
    file.write_bytes(file.read_bytes()[:-30])
    assert folder.recorded_ids() == set()
    with pytest.raises(ValueError, match="cannot be read"):
        folder.load_episode("s01/can/000")


def test_other_config_is_refused_naming_the_fields(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({"evaluation": {"mode": "hard", "seed": 0}, "replay_ids": ["a"] * 9}, resume=True)
    folder.start({"evaluation": {"mode": "hard", "seed": 0}, "replay_ids": ["a"] * 9}, resume=True)
    with pytest.raises(
        ValueError, match=r"evaluation\.mode: 'hard' in the folder, 'easy' now; replay_ids \(0 no longer, 1 new"
    ):
        folder.start({"evaluation": {"mode": "easy", "seed": 0}, "replay_ids": ["a"] * 9 + ["b"]}, resume=True)
    with pytest.raises(FileExistsError, match="holds a run already"):
        folder.start({}, resume=False)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        _ = RunFolder(tmp_path / "elsewhere").config
