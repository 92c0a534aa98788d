"""The physical handover: the robot's side by hand, the giver's way out, and whole episodes with physics."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.receive import (
    CLOSE_TIME,
    DROP_DISTANCE,
    GRAVITY,
    HOLD_TIME,
    LIFT_TIME,
    LOAD_FRAMES,
    SETTLE_TIME,
    SHAKE_DISTANCE,
    SHAKE_TIME,
    SHAKES,
    Outcome,
    Phase,
    Receive,
    max_frames,
    shake,
)
from dexh2r_gym.evaluate import evaluate, score
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.letting_go import OPEN_TIME, WITHDRAW_DISTANCE, WITHDRAW_TIME, let_go
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.objects.library import load_object
from dexh2r_gym.rotations import pose_apply, quat_angle
from dexh2r_gym.sim.kinematic import KinematicSimulator
from policies.scripted import ScriptedExpert

ID, FPS = "DexH2R-Handover-v0", 30
OBJECT = load_object("banana")


# --------------------------------------------------------------------------------------------------- the robot by hand
class ByHand:
    """Two worlds in which hand and object are where the test puts them."""

    def __init__(self, late: tuple[int, int] = (0, 0)):
        self.scene = KinematicSimulator(2, 1 / FPS).state
        self.receive = Receive(2, 1 / FPS)
        self.time = torch.zeros(2, dtype=torch.long)
        worlds, still = torch.arange(2), self.scene.hand_pose
        grasp = still.clone(), OPEN_HAND.double().expand(2, -1)
        self.receive.begin(
            worlds, (still, grasp[1]), grasp, self.scene.object_pose, ObjectBatch([OBJECT]), 0 * worlds,
            torch.tensor(late),
        )  # fmt: skip

    def frames(self, count: int, weights: float = 0.0, slip: float = 0.0) -> list[int]:
        """So many frames in which the robot carries so many weights of the object, which has moved by slip metres in
        the hand of world 1. -> in how many frames each world's giver let go"""
        gone = []
        for _ in range(count):
            self.scene.load[:, 2] = weights * GRAVITY * OBJECT.mass
            self.scene.object_pose[1, 0] = slip
            pose, _ = self.receive.command(torch.arange(2), self.scene)
            self.time += 1
            gone += self.receive.look(torch.arange(2), self.scene, pose, self.time).tolist()
        return gone


CLOSING_FRAMES = int(np.ceil((CLOSE_TIME + SETTLE_TIME) * FPS - 1e-9))


def test_giver_lets_go_once_the_robot_has_carried_the_weight_for_some_frames():
    hand = ByHand()
    assert hand.frames(CLOSING_FRAMES, weights=3.0) == []  # while the fingers close, no load makes the giver let go
    assert (hand.receive.phase == Phase.LIFTING).all() and hand.receive.held.all()
    assert hand.frames(10, weights=0.9) == [] and hand.frames(LOAD_FRAMES - 1, weights=1.1) == []
    assert hand.frames(1, weights=0.9) == [] and hand.frames(LOAD_FRAMES, weights=1.1) == [0, 1]  # it counts anew
    assert (hand.receive.phase == Phase.HOLDING).all() and not hand.receive.held.any()
    assert (hand.receive.release_frame == hand.time).all()


def test_a_robot_that_never_carries_it_is_not_given_the_object():
    hand = ByHand()
    hand.frames(CLOSING_FRAMES + round(LIFT_TIME * FPS) - 1, weights=0.5)
    assert not hand.receive.over.any()
    hand.frames(1, weights=0.5)
    assert hand.receive.over.all() and (hand.receive.outcome == Outcome.NOT_RELEASED).all()


