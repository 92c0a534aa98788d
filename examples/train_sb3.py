"""Reinforcement learning: PPO of Stable-Baselines3 in many worlds, from nothing to a policy that takes the object.

    python examples/train_sb3.py --out runs/ppo
    dexh2r evaluate --agent runs/ppo/policy.safetensors --mode easy --out runs/ppo_again  # what was saved there
    python examples/train_sb3.py --out runs/ppo   # killed and started again, it goes on

The learner sees the state from the palm (`policies.reacher`) and moves the palm; the fingers stay open until the
environment aligns the hand. What is kept are plain tensors and numbers: Stable-Baselines3's own `model.save` writes
pickles, which run whatever code is in them when they are loaded. Needs the extra `rl`.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize
from torch import nn
from tqdm import tqdm

from dexh2r_gym.envs.sb3 import HandoverVecEnv
from dexh2r_gym.evaluate import evaluate
from policies.checkpoint import load_training, save_checkpoint, save_training
from policies.learning_curve import LearningCurve
from policies.reacher import MOVE_SIZE, SEEN_SIZE, Reacher, ReacherConfig, hand_action, seen_from_palm

WIDTHS = ReacherConfig().widths


class FromPalm(VecEnvWrapper):
    """Shows the flat state as the palm sees it, and takes moves of the palm."""

    def __init__(self, venv):
        seen = spaces.Box(-np.inf, np.inf, (SEEN_SIZE,), np.float32)
        super().__init__(venv, seen, spaces.Box(-1.0, 1.0, (MOVE_SIZE,), np.float32))

    def reset(self):
        return seen_from_palm(torch.from_numpy(self.venv.reset())).numpy()

    def step_async(self, actions):
        self.venv.step_async(hand_action(torch.from_numpy(actions)).numpy())

    def step_wait(self):
        state, reward, done, infos = self.venv.step_wait()
        if (ended := np.flatnonzero(done)).size:
            last = seen_from_palm(torch.from_numpy(np.stack([infos[i]["terminal_observation"] for i in ended])))
            for i, seen in zip(ended.tolist(), last.numpy(), strict=True):
                infos[i]["terminal_observation"] = seen
        return seen_from_palm(torch.from_numpy(state)).numpy(), reward, done, infos


class Keeper(BaseCallback):
    """A bar with the time left; every so many steps a measurement, and all that is needed to go on from there."""

    def __init__(self, curve, path, setting, steps, every):
        super().__init__()
        self.curve, self.path, self.setting, self.every = curve, path, setting, every
        self.bar = tqdm(total=steps, unit="step", unit_scale=True, desc="PPO")

    def _on_training_start(self):
        self.bar.initial = self.bar.n = self.num_timesteps
        self.due = self.num_timesteps + self.every

    def _on_step(self):
        return True

    def _on_rollout_start(self):  # weights and statistics are those of the last update
        if self.num_timesteps >= self.due:
            self.due = self.num_timesteps + self.every
            self.keep()

    def _on_rollout_end(self):
        self.bar.update(self.num_timesteps - self.bar.n)

    def _on_training_end(self):
        self.keep()
        self.bar.close()

    def keep(self):
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        told = {"steps": self.num_timesteps, "train_return": np.mean(returns) if returns else np.nan}
        row = self.curve.measure(reacher_of(self.model), **told)
        for name in ("succ", "safe", "pen_dep"):
            self.logger.record(f"{self.curve.split}/{name}", row[name])
        self.bar.set_postfix(succ=f"{row['succ']:.0f}%", ret=f"{row['train_return']:.1f}", refresh=False)
        save_training(self.path, state_of(self.model) | {"setting": self.setting})


def reacher_of(model):
    """The agent that a model of Stable-Baselines3 is: the mean of its actions, with the statistics of what it sees."""
    policy, seen = model.policy, model.get_vec_normalize_env()
    reacher = Reacher()
    reacher.net.load_state_dict(nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net).state_dict())
    reacher.numbers.mean.copy_(torch.from_numpy(seen.obs_rms.mean))
    reacher.numbers.deviation.copy_(torch.from_numpy(np.sqrt(seen.obs_rms.var + seen.epsilon)))
    return reacher.eval()


def state_of(model):
    """All that is needed to go on, tensors and plain values."""
    env = model.get_vec_normalize_env()
    statistics = {
        name: {key: torch.as_tensor(getattr(rms, key)) for key in ("mean", "var", "count")}
        for name, rms in (("obs_rms", env.obs_rms), ("ret_rms", env.ret_rms))
    }
    policy, optimizer = model.policy.state_dict(), model.policy.optimizer.state_dict()
    return {"steps": model.num_timesteps, "policy": policy, "optimizer": optimizer, "statistics": statistics}


def go_on(model, state):
    """Put what `state_of` gave into a new model."""
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model.num_timesteps = state["steps"]
    env = model.get_vec_normalize_env()
    for name, values in state["statistics"].items():
        for key, value in values.items():
            setattr(getattr(env, name), key, value.numpy() if value.ndim else value.item())


def main(
    out: Path = Path("runs/train_sb3"),
    steps: int = 600_000,
    num_envs: int = 128,
    replays: str = "mini",
    mode: Literal["easy", "hard"] = "easy",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    every: int = 50_000,
    learning_rate: float = 1e-3,
    tensorboard: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train PPO with the environment's dense reward, and evaluate it on trials that it never saw.

    The folder OUT gets curve.csv and curve.png (the validation trials while training), policy.safetensors with its
    json (an agent of `dexh2r evaluate`), evaluation_STEPS/report.md, and training, from which the same command goes on.

    Args:
        out: folder of all that is written; where it holds a training that was stopped, or had fewer steps, that one
            goes on.
        steps: of all worlds together.
        num_envs: worlds side by side.
        replays: `mini`, or the path of a store (`dexh2r replays generate`): its train split for training,
            validation for the curve, test for the evaluation.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: contact physics, or the hand goes where it is told, which is faster.
        every: steps between two measurements, which are also the points from which it goes on.
        learning_rate: at the beginning; it falls to nothing.
        tensorboard: also write curves for TensorBoard, to OUT/tensorboard.
        device: cpu, which is faster for small networks, or cuda.
        seed: of weights, actions, and the trials that are drawn.
    """
    setting = {"replays": replays, "mode": mode, "backend": backend, "control_mode": "delta"}
    out.mkdir(parents=True, exist_ok=True)
    resumed = load_training(out / "training") if (out / "training").exists() else None
    if resumed is not None and resumed["setting"] != setting:
        raise ValueError(f"{out} holds a training of {resumed['setting']}; give another --out, or remove it")
    gamma = 0.98  # a reach takes some 50 frames
    worlds = FromPalm(HandoverVecEnv(num_envs, split="train", released_metrics=False, **setting))
    env = VecNormalize(VecMonitor(worlds), gamma=gamma, clip_obs=np.inf, epsilon=1e-6)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=8 * num_envs,
        n_epochs=5,
        gamma=gamma,
        learning_rate=lambda left: learning_rate * left,
        policy_kwargs={"net_arch": list(WIDTHS), "activation_fn": nn.ELU, "log_std_init": -1.0},
        tensorboard_log=str(out / "tensorboard") if tensorboard else None,
        seed=seed,
        device=device,
    )
    if resumed is not None:
        go_on(model, resumed)
    curve = LearningCurve(out, first=model.num_timesteps, **setting)
    if model.num_timesteps < steps:
        keeper = Keeper(curve, out / "training", setting, steps, every)
        model.learn(steps - model.num_timesteps, callback=keeper, reset_num_timesteps=False)
    card = {"trained by": "PPO of Stable-Baselines3", "seed": seed, "steps": model.num_timesteps, **setting}
    save_checkpoint(reacher_of(model), out / "policy.safetensors", card)
    curve.close()
    env.close()

    agent, done = str(out / "policy.safetensors"), model.num_timesteps
    report = evaluate(agent, out=out / f"evaluation_{done}", seed=seed, **setting)
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})
    succ = report["overall"]["paper"]["succ"]
    print(f"succ {succ['value']:.1f}% [{succ['low']:.1f}, {succ['high']:.1f}] of {report['episodes']} test trials")


if __name__ == "__main__":
    tyro.cli(main)
