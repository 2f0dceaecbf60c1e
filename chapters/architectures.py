# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-architectures)=
# # Efficient building blocks: Inception, residual, dense and separable convolutions
#
# How can an image network be cheap by design, and not by compression?
# Build it from cheap parts: MobileNet-v3, made of separable convolutions, takes
# {mean}`architectures.counts.vgg16_over_mobilenet_ratio 0`
# {finding}`fewer multiply-adds | architectures.counts.vgg16_over_mobilenet_ratio > 1` for a photo than VGG-16, and by
# published figures it labels
# {finding}`more | architectures.counts.mobilenet_v3_large_accuracy_pct > architectures.counts.vgg16_accuracy_pct`
# photos right.
# But a count is not a time.
# A depthwise convolution, with one filter for each channel, needs
# {mean}`architectures.roofline.early_depthwise_work_ratio 0` fewer multiply-adds than a dense one, and here it is
# {finding}`only | architectures.roofline.early_depthwise_latency_ratio < architectures.roofline.early_depthwise_work_ratio`
# {mean}`architectures.roofline.early_depthwise_latency_ratio 0` faster.
#
# ```{claims} architectures
# ```
#
# ```{cost} architectures
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits, mnist, or the path of an image folder
first = [500, 270, 449]  # of them: training, validation and test images
pool = 2  # pixels in each direction that are averaged before a network sees them
seeds = 3  # networks of each kind, trained from different starts
stack_seeds = 3  # networks with each stack of filters, at least as many
batch_size = 32  # images in a step
epochs = 5  # to train a network with blocks
widths = {
    "plain": 12,
    "separable": 32,
}  # channels with each block, for about equal multiply-adds
rates = {
    "one": 0.4,
    "five": 0.2,
    "plain": 0.2,
    "separable": 0.2,
}  # learning rates, chosen on validation images from 0.1, 0.2, 0.4
depths = [8, 20]  # layers of the residual and plain networks
deep_images = 256  # to train them
deep_epochs = 4  # passes over these images
deep_rate = 0.1  # learning rate of both, as in the paper
filter_epochs = 5  # to train a network with the four kinds of filters
filter_rates = {
    "full": 0.01,
    "separable": 0.02,
    "fused": 0.01,
    "fused separable": 0.02,
}  # learning rates for Adam, chosen on validation images from 0.003, 0.01, 0.02
all_counted = False  # whether all networks of a family are, or the main ones
shares = ["alexnet"]  # torchvision's networks whose convolutions are timed
timed = [
    "resnet18",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
]  # its networks that are timed as a whole
repeats = 1  # calls of a layer that are timed as one; more are less disturbed

# %% tags=["hide-input"]
import copy
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

from lib import (
    datasets,
    evidence,
    exporting,
    figures,
    measure,
    models,
    operations,
    running,
    training,
)
from lib.activations import peak_activation_bytes
from lib.architectures import (
    dense_block,
    depthwise_separable,
    filter_sizes,
    inception,
    residual_block,
    spatially_separable,
)
from lib.architectures.mobilenet import mobilenet
from lib.architectures.shared import fused_pools, roofline
from lib.architectures.shared.memory import keep_memory
from lib.architectures.shared.receptive_field import receptive_field
from lib.architectures.shufflenet import shufflenet
from lib.architectures.squeeze_segnet import segnet, squeeze_segnet
from lib.datasets import Split
from lib.figures.costs import Cost, Point, choosable
from lib.seeding import seeded
from lib.vision import torchvision

dataset = datasets.load(data, first=first)
record = evidence.recorder("architectures", dataset)
classes, channels = len(dataset.classes), dataset.train.images.shape[1]


def smaller(split):  # images of fewer pixels
    return Split(nn.functional.avg_pool2d(split.images, pool), split.labels)


train, validation, test = map(
    smaller, (dataset.train, dataset.validation, dataset.test)
)
side = train.images.shape[-1]
fit = {"split": train, "batch_size": batch_size}
generator = torch.Generator().manual_seed(0)
keep_memory()  # times are those of computing, not of getting fresh memory


def trained(networks, rate, **options):
    for seed, network in enumerate(networks):
        training.fit(network, seed=seed, learning_rate=rate, **fit | options)
    return networks


def errors(networks, split=test):
    return [training.error_pct(network, split) for network in networks]


def compared(rival, errors):  # in words, of networks with the same seeds
    mean, half = evidence.interval([a - b for a, b in zip(rival, errors, strict=True)])
    if abs(mean) <= half:
        return "no clear difference"
    return f"{abs(mean):.1f} points {'fewer' if mean > 0 else 'more'}"


# %% [markdown]
# (sec-counts)=
# ## Accuracy against cost
#
# After compression, the survey turns to networks that are efficient from the start.
# It first notes that some compression is already built into the tools for developers ({verdict}`C3-01`).
#
# torchvision publishes the ImageNet accuracy of its networks with their weights.
# These accuracies are external evidence: we read them from the library's list, and did not measure them.
# We count the cost of a network ourselves: its parameters, its {term}`multiply-adds <multiply-add>` for one photograph, and the peak size of
# its activations,
#
# $$ \max_t \sum_{s \text{ alive after operation } t} \mathrm{bytes}(s) . $$ (eq-peak)
#
# The networks are built and run without storing any numbers, on PyTorch's *meta* device, so even VGG-16 is counted in
# milliseconds.


# %%
def built(name):  # torchvision's network, without the heads that only train it
    odd = name in ("googlenet", "inception_v3")
    options = {"aux_logits": False, "init_weights": False} if odd else {}
    return torchvision.models.get_model(name, weights=None, **options)


def counted(build, shape):  # parameters, multiply-adds, bytes of activations
    with torch.device("meta"):
        network = build()
    with operations.counting(network) as work:
        peak = peak_activation_bytes(network, shape)
    return measure.parameters(network), sum(work.values()), peak


def published(name):  # recipe -> top-1 accuracy on ImageNet, by torchvision
    found = {}
    for weights in torchvision.models.get_model_weights(name):
        newer = "new training recipe" in " ".join(weights.meta["_docs"].split())
        top = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        if not np.isnan(top):  # some weights have no classifier
            found["newer" if newer else "first"] = top
    return found


# %% tags=["hide-input"]
FAMILIES = {  # family -> look, networks that are always counted, and others
    "AlexNet": ("dense", "alexnet", ""),
    "VGG": ("filter-size-factorization", "vgg11 vgg16 vgg19", ""),
    "GoogLeNet, Inception": ("inception-module", "googlenet", "inception_v3"),
    "ResNet": ("residual-block", "resnet18 resnet50 resnet152", "resnet34 resnet101"),
    "DenseNet": ("dense-block", "densenet121", "densenet169"),
    "SqueezeNet": ("squeezenet", "squeezenet1_0 squeezenet1_1", ""),
    "MobileNet": (
        "mobilenet-v1",
        "mobilenet_v2 mobilenet_v3_large",
        "mobilenet_v3_small",
    ),
    "ShuffleNet": (
        "shufflenet-v1",
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x0_5 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
    ),
    "MnasNet": ("mnasnet", "mnasnet1_0", "mnasnet0_5 mnasnet0_75 mnasnet1_3"),
}


def members(family):
    _, always, more = FAMILIES[family]
    return always.split() + (more.split() if all_counted else [])


def pixels(name):
    return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


names = [name for family in FAMILIES for name in members(family)]
costs = {name: counted(partial(built, name), pixels(name)) for name in names}
accuracies = {name: published(name) for name in names}

# %% [markdown]
# **Exact checks.** Our counts agree with those that torchvision publishes for each of these networks, and for the main
# ones with the literature.

# %%
HEADS = {"inception_v3": 3_326_696}  # parameters that torchvision counts as well
for name, (parameters, work, _) in costs.items():
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert parameters + HEADS.get(name, 0) == meta["num_params"], name
    assert round(work / 1e9, 3) == meta["_ops"], name  # in billions
assert costs["alexnet"][:2] == (61_100_840, 714_188_480)
assert costs["vgg16"][:2] == (138_357_544, 15_470_264_320)
assert costs["googlenet"][:2] == (6_624_904, 1_498_376_192)
assert costs["resnet50"][:2] == (25_557_032, 4_089_184_256)
assert costs["mobilenet_v2"][:2] == (3_504_872, 300_774_272)

