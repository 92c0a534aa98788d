"""Simulators: small classes that move the scene; nothing about tasks, rewards or policies.

`kinematic` is the paper's own evaluation (the hand goes where it is told), `mujoco` steps many worlds on a thread pool,
`mjwarp` steps thousands on a GPU, `isaacgym` has a user's Isaac Gym Preview 4 step them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dexh2r_gym.extras import import_extra
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.types import SceneState

Pair = tuple[ObjectModel, GiverHand]
BACKENDS = ("mujoco", "mjwarp", "kinematic", "isaacgym")
PHYSICAL = ("mujoco", "mjwarp", "isaacgym")  # those in which an object that is let go falls
DEVICES = {"mujoco": "cpu", "mjwarp": "cuda", "kinematic": "cpu", "isaacgym": "cpu"}  # where, unless told otherwise
ANY_DEVICE = ("mjwarp", "kinematic")  # those that run on others too


class Simulator(Protocol):
    """Moves B worlds by one recorded frame at a time. Poses (B, 7) in the world frame, metres and radians.

    All tensors, those of the state too, are on one device. Which worlds are meant is said as in `dexh2r_gym.worlds`: by
    their numbers, or by a mask where nothing may be read back from the device, beside full tensors (B, ...).
    """

    state: SceneState  # live: read after reset or step

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """Learn of more objects and the givers that hold them; they are numbered on in this order."""

    def reset(
        self,
        worlds: Tensor,
        pair: Tensor,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        factors: Tensor | None = None,
    ) -> None:
        """Put these worlds, with these pairs (n,) of object and giver, at rest; the other worlds stay as they are.

        Worlds are numbers (n,), or a mask (B,) bool with B rows of all else, of which those of the mask count.

        factors: (n, 3) of friction, mass and strength, see `dexh2r_gym.sim.randomise`; without effect in `kinematic`.
        """

    def grip(self, worlds: Tensor) -> None:
        """From now on, until they are reset, friction in worlds (n,) is solved as closely as a firm grip needs."""

    def step(
        self,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        active: Tensor,
        held: Tensor,
    ) -> None:
        """Advance the active worlds (B,) by one frame, towards targets that hold at its end.

        hand_pose (B, 7), joints (B, 22): commanded. object_pose (B, 7), giver_bones (B, 16, 7): recorded.
        held (B,) bool: whether the giver still holds the object.
        """

    def close(self) -> None:
        """Free what the simulator holds outside of this process. It is not used any more."""


def make_simulator(
    backend: str,
    num_worlds: int,
    dt: float,
    num_threads: int = 0,
    device: torch.device | str = "cpu",
    *,
    grips: bool = False,
) -> Simulator:
    """The simulator of that name. dt: seconds of one recorded frame. num_threads: 0 for every core. device: of torch.
    grips: whether `grip` will be called.

    MissingExtraError where the backend's library is not installed.
    """
    if backend == "mujoco":
        from dexh2r_gym.sim.mujoco import MujocoSimulator

        return MujocoSimulator(num_worlds, dt, num_threads)
    if backend == "mjwarp":
        import_extra("mujoco_warp", "gpu")
        from dexh2r_gym.sim.mjwarp import MjwarpSimulator

        return MjwarpSimulator(num_worlds, dt, device, grips=grips)
    if backend == "kinematic":
        from dexh2r_gym.sim.kinematic import KinematicSimulator

        return KinematicSimulator(num_worlds, dt, device)
    if backend == "isaacgym":
        from dexh2r_gym.sim.isaacgym import IsaacGymSimulator

        return IsaacGymSimulator(num_worlds, dt, num_threads)
    raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
