"""Table 4 of DexH2R: how good the grasps are that generators propose for objects they have never seen.

Proposing and testing come first and are kept, so that a run that was killed goes on; the table is made from those.

    OUT/config.json                    everything the numbers depend on, written first
    OUT/GENERATOR/OBJECT.npz           proposals for one object, tested: there as a whole or not at all
    OUT/GENERATOR/first_choice.json    what the pipeline would take first in each trial, tested
    OUT/table4.json table4.md table4.png    see `dexh2r_gym.table4_report`
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from dexh2r_gym.alignment import nearest_goal
from dexh2r_gym.evaluate import episode_seed, fingerprint
from dexh2r_gym.extras import MissingExtraError
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.clearance import GiverClearance
from dexh2r_gym.grasps.generators import NUM_PROPOSALS, GraspGenerator, load_generator
from dexh2r_gym.grasps.scores import grasp_depth, released_grasp_depth
from dexh2r_gym.grasps.splits import TRAIN_OBJECTS, UNSEEN_TEST_OBJECTS
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, STABLE_DISTANCE, displacements, is_stable
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER
from dexh2r_gym.hints import did_you_mean
from dexh2r_gym.objects import ObjectModel, load_object, object_names
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.replay.work import load_arrays, save_arrays
from dexh2r_gym.rotations import (
    pose_inverse,
    pose_multiply,
    quat_conjugate,
    quat_from_axis_angle,
    quat_multiply,
    quat_rotate,
)
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.table4_report import Row, build_report, draw_report, object_scores, to_markdown
from dexh2r_gym.types import split_hand_state

GENERATORS = ("cvae", "cvae-scratch", "diffusion", "diffusion-scratch")
DISTURBANCE = (0.003, math.radians(3.0))  # m, rad: how far off its plan a first choice has to hold too
DISTURBED = replace(GRAVITY, friction=0.6)
_ARRAYS = ("palm_pose", "joints", "released", "gravity", "depth", "depth_released")
_PACKAGES = ("dexh2r-gym", "mujoco", "numpy", "torch")


@dataclass(frozen=True, eq=False)
class Measured:
    """N proposals for one object, in its frame, and what the tests said of them. Metres, radians."""

    palm_pose: Tensor  # (N, 7) float32
    joints: Tensor  # (N, 22) float32
    released: Tensor  # (N, 6) float64, the object moved under each push of `RELEASED`
    gravity: Tensor  # (N, 6) float64, of `GRAVITY`
    depth: Tensor  # (N,) float32, exact
    depth_released: Tensor  # (N,) float32, by the released code's definition
    seconds: float  # that the generator took
    threads: int  # of torch meanwhile


FILTERS: dict[str, Callable[[Measured], Tensor]] = {
    "released": lambda pool: is_stable(pool.released),
    "released and gravity": lambda pool: is_stable(pool.released) & is_stable(pool.gravity),
}
"""Tests that a first choice has passed: name -> (N,) bool of N proposals."""


def table4(
    out: str | Path,
    *,
    generators: Sequence[str] = GENERATORS,
    objects: Sequence[str] = (),
    num: int = NUM_PROPOSALS,
    replays: str | Path = "mini",
    trials: int = 60,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Test what generators propose for unseen objects, and write the table into the folder `out`. -> the report

    Args:
        generators: names, or `module:function` (`dexh2r_gym.grasps.generators.load_generator`).
        objects: names, of the replay store or of the library. By default the table is made on `UNSEEN_TEST_OBJECTS`,
            and first choices on trials with any object that is not of `TRAIN_OBJECTS`.
        num: proposals for each object.
        replays: the store whose trials say where the giver and the robot are as a grasp is chosen.
        trials: at most so many of them, evenly spaced; those without a giver do not count. 0 for none.
        seed: of proposals, of succ1's random push and of disturbances.

    Raises:
        ValueError: an unknown generator or object, a generator that breaks its contract, or a folder with a table of
            another config; the message says which.
    """
    if num < 1 or trials < 0:
        raise ValueError(f"num must be at least 1 and trials at least 0, got {num} and {trials}")
    store = ReplayStore.open(replays)
    names = list(dict.fromkeys(objects or UNSEEN_TEST_OBJECTS))
    models = {name: find_object(name, store) for name in names}
    makers = {name: load_generator(name) for name in dict.fromkeys(generators)}
    ids = choose_trials(store, objects, trials)
    models |= {(name := store.info(i).object): store.object_model(name) for i in ids}
    folder = RunFolder(out)
    folder.start(
        {
            "table4": {"objects": names, "num": num, "replays": str(replays), "trials": trials, "seed": seed},
            "generators": {name: {"sha256": module_digest(maker)} for name, maker in makers.items()},
            "protocols": {"released": asdict(RELEASED), "gravity": asdict(GRAVITY), "disturbed": asdict(DISTURBED)},
            "store_sha256": fingerprint(store.path),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            "replay_ids": ids,
        },
        resume=True,
    )
    measured: dict[str, dict[str, Measured]] = {name: {} for name in makers}
    choices: dict[str, list[Row]] = {}
    with tqdm(total=len(makers) * (len(models) + bool(ids)), unit="object", disable=not progress) as bar:
        for name, maker in makers.items():
            own = quote(name, safe="")
            bar.set_description(name)
            for object_name, model in models.items():
                path = folder.path / own / f"{object_name}.npz"
                if (found := read_measured(path)) is None:
                    found = measure(maker, model, num=num, seed=seed, name=name)
                    write_measured(found, path)
                measured[name][object_name] = found
                bar.update()
            rows = folder.read_json(f"{own}/first_choice.json")
            if rows is None and ids:
                rows = first_choices(measured[name], [store.replay(i) for i in ids], seed)
                folder.write_json(f"{own}/first_choice.json", rows)
            choices[name] = rows or []
            bar.update(bool(ids))
    scores = {name: {o: object_scores(measured[name][o], seed) for o in names} for name in makers}
    report = build_report(folder.config, scores, choices)
    folder.write_json("table4.json", report)
    try:
        draw_report(report, folder.path / "table4.png")
        picture = "![Table 4, with 95% intervals over objects, and the published values](table4.png)"
    except MissingExtraError as error:
        picture = f"No table4.png: {error}"
    folder.write_text("table4.md", f"{to_markdown(report)}\n{picture}\n")
    return report