def test_an_object_that_stays_through_hold_and_shake_is_held_and_one_that_moves_is_dropped():
    hand = ByHand()
    hand.frames(CLOSING_FRAMES + LOAD_FRAMES, weights=1.5)
    assert not hand.receive.held.any()
    hand.frames(15, slip=0.9 * DROP_DISTANCE)
    assert not hand.receive.over.any()
    assert hand.receive.slip.tolist() == pytest.approx([0.0, 0.9 * DROP_DISTANCE])
    hand.frames(1, slip=1.1 * DROP_DISTANCE)
    assert hand.receive.outcome.tolist() == [0, Outcome.DROPPED] and hand.receive.over.tolist() == [False, True]
    assert hand.receive.drop_time[1] == pytest.approx(16 / FPS) and hand.receive.drop_time[0].isinf()
    frames = round(HOLD_TIME * FPS) + round(len(SHAKES) * SHAKE_TIME * FPS)
    hand.frames(frames - 17)
    assert hand.receive.outcome[0] == 0 and hand.receive.phase[0] == Phase.SHAKING
    hand.frames(1)
    assert hand.receive.outcome[0] == Outcome.HELD
    results = hand.receive.results(torch.arange(2))
    assert results["held"].tolist() == [True, False]
    assert hand.receive.record(1)["outcome"] == "DROPPED"
    assert int(hand.time[0]) <= max_frames(FPS)


def test_early_and_late_givers():
    hand = ByHand(late=(-6, 6))
    assert hand.frames(CLOSING_FRAMES - 7) == [] and hand.frames(2) == [0]  # before the robot has begun to lift
    assert hand.frames(5 + LOAD_FRAMES + 5, weights=1.5) == [] and hand.frames(1, weights=1.5) == [1]


def test_the_hand_gives_way_to_what_it_pushes_against_while_it_closes():
    hand = ByHand()
    hand.frames(CLOSING_FRAMES, weights=4.0)
    pose, _ = hand.receive.command(torch.arange(2), hand.scene)
    assert (pose[:, 2] < -0.0002).all()  # the robot pushed the object up, so it went down itself


def test_shake_goes_out_and_back_along_six_directions():
    time = torch.linspace(0, len(SHAKES) * SHAKE_TIME, 601, dtype=torch.float64)
    way = shake(time)
    assert way.abs().max() == pytest.approx(SHAKE_DISTANCE)
    for i, direction in enumerate(SHAKES):
        own = way[100 * i : 100 * (i + 1)]
        assert (own @ torch.tensor(direction, dtype=torch.float64)).min() >= 0  # on its own side only
        assert own[0].norm() < 1e-6
    acceleration = (way[2:] - 2 * way[1:-1] + way[:-2]) / (time[1] - time[0]) ** 2
    assert acceleration.norm(dim=-1)[5:95].max() == pytest.approx(4.93, abs=0.05)  # half of gravity


# --------------------------------------------------------------------------------------------------- the giver lets go
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_giver_opens_the_hand_and_draws_back_on_the_clear_side(side):
    hand = GiverHand(side)
    pose = torch.full((45,), 0.0, dtype=torch.float64)
    pose[2::9] = 0.8 if side == "right" else -0.8  # first joints flexed
    wrist = torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
    upright = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    bones = hand.bone_poses(hand.mano(wrist, upright, pose))
    wall = torch.tensor([0.0, 0.05, 0.0], dtype=torch.float64) + wrist  # behind the back of the hand, its first choice
    far = torch.full((1, 3), 9.0, dtype=torch.float64)
    free = let_go(hand, bones, 1 / FPS, lambda p: torch.full(p.shape[:1], 1.0, dtype=torch.float64), far)
    walled = let_go(hand, bones, 1 / FPS, lambda p: wall[1] - p[:, 1], far)
    assert len(free) == round((OPEN_TIME / 2 + WITHDRAW_TIME) * FPS)
    for way in (free, walled):
        assert (way[-1, 0, :3] - wrist).norm() == pytest.approx(WITHDRAW_DISTANCE)
        steps = torch.cat((bones[None, 0, :3], way[:, 0, :3])).diff(dim=0).norm(dim=-1)
        assert steps.max() < 0.03  # m a frame: no jump
        assert quat_angle(way[-1, 1, 3:], way[-1, 0, 3:]) < 0.2 * 0.8  # the fingers are open
    assert free[-1, 0, 1] > wrist[1] + 0.05  # by the back of the hand
    tips = pose_apply(walled[:, 3::3], (hand.rest_tips - hand.rest_joints[3::3]).expand(len(walled), 5, 3))
    assert walled[-1, 0, 1] < wrist[1] + 0.02 and tips[..., 1].max() < wall[1]


