"""Command for the table of proposed grasps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Table4:
    """Test the grasps that generators propose for unseen objects, as the paper's Table 4 does.

    Writes table4.json, table4.md and table4.png, and what they are made from. Killed and started again, it goes on.

    Example: dexh2r table4 --out runs/table4
    """

    out: Path = Path("runs/table4")
    """Folder of the table; made if missing."""
    generators: tuple[str, ...] = ("cvae", "cvae-scratch", "diffusion", "diffusion-scratch")
    """Installed generators, or module:function for your own."""
    objects: tuple[str, ...] = ()
    """Names of the library or of the replays; none for the test objects that no generator has seen."""
    num: int = 500
    """Proposals for each object."""
    replays: str = "mini"
    """`mini`, or the path of a replay store: its trials say which grasp would be taken first."""
    trials: int = 60
    """At most so many trials; 0 for the table alone."""
    seed: int = 0

    def run(self) -> None:
        from dexh2r_gym.table4 import table4

        table4(
            self.out,
            generators=self.generators,
            objects=self.objects,
            num=self.num,
            replays=self.replays,
            trials=self.trials,
            seed=self.seed,
        )
        print((self.out / "table4.md").read_text())
        print(f"table: {self.out / 'table4.md'}")
