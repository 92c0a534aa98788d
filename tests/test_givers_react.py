"""Givers that do not play their recording as it is: hand-made cases with known answers, and properties."""

import json
import math
import re
import warnings

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from dexh2r_gym.envs import HandoverVectorEnv, giver_behaviour, playback
from dexh2r_gym.envs.giver_behaviour import (
    PAUSE_RAMP,
    RETRACTION_FORCE,
    RETRACTION_HOLD,
    RETRACTION_WAY,
    GiverBehaviour,
    Retraction,
    going,
)
from dexh2r_gym.envs.options import make_options
from dexh2r_gym.envs.playback import Playback
from dexh2r_gym.envs.recordings import Recordings
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.robustness import giver_variants
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.show.timeline import Timeline
from tests.test_table3 import store_of

ID = "DexH2R-Handover-v0"
FPS = 30.0
ALL = {"time_warp": 0.3, "hesitation": 0.4, "pose_offset": 0.02, "retraction": True}
behaviours = st.builds(
    GiverBehaviour, st.floats(0, 1), st.floats(0, 2), st.floats(0, 0.1), st.booleans(), st.floats(-1, 2)
)


@pytest.fixture(scope="module")
def recordings():
    return Recordings(ReplayStore.open("mini"))


IDS = ReplayStore.open("mini").ids("test")[:8]


def start(recordings, behaviour, ids=IDS, keys=None):
    """Playback of these trials at their first frame."""
    play = Playback(len(ids), recordings, FPS, behaviour)
    keys = torch.arange(len(ids)) * 1000 + 7 if keys is None else keys
    play.begin(torch.arange(len(ids)), recordings.indices(ids), keys)
    return play


def played(play, frames, force=lambda t: 0.0):
    """Object poses (T, B, 7), bones (T, B, 16, 7) and clocks (T, B) of so many frames; the robot is at the origin."""
    count = len(play.row)
    seen = [(play.object_pose, play.giver_bones, play._clock)]
    for t in range(1, frames):
        play.advance(
            torch.ones(count, dtype=torch.bool), torch.full((count,), float(force(t))), torch.zeros(count, 3).double()
        )
        seen.append((play.object_pose, play.giver_bones, play._clock))
    return [torch.stack(x) for x in zip(*seen, strict=True)]


def recorded(recordings, id):
    """Object poses (T, 7) and bones (T, 16, 7) as recorded."""
    trial = int(recordings.indices([id])[0])
    rows = slice(int(recordings.offset[trial]), int(recordings.offset[trial] + recordings.length[trial]))
    return recordings.object_pose[rows], recordings.giver_bones[rows]


@pytest.mark.parametrize("behaviour", [None, GiverBehaviour(), GiverBehaviour(release=0.3)])
def test_without_a_behaviour_it_is_the_recording_bit_for_bit(recordings, behaviour):
    play = start(recordings, behaviour)
    objects, bones, _ = played(play, 200)  # longer than any recording
    for world, id in enumerate(IDS):
        pose, hand = recorded(recordings, id)
        assert torch.equal(objects[: len(pose), world], pose)
        assert torch.equal(bones[: len(pose), world], hand)
        assert torch.equal(objects[len(pose) :, world], pose[-1:].expand(200 - len(pose), -1))
    assert play.ended.all() and torch.equal(play.progress, torch.ones(len(IDS), dtype=torch.float64))


def test_constant_half_speed_shows_every_frame_and_the_middle_between_two(recordings, monkeypatch):
    monkeypatch.setattr(playback, "playing_speed", lambda warp, period, phase, t: torch.full_like(t, 0.5))
    play = start(recordings, GiverBehaviour(time_warp=1.0))
    objects, bones, _ = played(play, 61)
    for world, id in enumerate(IDS):
        pose, hand = recorded(recordings, id)
        torch.testing.assert_close(objects[::2, world], pose[:31], atol=1e-12, rtol=0)
        torch.testing.assert_close(bones[::2, world], hand[:31], atol=1e-12, rtol=0)
        torch.testing.assert_close(objects[1::2, world, :3], (pose[:30, :3] + pose[1:31, :3]) / 2)
        halves = quat_angle(objects[1::2, world, 3:], pose[:30, 3:]), quat_angle(pose[:30, 3:], pose[1:31, 3:]) / 2
        torch.testing.assert_close(*halves, atol=1e-9, rtol=0)
    assert play.frame.tolist() == [30] * len(IDS)


