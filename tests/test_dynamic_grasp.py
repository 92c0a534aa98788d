"""The pipeline agent, and the end of an episode by a grasp of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from dexh2r_gym.alignment import advance
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.own_grasp import STILL_FRAMES, Hands, OwnGrasps
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps.filters import Fallback
from dexh2r_gym.grasps.generators import load_generator
from dexh2r_gym.hand import OPEN_HAND, surface_points
from dexh2r_gym.objects import ObjectBatch, load_object
from dexh2r_gym.rotations import pose_multiply, quat_angle, quat_conjugate, quat_from_axis_angle, quat_rotate
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.approach import ApproachModel, ApproachState
from policies.dynamic_grasp import PRIVILEGED, DynamicGrasp, _shallow
from policies.dynamic_grasp_state import alike, notice_held_up
from policies.goal_proposals import cloud_depth, giver_gap, propose_goals
from tests.grasp_cases import FLAT_HAND, RADIUS, beside_palm, cage

CAN = ObjectBatch([load_object("aerosol_can")])
FAR = torch.tensor([5.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)


@dataclass(frozen=True)
class _Config:
    observed: int = 1
    executed: int = 1


class Straight(ApproachModel):
    """Goes straight to its goal at 1.5 cm and 0.08 rad a frame, the fingers open."""

    needs = ("agent_pos", "goal_pos")

    def __init__(self):
        super().__init__()
        self.config = _Config()

    def loss(self, batch, generator):
        return {}

    def plan(self, seen, key):
        pose, joints = split_hand_state(seen["agent_pos"][:, -1].double())
        goal, _ = split_hand_state(seen["goal_pos"][:, -1].double())
        move = 0.015 / (goal[:, :3] - pose[:, :3]).norm(dim=-1, keepdim=True).clamp_min(0.015)
        turn = 0.08 / quat_angle(pose[:, 3:], goal[:, 3:])[:, None].clamp_min(0.08)
        part = torch.cat((move, turn, torch.full_like(move, 0.2)), dim=-1)
        return join_hand_state(*advance(pose, joints, goal, OPEN_HAND.expand_as(joints), part))[:, None]


def hold(grasps, pose, joints, told=None, depth=0.0, frames=STILL_FRAMES + 1, giver=None):
    """In which of so many frames a hand in this place proves to hold the can."""
    bones = (FAR if giver is None else giver).expand(1, 16, 7)
    said = []
    for _ in range(frames):
        hands = Hands(pose, joints, pose if told is None else told, joints, torch.tensor([depth]), bones)
        said.append(grasps.hold(torch.tensor([0]), hands, torch.tensor([0]), CAN, [GiverHand("right")])[0].item())
    return said


def test_a_hand_that_stands_in_a_stable_grasp_is_told_once():
    pose, joints = cage()
    assert hold(OwnGrasps(1), pose, joints, frames=9) == [False] * STILL_FRAMES + [True, False, False, False]


def test_a_new_episode_and_a_new_rest_are_tested_anew():
    grasps, (pose, joints) = OwnGrasps(1), cage()
    assert hold(grasps, pose, joints)[-1]
    moved = pose.clone()
    moved[:, 0] += 0.004
    assert not any(hold(grasps, moved, joints, frames=1))
    assert hold(grasps, pose, joints)[-1]
    grasps.begin(torch.tensor([0]))
    assert hold(grasps, pose, joints) == [False] * STILL_FRAMES + [True]


def test_a_hand_that_holds_nothing_moves_or_sinks_in_does_not_end_the_episode():
    pose, joints = cage()
    away = pose.clone()
    away[:, 1] += 0.5
    assert not any(hold(OwnGrasps(1), away, joints))
    back = beside_palm(0.012 + RADIUS)  # the can lies on the back of the hand
    assert not any(hold(OwnGrasps(1), back, FLAT_HAND[None]))
    assert not any(hold(OwnGrasps(1), pose, joints, depth=0.01))
    assert not any(hold(OwnGrasps(1), pose, joints, giver=pose[0]))  # the giver's hand is where the palm is
    grasps, said = OwnGrasps(1), []
    for frame in range(10):  # the hand stands, its command creeps
        told = pose.clone()
        told[:, 0] += 0.002 * frame
        said += hold(grasps, pose, joints, told=told, frames=1)
    assert not any(said)


def test_depth_in_a_cloud_is_that_of_the_solid():
    pose, joints = cage()
    points, normals = surface_points(pose, joints)[:2]
    inside = (points - 0.004 * normals)[:, :128]  # of the palm
    outside = points[:, :128] + 0.02 * normals[:, :128]
    assert cloud_depth(pose, joints, outside[:, :1]).item() == 0.0
    deep = cloud_depth(pose, joints, inside).item()
    assert 0.003 < deep < 0.012  # corners of boxes are cut off, other shapes overlap


def test_depth_is_the_same_alone_and_among_others():
    generator = torch.Generator().manual_seed(0)
    pose, joints = (part.repeat(20, 1) for part in cage())
    pose[:, :3] += 0.02 * torch.randn(20, 3, generator=generator)
    points = surface_points(pose[:1], joints[:1])[0][:, ::4].float() + 0.01 * torch.randn(20, 1, 3, generator=generator)
    together = cloud_depth(pose, joints, points)
    assert (together > 0).sum() > 5
    assert torch.equal(
        together, torch.cat([cloud_depth(pose[i, None], joints[i, None], points[i, None]) for i in range(20)])
    )


def test_the_first_step_that_is_not_too_deep_is_taken():
    pose, joints = (part.repeat(5, 1) for part in cage())
    out = pose.clone()
    out[:, 2] += 1.0
    points = surface_points(pose[:1], joints[:1])
    inside = (points[0] - 0.012 * points[1])[:, :256].float().repeat(5, 1, 1)  # deeper than 6.5 mm
    assert (cloud_depth(pose, joints, inside) > 0.0065).all()

    def choice(first, second, now):
        candidates = [(torch.where(deep[:, None], pose, out), joints) for deep in (first, second)] + [(out, joints)]
        return _shallow(candidates, torch.where(now[:, None], pose, out), joints, inside).tolist()

    yes, no = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    mixed = torch.tensor([True, False, True, False, True])
    assert choice(no, no, no) == [0] * 5 and choice(no, yes, yes) == [0] * 5
    assert choice(yes, no, no) == [1] * 5
    assert choice(yes, yes, no) == [2] * 5
    assert choice(yes, yes, yes) == [0] * 5  # no deeper than now
    assert choice(mixed, mixed, no) == [2, 0, 2, 0, 2] and choice(yes, mixed, no) == [2, 1, 2, 1, 2]


def test_goals_through_the_giver_are_left_out_and_the_least_bad_is_named():
    cloud, generator = CAN.objects[0].points[::4][None].float(), load_generator("cvae")
    hand = GiverHand("right")
    mano = torch.zeros(61)
    mano[2] = 5.0
    away = hand.joints(mano).float()[None]
    free = propose_goals(generator, cloud, away, num=40)
    assert free.fallback.item() == Fallback.NONE and free.usable.sum() > 5
    on_it = away - away.mean(1, keepdim=True)
    near = propose_goals(generator, cloud, on_it, num=40)
    gap = giver_gap(near.palm_pose[0], near.joints[0], on_it[0])
    assert near.usable.sum() < free.usable.sum() and (gap[near.usable[0]] > 0).all() | (near.fallback[0] > 0)
    everywhere = torch.linspace(-0.12, 0.12, 16)[None, :, None] * torch.ones(1, 16, 3)
    crowd = propose_goals(generator, cloud, everywhere, num=3)
    assert crowd.usable.any()
    if crowd.fallback.item() == Fallback.NO_FREE:
        assert crowd.usable.sum() == 1


@pytest.fixture(scope="module")
def agent():
    return DynamicGrasp(load_generator("cvae"), Straight(), num_goals=50)


def run(agent, **options):
    env = HandoverVectorEnv(
        6, split="test", released_metrics=False, autoreset_mode="Disabled", **(agent.env_options() | options)
    )
    observation, _ = env.reset(seed=0, options={"replay": list(env.replay_ids[1::8])})
    state, done, reached, actions = None, np.zeros(6, bool), np.zeros(6, bool), []
    while not done.all():
        action, state = agent.predict(observation, state, np.full(6, state is None))
        actions.append(action)
        observation, _, terminated, truncated, _ = env.step(action)
        reached |= terminated
        done |= terminated | truncated
    return reached, actions


def test_it_takes_objects_without_looking_at_what_it_may_not_know(agent):
    class Blind:
        def predict(self, observation, *rest):
            hidden = {k: np.full_like(v, np.nan) if k in PRIVILEGED else v for k, v in observation.items()}
            return agent.predict(hidden, *rest)

        env_options = agent.env_options

    reached, actions = run(Blind(), backend="kinematic")
    assert reached.sum() >= 4  # 5 of 6 with all that is random here as it is
    assert all(np.isfinite(action).all() for action in actions)


def test_in_alignment_no_approach_is_planned_and_nothing_is_other_for_it(monkeypatch):
    counts, taken = [], []
    for sparing in (ApproachState.sparing, lambda state, worlds: state):
        monkeypatch.setattr(ApproachState, "sparing", sparing)
        approach, planned = Straight(), []
        plan = approach.plan
        approach.plan = lambda seen, key, plan=plan, planned=planned: planned.append(len(key)) or plan(seen, key)
        agent = DynamicGrasp(load_generator("cvae"), approach, num_goals=50)
        taken.append(run(agent, backend="kinematic")[1])
        counts.append(sum(planned))
    assert counts[0] < 0.7 * counts[1] and len(taken[0]) == len(taken[1])
    assert all(np.array_equal(*both) for both in zip(*taken, strict=True))


def test_it_says_what_it_lacks(agent):
    with pytest.raises(ValueError, match=r"no point_cloud; .*alignment='none'"):
        agent.predict({"agent_pos": np.zeros((1, 28)), "giver_joints": np.zeros((1, 48))})
    with pytest.raises(ValueError, match="choose one of easy, hard"):
        DynamicGrasp(load_generator("cvae"), Straight(), mode="medium")


def test_an_object_not_yet_seen_is_waited_for(agent):
    hand = np.zeros((2, 28), dtype=np.float32)
    hand[:, 2] = 1.0
    seen = CAN.objects[0].points[:1024].float().numpy()
    giver = np.tile(np.linspace(3, 4, 48, dtype=np.float32), (2, 1))
    observation = {"agent_pos": hand, "giver_joints": giver, "point_cloud": np.stack((seen, 0 * seen))}
    action, state = agent.predict(observation)
    assert state.begun.tolist() == [True, False] and np.array_equal(action[1], hand[1])
    assert not np.array_equal(action[0], hand[0])
    _, state = agent.predict(observation | {"point_cloud": np.stack((seen, seen))}, state, np.zeros(2, bool))
    assert state.begun.all()
    torch.testing.assert_close(state.goals.palm_pose[0], state.goals.palm_pose[1])


class Noted:
    """Stays where it is, and keeps what it was shown."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        self.goal = observation["goal_pos"]
        return observation["agent_pos"], None


