"""Numbers, names and streams of symbols in a file, and a reader that trusts none of them.

Integers are unsigned LEB128: seven bits per byte, the lowest first, with the eighth bit set if more follow. A name is a
length byte and ASCII. A stream is

    number of symbols, coder, the coder's parameters, number of bytes, bytes

without the last two if one symbol is repeated. Its symbols are written in the shortest of the codes that are allowed,
see :mod:`lib.coding.coders` and :mod:`lib.coding.context`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lib.coding import coders, context

# How one stream is written, and the parameters that its reader needs: a fixed-length code (its bits), Huffman's code
# (its code lengths, a stream themselves), one symbol repeated (the symbol), a range code (its table of shares, a stream
# as well), and a code that learns from neighboring symbols (the width of a line).
FIXED, HUFFMAN, CONSTANT, RANGE, CONTEXT = 0, 1, 2, 3, 4
SYMBOLS = 2**16  # a symbol is below this
T = TypeVar("T")


def integer(value: int) -> bytes:
    """Write a whole number, 0 or more.

    >>> integer(300).hex(), Reader(integer(300)).integer(most=1000)
    ('ac02', 300)
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def name(text: str) -> bytes:
    """Write a name; ValueError if it is not ASCII or has more than 255 characters.

    >>> Reader(name("scale")).name()
    'scale'
    """
    if not text.isascii() or len(text) > 255:
        raise ValueError(f"the name {text!r} cannot be written: at most 255 characters of ASCII are accepted")
    return bytes([len(text)]) + text.encode("ascii")


def stream(symbols: np.ndarray, coder: str, shape: torch.Size | None = None) -> bytes:
    """Write symbols in the shortest of the codes that are allowed.

    symbols: (n,), from 0 to 65,535.
    coder: "fixed", "huffman", "best" or "context", see :func:`lib.storage.save`.
    shape: of the tensor that the symbols fill, one for each value; None (default) if there is no such tensor.

    Raises ValueError for larger symbols.

    >>> content = stream(np.array([3, 1, 3, 3]), "fixed")
    >>> len(content), Reader(content).stream(most=4)().tolist()
    (5, [3, 1, 3, 3])
    """
    if len(symbols) and symbols.max() >= SYMBOLS:
        raise ValueError(f"the symbol {symbols.max()} cannot be written: at most {SYMBOLS - 1} is accepted")
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
    """Reads fields from a position on, never past the end and never more than the caller says is possible.

    content: of a file.
    at: the position of the first field.

    Every method raises ValueError for content that no writer produces.
    """

    def __init__(self, content: bytes | memoryview, at: int = 0):
        self.content, self.at = memoryview(content), at

    def left(self) -> int:
        """The number of bytes that have not been read."""
        return len(self.content) - self.at

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, which are not copied."""
        if count > self.left():
            raise ValueError(f"{count} bytes are announced where {self.left()} are left")
        self.at += count
        return self.content[self.at - count : self.at]

    def integer(self, most: int) -> int:
        """A whole number, ``most`` at most."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise ValueError("a number is longer than any size can be")
        if value > most:
            raise ValueError(f"{value} is announced where at most {most} is possible")
        return value

    def name(self) -> str:
        """A name in ASCII."""
        raw = bytes(self.take(self.take(1)[0]))
        if not raw.isascii():
            raise ValueError(f"the name {raw!r} is not ASCII")
        return raw.decode("ascii")

    def named(self, most: Mapping[str, int], read: Callable[[int], T]) -> dict[str, T]:
        """Fields with names, each at most once: name -> what ``read`` returns for its bound, ``most[name]``."""
        fields: dict[str, T] = {}
        for _ in range(self.integer(len(most))):
            name = self.name()
            if name not in most or name in fields:
                raise ValueError(f"{name!r} is announced: accepted are {', '.join(list(most)[:9])}, each once")
            fields[name] = read(most[name])
        return fields

    def floats(self, most: int) -> Tensor:
        """A table of at most ``most`` values, float32."""
        raw = self.take(4 * self.integer(most))
        return torch.frombuffer(bytearray(raw), dtype=torch.float32) if raw else torch.zeros(0, dtype=torch.float32)

    def stream(self, most: int, shape: torch.Size | None = None, depth: int = 0) -> Callable[[], Tensor]:
        """A stream of at most ``most`` symbols: a function that decodes and returns them, (n,) int32.

        Nothing is decoded before it is called, so only one of several streams needs to be in memory.

        most: the most symbols that are accepted.
        shape: of the tensor that the stream may fill; None (default) if there is no such tensor.
        depth: how deep this stream is nested as the table of another.
        """
        if depth > 8:
            raise ValueError("code tables are nested more than 8 deep, which no writer produces")
        count, coder = self.integer(most), self.integer(most=CONTEXT)
        if coder == CONSTANT:
            symbol = torch.tensor(self.integer(most=SYMBOLS - 1), dtype=torch.int32)
            return lambda: symbol.expand(count)  # one number in memory, however long
        if coder == FIXED:
            bits, content = self.integer(most=16), self.take(self.integer(self.left()))
            return lambda: torch.from_numpy(coders.unpack(content, count, bits))
        if coder == CONTEXT:
            if shape is None or not count or count != shape.numel():
                raise ValueError("a context-coded stream is only allowed for a whole tensor")
            rows, width, content = rows_of(shape), self.integer(most=64), self.take(self.integer(self.left()))
            return lambda: torch.from_numpy(context.uncontext(content, count, rows, width))
        # A table has an entry for each symbol, and the table of a table one for each of its entries.
        table = self.stream(most=coders.ENTRIES if depth else SYMBOLS, depth=depth + 1)
        decode = coders.unrange if coder == RANGE else coders.unhuffman
        content = self.take(self.integer(self.left()))
        return lambda: torch.from_numpy(decode(content, count, table().numpy()))


class Streams(Mapping[str, Tensor]):
    """Name -> symbols, which are decoded at every access and not kept.

    decoders: name -> the function that decodes, as :meth:`Reader.stream` gives it.
    """

    def __init__(self, decoders: Mapping[str, Callable[[], Tensor]]):
        self.decoders = decoders

    def __getitem__(self, name: str) -> Tensor:
        return self.decoders[name]()

    def __contains__(self, name: object) -> bool:
        return name in self.decoders  # without decoding

    def __iter__(self) -> Iterator[str]:
        return iter(self.decoders)

    def __len__(self) -> int:
        return len(self.decoders)
