"""Which goal grasp to go for (DexH2R section 4.1): it must be stable, clear of the giver's hand, and the nearest.

Batched over W worlds of G goals each, padded where they have fewer. A pool that the filters empty still gives a goal:
the least bad one, and `Fallback` says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from dexh2r_gym.alignment import nearest_goal, pose_difference
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.clearance import MARGIN, GiverClearance
from dexh2r_gym.grasps.giver_box import GiverBox
from dexh2r_gym.grasps.stability import STABLE_DISTANCE
from dexh2r_gym.types import NUM_GIVER_JOINTS, NUM_JOINTS

RELEASED_NEAREST = 40  # goals nearest by translation, among which the released code takes the least rotation
SHAPES = ("solid", "box")
_FIRST = 4  # times as many goals of a world as are needed are looked at first, the nearest
_MORE = 4  # times as many again are looked at next
Nearest = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def nearest_goal_released(hand_pose: Tensor, goal_poses: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The released code's reading of the nearest goal: of the 40 free ones nearest by translation the least turned.

    Arguments and result are those of `alignment.nearest_goal`, the paper's reading: hand_pose (B, 7), goal_poses
    (B, G, 7), free (B, G) bool -> index (B,) and d (B,) metres: inf where no goal is free (the index is then chosen
    among all). Goals as far as the 40th count as well; of goals turned alike the first is taken.
    """
    squared = pose_difference(hand_pose, goal_poses)[1]  # (B, G)
    allowed = free | ~free.any(-1, keepdim=True)
    far = squared.masked_fill(~allowed, torch.inf)
    count = min(RELEASED_NEAREST, far.shape[1])
    near = allowed & (far <= far.kthvalue(count, dim=-1, keepdim=True).values)
    cosine = (goal_poses[..., 3:] * hand_pose[:, None, 3:]).sum(-1).abs()  # of half the angle
    index = cosine.masked_fill(~near, -1.0).argmax(-1)
    d = squared.gather(1, index[:, None]).squeeze(1).sqrt()
    return index, torch.where(free.any(-1), d, torch.inf)


NEAREST: dict[str, Nearest] = {"paper": nearest_goal, "released": nearest_goal_released}


class Fallback(IntEnum):
    """What is wrong with a chosen goal."""

    NONE = 0  # nothing: it is stable, free, and the nearest such
    NO_STABLE = 1  # no free goal is stable: the free one with which the object moved least in the stability test
    NO_FREE = 2  # no goal at all is free: the stable one with the most clearance
    NEITHER = 3  # no goal is free and none is stable: the one with the most clearance


@dataclass(frozen=True)
class Choice:
    """The goals chosen in W worlds."""

    index: Tensor  # (W,) long, a goal that exists
    d: Tensor  # (W,) metres between palm and goal, finite
    fallback: Tensor  # (W,) long, of `Fallback`


def choose_goal(
    hand_pose: Tensor,
    palm_pose: Tensor,
    free: Tensor,
    displacement: Tensor,
    clearance: Tensor,
    *,
    exists: Tensor | None = None,
    nearest: Nearest = nearest_goal,
) -> Choice:
    """The nearest goal that is stable and free; where there is none, the least bad one.

    A goal that is free comes before one that is stable: rather a grasp that may slip than one through the giver's hand.

    Args:
        hand_pose: (W, 7) palm and palm_pose: (W, G, 7) goals, in any one frame, such as the object's.
        free: (W, G) bool, clear of the giver's hand.
        displacement: (W, G) metres, the furthest the object moved under any push of the stability test; stable is
            less than 2 cm. inf for a test that failed.
        clearance: (W, G) metres to the giver, of any meaning; read only where no goal is free.
        exists: (W, G) bool, False for padding; None: all exist.
        nearest: the reading of "nearest", `nearest_goal` or `nearest_goal_released`.

    Raises:
        ValueError: an array of another shape, NaN, or a world without any goal.
    """
    exists = _check_pool(palm_pose, exists)
    worlds, grasps = exists.shape
    _check("hand_pose", hand_pose, (worlds, 7))
    _check("free", free, (worlds, grasps))
    _check("displacement", displacement, (worlds, grasps), infinite=True)
    _check("clearance", clearance, (worlds, grasps), infinite=True)
    free = free & exists
    stable = (displacement < STABLE_DISTANCE) & exists
    good, any_free, any_stable = free & stable, free.any(-1), stable.any(-1)
    index = nearest(hand_pose, palm_pose, good)[0]
    slips = displacement.clamp_max(1e6).masked_fill(~free, torch.inf).argmin(-1)
    ranked = torch.where(any_stable[:, None], stable, exists)
    in_the_way = clearance.clamp(-1e6, 1e6).masked_fill(~ranked, -torch.inf).argmax(-1)
    none = ~good.any(-1)
    index = torch.where(none, torch.where(any_free, slips, in_the_way), index)
    d = (palm_pose[torch.arange(worlds), index, :3] - hand_pose[:, :3]).norm(dim=-1)
    blocked = torch.where(any_stable, Fallback.NO_FREE, Fallback.NEITHER)
    return Choice(index, d, torch.where(none, torch.where(any_free, Fallback.NO_STABLE, blocked), Fallback.NONE))


