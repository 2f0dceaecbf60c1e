# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-introduction)=
# # Introduction: why networks are too large
#
# Why do neural networks not fit into small devices?
# AlexNet, which began the wave of deep networks that see, has {mean}`introduction.alexnet.weights_mb` of weights, and
# a small chip stores {mean}`introduction.chip.storage_mb`.
# Of {glue:text}`introduction.saving.tried` ways to shrink a network that we try here,
# {glue:text}`introduction.saving.smaller` make its file smaller, and {glue:text}`introduction.saving.both` of them also
# save work.
#
# ```{claims} introduction
# ```
#
# ```{cost} introduction
# ```

# %% tags=["parameters"]
data = "digits"  # images: digits, mnist, or the path of an image folder
first = [1078, 270, 449]  # of them: training, validation and test images
seeds = 3  # recurrent networks of each kind, trained from different starts
epochs = 10  # to train each
retrain_epochs = 10  # to train it on, pruned or not
units = 64  # of a recurrent network
density = 0.2  # share of its weights that pruning keeps
sparsest = 0.05  # a share that is too small, for the LSTM alone
batch_size = 32  # images in a step
rate = 0.01  # learning rate (Adam), chosen on validation images from 0.003, 0.01, 0.03
retrain_rates = {
    "dense": 0.003,
    "pruned": 0.01,
}  # the same for training on, chosen for each from 0.001, 0.003, 0.01
devices = {
    "STM32F746": {"memory": 327_680, "storage": 1_048_576},
    "STM32H743": {"memory": 524_288, "storage": 2_097_152},
}  # bytes of two microcontrollers, from lin2020mcunet: SRAM and flash

# %% tags=["hide-input"]
import copy
from functools import partial

import numpy as np
import torch
from torch import nn

from lib import (
    datasets,
    evidence,
    figures,
    measure,
    models,
    storage,
    structure,
    training,
)
from lib.activations import peak_activation_bytes
from lib.binarization import bwn
from lib.cache import cached, trained
from lib.factorization import low_rank
from lib.hashing import hashed_nets
from lib.pruning import filter_l1, magnitude
from lib.quantization import affine, scalar_kmeans
from lib.seeding import seeded
from lib.vision import torchvision

dataset = datasets.load(data, first=first)
record = evidence.recorder("introduction", dataset)
shape = tuple(dataset.train.images.shape[1:])
task = {"channels": shape[0], "classes": len(dataset.classes), "side": shape[-1]}
chip, larger_chip = devices

# %% [markdown]
# ## Why networks are too large
#
# **The idea.** A network asks a device for three things.
# Its weights lie in the storage, the maps that flow between its layers lie in the working memory, and all its
# multiplications take time.
# We count all three for six networks that classify photographs, and compare them with two microcontrollers, small
# computers on one chip {cite:p}`lin2020mcunet`.
# AlexNet {cite:p}`krizhevsky2012imagenet`, VGG {cite:p}`simonyan2015very`, GoogLeNet {cite:p}`szegedy2015going` and
# ResNet {cite:p}`he2016deep` were built for accuracy, SqueezeNet {cite:p}`iandola2016squeezenet` and MobileNetV2
# {cite:p}`sandler2018mobilenet` for small devices.
#
# **An exact count.** No count needs the values of the weights, so the networks are built without any.
# The memory for maps, or *activations*, is what PyTorch holds at the same time at the worst moment; code that is
# written for one device needs less.
# Weights and activations are floats of 32 bits.


# %% tags=["hide-input"]
def without_weights(name):  # shapes alone
    with torch.device("meta"):
        if name != "googlenet":
            return torchvision.models.get_model(name, weights=None)
        options = {
            "aux_logits": False,
            "init_weights": False,
        }  # they only help training
        return torchvision.models.googlenet(weights=None, **options)


