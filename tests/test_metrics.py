"""Depth and metrics: hand-made cases with known answers, the fast way against the plain one, and the known trap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.depth import HAND_CENTER, HAND_REACH, nearest_brute_force, nearest_kd_tree
from dexh2r_gym.hand import JOINT_LOWER, JOINT_UPPER, forward_kinematics, surface_points
from dexh2r_gym.intervals import mean_interval, wilson_interval
from dexh2r_gym.metrics import (
    METRICS,
    approach_metrics,
    hand_object_depth,
    paper_metrics,
    penetration_depth,
    released_depth,
    released_metrics,
)
from dexh2r_gym.objects import load_object
from dexh2r_gym.objects.build import build_object
from dexh2r_gym.objects.model import ObjectBatch
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_normalize, quat_rotate
from dexh2r_gym.types import split_hand_state


def float64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def box_samples(half: tuple[float, float, float], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n x n cell centres on each face of a box, with outward normals: (6 n^2, 3), (6 n^2, 3)."""
    ticks = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    u, v = torch.meshgrid(ticks, ticks, indexing="ij")
    points, normals = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            face = torch.empty(n * n, 3, dtype=torch.float64)
            face[:, axis], face[:, axis - 2], face[:, axis - 1] = sign, u.flatten(), v.flatten()
            points.append(face * float64(half))
            normals.append(torch.zeros_like(face).index_fill_(1, torch.tensor(axis), sign))
    return torch.cat(points), torch.cat(normals)


