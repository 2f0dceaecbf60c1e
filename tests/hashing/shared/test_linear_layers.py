"""Layers in the place of linear ones: copies, refusals, random numbers, work."""

import pytest
import torch
from given import refused, state
from torch import nn

from lib import measure, models
from lib.hashing.shared.linear_layers import SparseLinear, Work, check_linear, check_seed, replaced, uniform, work


class Half(SparseLinear):
    """Half of the units."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.outputs, self.inputs = layer.weight.shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.nn.functional.linear(x, self.weight, self.bias)
        return z * (torch.arange(self.outputs) < self.outputs // 2)

    @property
    def work(self) -> Work:
        return Work(self.inputs * (self.outputs // 2), 7, self.inputs * self.outputs)


def test_named_layers_are_replaced_in_a_copy_once_each():
    model, calls = models.lenet_300_100(), []

    def make(layer: nn.Linear, number: int) -> nn.Module:
        calls.append((layer.out_features, number))
        return Half(layer)

    before = state(model)
    changed = replaced(model, ["fc2", "fc1", "fc2"], make)
    assert calls == [(100, 0), (300, 1)]
    assert [type(changed.get_submodule(name)) for name in ("fc1", "fc2", "fc3")] == [Half, Half, nn.Linear]
    assert type(model.fc1) is nn.Linear and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        changed.fc1.weight.zero_()
    assert model.fc1.weight.any()


def test_what_a_layer_refuses_is_said_with_its_name():
    def make(layer: nn.Linear, number: int) -> nn.Module:
        raise ValueError("it is too small")

    model = models.lenet_300_100()
    with refused(model, "layer 'fc2': it is too small"):
        replaced(model, ["fc2"], make)
    with refused(model, "name one linear layer or more"):
        replaced(model, [], make)


def test_shared_and_read_weights_are_refused():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with refused(tied, "layers '0' and '1' share one weight"):
        replaced(tied, ["1"], lambda layer, number: Half(layer))
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    with refused(encoder, "'linear1' cannot be replaced: TransformerEncoderLayer reads its weight"):
        replaced(encoder, ["linear1"], lambda layer, number: Half(layer))


def test_only_plain_linear_layers_and_seeds_from_zero_pass():
    check_linear(nn.Linear(2, 2), "it")
    check_seed(0)
    for layer, kind in (
        (nn.Conv2d(1, 1, 1), "Conv2d"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "one whose weight is compressed"),
    ):
        with pytest.raises(ValueError, match=f"it must be a plain nn.Linear, not {kind}"):
            check_linear(layer, "it")
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        check_seed(-1)


def test_random_numbers_advance_in_training_and_are_fixed_otherwise():
    draw, before = torch.tensor([3, 0]), torch.get_rng_state()
    first, second = uniform(draw, (5,), advance=True), uniform(draw, (5,), advance=True)
    assert draw.tolist() == [3, 2] and not torch.equal(first, second)
    fixed = uniform(draw, (5,), advance=False)
    assert draw.tolist() == [3, 2] and torch.equal(fixed, uniform(torch.tensor([3, 0]), (5,), advance=False))
    assert torch.equal(first, uniform(torch.tensor([3, 0]), (5,), advance=True))
    assert not torch.equal(fixed, uniform(torch.tensor([4, 0]), (5,), advance=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_work_adds_sparse_and_other_layers_for_each_vector():
    dense = models.lenet_300_100()
    changed = replaced(dense, ["fc1"], lambda layer, number: Half(layer))
    every, rest = measure.multiply_adds(dense, (1, 28, 28)), 300 * 100 + 100 * 10
    assert every == 784 * 300 + rest
    assert work(dense, (1, 28, 28)) == Work(every, 0, every)
    assert work(changed, (1, 28, 28)) == Work(784 * 150 + rest, 7, every)
    assert work(Half(nn.Linear(4, 6)), (5, 4)) == Work(5 * 12, 5 * 7, 5 * 24)
