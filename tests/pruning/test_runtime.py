"""Groups against slices, costs against counting, and learned decisions against every path tried out."""

import copy
import itertools

import given
import pytest
import torch
from torch import nn

from lib import measure, models, training
from lib.datasets import Split
from lib.pruning.runtime import RuntimeNetwork, alternate, learn, nest, targets
from lib.vision import torchvision


def split(n=10, shape=(1, 28, 28)):
    return given.split(n, *shape, labels="in turn")


def path(*actions):
    return torch.tensor(actions)


@pytest.mark.parametrize("model", [models.lenet5(), models.resnet8(channels=1, width=5).eval()])
def test_all_groups_everywhere_are_the_network_itself(model):
    network = RuntimeNetwork(model, split(1).images).eval()
    network.forced = torch.full((len(network.costs),), 4)
    assert torch.equal(network(split().images), model.eval()(split().images))
    assert network.multiply_adds(network.actions).tolist() == [measure.multiply_adds(model, (1, 28, 28))] * 10


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 10, 3), nn.Conv2d(3, 8, 3, bias=False, stride=2, padding=1)])
def test_the_first_groups_are_a_slice_and_the_others_are_zero(layer):
    images = split(12, (3, 9, 9)).images
    network = RuntimeNetwork(nn.Sequential(layer), images[:1])
    full = layer(images)
    network.forced = (torch.arange(12) % 4 + 1)[:, None]
    found = network(images)
    sizes = network.network[0].sizes
    for sample, action in enumerate(network.forced.flatten().tolist()):
        n = sum(sizes[:action])
        torch.testing.assert_close(found[sample, :n], full[sample, :n])
        assert (found[sample, n:] == 0).all()
    network.skip = False  # the same by masks
    torch.testing.assert_close(network(images), found)
    assert sum(sizes) == layer.out_channels and max(sizes) - min(sizes) <= 1


def test_multiply_adds_are_those_of_the_convolutions_that_ran():
    images = split(7).images
    network = RuntimeNetwork(models.lenet5(), images[:1])
    network.forced = torch.randint(1, 5, (7, 2), generator=torch.Generator().manual_seed(0))
    ran = torch.zeros(7, dtype=torch.long)
    for name in ("conv1", "conv2"):
        grouped = network.network.get_submodule(name)
        original = grouped.layer._conv_forward

        def counted(x, weight, bias, original=original):
            output = original(x, weight, bias)
            ran[rows(x)] += output[0].numel() // output.shape[1] * weight.numel()
            return output

        grouped.layer._conv_forward = counted
    seen = {}

    def rows(x):  # each sample is told by its first number: they are random
        keys = [tuple(each.flatten()[:3].tolist()) for each in x]
        return [seen[key] for key in keys]

    for name in ("conv1", "conv2"):
        network.network.get_submodule(name).register_forward_pre_hook(
            lambda layer, given: seen.update({tuple(x.flatten()[:3].tolist()): i for i, x in enumerate(given[0])})
        )
    network(images)
    linear = 800 * 500 + 500 * 10
    assert (ran + linear).tolist() == network.multiply_adds(network.actions).tolist()


def test_rewards_and_values_to_come_by_hand():
    values = torch.tensor([[[1.0, 5.0], [2.0, 3.0]], [[0.0, 0.0], [7.0, -1.0]]])
    actions, losses = torch.tensor([[1, 2], [2, 1]]), torch.tensor([4.0, 0.5])
    found = targets(values, actions, losses, penalty=0.1, scale=2.0)
    torch.testing.assert_close(found, torch.tensor([[3.0, -8.1], [6.9, -1.0]]))


@pytest.mark.parametrize("penalty", [0.0, 0.1, 1.0])
def test_q_learning_in_a_table_finds_the_best_of_all_paths(penalty):
    k, generator = 4, torch.Generator().manual_seed(1)
    loss = torch.rand(k, k, generator=generator)  # of each path of two layers
    first, second = torch.zeros(k), torch.zeros(k, k)  # Q(s1, a1) and, after each a1, Q(s2, a2)
    paths = torch.tensor(list(itertools.product(range(1, k + 1), repeat=2)))
    for _ in range(2):
        values = torch.stack([first.expand(k * k, k), second[paths[:, 0] - 1]], dim=1)
        wanted = targets(values, paths, loss.flatten(), penalty=penalty, scale=1.0)
        second = wanted[:, 1].reshape(k, k)
        first = wanted[:, 0].reshape(k, k)[:, 0]
    a = int(first.argmax()) + 1
    b = int(second[a - 1].argmax()) + 1
    best = max(paths.tolist(), key=lambda p: -loss[p[0] - 1, p[1] - 1] - penalty * (p[0] + p[1] - 2))
    assert [a, b] == best


def test_what_pays_is_learned():
    data, model = split(64, (1, 12, 12)), nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model.extend([nn.Flatten(), nn.Linear(256, 10)])
    network = RuntimeNetwork(model, data.images[:1])
    learn(network, data, penalty=10.0, seed=0, rounds=4, updates=50, learning_rate=0.02)  # groups cost more than errors
    network(data.images)
    assert (network.actions == 1).all()


def test_decisions_can_differ_from_input_to_input():
    """The second group sees the class, the first sees nothing: only images of class 1 need the second."""
    labels = torch.arange(64) % 2
    images = torch.stack([torch.zeros(64), labels.float()], dim=1)[:, :, None, None].repeat(1, 1, 2, 2)
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    model[0].weight.data = torch.eye(2)[:, :, None, None]
    model[3].weight.data, model[3].bias.data = torch.tensor([[0.0, -9.0], [0.0, 9.0]]), torch.tensor([3.0, -3.0])
    network = RuntimeNetwork(model, images[:1], groups=2)
    learn(network, Split(images, labels), penalty=0.5, seed=0, rounds=4, updates=60, learning_rate=0.02)
    assert torch.equal(network(images).argmax(1), labels)
    assert torch.equal(network.actions.flatten(), labels + 1)


