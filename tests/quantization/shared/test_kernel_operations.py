"""Parts on torch's quantized tensors, one at a time, against the numbers that they stand for."""

import copy
import math

import given
import pytest
import torch
from given_quantization import everything, on_grids
from torch import nn

from lib import storage
from lib.quantization.shared import kernel_operations, operations, torch_kernels
from lib.quantization.shared.grids import grid

pytestmark = pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")


def drawn(chosen, *shape, seed=0):
    """Numbers of a grid, as torch's quantized tensor and as floats."""
    q = torch.randint(chosen.low, chosen.high + 1, shape, generator=given.generator(seed))
    r = chosen.dequantize(q)
    return torch.quantize_per_tensor(r, chosen.scale.item(), chosen.zero.item() - chosen.low, torch.quint8), r


def apart(quantized, expected, after):
    return (quantized.int_repr().long() + after.low - after.quantize(expected)).abs().max()


def test_sums_products_and_concatenations():
    ga, gb, after = grid(-1.0, 3.0), grid(-0.2, 0.9), grid(-1.1, 2.5)
    (a, ra), (b, rb) = drawn(ga, 2, 4, 5, 5), drawn(gb, 2, 4, 5, 5, seed=1)
    small, rs = drawn(gb, 2, 4, 1, 1, seed=2)
    for alpha in (1, -1, 2.5):
        part = kernel_operations.weighed_sum("sum", operations.Sum(alpha), [ga, gb], after)
        assert apart(part(a, b), ra + alpha * rb, after) <= 1
        assert apart(part(a, small), ra + alpha * rs, after) <= 1
    part = kernel_operations.Product("product", operations.Product(), [ga, gb], after)
    assert apart(part(a, small), ra * rs, after) <= 1 and apart(part(small, a), rs * ra, after) <= 1
    part = kernel_operations.Concatenation("cat", operations.Concatenation(1), [ga, gb], after)
    assert apart(part(a, b), torch.cat([ra, rb], 1), after) <= 1


def test_what_has_no_kernel_goes_by_float():
    before, after = grid(-4.0, 5.0), grid(-0.3, 1.0)
    q, r = drawn(before, 2, 4, 6, 6)
    means = nn.AdaptiveAvgPool2d(4), nn.AvgPool2d(3, 2, 1), operations.Mean((2, 3))
    for layer in (nn.SiLU(), nn.Hardtanh(-0.2, 0.4), *means):
        assert apart(kernel_operations.ByFloat("f", layer, [before], after)(q), layer(r), after) <= 1
    for pool in (nn.AdaptiveMaxPool2d(3), nn.MaxPool2d(2)):
        assert apart(kernel_operations.ByFloat("pool", pool, [before], before)(q), pool(r), before) == 0


def test_clamps_and_those_that_are_not_needed():
    for chosen in (grid(-1.0, 7.0), grid(0.0, 5.0), grid(0.0, 9.0)):
        q, r = drawn(chosen, 400)
        for clamp in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, math.inf), nn.Hardtanh(0.5, 2.0)):
            for part in (kernel_operations.fused_clamp, kernel_operations.Clamp):
                module = part("clamp", clamp, [chosen], chosen) or nn.Identity()
                assert apart(module(q), clamp(r), chosen) == 0
    assert kernel_operations.fused_clamp("relu", nn.ReLU(), [], grid(0.0, 5.0)) is None


def test_ends_keep_types_and_refuse_nan():
    chosen, r = grid(-1.0, 2.0), torch.linspace(-2, 3, 50, dtype=torch.float64)
    q = kernel_operations.Quantize(chosen)(r)
    assert torch.equal(q.int_repr().long() - 128, chosen.quantize(r.float()))
    assert kernel_operations.Dequantize(chosen, torch.float64)(q).dtype == torch.float64
    with pytest.raises(ValueError, match="the images hold NaN"):
        kernel_operations.Quantize(chosen)(torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="layer 'input': the kernels take activations of 8 bits, not of 7"):
        kernel_operations.Quantize(grid(-1.0, 2.0, bits=7))


def test_weights_are_packed_again_where_a_buffer_has_changed():
    simulated = on_grids(nn.Linear(6, 3), torch.rand(9, 6))
    network, x = torch_kernels.convert_to_kernels(simulated), torch.rand(9, 6)
    layer = network.get_submodule("_0_integer")
    before, packed = network(x), layer.ready()
    assert layer.ready() is packed
    with torch.no_grad():
        layer.bias += 0.5
    assert layer.ready() is not packed and not torch.equal(network(x), before)
    layer.bias -= 0.5
    layer.codes.neg_()
    assert not torch.equal(network(x), before)


def test_the_state_is_the_network(tmp_path):
    images = torch.rand(6, 3, 8, 8, generator=given.generator())
    network = torch_kernels.convert_to_kernels(everything(0))
    wanted = network(images)
    assert not list(network.parameters())
    storage.save(network, tmp_path / "network.slim")
    for load in (
        lambda other: other.load_state_dict(network.state_dict()),
        lambda other: storage.load(tmp_path / "network.slim", other),
    ):
        other = torch_kernels.convert_to_kernels(everything(5, 2.0))
        assert not torch.equal(other(images), wanted)  # packed, with its own weights
        load(other)
        assert torch.equal(other(images), wanted)
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(copy.deepcopy(network).to(dtype)(images), wanted)
    twin = copy.deepcopy(network)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(network)(images), wanted)
    for buffer in network.buffers():
        buffer.zero_()
    assert torch.equal(twin(images), wanted)
