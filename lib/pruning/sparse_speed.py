r"""Does a sparse network run faster? The same layer computed dense, by sparse products, and physically smaller.

A layer with the density :math:`\rho = \mathrm{nnz}(W) / \lvert W \rvert` does the share :math:`\rho` of the multiply-
adds if its zeros are left out. Each product runs at its own rate r, so the speed-up over the dense product is

.. math:: \frac{t_{dense}}{t_{sparse}} = \frac{1}{\rho} \cdot \frac{r_{sparse}}{r_{dense}},

so a sparse product pays off below the *break-even density* :math:`\rho^* = r_{sparse} / r_{dense}`. The rates depend on
the shape and on how many inputs share one pass over the weights (han2016deep, its figure of speed-ups and its table of
times by batch size). Sparse products keep the rows compressed (CSR): values, their columns, where each row begins.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from lib import measure, running, structure
from lib.pruning.shared import block_sparse
from lib.weights import layer_named

# Name -> outputs, inputs, share of the weights kept (han2015learning; the last layer of VGG-16 with AlexNet's share).
LINEAR = {
    "AlexNet fc6": (4096, 9216, 0.09),
    "AlexNet fc7": (4096, 4096, 0.09),
    "VGG-16 fc6": (4096, 25088, 0.04),
    "VGG-16 fc7": (4096, 4096, 0.04),
    "fc8 of both": (1000, 4096, 0.25),
}
# Name -> outputs, inputs, side of the kernel, stride, side of the input, share kept (VGG-16: our choice).
CONVOLUTIONS = {
    "AlexNet conv1": (64, 3, 11, 4, 224, 0.84),
    "AlexNet conv2": (192, 64, 5, 1, 27, 0.38),
    "AlexNet conv3": (384, 192, 3, 1, 13, 0.35),
    "AlexNet conv4": (256, 384, 3, 1, 13, 0.37),
    "AlexNet conv5": (256, 256, 3, 1, 13, 0.37),
    "VGG-16 conv5": (512, 512, 3, 1, 14, 0.35),
}


Product = TypeVar("Product", bound=nn.Linear | nn.Conv2d)


def csr(weight: Tensor) -> scipy.sparse.csr_array:
    """Compress the rows of a weight: keep its non-zeros, their columns, and where each row begins.

    weight: of two dimensions or more, float32 or float64, on the CPU; all but the first are flattened into columns.

    Returns the compressed rows, (first dimension, all others), with 32-bit indices.
    Raises ValueError for fewer dimensions, an empty weight, another type or device, and values that are not finite.

        >>> csr(torch.tensor([[0.0, 5.0], [0.0, 0.0]])).nnz
        1
    """
    if weight.dim() < 2 or not weight.numel():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has no rows: two dimensions or more are needed")
    if weight.dtype not in (torch.float32, torch.float64) or weight.device.type != "cpu":
        raise ValueError(
            f"a weight of {weight.dtype} on {weight.device.type} has no sparse product here:"
            " accepted are float32 and float64 on the CPU"
        )
    if not torch.isfinite(torch.stack(weight.detach().aminmax())).all():  # checking each value would copy the weight
        raise ValueError("the weight holds NaN or infinity: finite values are needed")
    rows = weight.detach().flatten(1)
    some = max(1, 2**24 // rows.shape[1])  # torch indexes every entry with 8 bytes, so take some rows at a time
    with _quiet():
        parts = [part.to_sparse_csr() for part in rows.split(some)]  # several times as fast as scipy's own conversion
    values = np.concatenate([part.values().numpy() for part in parts])
    columns = np.concatenate([part.col_indices().numpy().astype(np.int32) for part in parts])
    counts = np.concatenate([np.diff(part.crow_indices().numpy()) for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return scipy.sparse.csr_array((values, columns, starts), shape=tuple(rows.shape))


def _quiet() -> warnings.catch_warnings:
    """Inside the block, torch does not warn that its compressed rows are in beta."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def products(layer: nn.Module, inputs: Tensor, *, blocks: bool = False) -> dict[str, Callable[[], Tensor]]:
    """Prepare three ways to compute ``layer(inputs)``: one dense product and two sparse ones.

    The weight is compressed here, once, so that the calls do nothing but the product. The sparse ways lower a
    convolution: the patches become columns, and one sparse product gives all outputs.

    layer: linear, or a 2-d convolution in one group, with zero padding, given as numbers; float32 or float64, on the
        CPU.
    inputs: (n, features), (n, ..., features), or (n, channels, height, width); n is 1 or more.
    blocks: True gives one sparse way instead of the two, for zeros in blocks: the product of
        :mod:`lib.pruning.shared.block_sparse`, in float32. Default False.

    Returns name -> function without arguments that returns the outputs: "dense", "scipy CSR" and "torch CSR", or
    "dense" and "blocks".
    Raises ValueError for other layers, for inputs of another shape and for no inputs.

        >>> calls = products(nn.Linear(4, 3), torch.rand(2, 4))
        >>> {name: tuple(call().shape) for name, call in calls.items()}
        {'dense': (2, 3), 'scipy CSR': (2, 3), 'torch CSR': (2, 3)}
    """
    plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
    if inputs.dim() < 2 or not inputs.numel():
        raise ValueError(f"there are no inputs: at least one sample is needed, not shape {tuple(inputs.shape)}")
    if plain and isinstance(layer, nn.Linear):
        columns = inputs.detach().flatten(0, -2).T.contiguous()  # (features, n), the layout between sparse layers

        def lower() -> Tensor:
            return columns

        def raise_(product: Tensor) -> Tensor:
            return product.T.reshape(*inputs.shape[:-1], len(product))
    elif plain and isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros":
        if inputs.dim() != 4:
            raise ValueError(f"images must be (n, channels, height, width), not of shape {tuple(inputs.shape)}")
        if isinstance(layer.padding, str):
            raise ValueError(f"padding={layer.padding!r} is not accepted: give the convolution its padding as a number")
        settings = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}

        def lower() -> Tensor:
            patches = nn.functional.unfold(inputs, layer.kernel_size, **settings)  # (n, rows, places)
            return patches[0] if len(patches) == 1 else patches.transpose(0, 1).flatten(1)

        def raise_(product: Tensor) -> Tensor:
            return product.reshape(len(product), shape[0], *shape[2:]).transpose(0, 1)
    else:
        raise ValueError(f"{layer} has no sparse product here: accepted are Linear, and Conv2d with groups=1 and zeros")
    if inputs.dtype != layer.weight.dtype:
        raise ValueError(f"inputs of {inputs.dtype} do not fit a weight of {layer.weight.dtype}: give both one type")
    with torch.no_grad():
        shape = running.logits(layer, inputs).shape
    bias = None if layer.bias is None else layer.bias.detach()[:, None]

    def finished(product: Tensor) -> Tensor:
        return raise_(product if bias is None else product + bias)

    if blocks:
        parts = block_sparse.Blocks(layer.weight.detach().flatten(1))
        return {"dense": lambda: layer(inputs), "blocks": lambda: finished(parts @ lower())}
    # method
    matrix = csr(layer.weight)
    compressed = _torch_csr(matrix)

    def by_scipy() -> Tensor:
        x = lower()
        product = matrix @ (x[:, 0] if x.shape[1] == 1 else x).numpy()
        return finished(torch.from_numpy(product).reshape(-1, x.shape[1]))

    def by_torch() -> Tensor:
        x = lower()  # one column has its own, faster routine
        return finished((compressed @ x[:, 0])[:, None] if x.shape[1] == 1 else compressed @ x)

    # end of method

    return {"dense": lambda: layer(inputs), "scipy CSR": by_scipy, "torch CSR": by_torch}


