"""Synthetic trials: givers, their motion, drawing, generation of a store, and the store that ships with the package."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dexh2r_gym.agents import find_agent
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.replay import ReplayError, ReplayStore, shipped_stores
from dexh2r_gym.replay import generate as generating
from dexh2r_gym.replay.demos import MIN_GAP, carry_on, demonstrate, giver_gap
from dexh2r_gym.replay.draw import FPS, MAX_SPEED, MAX_TURNING, MIN_GOALS, NUM_FRAMES, START_DISTANCE, draw_trial
from dexh2r_gym.replay.generate import generate
from dexh2r_gym.replay.motion import (
    draw_motions,
    draw_offers,
    draw_schedule,
    forearm_direction,
    hand_axis,
    minimum_jerk,
    within_reach,
    wrist_pose,
)
from dexh2r_gym.replay.presets import PRESETS, Preset, apportion, make_plan
from dexh2r_gym.replay.replay import SPLITS, replay_id
from dexh2r_gym.replay.shelf import SyntheticTrial, load_batch, save_batch
from dexh2r_gym.replay.splits import TEST_KINDS
from dexh2r_gym.replay.statistics import statistics, trial_statistics
from dexh2r_gym.replay.subjects import Subject, draw_subjects
from dexh2r_gym.replay.work import open_work
from dexh2r_gym.rotations import pose_multiply, pose_velocity, quat_rotate
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.manner import varied_manner

TINY = Preset(
    trials=(2, 1, 2), num_subjects=4, objects=("hammer", "power_drill", "tv_remote"), validation=(1, 1), test=(1, 1)
)


def test_minimum_jerk_is_the_known_polynomial():
    assert minimum_jerk(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    fine = np.linspace(0, 1, 10001)
    speed = np.gradient(minimum_jerk(fine), fine)
    assert speed.max() == pytest.approx(1.875, abs=1e-4)  # of the mean speed
    assert abs(speed[[0, -1]]).max() < 1e-3


def test_subjects_are_reproducible_and_different():
    subjects = draw_subjects(8, seed=3)
    assert subjects == draw_subjects(8, seed=3)
    assert len({s.betas for s in subjects}) == 8
    assert sorted(s.side for s in subjects).count("left") == 2
    for s in subjects:  # facing -x, so the right arm is at +y
        assert (s.shoulder[1] > 0) == (s.side == "right")


def test_elbow_of_a_known_arm():
    subject = draw_subjects(1, seed=0)[0]
    elbow = torch.tensor(subject.shoulder, dtype=torch.float64) + torch.tensor([0.02, 0.06, -0.30])
    direction = forearm_direction(subject, elbow - torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(direction, torch.tensor([1.0, 0, 0], dtype=torch.float64))


def test_hand_without_roll_and_bend_is_in_line_with_the_forearm_thumb_up_palm_inward():
    for subject in draw_subjects(2, 0):  # one right, one left hand
        arm = torch.tensor([*subject.offer, 0.0, 0.0, 0.0], dtype=torch.float64)
        wrist = wrist_pose(subject, arm)
        torch.testing.assert_close(hand_axis(subject.side, wrist[3:]), forearm_direction(subject, arm[:3]))
        palm, thumb = quat_rotate(wrist[3:].expand(2, 4), torch.tensor([[0.0, -1, 0], [0, 0, 1]]).double())
        assert palm[1] * subject.outward < -0.8
        assert thumb[2] > 0.8


@settings(max_examples=25, deadline=None)
@given(roll=st.floats(-1.8, 1.8), bend=st.floats(-1, 1), seed=st.integers(0, 100))
def test_roll_leaves_the_line_of_the_hand_and_a_bend_is_the_angle_to_the_forearm(roll, bend, seed):
    subject = draw_subjects(2, seed)[seed % 2]
    arm = torch.tensor([*subject.offer, roll, bend, 0.0], dtype=torch.float64)
    line = hand_axis(subject.side, wrist_pose(subject, arm)[3:])
    angle = float((line @ forearm_direction(subject, arm[:3])).clamp(-1, 1).arccos())
    assert angle == pytest.approx(abs(bend), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_movements_follow_one_another_and_end_when_the_object_is_held_out(seed):
    rng = np.random.default_rng(seed)
    subject = draw_subjects(1, seed)[0]
    schedule = draw_schedule(subject, 2.5, rng)
    end = schedule.start + schedule.duration
    assert schedule.start[0] == 0
    assert (np.diff(schedule.start) > 0).all() and (np.diff(end) > 0).all()
    assert end[-1] == pytest.approx(2.5)
    assert not schedule.back[0] and not schedule.back[-1]


def test_habits_show_in_the_schedule():
    subject = draw_subjects(1, 0)[0]
    rng = np.random.default_rng(0)
    calm = dataclasses.replace(subject, pausing=0.0, hesitation=0.0, second_offer=0.0)
    for _ in range(20):
        flowing = draw_schedule(calm, 2.5, rng)
        assert (flowing.start[1:] < (flowing.start + flowing.duration)[:-1]).all(), "movements overlap"
        assert not flowing.back.any()
        for wavering in (dataclasses.replace(calm, hesitation=1.0), dataclasses.replace(calm, second_offer=1.0)):
            schedule = draw_schedule(wavering, 2.5, rng)
            assert schedule.back.tolist() == [False] * (len(schedule.back) - 2) + [True, False]


def motions(subject: Subject, seed: int) -> torch.Tensor:
    """(n, 105, 7) wrist poses that the arm can do."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        wrist, good = draw_motions(subject, draw_offers(subject, 64, rng), 105, FPS, rng)
        assert (within_reach(subject, wrist[good])).all()
        found.append(wrist[good])
    return torch.cat(found)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_motion_is_smooth_and_within_reach(seed):
    wrist = motions(draw_subjects(2, seed)[seed % 2], seed)
    assume(len(wrist))  # one subject in 200 or so finds no motion; others give its trials
    velocity = pose_velocity(wrist[:, :-1], wrist[:, 1:], 1 / FPS)
    assert velocity[..., :3].norm(dim=-1).max() < 2.0
    assert (velocity.diff(dim=1)[..., :3].norm(dim=-1) * FPS).max() < 15.0


