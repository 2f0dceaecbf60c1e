"""The hash against published values, a second implementation, and the statistics of an ideal hash."""

import numpy as np
import pytest
from scipy import stats

from lib.hashing.shared import mixing
from lib.hashing.shared.mixing import buckets, derived, signs, splitmix64

MASK, SEEDS = 2**64 - 1, range(40)


def by_hand(key: int, seed: int) -> int:
    """SplitMix64 as it is written in C, in Python's unlimited integers: run the generator up to this output."""
    state = (seed + (key + 1) * 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & MASK
    return state ^ state >> 31


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]),
        (
            1234567,
            [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
        ),
    ],
)
def test_the_outputs_are_those_that_are_published(seed, outputs):
    assert splitmix64(np.arange(5), seed).tolist() == outputs


def test_large_keys_and_seeds_wrap_as_in_c():
    keys, seeds = [0, 1, 2**31, 2**32 + 7, 2**62 + 3], [0, 1, 2**32, 2**63 - 1]
    for seed in seeds:
        assert splitmix64(np.array(keys), seed).tolist() == [by_hand(key, seed) for key in keys]
    assert splitmix64(np.array([MASK], dtype=np.uint64), 3).tolist() == [by_hand(MASK, 3)]


def test_buckets_signs_and_seeds_are_the_same_everywhere():
    # Files hold the seed alone: were one of these numbers to change, all that were saved would be lost.
    keys = np.array([0, 1, 2, 3, 783, 784, 783_999, 2**40])
    assert buckets(keys, 12_250, seed=7).tolist() == [5987, 3804, 10346, 703, 1459, 1578, 792, 844]
    assert signs(keys, seed=7).tolist() == [-1, -1, 1, 1, 1, -1, 1, 1]
    derivations = [derived(7, number) for number in range(3)]
    assert derivations == [3595544800446187243, 154844686297477902, 8308050873407804673]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_any_integers_of_any_shape_are_hashed_alike(dtype):
    grid = np.arange(120).reshape(10, 12)
    expected = splitmix64(grid.ravel(), 5).reshape(10, 12)[::2, ::-3]
    keys = grid.astype(dtype)[::2, ::-3]
    np.testing.assert_array_equal(splitmix64(keys, 5), expected)
    assert buckets(keys, 9, 5).shape == signs(keys, 5).shape == (5, 4)
    assert splitmix64(np.array(3, dtype=dtype), 5) == splitmix64(np.arange(4), 5)[3]
    assert splitmix64(np.zeros(0, dtype=dtype), 5).shape == (0,)


def test_buckets_are_the_hash_modulo_their_number():
    keys = np.arange(1000)
    for count in (1, 2, 1000, 2**40):
        assert buckets(keys, count, 3).tolist() == [by_hand(int(key), 3) % count for key in keys]


def test_different_keys_never_have_the_same_hash():
    assert len(np.unique(splitmix64(np.arange(2**18), 11))) == 2**18


@pytest.mark.parametrize("count", [2, 10, 64, 1000, 12_250])
def test_bucket_loads_are_multinomial(count):
    # Of an ideal hash, each p is uniform, so their distribution is tested as well: neither uneven nor too even.
    p = [
        stats.chisquare(np.bincount(buckets(np.arange(100_000), count, seed), minlength=count)).pvalue for seed in SEEDS
    ]
    assert min(p) > 1e-3 / len(SEEDS) and stats.kstest(p, "uniform").pvalue > 1e-3


def test_rows_and_columns_of_a_matrix_are_dealt_evenly_too():
    dealt = buckets(np.arange(1000 * 784).reshape(1000, 784), 16, seed=0)
    lines = [*dealt, *dealt.T]
    p = [stats.chisquare(np.bincount(line, minlength=16)).pvalue for line in lines]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_half_of_the_signs_are_minus():
    found = signs(np.arange(10**6), seed=0)
    assert found.dtype == np.int8 and set(found.tolist()) == {-1, 1}
    assert abs(found.mean(dtype=float)) < 4e-3  # four standard errors


@pytest.mark.parametrize("count", [2, 64, 97])
def test_signs_are_independent_of_buckets(count):
    keys = np.arange(100_000)
    p = []
    for seed in SEEDS:
        cells = 2 * buckets(keys, count, seed) + (signs(keys, seed) > 0)
        table = np.bincount(cells, minlength=2 * count).reshape(count, 2)
        p.append(stats.chi2_contingency(table, correction=False).pvalue)
    assert min(p) > 1e-3 / len(SEEDS) and stats.kstest(p, "uniform").pvalue > 1e-3


def test_hashes_of_derived_seeds_are_independent():
    keys = np.arange(400_000)
    first, second = (buckets(keys, 16, derived(0, number)) for number in (0, 1))
    table = np.bincount(16 * first + second, minlength=256).reshape(16, 16)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert len({derived(seed, number) for seed in range(30) for number in range(30)}) == 900


def test_one_bit_of_the_key_changes_half_of_the_hash():
    keys = np.arange(2000, dtype=np.uint64)
    for bit in (0, 1, 20, 40, 63):
        changed = splitmix64(keys, 0) ^ splitmix64(keys ^ np.uint64(1 << bit), 0)
        assert np.unpackbits(changed.view(np.uint8)).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2000 * 64))


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, True, None])
def test_other_seeds_are_refused(seed):
    keys = np.arange(2)
    for call in (lambda: splitmix64(keys, seed), lambda: signs(keys, seed), lambda: derived(seed, 0)):
        with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\^63 - 1, not"):
            call()
    assert mixing.check_seed(2**63 - 1) is None


def test_other_keys_and_counts_are_refused():
    for keys in (np.array([0.5]), np.array([3, -1]), np.array([True])):
        with pytest.raises(ValueError, match="keys to hash must be whole numbers from 0 up"):
            splitmix64(keys, 0)
    for count in (0, -3, 2.0, True, 2**63):
        with pytest.raises(ValueError, match=f"number of buckets must be a whole number from 1 up, not {count}"):
            buckets(np.arange(3), count, 0)
