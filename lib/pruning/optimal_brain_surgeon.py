r"""Optimal Brain Surgeon: delete the weight that costs least when all the others may move to make up for it.

At a minimum with second derivatives :math:`H`, minimize :math:`\tfrac12 \delta w^\top H \delta w` under
:math:`e_q^\top \delta w + w_q = 0` (hassibi1992obs). The others move by, and the loss grows by,

.. math:: \delta w = -\frac{w_q}{[H^{-1}]_{qq}} H^{-1} e_q, \qquad L_q = \frac{w_q^2}{2 [H^{-1}]_{qq}}.

Delete the q with the least :math:`L_q`, move the others, take q out of the inverse, and go on. For a set S instead of q
this is

.. math:: \delta w = -H^{-1}_{:S} (H^{-1}_{SS})^{-1} w_S, \qquad
    H^{-1} \leftarrow H^{-1} - H^{-1}_{:S} (H^{-1}_{SS})^{-1} H^{-1}_{S:}.

*The whole network.* :math:`H = \alpha I + \frac1N X^\top X` is the Gauss-Newton matrix; X has a row for each sample and
class, the gradients of the logits times the factor S of :mod:`lib.pruning.optimal_brain_damage`. The inverse comes from
:math:`\alpha^{-1} I` by the recursion of the paper, here some rows at a time (Woodbury's identity). It takes n x n
numbers for n parameters, 5 GB at 25,000, and is changed in place; only some rows of X are held at a time.
:math:`\alpha` is the weight decay, if the objective has one.

*Layer by layer.* Output i of a linear layer changes by :math:`\delta w_i^\top x`, in which no other row of its weight
takes part. So the squared error of the outputs has one block :math:`H = \frac1N \sum_n x_n x_n^\top` for each row, the
same for all: 785 x 785 in the first layer of LeNet-300-100, not 235,500 x 235,500. This gives up the terms between rows
and between layers, and the slope of what follows; within a row the update is exact. None of it is new. One matrix for
each layer is the idea of layer-wise Optimal Brain Surgeon (dong2017learning). The rest is Optimal Brain Compression
(frantar2022optimal): each row follows its own exact sequence of deletions, the losses of all rows are ranked together,
and each row is then solved again for its mask. Unlike it, ours deletes some weights of a row at once (``at_once``; 0
for one at a time), never ranks a deletion lower than those before it in its row, and counts the bias as a weight that
stays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib import running, training, weights
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.pruning.shared import gauss_newton, row_surgery, selection, uses
from lib.pruning.shared.gauss_newton import gauss_newton_rows as gauss_newton_rows
from lib.pruning.shared.gauss_newton import inverse_hessian
from lib.weights import decompress

CHOICES = ("surgeon", "damage", "magnitude")


@dataclass(frozen=True)
class Surgery:
    """What was deleted.

    masks: parameter name -> bool mask, True where a parameter is kept.
    deleted: (n,), indices into the vector of all parameters, in the order of the deletions.
    costs: (n,), how much each deletion was predicted to raise the loss.
    """

    masks: dict[str, Tensor]
    deleted: Tensor
    costs: Tensor


# -- the whole network -------------------------------------------------------------------------------------------------


def remove(
    weights: Tensor, inverse: Tensor, chosen: Tensor, *, in_place: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Delete the chosen weights together, and move all others to where the loss grows least.

    weights: (n,).
    inverse: the inverse of the second derivatives, (n, n).
    chosen: numbers of the weights to delete, (k,).
    in_place: whether to change and return ``inverse`` itself; default False, which makes a copy.

    Returns the weights, with exact zeros at the chosen; the inverse without them, whose deleted rows and columns are
    zero; and how much the loss grows.

        >>> weights, inverse, cost = remove(torch.tensor([1.0, 3.0]), torch.eye(2), torch.tensor([0]))
        >>> weights.tolist(), cost.item()
        ([0.0, 3.0], 0.5)
    """
    inverse = inverse if in_place else inverse.clone()
    # method
    side = inverse[:, chosen]
    solved = torch.linalg.solve(side[chosen], torch.cat([weights[chosen, None], side.T], dim=1))
    cost = weights[chosen] @ solved[:, 0] / 2
    weights = weights - side @ solved[:, 0]
    inverse.addmm_(side, solved[:, 1:], alpha=-1)
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
    """Delete parameters of a small network one at a time; all others move each time. In place.

        >>> model, split = nn.Linear(4, 3), Split(torch.rand(9, 4), torch.arange(9) % 3)
        >>> surgery = operate(model, split, delete=6, alpha=1e-3)
        >>> sum(int(p.count_nonzero()) for p in model.parameters())
        9

    model: a classifier of at most 25,000 parameters, best at a minimum of its objective.
    split: samples over which the cross-entropy is averaged.
    delete: how many parameters (weights and biases) are deleted, 0 or more.
    alpha: above 0; the weight decay of the objective, or a small number.
    refresh: after this many deletions, compute the second derivatives again at the current weights; 1 or more.
    masks: parameter name -> bool mask of the shape of the parameter, True where it has not been deleted before; by
        default none has.

    Returns the :class:`Surgery`.
    Raises ValueError for a value that is not accepted, an empty split, a mask that fits no parameter, and a network
    that :func:`gauss_newton_rows` refuses. The parameters are then left as they were.
    Source: hassibi1992obs.
    """
    parameters = dict(model.named_parameters())
    selection.check_masks(masks or {}, parameters)
    gauss_newton.check(model, split)
    alive = torch.cat([(masks or {}).get(n, torch.ones_like(p)).bool().flatten() for n, p in parameters.items()])
    if not 0 <= delete <= int(alive.sum()) or refresh < 1:
        raise ValueError(f"delete must be in 0..{int(alive.sum())} and refresh 1 or more, not {delete} and {refresh}")
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    before = nn.utils.parameters_to_vector(parameters.values()).detach().clone()
    weights = before.double() * alive
    deleted = torch.zeros(delete, dtype=torch.long, device=weights.device)
    costs, inverse = weights.new_zeros(delete), weights.new_empty(0)
    try:
        for done in range(delete):
            if done % refresh == 0:
                _put(weights, parameters)
                del inverse  # freed before the next one is made
                rows = (part * alive for part in gauss_newton.parts(model, split))
                inverse = inverse_hessian(rows, samples=len(split), alpha=alpha)
            # L_q = w_q² / (2 [H⁻¹]_qq)
            costs_now = torch.where(alive, weights.square() / (2 * inverse.diagonal()), torch.inf)
            q = costs_now.argmin()
            weights, inverse, costs[done] = remove(weights, inverse, q[None], in_place=True)
            alive[q], deleted[done] = False, q
    except ValueError:
        _put(before, parameters)
        raise
    _put(weights, parameters)
    return Surgery(_masks(model, alive), deleted, costs)


