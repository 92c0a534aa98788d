"""The UR10e: kinematics with known answers, limits that hold, mink as the judge, the environment."""

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

from dexh2r_gym.arm.collision import capsule_clearance, self_clearance
from dexh2r_gym.arm.ik import palm_error, solve
from dexh2r_gym.arm.kinematics import (
    ARM_JOINTS,
    ARM_RANGE,
    ARM_SPEED,
    BASE_AXES,
    BASE_POSITION,
    PALM_OFFSET,
    arm_frames,
    arm_segments,
    dh_matrix,
    palm_jacobian,
    palm_pose,
)
from dexh2r_gym.arm.mjspec import ARM_JOINT_NAMES, PALM_SITE, add_arm
from dexh2r_gym.arm.motion import MARGIN, REASONS, move
from dexh2r_gym.arm.robot import ArmRobot
from dexh2r_gym.arm.start import start_joints
from dexh2r_gym.arm.surroundings import Surroundings
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import load_object
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import quat_angle, quat_from_matrix, quat_to_matrix
from dexh2r_gym.types import split_hand_state

DT = 1 / 30
STEP = ARM_SPEED * DT
BASE = torch.tensor(BASE_POSITION, dtype=torch.float64)
AXES = torch.tensor(BASE_AXES, dtype=torch.float64).T  # columns
READY = torch.tensor([0.3, -1.2, 1.6, -0.6, 1.2, 0.4], dtype=torch.float64)  # bent, far from any limit

angles = st.lists(st.floats(-2 * math.pi, 2 * math.pi), min_size=6, max_size=6)
small = st.lists(st.floats(-0.06, 0.06), min_size=6, max_size=6)


def joints_of(values):
    return torch.tensor([values], dtype=torch.float64)


@settings(deadline=None)
@given(angles)
def test_forward_kinematics_is_the_product_of_dh_matrices(values):
    product = torch.eye(4, dtype=torch.float64)
    for joint, angle in zip(ARM_JOINTS, values, strict=True):
        product = product @ dh_matrix(joint, angle)
    position = product[:3, 3] + PALM_OFFSET * product[:3, 2]
    pose = palm_pose(arm_frames(joints_of(values)))[0]
    torch.testing.assert_close(pose[:3], BASE + AXES @ position, rtol=0, atol=1e-12)
    torch.testing.assert_close(quat_to_matrix(pose[3:]), AXES @ product[:3, :3], rtol=0, atol=1e-12)


