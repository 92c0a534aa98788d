"""Domain randomisation: ranges, models that MuJoCo itself would make, the same bits in any company, errors, info."""

import math
import re
import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import policies
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import JOINT_NAMES
from dexh2r_gym.objects import load_object
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.scene import scene_model
from dexh2r_gym.sim.randomise import PHYSICS, Randomisation, draw_factors, randomised_model

ALL = {"friction": 0.3, "mass": 0.5, "strength": 0.2, "palm_position": 0.002, "palm_rotation": 0.01, "joints": 0.02}
FACTORS = [f"{name}_factor" for name in PHYSICS]


def worlds(num_envs, **options):
    options = {"split": "test", "released_metrics": False, "num_threads": 1} | options
    return HandoverVectorEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


@given(st.integers(0, 1 << 62), st.floats(0, 9), st.floats(0, 9), st.floats(0, 9))
def test_factors_are_within_their_ranges(key, friction, mass, strength):
    factors = draw_factors(Randomisation(friction, mass, strength), torch.tensor([key]))[0]
    for factor, size in zip(factors.tolist(), (friction, mass, strength), strict=True):
        assert 1 / (1 + size) - 1e-12 <= factor <= 1 + size + 1e-12


def test_factors_are_log_uniform_and_independent():
    factors = draw_factors(Randomisation(0.3, 1.0, 0.0), torch.arange(20000) * 7919)
    assert (factors[:, 2] == 1).all(), "a range of 0 changes nothing"
    logs = factors[:, :2].log() / torch.tensor([1.3, 2.0]).log()  # -1 to 1
    assert logs.mean(dim=0).abs().max() < 0.02
    assert (logs.std(dim=0) - 1 / math.sqrt(3)).abs().max() < 0.01
    assert torch.corrcoef(logs.T)[0, 1].abs() < 0.03


def test_keys_decide_not_their_company():
    keys = torch.tensor([3, 1 << 61, 77, 12345])
    randomisation = Randomisation(friction=1.0, mass=1.0, strength=1.0)
    together = draw_factors(randomisation, keys)
    for i in range(4):
        assert torch.equal(draw_factors(randomisation, keys[i : i + 1])[0], together[i])


def test_the_model_is_what_mujoco_makes_of_the_changed_numbers():
    """`mj_setConst` after the change finds every constant as it is."""
    plain = scene_model(load_object("thermos"), GiverHand())
    before = {name: np.array(getattr(plain, name)) for name in ("body_mass", "geom_friction", "actuator_gainprm")}
    changed = randomised_model(plain, torch.tensor([0.5, 1.7, 2.0], dtype=torch.float64))
    names = ("body_mass", "body_inertia", "body_invweight0", "body_subtreemass", "dof_invweight0", "dof_M0")
    ours = {name: np.array(getattr(changed, name)) for name in names}
    mujoco.mj_setConst(changed, mujoco.MjData(changed))
    for name in names:
        np.testing.assert_allclose(ours[name], getattr(changed, name), rtol=1e-9, err_msg=name)
    body = plain.body("object").id
    assert changed.body_mass[body] == pytest.approx(1.7 * plain.body_mass[body])
    np.testing.assert_allclose(changed.geom_friction, 0.5 * plain.geom_friction)
    hand = [plain.actuator(name).id for name in JOINT_NAMES]
    others = [i for i in range(plain.nu) if i not in hand]
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        np.testing.assert_allclose(getattr(changed, name)[hand], 2 * getattr(plain, name)[hand])
        np.testing.assert_array_equal(getattr(changed, name)[others], getattr(plain, name)[others])
    for name, value in before.items():
        np.testing.assert_array_equal(value, getattr(plain, name), err_msg="the shared model stays as it is")


def episode(num_envs, steps=35, which=0, **options):
    """Observations of the first world that runs the test trial `which`, and its info at the end."""
    env = worlds(num_envs, randomisation=ALL, **options)
    ids = env.replay_ids[which : which + num_envs]
    observation, _ = env.reset(seed=list(range(which, which + num_envs)), options={"replay": ids})
    seen = [observation[0]]
    for _ in range(steps):
        observation, *_ = env.step(observation[:, 117:145])
        seen.append(observation[0])
    return np.stack(seen), env.task.metrics(torch.tensor([0]))


def test_one_world_has_the_same_bits_beside_seven_others():
    (alone, first), (beside, second) = episode(1), episode(8)
    np.testing.assert_array_equal(alone, beside)
    for name in FACTORS:
        assert first[name].item() == second[name].item() != 1.0


def test_off_is_what_it_was():
    """Ranges of 0, and no randomisation at all, give the same bits; a range gives others."""

    def last(randomisation):
        env = worlds(2, randomisation=randomisation)
        observation, _ = env.reset(seed=1)
        for _ in range(30):
            observation, *_ = env.step(observation[:, 117:145])
        return observation

    plain = last(None)
    np.testing.assert_array_equal(plain, last({}))
    np.testing.assert_array_equal(plain, last(Randomisation()))
    assert not np.array_equal(plain, last({"strength": 1.0}))


def test_the_hand_is_seen_with_errors_of_the_size_told():
    env = worlds(1, backend="kinematic", randomisation={"palm_position": 0.004, "palm_rotation": 0.03, "joints": 0.02})
    observation, _ = env.reset(seed=0)
    first = observation[:, :28]
    errors = []
    for seed in range(400):
        observation, _ = env.reset(seed=seed, options={"replay": env.replay_ids[0]})
        errors.append(observation[0, :28] - first[0])
    errors = np.stack(errors)
    std = errors.std(axis=0)
    assert std[:3] == pytest.approx(0.004, rel=0.15) and std[6:] == pytest.approx(0.02, rel=0.15)
    assert 0.015 < std[3:6].mean() < 0.06


