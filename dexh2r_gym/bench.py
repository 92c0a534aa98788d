"""Speed: simulated seconds per wall second of the whole environment, beside a peer in the same run.

The peer is EnvPool's HandManipulateBlock-v1, a ShadowHand whose physics runs in C++ on a thread pool.
Ours is stepped with observations, rewards and the paper's metrics while the recorded demonstrations are played, so that
worlds go through approach, contact and reset; the released code's metrics are left to `dexh2r score`. "Everything on"
is the physical handover with givers that react, randomised physics and late actions.

Beside it, how fast random windows with object clouds are drawn (`ReplayWindows`), against reading each from the zarr
arrays as they are, one at a time, collated by PyTorch.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import zarr
import zarr.storage
from gymnasium.vector import AutoresetMode
from scipy.spatial.transform import Rotation
from torch.utils.data import default_collate
from tqdm import tqdm

from dexh2r_gym.replay import ReplayStore, ReplayWindows

PEER = "EnvPool HandManipulateBlock-v1"
PEER_ENVS = 8
PEER_STEP_SECONDS = 0.04  # 20 substeps of 2 ms
WARM_UP_SECONDS = 2.0
EVERYTHING = {  # that the physical handover can have
    "ending": "hold",
    "giver": {"time_warp": 0.3, "hesitation": 0.5, "pose_offset": 0.03, "retraction": True, "release": 0.1},
    "randomisation": {"friction": 0.3, "mass": 0.3, "strength": 0.3, "palm_position": 0.002, "joints": 0.01},
    "latency": 2,
}
SETUPS: dict[str, dict[str, Any]] = {  # the plain ones first: what has run before in a process slows what comes after
    "mujoco": {},
    "kinematic": {"backend": "kinematic"},
    "mujoco, everything on": EVERYTHING,
    "mujoco, everything on, UR10e": {**EVERYTHING, "robot": "ur10e"},
}
WINDOW_FRAMES, WINDOW_POINTS, WINDOW_BATCH = 16, 1024, 64


def bench(out: Path, *, seconds: float, num_envs: Sequence[int], replays: str = "mini") -> str:
    """Measure each of `SETUPS` at every number of worlds between two of the peer, and windows.

    Writes bench.json and bench.md into a folder.

    Returns the table as markdown. Without EnvPool the table says so and has no ratios.
    """
    from dexh2r_gym.envs import HandoverVectorEnv

    out.mkdir(parents=True, exist_ok=True)
    jobs = [(setup, n) for setup in SETUPS for n in num_envs]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(jobs) + 3, unit="measurement") as bar:
        peer = [_measure_peer(seconds)]
        bar.update()
        for setup, n in jobs:
            env = gym.make_vec(
                "DexH2R-Handover-v0",
                num_envs=n,
                vectorization_mode="vector_entry_point",
                autoreset_mode=AutoresetMode.SAME_STEP,
                replays=replays,
                split="all",
                released_metrics=False,
                **SETUPS[setup],
            )
            assert isinstance(env.unwrapped, HandoverVectorEnv)
            rate = measure_env(env.unwrapped, seconds)
            rows.append(
                {"env": f"dexh2r-gym {setup}", "num_envs": n, "steps_per_s": rate, "fps": env.unwrapped.task.fps}
            )
            env.close()
            bar.update()
        peer.append(_measure_peer(seconds))
        bar.update()
        windows = {"ours": _measure_windows(replays, seconds), "zarr": _measure_zarr(replays, seconds)}
        bar.update()
    measured = [p for p in peer if p is not None]
    peer_speed = float(np.mean(measured)) * PEER_STEP_SECONDS if measured else None
    for row in rows:
        row["simulated_s_per_s"] = row["steps_per_s"] / row.pop("fps")
        row["times_peer"] = row["simulated_s_per_s"] / peer_speed if peer_speed else None
    result = {
        "peer": {"env": PEER, "num_envs": PEER_ENVS, "steps_per_s": measured, "simulated_s_per_s": peer_speed},
        "rows": rows,
        "windows_per_s": windows,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("mujoco", "torch", "numpy", "gymnasium")},
        "seconds": seconds,
    }
    (out / "bench.json").write_text(json.dumps(result, indent=2))
    table = _table(result)
    (out / "bench.md").write_text(table)
    return table


def measure_env(env: Any, seconds: float) -> float:
    """Steps a second of all worlds together, each playing the demonstration of its trial."""
    replays = {i: env.task.store.replay(i) for i in env.replay_ids}
    row = {i: n for n, i in enumerate(replays)}
    length = max(r.num_frames for r in replays.values())
    demos = np.stack([np.pad(r.demo, ((0, length - r.num_frames), (0, 0)), "edge") for r in replays.values()])
    trial = np.zeros(env.num_envs, dtype=int)
    frame = np.zeros(env.num_envs, dtype=int)

    def begin(mask: np.ndarray, info: dict[str, Any]) -> None:
        trial[mask] = [row[i] for i in info["replay"][mask]]
        frame[mask] = 0

    def step() -> None:
        np.minimum(frame + 1, length - 1, out=frame)
        _, _, terminated, truncated, info = env.step(demos[trial, frame])
        if (ended := terminated | truncated).any():
            begin(ended, info)

    for first in range(0, len(env.replay_ids), env.num_envs):  # every trial is loaded before the measurement
        some = np.resize(env.replay_ids[first : first + env.num_envs], env.num_envs)
        env.reset(seed=0, options={"replay": list(some)})
    _, info = env.reset(seed=0, options={"replay": list(np.resize(env.replay_ids, env.num_envs))})
    begin(np.ones(env.num_envs, dtype=bool), info)
    return env.num_envs * calls_per_second(step, seconds)


def _measure_peer(seconds: float) -> float | None:
    """Steps a second of EnvPool's worlds together; None where it is not installed."""
    try:
        import envpool
    except ImportError:
        return None
    threads = os.cpu_count() or 1
    env = envpool.make_gymnasium("HandManipulateBlock-v1", num_envs=PEER_ENVS, num_threads=threads, seed=0)
    env.reset()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (64, PEER_ENVS, *env.action_space.shape))
    count = 0

    def step() -> None:
        nonlocal count
        env.step(actions[count % len(actions)])
        count += 1

    rate = PEER_ENVS * calls_per_second(step, seconds)
    env.close()
    return rate


