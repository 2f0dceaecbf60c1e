r"""Optimal Brain Damage: remove the weights that cost least, as the second derivatives predict.

Around a minimum the objective changes, when the weights move by :math:`\delta w`, by

.. math:: \delta E = g^\top \delta w + \tfrac12 \sum_k h_{kk}\, \delta w_k^2 + \tfrac12 \sum_{k \ne l} h_{kl}\,
    \delta w_k \delta w_l + O(\lVert \delta w \rVert^3).

Three approximations (lecun1989obd): the gradient is zero (*extremal*), the cross terms are left out (*diagonal*), and
so is the rest (*quadratic*). Deleting weight k means :math:`\delta w_k = -w_k`, which costs its *saliency*

.. math:: s_k = \tfrac12 h_{kk} w_k^2.

:math:`h` is the diagonal of the Gauss-Newton matrix (the paper's Levenberg-Marquardt form: never negative, and for ReLU
the whole second derivative almost everywhere). With the class probabilities :math:`p` and the logits :math:`z`,

.. math:: h_{kk} = \frac1N \sum_{n, c} \Big( \sum_d \frac{\partial z_{nd}}{\partial w_k} S_{dc} \Big)^2, \qquad
    S_{dc} = \sqrt{p_c}\, ([d = c] - p_d), \qquad S S^\top = \operatorname{diag}(p) - p p^\top.

Each class c takes one backward pass that starts with column c of S. In a linear layer it gives
:math:`\sum_n \delta_{ni}^2 x_{nj}^2`, the paper's :math:`\partial^2 E / \partial a_i^2\, x_j^2`. Two ways cost less:

- The paper's recursion takes only one pass, because it also leaves out the cross terms between the neurons of each
  layer (:mod:`lib.pruning.shared.squared`). Its scale differs, but it ranks nearly the same.
- Drawn classes: with y drawn from p, :math:`[d = y] - p_d` replaces :math:`S_{dc}`; its square has the same mean. A
  network of 1,000 classes then takes only as many passes as there are draws, and the result is right on average.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning.shared import per_sample, selection, squared, uses
from lib.pruning.shared.gauss_newton import factor
from lib.training import FitOptions
from lib.weights import Layer, decompress, layer_named


def curvature(
    model: nn.Module,
    split: Split,
    *,
    layers: Iterable[str] | None = None,
    one_pass: bool = False,
    classes: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, Tensor]:
    """Measure the second derivative of the loss with respect to each weight: the Gauss-Newton matrix's diagonal.

    model: a classifier; it runs in evaluation mode and is not changed.
    split: samples over which the cross-entropy is averaged.
    layers: names of the layers to measure; None, the default, takes all that have a weight.
    one_pass: whether to take the paper's recursion, one backward pass that leaves out the cross terms between neurons;
        default False, the exact diagonal. It only takes networks of linear and convolution layers, batch norm,
        elementwise activations as modules, pooling and additions.
    classes: how many classes to draw for each sample, 1 or more; None, the default, takes them all, and is exact.
    seed: of the classes that are drawn.
    batch_size: samples at a time, 1 or more, default 100; memory grows with it, times the size of the layers' outputs.

    Returns layer name -> tensor of the shape of the weight, 0 or larger; float32 for networks in half precision.
    Raises ValueError for an empty split, a value that is not accepted, logits that are not finite, a model that has no
    layer with a weight, and a layer that cannot be measured. That is one that does not exist or did not run, whose
    weight is also read elsewhere, whose input has no axis that counts the samples, or whose module uses the weight
    without calling a layer (attention's ``in_proj_weight``, an LSTM). In that case, name the other layers.
    Source: lecun1989obd.
    """
    split.check_not_empty("to measure the curvature")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    if classes is not None and (one_pass or classes < 1):
        raise ValueError(f"classes must be 1 or more, and None with one_pass, not {classes}")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    watched = uses.watchable(model, layers)
    if next(iter(watched.values())).weight.dtype in (torch.float16, torch.bfloat16):
        model.float()  # squares of small derivatives underflow in half precision
    plain = torch.contiguous_format
    total = {name: torch.zeros_like(layer.weight, memory_format=plain) for name, layer in watched.items()}
    generator = torch.Generator().manual_seed(seed)
    if one_pass:
        squared.installed(model)
    with torch.enable_grad():
        for batch in running.fitted(model, split.images).split(batch_size):
            if one_pass:
                for name, part in squared.second_derivatives(model, watched, batch).items():
                    total[name] += part
            else:
                add_diagonal(total, model, watched, batch, classes, generator)
    return {name: squares / len(split) for name, squares in total.items()}


def add_diagonal(
    total: Mapping[str, Tensor],
    model: nn.Module,
    layers: Mapping[str, Layer],
    images: Tensor,
    classes: int | None,
    generator: torch.Generator,
) -> None:
    """Add what some samples contribute to the diagonal, summed over them.

    total: layer name -> tensor of the shape of the weight, changed in place.
    model: a classifier in evaluation mode.
    layers: layer name -> layer of the model.
    images: the samples, in the type of the weights.
    classes: how many to draw for each sample; None takes them all.
    generator: source of the classes that are drawn.
    """
    with uses.recorded(layers) as seen:
        # method
        logits = running.class_logits(model, images)
        # end of method
    uses.check(layers, seen, logits)
    outputs = [use.output for use in seen]
    axes = uses.sample_axes(model, layers, seen, images)
    # method
    for column in _columns(logits.detach(), classes, generator):
        deltas = torch.autograd.grad(logits, outputs, column, retain_graph=True, allow_unused=True)
        for name, layer in layers.items():
            parts = uses.by_sample(name, seen, deltas, axes)
            per_sample.add_squares(total[name], layer, parts)
    # end of method


def _columns(logits: Tensor, classes: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """What each backward pass starts with, (n, classes): the columns of S, or those of the classes that are drawn."""
    if classes is None:
        yield from factor(logits).unbind(dim=2)
        return
    p = logits.softmax(dim=1)
    drawn = torch.multinomial(p.cpu(), classes, replacement=True, generator=generator).to(p.device)
    often = nn.functional.one_hot(drawn, p.shape[1]).sum(dim=1)  # a class that is drawn k times needs one pass
    times, chosen = often.topk(int((often > 0).sum(dim=1).max()), dim=1)
    for k, c in zip(times.unbind(dim=1), chosen.unbind(dim=1), strict=True):
        yield (nn.functional.one_hot(c, p.shape[1]) - p) * (k / classes).sqrt()[:, None].to(p.dtype)


def saliencies(
    model: nn.Module,
    split: Split,
    *,
    weight_decay: float = 0.0,
    layers: Iterable[str] | None = None,
    one_pass: bool = False,
    classes: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, Tensor]:
    """Predict how much the loss grows when each weight is deleted, :math:`s_k = h_{kk} w_k^2 / 2`.

    model: a classifier, best at a minimum of its loss. It is not changed.
    split: samples over which the cross-entropy is averaged.
    weight_decay: 0 or larger; the network is taken to be at a minimum of E + weight_decay / 2 · |w|², so it is added to
        h.
    layers, one_pass, classes, seed, batch_size: as in :func:`curvature`.

    Returns layer name -> saliencies of the shape of the weight, in units of the loss; larger = keep.
    Raises ValueError for what :func:`curvature` refuses.
    Source: lecun1989obd.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be 0 or larger, not {weight_decay}")
    curvatures = curvature(
        model, split, layers=layers, one_pass=one_pass, classes=classes, seed=seed, batch_size=batch_size
    )
    saliency = {}
    for name, h in curvatures.items():
        w = layer_named(model, name).weight.detach().to(h.dtype)
        # method
        saliency[name] = (h + weight_decay) * w.square() / 2  # s_k = h_kk w_k² / 2
        # end of method
    return saliency


def masks(saliency: Mapping[str, Tensor], *, density: float) -> dict[str, Tensor]:
    """Choose the weights to keep: those of the largest saliency in the whole network.

    The saliencies of all layers are in the same unit, so no layer needs a share of its own.

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
    layers: Iterable[str] | None = None,
    one_pass: bool = False,
    classes: int | None = None,
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
    seed: of the order of the samples, and of the classes that are drawn; round r takes seed + r.
    samples: number of samples, the first of the split, to compute the saliencies on; 1 or more.
    layers: names of the layers to prune; None, the default, takes all that have a weight. ``density`` is their share.
    one_pass, classes: which diagonal is measured, as in :func:`curvature`; the exact one by default.
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
    layers = None if layers is None else list(layers)
    some = split.first(samples)
    for r in range(1, rounds + 1):
        saliency = saliencies(model, some, layers=layers, one_pass=one_pass, classes=classes, seed=seed + r)
        magnitude.apply(model, masks(saliency, density=density ** (r / rounds)))
        training.fit(model, split, epochs=epochs, seed=seed + r, **options)
    return decompress(model)
