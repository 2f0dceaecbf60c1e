r"""How much each weight matters: the diagonal of the Hessian of the loss, and cheaper stand-ins for it.

An *importance* is a dict from layer name to a tensor of the weight's shape without negative entries. Around a minimum
of the loss, with the cross terms left out, moving the weights by :math:`\delta w` costs
:math:`\delta L \approx \tfrac12 \sum_i h_{ii}\, \delta w_i^2`. Three sources of the diagonal h (choi2017towards):

- :func:`exact_diagonal`: second derivatives by double back-propagation, for small networks; they may be negative;
- :func:`gauss_newton_diagonal`: squared gradients of labels that are drawn from the network's own answers;
- :func:`second_moment_roots`: the root of the second moment of the gradients that an optimizer keeps anyway.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.weights import check_one_of, decompress, layers

Importance = Mapping[str, Tensor]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # kingma2015adam
    "adagrad": torch.optim.Adagrad,  # duchi2011adagrad
    "adadelta": torch.optim.Adadelta,  # zeiler2012adadelta
    "rmsprop": torch.optim.RMSprop,  # tieleman2012rmsprop
}
SECOND_MOMENTS = ("exp_avg_sq", "sum", "square_avg")  # what these four call theirs


def _prepared(model: nn.Module, split: Split) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A dense copy of the model in evaluation mode, all of it trainable, and the weights of its layers by name."""
    split.check_not_empty("to measure on")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    weights = {name: layer.weight for name, layer in layers(model)}
    if not weights:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to weigh")
    return model, weights


def exact_diagonal(model: nn.Module, split: Split, *, chunk: int = 64) -> dict[str, Tensor]:
    """Differentiate the mean cross-entropy twice by each weight.

    The model is left as it was. Back-propagates through the gradient once for each weight: for small networks.

    model: a classifier; its layers' weights are differentiated, its biases are not.
    split: the samples whose mean loss is meant; one or more.
    chunk: how many weights are differentiated at once, 1 or more; more need more memory.

    Returns layer name -> second derivatives, of the weight's shape; some may be negative.
    Raises ValueError for an empty split, a chunk below 1, or a model without a layer that has a weight.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, not {chunk}")
    model, weights = _prepared(model, split)
    loss = nn.functional.cross_entropy(running.logits(model, split.images), split.labels)
    diagonal = {}
    gradients = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        rows = []
        for at in torch.arange(w.numel()).split(chunk):
            unit = torch.zeros(len(at), w.numel(), dtype=w.dtype).scatter_(1, at[:, None], 1).view(-1, *w.shape)
            row = torch.autograd.grad(g, w, unit, retain_graph=True, is_grads_batched=True, materialize_grads=True)[0]
            rows.append(row.flatten(1).gather(1, at[:, None]).flatten())
        diagonal[name] = torch.cat(rows).view(w.shape)
    return diagonal


def gauss_newton_diagonal(
    model: nn.Module, split: Split, *, seed: int, draws: int = 1, batch_size: int | None = None
) -> dict[str, Tensor]:
    r"""Estimate the diagonal of the Gauss-Newton matrix of the mean cross-entropy from squared gradients.

    .. math:: h_{ii} = \frac1N \sum_{n=1}^{N} \mathbb E_{y \sim p(\cdot \mid x_n)}
       \Big( \frac{\partial\, {-\log p(y \mid x_n)}}{\partial w_i} \Big)^2

    The label y of each sample is drawn from the network's own answer p. The estimate is unbiased, and the matrix is the
    Hessian itself where the logits are linear in the weights. The model is left as it was.

    model: a classifier.
    split: N samples, one or more; their labels are not used.
    seed: of the labels that are drawn.
    draws: labels drawn per sample, 1 or more.
    batch_size: samples whose gradients are held at once, each as large as all weights; None takes what fits 256 MB.

    Returns layer name -> the estimate, of the weight's shape, never negative.
    Raises ValueError for an empty split, draws or a batch_size below 1, a model without a layer that has a weight, or
    logits that are not finite.
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    model, weights = _prepared(model, split)
    rest = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    given = {f"{name}.weight".lstrip("."): w.detach() for name, w in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    batch_size = batch_size or max(1, min(128, 2**26 // sum(w.numel() for w in weights.values())))

    # method
    def loss(now: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, rest | now, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    # end of method
    total = {name: torch.zeros_like(w) for name, w in given.items()}
    for images in split.images.split(batch_size):
        with torch.no_grad():
            p = running.logits(model, images).softmax(dim=1)
        if not torch.isfinite(p).all():
            raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
        # method
        for labels in torch.multinomial(p, draws, replacement=True, generator=generator).unbind(dim=1):
            for name, g in per_sample(given, images, labels).items():
                total[name] += g.square_().sum(dim=0)
        # end of method
    return {name: squares / (draws * len(split)) for name, squares in zip(weights, total.values(), strict=True)}


def second_moment_roots(
    model: nn.Module, split: Split, *, optimizer: str, seed: int, steps: int = 100, batch_size: int = 128
) -> dict[str, Tensor]:
    r"""Take the root of the second moment of the gradients, :math:`\sqrt{v_i}`, that an optimizer keeps.

    The optimizer runs with learning rate zero: the weights stay where they are and only its averages move. After
    training with such an optimizer, :func:`read_moments` reads the same from its state and needs no pass over the data.
    The model is left as it was (choi2017towards, section 4).

    model: a classifier.
    split: the samples to take the gradients of, one or more.
    optimizer: "adam", "adagrad", "adadelta" or "rmsprop".
    seed: of the order of the samples.
    steps: batches, 1 or more; when all samples have been used they are shuffled again.
    batch_size: samples per batch, 1 or more.

    Returns layer name -> roots of the second moments, of the weight's shape, never negative.
    Raises ValueError for another optimizer, steps or batch_size below 1, an empty split, or a model without a layer
    that has a weight.
    """
    check_one_of("optimizer", optimizer, OPTIMIZERS)
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be 1 or more, not {steps} and {batch_size}")
    model, weights = _prepared(model, split)
    resting = OPTIMIZERS[optimizer](weights.values(), lr=0.0)
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        order = order or [*torch.randperm(len(split), generator=generator).split(batch_size)]
        batch = order.pop()
        resting.zero_grad()
        loss = nn.functional.cross_entropy(running.logits(model, split.images[batch]), split.labels[batch])
        loss.backward()
        resting.step()
    return read_moments(model, resting)


def read_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Read the roots of the second moments from an optimizer that has trained the model.

    model: the network that ``optimizer`` trained; its weights must be plain, not compressed.
    optimizer: of ``torch.optim``, after one step or more: Adam, Adagrad, Adadelta, RMSprop or another that keeps its
        second moments under one of the names ``SECOND_MOMENTS``.

    Returns layer name -> roots of the second moments, of the weight's shape, never negative.
    Raises ValueError where the optimizer keeps no second moment of a layer's weight.
    """
    roots = {}
    for name, layer in layers(model):
        state = optimizer.state.get(layer.weight, {})
        moment = next((state[key] for key in SECOND_MOMENTS if key in state), None)
        if moment is None:
            raise ValueError(
                f"{type(optimizer).__name__} keeps no second moment of layer {name!r}:"
                f" accepted are {', '.join(OPTIMIZERS)} after a step"
            )
        roots[name] = moment.detach().sqrt()
    return roots
