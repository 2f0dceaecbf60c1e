"""Transposed convolutions: the plain ones in their place, in floats, in Python's integers and on torch's kernels."""

import given
import pytest
import torch
from given_kernels import steps_apart
from given_quantization import exactly, on_grids
from torch import fx, nn
from torch.nn import functional

from lib.book.zoo import networks
from lib.book.zoo.agreement import Apart
from lib.quantization import affine
from lib.quantization.shared import integer_network, onnx_integers, torch_kernels
from lib.quantization.shared.transposed import restore, unfold

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
GEOMETRIES = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "padding": 2},
    {"kernel_size": 1, "stride": 3, "output_padding": 2},
    {"kernel_size": 2, "stride": 3, "dilation": 2, "groups": 2, "bias": False},
    {"kernel_size": 2, "padding": 3, "stride": 4},  # cuts off more than the filter reaches
]


def layer_of(rank: int, options: dict) -> nn.Module:
    return given.seeded(lambda: KINDS[rank](4, 6, **options))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", GEOMETRIES)
def test_zeros_and_a_plain_convolution_give_the_same(rank, options):
    layer = layer_of(rank, options).double()
    x = torch.rand(2, 4, *(4, 5, 3)[:rank], dtype=torch.float64, generator=given.generator())
    network = fx.symbolic_trace(nn.Sequential(layer))
    unfold(network)
    assert not any(isinstance(module, KINDS[rank]) for module in network.modules())
    torch.testing.assert_close(network(x), layer(x), rtol=0, atol=1e-12)
    restore(network)
    assert len(list(network.children())) == 1 and repr(network.get_submodule("0")) == repr(layer)
    assert torch.equal(network(x), layer(x))


def test_each_side_has_a_geometry_of_its_own():
    layer = nn.ConvTranspose2d(2, 3, (1, 3), stride=(3, 2), padding=(0, 1), output_padding=(2, 0), dilation=(1, 2))
    network, x = fx.symbolic_trace(nn.Sequential(layer)), torch.rand(1, 2, 3, 4)
    unfold(network)
    torch.testing.assert_close(network(x), layer(x))


@pytest.mark.parametrize("options", GEOMETRIES)
@pytest.mark.parametrize("bits", [8, 5])
def test_integers_are_those_of_python(options, bits):
    layer = layer_of(2, options)
    images = torch.rand(3, 4, 4, 5, generator=given.generator()) - 0.3
    simulated = on_grids(layer, images, bits=bits)
    read, after = (activation.grid() for activation in affine.activations(simulated))
    network = integer_network.convert(simulated)
    part = network.get_submodule("_0_integer")
    q1 = (read.quantize(images) - read.zero).double()
    groups = layer.groups  # the filters as torch's transposed convolution reads them
    q2 = part.q2.double().flip(2, 3).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    place = (layer.stride, layer.padding, layer.output_padding, groups, layer.dilation)
    total = functional.conv_transpose2d(q1, q2, part.bias.double(), *place).long()
    for channel in range(6):
        m0, exponent = (of[channel].item() for of in part.factor)
        sums = total[:, channel].flatten().tolist()
        expected = [min(after.high, max(after.low, after.zero.item() + exactly(x, m0, exponent))) for x in sums]
        assert after.quantize(network(images))[:, channel].flatten().tolist() == expected
    assert len(total.unique()) > 20


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("options", GEOMETRIES)
def test_kernels_are_within_one_step(rank, options):
    images = torch.rand(3, 4, *(4, 5)[:rank], generator=given.generator()) - 0.3
    simulated = on_grids(layer_of(rank, options), images)
    assert steps_apart(simulated, torch_kernels.convert_to_kernels(simulated), images) <= 1


@pytest.mark.parametrize("convert", [integer_network.convert, torch_kernels.convert_to_kernels])
def test_each_part_of_a_u_net_is_within_one_step(convert):
    if convert is torch_kernels.convert_to_kernels and not torch_kernels.kernels_available():
        pytest.skip("torch has no exact kernels here")
    model, split = networks.build("U-Net")
    simulated = on_grids(model, split.images)
    apart = Apart(convert(simulated), simulated, split.images).steps
    assert {"up2", "up1"} <= set(apart) and max(int(steps.max()) for steps in apart.values()) <= 1


def test_batch_norm_is_folded_and_a_layer_may_be_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.norm = nn.ConvTranspose2d(3, 3, 2, stride=2), nn.BatchNorm2d(3)
            self.last = nn.ConvTranspose2d(3, 3, 2, stride=2)

        def forward(self, x):
            return self.norm(self.last(self.up(self.up(x))))

    model, images = given.seeded(Twice), torch.rand(2, 3, 4, 4)
    model(images)  # the batch norm sees some images
    simulated = on_grids(model.eval(), images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in simulated.modules())
    for activation in affine.activations(simulated):
        activation.quantizing = False
    exact, rounded = model(images), simulated(images)
    assert (rounded - exact).norm() < 0.05 * exact.norm()  # only the weights are rounded


def test_what_is_frozen_stays_so_and_the_model_is_left():
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2)).eval()
    model[0].weight.requires_grad_(False)
    before = given.state(model)
    simulated = affine.simulate(model)
    assert isinstance(model[0], nn.ConvTranspose2d) and given.same_state(given.state(model), before)
    trained = {name.split(".")[1]: value.requires_grad for name, value in simulated.named_parameters()}
    assert trained == {"parametrizations": False, "bias": True}  # the weight, and the bias


def test_a_told_output_size_and_hooks_are_refused():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 3, 2, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(5, 5))

    with pytest.raises(ValueError, match=r"^up \(ConvTranspose2d\) has no integer form"):
        affine.simulate(Told())
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^layer '0' .* has a forward hook"):
        affine.simulate(model)


def test_an_onnx_file_holds_them(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images = torch.rand(3, 4, 4, 5, generator=given.generator())
    simulated = on_grids(nn.Sequential(layer_of(2, GEOMETRIES[1]), nn.Flatten()), images)
    assert onnx_integers.export(simulated, tmp_path / "up.onnx", images, steps=1) > 0
