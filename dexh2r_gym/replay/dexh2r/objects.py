"""Objects of a DexH2R dataset: a mesh file and perhaps a urdf, turned into convex parts and a mass.

Only the vertices and faces of an .obj file are read, never the materials and images that it names. Of a urdf only the
mass is read and, where there is no <object>.obj, the name of the mesh: the paths in it belong to another computer.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers import expat

import numpy as np
import trimesh
from numpy.typing import NDArray

from dexh2r_gym.objects.build import load_mesh
from dexh2r_gym.objects.decompose import decompose
from dexh2r_gym.objects.geometry import reduce_hull, union
from dexh2r_gym.replay.untrusted import MAX_MESH, Folder
from dexh2r_gym.replay.write import StoredObject

MAX_MASS = 20.0  # kg, of a thing that is handed over
DENSITY = 500.0  # kg/m^3, of objects whose urdf gives no mass
LICENCE = "CC BY-NC 4.0"


def read_mesh(folder: Folder, name: str) -> tuple[trimesh.Trimesh, float | None]:
    """The mesh of an object, <name>.obj in this folder or what <name>.urdf names, and the urdf's mass in kg or None.

    ReplayError names the file that cannot be used.
    """
    urdf = f"{name}.urdf"
    mass, mesh_name = read_urdf(folder, urdf) if folder.has(urdf) else (None, None)
    key = f"{name}.obj"
    if not folder.has(key) and mesh_name is not None:
        key = mesh_name
    with tempfile.TemporaryDirectory() as work:
        bare = Path(work, "bare.obj")
        write_bare_mesh(folder, key, bare)
        try:
            return load_mesh(bare), mass
        except ValueError as error:
            raise folder.error(key, str(error).removeprefix(f"{bare}: ")) from error


def make_object(mesh: trimesh.Trimesh, mass: float | None, metadata: dict[str, Any]) -> StoredObject:
    """Convex parts of a mesh, with what was done in the metadata. Takes a second, a minute for intricate shapes."""
    pieces, method, excess = decompose(mesh)
    found = {"decomposition": method, "volume_excess": round(excess, 4)}
    return object_of_parts(pieces, mass, metadata | found)


def object_of_parts(
    pieces: Sequence[NDArray[np.float64]], mass: float | None, metadata: dict[str, Any]
) -> StoredObject:
    """An object of convex pieces (V, 3); without a mass, one of `DENSITY`."""
    parts = [reduce_hull(piece) for piece in pieces]
    source = "urdf" if mass is not None else f"{DENSITY:g} kg/m^3"
    if mass is None:
        mass = DENSITY * float(trimesh.Trimesh(*union(parts), process=False).volume)
    return StoredObject(None, parts, mass, metadata | {"licence": LICENCE, "mass": source})


def write_bare_mesh(folder: Folder, key: str, to: Path) -> None:
    """Copy the vertices and faces of an .obj file, and nothing else of it."""
    source = folder.file(key, MAX_MESH)
    with source.open("rb") as lines, to.open("wb") as bare:
        for line in lines:
            if line.startswith((b"v ", b"f ")):
                bare.write(line)


def read_urdf(folder: Folder, key: str) -> tuple[float | None, str | None]:
    """Mass in kg that a urdf gives its links together, and the name of its last mesh file; None where it has none.

    A document type, with which xml can name other files or grow without bound, is refused.
    """
    masses: list[float] = []
    meshes: list[str] = []

    def start(tag: str, attributes: dict[str, Any]) -> None:
        if tag == "mass":
            masses.append(float(attributes["value"]))
        if tag == "mesh":
            meshes.append(PurePosixPath(attributes["filename"].replace("\\", "/")).name)

    def refuse(*_: Any) -> None:
        raise ValueError("a document type is not allowed")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(folder.text(key), True)
    except (expat.ExpatError, KeyError, ValueError) as error:
        reason = f"attribute {error} missing" if isinstance(error, KeyError) else str(error)
        raise folder.error(key, f"cannot be read as a urdf ({reason})") from error
    mass = sum(masses)
    if masses and not (math.isfinite(mass) and 0 < mass <= MAX_MASS):
        raise folder.error(key, f"a mass of {mass} kg, expected above 0 and up to {MAX_MASS:g}")
    return (mass if masses else None), (meshes[-1] if meshes else None)
