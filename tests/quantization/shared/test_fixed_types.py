"""Buffers that keep their types, and numbers that a grid has integers for."""

import pytest
import torch
from torch import nn

from lib.quantization.shared.fixed_types import FixedTypes, check_numbers


def test_types_stay_and_devices_change():
    module = FixedTypes()
    module.hold("scale", torch.tensor([0.1, 0.2]))
    module.hold("codes", torch.tensor([1, 2], dtype=torch.int8))
    module.hold("bias", None)
    network = nn.Sequential(nn.Linear(2, 2), module).half()
    assert network[0].weight.dtype == torch.float16
    assert module.scale.tolist() == torch.tensor([0.1, 0.2]).tolist() and module.codes.dtype == torch.int8
    network.to(torch.float64)
    assert module.scale.dtype == torch.float32 and network[0].weight.dtype == torch.float64
    network.to(device="meta", dtype=torch.float64)
    assert module.scale.is_meta and module.codes.is_meta and module.scale.dtype == torch.float32


def test_what_is_held_is_a_copy_that_can_be_written_to():
    module, value = FixedTypes(), torch.tensor([1.0])
    with torch.inference_mode():
        module.hold("scale", value)
    value += 1
    module.scale += 1
    assert module.scale.tolist() == [2.0]


def test_only_nan_is_no_number():
    for images in (torch.zeros(0), torch.tensor([torch.inf, -torch.inf]), torch.full((3,), 3e38)):
        check_numbers(images)
    for images in (torch.tensor([0.0, torch.nan]), torch.tensor([torch.inf, torch.nan])):
        with pytest.raises(ValueError, match="the images hold NaN"):
            check_numbers(images)