NETWORKS = {
    "alexnet": ("alexnet", "AlexNet", "dense"),
    "vgg": ("vgg16", "VGG-16", "iterated"),
    "googlenet": ("googlenet", "GoogLeNet", "inception-module"),
    "resnet": ("resnet50", "ResNet-50", "residual-block"),
    "mobilenet": ("mobilenet_v2", "MobileNetV2", "mobilenet-v1"),
    "squeezenet": ("squeezenet1_1", "SqueezeNet 1.1", "squeezenet"),
}  # key: name in torchvision, name on the page, look
photo, sizes, rows = (3, 224, 224), {}, []
for key, (name, title, _) in NETWORKS.items():
    network = without_weights(name)
    sizes[key] = {
        "weights": measure.dense_bytes(network) / 1e6,
        "activations": peak_activation_bytes(network, photo) / 1e6,
        "work": measure.multiply_adds(network, photo) / 1e6,
    }
    row = {"network": title, "parameters": f"{measure.parameters(network):,}"}
    for what, unit, digits in (
        ("weights", "MB", 0),
        ("activations", "MB", 1),
        ("work", "million", 0),
    ):
        said = record(
            f"{key}.{what}_{'mb' if unit == 'MB' else 'millions'}",
            sizes[key][what],
            unit,
            digits,
            exact=True,
        )
        row[{"work": "multiply-adds (millions)"}.get(what, f"{what} (MB)")] = (
            said.removesuffix(f" {unit}")
        )
    rows.append(row)
for what in ("memory", "storage"):
    record(
        f"chip.{what}_mb",
        devices[chip][what] / 1e6,
        "MB",
        1 if what == "storage" else 2,
        exact=True,
    )
for key, network in (("lenet300", models.lenet_300_100()), ("lenet5", models.lenet5())):
    record(f"{key}.weights_mb", measure.dense_bytes(network) / 1e6, "MB", 2, exact=True)
figures.table(
    rows,
    caption="Six classifiers of photographs of 224 by 224 pixels, as 32-bit floats",
)

# %% tags=["remove-input"]
figure, panels = figures.axes(2, sharey=True)
figure.set_figheight(4.2)
LIMITS = (("weights", "storage"), ("activations", "memory"))
for ax, (what, limit) in zip(panels, LIMITS, strict=True):
    for name, line in zip(devices, ("--", ":"), strict=True):
        ax.axvline(
            devices[name][limit] / 1e6, color="black", linestyle=line, label=name
        )
    for key, (_, title, look) in NETWORKS.items():
        style = figures.look(look) | {"linestyle": "none"}
        ax.plot(sizes[key][what], sizes[key]["work"], **style, label=title)
    figures.logarithmic(ax, "x", "y")
    ax.set_xticks([1, 10, 100] if what == "weights" else [1, 10])
    ax.set_xlabel(f"{what} (MB)")
panels[0].set_ylabel("multiply-adds (millions)")
handles, labels = panels[0].get_legend_handles_labels()
with figures.style():
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
fits = {
    name: [
        key
        for key in sizes
        if all(sizes[key][what] * 1e6 <= device[limit] for what, limit in LIMITS)
    ]
    for name, device in devices.items()
}
least = {
    what: min(one[what] for one in sizes.values()) * 1e6 / devices[larger_chip][limit]
    for what, limit in LIMITS
}
many = sum(map(bool, fits.values()))
said = (
    f"None of the six networks fits: the best take {least['weights']:.1f} times the storage and {least['activations']:.1f} times the memory of the {larger_chip}"
    if not many
    else f"Of the six networks, {len(fits[larger_chip])} fit into the {larger_chip}"
)
figures.show(
    figure,
    lead=True,
    finding=said,
    name="fig-too-large",
    caption="Six networks and two microcontrollers. A network that fits is to the left of the line in both pictures: its weights in the storage, its activations in the memory.",
    alt=f"Two scatter plots of multiply-adds, against the megabytes of weights and against those of activations, with a vertical line for each microcontroller. {said}. "
    + "; ".join(
        f"{NETWORKS[key][1]}: {one['weights']:.0f} and {one['activations']:.1f}"
        for key, one in sizes.items()
    )
    + ".",
)

