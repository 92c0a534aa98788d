"""One synthetic trial: a grasp of the giver, an offer the robot can take, the motion to it, the start of the robot.

Every trial has a random generator of its own, named by seed, subject, object and number.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand, move_mano
from dexh2r_gym.giver.fit import grasp_end
from dexh2r_gym.grasps import GraspPool, free_of_giver, load_pool
from dexh2r_gym.hand import OPEN_HAND, surface_points
from dexh2r_gym.objects import ObjectModel, load_object
from dexh2r_gym.replay.motion import Subject, draw_motion, draw_offers, hand_axis, within_reach
from dexh2r_gym.replay.replay import Trial
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
NUM_FRAMES = (90, 131)  # drawn from this range, the end left out
MIN_GOALS = 5  # goals that are free and can be reached while the object is held out
MAX_SPEED = 1.0  # m/s, object
START_DISTANCE = (0.4, 0.7)  # m, palm of the robot from the object at frame 0
GRASPS_PER_PAIR = 3
_CANDIDATES = 96  # of a search for grasps at one end
_APPROACH = 0.10  # m, the robot's hand comes from this far behind the goal
_GOAL_GAP = 0.15  # m, between the waiting palm and every goal, so that nothing is gained by staying
_ATTEMPTS = 300
_OFFERS = 48


@dataclass(frozen=True, eq=False)
class GiverGrasp:
    """One way in which a giver holds an object, in the object's frame."""

    mano: Tensor  # (61,) float64
    free: Tensor  # (G,) bool, goals clear of the giver's hand
    open_way: Tensor  # (G,) bool, free, and so is the way in from behind
    free_end: Tensor  # (3,) unit, from the giver's hand to the part of the object that is left free


def _rng(seed: int, *key: int | str) -> np.random.Generator:
    """The generator of one thing, named by its key."""
    numbers = tuple(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, *numbers)))


def draw_trial(job: tuple[int, Subject, str, int, str]) -> Trial | None:
    """One trial, or None if this giver has no good one of this object."""
    seed, subject, name, number, split = job
    obj, pool = load_object(name), load_pool(name)
    grasps = giver_grasps(seed, subject, name)
    rng = _rng(seed, subject.number, name, number)
    for _ in range(_ATTEMPTS if grasps else 0):
        grasp = grasps[rng.integers(len(grasps))]
        offer = draw_offer(subject, grasp, pool, rng)
        wrist = None if offer is None else draw_motion(subject, offer, int(rng.integers(*NUM_FRAMES)), FPS, rng)
        if wrist is None:
            continue
        object_pose = pose_multiply(wrist, pose_inverse(_wrist_in_object(grasp)))
        if pose_velocity(object_pose[:-1], object_pose[1:], 1 / FPS)[:, :3].norm(dim=-1).max() > MAX_SPEED:
            continue
        start = draw_hand_start(obj, pool, object_pose, rng)
        if start is None:
            continue
        return Trial(
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
        )
    return None


@lru_cache(maxsize=256)
def giver_grasps(seed: int, subject: Subject, name: str) -> tuple[GiverGrasp, ...]:
    """A few ways in which this giver holds this object at the end they prefer, best first.

    Kept if they leave enough goals; if none at that end does, those at the other end.
    """
    obj, pool, hand = load_object(name), load_pool(name), GiverHand(subject.side, list(subject.betas))
    rng = _rng(seed, subject.number, name)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    axis = torch.linalg.eigh(obj.points.T.cov()).eigenvectors[:, -1]
    for sign in rng.permutation((-1.0, 1.0)):
        fit = grasp_end(hand, obj, end=float(sign) * axis, num_candidates=_CANDIDATES, generator=generator)
        grasps = (_look_at(hand, obj, pool, mano) for mano in fit.mano)
        kept = tuple(islice((g for g in grasps if g.open_way.sum() >= MIN_GOALS), GRASPS_PER_PAIR))
        if kept:
            return kept
    return ()


