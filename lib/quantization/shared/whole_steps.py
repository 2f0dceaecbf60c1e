r"""The smallest file: prune while training, round to whole steps, train on, and code by context.

Each weight is a whole number of steps, most of them zero,

.. math:: W_{ij} = \Delta\, k_{ij}, \qquad k_{ij} = m_{ij} \operatorname{round}(w_{ij} / \Delta),

with the mask m of the survivors, a step :math:`\Delta` for each layer, and a real weight w for each survivor, which the
gradient moves as if nothing had been rounded. This combines what section 2.4 of the survey teaches: prune first
(han2016deep), use a uniform step with an entropy code (choi2017towards), and train on. The order of units is free, so
the busiest are put first: the code of :mod:`lib.coding.context` then finds the empty part of a matrix more easily.
That code also spends fewer bits on a survivor among others, so pruning takes into account what a survivor costs in the
file (:mod:`lib.quantization.shared.rate`), as a rate term in the loss would (oktay2020scalable).
"""

from itertools import pairwise
from math import ceil, isnan, nan
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.datasets import Split
from lib.quantization.shared.rate import survivor_bits
from lib.training import FitOptions
from lib.weights import (
    CompressedWeight,
    Encoding,
    Layer,
    PackedWeight,
    chain_of,
    compress,
    decompress,
    layer_named,
    layers,
)

BIAS_STEP = 0.125  # a power of two, so that a file can store it as an exponent


class GridWeight(CompressedWeight):
    """step * round(weight / step) where a weight was not zero, zero elsewhere. The gradient passes to the survivors.

    The parameter is the weights before they are rounded.

    step: width of the grid, a float32; None takes the smallest magnitude in the layer; 0 rounds nothing, and cannot be
        stored.

    Raises ValueError for any other step, and later if the smallest magnitude is too small to be a step.
    """

    mask: Tensor

    def __init__(self, step: float | None = None) -> None:
        super().__init__()
        self.step = nan if step is None else _float32(step) if step else 0.0  # NaN until it is taken from a weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        self.register_buffer("mask", (weight != 0).to(weight.dtype))
        if isnan(self.step):
            self.step = _float32(_smallest(weight))
        return weight.detach() + 0.0

    # method
    def levels(self, weight: Tensor) -> Tensor:
        """Return the whole numbers k."""
        return torch.round(weight.detach() * self.mask / self.step) + 0.0  # adding zero turns -0 into 0

    def forward(self, weight: Tensor) -> Tensor:
        kept = weight * self.mask + 0.0
        return kept if self.step == 0 else self.step * self.levels(weight) + (kept - kept.detach())

    # end of method

    def encode(self, weight: Tensor) -> Encoding:
        if self.step == 0:
            raise ValueError("weights that are not rounded cannot be stored as steps: give a step above 0")
        levels = self.levels(weight).flatten()
        most = levels.abs().max().item() if levels.numel() else 0.0
        if not most < 2**15:  # checked before they become integers, which end at 2^63
            raise ValueError(f"a weight is {most:.0f} steps from zero: at most {2**15 - 1} are accepted")
        k = levels.long()
        return Encoding({"k": torch.where(k > 0, 2 * k - 1, -2 * k)}, {"d": torch.tensor([self.step])})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        symbols = encoding.symbols["k"]
        magnitude = (symbols + 1) // 2
        k = torch.where(symbols % 2 == 1, magnitude, -magnitude)
        return (encoding.tables["d"] * k.float()).reshape(shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"k": shape.numel()}, {"d": 1}


def to_steps(model: nn.Module, *, step: float | None = None) -> nn.Module:
    """Store each weight as a whole number of steps. In place.

    model: any network, dense or pruned; biases are left alone.
    step: width of a step, in units of the mean magnitude of the layer's survivors; None takes the layer's smallest
        magnitude, which recovers the grid of a network that is already on one.

    Returns the model. Raises ValueError for a step that is not finite or not above 0, and if float32 cannot hold a
    layer's step; the model is then unchanged.

    >>> layer = nn.Linear(2, 1)
    >>> layer.weight.data = torch.tensor([[0.9, -3.1]])
    >>> to_steps(layer, step=0.5).weight.tolist()  # steps of 1, half the mean magnitude
    [[1.0, -3.0]]
    """
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step must be a finite number above 0, not {step}")

    def form(name: str, layer: Layer | PackedWeight) -> GridWeight:
        return GridWeight(_width(name, layer, step))

    return compress(model, form)