def find_object(name: str, store: ReplayStore) -> ObjectModel:
    """An object of the store, or else of the library. ValueError lists the valid names."""
    if name in store.object_names:
        return store.object_model(name)
    if name not in (known := sorted({*object_names(), *store.object_names})):
        hint = did_you_mean(name, known)
        raise ValueError(f"unknown object {name!r}{hint}; the library and {store.name} have: {', '.join(known)}")
    return load_object(name)


def choose_trials(store: ReplayStore, objects: Sequence[str], count: int) -> list[str]:
    """Ids of at most `count` trials that have a giver and one of the objects, evenly spaced in the order of the store.

    No objects: all but those that the generators learned from.
    """
    ids = [
        info.id
        for info in store.infos
        if info.has_giver and (info.object in objects if objects else info.object not in TRAIN_OBJECTS)
    ]
    chosen = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return [ids[i] for i in chosen]


def module_digest(generator: GraspGenerator) -> str | None:
    """sha256 of what a torch module prints of itself (`extra_repr`: its settings) and of its weights; else None."""
    if not isinstance(generator, torch.nn.Module):
        return None
    digest = hashlib.sha256(repr(generator).encode())
    for key, value in generator.state_dict().items():
        digest.update(f"{key}{tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def measure(generator: GraspGenerator, obj: ObjectModel, *, num: int, seed: int, name: str = "generator") -> Measured:
    """Let a generator see the object's points and normals, and test all that it proposes.

    ValueError where the proposals are not what `GraspGenerator` promises; `name` is what the message calls it.
    """
    began = time.perf_counter()
    proposals = generator.propose(obj.points, obj.normals, num=num, seed=seed)
    seconds = time.perf_counter() - began
    palm_pose, joints = proposals.palm_pose.detach().float(), proposals.joints.detach().float()
    if palm_pose.shape != (num, 7) or joints.shape != (num, 22):
        shapes = f"palm_pose {tuple(palm_pose.shape)} and joints {tuple(joints.shape)}"
        raise ValueError(f"{name} proposed {shapes} for {obj.name}, expected ({num}, 7) and ({num}, 22)")
    unit = (palm_pose[:, 3:].norm(dim=-1) - 1).abs() < 1e-3
    within = ((joints > JOINT_LOWER - 1e-3) & (joints < JOINT_UPPER + 1e-3)).all(-1)
    for good, what in (
        (palm_pose.isfinite().all(-1) & joints.isfinite().all(-1), "has NaN or infinite numbers"),
        (unit, "has no unit quaternion"),
        (within, "has joints beyond their ranges"),
    ):
        if not good.all():
            raise ValueError(f"{name}: proposal {int((~good).nonzero()[0])} for {obj.name} {what}")
    return Measured(
        palm_pose,
        joints,
        displacements(obj, palm_pose, joints, RELEASED),
        displacements(obj, palm_pose, joints, GRAVITY),
        grasp_depth(obj, palm_pose, joints),
        released_grasp_depth(obj, palm_pose, joints),
        seconds,
        torch.get_num_threads(),
    )


def write_measured(measured: Measured, path: Path) -> None:
    """One file, at once or not at all."""
    info = {"seconds": measured.seconds, "threads": measured.threads}
    save_arrays(path, {key: getattr(measured, key).numpy() for key in _ARRAYS}, info)


def read_measured(path: Path) -> Measured | None:
    """What `write_measured` wrote; None if there is no such file, or none that can be read."""
    if (found := load_arrays(path)) is None:
        return None
    arrays, info = found
    content: dict[str, Any] = {key: torch.from_numpy(arrays[key]) for key in _ARRAYS} | info
    return Measured(**content)


def first_choices(pools: Mapping[str, Measured], replays: Sequence[Replay], seed: int) -> list[Row]:
    """What is left of the proposals in each trial, and whether the one that would be taken first holds the object.

    A grasp has to pass one of `FILTERS` and to be clear of the giver's hand where the giver ends, in the last frame.
    Of those the nearest to the robot's start in the first frame is the choice; `choice` is None where none is left.
    `held`: its object stays within 2 cm for 2 s under its own weight, which pulls as it would in the last frame.
    `held_disturbed`: so it does with the palm off by `DISTURBANCE`, in random directions, and friction 0.6.
    """
    rows: list[Row] = []
    for replay in replays:
        pool = pools[replay.object]
        free = clear_of_giver(pool, replay)
        for tests, passes in FILTERS.items():
            passed = passes(pool)
            row: Row = {"replay": replay.id, "object": replay.object, "filter": tests, "passed": int(passed.sum())}
            choice = choose(pool, passed & free, replay)
            rows.append(row | {"left": int((passed & free).sum()), "choice": choice})
    chosen = [row for row in rows if row["choice"] is not None]
    if not chosen:
        return rows
    by_id = {replay.id: replay for replay in replays}
    objects = {replay.object: replay.object_model for replay in replays}
    index = torch.tensor([list(objects).index(row["object"]) for row in chosen])
    palm_pose = torch.stack([pools[row["object"]].palm_pose[row["choice"]] for row in chosen])
    joints = torch.stack([pools[row["object"]].joints[row["choice"]] for row in chosen])
    down = torch.stack([down_in_object(by_id[row["replay"]].object_pose[-1]) for row in chosen])[:, None]
    seeds = [episode_seed(seed, row["replay"]) for row in chosen]
    disturbed = torch.stack([disturb(pose, s) for pose, s in zip(palm_pose, seeds, strict=True)])
    for name, pose, protocol in (("held", palm_pose, GRAVITY), ("held_disturbed", disturbed, DISTURBED)):
        moved = displacements(tuple(objects.values()), pose, joints, protocol, index=index, directions=down)
        for row, distance in zip(chosen, moved[:, 0].tolist(), strict=True):
            row[name] = distance < STABLE_DISTANCE
    return rows


def clear_of_giver(pool: Measured, replay: Replay) -> Tensor:
    """(N,) bool: grasps that keep 3 mm clear of the giver's hand in the last frame of the recording."""
    giver = GiverHand.from_mano(replay.giver, replay.side, replay.giver_model)
    bones = giver.bone_poses(replay.giver[-1:].to(replay.object_pose))
    seen = pose_multiply(pose_inverse(replay.object_pose[-1:])[:, None], bones)
    clearance = GiverClearance(pool.palm_pose[None], pool.joints[None], [giver])
    clearance.see(seen)
    return clearance.free(torch.ones(1, len(pool.joints), dtype=torch.bool))[0]


def choose(pool: Measured, allowed: Tensor, replay: Replay) -> int | None:
    """The allowed grasp, (N,) bool, nearest to the robot's hand in the first frame; None if none is allowed."""
    start = pose_multiply(pose_inverse(replay.object_pose[:1]), split_hand_state(replay.hand_start[None])[0])
    index, _ = nearest_goal(start, pool.palm_pose.to(start)[None], allowed[None])
    return int(index) if allowed.any() else None


def down_in_object(object_pose: Tensor) -> Tensor:
    """The direction of gravity in the frame of an object at a pose (7,) in the world. -> (3,) unit"""
    return quat_rotate(quat_conjugate(object_pose[3:]), object_pose.new_tensor([0.0, 0.0, -1.0]))


def disturb(palm_pose: Tensor, seed: int) -> Tensor:
    """A palm (7,) off by `DISTURBANCE`: shifted, and turned about its own origin, each in a random direction."""
    way, axis = normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)), dim=-1).to(palm_pose)
    turn = quat_from_axis_angle(DISTURBANCE[1] * axis)
    return torch.cat((palm_pose[:3] + DISTURBANCE[0] * way, quat_multiply(turn, palm_pose[3:])))
