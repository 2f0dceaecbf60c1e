r"""Train, prune, retrain: remove the weights of small magnitude, and let the others learn to do without them.

A weight is kept if its magnitude reaches a threshold that depends on the spread of its layer,

.. math:: m_{ij} = \mathbb 1\big(\lvert w_{ij} \rvert \ge s\, \sigma\big), \qquad \hat w_{ij} = m_{ij} w_{ij},

with the quality parameter :math:`s` and the standard deviation :math:`\sigma` of the layer's weights (han2015learning,
section 3). Then the survivors are trained further from their current values. Repeating prune and retrain in small steps
removes far more than one large step. The file stores each survivor as a float and its place as a gap.

Three parts of the paper's procedure are left out. It lowers dropout for retraining (:func:`dropout_rate` says to what),
freezes the convolutions while it prunes the linear layers and vice versa, and removes neurons without inputs or
outputs.
"""

import math
from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.arguments import check_one_of
from lib.coding import gaps
from lib.datasets import Split
from lib.pruning.shared import selection
from lib.training import FitOptions
from lib.weights import (
    CompressedWeight,
    Encoding,
    Layer,
    PackedWeight,
    compress,
    compressed_form,
    decompress,
    layers,
    tied,
)

SCOPES = ("layer", "global")


class PrunedWeight(CompressedWeight):
    """A weight times a mask: what is pruned is exactly zero and gets no gradient.

    The mask decides what is pruned: a weight that is kept and happens to be zero can be trained. A file holds only
    values, so it cannot tell this weight from a pruned one.

    mask: 1 where a weight is kept and 0 where it is pruned, or bool, of the shape of the weight.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask if mask.is_floating_point() else mask.float())

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.forward(weight)

    # method
    def forward(self, weight: Tensor) -> Tensor:
        mask = self.mask.to(weight.dtype)
        return (weight * mask).add_(0.0)  # adding zero turns the -0 of a pruned negative weight into 0

    # end of method

    def encode(self, weight: Tensor) -> Encoding:
        flat = self.forward(weight).detach().flatten().float().cpu()
        places = flat.nonzero().flatten()
        if 33 * len(places) > 32 * len(flat):  # too dense for gaps to pay off
            return Encoding(tables={"value": flat})
        fields, kept = gaps.encode(places.numpy(), gaps.best_bits(places.numpy(), filler_bits=32))
        values = flat.new_zeros(len(fields))
        values[torch.from_numpy(kept)] = flat[places]
        return Encoding(symbols={"gap": torch.from_numpy(fields)}, tables={"value": values})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        if "gap" not in encoding.symbols:
            return encoding.tables["value"].reshape(shape)
        return gaps.scatter(encoding.symbols["gap"], encoding.tables["value"], shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"gap": shape.numel()}, {"value": shape.numel()}


def threshold(weight: Tensor, quality: float) -> float:
    """Return the magnitude below which the weights of a layer are pruned: ``quality`` standard deviations.

    weight: all weights of one layer, of any shape.
    quality: the quality parameter s, 0 or larger.

    Raises ValueError for a negative quality.
    """
    if not quality >= 0:
        raise ValueError(f"the quality parameter must be 0 or larger, not {quality}")
    # method
    return quality * weight.std(correction=0).item()
    # end of method


def masks(
    model: nn.Module,
    *,
    density: float | Mapping[str, float] | None = None,
    quality: float | None = None,
    scope: str = "layer",
) -> dict[str, Tensor]:
    """Choose the weights to keep, those of the largest magnitude, either by their share or by a threshold.

    model: any network; all weights that :func:`lib.weights.layers` lists count: those of its linear, convolution,
        embedding, attention and recurrent layers.
    density: share of the weights to keep, in (0, 1], or layer name -> share; layers not named are left alone.
    quality: keep magnitudes of at least this many standard deviations of their layer, 0 or larger. Exactly one of
        density and quality is given.
    scope: "layer" (default) keeps the share ``density`` of each layer; "global" keeps this share of all weights
        together, with the same quality parameter for all layers.

    Returns layer name -> bool mask of the shape of the weight, True where it is kept. A weight that is pruned already,
    or zero in a dense layer, is never kept, so masks of falling densities are nested. The exception is a dense layer of
    zeros only, which has not been trained yet. Between equal magnitudes, the first ones are kept.
    Raises ValueError for both or neither of density and quality, for a value that is not accepted, a layer that does
    not exist, weights that are not finite, and a model that has no layer with a weight.
    """
    _check_scope(scope, density)
    weights = _weights(model)
    if (density is None) == (quality is None):
        raise ValueError("give exactly one of density and quality")
    shares = selection.shares_by_layer(1.0 if density is None else density, weights)
    ranked = {name: _ranked(name, weights[name].weight) for name in shares}
    candidates = {name: _candidates(weights[name]) for name in shares}
    # method
    if quality is not None:
        return {name: (w.abs() >= threshold(w, quality)) & candidates[name] for name, w in ranked.items()}
    # end of method
    if scope == "global":
        scaled = {name: w.abs() / w.std(correction=0).clamp_min(1e-30) for name, w in ranked.items()}
        return selection.largest_together(scaled, next(iter(shares.values())), candidates=candidates)
    # method
    return {name: selection.largest(w.abs(), shares[name], candidates=candidates[name]) for name, w in ranked.items()}
    # end of method


def _weights(model: nn.Module) -> dict[str, Layer | PackedWeight]:
    found = dict(layers(model))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    return found


def _ranked(name: str, weight: Tensor) -> Tensor:
    """The weight in 32 bits or more: in half precision, the standard deviation would have only three digits."""
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weights of layer {name!r} hold NaN or infinity: finite ones are needed")
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _candidates(layer: Layer | PackedWeight) -> Tensor:
    """A bool mask of the weights that are not pruned yet."""
    form = compressed_form(layer)
    if form is not None and isinstance(form[0], PrunedWeight):
        return form[0].mask != 0
    kept = layer.weight.detach() != 0
    return kept if kept.any() else torch.ones_like(kept)


def _check_scope(scope: str, density: float | Mapping[str, float] | None) -> None:
    check_one_of("scope", scope, SCOPES)
    if scope == "global" and isinstance(density, Mapping):
        raise ValueError(f"density must be one number with scope='global', not one for each layer: {dict(density)}")


def prune(
    model: nn.Module,
    *,
    density: float | Mapping[str, float] | None = None,
    quality: float | None = None,
    scope: str = "layer",
) -> nn.Module:
    """Remove the weights of small magnitude. In place; returns the model.

    The model computes with masked weights from now on, so retraining only changes the survivors. Biases stay.

        >>> from lib import models
        >>> model = prune(models.lenet_300_100(), density=0.1)
        >>> round(density(model), 2)
        0.1

    model: any network; all weights that :func:`lib.weights.layers` lists are pruned: those of its linear, convolution,
        embedding, attention and recurrent layers.
    density: share of the weights to keep, in (0, 1], or layer name -> share; layers not named are left alone.
    quality: keep magnitudes of at least this many standard deviations of their layer, 0 or larger. Exactly one of
        density and quality is given.
    scope: "layer" (default) keeps the share ``density`` of each layer; "global" keeps this share of all weights
        together, with the same quality parameter for all layers.

    Raises ValueError for both or neither of density and quality, for a value that is not accepted, a layer that does
    not exist, a model that has no layer with a weight, weights that are not finite, and what
    :func:`lib.weights.compress` refuses, such as a weight that two layers share.
    Source: han2015learning, section 3.
    """
    return apply(model, masks(model, density=density, quality=quality, scope=scope))


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Remove the weights that the masks of any criterion do not keep. In place; returns the model.

    model: any network.
    masks: layer name -> bool mask of the shape of the layer's weight, True where a weight is kept; layers not named
        are left alone.

    Raises ValueError for a mask that fits no layer, for weights that are not finite, and for what
    :func:`lib.weights.compress` refuses, such as a weight that two layers share.

        >>> layer = apply(nn.Linear(3, 1), {"": torch.tensor([[True, False, True]])})
        >>> layer.weight[0, 1].item()
        0.0
    """
    selection.check_masks(masks, {name: layer.weight for name, layer in _weights(model).items()})
    return compress(model, lambda name, layer: PrunedWeight(masks[name].to(layer.weight)) if name in masks else None)


