"""The store of replays: what goes in comes out, what is damaged is refused with its place, bytes are reproducible."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.replay import (
    MAX_GOALS,
    ReplayError,
    ReplayStore,
    SplitLists,
    StoredObject,
    Trial,
    UnknownReplayError,
    draw_splits,
    shipped_stores,
    write_store,
)
from dexh2r_gym.replay.splits import trial_kind

BOX = np.array([[x, y, z] for x in (-0.03, 0.03) for y in (-0.02, 0.02) for z in (-0.1, 0.1)])


def make_goals(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(count, 4))
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return np.concatenate((rng.normal(size=(count, 3)) * 0.1, quaternion, rng.random((count, 22))), axis=-1)


def make_objects() -> dict[str, StoredObject]:
    return {
        "cup": StoredObject(make_goals(5, 1), [BOX, BOX + 0.05], 0.4, {"licence": "CC0-1.0"}),
        "rod": StoredObject(make_goals(MAX_GOALS, 2), [BOX], 0.1, {}),
    }


def make_trial(subject: int = 1, name: str = "cup", split: str = "train", frames: int = 40, **changes) -> Trial:
    rng = np.random.default_rng([subject, frames, len(name)])
    goals = {"cup": 5, "rod": MAX_GOALS}.get(name, 5)
    pose = rng.normal(size=(frames, 7)) * 0.02
    pose[:, 3] += 2.0
    pose[:, 3:] /= np.linalg.norm(pose[:, 3:], axis=-1, keepdims=True)
    trial = Trial(
        subject=subject,
        object=name,
        side="left" if subject % 2 else "right",
        split=split,
        fps=30.0,
        object_pose=pose,
        giver=np.repeat(rng.normal(size=(1, 61)), frames, 0) + 0.01 * rng.normal(size=(frames, 61)),
        hand_start=rng.normal(size=28),
        goal_free=rng.random((frames, goals)) < 0.5,
        demo=0.1 * rng.random((frames, 28)) if subject != 3 else None,
        grasp_begin=frames - 3,
    )
    return replace(trial, **changes)


def make_trials() -> list[Trial]:
    pairs = ((1, "cup", "train", 40), (1, "cup", "train", 31), (2, "rod", "validation", 7), (3, "rod", "test", 2))
    return [make_trial(*pair) for pair in pairs]


def write(path: Path, trials=None, **options) -> Path:
    return write_store(
        path, trials or make_trials(), make_objects(), licence="CC0-1.0", provenance={"made by": "test"}, **options
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store as a folder, to be damaged."""
    return write(tmp_path / "store.zarr")


def overwrite(folder: Path, key: str, change) -> None:
    """Replace an array of a store by what `change` makes of its values, chunks complete and checksums right."""
    value = change(zarr.open_array(folder / key, mode="r")[:])
    array = zarr.create_array(folder / key, data=value, overwrite=True, config={"write_empty_chunks": True})
    assert array.shape == value.shape


def at(index, value):
    """A change that sets one element."""

    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


# ---------------------------------------------------------------- what goes in comes out


