"""Many worlds as Stable-Baselines3's `VecEnv`: the same as its own `DummyVecEnv` of single environments."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from dexh2r_gym.envs.sb3 import HandoverVecEnv
from dexh2r_gym.evaluate import evaluate
from tests.test_env import ID

OPTIONS = {"mode": "easy", "backend": "kinematic", "split": "validation", "released_metrics": False}


@pytest.mark.parametrize("obs_mode", ["state", "state_dict"])
def test_it_does_what_single_environments_do(obs_mode):
    """Also where episodes end: straight to the goal in world 0, anywhere in world 1."""
    ours = HandoverVecEnv(2, obs_mode=obs_mode, **OPTIONS)
    theirs = DummyVecEnv([lambda: gym.make(ID, obs_mode=obs_mode, **OPTIONS)] * 2)
    rng = np.random.default_rng(0)
    seen = []
    for env in (ours, theirs):
        env.seed(5)
        seen.append(env.reset())
    ended = np.zeros(2, dtype=int)
    for _ in range(160):
        same(*seen)
        same(ours.reset_infos, theirs.reset_infos)
        goal = seen[0]["goal_state"] if obs_mode == "state_dict" else seen[0][:, 117:145]
        action = np.stack((goal[0], rng.uniform(ours.action_space.low, ours.action_space.high))).astype(np.float32)
        (a, reward, done, infos), (b, reward_b, done_b, infos_b) = ours.step(action), theirs.step(action)
        seen = [a, b]
        same(reward, reward_b)
        same(done, done_b)
        assert [info.get("is_success") for info in infos] == [info.get("succ") for info in infos]
        for info, info_b in zip(infos, infos_b, strict=True):
            same(info.pop("TimeLimit.truncated", False), info_b.pop("TimeLimit.truncated"))
            info.pop("is_success", None)
            same(info, info_b)
        ended += done
    assert ended[0] > 1 and ended[1] >= 1
    ours.close()
    theirs.close()


def same(a, b):
    assert isinstance(b, type(a))
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    else:
        assert a == pytest.approx(b) if isinstance(a, float) else a == b


def test_a_trial_can_be_asked_for_once():
    env = HandoverVecEnv(2, **OPTIONS)
    wanted = env.get_attr("replay_ids")[0][-1]
    env.set_options({"replay": wanted})
    env.reset()
    assert [info["replay"] for info in env.reset_infos] == [wanted] * 2
    env.seed(0)
    env.reset()
    assert [info["replay"] for info in env.reset_infos] != [wanted] * 2
    env.close()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_its_algorithms_learn_from_clouds_and_states(algorithm):
    env = VecMonitor(HandoverVecEnv(2, obs_mode="point_cloud+state", num_points=16, control_mode="delta", **OPTIONS))
    sizes = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"learning_starts": 4, "batch_size": 4}
    model = algorithm("MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, device="cpu", seed=0, **sizes)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(32)
    assert any((p.detach() != q).any() for p, q in zip(model.policy.parameters(), before, strict=True))
    env.close()


def test_a_model_is_an_agent_as_it_is(tmp_path):
    env = HandoverVecEnv(2, control_mode="delta", **OPTIONS)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [16]}, device="cpu", seed=0)
    env.close()
    setting = {"replays": "mini", "split": "validation", "mode": "easy", "backend": "kinematic"}
    report = evaluate(model, out=tmp_path / "run", control_mode="delta", progress=False, **setting)
    assert report["config"]["evaluation"]["agent"] == "PPO" and report["overall"]["paper"]["succ"]["value"] < 50
