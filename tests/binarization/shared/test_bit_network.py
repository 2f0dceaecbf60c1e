"""Chains of layers that hand on bits, against the float networks they came from: equal answers, bit for bit."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models
from lib.binarization import abc_net, bnn, xnor_net
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import kernels
from lib.binarization.shared.bit_network import Chained, Count
from lib.binarization.shared.inference import convert
from lib.binarization.shared.signs import NORMS, Binarized, SignActivation
from lib.weights import compress

kernels.available()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def reader(layer, norm=None, input_scale=None, seed=0):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) / 3)
    return Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation(), norm, input_scale)


@torch.no_grad()
def settled(model, x, seed=0):
    """Batch norms that have seen the input; some of their gammas are negative, and some are 0."""
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for i, norm in enumerate(norms):
        if norm.affine:
            norm.weight[1::3] *= -1
            norm.weight[3::7] = 0
            norm.bias += torch.randn(norm.bias.shape, generator=generator(seed + i)) / 4
    return model.eval()


def images(*shape, seed=0):
    x = torch.randn(*shape, generator=generator(seed))
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def linked(model):
    """Layer -> whether it reads bits of another, and how many operations before it are skipped."""
    if not isinstance(vars(model).get("forward"), Chained):
        return {}
    links = [each.link for each in model.forward.operations if isinstance(each, Count)]
    skipped = [len(e.before) + len(e.after) + (e.window is not None) + e.flat for e in links]
    return {e.reader.name: (e.source is not None, n) for e, n in zip(links, skipped, strict=True)}


def counted(found):
    """A list that grows with each call that runs in chains."""
    calls, run = [], found.forward._run
    found.forward._run = lambda *args: calls.append(1) or run(*args)
    return calls


@torch.no_grad()
def check(model, x, expected):
    """The converted network gives the same for four batches, twice in the same memory; its chains are these."""
    model = settled(model, x)
    found = convert(model)
    assert linked(found) == expected
    calls = counted(found) if expected else []
    for batch in (x, x[:1], x.roll(1, -1), x):
        answers = model(batch)
        assert torch.equal(found(batch), answers) and answers.unique().numel() > 1
    assert len(calls) == 4 * bool(expected)


CONVOLUTIONS = {
    "layers alone": (lambda: [], 0),
    "batch norm": (lambda: [nn.BatchNorm2d(20)], 1),
    "ReLU": (lambda: [nn.ReLU()], 1),
    "pool": (lambda: [nn.MaxPool2d(2)], 1),
    "overlapping pool with a border": (lambda: [nn.MaxPool2d(3, 2, 1)], 1),
    "pool whose size is rounded up": (lambda: [nn.MaxPool2d(2, ceil_mode=True)], 1),
    "pool with holes": (lambda: [nn.MaxPool2d(2, 1, dilation=2)], 1),
    "batch norm, pool": (lambda: [nn.BatchNorm2d(20), nn.MaxPool2d(2)], 2),
    "pool, batch norm, ReLU": (lambda: [nn.MaxPool2d(2), nn.BatchNorm2d(20), nn.ReLU()], 3),
    "two norms around a pool": (lambda: [nn.BatchNorm2d(20), nn.MaxPool2d(3, 2), nn.BatchNorm2d(20)], 3),
    "clipped, dropped": (lambda: [nn.Hardtanh(), nn.Dropout(), nn.Identity(), nn.ReLU6()], 4),
    "without averages": (lambda: [nn.BatchNorm2d(20, affine=False), nn.ReLU(inplace=True)], 2),
}
PLACES = [{}, {"padding": 1}, {"stride": 2, "padding": (2, 0)}, {"dilation": 2, "padding": 2}, {"bias": False}]


@pytest.mark.parametrize("normed", [False, True], ids=["", "norm before the sign"])
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("between", CONVOLUTIONS)
def test_a_convolution_hands_bits_to_the_next(between, place, normed):
    make, skipped = CONVOLUTIONS[between]
    model = nn.Sequential(
        reader(nn.Conv2d(5, 20, 3, **place), nn.BatchNorm2d(5)),
        *make(),
        reader(nn.Conv2d(20, 7, 2, padding=1), nn.BatchNorm2d(20) if normed else None, seed=1),
        nn.Conv2d(7, 3, 1),
    )
    last = str(len(model) - 2)
    check(model, images(3, 5, 11, 12), {"0": (False, 0), last: (True, skipped)})


FLATTENED = {
    "alone": (lambda: [nn.Flatten()], 1),
    "pool": (lambda: [nn.MaxPool2d(2), nn.Flatten()], 2),
    "pool with a border, norms on both sides": (
        lambda: [nn.MaxPool2d(2, 3, 1), nn.BatchNorm2d(70), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(70 * 9)],
        5,
    ),
}


@pytest.mark.parametrize("filters", [70])
@pytest.mark.parametrize("between", FLATTENED)
@pytest.mark.parametrize("normed", [False, True], ids=["", "norm before the sign"])
def test_a_convolution_hands_bits_to_a_linear_layer(between, filters, normed):
    make, skipped = FLATTENED[between]
    conv, some = reader(nn.Conv2d(5, filters, 3, padding=1), nn.BatchNorm2d(5)), make()
    with torch.no_grad():
        inputs = nn.Sequential(conv.layer, *copy.deepcopy(some)).eval()(torch.zeros(2, 5, 6, 7)).shape[1]
    norm = nn.BatchNorm1d(inputs) if normed else None
    model = nn.Sequential(conv, *some, reader(nn.Linear(inputs, 9), norm, seed=1))
    check(model, images(5, 5, 6, 7), {"0": (False, 0), str(len(model) - 1): (True, skipped)})


def test_windows_that_overlap_are_not_flattened_on_bits():
    linear = reader(nn.Linear(20 * 9, 9), nn.BatchNorm1d(20 * 9), seed=1)
    model = nn.Sequential(reader(nn.Conv2d(5, 20, 3, padding=1)), nn.MaxPool2d(3, 1), nn.Flatten(), linear)
    check(model, images(5, 5, 5, 5), {})


def test_linear_layers_hand_on_bits():
    model = nn.Sequential(
        nn.Linear(9, 30),
        nn.BatchNorm1d(30),
        nn.ReLU(),
        reader(nn.Linear(30, 70), nn.BatchNorm1d(30)),
        nn.BatchNorm1d(70),
        nn.Hardtanh(),
        reader(nn.Linear(70, 130), seed=1),
        reader(nn.Linear(130, 4), nn.BatchNorm1d(130), seed=2),
    )
    check(model, images(6, 9), {"3": (False, 2), "6": (True, 2), "7": (True, 0)})


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "plain"])
@pytest.mark.parametrize("inputs", [1, 3])
def test_floats_become_bits_after_pooling_them_as_bits(inputs, last):
    model = nn.Sequential(
        nn.Conv2d(inputs, 20, 3), nn.BatchNorm2d(20), nn.MaxPool2d(2), nn.BatchNorm2d(20), nn.ReLU(), nn.Dropout()
    )
    model.append(reader(nn.Conv2d(20, 7, 3), nn.BatchNorm2d(20)))
    x = images(3, inputs, 13, 12)
    check(model, x if last else x.contiguous(), {"6": (False, 5)})


def test_sums_that_meet_a_threshold_exactly_are_right():
    conv, norm = reader(nn.Conv2d(4, 40, 2)), nn.BatchNorm2d(40, affine=True, eps=0.0)
    with torch.no_grad():
        conv.layer.weight = torch.where(conv.layer.weight >= 0, 1.0, -1.0)
        conv.layer.bias.zero_()
        norm.running_mean.copy_(torch.arange(40) % 17 - 8.0)  # many sums are just the mean
        norm.weight[::2] = -1
    model = nn.Sequential(conv, norm, reader(nn.Conv2d(40, 3, 1), seed=1)).eval()
    x = images(20, 4, 6, 6)
    with torch.no_grad():
        assert (model[:2](x) == 0).sum() > 100
        found = convert(model)
        assert linked(found) == {"0": (False, 0), "2": (True, 1)} and torch.equal(found(x), model(x))


NETWORKS = {
    "xnor lenet5": (
        lambda: xnor_net.binarize(models.lenet5(), maps={"fc1": 50}),
        (1, 28),
        {"conv2": (False, 1), "fc1": (True, 2)},
    ),
    "bnn lenet5": (
        lambda: bnn.binarize(models.lenet5(), classes=10),
        (1, 28),
        {"0.conv2": (False, 1), "0.fc1": (True, 2), "0.fc2": (True, 1)},
    ),
    "xnor vgg": (
        lambda: xnor_net.binarize(models.vgg_small(width=8)),
        (3, 32),
        {"conv2": (False, 2)} | {f"conv{i}": (True, 2 + i % 2) for i in range(3, 7)},
    ),
    "xnor resnet8": (
        lambda: xnor_net.binarize(models.resnet8()),
        (3, 16),
        None,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_book_run_in_chains(name):
    build, (channels, side), expected = NETWORKS[name]
    x = images(4, channels, side, side)
    model = build()
    if expected is None:  # blocks with a shortcut: the second layer of each reads bits
        found = convert(settled(model, x))
        assert sum(reads for reads, _ in linked(found).values()) == 3
        with torch.no_grad():
            assert torch.equal(found(x), model(x))
    else:
        check(model, x, expected)


# -- what is in no chain -----------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two readers, with something between them."""

    def __init__(self, between):
        super().__init__()
        self.one, self.two = reader(nn.Conv2d(4, 6, 1)), reader(nn.Conv2d(6, 5, 1), seed=1)
        self.between, self.relu, self.inplace = between, nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.between(self, self.one(x))


