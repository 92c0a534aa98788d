"""Made-up MANO files: everything as in MPI's MANO_RIGHT.pkl and MANO_LEFT.pkl except for the hand in them.

Same keys, shapes, dtypes and faces with an open wrist; same classes, written as Python 2 wrote them. The hand is the
open hand with half of its vertices, its own shape directions mixed at random, and random pose directions.
"""

from __future__ import annotations

import heapq
import pickle
import struct
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse
from scipy.optimize import nnls

from dexh2r_gym.giver.hand import PARENTS, GiverHand

WRIST = np.array([0.09566994, 0.00638343, 0.0061863])  # where MANO's right wrist is in its rest frame
NUM_VERTICES, NUM_FACES = 778, 1538


def write_mano_file(folder: str | Path, side: str, seed: int = 0, **changes: Any) -> Path:
    """Write MANO_RIGHT.pkl or MANO_LEFT.pkl into a folder. changes: other values for keys, None leaves a key out."""
    data = mano_data(side, seed)
    ch, select = _chumpy_classes()
    twice = np.concatenate([data["shapedirs"], 0.1 * data["shapedirs"]], axis=-1)  # (778, 3, 20), the file's own
    index = np.arange(twice.size).reshape(twice.shape)[..., :10]
    data["shapedirs"] = select(a=ch(x=twice), idxs=index.ravel(), preferred_shape=index.shape)
    data = {key: value for key, value in (data | changes).items() if value is not None}
    path = Path(folder) / f"MANO_{side.upper()}.pkl"
    names = {f"chumpy.{m}": module for m, module in (("ch", _module(Ch=ch)), ("reordering", _module(Select=select)))}
    before = {name: sys.modules.get(name) for name in ("chumpy", *names)}
    sys.modules |= {"chumpy": ModuleType("chumpy"), **names}
    try:
        with path.open("wb") as file:
            _Python2Pickler(file, protocol=2).dump(data)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path


@cache
def _mano_data(side: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mirror = np.array([1.0 if side == "right" else -1.0, 1.0, 1.0])
    kept, faces = _coarse_mesh()
    hand = GiverHand()
    rest = hand.rest_vertices.numpy()[kept]
    weights = hand.weights.numpy()[kept]
    own = [GiverHand("right", np.eye(10)[i]).rest_vertices.numpy()[kept] - rest for i in range(10)]
    mix = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    bend = np.repeat((weights * (1 - weights))[:, None, 1:], 9, axis=-1)  # where the skin of a joint folds
    poses = 0.004 * (bend + 0.01) * rng.normal(size=(NUM_VERTICES, 3, 135))
    components = np.linalg.qr(rng.normal(size=(45, 45)))[0]
    joints = hand.rest_joints.numpy() + WRIST
    template = rest + WRIST
    regressor = np.stack([_joint_weights(template, joint) for joint in joints])
    return {
        "hands_coeffs": rng.normal(size=(1554, 45)),
        "J": (regressor @ template) * mirror,
        "hands_components": components,
        "hands_mean": 0.2 * rng.normal(size=45),
        "shapedirs": np.stack(own, axis=-1) @ mix * mirror[:, None],
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "weights": weights,
        "f": (faces if side == "right" else faces[:, ::-1].copy()).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(16)]),
        "bs_type": "lrotmin",
        "posedirs": poses * mirror[:, None],
        "v_template": template * mirror,
        "bs_style": "lbs",
    }


def mano_data(side: str, seed: int = 0) -> dict[str, Any]:
    """What `write_mano_file` writes, as plain arrays (the joint regressor a scipy matrix)."""
    return dict(_mano_data(side, seed))


