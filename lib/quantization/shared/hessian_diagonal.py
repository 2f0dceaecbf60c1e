r"""How much each weight matters: the diagonal of the Hessian of the loss, and cheaper stand-ins for it.

An *importance* is a dict from layer name to a tensor of the weight's shape without negative entries. Around a minimum
of the loss, with the cross terms left out, moving the weights by :math:`\delta w` costs
:math:`\delta L \approx \tfrac12 \sum_i h_{ii}\, \delta w_i^2`. There are three sources of the diagonal h
(choi2017towards):

- :func:`exact_diagonal`: second derivatives by double back-propagation, for small networks; they may be negative;
- :func:`gauss_newton_diagonal`: squared gradients of labels that are drawn from the network's own answers;
- :func:`second_moment_roots`: the root of the second moment of the gradients that an optimizer keeps anyway.

All three differentiate the loss with respect to the weights themselves, so attention's ``in_proj_weight`` and the
weights of an LSTM are measured like any other. A weight on which the loss does not depend is an error that names its
layer; pass ``layers`` to name the others.
"""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lib import running, weights
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.weights import decompress

Importance = Mapping[str, Tensor]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # kingma2015adam
    "adagrad": torch.optim.Adagrad,  # duchi2011adagrad
    "adadelta": torch.optim.Adadelta,  # zeiler2012adadelta
    "rmsprop": torch.optim.RMSprop,  # tieleman2012rmsprop
}
SECOND_MOMENTS = ("exp_avg_sq", "sum", "square_avg")  # their names in the states of these four


def _prepared(
    model: nn.Module, split: Split, layers: Iterable[str] | None
) -> tuple[nn.Module, Split, dict[str, nn.Parameter]]:
    """A dense copy of the model in evaluation mode, all of it trainable; the split in its type; the weights by name."""
    split.check_not_empty("to measure on")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model.float()  # squares of small derivatives are zero in half precision
    named = _named(model, layers)
    if not named:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to weigh")
    images = running.fitted(model, split.images)
    split = Split(images, split.labels.to(images.device))
    loss = nn.functional.cross_entropy(running.class_logits(model, images[:1]), split.labels[:1])
    gradients = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    for name, g in zip(named, gradients, strict=True):
        if g is None:
            raise ValueError(
                f"the loss does not depend on the weight of layer {name!r}, which does not run in evaluation mode:"
                " name the layers to measure, without this one"
            )
    return model, split, named


