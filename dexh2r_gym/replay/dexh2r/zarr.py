"""Import of the zarr files that DexH2R offers for its DP and DP3 policies.

`data` holds a row a frame: agent_pos (28), final_grasp_group (500, 28) goal grasps in the world, objpcd_intact
(4096, 3) the same points of the object's surface in every frame, obs_objpcd (4096, 3) the camera's points, traj_index,
and for DP image (180, 320, 3) and depth (180, 320, 1). `meta/episode_ends` says where trials end. Trials end where the
static grasp begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.replay.dexh2r.arrays import Episode, RowArray, read_episodes
from dexh2r_gym.replay.dexh2r.goals import object_frame_goals
from dexh2r_gym.replay.dexh2r.importer import LICENCE, ORIGIN, check_recorded
from dexh2r_gym.replay.dexh2r.layout import Remark
from dexh2r_gym.replay.dexh2r.rigid import TOLERANCE, fit_rigid
from dexh2r_gym.replay.dexh2r.summary import ImportSummary
from dexh2r_gym.replay.replay import SPLITS, Trial
from dexh2r_gym.replay.untrusted import Folder
from dexh2r_gym.replay.validate import CLOUD_REACH
from dexh2r_gym.replay.write import free_path, write_store
from dexh2r_gym.types import MANO_SIZE

if TYPE_CHECKING:
    from dexh2r_gym.replay.dexh2r.catalogue import Found

LARGEST = 100.0  # m, rad
BELOW_THE_FLOOR = 10.0  # m, where the hand of a giver that was not recorded is put
_ROWS: dict[str, tuple[tuple[int | None, ...], str]] = {
    "agent_pos": ((28,), "f"),
    "objpcd_intact": ((None, 3), "f"),
    "final_grasp_group": ((None, 28), "f"),
    "obs_objpcd": ((None, 3), "f"),
    "traj_index": ((), "fiu"),
    "image": ((None, None, 3), "u"),
    "depth": ((None, None, 1), "iu"),
}
_SENSOR_ARRAYS = {"cloud": "obs_objpcd", "depth": "depth", "image": "image"}
_LACKS = (
    "the giver's hand: has_giver is false and every goal counts as free",
    "who gave: every trial has subject 0",
    "the static grasp at the end of a recording",
    "calibration",
)


@dataclass(eq=False)
class _Source:
    """The arrays of a file, checked as they are read."""

    folder: Folder
    arrays: dict[str, RowArray] = field(default_factory=dict)

    def open(self, names: Sequence[str]) -> list[Episode]:
        """Open these arrays of `data`; the episodes that they hold."""
        for name in names:
            if not self.folder.has(f"data/{name}/.zarray"):
                there = ", ".join(self.folder.folders("data")) or "nothing"
                raise self.folder.error(f"data/{name}", f"missing; data holds {there} (zarr format 2 is expected)")
            self.arrays[name] = RowArray(self.folder, f"data/{name}", *_ROWS[name])
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise self.folder.error("data", f"arrays of different lengths: {listed}")
        return read_episodes(self.folder, lengths["agent_pos"])

    def numbers(self, name: str, begin: int, end: int) -> Tensor:
        """Rows of an array of floats as float64; numbers that are not finite or too large are refused."""
        rows = torch.from_numpy(self.arrays[name].rows(begin, end).astype(np.float64))
        fine = rows.abs() <= LARGEST  # false for NaN
        if not fine.all():
            index = [int(i) for i in (~fine).nonzero()[0]]
            value = float(rows[tuple(index)])
            raise self.folder.error(f"data/{name}", f"frame {begin + index[0]}, index {index[1:]} is {value}")
        return rows


def import_dexh2r_zarr(
    path: str | Path,
    out: str | Path,
    *,
    objects: str | Path | None = None,
    sensors: Sequence[str] = ("cloud",),
    fps: float = 30.0,
    origin: tuple[float, float, float] = ORIGIN,
    progress: bool = True,
    overwrite: bool = False,
) -> ImportSummary:
    """Turn one of DexH2R's zarr files (a folder, format 2) into a store.

    Object poses are recovered from the points of `objpcd_intact`, frame by frame; goal grasps are those of the
    episode's first frame. What such a file lacks is listed in the store's provenance: above all the giver.

    The split of a trial follows from the file: `traj_index` begins anew with validation and with test trials, and the
    file's name says with which split it begins ("train_val.zarr", "test.zarr"); a name that says nothing begins with
    training.

    Args:
        path: the zarr folder.
        out: the store to write, a folder or a `.zarr.zip`.
        objects: folder of the dataset's object models (<object>.obj), which are matched to the points by fitting. An
            object that fits none of them, or without this folder every one, gets slabs of its points for a solid,
            closed where it is hollow, and a name like "object_03".
        sensors: which recorded ones to keep: "cloud", "depth", "image".
        fps: frames a second, which the file does not say.
        origin: metres; this point of the dataset's world becomes the origin of the scene.
        progress: show bars.
        overwrite: replace a store at `out`.

    Raises:
        ReplayError: an array is missing, damaged or of another form (it is named); points that do not move rigidly.
        FileExistsError: `out` exists.
    """
    from dexh2r_gym.replay.dexh2r.catalogue import Catalogue

    check_recorded(sensors, fps)
    out = free_path(out, overwrite)
    source = _Source(Folder(Path(path)))
    episodes = source.open(
        ["agent_pos", "objpcd_intact", "final_grasp_group", "traj_index", *(_SENSOR_ARRAYS[name] for name in sensors)]
    )
    splits = _splits(source, episodes, Path(path).name)
    long_enough = [i for i, episode in enumerate(episodes) if episode.end - episode.begin > 1]
    skipped = [Remark(f"episode {i}", "a single frame") for i in sorted(set(range(len(episodes))) - set(long_enough))]
    if not long_enough:
        raise source.folder.error("meta/episode_ends", "no episode has more than one frame")
    catalogue = Catalogue(objects)
    held = []  # the object of every episode
    for i in tqdm(long_enough, desc="objects", unit="trial", disable=not progress):
        points = source.numbers("objpcd_intact", episodes[i].begin, episodes[i].begin + 1)[0]
        held.append(catalogue.find(points))
    residuals: list[float] = []
    shift = torch.tensor(origin, dtype=torch.float64)
    remarks = [Remark(name, "solid made from its points alone") for name in catalogue.made]
    provenance: dict[str, Any] = {
        "source": "DexH2R (Wang et al., ICCV 2025), a zarr file for its DP and DP3 policies",
        "importer": "dexh2r_gym.replay.dexh2r.zarr",
        "file": Path(path).resolve().name,
        "options": {"sensors": list(sensors), "origin": list(origin)},
        "lacks": list(_LACKS),
    }

    def trials() -> Iterator[Trial]:
        jobs = list(zip(long_enough, held, strict=True))
        for i, found in tqdm(jobs, desc="writing", unit="trial", disable=not progress):
            trial, residual = _trial(source, episodes[i], found, splits[i], sensors, fps, shift)
            residuals.append(residual)
            yield trial
        provenance["pose_residual"] = {"largest_m": max(residuals), "of": "root mean square over points, by frame"}

    frames = sum(episodes[i].end - episodes[i].begin for i in long_enough)
    summary = ImportSummary(out, len(held), frames, len(catalogue.found), 1, tuple(skipped), tuple(remarks))
    provenance |= summary.to_dict()
    stored = {found.name: found.stored for found in catalogue.found}
    write_store(out, trials(), stored, licence=LICENCE, provenance=provenance, overwrite=overwrite)
    return summary


def _trial(
    source: _Source, episode: Episode, found: Found, split: str, sensors: Sequence[str], fps: float, shift: Tensor
) -> tuple[Trial, float]:
    """One episode, and what is left of the fit of its poses, metres."""
    begin, end = episode.begin, episode.end
    pose, left = fit_rigid(found.points, source.numbers("objpcd_intact", begin, end))
    if float(left.max()) > TOLERANCE:
        frame = begin + int(left.argmax())
        problem = f"frame {frame}: points do not move as one rigid object ({1000 * float(left.max()):.1f} mm off)"
        raise source.folder.error("data/objpcd_intact", problem)
    goals, _ = object_frame_goals(source.numbers("final_grasp_group", begin, begin + 1)[0], pose[0])
    if len(goals) == 0:
        raise source.folder.error("data/final_grasp_group", f"frame {begin} holds no goal grasp, only zeros")
    demo = source.numbers("agent_pos", begin, end)
    pose[:, :3] -= shift
    demo[:, :3] -= shift
    giver = torch.zeros(end - begin, MANO_SIZE)
    giver[:, 2] = -BELOW_THE_FLOOR
    trial = Trial(
        subject=0,
        object=found.name,
        side="right",
        split=split,
        fps=fps,
        object_pose=pose.numpy(),
        giver=giver.numpy(),
        hand_start=demo[0].numpy(),
        demo=demo.numpy(),
        goals=goals.numpy(),
        has_giver=False,
        sensors={name: _sensor(source, name, begin, end, shift) for name in sensors},
    )
    return trial, float(left.max())


def _sensor(source: _Source, name: str, begin: int, end: int, shift: Tensor) -> NDArray:
    """Rows as a store takes them: cloud (T, P, 3) metres, depth (T, 1, H, W) uint16, image (T, 1, H, W, 3) uint8."""
    key = _SENSOR_ARRAYS[name]
    if name == "cloud":
        cloud = source.numbers(key, begin, end) - shift
        if (largest := float(cloud.abs().max())) > CLOUD_REACH:
            problem = f"a point {largest:.3g} m from the origin; a store keeps up to {CLOUD_REACH:g} m"
            raise source.folder.error(f"data/{key}", problem)
        return cloud.float().numpy()
    rows = source.arrays[key].rows(begin, end)
    expected = 2 if name == "depth" else 1
    if rows.dtype.itemsize != expected:
        raise source.folder.error(f"data/{key}", f"expected {8 * expected} bits a number, found {rows.dtype}")
    return rows[:, None] if name == "image" else rows.view(np.uint16)[:, None, :, :, 0]


def _splits(source: _Source, episodes: list[Episode], file: str) -> list[str]:
    """The split of every episode."""
    index = source.arrays["traj_index"]
    number = [float(index.rows(episode.begin, episode.begin + 1)[0]) for episode in episodes]
    part = np.cumsum([0, *(after <= before for before, after in pairwise(number))])
    words = {"train": 0, "val": 1, "validation": 1, "test": 2}
    named = [words[word] for word in file.lower().removesuffix(".zarr").split("_") if word in words]
    first = named[0] if named else 0
    if part[-1] + first >= len(SPLITS):
        problem = f"begins anew {part[-1]} times, but {file} can hold only {len(SPLITS) - first} splits"
        raise source.folder.error("data/traj_index", problem)
    return [SPLITS[first + p] for p in part]
