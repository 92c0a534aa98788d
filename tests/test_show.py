"""Looking at a trial: meshes of the hand, films, and the page in the browser."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from dexh2r_gym.hand import LINK_NAMES, OPEN_HAND, forward_kinematics
from dexh2r_gym.replay import Replay, ReplayError, ReplayStore, UnknownReplayError
from dexh2r_gym.show import ReplayViewer, film
from dexh2r_gym.show.browser import BLOCKED, FREE
from dexh2r_gym.show.film import GAP, SHEET, SHEET_SIZE, SIZE
from dexh2r_gym.show.hand_meshes import hand_meshes, mesh_poses
from dexh2r_gym.show.timeline import Timeline

os.environ.setdefault("MUJOCO_GL", "egl")


@pytest.fixture(scope="module")
def mini() -> ReplayStore:
    return ReplayStore.open("mini")


def every(replay: Replay, step: int) -> Replay:
    """The trial with one frame in `step`."""
    object_pose, giver, free = (x[::step] for x in (replay.object_pose, replay.giver, replay.goal_free))
    demo = None if replay.demo is None else replay.demo[::step]
    return dataclasses.replace(
        replay, num_frames=len(giver), object_pose=object_pose, giver=giver, goal_free=free, demo=demo
    )


# ---------------------------------------------------------------- the trial as states and meshes


def test_meshes_stand_where_the_links_are():
    generator = torch.Generator().manual_seed(0)
    joints = OPEN_HAND + 0.2 * torch.rand(22, generator=generator, dtype=torch.float64)
    pose = torch.tensor([0.1, -0.2, 0.9, 0.5, 0.5, -0.5, 0.5], dtype=torch.float64)
    links = forward_kinematics(pose, joints)
    found = mesh_poses(pose.numpy(), joints.numpy())
    assert sum(len(mesh.geoms) for mesh in hand_meshes()) == 22  # 18 links and 4 knuckles
    at_rest = mesh_poses(np.array([0.0, 0, 0, 1, 0, 0, 0]), np.zeros(22))
    for name, link in (("palm", "rh_palm"), ("th_distal", "rh_thdistal"), ("wrist", "rh_wrist")):
        k = LINK_NAMES.index(link)
        rest = forward_kinematics(torch.tensor([0.0, 0, 0, 1, 0, 0, 0]).double(), torch.zeros(22).double())[k]
        offset = np.linalg.norm(at_rest[name][0, :3] - rest[:3].numpy())  # of the mesh's own origin from its link's
        assert np.linalg.norm(found[name][0, :3] - links[k, :3].numpy()) == pytest.approx(offset, abs=1e-9)
    for mesh in hand_meshes():
        assert mesh.faces.max() < len(mesh.vertices) and np.ptp(mesh.vertices, axis=0).max() < 0.2
        assert found[mesh.name].shape == (len(mesh.geoms), 7)


def test_without_a_demonstration_the_robot_waits(mini):
    waiting = Timeline.of(dataclasses.replace(mini[0], demo=None, has_demo=False))
    assert torch.equal(waiting.hand_state, mini[0].hand_start.expand(mini[0].num_frames, 28))
    assert torch.equal(Timeline.of(mini[0]).hand_state, mini[0].demo)


# ---------------------------------------------------------------- films


def test_video_has_every_frame_and_is_not_black(mini, tmp_path):
    replay = every(mini[3], 10)
    path = film(replay, tmp_path / "new" / "trial.mp4")
    with imageio.get_reader(path) as reader:
        frames = [np.asarray(frame) for frame in reader]
        assert reader.get_meta_data()["fps"] == pytest.approx(replay.fps)
    assert len(frames) == replay.num_frames
    assert all(frame.shape == (SIZE[1], SIZE[0], 3) and frame.mean() > 50 for frame in frames)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "something moves"
    assert 1_000 < path.stat().st_size < 500_000
    assert [entry.name for entry in path.parent.iterdir()] == ["trial.mp4"]


def test_sheet_has_twelve_moments(mini, tmp_path):
    picture = imageio.imread(film(every(mini[3], 20), tmp_path / "trial.png"))
    (across, down), (width, height) = SHEET, SHEET_SIZE
    assert picture.shape == (down * height - GAP, across * width - GAP, 3)
    assert (picture[:, width - GAP : width] == 255).all()
    assert picture.mean() > 50 and picture.std() > 20


def test_other_suffixes_are_refused(mini, tmp_path):
    with pytest.raises(ValueError, match=r"trial\.gif: the name must end in \.mp4 or \.png"):
        film(mini[0], tmp_path / "trial.gif")


def test_a_film_cut_short_leaves_nothing(mini, tmp_path):
    def stop(frames):
        yield next(iter(frames))
        raise KeyboardInterrupt

    (tmp_path / "trial.mp4").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        film(mini[3], tmp_path / "trial.mp4", progress=stop)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"trial.mp4": b"before"}


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def viewer(mini) -> Iterator[ReplayViewer]:
    pytest.importorskip("viser")
    viewer = ReplayViewer(mini, mini.ids()[3], port=0)
    viewer.playing.value = False
    yield viewer
    viewer.close()


def test_the_page_is_served_to_this_machine_alone(viewer):
    assert viewer.address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(viewer.address, timeout=10) as answer:
        page = answer.read()
    assert answer.status == 200 and b"<html" in page[:500]
    assert viewer.server.request_share_url() is None, "nobody can ask for a tunnel"


def test_the_slider_moves_everything(viewer, mini):
    replay = viewer.replay
    assert replay.id == mini.ids()[3]
    for t in (replay.num_frames - 1, 7):
        viewer.frame.value = t
        np.testing.assert_allclose(viewer.object.position, replay.object_pose[t, :3], atol=1e-6)
        np.testing.assert_allclose(viewer.object.wxyz, replay.object_pose[t, 3:], atol=1e-6)
        skin = Timeline.of(replay).giver.vertices(replay.giver[t])
        np.testing.assert_allclose(viewer.giver.vertices, skin, atol=1e-5)
        palm = mesh_poses(
            *(x[t].numpy() for x in (viewer._timeline.scene.hand_pose, viewer._timeline.scene.hand_joints))
        )
        np.testing.assert_allclose(viewer.robot["palm"].batched_positions, palm["palm"][:, :3], atol=1e-5)
        free = replay.goal_free[t].numpy()
        assert ((viewer.goals.batched_colors == FREE).all(-1) == free).all()
        assert ((viewer.goals.batched_colors == BLOCKED).all(-1) == ~free).all()
        assert f"{int(free.sum())} of {len(free)} goals free" in viewer.text.content
    np.testing.assert_allclose(viewer.goals.batched_positions, replay.goal_pose[:, :3], atol=1e-6)


def test_goals_and_parts_can_be_shown_and_hidden(viewer):
    assert not any(handle.visible for handle in viewer.ghost.values())
    viewer.ghost_goal.value = 2
    hand = mesh_poses(viewer.replay.goal_pose[1].numpy(), viewer.replay.goal_joints[1].numpy())
    for name, handle in viewer.ghost.items():
        assert handle.visible
        np.testing.assert_allclose(handle.batched_positions, hand[name][:, :3], atol=1e-6)
    viewer.ghost_goal.value = 0
    assert not any(handle.visible for handle in viewer.ghost.values())
    for control, handles in (
        (viewer.show_robot, list(viewer.robot.values())),
        (viewer.show_giver, [viewer.giver]),
        (viewer.show_goals, [viewer.goals]),
    ):
        control.value = False
        assert not any(handle.visible for handle in handles)
        control.value = True
        assert all(handle.visible for handle in handles)
    assert not viewer.cloud.visible and not viewer.show_cloud.visible, "these trials have none"


def test_time_goes_on_while_it_plays_and_starts_again(viewer):
    viewer.frame.value = 10
    viewer.tick(1.0)
    assert viewer.frame.value == 10
    viewer.speed.value, viewer.playing.value = "0.5", True
    viewer.tick(1.0)
    assert viewer.frame.value == 10 + viewer.replay.fps / 2
    viewer.frame.value = viewer.replay.num_frames - 1
    viewer.tick(2 / viewer.replay.fps)
    viewer.playing.value = False
    assert viewer.frame.value == 0


def test_another_trial_is_chosen_by_object_and_id(viewer, mini):
    before = viewer.replay.id
    viewer.object_name.value = "banana"
    assert viewer.replay.object == "banana" and viewer.frame.value == 0
    assert set(viewer.trial.options) == {id for id in mini.ids() if "/banana/" in id}
    viewer.trial.value = viewer.trial.options[-1]
    assert viewer.replay.id == viewer.trial.options[-1]
    assert viewer.frame.max == viewer.replay.num_frames - 1
    np.testing.assert_allclose(viewer.object_mesh.vertices, mini.object_model("banana").visual_vertices, atol=1e-6)
    viewer.object_name.value = before.split("/")[1]
    viewer.trial.value = before


def test_a_trial_that_cannot_be_read_is_told_in_the_page(viewer, monkeypatch):
    before = viewer.replay

    def damaged(store, index):
        raise ReplayError("cannot be read", key="data/giver", replay="bad")

    with monkeypatch.context() as patch:
        patch.setattr(ReplayStore, "__getitem__", damaged)
        viewer.object_name.value = "banana"
    assert "cannot be shown" in viewer.text.content and "data/giver, replay bad" in viewer.text.content
    assert viewer.replay is before
    viewer.object_name.value = before.object
    viewer.trial.value = before.id


def test_a_recorded_cloud_moves_with_the_frame(mini, monkeypatch):
    pytest.importorskip("viser")
    frames = mini[0].num_frames
    cloud = torch.arange(frames * 6, dtype=torch.float32).reshape(frames, 2, 3)
    replay = dataclasses.replace(mini[0], sensors=("cloud",), load_sensor=lambda name, part: cloud[part])
    monkeypatch.setattr(ReplayStore, "__getitem__", lambda store, index: replay)
    viewer = ReplayViewer(mini, port=0)
    try:
        viewer.playing.value = False
        viewer.frame.value = 5
        assert viewer.cloud.visible
        np.testing.assert_array_equal(viewer.cloud.points, cloud[5])
    finally:
        viewer.close()


def test_an_unknown_trial_is_refused_before_a_server_runs(mini):
    with pytest.raises(UnknownReplayError, match="no replay 's99/banana/000'"):
        ReplayViewer(mini, "s99/banana/000", port=0)


# ---------------------------------------------------------------- in a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=800,560 --remote-debugging-port=0"
).split()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_slider_is_dragged_in_chromium(viewer, tmp_path):
    viewer.playing.value = False
    viewer.frame.value = 5
    with Page(tmp_path / "profile", viewer.address) as page:
        thumb = "document.querySelector('[role=slider]')"
        wait(lambda: page.run(f"{thumb} !== null && {thumb}.getAttribute('aria-valuenow') === '5'"))
        wait(lambda: page.picture()[150:, :450].std() > 3)  # the scene beside the controls is drawn
        before = page.picture()
        x, y, width = page.run(
            f"(() => {{const a = {thumb}.getBoundingClientRect(), b = {thumb}.parentElement.getBoundingClientRect();"
            " return [a.x + a.width / 2, a.y + a.height / 2, b.width]})()"
        )
        page.mouse("mousePressed", x, y)
        for share in (0.25, 0.5):
            page.mouse("mouseMoved", x + share * width, y)
        page.mouse("mouseReleased", x + 0.5 * width, y)
        wait(lambda: abs(viewer.frame.value - viewer.replay.num_frames / 2) < 15)
        t = viewer.frame.value
        np.testing.assert_allclose(viewer.object.position, viewer.replay.object_pose[t, :3], atol=1e-6)
        wait(lambda: np.abs(page.picture()[150:, :450].astype(int) - before[150:, :450]).mean() > 0.3)
        assert page.run("document.body.innerText").count("goals free") == 1


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