@pytest.mark.parametrize("name", ["store.zarr", "store.zarr.zip"])
def test_round_trip_is_exact_in_float32_without_rounding(tmp_path: Path, name: str) -> None:
    store = ReplayStore.open(write(tmp_path / name, resolution=None))
    assert store.ids() == ["s01/cup/000", "s01/cup/001", "s02/rod/000", "s03/rod/000"]
    assert store.attrs["licence"] == "CC0-1.0" and store.attrs["provenance"] == {"made by": "test"}
    for trial, replay in zip(make_trials(), store, strict=True):
        single = lambda x: torch.from_numpy(x.astype(np.float32)).double()  # noqa: E731
        assert torch.equal(replay.giver, single(trial.giver))
        assert torch.equal(replay.hand_start, single(trial.hand_start))
        assert torch.equal(replay.goal_free, torch.from_numpy(trial.goal_free))
        assert torch.equal(replay.object_pose[:, :3], single(trial.object_pose[:, :3]))
        torch.testing.assert_close(replay.object_pose, torch.from_numpy(trial.object_pose), atol=1e-7, rtol=0)
        torch.testing.assert_close(
            replay.object_pose[:, 3:].norm(dim=-1),
            torch.ones(len(trial.giver), dtype=torch.float64),
            atol=1e-15,
            rtol=0,
        )
        goals = torch.from_numpy(make_objects()[trial.object].goals)
        torch.testing.assert_close(torch.cat((replay.goal_pose, replay.goal_joints), -1), goals, atol=1e-7, rtol=0)
        if trial.demo is None:
            assert replay.demo is None and not replay.has_demo
        else:
            assert replay.demo is not None and torch.equal(replay.demo, single(trial.demo))
        assert (replay.object, replay.subject, replay.side, replay.split, replay.fps, replay.grasp_begin) == (
            trial.object, trial.subject, trial.side, trial.split, trial.fps, trial.grasp_begin,
        )  # fmt: skip
        assert replay.num_frames == len(trial.giver) and torch.equal(replay.betas, replay.giver[0, 51:])
        assert {t.dtype for t in (replay.object_pose, replay.giver, replay.goal_pose)} == {torch.float64}


def test_rounding_is_at_most_half_the_resolution(tmp_path: Path) -> None:
    store = ReplayStore.open(write(tmp_path / "a.zarr", resolution=2.0**-18))
    for trial, replay in zip(make_trials(), store, strict=True):
        error = (replay.giver - torch.from_numpy(trial.giver)).abs().max()
        assert 2.0**-21 < error <= 2.0**-19 * 1.01


def test_frames_cross_chunk_borders(tmp_path: Path) -> None:
    trials = [make_trial(subject=s, frames=1500) for s in (1, 2, 4)]
    store = ReplayStore.open(write(tmp_path / "a.zarr.zip", trials, resolution=None))
    for trial, replay in zip(trials, store, strict=True):
        assert torch.equal(replay.giver, torch.from_numpy(trial.giver.astype(np.float32)).double())


def test_objects_carry_their_geometry(tmp_path: Path) -> None:
    store = ReplayStore.open(write(tmp_path / "a.zarr"))
    cup, rod = store.object_model("cup"), store[2].object_model
    assert (cup.name, cup.mass, len(cup.parts), cup.metadata["licence"]) == ("cup", 0.4, 2, "CC0-1.0")
    assert rod.volume == pytest.approx(0.06 * 0.04 * 0.2, rel=1e-5)
    assert store.object_model("cup") is cup
    with pytest.raises(ReplayError, match=r"'mug'.*cup, rod"):
        store.object_model("mug")


def test_a_store_goes_to_another_process_as_its_path(tmp_path: Path) -> None:
    store = ReplayStore.open(write(tmp_path / "a.zarr.zip"))
    other = pickle.loads(pickle.dumps(store))
    assert torch.equal(other[1].giver, store[1].giver) and len(pickle.dumps(store)) < 1000
    error = pickle.loads(pickle.dumps(ReplayError("no", store="a", key="b", replay="c", frame=4)))
    assert str(error) == "a, b, replay c, frame 4: no" and error.frame == 4


