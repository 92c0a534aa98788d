"""The trials of a split as files for the IsaacGymEnvs task, which runs where this package cannot be installed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.envs.recordings import Recordings, open_split
from dexh2r_gym.hand import SURFACE_LINK, surface_points_local
from dexh2r_gym.objects.grid import GridDistance
from dexh2r_gym.sim.isaacgym_assets import write_scene

FILE = "trials.npz"


def export_isaacgym(out: Path, *, replays: str | Path, split: str) -> Path:
    """Write `scene.json`, what it names, and `trials.npz` into a new folder, wholly or not at all.

    Arrays, float32 unless given; n trials of N frames in all, K objects, G goals at most: fps, object_pose (N, 7),
    giver_bones (N, 16, 7), goal_free (N, G) bool, goal_pose (n, G, 7) and goal_joints (n, G, 22) as `Recordings` has
    them, hand_start (n, 28), offset, length, object, giver (n,) int64, center (K, 3) of mass in the object's frame,
    surface (P, 3) and surface_link (P,) of the hand, and `GridDistance` of the objects as grid_*.

    FileExistsError where the folder is there; what `open_split` raises.
    """
    out = out.expanduser()
    if out.exists():
        raise FileExistsError(f"{out} is there already; name a new folder")
    store, ids, fps = open_split(replays, split)
    recordings = Recordings(store)
    recordings.indices(ids)
    objects = list(recordings.objects.objects)
    givers = list(dict.fromkeys(recordings.givers))
    grid = GridDistance.build(
        [o.sdf_grid for o in objects], [o.sdf_origin for o in objects], [o.sdf_spacing for o in objects]
    )
    arrays: dict[str, Tensor] = {
        "fps": torch.tensor(fps),
        "object_pose": recordings.object_pose,
        "giver_bones": recordings.giver_bones,
        "goal_free": recordings.goal_free,
        "goal_pose": recordings.goal_pose,
        "goal_joints": recordings.goal_joints,
        "hand_start": torch.stack([r.hand_start for r in recordings.replays]),
        "offset": recordings.offset,
        "length": recordings.length,
        "object": recordings.object_index,
        "giver": torch.tensor([givers.index(g) for g in recordings.givers]),
        "center": torch.tensor(np.stack([o.center_of_mass for o in objects])),
        "surface": surface_points_local().points,
        "surface_link": SURFACE_LINK,
        "grid_values": grid.values,
        "grid_start": grid.start,
        "grid_shape": grid.shape,
        "grid_origin": grid.origin,
        "grid_spacing": grid.spacing,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write_scene(folder, objects, givers)
        small: dict[str, Any] = {k: (x.float() if x.dtype == torch.float64 else x).numpy() for k, x in arrays.items()}
        np.savez(folder / FILE, **small)
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out
