"""Looking at a trial: its states, meshes of the hand, films. The page in the browser: `test_view.py`."""

from __future__ import annotations

import dataclasses
import os

import imageio.v2 as imageio
import numpy as np
import psutil
import pytest
import torch

from dexh2r_gym.hand import LINK_NAMES, OPEN_HAND, forward_kinematics
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.show import film
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
    path = film(Timeline.of(replay), tmp_path / "new" / "trial.mp4")
    with imageio.get_reader(path) as reader:
        frames = [np.asarray(frame) for frame in reader]
        assert reader.get_meta_data()["fps"] == pytest.approx(replay.fps)
    assert len(frames) == replay.num_frames
    assert all(frame.shape == (SIZE[1], SIZE[0], 3) and frame.mean() > 50 for frame in frames)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "something moves"
    assert 1_000 < path.stat().st_size < 500_000
    assert [entry.name for entry in path.parent.iterdir()] == ["trial.mp4"]


def test_sheet_has_twelve_moments(mini, tmp_path):
    picture = imageio.imread(film(Timeline.of(every(mini[3], 20)), tmp_path / "trial.png"))
    (across, down), (width, height) = SHEET, SHEET_SIZE
    assert picture.shape == (down * height - GAP, across * width - GAP, 3)
    assert (picture[:, width - GAP : width] == 255).all()
    assert picture.mean() > 50 and picture.std() > 20


def test_other_suffixes_are_refused(mini, tmp_path):
    with pytest.raises(ValueError, match=r"trial\.gif: the name must end in \.mp4 or \.png"):
        film(Timeline.of(mini[0]), tmp_path / "trial.gif")


def test_a_film_cut_short_leaves_nothing(mini, tmp_path):
    def stop(frames):
        yield next(iter(frames))
        raise KeyboardInterrupt

    (tmp_path / "trial.mp4").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback keeps alive what the film was written with
        film(Timeline.of(mini[3]), tmp_path / "trial.mp4", progress=stop)
    assert caught and not [child for child in psutil.Process().children() if "ffmpeg" in child.name()]
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"trial.mp4": b"before"}
