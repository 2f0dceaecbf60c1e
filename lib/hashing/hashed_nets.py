r"""HashedNets: the weights of a layer share K values, and a hash says which, so only the values and a seed are stored.

The layer computes with the virtual n x m matrix

.. math:: V_{ij} = \xi(i, j)\, w_{h(i, j)}, \qquad K = \lceil c\, n m \rceil ,

whose buckets :math:`h(i, j)` and signs :math:`\xi(i, j)` are hashes of the place (i, j) (chen2015compressing, section
4). An output is thus the product of w with hashed inputs, :math:`w^\top \phi_i(x)`, see
:mod:`lib.hashing.feature_hashing`. A value is trained by the sum of the gradients of all its weights. The layer
multiplies as often as the dense one and looks its weights up besides, so what is saved is storage, not time.
A trained network runs faster once :func:`lib.hashing.shared.hashed_layers.convert` has converted it.

With signs the weights of a bucket are equal up to the sign; without them they are the same. Left out of the paper's
procedure: biases that share values as well (here each stays as it is), dropout, and the search for hyper-parameters.

The paper's rivals of the same size are random edge removal (:func:`remove_edges`) and a smaller dense network
(:func:`equal_width`).
"""

import bisect
import math
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import weights
from lib.arguments import check_one_of
from lib.hashing.shared import lookup, mixing
from lib.weights import CompressedWeight, Encoding, Layer, PackedWeight

STARTS = ("draw", "project")
WORDS = 4  # of 16 bits, in which a file holds the seed: float32 values are exact up to 24 bits


