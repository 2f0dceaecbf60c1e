"""Shared weights: one tensor for one layer, children against networks built alone, statistics, passes, refusals."""

import copy
import functools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from given import generator, same_state, seeded, split, state
from torch import nn

from lib.datasets import Split
from lib.search.chains import Chain, Chains
from lib.supergraphs.shared import weight_sharing
from lib.supergraphs.shared.macro_space import MacroSpace
from lib.supergraphs.shared.weight_sharing import SharedWeights, accuracy_pct, train_shared
from lib.vision import torchvision

CHAINS = Chains(positions=2, pools=1, width=4, size=8)
MACRO = MacroSpace(layers=3, width=4)
SPACES = {"chains": (CHAINS, list(CHAINS)), "macro": (MACRO, list(MACRO.covering()))}
SPLIT = split(40, 1, 8, 8)


def shared_weights(name="chains", seed=0):
    space, candidates = SPACES[name]
    return SharedWeights(space.build, candidates, seed=seed)


def drawing(space, seed=0):
    random = np.random.default_rng(seed)
    return lambda n: [space.sample(random) for _ in range(n)]


def training(name="chains", seed=0):
    shared = shared_weights(name, seed)
    train_shared(shared, drawing(SPACES[name][0]), SPLIT, epochs=2, seed=0, batch_size=20)
    return shared


once = functools.cache(training)


def trained(name="chains"):
    return copy.deepcopy(once(name))


def some(name):
    return list(CHAINS)[::2] if name == "chains" else drawing(MACRO)(5)


@pytest.mark.parametrize("name", SPACES)
def test_children_with_a_layer_have_the_same_tensor(name):
    shared, owners = shared_weights(name), {}
    for candidate in some(name):
        for key, value in [*(child := shared.child(candidate)).named_parameters(), *child.named_buffers()]:
            assert owners.setdefault((key, value.shape), value.data_ptr()) == value.data_ptr(), key
    assert len(set(owners.values())) == len(owners)  # and different layers have different ones
    known = {value.data_ptr() for value in [*shared.parameters(), *shared.buffers()]}
    assert set(owners.values()) <= known


@pytest.mark.parametrize("name", SPACES)
def test_a_child_answers_as_the_network_built_alone_with_its_weights(name):
    shared, space = trained(name), SPACES[name][0]
    for candidate in some(name):
        child, alone = shared.child(candidate), space.build(candidate, seed=7).eval()
        shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (child, alone)]
        assert shapes[0] == shapes[1]
        assert not torch.equal(alone(SPLIT.images), child(SPLIT.images))
        alone.load_state_dict(child.state_dict())
        assert torch.equal(alone(SPLIT.images), child(SPLIT.images))


@pytest.mark.parametrize("name", SPACES)
def test_a_child_gives_gradients_to_its_own_layers_only(name):
    for candidate in some(name)[:4]:
        shared = shared_weights(name)
        child = shared.child(candidate).train()
        child(SPLIT.images).square().mean().backward()
        own = {parameter.data_ptr() for parameter in child.parameters()}
        assert 0 < len(own) < len(list(shared.parameters()))
        for parameter in shared.parameters():
            assert (parameter.grad is not None) == (parameter.data_ptr() in own)


def test_training_one_child_leaves_what_is_not_its_own():
    shared, candidate = shared_weights(), Chain(("conv3", "skip"))
    own, before = {id(p) for p in shared.child(candidate).parameters()}, state(shared)
    train_shared(shared, lambda n: [candidate] * n, SPLIT, epochs=1, seed=0, batch_size=10)
    moved = {name for name, p in shared.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in shared.named_parameters() if id(p) in own}


def test_an_extracted_copy_is_independent():
    shared = trained()
    before = state(shared)
    alone = copy.deepcopy(shared.child(Chain(("conv3", "conv1"))))
    for parameter in alone.parameters():
        parameter.data.zero_()
    alone.train()(SPLIT.images)
    assert same_state(state(shared), before)