def test_the_giver_keeps_off_the_robot():
    hand = GiverHand("right")
    wrist, upright = torch.tensor([0.0, 0, 1], dtype=torch.float64), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    bones = hand.bone_poses(hand.mano(wrist, upright))
    robot = wrist + torch.tensor([[-0.05, 0.06, 0.0], [0.05, 0.06, 0.0]], dtype=torch.float64)  # above its back
    way = let_go(hand, bones, 1 / FPS, lambda p: torch.full(p.shape[:1], 1.0, dtype=torch.float64), robot)
    assert torch.cdist(way[..., :3].reshape(-1, 3), robot).min() > 0.03


# ------------------------------------------------------------------------------------------------------- with physics
def episodes(num_envs: int, ids: list[str], **options) -> dict[str, dict]:
    """Scripted episodes of these trials with ending hold: records by id."""
    env = HandoverVectorEnv(
        num_envs, autoreset_mode=AutoresetMode.DISABLED, split="test", released_metrics=False, ending="hold", **options
    )
    agent, records, waiting = ScriptedExpert(env), {}, list(ids)
    while waiting:
        now = [waiting.pop(0) for _ in range(min(num_envs, len(waiting)))]
        now += [now[-1]] * (num_envs - len(now))
        observation, _ = env.reset(seed=0, options={"replay": now})
        state, start, ended = None, np.ones(num_envs, bool), np.zeros(num_envs, bool)
        while not ended.all():
            action, state = agent.predict(observation, state, start)
            observation, _, terminated, truncated, _ = env.step(action)
            start, ended = np.zeros(num_envs, bool), terminated | truncated
        records |= {name: env.episode_record(i) for i, name in enumerate(now)}
    env.close()
    return records


def test_same_bits_in_1_and_8_worlds_and_with_1_or_2_threads():
    ids = HandoverVectorEnv(1, split="test").replay_ids[:8]
    first = episodes(8, ids, num_threads=1)
    assert {r["outcome"] for r in first.values()} & {"HELD"}
    for other in (episodes(8, ids, num_threads=2), episodes(1, ids[3:5]), episodes(3, ids[:3])):
        for name, record in other.items():
            for key, value in record.items():
                np.testing.assert_array_equal(value, first[name][key], err_msg=f"{name} {key}")


def test_an_episode_goes_from_approach_to_the_shake_and_the_paper_counts_the_approach_alone(tmp_path):
    def rolled(name: str, **options) -> dict:
        report = evaluate(
            lambda env, seed: ScriptedExpert(env), out=tmp_path / name, split="test", num_envs=16, progress=False,
            agent_name="scripted", **options,
        )  # fmt: skip
        return {"report": report, "rows": [json.loads(x) for x in (tmp_path / name / "episodes.jsonl").open()]}

    grasp, hold = rolled("grasp"), rolled("hold", ending="hold")
    for a, b in zip(grasp["rows"], hold["rows"], strict=True):  # what the paper measures does not depend on the ending
        for key in ("succ", "safe", "pen_dep", "infer_fr", "traj_len", "succ_released", "end_frame"):
            assert a[key] == b[key], (a["replay"], key)
    assert grasp["report"]["handover"] is None
    found = hold["report"]["handover"]
    assert found["held"]["value"] >= 90.0  # what the physical handover is to reach
    assert hold["report"]["safety"]["safe_force"]["value"] >= 99.0
    assert score(tmp_path / "hold")["handover"] == found
    held = next(row["replay"] for row in hold["rows"] if row["held"])
    with np.load(tmp_path / "hold" / "episodes" / f"{held.replace('/', '%2F')}.npz") as record:
        phases = record["phase"].astype(int)
        assert sorted(set(phases.tolist())) == list(range(6)) and (np.diff(phases) >= 0).all()
        bones, release = record["giver_bones"], int(record["release_frame"])
        assert np.linalg.norm(bones[-1, 0, :3] - bones[release, 0, :3]) == pytest.approx(WITHDRAW_DISTANCE, abs=1e-5)
        assert len(phases) > int(record["approach_frames"]) + HOLD_TIME * FPS


