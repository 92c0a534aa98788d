"""Which goal grasps of many worlds are clear of the giver's hand in this frame, judged on the exact solids.

The robot's hand is its 34 capsules and boxes (`hand.hand_shapes`), taken as they are. The giver's hand is what it
collides as in MuJoCo: the 20 capsules of an open hand, the 16 convex hulls of one of MANO (`giver.bone_hulls`). A grasp
is free if every shape keeps more than the margin from every part of the giver. Answers are those of exact arithmetic
wherever the gap differs from the margin by more than `TOLERANCE`.

What is fixed is worked out once: where the shapes of every grasp stand in the object's frame. Each frame goes from
coarse to fine:

1. Balls. Every shape lies in a ball about its middle and holds another, every capsule of the giver too. Whether two
   balls meet is the sign of |a - b|^2 - (r + s)^2, a product of eight numbers of one with eight of the other, so that a
   matrix product asks it of all pairs. Outer balls that never meet: free. Inner balls that do: not free.
2. Shapes. The pairs of the other grasps whose outer balls meet are measured: segment to box, less the two radii.
3. Hulls. A hull lies in capsules and holds others; pairs that these leave open are measured, box to hull.

Every answer comes with room: how far the giver can move before it may be another. Only grasps whose room is used up are
looked at again, so that a giver who holds the object still costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hulls import MAX_HULL_VERTICES
from dexh2r_gym.grasps.collision import box_hull_distance, segment_box_distance
from dexh2r_gym.grasps.solids import capsule_bones, giver_solid, hand_solid
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, quat_to_matrix
from dexh2r_gym.types import NUM_GIVER_JOINTS

MARGIN = 0.003  # m, that a goal keeps from the giver
TOLERANCE = 2e-5  # m, of the exact measures in float32 within a metre of the object
_SLACK = 1e-4  # m, by which balls are on the safe side of rounding
_HORIZON = 0.003  # m, pairs of shapes closer than this are measured
_GRASPS = 2048  # whose pairs are looked at together


class GiverClearance:
    """The goal grasps of W worlds, G each, and who gives; asked every frame which are free.

    `see` a frame, then ask as often as there is need.
    """

    def __init__(
        self, palm_pose: Tensor, joints: Tensor, givers: Sequence[GiverHand], *, margin: float = MARGIN
    ) -> None:
        """palm_pose (W, G, 7) in the object's frame, joints (W, G, 22), a giver for each world; margin in metres."""
        worlds, grasps = palm_pose.shape[:2]
        shapes = hand_solid()
        self._margin = margin
        self._balls = torch.empty(worlds, grasps, len(shapes.link), 8)
        self._to_shape = torch.empty(worlds, grasps, len(shapes.link), 12)
        capsules = len(capsule_bones())
        self._ends = torch.empty(worlds, 2, capsules, 3, dtype=torch.float64)  # in the frame of the bone
        self._radii = torch.empty(3, worlds * capsules)
        self._reach = torch.empty(worlds, NUM_GIVER_JOINTS, dtype=torch.float64)  # m, of each bone from its joint
        self._vertices = torch.zeros(worlds, NUM_GIVER_JOINTS, MAX_HULL_VERTICES, 3, dtype=torch.float64)
        self._convex = torch.zeros(worlds, dtype=torch.bool)
        self._bones = torch.zeros(worlds, NUM_GIVER_JOINTS, 7, dtype=torch.float64)  # as last seen
        self._room = torch.zeros(worlds, grasps)  # m, that the giver can move before the answer may be another
        self._free = torch.zeros(worlds, grasps, dtype=torch.bool)
        self.replace(torch.arange(worlds), palm_pose, joints, givers)

    def replace(self, worlds: Tensor, palm_pose: Tensor, joints: Tensor, givers: Sequence[GiverHand]) -> None:
        """New grasps (n, G, 7), (n, G, 22) and givers for worlds (n,) long."""
        shapes = hand_solid()
        for rows, pose, angles in zip(worlds.split(8), palm_pose.split(8), joints.split(8), strict=True):
            links = forward_kinematics(pose.double(), angles.double())[..., shapes.link, :]
            frames = pose_multiply(links, shapes.frame)  # (n, G, K, 7)
            back = pose_inverse(frames)
            self._to_shape[rows] = torch.cat((quat_to_matrix(back[..., 3:]).flatten(-2), back[..., :3]), dim=-1).float()
            middle = frames[..., :3]
            squared = middle.square().sum(-1)
            columns = (
                torch.ones_like(squared),
                squared - shapes.outer**2,
                shapes.outer.expand_as(squared),
                squared - shapes.inner**2,
                shapes.inner.expand_as(squared),
            )
            self._balls[rows] = torch.cat((middle, torch.stack(columns, dim=-1)), dim=-1).float()
        solids = [giver_solid(giver) for giver in givers]
        self._ends[worlds] = torch.stack([solid.ends for solid in solids])
        self._radii.unflatten(1, (len(self._ends), -1))[:, worlds] = torch.stack([s.radii for s in solids], 1).float()
        self._reach[worlds] = torch.stack([solid.reach for solid in solids])
        self._convex[worlds] = torch.tensor([solid.vertices is not None for solid in solids])
        for world, solid in zip(worlds.tolist(), solids, strict=True):
            if solid.vertices is not None:
                self._vertices[world] = solid.vertices
        self._room[worlds] = 0.0

    def see(self, bones: Tensor) -> None:
        """A new frame: bone poses (W, 16, 7) of the givers, in the object's frame."""
        bones = bones.double()
        self._room -= self._motion(bones)[:, None]
        self._bones = bones
        self._giver = self._seen(bones)

    def free(self, asked: Tensor) -> Tensor:
        """Which of the grasps asked for, (W, G) bool, are free of the giver as last seen -> (W, G) bool."""
        stale = np.flatnonzero((asked & ~(self._room > TOLERANCE)).numpy())  # faster than nonzero
        for grasp in torch.from_numpy(stale).split(_GRASPS):
            self._judge(grasp, self._giver)
        return self._free & asked

    def clearance(self, worlds: Tensor) -> Tensor:
        """About how far the giver is from the grasps of worlds (n,), to rank those that are not free. -> (n, G) metres

        From the inner balls of the hand's shapes to the giver's capsules; negative is how deep one is in the other.
        """
        ends = pose_apply(self._bones[worlds][:, None, capsule_bones()], self._ends[worlds]).float()
        radii = self._radii[2].view(len(self._ends), -1)[worlds]
        out = self._balls.new_empty(len(worlds), self._balls.shape[1])
        for i, world in enumerate(worlds.tolist()):  # 340,000 pairs each
            middle, (start, stop) = self._balls[world, ..., None, :3], ends[i]
            along = stop - start
            t = (((middle - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
            gap = (middle - start - t[..., None] * along).norm(dim=-1) - self._balls[world, ..., 7:] - radii[i]
            out[i] = gap.flatten(1).amin(-1)
        return out

    def _seen(self, bones: Tensor) -> _Giver:
        ends = pose_apply(bones[:, None, capsule_bones()], self._ends)  # (W, 2, C, 3)
        middle, half = ends.mean(1), (ends[:, 1] - ends[:, 0]).norm(dim=-1) / 2
        squared, zero, one = middle.square().sum(-1), torch.zeros_like(half), torch.ones_like(half)
        radii = self._radii.unflatten(1, half.shape).double()
        outer, inner = radii[2] + half + self._margin + _HORIZON + _SLACK, radii[0] + self._margin - _SLACK
        none = torch.where(inner > 0, 0.0, 1e3)  # m^2, no ball at all
        inner = inner.clamp_min(0)
        position = (-2 * middle).unbind(-1)
        return _Giver(
            bones,
            torch.stack((*position, squared - outer**2, one, -2 * outer, zero, zero), dim=1).float(),
            torch.stack((*position, squared - inner**2 + none, zero, zero, one, -2 * inner), dim=1).float(),
            float(outer.amax() + hand_solid().outer.amax()),
            float(inner.amax() + hand_solid().inner.amax()),
            ends.movedim(1, 2).flatten(-2).flatten(0, 1).float(),
        )

    def _motion(self, bones: Tensor) -> Tensor:
        """By how much no point of a giver has moved more since the bones were as last seen. -> (W,) metres"""
        shift = (bones[..., :3] - self._bones[..., :3]).norm(dim=-1)
        turn = torch.minimum(*((bones[..., 3:] - sign * self._bones[..., 3:]).norm(dim=-1) for sign in (1, -1)))
        return (shift + 2 * turn * self._reach).amax(-1).float()

    def _judge(self, grasp: Tensor, giver: _Giver) -> None:
        """Find out about grasps (n,), counted through all worlds: whether each is free, and its room."""
        world = grasp // self._free.shape[1]
        balls = self._balls.flatten(0, 1).index_select(0, grasp)
        apart = torch.bmm(balls, giver.outer.index_select(0, world))  # (n, K, C)
        least = apart.flatten(1).amin(-1)
        free, room = least >= 0, (least.clamp_min(0) + giver.outer_sum**2).sqrt() - giver.outer_sum + _HORIZON
        near = (least < 0).nonzero()[:, 0]
        sunk = torch.bmm(balls.index_select(0, near), giver.inner.index_select(0, world[near])).flatten(1).amin(-1)
        room[near] = -sunk / (2 * giver.inner_sum)
        open_ = near[sunk >= 0]
        measured = self._measure(grasp[open_], world[open_], apart.index_select(0, open_), giver)
        room[open_], free[open_] = measured.abs(), measured > 0
        self._free.view(-1)[grasp], self._room.view(-1)[grasp] = free, room

    def _measure(self, grasp: Tensor, world: Tensor, apart: Tensor, giver: _Giver) -> Tensor:
        """Room (n,) of grasps that balls leave open, by shapes and hulls; negative for those that are not free.

        apart (n, K, C) is negative for the shapes and capsules whose outer balls meet.
        """
        shapes, (kinds, capsules) = hand_solid(), apart.shape[1:]
        pair = torch.from_numpy(np.flatnonzero(apart.numpy() < 0))  # several times as fast as nonzero
        part = pair // capsules  # of all shapes of the n grasps
        row = part // kinds
        shape = part - row * kinds
        capsule = pair - part * capsules + world.index_select(0, row) * capsules  # of those of all worlds
        place = grasp.index_select(0, row) * kinds + shape
        to_shape = self._to_shape.view(-1, 12).index_select(0, place).T.contiguous()
        p0, p1 = giver.ends.index_select(0, capsule).T.contiguous().split(3)
        p0, p1 = _apply(to_shape, p0), _apply(to_shape, p1)
        half, reach = shapes.half.T.index_select(1, shape), shapes.radius.index_select(0, shape) + self._margin
        outer = reach + self._radii[2].index_select(0, capsule)
        beside = torch.maximum(torch.minimum(p0, p1), -torch.maximum(p0, p1)) - half  # m, along each axis
        meet = (beside.amax(0) <= outer + _HORIZON).nonzero()[:, 0]
        gap = segment_box_distance(*(x.index_select(1, meet) for x in (p0, p1, half)))
        row, capsule, part = row[meet], capsule[meet], part[meet]

        net = gap - outer[meet]
        room = net.new_full((len(grasp),), _HORIZON).scatter_reduce(0, row, net, "amin")
        convex = self._convex[world]
        if not convex.any():
            return room
        sunk = torch.zeros_like(room).scatter_reduce(0, row, reach[meet] + self._radii[1][capsule] - gap, "amax")
        open_ = (convex[row] & (net <= 0) & (sunk[row] == 0)).nonzero()[:, 0]
        pair = part[open_] * NUM_GIVER_JOINTS + capsule_bones()[capsule[open_] % capsules]
        net[open_] = self._measure_hulls(grasp, world, pair, giver)
        room = torch.full_like(room, _HORIZON).scatter_reduce(0, row, net, "amin")
        return torch.where(convex & (sunk > 0), -sunk, room)

    def _measure_hulls(self, grasp: Tensor, world: Tensor, pair: Tensor, giver: _Giver) -> Tensor:
        """Gap less margin (m,), up to the horizon, of shapes and bones of convex hands.

        pair (m,) is (row of the grasp * K + shape) * 16 + bone; grasp and world (n,) are as in `_measure`.
        """
        shapes = hand_solid()
        pair, again = pair.unique(return_inverse=True)
        part, bone = pair // NUM_GIVER_JOINTS, pair % NUM_GIVER_JOINTS
        row, shape = part // len(shapes.link), part % len(shapes.link)
        w = world[row]
        to_shape = self._to_shape.view(-1, 12)[grasp[row] * len(shapes.link) + shape].double()
        turn, pose = to_shape[:, :9].unflatten(1, (3, 3)), giver.bones[w, bone]
        shift = (turn @ pose[:, :3, None]).squeeze(-1) + to_shape[:, 9:]
        hull = self._vertices[w, bone] @ (turn @ quat_to_matrix(pose[:, 3:])).mT + shift[:, None]  # (m, V, 3)
        reach = (shapes.radius[shape] + self._margin).double()
        distance = box_hull_distance(shapes.half[shape].double(), hull, reach - _HORIZON, reach + _HORIZON)
        return (distance - reach).float()[again]


class _Giver(NamedTuple):
    """The givers of W worlds in this frame, seen from the objects."""

    bones: Tensor  # (W, 16, 7)
    outer: Tensor  # (W, 8, C), columns that the rows of `_balls` meet in a product: negative if the balls meet
    inner: Tensor  # (W, 8, C)
    outer_sum: float  # m, greatest sum of the radii of two outer balls
    inner_sum: float  # m
    ends: Tensor  # (W * C, 6) m, both ends of their capsules


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (3, ...) moved by (12, ...): the rows of a rotation, then a shift."""
    return (matrix[:9].unflatten(0, (3, 3)) * points).sum(1) + matrix[9:]
