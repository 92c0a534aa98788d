"""How deep a hand is in an object, found by the same work for all hands: for devices that must not wait for an answer.

`depth.hand_object_depth` leaves out hands, links and points step by step, and so has to read what is left. Here all
surface points of all hands are looked up in the object's grid; the `SCREENED` of each hand that are the deepest by its
nearest value are interpolated; of these the `MEASURED` deepest are held against the object's convex parts, and the
`FULLY` deepest, where parts overlap, against its triangles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dexh2r_gym.depth import local_points
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_to_matrix
from dexh2r_gym.types import split_hand_state

SCREENED = 128  # points of a hand
MEASURED, FULLY = 48, 8
_CHUNK = 1024  # hands at a time, bounds memory


def hand_object_depth_blind(
    hand_state: Tensor, object_pose: Tensor, object_index: Tensor, objects: ObjectBatch, exact: bool = True
) -> Tensor:
    """As `depth.hand_object_depth`, which see for the arguments, to within 0.2 mm, for most hands to the last digits.

    (N, 28), (N, 7), (N,) -> (N,) metres
    """
    rows = (slice(first, first + _CHUNK) for first in range(0, len(hand_state), _CHUNK))
    return torch.cat([_depth(hand_state[i], object_pose[i], object_index[i], objects, exact) for i in rows])


def _depth(hand_state: Tensor, object_pose: Tensor, index: Tensor, objects: ObjectBatch, exact: bool) -> Tensor:
    links = forward_kinematics(*split_hand_state(hand_state))
    links = pose_multiply(pose_inverse(object_pose)[:, None], links)  # (n, 18, 7) object frame
    local = local_points(links.device)  # (3, 18, 128) float32, as is all that screens
    turn, shift = quat_to_matrix(links[..., 3:]).float()[..., None], links[..., :3].float()[..., None]
    x, y, z = local
    rows = [turn[:, :, i, 0] * x + turn[:, :, i, 1] * y + turn[:, :, i, 2] * z + shift[:, :, i] for i in range(3)]
    points = torch.stack(rows).flatten(2)  # (3, n, 2304)
    place = objects.nearest(index, points).topk(SCREENED, largest=False).indices  # (n, S)
    near = _each(objects.signed_distance_fast, index, points.gather(2, place.expand(3, -1, -1)).movedim(0, 2))
    if not exact:
        return (-near.amin(1)).clamp_min(0.0).to(object_pose)
    order = near.topk(MEASURED, largest=False).indices
    place = place.gather(1, order)
    own = links.gather(1, (place // local.shape[-1])[..., None].expand(-1, -1, 7))
    at = pose_apply(own, local.flatten(1)[:, place].movedim(0, 2).to(own)).float()  # (n, M, 3), the deepest first
    deepest, others = (
        _each(objects.blind_depth, index, at[:, :FULLY]),
        _each(objects.depth_in_parts, index, at[:, FULLY:]),
    )
    return torch.maximum(deepest.amax(1), others.amax(1)).to(object_pose)


def _each(function: Callable[[Tensor, Tensor], Tensor], index: Tensor, points: Tensor) -> Tensor:
    """A function of solids (N,) and points (N, 3), of points (n, S, 3) of solids (n,). -> (n, S)"""
    shape = points.shape[:2]
    found = function(index[:, None].expand(shape).flatten(), points.flatten(0, 1))
    return found.view(shape)
