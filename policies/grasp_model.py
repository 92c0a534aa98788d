"""What the trained generators of grasps have in common, for training, checkpoints and whoever asks them to propose."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from dexh2r_gym.grasps.generators import NUM_PROPOSALS, Proposals
from policies.grasp_data import GraspBatch


class GraspModel(nn.Module):
    """A `dexh2r_gym.grasps.generators.GraspGenerator` that learns."""

    config: Any  # a frozen dataclass of plain values, from which the same network can be made

    def extra_repr(self) -> str:
        """Settings, for printing and for `dexh2r_gym.table4`, which tells runs with others apart by it."""
        return str(self.config)

    @abstractmethod
    def loss(self, batch: GraspBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what is trained."""

    @abstractmethod
    def propose(
        self, points: Tensor, normals: Tensor | None = None, *, num: int = NUM_PROPOSALS, seed: int = 0
    ) -> Proposals:
        """See `dexh2r_gym.grasps.generators.GraspGenerator`."""
