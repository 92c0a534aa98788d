"""A made-up dataset in the layout of DexYCB, and the same recordings as HandoverSim's cache has them.

Everything is drawn once in the frame of the tag on the table (z up): the object lies, is lifted and carried in a
minimum-jerk motion, and is held out; the hand is not seen in the first frames, then follows rigidly, while the fingers
move a little. Numbers are turned into those of the two layouts by formulas of their own, not by the importer's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
import yaml
from scipy.spatial.transform import Rotation

from dexh2r_gym.replay.dexycb.recording import OBJECTS
from tests.mano_files import mano_data

NUM_FRAMES, HIDDEN, LYING, MOVING = 70, 5, 12, 40  # frames; no hand before HIDDEN, motion in MOVING frames after LYING
WRIST = np.array([0.13, 0.0, -0.05])  # m, from the object's origin, axes of the table, right hand; mirrored for a left
# The tag in the frame of the master camera: any rotation will do, the camera looks down at an angle.
TAG = (Rotation.from_euler("ZYX", [0.4, -0.3, -2.2]), np.array([-0.2, 0.1, 0.9]))


@dataclass(frozen=True)
class Recorded:
    """One sequence in the frame of the tag, T frames."""

    name: str  # "20200709-subject-01/20200709_141754"
    ycb_ids: list[int]
    grasped: int  # place in ycb_ids
    side: str
    betas: np.ndarray  # (10,)
    position: np.ndarray  # (T, objects, 3)
    rotation: list[Rotation]  # of each object, T
    wrist: np.ndarray  # (T, 3)
    wrist_rotation: Rotation  # T
    components: np.ndarray  # (T, 45)
    seen: np.ndarray  # (T,) bool


def record(name: str, ycb_ids: list[int], grasped: int, side: str, seed: int = 0, yaw: float = 0.0) -> Recorded:
    """Draw a sequence whose giver stands in the direction `yaw` of the table's frame."""
    rng = np.random.default_rng(seed)
    time = np.clip((np.arange(NUM_FRAMES) - LYING) / MOVING, 0.0, 1.0)
    way = (10 * time**3 - 15 * time**4 + 6 * time**5)[:, None]
    heading = Rotation.from_euler("Z", yaw)
    places = rng.uniform((0.2, 0.2, 0.05), (0.6, 0.5, 0.05), (len(ycb_ids), 3))
    position = np.repeat(places[None], NUM_FRAMES, axis=0)
    position[:, grasped] += way * heading.apply([-0.15, 0.05, 0.3])
    lying = [heading * Rotation.from_euler("Z", 0.3 * i) for i in range(len(ycb_ids))]
    rotation = [Rotation.concatenate([turn] * NUM_FRAMES) for turn in lying]
    rotation[grasped] = heading * Rotation.from_rotvec(way * [[0.1, 0.2, -0.15]])
    turn = rotation[grasped]
    # The rest hand has its fingers along -x (right) or x (left), its forearm behind: towards the giver at +x.
    rest = Rotation.from_euler("Z", 0.0 if side == "right" else np.pi)
    return Recorded(
        name=name,
        ycb_ids=ycb_ids,
        grasped=grasped,
        side=side,
        betas=rng.normal(0, 0.5, 10),
        position=position,
        rotation=rotation,
        wrist=position[:, grasped] + turn.apply(WRIST),
        wrist_rotation=turn * rest,
        components=0.3 * rng.normal(size=45) + 0.05 * np.sin(np.arange(NUM_FRAMES)[:, None] / 9 + np.arange(45)),
        seen=np.arange(NUM_FRAMES) >= HIDDEN,
    )


def default_sequences() -> list[Recorded]:
    """Two subjects, a right and two left hands, two objects."""
    return [
        record("20200709-subject-01/20200709_141754", [5, 2, 12], 0, "right", 1, yaw=0.5),
        record("20200709-subject-01/20200709_141841", [1, 5], 1, "left", 2, yaw=2.5),
        record("20200813-subject-02/20200813_145341", [4, 7, 3], 0, "left", 3, yaw=-1.7),
    ]