def test_nearly_all_subjects_find_motions():
    assert sum(len(motions(subject, 0)) > 0 for subject in draw_subjects(39, 0)) >= 38


def test_who_drifts_keeps_the_object_moving_and_who_does_not_holds_it_still():
    subject = dataclasses.replace(draw_subjects(1, 1)[0], patience=0.3, tremor=0.002)
    for drift, low, high in ((0.0, 0.0, 0.02), (1.0, 0.03, 0.2)):
        wrist = motions(dataclasses.replace(subject, drift=drift), 3)[:, -15:]
        speed = pose_velocity(wrist[:, :-1], wrist[:, 1:], 1 / FPS)[..., :3].norm(dim=-1).mean(-1)
        assert (low < speed).all() and (speed < high).all()


def test_shares_add_up_and_follow_the_weights():
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(803, [58, 192, 184]) == [107, 355, 341]
    assert apportion(3, [0, 5]) == [0, 3]


def test_paper_preset_has_the_papers_numbers():
    objects = tuple(f"object_{i:02d}" for i in range(56))
    plan = make_plan(dataclasses.replace(PRESETS["paper"], objects=objects), seed=0)
    totals = {kind: sum(plan.count[pair] for pair in pairs) for kind, pairs in plan.kinds.items()}
    assert (totals["train"], totals["validation"]) == (2888, 591)
    assert sum(totals[kind] for kind in TEST_KINDS) == 803
    assert (len(plan.splits.train_subjects), len(plan.splits.train_objects)) == (32, 46)
    assert len(plan.count) == 39 * 56
    for pairs in plan.kinds.values():
        counts = [plan.count[pair] for pair in pairs]
        assert max(counts) - min(counts) <= 1
    for part in range(2):  # no subject and no object of the training split is passed over
        given: dict = {}
        for pair in plan.kinds["train"]:
            given[pair[part]] = given.get(pair[part], 0) + plan.count[pair]
        assert max(given.values()) - min(given.values()) <= 3


