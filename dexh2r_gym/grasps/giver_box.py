"""The released code's collision test: no point of the robot's hand inside of the bounding box of the giver's skin.

The box has the axes of the world and holds all vertices of the giver's hand; the points are the 2304 of
`hand.surface_points`. Kept for comparison: the box is much larger than the hand, so that it refuses many goals that are
free, and shapes whose points stand around a corner of it pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import LINK_CENTER, LINK_RADIUS, forward_kinematics, surface_points_local
from dexh2r_gym.rotations import pose_apply, quat_to_matrix

_SLACK = 1e-5  # m, of float32
_FEW = 8  # points of a link that are looked at first; they lie far apart
_LINKS = 2048  # whose points are looked at together


class GiverBox:
    """The goal grasps of W worlds, G each, and who gives; asked every frame which are free of the giver's box.

    `see` a frame, then ask as often as there is need.
    """

    def __init__(self, palm_pose: Tensor, joints: Tensor, givers: Sequence[GiverHand]) -> None:
        """palm_pose (W, G, 7) in the object's frame, joints (W, G, 22), a giver for each world."""
        worlds, grasps = palm_pose.shape[:2]
        self._links = torch.empty(worlds, grasps, len(LINK_RADIUS), 12)  # rotation matrix and place
        self._middle = torch.empty(worlds, grasps, len(LINK_RADIUS), 3)
        self._givers: list[GiverHand] = list(givers)
        self._last = torch.zeros(worlds, 10)  # orientation of the object and corners of the box, as last seen
        self._room = torch.zeros(worlds, grasps)  # m, that the box can move before the answer may be another
        self._free = torch.zeros(worlds, grasps, dtype=torch.bool)
        self.replace(torch.arange(worlds), palm_pose, joints, givers)

    def replace(self, worlds: Tensor, palm_pose: Tensor, joints: Tensor, givers: Sequence[GiverHand]) -> None:
        """New grasps (n, G, 7), (n, G, 22) and givers for worlds (n,) long."""
        links = forward_kinematics(palm_pose.double(), joints.double())
        self._links[worlds] = torch.cat((quat_to_matrix(links[..., 3:]).flatten(-2), links[..., :3]), dim=-1).float()
        self._middle[worlds] = pose_apply(links, LINK_CENTER).float()
        for world, giver in zip(worlds.tolist(), givers, strict=True):
            self._givers[world] = giver
        self._room[worlds] = 0.0

    def see(self, bones: Tensor, object_pose: Tensor) -> None:
        """A new frame: giver's bone poses (W, 16, 7) in the object's frame, object poses (W, 7) in the world."""
        self._seen = self._box(bones, object_pose)
        self._room -= self._motion(object_pose, *self._seen[1:])[:, None]

    def free(self, asked: Tensor) -> Tensor:
        """Which of the grasps asked for, (W, G) bool, are free of the box as last seen -> (W, G) bool."""
        turn, low, high = self._seen
        stale = asked & ~(self._room > _SLACK)
        if not stale.any():
            return self._free & asked
        clear = self._beside(turn, low, high) - LINK_RADIUS.float()  # (W, G, 18), of the balls about the links
        near, sunk = (clear <= _SLACK) & stale[..., None], torch.zeros_like(stale)
        clear = clear.masked_fill(near, torch.inf)  # until their points are looked at
        points = surface_points_local()[0].unflatten(0, (len(LINK_RADIUS), -1)).mT  # (18, 3, 128)
        for some in (points[..., :_FEW], points):
            for link in (near & ~sunk[..., None]).flatten().nonzero()[:, 0].split(_LINKS):
                world = link // near[0].numel()
                frame = self._links.view(-1, 12).index_select(0, link)
                rows = turn[world] @ frame[:, :9].unflatten(1, (3, 3))
                moved = torch.baddbmm(turn[world] @ frame[:, 9:, None], rows, some[link % len(points)])  # (n, 3, P)
                beside = torch.maximum(low[world, :, None] - moved, moved - high[world, :, None]).amax(1)
                clear.view(-1)[link] = beside.amin(-1)
            sunk = (clear <= 0).any(-1) & stale
        self._free = torch.where(stale, ~sunk, self._free)
        self._room = torch.where(stale, clear.amin(-1).abs(), self._room)
        return self._free & asked

    def clearance(self, worlds: Tensor) -> Tensor:
        """How far the box is from the balls about the links, along the axis that parts them best. -> (n, G) metres

        To rank grasps that are not free: negative is how far a ball reaches into the box.
        """
        beside = self._beside(*self._seen)[worlds]
        return (beside - LINK_RADIUS.float()).amin(-1)

    def _box(self, bones: Tensor, object_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotation matrices (W, 3, 3) from the object's axes to the world's, and the boxes about the object's place.

        Lower and upper corners (W, 3), metres.
        """
        turn = quat_to_matrix(object_pose[:, 3:].double())
        low, high = torch.empty(2, len(bones), 3, dtype=torch.float64)
        for giver in set(self._givers):  # worlds with the same giver at once
            rows = torch.tensor([i for i, other in enumerate(self._givers) if other is giver])
            skin = giver.skin(bones[rows].double()) @ turn[rows].mT
            low[rows], high[rows] = skin.amin(1), skin.amax(1)
        return turn.float(), low.float(), high.float()

    def _motion(self, object_pose: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By how much no point of a hand has moved more in its world's box since it was last seen. -> (W,) metres"""
        now = torch.cat((object_pose[:, 3:].float(), low, high), dim=-1)
        then, self._last = self._last, now
        turn = torch.minimum(*((now[:, :4] - sign * then[:, :4]).norm(dim=-1) for sign in (1, -1)))
        extent = (self._middle.norm(dim=-1) + LINK_RADIUS.float()).flatten(1).amax(-1)
        return 2 * turn * extent + (now[:, 4:] - then[:, 4:]).abs().amax(-1)

    def _beside(self, turn: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By how much the middle of each link is outside of its world's box, along one axis. -> (W, G, 18) metres"""
        middle = torch.bmm(self._middle.flatten(1, 2), turn.mT)  # (W, G * 18, 3)
        beside = torch.maximum(low[:, None] - middle, middle - high[:, None]).amax(-1)
        return beside.view(self._middle.shape[:3])
