"""The environment end to end on the embedded trials: checkers of Gymnasium and SB3, semantics, errors."""

import inspect
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import dexh2r_gym  # noqa: F401
import policies
from dexh2r_gym.envs import HandoverEnv, HandoverVectorEnv
from dexh2r_gym.envs.observations import STATE_SHAPES
from dexh2r_gym.replay import ReplayStore

ID = "DexH2R-Handover-v0"
BACKENDS = ("kinematic", "mujoco")
GOAL = slice(117, 145)  # goal_state in the flat observation


def vector(num_envs=4, backend="kinematic", autoreset=AutoresetMode.SAME_STEP, **options):
    options = {"split": "test", "released_metrics": False} | options
    return gym.make_vec(
        ID,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        backend=backend,
        autoreset_mode=autoreset,
        **options,
    ).unwrapped


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"obs_mode": "state_dict", "control_mode": "delta", "reward_mode": "sparse"}])
def test_checkers(backend, options):
    env = gym.make(ID, backend=backend, mode="hard", render_mode="rgb_array", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized).*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_gives_the_same_episode(backend):
    def episode():
        env = gym.make(ID, backend=backend, split="test")
        observation, info = env.reset(seed=5)
        seen = [observation]
        for _ in range(30):
            observation, *_ = env.step(observation[GOAL])
            seen.append(observation)
        return info["replay"], np.stack(seen)

    (first, a), (second, b) = episode(), episode()
    assert first == second
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_world_does_not_depend_on_its_neighbours(backend):
    ids = ReplayStore.open("mini").ids("test")[:6]

    def frames(num_envs, which):
        env = vector(num_envs, backend, AutoresetMode.DISABLED)
        observation, _ = env.reset(seed=0, options={"replay": [ids[i] for i in which]})
        seen = [observation]
        for _ in range(35):
            observation, *_ = env.step(observation[:, GOAL])
            seen.append(observation)
        return np.stack(seen, axis=1)

    together = frames(6, range(6))
    for pair in ((0, 1), (4, 2)):
        np.testing.assert_array_equal(frames(2, pair), together[list(pair)])


@pytest.mark.parametrize(
    ("mode", "obs_mode"), [*((mode, "state") for mode in AutoresetMode), (AutoresetMode.SAME_STEP, "state_dict")]
)
def test_autoreset_is_that_of_gymnasiums_own_vector_env(mode, obs_mode):
    """The same seeds and actions in Gymnasium's SyncVectorEnv of single environments: the same results."""
    assert beside_gymnasiums(mode, obs_mode=obs_mode) > 3


def beside_gymnasiums(mode, **options):
    """Steps our vector environment and Gymnasium's of three single ones with the same actions, and compares all.

    Returns the number of episodes that ended.
    """
    options = {"backend": "kinematic", "split": "test", "speed_limits": None} | options
    ours = vector(3, autoreset=mode, **options)
    theirs = SyncVectorEnv([lambda: HandoverEnv(**options, released_metrics=False)] * 3, autoreset_mode=mode)
    results = [env.reset(seed=7) for env in (ours, theirs)]
    compare(*results)
    ended = 0
    for _ in range(45):
        observation = results[1][0]
        action = observation["goal_state"] if isinstance(observation, dict) else observation[:, GOAL]
        results = [env.step(action.copy()) for env in (ours, theirs)]
        compare(*results)
        done = results[1][2] | results[1][3]
        ended += int(done.sum())
        if mode == AutoresetMode.DISABLED and done.any():
            results = [env.reset(options={"reset_mask": done.copy()}) for env in (ours, theirs)]
            compare(*results)
    return ended


