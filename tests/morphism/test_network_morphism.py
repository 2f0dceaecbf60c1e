"""Every morph, and random chains of them, compute what the network computed: ours and two of torchvision's."""

import pickle

import pytest
import torch
from given import equal, generator, refused, same_state, state
from given_morphism import chain, crossing, difference, images, of_torchvision
from torch import nn

from lib.morphism import network_morphism as morphs
from lib.morphism.network_morphism import Operation, largest_difference, operations


@pytest.fixture
def unproved(monkeypatch):
    """Morphs without their proof: the test compares instead."""
    monkeypatch.setattr("lib.structure.proof.difference", lambda *_: "")


@pytest.mark.usefixtures("unproved")
def test_every_listed_operation_keeps_the_function():
    model, inputs = crossing(), images(6, seed=2)
    before = state(model)
    listed = operations(model, inputs[:1])
    assert {operation.kind for operation in listed} == set(morphs.KINDS)
    once = {(operation.kind, operation.layer): operation for operation in listed}
    for operation in once.values():
        morphed = operation.apply(model)
        assert difference(model, morphed, inputs) < 1e-12, operation
        assert sum(p.numel() for p in morphed.parameters()) > sum(p.numel() for p in model.parameters()), operation
    assert same_state(before, state(model))


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("seed", range(2))
def test_six_random_operations_in_a_row_keep_the_function(seed):
    model, inputs, random = crossing(), images(6, seed=3), generator(seed)
    morphed = model
    for step in range(6):
        listed = operations(morphed, inputs[:1], factor=1.3)
        kinds = sorted({operation.kind for operation in listed})
        kind = kinds[int(torch.randint(len(kinds), (), generator=random))]
        listed = [operation for operation in listed if operation.kind == kind]
        morphed = listed[int(torch.randint(len(listed), (), generator=random))].apply(morphed, seed=step)
    assert difference(model, morphed, inputs) < 1e-10


def test_a_thousand_images_get_the_same_class():
    model = chain(torch.float32)
    example = torch.zeros(1, 2, 8, 8)
    morphed = morphs.widen(model, "0", example, width=7)
    morphed = morphs.deepen(morphed, "4", example)
    morphed = morphs.add_skip(morphed, "0", "4", example)
    morphed = morphs.morph_depth(morphed, "7", example)
    morphed = morphs.grow_kernel(morphed, "0", example, kernel=5)
    morphed = morphs.add_concat(morphed, "0", "4_deeper", example)
    inputs = images(1000, seed=4, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(morphed(inputs).argmax(1), model(inputs).argmax(1))
    assert largest_difference(model, morphed, inputs) < 1e-6


ON_TORCHVISION = {
    "resnet18": lambda x: [
        lambda m: morphs.widen(m, "layer1.0.conv1", x, width=72),
        lambda m: morphs.widen(m, "conv1", x, width=70, new="zeros"),
        lambda m: morphs.grow_kernel(m, "layer1.1.conv1", x, kernel=5),
        lambda m: morphs.subnet(m, "layer2.0.conv1", x, branches=((3, 1), (5,))),
        lambda m: morphs.deepen(m, "layer1.1.conv1", x),
        lambda m: morphs.deepen(m, "layer2.1.conv1", x, batch_norm="residual"),
        lambda m: morphs.add_skip(m, "layer1.1.conv2", "layer2.0.conv2", x),
        lambda m: morphs.add_concat(m, "conv1", "layer3.0.conv1", x),
    ],
    "mobilenet_v2": lambda x: [
        lambda m: morphs.widen(m, "features.2.conv.0.0", x, width=50),
        lambda m: morphs.grow_kernel(m, "features.2.conv.1.0", x, kernel=5),
        lambda m: morphs.morph_depth(m, "features.3.conv.1.0", x),
        lambda m: morphs.deepen(m, "features.2.conv.1.0", x, kernel=1),
        lambda m: morphs.deepen(m, "features.1.conv.0.0", x, batch_norm="residual"),
        lambda m: morphs.add_skip(m, "features.0.0", "features.4.conv.2", x),
        lambda m: morphs.add_concat(m, "features.3.conv.2", "features.18.0", x),
    ],
}


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("name", ON_TORCHVISION)
def test_networks_of_torchvision_keep_their_function(name):
    model, x = of_torchvision(name)
    morphed = model
    for morph in ON_TORCHVISION[name](x[:1]):
        morphed = morph(morphed)
    assert difference(model, morphed, x) < 1e-9


def test_statistics_that_are_updated_stay_those_of_the_network():
    model, inputs = crossing(), images(6, seed=5)
    model.dropout.p = 0.0
    example = inputs[:1]
    morphed = morphs.widen(model, "stem", example, width=6)
    morphed = morphs.deepen(morphed, "a", example, batch_norm="residual")
    with torch.no_grad():
        for _ in range(3):
            model.train()(inputs), morphed.train()(inputs)
    assert largest_difference(model, morphed, images(6, seed=6)) < 1e-12


def test_a_morphed_network_has_gradients_everywhere_and_learns():
    model = crossing()
    model.dropout.p = 0.0
    inputs, labels = images(16, seed=7), torch.arange(16) % 3
    example = inputs[:1]
    morphed = morphs.add_skip(model, "stem", "grouped", example)
    morphed = morphs.add_concat(morphed, "stem", "b", example)
    morphed = morphs.morph_depth(morphed, "b", example)
    morphed = morphs.widen(morphed, "a", example, width=8, noise=0.1)
    optimizer = torch.optim.SGD(morphed.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(morphed.train()(inputs), labels)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in morphed.parameters())
    assert losses[-1] < losses[0]


def test_an_operation_is_a_value():
    model, example = chain(), images(1)
    listed = operations(model, example)
    assert listed == operations(model, example) and len(set(listed)) == len(listed)
    assert pickle.loads(pickle.dumps(listed)) == listed
    one, other = (Operation("widen", "0", "", 8, (1, 2, 8, 8), torch.float64).apply(model, seed=3) for _ in range(2))
    assert equal(one, other)


def test_a_layer_that_would_read_its_own_input_is_not_listed():
    names = [str(operation) for operation in operations(crossing(), images(1)) if operation.kind == "add_concat"]
    assert names == ["add_concat stem b", "add_concat hidden head"]  # not "stem a"; others read in groups or vectors


def test_the_random_state_of_the_caller_is_left_alone():
    model, example = chain(), images(1)
    before = torch.get_rng_state()
    for operation in operations(model, example)[:8]:
        operation.apply(model, noise=0.1)
    assert torch.equal(torch.get_rng_state(), before)


class Aliased(nn.Module):
    """Adds in place to a tensor that it reads under another name: the trace does not know of it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = y
        z += 1
        return self.last(y)


def test_what_the_trace_does_not_see_is_listed_and_then_refused():
    model, x = Aliased(), torch.ones(1, 2)
    listed = [operation for operation in operations(model, x) if operation.kind == "deepen"]
    with refused(model, "deepening layer 'first' would change what Aliased computes"):
        listed[0].apply(model)


def test_other_operations_factors_and_kernels_are_refused():
    model, example = chain(), images(1)
    with pytest.raises(ValueError, match=r"kind must be one of deepen, widen, .*, not 'shrink'"):
        Operation("shrink", "0", "", 1, (1, 2, 8, 8), torch.float64)
    with refused(model, "factor must be a number above 1, not 1"):
        operations(model, example, factor=1)
    with refused(model, "kernel must be an odd number of 1 or more, not 2"):
        operations(model, example, kernel=2)
