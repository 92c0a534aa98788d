"""Synthetic trials: givers of the open hand hold objects of the library at one end and move them in front of the robot.

Everything follows from a seed. A giver has a few grasps of an object; a trial takes one of them, an offer in which the
robot can take the object, a free motion that ends in it, and a start of the robot's hand. Trials that are not good are
drawn again. Each trial has a random generator of its own, so the workers that draw them do not matter.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import torch
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.replay.demos import demonstrate
from dexh2r_gym.replay.draw import draw_trial
from dexh2r_gym.replay.motion import Subject, draw_subjects
from dexh2r_gym.replay.replay import Trial, replay_id
from dexh2r_gym.replay.splits import SplitLists, draw_splits
from dexh2r_gym.replay.write import StoredObject, write_store

LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Preset:
    """How much to generate."""

    num_trials: int
    num_subjects: int
    objects: tuple[str, ...]
    validation: tuple[int, int]  # numbers of subjects and objects kept for validation
    test: tuple[int, int]  # the same for test


PRESETS = {
    "mini": Preset(
        num_trials=100,
        num_subjects=8,
        objects=(
            "aerosol_can",
            "banana",
            "beer_bottle",
            "book",
            "crisps_tube",
            "flashlight",
            "hair_dryer",
            "hammer",
            "lint_roller",
            "mallet",
            "milk_carton",
            "power_drill",
            "rolling_pin",
            "shampoo_bottle",
            "spray_bottle",
            "table_tennis_bat",
            "thermos",
            "tv_remote",
            "water_bottle",
            "wine_bottle",
        ),
        validation=(1, 3),
        test=(2, 4),
    )
}


def generate(
    out: str | Path,
    *,
    preset: str | Preset = "mini",
    seed: int = 0,
    demonstrator: str | None = "scripted",
    workers: int = 1,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a store of synthetic trials. The same preset and seed give the same bytes, whatever the number of workers.

    Args:
        out: a path that ends in `.zarr.zip`, or a folder.
        preset: a name in `PRESETS`, or your own; its objects are of the library and have goal grasps.
        seed: of everything.
        demonstrator: agent that shows in each trial how the object is taken (see `demos.demonstrate`); trials in which
            it fails are left out. None: no demonstrations.
        workers: processes.
        progress: show a bar.
        overwrite: replace a store at `out`.
    """
    preset = _find_preset(preset)
    show = None if demonstrator is None else find_agent(demonstrator)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if Path(out).exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another path or say overwrite")
    names = sorted(preset.objects)
    splits = draw_splits(range(preset.num_subjects), names, validation=preset.validation, test=preset.test, seed=seed)
    drawn = draw_trials(preset.num_trials, names, preset.num_subjects, splits, seed=seed, workers=workers)
    trials = list(tqdm(drawn, total=preset.num_trials, desc="trials", unit="trial", disable=not progress))
    trials.sort(key=lambda t: (t.subject, t.object, t.number))
    provenance: dict = {"generator": "dexh2r_gym.replay.generate", "splits": splits.to_dict()}

    def write(path: str | Path) -> Path:
        return write_store(
            path,
            trials,
            {name: stored_object(name) for name in names},
            licence=LICENCE,
            provenance=provenance,
            seed=seed,
            overwrite=overwrite,
        )

    if show is not None:
        with tempfile.TemporaryDirectory() as folder:
            demos = demonstrate(write(Path(folder, "trials")), show, seed=seed, progress=progress)
        by_id = {replay_id(t.subject, t.object, t.number or 0): t for t in trials}
        provenance["demonstrations"] = {"agent": demonstrator, "drawn": len(trials), "kept": len(demos)}
        trials = [replace(trial, demo=demos[id]) for id, trial in by_id.items() if id in demos]
    return write(out)


def _find_preset(preset: str | Preset) -> Preset:
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[preset]


def draw_trials(
    num_trials: int, objects: Sequence[str], num_subjects: int, splits: SplitLists, *, seed: int, workers: int = 1
) -> Iterator[Trial]:
    """Draw trials, in an order that does not depend on the workers; a pair that gives none is passed over.

    Raises:
        RuntimeError: where fewer than one in four pairs gives a trial.
    """
    subjects = draw_subjects(num_subjects, seed)
    jobs = (
        (seed, subject, name, nth, splits.split(subject.number, name))
        for subject, name, nth in _pairs(subjects, objects)
    )
    found = 0
    with _mapper(workers) as run:
        tried = 0
        while found < num_trials:
            if tried > 4 * num_trials + 8:
                raise RuntimeError(f"only {found} of {tried} tries gave a good trial")
            batch = list(islice(jobs, num_trials - found))
            tried += len(batch)
            for trial in run(draw_trial, batch):
                if trial is not None:
                    found += 1
                    yield trial


def stored_object(name: str) -> StoredObject:
    """An object of the library as a store carries it: by name, with its goal grasps."""
    pool = load_pool(name)
    return StoredObject(goals=torch.cat((pool.palm_pose, pool.joints), dim=-1).numpy())


def _pairs(subjects: Sequence[Subject], objects: Sequence[str]) -> Iterator[tuple[Subject, str, int]]:
    """Every (subject, object, 0) once, then again with 1, ...; all objects and subjects equally often on the way."""
    for nth in count():
        for turn in range(len(subjects)):
            for i, name in enumerate(objects):
                yield subjects[(i + turn) % len(subjects)], name, nth


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable]]:
    """A `map` that keeps order, over this many processes."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
    else:
        with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
            yield pool.imap
