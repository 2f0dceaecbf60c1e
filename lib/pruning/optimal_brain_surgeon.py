r"""Optimal Brain Surgeon: delete the weight that costs least when all the others may move to make up for it.

At a minimum with second derivatives :math:`H`, minimise :math:`\tfrac12 \delta w^\top H \delta w` under
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
from lib.weights import layers

LARGEST = 25_000  # parameters; the inverse then takes 5 GB
CHOICES = ("surgeon", "damage", "magnitude")


@dataclass(frozen=True)
class Surgery:
    """What was deleted, in order: numbers in the vector of parameters, and the loss that each was to cost."""

    kept: dict[str, Tensor]
    deleted: Tensor
    costs: Tensor


# -- the whole network -------------------------------------------------------------------------------------------------


def gauss_newton_rows(model: nn.Module, data: Split) -> Tensor:
    """X, (samples · classes, parameters), float64: XᵀX / samples is the Gauss-Newton matrix of the cross-entropy."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    count = sum(p.numel() for p in parameters.values())
    if len(data) == 0:
        raise ValueError("the split to measure the curvature on is empty: at least one sample is needed")
    if count > LARGEST:
        raise ValueError(f"{count:,} parameters are too many for one matrix ({LARGEST:,} at most): use prune_layers")
    model.eval()
    # each sample gets its own copy of the parameters, so that its gradients stay its own
    own = {name: p.expand(len(data), *p.shape).clone().requires_grad_() for name, p in parameters.items()}
    images = data.images.to(next(iter(parameters.values())).dtype)

    def one(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (x[None],))[0]

    logits = torch.func.vmap(one)(own, images)
    columns = factor(logits.detach()).unbind(dim=2)
    rows = [torch.autograd.grad(logits, list(own.values()), column, retain_graph=True) for column in columns]
    return torch.stack([torch.cat([g.flatten(1) for g in row], dim=1) for row in rows], dim=1).flatten(0, 1).double()


def inverse_hessian(rows: Tensor, *, samples: int, alpha: float, block: int = 256) -> Tensor:
    """(alpha I + rowsᵀ rows / samples)⁻¹ by the recursion, ``block`` rows at a time; 1 is the paper's."""
    if not alpha > 0 or samples < 1 or block < 1:
        raise ValueError(f"alpha must be above 0, samples and block 1 or more, not {alpha}, {samples} and {block}")
    inverse = torch.eye(rows.shape[1], dtype=torch.float64) / alpha
    for x in rows.split(block):
        side = inverse @ x.T
        # H⁻¹ ← H⁻¹ - H⁻¹ Xᵀ (N + X H⁻¹ Xᵀ)⁻¹ X H⁻¹
        inverse -= side @ torch.linalg.solve(samples * torch.eye(len(x), dtype=torch.float64) + x @ side, side.T)
    return (inverse + inverse.T) / 2


