"""The arrays that travel through the project: shapes, units and frames, said once.

B worlds, T frames, G goals. Metres, radians, seconds, newtons; quaternions w x y z; poses are [x y z, qw qx qy qz];
world frame (z up) unless a name says otherwise. Hand pose is that of the frame `rh_palm`.

Hand state, 28 numbers: palm position (3), palm rotation as axis-angle (3), the 22 finger joints in the order of
`dexh2r_gym.hand.JOINT_NAMES` (DexH2R, ICCV 2025, section 4; wrist joints are fixed at zero and left out).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from torch import Tensor

from dexh2r_gym.rotations import quat_from_axis_angle, quat_to_axis_angle

NUM_JOINTS = 22
HAND_STATE_SIZE = 28
MANO_SIZE = 61  # translation 3, global orientation 3 (axis-angle), hand pose 15 x 3 (axis-angle), shape 10
NUM_GIVER_JOINTS = 16
MAX_SPEED = 100.0  # m/s or rad/s; a body faster than this is not physics any more
GIVER_PARTS = ("palm", "index", "middle", "little", "ring", "thumb")  # of the giver's hand, as MANO orders its joints


class EpisodeStatus(IntEnum):
    """Why an episode ended, or that it runs."""

    RUNNING = 0
    REACHED = 1  # goal pose alignment brought the palm within 1 cm of the goal
    TIMEOUT_APPROACH = 2  # the recording ended and alignment had never begun
    TIMEOUT_ALIGNMENT = 3  # the recording ended while alignment was under way
    DIVERGED = 4  # the physics of this world became invalid


@dataclass
class SceneState:
    """What a simulator exposes after each step, B worlds."""

    hand_pose: Tensor  # (B, 7) palm
    hand_joints: Tensor  # (B, 22)
    hand_velocity: Tensor  # (B, 28) palm linear m/s and angular rad/s (world frame), joints rad/s
    object_pose: Tensor  # (B, 7)
    object_velocity: Tensor  # (B, 6) linear, angular
    giver_force: Tensor  # (B,) N, sum of the magnitudes of contact forces of the robot on the giver's hand
    giver_peak: Tensor  # (B, 6) N, greatest contact force of the frame on each of `GIVER_PARTS`
    giver_impulse: Tensor  # (B, 6) N s, what the frame adds
    contact_speed: Tensor  # (B,) m/s, greatest speed of the robot relative to the giver's hand where they touch
    load: Tensor  # (B, 3) N, mean contact force of the robot on the object in the frame
    diverged: Tensor  # (B,) bool
    arm_joints: Tensor | None = None  # (B, 6) rad, where an arm carries the hand

    @classmethod
    def blank(cls, num_worlds: int, device: torch.device | str = "cpu") -> SceneState:
        """Hands and objects at the origin, at rest, and nothing touches."""
        pose = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64, device=device).repeat(num_worlds, 1)
        zeros = pose.new_zeros
        return cls(
            hand_pose=pose,
            hand_joints=zeros(num_worlds, NUM_JOINTS),
            hand_velocity=zeros(num_worlds, HAND_STATE_SIZE),
            object_pose=pose.clone(),
            object_velocity=zeros(num_worlds, 6),
            giver_force=zeros(num_worlds),
            giver_peak=zeros(num_worlds, len(GIVER_PARTS)),
            giver_impulse=zeros(num_worlds, len(GIVER_PARTS)),
            contact_speed=zeros(num_worlds),
            load=zeros(num_worlds, 3),
            diverged=zeros(num_worlds, dtype=torch.bool),
        )

    def to(self, device: torch.device | str) -> SceneState:
        """The same on another device."""
        present = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: value.to(device) for name, value in present if value is not None})


def split_hand_state(state: Tensor) -> tuple[Tensor, Tensor]:
    """Hand state (..., 28) -> palm pose (..., 7), joints (..., 22)."""
    pose = torch.cat((state[..., :3], quat_from_axis_angle(state[..., 3:6])), dim=-1)
    return pose, state[..., 6:]


def join_hand_state(pose: Tensor, joints: Tensor) -> Tensor:
    """Palm pose (..., 7), joints (..., 22) -> hand state (..., 28)."""
    return torch.cat((pose[..., :3], quat_to_axis_angle(pose[..., 3:]), joints), dim=-1)