def write_dexycb(root: Path, sequences: list[Recorded], meshes: dict[int, trimesh.Trimesh]) -> Path:
    """The dataset's own layout."""
    rotation, translation = TAG
    tag = np.concatenate((rotation.as_matrix(), translation[:, None]), axis=1)
    stand = {"840412060917": np.eye(4)[:3].ravel().tolist(), "apriltag": tag.ravel().tolist()}
    extrinsics = {"master": "840412060917", "extrinsics": stand}
    _write_yaml(root / "calibration/extrinsics_20200702_151821/extrinsics.yml", extrinsics)
    for s in sequences:
        calibration = f"{s.name.split('/')[0]}_{s.side}"
        _write_yaml(root / f"calibration/mano_{calibration}/mano.yml", {"betas": s.betas.tolist()})
        meta = {
            "serials": ["836212060125", "840412060917"],
            "num_frames": NUM_FRAMES,
            "extrinsics": "20200702_151821",
            "ycb_ids": s.ycb_ids,
            "ycb_grasp_ind": s.grasped,
            "mano_sides": [s.side],
            "mano_calib": [calibration],
        }
        _write_yaml(root / s.name / "meta.yml", meta)
        objects = [
            np.concatenate(((rotation * turn).as_quat(), rotation.apply(s.position[:, i]) + translation), axis=-1)
            for i, turn in enumerate(s.rotation)
        ]
        # The wrist is where MANO's own wrist joint, which does not turn, is moved to.
        moved = rotation.apply(s.wrist) + translation - wrist_at_rest(s)
        hand = np.concatenate(((rotation * s.wrist_rotation).as_rotvec(), s.components, moved), axis=-1)
        pose_m = np.where(s.seen[:, None], hand, 0.0)[:, None]
        np.savez(
            root / s.name / "pose.npz",
            pose_y=np.stack(objects, axis=1).astype(np.float32),
            pose_m=pose_m.astype(np.float32),
        )
    _write_meshes(root / "models", meshes)
    return root


def write_cache(root: Path, sequences: list[Recorded], meshes: dict[int, trimesh.Trimesh]) -> Path:
    """HandoverSim's folder of data; between recorded frames the samples repeat."""
    folder = root / "dex-ycb-cache"
    folder.mkdir(parents=True)
    samples = np.minimum(np.arange((NUM_FRAMES - 1) * 40 + 1) // 40, NUM_FRAMES - 1)
    for i, s in enumerate(sequences):
        meta = {"name": s.name, "ycb_ids": s.ycb_ids, "ycb_grasp_ind": s.grasped, "mano_sides": [s.side]}
        (folder / f"meta_{i:03d}.json").write_text(json.dumps(meta | {"mano_betas": [s.betas.tolist()]}))
        objects = [
            np.concatenate((s.position[:, k], turn.as_euler("XYZ")), axis=-1) for k, turn in enumerate(s.rotation)
        ]
        wrist = wrist_at_rest(s)
        moved = s.wrist - s.wrist_rotation.apply(wrist)
        data = mano_data(s.side)
        pose = data["hands_mean"] + s.components @ data["hands_components"]
        fingers = Rotation.from_rotvec(pose.reshape(-1, 3)).as_euler("XYZ").reshape(-1, 45)
        hand = np.concatenate((moved, s.wrist_rotation.as_euler("XYZ"), fingers), axis=-1)
        pose_m = np.where(s.seen[:, None], hand, 0.0)[:, None]
        np.savez_compressed(folder / f"pose_{i:03d}.npz", pose_y=np.stack(objects, 1)[samples], pose_m=pose_m[samples])
    _write_meshes(root / "assets", meshes)
    return root


def wrist_at_rest(s: Recorded) -> np.ndarray:
    """(3,) MANO's wrist joint of this shape."""
    return joints_at_rest(s)[0]


def joints_at_rest(s: Recorded) -> np.ndarray:
    """(16, 3) MANO's joints of this shape."""
    data = mano_data(s.side)
    return np.asarray(data["J_regressor"] @ (data["v_template"] + data["shapedirs"][..., :10] @ s.betas))


def joints(s: Recorded) -> np.ndarray:
    """(T, 16, 3) joints of the hand in the frame of the tag, by MANO's formulas."""
    data = mano_data(s.side)
    pose = data["hands_mean"] + s.components @ data["hands_components"]
    rest, parents = joints_at_rest(s), data["kintree_table"][0].astype(int)
    out = np.zeros((NUM_FRAMES, 16, 3))
    for t in range(NUM_FRAMES):
        turns = [s.wrist_rotation[t]]
        out[t, 0] = s.wrist[t]
        for j in range(1, 16):
            parent = parents[j]
            out[t, j] = out[t, parent] + turns[parent].apply(rest[j] - rest[parent])
            turns.append(turns[parent] * Rotation.from_rotvec(pose[t, 3 * j - 3 : 3 * j]))
    return out


def _write_yaml(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value))


def _write_meshes(folder: Path, meshes: dict[int, trimesh.Trimesh]) -> None:
    for number, mesh in meshes.items():
        path = folder / OBJECTS[number][0] / "textured_simple.obj"
        path.parent.mkdir(parents=True, exist_ok=True)
        mesh.export(path)
