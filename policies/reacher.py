"""A policy that reinforcement learning trains: one network from the flat state to one move of the palm.

It sees everything from the palm and along the world's axes, as actions of `control_mode="delta"` are: what is to be
learned is then near to linear. It moves the palm alone, 6 numbers; the fingers stay as they stand, open, until goal
pose alignment closes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dexh2r_gym.envs.observations import STATE_SHAPES
from dexh2r_gym.rotations import quat_conjugate, quat_multiply, quat_normalize, quat_to_axis_angle
from dexh2r_gym.types import HAND_STATE_SIZE, split_hand_state
from policies.hand_vectors import turn_numbers
from policies.normalizer import Normalizer

MOVE_SIZE = 6  # of the palm: position and rotation
SEEN_SIZE = 78
_FAR = 1.0  # m: a goal that is farther away, or none, counts as this far


def seen_from_palm(state: Tensor) -> Tensor:
    """The flat state (B, 148) as the palm sees it, (B, 78), along the world's axes: way (m) and turn (axis-angle, rad)
    to the goal, the palm's rotation (6 numbers) and velocity, the object's position and velocity, the giver's joints,
    d, phase."""
    part = dict(zip(STATE_SHAPES, state.split(list(STATE_SHAPES.values()), dim=-1), strict=True))
    (palm, _), (goal, _) = (split_hand_state(part[name]) for name in ("agent_pos", "goal_state"))
    position, rotation = palm[:, :3], palm[:, 3:]
    giver = part["giver_joints"].unflatten(-1, (-1, 3)) - position[:, None]
    seen = (
        goal[:, :3] - position,
        quat_to_axis_angle(quat_normalize(quat_multiply(goal[:, 3:], quat_conjugate(rotation)))),
        turn_numbers(rotation, "6d"),
        part["agent_vel"][:, :6],
        part["object_pose"][:, :3] - position,
        part["object_vel"],
        giver.flatten(1),
        part["goal_distance"].clamp_max(_FAR),
        part["phase"],
    )
    return torch.cat(seen, dim=-1)


def hand_action(move: Tensor) -> Tensor:
    """The environment's action (B, 28), -1..1, of a move of the palm (B, 6): it is clipped, and the fingers rest."""
    return nn.functional.pad(move.clamp(-1.0, 1.0), (0, HAND_STATE_SIZE - MOVE_SIZE))


@dataclass(frozen=True)
class ReacherConfig:
    """Widths of the hidden layers."""

    widths: tuple[int, ...] = (256, 256)


class Reacher(nn.Module):
    """A `policies.Agent`: looks at the flat state, and moves by deltas.

    Trainers train `net` on `numbers(seen_from_palm(state))`, by whatever library, and copy both in.
    """

    needs: ClassVar[tuple[str, ...]] = ("state",)
    answers: ClassVar[str] = f"change of the palm, {MOVE_SIZE} numbers, delta"

    def __init__(self, config: ReacherConfig = ReacherConfig()) -> None:
        super().__init__()
        self.config = config
        self.numbers = Normalizer(SEEN_SIZE)
        sizes = (SEEN_SIZE, *config.widths)
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ELU())]
        self.net = nn.Sequential(*hidden, nn.Linear(sizes[-1], MOVE_SIZE))

    def forward(self, state: Tensor) -> Tensor:
        """Moves of the palm (B, 6) for flat states (B, 148)."""
        return self.net(self.numbers(seen_from_palm(state)))

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """See `policies.Agent`; `deterministic` changes nothing, for the mean of the actions is all that is kept.

        Raises:
            ValueError: the observation is not the flat state.
        """
        if not isinstance(observation, np.ndarray) or observation.shape[1:] != (sum(STATE_SHAPES.values()),):
            raise ValueError("this policy looks at the flat state; make the environment with obs_mode='state'")
        return hand_action(self(torch.from_numpy(observation))).numpy(), None

    def env_options(self) -> dict[str, Any]:
        """Arguments of the environment that it acts in."""
        return {"obs_mode": "state", "control_mode": "delta"}
