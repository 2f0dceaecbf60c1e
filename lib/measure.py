"""One cost model for the whole book: parameters, bytes, multiply-adds, latency."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import running, storage
from lib.coding import coders
from lib.weights import layers


def parameters(model: nn.Module) -> int:
    """Number of weights and biases the layers compute with; a compressed weight counts by its dense shape."""
    return sum(p.numel() for p in _dense(model))


def nonzero_parameters(model: nn.Module) -> int:
    """How many of them are not zero."""
    return sum(int(p.count_nonzero()) for p in _dense(model))


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the parameters as 32-bit floats: what every compression ratio of this book is a ratio to."""
    return 4 * parameters(model)


def _dense(model: nn.Module) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        if ".parametrizations." in f".{name}.":
            continue
        for p in module.parameters(recurse=False):
            found[id(p)] = p
        if parametrize.is_parametrized(module):
            for key in module.parametrizations:
                found[id(module.parametrizations[key])] = getattr(module, key).detach()
    return list(found.values())


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    r"""Multiply-adds of one forward pass for one input of ``shape`` (channels, height, width).

    Convolution: :math:`H W C_{out} (C_{in} / g) k_h k_w` of its output (of its input where transposed), linear:
    inputs times outputs; everything else counts nothing, a pruned weight counts like any other. A module that does
    the work of a layer without calling it names that layer ``computes``.
    """
    return sum(multiply_adds_by_layer(model, shape).values())


def multiply_adds_by_layer(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """The same for each convolution and linear layer that runs, by its name."""
    total: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer = getattr(module, "computes", module)
        if isinstance(layer, nn.Linear):
            work = output.numel() * layer.in_features
        else:
            places = inputs[0] if isinstance(layer, transposed) else output
            work = places.numel() // places.shape[1] * layer.weight.numel()
        total[names[module]] = total.get(names[module], 0) + work

    transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    counted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | transposed
    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(getattr(module, "computes", module), counted)
    ]
    modes = {module: module.training for module in model.modules()}
    first = next(model.parameters(), torch.zeros(0))
    try:
        with torch.no_grad():
            running.logits(model.eval(), torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return total


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median of all runs, and the quartiles around it."""

    median: float
    lower: float
    upper: float


def latency_ms(calls: dict[str, Callable[[], object]], *, runs: int = 21) -> dict[str, Latency]:
    """How long each call takes on one thread. The calls take turns, so that a slow spell of the machine hits them all.

    Compare only what one call of this function measured: ratios travel between machines, milliseconds do not.
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
    """Four sizes of one compressed network, in bytes; only the last is that of a file."""

    nonzeros: float
    fixed_codes: float
    code_lengths: float
    file: int


def accountings(model: nn.Module, *, coder: str = "best") -> Accounting:
    """What the literature calls the size of a compressed network, four ways.

    nonzeros: 4 bytes for each parameter that is not zero, places free (han2015learning).
    fixed_codes: weight and gap codes of one length per layer and the codebook (han2016deep, "P+Q").
    code_lengths: the same with the lengths of Huffman's codewords, tables and biases free (han2016deep, "P+Q+H").
    file: the bytes of the file that :mod:`lib.storage` writes with ``coder``, all it takes to load the network.
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
    """One row for each layer with a weight: its name, weights, and how many are kept."""
    return [
        {"layer": name, "weights": layer.weight.numel(), "kept": int(layer.weight.count_nonzero())}
        for name, layer in layers(model)
    ]


def by_stream(model: nn.Module) -> list[dict[str, object]]:
    """One row for each compressed layer: its density, and the bits an entry of each stream takes, coded three ways."""
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