# %% tags=["remove-cell"]
for what, _ in LIMITS:
    record(f"chip.least_{what}_ratio", least[what], exact=True)
for key in ("vgg", "googlenet", "resnet", "mobilenet", "squeezenet"):
    for what in ("weights", "work"):
        record(
            f"{key}.{what}_to_alexnet_ratio",
            sizes[key][what] / sizes["alexnet"][what],
            digits=2,
            exact=True,
        )
evidence.phrase("introduction.chip.name", chip)
evidence.phrase("introduction.chip.larger", larger_chip)

# %% [markdown]
# **What to see.** {finding}`No network fits | introduction.chip.least_weights_ratio > 1; introduction.chip.least_activations_ratio > 1` into the {glue:text}`introduction.chip.larger`, the larger of the two chips.
# The lightest weights of all take {mean}`introduction.chip.least_weights_ratio` its storage, and the activations that
# need {finding}`least memory | introduction.chip.least_activations_ratio > 1` take
# {mean}`introduction.chip.least_activations_ratio` what it has.
#
# As the survey says, AlexNet has {mean}`introduction.alexnet.weights_mb` of weights ({verdict}`C1-01`).
# VGG, GoogLeNet and ResNet, which followed, take {finding}`more work than AlexNet | introduction.vgg.work_to_alexnet_ratio > 1; introduction.googlenet.work_to_alexnet_ratio > 1; introduction.resnet.work_to_alexnet_ratio > 1`,
# but of these only VGG has {finding}`more weights | introduction.vgg.weights_to_alexnet_ratio > 1; introduction.googlenet.weights_to_alexnet_ratio < 1; introduction.resnet.weights_to_alexnet_ratio < 1` ({verdict}`C1-02`).
# A network with few weights may need much memory: SqueezeNet and MobileNetV2 have
# {finding}`larger activations than AlexNet | introduction.squeezenet.activations_mb > introduction.alexnet.activations_mb; introduction.mobilenet.activations_mb > introduction.alexnet.activations_mb`.
#
# Are all networks too large?
# The survey says that multilayer perceptrons and convolutional networks have many parameters ({verdict}`C1-05`).
# Even LeNet-300-100, a classifier of digits with two hidden layers, has {mean}`introduction.lenet300.weights_mb` of
# weights, and the {glue:text}`introduction.chip.name` stores {mean}`introduction.chip.storage_mb 2`.
#
# ## What can be done: smaller files, less work, or both
#
# **The idea.** The survey introduces compression as techniques that reduce both the size and the computation of a model.
# Are these the same?
# We apply one technique of each kind to one small network: three convolutions and a linear layer.
# Its weights are as they were drawn, since we only count: the accuracy after training is measured in the chapters.
#
# **The code.** Each technique is one call.

# %%
dense = models.cnn(0, width=32, **task)
tiny = dataset.train.first(1)


def half_of_filters(model):
    masks = structure.keep(filter_l1.scores(model, tiny), fraction=0.5)
    return structure.shrink(model, masks, tiny.images)


CALLS = {
    "distill": lambda model: models.cnn(0, width=16, **task),  # the student
    "hash": lambda model: hashed_nets.compress(model, fraction=1 / 8),
    "prune": lambda model: magnitude.prune(model, density=0.1),
    "filters": half_of_filters,
    "factorize": lambda model: low_rank.factorize_model(model, rank=16)[0],
    "share": lambda model: scalar_kmeans.share(model, bits=4),
    "int8": lambda model: affine.quantize(model, bits=8),
    "signs": bwn.binarize,
}
shrunk = {name: call(copy.deepcopy(dense)) for name, call in CALLS.items()}

