"""Import of DexH2R's zarr files, from small ones written here with zarr itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import trimesh
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.dexh2r import import_dexh2r_zarr
from dexh2r_gym.replay.dexh2r.arrays import RowArray
from dexh2r_gym.replay.dexh2r.importer import ORIGIN
from dexh2r_gym.replay.dexh2r.pieces import slabs_of_points
from dexh2r_gym.replay.dexh2r.rigid import fit_rigid
from dexh2r_gym.replay.dexh2r.surface import fit_surface
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_angle, quat_normalize
from dexh2r_gym.types import join_hand_state
from tests.dexh2r_dataset import goal_grasps, mesh_of, object_poses, surface, write_models

POINTS = 1024
GOALS = 5
EPISODES = [("box", 4), ("mug", 3), ("box", 5), ("mug", 4)]  # object, frames; the third begins validation
SHIFT = torch.tensor(ORIGIN, dtype=torch.float64)


def episode_arrays(name: str, frames: int, seed: int) -> dict[str, np.ndarray]:
    """The rows of one episode; its poses and goals are those of generator `seed`."""
    generator = torch.Generator().manual_seed(seed)
    poses = object_poses(frames, generator)
    pool = goal_grasps(GOALS, generator)
    points = pose_apply(poses[:, None], surface(name, POINTS))
    world = pose_multiply(poses[:, None], pool[:, :7])
    start = torch.cat((poses[:, :3] - torch.tensor([0.4, 0, 0]), poses[:, 3:]), dim=-1)
    depth = torch.full((frames, 6, 8, 1), 45000) + torch.arange(frames)[:, None, None, None]
    return {
        "agent_pos": join_hand_state(start, torch.full((frames, 22), 0.1, dtype=torch.float64)).numpy(),
        "final_grasp_group": join_hand_state(world, pool[:, 7:].expand(frames, GOALS, 22)).numpy().astype(np.float32),
        "objpcd_intact": points.numpy(),
        "obs_objpcd": points.numpy()[:, ::2].astype(np.float32),
        "image": np.full((frames, 6, 8, 3), 7, dtype=np.uint8),
        "depth": depth.numpy().astype(np.uint16),
    }


def write_zarr(path, episodes=EPISODES, restart=2):
    """A file as DexH2R's script writes it, in chunks of five frames."""
    rows = [episode_arrays(name, frames, seed) for seed, (name, frames) in enumerate(episodes)]
    arrays = {key: np.concatenate([r[key] for r in rows]) for key in rows[0]}
    numbers = [1 + i - (restart if i >= restart else 0) for i in range(len(episodes))]
    lengths = [frames for _, frames in episodes]
    arrays["traj_index"] = np.repeat(numbers, lengths)
    root = zarr.open_group(path, mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for key, value in arrays.items():
        data.create_array(key, data=value, chunks=(5, *value.shape[1:]))
    meta.create_array("episode_ends", data=np.cumsum(lengths), chunks=(300,))
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_zarr(tmp_path_factory.mktemp("zarr") / "train_val.zarr")


@pytest.fixture(scope="module")
def imported(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    summary = import_dexh2r_zarr(written, folder / "real.zarr.zip", progress=False)
    return summary, ReplayStore.open(folder / "real.zarr.zip")


def run(path, out, **options):
    return import_dexh2r_zarr(path, out, **({"progress": False} | options))


# What comes out


def test_episodes_become_trials_without_a_giver(imported):
    summary, store = imported
    assert (summary.trials, summary.frames, summary.objects) == (4, 16, 2)
    store.check()
    assert store.ids() == ["s00/object_00/000", "s00/object_01/000", "s00/object_00/001", "s00/object_01/001"]
    assert [info.split for info in store.infos] == ["train", "train", "validation", "validation"]
    assert [info.num_frames for info in store.infos] == [frames for _, frames in EPISODES]
    for replay in store:
        assert not replay.has_giver and replay.has_demo and replay.grasp_begin == -1 and replay.goal_free.all()
        assert float(replay.giver[:, 2].max()) == -10.0
    provenance = store.attrs["provenance"]
    assert any("giver" in what for what in provenance["lacks"])
    assert provenance["pose_residual"]["largest_m"] < 1e-6
    assert {r.what: r.kind for r in summary.remarks} == {
        f"object_0{i}": "solid made from its points alone" for i in range(2)
    }


def test_poses_and_goals_are_recovered(imported):
    _, store = imported
    relative: dict[str, torch.Tensor] = {}
    for seed, replay in enumerate(store):
        generator = torch.Generator().manual_seed(seed)
        poses = object_poses(replay.num_frames, generator)
        pool = goal_grasps(GOALS, generator)
        poses[:, :3] -= SHIFT
        offset = pose_multiply(pose_inverse(poses), replay.object_pose)  # between the object's frames: always the same
        offset = torch.cat((offset[:, :3], quat_normalize(offset[:, 3:])), dim=-1)
        torch.testing.assert_close(offset, offset[:1].expand_as(offset), atol=2e-5, rtol=0)
        torch.testing.assert_close(relative.setdefault(replay.object, offset[0]), offset[0], atol=2e-5, rtol=0)
        world = pose_multiply(poses[:1], pool[:, :7])
        found = pose_multiply(replay.object_pose[:1], replay.goal_pose)
        torch.testing.assert_close(found[:, :3], world[:, :3], atol=2e-5, rtol=0)
        assert float(quat_angle(found[:, 3:], world[:, 3:]).max()) < 1e-4
        torch.testing.assert_close(replay.goal_joints, pool[:, 7:], atol=1e-5, rtol=0)
        demo = torch.from_numpy(episode_arrays(EPISODES[seed][0], replay.num_frames, seed)["agent_pos"])
        demo[:, :3] -= SHIFT
        torch.testing.assert_close(replay.demo, demo, atol=1e-5, rtol=0)


def test_clouds_and_solids_agree(imported):
    _, store = imported
    for replay in store:
        inner = pose_apply(pose_inverse(replay.object_pose)[:, None], replay.sensor("cloud").double())
        assert float(replay.object_model.signed_distance(inner.float()).abs().max()) < 0.004
    box = store.object_model("object_00")
    assert box.volume == pytest.approx(0.06 * 0.08 * 0.2, rel=0.05)
    assert "hull of the points" in box.metadata["decomposition"]


def test_models_are_matched_by_fitting(written, tmp_path, monkeypatch):
    quick = lambda mesh: ([np.asarray(mesh.vertices)], "convex hull", 0.0)  # noqa: E731
    monkeypatch.setattr("dexh2r_gym.replay.dexh2r.objects.decompose", quick)
    write_models(tmp_path)
    summary = run(written, tmp_path / "out", objects=tmp_path / "object_model")
    store = ReplayStore.open(tmp_path / "out")
    assert store.object_names == ("box", "mug") and summary.remarks == ()
    assert store.object_model("box").mass == 0.25
    np.testing.assert_allclose(store.object_model("box").extents, (0.06, 0.08, 0.2), atol=1e-5)
    for replay in store:
        inner = pose_apply(pose_inverse(replay.object_pose)[:, None], replay.sensor("cloud").double())
        assert float(replay.object_model.signed_distance(inner.float()).abs().mean()) < 0.001
    with pytest.raises(ReplayError, match="no object model here"):
        run(written, tmp_path / "out2", objects=tmp_path / "out")


def test_images_and_depth_are_kept_if_asked(written, tmp_path):
    run(written, tmp_path / "out", sensors=("image", "depth"))
    replay = ReplayStore.open(tmp_path / "out")[0]
    assert replay.sensors == ("depth", "image")
    assert replay.sensor("image").shape == (4, 1, 6, 8, 3)
    assert replay.sensor("depth")[:, 0, 0, 0].tolist() == [45000, 45001, 45002, 45003]


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("DexH2R_dp3_dataset.zarr", ["train", "train", "validation", "validation"]),
        ("val.zarr", ["validation", "validation", "test", "test"]),
    ],
)
def test_the_files_name_says_with_which_split_it_begins(written, tmp_path, name, splits):
    shutil.copytree(written, tmp_path / name)
    run(tmp_path / name, tmp_path / "out")
    assert [info.split for info in ReplayStore.open(tmp_path / "out").infos] == splits


