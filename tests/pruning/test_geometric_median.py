"""Distances against scipy, the facts that a geometric median must obey, and the soft schedule."""

import given
import given_tokens
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

from lib import models, structure
from lib.datasets import Split
from lib.pruning import geometric_median
from lib.vision import torchvision


def images(*shape, n=3):
    return given.split(n, *shape)


GRAY, PHOTOGRAPH = images(1, 28, 28), images(3, 64, 64, n=1)


@pytest.mark.parametrize("build", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_scores_are_the_sums_of_distances_in_networks_we_did_not_write(build):
    model = getattr(torchvision.models, build)(num_classes=10)
    scores = geometric_median.scores(model, PHOTOGRAPH)
    assert scores.keys() == {n for g in structure.groups(model, PHOTOGRAPH.images) for n in g.producers}
    for name in list(scores)[:: max(1, len(scores) // 4)]:
        filters = model.get_submodule(name).weight.detach().flatten(1).double()[:64]
        expected = cdist(filters.numpy(), model.get_submodule(name).weight.detach().flatten(1).double().numpy()).sum(1)
        assert scores[name][:64].numpy() == pytest.approx(expected, rel=1e-6)


def test_a_gate_has_no_score_and_tokens_have_one_for_each_unit():
    scores = geometric_median.scores(given_tokens.gated(), given.split(2, 2, 5, 5, dtype=torch.float64))
    assert scores.keys() == {"first", "second", "squeeze"}
    model, data = given_tokens.mixer(), given_tokens.patches()
    both = [geometric_median.scores(m, data)["fc1"] for m in (model, given_tokens.AsConvolutions(model))]
    assert both[0].shape == (16,)
    torch.testing.assert_close(*both)


def layer(filters):
    """A network whose first layer has these filters (n, 4): a 2 x 2 convolution of one channel."""
    model = nn.Sequential(nn.Conv2d(1, len(filters), 2, bias=False), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    model(GRAY.images.double())
    model[0].weight.data = filters.reshape(-1, 1, 2, 2).clone()
    return model


@pytest.fixture
def filters():
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def score(filters):
    return geometric_median.scores(layer(filters), Split(GRAY.images.double(), GRAY.labels))["0"]


def test_the_choice_is_the_same_with_the_filter_itself_left_out(filters):
    without = torch.stack(
        [(torch.cat([filters[:i], filters[i + 1 :]]) - filters[i]).norm(dim=1).sum() for i in range(12)]
    )
    assert torch.equal(score(filters).argsort(), without.argsort())


def test_moving_turning_and_reordering_all_filters_changes_nothing_but_the_order(filters):
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).Q
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(score(filters + torch.tensor([5.0, -3, 0, 2])), score(filters))
    assert torch.allclose(score(filters @ turn), score(filters))
    assert torch.allclose(score(filters[order]), score(filters)[order])
    assert torch.allclose(score(3 * filters), 3 * score(filters))


def test_two_equal_filters_at_the_center_go_first(filters):
    planted = torch.cat([filters, filters.mean(0).expand(2, 4)])
    planted[3], planted[12] = planted[12].clone(), planted[3].clone()
    assert set(score(planted).argsort()[:2].tolist()) == {3, 13}


def test_of_points_on_a_line_the_middle_one_goes_first():
    line = torch.arange(7.0, dtype=torch.float64)[:, None] * torch.ones(4, dtype=torch.float64)
    assert score(line).argsort(stable=True).tolist()[0] == 3
    assert score(line).tolist() == pytest.approx([2 * s for s in (21, 16, 13, 12, 13, 16, 21)])


def test_one_filter_alone_is_at_the_distance_zero():
    assert score(torch.ones(1, 4, dtype=torch.float64)).tolist() == [0]


def test_soft_pruning_ends_smaller_by_the_share_of_multiply_adds(filters):
    data = images(1, 28, 28, n=40)
    model = models.lenet5(2)
    small = geometric_median.soft(model, data, fraction=0.4, epochs=3, seed=0, learning_rate=0.01, batch_size=20)
    assert [small.conv1.out_channels, small.conv2.out_channels, small.fc1.out_features] == [12, 30, 300]
    assert small.conv2.in_channels * small.conv2.out_channels == round(20 * 50 * (1 - 0.4) ** 2)
    assert torch.isfinite(small(data.images)).all()


def test_filters_that_are_zero_are_trained_on():
    data, model, seen = images(1, 28, 28, n=40), models.lenet5(2), []
    original = torch.nn.Module.train

    class Watched(nn.Sequential):
        def train(self, mode=True):
            if mode:  # fit calls this after before_epoch
                seen.append(int((self.conv1.weight.flatten(1) == 0).all(1).sum()))
            return original(self, mode)

    model.__class__ = Watched
    geometric_median.soft(model, data, fraction=0.5, epochs=3, seed=0, learning_rate=0.05, batch_size=20)
    assert seen[1:4] == [0, 10, 10]  # the first call is that of the trial
    assert int((model.conv1.weight.flatten(1) == 0).all(1).sum()) == 0  # all of them moved again


def test_soft_refuses_a_fraction_before_it_trains():
    model = models.lenet5()
    before = model.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), not 1.0"):
        geometric_median.soft(model, GRAY, fraction=1.0, epochs=1, seed=0)
    assert torch.equal(model.conv1.weight, before)


def test_soft_refuses_an_unknown_option_before_it_trains():
    model = models.lenet5()
    before = model.conv1.weight.clone()
    with pytest.raises(TypeError, match="there is no option 'before_epoch': accepted are learning_rate, "):
        geometric_median.soft(model, GRAY, fraction=0.5, epochs=1, seed=0, before_epoch=print)
    assert torch.equal(model.conv1.weight, before) and model.conv1.weight.grad is None


def test_bad_input_is_refused():
    model = models.lenet5()
    with pytest.raises(ValueError, match="the split is empty"):
        geometric_median.scores(model, GRAY.first(0))
    model.conv1.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="weights of layer 'conv1' hold NaN or infinity"):
        geometric_median.scores(model, GRAY)
