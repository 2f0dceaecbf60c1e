"""Bits for each layer, by name."""

import numpy as np
import pytest

from lib import models
from lib.quantization.shared.names import bits_of, check_names


def test_bits_of_a_layer_that_is_not_named_are_none():
    assert bits_of({"a": 3}, "b") is None and bits_of({"a": 3}, "a") == bits_of(3, "b") == 3


@pytest.mark.parametrize("bits", [0, 17, -1, 2.5, True, "4"])
def test_only_whole_numbers_from_1_to_16_are_accepted(bits):
    for asked in (bits, {"fc1": bits}):
        with pytest.raises(ValueError, match=f"bits must be in 1..16, not {bits}"):
            bits_of(asked, "fc1")
    assert bits_of(np.int64(3), "fc1") == 3


def test_only_layers_of_the_model_may_be_named():
    check_names(models.lenet_300_100(), 4)
    check_names(models.lenet_300_100(), {"fc1": 4, "fc3": 2})
    with pytest.raises(ValueError, match="has no layer 'fc9' with a weight: it has fc1, fc2, fc3"):
        check_names(models.lenet_300_100(), {"fc1": 4, "fc9": 2})
