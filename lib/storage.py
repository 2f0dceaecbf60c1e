"""A model to a compressed file and back, bit for bit.

The file holds everything but the architecture, in this order (integers are unsigned LEB128; a name is a length byte and
ASCII):

    "SLIM", version                      5 bytes
    fingerprint of the architecture      8 bytes: BLAKE2b of the tensors' names, shapes and types
    forms                                count, names of the forms in which weights are stored
    for each tensor of the model, in its order:
        form                             0: plain tensor, 1: on a grid, else 2 + place in the list of forms
        plain: the tensor's bytes        little endian
        on a grid: exponent e, stream    for float32 values k 2^e
        else, for each stream            name, number of symbols, coder, the coder's parameters, number of bytes, bytes
              for each table             name, number of values, float32 values
    checksum                             8 bytes: BLAKE2b of everything before

A file is parsed, never executed: a name in it can only choose one of the known forms. Every count is compared with the
architecture before memory is allocated.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.coding import coders, context
from lib.weights import (
    CompressedWeight,
    Encoding,
    PackedWeight,
    check_one_of,
    compressed,
    compressed_form,
    decompress,
    form_named,
)

MAGIC = b"SLIM\x02"
# How one stream is written, with the parameters that its reader needs: codes of one length (their bits), Huffman's code
# (its code lengths, a stream themselves), one symbol repeated (the symbol), a range code (its table of shares, a stream
# as well), and a code that learns from neighboring symbols (the width of a line).
FIXED, HUFFMAN, CONSTANT, RANGE, CONTEXT = 0, 1, 2, 3, 4
CODERS = ("context", "best", "huffman", "fixed")  # what a user chooses: which of the above may be tried
# Every float32 value is a whole multiple of a power of two between 2^-149, the smallest positive float32, and 2^127,
# the largest power of two. Exponents are written from 0 up, so LOWEST is added; 150 instead of 149 leaves one to spare.
LOWEST, HIGHEST = 150, 127


def save(model: nn.Module, path: str | Path, *, coder: str = "best") -> int:
    """Write the model to ``path``; return the file's size in bytes.

    Compressed weights are written in their form, everything else as it is. The file is complete or not there.

    model: any network; its compressed weights must be float32.
    path: where to write; an existing file is replaced.
    coder: how streams of symbols are written, default "best".

        - "fixed": codes of one length
        - "huffman": for each stream the shorter of codes of one length and Huffman's code
        - "best": the shortest of these two and a range code
        - "context": also tries a code that learns from neighboring symbols, and writes plain float32 tensors as
          integers where all values are multiples of one power of two; it takes seconds per million weights

    Raises ValueError for another coder, and for a parametrization that is not a compressed weight.

    >>> import tempfile
    >>> model = nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save(model, f"{folder}/linear.slim")
    ...     copy = load(f"{folder}/linear.slim", nn.Linear(3, 2))
    >>> size, torch.equal(copy.weight, model.weight)
    (56, True)
    """
    content = dumps(model, coder=coder)
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(content)


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read the weights in the file ``path`` into ``model``. In place; returns the model.

    Weights come back dense, equal bit for bit to those saved. An example is at :func:`save`.

    path: a file that :func:`save` wrote.
    model: a network of the architecture that was saved: same names, shapes and types of its tensors.

    Raises ValueError for a damaged file, a file of another kind, and another architecture; the model is then as it was.
    """
    content = Path(path).read_bytes()
    try:
        values = loads(content, model)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    decompress(model)
    with torch.no_grad():
        for tensor, value in zip((t for _, t, _ in _tensors(model)), values, strict=True):
            tensor.copy_(value)
    return model