def test_what_a_pair_cannot_give_others_of_its_kind_give():
    plan = make_plan(dataclasses.replace(TINY, trials=(4, 3, 5), num_subjects=4), seed=0)
    before = {kind: sum(plan.count[pair] for pair in pairs) for kind, pairs in plan.kinds.items()}
    kind, poor = next((kind, pairs[0]) for kind, pairs in plan.kinds.items() if len(pairs) > 1 and before[kind])
    assert plan.count[poor] > 0
    plan.hand_over({**plan.count, poor: 0})
    assert plan.count[poor] == 0
    assert {kind: sum(plan.count[pair] for pair in pairs) for kind, pairs in plan.kinds.items()} == before
    with pytest.raises(RuntimeError, match=f"no pair of subject and object gives more trials of kind {kind}"):
        plan.hand_over({pair: 0 for pair in plan.count})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ReplayStore:
    folder = tmp_path_factory.mktemp("tiny")
    out = generate(folder / "tiny.zarr.zip", preset=TINY, seed=5, demonstrator=None, workers=1, progress=False)
    assert [path.name for path in folder.iterdir()] == ["tiny.zarr.zip"], "nothing is left beside the store"
    return ReplayStore(out)


def test_generated_trials_are_good(tiny):
    splits = [info.split for info in tiny.infos]
    assert [splits.count(split) for split in ("train", "validation", "test")] == [2, 1, 2]
    for replay in tiny:
        check_trial(replay)


def check_trial(replay) -> None:
    """What is promised of every synthetic trial."""
    found = trial_statistics(replay)
    assert NUM_FRAMES[0] <= replay.num_frames <= NUM_FRAMES[1]
    assert found.overlap is not None and found.overlap < 0.004
    assert found.held == 1.0
    assert found.largest_step < 0.05
    assert found.peak_speed <= MAX_SPEED + 1e-3
    turning = pose_velocity(replay.object_pose[:-1], replay.object_pose[1:], 1 / FPS)[:, 3:].norm(dim=-1)
    assert turning.max() <= MAX_TURNING + 1e-2
    assert found.free_goals >= MIN_GOALS
    assert START_DISTANCE[0] - 1e-3 <= found.start_distance <= START_DISTANCE[1] + 1e-3
    assert replay.hand_start[0] < replay.object_pose[0, 0], "the robot comes from -x"


def test_a_trial_follows_from_its_name(tiny):
    subject = draw_subjects(3, 5)[1]
    first, again, other = (draw_trial(5, subject, "hammer", number=n, attempt=a) for n, a in ((0, 0), (0, 0), (0, 1)))
    assert first is not None and again is not None and other is not None
    np.testing.assert_array_equal(first.object_pose, again.object_pose)
    assert first.object_pose.shape != other.object_pose.shape or (first.object_pose != other.object_pose).any()


def test_statistics_of_a_straight_line(tiny):
    """0.3 m/s along x for one second, then still for one; the hand two metres away."""
    frames = torch.arange(61, dtype=torch.float64)
    pose = torch.tensor([0.0, 0, 1, 1, 0, 0, 0], dtype=torch.float64).repeat(61, 1)
    pose[:, 0] = 0.01 * frames.clamp_max(30)
    giver = tiny[0].giver[:1].repeat(61, 1)
    giver[:, :3] = torch.tensor([2.0, 0.0, 1.0])
    replay = dataclasses.replace(
        tiny[0], num_frames=61, fps=30.0, object_pose=pose, giver=giver, goal_free=torch.ones(61, 4, dtype=torch.bool)
    )
    found = trial_statistics(replay)
    assert found.seconds == pytest.approx(2.0)
    assert found.mean_speed == pytest.approx(0.3)
    assert found.peak_speed == pytest.approx(0.3)
    assert found.path == pytest.approx(0.3)
    assert found.largest_step == pytest.approx(0.01)
    assert found.offer_speed == found.mean_turning == found.overlap == found.held == 0.0
    assert found.free_goals == 4


@pytest.fixture(scope="module")
def demos(tiny) -> dict:
    return {
        name: demonstrate(tiny.path, find_agent("scripted"), varieties=varieties, num_envs=8, progress=False)
        for name, varieties in (("plain", 0), ("varied", 2))
    }


