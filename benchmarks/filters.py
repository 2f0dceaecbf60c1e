"""Our filter scores against those of torch-pruning: the time to compute them, and the accuracy after pruning by them.

Both score the same trained network, with the same images, in one process on one thread, and each side traces the graph
for itself. torch-pruning's importances are configured as the papers say: only the first layer of a group, and no
normalization. Its Taylor criterion differs from ours: it multiplies weights, not maps, by their gradients. Run with
``make bench``.
"""

import warnings

import numpy as np
import torch
import torch_pruning
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lib import datasets, measure, models, structure, training
from lib.datasets import Split
from lib.pruning import filter_l1, molchanov, optimal_threshold

SEEDS, FRACTION, RUNS = 3, 0.5, 20
FIRST = {"group_reduction": "first", "normalizer": None}


def peer(model: nn.Module, split: Split, *, taylor: bool) -> dict[str, Tensor]:
    """torch-pruning's importance of every group, by the name of its first layer."""
    importance = torch_pruning.importance.MagnitudeImportance(p=1, **FIRST)
    if taylor:
        model.zero_grad()
        for images, labels in zip(split.images.split(250), split.labels.split(250), strict=True):
            nn.functional.cross_entropy(model(images), labels, reduction="sum").backward()
        importance = torch_pruning.importance.TaylorImportance(multivariable=True, **FIRST)
    graph = torch_pruning.DependencyGraph().build_dependency(model, split.images[:1], verbose=False)
    layers = (nn.Conv2d, nn.Linear)
    names = {module: name for name, module in model.named_modules()}
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    scores = {}
    for group in graph.get_all_groups(ignored_layers=head, root_module_types=layers):
        scores[names[group[0].dep.target.module]] = importance(group)
    return scores


WAYS = {
    "l1": {"ours": filter_l1.scores, "torch-pruning": lambda m, d: peer(m, d, taylor=False)},
    "taylor": {"ours": molchanov.scores, "torch-pruning": lambda m, d: peer(m, d, taylor=True)},
}


def cut_and_tuned(model: nn.Module, scores: dict[str, Tensor], split: Split, seed: int) -> nn.Module:
    """The network without ``FRACTION`` of the filters of each layer, fine-tuned."""
    groups = structure.groups(model, split.images[:1])
    small = structure.shrink(model, structure.keep(scores, fraction=FRACTION, groups=groups), split.images[:1])
    training.fit(small, split, epochs=2, seed=seed, learning_rate=0.02, batch_size=32)
    return optimal_threshold.recalibrated(small, split.first(1000))  # a short training leaves old means in batch norm


def race(name: str, networks: list[nn.Module], dataset: datasets.Dataset) -> None:
    """Print the ratio of times and the errors of both sides for each criterion."""
    sample = dataset.train.first(500)
    for criterion, sides in WAYS.items():
        times = timed({side: lambda s=score: s(networks[0], sample) for side, score in sides.items()})
        errors = {side: [] for side in sides}
        for seed, model in enumerate(networks):
            scores = {side: score(model, sample) for side, score in sides.items()}
            for side, by_layer in scores.items():  # the same layer speaks for a group on both sides
                named = {layer: by_layer[layer].detach() for layer in scores["torch-pruning"]}
                small = cut_and_tuned(model, named, dataset.train, seed)
                errors[side].append(training.error_pct(small, dataset.test))
        print(f"\n{name}, {criterion}, {FRACTION:.0%} of the filters of each layer")
        for side in sides:
            ratio = times[side] / times["torch-pruning"]
            text = spread(errors[side], "%")
            print(f"  {side:15}{times[side]:9.1f} ms  time ratio {ratio:5.2f}   test error {text}")
        lower = [theirs - ours for ours, theirs in zip(errors["ours"], errors["torch-pruning"], strict=True)]
        print(f"  our accuracy minus theirs, by seed: {spread(lower, 'points')}")


def spread(values: list[float], unit: str) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} {unit}"


def timed(calls: dict) -> dict[str, float]:
    """Median milliseconds of each call, with gradients on; the calls take turns."""

    def graded(call):
        with torch.enable_grad():
            call()

    times = measure.latency_ms({name: lambda c=call: graded(c) for name, call in calls.items()}, runs=RUNS)
    return {name: time.median for name, time in times.items()}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        digits = datasets.load("digits")
        for name, build, rate in (("LeNet-5", models.lenet5, 0.03), ("ResNet-8", models.resnet8, 0.1)):
            networks = []
            for seed in range(SEEDS):
                options = {"epochs": 3, "seed": seed, "learning_rate": rate, "batch_size": 32}
                networks.append(build(seed, channels=1))
                training.fit(networks[-1], digits.train, **options)
            race(name, networks, digits)