APART = {
    "a value that is read twice": lambda net, x: net.two(x) + x[:, :5],
    "a shortcut": lambda net, x: net.two(net.relu(x) + x),
    "a mean": lambda net, x: net.two(functional.avg_pool2d(x, 2)),
    "an activation that rounds": lambda net, x: net.two(x.tanh()),
    "a value changed in place that another reads": lambda net, x: (lambda y: net.two(net.inplace(y)) + y[:, :5])(
        x.flatten(1).reshape(x.shape)
    ),
    "a branch by the shape": lambda net, x: net.two(x if x.shape[0] > 2 else -x),
    "a constant": lambda net, x: net.two(x * torch.tensor([2.0])),
}


@pytest.mark.parametrize("kind", APART)
def test_layers_that_hand_on_more_than_bits_are_apart(kind):
    model, x = Two(APART[kind]).eval(), images(3, 4, 6, 6)
    found = convert(model)
    assert not any(reads for reads, _ in linked(found).values())
    assert set(found.state_dict()) >= {"one.words", "two.words"} and not hasattr(found, "_tensor_constant0")
    with torch.no_grad():
        for batch in (x, x[:1]):
            assert torch.equal(found(batch), model(batch))


def test_functions_in_a_chain_are_skipped_like_modules():
    model, x = Two(lambda net, x: net.two(functional.relu(torch.relu(x.relu())))).eval(), images(3, 4, 6, 6)
    found = convert(model)
    assert linked(found) == {"one": (False, 0), "two": (True, 3)}
    with torch.no_grad():
        assert torch.equal(found(x), model(x))


