"""Observation modes of the environment: what each holds, noise, delay, memory, errors."""

import os
import re
import warnings

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import psutil
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.memory import check_memory, estimate_memory
from dexh2r_gym.envs.observations import STATE_SHAPES
from dexh2r_gym.envs.options import make_options
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle, quat_from_axis_angle
from dexh2r_gym.sensing.delay import Delay
from dexh2r_gym.sensing.hashing import normal, uniform
from dexh2r_gym.sensing.noise import PoseNoise
from tests.test_env import ID, beside_gymnasiums, compare, vector

os.environ.setdefault("MUJOCO_GL", "egl")
SMALL = {"image_size": (64, 36)}
MODES = [
    {"obs_mode": "point_cloud", "num_points": 128},
    {"obs_mode": "point_cloud+state", "num_points": 64, "cloud": "clean", "goal_pos": True, "obs_delay": 2},
    {"obs_mode": "rgbd", "segmentation": True, **SMALL},
    {"obs_mode": "state_dict+rgbd+point_cloud", "cameras": ("kinect_1", "wrist_0"), "num_points": 32, **SMALL},
]


@pytest.mark.parametrize("options", MODES)
def test_checkers(options):
    env = gym.make(ID, backend="kinematic", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # SB3 warns of pictures smaller than its own network takes, and of depth that is not in 0 to 255
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized|minimal resolution|image).*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_a_union_has_the_keys_of_all():
    env = vector(2, obs_mode="point_cloud+state", num_points=50, goal_pos=True)
    observation, info = env.reset(seed=0)
    assert set(observation) == {"agent_pos", "goal_pos", "point_cloud", "state"}
    assert observation["point_cloud"].shape == (2, 50, 3) and observation["state"].shape == (2, 148)
    np.testing.assert_array_equal(observation["agent_pos"], observation["state"][:, :28])
    np.testing.assert_array_equal(observation["goal_pos"], observation["state"][:, 117:145])
    np.testing.assert_array_equal(observation["state"], vector(2).reset(seed=0)[0])
    assert (info["points_seen"] > 0).all() and observation["point_cloud"].dtype == np.float32
    # near the object
    apart = np.linalg.norm(observation["point_cloud"] - observation["state"][:, None, 56:59], axis=-1)
    assert apart.max() < 0.3


def test_pictures_of_several_cameras_are_named():
    env = vector(2, obs_mode="rgbd", cameras=("kinect_0", "wrist_1"), segmentation=True, **SMALL)
    observation, info = env.reset(seed=0, options={"calibration": True})
    names = {f"{kind}_{camera}" for kind in ("image", "depth", "segmentation") for camera in ("kinect_0", "wrist_1")}
    assert set(observation) == names | {"agent_pos"}
    assert observation["image_kinect_0"].shape == (2, 36, 64, 3)
    assert (observation["segmentation_kinect_0"] == 2).any(axis=(1, 2)).all()  # the object is in the picture
    assert not np.array_equal(observation["image_kinect_0"][0], observation["image_wrist_1"][0])
    assert info["_calibration"].all() and set(info["calibration"][1]) == {"kinect_0", "wrist_1"}
    before = {name: picture.copy() for name, picture in observation.items()}
    env.step(observation["agent_pos"])
    compare(before, observation)  # what was handed out stays as it was
    env.close()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_autoreset_is_that_of_gymnasiums_own_vector_env(mode):
    """Clouds, noise and delay in all autoreset modes: as in separate environments of the same seeds."""
    options = {"obs_mode": "point_cloud+state_dict", "num_points": 16, "obs_delay": 3, "pose_noise": PoseNoise()}
    assert beside_gymnasiums(mode, **options) > 1


def test_what_is_seen_comes_late_and_what_is_felt_does_not():
    options = {"obs_mode": "state_dict+point_cloud", "num_points": 20, "split": "test"}
    prompt, late = vector(2, **options), vector(2, obs_delay=3, **options)
    seen = [[env.reset(seed=1)[0]] for env in (prompt, late)]
    for _ in range(8):
        action = seen[0][-1]["agent_pos"] + 0.01
        for env, past in zip((prompt, late), seen, strict=True):
            past.append(env.step(action)[0])
    for t, (now, then) in enumerate(zip(*seen, strict=True)):
        for name in now:
            expected = seen[0][t if name in ("agent_pos", "agent_vel", "phase") else max(0, t - 3)]
            np.testing.assert_array_equal(then[name], expected[name], err_msg=f"{name} at {t}")
        assert not np.array_equal(now["object_pose"], then["object_pose"]) or t == 0


