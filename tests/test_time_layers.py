"""Layers over time are PyTorch's own, laid out otherwise: the same weights, answers and slopes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from dexh2r_gym.workers import threads
from policies import time_layers
from policies.goal_draw import GoalDraw, denoise
from policies.time_layers import Conv, Doubled, Mish, Norm
from policies.unet1d import ConditionalUNet1D

PAIRS = {
    "of one frame": (lambda: Conv(5, 7, 1), lambda: nn.Conv1d(5, 7, 1), 5),
    "of one frame, and its edges": (lambda: Conv(5, 7, 1, 1, 1), lambda: nn.Conv1d(5, 7, 1, 1, 1), 5),
    "of five": (lambda: Conv(5, 7, 5, padding=2), lambda: nn.Conv1d(5, 7, 5, padding=2), 5),
    "at half the rate": (lambda: Conv(6, 6, 3, 2, 1), lambda: nn.Conv1d(6, 6, 3, 2, 1), 6),
    "at twice the rate": (lambda: Doubled(6), lambda: nn.ConvTranspose1d(6, 6, 4, 2, 1), 6),
    "norm": (lambda: Norm(4, 8), lambda: nn.GroupNorm(4, 8), 8),
}


def _twins(name):
    """A layer of ours and PyTorch's with its weights, which are not those of a new one."""
    ours, theirs, size = PAIRS[name]
    torch.manual_seed(0)
    layer, reference = ours(), theirs()
    reference.load_state_dict({key: torch.randn_like(value) for key, value in reference.state_dict().items()})
    layer.load_state_dict(reference.state_dict())
    return layer, reference, size


@pytest.mark.parametrize("small", [0, 2**18], ids=["as windows", "as a whole"])
@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None, max_examples=15)
@given(batch=st.integers(1, 4), half=st.integers(1, 9))
def test_a_layer_answers_as_pytorchs(name, small, batch, half):
    layer, reference, size = _twins(name)
    x = torch.randn(batch, 2 * half, size, requires_grad=True)
    y = torch.randn_like(x.detach()).copy_(x.detach()).requires_grad_()
    answer, expected = layer(x), reference(y.transpose(1, 2)).transpose(1, 2)
    assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_layers, "_SMALL", small)
        assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    (answer * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_starts_from_the_same_random_weights_as_pytorchs(name):
    ours, theirs, _ = PAIRS[name]
    states = []
    for make in (ours, theirs):
        torch.manual_seed(3)
        states.append(make().state_dict())
    assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["of five", "at twice the rate"])
def test_weights_are_laid_out_as_they_are_multiplied_also_in_copies(name):
    layer, _, _ = _twins(name)
    for one in (layer, copy.deepcopy(layer), copy.deepcopy(layer).double()):
        assert one.weight.transpose(1, 2).is_contiguous()  # else every call would copy all weights


@pytest.mark.parametrize("name", ["of five", "at half the rate", "at twice the rate"])
def test_the_matrix_of_whole_sequences_follows_the_weights(name):
    """However they change: a step of training, a loaded checkpoint, a copy, another precision, another length."""
    layer, reference, size = _twins(name)
    x = torch.randn(2, 4, size)

    def check(layer, reference, x):
        with torch.no_grad():
            assert_close(layer(x), reference(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-5)

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        layer(x)
    check(layer, reference, x)
    for one in (layer, reference):
        torch.optim.SGD(one.parameters(), 0.5).step(lambda one=one: sum(p.sum() for p in one.parameters()).backward())
    check(layer, reference, x)
    reference.load_state_dict({key: torch.randn_like(value) for key, value in reference.state_dict().items()})
    layer.load_state_dict(reference.state_dict())
    check(layer, reference, x)
    check(layer, reference, x[:, :2])
    with torch.no_grad():
        for ours, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
            ours.mul_(3)
            theirs.mul_(3)
    check(copy.deepcopy(layer), reference, x)
    check(layer.double(), reference.double(), x.double())


@pytest.mark.parametrize("name", ["of five", "at twice the rate"])
def test_weights_loaded_in_inference_mode_whose_changes_nobody_counts(name):
    with torch.inference_mode():
        layer, reference, size = _twins(name)
        x = torch.randn(2, 4, size)
        for _ in range(2):
            assert_close(layer(x), reference(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-5)
            for one in (layer, reference):
                one.weight.mul_(3)


def test_mish_of_many_numbers_is_that_of_few():
    x = torch.cat((torch.linspace(-120, 120, 100_001), torch.tensor([0.0, -1e-6, 1e30, -1e30])))  # e^120 is infinite
    with torch.no_grad():
        assert_close(Mish()(x), nn.functional.mish(x), atol=2e-6, rtol=1e-6)
        assert_close(Mish()(x.double()), nn.functional.mish(x.double()), atol=1e-13, rtol=1e-12)


def test_mish_of_a_row_has_the_same_bits_among_any_number_of_rows():
    x = torch.randn(64, 444, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), threads(1):
        every = Mish()(x)
        for count in range(16, 64):
            assert torch.equal(Mish()(x[:count]), every[:count]), count


@pytest.mark.parametrize("net", [ConditionalUNet1D(5, 7, (16, 24, 32), 5), GoalDraw(5, 7)], ids=["plan", "goal"])
def test_what_the_condition_says_can_be_computed_for_all_steps_at_once(net):
    noisy = torch.randn(3, 8, 5) if isinstance(net, ConditionalUNet1D) else torch.randn(3, 5)
    condition, steps = torch.randn(3, 7), torch.tensor([90, 40, 0])
    with torch.no_grad():
        films = net.films(steps[:, None], condition)
        for number, step in enumerate(steps):
            at_once = net.clean(noisy, [film[number] for film in films])
            assert_close(at_once, net(noisy, step.expand(3), condition), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(films[0][0], films[0][1], atol=1e-3)


def test_noise_is_cleaned_step_by_step():
    """Of a net whose clean value is what it is told, whatever the noise: DDIM's last step arrives there."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    taken = []

    class Told:
        def films(self, step, condition):
            return [step[..., None].expand(-1, len(condition), 1).float(), condition.expand(len(step), -1, -1)]

        def clean(self, noisy, films):
            taken.append(float(films[0][0, 0]))
            return films[1]

    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False)
    told = torch.randn(4, 3)
    cleaned = denoise(Told(), torch.randn(4, 3), told, scheduler, 5)
    assert_close(cleaned, told, atol=1e-5, rtol=1e-5)
    assert taken == [800, 600, 400, 200, 0]
