"""Reinforcement learning on a GPU: PPO of rsl_rl in thousands of worlds, the same policy as `train_sb3.py` trains.

    python examples/train_rsl_rl.py --out runs/rsl_rl
    dexh2r evaluate --agent runs/rsl_rl/policy.safetensors --mode easy --out runs/rsl_rl_again
    python examples/train_rsl_rl.py --out runs/rsl_rl  # killed and started again, it goes on

Worlds and learner are on one device. What is kept are plain tensors and numbers: rsl_rl's own `load` unpickles, which
runs whatever code is in a file. Needs the extra `rsl`.
"""

from pathlib import Path
from statistics import mean
from typing import Literal

import torch
import tyro
from rsl_rl.runners import OnPolicyRunner

from dexh2r_gym.envs.rsl_rl import HandoverRslRlEnv
from dexh2r_gym.evaluate import evaluate
from policies.checkpoint import load_training, save_checkpoint, save_training
from policies.learning_curve import LearningCurve
from policies.reacher import MOVE_SIZE, Reacher, ReacherConfig, hand_action, seen_from_palm

WIDTHS = ReacherConfig().widths
FRAMES = 32  # of each world in an iteration
GPU = torch.cuda.is_available()


def config(every):
    """Of rsl_rl's runner: what is learned as, and with what."""
    network = {"class_name": "MLPModel", "hidden_dims": WIDTHS, "activation": "elu", "obs_normalization": True}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.37, "std_type": "log"}
    return {
        "num_steps_per_env": FRAMES,
        "save_interval": every,
        "obs_groups": {"actor": ["state"], "critic": ["state"]},
        "actor": {**network, "distribution_cfg": noise},
        "critic": network,
        "algorithm": {"class_name": "PPO", "gamma": 0.98, "entropy_coef": 0.0, "learning_rate": 1e-3},
    }


class Runner(OnPolicyRunner):
    """Measures the policy where rsl_rl saves it, and keeps tensors and plain values instead of a pickle."""

    def save(self, path, infos=None):
        iteration = self.current_learning_iteration + 1
        returns = self.logger.rewbuffer
        steps = iteration * FRAMES * self.env.num_envs
        if self.curve.rows and self.curve.rows[-1]["steps"] == steps:
            return  # the last iteration is saved twice if its turn has come
        self.curve.measure(self.reacher(), steps=steps, train_return=mean(returns) if returns else float("nan"))
        save_training(self.state_path, {"setting": self.setting, "iteration": iteration, "algorithm": self.alg.save()})

    def reacher(self):
        """The agent: the mean of the actor's moves, with the statistics of what it sees."""
        actor = self.alg.get_policy()
        reacher = Reacher()
        reacher.net.load_state_dict(actor.mlp.state_dict())
        reacher.numbers.mean.copy_(actor.obs_normalizer.mean)
        reacher.numbers.deviation.copy_(actor.obs_normalizer.std + actor.obs_normalizer.eps)
        return reacher.eval()


def main(
    out: Path = Path("runs/train_rsl_rl"),
    iterations: int = 300,
    num_envs: int = 4096 if GPU else 128,
    replays: str = "mini",
    mode: Literal["easy", "hard"] = "easy",
    backend: Literal["mjwarp", "mujoco", "kinematic"] = "mjwarp" if GPU else "mujoco",
    measured_on: Literal["mujoco", "kinematic"] = "mujoco",
    every: int = 20,
    device: str = "cuda" if GPU else "cpu",
    seed: int = 0,
) -> None:
    """Train PPO with the environment's dense reward, and evaluate it on trials that it never saw.

    The folder OUT gets curve.csv and curve.png (the validation trials while training), policy.safetensors with its
    json (an agent of `dexh2r evaluate`), evaluation_ITERATIONS/report.md, TensorBoard's files, and training, from which
    the same command goes on.

    Args:
        out: folder of all that is written; where it holds a training that was stopped, or had fewer iterations, that
            goes on.
        iterations: of 32 frames in each world and an update.
        num_envs: worlds side by side.
        replays: `mini`, or the path of a store (`dexh2r replays generate`): its train split for training,
            validation for the curve, test for the evaluation.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: in which it is trained: contact physics on a GPU (mjwarp) or the CPU (mujoco), or the hand goes where
            it is told.
        measured_on: backend of the curve and the evaluation.
        every: iterations between two measurements, which are also the points from which it goes on.
        device: cpu, cuda, cuda:1 ... of the learner, and of the worlds unless they are those of mujoco.
        seed: of weights, actions, and the trials that are drawn.
    """
    told = {"replays": replays, "mode": mode, "control_mode": "delta"}
    setting = {**told, "backend": backend, "num_envs": num_envs}
    out.mkdir(parents=True, exist_ok=True)
    state = load_training(out / "training") if (out / "training").exists() else None
    if state is not None and state["setting"] != setting:
        raise ValueError(f"{out} holds a training of {state['setting']}; give another --out, or remove it")
    torch.manual_seed(seed)  # of all devices
    on_device = {"device": device, "output": "torch"} if device != "cpu" and backend != "mujoco" else {}
    env = HandoverRslRlEnv(
        num_envs,
        seed=seed,
        rl_device=device,
        observe=seen_from_palm,
        act=hand_action,
        num_actions=MOVE_SIZE,
        backend=backend,
        split="train",
        released_metrics=False,
        **on_device,
        **told,
    )
    runner = Runner(env, config(every), log_dir=str(out / "tensorboard"), device=device)
    runner.state_path, runner.setting = out / "training", setting
    done = 0
    if state is not None:
        runner.alg.load(state["algorithm"], None, strict=True)
        done = runner.current_learning_iteration = state["iteration"]
    runner.curve = LearningCurve(out, first=done * FRAMES * num_envs, backend=measured_on, **told)
    if done < iterations:
        runner.learn(iterations - done)
    done = max(done, iterations)
    card = {"trained by": "PPO of rsl_rl", "seed": seed, "iterations": done, **setting}
    save_checkpoint(runner.reacher(), out / "policy.safetensors", card)
    runner.curve.close()
    env.close()

    agent = str(out / "policy.safetensors")
    report = evaluate(agent, out=out / f"evaluation_{done}", seed=seed, backend=measured_on, **told)
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})
    succ = report["overall"]["paper"]["succ"]
    print(f"succ {succ['value']:.1f}% [{succ['low']:.1f}, {succ['high']:.1f}] of {report['episodes']} test trials")


if __name__ == "__main__":
    tyro.cli(main)
