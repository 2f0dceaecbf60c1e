"""A model to a compressed file and back, bit for bit.

The file holds all that the architecture does not say, in this order (integers are unsigned LEB128, "name" is a length
byte and ASCII):

    "SLIM", version                      5 bytes
    fingerprint of the architecture      8 bytes: BLAKE2b of the tensors' names, shapes and types
    forms                                count, names of the techniques that stored the weights
    for each tensor of the model, in its order:
        form                             0: plain tensor, 1: on a grid, else its place in the list of forms, from 2
        plain: the tensor's bytes        little endian
        on a grid: exponent e, stream    for float32 values k 2^e
        else, for each stream            name, number of symbols, coder, what it must know, number of bytes, bytes
              for each table             name, number of values, float32 values
    checksum                             8 bytes: BLAKE2b of everything before

A file is parsed, never executed: a name in it can only pick one of the known techniques. Every count is held against
the architecture before anything is allocated.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib.coding import coders, context
from lib.weights import CompressedWeight, Encoding, compressed_form, decompress, form_named

MAGIC = b"SLIM\x02"
# How a stream is written: codes of one length (its bits are told); Huffman's code (its code lengths are told, a stream
# themselves); one symbol over and over (the symbol is all there is); a range code (its table of shares is told); a code
# that learns from the symbols around (the width of a line is told).
FIXED, HUFFMAN, CONSTANT, RANGE, CONTEXT = 0, 1, 2, 3, 4
CODERS = ("context", "best", "huffman", "fixed")


def save(model: nn.Module, path: str | Path, *, coder: str = "best") -> int:
    """Write the model to ``path``; return the file's size in bytes.

    Compressed weights are written in their form, everything else as it is. coder: "best" writes each stream with the
    shortest of a range code, Huffman's code and codes of one length; "huffman" leaves the first out, "fixed" the first
    two. "context" adds a code that learns from the symbols around, and writes plain float32 tensors as whole numbers
    where all are multiples of one power of two; it takes seconds for each million weights.
    Raises ValueError for another coder, and for a weight compressed in a way that this format does not know.
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
    """Read the weights of ``path`` into ``model``, which must be of the architecture that was saved; return it.

    Weights come back dense, equal to those saved bit for bit. Raises ValueError, and leaves the model as it was, for a
    file that is damaged, no model file, or of another architecture.
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
    """The file's content; coder as in :func:`save`."""
    if coder not in CODERS:
        raise ValueError(f"coder must be one of {', '.join(CODERS)}, not {coder!r}")
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
    """The tensors in a file's content, for the architecture of ``model``, which is not changed."""
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
        raise ValueError(f"{reader.left()} bytes are left over behind the last tensor")
    return values


def streams(model: nn.Module) -> Iterator[tuple[str, Encoding]]:
    """Layer name and encoding of every compressed weight: what the accountings of a size are computed from."""
    for name, _, stored in _tensors(model):
        if stored is not None:
            with torch.no_grad():
                yield name.removesuffix(".weight"), stored[0].encode(*stored[1])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, tuple[CompressedWeight, tuple[Tensor, ...]] | None]]:
    """Name, dense value and form (None: plain) of every parameter and buffer that makes the model, in a fixed order."""
    for prefix, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) or prefix.split(".")[-1] == "parametrizations":
            continue
        if ".parametrizations." in f".{prefix}.":
            continue
        extra = set(getattr(module, "parametrizations", {})) - {"weight"}
        if extra:
            raise ValueError(f"{prefix} has a parametrization of {', '.join(extra)}: only weights can be compressed")
        own: dict[str, Tensor | None] = dict(module._parameters)
        own |= {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
        stored = compressed_form(module)
        if stored is not None:
            own["weight"] = module.weight
        for key in sorted(own):
            if own[key] is not None:
                yield f"{prefix}.{key}".lstrip("."), own[key], stored if key == "weight" else None


def _fingerprint(tensors: list) -> bytes:
    return _digest(json.dumps([[name, list(t.shape), str(t.dtype)] for name, t, _ in tensors]).encode())


def _digest(content: bytes) -> bytes:
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
    """The tensor as whole numbers of one power of two, where it can be written so bit for bit; else nothing."""
    if coder != "context" or tensor.dtype != torch.float32 or not tensor.numel() or not torch.isfinite(tensor).all():
        return
    values = tensor.flatten().double().numpy()
    parts, exponents = np.frexp(values)
    whole = (parts * 2**24).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(float))[1] - 1 + exponents - 24  # the place of the last bit of each
    exponent = int(lowest[whole != 0].min(initial=0 if not whole.any() else 128))
    levels = np.rint(values * 2.0**-exponent)
    if np.abs(levels).max() <= context.LARGEST and not np.signbit(values[values == 0]).any():
        symbols = np.where(levels > 0, 2 * levels - 1, -2 * levels).astype(np.int64)
        yield _integer(1) + _integer(exponent + 150) + _stream(symbols, coder, tensor.shape)


