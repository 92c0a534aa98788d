"""IsaacGymEnvs' own training, with the handover among its tasks; run it in Isaac Gym's Python 3.8.

    python train.py task=DexH2RHandover task.env.assets=FOLDER headless=True

FOLDER is what `dexh2r export isaacgym FOLDER` has written. All other arguments are those of IsaacGymEnvs' `train.py`.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys


def main() -> None:
    import handover  # before torch

    handover.register()
    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.find_spec("isaacgymenvs")
    assert spec is not None and spec.origin is not None
    script = os.path.join(os.path.dirname(spec.origin), "train.py")
    sys.argv = [script, "--config-dir", os.path.join(here, "cfg"), *sys.argv[1:]]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
