"""Plug in your own agent: anything with `predict(observation, state, episode_start, deterministic)`.

The same agent from the command line: `dexh2r evaluate --agent examples.own_agent:make_agent --out runs/own`.
"""

from pathlib import Path

from dexh2r_gym.evaluate import evaluate

GOAL = slice(117, 145)  # `goal_state` in the flat observation, see the environment's docstring


class GoStraight:
    """Commands the nearest goal grasp itself; the environment's speed limits do the rest."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return observation[:, GOAL], None


def make_agent(env, seed):
    """What `dexh2r evaluate --agent module:function` calls."""
    return GoStraight()


if __name__ == "__main__":
    report = evaluate(GoStraight(), out=Path("runs/own_agent"), split="test", mode="easy", backend="kinematic")
    print({name: round(float(value["value"]), 2) for name, value in report["overall"]["paper"].items()})