def test_the_episode_ends_when_the_recording_does(recordings, monkeypatch):
    monkeypatch.setattr(playback, "playing_speed", lambda warp, period, phase, t: torch.full_like(t, 2.0))
    play = start(recordings, GiverBehaviour(time_warp=1.0), IDS[:1])
    frames = int(recordings.length[recordings.indices(IDS[:1])])
    played(play, math.ceil((frames - 1) / 2))
    assert not play.ended.any()
    played(play, 2)
    assert play.ended.all()


def test_playing_speed_stays_within_its_bounds_and_wanders(recordings):
    play = start(recordings, GiverBehaviour(time_warp=0.3))
    clock = played(play, 60)[2]
    speed = clock.diff(dim=0)
    assert speed.max() <= 1.3 and speed.min() >= 1 / 1.3
    assert (speed.amax(0) - speed.amin(0)).min() > 0.01
    assert speed.diff(dim=0).abs().max() < 0.05  # smoothly
    assert (clock[-1].max() - clock[-1].min()) > 3, "givers differ"


def test_a_hesitating_giver_stands_still_for_its_pause_and_goes_on(recordings):
    begin, pause = torch.tensor([1.0]).double(), torch.tensor([0.5]).double()
    seconds = torch.linspace(0, 3, 3001).double()
    left = going(begin, pause, seconds)
    assert (left[(seconds >= 1.0) & (seconds <= 1.5)] == 0).all()
    assert (left[(seconds < 1.0 - PAUSE_RAMP) | (seconds > 1.5 + PAUSE_RAMP)] == 1).all()
    lost = float((1 - left).mean() * 3)
    assert lost == pytest.approx(0.5 + PAUSE_RAMP, abs=2e-3)  # each ramp costs half of itself

    play = start(recordings, GiverBehaviour(hesitation=0.6))
    draws = play._draws
    assert ((draws.pause >= 0.3) & (draws.pause <= 0.9)).all()
    frames = int(recordings.length.max()) + 50
    objects, _, clock = played(play, frames)
    still = (clock.diff(dim=0) == 0) & (clock[1:] < play._last)
    assert ((still.sum(0) / FPS - draws.pause).abs() <= 1.5 / FPS).all()
    assert (objects.diff(dim=0)[still] == 0).all()


def test_pauses_are_as_long_as_asked_for_on_the_average(recordings):
    seconds = torch.full((2000,), 4.0, dtype=torch.float64)
    drawn = giver_behaviour.draw(
        GiverBehaviour(hesitation=0.8, release=-0.4, pose_offset=0.03),
        torch.arange(2000),
        torch.zeros(2000, 3, dtype=torch.float64),
        seconds,
    )
    assert float(drawn.pause.mean()) == pytest.approx(0.8, rel=0.03)
    assert float(drawn.release.mean()) == pytest.approx(-0.4, rel=0.03) and (drawn.release < 0).all()
    assert float(drawn.shift[:, :3].std(0).mean()) == pytest.approx(0.03, rel=0.08)
    assert drawn.shift[:, :3].abs().max() <= 0.06


def test_an_offset_moves_object_and_giver_alike_once_and_for_all(recordings):
    play = start(recordings, GiverBehaviour(pose_offset=0.05))
    objects, bones, _ = played(play, 40)
    shifts = []
    for world, id in enumerate(IDS):
        pose, hand = (x[:40] for x in recorded(recordings, id))
        shift = pose_multiply(objects[:, world], pose_inverse(pose))
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-9, rtol=0)
        torch.testing.assert_close(pose_multiply(shift[:, None], hand), bones[:, world], atol=1e-9, rtol=0)
        assert shift[0, 4:6].abs().max() < 1e-9, "turned about the vertical alone"
        moved = objects[0, world, :3] - pose[0, :3]
        assert 0.001 < moved.norm() < 0.1 * 3**0.5
        shifts.append(moved)
    assert torch.stack(shifts).std(0).min() > 0.01


