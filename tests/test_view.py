"""`dexh2r view`: what it finds, contacts, curves, and the page, also in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.rotations import pose_apply, pose_inverse
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.show import ReplaySource, RunSource, Timeline, Viewer, browser, find_source
from dexh2r_gym.show.browser import is_loopback
from dexh2r_gym.show.clouds import Clouds
from dexh2r_gym.show.contacts import PAIRS, ContactFinder
from dexh2r_gym.show.hand_meshes import mesh_poses
from dexh2r_gym.show.panel import Charts
from dexh2r_gym.show.stage import BLOCKED, FREE, NEAREST, PATH, PATH_ALIGNED, as_linear
from dexh2r_gym.types import join_hand_state

LENGTH, BEGIN = 40, 30  # frames of the episodes here, and where alignment begins


@pytest.fixture(scope="module")
def mini() -> ReplayStore:
    return ReplayStore.open("mini")


def record_of(replay: Replay, status: str = "REACHED", begin: int = BEGIN) -> dict:
    """An episode like the demonstration, with the object 10 cm to the side from frame 1 on; its numbers tell frames."""
    object_pose = replay.object_pose[:LENGTH].clone()
    object_pose[1:, 0] += 0.1
    giver = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
    hand_state = replay.demo[:LENGTH].clone()
    hand_state[0] = replay.hand_start
    time = np.arange(LENGTH, dtype=float)
    return {
        **{name: getattr(replay, name) for name in ("object", "subject", "kind", "fps")},
        "replay": replay.id,
        "mode": "hard",
        "status": status,
        "alignment_begin": begin,
        "hand_state": hand_state.numpy(),
        "object_pose": object_pose.numpy(),
        "d": np.where(time == 7, np.inf, 0.4 - 0.01 * time),
        "depth": 0.001 * time,
        "giver_force": 2 * time,
        "approach_frames": LENGTH,
        "outcome": "NOT_REACHED",
        "release_frame": -1,
        "drop_time": np.inf,
        "slip": 0.0,
        "decided_frame": LENGTH - 1,
        "reason": "by hand",
        "phase": (time >= begin) & (begin >= 0),
        "giver_peak": np.zeros((LENGTH, 6)),
        "giver_impulse": np.zeros((LENGTH, 6)),
        "contact_speed": np.zeros(LENGTH),
        "load": np.zeros((LENGTH, 3)),
        "giver_bones": giver.bone_poses(replay.giver[:LENGTH]).numpy(),
    }


@pytest.fixture(scope="module")
def run(mini, tmp_path_factory) -> Path:
    """Three episodes; the second in the order of ids failed."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
    setting = {"agent": "by hand", "mode": "hard", "replays": "mini"}
    folder.start({"evaluation": setting, "replay_ids": mini.ids()[:3]}, resume=False)
    for number in range(3):
        failed = number == 1
        folder.save_episode(
            record_of(mini[number], "TIMEOUT_APPROACH" if failed else "REACHED", -1 if failed else BEGIN)
        )
    return folder.path


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


# ---------------------------------------------------------------- what is looked at


def test_nothing_or_an_id_is_a_replay_and_a_folder_is_a_run(mini, run):
    source, id = find_source(None, None, None)
    assert isinstance(source, ReplaySource) and id == mini.ids()[0]
    source, id = find_source(mini.ids()[5], None, "mini")
    assert id == mini.ids()[5] and torch.equal(source.open(id).hand_state, mini[5].demo)
    source, id = find_source(str(run), None, None)
    assert isinstance(source, RunSource) and id == mini.ids()[1], "the one that failed"
    assert find_source(str(run), mini.ids()[2], None)[1] == mini.ids()[2]


def test_episodes_that_failed_come_first_with_how_they_ended(mini, run):
    source = RunSource(RunFolder(run))
    first, *others = source.groups["all (3)"]
    assert first.startswith(mini.ids()[1]) and "timeout in approach" in first
    assert [source.ids[label] for label in others] == [mini.ids()[0], mini.ids()[2]]
    assert source.groups["reached (2)"] == tuple(others)