def compare(a, b):
    """Deep equality of nested tuples, dicts and arrays."""
    assert type(a) is type(b) or np.isscalar(a) or np.isscalar(b), (type(a), type(b))
    if isinstance(a, dict):
        assert sorted(a) == sorted(b)
        for key in a:
            if not key.startswith("_") and f"_{key}" in a and not isinstance(a[key], dict):
                mask = a[f"_{key}"]
                np.testing.assert_array_equal(mask, b[f"_{key}"])
                for x, y in zip(a[key][mask], b[key][mask], strict=True):
                    compare(x, y)
            elif not key.startswith("_"):
                compare(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            compare(x, y)
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expert_takes_the_object(backend):
    env = vector(8, backend, AutoresetMode.DISABLED, mode="hard", released_metrics=True)
    observation, _ = env.reset(seed=0)
    agent, state, info = policies.load("scripted", env), None, {}
    start, reached = np.ones(8, dtype=bool), np.zeros(8, dtype=bool)
    final = {}
    for _ in range(160):
        action, state = agent.predict(observation, state, start)
        start = np.zeros(8, dtype=bool)
        observation, _, terminated, truncated, info = env.step(action)
        if "succ" in info:
            for key in ("succ", "safe", "pen_dep", "infer_fr", "traj_len", "status", "succ_released", "end_frame"):
                final.setdefault(key, np.full(8, None))[info["_succ"]] = info[key][info["_succ"]]
            reached |= info["_succ"] & info["succ"]
        if (terminated | truncated).all():
            break
    assert reached.sum() >= 7
    for i in np.flatnonzero(reached):
        record = env.episode_record(i)
        assert record["status"] == final["status"][i] == "REACHED"
        assert record["d"][-1] < 0.01
        begin = record["alignment_begin"]
        assert record["d"][begin - 1] < 0.05 and (record["d"][: begin - 1] >= 0.05).all()
        steps = np.linalg.norm(np.diff(record["hand_state"][:, :3], axis=0), axis=-1)
        assert final["traj_len"][i] == pytest.approx(steps.sum(), rel=1e-9)
        assert final["end_frame"][i] == record["frames"] - 1


def test_random_actions_do_not_teleport():
    env = vector(4, split="train")
    before, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(20):
        after, *_, info = env.step(env.action_space.sample())
        going = ~info.get("_final_info", np.zeros(4, dtype=bool))
        assert (np.linalg.norm(after[:, :3] - before[:, :3], axis=-1)[going] <= 1.5 / 30 + 1e-6).all()
        assert (np.abs(after[:, 6:28] - before[:, 6:28])[going] <= 4 / 30 + 1e-6).all()
        before = after


def test_without_limits_the_kinematic_hand_is_where_it_is_told():
    env = vector(2, speed_limits=None, alignment="none")
    observation, _ = env.reset(seed=0)
    action = observation[:, :28].copy()
    action[:, 0] += 0.3
    after, *_ = env.step(action)
    np.testing.assert_allclose(after[:, :28], action, atol=1e-6)


def test_mujoco_tracks_the_recording_and_the_command():
    env = vector(4, "mujoco", AutoresetMode.DISABLED)
    ids = env.replay_ids[:4]
    observation, _ = env.reset(options={"replay": ids})
    still = observation[:, :28]
    store = ReplayStore.open("mini")
    for t in range(1, 40):
        observation, *_ = env.step(still)
        recorded = np.stack([store.replay(i).object_pose[t].numpy() for i in ids])
        away = np.linalg.norm(observation[:, 56:59] - recorded[:, :3], axis=-1)
        assert (away < 0.004).all(), (t, away)
    np.testing.assert_allclose(observation[:, :3], still[:, :3], atol=0.002)


def test_a_world_has_the_same_bits_beside_one_and_beside_forty_others():
    """Hundreds of turns that the speed limits cut short: an angle of another last bit makes another pose."""
    start = vector(1).reset(seed=0)[0][0, :28]
    actions = start + np.random.default_rng(0).normal(0.0, 1.0, (30, 41, 28)).astype(np.float32)

    def run(which):
        env = vector(len(which), autoreset=AutoresetMode.DISABLED)
        ids = sorted(env.task.store.ids("test"))[:41]
        env.reset(seed=0, options={"replay": [ids[i] for i in which]})
        poses = []
        for action in actions:
            env.step(action[which])
            poses.append(env.task.scene.hand_pose.numpy().copy())  # in double precision, unlike what is observed
        return np.stack(poses, axis=1)

    together = run(list(range(41)))
    for pair in ([0, 40], [17, 23]):
        assert np.array_equal(run(pair), together[pair])


def test_a_diverged_world_ends_alone():
    env = vector(3, "mujoco", AutoresetMode.DISABLED)
    observation, _ = env.reset(seed=1)
    env.task._sim._qvel[1] = 1e9
    observation, _, terminated, truncated, info = env.step(observation[:, :28])
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    assert info["status"][1] == "DIVERGED" and not info["succ"][1]
    assert np.isfinite(observation).all()
    for _ in range(5):
        observation, _, terminated, _, info = env.step(observation[:, :28])
    assert terminated.tolist() == [False, True, False] and np.isfinite(observation).all()
    observation, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    _, _, terminated, _, _ = env.step(observation[:, :28])
    assert not terminated.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "medium"}, "unknown mode 'medium'; choose one of easy, hard"),
        ({"backend": "isaac"}, "choose one of mujoco, mjwarp, kinematic"),
        ({"split": "dev"}, "train, validation, test, all"),
        ({"obs_mode": "rgb"}, "state, state_dict"),
        ({"replays": "maxi"}, "mini"),
        ({"render_mode": "ansi"}, "rgb_array, human"),
        ({"speed_limits": (1.0, 2.0)}, "3 numbers"),
        ({"colour": "red"}, "unknown argument 'colour'"),
    ],
)
def test_wrong_arguments_list_the_valid_ones(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HandoverVectorEnv(1, **options)


def test_wrong_calls_say_what_is_wrong():
    env = vector(2)
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros((2, 28)))
    with pytest.raises(ValueError, match="teapot"):
        env.reset(options={"replay": "s99/teapot/000"})
    with pytest.raises(ValueError, match="unknown reset option 'seeds'"):
        env.reset(options={"seeds": 3})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="world 1"):
        env.step(np.stack((np.zeros(28), np.full(28, np.nan))))
    with pytest.raises(ValueError, match=r"\(2, 28\)"):
        env.step(np.zeros((2, 30)))
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([1, 0])})


