"""The giver's hand: skeleton, skin, collision capsules, and how it holds an object."""

from dexh2r_gym.giver.capsules import NUM_CAPSULES
from dexh2r_gym.giver.closing import FingerDrive, Grip, close_fingers
from dexh2r_gym.giver.fit import GraspFit, grasp_near
from dexh2r_gym.giver.hand import CHAINS, SIDES, GiverHand, mirror_axis_angle, move_mano
from dexh2r_gym.giver.model import add_giver, correct_skin, giver_mocap_ids, set_giver_geoms
from dexh2r_gym.giver.ways import GiverWays, adapt_ways, load_ways

__all__ = [
    "CHAINS",
    "NUM_CAPSULES",
    "SIDES",
    "FingerDrive",
    "GiverHand",
    "GiverWays",
    "GraspFit",
    "Grip",
    "adapt_ways",
    "add_giver",
    "close_fingers",
    "correct_skin",
    "giver_mocap_ids",
    "grasp_near",
    "load_ways",
    "mirror_axis_angle",
    "move_mano",
    "set_giver_geoms",
]
