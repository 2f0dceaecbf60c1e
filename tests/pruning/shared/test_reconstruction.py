"""The matrix G against removing channels."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, running, structure
from lib.datasets import Split
from lib.pruning.shared import reconstruction
from lib.pruning.shared.patches import sampled
from lib.pruning.shared.reconstruction import contributions, grams


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, bias=False)]
        return nn.Sequential(*parts, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 4)).double().eval()


@pytest.mark.parametrize("removed", [[0], [1, 4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize(("producer", "consumer"), [("0", "3"), ("3", "7")])
def test_gram_is_the_error_of_the_next_layer_when_channels_go(removed, producer, consumer):
    model, data = small(), split(12, 1, 9, 9)
    gram = grams(model, data, places=999, outputs=99)[producer]
    mask = torch.ones(len(gram), dtype=torch.bool)
    mask[removed] = False
    with running.captured(model, [consumer]) as flow, torch.no_grad():
        model(data.images)
        inputs, layer = flow.inputs[consumer].clone(), model.get_submodule(consumer)
        dense = layer(inputs)
        maps = inputs.view(len(inputs), len(gram), -1)
        maps[:, removed] = 0
        error = ((dense - layer(inputs)) ** 2).sum()
        bias = 0 if layer.bias is None else layer.bias
        energy = ((dense - bias) ** 2).sum()
    beta = mask.double()
    torch.testing.assert_close((1 - beta) @ gram @ (1 - beta), error / energy)
    torch.testing.assert_close(gram.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_several_next_layers_count_alike_whatever_their_scale():
    model, data = models.resnet8(width=4).double().eval(), split(3, 3, 16, 16)
    before = grams(model, data, places=5)["conv"]
    model.stage2_1.shortcut[0].weight.data *= 100
    torch.testing.assert_close(grams(model, data, places=5)["conv"], before)
    torch.testing.assert_close(before.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_drawn_outputs_are_an_unbiased_picture_of_all():
    model, data = small(), split(12, 1, 9, 9)
    whole = grams(model, data, places=999)["0"]
    drawn = [grams(model, data, places=999, outputs=4, seed=seed)["0"] for seed in range(30)]
    assert not torch.equal(drawn[0], whole)
    assert (sum(drawn) / 30 - whole).norm() < 0.1 * whole.norm()


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_size_of_what_layers_read_does_not_count(factor):
    model, data = given.two_convolutions(), split(8, 1, 8, 8)
    before = grams(model, data)
    for layer in (model[0], model[2]):
        layer.weight.data *= factor
        layer.bias.data *= factor if layer is model[0] else factor**2
    for name, gram in grams(model, data).items():
        torch.testing.assert_close(gram, before[name])


class Twice(nn.Module):
    """The second layer reads what it has written."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, images):
        return self.last(self.again(self.again(self.first(images).relu()).relu()).relu().mean((2, 3)))


def test_both_calls_of_a_layer_that_runs_twice_count():
    model, data = given.seeded(Twice).double().eval(), split(6, 1, 8, 8)
    with torch.no_grad():
        first = model.first(data.images).relu()
        read = torch.cat([first, model.again(first).relu()])
    alone = nn.Sequential(nn.Conv2d(4, 4, 1), model.again, nn.Flatten(), nn.Linear(144, 1)).double()
    nn.init.dirac_(alone[0].weight)  # the second layer reads all of it at once
    nn.init.zeros_(alone[0].bias)
    expected = grams(alone, Split(read, torch.zeros(12)), places=99, outputs=99)["0"]
    gram, _ = reconstruction.measured(
        model, model, [structure.Group(4, ("first",), {}, {"again": torch.arange(4)[:, None]})], data, **ALL
    )[0]
    torch.testing.assert_close(gram, expected)


ALL = {"images": 99, "places": 99, "outputs": 99, "seed": 0}


def test_what_is_missing_of_the_answers_is_part_of_the_target():
    """In a network that is cut already the best factors are those that come nearest to the whole one's answers."""
    model, data = given.two_convolutions(), split(8, 1, 8, 8)
    cut = copy.deepcopy(model)
    cut[0].weight.data[2:4] = 0
    group = structure.groups(model, data.images[:1])[1]
    gram, goal = reconstruction.measured(cut, model, [group], data, **ALL)[0]
    (_, read, _), (_, _, answers) = (next(sampled(m, ["5"], data, images=99, places=99)) for m in (cut, model))
    each = contributions(read.reshape(8, 5, 16), model[5].weight.detach().reshape(4, 5, 16)).flatten(0, 1)
    factors = torch.linalg.lstsq(each, answers.flatten()).solution
    torch.testing.assert_close(torch.linalg.solve(gram, goal), factors)
    whole, all_of_it = reconstruction.measured(model, model, [group], data, **ALL)[0]
    torch.testing.assert_close(all_of_it, whole.sum(1))


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_split_and_no_samples_are_refused():
    model, data = small(), split(2, 1, 9, 9)
    message = "the split is empty: at least one sample is needed to see what the layers read"
    with pytest.raises(ValueError, match=message):
        grams(model, data.first(0))
    with pytest.raises(ValueError, match="images and places must be 1 or more, not 0 and 10"):
        grams(model, data, images=0, places=10)
    for outputs in (0, -1):
        with pytest.raises(ValueError, match=f"outputs must be 1 or more, not {outputs}"):
            grams(model, data, outputs=outputs)


def test_what_is_not_finite_is_refused_and_the_mode_restored():
    model, data = small().train(), split(2, 1, 9, 9)
    data.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="what the layers after '3' read must be finite: look for NaN in the split"):
        grams(model, data)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_network_whose_filters_all_stay_has_no_matrices():
    assert grams(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), split(2, 1, 2, 2)) == {}
