"""Gymnasium's own wrappers around the single and the vector environment do what they say."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import (
    ClipAction,
    ClipReward,
    DelayObservation,
    FilterObservation,
    FlattenObservation,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    NumpyToTorch,
    RecordEpisodeStatistics,
    RecordVideo,
    RescaleAction,
    TimeAwareObservation,
    TimeLimit,
    TransformObservation,
)
from gymnasium.wrappers import vector as many

from dexh2r_gym.envs.observations import STATE_SHAPES
from tests.test_env import GOAL, ID, vector

FAST = {"backend": "kinematic", "mode": "easy", "split": "validation", "released_metrics": False}
MODES = list(AutoresetMode)


def single(**options):
    return gym.make(ID, **(FAST | options))


def to_the_end(env, act, seed=0):
    """Rewards and last info of one episode."""
    observation, _ = env.reset(seed=seed)
    rewards = []
    while True:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, info


def servo(observation):
    return observation[..., GOAL]


def test_statistics_of_an_episode_stand_beside_its_scores():
    rewards, info = to_the_end(RecordEpisodeStatistics(single()), servo)
    assert info["episode"]["r"] == pytest.approx(sum(rewards)) and info["episode"]["l"] == len(rewards)
    assert info["succ"] and info["status"] == "REACHED"


@pytest.mark.parametrize("obs_mode", ["state", "point_cloud+state"])
def test_frames_are_stacked(obs_mode):
    plain, stacked = (
        single(obs_mode=obs_mode, num_points=8),
        FrameStackObservation(single(obs_mode=obs_mode, num_points=8), 3),
    )
    assert stacked.observation_space.contains(stacked.reset(seed=3)[0])
    seen = [plain.reset(seed=3)[0]]
    for _ in range(5):
        action = plain.unwrapped.action_space.low
        seen.append(plain.step(action)[0])
        stack = stacked.step(action)[0]
    if obs_mode == "state":
        np.testing.assert_array_equal(stack, np.stack(seen[-3:]))
    else:
        for key in seen[0]:
            np.testing.assert_array_equal(stack[key], np.stack([o[key] for o in seen[-3:]]))


def test_a_time_limit_ends_earlier_as_truncated():
    env = TimeLimit(single(), 7)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_actions_are_rescaled_and_clipped():
    """What policies that end in tanh give: the same episode as by the numbers behind it."""
    plain = single()
    low, high = plain.action_space.low, plain.action_space.high
    rescaled = ClipAction(RescaleAction(single(), np.float32(-1), np.float32(1)))
    rng = np.random.default_rng(0)
    same, start = rescaled.reset(seed=0)[0], plain.reset(seed=0)[0]
    np.testing.assert_array_equal(same, start)
    for _ in range(20):
        action = rng.uniform(-1.5, 1.5, 28).astype(np.float32)
        same = rescaled.step(action)[0]
        start = plain.step(low + (np.clip(action, -1, 1) + 1) / 2 * (high - low))[0]
        np.testing.assert_allclose(same, start, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        NormalizeObservation,
        NormalizeReward,
        lambda env: ClipReward(env, -1, 1),
        lambda env: DelayObservation(env, 2),
        lambda env: TimeAwareObservation(TimeLimit(env, 100)),
        NumpyToTorch,
        lambda env: TransformObservation(env, lambda o: 2 * o, env.observation_space),
    ],
    ids=["normalised", "reward", "clipped", "late", "time", "torch", "transformed"],
)
def test_other_wrappers_keep_to_the_spaces(wrap):
    env = wrap(single())
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        action = env.action_space.sample()
        observation, *_ = env.step(observation.new_tensor(action) if hasattr(observation, "new_tensor") else action)
    assert env.observation_space.contains(np.asarray(observation, dtype=env.observation_space.dtype))


def test_parts_are_chosen_and_flattened():
    env = FlattenObservation(FilterObservation(single(obs_mode="state_dict"), ["agent_pos", "object_pose"]))
    seen, _ = env.reset(seed=2)
    parts, _ = single(obs_mode="state_dict").reset(seed=2)
    np.testing.assert_array_equal(seen, np.concatenate((parts["agent_pos"], parts["object_pose"])))


def test_an_episode_is_filmed(tmp_path):
    env = RecordVideo(single(render_mode="rgb_array"), str(tmp_path / "films"), disable_logger=True)
    to_the_end(env, servo)
    env.close()
    assert len(list(tmp_path.glob("films/*.mp4"))) == 1


@pytest.mark.parametrize("mode", MODES)
def test_vector_statistics_are_those_of_each_world(mode):
    """In whichever way worlds begin anew: one goes to the goals, the other anywhere."""
    env = many.RecordEpisodeStatistics(vector(2, autoreset=mode, mode="easy", split="validation"))
    observation, _ = env.reset(seed=0)
    total, length, ended = np.zeros(2), np.zeros(2, dtype=int), [0, 0]
    idle = np.zeros(2, dtype=bool)
    for _ in range(130):
        action = np.stack((servo(observation)[0], env.single_action_space.low))
        observation, reward, terminated, truncated, info = env.step(action)
        total, length = total + np.where(idle, 0, reward), length + ~idle
        done = terminated | truncated
        for i in np.flatnonzero(done & ~idle):
            assert info["_episode"][i]
            assert info["episode"]["r"][i] == pytest.approx(total[i]) and info["episode"]["l"][i] == length[i]
            total[i], length[i], ended[i] = 0, 0, ended[i] + 1
        if mode == AutoresetMode.DISABLED and done.any():
            observation, _ = env.reset(options={"reset_mask": done})
        idle = done if mode == AutoresetMode.NEXT_STEP else np.zeros(2, dtype=bool)
    assert ended[0] > 1 and ended[1] >= 1
    env.close()


@pytest.mark.parametrize(
    "wrap",
    [
        many.NormalizeReward,
        lambda env: many.ClipReward(env, -1, 1),
        lambda env: many.RescaleAction(env, np.float32(-1), np.float32(1)),
        many.ClipAction,
        lambda env: many.TransformReward(env, lambda r: r / 2),
    ],
    ids=["reward", "clipped", "rescaled", "actions", "transformed"],
)
@pytest.mark.parametrize("mode", MODES[:2])
def test_vector_wrappers_go_through_the_ends_of_episodes(wrap, mode):
    env = wrap(vector(3, autoreset=mode, mode="easy", split="validation"))
    observation, _ = env.reset(seed=0)
    ends = 0
    for _ in range(110):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert len(observation) == len(reward) == 3 and np.isfinite(np.asarray(reward)).all()
        ends += int((terminated | truncated).sum())
    assert np.asarray(observation).shape == (3, 148)
    assert ends
    env.close()


def test_vector_observations_are_flattened_and_normalised_and_infos_listed():
    """Wrappers of observations are not for SAME_STEP, by Gymnasium's own rule: they would miss the final ones."""
    options = {"mode": "easy", "split": "validation", "obs_mode": "state_dict"}
    flat = many.FlattenObservation(vector(2, autoreset=AutoresetMode.NEXT_STEP, **options))
    env = many.DictInfoToList(many.NormalizeObservation(flat))
    observation, info = env.reset(seed=0)
    for _ in range(130):
        assert observation.shape == (2, sum(STATE_SHAPES.values())) and np.isfinite(observation).all()
        assert all({"replay", "goal_distance"} <= set(one) for one in info)
        observation, *_, info = env.step(env.action_space.sample())
    with pytest.raises(ValueError, match="SAME_STEP"):
        many.FlattenObservation(vector(2, **options))
    env.close()


