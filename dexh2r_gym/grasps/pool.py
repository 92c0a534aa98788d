"""Pools of goal grasps: search, physical test, depth filter and a diverse choice, kept in one small file an object.

File: npz without pickle. `palm_pose` (G, 7) float32, in the object's frame; `joints` (G, 22) float32; `depth` and
`approach` (G,) float32, metres; `released` and `gravity` (G, 6) float32, metres the object moved under each push
(`stability.DIRECTIONS`); `metadata`, JSON text with the object's name, volume, seed and format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.alignment import behind_goal
from dexh2r_gym.grasps.search import search_grasps
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, displacements, is_stable
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER, OPEN_HAND, surface_points
from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.npz import read_npz
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.rotations import quat_angle
from dexh2r_gym.workers import Workers, num_workers

FOLDER = Path(__file__).parent.parent / "assets" / "grasps"
MAX_DEPTH = 0.005  # m
MAX_APPROACH_DEPTH = 0.006  # m
_WAY_POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # parts of the way from a grasp to the point behind it
MAX_GRASPS = 64
_FORMAT = 1
_ROUND = 112  # grasps searched together
_MAX_ROUNDS = 5  # of search
_SPARE = 1.2  # how many more grasps are sought than kept
_SPREAD = (0.04, 0.7)  # m, rad: palms this far apart in position, or in orientation, count as equally different


@dataclass(frozen=True, eq=False)
class GraspPool:
    """G goal grasps of one object, in its frame."""

    palm_pose: Tensor  # (G, 7) float32
    joints: Tensor  # (G, 22) float32, rad
    depth: Tensor  # (G,) float32, m, deepest hand surface point inside of the object
    approach: Tensor  # (G,) float32, m, the same on the way in (`approach_depth`)
    released: Tensor  # (G, 6) float32, m the object moved in the released stability test
    gravity: Tensor  # (G, 6) float32, m the object moved under its own weight
    metadata: dict[str, Any] = field(default_factory=dict)  # object, volume, seed

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def holds_weight(self) -> Tensor:
        """(G,) bool: stable also in the harder test, whichever way is down."""
        return is_stable(self.gravity)

    def save(self, path: str | Path) -> None:
        """Write to an .npz file."""
        arrays = {name: getattr(self, name).numpy() for name in _ARRAYS}
        text = json.dumps(self.metadata | {"format": _FORMAT}, sort_keys=True)
        path = Path(path)
        partial = path.with_suffix(".partial.npz")  # a reader never meets half a file
        np.savez_compressed(partial, **arrays, metadata=np.array(text))
        partial.replace(path)


_ARRAYS = {
    "palm_pose": 7,
    "joints": 22,
    "depth": None,
    "approach": None,
    "released": 6,
    "gravity": 6,
}  # name -> length of the last axis


def make_pool(obj: ObjectModel, *, seed: int = 0, num: int = 40, num_threads: int = 0) -> GraspPool:
    """At most `num` different grasps, each stable in the released test, less than 5 mm deep and free to move in to.

    Rounds of search go on until enough were found that hold the object's weight in every direction. Those are taken
    first, the farthest from one another first; the others only fill up. Raises ValueError if none is found at all.
    """
    if not 1 <= num <= MAX_GRASPS:
        raise ValueError(f"num grasps of a pool must be 1 to {MAX_GRASPS}, got {num}")
    generator = torch.Generator().manual_seed(seed)
    wanted = round(_SPARE * num)
    found: list[tuple[Tensor, ...]] = []
    held = 0
    while held < wanted and len(found) < _MAX_ROUNDS:
        palm_pose, joints = search_grasps(obj, _ROUND, generator)
        depth = grasp_depth(obj, palm_pose, joints)
        approach = approach_depth(obj, palm_pose, joints)
        clear = (depth < MAX_DEPTH) & (approach < MAX_APPROACH_DEPTH)
        palm_pose, joints, depth, approach = palm_pose[clear], joints[clear], depth[clear], approach[clear]
        gravity = displacements(obj, palm_pose, joints, GRAVITY, num_threads)
        found.append((palm_pose, joints, depth, approach, gravity))
        held += int(is_stable(gravity).sum())
    palm_pose, joints, depth, approach, gravity = (torch.cat(x) for x in zip(*found, strict=True))
    order = diverse_order(palm_pose, first=is_stable(gravity))[:wanted]
    palm_pose, joints, depth, approach, gravity = (x[order] for x in (palm_pose, joints, depth, approach, gravity))
    released = displacements(obj, palm_pose, joints, RELEASED, num_threads)
    stable = is_stable(released).nonzero()[:num, 0]
    if len(stable) == 0:
        raise ValueError(f"no stable grasp of {obj.name} found in {len(found) * _ROUND} tries: too large or too thin?")
    arrays = (x[stable].float() for x in (palm_pose, joints, depth, approach, released, gravity))
    metadata = {"object": obj.name, "volume": obj.volume, "seed": seed}
    return GraspPool(**dict(zip(_ARRAYS, arrays, strict=True)), metadata=metadata)


def grasp_depth(obj: ObjectModel, palm_pose: Tensor, joints: Tensor) -> Tensor:
    """Exact depth of the hand's deepest surface point in the object, 0 if none: (G, 7), (G, 22) -> (G,) metres."""
    return obj.penetration(surface_points(palm_pose, joints)[0]).amax(-1)


