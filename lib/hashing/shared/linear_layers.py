"""How layers that skip or drop some outputs replace linear layers, draw random numbers, and count their work."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import measure, owners, running, weights


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one input.

    products: of the units that are computed.
    selection: of choosing them: hashing the input, or computing all outputs.
    dense: the products if all units were computed.
    """

    products: int
    selection: int
    dense: int


class SparseLinear(nn.Module):
    """A replacement for a linear layer that uses only some of its units for each input, and counts its work."""

    inputs: int
    outputs: int

    @property
    def work(self) -> Work:
        """The multiply-adds of one input vector."""
        raise NotImplementedError


def work(model: nn.Module, shape: tuple[int, ...]) -> Work:
    """Count the multiply-adds of one forward pass for one input, over all layers of a network.

    model: any network; layers that are not a :class:`SparseLinear` are counted as by :func:`lib.measure.multiply_adds`.
    shape: of one input, without the batch: (channels, height, width).

    Raises ValueError where the model does not take such an input. See :func:`lib.hashing.sparse_layers.select` for an
    example.
    """
    chosen = {name: m for name, m in model.named_modules() if isinstance(m, SparseLinear)}
    first: Tensor = next(model.parameters(), torch.zeros(0))
    image = torch.zeros(1, *shape, device=first.device, dtype=first.dtype)
    with torch.no_grad(), running.evaluating(model), running.captured(model, chosen) as flow:
        running.logits(model, image)
    counted = measure.multiply_adds_by_layer(model, shape)
    inside = {f"{name}.{part}".strip(".") for name, m in chosen.items() for part, _ in m.named_modules()}
    others = sum(count for name, count in counted.items() if name not in inside)
    totals = [others, 0, others]
    for name, output in flow.outputs.items():
        layer, vectors = chosen[name], output.shape[:-1].numel()
        for i, count in enumerate((layer.work.products, layer.work.selection, layer.work.dense)):
            totals[i] += vectors * count
    return Work(*totals)


def uniform(draw: Tensor, shape: tuple[int, ...], *, advance: bool) -> Tensor:
    """Draw uniform numbers in [0, 1) from a layer's own generator.

    draw: a buffer of the layer, (2,) int64: its seed, and the number of draws so far, to which this function adds.
    shape: of the result.
    advance: whether each call draws new numbers, as in training; if False, every call draws the same.

    Returns float32 numbers on the CPU.

    >>> draw = torch.tensor([0, 0])
    >>> once, again = (uniform(draw, (3,), advance=True) for _ in range(2))
    >>> torch.equal(once, again), draw.tolist()
    (False, [0, 2])
    """
    if advance:
        draw += torch.tensor([0, 1], device=draw.device)
    seed, calls = draw.tolist()
    state = np.random.SeedSequence([seed, calls if advance else 0]).generate_state(1, np.uint64)
    return torch.rand(shape, generator=torch.Generator().manual_seed(int(state[0] >> np.uint64(1))))


def replaced(model: nn.Module, names: Sequence[str], make: Callable[[nn.Linear, int], nn.Module]) -> nn.Module:
    """Return a copy of a network in which other layers replace the named linear ones.

    model: any network; it is left as it was.
    names: of plain linear layers, one or more; a name given twice counts once.
    make: returns the new layer, given a layer of the copy and its place among the names.

    Raises ValueError, with the layer's name, for layers of other kinds, shared weights, layers that are read instead
    of called, and what ``make`` refuses.

    >>> replaced(nn.Sequential(nn.Linear(3, 2)), ["0"], lambda layer, number: nn.Linear(3, 4))[0].out_features
    4
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise ValueError("name one linear layer or more")
    changed, shared = copy.deepcopy(model), weights.tied(model)
    for number, name in enumerate(names):
        layer: Any = weights.layer_named(changed, name)
        check_linear(layer, f"layer {name!r}")
        for key in (name, f"{name}.bias".lstrip(".")):
            if key in shared:
                first, second, *_ = shared[key]
                raise ValueError(f"layers {first!r} and {second!r} share one weight: give each its own first")
        for attribute, owner in owners.reads(changed, name).items():
            raise ValueError(f"layer {name!r} cannot be replaced: {owner} reads its {attribute} instead of calling it")
        try:
            made = make(layer, number)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        changed = weights.replace(changed, name, made)
    return changed


def check_linear(layer: nn.Module, name: str) -> None:
    """Raise ValueError unless a layer is a plain ``nn.Linear`` whose weight is not compressed.

    layer: the layer to check.
    name: what the message calls it.

    >>> check_linear(nn.ReLU(), "the layer")
    Traceback (most recent call last):
    ValueError: the layer must be a plain nn.Linear, not ReLU
    """
    if type(layer) is not nn.Linear:
        kind = "one whose weight is compressed" if parametrize.is_parametrized(layer) else type(layer).__name__
        raise ValueError(f"{name} must be a plain nn.Linear, not {kind}")


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed below 0.

    seed: the seed to check.

    >>> check_seed(-1)
    Traceback (most recent call last):
    ValueError: seed must be 0 or more, not -1
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
