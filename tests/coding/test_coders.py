"""Codes against brute force: the best of all codes, the round trip, and every refusal."""

import heapq
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.coding import coders

counts_lists = st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(lambda c: np.count_nonzero(c) >= 2)
FIBONACCI = [1, 1]
while len(FIBONACCI) < 45:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def cost(counts, lengths) -> int:
    return int((np.asarray(counts, dtype=np.int64) * np.asarray(lengths, dtype=np.int64)).sum())


# -- Huffman -----------------------------------------------------------------------------------------------------------


@given(counts_lists)
def test_huffman_lengths_fill_kraft_inequality_exactly(counts):
    lengths = coders.code_lengths(counts).astype(float)
    assert (lengths[lengths > 0] > 0).sum() == np.count_nonzero(counts)
    assert (2.0 ** -lengths[lengths > 0]).sum() == 1
    assert all((length == 0) == (count == 0) for length, count in zip(lengths, counts, strict=True))


@given(counts_lists)
def test_mean_length_lies_between_entropy_and_entropy_plus_one(counts):
    bits, n = cost(counts, coders.code_lengths(counts)), sum(counts)
    assert coders.entropy_bits(counts) <= bits * (1 + 1e-12)
    assert bits < coders.entropy_bits(counts) + n


@given(counts_lists)
def test_huffman_cost_is_the_sum_of_the_inner_nodes(counts):
    heap, total = [c for c in counts if c], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    assert cost(counts, coders.code_lengths(counts)) == total


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_no_prefix_code_is_shorter(counts):
    n = len(counts)
    best = (
        min(
            cost(sorted(counts, reverse=True), lengths)
            for lengths in itertools.combinations_with_replacement(range(1, n), n)
            if sum(2.0**-x for x in lengths) <= 1
        )
        if n > 2
        else sum(counts)
    )
    assert cost(counts, coders.code_lengths(counts)) == best


