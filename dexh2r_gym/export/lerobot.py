"""Episodes as a LeRobot data set, format v3.0 (https://huggingface.co/docs/lerobot/lerobot-dataset-v3). Extra `export`.

    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    LeRobotDataset("local/handover", root="runs/lerobot")[0]  # observation.state, action, task, next.reward ...

The files are written here, with pyarrow alone: lerobot pins other versions of torch than this package, and is needed
only to read them. Numbers are stored bit for bit (rewards as float32), pictures as films, with losses. A frame holds an
observation, the action that followed, and what came of it (`next.`); the last observation is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym

from dexh2r_gym.export.episodes import Episode, Plan, play, provenance
from dexh2r_gym.export.lerobot_features import features, rows
from dexh2r_gym.export.lerobot_files import LeRobotFiles
from dexh2r_gym.export.whole import whole_or_nothing
from dexh2r_gym.extras import import_extra

ROBOTS = {"floating": "shadow_hand", "ur10e": "ur10e_shadow_hand"}


def export_lerobot(what: Plan, out: str | Path, *, num_envs: int = 32, progress: bool = True) -> Path:
    """Play a plan and write its episodes as a data set into the new folder `out`, whole or not at all.

    Beside what the format has, `meta/dexh2r.json` says where the data come from and lists trial, seed and scores of
    every episode, and README.md is its card.

    Raises:
        MissingExtraError: pyarrow is not installed.
        ValueError: recordings whose rate is no whole number, or pictures of odd width or height.
        FileExistsError: something is at `out` already.
    """
    import_extra("pyarrow", "export")
    if what.fps != round(what.fps):
        raise ValueError(f"a LeRobot data set has a whole number of frames a second, these trials have {what.fps}")
    fps, out = round(what.fps), Path(out).expanduser()
    env = gym.make(what.spec)
    try:
        found = features(env.observation_space, what.options)
    finally:
        env.close()
    with whole_or_nothing(out.resolve()) as folder:
        files = LeRobotFiles(folder, found, fps)
        try:
            about = []
            for number, episode in enumerate(play(what, num_envs=num_envs, progress=progress)):
                task = files.task_index(episode.task)
                files.add(rows(episode, found, fps, number, files.frames, task), episode.task)
                about.append(_about(episode))
            files.finish(ROBOTS[what.options.robot], what.split)
        finally:
            files.close()
        source = provenance(what)
        (folder / "meta/dexh2r.json").write_text(json.dumps({**source, "episodes": about}, indent=1) + "\n")
        (folder / "README.md").write_text(_card(source, files))
    return out


def _about(episode: Episode) -> dict[str, Any]:
    scores = {k: v if v not in (float("inf"), float("-inf")) else None for k, v in episode.scores.items()}
    return {"replay": episode.replay, "split": episode.split, "seed": episode.seed, **scores}


def _card(source: dict[str, Any], files: LeRobotFiles) -> str:
    """A card as the Hugging Face hub reads it."""
    return f"""---
license: {source["licence"].lower()}
task_categories:
- robotics
tags:
- LeRobot
- dexterous-manipulation
- human-to-robot-handover
configs:
- config_name: default
  data_files: data/*/*.parquet
---

Dexterous human-to-robot handover, simulated: a ShadowHand takes objects from a human giver. {files.num_episodes}
episodes, {files.frames} frames, {len(files.tasks)} tasks, made by {source["made_by"]}: agent `{source["agent"]}`,
seed {source["seed"]}, trials of `{source["source"]}`, split {source["split"]}. Licence of the recorded trials:
{source["licence"]}.

Units: metres, radians; quaternions w x y z; world frame, z up. `action` and `observation.state` begin with the hand:
palm position, palm rotation (axis-angle), 22 joints. `meta/dexh2r.json` lists trial, seed and scores of every episode.
"""
