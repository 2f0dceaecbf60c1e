r"""Surgery on the rows of one layer: which weights go, and where the others move.

A row w of a layer's weight reads x, and :math:`H = \frac1N \sum_n x_n x_n^\top + \alpha I` is the same for all rows.
But each row deletes different weights, so from its first deletion on it needs an inverse of its own: a row of n inputs
takes n³ / 3 multiply-adds. As many rows as fit into memory are processed together.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.pruning.shared import selection
from lib.pruning.shared.per_sample import padded

AT_ONCE = 2**24  # numbers held at a time


def columns(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Lay out what each row of a layer's weight is multiplied with; a bias is one more weight, whose input is 1.

    layer: linear, or a 2-d convolution of any padding.
    inputs: (n, ..., features), or (n, channels, height, width).

    Returns (groups, samples · places, inputs [+ 1 for the bias]).

    >>> columns(nn.Conv2d(2, 3, 5, bias=False), torch.rand(4, 2, 7, 7)).shape
    torch.Size([1, 36, 50])
    """
    if isinstance(layer, nn.Linear):
        x = inputs.reshape(1, -1, layer.in_features)
    else:
        x = padded(layer, inputs)
        x = nn.functional.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        x = x.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return x if layer.bias is None else torch.cat([x, torch.ones_like(x[..., :1])], dim=2)


def check(layers: Mapping[str, nn.Linear | nn.Conv2d], shares: Mapping[str, float], at_most: float) -> None:
    """Raise ValueError for a layer that cannot be pruned by rows, or not in reasonable time.

    layers: layer name -> layer.
    shares: layer name -> share of its weights to keep, in (0, 1].
    at_most: multiply-adds that one layer may take.
    """
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        if type(layer).forward not in (nn.Linear.forward, nn.Conv2d.forward):
            raise ValueError(f"layer {name!r}, {type(layer).__name__}, must compute as nn.Linear or nn.Conv2d does")
        if owner.setdefault(id(layer.weight), name) != name:
            raise ValueError(
                f"layers {owner[id(layer.weight)]!r} and {name!r} share one weight: give each its own first"
            )
        rows, inputs = len(layer.weight), layer.weight[0].numel()
        needed = work(rows, inputs, shares[name])
        if needed > at_most:
            raise ValueError(
                f"layer {name!r} of {rows:,} rows and {inputs:,} inputs takes about {needed:.1e} multiply-adds, and at"
                f" most {at_most:.1e} are accepted: name the other layers in density, or raise at_most"
            )