def _width(name: str, layer: Layer | PackedWeight, step: float | None) -> float:
    """The width of a layer's steps; ValueError, which names the layer, if there can be none."""
    try:
        width = _float32(_smallest(layer.weight) if step is None else step * _mean(layer.weight))
    except ValueError as error:
        raise ValueError(f"layer {name!r} cannot have such steps: {error}") from error
    if (layer.weight.detach().abs() / width).isinf().any():
        raise ValueError(
            f"layer {name!r} cannot have such steps: a weight is too many steps of {width:g} from zero to count"
        )
    return width


def _float32(step: float) -> float:
    """The step as a float32, as a file holds it; ValueError unless it is finite and above 0."""
    rounded = torch.tensor(step, dtype=torch.float32).item()
    if not 0 < rounded < float("inf"):
        raise ValueError(f"step must be a finite number above 0 in float32, not {step}")
    return rounded


def _smallest(weight: Tensor) -> float:
    magnitudes = weight.detach().abs()[weight != 0]
    return magnitudes.min().item() if len(magnitudes) else 1.0


def _mean(weight: Tensor) -> float:
    magnitudes = weight.detach().abs()[weight != 0]
    return magnitudes.mean().item() if len(magnitudes) else 1.0


def train(
    model: nn.Module,
    split: Split,
    *,
    survivors: int,
    epochs: int,
    seed: int,
    step: float | None = 1.0,
    balance: float = 1.0,
    rate: float = 0.0,
    pruned: float = 0.5,
    rounded: float = 0.7,
    fixed: float = 0.85,
    **options: Unpack[FitOptions],
) -> nn.Module:
    """Prune a network to a given number of weights while it trains, round them to whole steps and train on. In place.

    Before each epoch of the first part, a cubic schedule prunes the weights with the smallest

    .. math:: |w| \, \mathrm{rms}^{-\mathrm{balance}} \, (r / \bar r)^{-\mathrm{rate}},

    where rms is the root mean square of the layer's survivors, r the number of bits that the weight takes in the file,
    as :func:`~lib.quantization.shared.rate.survivor_bits` estimates it from the other survivors, and :math:`\bar r` its
    mean over the layer's survivors, which keeps a layer from losing more than others just because it is small. Then
    weights are rounded. At the end, biases become multiples of 1/8 and are no longer trained.

    model: any network; it is returned dense again.
    split: samples to train on, one or more.
    survivors: weights that are left in all layers together, 1 or more.
    epochs: passes over the split, 1 or more.
    seed: of the order of the samples.
    step: width of a step, in units of the mean magnitude of the layer's survivors; None never rounds.
    balance: 0 compares weights as they are, 1 relative to their layer's.
    rate: 0 (default) ignores the bits. If removing a weight costs its square, 1/2 loses least at any file size; larger
        values rely on training to make up for more.
    pruned: share of the epochs in which weights are pruned.
    rounded: share of the epochs after which weights are rounded.
    fixed: share of the epochs after which biases are fixed.
    options: of :func:`lib.training.fit`, by name.

    Returns the model.
    Raises TypeError for an unknown option. Raises ValueError unless 0 < pruned <= rounded <= fixed <= 1, for survivors
    or epochs below 1, a step that is not finite and above 0 (in each layer's float32, too), a balance or a rate that is
    not finite or below 0, and an empty split. The model is then unchanged.

    >>> from torch import rand, tensor
    >>> split = Split(rand(4, 6), tensor([0, 1, 2, 3]))
    >>> layer = train(nn.Linear(6, 4), split, survivors=10, epochs=4, seed=0)
    >>> layer.weight.count_nonzero().item() <= 10
    True
    """
    training.check_options(options)
    split.check_not_empty("to train on")
    if not 0 < pruned <= rounded <= fixed <= 1:
        raise ValueError(f"the shares must be 0 < pruned <= rounded <= fixed <= 1, not {pruned}, {rounded} and {fixed}")
    if survivors < 1 or epochs < 1:
        raise ValueError(f"survivors and epochs must be 1 or more, not {survivors} and {epochs}")
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step must be a finite number above 0, not {step}")
    for name, value in (("balance", balance), ("rate", rate)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of 0 or more, not {value}")
    for name, layer in layers(model) if step is not None else ():
        _width(name, layer, step)
    compress(model, lambda *_: GridWeight(0))
    chains = [chain_of(layer) for _, layer in layers(model)]
    biases = [layer.bias for _, layer in layers(model) if layer.bias is not None]
    total = sum(chain.original.numel() for chain in chains)
    picture = tuple(split.images.shape[1:])

    first_rounded, first_fixed = (min(ceil(share * epochs), epochs - 1) for share in (rounded, fixed))

    # method
    def prepare(epoch: int) -> None:
        if epoch <= first_rounded or step is None:
            # n_t = n + (N - n) (1 - t)^3
            left = max(0.0, 1 - (epoch + 1) / (pruned * epochs))
            _prune(chains, min(total, round(survivors + (total - survivors) * left**3)), balance, rate, picture)
        if epoch == first_rounded and step is not None:
            for chain in chains:
                chain[0].step = _float32(step * _mean(chain.original * chain[0].mask))
        if epoch == first_fixed and step is not None:
            for bias in biases:
                bias.data = BIAS_STEP * torch.round(bias.data / BIAS_STEP) + 0.0
                bias.requires_grad_(False)

    # end of method

    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=prepare, **options)
    for bias in biases:
        bias.requires_grad_(True)
    return decompress(model)


