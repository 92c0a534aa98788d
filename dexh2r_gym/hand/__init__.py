"""The robot's hand: right ShadowHand E3M5, palm-rooted. Kinematics, solid, surface points and MuJoCo model."""

from dexh2r_gym.hand.fk import forward_kinematics
from dexh2r_gym.hand.kinematics import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, LINK_NAMES, OPEN_HAND, clamp_joints
from dexh2r_gym.hand.mjspec import (
    BASE_LEAD_TIME,
    BASE_LIMIT,
    BASE_STIFFNESS,
    JOINT_LEAD_TIME,
    JOINT_STIFFNESS,
    add_hand,
)
from dexh2r_gym.hand.shapes import LINK_CENTER, LINK_RADIUS, hand_capsules, hand_shapes
from dexh2r_gym.hand.surface import SURFACE_LINK, surface_points, surface_points_from_links, surface_points_local

__all__ = [
    "BASE_LEAD_TIME",
    "BASE_LIMIT",
    "BASE_STIFFNESS",
    "JOINT_LEAD_TIME",
    "JOINT_LOWER",
    "JOINT_NAMES",
    "JOINT_STIFFNESS",
    "JOINT_UPPER",
    "LINK_CENTER",
    "LINK_NAMES",
    "LINK_RADIUS",
    "OPEN_HAND",
    "SURFACE_LINK",
    "add_hand",
    "clamp_joints",
    "forward_kinematics",
    "hand_capsules",
    "hand_shapes",
    "surface_points",
    "surface_points_from_links",
    "surface_points_local",
]
