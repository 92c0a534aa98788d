"""Clouds of the object's points in one frame: as recorded, as observed by the corner cameras, and clean."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.sensing.cloud import CLOUDS, CloudSensor
from dexh2r_gym.show.timeline import Timeline

NUM_POINTS = 1024
NONE = "none"


class Clouds:
    """The clouds of a timeline; `kinds` are those that it has. A frame looks the same every time."""

    def __init__(self, timeline: Timeline):
        recorded = ("recorded",) if "cloud" in timeline.replay.sensors else ()
        self.kinds: tuple[str, ...] = (NONE, *recorded, *CLOUDS)
        self._timeline = timeline
        self._sensors: dict[str, CloudSensor] = {}

    def at(self, kind: str, t: int) -> NDArray[np.float32]:
        """Points (P, 3) of frame t, world frame, metres; no points where there is no cloud, or nothing is seen."""
        if kind == NONE:
            return np.zeros((0, 3), np.float32)
        if kind == "recorded":
            return self._timeline.replay.sensor("cloud", slice(t, t + 1))[0].numpy()
        scene, frame = self._timeline.scene, slice(t, t + 1)
        links = forward_kinematics(scene.hand_pose[frame], scene.hand_joints[frame])
        bones = self._timeline.bones[frame]
        cloud = self._sensor(kind).look(scene.object_pose[frame], bones, links, torch.tensor([t]))
        return cloud.points[0].numpy() if int(cloud.seen[0]) else np.zeros((0, 3), np.float32)

    def _sensor(self, kind: str) -> CloudSensor:
        """Made when first asked for: an object never seen before takes a second."""
        if kind not in self._sensors:
            sensor = self._sensors[kind] = CloudSensor(1, NUM_POINTS, kind=kind)
            sensor.place(torch.tensor([0]), [self._timeline.replay.object_model], [self._timeline.giver])
        return self._sensors[kind]