def iterative(
    model: nn.Module,
    split: Split,
    *,
    density: float,
    rounds: int,
    epochs: int,
    seed: int,
    scope: str = "layer",
    **options: Unpack[FitOptions],
) -> nn.Module:
    """Prune a little, retrain, and repeat until ``density`` is reached. In place; returns the model.

    Round r of R prunes to density^(r/R), then retrains. This is the loop of the survey's Figure 3.

    model: a trained network. At the end it is dense, and its pruned weights are zeros.
    split: training samples.
    density: share of the weights to keep at the end, in (0, 1].
    rounds: R, 1 or more.
    epochs: to retrain in each round.
    seed: of the order of the samples; round r takes seed + r.
    scope: "layer" (default) prunes each layer to the same share, "global" all layers by one quality parameter.
    options: how to retrain: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Raises TypeError for other options, and ValueError for a value that is not accepted and an empty split.
    """
    training.check_options(options)
    split.check_not_empty("to train on")
    _check_scope(scope, density)
    selection.shares_by_layer(density, _weights(model))
    if rounds < 1 or epochs < 0:
        raise ValueError(f"rounds must be 1 or more and epochs 0 or more, not {rounds} and {epochs}")
    training.fit(model, split, epochs=0, seed=seed, **options)  # refuses a wrong option before anything is pruned
    for r in range(1, rounds + 1):
        prune(model, density=density ** (r / rounds), scope=scope)
        training.fit(model, split, epochs=epochs, seed=seed + r, **options)
    return decompress(model)


