"""The handover environments: a vector environment with all of the task, and a single one that is a view of it."""

from dexh2r_gym.envs.handover import HandoverEnv
from dexh2r_gym.envs.handover_vector import HandoverVectorEnv

__all__ = ["HandoverEnv", "HandoverVectorEnv"]
