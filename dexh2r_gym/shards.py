"""Rolling out on a Ray cluster: a shard is a set of replays that a worker runs and scores.

Replays and checkpoints are read by path, so each machine must have them there, on a shared disk or as a copy; that they
are the same everywhere is checked, and so are agents. Records and scores travel, and this process writes them.
"""

from __future__ import annotations

import inspect
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import ENV_ID, episode_row, fingerprint, rollout
from dexh2r_gym.ray_cluster import RayCluster, UnlikeError
from dexh2r_gym.replay import ReplayStore, shipped_stores
from dexh2r_gym.replay.replay import ReplayError
from dexh2r_gym.run_folder import RunFolder

Record = dict[str, np.ndarray]
Row = dict[str, Any]
_PER_CORE = 4  # shards: more, and environments are made more often; fewer, and the last ones are waited for


@dataclass(frozen=True)
class Shard:
    """Replays that one worker runs, and all that their episodes depend on."""

    replay_ids: tuple[str, ...]
    agent: str
    agent_print: str  # of `agent_print`
    store_sha256: str
    num_envs: int
    seed: int
    options: dict[str, Any]  # of the environment, its replays by name or absolute path

    def __str__(self) -> str:
        more = f" and {len(self.replay_ids) - 1} more" if len(self.replay_ids) > 1 else ""
        return f"the shard of {self.replay_ids[0]}{more}"


def rollout_on_ray(
    address: str,
    agent: str,
    replay_ids: Sequence[str],
    folder: RunFolder,
    *,
    store: ReplayStore,
    num_envs: int,
    seed: int,
    options: dict[str, Any],
    bar: tqdm,
) -> dict[str, Row]:
    """Run each replay once, on the workers of a cluster, and write episodes here as their shards come in.

    `num_envs`: most worlds side by side in a worker. See `RayCluster` for addresses and for what is raised.
    -> `evaluate.episode_row` of each episode, by replay id
    """
    began, frames, reached = time.perf_counter(), 0, 0
    rows: dict[str, Row] = {}
    agent, sha256 = _absolute(agent), fingerprint(store.path)
    known_as = agent_print(agent)
    if options["replays"] not in shipped_stores():
        options = {**options, "replays": str(store.path.absolute())}
    with RayCluster(address) as cluster:
        size = max(1, min(num_envs, math.ceil(len(replay_ids) / (_PER_CORE * cluster.cores))))
        worlds = min(num_envs, max(2, size))  # a network's last bits are others in a world alone
        shards = [
            Shard(tuple(replay_ids[i : i + size]), agent, known_as, sha256, worlds, seed, options)
            for i in range(0, len(replay_ids), size)
        ]
        for episodes in cluster.map(run_shard, shards, title=str):
            for record, row in episodes:
                folder.save_episode(record)
                rows[row["replay"]] = row
                frames += len(record["depth"])
                reached += str(record["status"]) == "REACHED"
            bar.update(len(episodes))
            bar.set_postfix(reached=reached, refresh=False)
        worlds *= min(cluster.cores, len(shards))
    seconds = time.perf_counter() - began
    speed = {"frames": frames, "seconds": seconds, "frames_per_second": frames / seconds, "num_envs": worlds}
    folder.write_json("speed.json", speed)
    return rows


def run_shard(shard: Shard) -> list[tuple[Record, Row]]:
    """Record and scores of each of a shard's episodes; UnlikeError if agent or store are others."""
    store = _store(shard.options["replays"], shard.store_sha256)
    maker = same_agent(shard.agent, shard.agent_print)
    records = _Records()
    env = gym.make_vec(
        ENV_ID,
        num_envs=shard.num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        **{**shard.options, "replays": store.path, "released_metrics": False, "num_threads": 1},
    )
    try:
        rollout(maker(env.unwrapped, shard.seed), env, shard.replay_ids, records, seed=shard.seed)
    finally:
        env.close()
    return [(record, episode_row(record, store)) for record in records.kept]


def agent_print(name: str) -> str:
    """What an agent is known by on other machines: its weights, and the file of its code unless it is installed."""
    maker = find_agent(name)
    source = ""
    if ":" in name and (file := inspect.getsourcefile(inspect.unwrap(maker))) is not None:
        source = fingerprint(Path(file))
    return f"{getattr(maker, 'identity', '')} {source}".strip()


def same_agent(name: str, expected: str) -> Any:
    """The maker of an agent; UnlikeError if it is not here, or is another one than `expected` says."""
    try:
        found, maker = agent_print(name), find_agent(name)
    except (ValueError, OSError) as error:
        raise UnlikeError(
            f"machine {platform.node()} does not have the agent {name!r} ({error}): put its files at the same path on "
            "every machine, or install its package there"
        ) from error
    if found != expected:
        raise UnlikeError(
            f"machine {platform.node()} has another agent {name!r} than this one: {found[:12]}... there, "
            f"{expected[:12]}... here; copy its files there"
        )
    return maker


@lru_cache(maxsize=4)
def _store(replays: str, sha256: str) -> ReplayStore:
    """The store, which is read once a process to see that it is the same."""
    try:
        store = ReplayStore.open(replays)
    except (ReplayError, OSError) as error:
        raise UnlikeError(
            f"machine {platform.node()} cannot read the replays {replays} ({error}): put them at the same path on "
            "every machine, on a shared disk or as a copy"
        ) from error
    if (found := fingerprint(store.path)) != sha256:
        raise UnlikeError(
            f"machine {platform.node()} has other replays at {store.path}: sha256 {found[:12]}... there, "
            f"{sha256[:12]}... here; copy them there"
        )
    return store


def _absolute(agent: str) -> str:
    """The name of an agent, the path of a checkpoint as seen from anywhere."""
    return str(Path(agent).absolute()) if ":" not in agent and Path(agent).is_file() else agent


class _Records(RunFolder):
    """Keeps what a run folder writes."""

    def __init__(self) -> None:
        super().__init__("")
        self.kept: list[Record] = []

    def save_episode(self, record: dict[str, Any]) -> None:
        self.kept.append({name: np.array(value) for name, value in record.items()})

    def write_json(self, name: str, content: Any) -> None:
        """The speed of one shard is nobody's concern."""
