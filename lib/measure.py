"""One cost model for the whole book: parameters, bytes, multiply-adds, latency."""

import copy
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import operations, running, storage
from lib.coding import coders
from lib.weights import layers


def parameters(model: nn.Module) -> int:
    """Count the weights and biases that the layers compute with.

    model: any network. A compressed weight counts by its dense shape, and a weight that two layers share counts once.

    Raises ValueError, by name, for a weight that a lazy layer has not made yet, and for one that a hook of
    ``torch.nn.utils`` makes (prune, weight_norm, spectral_norm).

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> model = magnitude.prune(models.lenet_300_100(), density=0.1)
    >>> parameters(model), nonzero_parameters(model), dense_bytes(model)
    (266610, 27030, 1066440)
    """
    return sum(p.numel() for p in _dense(model))


def nonzero_parameters(model: nn.Module) -> int:
    """Count the weights and biases that are not zero.

    model: any network; an example is at :func:`parameters`.
    """
    return sum(int(p.count_nonzero()) for p in _dense(model))


def dense_bytes(model: nn.Module) -> int:
    """Return the bytes of the parameters as 32-bit floats. Every compression ratio of this book compares with them.

    model: any network; an example is at :func:`parameters`.
    """
    return 4 * parameters(model)


def _dense(model: nn.Module) -> list[Tensor]:
    _check_plain(model)
    found: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        if ".parametrizations." in f".{name}.":
            continue
        for p in module.parameters(recurse=False):
            found[id(p)] = p
        if parametrize.is_parametrized(module):
            for key in module.parametrizations:
                found[id(module.parametrizations[key])] = getattr(module, key).detach()
    for _, layer in layers(model):  # a weight may be a buffer
        if isinstance(layer, nn.Module) and isinstance(buffer := layer._buffers.get("weight"), Tensor):
            found[id(buffer)] = buffer
    return list(found.values())


def _check_plain(model: nn.Module) -> None:
    """ValueError for a weight that is not there yet, or that a hook of torch makes from other parameters."""
    running.check_made(model)
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and {f"{key}_orig", f"{key}_v"} & module._parameters.keys():
                raise ValueError(
                    f"a hook of torch.nn.utils makes the {key} of layer {name!r}: make it a plain parameter first"
                    " (prune.remove, remove_weight_norm, remove_spectral_norm)"
                )


