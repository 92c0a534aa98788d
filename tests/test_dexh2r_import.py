"""Import of DexH2R as it is on disk, from small datasets written by `dexh2r_dataset`."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dexh2r_gym.grasps import GraspPool
from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.dexh2r import convert, import_dexh2r, objects
from dexh2r_gym.replay.dexh2r.goals import carried_goals, object_frame_goals
from dexh2r_gym.replay.dexh2r.importer import ORIGIN
from dexh2r_gym.replay.dexh2r.layout import number_names
from dexh2r_gym.replay.dexh2r.trial import read_trial
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_angle
from tests.dexh2r_dataset import (
    FRAMES,
    SKIPPED,
    goal_grasps,
    object_poses,
    with_wrist,
    write_cameras,
    write_dataset,
    write_trial,
)
from tests.mano_files import write_mano_file

pytestmark = pytest.mark.filterwarnings("ignore:.*DEXH2R_MANO:UserWarning")
HERE = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
SHIFT = torch.tensor(ORIGIN, dtype=torch.float64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dexh2r") / "dataset")


@pytest.fixture(scope="module")
def imported(dataset, tmp_path_factory):
    """The whole dataset with every oddity, imported by two processes: its summary and store."""
    out = tmp_path_factory.mktemp("out") / "real.zarr.zip"
    summary = import_dexh2r(dataset, out, workers=2, progress=False)
    return summary, ReplayStore.open(out)


@pytest.fixture
def quick(monkeypatch):
    """Objects in a few milliseconds: one hull instead of a decomposition."""
    monkeypatch.setattr(objects, "decompose", lambda mesh: ([np.asarray(mesh.vertices)], "convex hull", 0.0))


@pytest.fixture
def single(tmp_path):
    """A dataset of one trial."""
    return write_dataset(tmp_path / "dataset", {"1/box/0": {}})


def run(path, out, **options):
    return import_dexh2r(path, out, **({"workers": 1, "progress": False} | options))


def recorded(dataset, name, file):
    return torch.load(dataset / "DexH2R_dataset" / name / file, weights_only=True).double()


# What comes out


def test_trials_are_numbered_and_split_as_the_dataset_says(imported):
    _, store = imported
    split = {info.id: info.split for info in store.infos}
    assert split == {
        "s01/box/000": "train",
        "s01/box/001": "train",
        "s01/mug/000": "train",
        "s01/mug/001": "train",
        "s01/mug/002": "train",
        "s02/bottle/000": "validation",
        "s02/mug/000": "train",
        "s03/box/000": "test",
        "s07/box/000": "validation",
        "s08/box/000": "train",
    }
    store.check()
    assert {info.side for info in store.infos if info.id != "s01/box/001"} == {"right"}
    assert store.info("s01/box/001").side == "left"
    assert all(info.has_demo and info.has_giver for info in store.infos)
    assert {r.giver_model for r in store} == {"mano"}


def test_frames_are_those_of_the_files_moved_into_the_scene(imported, dataset):
    _, store = imported
    replay = store.replay("s02/mug/000")
    matrices = recorded(dataset, "2/mug/0", "obj_pose.pt")
    points = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], dtype=torch.float64)
    expected = points @ matrices[:, :3, :3].mT + matrices[:, None, :3, 3] - SHIFT
    torch.testing.assert_close(pose_apply(replay.object_pose[:, None], points), expected, atol=2e-5, rtol=0)

    qpos = recorded(dataset, "2/mug/0", "qpos.pt")
    assert (qpos[:, 6:8] - 0.12).abs().max() < 1e-6
    torch.testing.assert_close(replay.demo[:, :3], qpos[:, :3] - SHIFT, atol=1e-5, rtol=0)
    torch.testing.assert_close(replay.demo[:, 3:6], qpos[:, 3:6], atol=1e-5, rtol=0)
    torch.testing.assert_close(replay.demo[:, 6:], qpos[:, 8:], atol=1e-5, rtol=0)
    torch.testing.assert_close(replay.hand_start, replay.demo[0], atol=1e-5, rtol=0)

    mano = recorded(dataset, "2/mug/0", "right_mano.pt")
    torch.testing.assert_close(replay.giver[:, :3], mano[:, :3] - SHIFT, atol=1e-5, rtol=0)
    torch.testing.assert_close(replay.giver[:, 3:], mano[:, 3:], atol=1e-5, rtol=0)
    assert replay.grasp_begin == FRAMES - 3
    assert replay.calibration["kinect/cali02"]["value0"]["translation"] == {"x": 0.1}


def test_clouds_are_in_metres_and_on_the_object(imported):
    _, store = imported
    for id in ("s01/box/000", "s03/box/000"):  # the second was written in millimetres
        replay = store.replay(id)
        cloud = replay.sensor("cloud").double()
        assert cloud.shape == (FRAMES, 4096, 3)
        inner = pose_apply(replay.object_pose[-1], HERE[:3])
        assert float((cloud[-1].mean(0) - inner).norm()) < 0.01
        assert float(replay.object_model.signed_distance(pose_inverse_apply(replay, cloud)).abs().max()) < 2e-3


def pose_inverse_apply(replay, cloud):
    return pose_apply(pose_inverse(replay.object_pose)[:, None], cloud).float()


def test_goals_are_the_object_frames_and_free_where_the_giver_is_not(imported):
    _, store = imported
    replay = store.replay("s01/box/000")
    generator = torch.Generator().manual_seed(0)
    object_poses(FRAMES, generator)
    pool = goal_grasps(20, generator)
    kept = [i for i in range(19) if i != 3]  # a double and a row of zeros left out
    torch.testing.assert_close(replay.goal_pose[:, :3], pool[kept, :3], atol=2e-3, rtol=0)  # float16 at 1.4 m
    assert float(quat_angle(replay.goal_pose[:, 3:], pool[kept, 3:7]).max()) < 4e-3
    torch.testing.assert_close(replay.goal_joints, pool[kept, 7:], atol=1e-3, rtol=0)
    assert replay.goal_free.shape == (FRAMES, 18)
    assert replay.goal_free.any() and not replay.goal_free.all()
    near = (replay.goal_pose[:, :3] - pose_inverse_apply(replay, replay.giver[:, None, :3])[0]).norm(dim=-1)
    assert float(near[~replay.goal_free[0]].mean()) < float(near[replay.goal_free[0]].mean())


def test_objects_carry_geometry_and_mass(imported):
    _, store = imported
    assert store.object_names == ("bottle", "box", "mug")
    box, mug, bottle = (store.object_model(name) for name in ("box", "mug", "bottle"))
    assert box.mass == 0.25  # of its urdf
    assert mug.mass == pytest.approx(500 * mug.volume, rel=1e-3)
    np.testing.assert_allclose(box.extents, (0.06, 0.08, 0.2), atol=1e-5)
    np.testing.assert_allclose(bottle.extents, (0.07, 0.07, 0.25), atol=1e-3)
    assert "CC BY-NC 4.0" in store.attrs["licence"]


def test_summary_lists_what_was_skipped_and_what_was_odd(imported):
    summary, store = imported
    assert (summary.trials, summary.frames, summary.objects, summary.subjects) == (10, 10 * FRAMES, 3, 5)
    assert {r.what: r.kind for r in summary.skipped} == SKIPPED
    odd = {(r.what, r.kind.split(",")[0].split(":")[0]): r.detail for r in summary.remarks}
    assert odd == {
        ("1/box/0", "goal grasps that are zeros"): "2",
        ("1/mug/0", "no motion_info.yaml"): "",
        ("1/mug/2", "files of different lengths"): odd["1/mug/2", "files of different lengths"],
        ("2/mug/0", "wrist joints that are not 0"): "up to 0.1200 rad",
        ("3/box/0", "cloud in millimetres"): "",
    }
    assert "qpos.pt 11" in odd["1/mug/2", "files of different lengths"]
    assert dict(summary.renamed) == {"07": 7, "subject_x": 8, "subject_x/box/first": 0}
    text = str(summary)
    assert all(word in text for word in ("10 trials", "missing obj_pose.pt", "ghost.obj", "subject_x is 8"))
    provenance = store.attrs["provenance"]
    assert provenance["skipped"] == [[r.what, r.kind, r.detail] for r in summary.skipped]
    assert provenance["options"]["origin"] == list(ORIGIN) and provenance["options"]["giver_hand"] == "stand-in"


def test_nothing_is_left_beside_the_store(imported):
    summary, _ = imported
    assert [p.name for p in summary.path.parent.iterdir()] == [summary.path.name]


def test_same_bytes_whatever_the_number_of_workers(imported, dataset, tmp_path):
    summary, _ = imported
    run(dataset, tmp_path / "real.zarr.zip")
    assert (tmp_path / "real.zarr.zip").read_bytes() == summary.path.read_bytes()


def test_depth_is_read_as_unsigned(single, quick, tmp_path):
    write_cameras(single / "DexH2R_dataset/1/box/0")
    run(single, tmp_path / "out", sensors=("depth", "image"))
    replay = ReplayStore.open(tmp_path / "out")[0]
    depth, image = replay.sensor("depth"), replay.sensor("image")
    assert depth.shape == (FRAMES, 4, 6, 8) and image.shape == (FRAMES, 4, 6, 8, 3)
    assert depth.numpy()[2, 3, 0, 0] == 40302 and image[0, 3].unique().tolist() == [30]
    with pytest.raises(ReplayError, match="cloud"):
        replay.sensor("cloud")


def test_goals_are_searched_where_there_are_none(single, quick, tmp_path, monkeypatch):
    asked = []

    def make_pool(obj, *, seed, num, num_threads):
        asked.append((obj.name, seed, num))
        grasps = goal_grasps(num, torch.Generator().manual_seed(1)).float()
        zeros = torch.zeros(num)
        return GraspPool(grasps[:, :7], grasps[:, 7:], zeros, zeros, torch.zeros(num, 6), torch.zeros(num, 6))

    monkeypatch.setattr("dexh2r_gym.grasps.make_pool", make_pool)
    write_trial(single, "1/box/5", seed=5)
    for index in (0, 5):
        (single / f"DexH2R_dataset/1/box/{index}/model_final_qpose_cvae.pt").unlink()
    run(single, tmp_path / "out", num_goals=7, seed=3)
    store = ReplayStore.open(tmp_path / "out")
    assert asked == [("box", 3, 7)]
    assert store[0].goal_free.shape == (FRAMES, 7) and store.ids() == ["s01/box/000", "s01/box/005"]
    torch.testing.assert_close(store[0].goal_pose, store[1].goal_pose)


def test_with_mano_the_givers_hand_is_exact(single, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("DEXH2R_MANO", str(tmp_path / "mano"))
    with pytest.raises(FileNotFoundError, match=r"MANO_RIGHT\.pkl"):
        run(single, tmp_path / "out")
    (tmp_path / "mano").mkdir()
    write_mano_file(tmp_path / "mano", "right")
    run(single, tmp_path / "out")
    assert ReplayStore.open(tmp_path / "out").attrs["provenance"]["options"]["giver_hand"] == "MANO"


def test_a_demonstration_out_of_reach_is_remarked(single, quick, tmp_path):
    summary = run(single, tmp_path / "out", origin=(0, 0, 0))
    assert [r.kind.split(";")[0] for r in summary.remarks] == ["demonstration beyond the environment's workspace"]
    assert run(single, tmp_path / "out2").remarks == ()


# Goals


def test_goals_that_stay_behind_are_reported():
    generator = torch.Generator().manual_seed(0)
    poses = object_poses(5, generator)
    states = torch.cat((torch.rand(6, 3), torch.rand(6, 25)), dim=-1).double()
    still = with_wrist(states).expand(5, 6, 30)
    goals, odd = carried_goals(still, poses)
    assert len(goals) == 6 and "not carried along" in odd[0][0]


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_object_frame_goals_drop_zeros_and_doubles(seed, count):
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(count, 28, generator=generator)
    pose = object_poses(2, generator)[1]
    plain, index = object_frame_goals(states, pose)
    assert index.tolist() == list(range(count))
    mixed = torch.cat((torch.zeros(2, 28), states, states[:1], states))
    again, index = object_frame_goals(mixed, pose)
    torch.testing.assert_close(again, plain)
    assert index.tolist() == list(range(2, count + 2))


# Names


def test_numbers_of_names():
    assert number_names(["0", "10", "2"]) == {"0": 0, "10": 10, "2": 2}
    assert number_names(["07", "3", "x", "a"]) == {"07": 7, "3": 3, "a": 8, "x": 9}
    assert number_names(["7", "07"]) == {"7": 7, "07": 8}
    assert number_names(["first"]) == {"first": 0}


@given(st.lists(st.text(alphabet="0129ax-", min_size=1, max_size=9), unique=True))
def test_every_name_has_a_number_of_its_own(names):
    numbers = number_names(names)
    assert set(numbers) == set(names) and len(set(numbers.values())) == len(names)
    for name in names:
        if name.isdecimal() and len(name) <= 6 and name == str(int(name)):
            assert numbers[name] == int(name)


# Interrupted, stopped, refused


def test_an_import_stopped_by_a_damaged_file_goes_on(single, quick, tmp_path, monkeypatch):
    for index in (1, 2):
        write_trial(single, f"1/box/{index}", seed=index)
    damaged = single / "DexH2R_dataset/1/box/2/qpos.pt"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:-100])
    out = tmp_path / "out.zarr.zip"
    with pytest.raises(ReplayError, match=r"1/box/2/qpos\.pt"):
        run(single, out)
    assert not out.exists()
    damaged.write_bytes(sound)
    converted = []

    def read(folder, trial, sensors):
        converted.append(trial.name)
        return read_trial(folder, trial, sensors)

    monkeypatch.setattr(convert, "read_trial", read)
    assert run(single, out).trials == 3
    assert converted == ["1/box/2"]
    ReplayStore.open(out).check()


def test_a_changed_file_is_read_again(single, quick, tmp_path, monkeypatch):
    write_trial(single, "1/box/1", seed=1)
    monkeypatch.setattr("dexh2r_gym.replay.dexh2r.importer.write_store", stop)
    with pytest.raises(InterruptedError):
        run(single, tmp_path / "out")
    monkeypatch.undo()
    shutil.copy(single / "DexH2R_dataset/1/box/1/right_mano.pt", single / "DexH2R_dataset/1/box/0/right_mano.pt")
    summary = run(single, tmp_path / "out")
    first, second = ReplayStore.open(tmp_path / "out")
    torch.testing.assert_close(first.giver, second.giver)
    assert summary.trials == 2


def stop(*_, **__):
    raise InterruptedError


def test_a_killed_import_goes_on(single, tmp_path):
    for index in range(1, 24):
        shutil.copytree(single / "DexH2R_dataset/1/box/0", single / f"DexH2R_dataset/1/box/{index}")
    out = tmp_path / "out.zarr.zip"
    code = (
        f"from dexh2r_gym.replay.dexh2r import import_dexh2r; import_dexh2r({str(single)!r}, {str(out)!r}, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
    trials = tmp_path / "out.zarr.zip.partial" / "trials"
    try:
        wait_until(lambda: trials.is_dir() and len(list(trials.glob("*.npz"))) > 3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in trials.glob("*.npz")}
    assert not out.exists() and 0 < len(done) < 24
    with pytest.raises(ReplayError, match="seed was 0, is 1"):
        run(single, out, seed=1)
    assert {path: path.stat().st_mtime_ns for path in trials.glob("*.npz")} == done
    assert run(single, out).trials == 24
    assert len(ReplayStore.open(out)) == 24 and not trials.exists()


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_damaged_trials_are_skipped_if_asked(single, quick, tmp_path):
    folder = write_trial(single, "1/box/1", seed=1)
    (folder / "qpos.pt").write_bytes(b"")
    write_trial(single, "1/mug/0", seed=2)
    (single / "object_model/mug.obj").write_text("v 0 0 0\n")
    summary = run(single, tmp_path / "out", skip_damaged=True)
    assert summary.trials == 1
    assert [(r.what, r.kind) for r in summary.skipped] == [("1/mug/0", "damaged object"), ("1/box/1", "damaged")]
    assert "mug.obj" in summary.skipped[0].detail and "1/box/1/qpos.pt" in summary.skipped[1].detail


def test_strict_fails_on_anything_skipped(dataset, tmp_path):
    with pytest.raises(ReplayError, match=r"strict: 2 trials would be skipped; 2/box/0: missing obj_pose\.pt"):
        run(dataset, tmp_path / "out", strict=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sensors": ("lidar",)}, "unknown sensor 'lidar'; sensors: cloud, depth, image"),
        ({"strict": True, "skip_damaged": True}, "choose one"),
        ({"num_goals": 65}, "num_goals must be 1 to 64"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"fps": 0}, "fps must be above 0"),
    ],
)
def test_options_are_checked(single, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(single, tmp_path / "out", **options)


def test_an_existing_store_is_kept(single, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        run(single, tmp_path / "out")
    (tmp_path / "out").rmdir()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").touch()
    with pytest.raises(ReplayError, match="not a folder of work on a store"):
        run(single, tmp_path / "out")
    assert (tmp_path / "out.partial" / "mine").exists()


@pytest.mark.parametrize("name", ["DexH2R_dataset", "object_model", "dataset_split.json"])
def test_what_is_no_dataset_is_refused(single, tmp_path, name):
    (single / name).rename(tmp_path / "elsewhere")
    with pytest.raises(ReplayError, match=name):
        run(single, tmp_path / "out")
    with pytest.raises(ReplayError, match="no such folder"):
        run(single / "nothing", tmp_path / "out")


def test_the_folder_above_gets_a_hint(single, tmp_path):
    with pytest.raises(ReplayError, match="did you mean"):
        run(single.parent, tmp_path / "out")


# Every file damaged in turn

EVIL = "written_by_a_pickle"
TENSORS = ("qpos.pt", "obj_pose.pt", "right_mano.pt", "real_obj_pcd_xyz.pt", "model_final_qpose_cvae.pt")


class Evil:
    """Unpickled, it writes a file into the working folder."""

    def __reduce__(self):
        return open, (EVIL, "w")


def load(path):
    return torch.load(path, weights_only=True)


def rezip(path, change=None, compress=zipfile.ZIP_STORED):
    """Write a zip anew; `change` maps the bytes of its pickle."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in parts.items():
            file.writestr(name, change(content) if change and name.endswith("data.pkl") else content)