def test_a_file_with_more_splits_than_its_name_allows_is_refused(written, tmp_path):
    shutil.copytree(written, tmp_path / "test.zarr")
    with pytest.raises(ReplayError, match=r"traj_index.*begins anew 1 times"):
        run(tmp_path / "test.zarr", tmp_path / "out")


# Fits


@given(st.integers(0, 2**31), st.integers(4, 40), st.floats(0, 1e-3))
@settings(max_examples=50)
def test_rigid_motion_is_found_again(seed, count, noise):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    turn = quat_normalize(torch.randn(6, 4, generator=generator, dtype=torch.float64))
    pose = torch.cat((torch.randn(6, 3, generator=generator, dtype=torch.float64), turn), dim=-1)
    moved = pose_apply(pose[:, None], points)
    found, left = fit_rigid(points, moved)
    assert float(left.max()) < 1e-9
    torch.testing.assert_close(pose_apply(found[:, None], points), moved, atol=1e-9, rtol=0)
    _, left = fit_rigid(points, moved + noise * torch.randn(moved.shape, generator=generator, dtype=torch.float64))
    assert float(left.max()) <= 2 * 1.8 * noise + 1e-9


def test_a_mirror_image_is_no_motion():
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mirrored = points * torch.tensor([-1.0, 1, 1])
    pose, left = fit_rigid(points, mirrored[None])
    assert float(left) > 0.1 and float(pose[0, 3:].norm()) == pytest.approx(1)
    flat = points * torch.tensor([1.0, 1, 0])  # all in a plane: one motion fits exactly
    assert float(fit_rigid(flat, pose_apply(pose, flat)[None])[1]) < 1e-9


