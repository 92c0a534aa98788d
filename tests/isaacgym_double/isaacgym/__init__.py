"""A strict double of Isaac Gym Preview 4, for tests: no physics, but no mistake goes by.

It has the names and parameters of `api.txt` and nothing else, keeps tensors of the documented shapes, moves free bodies
by their velocities and dofs towards their targets, and fails on any use that the real one would not stand: a wrong
order of calls, wrong dtypes or shapes, tensors read before they are refreshed, root states set twice before a call of
`simulate`. Like the real one it refuses to be imported after torch. Nothing collides; `DEXH2R_DOUBLE_CONTACT`, JSON of
forces by "actor/body", says what touches.
"""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules. Please import torch after isaacgym modules.")
