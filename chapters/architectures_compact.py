# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-architectures-compact)=
# # Compact networks: SqueezeNet, MobileNet, ShuffleNet
#
# Which building block makes the best use of a fixed number of multiply-adds?
# We train one small network with seven kinds of blocks, and on validation images
# {glue:text}`architectures_compact.race.leader` come first: they classify
# {mean}`architectures_compact.race.leader_accuracy_pct 0` of the test images correctly.
# With {glue:text}`architectures_compact.race.rival` it is {mean}`architectures_compact.race.rival_accuracy_pct 0`, a
# difference that {glue:text}`architectures_compact.race.confirmed`.
# Equal counts are not equal times: in a batch, ShuffleNet's units take
# {mean}`architectures_compact.race.shuffle_batch_latency_ratio`
# {finding}`as long | architectures_compact.race.shuffle_batch_latency_ratio > 1` as the plain network.
#
# ```{claims} architectures_compact
# ```
#
# ```{cost} architectures_compact
# ```

# %% tags=["parameters"]
data = "digits"  # images: digits, cifar10, or the path of an image folder
first = [600, 270, 449]  # of them: training, validation and test images
pool = 2  # pixels in each direction that are averaged before a network sees them
images = 400  # training images of all experiments before the race
epochs = 5  # passes over them
seeds = 1  # networks of each kind, trained from different starts
pool_seeds = 1  # networks for each place of the pools, at least as many
batch_size = 32  # images in a step
rate = 0.03  # learning rate (Adam), chosen on validation images from 0.003, 0.01, 0.03
bare_rate = 0.01  # the same without batch norm, chosen from 0.001, 0.003, 0.01, 0.03
race_images = 400  # training images of the race
race_epochs = 4  # passes over them
race_work = 305_000  # multiply-adds of each network of the race, for one image
race_rates = {
    "plain": 0.01,
    "fire": 0.01,
    "inception": 0.03,
    "residual": 0.01,
    "dense": 0.03,
    "separable": 0.03,
    "shuffle": 0.01,
}  # learning rates for Adam, chosen on validation images from 0.003, 0.01, 0.03
filters = 16  # that expand in the first fire module of the small SqueezeNet
mobile_width = 0.125  # share of MobileNet's channels that the small one has
alphas = [1.0, 0.5, 0.25]  # width multipliers of MobileNet
rhos = [1.0, 0.75, 0.5]  # its resolution multipliers
photo = 64  # pixels, height and width of the images by which large networks are timed
photo_width = 0.5  # width multiplier of the MobileNet that is timed
race_groups = 2  # of the 1 x 1 convolutions of ShuffleNet's units in the race

# %% tags=["hide-input"]
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, running, storage, training
from lib.architectures.dense_block import DenseBlock, Transition
from lib.architectures.depthwise_separable import DepthwiseSeparable
from lib.architectures.inception import MODULES, Inception
from lib.architectures.mobilenet import mobilenet
from lib.architectures.residual_block import BasicBlock
from lib.architectures.shared.flow import flow
from lib.architectures.shared.network import Network, scaled
from lib.architectures.shufflenet import Unit, permutation, shuffle, shufflenet
from lib.architectures.squeezenet import Fire, Stem, squeezenet
from lib.cache import trained
from lib.datasets import Split
from lib.seeding import seeded
from lib.vision import torchvision

dataset = datasets.load(data, first=first)
record = evidence.recorder("architectures_compact", dataset)


def smaller(split):  # images of fewer pixels
    return Split(nn.functional.avg_pool2d(split.images, pool), split.labels)


train, validation, test = map(
    smaller, (dataset.train, dataset.validation, dataset.test)
)
shape = tuple(train.images.shape[1:])
task = {"channels": shape[0], "classes": len(dataset.classes)}
fit = {"batch_size": batch_size, "optimizer": "adam", "weight_decay": 0.0}
part = {"split": train.first(images), "epochs": epochs, "learning_rate": rate}


def accuracies(networks, split=test):
    return [100 - training.error_pct(one, split, batch_size=200) for one in networks]


def gains(ours, theirs):  # in points, of networks with the same seeds
    return [a - b for a, b in zip(ours, theirs, strict=False)]


def apart(points):  # by the 95 % interval of a difference over the seeds
    mean, half = evidence.interval(points)
    return len(points) >= evidence.FEW and abs(mean) > half


def told(points):  # in words
    mean = np.mean(points)
    if not apart(points):
        return "not distinguishable from"
    return f"{abs(mean):.1f} points {'ahead of' if mean > 0 else 'behind'}"


def drafted(build, *arguments, **options):  # shapes without weights
    with torch.device("meta"):
        return build(*arguments, **options)


def width_for(build, work):  # the factor that gives this many multiply-adds
    low, high, counts = 0.1, 16.0, {}
    for _ in range(12):
        width = (low * high) ** 0.5
        counts[width] = measure.multiply_adds(drafted(build, 0, width), shape)
        low, high = (width, high) if counts[width] < work else (low, width)
    nearest = min(
        counts, key=lambda width: abs(counts[width] - work)
    )  # not chosen by test
    assert abs(counts[nearest] / work - 1) < 0.05, (counts[nearest], work)
    return nearest


# %% [markdown]
# (sec-squeezenet)=
# ## SqueezeNet: squeeze, then expand
#
# **The idea.** Most weights of a convolutional network are in $3 \times 3$ filters that read many channels.
# A fire module first squeezes its input into few channels with $1 \times 1$ filters, then expands these with a mix of
# $1 \times 1$ and $3 \times 3$ filters {cite:p}`iandola2016squeezenet`.
#
# **The formula.** With $s$ filters that squeeze $c$ channels, and $e_1 + e_3$ filters that expand them,
#
# $$ y = \big[\operatorname{relu}(W_1 * z),\ \operatorname{relu}(W_3 * z)\big], \quad z = \operatorname{relu}(W_s * x). $$ (eq-fire)
#
# These are $c\,s + s\,e_1 + 9\,s\,e_3$ weights, whereas one $3 \times 3$ convolution with as many inputs and outputs
# has $9\,c\,(e_1 + e_3)$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(Fire.forward)

# %% [markdown]
# **Exact checks.** With copied weights, our SqueezeNet (here its version `1.1`) gives the same answers as
# torchvision's.
# The first fire module has as many weights as the formula says.