class GoalFilter:
    """The goals of W worlds, filtered and chosen from every frame.

    Collision is judged on the exact solids of both hands (`GiverClearance`) or, for comparison with the released code,
    against the bounding box of the giver's skin (`GiverBox`). Everything is seen from the object, which carries its
    goals along. The answer depends on the arguments alone, not on earlier frames, which only make it faster.
    """

    def __init__(
        self,
        palm_pose: Tensor,
        joints: Tensor,
        displacement: Tensor,
        givers: Sequence[GiverHand],
        *,
        exists: Tensor | None = None,
        shape: str = "solid",
        reading: str = "paper",
        margin: float = MARGIN,
    ) -> None:
        """Take in the goals of all worlds; about a second for 64 worlds of 500.

        Args:
            palm_pose: (W, G, 7) in the object's frame; joints: (W, G, 22).
            displacement: (W, G) metres, see `choose_goal`; from `stability.displacements` the greatest of each row.
            givers: the giver's hand of each world; share the instance between worlds with the same giver.
            exists: (W, G) bool, False for padding, whose numbers are not read; None: all exist.
            shape: of the giver's hand: solid, or box as in the released code, which has no margin.
            reading: of "nearest": paper or released.
            margin: metres that a free goal keeps from the giver's solid.

        Raises:
            ValueError: an unknown option, an array of another shape, NaN, no goal at all or in some world.
        """
        for name, value, valid in (("shape", shape, SHAPES), ("reading", reading, tuple(NEAREST))):
            if value not in valid:
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")
        if not 0 <= margin < 1:
            raise ValueError(f"margin is {margin}; it must be at least 0, in metres")
        self.exists, palm_pose, joints = _check_goals(palm_pose, joints, displacement, givers, exists)
        self.palm_pose, self.displacement = palm_pose, displacement.clone()
        self._good = (self.displacement < STABLE_DISTANCE) & self.exists
        self._nearest = NEAREST[reading]
        self._giver: GiverClearance | GiverBox = (
            GiverBox(palm_pose, joints, givers)
            if shape == "box"
            else GiverClearance(palm_pose, joints, givers, margin=margin)
        )

    def replace(
        self,
        worlds: Tensor,
        palm_pose: Tensor,
        joints: Tensor,
        displacement: Tensor,
        givers: Sequence[GiverHand],
        exists: Tensor | None = None,
    ) -> None:
        """Other goals and givers for worlds (n,) long, as at a reset: (n, G, 7), (n, G, 22), (n, G), n, (n, G)."""
        exists, palm_pose, joints = _check_goals(palm_pose, joints, displacement, givers, exists)
        if exists.shape != (len(worlds), self.exists.shape[1]):
            raise ValueError(
                f"palm_pose must be ({len(worlds)}, {self.exists.shape[1]}, 7): the worlds to replace, and as many "
                f"goals as before (pad with exists=False); got {tuple(palm_pose.shape)}"
            )
        self.exists[worlds], self.palm_pose[worlds], self.displacement[worlds] = exists, palm_pose, displacement
        self._good[worlds] = (displacement < STABLE_DISTANCE) & exists
        self._giver.replace(worlds, palm_pose, joints, givers)

    def free(self, bones: Tensor, object_pose: Tensor | None = None) -> Tensor:
        """Which goals exist and are clear of the giver's hand: (W, G) bool.

        bones: (W, 16, 7) poses of the giver's bones in the object's frame. object_pose: (W, 7) in the world, needed
        for shape "box" alone, whose box has the axes of the world.
        """
        self._giver.see(*self._seen(bones, object_pose))
        return self._giver.free(self.exists)

    def choose(self, hand_pose: Tensor, bones: Tensor, object_pose: Tensor | None = None) -> Choice:
        """The goal of every world for a palm at hand_pose (W, 7) in the object's frame; the others as for `free`.

        Stable goals are looked at from the nearest on, until enough are free; the others only where no stable goal is.
        """
        _check("hand_pose", hand_pose, (len(self.exists), 7))
        self._giver.see(*self._seen(bones, object_pose))
        difference, squared = pose_difference(hand_pose, self.palm_pose)
        if self._nearest is nearest_goal:
            free = self._nearest_free(difference, 1)
        else:
            free = self._nearest_free(squared, RELEASED_NEAREST)
        clearance = torch.zeros(free.shape)
        none = ~free.any(-1)
        if none.any():
            free |= self._giver.free(self.exists & none[:, None])
            blocked = (~free.any(-1)).nonzero()[:, 0]
            clearance[blocked] = self._giver.clearance(blocked)
        return choose_goal(
            hand_pose,
            self.palm_pose,
            free,
            self.displacement,
            clearance,
            exists=self.exists,
            nearest=self._nearest,
        )

    def _nearest_free(self, cost: Tensor, enough: int) -> Tensor:
        """The stable goals that are free, from the least cost (W, G) on, at least `enough` where there are. (W, G)"""
        cost = cost.masked_fill(~self._good, torch.inf)
        free, more = torch.zeros_like(self._good), torch.ones(len(cost), 1, dtype=torch.bool)
        count = _FIRST * enough
        while more.any():
            limit = cost.kthvalue(min(count, cost.shape[1]), dim=-1, keepdim=True).values
            free |= self._giver.free(self._good & (cost <= limit) & more)
            more = more & (free.sum(-1, keepdim=True) < enough) & (count < cost.shape[1])
            count *= _MORE
        return free

    def _seen(self, bones: Tensor, object_pose: Tensor | None) -> tuple[Tensor, ...]:
        """What the collision test needs to know of this frame."""
        _check("bones", bones, (len(self.exists), NUM_GIVER_JOINTS, 7))
        if isinstance(self._giver, GiverClearance):
            return (bones,)
        if object_pose is None:
            raise ValueError("shape 'box' needs object_pose (W, 7): the box has the axes of the world")
        _check("object_pose", object_pose, (len(self.exists), 7))
        return bones, object_pose


