"""One synthetic trial: a grasp of the giver, an offer the robot can take, the motion to it, the start of the robot.

Every trial has a random generator of its own, named by seed, subject, object, number and attempt. Candidates are drawn
and judged many at a time, and the first that passes is taken.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.giver.fit import GraspFit
from dexh2r_gym.giver.ways import adapt_ways, load_ways
from dexh2r_gym.grasps import GraspPool, free_of_giver, load_pool
from dexh2r_gym.hand import OPEN_HAND, surface_points
from dexh2r_gym.objects import ObjectModel, load_object
from dexh2r_gym.replay.motion import draw_motions, draw_offers, hand_axis, within_reach, wrist_pose
from dexh2r_gym.replay.shelf import SyntheticTrial
from dexh2r_gym.replay.subjects import Subject
from dexh2r_gym.rotations import (
    pose_apply,
    pose_inverse,
    pose_multiply,
    pose_velocity,
    quat_from_axis_angle,
    quat_from_matrix,
    quat_multiply,
    quat_rotate,
)
from dexh2r_gym.types import join_hand_state

FPS = 30.0
NUM_FRAMES = (75, 180)
MIN_GOALS = 5  # goals that are free and can be reached while the object is held out
MAX_SPEED = 1.3  # m/s, object
MAX_TURNING = 3.5  # rad/s, object; the robot's hand can follow
START_DISTANCE = (0.4, 0.7)  # m, palm of the robot from the object at frame 0
START_HEIGHT = (0.85, 1.25)  # m, palm of the robot at frame 0
_WAYS = 8  # of holding an object that a giver tries
_APPROACH = 0.10  # m, the robot's hand comes from this far behind the goal
_GOAL_GAP = 0.15  # m, between the waiting palm and every goal, so that nothing is gained by staying
_BODY_GAP = 0.05  # m, of the object before the plane through the giver's shoulders
_ATTEMPTS = 16
_OFFERS, _MOTIONS, _STARTS = 64, 16, 32  # drawn at a time
_TRIED = 4  # of the motions drawn together, for each of which a start of the robot's hand is sought


@dataclass(frozen=True, eq=False)
class GiverGrasp:
    """One way in which a giver holds an object, in the object's frame."""

    way: str  # style and place
    mano: Tensor  # (61,) float64
    free: Tensor  # (G,) bool, goals clear of the giver's hand
    open_way: Tensor  # (G,) bool, free, and so is the way in from behind
    free_end: Tensor  # (3,) unit, from the giver's hand to the part of the object that is left free

    @property
    def object_in_wrist(self) -> Tensor:
        """(7,) pose of the object in the frame of the giver's wrist."""
        return pose_inverse(torch.cat((self.mano[:3], quat_from_axis_angle(self.mano[3:6]))))


def _rng(seed: int, *key: int | str) -> np.random.Generator:
    """The generator of one thing, named by its key."""
    numbers = tuple(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, *numbers)))


def draw_trial(
    seed: int, subject: Subject, name: str, *, number: int = 0, split: str = "train", attempt: int = 0
) -> SyntheticTrial | None:
    """One trial, or None if this giver has no good one of this object. Another attempt is another trial."""
    obj, pool = load_object(name), load_pool(name)
    grasps, liking = giver_grasps(seed, subject, name)
    rng = _rng(seed, subject.number, name, number, attempt)
    for _ in range(_ATTEMPTS if grasps else 0):
        grasp = grasps[rng.choice(len(grasps), p=liking)]
        num_frames = round(float(np.clip(FPS * rng.lognormal(np.log(subject.seconds), 0.15), *NUM_FRAMES)))
        object_poses = draw_object_motions(subject, grasp, obj, pool, num_frames, rng)
        for object_pose in object_poses[:_TRIED]:
            start = draw_hand_start(obj, pool, object_pose, rng)
            if start is None:
                continue
            return SyntheticTrial(
                subject=subject.number,
                object=name,
                side=subject.side,
                split=split,
                fps=FPS,
                object_pose=object_pose.numpy(),
                giver=move_mano(object_pose, grasp.mano).numpy(),
                hand_start=start.numpy(),
                goal_free=grasp.free.expand(len(object_pose), -1).numpy(),
                number=number,
                way=grasp.way,
            )
    return None


