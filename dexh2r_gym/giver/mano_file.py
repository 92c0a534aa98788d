"""MANO's model files, read without running anything that is in them.

MANO_RIGHT.pkl and MANO_LEFT.pkl are pickles of Python 2 that hold numpy arrays, a scipy.sparse matrix and chumpy
expressions. A pickle may call whatever it can name, so here every name it may use stands for an inert record of what it
was called with; all other names are refused. Arrays are made from the records afterwards, only those that are needed,
each from bytes that the file really holds. The arrays are used as they are, as smplx does, in both hands.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver.shape import PARENTS, SIDES

FOLDER_VARIABLE = "DEXH2R_MANO"
MAX_FILE_SIZE = 16 * 2**20  # bytes; MANO's are 3.8 MB
NUM_VERTICES, NUM_BETAS, NUM_POSE = 778, 10, 135
_SHAPES = {
    "v_template": (NUM_VERTICES, 3),
    "shapedirs": (NUM_VERTICES, 3, NUM_BETAS),
    "posedirs": (NUM_VERTICES, 3, NUM_POSE),
    "J_regressor": (16, NUM_VERTICES),
    "weights": (NUM_VERTICES, 16),
    "hands_components": (45, 45),
    "hands_mean": (45,),
    "f": (None, 3),
    "kintree_table": (2, 16),
}


@dataclass(frozen=True, eq=False)
class ManoModel:
    """One hand's MANO as its file gives it: metres, rest pose flat, float64."""

    template: Tensor  # (778, 3)
    faces: Tensor  # (F, 3) int64; the wrist is open
    shape_directions: Tensor  # (778, 3, 10), metres per unit of beta
    pose_directions: (
        Tensor  # (778, 3, 135), per entry of rotation matrices less the identity, joints 1 to 15 row by row
    )
    joint_regressor: Tensor  # (16, 778)
    weights: Tensor  # (778, 16)
    components: Tensor  # (45, 45), principal components of the pose, one a row
    mean_pose: Tensor  # (45,) axis-angle; not added to poses that are flat by convention


def mano_path(side: str) -> Path:
    """Where the file of "right" or "left" is. FileNotFoundError says how to get it, ValueError a side that is none."""
    if side not in SIDES:
        raise ValueError(f"side of a hand is {side!r}; valid: {', '.join(SIDES)}")
    name = f"MANO_{side.upper()}.pkl"
    folder = os.environ.get(FOLDER_VARIABLE)
    how = f"MANO is free for research at https://mano.is.tue.mpg.de; set ${FOLDER_VARIABLE} to the folder of {name}"
    if not folder:
        raise FileNotFoundError(f"${FOLDER_VARIABLE} is not set. {how}")
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}. {how}")
    return path


def load_mano(side: str) -> ManoModel:
    """MANO of "right" or "left" from the folder $DEXH2R_MANO, kept while the file stays the same.

    Raises FileNotFoundError where there is none, ValueError naming the file and what is wrong with it.
    """
    path = mano_path(side)
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> ManoModel:
    try:
        return _model(_read(path))
    except _Damaged as error:
        raise ValueError(f"{path}: {error}") from error.__cause__


