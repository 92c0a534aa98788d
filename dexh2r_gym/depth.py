"""How deep a hand is in an object: by the released code's definition, and exactly by the object's distance field."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.hand import LINK_CENTER, LINK_RADIUS, SURFACE_LINK, forward_kinematics, surface_points_local
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_to_matrix
from dexh2r_gym.types import split_hand_state

if TYPE_CHECKING:
    from dexh2r_gym.objects.model import ObjectBatch, ObjectModel

HAND_CENTER = (0.0, 0.0, 0.06)  # m, palm frame
HAND_REACH = 0.16  # m; no point of the hand is further from its centre, whatever the joints
_CHUNK = 1 << 22  # point pairs compared at once by brute force: about 100 MB
_BRUTE_FORCE_PAIRS = 1 << 14  # below this many pairs a search tree costs more than it saves


def penetration_depth(hand_points: Tensor, object_points: Tensor, object_normals: Tensor) -> Tensor:
    """Depth of a hand in an object exactly as the released code defines it.

    For each hand point p let s be the nearest object sample and n its normal: p is inside if (s - p) . n > 0, and then
    its depth is |s - p|. The result is the deepest point's depth, 0 if none is inside. Among samples equally near the
    first counts. Differentiable in `hand_points`.

    Args:
        hand_points: (B, P, 3) metres; any B and P, 0 included.
        object_points: (B, S, 3), or (S, 3) shared by all B (faster), same frame as the hand points.
        object_normals: outward normals, shaped like `object_points`.

    Returns:
        (B,) metres, the dtype of `hand_points`.
    """
    _check_points(hand_points, object_points, object_normals)
    batch, count = hand_points.shape[:2]
    if batch == 0 or count == 0:
        return hand_points.new_zeros(batch)
    with torch.no_grad():
        nearest = _nearest(hand_points, object_points)  # (B, P)
    if object_points.ndim == 2:
        sample, normal = object_points[nearest], object_normals[nearest]
    else:
        index = nearest[..., None].expand(-1, -1, 3)
        sample, normal = object_points.gather(1, index), object_normals.gather(1, index)
    offset = sample - hand_points
    inside = (offset * normal).sum(-1) > 0
    return torch.where(inside, offset.norm(dim=-1), 0.0).amax(-1).to(hand_points.dtype)


def _check_points(hand_points: Tensor, object_points: Tensor, object_normals: Tensor) -> None:
    if hand_points.ndim != 3 or hand_points.shape[-1] != 3:
        raise ValueError(f"hand_points must be (B, P, 3), got {tuple(hand_points.shape)}")
    if object_points.ndim not in (2, 3) or object_points.shape[-1] != 3:
        raise ValueError(f"object_points must be (S, 3) or (B, S, 3), got {tuple(object_points.shape)}")
    if object_points.ndim == 3 and object_points.shape[0] != hand_points.shape[0]:
        raise ValueError(
            f"object_points {tuple(object_points.shape)} and hand_points {tuple(hand_points.shape)} differ in B"
        )
    if object_normals.shape != object_points.shape:
        raise ValueError(
            f"object_normals must be shaped like object_points {tuple(object_points.shape)}, "
            f"got {tuple(object_normals.shape)}"
        )
    if object_points.shape[-2] == 0:
        raise ValueError("object_points holds no sample (S = 0)")
    finite = torch.isfinite(hand_points).flatten(1).all(-1)
    if not finite.all():
        raise ValueError(f"hand_points has NaN or infinite numbers in batch entry {int((~finite).nonzero()[0])}")
    for name, value in (("object_points", object_points), ("object_normals", object_normals)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has NaN or infinite numbers")


def _nearest(points: Tensor, samples: Tensor) -> Tensor:
    """Index of the nearest sample of each point, the first among equals. (B, P, 3), (S, 3) or (B, S, 3) -> (B, P)."""
    if samples.ndim == 3:
        return torch.stack([_nearest_flat(p, s) for p, s in zip(points, samples, strict=True)])
    return _nearest_flat(points.flatten(0, 1), samples).unflatten(0, points.shape[:2])


def _nearest_flat(points: Tensor, samples: Tensor) -> Tensor:
    """(M, 3), (S, 3) -> (M,): a k-d tree on the CPU, brute force on other devices and for few points."""
    if points.device.type != "cpu" or len(points) * len(samples) <= _BRUTE_FORCE_PAIRS:
        return nearest_brute_force(points, samples)
    return nearest_kd_tree(points, samples)


def nearest_brute_force(points: Tensor, samples: Tensor) -> Tensor:
    """Index of the nearest sample, the first among equals, by comparing all pairs. (M, 3), (S, 3) -> (M,)."""
    points, samples = points.double(), samples.double()
    chunks = points.split(max(1, _CHUNK // len(samples)))
    return torch.cat([(c[:, None] - samples).square().sum(-1).argmin(-1) for c in chunks])


def nearest_kd_tree(points: Tensor, samples: Tensor) -> Tensor:
    """As `nearest_brute_force`, the same result, by a k-d tree on the CPU."""
    tree = cKDTree(samples.detach().double().numpy())
    distance, index = tree.query(points.detach().double().numpy(), k=[1, 2], workers=-1)
    nearest = torch.from_numpy(index[:, 0])
    tied = torch.from_numpy(distance[:, 1] <= distance[:, 0] * (1 + 1e-12))  # the tree breaks ties as it likes
    if tied.any():
        nearest[tied] = nearest_brute_force(points[tied], samples)
    return nearest


def released_depth(hand_state: Tensor, object_pose: Tensor, obj: ObjectModel) -> Tensor:
    """Depth by the released definition, frame by frame, of one recorded episode.

    Args:
        hand_state: (T, 28); object_pose: (T, 7), both in the world frame.
        obj: the object, whose 4096 samples and normals are used.

    Returns:
        (T,) metres.
    """
    link_poses = forward_kinematics(*split_hand_state(hand_state.double()))  # (T, 18, 7)
    in_object = pose_multiply(pose_inverse(object_pose.double())[:, None], link_poses)
    local = surface_points_local()[0].double()
    points = pose_apply(in_object[:, SURFACE_LINK], local[None])  # (T, 2304, 3) object frame
    return penetration_depth(points, obj.points.double(), obj.normals.double())


def hand_object_depth(
    hand_state: Tensor,
    object_pose: Tensor,
    object_index: Tensor,
    objects: ObjectBatch,
    link_poses: Tensor | None = None,
    exact: bool = True,
) -> Tensor:
    """Mesh-exact depth of the hand's surface points in the object: that of the deepest, 0 if none is inside.

    Hands, then links, then points that are surely outside are left out step by step, so that hands on their way cost
    next to nothing; what remains is measured exactly.

    Args:
        hand_state: (N, 28) world frame; read only if `link_poses` is not given.
        object_pose: (N, 7) world frame.
        object_index: (N,) which of `objects` each row holds.
        link_poses: (N, 18, 7) forward kinematics of `hand_state`, where the caller has it already.
        exact: False leaves it at the grid's value, within `ObjectBatch.grid_error`.

    Returns:
        (N,) metres, the dtype of `object_pose`.
    """
    depth = object_pose.new_zeros(len(object_pose))
    palm = split_hand_state(hand_state)[0] if link_poses is None else link_poses[:, 0]
    palm_in_object = pose_multiply(pose_inverse(object_pose), palm)
    middle = pose_apply(palm_in_object, constant(HAND_CENTER, palm).expand(len(palm), 3))
    clearance = objects.signed_distance_fast(object_index, middle) - objects.grid_error(object_index)
    near = (clearance < HAND_REACH).nonzero().squeeze(1)  # (n,) hands that may touch
    if len(near) == 0:
        return depth
    links = forward_kinematics(*split_hand_state(hand_state[near])) if link_poses is None else link_poses[near]
    links = pose_multiply(pose_inverse(object_pose[near])[:, None], links)  # (n, 18, 7) object frame

    center, radius = constant(LINK_CENTER, links), constant(LINK_RADIUS, links)
    index = object_index[near, None].expand(links.shape[:2])
    clearance = objects.signed_distance_fast(index.flatten(), pose_apply(links, center[None]).flatten(0, 1))
    clearance = (clearance - objects.grid_error(index.flatten())).view(index.shape)
    row, link = (clearance < radius).nonzero(as_tuple=True)  # K links that may touch
    if len(row) == 0:
        return depth
    in_object, row = links[row, link], near[row]
    local = local_points(links.device)[:, link]  # (3, K, 128) float32, as is all that screens; components first is fast
    turn, shift = quat_to_matrix(in_object[:, 3:]).float()[..., None], in_object[:, :3].float()[..., None]
    points = torch.stack(
        [turn[:, i, 0] * local[0] + turn[:, i, 1] * local[1] + turn[:, i, 2] * local[2] + shift[:, i] for i in range(3)]
    )
    group, point = objects.maybe_inside(object_index[row], points).nonzero(as_tuple=True)
    row, points = row[group], points[:, group, point].T  # (M,), (M, 3)
    # of each hand's points only those can be the deepest whose grid value is within twice the grid's error of the least
    index = object_index[row]
    near, error = objects.signed_distance_fast(index, points), objects.grid_error(index)
    least = points.new_full((len(depth),), torch.inf).scatter_reduce(0, row, near, "amin")
    if not exact:
        return torch.maximum(depth, -least.to(depth))
    chosen = (near <= error) & (near <= least[row] + 2 * error)
    group, point = group[chosen], point[chosen]
    measured = objects.exact_depth(index[chosen], pose_apply(in_object[group], local[:, group, point].T.to(in_object)))
    return depth.scatter_reduce(0, row[chosen], measured.to(depth), "amax")


def link_depths(hand_state: Tensor, object_pose: Tensor, obj: ObjectModel, frames: Tensor) -> Tensor:
    """Mesh-exact depth of each link of the hand in the object, in metres: of recorded frames, the chosen ones.

    Args:
        hand_state: (T, 28); object_pose: (T, 7), world. frames: (T,) bool, the F frames that are measured.

    Returns:
        (F, 18), in the order of `hand.LINK_NAMES`.
    """
    links = forward_kinematics(*split_hand_state(hand_state[frames].double()))
    in_object = pose_multiply(pose_inverse(object_pose[frames].double())[:, None], links)
    points = pose_apply(in_object[:, SURFACE_LINK], surface_points_local()[0].double()[None])
    return obj.penetration(points).unflatten(1, (len(LINK_RADIUS), -1)).amax(-1)


@cache
def local_points(device: torch.device) -> Tensor:
    """Surface points of each link, components first, (3, 18, 128) float32, link frame."""
    points = surface_points_local()[0].unflatten(0, (len(LINK_RADIUS), -1)).movedim(-1, 0)
    return points.contiguous().to(device)