def test_trials_bring_goals_sensors_and_calibration(tmp_path: Path) -> None:
    extra: tuple[dict, dict] = ({"calibration": {"kinect_0": [1, 2.5]}}, {"has_giver": False})
    rng = np.random.default_rng(0)
    own = [make_goals(3, 5), None]
    free = [rng.random((frames, goals)) < 0.5 for frames, goals in ((40, 3), (31, 5))]
    clouds = [rng.uniform(-2, 2, (frames, 50, 3)) for frames in (40, 31)]
    depths = [rng.integers(0, 2**16, (frames, 2, 4, 5), dtype=np.uint16) for frames in (40, 31)]
    trials = [
        make_trial(frames=len(cloud), goals=goals, goal_free=clear, sensors={"cloud": cloud, "depth": depth}, **more)
        for goals, clear, cloud, depth, more in zip(own, free, clouds, depths, extra, strict=True)
    ]
    store = ReplayStore.open(write(tmp_path / "a.zarr.zip", trials, giver_model="mano"))
    store.check()
    first, second = store
    assert first.calibration == {"kinect_0": [1, 2.5]} and second.calibration is None
    assert (first.has_giver, second.has_giver, first.giver_model) == (True, False, "mano")
    assert len(first.goal_pose) == 3 and len(second.goal_pose) == 5
    for replay, clear, cloud, depth in zip(store, free, clouds, depths, strict=True):
        assert torch.equal(replay.goal_free, torch.from_numpy(clear)) and replay.sensors == ("cloud", "depth")
        torch.testing.assert_close(replay.sensor("cloud").double(), torch.from_numpy(cloud), atol=5.1e-5, rtol=0)
        assert torch.equal(replay.sensor("depth", slice(3, 9, 2)), torch.from_numpy(depth[3:9:2]))
        with pytest.raises(ReplayError, match="no sensor 'image'; recorded: cloud, depth"):
            replay.sensor("image")


@pytest.mark.parametrize(
    ("sensors", "message"),
    [
        ({}, "sensors none, but trials before it have cloud"),
        ({"cloud": np.zeros((40, 9, 3))}, r"sensors/cloud.*rows \(9, 3\), in trials before it \(8, 3\)"),
        ({"cloud": np.zeros((39, 8, 3))}, "39 frames, but object_pose has 40"),
        (
            {"cloud": np.full((40, 8, 3), 900.0)},
            "frame 0: point 0 is at 900.0, allowed up to 3.2767 m; is it in metres",
        ),
        ({"cloud": np.full((40, 8, 3), np.nan)}, "frame 0: point 0 is at nan"),
        ({"cloud": np.zeros((40, 8))}, r"unexpected shape \(40, 8\)"),
        (
            {"cloud": np.zeros((40, 8, 3)), "depth": np.zeros((40, 1, 2, 2), np.int16)},
            "cloud, depth, but trials before",
        ),
    ],
)
def test_bad_sensors_are_not_written(tmp_path: Path, sensors: dict, message: str) -> None:
    trials = [make_trial(sensors={"cloud": np.zeros((40, 8, 3))}), make_trial(sensors=sensors)]
    with pytest.raises(ReplayError, match=message):
        write(tmp_path / "a.zarr", trials)
    assert list(tmp_path.iterdir()) == []


def test_depth_of_another_type_and_trials_without_any_goals_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"sensors/depth.*expected uint16, found int16"):
        write(tmp_path / "a.zarr", [make_trial(sensors={"depth": np.zeros((40, 1, 2, 2), np.int16)})])
    with pytest.raises(ReplayError, match="neither the trial nor its object 'cup' has goal grasps"):
        write_store(tmp_path / "a.zarr", [make_trial()], {"cup": StoredObject()}, licence="", provenance={})
    with pytest.raises(ValueError, match="unknown giver_model 'smpl'; one of open, mano"):
        write(tmp_path / "a.zarr", giver_model="smpl")


