"""A recorded trial as states of the scene, one a frame, without simulating anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import Replay
from dexh2r_gym.types import SceneState, split_hand_state


@dataclass(frozen=True, eq=False)
class Timeline:
    """T frames of a trial. World frame, metres."""

    replay: Replay
    giver: GiverHand
    bones: Tensor  # (T, 16, 7) float64, the giver's
    hand_state: Tensor  # (T, 28) float64: the demonstration; without one the robot waits where it starts
    scene: SceneState  # frame t stands where world t would; nothing moves in it

    @classmethod
    def of(cls, replay: Replay) -> Timeline:
        """The frames of a trial as recorded."""
        giver = GiverHand.from_mano(replay.giver, replay.side, model=replay.giver_model)
        frames = replay.num_frames
        hand_state = replay.hand_start.expand(frames, -1) if replay.demo is None else replay.demo
        hand_pose, hand_joints = split_hand_state(hand_state)
        still = torch.zeros(frames, 28, dtype=torch.float64)
        scene = SceneState(
            hand_pose=hand_pose,
            hand_joints=hand_joints,
            hand_velocity=still,
            object_pose=replay.object_pose,
            object_velocity=still[:, :6],
            giver_force=still[:, 0],
            diverged=torch.zeros(frames, dtype=torch.bool),
        )
        return cls(replay, giver, giver.bone_poses(replay.giver), hand_state, scene)