def test_the_docstring_is_the_specification():
    text = inspect.cleandoc(HandoverVectorEnv.__doc__)
    env = vector(1)
    assert f"`Box({env.single_observation_space.shape[0]},)`" in text
    assert f"`Box({env.single_action_space.shape[0]},)`" in text
    rows = dict(re.findall(r"\| (\w+) \| (\d+) \|", text))
    assert {k: int(rows[k]) for k in STATE_SHAPES} == STATE_SHAPES
    names = set(re.findall(r"^\| (\w+) \|", text.split("## Arguments")[1], re.M)) - {"argument"}
    assert names >= set(type(env.options).__dataclass_fields__)


def test_dict_and_flat_observations_hold_the_same_numbers():
    flat, _ = vector(2).reset(seed=3)
    parts, _ = vector(2, obs_mode="state_dict").reset(seed=3)
    np.testing.assert_array_equal(flat, np.concatenate([parts[k] for k in STATE_SHAPES], axis=-1))


def test_render_shows_something():
    env = gym.make(ID, render_mode="rgb_array", split="test")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 640, 3) and picture.dtype == np.uint8
    assert picture.std() > 10
    env.close()


def test_threads_of_torch_do_not_change_results():
    def run(threads):
        torch.set_num_threads(threads)
        env = vector(4)
        observation, _ = env.reset(seed=2)
        for _ in range(20):
            observation, *_ = env.step(observation[:, GOAL])
        return observation

    before = torch.get_num_threads()
    try:
        np.testing.assert_array_equal(run(1), run(2))
    finally:
        torch.set_num_threads(before)
