"""The files of one DexH2R trial, turned into the arrays of a `Trial`.

qpos.pt (T, 30) hand states with two wrist joints; obj_pose.pt (T, 4, 4); right_mano.pt or left_mano.pt (T, 61);
real_obj_pcd_xyz.pt (T, 4096, 3); model_final_qpose_cvae.pt (T, 500, 30) goal grasps in the world, carried along with
the object; motion_info.yaml; calibration/*.json. Metres and radians, world frame, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.replay.dexh2r.goals import carried_goals
from dexh2r_gym.replay.dexh2r.layout import CLOUD_FILE, GOAL_FILE, MANO_FILES, SENSOR_FILES, TrialFiles
from dexh2r_gym.replay.dexh2r.tensors import FLOATS, Form, read_tensor
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.replay.validate import CLOUD_REACH
from dexh2r_gym.rotations import quat_from_matrix
from dexh2r_gym.types import MANO_SIZE

QPOS, POSE = Form((30,)), Form((4, 4))
MANO = Form((MANO_SIZE,))
CLOUD = Form((4096, 3), FLOATS, largest=3276.0)  # metres, or millimetres; a store keeps up to `CLOUD_REACH`
GOALS = Form((None, 30))
DEPTH = Form((None, None), (torch.int16, torch.uint16), largest=None)
IMAGE = Form((None, None, 3), (torch.uint8,), largest=None)
ROTATION_TOLERANCE = 1e-3
WRIST = (6, 7)  # columns of WRJ2 and WRJ1
STILL = 1e-6  # rad, a wrist joint below this is zero
FAR = (
    0.3  # m, a cloud whose middle is further than this from the object's origin is not of the object, or not in metres
)
MAX_CALIBRATIONS = 64  # files


@dataclass(frozen=True, eq=False)
class TrialData:
    """One trial as read, T frames. What was odd about it is in `remarks`: kind and detail."""

    object_pose: NDArray[np.float64]  # (T, 7)
    giver: NDArray[np.float64]  # (T, 61)
    demo: NDArray[np.float64]  # (T, 28)
    goals: NDArray[np.float32] | None  # (G, 29), object frame
    grasp_begin: int
    cloud_scale: float  # to metres
    calibration: dict[str, Any] | None
    rows: dict[str, tuple[int, ...]] = field(default_factory=dict)  # sensor -> shape of one frame
    remarks: tuple[tuple[str, str], ...] = ()


def read_trial(folder: Folder, trial: TrialFiles, sensors: tuple[str, ...]) -> TrialData:
    """Read and check the files of a trial; its frames are as many as its shortest file has.

    ReplayError names the first file that is damaged.
    """
    remarks: list[tuple[str, str]] = []
    note = lambda kind, detail="": remarks.append((kind, detail))  # noqa: E731
    mano_file = MANO_FILES[trial.side]
    tensors = {
        file: read_tensor(folder, trial.key(file), form)
        for file, form in (("qpos.pt", QPOS), ("obj_pose.pt", POSE), (mano_file, MANO))
    }
    if GOAL_FILE in trial.files:
        tensors[GOAL_FILE] = read_tensor(folder, trial.key(GOAL_FILE), GOALS)
    cameras = {name: _sensor_tensors(folder, trial, name) for name in sensors}
    lengths = {file: len(value) for file, value in tensors.items()}
    lengths |= {file: len(value) for found in cameras.values() for file, value in found.items()}
    num_frames = min(lengths.values())
    if num_frames < 2:
        raise folder.error(trial.key(min(lengths, key=lambda file: lengths[file])), "a single frame is no motion")
    if len(set(lengths.values())) > 1:
        note("files of different lengths, cut to the shortest", ", ".join(f"{f} {n}" for f, n in lengths.items()))
    tensors = {file: value[:num_frames] for file, value in tensors.items()}

    object_pose = _poses(folder, trial.key("obj_pose.pt"), tensors["obj_pose.pt"])
    states = tensors["qpos.pt"].double()
    wrist = float(states[:, WRIST].abs().max())
    if wrist > STILL:
        note("wrist joints that are not 0, left out", f"up to {wrist:.4f} rad")
    goals = None
    if GOAL_FILE in tensors:
        goals, doubts = carried_goals(tensors[GOAL_FILE], object_pose)
        if len(goals) == 0:
            raise folder.error(trial.key(GOAL_FILE), "holds no goal grasp, only zeros")
        remarks.extend(doubts)
    cloud_scale = 1.0
    if "cloud" in cameras:
        cloud = cameras["cloud"][CLOUD_FILE][:num_frames]
        cloud_scale = _cloud_scale(folder, trial.key(CLOUD_FILE), cloud, object_pose, note)
    return TrialData(
        object_pose=object_pose.numpy(),
        giver=_one_shape(tensors[mano_file].double(), note).numpy(),
        demo=without_wrist(states).numpy(),
        goals=None if goals is None else goals.numpy(),
        grasp_begin=_grasp_begin(folder, trial, num_frames, note),
        cloud_scale=cloud_scale,
        calibration=_calibration(folder, trial),
        rows={name: _row(folder, trial, found) for name, found in cameras.items()},
        remarks=tuple(remarks),
    )


def read_sensors(
    folder: Folder, trial: TrialFiles, sensors: tuple[str, ...], num_frames: int, cloud_scale: float
) -> dict[str, NDArray]:
    """The sensors of a trial as a store takes them: cloud (T, 4096, 3) metres; depth (T, C, H, W) uint16 millimetres;
    image (T, C, H, W, 3) uint8."""
    arrays: dict[str, NDArray] = {}
    for name in sensors:
        frames = [value[:num_frames].numpy() for value in _sensor_tensors(folder, trial, name).values()]
        if name == "cloud":
            arrays[name] = frames[0].astype(np.float32) * np.float32(cloud_scale)
        else:
            arrays[name] = np.stack([f.view(np.uint16) if name == "depth" else f for f in frames], axis=1)
    return arrays


def without_wrist(states: Tensor) -> Tensor:
    """Hand states (..., 30) without the two wrist joints. -> (..., 28)"""
    return torch.cat((states[..., : WRIST[0]], states[..., WRIST[1] + 1 :]), dim=-1)


def _sensor_tensors(folder: Folder, trial: TrialFiles, sensor: str) -> dict[str, Tensor]:
    form = {"cloud": CLOUD, "depth": DEPTH, "image": IMAGE}[sensor]
    prefix = "" if sensor == "cloud" else trial.sensor_folder
    return {file: read_tensor(folder, trial.key(prefix + file), form) for file in SENSOR_FILES[sensor]}


def _row(folder: Folder, trial: TrialFiles, found: dict[str, Tensor]) -> tuple[int, ...]:
    """Shape of one frame of a sensor, all of its cameras together."""
    shapes = {file: tuple(value.shape[1:]) for file, value in found.items()}
    first = next(iter(shapes.values()))
    for file, shape in shapes.items():
        if shape != first:
            raise folder.error(trial.key(trial.sensor_folder + file), f"frames {shape}, the first camera's {first}")
    return first if len(shapes) == 1 else (len(shapes), *first)


def _poses(folder: Folder, key: str, matrices: Tensor) -> Tensor:
    """Matrices (T, 4, 4) as poses (T, 7); each must be a rigid motion."""
    m = matrices.double()
    turn = m[:, :3, :3]
    off = (turn @ turn.mT - torch.eye(3, dtype=m.dtype)).abs().amax((1, 2))
    last = (m[:, 3] - m.new_tensor([0, 0, 0, 1])).abs().amax(1)
    wrong = (off > ROTATION_TOLERANCE) | (torch.linalg.det(turn) < 0) | (last > ROTATION_TOLERANCE)
    if wrong.any():
        frame = int(wrong.nonzero()[0])
        raise folder.error(key, f"frame {frame} is not a rotation and a shift: {m[frame].round(decimals=4).tolist()}")
    return torch.cat((m[:, :3, 3], quat_from_matrix(turn)), dim=-1)


def _one_shape(mano: Tensor, note: Callable[..., None]) -> Tensor:
    """MANO numbers (T, 61) with one shape for all frames, the median if they differ."""
    shape = mano[:, 51:].quantile(0.5, dim=0)
    if (difference := float((mano[:, 51:] - shape).abs().max())) > 0:
        note("hand shape that differs between frames, median taken", f"by up to {difference:.4f}")
    return torch.cat((mano[:, :51], shape.expand(len(mano), 10)), dim=-1)


def _cloud_scale(folder: Folder, key: str, cloud: Tensor, object_pose: Tensor, note: Callable[..., None]) -> float:
    """1, or 0.001 for a cloud in millimetres."""
    middle = cloud.mean(dim=1, dtype=torch.float64)
    distance = {scale: float((scale * middle - object_pose[:, :3]).norm(dim=-1).median()) for scale in (1.0, 1e-3)}
    scale = 1.0
    if distance[1e-3] < FAR and float(cloud.abs().max()) > 10.0:
        note("cloud in millimetres, turned into metres")
        scale = 1e-3
    elif distance[1.0] > FAR:
        note("cloud far from the object", f"{distance[1.0]:.2f} m")
    if (largest := scale * float(cloud.abs().max())) > CLOUD_REACH:
        raise folder.error(key, f"a point {largest:.4g} m from the origin; a store keeps up to {CLOUD_REACH:g} m")
    return scale


def _grasp_begin(folder: Folder, trial: TrialFiles, num_frames: int, note: Callable[..., None]) -> int:
    """First frame of the static grasp, -1 if it is not known."""
    file, key = "motion_info.yaml", "grasp_begin_frame_index"
    if file not in trial.files:
        note("no motion_info.yaml: frame in which the grasp begins not known")
        return -1
    begin = folder.yaml(trial.key(file)).get(key)
    if not isinstance(begin, int) or isinstance(begin, bool) or begin < 0:
        raise folder.error(trial.key(file), f"{key} must be a frame's number, found {begin!r}")
    if begin >= num_frames:
        note("grasp that begins after the last frame", f"frame {begin} of {num_frames}")
        return -1
    return begin


def _calibration(folder: Folder, trial: TrialFiles) -> dict[str, Any] | None:
    """Every json file below `calibration`, by its path there without the ending; None without such a folder."""
    if "calibration" not in trial.files:
        return None
    top = trial.key("calibration")
    found = [name for name in folder.names(top) if name.endswith(".json")]
    found += [f"{sub}/{name}" for sub in folder.folders(top) for name in folder.names(f"{top}/{sub}")]
    found = [name for name in found if name.endswith(".json")]
    if len(found) > MAX_CALIBRATIONS:
        raise folder.error(top, f"{len(found)} json files, at most {MAX_CALIBRATIONS} are allowed")
    return {name.removesuffix(".json"): folder.json(f"{top}/{name}") for name in sorted(found)}