def multiply_adds(model: nn.Module, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> int:
    """Count the multiply-adds of one forward pass for one input.

    A linear layer takes inputs times outputs, a convolution :math:`H W C_{out} (C_{in} / g) k_h k_w`, with H x W the
    size of its output (of its input if it is transposed). Recurrent layers, attention, and matrix products that a
    ``forward`` computes by itself count as well. Operations that multiply no matrices count as nothing, and a pruned
    weight counts like any other. A module that does a layer's work without calling it names that layer in its attribute
    ``computes``.

    model: any network. A copy of it runs once, in evaluation mode.
    shape: of one input, without the batch: (channels, height, width).
    dtype: of the input; default: the type of the model's first parameter. A network that reads words takes
        ``torch.long``.

    Raises ValueError where the model does not take such an input, for sizes below 0, and for a weight that a lazy layer
    has not made yet.

    >>> from lib import models
    >>> multiply_adds(models.lenet5(), (1, 28, 28))
    2293000
    >>> multiply_adds_by_layer(models.lenet5(), (1, 28, 28))
    {'conv1': 288000, 'conv2': 1600000, 'fc1': 400000, 'fc2': 5000}
    """
    return sum(multiply_adds_by_layer(model, shape, dtype=dtype).values())


def multiply_adds_by_layer(
    model: nn.Module, shape: tuple[int, ...], *, dtype: torch.dtype | None = None
) -> dict[str, int]:
    """Count the multiply-adds of each module in one forward pass for one input.

    model: any network; counted as in :func:`multiply_adds`, which also has an example.
    shape: of one input, without the batch: (channels, height, width).
    dtype: of the input; default: the type of the model's first parameter.

    Returns module name -> multiply-adds, for the modules that multiply, in the order in which they run: convolution,
    linear and recurrent layers, attention with all of its four matrices and the products between them, and whatever
    else multiplies matrices itself, without its submodules. What the model itself multiplies has the name "".
    Raises ValueError where the model does not take such an input.
    """
    running.check_made(model)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape must have sizes of 0 or more, not {tuple(shape)}")
    first: Tensor = next(model.parameters(), torch.zeros(0))
    image = torch.zeros(1, *shape, device=first.device, dtype=dtype or first.dtype)
    with suppress(Exception):  # a model that cannot be copied runs itself
        model = copy.deepcopy(model)
    with torch.no_grad(), running.evaluating(model), operations.counting(model) as work:
        running.logits(model, image)
    return work


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median of all runs and the quartiles around it."""

    median: float
    lower: float
    upper: float


def latency_ms(calls: dict[str, Callable[[], object]], *, runs: int = 21) -> dict[str, Latency]:
    """Measure how long each call takes on one thread.

    The calls take turns, so a slow spell of the machine hits them all.
    Compare only times from one call of this function: ratios carry over to other machines, milliseconds do not.

    calls: name -> function without arguments.
    runs: timed runs of each call, after two to warm up; 20 or more, default 21.

    Returns name -> :class:`Latency`. Raises ValueError for fewer runs.

    >>> model, image = nn.Linear(784, 10), torch.zeros(1, 784)
    >>> times = latency_ms({"linear": lambda: model(image), "nothing": lambda: None})
    >>> times["nothing"].median < times["linear"].median
    True
    """
    if runs < 20:
        raise ValueError(f"runs must be at least 20 for a median that means something, not {runs}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    try:
        with torch.no_grad():
            for run in range(runs + 2):
                for name, call in calls.items():
                    begin = time.perf_counter()
                    call()
                    if run >= 2:  # the first two warm up
                        taken[name].append(1000 * (time.perf_counter() - begin))
    finally:
        torch.set_num_threads(threads)
    return {name: Latency(*np.percentile(times, [50, 25, 75]).tolist()) for name, times in taken.items()}


@dataclass(frozen=True)
class Accounting:
    """Four sizes of one compressed network, in bytes; :func:`accountings` says what each one counts."""

    nonzeros: float
    fixed_codes: float
    code_lengths: float
    file: int


def accountings(model: nn.Module, *, coder: str = "best") -> Accounting:
    """Compute what the literature calls the size of a compressed network, in four ways.

    model: any network.
    coder: of the file, "context", "best" (default), "huffman" or "fixed", as in :func:`lib.storage.save`.

    Returns an :class:`Accounting`, in bytes:

    - nonzeros: 4 bytes for each parameter that is not zero, its position for free (han2015learning)
    - fixed_codes: weight and gap codes of one length per layer, and the codebook (han2016deep, "P+Q")
    - code_lengths: the same with the lengths of Huffman's codewords, tables and biases for free (han2016deep, "P+Q+H")
    - file: the file that :mod:`lib.storage` writes with ``coder``, with all that it takes to load the network

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> sizes = accountings(magnitude.prune(models.lenet_300_100(), density=0.1))
    >>> sizes.nonzeros, sizes.nonzeros < sizes.file < dense_bytes(models.lenet_300_100())
    (108120, True)
    """
    fixed = huffman = 0.0
    for _, encoding in storage.streams(model):
        tables = sum(4 * table.numel() for table in encoding.tables.values())
        fixed, huffman = fixed + tables, huffman + tables
        for symbols in encoding.symbols.values():
            counts = np.bincount(symbols.numpy())
            fixed += len(symbols) * int(max(0, len(counts) - 1)).bit_length() / 8
            huffman += coders.huffman_bits(counts) / 8
    return Accounting(4 * nonzero_parameters(model), fixed, huffman, len(storage.dumps(model, coder=coder)))


def by_layer(model: nn.Module) -> list[dict[str, object]]:
    """Return one row for each layer with a weight: its name, the number of its weights, and how many are not zero.

    Rows for the other parameters of two dimensions or more follow, such as class tokens and position embeddings. No
    technique compresses them.

    model: any network.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> by_layer(magnitude.prune(models.lenet_300_100(), density=0.1))[0]
    {'layer': 'fc1', 'weights': 235200, 'kept': 23520}
    """
    _check_plain(model)
    weights: dict[str, Tensor] = {name: layer.weight for name, layer in layers(model)}
    for name, parameter in model.named_parameters():
        place = name.removesuffix("weight").removesuffix(".") if name.split(".")[-1] == "weight" else name
        if parameter.dim() > 1 and parameter.numel() and ".parametrizations." not in f".{name}":
            weights.setdefault(place, parameter)
    return [
        {"layer": name, "weights": weight.numel(), "kept": int(weight.count_nonzero())}
        for name, weight in weights.items()
    ]


def by_stream(model: nn.Module) -> list[dict[str, object]]:
    """Return one row for each compressed layer: how much of it is kept, and the bits per entry of each of its streams.

    model: any network.

    The columns are "layer", "kept (%)", and for each stream the bits of an entry with a code of one length ("bits"),
    with Huffman's code, and by the entropy.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> list(by_stream(magnitude.prune(models.lenet_300_100(), density=0.1))[0])
    ['layer', 'kept (%)', 'gap: bits', 'gap: Huffman', 'gap: entropy']
    """
    weights, rows = {name: layer.weight for name, layer in layers(model)}, []
    for name, encoding in storage.streams(model):
        weight = weights[name]
        row: dict[str, object] = {"layer": name, "kept (%)": f"{100 * weight.count_nonzero() / weight.numel():.1f}"}
        for stream, symbols in encoding.symbols.items():
            counts = np.bincount(symbols.numpy())
            n = max(1, counts.sum())
            row[f"{stream}: bits"] = int(max(0, len(counts) - 1)).bit_length()
            row[f"{stream}: Huffman"] = f"{coders.huffman_bits(counts) / n:.2f}"
            row[f"{stream}: entropy"] = f"{coders.entropy_bits(counts) / n:.2f}"
        rows.append(row)
    return rows
