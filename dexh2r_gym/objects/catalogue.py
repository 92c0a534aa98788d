"""How the packaged library is made: `python -m dexh2r_gym.objects.catalogue SOURCE [NAME ...]`.

SOURCE holds a folder for each mesh of Debian's sweethome3d-furniture 1.8-1 (BlendSwap, Kator Legaz and Scopia models;
CC0 or CC-BY) with `visual.obj` in metres, and their licence texts. Without names, all objects are made. The
parametric ones need no source.
"""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import trimesh
from trimesh.intersections import slice_faces_plane

from dexh2r_gym.objects.build import build_object, load_mesh
from dexh2r_gym.objects.decompose import OVERLAP, slabs
from dexh2r_gym.objects.geometry import filled_volume, union
from dexh2r_gym.objects.library import FOLDER, object_names, read_object, write_object
from dexh2r_gym.objects.model import MAX_PARTS, ObjectModel
from dexh2r_gym.objects.parametric import PARAMETRIC, SOLID_SIDES, VISUAL_SIDES

MAX_VOLUME_ERROR = 0.10
HANDLE_MARGIN = 0.001  # metres between a handle's surface and the box around it
LICENCES = {
    "CC0": "CC0-1.0",
    "CC-BY-3.0": "CC-BY-3.0",
    "CC-BY-3.0-US": "CC-BY-3.0-US",
}


@dataclass(frozen=True)
class Recipe:
    """A source mesh made into an object: mass (kg), axis it is cut across, true size relative to the source's.

    split: an axis and a place on it (metres, after scaling); the mesh on either side of it is cut into parts of its
    own, so that the eye of a handle stays open.
    """

    folder: str
    mass: float
    axis: int = 2
    scale: float = 1.0
    vessel: bool = False  # hollow in the source, closed here
    split: tuple[int, float] | None = None


RECIPES = {
    "soap_dispenser": Recipe("Scopia__com_bath2_soap", 0.40),
    "beer_bottle": Recipe("BlendSwap-CC-BY__beer_bottle", 0.45, scale=1.1, vessel=True),
    "screwdriver": Recipe("Scopia__tournevis", 0.12, axis=0),
    "yogurt_bottle": Recipe("BlendSwap-CC-0__yogurtBottle", 0.45),
    "wine_bottle": Recipe("KatorLegaz__red-wine-bottle-01", 0.90, scale=0.95, vessel=True),
    "spray_bottle": Recipe("KatorLegaz__spray-bottle", 0.50, scale=0.9),
    "flashlight": Recipe("KatorLegaz__flashlight", 0.20, axis=1),
    "power_drill": Recipe("Scopia__perceuse-electrique", 1.00, scale=0.8),
    "hot_dog": Recipe("BlendSwap-CC-0__hotDog", 0.22, axis=0),
    "table_tennis_bat": Recipe("BlendSwap-CC-BY__tableTennisBat", 0.17, axis=1),
    "kitchen_knife": Recipe("BlendSwap-CC-BY__kitchenKnife", 0.18, axis=1),
    "baby_bottle": Recipe("BlendSwap-CC-0__mamadeira", 0.25, scale=1.2),
    "wine_glass": Recipe("BlendSwap-CC-BY__glass", 0.35, vessel=True),
    "tv_remote": Recipe("Scopia__tv-remote-control", 0.12, axis=1),
    "milk_carton": Recipe("BlendSwap-CC-0__tetrapak", 0.70, scale=0.8),
    "shampoo_bottle": Recipe("Scopia__com_bath", 0.45, scale=1.5),
    "soap_bottle": Recipe("Scopia__com_bath2_jabon_pijo", 0.40, scale=1.3),
    "medicine_bottle": Recipe("Scopia__medicoscopia_bottle2", 0.30, scale=1.2),
    "mobile_phone": Recipe("BlendSwap-CC-BY__mobile", 0.19, axis=1, scale=1.45),
    "perfume_bottle": Recipe("BlendSwap-CC-0__flacon", 0.20, scale=1.2),
    "wooden_toy": Recipe("BlendSwap-CC-0__woodToy", 0.25, scale=1.4),
    "reflex_camera": Recipe("Scopia__reflex_camera", 0.80, axis=1),
    "beer_mug": Recipe("BlendSwap-CC-0__beerGlass", 0.60, scale=0.85, vessel=True, split=(0, 0.0215)),
    "moka_pot": Recipe("BlendSwap-CC-BY__espressokettle", 0.45, scale=0.95, vessel=True, split=(0, 0.036)),
}


HANDLES: dict[str, dict[str, tuple[float, float]]] = {  # what one holds it by: limits along axes of its frame, m
    "beer_mug": {"x": (0.047, inf)},
    "dumbbell": {"z": (-0.051, 0.051)},
    "flashlight": {"z": (-0.012, inf)},
    "folded_umbrella": {"z": (-inf, -0.087)},
    "frying_pan": {"z": (-inf, -0.085)},
    "hair_dryer": {"z": (-inf, -0.025)},
    "hairbrush": {"z": (-inf, -0.030)},
    "hammer": {"z": (-inf, -0.010)},
    "kitchen_knife": {"z": (-inf, 0.030)},
    "lint_roller": {"z": (-inf, -0.025)},
    "mallet": {"z": (-inf, 0.000)},
    "maraca": {"z": (-inf, -0.030)},
    "microphone": {"z": (-inf, 0.015)},
    "moka_pot": {"z": (0.052, inf), "y": (-0.030, inf)},
    "paint_brush": {"z": (-inf, -0.010)},
    "power_drill": {"x": (-0.055, 0.022)},
    "rolling_pin": {"z": (-inf, -0.107)},
    "scissors": {"z": (-inf, 0.000)},
    "screwdriver": {"z": (-0.075, inf)},
    "table_tennis_bat": {"z": (-inf, -0.060)},
    "wooden_spoon": {"z": (-inf, 0.010)},
    "wrench": {"z": (-inf, 0.015)},
}


