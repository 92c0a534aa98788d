"""Train an approach policy on the demonstrations of a store, then evaluate the checkpoint that it wrote.

    dexh2r replays generate --preset train --seed 1 train.zarr.zip
    python examples/train_policy.py --replays train.zarr.zip --steps 6000 --out runs/motionnet

The same from the command line: `dexh2r train motionnet --replays train.zarr.zip --out runs/motionnet`, and then
`dexh2r evaluate --agent runs/motionnet.safetensors`. Needs the extra `policies`.
"""

from pathlib import Path
from typing import Literal

import tyro

from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import evaluate
from policies.train import TrainOptions
from policies.train_approach import train


def main(
    policy: Literal["motionnet", "dp", "dp3", "flow"] = "motionnet",
    out: Path = Path("runs/example_motionnet"),
    replays: str = "mini",
    test_replays: str = "mini",
    steps: int = 2000,
    batch_size: int = 128,
    max_trials: int | None = None,
    mode: Literal["easy", "hard"] = "hard",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    seed: int = 0,
) -> None:
    """Train an approach policy and evaluate it on trials that it never saw. Killed and started again, both go on.

    Args:
        policy: its model. dp looks at pictures, which need OpenGL; the others at clouds.
        out: writes OUT.safetensors, OUT.json (its card), OUT.jsonl (its losses), and the folder OUT with the report.
        replays: `mini`, or the path of a store; its train split is learned from.
        test_replays: the store whose test split it is evaluated on.
        steps: of training.
        batch_size: windows of a step.
        max_trials: learn from so many trials at most.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: contact physics, or the hand goes where it is told.
        seed: of weights, batches and evaluation.
    """
    options = TrainOptions(steps=steps, batch_size=batch_size, learning_rate=1e-3, seed=seed)
    train(policy, replays, out, options, max_trials=max_trials)

    checkpoint = out.with_suffix(".safetensors")
    agent = find_agent(str(checkpoint))  # knows which observations the policy needs, and the hash of its weights
    report = evaluate(agent, out=out, agent_name=out.name, replays=test_replays, mode=mode, backend=backend, seed=seed)
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})
    print(f"wrote {checkpoint} and {out / 'report.md'}")


if __name__ == "__main__":
    tyro.cli(main)