def test_an_episode_is_what_the_run_recorded_with_the_giver_of_its_replay(mini, run):
    timeline = RunSource(RunFolder(run)).open(mini.ids()[0])
    record, replay = record_of(mini[0]), mini[0]
    assert timeline.replay.num_frames == LENGTH < replay.num_frames
    np.testing.assert_allclose(timeline.scene.object_pose, record["object_pose"])
    np.testing.assert_allclose(
        join_hand_state(timeline.scene.hand_pose, timeline.scene.hand_joints), record["hand_state"]
    )
    assert torch.equal(timeline.bones, Timeline.of(replay).bones[:LENGTH])
    assert [timeline.phase(t) for t in (0, BEGIN - 1, BEGIN, LENGTH - 1)] == [
        "approach",
        "approach",
        "alignment",
        "reached",
    ]
    index, d = timeline.nearest()
    np.testing.assert_array_equal(d, record["d"])
    assert index[7] == -1 and (np.delete(index, 7) >= 0).all()
    assert replay.goal_free[:LENGTH].numpy()[np.arange(LENGTH), index][np.arange(LENGTH) != 7].all()


def test_the_nearest_goal_of_a_replay_is_the_free_one_next_to_the_palm(mini):
    replay = mini[0]
    free = torch.zeros_like(replay.goal_free)
    free[:30, 2] = True
    index, d = Timeline.of(dataclasses.replace(replay, goal_free=free)).nearest()
    assert (index[:30] == 2).all() and (index[30:] == -1).all() and np.isinf(d[30:]).all()
    goal = pose_apply(replay.object_pose[:30], replay.goal_pose[2, :3])
    np.testing.assert_allclose(d[:30], (goal - replay.demo[:30, :3]).norm(dim=-1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"object": "teapot"}, "its object is 'teapot'"),
        ({"hand_state": 1.0}, "it begins elsewhere"),
        ({"object_pose": 1.0}, "it begins elsewhere"),
    ],
)
def test_an_episode_of_other_replays_is_refused(mini, change, words):
    record = record_of(mini[0])
    for name, value in change.items():
        record[name] = value if isinstance(value, str) else record[name] + value
    with pytest.raises(ValueError, match=words) as caught:
        Timeline.of_episode(mini[0], record)
    assert "--replays" in str(caught.value)


def test_an_episode_longer_than_its_replay_is_refused(mini):
    short = dataclasses.replace(mini[0], num_frames=LENGTH - 1)
    with pytest.raises(ValueError, match=f"its approach has {LENGTH} frames, the replay {LENGTH - 1}"):
        Timeline.of_episode(short, record_of(mini[0]))


