r"""Discrimination-aware channel pruning: keep the channels that rebuild the next layer and tell the classes apart.

For the layers that read the channels, with output :math:`O` (:math:`Q` values) before pruning and :math:`\hat O` after
(zhuang2018dcp),

.. math:: L(W) = \underbrace{\tfrac1{2Q} \lVert O - \hat O \rVert_F^2}_{L_M} + \lambda\, L_S(W),

where :math:`L_S` is the cross-entropy of an extra classifier on the maps of a later layer (standardized, rectified,
averaged over places), or of the network itself, where no extra classifier follows. Channels enter a set A greedily:
with the weights of all others at zero, the next is the one with the largest :math:`\lVert \partial L / \partial W_k
\rVert_F`; then a few steps of gradient descent change the weights of A. With :math:`\lambda = 0` and an exact
least-squares fit instead of the steps this is group orthogonal matching pursuit.

Two differences from the paper: the extra classifiers are fitted to the network as it is, which is not first tuned on
their losses; and several channels may enter at once, which takes a fraction of the time.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import running, structure
from lib.datasets import Split
from lib.weights import Layer, layer_named

Weights = dict[str, Tensor]  # name of a layer that reads the channels -> its weight
Loss = Callable[[Weights], Tensor]
Classifier = Callable[[Tensor], Tensor]  # maps -> logits


def scores(
    model: nn.Module,
    split: Split,
    *,
    discrimination: float = 1.0,
    reconstruction: float = 1.0,
    classifiers: int = 2,
    rounds: int = 6,
    steps: int = 2,
    learning_rate: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score each filter by how early its channel is chosen.

    Each gradient is that of one batch, and a group takes rounds * (steps + 1) of them.

    model: any network that can be traced; it is left as it was.
    split: samples with labels.
    discrimination: factor of the loss on the classes, L_S (the paper's lambda), 0 or more. Default 1.
    reconstruction: factor of the error of the rebuilt outputs, L_M, 0 or more; the two factors are not both 0. Default
        1.
    classifiers: number of extra classifiers, 0 or more, spread evenly over the layers that read channels. Default 2.
    rounds: number of portions in which the channels of a group enter, 1 or more; with as many as there are channels,
        they enter one at a time as in the paper. Default 6.
    steps: number of steps of gradient descent after each portion, 0 or more. Default 2.
    learning_rate: learning rate of these steps, positive. Default 0.01.
    batch_size: samples in each batch, 1 or more. Default 64.
    seed: seed of the batches. Default 0.

    Returns layer name -> (filters,) in (0, 1], larger = keep: 1 for the channel that is chosen first, 1 / filters for
    the last.
    Raises ValueError for an empty split, numbers out of range, and a network that cannot be traced.
    Source: zhuang2018dcp.

    >>> model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> split = Split(torch.rand(8, 5), torch.arange(8) % 2)
    >>> scores(model, split, rounds=4)["0"].sort().values
    tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """
    split.check_not_empty("to choose channels by")
    if not (discrimination >= 0 and reconstruction >= 0 and 0 < discrimination + reconstruction < torch.inf):
        raise ValueError(
            "discrimination and reconstruction must be finite, 0 or more and not both 0,"
            f" not {discrimination} and {reconstruction}"
        )
    if min(rounds, batch_size) < 1 or min(steps, classifiers) < 0 or not 0 < learning_rate < torch.inf:
        raise ValueError(
            "rounds and batch_size must be 1 or more, steps and classifiers 0 or more, and learning_rate positive,"
            f" not {rounds}, {batch_size}, {steps}, {classifiers} and {learning_rate}"
        )
    groups = structure.groups(model, split.images[:1])
    batches = _batches(split, batch_size, torch.Generator().manual_seed(seed))
    result: dict[str, Tensor] = {}
    with running.evaluating(model):
        extra = _classifiers(model, groups, batches, classifiers) if discrimination else {}
        for group in groups:
            readers = {name: layer_named(model, name) for name in group.consumers}
            trained = {name: layer.weight.detach() for name, layer in readers.items()}
            owners = {name: owner(readers[name], columns) for name, columns in group.consumers.items()}
            after = _first_after(model, trained, split.images[:1], extra)

            def loss(weights: Weights, trained: Weights = trained, after: str | None = after) -> Tensor:
                batch, total = next(batches), torch.zeros(())
                logits, inputs, outputs = _run(model, weights, batch.images, [*weights, *extra])
                if reconstruction:
                    with torch.no_grad():
                        _, _, targets = _run(model, trained, batch.images, trained)
                    difference = torch.cat([(outputs[n] - targets[n]).flatten() for n in targets])
                    total = total + reconstruction * difference.square().mean() / 2  # L_M
                if discrimination:
                    logits = extra[after](inputs[after]) if after else logits
                    total = total + discrimination * nn.functional.cross_entropy(logits, batch.labels)  # lambda L_S
                return total

            def refit(weights: Weights, inside: Weights, loss: Loss = loss) -> Weights:
                for _ in range(steps):
                    slopes = gradient(loss, weights)
                    weights = {name: w - learning_rate * slopes[name] * inside[name] for name, w in weights.items()}
                return weights

            order, _ = greedy(loss, trained, owners, refit, portion=-(-group.channels // rounds))
            score = torch.empty(group.channels)
            score[order] = torch.arange(group.channels, 0, -1) / group.channels
            result |= {name: score.clone() for name in group.producers}
    return result


def greedy(
    loss: Loss, trained: Weights, owners: Weights, refit: Callable[[Weights, Weights], Weights], *, portion: int = 1
) -> tuple[list[int], list[Weights]]:
    """Choose channels one portion after the other, each time those with the largest gradients.

    loss: function of the weights, layer name -> weight, that returns the loss.
    trained: layer name -> weight with which a channel enters.
    owners: layer name -> the channel that each weight multiplies, as :func:`owner` returns it.
    refit: function of the weights, and of masks of the same shapes, 1 where a weight belongs to a chosen channel and 0
        elsewhere; it returns better weights.
    portion: number of channels that enter at once, 1 or more. Default 1, as in the paper.

    Returns the channels in the order of choice, and the fitted weights after each portion.
    Raises ValueError for a portion out of range.
    Source: zhuang2018dcp.
    """
    if portion < 1:
        raise ValueError(f"portion must be 1 or more, not {portion}")
    channels = 1 + max(int(numbers.max()) for numbers in owners.values())
    order: list[int] = []
    inside = {name: (numbers < 0).expand_as(trained[name]) for name, numbers in owners.items()}
    weights = {name: trained[name] * inside[name] for name in trained}  # A is empty
    fits = []
    while len(order) < channels:
        squares = torch.zeros(
            channels + 1, dtype=next(iter(trained.values())).dtype
        )  # the last collects what belongs to no channel of the group
        # method
        for name, slope in gradient(loss, weights).items():
            numbers = owners[name].flatten(1)
            squares.index_add_(
                0, numbers.flatten() % (channels + 1), slope.reshape(numbers.numel(), -1).square().sum(1)
            )
        squares[order] = -1
        chosen = squares[:channels].argsort(descending=True, stable=True)  # k = argmax ||G_k||_F outside A
        order += chosen[: min(portion, channels - len(order))].tolist()
        # end of method
        for name, numbers in owners.items():
            wider = ((numbers < 0) | torch.isin(numbers, torch.tensor(order))).expand_as(trained[name])
            weights[name] = torch.where(wider & ~inside[name], trained[name], weights[name])
            inside[name] = wider
        # method
        weights = refit(weights, {name: mask.float() for name, mask in inside.items()})
        fits.append(dict(weights))
        # end of method
    return order, fits


def owner(layer: Layer, columns: Tensor) -> Tensor:
    """Tell which channel each weight of a layer multiplies.

    layer: a convolution or linear layer.
    columns: (channels, k) numbers of the inputs that belong to channel j, as a group's ``consumers`` hold them.

    Returns (outputs, inputs, 1, ...) numbers of channels; -1 where a weight multiplies none of these.

    >>> owner(nn.Linear(4, 1), torch.tensor([[0, 1], [3, 2]]))  # two channels with two inputs each
    tensor([[0, 0, 1, 1]])
    """
    weight, parts = layer.weight, getattr(layer, "groups", 1)
    inputs = torch.full((weight.shape[1] * parts,), -1)
    inputs[columns] = torch.arange(len(columns))[:, None]
    rows = inputs.reshape(parts, -1).repeat_interleave(len(weight) // parts, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def gradient(loss: Loss, weights: Weights) -> Weights:
    """Give the derivative of the loss by each weight.

    loss: function of the weights, layer name -> weight, that returns the loss.
    weights: layer name -> weight; they are left as they were.

    Returns layer name -> derivative.

    >>> gradient(lambda weights: weights["fc"].square().sum(), {"fc": torch.tensor([1.0, 3.0])})
    {'fc': tensor([2., 6.])}
    """
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def _batches(split: Split, size: int, generator: torch.Generator) -> Iterator[Split]:
    while True:
        for batch in torch.randperm(len(split), generator=generator).split(size):
            yield Split(split.images[batch], split.labels[batch])


def _run(model: nn.Module, weights: Weights, images: Tensor, names: Iterable[str]) -> tuple[Tensor, Weights, Weights]:
    """Logits with these weights in place of the model's, and the inputs and outputs of the named layers in order."""
    inputs: Weights = {}
    outputs: Weights = {}
    hooks = []
    constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
    try:
        for name in names:

            def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                inputs[name], outputs[name] = given[0], output.clone()  # a ReLU after it may work in place

            hooks.append(model.get_submodule(name).register_forward_hook(hook))
        logits = functional_call(model, constants | {f"{name}.weight": w for name, w in weights.items()}, images)
    finally:
        for handle in hooks:
            handle.remove()
    return logits, inputs, outputs


@torch.no_grad()
def _classifiers(
    model: nn.Module, groups: list[structure.Group], batches: Iterator[Split], wanted: int
) -> dict[str, Classifier]:
    """Name of a layer -> the classifier fitted to the maps that this layer reads."""
    first, second = next(batches), next(batches)
    batch = Split(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))
    logits, inputs, _ = _run(model, {}, batch.images, dict.fromkeys(name for g in groups for name in g.consumers))
    names = list(inputs)
    places = sorted({len(names) * (i + 1) // (wanted + 1) for i in range(wanted)} - {0})
    return {names[i]: _fitted(inputs[names[i]], batch.labels, logits.shape[1]) for i in places if i < len(names)}


def _fitted(maps: Tensor, labels: Tensor, classes: int) -> Classifier:
    axes = [i for i in range(maps.dim()) if i != 1]
    shape = [-1 if i == 1 else 1 for i in range(maps.dim())]
    mean = maps.mean(axes).reshape(shape)
    deviation = maps.std(axes, correction=0).clamp_min(1e-5).reshape(shape)

    def features(maps: Tensor) -> Tensor:  # F = AvgPool(ReLU(BN(O)))
        return torch.relu((maps - mean) / deviation).flatten(2).mean(2) if maps.dim() > 2 else (maps - mean) / deviation

    pooled = features(maps)
    theta = torch.zeros(classes, pooled.shape[1] + 1, requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=50, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        with torch.enable_grad():
            logits = pooled @ theta[:, :-1].T + theta[:, -1]
            value = nn.functional.cross_entropy(logits, labels) + 1e-3 * theta.square().sum()
        value.backward()
        return value

    solver.step(objective)
    weight = theta.detach()
    return lambda maps: features(maps) @ weight[:, :-1].T + weight[:, -1]


def _first_after(model: nn.Module, trained: Weights, images: Tensor, extra: dict[str, Classifier]) -> str | None:
    """The first extra classifier whose maps depend on each of these weights; None where only the output does."""
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in trained.items()}
        _, inputs, _ = _run(model, leaves, images, extra)
        for name in extra:
            reached = inputs[name].requires_grad and torch.autograd.grad(
                inputs[name].sum(), list(leaves.values()), retain_graph=True, allow_unused=True
            )
            if reached and all(slope is not None for slope in reached):
                return name
    return None