# %%
theirs = torchvision.models.squeezenet1_1(num_classes=10).eval()
ours = squeezenet(classes=10, version="1.1").eval()
weights = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
ours.load_state_dict(dict(weights))
photos = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    torch.testing.assert_close(ours(photos), theirs(photos))
fire = Fire(96, 16, 64, 64, batch_norm=True)
convolutions = [layer for layer in fire.modules() if isinstance(layer, nn.Conv2d)]
counted = sum(layer.weight.numel() for layer in convolutions)
assert counted == 96 * 16 + 16 * 64 + 9 * 16 * 64

# %% [markdown]
# ### Fifty times smaller than AlexNet
#
# **What others measured.** The accuracies on ImageNet are those that torchvision publishes with its weights; we count the rest.
# AlexNet is the network that started the wave of deep image classifiers {cite:p}`krizhevsky2012imagenet`.

# %% tags=["hide-input"]
KNOWN = {
    "alexnet": "AlexNet",
    "squeezenet1_0": "SqueezeNet 1.0",
    "squeezenet1_1": "SqueezeNet 1.1",
}
known, rows = {}, []
for name, title in KNOWN.items():
    meta = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    network = drafted(torchvision.models.get_model, name)
    known[name] = {
        "parameters": measure.parameters(network),
        "work": measure.multiply_adds(network, (3, 224, 224)),
        "accuracy": meta["_metrics"]["ImageNet-1K"]["acc@1"],
        "file": meta["_file_size"],  # MB
    }
    rows.append(
        {
            "network": title,
            "parameters": f"{known[name]['parameters']:,}",
            "multiply-adds (millions)": f"{known[name]['work'] / 1e6:,.0f}",
            "published file (MB)": f"{known[name]['file']:.1f}",
            "published accuracy (%)": f"{known[name]['accuracy']:.2f}",
        }
    )
figures.table(rows, caption="Networks for images of 224 by 224 pixels, ImageNet")

# %% tags=["remove-cell"]
alexnet, one_0, one_1 = known.values()
for key, ratio in {
    "fewer_parameters_ratio": alexnet["parameters"] / one_0["parameters"],
    "smaller_file_ratio": alexnet["file"] / one_0["file"],
    "more_multiply_adds_ratio": one_0["work"] / alexnet["work"],
    "early_pools_fewer_multiply_adds_ratio": one_0["work"] / one_1["work"],
}.items():
    record(f"squeezenet.{key}", ratio, exact=True)
for name, one in zip(("alexnet", "squeezenet"), (alexnet, one_0), strict=True):
    record(f"{name}.imagenet_accuracy_pct", one["accuracy"], exact=True)
gain = one_0["accuracy"] - alexnet["accuracy"]
record("squeezenet.imagenet_gain_points", gain, exact=True)
loss = one_0["accuracy"] - one_1["accuracy"]
record("squeezenet.early_pools_loss_points", loss, exact=True)

# %% [markdown]
# **What to see.** SqueezeNet has {mean}`architectures_compact.squeezenet.fewer_parameters_ratio` {finding}`fewer | architectures_compact.squeezenet.fewer_parameters_ratio > 1` parameters than AlexNet, and its published file is {mean}`architectures_compact.squeezenet.smaller_file_ratio` {finding}`smaller | architectures_compact.squeezenet.smaller_file_ratio > 1` ({verdict}`C3.1-10`).
# The published accuracies are {mean}`architectures_compact.squeezenet.imagenet_accuracy_pct` for SqueezeNet and
# {mean}`architectures_compact.alexnet.imagenet_accuracy_pct` for AlexNet ({verdict}`C3.1-11`).
# But SqueezeNet is
# {finding}`not a faster network by count | architectures_compact.squeezenet.more_multiply_adds_ratio > 1`: it takes
# {mean}`architectures_compact.squeezenet.more_multiply_adds_ratio 2` as many {term}`multiply-adds <multiply-add>`.
# The survey repeats in its conclusion that SqueezeNet is smaller at the same accuracy ({verdict}`C4-09`).
#
# ### Three strategies, one by one
#
# The paper names three choices: most filters are $1 \times 1$, the $3 \times 3$ filters read few channels, and pools
# come late, so that the maps stay large.
# The first two save parameters.
#
# **An exact count.** We undo one choice at a time in SqueezeNet, and count the filters and parameters of its eight
# modules.

# %% tags=["hide-input"]
whole = drafted(squeezenet)
undone = {
    "all_threes": drafted(squeezenet, pct_3x3=1.0),
    "unsqueezed": drafted(squeezenet, squeeze_ratio=1.0),
}
for name, network in undone.items():
    ratio = measure.parameters(network) / measure.parameters(whole)
    record(f"squeezenet.{name}_parameters_ratio", ratio, exact=True)


def share(filters, size):  # in %, of the filters of some convolutions
    every = sum(one.out_channels for one in filters)
    chosen = [one for one in filters if one.kernel_size == (size, size)]
    return 100 * sum(one.out_channels for one in chosen) / every


fires = [layer for layer in whole if isinstance(layer, Fire)]
squeezing = [layer.squeeze.conv for layer in fires]
expanding = [branch.conv for layer in fires for branch in layer.expand.values()]
record("fire.squeeze_ones_pct", share(squeezing, 1), digits=0, exact=True)
record("fire.expand_threes_pct", share(expanding, 3), digits=0, exact=True)

# %% [markdown]
# **What to see.** Of the filters that squeeze, {mean}`architectures_compact.fire.squeeze_ones_pct` are $1 \times 1$,
# and of those that expand, {mean}`architectures_compact.fire.expand_threes_pct` are $3 \times 3$, as the survey says
# ({verdict}`C3.1-07`).
# If only $3 \times 3$ filters expanded, SqueezeNet would have
# {mean}`architectures_compact.squeezenet.all_threes_parameters_ratio` as many parameters; with modules that do not
# squeeze, it would have {mean}`architectures_compact.squeezenet.unsqueezed_parameters_ratio` ({verdict}`C3.1-08`).
#
# **An experiment.** What do these choices cost in accuracy?
# We train a small SqueezeNet with four fire modules, and versions of it with one choice undone.
# Its two pools come after the second and the fourth module; in the version with early pools they come before the first
# and the third.
# Early pools save multiply-adds, so one more version spends them on width.