# %% [markdown]
# **An exact check.** Four of these files can be foreseen: a float for one weight of ten or of eight, or 4 or 8 bits for
# each weight.
# A file takes more than that, for tables, places and biases, but never less.

# %%
weights = sum(row["weights"] for row in measure.by_layer(dense))
bits = {"hash": 32 / 8, "prune": 32 / 10, "share": 4, "int8": 8}  # for each weight
for name, each in bits.items():
    size = len(storage.dumps(shrunk[name], coder="fixed"))
    assert weights * each / 8 <= size < 1.5 * weights * each / 8, (name, size)

# %% tags=["remove-input"]
SAVING = {
    "distill": "distill: a student of half the width",
    "hash": "hash: one value for eight weights",
    "prune": "prune weights: keep a tenth",
    "filters": "prune filters: keep half",
    "factorize": "factorize: rank 16",
    "share": "share: 16 values per layer",
    "int8": "round to 8 bits",
    "signs": "signs: one bit, except at both ends",
}
whole = {
    "bytes": len(storage.dumps(dense)),
    "multiply_adds": measure.multiply_adds(dense, shape),
    "activations": peak_activation_bytes(dense, shape),
}
LIKE = {
    "bytes": ("file", "o"),
    "multiply_adds": ("multiply-adds", "s"),
    "activations": ("activations", "^"),
}
rows, saved = [], {}
for name, title in SAVING.items():
    model = shrunk[name]
    now = {
        "bytes": len(storage.dumps(model)),
        "multiply_adds": measure.multiply_adds(model, shape),
        "activations": peak_activation_bytes(model, shape),
    }
    saved[name] = {what: whole[what] / now[what] for what in whole}
    row = {"technique": title}
    for what, (word, _) in LIKE.items():
        said = record(
            f"saving.{name}_{what}_ratio", saved[name][what], "x", 1, exact=True
        )
        row[f"{word} (kB)" if what != "multiply_adds" else f"{word} (thousands)"] = (
            f"{now[what] / 1000:,.0f}"
        )
        row[
            {
                "bytes": "times smaller",
                "multiply_adds": "times fewer",
                "activations": "times less",
            }[what]
        ] = said
    rows.append(row)
figures.table(
    rows, caption="One network after one call of each technique, and what that divides"
)
ENOUGH = 1.1  # times, of the claim
smaller = [name for name in saved if saved[name]["bytes"] >= ENOUGH]
both = [name for name in smaller if saved[name]["multiply_adds"] >= ENOUGH]
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
evidence.phrase("introduction.saving.tried", WORDS[len(saved)])
evidence.phrase(
    "introduction.saving.smaller",
    "all" if len(smaller) == len(saved) else WORDS[len(smaller)],
)
evidence.phrase("introduction.saving.both", WORDS[len(both)])

# %% tags=["remove-input"]
figure, ax = figures.axes()
order = [*SAVING][::-1]
for what, (word, marker) in LIKE.items():
    color = {
        "bytes": "deep-compression",
        "multiply_adds": "residual-block",
        "activations": "optimal-kmeans-1d",
    }[what]
    style = {
        "color": figures.look(color)["color"],
        "marker": marker,
        "linestyle": "none",
        "markersize": 9,
    }
    style["markerfacecolor"] = style["color"] if what == "bytes" else "none"
    ax.plot(
        [saved[name][what] for name in order], range(len(order)), **style, label=word
    )
ax.axvline(1, color="black", linestyle=":")
ax.set_yticks(range(len(order)), [SAVING[name].partition(":")[0] for name in order])
figures.logarithmic(ax, "x")
ax.set(xlabel="divided by")
figures.legend(ax, columns=3)
said = f"{evidence.number(len(smaller), 0)} of {len(saved)} techniques make the file smaller, and {len(both)} also save multiply-adds"
figures.show(
    figure,
    finding=said,
    name="fig-saving",
    caption="By how much each technique divides the file, the multiply-adds and the memory for activations of one network; 1 means that nothing is saved.",
    alt=f"Three marks for each technique. {said}. "
    + "; ".join(
        f"{SAVING[name].partition(':')[0]}: {one['bytes']:.1f}, {one['multiply_adds']:.1f} and {one['activations']:.1f}"
        for name, one in saved.items()
    )
    + ".",
)