def test_a_surface_is_laid_on_itself():
    mesh = mesh_of("box")
    mesh = mesh + mesh.copy().apply_scale(0.4).apply_translation([0.05, 0.02, 0.06])  # no symmetry
    some = torch.from_numpy(np.asarray(trimesh.sample.sample_surface(mesh, 2000, seed=1)[0]))
    pose = object_poses(2, torch.Generator().manual_seed(3))[1]
    fit = fit_surface(pose_apply(pose, some), trimesh.sample.sample_surface(mesh, 30_000, seed=2)[0])
    assert fit is not None and fit[1] < 0.002
    assert float((pose_apply(fit[0], pose_apply(pose, some)) - some).norm(dim=-1).max()) < 0.002
    assert fit_surface(some, surface("mug").numpy()) is None


def test_slabs_enclose_the_points():
    along = np.random.default_rng(0).random((3000, 2))
    angle, height = 2 * np.pi * along[:, 0], 0.2 * along[:, 1]
    radius = np.where(height < 0.1, 0.04, 0.015)  # a bottle of two cylinders
    points = np.stack((radius * np.cos(angle), radius * np.sin(angle), height), axis=-1)
    pieces, how = slabs_of_points(points)
    assert 2 <= len(pieces) <= 12 and "along z" in how
    true = np.pi * (0.04**2 + 0.015**2) * 0.1
    assert true < sum(ConvexHull(piece).volume for piece in pieces) < 1.3 * true
    inside = np.zeros(len(points), dtype=bool)
    for piece in pieces:
        equations = ConvexHull(piece).equations
        inside |= (points @ equations[:, :3].T + equations[:, 3] < 1e-9).all(1)
    assert inside.all()
    with pytest.raises(ValueError, match="no solid"):
        slabs_of_points(np.zeros((10, 3)))


# Reading


@given(st.integers(1, 23), st.integers(1, 9), st.data())
@settings(max_examples=30, deadline=None)
def test_rows_are_those_that_zarr_reads(tmp_path_factory, length, chunk, data):
    folder = tmp_path_factory.mktemp("rows")
    value = np.random.default_rng(0).random((length, 2, 3))
    zarr.open_group(folder, mode="w", zarr_format=2).create_array("x", data=value, chunks=(chunk, 2, 3))
    array = RowArray(Folder(folder), "x", (None, 3), "f")
    begin = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(begin + 1, length))
    np.testing.assert_array_equal(array.rows(begin, end), value[begin:end])


def edit(path, key, **changes):
    file = path / key / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(path, key, change):
    array = zarr.open_array(path / key, mode="r+", zarr_format=2)
    value = array[:]
    change(value)
    array[:] = value


def claim(path, key, at, value):
    """Change four bytes of the header of a chunk."""
    raw = bytearray(path.joinpath(key).read_bytes())
    raw[at : at + 4] = value.to_bytes(4, "little")
    path.joinpath(key).write_bytes(raw)


def outside(path, key):
    target = path.parent / "stolen"
    shutil.move(path / key, target)
    (path / key).symlink_to(target)


