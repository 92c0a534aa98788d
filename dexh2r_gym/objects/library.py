"""The packaged objects and their files: one npz an object, no pickle, a few ten kilobytes.

Keys: `parts` (all hull vertices one after another) and `part_sizes`; `vertices`, `faces` (surface of the union);
`visual_vertices`, `visual_faces`; `sdf_steps` (see `grid.encode_grid`), `sdf_origin`; `properties` (mass, volume,
grid spacing), `center_of_mass`, `inertia`; `metadata` (JSON text, with `name`; things with a handle have
`handle`, the `low` and `high` corner of a box around it). Surface points are drawn from the surface at load, with a
fixed seed.
"""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.objects.geometry import sample_surface
from dexh2r_gym.objects.grid import decode_grid, encode_grid
from dexh2r_gym.objects.model import MAX_PARTS, ObjectModel

FOLDER = Path(__file__).parent.parent / "assets" / "objects"

_KEYS = {  # key -> (number of axes, length of the last axis or None)
    "parts": (2, 3),
    "part_sizes": (1, None),
    "vertices": (2, 3),
    "faces": (2, 3),
    "visual_vertices": (2, 3),
    "visual_faces": (2, 3),
    "sdf_steps": (3, None),
    "sdf_origin": (1, 3),
    "properties": (1, 3),
    "center_of_mass": (1, 3),
    "inertia": (2, 3),
    "metadata": (0, None),
}


def object_names() -> list[str]:
    """Names of the packaged objects, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


@cache
def load_object(name: str) -> ObjectModel:
    """A packaged object by name; the same instance every time."""
    if name not in (names := object_names()):
        hint = did_you_mean(name, names)
        raise ValueError(f"unknown object {name!r}{hint}; the library has: {', '.join(names)}")
    return read_object(FOLDER / f"{name}.npz")


def write_object(obj: ObjectModel, path: str | Path) -> None:
    """Save an object to an .npz file; its surface points are not kept but drawn again at load."""
    np.savez_compressed(
        path,
        parts=np.concatenate(obj.parts).astype(np.float32),
        part_sizes=np.array([len(p) for p in obj.parts], dtype=np.int32),
        vertices=obj.vertices,
        faces=obj.faces.astype(np.uint16 if len(obj.vertices) < 2**16 else np.int32),
        visual_vertices=obj.visual_vertices,
        visual_faces=obj.visual_faces.astype(np.uint16 if len(obj.visual_vertices) < 2**16 else np.int32),
        sdf_steps=encode_grid(obj.sdf_grid.numpy()),
        sdf_origin=obj.sdf_origin.numpy(),
        properties=np.array([obj.mass, obj.volume, obj.sdf_spacing]),
        center_of_mass=obj.center_of_mass,
        inertia=obj.inertia,
        metadata=np.array(json.dumps({"name": obj.name, **obj.metadata}, sort_keys=True)),
    )


def read_object(path: str | Path) -> ObjectModel:
    """Load an object from an .npz file written by `write_object`; a damaged file is refused with the reason."""
    data = _checked_arrays(Path(path))
    metadata = json.loads(str(data["metadata"]))
    mass, volume, spacing = data["properties"].tolist()
    points, normals = sample_surface(data["vertices"], data["faces"])
    return ObjectModel(
        name=metadata.pop("name"),
        mass=mass,
        parts=tuple(np.split(data["parts"].astype(np.float64), np.cumsum(data["part_sizes"])[:-1])),
        vertices=data["vertices"].astype(np.float64),
        faces=data["faces"].astype(np.int32),
        points=torch.from_numpy(points),
        normals=torch.from_numpy(normals),
        sdf_grid=torch.from_numpy(decode_grid(data["sdf_steps"])),
        sdf_origin=torch.from_numpy(data["sdf_origin"].astype(np.float32)),
        sdf_spacing=spacing,
        volume=volume,
        center_of_mass=data["center_of_mass"],
        inertia=data["inertia"],
        visual_vertices=data["visual_vertices"].astype(np.float32),
        visual_faces=data["visual_faces"].astype(np.int32),
        metadata=metadata,
    )


def _checked_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not a readable object file: {error}") from error
    missing = sorted(set(_KEYS) - set(data))
    if missing:
        raise ValueError(f"{path}: not an object file, keys missing: {', '.join(missing)}")
    for key, (axes, last) in _KEYS.items():
        array = data[key]
        if array.ndim != axes or (last is not None and array.shape[-1] != last):
            wanted = ("..., " if axes > 1 else "") + str(last) if last else f"{axes} axes"
            raise ValueError(f"{path}: {key} has shape {array.shape}, expected ({wanted})")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: {key} has values that are not finite")
    for key in ("faces", "visual_faces"):
        if data[key].size and not 0 <= data[key].min() <= data[key].max() < len(data[key.replace("faces", "vertices")]):
            raise ValueError(f"{path}: {key} names vertices that do not exist")
    if data["part_sizes"].sum() != len(data["parts"]) or not 1 <= len(data["part_sizes"]) <= MAX_PARTS:
        raise ValueError(
            f"{path}: part_sizes {data['part_sizes'].tolist()} do not describe 1 to {MAX_PARTS} parts "
            f"of {len(data['parts'])} vertices"
        )
    if (data["properties"] <= 0).any():
        raise ValueError(f"{path}: mass, volume and grid spacing must be positive, got {data['properties'].tolist()}")
    return data