# %% [markdown]
# **What to see.** {finding}`Those that leave fewer filters or thinner layers save work as well | introduction.saving.filters_multiply_adds_ratio > 1.1; introduction.saving.factorize_multiply_adds_ratio > 1.1`.
# The others change how a weight is written, and the network still multiplies with as many ({verdict}`C1-08`).
# The memory for activations is the hardest to save:
# {finding}`only a narrower network needs less | introduction.saving.distill_activations_ratio > 1.1; introduction.saving.filters_activations_ratio > 1.1; introduction.saving.prune_activations_ratio <= 1.1; introduction.saving.hash_activations_ratio <= 1.1; introduction.saving.share_activations_ratio <= 1.1; introduction.saving.int8_activations_ratio <= 1.1; introduction.saving.signs_activations_ratio <= 1.1; introduction.saving.factorize_activations_ratio <= 1.1`.
# Here only the weights are rounded to eight bits; where activations are integers too, they take less: see
# {doc}`own_model`.
#
# The count of multiply-adds misses two things.
# Special software may skip zeros: see {doc}`pruning_speed`.
# And products of short numbers can be quick: see {doc}`quantization_integers` and {doc}`binarization_speed`.
#
# ## Recurrent networks can be compressed too
#
# **The idea.** The survey looks at perceptrons and convolutional networks, and says that some methods also apply to
# recurrent ones.
# An LSTM {cite:p}`hochreiter1997long` reads its input step by step and keeps a memory; a GRU {cite:p}`cho2014learning`
# does the same with fewer weights.
# Here each step is one row of a digit's image, and the last state decides the class.
#
# **The formula.** Magnitude pruning {cite:p}`han2015learning` keeps the largest weights of each matrix,
#
# $$ \hat w_{ij} = m_{ij} w_{ij}, \qquad m_{ij} = 1 \text{ where } |w_{ij}| \ge \theta, $$ (eq-introduction-mask)
#
# and an LSTM has two matrices: one reads the row, the other the last state.


# %%
class Reader(nn.Module):  # reads an image row by row
    def __init__(self, kind):
        super().__init__()
        cells = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.rows = cells(shape[2], units, batch_first=True)
        self.fc = nn.Linear(units, len(dataset.classes))

    def forward(self, images):
        states, _ = self.rows(images.flatten(1, 2))
        return self.fc(states[:, -1])


def reader(seed, kind):
    with seeded(seed):
        return Reader(kind)


# %% [markdown]
# **An exact check.** Pruning finds both matrices and the classifier, and of each it keeps the share that was asked for.

# %%
sparse = magnitude.prune(reader(0, "lstm"), density=density)
for row in measure.by_layer(sparse):
    assert row["kept"] == round(density * row["weights"]), row
assert [row["layer"] for row in measure.by_layer(sparse)] == [
    "rows.weight_hh_l0",
    "rows.weight_ih_l0",
    "fc",
]

# %% [markdown]
# **An experiment.** We train both kinds, remove four fifths of the weights, and train on.
# The dense network trains on for as many epochs; each has the learning rate that is best on validation images.

# %% tags=["hide-input"]
fit = {
    "split": dataset.train,
    "batch_size": batch_size,
    "optimizer": "adam",
    "weight_decay": 0.0,
}
more = {
    name: fit | {"epochs": retrain_epochs, "learning_rate": one}
    for name, one in retrain_rates.items()
}
KINDS = {"lstm": "LSTM", "gru": "GRU"}
runs = {
    kind: {name: [] for name in ("dense", "cut", "pruned", "sparsest")}
    for kind in KINDS
}


