"""Contacts of the robot with the giver's hand, by hand, and the limits of ISO/TS 15066."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dexh2r_gym.safety import QUASI_STATIC_LIMIT, TRANSIENT_LIMIT, safety_metrics, transient_speed_limit


def contacts(palm: list[float], speed: list[float]) -> dict:
    peak = torch.zeros(1, len(palm), 6, dtype=torch.float64)
    peak[0, :, 0] = torch.tensor(palm)
    out = safety_metrics(peak, peak / 30, torch.tensor([speed]).double(), torch.tensor([len(palm)]), 1 / 30)
    return {name: value[0] for name, value in out.items()}


def test_peak_impulse_duration_and_speed_of_a_contact():
    got = contacts([0, 30, 60, 30, 0, 10, 0], [0, 0.5, 0.9, 0.1, 0, 0.2, 0])
    assert got["giver_peak"].tolist() == [60, 0, 0, 0, 0, 0]
    assert got["giver_impulse"][0] == pytest.approx(130 / 30)
    assert got["contact_time"][0] == pytest.approx(0.1)  # the longer of two
    assert got["contact_speed"] == 0.5  # 0.9 was in a contact that had begun
    assert got["safe_force"]


def test_the_limit_is_that_of_each_part_however_short():
    assert contacts([0, QUASI_STATIC_LIMIT], [0, 0])["safe_force"]
    assert not contacts([0, QUASI_STATIC_LIMIT + 0.1], [0, 0])["safe_force"]
    peak = torch.full((1, 2, 6), 0.9 * QUASI_STATIC_LIMIT, dtype=torch.float64)  # together far above it
    assert safety_metrics(peak, peak, peak[..., 0], torch.tensor([2]), 1 / 30)["safe_force"]


def test_speed_limit_by_hand():
    # a wall: only the hand's 0.6 kg moves; E = F^2 / 2k = m v^2 / 2
    assert transient_speed_limit(math.inf) == pytest.approx(280 / math.sqrt(0.6 * 75_000))
    assert transient_speed_limit(0.6) == pytest.approx(280 / math.sqrt(0.3 * 75_000))
    assert TRANSIENT_LIMIT == 2 * QUASI_STATIC_LIMIT


@given(length=st.integers(1, 8), seed=st.integers(0, 99))
def test_padding_is_not_read(length, seed):
    draw = torch.Generator().manual_seed(seed)
    peak = 300 * torch.rand(2, 8, 6, generator=draw).double() * (torch.rand(2, 8, 6, generator=draw) < 0.5)
    speed, lengths = torch.rand(2, 8, generator=draw).double(), torch.tensor([length, 8])
    full = safety_metrics(peak, peak, speed, lengths, 0.1)
    cut = safety_metrics(peak[:1, :length], peak[:1, :length], speed[:1, :length], lengths[:1], 0.1)
    for name, value in cut.items():
        assert torch.equal(value[0], full[name][0]), name