@given(st.lists(st.integers(0, 60), max_size=300))
def test_huffman_round_trip(symbols):
    lengths = coders.code_lengths(np.bincount([*symbols, 3, 9]))
    content = coders.huffman(symbols, lengths)
    assert len(content) == -(-sum(int(lengths[s]) for s in symbols) // 8)
    assert coders.unhuffman(content, len(symbols), lengths).tolist() == symbols


@given(counts_lists)
def test_canonical_words_are_prefix_free_and_ordered_by_length_then_symbol(counts):
    lengths = coders.code_lengths(counts)
    words = coders.canonical(lengths)
    used = sorted((int(lengths[s]), s) for s in range(len(counts)) if lengths[s])
    text = [format(words[s], f"0{length}b") for length, s in used]
    assert text == sorted(text)
    assert not any(b.startswith(a) for a, b in itertools.permutations(text, 2))


def test_words_longer_than_32_bits_are_avoided_and_still_decode():
    lengths = coders.code_lengths(FIBONACCI)
    assert 20 < lengths.max() <= coders.LONGEST
    assert (2.0 ** -lengths.astype(float)).sum() == 1
    symbols = np.arange(len(FIBONACCI))
    assert coders.unhuffman(coders.huffman(symbols, lengths), len(symbols), lengths).tolist() == symbols.tolist()


def test_longest_word_of_exactly_32_bits_round_trips():
    lengths = coders.code_lengths(FIBONACCI[:33])
    assert lengths.max() == 32
    symbols = np.tile(np.arange(33), 7)
    assert coders.unhuffman(coders.huffman(symbols, lengths), len(symbols), lengths).tolist() == symbols.tolist()


@pytest.mark.parametrize("counts", [[], [0, 0], [7], [0, 7, 0]])
def test_one_symbol_or_none_takes_no_bits(counts):
    assert coders.code_lengths(counts).tolist() == [0] * len(counts)
    assert coders.huffman([0] * min(7, sum(counts)), coders.code_lengths(counts or [0])) == b""


@pytest.mark.parametrize(
    ("content", "count", "lengths"),
    [
        (b"", 3, [0]),  # no code at all
        (b"", 3, []),
        (b"\0", 8, [1]),  # sum below 1
        (b"\0", 1, [1, 1, 1]),  # sum above 1
        (b"\0", 1, [33, 1]),
        (b"\0", 9, [1, 1]),  # more words than bits
        (b"\0\0", 8, [1, 1]),  # a byte is left
        (b"\xff", 5, [1, 2, 2]),  # ends inside a word
    ],
)
def test_a_stream_that_does_not_fit_its_code_is_refused(content, count, lengths):
    with pytest.raises(ValueError, match=r"code|bytes"):
        coders.unhuffman(content, count, lengths)


# -- Fixed-length codes ------------------------------------------------------------------------------------------------


@given(st.integers(1, 16), st.data())
def test_packed_symbols_are_their_binary_digits_in_order(bits, data):
    symbols = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    content = coders.pack(symbols, bits)
    digits = "".join(format(s, f"0{bits}b") for s in symbols)
    assert "".join(format(b, "08b") for b in content) == digits + "0" * (-len(digits) % 8)
    assert coders.unpack(content, len(symbols), bits).tolist() == symbols


@pytest.mark.parametrize(("symbols", "bits"), [([4], 2), ([0, 70000], 16), ([1], 17), ([1], 0)])
def test_symbols_that_do_not_fit_are_refused(symbols, bits):
    with pytest.raises(ValueError, match=f"do not fit {bits} bits"):
        coders.pack(symbols, bits)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_packed_content_of_another_length_is_refused(content):
    with pytest.raises(ValueError, match="take 2 bytes"):
        coders.unpack(content, 4, 3)


def test_packed_symbols_are_read_in_little_memory():
    symbols = np.random.default_rng(0).integers(0, 256, 300_000)
    content = coders.pack(symbols, 8)
    tracemalloc.start()
    try:
        assert np.array_equal(coders.unpack(content, len(symbols), 8), symbols)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(symbols)
    finally:
        tracemalloc.stop()


# -- Range coding ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=2, max_size=400).filter(lambda s: len(set(s)) > 1))
def test_range_code_round_trip(symbols):
    for n in (len(symbols), 2**16):  # few symbols have coarse shares, many fine ones
        many = np.resize(symbols, n)
        table = coders.shares(np.bincount(many))
        assert np.array_equal(coders.unrange(coders.range_code(many, table), len(many), table), many)


@pytest.mark.parametrize("p", [0.03, 0.3, 0.37, 0.63, 0.9, 0.999])
@pytest.mark.parametrize(("n", "over"), [(20_000, 0.005), (100_000, 0.001), (400_000, 0.001)])
def test_range_code_comes_near_the_entropy_where_huffman_cannot(p, n, over):
    geometric = np.random.default_rng(0).geometric(p, n) - 1
    for symbols in (geometric, np.minimum(geometric, 1)):
        counts = np.bincount(symbols)
        size = 8 * len(coders.range_code(symbols, coders.shares(counts)))
        assert coders.entropy_bits(counts) <= size + 64 and size <= (1 + over) * coders.entropy_bits(counts) + 64


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=50))
def test_shares_are_zero_only_for_what_never_occurs_and_keep_the_order(counts):
    shares = coders.shares(np.array(counts))
    assert ((shares > 0) == (np.array(counts) > 0)).all()
    assert (np.diff(shares[np.argsort(counts, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("table", [[0, 0], [5], [], [1, 69]])
def test_shares_of_no_range_code_are_refused(table):
    with pytest.raises(ValueError, match="shares"):
        coders.unrange(b"1234", 3, np.array(table, dtype=int))


def test_range_code_of_part_of_a_word_is_refused():
    with pytest.raises(ValueError, match="whole words"):
        coders.unrange(b"12345", 3, np.array([1, 1]))


def test_code_lengths_cost_what_dahuffmans_do():
    dahuffman = pytest.importorskip("dahuffman")
    for seed in range(20):
        counts = np.random.default_rng(seed).geometric(0.02, 30)
        table = dahuffman.HuffmanCodec.from_frequencies(dict(enumerate(counts.tolist())), eof=0).get_code_table()
        theirs = sum(counts[symbol] * length for symbol, (length, _) in table.items())
        assert coders.huffman_bits(counts) == theirs
