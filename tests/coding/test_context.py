"""A code by context: the symbols come back, in few bytes more than the entropy, and any bytes are safe to read."""

import hashlib
import time

import numpy as np
import pytest

from lib.coding import coders
from lib.coding.context import LARGEST, SQUASH, STRETCH, context_code, uncontext


def sparse(rows: int, columns: int, density: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(1, 7, rows * columns) * (random.random(rows * columns) < density)


def zigzag(levels: np.ndarray) -> np.ndarray:
    return np.where(levels > 0, 2 * levels - 1, -2 * levels).astype(np.int64).ravel()


@pytest.mark.parametrize("density", [0, 0.01, 0.3, 1])
@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(1, 1, 1), (1, 9, 3), (30, 1, 1), (20, 25, 5), (7, 98, 14), (3, 10, 1)]
)
def test_symbols_come_back(rows, columns, width, density):
    symbols = sparse(rows, columns, density)
    assert uncontext(context_code(symbols, rows, width), len(symbols), rows, width).tolist() == symbols.tolist()


@pytest.mark.parametrize(
    "symbols", [[], [0], [2 * LARGEST], [2 * LARGEST] * 50, [1, 2, 2 * LARGEST, 0, 2 * LARGEST - 1]]
)
def test_extreme_symbols_come_back(symbols):
    assert uncontext(context_code(np.array(symbols, dtype=int), 1, 1), len(symbols), 1, 1).tolist() == symbols


def test_every_short_sequence_comes_back_in_bytes_of_its_own():
    found = {}
    for number in range(3**6):
        symbols = [number // 3**i % 3 for i in range(6)]
        content = context_code(np.array(symbols), 2, 1)
        assert uncontext(content, 6, 2, 1).tolist() == symbols
        assert found.setdefault(content, symbols) == symbols


def test_independent_symbols_cost_little_more_than_their_entropy():
    symbols = sparse(100, 400, 0.05)
    entropy = coders.entropy_bits(np.bincount(symbols)) / 8
    assert 0.99 * entropy < len(context_code(symbols, 100, 1)) < 1.05 * entropy + 20


def test_what_the_surroundings_tell_costs_less_than_the_entropy():
    """Strokes in images of 28 lines: what is not zero stands together, with the sign of its neighbors."""
    levels, random = np.zeros((60, 28, 28), dtype=int), np.random.default_rng(1)
    for image in levels:
        y, x, sign = *random.integers(4, 20, 2), random.choice([-1, 1])
        image[y : y + 5, x : x + 4] = sign * random.integers(1, 3, (5, 4))
    symbols = zigzag(levels)
    entropy = coders.entropy_bits(np.bincount(symbols)) / 8
    with_lines, without = (len(context_code(symbols, 60, width)) for width in (28, 1))
    assert with_lines < 0.6 * entropy and with_lines < without


@pytest.mark.parametrize("place", ["rows", "columns"])
def test_empty_rows_and_columns_cost_next_to_nothing(place):
    alive = sparse(20, 40, 0.3).reshape(20, 40)
    wide = np.zeros((500, 40) if place == "rows" else (20, 800), dtype=int)
    wide[:20, :40] = alive
    assert len(context_code(wide.ravel(), len(wide), 1)) < len(context_code(alive.ravel(), 20, 1)) + 40


def test_zeros_alone_take_no_byte_for_a_row():
    assert len(context_code(np.zeros(300 * 784, dtype=int), 300, 28)) < 10


def test_the_tables_are_symmetric_and_invert_each_other():
    assert (STRETCH + STRETCH[::-1] == 0).all() and (np.diff(STRETCH) >= 0).all() and (np.diff(SQUASH) >= 0).all()
    inner = np.arange(64, 4032)
    assert np.abs(SQUASH[STRETCH[inner] + 3072] / 16 - (inner + 0.5)).max() < 5


def test_the_bytes_are_those_of_this_format():
    """A change of a table or a rule would make old files unreadable."""
    assert context_code(sparse(10, 25, 0.2, seed=3), 10, 5).hex() == (
        "61ada3d3600bfa3373c5ee82206e67d06df0c6a391531fbb0aaa354d7783c0981a7b3186890a21"
    )


@pytest.mark.parametrize(("count", "rows", "width"), [(5, 2, 1), (6, 0, 1), (6, 2, 0), (6, 1, 4), (6, 4, 1)])
def test_shapes_that_do_not_fit_are_refused(count, rows, width):
    with pytest.raises(ValueError, match=f"{count} symbols do not make {rows} rows of lines of {width}"):
        context_code(np.zeros(count, dtype=int), rows, width)
    with pytest.raises(ValueError, match="do not make"):
        uncontext(b"", count, rows, width)


@pytest.mark.parametrize("symbol", [-1, 2 * LARGEST + 1])
def test_symbols_outside_the_range_are_refused(symbol):
    with pytest.raises(ValueError, match=rf"0\.\.510, not {symbol}"):
        context_code(np.array([symbol]), 1, 1)


def test_other_bytes_are_refused_or_another_message_and_soon():
    symbols = sparse(20, 50, 0.1)
    content, random = context_code(symbols, 20, 1), np.random.default_rng(0)
    begin, refused = time.monotonic(), 0
    for number in range(300):
        other = bytearray(content)
        other[random.integers(len(other))] ^= 1 << random.integers(8)
        if number % 3 == 0:
            other = other[: random.integers(len(other))] if number % 2 else other + random.bytes(3)
        try:
            found = uncontext(bytes(other), 1000, 20, 1)
        except ValueError:
            refused += 1
        else:
            assert context_code(found, 20, 1) == bytes(other)
    assert refused > 0 and time.monotonic() - begin < 10


def test_the_tables_are_those_of_every_other_machine():
    """They come from a logarithm and an exponential, whose last bits may differ: a file would not be read elsewhere."""
    tables = STRETCH.astype("<i8").tobytes() + SQUASH.astype("<i8").tobytes()
    assert hashlib.blake2b(tables, digest_size=8).hexdigest() == "09b92c5fc21010e8"
    p = (np.arange(4096) + 0.5) / 4096
    near = 256 * np.log(p / (1 - p)), 65536 / (1 + np.exp(-np.arange(-3072, 3073) / 256))
    assert all(np.abs(exact % 1 - 0.5).min() > 1e-9 for exact in near)  # none so near a tie that rounding could differ