# %%
def small(seed, width=1.0, *, pools=(3, 5), batch_norm=True, **options):
    sizes = {"modules": 4, "base_e": filters, "incr_e": filters, "squeeze_ratio": 0.25}
    sizes |= {"stem": Stem(16, 3, 2, padding=1), "width": width, "pools": pools}
    rest = {"batch_norm": batch_norm, "dropout": 0.0} | task
    network = squeezenet(seed, **sizes | rest | options)
    del network.relu6  # a ReLU on the logits: in so few steps it can silence a class
    return network


def early(seed, width=1.0):
    return small(seed, width, pools=(1, 3))


work = measure.multiply_adds(drafted(small, 0), shape)
wider = width_for(early, work)
versions = {
    "late": small,
    "early": early,
    "early_wide": partial(early, width=wider),
    "threes": partial(small, pct_3x3=1.0),
    "ones": partial(small, pct_3x3=0.0),
    "unsqueezed": partial(small, squeeze_ratio=1.0),
}
number = {
    name: pool_seeds if name.split("_")[0] in ("late", "early") else seeds
    for name in versions
}
fires_of = {
    name: trained(training.fit, build, range(number[name]), **part, **fit)
    for name, build in versions.items()
}
right = {name: accuracies(networks) for name, networks in fires_of.items()}

# %% tags=["remove-input"]
TITLES = {
    "late": "as published: late pools",
    "early": "early pools",
    "early_wide": "early pools, wider",
    "threes": "expands with 3 x 3 only",
    "ones": "expands with 1 x 1 only",
    "unsqueezed": "without squeezing",
}
batch = torch.rand(64, *shape)
calls = {name: lambda one=fires_of[name][0]: one(batch) for name in versions}
times = {name: time.median for name, time in measure.latency_ms(calls).items()}
rows = []
for name, title in TITLES.items():
    network, row = fires_of[name][0], {"small SqueezeNet": title}
    size, spent = measure.parameters(network), measure.multiply_adds(network, shape)
    row["parameters"] = record(f"strategies.{name}_parameters", size, exact=True)
    row["multiply-adds"] = record(f"strategies.{name}_multiply_adds", spent, exact=True)
    row["time / published"] = record(
        f"strategies.{name}_latency_ratio", times[name] / times["late"]
    )
    row["test accuracy"] = record(
        f"strategies.{name}_accuracy_pct", right[name], digits=1
    )
    rows.append(row)
figures.table(
    rows,
    caption="A small SqueezeNet with one choice undone; time of a batch of 64 images",
)
late_gain = gains(right["late"], right["early"])
record("pools.late_gain_points", late_gain, digits=1)
evidence.phrase("architectures_compact.pools.late", told(late_gain))
evidence.phrase(
    "architectures_compact.seeds.note",
    "We call two networks apart if the 95 % interval of their difference over the seeds excludes zero."
    if seeds >= evidence.FEW
    else "With fewer than three networks of each kind, this profile tells no two apart; the standard profile can.",
)
evidence.phrase(
    "architectures_compact.pools.wide", told(gains(right["early_wide"], right["late"]))
)
for name in ("threes", "ones", "unsqueezed"):
    evidence.phrase(
        f"architectures_compact.strategies.{name}",
        told(gains(right[name], right["late"])),
    )
extra = measure.multiply_adds(fires_of["late"][0], shape) / measure.multiply_adds(
    fires_of["early"][0], shape
)
record("pools.late_multiply_adds_ratio", extra, exact=True)
record("pools.late_latency_ratio", times["late"] / times["early"])
moved = {"late": squeezenet().eval(), "early": squeezenet(pools=(1, 3, 5)).eval()}
spent = {
    name: measure.multiply_adds(one, (3, photo, photo)) for name, one in moved.items()
}
photos = torch.rand(4, 3, photo, photo)
calls = {name: lambda one=one: one(photos) for name, one in moved.items()}
waits = measure.latency_ms(calls)
extra_photo = spent["late"] / spent["early"]
record("pools.photo_multiply_adds_ratio", extra_photo, exact=True)
record("pools.photo_latency_ratio", waits["late"].median / waits["early"].median)


def pixels(build):  # of the maps of all fire modules
    network = drafted(build, 0).eval()
    names = [
        name for name, layer in network.named_children() if isinstance(layer, Fire)
    ]
    with torch.no_grad(), running.captured(network, names) as maps:
        network(torch.zeros(1, *shape, device="meta"))
    return sum(one[0, 0].numel() for one in maps.outputs.values())


record("pools.late_pixels_ratio", pixels(small) / pixels(early), exact=True)
ones = pixels(versions["ones"]) / pixels(versions["threes"])
record("pools.ones_pixels_ratio", ones, exact=True)
figure, ax = figures.axes()
order = [*TITLES][::-1]
for row, name in enumerate(order):
    look = figures.look("squeezenet" if name == "late" else "dense")
    figures.dots(ax, [row], [right[name]], look, None, bounds=figures.PERCENT)
ax.set_yticks(range(len(order)), [TITLES[name] for name in order])
ax.set(xlabel="test accuracy (%)")
said = f"Late pools are {told(late_gain)} early ones, at {extra:.1f} times the multiply-adds"
figures.show(
    figure,
    finding=said,
    name="fig-strategies",
    caption="Test accuracy of a small SqueezeNet, and with one of its choices undone; means over seeds with 95 % intervals.",
    alt=f"Dots of test accuracy, one row for each version. {said}. "
    + ", ".join(f"{TITLES[name]}: {np.mean(right[name]):.0f} %" for name in TITLES)
    + ".",
)