def test_env_checkers_pass_with_the_handover_on():
    env = gym.make(ID, ending="hold", split="test")
    check_env(env.unwrapped, skip_render_check=True)
    check_env_sb3(env.unwrapped)


def test_a_backend_without_physics_names_those_with():
    with pytest.raises(ValueError, match=r"kinematic.*ending='hold'.*mujoco"):
        gym.make(ID, ending="hold", backend="kinematic")
    with pytest.raises(ValueError, match="grasp, hold"):
        gym.make(ID, ending="drop")


@pytest.mark.parametrize("reward_mode", ["dense", "sparse"])
def test_reward_of_an_object_that_is_held(reward_mode):
    env = gym.make_vec(
        ID, num_envs=1, ending="hold", split="test", reward_mode=reward_mode, autoreset_mode=AutoresetMode.DISABLED,
        vectorization_mode="vector_entry_point",
    ).unwrapped  # fmt: skip
    agent = ScriptedExpert(env)
    observation, _ = env.reset(options={"replay": "s02/banana/000"})
    state, rewards, ended = None, [], False
    while not ended:
        action, state = agent.predict(observation, state, np.array([state is None]))
        observation, reward, terminated, _, info = env.step(action)
        rewards.append(reward[0])
        ended = terminated[0]
    assert info["held"][0] and info["status"][0] == "REACHED"
    end = int(info["end_frame"][0]) - 1
    if reward_mode == "sparse":
        assert sum(rewards) == 1.0 and rewards[-1] == 1.0
    else:
        assert rewards[end] > 9.0 and rewards[-1] == pytest.approx(10.0, abs=0.1)


def test_physics_that_diverges_in_the_hand_ends_that_world_alone():
    ids = ["s02/banana/000", "s02/aerosol_can/000"]
    alone = episodes(1, ids[1:])
    env = HandoverVectorEnv(2, autoreset_mode=AutoresetMode.DISABLED, split="test", ending="hold")
    agent = ScriptedExpert(env)
    observation, _ = env.reset(seed=0, options={"replay": ids})
    state, start, ended = None, np.ones(2, bool), np.zeros(2, bool)
    while not ended.all():
        action, state = agent.predict(observation, state, start)
        observation, _, terminated, truncated, info = env.step(action)
        if env.task.phase[0] == Phase.HOLDING:
            env.task._sim._qvel[0] = torch.nan
        start, ended = np.zeros(2, bool), terminated | truncated
        if info.get("_outcome", start)[0]:
            assert info["outcome"][0] == "DIVERGED" and not info["held"][0] and info["succ"][0]
    record = env.episode_record(0)
    assert record["outcome"] == "DIVERGED" and "became invalid" in record["reason"]
    assert all(np.isfinite(record[name]).all() for name in ("hand_state", "object_pose", "giver_peak", "load"))
    for key, value in env.episode_record(1).items():
        np.testing.assert_array_equal(value, alone[ids[1]][key], err_msg=key)


def test_a_run_cut_short_goes_on_to_the_same_bits(tmp_path):
    def rolled(name: str, **options) -> dict[str, dict]:
        run = evaluate(
            lambda env, seed: ScriptedExpert(env), out=tmp_path / name, split="validation", progress=False,
            ending="hold", agent_name="scripted", giver={"hesitation": 0.5, "release": 0.2},
            randomisation={"friction": 0.3, "mass": 0.3}, **options,
        )  # fmt: skip
        assert run["handover"]["held"]["value"] > 50
        files = sorted((tmp_path / name / "episodes").iterdir())
        return {file.name: dict(np.load(file)) for file in files}

    whole = rolled("whole", num_envs=9)
    for file in list((tmp_path / "whole" / "episodes").iterdir())[::3]:
        file.unlink()
    again = rolled("whole", num_envs=4)
    assert whole.keys() == again.keys()
    for name, record in whole.items():
        for key, value in record.items():
            np.testing.assert_array_equal(value, again[name][key], err_msg=f"{name} {key}")
