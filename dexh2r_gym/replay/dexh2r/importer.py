"""Import of the DexH2R dataset as it is on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dexh2r_gym.replay.dexh2r import convert
from dexh2r_gym.replay.dexh2r.convert import Job, Outcome
from dexh2r_gym.replay.dexh2r.layout import GOAL_FILE, Layout, Remark, find_trials
from dexh2r_gym.replay.dexh2r.summary import ImportSummary
from dexh2r_gym.replay.replay import SENSORS, ReplayError
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.replay.work import open_work
from dexh2r_gym.replay.write import StoredObject, free_path, write_store
from dexh2r_gym.workers import Workers, num_workers

LICENCE = "CC BY-NC 4.0, DexH2R: A Benchmark for Dynamic Dexterous Grasping in Human-to-Robot Handover (ICCV 2025)"
ORIGIN = (1.0, 0.0, 0.37)  # m, in the dataset's world: where the cameras' common field of view has its middle, but 1 m
# lower; so the handover comes to about (0, 0, 1)
MAX_SEARCHED = 64  # goals


def import_dexh2r(
    path: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    strict: bool = False,
    skip_damaged: bool = False,
    sensors: Sequence[str] = ("cloud",),
    num_goals: int = 40,
    fps: float = 30.0,
    seed: int = 0,
    origin: tuple[float, float, float] = ORIGIN,
    progress: bool = True,
    overwrite: bool = False,
) -> ImportSummary:
    """Turn a DexH2R dataset into a store.

    `path` holds DexH2R_dataset/, object_model/ and dataset_split.json; any part of the subjects will do. Trials keep
    the dataset's split. Goal grasps are those of `model_final_qpose_cvae.pt`, seen from the object at frame 0; objects
    of trials without that file get goals by search, about a minute each. The givers' numbers are MANO's.

    What is done is kept in `<out>.partial`, so that an import which was interrupted, or stopped by a damaged file, goes
    on from there when run again. `out` is complete or not there at all.

    Args:
        path: the dataset's folder.
        out: the store to write, a folder or a `.zarr.zip`.
        workers: processes, None for one a core; with 1 no other process is started. A script that starts them needs
            `if __name__ == "__main__":` around what it does.
        strict: fail if anything is skipped.
        skip_damaged: skip trials with a damaged file and list them, rather than stop.
        sensors: which recorded ones to keep: "cloud", "depth", "image" of the four Kinects. Each trial then needs them.
        num_goals: to search for an object, at most 64.
        fps: frames a second, which the dataset does not say.
        seed: of the search.
        origin: metres; this point of the dataset's world becomes the origin of the scene. (0, 0, 0) keeps its numbers.
        progress: show bars.
        overwrite: replace a store at `out`.

    Raises:
        ReplayError: `path` is no such dataset, a file is damaged (it is named), or `strict` and something is skipped.
        FileExistsError: `out` exists.
    """
    folder, sensors = Folder(Path(path)), tuple(sensors)
    workers = num_workers(workers)
    _check_options(strict, skip_damaged, sensors, num_goals, fps)
    out = free_path(out, overwrite)
    layout = find_trials(folder, sensors)
    if strict and layout.skipped:
        raise ReplayError(
            f"strict: {len(layout.skipped)} trials would be skipped; {_first(layout.skipped)}", store=str(path)
        )
    options = {"sensors": sensors, "num_goals": num_goals, "seed": seed, "origin": origin}
    work = open_work(out, {"source": str(folder.root.resolve()), **options})
    whole = Job(folder, work, "", sensors=sensors, origin=origin, num_goals=num_goals, seed=seed)
    jobs = [replace(whole, name=trial.object, trial=trial) for trial in layout.trials]
    run = _Run(skip_damaged, progress, list(layout.skipped))
    with Workers(min(workers, max(1, len(jobs)))) as pool:
        jobs = run.objects(pool, "object models", convert.convert_object, jobs, {job.name for job in jobs})
        searched = {job.name for job in jobs if job.trial and GOAL_FILE not in job.trial.files}
        jobs = run.objects(pool, "goal grasps", convert.convert_goals, jobs, searched)
        outcomes = run.trials(pool, jobs)
    if not outcomes:
        raise ReplayError(f"no trial to import; {_first(run.skipped)}", store=str(path))
    _check_rows(outcomes)
    jobs = [outcome.job for outcome in outcomes]
    objects = {job.name: job for job in sorted(jobs, key=lambda job: job.name)}
    summary = ImportSummary(
        path=out,
        trials=len(jobs),
        frames=sum(outcome.info["frames"] for outcome in outcomes),
        objects=len(objects),
        subjects=len({job.trial.subject for job in jobs if job.trial}),
        skipped=tuple(run.skipped),
        remarks=(*run.remarks, *_beyond_workspace(outcomes)),
        renamed=tuple((layout.subjects | layout.numbers).items()),
    )
    write_store(
        out,
        (convert.load_trial(job, fps) for job in tqdm(jobs, desc="writing", unit="trial", disable=not progress)),
        {name: _stored_object(job, name in searched) for name, job in objects.items()},
        licence=LICENCE,
        provenance=_provenance(folder, layout, summary, options | {"giver_hand": outcomes[0].info["hand"]}),
        seed=seed,
        giver_model="mano",
        overwrite=overwrite,
    )
    shutil.rmtree(work)
    return summary


class _Run:
    """The conversions of one import. What is damaged stops it, or is skipped."""

    def __init__(self, skip: bool, progress: bool, skipped: list[Remark]) -> None:
        self._skip, self._progress = skip, progress
        self.skipped = skipped
        self.remarks: list[Remark] = []

    def objects(
        self, pool: Workers, title: str, function: Callable[[Job], Outcome], jobs: list[Job], names: Collection[str]
    ) -> list[Job]:
        """Do one job for each of these objects; the trials (jobs) that are left when damaged objects are skipped."""
        outcomes = self._do(pool, title, function, [replace(jobs[0], name=n, trial=None) for n in sorted(names)])
        bad = {outcome.job.name: str(outcome.error) for outcome in outcomes if outcome.error}
        self.skipped += [Remark(j.trial.name, "damaged object", bad[j.name]) for j in jobs if j.trial and j.name in bad]
        return [job for job in jobs if job.name not in bad]

    def trials(self, pool: Workers, jobs: list[Job]) -> list[Outcome]:
        """Convert trials; the outcomes of those that are left when damaged ones are skipped."""
        outcomes = self._do(pool, "trials", convert.convert_trial, jobs)
        self.skipped += [Remark(o.job.trial.name, "damaged", str(o.error)) for o in outcomes if o.error and o.job.trial]
        return [outcome for outcome in outcomes if outcome.error is None]

    def _do(self, pool: Workers, title: str, function: Callable[[Job], Outcome], jobs: list[Job]) -> list[Outcome]:
        """Outcomes in the order of the jobs."""
        outcomes: dict[Job, Outcome] = {}
        for outcome in tqdm(
            pool.map(function, jobs), desc=title, total=len(jobs), disable=not (self._progress and jobs)
        ):
            if outcome.error is not None and not self._skip:
                raise outcome.error
            outcomes[outcome.job] = outcome
        ordered = [outcomes[job] for job in jobs]
        self.remarks += [remark for outcome in ordered for remark in outcome.remarks]
        return ordered


def _check_options(strict: bool, skip_damaged: bool, sensors: tuple[str, ...], num_goals: int, fps: float) -> None:
    if strict and skip_damaged:
        raise ValueError("strict fails on what skip_damaged would skip: choose one of them")
    check_recorded(sensors, fps)
    if not 1 <= num_goals <= MAX_SEARCHED:
        raise ValueError(f"num_goals must be 1 to {MAX_SEARCHED}, got {num_goals}")


def check_recorded(sensors: Sequence[str], fps: float) -> None:
    """ValueError for a sensor that there is not, or no rate of a recording."""
    if unknown := [name for name in sensors if name not in SENSORS]:
        raise ValueError(f"unknown sensor {unknown[0]!r}; sensors: {', '.join(SENSORS)}")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must be above 0 and up to 1000, got {fps}")


def _check_rows(outcomes: list[Outcome]) -> None:
    """A store needs images of one size."""
    first = outcomes[0]
    for outcome in outcomes:
        for name, row in outcome.info["rows"].items():
            if row != (expected := first.info["rows"][name]):
                at, other = (o.job.trial.name for o in (outcome, first) if o.job.trial)
                raise ReplayError(
                    f"{name} of {row}, in {other} of {expected}", store=str(outcome.job.folder.root), key=at
                )


def _beyond_workspace(outcomes: list[Outcome]) -> Iterator[Remark]:
    """Trials whose demonstration goes where the environment's actions do not reach."""
    from dexh2r_gym.envs.control import WORKSPACE_LOWER, WORKSPACE_UPPER

    for outcome in outcomes:
        low, high = outcome.info["palm_low"], outcome.info["palm_high"]
        if outcome.job.trial and ((np.less(low, WORKSPACE_LOWER)) | np.greater(high, WORKSPACE_UPPER)).any():
            reach = " to ".join(str(np.round(end, 2).tolist()) for end in (low, high))
            kind = "demonstration beyond the environment's workspace; is the origin right?"
            yield Remark(outcome.job.trial.name, kind, f"palm from {reach} m")


def _stored_object(job: Job, searched: bool) -> StoredObject:
    stored = convert.load_object_file(job)
    return replace(stored, goals=convert.load_goals(job).numpy()) if searched else stored


def _first(skipped: Sequence[Remark]) -> str:
    """The first of what was skipped, for a message."""
    if not skipped:
        return "there is none"
    what = skipped[0]
    return f"{what.what}: {what.kind}" + (f" ({what.detail})" if what.detail else "")


def _provenance(folder: Folder, layout: Layout, summary: ImportSummary, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": "DexH2R (Wang et al., ICCV 2025), the dataset as it is on disk",
        "importer": "dexh2r_gym.replay.dexh2r",
        "folder": folder.root.resolve().name,
        "options": options | {"sensors": list(options["sensors"]), "origin": list(options["origin"])},
        "splits": layout.splits.to_dict(),
        **summary.to_dict(),
    }