@pytest.fixture
def dexh2r(dexh2r, monkeypatch):
    """The command, which makes the page but does not wait in it."""
    monkeypatch.setattr(browser.Viewer, "run", lambda self: None)
    return dexh2r


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("view s02/bananna/000", ("not a run folder", "nor a replay", "s02/banana/000")),
        ("view mini", ("not a run folder", "--replays mini")),
        ("view {tmp}", ("not a run folder", "nor a replay")),
        ("view s02/banana/000 s02/banana/000", ("not a run folder", "no episode")),
        ("view --replays nothing-here", ("no replays 'nothing-here'",)),
        ("view {run} s02/bananna/000", ("no episode of 's02/bananna/000'", "near it: ")),
        ("view {run} --replays nothing-here", ("no replays 'nothing-here'", "--replays")),
    ],
)
def test_a_mistake_is_one_line_that_says_what_there_is(line, words, dexh2r, run, tmp_path):
    pytest.importorskip("viser")
    message = dexh2r(line.format(run=run, tmp=tmp_path))
    assert isinstance(message, str) and message.startswith("dexh2r: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_a_damaged_record_is_refused_and_others_can_be_seen(mini, run, tmp_path, dexh2r):
    folder = RunFolder(copied(run, tmp_path))
    id = mini.ids()[1]
    file = folder.episode_path(id)
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["d"][3] = np.nan
    np.savez_compressed(file, **arrays)
    assert "d has NaN or infinite numbers in frame 3" in str(dexh2r(f"view {folder.path} {id}"))
    file.write_bytes(file.read_bytes()[:2000] + b"?" * 200 + file.read_bytes()[2200:])
    assert "cannot be read" in str(dexh2r(f"view {folder.path} {id}"))
    arrays["status"] = "TIMEOUT_APPROACH"  # failed, so among the first
    np.savez_compressed(file, **arrays)
    source, first = find_source(str(folder.path), None, None)
    assert next(iter(source.ids.values())) == id != first, "what can be read comes first"
    assert dexh2r(f"view {folder.path}") == 0
    np.savez_compressed(file, **arrays | {"status": "WON", "d": np.nan_to_num(arrays["d"])})
    source, first = find_source(str(folder.path), None, None)
    assert first == mini.ids()[0], "what can be read comes first"
    assert source.groups["all (3)"][-1] == f"{id}  (cannot be read)"
    assert "unknown status 'WON'" in str(dexh2r(f"view {folder.path} {id}"))


def test_a_config_of_something_else_and_a_run_without_episodes_are_refused(run, tmp_path, dexh2r):
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')
    assert "is not a run of `dexh2r evaluate`" in str(dexh2r(f"view {tmp_path}"))
    (tmp_path / "config.json").write_text("{")
    assert "is not a run of `dexh2r evaluate`" in str(dexh2r(f"view {tmp_path}"))
    shutil.copy(run / "config.json", tmp_path)
    assert "has no recorded episodes" in str(dexh2r(f"view {tmp_path}"))


def test_without_viser_it_says_what_to_install(dexh2r, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    message = str(dexh2r("view"))
    assert 'viser is not installed: pip install "dexh2r-gym[view]"' in message


def test_others_can_connect_only_where_told(dexh2r, capsys):
    pytest.importorskip("viser")
    assert dexh2r("view --port 0") == 0
    out = capsys.readouterr().out
    assert "http://127.0.0.1:" in out and "others can connect" not in out
    assert dexh2r("view --port 0 --host 0.0.0.0") == 0
    assert "others can connect" in capsys.readouterr().out
    assert [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "::", "10.0.0.1", "here")] == (
        [True] * 3 + [False] * 4
    )


def test_an_episode_becomes_a_video(dexh2r, mini, run, tmp_path):
    out = tmp_path / "episode.png"
    assert dexh2r(f"view {run} {mini.ids()[0]} --out {out}") == 0
    assert imageio.imread(out).std() > 20


# ---------------------------------------------------------------- contacts


def moved(timeline: Timeline, *, hand=(0.0, 0, 0), obj=(0.0, 0, 0)) -> Timeline:
    """The same with the robot and the object shifted, metres."""
    scene = timeline.scene
    poses = {"hand_pose": scene.hand_pose.clone(), "object_pose": scene.object_pose.clone()}
    poses["hand_pose"][:, :3] += torch.tensor(hand)
    poses["object_pose"][:, :3] += torch.tensor(obj)
    return dataclasses.replace(timeline, scene=dataclasses.replace(scene, **poses))


def test_hands_and_object_far_from_each_other_do_not_touch(mini):
    found = ContactFinder(moved(Timeline.of(mini[0]), hand=(0, 0, 3.0), obj=(0, 0, 6.0))).at(5)
    assert len(found.pair) == len(found.position) == len(found.normal) == len(found.depth) == 0


def test_the_giver_holds_the_object_and_the_robot_ends_with_it_in_hand(mini):
    timeline = Timeline.of(mini[0])
    first, last = (ContactFinder(timeline).at(t) for t in (0, timeline.replay.num_frames - 1))
    assert first.count("giver-object") > 0 and first.count("robot-object") == first.count("robot-giver") == 0
    assert last.count("giver-object") > 0 and last.count("robot-object") > 0


@pytest.mark.parametrize("pair", ["robot-object", "robot-giver"])
def test_what_is_put_into_the_robots_hand_touches_it_alone(mini, pair):
    """Contacts lie between the two and their normals lead out of what is touched."""
    timeline, t = Timeline.of(mini[0]), 0
    thing = timeline.scene.object_pose[t, :3] if pair == "robot-object" else timeline.bones[t, :, :3].mean(0)
    palm = timeline.scene.hand_pose[t, :3]
    away = (3.0, 0, 0) if pair == "robot-giver" else (0.0, 0, 0)
    shift = (thing - palm).tolist()
    if pair == "robot-object":  # both away from the giver
        finder = ContactFinder(moved(timeline, hand=np.add(shift, (0, 0, 3.0)).tolist(), obj=(0, 0, 3.0)))
        thing = thing + torch.tensor([0, 0, 3.0])
    else:
        finder = ContactFinder(moved(timeline, hand=shift, obj=away))
    found = finder.at(t)
    assert found.count(pair) == len(found.pair) > 0
    assert (found.depth > 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.normal, axis=-1), 1, atol=1e-9)
    assert (np.linalg.norm(found.position - thing.numpy(), axis=-1) < 0.35).all()
    assert finder.at(t).position == pytest.approx(found.position), "a frame has the same contacts every time"


