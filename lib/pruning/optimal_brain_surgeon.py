r"""Optimal Brain Surgeon: delete the weight that costs least when all the others may move to make up for it.

At a minimum with second derivatives :math:`H`, minimize :math:`\tfrac12 \delta w^\top H \delta w` under
:math:`e_q^\top \delta w + w_q = 0` (hassibi1992obs). The others move by, and the loss grows by,

.. math:: \delta w = -\frac{w_q}{[H^{-1}]_{qq}} H^{-1} e_q, \qquad L_q = \frac{w_q^2}{2 [H^{-1}]_{qq}}.

Delete the q of the least :math:`L_q`, move the others, take q out of the inverse, and go on. With a set S for q this is

.. math:: \delta w = -H^{-1}_{:S} (H^{-1}_{SS})^{-1} w_S, \qquad
    H^{-1} \leftarrow H^{-1} - H^{-1}_{:S} (H^{-1}_{SS})^{-1} H^{-1}_{S:}.

*The whole network.* :math:`H = \alpha I + \frac1N X^\top X` is the Gauss-Newton matrix; X has a row for each sample and
class, the gradients of the logits times the factor S of :mod:`lib.pruning.optimal_brain_damage`. The inverse comes from
:math:`\alpha^{-1} I` by the recursion of the paper, here some rows at a time (Woodbury's identity). It holds n x n
numbers for n parameters: 5 GB at 25,000. :math:`\alpha` is the weight decay where the objective has one.

*Layer by layer.* The output i of a linear layer changes by :math:`\delta w_i^\top x`, which no other row of its
weight touches. So the squared error of the outputs has one block :math:`H = \frac1N \sum_n x_n x_n^\top` for each row,
the same for all: 785 x 785 in the first layer of LeNet-300-100, not 235,500 x 235,500. What is given up are the terms
between rows, between layers, and the slope of what follows; within a row the update is exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning.optimal_brain_damage import factor
from lib.pruning.shared import selection
from lib.weights import check_one_of, layers

LARGEST = 25_000  # parameters; the inverse then takes 5 GB
CHOICES = ("surgeon", "damage", "magnitude")


@dataclass(frozen=True)
class Surgery:
    """What was deleted.

    masks: parameter name -> bool mask, True where a parameter is kept.
    deleted: (n,), numbers in the vector of all parameters, in the order of the deletions.
    costs: (n,), how much each deletion was predicted to raise the loss.
    """

    masks: dict[str, Tensor]
    deleted: Tensor
    costs: Tensor


# -- the whole network -------------------------------------------------------------------------------------------------


def gauss_newton_rows(model: nn.Module, split: Split) -> Tensor:
    """Compute the factor X of the Gauss-Newton matrix of the mean cross-entropy, XᵀX / samples.

    model: a classifier of at most 25,000 parameters, which is looked at in evaluation mode and is not changed.
    split: samples over which the cross-entropy is averaged.

    Returns X, (samples · classes, parameters), float64.
    Raises ValueError for an empty split and a larger network.

        >>> gauss_newton_rows(nn.Linear(4, 3), Split(torch.rand(5, 4), torch.arange(5) % 3)).shape
        torch.Size([15, 15])
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    count = sum(p.numel() for p in parameters.values())
    split.check_not_empty("to measure the curvature")
    if count > LARGEST:
        raise ValueError(
            f"{count:,} parameters are too many for one matrix ({LARGEST:,} at most): use operate_by_layer"
        )
    # each sample gets its own copy of the parameters, so that its gradients stay its own
    own = {name: p.expand(len(split), *p.shape).clone().requires_grad_() for name, p in parameters.items()}
    images = split.images.to(next(iter(parameters.values())).dtype)

    def one(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (x[None],))[0]

    with running.evaluating(model):
        logits = torch.func.vmap(one)(own, images)
    columns = factor(logits.detach()).unbind(dim=2)
    rows = [torch.autograd.grad(logits, list(own.values()), column, retain_graph=True) for column in columns]
    return torch.stack([torch.cat([g.flatten(1) for g in row], dim=1) for row in rows], dim=1).flatten(0, 1).double()