def test_demonstrations_start_at_the_start_and_keep_their_grasp(tiny, demos):
    for name in ("plain", "varied"):
        assert demos[name] and demos[name].keys() <= set(tiny.ids())
        for id, demo in demos[name].items():
            replay = tiny.replay(id)
            assert demo.shape == (replay.num_frames, 28)
            assert np.linalg.norm(demo[0, :3] - replay.hand_start[:3].numpy()) < 0.01
            grasp = split_hand_state(torch.from_numpy(demo[-1]))[0]
            goals = pose_multiply(replay.object_pose[-1], replay.goal_pose[replay.goal_free[-1]])
            assert (goals[:, :3] - grasp[:3]).norm(dim=-1).min() < 0.02
            assert giver_gap(replay, torch.from_numpy(demo)).min() > MIN_GAP


def test_varied_demonstrations_differ_but_not_with_the_number_of_worlds(tiny, demos):
    again = demonstrate(tiny.path, find_agent("scripted"), varieties=2, num_envs=2, progress=False)
    assert again.keys() == demos["varied"].keys()
    for id, demo in again.items():
        np.testing.assert_array_equal(demo, demos["varied"][id])
        if id in demos["plain"]:
            assert np.abs(demo - demos["plain"][id]).max() > 0.01


def test_manners_are_named_by_seed_and_trial():
    a, b = varied_manner(1, ["s00/can/000", "s01/can/000"], 4), varied_manner(1, ["s01/can/000"], 4)
    other = varied_manner(2, ["s01/can/000"], 4)
    for key, value in vars(a).items():
        assert torch.equal(value[1:2], getattr(b, key)), "the same whatever world it is"
        assert not torch.equal(value[:1], value[1:2])
        assert not torch.equal(getattr(other, key), getattr(b, key))


def test_gap_of_hands_known_apart(tiny):
    """The robot's open hand straight across the giver's wrist, then moved off along its palm's normal."""
    replay = tiny[0]
    capsule_ends = GiverHand.from_mano(replay.giver, replay.side).bone_poses(replay.giver[:1])[0, :, :3]
    center = capsule_ends.mean(0)
    reach = (capsule_ends - center).norm(dim=-1).max()
    pose = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64).repeat(replay.num_frames, 1)
    pose[:, :3] = center
    one = dataclasses.replace(replay, giver=replay.giver[:1].expand(replay.num_frames, -1))
    pose[1:, 1] += 1.0  # the hand's solid reaches at most 6 cm along y, the giver's 3 cm beyond its joints
    gap = giver_gap(one, join_hand_state(pose, OPEN_HAND.double().expand(replay.num_frames, -1)))
    assert gap[0] < -0.005
    assert 1.0 - reach - 0.09 < gap[1:].min() <= gap[1:].max() < 1.0


def test_a_demonstration_is_carried_on_with_the_object():
    object_pose = torch.tensor([[0.0, 0, 1, 1, 0, 0, 0], [0.1, 0, 1, 1, 0, 0, 0], [0.1, 0, 1, 0, 0, 0, 1]]).double()
    states = torch.cat((torch.tensor([-0.2, 0, 1, 0, 0, 0]), torch.full((22,), 0.3))).double()[None]
    found = carry_on(states, object_pose)
    assert found.shape == (3, 28)
    expected = torch.tensor([[-0.2, 0, 1], [-0.1, 0, 1], [0.3, 0, 1]]).double()  # the last turned half round about z
    torch.testing.assert_close(found[:, :3], expected)
    assert (found[:, 6:] == found[0, 6:]).all()


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "_BATCH", 5)
    again = generate(tmp_path / "a.zarr.zip", preset=TINY, seed=5, demonstrator=None, workers=2, progress=False)
    assert again.read_bytes() == tiny.path.read_bytes()


def test_stopped_work_goes_on_with_the_batches_that_are_there(tiny, tmp_path, monkeypatch):
    out = tmp_path / "a.zarr.zip"
    drawn: list[str] = []

    def draw(seed, subject, name, number, **rest):
        if len(drawn) == stop:
            raise KeyboardInterrupt
        drawn.append(replay_id(subject.number, name, number))
        return draw_trial(seed, subject, name, number=number, **rest)

    monkeypatch.setattr(generating, "_BATCH", 1)
    monkeypatch.setattr(generating, "draw_trial", draw)
    stop = 3
    with pytest.raises(KeyboardInterrupt):
        generate(out, preset=TINY, seed=5, demonstrator=None, workers=1, progress=False)
    assert len(drawn) == 3 and not out.exists()
    stop = 99
    generate(out, preset=TINY, seed=5, demonstrator=None, workers=1, progress=False)
    assert out.read_bytes() == tiny.path.read_bytes()
    assert sorted(drawn) == sorted(tiny.ids()), "no trial was drawn twice"


