"""Powers of two: AP2 by its formula, batch norm and AdaMax against a second implementation, networks that learn."""

import copy
import math

import given
import pytest
import torch
from given_binarization import alive, converted_alike
from torch import nn

from lib import models, training
from lib.binarization import bnn
from lib.binarization.shared.shifts import ShiftAdaMax, ShiftBatchNorm1d, ShiftBatchNorm2d, ap2, shift_norms
from lib.datasets import Split


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=given.generator(seed), dtype=dtype)


def power_of_two(x):
    """Whether every value is 0 or, but for its sign, a power of two."""
    part, _ = torch.frexp(x.double().abs())
    return bool(((part == 0.5) | (x == 0)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ap2_is_the_power_of_two_of_the_formula(dtype):
    x = torch.cat([random(2000) * 10.0 ** random(2000, seed=1), torch.tensor([0.0, 1.0, -2.0, 2**-140, 2**0.5])])
    x = x.to(dtype)
    found = ap2(x)
    assert found.dtype == dtype and power_of_two(found) and torch.equal(found.sign(), x.sign())
    for value, power in zip(x.double().tolist(), found.double().tolist(), strict=True):
        exact = math.log2(abs(value)) if value else 0.0
        assert not value or abs(abs(exact - round(exact)) - 0.5) < 1e-6 or abs(power) == 2.0 ** round(exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ap2_of_the_largest_numbers_is_finite(dtype):
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype)
    assert ap2(largest).item() == ap2(0.6 * largest).item() == 2.0 ** math.floor(math.log2(largest.item()))


def test_the_gradient_of_ap2_is_that_of_its_argument():
    x = random(9).requires_grad_()
    (ap2(x) * torch.arange(9.0)).sum().backward()
    assert x.grad.tolist() == list(range(9))


def normalized_by_hand(x, norm):
    """Channel by channel, with Python's own numbers."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].double().flatten()
        centered = values - values.mean()
        variance = (centered * ap2(centered)).mean().item()
        factor = 2.0 ** round(math.log2(1 / math.sqrt(variance + norm.eps)))
        gamma, beta = norm.weight[c].item(), norm.bias[c].item()
        gamma = math.copysign(2.0 ** round(math.log2(abs(gamma))), gamma)
        out[:, c] = (centered * factor * gamma + beta).reshape(x[:, c].shape).to(x.dtype)
    return out


@pytest.mark.parametrize(
    ("kind", "shape"), [(ShiftBatchNorm1d, (30, 5)), (ShiftBatchNorm1d, (9, 5, 7)), (ShiftBatchNorm2d, (6, 5, 4, 3))]
)
def test_batch_norm_multiplies_by_powers_of_two_alone(kind, shape):
    norm = kind(5, eps=1e-4).double()
    with torch.no_grad():
        norm.weight.copy_(random(5, seed=3))
        norm.bias.copy_(random(5, seed=4))
    x = 3 * random(*shape, dtype=torch.float64) + 2
    found = norm(x)
    torch.testing.assert_close(found, normalized_by_hand(x, norm))
    column = (1, -1, *[1] * (len(shape) - 2))
    axes = [0, *range(2, len(shape))]
    ratio = (found - norm.bias.reshape(column)) / (x - x.mean(axes, keepdim=True))
    factors = ratio.transpose(0, 1).flatten(1).median(1).values
    assert power_of_two(factors.round(decimals=12))
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(axes))
    before = copy.deepcopy(norm.eval())
    expected = (x - norm.running_mean.reshape(column)) * ap2((norm.running_var + norm.eps).rsqrt()).reshape(column)
    expected = expected * ap2(norm.weight).reshape(column) + norm.bias.reshape(column)
    assert torch.equal(norm(x), expected) and given.equal(norm, before)


def test_batch_norm_without_statistics_or_parameters_and_with_equal_weight_of_batches():
    x = random(8, 3) + 1
    assert torch.equal(
        *(ShiftBatchNorm1d(3, affine=False, track_running_stats=False).train(t)(x) for t in (True, False))
    )
    norm = ShiftBatchNorm1d(3, momentum=None)
    norm(x), norm(3 * x)
    torch.testing.assert_close(norm.running_mean, 2 * x.mean(0))
    with pytest.raises(ValueError, match="expected 4D input"):
        ShiftBatchNorm2d(3)(x)


def test_every_norm_becomes_one_of_shifts_and_keeps_its_state():
    model = bnn.binarize(models.lenet5(), classes=10).eval()
    model(torch.rand(4, 1, 28, 28))
    before, text = given.state(model), str(model)
    assert shift_norms(model) is model and given.same_state(given.state(model), before)
    assert str(model) == text.replace("(norm): Batch", "(norm): ShiftBatch").replace("(1): Batch", "(1): ShiftBatch")
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match="Sequential has no batch norm of rows or images"):
        shift_norms(models.lenet5())
    own = bnn.binarize(shift_norms(models.mlp(hidden=(8, 8))))  # before as well as after
    assert isinstance(own.bn1, ShiftBatchNorm1d) and type(own.fc2.norm) is nn.Identity


@pytest.mark.parametrize("momentum", [0.0, 0.875])
def test_steps_of_adamax_are_those_written_out(momentum):
    w = nn.Parameter(random(40))
    ours, second = w.detach().double(), 1 - 2**-10
    optimizer = ShiftAdaMax([w], lr=0.003, betas=(momentum, second), weight_decay=0.01)
    m = v = torch.zeros(40, dtype=torch.float64)
    for t in range(1, 6):
        gradient = random(40, seed=t)
        gradient[:3] = 0  # no gradient at all yet: the weight stays but for its decay
        w.grad = gradient.clone()
        with torch.no_grad():
            gradient = gradient.double() + 0.01 * ours
        m = momentum * m + (1 - momentum) * gradient
        v = torch.maximum(second * v, gradient.abs())
        rate = 2.0 ** round(math.log2(0.003 / (1 - momentum**t)))
        change = torch.tensor([rate * a / 2.0 ** round(math.log2(b)) if b else 0.0 for a, b in zip(m, v, strict=True)])
        before = w.detach().clone()
        optimizer.step()
        torch.testing.assert_close(before - w.detach(), change.float(), rtol=1e-3, atol=1e-7)
        ours = w.detach().double()


def test_a_weight_without_a_gradient_stays():
    w, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = ShiftAdaMax([{"params": [w]}, {"params": [other], "lr": 1.0}])
    w.grad = torch.zeros(3)
    assert optimizer.step(lambda: 7) == 7 and w.tolist() == [1, 1, 1] and other.tolist() == [1, 1]
    assert optimizer.defaults["lr"] == 2**-10 and optimizer.defaults["betas"] == (0.875, 1 - 2**-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be a finite number above 0, not 0.0"),
        ({"lr": math.nan}, "lr must be a finite number above 0, not nan"),
        ({"betas": (1.0, 0.9)}, r"betas must be from 0 to below 1, not \(1.0, 0.9\)"),
    ],
)
def test_settings_of_adamax_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShiftAdaMax([nn.Parameter(torch.ones(2))], **options)


@pytest.mark.parametrize("build", [lambda: models.mlp(inputs=64, hidden=(40, 40), classes=4), models.vgg_small])
def test_a_network_of_shifts_learns_and_is_counted_on_bits(build):
    draw = given.generator()
    if build is models.vgg_small:
        model, images = models.vgg_small(width=4, classes=4), torch.rand(24, 3, 32, 32, generator=draw)
    else:
        model, images = build(), torch.rand(80, 1, 8, 8, generator=draw)
    labels = torch.arange(len(images)) % 4
    images[torch.arange(len(images)), :, labels] += 1.0  # a bright row for each class
    split = Split(images, labels)
    model = shift_norms(bnn.binarize(model))
    epochs = 12 if len(images) == 80 else 3
    losses = bnn.fit(model, split, epochs=epochs, seed=0, learning_rate=2**-6, batch_size=8)
    assert losses[-1] < losses[0] and alive(copy.deepcopy(model), images[:12])
    if epochs == 12:
        assert training.error_pct(model, split) < 20  # by chance 75
    assert converted_alike(model, images[:4].contiguous(memory_format=torch.channels_last))