def inverse_hessian(rows: Tensor, *, samples: int, alpha: float, block: int = 256) -> Tensor:
    """Invert alpha I + rowsᵀ rows / samples by the recursion of the paper, some rows at a time.

    rows: the factor X, (rows, parameters), float64, from :func:`gauss_newton_rows`.
    samples: N, 1 or more.
    alpha: above 0; the weight decay of the objective, or a small number.
    block: rows at a time, 1 or more; the paper takes 1.

    Returns the inverse, (parameters, parameters), float64.
    Raises ValueError for a value that is not accepted.
    Source: hassibi1992obs, its recursion for the inverse.

        >>> inverse_hessian(torch.ones(1, 1, dtype=torch.float64), samples=1, alpha=1.0).item()
        0.5
    """
    if not alpha > 0 or samples < 1 or block < 1:
        raise ValueError(f"alpha must be above 0, samples and block 1 or more, not {alpha}, {samples} and {block}")
    # method
    inverse = torch.eye(rows.shape[1], dtype=torch.float64) / alpha
    for x in rows.split(block):
        side = inverse @ x.T
        # H⁻¹ ← H⁻¹ - H⁻¹ Xᵀ (N + X H⁻¹ Xᵀ)⁻¹ X H⁻¹
        inverse -= side @ torch.linalg.solve(samples * torch.eye(len(x), dtype=torch.float64) + x @ side, side.T)
    # end of method
    return (inverse + inverse.T) / 2


