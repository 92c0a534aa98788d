"""The sequences of one object as trials: its mesh, its goal grasps, then one recording after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import GraspPool, make_pool, read_pool
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.objects.build import from_mesh
from dexh2r_gym.replay.dexycb.recording import VESSELS, Layout, Recording, Sequence
from dexh2r_gym.replay.recorded import hold_still, into_scene, recorded_object, recorded_trial
from dexh2r_gym.replay.replay import Trial
from dexh2r_gym.replay.untrusted import MAX_MESH
from dexh2r_gym.replay.write import StoredObject

FPS = 30
PICK_UP = 0.01  # m, an object this far from where it lay has been picked up
MIN_FRAMES = 15  # of a recording from pick-up to its end


@dataclass(frozen=True)
class Job:
    """All sequences of one object."""

    layout: Layout
    name: str
    mass: float
    sequences: list[Sequence]
    splits: dict[str, str]  # by name of the sequence
    subjects: dict[str, int]
    wait: float  # s
    num_goals: int
    seed: int
    pool: Path  # file that keeps the goal grasps until the store is written
    num_threads: int


class Unusable(Exception):
    """Why a sequence gives no trial."""


def import_object(job: Job) -> tuple[str, StoredObject | None, dict[str, Trial | str]]:
    """An object's name, what is stored of it, None where it has no trial, and by sequence the trial or why there is
    none."""
    results: dict[str, Trial | str] = {}
    held: dict[str, tuple[Sequence, Recording]] = {}
    for sequence in job.sequences:  # all are read before the work that takes long
        recording = job.layout.read(sequence)
        try:
            held[sequence.name] = sequence, recording.cut(*held_span(recording))
        except Unusable as error:
            results[sequence.name] = str(error)
    if not held:
        return job.name, None, results
    obj = _read_object(job)
    try:
        pool = _goals(job, obj)
    except Unusable as error:
        return job.name, None, results | dict.fromkeys(held, str(error))
    for sequence, recording in held.values():
        giver = GiverHand.from_mano(recording.mano, sequence.side, model="mano")
        moved = into_scene(giver, recording.object_pose, recording.mano)
        object_pose, mano = (hold_still(rows, round(job.wait * FPS)) for rows in moved)
        subject, split = job.subjects[sequence.subject], job.splits[sequence.name]
        trial = recorded_trial(obj, pool, giver, object_pose, mano, subject=subject, split=split, fps=FPS)
        results[sequence.name] = trial
    return job.name, recorded_object(obj, pool), results


def _read_object(job: Job) -> ObjectModel:
    mesh = job.layout.folder.file(job.layout.mesh(job.name), MAX_MESH)
    try:
        obj = from_mesh(mesh, name=job.name, mass=job.mass, vessel=job.name in VESSELS)
    except ValueError as error:
        raise job.layout.folder.error(job.layout.mesh(job.name), str(error)) from error
    return replace(obj, metadata=obj.metadata | {"source": "YCB object set, model of DexYCB", "licence": "CC-BY-4.0"})


def _goals(job: Job, obj: ObjectModel) -> GraspPool:
    """Goal grasps of the object: those an earlier run of this import found, if the object is the same."""
    if job.pool.is_file():
        pool = read_pool(job.pool)
        if pool.metadata.get("volume") == obj.volume:
            return pool
    try:
        pool = make_pool(obj, seed=job.seed, num=job.num_goals, num_threads=job.num_threads)
    except ValueError as error:
        raise Unusable(str(error)) from error
    pool.save(job.pool)
    return pool


def held_span(recording: Recording) -> tuple[int, int]:
    """First frame and one past the last: from the last one before the object moves to the last that shows the hand."""
    position, seen = recording.object_pose[:, :3].numpy(), recording.object_seen
    if not seen.any():
        raise Unusable("the object is never seen")
    first = int(np.flatnonzero(seen)[0])
    moved = np.flatnonzero(seen & (np.linalg.norm(position - position[first], axis=-1) > PICK_UP))
    if len(moved) == 0:
        raise Unusable("the object is not picked up")
    hand = np.flatnonzero(recording.hand_seen)
    hand = hand[hand >= moved[0] - 1]
    if len(hand) < MIN_FRAMES:
        raise Unusable(f"the hand is seen in {len(hand)} frames after the pick-up, at least {MIN_FRAMES} are needed")
    begin, end = int(hand[0]), int(hand[-1]) + 1
    for what, there in (("hand", recording.hand_seen), ("object", seen)):
        if len(gone := np.flatnonzero(~there[begin:end])):
            raise Unusable(f"the {what} is not seen in frame {begin + int(gone[0])}, while it is held")
    return begin, end
