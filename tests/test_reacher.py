"""The policy that reinforcement learning trains: what it sees, how it moves, how it is kept, and its learning curve."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import policies
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.observations import STATE_SHAPES
from dexh2r_gym.rotations import quat_from_axis_angle, quat_multiply, quat_rotate
from policies import FunctionAgent
from policies.checkpoint import load_checkpoint, save_checkpoint
from policies.learning_curve import LearningCurve, read_curve
from policies.reacher import MOVE_SIZE, SEEN_SIZE, Reacher, ReacherConfig, hand_action, seen_from_palm

FAST = {"backend": "kinematic", "mode": "easy"}


def state(**parts):
    """A flat state (1, 148), zero but for some parts."""
    flat = torch.zeros(1, 148, dtype=torch.float64)
    for part, begin in zip(STATE_SHAPES, np.cumsum([0, *STATE_SHAPES.values()]), strict=False):
        if part in parts:
            flat[0, begin : begin + STATE_SHAPES[part]] = torch.as_tensor(parts[part])
    return flat


def test_the_way_and_the_turn_to_the_goal():
    hand, goal = torch.zeros(2, 28, dtype=torch.float64)
    hand[:3], goal[:3] = torch.tensor([0.1, 0.2, 1.0]), torch.tensor([0.4, 0.2, 0.9])
    hand[5], goal[5] = 0.3, 0.8  # about z
    seen = seen_from_palm(
        state(agent_pos=hand, goal_state=goal, object_pose=[0.5, 0.2, 1.1, 1, 0, 0, 0], phase=[1, 0.5])
    )
    assert seen.shape == (1, SEEN_SIZE)
    np.testing.assert_allclose(seen[0, :6], [0.3, 0, -0.1, 0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(seen[0, 6:12], [np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3), np.cos(0.3), 0], atol=1e-6)
    np.testing.assert_allclose(seen[0, 18:21], [0.4, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(seen[0, 27:30], [-0.1, -0.2, -1.0], atol=1e-6)
    np.testing.assert_allclose(seen[0, -2:], [1, 0.5])
    assert seen_from_palm(state(goal_distance=[10.0]))[0, -3] == 1.0, "no goal is far away, but not ten metres"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_what_it_sees_does_not_depend_on_where_all_stand_and_the_turn_leads_to_the_goal(seed):
    rng = torch.Generator().manual_seed(seed)
    flat = torch.randn(4, 148, generator=rng, dtype=torch.float64)
    moved, shift = flat.clone(), torch.randn(3, generator=rng, dtype=torch.float64)
    for begin in (0, 56, 117, *range(69, 117, 3)):
        moved[:, begin : begin + 3] += shift
    torch.testing.assert_close(seen_from_palm(moved), seen_from_palm(flat))
    palm, goal = quat_from_axis_angle(flat[:, 3:6]), quat_from_axis_angle(flat[:, 120:123])
    turned = quat_multiply(quat_from_axis_angle(seen_from_palm(flat)[:, 3:6]), palm)
    x = torch.eye(3, dtype=torch.float64)[0].expand(4, 3)
    torch.testing.assert_close(quat_rotate(turned, x), quat_rotate(goal, x))


def test_moves_are_along_the_axes_in_which_it_sees():
    """An action of what is left of way and turn brings the palm nearer to the goal in both."""
    env = HandoverVectorEnv(4, control_mode="delta", split="validation", released_metrics=False, **FAST)
    observation, _ = env.reset(seed=0)

    def off(observation):
        seen = seen_from_palm(torch.from_numpy(observation))
        return seen[:, :3].norm(dim=-1), seen[:, 3:6].norm(dim=-1), seen[:, :6]

    way, turn, move = off(observation)
    for _ in range(8):
        observation, *_ = env.step(hand_action(move).numpy())
        nearer, less, move = off(observation)
    assert (nearer < way - 0.05).all() and (less < turn - 0.05).all()
    env.close()


def test_moves_are_clipped_and_fingers_rest():
    action = hand_action(torch.tensor([[0.5, -3.0, 2.0, 0, 0, -1.5]]))
    assert action.shape == (1, 28)
    assert action[0, :MOVE_SIZE].tolist() == [0.5, -1, 1, 0, 0, -1] and not action[0, MOVE_SIZE:].any()


def test_it_is_kept_as_a_checkpoint_and_is_an_agent(tmp_path):
    torch.manual_seed(0)
    reacher = Reacher(ReacherConfig((8, 8)))
    reacher.numbers.fit(torch.randn(50, SEEN_SIZE))
    path = tmp_path / "mine.safetensors"
    save_checkpoint(reacher, path, {"seed": 3})
    assert policies.env_options(str(path)) == {"obs_mode": "state", "control_mode": "delta"}
    env = HandoverVectorEnv(2, **policies.env_options(str(path)), **FAST)
    observation, _ = env.reset(seed=0)
    agent = policies.load(str(path), env)
    action, memory = agent.predict(observation, deterministic=True)
    expected, _ = reacher.predict(observation)
    assert memory is None and action.dtype == np.float32
    np.testing.assert_allclose(action, expected, atol=0.02)  # kept in half precision
    assert load_checkpoint(path, "reacher").config.widths == (8, 8)
    with pytest.raises(ValueError, match="obs_mode='state'"):
        agent.predict({"state": observation})
    other = HandoverVectorEnv(2, **FAST)
    with pytest.raises(ValueError, match=r"mine commands changes of the hand; .* control_mode='delta'"):
        policies.load(str(path), other)
    for made in (env, other):
        made.close()


def servo(observation):
    """What a trained policy comes near to."""
    return hand_action(2.0 * seen_from_palm(torch.from_numpy(observation))[:, :MOVE_SIZE]).numpy()


def test_a_learning_curve_goes_on_where_it_stood(tmp_path):
    options = {"control_mode": "delta", **FAST}
    curve = LearningCurve(tmp_path, **options)
    still = curve.measure(FunctionAgent(lambda seen: np.zeros((len(seen), 28), np.float32)), steps=10, train_return=-1)
    curve.measure(FunctionAgent(servo), steps=20, train_return=2)
    curve.close()
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
    rows = read_curve(tmp_path / "curve.csv")
    assert [row["steps"] for row in rows] == [10, 20] and rows[0]["succ"] == still["succ"] == 0
    assert rows[1]["succ"] > 60 and rows[1]["succ_low"] < rows[1]["succ"] < rows[1]["succ_high"]
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] and 0 < rows[0]["cpu_seconds"] < rows[1]["cpu_seconds"]

    again = LearningCurve(tmp_path, first=15, **options)
    row = again.measure(FunctionAgent(servo), steps=25, train_return=3)
    again.close()
    assert [row["steps"] for row in read_curve(tmp_path / "curve.csv")] == [10, 25]
    assert row["succ"] == pytest.approx(rows[1]["succ"], abs=1e-4) and row["seconds"] > rows[0]["seconds"]
