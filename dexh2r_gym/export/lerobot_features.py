"""Observations and actions in LeRobot's words: which feature holds what, its type, its shape, names of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dexh2r_gym.envs.observations import STATE_SHAPES
from dexh2r_gym.envs.options import HandoverOptions
from dexh2r_gym.export.episodes import Episode
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.sensing.rgbd import picture_keys

HAND = [f"palm_{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz")] + list(JOINT_NAMES)
FRAME = {  # LeRobot has these in every data set
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True)
class Feature:
    """One column of the data set, or one film."""

    dtype: str  # float32, bool, int64 or video
    shape: tuple[int, ...]  # of one frame
    names: list[str] | None = None
    key: str | None = None  # of the observation; None for what is no observation, "" for one that is no dict

    @property
    def kind(self) -> str:
        """How its statistics are made: vector, cloud or picture."""
        return "picture" if self.dtype == "video" else "cloud" if len(self.shape) == 2 else "vector"

    def as_json(self, fps: int) -> dict[str, Any]:
        """As info.json has it."""
        described: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        if self.dtype == "video":
            height, width, channels = self.shape
            described["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": channels,
                "has_audio": False,
            }
        return described


def features(space: spaces.Space, options: HandoverOptions) -> dict[str, Feature]:
    """The features of an environment's observations, actions and outcomes, by name.

    `agent_pos` is `observation.state`, the flat state beside other keys `observation.environment_state`, colour
    pictures are `observation.images.<camera>`; other keys keep their names. A flat state alone is `observation.state`.
    Depth and segmentation are left out: films would spoil them.
    """
    found: dict[str, Feature] = {}
    if isinstance(space, spaces.Dict):
        films = {}
        if "rgbd" in options.obs_mode.split("+"):
            cameras = find_cameras(options.cameras, options.image_size)
            pictures = picture_keys(cameras, options.segmentation)
            films = {keys["image"]: c.name for c, keys in zip(cameras, pictures, strict=True)}
            left_out = {name for keys in pictures for kind, name in keys.items() if kind != "image"}
        else:
            left_out = set()
        for key, part in space.spaces.items():
            assert isinstance(part, spaces.Box)
            if key in films:
                height, width, _ = part.shape
                if height % 2 or width % 2:
                    raise ValueError(f"films need pictures of even width and height, got {width} x {height}")
                found[f"observation.images.{films[key]}"] = Feature(
                    "video", part.shape, ["height", "width", "channels"], key
                )
            elif key not in left_out:
                name = {"agent_pos": "state", "state": "environment_state"}.get(key, key)
                found[f"observation.{name}"] = Feature("float32", part.shape, _names(key, part.shape), key)
    else:
        assert isinstance(space, spaces.Box)
        found["observation.state"] = Feature("float32", space.shape, _names("state", space.shape), "")
    return found | {
        "action": Feature("float32", (len(HAND),), HAND),
        "next.reward": Feature("float32", (1,)),
        "next.done": Feature("bool", (1,)),
        "next.success": Feature("bool", (1,)),
        **{name: Feature(dtype, (1,)) for name, dtype in FRAME.items()},
    }


def rows(
    episode: Episode, found: dict[str, Feature], fps: int, number: int, first: int, task: int
) -> dict[str, NDArray]:
    """Values (T, ...) of all features of an episode: each frame has what was seen, what was done, and what came of it.

    number: of the episode. first: index of its first frame. task: index of its task.
    """
    length = len(episode)
    success = np.zeros(length, dtype=bool)
    success[-1] = episode.success
    frame = np.arange(length)
    values = {
        "action": episode.actions,
        "next.reward": episode.rewards.astype(np.float32),
        "next.done": episode.terminations | episode.truncations,
        "next.success": success,
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(length, number),
        "index": first + frame,
        "task_index": np.full(length, task),
    }
    for name, feature in found.items():
        if feature.key is not None:
            seen = episode.observations[feature.key] if feature.key else episode.observations
            values[name] = seen[:-1]  # the last observation is followed by no action
    return {name: values[name] for name in found}


def _names(key: str, shape: tuple[int, ...]) -> list[str] | None:
    """Names of the numbers of one part of an observation."""
    if key == "state":
        return [name for part, size in STATE_SHAPES.items() for name in _part(part, size)]
    return _part(key, shape[0]) if len(shape) == 1 else None


def _part(part: str, size: int) -> list[str]:
    if size == len(HAND):
        return [f"{part}.{name}" for name in HAND]
    return [part] if size == 1 else [f"{part}.{i}" for i in range(size)]
