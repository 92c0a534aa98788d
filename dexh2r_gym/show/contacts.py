"""Where hand, object and giver touch in one frame, by MuJoCo's collision detection, without simulating anything."""

from __future__ import annotations

import copy
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.render import pose_scene
from dexh2r_gym.scene import scene_model
from dexh2r_gym.show.timeline import Timeline

PAIRS = ("robot-object", "robot-giver", "giver-object")  # who touches, what is touched
_ROBOT, _GIVER, _OBJECT = 0, 1, 2
_PAIR_OF = {(_ROBOT, _OBJECT): 0, (_ROBOT, _GIVER): 1, (_GIVER, _OBJECT): 2}
_OBJECT_CONTYPE = 2  # of the object's parts, which the giver passes through in the simulation


class Contacts(NamedTuple):
    """N contacts. World frame, metres."""

    pair: NDArray[np.int64]  # (N,) index of `PAIRS`
    position: NDArray[np.float64]  # (N, 3) midway between the surfaces
    normal: NDArray[np.float64]  # (N, 3) unit, out of what is touched
    depth: NDArray[np.float64]  # (N,) how far the two solids overlap there

    def count(self, pair: str) -> int:
        """Of one of `PAIRS`."""
        return int((self.pair == PAIRS.index(pair)).sum())


class ContactFinder:
    """Finds the contacts of a timeline's frames between the solids that the simulation uses: the hand's capsules and
    boxes, the object's convex parts, the giver's capsules (or hulls). The giver meets the object here, too."""

    def __init__(self, timeline: Timeline):
        model = copy.copy(scene_model(timeline.replay.object_model, timeline.giver))
        self._kind = np.array([_kind(model.body(body).name) for body in model.geom_bodyid])
        giver = self._kind == _GIVER
        model.geom_conaffinity[giver] |= _OBJECT_CONTYPE
        model.body_conaffinity[np.unique(model.geom_bodyid[giver])] |= _OBJECT_CONTYPE
        self._timeline, self._model, self._data = timeline, model, mujoco.MjData(model)

    def at(self, t: int) -> Contacts:
        """The contacts of frame t; those of the robot with itself are left out."""
        timeline = self._timeline
        pose_scene(self._model, self._data, timeline.scene, t, timeline.giver, timeline.bones[t])
        mujoco.mj_collision(self._model, self._data)
        contact = self._data.contact
        kinds = self._kind[contact.geom.reshape(-1, 2)]
        pair = np.array([_PAIR_OF.get((min(k), max(k)), -1) for k in kinds.tolist()], np.int64)
        shown = (pair >= 0) & (contact.dist < 0)
        away = np.where(kinds[:, :1] < kinds[:, 1:], -1.0, 1.0)  # MuJoCo's normal leads from the first to the second
        normal = away * contact.frame.reshape(-1, 9)[:, :3]
        return Contacts(pair[shown], contact.pos.reshape(-1, 3)[shown], normal[shown], -contact.dist[shown])


def _kind(body: str) -> int:
    return _OBJECT if body == "object" else _GIVER if body.startswith("giver_") else _ROBOT