# %% tags=["hide-input"]
PHOTO, SMALL, SCENE = (3, 224, 224), (3, 32, 32), (3, 180, 240)
PAPERS = {  # network -> how it is built, of what, parameters, multiply-adds (millions)
    "GoogLeNet, 5 x 5 filters": (inception.googlenet, PHOTO, 6_998_552, "1582.671872"),
    "Xception": (depthwise_separable.xception, (3, 299, 299), 22_855_952, ""),
    "MobileNet": (mobilenet, PHOTO, 4_231_976, "568.740352"),
    "MobileNet, half as wide": (
        partial(mobilenet, width=0.5),
        PHOTO,
        1_331_592,
        "149.497088",
    ),
    "MobileNet, dense convolutions": (
        partial(mobilenet, full=True),
        PHOTO,
        29_294_088,
        "4867.293184",
    ),
    "ShuffleNet, 3 groups": (shufflenet, PHOTO, 1_865_728, "137.460672"),
    "ResNet-20": (residual_block.cifar_resnet, SMALL, 269_722, "40.551040"),
    "DenseNet (40, 12)": (dense_block.cifar_densenet, SMALL, 1_019_722, "264.8"),
}
if all_counted:
    for width, parameters, work in (
        (0.75, 2_585_560, "325.400448"),
        (0.25, 470_072, "41.030272"),
    ):
        build = partial(mobilenet, width=width)
        PAPERS[f"MobileNet, {width} as wide"] = (build, PHOTO, parameters, work)
    for size, work in ((192, "418.121728"), (160, "290.675200"), (128, "186.400768")):
        PAPERS[f"MobileNet, {size} pixels"] = (
            mobilenet,
            (3, size, size),
            4_231_976,
            work,
        )
    build = partial(mobilenet, middle=0)
    PAPERS["MobileNet, shallow"] = (build, PHOTO, 2_887_976, "307.323392")
    for groups, parameters, work in (
        (1, 1_531_936, "143.08"),
        (2, 1_733_848, "140.84"),
        (4, 1_968_344, "134.34"),
        (8, 2_434_768, "138.37"),
    ):
        build = partial(shufflenet, groups=groups)
        PAPERS[f"ShuffleNet, {groups} groups"] = (build, PHOTO, parameters, work)
    for width, parameters, work in (
        (1.5, 3_442_168, "292.443552"),
        (2.0, 5_450_776, "524.05"),
    ):
        build = partial(shufflenet, width=width)
        PAPERS[f"ShuffleNet, {width} as wide"] = (build, PHOTO, parameters, work)
    for depth, parameters, work in (
        (8, 75_290, "12.24"),
        (32, 464_154, "68.86"),
        (44, 658_586, "97.17"),
        (56, 853_018, "125.49"),
        (110, 1_727_962, "252.89"),
    ):
        build = partial(residual_block.cifar_resnet, depth=depth)
        PAPERS[f"ResNet-{depth}"] = (build, SMALL, parameters, work)
    compressed = {"depth": 100, "bottleneck": True, "compression": 0.5}
    build = partial(dense_block.cifar_densenet, **compressed)
    PAPERS["DenseNet-BC (100, 12)"] = (build, SMALL, 769_162, "287.9")
    PAPERS["SegNet"] = (segnet, SCENE, 29_449_355, "")
    PAPERS["Squeeze-SegNet"] = (squeeze_segnet, SCENE, 7_617_939, "")
    build = partial(squeeze_segnet, light=True)
    PAPERS["Squeeze-SegNet, our layout"] = (build, SCENE, 2_414_827, "")
ours = {}
for name, (build, shape, parameters, work) in PAPERS.items():
    ours[name] = counted(build, shape)
    digits = len(work.partition(".")[2])
    assert ours[name][0] == parameters, name
    assert not work or f"{ours[name][1] / 1e6:.{digits}f}" == work, name

# %% tags=["remove-input"]
for name in ("alexnet", "vgg16", "squeezenet1_0", "resnet50", "mobilenet_v3_large"):
    record(f"counts.{name}_multiply_adds", costs[name][1], exact=True)
    top = accuracies[name]["first"]
    record(f"counts.{name}_accuracy_pct", top, digits=1, exact=True)


def ratio(key, one, other, column, digits=1):  # of exact counts
    return record(
        key, costs[one][column] / costs[other][column], digits=digits, exact=True
    )


ratio("counts.vgg16_over_mobilenet_ratio", "vgg16", "mobilenet_v3_large", 1, 0)
ratio("counts.alexnet_over_squeezenet_parameters_ratio", "alexnet", "squeezenet1_0", 0)
ratio("counts.squeezenet_over_alexnet_peak_ratio", "squeezenet1_0", "alexnet", 2)
ratio("counts.resnet152_over_resnet50_ratio", "resnet152", "resnet50", 1)
one, other = accuracies["resnet50"], accuracies["resnet152"]
deeper, newer = other["first"] - one["first"], one["newer"] - one["first"]
record("counts.deeper_gain_points", deeper, digits=1, exact=True)
record("counts.recipe_gain_points", newer, digits=1, exact=True)
figure, ax = figures.axes()
for family, (look, *_) in FAMILIES.items():
    look = figures.look(look) | {"linestyle": "none", "markersize": 7}
    look |= {"marker": "P"} if family == "MnasNet" else {}
    for name in members(family):
        work, top = costs[name][1] / 1e6, accuracies[name]
        ax.plot([work] * len(top), [*top.values()], color=look["color"], linewidth=1)
        for recipe, accuracy in top.items():
            hollow = {"markerfacecolor": "white"} if recipe == "newer" else {}
            ax.plot(work, accuracy, **look | hollow)
    ax.plot([], [], **look, label=family)
figures.logarithmic(ax, "x")
ax.set(xlabel="multiply-adds for one image (millions)", ylabel="top-1 accuracy (%)")
ax.set_xticks([50, 200, 1000, 5000, 20000])
ax.set_ylim(bottom=54)
places = {
    "alexnet": ("AlexNet", (9, -2), "left"),
    "vgg16": ("VGG-16", (-4, -14), "center"),
    "resnet50": ("ResNet-50", (8, -12), "left"),
    "mobilenet_v3_large": ("MobileNet-v3", (-4, 20), "center"),
}
for name, (text, offset, align) in places.items():
    at = costs[name][1] / 1e6, accuracies[name]["first"]
    ax.annotate(
        text, at, offset, textcoords="offset points", ha=align, va="center", fontsize=10
    )
figures.legend(ax, 3, narrow=True)
fewer = costs["vgg16"][1] / costs["mobilenet_v3_large"][1]
figures.show(
    figure,
    lead=True,
    finding=f"MobileNet-v3 is right on {accuracies['mobilenet_v3_large']['first']:.0f} % with {fewer:.0f} times fewer multiply-adds than VGG-16, which is right on {accuracies['vgg16']['first']:.0f} %",
    name="fig-accuracy-cost",
    caption="ImageNet accuracy against multiply-adds. Filled: as the papers or simple recipes train; hollow: trained by torchvision's newer recipe; a line joins the two of one network. The accuracies are published by torchvision (external evidence); the multiply-adds are counted here.",
    alt=f"Points of accuracy against multiply-adds. MobileNet-v3 is at {accuracies['mobilenet_v3_large']['first']:.1f} % with {costs['mobilenet_v3_large'][1] / 1e6:,.0f} million multiply-adds, VGG-16 at {accuracies['vgg16']['first']:.1f} % with {costs['vgg16'][1] / 1e6:,.0f} million. With a newer recipe ResNet-50 rises from {accuracies['resnet50']['first']:.1f} to {accuracies['resnet50']['newer']:.1f} %.",
)

# %% [markdown]
# **What to see.** From VGG-16 to MobileNet-v3 the same accuracy became
# {mean}`architectures.counts.vgg16_over_mobilenet_ratio 0` cheaper in multiply-adds,
# {finding}`with no loss | architectures.counts.mobilenet_v3_large_accuracy_pct > architectures.counts.vgg16_accuracy_pct`.
# But the training recipe matters as much as the network: a newer one raises the accuracy of ResNet-50 by
# {mean}`architectures.counts.recipe_gain_points`.
# That is {finding}`more than | architectures.counts.recipe_gain_points > architectures.counts.deeper_gain_points` the
# {mean}`architectures.counts.deeper_gain_points` that the deeper ResNet-152 gains with
# {mean}`architectures.counts.resnet152_over_resnet50_ratio` as many multiply-adds.
# So two networks can only be compared if they were trained in the same way.
#
# Few parameters do not mean little memory.
# SqueezeNet has {mean}`architectures.counts.alexnet_over_squeezenet_parameters_ratio`
# {finding}`fewer | architectures.counts.alexnet_over_squeezenet_parameters_ratio > 1` parameters than AlexNet, but at
# their peak its activations take {mean}`architectures.counts.squeezenet_over_alexnet_peak_ratio`
# {finding}`as much | architectures.counts.squeezenet_over_alexnet_peak_ratio > 1`.
#
# (sec-other-costs)=
# ### By another cost, by another recipe
#
# **An experiment.** We time networks for one photograph on one core.
# The unit is the time of ResNet-18, a network of 18 layers from 2015, which takes turns with each family of networks.
# timm, another library of networks, publishes accuracies by its own recipes in
# [its list](https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv).
# It also trained the first MobileNet, which torchvision lacks.


# %% tags=["hide-input"]
def image_times(networks):  # name -> (build, shape): milliseconds for one image
    calls = {}
    for name, (build, shape) in networks.items():
        with seeded(0):
            network = build().eval()
        image = torch.rand(1, *shape, generator=generator)
        calls[name] = partial(network, image)
    return {name: time.median for name, time in measure.latency_ms(calls).items()}