@cache
def _coarse_mesh() -> tuple[np.ndarray, np.ndarray]:
    """The open hand with 778 of its vertices and an open wrist -> (778,) which vertices, (1538, 3) faces.

    The shortest edges are collapsed into one of their ends, if that keeps the surface closed and turns no face over.
    """
    hand = GiverHand()
    points = hand.rest_vertices.numpy()
    around: dict[int, set[tuple[int, ...]]] = {i: set() for i in range(len(points))}
    for face in map(tuple, hand.faces.tolist()):
        for i in face:
            around[i].add(face)

    def neighbours(i: int) -> set[int]:
        return {j for face in around[i] for j in face} - {i}

    def cost(i: int, j: int) -> tuple[float, int, int]:
        return float(np.linalg.norm(points[i] - points[j])), i, j

    def normal(face: tuple[int, ...]) -> np.ndarray:
        a, b, c = points[list(face)]
        return np.cross(b - a, c - a)

    queue = [cost(i, j) for i in around for j in neighbours(i)]
    heapq.heapify(queue)
    while len(around) > NUM_VERTICES:
        _, keep, gone = heapq.heappop(queue)
        if keep not in around or gone not in around or keep not in neighbours(gone):
            continue
        if len(neighbours(keep) & neighbours(gone)) != 2:
            continue
        stays = [face for face in around[gone] if keep not in face]
        moved = [tuple(keep if i == gone else i for i in face) for face in stays]
        if any(normal(a) @ normal(b) <= 0 for a, b in zip(stays, moved, strict=True)):
            continue
        for face in around[gone]:
            for i in face:
                if i != gone:
                    around[i].discard(face)
        del around[gone]
        for face in moved:
            for i in face:
                around[i].add(face)
        for i in neighbours(keep):
            heapq.heappush(queue, cost(i, keep))
            heapq.heappush(queue, cost(keep, i))

    faces = {face for own in around.values() for face in own}
    hole = [max(faces, key=lambda face: points[list(face)].min(0)[0])]  # at the forearm's end
    rim = set(hole[0])
    while len(faces) - len(hole) > NUM_FACES:  # a disk grows by faces that bring a vertex each
        edges = [{face[i], face[i - 1]} for face in hole for i in range(3)]
        more = [face for face in faces if len(set(face) & rim) == 2 and set(face) & rim in edges]
        hole.append(max(more, key=lambda face: points[list(face)].min(0)[0]))
        rim |= set(hole[-1])
    kept = np.array(sorted(around))
    return kept, np.searchsorted(kept, np.array(sorted(faces - set(hole))))


def _joint_weights(points: np.ndarray, joint: np.ndarray, count: int = 40) -> np.ndarray:
    """(V,) weights of at least 0 that sum to about 1 and average the nearest points to about the joint."""
    near = np.argsort(np.linalg.norm(points - joint, axis=1))[:count]
    equations = np.concatenate([(points[near] - joint).T, np.full((1, count), 0.1)])
    out = np.zeros(len(points))
    out[near] = nnls(equations, np.array([0, 0, 0, 0.1]))[0]
    return out / out.sum()


def _chumpy_classes() -> tuple[type, type]:
    """Classes that pickle as chumpy's: their state is a dictionary of what they were made of and chumpy's own notes."""

    def init(self, **parts):
        self.__dict__ |= {"_dirty_vars": set(parts), "_itr": None, "_depends_on_deps": {}, **parts}

    return (
        type("Ch", (), {"__init__": init, "__module__": "chumpy.ch"}),
        type("Select", (), {"__init__": init, "__module__": "chumpy.reordering"}),
    )


def _module(**content: Any) -> ModuleType:
    module = ModuleType("made up")
    module.__dict__.update(content)
    return module


_Pickler: Any = pickle._Pickler


class _Python2Pickler(_Pickler):
    """Writes text and bytes both as Python 2's strings, and the names its numpy and scipy had."""

    dispatch = dict(_Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode("ascii") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module, name = obj.__module__, name or obj.__qualname__
        module = module.replace("numpy._core", "numpy.core").replace("scipy.sparse._csc", "scipy.sparse.csc")
        module = {"copyreg": "copy_reg", "builtins": "__builtin__"}.get(module, module)
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)
