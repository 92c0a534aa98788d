"""Goal grasps that a user's run has left in a trial's folder or a zarr file: hand states in the world.

They were made for the object once and carried along with it, so those of the first frame, seen from the object, are
the goals of the whole trial.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle, quat_normalize
from dexh2r_gym.types import split_hand_state

CARRIED = (0.005, 0.05)  # m, rad: further off than this at the last frame, goals were not carried along
STILL = 1e-6  # rad


def object_frame_goals(states: Tensor, object_pose: Tensor) -> tuple[Tensor, Tensor]:
    """Goals of one frame in the object's frame, without zeros and doubles, at most `MAX_GOALS` of them.

    states (G, 28) hand states in the world, object_pose (7,) float64. -> (g, 29) float32, and (g,) long: which these
    are.
    """
    there = (states != 0).any(-1).nonzero()[:, 0]
    kept = torch.from_numpy(np.unique(states[there].numpy(), axis=0, return_index=True)[1])
    index = there[kept.sort().values][:MAX_GOALS]
    pose, joints = split_hand_state(states[index].double())
    inner = pose_multiply(pose_inverse(object_pose).expand_as(pose), pose)
    inner = torch.cat((inner[:, :3], quat_normalize(inner[:, 3:])), dim=-1)
    return torch.cat((inner, joints), dim=-1).float(), index


def carried_goals(states: Tensor, object_pose: Tensor) -> tuple[Tensor, list[tuple[str, str]]]:
    """Goals (g, 29) of a trial from hand states (T, G, 30) with wrist joints, object_pose (T, 7), and what is odd.

    Whether they were carried along with the object is looked at in the last frame.
    """
    first, last = (torch.cat((x[:, :6], x[:, 8:]), dim=-1) for x in (states[0], states[-1]))
    goals, index = object_frame_goals(first, object_pose[0])
    odd = []
    wrist = float(states[0, :, 6:8].abs().max())
    if wrist > STILL:
        odd.append(("goal grasps with wrist joints that are not 0, left out", f"up to {wrist:.4f} rad"))
    if len(goals) < len(first):
        odd.append(("goal grasps that are zeros, doubles or too many, left out", f"{len(first) - len(goals)}"))
    if len(goals):
        expected = pose_multiply(object_pose[-1].expand(len(goals), 7), goals[:, :7].double())
        found, _ = split_hand_state(last[index].double())
        shift = float((expected - found)[:, :3].norm(dim=-1).max())
        turn = float(quat_angle(expected[:, 3:], quat_normalize(found[:, 3:])).max())
        if shift > CARRIED[0] or turn > CARRIED[1]:
            detail = f"up to {100 * shift:.1f} cm and {turn:.2f} rad off at the last frame"
            odd.append(("goal grasps that were not carried along with the object, first frame's taken", detail))
    return goals, odd
