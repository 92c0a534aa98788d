"""Whether two simulators come to the same verdicts: the same trials and the same actions in both, side by side.

The agent sees one of them alone and its actions go to both, so that what differs is the physics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import episode_seed
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.sim import ANY_DEVICE
from dexh2r_gym.types import split_hand_state
from dexh2r_gym.workers import threads

FREE = 1e-5  # m, rad or of a quaternion: motions this far apart are the same
Row = dict[str, Any]


def parity(
    out: Path,
    *,
    agent: str = "scripted",
    backends: tuple[str, str] = ("mujoco", "mjwarp"),
    device: str | None = None,
    episodes: int = 64,
    num_envs: int = 32,
    mode: str = "hard",
    ending: str = "grasp",
    replays: str = "mini",
    split: str = "all",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Run trials, evenly spread over a split, in two backends; write OUT/parity.json and parity.md.

    device: of the backends that run on any, by default what each does.

    Returns: backends, agreement (part of the episodes with the same verdict), and a row for every episode.

    Raises:
        ValueError: an unknown agent, backend, mode or split, or fewer trials than episodes.
    """
    maker = find_agent(agent)
    ids = ReplayStore.open(replays).ids(None if split == "all" else split)
    if not 1 <= episodes <= len(ids):
        raise ValueError(
            f"episodes must be 1 to {len(ids)}, the trials of split {split!r} of {replays}; got {episodes}"
        )
    chosen = [ids[i * len(ids) // episodes] for i in range(episodes)]
    setting = {"mode": mode, "ending": ending, "replays": replays, "split": split}
    envs = [
        gym.make_vec(
            "DexH2R-Handover-v0",
            num_envs=min(num_envs, episodes),
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.DISABLED,
            **{**getattr(maker, "env_options", {}), **setting, "backend": backend, "released_metrics": False},
            device=device if backend in ANY_DEVICE else None,
        ).unwrapped
        for backend in backends
    ]
    rows: list[Row] = []
    with tqdm(total=episodes, unit="episode", disable=not progress) as bar:
        ready = maker(envs[0], seed)
        for first in range(0, episodes, envs[0].num_envs):
            rows += _batch(ready, envs, chosen[first : first + envs[0].num_envs], seed)
            bar.update(len(rows) - bar.n)
    for env in envs:
        env.close()
    same = sum(row["same"] for row in rows)
    result = {"agent": agent, **setting, "backends": list(backends), "agreement": same / len(rows), "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / "parity.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "parity.md").write_text(markdown(result))
    return result


def _batch(agent: Any, envs: Sequence[Any], replay_ids: Sequence[str], seed: int) -> list[Row]:
    """Run each of these trials once, one in each world, and compare; worlds to spare repeat the first."""
    n = envs[0].num_envs
    ids = [*replay_ids, *[replay_ids[0]] * (n - len(replay_ids))]
    for env in envs:
        observation, _ = env.reset(seed=[episode_seed(seed, i) for i in ids], options={"replay": ids})
        if env is envs[0]:
            shown = observation
    state, started = None, np.ones(n, dtype=bool)
    ended = np.zeros((2, n), dtype=bool)
    while not ended.all():
        with threads(1):
            action, state = agent.predict(shown, state=state, episode_start=started, deterministic=True)
        started = np.zeros(n, dtype=bool)
        for k, env in enumerate(envs):
            observation, _, terminated, truncated, _ = env.step(action)
            ended[k] = terminated | truncated
            if k == 0:
                shown = observation
    return [compare(*(env.episode_record(world) for env in envs)) for world in range(len(replay_ids))]


def compare(a: dict[str, Any], b: dict[str, Any]) -> Row:
    """Two records of a trial (`HandoverTask.record`): verdicts, and how far hand and object were apart.

    free: the greatest difference of a number of hand or object before anything touches in either, m, rad or of a
    quaternion; apart: the same in all frames that both have; parted: the first frame in which they differ by more than
    `FREE`, -1 for none; touch: the first in which anything touches, -1 for none.
    """
    frames = min(len(a["d"]), len(b["d"]))
    touched = [(np.abs(r["load"][:frames]).max(axis=1) > 0) | (r["giver_force"][:frames] > 0) for r in (a, b)]
    difference = np.max([_difference(x, y) for x, y in zip(_parts(a, frames), _parts(b, frames), strict=True)], axis=0)
    free = frames if not (touch := touched[0] | touched[1]).any() else int(touch.argmax())
    far = np.flatnonzero(difference > FREE)
    verdicts = [str(r["outcome"]) if str(r["outcome"]) != "NOT_REACHED" else str(r["status"]) for r in (a, b)]
    return {
        "replay": str(a["replay"]),
        "verdicts": verdicts,
        "same": verdicts[0] == verdicts[1],
        "frames": [len(a["d"]), len(b["d"])],
        "touch": free if touch.any() else -1,
        "free": float(difference[:free].max(initial=0.0)),
        "apart": float(difference.max()),
        "parted": int(far[0]) if len(far) else -1,
        "max_giver_force": [float(r["giver_force"].max()) for r in (a, b)],
        "depth": [float(r["depth"].max()) for r in (a, b)],
        "reasons": [str(r["reason"]) for r in (a, b)],
    }


def _parts(record: dict[str, Any], frames: int) -> list[np.ndarray]:
    """Positions, rotations and joints of hand and object in the first frames, each (frames, k)."""
    pose, joints = split_hand_state(torch.from_numpy(record["hand_state"][:frames]))
    thing = record["object_pose"][:frames]
    return [pose[:, :3].numpy(), pose[:, 3:].numpy(), joints.numpy(), thing[:, :3], thing[:, 3:]]


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Greatest difference of any number in each frame, (frames,); q and -q are one rotation."""
    apart = np.abs(a - b).max(axis=1)
    return np.minimum(apart, np.abs(a + b).max(axis=1)) if a.shape[1] == 4 else apart


def markdown(result: dict[str, Any]) -> str:
    """The result in words, and a table of the episodes whose verdicts differ."""
    rows, (a, b) = result["rows"], result["backends"]
    same, touched = sum(row["same"] for row in rows), sum(row["touch"] >= 0 for row in rows)
    free = max(row["free"] for row in rows)
    ending = [abs(row["frames"][0] - row["frames"][1]) for row in rows if row["same"]]
    lines = [
        f"# Parity of {a} and {b}",
        "",
        f"{result['agent']}, {result['mode']} mode, ending {result['ending']}, {len(rows)} trials of "
        f"{Path(result['replays']).name}, split {result['split']}; the agent sees {a}, its actions go to both.",
        "",
        f"- Same verdict: {same} of {len(rows)} ({100 * result['agreement']:.1f}%); the robot touched object or giver "
        f"in {touched}.",
        f"- Before the first touch hand and object differ by at most {free:.1e} (m, rad).",
        f"- Where verdicts are the same, episodes end at most {max(ending, default=0)} frames apart.",
        "",
    ]
    if different := [row for row in rows if not row["same"]]:
        lines += [f"| trial | {a} | {b} | touch | parted | why {a} | why {b} |", "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r['replay']} | {r['verdicts'][0]} | {r['verdicts'][1]} | frame {r['touch']} | frame {r['parted']} "
            f"| {r['reasons'][0]} | {r['reasons'][1]} |"
            for r in different
        ]
    return "\n".join(lines).rstrip() + "\n"
