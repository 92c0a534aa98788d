"""Writes small datasets in the layout of DexH2R on disk, with made-up content and each oddity of the real one once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from dexh2r_gym.hand import clamp_joints
from dexh2r_gym.rotations import pose_apply, pose_multiply, quat_from_axis_angle, quat_normalize, quat_to_matrix
from dexh2r_gym.types import join_hand_state

FRAMES = 8
POINTS = 4096
OBJECTS = {"box": (0.06, 0.08, 0.2), "mug": (0.09, 0.09, 0.12), "bottle": (0.07, 0.07, 0.25)}  # extents, m
HANDOVER = (1.0, 0.0, 1.37)  # m, in the dataset's world
SPLIT = {
    "train_sub_names": [1, 2, "subject_x"],
    "val_sub_names": [7],
    "test_sub_names": [3],
    "all_sub_names": [1, 2, 3, 7, "subject_x"],
    "train_obj": ["box", "mug", "ghost"],
    "val_obj": ["bottle"],
    "test_obj": [],
    "all_obj": ["box", "mug", "ghost", "bottle"],
}
TRIALS: dict[str, dict] = {  # name of a trial that can be used -> options of write_trial
    "1/box/0": {"goals": 20},
    "1/box/1": {"side": "left"},
    "1/mug/0": {"yaml": False},
    "1/mug/1": {"images": True},
    "1/mug/2": {"longer": {"qpos.pt": 3, "real_obj_pcd_xyz.pt": 1}},
    "2/bottle/0": {},
    "2/mug/0": {"wrist": 0.12},
    "3/box/0": {"cloud_unit": 1000.0},
    "07/box/0": {},
    "subject_x/box/first": {},
}
SKIPPED = {"2/box/0": "missing obj_pose.pt", "2/ghost/0": "no object_model/ghost.obj"}


def object_poses(frames: int, generator: torch.Generator) -> Tensor:
    """(T, 7) float64, a slow drift and turn about the handover."""
    time = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None]
    drift, turn = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    position = torch.tensor(HANDOVER, dtype=torch.float64) + 0.05 * drift * time
    return torch.cat((position, quat_from_axis_angle(0.4 * time * turn + 0.2 * turn)), dim=-1)


def goal_grasps(count: int, generator: torch.Generator) -> Tensor:
    """(G, 29) float64, palm pose in the object frame and joints: hands all around, a hand's breadth away."""
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    turn = quat_normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64))
    joints = clamp_joints(0.3 * torch.rand(count, 22, generator=generator, dtype=torch.float64))
    return torch.cat((0.15 * away, turn, joints), dim=-1)


def with_wrist(states: Tensor, wrist: float = 0.0) -> Tensor:
    """Hand states (..., 28) with the two wrist joints put in. -> (..., 30)"""
    joints = torch.full((*states.shape[:-1], 2), wrist, dtype=states.dtype)
    return torch.cat((states[..., :6], joints, states[..., 6:]), dim=-1)


def to_matrices(poses: Tensor) -> Tensor:
    """Poses (T, 7) -> (T, 4, 4)."""
    matrices = torch.eye(4, dtype=poses.dtype).repeat(len(poses), 1, 1)
    matrices[:, :3, :3], matrices[:, :3, 3] = quat_to_matrix(poses[:, 3:]), poses[:, :3]
    return matrices


def surface(name: str, count: int = POINTS, seed: int = 0) -> Tensor:
    """(count, 3) points of an object's surface, object frame."""
    points, _ = trimesh.sample.sample_surface(mesh_of(name), count, seed=seed)
    return torch.from_numpy(np.asarray(points))


def mesh_of(name: str) -> trimesh.Trimesh:
    extents = OBJECTS.get(name, OBJECTS["box"])
    if name == "box":
        return trimesh.creation.box(extents)
    return trimesh.creation.cylinder(radius=extents[0] / 2, height=extents[2], sections=24)


