"""What a user brings is read and checked before anything runs; what the command refuses is in test_command.py."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib import datasets
from lib.recipes import inputs


def test_a_network_of_torchvision_has_as_many_outputs_as_classes():
    assert inputs.network("squeezenet1_1", 3)(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_prefixes_of_parallel_networks_are_taken_off(tmp_path):
    model = nn.Linear(2, 2)
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    other = nn.Linear(2, 2)
    inputs.read_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, model.weight)


def test_gray_images_get_three_channels():
    data = datasets.load("digits", first=(4, 2, 2))
    color = inputs.in_color(data)
    assert color.train.images.shape == (4, 3, 28, 28)
    assert torch.equal(color.test.images[:, 2:], data.test.images)


@pytest.mark.parametrize("name", inputs.AUXILIARY)
def test_networks_with_heads_answer_once(name):
    with torch.device("meta"):
        assert isinstance(inputs.network(name, 3).train()(torch.zeros(2, 3, 96, 96)), torch.Tensor)


def test_outputs_must_be_as_many_as_the_classes():
    digits = datasets.load("digits", first=(4, 2, 2))
    inputs.check(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), digits, "mine")
    with pytest.raises(ValueError, match="mine has 3 outputs, and digits has 10 classes"):
        inputs.check(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), digits, "mine")
