"""Pools of many objects, of the library or from mesh files, each made into a file of its own."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from dexh2r_gym.grasps.make import NUM_GRASPS, check_num, make_pool
from dexh2r_gym.grasps.pool import FOLDER, read_pool
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.objects.build import from_mesh, load_mesh
from dexh2r_gym.workers import Workers, num_workers

MESH_ENDINGS = (".obj", ".stl", ".ply", ".off", ".glb", ".gltf")
_LOOK = 0.5  # s between two looks at how far the workers are


@dataclass(frozen=True)
class MeshOptions:
    """How mesh files become objects; see `objects.build.from_mesh`."""

    scale: float = 1.0  # to metres
    mass: float | None = None  # kg; None: 500 kg/m^3
    vessel: bool = False  # hollow, to be closed


@dataclass(frozen=True)
class _Job:
    name: str
    row: int  # of the table of progress
    mesh: Path | None  # None: an object of the library
    options: MeshOptions
    seed: int
    num: int

    @property
    def asked(self) -> dict[str, Any]:
        """What the pool's metadata must say of how it was made for it to be the same."""
        mesh = {"mesh": self.mesh.name, **asdict(self.options)} if self.mesh else {}
        return {"object": self.name, "seed": self.seed, "num": self.num} | mesh


def make_pools(
    objects: Sequence[str | Path] = (),
    *,
    out: Path = FOLDER,
    num: int = NUM_GRASPS,
    seed: int = 0,
    mesh: MeshOptions = MeshOptions(),
    name: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> None:
    """Make goal grasps and write OUT/NAME.npz for each object: search, physical test, diverse choice.

    What was made before with the same arguments is kept, so a run that was stopped goes on. An object without any
    stable grasp does not stop the others.

    Args:
        objects: names of the library, paths of mesh files (obj, stl, ply ...); none for all of the library.
        out: folder; by default the package's own.
        num: grasps to keep of each object, 1 to 512.
        seed: same seed, same grasps.
        mesh: how mesh files become objects.
        name: of a single mesh; None: its file's name.
        overwrite: make also those anew that are there.
        workers: processes; None for one a core.

    Raises:
        FileNotFoundError: no such mesh file.
        ValueError: before the search begins: `num` out of range, an unknown name, a file that is no mesh, one made with
            other arguments before. After it: objects of which no grasp was found.
    """
    check_num(num)
    jobs = _jobs(list(objects) or object_names(), name, mesh, seed, num)
    out.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if overwrite or not _is_made(job, out)]
    if len(todo) < len(jobs):
        tqdm.write(f"{len(jobs) - len(todo)} of {len(jobs)} are in {out} and kept")
    if not todo:
        return
    count = min(num_workers(workers), len(todo))
    failures = []
    with Workers(count) as pool, _progress(len(jobs), num * len(todo)) as table:
        make = partial(_make_file, out=out, table=table, num_threads=1 if count > 1 else 0)
        for line, failed in pool.map(make, todo):
            tqdm.write(line)
            if failed:
                failures.append(line)
    if failures:
        raise ValueError(f"no goal grasps made for {len(failures)} of {len(jobs)} objects:\n" + "\n".join(failures))


def _jobs(objects: Sequence[str | Path], name: str | None, options: MeshOptions, seed: int, num: int) -> list[_Job]:
    jobs: list[_Job] = []
    for row, given in enumerate(objects):
        path = Path(given)
        if path.suffix.lower() in MESH_ENDINGS:
            load_mesh(path, options.scale)  # what is no mesh, or not in metres, is refused now
            jobs.append(_Job(name or path.stem, row, path, options, seed, num))
        elif path.suffix:
            raise ValueError(f"{path} is no mesh file, which end in {', '.join(MESH_ENDINGS)}; objects have no ending")
        else:
            jobs.append(_Job(load_object(str(given)).name, row, None, options, seed, num))
    meshes = [job for job in jobs if job.mesh]
    if name is not None and (len(jobs) != 1 or not meshes):
        raise ValueError("a name can be given to a single mesh file; several are named after their files")
    if not meshes and options != MeshOptions():
        raise ValueError(f"scale, mass and vessel are for mesh files ({', '.join(MESH_ENDINGS)}); none was given")
    names = [job.name for job in jobs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"more than one object is called {', '.join(twice)}: make them one by one, with a name each")
    return jobs


def _is_made(job: _Job, out: Path) -> bool:
    path = out / f"{job.name}.npz"
    if not path.exists():
        return False
    had = read_pool(path).metadata
    other = [f"{key} {had.get(key)} instead of {value}" for key, value in job.asked.items() if had.get(key) != value]
    if job.mesh is None and had.get("volume") != load_object(job.name).volume:
        other.append("another shape of the object")
    if other:
        raise ValueError(f"{path} was made with {', '.join(other)}; overwrite it, or choose another folder")
    return True


def _make_file(job: _Job, out: Path, table: Path, num_threads: int) -> tuple[str, bool]:
    """Make one object's pool and its file. -> line that says how it went, whether it failed"""
    done = np.memmap(table, np.int64, "r+")

    def progress(count: int) -> None:
        done[job.row] = count

    try:
        obj, remark = _object(job)
        pool = make_pool(obj, seed=job.seed, num=job.num, num_threads=num_threads, progress=progress)
    except ValueError as error:
        return f"{job.name}: {error}", True
    pool.metadata.update(job.asked)
    pool.save(out / f"{job.name}.npz")
    progress(job.num)
    held, deepest = int(pool.holds_weight.sum()), 1000 * float(pool.depth.max())
    line = f"{job.name}: {len(pool)} grasps, {held} hold its weight in every direction, at most {deepest:.1f} mm deep"
    return line + remark, False


def _object(job: _Job) -> tuple[ObjectModel, str]:
    """The object, and for a mesh what was made of it."""
    if job.mesh is None:
        return load_object(job.name), ""
    options = job.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below, with what to do
        obj = from_mesh(job.mesh, name=job.name, mass=options.mass, scale=options.scale, vessel=options.vessel)
    size = " x ".join(f"{100 * e:.1f}" for e in obj.extents)
    excess = obj.metadata["volume_excess"]
    remark = f"\n  {job.mesh} taken as {size} cm, {obj.mass:.3g} kg, {len(obj.parts)} convex parts"
    remark += f" ({obj.metadata['decomposition']}), {100 * excess:+.0f}% volume"
    if not load_mesh(job.mesh, options.scale).is_watertight:
        remark += "\n  the mesh is not watertight: the parts close it, so look that it is no open bowl or shell"
    if excess > 0.1 and not options.vessel:
        remark += (
            "\n  the parts fill more than the mesh does: say --vessel for a hollow thing, "
            "else pip install 'dexh2r-gym[mesh]' and mend the mesh if it is not watertight"
        )
    return obj, remark


@contextmanager
def _progress(rows: int, total: int) -> Iterator[Path]:
    """A bar of the grasps found, from a table on disk in which each worker notes how far it is; the table's path."""
    with TemporaryDirectory() as folder, tqdm(total=total, unit="grasp") as bar:
        path = Path(folder) / "found"
        found = np.memmap(path, np.int64, "w+", shape=rows)
        over = threading.Event()

        def look() -> None:
            bar.update(int(found.sum()) - bar.n)

        def follow() -> None:
            while not over.wait(_LOOK):
                look()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            thread.join()
            look()
