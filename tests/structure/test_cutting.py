"""From masks to networks: a copy that is masked, one that is smaller, and how much must go for a share of the work."""

import pytest
import torch
from torch import nn

from lib import measure, models
from lib.structure import cutting
from lib.structure.choice import keep

IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_both_copies_answer_alike_and_leave_the_model():
    model = models.lenet5().eval()
    masks = {"conv1": torch.arange(20) % 3 > 0, "fc1": torch.arange(500) < 100}
    before = [value.clone() for value in model.state_dict().values()]
    masked, small = (cut(model, masks, IMAGES).eval() for cut in (cutting.mask, cutting.shrink))
    torch.testing.assert_close(masked(IMAGES), small(IMAGES), rtol=1e-4, atol=1e-5)
    assert (small.conv1.out_channels, small.fc1.out_features, small.conv2.in_channels) == (13, 100, 13)
    assert masked.conv1.weight.shape == model.conv1.weight.shape
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_the_fraction_brings_the_work_below_the_share():
    model, share = models.lenet5(), 0.3
    fraction = cutting.fraction_for(model, IMAGES, multiply_adds=share)
    scores = {"conv1": torch.zeros(20), "conv2": torch.zeros(50), "fc1": torch.zeros(500)}
    whole = measure.multiply_adds(model, (1, 28, 28))

    def left(fraction):
        small = cutting.shrink(model, keep(scores, fraction=fraction), IMAGES)
        return measure.multiply_adds(small, (1, 28, 28)) / whole

    assert left(fraction) <= share < left(fraction - 0.03)
    assert cutting.fraction_for(model, IMAGES, multiply_adds=1.0) == 0


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.0, "must be in"), (1.5, "must be in"), (float("nan"), "must be in"), (1e-6, "even the fewest")],
)
def test_shares_that_cannot_be_reached_are_refused(share, says):
    with pytest.raises(ValueError, match=says):
        cutting.fraction_for(models.lenet5(), IMAGES, multiply_adds=share)


def test_networks_that_read_words_are_cut_to_a_share():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    assert cutting.fraction_for(model, torch.arange(5)[None], multiply_adds=0.5) == pytest.approx(0.5, abs=1e-3)


def test_a_network_without_filters_that_can_go_is_refused():
    with pytest.raises(ValueError, match="no layer of Sequential has filters that can go"):
        cutting.fraction_for(nn.Sequential(nn.Linear(5, 3)), torch.rand(1, 5), multiply_adds=0.5)


def test_a_mask_must_be_a_tensor():
    with pytest.raises(ValueError, match="the mask of layer 'conv1' must be a tensor of truth values, not a list"):
        cutting.shrink(models.lenet5(), {"conv1": [True] * 20}, IMAGES)
