# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-morphism)=
# # Network morphism: make a trained network larger
#
# Can a trained network get more layers, channels or branches without losing what it has learned?
# It can: the larger network computes the same function, and after an epoch of {mean}`morphism.epochs.short_images 0` images it is {mean}`morphism.epochs.short_gain_points 0` {finding}`ahead of the same architecture from scratch | morphism.epochs.short_gain_points >> 0`.
# But give the network from scratch the small network's epochs too, and {glue:text}`morphism.epochs.short_outcome`.
#
# ```{claims} morphism
# ```
#
# ```{cost} morphism
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits, mnist, or the path of an image folder
first = [500, 270, 449]  # of them: training, validation and test images
short_images = 200  # training images of a shorter epoch
pool = 4  # pixels of a side that become one
width = 8  # channels of the small network's first layer; its second has twice as many
seeds = 3  # small networks, each with all that is made of it
small_epochs = 3  # to train the small network
after = [1, 2]  # epochs after it was made larger
batch_size = 20  # images in a step
rates = [0.03, 0.1]  # of learning, from which validation images choose
tuned_seeds = 2  # networks for which they choose
noise = 0.006  # of copied channels and layers, in spreads of their weights
steps = 4  # operations that make a tree of branches
random_trees = 3  # whose paths are counted
real_networks = ["resnet18"]  # of torchvision, on which operations are tried
real_kinds = ["widen", "add_skip"]  # operations on each of them
real_seeds = 1  # initial weights of each of them
real_side = 32  # pixels, height and width of their images
families = [
    "alexnet",
    "vgg11",
    "googlenet",
    "resnet18",
    "squeezenet1_1",
    "mobilenet_v2",
]  # one network of each family of torchvision that is counted
evaluations = 25  # of a search in the table
repeats = 24  # searches under a limit of multiply-adds
other_repeats = 4  # searches of each other kind
trainings = 5  # networks of a search that trains them
search_images = 300  # to train each of them
search_seeds = 1  # such searches
most_channels = 32  # of a layer in such a search

# %% tags=["hide-input"]
import copy
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from scipy.stats import binomtest, spearmanr
from torch import nn

from lib import datasets, evidence, figures, measure, training
from lib.datasets import Split
from lib.morphism import auto_keras, network_morphism, path_level
from lib.morphism.network_morphism import largest_difference, operations
from lib.morphism.shared import (
    channels,
    edit_distance,
    embedding,
    gaussian_process,
    paths,
    tree_search,
)
from lib.morphism.shared.branches import Branches
from lib.morphism.shared.edit_distance import Description, Skip
from lib.search import exhaustive, random_search, regret, table
from lib.search.constrained import Within
from lib.seeding import seeded
from lib.vision import torchvision

dataset = datasets.load(data, first=first)
record = evidence.recorder("morphism", dataset)
MORPHED, SEARCHED, TREE = map(
    figures.look, ("network-morphism", "auto-keras", "path-level-morphism")
)
FRESH, RANDOM = map(figures.look, ("dense", "random"))


def pooled(split):  # with smaller images
    return Split(nn.functional.avg_pool2d(split.images, pool), split.labels)


learned, validation, tested = map(
    pooled, (dataset.train, dataset.validation, dataset.test)
)
shape = tuple(learned.images.shape[1:])
x = learned.images[:1]  # an example, by which a network is traced


def accuracy(network, split):
    return 100 - training.error_pct(network, split)


def differences(ones, others):  # of networks with the same seeds
    return [a - b for a, b in zip(ones, others, strict=True)]


# %% [markdown]
# (sec-network-morphism)=
# ## Operations that keep the function
#
# **The idea.** A larger network usually begins again with random weights.
# *{term}`Network morphism <morphism>`* chooses its weights so that it computes exactly what the trained one did, and training goes on from there {cite:p}`chen2016net2net,wei2016network`.
# The survey says what is done, such as inserting a layer or adding a skip connection, but leaves out this promise.
#
# **The formula.** A wider layer has weights $U^{(i)}$ in place of $W^{(i)}$: channel $j$ is a copy of channel $g(j)$, a random one if it is new.
# The layer that reads the channels shares each weight among the copies.
# A new layer begins as the identity $I$, and a new skip connection with a projection $P$ of zeros:
#
# $$
# \begin{aligned}
# U^{(i)}_j &= W^{(i)}_{g(j)} \\
# U^{(i+1)}_{\cdot j} &= \frac{W^{(i+1)}_{\cdot g(j)}}{|\{k : g(k) = g(j)\}|} \\
# \sigma\big(I\,\sigma(x)\big) &= \sigma(x) \\
# y + P x &= y, \quad P = 0
# \end{aligned}
# $$ (eq-morphism)
#
# The third line needs an activation $\sigma$ that changes nothing when it is applied twice, such as ReLU.
# A larger kernel gets zeros around the old one, and one layer becomes two by least squares {cite:p}`wei2016network`.
#
# **The code.** Each operation returns a larger copy.
# Here is how widening draws $g$ and shares the weights, and what deepening and skipping add:

# %% tags=["remove-input"]
figures.show_source(
    channels.planned,
    channels.Plan.shares.fget,
    network_morphism.deepen,
    network_morphism.add_skip,
)

# %% [markdown]
# **An exact check.** Our network has two convolutions with {term}`batch norm` and a linear layer.
# We train it on the digits, apply every operation that it offers, one at a time, and then six in a row.
# We compare the outputs in evaluation mode and in training mode, where batch norm takes its statistics from the images.


