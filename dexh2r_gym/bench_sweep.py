"""How many environment steps a second `mjwarp` makes, over the number of worlds: state and clouds, everything in torch.

Demonstrations are played, so that worlds go through approach, contact and reset. Each measurement has a process of its
own. Without a GPU it runs on the processor and says so.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.bench import cpu_name
from dexh2r_gym.replay import Replay

GPU_WORLDS = (256, 512, 1024, 2048, 4096, 8192)
CPU_WORLDS = (4, 16, 64)
OBSERVATIONS = ("state", "point_cloud")
WARM_UP = 5  # frames; kernels are built in the first and captured after it
CHUNK = 10  # frames that are queued before the clock is looked at
Row = dict[str, Any]


def sweep(
    out: Path,
    *,
    device: str | None = None,
    num_envs: Sequence[int] = (),
    observations: Sequence[str] = OBSERVATIONS,
    seconds: float = 10.0,
    replays: str = "mini",
    progress: bool = True,
) -> str:
    """Measure each observation at every number of worlds, write OUT/sweep.json and sweep.md, return the table.

    device: of torch, by default a GPU where there is one. num_envs: by default 256 to 8192, without a GPU 4 to 64.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    worlds = num_envs or (CPU_WORLDS if device == "cpu" else GPU_WORLDS)
    jobs = [(observation, n) for observation in observations for n in worlds]
    rows: list[Row] = []
    for observation, n in tqdm(jobs, unit="measurement", disable=not progress):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as alone:
            rows.append(alone.submit(measure, observation, n, device, seconds, replays).result())
    result = {
        "machine": machine(device),
        "versions": {name: version(name) for name in ("mujoco-warp", "warp-lang", "mujoco", "torch")},
        "python": platform.python_version(),
        "seconds": seconds,
        "rows": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep.json").write_text(json.dumps(result, indent=2) + "\n")
    table = sweep_markdown(result)
    (out / "sweep.md").write_text(table)
    return table


def measure(observation: str, num_envs: int, device: str, seconds: float, replays: str) -> Row:
    """Steps a second of all worlds together, and GB of memory that they take: of the GPU, or of the process."""
    from dexh2r_gym.envs import HandoverVectorEnv

    before = _used(device)
    env = HandoverVectorEnv(
        num_envs,
        backend="mjwarp",
        device=device,
        output="torch",
        obs_mode=observation,
        replays=replays,
        split="all",
        released_metrics=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    _, info = env.reset(seed=0)
    demos = padded_demos([env.task.store.replay(i) for i in env.replay_ids]).to(device)
    longest = demos.shape[1]
    trial, frame = info["trial"], torch.ones(num_envs, dtype=torch.long, device=device)

    def steps(count: int) -> None:
        nonlocal trial, frame
        for _ in range(count):
            _, _, terminated, truncated, info = env.step(demos[trial, frame])
            trial = info["trial"]
            frame = torch.where(terminated | truncated, 1, (frame + 1).clamp_max(longest - 1))
        if device != "cpu":
            torch.cuda.synchronize(device)

    steps(WARM_UP)
    chunk = 1 if device == "cpu" else CHUNK
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        steps(chunk)
        count += chunk
    diverged = int(env.task.scene.diverged.sum())
    memory = (_used(device) - before) / 1e9
    env.close()
    return {
        "observation": observation,
        "num_envs": num_envs,
        "steps_per_s": num_envs * count / spent,
        "simulated_s_per_s": num_envs * count / spent / env.task.fps,
        "memory_gb": memory,
        "diverged": diverged,
    }


def padded_demos(replays: Sequence[Replay]) -> Tensor:
    """What was demonstrated in these trials, (n, frames, 28); the last frame of shorter ones lasts.

    ValueError where a trial has no demonstration.
    """
    demos = []
    for replay in replays:
        if replay.demo is None:
            raise ValueError(
                f"trial {replay.id} has no demonstration to play; measure on a store whose trials have one"
            )
        demos.append(replay.demo)
    longest = max(map(len, demos))
    return torch.from_numpy(np.stack([np.pad(demo, ((0, longest - len(demo)), (0, 0)), "edge") for demo in demos]))


def machine(device: str) -> dict[str, Any]:
    """What measured: the card, its memory and driver, or the processor."""
    if device == "cpu":
        return {"device": "cpu", "name": cpu_name()}
    card = torch.cuda.get_device_properties(device)
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    driver = found.stdout.split("\n")[0].strip() or "unknown"
    return {"device": device, "name": card.name, "memory_gb": card.total_memory / 1e9, "driver": driver}


def sweep_markdown(result: dict[str, Any]) -> str:
    """The table, with what it was measured on."""
    on, versions = result["machine"], ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    if on["device"] == "cpu":
        where = f"**No GPU**: `mjwarp` on the processor, {on['name']}, which it is not made for"
    else:
        where = f"{on['name']} ({on['memory_gb']:.0f} GB), driver {on['driver']}"
    lines = [
        f"{where}; {versions}; {result['seconds']:g} s a measurement.",
        "",
        "| observation | worlds | env steps / s | simulated s / wall s | memory GB |",
        "|---|---|---|---|---|",
        *(
            f"| {row['observation']} | {row['num_envs']} | {row['steps_per_s']:,.0f} | {row['simulated_s_per_s']:.1f} "
            f"| {row['memory_gb']:.1f} |"
            for row in result["rows"]
        ),
    ]
    if lost := sum(row["diverged"] for row in result["rows"]):
        lines += ["", f"Worlds diverged at the end of a measurement: {lost}."]
    return "\n".join(lines) + "\n"


def _used(device: str) -> int:
    """Bytes in use."""
    if device == "cpu":
        return psutil.Process().memory_info().rss
    free, total = torch.cuda.mem_get_info(device)
    return total - free