def dumps(model: nn.Module, *, coder: str = "best") -> bytes:
    """Return the content of the file that :func:`save` writes.

    model: any network; its compressed weights must be float32.
    coder: "context", "best" (default), "huffman" or "fixed", as in :func:`save`.

    Raises ValueError for another coder, and for a parametrization that is not a compressed weight.

    >>> content = dumps(nn.Linear(3, 2))
    >>> content[:4], [tuple(tensor.shape) for tensor in loads(content, nn.Linear(3, 2))]
    (b'SLIM', [(2,), (2, 3)])
    """
    check_one_of("coder", coder, CODERS)
    tensors = list(_tensors(model))
    forms = sorted({type(stored[0]).__name__ for _, _, stored in tensors if stored})
    out = bytearray(MAGIC + _fingerprint(tensors) + _integer(len(forms)))
    for name in forms:
        out += _name(name)
    for name, tensor, stored in tensors:
        if stored is None:
            plain = _integer(0) + tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            out += min([plain, *_on_a_grid(tensor.detach(), coder)], key=len)
            continue
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: compressed weights are stored for float32 models only")
        with torch.no_grad():
            encoding = stored[0].encode(*stored[1])
        out += _integer(forms.index(type(stored[0]).__name__) + 2) + _integer(len(encoding.symbols))
        for key, symbols in encoding.symbols.items():
            out += _name(key) + _stream(symbols.numpy(), coder, tensor.shape)
        out += _integer(len(encoding.tables))
        for key, table in encoding.tables.items():
            out += _name(key) + _integer(table.numel()) + table.detach().float().contiguous().numpy().tobytes()
    return bytes(out + _digest(out))