# %% [markdown]
# **What to see.** Late pools have a price that the survey does not mention.
# They add no parameter, but in the small network they take {mean}`architectures_compact.pools.late_multiply_adds_ratio`
# {finding}`as many multiply-adds as early pools | architectures_compact.pools.late_multiply_adds_ratio > 1`.
# SqueezeNet with its own pools takes {mean}`architectures_compact.pools.photo_multiply_adds_ratio`
# {finding}`as many | architectures_compact.pools.photo_multiply_adds_ratio > 1` as with those of its version `1.1`.
# For four small photographs it takes {mean}`architectures_compact.pools.photo_latency_ratio`
# of the time.
# In accuracy, the network with late pools is {glue:text}`architectures_compact.pools.late` the one with early pools
# ({verdict}`C3.1-09`).
# A small network that pools early and spends the same multiply-adds on width is {glue:text}`architectures_compact.pools.wide` the published version.
# {glue:text}`architectures_compact.seeds.note`
#
# The authors' own version `1.1` pools earlier than `1.0` and takes
# {mean}`architectures_compact.squeezenet.early_pools_fewer_multiply_adds_ratio`
# {finding}`fewer | architectures_compact.squeezenet.early_pools_fewer_multiply_adds_ratio > 1` multiply-adds.
# Yet the published accuracy of `1.0` on ImageNet is
# {finding}`no higher | architectures_compact.squeezenet.early_pools_loss_points <= 0`: it differs by
# {mean}`architectures_compact.squeezenet.early_pools_loss_points`.
# But the two versions also differ in their first convolution.
#
# The survey attributes the large maps to the delay and to the $1 \times 1$ filters ({verdict}`C3.1-28`).
# The delay gives the modules {mean}`architectures_compact.pools.late_pixels_ratio` as many pixels.
# Filters of $1 \times 1$ instead of $3 \times 3$ give {mean}`architectures_compact.pools.ones_pixels_ratio` as many,
# because neither changes the size of a map.
#
# The other two choices save parameters, and the table shows at what accuracy.
# If only $3 \times 3$ filters expand, the network is {glue:text}`architectures_compact.strategies.threes` the published
# version.
# If only $1 \times 1$ filters expand, it is {glue:text}`architectures_compact.strategies.ones` it, and without
# squeezing it is {glue:text}`architectures_compact.strategies.unsqueezed` it.
#
# (sec-mobilenet)=
# ## MobileNet: two numbers that trade accuracy for cost
#
# **The idea.** MobileNet makes every convolution [depthwise separable](sec-depthwise-separable), and two numbers scale
# the network: its width and the resolution of its images {cite:p}`howard2017mobilenets`.
#
# **The formula.** The factor $\alpha$ scales all channels, and $\rho$ scales the height and width of all maps.
# A layer of $M$ to $N$ channels with filters of $k \times k$ on a map of $D \times D$ then takes
#
# $$ \big( k^2\, \alpha M + \alpha M\, \alpha N \big)\, (\rho D)^2 $$ (eq-mobilenet)
#
# multiply-adds; the second term is by far the larger.
#
# **The code.** These are a layer in two halves, and the plan of the network, with the channels and the stride of each
# layer:

# %% tags=["remove-input"]
figures.show_source(DepthwiseSeparable.__init__, mobilenet)

# %% [markdown]
# **Exact checks.** The counts agree with those that the paper prints.
# {cite:t}`howard2017mobilenets` report 4.2 million parameters and 569 million multiply-adds.

# %%
network = drafted(mobilenet)
full = drafted(mobilenet, full=True)
assert measure.parameters(network) == 4_231_976
spent = {one: measure.multiply_adds(one, (3, 224, 224)) for one in (network, full)}
assert spent[network] == 568_740_352
record("mobilenet.full_multiply_adds_ratio", spent[full] / spent[network], exact=True)
by_layer = measure.multiply_adds_by_layer(network, (3, 224, 224))
core = sum(count for name, count in by_layer.items() if name.startswith("block"))
record("mobilenet.separable_pct", 100 * core / spent[network], digits=0, exact=True)

# %% [markdown]
# **An experiment.** We make a small MobileNet narrower by $\alpha$, or give it smaller images by $\rho$.
# We also time a large MobileNet against the same network with full $3 \times 3$ convolutions, in one process on one
# thread.


# %% tags=["hide-input"]
def mobile(seed, width=1.0, **options):
    sizes = {"width": mobile_width * width, "strides": (2, 1, 2, 2, 1), "middle": 0}
    return mobilenet(seed, **task, **sizes, **options)


cuts = {("width", alpha): {"width": alpha} for alpha in alphas}
cuts |= {("resolution", rho): {"resolution": rho} for rho in rhos if rho < 1}
mobiles = {
    cut: trained(training.fit, partial(mobile, **options), range(seeds), **part, **fit)
    for cut, options in cuts.items()
}
scores = {cut: accuracies(networks) for cut, networks in mobiles.items()}
pair = {"separable": mobilenet(width=photo_width)}
pair["full"] = mobilenet(width=photo_width, full=True)
for network in pair.values():
    network.eval()
waits = {}
for n in (1, 4):
    x = torch.rand(n, 3, photo, photo)
    calls = {name: lambda one=one, x=x: one(x) for name, one in pair.items()}
    waits[n] = measure.latency_ms(calls)

# %% tags=["remove-input"]
spent = {
    cut: measure.multiply_adds(networks[0], shape) for cut, networks in mobiles.items()
}
rows = []
for (what, factor), networks in mobiles.items():
    row = {
        "MobileNet with": "everything" if factor == 1 else f"{what} times {factor:g}"
    }
    key = f"mobilenet.{what}{round(100 * factor)}"
    row["parameters"] = f"{measure.parameters(networks[0]):,}"
    row["multiply-adds"] = f"{spent[what, factor]:,}"
    row["test accuracy"] = record(f"{key}_accuracy_pct", scores[what, factor], digits=1)
    rows.append(row)
figures.table(rows, caption="A small MobileNet with fewer channels or smaller images")
whole = ("width", 1.0)
for what, factors in (("width", alphas), ("resolution", rhos)):
    least = (what, factors[-1])
    record(
        f"mobilenet.{what}_cost_points", gains(scores[whole], scores[least]), digits=1
    )
    record(
        f"mobilenet.{what}_saved_multiply_adds_ratio",
        spent[whole] / spent[least],
        exact=True,
    )
    path = [
        np.mean(scores[whole if factor == 1 else (what, factor)]) for factor in factors
    ]
    falls = all(np.diff(path) < 0)
    text = "falls at each step" if falls else "does not fall at each step"
    evidence.phrase(f"architectures_compact.mobilenet.{what}_course", text)
ratio = measure.multiply_adds(pair["full"], (3, photo, photo)) / measure.multiply_adds(
    pair["separable"], (3, photo, photo)
)
record("mobilenet.timed_multiply_adds_ratio", ratio, exact=True)
for n, key in ((1, "full_latency_ratio"), (4, "full_batch_latency_ratio")):
    record(f"mobilenet.{key}", waits[n]["full"].median / waits[n]["separable"].median)