def _torch_csr(matrix: scipy.sparse.csr_array) -> Tensor:
    starts, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    with _quiet():
        return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape)


@dataclass(frozen=True)
class Race:
    """How long a layer's dense product and the faster sparse one take, and how much work each does.

    dense_ms: median time of the dense product, in milliseconds.
    sparse_ms: median time of the faster sparse product, in milliseconds.
    dense_work: multiply-adds of the dense product for one input.
    sparse_work: multiply-adds of the sparse product for one input.

        >>> Race(dense_ms=4.0, sparse_ms=1.0, dense_work=100, sparse_work=10).ratio
        0.25
    """

    dense_ms: float
    sparse_ms: float
    dense_work: int
    sparse_work: int

    @property
    def ratio(self) -> float:
        """Divide the time of the sparse product by that of the dense one: below 1 the sparse one is faster."""
        return self.sparse_ms / self.dense_ms


def race(layer: nn.Linear | nn.Conv2d, inputs: Tensor, *, runs: int = 21, blocks: bool = False) -> Race:
    """Time the dense product of a layer against the faster one of its sparse :func:`products`.

    They take turns on one thread.

        >>> timed = race(thinned(nn.Linear(8, 6), density=1.0, seed=0), torch.rand(1, 8), runs=20)
        >>> timed.dense_work, timed.sparse_work
        (48, 48)

    layer: linear, or a 2-d convolution in one group, with zero padding, given as numbers; float32 or float64, on the
        CPU.
    inputs: (n, features), (n, ..., features), or (n, channels, height, width); n is 1 or more.
    runs: how often each product is timed, 20 or more; the median counts.
    blocks: True times the product in blocks instead of the two for scattered zeros. Default False.

    Raises ValueError for other layers, for no inputs and for fewer runs.
    Source: han2016deep, which timed the fully connected layers.
    """
    calls: dict[str, Callable[[], object]] = {**products(layer, inputs, blocks=blocks)}
    times = {name: t.median for name, t in measure.latency_ms(calls, runs=runs).items()}
    with torch.no_grad():
        places = layer(inputs[:1]).numel() // len(layer.weight)
    work = places * layer.weight.numel(), places * int(layer.weight.count_nonzero())
    return Race(times.pop("dense"), min(times.values()), *work)