def gradual(
    model: nn.Module,
    split: Split,
    *,
    density: float | Mapping[str, float],
    ramp: int,
    epochs: int,
    seed: int,
    scope: str = "layer",
    **options: Unpack[FitOptions],
) -> nn.Module:
    """Prune a little before every epoch of one long training run. In place; returns the model.

    Before epoch e < ``ramp`` the density becomes density^((e + 1) / ramp); the epochs after that only retrain.

    model: a trained network. At the end it is dense, and its pruned weights are zeros.
    split: training samples.
    density: share of the weights to keep at the end, in (0, 1], or layer name -> share; layers not named are left
        alone.
    ramp: how many epochs begin with pruning, from 1 to ``epochs``.
    epochs: of the whole run; the learning rate falls over all of them.
    seed: of the order of the samples.
    scope: "layer" (default) prunes each layer to its share, "global" all layers by one quality parameter.
    options: how to retrain: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Raises TypeError for other options, and ValueError for a value that is not accepted, a layer that does not exist and
    an empty split.
    """
    training.check_options(options)
    split.check_not_empty("to train on")
    _check_scope(scope, density)
    selection.shares_by_layer(density, _weights(model))
    if not 1 <= ramp <= epochs:
        raise ValueError(f"ramp must be in 1..{epochs} (epochs), not {ramp}")

    # method
    def step(epoch: int) -> None:
        if epoch < ramp:
            part = (epoch + 1) / ramp
            now = {k: d**part for k, d in density.items()} if isinstance(density, Mapping) else density**part
            prune(model, density=now, scope=scope)

    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=step, **options)
    # end of method
    return decompress(model)


def dropout_rate(rate: float, density: float) -> float:
    r"""Return the dropout rate for retraining: a layer with fewer connections needs less (han2015learning, equation 2).

    .. math:: D_r = D_o \sqrt{C_{ir} / C_{io}}

    rate: the one that the network was trained with, in [0, 1].
    density: share of the layer's weights that is kept, in [0, 1].

    Raises ValueError for a value out of range.

        >>> dropout_rate(0.5, density=0.09)
        0.15
    """
    if not (0 <= rate <= 1 and 0 <= density <= 1):
        raise ValueError(f"rate and density must be in [0, 1], not {rate} and {density}")
    return rate * math.sqrt(density)


def density(model: nn.Module) -> float:
    """Return the share of all weights that are not zero; biases are left out.

    model: any network that has a layer with a weight, dense or pruned. A weight that several layers share counts once.

    Raises ValueError for a model that has no layer with a weight.

        >>> layer = nn.Linear(4, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight[0].zero_()
        >>> density(layer)
        0.5
    """
    found, shared = _weights(model), tied(model)
    weights = [layer.weight for name, layer in found.items() if name not in shared or _first(name, shared[name], found)]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def _first(name: str, together: list[str], found: Mapping[str, object]) -> bool:
    return name == next(other for other in together if other in found)
