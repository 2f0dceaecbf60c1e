"""Strides: what is refused, and the smallest side by brute force."""

from itertools import product

import pytest

from lib.architectures.shared.strides import check_strides, least


@pytest.mark.parametrize("strides", list(product((1, 2), repeat=4)))
def test_the_least_side_is_the_first_that_each_stride_halves(strides):
    def every_stride_finds_two(side: int) -> bool:
        for stride in strides:
            if stride == 2:
                if side < 2:
                    return False
                side = -(-side // 2)
        return True

    check_strides(strides, count=4)
    assert least(strides) == next(side for side in range(1, 99) if every_stride_finds_two(side))


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 3), (0, 1), (2.0, 1), (True, 1), 2, None, "22"])
def test_other_strides_are_refused_in_one_sentence(strides):
    with pytest.raises(ValueError, match=r"strides must be 2 numbers, each 1 or 2, not "):
        check_strides(strides, count=2)