UNIT = {"resnet18": (partial(built, "resnet18"), pixels("resnet18"))}
LARGE = 5e7  # parameters: several networks of this size would not fit into memory
groups = []
for family in FAMILIES:
    asked_for = [name for name in members(family) if name in timed]
    large = [
        name for name in asked_for if costs[name][0] >= LARGE
    ]  # not chosen by test
    together = [name for name in asked_for if name not in large]
    for names in (together, *([name] for name in large)):
        groups.append({n: (partial(built, n), pixels(n)) for n in names})
if all_counted:
    groups.append({name: (build, shape) for name, (build, shape, *_) in PAPERS.items()})
if sum(map(len, groups)) < 10:  # few enough for one group
    groups = [{name: one for group in groups for name, one in group.items()}]
slower, unit_ms = {}, []  # time of each network, with that of ResNet-18 as the unit
for group in filter(None, groups):
    taken = image_times(UNIT | group)
    unit_ms.append(taken["resnet18"])
    slower |= {name: time / taken["resnet18"] for name, time in taken.items()}

# %% tags=["remove-input"]
TIMM = {  # top-1 accuracy at 224 pixels by recipes of timm: its list of August 2026
    "resnet18": 71.504,
    "resnet34": 76.420,
    "mobilenet_v2": 72.910,
    "mnasnet1_0": 74.672,
    "MobileNet": 75.388,
}
RECIPES = {  # column of the table and group of the figure -> its look
    "first recipe": figures.DENSE,
    "torchvision's newer": figures.RETRAINED,
    "timm's": figures.QUANTIZATION,
}
by_recipe = {}
for name, top in {**accuracies, "MobileNet": {}}.items():
    every = zip(
        RECIPES, (top.get("first"), top.get("newer"), TIMM.get(name)), strict=True
    )
    by_recipe[name] = {recipe: value for recipe, value in every if value is not None}


def all_costs(name):  # in the order of CHOICES
    parameters, work, peak = (costs | ours)[name]
    return parameters / 1e6, work / 1e6, peak / 1e6, slower.get(name, np.nan)


small, large = "mobilenet_v3_large", "resnet18"
fewer = [b / a for a, b in zip(all_costs(small), all_costs(large), strict=True)]
record("counts.mobilenet_v3_work_ratio", fewer[1], digits=1, exact=True)
record("counts.mobilenet_v3_speed_latency_ratio", fewer[3])
record("counts.resnet18_latency_ms", float(np.median(unit_ms)), digits=0)
record("counts.resnet18_accuracy_pct", by_recipe[large]["first recipe"], exact=True)
record("counts.mobilenet_timm_accuracy_pct", TIMM["MobileNet"], digits=1, exact=True)
times_of_work = ours["MobileNet"][1] / costs[small][1]
record("counts.mobilenet_over_v3_ratio", times_of_work, digits=1, exact=True)
better = "MobileNet-v3 is more accurate than ResNet-18"
CHOICES = [
    Cost(
        "parameters",
        "parameters (millions)",
        f"{better}, with {fewer[0]:.1f} times fewer parameters",
    ),
    Cost(
        "multiply-adds",
        "multiply-adds for one image (millions)",
        f"{better}, with {fewer[1]:.1f} times fewer multiply-adds",
    ),
    Cost(
        "memory",
        "activations at their peak (MB)",
        f"{better}, with activations of {1 / fewer[2]:.1f} times the size",
    ),
    Cost(
        "time",
        "time for one image (ResNet-18: 1)",
        f"{better}, has {fewer[1]:.1f} times fewer multiply-adds, and is {fewer[3]:.1f} times as fast",
    ),
]
known = (small, large, "MobileNet", "alexnet", "vgg16", "resnet50", *by_recipe)
choosable(
    [
        Point(name, recipe, accuracy, all_costs(name))
        for name in dict.fromkeys(known)  # those that matter most first
        for recipe, accuracy in by_recipe[name].items()
    ],
    costs=CHOICES,
    looks=RECIPES,
    ylabel="top-1 accuracy (%)",
    name="fig-costs",
    caption="ImageNet accuracy against a cost of your choice, by the recipe of training. The accuracies are published by torchvision and timm (external evidence); the costs are counted and measured here. The folded table has all values.",
    alt=f"Points of published accuracy against four costs. MobileNet-v3 has {by_recipe[small]['first recipe']:.1f} %, ResNet-18 {by_recipe[large]['first recipe']:.1f} %: {fewer[0]:.1f} times fewer parameters, {fewer[1]:.1f} times fewer multiply-adds, activations of {1 / fewer[2]:.1f} times the size, {fewer[3]:.1f} times the speed. By timm's recipe the first MobileNet reaches {TIMM['MobileNet']:.1f} %.",
)

# %% [markdown]
# **What to see.** By the clock, MobileNet-v3
# {finding}`saves less than by count | architectures.counts.mobilenet_v3_speed_latency_ratio < architectures.counts.mobilenet_v3_work_ratio`.
# It takes {mean}`architectures.counts.mobilenet_v3_work_ratio`
# {finding}`fewer | architectures.counts.mobilenet_v3_work_ratio > 1` multiply-adds than ResNet-18 and classifies
# {finding}`more | architectures.counts.mobilenet_v3_large_accuracy_pct > architectures.counts.resnet18_accuracy_pct`
# photographs correctly, but it is only {mean}`architectures.counts.mobilenet_v3_speed_latency_ratio` as fast.
#
# A recipe can outweigh generations of networks: with one of timm's recipes, the first MobileNet, of 2017, reaches
# {mean}`architectures.counts.mobilenet_timm_accuracy_pct`.
# This is
# {finding}`more than | architectures.counts.mobilenet_timm_accuracy_pct > architectures.counts.mobilenet_v3_large_accuracy_pct`
# the {mean}`architectures.counts.mobilenet_v3_large_accuracy_pct` of MobileNet-v3 with its first recipe, though with
# {mean}`architectures.counts.mobilenet_over_v3_ratio` as many multiply-adds.
#
# Two folded tables hold all counts, with the times of the networks that were timed.


# %% mystnb={"code_prompt_show": "Show all counts", "code_prompt_hide": "Hide all counts"} tags=["remove-input", "hide-output"]
def row_of(name, counts, **columns):
    parameters, work, peak = counts
    row = {"network": name, **columns, "parameters": f"{parameters:,}"}
    row["multiply-adds"] = f"{work:,}"
    row["as float32 (MB)"] = f"{4 * parameters / 1e6:.1f}"
    row["activations (MB)"] = f"{peak / 1e6:.1f}"
    row["time"] = f"{slower[name]:.2f}×" if name in slower else "–"
    top = by_recipe.get(name, {})
    said = {r: f"{top[r]:.1f} %" if r in top else "–" for r in RECIPES}
    return row | said


order = sorted(costs, key=lambda name: costs[name][1])  # not chosen by test
evidence_says = f"Time: for one image on one core, where ResNet-18 takes {np.median(unit_ms):.0f} ms. Accuracy: top-1 on ImageNet as published by torchvision and timm, by recipe, external evidence; all else is counted or measured here"
figures.table(
    [row_of(name, costs[name]) for name in order],
    caption=f"torchvision's networks for one image of 224 x 224 pixels (inception_v3: 299 x 299), without heads for training. {evidence_says}",
)
figures.table(
    [
        row_of(name, ours[name], pixels=" x ".join(map(str, PAPERS[name][1][1:])))
        for name in ours
    ],
    caption=f"Networks that lib builds from their papers. {evidence_says}",
)

# %% [markdown]
# ### Where the time goes
#
# **An experiment.** We time the convolutions of a network alone, then its linear layers alone, on the inputs that they
# have in the network.
# We compare both with the time of the whole network.


# %% tags=["hide-input"]
KINDS = {"convolutions": nn.Conv2d, "linear": nn.Linear}


def repeated(network, image, kind):  # runs all layers of a kind on their own inputs
    layers = {n: m for n, m in network.named_modules() if isinstance(m, kind)}
    with torch.no_grad(), running.captured(network, layers) as flow:
        network(image)
    given = [(layer, flow.inputs[n].clone()) for n, layer in layers.items()]

    def run():  # keeps no output: those of VGG16 are large
        for layer, x in given:
            layer(x)

    return run


photograph = torch.rand(1, 3, 224, 224, generator=generator)
times = {}
for name in shares:
    with seeded(0):
        network = built(name).eval()
    calls = {(name, "whole"): partial(network, photograph)}
    for kind, layer in KINDS.items():
        calls[name, kind] = repeated(network, photograph, layer)
    times |= {call: time.median for call, time in measure.latency_ms(calls).items()}
    del calls, network

