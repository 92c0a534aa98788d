"""The tracker on made motions, and on the clouds that the environment shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.objects import load_object
from dexh2r_gym.rotations import (
    pose_apply,
    pose_inverse,
    pose_multiply,
    quat_angle,
    quat_from_axis_angle,
    quat_normalize,
)
from policies.tracking import _nearest, follow, restart, rigid_motion, start_track

HAMMER = load_object("hammer")


def seen(pose: torch.Tensor, seed: int, noise: float = 0.001, count: int = 1024) -> torch.Tensor:
    """A noisy draw (1, count, 3) of the hammer's surface at a pose (7,)."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(HAMMER.points), (count,), generator=generator)
    points = HAMMER.points[picked] + noise * torch.randn(count, 3, generator=generator)
    return pose_apply(pose[None].float(), points)[None].float()


def turned(axis: tuple[float, float, float], position: tuple[float, float, float]) -> torch.Tensor:
    return torch.cat((torch.tensor(position), quat_from_axis_angle(torch.tensor(axis))))


def error(track, pose: torch.Tensor, first: torch.Tensor, start: torch.Tensor) -> tuple[float, float]:
    """Metres and radians by which a track differs from the true pose (7,), both seen from the first frame."""
    true = pose_multiply(pose, pose_multiply(pose_inverse(first), start))
    return (track.pose[0, :3] - true[:3]).norm().item(), quat_angle(track.pose[0, 3:], true[3:]).item()


def test_a_sudden_move_of_three_centimetres_and_ten_degrees_is_found():
    first = turned((0.3, 0.2, -0.1), (0.1, 0.0, 1.0))
    after = pose_multiply(turned((0.0, 0.0, math.radians(10)), (0.0, 0.0, 0.0)), first)
    after[:3] = first[:3] + torch.tensor([0.02, 0.02, 0.01])
    track = start_track(seen(first, 0))
    start = track.pose[0]
    for seed in range(1, 6):  # the clouds of five frames, in which it stays there
        track = follow(track, seen(after, seed))
    position, angle = error(track, after, first, start)
    assert position < 0.003 and angle < math.radians(2)


