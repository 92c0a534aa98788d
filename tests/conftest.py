"""One thread for torch: test processes share the machine, and its results must not depend on it."""

import torch

import dexh2r_gym  # noqa: F401  before any test imports mujoco: where there is no screen, it chooses EGL

torch.set_num_threads(1)