def remove(weights: Tensor, inverse: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Delete the chosen weights together: the weights (exact zeros there), the inverse without them, and the loss.

    weights: (n,), inverse: (n, n), chosen: numbers of the weights (k,). Rows and columns deleted become zero.
    """
    side = inverse[:, chosen]
    solved = torch.linalg.solve(side[chosen], torch.cat([weights[chosen, None], side.T], dim=1))
    cost = weights[chosen] @ solved[:, 0] / 2
    weights = weights - side @ solved[:, 0]
    inverse = torch.addmm(inverse, side, solved[:, 1:], alpha=-1)
    weights[chosen] = inverse[chosen] = inverse[:, chosen] = 0.0
    return weights, inverse, cost


def prune(
    model: nn.Module,
    data: Split,
    *,
    delete: int,
    alpha: float,
    refresh: int = 50,
    kept: Mapping[str, Tensor] | None = None,
) -> Surgery:
    """Delete ``delete`` parameters (weights and biases) one after the other; all others move each time. In place.

    alpha: the weight decay of the objective at whose minimum the network is, or a small number.
    refresh: deletions after which the second derivatives are taken anew, at the place to which the weights have moved.
    kept: parameter name -> bool mask of what is still there; by default everything.
    """
    parameters = dict(model.named_parameters())
    alive = torch.cat([(kept or {}).get(n, torch.ones_like(p)).bool().flatten() for n, p in parameters.items()])
    if not 0 <= delete <= int(alive.sum()) or refresh < 1:
        raise ValueError(f"delete must be in 0..{int(alive.sum())} and refresh 1 or more, not {delete} and {refresh}")
    weights = nn.utils.parameters_to_vector(parameters.values()).detach().double() * alive
    deleted, costs = [], []
    for done in range(delete):
        if done % refresh == 0:
            nn.utils.vector_to_parameters(weights.to(next(iter(parameters.values())).dtype), parameters.values())
            rows = gauss_newton_rows(model, data)
            inverse = inverse_hessian(rows * alive, samples=len(data), alpha=alpha)
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
    """A minimum on the way down: what is left, where it is, its mean cross-entropy and its training error."""

    kept: dict[str, Tensor]
    parameters: Tensor
    loss: float
    error_pct: float

    @property
    def size(self) -> int:
        """How many parameters are left."""
        return sum(int(mask.sum()) for mask in self.kept.values())


def path(model: nn.Module, data: Split, *, weight_decay: float, choose_by: str = "surgeon") -> list[Stage]:
    """The paper's whole procedure, to the end: delete one parameter, train to the next minimum, take H anew, go on.

    choose_by: "surgeon" (L_q, and the others move at once), or for comparison "damage" (h_qq w_q² / 2) and "magnitude"
    (w_q²), where the others move in the training only. The first stage is the whole network at its minimum, the last
    has one parameter. ``model`` is left at the last stage; :func:`put` brings it to another.
    """
    if choose_by not in CHOICES:
        raise ValueError(f"choose_by must be one of {', '.join(CHOICES)}, not {choose_by!r}")
    if not weight_decay > 0:
        raise ValueError(f"weight_decay must be above 0, so that there is an inverse, not {weight_decay}")
    data = Split(data.images.to(next(model.parameters()).dtype), data.labels)
    alive = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.bool)
    stages: list[Stage] = []
    while alive.any():
        kept = _masks(model, alive)
        training.minimise(model, data, weight_decay=weight_decay, kept=kept)
        weights = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(running.logits(model, data.images), data.labels)
        stages.append(Stage(kept, weights, loss.item(), training.error_pct(model, data)))
        rows = gauss_newton_rows(model, data) * alive
        inverse = inverse_hessian(rows, samples=len(data), alpha=weight_decay)
        curvature = rows.square().sum(dim=0) / len(data) + weight_decay
        stiffness = {"surgeon": 1 / inverse.diagonal(), "damage": curvature, "magnitude": torch.ones_like(curvature)}
        costs = torch.where(alive, stiffness[choose_by] * weights.square() / 2, torch.inf)
        q = costs.argmin()
        alive[q] = False
        if choose_by == "surgeon":
            nn.utils.vector_to_parameters(remove(weights.double(), inverse, q[None])[0].to(weights), model.parameters())
    return stages


def put(model: nn.Module, stage: Stage) -> nn.Module:
    """Bring the network to a stage of its path. In place; returns the model."""
    nn.utils.vector_to_parameters(stage.parameters, model.parameters())
    return model


def shortest(stages: list[Stage], samples: int) -> Stage:
    """The smallest stage whose training error is worth its size; no test sample is asked.

    N · loss + parameters · ln(N) / 2 is the length, in nats, of a description of the training labels: a deletion pays
    while it costs less than the half logarithm that a parameter is worth. The stage with the shortest description sets
    the training error to bear, and the smallest stage with no more of it is taken.
    """
    best = min(stages, key=lambda stage: samples * stage.loss + stage.size * math.log(samples) / 2)
    return min((s for s in stages if s.error_pct <= best.error_pct), key=lambda stage: stage.size)


def _masks(model: nn.Module, alive: Tensor) -> dict[str, Tensor]:
    parts = alive.split([p.numel() for p in model.parameters()])
    return {
        name: part.reshape(p.shape).clone() for part, (name, p) in zip(parts, model.named_parameters(), strict=True)
    }


# -- layer by layer ----------------------------------------------------------------------------------------------------


def prune_layers(
    model: nn.Module,
    data: Split,
    *,
    density: float | Mapping[str, float],
    alpha: float = 1e-4,
    at_once: float = 0.1,
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """Prune every linear and 2-d convolution layer to ``density``, each by its own surgery. In place.

    density: share of the weights to keep in each layer, or in each layer of a mapping. Biases stay, and move.
    alpha: added to the diagonal of H. at_once: share of a row's weights that go in one step (always one at least).
    The layers' inputs are those of the dense network. Returns layer name -> bool mask; the pruned weights are zeros of
    a dense model. Raises ValueError on an empty split, a density outside (0, 1] and a layer of another kind.
    """
    if len(data) == 0:
        raise ValueError("the split to measure the layers' inputs on is empty: at least one sample is needed")
    found = {name: layer for name, layer in layers(model) if isinstance(layer, nn.Linear | nn.Conv2d)}
    shares = density if isinstance(density, Mapping) else dict.fromkeys(found, density)
    for name, share in shares.items():
        if name not in found:
            raise ValueError(f"no linear or 2-d convolution layer is called {name!r}: there are {', '.join(found)}")
        if not 0 < share <= 1:
            raise ValueError(f"density must be in (0, 1], not {share}")
    if not alpha > 0 or not 0 <= at_once < 1:
        raise ValueError(f"alpha must be above 0 and at_once in [0, 1), not {alpha} and {at_once}")
    masks = {name: torch.ones_like(found[name].weight, dtype=torch.bool) for name in shares}
    shares = {name: share for name, share in shares.items() if share < 1}
    hessians = dict.fromkeys(shares, 0.0)
    with running.captured(model.eval(), shares) as flow, torch.no_grad():
        for images in data.images.split(batch_size):
            running.logits(model, images)
            for name in shares:
                x = columns(found[name], flow.inputs[name]).double()  # (blocks, columns, inputs)
                hessians[name] = hessians[name] + x.mT @ x / len(data)
    for name, share in shares.items():
        with torch.no_grad():
            masks[name] = _prune_layer(found[name], hessians[name], share, alpha, at_once)
    return masks


def columns(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """What each row of the weight is multiplied with, (groups, samples · places, inputs [+ 1 for the bias])."""
    if isinstance(layer, nn.Linear):
        x = inputs.reshape(1, -1, layer.in_features)
    else:
        how = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
        x = nn.functional.unfold(inputs, layer.kernel_size, **how)
        x = x.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return x if layer.bias is None else torch.cat([x, torch.ones_like(x[..., :1])], dim=2)


def _prune_layer(layer: nn.Module, hessian: Tensor, share: float, alpha: float, at_once: float) -> Tensor:
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
    found, highest = torch.zeros(size, dtype=torch.float64), 0.0
    while left := int((alive < size).sum()):
        costs = torch.where(alive < size, weights.square() / (2 * inverse.diagonal()), torch.inf)
        order = costs.argsort()
        chosen, stay = order.tensor_split([max(1, int(at_once * left))])
        found[alive[chosen]] = highest = costs[chosen].clamp(min=highest)
        highest = float(highest[-1])
        # as in remove(), but only for what stays: nine tenths of the time goes into this
        side = inverse.index_select(0, chosen)
        solved = torch.linalg.solve(side[:, chosen], torch.cat([weights[chosen, None], side[:, stay]], dim=1))
        inverse = inverse.index_select(0, stay).index_select(1, stay).addmm_(side[:, stay].T, solved[:, 1:], alpha=-1)
        weights = weights[stay] - side[:, stay].T @ solved[:, 0]
        alive = alive[stay]
    return found