def _look_at(hand: GiverHand, obj: ObjectModel, pool: GraspPool, mano: Tensor) -> GiverGrasp:
    here = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0]], dtype=torch.float64)
    goal = pool.palm_pose.double()
    behind = goal.clone()
    behind[:, :3] += _APPROACH * quat_rotate(goal[:, 3:], goal.new_tensor([0.0, 1.0, 0.0]).expand(len(goal), 3))
    free, way = (free_of_giver(pose, pool.joints.double(), here, hand, mano[None])[0] for pose in (goal, behind))
    skin = hand.vertices(mano[None])[0]
    points = obj.points.double()
    left = points[torch.cdist(points, skin).amin(-1) > 0.03]
    free_end = (left if len(left) else points).mean(0) - skin.mean(0)
    return GiverGrasp(mano, free, free & way, torch.nn.functional.normalize(free_end, dim=0))


def _wrist_in_object(grasp: GiverGrasp) -> Tensor:
    return torch.cat((grasp.mano[:3], quat_from_axis_angle(grasp.mano[3:6])))


def draw_offer(subject: Subject, grasp: GiverGrasp, pool: GraspPool, rng: np.random.Generator) -> Tensor | None:
    """A wrist pose (7,) that holds the free end towards the robot, or None if no draw leaves it enough goals."""
    wrist = draw_offers(subject, _OFFERS, rng)
    object_pose = pose_multiply(wrist, pose_inverse(_wrist_in_object(grasp)))
    fingers = quat_rotate(pool.palm_pose[:, 3:].double(), wrist.new_tensor([0.0, 0.0, 1.0]).expand(len(pool), 3))
    ahead = quat_rotate(object_pose[:, None, 3:].expand(-1, len(pool), 4), fingers.expand(_OFFERS, -1, 3))
    reachable = grasp.open_way & (ahead[..., 0] > -0.2)  # the robot's forearm may not point at the giver
    free_end = quat_rotate(object_pose[:, 3:], grasp.free_end.expand(_OFFERS, 3))
    liking = free_end @ wrist.new_tensor([-1.0, 0.0, 0.4]) + torch.from_numpy(rng.uniform(0, 0.4, _OFFERS))
    from_giver = hand_axis(subject.side, wrist[:, 3:])[:, 0] > 0.3
    good = from_giver & within_reach(subject, wrist) & (reachable.sum(-1) >= MIN_GOALS) & (free_end[:, 0] < 0.3)
    if not good.any():
        return None
    return wrist[torch.where(good, liking, -torch.inf).argmax()]


def draw_hand_start(obj: ObjectModel, pool: GraspPool, object_pose: Tensor, rng: np.random.Generator) -> Tensor | None:
    """Hand state (28,) of the open, waiting robot: fingers towards the giver, palm to its left or down.

    Clear of the object and, through the whole trial, of every goal; None if no draw is.
    """
    joints = OPEN_HAND.double()
    center = object_pose[0, :3]
    points = pose_apply(object_pose[0], obj.points[::16].double())
    goals = pose_apply(object_pose[:, None], pool.palm_pose[:, :3].double())
    for _ in range(20):
        away = torch.from_numpy(rng.normal((-1.0, 0.0, 0.0), (0.0, 0.3, 0.2)))
        position = center + rng.uniform(*START_DISTANCE) * torch.nn.functional.normalize(away, dim=0)
        position[2] = position[2].clamp(0.9, 1.2)
        # z, the fingers, along +x; y, the back of the hand, from right (-y, palm left) to up (+z, palm down)
        turn = rng.uniform(-0.3, 0.5 * np.pi)
        back = position.new_tensor([0.0, -np.cos(turn), np.sin(turn)])
        ahead = position.new_tensor([1.0, 0.0, 0.0])
        upright = quat_from_matrix(torch.stack((torch.linalg.cross(back, ahead, dim=0), back, ahead), dim=-1))
        tilt = torch.from_numpy(rng.normal(0.0, 0.2, 3))
        pose = torch.cat((position, quat_multiply(quat_from_axis_angle(tilt), upright)))
        distance = (position - center).norm()
        clear = torch.cdist(surface_points(pose, joints)[0][::8].double(), points).min() > 0.06
        waits = (goals - position).norm(dim=-1).min() > _GOAL_GAP
        if START_DISTANCE[0] <= distance <= START_DISTANCE[1] and clear and waits:
            return join_hand_state(pose, joints)
    return None