def first_look(approach, **options):
    """An agent that has just seen a can, and its state."""
    seen = CAN.objects[0].points[:1024].float().numpy()[None]
    giver = np.tile(np.linspace(3, 4, 48, dtype=np.float32), (1, 1))
    hand = np.full((1, 28), 0.3, dtype=np.float32)
    agent = DynamicGrasp(load_generator("cvae"), approach, num_goals=20, **options)
    return agent, agent.predict({"agent_pos": hand, "giver_joints": giver, "point_cloud": seen})[1]


def test_the_approach_is_led_behind_the_goal_with_an_open_hand():
    approach = Noted()
    _, state = first_look(approach)
    shown, joints = split_hand_state(torch.from_numpy(approach.goal).double())
    goal = pose_multiply(state.track.pose, state.goals.palm_pose[:, state.goal[0]]).double()
    back = quat_rotate(quat_conjugate(goal[:, 3:]), shown[:, :3] - goal[:, :3])[0]
    torch.testing.assert_close(back, 0.9 * torch.tensor([0.0, 0.035, -0.035]).double(), atol=1e-5, rtol=0)
    own = state.goals.joints[0, state.goal[0]].double()
    torch.testing.assert_close(joints[0], 0.1 * own + 0.9 * OPEN_HAND.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("start", "steps", "off", "held"),
    [
        (0.15, 0.0, 0.0, 9),
        (0.5, 0.001, 0.0, 9),
        (0.19, 0.002, 0.0, None),
        (0.15, 0.0, 0.004, 9),
        (0.15, 0.0, 0.006, 3),
    ],
)
def test_a_hand_that_comes_no_nearer_to_its_goal_goes_back(start, steps, off, held):
    """By 15 mm in 8 frames it does; frames in which it is over 5 mm from where it was told to be count for three."""
    _, state = first_look(Noted())
    state = replace(state, nearest=torch.full((1,), start), stuck=torch.zeros(1, dtype=torch.long))
    hand = state.command.clone()
    hand[:, 1] += off
    for frame in range(1, 16):
        held_up, state = notice_held_up(state, torch.full((1,), start - steps * frame), hand)
        assert held_up.item() == (frame == held)
        if held_up:
            assert state.retreating.item() and state.tries.item() == 1 and state.stuck.item() == 0
            break