def write_trial(
    root: Path,
    name: str,
    *,
    side: str = "right",
    frames: int = FRAMES,
    goals: int = 6,
    points: int = POINTS,
    wrist: float = 0.0,
    yaml: bool = True,
    images: bool = False,
    longer: dict[str, int] | None = None,
    cloud_unit: float = 1.0,
    seed: int = 0,
) -> Path:
    """One trial; `longer` says by how many frames a file is longer than the others. -> its folder"""
    folder = root / "DexH2R_dataset" / name
    folder.mkdir(parents=True)
    longer = longer or {}
    generator = torch.Generator().manual_seed(seed)
    most = frames + max(longer.values(), default=0)
    poses = object_poses(most, generator)
    object_name = name.split("/")[1]
    cloud = pose_apply(poses[:, None], surface(object_name, points, seed))

    start = poses[:, :3] - torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64)
    turn = quat_from_axis_angle(torch.tensor([0.1, 1.4, 0.2], dtype=torch.float64)).expand(most, 4)
    states = join_hand_state(torch.cat((start, turn), dim=-1), torch.full((most, 22), 0.1, dtype=torch.float64))
    mano = torch.zeros(most, 61, dtype=torch.float64)
    mano[:, :3] = poses[:, :3] + torch.tensor([0.1, 0.02, -0.05])
    mano[:, 3:6] = 0.2
    mano[:, 51:] = 0.3

    pool = goal_grasps(goals, generator)
    world = pose_multiply(poses[:, None], pool[:, :7])
    grasps = join_hand_state(world, pool[:, 7:].expand(most, goals, 22))
    if goals >= 20:  # as a filter leaves them: a double and a row of zeros
        grasps[:, 3] = grasps[:, 2]
        grasps[:, -1] = 0.0
    tensors = {
        "qpos.pt": with_wrist(states, wrist).float(),
        "obj_pose.pt": to_matrices(poses).float(),
        f"{side}_mano.pt": mano.float(),
        "real_obj_pcd_xyz.pt": (cloud_unit * cloud).float(),
        "model_final_qpose_cvae.pt": with_wrist(grasps).half(),
    }
    for file, value in tensors.items():
        torch.save(value[: frames + longer.get(file, 0)].clone(), folder / file)
    if yaml:
        (folder / "motion_info.yaml").write_text(f"grasp_begin_frame_index: {frames - 3}\n")
    calibration = {"value0": {"rotation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}, "translation": {"x": 0.1}}}
    (folder / "calibration" / "kinect").mkdir(parents=True)
    for file in ("zcam_to_kinect_transform", *(f"kinect/cali0{i}" for i in range(4))):
        (folder / "calibration" / f"{file}.json").write_text(json.dumps(calibration))
    if images:
        for camera in ("kinect/0/rgb", "realsense/0", "zcam/11"):
            (folder / camera).mkdir(parents=True)
            (folder / camera / "0.jpg").write_bytes(b"not an image")
        torch.save(torch.zeros(frames, POINTS, 3, dtype=torch.uint8), folder / "real_obj_pcd_color.pt")
    return folder


def write_cameras(folder: Path, frames: int = FRAMES, height: int = 6, width: int = 8) -> None:
    """Depth and colour of the four Kinects of a trial. Camera i sees 40000 + 100 i + t millimetres at frame t."""
    for i in range(4):
        depth = torch.arange(frames)[:, None, None] + torch.full((1, height, width), 40000 + 100 * i)
        torch.save((depth - 65536).to(torch.int16), folder / f"kinect_{i}_depth.pt")
        torch.save(torch.full((frames, height, width, 3), 10 * i, dtype=torch.uint8), folder / f"kinect_{i}_rgb.pt")


def write_models(root: Path) -> None:
    """Shapes. A urdf gives the box its mass, another names the bottle's mesh; both hold foreign paths."""
    folder = root / "object_model"
    folder.mkdir(parents=True)
    for name in OBJECTS:
        text = str(mesh_of(name).export(file_type="obj", include_normals=True))
        file = folder / ("bottle_mesh.obj" if name == "bottle" else f"{name}.obj")
        file.write_text("mtllib ../../elsewhere.mtl\n" + text)
    for name, mesh, inertial in (
        ("box", "box.obj", '<inertial><mass value="0.25"/></inertial>'),
        ("bottle", "bottle_mesh.obj", ""),
    ):
        (folder / f"{name}.urdf").write_text(
            f'<?xml version="1.0"?><robot name="{name}"><link name="base">{inertial}<visual><geometry>'
            f'<mesh filename="/home/somebody/models/{mesh}" scale="1 1 1"/></geometry></visual></link></robot>'
        )


def write_dataset(root: Path, trials: dict[str, dict] | None = None) -> Path:
    """A dataset of `trials`, by default all of `TRIALS` and those that lack something. -> its folder"""
    for i, (name, options) in enumerate((TRIALS if trials is None else trials).items()):
        write_trial(root, name, seed=i, **options)
    if trials is None:
        for name in SKIPPED:
            folder = write_trial(root, name)
            if name == "2/box/0":
                (folder / "obj_pose.pt").unlink()
    write_models(root)
    (root / "dataset_split.json").write_text(json.dumps(SPLIT))
    return root
