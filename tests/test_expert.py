"""The expert's answers: which goal, which way, and that disturbances are mended."""

from dataclasses import replace

import pytest
import torch

from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_angle
from dexh2r_gym.types import join_hand_state, split_hand_state
from policies.expert import ReactiveAnswers


@pytest.fixture(scope="module")
def replays():
    mini = ReplayStore.open("mini")
    return [mini.replay(id) for id in mini.ids("train")[:30:10]]


def test_who_is_told_the_goal_gets_the_grasp_that_the_demonstration_ends_in(replays):
    answers = ReactiveAnswers(replays, told=True, dt=1 / 30)
    first = 0
    for replay in replays:
        last = first + replay.num_frames - 1
        goal = answers.goals(replay.hand_start[None].float(), torch.tensor([first]), torch.tensor([[first, last]]))
        torch.testing.assert_close(goal[0, 1], replay.demo[-1].float(), atol=1e-5, rtol=0)
        grasp = [
            pose_multiply(pose_inverse(replay.object_pose[t].float()), split_hand_state(goal[0, i])[0])
            for i, t in enumerate((0, -1))
        ]
        torch.testing.assert_close(grasp[0][:3], grasp[1][:3], atol=1e-5, rtol=0)  # it is carried along with the object
        assert quat_angle(grasp[0][3:], grasp[1][3:]) < 1e-3
        first = last + 1


def test_who_is_not_told_goes_to_the_nearest_free_goal(replays):
    replay = replays[0]
    free = torch.ones_like(replay.goal_free)
    free[:, 5] = False
    answers = ReactiveAnswers([replays[1], replace(replay, goal_free=free)], told=False, dt=1 / 30)
    row = torch.tensor([replays[1].num_frames + 3])
    world = pose_multiply(replay.object_pose[3], replay.goal_pose).float()
    for near in (0, 9, 5):
        hand = join_hand_state(world[near], replay.goal_joints[near].float())[None]
        goal = answers.goals(hand, row, row[None])[0]
        found = (goal[0, :3] - world[:, :3]).norm(dim=-1).argmin().item()
        assert (found == near) == (near != 5)  # which is not free
        if near != 5:
            torch.testing.assert_close(answers.plans(hand, row, 1)[0, 0, 6:], hand[0, 6:], atol=1e-4, rtol=0)


def test_its_ways_begin_where_the_hand_does_and_get_there_in_spite_of_disturbances(replays):
    answers = ReactiveAnswers(replays, told=False, dt=1 / 30)
    ways = [answers.ways(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(ways[0][0], ways[1][0]) and not torch.equal(ways[0][0], ways[2][0])
    first = 0
    for replay in replays:
        last = first + replay.num_frames - 1
        for hand, left in ways:
            torch.testing.assert_close(hand[first], replay.hand_start.float())
            assert left[first] > 0.2 and left[last - 10 : last].mean() < 0.05
        first = last + 1
