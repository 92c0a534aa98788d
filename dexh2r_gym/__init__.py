"""Gymnasium environments for dexterous human-to-robot handover (DexH2R, ICCV 2025).

`import dexh2r_gym` registers `DexH2R-Handover-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

import os
import sys
from ctypes.util import find_library

from gymnasium.envs.registration import register

__version__ = "0.5.0"

if sys.platform == "linux" and not any(map(os.environ.get, ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))):
    if find_library("EGL"):  # else MuJoCo could not even be imported; states and clouds need no OpenGL
        os.environ["MUJOCO_GL"] = "egl"  # read when MuJoCo is imported: without a screen, render through EGL

register(
    id="DexH2R-Handover-v0",
    entry_point="dexh2r_gym.envs:HandoverEnv",
    vector_entry_point="dexh2r_gym.envs:HandoverVectorEnv",
)
