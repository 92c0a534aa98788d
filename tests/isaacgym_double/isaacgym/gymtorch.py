"""Tensors of the double to torch and back."""

import torch

from isaacgym.gymapi import Misuse, Tensor


def wrap_tensor(gym_tensor):
    """The torch tensor behind what `acquire_*` returned."""
    if not isinstance(gym_tensor, Tensor):
        raise Misuse(f"wrap_tensor needs what an acquire_* call returned, got {type(gym_tensor).__name__}")
    return gym_tensor._torch


def unwrap_tensor(torch_tensor):
    """A descriptor of a torch tensor, which must be contiguous."""
    if not isinstance(torch_tensor, torch.Tensor):
        raise Misuse(f"unwrap_tensor needs a torch tensor, got {type(torch_tensor).__name__}")
    if not torch_tensor.is_contiguous():
        raise Misuse("Input tensor must be contiguous")
    return Tensor._of(torch_tensor)
