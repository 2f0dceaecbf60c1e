"""The distance of integers from what they simulate is counted where it arises, and only there."""

import torch
from torch import nn

from lib.book.zoo.agreement import Apart, Values, rounded
from lib.quantization import affine
from lib.quantization.shared import integer_network

IMAGES = torch.rand(16, 3, generator=torch.Generator().manual_seed(0))


def networks():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    simulated = affine.calibrate(affine.simulate(layers), IMAGES)
    return simulated, integer_network.convert(simulated)


def test_a_right_network_is_within_a_step_in_every_part():
    simulated, converted = networks()
    steps = Apart(converted, simulated, IMAGES).steps
    assert len(steps) >= 3 and all(each.max() <= 1 for each in steps.values())


def test_a_fault_is_seen_in_its_own_part_alone():
    simulated, converted = networks()
    right = Apart(converted, simulated, IMAGES).steps
    name = next(name for name, module in simulated.named_modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        simulated.get_submodule(name).bias += 0.5
    wrong = Apart(converted, simulated, IMAGES).steps
    changed = [name for name in right if not torch.equal(right[name], wrong[name])]
    assert changed and wrong[changed[0]].max() > 1
    assert all(each.max() <= 1 for node, each in wrong.items() if node != changed[0])


def test_a_value_is_kept_for_each_node():
    simulated, _ = networks()
    values = Values(simulated, IMAGES).values
    assert set(values) == {node.name for node in simulated.graph.nodes}
    assert torch.equal(values["output"], simulated(IMAGES))


def test_a_part_is_rounded_by_the_activation_after_it():
    simulated, _ = networks()
    ends = {node.name: rounded(simulated, node).name for node in simulated.graph.nodes}
    moved = {name for name, end in ends.items() if end != name}
    assert moved and all(ends[ends[name]] == ends[name] for name in moved)
