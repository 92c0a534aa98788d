"""One thread for torch: test processes share the machine, and its results must not depend on it."""

import torch

torch.set_num_threads(1)
