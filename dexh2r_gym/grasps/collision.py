"""Distances of convex shapes, and which goal grasps of a recording stay clear of the giver's hand, frame by frame.

`clearance.GiverClearance` asks the same of many worlds at once, each at its own frame, with the exact solid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics, hand_capsules
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply

_CHUNK = 1_000_000  # pairs of capsules looked at together, bounds memory
_SLACK = 1e-3  # m, more than the rounding of distances in float32
_TOLERANCE = 1e-5  # m, of `box_hull_distance`
_RESOLUTION = 1e-4  # m, frames in which the giver is this close to another frame, seen from the object, are one


def segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """Least distance between segments p0 p1 and q0 q1, each (..., 3), broadcast. -> (...).

    Closest points of the two lines, clamped first on one segment, then on the other (Ericson, Real-Time Collision
    Detection, 2005, section 5.1.9). Segments may be parallel or of zero length.
    """
    u, v, r = p1 - p0, q1 - q0, p0 - q0
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ur, vr = (u * r).sum(-1), (v * r).sum(-1)
    number = torch.finfo(uu.dtype)
    det = uu * vv - uv * uv
    parallel = det <= 16 * number.eps * uu * vv
    s = torch.where(parallel, 0.0, (uv * vr - ur * vv) / torch.where(parallel, 1.0, det)).clamp(0, 1)
    t = ((uv * s + vr) / vv.clamp_min(number.tiny)).clamp(0, 1)
    s = ((uv * t - ur) / uu.clamp_min(number.tiny)).clamp(0, 1)
    return (r + s[..., None] * u - t[..., None] * v).norm(dim=-1)


def segment_box_distance(p0: Tensor, p1: Tensor, half: Tensor) -> Tensor:
    """Least distance between segments p0 p1 and boxes, 0 where they meet; components first: (3, N) each. -> (N,)

    The ends are in the frame of the box, whose faces stand at -half and half; half may be 0, so that a box can be a
    segment. The squared distance of a point of the segment is convex and, between the places where it passes the plane
    of a face, quadratic: its slope at those places says between which two the least is, and there it is linear.
    """
    u = p1 - p0

    def excess(t: Tensor) -> Tensor:
        x = p0[:, None] + t * u[:, None]  # (3, n, N)
        return x - torch.minimum(torch.maximum(x, -half[:, None]), half[:, None])

    def slope(t: Tensor) -> Tensor:
        return (u[:, None] * excess(t)).sum(0)

    tiny = torch.finfo(u.dtype).tiny ** 0.5
    steep = torch.where(u.abs() < tiny, tiny, u)
    t = torch.cat(((half - p0) / steep, (-half - p0) / steep)).clamp(0, 1)  # (6, N)
    rises = slope(t) > 0
    low, high = torch.where(rises, 0.0, t).amax(0), torch.where(rises, t, 1.0).amin(0)
    at_low, at_high = slope(torch.stack((low, high)))
    least = low - at_low * (high - low) / (at_high - at_low).clamp_min(tiny)
    return excess(torch.minimum(torch.maximum(least, low), high)[None])[:, 0].square().sum(0).sqrt()


def box_hull_distance(
    half: Tensor, vertices: Tensor, near: Tensor | float = 0.0, far: Tensor | float = torch.inf, steps: int = 32
) -> Tensor:
    """Least distance between boxes (N, 3) and convex hulls of vertices (N, V, 3), 0 where they meet. -> (N,)

    Vertices are in the frame of the box, whose faces stand at -half and half; half may be 0. Gilbert, Johnson and
    Keerthi's algorithm (1988): of the Minkowski difference a triangle is kept that holds the point nearest to the
    origin, and moved on until no point of the difference is nearer by a hundredth of a millimetre. Only distances
    between near and far, (N,) each, are wanted so well: others may come out as anything on their side of those.
    """
    out = torch.zeros_like(half[:, 0])
    near, far = torch.as_tensor(near).expand_as(out), torch.as_tensor(far).expand_as(out)
    running = torch.arange(len(half))
    nearest = _support(half, vertices, vertices.mean(1))
    triangle = nearest[:, None].repeat(1, 3, 1)  # (N, 3, 3)
    for _ in range(steps):
        point = _support(half, vertices, nearest)
        distance = nearest.norm(dim=-1)
        bound = (point * nearest).sum(-1) / distance.clamp_min(_TOLERANCE)
        corners = *triangle.unbind(1), point
        inside, beyond = (distance < _TOLERANCE) | _holds_origin(*corners), bound > far[running]
        out[running] = torch.where(inside, 0.0, torch.where(beyond, bound, distance))
        settled = inside | beyond | (distance < near[running]) | (distance - bound <= _TOLERANCE)
        on = (~settled).nonzero()[:, 0]
        if len(on) == 0:
            break
        running, half, vertices = running[on], half[on], vertices[on]
        sides = torch.stack(corners, 1)[on][:, [[0, 1, 3], [0, 2, 3], [1, 2, 3]]]  # (n, 3, 3, 3)
        feet = _nearest_of_triangle(*sides.unbind(2))  # (n, 3, 3)
        best = feet.norm(dim=-1).argmin(-1)
        row = torch.arange(len(best))
        triangle, nearest = sides[row, best], feet[row, best]
    return out


def _support(half: Tensor, vertices: Tensor, direction: Tensor) -> Tensor:
    """Of the differences of a point of the hull and one of the box, the one least far along (N, 3). -> (N, 3)"""
    least = torch.bmm(vertices, direction[..., None]).argmin(1, keepdim=True)  # (N, 1, 1)
    return vertices.gather(1, least.expand(-1, 1, 3))[:, 0] - half * direction.sign()


def _holds_origin(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Whether the origin is inside of the tetrahedron with corners (N, 3). -> (N,) bool; False for a flat one."""

    def side(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (torch.linalg.cross(x, y) * z).sum(-1)

    sides = torch.stack((side(a, b, c), -side(b, c, d), side(c, d, a), -side(d, a, b)))
    rounding = 1e-12 * torch.stack((a, b, c, d)).norm(dim=-1).amax(0) ** 3
    return (sides > rounding).all(0) | (sides < -rounding).all(0)


def _nearest_of_triangle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The point of triangles with corners (..., 3) that is nearest to the origin. -> (..., 3)

    It is the foot of the perpendicular if that is inside, else the best of the three edges' nearest points.
    """
    ab, ac = b - a, c - a
    normal = torch.linalg.cross(ab, ac)
    area = (normal * normal).sum(-1, keepdim=True)
    foot = normal * (normal * a).sum(-1, keepdim=True) / area.clamp_min(torch.finfo(a.dtype).tiny)
    turns = [(torch.linalg.cross(y - x, foot - x) * normal).sum(-1) for x, y in ((a, b), (b, c), (c, a))]
    within = (torch.stack(turns) >= 0).all(0) & (area.squeeze(-1) > 1e-12 * (ab * ab).sum(-1) * (ac * ac).sum(-1))
    edges = torch.stack([_nearest_of_edge(x, y) for x, y in ((a, b), (b, c), (c, a))])
    edge = edges.take_along_dim(edges.norm(dim=-1, keepdim=True).argmin(0, keepdim=True), 0)[0]
    return torch.where(within[..., None], foot, edge)


def _nearest_of_edge(a: Tensor, b: Tensor) -> Tensor:
    u = b - a
    t = -(a * u).sum(-1, keepdim=True) / (u * u).sum(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
    return a + t.clamp(0, 1) * u


def free_of_giver(
    palm_pose: Tensor, joints: Tensor, object_pose: Tensor, giver: GiverHand, mano: Tensor, margin: float = 0.003
) -> Tensor:
    """Which of G grasps keep at least `margin` metres from the giver's hand, in each of T frames. -> (T, G) bool.

    palm_pose (G, 7) and joints (G, 22) are in the object's frame; object_pose (T, 7) and mano (T, 61) in the world.
    Both hands are taken as their capsules.
    """
    if len(palm_pose) == 0:
        return torch.ones(len(object_pose), 0, dtype=torch.bool)
    link, p0, p1, hand_radius = hand_capsules()
    links = forward_kinematics(palm_pose, joints)[:, link]  # (G, K, 7)
    a0, a1 = (pose_apply(links, p.to(links)).float() for p in (p0, p1))  # (G, K, 3), object frame

    bone, q0, q1, giver_radius = giver.capsules()
    bones = pose_multiply(pose_inverse(object_pose)[:, None], giver.bone_poses(mano.to(object_pose)))[:, bone]
    ends = torch.stack([pose_apply(bones, q.to(bones)) for q in (q0, q1)], dim=1)  # (T, 2, C, 3), object frame
    # A giver who holds the object firmly does not move in its frame: look at each different frame once.
    ends, frame = (ends / _RESOLUTION).round().unique(dim=0, return_inverse=True)
    ends = (ends * _RESOLUTION).float()

    reach = (hand_radius[:, None] + giver_radius + margin).float()  # (K, C)
    hand_middle, hand_half = (a0 + a1) / 2, (a1 - a0).norm(dim=-1)[0] / 2
    giver_middle, giver_half = ends.mean(1), (ends[:, 1] - ends[:, 0]).norm(dim=-1).amax(0) / 2
    bound = reach + hand_half[:, None] + giver_half + _SLACK  # middles further apart than this cannot clash
    free = torch.ones(len(ends), len(palm_pose), dtype=torch.bool)
    step = max(1, _CHUNK // (hand_middle.shape[0] * reach.numel()))
    for i in range(0, len(ends), step):
        apart = torch.cdist(hand_middle.flatten(0, 1), giver_middle[i : i + step].flatten(0, 1))
        apart = apart.view(*hand_middle.shape[:2], -1, reach.shape[1])  # (G, K, t, C)
        g, k, t, c = (apart < bound[:, None]).nonzero(as_tuple=True)
        gap = segment_distance(a0[g, k], a1[g, k], ends[t + i, 0, c], ends[t + i, 1, c])
        clash = gap <= reach[k, c]
        free[t[clash] + i, g[clash]] = False
    return free[frame]