@pytest.mark.parametrize("name", SPACES)
def test_statistics_of_the_batch_are_those_of_training_mode(name):
    shared = trained(name)
    before, candidate = state(shared), some(name)[0]
    with torch.no_grad():
        of_batch = shared.child(candidate, statistics="batch")(SPLIT.images)
        stored = shared.child(candidate)(SPLIT.images)
        assert same_state(state(shared), before)
        expected = copy.deepcopy(shared.child(candidate)).train()(SPLIT.images)
    torch.testing.assert_close(of_batch, expected)
    assert not torch.allclose(of_batch, stored, atol=1e-3)


def test_a_network_that_is_used_again_answers_as_a_new_one():
    shared, (a, b) = shared_weights(), some("chains")[:2]
    for step, statistics in enumerate(("stored", "batch", "stored", "batch")):
        train_shared(shared, lambda n: ([a, b] * n)[:n], SPLIT, epochs=1, seed=step, batch_size=10)
        for candidate in (a, b, a):
            again = shared.child(candidate, statistics=statistics, reuse=True)
            new = shared.child(candidate, statistics=statistics)
            assert torch.equal(again(SPLIT.images), new(SPLIT.images)) and same_state(state(again), state(new))
            assert again is shared.child(candidate, reuse=True) and again is not new


def test_few_networks_are_kept_of_a_large_space(monkeypatch):
    monkeypatch.setattr(weight_sharing, "KEPT", 2)
    shared, candidates = shared_weights(), list(CHAINS)[:3]
    first, *_ = [shared.child(candidate, reuse=True) for candidate in candidates]
    assert shared.child(candidates[0], reuse=True) is not first


def test_training_a_child_writes_the_stored_statistics_of_all():
    shared = shared_weights()
    a, b = shared.child(Chain(("conv3", "skip"))), shared.child(Chain(("conv3", "conv1")))
    a.train()(SPLIT.images)
    mean = b.get_buffer("1_conv3.conv_bn.running_mean")
    assert mean.any() and b.get_buffer("1_conv3.conv_bn.num_batches_tracked") == 1


def test_passes_are_the_samples_that_went_forward_and_backward():
    counted = {"forward": 0, "backward": 0}

    def build(candidate, seed):
        net = CHAINS.build(candidate, seed)

        def forward(module, inputs, output):
            if module.training:
                counted["forward"] += len(output)
                output.register_hook(lambda g: counted.__setitem__("backward", counted["backward"] + len(g)))

        net.register_forward_hook(forward)
        return net

    shared = SharedWeights(build, CHAINS, seed=0)
    passes = train_shared(shared, drawing(CHAINS), split(33, 1, 8, 8), epochs=3, seed=0, batch_size=8)
    assert passes == counted["forward"] == counted["backward"] == 99


def test_each_batch_trains_the_child_that_was_drawn_for_it():
    asked, trained = [], []

    def build(candidate, seed):
        net = CHAINS.build(candidate, seed)
        net.register_forward_hook(lambda module, *_: trained.append(candidate) if module.training else None)
        return net

    def draw(n):
        asked.append(drawing(CHAINS, seed=len(asked))(n))
        return asked[-1]

    shared = SharedWeights(build, CHAINS, seed=0)
    order = []
    train_shared(shared, draw, split(33, 1, 8, 8), epochs=2, seed=0, batch_size=8, before_epoch=order.append)
    assert order == [0, 1] and [len(candidates) for candidates in asked] == [4, 4]  # the one left over joins
    assert trained == asked[0] + asked[1]


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    a, b, other = training(), training(), training(seed=1)
    assert same_state(state(a), state(b)) and not same_state(state(a), state(other))
    assert torch.equal(before, torch.random.get_rng_state())


def test_stored_and_copied_weights_answer_alike():
    shared, fresh = trained(), shared_weights(seed=5)
    fresh.load_state_dict(shared.state_dict())
    copied = copy.deepcopy(shared)
    for candidate in list(CHAINS)[::3]:
        expected = shared.child(candidate)(SPLIT.images)
        assert torch.equal(fresh.child(candidate)(SPLIT.images), expected)
        assert torch.equal(copied.child(candidate)(SPLIT.images), expected)


