"""Making of pools: search in rounds, tests from cheap to dear, a diverse choice of what passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dexh2r_gym.alignment import behind_goal
from dexh2r_gym.grasps.energy import EnergyWeights
from dexh2r_gym.grasps.pool import MAX_GRASPS, GraspPool, difference, joined
from dexh2r_gym.grasps.scores import grasp_depth
from dexh2r_gym.grasps.search import SearchOptions, search_grasps
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, displacements, is_stable
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.objects import ObjectModel

NUM_GRASPS = 64  # of a pool, unless asked otherwise
MAX_DEPTH = 0.005  # m
MAX_APPROACH_DEPTH = 0.006  # m
_WAY_POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # parts of the way from a grasp to the point behind it
# Contact and balance count more than in the data that generators learn from: more of the grasps hold a heavy thing.
_SEARCH = SearchOptions(weights=EnergyWeights(distance=6.0, closure=4.0))
_ROUND = 128  # grasps searched together
_MIN_TRIES, _TRIES_EACH = 1024, 50  # the search ends after so many tries, or so many for each grasp asked for
_IDLE_ROUNDS = 6  # and after so many rounds in a row in which nothing was found
_SPARE = 1.3  # how many more grasps are sought than kept
_OPENING = 0.12  # m, about as far as thumb and fingers open


def make_pool(
    obj: ObjectModel,
    *,
    seed: int = 0,
    num: int = NUM_GRASPS,
    num_threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> GraspPool:
    """At most `num` different grasps, each stable in the released test, less than 5 mm deep and free to move in to.

    Rounds of search go on until enough were found that also hold the object's weight in every direction; from the
    second round on half of the search starts beside those. They are taken first, the farthest from one another first.
    The others only fill up, if the search ended before: `GraspPool.holds_weight` tells which is which.

    Args:
        obj: what to grasp, of the library or of `objects.build.from_mesh`.
        seed: same seed, same grasps.
        num: 1 to 512.
        num_threads: of the simulation, 0 for all cores; the result does not depend on it.
        progress: called after each round with how many of `num` are found.

    Raises:
        ValueError: `num` out of range, or no grasp was found at all; the message says why that may be.
    """
    check_num(num)
    generator = torch.Generator().manual_seed(seed)
    wanted = round(_SPARE * num)
    found = _tested(obj, torch.zeros(0, 7), torch.zeros(0, 22), num_threads)
    tries = idle = 0
    while tries < max(_MIN_TRIES, _TRIES_EACH * num) and idle < _IDLE_ROUNDS:
        held = found.palm_pose[found.holds_weight]
        grasps = search_grasps(obj, _ROUND, generator, _SEARCH, around=held if len(held) else None)
        new = _tested(obj, *grasps, num_threads)
        found = joined(found, new)
        tries += _ROUND
        idle = 0 if new.holds_weight.any() else idle + 1
        count = int(found.holds_weight.sum())
        if progress is not None:
            progress(min(num, int(count / _SPARE)))
        if count >= wanted:
            break
    if len(found) == 0:
        size = " x ".join(f"{100 * e:.1f}" for e in obj.extents)
        raise ValueError(
            f"no stable grasp of {obj.name!r} found in {tries} tries. It is {size} cm and weighs {obj.mass:.3g} kg; "
            f"a ShadowHand closes around things of up to about {100 * _OPENING:.0f} cm. Is it in metres, and not too "
            "large, thin or slippery a shape to hold in one hand?"
        )
    metadata = {"object": obj.name, "volume": obj.volume, "seed": seed, "num": num, "tries": tries}
    return replace(found.select(_choice(found, num, wanted)), metadata=metadata)


def check_num(num: int) -> None:
    """ValueError unless a pool may have so many grasps."""
    if not 1 <= num <= MAX_GRASPS:
        raise ValueError(f"num grasps of a pool must be 1 to {MAX_GRASPS}, got {num}")


def approach_depth(obj: ObjectModel, palm_pose: Tensor, joints: Tensor) -> Tensor:
    """Deepest point as in `grasp_depth` along the last 5 cm of a straight way in: (G, 7), (G, 22) -> (G,) metres.

    The hand comes from `alignment.RETREAT` with open fingers, which close as evenly as the palm moves. Palm and
    fingertips lead alike: palm first, the fingertips would have to pass through what they are to wrap.
    """
    depths = []
    for part in _WAY_POINTS:
        depths.append(grasp_depth(obj, behind_goal(palm_pose, part), joints + part * (OPEN_HAND.to(joints) - joints)))
    return torch.stack(depths).amax(0)


def diverse_order(palm_pose: Tensor, first: Tensor) -> Tensor:
    """Order in which to take grasps so that any number of them are spread out in position and rotation: farthest first.

    palm_pose (G, 7); first (G,) bool, those that come before all others. -> (G,) long
    """
    different = difference(palm_pose)
    nearest = torch.full_like(different[0], 1e3)
    order = []
    for _ in range(len(palm_pose)):
        best = int((nearest + 1e6 * first).argmax())
        order.append(best)
        nearest = torch.minimum(nearest, different[best])
        nearest[best] = -torch.inf
    return torch.tensor(order, dtype=torch.long)


def takeable(
    obj: ObjectModel, palm_pose: Tensor, joints: Tensor, num_threads: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Those of the grasps (G, 7), (G, 22) that a hand can come to and take hold in: less than 5 mm deep, less than 6 mm
    on the way in, stable in the released test. -> palm_pose, joints, depth, approach, released of `GraspPool`, float32
    """
    depth = grasp_depth(obj, palm_pose, joints)
    palm_pose, joints, depth = (x[depth < MAX_DEPTH] for x in (palm_pose, joints, depth))
    approach = approach_depth(obj, palm_pose, joints)
    palm_pose, joints, depth, approach = (
        x[approach < MAX_APPROACH_DEPTH] for x in (palm_pose, joints, depth, approach)
    )
    released = displacements(obj, palm_pose, joints, RELEASED, num_threads=num_threads)
    stable = is_stable(released)
    palm_pose, joints, depth, approach, released = (
        x[stable].float() for x in (palm_pose, joints, depth, approach, released)
    )
    return palm_pose, joints, depth, approach, released


def _tested(obj: ObjectModel, palm_pose: Tensor, joints: Tensor, num_threads: int) -> GraspPool:
    """The takeable ones of the grasps (G, 7), (G, 22); that of gravity is only measured."""
    palm_pose, joints, depth, approach, released = takeable(obj, palm_pose, joints, num_threads)
    gravity = displacements(obj, palm_pose, joints, GRAVITY, num_threads=num_threads).float()
    return GraspPool(palm_pose, joints, depth, approach, released, gravity)


def _choice(found: GraspPool, num: int, wanted: int) -> Tensor:
    """Which `num` of the grasps to keep, (num,) long: of those that hold the weight first, of `wanted` at most."""
    held = found.holds_weight
    candidates = torch.cat((held.nonzero()[:, 0], (~held).nonzero()[:, 0]))[: max(wanted, int(held.sum()))]
    return candidates[diverse_order(found.palm_pose[candidates], first=held[candidates])[:num]]
