"""Whether a trial moves as things do that hands move: no jump between two frames.

The limits are far above what was measured (objects passed by hand peak at 2.2 m/s, `motion_statistics` of the data
card) and far below what a wrong frame, unit or sign makes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.replay.replay import Replay, ReplayError
from dexh2r_gym.rotations import pose_velocity, quat_from_axis_angle
from dexh2r_gym.types import split_hand_state

MAX_SPEED = 5.0  # m/s: object, giver's wrist, robot's palm
MAX_TURNING = 40.0  # rad/s: the same
MAX_BENDING = 40.0  # rad/s: a finger joint, the giver's or the robot's


def check_continuity(replay: Replay, *, store: str | None = None) -> None:
    """Raise ReplayError, naming key and frame, at the first jump of object, giver's hand or demonstration."""
    wrist = torch.cat((replay.giver[:, :3], quat_from_axis_angle(replay.giver[:, 3:6])), dim=-1)
    bends = quat_from_axis_angle(replay.giver[:, 6:51].unflatten(-1, (15, 3)))
    bodies: list[tuple[str, str, Tensor, Tensor | None]] = [("data/object_pose", "object", replay.object_pose, None)]
    bending: Tensor | None
    if replay.has_giver:
        bending = 2 * (bends[1:] * bends[:-1]).sum(-1).abs().clamp(max=1.0).acos() * replay.fps
        bodies.append(("data/giver", "giver's wrist", wrist, bending))
    if replay.demo is not None:
        palm, joints = split_hand_state(replay.demo)
        bodies.append(("data/hand_state", "robot's palm", palm, (joints[1:] - joints[:-1]).abs() * replay.fps))
    for key, name, pose, bending in bodies:
        velocity = pose_velocity(pose[:-1], pose[1:], 1.0 / replay.fps)
        measures = [
            (f"{name} at {{:.1f}} m/s", velocity[:, :3].norm(dim=-1), MAX_SPEED),
            (f"{name} turns at {{:.0f}} rad/s", velocity[:, 3:].norm(dim=-1), MAX_TURNING),
        ]
        if bending is not None:
            measures.append(("a finger joint bends at {:.0f} rad/s", bending.flatten(1).amax(-1), MAX_BENDING))
        for text, values, limit in measures:
            if (over := values > limit).any():
                frame = int(over.long().argmax())
                what = f"{text.format(values[frame])}, at most {limit:g} is possible: a jump to frame {frame + 1}"
                raise ReplayError(what, store=store, key=key, replay=replay.id, frame=frame)
