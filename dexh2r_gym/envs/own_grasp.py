"""Whether a hand that stands still holds the object, in whatever grasp: for agents with goals the env does not know.

Batched over B worlds. The grasp of a hand that has come to rest is put to the stability test of the goal grasps
(section 3, the released code's protocol), once for each time it comes to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dexh2r_gym.alignment import ALIGNMENT_DEPTH
from dexh2r_gym.depth import HAND_CENTER, HAND_REACH
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.clearance import GiverClearance
from dexh2r_gym.grasps.stability import RELEASED, displacements, is_stable
from dexh2r_gym.grasps.tighten import TIGHTEN_RANGE
from dexh2r_gym.hand import LINK_NAMES, SURFACE_LINK, forward_kinematics, surface_points_local
from dexh2r_gym.hand.kinematics import PALM, WRIST
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_angle
from dexh2r_gym.types import NUM_JOINTS, SceneState

STILL_FRAMES = 5
STILL_DISTANCE = 0.003  # m
STILL_ANGLE = 0.05  # rad, of the palm and of each joint
_SIZE = 7 + NUM_JOINTS


@dataclass(frozen=True)
class Hands:
    """Hands of n worlds in the frame of their object: where they are and where they were told to be."""

    pose: Tensor  # (n, 7) palm
    joints: Tensor  # (n, 22)
    told_pose: Tensor  # (n, 7)
    told_joints: Tensor  # (n, 22)
    depth: Tensor  # (n,) m, hand in object
    giver_bones: Tensor  # (n, 16, 7)


def hands_in_object(
    worlds: Tensor, scene: SceneState, told: tuple[Tensor, Tensor], depth: Tensor, giver_bones: Tensor
) -> Hands:
    """The hands of worlds (n,) as a scene of B worlds shows them.

    told: palm (n, 7), world, and joints (n, 22). depth: (n,) metres. giver_bones: (n, 16, 7), world.
    """
    to_object = pose_inverse(scene.object_pose[worlds])
    return Hands(
        pose=pose_multiply(to_object, scene.hand_pose[worlds]),
        joints=scene.hand_joints[worlds],
        told_pose=pose_multiply(to_object, told[0]),
        told_joints=told[1],
        depth=depth,
        giver_bones=pose_multiply(to_object[:, None], giver_bones),
    )


class OwnGrasps:
    """Remembers the last frames of B worlds, and whether the hand that stands there was tested already."""

    def __init__(self, num_worlds: int, num_threads: int = 0) -> None:
        self._past = torch.zeros(num_worlds, STILL_FRAMES + 1, 2, _SIZE, dtype=torch.float64)  # the last frame last
        self._frames = torch.zeros(num_worlds, dtype=torch.long)
        self._tested = torch.zeros(num_worlds, dtype=torch.bool)
        self._num_threads = num_threads

    def begin(self, worlds: Tensor) -> None:
        """New episodes in worlds (n,)."""
        self._frames[worlds], self._tested[worlds] = 0, False

    def hold(
        self, worlds: Tensor, hands: Hands, index: Tensor, objects: ObjectBatch, givers: Sequence[GiverHand]
    ) -> Tensor:
        """Take in a frame of worlds (n,), and say which of their hands have just proved to hold the object, (n,) bool.

        Such a hand has stood still relative to the object, moved by less than 3 mm and 0.05 rad in 5 frames and was not
        told to; a finger is within 5 mm of the object; it is no deeper in the object than 6.5 mm, and in the giver's
        hand not at all; and the object stays in it when pushed along the six axes.

        Args:
            index: (n,) long, which of `objects` each world has. givers: the hand of each of the n worlds.
        """
        now = torch.stack(
            (torch.cat((hands.pose, hands.joints), -1), torch.cat((hands.told_pose, hands.told_joints), -1)), 1
        )
        past = torch.cat((self._past[worlds, 1:], now[:, None]), dim=1)
        self._past[worlds] = past
        self._frames[worlds] += 1
        still = (self._frames[worlds] > STILL_FRAMES) & _still(past)
        asked = still & ~self._tested[worlds] & (hands.depth <= ALIGNMENT_DEPTH)
        asked[asked.clone()] = _touches(hands.pose[asked], hands.joints[asked], index[asked], objects)
        self._tested[worlds] = still & (self._tested[worlds] | asked)
        rows = asked.nonzero()[:, 0]
        holds = torch.zeros_like(asked)
        if len(rows) > 0:
            pose, joints = hands.pose[rows], hands.joints[rows]
            near = GiverClearance(pose[:, None], joints[:, None], [givers[i] for i in rows.tolist()], margin=0.0)
            near.see(hands.giver_bones[rows])
            clear = near.free(torch.ones(len(rows), 1, dtype=torch.bool))[:, 0]
            moved = displacements(
                objects.objects, pose, joints, RELEASED, index=index[rows], num_threads=self._num_threads
            )
            holds[rows] = clear & is_stable(moved)
        return holds


def _still(past: Tensor) -> Tensor:
    """Whether neither hand nor command was elsewhere in these frames (n, T, 2, 29) than in the last. -> (n,) bool"""
    last = past[:, -1:]
    moved = (past[..., :3] - last[..., :3]).norm(dim=-1) >= STILL_DISTANCE
    turned = quat_angle(past[..., 3:7], last[..., 3:7]) >= STILL_ANGLE
    closed = (past[..., 7:] - last[..., 7:]).abs().amax(-1) >= STILL_ANGLE
    return ~(moved | turned | closed).flatten(1).any(-1)


def _touches(pose: Tensor, joints: Tensor, index: Tensor, objects: ObjectBatch) -> Tensor:
    """Whether a finger is within 5 mm of the object: (n, 7), (n, 22) in its frame, (n,) -> (n,) bool."""
    touches = torch.zeros(len(pose), dtype=torch.bool)
    middle = pose_apply(pose, pose.new_tensor(HAND_CENTER).expand(len(pose), 3))
    near = (objects.signed_distance_fast(index, middle) < HAND_REACH + TIGHTEN_RANGE).nonzero()[:, 0]
    if len(near) > 0:
        link, local = _finger_points()
        points = pose_apply(forward_kinematics(pose[near], joints[near])[:, link], local)  # (m, P, 3)
        row = index[near, None].expand(points.shape[:2])
        distance = objects.signed_distance_fast(row.flatten(), points.flatten(0, 1)).view(row.shape)
        touches[near] = distance.amin(-1) < TIGHTEN_RANGE
    return touches


@cache
def _finger_points() -> tuple[Tensor, Tensor]:
    """Surface points of the fingers: link (P,) and place (P, 3) in its frame, m, float64."""
    palm = torch.tensor([LINK_NAMES.index(PALM), LINK_NAMES.index(WRIST)])
    fingers = ~torch.isin(SURFACE_LINK, palm)
    return SURFACE_LINK[fingers], surface_points_local()[0][fingers].double()
