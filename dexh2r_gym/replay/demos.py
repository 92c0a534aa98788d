"""Demonstrations: an agent takes the object in the trials of a store, and what its hand did is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.agents import Maker
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.evaluate import ENV_ID, episode_row, rollout
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.rotations import pose_inverse, pose_multiply
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.types import join_hand_state, split_hand_state


def demonstrate(
    store: str | Path, agent: Maker, *, seed: int = 0, num_envs: int = 16, progress: bool = True
) -> dict[str, NDArray]:
    """Hand states (T, 28) of the agent in each trial of a store, by replay id.

    Hard mode, with physics and the environment's goal pose alignment. Trials in which the agent does not reach a goal
    or is not safe (both by the paper's definitions) are left out. `num_envs` does not change the numbers.
    """
    replays = ReplayStore.open(store)
    ids = replays.ids()
    env = gym.make_vec(
        ENV_ID,
        num_envs=min(num_envs, len(ids)),
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        replays=store,
        split="all",
        mode="hard",
        backend="mujoco",
        released_metrics=False,
    )
    demos = {}
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(name)
        folder.start({}, resume=False)
        try:
            with tqdm(total=len(ids), desc="demonstrations", unit="trial", disable=not progress) as bar:
                rollout(agent(cast(HandoverVectorEnv, env.unwrapped), seed), env, ids, folder, seed=seed, bar=bar)
        finally:
            env.close()
        for id in ids:
            record = folder.load_episode(id)
            row = episode_row(record, replays)
            if row["succ"] and row["safe"]:
                states, moved = (torch.from_numpy(record[key]).double() for key in ("hand_state", "object_pose"))
                object_pose = torch.cat((moved, replays.replay(id).object_pose[len(moved) :]))  # simulated, then told
                demos[id] = carry_on(states, object_pose).numpy()
    return demos


def carry_on(hand_state: Tensor, object_pose: Tensor) -> Tensor:
    """Continue hand states (t, 28) to the T frames of object poses (T, 7): the hand keeps its grasp and goes along."""
    pose, joints = split_hand_state(hand_state)
    last = len(pose) - 1
    grasp = pose_multiply(pose_inverse(object_pose[last]), pose[last])
    rest = pose_multiply(object_pose[last + 1 :], grasp.expand(len(object_pose) - last - 1, 7))
    held = join_hand_state(rest, joints[last].expand(len(rest), -1))
    return torch.cat((hand_state, held))
