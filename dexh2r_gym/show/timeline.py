"""A recorded trial, or an episode of a run, as states of the scene, one a frame, without simulating anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexh2r_gym.alignment import nearest_goal
from dexh2r_gym.envs.receive import Phase
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.replay import Replay
from dexh2r_gym.rotations import pose_inverse, pose_multiply
from dexh2r_gym.types import GIVER_PARTS, EpisodeStatus, SceneState, split_hand_state

SAME = 1e-5  # m and rad by which an episode's first frame may differ from its replay's


@dataclass(frozen=True, eq=False)
class Timeline:
    """T frames of a trial. World frame, metres.

    Of an episode, `replay` is cut to its length, its object is where it was then, and its demonstration is what the
    robot did.
    """

    replay: Replay
    giver: GiverHand
    bones: Tensor  # (T, 16, 7) float64, the giver's
    hand_state: Tensor  # (T, 28) float64: the demonstration; without one the robot waits where it starts
    scene: SceneState  # frame t stands where world t would; nothing moves in it
    record: Mapping[str, NDArray] | None = None  # of the episode, keys of `run_folder.RECORD`

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
            giver_peak=still[:, : len(GIVER_PARTS)],
            giver_impulse=still[:, : len(GIVER_PARTS)],
            contact_speed=still[:, 0],
            load=still[:, :3],
            diverged=torch.zeros(frames, dtype=torch.bool),
        )
        return cls(replay, giver, giver.bone_poses(replay.giver), hand_state, scene)

    @classmethod
    def of_episode(cls, replay: Replay, record: Mapping[str, NDArray]) -> Timeline:
        """The frames of an episode of this trial, from its record in a run folder.

        Raises ValueError where the record is not of this trial: another object, more frames, or another first frame.
        """
        if (why := _stranger(replay, record)) is not None:
            raise ValueError(
                f"the episode of {replay.id} was not made with this replay: {why}; name the replays that the run was "
                "made with (--replays)"
            )
        frames = len(record["depth"])
        rows = torch.arange(frames).clamp_max(replay.num_frames - 1)  # the physical handover outlasts the recording
        as_replay = dataclasses.replace(
            replay,
            num_frames=frames,
            object_pose=torch.from_numpy(record["object_pose"]),
            giver=replay.giver[rows],
            goal_free=replay.goal_free[rows],
            demo=torch.from_numpy(record["hand_state"]),
            has_demo=True,
        )
        timeline = cls.of(as_replay)
        touched = ("giver_force", "giver_peak", "giver_impulse", "contact_speed", "load")
        scene = dataclasses.replace(timeline.scene, **{name: torch.from_numpy(record[name]) for name in touched})
        bones = torch.from_numpy(record["giver_bones"]).double()
        return dataclasses.replace(timeline, scene=scene, bones=bones, record=record)

    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Index (T,) of the goal that the robot is nearest to, -1 where none is free, and the distance d (T,) of the
        palms in metres, inf there. Of an episode d is the recorded one, which leaves out goals that were given up."""
        replay, scene = self.replay, self.scene
        hand = pose_multiply(pose_inverse(scene.object_pose), scene.hand_pose)
        goals = replay.goal_pose.expand(len(hand), -1, -1)
        index, d = nearest_goal(hand, goals, replay.goal_free)
        if self.record is not None:
            d = torch.from_numpy(self.record["d"])
            distance = (goals[..., :3] - hand[:, None, :3]).norm(dim=-1)
            index = torch.where(replay.goal_free, (distance - d[:, None]).abs(), torch.inf).argmin(dim=-1)
        return torch.where(d.isfinite(), index, -1).numpy(), d.numpy()

    @property
    def alignment_begin(self) -> int:
        """First frame moved by goal pose alignment; the number of frames where there is none."""
        begin = -1 if self.record is None else int(self.record["alignment_begin"])
        return begin if begin >= 0 else self.replay.num_frames

    def phase(self, t: int) -> str:
        """Of an episode at frame t: approach, alignment, or in its last frame how it ended."""
        assert self.record is not None, "a replay has no phases"
        if t == self.replay.num_frames - 1:
            return status_words(str(self.record["status"]))
        return Phase(int(self.record["phase"][t])).name.lower()


def status_words(status: str) -> str:
    """How an episode ended, for people. Raises ValueError for what is no `EpisodeStatus`."""
    if status not in EpisodeStatus.__members__:
        raise ValueError(f"unknown status {status!r} of an episode; known: {', '.join(EpisodeStatus.__members__)}")
    return status.lower().replace("_", " in ") if status.startswith("TIMEOUT") else status.lower()


def _stranger(replay: Replay, record: Mapping[str, NDArray]) -> str | None:
    """Why the record cannot be of this trial."""
    if str(record["object"]) != replay.object:
        return f"its object is {str(record['object'])!r}, here {replay.object!r}"
    if record["approach_frames"] > replay.num_frames:
        return f"its approach has {record['approach_frames']} frames, the replay {replay.num_frames}"
    starts = ((record["object_pose"], replay.object_pose[0]), (record["hand_state"], replay.hand_start))
    if not all(np.allclose(recorded[0], start.numpy(), atol=SAME) for recorded, start in starts):
        return "it begins elsewhere"
    return None