def test_a_generator_is_written_as_it_comes(tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    def trials():
        nonlocal most
        for number in range(12):
            cloud = np.zeros((40, 4096, 3))
            alive.add(number)
            weakref.finalize(cloud, alive.discard, number)
            most = max(most, len(alive))
            yield make_trial(sensors={"cloud": cloud})
            del cloud

    write(tmp_path / "a.zarr", trials())
    assert most <= 3


# ---------------------------------------------------------------- reproducible, lazy, all or nothing


def test_equal_trials_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{n}.zarr.zip", make_trials() * 1).read_bytes() for n in "ab")
    assert first == second
    changed = [*make_trials()[:3], make_trial(3, "rod", "test", 2, fps=15.0)]
    assert write(tmp_path / "c.zarr.zip", changed).read_bytes() != first


def test_opening_reads_no_frame(folder: Path) -> None:
    for chunk in (folder / "data").rglob("c/*/0"):
        chunk.write_bytes(b"not what it was")
    store = ReplayStore.open(folder)
    assert len(store) == 4 and store.info("s02/rod/000").num_frames == 7
    with pytest.raises(ReplayError, match=r"data/object_pose, replay s02/rod/000: cannot be read"):
        store.replay("s02/rod/000")


def test_replays_are_cached(folder: Path) -> None:
    store = ReplayStore.open(folder)
    assert store[0] is store.replay("s01/cup/000") and store[-1] is store[3]


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip"])
def test_writing_that_fails_leaves_nothing(tmp_path: Path, name: str) -> None:
    def trials():
        yield make_trial()
        raise RuntimeError("generator died")

    with pytest.raises(RuntimeError, match="generator died"):
        write(tmp_path / name, trials())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip"])
def test_existing_store_is_kept_unless_told(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    with pytest.raises(FileExistsError, match="overwrite"):
        write(path, [make_trial()])
    assert len(ReplayStore.open(path)) == 4
    write(path, [make_trial()], overwrite=True)
    assert len(ReplayStore.open(path)) == 1 and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- names and splits


def test_unknown_store_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ReplayError) as error:
        ReplayStore.open(tmp_path / "nothing.zarr")
    assert "nothing.zarr" in str(error.value)
    assert all(name in str(error.value) for name in shipped_stores())


def test_unknown_replay_names_close_ones_and_the_count(folder: Path) -> None:
    store = ReplayStore.open(folder)
    with pytest.raises(KeyError, match=r"no replay 's01/cup/007' among 4; near it: s01/cup/00"):
        store.replay("s01/cup/007")
    with pytest.raises(UnknownReplayError, match="0 to 3"):
        store[4]
    with pytest.raises(ReplayError, match="train, validation, test, all"):
        store.ids("tset")


def test_kinds_follow_from_what_training_holds(tmp_path: Path) -> None:
    pairs = [(1, "cup", "train"), (2, "rod", "test"), (1, "rod", "test"), (2, "cup", "test"), (3, "cup", "validation")]
    store = ReplayStore.open(write(tmp_path / "a.zarr", [make_trial(s, o, p) for s, o, p in pairs]))
    kinds = "train unseen_object_unseen_subject unseen_object_seen_subject seen_object_unseen_subject validation"
    assert [info.kind for info in store.infos] == kinds.split()
    assert store.ids("test") == ["s02/rod/000", "s01/rod/000", "s02/cup/000"] and len(store.ids("all")) == 5
    assert trial_kind("test", 1, "cup", {1}, {"cup"}) == "seen_object_seen_subject"


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 1000))
def test_no_held_out_subject_or_object_is_trained_on(num_subjects: int, num_objects: int, seed: int) -> None:
    subjects, objects = list(range(num_subjects)), [f"o{i}" for i in range(num_objects)]
    lists = draw_splits(subjects, objects, validation=(1, 1), test=(1, 1), seed=seed)
    assert lists == draw_splits(subjects, objects, validation=(1, 1), test=(1, 1), seed=seed)
    assert SplitLists.from_dict(json.loads(json.dumps(lists.to_dict()))) == lists
    split = {(s, o): lists.split(s, o) for s in subjects for o in objects}
    for s, o in (pair for pair, part in split.items() if part == "train"):
        assert s in lists.train_subjects and o in lists.train_objects
    assert sum(part == "train" for part in split.values()) == (num_subjects - 2) * (num_objects - 2)
    assert sum(part == "test" for part in split.values()) == num_subjects + num_objects - 1
    train_pairs = {pair for pair, part in split.items() if part == "train"}
    seen = {s for s, _ in train_pairs}, {o for _, o in train_pairs}
    assert not any((s in seen[0]) and (o in seen[1]) for (s, o), part in split.items() if part != "train")


