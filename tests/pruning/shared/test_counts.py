"""Numbers that count something: whole ones of any library, and one sentence for all others."""

import numpy as np
import pytest
import torch

from lib.pruning.shared.counts import count


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_become_ints(value):
    assert type(count("bins", value)) is int and count("bins", value) == 3


@pytest.mark.parametrize("value", [2.0, True, "3", None, torch.tensor(3), [3]])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="bins must be a whole number, 2 or more, not "):
        count("bins", value, least=2)


def test_small_numbers_are_refused():
    with pytest.raises(ValueError, match="bins must be 2 or more, not 1"):
        count("bins", np.int64(1), least=2)
