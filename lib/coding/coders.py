"""Symbols to bytes and back: fixed-length codes, canonical Huffman codes, and range coding (by a library).

Symbols are integers, 0 or more. The reader must know their number and the code's table, which :mod:`lib.storage` writes
before them.
"""

import heapq

import constriction
import numba
import numpy as np

LONGEST = 32  # bits of the longest Huffman codeword that is written
SHORT = 12  # bits of the longest codeword that is looked up in one step
OCTAVES, FINE = 17, 32  # how many octaves the shares of a range code span, and the most levels in each
ENTRIES = OCTAVES * FINE + 1  # a table holds code lengths or shares: numbers below this


def entropy_bits(counts: np.ndarray) -> float:
    r"""Return the entropy of all symbols together, in bits; no code with one word per symbol takes less.

    .. math:: n H = \sum_s n_s \log_2 \frac{n}{n_s}

    counts: n_s, how often each symbol occurs; zeros are ignored.

    >>> entropy_bits(np.array([1, 1, 2]))
    6.0
    """
    counts = np.asarray(counts, dtype=float)
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())


# -- Fixed-length codes ---------------------------------------------------------------------------


def pack(symbols: np.ndarray, bits: int) -> bytes:
    """Write each symbol in ``bits`` bits, most significant bit first; zeros fill the last byte.

    symbols: (n,), each below 2^bits.
    bits: 0 to 16.

    Raises ValueError for symbols that do not fit and for bits above 16.

    >>> content = pack(np.array([1, 2, 3]), bits=2)
    >>> content.hex(), unpack(content, count=3, bits=2).tolist()
    ('6c', [1, 2, 3])
    """
    symbols = np.asarray(symbols, dtype=np.uint32)
    lengths = np.full(1 << bits if bits <= 16 else 0, bits, dtype=np.uint8)
    if bits > 16 or (len(symbols) and symbols.max() >> bits):
        raise ValueError(f"symbols up to {symbols.max() if len(symbols) else 0} do not fit {bits} bits (at most 16)")
    return _write(symbols, np.arange(len(lengths), dtype=np.uint32), lengths, bits * len(symbols)).tobytes()