def test_an_approach_that_leads_nowhere_is_overruled():
    agent, state = first_look(Noted())
    seen = CAN.objects[0].points[:1024].float().numpy()[None]
    giver, hand = np.tile(np.linspace(3, 4, 48, dtype=np.float32), (1, 1)), np.full((1, 28), 0.3, dtype=np.float32)
    told = hand
    for _ in range(40):  # 50 cm off, the approach stays where it is
        told, state = agent.predict(
            {"agent_pos": told, "giver_joints": giver, "point_cloud": seen}, state, np.zeros(1, bool)
        )
    assert state.aligning.all() or state.given_up.any()
    assert np.linalg.norm(told[0, :3] - hand[0, :3]) > 0.3


def test_what_is_like_a_goal_that_did_not_hold_is_given_up_with_it():
    turn = quat_from_axis_angle(torch.tensor([[0.0, 0.0, a] for a in (0.0, 0.0, 0.0, 0.5, 0.6)]))
    place = torch.tensor([[0.0, 0, 0], [0.03, 0, 0], [0.035, 0, 0], [0.0, 0, 0], [0.0, 0, 0]])
    goals = torch.cat((place, turn), dim=-1)[None]  # 0.75 and 0.875 of 4 cm, 0.71 and 0.86 of 0.7 rad
    assert alike(goals, torch.tensor([0])).tolist() == [[True, True, False, True, False]]
    assert alike(goals, torch.tensor([2])).tolist() == [[False, True, True, False, False]]