def two(**settings):
    conv = nn.Conv2d(8, 12, 3, **settings)
    scale = xnor_net.InputScale(conv) if settings == {"stride": 1} else None
    return nn.Sequential(reader(nn.Conv2d(4, 8, 1)), reader(conv, None, scale, seed=1))


@pytest.mark.parametrize("settings", [{"groups": 2}, {"padding": 1, "padding_mode": "reflect"}, {"stride": 1}])
def test_layers_with_groups_copies_or_a_scale_run_alone(settings):
    check(two(**settings), images(3, 4, 6, 6), {})


def test_layers_of_several_bases_run_alone():
    model = abc_net.binarize(models.lenet5(), bases=2, activation_bases=2).eval()
    assert all(not reads for reads, _ in linked(convert(model)).values())


# -- a network that changes --------------------------------------------------------------------------------------------


def example():
    x = images(4, 1, 28, 28)
    return settled(xnor_net.binarize(models.lenet5(), maps={"fc1": 50}), x), x


@torch.no_grad()
def test_changed_parameters_and_buffers_count_at_the_next_call():
    model, x = example()
    twin = settled(xnor_net.binarize(models.lenet5(3), maps={"fc1": 50}), x, seed=5)
    found, other = convert(model), convert(twin)
    assert not torch.equal(found(x), other(x))
    found.load_state_dict(other.state_dict())
    assert torch.equal(found(x), twin(x))
    found.conv2.bias.data = -found.conv2.bias  # without a new version
    twin.conv2.layer.bias.neg_()
    assert torch.equal(found(x), twin(x)) and not torch.equal(found(x), other(x))