def _check(name: str, value: Tensor, shape: tuple[int, ...], infinite: bool = False) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
    broken = value.isnan() if infinite else ~value.isfinite()
    if broken.any():
        what = "NaN" if infinite else "NaN or infinite numbers"
        raise ValueError(f"{name} has {what} in world {int(broken.nonzero()[0, 0])}")


def _check_pool(palm_pose: Tensor, exists: Tensor | None) -> Tensor:
    """Check poses (W, G, 7) and which of them exist. -> (W, G) bool"""
    if palm_pose.ndim != 3 or palm_pose.shape[-1] != 7:
        raise ValueError(f"palm_pose must be (W, G, 7), got {tuple(palm_pose.shape)}")
    worlds, grasps = palm_pose.shape[:2]
    if grasps == 0:
        raise ValueError("the pool of goals is empty (G = 0): there is nothing to choose from, propose grasps first")
    exists = torch.ones(worlds, grasps, dtype=torch.bool) if exists is None else exists
    if tuple(exists.shape) != (worlds, grasps) or exists.dtype != torch.bool:
        raise ValueError(f"exists must be bool {(worlds, grasps)}, got {exists.dtype} {tuple(exists.shape)}")
    empty = (~exists.any(-1)).nonzero()[:, 0]
    if len(empty):
        raise ValueError(f"the pool of goals of world {int(empty[0])} is empty: exists is False for all {grasps}")
    _check("palm_pose", palm_pose.masked_fill(~exists[..., None], 0.0), (worlds, grasps, 7))
    return exists


def _check_goals(
    palm_pose: Tensor, joints: Tensor, displacement: Tensor, givers: Sequence[GiverHand], exists: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the goals of W worlds. -> exists (W, G), and poses and joints with padding that repeats a goal; all new."""
    exists = _check_pool(palm_pose, exists)
    worlds, grasps = exists.shape
    joints = joints.masked_fill(~exists[..., None], 0.0) if joints.shape[:2] == exists.shape else joints
    _check("joints", joints, (worlds, grasps, NUM_JOINTS))
    _check("displacement", displacement, (worlds, grasps), infinite=True)
    off = ((palm_pose[..., 3:].norm(dim=-1) - 1).abs() > 1e-3) & exists
    if off.any():
        world, grasp = off.nonzero()[0].tolist()
        raise ValueError(f"palm_pose of goal {grasp} in world {world} is not a unit quaternion")
    if len(givers) != worlds:
        raise ValueError(f"givers must be a hand for each of {worlds} worlds, got {len(givers)}")
    row = torch.arange(worlds)[:, None]
    take = torch.where(exists, torch.arange(grasps), exists.long().argmax(-1, keepdim=True))  # (W, G)
    return exists.clone(), palm_pose[row, take], joints[row, take]