def test_a_pushed_giver_draws_back_from_the_robot_and_returns(recordings):
    behaviour = GiverBehaviour(retraction=True)
    calm = played(start(recordings, behaviour), 90, lambda t: 0.9 * RETRACTION_FORCE)
    plain = played(start(recordings, None), 90)
    torch.testing.assert_close(calm[0], plain[0], atol=1e-12, rtol=0)

    pushed = played(start(recordings, behaviour), 120, lambda t: 20.0 if t == 10 else 0.0)
    plain = played(start(recordings, None), 120)
    away = pushed[0][..., :3] - plain[0][..., :3]  # (T, B, 3)
    torch.testing.assert_close(pushed[1][..., :3] - plain[1][..., :3], away[:, :, None].expand(-1, -1, 16, -1))
    assert (away[:10] == 0).all()
    way = away.norm(dim=-1)
    assert way.diff(dim=0).abs().max() * FPS < 0.25
    top = way.argmax(0)
    assert ((way.amax(0) > 0.9 * RETRACTION_WAY) & (way.amax(0) <= RETRACTION_WAY)).all()
    assert ((top - 10) / FPS - RETRACTION_HOLD).abs().max() < 0.2
    assert way[-1].max() < 1e-3
    wrist = plain[1][9, :, 0, :3]
    torch.testing.assert_close(away[40], way[40, :, None] * wrist / wrist.norm(dim=-1, keepdim=True))


def test_a_giver_that_is_pushed_on_and_on_stays_away_and_does_not_go_farther():
    state = Retraction.none(1)
    palm, hand = torch.zeros(1, 3).double(), torch.tensor([[1.0, 0, 0]]).double()
    for _ in range(300):
        state = state.step(torch.tensor([50.0]), palm, hand, 1 / FPS)
    torch.testing.assert_close(state.offset, torch.tensor([[RETRACTION_WAY, 0, 0]]).double())


@settings(max_examples=15, deadline=None)
@given(behaviours, st.integers(0, 2**61), st.integers(0, 7))
def test_a_world_has_the_same_bits_whatever_stands_beside_it(recordings, behaviour, key, world):
    keys = key + 1000 * torch.arange(8)
    push = lambda t: 20.0 if t % 23 == 5 else 0.0  # noqa: E731
    together = played(start(recordings, behaviour, keys=keys), 40, push)
    alone = played(start(recordings, behaviour, [IDS[world]], keys[world : world + 1]), 40, push)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[:, world], b[:, 0])


@settings(max_examples=15, deadline=None)
@given(behaviours, st.integers(0, 2**61))
def test_nothing_jumps_and_the_episode_is_no_longer_than_said(recordings, behaviour, key):
    play = start(recordings, behaviour, keys=key + torch.arange(8))
    longest = play.longest(recordings.indices(IDS))
    objects, _, _ = played(play, longest, lambda t: 20.0 if t % 40 == 20 else 0.0)
    assert play.ended.all()
    for world, id in enumerate(IDS):
        pose, _ = recorded(recordings, id)
        fastest = float(pose[:, :3].diff(dim=0).norm(dim=-1).max()) * (1 + behaviour.time_warp) + 0.25 / FPS
        assert objects[:, world, :3].diff(dim=0).norm(dim=-1).max() <= fastest
        turning = float(quat_angle(pose[1:, 3:], pose[:-1, 3:]).max()) * (1 + behaviour.time_warp) + 1e-6
        assert quat_angle(objects[1:, world, 3:], objects[:-1, world, 3:]).max() <= turning