def lie_about_size(path):
    """The central directory claims 2 GB for the largest part."""
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        entry = max(file.infolist(), key=lambda e: e.file_size)
    at = raw.rfind(b"PK\x01\x02", 0, raw.rfind(entry.filename.encode()))
    raw[at + 20 : at + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    path.write_bytes(raw)


def lie_about_numbers(path):
    """The pickle claims more frames than the file has."""
    value = load(path)
    rows = len(value).to_bytes(1, "little")
    rezip(path, lambda text: text.replace(b"(K" + rows, b"(M\xff\xff", 1).replace(b"K\x00K" + rows, b"K\x00M\xff\xff"))


def outside(path):
    target = path.parents[5] / "stolen"
    shutil.move(path, target)
    path.symlink_to(target)


TENSOR_DAMAGE = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a tensor"),
    "dtype": lambda p: torch.save(load(p).long(), p),
    "complex": lambda p: torch.save(load(p).to(torch.complex64), p),
    "shape": lambda p: torch.save(load(p)[..., :-1].clone(), p),
    "no frames": lambda p: torch.save(load(p)[:0].clone(), p),
    "one frame": lambda p: torch.save(load(p)[:1].clone(), p),
    "nan": lambda p: torch.save(load(p).index_fill(0, torch.tensor([3]), float("nan")), p),
    "huge numbers": lambda p: torch.save(load(p).float() * 1e6 + 1e6, p),
    "list": lambda p: torch.save([load(p)], p),
    "sparse": lambda p: torch.save(load(p).float().to_sparse(), p),
    "stretched": lambda p: torch.save(load(p)[:1].expand(100_000, *load(p).shape[1:]), p),
    "malicious": lambda p: rezip(p, lambda _: pickle.dumps(Evil(), protocol=2)),
    "old malicious": lambda p: p.write_bytes(pickle.dumps(Evil(), protocol=2)),
    "compressed": lambda p: rezip(p, compress=zipfile.ZIP_DEFLATED),
    "zip bomb": lie_about_size,
    "more than there is": lie_about_numbers,
    "outside": outside,
    "folder": lambda p: (p.unlink(), p.mkdir()),
}


