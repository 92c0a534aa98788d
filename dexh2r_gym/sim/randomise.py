"""Domain randomisation: friction, mass and strength drawn for every episode, and errors of the hand's own sensors.

What is drawn follows from an episode's key alone, so it is the same whatever stands beside it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import log1p

import mujoco
import torch
from torch import Tensor

from dexh2r_gym.constants import constant
from dexh2r_gym.sensing.hashing import uniform
from dexh2r_gym.sim.layout import Layout

PHYSICS = ("friction", "mass", "strength")  # what has a factor
SCALED = (  # what of a model changes with the factors
    *("geom_friction", "body_mass", "body_subtreemass", "body_inertia", "body_invweight0", "dof_invweight0", "dof_M0"),
    *("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),
)
MAX_RANGE = 9.0  # factors up to ten
MAX_NOISE = 1.0  # m or rad
_FACTORS = 10  # stream of random numbers


@dataclass(frozen=True)
class Randomisation:
    """Ranges of what is drawn once an episode, and standard deviations of what is drawn every frame; 0 is off.

    A range of 0.3 gives factors drawn log-uniformly from 1/1.3 to 1.3: as likely above 1 as below.
    """

    friction: float = 0.0
    """Range of the friction of all contacts."""
    mass: float = 0.0
    """Range of the object's mass, and of its inertia with it."""
    strength: float = 0.0
    """Range of stiffness, damping and greatest torque of the hand's 22 joints, together."""
    palm_position: float = 0.0
    """Error of the palm as the agent sees it, m, each axis."""
    palm_rotation: float = 0.0
    """Error of the palm as the agent sees it, rad, about each axis of the world."""
    joints: float = 0.0
    """Error of each joint of the hand as the agent sees it, rad."""

    def __post_init__(self) -> None:
        for name in PHYSICS:
            value = getattr(self, name)
            if not 0 <= value <= MAX_RANGE:
                raise ValueError(
                    f"{name} of the randomisation must be 0 to {MAX_RANGE:g}, got {value}: 0.3 gives factors "
                    "from 1/1.3 to 1.3"
                )
        for name in ("palm_position", "palm_rotation", "joints"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_NOISE:
                raise ValueError(f"{name} of the randomisation must be 0 to {MAX_NOISE:g} (m or rad), got {value}")

    @property
    def physics(self) -> bool:
        """Whether any factor is drawn."""
        return any(getattr(self, name) > 0 for name in PHYSICS)

    @property
    def senses(self) -> bool:
        """Whether the hand's sensors err."""
        return max(self.palm_position, self.palm_rotation, self.joints) > 0


def draw_factors(randomisation: Randomisation, key: Tensor) -> Tensor:
    """Factors of `PHYSICS` for episodes with these keys (n,) long: (n, 3) float64."""
    drawn = 2.0 * uniform(key, _FACTORS, len(PHYSICS)).double() - 1.0
    return (drawn * constant(tuple(log1p(getattr(randomisation, name)) for name in PHYSICS), drawn)).exp()


def randomised_model(model: mujoco.MjModel, factors: Tensor) -> mujoco.MjModel:
    """A copy of a scene's model with friction, object mass and strength of the hand's joints times factors (3,)."""
    model = copy.copy(model)
    values = {name: torch.from_numpy(getattr(model, name))[None] for name in SCALED}
    scale_physics(Layout.of(model), values, factors[None])
    return model


def scale_physics(at: Layout, values: dict[str, Tensor], factors: Tensor) -> None:
    """Multiply n scenes' numbers, in place: friction, object mass and strength of the hand's joints by factors (n, 3).

    A free body's constants go with its mass or against it, so none needs to be computed anew (`mj_setConst`).

    Args:
        at: where they have them. values: those of `SCALED` that there are, each (n, ...) as in MjModel.
    """
    friction, mass, strength = factors.to(values["body_mass"]).unbind(-1)
    values["geom_friction"] *= friction[:, None, None]  # of all: that of a contact is the greater of the two
    values["body_subtreemass"][:, 0] += (mass - 1.0) * values["body_mass"][:, at.object_body]
    values["body_subtreemass"][:, at.object_body] *= mass
    values["body_mass"][:, at.object_body] *= mass
    values["body_inertia"][:, at.object_body] *= mass[:, None]
    values["body_invweight0"][:, at.object_body] /= mass[:, None]
    values["dof_invweight0"][:, at.object_v] /= mass[:, None]
    if "dof_M0" in values:
        values["dof_M0"][:, at.object_v] *= mass[:, None]
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        values[name][:, at.joint_u] *= strength[:, None, None]
