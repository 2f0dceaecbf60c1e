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

    def learn(model, masks):
        lottery.train(model, split, masks=masks, epochs=2, seed=0, **ADAM)

    return initial, lottery.find(initial, learn, rounds=4)


def learner(split):
    return lambda model, masks: lottery.train(model, split, masks=masks, epochs=1, seed=0)


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
    tickets = lottery.find(lottery.glorot(models.lenet_300_100(), 0), lambda model, masks: None, rounds=15)
    assert [round(100 * tickets[n].density, 1) for n in (3, 7, 11, 15)] == [51.3, 21.1, 8.7, 3.6]


def test_each_mask_keeps_the_largest_that_were_trained(search):
    _, tickets = search
    for ticket, following in pairwise(tickets):
        for name, layer in layers(ticket.trained):
            size, kept = layer.weight.detach().abs(), following.masks[name]
            assert size[kept].min() >= size[ticket.masks[name] & ~kept].max()


def test_what_is_large_after_training_is_not_what_was_large_before(split):
    initial = lottery.glorot(models.lenet_300_100(), 0)
    options = ADAM | {"epochs": 20, "seed": 0, "learning_rate": 0.01}
    trained = lottery.find(initial, lambda m, masks: lottery.train(m, split, masks=masks, **options), rounds=1)
    untrained = lottery.find(initial, lambda m, masks: None, rounds=1)
    a, b = trained[1].masks["fc2"], untrained[1].masks["fc2"]
    assert (a & b).sum() / (a | b).sum() < 0.9


@pytest.mark.parametrize(
    "options", [ADAM, ADAM | {"weight_decay": 0.1}, {"learning_rate": 0.05}, {"learning_rate": 0.05, "momentum": 0.0}]
)
def test_training_leaves_zeros_zero_and_moves_the_rest(options, split):
    masks = magnitude.masks(models.lenet_300_100(1), density=0.2)
    model = lottery.rewind(lottery.glorot(models.lenet_300_100(), 0), masks)
    before = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    lottery.train(model, split, masks=masks, epochs=3, seed=0, **options)
    for name, layer in layers(model):
        assert (layer.weight[before[name] == 0] == 0).all()
        assert not torch.equal(layer.weight, before[name])
        assert not layer.weight._backward_hooks


def test_training_is_that_of_a_masked_network(split):
    """The second implementation masks the weights at every use; with one step a batch they agree to rounding."""
    start, kept = lottery.glorot(models.lenet_300_100(), 0), magnitude.masks(models.lenet_300_100(1), density=0.3)
    model, masked = lottery.rewind(start, kept), magnitude.apply(lottery.rewind(start, kept), kept)
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "weight_decay": 0.0}
    lottery.train(model, split, masks=kept, **options)
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
    learn = learner(split)
    tickets = lottery.find(model, learn, rounds=2, share=0.5, last_share=0.1)
    assert [int(t.masks["0"].sum()) for t in tickets] == [100, 50, 25]
    assert [int(t.masks["3"].sum()) for t in tickets] == [1440, 1296, 1166]
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


# -- Networks that others wrote ----------------------------------------------------------------------------------------


def perceptron(dtype=torch.float32):
    """A head of zeros, as vision transformers have at first."""
    model = given.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)))
    nn.init.zeros_(model[3].weight)
    return model.to(dtype)


def test_a_layer_that_begins_with_zeros_learns_and_gets_its_share(split):
    model = lottery.train(perceptron(), split, masks={}, epochs=1, seed=0)
    assert model[3].weight.count_nonzero() == 200
    tickets = lottery.find(perceptron(), learner(split), rounds=3, share=0.5)
    assert [int(ticket.masks["3"].sum()) for ticket in tickets] == [200, 150, 112, 84]
    for ticket in tickets:  # the second implementation masks the weights at every use
        other = magnitude.apply(perceptron(), ticket.masks)
        training.fit(other, split, epochs=1, seed=0)
        assert ticket.trained[3].weight.count_nonzero() == ticket.masks["3"].sum()
        torch.testing.assert_close(other[3].weight, ticket.trained[3].weight, atol=1e-6, rtol=1e-4)
    for big, small in pairwise(tickets):
        assert not (small.masks["3"] & ~big.masks["3"]).any()