def test_a_new_episode_leaves_the_others_as_they_are_and_draws_anew(recordings):
    play = start(recordings, GiverBehaviour(**ALL))
    played(play, 20)
    before, clock, shift = play.object_pose, play._clock.clone(), play._draws.shift.clone()
    play.begin(torch.tensor([2]), recordings.indices([IDS[5]]), torch.tensor([99]))
    others = torch.arange(8) != 2
    assert torch.equal(play.object_pose[others], before[others]) and torch.equal(play._clock[others], clock[others])
    assert play._clock[2] == 0 and not torch.equal(play._draws.shift[2], shift[2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_warp": 1.5}, "giver's time_warp must be 0 to 1, got 1.5"),
        ({"hesitation": -0.1}, "giver's hesitation must be 0 to 10 s, got -0.1"),
        ({"pose_offset": 0.5}, "giver's pose_offset must be 0 to 0.1 m, got 0.5"),
        ({"release": -2}, "giver's release must be -1 to 2 s, got -2"),
        ({"release": math.nan}, "giver's release must be -1 to 2 s, got nan"),
        ({"mood": 3}, "unknown behaviour 'mood' of the giver; choose from time_warp, hesitation"),
    ],
)
def test_wrong_values_are_refused_with_the_valid_ones(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_options({"giver": values})


def test_wrong_givers_are_refused():
    with pytest.raises(ValueError, match="must be a GiverBehaviour, a dict of its values, or None, got 3"):
        make_options({"giver": 3})
    with pytest.raises(ValueError, match="'kinematic' has no contact forces"):
        make_options({"giver": {"retraction": True}, "backend": "kinematic"})
    assert make_options({"giver": {}}).giver is None, "one that changes nothing is none"


def test_checkers():
    env = gym.make(ID, giver=ALL, split="test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized).*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_an_episode_may_outlast_its_recording_and_its_record_says_where_the_giver_was():
    env = gym.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        backend="kinematic",
        giver={"hesitation": 1.0, "pose_offset": 0.02},
        released_metrics=False,
        split="test",
    ).unwrapped
    observation, _ = env.reset(seed=3, options={"replay": IDS[:2]})
    still, ended = observation[:, :28].copy(), np.zeros(2, dtype=bool)
    while not ended.all():
        observation, _, _, truncated, _ = env.step(still)
        ended |= truncated
        assert (np.diff(observation[:, 147:148], axis=0) <= 1).all()
    for world, id in enumerate(IDS[:2]):
        record, replay = env.episode_record(world), ReplayStore.open("mini").replay(id)
        frames = record["recording_frame"]
        assert record["status"] == "TIMEOUT_APPROACH" and len(frames) > replay.num_frames + 15
        assert frames[0] == 0 and frames[-1] == replay.num_frames - 1 and (np.diff(frames) >= 0).all()
        wrist = np.linalg.norm(record["giver_bones"][:, 0, :3] - record["object_pose"][:, :3], axis=-1)
        joints = env.task._recordings.givers[world].bone_poses(replay.giver)[:, 0, :3]
        recorded = (joints - replay.object_pose[:, :3]).norm(dim=-1).numpy()
        np.testing.assert_allclose(wrist, recorded[frames], atol=0.01)


def test_the_same_seed_gives_the_same_giver_and_another_seed_another():
    def first_poses(seed):
        env = gym.make(ID, backend="kinematic", split="test", giver={"pose_offset": 0.05})
        observation, _ = env.reset(seed=seed, options={"replay": IDS[0]})
        return observation[56:63]

    np.testing.assert_array_equal(first_poses(1), first_poses(1))
    assert np.abs(first_poses(1) - first_poses(2)).max() > 0.005


def test_an_episode_is_shown_with_the_giver_as_it_was(tmp_path):
    env = HandoverVectorEnv(1, autoreset_mode="Disabled", backend="kinematic", giver={"hesitation": 1.0}, split="test")
    observation, _ = env.reset(seed=3, options={"replay": IDS[0]})
    still = observation[:, :28].copy()
    shown = [env.task.playback.giver_bones[0]]
    ended = False
    while not ended:
        _, _, _, truncated, _ = env.step(still)
        ended = bool(truncated[0])
        shown.append(env.task.playback.giver_bones[0])
    replay = ReplayStore.open("mini").replay(IDS[0])
    folder = RunFolder(tmp_path)
    folder.save_episode(env.episode_record(0))
    timeline = Timeline.of_episode(replay, folder.load_episode(IDS[0]))
    assert len(timeline.bones) == len(shown) > replay.num_frames
    torch.testing.assert_close(timeline.bones, torch.stack(shown), atol=1e-6, rtol=0)
    assert timeline.nearest()[0].shape == (len(shown),)
    record = env.episode_record(0) | {"recording_frame": np.zeros(3)}
    with pytest.raises(ValueError, match="recording_frame must be"):
        folder.save_episode(record)


def test_robustness_end_to_end(dexh2r, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    store, out = store_of(2, tmp_path), tmp_path / "robustness"
    line = f"robustness --agent scripted --backend kinematic --replays {store} --out {out}"
    assert dexh2r(line) == 0
    text = (out / "robustness.md").read_text()
    assert text in capsys.readouterr().out
    table = json.loads((out / "robustness.json").read_text())
    names = [row["name"] for row in table["variants"]]
    assert names == [variant.name for variant in giver_variants("kinematic")] and "retraction" not in names
    first, *others = table["variants"]
    assert "p" not in first and all(0 <= row["p_holm"] <= 1 for row in others)
    assert first["episodes"] == 2
    assert (out / "hesitation-1-s" / "report.md").read_text().count("hesitation 1.0") == 1
    assert imageio.imread(out / "robustness.png").std() > 5
    before = (out / "hesitation-1-s" / "speed.json").stat().st_mtime_ns
    assert dexh2r(line) == 0, "goes on where it stood"
    assert (out / "hesitation-1-s" / "speed.json").stat().st_mtime_ns == before


def test_variants_are_what_the_backend_and_the_ending_allow():
    names = [variant.name for variant in giver_variants("mujoco", "hold")]
    assert len(set(names)) == len(names) == 10 and names[0] == "as-recorded"
    assert "release-0.3-s-early" in names and "retraction" in names
    assert not {"retraction", "release-0.3-s-early"} & {v.name for v in giver_variants("kinematic")}


def test_evaluate_takes_a_giver_in_words(dexh2r, tmp_path, capsys):
    store = store_of(2, tmp_path)
    line = f"evaluate --backend kinematic --replays {store} --hesitation 0.5 --out {tmp_path / 'run'}"
    assert dexh2r(line) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["evaluation"]["giver"]["hesitation"] == 0.5
    assert dexh2r(line.replace("0.5", "11") + "x") == 2
    assert "giver's hesitation must be 0 to 10 s, got 11" in capsys.readouterr().err


def test_a_robot_that_pushes_the_giver_makes_it_draw_back():
    """Physics end to end: the palm is driven into the giver's hand."""

    def drawn_back(**giver):
        env = HandoverVectorEnv(1, autoreset_mode="Disabled", alignment="none", split="test", giver=giver)
        observation, _ = env.reset(seed=0, options={"replay": IDS[0]})
        away, force, ended = [0.0], [0.0], False
        while not ended:
            action = observation[:, :28].copy()
            action[:, :3] = env.task.playback.giver_bones[:, 0, :3].numpy()  # the wrist
            observation, _, terminated, truncated, info = env.step(action)
            ended = bool(terminated[0] | truncated[0])
            play = env.task.playback
            recorded, _ = play.recorded(torch.tensor([0]), play.frame[:, None])
            away.append(float((play.object_pose - recorded[:, 0])[0, :3].norm()))
            force.append(float(info["giver_force"][0]))
        return np.array(away), np.array(force)

    away, force = drawn_back(retraction=True)
    first = int(np.argmax(force > RETRACTION_FORCE))
    assert force.max() > RETRACTION_FORCE and (away[: first + 1] == 0).all()
    assert away.max() > 0.9 * RETRACTION_WAY
    still, pushed = drawn_back(retraction=True, release=0.5)[0], drawn_back(release=0.5)
    np.testing.assert_array_equal(still, away)
    assert pushed[0].max() == 0 and pushed[1].max() > force.max() / 2
