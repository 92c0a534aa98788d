"""An agent takes objects from a human giver: run with `python examples/quickstart.py`."""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import dexh2r_gym  # noqa: F401  (registers the environments)
import policies

env = gym.make_vec(
    "DexH2R-Handover-v0",
    num_envs=8,
    vectorization_mode="vector_entry_point",
    autoreset_mode=AutoresetMode.DISABLED,
    mode="hard",
    split="test",
)
agent, state = policies.load("scripted", env.unwrapped), None
observation, info = env.reset(seed=0)
start = np.ones(env.num_envs, dtype=bool)
ended = np.zeros(env.num_envs, dtype=bool)
while not ended.all():
    action, state = agent.predict(observation, state, start)
    observation, reward, terminated, truncated, info = env.step(action)
    start[:] = False
    ended = terminated | truncated
    for i in np.flatnonzero(info.get("_succ", ended & False)):
        print(
            f"{info['replay'][i]:28} {info['status'][i]:18} succ {info['succ'][i]!s:5} safe {info['safe'][i]!s:5} "
            f"pen_dep {info['pen_dep'][i]:.3f} cm  {info['infer_fr'][i]} frames"
        )
env.close()