lines = {}
for what, factors, look in (
    ("width", alphas, "mobilenet-v1"),
    ("resolution", rhos, "depthwise-separable"),
):
    points = [whole if factor == 1 else (what, factor) for factor in factors]
    x = [spent[point] / 1e6 for point in points]
    lines[f"by {what}"] = (figures.look(look), x, [scores[point] for point in points])
ends = {
    what: np.mean(scores[what, factors[-1]])
    for what, factors in (("width", alphas), ("resolution", rhos))
}
said = f"From {np.mean(scores[whole]):.0f} % to {ends['width']:.0f} % with {alphas[-1]:g} of the width, to {ends['resolution']:.0f} % with {rhos[-1]:g} of the resolution"
figures.curves(
    lines,
    xlabel="multiply-adds for one image (millions)",
    ylabel="test accuracy (%)",
    log="x",
    bounds=figures.PERCENT,
    finding=said,
    name="fig-multipliers",
    caption="Test accuracy of a small MobileNet against its multiply-adds, made cheaper by width or by resolution; means over seeds with 95 % intervals.",
    alt=f"Two curves of accuracy against multiply-adds that meet on the right. {said}.",
)

# %% [markdown]
# **What to see.** Both numbers trade accuracy for cost.
# As the width shrinks, the mean accuracy {glue:text}`architectures_compact.mobilenet.width_course`; as the resolution shrinks, it {glue:text}`architectures_compact.mobilenet.resolution_course`.
# The narrowest network takes {mean}`architectures_compact.mobilenet.width_saved_multiply_adds_ratio` {finding}`fewer | architectures_compact.mobilenet.width_saved_multiply_adds_ratio > 1` multiply-adds than the whole one and gives up {mean}`architectures_compact.mobilenet.width_cost_points`.
# The one with the smallest images takes {mean}`architectures_compact.mobilenet.resolution_saved_multiply_adds_ratio`
# {finding}`fewer | architectures_compact.mobilenet.resolution_saved_multiply_adds_ratio > 1` and gives up
# {mean}`architectures_compact.mobilenet.resolution_cost_points`.
# It keeps all parameters, whereas a narrow network is also a small file.
# Of MobileNet's multiply-adds, {mean}`architectures_compact.mobilenet.separable_pct` are in depthwise separable layers
# ({verdict}`C3.1-29`).
#
# The survey says that separable layers drastically reduce the cost ({verdict}`C3.1-16`).
# By count they do: with full convolutions, MobileNet would take
# {mean}`architectures_compact.mobilenet.full_multiply_adds_ratio`
# {finding}`as many | architectures_compact.mobilenet.full_multiply_adds_ratio > 1` multiply-adds.
# For the network that we timed, the count is {mean}`architectures_compact.mobilenet.timed_multiply_adds_ratio` as high.
# Its time with full convolutions is {mean}`architectures_compact.mobilenet.full_latency_ratio` as long for one image,
# and {mean}`architectures_compact.mobilenet.full_batch_latency_ratio` for four ({verdict}`C3.1-24`);
# [the chapter on building blocks](architectures.py) explains why.
#
# (sec-shufflenet)=
# ## ShuffleNet: groups that talk to each other
#
# **The idea.** In MobileNet, nearly all multiply-adds are in the $1 \times 1$ convolutions.
# ShuffleNet splits these into {term}`groups <grouped convolution>`, each of which reads only its own channels, and shuffles the channels between
# them, so that information passes from group to group {cite:p}`zhang2018shufflenet`.
#
# **The formula.** The $g n$ channels are written as a matrix $(g, n)$, transposed and flattened again: channel
# $a g + b$ of the result is channel $b n + a$.
# On a map of $h \times w$, a unit with a {term}`bottleneck` of $m$ of its $c$ channels takes
#
# $$ h w \Big( \frac{2 c m}{g} + 9 m \Big) $$ (eq-shufflenet)
#
# multiply-adds, and a residual bottleneck takes $h w\, (2 c m + 9 m^2)$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(shuffle, Unit)

# %% [markdown]
# **Exact checks.** The shuffle is the permutation of the formula, and a second shuffle with the two numbers exchanged undoes it.
# Which input channels does an output channel depend on?
# We differentiate two grouped $1 \times 1$ convolutions on sixteen channels, with and without the shuffle between them,
# in float64.