def can_samples(radius: float, height: float, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points drawn uniformly on a cylinder about z, with outward normals."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand((n, 3), generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * draw[:, 0]
    around = torch.stack((angle.cos(), angle.sin(), torch.zeros(n, dtype=torch.float64)), -1)
    up = float64([0.0, 0.0, 1.0])
    on_side = (draw[:, 1] < height / (height + radius))[:, None]
    end = torch.where(draw[:, 2] < 0.5, -1.0, 1.0)[:, None]
    side = radius * around + up * height * (draw[:, 2:] - 0.5)
    cap = radius * (draw[:, 1:2] * (height + radius) / radius - height / radius).clamp_min(0).sqrt() * around
    cap = cap + up * end * height / 2
    return torch.where(on_side, side, cap), torch.where(on_side, around, up * end)


# ---------------------------------------------------------------------------------------------------------------- depth
def test_point_3mm_inside_a_box_face_is_3mm_deep():
    points, normals = box_samples((0.05, 0.05, 0.05), 21)  # an odd grid: a sample at each face's centre
    hand = float64([[[0.047, 0.0, 0.0], [0.2, 0.0, 0.0]], [[0.053, 0.0, 0.0], [0.0, 0.0, 0.2]]])
    depth = penetration_depth(hand, points, normals)
    assert depth.tolist() == pytest.approx([0.003, 0.0], abs=1e-12)


def test_depth_is_to_the_nearest_sample_not_to_the_surface():
    sample = torch.tensor([[0.0, 0.0, 0.0]])
    normal = torch.tensor([[0.0, 0.0, 1.0]])
    hand = torch.tensor([[[0.3, 0.0, -0.4]]])  # 0.4 under the tangent plane, 0.5 from the sample
    assert penetration_depth(hand, sample, normal).item() == pytest.approx(0.5)
    assert penetration_depth(-hand, sample, normal).item() == 0.0
    assert penetration_depth(torch.tensor([[[0.3, 0.0, 0.0]]]), sample, normal).item() == 0.0  # on the tangent plane


def test_depth_takes_the_deepest_point_of_each_batch_entry():
    points, normals = box_samples((0.05, 0.05, 0.05), 21)
    inside = float64([0.050, 0.049, 0.046, 0.041])
    hand = torch.zeros(2, 2, 3, dtype=torch.float64)
    hand[..., 0] = inside.view(2, 2)
    assert penetration_depth(hand, points, normals).tolist() == pytest.approx([0.001, 0.009], abs=1e-12)
    moved = torch.stack((points, points + 1.0))  # per-entry samples: the second object stands elsewhere
    depth = penetration_depth(hand, moved, torch.stack((normals, normals)))
    assert depth.tolist() == pytest.approx([0.001, 0.0], abs=1e-12)


@pytest.mark.parametrize("batch, count", [(0, 5), (3, 0), (0, 0)])
def test_nothing_in_gives_nothing_deep(batch, count):
    points, normals = box_samples((0.05, 0.05, 0.05), 4)
    depth = penetration_depth(torch.zeros(batch, count, 3), points.float(), normals.float())
    assert depth.shape == (batch,) and not depth.any()


@pytest.mark.parametrize(
    "hand, points, normals, message",
    [
        ((5, 3), (4, 3), (4, 3), r"hand_points must be \(B, P, 3\), got \(5, 3\)"),
        ((2, 5, 2), (4, 3), (4, 3), "hand_points must be"),
        ((2, 5, 3), (4, 2), (4, 2), r"object_points must be \(S, 3\) or \(B, S, 3\), got \(4, 2\)"),
        ((2, 5, 3), (3, 4, 3), (3, 4, 3), "differ in B"),
        ((2, 5, 3), (4, 3), (5, 3), r"object_normals must be shaped like object_points \(4, 3\), got \(5, 3\)"),
        ((2, 5, 3), (0, 3), (0, 3), "no sample"),
    ],
)
def test_wrong_shapes_are_named(hand, points, normals, message):
    with pytest.raises(ValueError, match=message):
        penetration_depth(torch.zeros(hand), torch.zeros(points), torch.zeros(normals))


def test_nan_is_refused_with_its_place():
    hand = torch.zeros(3, 5, 3)
    hand[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"hand_points has NaN .* batch entry 1"):
        penetration_depth(hand, torch.zeros(4, 3), torch.ones(4, 3))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    samples=st.integers(1, 300),
    points=st.integers(1, 60),
    lattice=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_tree_and_brute_force_pick_the_same_sample(seed, samples, points, lattice, dtype):
    """Also on a lattice, where many samples are equally near: both take the first."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(points, 3, generator=generator, dtype=dtype)
    s = torch.randn(samples, 3, generator=generator, dtype=dtype)
    if lattice:
        p, s = (2 * p).round() / 2, s.round()
    assert torch.equal(nearest_kd_tree(p, s), nearest_brute_force(p, s))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_depth_of_large_and_small_queries_agree(seed):
    """A query large enough for the tree equals its points asked for one at a time, by brute force."""
    generator = torch.Generator().manual_seed(seed)
    s, n = can_samples(0.035, 0.2, 512, seed)
    p = 0.06 * torch.randn(4, 100, 3, generator=generator, dtype=torch.float64)
    whole = penetration_depth(p, s, n)
    single = torch.stack([penetration_depth(p[i, j][None, None], s, n)[0] for i in range(4) for j in range(100)])
    assert torch.equal(whole, single.view(4, 100).amax(-1))
    assert torch.equal(whole, penetration_depth(p, s.expand(4, -1, -1), n.expand(4, -1, -1)))


def test_depth_is_differentiable_in_the_hand():
    points, normals = box_samples((0.05, 0.05, 0.05), 41)
    hand = torch.tensor([[[0.047, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(penetration_depth(hand, points, normals).sum(), hand)
    assert gradient.flatten().tolist() == pytest.approx([-1.0, 0.0, 0.0], abs=1e-9)


def test_released_depth_calls_far_points_inside():
    """The known trap: on a can of 7 x 20 cm, points 10 to 30 cm away that are outside without any doubt."""
    samples, normals = can_samples(0.035, 0.2, 4096, seed=3)
    generator = torch.Generator().manual_seed(4)
    direction = torch.nn.functional.normalize(torch.randn(60000, 3, generator=generator, dtype=torch.float64), dim=-1)
    away = 0.1 + 0.2 * torch.rand(60000, 1, generator=generator, dtype=torch.float64)
    start = samples[torch.randint(4096, (60000,), generator=generator)]
    points = start + direction * away
    outside_by = torch.stack((points[:, :2].norm(dim=-1) - 0.035, points[:, 2].abs() - 0.1)).amax(0)
    far = points[outside_by > 0.1]
    depth = penetration_depth(far[:, None], samples, normals)
    rate = (depth > 0).double().mean().item()
    assert 2e-5 < rate < 2e-3  # some hundredths of a percent ...
    assert depth.max() > 0.1  # ... and each as deep as it is far away
    hands = far[: len(far) // 2000 * 2000].view(-1, 2000, 3)
    assert (penetration_depth(hands, samples, normals) > 0).double().mean() > 0.1  # of frames, 2000 points a hand


# ------------------------------------------------------------------------------------------------------ hand and object
@pytest.fixture(scope="module")
def objects() -> ObjectBatch:
    """A box of 12 x 8 x 6 cm, and a can from the library."""
    corners = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1), indexing="ij")).reshape(3, 8).T
    box = build_object("box", [corners * np.array((0.06, 0.04, 0.03))], mass=1.0, recentre=False)
    return ObjectBatch([box, load_object("aerosol_can")])


def random_scenes(count: int, seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hand states (N, 28), object poses (N, 7) and which object (N,): in contact or not."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(count, 28, generator=generator, dtype=torch.float64)
    state[:, :3] *= spread
    state[:, 6:] = JOINT_LOWER + (JOINT_UPPER - JOINT_LOWER) * torch.rand(count, 22, generator=generator).double()
    pose = torch.randn(count, 7, generator=generator, dtype=torch.float64)
    pose[:, :3] *= spread
    return state, torch.cat((pose[:, :3], quat_normalize(pose[:, 3:])), -1), torch.arange(count) % 2


def test_fingertips_3mm_inside_a_box_are_3mm_deep(objects):
    state = torch.zeros(2, 28, dtype=torch.float64)
    points, _ = surface_points(*split_hand_state(state))
    pose = float64([[0, 0, 0, 1, 0, 0, 0]]).repeat(2, 1)
    pose[:, 2] = (
        points[0, :, 2].max() + 0.03 + float64([-0.003, 0.003])
    )  # the fingertips in, or short of, its lower face
    depth = hand_object_depth(state, pose, torch.tensor([0, 0]), objects)
    assert depth.tolist() == pytest.approx([0.003, 0.0], abs=1e-6)


@pytest.mark.parametrize("spread", [0.05, 0.1])
def test_hand_object_depth_equals_the_deepest_of_all_surface_points(objects, spread):
    state, pose, index = random_scenes(24, 5, spread)
    depth = hand_object_depth(state, pose, index, objects)
    points, _ = surface_points(*split_hand_state(state))
    in_object = pose_apply(pose_inverse(pose)[:, None], points)
    flat = index[:, None].expand(in_object.shape[:2]).flatten()
    plain = objects.penetration(flat, in_object.flatten(0, 1)).view(in_object.shape[:2]).amax(-1)
    assert (plain > 0).any() and (plain == 0).any()
    assert torch.allclose(depth, plain, rtol=0, atol=1e-9)
    links = forward_kinematics(*split_hand_state(state))
    assert torch.equal(depth, hand_object_depth(state, pose, index, objects, link_poses=links))
    alone = [hand_object_depth(state[i, None], pose[i, None], index[i, None], objects) for i in range(len(state))]
    assert torch.equal(depth, torch.cat(alone))
    assert torch.allclose(hand_object_depth(state.float(), pose.float(), index, objects).double(), depth, atol=1e-5)
    assert hand_object_depth(state[:0], pose[:0], index[:0], objects).shape == (0,)


def test_released_depth_of_a_recording_equals_penetration_depth_in_the_world(objects):
    state, pose, _ = random_scenes(12, 6, 0.05)
    obj = objects.objects[1]
    depth = released_depth(state, pose, obj)
    points, _ = surface_points(*split_hand_state(state))
    samples = pose_apply(pose[:, None], obj.points.double()[None])
    normals = quat_rotate(pose[:, None, 3:].expand(-1, len(obj.normals), -1), obj.normals.double().expand(12, -1, -1))
    assert (depth > 0).any()
    assert torch.allclose(depth, penetration_depth(points, samples, normals), atol=1e-9)


# ------------------------------------------------------------------------------------------------------------- episodes
def straight_line(frames: int, step: float) -> torch.Tensor:
    return torch.stack((step * torch.arange(frames).double(), torch.zeros(frames), torch.zeros(frames)), -1)[None]


def test_paper_metrics_by_hand():
    depth = torch.zeros(1, 10).double()
    depth[0, 7], depth[0, 8], depth[0, 9] = 0.002, 0.003, 0.010
    got = paper_metrics(depth, straight_line(10, 0.02), torch.tensor([10]), torch.tensor([True]))
    assert tuple(got) == METRICS
    assert got["succ"].item() is True
    assert got["safe"].item() is True  # mean 1.5 mm
    assert got["pen_dep"].item() == pytest.approx(0.15)  # cm
    assert got["pen_fr"].item() == 2  # 2 mm itself is not deeper than 2 mm
    assert got["infer_fr"].item() == 10
    assert got["traj_len"].item() == pytest.approx(0.18)
    assert not paper_metrics(depth + 0.001, straight_line(10, 0.0), torch.tensor([10]), torch.tensor([False]))["safe"]


def test_released_metrics_by_hand():
    depth = torch.zeros(1, 20).double()
    depth[0, 2] = 0.1  # among the first five: dropped
    depth[0, 6] = 0.004
    depth[0, 15:] = 0.1  # alignment's frames: not counted
    palm, length = straight_line(20, 0.02), torch.tensor([20])
    got = released_metrics(depth, palm, length, torch.tensor([15]))  # counted: frames 5 .. 14
    assert tuple(got) == METRICS
    assert got["succ"].item() is True and got["safe"].item() is False
    assert got["pen_dep"].item() == pytest.approx(0.04)
    assert got["pen_fr"].item() == 1
    assert got["infer_fr"].item() == 10
    assert got["traj_len"].item() == pytest.approx(9 * 0.02)
    never = released_metrics(depth, palm, length, torch.tensor([-1]))
    assert never["succ"].item() is False and never["infer_fr"].item() == 15 and never["pen_fr"].item() == 6


@pytest.mark.parametrize("begin", [0, 3, 5])
def test_alignment_within_the_dropped_frames_leaves_zeros(begin):
    depth = torch.ones(1, 9)
    got = released_metrics(depth, straight_line(9, 1.0), torch.tensor([9]), torch.tensor([begin]))
    assert got["succ"].item() and got["safe"].item()
    assert [got[name].item() for name in ("pen_dep", "pen_fr", "infer_fr", "traj_len")] == [0, 0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(0, 6))
def test_padded_batch_equals_one_episode_at_a_time_to_the_bit(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    longest = 40
    length = torch.randint(1, longest + 1, (batch,), generator=generator)
    begin = torch.minimum(torch.randint(-1, longest, (batch,), generator=generator), length - 1)
    reached = torch.rand(batch, generator=generator) < 0.5
    depth = (0.01 * torch.randn(batch, longest, generator=generator)).clamp_min(0)
    palm = torch.randn(batch, longest, 3, generator=generator)
    padding = torch.arange(longest) >= length[:, None]
    depth[padding], palm[padding] = torch.nan, torch.nan  # nothing there may be read
    together = approach_metrics(
        depth=depth, palm=palm, length=length, reached=reached, alignment_begin=begin, released_depth=depth
    )
    assert set(together) == {*METRICS, *(f"{name}_released" for name in METRICS)}
    for b in range(batch):
        row, n = slice(b, b + 1), int(length[b])
        alone = approach_metrics(
            depth=depth[row, :n],
            palm=palm[row, :n],
            length=length[row],
            reached=reached[row],
            alignment_begin=begin[row],
            released_depth=depth[row, :n],
        )
        for name in together:
            assert together[name].shape == (batch,)
            assert torch.equal(together[name][row], alone[name]), name


def test_wrong_episode_shapes_are_named():
    depth, palm, length = torch.zeros(2, 5), torch.zeros(2, 5, 3), torch.tensor([5, 5])
    flag = torch.tensor([True, True])
    with pytest.raises(ValueError, match=r"palm must be \(B, T, 3\) = \(2, 5, 3\)"):
        paper_metrics(depth, palm[:, :4], length, flag)
    with pytest.raises(ValueError, match=r"reached must be \(B,\)"):
        paper_metrics(depth, palm, length, flag[:1])
    with pytest.raises(ValueError, match=r"length must lie in 0 \.\. 5"):
        paper_metrics(depth, palm, length + 1, flag)


# ------------------------------------------------------------------------------------------------------------ intervals
def test_wilson_against_published_values():
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)  # Newcombe 1998, and R's prop.test
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


def test_mean_interval_against_student_table():
    low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))  # mean 2.5, s 1.29099, t(3) 3.18245
    assert (low, high) == pytest.approx((2.5 - 3.18245 * 1.29099 / 2, 2.5 + 3.18245 * 1.29099 / 2), abs=1e-4)
    assert mean_interval(np.array([1.0])) == (-np.inf, np.inf)


def test_no_point_of_the_hand_is_beyond_its_reach():
    generator = torch.Generator().manual_seed(0)
    part = torch.rand(2000, 22, generator=generator).double()
    part[:1000] = part[:1000].round()  # half of them at the ends of the joints' ranges
    joints = JOINT_LOWER + (JOINT_UPPER - JOINT_LOWER) * part
    points, _ = surface_points(float64([0, 0, 0, 1, 0, 0, 0]).expand(2000, 7), joints)
    assert (points - float64(HAND_CENTER)).norm(dim=-1).max() < HAND_REACH - 0.005