def test_a_delayed_world_forgets_the_episode_before():
    delay = Delay(2, ("own",))
    everywhere, second = torch.tensor([True, True]), torch.tensor([False, True])

    def show(value, moved, begun):
        parts = {name: torch.tensor([[value], [value + 0.5]]) for name in ("own", "seen")}
        return {name: part.squeeze(1).tolist() for name, part in delay.show(parts, moved, begun).items()}

    assert show(0.0, everywhere, everywhere)["seen"] == [0.0, 0.5]
    assert show(1.0, everywhere, ~everywhere)["seen"] == [0.0, 0.5]
    assert show(2.0, second, second) == {"own": [2.0, 2.5], "seen": [0.0, 2.5]}  # the first stands still
    assert show(3.0, everywhere, ~everywhere)["seen"] == [0.0, 2.5]
    assert show(4.0, everywhere, ~everywhere)["seen"] == [1.0, 2.5]
    assert show(5.0, everywhere, ~everywhere)["seen"] == [3.0, 3.5]


def test_measured_poses_err_as_told_and_goals_go_with_them():
    noise = PoseNoise(position=0.004, rotation=0.05, giver=0.01)
    options = {"obs_mode": "state_dict", "split": "test"}
    true, measured = vector(32, **options), vector(32, pose_noise=noise, **options)
    errors, turns, joints = [], [], []
    for seed in range(6):
        a, b = true.reset(seed=100 * seed)[0], measured.reset(seed=100 * seed)[0]
        np.testing.assert_array_equal(a["agent_pos"], b["agent_pos"])
        errors.append(b["object_pose"][:, :3] - a["object_pose"][:, :3])
        turns.append(quat_angle(*(torch.from_numpy(x["object_pose"][:, 3:]).double() for x in (a, b))))
        joints.append(b["giver_joints"] - a["giver_joints"])
        goals = []
        for x in (a, b):
            goal = torch.from_numpy(x["goal_state"]).double()
            pose = torch.cat((goal[:, :3], quat_from_axis_angle(goal[:, 3:6])), dim=-1)
            goals.append(pose_multiply(pose_inverse(torch.from_numpy(x["object_pose"]).double()), pose))
            apart = np.linalg.norm(x["goal_state"][:, :3] - x["agent_pos"][:, :3], axis=-1)
            np.testing.assert_allclose(x["goal_distance"][:, 0], apart, atol=1e-5)
        np.testing.assert_allclose(goals[0][:, :3], goals[1][:, :3], atol=1e-5)
    errors, joints, turns = np.concatenate(errors), np.concatenate(joints), torch.cat(turns)
    count = errors.size
    assert abs(errors.std() / 0.004 - 1) < 4 / np.sqrt(2 * count) and abs(errors.mean()) < 4 * 0.004 / np.sqrt(count)
    assert abs(joints.std() / 0.01 - 1) < 4 / np.sqrt(2 * joints.size)
    rms = float(turns.square().mean().sqrt())  # of three axes together
    assert abs(rms / (0.05 * np.sqrt(3)) - 1) < 4 / np.sqrt(2 * count)


def test_a_world_does_not_depend_on_its_neighbours():
    ids = ReplayStore.open("mini").ids("test")[:4]
    options = {"obs_mode": "point_cloud+state_dict", "num_points": 40, "pose_noise": PoseNoise(), "obs_delay": 1}

    def frames(which):
        env = vector(len(which), "kinematic", AutoresetMode.DISABLED, **options)
        seeds = [10 + i for i in which]
        observation, _ = env.reset(seed=seeds, options={"replay": [ids[i] for i in which]})
        seen = [observation]
        for _ in range(12):
            observation, *_ = env.step(observation["goal_state"])
            seen.append(observation)
        return {name: np.stack([x[name] for x in seen], axis=1) for name in observation}

    together = frames([0, 1, 2, 3])
    for which in ([2], [3, 0]):
        for name, value in frames(which).items():
            np.testing.assert_array_equal(value, together[name][which], err_msg=name)