def test_the_true_hand_is_what_is_scored():
    """Errors of the sensors change what is seen, and neither the hand nor its score."""
    noisy, plain = (worlds(2, backend="kinematic", randomisation=r) for r in ({"palm_position": 0.01}, None))
    seen = []
    for env in (noisy, plain):
        env.reset(seed=0)
        action = np.concatenate((np.tile([-0.4, 0, 1, 0, 0, 0], (2, 1)), np.zeros((2, 22))), axis=1)
        for _ in range(5):
            observation, *_, info = env.step(action)
        state = env.task.scene
        seen.append((observation, state.hand_pose.clone(), info["goal_distance"]))
    (a, pose_a, d_a), (b, pose_b, d_b) = seen
    assert torch.equal(pose_a, pose_b) and np.array_equal(d_a, d_b)
    assert not np.array_equal(a[:, :3], b[:, :3]) and not np.array_equal(a[:, 28:34], b[:, 28:34])
    np.testing.assert_array_equal(a[:, 56:63], b[:, 56:63])  # the object
    assert (a[:, 145] != b[:, 145]).all(), "d follows from the palm as it is seen"


def test_what_was_drawn_is_told_at_the_end_and_recorded(tmp_path):
    env = worlds(2, randomisation=ALL)
    env.reset(seed=3)
    info = {}
    still = np.concatenate((np.tile([-0.6, 0, 1, 0, 0, 0], (2, 1)), np.zeros((2, 22))), axis=1)
    while "succ" not in info:
        *_, info = env.step(still)
    world = int(np.flatnonzero(info["_succ"])[0])
    for name in FACTORS:
        assert 0.6 < info[name][world] < 1.6 and info[name][world] != 1
        assert env.episode_record(world)[name] == info[name][world]
    *_, info = worlds(1, backend="kinematic").reset(seed=0)
    assert not set(FACTORS) & set(info)


def test_an_evaluation_keeps_factors_and_resumes(tmp_path):
    def run():
        return evaluate(
            agent_standing, out=tmp_path / "run", split="validation", num_envs=24, randomisation={"mass": 0.5},
            speed_limits=None, progress=False,
        )  # fmt: skip

    first = run()
    folder = RunFolder(tmp_path / "run")
    factors = [float(folder.load_episode(i)["mass_factor"]) for i in sorted(folder.recorded_ids())]
    assert len(set(factors)) == len(factors) and min(factors) > 0.6 and max(factors) < 1.6
    assert run() == first


def agent_standing(env, seed):
    class Standing:
        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return observation[:, :28], state

    return Standing()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"randomisation": {"frction": 1}}, "unknown randomisation 'frction'; choose from friction, mass, strength"),
        ({"randomisation": {"mass": -1}}, "mass of the randomisation must be 0 to 9, got -1"),
        ({"randomisation": {"joints": 2}}, "joints of the randomisation must be 0 to 1 (m or rad), got 2"),
        (
            {"randomisation": {"mass": 0.1, "strength": 0.1}, "backend": "kinematic"},
            "backend 'kinematic' cannot do randomisation of mass, strength; these can: mujoco",
        ),
        ({"randomisation": 0.3}, "randomisation must be a Randomisation, a dict of its fields or None, got 0.3"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HandoverVectorEnv(1, **options)


@settings(max_examples=20)
@given(st.sampled_from(PHYSICS), st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=9.1), st.just(math.nan)))
def test_a_range_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} of the randomisation must be 0 to 9"):
        Randomisation(**{name: value})


def test_checkers():
    env = gym.make("DexH2R-Handover-v0", randomisation=ALL, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized).*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_a_heavier_object_must_be_carried_before_the_giver_lets_go():
    """Under ending='hold' the load that the robot must take is the weight that was drawn, not the model's."""
    env = worlds(1, ending="hold", mode="easy", randomisation={"mass": 1.0})
    observation, _ = env.reset(seed=0, options={"replay": env.replay_ids[0]})
    agent, state = policies.load("scripted", env), None
    for t in range(400):
        action, state = agent.predict(observation, state, np.full(1, t == 0))
        observation, *_ = env.step(action)
        if env.task._receive.phase[0] >= 2:
            break
    factor = float(env.task._circumstances(torch.tensor([0]))["mass_factor"])
    mass = env.task.replay_of(0).object_model.mass
    assert factor != 1 and float(env.task._receive._weight[0]) == pytest.approx(9.81 * mass * factor)
    model = env.task._sim._models[0]
    assert model.body("object").mass[0] == pytest.approx(mass * factor)


def test_an_arm_and_randomised_physics_hold_what_the_giver_lets_go():
    """All of it together runs to an end that is told."""
    env = worlds(2, ending="hold", robot="ur10e", randomisation=ALL, num_threads=1)
    observation, _ = env.reset(seed=0, options={"replay": env.replay_ids[:2]})
    agent, state = policies.load("scripted", env), None
    told = {}
    for t in range(500):
        action, state = agent.predict(observation, state, np.full(2, t == 0))
        observation, _, terminated, truncated, info = env.step(action)
        for world in np.flatnonzero(info.get("_outcome", np.zeros(2, bool))):
            told[int(world)] = info["outcome"][world]
        if (terminated | truncated).all():
            break
    assert set(told) == {0, 1} and set(told.values()) <= {"HELD", "DROPPED", "NOT_RELEASED", "NOT_REACHED"}
