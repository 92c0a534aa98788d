"""The goal grasps of B worlds, and what stands around them: for agents that are allowed to look at all of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dexh2r_gym.envs.recordings import Recordings
from dexh2r_gym.objects import ObjectBatch


@dataclass(frozen=True)
class Goals:
    """G goal grasps in each of B worlds."""

    pose: Tensor  # (B, G, 7) palm in the object frame
    joints: Tensor  # (B, G, 22)
    free: Tensor  # (B, G) bool, clear of the giver's hand now
    free_at_end: Tensor  # (B, G) bool, clear of it in the last frame of the recording
    giver_joints: Tensor  # (B, 16, 3) world
    object_index: Tensor  # (B,) which of `objects`
    objects: ObjectBatch


def goals_of(recordings: Recordings, trial: Tensor, row: Tensor, giver_bones: Tensor) -> Goals:
    """The goals of B worlds: trial (B,) that each runs, row (B,) of the recordings that it shows, giver_bones
    (B, 16, 7)."""
    return Goals(
        pose=recordings.goal_pose[trial],
        joints=recordings.goal_joints[trial],
        free=recordings.goal_free[row],
        free_at_end=recordings.goal_free[recordings.offset[trial] + recordings.length[trial] - 1],
        giver_joints=giver_bones[..., :3],
        object_index=recordings.object_index[trial],
        objects=recordings.objects,
    )
