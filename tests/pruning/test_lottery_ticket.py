"""Tickets against the bits of their start; training against zeros that must stay."""

from itertools import pairwise

import given
import pytest
import torch
from torch import nn

from lib import models, training
from lib.pruning import lottery_ticket as lottery
from lib.pruning import magnitude
from lib.weights import layers


@pytest.fixture(scope="module")
def split():
    return given.split(60, 1, 28, 28)


@pytest.fixture(scope="module")
def search(split):
    initial = lottery.glorot(models.lenet_300_100(), 0)

    def learn(model):
        lottery.train(model, split, epochs=2, seed=0, **ADAM)

    return initial, lottery.find(initial, learn, rounds=4)


ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 20, "weight_decay": 0.0}


def test_rewound_survivors_are_the_start_bit_for_bit_and_the_others_zero(search):
    initial, tickets = search
    start = dict(layers(initial))
    for ticket in tickets:
        model = lottery.rewind(initial, ticket.masks)
        for name, layer in layers(model):
            mask = ticket.masks[name]
            assert torch.equal(layer.weight[mask], start[name].weight[mask])
            assert (layer.weight[~mask] == 0).all() and not torch.signbit(layer.weight[~mask]).any()
            assert torch.equal(layer.bias, start[name].bias)


def test_masks_are_nested_and_follow_the_sequence_of_shares(search):
    _, tickets = search
    for n, ticket in enumerate(tickets):
        counts = [int(ticket.masks[name].sum()) for name in ("fc1", "fc2", "fc3")]
        assert counts == [round(0.8**n * 235_200), round(0.8**n * 30_000), round(0.9**n * 1_000)]
        assert ticket.density == pytest.approx(sum(counts) / 266_200)
    for big, small in pairwise(tickets):
        assert all(not (small.masks[n] & ~big.masks[n]).any() for n in big.masks)


def test_the_papers_densities_of_lenet():
    """51.3 % after 3 rounds, 21.1 after 7, 8.7 after 11, 3.6 after 15: with nothing learned, by the shares alone."""
    tickets = lottery.find(lottery.glorot(models.lenet_300_100(), 0), lambda model: None, rounds=15)
    assert [round(100 * tickets[n].density, 1) for n in (3, 7, 11, 15)] == [51.3, 21.1, 8.7, 3.6]


def test_each_mask_keeps_the_largest_that_were_trained(search):
    _, tickets = search
    for ticket, following in pairwise(tickets):
        for name, layer in layers(ticket.trained):
            size, kept = layer.weight.detach().abs(), following.masks[name]
            assert size[kept].min() >= size[ticket.masks[name] & ~kept].max()


def test_what_is_large_after_training_is_not_what_was_large_before(split):
    initial = lottery.glorot(models.lenet_300_100(), 0)
    trained = lottery.find(
        initial, lambda m: lottery.train(m, split, epochs=20, seed=0, **ADAM | {"learning_rate": 0.01}), rounds=1
    )
    untrained = lottery.find(initial, lambda m: None, rounds=1)
    a, b = trained[1].masks["fc2"], untrained[1].masks["fc2"]
    assert (a & b).sum() / (a | b).sum() < 0.9


@pytest.mark.parametrize(
    "options", [ADAM, ADAM | {"weight_decay": 0.1}, {"learning_rate": 0.05}, {"learning_rate": 0.05, "momentum": 0.0}]
)
def test_training_leaves_zeros_zero_and_moves_the_rest(options, split):
    model = lottery.rewind(
        lottery.glorot(models.lenet_300_100(), 0), magnitude.masks(models.lenet_300_100(1), density=0.2)
    )
    before = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    lottery.train(model, split, epochs=3, seed=0, **options)
    for name, layer in layers(model):
        assert (layer.weight[before[name] == 0] == 0).all()
        assert not torch.equal(layer.weight, before[name])
        assert not layer.weight._backward_hooks


def test_training_is_that_of_a_masked_network(split):
    """The second implementation masks the weights at every use; with one step a batch they agree to rounding."""
    start, kept = lottery.glorot(models.lenet_300_100(), 0), magnitude.masks(models.lenet_300_100(1), density=0.3)
    model, masked = lottery.rewind(start, kept), magnitude.apply(lottery.rewind(start, kept), kept)
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "weight_decay": 0.0}
    lottery.train(model, split, **options)
    training.fit(masked, split, **options)
    for (_, a), (_, b) in zip(layers(model), layers(masked), strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-4, atol=1e-6)


def test_the_control_has_the_same_masks_and_another_start(search):
    initial, tickets = search
    control = lottery.rewind(lottery.glorot(models.lenet_300_100(), 7), tickets[-1].masks)
    ticket = lottery.rewind(initial, tickets[-1].masks)
    for (_, a), (_, b) in zip(layers(control), layers(ticket), strict=True):
        assert torch.equal(a.weight != 0, b.weight != 0) and not torch.equal(a.weight, b.weight)


def test_glorot_has_its_variance_zero_biases_and_its_own_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = lottery.glorot(models.lenet_300_100(), 0)
    assert torch.equal(torch.rand(3), expected)
    assert model.fc1.weight.std().item() == pytest.approx((2 / 1084) ** 0.5, rel=0.01)
    assert not model.fc1.bias.any()
    assert torch.equal(model.fc1.weight, lottery.glorot(models.lenet_300_100(3), 0).fc1.weight)


def test_find_works_on_a_convolution_without_bias_and_leaves_the_start_alone(split):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=4, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
        )
    before = [p.detach().clone() for p in model.state_dict().values()]
    tickets = lottery.find(
        model, lambda m: lottery.train(m, split, epochs=1, seed=0), rounds=2, share=0.5, last_share=0.1
    )
    assert [int(t.masks["0"].sum()) for t in tickets] == [100, 50, 25]
    assert [int(t.masks["3"].sum()) for t in tickets] == [1440, 1296, 1166]
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 2, "share": 1.0}, {"rounds": 2, "last_share": 0.0}])
def test_rounds_and_shares_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"rounds must be 1 or more and shares in \(0, 1\)"):
        lottery.find(models.lenet_300_100(), lambda model: None, **options)


def test_trainers_that_revive_zeros_and_masks_that_do_not_fit_are_refused():
    def revive(model):
        nn.init.ones_(model.fc1.weight)

    with pytest.raises(ValueError, match="learn\\(\\) must leave the zeros alone"):
        lottery.find(models.lenet_300_100(), revive, rounds=1)
    with pytest.raises(ValueError, match=r"the mask of 'fc1' must be of shape \(300, 784\), not \(2,\)"):
        lottery.rewind(models.lenet_300_100(), {"fc1": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="ReLU has no layer with a weight"):
        lottery.find(nn.ReLU(), lambda model: None, rounds=1)


def test_a_misspelt_option_changes_nothing(split):
    model = models.lenet_300_100()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TypeError, match="no option 'learning_rat'"):
        lottery.train(model, split, epochs=1, seed=0, learning_rat=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
