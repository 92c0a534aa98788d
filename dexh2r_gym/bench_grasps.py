"""Speed of goal grasps: filters and choice of every frame, stability tests and search.

Beside the filter stands the plain way in the same run: world by world, every shape of the robot's hand against every
capsule of the giver's, and the nearest of what is left. It must come to the same answer. A giver who slides over the
object by 1 mm a frame, at 30 frames a second, does so at 3 cm/s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.alignment import nearest_goal
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.grasps.clearance import MARGIN
from dexh2r_gym.grasps.collision import segment_box_distance
from dexh2r_gym.grasps.filters import GoalFilter
from dexh2r_gym.grasps.search import search_grasps
from dexh2r_gym.grasps.solids import giver_solid, hand_solid
from dexh2r_gym.grasps.stability import GRAVITY, RELEASED, STABLE_DISTANCE, displacements
from dexh2r_gym.hand import clamp_joints, forward_kinematics
from dexh2r_gym.objects import load_object
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import (
    pose_apply,
    pose_inverse,
    pose_multiply,
    quat_from_axis_angle,
    quat_multiply,
    quat_normalize,
)

WORLDS, GRASPS = 64, 500
PLAIN_WORLDS = 8  # that the plain way does; its time is given for as many as ours
STEPS = (0.0, 0.001, 0.005)  # m a frame, the giver's in the object's frame
FRAMES = 20
OBJECTS = ("aerosol_can", "hammer", "banana", "book")
SEARCHED = 112  # grasps together
_JITTER = (0.02, 0.3, 0.1)  # m, rad, rad: standard deviations of palm and joints, about the goals of a trial


def bench_grasps(replays: str = "mini") -> dict[str, Any]:
    """Measure all; about a minute. -> {"filters": rows, "tests": rows}, see `grasps_table`."""
    with tqdm(total=len(STEPS) + 4 + 2 * len(OBJECTS) + 1, unit="measurement") as bar:
        return {"filters": _measure_filters(replays, bar.update), "tests": _measure_tests(bar.update)}


def write_bench(out: Path, replays: str = "mini") -> str:
    """`bench_grasps` into a folder as grasps.json and grasps.md; returns the markdown."""
    out.mkdir(parents=True, exist_ok=True)
    result = bench_grasps(replays)
    (out / "grasps.json").write_text(json.dumps(result, indent=2))
    table = grasps_table(result)
    (out / "grasps.md").write_text(table)
    return table


def grasps_table(result: dict[str, Any]) -> str:
    """What `bench_grasps` found as markdown."""
    lines = [
        f"| filter and choice, {WORLDS} worlds x {GRASPS} grasps | median ms a frame | least |",
        "|---|---|---|",
        *(f"| {row['name']} | {row['median_ms']:,.1f} | {row['least_ms']:,.1f} |" for row in result["filters"]),
        "",
        "| grasps | a second |",
        "|---|---|",
        *(f"| {row['name']} | {row['per_s']:,.0f} |" for row in result["tests"]),
    ]
    return "\n".join(lines) + "\n"


def _measure_filters(replays: str, update: Callable[[], object]) -> list[dict[str, Any]]:
    scene = _Scene(replays)
    rows = []
    for shape in ("solid", "box"):
        filter_ = GoalFilter(scene.palm_pose, scene.joints, scene.displacement, scene.givers, shape=shape)

        def first(filter_: GoalFilter = filter_) -> None:
            filter_.choose(scene.hand_pose, scene.bones, scene.object_pose)

        def anew(filter_: GoalFilter = filter_) -> None:
            filter_.replace(torch.arange(WORLDS), scene.palm_pose, scene.joints, scene.displacement, scene.givers)

        rows.append(_row(f"{shape}, all worlds new", first, before=anew, count=5))
        update()
        for step in STEPS if shape == "solid" else STEPS[1:2]:
            frames = iter(scene.frames(step))
            filter_.choose(*next(frames))
            moves = lambda frames=frames, filter_=filter_: filter_.choose(*next(frames))  # noqa: E731
            name = f"giver moves {1000 * step:g} mm a frame" if step else "giver at rest on the object"
            rows.append(_row(f"{shape}, {name}", moves, count=FRAMES))
            update()
    index: list[Tensor] = []
    plain = _row("world by world, all pairs of shapes", lambda: index.append(scene.plain_choice()), count=1)
    update()
    filter_ = GoalFilter(scene.palm_pose, scene.joints, scene.displacement, scene.givers)
    if not torch.equal(filter_.choose(scene.hand_pose, scene.bones).index[:PLAIN_WORLDS], index[0]):
        raise RuntimeError("the filter and the plain way choose different goals")
    return [*rows, plain | {key: plain[key] * WORLDS / PLAIN_WORLDS for key in ("median_ms", "least_ms")}]


def _measure_tests(update: Callable[[], object]) -> list[dict[str, Any]]:
    spent: dict[str, list[float]] = {}
    count = 0
    for name in OBJECTS:
        pool, obj = load_pool(name), load_object(name)
        count += len(pool)
        for protocol, title in ((RELEASED, "stability test, released"), (GRAVITY, "stability test, gravity")):
            displacements(obj, pool.palm_pose[:1], pool.joints[:1], protocol)  # compiles the model
            start = time.perf_counter()
            displacements(obj, pool.palm_pose, pool.joints, protocol)
            spent.setdefault(title, []).append(time.perf_counter() - start)
            update()
    rows = [{"name": title, "per_s": count / sum(seconds)} for title, seconds in spent.items()]
    start = time.perf_counter()
    search_grasps(load_object(OBJECTS[0]), SEARCHED, torch.Generator().manual_seed(0))
    update()
    return [*rows, {"name": "search, untested", "per_s": SEARCHED / (time.perf_counter() - start)}]


def _row(
    name: str, call: Callable[[], object], *, before: Callable[[], object] | None = None, count: int
) -> dict[str, Any]:
    """Milliseconds of a call, median and least of several."""
    spent = []
    for _ in range(count):
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - start))
    return {"name": name, "median_ms": float(np.median(spent)), "least_ms": min(spent)}


class _Scene:
    """The last frames of recorded trials, each with the goals of its object many times over, moved about a little."""

    def __init__(self, replays: str) -> None:
        store, generator = ReplayStore.open(replays), torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        hands: dict[tuple, GiverHand] = {}
        trials = [store.replay(i) for i in np.resize(store.ids(None), WORLDS)]
        self.givers: list[GiverHand] = []
        palm_pose, joints, bones = [], [], []
        for trial in trials:
            key = (trial.side, trial.giver_model, *trial.betas.tolist())
            if key not in hands:
                hands[key] = GiverHand.from_mano(trial.giver, trial.side, trial.giver_model)
            self.givers.append(hands[key])
            rows = torch.randint(len(trial.goal_pose), (GRASPS,), generator=generator)
            shift, turn, bend = _JITTER
            rotation = quat_multiply(trial.goal_pose[rows, 3:], quat_from_axis_angle(turn * noise(GRASPS, 3)))
            position = trial.goal_pose[rows, :3] + shift * noise(GRASPS, 3)
            palm_pose.append(torch.cat((position, quat_normalize(rotation)), dim=-1))
            joints.append(clamp_joints(trial.goal_joints[rows] + bend * noise(GRASPS, 22)))
            giver = hands[key].bone_poses(trial.giver[-1])
            bones.append(pose_multiply(pose_inverse(trial.object_pose[-1]), giver))
        self.palm_pose, self.joints, self.bones = torch.stack(palm_pose), torch.stack(joints), torch.stack(bones)
        self.displacement = 2 * STABLE_DISTANCE * torch.rand(WORLDS, GRASPS, generator=generator)  # half are stable
        self.object_pose = torch.stack([trial.object_pose[-1] for trial in trials])
        self.hand_pose = self.palm_pose[:, 0].clone()
        self.hand_pose[:, :3] += 0.1 * noise(WORLDS, 3)
        self._way = torch.nn.functional.normalize(noise(WORLDS, 1, 3), dim=-1)

    def frames(self, step: float) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What `GoalFilter.choose` is given while every giver slides forth and back by so many metres a frame."""
        out = []
        for i in range(FRAMES + 1):
            bones = self.bones.clone()
            bones[..., :3] += step * (FRAMES / 4 - abs(i % FRAMES - FRAMES / 2)) * self._way
            out.append((self.hand_pose, bones, self.object_pose))
        return out

    def plain_choice(self) -> Tensor:
        """The nearest stable goal (PLAIN_WORLDS,) that is free of the giver, found without any short cut."""
        shapes, index = hand_solid(), []
        for w, giver in enumerate(self.givers[:PLAIN_WORLDS]):
            bone, p0, p1, radius = giver.capsules()
            assert giver_solid(giver).vertices is None, "the plain way knows no hulls"
            links = forward_kinematics(self.palm_pose[w], self.joints[w])[:, shapes.link]
            to_shape = pose_inverse(pose_multiply(links, shapes.frame))[:, :, None]  # (G, K, 1, 7)
            ends = [pose_apply(to_shape, pose_apply(self.bones[w, bone], p)) for p in (p0, p1)]  # (G, K, C, 3)
            half = shapes.half.double()[:, None].expand_as(ends[0])
            gap = segment_box_distance(*(x.flatten(0, 2).T for x in (*ends, half))).view(ends[0].shape[:3])
            free = ((gap - shapes.radius[:, None] - radius).flatten(1) > MARGIN).all(-1)
            good = free & (self.displacement[w] < STABLE_DISTANCE)
            index.append(nearest_goal(self.hand_pose[w, None], self.palm_pose[w, None], good[None])[0])
        return torch.cat(index)
