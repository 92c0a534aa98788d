"""Reinforcement learning: PPO of Stable-Baselines3 trains in many worlds, is saved, loaded, and evaluated as it is.

    python examples/train_sb3.py --steps 200000 --out runs/train_sb3
    dexh2r evaluate --agent examples.train_sb3:make_agent --mode easy --backend kinematic  # what was saved there

A model's `predict` is the agent contract: nothing is wrapped. Its other algorithms take the
same environment. Needs the extra `rl`.
"""

from pathlib import Path
from typing import Literal

import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from dexh2r_gym.envs.sb3 import HandoverVecEnv
from dexh2r_gym.evaluate import evaluate

MODEL = Path("runs/train_sb3/model.zip")
OPTIONS = {"control_mode": "delta"}  # actions -1..1, as networks give them; evaluated as it was trained


def make_agent(env, seed):
    """What `dexh2r evaluate --agent module:function` calls."""
    return PPO.load(MODEL, device="cpu")


make_agent.env_options = OPTIONS


def main(
    out: Path = MODEL.parent,
    steps: int = 200_000,
    num_envs: int = 64,
    replays: str = "mini",
    mode: Literal["easy", "hard"] = "easy",
    backend: Literal["mujoco", "kinematic"] = "kinematic",
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train PPO with the environment's dense reward, save and load it, and evaluate it on trials that it never saw.

    Args:
        out: folder of the model, model.zip, and of its evaluation; must not exist yet.
        steps: of all worlds together: 200,000 show how rewards rise, not a good policy.
        num_envs: worlds side by side.
        replays: `mini`, or the path of a replay store: its train split for training, its test split for evaluation.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: contact physics, or the hand goes where it is told, which is faster.
        device: cpu, which is faster for small networks, or cuda.
        seed: of weights, actions, and the trials that are drawn.
    """
    out.mkdir(parents=True)
    setting = {"replays": replays, "mode": mode, "backend": backend, **OPTIONS}
    env = VecMonitor(HandoverVecEnv(num_envs, split="train", released_metrics=False, **setting))
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=16 * num_envs,
        policy_kwargs={"log_std_init": -1.0},  # a hand that trembles less finds goals more often
        seed=seed,
        device=device,
        verbose=1,
    )
    model.learn(steps)
    model.save(out / "model.zip")
    env.close()

    trained = PPO.load(out / "model.zip", device=device)
    report = evaluate(trained, out=out / "evaluation", seed=seed, **setting)
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})


if __name__ == "__main__":
    tyro.cli(main)