@lru_cache(maxsize=64)
def giver_grasps(seed: int, subject: Subject, name: str) -> tuple[tuple[GiverGrasp, ...], np.ndarray]:
    """A few ways in which this giver holds this object, and how often they choose each, (K,).

    Only those that leave the robot enough goals.
    """
    obj, pool, hand = load_object(name), load_pool(name), GiverHand(subject.side, list(subject.betas))
    rng = _rng(seed, subject.number, name)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    fit = adapt_ways(hand, obj, load_ways(name, subject.side), generator=generator, limit=_WAYS)
    grasps = _useful(hand, obj, pool, fit)
    ways = sorted({grasp.way for grasp in grasps})
    taste = {way: np.exp(subject.fussiness * _rng(seed, subject.number, way).normal()) for way in ways}
    liking = np.array([taste[grasp.way] for grasp in grasps])
    return grasps, liking / liking.sum()


def _useful(hand: GiverHand, obj: ObjectModel, pool: GraspPool, fit: GraspFit) -> tuple[GiverGrasp, ...]:
    """Those of the giver's grasps that leave enough goals free, with a free way in."""
    mano = fit.mano
    if len(fit) == 0:
        return ()
    here = mano.new_tensor([0.0, 0, 0, 1, 0, 0, 0]).expand(len(mano), 7)
    goal = pool.palm_pose.double()
    behind = goal.clone()
    behind[:, :3] += _APPROACH * quat_rotate(goal[:, 3:], goal.new_tensor([0.0, 1.0, 0.0]).expand(len(goal), 3))
    free, way = (free_of_giver(pose, pool.joints.double(), here, hand, mano) for pose in (goal, behind))
    skin = hand.vertices(mano)[:, ::6]
    points = obj.points[::8].double()
    left = (torch.cdist(points.expand(len(mano), -1, -1), skin).amin(-1) > 0.03).double()
    left = torch.where(left.any(-1, keepdim=True), left, 1.0)
    free_end = (left[..., None] * points).sum(1) / left.sum(-1, keepdim=True) - skin.mean(1)
    free_end = torch.nn.functional.normalize(free_end, dim=-1)
    return tuple(
        GiverGrasp(f"{fit.style[i]} {fit.place[i]}", mano[i], free[i], free[i] & way[i], free_end[i])
        for i in ((free & way).sum(-1) >= MIN_GOALS).nonzero()[:, 0].tolist()
    )


def draw_object_motions(
    subject: Subject, grasp: GiverGrasp, obj: ObjectModel, pool: GraspPool, num_frames: int, rng: np.random.Generator
) -> Tensor:
    """Object poses (n, T, 7) of motions that the arm can do and that end in an offer; n may be 0."""
    offers = draw_good_offers(subject, grasp, pool, rng)
    if len(offers) == 0:
        return torch.empty(0, num_frames, 7, dtype=torch.float64)
    offers = offers[torch.arange(_MOTIONS) % len(offers)]
    wrist, good = draw_motions(subject, offers, num_frames, FPS, rng)
    object_pose = pose_multiply(wrist, grasp.object_in_wrist.expand_as(wrist))
    velocity = pose_velocity(object_pose[:, :-1], object_pose[:, 1:], 1 / FPS)
    good &= velocity[..., :3].norm(dim=-1).amax(-1) < MAX_SPEED
    good &= velocity[..., 3:].norm(dim=-1).amax(-1) < MAX_TURNING
    corners = _corners(obj.name)
    most = pose_apply(object_pose[:, ::3, None], corners)[..., 0].flatten(1).amax(-1)
    return object_pose[good & (most < subject.shoulder[0] - _BODY_GAP)]


@cache
def _corners(name: str) -> Tensor:
    """(8, 3) of the box about an object."""
    vertices = load_object(name).vertices
    low, high = torch.from_numpy(vertices.min(0)), torch.from_numpy(vertices.max(0))
    return torch.where(torch.cartesian_prod(*[torch.tensor([False, True])] * 3), high, low)