def test_stretched_along_its_base():
    """At zero, the published arm lies along -x: a2 + a3 = -1.18425 m, and the wrist d4, d6 and the hand beside it."""
    pose = palm_pose(arm_frames(torch.zeros(1, 6, dtype=torch.float64)))[0]
    flange = torch.tensor([-0.6127 - 0.57155, -0.17415 - 0.11655 - PALM_OFFSET, 0.1807 - 0.11985], dtype=torch.float64)
    torch.testing.assert_close(pose[:3], BASE + AXES @ flange, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(angles)
def test_the_jacobian_is_the_derivative(values):
    joints, h = joints_of(values), 1e-6
    jacobian = palm_jacobian(arm_frames(joints))[0]
    for i in range(6):
        step = h * torch.eye(6, dtype=torch.float64)[i]
        a, b = palm_pose(arm_frames(joints - step)), palm_pose(arm_frames(joints + step))
        error = palm_error(arm_frames(joints - step), b)[0] / (2 * h)
        torch.testing.assert_close(jacobian[:3, i], (b - a)[0, :3] / (2 * h), rtol=0, atol=1e-6)
        torch.testing.assert_close(0.2 * jacobian[3:, i], error[3:], rtol=0, atol=1e-6)


def mujoco_arm():
    spec = mujoco.MjSpec()
    add_arm(spec, visuals=False)
    return spec.compile()


def test_mujocos_arm_is_the_same_arm():
    model = mujoco_arm()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    site = model.site(PALM_SITE).id
    for _ in range(20):
        q = rng.uniform(-3, 3, 6)
        data.qpos[[model.joint(name).qposadr[0] for name in ARM_JOINT_NAMES]] = q
        mujoco.mj_kinematics(model, data)
        frames = arm_frames(torch.from_numpy(q[None]))
        pose = palm_pose(frames)[0]
        np.testing.assert_allclose(data.site_xpos[site], pose[:3], atol=1e-9)
        np.testing.assert_allclose(data.site_xmat[site].reshape(3, 3), quat_to_matrix(pose[3:]), atol=1e-9)
        middles = sum(arm_segments(frames))[0, :-1] / 2
        np.testing.assert_allclose(data.geom_xpos, middles, atol=1e-9)
    assert model.jnt_range[:, 1] == pytest.approx(ARM_RANGE.numpy())


@settings(deadline=None)
@given(st.floats(-1, 1), small)
def test_inverse_then_forward_gives_the_target(shift, values):
    """Within reach and a frame's way of where the arm is: to a tenth of a millimetre."""
    joints = READY[None] + shift * torch.tensor([1, 0.3, 0.3, 1, 0.2, 1], dtype=torch.float64)
    target = palm_pose(arm_frames(joints + joints_of(values)))
    found = palm_pose(arm_frames(solve(joints, target)))
    assert (found[:, :3] - target[:, :3]).norm() < 1e-4
    assert quat_angle(found[:, 3:], target[:, 3:]) < 1e-3


@settings(max_examples=50, deadline=None)
@given(angles, st.lists(st.floats(-2, 2), min_size=3, max_size=3), angles)
def test_no_target_takes_the_arm_past_its_limits(values, position, turn):
    """Ranges, speeds and, from where it was clear, its own body; for any target, reachable or not."""
    before = torch.maximum(torch.minimum(joints_of(values), ARM_RANGE), -ARM_RANGE)
    clear = bool(self_clearance(arm_frames(before)) >= MARGIN)
    rotation = palm_pose(arm_frames(joints_of(turn)))[:, 3:]
    target = torch.cat((torch.tensor([position], dtype=torch.float64), rotation), dim=-1)
    at = before
    for _ in range(3):
        after, _, _ = move(at, target, STEP)
        assert ((after - at).abs() <= STEP + 1e-12).all() and (after.abs() <= ARM_RANGE + 1e-12).all()
        at = after
        assert not clear or self_clearance(arm_frames(at)) >= MARGIN


def follow(joints, target, frames):
    at, far, reason = joints, None, None
    for _ in range(frames):
        at, far, reason = move(at, target, STEP)
    return at, bool(far), REASONS[int(reason)]


def test_out_of_reach_it_ends_stretched():
    """Two metres further out than it is: upper arm and forearm in line, and told why."""
    frames = arm_frames(READY[None])
    out = frames.position[0, 4] - frames.position[0, 2]  # from shoulder to wrist
    target = palm_pose(frames)
    target[0, :3] += 2.0 * out / out.norm()
    at, far, reason = follow(READY[None], target, 300)
    assert far and reason == "reach"
    frames = arm_frames(at)
    wrist = (frames.position[0, 4] - frames.position[0, 2]).norm()  # from shoulder to wrist
    assert wrist == pytest.approx(0.6127 + 0.57155, abs=2e-3)


def test_too_fast_it_says_speed_and_arrives_later():
    goal = READY.clone()
    goal[0] += 0.5  # 7.2 frames of the base at 120 degrees a second
    target = palm_pose(arm_frames(goal[None]))
    at = READY[None]
    told = []
    for _ in range(12):
        at, far, reason = move(at, target, STEP)
        told.append(REASONS[int(reason)] if far else "")
    assert told[0] == "speed" and told[-1] == ""
    assert 6 <= sum(t == "speed" for t in told) <= 9
    torch.testing.assert_close(at[0], goal, rtol=0, atol=1e-3)


def test_at_the_end_of_a_joint_it_says_so():
    joints = READY.clone()
    joints[5] = 2 * math.pi - 0.02
    goal = joints.clone()
    goal[5] += 0.3
    _, far, reason = follow(joints[None], palm_pose(arm_frames(goal[None])), 5)
    assert far and reason == "joint range"


def test_it_stops_before_it_runs_into_itself():
    """The hand is told to go into the column."""
    joints = READY[None]
    target = palm_pose(arm_frames(joints)).clone()
    target[0, :3] = BASE + AXES @ torch.tensor([0.0, 0.25, -0.16], dtype=torch.float64)
    stopped = False
    for _ in range(90):
        joints, far, reason = move(joints, target, STEP)
        assert self_clearance(arm_frames(joints)) >= MARGIN
        stopped |= bool(far) and REASONS[int(reason)] == "self collision"
    assert stopped


def test_a_folded_arm_meets_itself_and_an_open_one_does_not():
    folded = torch.tensor([[0.0, 0.0, math.pi, 0.0, 0.0, 0.0]], dtype=torch.float64)  # forearm back on the upper arm
    assert self_clearance(arm_frames(folded)) < 0
    assert self_clearance(arm_frames(READY[None])) > 0.02


def test_clearance_of_a_ball_by_hand():
    frames = arm_frames(READY[None])
    p0, p1 = arm_segments(frames)
    elbow = p1[0, 5] + torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64)  # 0.3 m beside the upper arm's end
    ball = elbow[None, None]
    clearance = capsule_clearance(frames, ball, ball, torch.full((1, 1), 0.05, dtype=torch.float64))
    assert 0 < clearance <= 0.3 - 0.05 - 0.055
    inside = p0[:, 11:12]  # on the axis of the hand's forearm
    assert capsule_clearance(frames, inside, inside, inside.new_zeros(1, 1)) == pytest.approx(-0.06)