def accuracy(network, split):
    return 100 - training.error_pct(network, split)


def retrained(network, share, seed):
    network = magnitude.prune(copy.deepcopy(network), density=share)
    training.fit(network, seed=seed, **more["pruned"])
    return network


for kind in KINDS:
    start = trained(
        training.fit,
        partial(reader, kind=kind),
        range(seeds),
        epochs=epochs,
        learning_rate=rate,
        **fit,
    )
    for seed, network in enumerate(start):
        made = {
            "dense": cached(
                training.fit, copy.deepcopy(network), seed=seed, **more["dense"]
            ),
            "cut": magnitude.prune(copy.deepcopy(network), density=density),
            "pruned": retrained(network, density, seed),
        }
        if kind == "lstm":
            made["sparsest"] = retrained(network, sparsest, seed)
        for name, one in made.items():
            runs[kind][name].append(accuracy(one, dataset.test))

# %% tags=["remove-input"]
TREATED = {
    "dense": "dense, trained on",
    "pruned": "pruned and retrained",
    "cut": "pruned, not retrained",
    "sparsest": "pruned to far fewer weights and retrained",
}
record("pruning.density_pct", 100 * density, digits=0, exact=True)
record("pruning.removed_pct", 100 * (1 - density), digits=0, exact=True)
record("pruning.sparsest_density_pct", 100 * sparsest, digits=0, exact=True)
rows = []
for name, title in TREATED.items():
    row = {"network": title}
    for kind, word in KINDS.items():
        measured, lost = runs[kind][name], "–"
        if measured:
            right = record(f"{kind}.{name}_accuracy_pct", measured, digits=1)
            if name != "dense":
                pairs = zip(runs[kind]["dense"], measured, strict=True)
                key = f"{kind}.{name}_loss_points"
                lost = record(key, [a - b for a, b in pairs], digits=1)
        row[f"{word}: accuracy"] = right if measured else "–"
        row[f"{word}: loss (points)"] = lost.removesuffix(" points")
    rows.append(row)
figures.table(
    rows, caption="Test accuracy of recurrent networks that read images row by row"
)
for kind in KINDS:
    network = reader(0, kind)
    record(f"{kind}.parameters", measure.parameters(network), exact=True)
    work = [
        measure.multiply_adds(one, shape)
        for one in (network, magnitude.prune(copy.deepcopy(network), density=density))
    ]
    record(f"{kind}.pruned_multiply_adds_ratio", work[1] / work[0], exact=True)
lost = {
    kind: np.mean(runs[kind]["dense"]) - np.mean(runs[kind]["pruned"]) for kind in KINDS
}
text = (
    "lose no more than a point and a half"
    if max(lost.values()) <= 1.5
    else "lose more than a point and a half"
)
evidence.phrase("introduction.recurrent.outcome", text)

