r"""The smallest file: prune, round to a grid and code by context, while the network goes on learning.

Each weight is a whole number of steps, most of them zero,

.. math:: W_{ij} = \Delta\, k_{ij}, \qquad k_{ij} = m_{ij} \operatorname{round}(w_{ij} / \Delta),

with the mask m of the survivors, a step :math:`\Delta` for each layer, and a real weight w behind each survivor, which
the gradient moves as if nothing had been rounded. It joins what section 2.4 teaches: prune first (han2016deep), then a
uniform step under an entropy code (choi2017towards), and train on. Units have no order, so the busiest are put first:
the code of :mod:`lib.context_coding` finds the empty part of a matrix more easily.
"""

from itertools import pairwise
from math import ceil

import torch
from torch import Tensor, nn

from lib import training
from lib.datasets import Split
from lib.weights import CompressedWeight, Encoding, compress, decompress, layers

BIAS_STEP = 0.125  # a power of two, so that a file can tell it by an exponent


class GridWeight(CompressedWeight):
    """step * round(weight / step) where a weight was not zero, zero elsewhere; the gradient passes to the survivors.

    step: width of the grid; None for the smallest magnitude in the layer; 0 for no rounding, which cannot be stored.
    """

    def __init__(self, step: float | None = None):
        super().__init__()
        if step is not None and not 0 <= step < float("inf"):
            raise ValueError(f"the step must be a finite number from 0 up, not {step}")
        self.step = step

    def right_inverse(self, weight: Tensor) -> Tensor:
        self.register_buffer("mask", (weight != 0).to(weight.dtype))
        if self.step is None:
            magnitudes = weight.detach().abs()[weight != 0]
            self.step = magnitudes.min().item() if len(magnitudes) else 1.0
        self.step = torch.tensor(self.step, dtype=torch.float32).item()
        return weight.detach() + 0.0

    def levels(self, weight: Tensor) -> Tensor:
        """The whole numbers k."""
        return torch.round(weight.detach() * self.mask / self.step) + 0.0  # adding zero turns -0 into 0

    def forward(self, weight: Tensor) -> Tensor:
        kept = weight * self.mask + 0.0
        return kept if self.step == 0 else self.step * self.levels(weight) + (kept - kept.detach())

    def encode(self, weight: Tensor) -> Encoding:
        if self.step == 0:
            raise ValueError("weights that are not rounded cannot be stored as steps: give a step above 0")
        k = self.levels(weight).long().flatten()
        if k.numel() and k.abs().max() >= 2**15:
            raise ValueError(f"a weight is {int(k.abs().max())} steps from zero: at most {2**15 - 1} are accepted")
        return Encoding({"k": torch.where(k > 0, 2 * k - 1, -2 * k)}, {"d": torch.tensor([self.step])})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        symbols = encoding.symbols["k"]
        magnitude = (symbols + 1) // 2
        k = torch.where(symbols % 2 == 1, magnitude, -magnitude)
        return (encoding.tables["d"] * k.float()).reshape(shape)


def to_steps(model: nn.Module, *, step: float | None = None) -> nn.Module:
    """Store each weight as a number of steps: of ``step`` times the mean magnitude of its layer's survivors, or, with
    None, of the layer's smallest magnitude. In place; returns the model. Biases are left as they are."""
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"the step must be a finite number above 0, not {step}")
    return compress(model, lambda _, layer: GridWeight(None if step is None else step * _mean(layer.weight)))


def _mean(weight: Tensor) -> float:
    found = weight.detach().abs()[weight != 0]
    return found.mean().item() if len(found) else 1.0


