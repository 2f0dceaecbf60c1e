"""The zoo: whole networks that answer, the same ones every time."""

import pytest
import torch

from lib.book.zoo import networks

SMALL = ("U-Net", "CSP block", "mixer", "LSTM", "Conv3d")


@pytest.mark.parametrize("name", [*SMALL, "shufflenet_v2_x0_5", "vit_b_16"])
def test_a_network_is_the_same_each_time_and_tells_samples_apart(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    (one, split), (other, again) = networks.build(name), networks.build(name)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    answers = one(split.images)
    assert answers.shape == (12, networks.CLASSES) and torch.equal(answers, other(again.images))
    assert answers.std(0).max() > 0.01 * answers.abs().max() and not one.training


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"must be one of resnet18, .*Conv3d, not 'resnet1'"):
        networks.build("resnet1")
