r"""Discrimination-aware channel pruning: keep the channels that rebuild the next layer and tell the classes apart.

For the layers that read the channels, with output :math:`O` (:math:`Q` values) before pruning and :math:`\hat O` after
(zhuang2018dcp),

.. math:: L(W) = \underbrace{\tfrac1{2Q} \lVert O - \hat O \rVert_F^2}_{L_M} + \lambda\, L_S(W),

where :math:`L_S` is the cross-entropy of an extra classifier on the maps of a later layer (standardised, rectified,
averaged over places), or behind the last of these the network's own. Channels enter a set A greedily: with the weights
of all others at zero, the next is the one with the largest :math:`\lVert \partial L / \partial W_k \rVert_F`; then a
few steps of gradient descent change the weights of A. With :math:`\lambda = 0` and an exact least-squares fit in place
of the steps this is group orthogonal matching pursuit.

Two differences from the paper: the extra classifiers are fitted to the network as it is, which is not first tuned on
their losses; and several channels may enter at once, which takes a fraction of the time.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import structure
from lib.datasets import Split

Weights = dict[str, Tensor]  # name of a layer that reads the channels -> its weight
Loss = Callable[[Weights], Tensor]
Classifier = Callable[[Tensor], Tensor]  # maps -> logits


def scores(
    model: nn.Module,
    data: Split,
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
    """Layer name -> (filters,) in (0, 1]: 1 for the channel that was chosen first, 1 / filters for the last.

    discrimination, reconstruction: factors of L_S (the paper's lambda) and of L_M, not both 0.
    classifiers: how many extra ones, spread evenly over the layers that read channels. rounds: in how many portions the
    channels of a group enter; with as many as there are channels, one at a time as in the paper. steps: of gradient
    descent behind each portion. Every gradient is that of one batch, drawn by ``seed``: a group takes
    rounds * (steps + 1) of them. Raises ValueError for an empty split and for numbers out of range.
    """
    if len(data) == 0:
        raise ValueError("the split is empty: at least one sample is needed to choose channels by")
    if not (discrimination >= 0 and reconstruction >= 0 and 0 < discrimination + reconstruction < torch.inf):
        raise ValueError(f"the two factors must be 0 or more and not both 0, not {discrimination} and {reconstruction}")
    if min(rounds, batch_size) < 1 or min(steps, classifiers) < 0 or not 0 < learning_rate < torch.inf:
        raise ValueError(
            "rounds and batch_size must be 1 or more, steps and classifiers 0 or more, and the learning rate positive,"
            f" not {rounds}, {batch_size}, {steps}, {classifiers} and {learning_rate}"
        )
    found = structure.groups(model, data.images[:1])
    modes = {module: module.training for module in model.modules()}
    batches = _batches(data, batch_size, torch.Generator().manual_seed(seed))
    result = {}
    try:
        model.eval()
        extra = _classifiers(model, found, batches, classifiers) if discrimination else {}
        for group in found:
            trained = {name: model.get_submodule(name).weight.detach() for name in group.consumers}
            owners = {name: owner(model.get_submodule(name), columns) for name, columns in group.consumers.items()}
            behind = _first_behind(model, trained, data.images[:1], extra)

            def loss(weights: Weights, trained: Weights = trained, behind: str | None = behind) -> Tensor:
                batch, total = next(batches), torch.zeros(())
                logits, inputs, outputs = _run(model, weights, batch.images, [*weights, *extra])
                if reconstruction:
                    with torch.no_grad():
                        _, _, targets = _run(model, trained, batch.images, trained)
                    difference = torch.cat([(outputs[n] - targets[n]).flatten() for n in targets])
                    total = total + reconstruction * difference.square().mean() / 2  # L_M
                if discrimination:
                    logits = extra[behind](inputs[behind]) if behind else logits
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
    finally:
        for module, mode in modes.items():
            module.training = mode
    return result


def greedy(
    loss: Loss, trained: Weights, owners: Weights, refit: Callable[[Weights, Weights], Weights], *, portion: int = 1
) -> tuple[list[int], list[Weights]]:
    """The order in which the channels enter the set A, and the fitted weights behind each portion.

    trained: the weights that a channel enters with. owners: as :func:`owner` gives. refit: weights and, for each, 1
    where it belongs to A and 0 elsewhere -> better weights. portion: how many channels enter at once.
    """
    channels = 1 + max(int(numbers.max()) for numbers in owners.values())
    order: list[int] = []
    inside = {name: (numbers < 0).expand_as(trained[name]) for name, numbers in owners.items()}
    weights = {name: trained[name] * inside[name] for name in trained}  # A is empty
    fits = []
    while len(order) < channels:
        squares = torch.zeros(
            channels + 1, dtype=next(iter(trained.values())).dtype
        )  # the last collects what belongs to no channel of the group
        for name, slope in gradient(loss, weights).items():
            numbers = owners[name].flatten(1)
            squares.index_add_(
                0, numbers.flatten() % (channels + 1), slope.reshape(numbers.numel(), -1).square().sum(1)
            )
        squares[order] = -1
        chosen = squares[:channels].argsort(descending=True, stable=True)  # k = argmax ||G_k||_F outside A
        order += chosen[: min(portion, channels - len(order))].tolist()
        for name, numbers in owners.items():
            wider = ((numbers < 0) | torch.isin(numbers, torch.tensor(order))).expand_as(trained[name])
            weights[name] = torch.where(wider & ~inside[name], trained[name], weights[name])
            inside[name] = wider
        weights = refit(weights, {name: mask.float() for name, mask in inside.items()})
        fits.append(dict(weights))
    return order, fits


def owner(layer: nn.Module, columns: Tensor) -> Tensor:
    """The channel that each weight of a layer multiplies, (out, in, 1, ...); -1 where it is none of this group's.

    columns: (channels, k) numbers of the layer's inputs that are channel j's, as a group's ``consumers`` has them.
    """
    weight, parts = layer.weight, getattr(layer, "groups", 1)
    inputs = torch.full((weight.shape[1] * parts,), -1)
    inputs[columns] = torch.arange(len(columns))[:, None]
    rows = inputs.reshape(parts, -1).repeat_interleave(len(weight) // parts, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def gradient(loss: Loss, weights: Weights) -> Weights:
    """The derivative of the loss by each weight."""
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def _batches(data: Split, size: int, generator: torch.Generator) -> Iterator[Split]:
    while True:
        for batch in torch.randperm(len(data), generator=generator).split(size):
            yield Split(data.images[batch], data.labels[batch])


def _run(
    model: nn.Module, weights: Weights, images: Tensor, names: Sequence[str] | Weights
) -> tuple[Tensor, Weights, Weights]:
    """Logits with these weights in place of the model's, and the inputs and outputs of the named layers in order."""
    inputs, outputs, hooks = {}, {}, []
    constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
    try:
        for name in names:

            def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                inputs[name], outputs[name] = given[0], output.clone()  # a ReLU behind it may work in place

            hooks.append(model.get_submodule(name).register_forward_hook(hook))
        logits = functional_call(model, constants | {f"{name}.weight": w for name, w in weights.items()}, images)
    finally:
        for each in hooks:
            each.remove()
    return logits, inputs, outputs


@torch.no_grad()
def _classifiers(
    model: nn.Module, found: list[structure.Group], batches: Iterator[Split], wanted: int
) -> dict[str, Classifier]:
    """Name of a layer -> the classifier fitted to the maps that this layer reads."""
    first, second = next(batches), next(batches)
    batch = Split(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))
    logits, inputs, _ = _run(model, {}, batch.images, dict.fromkeys(name for g in found for name in g.consumers))
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


def _first_behind(model: nn.Module, trained: Weights, images: Tensor, extra: dict[str, Classifier]) -> str | None:
    """The first extra classifier whose maps depend on every one of these weights; None where only the output does."""
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
