"""torch's own 8-bit kernels, as a second implementation of the integer network."""

import copy

import pytest
import torch
from torch import nn

from lib import models
from lib.datasets import Split
from lib.quantization.affine import activations, calibrate, simulate
from lib.quantization.shared import integer_network, torch_kernels
from lib.training import error_pct
from lib.vision import torchvision


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5"])
def test_integer_and_simulated_networks_agree_and_so_do_the_kernels(name):
    model, images = getattr(models, name)(), torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    simulated = calibrate(simulate(model), images)
    step = activations(simulated)[-1].grid().scale
    networks = [integer_network.convert(simulated)]
    if torch_kernels.kernels_available():
        networks.append(torch_kernels.convert_to_kernels(simulated))
    with torch.no_grad():
        expected = simulated(images)
        for network in networks:
            steps = ((network(images) - expected) / step).abs()
            assert steps.max() < 1.01 and (steps > 0.5).float().mean() < 0.3
    split = Split(images, expected.argmax(1))
    assert error_pct(networks[0], split) <= 5  # of an untrained network, whose answers lie close together


def test_the_processor_is_named_and_missing_kernels_are_said(monkeypatch):
    assert all(torch_kernels.processor().values())
    monkeypatch.setattr(torch_kernels, "exact_engine", lambda preferred: None)
    assert torch_kernels.processor()["kernels for 8 bits"] == "none that is exact: int32 without kernels"
    assert not torch_kernels.kernels_available()
    with pytest.raises(ValueError, match="no quantized kernels that add exactly on this processor: use convert"):
        torch_kernels.convert_to_kernels(calibrate(simulate(nn.Linear(2, 2)), torch.rand(1, 2)))


@pytest.mark.parametrize("wrong", [["x86"], ["x86", "fbgemm"], ["x86", "fbgemm", "onednn"]])
def test_engines_that_cut_sums_off_are_not_used(monkeypatch, wrong):
    exact = [name for name in ("fbgemm", "onednn", "qnnpack") if name not in wrong and torch_kernels.adds_exactly(name)]
    right, before = torch_kernels.adds_exactly, torch.backends.quantized.engine
    monkeypatch.setattr(torch_kernels, "adds_exactly", lambda name: name not in wrong and right(name))
    torch_kernels.exact_engine.cache_clear()
    assert torch_kernels.exact_engine("x86") == next(iter(exact), None)
    torch_kernels.exact_engine.cache_clear()
    assert torch.backends.quantized.engine == before


KINDS = {
    "linear": (nn.Linear(60, 5), (60,)),
    "convolution": (nn.Conv2d(16, 12, 3, padding=1), (16, 5, 5)),
    "few channels": (nn.Conv2d(3, 8, 3), (3, 6, 6)),
    "one pixel": (nn.Conv2d(64, 8, 1), (64, 3, 3)),
    "depthwise": (nn.Conv2d(16, 16, 3, groups=16), (16, 5, 5)),
    "two groups": (nn.Conv2d(16, 8, 3, groups=2), (16, 5, 5)),
}


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signs", ["ones", "random", "mostly ones"])
def test_the_largest_values_are_added_exactly_by_the_kernels(kind, signs):
    """uint8 near 255 and int8 of 127 or -127: two products do not fit into 16 bits."""
    layer, shape = copy.deepcopy(KINDS[kind][0]), KINDS[kind][1]
    generator = torch.Generator().manual_seed(0)
    threshold = {"ones": -1.0, "random": 0.5, "mostly ones": 0.1}[signs]
    drawn = torch.rand(layer.weight.shape, generator=generator)
    layer.weight.data = torch.where(drawn < threshold, -0.1, 0.1)
    x = 0.8 + 0.2 * torch.rand(6, *shape, generator=generator)
    simulated = calibrate(simulate(layer), x)
    step = activations(simulated)[-1].grid().scale
    with torch.no_grad():
        expected = simulated(x)
        for convert in (integer_network.convert, torch_kernels.convert_to_kernels):
            assert ((convert(simulated)(x) - expected) / step).abs().max() < 1.01


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_a_layer_of_torch_ao_is_the_same():
    from torch.ao.nn import quantized

    layer = nn.Linear(20, 6)
    x = torch.rand(50, 20)
    simulated = calibrate(simulate(layer), x)
    first, last = (activation.grid() for activation in activations(simulated))
    form, weight = simulated.get_submodule("0").parametrizations.weight[0], layer.weight.detach()
    scale = form.grid(weight).scale.flatten().double()
    with torch_kernels._quiet():
        packed = torch.quantize_per_channel(weight, scale, torch.zeros(6).long(), 0, torch.qint8)
    with torch_kernels._engine(torch_kernels.exact_engine(torch.backends.quantized.engine)):  # others may cut sums off
        peer = quantized.Linear(20, 6)
        peer.set_weight_bias(packed, layer.bias.detach())
    peer.scale, peer.zero_point = last.scale.item(), last.zero.item() + 128
    q = torch.quantize_per_tensor(x, first.scale.item(), first.zero.item() + 128, torch.quint8)
    ours = last.quantize(integer_network.convert(simulated)(x))
    assert (peer(q).int_repr().long() - 128 - ours).abs().max() <= 1


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_residual_and_depthwise_networks_of_torchvision_follow_the_simulated_one():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    for name in ("mobilenet_v2", "resnet18"):
        simulated = calibrate(simulate(getattr(torchvision.models, name)(num_classes=10)), x)
        step = activations(simulated)[-1].grid().scale
        with torch.no_grad():
            expected = simulated(x)
            for convert in (integer_network.convert, torch_kernels.convert_to_kernels):
                assert (convert(simulated)(x) - expected).abs().max() < 20 * step  # of 255, through dozens of layers


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_what_the_kernels_do_not_compute_is_refused():
    x = torch.rand(1, 2, 8, 8)
    for layer, more, says in (
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), {}, "border of zeros"),
        (nn.Conv2d(2, 2, 3), {"symmetric": False}, "symmetric weights"),
        (nn.Conv2d(2, 2, 3), {"edge_bits": 4}, "activations of 8 bits, not of 4"),
    ):
        with pytest.raises(ValueError, match=says):
            torch_kernels.convert_to_kernels(calibrate(simulate(layer, **more), x))