def thinned(layer: Product, *, density: float, seed: int) -> Product:
    """Fill a layer with random weights, each of which is nonzero with probability ``density``.

    In place; returns the layer. Time does not depend on which weights are nonzero, so layers of any network can be
    timed without training it.

    layer: linear, or a 2-d convolution; its bias is left alone.
    density: in (0, 1].
    seed: of the draw; the global random state is left alone.

    Raises ValueError for a density outside (0, 1], and for a layer whose weight is compressed.

        >>> thinned(nn.Linear(5, 4), density=1.0, seed=0).weight.count_nonzero().item()
        20
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(f"the weight of {layer} is computed from other tensors: decompress the layer first")
    generator, size = np.random.default_rng(seed), layer.weight.numel()
    expected = int(size * density + 10 * math.sqrt(size) + 10)
    drawn = np.cumsum(generator.geometric(density, expected)) - 1  # gaps between the successes of independent draws
    places = drawn[drawn < size]
    values = torch.from_numpy(generator.standard_normal(len(places), dtype=np.float32)) / layer.weight[0].numel() ** 0.5
    where = tuple(torch.from_numpy(index) for index in np.unravel_index(places, layer.weight.shape))
    with torch.no_grad():
        layer.weight.zero_()[where] = values.to(layer.weight)  # in place, so that a large layer is not held twice
    return layer


def shrunk(model: nn.Module, example_input: Tensor, *, fraction: float, multiple_of: int = 8) -> nn.Module:
    """Remove the filters of small magnitude from every layer, and return a copy that is really smaller.

    model: any network that can be traced. It is not changed.
    example_input: inputs to trace it with, (n, channels, height, width).
    fraction: share of the filters of each layer to remove, those with the least sum of magnitudes, in [0, 1).
    multiple_of: the number of filters that a layer keeps is rounded to a multiple of this, 8 by default: convolutions
        work on blocks of channels, and an odd number costs as much as the next multiple.

    Raises ValueError for a value that is not accepted and for a model that cannot be traced or has compressed weights.

        >>> from lib import models
        >>> shrunk(models.lenet5(), torch.zeros(1, 1, 28, 28), fraction=0.5).conv2
        Conv2d(8, 24, kernel_size=(5, 5), stride=(1, 1))
    """
    groups = _groups(model, example_input)
    scores = {name: score for group in groups for name, score in _scores(model, group).items()}
    masks = structure.keep(scores, fraction=fraction, groups=groups, multiple_of=multiple_of)
    return structure.shrink(model, masks, example_input)


def shrunk_to(
    model: nn.Module,
    example_input: Tensor,
    *,
    multiply_adds: float,
    multiple_of: int = 8,
    block: int = 16,
    least: float = 0.5,
) -> nn.Module:
    r"""Remove filters of small magnitude where this saves the most time, and return a copy that is really smaller.

    A convolution computes its outputs in blocks of B filters, so c filters take as long as :math:`B \lceil c/B \rceil`.
    With the multiply-adds W counted in this way, the next filters j to go are those of the layer with the largest

    .. math:: \frac{W_{\text{before}} - W_{\text{after}}}{\sum_j v_j},

    where v is a filter's sum of magnitudes, divided by the mean of its layer. A layer keeps a multiple of 8 or of B.

    model: any network that can be traced. It is not changed.
    example_input: inputs to trace it with, (n, channels, height, width).
    multiply_adds: share of the multiply-adds that may be left, in (0, 1].
    multiple_of: a layer that loses filters keeps a multiple of this, never zero; 8 by default.
    block: B, the outputs that a convolution computes at once; 16 by default, as with vectors of 512 bits.
    least: share of its filters that each layer keeps at least, in [0, 1]; 0.5 by default. Very thin layers are slow for
        their work, which the count does not see.

    Raises ValueError for a value that is not accepted, a share that cannot be reached, and for a model that cannot be
    traced or has compressed weights.

        >>> from lib import models
        >>> small = shrunk_to(models.resnet8(), torch.zeros(1, 3, 32, 32), multiply_adds=0.5)
        >>> small.stage3_1.conv1
        Conv2d(16, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    """
    if not 0 < multiply_adds <= 1 or multiple_of < 1 or block < 1 or not 0 <= least <= 1:
        raise ValueError(
            "multiply_adds must be in (0, 1], multiple_of and block 1 or more, and least in [0, 1],"
            f" not {multiply_adds}, {multiple_of}, {block} and {least}"
        )
    groups = _groups(model, example_input)
    scores = [_scores(model, group) for group in groups]
    worth = [_relative(list(score.values())).sort(descending=True).values for score in scores]
    work = _Work(model, example_input, groups)
    kept = [group.channels for group in groups]
    whole = work(kept)
    while work(kept) > multiply_adds * whole:
        # method
        before, options = work(kept, block), []
        for i, n in enumerate(kept):
            for left in _lower(n, math.lcm(multiple_of, groups[i].parts), block):
                if left >= least * groups[i].channels:
                    fewer = [*kept[:i], left, *kept[i + 1 :]]
                    lost = worth[i][left:n].sum().item()
                    options.append(((before - work(fewer, block)) / lost, fewer))
        # end of method
        if not options:
            raise ValueError(
                f"more than {multiply_adds} of the multiply-adds is left where each layer keeps {least} of its filters,"
                f" and {multiple_of} or more: raise multiply_adds, or lower least or multiple_of"
            )
        kept = max(options)[1]
    masks: dict[str, Tensor] = {}
    for group, score, n in zip(groups, scores, kept, strict=True):
        masks |= structure.keep(score, fraction=1 - n / group.channels, groups=[group])
    return structure.shrink(model, masks, example_input)


def _lower(n: int, step: int, block: int) -> set[int]:
    """The next smaller numbers of filters: a multiple of the step, and one that also fills its blocks."""
    multiples = step, math.lcm(step, block)
    return {(n - 1) // multiple * multiple for multiple in multiples} - {0}


class _Work:
    """Counts multiply-adds for given numbers of filters that the groups keep, with outputs in blocks."""

    def __init__(self, model: nn.Module, example_input: Tensor, groups: Sequence[structure.Group]):
        self.groups, self.work = groups, measure.multiply_adds_by_layer(model, tuple(example_input.shape[1:]))
        readers = {name for group in groups for name in (*group.carriers, *group.consumers) if name in self.work}
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in readers}
        self.inputs = {n: m.in_features if isinstance(m, nn.Linear) else m.in_channels for n, m in layers.items()}

    def __call__(self, kept: Sequence[int], block: int = 1) -> float:
        written, read = dict.fromkeys(self.work, 1.0), dict.fromkeys(self.work, 1.0)  # shares that stay
        for group, n in zip(self.groups, kept, strict=True):
            whole = -(-group.channels // block)
            written |= dict.fromkeys(group.producers, -(-n // block) / whole)
            for name, numbers in (group.carriers | group.consumers).items():
                if name in self.inputs:
                    read[name] -= (group.channels - n) * numbers.shape[1] / self.inputs[name]
        return sum(work * written[name] * read[name] for name, work in self.work.items())


def _groups(model: nn.Module, example_input: Tensor) -> list[structure.Group]:
    groups = structure.groups(model, example_input)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no filters that can go: no group of channels may be removed")
    return groups


def _relative(scores: Sequence[Tensor]) -> Tensor:
    """What each channel of tied layers is worth: its mean relative score, 1 for an average channel; never 0."""
    return torch.stack([score / score.mean().clamp(min=1e-30) for score in scores]).mean(0).clamp(min=1e-30)


def _scores(model: nn.Module, group: structure.Group) -> dict[str, Tensor]:
    return {name: _magnitude(layer_named(model, name).weight).flatten(1).sum(1) for name in group.producers}


def _magnitude(weight: Tensor) -> Tensor:
    """In 32 bits or more: sums in half precision would tie."""
    return weight.detach().abs().to(torch.promote_types(weight.dtype, torch.float32))


def break_even(densities: Sequence[float], ratios: Sequence[float]) -> float:
    """Find the density at which the ratio of times, sparse to dense, first reaches 1.

    Between two measured densities the ratio is interpolated linearly in logarithms.

    densities: at which the ratios were measured, positive and rising.
    ratios: one for each density, positive.

    Returns the density. If all ratios lie on one side of 1, it is the density at that end: the break-even is there or
    beyond.
    Raises ValueError for sequences of different lengths, for empty ones and for values that are not accepted.

        >>> round(break_even([0.01, 0.1, 1.0], [0.1, 1.0, 10.0]), 3)
        0.1
    """
    if len(densities) != len(ratios) or not len(densities):
        raise ValueError(f"{len(densities)} densities and {len(ratios)} ratios: as many of both are needed")
    if min(densities) <= 0 or min(ratios) <= 0 or any(a >= b for a, b in pairwise(densities)):
        raise ValueError("densities must be positive and rising, and ratios positive")
    if ratios[0] >= 1:
        return float(densities[0])
    for i in range(1, len(ratios)):
        if ratios[i] >= 1:
            part = math.log(1 / ratios[i - 1]) / math.log(ratios[i] / ratios[i - 1])
            return float(densities[i - 1] * (densities[i] / densities[i - 1]) ** part)
    return float(densities[-1])
