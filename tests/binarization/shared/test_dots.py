"""Dot products of short numbers: all lanes are counted, and none where the processor or numba has no such vectors."""

import numba
import pytest

from lib.binarization.shared import dots
from lib.binarization.shared.vector import CHAINS


@pytest.mark.parametrize(
    ("instruction", "one", "largest"), [("vdpbf16ps", 0x3F803F80, None), ("vpdpbusd", 0x01010101, 0x7F7F7F7F)]
)
def test_dot_products_add_all_numbers_of_a_lane(instruction, one, largest):
    feature, numbers = dots.DOTS[instruction]
    products = dots.dot_products(instruction)
    if products is None:
        assert feature not in dots.features()
        pytest.skip(f"this processor has no {instruction}")

    @numba.njit("float64(int64, int64)")
    def loop(turns, seed):
        return products(turns, seed)

    for turns in (0, 1, 2, 7, 100):
        assert loop(turns, one) == turns * CHAINS * numbers
        assert loop(turns, 0) == 0
        if largest:
            assert loop(turns, largest) == turns * CHAINS * numbers * 127**2


@pytest.mark.parametrize("setting", [("CPU_NAME", "generic"), ("CPU_FEATURES", "+sse2"), ("ENABLE_AVX", 0)])
def test_no_instruction_is_used_for_which_numba_does_not_compile(monkeypatch, setting):
    monkeypatch.setattr(dots.config, *setting)
    assert dots.features() == set()
    assert all(dots.dot_products(instruction) is None for instruction in dots.DOTS)


def test_a_processor_that_llvm_cannot_ask_has_no_features(monkeypatch):
    def refuse():
        raise RuntimeError("no features")

    monkeypatch.setattr(dots.binding, "get_host_cpu_features", refuse)
    assert dots.features() == set()