@torch.no_grad()
def _prune(chains: list[Any], keep: int, balance: float, rate: float, picture: tuple[int, ...]) -> None:
    """Keep the ``keep`` survivors that are largest for the bits they take, relative to their layer."""
    sizes = []
    for chain in chains:
        mask = chain[0].mask
        size = (chain.original * mask).abs()
        size = size / size[size > 0].square().mean().sqrt().clamp_min(1e-30) ** balance
        if rate and mask.any():
            bits = survivor_bits(mask, picture)
            size = size / (bits / bits[mask > 0].mean()) ** rate
        sizes.append(size)
    every = torch.cat([size.flatten() for size in sizes])
    least = every.topk(min(keep, len(every))).values[-1]
    for chain, size in zip(chains, sizes, strict=True):
        chain[0].mask.copy_((size >= least) & (size > 0))


@torch.no_grad()
def busiest_first(model: nn.Module, chain: list[str]) -> nn.Module:
    """Reorder the units between layers so that those with most non-zero weights come first. In place.

    The network computes the same as before.

    model: any network.
    chain: names of its layers in order; each must feed only the next, through activations, pooling or flattening.

    Returns the model. Raises ValueError for an unknown layer, and if two layers do not fit.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> busiest_first(model, ["0", "1"])[0].weight.tolist()
    [[2.0, 3.0], [0.0, 1.0]]
    """
    following = [layer_named(model, name) for name in chain]
    for name, (first, second) in zip(chain, pairwise(following), strict=False):
        if second.weight.shape[1] % first.weight.shape[0]:
            raise ValueError(f"the {first.weight.shape[0]} units of {name!r} do not divide the next layer's inputs")
    # method
    for first, second in pairwise(following):
        reads = second.weight.reshape(len(second.weight), len(first.weight), -1)
        busy = first.weight.flatten(1).count_nonzero(1) + reads.flatten(2).count_nonzero(2).sum(0)
        order = busy.argsort(descending=True, stable=True)
        second.weight.data = reads[:, order].reshape(second.weight.shape)
        first.weight.data = first.weight[order].clone()
        if first.bias is not None:
            first.bias.data = first.bias[order].clone()
    # end of method
    return model


@torch.no_grad()
def embed(small: nn.Module, large: nn.Module) -> nn.Module:
    """Put a network into the first units of a larger one with the same layers; all other units become zero.

    small: the network to put in; left unchanged.
    large: the network that is overwritten, in place.

    Returns ``large``. Raises ValueError if a layer of ``small`` is missing in ``large`` or does not fit.

    >>> embed(nn.Linear(1, 1, bias=False), nn.Linear(2, 2, bias=False)).weight.count_nonzero().item()
    1
    """
    into = dict(layers(large))
    for name, layer in layers(small):
        if name not in into or any(a > b for a, b in zip(layer.weight.shape, into[name].weight.shape, strict=True)):
            raise ValueError(f"the layer {name!r} of shape {tuple(layer.weight.shape)} does not fit the larger network")
    decompress(large)
    for name, layer in layers(small):
        target = into[name]
        corner = tuple(slice(n) for n in layer.weight.shape)
        target.weight.data = torch.zeros_like(target.weight)
        target.weight[corner] = layer.weight
        if target.bias is not None:
            target.bias.data = torch.zeros_like(target.bias)
            if layer.bias is not None:
                target.bias[: len(layer.bias)] = layer.bias
    return large
