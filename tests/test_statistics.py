"""Measures of trials against cases with known answers, and the data card that is written from them."""

from __future__ import annotations

import dataclasses
import json
import sys

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.extras import MissingExtraError, import_extra
from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.grasps.collision import segment_distance
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.replay import Replay, ReplayStore, write_store
from dexh2r_gym.replay.card import describe, figures_table, reference_table, store_summary, summary_table, write_card
from dexh2r_gym.replay.reference import REFERENCES, SOURCES
from dexh2r_gym.replay.statistics import (
    MEASURES,
    count_pauses,
    giver_clearance,
    measure_trials,
    reach_frame,
    summarise,
    trial_statistics,
)
from dexh2r_gym.rotations import pose_apply, pose_multiply, quat_from_axis_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from tests.trials import object_of, trial_of

FPS = 30.0


@pytest.fixture(scope="module")
def mini() -> ReplayStore:
    return ReplayStore.open("mini")


def remade(replay: Replay, object_pose: torch.Tensor, **changes) -> Replay:
    """The trial with another motion of the object (T, 7), the giver going along rigidly, without a demonstration."""
    frames = len(object_pose)
    there = torch.cat((-replay.object_pose[0, :3], replay.object_pose.new_tensor([1.0, 0, 0, 0])))
    giver = move_mano(object_pose, move_mano(there, replay.giver[:1]).expand(frames, 61))
    new = {
        "num_frames": frames,
        "fps": FPS,
        "object_pose": object_pose,
        "giver": giver,
        "goal_free": torch.ones(frames, replay.goal_free.shape[1], dtype=torch.bool),
        "demo": None,
        "has_demo": False,
        "grasp_begin": -1,
    }
    return dataclasses.replace(replay, **(new | changes))


def along_x(x: torch.Tensor) -> torch.Tensor:
    pose = torch.tensor([0.0, 0, 1, 1, 0, 0, 0], dtype=torch.float64).repeat(len(x), 1)
    pose[:, 0] = x
    return pose


# ---------------------------------------------------------------- motion


def test_there_and_back_with_a_pause(mini):
    """0.3 m/s for 1 s, a pause of 0.5 s, back 0.15 m at 0.15 m/s, then still: 75 + 15 frames."""
    steps = torch.cat((torch.full((30,), 0.01), torch.zeros(15), torch.full((30,), -0.005), torch.zeros(15))).double()
    found = trial_statistics(remade(mini[0], along_x(torch.cat((torch.zeros(1), steps.cumsum(0))))), contact=False)
    assert (found.frames, found.seconds) == (91, pytest.approx(3.0))
    assert found.path == pytest.approx(0.45)
    assert found.net_displacement == pytest.approx(0.15)
    assert found.mean_speed == pytest.approx(0.225)
    assert found.peak_speed == pytest.approx(0.3)
    assert found.largest_step == pytest.approx(0.01)
    assert found.offer_speed == pytest.approx(0.15 * 15 / 30)  # last third: half of it still moving
    assert found.pauses == 1
    assert found.turned == found.mean_turning == 0.0
    assert found.goals == found.free_goals == mini[0].goal_free.shape[1]
    assert found.demo_seconds is found.demo_path is found.clearance is found.taken_speed is None
    assert found.overlap is found.held is None


def test_rotation_is_summed_and_told_while_moving(mini):
    """A quarter turn about the vertical and back in one second each, while it moves at 0.3 m/s; then still for one."""
    angle = torch.cat((torch.linspace(0, 1, 31), torch.linspace(1, 0, 31)[1:], torch.zeros(30))).double() * np.pi / 2
    pose = along_x(torch.arange(91).clamp_max(60).double() * 0.01)
    pose[:, 3:] = quat_from_axis_angle(torch.stack((0 * angle, 0 * angle, angle), dim=-1))
    found = trial_statistics(remade(mini[0], pose), contact=False)
    assert found.turned == pytest.approx(np.pi)
    assert found.mean_turning == pytest.approx(np.pi / 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.25, 4.0))
