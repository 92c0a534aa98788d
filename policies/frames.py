"""Clouds and pictures of all frames of some trials, on disk, read as they are drawn.

Recorded ones are taken from the store; where it has none they are made as the environment's sensors would see the
demonstrations. Either way they are written once into a file that stays for the next training on the same store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.sensing.cloud import CloudSensor
from dexh2r_gym.sensing.rgbd import RGBDSensor
from dexh2r_gym.show.timeline import Timeline
from dexh2r_gym.types import split_hand_state

CLOUD_UNIT = 1e-4  # m, of stored clouds
DEPTH_UNIT = 1e-3  # m, of stored depth
_WORLDS = 64  # trials whose clouds are made side by side
_SEED = 11


class Frames:
    """Arrays by key, a row a frame."""

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self._arrays = arrays

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """What rows (B, T) show: "point_cloud" m and "depth" m float32, "image" uint8."""
        out = {}
        for key, array in self._arrays.items():
            value = torch.from_numpy(array[rows.flatten().numpy()]).unflatten(0, rows.shape)
            unit = {"point_cloud": CLOUD_UNIT, "depth": DEPTH_UNIT}.get(key)
            out[key] = value if unit is None else value.float() * unit
        return out


def open_frames(
    store: ReplayStore,
    ids: Sequence[str],
    needs: Sequence[str],
    cache: Path | None,
    *,
    num_points: int = 1024,
    cameras: tuple[str, ...] = ("kinect_0",),
    image_size: tuple[int, int] = (160, 90),
) -> Frames:
    """The clouds and pictures among `needs` of these trials, from the folder cache or made anew into it.

    Raises:
        ValueError: the store has none, and no givers to make them with; or no folder is named.
    """
    arrays: dict[str, NDArray] = {}
    makers: dict[str, tuple[Callable, dict[str, Any]]] = {
        "point_cloud": (_clouds, {"num_points": num_points}),
        "image": (_pictures, {"cameras": cameras, "image_size": image_size}),
    }
    for key, (make, options) in makers.items():
        if key not in needs:
            continue
        if cache is None:
            raise ValueError(f"{key} of {store.path} needs a folder to be kept in")
        recorded = {"point_cloud": "cloud", "image": "image"}[key] in store.sensors
        if not recorded and not all(store.info(id).has_giver for id in ids):
            raise ValueError(
                f"{store.path} has no recorded {key} and no giver's hand to make it with; "
                f"choose a policy that does without {key}, or import the dataset with its sensors"
            )
        arrays |= _kept(store, ids, cache, make, options)
    return Frames(arrays)


def _kept(
    store: ReplayStore, ids: Sequence[str], cache: Path, make: Callable, options: Mapping[str, Any]
) -> dict[str, NDArray]:
    """Arrays of a maker, made into the cache unless they are there."""
    words = {"maker": make.__name__, **options, "trials": [(id, store.info(id).num_frames) for id in ids]}
    words["store"] = store.attrs["sha256"]
    name = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    total = sum(store.info(id).num_frames for id in ids)
    cache.mkdir(parents=True, exist_ok=True)
    shapes = make.shapes(**options)  # type: ignore[attr-defined]
    paths = {key: cache / f"{name}-{key}.npy" for key in shapes}
    if not all(path.is_file() for path in paths.values()):
        partial = {key: path.with_suffix(".partial") for key, path in paths.items()}
        out = {
            key: np.lib.format.open_memmap(partial[key], "w+", dtype, (total, *shape))
            for key, (dtype, shape) in shapes.items()
        }
        with tqdm(total=total, desc=make.__name__.strip("_"), unit="frame") as bar:
            for rows, values in make(store, ids, **options):
                for key, value in values.items():
                    out[key][rows] = value
                bar.update(len(rows))
        for key, array in out.items():
            array.flush()
            partial[key].replace(paths[key])
    return {key: np.load(path, mmap_mode="r") for key, path in paths.items()}


def _clouds(store: ReplayStore, ids: Sequence[str], num_points: int) -> Iterator[tuple[NDArray, dict[str, NDArray]]]:
    """Clouds int16 (N, P, 3) of frames by row."""
    begin = np.cumsum([0] + [store.info(id).num_frames for id in ids])
    rng = np.random.default_rng(_SEED)
    if "cloud" in store.sensors:
        for first, id in zip(begin, ids, strict=False):
            replay = store.replay(id)
            cloud = replay.sensor("cloud").numpy()
            picked = rng.permuted(np.tile(np.arange(cloud.shape[1]), (len(cloud), 1)), axis=1)[:, :num_points]
            picked = picked[:, np.arange(num_points) % picked.shape[1]]
            yield (
                first + np.arange(len(cloud)),
                {"point_cloud": _packed(np.take_along_axis(cloud, picked[..., None], 1))},
            )
        return
    order = sorted(range(len(ids)), key=lambda i: store.info(ids[i]).num_frames)  # those that end together
    for start in range(0, len(order), _WORLDS):
        numbers = order[start : start + _WORLDS]
        replays = [store.replay(ids[i]) for i in numbers]
        sensor = CloudSensor(len(replays), num_points)
        givers = [GiverHand.from_mano(r.giver, r.side, r.giver_model) for r in replays]
        bones = [giver.bone_poses(r.giver) for giver, r in zip(givers, replays, strict=True)]
        links = [forward_kinematics(*split_hand_state(r.demo)) for r in replays if r.demo is not None]
        sensor.place(torch.arange(len(replays)), [r.object_model for r in replays], givers)
        for t in range(max(r.num_frames for r in replays)):
            on = [w for w, r in enumerate(replays) if t < r.num_frames]
            part = sensor if len(on) == len(replays) else sensor.of(torch.tensor(on))
            pose, bone, link = (
                torch.stack([values[w][t] for w in on]) for values in ([r.object_pose for r in replays], bones, links)
            )
            key = torch.tensor([_SEED + int(begin[numbers[w]]) + t for w in on])
            points = part.look(pose, bone, link, key).points
            yield np.array([begin[numbers[w]] + t for w in on]), {"point_cloud": _packed(points.numpy())}


def _pictures(
    store: ReplayStore, ids: Sequence[str], cameras: tuple[str, ...], image_size: tuple[int, int]
) -> Iterator[tuple[NDArray, dict[str, NDArray]]]:
    """Pictures of the first camera, uint8 (N, H, W, 3) and depth uint16 (N, H, W), of frames by row."""
    begin = np.cumsum([0] + [store.info(id).num_frames for id in ids])
    sensor = RGBDSensor(find_cameras(cameras, image_size))
    by_object = sorted(range(len(ids)), key=lambda i: store.info(ids[i]).object)  # one scene an object
    for i in by_object:
        timeline = Timeline.of(store.replay(ids[i]))
        for t in range(timeline.replay.num_frames):
            drawn = sensor.draw(timeline.scene, t, timeline.replay.object_model, timeline.giver, timeline.bones[t])
            depth = np.round(drawn["depth"] / DEPTH_UNIT).astype(np.uint16)
            yield np.array([begin[i] + t]), {"image": drawn["image"][None], "depth": depth[None]}
    sensor.close()


_clouds.shapes = lambda num_points: {"point_cloud": (np.int16, (num_points, 3))}  # type: ignore[attr-defined]
_pictures.shapes = lambda cameras, image_size: {  # type: ignore[attr-defined]
    "image": (np.uint8, (image_size[1], image_size[0], 3)),
    "depth": (np.uint16, (image_size[1], image_size[0])),
}


def _packed(points: NDArray) -> NDArray:
    return np.round(points / CLOUD_UNIT).clip(-32767, 32767).astype(np.int16)