def draw_good_offers(subject: Subject, grasp: GiverGrasp, pool: GraspPool, rng: np.random.Generator) -> Tensor:
    """Arms (n, 6) that hold the free end towards the robot and leave it enough goals, the most inviting first."""
    arm = draw_offers(subject, _OFFERS, rng)
    wrist = wrist_pose(subject, arm)
    turn = pose_multiply(wrist, grasp.object_in_wrist.expand_as(wrist))[:, 3:]
    fingers = quat_rotate(pool.palm_pose[:, 3:].double(), wrist.new_tensor([0.0, 0.0, 1.0]).expand(len(pool), 3))
    toward = quat_rotate(
        turn * turn.new_tensor([1.0, -1.0, -1.0, -1.0]), turn.new_tensor([1.0, 0.0, 0.0]).expand(_OFFERS, 3)
    )
    ahead = toward @ fingers.T  # (offers, G): along the world's x
    reachable = grasp.open_way & (ahead > -0.2)  # the robot's forearm may not point at the giver
    free_end = quat_rotate(turn, grasp.free_end.expand(_OFFERS, 3))
    liking = free_end @ wrist.new_tensor([-1.0, 0.0, 0.4]) + torch.from_numpy(rng.uniform(0, 0.8, _OFFERS))
    from_giver = hand_axis(subject.side, wrist[:, 3:])[:, 0] > 0.3
    good = from_giver & within_reach(subject, wrist) & (reachable.sum(-1) >= MIN_GOALS) & (free_end[:, 0] < 0.3)
    order = torch.where(good, liking, -torch.inf).argsort(descending=True)
    return arm[order[: int(good.sum())]][:_MOTIONS]


@cache
def _open_hand_points() -> Tensor:
    """(P, 3) some surface points of the open hand, palm frame."""
    here = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    return surface_points(here, OPEN_HAND.double())[0][::8].double()


def draw_hand_start(obj: ObjectModel, pool: GraspPool, object_pose: Tensor, rng: np.random.Generator) -> Tensor | None:
    """Hand state (28,) of the open, waiting robot: fingers towards the giver, palm to its left or down.

    Clear of the object and, through the whole trial, of every goal; None if no draw is.
    """
    center = object_pose[0, :3]
    away = torch.nn.functional.normalize(
        torch.from_numpy(rng.normal((-1.0, 0.0, 0.0), (0.0, 0.3, 0.2), (_STARTS, 3))), dim=-1
    )
    position = center + torch.from_numpy(rng.uniform(*START_DISTANCE, (_STARTS, 1))) * away
    position[:, 2] = torch.from_numpy(rng.uniform(*START_HEIGHT, _STARTS))
    # z, the fingers, along +x; y, the back of the hand, from right (-y, palm left) to up (+z, palm down)
    turn = torch.from_numpy(rng.uniform(-0.3, 0.5 * np.pi, _STARTS))
    back = torch.stack((0 * turn, -turn.cos(), turn.sin()), dim=-1)
    ahead = back.new_tensor([1.0, 0.0, 0.0]).expand_as(back)
    upright = quat_from_matrix(torch.stack((torch.linalg.cross(back, ahead, dim=-1), back, ahead), dim=-1))
    tilt = quat_from_axis_angle(torch.from_numpy(rng.normal(0.0, 0.2, (_STARTS, 3))))
    pose = torch.cat((position, quat_multiply(tilt, upright)), dim=-1)
    distance = (position - center).norm(dim=-1)
    good = (distance >= START_DISTANCE[0]) & (distance <= START_DISTANCE[1])
    goals = pose_apply(object_pose[:, None], pool.palm_pose[:, :3].double()).flatten(0, 1)
    good &= torch.cdist(position, goals).amin(-1) > _GOAL_GAP
    points = pose_apply(object_pose[0], obj.points[::16].double())
    hand = pose_apply(pose[:, None], _open_hand_points())
    for i in good.nonzero()[:, 0].tolist():
        if torch.cdist(hand[i], points).min() > 0.06:
            return join_hand_state(pose[i], OPEN_HAND.double())
    return None
