"""Goal grasps of the ShadowHand: search, physical test, pools carried with the objects, clearance from the giver."""

from dexh2r_gym.grasps.collision import free_of_giver
from dexh2r_gym.grasps.make import make_pool
from dexh2r_gym.grasps.pool import GraspPool, load_pool, read_pool
from dexh2r_gym.grasps.pool_files import make_pools

__all__ = ["GraspPool", "free_of_giver", "load_pool", "make_pool", "make_pools", "read_pool"]
