"""The jobs of an import: one object, the goal grasps of one object, one trial. Each leaves a file and is done once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.replay.dexh2r.layout import GOAL_FILE, MANO_FILES, MODELS, SENSOR_FILES, Remark, TrialFiles
from dexh2r_gym.replay.dexh2r.trial import TrialData, read_sensors, read_trial
from dexh2r_gym.replay.replay import ReplayError, Trial
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.replay.work import load_arrays, save_arrays
from dexh2r_gym.replay.write import StoredObject

COARSE = 0.1  # part of its volume by which an object's convex parts may exceed its mesh without a remark


@dataclass(frozen=True)
class Job:
    """One object or trial to be done; a trial whose goals are not its own names the file of its object's."""

    folder: Folder
    work: Path
    name: str  # of the object
    trial: TrialFiles | None = None
    sensors: tuple[str, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    num_goals: int = 0
    seed: int = 0

    @property
    def trial_file(self) -> Path:
        """What is kept of the trial."""
        assert self.trial is not None
        return self.work / "trials" / f"{self.trial.subject}~{self.name}~{self.trial.number}.npz"

    @property
    def object_file(self) -> Path:
        """What is kept of the object: convex parts and mass."""
        return self.work / "objects" / f"{self.name}.npz"

    @property
    def goal_file(self) -> Path:
        """Goal grasps searched for the object."""
        return self.work / "goals" / f"{self.name}.npz"


@dataclass(frozen=True)
class Outcome:
    """How a job went."""

    job: Job
    error: ReplayError | None = None  # the file that is damaged
    remarks: tuple[Remark, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)  # of a trial: hand, frames, palm_low, palm_high, rows


def convert_object(job: Job) -> Outcome:
    """Convex parts and mass of an object, in `job.object_file`."""
    from dexh2r_gym.replay.dexh2r.objects import make_object, read_mesh

    keys = [f"{MODELS}/{job.name}{ending}" for ending in (".obj", ".urdf")]
    try:
        now = job.folder.stamps(key for key in keys if job.folder.has(key))
        done = load_arrays(job.object_file)
        if done is None or done[1]["stamps"] != now:
            job.goal_file.unlink(missing_ok=True)
            mesh, mass = read_mesh(job.folder.below(MODELS), job.name)
            made = make_object(mesh, mass, {"source": f"DexH2R, {job.name}"})
            assert made.parts is not None
            ends = np.cumsum([len(part) for part in made.parts])
            info: dict[str, Any] = {"stamps": now, "mass": made.mass, "metadata": made.metadata}
            save_arrays(job.object_file, {"parts": np.concatenate(made.parts), "ends": ends}, info)
            done = {}, info
    except ReplayError as error:
        return Outcome(job, error)
    excess = done[1]["metadata"]["volume_excess"]
    coarse = Remark(job.name, "convex parts that enclose more than the mesh", f"{100 * excess:.0f}%")
    return Outcome(job, remarks=(coarse,) if excess > COARSE else ())


def convert_goals(job: Job) -> Outcome:
    """Goal grasps of an object by search, in `job.goal_file`; a minute or more. `convert_object` comes first."""
    from dexh2r_gym.grasps import make_pool
    from dexh2r_gym.objects.build import build_object

    if not job.goal_file.exists():
        made = load_object_file(job)
        assert made.parts is not None
        model = build_object(job.name, made.parts, mass=made.mass, recentre=False)
        try:
            pool = make_pool(model, seed=job.seed, num=job.num_goals, num_threads=1)
        except ValueError as error:
            return Outcome(job, ReplayError(str(error), store=str(job.folder.root), key=f"{MODELS}/{job.name}"))
        job.goal_file.parent.mkdir(exist_ok=True)
        pool.save(job.goal_file)
    return Outcome(job)


def convert_trial(job: Job) -> Outcome:
    """One trial, but for its sensors, in `job.trial_file`; done before, it is only looked at."""
    trial = job.trial
    assert trial is not None
    try:
        same = {
            "stamps": job.folder.stamps(_trial_keys(job)),
            "name": trial.name,
            "hand": _giver_hand(trial.side),
        }
        done = load_arrays(job.trial_file)
        if done is None or any(done[1][key] != value for key, value in same.items()):
            data = read_trial(job.folder, trial, job.sensors)
            arrays = _arrays(job, data)
            palm = arrays["demo"][:, :3]
            info = same | {
                "grasp_begin": data.grasp_begin,
                "cloud_scale": data.cloud_scale,
                "calibration": data.calibration,
                "rows": {name: list(row) for name, row in data.rows.items()},
                "remarks": [list(remark) for remark in data.remarks],
                "frames": len(palm),
                "palm_low": palm.min(0).tolist(),
                "palm_high": palm.max(0).tolist(),
            }
            save_arrays(job.trial_file, arrays, info)
            done = {}, info
    except ReplayError as error:
        return Outcome(job, error)
    info = done[1]
    return Outcome(job, remarks=tuple(Remark(trial.name, *remark) for remark in info["remarks"]), info=info)


def load_object_file(job: Job) -> StoredObject:
    """An object that was converted, without goals."""
    done = load_arrays(job.object_file)
    assert done is not None
    arrays, info = done
    return StoredObject(None, np.split(arrays["parts"], arrays["ends"][:-1]), info["mass"], info["metadata"])


def load_goals(job: Job) -> Tensor:
    """Goals (G, 29) float32 that were searched for the object."""
    from dexh2r_gym.grasps import read_pool

    pool = read_pool(job.goal_file)
    return torch.cat((pool.palm_pose, pool.joints), dim=-1)


def load_trial(job: Job, fps: float) -> Trial:
    """A trial that was converted, with its sensors read anew from the dataset."""
    trial, done = job.trial, load_arrays(job.trial_file)
    assert trial is not None and done is not None
    arrays, info = done
    sensors = read_sensors(job.folder, trial, job.sensors, info["frames"], info["cloud_scale"])
    if "cloud" in sensors:
        sensors["cloud"] -= np.asarray(job.origin, np.float32)
    return Trial(
        subject=trial.subject,
        object=trial.object,
        side=trial.side,
        split=trial.split,
        fps=fps,
        object_pose=arrays["object_pose"],
        giver=arrays["giver"],
        hand_start=arrays["demo"][0],
        goal_free=arrays["goal_free"],
        demo=arrays["demo"],
        grasp_begin=info["grasp_begin"],
        goals=arrays.get("goals"),
        sensors=sensors,
        calibration=info["calibration"],
        number=trial.number,
    )


def _arrays(job: Job, data: TrialData) -> dict[str, NDArray]:
    """What is kept of a trial, in the scene, with the goals that its giver leaves free."""
    from dexh2r_gym.giver import GiverHand
    from dexh2r_gym.grasps import free_of_giver

    origin = np.asarray(job.origin)
    arrays: dict[str, NDArray] = {"object_pose": data.object_pose, "giver": data.giver, "demo": data.demo}
    arrays = {key: np.concatenate((value[:, :3] - origin, value[:, 3:]), axis=1) for key, value in arrays.items()}
    if data.goals is not None:
        arrays["goals"] = data.goals
    goals = (load_goals(job) if data.goals is None else torch.from_numpy(data.goals)).double()
    assert job.trial is not None
    giver = torch.from_numpy(arrays["giver"])
    hand = GiverHand.from_mano(giver, job.trial.side, model="mano")
    free = free_of_giver(goals[:, :7], goals[:, 7:], torch.from_numpy(arrays["object_pose"]), hand, giver)
    return arrays | {"goal_free": free.numpy()}


def _giver_hand(side: str) -> str:
    """Whose shape decides which goals the giver leaves free: MANO's, or that of the open hand in its place.

    Raises what `load_mano` raises where $DEXH2R_MANO is set in vain.
    """
    from dexh2r_gym.giver.mano_file import FOLDER_VARIABLE, load_mano

    if not os.environ.get(FOLDER_VARIABLE):
        return "stand-in"
    load_mano(side)
    return "MANO"


def _trial_keys(job: Job) -> list[str]:
    """Files of a trial that its conversion reads, but for calibration."""
    trial = job.trial
    assert trial is not None
    files = ["qpos.pt", "obj_pose.pt", MANO_FILES[trial.side]]
    files += [file for file in (GOAL_FILE, "motion_info.yaml") if file in trial.files]
    for name in job.sensors:
        prefix = "" if name == "cloud" else trial.sensor_folder
        files += [prefix + file for file in SENSOR_FILES[name]]
    return [trial.key(file) for file in files]
