"""Pools of goal grasps: those of one object, tested, kept in one small file.

File: npz without pickle. `palm_pose` (G, 7) float32, in the object's frame; `joints` (G, 22) float32; `depth` and
`approach` (G,) float32, metres; `released` and `gravity` (G, 6) float32, metres the object moved under each push
(`stability.DIRECTIONS`); `metadata`, JSON text with the object's name and volume, how the pool was asked for, and
format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.grasps.stability import is_stable
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER
from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.npz import read_npz
from dexh2r_gym.rotations import quat_angle

FOLDER = Path(__file__).parent.parent / "assets" / "grasps"
MAX_GRASPS = 512  # as many goals as a trial may have
_FORMAT = 1
_SPREAD = (0.04, 0.7)  # m, rad: palms this far apart in position, or in orientation, count as equally different


@dataclass(frozen=True, eq=False)
class GraspPool:
    """G goal grasps of one object, in its frame."""

    palm_pose: Tensor  # (G, 7) float32
    joints: Tensor  # (G, 22) float32, rad
    depth: Tensor  # (G,) float32, m, deepest hand surface point inside of the object
    approach: Tensor  # (G,) float32, m, the same on the way in (`make.approach_depth`)
    released: Tensor  # (G, 6) float32, m the object moved in the released stability test
    gravity: Tensor  # (G, 6) float32, m the object moved under its own weight
    metadata: dict[str, Any] = field(default_factory=dict)  # object, volume, seed, num, tries ...

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def holds_weight(self) -> Tensor:
        """(G,) bool: stable also in the harder test, whichever way is down."""
        return is_stable(self.gravity)

    @property
    def spacing(self) -> float:
        """How far a grasp is from the one most like it, on average, metres; nan of fewer than two.

        Distance of the palms; turned by 0.7 rad against each other they count as 4 cm apart.
        """
        if len(self) < 2:
            return float("nan")
        apart = difference(self.palm_pose).fill_diagonal_(torch.inf)
        return _SPREAD[0] * float(apart.amin(1).mean())

    def select(self, rows: Tensor) -> GraspPool:
        """Some of the grasps, rows (K,) long or (G,) bool."""
        return replace(self, **{key: getattr(self, key)[rows] for key in _ARRAYS})

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


def joined(first: GraspPool, second: GraspPool) -> GraspPool:
    """The grasps of both, with the metadata of the first."""
    both: dict[str, Any] = {key: torch.cat((getattr(first, key), getattr(second, key))) for key in _ARRAYS}
    return replace(first, **both)


def difference(palm_pose: Tensor) -> Tensor:
    """How different each two palms (G, 7) are: (G, G), see `difference_between`."""
    return difference_between(palm_pose[:, None], palm_pose)


def difference_between(a: Tensor, b: Tensor) -> Tensor:
    """How different palms (..., 7) are from others: (...), 1 for 4 cm apart or turned by 0.7 rad."""
    shift = (a[..., :3] - b[..., :3]).norm(dim=-1) / _SPREAD[0]
    return (shift.square() + (quat_angle(a[..., 3:], b[..., 3:]) / _SPREAD[1]).square()).sqrt()


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
