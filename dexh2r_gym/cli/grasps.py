"""Commands for goal grasps of the ShadowHand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand


@dataclass
class MakeGrasps:
    """Search goal grasps for objects, test them in simulation and keep the good and diverse ones: OUT/NAME.npz each.

    Every grasp kept holds the object against the released test's pushes, and, as far as they can be found, against its
    weight whichever way is down. A quarter of a minute for most objects, a minute for heavy and flat ones. Stopped and
    started again, it goes on. Read a file with dexh2r_gym.grasps.read_pool.

    Example: dexh2r grasps make hammer --out pools

    A mesh of your own: dexh2r grasps make mug.obj --scale 0.001 --mass 0.3 --vessel --out pools
    """

    objects: Positional[tuple[str, ...]] = ()
    """Names of the library, or mesh files (obj, stl, ply ...); none for all of the library."""
    out: Path = Path("grasps")
    """Folder for one npz an object."""
    num: int = 64
    """Grasps to keep of each object, at most 512."""
    scale: float = 1.0
    """Of mesh files, to metres: 0.001 for millimetres."""
    mass: float | None = None
    """Of mesh files, kg; by default 500 kg/m^3."""
    vessel: bool = False
    """Mesh files show a hollow thing, to be closed."""
    name: str | None = None
    """Of a single mesh file; by default the file's."""
    seed: int = 0
    """The same seed gives the same grasps."""
    overwrite: bool = False
    """Make those anew that are in OUT."""
    workers: int | None = None
    """Processes; by default one a core."""

    def run(self) -> None:
        from dexh2r_gym.grasps.pool_files import MeshOptions, make_pools

        make_pools(
            self.objects,
            out=self.out,
            num=self.num,
            seed=self.seed,
            mesh=MeshOptions(self.scale, self.mass, self.vessel),
            name=self.name,
            overwrite=self.overwrite,
            workers=self.workers,
        )


@dataclass
class GraspData:
    """Search and test many grasps of many objects, to train a generator of grasps on: OUT/NAME.npz each.

    Unlike a pool, a file has all grasps that were tried, the bad ones too, each with its depth and with how far the
    object moved in the released test. By default the 39 objects of the library that generators may learn from
    (dexh2r_gym.grasps.splits); the others are for tests. Stopped and started again, it goes on. Read the folder with
    dexh2r_gym.grasps.dataset.read_dataset.

    Example: dexh2r grasps data --out grasp_data --num 1024

    Random shapes, to pre-train on: dexh2r grasps data --out shape_data --shapes 160 --num 256
    """

    objects: Positional[tuple[str, ...]] = ()
    """Names of the library; none for those to learn from, or for none of them if there are shapes."""
    out: Path = Path("grasp_data")
    """Folder for one npz an object."""
    shapes: int = 0
    """So many random boxes, bottles, tools, bars and plates, shape_00000 and on."""
    num: int = 256
    """Grasps to try of each."""
    seed: int = 0
    """The same seed gives the same grasps."""
    workers: int | None = None
    """Processes; by default one a core."""

    def run(self) -> None:
        from dexh2r_gym.grasps.dataset import make_dataset, shape_names
        from dexh2r_gym.grasps.splits import TRAIN_OBJECTS

        names = [*(self.objects or (() if self.shapes else TRAIN_OBJECTS)), *shape_names(self.shapes)]
        make_dataset(names, self.out, num=self.num, seed=self.seed, workers=self.workers)


@dataclass
class GraspInfo:
    """List goal grasps: how many an object, how many hold its weight, how deep they reach, how different they are.

    Spacing: how far a grasp is from the one most like it, on average; palms turned by 0.7 rad against each other count
    as 4 cm apart. Div: standard deviation of the joint angles, as in Table 4 of the paper.

    Example: dexh2r grasps info
    """

    folder: Positional[Path | None] = None
    """Folder that `dexh2r grasps make` wrote; by default the grasps that come with the library."""

    def run(self) -> None:
        from dexh2r_gym.grasps.pool import FOLDER, read_pool
        from dexh2r_gym.grasps.scores import diversity

        folder = self.folder or FOLDER
        paths = sorted(path for path in folder.glob("*.npz") if not path.name.endswith(".partial.npz"))
        if not paths:
            raise ValueError(f"no goal grasps in {folder}; make some with: dexh2r grasps make --out {folder}")
        print(f"{'object':20} {'grasps':>6} {'hold its weight':>15} {'deepest':>10} {'spacing':>8} {'div':>9}")
        for path in paths:
            pool = read_pool(path)
            held, deepest = int(pool.holds_weight.sum()), 1000 * float(pool.depth.max())
            spread = f"{100 * pool.spacing:5.1f} cm {diversity(pool.joints, pool.released):5.3f} rad"
            print(f"{path.stem:20} {len(pool):6} {held:15} {deepest:7.1f} mm {spread}")


@dataclass
class Grasps:
    """Goal grasps of the ShadowHand."""

    command: (
        Annotated[MakeGrasps, subcommand("make")]
        | Annotated[GraspData, subcommand("data")]
        | Annotated[GraspInfo, subcommand("info")]
    )

    def run(self) -> None:
        self.command.run()
