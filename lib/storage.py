"""A model to a compressed file and back, bit for bit.

The file holds everything but the architecture, in this order (integers are unsigned LEB128; a name is a length byte and
ASCII). The book's page on the file format, file_format.md, explains every byte.

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
architecture before memory is allocated: :meth:`lib.weights.CompressedWeight.most` says for each form how many symbols
and values a weight of some shape may have. So memory and time are bounded by the architecture and the file's size.
"""

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.coding import context, fields
from lib.weights import (
    CompressedWeight,
    Encoding,
    PackedWeight,
    compressed,
    compressed_form,
    decompress,
    form_named,
)

MAGIC = b"SLIM\x02"
CODERS = ("context", "best", "huffman", "fixed")  # the user's choice of the codes that may be tried
# Every float32 value is a whole multiple of a power of two between 2^-149, the smallest positive float32, and 2^127,
# the largest power of two. Exponents are written from 0 up, so LOWEST is added; 150 instead of 149 leaves one to spare.
LOWEST, HIGHEST = 150, 127


def save(model: nn.Module, path: str | Path, *, coder: str = "best") -> int:
    """Write the model to ``path``; return the file's size in bytes.

    Compressed weights are written in their form, everything else as it is. The file is written completely or not at
    all.

    model: any network, on any device; its compressed weights must be float32 and finite.
    path: where to write; an existing file is replaced.
    coder: how streams of symbols are written, default "best".

        - "fixed": codes of one length
        - "huffman": for each stream the shorter of codes of one length and Huffman's code
        - "best": the shortest of these two and a range code
        - "context": also tries a code that learns from neighboring symbols, and writes plain float32 tensors as
          integers where all values are multiples of one power of two; it takes seconds per million weights

    Raises ValueError for another coder, for a parametrization that is not a compressed weight, and for a tensor without
    dense values; OSError where the file cannot be written.

    >>> import tempfile
    >>> model = nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save(model, f"{folder}/linear.slim")
    ...     copy = load(f"{folder}/linear.slim", nn.Linear(3, 2))
    >>> size, torch.equal(copy.weight, model.weight)
    (56, True)
    """
    path = Path(path)
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    content = dumps(model, coder=coder)
    # Not derived from the path's name, which may already be as long as a name can be.
    partial = path.with_name(f".{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # the path is below a file
            partial.unlink(missing_ok=True)
    return len(content)


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read the weights in the file ``path`` into ``model``. In place; returns the model.

    Weights come back dense, equal bit for bit to those saved. An example is at :func:`save`.

    path: a file that :func:`save` wrote.
    model: a network of the architecture that was saved: same names, shapes and types of its tensors.

    Raises ValueError for a damaged file, a file of another kind, another architecture, and a model whose tensors cannot
    be written to or share memory; the model is then as it was.
    """
    content = Path(path).read_bytes()
    try:
        values = loads(content, model)
        for name, tensor, _ in _tensors(model):
            _check_writable(name, tensor)
        _check_apart(model)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    decompress(model)
    with torch.no_grad():
        for tensor, value in zip((t for _, t, _ in _tensors(model)), values, strict=True):
            tensor.copy_(value)
    return model


def dumps(model: nn.Module, *, coder: str = "best") -> bytes:
    """Return the content of the file that :func:`save` writes.

    model: any network, on any device; its compressed weights must be float32 and finite.
    coder: "context", "best" (default), "huffman" or "fixed", as in :func:`save`.

    Raises ValueError for another coder, for a parametrization that is not a compressed weight, and for a tensor without
    dense values.

    >>> content = dumps(nn.Linear(3, 2))
    >>> content[:4], [tuple(tensor.shape) for tensor in loads(content, nn.Linear(3, 2))]
    (b'SLIM', [(2,), (2, 3)])
    """
    check_one_of("coder", coder, CODERS)
    tensors = _dense(model)
    forms = sorted({type(stored[0]).__name__ for _, _, stored in tensors if stored})
    out = bytearray(MAGIC + _fingerprint(tensors) + fields.integer(len(forms)))
    for form in forms:
        out += fields.name(form)
    for name, tensor, stored in tensors:
        if stored is None:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            raw = fields.integer(0) + plain.flatten().view(torch.uint8).numpy().tobytes()
            out += min([raw, *_on_a_grid(plain, coder)], key=len)
            continue
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: compressed weights are stored for float32 models only")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity: compressed weights are stored where they are finite")
        try:
            out += fields.integer(forms.index(type(stored[0]).__name__) + 2)
            out += _written(tensor, *stored, coder)
        except ValueError as error:
            raise ValueError(f"{name} cannot be stored as {type(stored[0]).__name__}: {error}") from error
    out += _digest(out)
    return bytes(out)


def _written(tensor: Tensor, form: CompressedWeight, stored: tuple[Tensor, ...], coder: str) -> bytes:
    """The streams and tables of a compressed weight, within the bounds that :func:`loads` accepts."""
    with torch.no_grad():
        encoding = form.encode(*stored)
    streams, tables = form.most(tensor.shape)
    sizes = {key: len(symbols) for key, symbols in encoding.symbols.items()}
    for most, held in ((streams, sizes), (tables, {key: table.numel() for key, table in encoding.tables.items()})):
        for key, count in held.items():
            if count > most.get(key, -1):
                raise ValueError(f"it has {count} entries of {key!r}, and its bounds are {most}")
    out = fields.integer(len(encoding.symbols))
    for key, symbols in encoding.symbols.items():
        out += fields.name(key) + fields.stream(symbols.cpu().numpy(), coder, tensor.shape)
    out += fields.integer(len(encoding.tables))
    for key, table in encoding.tables.items():
        values = table.detach().cpu().float().contiguous().numpy()
        out += fields.name(key) + fields.integer(values.size) + values.tobytes()
    return out


def loads(content: bytes, model: nn.Module) -> list[Tensor]:
    """Return the tensors in a file's content, dense, in the order in which the file holds them.

    content: as :func:`dumps` returns it, which also has an example.
    model: a network of the architecture that was saved; it is not changed.

    Raises ValueError for damaged content, content of another kind, and another architecture.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no model file of this version: it does not begin with SLIM 2")
    body = memoryview(content)[:-8]
    if len(content) < len(MAGIC) + 17 or _digest(body) != content[-8:]:
        raise ValueError("it is damaged or cut short: its checksum does not fit")
    tensors = _dense(model)
    reader = fields.Reader(body, len(MAGIC))
    if reader.take(8) != _fingerprint(tensors):
        raise ValueError(
            f"it holds another architecture than this {type(model).__name__} of {len(tensors)} tensors:"
            " names, shapes and types must be the same"
        )
    forms = [form_named(reader.name()) for _ in range(reader.integer(most=255))]
    values = []
    for name, tensor, _ in tensors:
        try:
            values.append(_tensor(reader, forms, tensor))
        except KeyError as error:
            raise ValueError(f"its content for {name} is not whole: {error} is missing") from error
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"its content for {name} makes no sense: {reason}") from error
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