def test_random_numbers_are_uniform_normal_and_of_their_key_alone():
    key = torch.randint(-(2**62), 2**62, (3000,), generator=torch.Generator().manual_seed(0))
    u, n = uniform(key, 1, 40), normal(key, 2, 40)
    count = u.numel()
    counts = torch.histc(u, 16, 0, 1)
    assert float(((counts - count / 16) ** 2 / (count / 16)).sum()) < 45  # chi^2 of 15, once in 10,000
    assert abs(float(n.mean())) < 4 / count**0.5 and abs(float(n.std()) - 1) < 4 / (2 * count) ** 0.5
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert torch.equal(uniform(key[5:9], 1, 10), u[5:9, :10])
    follow = uniform(torch.arange(3000), 1, 40)  # keys of successive frames
    for a, b in ((follow[1:], follow[:-1]), (u[:, 1:], u[:, :-1]), (uniform(key, 3, 40), u)):
        assert abs(float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])) < 4 / count**0.5


def test_memory_is_checked_before_anything_is_made(monkeypatch):
    options = make_options({"obs_mode": "rgbd", "image_size": (1280, 720), "obs_delay": 10})
    needed = estimate_memory(512, options)
    assert needed > 512 * 1280 * 720 * 7 * 11
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": needed + 1})())
    check_memory(512, options)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": needed // 2})())
    with pytest.raises(
        MemoryError, match=r"512 worlds with obs_mode 'rgbd' need about .* GB.*at most (\d+) worlds"
    ) as e:
        HandoverVectorEnv(512, obs_mode="rgbd", image_size=(1280, 720), obs_delay=10)
    fits = int(re.search(r"at most (\d+) worlds", str(e.value))[1])
    assert estimate_memory(fits, options) <= needed // 2 < estimate_memory(fits + 1, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_mode": "rgb"}, "state, state_dict, point_cloud, rgbd, or several joined by '+'"),
        ({"obs_mode": "state+state"}, "unknown obs_mode"),
        ({"cameras": ("kinect_9",)}, "unknown camera 'kinect_9'; choose from kinect_0"),
        ({"cloud_cameras": ()}, "different names of kinect_0"),
        ({"sampler": "grid"}, "choose one of random, farthest"),
        ({"cloud": "dirty"}, "choose one of observed, clean"),
        ({"num_points": 0}, "num_points must be 1 to 4096, got 0"),
        ({"obs_delay": -1}, "obs_delay must be 0 to 30, got -1"),
        ({"image_size": (4, 4)}, "a picture's size must be 8 to"),
        ({"crop": ((0, 0, 0), (1, 1, -1))}, "crop"),
    ],
)
def test_wrong_arguments_list_the_valid_ones(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HandoverVectorEnv(1, **options)


def test_noise_of_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="position of the pose noise must be 0 to"):
        PoseNoise(position=-0.1)


def test_an_overlay_writes_into_the_picture():
    plain, written = (gym.make(ID, render_mode="rgb_array", overlay=overlay) for overlay in (False, True))
    pictures = []
    for env in (plain, written):
        env.reset(seed=0)
        pictures.append(env.render().astype(int))
        env.close()
    changed = (np.abs(pictures[0] - pictures[1]).max(axis=-1) > 30).mean()
    assert 0.005 < changed < 0.3


def test_gymnasium_records_a_video_with_the_overlay(tmp_path):
    plain = gym.make(ID, render_mode="rgb_array")
    plain.reset(seed=0)
    env = RecordVideo(gym.make(ID, render_mode="rgb_array", overlay=True), str(tmp_path / "videos"))
    observation, _ = env.reset(seed=0)
    pictures = [env.render()]
    for _ in range(4):  # MoviePy rounds its length in seconds down: of 6 pictures it would write 5
        observation, *_ = env.step(observation[117:145])  # the goal
        pictures.append(env.render())
    env.close()
    with imageio.get_reader(next(tmp_path.glob("videos/*.mp4"))) as video:
        assert video.get_meta_data()["fps"] == 30
        frames = np.stack(list(video.iter_data())).astype(int)
    assert frames.shape == (5, 480, 640, 3)
    error = [[np.abs(frame - picture).mean() for picture in pictures] for frame in frames]
    np.testing.assert_array_equal(np.argmin(error, axis=1), range(5))  # each frame is that step's
    changed = np.abs(frames[0] - plain.render()).max(axis=-1) > 60
    plain.close()
    panel = changed[:120, :240]
    assert panel.mean() > 0.5 and changed.sum() < 1.02 * panel.sum()


def test_the_state_alone_is_as_before():
    assert HandoverVectorEnv(1, split="test").single_observation_space.shape == (sum(STATE_SHAPES.values()),)