def loads(content: bytes, model: nn.Module) -> list[Tensor]:
    """Return the tensors in a file's content, dense, in the order in which the file holds them.

    content: as :func:`dumps` returns it, which also has an example.
    model: a network of the architecture that was saved; it is not changed.

    Raises ValueError for damaged content, content of another kind, and another architecture.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no model file of this version: it does not begin with SLIM 2")
    if len(content) < len(MAGIC) + 17 or _digest(content[:-8]) != content[-8:]:
        raise ValueError("it is damaged or cut short: its checksum does not fit")
    tensors = list(_tensors(model))
    reader = _Reader(content[:-8], len(MAGIC))
    if reader.take(8) != _fingerprint(tensors):
        raise ValueError(
            f"it holds another architecture than this {type(model).__name__} of {len(tensors)} tensors:"
            " names, shapes and types must be the same"
        )
    try:
        forms = [form_named(reader.name()) for _ in range(reader.integer(most=255))]
        values = [_tensor(reader, forms, tensor) for _, tensor, _ in tensors]
    except (IndexError, KeyError, OverflowError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"its content makes no sense: {error}") from error
    if reader.left():
        raise ValueError(f"{reader.left()} bytes are left over after the last tensor")
    return values


def streams(model: nn.Module) -> Iterator[tuple[str, Encoding]]:
    """Yield the layer name and the encoding of every compressed weight: what a file would hold, before it is coded.

    model: any network.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> model = magnitude.prune(models.lenet_300_100(), density={"fc1": 0.1})
    >>> [(name, *encoding.symbols, *encoding.tables) for name, encoding in streams(model)]
    [('fc1', 'gap', 'value')]
    """
    for name, form, stored in compressed(model):
        with torch.no_grad():
            yield name, form.encode(*stored)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, tuple[CompressedWeight, tuple[Tensor, ...]] | None]]:
    """Name, dense value and form (None: plain) of each parameter and buffer that is saved, in a fixed order.

    A parameter that several modules share comes once, under the first of its names.
    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if ".parametrizations." in f".{prefix}.":  # what is inside belongs to the forms
            continue
        own: dict[str, Tensor | None] = dict(module._parameters)
        own |= {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
        keys = {key for key, tensor in own.items() if tensor is not None and id(tensor) not in seen}
        seen |= {id(tensor) for tensor in own.values()}
        for key in sorted(keys | set(getattr(module, "parametrizations", ()))):
            try:
                stored = compressed_form(PackedWeight(module, key))
            except ValueError as error:
                raise ValueError(f"{prefix or 'the model'} cannot be saved: {error}") from error
            tensor = own[key] if stored is None else getattr(module, key)
            assert tensor is not None
            yield f"{prefix}.{key}".lstrip("."), tensor, stored


def _fingerprint(tensors: list) -> bytes:
    return _digest(json.dumps([[name, list(t.shape), str(t.dtype)] for name, t, _ in tensors]).encode())


def _digest(content: bytes | bytearray) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _integer(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _on_a_grid(tensor: Tensor, coder: str) -> Iterator[bytes]:
    """The tensor as small whole multiples of one power of two, where that is exact; else nothing."""
    if coder != "context" or tensor.dtype != torch.float32 or not tensor.numel() or not torch.isfinite(tensor).all():
        return
    values = tensor.flatten().double().numpy()
    parts, exponents = np.frexp(values)
    whole = (parts * 2**24).astype(np.int64)  # a float32 has 24 significant bits: value = whole 2^(exponent - 24)
    lowest = np.frexp((whole & -whole).astype(float))[1] - 1 + exponents - 24  # the place of the last bit of each
    # 128 is above every exponent, so the least one wins; zeros alone lie on any grid.
    exponent = int(lowest[whole != 0].min(initial=0 if not whole.any() else 128))
    levels = np.rint(values * 2.0**-exponent)
    if np.abs(levels).max() <= context.LARGEST and not np.signbit(values[values == 0]).any():
        symbols = np.where(levels > 0, 2 * levels - 1, -2 * levels).astype(np.int64)
        yield _integer(1) + _integer(exponent + LOWEST) + _stream(symbols, coder, tensor.shape)


def _stream(symbols: np.ndarray, coder: str, shape: torch.Size | None = None) -> bytes:
    """One coded stream: number of symbols, coder, the coder's parameters, coded bytes; the shortest of those allowed.

    ``shape``: of the tensor, if the stream may fill one.
    """
    counts = np.bincount(symbols)
    head = _integer(len(symbols))
    if np.count_nonzero(counts) <= 1:
        return head + _integer(CONSTANT) + _integer(max(0, len(counts) - 1))
    bits = int(len(counts) - 1).bit_length()
    written = [head + _integer(FIXED) + _integer(bits) + _sized(coders.pack(symbols, bits))]
    if coder != "fixed":  # code lengths are a stream of smaller numbers, so this recursion ends
        lengths = coders.code_lengths(counts)
        written.append(head + _integer(HUFFMAN) + _stream(lengths, coder) + _sized(coders.huffman(symbols, lengths)))
    if coder in ("best", "context") and len(symbols) > 64:
        shares = coders.shares(counts)
        written.append(head + _integer(RANGE) + _stream(shares, coder) + _sized(coders.range_code(symbols, shares)))
    if coder == "context" and shape and len(symbols) == shape.numel() and counts.size <= 2 * context.LARGEST + 1:
        rows = _rows(shape)
        sample = symbols[: min(rows, 32) * (len(symbols) // rows)]
        # A row may be an image or kernels of w x w symbols, which have neighbors above; 1: neither.
        widths = [w for w in range(1, 65) if len(symbols) % (rows * w * w) == 0]
        width = min(widths, key=lambda w: len(context.context_code(sample, min(rows, 32), w)))
        coded = context.context_code(symbols, rows, width)
        written.append(head + _integer(CONTEXT) + _integer(width) + _sized(coded))
    return min(written, key=len)


def _rows(shape: torch.Size) -> int:
    """The number of rows: one per output unit or filter; a tensor of one dimension is one row."""
    return shape[0] if len(shape) > 1 else 1


def _sized(content: bytes) -> bytes:
    return _integer(len(content)) + content


def _tensor(reader: "_Reader", forms: list[type[CompressedWeight]], like: Tensor) -> Tensor:
    form = reader.integer(most=len(forms) + 1)
    if form == 0:
        raw = reader.take(like.numel() * like.element_size())
        return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape) if raw else torch.empty_like(like)
    if form == 1:
        exponent = reader.integer(most=HIGHEST + LOWEST) - LOWEST
        steps = reader.symbols(most=like.numel(), shape=like.shape)
        if like.dtype != torch.float32 or len(steps) != like.numel():
            raise ValueError(
                f"{len(steps)} steps are given for {like.numel()} values of {like.dtype}:"
                " accepted is one step for each value of float32"
            )
        levels = torch.where(steps % 2 == 1, (steps + 1) // 2, -((steps + 1) // 2))
        return (levels.double() * 2.0**exponent).float().reshape(like.shape)
    symbols = {
        reader.name(): reader.symbols(most=like.numel(), shape=like.shape) for _ in range(reader.integer(most=255))
    }
    tables = {reader.name(): reader.floats() for _ in range(reader.integer(most=255))}
    value = forms[form - 2].decode(Encoding(symbols, tables), like.shape)
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(
            f"a weight has the shape {tuple(value.shape)} and the type {value.dtype}:"
            f" accepted is {tuple(like.shape)} of {like.dtype}"
        )
    return value


class _Reader:
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
            return torch.from_numpy(context.uncontext(content, count, _rows(shape), width))
        table = self.symbols(most=2**16, depth=depth + 1).numpy()
        decode = coders.unrange if coder == RANGE else coders.unhuffman
        return torch.from_numpy(decode(self.take(self.integer(self.left())), count, table))