def _dense(model: nn.Module) -> list[tuple[str, Tensor, tuple[CompressedWeight, tuple[Tensor, ...]] | None]]:
    """:func:`_tensors`, after checking that they are all of the model and that their values can be read."""
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(f"{name or type(module).__name__} has an extra state: only tensors are stored")
        if type(module)._save_to_state_dict is not nn.Module._save_to_state_dict:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}, which keeps values in a way of its own:"
                " only parameters and buffers are stored"
            )
    tensors = list(_tensors(model))
    for name, tensor, _ in tensors:
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise ValueError(f"{name} has no shape before the network has seen an input: run it once")
        if tensor.is_meta:
            raise ValueError(f"{name} is on the device meta, which holds no values: accepted is any other device")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is {tensor.layout} of {tensor.dtype}: accepted are dense tensors of numbers")
    return tensors


def _check_writable(name: str, tensor: Tensor) -> None:
    """Raise ValueError where values cannot be copied into a tensor, so that no model is left half loaded."""
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise ValueError(f"the values of {name} share one place in memory: make it contiguous first")
    if tensor.is_inference():
        raise ValueError(f"{name} was made in inference mode, and cannot be changed: accepted is any other tensor")


def _check_apart(model: nn.Module) -> None:
    """Raise ValueError where values share memory, so that writing one would change another."""
    plain = [(name, tensor) for name, tensor, stored in _tensors(model) if stored is None and tensor.numel()]
    before: list[tuple[int, str, Tensor]] = []  # those that reach beyond where the next one begins
    for name, tensor in sorted(plain, key=lambda one: one[1].data_ptr()):
        if not tensor.is_contiguous() and len(np.unique(places := _places(tensor))) < len(places):
            raise ValueError(f"the values of {name} share one place in memory: make it contiguous first")
        before = [one for one in before if one[0] > tensor.data_ptr()]
        for _, other, held in before:
            if held.device == tensor.device and np.intersect1d(_bytes(held), _bytes(tensor)).size:
                raise ValueError(f"{other} and {name} share memory: give each its own, or make them one parameter")
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        before.append((tensor.data_ptr() + reach * tensor.element_size(), name, tensor))