# %% [markdown]
# **What to see.** Without {mean}`introduction.pruning.removed_pct` of their weights, and retrained, the two kinds
# {glue:text}`introduction.recurrent.outcome` on average ({verdict}`C1-06`).
# {finding}`The LSTM loses | introduction.lstm.pruned_loss_points > 0` {glue:text}`introduction.lstm.pruned_loss_points`,
# and the GRU {glue:text}`introduction.gru.pruned_loss_points`.
# So the methods of {doc}`pruning` need nothing that convolutions have and recurrent networks lack.
#
# ## How this book is ordered
#
# The book follows the survey {cite:p}`berthelier2020survey`: its first half compresses networks that are there, its
# second half builds or searches small ones.
# The map is the survey's Figure 1, continued to the chapters.
# A section leads to the list of its techniques, and each chapter's name to its page.
#
# ```{roadmap}
# ```
#
# ## Where it breaks
#
# **Too few weights.** Kept are {mean}`introduction.pruning.sparsest_density_pct` of the weights, and the training is the
# same.
# The LSTM then {finding}`loses | introduction.lstm.sparsest_loss_points > 0` {glue:text}`introduction.lstm.sparsest_loss_points`.
# Without retraining, {mean}`introduction.pruning.density_pct` of the weights are
# {finding}`too few as well | introduction.lstm.cut_loss_points > introduction.lstm.pruned_loss_points`: it loses
# {glue:text}`introduction.lstm.cut_loss_points`.
#
# **Fewer weights, as much work.** The pruned LSTM takes
# {finding}`as many multiply-adds as before | introduction.lstm.pruned_multiply_adds_ratio >= 1; introduction.gru.pruned_multiply_adds_ratio >= 1`,
# since an ordinary product does not skip zeros.
#
# **What a program cannot test.** Three sentences of the survey's introduction are about the literature or about
# hardware in general.
# They say that few works target dedicated hardware ({verdict}`C1-03`), that it is hard to generalize
# ({verdict}`C1-04`), and that few surveys exist ({verdict}`C1-07`).
# Hardware for networks was built long before deep ones {cite:p}`iwata1989artificial,hammerstrom1990vlsi`.
#
# ## Exercises
#
# 1. The microcontroller of this page is to store SqueezeNet. How many bits may each of its weights have?

# %% tags=["hide-cell"]
small = measure.parameters(without_weights("squeezenet1_1"))
bits = 8 * devices[chip]["storage"] / small
evidence.answer(
    f"{bits:.1f} bits, if nothing else is stored. Integers of {int(bits)} bits would do, and those of 8 bits {'would too' if bits >= 8 else 'would not'}."
)

# %% [markdown]
# 2. Suppose that software could skip each multiplication with a zero. How many multiply-adds would the pruned network
#    of the table have left?

# %% tags=["hide-cell"]
work = measure.multiply_adds_by_layer(shrunk["prune"], shape)
kept = {
    row["layer"]: row["kept"] / row["weights"]
    for row in measure.by_layer(shrunk["prune"])
}
left = sum(count * kept[name] for name, count in work.items())
evidence.answer(
    f"{left:,.0f} of {sum(work.values()):,}, or {100 * left / sum(work.values()):.0f} %: as many as it has weights left, because each layer keeps the same share."
)

# %% [markdown]
# 3. An LSTM computes four gates from the row and the last state, a GRU three. By how much is the GRU smaller?

# %% tags=["hide-cell"]
counts = {kind: measure.parameters(reader(0, kind).rows) for kind in KINDS}
inputs = shape[2]
assert counts["lstm"] == 4 * units * (inputs + units + 2)
evidence.answer(
    f"By {100 * (1 - counts['gru'] / counts['lstm']):.0f} %: it has {counts['gru']:,} parameters and the LSTM {counts['lstm']:,}. Each gate has a matrix for the row, one for the state, and two biases."
)

# %% [markdown]
# ## In short
#
# - Networks for photographs exceed small devices in three ways: weights, activations and work.
# - Of {glue:text}`introduction.saving.tried` techniques, {glue:text}`introduction.saving.smaller` make the file smaller
#   and {glue:text}`introduction.saving.both` also save multiply-adds; so ask first what your device lacks.
# - Pruning also works on recurrent networks: the LSTM and the GRU {glue:text}`introduction.recurrent.outcome`.
#
# ## Sources of this chapter
#
# - {cite:t}`berthelier2020survey` is the survey that this book runs; {cite:t}`cheng2017survey` is an earlier one.
# - {cite:t}`lin2020mcunet` compare networks with microcontrollers, and give the sizes of both chips.
# - {cite:t}`hochreiter1997long` introduce the LSTM and {cite:t}`cho2014learning` the GRU; {cite:t}`han2015learning`
#   prune by magnitude.
# - {cite:t}`iwata1989artificial` and {cite:t}`hammerstrom1990vlsi` built hardware for networks.
