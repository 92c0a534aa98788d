"""The arguments of the environment, checked once, with errors that list what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dexh2r_gym.alignment import START_DISTANCE, SpeedLimits
from dexh2r_gym.arm import ROBOTS
from dexh2r_gym.devices import missing_cuda
from dexh2r_gym.envs.control import CONTROL_MODES
from dexh2r_gym.envs.giver_behaviour import GiverBehaviour
from dexh2r_gym.envs.latency import MAX_LATENCY
from dexh2r_gym.envs.observations import parse_obs_mode
from dexh2r_gym.envs.rewards import REWARD_MODES
from dexh2r_gym.replay import SPLITS
from dexh2r_gym.sensing.cameras import CORNER_CAMERAS, HEIGHT, WIDTH, find_cameras
from dexh2r_gym.sensing.cloud import CLOUDS, MAX_POINTS, SAMPLERS, Box, check_crop
from dexh2r_gym.sensing.noise import PoseNoise
from dexh2r_gym.sim import ANY_DEVICE, BACKENDS, DEVICES, PHYSICAL
from dexh2r_gym.sim.randomise import PHYSICS, Randomisation

RENDER_MODES = ("rgb_array", "human")
DEFAULT_LIMITS = SpeedLimits()
MAX_DELAY = 30  # frames
_CHOICES = {
    "mode": tuple(START_DISTANCE),
    "backend": BACKENDS,
    "robot": ROBOTS,
    "cloud": CLOUDS,
    "sampler": SAMPLERS,
    "control_mode": CONTROL_MODES,
    "alignment": ("env", "none"),
    "ending": ("grasp", "hold"),
    "split": (*SPLITS, "all"),
    "reward_mode": REWARD_MODES,
    "output": ("numpy", "torch"),
}
_BLIND = {"alignment": "env", "ending": "grasp", "robot": "floating", "released_metrics": False, "realtime": False}


@dataclass(frozen=True)
class HandoverOptions:
    """See `dexh2r_gym.envs.HandoverVectorEnv` for what each means.

    Raises:
        ValueError: for a value that is not among the valid ones; the message lists them.
    """

    mode: str = "hard"
    backend: str = "mujoco"
    robot: str = "floating"
    obs_mode: str = "state"
    num_points: int = 1024
    cloud: str = "observed"
    sampler: str = "random"
    cloud_cameras: tuple[str, ...] = CORNER_CAMERAS
    crop: Box | None = None
    cameras: tuple[str, ...] = ("kinect_0",)
    image_size: tuple[int, int] = (WIDTH, HEIGHT)
    segmentation: bool = False
    goal_pos: bool = False
    obs_delay: int = 0
    pose_noise: PoseNoise | None = None
    giver: GiverBehaviour | None = None
    latency: int = 0
    realtime: bool = False
    randomisation: Randomisation | None = None
    control_mode: str = "absolute"
    alignment: str = "env"
    ending: str = "grasp"
    replays: str | Path = "mini"
    split: str = "train"
    reward_mode: str = "dense"
    render_mode: str | None = None
    overlay: bool = False
    speed_limits: SpeedLimits | None = DEFAULT_LIMITS
    released_metrics: bool = True
    num_threads: int = 0
    device: str | None = None
    output: str = "numpy"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.giver is not None and not isinstance(self.giver, GiverBehaviour):
            raise ValueError(f"giver must be a GiverBehaviour, a dict of its values, or None, got {self.giver!r}")
        if self.giver is not None and self.giver.retraction and self.backend not in PHYSICAL:
            raise ValueError(
                f"backend {self.backend!r} has no contact forces, so no giver draws back; retraction needs one of "
                f"{', '.join(PHYSICAL)}"
            )
        if self.robot != "floating":
            self._needs_physics(f"robot {self.robot!r}")
        if not isinstance(self.randomisation, Randomisation | None):
            raise ValueError(
                f"randomisation must be a Randomisation, a dict of its fields or None, got {self.randomisation!r}"
            )
        if self.randomisation is not None and self.randomisation.physics:
            drawn = [name for name in PHYSICS if getattr(self.randomisation, name) > 0]
            self._needs_physics(f"randomisation of {', '.join(drawn)}")
            if self.backend == "isaacgym":
                raise ValueError(
                    f"backend 'isaacgym' cannot do randomisation of {', '.join(drawn)}: Isaac Gym's tensors do not "
                    "reach them; mujoco can"
                )
        if self.ending == "hold" and self.backend not in PHYSICAL:
            raise ValueError(
                f"backend {self.backend!r} has no physics in which an object could be held; ending='hold' needs one of "
                f"{', '.join(PHYSICAL)}"
            )
        if self.realtime and self.latency:
            raise ValueError("latency is measured with realtime=True; leave latency at 0, or realtime at False")
        parse_obs_mode(self.obs_mode)
        find_cameras(self.cloud_cameras)
        find_cameras(self.cameras, self.image_size)
        check_crop(self.crop)
        for name, low, high in (
            ("num_points", 1, MAX_POINTS),
            ("obs_delay", 0, MAX_DELAY),
            ("latency", 0, MAX_LATENCY),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {getattr(self, name)}")
        if self.render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"unknown render_mode {self.render_mode!r}; choose None or one of {', '.join(RENDER_MODES)}"
            )

        self._check_device()

    @property
    def place(self) -> torch.device:
        """The device that the worlds are on."""
        return torch.device(self.device or DEVICES[self.backend])

    @property
    def blindly(self) -> bool:
        """Whether steps never read from the device, so that the host need not wait for it."""
        return self.output == "torch"

    def _check_device(self) -> None:
        try:
            place = self.place
            if place.type == "cuda" and not torch.cuda.is_available():
                raise ValueError(missing_cuda(place))
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {self.device!r} cannot be used by this torch, leave it out for the CPU: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if place.type != "cpu" and self.backend not in ANY_DEVICE:
            raise ValueError(
                f"backend {self.backend!r} runs on the CPU; device {str(place)!r} needs one of {', '.join(ANY_DEVICE)}"
            )
        if place.type != "cpu" and self.robot != "floating":
            raise ValueError(f"robot {self.robot!r} runs on the CPU; leave device {str(place)!r} out, or robot")

        if self.blindly:
            if unfit := [name for name, value in _BLIND.items() if getattr(self, name) != value]:
                raise ValueError(
                    "output='torch' reads nothing back from the device, which is built for "
                    f"{', '.join(f'{name}={value!r}' for name, value in _BLIND.items())}; got "
                    f"{', '.join(f'{name}={getattr(self, name)!r}' for name in unfit)}"
                )
            if self.backend not in ANY_DEVICE:
                raise ValueError(
                    f"output='torch' needs a backend that runs on any device: {', '.join(ANY_DEVICE)}; "
                    f"got {self.backend!r}"
                )
            if "rgbd" in parse_obs_mode(self.obs_mode):
                raise ValueError("output='torch' has no pictures: obs_mode may join state, state_dict, point_cloud")

    def _needs_physics(self, what: str) -> None:
        if self.backend not in PHYSICAL:
            raise ValueError(f"backend {self.backend!r} cannot do {what}; these can: {', '.join(PHYSICAL)}")


def make_options(options: dict[str, Any]) -> HandoverOptions:
    """Options from keyword arguments, lists also where tuples are meant; an error lists what is valid."""
    valid = HandoverOptions.__dataclass_fields__
    unknown = [name for name in options if name not in valid]
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; choose from {', '.join(valid)}, num_envs, autoreset_mode")
    for name in {"cameras", "cloud_cameras"} & set(options):
        names = options[name]
        options = options | {name: (names,) if isinstance(names, str) else tuple(names)}
    if "giver" in options:
        options = options | {"giver": _giver(options["giver"])}
    limits = options.get("speed_limits")
    if isinstance(limits, tuple | list):
        if len(limits) != 3:
            raise ValueError(f"speed_limits needs 3 numbers (palm m/s, palm rad/s, joints rad/s), got {limits}")
        options = options | {"speed_limits": SpeedLimits(*limits)}
    drawn = options.get("randomisation")
    if isinstance(drawn, dict):
        known = Randomisation.__dataclass_fields__
        if unknown := [name for name in drawn if name not in known]:
            raise ValueError(f"unknown randomisation {unknown[0]!r}; choose from {', '.join(known)}")
        options = options | {"randomisation": Randomisation(**drawn)}
    return HandoverOptions(**options)


def _giver(giver: Any) -> Any:
    """A behaviour from the dict of its values; None for one that changes nothing."""
    if isinstance(giver, dict):
        valid = GiverBehaviour.__dataclass_fields__
        if unknown := [name for name in giver if name not in valid]:
            raise ValueError(f"unknown behaviour {unknown[0]!r} of the giver; choose from {', '.join(valid)}")
        giver = GiverBehaviour(**giver)
    return None if isinstance(giver, GiverBehaviour) and not giver.active else giver