# %% tags=["remove-input"]
rows = []
for name in ("alexnet", "vgg16", "resnet18"):
    with torch.device("meta"):
        network = built(name)
    work = measure.multiply_adds_by_layer(network, (3, 224, 224))
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    done = 100 * sum(work[n] for n in convolutions) / sum(work.values())
    weights = sum(
        p.numel() for n in convolutions for p in network.get_submodule(n).parameters()
    )
    held = 100 * weights / measure.parameters(network)
    row = {"network": name}
    row["of the parameters"] = record(
        f"shares.{name}_parameters_pct", held, digits=1, exact=True
    )
    row["of the multiply-adds"] = record(
        f"shares.{name}_work_pct", done, digits=1, exact=True
    )
    row |= {"of the time": "–", "linear layers, of the time": "–"}
    if name in shares:
        took = 100 * times[name, "convolutions"] / times[name, "whole"]
        linear = 100 * times[name, "linear"] / times[name, "whole"]
        row["of the time"] = record(f"shares.{name}_latency_pct", took, digits=0)
        row["linear layers, of the time"] = record(
            f"shares.{name}_linear_latency_pct", linear, digits=0
        )
    rows.append(row)
figures.table(rows, caption="Share of the convolutions, for one image on one core")
others = [
    f"{100 * times[name, 'convolutions'] / times[name, 'whole']:.0f} % in {text}"
    for name, text in {"vgg16": "VGG-16", "resnet18": "ResNet-18"}.items()
    if name in shares
]
said = f"They take {' and '.join(others)}"
if not others:
    said = "The standard profile also times those of VGG-16 and ResNet-18"
evidence.phrase("architectures.shares.others", said)

# %% [markdown]
# **What to see.** In AlexNet, convolutions do {finding}`most | architectures.shares.alexnet_work_pct > 50` of the
# multiply-adds, {mean}`architectures.shares.alexnet_work_pct`, but take
# {mean}`architectures.shares.alexnet_latency_pct` of the time.
# They hold {mean}`architectures.shares.alexnet_parameters_pct` of the parameters.
# The linear layers multiply little, but for each image they read all of their weights from memory.
# {glue:text}`architectures.shares.others`.
# The survey says that convolutions take an important fraction of the time ({verdict}`C3.1-01`).

# %% [markdown]
# ### Which filters they have

# %% tags=["remove-input"]
SIZES = {1: "1 x 1", 3: "3 x 3", 5: "5 x 5"}
with torch.device("meta"):
    looked_at = {
        "LeNet-5": models.lenet5(),
        "AlexNet": built("alexnet"),
        "VGG-16": built("vgg16"),
        "GoogLeNet": inception.googlenet(),
        "ResNet-50": built("resnet50"),
    }
rows, found = [], {}
for name, network in looked_at.items():
    found[name] = [
        max(m.kernel_size) for m in network.modules() if isinstance(m, nn.Conv2d)
    ]
    row = {"convolutions of": name}
    row |= {text: found[name].count(size) for size, text in SIZES.items()}
    rows.append(row | {"larger": sum(size > 5 for size in found[name])})
figures.table(rows, caption="Convolutions by the size of their filters")
record("sizes.alexnet_largest", max(found["AlexNet"]), exact=True)
threes_pct = 100 * found["VGG-16"].count(3) / len(found["VGG-16"])
record("sizes.vgg16_threes_pct", threes_pct, digits=0, exact=True)
record("sizes.googlenet_ones", found["GoogLeNet"].count(1), exact=True)
record("sizes.googlenet_convolutions", len(found["GoogLeNet"]), exact=True)

# %% [markdown]
# The survey says that early networks of LeCun use {term}`filters <filter>` of $5 \times 5$ and $3 \times 3$ ({verdict}`C3.1-02`);
# LeNet-5 {cite:p}`lecun1998gradient`, a digit classifier, has only $5 \times 5$.
# The first filters of AlexNet {cite:p}`krizhevsky2012imagenet` are {mean}`architectures.sizes.alexnet_largest` pixels
# wide ({verdict}`C3.1-03`), and {mean}`architectures.sizes.vgg16_threes_pct` of VGG-16's filters are $3 \times 3$.
# Of the {mean}`architectures.sizes.googlenet_convolutions` convolutions of GoogLeNet,
# {mean}`architectures.sizes.googlenet_ones` are $1 \times 1$ ({verdict}`C3.1-05`); Network in Network
# {cite:p}`lin2013network` had such filters before.
#
# ### As a file for other runtimes
#
# A device runs a trained network without Python, from a file such as one in the ONNX format.
# `exporting.export(network, "network.onnx", images)` writes such a file with torch's exporter.
# It keeps the file only if onnxruntime, a runtime for such files, computes the same result from it.
# The tests do this with every kind of network of this section, including those that segment images.
# These networks unpool, that is, they put values back where a pool found them; in the file, this becomes a scatter.
# An installed `lib` needs `pip install .[onnx]` for it.

# %% mystnb={"code_prompt_show": "Show how a network is exported", "code_prompt_hide": "Hide the code"} tags=["remove-input", "hide-output"]
figures.show_source(exporting.export)

# %% [markdown]
# (sec-filter-sizes)=
# ## Small filters in place of a large one
#
# **The idea.** Two $3 \times 3$ filters, one after the other, see as many pixels as one $5 \times 5$ filter, with fewer
# weights and one more activation {cite:p}`simonyan2015very`.
# A row filter followed by a column filter sees as much with even fewer weights {cite:p}`szegedy2016rethinking`.
#
# **The formula.** A stack of convolutions of sizes $k_l$ and stride 1 sees $1 + \sum_l (k_l - 1)$ pixels in each direction.
# With $C$ channels everywhere, two $3 \times 3$ convolutions have $18\,C^2$ weights, and one of $5 \times 5$ has
# $25\,C^2$.
# Without an activation between them, two convolutions with kernels $A$ and $B$ are one convolution with the kernel $K$,
# where $s$ is the stride of the first:
#
# $$ K_{o,i,c} = \sum_m \sum_{a + s b = c} A_{m,i,a}\, B_{o,m,b} . $$ (eq-composed)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(filter_sizes.composed)

# %% [markdown]
# **Exact checks.** The stack computes the same as the single $5 \times 5$ convolution, and sees five pixels.

# %%
first_conv = nn.Conv2d(4, 6, 3, bias=False).double()
second_conv = nn.Conv2d(6, 5, 3, bias=False).double()
kernel = filter_sizes.composed(first_conv.weight, second_conv.weight)
images = torch.randn(2, 4, 9, 9, generator=generator, dtype=torch.float64)
torch.testing.assert_close(
    second_conv(first_conv(images)), nn.functional.conv2d(images, kernel)
)
pair = filter_sizes.stack(4, 4, filter_sizes.threes(5))
assert receptive_field(pair, (4, 11, 11)) == (5, 5)

# %% [markdown]
# **An experiment.** A small digit classifier holds one stack of convolutions in each of two places, with a pool between
# them, and ends with the mean of each map.
# The stack is one $1 \times 1$ convolution, two of $3 \times 3$, or one of $5 \times 5$, all with the same number of
# channels.

# %%
STACKS = {"one": [1], "plain": [3, 3], "five": [5]}


def stacked(seed, kind):
    sizes = {"sizes": [STACKS[kind]] * 2, "width": widths["plain"] / 32}
    return filter_sizes.network(seed, channels=channels, classes=classes, **sizes)


nets = {}
for kind in STACKS:
    networks = [stacked(seed, kind) for seed in range(stack_seeds)]
    nets[kind] = trained(networks, rates[kind], epochs=epochs)
wrong = {kind: errors(networks) for kind, networks in nets.items()}
shape = (channels, side, side)
stack_work = {kind: measure.multiply_adds(nets[kind][0], shape) for kind in nets}

# %% tags=["remove-input"]
words = {"one": "1 x 1", "plain": "3 x 3, twice", "five": "5 x 5"}
rows = []
for kind, text in words.items():
    row = {
        "stack": text,
        "weights per channel pair": sum(size**2 for size in STACKS[kind]),
    }
    row["multiply-adds"] = record(
        f"filters.{kind}_multiply_adds", stack_work[kind], exact=True
    )
    row["test error"] = record(f"filters.{kind}_error_pct", wrong[kind], digits=1)
    rows.append(row)
figures.table(
    rows,
    caption=f"Networks with {widths['plain']} channels and stacks of different filters",
)
evidence.phrase(
    "architectures.filters.outcome", compared(wrong["five"], wrong["plain"])
)
record("filters.threes_weights_pct", 100 * 18 / 25, digits=0, exact=True)

# %% [markdown]
# **What to see.** One $5 \times 5$ convolution misclassifies {mean}`architectures.filters.five_error_pct` of the test
# images, and two $3 \times 3$ convolutions misclassify {mean}`architectures.filters.plain_error_pct`:
# {glue:text}`architectures.filters.outcome`.
# The two have {mean}`architectures.filters.threes_weights_pct` of the weights of the one.
# The survey says that $3 \times 3$ filters are recommended ({verdict}`C3.1-04`).
# With $1 \times 1$ filters alone, the network
# {finding}`is nearly blind | architectures.filters.one_error_pct - architectures.filters.plain_error_pct > 20`: it
# misclassifies {mean}`architectures.filters.one_error_pct`, because it sees which gray values there are, but not where.
#
# (sec-inception)=
# ## Inception: several filter sizes side by side
#
# **The idea.** An Inception module leaves the filter size open: it has $1 \times 1$, $3 \times 3$ and $5 \times 5$
# filters and a pool side by side, and joins their maps {cite:p}`szegedy2015going`.
# Before the large filters, $1 \times 1$ convolutions reduce the number of maps, which makes the module affordable.
#
# **The formula.** With $1 \times 1$ reductions $r$, and $k \times k$ convolutions $c_k$ ($c_p$ follows the pool),
#
# $$ y = \big[\, c_1(x),\; c_3(r_3(x)),\; c_5(r_5(x)),\; c_p(\operatorname{maxpool}(x)) \,\big] . $$ (eq-inception)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(inception.Inception.__init__, inception.Inception.forward)