def test_the_same_seed_learns_the_same_and_steered_weights_do_not_move():
    data, state = split(16), torch.get_rng_state()
    networks = [RuntimeNetwork(models.lenet5(), data.images[:1], seed=3) for _ in range(2)]
    before = copy.deepcopy(networks[0].network.state_dict())
    for network in networks:
        learn(network, data, penalty=0.1, seed=0, rounds=2, updates=3)
    for a, b in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, before[name]) for name, value in networks[0].network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in networks[0].parameters())
    assert networks[0].explore == 0 and torch.equal(torch.get_rng_state(), state)


def test_nesting_trains_the_network_and_not_the_controller():
    data = split(16)
    network = RuntimeNetwork(models.lenet5(), data.images[:1])
    before = copy.deepcopy(network.state_dict())
    nest(network, data, epochs=1, seed=0, learning_rate=0.01)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("network.")
    assert network.explore == 0


def test_the_copy_leaves_the_model_alone_and_keeps_all_its_parameters():
    model = models.resnet8(width=4).train()
    before = copy.deepcopy(model.state_dict())
    network = RuntimeNetwork(model, torch.zeros(1, 3, 16, 16))
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert measure.parameters(network) > measure.parameters(network.network) == measure.parameters(model)
    assert len(network.costs) == 9
    copied = copy.deepcopy(network)
    assert copied.network[0].decide[0] is copied


def test_a_network_that_nobody_here_wrote():
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=10).eval()  # its depthwise convolutions are left alone
    network = RuntimeNetwork(model, torch.zeros(1, 3, 32, 32)).eval()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert len(network.costs) == 35 and ((network.actions >= 1) & (network.actions <= 4)).all()
    controller = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("network") and p.dim() > 1)
    assert network.overhead() >= controller


def test_an_unknown_option_is_refused_before_the_network_learns():
    network = RuntimeNetwork(models.lenet5(), split().images)
    before, state = copy.deepcopy(network.state_dict()), network.generator.get_state()
    with pytest.raises(TypeError, match="there is no option 'learning_rates': accepted are learning_rate, "):
        nest(network, split(), epochs=1, seed=0, learning_rates=0.1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network.generator.get_state(), state) and network.skip


def test_bad_input_is_refused_in_a_sentence():
    model, data = models.lenet5(), split()
    for wrong in ({"groups": 1}, {"hidden": 0}):
        with pytest.raises(ValueError, match="groups must be 2 or more and hidden 1 or more"):
            RuntimeNetwork(model, data.images, **wrong)
    with pytest.raises(
        ValueError, match=r"layers must be convolutions of 4 groups of channels \(conv1, conv2\), not 'fc1'"
    ):
        RuntimeNetwork(model, data.images, layers=["fc1"])
    with pytest.raises(ValueError, match="Sequential has no 2-d convolution with 4 channels or more"):
        RuntimeNetwork(models.lenet_300_100(), data.images)
    network = RuntimeNetwork(model, data.images[:1])
    with pytest.raises(ValueError, match="the split is empty"):
        learn(network, data.first(0), penalty=0.1, seed=0)
    for wrong in ({"penalty": -1}, {"penalty": float("nan")}, {"scale": 0}, {"rounds": 0}, {"updates": 0}):
        with pytest.raises(ValueError, match="penalty must be 0 or more"):
            learn(network, data, **{"penalty": 0.1, "seed": 0} | wrong)


def test_controller_and_network_learn_in_turn():
    data = split(16)
    network = RuntimeNetwork(models.lenet5(), data.images[:1])
    by_hand = copy.deepcopy(network)
    options = {"rounds": 2, "updates": 3}
    alternate(network, data, penalty=0.1, epochs=1, seed=4, turns=2, **options, learning_rate=0.01)
    for turn in (0, 1):
        learn(by_hand, data, penalty=0.1, seed=4 + turn, **options)
        by_hand.explore, by_hand.skip = 0.1, False
        training.fit(by_hand, data, epochs=1, seed=4 + turn, learning_rate=0.01)
        by_hand.explore, by_hand.skip = 0.0, True
    assert given.equal(network, by_hand) and (network.explore, network.skip) == (0.0, True)
    fresh = RuntimeNetwork(models.lenet5(), data.images[:1]).state_dict()
    moved = {name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, fresh[name])}
    assert {"network", "encoders", "cell", "decoders"} == moved, "both parts have learned"


@pytest.mark.parametrize("wrong", [{"turns": 0}, {"epochs": -1}, {"explore": 1.5}, {"explore": float("nan")}])
def test_turns_out_of_range_are_refused_before_training(wrong):
    network = RuntimeNetwork(models.lenet5(), split().images)
    before = given.state(network)
    with pytest.raises(ValueError, match=r"turns must be 1 or more, epochs 0 or more and explore in \[0, 1\]"):
        alternate(network, split(), **{"penalty": 0.1, "epochs": 1, "seed": 0} | wrong)
    assert given.same_state(given.state(network), before)


def test_a_layer_that_does_not_run_cannot_be_decided_on():
    model = nn.ModuleDict({"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(1, 4, 1)})
    model.forward = lambda x: model["a"](x).mean((2, 3))
    with pytest.raises(ValueError, match="layer 'b' does not run"):
        RuntimeNetwork(model, torch.zeros(1, 1, 4, 4))
