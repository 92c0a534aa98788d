"""Actions that are late: a fixed number of frames, or as many as the policy thinks."""

import json
import re
import warnings

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.latency import MAX_LATENCY, ActionDelay, Stopwatch, frames_late, latency_frames
from dexh2r_gym.replay import ReplayStore
from tests.test_table3 import store_of

ID = "DexH2R-Handover-v0"
IDS = ReplayStore.open("mini").ids("test")[:3]


def make(num_envs=3, **options):
    options = {"backend": "kinematic", "split": "test", "alignment": "none", "released_metrics": False} | options
    return HandoverVectorEnv(num_envs, autoreset_mode="Disabled", **options)


def open_loop(frames, start, mode="absolute", **options):
    """Hand states (T, 3, 28) of worlds that are told the same plan, whatever they see."""
    env = make(control_mode=mode, **options)
    observation, _ = env.reset(seed=0, options={"replay": IDS})
    seen = [observation[:, :28]]
    for t in range(frames):
        observation, *_ = env.step(plan(t, observation[:, :28] * 0, seen[0], mode) if start is None else start)
        seen.append(observation[:, :28])
    return np.stack(seen)


def plan(t, zero, first, mode):
    """Another target in every frame."""
    step = zero.copy()
    step[:, :3] = 0.5 * np.sin(0.3 * t + np.arange(3))
    step[:, 6:] = 0.2
    return step if mode == "delta" else first + 0.05 * step


@pytest.mark.parametrize("mode", ["absolute", "delta"])
@pytest.mark.parametrize("backend", ["kinematic", "mujoco"])
def test_two_frames_of_latency_are_the_same_way_two_frames_later(mode, backend):
    prompt = open_loop(15, None, mode, backend=backend)
    late = open_loop(17, None, mode, backend=backend, latency=2)
    close = {"atol": 1e-6} if backend == "kinematic" else {"atol": 2e-3}
    np.testing.assert_allclose(late[2:], prompt, **close)
    np.testing.assert_allclose(late[:3], prompt[:1].repeat(3, axis=0), **close)
    assert np.ptp(prompt, axis=0).max() > 0.03


def test_no_latency_changes_no_bit():
    np.testing.assert_array_equal(open_loop(15, None), open_loop(15, None, latency=0))


def test_a_world_that_starts_anew_waits_anew_and_its_neighbour_does_not():
    env = make(2, latency=3)
    observation, _ = env.reset(seed=0, options={"replay": IDS[:2]})
    there = observation[:, :28].copy()
    there[:, 1] += 0.3
    for _ in range(6):
        observation, *_ = env.step(there)
    mask = np.array([True, False])
    before = observation.copy()
    observation, _ = env.reset(options={"replay": IDS[:2], "reset_mask": mask})
    for _ in range(3):
        last = observation
        observation, *_ = env.step(there)
        np.testing.assert_allclose(observation[0, :28], last[0, :28], atol=1e-6)
    assert observation[1, 1] > before[1, 1] + 0.1
    observation, *_ = env.step(there)
    assert observation[0, 1] > last[0, 1] + 0.01


def test_alignment_by_the_environment_is_not_late():
    """An agent that follows the goal: with latency alignment begins later, but then moves at the same pace."""
    env = make(1, alignment="env", mode="easy", latency=4)
    observation, _ = env.reset(seed=0, options={"replay": IDS[0]})
    ended = False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(observation[:, 117:145])
        ended = bool(terminated[0] | truncated[0])
    record = env.episode_record(0)
    begin = record["alignment_begin"]
    assert record["status"] == "REACHED" and begin > 0
    assert (np.diff(record["d"][begin:]) < 1e-9).mean() > 0.7


def exchange(delay, value, late, on=None):
    count = len(delay._frame)
    action = torch.full((count, 28), float(value), dtype=torch.float64)
    on = torch.ones(count, dtype=torch.bool) if on is None else on
    out, told, fresh = delay.exchange(action, torch.full((count,), late), on)
    return [int(x) if t else None for x, t in zip(out[:, 0], told, strict=True)], fresh.tolist()


def test_the_newest_action_wins_and_older_ones_that_come_after_it_are_dropped():
    delay = ActionDelay(1, 5)
    lates = [4, 1, 1, 0, 3, 0, 2, 0]
    got = [exchange(delay, t, late) for t, late in enumerate(lates)]  # 0 and 4 come after newer ones
    assert [x[0] for x, _ in got] == [None, None, 1, 3, 3, 5, 5, 7]
    assert [f[0] for _, f in got] == [False, False, True, True, False, True, False, True]


def test_two_that_arrive_together_count_as_the_newer():
    delay = ActionDelay(1, 5)
    assert [exchange(delay, t, late)[0][0] for t, late in enumerate([2, 1, 2, 2])] == [None, None, 1, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=20), st.integers(0, 2**31))
