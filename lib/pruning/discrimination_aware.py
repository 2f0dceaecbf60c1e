r"""Discrimination-aware channel pruning: keep the channels that rebuild the next layer and tell the classes apart.

For the layers that read the channels, with output :math:`O` (:math:`Q` values) before pruning and :math:`\hat O` after
(zhuang2018dcp),

.. math:: L(W) = \underbrace{\tfrac1{2Q} \lVert O - \hat O \rVert_F^2}_{L_M} + \lambda\, L_S(W),

where :math:`L_S` is the cross-entropy of an extra classifier on the maps of a later layer (standardized, rectified,
averaged over places), or of the network itself, if no extra classifier follows. Channels enter a set A greedily: with
the weights of all others at zero, the next is the one with the largest :math:`\lVert \partial L / \partial W_k
\rVert_F`; then a few steps of gradient descent update the weights of A. With :math:`\lambda = 0` and an exact
least-squares fit instead of the steps this is group orthogonal matching pursuit.

:func:`select` goes from the first layer to the last, in stages that end at the extra classifiers. Each stage first
tunes the network, in turn on the loss of the stage's classifier and on its own. Then it chooses the channels of its
layers one by one, in the network as pruned so far, and keeps the fitted weights of A. The final training is left to the
caller. With the argument ``stop``, as in a variant of the paper, the method chooses the number of channels itself.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import running, structure, training
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.pruning.shared.reading import check_read
from lib.weights import Layer, layer_named

Weights = dict[str, Tensor]  # name of a layer that reads the channels -> its weight
Loss = Callable[[Weights], Tensor]
CHOICES = ("gradient", "random")
SAMPLES = 1000  # the extra classifiers are fitted on about this many


def select(
    model: nn.Module,
    split: Split,
    *,
    fraction: float,
    discrimination: float = 1.0,
    reconstruction: float = 1.0,
    classifiers: int = 2,
    tuning: int = 1,
    portion: int = 1,
    steps: int = 10,
    learning_rate: float = 0.01,
    batch_size: int = 256,
    stop: float = 0.0,
    choose: str = "gradient",
    seed: int = 0,
) -> structure.Masks:
    """Choose the channels that stay, layer by layer, and fit the weights that read them. In place; returns the masks.

    Weights that read a removed channel are zero afterwards, so :func:`lib.structure.shrink` with these masks gives a
    smaller network with the same answers.

    model: a classifier that can be traced.
    split: samples with labels. The gradients that decide are means over all of them.
    fraction: share of the channels to remove from every group, in [0, 1); the number is rounded down.
    discrimination: factor of the loss on the classes, L_S (the paper's lambda), 0 or more. Default 1.
    reconstruction: factor of the error of the rebuilt outputs, L_M, 0 or more; the two factors are not both 0. Default
        1.
    classifiers: number of extra classifiers, 0 or more, spread evenly over the layers that read channels. Default 2.
    tuning: passes over the split at the beginning of each stage, 0 or more: steps of the same learning rate on the
        classifier's loss and on the network's, in turn. Default 1.
    portion: channels that enter at once, 1 or more. Default 1, as in the paper.
    steps: steps of gradient descent with Nesterov momentum after each portion, 0 or more. Default 10.
    learning_rate: of these steps, positive. Default 0.01.
    batch_size: samples in each step, 1 or more. Default 256.
    stop: a group takes no more channels once a portion changes its loss by no more than this share of the first loss,
        0 or more. Default 0: every group keeps what ``fraction`` leaves.
    choose: "gradient" (default), or "random" for channels drawn at random whose weights are fitted in the same way.
    seed: of the batches and the random choice. Default 0.

    Returns the masks, layer name -> (filters,) bool.
    Raises ValueError, before anything is changed, for an empty split, numbers out of range, and a network that cannot
    be traced.
    Source: zhuang2018dcp, algorithm 1.

    >>> model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> split = Split(torch.rand(8, 5), torch.arange(8) % 2)
    >>> select(model, split, fraction=0.5)["0"].sum(), model[2].weight.count_nonzero()
    (tensor(2), tensor(4))
    """
    split.check_not_empty("to choose channels by")
    _check(discrimination, reconstruction, (portion, batch_size), (steps, classifiers, tuning), learning_rate)
    check_one_of("choose", choose, CHOICES)
    if not 0 <= fraction < 1 or not 0 <= stop < torch.inf:
        raise ValueError(f"fraction must be in [0, 1) and stop 0 or more, not {fraction} and {stop}")
    groups = structure.groups(model, split.images[:1])
    check_read(model, groups, split.images)  # a head that is only for training does not run here
    generator = torch.Generator().manual_seed(seed)
    whole = _batches(split, batch_size, generator)
    batches = itertools.cycle(whole)
    dense, masks = copy.deepcopy(model), structure.Masks()
    inside: Weights = {}  # layer name -> 1 where a weight reads a channel that stays, or one of no group
    with running.evaluating(model), running.evaluating(dense):
        extra = _classifiers(model, groups, whole, classifiers if discrimination or tuning else 0)
        begun: set[str | None] = set()
        for group in _in_order(model, groups, split.images[:1]):
            layers = {name: layer_named(model, name) for name in group.consumers}
            after = _first_after(model, {n: layer.weight.detach() for n, layer in layers.items()}, split, extra)
            if after not in begun and tuning:  # a stage begins
                _tune(model, extra.get(after or ""), after, whole * tuning, learning_rate, inside)
            begun.add(after)
            trained = {name: layer.weight.detach().clone() for name, layer in layers.items()}
            owners = {name: owner(layers[name], columns) for name, columns in group.consumers.items()}
            losses = _Losses(model, dense, trained, extra, after, discrimination, reconstruction)
            order, fits = greedy(
                partial(losses.mean, batches=whole),
                trained,
                owners,
                partial(losses.descend, batches=batches, steps=steps, learning_rate=learning_rate, momentum=0.9),
                portion=portion,
                most=group.channels - int(fraction * group.channels + 1e-9),
                stop=stop,
                drawn=torch.randperm(group.channels, generator=generator).tolist() if choose == "random" else None,
            )
            kept = torch.zeros(group.channels, dtype=torch.bool)
            kept[order] = True
            masks.update({name: kept.clone() for name in group.producers})
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight.copy_(fits[-1][name])
                    stays = (owners[name] < 0) | kept[owners[name].clamp(min=0)]
                    inside[name] = inside.get(name, torch.ones_like(stays)) & stays
                    layer.weight.mul_(inside[name])
    return masks


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
    """Score each filter by how early its channel is chosen in the unpruned network.

    This is only the order of the choice, for comparing criteria: no layer sees the others pruned, and the fitted
    weights are not kept. :func:`select` is the full method. Each gradient is that of one batch, and a group takes
    rounds * (steps + 1) of them.

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
    Raises ValueError for an empty split, numbers out of range, a network that cannot be traced, and, by name, a layer
    that reads channels and does not run in evaluation mode.
    Source: zhuang2018dcp.

    >>> model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> split = Split(torch.rand(8, 5), torch.arange(8) % 2)
    >>> scores(model, split, rounds=4)["0"].sort().values
    tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """
    split.check_not_empty("to choose channels by")
    _check(discrimination, reconstruction, (rounds, batch_size), (steps, classifiers), learning_rate)
    groups = structure.groups(model, split.images[:1])
    check_read(model, groups, split.images)  # a head that is only for training does not run here
    dealt = _batches(split, batch_size, torch.Generator().manual_seed(seed))
    batches = itertools.cycle(dealt)
    result: dict[str, Tensor] = {}
    with running.evaluating(model):
        extra = _classifiers(model, groups, dealt, classifiers if discrimination else 0)
        for group in groups:
            readers = {name: layer_named(model, name) for name in group.consumers}
            trained = {name: layer.weight.detach() for name, layer in readers.items()}
            owners = {name: owner(readers[name], columns) for name, columns in group.consumers.items()}
            after = _first_after(model, trained, split, extra)
            losses = _Losses(model, model, trained, extra, after, discrimination, reconstruction)
            refit = partial(losses.descend, batches=batches, steps=steps, learning_rate=learning_rate)
            portion = -(-group.channels // rounds)
            order, _ = greedy(partial(losses.drawn, batches=batches), trained, owners, refit, portion=portion)
            score = torch.empty(group.channels)
            score[order] = torch.arange(group.channels, 0, -1) / group.channels
            result |= {name: score.clone() for name in group.producers}
    return result


def greedy(
    loss: Loss,
    trained: Weights,
    owners: Weights,
    refit: Callable[[Weights, Weights], Weights],
    *,
    portion: int = 1,
    most: int | None = None,
    stop: float = 0.0,
    drawn: Sequence[int] | None = None,
) -> tuple[list[int], list[Weights]]:
    """Choose channels portion by portion, each time those with the largest gradients.

    loss: function of the weights, layer name -> weight, that returns the loss.
    trained: layer name -> weight with which a channel enters.
    owners: layer name -> the channel that each weight multiplies, as :func:`owner` returns it.
    refit: function of the weights, and of masks of the same shapes, 1 where a weight belongs to a chosen channel and 0
        elsewhere; it returns better weights.
    portion: number of channels that enter at once, 1 or more. Default 1, as in the paper.
    most: number of channels to choose, 1 or more. Default: all.
    stop: end once a portion changes the loss by no more than this share of the first loss. Default 0: never.
    drawn: all channels in the order in which they enter. Default None: by their gradients.

    Returns the channels in the order of choice, and the fitted weights after each portion.
    Raises ValueError for portion and most out of range.
    Source: zhuang2018dcp.
    """
    if portion < 1 or (most is not None and most < 1):
        raise ValueError(f"portion and most must be 1 or more, not {portion} and {most}")
    channels = 1 + max(int(numbers.max()) for numbers in owners.values())
    most = channels if most is None else min(most, channels)
    order: list[int] = []
    inside = {name: (numbers < 0).expand_as(trained[name]) for name, numbers in owners.items()}
    weights = {name: trained[name] * inside[name] for name in trained}  # A is empty
    fits: list[Weights] = []
    values = [loss(weights).item()] if stop else []
    while len(order) < most and not (len(values) > 1 and abs(values[-2] - values[-1]) <= stop * values[0]):
        like = next(iter(trained.values()))
        squares = like.new_zeros(channels + 1)  # the last collects what belongs to no channel of the group
        # method
        for name, slope in gradient(loss, weights).items():
            numbers = owners[name].flatten(1)
            squares.index_add_(
                0, numbers.flatten() % (channels + 1), slope.reshape(numbers.numel(), -1).square().sum(1)
            )
        squares[order] = -1
        chosen = squares[:channels].argsort(descending=True, stable=True)  # k = argmax ||G_k||_F outside A
        n = min(portion, most - len(order))
        order += chosen[:n].tolist() if drawn is None else drawn[len(order) : len(order) + n]
        # end of method
        for name, numbers in owners.items():
            entered = torch.tensor(order, device=numbers.device)
            wider = ((numbers < 0) | torch.isin(numbers, entered)).expand_as(trained[name])
            weights[name] = torch.where(wider & ~inside[name], trained[name], weights[name])
            inside[name] = wider
        # method
        weights = refit(weights, {name: mask.to(like.dtype) for name, mask in inside.items()})
        fits.append(dict(weights))
        # end of method
        if stop:
            values.append(loss(weights).item())
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
    inputs = torch.full((weight.shape[1] * parts,), -1, device=columns.device)
    inputs[columns] = torch.arange(len(columns), device=columns.device)[:, None]
    rows = inputs.reshape(parts, -1).repeat_interleave(len(weight) // parts, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def gradient(loss: Loss, weights: Weights) -> Weights:
    """Compute the derivative of the loss with respect to each weight.

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


def _check(
    discrimination: float, reconstruction: float, positive: Iterable[int], others: Iterable[int], learning_rate: float
) -> None:
    if not (discrimination >= 0 and reconstruction >= 0 and 0 < discrimination + reconstruction < torch.inf):
        raise ValueError(
            "discrimination and reconstruction must be finite, 0 or more and not both 0,"
            f" not {discrimination} and {reconstruction}"
        )
    if min(positive) < 1 or min(others) < 0 or not 0 < learning_rate < torch.inf:
        raise ValueError(
            "rounds, portion and batch_size must be 1 or more, steps, classifiers and tuning 0 or more, and"
            f" learning_rate positive, not {[*positive, *others, learning_rate]}"
        )


def _batches(split: Split, size: int, generator: torch.Generator) -> list[Split]:
    """Deal the split into batches once, so that the answers of the unpruned network to each are computed once."""
    dealt = training.batches(len(split), size, generator)
    return [Split(split.images[batch], split.labels[batch]) for batch in dealt]


def _in_order(model: nn.Module, groups: list[structure.Group], images: Tensor) -> list[structure.Group]:
    """The groups in the order in which the first layer that reads each of them runs."""
    with torch.no_grad():
        inputs = list(_run(model, {}, images, dict.fromkeys(name for g in groups for name in g.consumers))[1])
    return sorted(groups, key=lambda group: min((inputs.index(name) for name in group.consumers), default=len(inputs)))


def _run(model: nn.Module, weights: Weights, images: Tensor, names: Iterable[str]) -> tuple[Tensor, Weights, Weights]:
    """Logits with these weights in place of the model's, and the inputs and outputs of the named layers in order."""
    constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with _flow(model, names) as (inputs, outputs):
        logits = functional_call(model, constants | {f"{name}.weight": w for name, w in weights.items()}, images)
    return logits, inputs, outputs


def _run_until(model: nn.Module, weights: Weights, images: Tensor, names: Iterable[str]) -> tuple[Weights, Weights]:
    """Inputs and outputs of the named layers; nothing runs after the last of them."""
    try:
        _, inputs, outputs = _run(model, weights, images, _Last(names))
    except _Reached as reached:
        inputs, outputs = reached.args
    return inputs, outputs


class _Last(dict[str, None]):
    """Names of layers after which a run ends."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(names))


class _Reached(Exception):
    """All layers that the run waited for have run."""


@contextmanager
def _flow(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[Weights, Weights]]:
    inputs: Weights = {}
    outputs: Weights = {}
    hooks = []
    try:
        for name in names:

            def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                inputs[name], outputs[name] = given[0], output.clone()  # a ReLU after it may work in place
                if isinstance(names, _Last) and len(outputs) == len(names):
                    raise _Reached(inputs, outputs)

            hooks.append(model.get_submodule(name).register_forward_hook(hook))
        yield inputs, outputs
    finally:
        for handle in hooks:
            handle.remove()


class _Losses:
    """L(W) of the layers that read one group of channels: on a batch, and the mean over batches."""

    def __init__(
        self,
        model: nn.Module,
        dense: nn.Module,
        trained: Weights,
        extra: dict[str, "_Classifier"],
        after: str | None,
        discrimination: float,
        reconstruction: float,
    ) -> None:
        self.model, self.dense, self.trained, self.extra = model, dense, trained, extra
        self.after, self.discrimination, self.reconstruction = after, discrimination, reconstruction
        self.targets: dict[int, Weights] = {}  # id of a batch, which outlives this -> the outputs before pruning, O

    def __call__(self, weights: Weights, batch: Split) -> Tensor:
        if self.discrimination and not self.after:
            logits, inputs, outputs = _run(self.model, weights, batch.images, weights)
        else:
            places = [self.after] if self.discrimination and self.after else []
            inputs, outputs = _run_until(self.model, weights, batch.images, [*weights, *places])
        total = next(iter(outputs.values())).new_zeros(())
        if self.reconstruction:
            if id(batch) not in self.targets:
                with torch.no_grad():
                    self.targets[id(batch)] = _run_until(self.dense, {}, batch.images, self.trained)[1]
            targets = self.targets[id(batch)]
            difference = torch.cat([(outputs[n] - targets[n]).flatten() for n in targets])
            total = total + self.reconstruction * difference.square().mean() / 2  # L_M
        if self.discrimination:
            logits = self.extra[self.after](inputs[self.after]) if self.after else logits
            total = total + self.discrimination * nn.functional.cross_entropy(logits, batch.labels)  # lambda L_S
        return total

    def drawn(self, weights: Weights, batches: Iterator[Split]) -> Tensor:
        return self(weights, next(batches))

    def mean(self, weights: Weights, batches: Sequence[Split]) -> Tensor:
        n = sum(map(len, batches))
        return torch.stack([self(weights, batch) * (len(batch) / n) for batch in batches]).sum()

    def descend(
        self,
        weights: Weights,
        inside: Weights,
        *,
        batches: Iterator[Split],
        steps: int,
        learning_rate: float,
        momentum: float = 0.0,
    ) -> Weights:
        """Take a few steps of gradient descent on the weights of A; momentum is Nesterov's."""
        velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for _ in range(steps):
            slopes = gradient(partial(self, batch=next(batches)), weights)
            slopes = {name: slope * inside[name] for name, slope in slopes.items()}
            velocity = {name: momentum * velocity[name] + slope for name, slope in slopes.items()}
            weights = {n: w - learning_rate * (slopes[n] + momentum * velocity[n]) for n, w in weights.items()}
        return weights


class _Classifier(nn.Module):
    """The classifier on the maps that a layer reads: standardized, rectified, averaged over places, and linear."""

    def __init__(self, maps: Tensor, labels: Tensor, classes: int, axis: int) -> None:
        super().__init__()
        self.axis = axis % maps.dim()
        self.measure(maps)
        pooled = self.features(maps)
        theta = pooled.new_zeros(classes, pooled.shape[1] + 1).requires_grad_()
        solver = torch.optim.LBFGS([theta], max_iter=50, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            solver.zero_grad()
            with torch.enable_grad():
                logits = pooled @ theta[:, :-1].T + theta[:, -1]
                value = nn.functional.cross_entropy(logits, labels) + 1e-3 * theta.square().sum()
            value.backward()
            return value

        solver.step(objective)
        self.theta = nn.Parameter(theta.detach())

    def measure(self, maps: Tensor) -> None:
        """Take the mean and the deviation of each channel from these maps."""
        axes = [i for i in range(maps.dim()) if i != self.axis]
        variance, mean = torch.var_mean(maps, axes, correction=0, keepdim=True)
        self.average, self.deviation = mean, (variance + 1e-5).sqrt()

    def features(self, maps: Tensor) -> Tensor:
        """F = AvgPool(ReLU(BN(O))); units without places are only standardized, and keep their signs."""
        standard = (maps - self.average) / self.deviation
        return torch.relu(standard).movedim(self.axis, 1).flatten(2).mean(2) if maps.dim() > 2 else standard

    def forward(self, maps: Tensor) -> Tensor:
        if self.training:  # as batch norm does
            self.measure(maps)
        return self.features(maps) @ self.theta[:, :-1].T + self.theta[:, -1]


def _some(batches: list[Split]) -> Split:
    """The first batches, about ``SAMPLES`` samples."""
    n = -(-SAMPLES // len(batches[0]))
    return Split(torch.cat([b.images for b in batches[:n]]), torch.cat([b.labels for b in batches[:n]]))


@torch.no_grad()
def _classifiers(
    model: nn.Module, groups: list[structure.Group], batches: list[Split], wanted: int
) -> dict[str, _Classifier]:
    """Name of a layer -> the classifier fitted to the maps that this layer reads."""
    if not wanted:
        return {}
    some = _some(batches)
    logits, inputs, _ = _run(model, {}, some.images, dict.fromkeys(name for g in groups for name in g.consumers))
    names = list(inputs)
    places = sorted({len(names) * (i + 1) // (wanted + 1) for i in range(wanted)} - {0})
    axes = {name: -1 if isinstance(model.get_submodule(name), nn.Linear) else 1 for name in names}
    return {
        names[i]: _Classifier(inputs[names[i]], some.labels, logits.shape[1], axes[names[i]]).eval()
        for i in places
        if i < len(names)
    }


def _tune(
    model: nn.Module,
    classifier: _Classifier | None,
    place: str | None,
    batches: list[Split],
    learning_rate: float,
    inside: Weights,
) -> None:
    """Train the network on the classifier's loss and on its own in turn; removed weights stay at zero."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    update = torch.optim.SGD([*parameters, *([classifier.theta] if classifier else [])], lr=learning_rate, momentum=0.9)
    both = [model, *([classifier] if classifier else [])]
    for part in both:
        part.train()
    for batch in batches:
        for which in (classifier, None) if classifier else (None,):
            with torch.enable_grad(), _flow(model, [place] if place else []) as (inputs, _):
                logits = running.logits(model, batch.images)
                loss = nn.functional.cross_entropy(which(inputs[place or ""]) if which else logits, batch.labels)
            update.zero_grad()
            loss.backward()
            update.step()
            with torch.no_grad():
                for name, mask in inside.items():
                    layer_named(model, name).weight.mul_(mask)
    update.zero_grad()
    for part in both:
        part.eval()
    if classifier and place:
        with torch.no_grad():
            classifier.measure(_run_until(model, {}, _some(batches).images, [place])[0][place])


def _first_after(model: nn.Module, trained: Weights, split: Split, extra: dict[str, _Classifier]) -> str | None:
    """The first extra classifier whose maps depend on each of these weights; None if only the output does."""
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in trained.items()}
        _, inputs, _ = _run(model, leaves, split.images[:1], extra)
        for name in extra:
            reached = inputs[name].requires_grad and torch.autograd.grad(
                inputs[name].sum(), list(leaves.values()), retain_graph=True, allow_unused=True
            )
            if reached and all(slope is not None for slope in reached):
                return name
    return None