def test_split_lists_that_overlap_or_miss_are_refused() -> None:
    lists = draw_splits([1, 2, 3], ["a", "b", "c"], validation=(1, 1), test=(1, 1), seed=0)
    with pytest.raises(ValueError, match="subjects listed more than once: 1"):
        replace(lists, train_subjects=(1,), test_subjects=(1,))
    with pytest.raises(ValueError, match="missing: test_objects"):
        SplitLists.from_dict({key: value for key, value in lists.to_dict().items() if key != "test_objects"})
    with pytest.raises(ValueError, match="object 'd' is in no split; objects: "):
        lists.split(1, "d")
    with pytest.raises(ValueError, match="at least one must be left for training"):
        draw_splits([1, 2], ["a", "b", "c"], validation=(1, 1), test=(1, 1), seed=0)


# ---------------------------------------------------------------- bad input: trials to be written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"giver": np.zeros((39, 61))}, r"data/giver, replay s01/cup/000: 39 frames, but object_pose has 40"),
        ({"giver": np.zeros((40, 60))}, r"data/giver.*expected shape \(T, 61\), found \(40, 60\)"),
        ({"goal_free": np.zeros((40, 6), bool)}, r"data/goal_free.*expected shape \(T, 5\), found \(40, 6\)"),
        ({"demo": np.full((40, 28), np.inf)}, r"data/hand_state, replay s01/cup/000, frame 0: column 0 is inf"),
        ({"hand_start": np.zeros(30)}, r"meta/hand_start.*expected shape \(28,\), found \(30,\)"),
        ({"hand_start": np.full(28, np.nan)}, r"meta/hand_start.*column 0 is nan"),
        ({"object": "mug"}, r"trial 0 has object 'mug'; objects given: cup, rod"),
        ({"side": "both"}, r"unknown side 'both'; one of right, left"),
        ({"split": "val"}, r"unknown split 'val'; one of train, validation, test"),
        ({"grasp_begin": 40}, r"meta/grasp_begin: trial 0 has 40"),
        ({"fps": float("nan")}, r"meta/fps: trial 0 has nan, allowed: above 0"),
    ],
)
def test_bad_trials_are_not_written(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        write(tmp_path / "a.zarr", [make_trial(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_same_id_twice_or_no_trial_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"replay s01/cup/003: more than one"):
        write(tmp_path / "a.zarr", [make_trial(number=3), make_trial(number=3)])
    with pytest.raises(ReplayError, match="no trial to write"):
        write(tmp_path / "a.zarr", iter([]))
    with pytest.raises(ReplayError, match=r"names without '/'"):
        write_store(tmp_path / "a.zarr", [], {"a/b": make_objects()["cup"]}, licence="", provenance={})


# ---------------------------------------------------------------- bad input: damaged stores


@pytest.mark.parametrize(
    ("key", "index", "value", "message"),
    [
        ("data/object_pose", (45, 1), np.nan, r"data/object_pose, replay s01/cup/001, frame 5: column 1 is nan"),
        ("data/object_pose", (3, 4), 1.5, r"data/object_pose, replay s01/cup/000, frame 3: quaternion of norm 1\.\d+"),
        (
            "data/object_pose",
            (0, 0),
            1e20,
            r"data/object_pose, replay s01/cup/000, frame 0: column 0 is 1\.0+.*e\+20, beyond",
        ),
        ("data/giver", (79, 60), -np.inf, r"data/giver, replay s03/rod/000, frame 1: column 60 is -inf"),
        ("data/hand_state", (71, 2), np.nan, r"data/hand_state, replay s02/rod/000, frame 0: column 2 is nan"),
        (
            "data/goal_free",
            (40, 0),
            32,
            r"data/goal_free, replay s01/cup/001, frame 0: goal beyond the 5 of this trial",
        ),
        ("goals", (2, 3), 3.0, r"goals: goal 2: quaternion of norm"),
        ("goals", (6, 20), np.nan, r"goals: goal 1: column 20 is nan"),
        ("meta/hand_start", (2, 1), np.nan, r"meta/hand_start, replay s02/rod/000: column 1 is nan"),
    ],
)
def test_bad_values_are_refused_with_key_and_frame(folder: Path, key: str, index, value, message: str) -> None:
    overwrite(folder, key, at(index, value))
    store = ReplayStore.open(folder)
    with pytest.raises(ReplayError, match=message) as error:
        store.check()
    assert error.value.key == key and error.value.store == str(folder)


def jump(frame: int, column: int, by: float):
    """A change after which all further frames are somewhere else."""

    def change(array: np.ndarray) -> np.ndarray:
        array[frame:, column] += by
        return array

    return change


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "data/object_pose",
            jump(20, 1, 0.3),
            r"data/object_pose, replay s01/cup/000, frame 19: object at \d+\.\d m/s",
        ),
        ("data/giver", jump(50, 4, 2.5), r"data/giver, replay s01/cup/001, frame 9: giver's wrist turns at"),
        ("data/giver", jump(9, 20, 2.0), r"data/giver, replay s01/cup/000, frame 8: a finger joint bends at"),
        ("data/hand_state", jump(9, 27, 1.5), r"data/hand_state, replay s01/cup/000, frame 8: a finger joint bends"),
    ],
)
def test_jumps_no_hand_can_do_are_found(folder: Path, key: str, change, message: str) -> None:
    overwrite(folder, key, change)
    with pytest.raises(ReplayError, match=message):
        ReplayStore.open(folder).check()


