"""The giver's hand: skeleton, skin, collision capsules, and how it holds an object."""

from dexh2r_gym.giver.hand import CHAINS, SIDES, GiverHand, mirror_axis_angle, move_mano

__all__ = ["CHAINS", "SIDES", "GiverHand", "mirror_axis_angle", "move_mano"]
