"""Whether an environment fits in memory, told before it is made."""

from __future__ import annotations

from math import prod

import numpy as np
import psutil
import torch
from gymnasium import spaces

from dexh2r_gym.envs.observations import observation_space, parse_obs_mode
from dexh2r_gym.envs.options import HandoverOptions

# Bytes, rounded up from what `dexh2r bench --sensing` measures.
_BASE = 600e6  # libraries, replays, models of objects
# a world; Isaac Gym has a process of its own
_WORLD = {"mujoco": 0.6e6, "mjwarp": 0.6e6, "kinematic": 0.3e6, "isaacgym": 0.3e6}
_TABLES = 100e6  # what each object's surface shows from where
_POINT = {"random": 500, "farthest": 9000}  # a point of a cloud while it is looked at
_OPENGL = 600e6  # meshes and pictures of a few dozen objects
# Where nothing is read from the device (`output="torch"`), measured on the CPU:
_BLIND_WORLD = 0.1e6
_BLIND_DEPTH = 0.5e6  # a world, of the first 1024: as many are measured together
_BLIND_CLOUD = 6e3  # a point of a cloud, in the first 256 worlds
_COPIES = 3  # of an observation: the last seen, what is handed out, what the caller keeps


def estimate_memory(num_envs: int, options: HandoverOptions) -> int:
    """About how many bytes this environment needs where its worlds are."""
    modes = parse_obs_mode(options.obs_mode)
    observation = num_envs * _size(observation_space(options)) * (_COPIES + options.obs_delay)
    if options.blindly:
        looked = min(num_envs, 256) * options.num_points * _BLIND_CLOUD if "point_cloud" in modes else 0
        return int(_BASE + num_envs * _BLIND_WORLD + min(num_envs, 1024) * _BLIND_DEPTH + observation + looked)
    sensors = _TABLES + num_envs * options.num_points * _POINT[options.sampler] if "point_cloud" in modes else 0
    pictures = _OPENGL if "rgbd" in modes else 0
    return int(_BASE + num_envs * _WORLD[options.backend] + observation + sensors + pictures)


def check_memory(num_envs: int, options: HandoverOptions) -> None:
    """Raise MemoryError where an environment would need more than is free; the message says what would fit."""
    needed, free = estimate_memory(num_envs, options), _free(options.place)
    if needed <= free:
        return
    one, two = (estimate_memory(n, options) for n in (1, 2))
    fits = int((free - one) // (two - one)) + 1 if free >= one else 0
    raise MemoryError(
        f"{num_envs} worlds with obs_mode {options.obs_mode!r} need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB "
        f"are free on {options.place}: at most {fits} worlds fit; or ask for smaller pictures (image_size), fewer "
        "points (num_points), a shorter obs_delay"
    )


def _free(place: torch.device) -> int:
    """Bytes that are free on a device; of devices other than the CPU and CUDA's nothing is known."""
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    return psutil.virtual_memory().available if place.type == "cpu" else 1 << 62


def _size(space: spaces.Space) -> int:
    """Bytes of one world's observation."""
    if isinstance(space, spaces.Dict):
        return sum(_size(part) for part in space.spaces.values())
    assert space.shape is not None
    return prod(space.shape) * np.dtype(space.dtype).itemsize