def _measure_windows(replays: str, seconds: float) -> float:
    """Windows a second, hand states, object poses and clouds, in random batches."""
    windows = ReplayWindows(replays, "all", length=WINDOW_FRAMES, num_points=WINDOW_POINTS)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        windows[torch.randint(len(windows), (WINDOW_BATCH,), generator=generator)]["cloud"].contiguous()

    return WINDOW_BATCH * calls_per_second(step, seconds)


def _measure_zarr(replays: str, seconds: float) -> float:
    """The same windows read from the store's arrays one at a time, the cloud posed by SciPy, collated by PyTorch."""
    store = ReplayStore.open(replays)
    files = zarr.storage.ZipStore if store.path.is_file() else zarr.storage.LocalStore
    data: Any = zarr.open_group(files(store.path, read_only=True), mode="r")["data"]
    rng = np.random.default_rng(0)

    def window() -> dict[str, np.ndarray]:
        trial = int(rng.integers(len(store)))
        begin = store.frames_of(trial).start + int(rng.integers(store.infos[trial].num_frames - WINDOW_FRAMES + 1))
        pose, hand = (data[key][begin : begin + WINDOW_FRAMES] for key in ("object_pose", "hand_state"))
        points = store.object_model(store.infos[trial].object).points.numpy()
        points = points[rng.choice(len(points), WINDOW_POINTS, replace=False)]
        turned = [Rotation.from_quat(row[3:], scalar_first=True).apply(points) + row[:3] for row in pose]
        return {"hand_state": hand, "object_pose": pose, "cloud": np.stack(turned).astype(np.float32)}

    return WINDOW_BATCH * calls_per_second(lambda: default_collate([window() for _ in range(WINDOW_BATCH)]), seconds)


def calls_per_second(step: Callable[[], object], seconds: float) -> float:
    """Calls a second, after a warm-up."""
    count = 0
    for limit in (WARM_UP_SECONDS, seconds):
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < limit:
            step()
            count += 1
    return count / spent


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _table(result: dict[str, Any]) -> str:
    machine, peer = result["machine"], result["peer"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, MuJoCo {result['versions']['mujoco']}, "
        f"torch {result['versions']['torch']}, {result['seconds']:g} s a measurement",
        "",
        "| environment | worlds | env steps / s | simulated s / wall s | times EnvPool |",
        "|---|---|---|---|---|",
    ]
    if peer["simulated_s_per_s"] is None:
        lines.append(f"| {PEER} | - | not installed: pip install dexh2r-gym[bench] | - | - |")
    else:
        steps = float(np.mean(peer["steps_per_s"]))
        lines.append(f"| {PEER} | {PEER_ENVS} | {steps:,.0f} | {peer['simulated_s_per_s']:.1f} | 1 |")
    for row in result["rows"]:
        ratio = "-" if row["times_peer"] is None else f"{row['times_peer']:.1f}"
        lines.append(
            f"| {row['env']} | {row['num_envs']} | {row['steps_per_s']:,.0f} "
            f"| {row['simulated_s_per_s']:.1f} | {ratio} |"
        )
    ours, plain = result["windows_per_s"]["ours"], result["windows_per_s"]["zarr"]
    lines += [
        "",
        f"Random windows of {WINDOW_FRAMES} frames with clouds of {WINDOW_POINTS} points: {ours:,.0f} / s; "
        f"one at a time from zarr: {plain:,.0f} / s ({ours / plain:.0f} times).",
    ]
    return "\n".join(lines) + "\n"