def refused(dataset, tmp_path, *words):
    """The import fails with an error that has these words, and leaves no store."""
    out = tmp_path / "out.zarr.zip"
    with pytest.raises(ReplayError) as caught:
        run(dataset, out)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not out.exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"dataset", "out.zarr.zip.partial", "stolen"}
    assert not Path(EVIL).exists()


@pytest.mark.parametrize("damage", TENSOR_DAMAGE)
@pytest.mark.parametrize("file", TENSORS)
def test_damaged_tensors_are_refused_by_name(single, quick, tmp_path, file, damage):
    path = single / "DexH2R_dataset/1/box/0" / file
    TENSOR_DAMAGE[damage](path)
    refused(single, tmp_path, f"1/box/0/{file}")


def test_a_pose_that_is_no_rotation_is_refused(single, quick, tmp_path):
    path = single / "DexH2R_dataset/1/box/0/obj_pose.pt"
    for change in ((2, 0, 0, 0.5), (2, 3, 0, 0.5)):
        poses = load(path)
        poses[change[:3]] += change[3]
        torch.save(poses, path)
        refused(single, tmp_path, "1/box/0/obj_pose.pt", "frame 2")
        poses[change[:3]] -= change[3]
        torch.save(poses, path)
    mirrored = load(path)
    mirrored[4, :3, 0] *= -1
    torch.save(mirrored, path)
    refused(single, tmp_path, "1/box/0/obj_pose.pt", "frame 4")


BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
ENTITY = '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><robot name="&b;"/>'
TETRA = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 2 3\nf 1 2 4\nf 2 3 4\nf 1 3 4\n"
TEXT_DAMAGE = {
    ("motion_info.yaml", "truncated"): "grasp_begin_frame_index: [",
    ("motion_info.yaml", "empty"): "",
    ("motion_info.yaml", "key"): "other: 3",
    ("motion_info.yaml", "type"): "grasp_begin_frame_index: soon",
    ("motion_info.yaml", "negative"): "grasp_begin_frame_index: -4",
    ("motion_info.yaml", "object"): "grasp_begin_frame_index: !!python/object/apply:os.getcwd []",
    ("motion_info.yaml", "bomb"): BOMB,
    ("motion_info.yaml", "large"): "grasp_begin_frame_index: 3 #" + "x" * (1 << 20),
    ("calibration/zcam_to_kinect_transform.json", "truncated"): '{"value0": ',
    ("calibration/zcam_to_kinect_transform.json", "empty"): "",
    ("calibration/zcam_to_kinect_transform.json", "type"): "[1]",
    ("calibration/zcam_to_kinect_transform.json", "nan"): '{"value0": NaN}',
    ("calibration/kinect/cali00.json", "deep"): "[" * 100_000,
    ("../../../../dataset_split.json", "truncated"): "{",
    ("../../../../dataset_split.json", "key"): "{}",
    ("../../../../dataset_split.json", "twice"): json.dumps(
        {k: [1] for k in ("train_sub_names", "val_sub_names", "test_sub_names")}
        | {k: [] for k in ("train_obj", "val_obj", "test_obj")}
    ),
    ("../../../../object_model/box.obj", "empty"): "",
    ("../../../../object_model/box.obj", "truncated"): "v 0 0 0\nv 1 0 0\nf 1 2",
    ("../../../../object_model/box.obj", "indices"): TETRA + "f 1 2 9\n" * 4,
    ("../../../../object_model/box.obj", "nan"): TETRA.replace("0 .1 0", "0 nan 0"),
    ("../../../../object_model/box.obj", "size"): TETRA.replace(".1", "99"),
    ("../../../../object_model/box.urdf", "truncated"): "<robot><link>",
    ("../../../../object_model/box.urdf", "mass"): '<robot><mass value="-1"/></robot>',
    ("../../../../object_model/box.urdf", "number"): '<robot><mass value="heavy"/></robot>',
    ("../../../../object_model/box.urdf", "entity"): ENTITY,
}  # fmt: skip


