"""A code that predicts each symbol from its neighbors, for weights that are mostly zero.

Each symbol of a matrix becomes a few yes-or-no questions: is it nonzero, is it odd (its sign), is its level above 1,
2, ...? For each question several contexts give a probability, such as "how often was a weight with such neighbors
nonzero?". The probabilities are mixed in the logistic domain by weights that learn from every answer, and an arithmetic
coder turns the answer into -log2 p bits. The reader asks the same questions and learns the same, so no table is stored
(mahoney2000fast). All arithmetic is on integers, so it is the same on every machine.
"""

import numba
import numpy as np

# The logistic function and its inverse in fixed point: 8 bits after the point, probabilities in 12 and in 16 bits.
_P = (np.arange(4096) + 0.5) / 4096
STRETCH = np.rint(256 * np.log(_P / (1 - _P))).astype(np.int64)
SQUASH = np.clip(np.rint(65536 / (1 + np.exp(-np.arange(-3072, 3073) / 256))), 16, 65520).astype(np.int64)
TABLE = 1024  # contexts of one kind, at most
LARGEST = 255  # steps from zero
# Probabilities of contexts have 22 bits: 12 to look them up in STRETCH, and 10 more so that small steps are not lost.
CHANCE = 22
# Weights of the mixer have 16 bits after the point. Several contexts begin with a little more than 1/5 each
# (14000 / 65536 = 0.21), so the mixture of five that agree begins a little surer than each. A single context has 1.
ONE, START = 65536, 14000
# A step of learning: error (16 bits) times input (8 bits) times RATE / 2^18 in units of 2^-16, which is 0.0039 times
# (error in probability) times (input in logits).
RATE, FALL = 4, 18
MEMORY = 500  # answers after which a context's probability is a moving mean instead of the share of ones so far


