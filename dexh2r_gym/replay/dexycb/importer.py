"""Import of DexYCB: givers who pick an object up from a table and hold it out (Chao et al., CVPR 2021).

Each sequence becomes a trial of the grasped object and the giver's hand, from the pick-up to the last frame in which
the hand is seen, and on for a wait in which the giver holds the last pose: the recordings end when the object is held
out. Other objects and the table are left out. Work goes object by object: mesh, goal grasps, then all sequences.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dexh2r_gym.giver.mano_file import load_mano
from dexh2r_gym.grasps.pool import MAX_GRASPS
from dexh2r_gym.replay.dexycb.cache import CACHE, CacheLayout
from dexh2r_gym.replay.dexycb.convert import FPS, Job, import_object
from dexh2r_gym.replay.dexycb.raw import RawLayout
from dexh2r_gym.replay.dexycb.recording import OBJECTS, Layout, Sequence
from dexh2r_gym.replay.replay import ReplayError, Trial, replay_id
from dexh2r_gym.replay.untrusted import MAX_MESH
from dexh2r_gym.replay.work import open_work
from dexh2r_gym.replay.write import StoredObject, free_path, write_store
from dexh2r_gym.workers import Workers, num_workers

LICENCE = "CC-BY-NC-4.0 (DexYCB, NVIDIA); goal grasps added by dexh2r-gym"
LACKS = (
    "demonstrations of a robot",
    "a handover: the giver holds the object out, nobody takes it, and the wait at the end is added",
    "point clouds, depth and colour images (DexYCB has them, they are not imported)",
    "frames in which the giver's hand was not seen",
)


def import_dexycb(
    path: str | Path,
    out: str | Path,
    *,
    subjects: Collection[str] | None = None,
    sequences: Collection[str] | None = None,
    wait: float = 2.0,
    num_goals: int = 40,
    workers: int | None = None,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Turn sequences of DexYCB into a store. Needs MANO's files in $DEXH2R_MANO: the hand's poses are MANO's.

    The goal grasps found are kept in `<out>.partial` until the store is written: an import that was stopped goes on
    with them. Sequences that cannot be used, and objects that no grasp was found for, are left out and listed with the
    reason in the store's provenance under "skipped".

    The split is HandoverSim's s0 where the numbers of its scenes are known: always with its cache, and with the dataset
    where all sequences of the chosen subjects are there. Otherwise one sequence in five is drawn for test.

    Args:
        path: the dataset's folder, with `<date>-subject-<nn>`, `calibration` and `models` in it; or HandoverSim's
            folder `handover/data`, with `dex-ycb-cache` and `assets` in it.
        out: the store to write, a folder or a `.zarr.zip`.
        subjects: names of their folders, such as "20200709-subject-01"; None for all.
        sequences: such as "20200709-subject-01/20200709_141754"; None for all.
        wait: seconds for which the giver holds the last pose.
        num_goals: goal grasps to search for each object, 1 to 512; a quarter of a minute to a minute an object.
        workers: processes, each for one object at a time; None for one a core.
        seed: of the search for goal grasps, and of a drawn split.
        progress: show a bar.
        overwrite: replace a store at `out`.

    Raises:
        ReplayError: a file is missing or damaged (it is named), no sequence can be used, or `<out>.partial` was left by
            an import with another `num_goals` or `seed`.
        FileNotFoundError: MANO's files are not there.
        FileExistsError: `out` exists and `overwrite` is False.
        ValueError: an unknown subject or sequence, or a number out of its range.
    """
    out = free_path(out, overwrite)
    workers = num_workers(workers)
    for name, value, fine in (
        ("wait", wait, 0 <= wait <= 60),
        ("num_goals", num_goals, 1 <= num_goals <= MAX_GRASPS),
    ):
        if not fine:
            raise ValueError(f"{name} is {value}; allowed: wait 0 to 60 s, num_goals 1 to {MAX_GRASPS}")
    layout: Layout = CacheLayout(path) if Path(path, CACHE).is_dir() else RawLayout(path)
    chosen = layout.sequences(subjects, sequences)
    if not chosen:
        raise ReplayError("no sequence to import", store=str(path))
    for side in sorted({s.side for s in chosen}):
        load_mano(side)  # a missing file is told before the work begins
    splits, how = _splits(layout, chosen, seed)
    numbers = _subject_numbers(chosen)
    work = open_work(out, {"num_goals": num_goals, "seed": seed})
    workers = min(workers, len({s.object for s in chosen}))
    jobs = [
        Job(
            layout=layout,
            name=OBJECTS[k][0],
            mass=OBJECTS[k][1],
            sequences=[s for s in chosen if s.object == k],
            splits=splits,
            subjects=numbers,
            wait=wait,
            num_goals=num_goals,
            seed=seed,
            pool=work / f"{OBJECTS[k][0]}.npz",
            num_threads=1 if workers > 1 else 0,
        )
        for k in sorted({s.object for s in chosen})
    ]
    for job in jobs:
        layout.folder.file(layout.mesh(job.name), MAX_MESH)
    objects: dict[str, StoredObject] = {}
    found: dict[str, Trial | str] = {}
    with (
        Workers(workers) as pool,
        tqdm(total=len(chosen), desc="DexYCB", unit="sequence", disable=not progress) as bar,
    ):
        for name, stored, results in pool.map(import_object, jobs):
            if stored is not None:
                objects[name] = stored
            found |= results
            bar.update(len(results))
    skipped = {s.name: found[s.name] for s in chosen if isinstance(found[s.name], str)}
    trials: dict[str, Trial] = {}
    origin: dict[str, str] = {}
    count: Counter[tuple[int, str]] = Counter()
    for sequence in chosen:
        trial = found[sequence.name]
        if isinstance(trial, Trial):
            number = count[trial.subject, trial.object]
            count[trial.subject, trial.object] += 1
            id = replay_id(trial.subject, trial.object, number)
            trials[id], origin[id] = replace(trial, number=number), sequence.name
    if not trials:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5])
        raise ReplayError(f"none of {len(chosen)} sequences can be used ({reasons})", store=str(path))
    added = round(wait * FPS)
    provenance: dict[str, Any] = {
        "source": "DexYCB, Chao et al., CVPR 2021; objects of Calli et al., the YCB object and model set, 2015",
        "importer": "dexh2r_gym.replay.dexycb",
        "layout": "HandoverSim cache" if isinstance(layout, CacheLayout) else "DexYCB",
        "sequences": origin,
        "subjects": {str(number): name for name, number in numbers.items()},
        "recorded_frames": {id: len(trial.object_pose) - added for id, trial in trials.items()},
        "added_frames": added,
        "splits": how,
        "skipped": skipped,
        "lacks": list(LACKS),
    }
    used = {trial.object for trial in trials.values()}
    write_store(
        out,
        trials.values(),
        {name: objects[name] for name in sorted(used)},
        licence=LICENCE,
        provenance=provenance,
        seed=seed,
        giver_model="mano",
        overwrite=overwrite,
    )
    shutil.rmtree(work)
    return out