def _stream(symbols: np.ndarray, coder: str, shape: torch.Size | None = None) -> bytes:
    """Count, how it is written, what that must know, and the coded symbols; ``shape``: of the tensor they may fill."""
    counts = np.bincount(symbols)
    head = _integer(len(symbols))
    if np.count_nonzero(counts) <= 1:
        return head + _integer(CONSTANT) + _integer(max(0, len(counts) - 1))
    bits = int(len(counts) - 1).bit_length()
    written = [head + _integer(FIXED) + _integer(bits) + _sized(coders.pack(symbols, bits))]
    if coder != "fixed":  # a table is a stream of its own, of ever smaller numbers
        lengths = coders.code_lengths(counts)
        written.append(head + _integer(HUFFMAN) + _stream(lengths, coder) + _sized(coders.huffman(symbols, lengths)))
    if coder in ("best", "context") and len(symbols) > 64:
        shares = coders.shares(counts)
        written.append(head + _integer(RANGE) + _stream(shares, coder) + _sized(coders.range_code(symbols, shares)))
    if coder == "context" and shape and len(symbols) == shape.numel() and counts.size <= 2 * context.LARGEST + 1:
        rows = _rows(shape)
        sample = symbols[: min(rows, 32) * (len(symbols) // rows)]
        widths = [w for w in range(1, 65) if len(symbols) % (rows * w * w) == 0]  # images, kernels, or neither
        width = min(widths, key=lambda w: len(context.context_code(sample, min(rows, 32), w)))
        coded = context.context_code(symbols, rows, width)
        written.append(head + _integer(CONTEXT) + _integer(width) + _sized(coded))
    return min(written, key=len)


def _rows(shape: torch.Size) -> int:
    """What one unit or filter reads is a row; a tensor of one dimension is one row."""
    return shape[0] if len(shape) > 1 else 1


def _sized(content: bytes) -> bytes:
    return _integer(len(content)) + content


def _tensor(reader: "_Reader", forms: list[type[CompressedWeight]], like: Tensor) -> Tensor:
    form = reader.integer(most=len(forms) + 1)
    if form == 0:
        raw = reader.take(like.numel() * like.element_size())
        return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape) if raw else torch.empty_like(like)
    if form == 1:
        exponent, symbols = reader.integer(most=277) - 150, reader.symbols(most=like.numel(), shape=like.shape)
        if like.dtype != torch.float32 or len(symbols) != like.numel():
            raise ValueError(f"{len(symbols)} steps stand where {like.numel()} values of {like.dtype} belong")
        levels = torch.where(symbols % 2 == 1, (symbols + 1) // 2, -((symbols + 1) // 2))
        return (levels.double() * 2.0**exponent).float().reshape(like.shape)
    symbols = {
        reader.name(): reader.symbols(most=like.numel(), shape=like.shape) for _ in range(reader.integer(most=255))
    }
    tables = {reader.name(): reader.floats() for _ in range(reader.integer(most=255))}
    value = forms[form - 2].decode(Encoding(symbols, tables), like.shape)
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"a weight of shape {tuple(value.shape)} stands where {tuple(like.shape)} belongs")
    return value


class _Reader:
    """Reads on from a place; never past the end, and never more than the caller says is possible."""

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
            raise ValueError("code tables lie in code tables deeper than any that is written")
        count, coder = self.integer(most), self.integer(most=CONTEXT)
        if coder == CONSTANT:
            return torch.tensor(self.integer(most=2**16)).expand(count)  # one number in memory, however long
        if coder == FIXED:
            bits = self.integer(most=16)
            return torch.from_numpy(coders.unpack(self.take(self.integer(self.left())), count, bits))
        if coder == CONTEXT:
            if shape is None or not count:
                raise ValueError("a code by context stands where no tensor is filled")
            width, content = self.integer(most=64), self.take(self.integer(self.left()))
            return torch.from_numpy(context.uncontext(content, count, _rows(shape), width))
        table, decode = self.symbols(most=2**16, depth=depth + 1).numpy(), coders.unhuffman
        if coder == RANGE:
            decode = coders.unrange
        return torch.from_numpy(decode(self.take(self.integer(self.left())), count, table))
