"""What follows when the hand has reached its grasp: it closes, takes the load, and must hold what the giver lets go.

Batched over B worlds. The hand closes as in the grasps' stability test, gives way to what it pushes against, lifts
until the giver feels the load gone (contact force), holds for `HOLD_TIME` and is then shaken along six directions. The
giver's side is in `dexh2r_gym.giver.letting_go`. Nothing of this is in the paper, which stops where the grasp is
reached.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import advance
from dexh2r_gym.constants import constant
from dexh2r_gym.grasps.tighten import tighten
from dexh2r_gym.hand import BASE_STIFFNESS
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.rotations import pose_apply, pose_integrate, pose_inverse, pose_multiply
from dexh2r_gym.types import NUM_JOINTS, SceneState

CLOSE_TIME, SETTLE_TIME = 0.33, 0.2  # s, in which the fingers close and then press
TIGHTEN_STEP = 0.15  # rad beyond contact to which fingers are told to close, see `grasps.tighten`
_YIELD = 0.3 / BASE_STIFFNESS[0]  # m/N a frame by which the hand gives way to what it pushes against
_MAX_YIELD = 0.02  # m, along each axis
LIFT_SPEED = 0.012  # m/s, against the giver's hold
LIFT_TIME = 1.5  # s, after which a giver who still holds will not let go
LOAD_FRAMES = 3  # frames in a row in which the robot carries the object's weight before the giver lets go
HOLD_TIME = 2.0  # s
SHAKE_DISTANCE, SHAKE_TIME = 0.04, 0.4  # m out and back, s, along each direction: at most 4.9 m/s^2
SHAKES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))  # world
DROP_DISTANCE = 0.05  # m that the object's centre of mass may move in the hand
GRAVITY = 9.81  # m/s^2


class Phase(IntEnum):
    """What an episode is at."""

    APPROACH = 0
    ALIGNMENT = 1
    CLOSING = 2  # the fingers close, the giver still holds
    LIFTING = 3  # the robot takes the load
    HOLDING = 4  # the giver has let go
    SHAKING = 5


class Outcome(IntEnum):
    """How the physical handover ended."""

    NOT_REACHED = 0  # there was none: the hand never reached a grasp
    HELD = 1
    NOT_RELEASED = 2  # the robot never carried the object's weight for long enough
    DROPPED = 3
    DIVERGED = 4


class Receive:
    """The handovers of B worlds. A world takes part from `begin` until `over`.

    Attributes:
        phase: (B,) `Phase`, 0 for worlds that do not take part. over: (B,) bool. outcome: (B,) `Outcome`.
        held: (B,) bool, the giver holds the object. release_frame: (B,) frame of the episode in which the giver let
            go, -1. since_release: (B,) frames. drop_time: (B,) seconds from release to loss, inf where not lost.
        slip: (B,) metres, the farthest that the object's centre of mass has moved in the hand since release.
    """

    def __init__(self, num_worlds: int, dt: float, device: torch.device | str = "cpu") -> None:
        n = num_worlds
        self._dt = dt
        none, zero = torch.zeros(n, dtype=torch.long, device=device), torch.zeros(n, dtype=torch.float64, device=device)
        self.phase, self.outcome = none.clone(), none.clone()
        self.held = torch.ones(n, dtype=torch.bool, device=device)
        self.release_frame = none - 1
        self.since_release = none.clone()
        self.drop_time = zero + torch.inf
        self.slip = zero.clone()
        self._frames = none.clone()  # of the phase
        self._pose = zero.new_zeros(n, 2, 7)  # palm in the object, from and to
        self._joints = zero.new_zeros(n, 2, NUM_JOINTS)
        self._hold = zero.new_zeros(n, 7)  # palm in the world, once the giver has let go
        self._yielded = zero.new_zeros(n, 3)
        self._loaded = none.clone()
        self._weight = zero.clone()
        self._middle = zero.new_zeros(n, 3)  # centre of mass, object frame
        self._grasped = zero.new_zeros(n, 3)  # the same in the palm's frame when the giver let go
        self._late = none.clone()

    @property
    def over(self) -> Tensor:
        return self.outcome > 0

    def forget(self, worlds: Tensor) -> None:
        """New episodes in worlds (n,)."""
        self.phase[worlds], self.outcome[worlds] = 0, Outcome.NOT_REACHED
        self.held[worlds], self.release_frame[worlds], self.since_release[worlds] = True, -1, 0
        self.drop_time[worlds], self.slip[worlds] = torch.inf, 0.0

    def begin(
        self,
        worlds: Tensor,
        command: tuple[Tensor, Tensor],
        grasp: tuple[Tensor, Tensor],
        object_pose: Tensor,
        objects: ObjectBatch,
        index: Tensor,
        late: Tensor,
    ) -> None:
        """The hands of worlds (n,) have reached their grasps.

        Args:
            command: palm (n, 7), world, and joints (n, 22) that they were told last.
            grasp: palm (n, 7), object frame, and joints (n, 22), which are tightened here.
            object_pose: (n, 7). index: (n,) which of `objects` each world has.
            late: (n,) frames that the giver lets go later than the load is taken over, or earlier than the robot lifts.
        """
        self.phase[worlds], self._frames[worlds] = Phase.CLOSING, 0
        self._pose[worlds] = torch.stack((pose_multiply(pose_inverse(object_pose), command[0]), grasp[0]), dim=1)
        tight = tighten(objects, *grasp, index=index, step=TIGHTEN_STEP).double()
        self._joints[worlds] = torch.stack((command[1], tight), dim=1)
        self._yielded[worlds], self._loaded[worlds], self._late[worlds] = 0.0, 0, late
        own = [objects.objects[i] for i in index.tolist()]
        self._weight[worlds] = GRAVITY * self._weight.new_tensor([obj.mass for obj in own])
        self._middle[worlds] = self._middle.new_tensor(np.stack([obj.center_of_mass for obj in own]))

    def weigh(self, worlds: Tensor, factor: Tensor) -> None:
        """The objects of worlds (n,) are so many times (n,) as heavy as their models; said after `begin`."""
        self._weight[worlds] *= factor

    def command(self, worlds: Tensor, scene: SceneState) -> tuple[Tensor, Tensor]:
        """What the hands of worlds (n,) are told: palm (n, 7), world, and joints (n, 22).

        Until the giver lets go the palm stays with the object, which is expected where it would go next.
        """
        w, phase = worlds, self.phase[worlds]
        seconds = self._dt * (self._frames[w] + 1).double()
        closed = (seconds / CLOSE_TIME).clamp_max(1.0)
        pose, joints = advance(
            self._pose[w, 0], self._joints[w, 0], self._pose[w, 1], self._joints[w, 1], closed[:, None].expand(-1, 3)
        )
        lifting = phase == Phase.LIFTING
        pose = torch.where(lifting[:, None], self._pose[w, 1], pose)
        joints = torch.where((phase == Phase.CLOSING)[:, None], joints, self._joints[w, 1])
        ahead = pose_integrate(scene.object_pose[w], scene.object_velocity[w], self._dt)
        pose = pose_multiply(ahead, pose)
        lift = torch.zeros_like(pose)
        lift[:, 2] = torch.where(lifting, LIFT_SPEED * seconds, 0.0)
        lift[:, :3] += self._yielded[w]
        shaken = torch.zeros_like(pose)
        shaken[:, :3] = torch.where((phase == Phase.SHAKING)[:, None], shake(seconds), 0.0)
        return torch.where(self.held[w, None], pose + lift, self._hold[w] + shaken), joints

    def look(self, worlds: Tensor, scene: SceneState, command: Tensor, time: Tensor) -> Tensor:
        """Take in a frame of worlds (n,), command: palm (n, 7) they were told, time: (n,) frame of the episode.

        Returns those of the worlds whose giver lets go now.
        """
        w, phase, load = worlds, self.phase[worlds], scene.load[worlds]
        self._frames[w] += 1
        done = self._dt * self._frames[w]
        closing, lifting = phase == Phase.CLOSING, phase == Phase.LIFTING
        # what the robot pushes against pushes back, and the hand gives way
        yielding = (closing & (done > CLOSE_TIME / 3) & self.held[w])[:, None]
        yielded = (self._yielded[w] - _YIELD * load).clamp(-_MAX_YIELD, _MAX_YIELD)
        self._yielded[w] = torch.where(yielding, yielded, self._yielded[w])
        carried = lifting & (load[:, 2] >= self._weight[w])
        self._loaded[w] = torch.where(carried | (self._loaded[w] >= LOAD_FRAMES), self._loaded[w] + 1, 0)
        early = closing & (self._late[w] < 0) & (done >= CLOSE_TIME + SETTLE_TIME + self._dt * self._late[w])
        lets_go = self.held[w] & (early | (self._loaded[w] >= LOAD_FRAMES + self._late[w].clamp_min(0)))
        self._follow(w, scene)
        self._release(w[lets_go], scene, command[lets_go], time[lets_go])
        ready = closing & (done >= CLOSE_TIME + SETTLE_TIME)
        self._pose[w[ready], 1] = pose_multiply(pose_inverse(scene.object_pose[w]), command)[ready]
        self._yielded[w[ready]] = 0.0
        held, frames_held = self.held[w], self._dt * self.since_release[w]
        following = torch.where(ready, Phase.LIFTING, phase)
        following = torch.where(~held & (ready | ~closing), Phase.HOLDING, following)
        following = torch.where(~held & (frames_held >= HOLD_TIME), Phase.SHAKING, following)
        self._frames[w] = torch.where(following == phase, self._frames[w], 0)
        self.phase[w] = following
        self._judge(w, following, held, scene.diverged[w])
        return w[lets_go]

    def results(self, worlds: Tensor) -> dict[str, Tensor]:
        """Of the finished episodes of worlds (n,): held (bool), outcome, release_frame, drop_time (s, inf where nothing
        was lost), slip (cm)."""
        w, outcome = worlds, self.outcome[worlds]
        return {
            "held": outcome == Outcome.HELD,
            "outcome": outcome,
            "release_frame": self.release_frame[w],
            "drop_time": self.drop_time[w],
            "slip": 100.0 * self.slip[w],
        }

    def record(self, world: int) -> dict[str, float | str]:
        """The same of one world, for its record."""
        worlds = torch.tensor([world], device=self.phase.device)
        values = {name: value.item() for name, value in self.results(worlds).items()}
        del values["held"]
        return values | {"outcome": Outcome(int(values["outcome"])).name}

    def _release(self, w: Tensor, scene: SceneState, command: Tensor, time: Tensor) -> None:
        self.held[w], self._hold[w], self.release_frame[w], self.since_release[w] = False, command, time, 0
        self._grasped[w] = self._in_palm(w, scene)

    def _follow(self, w: Tensor, scene: SceneState) -> None:
        """How far the object has slipped, and whether it is lost, in worlds w (n,) whose giver has let go."""
        w = w[~self.held[w]]
        self.since_release[w] += 1
        moved = (self._in_palm(w, scene) - self._grasped[w]).norm(dim=-1)
        self.slip[w] = torch.maximum(self.slip[w], moved)
        lost = w[moved > DROP_DISTANCE]
        self.drop_time[lost] = self._dt * self.since_release[lost].double()

    def _judge(self, w: Tensor, phase: Tensor, held: Tensor, diverged: Tensor) -> None:
        seconds = self._dt * self._frames[w]
        outcome = torch.where((phase == Phase.SHAKING) & (seconds >= len(SHAKES) * SHAKE_TIME), Outcome.HELD, 0)
        outcome = torch.where(held & (phase == Phase.LIFTING) & (seconds >= LIFT_TIME), Outcome.NOT_RELEASED, outcome)
        outcome = torch.where(self.drop_time[w].isfinite(), Outcome.DROPPED, outcome)
        outcome = torch.where(diverged, Outcome.DIVERGED, outcome)
        self.outcome[w] = outcome

    def _in_palm(self, w: Tensor, scene: SceneState) -> Tensor:
        """The object's centre of mass in the palm's frame, (n, 3)."""
        return pose_apply(pose_multiply(pose_inverse(scene.hand_pose[w]), scene.object_pose[w]), self._middle[w])


def shake(seconds: Tensor) -> Tensor:
    """How far the hand is shaken off its place, (n, 3) metres, world, so many seconds (n,) after shaking began: out and
    back along each of `SHAKES`, at rest at both ends."""
    part = seconds.clamp(0, len(SHAKES) * SHAKE_TIME - 1e-9) / SHAKE_TIME
    way = constant(SHAKES, seconds)[part.long()]
    return way * (SHAKE_DISTANCE * (1 - torch.cos(2 * torch.pi * part)) / 2)[:, None]


def max_frames(fps: float) -> int:
    """Most frames that a handover can last."""
    return round((CLOSE_TIME + SETTLE_TIME + LIFT_TIME + HOLD_TIME + len(SHAKES) * SHAKE_TIME) * fps) + 10