def _splits(layout: Layout, sequences: list[Sequence], seed: int) -> tuple[dict[str, str], str]:
    """Split of every sequence, and in words where it comes from."""
    scenes = [layout.scene(s) for s in sequences]
    known = [scene for scene in scenes if scene is not None]
    if len(known) == len(sequences):
        splits = ["train" if i % 5 != 4 else "validation" if i < 200 else "test" for i in known]
        how = "HandoverSim s0: of the five sequences of a subject with an object the last is for test"
        return dict(zip((s.name for s in sequences), splits, strict=True)), f"{how}, of the first two for validation"
    drawn = np.random.default_rng(seed).permutation(len(sequences))[: max(1, round(len(sequences) / 5))]
    test = {sequences[i].name for i in drawn}
    return {s.name: "test" if s.name in test else "train" for s in sequences}, "drawn, one sequence in five for test"


def _subject_numbers(sequences: list[Sequence]) -> dict[str, int]:
    """Numbers of the subjects: those in the names of their folders, or else by their order."""
    names = sorted({s.subject for s in sequences})
    ends = [name.rpartition("-subject-")[2] for name in names]
    if all(end.isdecimal() and len(end) < 5 for end in ends) and len({int(end) for end in ends}) == len(names):
        return {name: int(end) for name, end in zip(names, ends, strict=True)}
    return {name: i for i, name in enumerate(names)}
