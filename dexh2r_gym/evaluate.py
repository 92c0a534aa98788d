"""Evaluation: every replay of a split once, recorded to a run folder (`rollout`), then scored from there (`score`).

Rolling out writes nothing but recordings; every number of a report is computed from those, so a run can be scored again
and one that was killed goes on where it stood. An episode depends on its replay and the seed alone, not on how many
worlds run side by side, nor on threads and machines.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.depth import link_depths
from dexh2r_gym.envs.handover_vector import make_options
from dexh2r_gym.metrics import approach_metrics, released_depth, released_frames
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.report import build_report, to_markdown
from dexh2r_gym.report_physical import physical_row
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.video import VideoRecorder
from dexh2r_gym.workers import threads

ENV_ID = "DexH2R-Handover-v0"
_PACKAGES = ("dexh2r-gym", "gymnasium", "mujoco", "numpy", "torch")
_WITHOUT_EFFECT = ("render_mode", "released_metrics", "reward_mode", "num_threads")  # options no number depends on


@runtime_checkable
class Agent(Protocol):
    """Whatever has Stable-Baselines3's `predict`; batched, its state carried by the caller."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]: ...


def evaluate(
    agent: Agent | Callable[[Any, int], Agent] | str,
    *,
    out: str | Path,
    agent_name: str | None = None,
    replays: str | Path = "mini",
    split: str = "test",
    num_envs: int = 32,
    seed: int = 0,
    video: int = 0,
    resume: bool = True,
    progress: bool = True,
    ray: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Roll out every replay of the split once into the folder `out`, score it, and return the report.

    A run that was interrupted goes on, unless anything that its numbers depend on has changed.

    Args:
        agent: whatever has `predict`, or a function of (`HandoverVectorEnv`, seed) that makes such an agent; its
            `env_options` and `identity`, if it has them, are those of `dexh2r_gym.agents`; or the name of one, see
            `dexh2r_gym.agents.find_agent`.
        agent_name: what the report calls it; by default the name of its class or function.
        out: the run folder.
        num_envs: worlds side by side; the numbers do not depend on it. With the option `realtime` it is 1.
        video: how many episodes, the first of the split, are filmed, by this process always.
        ray: address of a Ray cluster that runs the episodes, see `dexh2r_gym.ray_cluster`; the agent is then given by
            its name. The numbers are the same.
        options: of the environment: mode, backend, control_mode, obs_mode, speed_limits ...; by default what the agent
            needs.

    Raises:
        ValueError: an unknown option or value, or a folder that holds a run of another config.
        FileExistsError: the folder holds a run and `resume` is False.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    name = agent if isinstance(agent, str) else None
    if ray is not None and name is None:
        raise ValueError("with ray, agent must be a name, module:function or the path of a checkpoint")
    if isinstance(agent, str):
        agent_name, agent = agent_name or agent, find_agent(agent)
    options = {**getattr(agent, "env_options", {}), **options}
    resolved = make_options({**options, "replays": replays, "split": split})
    if ray is not None and resolved.realtime:
        raise ValueError("with ray, latency cannot be measured: workers that share a machine slow each other down")
    num_envs = 1 if resolved.realtime else num_envs
    store = ReplayStore.open(replays)
    ids = store.ids(split)
    if not ids:
        raise ValueError(f"split {split!r} of {store.name} has no replays")
    setting = {name: value for name, value in asdict(resolved).items() if name not in _WITHOUT_EFFECT}
    folder = RunFolder(out)
    folder.start(
        {
            "evaluation": {
                "agent": agent_name or getattr(agent, "__name__", type(agent).__name__),
                "agent_identity": getattr(agent, "identity", None),
                "seed": seed,
                **setting,
                "replays": str(replays),
            },
            "store_sha256": fingerprint(store.path),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            "replay_ids": ids,
        },
        resume=resume,
    )
    filmed = ids[:video]
    recorded = folder.recorded_ids()
    pending = [i for i in ids if i not in recorded or (i in filmed and not folder.video_path(i).exists())]
    here = pending if ray is None else [i for i in pending if i in filmed]
    elsewhere = [i for i in pending if i not in here]
    rows: dict[str, dict[str, Any]] = {}
    with tqdm(
        total=len(ids), initial=len(ids) - len(pending), unit="episode", disable=not (progress and pending)
    ) as bar:
        if here:
            env = gym.make_vec(
                ENV_ID,
                num_envs=min(num_envs, max(2, len(here))),  # a network's last bits are others in a world alone
                vectorization_mode="vector_entry_point",
                autoreset_mode=AutoresetMode.DISABLED,
                **{**options, "replays": replays, "split": split, "released_metrics": False},  # computed when scoring
            )
            try:
                ready = agent if isinstance(agent, Agent) else agent(env.unwrapped, seed)
                rollout(ready, env, here, folder, seed=seed, filmed=filmed, bar=bar)
            finally:
                env.close()
        if elsewhere:
            from dexh2r_gym.shards import rollout_on_ray

            assert ray is not None and name is not None
            given = {**options, "replays": replays, "split": split}
            rows = rollout_on_ray(
                ray, name, elsewhere, folder, store=store, num_envs=num_envs, seed=seed, options=given, bar=bar
            )
    return score(folder.path, progress=progress, store=store, rows=rows)


def rollout(
    agent: Agent,
    env: Any,
    replay_ids: Sequence[str],
    folder: RunFolder,
    *,
    seed: int,
    filmed: Sequence[str] = (),
    bar: tqdm | None = None,
) -> None:
    """Run each replay once, a world taking the next one as soon as it is free, and write episodes as they end.

    `env` is a `HandoverVectorEnv` with autoreset disabled: a world that has ended stands still until it is reset. It
    may have more worlds than there are replays.
    """
    env = env.unwrapped
    waiting = list(reversed(replay_ids))
    running: list[str | None] = [None] * env.num_envs
    videos = VideoRecorder(folder, filmed)
    frames = reached = 0
    observation, state = None, None
    free = np.ones(env.num_envs, dtype=bool)
    began = time.perf_counter()
    try:
        while True:
            for world in np.flatnonzero(free).tolist():
                running[world] = waiting.pop() if waiting else None
            taken = np.array([replay is not None for replay in running])
            if not taken.any():
                break
            started = free & taken
            if started.any():
                first = observation is None  # starts all worlds, those too that have nothing to do
                observation, _ = env.reset(
                    seed=[None if replay is None else episode_seed(seed, replay) for replay in running],
                    options={"replay": [replay or replay_ids[0] for replay in running], "reset_mask": started | first},
                )
                videos.start({world: str(running[world]) for world in np.flatnonzero(started).tolist()}, env)
            with threads(torch.get_num_threads() if env.options.realtime else 1):  # bits depend on it
                action, state = agent.predict(observation, state=state, episode_start=started, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(action)
            videos.add_frames(env)
            free = (terminated | truncated) & taken
            for world in np.flatnonzero(free).tolist():
                record = env.episode_record(world)
                videos.finish(world)
                folder.save_episode(record)
                frames += len(record["depth"])
                reached += str(record["status"]) == "REACHED"
                if bar is not None:
                    bar.update()
                    bar.set_postfix(reached=reached, refresh=False)
    finally:
        videos.close()
    seconds = time.perf_counter() - began
    speed = {"frames": frames, "seconds": seconds, "frames_per_second": frames / seconds, "num_envs": env.num_envs}
    folder.write_json("speed.json", speed)


def score(
    run: str | Path,
    *,
    allow_incomplete: bool = False,
    progress: bool = False,
    store: ReplayStore | None = None,
    rows: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compute the report of a run folder from its recorded episodes, and write it there.

    `store`: the replays that it was made with, where they are open already; else those named in the config are opened.
    `rows`: what `episode_row` said of some of the episodes already, by replay id.

    Raises:
        ValueError: episodes are missing (the message names them) and `allow_incomplete` is False, an episode file
            cannot be used, or the replay store is not the one that the run was made with.
    """
    folder = RunFolder(run)
    config = folder.config
    ids = config["replay_ids"]
    recorded = folder.recorded_ids()
    missing = [i for i in ids if i not in recorded]
    if missing and not allow_incomplete:
        listed = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise ValueError(
            f"{folder.path} is incomplete, {len(missing)} of {len(ids)} episodes are missing: {listed}. "
            "Run the evaluation again to go on, or allow an incomplete report (--allow-incomplete)"
        )
    store = store or ReplayStore.open(config["evaluation"]["replays"])
    if (found := fingerprint(store.path)) != config["store_sha256"]:
        raise ValueError(
            f"{store.path} has changed since {folder.path} was rolled out: sha256 {found[:12]}..., "
            f"then {config['store_sha256'][:12]}..."
        )
    known = rows or {}
    scored = tqdm([i for i in ids if i in recorded], desc="scoring", unit="episode", disable=not progress)
    table = [known.get(i) or episode_row(folder.load_episode(i), store) for i in scored]
    report = build_report(table, config=config, missing=missing, speed=folder.read_json("speed.json"))
    folder.write_text("episodes.jsonl", "".join(json.dumps(row) + "\n" for row in table))
    folder.write_json("report.json", report)
    folder.write_text("report.md", to_markdown(report))
    return report


def episode_row(record: dict[str, np.ndarray], store: ReplayStore) -> dict[str, Any]:
    """All numbers of one recorded episode: metrics under both definitions, and where the two depths disagree.

    The frames and depths called false or missed are those of the released definition's frames: see
    `dexh2r_gym.report.false_positives`.
    """
    approach = slice(int(record["approach_frames"]))
    hand_state, object_pose = (torch.from_numpy(record[name][approach]) for name in ("hand_state", "object_pose"))
    exact, obj = torch.from_numpy(record["depth"][approach]), store.object_model(str(record["object"]))
    released = released_depth(hand_state, object_pose, obj)
    length = torch.tensor([len(exact)])
    alignment_begin = torch.tensor([int(record["alignment_begin"])])
    metrics = approach_metrics(
        depth=exact[None],
        palm=hand_state[None, :, :3],
        length=length,
        reached=torch.tensor([str(record["status"]) == "REACHED"]),
        alignment_begin=alignment_begin,
        released_depth=released[None],
    )
    counted = released_frames(length, alignment_begin, len(exact))[0]
    false = counted & (released > 0) & (exact <= 0)
    false_depth_cm = 100.0 * torch.where(false, released, 0.0)
    return {
        **{name: record[name].item() for name in ("replay", "object", "subject", "kind", "fps", "status")},
        **({"latency_ms": record["latency_ms"].item()} if "latency_ms" in record else {}),
        "end_frame": len(exact) - 1,
        "alignment_begin": int(alignment_begin),
        **{name: value.item() for name, value in metrics.items()},
        "max_giver_force": float(record["giver_force"].max()),
        **physical_row(record, link_depths(hand_state, object_pose, obj, exact > 0)),
        "frames": int(counted.sum()),
        "false_frames": int(false.sum()),
        "missed_frames": int((counted & (released <= 0) & (exact > 0)).sum()),
        "false_depth_cm": float(false_depth_cm.sum() / counted.sum().clamp_min(1)),  # share of pen_dep_released
        "deepest_false_cm": float(false_depth_cm.max()),
    }


def episode_seed(seed: int, replay_id: str) -> int:
    """The seed of one episode: of the run's seed and the replay alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{replay_id}".encode()).digest()[:4], "little")


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