def test_normals_lead_out_of_what_is_touched(mini):
    """Push the robot out along the mean normal by more than it overlaps: the contacts with the object go away."""
    last = mini[0].num_frames - 1
    timeline = Timeline.of(mini[0])
    found = ContactFinder(timeline).at(last)
    mine = found.pair == PAIRS.index("robot-object")
    deepest = int(np.where(mine, found.depth, -1).argmax())
    step = 1e-3 * found.normal[deepest]
    out, into = (ContactFinder(moved(timeline, hand=(sign * step).tolist())).at(last) for sign in (1, -1))

    def depth_there(contacts) -> float:
        near = (np.linalg.norm(contacts.position - found.position[deepest], axis=-1) < 0.01) & (
            contacts.pair == PAIRS.index("robot-object")
        )
        return float(contacts.depth[near].max(initial=0.0))

    assert depth_there(out) < found.depth[deepest] < depth_there(into)


# ---------------------------------------------------------------- curves


def test_curves_have_a_cursor_at_the_frame_and_a_gap_where_no_goal_is_free(mini):
    timeline = Timeline.of_episode(mini[0], record_of(mini[0]))
    charts = Charts(timeline, timeline.nearest()[1])
    start, end = (charts.svg(t) for t in (0, LENGTH - 1))
    assert start.count('class="cursor"') == 3 and start.count('class="alignment"') == 3
    assert start.count("<polyline") == 4, "d in two parts, depth, force"
    numbers = re.compile(r">([\d.]+)</tspan> of ([\d.]+) (\w+)")
    tops = [("40", "cm"), ("39", "mm"), ("78", "N")]
    assert numbers.findall(start) == [(now, *top) for now, top in zip(("40.0", "0.0", "0.0"), tops, strict=True)]
    assert numbers.findall(end) == [(now, *top) for now, top in zip(("1.0", "39.0", "78.0"), tops, strict=True)]
    assert "none is free" in charts.svg(7) and "none is free" not in start + end
    cursors = [float(svg.split('class="cursor" x1="')[1].split('"')[0]) for svg in map(charts.svg, (0, 13, 26, 39))]
    np.testing.assert_allclose(np.diff(cursors), np.diff(cursors)[0], atol=0.02)
    assert Charts(Timeline.of(mini[0]), Timeline.of(mini[0]).nearest()[1]).svg(0).count('class="cursor"') == 1


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def viewer(mini) -> Iterator[Viewer]:
    pytest.importorskip("viser")
    viewer = Viewer(ReplaySource(mini), mini.ids()[3], port=0)
    viewer.playing.value = False
    yield viewer
    viewer.close()


@pytest.fixture(scope="module")
def episodes(run) -> Iterator[Viewer]:
    pytest.importorskip("viser")
    viewer = Viewer(*find_source(str(run), None, None), port=0)
    viewer.playing.value = False
    yield viewer
    viewer.close()


def test_the_page_is_served_to_this_machine_alone(viewer):
    assert viewer.address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(viewer.address, timeout=10) as answer:
        assert b"<html" in answer.read(10_000)