def test_worlds_are_independent_and_follow_the_rule(lates, seed):
    """Against the rule itself, written plainly, for one world."""
    pauses = torch.rand(len(lates), 4, generator=torch.Generator().manual_seed(seed)) < 0.2
    delay, plain = ActionDelay(4, 4), [[] for _ in range(4)]
    clock, newest = [0] * 4, [-1] * 4
    for t, late in enumerate(lates):
        on = ~pauses[t]
        action = torch.full((4, 28), float(t), dtype=torch.float64)
        out, told, _ = delay.exchange(action, torch.tensor(late), on)
        for w in range(4):
            if not on[w]:
                continue
            plain[w].append((clock[w] + late[w], clock[w], t))
            here = [(given, value) for arrives, given, value in plain[w] if arrives == clock[w] and given > newest[w]]
            if here:
                newest[w] = max(here)[0]
            clock[w] += 1
            assert bool(told[w]) == (newest[w] >= 0)
            if told[w]:
                assert out[w, 0] == next(value for _, given, value in plain[w] if given == newest[w])


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_real_time_takes_what_the_policy_takes():
    env, clock = make(3, realtime=True), Clock()
    env._watch = Stopwatch(clock)
    observation, _ = env.reset(seed=0, options={"replay": IDS})
    first = observation[:, :28].copy()
    seen, there = [observation[:, 1]], first.copy()
    there[:, 1] += 0.3
    for _ in range(6):
        clock.now += 0.07  # 2.1 frames
        observation, *_ = env.step(there)
        seen.append(observation[:, 1])
    moved = np.abs(np.array(seen) - seen[0]).max(axis=1) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 3, (
        "the first arrives after three frames, and moves the hand in a fourth"
    )
    assert env.episode_record(0)["latency_ms"] == pytest.approx(70.0)


def test_drawing_is_not_thinking(monkeypatch):
    env, clock = make(1, realtime=True, render_mode="rgb_array"), Clock()
    env._watch = Stopwatch(clock)
    env.reset(seed=0, options={"replay": IDS[:1]})
    import dexh2r_gym.envs.handover_vector as module

    monkeypatch.setattr(module, "Stopwatch", lambda: Stopwatch(clock))

    def draw(*_, **__):
        clock.now += 5.0
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(env.task, "picture", draw)
    monkeypatch.setattr(env, "_get_renderer", lambda: None)
    env.render()
    clock.now += 0.01
    env.step(np.zeros((1, 28)))
    assert env._episodes.thinking.mean_ms[0] == pytest.approx(10.0)


def test_real_time_says_how_long_the_policy_took():
    env = make(1, realtime=True)
    observation, _ = env.reset(seed=0, options={"replay": IDS[0]})
    still, ended, info = observation[:, :28].copy(), False, {}
    while not ended:
        _, _, _, truncated, info = env.step(still)
        ended = bool(truncated[0])
    assert 0 <= info["latency_ms"][0] < 100


def test_latencies_in_frames():
    assert [latency_frames(ms, 30) for ms in (0, 33, 34, 67, 100, 101, 200)] == [0, 1, 2, 2, 3, 4, 6]
    assert [frames_late(s, 30) for s in (0.0, 0.01, 0.034, 0.07, 1e9)] == [1, 1, 2, 3, MAX_LATENCY]
    for wrong in (-1, 5000, float("nan")):
        with pytest.raises(ValueError, match=r"latency must be 0 to 3000 ms at 30 frames a second"):
            latency_frames(wrong, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": 91}, "latency must be 0 to 90, got 91"),
        ({"latency": -1}, "latency must be 0 to 90"),
        ({"latency": 2, "realtime": True}, "leave latency at 0, or realtime at False"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(1, **options)


@pytest.mark.parametrize("options", [{"latency": 2}, {"realtime": True}])
def test_checkers(options):
    env = gym.make(ID, backend="kinematic", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized).*")
        if not options.get("realtime"):  # which is not deterministic
            check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_latency_command_end_to_end(dexh2r, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "latency"
    line = f"latency --agent scripted --backend kinematic --replays {store_of(2, tmp_path)} --ms 33 200 --out {out}"
    assert dexh2r(line) == 0
    assert (out / "latency.md").read_text() in capsys.readouterr().out
    table = json.loads((out / "latency.json").read_text())
    assert [row["latency_frames"] for row in table["variants"]] == [0, 1, 6]
    assert "Latency of actions: 6 frames (200 ms)." in (out / "latency-6" / "report.md").read_text()
    assert imageio.imread(out / "latency.png").std() > 5
    assert "latency must be 0 to 3000 ms" in str(dexh2r(line.replace("200", "9000")))


def test_evaluate_takes_a_latency_in_words(dexh2r, tmp_path):
    store = store_of(1, tmp_path)
    line = f"evaluate --backend kinematic --replays {store} --out {tmp_path}"
    assert dexh2r(f"{line}/fixed --latency 100") == 0
    assert json.loads((tmp_path / "fixed" / "config.json").read_text())["evaluation"]["latency"] == 3
    assert dexh2r(f"{line}/measured --latency measured") == 0
    report = json.loads((tmp_path / "measured" / "report.json").read_text())
    assert report["speed"]["num_envs"] == 1 and 0 < report["latency_ms"]["value"] < 500
    assert "Latency of actions: the agent thought" in (tmp_path / "measured" / "report.md").read_text()
    assert "milliseconds or 'measured', got 'soon'" in str(dexh2r(f"{line}/wrong --latency soon"))