def test_steady_motion_is_followed_without_lag():
    first = turned((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    track = start_track(seen(first, 0))
    start, pose = track.pose[0], first
    for frame in range(1, 25):
        pose = turned((0.0, math.radians(5) * frame, 0.0), (0.02 * frame, 0.0, 1.0))
        track = follow(track, seen(pose, frame))
    position, angle = error(track, pose, first, start)
    assert position < 0.003 and angle < math.radians(2)
    ahead = pose_multiply(track.expected(), pose_inverse(track.pose))
    assert quat_angle(ahead[0, 3:], quat_from_axis_angle(torch.tensor([0.0, math.radians(5), 0.0]))) < math.radians(2)


def expected_after(places: torch.Tensor) -> torch.Tensor:
    """Where an unseen object carried along places (T, 3) is expected in each next frame, (T - 1, 3)."""
    still = torch.tensor([1.0, 0.0, 0.0, 0.0])
    track, nothing, found = start_track(seen(turned((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)), 0)), torch.zeros(1, 1024, 3), []
    middle = track.pose[0, :3]
    for step in places.diff(dim=0):
        track = follow(track, nothing, torch.cat((step, still))[None].float())
        found.append(track.expected()[0, :3] - middle + places[0])
    return torch.stack(found)


def test_motion_is_expected_to_change_on_as_it_did():
    time = torch.arange(40, dtype=torch.float64)[:, None]
    thrown = torch.tensor([[0.03, 0.0, 0.0]]) * time + torch.tensor([[0.0, 0.001, -0.002]]) * time**2
    assert (expected_after(thrown)[4:-1] - thrown[6:]).norm(dim=-1).max() < 2e-4
    swung = torch.tensor([[0.1, 0.0, 0.05]]) * torch.sin(time / 5)  # back and forth each second, up to 0.7 m/s
    evenly = (2 * swung[1:-1] - swung[:-2] - swung[2:]).norm(dim=-1)  # errors of who expects it to go on evenly
    assert (expected_after(swung)[:-1] - swung[2:]).norm(dim=-1)[10:].mean() < 0.5 * evenly[10:].mean()


def test_changes_of_motion_that_are_noise_are_not_expected_to_go_on():
    generator = torch.Generator().manual_seed(0)
    even = torch.tensor([[0.02, 0.0, 0.0]]) * torch.arange(60)[:, None]
    noisy = even + 0.001 * torch.randn(60, 3, generator=generator)
    found = (expected_after(noisy)[:-1] - even[2:]).norm(dim=-1)[10:].mean()
    evenly = (2 * noisy[1:-1] - noisy[:-2] - even[2:]).norm(dim=-1)[10:].mean()
    assert found < 1.05 * evenly


def test_worlds_do_not_depend_on_each_other():
    first, after = turned((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)), turned((0.0, 0.1, 0.0), (0.01, 0.0, 1.0))
    other = start_track(torch.cat((seen(after, 5), seen(first, 0))))
    alone = follow(start_track(seen(first, 0)), seen(after, 1))
    together = follow(other, torch.cat((seen(first, 6), seen(after, 1))))
    torch.testing.assert_close(together.pose[1:], alone.pose, atol=1e-5, rtol=0)


def test_an_unseen_object_stays_or_goes_with_what_carries_it():
    first = turned((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    track = start_track(seen(first, 0))
    nothing = torch.zeros(1, 1024, 3)
    torch.testing.assert_close(follow(track, nothing).pose, track.pose)
    carried = turned((0.0, 0.0, 0.2), (0.05, 0.0, 0.0))[None]
    torch.testing.assert_close(follow(track, nothing, carried).pose, pose_multiply(carried, track.pose))


def test_restart_begins_only_the_fresh_worlds():
    first, after = turned((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)), turned((0.0, 0.1, 0.0), (0.01, 0.0, 1.0))
    old = start_track(torch.cat((seen(first, 0), seen(first, 1))))
    new = restart(old, torch.tensor([False, True]), torch.cat((seen(after, 2), seen(after, 3))))
    assert torch.equal(new.points[0], old.points[0]) and not torch.equal(new.points[1], old.points[1])


def test_rigid_motion_is_recovered_and_never_a_mirror_image():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(20, 16, 3, generator=generator)
    pose = torch.cat(
        (torch.randn(20, 3, generator=generator), quat_normalize(torch.randn(20, 4, generator=generator))), -1
    )
    found = rigid_motion(points, pose_apply(pose[:, None], points))
    torch.testing.assert_close(found, pose, atol=1e-5, rtol=0)
    flat = points * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(
        pose_apply(rigid_motion(flat, pose_apply(pose[:, None], flat))[:, None], flat),
        pose_apply(pose[:, None], flat),
        atol=1e-4,
        rtol=0,
    )


@pytest.fixture(scope="module")
def recorded():
    """Clouds (T, B, P, 3), poses (T, B, 7) and giver joints (T, B, 16, 3) of trials of the test split."""
    env = HandoverVectorEnv(
        6,
        backend="kinematic",
        split="test",
        obs_mode="point_cloud+state_dict",
        alignment="none",
        released_metrics=False,
    )
    ids = env.replay_ids[::8]
    assert len(ids) == 6
    observation, _ = env.reset(seed=0, options={"replay": list(ids)})
    still, frames = observation["agent_pos"].copy(), []
    for _ in range(min(env.task.replay_of(i).num_frames for i in range(6)) - 1):
        frames.append(observation)
        observation = env.step(still)[0]
    clouds, poses, giver = (
        torch.from_numpy(np.stack([f[k] for f in frames])) for k in ("point_cloud", "object_pose", "giver_joints")
    )
    return clouds, poses, giver.unflatten(-1, (16, 3))


def test_with_the_hand_that_carries_it_the_object_is_known_to_millimetres(recorded):
    """Clouds have errors of about 1 mm; on all 48 trials the worst error at the end was 2.1 mm, 1.3 degrees."""
    clouds, poses, giver = recorded
    track = start_track(clouds[0])
    start = track.pose
    for before, after, cloud in zip(giver[:-1], giver[1:], clouds[1:], strict=True):
        track = follow(track, cloud, rigid_motion(before, after))
    true = pose_multiply(poses[-1], pose_multiply(pose_inverse(poses[0]), start))
    assert (track.pose[:, :3] - true[:, :3]).norm(dim=-1).max() < 0.004
    assert quat_angle(track.pose[:, 3:], true[:, 3:]).max() < math.radians(6)


def test_clouds_alone_are_enough_for_most_objects(recorded):
    """Flat things slide within their plane: the median of all 48 trials was 1 mm, the worst 31 mm."""
    clouds, poses, _ = recorded
    track = start_track(clouds[0])
    start = track.pose
    for cloud in clouds[1:]:
        track = follow(track, cloud)
    true = pose_multiply(poses[-1], pose_multiply(pose_inverse(poses[0]), start))
    assert (track.pose[:, :3] - true[:, :3]).norm(dim=-1).median() < 0.003


@pytest.mark.parametrize("worlds", [1, 4, 7])  # a few are looked at together
def test_the_nearest_points_are_those_of_all_distances(worlds):
    generator = torch.Generator().manual_seed(0)
    points, others = (torch.randn(worlds, n, 3, generator=generator) for n in (50, 30))
    squared, nearest = _nearest(points, others)
    apart = torch.cdist(points.double(), others.double())
    assert torch.equal(nearest, apart.argmin(-1))
    torch.testing.assert_close(squared.double(), apart.amin(-1).square(), atol=1e-5, rtol=1e-4)