# %% [markdown]
# **Exact checks.** The first module of GoogLeNet has the multiply-adds that the paper prints, and its weights are the
# printed 159K, if K is 1024.

# %%
sizes = inception.MODULES["3a"]
module = inception.Inception(192, sizes)
assert measure.multiply_adds(module, (192, 28, 28)) == 128_049_152
weights = sum(p.numel() for p in module.parameters() if p.dim() != 1)
assert weights == 163_328 and weights // 1024 == 159

# %% [markdown]
# **An experiment.** We count the same module without its reductions, which is the paper's naive version, and its branch
# of $5 \times 5$ filters alone.


# %% tags=["remove-input"]
def matrices(module):  # weights without biases
    return sum(p.numel() for p in module.parameters() if p.dim() != 1)


naive = inception.Inception(192, sizes.naive())
rows = []
for name, one in {"with reductions": module, "naive": naive}.items():
    row = {
        "module 3a": name,
        "maps": one.outputs,
        "weights of the 5 x 5 branch": f"{matrices(one.fives):,}",
    }
    row["weights"] = f"{matrices(one):,}"
    row["multiply-adds"] = f"{measure.multiply_adds(one, (192, 28, 28)):,}"
    rows.append(row)
figures.table(
    rows, caption="The first Inception module of GoogLeNet, for maps of 28 x 28 pixels"
)
record(
    "inception.branch_ratio", matrices(naive.fives) / matrices(module.fives), exact=True
)
saved = measure.multiply_adds(naive, (192, 28, 28)) / measure.multiply_adds(
    module, (192, 28, 28)
)
record("inception.work_ratio", saved, exact=True)
smaller_than = costs["alexnet"][0] / ours["GoogLeNet, 5 x 5 filters"][0]
record("inception.alexnet_parameters_ratio", smaller_than, exact=True)

# Each kind of block by the sizes of its filters, of what makes new maps
blocks = {
    "inception": module,
    "residual": residual_block.BasicBlock(64, 64),
    "bottleneck": residual_block.Bottleneck(64, 64),
    "dense_layer": dense_block.DenseLayer(64, 32),
    "dense_bottleneck": dense_block.DenseLayer(64, 32, bottleneck=True),
}
for name, block in blocks.items():
    different = {m.kernel_size for m in block.modules() if isinstance(m, nn.Conv2d)}
    record(f"modules.{name}_sizes", len(different), exact=True)

# %% [markdown]
# **What to see.** With the reductions, the $5 \times 5$ branch has {mean}`architectures.inception.branch_ratio`
# {finding}`fewer | architectures.inception.branch_ratio > 1` weights, and the whole module takes
# {mean}`architectures.inception.work_ratio` {finding}`fewer | architectures.inception.work_ratio > 1` multiply-adds.
# GoogLeNet has {mean}`architectures.inception.alexnet_parameters_ratio` {finding}`fewer | architectures.inception.alexnet_parameters_ratio > 1` parameters than AlexNet; the paper speaks of 12 times fewer {cite:p}`szegedy2015going`.
# torchvision's GoogLeNet has $3 \times 3$ filters in the third branch; ours has $5 \times 5$.
#
# The survey says that GoogLeNet introduced modules, followed by ResNet and DenseNet ({verdict}`C3.1-06`).
# It calls a module a block of convolutions of different sizes ({verdict}`C3.1-23`).
# That is right for Inception and for bottlenecks, but not for the plain residual block and the plain dense layer, whose
# filters are all $3 \times 3$.
#
# (sec-residual-block)=
# ## Residual blocks: learn what to add
#
# **The idea.** A block computes what to *add* to its input {cite:p}`he2016deep`.
# A block that has nothing to add is then the identity, and gradients have a direct way back.
#
# **The formula.** With two convolutions $F$ and a shortcut $S$, which is the identity where the shapes are equal,
#
# $$ y = \operatorname{relu}\big(F(x) + S(x)\big) . $$ (eq-residual-block)
#
# Where the shapes differ, $S$ takes every second pixel and adds channels of zeros (option A), or it is a $1 \times 1$
# convolution (option B).
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(
    residual_block.BasicBlock.residual, residual_block.BasicBlock.forward
)

# %% [markdown]
# **Exact checks.** If the last scale of a block is zero, the block is the identity for inputs that come out of a ReLU,
# while a plain block outputs zero.
# Option B adds the weights of its two projections and nothing else.

# %%
x = torch.rand(2, 8, 5, 5, generator=generator)
for shortcut, answer in (("B", x), ("none", torch.zeros_like(x))):
    block = residual_block.BasicBlock(8, 8, shortcut=shortcut).eval()
    nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(x), answer)
a, b = (residual_block.cifar_resnet(shortcut=option) for option in "AB")
projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
assert measure.parameters(b) - measure.parameters(a) == projections

# %% [markdown]
# **An experiment.** We train the same network at several depths, with shortcuts of option A and without any.
# All start from the same weights, and learn from a few images at the same rate.
# What counts is the *training* loss: if a deep network failed only by overfitting, its training loss would be low.

# %% tags=["hide-input"]
few = train.first(deep_images)
deep = {"epochs": deep_epochs, "learning_rate": deep_rate}
deep |= {"batch_size": batch_size}
losses = {}
for depth in depths:
    for kind in ("A", "none"):
        options = {"depth": depth, "shortcut": kind, "width": 0.25}
        options |= {"channels": channels, "classes": classes}
        losses[depth, kind] = [
            training.fit(
                residual_block.cifar_resnet(seed, **options), few, seed=seed, **deep
            )[-1]
            for seed in range(seeds)
        ]

# %% tags=["remove-input"]
deepest = depths[-1]
record("residual.layers", deepest, exact=True)
record("residual.shallow_layers", depths[0], exact=True)
record("residual.shortcut_loss", losses[deepest, "A"], digits=2)
record("residual.plain_loss", losses[deepest, "none"], digits=2)
record("residual.plain_shallow_loss", losses[depths[0], "none"], digits=2)
record("residual.shortcut_shallow_loss", losses[depths[0], "A"], digits=2)
ends = {kind: np.mean(losses[deepest, kind]) for kind in ("A", "none")}
figures.curves(
    {
        "residual": (
            figures.look("residual-block"),
            depths,
            [losses[n, "A"] for n in depths],
        ),
        "plain": (figures.look("dense"), depths, [losses[n, "none"] for n in depths]),
    },
    xlabel="layers",
    ylabel="training loss after the last epoch",
    finding=f"At {deepest} layers the training loss is {ends['A']:.2f} with shortcuts and {ends['none']:.2f} without",
    name="fig-residual",
    caption=f"Training loss of networks with and without shortcuts, after {deep_epochs} passes over {len(few):,} images; means over seeds with 95 % intervals.",
    alt=f"Two curves of training loss against the number of layers. At {deepest} layers it is {ends['A']:.2f} for residual and {ends['none']:.2f} for plain networks, which also get worse from {depths[0]} layers on.",
)

# %% [markdown]
# **What to see.** Shortcuts make depth trainable: at {mean}`architectures.residual.layers` layers, the residual network
# {finding}`fits the images better | architectures.residual.shortcut_loss << architectures.residual.plain_loss`.
# Its training loss is {mean}`architectures.residual.shortcut_loss 2`, and that of the plain network is
# {mean}`architectures.residual.plain_loss 2`.
# The plain network {finding}`gets worse with depth | architectures.residual.plain_loss > architectures.residual.plain_shallow_loss`, on the very images that it is trained on: at {mean}`architectures.residual.shallow_layers` layers its loss is {mean}`architectures.residual.plain_shallow_loss 2`.
# Shortcuts of option A cost no parameter and no multiply-add.
#
# (sec-dense-block)=
# ## Dense blocks: keep all maps
#
# **The idea.** Each layer sees the maps of *all* layers before it {cite:p}`huang2017densely`.
# So it need not compute again what is there already, and adds only a few maps of its own.
#
# **The formula.** With batch norm, ReLU and a $3 \times 3$ convolution $H_l$ that makes $k$ maps,
#
# $$ x_l = H_l\big([x_0, x_1, \dots, x_{l-1}]\big) , $$ (eq-dense-block)
#
# and after $l$ layers there are $k_0 + l k$ maps.
# Between blocks, a transition halves their number, their height and their width.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(dense_block.DenseLayer.forward)

