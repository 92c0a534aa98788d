"""Goal choice and goal pose alignment (DexH2R sections 4.1 and 4.3), batched over worlds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.hand.kinematics import OPEN_HAND
from dexh2r_gym.rotations import quat_angle, quat_rotate, quat_slerp

ALIGNMENT_SPEED = 0.02  # v, metres a frame
ALIGNMENT_DEPTH = 0.0065  # metres; a step may not push the hand deeper into the object than this
REACHED_DISTANCE = 0.01  # metres
STALL_FRAMES = 8  # frames that the hand may stand at a goal without reaching it
CLOSED_ANGLE = 0.2  # rad; joints closer than this to the goal's count as there
RETREAT = (0.0, 0.035, -0.035)  # metres, palm frame: from a goal to the point behind it, whence a hand best moves in
START_DISTANCE = {"easy": 0.10, "hard": 0.05}  # U, metres


@dataclass(frozen=True)
class SpeedLimits:
    """Greatest speeds of the robot: palm m/s and rad/s, joints rad/s."""

    palm_linear: float = 1.5
    palm_angular: float = 4.0
    joint: float = 4.0

    def __post_init__(self) -> None:
        for name in ("palm_linear", "palm_angular", "joint"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"speed limit {name} must be positive, got {getattr(self, name)}; use None for no limits"
                )


def pose_difference(hand_pose: Tensor, goal_poses: Tensor) -> tuple[Tensor, Tensor]:
    """Squared difference of global poses, and of their positions alone: (B, 7), (B, G, 7) -> (B, G), (B, G).

    The first is |translation|^2 + angle^2, metres and radians; the second |translation|^2.
    """
    x, y, z = (goal_poses[..., i] - hand_pose[:, None, i] for i in range(3))
    squared = x * x + y * y + z * z
    qw, qx, qy, qz = (goal_poses[..., i] * hand_pose[:, None, i] for i in range(3, 7))
    angle = 2.0 * torch.acos((qw + qx + qy + qz).abs().clamp_max(1.0))
    return squared + angle * angle, squared


def nearest_goal(hand_pose: Tensor, goal_poses: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The goal whose global pose differs least from the hand's (section 4.1), among the free ones.

    The difference of global poses is sqrt(|translation|^2 + angle^2), metres and radians. d is the distance of the two
    palms (section 4.3).

    Args:
        hand_pose: (B, 7) palm and goal_poses: (B, G, 7), in any one frame: goals are carried along with the object, so
            the object's is the cheapest. free: (B, G) bool, goals that may be used.

    Returns:
        index (B,) of the goal, and d (B,) metres: inf where no goal is free (the index is then the least bad of all).
    """
    difference, squared = pose_difference(hand_pose, goal_poses)
    index = (difference + torch.where(free, 0.0, 1e6)).argmin(dim=-1)
    d = squared.gather(1, index[:, None]).squeeze(1).sqrt()
    return index, torch.where(free.any(dim=-1), d, torch.inf)


def advance(
    hand_pose: Tensor, joints: Tensor, goal_pose: Tensor, goal_joints: Tensor, fraction: Tensor
) -> tuple[Tensor, Tensor]:
    """The hand part of the way to its goal: translation and joints linear, rotation slerp (section 4.3).

    fraction: (B, 3), how much of the way for translation, rotation and joints; or (B, 1), the same for all three.
    """
    move, turn, close = fraction.expand(-1, 3).split(1, dim=-1)
    position = hand_pose[:, :3] + move * (goal_pose[:, :3] - hand_pose[:, :3])
    rotation = quat_slerp(hand_pose[:, 3:], goal_pose[:, 3:], turn)
    return torch.cat((position, rotation), dim=-1), joints + close * (goal_joints - joints)


