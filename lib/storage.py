"""A model to a compressed file and back, bit for bit.

The file holds all that the architecture does not say, in this order (integers are unsigned LEB128, "name" is a length
byte and ASCII):

    "SLIM", version                      5 bytes
    fingerprint of the architecture      8 bytes: BLAKE2b of the tensors' names, shapes and types
    forms                                count, names of the techniques that stored the weights
    for each tensor of the model, in its order:
        form                             0 for a plain tensor, else its place in the list of forms, from 1
        plain: the tensor's bytes        little endian
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

from lib import coding
from lib.weights import CompressedWeight, Encoding, compressed_form, decompress, form_named

MAGIC = b"SLIM\x01"
# How a stream is written: codes of one length (its bits are told); Huffman's code (its code lengths are told, a stream
# themselves); one symbol over and over (the symbol is all there is); a range code (its table of shares is told).
FIXED, HUFFMAN, CONSTANT, RANGE = 0, 1, 2, 3
CODERS = ("best", "huffman", "fixed")


def save(model: nn.Module, path: str | Path, *, coder: str = "best") -> int:
    """Write the model to ``path``; return the file's size in bytes.

    Compressed weights are written in their form, everything else as it is. coder: "best" writes each stream with the
    shortest of a range code, Huffman's code and codes of one length; "huffman" leaves the first out, "fixed" the first
    two. Raises ValueError for another coder, and for a weight compressed in a way that this format does not know.
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
            out += _integer(0) + tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            continue
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: compressed weights are stored for float32 models only")
        with torch.no_grad():
            encoding = stored[0].encode(*stored[1])
        out += _integer(forms.index(type(stored[0]).__name__) + 1) + _integer(len(encoding.symbols))
        for key, symbols in encoding.symbols.items():
            out += _name(key) + _stream(symbols.numpy(), coder)
        out += _integer(len(encoding.tables))
        for key, table in encoding.tables.items():
            out += _name(key) + _integer(table.numel()) + table.detach().float().contiguous().numpy().tobytes()
    return bytes(out + _digest(out))


def loads(content: bytes, model: nn.Module) -> list[Tensor]:
    """The tensors in a file's content, for the architecture of ``model``, which is not changed."""
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no model file of this version: it does not begin with SLIM 1")
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
    except (IndexError, KeyError, RuntimeError, UnicodeDecodeError) as error:
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


def _stream(symbols: np.ndarray, coder: str) -> bytes:
    """Count, how it is written, what that must know, and the coded symbols."""
    counts = np.bincount(symbols)
    head = _integer(len(symbols))
    if np.count_nonzero(counts) <= 1:
        return head + _integer(CONSTANT) + _integer(max(0, len(counts) - 1))
    bits = int(len(counts) - 1).bit_length()
    written = [head + _integer(FIXED) + _integer(bits) + _sized(coding.pack(symbols, bits))]
    if coder != "fixed":  # a table is a stream of its own, of ever smaller numbers
        lengths = coding.code_lengths(counts)
        written.append(head + _integer(HUFFMAN) + _stream(lengths, coder) + _sized(coding.huffman(symbols, lengths)))
    if coder == "best" and len(symbols) > 64:
        shares = coding.shares(counts)
        written.append(head + _integer(RANGE) + _stream(shares, coder) + _sized(coding.range_code(symbols, shares)))
    return min(written, key=len)


def _sized(content: bytes) -> bytes:
    return _integer(len(content)) + content


def _tensor(reader: "_Reader", forms: list[type[CompressedWeight]], like: Tensor) -> Tensor:
    form = reader.integer(most=len(forms))
    if form == 0:
        raw = reader.take(like.numel() * like.element_size())
        return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape) if raw else torch.empty_like(like)
    symbols = {reader.name(): reader.symbols(most=like.numel()) for _ in range(reader.integer(most=255))}
    tables = {reader.name(): reader.floats() for _ in range(reader.integer(most=255))}
    value = forms[form - 1].decode(Encoding(symbols, tables), like.shape)
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

    def symbols(self, most: int, depth: int = 0) -> Tensor:
        if depth > 8:
            raise ValueError("code tables lie in code tables deeper than any that is written")
        count, coder = self.integer(most), self.integer(most=RANGE)
        if coder == CONSTANT:
            return torch.tensor(self.integer(most=2**16)).expand(count)  # one number in memory, however long
        if coder == FIXED:
            bits = self.integer(most=16)
            return torch.from_numpy(coding.unpack(self.take(self.integer(self.left())), count, bits))
        table, decode = self.symbols(most=2**16, depth=depth + 1).numpy(), coding.unhuffman
        if coder == RANGE:
            decode = coding.unrange
        return torch.from_numpy(decode(self.take(self.integer(self.left())), count, table))