def test_work_on_something_else_is_not_gone_on_with(tmp_path):
    out = tmp_path / "a.zarr.zip"
    open_work(out, {"seed": 1})
    with pytest.raises(ReplayError, match="seed was 1, is 2"):
        generate(out, preset=TINY, seed=2, workers=1, progress=False)
    assert not out.exists()


def test_a_batch_is_read_as_it_was_written(tmp_path):
    trial = draw_trial(5, draw_subjects(1, 5)[0], "hammer", number=3)
    assert trial is not None
    demonstrated = dataclasses.replace(trial, number=4, demo=np.zeros((len(trial.object_pose), 28)))
    save_batch(tmp_path / "0.npz", [trial, demonstrated])
    found = load_batch(tmp_path / "0.npz")
    assert found is not None
    for written, read in zip((trial, demonstrated), found, strict=True):
        for field in dataclasses.fields(SyntheticTrial):
            value = getattr(written, field.name)
            if isinstance(value, np.ndarray) and value.dtype != bool:
                value = value.astype(np.float32)
            np.testing.assert_array_equal(getattr(read, field.name), value)
    assert load_batch(tmp_path / "1.npz") is None


def test_bad_arguments_name_the_choices(tmp_path):
    with pytest.raises(ValueError, match="unknown preset 'maxi'; choose one of train, paper, mini"):
        generate(tmp_path / "x.zarr.zip", preset="maxi")
    with pytest.raises(ValueError, match="unknown agent 'variety'"):
        generate(tmp_path / "x.zarr.zip", preset=TINY, demonstrator="variety")
    with pytest.raises(ValueError, match="workers must be at least 1"):
        generate(tmp_path / "x.zarr.zip", preset=TINY, workers=0)
    with pytest.raises(ValueError, match="wants 7 validation trials, but keeps no subject or object"):
        generate(tmp_path / "x.zarr.zip", preset=dataclasses.replace(TINY, trials=(1, 7, 1), validation=(0, 0)))
    (tmp_path / "there.zarr.zip").touch()
    with pytest.raises(FileExistsError, match="overwrite"):
        generate(tmp_path / "there.zarr.zip", preset=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["there.zarr.zip"]


@pytest.fixture(scope="module")
def mini() -> ReplayStore:
    return ReplayStore.open("mini")


def test_mini_is_as_promised(mini):
    preset = PRESETS["mini"]
    assert shipped_stores()["mini"].stat().st_size < 5e6
    mini.check()
    splits = [info.split for info in mini.infos]
    assert tuple(splits.count(split) for split in SPLITS) == preset.trials
    assert {info.object for info in mini.infos} == set(preset.objects)
    assert {info.subject for info in mini.infos} == set(range(preset.num_subjects))
    assert {info.side for info in mini.infos} == {"right", "left"}
    assert {info.kind for info in mini.infos} == {"train", "validation", *TEST_KINDS}
    assert all(info.has_demo for info in mini.infos)


def test_trials_of_mini_are_good(mini):
    for replay in list(mini)[::12]:
        check_trial(replay)
        assert giver_gap(replay, replay.demo).min() > 0.9 * MIN_GAP  # numbers in a store are rounded


def test_mini_moves_like_recorded_handovers(mini):
    """Ranges of recorded handovers: 106 frames, 0.3 m/s while moving, 0.65 m/s at most, 0.13 m/s when it is taken."""
    found = statistics(list(mini)[::6])
    assert 95 <= found["frames"]["median"] <= 120
    assert 0.25 <= found["mean_speed"]["median"] <= 0.36
    assert 0.5 <= found["peak_speed"]["median"] <= 0.85
    assert found["peak_speed"]["max"] <= MAX_SPEED + 1e-3
    assert 0.7 <= found["path"]["median"] <= 1.1
    assert 0.07 <= found["taken_speed"]["median"] <= 0.22
    assert found["overlap"]["median"] <= 0.003
