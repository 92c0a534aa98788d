"""Clouds of the object's points in one frame: as recorded, as cameras would see it, and clean."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.rotations import pose_apply
from dexh2r_gym.show.timeline import Timeline

NUM_POINTS = 1024
NONE = "none"


class Clouds:
    """The clouds of a timeline; `kinds` are those that it has."""

    def __init__(self, timeline: Timeline):
        recorded = ("recorded",) if "cloud" in timeline.replay.sensors else ()
        observed = ("observed",) if find_spec("dexh2r_gym.sensing.cloud") else ()
        self.kinds: tuple[str, ...] = (NONE, *recorded, *observed, "clean")
        self._timeline = timeline
        self._sensor: Any = None

    def at(self, kind: str, t: int) -> NDArray[np.float32]:
        """Points (P, 3) of frame t, world frame, metres; no points where there is no cloud."""
        replay, obj = self._timeline.replay, self._timeline.replay.object_model
        if kind == NONE:
            return np.zeros((0, 3), np.float32)
        if kind == "recorded":
            return replay.sensor("cloud", slice(t, t + 1))[0].numpy()
        if kind == "clean":
            return pose_apply(replay.object_pose[t].float(), obj.points[:: len(obj.points) // NUM_POINTS]).numpy()
        return self._observed(t)

    def _observed(self, t: int) -> NDArray[np.float32]:
        """By the corner cameras, past both hands; the same frame looks the same every time."""
        timeline, scene = self._timeline, self._timeline.scene
        if self._sensor is None:
            from dexh2r_gym.sensing.cloud import CloudSensor

            self._sensor = CloudSensor(1, NUM_POINTS)
            self._sensor.place(torch.tensor([0]), [timeline.replay.object_model], [timeline.giver])
        links = forward_kinematics(scene.hand_pose[t], scene.hand_joints[t])
        frame = slice(t, t + 1)
        seen = self._sensor.look(scene.object_pose[frame], timeline.bones[frame], links[None], torch.tensor([t]))
        return seen.points[0].float().numpy()