def test_every_problem_is_listed_and_changed_content_is_found(folder: Path) -> None:
    assert list(ReplayStore.open(folder).problems()) == []
    overwrite(folder, "data/giver", at((3, 2), 0.001))
    overwrite(folder, "data/object_pose", at((slice(45, 75), 1), np.nan))
    overwrite(folder, "meta/fps", at(1, 31.0))
    problems = [str(problem).removeprefix(f"{folder}, ") for problem in ReplayStore.open(folder).problems()]
    assert [problem.split(":")[0] for problem in problems] == [
        "data/object_pose, replay s01/cup/001, frame 5",
        "data/object_pose, replay s02/rod/000, frame 0",
        "data/object_pose",
        "data/giver",
        "meta/fps",
    ]
    assert all("SHA-256" in problem for problem in problems[2:])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("data/giver", lambda a: a[:, :60], r"data/giver: expected float32 \(N, 61\), found float32 \(80, 60\)"),
        ("data/giver", lambda a: a[:-1], r"frames of different lengths: object_pose 80, giver 79"),
        (
            "data/object_pose",
            lambda a: a.astype(np.float64),
            r"data/object_pose: expected float32 \(N, 7\), found float64",
        ),
        ("meta/side", lambda a: a[:-1], r"arrays of different lengths: .*side 3"),
        (
            "meta/episode_ends",
            lambda a: a[[0, 2, 1, 3]],
            r"trial 2 ends at frame 71, less than 2 frames after it began",
        ),
        ("meta/episode_ends", lambda a: a - 1, r"ends at frame 79, but data has 80 frames"),
        ("meta/object", at(1, 2), r"meta/object: trial 1 has 2, allowed: 0 to 1"),
        ("meta/split", at(1, 3), r"meta/split: trial 1 has 3"),
        ("meta/number", at(1, 0), r"meta/number, replay s01/cup/000: more than one trial"),
        ("goals", lambda a: a[:, :28], r"goals: expected float32 \(N, 29\)"),
        ("goals", lambda a: a[:-1], r"meta/goals_begin: trial 2 has 5, allowed: rows that exist, of 516"),
        ("meta/goals_count", at(0, 0), r"meta/goals_count: trial 0 has 0, allowed: 1 to 512"),
        ("meta/calibration", at(0, 0), r"meta/calibration: trial 0 has 0, allowed: -1 to -1"),
    ],
)
def test_bad_structure_is_refused_at_opening(folder: Path, key: str, change, message: str) -> None:
    overwrite(folder, key, change)
    with pytest.raises(ReplayError, match=message):
        ReplayStore.open(folder)