def test_another_type_of_floats_is_that_of_all_children():
    shared = trained().double()
    images = SPLIT.images.double()
    for statistics in ("stored", "batch"):
        answers = shared.child(Chain(("separable3", "conv1")), statistics=statistics)(images)
        assert answers.dtype == torch.double
    candidate = Chain(("conv1", "conv1"))
    assert accuracy_pct(shared, candidate, Split(images, SPLIT.labels)) == accuracy_pct(trained(), candidate, SPLIT)


@pytest.mark.parametrize("statistics", ["batch", "stored"])
def test_the_accuracy_is_the_share_of_right_answers(statistics):
    shared, candidate = trained(), Chain(("conv3", "conv1"))
    child = shared.child(candidate, statistics=statistics)
    parts = [(child(SPLIT.images[i : i + 10]).argmax(1) == SPLIT.labels[i : i + 10]).sum() for i in range(0, 40, 10)]
    found = accuracy_pct(shared, candidate, SPLIT, statistics=statistics, batch_size=10)
    assert found == pytest.approx(100 * float(sum(parts)) / 40)


def test_blocks_of_a_network_that_we_did_not_write_are_shared():
    def build(blocks, seed):
        net = seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4), seed)
        if blocks == 3:
            net.layer4 = nn.Conv2d(256, 512, 1)
        return net

    shared = SharedWeights(build, [3, 4], seed=0)
    three, four = shared.child(3), shared.child(4)
    images = torch.rand(2, 3, 64, 64, generator=generator())
    alone = build(4, 1)
    alone.load_state_dict(four.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(images), four(images))
        assert three(images).shape == (2, 4)
    assert three.layer3[0].conv1.weight is four.layer3[0].conv1.weight
    assert len(shared.layers) == 8  # conv1, bn1, layer1 to layer4, fc, and what stands for layer4


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SharedWeights(CHAINS.build, [], seed=0), "no candidate"),
        (lambda: SharedWeights(lambda c, seed: Outside(), [0], seed=0), "'scale' outside of its layers"),
        (lambda: shared_weights().child(Chain(("conv3", "conv1")), statistics="mean"), "batch, stored, not 'mean'"),
        (
            lambda: SharedWeights(CHAINS.build, [Chain(("skip", "skip"))], seed=0).child(Chain(("conv3", "skip"))),
            "'1_conv3' that none",
        ),
        (lambda: shared_weights().child(Chain(("conv3",))), "1 operations, not 2"),
        (lambda: train_shared(shared_weights(), lambda n: [], SPLIT, epochs=1, seed=0), "draw gave 0 candidates"),
        (lambda: train_shared(shared_weights(), drawing(CHAINS), SPLIT, epochs=-1, seed=0), "epochs must be 0 or more"),
        (lambda: train_shared(shared_weights(), drawing(CHAINS), SPLIT.first(0), epochs=1, seed=0), "split is empty"),
        (lambda: accuracy_pct(shared_weights(), Chain(("skip",) * 2), SPLIT.first(1)), "1 samples"),
        (lambda: accuracy_pct(shared_weights(), Chain(("skip",) * 2), SPLIT, batch_size=1), "batches of 1"),
        (lambda: accuracy_pct(shared_weights(), Chain(("skip",) * 2), SPLIT.first(0)), "split is empty"),
    ],
)
def test_what_cannot_be_shared_or_evaluated_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_of_one_name_and_other_sizes_are_not_one():
    def build(width, seed):
        return nn.Sequential(OrderedDict(a=nn.Linear(2, width), b=nn.Linear(width, 2)))

    shared = SharedWeights(build, [3, 4], seed=0)
    assert shared.child(3).a.weight.shape == (3, 2) and shared.child(4).a.weight.shape == (4, 2)