DAMAGE = {
    "chunk missing": ("data/agent_pos/1.0", lambda p, k: (p / k).unlink()),
    "chunk empty": ("data/objpcd_intact/1.0.0", lambda p, k: (p / k).write_bytes(b"")),
    "chunk truncated": ("data/objpcd_intact/2.0.0", lambda p, k: (p / k).write_bytes((p / k).read_bytes()[:-50])),
    "chunk garbage": ("data/final_grasp_group/0.0.0", lambda p, k: (p / k).write_bytes(b"x" * 400)),
    "chunk too large": ("data/agent_pos/0.0", lambda p, k: (p / k).write_bytes(bytes(100_000))),
    "bomb": ("data/obs_objpcd/0.0.0", lambda p, k: claim(p, k, 4, 2**32 - 1)),
    "chunk outside": ("data/agent_pos/0.0", outside),
    "array missing": ("data/objpcd_intact", lambda p, k: shutil.rmtree(p / k)),
    "array outside": ("data/agent_pos", outside),
    "ends missing": ("meta/episode_ends", lambda p, k: shutil.rmtree(p / k)),
    "ends fall": ("meta/episode_ends", lambda p, k: rewrite(p, k, lambda x: x.sort()) or rewrite(p, k, _swap)),
    "ends short": ("meta/episode_ends", lambda p, k: rewrite(p, k, lambda x: x.__isub__(1))),
    "metadata truncated": ("data/agent_pos", lambda p, k: (p / k / ".zarray").write_text("{")),
    "metadata list": ("data/agent_pos", lambda p, k: (p / k / ".zarray").write_text("[]")),
    "object dtype": ("data/agent_pos", lambda p, k: edit(p, k, dtype="|O", filters=[{"id": "pickle"}])),
    "filter": ("data/agent_pos", lambda p, k: edit(p, k, filters=[{"id": "pickle"}])),
    "codec": ("data/agent_pos", lambda p, k: edit(p, k, compressor={"id": "pickle"})),
    "dtype": ("data/agent_pos", lambda p, k: edit(p, k, dtype="<i8")),
    "nonsense dtype": ("data/agent_pos", lambda p, k: edit(p, k, dtype="float999")),
    "shape": ("data/agent_pos", lambda p, k: edit(p, k, shape=[16, 27], chunks=[5, 27])),
    "negative shape": ("data/agent_pos", lambda p, k: edit(p, k, shape=[-16, 28])),
    "long": ("data/agent_pos", lambda p, k: edit(p, k, shape=[10**15, 28])),
    "other length": ("data", lambda p, k: edit(p, "data/agent_pos", shape=[15, 28])),
    "chunks": ("data/objpcd_intact", lambda p, k: edit(p, k, chunks=[5, POINTS // 2, 3])),
    "huge chunks": ("data/objpcd_intact", lambda p, k: edit(p, k, chunks=[10**6, POINTS, 3])),
    "order": ("data/objpcd_intact", lambda p, k: edit(p, k, order="F")),
    "format": ("data/objpcd_intact", lambda p, k: edit(p, k, zarr_format=3)),
    "nan": ("data/agent_pos", lambda p, k: rewrite(p, k, lambda x: x.__setitem__((6, 3), np.nan))),
    "nan cloud": ("data/obs_objpcd", lambda p, k: rewrite(p, k, lambda x: x.__setitem__((6, 3), np.nan))),
    "far cloud": ("data/obs_objpcd", lambda p, k: rewrite(p, k, lambda x: x.__setitem__((6, 3), 9.0))),
    "not rigid": ("data/objpcd_intact", lambda p, k: rewrite(p, k, lambda x: x.__setitem__(6, 1.05 * x[6] - 0.05))),
    "no goals": ("data/final_grasp_group", lambda p, k: rewrite(p, k, lambda x: x.fill(0))),
}  # fmt: skip


def _swap(ends):
    ends[[0, 1]] = ends[[1, 0]]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_by_name(written, tmp_path, kind):
    key, damage = DAMAGE[kind]
    path = tmp_path / "train_val.zarr"
    shutil.copytree(written, path)
    damage(path, key)
    with pytest.raises(ReplayError) as caught:
        run(path, tmp_path / "out.zarr.zip")
    assert key in str(caught.value), str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"train_val.zarr", "stolen"}


def test_options_are_checked(written, tmp_path):
    with pytest.raises(ValueError, match="unknown sensor 'lidar'"):
        run(written, tmp_path / "out", sensors=("lidar",))
    with pytest.raises(ReplayError, match="no such folder"):
        run(tmp_path / "nothing.zarr", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        run(written, tmp_path / "out")
