"""Gymnasium environments for dexterous human-to-robot handover (DexH2R, ICCV 2025).

`import dexh2r_gym` registers `DexH2R-Handover-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

from gymnasium.envs.registration import register

__version__ = "0.1.0"

register(
    id="DexH2R-Handover-v0",
    entry_point="dexh2r_gym.envs:HandoverEnv",
    vector_entry_point="dexh2r_gym.envs:HandoverVectorEnv",
)
