"""Whole networks in integers: against the simulated ones, their state, and what is refused."""

import copy
import math

import given
import given_quantization
import pytest
import torch
from given_kernels import steps_apart
from given_quantization import Everything, everything, on_grids
from torch import nn
from torch.nn import functional

from lib import models, storage
from lib.pruning import magnitude
from lib.quantization.affine import simulate
from lib.quantization.shared import graph
from lib.quantization.shared.activation import activations
from lib.quantization.shared.integer_network import convert, round_biases


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("build", [models.lenet_300_100, models.resnet8])
def test_with_rounded_biases_and_one_rounding_both_networks_agree(build, bits):
    images = torch.rand(6, 1, 28, 28) if build is models.lenet_300_100 else torch.rand(6, 3, 16, 16)
    simulated = on_grids(build(), images, bits=bits)
    round_biases(simulated)
    steps = steps_apart(simulated, convert(simulated, rounding="once"), images)
    assert steps == 0 if build is models.lenet_300_100 else steps <= 2  # sums of residuals can tie


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_each_part_of_a_network_of_torchvision_is_within_one_step(name):
    model, images = given_quantization.of_torchvision(name)
    simulated = on_grids(model, images)
    with torch.no_grad():
        apart = given_quantization.Apart(convert(simulated), simulated, images)
    assert len(apart.steps) > 60 and max(int(steps.max()) for steps in apart.steps.values()) <= 1


def test_functions_and_concatenations_are_exact():
    """Tables hold what the simulated network computes, so no part after the layers adds a step."""
    model, images = given_quantization.of_torchvision("mobilenet_v3_small")
    simulated = on_grids(model, images)
    with torch.no_grad():
        apart = given_quantization.Apart(convert(simulated), simulated, images)
    tables = [name for name, node in named(simulated).items() if isinstance(node, nn.Hardswish | nn.Hardsigmoid)]
    assert len(tables) > 20 and all(int(apart.steps[name].max()) == 0 for name in tables)


def named(simulated):
    return {
        node.name: simulated.get_submodule(node.target) for node in simulated.graph.nodes if node.op == "call_module"
    }


def residual(bits):
    """Two convolutions of one pixel, whose sums fit int32 whatever the bits, and a residual sum."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2, self.fc = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)

        def forward(self, x):
            x = self.c1(x)
            return self.fc(functional.relu(x + self.c2(x)).mean((2, 3)))

    images = rand(16, 1, 4, 4)
    return given.seeded(Net), images


@pytest.mark.parametrize("bits", range(2, 17))
def test_a_residual_sum_is_right_at_every_width_or_refused(bits):
    model, images = residual(bits)
    simulated = on_grids(model, images, bits=bits, edge_bits=bits)
    if bits == 16:
        with pytest.raises(ValueError, match=r"a sum in layer 'c2' may reach \d+: int32 ends at"):
            convert(simulated)
    else:
        assert steps_apart(simulated, convert(simulated), images) <= 2


@pytest.mark.parametrize("rounding", ["twice", "once"])
def test_the_state_is_the_network(rounding, tmp_path):
    images = torch.rand(6, 3, 8, 8, generator=given.generator())
    network = convert(everything(0), rounding=rounding)
    wanted = network(images)
    assert not list(network.parameters())
    storage.save(network, tmp_path / "network.slim")
    for load in (
        lambda other: other.load_state_dict(network.state_dict()),
        lambda other: storage.load(tmp_path / "network.slim", other),
    ):
        other = convert(everything(5, 2.0), rounding="twice")
        assert not torch.equal(other(images), wanted)
        load(other)
        assert torch.equal(other(images), wanted)
        with pytest.raises((RuntimeError, ValueError), match=r"size mismatch|another architecture"):
            load(convert(everything(5, 2.0, bits=7)))  # its tables have other sizes
    twin = copy.deepcopy(network)
    for buffer in network.buffers():
        buffer.zero_()
    assert torch.equal(twin(images), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_move_to_another_type_changes_no_answer(dtype):
    images = torch.rand(6, 3, 8, 8, generator=given.generator())
    network = convert(everything(0))
    assert torch.equal(copy.deepcopy(network).to(dtype)(images), network(images))


def test_a_network_of_doubles_answers_in_doubles():
    images = torch.rand(6, 3, 8, 8, generator=given.generator()).double()
    simulated = on_grids(given.seeded(Everything).double(), images)
    assert convert(simulated)(images).dtype == torch.float64
    assert steps_apart(simulated, convert(simulated), images) <= 2


def test_converting_leaves_the_simulated_network_alone():
    simulated = everything(0).train()
    before = given.state(simulated)
    network = convert(simulated)
    network.eval()
    for buffer in network.buffers():
        buffer.zero_()
    assert given.same_state(given.state(simulated), before) and all(m.training for m in simulated.modules())


def test_one_dimension_one_sample_and_functions_instead_of_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 3, 3), nn.Linear(9, 2)

        def forward(self, x):
            x = functional.relu(self.a(x))
            return self.b(functional.max_pool1d(x + x.relu(), 2).view(x.size(0), -1))

    simulated = on_grids(Net(), rand(1, 1, 8))
    assert steps_apart(simulated, convert(simulated), rand(1, 1, 8)) <= 1


def test_networks_without_grids_are_refused():
    for model in (nn.Linear(2, 2), graph.traced(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="has no grids"):
            convert(model)
    with pytest.raises(ValueError, match="no image has gone through"):
        convert(simulate(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="rounding must be one of twice, once, not 'up'"):
        convert(simulate(nn.Linear(2, 2)), rounding="up")
    with pytest.raises(ValueError, match=r"activation 'input_1_grid' has 17 bits: accepted are up to 16"):
        convert(on_grids(nn.Linear(2, 2), rand(2, 2), edge_bits=17))
    with pytest.raises(ValueError, match=r"0.bias is torch.bfloat16: accepted are float32 and float64"):
        convert(on_grids(nn.Linear(2, 2), rand(2, 2)).bfloat16())
    with pytest.raises(ValueError, match="the images hold NaN"):
        convert(on_grids(nn.Linear(2, 2), rand(2, 2)))(torch.tensor([[math.nan, 0.0]]))


def test_a_layer_that_is_used_twice_has_no_one_rounded_bias():
    layer = nn.Linear(3, 3)
    simulated = on_grids(nn.Sequential(layer, nn.ReLU(), layer), rand(4, 3))
    assert steps_apart(simulated, convert(simulated), rand(4, 3)) <= 1
    with pytest.raises(ValueError, match="layer '0' is used more than once"):
        round_biases(simulated)


def test_weights_that_are_not_on_a_grid_are_refused():
    simulated = on_grids(models.lenet_300_100(), torch.rand(2, 1, 28, 28))
    magnitude.prune(simulated, density=0.5)  # takes the place of the grid
    with pytest.raises(ValueError, match="weight of layer 'fc1' is not on a grid: accepted is what simulate returns"):
        convert(simulated)


def test_16_bits_are_finer_than_8():
    images = torch.rand(4, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Sigmoid())
    gaps = []
    for bits in (8, 14):
        simulated = on_grids(model, images, bits=bits, edge_bits=bits)
        gaps.append((convert(simulated)(images) - model(images)).abs().max())
        assert steps_apart(simulated, convert(simulated), images) <= 2
    assert gaps[1] < gaps[0] / 8 and len(activations(simulated)) == 5
