"""Many tested grasps of many objects: what generators of grasps learn from.

A folder with one npz an object, without pickle: `palm_pose` (G, 7) float32, object frame, metres; `joints` (G, 22)
float32, rad; `depth` (G,) float32, metres, exact; `released` (G, 6) float32, metres the object moved in the released
stability test; `metadata`, JSON text with object, seed, number of tries, and format. All that were tried are kept, the
bad ones too: `valid` says which passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.grasps.scores import grasp_depth
from dexh2r_gym.grasps.search import SearchOptions, search_grasps
from dexh2r_gym.grasps.stability import RELEASED, displacements, is_stable
from dexh2r_gym.npz import read_npz
from dexh2r_gym.objects import ObjectModel, load_object
from dexh2r_gym.objects.random_shapes import random_shape
from dexh2r_gym.workers import Workers, num_workers

MAX_DEPTH = 0.005  # m, of a grasp to learn from
SHAPE_PREFIX = "shape_"
_KEYS = {"palm_pose": (7,), "joints": (22,), "depth": (), "released": (6,)}
_FORMAT = 1
_ROUND = 256  # grasps searched together


@dataclass(frozen=True, eq=False)
class TriedGrasps:
    """G grasps of one object that were searched and tested."""

    palm_pose: Tensor  # (G, 7) float32, object frame
    joints: Tensor  # (G, 22) float32, rad
    depth: Tensor  # (G,) float32, m
    released: Tensor  # (G, 6) float32, m
    metadata: dict[str, Any]

    @property
    def valid(self) -> Tensor:
        """(G,) bool: stable under all six pushes and less than 5 mm deep."""
        return is_stable(self.released) & (self.depth < MAX_DEPTH)


def find_shape(name: str) -> ObjectModel:
    """An object of the library, or a random shape by its name `shape_00012`. ValueError for another name."""
    return random_shape(int(name.removeprefix(SHAPE_PREFIX))) if _is_shape(name) else load_object(name)


def _is_shape(name: str) -> bool:
    return name.startswith(SHAPE_PREFIX) and name.removeprefix(SHAPE_PREFIX).isdigit()


def shape_names(count: int) -> list[str]:
    """Names of the first `count` random shapes."""
    return [f"{SHAPE_PREFIX}{number:05d}" for number in range(count)]


def try_grasps(obj: ObjectModel, num: int, seed: int, across: float = 0.25) -> TriedGrasps:
    """`num` grasps of an object, searched from a part `across` of deliberate approaches, and tested; one thread."""
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, ...]] = []
    for first in range(0, num, _ROUND):
        palm_pose, joints = search_grasps(obj, min(_ROUND, num - first), generator, SearchOptions(across=across))
        moved = displacements(obj, palm_pose, joints, RELEASED, num_threads=1)
        found.append((palm_pose, joints, grasp_depth(obj, palm_pose, joints), moved))
    palm_pose, joints, depth, moved = (torch.cat(x).float() for x in zip(*found, strict=True))
    metadata = {"object": obj.name, "volume": obj.volume, "seed": seed, "across": across}
    return TriedGrasps(palm_pose, joints, depth, moved, metadata)


def write_tried(grasps: TriedGrasps, path: Path) -> None:
    """One file, whole or not at all."""
    arrays: dict[str, Any] = {key: getattr(grasps, key).numpy() for key in _KEYS}
    partial_path = path.with_suffix(".partial.npz")
    text = json.dumps(grasps.metadata | {"format": _FORMAT}, sort_keys=True)
    np.savez_compressed(partial_path, **arrays, metadata=np.array(text))
    partial_path.replace(path)


def read_tried(path: Path) -> TriedGrasps:
    """What `write_tried` wrote; a damaged file is refused with the reason."""
    data, metadata = read_npz(path, _KEYS, "file of tried grasps")
    if metadata.pop("format", None) != _FORMAT:
        raise ValueError(f"{path}: tried grasps of another format; this version reads format {_FORMAT}")
    count = len(data["joints"])
    for key, rest in _KEYS.items():
        if data[key].shape != (count, *rest):
            raise ValueError(f"{path}: {key} has shape {data[key].shape}, expected {(count, *rest)}")
    arrays = {key: torch.from_numpy(data[key].astype(np.float32)) for key in _KEYS}
    if not (arrays["palm_pose"].isfinite().all() and arrays["joints"].isfinite().all()):
        raise ValueError(f"{path}: holds grasps with NaN or infinite numbers")
    return TriedGrasps(**arrays, metadata=metadata)


def read_dataset(folder: Path) -> list[TriedGrasps]:
    """All files of a folder, in the order of their names. ValueError where there is none."""
    paths = sorted(p for p in Path(folder).glob("*.npz") if not p.name.endswith(".partial.npz"))
    if not paths:
        raise ValueError(f"no grasps to learn from in {folder}; make some with: dexh2r grasps data --out {folder}")
    return [read_tried(path) for path in paths]


def make_dataset(names: Sequence[str], out: Path, *, num: int, seed: int = 0, workers: int | None = None) -> None:
    """Try `num` grasps of each object named and write OUT/NAME.npz; files that are there are kept.

    Names are those of the library or of random shapes (`shape_00012`). Progress is shown an object at a time.
    ValueError, before the work begins: an unknown name, `num` below 1, or a file made with another `num` or seed.
    """
    if num < 1:
        raise ValueError(f"num grasps to try must be at least 1, got {num}")
    for name in names:
        if not _is_shape(name):
            load_object(name)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [name for name in names if not _is_made(out / f"{name}.npz", num, seed)]
    valid = tried = 0
    with (
        Workers(min(num_workers(workers), max(1, len(jobs)))) as pool,
        tqdm(total=len(names), initial=len(names) - len(jobs), unit="object") as bar,
    ):
        for good, count in pool.map(partial(_make_file, out=out, num=num, seed=seed), jobs):
            valid, tried = valid + good, tried + count
            bar.set_postfix_str(f"{valid} of {tried} grasps valid")
            bar.update()


def _is_made(path: Path, num: int, seed: int) -> bool:
    if not path.exists():
        return False
    had = read_tried(path)
    if (len(had.joints), had.metadata["seed"]) != (num, seed):
        made = f"num {len(had.joints)} and seed {had.metadata['seed']}, not {num} and {seed}"
        raise ValueError(f"{path} was made with {made}; remove it, or choose another folder")
    return True


def _make_file(name: str, out: Path, num: int, seed: int) -> tuple[int, int]:
    grasps = try_grasps(find_shape(name), num, seed)
    write_tried(grasps, out / f"{name}.npz")
    return int(grasps.valid.sum()), len(grasps.joints)
