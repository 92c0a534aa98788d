"""Synthetic trials: givers of the open hand hold objects of the library and move them in front of the robot.

Everything follows from a seed. A giver has a few grasps of an object; a trial takes one of them, an offer in which the
robot can take the object, a free motion that ends in it, and a start of the robot's hand; an expert shows how the
object is taken. What is not good is drawn again. Each trial has random generators of its own, named by what it is, so
the workers do not matter. Trials are made in batches that are kept beside the store until it is complete.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.ray_cluster import RayCluster
from dexh2r_gym.replay.demos import demonstrate
from dexh2r_gym.replay.draw import draw_trial
from dexh2r_gym.replay.presets import Plan, Preset, find_preset, make_plan
from dexh2r_gym.replay.replay import replay_id
from dexh2r_gym.replay.shelf import SyntheticTrial, load_batch, save_batch
from dexh2r_gym.replay.subjects import Subject
from dexh2r_gym.replay.work import open_work
from dexh2r_gym.replay.write import StoredObject, free_path, write_store
from dexh2r_gym.shards import agent_print, same_agent
from dexh2r_gym.workers import Workers, num_workers

LICENCE = "CC0-1.0"
_BATCH = 48  # trials made together
_ATTEMPTS = 3  # how often a trial is drawn before its giver and object count as exhausted

Title = tuple[int, str, int]  # subject, object, number of a trial
Made = list[tuple[Title, str]]  # the trials of a batch, and how each giver holds the object
Place = tuple[Path, int]  # file of a batch, and which of its trials


@dataclass(frozen=True)
class Share:
    """Trials that one giver shall give with one object."""

    subject: Subject
    object: str
    split: str
    first: int  # number of the first of them
    count: int


@dataclass(frozen=True)
class Batch:
    """Trials that one worker makes and puts into a file."""

    file: Path
    shares: tuple[Share, ...]
    seed: int
    demonstrator: str | None


def generate(
    out: str | Path,
    *,
    preset: str | Preset = "mini",
    seed: int = 0,
    demonstrator: str | None = "scripted",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a store of synthetic trials, as many of each split as the preset says.

    The same preset and seed give the same bytes, whatever the number of workers. `out` is complete or not there; when
    stopped and started again, generation goes on with the batches in the folder `<out>.partial`.

    Args:
        out: a path that ends in `.zarr.zip`, or a folder.
        preset: a name in `PRESETS`, or your own; its objects are of the library and have goal grasps.
        seed: of everything.
        demonstrator: agent that shows in each trial how the object is taken (see `demos.demonstrate`); a trial in which
            it fails is drawn again. None: no demonstrations.
        workers: processes, by default one a core; on a Ray cluster that is not `local`, as many as it has cores.
        ray: address of a Ray cluster that makes the trials, see `dexh2r_gym.ray_cluster`.
        progress: show a bar.
        overwrite: replace a store at `out`.

    Raises:
        ValueError: an unknown preset or agent.
        ReplayError: `<out>.partial` was left by a generation of something else.
        FileExistsError: something is at `out`, and `overwrite` is False.
        RuntimeError: the givers and objects of a split do not give as many trials as it should have.
    """
    preset = find_preset(preset)
    if demonstrator is not None:
        find_agent(demonstrator)
    if ray not in (None, "local") and workers is not None:
        raise ValueError("workers is of this machine; the Ray cluster says itself how many cores it has")
    pool = Workers(num_workers(workers)) if ray is None else RayCluster(ray, cores=num_workers(workers))
    out = free_path(out, overwrite)
    plan = make_plan(preset, seed)
    settings = {"preset": asdict(preset), "seed": seed, "demonstrator": demonstrator}
    work = open_work(out, {**settings, "objects": plan.objects, "version": version("dexh2r-gym")})
    places, ways = _make_all(plan, seed, demonstrator, work, pool, progress)
    order = tqdm(sorted(places), desc="writing", unit="trial", disable=not progress)
    write_store(
        out,
        _read(places[title] for title in order),
        {name: stored_object(name) for name in plan.objects},
        licence=LICENCE,
        provenance={
            "generator": "dexh2r_gym.replay.generate",
            "splits": plan.splits.to_dict(),
            "demonstrator": demonstrator,
            "giver_ways": dict(sorted(ways.items())),
        },
        seed=seed,
        overwrite=overwrite,
    )
    shutil.rmtree(work)
    return out


def stored_object(name: str) -> StoredObject:
    """An object of the library as a store carries it: by name, with its goal grasps."""
    pool = load_pool(name)
    return StoredObject(goals=torch.cat((pool.palm_pose, pool.joints), dim=-1).numpy())