def _places(tensor: Tensor) -> np.ndarray:
    """How far each element of a tensor is from the first one in memory, in elements."""
    places = np.zeros(1, dtype=np.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = (places[:, None] + np.arange(size) * stride).ravel()
    return places


def _bytes(tensor: Tensor) -> np.ndarray:
    """The addresses of all bytes of a tensor."""
    width = tensor.element_size()
    return (tensor.data_ptr() + _places(tensor)[:, None] * width + np.arange(width)).ravel()


def _fingerprint(tensors: list) -> bytes:
    return _digest(json.dumps([[name, list(t.shape), str(t.dtype)] for name, t, _ in tensors]).encode())


def _digest(content: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


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
        yield fields.integer(1) + fields.integer(exponent + LOWEST) + fields.stream(symbols, coder, tensor.shape)


def _tensor(reader: fields.Reader, forms: list[type[CompressedWeight]], like: Tensor) -> Tensor:
    form = reader.integer(most=len(forms) + 1)
    if form == 0:
        return _from_bytes(reader.take(like.numel() * like.element_size()), like)
    if like.dtype != torch.float32:
        raise ValueError(f"compressed values are given for a tensor of {like.dtype}: accepted is float32")
    value = _from_grid(reader, like.shape) if form == 1 else _decoded(reader, forms[form - 2], like.shape)
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(
            f"it has the shape {tuple(value.shape)} and the type {value.dtype}:"
            f" accepted is {tuple(like.shape)} of {like.dtype}"
        )
    if not value.isfinite().all():
        raise ValueError("it holds NaN or infinity, and compressed values are finite")
    return value


def _from_bytes(raw: memoryview, like: Tensor) -> Tensor:
    if not raw:
        return torch.empty(like.shape, dtype=like.dtype)
    own = bytearray(raw)
    if like.dtype == torch.bool and max(own) > 1:
        raise ValueError(f"a byte is {max(own)}: accepted for bool are 0 and 1")
    return torch.frombuffer(own, dtype=like.dtype).reshape(like.shape)


def _from_grid(reader: fields.Reader, shape: torch.Size) -> Tensor:
    exponent = reader.integer(most=HIGHEST + LOWEST) - LOWEST
    steps = reader.stream(most=shape.numel(), shape=shape)()
    if len(steps) != shape.numel():
        raise ValueError(f"{len(steps)} steps are given for {shape.numel()} values: accepted is one for each")
    levels = torch.where(steps % 2 == 1, (steps + 1) // 2, -((steps + 1) // 2))
    return (levels.double() * 2.0**exponent).float().reshape(shape)


def _decoded(reader: fields.Reader, form: type[CompressedWeight], shape: torch.Size) -> Tensor:
    streams, tables = form.most(shape)
    symbols = reader.named(streams, lambda most: reader.stream(most, shape))
    return form.decode(Encoding(fields.Streams(symbols), reader.named(tables, reader.floats)), shape)
