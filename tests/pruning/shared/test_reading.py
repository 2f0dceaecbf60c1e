"""Channels that are read: the last axis of a linear layer, samples first, and a layer that runs."""

import given
import given_tokens
import pytest
import torch
from torch import nn

from lib import models, structure
from lib.pruning.shared.reading import check_read, scaled


@pytest.mark.parametrize("patch", [2, 8])  # 64 tokens and 4, of 16 features
@pytest.mark.parametrize("grid", [False, True])
def test_a_scaled_unit_of_tokens_is_a_scaled_column_of_weights(patch, grid):
    model, images = given_tokens.mixer(patch, grid), given_tokens.patches().images
    factors = torch.rand(1, 16, generator=given.generator(), dtype=torch.float64)
    with torch.no_grad(), scaled(model, structure.groups(model, images), [factors]) as places:
        changed = model(images)
    assert places == {0: (16 // patch) ** 2}
    model.fc2.weight.data *= factors
    torch.testing.assert_close(changed, model(images))
    assert not model.fc2._forward_pre_hooks


def test_every_sample_of_tokens_has_its_own_factors():
    model, images = given_tokens.mixer(), given_tokens.patches().images
    factors = torch.rand(12, 16, generator=given.generator(), dtype=torch.float64)
    groups = structure.groups(model, images)
    with torch.no_grad(), scaled(model, groups, [factors]):
        together = model(images)
    for i in range(3):
        with torch.no_grad(), scaled(model, groups, [factors[i : i + 1]]):
            torch.testing.assert_close(model(images[i : i + 1]), together[i : i + 1])


class Turned(nn.Module):
    """Works on (tokens, n, features), as recurrent layers do."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc2(self.fc1(x.transpose(0, 1)).relu()).mean(0)


class Bypassed(nn.Module):
    """Reads the weight of a layer where no gradient is needed, as torch's fast paths do."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.fc1(x).relu()
        return self.fc2(x) if torch.is_grad_enabled() else nn.functional.linear(x, self.fc2.weight, self.fc2.bias)


def test_samples_along_another_axis_and_layers_that_do_not_run_are_refused():
    for model, example, message in (
        (
            Turned(),
            torch.rand(2, 5, 3),
            r"layer 'fc2' reads values of shape \(5, 1, 4\) for one sample: its first axis",
        ),
        (Bypassed(), torch.rand(2, 3), "layer 'fc2' did not run: what it reads of layer 'fc1' cannot be measured"),
    ):
        groups = [structure.Group(4, ("fc1",), {}, {"fc2": torch.arange(4)[:, None]})]
        with given.refused(model, message):
            check_read(model, groups, example)
        assert not model.fc2._forward_hooks


def test_a_network_of_convolutions_is_read_as_it_should_be():
    model, images = models.resnet8(channels=1, width=4), torch.rand(2, 1, 28, 28)
    check_read(model, structure.groups(model, images), images)
    assert all(module.training for module in model.modules())