def approach_depth(obj: ObjectModel, palm_pose: Tensor, joints: Tensor) -> Tensor:
    """Deepest point as in `grasp_depth` along the last 5 cm of a straight way in: (G, 7), (G, 22) -> (G,) metres.

    The hand comes from `alignment.RETREAT` with open fingers, which close as evenly as the palm moves. Palm and
    fingertips lead alike: palm first, the fingertips would have to pass through what they are to wrap.
    """
    depths = []
    for part in _WAY_POINTS:
        depths.append(grasp_depth(obj, behind_goal(palm_pose, part), joints + part * (OPEN_HAND.to(joints) - joints)))
    return torch.stack(depths).amax(0)


def diverse_order(palm_pose: Tensor, first: Tensor) -> Tensor:
    """Order in which to take grasps so that any number of them are spread out in position and rotation: farthest first.

    palm_pose (G, 7); first (G,) bool, those that come before all others. -> (G,) long
    """
    shift = (palm_pose[:, None, :3] - palm_pose[:, :3]).norm(dim=-1) / _SPREAD[0]
    turn = quat_angle(palm_pose[:, None, 3:], palm_pose[:, 3:]) / _SPREAD[1]
    different = shift.square() + turn.square()  # (G, G)
    nearest = torch.full_like(different[0], 1e3)
    order = []
    for _ in range(len(palm_pose)):
        best = int((nearest + 1e6 * first).argmax())
        order.append(best)
        nearest = torch.minimum(nearest, different[best])
        nearest[best] = -torch.inf
    return torch.tensor(order, dtype=torch.long)


@cache
def load_pool(name: str) -> GraspPool:
    """Goal grasps of a packaged object; the same instance every time."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        names = sorted(p.stem for p in FOLDER.glob("*.npz"))
        hint = did_you_mean(name, names)
        raise ValueError(f"no goal grasps for object {name!r}{hint}; there are some for: {', '.join(names) or 'none'}")
    return read_pool(path)


def read_pool(path: str | Path) -> GraspPool:
    """A pool from the file `GraspPool.save` wrote; a damaged one is refused with the reason."""
    data, metadata = read_npz(path, _ARRAYS, "grasp file")
    if metadata.pop("format", None) != _FORMAT:
        raise ValueError(f"{path}: grasp file of another format; this version reads format {_FORMAT}")
    count = len(data["joints"])
    for key, last in _ARRAYS.items():
        shape = (count,) if last is None else (count, last)
        if data[key].shape != shape:
            raise ValueError(f"{path}: {key} has shape {data[key].shape}, expected {shape}")
        if not np.isfinite(data[key]).all() and key in ("palm_pose", "joints", "depth", "approach"):
            raise ValueError(f"{path}: {key} of grasp {int((~np.isfinite(data[key])).nonzero()[0][0])} is not finite")
    arrays = {key: torch.from_numpy(data[key].astype(np.float32)) for key in _ARRAYS}
    pool = GraspPool(**arrays, metadata=metadata)
    off = (pool.palm_pose[:, 3:].norm(dim=-1) - 1).abs() > 1e-4
    if off.any():
        raise ValueError(f"{path}: palm_pose of grasp {int(off.nonzero()[0])} is not a unit quaternion")
    out = ((pool.joints > JOINT_UPPER + 1e-4) | (pool.joints < JOINT_LOWER - 1e-4)).any(-1)
    if out.any():
        raise ValueError(f"{path}: joints of grasp {int(out.nonzero()[0])} are beyond their limits")
    return pool


def make_pools(
    objects: Sequence[str] = (),
    *,
    missing: bool = False,
    num: int = 40,
    seed: int = 0,
    out: Path = FOLDER,
    workers: int | None = None,
) -> None:
    """Make the goal grasps of objects of the library anew: search, physical test, diverse choice. About a minute each.

    Args:
        objects: names of objects; none for all of the library.
        missing: only those that have no file in OUT yet.
        num: grasps to keep of each object, at most 64.
        seed: same seed, same grasps.
        out: folder to write OBJECT.npz to; by default the package's own.
        workers: processes; None for one a core.
    """
    names = list(objects) or object_names()
    for name in names:
        load_object(name)  # an unknown name is refused before the work begins
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in names if not (missing and (out / f"{name}.npz").exists())]
    with Workers(min(num_workers(workers), max(1, len(names)))) as pool:
        make = partial(_make_file, seed=seed, num=num, out=out)
        for line in tqdm(pool.map(make, names), total=len(names), unit="object"):
            tqdm.write(line)


def _make_file(name: str, seed: int, num: int, out: Path) -> str:
    """Make one object's pool and its file; a line that says how it went."""
    pool = make_pool(load_object(name), seed=seed, num=num, num_threads=1)
    pool.save(out / f"{name}.npz")
    held, deepest = int(pool.holds_weight.sum()), 1000 * float(pool.depth.max())
    return f"{name}: {len(pool)} grasps, {held} hold its weight in every direction, at most {deepest:.1f} mm deep"
