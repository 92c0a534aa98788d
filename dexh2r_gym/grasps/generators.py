"""What proposes goal grasps for a point cloud, and such generators by name.

A package offers generators by an entry point of the group `dexh2r_gym.grasp_generators` that names a function without
arguments; it returns a dict from names to makers, each a function without arguments that returns a `GraspGenerator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dexh2r_gym.plugins import find, installed

GROUP = "dexh2r_gym.grasp_generators"
NUM_PROPOSALS = 500  # 25 approach directions x 20 turns, as in the released code


@dataclass(frozen=True, eq=False)
class Proposals:
    """N grasps proposed for one cloud, in its frame. Nothing is promised about them: see `stability` and `filters`."""

    palm_pose: Tensor  # (N, 7) float32
    joints: Tensor  # (N, 22) float32, rad, within the hand's ranges


class GraspGenerator(Protocol):
    """Proposes grasps for an object of which it sees the points alone."""

    def propose(
        self, points: Tensor, normals: Tensor | None = None, *, num: int = NUM_PROPOSALS, seed: int = 0
    ) -> Proposals:
        """N = `num` grasps; the same seed gives the same ones.

        Args:
            points: (P, 3) metres, of the object's surface, in any frame.
            normals: (P, 3) unit, outward; None: they are estimated.

        Raises:
            ValueError: a cloud that is empty, too small, not finite or not in metres; the message says which.
        """


def installed_generators() -> dict[str, Callable[[], GraspGenerator]]:
    """All generators that installed packages offer, by name."""
    return installed(GROUP)


def load_generator(name: str) -> GraspGenerator:
    """A generator by its name, or `module:function` for a maker of your own. ValueError lists the valid names."""
    return find(name, GROUP, "generator")()
