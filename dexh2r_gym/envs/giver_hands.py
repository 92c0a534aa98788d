"""Where the givers' hands are in B worlds: where they are played until they let go, then on a way out of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.letting_go import let_go
from dexh2r_gym.hand import surface_points
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import pose_apply, pose_inverse
from dexh2r_gym.types import NUM_GIVER_JOINTS, SceneState
from dexh2r_gym.worlds import put

_SKIN_STRIDE = 8  # every so many points of the robot's surface tell the giver where the robot is


class GiverHands:
    """A way out is planned once, when a giver lets go (see `dexh2r_gym.giver.letting_go`), and then followed; a giver
    who has come to its end stays there.

    Attributes:
        bones: (B, 16, 7), world. A new tensor after each step.
    """

    def __init__(self, num_worlds: int, dt: float, device: torch.device | str = "cpu") -> None:
        self._dt = dt
        self.bones = torch.zeros(num_worlds, NUM_GIVER_JOINTS, 7, dtype=torch.float64, device=device)
        self._ways: Tensor | None = None  # (B, K, 16, 7), made when the first giver lets go

    def begin(self, worlds: Tensor, played: Tensor) -> None:
        """New episodes in worlds (n,), with bones (n, 16, 7)."""
        self.bones = put(self.bones, worlds, played)

    def move(self, on: Tensor, played: Tensor, held: Tensor, since: Tensor) -> None:
        """One frame of the worlds that are on, (B,) bool.

        played: (B, 16, 7) bones as the recording is played. held: (B,) bool, the giver has not let go; since: (B,)
        frames that it has.
        """
        self.bones = torch.where(on[:, None, None], played, self.bones)
        if self._ways is None:
            return
        out = (on & ~held).nonzero().squeeze(1)
        if len(out):
            self.bones[out] = self._way(out, since[out])

    def let_go(self, world: int, giver: GiverHand, scene: SceneState, obj: ObjectModel) -> None:
        """The giver of this world lets go of the object."""
        from_world = pose_inverse(scene.object_pose[world]).cpu()  # planned on the CPU, where the giver's hand is
        skin, _ = surface_points(scene.hand_pose[world, None].cpu(), scene.hand_joints[world, None].cpu())

        def distance(points: Tensor) -> Tensor:
            return obj.signed_distance_fast(pose_apply(from_world, points))

        way = let_go(giver, self.bones[world].cpu(), self._dt, distance, skin[0, ::_SKIN_STRIDE])
        if self._ways is None:
            self._ways = self.bones.new_zeros(len(self.bones), *way.shape)
        self._ways[world] = way

    def past(self, world: int, length: int, recorded: Tensor, release: int) -> Tensor:
        """The bones in all frames of this world's last episode, (length, 16, 7), where its giver was as recorded,
        (T, 16, 7), until it let go in frame `release` (-1: it did not)."""
        bones = recorded[torch.arange(length, device=recorded.device).clamp_max(len(recorded) - 1)]
        if release >= 0:
            bones[release + 1 :] = self._way(world, torch.arange(length - release - 1, device=recorded.device))
        return bones

    def _way(self, world: int | Tensor, since: Tensor) -> Tensor:
        """The bones (..., 16, 7) of worlds so many frames (...) after letting go, 0 the first."""
        assert self._ways is not None, "nobody has let go"
        return self._ways[world, since.clamp_max(self._ways.shape[1] - 1)]
