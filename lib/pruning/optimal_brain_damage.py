r"""Optimal Brain Damage: remove the weights whose loss the second derivatives predict to cost least.

Around a minimum the objective changes, when the weights move by :math:`\delta w`, by

.. math:: \delta E = g^\top \delta w + \tfrac12 \sum_k h_{kk}\, \delta w_k^2 + \tfrac12 \sum_{k \ne l} h_{kl}\,
    \delta w_k \delta w_l + O(\lVert \delta w \rVert^3).

Three approximations (lecun1989obd): the gradient is zero (*extremal*), the cross terms are left out (*diagonal*), and
so is the rest (*quadratic*). To delete weight k is :math:`\delta w_k = -w_k`, which costs its *saliency*

.. math:: s_k = \tfrac12 h_{kk} w_k^2.

:math:`h` is the diagonal of the Gauss-Newton matrix (the paper's Levenberg-Marquardt form: never negative, and for ReLU
the whole second derivative almost everywhere). With the class probabilities :math:`p` and the logits :math:`z`,

.. math:: h_{kk} = \frac1N \sum_{n, c} \Big( \sum_d \frac{\partial z_{nd}}{\partial w_k} S_{dc} \Big)^2, \qquad
    S_{dc} = \sqrt{p_c}\, ([d = c] - p_d), \qquad S S^\top = \operatorname{diag}(p) - p p^\top.

Each class c takes one backward pass that starts with column c of S. In a linear layer it gives
:math:`\sum_n \delta_{ni}^2 x_{nj}^2`, the paper's :math:`\partial^2 E / \partial a_i^2\, x_j^2`. The paper goes down in
one pass, because it also leaves out the cross terms between the neurons of each layer; this diagonal is exact.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning.shared import selection
from lib.weights import decompress, layers


def curvature(model: nn.Module, data: Split, *, batch_size: int = 100) -> dict[str, Tensor]:
    """Layer name -> diagonal of the Gauss-Newton matrix of the mean cross-entropy, of the shape of its weight.

    The network is looked at as it answers (evaluation mode), and is not changed. Memory grows with ``batch_size`` times
    the largest convolution's weight. Raises ValueError on an empty split and on logits that are not finite.
    """
    if len(data) == 0:
        raise ValueError("the split to measure the curvature on is empty: at least one sample is needed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    total = {name: torch.zeros_like(layer.weight) for name, layer in layers(model)}
    if not total:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to prune")
    images = data.images.to(next(model.parameters()).dtype)
    for batch in images.split(batch_size):
        with _uses(model) as uses:
            logits = running.logits(model, batch)
        if not torch.isfinite(logits).all():
            raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
        outputs = [output for _, _, output in uses]
        for column in factor(logits.detach()).unbind(dim=2):
            deltas = torch.autograd.grad(logits, outputs, column, retain_graph=True, allow_unused=True)
            for name, squares in _squares(model, uses, deltas):
                total[name] += squares
    return {name: each / len(data) for name, each in total.items()}


def factor(logits: Tensor) -> Tensor:
    """S of each sample, (n, classes, classes): S Sᵀ is the second derivative of the cross-entropy by the logits."""
    p = logits.softmax(dim=1)
    return (torch.eye(p.shape[1], dtype=p.dtype) - p[:, :, None]) * p.sqrt()[:, None, :]


@contextmanager
def _uses(model: nn.Module) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Inside, each use of a layer leaves (name, input, output) in the list."""
    uses: list[tuple[str, Tensor, Tensor]] = []

    def keeper(name: str):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            uses.append((name, inputs[0].detach(), output))
            return output.clone()  # a ReLU in place behind it must not turn into the layer's output

        return hook

    handles = [layer.register_forward_hook(keeper(name)) for name, layer in layers(model)]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _squares(model: nn.Module, uses: list, deltas: tuple[Tensor | None, ...]) -> Iterator[tuple[str, Tensor]]:
    """For each layer: the squares of each sample's gradient, summed over the samples."""
    for name, layer in layers(model):
        mine = [(x, d) for (used, x, _), d in zip(uses, deltas, strict=True) if used == name and d is not None]
        if len(mine) == 1 and isinstance(layer, nn.Linear) and mine[0][0].dim() == 2:
            inputs, delta = mine[0]
            yield name, delta.square().T @ inputs.square()  # sum over n of δ² x²
        elif mine:  # places of a convolution and repeated uses add up before they are squared
            yield name, sum(_per_sample(layer, inputs, delta) for inputs, delta in mine).square().sum(dim=0)


def _per_sample(layer: nn.Module, inputs: Tensor, deltas: Tensor) -> Tensor:
    """Gradients of the weight for each sample, (n, *weight.shape): each sample gets a weight of its own."""

    def one(weight: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x[None],))[0]

    own = layer.weight.detach().expand(len(inputs), *layer.weight.shape).clone().requires_grad_()
    return torch.autograd.grad(torch.func.vmap(one)(own, inputs), own, deltas)[0]


def saliencies(model: nn.Module, data: Split, *, weight_decay: float = 0.0, batch_size: int = 100) -> dict[str, Tensor]:
    """Layer name -> saliency of each weight, in units of the loss; larger = keep.

    weight_decay: of the objective E + weight_decay / 2 · |w|², at whose minimum the network is; it adds to h.
    """
    h = curvature(model, data, batch_size=batch_size)
    # s_k = h_kk w_k² / 2
    return {name: (h[name] + weight_decay) * layer.weight.detach().square() / 2 for name, layer in layers(model)}


def masks(saliency: Mapping[str, Tensor], *, density: float) -> dict[str, Tensor]:
    """Layer name -> bool mask of the weights to keep: this share of the whole network's, of the largest saliency.

    Saliencies of all layers are in one unit, so that no layer needs a share of its own. A weight of saliency zero is
    never kept. Raises ValueError on a density outside (0, 1] and on saliencies that are not finite.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    flat = torch.cat([each.flatten() for each in saliency.values()])
    if not torch.isfinite(flat).all():
        raise ValueError("the saliencies hold NaN or infinity: finite ones are needed")
    kept = selection.largest(flat, density).split([each.numel() for each in saliency.values()])
    return {name: mask.reshape(each.shape) for (name, each), mask in zip(saliency.items(), kept, strict=True)}


def iterative(
    model: nn.Module, split: Split, *, density: float, rounds: int, epochs: int, seed: int, samples: int, **fit: object
) -> nn.Module:
    """The recipe: compute the saliencies, delete the lowest, retrain, and again until ``density`` is reached.

    Round r of R prunes to density^(r/R) by the saliencies on the first ``samples`` samples, and retrains with the
    arguments ``fit`` of :func:`lib.training.fit`. The pruned weights are zeros of a dense model at the end. In place.
    """
    if not 0 < density <= 1 or rounds < 1:
        raise ValueError(f"density must be in (0, 1] and rounds 1 or more, not {density} and {rounds}")
    for r in range(1, rounds + 1):
        kept = masks(saliencies(model, split.first(samples)), density=density ** (r / rounds))
        magnitude.prune(model, kept=kept)
        training.fit(model, split, epochs=epochs, seed=seed + r, **fit)
    return decompress(model)
