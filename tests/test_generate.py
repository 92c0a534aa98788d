"""Synthetic trials: motion of the giver, drawing, generation of a store, and the store that ships with the package."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dexh2r_gym.agents import find_agent
from dexh2r_gym.replay import ReplayStore, shipped_stores
from dexh2r_gym.replay.demos import carry_on, demonstrate
from dexh2r_gym.replay.draw import FPS, MIN_GOALS, START_DISTANCE
from dexh2r_gym.replay.generate import Preset, generate
from dexh2r_gym.replay.motion import (
    HOLD_SHARE,
    draw_motion,
    draw_offers,
    draw_subjects,
    forearm_direction,
    hand_axis,
    minimum_jerk,
    within_reach,
)
from dexh2r_gym.replay.splits import TEST_KINDS
from dexh2r_gym.replay.statistics import statistics, trial_statistics
from dexh2r_gym.rotations import pose_multiply, pose_velocity, quat_angle, quat_from_axis_angle, quat_rotate
from dexh2r_gym.types import split_hand_state

TINY = Preset(
    num_trials=3, num_subjects=3, objects=("banana", "beer_bottle", "thermos"), validation=(1, 1), test=(1, 1)
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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_offers_are_in_line_with_the_forearm_give_or_take(seed):
    for subject in draw_subjects(2, seed):  # one right, one left hand
        offers = draw_offers(subject, 32, np.random.default_rng(seed))
        forearm = forearm_direction(subject, offers[:, :3])
        bend = (hand_axis(subject.side, offers[:, 3:]) * forearm).sum(-1).clamp(-1, 1).arccos()
        assert bend.max() < 0.7 * 2**0.5 + 1e-6, "two bends of at most 0.7 rad"


def test_a_straight_wrist_without_roll_points_its_thumb_up_and_its_palm_inward():
    class Middle:  # draws the middle of every distribution
        normal = staticmethod(lambda mean, spread, size: np.broadcast_to(mean, size).astype(float))
        uniform = staticmethod(lambda low, high, size: np.full(size, (low + high) / 2))

    for subject in draw_subjects(2, 0):
        offer = draw_offers(subject, 1, Middle())[0]  # type: ignore[arg-type]
        axes = quat_rotate(offer[3:].expand(2, 4), torch.tensor([[0.0, -1, 0], [0, 0, 1]]).double())  # palm, thumb side
        outward = 1.0 if subject.side == "right" else -1.0
        assert axes[0, 1] * outward < -0.8
        assert axes[1, 2] > 0.8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num_frames=st.integers(90, 130))
def test_motion_is_smooth_slow_at_the_end_and_within_reach(seed, num_frames):
    rng = np.random.default_rng(seed)
    subject = draw_subjects(2, seed)[seed % 2]
    offer = draw_offers(subject, 1, rng)[0]
    wrist = next(
        (w for w in (draw_motion(subject, offer, num_frames, FPS, rng) for _ in range(50)) if w is not None), None
    )
    assume(wrist is not None)  # None: an offer at the edge of what the arm reaches
    assert wrist is not None
    assert wrist.shape == (num_frames, 7)
    assert within_reach(subject, wrist).all()
    velocity = pose_velocity(wrist[:-1], wrist[1:], 1 / FPS)
    assert velocity[:, :3].norm(dim=-1).max() < 1.5
    hold = round(HOLD_SHARE * num_frames) - 1
    assert velocity[-hold:, :3].norm(dim=-1).max() < 0.07
    assert (wrist[-hold:, :3] - offer[:3]).norm(dim=-1).max() < 0.03
    assert quat_angle(wrist[-hold:, 3:], offer[3:].expand(hold, 4)).max() < 0.1
    acceleration = velocity.diff(dim=0)[:, :3].norm(dim=-1) * FPS
    assert acceleration.max() < 9.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ReplayStore:
    return ReplayStore(
        generate(
            tmp_path_factory.mktemp("tiny") / "tiny.zarr.zip", preset=TINY, seed=5, demonstrator=None, progress=False
        )
    )


def test_generated_trials_are_good(tiny):
    assert len(tiny) == TINY.num_trials
    for replay in tiny:
        check_trial(replay)


def check_trial(replay) -> None:
    """What is promised of every synthetic trial."""
    found = trial_statistics(replay)
    assert found.overlap < 0.004
    assert found.held == 1.0
    assert found.largest_step < 0.05
    assert found.peak_speed <= 1.001
    assert found.offer_speed < 0.05
    assert found.free_goals >= MIN_GOALS
    assert START_DISTANCE[0] - 1e-3 <= found.start_distance <= START_DISTANCE[1] + 1e-3
    assert replay.hand_start[0] < replay.object_pose[0, 0], "the robot comes from -x"
    hand = quat_from_axis_angle(replay.giver[:, 3:6])
    assert hand_axis(replay.side, hand)[-1, 0] > 0.2, "the giver's hand comes from +x"


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


def test_demonstrations_start_at_the_start_and_keep_their_grasp(tiny):
    demos = demonstrate(tiny.path, find_agent("scripted"), progress=False)
    assert demos and demos.keys() <= set(tiny.ids())
    for id, demo in demos.items():
        replay = tiny.replay(id)
        assert demo.shape == (replay.num_frames, 28)
        assert np.linalg.norm(demo[0, :3] - replay.hand_start[:3].numpy()) < 0.01
        palm, _ = split_hand_state(torch.from_numpy(demo[-1]))
        goals = pose_multiply(replay.object_pose[-1], replay.goal_pose[replay.goal_free[-1]])
        assert (goals[:, :3] - palm[:3]).norm(dim=-1).min() < 0.02


def test_a_demonstration_is_carried_on_with_the_object():
    object_pose = torch.tensor([[0.0, 0, 1, 1, 0, 0, 0], [0.1, 0, 1, 1, 0, 0, 0], [0.1, 0, 1, 0, 0, 0, 1]]).double()
    states = torch.cat((torch.tensor([-0.2, 0, 1, 0, 0, 0]), torch.full((22,), 0.3))).double()[None]
    found = carry_on(states, object_pose)
    assert found.shape == (3, 28)
    expected = torch.tensor([[-0.2, 0, 1], [-0.1, 0, 1], [0.3, 0, 1]]).double()  # the last turned half round about z
    torch.testing.assert_close(found[:, :3], expected)
    assert (found[:, 6:] == found[0, 6:]).all()


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tiny, tmp_path):
    again = generate(tmp_path / "again.zarr.zip", preset=TINY, seed=5, demonstrator=None, workers=2, progress=False)
    assert again.read_bytes() == tiny.path.read_bytes()


def test_bad_arguments_name_the_choices(tmp_path):
    with pytest.raises(ValueError, match="unknown preset 'maxi'; choose one of mini"):
        generate(tmp_path / "x.zarr.zip", preset="maxi")
    with pytest.raises(ValueError, match="workers must be at least 1"):
        generate(tmp_path / "x.zarr.zip", preset=TINY, workers=0)
    (tmp_path / "there.zarr.zip").touch()
    with pytest.raises(FileExistsError, match="overwrite"):
        generate(tmp_path / "there.zarr.zip", preset=TINY)


@pytest.fixture(scope="module")
def mini() -> ReplayStore:
    return ReplayStore.open("mini")


def test_mini_is_as_promised(mini):
    assert shipped_stores()["mini"].stat().st_size < 5e6
    mini.check()
    assert len(mini) >= 60
    assert len({info.object for info in mini.infos}) >= 12
    assert len({info.subject for info in mini.infos}) >= 6
    assert {info.side for info in mini.infos} == {"right", "left"}
    assert {info.kind for info in mini.infos} == {"train", "validation", *TEST_KINDS}


def test_trials_of_mini_are_good(mini):
    for replay in list(mini)[::7]:
        check_trial(replay)


def test_mini_moves_like_recorded_handovers(mini):
    """Ranges of recorded handovers: duration 3 to 5 s, mean speed about 0.3 m/s, peak below 1 m/s."""
    found = statistics(list(mini)[::4])
    assert 3.0 <= found["seconds"]["median"] <= 4.5
    assert 0.15 <= found["mean_speed"]["median"] <= 0.40
    assert found["peak_speed"]["max"] <= 1.001
    assert found["overlap"]["median"] <= 0.003
