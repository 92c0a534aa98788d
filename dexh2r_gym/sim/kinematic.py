"""The paper's evaluation without physics: hand, object and giver are where they are told to be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dexh2r_gym.rotations import pose_velocity
from dexh2r_gym.sim import Pair
from dexh2r_gym.types import SceneState
from dexh2r_gym.worlds import put


class KinematicSimulator:
    """See `dexh2r_gym.sim.Simulator`. Forces are zero; velocities are differences of consecutive frames."""

    def __init__(self, num_worlds: int, dt: float, device: torch.device | str = "cpu"):
        self._dt = dt
        self.state = SceneState.blank(num_worlds, device)

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """Nothing to do: it is the poses alone that move."""

    def reset(
        self,
        worlds: Tensor,
        pair: Tensor,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        factors: Tensor | None = None,
    ) -> None:
        s = self.state
        s.hand_pose, s.hand_joints = put(s.hand_pose, worlds, hand_pose), put(s.hand_joints, worlds, joints)
        s.hand_velocity = put(s.hand_velocity, worlds, 0.0)
        s.object_pose, s.object_velocity = put(s.object_pose, worlds, object_pose), put(s.object_velocity, worlds, 0.0)

    def grip(self, worlds: Tensor) -> None:
        """Nothing to do: nothing slips here."""

    def step(
        self,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        active: Tensor,
        held: Tensor,
    ) -> None:
        s, on = self.state, active[:, None]
        palm = pose_velocity(s.hand_pose, hand_pose, self._dt)
        velocity = torch.cat((palm, (joints - s.hand_joints) / self._dt), dim=-1)
        s.hand_velocity = torch.where(on, velocity, 0.0)
        s.object_velocity = torch.where(on, pose_velocity(s.object_pose, object_pose, self._dt), 0.0)
        s.hand_pose = torch.where(on, hand_pose, s.hand_pose)
        s.hand_joints = torch.where(on, joints, s.hand_joints)
        s.object_pose = torch.where(on, object_pose, s.object_pose)

    def close(self) -> None:
        """Nothing to free."""
