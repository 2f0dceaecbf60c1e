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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning.shared import selection
from lib.training import FitOptions
from lib.weights import Layer, decompress, layers

Uses = list[tuple[str, Tensor, Tensor]]  # layer name, input, output


def curvature(model: nn.Module, split: Split, *, batch_size: int = 100) -> dict[str, Tensor]:
    """Measure the second derivative of the loss by each weight: the diagonal of the Gauss-Newton matrix.

    model: a classifier, which is looked at in evaluation mode and is not changed.
    split: samples over which the cross-entropy is averaged.
    batch_size: samples at a time, 1 or more, default 100; memory grows with it times the weight of the largest
        convolution.

    Returns layer name -> tensor of the shape of the weight, 0 or larger.
    Raises ValueError for an empty split, logits that are not finite and a model that has no layer with a weight.
    Source: lecun1989obd.
    """
    split.check_not_empty("to measure the curvature")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    total = {name: torch.zeros_like(layer.weight) for name, layer in layers(model)}
    if not total:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to prune")
    images = split.images.to(next(model.parameters()).dtype)
    for batch in images.split(batch_size):
        with _uses(model) as uses:
            # method
            logits = running.logits(model, batch)
            # end of method
        if not torch.isfinite(logits).all():
            raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
        outputs = [output for _, _, output in uses]
        # method
        for column in factor(logits.detach()).unbind(dim=2):
            deltas = torch.autograd.grad(logits, outputs, column, retain_graph=True, allow_unused=True)
            for name, squares in _squares(model, uses, deltas):
                total[name] += squares
        # end of method
    return {name: squares / len(split) for name, squares in total.items()}


def factor(logits: Tensor) -> Tensor:
    """Factor the second derivative of the cross-entropy by the logits of each sample into S Sᵀ.

    logits: (n, classes).

    Returns S, (n, classes, classes).

        >>> S = factor(torch.zeros(1, 2))[0]
        >>> [[round(float(entry), 2) for entry in row] for row in S @ S.T]
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    # method
    p = logits.softmax(dim=1)
    return (torch.eye(p.shape[1], dtype=p.dtype) - p[:, :, None]) * p.sqrt()[:, None, :]
    # end of method


@contextmanager
def _uses(model: nn.Module) -> Iterator[Uses]:
    """Inside, each use of a layer leaves (name, input, output) in the list."""
    uses: Uses = []

    def keeper(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            uses.append((name, inputs[0].detach(), output))
            return output.clone()  # a ReLU in place after it must not overwrite the layer's output

        return hook

    handles = [layer.register_forward_hook(keeper(name)) for name, layer in layers(model)]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _squares(model: nn.Module, uses: Uses, deltas: tuple[Tensor | None, ...]) -> Iterator[tuple[str, Tensor]]:
    """For each layer: the squares of each sample's gradient, summed over the samples."""
    for name, layer in layers(model):
        own = [(x, d) for (used, x, _), d in zip(uses, deltas, strict=True) if used == name and d is not None]
        if len(own) == 1 and isinstance(layer, nn.Linear) and own[0][0].dim() == 2:
            inputs, delta = own[0]
            yield name, delta.square().T @ inputs.square()  # sum over n of δ² x²
        elif own:  # places of a convolution and repeated uses add up before they are squared
            gradients = [_per_sample(layer, inputs, delta) for inputs, delta in own]
            yield name, sum(gradients[1:], gradients[0]).square().sum(dim=0)


def _per_sample(layer: Layer, inputs: Tensor, deltas: Tensor) -> Tensor:
    """Gradients of the weight for each sample, (n, *weight.shape): each sample gets a weight of its own."""

    def one(weight: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x[None],))[0]

    own = layer.weight.detach().expand(len(inputs), *layer.weight.shape).clone().requires_grad_()
    return torch.autograd.grad(torch.func.vmap(one)(own, inputs), own, deltas)[0]


def saliencies(
    model: nn.Module, split: Split, *, weight_decay: float = 0.0, batch_size: int = 100
) -> dict[str, Tensor]:
    """Predict how much the loss grows when each weight is deleted, :math:`s_k = h_{kk} w_k^2 / 2`.

    model: a classifier, best at a minimum of its loss. It is not changed.
    split: samples over which the cross-entropy is averaged.
    weight_decay: 0 or larger; that of the objective E + weight_decay / 2 · |w|² at whose minimum the network is. It
        adds to h.
    batch_size: samples at a time, 1 or more, default 100.

    Returns layer name -> saliencies of the shape of the weight, in units of the loss; larger = keep.
    Raises ValueError for an empty split, logits that are not finite and a model that has no layer with a weight.
    Source: lecun1989obd.
    """
    # method
    h = curvature(model, split, batch_size=batch_size)
    # s_k = h_kk w_k² / 2
    return {name: (h[name] + weight_decay) * layer.weight.detach().square() / 2 for name, layer in layers(model)}
    # end of method


def masks(saliency: Mapping[str, Tensor], *, density: float) -> dict[str, Tensor]:
    """Choose the weights to keep: those of the largest saliency in the whole network.

    The saliencies of all layers are in one unit, so no layer needs a share of its own.

    saliency: layer name -> saliencies of the shape of the weight, 0 or larger.
    density: share of all weights to keep, in (0, 1].

    Returns layer name -> bool mask of the shape of the weight, True where it is kept. A weight of saliency zero is
    never kept.
    Raises ValueError for a density outside (0, 1] and for saliencies that are not finite.

        >>> masks({"a": torch.tensor([[5.0, 1.0]]), "b": torch.tensor([[9.0, 0.5]])}, density=0.5)
        {'a': tensor([[ True, False]]), 'b': tensor([[ True, False]])}
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    if not all(torch.isfinite(values).all() for values in saliency.values()):
        raise ValueError("the saliencies hold NaN or infinity: finite ones are needed")
    return selection.largest_together(saliency, density)


def iterative(
    model: nn.Module,
    split: Split,
    *,
    density: float,
    rounds: int,
    epochs: int,
    seed: int,
    samples: int,
    **options: Unpack[FitOptions],
) -> nn.Module:
    """Delete the weights of the lowest saliency, retrain, and repeat until ``density`` is reached.

    In place; returns the model. Round r of R prunes to density^(r/R), then retrains.

        >>> split = Split(torch.rand(20, 4), torch.arange(20) % 3)
        >>> model = iterative(nn.Linear(4, 3), split, density=0.5, rounds=2, epochs=1, seed=0, samples=10)
        >>> magnitude.density(model)
        0.5

    model: a trained classifier. At the end it is dense, and its pruned weights are zeros.
    split: training samples.
    density: share of all weights to keep at the end, in (0, 1].
    rounds: R, 1 or more.
    epochs: to retrain in each round.
    seed: of the order of the samples; round r takes seed + r.
    samples: how many samples, the first of the split, the saliencies are computed on; 1 or more.
    options: how to retrain: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Raises TypeError for other options, and ValueError for a value that is not accepted and an empty split.
    Source: lecun1989obd, its recipe for the whole procedure.
    """
    training.check_options(options)
    split.check_not_empty("to train on")
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    if rounds < 1 or samples < 1:
        raise ValueError(f"rounds and samples must be 1 or more, not {rounds} and {samples}")
    for r in range(1, rounds + 1):
        saliency = saliencies(model, split.first(samples))
        magnitude.apply(model, masks(saliency, density=density ** (r / rounds)))
        training.fit(model, split, epochs=epochs, seed=seed + r, **options)
    return decompress(model)
