"""Makes the files of `dexh2r_gym` that Python 3.8 can read importable, without the package's own dependencies.

Importing a package runs its `__init__.py`, which here needs MuJoCo and Gymnasium. Packages without any are put in
their place; modules are then found in their folders as always.
"""

from __future__ import annotations

import os
import sys
import types

READABLE = (
    "alignment",
    "constants",
    "envs.control",
    "envs.rewards",
    "hand.fk",
    "hand.kinematics",
    "objects.exact",
    "objects.grid",
    "rotations",
    "sim.isaacgym_worker",
    "types",
)
"""The modules that are written for Python 3.8 too."""


def prepare() -> None:
    """Call before the first `import dexh2r_gym...`."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in ("", ".envs", ".hand", ".objects", ".sim"):
        if "dexh2r_gym" + name not in sys.modules:
            package = types.ModuleType("dexh2r_gym" + name)
            package.__path__ = [os.path.join(root, name[1:])]
            sys.modules["dexh2r_gym" + name] = package
