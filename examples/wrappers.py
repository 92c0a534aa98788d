"""Gymnasium's wrappers around one environment and around many worlds: run with `python examples/wrappers.py`.

Frames stacked and actions from -1 to 1 for a policy with a memory, returns of episodes beside their scores, normalised
observations for reinforcement learning. Wrappers of observations of many worlds want the autoreset modes NEXT_STEP or
DISABLED (Gymnasium's rule); `dexh2r_gym.envs.sb3.HandoverVecEnv` is the same for Stable-Baselines3.
"""

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics, RescaleAction
from gymnasium.wrappers import vector as many

import dexh2r_gym  # noqa: F401  (registers the environments)

ID = "DexH2R-Handover-v0"
GOAL = slice(117, 145)  # goal_state in the flat observation: where a servo goes


def one(**options) -> None:
    """A single environment: the last 4 observations at once, actions from -1 to 1, statistics."""
    env = gym.make(ID, **options)
    low, high = env.action_space.low, env.action_space.high
    env = RecordEpisodeStatistics(FrameStackObservation(RescaleAction(env, np.float32(-1), np.float32(1)), 4))
    observation, info = env.reset(seed=0)  # (4, 148), oldest first
    terminated = truncated = False
    while not (terminated or truncated):
        action = 2 * (observation[-1, GOAL] - low) / (high - low) - 1
        observation, _, terminated, truncated, info = env.step(np.clip(action, -1, 1).astype(np.float32))
    print(f"one: {info['replay']} {info['status']} return {info['episode']['r']:.2f} in {info['episode']['l']} frames")
    env.close()


def worlds(num_envs: int, episodes: int, **options) -> None:
    """Many worlds: statistics of every episode, and observations of mean 0 and variance 1 for a learner."""
    env = gym.make_vec(
        ID,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.NEXT_STEP,
        control_mode="delta",
        **options,
    )
    env = many.NormalizeReward(many.NormalizeObservation(many.RecordEpisodeStatistics(env)))
    observation, _ = env.reset(seed=0)
    left = episodes
    while left > 0:
        observation, _, _, _, info = env.step(env.action_space.sample())
        for i in np.flatnonzero(info.get("_episode", [])):
            print(f"world {i}: {info['status'][i]:17} return {info['episode']['r'][i]:6.2f}")
            left -= 1
    print(f"observations now have mean {observation.mean():.2f} and deviation {observation.std():.2f}")
    env.close()


def main(num_envs: int = 8, episodes: int = 8, backend: str = "mujoco", replays: str = "mini") -> None:
    """Play an episode in one environment and some in many worlds.

    Args:
        num_envs: worlds side by side.
        episodes: how many to wait for in them.
        backend: mujoco or kinematic.
        replays: `mini`, or the path of a replay store.
    """
    options = {"backend": backend, "replays": replays, "released_metrics": False}
    one(**options)
    worlds(num_envs, episodes, **options)


if __name__ == "__main__":
    tyro.cli(main)
