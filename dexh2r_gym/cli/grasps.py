"""Commands for goal grasps of the ShadowHand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand


@dataclass
class MakeGrasps:
    """Search goal grasps for objects, test them in simulation and keep the good and diverse ones.

    Example: dexh2r grasps make hammer --out pools
    """

    objects: Positional[tuple[str, ...]] = ()
    """Names of the library; none for all of it."""
    out: Path = Path("grasps")
    """Folder for one npz an object."""
    num: int = 40
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.grasps.pool import make_pools

        make_pools(self.objects, out=self.out, num=self.num, seed=self.seed)


@dataclass
class GraspInfo:
    """List the goal grasps that come with the library.

    Example: dexh2r grasps info
    """

    def run(self) -> None:
        from dexh2r_gym.grasps import load_pool
        from dexh2r_gym.objects import object_names

        print(f"{'object':20} {'grasps':>6} {'hold its weight':>15} {'deepest':>10}")
        for name in object_names():
            pool = load_pool(name)
            held, deepest = int(pool.holds_weight.sum()), 1000 * float(pool.depth.max())
            print(f"{name:20} {len(pool.depth):6} {held:15} {deepest:7.1f} mm")


@dataclass
class Grasps:
    """Goal grasps of the ShadowHand."""

    command: Annotated[MakeGrasps, subcommand("make")] | Annotated[GraspInfo, subcommand("info")]

    def run(self) -> None:
        self.command.run()
