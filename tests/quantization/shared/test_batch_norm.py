"""Batch norm: folded into the layer before it, or a layer of its own, with the same answers."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from lib.quantization.shared import batch_norm, graph
from lib.quantization.shared.operations import PerFeature


def seen(module):
    """Statistics, factors and biases that are not those of a fresh batch norm."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, batch_norm.NORMS) and norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.data.uniform_(-2, 2)
                norm.bias.data.normal_()
    return module.eval()


class Two(nn.Module):
    """A convolution that a batch norm and a sum read."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return functional.relu(self.norm(y)) + y


NETWORKS = {
    "after a convolution": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), 1),
    "without factors": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()), 1),
    "first": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)), 2),
    "after ReLU": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)),
        3,
    ),
    "not alone": (Two(), 2),
    "two in a row": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_answers_stay(name):
    model, layers = NETWORKS[name]
    model, x = seen(copy.deepcopy(model)), torch.randn(5, 3, 6, 6)
    expected, before = model(x), copy.deepcopy(model.state_dict())
    network = graph.traced(model)
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, batch_norm.NORMS) for module in network.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == layers
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_features_of_rows_and_of_lines():
    mlp = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5))
    lines = nn.Sequential(nn.BatchNorm1d(6), nn.Conv1d(6, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5))
    for model, x in ((mlp, torch.randn(7, 6)), (lines, torch.randn(7, 6, 9))):
        network = graph.traced(seen(model))
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
        assert sum(isinstance(module, PerFeature) for module in network.modules()) == 2
        again = graph.traced(network)  # of what was traced before, too
        assert torch.equal(again(x), network(x))


def test_batch_norm_over_tokens_is_refused_when_it_runs():
    model = seen(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    network, tokens = graph.traced(model), torch.randn(3, 5, 4)
    assert model(tokens).shape == (3, 5, 5)  # the second of these three sides is normed, not the features
    with pytest.raises(ValueError, match=r"batch norm '1' after a linear layer takes \(n, features\), not \(3, 5, 4\)"):
        network(tokens)


def test_what_is_frozen_stays_frozen_and_types_stay():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double()
    for frozen in (["0.weight"], ["1.weight", "2.bias"], ["0.bias", "0.weight", "2.bias"], []):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        network = fx.symbolic_trace(seen(copy.deepcopy(model)))
        batch_norm.fold(network)
        second, first = network.children()  # the layer that was there, and the new one
        trained = [p.requires_grad for p in (first.weight, first.bias, second.weight, second.bias)]
        assert trained == [name not in frozen for name in ("0.weight", "0.bias", "1.weight", "2.bias")]
        assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_no_random_number_is_drawn():
    torch.manual_seed(3)
    graph.traced(seen(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))))
    state = torch.get_rng_state()
    torch.manual_seed(0)  # as in seen
    nn.init.normal_(torch.zeros(3))
    nn.init.uniform_(torch.zeros(3))
    nn.init.uniform_(torch.zeros(3))
    nn.init.normal_(torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_running_statistics_it_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="batch norm '1' cannot be folded: it has no running statistics"):
        graph.traced(model)