def test_forearm_in_the_object_and_in_the_giver_is_seen():
    frames = arm_frames(READY[None])
    forearm = arm_segments(frames)[0][0, 11]
    there = torch.cat((forearm, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)))[None]
    away = there + torch.tensor([5.0, 0, 0, 0, 0, 0, 0])
    surroundings = Surroundings(1)
    giver = GiverHand()
    surroundings.begin(torch.tensor([0]), [load_object("thermos")], [giver])
    bones = giver.bone_poses(torch.zeros(1, 61, dtype=torch.float64))
    at = bones.clone()
    at[..., :3] += forearm - bones[:, :1, :3]
    for thing, hand, meets in ((there, bones + 9, True), (away, bones + 9, False), (away, at, True)):
        hand = torch.cat((hand[..., :3], bones[..., 3:]), dim=-1)  # 9 m away, or with the wrist there
        assert surroundings.meet(torch.tensor([0]), frames, thing, hand).tolist() == [meets]


def test_every_start_of_mini_can_be_reached():
    store = ReplayStore.open("mini")
    for replay_id in store.ids()[::12]:
        pose = split_hand_state(store.replay(replay_id).hand_start.double()[None])[0]
        frames = arm_frames(start_joints(pose))
        assert palm_error(frames, pose).norm() < 1e-3 and self_clearance(frames) >= MARGIN


def test_starts_are_always_the_same():
    pose = palm_pose(arm_frames(READY + torch.tensor([[0.0] * 6, [0.3] * 6, [-0.2] * 6])))
    together = start_joints(pose)
    assert torch.equal(together, start_joints(pose)) and torch.equal(together[1:2], start_joints(pose[1:2]))


def test_one_world_has_the_same_bits_beside_seven_others():
    random = torch.Generator().manual_seed(1)
    starts = palm_pose(arm_frames(READY + 0.3 * torch.randn(8, 6, generator=random, dtype=torch.float64)))
    ways = 0.03 * torch.randn(25, 8, 3, generator=random, dtype=torch.float64)
    objects, givers = [load_object("thermos")] * 8, [GiverHand()] * 8

    def run(which):
        n = len(which)
        robot = ArmRobot(n, DT)
        pose = robot.begin(torch.arange(n), starts[which], objects[:n], givers[:n])
        for way in ways:
            pose = robot.follow(torch.cat((pose[:, :3] + way[which], pose[:, 3:]), dim=-1), torch.ones(n) > 0)
        return robot.joints

    together = run(list(range(8)))
    for i in (0, 5):
        assert torch.equal(run([i])[0], together[i])


def test_a_world_that_is_off_stands_still():
    robot = ArmRobot(2, DT)
    start = palm_pose(arm_frames(READY.expand(2, 6)))
    robot.begin(torch.arange(2), start, [load_object("thermos")] * 2, [GiverHand()] * 2)
    before = robot.joints.clone()
    target = start.clone()
    target[:, 2] += 0.03
    robot.follow(target, torch.tensor([True, False]))
    assert torch.equal(robot.joints[1], before[1]) and not torch.equal(robot.joints[0], before[0])
    assert robot.frames.tolist() == [1, 0] and robot.reason(1) == ""