@pytest.mark.parametrize(("file", "kind"), TEXT_DAMAGE)
def test_damaged_text_is_refused_by_name(single, quick, tmp_path, file, kind):
    path = (single / "DexH2R_dataset/1/box/0" / file).resolve()
    path.write_text(TEXT_DAMAGE[file, kind])
    refused(single, tmp_path, path.name)


@pytest.mark.parametrize(
    "link",
    [
        "DexH2R_dataset/1/box/0/motion_info.yaml",
        "DexH2R_dataset/1/box/0/calibration/kinect/cali00.json",
        "DexH2R_dataset/1/box/0/calibration",
        "DexH2R_dataset/1/box/0",
        "DexH2R_dataset/1",
        "object_model",
        "dataset_split.json",
    ],
)
def test_links_out_of_the_folder_are_refused(single, quick, tmp_path, link):
    shutil.move(single / link, tmp_path / "stolen")
    (single / link).symlink_to(tmp_path / "stolen")
    refused(single, tmp_path, link, "leads out")


def test_a_link_within_the_folder_is_followed(single, quick, tmp_path):
    shutil.move(single / "DexH2R_dataset/1/box/0/qpos.pt", single / "kept.pt")
    (single / "DexH2R_dataset/1/box/0/qpos.pt").symlink_to(single / "kept.pt")
    assert run(single, tmp_path / "out").trials == 1


def test_both_hands_leave_it_open_whose_the_object_is(single, quick, tmp_path):
    folder = write_trial(single, "1/box/1")
    shutil.copy(folder / "right_mano.pt", folder / "left_mano.pt")
    summary = run(single, tmp_path / "out")
    assert summary.trials == 1 and "both right_mano.pt and left_mano.pt" in summary.skipped[0].kind