class NumbersOnly(gym.vector.VectorWrapper):
    """Gymnasium's `NumpyToTorch` of many worlds refuses any info in words, such as the trial's id."""

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return observation, numbers(info)

    def step(self, actions):
        *results, info = self.env.step(actions)
        return (*results, numbers(info))


def numbers(info):
    return {key: value for key, value in info.items() if value.dtype != object}


def test_many_worlds_speak_torch():
    plain = vector(2, autoreset=AutoresetMode.NEXT_STEP, **FAST)
    env = many.NumpyToTorch(NumbersOnly(vector(2, autoreset=AutoresetMode.NEXT_STEP, **FAST)))
    expected, seen = plain.reset(seed=0)[0], env.reset(seed=0)[0]
    for _ in range(100):
        torch.testing.assert_close(seen, torch.from_numpy(expected), rtol=0, atol=0)
        expected, reward, *_ = plain.step(servo(expected))
        seen, told, *ends, info = env.step(servo(seen))
        assert torch.equal(told, torch.from_numpy(reward)) and isinstance(info["goal_distance"], torch.Tensor)
        assert all(end.dtype == torch.bool for end in ends)


def test_wrapped_single_environments_side_by_side_are_the_vector_environment():
    """Gymnasium's own vectorisation of wrapped single environments, as `make_vec(wrappers=...)` has it."""
    theirs = gym.make_vec(ID, num_envs=2, vectorization_mode="sync", wrappers=(RecordEpisodeStatistics,), **FAST)
    ours = vector(2, autoreset=AutoresetMode.NEXT_STEP, mode="easy", split="validation")
    a, b = ours.reset(seed=1)[0], theirs.reset(seed=1)[0]
    for _ in range(60):
        np.testing.assert_array_equal(a, b)
        a, reward_a, *ends_a, _ = ours.step(servo(a))
        b, reward_b, *ends_b, info = theirs.step(servo(b))
        np.testing.assert_allclose(reward_a, reward_b)
        np.testing.assert_array_equal(ends_a, ends_b)
        if ends_b[0].any():
            assert (info["episode"]["l"][ends_b[0]] > 5).all()
    for env in (ours, theirs):
        env.close()
