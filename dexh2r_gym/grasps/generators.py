"""What proposes goal grasps for a point cloud, and such generators by name.

A package offers generators by an entry point of the group `dexh2r_gym.grasp_generators` that names a function without
arguments; it returns a dict from names to makers, each a function without arguments that returns a `GraspGenerator`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from torch import Tensor

from dexh2r_gym.hints import did_you_mean

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
    makers: dict[str, Callable[[], GraspGenerator]] = {}
    for entry in entry_points(group="dexh2r_gym.grasp_generators"):
        makers |= entry.load()()
    return makers


def load_generator(name: str) -> GraspGenerator:
    """A generator by its name, or `module:function` for a maker of your own. ValueError lists the valid names."""
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            return getattr(importlib.import_module(module), function)()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"generator {name!r} cannot be imported: {error}") from error
    makers = installed_generators()
    if name not in makers:
        hint = did_you_mean(name, makers)
        raise ValueError(f"unknown generator {name!r}{hint}; choose one of {', '.join(makers)}, or module:function")
    return makers[name]()
