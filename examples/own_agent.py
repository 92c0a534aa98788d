"""Your own agent as a plain function: what B worlds show goes in, the hands to be reached in the next frame come out.

    python examples/own_agent.py --mode easy --out runs/own_agent
    dexh2r evaluate --agent examples.own_agent:make_agent --mode easy --out runs/own_agent_again

The function is a servo without a plan. It sees the nearest free goal grasp, which the recording knows: no robot would.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.hand import OPEN_HAND
from policies import FunctionAgent


def go_to_goal(observation):
    """A fifth of what is left of the way in each frame, the palm turned as the goal's, the fingers open."""
    hand, goal = observation["agent_pos"], observation["goal_state"]  # (B, 28): position m, axis-angle rad, joints rad
    action = np.concatenate((goal[:, :6], np.broadcast_to(OPEN_HAND.numpy(), (len(goal), 22))), axis=1)
    action[:, :3] = hand[:, :3] + 0.2 * (goal[:, :3] - hand[:, :3])
    return action.astype(np.float32)


def make_agent(env, seed):
    """What `--agent module:function` calls; a function of (environment, seed) that returns the agent."""
    return FunctionAgent(go_to_goal)


make_agent.env_options = {"obs_mode": "state_dict"}  # the environment that the agent needs: its parts by name


def main(
    out: Path = Path("runs/own_agent"),
    replays: str = "mini",
    split: Literal["train", "validation", "test", "all"] = "test",
    mode: Literal["easy", "hard"] = "hard",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    seed: int = 0,
) -> None:
    """Run an agent that is a plain function on every trial of a split, and print its scores.

    Args:
        out: folder of the run, with report.md; must not hold a run yet.
        replays: `mini`, or the path of a replay store.
        split: of the replays.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: contact physics, or the hand goes where it is told.
        seed: of the agent and of the environment's noise.
    """
    report = evaluate(
        make_agent,
        out=out,
        resume=False,  # a function that was edited is another agent: no old episodes among the new
        replays=replays,
        split=split,
        mode=mode,
        backend=backend,
        seed=seed,
    )
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})


if __name__ == "__main__":
    tyro.cli(main)