def context_code(symbols: np.ndarray, rows: int, width: int) -> bytes:
    """Write the symbols of a matrix. The code learns while it writes, so no table is needed.

    symbols: (n,), integers from 0 to 510. Zero should be the most frequent; 1, 3, 5, ... stand for the levels 1, 2, 3,
        ... and 2, 4, 6, ... for -1, -2, -3, ...
    rows: of the matrix, n / rows symbols each: what one unit or filter reads.
    width: of the lines into which a row is cut, such as the width of an image, whose pixels have neighbors above; 1 if
        there are none.

    Raises ValueError for symbols out of range, and for a number of symbols that does not fill the rows and lines.

    >>> symbols = np.array([0, 0, 1, 0, 2, 0, 0, 0])
    >>> content = context_code(symbols, rows=2, width=2)
    >>> uncontext(content, 8, rows=2, width=2).tolist()
    [0, 0, 1, 0, 2, 0, 0, 0]
    """
    symbols = np.ascontiguousarray(symbols, dtype=np.int64)
    _check(len(symbols), rows, width)
    if len(symbols) and not 0 <= symbols.min() <= symbols.max() <= 2 * LARGEST:
        raise ValueError(f"symbols must be in 0..{2 * LARGEST}, not {symbols.min()}..{symbols.max()}")
    answers = len(symbols) + rows + int((symbols // 2 + 2)[symbols > 0].sum())  # each takes at most 12 bits
    buffer = np.zeros(64 + 2 * answers, dtype=np.uint8)
    used = _run(symbols.copy(), rows, width, buffer, 0, 0)
    return buffer[:used].tobytes()


def uncontext(content: bytes | memoryview, count: int, rows: int, width: int) -> np.ndarray:
    """Read the symbols that :func:`context_code` wrote; the example is there.

    content: all bytes that were written.
    count: number of symbols.
    rows: of the matrix.
    width: of the lines into which a row is cut.

    Returns (count,) int32. Raises ValueError if the content is not exactly that of ``count`` symbols.
    """
    _check(count, rows, width)
    symbols = np.zeros(count, dtype=np.int64)
    buffer = np.frombuffer(bytearray(content), dtype=np.uint8) if content else np.zeros(1, dtype=np.uint8)
    read = _run(symbols, rows, width, buffer, len(content), 1)
    if read < 0 or context_code(symbols, rows, width) != content:
        raise ValueError(f"{len(content)} bytes are not a context code of {count} symbols in {rows} rows")
    return symbols.astype(np.int32)


def _check(count: int, rows: int, width: int) -> None:
    if rows < 1 or width < 1 or count % (rows * width):
        raise ValueError(f"{count} symbols do not make {rows} rows of lines of {width}")


@numba.njit(cache=True)
def code_bit(
    bit: int,
    decode: int,
    contexts: np.ndarray,
    used: int,
    mixer: int,
    chances: np.ndarray,
    seen: np.ndarray,
    weights: np.ndarray,
    inputs: np.ndarray,
    buffer: np.ndarray,
    coder: np.ndarray,
) -> int:
    """Code or decode one answer and return it: mix the contexts' probabilities, narrow the interval, learn.

    bit: the answer, 0 or 1; ignored in decoding.
    decode: 1 to read the answer from the buffer, 0 to write it.
    contexts, used: the numbers of the contexts; only the first ``used`` count.
    mixer: the row of ``weights`` that mixes them.
    chances, seen: probability of 1 in each context, with 22 bits, and the number of answers so far.
    weights, inputs: of the mixer.
    buffer, coder: the bytes, and the coder's low, high, code, position and number of bytes.
    """
    # method
    dot = 0
    for i in range(used):
        inputs[i] = STRETCH[chances[contexts[i]] >> (CHANCE - 12)]
        dot += weights[mixer, i] * inputs[i]
    p = SQUASH[min(max(dot >> 16, -3072), 3072) + 3072]
    # end of method
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * p) >> 16)
    if decode:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:  # the first byte is settled
        if decode:
            coming = np.int64(buffer[coder[3]]) if coder[3] < coder[4] else 0
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | coming
        else:
            buffer[coder[3]] = high >> 24
        coder[3] += 1
        low, high = (low << 8) & 0xFFFFFFFF, ((high << 8) & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high
    # method
    error = (bit << 16) - p
    for i in range(used):
        weights[mixer, i] += (inputs[i] * error * RATE + (1 << (FALL - 1))) >> FALL
        at = contexts[i]
        goal = (1 << CHANCE) - 1 if bit else 0
        chances[at] += (goal - chances[at]) * 2 // (2 * seen[at] + 3)  # the share of ones so far, later a moving mean
        seen[at] = min(seen[at] + 1, MEMORY)
    # end of method
    return bit


@numba.njit(cache=True)
def _octaves(x: int, most: int) -> int:
    """0 for 0, else 1 + the integer part of log2 x, at most ``most``."""
    octaves = 0
    while x > 0 and octaves < most:
        x >>= 1
        octaves += 1
    return octaves


@numba.njit(cache=True)
def _sign(x: int) -> int:
    return 1 if x > 0 else (2 if x < 0 else 0)


@numba.njit(cache=True)
def _run(symbols: np.ndarray, rows: int, width: int, buffer: np.ndarray, length: int, decode: int) -> int:
    """Code the symbols into the buffer, or decode them from its ``length`` bytes; return the bytes written or read."""
    columns = len(symbols) // rows
    chances, seen = np.full(16 * TABLE, 1 << (CHANCE - 1)), np.zeros(16 * TABLE, dtype=np.int64)
    weights, inputs = np.full((32, 5), START), np.zeros(5, dtype=np.int64)
    weights[31, 0] = ONE
    contexts, coder = np.zeros(5, dtype=np.int64), np.zeros(5, dtype=np.int64)
    coder[1], coder[4] = 0xFFFFFFFF, length
    if decode:
        for i in range(4):
            coder[2] = (coder[2] << 8) | (np.int64(buffer[i]) if i < length else 0)
        coder[3] = 4
    edge = 2 * width + 2
    above = np.zeros(columns + 2 * edge, dtype=np.int64)  # per column: nonzero weights of earlier rows
    row = np.zeros(columns + 2 * edge, dtype=np.int64)  # the levels of this row, with a margin of zeros
    before = 0
    for r in range(rows):
        alive, first = 0, r * columns
        for c in range(columns):
            alive |= int(symbols[first + c] != 0)
        contexts[0] = 15 * TABLE + before
        before = code_bit(alive, decode, contexts, 1, 31, chances, seen, weights, inputs, buffer, coder)
        if not before:
            symbols[first : first + columns] = 0
            continue
        row[:] = 0
        kept = 0
        for c in range(columns):
            j, x = c + edge, c % width
            left = row[j - 1] if x > 0 else 0
            left2 = row[j - 2] if x > 1 else 0
            up = up2 = upleft = upright = 0
            around = 2 * above[j] + above[j - 1] + above[j + 1]
            if width > 1:
                up, up2 = row[j - width], row[j - 2 * width]
                upleft = row[j - width - 1] if x > 0 else 0
                upright = row[j - width + 1] if x < width - 1 else 0
                around += above[j - width] + above[j + width] + above[j - 2] + above[j + 2]
                around += above[j - width - 1] + above[j - width + 1] + above[j + width - 1] + above[j + width + 1]
                around += above[j - 2 * width] + above[j + 2 * width]
            near = 2 * ((left != 0) + (up != 0)) + (upleft != 0) + (upright != 0)
            dense = _octaves(around * 32 // (r + 1), 11)  # how many neighbors in these columns were not zero so far
            full = _octaves(kept * 256 // (c + 1), 8)  # how full this row is so far
            here = _octaves(above[j] * 64 // (r + 1), 7)
            pattern = (left != 0) + 2 * (up != 0) + 4 * (upleft != 0) + 8 * (upright != 0)
            contexts[0] = pattern + 16 * (left2 != 0) + 32 * (up2 != 0)
            contexts[1] = TABLE + dense * 16 + full
            contexts[2] = 2 * TABLE + dense * 16 + here
            contexts[3] = 3 * TABLE + full * 16 + near
            contexts[4] = 4 * TABLE + c * 64 // columns
            symbol = symbols[first + c]
            mixer = min(near, 3)
            if not code_bit(
                int(symbol != 0), decode, contexts, 5, mixer, chances, seen, weights, inputs, buffer, coder
            ):
                symbols[first + c] = 0
                continue
            two = _sign(left) * 3 + _sign(up)
            contexts[0] = 5 * TABLE + two
            contexts[1] = 6 * TABLE + (two * 3 + _sign(upleft)) * 3 + _sign(upright)
            contexts[2] = 7 * TABLE + _sign(left2) * 3 + _sign(up2)
            positive = code_bit(symbol & 1, decode, contexts, 3, 8, chances, seen, weights, inputs, buffer, coder)
            level = 1
            largest = max(max(abs(left), abs(up)), max(abs(upleft), abs(upright)))
            while True:
                at = min(level, 15)
                contexts[0] = 8 * TABLE + at
                contexts[1] = 9 * TABLE + at * 16 + min(largest, 15)
                more = int((symbol + 1) >> 1 > level)
                if not code_bit(more, decode, contexts, 2, 9 + at, chances, seen, weights, inputs, buffer, coder):
                    break
                level += 1
                if level > LARGEST:
                    return -1
            symbols[first + c] = 2 * level - positive
            row[j] = level if positive else -level
            above[j] += 1
            kept += 1
    if decode:
        return coder[3]
    for count in range(5):  # the fewest bytes that decode to a number between low and high
        unit = 1 << (8 * (4 - count))
        value = (coder[0] + unit - 1) // unit * unit
        if value <= coder[1]:
            for i in range(count):
                buffer[coder[3]] = (value >> (24 - 8 * i)) & 255
                coder[3] += 1
            break
    return coder[3]
