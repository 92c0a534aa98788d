"""Many worlds as rsl_rl's `VecEnv`: episodes of the vector environment as tensors, in which rsl_rl learns."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from rsl_rl.runners import OnPolicyRunner

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.rsl_rl import HandoverRslRlEnv
from policies.reacher import MOVE_SIZE, SEEN_SIZE, hand_action, seen_from_palm

OPTIONS = {"mode": "easy", "backend": "kinematic", "split": "validation", "released_metrics": False}
GOAL = slice(117, 145)


def test_it_does_what_the_vector_environment_does():
    """Also where episodes end: straight to the goal in world 0, nowhere in world 1."""
    ours = HandoverRslRlEnv(2, seed=5, **OPTIONS)
    theirs = HandoverVectorEnv(2, autoreset_mode=AutoresetMode.SAME_STEP, **OPTIONS)
    state, _ = theirs.reset(seed=5)
    seen = ours.get_observations()
    frames, ended, timed_out = torch.zeros(2, dtype=torch.long), np.zeros(2), np.zeros(2)
    for _ in range(160):
        np.testing.assert_array_equal(seen["state"].numpy(), state)
        action = np.stack((state[0, GOAL], state[1, :28]))
        with torch.inference_mode():  # as rsl_rl's runner steps
            seen, reward, done, extras = ours.step(torch.from_numpy(action))
        state, reward_of_theirs, terminated, truncated, info = theirs.step(action)
        assert reward.dtype == torch.float32 and reward.shape == done.shape == (2,)
        np.testing.assert_allclose(reward.numpy(), reward_of_theirs, rtol=1e-6)
        np.testing.assert_array_equal(done.numpy(), terminated | truncated)
        np.testing.assert_array_equal(extras["time_outs"].numpy(), truncated)
        frames = torch.where(done, 0, frames + 1)
        assert ours.episode_length_buf.tolist() == frames.tolist()
        assert ("log" in extras) == bool(done.any())
        if "log" in extras:
            succ = info["final_info"]["succ"][terminated | truncated]
            assert extras["log"]["episode/succ"].tolist() == succ.tolist()
            assert extras["log"]["episode/pen_dep"].shape == succ.shape
        ended, timed_out = ended + done.numpy(), timed_out + extras["time_outs"].numpy()
    assert ended[0] > 1 and ended[1] >= 1
    assert timed_out[1] == ended[1] and timed_out[0] == 0
    assert not seen["state"].is_inference()
    assert ours.episode_length_buf.max() < ours.max_episode_length
    ours.close()
    theirs.close()


def test_what_is_seen_and_done_can_be_another():
    env = HandoverRslRlEnv(
        3, seed=0, observe=seen_from_palm, act=hand_action, num_actions=MOVE_SIZE, control_mode="delta", **OPTIONS
    )
    assert env.num_actions == MOVE_SIZE and env.get_observations()["state"].shape == (3, SEEN_SIZE)
    before = env.vector.task.scene.hand_joints.clone()
    seen, *_ = env.step(torch.full((3, MOVE_SIZE), 9.0))
    assert seen["state"].shape == (3, SEEN_SIZE) and seen.batch_size == (3,)
    torch.testing.assert_close(env.vector.task.scene.hand_joints, before, atol=1e-6, rtol=0)
    env.close()


def test_a_dict_of_observations_is_groups():
    env = HandoverRslRlEnv(2, obs_mode="point_cloud+state", num_points=16, **OPTIONS)
    seen = env.get_observations()
    assert set(seen.keys()) == {"state", "agent_pos", "point_cloud"} and seen["point_cloud"].shape == (2, 16, 3)
    env.close()


@pytest.mark.parametrize("random_start", [False, True])
def test_its_runner_learns(random_start):
    env = HandoverRslRlEnv(4, seed=0, control_mode="delta", **OPTIONS)
    network = {"class_name": "MLPModel", "hidden_dims": (16,), "obs_normalization": True}
    config = {
        "num_steps_per_env": 8,
        "save_interval": 10,
        "obs_groups": {"actor": ["state"], "critic": ["state"]},
        "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": network,
        "algorithm": {"class_name": "PPO"},
    }
    runner = OnPolicyRunner(env, config, log_dir=None, device="cpu")
    before = [p.detach().clone() for p in runner.alg.actor.parameters()]
    runner.learn(2, init_at_random_ep_len=random_start)
    assert any((p.detach() != q).any() for p, q in zip(runner.alg.actor.parameters(), before, strict=True))
    assert env.cfg["control_mode"] == "delta"
    env.close()
