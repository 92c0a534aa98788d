"""Speed and memory of what the robot sees, beside the plain ways to the same in the same run.

The peer of observed clouds renders depth and segmentation of the same cameras (`RGBDSensor`), one world after another,
back-projects the object's pixels and draws points of them. The peer of pictures is `mujoco.Renderer`: colour, then
depth.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from dexh2r_gym.bench import calls_per_second, cpu_name, measure_env
from dexh2r_gym.render import pose_scene
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.scene import scene_model
from dexh2r_gym.sensing.calibration import back_project, calibration
from dexh2r_gym.sensing.cameras import CORNER_CAMERAS, HEIGHT, WIDTH, find_cameras
from dexh2r_gym.sensing.rgbd import OBJECT, RGBDSensor
from dexh2r_gym.show.timeline import Timeline

WORLDS, POINTS = 64, 1024
CLOUD: dict[str, Any] = {"obs_mode": "point_cloud", "num_points": POINTS}
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("state", WORLDS, {}),
    (f"observed clouds of {POINTS} points", WORLDS, CLOUD),
    (f"observed clouds of {POINTS} points, farthest", WORLDS, CLOUD | {"sampler": "farthest"}),
    (f"clean clouds of {POINTS} points", WORLDS, CLOUD | {"cloud": "clean"}),
    (f"observed clouds of {POINTS} points, kinematic", WORLDS, CLOUD | {"backend": "kinematic"}),
    (f"RGB-D {WIDTH}x{HEIGHT}", 1, {"obs_mode": "rgbd"}),
    (f"RGB-D {WIDTH}x{HEIGHT}", WORLDS, {"obs_mode": "rgbd"}),
)


def bench_sensing(out: Path, *, seconds: float, replays: str = "mini") -> str:
    """Measure all and write OUT/sensing.json and sensing.md; returns the markdown."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(CASES) + 2, unit="measurement") as bar:
        for name, worlds, options in CASES:
            rows.append({"name": name, "worlds": worlds} | _in_a_process(worlds, options, seconds, replays))
            bar.update()
        for name, peer in (("clouds", _rendered_clouds), ("RGB-D", _rendered_pictures)):
            rows.append({"name": f"plain way to {name}", "worlds": 1, "frames_per_s": peer(replays, seconds)})
            bar.update()
    result = {"rows": rows, "machine": {"cpu": cpu_name(), "cores": os.cpu_count()}, "seconds": seconds}
    (out / "sensing.json").write_text(json.dumps(result, indent=2))
    table = sensing_table(result)
    (out / "sensing.md").write_text(table)
    return table


def sensing_table(result: dict[str, Any]) -> str:
    """What was found as markdown."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {result['seconds']:g} s a measurement",
        "",
        "| observation | worlds | frames / s | memory of the process, MB |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        memory = f"{row['memory_mb']:,.0f}" if "memory_mb" in row else "-"
        lines.append(f"| {row['name']} | {row['worlds']} | {row['frames_per_s']:,.1f} | {memory} |")
    return "\n".join(lines) + "\n"


def measure(worlds: int, options: dict[str, Any], seconds: float, replays: str) -> dict[str, float]:
    """Frames a second of all worlds together while demonstrations are played, and the most memory it took."""
    env = gym.make_vec(
        "DexH2R-Handover-v0",
        num_envs=worlds,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        replays=replays,
        split="all",
        released_metrics=False,
        **options,
    )
    rate = measure_env(env.unwrapped, seconds)
    env.close()
    return {"frames_per_s": rate, "memory_mb": _most_memory() / 1e6}


def _in_a_process(worlds: int, options: dict[str, Any], seconds: float, replays: str) -> dict[str, float]:
    """`measure` in a process of its own, whose memory is then of this measurement alone."""
    work = json.dumps([worlds, options, seconds, replays])
    code = "import json, sys, dexh2r_gym.bench_sensing as b; print(json.dumps(b.measure(*json.loads(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, work], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the measurement of {options or 'state'} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _most_memory() -> int:
    """Bytes, the most this process had in memory."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _rendered_clouds(replays: str, seconds: float) -> float:
    """Clouds a second of one world: depth of the same four cameras by OpenGL, some of its pixels of the object."""
    timeline, frame = _a_trial(replays)
    cameras = find_cameras(CORNER_CAMERAS)
    sensor, rng = RGBDSensor(cameras, segmentation=True), np.random.default_rng(0)

    def step() -> None:
        t = next(frame)
        pictures = sensor.draw(timeline.scene, t, timeline.replay.object_model, timeline.giver, timeline.bones[t])
        points = []
        for name, known in calibration(cameras, timeline.scene.hand_pose[t]).items():
            seen = back_project(pictures[f"depth_{name}"], known["intrinsics"], known["camera_to_world"])
            points.append(seen[pictures[f"segmentation_{name}"] == OBJECT])
        found = np.concatenate(points)
        found[rng.integers(len(found), size=POINTS)]

    rate = calls_per_second(step, seconds)
    sensor.close()
    return rate


def _rendered_pictures(replays: str, seconds: float) -> float:
    """Pictures with depth a second of one world by `mujoco.Renderer`, colour first, then depth."""
    timeline, frame = _a_trial(replays)
    model = scene_model(timeline.replay.object_model, timeline.giver, visuals=True)
    renderer, data = mujoco.Renderer(model, HEIGHT, WIDTH), mujoco.MjData(model)

    def step() -> None:
        t = next(frame)
        pose_scene(model, data, timeline.scene, t, timeline.giver, timeline.bones[t])
        renderer.update_scene(data)
        renderer.render()
        renderer.enable_depth_rendering()
        renderer.render()
        renderer.disable_depth_rendering()

    rate = calls_per_second(step, seconds)
    renderer.close()
    return rate


def _a_trial(replays: str) -> tuple[Timeline, Iterator[int]]:
    """The first trial of a store, and its frames over and over."""
    timeline = Timeline.of(ReplayStore.open(replays)[0])
    return timeline, itertools.cycle(range(timeline.replay.num_frames))
