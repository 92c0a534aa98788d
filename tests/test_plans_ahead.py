"""An agent that steps from where it sees its hand, in an environment where its actions are late."""

import numpy as np
import pytest

from dexh2r_gym.envs import HandoverVectorEnv
from policies import load
from policies.dynamic_grasp import DynamicGrasp
from policies.plans_ahead import PlansAhead, plans_ahead

STEP = 0.01  # m a frame, along x


class Stepper:
    """Counts in its state the frames that it has seen, world by world."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        hand = np.array(observation["agent_pos"])
        fresh = np.ones(len(hand), bool) if state is None else np.asarray(episode_start)
        seen = np.where(fresh, 1, 1 + (0 if state is None else state))
        hand[:, 0] += STEP
        return hand, seen


def way(agent, latency, frames=12, **options):
    """Palm's x (T, 2) of two worlds, the second of which begins anew after half of the frames."""
    env = HandoverVectorEnv(
        2, backend="kinematic", split="test", alignment="none", autoreset_mode="Disabled", obs_mode="state_dict",
        latency=latency, **options,
    )  # fmt: skip
    agent = plans_ahead(agent, env)
    ids, start, state, out = env.replay_ids[:2], np.ones(2, bool), None, []
    observation, _ = env.reset(seed=0, options={"replay": ids})
    for t in range(frames):
        out.append(observation["agent_pos"][:, 0])
        action, state = agent.predict(observation, state, start)
        observation, *_ = env.step(action)
        start = np.array([False, t == frames // 2])
        if start.any():
            observation, _ = env.reset(options={"replay": ids, "reset_mask": start})
    env.close()
    return np.stack(out)


@pytest.mark.parametrize("latency", [1, 3])
def test_the_way_is_as_fast_as_without_latency_and_that_much_later(latency):
    prompt, late = way(Stepper(), 0), way(Stepper(), latency)
    np.testing.assert_allclose(np.diff(prompt[:, 0]), STEP, atol=1e-6)
    np.testing.assert_allclose(late[latency:, 0], prompt[:-latency, 0], atol=1e-6)
    begun = 12 // 2 + 1  # a new episode goes on from where it sees its hand
    again = late[begun + latency :, 1] - late[begun, 1]
    np.testing.assert_allclose(again, prompt[begun:-latency, 1] - prompt[begun, 1], atol=1e-6)


def test_without_it_the_hand_falls_behind():
    env = HandoverVectorEnv(1, backend="kinematic", split="test", alignment="none", obs_mode="state_dict", latency=3)
    observation, _ = env.reset(seed=0)
    first, state = observation["agent_pos"][0, 0], None
    for t in range(12):
        action, state = Stepper().predict(observation, state, np.array([t == 0]))
        observation, *_ = env.step(action)
    assert observation["agent_pos"][0, 0] - first < 0.5 * 12 * STEP


def test_trained_agents_plan_ahead_where_they_are_late_and_nowhere_else():
    options = {"split": "test", "backend": "kinematic", "obs_mode": "point_cloud+state_dict", "num_points": 128}
    for name in ("flow", "best"):
        env = HandoverVectorEnv(1, **options, goal_pos=True, latency=2)
        assert isinstance(load(name, env), PlansAhead)
        assert isinstance(load(name, HandoverVectorEnv(1, **options, goal_pos=True, realtime=True)), PlansAhead)
        assert not isinstance(load(name, HandoverVectorEnv(1, **options, goal_pos=True)), PlansAhead)
        assert not isinstance(load(name), PlansAhead)
    assert isinstance(load("best"), DynamicGrasp)
