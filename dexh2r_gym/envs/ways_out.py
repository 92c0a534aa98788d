"""The givers' hands after they have let go, world by world: a way is planned once and then followed."""

from __future__ import annotations

from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.letting_go import let_go
from dexh2r_gym.hand import surface_points
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import pose_apply, pose_inverse
from dexh2r_gym.types import SceneState

_SKIN_STRIDE = 8  # every so many points of the robot's surface tell the giver where the robot is


class WaysOut:
    """See `dexh2r_gym.giver.letting_go`. A giver who has come to its end stays there."""

    def __init__(self, num_worlds: int, dt: float) -> None:
        self._num_worlds, self._dt = num_worlds, dt
        self._ways: Tensor | None = None  # (B, K, 16, 7), made when the first giver lets go

    def begin(self, world: int, giver: GiverHand, bones: Tensor, scene: SceneState, obj: ObjectModel) -> None:
        """The giver of this world lets go; bones: (16, 7)."""
        from_world = pose_inverse(scene.object_pose[world])
        skin, _ = surface_points(scene.hand_pose[world, None], scene.hand_joints[world, None])

        def distance(points: Tensor) -> Tensor:
            return obj.signed_distance_fast(pose_apply(from_world, points))

        way = let_go(giver, bones, self._dt, distance, skin[0, ::_SKIN_STRIDE])
        if self._ways is None:
            self._ways = way.new_zeros(self._num_worlds, *way.shape)
        self._ways[world] = way

    def follow(self, on: Tensor, since: Tensor, bones: Tensor) -> None:
        """Write the next frame of the worlds that are on (B,) into bones (B, 16, 7); since: (B,) frames that their
        givers are out."""
        worlds = on.nonzero().squeeze(1)
        if len(worlds):
            bones[worlds] = self.of(worlds, since[worlds])

    def of(self, world: int | Tensor, since: Tensor) -> Tensor:
        """The bones (..., 16, 7) of worlds so many frames (...) after letting go, 0 the first."""
        assert self._ways is not None, "nobody has let go"
        return self._ways[world, since.clamp_max(self._ways.shape[1] - 1)]
