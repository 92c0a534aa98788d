"""Clouds and pictures of all frames of some trials, on disk, read as they are drawn.

Recorded ones are taken from the store; where it has none they are made as the environment's sensors would see the
demonstrations. Either way they are written once into a file that stays for the next training on the same store.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.sensing.cloud import CloudSensor
from dexh2r_gym.sensing.rgbd import RGBDSensor
from dexh2r_gym.show.timeline import Timeline
from dexh2r_gym.types import split_hand_state
from policies.processes import one_first

Rows = tuple[NDArray, dict[str, NDArray]]  # rows, and what belongs into them by key

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
            _let_go(array)
            unit = {"point_cloud": CLOUD_UNIT, "depth": DEPTH_UNIT}.get(key)
            out[key] = value if unit is None else value.float() * unit
        return out


def open_frames(
    store: ReplayStore,
    ids: Sequence[str],
    needs: Sequence[str],
    cache: Path | None,
    *,
    counts: Sequence[int] | None = None,
    num_points: int = 1024,
    cameras: tuple[str, ...] = ("kinect_0",),
    image_size: tuple[int, int] = (160, 90),
) -> Frames:
    """The clouds and pictures among `needs` of these trials, from the folder cache or made anew into it.

    counts: of each trial, how many of its first frames are wanted; the others are not made. All by default.

    Raises:
        ValueError: the store has none, and no givers to make them with; or no folder is named.
    """
    points = ("point_cloud", {"num_points": num_points}, ("cloud",), _recorded_clouds, _seen_clouds)
    pictures = ("image", {"cameras": cameras, "image_size": image_size}, ("image", "depth"), _recorded, _drawn)
    shapes: dict[str, Mapping[str, tuple[type, tuple[int, ...]]]] = {
        "point_cloud": {"point_cloud": (np.int16, (num_points, 3))},
        "image": {"image": (np.uint8, (*image_size[::-1], 3)), "depth": (np.uint16, image_size[::-1])},
    }
    arrays: dict[str, NDArray] = {}
    for key, options, sensors, recorded, made in (points, pictures):
        if key not in needs:
            continue
        if cache is None:
            raise ValueError(f"{key} of {store.path} needs a folder to be kept in")
        there = set(sensors) <= set(store.sensors)
        if not there and not all(store.info(id).has_giver for id in ids):
            raise ValueError(
                f"{store.path} has no recorded {' and '.join(sensors)} and no giver's hand to make them with; "
                f"choose a policy that does without {key}, or import the dataset with its sensors"
            )
        kind = _Kind(f"{sensors[0]}s", recorded if there else made, options, shapes[key])
        arrays |= _kept(store, ids, cache, kind, counts)
    return Frames(arrays)


class _Kind(NamedTuple):
    """What can be kept of frames."""

    name: str
    make: Callable[..., Iterator[Rows]]  # from store, ids, options: rows and their values
    options: Mapping[str, Any]
    arrays: Mapping[str, tuple[type, tuple[int, ...]]]  # dtype and shape of a row


def _kept(
    store: ReplayStore, ids: Sequence[str], cache: Path, kind: _Kind, counts: Sequence[int] | None
) -> dict[str, NDArray]:
    """Arrays of a kind, made into the cache unless they are there."""
    if counts is None:
        counts = [store.info(id).num_frames for id in ids]
    trials = list(zip(ids, counts, strict=True))
    seen = {key: value for key, value in store.attrs["sha256"].items() if "goal" not in key}  # no sensor sees goals
    words = {"make": kind.make.__name__, **kind.options, "trials": trials, "store": seen}
    name = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    total = sum(counts)
    cache.mkdir(parents=True, exist_ok=True)
    paths = {key: cache / f"{name}-{key}.npy" for key in kind.arrays}
    with one_first():
        if not all(path.is_file() for path in paths.values()):
            partial = {key: path.with_suffix(f".{os.getpid()}.partial") for key, path in paths.items()}
            out = {
                key: np.lib.format.open_memmap(partial[key], "w+", dtype, (total, *shape))
                for key, (dtype, shape) in kind.arrays.items()
            }
            with tqdm(total=total, desc=kind.name, unit="frame") as bar:
                for rows, values in kind.make(store, ids, counts, **kind.options):
                    for key, value in values.items():
                        out[key][rows] = value
                        _let_go(out[key])
                    bar.update(len(rows))
            for key, array in out.items():
                array.flush()
                partial[key].replace(paths[key])
    return {key: np.load(path, mmap_mode="r") for key, path in paths.items()}


def _let_go(array: NDArray) -> None:
    """Take the pages of a file out of this process's memory, where they would pile up until all of the file is in it;
    the system keeps them as long as it likes."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.base.madvise(mmap.MADV_DONTNEED)


