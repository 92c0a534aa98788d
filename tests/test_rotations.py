"""Rotations and poses against scipy, which is written by others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dexh2r_gym import rotations as r


def random_quats(seed: int, n: int = 50) -> torch.Tensor:
    """(n, 4) w x y z."""
    return torch.from_numpy(Rotation.random(n, random_state=seed).as_quat()[:, [3, 0, 1, 2]].copy())


def scipy_of(q: torch.Tensor) -> Rotation:
    return Rotation.from_quat(q.numpy()[..., [1, 2, 3, 0]])


def test_quarter_turn_about_z_moves_x_to_y():
    q = r.quat_from_axis_angle(torch.tensor([0.0, 0.0, np.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(
        r.quat_rotate(q, torch.tensor([1.0, 0, 0], dtype=torch.float64)), torch.tensor([0.0, 1, 0], dtype=torch.float64)
    )


def test_products_and_matrices_agree_with_scipy():
    a, b = random_quats(0), random_quats(1)
    product = scipy_of(a) * scipy_of(b)
    np.testing.assert_allclose(r.quat_to_matrix(r.quat_multiply(a, b)).numpy(), product.as_matrix(), atol=1e-12)
    v = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(r.quat_rotate(a, v).numpy(), scipy_of(a).apply(v.numpy()), atol=1e-12)
    np.testing.assert_allclose(r.quat_angle(a, b).numpy(), (scipy_of(a).inv() * scipy_of(b)).magnitude(), atol=1e-12)


def test_matrix_round_trip_in_all_four_cases_of_shepperd():
    axes = np.concatenate(
        (np.eye(3) * np.pi, np.eye(3) * 0.1, np.zeros((1, 3)), Rotation.random(100, random_state=2).as_rotvec())
    )
    m = torch.from_numpy(Rotation.from_rotvec(axes).as_matrix())
    torch.testing.assert_close(r.quat_to_matrix(r.quat_from_matrix(m)), m, atol=1e-12, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3))
def test_axis_angle_round_trip(v):
    v = torch.tensor(v, dtype=torch.float64)
    back = r.quat_to_axis_angle(r.quat_from_axis_angle(v))
    np.testing.assert_allclose(
        Rotation.from_rotvec(v.numpy()).as_matrix(), Rotation.from_rotvec(back.numpy()).as_matrix(), atol=1e-9
    )
    if v.norm() < 3.1:
        torch.testing.assert_close(back, v, atol=1e-9, rtol=0)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_turns_a_part_of_the_angle(t):
    a, b = random_quats(3), random_quats(4)
    c = r.quat_slerp(a, b, t)
    torch.testing.assert_close(r.quat_angle(a, c), t * r.quat_angle(a, b), atol=1e-7, rtol=0)
    torch.testing.assert_close(r.quat_angle(c, b), (1 - t) * r.quat_angle(a, b), atol=1e-7, rtol=0)


def test_poses_compose_as_matrices_do():
    p = torch.cat(
        (torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), random_quats(5)), -1
    )
    q = p.flip(0)

    def matrix(x):
        m = torch.eye(4, dtype=torch.float64).repeat(len(x), 1, 1)
        m[:, :3, :3], m[:, :3, 3] = r.quat_to_matrix(x[:, 3:]), x[:, :3]
        return m

    torch.testing.assert_close(matrix(r.pose_multiply(p, q)), matrix(p) @ matrix(q))
    torch.testing.assert_close(matrix(r.pose_inverse(p)), torch.linalg.inv(matrix(p)))


def test_velocity_of_a_known_motion():
    before = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    turn = r.quat_from_axis_angle(torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64))
    after = torch.cat((torch.tensor([0.1, 0, 0], dtype=torch.float64), turn))
    expected = torch.tensor([1.0, 0, 0, 0, 2.0, 0], dtype=torch.float64)
    torch.testing.assert_close(r.pose_velocity(before, after, 0.1), expected)
    torch.testing.assert_close(r.pose_integrate(before, expected, 0.1), after)


def test_integration_undoes_the_difference():
    generator = torch.Generator().manual_seed(2)
    before, after = (
        torch.cat((torch.randn(50, 3, dtype=torch.float64, generator=generator), random_quats(i)), -1) for i in (6, 7)
    )
    found = r.pose_integrate(before, r.pose_velocity(before, after, 0.05), 0.05)
    torch.testing.assert_close(found[:, :3], after[:, :3])
    assert r.quat_angle(found[:, 3:], after[:, 3:]).max() < 1e-7


def test_gradient_at_zero_rotation_is_finite():
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    r.quat_from_axis_angle(v).sum().backward()
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 5, 17])
def test_the_last_bit_does_not_depend_on_how_many_stand_beside_it(size, dtype):
    """torch's own functions of two numbers, atan2 and pow, fail this: full vectors and what is left take other code."""
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(1024, 28, generator=rng, dtype=dtype)  # rows of which vectors are parts, as in hand states
    a, b = random_quats(0, 1024).to(dtype), random_quats(1, 1024).to(dtype)
    poses = torch.cat((states[:, :3], a), dim=-1), torch.cat((states[:, 7:10], b), dim=-1)
    part = torch.rand(1024, 1, generator=rng, dtype=dtype)
    calls = {
        r.quat_multiply: (a, b),
        r.quat_rotate: (a, states[:, :3]),
        r.quat_normalize: (states[:, 3:7],),
        r.quat_angle: (poses[0][:, 3:], poses[1][:, 3:]),
        r.angle_of: (a[:, 0].abs(), (1 - a[:, 0].square()).sqrt()),
        r.quat_slerp: (a, b, part),
        r.quat_from_axis_angle: (states[:, 3:6],),
        r.quat_to_axis_angle: (a,),
        r.quat_to_matrix: (a,),
        r.quat_from_matrix: (r.quat_to_matrix(a),),
        r.pose_multiply: poses,
        r.pose_velocity: (*poses, part),
        r.pose_integrate: (poses[0], states[:, 10:16], part),
    }
    for function, values in calls.items():
        together = function(*values)
        for at in range(0, 1024 - size + 1, size):
            alone = function(*(x[at : at + size].clone() for x in values))
            assert torch.equal(alone, together[at : at + size]), (function.__name__, at)
