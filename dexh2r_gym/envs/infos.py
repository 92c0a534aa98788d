"""The `info` of resets and steps in Gymnasium's vector form: (B,) arrays, each with a mask of the worlds it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dexh2r_gym.envs.receive import Outcome
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.sensing.calibration import calibration
from dexh2r_gym.types import EpisodeStatus


def step_info(task: HandoverTask, mask: np.ndarray) -> dict[str, Any]:
    """What is told in every step of the worlds of the mask (B,) bool."""
    seen = {"points_seen": task.observer.points_seen.cpu().numpy()[mask]} if task.observer.sees_points else {}
    return masked(
        mask,
        **seen,
        replay=task.running_ids[mask],
        goal_distance=task.d.cpu().numpy()[mask],
        depth=task.depth.cpu().numpy()[mask],
        giver_force=task.scene.giver_force.cpu().numpy()[mask],
    )


def final_info(task: HandoverTask, finished: np.ndarray) -> dict[str, Any]:
    """What is told at the end of an episode, of the worlds of the mask (B,) bool."""
    worlds = torch.from_numpy(np.flatnonzero(finished)).to(task.device)
    values = {key: value.cpu().numpy() for key, value in task.metrics(worlds).items()}
    if task.arm is not None:
        values["arm_reason"] = _objects([task.arm.reason(world) for world in worlds.tolist()])
    if "outcome" in values:
        values["outcome"] = _objects([Outcome(int(x)).name for x in values["outcome"]])
    status = _objects([EpisodeStatus(s).name for s in task.status[worlds].tolist()])
    return masked(finished, **values, status=status)


def calibration_info(task: HandoverTask, mask: np.ndarray) -> dict[str, Any]:
    """The cameras of the worlds of the mask (B,) bool; see `dexh2r_gym.sensing.calibration`."""
    cameras, hand_pose = task.observer.cameras, task.scene.hand_pose.cpu()
    worlds = np.flatnonzero(mask).tolist()
    return masked(mask, calibration=_objects([calibration(cameras, hand_pose[world]) for world in worlds]))


def masked(mask: np.ndarray, **values: np.ndarray) -> dict[str, Any]:
    """Values (n,) of the worlds of a mask (B,) as (B,) arrays, each with its `_key` mask."""
    info: dict[str, Any] = {}
    for key, value in values.items():
        out = np.full((len(mask), *value.shape[1:]), None if value.dtype == object else 0, dtype=value.dtype)
        out[mask] = value
        info[key], info[f"_{key}"] = out, mask.copy()
    return info


def _objects(values: list[Any]) -> np.ndarray:
    """(n,) of dtype object, whatever the values are."""
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        out[i] = value
    return out