def _recorded_clouds(store: ReplayStore, ids: Sequence[str], counts: Sequence[int], num_points: int) -> Iterator[Rows]:
    """Some of the recorded points of each frame, int16 (N, P, 3)."""
    rng = np.random.default_rng(_SEED)
    for first, id, count in zip(_begin(counts), ids, counts, strict=False):
        cloud = store.replay(id).sensor("cloud")[:count].numpy()
        picked = rng.permuted(np.tile(np.arange(cloud.shape[1]), (len(cloud), 1)), axis=1)[:, :num_points]
        picked = picked[:, np.arange(num_points) % picked.shape[1]]
        packed = _packed(np.take_along_axis(cloud, picked[..., None], 1))
        yield first + np.arange(len(cloud)), {"point_cloud": packed}


def _seen_clouds(store: ReplayStore, ids: Sequence[str], counts: Sequence[int], num_points: int) -> Iterator[Rows]:
    """Clouds as the environment's cameras would see the demonstrations, int16 (N, P, 3)."""
    begin = _begin(counts)
    order = sorted(range(len(ids)), key=lambda i: counts[i])  # those that end together
    for start in range(0, len(order), _WORLDS):
        numbers = order[start : start + _WORLDS]
        replays = [store.replay(ids[i]) for i in numbers]
        sensor = CloudSensor(len(replays), num_points)
        givers = [GiverHand.from_mano(r.giver, r.side, r.giver_model) for r in replays]
        bones = [giver.bone_poses(r.giver) for giver, r in zip(givers, replays, strict=True)]
        links = [forward_kinematics(*split_hand_state(r.demo)) for r in replays if r.demo is not None]
        sensor.place(torch.arange(len(replays)), [r.object_model for r in replays], givers)
        for t in range(max(counts[i] for i in numbers)):
            on = [w for w, i in enumerate(numbers) if t < counts[i]]
            part = sensor if len(on) == len(replays) else sensor.of(torch.tensor(on))
            pose, bone, link = (
                torch.stack([values[w][t] for w in on]) for values in ([r.object_pose for r in replays], bones, links)
            )
            key = torch.tensor([_SEED + int(begin[numbers[w]]) + t for w in on])
            points = part.look(pose, bone, link, key).points
            yield np.array([begin[numbers[w]] + t for w in on]), {"point_cloud": _packed(points.numpy())}


def _recorded(
    store: ReplayStore,
    ids: Sequence[str],
    counts: Sequence[int],
    cameras: tuple[str, ...],
    image_size: tuple[int, int],
) -> Iterator[Rows]:
    """Recorded pictures of the first camera, brought to a size: uint8 (N, H, W, 3) and depth uint16 (N, H, W), mm."""
    size = image_size[::-1]
    for first, id, count in zip(_begin(counts), ids, counts, strict=False):
        replay = store.replay(id)
        image, depth = (replay.sensor(key)[:count, 0].float() for key in ("image", "depth"))
        image = interpolate(image.movedim(-1, 1), size, mode="area").movedim(1, -1)
        depth = interpolate(depth[:, None], size)[:, 0]  # nearest: edges stay edges
        values: dict[str, NDArray] = {
            "image": image.round().numpy().astype(np.uint8),
            "depth": depth.numpy().astype(np.uint16),
        }
        yield first + np.arange(len(image)), values


def _drawn(
    store: ReplayStore,
    ids: Sequence[str],
    counts: Sequence[int],
    cameras: tuple[str, ...],
    image_size: tuple[int, int],
) -> Iterator[Rows]:
    """The same as the environment's camera would see the demonstrations."""
    begin = _begin(counts)
    sensor = RGBDSensor(find_cameras(cameras, image_size))
    by_object = sorted(range(len(ids)), key=lambda i: store.info(ids[i]).object)  # one scene an object
    for i in by_object:
        timeline = Timeline.of(store.replay(ids[i]))
        for t in range(counts[i]):
            drawn = sensor.draw(timeline.scene, t, timeline.replay.object_model, timeline.giver, timeline.bones[t])
            depth = np.round(drawn["depth"] / DEPTH_UNIT).astype(np.uint16)
            yield np.array([begin[i] + t]), {"image": drawn["image"][None], "depth": depth[None]}
    sensor.close()


def _begin(counts: Sequence[int]) -> NDArray[np.int64]:
    """The row of each trial's first frame."""
    return np.cumsum([0, *counts])


def _packed(points: NDArray) -> NDArray:
    return np.round(points / CLOUD_UNIT).clip(-32767, 32767).astype(np.int16)
