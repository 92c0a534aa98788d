"""Reinforcement learning drops in: PPO of Stable-Baselines3 (10,000 steps in a minute; not a good policy yet)."""

import sys

import gymnasium as gym
from stable_baselines3 import PPO

import dexh2r_gym  # noqa: F401  (registers the environments)

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
env = gym.make("DexH2R-Handover-v0", mode="easy", backend="kinematic", control_mode="delta", released_metrics=False)
model = PPO("MlpPolicy", env, n_steps=min(1024, steps), verbose=1, seed=0, device="cpu")
model.learn(steps)
model.save("runs/ppo_handover")