@torch.no_grad()
def test_a_copy_and_a_file_of_a_chained_network_are_their_own():
    model, x = example()
    found = convert(model)
    expected = found(x)
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert linked(twin) == linked(found) and twin.forward.model is twin and not twin.forward.free
        assert torch.equal(twin(x), expected)
        twin.conv2.bias.add_(9)
        assert not torch.equal(twin(x), expected) and torch.equal(found(x), expected)


@torch.no_grad()
def test_hooks_and_replaced_modules_are_heeded():
    model, x = example()
    found, seen = convert(model), []
    handle = found.pool2.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(found(x), model(x)) and seen
    handle.remove()
    calls = counted(found)
    assert torch.equal(found(x), model(x)) and len(seen) == len(calls) == 1
    found.pool2 = model.pool2 = nn.AvgPool2d(2)
    assert torch.equal(found(x), model(x))
    found.fc2 = model.fc2 = nn.Linear(500, 3)
    assert torch.equal(found(x), model(x))


@torch.no_grad()
def test_a_block_that_was_replaced_is_heeded():
    blocks = [
        nn.Sequential(reader(nn.Conv2d(4, 4, 3), seed=s), nn.Hardtanh(), reader(nn.Conv2d(4, 4, 1))) for s in (0, 1)
    ]
    model, other, x = nn.Sequential(blocks[0]).eval(), nn.Sequential(blocks[1]).eval(), images(2, 4, 7, 7)
    found, twin = convert(model), convert(other)
    assert linked(found) and torch.equal(found(x), model(x))
    found[0] = twin[0]
    assert torch.equal(found(x), other(x)) and not torch.equal(found(x), model(x))


def test_one_linear_layer_that_reads_floats_stays_alone():
    model = nn.Sequential(nn.Linear(9, 30), nn.BatchNorm1d(30), nn.ReLU(), reader(nn.Linear(30, 7), nn.BatchNorm1d(30)))
    check(model, images(6, 9), {})


@torch.no_grad()
def test_answers_are_memory_of_their_own():
    model = nn.Sequential(reader(nn.Linear(8, 8)), reader(nn.Linear(8, 5), seed=1)).eval()
    found, first, second = convert(model), images(3, 8), images(3, 8, seed=1)
    answer = found(first)
    found(second)
    assert linked(found) and torch.equal(answer, model(first))


@torch.no_grad()
def test_calls_in_several_threads_do_not_mix():
    model, _ = example()
    found, wrong = convert(model), []

    def work(seed):
        x = images(3, 1, 28, 28, seed=seed)
        expected = model(x)
        wrong.extend(seed for _ in range(20) if not torch.equal(found(x), expected))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 1 <= len(found.forward.free) <= 4


@torch.no_grad()
def test_an_input_that_fits_no_chain_is_treated_as_without():
    model, x = example()
    found = convert(model)
    for odd in (x[:0], x[0]):
        try:
            expected = model(odd)
        except Exception as error:
            with pytest.raises(type(error)):
                found(odd)
        else:
            assert torch.equal(found(odd), expected)
    with pytest.raises(ValueError, match=r"^a value to pack is not a number .NaN.: it has no sign$"):
        found(torch.full_like(x, torch.nan))
    for module in (found.pool2, found):
        module.train()
        calls = counted(found)
        assert torch.equal(found(x), model(x)) and not calls
        found.eval()


@torch.no_grad()
def test_a_forward_pass_that_asks_for_the_mode_is_heeded():
    model = Two(lambda net, x: -net.two(x) if net.training else net.two(x)).eval()
    found, x = convert(model), images(3, 4, 6, 6)
    assert linked(found) and torch.equal(found(x), model(x))
    found.training = True
    assert torch.equal(found(x), -model(x))


@torch.no_grad()
def test_a_norm_that_gives_no_numbers_is_refused():
    norm = nn.BatchNorm2d(20)
    model = nn.Sequential(reader(nn.Conv2d(5, 20, 3)), norm, reader(nn.Conv2d(20, 7, 2), seed=1)).eval()
    norm.running_mean[3] = torch.nan
    with pytest.raises(ValueError, match=r"^a value to pack is not a number \(NaN\): it has no sign$"):
        convert(model)(images(3, 5, 6, 6))
