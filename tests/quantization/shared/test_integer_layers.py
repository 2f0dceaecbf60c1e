"""Linear and convolution layers of integers against Python's integers, and of all kinds against simulated ones."""

import pytest
import torch
from given_kernels import steps_apart
from given_quantization import exactly, on_grids
from torch import nn

from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared.activation import activations
from lib.quantization.shared.integer_arithmetic import multiplier
from lib.quantization.shared.integer_network import convert


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(simulated, x):
    """A convolution, ReLU and a linear layer with Python's integers, one value at a time."""
    first, second, third = (activation.grid() for activation in activations(simulated))
    q = first.quantize(x)[0].tolist()
    out = []
    for layer, before, after in ((simulated.conv, first, second), (simulated.fc, second, third)):
        form, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        weights = form.grid(weight)
        scale, codes = weights.scale.flatten().expand(len(weight)), weights.quantize(weight).tolist()
        zeros = weights.zero.flatten().expand(len(weight)).tolist()
        z1, z3, computed = before.zero.item(), after.zero.item(), []
        for channel, kernel in enumerate(codes):
            step = before.scale.double() * scale[channel].double()
            bias = 0 if layer.bias is None else round((layer.bias[channel].double() / step).item())
            m = [v.item() for v in multiplier(step / after.scale.double())]
            if isinstance(layer, nn.Linear):
                flat = [v for plane in q for row in plane for v in row]
                totals = [bias + sum((a - z1) * (b - zeros[channel]) for a, b in zip(flat, kernel, strict=True))]
            else:
                totals = []
                for y in range(len(q[0])):
                    for x0 in range(len(q[0][0])):
                        total = bias
                        for c, plane in enumerate(kernel):
                            for dy, row in enumerate(plane):
                                for dx, b in enumerate(row):
                                    i, j = y + dy - 1, x0 + dx - 1  # outside is zero, and so is a - z1
                                    if 0 <= i < len(q[0]) and 0 <= j < len(q[0][0]):
                                        total += (q[c][i][j] - z1) * (b - zeros[channel])
                        totals.append(total)
            rows = [min(after.high, max(after.low, z3 + exactly(t, *m))) for t in totals]
            computed.append(rows if isinstance(layer, nn.Linear) else [max(z3, v) for v in rows])
        if isinstance(layer, nn.Linear):
            out = [v for row in computed for v in row]
        else:
            side = len(q[0][0])
            q = [[plane[i : i + side] for i in range(0, len(plane), side)] for plane in computed]
    return out


@pytest.mark.parametrize("bits", [8, 3, 12])
@pytest.mark.parametrize(("per_channel", "symmetric"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_network_is_that_of_python_integers(per_channel, symmetric, bits):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(2, 3, 3, padding=1))
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(3 * 16, 4))
    images = rand(20, 2, 4, 4)
    simulated = simulate(model, bits=bits, per_channel=per_channel, symmetric=symmetric)
    network = convert(calibrate(simulated, images))
    last = activations(simulated)[-1].grid()
    for i in range(3):
        computed = last.quantize(network(images[i : i + 1]))[0].tolist()
        assert computed == by_hand(simulated, images[i : i + 1])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 3, 3, padding=2, dilation=2, padding_mode="reflect"),
        nn.Conv2d(4, 3, 1, padding_mode="circular", padding=1),
    ],
)
def test_convolutions_of_all_kinds_follow_the_simulated_ones(layer):
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.ReLU6(), nn.Conv2d(layer.out_channels, 1, 1), nn.MaxPool2d(2), nn.ReLU())
    images = rand(8, 4, 9, 9) + 0.5
    simulated = on_grids(model, images)
    assert steps_apart(simulated, convert(simulated), images) <= 1


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)])
def test_rows_and_tokens_and_single_images(shape):
    torch.manual_seed(0)
    simulated = on_grids(nn.Linear(4, 3), rand(*shape))
    assert steps_apart(simulated, convert(simulated), rand(*shape)) <= 1
    images = rand(6, 2, 5, 5)
    simulated = on_grids(nn.Conv2d(2, 3, 3), images)
    assert torch.equal(convert(simulated)(images[0]), convert(simulated)(images)[0])


def test_a_bias_too_large_for_its_channel_takes_a_coarser_scale():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[0] *= 1e-12  # as batch norm leaves a channel that is dead
        model[0].bias[:] = 0.5
    images = torch.rand(9, 4)
    simulated = on_grids(model, images)
    assert steps_apart(simulated, convert(simulated), images) <= 1


def test_outputs_that_are_far_smaller_than_their_products():
    """M is 2^38 and more: what is not zero leaves the grid, on the right side."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
        model.bias[:] = 1e-12
    simulated = on_grids(model, torch.zeros(2, 3))
    images = torch.tensor([[5.0, 0, 0]])
    for rounding in ("twice", "once"):
        assert steps_apart(simulated, convert(simulated, rounding=rounding), images) <= 1


def test_sums_that_may_leave_int32_are_refused_by_name():
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(4, 2))
    simulated = calibrate(simulate(model, bits=16, edge_bits=16), torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"layer 'fc' may reach .*: int32 ends at 2147483647, take fewer bits"):
        convert(simulated)