class Recurrent(nn.Module):
    """Rows of an image, one after the other; its output layer is a convolution of one place."""

    def __init__(self):
        super().__init__()
        self.memory, self.head = nn.LSTM(28, 8, batch_first=True), nn.Conv1d(8, 10, 1)

    def forward(self, images):
        return self.head(self.memory(images.flatten(1, 2))[0].mT)[..., -1]


def test_packed_weights_and_convolutions_have_tickets(split):
    initial = lottery.glorot(given.seeded(Recurrent), 0)
    assert not initial.memory.bias_ih_l0.any() and not initial.head.bias.any()
    assert initial.memory.weight_ih_l0.std().item() == pytest.approx((2 / 60) ** 0.5, rel=0.1)
    tickets = lottery.find(initial, learner(split), rounds=1, share=0.5, convolution_share=0.25)
    assert {name: int(mask.sum()) for name, mask in tickets[1].masks.items()} == {
        "memory.weight_hh_l0": 128,
        "memory.weight_ih_l0": 448,
        "head": 70,
    }
    trained = lottery.train(lottery.rewind(initial, tickets[1].masks), split, masks=tickets[1].masks, epochs=1, seed=0)
    assert trained.memory.weight_ih_l0.count_nonzero() == 448
    assert magnitude.density(trained) == tickets[1].density == pytest.approx(646 / 1232)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tickets_have_the_type_of_their_network(dtype):
    data = given.split(20, 1, 28, 28, dtype=dtype)
    tickets = lottery.find(lottery.glorot(perceptron(dtype), 0), learner(data), rounds=1)
    assert all(p.dtype == dtype for p in tickets[1].trained.parameters())


def test_frozen_layers_stay_as_they_are(split):
    model = perceptron()
    model[1].requires_grad_(False)
    masks = magnitude.masks(model, density={"1": 0.5})
    model = lottery.rewind(model, masks)
    before = model[1].weight.clone()
    lottery.train(model, split, masks=masks, epochs=1, seed=0)
    assert torch.equal(model[1].weight, before) and not model[1].weight.requires_grad
    assert model[3].weight.count_nonzero()


def test_a_masked_weight_that_is_not_zero_is_refused(split):
    masks = {"1": torch.zeros(20, 784, dtype=torch.bool)}
    with given.refused(perceptron(), "layer '1' has weights that its mask removes: rewind"):
        lottery.train(perceptron(), split, masks=masks, epochs=1, seed=0)


def test_weights_that_are_no_parameters_of_their_own_are_refused(split):
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    pruned = magnitude.prune(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    for model, message in ((shared, "layers '0' and '1' share one weight"), (pruned, "'0' is computed from other")):
        with given.refused(model, message):
            lottery.train(model, split, masks={}, epochs=1, seed=0)
        with given.refused(model, message):
            lottery.glorot(model, 0)
    with given.refused(shared, "share one weight"):
        lottery.find(shared, learner(split), rounds=1)


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 2, "share": 1.0}, {"rounds": 2, "last_share": 0.0}])
def test_rounds_and_shares_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"rounds must be 1 or more and shares in \(0, 1\)"):
        lottery.find(models.lenet_300_100(), lambda model, masks: None, **options)


def test_trainers_that_revive_zeros_and_masks_that_do_not_fit_are_refused():
    def revive(model, masks):
        nn.init.ones_(model.fc1.weight)

    def ruin(model, masks):
        model.fc2.weight.data[0, 0] = torch.nan

    with pytest.raises(ValueError, match=r"layer 'fc1' .* learn\(\) must leave the zeros alone"):
        lottery.find(models.lenet_300_100(), revive, rounds=1)
    with pytest.raises(ValueError, match="NaN or infinity in layer 'fc2'"):
        lottery.find(models.lenet_300_100(), ruin, rounds=1)
    with pytest.raises(ValueError, match=r"the mask of 'fc1' must be of shape \(300, 784\), not \(2,\)"):
        lottery.rewind(models.lenet_300_100(), {"fc1": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="ReLU has no layer with a weight"):
        lottery.find(nn.ReLU(), lambda model, masks: None, rounds=1)


def test_a_misspelt_option_changes_nothing(split):
    model = models.lenet_300_100()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TypeError, match="no option 'learning_rat'"):
        lottery.train(model, split, masks={}, epochs=1, seed=0, learning_rat=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