def _put(weights: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write a vector into the parameters, each in its own type."""
    parts = weights.split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for part, p in zip(parts, parameters.values(), strict=True):
            p.copy_(part.view_as(p))


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
    choose_by: "surgeon" (default) deletes the parameter with the least L_q and moves the others at once. For
        comparison, "damage" goes by h_qq w_q² / 2 and "magnitude" by w_q², and the others only move in training.

    Returns the stages: the first is the whole network at its minimum, the last has one parameter.
    Raises ValueError for a value that is not accepted and an empty split.
    Source: hassibi1992obs.
    """
    check_one_of("choose_by", choose_by, CHOICES)
    if not weight_decay > 0:
        raise ValueError(f"weight_decay must be above 0 (without it there is no inverse), not {weight_decay}")
    split = Split(running.fitted(model, split.images), split.labels)
    gauss_newton.check(model, split)
    alive = torch.ones_like(nn.utils.parameters_to_vector(model.parameters()), dtype=torch.bool)
    stages: list[Stage] = []
    while alive.any():
        masks = _masks(model, alive)
        training.minimize(model, split, weight_decay=weight_decay, masks=masks)
        weights = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(running.logits(model, split.images), split.labels)
        stages.append(Stage(masks, weights, loss.item(), training.error_pct(model, split)))
        stiffness = torch.ones_like(weights, dtype=torch.float64)
        if choose_by == "surgeon":
            rows = (part * alive for part in gauss_newton.parts(model, split))
            inverse = inverse_hessian(rows, samples=len(split), alpha=weight_decay)
            stiffness = 1 / inverse.diagonal()
        elif choose_by == "damage":
            parts = [(part * alive).square().sum(dim=0) for part in gauss_newton.parts(model, split)]
            stiffness = sum(parts[1:], parts[0]) / len(split) + weight_decay
        q = torch.where(alive, stiffness * weights.square() / 2, torch.inf).argmin()
        alive[q] = False
        if choose_by == "surgeon":
            moved, _, _ = remove(weights.double(), inverse, q[None], in_place=True)
            nn.utils.vector_to_parameters(moved.to(weights), model.parameters())
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
    off while it costs less than ln(N) / 2, the price of a parameter. The stage with the shortest description sets the
    training error to accept, and the smallest stage with no larger error is returned.

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
    at_most: float = 5e11,
) -> dict[str, Tensor]:
    """Prune every linear and 2-d convolution layer of a network, each by a surgery of its own. In place.

    Biases stay, and move. All layers are pruned with the inputs that they have in the dense network. The model stays
    dense, and its pruned weights are zeros.

        >>> layer, split = nn.Linear(6, 4), Split(torch.rand(30, 6), torch.arange(30) % 4)
        >>> operate_by_layer(layer, split, density=0.5)[""].sum().item()
        12

    model: any network.
    split: samples that show what each layer reads.
    density: share of the weights to keep in each of these layers, in (0, 1], or layer name -> share; layers not named
        are left alone.
    alpha: above 0, added to the diagonal of H.
    at_once: share of a row's remaining weights that go in one step, in [0, 1); at least one goes.
    batch_size: samples that run at a time, 1 or more. Default 500.
    at_most: multiply-adds that the surgery of one layer may take; about inputs³ / 3 for each row. Default 5e11, less
        than a minute on one core: 256 rows of 1,800 inputs. A matrix of inputs² numbers is held twice.

    Returns layer name -> bool mask of the shape of the weight, True where it is kept.
    Raises ValueError, before anything is changed, for a value that is not accepted, an empty split, inputs that are not
    finite, a layer that takes more than ``at_most``, a layer that does not exist or is of another kind, that did not
    run, or that shares its weight with another one. If ``density`` is one number, a weight that its module uses without
    calling a layer (attention's ``in_proj_weight``, an LSTM) is refused too: name the other layers then.
    Source: frantar2022optimal, with one matrix for each layer as in dong2017learning.
    """
    split.check_not_empty("to see what the layers read")
    if not alpha > 0 or not 0 <= at_once < 1 or batch_size < 1:
        raise ValueError(
            "alpha must be above 0, at_once in [0, 1) and batch_size 1 or more, not"
            f" {alpha}, {at_once} and {batch_size}"
        )
    prunable = _prunable(model, None if isinstance(density, Mapping) else density)
    shares = selection.shares_by_layer(density, prunable)
    masks = {name: torch.ones_like(prunable[name].weight, dtype=torch.bool) for name in shares}
    shares = {name: share for name, share in shares.items() if share < 1}
    chosen = {name: prunable[name] for name in shares}
    row_surgery.check(chosen, shares, at_most)
    hessians = row_surgery.second_moments(model, chosen, split, batch_size)
    found = {}
    for name, layer in chosen.items():
        rows = layer.weight.detach().flatten(1).double()
        size = rows.shape[1]
        if layer.bias is not None:
            rows = torch.cat([rows, layer.bias.detach().double()[:, None]], dim=1)
        options = {"share": shares[name], "alpha": alpha, "at_once": at_once}
        found[name] = row_surgery.prune(rows, hessians.pop(name), size, **options)
    with torch.no_grad():
        for name, (mask, rows) in found.items():
            layer = chosen[name]
            decompress(layer)
            masks[name] = mask.reshape(layer.weight.shape)
            layer.weight.copy_(rows[:, : mask.shape[1]].reshape(layer.weight.shape))
            if layer.bias is not None:
                layer.bias.copy_(rows[:, -1])
    return masks


def _prunable(model: nn.Module, density: float | None) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear and 2-d convolution layers; with one density for all, packed weights are refused."""
    there: dict[str, Any] = dict(weights.layers(model))
    for name, layer in there.items():
        if density is not None and not isinstance(layer, nn.Module):
            uses.watchable(model, [name])  # raises the error that says why
    prunable = {name: layer for name, layer in there.items() if isinstance(layer, nn.Linear | nn.Conv2d)}
    if not prunable:
        raise ValueError(f"{type(model).__name__} has no linear or 2-d convolution layer: there is nothing to prune")
    return prunable
