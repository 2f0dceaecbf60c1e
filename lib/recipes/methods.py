"""The recipes by name. Each is a few calls of techniques, which can also be used on their own."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from lib import structure, training, weights
from lib.arguments import check_one_of, check_sizes
from lib.datasets import Split
from lib.factorization import low_rank
from lib.pruning import magnitude, molchanov
from lib.quantization import affine, deep_compression, quantization_aware_training, uniform_quantization
from lib.quantization.shared import torch_kernels
from lib.training import FitOptions

LEARNING: FitOptions = {"optimizer": "adam", "batch_size": 64}  # Adam's steps suit networks of all kinds
FEW = 2000  # a layer with fewer weights is not pruned: that would save little and hurt most


@dataclass(frozen=True)
class Plan:
    """What a recipe works with.

    train: samples to score, calibrate and train with.
    amount: how far to go; :data:`METHODS` says in which unit.
    epochs: passes over ``train`` after the cut, 0 or more.
    seed: of the order of the samples.
    learning_rate: of the first step of retraining.
    """

    train: Split
    amount: float
    epochs: int
    seed: int
    learning_rate: float

    def retrain(self, network: nn.Module, *, slower: float = 1.0, epochs: int | None = None) -> None:
        """Train a network in place.

        network: any.
        slower: the number by which the learning rate is divided, above 0.
        epochs: instead of the plan's.
        """
        epochs = self.epochs if epochs is None else epochs
        training.fit(network, self.train, epochs=epochs, seed=self.seed, **self.options(slower))

    def options(self, slower: float = 1.0) -> FitOptions:
        """Return the training options that all recipes share.

        slower: the number by which the learning rate is divided, above 0.
        """
        return LEARNING | {"learning_rate": self.learning_rate / slower}


@dataclass(frozen=True)
class Made:
    """What a recipe makes of a network.

    network: the one that answers and is timed.
    stored: the one that is written to the file.
    counted: the network of floats whose multiply-adds and activations are counted.
    value_bytes: bytes of one activation: 4, or 1 in integers of eight bits.
    simulated: the float network that simulates the integers, if the recipe makes integers; it can be exported.
    kept: layer name -> numbers of the filters that stay, if filters were removed.
    ranks: layer name -> rank, if layers were factorized.
    note: what a reader of the costs should know; default nothing.
    """

    network: nn.Module
    stored: nn.Module
    counted: nn.Module
    value_bytes: int = 4
    simulated: fx.GraphModule | None = None
    kept: Mapping[str, list[int]] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Method:
    """A recipe.

    apply: (network, plan) -> the result; the network is left as it was.
    gives: what gets smaller, in words.
    unit: what ``amount`` means, in words.
    usual: the default amount.
    least, most: the smallest and the largest amount accepted.
    trains: whether it retrains.
    """

    apply: Callable[[nn.Module, Plan], Made]
    gives: str
    unit: str
    usual: float
    least: float
    most: float
    trains: bool = True


def filters(model: nn.Module, plan: Plan) -> Made:
    """Remove whole filters, those with the lowest Taylor score, and retrain: smaller and faster everywhere.

    model: a network whose filters belong together in groups; left as it was.
    plan: ``amount`` is the share of the multiply-adds that is left.

    Raises ValueError if no filters can go, or too few.
    """
    example = plan.train.images[:2]
    # method
    groups = structure.groups(model, example)
    fraction = structure.fraction_for(model, example, multiply_adds=plan.amount)
    scores = molchanov.scores(model, plan.train.first(500), criterion="taylor")
    masks = structure.keep(scores, fraction=fraction, groups=groups)
    small = structure.shrink(model, masks, example)
    plan.retrain(small)
    # end of method
    kept = {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}
    return Made(small, small, small, kept=kept)


def factors(model: nn.Module, plan: Plan) -> Made:
    """Replace each layer by two thin ones if these are cheaper, and retrain; only retraining needs data.

    model: any network; left as it was.
    plan: ``amount`` is the share of the squared singular values that each layer keeps.

    Raises ValueError if no layer has fewer parameters as two.
    """
    # method
    small, report = low_rank.factorize_model(model, energy=plan.amount)
    if all(row.before == row.after for row in report):
        raise ValueError(f"no layer has fewer parameters as two at {plan.amount:g}: lower the amount")
    plan.retrain(small)
    # end of method
    ranks = {row.layer: row.ranks[0] for row in report if row.after < row.before}
    return Made(small, small, small, ranks=ranks)


def integers(model: nn.Module, plan: Plan) -> Made:
    """Compute in 8-bit integers: a quarter of the file and of the memory, and less time.

    If there are no exact 8-bit kernels for the processor or the network, the float network that simulates the integers
    answers instead, and the note says so.

    model: a network of layers that can be traced; left as it was.
    plan: ``amount`` is the share of each activation's values that its range must cover, in %; with one epoch or more,
        the network is trained with its rounding.

    Raises ValueError for a network with an operation that has no integer form.
    """
    # method
    simulated = affine.simulate(model)
    affine.calibrate(simulated, plan.train.images[:500], percentile=plan.amount)
    quantization_aware_training.fit(simulated, plan.train, epochs=plan.epochs, seed=plan.seed, **plan.options(3))
    # end of method
    try:
        network, note = torch_kernels.convert_to_kernels(simulated), ""
    except ValueError as error:
        network, note = simulated, f"The time is that of floats with the values of integers: {error}."
    return Made(network, simulated, model, value_bytes=1, simulated=simulated, note=note)


def coded(model: nn.Module, plan: Plan) -> Made:
    """Remove many weights, let the others share a few values, and code the file: the smallest file.

    The network computes as before, and no faster: only the file is smaller.

    model: any network; left as it was.
    plan: ``amount`` is the share of the weights that each layer keeps; layers of fewer than 2,000 weights stay whole.
        Two thirds of the epochs, rounded up, prune; the rest train the shared values, 32 per layer, or 256 in a small
        one.

    Raises ValueError for a network without a layer of 2,000 weights or more.
    """
    network = copy.deepcopy(model)
    # method
    sizes = {name: layer.weight.numel() for name, layer in weights.layers(network)}
    density = {name: plan.amount for name, size in sizes.items() if size >= FEW}
    if not density:
        raise ValueError(f"no layer has {FEW} weights: the file would gain little, use rounded")
    pruning = (2 * plan.epochs + 2) // 3
    if pruning:
        ramp = max(1, pruning - 1)
        options = plan.options()
        magnitude.gradual(network, plan.train, density=density, ramp=ramp, epochs=pruning, seed=plan.seed, **options)
    magnitude.prune(network, density=density)
    deep_compression.share_survivors(network, bits={name: 5 if name in density else 8 for name in sizes})
    plan.retrain(network, slower=3, epochs=plan.epochs - pruning)
    # end of method
    return _unpacked(network)


def rounded(model: nn.Module, plan: Plan) -> Made:
    """Round the weights to cells of equal width and code the file: no data, no training.

    The network computes as before, and no faster: only the file is smaller.

    model: any network; left as it was.
    plan: ``amount`` is the entropy of the codes, in bits per weight.

    Raises ValueError for weights of several float types.
    """
    network = copy.deepcopy(model)
    # method
    uniform_quantization.share(network, bits=plan.amount)
    # end of method
    return _unpacked(network)


def _unpacked(network: nn.Module) -> Made:
    """Keep the network for its small file, and let a copy with plain weights compute."""
    plain = weights.decompress(copy.deepcopy(network))
    return Made(plain, network, plain)


METHODS = {
    "filters": Method(filters, "file, memory, multiply-adds and time", "share of the multiply-adds left", 0.5, 0.01, 1),
    "factors": Method(
        factors, "file, multiply-adds and often time", "share of the squared singular values kept", 0.9, 0.01, 1
    ),
    "int8": Method(integers, "file and memory (a quarter), and time", "% of the values within the range", 100, 90, 100),
    "coded": Method(coded, "the file only, but most of all", "share of the weights that stays", 0.5, 0.001, 1),
    "rounded": Method(rounded, "the file only, without data", "bits for each weight", 4, 0.5, 16, trains=False),
}


def plan_for(name: str, train: Split, *, amount: float | None, epochs: int, seed: int, learning_rate: float) -> Plan:
    """Check the arguments of a recipe, and collect them in a plan.

    name: one of :data:`METHODS`.
    train: samples, at least one.
    amount: how far to go; None for the usual.
    epochs: 0 or more.
    seed: 0 or more.
    learning_rate: above 0.

    Raises ValueError for a value that is not accepted.

    >>> from lib import datasets
    >>> split = datasets.load("digits", first=(9, 1, 1)).train
    >>> plan_for("rounded", split, amount=None, epochs=0, seed=0, learning_rate=0.1).amount
    4
    """
    check_one_of("method", name, METHODS)
    method = METHODS[name]
    chosen = method.usual if amount is None else amount
    if isinstance(chosen, bool) or not isinstance(chosen, int | float) or not method.least <= chosen <= method.most:
        accepted = f"{method.least:g} to {method.most:g}"
        raise ValueError(f"amount of {name}, the {method.unit}, must be {accepted}, not {amount!r}")
    check_sizes({"epochs": epochs, "seed": seed}, {"epochs": 0, "seed": 0})
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be a finite number above 0, not {learning_rate!r}")
    train.check_not_empty("to train on")
    return Plan(train, chosen, epochs, seed, learning_rate)