def at_its_goal(off=0.0, bent=0.0, shaken=0.0, frames=30, **options):
    """What alignment does and knows, a frame each, with a hand told to be at its goal that is so many metres beside it,
    has a finger bent so many rad further, or goes to and fro by so many metres."""
    agent, state = first_look(Noted(), **options)
    goal, joints = (x[:, state.goal[0]] for x in (state.goals.palm_pose, state.goals.joints))
    told = join_hand_state(pose_multiply(state.track.pose, goal), joints).float()
    hand = told.clone()
    hand[:, 0] += off
    hand[:, 6 + 5] += bent
    state = replace(state, command=told, aligning=torch.ones(1, dtype=torch.bool))
    for frame in range(frames):
        seen = hand.clone()
        seen[:, 1] += shaken * (frame % 2)
        step, state = agent._align(torch.tensor([0]), goal, seen, replace(state, command=told))
        yield step - told, state


@pytest.mark.parametrize(("options", "frames"), [({}, 6), ({"shaken": 0.004}, 25), ({"late": True}, 17)])
def test_a_grasp_is_given_up_once_it_was_at_rest_and_did_not_hold(options, frames):
    """Five frames after the first; later where it comes to no rest, or cannot be seen to."""
    given_up = [state.given_up[0, state.goal[0]].item() for _, state in at_its_goal(**options)]
    assert given_up.index(True) + 1 == frames


def test_a_caught_finger_is_freed_straight_back():
    (step, state), *_ = at_its_goal(bent=0.7)
    assert state.retreating.all() and state.tries.item() == 1 and not state.given_up.any()
    pose = pose_multiply(state.track.pose, state.goals.palm_pose[:, state.goal[0]])
    back = quat_rotate(quat_conjugate(pose[:, 3:].float()), step[:, :3])[0]
    assert back[1] > 0.003 and back[2] < -0.003 and back[0].abs() < 1e-4 and step[0, 3:6].abs().max() < 1e-4
    assert not next(at_its_goal(bent=0.5))[1].retreating.any()


def test_a_hand_that_is_not_where_it_was_told_to_be_goes_back_and_tries_again():
    states = [state for _, state in at_its_goal(0.03)]
    assert not any(state.retreating.any() for state in states[:4])
    assert states[4].retreating.all() and states[4].tries.item() == 1 and not states[4].given_up.any()
    assert not any(state.retreating.any() for _, state in at_its_goal(0.01, frames=5))  # near enough
