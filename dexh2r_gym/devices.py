"""What is missing where a GPU is asked for."""

from __future__ import annotations

import torch

SLOWLY = "device='cpu' needs no GPU, and is slow"


def missing_cuda(device: torch.device) -> str:
    """Why there is no such device, and how to get it, where PyTorch has no CUDA."""
    why = (
        f"PyTorch {torch.__version__} is built without CUDA: see pytorch.org for the build that fits your driver"
        if torch.version.cuda is None
        else "PyTorch finds none: `nvidia-smi` lists what there is"
    )
    return (
        f"device {str(device)!r} needs an NVIDIA GPU, its driver and a build of PyTorch with CUDA, and {why}; {SLOWLY}"
    )