class _Damaged(Exception):
    """What is wrong with a file, in words for its user."""


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise _Damaged(f"larger than {MAX_FILE_SIZE >> 20} MiB; MANO's files have 3.8 MB")
    try:
        content = _Reader(io.BytesIO(data), encoding="latin1").load()
    except _Damaged:
        raise
    except Exception as error:  # bytes that are no pickle can fail in any way
        raise _Damaged(f"truncated, or no pickle ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise _Damaged("holds something other than a dictionary")
    if missing := _SHAPES.keys() - content.keys():
        raise _Damaged(f"lacks {', '.join(sorted(missing))}; a MANO file has {', '.join(_SHAPES)}")
    return content


def _model(content: dict[str, Any]) -> ManoModel:
    arrays = {}
    for key, shape in _SHAPES.items():
        try:
            array = _array(content[key])
        except _Damaged as error:
            raise _Damaged(f"{key}: {error}") from None
        except Exception as error:  # a record of a call whose arguments are not an array's
            raise _Damaged(f"{key}: not an array ({type(error).__name__}: {error})") from error
        if key == "shapedirs":
            array = array[..., :NUM_BETAS]
        if array.ndim != len(shape) or any(m not in (None, n) for n, m in zip(array.shape, shape, strict=True)):
            raise _Damaged(f"{key} has shape {array.shape} instead of {shape}")
        kind = "iu" if key in ("f", "kintree_table") else "f"
        if array.dtype.kind not in kind:
            raise _Damaged(f"{key} has dtype {array.dtype}")
        if not np.isfinite(array).all():
            raise _Damaged(f"{key} has values that are not finite")
        arrays[key] = array
    faces, parents = arrays["f"], arrays["kintree_table"][0, 1:]
    if faces.size == 0 or faces.min() < 0 or faces.max() >= NUM_VERTICES:
        raise _Damaged(f"f names vertices outside of 0 to {NUM_VERTICES - 1}")
    if not np.array_equal(parents, PARENTS[1:]):
        raise _Damaged(f"kintree_table has parents {parents.tolist()} instead of {list(PARENTS[1:])}")
    if not np.allclose(arrays["weights"].sum(1), 1, atol=1e-3):
        raise _Damaged("weights of a vertex do not sum to 1")
    floats = {k: torch.from_numpy(np.array(a, dtype=np.float64)) for k, a in arrays.items() if a.dtype.kind == "f"}
    return ManoModel(
        template=floats["v_template"],
        faces=torch.from_numpy(faces.astype(np.int64)),
        shape_directions=floats["shapedirs"],
        pose_directions=floats["posedirs"],
        joint_regressor=floats["J_regressor"],
        weights=floats["weights"],
        components=floats["hands_components"],
        mean_pose=floats["hands_mean"],
    )


class _Record:
    """Stands for an object of the file: what its class was called with and the state it was given, nothing more."""

    args: tuple = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args


class _Array(_Record): ...


class _Dtype(_Record): ...


class _Sparse(_Record): ...


class _Bytes(_Record): ...


class _Ch(_Record): ...


class _Select(_Record): ...


def _reconstructor(cls: Any, base: Any, state: Any) -> _Record:
    if not (isinstance(cls, type) and issubclass(cls, _Record)):
        raise _Damaged("rebuilds an object of no class")
    return cls()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Record,
    ("numpy", "dtype"): _Dtype,
    ("scipy.sparse.csc", "csc_matrix"): _Sparse,
    ("scipy.sparse._csc", "csc_matrix"): _Sparse,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    ("_codecs", "encode"): _Bytes,  # how Python 3 writes bytes for Python 2
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED |= {(_core, "_reconstruct"): _Array, (_core, "scalar"): _Record}
for _module in ("copy_reg", "copyreg"):
    _ALLOWED[_module, "_reconstructor"] = _reconstructor
for _module in ("__builtin__", "builtins"):
    _ALLOWED |= {(_module, "object"): _Record, (_module, "set"): _Record}


# The unpickler in Python: the faster one in C makes room for as many objects as a file says that it holds.
_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):
    dispatch: ClassVar[dict] = dict(_Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # makes room for as many bytes as the file says

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Damaged(f"asks for {module}.{name}, which no MANO file needs; refused") from None

    def load_build(self) -> None:
        """Give state to a record; pickle itself would set attributes of anything."""
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, _Record):
            raise _Damaged(f"sets attributes of {record!r}; refused")
        record.state = state

    dispatch[pickle.BUILD[0]] = load_build


def _array(value: Any) -> np.ndarray:
    """The array that a record stands for."""
    if isinstance(value, _Ch):
        value = value.state["x"]
    if isinstance(value, _Select):  # chumpy's view: elements of a flattened array
        source = value.state["a"]
        flat, index = (_numbers(x.state["x"] if isinstance(x, _Ch) else x) for x in (source, value.state["idxs"]))
        if index.size and (index.min() < 0 or index.max() >= flat.size):
            raise _Damaged("selects elements that are not there")
        return flat.reshape(-1)[index.reshape(-1)].reshape(value.state.get("preferred_shape", -1))
    if isinstance(value, _Sparse):
        return _dense(value.state)
    return _numbers(value)


def _dense(state: dict[str, Any]) -> np.ndarray:
    """A matrix in compressed columns, of the joint regressor's shape alone."""
    shape = tuple(state["_shape"])
    if shape != _SHAPES["J_regressor"]:
        raise _Damaged(f"has shape {shape} instead of {_SHAPES['J_regressor']}")
    data, rows, starts = (_numbers(state[k]) for k in ("data", "indices", "indptr"))
    counts = np.diff(starts)
    sound = starts.shape == (shape[1] + 1,) and starts[0] == 0 and starts[-1] == len(data) and (counts >= 0).all()
    if not (sound and rows.shape == data.shape and (rows >= 0).all() and (rows < shape[0]).all()):
        raise _Damaged("not a sound sparse matrix")
    out = np.zeros(shape)
    np.add.at(out, (rows, np.repeat(np.arange(shape[1]), counts)), data)
    return out


def _numbers(value: Any) -> np.ndarray:
    """A numpy array from the state (version, shape, dtype, column order, bytes) that numpy pickles."""
    if not isinstance(value, _Array):
        raise _Damaged(f"not an array but {type(value).__name__.lstrip('_')}")
    _, shape, dtype, columns_first, data = value.state
    if isinstance(data, _Bytes):
        data = data.args[0]
    data = data.encode("latin1") if isinstance(data, str) else data
    name = dtype.args[0]
    if not (isinstance(dtype, _Dtype) and re.fullmatch(r"f[48]|[iu][1248]", name)):
        raise _Damaged(f"numbers of type {name!r}; allowed: f4, f8 and integers")
    number = np.dtype(name).newbyteorder(">" if dtype.state and dtype.state[1] == ">" else "<")
    if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) * number.itemsize != len(data):
        raise _Damaged(f"an array of shape {tuple(shape)} and dtype {number} from {len(data)} bytes")
    return np.frombuffer(data, number).reshape(shape, order="F" if columns_first else "C")