def test_motion_does_not_depend_on_the_world_frame_and_scales_with_the_frame_rate(seed, faster):
    rng = np.random.default_rng(seed)
    replay = ReplayStore.open("mini")[int(rng.integers(20))]
    turn = quat_from_axis_angle(torch.from_numpy(rng.normal(size=3)))
    world = torch.cat((torch.from_numpy(rng.normal(size=3)), turn))
    hand, joints = split_hand_state(replay.demo)
    moved = dataclasses.replace(
        replay,
        fps=replay.fps * faster,
        object_pose=pose_multiply(world, replay.object_pose),
        giver=move_mano(world, replay.giver),
        demo=join_hand_state(pose_multiply(world, hand), joints),
        hand_start=replay.hand_start,
    )
    before, after = (dataclasses.asdict(trial_statistics(r, contact=False)) for r in (replay, moved))
    for name in ("path", "net_displacement", "turned", "largest_step", "demo_path", "clearance", "frames"):
        assert after[name] == pytest.approx(before[name], rel=1e-6, abs=1e-6), name
    assert after["peak_speed"] == pytest.approx(faster * before["peak_speed"])
    assert after["demo_seconds"] == pytest.approx(before["demo_seconds"] / faster)


@settings(max_examples=200)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from((10.0, 30.0)))
def test_pauses_are_counted_between_movements_alone(moves, fps):
    text = "".join("m" if moving else "." for moving in moves).strip(".")
    expected = sum(len(gap) / fps >= 0.2 for gap in text.split("m"))
    assert count_pauses(torch.tensor(moves).double() * 0.3, fps) == expected


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_trials_have_finite_measures(mini, frames):
    found = trial_statistics(remade(mini[0], along_x(0.01 * torch.arange(frames).double())))
    values = [v for v in dataclasses.asdict(found).values() if v is not None]
    assert np.isfinite(values).all()
    assert found.path == pytest.approx(0.01 * (frames - 1))


# ---------------------------------------------------------------- demonstration


def test_a_demonstration_reaches_when_its_palm_stays_by_the_object(mini):
    """The palm comes 1 cm a frame along x to the object, which moves at 0.6 m/s until then, and goes along with it."""
    object_pose = along_x(0.02 * torch.arange(60).clamp_max(30).double())
    palm = object_pose[:, :3].clone()
    palm[:, 0] -= 0.02 + 0.01 * (40 - torch.arange(60)).clamp_min(0)
    turn = torch.tensor([[0.0, 0, 1]]).double().expand(60, 3)
    demo = torch.cat((palm, turn, torch.zeros(60, 22)), dim=-1)
    replay = remade(mini[0], object_pose, demo=demo, has_demo=True)
    assert reach_frame(replay) == 39  # 1 cm from its place at frame 40
    found = trial_statistics(replay, contact=False)
    assert found.demo_seconds == pytest.approx(39 / 30)
    assert found.demo_path == pytest.approx(0.03 * 30 + 0.01 * 9)
    assert found.taken_speed == 0.0
    told = dataclasses.replace(replay, grasp_begin=28)
    assert reach_frame(told) == 28
    assert trial_statistics(told, contact=False).taken_speed == pytest.approx(0.6)


def test_clearance_is_that_of_all_pairs_of_capsules(mini):
    link, p0, p1, radius = hand_capsules()
    for replay in (mini[0], mini[33], mini[66]):
        hand = GiverHand.from_mano(replay.giver, replay.side, model=replay.giver_model)
        bone, q0, q1, giver_radius = hand.capsules()
        links = forward_kinematics(*split_hand_state(replay.demo))[:, link]
        bones = hand.bone_poses(replay.giver)[:, bone]
        a0, a1 = (pose_apply(links, p)[:, :, None] for p in (p0, p1))
        b0, b1 = (pose_apply(bones, q)[:, None] for q in (q0, q1))
        every = segment_distance(a0, a1, b0, b1) - radius[:, None] - giver_radius
        assert giver_clearance(replay) == pytest.approx(float(every.min()), abs=1e-12)


# ---------------------------------------------------------------- summaries


def test_summary_leaves_out_what_is_not_there(mini):
    plain = remade(mini[0], along_x(torch.zeros(5).double()))
    columns = measure_trials([mini[0], plain, mini[1]], contact=lambda i: i == 2)
    assert columns.keys() == MEASURES.keys()
    assert np.isnan(columns["demo_path"]).tolist() == [False, True, False]
    assert np.isnan(columns["overlap"]).tolist() == [True, True, False]
    found = summarise(columns)
    assert found["demo_path"]["trials"] == 2 and found["overlap"]["trials"] == 1 and found["path"]["trials"] == 3
    assert found["path"]["min"] == 0.0
    without = summarise(measure_trials([plain], contact=lambda i: False))
    assert "clearance" not in without and "overlap" not in without
    with pytest.raises(ValueError, match="no trials"):
        measure_trials([])