# %% tags=["hide-input"]
def small(seed):
    with seeded(seed):
        layers = OrderedDict()
        for i, (inputs, outputs) in enumerate([(shape[0], width), (width, 2 * width)]):
            layers[f"conv{i + 1}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers[f"norm{i + 1}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i + 1}"] = nn.ReLU()
            layers[f"pool{i + 1}"] = nn.MaxPool2d(2)
        layers["flat"] = nn.Flatten()
        features = 2 * width * (shape[1] // 4) * (shape[2] // 4)
        layers["fc"] = nn.Linear(features, len(dataset.classes))
        return nn.Sequential(layers).eval()


def fresh(network, seed):  # the same architecture with new weights
    network = copy.deepcopy(network)
    with seeded(seed):
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return network


def fitted(network, epochs, rate, seed, split=learned):
    options = {"epochs": epochs, "learning_rate": rate, "batch_size": batch_size}
    training.fit(network, split, seed=seed, **options)
    return network


def best_rate(train):  # on validation images; train(seed, rate) returns a network
    def judged(rate):
        trained = [train(seed, rate) for seed in range(tuned_seeds)]
        return np.mean([accuracy(network, validation) for network in trained])

    return max(rates, key=judged)  # not chosen by test


@cache
def small_at(seed, rate, count=None):  # trained with all images, or with some
    return fitted(small(seed), small_epochs, rate, seed, learned.first(count or 10**9))


def trained_small(count=None):  # one for each seed
    rate = best_rate(partial(small_at, count=count))
    return [small_at(seed, rate, count) for seed in range(seeds)]


parents = trained_small()

# %% tags=["hide-input"]
double = tested.images[:32].double()


def apart(network, morphed, images=double):  # in units of the largest output
    modes = [
        largest_difference(network, morphed, images, training=mode)
        for mode in (False, True)
    ]
    return max(modes)


def one_by_one(network):  # each operation that the network offers, and its result
    morphed = [(one.kind, one.apply(network)) for one in operations(network, double)]
    branches = ((3, 1), (5,))  # a branch of two layers, and one of one
    subnet = network_morphism.subnet(network, "conv2", double, branches=branches)
    return [*morphed, ("subnet", subnet)]


def in_a_row(network, seed, count=6):
    random = np.random.default_rng(seed)
    for step in range(count):
        offered = operations(network, double, factor=1.3)
        network = offered[random.integers(len(offered))].apply(network, seed=step)
    return network


# %% tags=["hide-input"]
kinds = [*network_morphism.KINDS, "subnet"]
gaps = {(kind, precision): [] for kind in kinds for precision in (64, 32)}
chains, changed, offers = [], [], []
seen_by_all = tested.images[:1000]
for seed, parent in enumerate(parents):
    network = copy.deepcopy(parent).double()
    found = one_by_one(network)
    single = [(kind, copy.deepcopy(morphed).float()) for kind, morphed in found]
    offers.append(len(found))
    for kind in kinds:
        worst = [
            max(apart(start, morphed, images) for name, morphed in made if name == kind)
            for start, made, images in (
                (network, found, double),
                (parent, single, double.float()),
            )
        ]
        gaps[kind, 64].append(worst[0])
        gaps[kind, 32].append(worst[1])
    chains.append(apart(network, in_a_row(network, seed)))
    with torch.no_grad():
        classes = parent(seen_by_all).argmax(1)
        turned = [(morphed(seen_by_all).argmax(1) != classes) for _, morphed in single]
    changed.append(int(torch.stack(turned).any(0).sum()))
assert max(max(values) for values in gaps.values()) < 1e-4
assert max(chains) < 1e-6

# %% [markdown]
# We do the same to networks of torchvision, with random weights.


# %% tags=["hide-input"]
at = {  # where an operation is tried, and with what
    "resnet18": {
        "widen": ("layer1.0.conv1", {"width": 72}),
        "deepen": ("layer1.1.conv1", {}),
        "grow_kernel": ("layer1.1.conv1", {"kernel": 5}),
        "subnet": ("layer2.0.conv1", {"branches": ((3, 1), (5,))}),
        "morph_depth": ("layer2.1.conv1", {}),
        "add_skip": ("layer1.1.conv2", "layer2.0.conv2"),
        "add_concat": ("conv1", "layer3.0.conv1"),
    },
    "mobilenet_v2": {
        "widen": ("features.2.conv.0.0", {"width": 100}),
        "deepen": ("features.2.conv.1.0", {"kernel": 1}),
        "grow_kernel": ("features.2.conv.1.0", {"kernel": 5}),
        "subnet": ("features.2.conv.1.0", {"branches": ((3,), (3,))}),
        "morph_depth": ("features.3.conv.1.0", {}),
        "add_skip": ("features.0.0", "features.4.conv.2"),
        "add_concat": ("features.3.conv.2", "features.18.0"),
    },
}


def tried(network, name, kind, x):
    operation, (layer, other) = getattr(network_morphism, kind), at[name][kind]
    if kind in ("add_skip", "add_concat"):
        return operation(network, layer, other, x)
    return operation(network, layer, x, **other)


real_gaps = {(name, precision): [] for name in real_networks for precision in (64, 32)}
for name in real_networks:
    for seed in range(real_seeds):
        with seeded(seed):
            network = getattr(torchvision.models, name)(num_classes=10).double()
            photos = torch.randn(4, 3, real_side, real_side, dtype=torch.float64)
            with torch.no_grad():
                network.train()(photos)  # so that batch norm has statistics
        network.eval()
        single = copy.deepcopy(network).float()
        worst = {64: 0.0, 32: 0.0}
        for kind in real_kinds:  # one after the other, since copies are large
            larger = tried(network, name, kind, photos[:1])
            worst[64] = max(worst[64], apart(network, larger, photos))
            worst[32] = max(worst[32], apart(single, larger.float(), photos.float()))
        for precision, gap in worst.items():
            real_gaps[name, precision].append(gap)

# %% tags=["remove-input"]
record("exact.operations", offers[0], exact=True)
names = {
    "deepen": "insert a layer",
    "widen": "widen a layer",
    "grow_kernel": "larger kernel",
    "morph_depth": "two layers of one",
    "add_skip": "skip, by addition",
    "add_concat": "skip, by concatenation",
    "subnet": "branches of layers",
}
rows = []


def record_ppm(name, shares, digits=9):
    ppm = [1e6 * value for value in shares]
    record(f"exact.{name}_difference_ppm", ppm, unit="ppm", digits=digits)


def row_of(name, doubles, singles):
    largest = [max(values) for values in (doubles, singles)]
    texts = [f"{value:.0e}" if value else "0" for value in largest]
    rows.append({"": name} | dict(zip(("double", "single"), texts, strict=True)))


for kind, name in names.items():
    row_of(name, gaps[kind, 64], gaps[kind, 32])
for name in real_networks:
    row_of(name, real_gaps[name, 64], real_gaps[name, 32])
    record_ppm(name, real_gaps[name, 64])
figures.table(
    rows,
    caption="Largest difference of the outputs in evaluation and training mode, as a share of the largest output, in double and in single precision; last the networks of torchvision",
)
largest = [max(gaps[kind, 64][seed] for kind in kinds) for seed in range(seeds)]
rounded = [max(gaps[kind, 32][seed] for kind in kinds) for seed in range(seeds)]
record_ppm("largest", largest)
record_ppm("single", rounded, digits=2)
record_ppm("chain", chains)
record("exact.digits", [-math.log10(max(value, 1e-16)) for value in largest], digits=1)
record("exact.single_digits", [-math.log10(max(v, 1e-16)) for v in rounded], digits=1)
record("exact.changed_images", changed, digits=1)
record("exact.images", len(seen_by_all), exact=True)

# %% [markdown]
# The {mean}`morphism.exact.operations` operations that our network offers keep its function: in double precision the outputs agree to {mean}`morphism.exact.digits 0` decimal digits, in single precision to {mean}`morphism.exact.single_digits 0` ({verdict}`C3.2.3-01`).
# The rest is rounding, and it changes the class of {mean}`morphism.exact.changed_images 0` of {mean}`morphism.exact.images 0` test images.
#
# ### How many epochs does it save?
#
# **An experiment.** We widen both convolutions to twice their channels, insert a third one, and add a skip connection.
# Then we train this *morphed* network for one {term}`epoch` or a few more.
# Two *fresh* rivals have its {term}`architecture` and random weights.
# One is trained for as many epochs as the morphed network, the other for as many as the small and the morphed one together.
# Validation images choose the learning rate of each.


# %% tags=["hide-input"]
def layers_changed(network, seed):
    options = {"noise": noise, "seed": seed}
    network = network_morphism.widen(network, "conv1", x, width=2 * width, **options)
    network = network_morphism.widen(network, "conv2", x, width=4 * width, **options)
    network = network_morphism.deepen(network, "conv2", x)
    return network_morphism.add_skip(network, "conv1", "conv2", x)


def tree_grown(network, seed):  # a node after the layer, and random steps
    network = path_level.insert_identity(network, "conv2", x)
    options = {"steps": steps - 1, "noise": noise, "seed": seed}
    return path_level.grow(network, "conv2", x, **options)


def with_operations(network, seed):  # in place of the identity edges of a tree
    random = np.random.default_rng(seed)
    network = tree_grown(network, seed)
    for edge in path_level.edges(network, "conv2"):
        if isinstance(network.get_submodule(edge), nn.Identity):
            drawn = str(random.choice(path_level.EDGES))
            options = {"operation": drawn, "seed": seed}
            network = path_level.replace_identity(network, edge, x, **options)
    return network


made = {"layers": layers_changed, "tree": tree_grown, "operations": with_operations}


@cache
def morphed(way, seed, count=None):
    trained_before = parents if count is None else trained_small(count)
    return made[way](trained_before[seed], seed)


@cache
def trained(way, start, epochs, seed, rate, count=None):
    network = morphed(way, seed, count)
    network = fresh(network, seed) if start == "fresh" else copy.deepcopy(network)
    return fitted(network, epochs, rate, seed + 1000, learned.first(count or 10**9))


@cache
def rate_of(way, start, epochs, count=None):
    return best_rate(lambda seed, rate: trained(way, start, epochs, seed, rate, count))


def reached(way, start, epochs, tuned, count=None):  # the rate is that of fewer epochs
    rate = rate_of(way, start, tuned, count)
    networks = [trained(way, start, epochs, seed, rate, count) for seed in range(seeds)]
    return [accuracy(network, tested) for network in networks]


# %% tags=["hide-input"]
before = [accuracy(network, tested) for network in parents]
at_once = [accuracy(morphed("layers", seed), tested) for seed in range(seeds)]
runs = {
    "morphed": [reached("layers", "morphed", k, after[0]) for k in after],
    "fresh": [reached("layers", "fresh", k, after[0]) for k in after],
    "total": [
        reached("layers", "fresh", small_epochs + k, small_epochs + after[0])
        for k in after
    ],
}
one, whole = after[0], small_epochs + after[0]
short_before = [accuracy(network, tested) for network in trained_small(short_images)]
short = {
    "morphed": reached("layers", "morphed", one, one, short_images),
    "fresh": reached("layers", "fresh", one, one, short_images),
    "total": reached("layers", "fresh", whole, whole, short_images),
}

# %% tags=["remove-input"]
record("epochs.small_epochs", small_epochs, exact=True)
record("epochs.small_accuracy_pct", before, digits=1)
record("epochs.morphed0_accuracy_pct", at_once, digits=1)
record("epochs.drop_points", differences(before, at_once))
for arm, values in runs.items():
    for k, accuracies in zip(after, values, strict=True):
        record(f"epochs.{arm}{k}_accuracy_pct", accuracies, digits=1)
gain = differences(runs["morphed"][0], runs["fresh"][0])
total_gain = differences(runs["morphed"][0], runs["total"][0])
late_gain = differences(runs["morphed"][-1], runs["total"][-1])
record("epochs.gain_points", gain, digits=1)
short_gain = differences(short["morphed"], short["fresh"])
record("epochs.short_gain_points", short_gain, digits=1)
short_total = differences(short["morphed"], short["total"])
record("epochs.short_total_gain_points", short_total, digits=1)
record("epochs.images", len(learned), exact=True)
record("epochs.short_images", short_images, exact=True)
record("epochs.total_gain_points", total_gain, digits=1)
record("epochs.late_total_gain_points", late_gain, digits=1)
later = differences(runs["morphed"][-1], runs["fresh"][-1])
record("epochs.late_gain_points", later, digits=1)
record("epochs.learned_points", differences(runs["morphed"][0], before), digits=1)
record("epochs.after", after[-1], exact=True)


def outcome(values, better, worse, same):  # by the interval over seeds
    middle, half = evidence.interval([float(value) for value in values])
    return same if abs(middle) <= half else better if middle > 0 else worse


words = ("it is still behind", "it is ahead", "it is as good, as far as we can tell")
evidence.phrase("morphism.epochs.total_outcome", outcome(total_gain, *words))
evidence.phrase("morphism.epochs.short_outcome", outcome(short_total, *words))
words = (
    "the morphed network is ahead",
    "the fresh one is ahead",
    "neither is ahead, as far as we can tell",
)
evidence.phrase("morphism.epochs.outcome", outcome(gain, *words))
evidence.phrase("morphism.epochs.late_outcome", outcome(later, *words))
small_cost = measure.multiply_adds(parents[0], shape)
large_cost = measure.multiply_adds(morphed("layers", 0), shape)
record("epochs.cost_ratio", large_cost / small_cost, exact=True)
work = (small_epochs * small_cost + large_cost) / ((1 + small_epochs) * large_cost)
record("epochs.work_pct", 100 * work, digits=0, exact=True)
figure, axes = figures.axes(2, sharey=True)
titles = [
    "small network",
    f"made larger, {one} epoch",
    f"from scratch, {one} epoch",
    f"from scratch, {whole} epochs",
]
looks = [{"color": "black", "marker": "D"}, MORPHED, FRESH, FRESH]
panels = [
    (short_images, [short_before, short["morphed"], short["fresh"], short["total"]]),
    (len(learned), [before, *(runs[arm][0] for arm in ("morphed", "fresh", "total"))]),
]
for ax, (n, rows) in zip(axes, panels, strict=True):
    for place, (values, look) in enumerate(zip(rows, looks, strict=True)):
        figures.dots(ax, [-place], [values], look, None, bounds=figures.PERCENT)
    ax.set_title(f"{n:,} training images", fontsize=11)
    ax.set_xlabel("test accuracy (%)")
    ax.set_ylim(-len(rows) + 0.5, 0.5)
axes[0].set_yticks(range(0, -len(titles), -1), titles)


def points(values):  # in words
    value = f"{abs(np.mean(values)):.1f} points"
    return outcome(
        values, f"{value} ahead of", f"{value} behind", "neither ahead of nor behind"
    )


text = f"{points(short_gain)} a fresh one with {short_images} training images, and {points(gain)} it with {len(learned):,}"
figures.show(
    figure,
    finding=f"After one epoch a network that was made larger is {text}",
    name="fig-epochs",
    caption="Test accuracy of the small network, of the morphed network after one epoch, and of the same architecture from scratch, after one epoch and after as many as both networks had together. Means over networks with 95 % intervals.",
    alt=f"Two panels of test accuracies. After one epoch a network that was made larger is {text}; after as many epochs as both networks had, the fresh one is at {np.mean(short['total']):.1f} and {np.mean(runs['total'][0]):.1f} %.",
    lead=True,
)

# %% [markdown]
# **What to see.** Growing gives a head start where {finding}`an epoch teaches little | morphism.epochs.short_gain_points > morphism.epochs.gain_points; morphism.epochs.short_gain_points >> 0`.
# It costs {mean}`morphism.epochs.drop_points 1` of accuracy, so the morphed network works at once.
# After one epoch of {mean}`morphism.epochs.short_images` images it is {mean}`morphism.epochs.short_gain_points` {finding}`ahead | morphism.epochs.short_gain_points >> 0` of the fresh network.
# After one epoch of {mean}`morphism.epochs.images` images the difference is {glue:text}`morphism.epochs.gain_points`: {glue:text}`morphism.epochs.outcome`.
# After {mean}`morphism.epochs.after` such epochs it is {glue:text}`morphism.epochs.late_gain_points`: {glue:text}`morphism.epochs.late_outcome`.
#
# The fresh network has not had the {mean}`morphism.epochs.small_epochs 0` epochs of the small network.
# Give it those too, and with {mean}`morphism.epochs.images` images {glue:text}`morphism.epochs.total_outcome` ({verdict}`C3.2.3-03`); with {mean}`morphism.epochs.short_images`, {glue:text}`morphism.epochs.short_outcome`.
# With {mean}`morphism.epochs.images` images the difference is then {glue:text}`morphism.epochs.total_gain_points` after one epoch of the morphed network, and at last {glue:text}`morphism.epochs.late_total_gain_points`.
# A likely reason is that half of the morphed network's channels begin as near copies (exercise 2).
#
# Counting computation instead of epochs favors growing.
# An epoch of the morphed network takes {mean}`morphism.epochs.cost_ratio 1` the multiply-adds of one of the small network.
# So the way through the small network needs {mean}`morphism.epochs.work_pct` of the multiply-adds that the fresh one needs.
#
# ### Are the results chains?
#
# **An experiment.** In a chain, one path leads from input to output.
# We count the paths of our network, which is a chain, after each operation, and those of torchvision's image classifiers, one of each family.
# Two paths differ in a layer or a connection.


# %% tags=["hide-input"]
parent = parents[0]
counted = {
    "small": parent,
    "deepen": network_morphism.deepen(parent, "conv2", x),
    "widen": network_morphism.widen(parent, "conv1", x, width=2 * width),
    "add_skip": network_morphism.add_skip(parent, "conv1", "conv2", x),
    "add_concat": network_morphism.add_concat(parent, "conv1", "conv2", x),
    "subnet": network_morphism.subnet(parent, "conv2", x, branches=((3, 1), (5,))),
}
counted = {name: paths.count(network, x) for name, network in counted.items()}
of_family = {}
for name in families:
    sizes = (
        {"aux_logits": False, "init_weights": False}
        if name in ("googlenet", "inception_v3")
        else {}
    )
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(**sizes)
        of_family[name] = paths.count(network, torch.zeros(1, 3, 299, 299))
assert counted["small"] == of_family["alexnet"] == 1

# %% tags=["remove-input"]
for kind, n in counted.items():
    record(f"paths.{kind}", n, exact=True)
several = [name for name, n in of_family.items() if n > 1]  # not chosen by test
record("families.counted", len(families), exact=True)
record("families.several", len(several), exact=True)
share = 100 * len(several) / len(families)
record("families.multi_path_pct", share, digits=0, exact=True)
figures.table(
    [{"operation": "none"} | {"paths": counted["small"]}]
    + [
        {"operation": names[kind], "paths": n}
        for kind, n in counted.items()
        if kind in names
    ],
    caption="Paths from input to output after one operation on a chain",
)

# %% [markdown]
# **What to see.** Inserting and widening layers leaves a chain a chain; skip connections and branches do not.
# The survey says that operations on layers constrain networks to chains, but it says so of a search that also adds skip connections ({verdict}`C3.2.3-04`).
# It is right that most networks have several paths: {mean}`morphism.families.several` of the {mean}`morphism.families.counted` families do ({verdict}`C3.2.3-07`).
#
# (sec-auto-keras)=
# ## Auto-Keras: which operation next?
#
# **The idea.** A network offers many operations, and trying one costs a training.
# Auto-Keras predicts the accuracy of networks that are not trained yet from those that are, and trains the most promising one {cite:p}`jin2019autokeras`.
# It predicts with a Gaussian process: similar networks should have similar accuracies.
#
# **The formula.** The *edit distance* $d$ says how unlike two networks are.
# It is what it takes to turn the layers of one into those of the other, $D_l$, and likewise the skip connections, $D_s$.
# An embedding $\varphi$ turns networks into vectors about as far apart, so that there is a kernel $\kappa$.
# The process gives a mean $\mu$ and a standard deviation $\sigma$, and a network promises as much as its upper confidence bound $\alpha$:
#
# $$
# \begin{aligned}
# d(a, b) &= D_l + \lambda D_s \\
# \kappa(a, b) &= e^{-\lVert \varphi(a) - \varphi(b) \rVert^2} \\
# \alpha(f) &= \mu(f) + \beta\,\sigma(f)
# \end{aligned}
# $$ (eq-auto-keras)
#
# A tree of morphs is searched for the largest bound.
# The most promising network leaves a queue, and random morphs of it enter, with a probability that falls as the search cools down.
#
# **The code.** The distance, the prediction, and the search through the tree:

# %% tags=["remove-input"]
figures.show_source(
    edit_distance.distances, gaussian_process.GaussianProcess.predict, tree_search.climb
)

# %% [markdown]
# **Exact checks.** The distance is zero between equal networks, symmetric, and keeps the triangle inequality.
# After the embedding the kernel has no negative eigenvalue, and the process is certain of the values that it was told.


# %% tags=["hide-input"]
def drawn(random):  # the description of a random network
    widths = random.integers(1, 64, random.integers(1, 6)).tolist()
    pairs = np.sort(random.choice(6, (random.integers(0, 3), 2)), axis=1)
    skips = {Skip(i, j) for i, j in pairs.tolist() if i < j}
    return Description(tuple(widths), skips=tuple(skips))


random = np.random.default_rng(0)
some = list({drawn(random) for _ in range(40)})
d = edit_distance.distances(some, some)
assert np.allclose(d, d.T) and not d.diagonal().any()
assert (d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-12).all()
places = embedding.draw(len(some), random).coordinates(d)
kernel = embedding.kernel(places, places)
assert np.linalg.eigvalsh(kernel).min() > -1e-8
values = random.normal(size=len(some))
mean, spread = gaussian_process.fit(kernel, values, noise=1e-10).predict(kernel)
assert np.allclose(mean, values, atol=1e-3) and spread.max() < 1e-3

# %% [markdown]
# ### Is it better than random search?
#
# **An experiment.** Training every network of many searches would take too long.
# So each network of a small space was trained beforehand, with three seeds.
# It is a chain of four operations, each a convolution, a pointwise one, a separable one, or none.
# A search looks up the {term}`validation` accuracy of a network in that table, as if it had trained it.
# The *{term}`regret`* of a search is how far the network that it chooses is behind the best one, on test images and in the mean over seeds.
#
# In this space size decides: the number of parameters alone ranks all networks with a correlation of {mean}`morphism.bo.parameters_rank_correlation`.
# Finding the largest needs no search, so a network may have at most the median of the multiply-adds.
# We fixed this limit before any search of this page ran.
# Both searches draw among *different* networks, of which there are fewer than chains.

# %% tags=["hide-input"]
truths, space = table.load(), table.SPACE


@cache
def described(chain):  # by the weights of each layer
    return Description(
        tuple(o.parameters for o in space.operations_of(chain) if o.parameters)
    )


candidates = list(space)
cost = {
    "multiply-adds": {chain: space.multiply_adds(chain) for chain in candidates},
    "parameters": {chain: space.parameters(chain) for chain in candidates},
    "none": dict.fromkeys(candidates, 1.0),
}
one_of = {described(chain): chain for chain in reversed(candidates)}


def limited_to_median(limited):  # what a search may draw, and the truth about it
    costs = cost[limited]
    limit = float(np.median(list(costs.values())))
    allowed = Within(space, costs.__getitem__, limit=limit)
    truth = {c: value for c, value in truths.truth().items() if costs[c] <= limit}
    return allowed, truth


def fitness_of(seed):  # one of the trainings in the table
    return partial(truths.validation, seed=table.SEEDS[seed % len(table.SEEDS)])


def searches(limited, times, budget):  # regrets (searches, evaluations), and gaps
    costs = cost[limited]
    allowed, truth = limited_to_median(limited)
    once = {chain: costs[chain] for chain in one_of.values()}
    different = Within(
        space, lambda chain: once.get(chain, math.inf), limit=allowed.limit
    )
    lacking = {"auto_keras": [], "random": [], "all": []}
    seen = {
        "auto_keras": [],
        "random": [],
    }  # what the choice lacks on validation images
    for seed in range(times):
        fitness = fitness_of(seed)
        options = {"budget": budget, "seed": seed}
        histories = {
            "auto_keras": auto_keras.search(
                allowed, fitness, describe=described, **options
            ),
            "random": random_search.search(different, fitness, **options),
        }
        if seed < len(table.SEEDS):
            histories["all"] = exhaustive.search(different, fitness, budget=len(space))
        for name, history in histories.items():
            lacking[name].append(regret.regret_points(history, truth))
        most = max(map(fitness, truth))
        for name, gaps in seen.items():
            gaps.append(most - histories[name].best.fitness)
    return {name: np.array(rows) for name, rows in lacking.items()}, seen


lacks, seen = searches("multiply-adds", repeats, evaluations)
others = {
    limited: searches(limited, other_repeats, evaluations)[0]
    for limited in ("parameters", "none")
}

# %% tags=["remove-input"]
evidence.uses(table.dataset())
accuracies = [truths.truth()[chain] for chain in candidates]
for name in ("parameters", "multiply-adds"):
    values = [cost[name][chain] for chain in candidates]
    rank = spearmanr(values, accuracies).statistic
    key = f"bo.{name.replace('-', '_')}_rank_correlation"
    record(key, rank, unit="", digits=2, exact=True)
last = {name: values[:, -1] for name, values in lacks.items()}
record("bo.evaluations", evaluations, exact=True)
record("bo.networks", len(one_of), exact=True)
record("bo.chains", len(candidates), exact=True)
record("bo.searches", repeats, exact=True)
record("bo.regret_points", last["auto_keras"])
record("bo.random_regret_points", last["random"])
record("bo.exhaustive_regret_points", last["all"])
behind = last["random"] - last["auto_keras"]
record("bo.advantage_points", behind)
half = evaluations // 2
early = lacks["random"][:, half - 1] - lacks["auto_keras"][:, half - 1]
record("bo.half_evaluations", half, exact=True)
record("bo.early_advantage_points", early)
for name, found in seen.items():
    record(f"bo.{name}_validation_gap_points", found)
decided = behind[behind != 0]
sign = binomtest(int((decided > 0).sum()), len(decided)).pvalue if len(decided) else 1.0
record("bo.sign_test_p_value", sign, unit="", digits=3)
record("bo.better_pct", 100 * np.mean(behind > 0), digits=0)
record("bo.worse_pct", 100 * np.mean(behind < 0), digits=0)
words = (
    "beats random search",
    "is beaten by random search",
    "does as well as random search, as far as these searches tell",
)
evidence.phrase("morphism.bo.outcome", outcome(behind, *words))
at = sorted({4, 8, 12, 16, 20, evaluations} - set(range(evaluations + 1, 99)))
level = "every network is evaluated", float(last["all"].mean())
text = f"after {evaluations} evaluations Auto-Keras lacks {last['auto_keras'].mean():.1f} points of the best network, random search {last['random'].mean():.1f}"
figures.curves(
    {
        "Auto-Keras": (SEARCHED, at, [lacks["auto_keras"][:, n - 1] for n in at]),
        "random search": (RANDOM, at, [lacks["random"][:, n - 1] for n in at]),
    },
    xlabel="networks that were evaluated",
    ylabel="regret (points)",
    level=level,
    finding=text[0].upper() + text[1:],
    name="fig-regret",
    caption="How much the network that a search chooses lacks of the best one with at most the median of the multiply-adds; means over searches with 95 % intervals.",
    alt=f"Two falling curves of regret against evaluations: {text}.",
)
titles = {
    "multiply-adds": "multiply-adds",
    "parameters": "parameters",
    "none": "no limit",
}
rows = []
for limited, found in {"multiply-adds": lacks, **others}.items():
    row = {
        "at most the median of the": titles[limited],
        "searches": len(found["random"]),
    }
    for name, title in (("auto_keras", "Auto-Keras"), ("random", "random search")):
        regrets = found[name][:, -1].tolist()
        row[title] = evidence.formatted(regrets, unit="", digits=2)
    away = (found["random"] - found["auto_keras"])[:, -1].tolist()
    row["advantage"] = evidence.formatted(away, unit="", digits=2)
    rows.append(row)
figures.table(
    rows,
    caption="Regret in points at equal evaluations; the first row decides, the others are exploratory",
)

# %% [markdown]
# **What to see.** Auto-Keras {glue:text}`morphism.bo.outcome` ({verdict}`C3.2.3-02`).
# Its regret is {glue:text}`morphism.bo.regret_points`, that of random search {glue:text}`morphism.bo.random_regret_points`.
# Its choice is ahead in {mean}`morphism.bo.better_pct` of the searches, and that of random search in {mean}`morphism.bo.worse_pct`.
# Noise limits both: even after all networks are evaluated, the chosen one lacks {mean}`morphism.bo.exhaustive_regret_points 1`.
# A search sees one training of each network, and we judge by the mean of three.
#
# The rest is exploratory, since we looked at it afterwards; so are the rows with another limit.
# After {mean}`morphism.bo.half_evaluations` evaluations the advantage of Auto-Keras is {glue:text}`morphism.bo.early_advantage_points`.
# On the validation images, which are what a search sees, {finding}`it chooses better | morphism.bo.random_validation_gap_points >> morphism.bo.auto_keras_validation_gap_points`: it lacks {mean}`morphism.bo.auto_keras_validation_gap_points 1` of the best, random search {mean}`morphism.bo.random_validation_gap_points 1`.
#
# ### A search that trains
#
# **An experiment.** Now the search trains its networks, beginning with the small one.
# Each network continues for one epoch from the weights of the network that it is a morph of.
# Morphs insert layers, widen them up to {mean}`morphism.grow.most_channels` channels, and add skip connections.
# One rival trains as many random networks of the same space from scratch, for one epoch each.
# The other spends all these epochs on the largest of them.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Plan:  # a network of the space: what is done to the small one, in order
    steps: tuple = ()

    def parts(self):  # widths of the layers in order, and skip connections
        widths, skips = {"conv1": width, "conv2": 2 * width}, []
        for kind, layer, other in self.steps:
            if kind == "widen":
                widths[layer] = other
            elif kind == "skip":
                skips.append((layer, other))
            else:
                new = {f"{layer}_deeper": widths[layer]}
                order = list(widths)
                cut = order.index(layer) + 1
                items = list(widths.items())
                widths = dict(items[:cut]) | new | dict(items[cut:])
        return widths, skips

    def describe(self):
        widths, skips = self.parts()
        order = list(widths)
        joined = tuple(Skip(order.index(a), order.index(b)) for a, b in skips)
        return Description(tuple(widths.values()), skips=joined)


class Plans:  # the space
    def __iter__(self):
        raise TypeError("it has no end")

    def sample(self, random):
        plan = Plan()
        for _ in range(random.integers(1, trainings)):
            plan = self.mutated(plan, random)
        return plan

    def mutated(self, plan, random):
        widths, skips = plan.parts()
        order = list(widths)
        options = [("deepen", n, 0) for n in order if f"{n}_deeper" not in widths]
        options += [
            ("widen", n, min(2 * widths[n], most_channels))
            for n in order
            if n in ("conv1", "conv2") and widths[n] < most_channels
        ]
        pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        options += [("skip", *pair) for pair in pairs if pair not in skips]
        if not options:
            return plan
        return Plan((*plan.steps, options[random.integers(len(options))]))


def applied(network, step):
    kind, layer, other = step
    if kind == "widen":
        return network_morphism.widen(network, layer, x, width=other, noise=noise)
    if kind == "skip":
        return network_morphism.add_skip(network, layer, other, x)
    return network_morphism.deepen(network, layer, x)


def built(plan, seed):  # with random weights
    network = small(seed)
    for step in plan.steps:
        network = applied(network, step)
    return fresh(network, seed)


few = learned.first(search_images)


def grown(seed):  # a search that continues from trained networks
    def train(path, network):
        if network is None:
            network = built(path[0], seed)
            path, rate = path[:1], rate_of("layers", "fresh", after[0])
        else:
            rate = rate_of("layers", "morphed", after[0])
        for plan in path[1:]:
            network = applied(network, plan.steps[-1])
        network = fitted(network, 1, rate, seed, few)
        return accuracy(network, validation), network

    options = {"budget": trainings, "seed": seed, "describe": Plan.describe}
    return auto_keras.grow(Plans(), train, first=Plan(), **options)


def at_random(seed):  # as many random networks, each from scratch
    random, rows = np.random.default_rng(seed), []
    rate = rate_of("layers", "fresh", after[0])
    for _ in range(trainings):
        network = built(Plans().sample(random), seed)
        network = fitted(network, 1, rate, seed, few)
        rows.append((accuracy(network, validation), network))
    return rows


trees = [grown(seed) for seed in range(search_seeds)]
random_ones = [at_random(seed) for seed in range(search_seeds)]
found = {"grow": [], "random": [], "largest": []}
for seed, (tree, drawn_ones) in enumerate(zip(trees, random_ones, strict=True)):
    on_validation = [node.fitness for node in tree.rows]
    found["grow"].append(accuracy(tree.networks[np.argmax(on_validation)], tested))
    _, best = max(drawn_ones, key=lambda pair: pair[0])  # of validation images
    found["random"].append(accuracy(best, tested))
    networks = [network for _, network in drawn_ones]
    largest = max(networks, key=measure.parameters)  # not chosen by test
    again = fresh(largest, seed + 1)
    rate = rate_of("layers", "fresh", small_epochs + after[0])
    fitted(again, trainings, rate, seed, few)
    found["largest"].append(accuracy(again, tested))
failures = sum(bool(row.failure) for tree in trees for row in tree.rows)
assert failures == 0

# %% tags=["remove-input"]
record("grow.most_channels", most_channels, exact=True)
record("grow.trainings", trainings, exact=True)
rows = []
for name, title in (
    ("grow", "Auto-Keras, weights kept"),
    ("random", "random networks, from scratch"),
    ("largest", "the largest of them, all epochs"),
):
    text = record(f"grow.{name}_accuracy_pct", found[name], digits=1)
    rows.append({"search": title, "test accuracy": text})
figures.table(rows, caption=f"Searches of {trainings} trainings of one epoch")
record("grow.over_random_points", differences(found["grow"], found["random"]), digits=1)
over = differences(found["grow"], found["largest"])
record("grow.over_largest_points", over, digits=1)
words = (
    "the search is ahead",
    "random networks are ahead",
    "that is no difference that these searches can tell",
)
over = differences(found["grow"], found["random"])
said = outcome(over, *words) if len(over) >= 3 else "so few searches decide nothing"
evidence.phrase("morphism.grow.outcome", said)
tree = trees[0]
figure, ax = figures.axes()
reached_there = [row.fitness for row in tree.rows]
depths = []
for place, parent_row in enumerate(tree.parents):
    depths.append(0 if parent_row is None else depths[parent_row] + 1)
    if parent_row is not None:
        ends = [parent_row + 1, place + 1]
        heights = [reached_there[parent_row], reached_there[place]]
        ax.plot(ends, heights, color=SEARCHED["color"], linewidth=1.2)
counts = [measure.parameters(network) for network in tree.networks]
areas = [30 + 170 * n / max(counts) for n in counts]
ax.scatter(
    range(1, trainings + 1), reached_there, s=areas, color=SEARCHED["color"], zorder=3
)
ax.set(xlabel="training", ylabel="validation accuracy (%)")
ax.set_xticks(range(1, trainings + 1))
text = f"{trainings} trainings of one epoch lead from {reached_there[0]:.0f} to {max(reached_there):.0f} %"
figures.show(
    figure,
    finding=f"Each network continues a trained one: {text}",
    name="fig-tree",
    caption="One search: each dot is a network, its size the number of parameters, joined to the network that it is a morph of.",
    alt=f"A tree of networks, validation accuracy against the number of the training: {text}; the longest line of descent has {max(depths) + 1} networks.",
)

# %% [markdown]
# **What to see.** {finding}`One large network without a search does better | morphism.grow.over_largest_points < 0`:
# with all these epochs it reaches {mean}`morphism.grow.largest_accuracy_pct 1`.
# The network that the search finds while it keeps weights reaches {mean}`morphism.grow.grow_accuracy_pct 1`, and the
# one chosen among as many random networks from scratch reaches {mean}`morphism.grow.random_accuracy_pct 1`.
# The difference of these two is {glue:text}`morphism.grow.over_random_points`: {glue:text}`morphism.grow.outcome`.
#
# (sec-path-level-morphism)=
# ## Path-level morphism: trees of branches
#
# **The idea.** Cai and colleagues replace one layer by several branches that together compute what the layer did {cite:p}`cai2018path`.
# A branch can be replaced in turn, so a tree grows in place of the layer, and keeps the weights that were learned.
#
# **The formula.** A layer $C$ becomes $B$ copies whose mean is taken, or $B$ parts $C_b$, each of which computes or reads some of the channels:
#
# $$
# \begin{aligned}
# C(x) &= \frac{1}{B} \sum_{b=1}^{B} C(x) \\
# C(x) &= \big[\,C_1(x), \dots, C_B(x)\,\big] \\
# C(x) &= \sum_{b=1}^{B} C_b(x_b)
# \end{aligned}
# $$ (eq-path-level)
#
# After any layer an *identity edge* can be inserted.
# Putting an operation in its place is the one step that changes what the network computes.
#
# **The code.** How branches get their inputs and merge their outputs:

# %% tags=["remove-input"]
figures.show_source(Branches.forward)

# %% [markdown]
# **An exact check.** A tree that is three branches deep still computes what the layer did.

# %%
network = copy.deepcopy(parents[0]).double()
deep = network
for scheme, edge in (
    ("replicate-add", "conv2"),
    ("split-add", "conv2.branches.0"),
    ("replicate-concat", "conv2.branches.0.branches.1"),
):
    deep = path_level.branch(deep, edge, double, scheme=scheme)
assert path_level.depth(deep, "conv2.branches.0.branches.1.branches.0") == 3
assert apart(network, deep) < 1e-12
assert paths.count(deep, double) == 4

# %% [markdown]
# **An experiment.** In each small network, {mean}`morphism.trees.steps` random steps put a tree in place of the second convolution.
# A second tree gets random operations in place of the identity edges that are left.
# We train both as before, and compare them with the same trees from scratch.

# %% tags=["hide-input"]
several_paths, tree_gaps, tree_costs = [], [], []
for seed in range(random_trees):
    exact = copy.deepcopy(parents[seed % seeds]).double()
    larger = path_level.insert_identity(exact, "conv2", double[:1])
    larger = path_level.grow(larger, "conv2", double[:1], steps=steps - 1, seed=seed)
    several_paths.append(paths.count(larger, double))
    tree_gaps.append(1e6 * apart(exact, larger))
for seed in range(seeds):
    layered = measure.multiply_adds(morphed("layers", seed), shape)
    tree_costs.append(measure.multiply_adds(morphed("tree", seed), shape) / layered)
tree_runs, jumps = {}, {}
for way in ("tree", "operations"):
    reached_at_once = [accuracy(morphed(way, seed), tested) for seed in range(seeds)]
    jumps[way] = differences(before, reached_at_once)
    tree_runs[way] = {
        "morphed": reached(way, "morphed", one, one),
        "fresh": reached(way, "fresh", one, one),
        "total": reached(way, "fresh", whole, whole),
    }

# %% tags=["remove-input"]
record("trees.steps", steps, exact=True)
record("trees.paths", several_paths, digits=1)
record("trees.largest_difference_ppm", tree_gaps, unit="ppm", digits=9)
record("trees.drop_points", jumps["tree"])
record("trees.operations_drop_points", jumps["operations"], digits=1)
record("budget.tree_over_layer_ratio", tree_costs, digits=2)
over_small = [ratio * large_cost / small_cost for ratio in tree_costs]
record("budget.tree_over_small_ratio", over_small, digits=1)
rows = []
for way, title in (
    ("layers", "layers changed"),
    ("tree", "tree"),
    ("operations", "tree with operations"),
):
    if way == "layers":
        own = {name: values[0] for name, values in runs.items()}
        lost = differences(before, at_once)
    else:
        own, lost = tree_runs[way], jumps[way]
        for name, values in own.items():
            record(f"trees.{way}_{name}_accuracy_pct", values, digits=1)
        record(
            f"trees.{way}_gain_points",
            differences(own["morphed"], own["fresh"]),
            digits=1,
        )
        record(
            f"trees.{way}_total_gain_points",
            differences(own["morphed"], own["total"]),
            digits=1,
        )
    tell = {"unit": "%", "digits": 1, "bounds": figures.PERCENT}
    rows.append(
        {
            "change": title,
            "lost at once": evidence.formatted(lost, unit="points", digits=1),
            "after one epoch": evidence.formatted(own["morphed"], **tell),
            "from scratch, one epoch": evidence.formatted(own["fresh"], **tell),
            "from scratch, all epochs": evidence.formatted(own["total"], **tell),
        }
    )
figures.table(
    rows,
    caption=f"Test accuracy after a change of a network that has {np.mean(before):.1f} %",
)
hours = {"path-level": 200, "from scratch": 500 * 4 * 24, "hill climbing": 24}
share = 100 * hours["path-level"] / hours["from scratch"]
record("budget.reported_pct", share, exact=True)
record("budget.path_level_hours", hours["path-level"], exact=True)
record("budget.from_scratch_hours", hours["from scratch"], exact=True)
rows = [
    {"search": name, "weights": kept, "GPU hours, reported": f"{n:,}"}
    for name, kept, n in (
        ("NASNet", "from scratch", hours["from scratch"]),
        ("path-level, trees", "kept", hours["path-level"]),
        ("hill climbing by morphs", "kept", hours["hill climbing"]),
    )
]
figures.table(rows, caption="What searches on CIFAR-10 took, as their authors report")

# %% [markdown]
# **What to see.** Trees reuse the weights: they have {mean}`morphism.trees.paths 1` paths on average, and growing them costs {mean}`morphism.trees.drop_points 1` of accuracy ({verdict}`C3.2.3-05`).
# The step that is not exact does harm at first: with operations in place of identity edges, the trees {finding}`lose | morphism.trees.operations_drop_points > 5` {mean}`morphism.trees.operations_drop_points 1`.
# After one epoch, they differ from the same trees from scratch by {glue:text}`morphism.trees.tree_gain_points` with exact steps alone, and by {glue:text}`morphism.trees.operations_gain_points` with operations.
# With all epochs counted, it is {glue:text}`morphism.trees.tree_total_gain_points` and {glue:text}`morphism.trees.operations_total_gain_points`.
#
# The survey concludes that these searches need expensive resources *as a result*.
# Their authors say the opposite: reusing weights brings the search down to {mean}`morphism.budget.path_level_hours` GPU hours, where one without reuse took {mean}`morphism.budget.from_scratch_hours` {cite:p}`cai2018path,zoph2018learning`.
# Hill climbing with morphs of layers takes a day on one GPU {cite:p}`elsken2017simple`.
# Here, too, {finding}`trees are cheap | morphism.budget.tree_over_layer_ratio < 1`: a network with one takes {mean}`morphism.budget.tree_over_small_ratio` the multiply-adds that it took without ({verdict}`C3.2.3-06`).
# That is {mean}`morphism.budget.tree_over_layer_ratio` the cost of the network after the four operations on layers.
#
# ## Where it breaks
#
# **Batch norm in a new layer.** A new layer after an activation cannot undo the statistics of each batch.
# {cite:t}`chen2016net2net` give its norm the statistics of some images, which is exact in evaluation mode alone.
# A norm of zero beside a skip connection is exact in both modes.

# %% tags=["hide-input"]
many = learned.images[:64].double()
inserted = {
    way: network_morphism.deepen(network, "conv2", many, batch_norm=way)
    for way in ("measured", "residual")
}
others_seen = tested.images[:64].double()
in_training = {
    way: 100 * largest_difference(network, deeper, others_seen, training=True)
    for way, deeper in inserted.items()
}
in_evaluation = 100 * largest_difference(network, inserted["measured"], others_seen)

# %% tags=["remove-input"]
for way, value in in_training.items():
    record(f"norm.{way}_training_pct", value, digits=1)
record("norm.measured_evaluation_pct", in_evaluation, digits=1)

# %% [markdown]
# With measured statistics, outputs for other images are off by {mean}`morphism.norm.measured_training_pct` of their scale in training mode, and by {mean}`morphism.norm.measured_evaluation_pct` in evaluation mode.
# With the norm of zero they are off by {mean}`morphism.norm.residual_training_pct` in training mode.
#
# **Activations that change when applied twice.** After tanh, an identity layer would apply tanh twice, so inserting one is refused.

# %%
tanh = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
try:
    network_morphism.deepen(tanh, "0", torch.zeros(1, 4))
    refused = False
except ValueError as error:
    refused = "not followed by ReLU" in str(error)
assert refused

# %% [markdown]
# **A learning rate for a fresh network.** Too large a step can undo what was learned.
# The table compares the morphed network after one epoch at each learning rate with the small network before.

# %% tags=["hide-input"]
at_rate = {
    rate: [
        accuracy(trained("layers", "morphed", after[0], seed, rate), tested)
        for seed in range(seeds)
    ]
    for rate in rates
}

# %% tags=["remove-input"]
rows = []
for i, (rate, accuracies) in enumerate(at_rate.items()):
    change = record(
        f"epochs.rate{i}_change_points", differences(accuracies, before), digits=1
    )
    rows.append({"learning rate": f"{rate:g}", "change by one epoch": change})
figures.table(rows, caption="What one epoch does to a network that was made larger")
record("epochs.largest_rate_points", differences(at_rate[max(rates)], before), digits=1)
worst = min(differences(at_rate[max(rates)], before))
record("epochs.worst_rate_points", worst, digits=1)
record("epochs.chosen_rate", rate_of("layers", "morphed", after[0]), digits=3, unit="")
fresh_rate = rate_of("layers", "fresh", after[0])
record("epochs.chosen_fresh_rate", fresh_rate, digits=3, unit="")

# %% [markdown]
# Validation images choose a rate of {mean}`morphism.epochs.chosen_rate` for the morphed network and {mean}`morphism.epochs.chosen_fresh_rate` for the one from scratch.
# At the last rate of the table, one epoch changes the accuracy by {glue:text}`morphism.epochs.largest_rate_points`, and by {mean}`morphism.epochs.worst_rate_points` in one of the networks.
#
# ## Exercises
#
# 1. A layer of three units gets five, by copying units 0 and 2. By which numbers are the weights that read them divided?

# %% tags=["hide-cell"]
origins = [0, 1, 2, 0, 2]
shares = [origins.count(unit) for unit in origins]
evidence.answer(
    f"By {', '.join(map(str, shares))}: each old unit's weight is shared among its copies, so that their sum is what it was."
)

# %% [markdown]
# 2. Without noise, do the copies of a channel become different when the network is trained?

# %% tags=["hide-cell"]
kinds_left = {}
for spread in (0.0, noise):
    wide = network_morphism.widen(parents[0], "conv1", x, width=2 * width, noise=spread)
    fitted(wide, 1, rates[0], 0)
    filters = wide.conv1.weight.detach().flatten(1)
    near = torch.cdist(filters, filters) < 1e-4 * filters.norm(dim=1).max()
    kinds_left[spread] = int(torch.linalg.matrix_rank(near.float()))
assert kinds_left[0.0] == width < kinds_left[noise]
evidence.answer(
    f"No: {kinds_left[0.0]} of the {2 * width} filters are different after an epoch, as many as before. Copies get the same gradient. With a little noise at the start it is {kinds_left[noise]}."
)

# %% [markdown]
# 3. What does Auto-Keras find if it never looks at the standard deviation?

# %% tags=["hide-cell"]
allowed, truth = limited_to_median("multiply-adds")
greedy = [
    regret.regret_points(
        auto_keras.search(
            allowed,
            fitness_of(seed),
            budget=evaluations,
            seed=seed,
            describe=described,
            beta=0.0,
        ),
        truth,
    )[-1]
    for seed in range(other_repeats)
]
usual = last["auto_keras"][:other_repeats]
words = ("that is worse", "that is better", "we can tell no difference")
said = outcome(differences(greedy, usual), *words)
evidence.answer(
    f"With beta of zero it trains what it already believes in. Over {other_repeats} searches its regret is {np.mean(greedy):.2f} points, and {usual.mean():.2f} with the usual beta: {said}."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 3.2.3
# ```
#
# ## In short
#
# - A trained network can be widened, deepened and branched without changing what it computes, which the survey leaves out.
# - The larger network works at once because the small one has had its epochs: say which ones you count.
# - Morphism does not confine networks to chains, and trees of branches reuse weights to make a search cheaper.
#
# ## Sources of this chapter
#
# - {cite:t}`chen2016net2net` widen and deepen networks; {cite:t}`wei2016network` and {cite:t}`wei2017modularized` define network morphism, with kernels, branches and parametric activations.
# - {cite:t}`jin2019autokeras` describe Auto-Keras; {cite:t}`elsken2017simple` search by hill climbing with morphs.
# - {cite:t}`cai2018efficient` search with operations on layers, {cite:t}`cai2018path` with trees of branches; {cite:t}`zoph2018learning` train each network from scratch.
# - {cite:t}`berthelier2020survey` is the survey.
