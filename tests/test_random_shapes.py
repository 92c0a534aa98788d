"""Random shapes: each number is one shape, of a size and weight that a hand holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from dexh2r_gym.objects.random_shapes import random_shape

NUMBERS = range(10)  # two of each of the five kinds


@pytest.mark.parametrize("number", NUMBERS)
def test_a_shape_is_one_solid_that_a_hand_can_hold(number: int) -> None:
    obj = random_shape(number)
    assert obj.name == f"shape_{number:05d}"
    solid = trimesh.Trimesh(obj.vertices, obj.faces, process=False)
    assert solid.is_watertight and solid.body_count == 1
    assert obj.volume == pytest.approx(solid.volume, rel=1e-6)
    assert 0.09 < obj.extents.max() < 0.36 and obj.extents.argmax() == 2
    assert 0.009 < obj.extents.min() < 0.105
    assert 200 < obj.mass / obj.volume < 1000
    np.testing.assert_allclose(obj.center_of_mass, 0, atol=1e-5)
    assert obj.signed_distance(obj.points).abs().max() < 1e-5


def test_the_same_number_is_the_same_shape_and_another_number_another() -> None:
    first, again, other = random_shape(2), random_shape.__wrapped__(2), random_shape(7)  # of one kind
    assert first is not again and first.mass == again.mass
    assert torch.equal(first.points, again.points) and torch.equal(first.sdf_grid, again.sdf_grid)
    assert not np.allclose(first.extents, other.extents, atol=1e-3)


def test_the_kinds_are_boxes_round_bodies_tools_bars_and_plates() -> None:
    block, bottle, tool, bar, flat = (random_shape(number) for number in range(5))
    assert len(block.parts) == 1 and block.volume == pytest.approx(float(np.prod(block.extents)), rel=1e-4)
    # Round about z: the outline at any height is as wide along its diagonals as an ellipse, not as a box.
    corners = np.abs(bottle.vertices[:, :2]) / (bottle.extents[:2] / 2)
    assert (corners.min(1) < 0.75).all()
    assert tool.volume < 0.6 * np.prod(tool.extents)  # a head that stands out from its handle
    assert bar.extents[2] > 2 * bar.extents.min()
    assert flat.extents.min() < 0.3 * np.sort(flat.extents)[1]
    assert len({len(x.parts) for x in (block, tool, bar)}) > 1


def test_numbers_are_not_negative() -> None:
    with pytest.raises(ValueError):
        random_shape(-1)