@pytest.mark.parametrize("key", ["data/giver", "data/goal_free", "meta/fps", "meta/has_demo", "goals", "data"])
def test_missing_arrays_are_named(folder: Path, key: str) -> None:
    shutil.rmtree(folder / key)
    with pytest.raises(ReplayError, match=f"{key}.*: missing"):
        ReplayStore.open(folder)


@pytest.mark.parametrize("key", ["data/giver/c/0/0", "data/hand_state/c/0/0", "meta/has_demo/c/0"])
def test_missing_and_cut_chunks_are_named(folder: Path, key: str) -> None:
    chunk = folder / key
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReplayError, match=f"{key.partition('/c/')[0]}.*cannot be read, damaged or incomplete"):
        ReplayStore.open(folder).check()
    chunk.unlink()
    with pytest.raises(ReplayError, match=f"{key}: chunk missing"):
        ReplayStore.open(folder)


def edit_metadata(folder: Path, key: str, **changes) -> None:
    path = folder / key / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_metadata_that_lies_is_refused_before_anything_is_allocated(folder: Path) -> None:
    edit_metadata(folder, "data/giver", shape=[10**15, 61])
    with pytest.raises(ReplayError, match=r"data/giver/c/1/0: chunk missing"):
        ReplayStore.open(folder)
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**9, 61]}}
    edit_metadata(folder, "data/giver", shape=[10**9, 61], chunk_grid=grid)
    with pytest.raises(ReplayError, match=r"data/giver: chunks of \d+ bytes, at most"):
        ReplayStore.open(folder)
    (folder / "data/giver/zarr.json").write_text("{")
    with pytest.raises(ReplayError, match=r"data/giver: cannot be read"):
        ReplayStore.open(folder)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"format": "other"}, "not a store of replays: format is 'other'"),
        ({"version": 1}, "version 1 of the format, this release reads 2; `dexh2r replays migrate OLD NEW` converts it"),
        ({"version": 3}, "version 3 of the format, this release reads 2"),
        ({"giver_model": "smpl"}, "'giver_model' is 'smpl', expected open or mano"),
        ({"sha256": None}, "'sha256' is missing or no dict"),
        ({"objects": ["cup", "cup"]}, "must list names"),
    ],
)
def test_other_formats_are_refused(folder: Path, attrs: dict, message: str) -> None:
    known = json.loads((folder / "zarr.json").read_text())["attributes"]
    edit_metadata(folder, "", attributes=known | attrs)
    with pytest.raises(ReplayError, match=re.escape(message)):
        ReplayStore.open(folder)


def test_zip_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "a.zarr.zip").read_bytes()
    cut = tmp_path / "cut.zarr.zip"
    for length in [0, 1, 29, 30, *np.linspace(40, len(content) - 1, 40).astype(int)]:
        cut.write_bytes(content[:length])
        with pytest.raises(ReplayError, match=r"cut\.zarr\.zip.*: not a whole zip file"):
            ReplayStore.open(cut)


def test_zip_cut_short_names_the_entry_it_breaks_off_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr.zip")
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("data/hand_state/c/0/0")
    path.write_bytes(path.read_bytes()[: entry.header_offset + 100])
    with pytest.raises(ReplayError) as error:
        ReplayStore.open(path)
    assert error.value.key == "data/hand_state/c/0/0"


def test_flipped_byte_in_a_zip_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr.zip")
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("data/giver/c/0/0")
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 200] ^= 16
    path.write_bytes(content)
    with pytest.raises(ReplayError, match=r"data/giver, replay s01/cup/000: cannot be read"):
        ReplayStore.open(path).check()


def test_things_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.zarr.zip").write_text("hello")
    (tmp_path / "empty.zarr").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    for name in ("text.zarr.zip", "empty.zarr", "other.zip"):
        with pytest.raises(ReplayError, match=re.escape(name)):
            ReplayStore.open(tmp_path / name)
