"""Import of recorded human handovers: made-up recordings with known answers, and a real one where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.khanna import (
    FPS,
    SETTLE,
    STEP,
    come_to_rest,
    held_span,
    import_khanna,
    mean_wrist,
    read_recording,
    resample,
    to_scene,
)
from dexh2r_gym.rotations import (
    pose_inverse,
    pose_multiply,
    quat_angle,
    quat_from_axis_angle,
    quat_multiply,
    quat_rotate,
)

REAL = next(Path(__file__).parents[2].glob("*/testdata/khanna_handover"), None)
real = pytest.mark.skipif(REAL is None, reason="the sample recording of Handovers@RPL is not beside the repository")

SAMPLES = 360
BEGIN, CONTACT, RELEASE = 100, 240, 260
SPEED = torch.tensor([0.1, 0.2, 0.05], dtype=torch.float64)  # m/s
SPIN = 0.5  # rad/s about z


def z_turn(angle: torch.Tensor | float) -> torch.Tensor:
    angle = torch.as_tensor(angle, dtype=torch.float64)
    return quat_from_axis_angle(torch.stack((0 * angle, 0 * angle, angle), dim=-1))


def motion() -> torch.Tensor:
    """(N, 7) baton: constant velocity and spin, about 1 m above the ground."""
    time = torch.arange(SAMPLES, dtype=torch.float64) / 120
    position = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64) + time[:, None] * SPEED
    return torch.cat((position, z_turn(SPIN * time)), dim=-1)


def write_table(path: Path, header: str, table: np.ndarray) -> None:
    np.savetxt(path, table, delimiter=",", header=header, comments="")


def write_pose(folder: Path, name: str, pose: torch.Tensor) -> None:
    xyzw = pose.expand(SAMPLES, 7)[:, [0, 1, 2, 4, 5, 6, 3]].numpy()
    write_table(folder / f"{name}_pose_saved.csv", "x,y,z,q0,q1,q2,q3", xyzw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording: the giver stands at +y, the taker at -y, the left hand holds the baton 20 cm behind its middle."""
    folder = tmp_path / "recording"
    folder.mkdir()
    baton = motion()
    grip = torch.tensor([-0.2, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    write_pose(folder, "baton", baton)
    write_pose(folder, "giver_LHand", pose_multiply(baton, grip))
    write_pose(folder, "giver_RHand", torch.tensor([2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]).double())
    write_pose(folder, "giver_hip", torch.tensor([0.0, 1.0, 0.9, 1.0, 0.0, 0.0, 0.0]).double())
    write_pose(folder, "taker_hip", torch.tensor([0.0, -1.0, 0.9, 1.0, 0.0, 0.0, 0.0]).double())
    for who, held in (("giver", slice(BEGIN, RELEASE + 1)), ("taker", slice(CONTACT, None))):
        wrench = np.full((SAMPLES, 6), -0.5)
        wrench[held, 2] = -20.0
        if who == "giver":
            wrench[20:60, 2] = -20.0  # an earlier hold that is not part of the handover
        write_table(folder / f"Wrench_{who}_saved.csv", "Fx,Fy,Fz,Tx,Ty,Tz", wrench)
    return folder


def test_hold_is_found_by_grip_forces(folder: Path) -> None:
    assert held_span(read_recording(folder)) == (BEGIN, CONTACT, RELEASE)


def test_scene_has_the_giver_at_plus_x_and_the_handover_at_the_origin(folder: Path) -> None:
    recording = read_recording(folder)
    scene = to_scene(recording, (BEGIN, CONTACT, RELEASE))
    contact = pose_multiply(scene, recording.baton[CONTACT])
    torch.testing.assert_close(contact[:3], torch.tensor([0.0, 0.0, recording.baton[CONTACT, 2]]).double())
    # The giver was at +y, so +y becomes +x: a turn of -90 degrees about z, the vertical stays.
    assert quat_angle(scene[3:], z_turn(-torch.pi / 2)) < 1e-7 and scene[2] == 0


def test_resampling_keeps_uniform_motion_and_removes_sign_flips_and_noise() -> None:
    clean = motion()
    flipped = clean.clone()
    flipped[50:90, 3:] *= -1
    out = resample(flipped)[12:-12]
    torch.testing.assert_close(out[:, :3], clean[12:-12, :3], atol=1e-9, rtol=0)
    assert quat_angle(out[:, 3:], clean[12:-12, 3:]).max() < 1e-6
    noise = 1e-3 * torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = torch.cat((clean[:, :3] + noise, clean[:, 3:]), dim=-1)
    left = (resample(noisy)[12:-12, :3] - clean[12:-12, :3]).std()
    assert left < 0.5e-3  # a Gaussian of 2 samples leaves 1 / sqrt(2 * 2 * sqrt(pi)) = 0.38


def test_coming_to_rest_is_smooth_and_ends() -> None:
    poses = motion()[::STEP]
    out = come_to_rest(poses, 1.0)
    assert len(out) == len(poses) + FPS and torch.equal(out[: len(poses)], poses)
    step = (out[1:, :3] - out[:-1, :3]).norm(dim=-1)[len(poses) - 2 :]
    turn = quat_angle(out[1:, 3:], out[:-1, 3:])[len(poses) - 2 :]
    for change, first in ((step, float(SPEED.norm()) / FPS), (turn, SPIN / FPS)):
        assert change[0] == pytest.approx(first, rel=1e-6)
        assert (change[1:] < change[:-1]).all() and change[1] > 0.8 * change[0] and change[-1] < 1e-3 * change[0]
    travelled = (out[-1, :3] - poses[-1, :3]).norm()
    assert float(travelled) == pytest.approx(float(SPEED.norm()) * SETTLE, rel=1e-3)
    assert torch.equal(come_to_rest(poses, 0.0), poses)


def test_hand_that_holds_is_found_and_expressed_in_the_baton(folder: Path) -> None:
    side, wrist = mean_wrist(read_recording(folder), (BEGIN, CONTACT, RELEASE))
    assert side == "left"
    torch.testing.assert_close(wrist[:3], torch.tensor([-0.2, 0.0, 0.0]).double(), atol=1e-7, rtol=0)
    # Bones have the palm down (-z) where the rest hand has it at -y, and y to the back where rest has the thumb at +z.
    axes = torch.eye(3, dtype=torch.float64)
    turned = quat_rotate(wrist[3:].expand(3, 4), axes)
    expected = torch.stack((axes[0], axes[2], -axes[1]))
    torch.testing.assert_close(turned, expected, atol=1e-7, rtol=0)


def damage(path: Path, change) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("baton_pose_saved.csv", lambda x: x[:200], "different lengths: baton 199, giver_RHand 360"),
        ("baton_pose_saved.csv", lambda x: [*x[:9], "1," + x[9], *x[10:]], "baton_pose.*cannot be read"),
        ("baton_pose_saved.csv", lambda x: [*x[:9], "nan,0,0,0,0,0,1", *x[10:]], "frame 8: a number is not finite"),
        ("giver_hip_pose_saved.csv", lambda x: [*x[:5], "0,0,0,1,1,0,0", *x[6:]], r"frame 4: quaternion of norm 1\.4"),
        ("Wrench_giver_saved.csv", lambda x: ["a,b", *x[1:]], "Wrench_giver.*expected columns Fx,Fy,Fz,Tx,Ty,Tz"),
        ("Wrench_taker_saved.csv", lambda x: x[:1], "Wrench_taker.*at least 120 rows"),
        ("giver_hip_pose_saved.csv", lambda x: [], "giver_hip.*expected columns x,y,z"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_damaged_files_are_named(folder: Path, file: str, change, message: str) -> None:
    damage(folder / file, change)
    with pytest.raises(ReplayError, match=message):
        read_recording(folder)


def test_missing_files_and_missing_handovers_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "Wrench_giver_saved.csv").write_text((folder / "Wrench_taker_saved.csv").read_text())
    damage(folder / "Wrench_giver_saved.csv", lambda x: [x[0], *["0,0,0,0,0,0"] * (len(x) - 1)])
    with pytest.raises(ReplayError, match="never hold the baton at once"):
        held_span(read_recording(folder))
    (folder / "taker_hip_pose_saved.csv").unlink()
    with pytest.raises(ReplayError, match=r"taker_hip_pose_saved\.csv: missing"):
        read_recording(folder)
    with pytest.raises(ReplayError, match="no such folder"):
        read_recording(tmp_path / "nothing")


@real
def test_real_recording_reads_as_two_people_and_a_baton() -> None:
    assert REAL is not None
    recording = read_recording(REAL)
    begin, contact, release = span = held_span(recording)
    assert 1.0 < (release - begin) / 120 < 3.0 and begin < contact < release
    side, wrist = mean_wrist(recording, span)
    assert side == "right"
    held = slice(begin, contact)
    relative = pose_multiply(pose_inverse(recording.baton[held]), recording.wrists[side][held])
    assert relative[:, :3].std(0).max() < 0.015  # hand and baton move as one
    # Order of the quaternion's numbers: fingers point from the wrist along the baton, thumb up, palm inwards.
    fingers, inner, thumb = quat_rotate(
        wrist[3:].expand(3, 4), torch.tensor([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]]).double()
    )
    to_middle = -wrist[:3] / wrist[:3].norm()
    assert fingers @ to_middle > 0.9 and thumb[2] > 0.8 and inner[1] > 0.8
    pose = pose_multiply(to_scene(recording, span), resample(recording.baton))[begin : release + 1]
    assert pose[0, 0] > 0.1  # it comes from the giver's side
    assert 0.7 < pose[:, 2].min() < pose[:, 2].max() < 1.3  # z is up: from the table's height to the chest's
    along = quat_rotate(pose[:, 3:], torch.tensor([1.0, 0.0, 0.0]).double().expand(len(pose), 3))
    assert along[:, 0].max() < -0.9  # the far end points to the robot
    speed = (pose[1:, :3] - pose[:-1, :3]).norm(dim=-1) * 120
    assert 0.3 < speed.max() < 1.5


class _FarGoals:
    """Eight open hands just beyond the far end of the baton, one every 45 degrees about it."""

    def __init__(self) -> None:
        angle = torch.arange(8) * torch.pi / 4
        about = torch.stack((angle, 0 * angle, 0 * angle), dim=-1)
        reach = torch.tensor([0.5, -0.5, -0.5, -0.5]).expand(8, 4)  # fingers to -x
        rotation = quat_multiply(quat_from_axis_angle(about), reach)
        self.palm_pose = torch.cat((torch.tensor([0.35, 0.0, 0.0]).expand(8, 3), rotation), dim=-1)
        self.joints = torch.zeros(8, 22)


@real
def test_real_recording_becomes_a_trial(tmp_path: Path) -> None:
    assert REAL is not None
    out = import_khanna(REAL, tmp_path / "baton.zarr.zip", make_goals=lambda obj, seed: _FarGoals(), wait=0.5)
    store = ReplayStore.open(out)
    store.check()
    (replay,) = store
    assert (replay.fps, replay.side, replay.kind) == (30.0, "right", "unseen_object_unseen_subject")
    recorded, added = store.attrs["provenance"]["recorded_frames"], store.attrs["provenance"]["added_frames"]
    assert replay.num_frames == recorded + added and added == 15
    assert store.attrs["provenance"]["wrist_moved_metres"] < 0.05
    assert replay.goal_free.sum(-1).min() >= 5
    # The giver's skin touches the baton in every frame and is never deep in it.
    skin = GiverHand(replay.side, replay.betas).vertices(replay.giver)
    local = pose_multiply(
        pose_inverse(replay.object_pose)[:, None], torch.cat((skin, torch.zeros(*skin.shape[:2], 4).double()), -1)
    )
    nearest = replay.object_model.signed_distance(local[..., :3].float()).amin(-1)
    assert nearest.max() < 0.0015 and nearest.min() > -0.003
    with pytest.raises(FileExistsError):
        import_khanna(REAL, out)
