"""More goal grasps for the trials of a store: stage 1 of DexH2R's pipeline (section 4.1) for recordings.

The released code proposes 500 grasps an object; a pool of 64 that lie far from one another is much sparser, and who is
not told the goals then seldom comes within a few centimetres of one. Here a generator proposes them for the whole
object, as there, and those are added that a hand can come to and take hold in (`grasps.make.takeable`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import free_of_giver
from dexh2r_gym.grasps.generators import GraspGenerator, load_generator
from dexh2r_gym.grasps.make import takeable
from dexh2r_gym.replay.replay import Trial
from dexh2r_gym.replay.rewrite import joined, objects_again, trial_again
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.replay.work import load_arrays, open_work, save_arrays
from dexh2r_gym.replay.write import StoredObject, free_path, write_store
from dexh2r_gym.workers import Workers, num_workers


def add_goals(
    replays: str | Path,
    out: Path,
    *,
    generator: str = "diffusion",
    num: int = 500,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a store with the same trials and more goals: those that they had, then proposals, at most 512 in all.

    Trials, demonstrations and what is free of the old goals stay as they are. A new goal is free in the frames in which
    it keeps 3 mm from the giver's hand. Killed and started again, it goes on; the same seed gives the same bytes.

    Args:
        replays: name or path of a store.
        generator: a name of `grasps.generators`; it sees all of the object's surface.
        num: proposals for each object, of which those are left out that are not takeable.
        workers: processes, by default one a core.

    Raises:
        ValueError: an unknown generator, a `num` or number of workers below 1.
        FileExistsError: there is something at `out`, and not `overwrite`.
    """
    store, out = ReplayStore.open(replays), free_path(out, overwrite)
    load_generator(generator)  # an unknown one is refused before the work begins
    if num < 1:
        raise ValueError(f"num proposals must be at least 1, got {num}")
    about = {"proposals": num, "proposed_by": generator, "proposals_seed": seed}
    work = open_work(out, {**about, "store": store.attrs["sha256"]})
    jobs = [_Job(store.path, name, generator, num, seed, work / f"{name}.npz") for name in store.object_names]
    with Workers(num_workers(workers)) as pool:
        made = pool.map(_propose, jobs)
        for _ in tqdm(made, "goals", len(jobs), unit="object", disable=not progress):
            pass
    more = {job.name: _load(job.file) for job in jobs}
    objects = objects_again(store, more)
    write_store(
        out,
        _trials(store, more, objects, progress),
        objects,
        licence=store.attrs["licence"],
        provenance={**(store.attrs.get("provenance") or {}), **about},
        seed=store.attrs.get("seed"),
        giver_model=store.giver_model,
        resolution=None,
        overwrite=overwrite,
    )
    shutil.rmtree(work)
    return out


@dataclass(frozen=True)
class _Job:
    """Proposals for an object of a store, into a file."""

    store: Path
    name: str
    generator: str
    num: int
    seed: int
    file: Path


@cache
def _generator(name: str) -> GraspGenerator:
    return load_generator(name)


def _propose(job: _Job) -> str:
    """Make the file of a job unless it is there: the grasps (n, 29) of an object that are takeable. -> the object"""
    if load_arrays(job.file) is None:
        obj = ReplayStore(job.store).object_model(job.name)
        found = _generator(job.generator).propose(obj.points, obj.normals, num=job.num, seed=job.seed)
        palm_pose, joints, *_ = takeable(obj, found.palm_pose, found.joints, num_threads=1)
        save_arrays(job.file, {"goals": torch.cat((palm_pose, joints), dim=-1).numpy()}, None)
    return job.name


def _load(file: Path) -> NDArray:
    found = load_arrays(file)
    assert found is not None
    return found[0]["goals"]


def _trials(
    store: ReplayStore, more: dict[str, NDArray], objects: dict[str, StoredObject], progress: bool
) -> Iterator[Trial]:
    """The trials, as stored to the last bit, with more goals, and which of these each giver leaves free."""
    for i in tqdm(range(len(store)), "trials", unit="trial", disable=not progress):
        replay = store[i]
        goals = joined(store.goals_of(i), more[replay.object])
        new = torch.from_numpy(goals[len(replay.goal_pose) :]).double()
        giver = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
        free = free_of_giver(new[:, :7], new[:, 7:], replay.object_pose, giver, replay.giver)
        shared = objects[replay.object].goals
        assert shared is not None
        yield trial_again(
            store,
            i,
            goal_free=torch.cat((replay.goal_free, free), dim=1).numpy(),
            goals=None if np.array_equal(goals, shared) else goals,
        )