def train(
    model: nn.Module,
    split: Split,
    *,
    survivors: int,
    epochs: int,
    seed: int,
    step: float | None = 1.0,
    balance: float = 1.0,
    pruned: float = 0.5,
    rounded: float = 0.7,
    fixed: float = 0.85,
    **how: object,
) -> nn.Module:
    """Train the model until so many weights are left, all of them whole steps; dense again, in place.

    Before each epoch of the share ``pruned`` of all epochs the smallest weights go, on a cubic schedule; a weight
    counts in units of its layer's root mean square to the power ``balance`` (0: as it is). From the share ``rounded``
    on weights are ``step`` times their layer's mean magnitude (None: never), from ``fixed`` on biases are multiples of
    1/8 and rest. ``how``: see :func:`lib.training.fit`. Raises ValueError unless 0 < pruned <= rounded <= fixed <= 1
    and survivors >= 1.
    """
    if not (0 < pruned <= rounded <= fixed <= 1 and survivors >= 1):
        raise ValueError(
            f"accepted are 0 < pruned <= rounded <= fixed <= 1 and 1 survivor or more, not {pruned}, {rounded},"
            f" {fixed} and {survivors}"
        )
    compress(model, lambda *_: GridWeight(0))
    chains = [layer.parametrizations.weight for _, layer in layers(model)]
    biases = [layer.bias for _, layer in layers(model) if layer.bias is not None]
    total = sum(chain.original.numel() for chain in chains)

    first_rounded, first_fixed = (min(ceil(share * epochs), epochs - 1) for share in (rounded, fixed))

    def prepare(epoch: int) -> None:
        if epoch <= first_rounded or step is None:
            # n_t = n + (N - n) (1 - t)^3
            left = max(0.0, 1 - (epoch + 1) / (pruned * epochs))
            _prune(chains, min(total, round(survivors + (total - survivors) * left**3)), balance)
        if epoch == first_rounded and step is not None:
            for chain in chains:
                chain[0].step = torch.tensor(step * _mean(chain.original * chain[0].mask)).item()
        if epoch == first_fixed and step is not None:
            for bias in biases:
                bias.data = BIAS_STEP * torch.round(bias.data / BIAS_STEP) + 0.0
                bias.requires_grad_(False)

    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=prepare, **how)
    for bias in biases:
        bias.requires_grad_(True)
    return decompress(model)


@torch.no_grad()
def _prune(chains: list, keep: int, balance: float) -> None:
    """Keep the ``keep`` survivors that are largest in units of their layer's root mean square to a power."""
    sizes = []
    for chain in chains:
        size = (chain.original * chain[0].mask).abs()
        sizes.append(size / size[size > 0].square().mean().sqrt().clamp_min(1e-30) ** balance)
    every = torch.cat([size.flatten() for size in sizes])
    least = every.topk(min(keep, len(every))).values[-1]
    for chain, size in zip(chains, sizes, strict=True):
        chain[0].mask.copy_((size >= least) & (size > 0))


@torch.no_grad()
def busiest_first(model: nn.Module, chain: list[str]) -> nn.Module:
    """Reorder the units between each two layers of ``chain``: those with most weights that are not zero come first.

    The network computes what it did. Each layer must feed only the next (through activations, pooling, flattening).
    In place; returns the model. Raises ValueError where two layers do not fit.
    """
    found = [model.get_submodule(name) for name in chain]
    for name, first, second in zip(chain, found, found[1:], strict=False):
        if second.weight.shape[1] % first.weight.shape[0]:
            raise ValueError(f"the {first.weight.shape[0]} units of {name!r} do not divide what the next layer reads")
    for first, second in pairwise(found):
        reads = second.weight.reshape(len(second.weight), len(first.weight), -1)
        busy = first.weight.flatten(1).count_nonzero(1) + reads.flatten(2).count_nonzero(2).sum(0)
        order = busy.argsort(descending=True, stable=True)
        second.weight.data = reads[:, order].reshape(second.weight.shape)
        first.weight.data = first.weight[order].clone()
        if first.bias is not None:
            first.bias.data = first.bias[order].clone()
    return model


@torch.no_grad()
def embed(small: nn.Module, large: nn.Module) -> nn.Module:
    """Put a network with fewer units into one of the same layers with more: the first units of each layer, the others
    zero. In place in ``large``, which is returned. Raises ValueError where a layer of ``small`` does not fit."""
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