def test_summary_of_known_numbers():
    column = np.append(np.arange(101.0), np.nan)
    assert summarise({"path": column})["path"] == {
        "trials": 101, "mean": 50.0, "min": 0.0, "p5": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0,
    }  # fmt: skip


def test_tables_tell_units_and_others_figures():
    measures = {
        "turned": dict.fromkeys(("min", "p5", "median", "p95", "max", "mean"), np.pi / 2) | {"trials": 7},
        "mean_speed": dict.fromkeys(("min", "p5", "median", "p95", "max", "mean"), 0.25) | {"trials": 7},
    }
    table = figures_table(measures).splitlines()
    assert table[2] == "| object's rotation, summed over the frames | ° | 90 | 90 | 90 | 90 | 90 | 7 |"
    assert len(table) == 4 and all(line.count("|") == 9 for line in table)
    beside = reference_table(measures)
    assert "0.25 (0.25 to 0.25) | 0.32 (value) | Handovers@RPL" in beside
    assert "0.37 to 0.67 (5 to 95%)" in beside and "rotation" not in beside


def test_references_name_measures_and_sources():
    assert {r.source for r in REFERENCES} == set(SOURCES)
    assert all(r.measure in MEASURES and 0 < r.low <= r.high for r in REFERENCES)


# ---------------------------------------------------------------- the card of a store


@pytest.fixture(scope="module")
def small(mini, tmp_path_factory) -> ReplayStore:
    """Five trials of three objects: one without a demonstration, one without a giver."""
    chosen = [mini[i] for i in (0, 1, 2, 40, 41)]
    trials = [
        trial_of(r, demo=None if i == 1 else r.demo.numpy(), has_giver=i != 2, number=i) for i, r in enumerate(chosen)
    ]
    path = write_store(
        tmp_path_factory.mktemp("small") / "small.zarr.zip",
        trials,
        {r.object: object_of(r) for r in chosen},
        licence="CC0-1.0 \x1b[31m| <b>",
        provenance={"made by": "a test", "giver_ways": {"power, end": 3, "pinch, handle": 2}},
        seed=0,
    )
    return ReplayStore(path)


def test_summary_counts_every_trial(small):
    found = store_summary(small)
    assert found["trials"] == sum(found["kinds"].values()) == sum(found["splits"].values()) == 5
    assert sum(found["objects"].values()) == sum(found["sides"].values()) == 5
    assert (found["demonstrations"], found["givers"]) == (4, 4)
    assert found["frames"] == sum(replay.num_frames for replay in small)
    assert found["hours"] == pytest.approx(found["frames"] / 30 / 3600)
    assert found["giver_ways"] == {"power, end": 3, "pinch, handle": 2}
    assert json.loads(json.dumps(found)) == found


def test_text_for_a_terminal_is_harmless(small):
    text = describe(small)
    assert "\x1b" not in text and all(line.isprintable() for line in text.splitlines())
    assert "CC0-1.0" in text and "seed" in text and "without a giver 1" in text
    assert r"\| \<b>" in summary_table(store_summary(small))


def test_card_has_table_and_readable_plots(small, tmp_path):
    card = write_card(small, tmp_path / "card", contact_sample=2)
    found = json.loads((tmp_path / "card" / "statistics.json").read_text())
    assert found["measures"]["path"]["trials"] == 5
    assert found["measures"]["clearance"]["trials"] == 3
    assert found["measures"].get("overlap", {"trials": 0})["trials"] <= 2
    text = card.read_text()
    assert figures_table(found["measures"]) in text
    for name in ("counts", "motion", "paths", "taking"):
        path = tmp_path / "card" / f"{name}.png"
        assert f"({name}.png)" in text
        assert path.stat().st_size < 200_000
        picture = imageio.imread(path)
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 10, "not blank"


def test_a_missing_library_is_told_with_its_extra(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "dexh2r-gym\[view\]"'):
        import_extra("matplotlib.figure", "view")
    with pytest.raises(MissingExtraError, match="matplotlib"):
        write_card(small, tmp_path / "card", progress=pytest.fail)
    assert not (tmp_path / "card").exists()
