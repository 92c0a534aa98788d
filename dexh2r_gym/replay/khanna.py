"""Import of a recorded human handover: Handovers@RPL (Khanna, Bjorkman and Smith, RO-MAN 2023, arXiv 2304.02154).

A recording is a folder of csv files, one row per sample at 120 Hz, one header line. Poses are `x,y,z,q0,q1,q2,q3` in
metres, z up; q0..q3 are x y z w (so read, upper bodies stand upright and face each other). The baton's long axis is its
x axis. Hands and hips are bones of a motion capture skeleton whose axes, with arms spread and palms down, are x to the
left, y to the back and z up; a hand's origin is the wrist. Grip forces are -Fz of the wrenches, newtons.

What the recording does not have is modelled. The baton's shape is not published: see `baton_parts`. Fingers were not
tracked: they are closed on that baton by `grasp_near`, with the wrist as near to the mean recorded one as a sound
grasp allows. The closed hand then moves with the baton; the few millimetres by which the recorded wrist moves against
it would take the fingers off. After the giver's release, the giver of the trial comes to rest and waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.replay.recorded import Goals, recorded_object, recorded_trial
from dexh2r_gym.replay.replay import ReplayError
from dexh2r_gym.replay.write import free_path, write_store
from dexh2r_gym.rotations import (
    pose_inverse,
    pose_multiply,
    quat_angle,
    quat_from_axis_angle,
    quat_multiply,
    quat_slerp,
)

RECORDED_RATE = 120  # Hz
FPS = 30
STEP = RECORDED_RATE // FPS
SMOOTHING = 2.0  # samples, standard deviation of the filter before three of four samples are left out
GRIP = 2.0  # N, a hand that presses harder holds the baton (unloaded sensors read up to 1 N)
MASS = 0.8  # kg, the baton of settings 1 and 3 (1.8 kg in setting 2)
NUM_GOALS = 32
MIN_GOALS = 5  # of them must be clear of the giver's hand
SETTLE = 0.1  # s, time constant with which the giver comes to rest
LICENCE = "MIT, Copyright (c) 2022 Parag Khanna; fingers, baton shape and goal grasps added by dexh2r-gym"

_POSE = ("x", "y", "z", "q0", "q1", "q2", "q3")
_WRENCH = ("Fx", "Fy", "Fz", "Tx", "Ty", "Tz")
# A hand bone's axes against our rest frame (fingers -x, palm -y, index finger +z): the same x, its z is our y.
_BONE_TO_REST = quat_from_axis_angle(torch.tensor([torch.pi / 2, 0.0, 0.0], dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Recording:
    """What is read of one recorded handover, N samples at 120 Hz, in the frame of the motion capture (z up)."""

    baton: Tensor  # (N, 7) float64
    wrists: dict[str, Tensor]  # side -> (N, 7) float64, bones of the giver's hands
    giver_hip: Tensor  # (N, 3)
    taker_hip: Tensor  # (N, 3)
    giver_grip: NDArray[np.float64]  # (N,) N
    taker_grip: NDArray[np.float64]  # (N,) N


def read_recording(folder: str | Path) -> Recording:
    """Read a recording; ReplayError names the file and row that is not what it should be."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReplayError("no such folder", store=str(folder))
    poses = {name: _pose(folder, name) for name in ("baton", "giver_RHand", "giver_LHand", "giver_hip", "taker_hip")}
    grips = {who: -_table(folder, f"Wrench_{who}_saved.csv", _WRENCH)[:, 2] for who in ("giver", "taker")}
    lengths = {name: len(value) for name, value in (poses | grips).items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ReplayError(f"files of different lengths: {listed}", store=str(folder))
    return Recording(
        baton=poses["baton"],
        wrists={"right": poses["giver_RHand"], "left": poses["giver_LHand"]},
        giver_hip=poses["giver_hip"][:, :3],
        taker_hip=poses["taker_hip"][:, :3],
        giver_grip=grips["giver"],
        taker_grip=grips["taker"],
    )


def held_span(recording: Recording) -> tuple[int, int, int]:
    """Samples at which the giver's hold begins, the taker's grip begins, and the giver lets go (the last one held)."""
    giver, taker = recording.giver_grip > GRIP, recording.taker_grip > GRIP
    both = np.flatnonzero(giver & taker)
    if len(both) == 0:
        raise ReplayError(f"giver and taker never hold the baton at once (grip forces over {GRIP:g} N)")
    contact = int(both[0])
    begin = int(np.flatnonzero(~giver[:contact])[-1]) + 1 if not giver[:contact].all() else 0
    after = np.flatnonzero(~giver[contact:])
    release = contact + int(after[0]) - 1 if len(after) else len(giver) - 1
    return begin, contact, release


def to_scene(recording: Recording, span: tuple[int, int, int]) -> Tensor:
    """Pose (7,) of the recorded frame in ours: giver on the +x side, taker on -x, baton at x = y = 0 at the contact.

    Heights are kept.
    """
    begin, contact, release = span
    way = (recording.taker_hip - recording.giver_hip)[begin : release + 1].mean(0)
    yaw = torch.pi - torch.atan2(way[1], way[0])
    turn = quat_from_axis_angle(torch.stack((0 * yaw, 0 * yaw, yaw)))
    pose = torch.cat((torch.zeros_like(way), turn))
    shift = -pose_multiply(pose, recording.baton[contact])[:3] * way.new_tensor([1.0, 1.0, 0.0])
    return torch.cat((shift, turn))


def resample(poses: Tensor) -> Tensor:
    """Smooth poses (N, 7) at 120 Hz, to be taken every fourth: a Gaussian, on quaternions of one sign."""
    quaternion = poses[:, 3:].numpy()
    flips = np.cumprod(np.where((quaternion[1:] * quaternion[:-1]).sum(-1) < 0, -1.0, 1.0))
    aligned = np.concatenate((quaternion[:1], quaternion[1:] * flips[:, None]))
    smooth = torch.from_numpy(
        gaussian_filter1d(np.concatenate((poses[:, :3].numpy(), aligned), -1), SMOOTHING, axis=0, mode="nearest")
    )
    return torch.cat((smooth[:, :3], torch.nn.functional.normalize(smooth[:, 3:], dim=-1)), dim=-1)


def come_to_rest(poses: Tensor, seconds: float) -> Tensor:
    """Poses (T, 7) at 30 Hz, followed by `seconds` in which the last motion dies away."""
    count = round(seconds * FPS)
    time = torch.arange(1, count + 1, dtype=poses.dtype)[:, None] / FPS
    steps = FPS * SETTLE * (1 - torch.exp(-time / SETTLE))  # of the last frame's motion, (count, 1)
    last, before = poses[-1], poses[-2]
    position = last[:3] + steps * (last - before)[:3]
    rotation = quat_slerp(before[3:].expand(count, 4), last[3:].expand(count, 4), 1 + steps)
    return torch.cat((poses, torch.cat((position, rotation), dim=-1)))


def mean_wrist(recording: Recording, span: tuple[int, int, int]) -> tuple[str, Tensor]:
    """The hand that holds the baton, and its mean pose (7,) in the baton's frame, in the axes of our rest hand."""
    held = slice(span[0], span[1] + 1)  # until the taker's grip
    baton = recording.baton[held]
    near = {side: float((wrist[held] - baton)[:, :3].norm(dim=-1).mean()) for side, wrist in recording.wrists.items()}
    side = min(near, key=lambda key: near[key])
    relative = pose_multiply(pose_inverse(baton), recording.wrists[side][held])
    rotation = Rotation.from_quat(relative[:, 3:].numpy(), scalar_first=True).mean().as_quat(scalar_first=True)
    return side, torch.cat((relative[:, :3].mean(0), quat_multiply(torch.from_numpy(rotation), _BONE_TO_REST)))


def baton_parts() -> list[NDArray[np.float64]]:
    """Convex parts of the baton, metres: two handles 45 mm thick and a hub 71 mm wide, along x, 340 mm long.

    Its drawings are not published. The hub is as wide as the force sensors in it (OnRobot HEX, 71 mm). The length
    follows from the recorded wrists, 205 mm to either side of the middle with the fingers towards it: the ends then
    lie in the palms. The handles' thickness is one that both hands can close around.
    """
    angle = np.arange(16) * np.pi / 8
    circle = np.stack((0 * angle, np.cos(angle), np.sin(angle)), axis=-1)

    def cylinder(begin: float, end: float, radius: float) -> NDArray[np.float64]:
        return np.concatenate([radius * circle + [x, 0.0, 0.0] for x in (begin, end)])

    return [cylinder(-0.17, -0.04, 0.0225), cylinder(-0.04, 0.04, 0.0355), cylinder(0.04, 0.17, 0.0225)]


def import_khanna(
    folder: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    wait: float = 1.0,
    make_goals: Callable[..., Goals] | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Turn one recorded handover into a store with one trial at 30 Hz, in the test split.

    The trial runs from the moment the giver holds the baton to the giver's release, and on for `wait` seconds in which
    the giver holds still. `grasp_begin` is the frame in which the human taker's grip began.

    Args:
        folder: of the csv files.
        out: the store to write, a folder or a `.zarr.zip`.
        seed: of the search for the giver's and for the goal grasps.
        wait: seconds added after the recording.
        make_goals: called as `make_goals(baton, seed=seed)`; None searches for `NUM_GOALS` by `grasps.make_pool`.
        progress: say what takes long.
        overwrite: replace a store at `out`.
    """
    from dexh2r_gym.grasps import free_of_giver, make_pool
    from dexh2r_gym.objects.build import build_object

    out = free_path(out, overwrite)
    if not wait >= 0:
        raise ValueError(f"wait must be at least 0 seconds, got {wait}")
    recording = read_recording(folder)
    begin, contact, release = span = held_span(recording)
    smooth = pose_multiply(to_scene(recording, span), resample(recording.baton))
    object_pose = come_to_rest(smooth[begin : release + 1 : STEP], wait)

    metadata = {"licence": "CC0-1.0", "source": "modelled after the baton of Handovers@RPL, not measured"}
    baton = build_object("baton", baton_parts(), mass=MASS, metadata=metadata, recentre=False)
    with tqdm(
        desc="goal grasps of the baton, half a minute or more", disable=not progress, bar_format="{desc}: {elapsed}"
    ):
        pool = make_goals(baton, seed=seed) if make_goals else make_pool(baton, seed=seed, num=NUM_GOALS)
    side, wrist = mean_wrist(recording, span)
    giver = GiverHand(side)
    here = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0]], dtype=torch.float64)

    def free(mano: Tensor) -> Tensor:
        return free_of_giver(pool.palm_pose.double(), pool.joints.double(), here, giver, mano[None])[0]

    grasp = _giver_grasp(giver, baton, wrist, free, seed)
    moved = float((grasp[:3] - wrist[:3]).norm())
    num_frames = len(object_pose)
    begin_of_grip = -(-(contact - begin) // STEP)
    mano = move_mano(object_pose, grasp)
    trial = recorded_trial(baton, pool, giver, object_pose, mano, fps=FPS, grasp_begin=begin_of_grip)
    provenance: dict[str, Any] = {
        "source": "Handovers@RPL, Khanna, Bjorkman and Smith, RO-MAN 2023, doi 10.1109/RO-MAN57019.2023.10309537",
        "importer": "dexh2r_gym.replay.khanna",
        "folder": Path(folder).name,
        "recorded_samples": [begin, release],
        "recorded_frames": num_frames - round(wait * FPS),
        "added_frames": round(wait * FPS),
        "wrist_moved_metres": round(moved, 4),
    }
    objects = {"baton": recorded_object(baton, pool)}
    return write_store(out, [trial], objects, licence=LICENCE, provenance=provenance, seed=seed, overwrite=overwrite)


def _giver_grasp(giver: GiverHand, baton: Any, wrist: Tensor, free: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """MANO numbers (61,) in the baton's frame: a sound grasp near the recorded wrist that leaves goals free."""
    from dexh2r_gym.giver.fit import grasp_near

    generator = torch.Generator().manual_seed(seed)
    found = 0
    for shift, turn in ((0.03, 0.35), (0.05, 0.5)):  # metres, radians
        fit = grasp_near(giver, baton, wrist, spread=(shift, turn), generator=generator)
        found += len(fit)
        cost = ((fit.mano[:, :3] - wrist[:3]) / shift).square().sum(-1)
        cost = cost + (quat_angle(quat_from_axis_angle(fit.mano[:, 3:6]), wrist[3:]) / turn).square()
        cost = cost - 2.0 * fit.contacts.sum(-1)  # a finger more in contact is worth about a centimetre
        for mano in fit.mano[cost.argsort()]:
            if int(free(mano).sum()) >= MIN_GOALS:
                return mano
    raise ReplayError(
        f"no grasp of the giver near the recorded wrist leaves {MIN_GOALS} goals free ({found} sound grasps found)"
    )


def _pose(folder: Path, name: str) -> Tensor:
    """(N, 7) of `<name>_pose_saved.csv`, quaternions w x y z and of norm 1."""
    file = f"{name}_pose_saved.csv"
    table = _table(folder, file, _POSE)
    norm = np.linalg.norm(table[:, 3:], axis=-1)
    wrong = np.flatnonzero(np.abs(norm - 1) >= 1e-3)
    if len(wrong):
        raise ReplayError(
            f"quaternion of norm {norm[wrong[0]]:.6g}, expected 1", store=str(folder), key=file, frame=int(wrong[0])
        )
    table[:, 3:] /= norm[:, None]
    return torch.from_numpy(table[:, [0, 1, 2, 6, 3, 4, 5]])


def _table(folder: Path, file: str, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, len(columns)) float64 of a csv file with one header line."""
    path = folder / file
    if not path.is_file():
        raise ReplayError("missing; a recording is a folder of 30 csv files", store=str(folder), key=file)
    try:
        with path.open(encoding="utf-8") as stream:
            header = tuple(name.strip() for name in stream.readline().split(","))
            table = np.loadtxt(stream, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        raise ReplayError(f"cannot be read ({error})", store=str(folder), key=file) from error
    if header != columns or table.shape[1:] != (len(columns),) or len(table) < RECORDED_RATE:
        raise ReplayError(
            f"expected columns {','.join(columns)} and at least {RECORDED_RATE} rows,"
            f" found {','.join(header)} and an array {table.shape}",
            store=str(folder),
            key=file,
        )
    wrong = np.flatnonzero(~np.isfinite(table).all(-1))
    if len(wrong):
        raise ReplayError("a number is not finite", store=str(folder), key=file, frame=int(wrong[0]))
    return table