def _make_all(
    plan: Plan, seed: int, demonstrator: str | None, work: Path, workers: Workers | RayCluster, progress: bool
) -> tuple[dict[Title, Place], Counter[str]]:
    """Put all trials of a plan into files. -> where each is, and how many there are of each way to hold"""
    ways: Counter[str] = Counter()
    places: dict[Title, Place] = {}
    have: Counter[tuple[int, str]] = Counter()
    number = 0
    with (
        workers as pool,
        tqdm(total=sum(plan.count.values()), desc="trials", unit="trial", disable=not progress) as bar,
    ):
        while shares := _missing(plan, have):
            groups = _grouped(shares)
            batches = [
                Batch(work / f"{number + i:05d}.npz", group, seed, demonstrator) for i, group in enumerate(groups)
            ]
            for file, made in _made(pool, batches):
                bar.update(len(made))
                for i, (title, way) in enumerate(made):
                    places[title] = file, i
                    have[title[:2]] += 1
                    ways[way] += 1
            number += len(batches)
            plan.hand_over(have)
    return places, ways


def _made(pool: Workers | RayCluster, batches: Sequence[Batch]) -> Iterator[tuple[Path, Made]]:
    """What `make_batch` says of each batch, in the order in which they come. Machines of a cluster send their files."""
    if isinstance(pool, Workers):
        yield from pool.map(make_batch, batches)
        return
    jobs = []
    for batch in batches:
        if load_batch(batch.file) is not None:
            yield make_batch(batch)
        else:
            jobs.append((batch, batch.demonstrator and agent_print(batch.demonstrator)))
    for file, content, made in pool.map(_make_elsewhere, jobs, title=lambda job: f"batch {job[0].file.stem}"):
        part = file.with_suffix(".part")
        part.write_bytes(content)
        part.replace(file)
        yield file, made


def _read(places: Iterable[Place]) -> Iterator[SyntheticTrial]:
    """Trials from their files, of which the last few are kept: those of one file come mostly one after the other."""
    read = lru_cache(maxsize=4)(load_batch)
    for file, i in places:
        batch = read(file)
        assert batch is not None
        yield batch[i]


def _missing(plan: Plan, have: Counter[tuple[int, str]]) -> list[Share]:
    """What the pairs of a plan still have to give, by subject and object."""
    return [
        Share(plan.subjects[subject], name, plan.splits.split(subject, name), have[subject, name], count)
        for (subject, name), total in sorted(plan.count.items())
        if (count := total - have[subject, name]) > 0
    ]


def _grouped(shares: Sequence[Share]) -> Iterator[tuple[Share, ...]]:
    """Shares in groups of about `_BATCH` trials."""
    group: list[Share] = []
    for share in shares:
        group.append(share)
        if sum(s.count for s in group) >= _BATCH:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def make_batch(batch: Batch) -> tuple[Path, Made]:
    """Make the file of a batch, if it is not there yet. -> the file, and of each trial in it title and way to hold"""
    trials = load_batch(batch.file)
    if trials is None:
        trials = _make_trials(batch)
        save_batch(batch.file, trials)
    return batch.file, [((trial.subject, trial.object, trial.number), trial.way) for trial in trials]


def _make_elsewhere(job: tuple[Batch, str | None]) -> tuple[Path, bytes, Made]:
    """Make a batch where its folder may not be, by the same agent. -> the file, its content, what `make_batch` says"""
    batch, known_as = job
    if batch.demonstrator and known_as is not None:
        same_agent(batch.demonstrator, known_as)
    with tempfile.TemporaryDirectory() as folder:
        file, made = make_batch(replace(batch, file=Path(folder, batch.file.name)))
        return batch.file, file.read_bytes(), made


def _make_trials(batch: Batch) -> list[SyntheticTrial]:
    made: dict[str, SyntheticTrial] = {}
    for attempt in range(_ATTEMPTS):
        drawn = {
            id: trial
            for share in batch.shares
            for number in range(share.first, share.first + share.count)
            if (id := replay_id(share.subject.number, share.object, number)) not in made
            if (trial := _draw(batch, share, number, attempt)) is not None
        }
        made |= _demonstrated(drawn, batch) if batch.demonstrator and drawn else drawn
    trials = []
    for share in batch.shares:
        for number in range(share.first, share.first + share.count):
            if (id := replay_id(share.subject.number, share.object, number)) not in made:
                break  # numbers have no gaps
            trials.append(made[id])
    return trials


def _draw(batch: Batch, share: Share, number: int, attempt: int) -> SyntheticTrial | None:
    return draw_trial(batch.seed, share.subject, share.object, number=number, split=share.split, attempt=attempt)


def _demonstrated(drawn: dict[str, SyntheticTrial], batch: Batch) -> dict[str, SyntheticTrial]:
    """Those of the trials that an agent shows how to take, with what it did."""
    names = {trial.object for trial in drawn.values()}
    with tempfile.TemporaryDirectory(dir=batch.file.parent) as folder:
        store = write_store(
            Path(folder, "batch"),
            drawn.values(),
            {name: stored_object(name) for name in sorted(names)},
            licence=LICENCE,
            provenance={},
        )
        agent = find_agent(str(batch.demonstrator))
        demos = demonstrate(store, agent, seed=batch.seed, num_threads=1, progress=False)
    return {id: replace(drawn[id], demo=demo) for id, demo in demos.items()}