def test_the_scene_is_that_of_the_frame(viewer):
    replay, stage = viewer.replay, viewer.stage
    nearest, _ = Timeline.of(replay).nearest()
    for t in (0, replay.num_frames // 2, replay.num_frames - 1):
        viewer.frame.value = t
        np.testing.assert_allclose(stage.object.position, replay.object_pose[t, :3], atol=1e-6)
        np.testing.assert_allclose(stage.object.wxyz, replay.object_pose[t, 3:], atol=1e-6)
        skin = viewer.timeline.giver.vertices(replay.giver[t])
        np.testing.assert_allclose(stage.giver.vertices, skin, atol=1e-5)
        scene = viewer.timeline.scene
        palm = mesh_poses(scene.hand_pose[t].numpy(), scene.hand_joints[t].numpy())["palm"]
        np.testing.assert_allclose(stage.robot["palm"].batched_positions, palm[:, :3], atol=1e-5)
        free, colours = replay.goal_free[t].numpy(), stage.goals.batched_colors
        others = np.arange(len(free)) != nearest[t]
        assert ((colours == as_linear(FREE)).all(-1) == free)[others].all()
        assert ((colours == as_linear(BLOCKED)).all(-1) == ~free)[others].all()
        assert nearest[t] < 0 or (colours[nearest[t]] == as_linear(NEAREST)).all()
        assert f"{int(free.sum())} of {len(free)} goals free" in viewer.text.content
    np.testing.assert_allclose(stage.goals.batched_positions, replay.goal_pose[:, :3], atol=1e-6)


def test_goals_and_parts_can_be_shown_and_hidden(viewer):
    stage = viewer.stage
    viewer.frame.value = viewer.replay.num_frames - 1
    assert not any(handle.visible for handle in stage.ghost.values())
    viewer.goal.value = 2
    hand = mesh_poses(viewer.replay.goal_pose[1].numpy(), viewer.replay.goal_joints[1].numpy())
    for name, handle in stage.ghost.items():
        assert handle.visible
        np.testing.assert_allclose(handle.batched_positions, hand[name][:, :3], atol=1e-6)
    viewer.goal.value = 0
    assert not any(handle.visible for handle in stage.ghost.values())
    for name, handles in (
        ("robot", list(stage.robot.values())),
        ("giver", [stage.giver]),
        ("goals", [stage.goals]),
        ("path", [stage.path]),
        ("contacts", [stage.contacts]),
    ):
        viewer.show[name].value = False
        assert not any(handle.visible for handle in handles), name
        viewer.show[name].value = True
        assert all(handle.visible for handle in handles), name
    viewer.show["see_through"].value = True
    assert all(handle.opacity < 1 for handle in (stage.giver, stage.object_mesh, *stage.robot.values()))
    viewer.show["see_through"].value = False
    assert stage.giver.opacity is None


def test_contacts_are_drawn_where_they_are(viewer):
    viewer.frame.value = viewer.replay.num_frames - 1
    found = ContactFinder(viewer.timeline).at(viewer.frame.value)
    np.testing.assert_allclose(viewer.stage.contacts.batched_positions, found.position, atol=1e-6)
    for pair in PAIRS:
        assert f"{found.count(pair)} {pair}" in viewer.text.content


def test_the_clean_cloud_lies_on_the_object(viewer):
    viewer.frame.value = 20
    viewer.cloud.value = "clean"
    points, obj = viewer.stage.cloud.points, viewer.replay.object_model
    assert viewer.stage.cloud.visible and len(points) >= 1000
    low, high = obj.points.numpy().min(0), obj.points.numpy().max(0)
    own = (points - viewer.stage.object.position) @ rotation(viewer.stage.object.wxyz)
    assert (own > low - 1e-4).all() and (own < high + 1e-4).all()
    viewer.cloud.value = "none"
    assert not viewer.stage.cloud.visible


def test_the_observed_cloud_is_of_what_the_hands_do_not_hide(mini):
    timeline = Timeline.of(mini.replay("s02/water_bottle/000"))
    held, bare = Clouds(timeline), Clouds(moved(timeline, hand=(0.0, 0, 5)))
    t, obj = timeline.replay.num_frames - 1, timeline.replay.object_model
    seen = [clouds.at("observed", t) for clouds in (held, bare)]
    for points in seen:
        own = pose_apply(pose_inverse(timeline.replay.object_pose[t]), torch.from_numpy(points).double())
        assert obj.signed_distance(own).abs().median() < 0.003, "on the surface, but for the cameras' errors"
    hidden, only_held = ((cKDTree(b).query(a)[0] > 0.015).mean() for a, b in (seen[::-1], seen))
    assert hidden > 5 * only_held, "the robot's hand hides a part, and uncovers none"
    np.testing.assert_array_equal(held.at("observed", t), seen[0])


def rotation(wxyz: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(wxyz, scalar_first=True).as_matrix()


def test_a_recorded_cloud_moves_with_the_frame(mini, monkeypatch):
    pytest.importorskip("viser")
    frames = mini[0].num_frames
    cloud = torch.arange(frames * 6, dtype=torch.float32).reshape(frames, 2, 3)
    replay = dataclasses.replace(mini[0], sensors=("cloud",), load_sensor=lambda name, part: cloud[part])
    monkeypatch.setattr(ReplayStore, "replay", lambda store, id: replay)
    viewer = Viewer(ReplaySource(mini), mini.ids()[0], port=0)
    try:
        viewer.playing.value = False
        viewer.frame.value, viewer.cloud.value = 5, "recorded"
        assert viewer.stage.cloud.visible
        np.testing.assert_array_equal(viewer.stage.cloud.points, cloud[5])
    finally:
        viewer.close()


def test_time_goes_on_while_it_plays_rests_at_the_end_and_starts_again(viewer):
    viewer.frame.value = 10
    viewer.tick(1.0)
    assert viewer.frame.value == 10
    viewer.speed.value, viewer.playing.value = "0.5", True
    viewer.tick(1.0)
    assert viewer.frame.value == 10 + viewer.replay.fps / 2
    viewer.frame.value = last = viewer.replay.num_frames - 1
    viewer.tick(0.5)
    assert viewer.frame.value == last
    viewer.tick(2.0)
    viewer.playing.value = False
    assert viewer.frame.value < last / 2


def test_another_trial_is_chosen_by_object_and_id(viewer, mini):
    before = viewer.replay.id
    viewer.group.value = "banana"
    assert viewer.replay.object == "banana" and viewer.frame.value == 0
    assert set(viewer.trial.options) == {id for id in mini.ids() if "/banana/" in id}
    viewer.trial.value = viewer.trial.options[-1]
    assert viewer.replay.id == viewer.trial.options[-1]
    assert viewer.frame.max == viewer.replay.num_frames - 1
    model = mini.object_model("banana")
    np.testing.assert_allclose(viewer.stage.object_mesh.vertices, model.visual_vertices, atol=1e-6)
    viewer.group.value = before.split("/")[1]
    viewer.trial.value = before


def test_an_episode_is_shown_as_it_was(episodes, mini):
    assert episodes.replay.id == mini.ids()[1] and "timeout in approach" in episodes.text.content
    assert (episodes.stage.path.colors == PATH).all(), "alignment never began"
    episodes.trial.value = next(label for label in episodes.trial.options if label.startswith(mini.ids()[0]))
    record = record_of(mini[0])
    assert episodes.frame.max == LENGTH - 1
    np.testing.assert_allclose(episodes.stage.path.points, record["hand_state"][:, :3], atol=1e-6)
    aligned = (episodes.stage.path.colors == PATH_ALIGNED).all(-1)
    np.testing.assert_array_equal(aligned, np.arange(LENGTH) >= BEGIN)
    for t, phase in ((12, "approach"), (33, "alignment"), (LENGTH - 1, "reached")):
        episodes.frame.value = t
        np.testing.assert_allclose(episodes.stage.object.position, record["object_pose"][t, :3], atol=1e-6)
        assert f"**{phase}**" in episodes.text.content
        assert f"d {40 - t:.1f} cm" in episodes.text.content
        assert f"depth {t:.1f} mm" in episodes.text.content and f"{2 * t:.1f} N" in episodes.text.content


def test_what_cannot_be_read_is_told_in_the_page(mini, run, tmp_path):
    pytest.importorskip("viser")
    folder = RunFolder(copied(run, tmp_path))
    source = RunSource(folder)
    viewer = Viewer(source, mini.ids()[0], port=0)
    try:
        viewer.playing.value = False
        file = folder.episode_path(mini.ids()[2])
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays["depth"][4] = np.nan
        np.savez_compressed(file, **arrays)
        before = viewer.timeline
        viewer.trial.value = next(label for label in viewer.trial.options if label.startswith(mini.ids()[2]))
        assert "cannot be shown" in viewer.text.content and "frame 4" in viewer.text.content
        assert viewer.timeline is before
    finally:
        viewer.close()


# ---------------------------------------------------------------- in a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=800,560 --remote-debugging-port=0"
).split()


THUMB = "document.querySelector('[role=slider]')"


def drawn(page: Page) -> np.ndarray:
    """The scene beside the controls, as soon as something is drawn there."""
    assert wait(lambda: page.run("document.querySelector('canvas') !== null"))
    wait(lambda: page.picture()[150:, :300].std() > 3)
    return page.picture()[150:, :300].astype(int)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_slider_is_dragged_in_chromium(viewer, tmp_path):
    viewer.frame.value = 5
    with Page(tmp_path / "profile", viewer.address) as page:
        wait(lambda: page.run(f"{THUMB} !== null && {THUMB}.getAttribute('aria-valuenow') === '5'"))
        before = drawn(page)
        x, y, width = page.run(
            f"(() => {{const a = {THUMB}.getBoundingClientRect(), b = {THUMB}.parentElement.getBoundingClientRect();"
            " return [a.x + a.width / 2, a.y + a.height / 2, b.width]})()"
        )
        page.mouse("mousePressed", x, y)
        for share in (0.25, 0.5):
            page.mouse("mouseMoved", x + share * width, y)
        page.mouse("mouseReleased", x + 0.5 * width, y)
        wait(lambda: abs(viewer.frame.value - viewer.replay.num_frames / 2) < 15)
        t = viewer.frame.value
        np.testing.assert_allclose(viewer.stage.object.position, viewer.replay.object_pose[t, :3], atol=1e-6)
        wait(lambda: np.abs(drawn(page) - before).mean() > 0.3)
        assert page.run("document.body.innerText").count("goals free") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_an_episode_of_a_run_is_seen_in_chromium(episodes, mini, tmp_path):
    episodes.trial.value = next(label for label in episodes.trial.options if label.startswith(mini.ids()[0]))
    episodes.frame.value = 33
    with Page(tmp_path / "profile", episodes.address) as page:
        wait(lambda: page.run(f"{THUMB} !== null && {THUMB}.getAttribute('aria-valuenow') === '33'"))
        before = drawn(page)
        text = page.run("document.body.innerText")
        assert "phase: alignment" in text and "d 7.0 cm" in text and "66.0 N" in text
        assert page.run("document.querySelectorAll('svg.charts polyline').length") == 4
        cursor = "document.querySelector('svg.charts line.cursor').getBoundingClientRect().x"
        x = page.run(cursor)
        episodes.frame.value = 3
        wait(lambda: page.run(cursor) < x - 50)
        wait(lambda: "phase: approach" in page.run("document.body.innerText"))
        wait(lambda: np.abs(drawn(page) - before).mean() > 0.3)


class Page:
    """A page in a headless Chromium, driven over its DevTools protocol."""

    def __init__(self, profile, address: str):
        self._command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", address]
        self._number = 0

    def __enter__(self) -> Page:
        from websockets.sync.client import connect

        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self._process.stderr is not None
        line = next(line for line in self._process.stderr if "DevTools listening on" in line)
        host = line.split("ws://")[1].split("/")[0]
        targets = wait(lambda: [t for t in self._list(host) if t["type"] == "page"])
        self._socket = connect(targets[0]["webSocketDebuggerUrl"], max_size=None)
        return self

    def __exit__(self, *error) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)

    def run(self, expression: str):
        """Value of a JavaScript expression."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def picture(self) -> np.ndarray:
        data = self._call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(imageio.imread(base64.b64decode(data), format="png"))[..., :3]

    @staticmethod
    def _list(host: str) -> list[dict]:
        with urllib.request.urlopen(f"http://{host}/json/list", timeout=10) as answer:
            return json.load(answer)

    def _call(self, method: str, **parameters) -> dict:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == self._number:
                return answer["result"]


def wait(ready: Callable, seconds: float = 60.0):
    """What `ready` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
    return found