def second_moments(
    model: nn.Module, layers: Mapping[str, nn.Linear | nn.Conv2d], split: Split, batch_size: int
) -> dict[str, Tensor]:
    """Compute the matrix H of each layer over all its uses, without keeping the inputs.

    model: any network; it runs in evaluation mode, and is left as it was.
    layers: layer name -> layer of the model.
    split: samples that show what each layer reads.
    batch_size: samples that run at a time.

    Returns layer name -> (groups, inputs, inputs), float64, without alpha; the input 1 of a bias comes last.
    Raises ValueError for a layer that did not run, a convolution that reads anything but (n, channels, height, width),
    and inputs that are not finite.
    """
    totals: dict[str, Tensor] = {}

    def adder(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[Any, ...], by_name: dict[str, Any], output: Tensor) -> None:
            (x,) = (*inputs, *by_name.values())
            if isinstance(layer, nn.Conv2d) and x.dim() != 4:
                raise ValueError(f"layer {name!r} must read (n, channels, height, width), not {tuple(x.shape)}")
            added = _second_moment(layer, x, output, len(split))
            totals[name] = totals[name].add_(added) if name in totals else added

        return hook

    handles = [layer.register_forward_hook(adder(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with running.evaluating(model), torch.no_grad():
            for images in running.fitted(model, split.images).split(batch_size):
                running.logits(model, images)
    finally:
        for handle in handles:
            handle.remove()
    running.check_ran(layers, totals)
    for name, total in totals.items():
        if not torch.isfinite(total).all():
            raise ValueError(f"what layer {name!r} reads holds NaN or infinity: finite values are needed")
    return totals


def _second_moment(layer: nn.Linear | nn.Conv2d, inputs: Tensor, outputs: Tensor, samples: int) -> Tensor:
    """What one use adds to H: the sum of x xᵀ over its samples and places, divided by the number of all samples."""
    read = inputs if isinstance(layer, nn.Conv2d) else inputs.reshape(-1, layer.in_features)
    row = layer.weight[0].numel() + (layer.bias is not None)
    numbers = row * outputs[0, 0].numel() * layer.groups if isinstance(layer, nn.Conv2d) else row
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    for part in read.split(max(1, AT_ONCE // numbers)):  # 23 MB for one image of 224 pixels
        x = columns(layer, part).double()
        total = total + x.mT @ x / samples
    return total


def work(rows: int, inputs: int, share: float) -> float:
    """Estimate the multiply-adds of :func:`prune` for a layer.

    rows, inputs: shape of its weight.
    share: of the weights that is kept.

    >>> f"{work(512, 4608, 0.5):.1e}"
    '1.9e+13'
    """
    return rows * (inputs**3 + (min(share, 1 - share) * inputs) ** 3) / 3


def prune(
    rows: Tensor, hessian: Tensor, size: int, *, share: float, alpha: float, at_once: float
) -> tuple[Tensor, Tensor]:
    """Choose the weights of a layer that stay, and move them to where its outputs change least.

    rows: (rows, inputs), float64; those of each group of a convolution follow each other.
    hessian: (groups, inputs, inputs), float64, without alpha.
    size: weights of a row that may go; those after them (a bias) stay.
    share: of the layer's weights to keep, in (0, 1].
    alpha: added to the diagonal of H, above 0.
    at_once: share of a row's remaining weights that go in one step, in [0, 1); at least one goes.

    Returns the mask of what is kept, (rows, size), and the new rows.

    >>> mask, rows = prune(torch.tensor([[3.0, 1.0]]), torch.eye(2)[None], 2, share=0.5, alpha=1e-4, at_once=0.0)
    >>> mask.tolist(), rows.round(decimals=3).tolist()
    ([[True, False]], [[3.0, 0.0]])
    """
    hessian = hessian + alpha * torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device)
    inverse = torch.linalg.inv(hessian)
    costs = alpha / 2 * rows[:, :size].square()  # the cost for an input that is always zero: it moves no other weight
    group = len(rows) // len(hessian)
    for g, h in enumerate(hessian):
        live = (h.diagonal() > alpha).nonzero().flatten()
        inner = int((live < size).sum())
        own = inverse[g][live][:, live]
        batch = max(1, AT_ONCE // max(1, len(live) ** 2))
        for at in torch.arange(g * group, (g + 1) * group, device=rows.device).split(batch):
            costs[at[:, None], live[:inner]] = losses(rows[at][:, live], own, inner, at_once)
    mask = selection.largest(costs, share)
    kept = torch.cat([mask, mask.new_ones(len(rows), rows.shape[1] - size)], dim=1)
    parts = []
    for i, (row, keep) in enumerate(zip(rows, kept, strict=True)):
        parts.append(_moved(row, keep, hessian[i // group], inverse[i // group]))
    return mask, torch.stack(parts)


def _moved(row: Tensor, keep: Tensor, hessian: Tensor, inverse: Tensor) -> Tensor:
    """The v, zero outside the mask, that minimizes (v - w)ᵀ H (v - w), by the smaller of two systems."""
    best, gone = torch.zeros_like(row), ~keep
    if 2 * int(keep.sum()) <= len(row):
        best[keep] = torch.linalg.solve(hessian[keep][:, keep], hessian[keep] @ row)
    else:
        side = inverse[:, gone]
        best[keep] = (row - side @ torch.linalg.solve(side[gone], row[gone]))[keep]
    return best


def losses(weights: Tensor, inverse: Tensor, size: int, at_once: float) -> Tensor:
    """Delete all weights of some rows, the cheapest first, and return the loss at which each one goes.

    weights: (rows, inputs).
    inverse: of H, (inputs, inputs), the same for all rows.
    size: weights of a row that go; those after them stay.
    at_once: share of what is left that goes in one step, in [0, 1); at least one goes.

    Returns (rows, size): what a deletion costs when the others move, never less than one before it in its row.

    >>> losses(torch.tensor([[3.0, 1.0, 2.0]]), torch.eye(3), 3, 0.0)
    tensor([[4.5000, 0.5000, 2.0000]])
    """
    n, left = len(weights), size
    alive = torch.arange(weights.shape[1], device=weights.device).expand(n, -1)  # numbers of the columns that are held
    free, inverses = alive < size, inverse.expand(n, -1, -1).clone()
    result, highest = weights.new_zeros(n, size), weights.new_zeros(n, 1)
    while left:
        enough = left - left // 4
        while left and left >= enough:
            costs = torch.where(free, weights.square() / (2 * inverses.diagonal(dim1=1, dim2=2)), torch.inf)
            chosen = costs.argsort(dim=1)[:, : max(1, int(at_once * left))]
            rising = costs.gather(1, chosen).clamp_min(highest)
            result.scatter_(1, alive.gather(1, chosen), rising)
            # as in remove() of Optimal Brain Surgeon
            side = _rows(inverses, chosen)
            corner = side.gather(2, chosen[:, None].expand(-1, chosen.shape[1], -1))
            solved = torch.linalg.solve(corner, torch.cat([weights.gather(1, chosen)[:, :, None], side], dim=2))
            weights = weights - (solved[:, None, :, 0] @ side).squeeze(1)
            inverses.baddbmm_(side.mT, solved[:, :, 1:], alpha=-1)
            free = free.scatter(1, chosen, False)
            highest, left = rising[:, -1:], left - chosen.shape[1]
        # Deleted weights stay in the inverse, as zeros, until they are a quarter of it: removing them costs a copy.
        kept = (free | (alive >= size)).nonzero()[:, 1].view(n, -1)  # the same number in each row
        alive, free, weights = (x.gather(1, kept) for x in (alive, free, weights))
        inverses = _rows(_rows(inverses, kept).mT, kept)
    return result


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Some rows of each matrix of a batch."""
    return x[0][rows[0]][None] if len(x) == 1 else x[torch.arange(len(x), device=x.device)[:, None], rows]
