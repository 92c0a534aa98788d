"""The dataset's own layout (Chao et al., DexYCB, CVPR 2021).

`<date>-subject-<nn>/<sequence>/meta.yml` names objects, hand and calibrations; `pose.npz` beside it holds, in the frame
of the master camera, `pose_y` (T, objects, 7), quaternion x y z w and position, and `pose_m` (T, 1, 51): global
orientation (axis-angle), 45 components of the hand's pose about the mean pose, translation; zeros where no hand was
seen. `calibration/mano_*/mano.yml` has the hand's shape; `calibration/extrinsics_*/extrinsics.yml` where cameras and
an AprilTag stand: the tag lies on the table, so its z axis points up. `models/<object>/textured_simple.obj` are meshes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from reprlib import repr  # bounded, whatever a file holds

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.giver.mano_file import load_mano
from dexh2r_gym.replay.dexycb.recording import Recording, Sequence, choose, describe, mano_numbers, shape_numbers
from dexh2r_gym.replay.untrusted import Folder, numbers
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_from_matrix

PER_SUBJECT = 100  # sequences of each of the ten subjects: five of every object
_KEYS = ("num_frames", "extrinsics", "ycb_ids", "ycb_grasp_ind", "mano_sides", "mano_calib")
_MISSING = np.array([0.0, 0, 0, 1, 0, 0, 0])  # an object that was not seen


class RawLayout:
    """A folder of the dataset, or of some of its subjects and sequences."""

    def __init__(self, path: str | Path) -> None:
        self.folder = Folder(Path(path))
        self._subjects = [name for name in self.folder.names(".") if re.fullmatch(r"\d{8}-[\w-]+", name)]
        if not self._subjects:
            raise self.folder.error("<date>-subject-<nn>", "no such folder in it; is this where DexYCB lies?")
        self._names = {subject: self.folder.folders(subject) for subject in self._subjects}

    def sequences(self, subjects: Collection[str] | None, sequences: Collection[str] | None) -> list[Sequence]:
        known = {f"{subject}/{name}" for subject, names in self._names.items() for name in names}
        chosen = [s for s in self._subjects if s in choose("subject", subjects, self._subjects)]
        wanted = choose("sequence", sequences, sorted(known))
        names = [f"{subject}/{name}" for subject in chosen for name in self._names[subject]]
        return [self._sequence(name) for name in names if name in wanted]

    def _sequence(self, name: str) -> Sequence:
        file = f"{name}/meta.yml"
        meta = self.folder.yaml(file, _KEYS)
        known = describe(self.folder, file, meta)
        for key, value in (("extrinsics", meta["extrinsics"]), ("mano_calib", meta["mano_calib"])):
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, str) or not re.fullmatch(r"[\w-]+", part):
                    raise self.folder.error(file, f"{key} must be a name, found {repr(value)}")
        calibration = meta["mano_calib"]
        if not isinstance(calibration, list) or len(calibration) != 1 or not isinstance(meta["extrinsics"], str):
            raise self.folder.error(file, "mano_calib must list one name, extrinsics be one")
        hand = f"calibration/mano_{calibration[0]}/mano.yml"
        return Sequence(
            name=name,
            subject=name.split("/")[0],
            betas=shape_numbers(self.folder, hand, self.folder.yaml(hand, ("betas",))["betas"]),
            place=(f"calibration/extrinsics_{meta['extrinsics']}/extrinsics.yml", meta["num_frames"]),
            **known,
        )

    def read(self, sequence: Sequence) -> Recording:
        extrinsics, frames = sequence.place
        file = f"{sequence.name}/pose.npz"
        pose_y, pose_m = self.folder.arrays(file, pose_y=(None, sequence.num_objects, 7), pose_m=(None, 1, 51))
        if not len(pose_y) == len(pose_m) == frames:
            raise self.folder.error(
                file, f"pose_y has {len(pose_y)} frames, pose_m {len(pose_m)}, meta.yml says {repr(frames)}"
            )
        rows = pose_y[:, sequence.column]
        norm = np.linalg.norm(rows[:, :4], axis=-1)
        object_seen = (norm > 0) & (rows != _MISSING).any(-1)
        if len(wrong := np.flatnonzero(object_seen & (np.abs(norm - 1) > 1e-3))):
            raise self.folder.error(file, f"pose_y: quaternion of norm {norm[wrong[0]]:.6g} in frame {wrong[0]}")
        rows = np.where(object_seen[:, None], rows, _MISSING)
        rows[:, :4] /= np.linalg.norm(rows[:, :4], axis=-1, keepdims=True)
        table = pose_inverse(self._tag(extrinsics))
        hand = torch.from_numpy(pose_m[:, 0])
        model = load_mano(sequence.side)
        pose = model.mean_pose + hand[:, 3:48] @ model.components
        mano = mano_numbers(hand[:, 48:], hand[:, :3], pose, sequence.betas)
        giver = GiverHand(sequence.side, list(sequence.betas), model="mano")
        return Recording(
            object_pose=pose_multiply(table, torch.from_numpy(rows[:, [4, 5, 6, 3, 0, 1, 2]])),
            mano=move_mano(table, mano, giver.root),
            object_seen=object_seen,
            hand_seen=(pose_m[:, 0] != 0).any(-1),
        )

    def _tag(self, file: str) -> Tensor:
        """Pose (7,) of the tag in the frame of the master camera."""
        found = self.folder.yaml(file, ("extrinsics",))["extrinsics"]
        matrix = numbers(found.get("apriltag") if isinstance(found, dict) else None, 12)
        if matrix is None:
            raise self.folder.error(file, "extrinsics/apriltag must be 12 numbers, a 3 x 4 matrix row by row")
        turn = matrix.reshape(3, 4)[:, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
            raise self.folder.error(file, "extrinsics/apriltag is not a rotation and a translation")
        place = torch.from_numpy(matrix.reshape(3, 4).copy())
        return torch.cat((place[:, 3], quat_from_matrix(place[:, :3])))

    def mesh(self, name: str) -> str:
        return f"models/{name}/textured_simple.obj"

    def scene(self, sequence: Sequence) -> int | None:
        number = re.search(r"-subject-(\d+)$", sequence.subject)
        names = self._names[sequence.subject]
        if number is None or not 1 <= int(number[1]) <= 10 or len(names) != PER_SUBJECT:
            return None
        return PER_SUBJECT * (int(number[1]) - 1) + names.index(sequence.name.split("/")[1])