def reachable_fraction(
    hand_pose: Tensor, joints: Tensor, goal_pose: Tensor, goal_joints: Tensor, limits: SpeedLimits | None, dt: float
) -> Tensor:
    """How much of the way to a target the robot's speed allows in dt seconds, (B, 3): translation, rotation, joints."""
    if limits is None:
        return hand_pose.new_ones(len(hand_pose), 3)
    d = (goal_pose[:, :3] - hand_pose[:, :3]).norm(dim=-1)
    angle = quat_angle(goal_pose[:, 3:], hand_pose[:, 3:])
    turn = (goal_joints - joints).abs().amax(dim=-1)
    need = torch.stack(
        (d / (limits.palm_linear * dt), angle / (limits.palm_angular * dt), turn / (limits.joint * dt)), -1
    )
    return 1.0 / need.clamp_min(1.0)


def alignment_fraction(
    hand_pose: Tensor, joints: Tensor, goal_pose: Tensor, goal_joints: Tensor, limits: SpeedLimits | None, dt: float
) -> Tensor:
    """How much of the way to the goal one frame covers, (B, 1): 1/N with N = d / v, less where the robot is too slow.

    Translation, rotation and joints keep step, so that all of them arrive together.
    """
    d = (goal_pose[:, :3] - hand_pose[:, :3]).norm(dim=-1, keepdim=True)
    fraction = (ALIGNMENT_SPEED / d.clamp_min(1e-9)).clamp_max(1.0)
    reachable = reachable_fraction(hand_pose, joints, goal_pose, goal_joints, limits, dt)
    return torch.minimum(fraction, reachable.amin(dim=-1, keepdim=True))


def alignment_candidates(
    hand_pose: Tensor, joints: Tensor, goal_pose: Tensor, goal_joints: Tensor, limits: SpeedLimits | None, dt: float
) -> list[tuple[Tensor, Tensor]]:
    """Next steps of the alignment, the best first; the paper's collision check takes the first that is clear.

    1. Towards the goal, as the paper interpolates. 2. Towards the goal with the fingers as they are, where closing them
    too early would run them into the object. 3. Back to the point behind the goal while the hand opens.

    Returns:
        three pairs of palm pose (B, 7) and joints (B, 22).
    """
    opened = constant(OPEN_HAND, joints).expand_as(joints)
    hand = hand_pose.repeat(3, 1), joints.repeat(3, 1)  # the three at once, one below the other
    target = torch.cat((goal_pose, goal_pose, behind_goal(goal_pose))), torch.cat((goal_joints, joints, opened))
    poses, bends = advance(*hand, *target, alignment_fraction(*hand, *target, limits, dt))
    poses, bends = poses.view(3, *hand_pose.shape), bends.view(3, *joints.shape)
    return [(poses[i], bends[i]) for i in range(3)]


def behind_goal(goal_pose: Tensor, times: float = 1.0) -> Tensor:
    """The pose (..., 7) a number of `RETREAT`s behind a goal (..., 7)."""
    shift = times * constant(RETREAT, goal_pose)
    return torch.cat((goal_pose[..., :3] + quat_rotate(goal_pose[..., 3:], shift), goal_pose[..., 3:]), dim=-1)


def arrived(hand_pose: Tensor, joints: Tensor, goal_pose: Tensor, goal_joints: Tensor) -> Tensor:
    """Whether the palm is within 1 cm and every joint within 0.2 rad of a goal, (B,) bool."""
    near = (goal_pose[:, :3] - hand_pose[:, :3]).norm(dim=-1) < REACHED_DISTANCE
    return near & ((goal_joints - joints).abs().amax(dim=-1) < CLOSED_ANGLE)


def retreat(
    told: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor], blocked: Tensor, retreating: Tensor, stalled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which hands go back behind their goals: those that are blocked, until they are there.

    A goal that is blocked even from behind it, or held off by contact once there, is to be given up.

    Args:
        told, goal: palms (B, 7), in one frame, and joints (B, 22). blocked: (B,) bool, no step towards the goal is
            clear. retreating, stalled: what this returned last.

    Returns:
        retreating (B,) bool, stalled (B,) frames that the hand has stood at its goal, give_up (B,) bool.
    """
    ready = arrived(*told, behind_goal(goal[0]), constant(OPEN_HAND, told[1]).expand_as(told[1]))
    stalled = (stalled + 1) * arrived(*told, *goal)
    give_up = (ready & blocked) | (stalled > STALL_FRAMES)
    return give_up | blocked | (retreating & ~ready), stalled, give_up
