"""Numbers, names and streams of symbols in a file, and a reader that believes none of them.

Integers are unsigned LEB128: seven bits a byte, the lowest first, the eighth bit set where more follow. A name is a
length byte and ASCII. A stream is

    number of symbols, coder, the coder's parameters, number of bytes, bytes

and its symbols are coded by the shortest of the codes that are allowed, see :mod:`lib.coding.coders` and
:mod:`lib.coding.context`.
"""

import numpy as np
import torch
from torch import Tensor

from lib.coding import coders, context

# How one stream is written, with the parameters that its reader needs: codes of one length (their bits), Huffman's code
# (its code lengths, a stream themselves), one symbol repeated (the symbol), a range code (its table of shares, a stream
# as well), and a code that learns from neighboring symbols (the width of a line).
FIXED, HUFFMAN, CONSTANT, RANGE, CONTEXT = 0, 1, 2, 3, 4


def integer(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def stream(symbols: np.ndarray, coder: str, shape: torch.Size | None = None) -> bytes:
    """One coded stream: number of symbols, coder, the coder's parameters, coded bytes; the shortest of those allowed.

    ``shape``: of the tensor, if the stream may fill one.
    """
    counts = np.bincount(symbols)
    head = integer(len(symbols))
    if np.count_nonzero(counts) <= 1:
        return head + integer(CONSTANT) + integer(max(0, len(counts) - 1))
    bits = int(len(counts) - 1).bit_length()
    written = [head + integer(FIXED) + integer(bits) + sized(coders.pack(symbols, bits))]
    if coder != "fixed":  # code lengths are a stream of smaller numbers, so this recursion ends
        lengths = coders.code_lengths(counts)
        written.append(head + integer(HUFFMAN) + stream(lengths, coder) + sized(coders.huffman(symbols, lengths)))
    if coder in ("best", "context") and len(symbols) > 64:
        shares = coders.shares(counts)
        written.append(head + integer(RANGE) + stream(shares, coder) + sized(coders.range_code(symbols, shares)))
    if coder == "context" and shape and len(symbols) == shape.numel() and counts.size <= 2 * context.LARGEST + 1:
        rows = rows_of(shape)
        sample = symbols[: min(rows, 32) * (len(symbols) // rows)]
        # A row may be an image or kernels of w x w symbols, which have neighbors above; 1: neither.
        widths = [w for w in range(1, 65) if len(symbols) % (rows * w * w) == 0]
        width = min(widths, key=lambda w: len(context.context_code(sample, min(rows, 32), w)))
        coded = context.context_code(symbols, rows, width)
        written.append(head + integer(CONTEXT) + integer(width) + sized(coded))
    return min(written, key=len)


def rows_of(shape: torch.Size) -> int:
    """The number of rows: one per output unit or filter; a tensor of one dimension is one row."""
    return shape[0] if len(shape) > 1 else 1


def sized(content: bytes) -> bytes:
    return integer(len(content)) + content


class Reader:
    """Reads content from a position on: never past the end, and never more than the caller says is possible."""

    def __init__(self, content: bytes, at: int):
        self.content, self.at = content, at

    def left(self) -> int:
        return len(self.content) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left():
            raise ValueError(f"{count} bytes are announced where {self.left()} are left")
        self.at += count
        return self.content[self.at - count : self.at]

    def integer(self, most: int) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise ValueError("a number has more digits than any size has")
        if value > most:
            raise ValueError(f"{value} is announced where at most {most} is possible")
        return value

    def name(self) -> str:
        return self.take(self.take(1)[0]).decode("ascii")

    def floats(self) -> Tensor:
        count = self.integer(most=self.left() // 4)
        return torch.frombuffer(bytearray(self.take(4 * count)), dtype=torch.float32) if count else torch.zeros(0)

    def symbols(self, most: int, depth: int = 0, shape: torch.Size | None = None) -> Tensor:
        if depth > 8:
            raise ValueError("code tables are nested more than 8 deep, which no writer produces")
        count, coder = self.integer(most), self.integer(most=CONTEXT)
        if coder == CONSTANT:
            return torch.tensor(self.integer(most=2**16)).expand(count)  # one number in memory, however long
        if coder == FIXED:
            bits = self.integer(most=16)
            return torch.from_numpy(coders.unpack(self.take(self.integer(self.left())), count, bits))
        if coder == CONTEXT:
            if shape is None or not count:
                raise ValueError("a context-coded stream is only allowed for a whole tensor")
            width, content = self.integer(most=64), self.take(self.integer(self.left()))
            return torch.from_numpy(context.uncontext(content, count, rows_of(shape), width))
        table = self.symbols(most=2**16, depth=depth + 1).numpy()
        decode = coders.unrange if coder == RANGE else coders.unhuffman
        return torch.from_numpy(decode(self.take(self.integer(self.left())), count, table))