def _named(model: nn.Module, layers: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The weights of the named layers, or of all."""
    if layers is None:
        return {name: layer.weight for name, layer in weights.layers(model)}
    return {name: weights.weight_named(model, name).weight for name in layers}


def exact_diagonal(
    model: nn.Module, split: Split, *, chunk: int = 64, layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Compute the second derivative of the mean cross-entropy with respect to each weight.

    The model is left unchanged. Each weight takes one back-propagation through the gradient, so use small networks.

    model: a classifier; the second derivatives are those of its layers' weights, not of its biases.
    split: the samples over which the loss is averaged; one or more.
    chunk: how many weights are differentiated at once, 1 or more; more need more memory.
    layers: names of the weights to measure, as :func:`lib.weights.layers` gives them; None takes all.

    Returns layer name -> second derivatives, of the weight's shape; some may be negative.
    Raises ValueError for an empty split, a chunk below 1, a model without a layer that has a weight, a weight that does
    not exist or on which the loss does not depend, logits that are not finite, and a network that cannot be
    differentiated twice.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, not {chunk}")
    model, split, named = _prepared(model, split, layers)
    diagonal = {}
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the faster kernels of attention have no second derivative
            loss = nn.functional.cross_entropy(running.class_logits(model, split.images), split.labels)
        gradients = torch.autograd.grad(loss, [*named.values()], create_graph=True)
        for (name, w), g in zip(named.items(), gradients, strict=True):
            rows = []
            for at in torch.arange(w.numel(), device=w.device).split(chunk):
                unit = w.new_zeros(len(at), w.numel()).scatter_(1, at[:, None], 1).view(-1, *w.shape)
                options = {"retain_graph": True, "is_grads_batched": True, "materialize_grads": True}
                row = torch.autograd.grad(g, w, unit, **options)[0] if g.requires_grad else torch.zeros_like(unit)
                rows.append(row.flatten(1).gather(1, at[:, None]).flatten())
            diagonal[name] = torch.cat(rows).view(w.shape)
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} cannot be differentiated twice: {error}") from error
    return diagonal


def gauss_newton_diagonal(
    model: nn.Module,
    split: Split,
    *,
    seed: int,
    draws: int = 1,
    batch_size: int | None = None,
    layers: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    r"""Estimate the diagonal of the Gauss-Newton matrix of the mean cross-entropy from squared gradients.

    .. math:: h_{ii} = \frac1N \sum_{n=1}^{N} \mathbb E_{y \sim p(\cdot \mid x_n)}
       \Big( \frac{\partial\, {-\log p(y \mid x_n)}}{\partial w_i} \Big)^2

    The label y of each sample is drawn from the network's own answer p. The estimate is unbiased, and the matrix is the
    Hessian itself if the logits are linear in the weights. The model is left unchanged.

    model: a classifier.
    split: N samples, one or more; their labels are not used.
    seed: of the labels that are drawn.
    draws: labels drawn per sample, 1 or more.
    batch_size: samples whose gradients are held at once, each as large as all weights; None takes what fits in 256 MB.
    layers: names of the weights to measure, as :func:`lib.weights.layers` gives them; None takes all.

    Returns layer name -> the estimate, of the weight's shape, never negative.
    Raises ValueError for an empty split, draws or a batch_size below 1, a model without a layer that has a weight, a
    weight that does not exist or on which the loss does not depend, and logits that are not finite.
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    model, split, named = _prepared(model, split, layers)
    rest = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    keys = _keys(model, named)
    given = {key: w.detach() for key, w in zip(keys.values(), named.values(), strict=True)}
    generator = torch.Generator().manual_seed(seed)
    batch_size = batch_size or max(1, min(128, 2**26 // sum(w.numel() for w in named.values())))

    # method
    def loss(now: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, rest | now, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    # end of method

    def squares(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        try:
            return {key: g.square_().sum(dim=0) for key, g in per_sample(given, images, labels).items()}
        except RuntimeError:  # vmap cannot batch the network, such as an LSTM: one sample at a time
            return _squares_one_by_one(model, named, keys, images, labels)

    total = {key: torch.zeros_like(w) for key, w in given.items()}
    for images in split.images.split(batch_size):
        with torch.no_grad():
            p = running.class_logits(model, images).softmax(dim=1).cpu()
        # method
        for labels in torch.multinomial(p, draws, replacement=True, generator=generator).unbind(dim=1):
            for key, part in squares(images, labels.to(images.device)).items():
                total[key] += part
        # end of method
    return {name: total[key] / (draws * len(split)) for name, key in keys.items()}


def _keys(model: nn.Module, named: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Layer name -> the name of its weight among the parameters; if layers share a weight, its first name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {name: names[id(w)] for name, w in named.items()}


def _squares_one_by_one(
    model: nn.Module, named: Mapping[str, nn.Parameter], keys: Mapping[str, str], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    total = {key: torch.zeros_like(named[name]) for name, key in keys.items()}
    for image, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, [*named.values()])
        for key, g in dict(zip(keys.values(), gradients, strict=True)).items():
            total[key] += g.square()
    return {key: part.detach() for key, part in total.items()}


def second_moment_roots(
    model: nn.Module,
    split: Split,
    *,
    optimizer: str,
    seed: int,
    steps: int = 100,
    batch_size: int = 128,
    layers: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    r"""Take the root of the second moment of the gradients, :math:`\sqrt{v_i}`, that an optimizer keeps.

    The optimizer runs with learning rate zero, so the weights stay where they are and only its averages change. After
    training with such an optimizer, :func:`read_moments` reads the same from its state and needs no pass over the data.
    The model is left unchanged (choi2017towards, section 4).

    model: a classifier.
    split: the samples to take the gradients of, one or more.
    optimizer: "adam", "adagrad", "adadelta" or "rmsprop".
    seed: of the order of the samples.
    steps: batches, 1 or more; when all samples have been used they are shuffled again.
    batch_size: samples per batch, 1 or more.
    layers: names of the weights to measure, as :func:`lib.weights.layers` gives them; None takes all.

    Returns layer name -> roots of the second moments, of the weight's shape, never negative.
    Raises ValueError for an unknown optimizer, steps or batch_size below 1, an empty split, a model without a layer
    that has a weight, a weight that does not exist or on which the loss does not depend, and logits that are not
    finite.
    """
    check_one_of("optimizer", optimizer, OPTIMIZERS)
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be 1 or more, not {steps} and {batch_size}")
    model, split, named = _prepared(model, split, layers)
    resting = OPTIMIZERS[optimizer]({id(w): w for w in named.values()}.values(), lr=0.0)  # a shared weight once
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        order = order or [*torch.randperm(len(split), generator=generator).split(batch_size)]
        batch = order.pop()
        resting.zero_grad()
        loss = nn.functional.cross_entropy(running.class_logits(model, split.images[batch]), split.labels[batch])
        loss.backward()
        resting.step()
    return read_moments(model, resting, layers=[*named])


def read_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Read the roots of the second moments from an optimizer that has trained the model.

    model: the network that ``optimizer`` trained; its weights must be plain, not compressed.
    optimizer: of ``torch.optim``, after one step or more: Adam, Adagrad, Adadelta, RMSprop or another that keeps its
        second moments under one of the names ``SECOND_MOMENTS``.
    layers: names of the weights to read, as :func:`lib.weights.layers` gives them; None takes all.

    Returns layer name -> roots of the second moments, of the weight's shape, never negative.
    Raises ValueError if the optimizer keeps no second moment of a weight, and for a name that does not exist.
    """
    roots = {}
    for name, weight in _named(model, layers).items():
        state = optimizer.state.get(weight, {})
        moment = next((state[key] for key in SECOND_MOMENTS if key in state), None)
        if moment is None:
            raise ValueError(
                f"{type(optimizer).__name__} keeps no second moment of layer {name!r}:"
                f" accepted are {', '.join(OPTIMIZERS)} after a step"
            )
        roots[name] = moment.detach().sqrt()
    return roots
