"""What the hands of B worlds are told, frame by frame: by actions that may arrive late, or by the environment."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.envs.control import hand_target
from dexh2r_gym.envs.latency import MAX_LATENCY, ActionDelay
from dexh2r_gym.envs.options import HandoverOptions
from dexh2r_gym.worlds import put, take


class Commands:
    """Keeps what was told last, and the actions that are on their way.

    Attributes:
        pose: (B, 7) palm, world, and joints: (B, 22), told last. A new tensor after each step.
    """

    def __init__(self, num_worlds: int, dt: float, options: HandoverOptions) -> None:
        self._dt, self._mode, self._limits = dt, options.control_mode, options.speed_limits
        self._latency = options.latency
        longest, device = MAX_LATENCY if options.realtime else options.latency, options.place
        self._delay = ActionDelay(num_worlds, longest, device, blindly=options.blindly)
        self.pose = torch.zeros(num_worlds, 7, dtype=torch.float64, device=device)
        self.joints = torch.zeros(num_worlds, 22, dtype=torch.float64, device=device)

    def begin(self, worlds: Tensor, pose: Tensor, joints: Tensor) -> None:
        """New episodes in worlds (n,), whose hands stand at pose (n, 7) and joints (n, 22)."""
        self.pose, self.joints = put(self.pose, worlds, pose), put(self.joints, worlds, joints)
        self._delay.begin(worlds)

    def asked(self, action: Tensor, late: Tensor | None, on: Tensor) -> tuple[Tensor, Tensor]:
        """What the agents ask for now, palm (B, 7) and joints (B, 22): what was told last, where no action asks for
        more.

        action: (B, 28) of the worlds that are on, (B,) bool. late: (B,) frames until it arrives, by default the option
        `latency`.
        """
        late = torch.full((len(on),), self._latency, device=on.device) if late is None else late
        action, told, fresh = self._delay.exchange(action, late, on)
        pose, joints = hand_target(action, self.pose, self.joints, self._mode, self._limits, self._dt)
        told &= fresh | (self._mode == "absolute")  # a move is made once, a target holds
        return torch.where(told[:, None], pose, self.pose), torch.where(told[:, None], joints, self.joints)

    def tell(self, pose: Tensor, joints: Tensor, on: Tensor) -> None:
        """Tell the hands of the worlds that are on, (B,) bool, to be at pose (B, 7) and joints (B, 22)."""
        self.pose = torch.where(on[:, None], pose, self.pose)
        self.joints = torch.where(on[:, None], joints, self.joints)

    def of(self, worlds: Tensor) -> tuple[Tensor, Tensor]:
        """Palm (n, 7) and joints (n, 22) told last in worlds (n,)."""
        return take(self.pose, worlds), take(self.joints, worlds)