def unpack(content: bytes | memoryview, count: int, bits: int) -> np.ndarray:
    """Read the symbols that :func:`pack` wrote; the example is there.

    content: all bytes that were written.
    count: number of symbols.
    bits: of each symbol, 0 to 16.

    Returns (count,) int32. Raises ValueError if the content has another length.
    """
    if len(content) != -(-count * bits // 8):
        raise ValueError(f"{count} symbols of {bits} bits take {-(-count * bits // 8)} bytes, not {len(content)}")
    return _read_fixed(np.frombuffer(bytearray(content), dtype=np.uint8), count, bits)


# -- Huffman codes (huffman1952method), in canonical form -----------------------------------------


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Build a Huffman code and return the length of each codeword, 0 for a symbol that never occurs.

    The two rarest nodes are merged until one is left; a symbol's length is its depth. A single symbol needs no bits.
    No word is longer than 32 bits: if one would be, the counts are made more equal first.

    counts: how often each symbol occurs, integers.

    >>> code_lengths(np.array([5, 2, 1, 1])).tolist()
    [1, 2, 3, 3]
    """
    counts = np.asarray(counts, dtype=np.int64)
    lengths = np.zeros(len(counts), dtype=np.uint8)
    while True:
        # method
        used = np.flatnonzero(counts > 0).tolist()
        heap = [(int(counts[i]), i) for i in used]
        heapq.heapify(heap)
        parent: dict[int, int] = {}
        node = len(counts)
        while len(heap) > 1:
            (a, i), (b, j) = heapq.heappop(heap), heapq.heappop(heap)
            parent[i] = parent[j] = node
            heapq.heappush(heap, (a + b, node))
            node += 1
        depth = {node - 1: 0} if parent else {}
        # A parent has a higher number than its children.
        for inner in range(node - 2, -1, -1):
            if inner in parent:
                depth[inner] = depth[parent[inner]] + 1
        # end of method
        if max(depth.values(), default=0) <= LONGEST:
            lengths[used] = [depth.get(i, 0) for i in used]
            return lengths
        counts = np.where(counts > 0, (counts + 1) // 2, 0)


def huffman_bits(counts: np.ndarray) -> float:
    """Return the bits that the symbols take in their Huffman code, without the code's table.

    counts: how often each symbol occurs.

    >>> huffman_bits(np.array([5, 2, 1, 1]))
    15.0
    """
    return float((np.asarray(counts, dtype=float) * code_lengths(counts)).sum())


def canonical(lengths: np.ndarray) -> np.ndarray:
    """Return the codewords of these lengths, numbered in the order of (length, symbol), so a file needs only lengths.

    lengths: of each symbol's codeword, as :func:`code_lengths` returns them.

    >>> [f"{word:0{length}b}" for word, length in zip(canonical([1, 2, 3, 3]), [1, 2, 3, 3])]
    ['0', '10', '110', '111']
    """
    lengths = np.asarray(lengths)
    words = np.zeros(len(lengths), dtype=np.uint32)
    word, previous = 0, 0
    for symbol in np.argsort(lengths, kind="stable")[np.count_nonzero(lengths == 0) :].tolist():
        length = int(lengths[symbol])
        word <<= length - previous
        words[symbol] = word
        word, previous = word + 1, length
    return words


def huffman(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Write the symbols with the canonical Huffman code of ``lengths``.

    symbols: (n,), each with a codeword.
    lengths: of each symbol's codeword, as :func:`code_lengths` returns them.

    >>> lengths = code_lengths(np.array([5, 2, 1, 1]))
    >>> content = huffman(np.array([0, 1, 0, 3]), lengths)
    >>> len(content), unhuffman(content, 4, lengths).tolist()
    (1, [0, 1, 0, 3])
    """
    symbols = np.asarray(symbols, dtype=np.uint32)
    total = int(np.asarray(lengths, dtype=np.int64)[symbols].sum())
    return _write(symbols, canonical(lengths), np.asarray(lengths, dtype=np.uint8), total).tobytes()


def unhuffman(content: bytes | memoryview, count: int, lengths: np.ndarray) -> np.ndarray:
    """Read the symbols that :func:`huffman` wrote; the example is there.

    content: all bytes that were written.
    count: number of symbols.
    lengths: of each symbol's codeword.

    Returns (count,) int32. Raises ValueError if the lengths are not those of a Huffman code, or the bytes do not hold
    ``count`` of its codewords.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    used = lengths[lengths > 0]
    if len(used) == 0 or used.max() > LONGEST or (2.0**-used).sum() != 1:
        raise ValueError("the code lengths are not those of a Huffman code: their sum of 2^-length must be 1")
    if count > 8 * len(content):
        raise ValueError(f"{len(content)} bytes cannot hold {count} codewords")
    order = np.argsort(lengths, kind="stable")[len(lengths) - len(used) :].astype(np.uint32)
    symbols, bits = _read(
        np.frombuffer(bytearray(content), dtype=np.uint8), count, np.bincount(used, minlength=LONGEST + 1), order
    )
    if bits < 0 or -(-bits // 8) != len(content):
        raise ValueError(f"a stream of {count} codewords does not end where its {len(content)} bytes end")
    return symbols.view(np.int32)


# -- Range coding: less than a bit for what is frequent (constriction's coder, our table) ---------


def shares(counts: np.ndarray) -> np.ndarray:
    """Return each symbol's share on a logarithmic scale: the table of a range code.

    0 is a symbol that never occurs. Otherwise the entry is 1 + t, where level t stands for (m + t mod m) 2^(t div m)
    parts, with m levels per octave: 4, or 32 for 65,536 symbols or more. The entries are integers, so every machine
    decodes with exactly the shares that the encoder used.

    counts: how often each symbol occurs, integers.

    >>> table = shares(np.array([90, 9, 1]))
    >>> content = range_code(np.array([0, 0, 1, 0, 2]), table)
    >>> len(content), unrange(content, 5, table).tolist()
    (4, [0, 0, 1, 0, 2])
    """
    counts = np.asarray(counts, dtype=np.int64)
    octave = _octave(int(counts.sum()))
    scale = octave * max(1.0, counts.max(initial=1) / 2**16)  # below 2^-16 of the largest count: the lowest level
    steps = np.arange(octave * OCTAVES)
    parts = (octave + steps % octave) << (steps // octave)
    nearest = np.searchsorted((parts[1:] + parts[:-1]) / 2, counts * octave**2 / scale)
    return np.where(counts > 0, 1 + nearest, 0)


def _octave(count: int) -> int:
    """Levels per octave for ``count`` symbols: fine shares cost more in the table, and pay off for many symbols."""
    return 4 if count < 2**16 else FINE


def _model(table: np.ndarray, count: int) -> constriction.stream.model.Categorical:
    steps, octave = np.asarray(table, dtype=np.int64) - 1, _octave(count)
    if steps.max(initial=-1) < 0 or steps.max() >= octave * OCTAVES or len(steps) < 2:
        raise ValueError("the shares are not those of a range code")
    parts = np.where(steps >= 0, (octave + steps % octave) << np.maximum(steps // octave, 0), 0)
    return constriction.stream.model.Categorical((parts / parts.sum()).astype(np.float32), perfect=False)


def range_code(symbols: np.ndarray, table: np.ndarray) -> bytes:
    """Write the symbols with a range code, which may take less than one bit for a frequent symbol.

    symbols: (n,), each with a share.
    table: from :func:`shares`, which has the example; two symbols or more.

    Raises ValueError for an invalid table.
    """
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.asarray(symbols, dtype=np.int32), _model(table, len(symbols)))
    return encoder.get_compressed().astype("<u4").tobytes()


def unrange(content: bytes | memoryview, count: int, table: np.ndarray) -> np.ndarray:
    """Read the symbols that :func:`range_code` wrote; :func:`shares` has the example.

    content: all bytes that were written.
    count: number of symbols.
    table: from :func:`shares`.

    Returns (count,) int32. Raises ValueError for an invalid table and for content that no range coder wrote.
    """
    if len(content) % 4:
        raise ValueError(f"a range code is whole words of 4 bytes, not {len(content)} bytes")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(content, dtype="<u4").astype(np.uint32))
    try:
        return decoder.decode(_model(table, count), count)
    except AssertionError as error:  # what constriction raises for content that no encoder wrote
        raise ValueError(f"no range code of {count} symbols: {error}") from error


@numba.njit("uint8[::1](uint32[::1], uint32[::1], uint8[::1], int64)", cache=True)
def _write(symbols: np.ndarray, words: np.ndarray, lengths: np.ndarray, total: int) -> np.ndarray:
    out = np.zeros((total + 7) // 8, dtype=np.uint8)
    buffer, filled, at = np.uint64(0), 0, 0
    for symbol in symbols:
        length = lengths[symbol]
        buffer = (buffer << np.uint64(length)) | np.uint64(words[symbol])
        filled += length
        while filled >= 8:
            filled -= 8
            out[at] = np.uint8((buffer >> np.uint64(filled)) & np.uint64(255))
            at += 1
    if filled:
        out[at] = np.uint8((buffer << np.uint64(8 - filled)) & np.uint64(255))
    return out


@numba.njit("int32[::1](uint8[::1], int64, int64)", cache=True)
def _read_fixed(content: np.ndarray, count: int, bits: int) -> np.ndarray:
    symbols = np.empty(count, dtype=np.int32)
    buffer, filled, at = 0, 0, 0
    for i in range(count):
        while filled < bits:
            buffer = (buffer << 8 | content[at]) & 0xFFFFFF
            filled += 8
            at += 1
        filled -= bits
        symbols[i] = (buffer >> filled) & ((1 << bits) - 1)
    return symbols


@numba.njit("Tuple((uint32[::1], int64))(uint8[::1], int64, int64[::1], uint32[::1])", cache=True)
def _read(content: np.ndarray, count: int, per_length: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, int]:
    """Canonical decoding: the words of one length are consecutive numbers; a word is complete if it is below their end.

    The next SHORT bits are looked up in a table of all words up to that length; only longer ones are read bit by bit.
    """
    known = np.zeros(1 << SHORT, dtype=np.uint64)  # length and symbol of the word that these bits begin with
    index, at = 0, 0
    for length in range(1, SHORT + 1):
        for _ in range(per_length[length]):
            entry = (np.uint64(length) << np.uint64(32)) | np.uint64(order[index])
            known[at : at + (1 << (SHORT - length))] = entry
            at += 1 << (SHORT - length)
            index += 1
    symbols = np.zeros(count, dtype=np.uint32)
    bit, bits = 0, 8 * len(content)
    padded = np.zeros(len(content) + 4, dtype=np.uint8)
    padded[: len(content)] = content
    for i in range(count):
        byte = bit >> 3
        if byte >= len(content):
            return symbols, -1
        ahead = (np.uint32(padded[byte]) << 16) | (np.uint32(padded[byte + 1]) << 8) | np.uint32(padded[byte + 2])
        entry = known[(ahead >> (24 - SHORT - (bit & 7))) & ((1 << SHORT) - 1)]
        if entry:
            bit += int(np.int64(entry >> np.uint64(32)))
            if bit > bits:
                return symbols, -1
            symbols[i] = np.uint32(entry & np.uint64(0xFFFFFFFF))
            continue
        word, first, index, length = 0, 0, 0, 0
        while True:
            if bit >= bits or length >= 32:
                return symbols, -1
            word = (word << 1) | ((content[bit >> 3] >> (7 - (bit & 7))) & 1)
            bit += 1
            length += 1
            here = per_length[length]
            if word - first < here:
                symbols[i] = order[index + word - first]
                break
            index += here
            first = (first + here) << 1
    return symbols, bit
