"""The arm that carries the hand in B worlds: it takes the palm where it can, and says why where it cannot.

What is modelled is the arm's kinematics: reach, joint ranges, joint speeds, collisions with itself and its column. Its
dynamics are not: within these limits it follows at once, and contact does not push it off. Nor do its links act on the
object and the giver; `touched` counts the frames in which they would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from dexh2r_gym.arm.kinematics import ARM_SPEED, NUM_ARM_JOINTS, arm_frames, palm_pose
from dexh2r_gym.arm.motion import REASONS, move
from dexh2r_gym.arm.start import start_joints
from dexh2r_gym.arm.surroundings import Surroundings
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel

_REMEMBERED, _TOGETHER = 8192, 16  # starts kept; looked for at a time


class ArmRobot:
    """Follows palm targets frame by frame.

    Attributes:
        joints: (B, 6) rad. frames: (B,) how many the episode has had. limited: (B,) in how many of them the palm was
        further from its target than 5 mm or 0.05 rad. reasons: (B, 4) how many of those for which of `REASONS`.
        touched: (B,) in how many the arm, the hand's forearm and wrist met the object or the giver's hand.
    """

    def __init__(self, num_worlds: int, dt: float) -> None:
        self._step = ARM_SPEED * dt  # (6,) rad a frame
        self.joints = torch.zeros(num_worlds, NUM_ARM_JOINTS, dtype=torch.float64)
        self.frames, self.limited, self.touched = torch.zeros(3, num_worlds, dtype=torch.long)
        self.reasons = torch.zeros(num_worlds, len(REASONS), dtype=torch.long)
        self._surroundings = Surroundings(num_worlds)
        self._starts: OrderedDict[bytes, Tensor] = OrderedDict()

    def begin(
        self, worlds: Tensor, palm: Tensor, objects: Sequence[ObjectModel], givers: Sequence[GiverHand]
    ) -> Tensor:
        """Stand with the palm at these poses (n, 7), or as near as the arm can: (n, 7)."""
        self.joints = self.joints.index_put((worlds,), self._start(palm.double()))
        self._surroundings.begin(worlds, objects, givers)
        for count in (self.frames, self.limited, self.touched, self.reasons):
            count[worlds] = 0
        return palm_pose(arm_frames(self.joints[worlds]))

    def follow(self, target: Tensor, on: Tensor) -> Tensor:
        """The palm's pose (B, 7) after a frame in which the worlds that are on (B,) bool move towards target (B, 7)."""
        w = on.nonzero().squeeze(1)
        joints, far, reason = move(self.joints[w], target[w], self._step)
        self.joints = self.joints.index_put((w,), joints)  # a new tensor: what was handed out stays as it was
        self.frames[w] += 1
        self.limited[w] += far
        self.reasons[w[far], reason[far]] += 1
        out = target.clone()
        out[w] = palm_pose(arm_frames(joints))
        return out

    def look(self, worlds: Tensor, object_pose: Tensor, giver_bones: Tensor) -> None:
        """Count the worlds (n,) whose arm meets the object (n, 7) or the giver's hand (n, 16, 7)."""
        frames = arm_frames(self.joints[worlds])
        self.touched[worlds] += self._surroundings.meet(worlds, frames, object_pose, giver_bones)

    def summary(self, worlds: Tensor) -> dict[str, Tensor]:
        """Of worlds (n,): the parts of frames in which the arm was limited and touched something, (n,) each."""
        frames = self.frames[worlds].clamp_min(1)
        return {"arm_limited": self.limited[worlds] / frames, "arm_touch": self.touched[worlds] / frames}

    def reason(self, world: int) -> str:
        """What held the arm of this world back most often, one of `REASONS`, or '' if nothing did."""
        return REASONS[int(self.reasons[world].argmax())] if self.limited[world] > 0 else ""

    def _start(self, palm: Tensor) -> Tensor:
        """Joints (n, 6) for palms at poses (n, 7), looked for once."""
        keys = [pose.tobytes() for pose in palm.numpy()]
        new = list({key: i for i, key in enumerate(keys) if key not in self._starts}.values())
        found: dict[bytes, Tensor] = {}
        for rows in (new[i : i + _TOGETHER] for i in range(0, len(new), _TOGETHER)):
            found |= dict(zip((keys[i] for i in rows), start_joints(palm[rows]), strict=True))
        out = torch.stack([found[key] if key in found else self._starts[key] for key in keys])
        self._starts |= found
        while len(self._starts) > _REMEMBERED:
            self._starts.popitem(last=False)
        return out