# %% [markdown]
# **Exact checks.** The maps of the input and of each layer leave the block unchanged.
# The networks have the parameters that the paper rounds to 1.0 and 0.8 million {cite:p}`huang2017densely`.

# %%
block = dense_block.DenseBlock(4, 3, 2).eval()
x = torch.randn(2, 4, 5, 5, generator=generator)
one = block.layer1(x)
assert torch.equal(block(x)[:, :6], one) and torch.equal(one[:, :4], x)
with torch.device("meta"):
    small = dense_block.cifar_densenet(depth=40, growth=12)
    options = {"depth": 100, "bottleneck": True, "compression": 0.5}
    compressed = dense_block.cifar_densenet(growth=12, **options)
assert measure.parameters(small) == 1_019_722
assert measure.parameters(compressed) == 769_162

# %% [markdown]
# **An experiment.** By the published accuracies, DenseNet-121 comes close to ResNet-50.
# We compare what they cost.
# We also compare what a block of 8, 16 and 32 layers keeps in memory during training, for one image of $32 \times 32$
# pixels.


# %%
def kept_bytes(block):  # what a forward pass keeps for the backward pass
    weights = {p.data_ptr() for p in block.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = 4 * tensor.numel()
        return tensor

    x = torch.ones(1, block.inputs, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = block(x)
    assert answer.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


kept = {n: kept_bytes(dense_block.DenseBlock(16, n, 12)) for n in (8, 16, 32)}

# %% tags=["remove-input"]
rows = []
for name in ("resnet50", "densenet121"):
    parameters, work, peak = costs[name]
    row = {
        "network": name,
        "parameters": f"{parameters:,}",
        "multiply-adds": f"{work:,}",
    }
    row |= {
        "activations (MB)": f"{peak / 1e6:.1f}",
        "accuracy (published)": f"{accuracies[name]['first']:.1f} %",
    }
    rows.append(row)
figures.table(
    rows,
    caption="ResNet-50 and DenseNet-121, with torchvision's first weights (external evidence)",
)
ratio("dense_block.parameters_ratio", "resnet50", "densenet121", 0)
ratio("dense_block.work_ratio", "resnet50", "densenet121", 1)
ratio("dense_block.peak_ratio", "resnet50", "densenet121", 2, 2)
figures.table(
    [
        {
            "layers": n,
            "maps": 16 + 12 * n,
            "kept for training (MB)": f"{size / 1e6:.2f}",
        }
        for n, size in kept.items()
    ],
    caption="Dense blocks with 12 new maps in each layer, one image of 32 x 32 pixels",
)
record("dense_block.doubled_ratio", kept[32] / kept[16], exact=True)

# %% [markdown]
# **What to see.** DenseNet-121 has {mean}`architectures.dense_block.parameters_ratio`
# {finding}`fewer | architectures.dense_block.parameters_ratio > 1` parameters than ResNet-50, and takes
# {mean}`architectures.dense_block.work_ratio` {finding}`fewer | architectures.dense_block.work_ratio > 1`
# multiply-adds.
# But it does not save memory: at their peak, its activations are
# {finding}`about as large | 0.8 < architectures.dense_block.peak_ratio < 1.25`.
# In training, a block of twice as many layers keeps {mean}`architectures.dense_block.doubled_ratio`
# {finding}`as much | architectures.dense_block.doubled_ratio > 2.5`, because each layer keeps a copy of all maps before
# it.
#
# (sec-spatially-separable)=
# ## Spatially separable filters
#
# **The idea.** If each filter is the product of a column and a row, it can run as a column filter followed by a row
# filter {cite:p}`mamalet2012simplifying`.
# The same paper also fuses a convolution and the average pool after it into one convolution.
#
# **The formula.** For an input map $i$ and an output map $o$, $K_{o,i} = u_{o,i} v_{o,i}^\top$ has $2k$ weights instead of $k^2$.
# A convolution with a $p \times p$ average pool is one convolution whose stride is $p$ times as large and whose filters
# are
#
# $$ K'_{o,i} = K_{o,i} \circledast \tfrac{1}{p^2} \mathbf 1_{p \times p} . $$ (eq-fused)
#
# For $k = 5$ and $p = 2$, each output takes $36$ multiply-adds instead of $4 \cdot 25$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(spatially_separable.Separable.forward)

# %% [markdown]
# **Exact checks.** Columns and rows compute the same as a convolution with filters of rank 1, and the fused convolution
# the same as convolution and pool.

# %%
layer = spatially_separable.Separable(3, 4, 5, padding=2).double()
images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
dense = nn.functional.conv2d(images, layer.kernel(), layer.rows.bias, padding=2)
torch.testing.assert_close(layer(images), dense)
assert (torch.linalg.matrix_rank(layer.kernel()) == 1).all()
convolution, average = nn.Conv2d(3, 4, 5, padding=2).double(), nn.AvgPool2d(2)
one = fused_pools.fused(convolution, average)
torch.testing.assert_close(one(images), average(convolution(images)))

# %% [markdown]
# **An experiment.** We train networks of the size of LeNet-5 in the same way with four kinds of filters.


# %% tags=["hide-input"]
def with_filters(seed, kind):
    options = {"channels": channels, "classes": classes, "side": side}
    return spatially_separable.convnet(seed, filters=kind, **options)


spatial = {
    kind: trained(
        [with_filters(seed, kind) for seed in range(seeds)],
        rate,
        epochs=filter_epochs,
        optimizer="adam",
    )
    for kind, rate in filter_rates.items()
}
batch = test.images[:64]
waits = measure.latency_ms(
    {kind: lambda net=nets_of[0]: net(batch) for kind, nets_of in spatial.items()}
)

# %% tags=["remove-input"]
rows = []
full = measure.multiply_adds(spatial["full"][0], shape)
missed = {kind: errors(networks) for kind, networks in spatial.items()}
for kind, networks in spatial.items():
    key, row = f"spatial.{kind.replace(' ', '_')}", {"filters": kind}
    spent = measure.multiply_adds(networks[0], shape)
    row["multiply-adds"] = f"{spent:,}"
    row["fewer by"] = record(f"{key}_work_ratio", full / spent, exact=True)
    slower = waits[kind].median / waits["full"].median
    row["time / full"] = record(f"{key}_latency_ratio", slower)
    row["test error"] = record(f"{key}_error_pct", missed[kind], digits=1)
    rows.append(row)
figures.table(
    rows, caption="Networks with four kinds of filters; time of a batch of 64 images"
)
for kind in ("fused", "fused separable"):
    said = compared(missed["full"], missed[kind])
    evidence.phrase(f"architectures.spatial.{kind.replace(' ', '_')}_outcome", said)

# What is separable: each filter of a pair of maps, or all filters of one input map
pairs = {
    "separable": spatially_separable.Separable(8, 16, 3).kernel().detach(),
    "depthwise": depthwise_separable.dense_kernel(
        *(
            p.detach()
            for p in depthwise_separable.DepthwiseSeparable(8, 16).parameters()
        )
    ),
}
for kind, kernel in pairs.items():
    ranks = torch.linalg.matrix_rank(kernel.double(), rtol=1e-5)  # (outputs, inputs)
    record(f"ranks.{kind}_spatial", int(ranks.max()), exact=True)
    across = torch.linalg.matrix_rank(
        kernel.double().transpose(0, 1).flatten(2), rtol=1e-5
    )
    record(f"ranks.{kind}_channels", int(across.max()), exact=True)

# %% [markdown]
# **What to see.** Fused filters take {mean}`architectures.spatial.fused_work_ratio` {finding}`fewer | architectures.spatial.fused_work_ratio > 1` multiply-adds than full ones, and fused separable ones {mean}`architectures.spatial.fused_separable_work_ratio`.
# The full filters misclassify {mean}`architectures.spatial.full_error_pct` of the test images.
# The fused ones misclassify {mean}`architectures.spatial.fused_error_pct`:
# {glue:text}`architectures.spatial.fused_outcome`.
# The fused separable ones misclassify {mean}`architectures.spatial.fused_separable_error_pct`:
# {glue:text}`architectures.spatial.fused_separable_outcome`.
# Separating filters {finding}`costs time | architectures.spatial.separable_latency_ratio > 1` instead of saving it.
# On this core, separable filters take {mean}`architectures.spatial.separable_latency_ratio` as long as full ones,
# because PyTorch is slow at convolutions in many small groups.
# The paper reports the accuracy of classical filters at up to 3.3 times the speed {cite:p}`mamalet2012simplifying`.
#
# (sec-depthwise-separable)=
# ## Depthwise separable convolutions
#
# **The idea.** Filter each channel separately, then mix the channels with a $1 \times 1$ convolution
# {cite:p}`sifre2014rigid`.
# Xception {cite:p}`chollet2017xception` and MobileNet {cite:p}`howard2017mobilenets` consist of such layers.
#
# **The formula.** Take a {term}`depthwise filter <depthwise convolution>` $D_i$ for each of $M$ input channels, and a pointwise matrix $P$ with $N$
# rows.
# The two convolutions together are one dense convolution with the kernel
#
# $$ W_{o,i} = P_{o,i} D_i, \qquad \frac{k^2 M + M N}{k^2 M N} = \frac1N + \frac1{k^2} \ \text{ of its multiply-adds.} $$ (eq-depthwise)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(depthwise_separable.DepthwiseSeparable.__init__)

# %% [markdown]
# **Exact checks.** The two convolutions compute the same as the dense one of equation {eq}`eq-depthwise`, and the
# formula gives the counted cost.

# %%
layer = depthwise_separable.DepthwiseSeparable(4, 6).double()
kernel = depthwise_separable.dense_kernel(
    layer.depthwise.weight, layer.pointwise.weight
)
images = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
torch.testing.assert_close(
    layer(images), nn.functional.conv2d(images, kernel, padding=1)
)
dense = nn.Conv2d(4, 6, 3, padding=1, bias=False)
adds = [measure.multiply_adds(one, (4, 8, 8)) for one in (layer, dense)]
assert adds[0] == depthwise_separable.cost_ratio(6) * adds[1]

# %% tags=["remove-input"]
record(
    "depthwise.work_ratio", float(1 / depthwise_separable.cost_ratio(512)), exact=True
)
whole = ours["MobileNet, dense convolutions"][1] / ours["MobileNet"][1]
record("depthwise.network_work_ratio", whole, exact=True)

# %% [markdown]
# **What to see.** A separable layer of 512 channels takes {mean}`architectures.depthwise.work_ratio`
# {finding}`fewer | architectures.depthwise.work_ratio > 1` multiply-adds than a dense one.
# A whole MobileNet takes {mean}`architectures.depthwise.network_work_ratio`
# {finding}`fewer | architectures.depthwise.network_work_ratio > 1` than the same network with dense convolutions.
# By count, the survey's "drastically reduces" is right ({verdict}`C3.1-16`).
#
# These layers are not separable in the same sense as those of the last section.
# There, each filter has rank {mean}`architectures.ranks.separable_spatial`, since it is a column times a row.
# Here, a filter can have any rank, up to {mean}`architectures.ranks.depthwise_spatial`, but all filters of one input
# channel are multiples of one filter.
# The survey calls the second an improvement of the first ({verdict}`C3.1-15`).
#
# ### Why the clock disagrees
#
# **An experiment.** On one core, we time four $3 \times 3$ or $1 \times 1$ convolutions: a dense one, one in four
# groups, a depthwise one and a pointwise one.
# We time them as they are early in a network, with 64 channels of $112 \times 112$ pixels, and late, with 512 channels
# of $14 \times 14$.
#
# **The formula.** A layer of $W$ multiply-adds that moves $Q$ bytes takes at least
#
# $$ t \ge \max\Big(\frac{W}{P}, \frac{Q}{B}\Big) $$ (eq-roofline)
#
# on a core with $P$ multiply-adds and $B$ bytes per second: this bound is the {term}`roofline` {cite:p}`williams2009roofline`.
# We measure both, $P$ by a matrix product and $B$ by a copy, in memory that the process already has.
# The layers are timed in such memory too, because getting fresh memory for an output can take longer than a depthwise
# convolution.

# %% tags=["remove-input"]
figures.show_source(roofline.demands)

# %% tags=["hide-input"]
PLACES = {"early": (64, 112), "late": (512, 14)}  # channels, and the side of the maps
LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def five_layers(n):
    same = {"padding": 1, "bias": False}
    return {
        "dense": nn.Conv2d(n, n, 3, **same),
        "grouped": nn.Conv2d(n, n, 3, groups=4, **same),
        "depthwise": nn.Conv2d(n, n, 3, groups=n, **same),
        "pointwise": nn.Conv2d(n, n, 1, bias=False),
        "separable": depthwise_separable.DepthwiseSeparable(n, n),
    }


def again(layer, x):
    for _ in range(repeats):
        layer(x)


peaks = roofline.peaks(side=512, megabytes=64)
asked, took = {}, {}
for place, (n, pixels) in PLACES.items():
    maps, calls = (n, pixels, pixels), {}
    for kind, layer in five_layers(n).items():
        if kind != "separable":
            asked[place, kind] = roofline.demands(layer, maps)
        for layout, memory in LAYOUTS.items():
            moved = copy.deepcopy(layer).to(memory_format=memory)
            x = torch.rand(1, *maps, generator=generator).to(memory_format=memory)
            calls[place, kind, layout] = partial(again, moved, x)
    taken = measure.latency_ms(calls).items()
    took |= {key: time.median / repeats for key, time in taken}

# %% tags=["remove-input"]
rows = []
for place, (n, _) in PLACES.items():
    for kind in five_layers(n):
        key, row = f"roofline.{place}_{kind}", {"layer": f"{kind}, {place}"}
        if kind == "separable":
            fewer = float(1 / depthwise_separable.cost_ratio(n))
        else:
            fewer = (
                asked[place, "dense"].multiply_adds / asked[place, kind].multiply_adds
            )
        gains = {
            layout: took[place, "dense", layout] / took[place, kind, layout]
            for layout in LAYOUTS
        }
        if kind != "dense":
            row["fewer multiply-adds"] = record(f"{key}_work_ratio", fewer, exact=True)
            row["less time, channels first"] = record(
                f"{key}_latency_ratio", gains["first"]
            )
            row["channels last"] = record(f"{key}_last_latency_ratio", gains["last"])
            row["limit by the roofline"] = "–"
            if kind != "separable":
                row["limit by the roofline"] = roofline.limit(asked[place, kind], peaks)
            rows.append(row)
    bounds = [
        roofline.bound_ms(asked[place, kind], peaks) for kind in ("dense", "depthwise")
    ]
    record(f"roofline.{place}_depthwise_bound_latency_ratio", bounds[0] / bounds[1])
figures.table(
    rows,
    caption="Layers against the dense 3 x 3 convolution in the same place: multiply-adds and time",
)


def speed(place, kind):  # in % of the peak
    done = asked[place, kind].multiply_adds / (1e6 * took[place, kind, "first"])
    return 100 * done / peaks.multiply_adds


speeds = {key: speed(*key) for key in asked}
for kind in ("dense", "depthwise"):
    record(
        f"roofline.early_{kind}_latency_pct",
        speeds["early", kind],
        digits=0,
        timing=True,
    )
figure, ax = figures.axes()
intensities = np.geomspace(0.5, 300, 200)
roof = np.minimum(100, 100 * intensities / peaks.ridge)
ax.plot(intensities, roof, color="black", linewidth=1.2, label="roofline")
LOOKS = {
    "dense": figures.look("dense"),
    "grouped": figures.look("shufflenet-v1"),
    "pointwise": figures.look("squeezenet"),
    "depthwise": figures.look("depthwise-separable"),
}
for (place, kind), percent in speeds.items():
    look = LOOKS[kind] | {"linestyle": "none", "markersize": 8}
    look |= {"markerfacecolor": "white"} if place == "late" else {}
    label = kind if place == "early" else None
    ax.plot(asked[place, kind].intensity, percent, **look, label=label)
figures.logarithmic(ax, "x", "y")
ax.set(
    xlabel="multiply-adds for each byte that must be moved",
    ylabel="speed (% of the core's peak)",
)
figures.legend(ax, 3, narrow=True)
reached = {kind: speeds["early", kind] for kind in ("dense", "depthwise")}
figures.show(
    figure,
    finding=f"The dense convolution runs at {reached['dense']:.0f} % of this core's peak, the depthwise one at {reached['depthwise']:.0f} %",
    name="fig-layer-roofline",
    caption="Speed of convolutions in percent of the speed of a matrix product, against the multiply-adds for each byte. Filled: 64 channels of 112 x 112 pixels; hollow: 512 channels of 14 x 14. Black: the most that the main memory and the core allow; what lies in a cache may be above its slope.",
    alt=f"A roofline with points for dense, grouped, pointwise and depthwise convolutions. Early in a network the dense one reaches {reached['dense']:.0f} % of the peak and the depthwise one {reached['depthwise']:.0f} %.",
)

# %% [markdown]
# **What to see.** Early in a network, the depthwise convolution has
# {mean}`architectures.roofline.early_depthwise_work_ratio 0`
# {finding}`fewer | architectures.roofline.early_depthwise_work_ratio > 1` multiply-adds than the dense one, and it runs
# {mean}`architectures.roofline.early_depthwise_latency_ratio 0`
# {finding}`faster | architectures.roofline.early_depthwise_latency_ratio > 1`.
# Memory explains a part of the gap: each byte that it moves serves about one multiply-add, so the roofline allows
# {mean}`architectures.roofline.early_depthwise_bound_latency_ratio 0`.
# The rest is how well the kernels use the core: the depthwise one runs at {mean}`architectures.roofline.early_depthwise_latency_pct` of its peak, the dense one at {mean}`architectures.roofline.early_dense_latency_pct`.
#
# The pointwise half dominates the time of the whole separable layer; it is a matrix product and runs well.
# Early in a network, the separable layer runs {mean}`architectures.roofline.early_separable_latency_ratio`
# {finding}`faster than the dense one | architectures.roofline.early_separable_latency_ratio > 1`, where the count
# promises {mean}`architectures.roofline.early_separable_work_ratio`.
# Late in a network the ratio is {mean}`architectures.roofline.late_separable_latency_ratio`, where the count promises
# {mean}`architectures.roofline.late_separable_work_ratio`.
# The survey says that separable layers accelerate convolutions effectively ({verdict}`C3.1-24`).
#
# ## The blocks at equal multiply-adds
#
# **An experiment.** Which block learns most from the same work?
# The small classifier of [the first experiment](sec-filter-sizes) gets other blocks in its two places.
# The width of each is chosen so that it takes about as many multiply-adds as two $3 \times 3$ convolutions.


# %% tags=["hide-input"]
def normed(block, maps):
    return nn.Sequential(block, nn.BatchNorm2d(maps), nn.ReLU())


def separable(inputs, outputs, between=None):
    layer = depthwise_separable.DepthwiseSeparable(inputs, outputs, between=between)
    return normed(layer, outputs)


def block_of(kind, inputs, width):  # a block, and the number of its maps
    if kind == "residual":
        return residual_block.BasicBlock(inputs, width), width
    if kind == "inception":
        sizes = inception.MODULES["3a"].scaled(width / 256)
        block = inception.Inception(inputs, sizes, batch_norm=True)
        return block, block.outputs
    if kind == "dense":
        block = dense_block.DenseBlock(inputs, 4, width // 2)
        return normed(block, block.outputs), block.outputs
    between = nn.ReLU if kind == "activated" else lambda: None
    sizes = ((inputs, width), (width, width))
    return nn.Sequential(*(separable(*size, between()) for size in sizes)), width


def holding(seed, kind):
    with seeded(seed):
        maps = width = widths[kind]
        layers = OrderedDict(maps=filter_sizes.stack(channels, maps, [1]))
        for i in (1, 2):
            layers |= {"pool": nn.MaxPool2d(2)} if i > 1 else {}
            layers[f"block{i}"], maps = block_of(kind, maps, width)
        layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        return nn.Sequential(layers | {"fc": nn.Linear(maps, classes)})


equal = {"plain": nets["plain"][:seeds]}
for kind in widths:
    if kind != "plain":
        networks = [holding(seed, kind) for seed in range(seeds)]
        equal[kind] = trained(networks, rates[kind], epochs=epochs)
waits = measure.latency_ms(
    {kind: lambda net=networks[0]: net(batch) for kind, networks in equal.items()}
)

# %% tags=["remove-input"]
words = {
    "plain": "3 x 3, twice",
    "residual": "residual",
    "inception": "Inception",
    "dense": "dense, four layers",
    "separable": "depthwise separable, twice",
    "activated": "depthwise separable, ReLU between, twice",
}
rows, missed = [], {kind: errors(networks) for kind, networks in equal.items()}
for kind, networks in equal.items():
    spent = measure.multiply_adds(networks[0], shape)
    assert abs(spent / stack_work["plain"] - 1) < 0.15, (kind, spent)
    row = {
        "block": words[kind],
        "channels": widths[kind],
        "multiply-adds": f"{spent:,}",
    }
    row["parameters"] = f"{measure.parameters(networks[0]):,}"
    row["time / 3 x 3"] = record(
        f"blocks.{kind}_latency_ratio", waits[kind].median / waits["plain"].median
    )
    row["test error"] = record(f"blocks.{kind}_error_pct", missed[kind], digits=1)
    rows.append(row)
figures.table(
    rows,
    caption="The same network with different blocks at about equal multiply-adds; time of a batch of 64 images",
)
gap = [a - b for a, b in zip(missed["plain"], missed["separable"], strict=True)]
record("blocks.separable_gain_points", gap, digits=1)
said = compared(missed["plain"], missed["separable"])
evidence.phrase("architectures.blocks.separable_outcome", said)

# %% [markdown]
# **What to see.** With two plain $3 \times 3$ convolutions the network misclassifies
# {mean}`architectures.blocks.plain_error_pct` of the test images.
# With depthwise separable convolutions it misclassifies {mean}`architectures.blocks.separable_error_pct`:
# {glue:text}`architectures.blocks.separable_outcome`.
# For the same number of multiply-adds, it is almost three times as wide, and it takes
# {mean}`architectures.blocks.separable_latency_ratio` as long.
#
# ## Where it breaks
#
# **Separating a trained network.** Filters that were trained whole are not products of a column and a row.
# We replace each of them by the nearest separable filter, which the singular value decomposition gives.

# %%
left, separated = [], []
for network in spatial["full"]:
    network = copy.deepcopy(network)
    for name in ("conv1", "conv2"):
        nearest, lost = spatially_separable.separate(network.get_submodule(name))
        setattr(network, name, nearest)
        left.append(100 * float(lost.mean()))
    separated.append(network)
record("separated.filter_change_pct", float(np.mean(left)), digits=0)
record("separated.error_pct", errors(separated), digits=1)

# %% [markdown]
# This changes a filter by {mean}`architectures.separated.filter_change_pct` of its length on average, and the error
# {finding}`rises | architectures.separated.error_pct > architectures.spatial.full_error_pct` from
# {mean}`architectures.spatial.full_error_pct` to {mean}`architectures.separated.error_pct`.
# [Low-rank factorization](pruning_factorization.py) separates trained filters in another way, in which several filters share columns and rows.
#
# **Fusing what is not linear.** A convolution and its pool are one convolution only if the pool takes the mean and no
# activation is between them; `fused_pools.fuse` refuses everything else.
#
# **Comparing by count.** Networks of equal multiply-adds differ in time, as the last table and
# [the roofline](fig-layer-roofline) show; to choose a network for a device, you need the clock.
#
# ## Exercises
#
# 1. How many $3 \times 3$ convolutions see as much as one of AlexNet's $11 \times 11$ filters, and what share of its
#    weights do they have?

# %% tags=["hide-cell"]
stack = filter_sizes.threes(11)
share = 100 * 9 * len(stack) / 11**2
evidence.answer(
    f"{len(stack)} of them, since each adds two pixels to the first; with as many channels everywhere they have {share:.0f} % of the weights."
)

# %% [markdown]
# 2. From how many output channels on does a depthwise separable $3 \times 3$ layer take at least eight times fewer
#    multiply-adds? Can it ever take ten times fewer?

# %% tags=["hide-cell"]
n = next(n for n in range(1, 1000) if 8 * depthwise_separable.cost_ratio(n) <= 1)
most = float(1 / depthwise_separable.cost_ratio(10**9))
evidence.answer(
    f"From {n} channels on, where 1/N + 1/9 falls to 1/8. The factor stays below {most:.0f}, because each pixel of each pair of channels still takes the one multiply-add of the pointwise layer instead of nine."
)

# %% [markdown]
# 3. In the paper, ResNet-50 has its strides in the first $1 \times 1$ convolution of a block; in torchvision, they are
#    in the $3 \times 3$ convolution. What does that change?

# %% tags=["hide-cell"]
spent = {}
for strided in ("1x1", "3x3"):
    with torch.device("meta"):
        network = residual_block.imagenet_resnet(depth=50, strided=strided)
    spent[strided] = measure.multiply_adds(network, (3, 224, 224)) / 1e9
evidence.answer(
    f"{spent['1x1']:.2f} billion multiply-adds become {spent['3x3']:.2f} billion, with the same parameters: torchvision's network does {100 * (spent['3x3'] / spent['1x1'] - 1):.0f} % more work, so the two are not compared at equal cost."
)

# %% [markdown]
# 4. How far from separable is a filter that looks for a diagonal line of five pixels?

# %% tags=["hide-cell"]
error = float(spatially_separable.nearest(torch.eye(5)[None, None]).errors)
evidence.answer(
    f"The nearest column times row misses {100 * error:.0f} % of it, √(4/5): all five singular values are equal, and one of them is kept. Horizontal and vertical lines lose nothing."
)

# %% [markdown]
# ## In short
#
# - Small filters, reductions by $1 \times 1$ convolutions and separable convolutions save multiply-adds by exact
#   factors; shortcuts cost nothing and make depth trainable.
# - A count is not a time: a layer that moves many bytes for each multiply-add, like a depthwise convolution, gains
#   less.
# - The training recipe matters as much as the network: compare networks only if they were trained in the same way.
#
# ## Sources of this chapter
#
# - {cite:t}`simonyan2015very` and {cite:t}`szegedy2016rethinking` propose the small filters, {cite:t}`szegedy2015going`
#   the Inception module, {cite:t}`he2016deep` residual blocks and {cite:t}`huang2017densely` dense blocks.
# - {cite:t}`mamalet2012simplifying` propose spatially separable and fused filters; {cite:t}`sifre2014rigid`,
#   {cite:t}`chollet2017xception` and {cite:t}`howard2017mobilenets` depthwise separable ones.
# - {cite:t}`williams2009roofline` describe the roofline; {cite:t}`berthelier2020survey` is the survey.