def test_mink_finds_the_same_joints():
    """Its own quadratic program with the same limits, on ways that both can follow: the same joints."""
    mink = pytest.importorskip("mink")
    model = mujoco_arm()
    configuration = mink.Configuration(model)
    task = mink.FrameTask(PALM_SITE, "site", position_cost=1.0, orientation_cost=0.2, lm_damping=1e-6)
    limits = [
        mink.ConfigurationLimit(model),
        mink.VelocityLimit(model, dict(zip(ARM_JOINT_NAMES, ARM_SPEED.tolist(), strict=True))),
    ]
    ours = READY[None].clone()
    configuration.update(READY.numpy().copy())
    start = palm_pose(arm_frames(ours))[0]
    for t in range(1, 31):
        target = start.clone()
        target[:3] += torch.tensor([0.25, 0.15, -0.2]) * t / 30
        ours, far, _ = move(ours, target[None], STEP)
        assert not far
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = quat_to_matrix(target[3:]).numpy(), target[:3].numpy()
        task.set_target(mink.SE3.from_matrix(matrix))
        for _ in range(10):
            velocity = mink.solve_ik(configuration, [task], DT, "daqp", damping=1e-9, limits=limits)
            configuration.integrate_inplace(velocity, DT)
        np.testing.assert_allclose(ours[0].numpy(), configuration.q, atol=1e-3)


def test_matrices_and_quaternions_agree():
    assert quat_angle(quat_from_matrix(AXES), torch.tensor([math.sqrt(0.5), -math.sqrt(0.5), 0, 0])) < 1e-6


# the environment


def worlds(num_envs, **options):
    options = {"split": "test", "released_metrics": False, "num_threads": 1, "robot": "ur10e"} | options
    return HandoverVectorEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


def test_the_hand_keeps_within_the_speeds_of_the_arm_and_the_end_says_so():
    env = worlds(2)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    joints = [env.task.arm.joints.clone()]
    info = {}
    while "succ" not in info:
        action = np.concatenate((rng.uniform((-1, -1, 0), (1, 1, 2), (2, 3)), rng.uniform(-3, 3, (2, 25))), axis=1)
        *_, info = env.step(np.clip(action, env.single_action_space.low, env.single_action_space.high))
        joints.append(env.task.arm.joints.clone())
        away = (palm_pose(arm_frames(joints[-1]))[:, :3] - env.task.scene.hand_pose[:, :3]).norm(dim=-1)
        assert (away < 0.06).all(), "the palm's servo is where the arm is"
    speed = (torch.stack(joints).diff(dim=0).abs() / DT).amax(dim=(0, 1))
    assert (speed <= ARM_SPEED + 1e-9).all()
    world = int(np.flatnonzero(info["_succ"])[0])
    assert 0 < info["arm_limited"][world] <= 1 and 0 <= info["arm_touch"][world] <= 1
    assert info["arm_reason"][world] in REASONS
    record = env.episode_record(world)
    assert record["arm_limited"] == info["arm_limited"][world] and record["arm_reason"] in REASONS


def test_the_environment_does_not_depend_on_neighbours():
    def run(n):
        env = worlds(n)
        observation, _ = env.reset(seed=0, options={"replay": env.replay_ids[:n]})
        for _ in range(25):
            observation, *_ = env.step(observation[:, 117:145])
        return observation[0]

    np.testing.assert_array_equal(run(1), run(4))


def test_kinematic_cannot_and_says_who_can():
    with pytest.raises(ValueError, match=re.escape("backend 'kinematic' cannot do robot 'ur10e'; these can: mujoco")):
        worlds(1, backend="kinematic")
    with pytest.raises(ValueError, match="unknown robot 'ur5'; choose one of floating, ur10e"):
        worlds(1, robot="ur5")


def test_checkers():
    env = gym.make("DexH2R-Handover-v0", robot="ur10e", control_mode="delta", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized).*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_the_arm_is_in_pictures():
    pictures = []
    for robot in ("floating", "ur10e"):
        env = worlds(1, robot=robot, obs_mode="rgbd", segmentation=True, cameras=("kinect_0", "kinect_1"))
        observation, _ = env.reset(seed=0, options={"replay": env.replay_ids[0]})
        pictures.append([(observation[f"segmentation_kinect_{i}"] == 1).sum() for i in range(2)])
        env.close()
    floating, arm = pictures
    assert sum(arm) > 1.5 * sum(floating)
