"""One recorded trial, as read from a store (`Replay`) and as given to one (`Trial`), and the errors of this package.

T frames, G goal grasps of the object. Metres, radians, seconds; quaternions w x y z; world frame, z up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from dexh2r_gym.objects import ObjectModel

SPLITS = ("train", "validation", "test")
SIDES = ("right", "left")
GIVER_MODELS = ("open", "mano")
SENSORS = ("cloud", "depth", "image")


class ReplayError(ValueError):
    """A store, a replay or a frame of one is not what it should be.

    The message starts with what is known of the place: store, key inside the store, replay and frame.
    """

    def __init__(
        self,
        message: str,
        *,
        store: str | None = None,
        key: str | None = None,
        replay: str | None = None,
        frame: int | None = None,
    ) -> None:
        self.message, self.store, self.key, self.replay, self.frame = message, store, key, replay, frame
        place = [store, key, replay and f"replay {replay}", None if frame is None else f"frame {frame}"]
        where = ", ".join(part for part in place if part)
        super().__init__(f"{where}: {message}" if where else message)

    def __str__(self) -> str:
        return self.args[0]

    def __reduce__(self):
        return _rebuild_error, (type(self), self.message, self.store, self.key, self.replay, self.frame)


class UnknownReplayError(ReplayError, KeyError):
    """No replay of that id or number."""


def _rebuild_error(cls: type[ReplayError], message, store, key, replay, frame) -> ReplayError:
    return cls(message, store=store, key=key, replay=replay, frame=frame)


@dataclass(frozen=True)
class ReplayInfo:
    """What is known of a trial without reading its frames."""

    id: str  # "s03/spray_bottle/002": subject, object, number among the trials of that subject with that object
    object: str  # name of the object
    subject: int
    side: str  # the giver's hand: "right" or "left"
    split: str  # "train", "validation" or "test"
    kind: str  # "train", "validation" or, in the test split, the kind of test trial (see `splits.trial_kind`)
    fps: float
    num_frames: int
    grasp_begin: int  # first frame of the static grasp that ends the trial, -1 if unknown
    has_demo: bool
    has_giver: bool  # False: none was recorded, and the giver's numbers park a hand far below the floor


@dataclass(frozen=True, eq=False)
class Replay(ReplayInfo):
    """One trial. Tensors are shared with the store's cache: do not write into them."""

    object_pose: Tensor  # (T, 7) float64, object in the world
    giver: Tensor  # (T, 61) float64, MANO: translation, global orientation, 15 x 3 hand pose, 10 shape
    giver_model: str  # whose 61 numbers they are: "open" (the open hand) or "mano"
    hand_start: Tensor  # (28,) float64, hand state of the robot at frame 0
    demo: Tensor | None  # (T, 28) float64 hand states of the demonstration
    goal_free: Tensor  # (T, G) bool, the goal is clear of the giver's hand at this frame
    goal_pose: Tensor  # (G, 7) float64, palm in the object frame
    goal_joints: Tensor  # (G, 22) float64
    sensors: tuple[str, ...]  # what `sensor` can read, of `SENSORS`
    calibration: Mapping[str, Any] | None  # of the cameras, as recorded
    load_object: Callable[[str], ObjectModel] = field(repr=False)  # the store's geometry of an object, by name
    load_sensor: Callable[[str, slice], Tensor] = field(repr=False)  # rows of a sensor of this trial

    @property
    def object_model(self) -> ObjectModel:
        """Geometry and mass of the object; trials of one store share it."""
        return self.load_object(self.object)

    @property
    def betas(self) -> Tensor:
        """(10,) float64, shape of the giver's hand."""
        return self.giver[0, -10:]

    def sensor(self, name: str, frames: slice = slice(None)) -> Tensor:
        """Recorded frames of a sensor, read from the store at every call.

        "cloud" (T, P, 3) float32, segmented object points, metres, world; "depth" (T, C, H, W) uint16, millimetres;
        "image" (T, C, H, W, 3) uint8. ReplayError where this store has no such sensor.
        """
        if name not in self.sensors:
            raise ReplayError(f"no sensor {name!r}; recorded: {', '.join(self.sensors) or 'none'}", replay=self.id)
        return self.load_sensor(name, frames)


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial to be written."""

    subject: int
    object: str
    side: str
    split: str
    fps: float
    object_pose: NDArray[np.floating]  # (T, 7)
    giver: NDArray[np.floating]  # (T, 61)
    hand_start: NDArray[np.floating]  # (28,)
    goal_free: NDArray[np.bool_] | None = None  # (T, G), None: all are free
    demo: NDArray[np.floating] | None = None  # (T, 28)
    grasp_begin: int = -1
    goals: NDArray[np.floating] | None = None  # (G, 29) palm pose in the object frame, joints; None: its object's
    has_giver: bool = True
    sensors: Mapping[str, NDArray] = field(default_factory=dict)  # see `Replay.sensor`; the same ones in every trial
    calibration: Mapping[str, Any] | None = None  # what json can hold
    number: int | None = None  # last part of the id; None counts the trials of this subject with this object from 0


def replay_id(subject: int, object_name: str, number: int) -> str:
    """The id of a trial, unique within its store: "s03/spray_bottle/002"."""
    return f"s{subject:02d}/{object_name}/{number:03d}"
