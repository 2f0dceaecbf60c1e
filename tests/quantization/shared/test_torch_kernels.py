"""torch's own 8-bit kernels, as a second implementation of the integer network, and which of them add exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import given_kernels
import given_quantization
import pytest
import torch
from given_kernels import steps_apart
from given_quantization import on_grids
from torch import nn

from lib import models
from lib.book.zoo.agreement import Apart
from lib.datasets import Split
from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import integer_network, torch_kernels
from lib.quantization.shared.activation import activations
from lib.quantization.shared.kernel_operations import Layer, quiet
from lib.training import error_pct

PROJECT = Path(__file__).parents[3]
# What makes torch take the kernels of a processor without 8-bit dot products, which add in 16 bits.
WITHOUT_DOTS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
needs_kernels = pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")


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


@needs_kernels
def test_each_layer_has_the_first_engine_that_adds_it_exactly(monkeypatch):
    right, used = torch_kernels.adds_layer_exactly, []

    def tried(engine, shape, place):
        used.append((engine, shape))
        return engine == "qnnpack" if len(shape) == 4 else right(engine, shape, place)

    monkeypatch.setattr(torch_kernels, "adds_layer_exactly", tried)
    monkeypatch.setattr(torch_kernels, "kernels_available", lambda: True)
    model, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2)), torch.rand(4, 1, 5, 5)
    simulated = on_grids(model, images)
    network = torch_kernels.convert_to_kernels(simulated)
    assert [engine for engine, shape in used if len(shape) == 4][-1] == "qnnpack"
    assert steps_apart(simulated, network, images) <= 1
    monkeypatch.setattr(torch_kernels, "adds_layer_exactly", lambda *_: False)
    with pytest.raises(ValueError, match="layer '0': no kernels of this torch add it up exactly on this processor"):
        torch_kernels.convert_to_kernels(simulated)


@needs_kernels
@pytest.mark.parametrize("kind", given_kernels.KINDS)
@pytest.mark.parametrize("signs", given_kernels.SIGNS)
def test_the_largest_values_are_added_exactly_by_the_kernels(kind, signs):
    """uint8 near 255 and int8 of 127 or -127: two products do not fit into 16 bits."""
    simulated, x = given_kernels.extreme(kind, signs)
    for convert in (integer_network.convert, torch_kernels.convert_to_kernels):
        assert steps_apart(simulated, convert(simulated), x) <= 1


@needs_kernels
@pytest.mark.parametrize("name", given_quantization.NETWORKS)
def test_each_part_of_a_network_of_torchvision_is_within_one_step(name):
    model, images = given_quantization.of_torchvision(name)
    simulated = on_grids(model, images)
    network = torch_kernels.convert_to_kernels(simulated)
    with torch.no_grad():
        apart = Apart(network, simulated, images)
    layers = [node.name for node in network.graph.nodes if isinstance(module(network, node), Layer)]
    assert len(layers) > 18 and set(layers) <= set(apart.steps)
    assert max(int(steps.max()) for steps in apart.steps.values()) <= 1
    assert max((steps > 0).float().mean() for steps in apart.steps.values()) < 0.05
    assert steps_apart(simulated, network, images) <= 12  # of 255: a step in one part moves those after it


def module(network, node):
    return network.get_submodule(node.target) if node.op == "call_module" else None


def test_kernels_that_add_in_16_bits_are_avoided():
    """As on a processor without 8-bit dot products: in a process of its own, since torch chooses its kernels once."""
    paths = {"PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])}
    command = [sys.executable, given_kernels.__file__]
    done = subprocess.run(command, env=os.environ | WITHOUT_DOTS | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    emulated = [exact for name, exact in found["exact"].items() if name in ("x86", "fbgemm", "onednn")]
    assert not any(emulated)  # else nothing is emulated
    assert len(found["steps"]) > 20 and max(found["steps"].values()) <= 1


@needs_kernels
def test_a_layer_of_torch_ao_is_the_same():
    from torch.ao.nn import quantized

    layer = nn.Linear(20, 6)
    x = torch.rand(50, 20)
    simulated = calibrate(simulate(layer), x)
    first, last = (activation.grid() for activation in activations(simulated))
    form, weight = simulated.get_submodule("0").parametrizations.weight[0], layer.weight.detach()
    scale = form.grid(weight).scale.flatten().double()
    with quiet():
        packed = torch.quantize_per_channel(weight, scale, torch.zeros(6).long(), 0, torch.qint8)
    with torch_kernels.packing("fc", (6, 20), None):  # other engines may cut sums off
        peer = quantized.Linear(20, 6)
        peer.set_weight_bias(packed, layer.bias.detach())
    peer.scale, peer.zero_point = last.scale.item(), last.zero.item() + 128
    q = torch.quantize_per_tensor(x, first.scale.item(), first.zero.item() + 128, torch.quint8)
    ours = last.quantize(integer_network.convert(simulated)(x))
    assert (peer(q).int_repr().long() - 128 - ours).abs().max() <= 1


@needs_kernels
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_what_the_kernels_do_not_compute_is_refused():
    x = torch.rand(1, 2, 8, 8)
    for layer, more, says in (
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), {}, "layer '0': .* a border of zeros"),
        (nn.Conv2d(2, 2, 2, padding="same"), {}, "as wide on either side"),
        (nn.Conv3d(2, 2, 3, padding=1), {}, "linear layers, 1-d and 2-d convolutions"),
        (nn.Conv2d(2, 2, 3), {"symmetric": False}, "symmetric weights"),
        (nn.Conv2d(2, 2, 3), {"edge_bits": 4}, "activations of 8 bits, not of 4"),
    ):
        images = x[:, :, None].repeat(1, 1, 3, 1, 1) if isinstance(layer, nn.Conv3d) else x
        with pytest.raises(ValueError, match=says):
            torch_kernels.convert_to_kernels(on_grids(layer, images, **more))
    with pytest.raises(ValueError, match="has no grids"):
        torch_kernels.convert_to_kernels(nn.Linear(2, 2))