# %%
g, n = 4, 4
j = torch.arange(g * n)
misplaced = int((permutation(g * n, g) != j % g * n + j // g).sum())
with seeded(0):
    pointwise = [nn.Conv2d(g * n, g * n, 1, groups=g) for _ in range(2)]
    x = torch.randn(2, g * n, 3, 3)
still = nn.Sequential(*pointwise)
mixed = nn.Sequential(pointwise[0], nn.ChannelShuffle(g), pointwise[1])
assert torch.equal(shuffle(shuffle(x, g), n), x)
flows = {"grouped": flow(still, x), "shuffled": flow(mixed, x)}
block = torch.block_diag(*[torch.ones(n, n)] * g).bool()
assert torch.equal(flows["grouped"] > 0, block) and (flows["shuffled"] > 0).all()

# %% tags=["remove-input"]
record("flow.misplaced_channels", misplaced, exact=True)
for name, one in flows.items():
    reached = 100 * (one > 0).double().mean().item()
    record(f"flow.{name}_pct", reached, digits=0, exact=True)
figure, axes = figures.axes(2, sharey=True)
for ax, (name, one) in zip(axes, flows.items(), strict=True):
    shades = torch.where(one > 0, one.sqrt(), torch.nan)
    ax.imshow(shades, cmap="Blues", vmin=-one.sqrt().max() / 2, aspect="auto")
    ax.set(
        xticks=range(0, g * n, n),
        yticks=range(0, g * n, n),
        title=f"{'without' if name == 'grouped' else 'with'} the shuffle",
        xlabel="input channel",
    )
    ax.grid(False)
axes[0].set_ylabel("output channel")
reached = {name: int((one[0] > 0).sum()) for name, one in flows.items()}
said = f"Without the shuffle an output depends on {reached['grouped']} of {g * n} inputs, with it on {reached['shuffled']}"
figures.show(
    figure,
    finding=said,
    name="fig-flow",
    caption="Sums of the absolute derivatives of each output channel of two grouped convolutions by each input channel; white is exactly zero.",
    alt=f"Two matrices of output by input channels: four blocks along the diagonal, and a full one. {said}.",
)
unit, wide, m = Unit(240, 240, groups=3), 240, 60
kinds = [layer for layer in unit.modules() if isinstance(layer, nn.Conv2d)]
depthwise = sum(layer.groups == layer.in_channels for layer in kinds)
record("unit.depthwise_layers", depthwise, exact=True)
shuffles = sum(type(layer).__name__ == "Shuffle" for layer in unit.modules())
record("unit.shuffles", shuffles, exact=True)
cost = measure.multiply_adds(unit, (wide, 1, 1))
assert cost == 2 * wide * m // 3 + 9 * m
for name, threes in (("bottleneck", 9 * m * m), ("grouped", 9 * m * m // 3)):
    ratio = (2 * wide * m + threes) / cost
    record(f"unit.{name}_multiply_adds_ratio", ratio, exact=True)

# %% [markdown]
# **What to see.** The shuffle connects the groups: an output channel of two grouped convolutions depends on
# {mean}`architectures_compact.flow.grouped_pct` of the input channels, and with the shuffle on
# {mean}`architectures_compact.flow.shuffled_pct`.
# The shuffle is a reshape, a transposition and a flattening, as the survey says ({verdict}`C3.1-17`), and it multiplies
# nothing.
#
# The survey says that the unit is added to depthwise separable features ({verdict}`C3.1-19`).
# It does contain a {term}`depthwise convolution`, but its frame is a residual bottleneck whose $1 \times 1$ convolutions are
# grouped.
# Take such a bottleneck of 240 channels in three groups ({verdict}`C3.1-27`).
# A plain residual bottleneck of this width would take {mean}`architectures_compact.unit.bottleneck_multiply_adds_ratio`
# {finding}`as many | architectures_compact.unit.bottleneck_multiply_adds_ratio > 1` multiply-adds, and one with a
# grouped $3 \times 3$ convolution {mean}`architectures_compact.unit.grouped_multiply_adds_ratio`.
#
# **An experiment.** Does the shuffle raise the accuracy?
# We train a small ShuffleNet of eight units in four groups with the shuffle and without it; all else is the same.


# %%
def small_shuffle(seed, shuffled):
    sizes = {"groups": 4, "outputs": 64, "stem": 16, "units": (4, 4)}
    sizes |= {"strides": (2, 1, 2, 2), "shuffled": shuffled}
    return shufflenet(seed, **task, **sizes)


switched = {
    name: trained(
        training.fit,
        partial(small_shuffle, shuffled=name == "on"),
        range(seeds),
        **part,
        **fit,
    )
    for name in ("on", "off")
}
switch = {name: accuracies(networks) for name, networks in switched.items()}

# %% tags=["remove-input"]
for name, values in switch.items():
    record(f"shuffle.{name}_accuracy_pct", values, digits=1)
gain = gains(switch["on"], switch["off"])
record("shuffle.gain_points", gain, digits=1)
evidence.phrase("architectures_compact.shuffle.outcome", told(gain))

# %% [markdown]
# **What to see.** The network with the shuffle is {glue:text}`architectures_compact.shuffle.outcome` the one without
# it.
# Their accuracies are {mean}`architectures_compact.shuffle.on_accuracy_pct` and
# {mean}`architectures_compact.shuffle.off_accuracy_pct`.
# The paper finds that the shuffle always helps on ImageNet, and that it helps most with many groups
# {cite:p}`zhang2018shufflenet`.
# Here the first convolution and the classifier see all channels, so that without a shuffle the groups are four thin
# networks that vote.
#
# (sec-race)=
# ## Seven blocks at equal multiply-adds
#
# **An experiment.** The papers compare their networks at different sizes and with different training.
# Here all have the same frame: a stem that halves the image, three stages with a pool between them, the mean of each
# map, and a linear classifier.
# Each stage has two $3 \times 3$ layers in a row, whatever the {term}`block`; {term}`batch norm` follows each convolution.
# We choose the width of each network so that its multiply-adds are within a twentieth of
# {mean}`architectures_compact.race.work_multiply_adds`.
# All are trained on the same images for as many steps, each with the learning rate that did best on validation images.


# %% tags=["hide-input"]
def normed(layer, filters):
    layers = OrderedDict(conv=layer, bn=nn.BatchNorm2d(filters), relu=nn.ReLU())
    return nn.Sequential(layers)


def plain(a, b):
    return normed(nn.Conv2d(a, b, 3, padding=1, bias=False), b)


def separable(a, b):  # MobileNet's
    between = nn.Sequential(nn.BatchNorm2d(a), nn.ReLU())
    return normed(DepthwiseSeparable(a, b, between=between), b)


def squeezing_fire(a, b):  # an eighth squeezes, half of the rest is 3 x 3
    return Fire(a, scaled(b, 0.125), b - b // 2, b // 2, batch_norm=True)


def mixed_sizes(a, b):  # GoogLeNet's first module, scaled
    return Inception(a, MODULES["3a"].scaled(b / 256), batch_norm=True)


def shuffling(a, b):
    return Unit(a, b, groups=race_groups, first=a == STEM)


def twice(block):
    def stage(a, b):
        one = block(a, b)
        other = block(getattr(one, "outputs", b), b)
        both = nn.Sequential(one, other)
        both.outputs = getattr(other, "outputs", b)
        return both

    return stage


STEM, PLAN = 16, (16, 32, 64)  # channels of the stem and of the stages, before width
STAGES = {
    "plain": twice(plain),
    "fire": twice(squeezing_fire),
    "inception": twice(mixed_sizes),
    "residual": BasicBlock,  # which has two 3 x 3 convolutions
    "dense": lambda a, b: DenseBlock(a, 2, b),
    "separable": twice(separable),
    "shuffle": twice(shuffling),
}


def framed(kind, seed, width):
    with seeded(seed):
        stem = nn.Conv2d(shape[0], STEM, 3, 2, padding=1, bias=False)
        layers, maps = OrderedDict(stem=normed(stem, STEM)), STEM
        plan = (7, 8, 9) if kind == "dense" else PLAN  # there, maps that a layer adds
        multiple = 4 * race_groups if kind == "shuffle" else 1
        for place, filters in enumerate(plan, 1):
            if place > 1:
                pool = Transition(maps) if kind == "dense" else nn.MaxPool2d(2)
                layers[f"pool{place}"] = pool
                maps = getattr(pool, "outputs", maps)
            filters = scaled(filters, width, multiple=multiple)
            layers[f"stage{place}"] = stage = STAGES[kind](maps, filters)
            maps = getattr(stage, "outputs", filters)
        if kind == "dense":  # its layers end in a convolution
            layers["last"] = nn.Sequential(nn.BatchNorm2d(maps), nn.ReLU())
        layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(maps, task["classes"])
        return Network(layers, channels=shape[0], least=8)


widths, race = {}, {}
for kind in STAGES:
    widths[kind] = width_for(partial(framed, kind), race_work)
    race[kind] = trained(
        training.fit,
        partial(framed, kind, width=widths[kind]),
        range(seeds),
        split=train.first(race_images),
        epochs=race_epochs,
        learning_rate=race_rates[kind],
        **fit,
    )
tested = {kind: accuracies(networks) for kind, networks in race.items()}
on_validation = {
    kind: accuracies(networks, validation) for kind, networks in race.items()
}
taken = {}
for n in (1, 64):
    x = torch.rand(n, *shape)
    calls = {kind: lambda one=race[kind][0], x=x: one(x) for kind in STAGES}
    taken[n] = {kind: time.median for kind, time in measure.latency_ms(calls).items()}

# %% tags=["remove-input"]
NAMES = {
    "plain": "3 x 3 convolutions",
    "fire": "fire modules",
    "inception": "Inception modules",
    "residual": "residual blocks",
    "dense": "dense blocks",
    "separable": "separable layers",
    "shuffle": "ShuffleNet units",
}
record("race.work_multiply_adds", race_work, exact=True)
rows, margins = [], {}
for kind, title in NAMES.items():
    network, key = race[kind][0], f"race.{kind}"
    spent = measure.multiply_adds(network, shape)
    assert abs(spent / race_work - 1) < 0.05, (kind, spent)
    record(f"{key}_multiply_adds", spent, exact=True)
    margins[kind] = gains(tested[kind], tested["plain"])
    row = {"blocks": title}
    row["test accuracy"] = record(f"{key}_accuracy_pct", tested[kind], digits=1)
    gain = "–"
    if kind != "plain":
        gain = record(f"{key}_gain_points", margins[kind], digits=1)
    row["gain (points)"] = gain.removesuffix(" points")
    size = measure.parameters(network)
    row["parameters"] = record(f"{key}_parameters", size, exact=True)
    size = len(storage.dumps(network))
    taking = record(f"{key}_file_bytes", size, exact=True)
    row["file (bytes)"] = taking.removesuffix(" bytes")
    for n, word in ((1, "one"), (64, "batch")):
        ratio = taken[n][kind] / taken[n]["plain"]
        row[f"time, {n} image{'s' if n > 1 else ''}"] = record(
            f"{key}_{word}_latency_ratio", ratio
        )
    rows.append(row)
figures.table(
    rows,
    caption="Networks of equal multiply-adds with seven kinds of blocks; times as multiples of that with 3 x 3 convolutions",
)
record(
    "race.shuffle_to_separable_latency_ratio",
    taken[64]["shuffle"] / taken[64]["separable"],
)
most = max(taken[64].values()) / min(taken[64].values())
record("race.most_batch_latency_ratio", most)
leader, second, *_ = sorted(NAMES, key=lambda kind: -np.mean(on_validation[kind]))
rival = second if leader == "plain" else "plain"
sure = apart(gains(tested[leader], tested[rival]))
text = "the seeds confirm" if sure else "so few seeds cannot confirm"
evidence.phrase("architectures_compact.race.confirmed", text)
for place, kind in (("leader", leader), ("rival", rival)):
    text = ("plain " if kind == "plain" else "") + NAMES[kind]
    evidence.phrase(f"architectures_compact.race.{place}", text)
    record(f"race.{place}_accuracy_pct", tested[kind], digits=1)


def listed(kinds):
    *others, last = [NAMES[kind] for kind in kinds] or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


words = {kind: told(margins[kind]) for kind in NAMES if kind != "plain"}
for place in ("ahead", "behind", "not"):
    text = listed([kind for kind in words if place in words[kind]])
    evidence.phrase(f"architectures_compact.race.{place}", text)
pairs = [(a, b) for i, a in enumerate(NAMES) for b in [*NAMES][:i]]
many = sum(apart(gains(tested[a], tested[b])) for a, b in pairs)
evidence.phrase("architectures_compact.race.apart", f"{many} of {len(pairs)}")
evidence.phrase(
    "architectures_compact.race.rivals",
    told(gains(tested["shuffle"], tested["separable"])),
)

# %% tags=["remove-input"]
LOOKS = {
    "plain": "dense",
    "fire": "squeezenet",
    "inception": "inception-module",
    "residual": "residual-block",
    "dense": "dense-block",
    "separable": "depthwise-separable",
    "shuffle": "shufflenet-v1",
}
figure, (left, right_side) = figures.axes(2, sharey=True)
order = [*NAMES][::-1]
for row, kind in enumerate(order):
    look = figures.look(LOOKS[kind])
    figures.dots(left, [row], [tested[kind]], look, None, bounds=figures.PERCENT)
    ratio = [taken[n][kind] / taken[n]["plain"] for n in (1, 64)]
    right_side.plot(ratio[1], row, **look | {"linestyle": "none"})
    right_side.plot(
        ratio[0], row, **look | {"linestyle": "none", "markerfacecolor": "white"}
    )
left.set_yticks(range(len(order)), [NAMES[kind] for kind in order])
for n, face in ((64, "black"), (1, "white")):
    label = "64 images" if n > 1 else "one image"
    mark = {"marker": "o", "linestyle": "none", "color": "black"}
    right_side.plot([], [], **mark, markerfacecolor=face, label=label)
figures.legend(right_side, columns=1, narrow=True)
figures.logarithmic(right_side, "x")
left.set(xlabel="test accuracy (%)")
right_side.set(xlabel="time (3 x 3 = 1)")
said = f"At equal multiply-adds: {NAMES[leader]} {np.mean(tested[leader]):.0f} %, {NAMES[rival]} {np.mean(tested[rival]):.0f} %; in a batch, one takes up to {most:.1f} times as long as another"
figures.show(
    figure,
    lead=True,
    finding=said.replace("3 x 3", "3\u00a0x\u00a03"),
    name="fig-race",
    caption="Networks of equal multiply-adds with seven kinds of blocks. Left: test accuracy, means over seeds with 95 % intervals. Right: time as a multiple of that with 3 x 3 convolutions, filled for a batch of 64 images, hollow for one.",
    alt=f"Dots of accuracy and of time, one row for each kind of block. {said}. "
    + ", ".join(f"{NAMES[kind]}: {np.mean(tested[kind]):.0f} %" for kind in NAMES)
    + ".",
)

# %% [markdown]
# **What to see.** The seeds tell {glue:text}`architectures_compact.race.apart` pairs of blocks apart in accuracy.
# Of the six that could replace plain $3 \times 3$ convolutions, these are
#
# - ahead of them: {glue:text}`architectures_compact.race.ahead`;
# - behind them: {glue:text}`architectures_compact.race.behind`;
# - not distinguishable from them: {glue:text}`architectures_compact.race.not`.
#
# The clock shows other differences.
# For one image, residual blocks take {mean}`architectures_compact.race.residual_one_latency_ratio` as long as plain
# convolutions, separable layers {mean}`architectures_compact.race.separable_one_latency_ratio` and Inception modules
# {mean}`architectures_compact.race.inception_one_latency_ratio`.
#
# ShuffleNet's units are {glue:text}`architectures_compact.race.rivals` MobileNet's layers at equal multiply-adds.
# In a batch they take {mean}`architectures_compact.race.shuffle_to_separable_latency_ratio` as long.
# The survey says that both accuracy and efficiency are slightly improved ({verdict}`C3.1-18`).
# {cite:t}`zhang2018shufflenet` report more than slight gains on ImageNet: 7.8 points fewer errors in small networks.
# The survey concludes that it pays to construct networks, and not only to compress them ({verdict}`C4-11`).
#
# ## Where it breaks
#
# **Where time counts.** In a batch and for as many multiply-adds as plain convolutions, separable layers take
# {mean}`architectures_compact.race.separable_batch_latency_ratio`
# {finding}`as long | architectures_compact.race.separable_batch_latency_ratio > 1`.
# Inception modules take {mean}`architectures_compact.race.inception_batch_latency_ratio` and ShuffleNet's units
# {mean}`architectures_compact.race.shuffle_batch_latency_ratio`.
# For the same count they have more maps and more layers, and each map is written and read.
#
# **Without batch norm.** SqueezeNet was published without it, and needs long training with a carefully chosen learning rate.
# We train the small SqueezeNet without it, with a learning rate chosen for it and as many steps as before.

# %%
bare = trained(
    training.fit,
    partial(small, batch_norm=False),
    range(seeds),
    **part | {"learning_rate": bare_rate},
    **fit,
)
record("bare.accuracy_pct", accuracies(bare), digits=1)

# %% [markdown]
# In the same number of steps it
# {finding}`gets less far | architectures_compact.bare.accuracy_pct < architectures_compact.strategies.late_accuracy_pct`:
# it classifies {mean}`architectures_compact.bare.accuracy_pct` of the test images correctly, and with batch norm
# {mean}`architectures_compact.strategies.late_accuracy_pct`.
#
# ## Exercises
#
# 1. Replace each fire module of SqueezeNet by one $3 \times 3$ convolution with the same inputs and outputs. How many
#    times fewer weights do the fire modules have?

# %% tags=["hide-cell"]
fewer = []
for layer in fires:
    inside = [one for one in layer.modules() if isinstance(one, nn.Conv2d)]
    fewer.append(
        9 * layer.inputs * layer.outputs / sum(one.weight.numel() for one in inside)
    )
evidence.answer(
    f"{min(fewer):.1f} to {max(fewer):.1f} times; least in modules that double the channels, because they squeeze to many channels for their inputs."
)

# %% [markdown]
# 2. Which kind of layer holds most of MobileNet's multiply-adds?

# %% tags=["hide-cell"]
halves = {
    half: 100 * sum(count for name, count in by_layer.items() if half in name)
    for half in ("depthwise", "pointwise")
}
halves = {half: count / sum(by_layer.values()) for half, count in halves.items()}
evidence.answer(
    f"{halves['pointwise']:.0f} % are in the 1 x 1 convolutions and {halves['depthwise']:.0f} % in the depthwise ones, so there is little left to save in the 3 x 3 filters. ShuffleNet therefore groups the 1 x 1 convolutions."
)

# %% [markdown]
# 3. A ShuffleNet unit with 144 channels in one group costs a certain number of multiply-adds. How many channels can a
#    unit of the same cost have in two, three, four and eight groups?

# %% tags=["hide-cell"]
budget = 2 * 144 * 36 + 9 * 36
fits = {
    g: max(c for c in range(4 * g, 1000, 4 * g) if c * c / 2 / g + 9 * c / 4 <= budget)
    for g in (2, 3, 4, 8)
}
evidence.answer(
    f"{', '.join(f'{c} in {g}' for g, c in fits.items())}. The paper has 200, 240, 272 and 384: more groups buy more channels, each of which reads fewer."
)

# %% [markdown]
# ## In short
#
# - SqueezeNet saves parameters, by $1 \times 1$ filters and few channels; it saves no multiply-adds, and late pools
#   cost some.
# - MobileNet saves multiply-adds in the $3 \times 3$ filters, and ShuffleNet then in the $1 \times 1$ filters; the
#   clock follows only in part.
# - At equal multiply-adds and equal training, {glue:text}`architectures_compact.race.apart` pairs of blocks are told apart in accuracy; in time, one takes up to {mean}`architectures_compact.race.most_batch_latency_ratio` as long as another.
#
# ## Sources of this chapter
#
# - {cite:t}`iandola2016squeezenet` introduce SqueezeNet, {cite:t}`howard2017mobilenets` MobileNet and
#   {cite:t}`zhang2018shufflenet` ShuffleNet; {cite:t}`krizhevsky2012imagenet` describe AlexNet.
# - {cite:t}`szegedy2015going` propose Inception modules, {cite:t}`he2016deep` residual blocks and
#   {cite:t}`huang2017densely` dense blocks; {cite:t}`berthelier2020survey` is the survey.
