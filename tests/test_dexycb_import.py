"""Import of DexYCB and of HandoverSim's cache: made-up recordings whose geometry is known, and damaged files."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import GraspPool, load_pool
from dexh2r_gym.objects import load_object
from dexh2r_gym.objects.build import from_mesh
from dexh2r_gym.replay import ReplayError, ReplayStore
from dexh2r_gym.replay.dexycb import convert, import_dexycb
from dexh2r_gym.replay.dexycb.cache import CacheLayout
from dexh2r_gym.replay.dexycb.convert import held_span
from dexh2r_gym.replay.dexycb.raw import RawLayout
from dexh2r_gym.replay.dexycb.recording import Recording
from dexh2r_gym.replay.work import open_work
from dexh2r_gym.rotations import pose_apply, pose_inverse
from tests.dexycb_dataset import (
    HIDDEN,
    LYING,
    NUM_FRAMES,
    Recorded,
    default_sequences,
    joints,
    write_cache,
    write_dexycb,
)
from tests.mano_files import write_mano_file

OBJECT = "water_bottle"  # of the library: lends its surface and its goal grasps to the made-up objects
YCB = next(Path(__file__).parents[2].glob("*/testdata/objects_ycb"), None)
SEQUENCES = default_sequences()
BEGIN = LYING  # the object has not moved by a centimetre yet; checked in `test_span_...`


def bottle() -> trimesh.Trimesh:
    model = load_object(OBJECT)
    return trimesh.Trimesh(model.vertices, model.faces)


@pytest.fixture(scope="module", autouse=True)
def mano_files(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("mano")
    for side in ("right", "left"):
        write_mano_file(folder, side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEXH2R_MANO", str(folder))
        yield folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dexycb(tmp_path_factory.mktemp("raw"), SEQUENCES, {4: bottle(), 5: bottle()})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"), SEQUENCES, {4: bottle(), 5: bottle()})


@pytest.fixture(scope="module")
def quick():
    """The search for goal grasps, a minute's work that has its own tests, finds those of the library; a mesh is
    decomposed once."""
    models = {}

    def from_mesh_once(path: Path, *, name: str, mass: float, vessel: bool):
        key = path.read_bytes()
        if key not in models:
            models[key] = from_mesh(path, vessel=vessel)
        return replace(models[key], name=name, mass=mass)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "from_mesh", from_mesh_once)
        patch.setattr(convert, "make_pool", lambda obj, **_: load_pool(OBJECT))
        yield


@pytest.fixture(scope="module")
def imported(raw: Path, quick, tmp_path_factory: pytest.TempPathFactory) -> ReplayStore:
    out = import_dexycb(raw, tmp_path_factory.mktemp("out") / "raw.zarr.zip", workers=1, progress=False)
    return ReplayStore.open(out)


def source_of(store: ReplayStore, id: str) -> Recorded:
    name = store.attrs["provenance"]["sequences"][id]
    return next(s for s in SEQUENCES if s.name == name)


def test_every_sequence_is_a_trial_of_its_grasped_object(imported: ReplayStore) -> None:
    imported.check()
    assert [(i.subject, i.object, i.side) for i in map(imported.info, imported.ids())] == [
        (1, "006_mustard_bottle", "right"),
        (1, "006_mustard_bottle", "left"),
        (2, "005_tomato_soup_can", "left"),
    ]
    assert imported.giver_model == "mano"
    provenance = imported.attrs["provenance"]
    assert provenance["skipped"] == {} and provenance["added_frames"] == 60
    assert provenance["subjects"] == {"1": "20200709-subject-01", "2": "20200813-subject-02"}
    assert any("demonstrations" in text for text in provenance["lacks"])
    for replay in imported:
        assert (replay.fps, replay.demo) == (30.0, None)
        assert replay.num_frames == provenance["recorded_frames"][replay.id] + 60
        assert replay.object_model.mass == pytest.approx(0.603 if "mustard" in replay.object else 0.349)


def test_span_begins_before_the_object_moves_and_ends_with_the_recording(imported: ReplayStore) -> None:
    for replay in imported:
        source = source_of(imported, replay.id)
        position = source.position[:, source.grasped]
        away = np.linalg.norm(position - position[0], axis=-1)
        begin = int(np.flatnonzero(away > 0.01)[0]) - 1
        assert HIDDEN < LYING < begin and away[begin] <= 0.01
        assert imported.attrs["provenance"]["recorded_frames"][replay.id] == NUM_FRAMES - begin


def test_joints_seen_from_the_object_are_those_of_the_source(imported: ReplayStore) -> None:
    for replay in imported:
        source = source_of(imported, replay.id)
        count = imported.attrs["provenance"]["recorded_frames"][replay.id]
        expected = joints(source)[-count:] - source.position[-count:, None, source.grasped]
        turn = source.rotation[source.grasped][NUM_FRAMES - count :]
        expected = np.stack([turn[t].inv().apply(expected[t]) for t in range(count)])
        giver = GiverHand.from_mano(replay.giver, replay.side, model="mano")
        found = pose_apply(pose_inverse(replay.object_pose)[:, None], giver.joints(replay.giver))
        np.testing.assert_allclose(found[:count], expected, atol=2e-5)
        np.testing.assert_allclose(found[count:], found[count - 1].expand_as(found[count:]), atol=1e-7)


def test_gravity_speed_and_place_are_right(imported: ReplayStore) -> None:
    for replay in imported:
        source = source_of(imported, replay.id)
        count = imported.attrs["provenance"]["recorded_frames"][replay.id]
        position = source.position[-count:, source.grasped]
        placed = replay.object_pose[:count, :3].numpy()
        # Heights differ by one number: z is up in both. Steps are as long as they were.
        np.testing.assert_allclose(placed[:, 2] - placed[-1, 2], position[:, 2] - position[-1, 2], atol=2e-5)
        step, expected = (np.linalg.norm(np.diff(p, axis=0), axis=-1) for p in (placed, position))
        np.testing.assert_allclose(step, expected, atol=2e-5)
        np.testing.assert_allclose(placed[-1], [0, 0, 1], atol=1e-5)
        assert (replay.object_pose[count:] == replay.object_pose[count - 1]).all()


def test_giver_is_at_plus_x_and_the_robot_waits_untouched_at_minus_x(imported: ReplayStore) -> None:
    for replay in imported:
        giver = GiverHand.from_mano(replay.giver, replay.side, model="mano")
        wrist = giver.joints(replay.giver[-1])[0]
        # The source's forearm goes on from the wrist, away from the object, turned by what the object has turned.
        assert wrist[0] > 0.1 and abs(wrist[1]) < 0.05
        palm = replay.hand_start[:3]
        assert palm[0] <= -0.5 and palm[1:].tolist() == pytest.approx([0, 1])
        corners = pose_apply(replay.object_pose[:, None], torch.from_numpy(replay.object_model.vertices))
        skin = giver.vertices(replay.giver)
        assert min(float(corners[..., 0].min()), float(skin[..., 0].min())) > palm[0] + 0.2
        assert replay.goal_free[-1].any() and not replay.goal_free[-1].all()


def test_cache_of_handoversim_gives_the_same_trials(imported: ReplayStore, cache: Path, quick, tmp_path: Path) -> None:
    store = ReplayStore.open(import_dexycb(cache, tmp_path / "cache", workers=1, progress=False))
    assert store.ids() == imported.ids()
    for ours, theirs in zip(imported, store, strict=True):
        torch.testing.assert_close(ours.object_pose, theirs.object_pose, atol=2e-5, rtol=0)
        hand = [GiverHand.from_mano(r.giver, r.side, model="mano").joints(r.giver) for r in (ours, theirs)]
        torch.testing.assert_close(*hand, atol=2e-5, rtol=0)
    assert store.attrs["provenance"]["splits"].startswith("HandoverSim s0")
    assert {store.info(i).split for i in store.ids()} == {"train"}  # scenes 0, 1 and 2
    assert imported.attrs["provenance"]["splits"].startswith("drawn")
    assert sorted(imported.info(i).split for i in imported.ids()) == ["test", "train", "train"]


def test_scenes_are_numbered_as_handoversim_does(tmp_path: Path) -> None:
    (source,) = SEQUENCES[2:]
    for k in range(99):
        (tmp_path / f"20200813-subject-02/20200813_{150000 + k}").mkdir(parents=True)
    layout = RawLayout(write_dexycb(tmp_path, [source], {}))
    (sequence,) = layout.sequences(None, [source.name])
    assert layout.scene(sequence) == 100  # the first by name, of the second subject
    (tmp_path / "20200813-subject-02/20200813_150000").rmdir()
    layout = RawLayout(tmp_path)
    assert layout.scene(sequence) is None


def test_only_what_was_asked_for(raw: Path, cache: Path, quick, tmp_path: Path) -> None:
    out = import_dexycb(raw, tmp_path / "a", subjects=["20200813-subject-02"], workers=1, progress=False, wait=0)
    assert list(ReplayStore.open(out).attrs["provenance"]["sequences"].values()) == [SEQUENCES[2].name]
    assert CacheLayout(cache).sequences(None, [SEQUENCES[1].name])[0].name == SEQUENCES[1].name
    for wanted, message in (
        ({"subjects": ["20200709-subject-1"]}, "no subject .*did you mean '20200709-subject-01'"),
        ({"sequences": ["x"]}, "no sequence 'x'; there are 3"),
        ({"num_goals": 0}, "num_goals is 0"),
        ({"wait": float("nan")}, "wait is nan"),
        ({"workers": -1}, "workers must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            import_dexycb(raw, tmp_path / "b", progress=False, **wanted)
    with pytest.raises(FileExistsError, match="say overwrite"):
        import_dexycb(raw, out, progress=False)


def test_stopped_import_goes_on_with_the_goals_it_found(raw: Path, quick, tmp_path: Path, monkeypatch) -> None:
    searched: list[str] = []

    def search(obj, **_) -> GraspPool:
        searched.append(obj.name)
        if len(searched) == 2:
            raise KeyboardInterrupt
        pool = load_pool(OBJECT)
        return GraspPool(**{**vars(pool), "metadata": {"volume": obj.volume}})

    monkeypatch.setattr(convert, "make_pool", search)
    out = tmp_path / "store.zarr.zip"
    with pytest.raises(KeyboardInterrupt):
        import_dexycb(raw, out, workers=1, progress=False)
    assert not out.exists() and searched == ["005_tomato_soup_can", "006_mustard_bottle"]
    import_dexycb(raw, out, workers=1, progress=False)
    assert searched[2:] == ["006_mustard_bottle"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.zarr.zip"]


def test_workers_make_no_difference(tmp_path: Path) -> None:
    box = trimesh.creation.box((0.07, 0.07, 0.2))
    data = write_dexycb(tmp_path / "data", SEQUENCES, {4: box, 5: box})
    model = from_mesh(data / MESH)
    found = GraspPool(**{**vars(load_pool(OBJECT)), "metadata": {"volume": model.volume}})
    stores = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        work = open_work(out, {"num_goals": 40, "seed": 0})  # goals are there already
        for name in ("005_tomato_soup_can", "006_mustard_bottle"):
            found.save(work / f"{name}.npz")
        import_dexycb(data, out, workers=workers, progress=False)
        stores.append(ReplayStore.open(out))
    assert stores[0].attrs == stores[1].attrs  # among them the hashes of all arrays


def recording(away: list[float], hand: list[int], object_seen: list[int] | None = None) -> Recording:
    pose = torch.zeros(len(away), 7, dtype=torch.float64)
    pose[:, 3], pose[:, 2] = 1.0, torch.tensor(away)
    seen = np.ones(len(away), bool) if object_seen is None else np.array(object_seen, bool)
    return Recording(pose, torch.zeros(len(away), 61), seen, np.array(hand, bool))


def test_held_span_by_hand() -> None:
    lifted = [0.0] * 10 + [0.02] * 30
    assert held_span(recording(lifted, [1] * 40)) == (9, 40)
    assert held_span(recording(lifted, [0] * 20 + [1] * 20)) == (20, 40)  # a hand that is seen late
    assert held_span(recording(lifted, [1] * 30 + [0] * 10)) == (9, 30)
    for damaged, reason in (
        (recording([0.0] * 40, [1] * 40), "not picked up"),
        (recording(lifted, [1] * 20 + [0] * 20), "11 frames after the pick-up"),
        (recording(lifted, [1] * 20 + [0] + [1] * 19), "hand is not seen in frame 20"),
        (recording(lifted, [1] * 40, [1] * 25 + [0] + [1] * 14), "object is not seen in frame 25"),
        (recording(lifted, [1] * 40, [0] * 40), "never seen"),
    ):
        with pytest.raises(convert.Unusable, match=reason):
            held_span(damaged)


def test_sequences_and_objects_that_cannot_be_used_are_listed(raw: Path, quick, tmp_path: Path, monkeypatch) -> None:
    def search(obj, **_):
        if obj.name == "005_tomato_soup_can":
            raise ValueError("no stable grasp of it found")
        return load_pool(OBJECT)

    monkeypatch.setattr(convert, "make_pool", search)
    data = copy_of(raw, tmp_path)
    change_pose(data / SEQUENCES[1].name / "pose.npz", lambda y, m: m[40].fill(0))
    store = ReplayStore.open(import_dexycb(data, tmp_path / "out", workers=1, progress=False))
    skipped = store.attrs["provenance"]["skipped"]
    assert skipped == {
        SEQUENCES[1].name: "the hand is not seen in frame 40, while it is held",
        SEQUENCES[2].name: "no stable grasp of it found",
    }
    assert len(store) == 1 and store.attrs["objects"] == ["006_mustard_bottle"]
    with pytest.raises(ReplayError, match=r"none of 1 sequences can be used .*frame 40"):
        import_dexycb(data, tmp_path / "none", sequences=[SEQUENCES[1].name], workers=1, progress=False)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "data"))


def change_pose(path: Path, change: Callable) -> None:
    with np.load(path) as file:
        arrays = [file["pose_y"].copy(), file["pose_m"].copy()]
    replaced = change(*arrays)
    arrays = arrays if replaced is None else replaced
    np.savez(path, pose_y=arrays[0], pose_m=arrays[1])


def change_yaml(path: Path, **values) -> None:
    content = yaml.safe_load(path.read_text()) | values
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


def bomb(path: Path) -> None:
    """An array whose header promises 8 TB."""
    with zipfile.ZipFile(path, "w") as file, file.open("pose_y.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})


def alias_bomb(path: Path) -> None:
    """A list of lists of lists ..., which would fill the memory if it were printed."""
    nested = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    path.write_text(f"l0: &l0 [1]\n{nested}" + path.read_text().replace("ycb_ids:", "ycb_ids: *l29\nwas:"))


def pickled(path: Path) -> None:
    np.savez(path, pose_y=np.array([{"a": 1}], dtype=object), pose_m=np.zeros((NUM_FRAMES, 1, 51)))


def nan(y: np.ndarray, m: np.ndarray) -> None:
    y[7, 0, 2] = np.nan


def long_quaternion(y: np.ndarray, m: np.ndarray) -> None:
    y[8, 0, :4] *= 1.1


META, POSE = f"{SEQUENCES[0].name}/meta.yml", f"{SEQUENCES[0].name}/pose.npz"
HAND = "calibration/mano_20200709-subject-01_right/mano.yml"
TABLE = "calibration/extrinsics_20200702_151821/extrinsics.yml"
MESH = "models/006_mustard_bottle/textured_simple.obj"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (META, Path.unlink, "missing"),
        (META, lambda p: p.write_text("a: [b"), "cannot be read"),
        (META, lambda p: p.write_text(""), "expected keys and values, found NoneType"),
        (META, lambda p: p.write_bytes(b"\xff\xfe\x00"), "is not text in UTF-8"),
        (META, lambda p: p.write_text("x: !!python/object/apply:os.getcwd []"), "cannot be read"),
        (META, lambda p: p.write_text("x: !!bool maybe"), "cannot be read"),
        (META, lambda p: p.write_text("a: 1"), "missing: num_frames, extrinsics"),
        (META, lambda p: p.write_text("[" * 5000), "cannot be read"),
        (META, lambda p: p.write_text("#" * (2 << 20)), "2097152 bytes, at most"),
        (META, alias_bomb, "aliases are not allowed"),
        (META, lambda p: change_yaml(p, ycb_ids=[5, 99]), "ycb_ids must list objects"),
        (META, lambda p: change_yaml(p, ycb_grasp_ind=3), "ycb_grasp_ind must be 0 to 2, found 3"),
        (META, lambda p: change_yaml(p, mano_sides=["both"]), "mano_sides must be one of right, left"),
        (META, lambda p: change_yaml(p, mano_calib=["../../x"]), "mano_calib must be a name"),
        (META, lambda p: change_yaml(p, extrinsics=None), "missing: extrinsics"),
        (HAND, Path.unlink, "missing"),
        (HAND, lambda p: change_yaml(p, betas=[1.0] * 9), "betas must be 10 numbers"),
        (HAND, lambda p: change_yaml(p, betas=[float("nan")] * 10), "betas must be 10 numbers"),
        (HAND, lambda p: change_yaml(p, betas=[10**400] * 10), "betas must be 10 numbers"),
        (TABLE, lambda p: change_yaml(p, extrinsics={"apriltag": [1.0] * 12}), "not a rotation"),
        (TABLE, lambda p: change_yaml(p, extrinsics={}), "apriltag must be 12 numbers"),
        (POSE, Path.unlink, "missing"),
        (POSE, lambda p: p.write_bytes(b""), "not a whole npz file"),
        (POSE, lambda p: p.write_bytes(p.read_bytes()[:5000]), "not a whole npz file"),
        (POSE, bomb, "pose_y cannot be read"),
        (POSE, pickled, "pose_y cannot be read"),
        (POSE, lambda p: np.savez(p, pose_y=np.zeros((NUM_FRAMES, 3, 7))), "holds no array pose_m"),
        (POSE, lambda p: change_pose(p, lambda y, m: (y[:, :2], m)), r"pose_y: expected .* shape \(any, 3, 7\)"),
        (POSE, lambda p: change_pose(p, lambda y, m: (y.astype("S4"), m)), "pose_y: expected numbers"),
        (POSE, lambda p: change_pose(p, lambda y, m: (y[:50], m)), "pose_y has 50 frames, pose_m 70"),
        (POSE, lambda p: change_pose(p, nan), "pose_y: frame 7 is not finite"),
        (POSE, lambda p: change_pose(p, long_quaternion), r"quaternion of norm 1\.1 in frame 8"),
        (MESH, Path.unlink, "missing"),
        (MESH, lambda p: p.write_text("v 0 0 0"), "mesh"),
        (MESH, lambda p: p.write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4"), "mesh"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_and_nothing_is_written(
    raw: Path, quick, tmp_path: Path, file: str, damage, message: str
) -> None:
    data = copy_of(raw, tmp_path)
    damage(data / file)
    with pytest.raises(ReplayError, match=message) as caught:
        import_dexycb(data, tmp_path / "out.zarr.zip", workers=1, progress=False)
    assert caught.value.key == file
    assert not [
        p for p in tmp_path.iterdir() if p.name.startswith(("out.zarr.zip.", ".out")) and p.suffix != ".partial"
    ]
    assert not (tmp_path / "out.zarr.zip").exists()


@pytest.mark.parametrize("file", [META, POSE, HAND, TABLE, MESH])
def test_links_out_of_the_folder_are_refused(raw: Path, quick, tmp_path: Path, file: str) -> None:
    data = copy_of(raw, tmp_path)
    outside = (data / file).rename(tmp_path / "outside")
    (data / file).symlink_to(outside)
    with pytest.raises(ReplayError, match="leads out of the dataset's folder") as caught:
        import_dexycb(data, tmp_path / "out", workers=1, progress=False)
    assert caught.value.key == file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "name must be"),
        ({"mano_betas": [[0.0] * 10] * 2}, "mano_betas must list the shape of one hand"),
        ({"mano_betas": [["a"] * 10]}, "betas must be 10 numbers"),
        ({"ycb_ids": "all"}, "ycb_ids must list"),
    ],
)
def test_damaged_cache_is_named(cache: Path, quick, tmp_path: Path, change: dict, message: str) -> None:
    data = copy_of(cache, tmp_path)
    meta = data / "dex-ycb-cache/meta_001.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
    with pytest.raises(ReplayError, match=message) as caught:
        import_dexycb(data, tmp_path / "out", workers=1, progress=False)
    assert caught.value.key == "dex-ycb-cache/meta_001.json"


def test_without_manos_files_the_error_says_what_to_set(raw: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("DEXH2R_MANO")
    with pytest.raises(FileNotFoundError, match="DEXH2R_MANO"):
        import_dexycb(raw, tmp_path / "out", progress=False)
    with pytest.raises(ReplayError, match="is this where DexYCB lies"):
        import_dexycb(tmp_path, tmp_path / "out", progress=False)
    with pytest.raises(ReplayError, match="no such folder"):
        import_dexycb(tmp_path / "nothing", tmp_path / "out", progress=False)


def test_scripted_expert_takes_an_imported_object(imported: ReplayStore, tmp_path: Path) -> None:
    from dexh2r_gym.agents import find_agent
    from dexh2r_gym.evaluate import evaluate

    make = find_agent("scripted")
    report = evaluate(make, out=tmp_path / "run", replays=imported.path, progress=False)
    assert report["overall"]["paper"]["succ"]["value"] == 100.0


@pytest.mark.skipif(YCB is None, reason="models of YCB objects are not beside the repository")
def test_model_of_a_ycb_object_keeps_its_frame(tmp_path: Path, quick) -> None:
    assert YCB is not None
    mesh = trimesh.load_mesh(YCB / "006_mustard_bottle" / "visual.obj")
    data = write_dexycb(tmp_path / "data", SEQUENCES[:1], {5: mesh})
    store = ReplayStore.open(import_dexycb(data, tmp_path / "out", workers=1, progress=False))
    for corner, expected in zip(
        (store[0].object_model.vertices.min(0), store[0].object_model.vertices.max(0)), mesh.bounds, strict=True
    ):
        np.testing.assert_allclose(corner, expected, atol=0.002)
