"""Grasps to learn from: tried, written, read again, made in a run that may be stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dexh2r_gym.cli.grasps import GraspData
from dexh2r_gym.grasps import dataset
from dexh2r_gym.grasps.dataset import (
    TriedGrasps,
    find_shape,
    make_dataset,
    read_dataset,
    read_tried,
    shape_names,
    try_grasps,
    write_tried,
)
from dexh2r_gym.grasps.scores import grasp_depth
from dexh2r_gym.grasps.splits import TRAIN_OBJECTS, UNSEEN_TEST_OBJECTS, UNSEEN_VALIDATION_OBJECTS
from dexh2r_gym.grasps.stability import RELEASED, displacements
from dexh2r_gym.objects import load_object, object_names
from dexh2r_gym.replay.presets import PRESETS, make_plan


def few(name: str = "hammer", seed: int = 0) -> TriedGrasps:
    """Four grasps: a good one, one that drops the object, one too deep, one both."""
    palm = torch.tensor([0.0, 0, 0.1, 1, 0, 0, 0]).repeat(4, 1)
    moved = torch.zeros(4, 6)
    moved[[1, 3], 2] = 0.03
    depth = torch.tensor([0.001, 0.001, 0.006, 0.006])
    return TriedGrasps(palm, torch.zeros(4, 22), depth, moved, {"object": name, "seed": seed})


def test_valid_are_those_that_hold_and_are_not_deep() -> None:
    assert few().valid.tolist() == [True, False, False, False]


def test_tried_grasps_come_back_from_their_file(tmp_path: Path) -> None:
    write_tried(few(), tmp_path / "hammer.npz")
    back = read_tried(tmp_path / "hammer.npz")
    assert back.metadata == {"object": "hammer", "seed": 0}
    for key in ("palm_pose", "joints", "depth", "released"):
        assert torch.equal(getattr(back, key), getattr(few(), key)), key
    assert [path.name for path in tmp_path.iterdir()] == ["hammer.npz"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.pop("released"), "keys missing: released"),
        (lambda d: d.update(joints=d["joints"][:, :21]), "joints has shape"),
        (lambda d: d.update(depth=d["depth"][:3]), "depth has shape"),
        (lambda d: d["joints"].__setitem__((1, 0), np.nan), "NaN"),
        (lambda d: d.update(metadata=np.array('{"format": 99}')), "another format"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change, reason: str) -> None:
    path = tmp_path / "hammer.npz"
    write_tried(few(), path)
    with np.load(path) as file:
        data = {key: file[key].copy() for key in file.files}
    change(data)
    np.savez(path, **data)
    with pytest.raises(ValueError, match=reason):
        read_tried(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable file of tried grasps"):
        read_tried(path)


def test_a_folder_is_read_in_order_and_an_empty_one_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dexh2r grasps data --out"):
        read_dataset(tmp_path)
    for name in ("wrench", "banana", "hammer"):
        write_tried(few(name), tmp_path / f"{name}.npz")
    (tmp_path / "skittle.partial.npz").write_bytes(b"half")  # of a run that was stopped
    assert [x.metadata["object"] for x in read_dataset(tmp_path)] == ["banana", "hammer", "wrench"]


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def search(obj, num: int, seed: int) -> TriedGrasps:
        tried.append(obj.name)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return few(obj.name, seed)

    monkeypatch.setattr(dataset, "try_grasps", search)
    names = ["banana", "shape_00000", "wrench"]
    with pytest.raises(KeyboardInterrupt):
        make_dataset(names, tmp_path, num=4, seed=5, workers=1)
    make_dataset(names, tmp_path, num=4, seed=5, workers=1)
    assert tried == ["banana", "shape_00000", "shape_00000", "wrench"]
    assert [x.metadata for x in read_dataset(tmp_path)] == [{"object": name, "seed": 5} for name in names]
    for other in ({"num": 5, "seed": 5}, {"num": 4, "seed": 6}):
        with pytest.raises(ValueError, match=r"banana.npz was made with num 4 and seed 5, not"):
            make_dataset(names, tmp_path, workers=1, **other)


def test_mistakes_are_told_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "try_grasps", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(ValueError, match=r"unknown object 'hamer' \(did you mean 'hammer'\?\)"):
        make_dataset(["hammer", "hamer"], tmp_path / "out", num=4, workers=1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_dataset(["hammer"], tmp_path / "out", num=0, workers=1)
    with pytest.raises(ValueError, match="unknown object 'shape_x'"):
        find_shape("shape_x")
    assert not (tmp_path / "out").exists()


def test_names_are_those_of_the_library_and_of_random_shapes() -> None:
    assert find_shape("hammer") is load_object("hammer")
    assert [find_shape(name).name for name in shape_names(2)] == shape_names(2) == ["shape_00000", "shape_00001"]


def test_grasps_are_searched_with_the_seed_and_measured() -> None:
    obj = load_object("aerosol_can")
    tried = try_grasps(obj, 6, seed=1)
    again, other = try_grasps(obj, 6, seed=1), try_grasps(obj, 6, seed=2)
    assert torch.equal(tried.palm_pose, again.palm_pose) and torch.equal(tried.released, again.released)
    assert not torch.equal(tried.palm_pose, other.palm_pose)
    assert tried.palm_pose.shape == (6, 7) and tried.metadata["object"] == "aerosol_can"
    assert torch.allclose(tried.depth, grasp_depth(obj, tried.palm_pose, tried.joints), atol=1e-6)
    moved = displacements(obj, tried.palm_pose, tried.joints, RELEASED, num_threads=1)
    assert torch.equal(tried.released, moved.float())


def test_the_command_takes_the_objects_to_learn_from_or_shapes(tmp_path: Path, monkeypatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(dataset, "make_dataset", lambda names, *_, **__: seen.append(list(names)))
    GraspData(out=tmp_path).run()
    GraspData(out=tmp_path, shapes=3).run()
    GraspData(("hammer",), out=tmp_path, shapes=1).run()
    assert seen == [list(TRAIN_OBJECTS), shape_names(3), ["hammer", *shape_names(1)]]


def test_objects_to_learn_from_are_no_objects_of_tests() -> None:
    parts = (TRAIN_OBJECTS, UNSEEN_TEST_OBJECTS, UNSEEN_VALIDATION_OBJECTS)
    assert sorted(name for part in parts for name in part) == object_names()
    plans = [make_plan(preset, seed=0).splits for preset in PRESETS.values()]
    test = {name for plan in plans for name in plan.test_objects}
    validation = {name for plan in plans for name in plan.validation_objects}
    assert test <= set(UNSEEN_TEST_OBJECTS)
    assert test | validation == {*UNSEEN_TEST_OBJECTS, *UNSEEN_VALIDATION_OBJECTS}