def with_handle(obj: ObjectModel) -> ObjectModel:
    """The object with the box around its handle in its metadata, if HANDLES has one."""
    if obj.name not in HANDLES:
        return obj
    limits = np.array([HANDLES[obj.name].get(axis, (-inf, inf)) for axis in "xyz"]).T
    points = obj.points.numpy()
    points = points[((points >= limits[0]) & (points <= limits[1])).all(1)]
    low = np.maximum(points.min(0) - HANDLE_MARGIN, limits[0])
    high = np.minimum(points.max(0) + HANDLE_MARGIN, limits[1])
    box = {"low": low.round(4).tolist(), "high": high.round(4).tolist()}
    return replace(obj, metadata=obj.metadata | {"handle": box})


def cut(mesh: trimesh.Trimesh, recipe: Recipe) -> list[np.ndarray]:
    """Convex parts of a mesh as its recipe says."""
    if recipe.split is None:
        return slabs(mesh, recipe.axis)
    axis, place = recipe.split
    parts = []
    for side in (-1.0, 1.0):  # either side reaches beyond the plane, so that no gap opens
        normal = side * np.eye(3)[axis]
        vertices, faces, _ = slice_faces_plane(mesh.vertices, mesh.faces, normal, (side * place - OVERLAP) * normal)
        parts += slabs(trimesh.Trimesh(vertices, faces), recipe.axis, MAX_PARTS // 2)
    return parts


def make_from_source(name: str, source: Path) -> ObjectModel:
    """One object of RECIPES."""
    recipe = RECIPES[name]
    with (source / "ATTRIBUTION.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["folder"] == recipe.folder)
    mesh = load_mesh(source / recipe.folder / "visual.obj", recipe.scale)
    parts = cut(mesh, recipe)
    metadata = {
        "title": row["name"],
        "creator": row["creator"],
        "licence": LICENCES[row["licence"]],
        "source": f"sweethome3d-furniture 1.8-1, {row['upstream_library']}/{recipe.folder.split('__')[1]}",
        "changes": f"scaled by {recipe.scale:g}, turned; convex parts made",
        "vessel": recipe.vessel,
    }
    return with_handle(build_object(name, parts, mass=recipe.mass, visual=mesh, metadata=metadata))


def make_parametric(name: str) -> ObjectModel:
    """One object of PARAMETRIC."""
    make, mass = PARAMETRIC[name]
    visual = trimesh.Trimesh(*union(make(VISUAL_SIDES)), process=False)
    metadata = {
        "title": name.replace("_", " ").capitalize(),
        "creator": "dexh2r-gym contributors",
        "licence": "Apache-2.0",
        "source": "dexh2r_gym/objects/parametric.py",
        "changes": "none",
        "vessel": False,
    }
    return with_handle(build_object(name, make(SOLID_SIDES), mass=mass, visual=visual, metadata=metadata))


def volume_error(obj: ObjectModel) -> float:
    """Volume of the solid over what its visual encloses, minus 1; an open visual has its z contours filled."""
    visual = trimesh.Trimesh(obj.visual_vertices, obj.visual_faces)
    if visual.is_watertight and not obj.metadata.get("vessel"):
        return obj.volume / float(visual.volume) - 1.0
    return obj.volume / filled_volume(obj.visual_vertices.astype(np.float64), obj.visual_faces) - 1.0


def write_attribution(folder: Path = FOLDER) -> None:
    """ATTRIBUTION.md: the origin of each object in the folder."""
    rows = [read_object(folder / f"{name}.npz") for name in object_names()]
    lines = [
        "# Where the objects come from",
        "",
        "Convex parts, surfaces and distance grids are derived from these meshes by `dexh2r_gym/objects/catalogue.py`.",
        "Licence texts stand beside this file.",
        "",
        "| object | title | creator | licence | source | changes |",
        "|---|---|---|---|---|---|",
    ]
    keys = ("title", "creator", "licence", "source", "changes")
    lines += ["| " + " | ".join([o.name, *(str(o.metadata[k]) for k in keys)]) + " |" for o in rows]
    (folder / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n")


def main(source: Path, names: list[str]) -> None:
    """Make objects and write them into the package."""
    unknown = sorted(set(names) - set(RECIPES) - set(PARAMETRIC))
    if unknown:
        raise ValueError(f"unknown objects {unknown}; known: {', '.join(sorted({*RECIPES, *PARAMETRIC}))}")
    for name in names or sorted({*RECIPES, *PARAMETRIC}):
        obj = make_parametric(name) if name in PARAMETRIC else make_from_source(name, source)
        error = volume_error(obj)
        in_one = trimesh.Trimesh(obj.vertices, obj.faces, process=False).body_count == 1
        verdict = "" if abs(error) < MAX_VOLUME_ERROR and in_one else "  NOT WRITTEN: wrong volume or several bodies"
        print(f"{obj}, {len(obj.faces)} faces, {1e6 * obj.volume:.0f} cm3 ({100 * error:+.1f}%){verdict}", flush=True)
        if not verdict:
            write_object(obj, FOLDER / f"{name}.npz")
    for text in source.glob("LICENSE_*.txt"):
        shutil.copy(text, FOLDER)
    write_attribution()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
