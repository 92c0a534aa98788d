"""The recipe for a user's own recordings, and the helpers it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.hand import surface_points
from dexh2r_gym.objects import load_object
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.replay.recorded import HANDOVER, hold_still, into_scene, waiting_hand
from dexh2r_gym.rotations import (
    pose_apply,
    pose_inverse,
    pose_multiply,
    quat_from_axis_angle,
    quat_rotate,
)
from dexh2r_gym.types import split_hand_state
from examples import own_recordings

OBJECT = "water_bottle"


def recording(side: str, yaw: float, num_frames: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """A giver of the open hand in the direction `yaw`, who carries an upright bottle half a metre and up."""
    giver = GiverHand(side)
    heading = quat_from_axis_angle(torch.tensor([0.0, 0.0, yaw], dtype=torch.float64))
    way = torch.linspace(0, 1, num_frames, dtype=torch.float64)[:, None]
    place = torch.tensor([1.0, -2.0, 0.4], dtype=torch.float64) + way * torch.tensor([0.3, -0.3, 0.25])
    object_pose = torch.cat((place, heading.expand(num_frames, 4)), dim=-1)
    turn = torch.tensor([0.0, 0.0, 0.0 if side == "right" else torch.pi], dtype=torch.float64)  # fingers to the bottle
    wrist = torch.tensor([0.13, 0.0, -0.06], dtype=torch.float64)
    wrist = pose_multiply(object_pose, torch.cat((wrist, quat_from_axis_angle(turn))))
    return object_pose, giver.mano(wrist[:, :3], wrist[:, 3:])


@settings(max_examples=25, deadline=None)
@given(side=st.sampled_from(["right", "left"]), yaw=st.floats(-3.2, 3.2))
def test_into_scene_moves_hand_and_object_as_one_and_keeps_the_vertical(side: str, yaw: float) -> None:
    object_pose, mano = recording(side, yaw)
    giver = GiverHand(side)
    moved, hand = into_scene(giver, object_pose.numpy(), mano.numpy())
    assert moved[-1, :3].tolist() == pytest.approx(HANDOVER)
    wrist = giver.joints(hand)[-1, 0] - moved[-1, :3]
    assert wrist.tolist() == pytest.approx([0.13, 0.0, -0.06], abs=1e-9)  # the giver is at +x, whatever the yaw
    before = pose_apply(pose_inverse(object_pose)[:, None], giver.joints(mano))
    torch.testing.assert_close(pose_apply(pose_inverse(moved)[:, None], giver.joints(hand)), before)
    torch.testing.assert_close(moved[:, 2] - moved[0, 2], object_pose[:, 2] - object_pose[0, 2])
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(len(moved), 3)
    torch.testing.assert_close(quat_rotate(moved[:, 3:], up)[:, 2], quat_rotate(object_pose[:, 3:], up)[:, 2])


def test_hold_still_repeats_the_last_row() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert hold_still(rows, 2).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert hold_still(rows, 0).equal(rows)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.6])
def test_waiting_robot_is_behind_everything_that_comes_near(shift: float) -> None:
    """An object that is carried 0.3 metres away from the robot, and `shift` more in the last frame."""
    obj, giver = load_object(OBJECT), GiverHand("right")
    object_pose, mano = into_scene(giver, *recording("right", 0.0))
    object_pose[:-1, 0] -= shift
    mano[:-1, 0] -= shift
    pose, joints = split_hand_state(waiting_hand(obj, giver, object_pose, mano))
    front = float(surface_points(pose, joints)[0][:, 0].max())
    nearest = float(pose_apply(object_pose[:, None], torch.from_numpy(obj.vertices))[..., 0].min())
    gap = min(nearest, float(giver.vertices(mano)[..., 0].min())) - front
    assert gap > 0.05 - 1e-9 and pose[1:3].tolist() == pytest.approx([0, 1])
    assert pose[0] == -0.5 if shift == -0.3 else (pose[0] < -0.5 and gap < 0.09)


@pytest.mark.filterwarnings("ignore:.*the open hand of mean shape")
def test_recipe_makes_a_store_and_evaluates_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(own_recordings, "make_pool", lambda obj, **_: load_pool(OBJECT))  # a minute's search
    monkeypatch.setenv("DEXH2R_MANO", "")  # without MANO's files the open hand stands in
    model = load_object(OBJECT)
    trimesh.Trimesh(model.vertices, model.faces).export(tmp_path / "bottle.obj")
    object_pose, mano = recording("right", 1.0)
    mano[:, :3] -= GiverHand("right", model="mano").root  # MANO's translation is not the wrist
    np.savez(tmp_path / "recording.npz", object=object_pose.numpy(), giver=mano.numpy())
    out = tmp_path / "own.zarr.zip"
    words = [tmp_path / "bottle.obj", tmp_path / "recording.npz", "--out", out, "--run", tmp_path / "run"]
    report = tyro.cli(own_recordings.main, args=[str(word) for word in words])
    store = ReplayStore.open(out)
    store.check()
    (replay,) = store
    assert (replay.id, replay.num_frames, store.giver_model) == ("s00/bottle/000", 100, "mano")
    assert replay.object_pose[-1, :3].tolist() == pytest.approx(HANDOVER, abs=1e-5)
    assert report["overall"]["paper"]["succ"]["value"] == 100.0