def remove(weights: Tensor, inverse: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Delete the chosen weights together, and move all others to where the loss grows least.

    weights: (n,).
    inverse: the inverse of the second derivatives, (n, n).
    chosen: numbers of the weights to delete, (k,).

    Returns the weights, with exact zeros at the chosen; the inverse without them, whose deleted rows and columns are
    zero; and how much the loss grows.

        >>> weights, inverse, cost = remove(torch.tensor([1.0, 3.0]), torch.eye(2), torch.tensor([0]))
        >>> weights.tolist(), cost.item()
        ([0.0, 3.0], 0.5)
    """
    # method
    side = inverse[:, chosen]
    solved = torch.linalg.solve(side[chosen], torch.cat([weights[chosen, None], side.T], dim=1))
    cost = weights[chosen] @ solved[:, 0] / 2
    weights = weights - side @ solved[:, 0]
    inverse = torch.addmm(inverse, side, solved[:, 1:], alpha=-1)
    weights[chosen] = inverse[chosen] = inverse[:, chosen] = 0.0
    return weights, inverse, cost
    # end of method


def operate(
    model: nn.Module,
    split: Split,
    *,
    delete: int,
    alpha: float,
    refresh: int = 50,
    masks: Mapping[str, Tensor] | None = None,
) -> Surgery:
    """Delete parameters of a small network one after the other; all others move each time. In place.

        >>> model, split = nn.Linear(4, 3), Split(torch.rand(9, 4), torch.arange(9) % 3)
        >>> surgery = operate(model, split, delete=6, alpha=1e-3)
        >>> sum(int(p.count_nonzero()) for p in model.parameters())
        9

    model: a classifier of at most 25,000 parameters, best at a minimum of its objective.
    split: samples over which the cross-entropy is averaged.
    delete: how many parameters (weights and biases) are deleted, 0 or more.
    alpha: above 0; the weight decay of the objective, or a small number.
    refresh: the second derivatives are computed again, at the weights reached by then, after this many deletions; 1 or
        more.
    masks: parameter name -> bool mask of the shape of the parameter, True where it has not been deleted before; by
        default all parameters are there.

    Returns the :class:`Surgery`.
    Raises ValueError for a value that is not accepted, an empty split, a mask that fits no parameter and a larger
    network.
    Source: hassibi1992obs.
    """
    parameters = dict(model.named_parameters())
    selection.check_masks(masks or {}, parameters)
    alive = torch.cat([(masks or {}).get(n, torch.ones_like(p)).bool().flatten() for n, p in parameters.items()])
    if not 0 <= delete <= int(alive.sum()) or refresh < 1:
        raise ValueError(f"delete must be in 0..{int(alive.sum())} and refresh 1 or more, not {delete} and {refresh}")
    weights = nn.utils.parameters_to_vector(parameters.values()).detach().double() * alive
    deleted, costs = [], []
    for done in range(delete):
        if done % refresh == 0:
            nn.utils.vector_to_parameters(weights.to(next(iter(parameters.values())).dtype), parameters.values())
            rows = gauss_newton_rows(model, split)
            inverse = inverse_hessian(rows * alive, samples=len(split), alpha=alpha)
        # L_q = w_q² / (2 [H⁻¹]_qq)
        costs_now = torch.where(alive, weights.square() / (2 * inverse.diagonal()), torch.inf)
        q = costs_now.argmin()
        weights, inverse, cost = remove(weights, inverse, q[None])
        alive[q] = False
        deleted.append(q)
        costs.append(cost)
    nn.utils.vector_to_parameters(weights.to(next(iter(parameters.values())).dtype), parameters.values())
    return Surgery(_masks(model, alive), torch.tensor(deleted), torch.tensor(costs))


@dataclass(frozen=True)
class Stage:
    """A minimum on the way down.

    masks: parameter name -> bool mask, True where a parameter is left.
    parameters: (parameters,), the vector of all parameters at the minimum.
    loss: mean cross-entropy on the training split.
    error_pct: training error, in percent.
    """

    masks: dict[str, Tensor]
    parameters: Tensor
    loss: float
    error_pct: float

    @property
    def size(self) -> int:
        """Count the parameters that are left."""
        return sum(int(mask.sum()) for mask in self.masks.values())


def path(model: nn.Module, split: Split, *, weight_decay: float, choose_by: str = "surgeon") -> list[Stage]:
    """Follow the paper's whole procedure: delete one parameter, train to the next minimum, and repeat to the end.

    model: a small classifier, best in float64. It is left at the last stage; :func:`put` brings it to another.
    split: training samples.
    weight_decay: of the objective, above 0.
    choose_by: "surgeon" (default) deletes the parameter of the least L_q and moves the others at once. For comparison,
        "damage" goes by h_qq w_q² / 2 and "magnitude" by w_q², and the others move in the training only.

    Returns the stages: the first is the whole network at its minimum, the last has one parameter.
    Raises ValueError for a value that is not accepted and an empty split.
    Source: hassibi1992obs.
    """
    check_one_of("choose_by", choose_by, CHOICES)
    if not weight_decay > 0:
        raise ValueError(f"weight_decay must be above 0, so that there is an inverse, not {weight_decay}")
    split = Split(split.images.to(next(model.parameters()).dtype), split.labels)
    alive = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.bool)
    stages: list[Stage] = []
    while alive.any():
        masks = _masks(model, alive)
        training.minimize(model, split, weight_decay=weight_decay, masks=masks)
        weights = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(running.logits(model, split.images), split.labels)
        stages.append(Stage(masks, weights, loss.item(), training.error_pct(model, split)))
        rows = gauss_newton_rows(model, split) * alive
        inverse = inverse_hessian(rows, samples=len(split), alpha=weight_decay)
        curvature = rows.square().sum(dim=0) / len(split) + weight_decay
        stiffness = {"surgeon": 1 / inverse.diagonal(), "damage": curvature, "magnitude": torch.ones_like(curvature)}
        costs = torch.where(alive, stiffness[choose_by] * weights.square() / 2, torch.inf)
        q = costs.argmin()
        alive[q] = False
        if choose_by == "surgeon":
            nn.utils.vector_to_parameters(remove(weights.double(), inverse, q[None])[0].to(weights), model.parameters())
    return stages


def put(model: nn.Module, stage: Stage) -> nn.Module:
    """Bring the network to a stage of its path. In place; returns the model.

    model: the network that :func:`path` pruned, or one of the same layers.
    stage: where to bring it.
    """
    nn.utils.vector_to_parameters(stage.parameters, model.parameters())
    return model


def shortest(stages: list[Stage], samples: int) -> Stage:
    """Choose where to stop, by the training samples alone: the smallest stage whose training error is worth its size.

    N · loss + parameters · ln(N) / 2 is the length, in nats, of a description of the training labels: a deletion pays
    while it costs less than the half logarithm that a parameter is worth. The stage of the shortest description sets
    the training error to accept, and the smallest stage that has no more is taken.

    stages: from :func:`path`, at least one.
    samples: N, how many samples they were trained on.
    """
    # method
    best = min(stages, key=lambda stage: samples * stage.loss + stage.size * math.log(samples) / 2)
    return min((s for s in stages if s.error_pct <= best.error_pct), key=lambda stage: stage.size)
    # end of method


def _masks(model: nn.Module, alive: Tensor) -> dict[str, Tensor]:
    parts = alive.split([p.numel() for p in model.parameters()])
    return {
        name: part.reshape(p.shape).clone() for part, (name, p) in zip(parts, model.named_parameters(), strict=True)
    }


# -- layer by layer ----------------------------------------------------------------------------------------------------


def operate_by_layer(
    model: nn.Module,
    split: Split,
    *,
    density: float | Mapping[str, float],
    alpha: float = 1e-4,
    at_once: float = 0.1,
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """Prune every linear and 2-d convolution layer of a network by its own surgery. In place.

    Biases stay, and move. The inputs of all layers are those of the dense network. The model stays dense, and its
    pruned weights are zeros.

        >>> layer, split = nn.Linear(6, 4), Split(torch.rand(30, 6), torch.arange(30) % 4)
        >>> operate_by_layer(layer, split, density=0.5)[""].sum().item()
        12

    model: any network.
    split: samples that show what each layer reads.
    density: share of the weights to keep in each of these layers, in (0, 1], or layer name -> share; layers not named
        are left alone.
    alpha: above 0, added to the diagonal of H.
    at_once: share of a row's weights that go in one step, in [0, 1); one at least goes.
    batch_size: samples at a time, 1 or more. Default 500.

    Returns layer name -> bool mask of the shape of the weight, True where it is kept.
    Raises ValueError for a value that is not accepted, an empty split, and a layer that does not exist or is of another
    kind.
    """
    split.check_not_empty("to see what the layers read")
    modules: dict[str, nn.Module] = dict(layers(model))
    prunable = {name: layer for name, layer in modules.items() if isinstance(layer, nn.Linear | nn.Conv2d)}
    shares = selection.shares_by_layer(density, prunable)
    if not alpha > 0 or not 0 <= at_once < 1 or batch_size < 1:
        raise ValueError(
            "alpha must be above 0, at_once in [0, 1) and batch_size 1 or more, not"
            f" {alpha}, {at_once} and {batch_size}"
        )
    masks = {name: torch.ones_like(prunable[name].weight, dtype=torch.bool) for name in shares}
    shares = {name: share for name, share in shares.items() if share < 1}
    hessians = {name: torch.zeros((), dtype=torch.float64) for name in shares}
    with running.evaluating(model), running.captured(model, shares) as flow, torch.no_grad():
        for images in split.images.split(batch_size):
            running.logits(model, images)
            for name in shares:
                x = columns(prunable[name], flow.inputs[name]).double()  # (blocks, columns, inputs)
                hessians[name] = hessians[name] + x.mT @ x / len(split)
    for name, share in shares.items():
        with torch.no_grad():
            masks[name] = _pruned(prunable[name], hessians[name], share, alpha, at_once)
    return masks


def columns(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Lay out what each row of a layer's weight is multiplied with; a bias is one more weight, whose input is 1.

    layer: linear, or a 2-d convolution.
    inputs: (n, ..., features), or (n, channels, height, width).

    Returns (groups, samples · places, inputs [+ 1 for the bias]).

        >>> columns(nn.Conv2d(2, 3, 5, bias=False), torch.rand(4, 2, 7, 7)).shape
        torch.Size([1, 36, 50])
    """
    if isinstance(layer, nn.Linear):
        x = inputs.reshape(1, -1, layer.in_features)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        x = nn.functional.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        x = x.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return x if layer.bias is None else torch.cat([x, torch.ones_like(x[..., :1])], dim=2)


def _pruned(layer: nn.Linear | nn.Conv2d, hessian: Tensor, share: float, alpha: float, at_once: float) -> Tensor:
    """Prune one layer in place; the mask of what is kept."""
    weight = layer.weight.flatten(1).double()
    size = weight.shape[1]
    rows = weight if layer.bias is None else torch.cat([weight, layer.bias.double()[:, None]], dim=1)
    hessian = hessian + alpha * torch.eye(hessian.shape[1], dtype=torch.float64)
    inverse = torch.linalg.inv(hessian)
    group = torch.arange(len(rows)) // (len(rows) // len(hessian))
    live = hessian.diagonal(dim1=1, dim2=2) > alpha  # an input that is always zero moves no other
    costs = alpha / 2 * weight.square()
    for cost, row, g in zip(costs, rows, group, strict=True):
        places = live[g].nonzero().flatten()
        inner = int((places < size).sum())
        cost[places[:inner]] = _costs(row[places], inverse[g][places][:, places], inner, at_once)
    mask = selection.largest(costs, share)
    kept = torch.cat([mask, torch.ones(len(rows), rows.shape[1] - size, dtype=torch.bool)], dim=1)
    for row, keep, g in zip(rows, kept, group, strict=True):
        # the minimum of (v - w)ᵀ H (v - w) over all v that are zero outside the mask
        best = torch.linalg.solve(hessian[g][keep][:, keep], hessian[g][keep] @ row)
        row.zero_()[keep] = best
    layer.weight.copy_(rows[:, :size].reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(rows[:, size])
    return mask.reshape(layer.weight.shape)


def _costs(weights: Tensor, inverse: Tensor, size: int, at_once: float) -> Tensor:
    """The loss at which each of the first ``size`` weights of a row goes, never less than that of one before it."""
    alive = torch.arange(len(weights))  # numbers of what is still there; the bias is never deleted
    losses, highest = torch.zeros(size, dtype=torch.float64), 0.0
    while left := int((alive < size).sum()):
        costs = torch.where(alive < size, weights.square() / (2 * inverse.diagonal()), torch.inf)
        order = costs.argsort()
        chosen, stay = order.tensor_split([max(1, int(at_once * left))])
        rising = costs[chosen].clamp(min=highest)
        losses[alive[chosen]] = rising
        highest = float(rising[-1])
        # as in remove(), but only for what stays: nine tenths of the time goes into this
        side = inverse.index_select(0, chosen)
        solved = torch.linalg.solve(side[:, chosen], torch.cat([weights[chosen, None], side[:, stay]], dim=1))
        inverse = inverse.index_select(0, stay).index_select(1, stay).addmm_(side[:, stay].T, solved[:, 1:], alpha=-1)
        weights = weights[stay] - side[:, stay].T @ solved[:, 0]
        alive = alive[stay]
    return losses
