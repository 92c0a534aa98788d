"""The trained generators of grasps that come with the package, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from policies.checkpoint import FOLDER, load_checkpoint

CHECKPOINTS = {
    "cvae": ("grasp-cvae", "grasp_cvae"),
    "cvae-scratch": ("grasp-cvae", "grasp_cvae_scratch"),
    "diffusion": ("grasp-diffusion", "grasp_diffusion"),
    "diffusion-scratch": ("grasp-diffusion", "grasp_diffusion_scratch"),
}
"""Name of a generator -> its policy and its checkpoint. `-scratch`: without pre-training on random shapes."""


def generators() -> dict[str, Callable[[], Any]]:
    """Makers by name, for the entry point group `dexh2r_gym.grasp_generators`."""
    return {
        name: partial(load_checkpoint, FOLDER / f"{file}.safetensors", policy)
        for name, (policy, file) in CHECKPOINTS.items()
    }