class HashedWeight(CompressedWeight):
    """K values that a hash deals to the weights. Stored, and trained if the network is: the values.

    What the hash says is in memory, 4 bytes for each weight, but in no file and no ``state_dict``: both hold the seed.

    buckets: K, from 1 to the number of weights.
    seed: of the layer's hash, from 0 to 2^63 - 1.
    signed: whether half of the weights are minus the value of their bucket. Default True.
    start: "draw" (default) draws the values, "project" takes those nearest to the weights that are there.
    """

    hash: Tensor
    codes: Tensor
    shape: torch.Size

    def __init__(self, buckets: int, *, seed: int, signed: bool = True, start: str = "draw") -> None:
        super().__init__()
        lookup.check_buckets(buckets)
        mixing.check_seed(seed)
        check_one_of("start", start, STARTS)
        self.buckets, self.start = buckets, start
        self.register_buffer("hash", torch.tensor([seed, int(signed)]))
        self.register_load_state_dict_post_hook(_rehash)

    # method
    @staticmethod
    def places(count: int, buckets: int, seed: int, signed: bool) -> Tensor:
        """Give each weight the code of its value, (count,)."""
        return lookup.codes(count, buckets, seed, signed=signed)

    def forward(self, values: Tensor) -> Tensor:
        return lookup.expanded(values, self.codes).reshape(self.shape)

    # end of method

    def right_inverse(self, weight: Tensor) -> Tensor:
        if self.buckets > weight.numel():
            raise ValueError(f"{self.buckets} buckets for {weight.numel()} weights: accepted is one for each at most")
        self.shape = weight.shape
        seed, signed = self.hash.tolist()
        codes = self.places(weight.numel(), self.buckets, seed, bool(signed)).to(weight.device)
        self.register_buffer("codes", codes, persistent=False)
        self.hash = self.hash.to(weight.device)
        return self.initial(weight.detach()).to(weight)

    def initial(self, weight: Tensor) -> Tensor:
        """Return the values to begin with, (K,) floats.

        weight: dense.
        """
        if self.start == "draw":  # U(-1 / sqrt(fan in), 1 / sqrt(fan in)), as in a dense layer
            generator = torch.Generator().manual_seed(int(self.hash[0]))
            drawn = torch.rand(self.buckets, generator=generator, dtype=torch.float64)
            return (2 * drawn - 1) / math.sqrt(weight[0].numel())
        # the means of xi(i, j) W_ij, which lose the least squared error
        loads = torch.bincount(self.codes // 2, minlength=self.buckets)
        return lookup.collected(weight.flatten().double(), self.codes, self.buckets) / loads.clamp(min=1)

    def encode(self, values: Tensor) -> Encoding:
        seed, signed = self.hash.tolist()
        words = [seed >> 16 * word & 0xFFFF for word in range(WORDS)]
        return Encoding(tables={"value": values, "hash": torch.tensor([float(signed), *map(float, words)])})

    @classmethod
    def decode(cls, encoding: Encoding, shape: torch.Size) -> Tensor:
        signed, *words = encoding.whole("hash", 1 + WORDS)
        if signed not in (0, 1) or not all(0 <= word < 2**16 for word in words):
            raise ValueError(f"its hash is {signed}, {words}: accepted are 0 or 1, and {WORDS} words of 16 bits")
        seed, values = sum(word << 16 * place for place, word in enumerate(words)), encoding.tables["value"]
        return lookup.expanded(values, cls.places(shape.numel(), len(values), seed, bool(signed))).reshape(shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {"value": shape.numel(), "hash": 1 + WORDS}


def _rehash(form: Any, _: object) -> None:
    """After a ``state_dict`` was loaded: its seed may be another one."""
    seed, signed = form.hash.tolist()
    form.codes.copy_(form.places(len(form.codes), form.buckets, seed, bool(signed)))


class RemainingEdges(HashedWeight):
    """K weights at places that a hash chooses; all others are zero. Stored, and trained if the network is: these K."""

    @staticmethod
    def places(count: int, buckets: int, seed: int, signed: bool) -> Tensor:
        """Give the weights with the K smallest hashes a value of their own, and the others none."""
        lookup.check_buckets(buckets)
        hashes = mixing.splitmix64(np.arange(count), seed)
        codes = torch.full((count,), 2 * buckets, dtype=torch.int32)
        codes[np.sort(np.argpartition(hashes, buckets - 1)[:buckets])] = 2 * torch.arange(buckets, dtype=torch.int32)
        return codes

    def initial(self, weight: Tensor) -> Tensor:
        """Return the survivors, divided by sqrt(c), so that an output varies as much as before the removal."""
        kept = lookup.collected(weight.flatten().double(), self.codes, self.buckets)
        return kept * math.sqrt(weight.numel() / self.buckets)


def compress(
    model: nn.Module,
    *,
    fraction: float = 1 / 64,
    buckets: Mapping[str, int] | None = None,
    layers: Collection[str] | None = None,
    seed: int = 0,
    signed: bool = True,
    start: str = "draw",
) -> nn.Module:
    r"""Let the weights of each layer share values, as a hash deals them. In place; returns the model.

    Each layer has its own hash, whose seed follows from ``seed`` and the layer's place in the network, whichever other
    layers are chosen. The network is meant to be trained afterwards, by :func:`lib.training.fit` or otherwise: with a
    lower learning rate than the dense one, since the gradient of a value is a sum over 1 / c weights. That function
    has no weight decay for the values, since they have one dimension.

    model: any network, dense. Biases stay as they are.
    fraction: c, the values for each weight, in (0, 1], default 1/64: a layer has ceil(c n m) of them.
    buckets: layer name -> K, from 1 to the number of its weights, for layers in which ``fraction`` does not count.
        Default: none.
    layers: names of those to compress, default all that :func:`lib.weights.layers` lists.
    seed: of all hashes and draws, from 0 to 2^63 - 1, default 0.
    signed: whether half of the weights are minus the value of their bucket. Default True.
    start: the values before training. "draw" (default): from U(-1/sqrt(m), 1/sqrt(m)), with m weights for each output,
        whatever the weights were. "project": the mean of :math:`\xi(i, j) W_{ij}` in each bucket, with the least
        squared error; a bucket without weights gets 0.

    Raises ValueError, before anything is changed, for values that are not accepted, an unknown layer, one that is
    compressed already, an embedding with a row of padding, and what :func:`lib.weights.compress` refuses, such as
    weights that are not finite (chen2015compressing, section 4).

    >>> from lib import models
    >>> model = compress(models.lenet_300_100(), layers=["fc1", "fc2"], buckets={"fc2": 50})
    >>> [len(layer.weight.abs().unique()) for layer in (model.fc1, model.fc2)]  # 235,200 / 64 = 3,675
    [3675, 50]
    """
    check_one_of("start", start, STARTS)
    chosen = _buckets(model, fraction, buckets or {}, layers)
    seeds = _seeds(model, seed)

    def form(name: str, layer: Layer | PackedWeight) -> HashedWeight | None:
        if name not in chosen:
            return None
        return HashedWeight(chosen[name], seed=seeds[name], signed=signed, start=start)

    return weights.compress(model, form)


def _seeds(model: nn.Module, seed: int) -> dict[str, int]:
    """Layer name -> the seed of its hash."""
    return {name: mixing.derived(seed, place) for place, (name, _) in enumerate(weights.layers(model))}


def _buckets(
    model: nn.Module, fraction: float, given: Mapping[str, int], names: Collection[str] | None
) -> dict[str, int]:
    """Layer name -> K, for each layer to compress."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], not {fraction}")
    found = dict(weights.layers(model))
    for name in [*(names or ()), *given]:
        weights.weight_named(model, name)
    chosen = list(found) if names is None else list(names)
    if not chosen and names is not None:
        raise ValueError(f"layers is empty: name at least one of {', '.join(found)}")
    for name, count in given.items():
        if name not in chosen:
            raise ValueError(f"buckets are given for layer {name!r}, which is not one of layers: {', '.join(chosen)}")
        most = found[name].weight.numel()
        if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= most:
            raise ValueError(f"the buckets of layer {name!r} must be a whole number in 1..{most}, not {count}")
    for name in chosen:
        _check(name, found[name])
    # Rounded first, since 0.07 * 100 is a little above 7.
    counts = {name: max(1, math.ceil(round(fraction * found[name].weight.numel(), 6))) for name in chosen}
    return counts | dict(given)


def _check(name: str, layer: Layer | PackedWeight) -> None:
    if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
        raise ValueError(f"layer {name!r} is an embedding with a row of padding, which must not share values")
    try:
        stored = weights.compressed_form(layer)
    except ValueError:
        return  # weights.compress says what is wrong
    if stored is not None:
        raise ValueError(
            f"layer {name!r} is compressed already, as {type(stored[0]).__name__}: decompress it first, or leave it out"
        )


def remove_edges(
    model: nn.Module, *, fraction: float = 1 / 64, layers: Collection[str] | None = None, seed: int = 0
) -> nn.Module:
    """Remove random edges: the rival of HashedNets that stores as many values. In place; returns the model.

    Each layer keeps ceil(c n m) of its weights, at places that follow from the seed, and is trained with those
    (chen2015compressing, section 6). They are divided by sqrt(c), so that an output varies as much as before.

    model: any network, dense, with the weights that its training is to begin with. Biases stay as they are.
    fraction: c, the share of weights to keep, in (0, 1], default 1/64.
    layers: names of those to compress, default all that :func:`lib.weights.layers` lists.
    seed: of all places, from 0 to 2^63 - 1, default 0.

    Raises ValueError for what :func:`compress` refuses.

    >>> from lib import models
    >>> [int(layer.weight.count_nonzero()) for _, layer in weights.layers(remove_edges(models.lenet_300_100()))]
    [3675, 469, 16]
    """
    chosen = _buckets(model, fraction, {}, layers)
    seeds = _seeds(model, seed)

    def form(name: str, layer: Layer | PackedWeight) -> RemainingEdges | None:
        return RemainingEdges(chosen[name], seed=seeds[name]) if name in chosen else None

    return weights.compress(model, form)


def equal_width(values: int, *, inputs: int, outputs: int, hidden_layers: int = 1) -> int:
    """Compute the width of the dense rival: the widest network with at most so many weights and biases.

    values: that may be stored, those of biases included.
    inputs: values per sample, 1 or more.
    outputs: classes, 1 or more.
    hidden_layers: layers between them, all of the width that is asked for, 1 or more. Default 1.

    Returns the units of a hidden layer. Raises ValueError where not even one unit fits, and for sizes below 1.

    >>> equal_width(13_417, inputs=784, outputs=10)  # as many as 784-1000-10 at 1/64, with 1,010 biases
    16
    """
    if min(inputs, outputs, hidden_layers) < 1:
        raise ValueError(
            f"inputs, outputs and hidden_layers must be 1 or more, not {inputs}, {outputs} and {hidden_layers}"
        )

    def size(width: int) -> int:
        return (inputs + 1) * width + (hidden_layers - 1) * (width + 1) * width + (width + 1) * outputs

    if size(1) > values:
        raise ValueError(f"{values} values are too few: a network of one unit a layer has {size(1)}")
    return bisect.bisect_right(range(values), values, key=size) - 1
