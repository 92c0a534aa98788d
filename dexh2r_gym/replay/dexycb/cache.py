"""HandoverSim's cache of the dataset (Chao et al., HandoverSim, ICRA 2022), in its folder `handover/data`.

`dex-ycb-cache/meta_<nnn>.json` describes scene nnn, `dex-ycb-cache/pose_<nnn>.npz` has its frames, interpolated to 1000
a second from 25: HandoverSim plays the recordings, which were made at 30 Hz, at 25. Every fortieth is one of the
dataset, and only those are read. They stand in the frame of the AprilTag on the table. `pose_y` (N, objects, 6) is
position and Euler angles; `pose_m` (N, 1, 51) is what the joints of a URDF hand are set to: translation, Euler angles
of the wrist and of 15 joints. All turn about x, then the new y, then the new z, the whole hand about MANO's origin
instead of its wrist. Meshes are `assets/<object>/textured_simple.obj`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from reprlib import repr  # bounded, whatever a file holds

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay.dexycb.recording import Recording, Sequence, choose, describe, mano_numbers, shape_numbers
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.rotations import quat_from_axis_angle, quat_rotate

CACHE = "dex-ycb-cache"
STEP = 40  # samples of the cache to a frame of the dataset
_KEYS = ("name", "ycb_ids", "ycb_grasp_ind", "mano_sides", "mano_betas")


class CacheLayout:
    """A folder that holds the cache and the meshes."""

    def __init__(self, path: str | Path) -> None:
        self.folder = Folder(Path(path))

    def sequences(self, subjects: Collection[str] | None, sequences: Collection[str] | None) -> list[Sequence]:
        files = [name for name in self.folder.names(CACHE) if name.startswith("meta_") and name.endswith(".json")]
        found = [self._sequence(f"{CACHE}/{name}") for name in files]
        from_subjects = choose("subject", subjects, sorted({s.subject for s in found}))
        wanted = choose("sequence", sequences, sorted(s.name for s in found))
        return [s for s in found if s.subject in from_subjects and s.name in wanted]

    def _sequence(self, file: str) -> Sequence:
        number = re.fullmatch(r"meta_(\d{3,4})\.json", Path(file).name)
        if number is None:
            raise self.folder.error(file, "expected a name like meta_000.json")
        meta = self.folder.json(file, _KEYS)
        known = describe(self.folder, file, meta)
        name, betas = meta["name"], meta["mano_betas"]
        if not isinstance(name, str) or not re.fullmatch(r"\d{8}-[\w-]+/[\w-]+", name):
            raise self.folder.error(file, f"name must be <date>-<subject>/<sequence>, found {repr(name)}")
        if not isinstance(betas, list) or len(betas) != 1:
            raise self.folder.error(file, "mano_betas must list the shape of one hand")
        return Sequence(
            name=name,
            subject=name.split("/")[0],
            betas=shape_numbers(self.folder, file, betas[0]),
            place=number[1],
            **known,
        )

    def read(self, sequence: Sequence) -> Recording:
        file = f"{CACHE}/pose_{sequence.place}.npz"
        pose_y, pose_m = self.folder.arrays(file, pose_y=(None, sequence.num_objects, 6), pose_m=(None, 1, 51))
        if len(pose_y) != len(pose_m):
            raise self.folder.error(file, f"pose_y has {len(pose_y)} samples, pose_m {len(pose_m)}")
        rows, hand = pose_y[::STEP, sequence.column], pose_m[::STEP, 0]
        quaternion = Rotation.from_euler("XYZ", rows[:, 3:]).as_quat(scalar_first=True)
        turn = _axis_angle(hand[:, 3:6])
        wrist = GiverHand(sequence.side, list(sequence.betas), model="mano").root
        translation = torch.from_numpy(hand[:, :3]) + quat_rotate(quat_from_axis_angle(turn), wrist) - wrist
        return Recording(
            object_pose=torch.from_numpy(np.concatenate((rows[:, :3], quaternion), axis=-1)),
            mano=mano_numbers(translation, turn, _axis_angle(hand[:, 6:]), sequence.betas),
            object_seen=(rows != 0).any(-1),
            hand_seen=(hand != 0).any(-1),
        )

    def mesh(self, name: str) -> str:
        return f"assets/{name}/textured_simple.obj"

    def scene(self, sequence: Sequence) -> int | None:
        return int(sequence.place)


def _axis_angle(euler: NDArray[np.float64]) -> Tensor:
    """Euler angles (T, 3 k) about the moving axes x, y, z -> axis-angle (T, 3 k)."""
    return torch.from_numpy(Rotation.from_euler("XYZ", euler.reshape(-1, 3)).as_rotvec().reshape(euler.shape))
