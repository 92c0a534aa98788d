"""What the agents of B worlds are shown: the state, clouds and pictures of `obs_mode`, with noise and delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dexh2r_gym.envs.observations import PROPRIOCEPTION, assemble, observation_space, parse_obs_mode, state_parts
from dexh2r_gym.envs.options import HandoverOptions
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.rotations import pose_multiply
from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.sensing.cloud import CloudSensor
from dexh2r_gym.sensing.delay import Delay
from dexh2r_gym.sensing.noise import measured_hand, measured_scene
from dexh2r_gym.sensing.rgbd import RGBDSensor
from dexh2r_gym.sim import Pair
from dexh2r_gym.types import SceneState
from dexh2r_gym.worlds import put, put_


@dataclass(frozen=True)
class Frame:
    """What there is to be seen in B worlds."""

    scene: SceneState
    giver_bones: Tensor  # (B, 16, 7)
    goal_pose: Tensor  # (B, 7) palm at the goal, object frame
    goal_joints: Tensor  # (B, 22)
    d: Tensor  # (B,) m, inf where no goal is free
    aligning: Tensor  # (B,) bool
    progress: Tensor  # (B,) part of the recording that has passed
    time: Tensor  # (B,) frame of the episode


class Observer:
    """Keeps the sensors that `obs_mode` needs, and what they showed before.

    Noise follows from each episode's key and the frame alone, so neither neighbours nor their number change it.
    """

    def __init__(self, num_worlds: int, options: HandoverOptions, dt: float) -> None:
        modes = parse_obs_mode(options.obs_mode)
        self.space = observation_space(options)
        self._options, self._dt = options, dt
        self._delay = Delay(options.obs_delay, PROPRIOCEPTION, blindly=options.blindly)
        self._key = torch.zeros(num_worlds, dtype=torch.long, device=options.place)
        self._pairs: list[Pair] = []
        self._trial = self._key.tolist()  # of each world, which of the pairs
        self._begun, self._moved = self._key.bool(), self._key.bool()
        self.points_seen = self._key
        self._clouds: CloudSensor | None = None
        if "point_cloud" in modes:
            self._clouds = CloudSensor(
                num_worlds,
                options.num_points,
                kind=options.cloud,
                sampler=options.sampler,
                cameras=options.cloud_cameras,
                crop=options.crop,
                device=options.place if options.blindly else "cpu",
            )
        self._pictures: RGBDSensor | None = None
        if "rgbd" in modes:
            cameras = find_cameras(options.cameras, options.image_size)
            self._pictures = RGBDSensor(cameras, segmentation=options.segmentation)
        self._seen: dict[str, Tensor] = {}  # the last clouds and pictures, (B, ...)
        clouds_are_seen = self._clouds is not None and options.cloud == "observed"
        names = (options.cameras if self._pictures else ()) + (options.cloud_cameras if clouds_are_seen else ())
        self.cameras = find_cameras(tuple(dict.fromkeys(names)), options.image_size) if names else ()

    @property
    def sees_points(self) -> bool:
        """Whether there is a cloud."""
        return self._clouds is not None

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """Learn of more objects and the givers that hold them; they are numbered on in this order."""
        self._pairs += pairs
        if self._clouds is not None and self._options.blindly:
            self._clouds.know(self._pairs)

    def begin(self, worlds: Tensor, pair: Tensor, keys: Tensor) -> None:
        """New episodes in worlds (n,) with pairs (n,) of object and giver, and keys (n,) that name their noise."""
        self._key = put(self._key, worlds, keys)
        put_(self._begun, worlds, True)
        if self._pictures is not None:
            for world, number in zip(worlds.tolist(), pair.tolist(), strict=True):
                self._trial[world] = number
        if self._clouds is not None and self._options.blindly:
            self._clouds.show(worlds, pair)
        elif self._clouds is not None:
            self._clouds.place(worlds.cpu(), *zip(*(self._pairs[i] for i in pair.tolist()), strict=True))

    def move(self, on: Tensor) -> None:
        """These worlds (B,) bool are at a new frame."""
        self._moved = self._moved | on

    def observe(self, frame: Frame) -> Any:
        """The observation: (B, ...) tensors in memory of their own."""
        parts = self._state(frame) | self._cloud(frame) | self._picture(frame)
        parts = self._delay.show(parts, self._moved, self._begun)
        self._moved, self._begun = torch.zeros_like(self._moved), torch.zeros_like(self._begun)
        return assemble(parts, self.space)

    def close(self) -> None:
        """Free the renderers."""
        if self._pictures is not None:
            self._pictures.close()

    def _state(self, frame: Frame) -> dict[str, Tensor]:
        scene, giver_joints, d, noise = frame.scene, frame.giver_bones[..., :3], frame.d, self._options.pose_noise
        if noise is not None:
            scene, giver_joints = measured_scene(scene, giver_joints, noise, self._key + frame.time, self._dt)
        own = self._options.randomisation
        own = own if own is not None and own.senses else None
        if own is not None:
            sizes = own.palm_position, own.palm_rotation, own.joints
            scene = measured_hand(scene, *sizes, self._key + frame.time, self._dt)
        goal = pose_multiply(scene.object_pose, frame.goal_pose)
        if noise is not None or own is not None:
            d = torch.where(d.isinf(), d, (goal[:, :3] - scene.hand_pose[:, :3]).norm(dim=-1))
        parts = state_parts(scene, giver_joints, goal, frame.goal_joints, d, frame.aligning, frame.progress)
        return parts | {"goal_pos": parts["goal_state"]}

    def _cloud(self, frame: Frame) -> dict[str, Tensor]:
        if self._clouds is None:
            return {}
        scene = frame.scene
        if self._options.blindly:
            links = forward_kinematics(scene.hand_pose, scene.hand_joints)
            shown = scene.object_pose, frame.giver_bones, links, self._key + frame.time
            points, self.points_seen = self._clouds.look(*shown)  # the same again where nothing has moved
            return {"point_cloud": points}
        rows = self._moved.nonzero().squeeze(1)
        if len(rows) > 0:
            sensor = self._clouds if len(rows) == len(self._moved) else self._clouds.of(rows.cpu())
            links = forward_kinematics(scene.hand_pose[rows], scene.hand_joints[rows])
            key = self._key[rows] + frame.time[rows]
            shown = scene.object_pose[rows], frame.giver_bones[rows], links, key
            points, seen = (x.to(rows.device) for x in sensor.look(*(x.cpu() for x in shown)))
            self.points_seen = put(self.points_seen, rows, seen)
            if "point_cloud" not in self._seen:
                self._seen["point_cloud"] = points.new_zeros(len(self._moved), *points.shape[1:])
            self._seen["point_cloud"][rows] = points
        return {"point_cloud": self._seen["point_cloud"].clone()}

    def _picture(self, frame: Frame) -> dict[str, Tensor]:
        if self._pictures is None:
            return {}
        scene, bones = frame.scene.to("cpu"), frame.giver_bones.cpu()
        for world in self._moved.nonzero().squeeze(1).tolist():
            obj, giver = self._pairs[self._trial[world]]
            drawn = self._pictures.draw(scene, world, obj, giver, bones[world])
            for name, picture in ((name, torch.from_numpy(picture)) for name, picture in drawn.items()):
                if name not in self._seen:
                    self._seen[name] = self._key.new_zeros(len(bones), *picture.shape, dtype=picture.dtype)
                self._seen[name][world] = picture
        return {name: seen.clone() for name, seen in self._seen.items() if name != "point_cloud"}
