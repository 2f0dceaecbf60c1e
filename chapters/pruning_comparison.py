# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-comparison)=
# # Which filters? One comparison of all criteria
#
# Every criterion of the last three chapters chooses the filters that a ResNet-8 keeps, at {glue:text}`pruning_comparison.resnet8.multiply_adds_pct` of its multiply-adds.
# Straight after the cut the best has an accuracy of {glue:text}`pruning_comparison.resnet8.best_before_pct`, and filters chosen at random {glue:text}`pruning_comparison.resnet8.random_before_pct`.
# After the same short fine-tuning the best has {glue:text}`pruning_comparison.resnet8.best_after_pct`, random filters {glue:text}`pruning_comparison.resnet8.random_after_pct`, and the dense network, fine-tuned as long, {glue:text}`pruning_comparison.resnet8.dense_after_pct`.
# Random filters whose next layers are fitted anew by least squares have {glue:text}`pruning_comparison.resnet8.random__least_squares_before_pct` before any training.
# Hold these figures against what the survey says of all methods alike, that they cost no significant accuracy: {verdict}`C2.3-46`.
#
# ## What the survey says, and what came out
#
# ```{claims} pruning_comparison
# ```
#
# ## What this page needs
#
# ```{cost} pruning_comparison
# ```

# %% tags=["parameters"]
data = "street-digits"  # color images for ResNet-8: street-digits, cifar10, or the path of an image folder
first = [500, 100, 150]  # training, validation and test images of them that are used
width = 8  # channels in the first stage of ResNet-8 (16 in the literature)
multiple_of = 4  # the number of filters that a layer keeps is a multiple of this
epochs = 6  # to train ResNet-8
batch_size = 32  # images in a step of its training
learning_rate = 0.05  # at the start of its training
final_epochs = 2  # to fine-tune the one that is kept
final_rate = 0.05  # learning rate of that, chosen on the validation split
gray_data = "digits"  # gray images for LeNet-5: digits, mnist
gray_first = [300, 60, 150]  # training, validation and test images for fine-tuning and measuring
gray_epochs = 3  # to train LeNet-5 on the whole training split
seeds = 2  # draws of calibration images, random filters and order of fine-tuning
calibration = 40  # images by which the criteria judge
tuning = 96  # images of the fine-tuning that all have in common
rounds = 1  # portions in which the discrimination-aware criterion chooses
steps = 1  # of gradient descent behind each portion
mask_epochs = 2  # in which the adversarial criterion learns its masks
work = 0.5  # share of the multiply-adds that ResNet-8 keeps
gray_works = [0.4, 0.1]  # shares that LeNet-5 keeps

# %% tags=["hide-input"]
import copy

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, storage, structure, training
from lib.cache import cached
from lib.datasets import Split
from lib.pruning import (
    adversarial,
    channel_lasso,
    discrimination_aware,
    filter_l1,
    geometric_median,
    molchanov,
    nisp,
    optimal_threshold,
    thinet,
)

color = datasets.load(data, first=first)
gray = datasets.load(gray_data)
evidence.uses(color)
evidence.uses(gray)


def record(key, values, unit="%", digits=1):
    return evidence.record(f"pruning_comparison.{key}", values, unit=unit, digits=digits)


def accuracy(model, split):  # in small batches: of 1,000 images at once the maps alone take 300 MB
    return 100 - training.error_pct(model, split, batch_size=200)


def drawn(split, n, seed):
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:n]
    return Split(split.images[order], split.labels[order])


def copied(split, n):  # a part of a split keeps all of its images in memory, a copy does not
    return Split(split.images[:n].clone(), split.labels[:n].clone())


# %% [markdown]
# ## The criteria
#
# Each is a function of the network, a few calibration images and a seed, and gives every filter a score.
# The two reconstructions belong to ThiNet {cite:p}`luo2017thinet` and to the LASSO {cite:p}`he2017channel`: after the choice they change the weights of the next layers so that they answer as before.
# The same can be done after any choice, so here it is also done after a random one: what is left of the difference is the choice alone.


# %%
def by(criterion):
    return lambda model, split, seed: molchanov.scores(model, split, criterion=criterion, seed=seed)


criteria = {
    "random": by("random"),
    "l1 norm": lambda model, split, seed: filter_l1.scores(model, split),
    "mean square weight": by("weight"),
    "mean activation": by("mean"),
    "deviation of activation": by("deviation"),
    "mutual information": by("information"),
    "Taylor": by("taylor"),
    "geometric median": lambda model, split, seed: geometric_median.scores(model, split),
    "batch norm scale": lambda model, split, seed: optimal_threshold.scores(model, split),
    "ThiNet": lambda model, split, seed: thinet.scores(model, split, seed=seed),
    "LASSO": lambda model, split, seed: channel_lasso.scores(model, split, seed=seed),
    "NISP": lambda model, split, seed: nisp.scores(model, split, seed=seed),
    "discrimination-aware": lambda model, split, seed: discrimination_aware.scores(
        model, split, rounds=rounds, steps=steps, seed=seed
    ),
    "adversarial (GAL)": lambda model, split, seed: adversarial.scores(
        model, split, epochs=mask_epochs, seed=seed
    ),
}
refits = {
    "random, least squares": ("random", channel_lasso.refit),
    "ThiNet, rescaled": ("ThiNet", thinet.rescale),
    "LASSO, least squares": ("LASSO", channel_lasso.refit),
}

# %% [markdown]
# A criterion whose evidence a network lacks says so, and is left out: LeNet-5 has no batch norm, hence no scales.

# %% tags=["hide-input"]
# LeNet-5 is trained first: later on only a few gray images are needed, and the others leave the memory here.
options = {"epochs": gray_epochs, "seed": 0, "learning_rate": 0.05}
lenet5 = cached(training.fit, models.lenet5(0), split=gray.train, **options)
gray = datasets.Dataset(
    gray.name,
    gray.source,
    drawn(gray.train, gray_first[0], 1),
    *map(copied, (gray.validation, gray.test), gray_first[1:]),
    gray.classes,
)
try:
    optimal_threshold.scores(lenet5, gray.train.first(1))
    raise AssertionError("LeNet-5 has no scales, and got scores")
except ValueError as error:
    print(error)

# %% [markdown]
# ## The race
#
# The networks are trained once.
# A seed draws the calibration images, the random filters, and the order of the fine-tuning; the same for all criteria, so that they can be compared in pairs.
# Every criterion removes the same number of filters from every layer, so that all the smaller networks have one shape, and differ in nothing but the choice.
# Where there is batch norm, its means and variances are taken anew on the calibration images: the old ones belong to maps that are no longer the same.


# %%
def tuned(model, split, seed, epochs=1, rate=0.01):
    options = {"epochs": epochs, "seed": seed, "learning_rate": rate, "batch_size": 64}
    return cached(training.fit, copy.deepcopy(model), split=split, **options)


def ranked(model, split, seed, left_out=()):
    few = drawn(split, calibration, 100 + seed)
    return {
        name: score(model, few, seed) for name, score in criteria.items() if name not in left_out
    }


def cut(model, scores, share, seed, split, rounded=1):
    example, few = split.images[:1], drawn(split, calibration, 100 + seed)
    groups = structure.groups(model, example)
    fraction = structure.fraction_for(model, example, multiply_adds=share, multiple_of=rounded)
    options = {"fraction": fraction, "groups": groups, "multiple_of": rounded}
    masks = {name: structure.keep(score, **options) for name, score in scores.items()}
    small = {name: structure.shrink(model, mask, example) for name, mask in masks.items()}
    for name, (base, refit) in refits.items():
        repaired = refit(model, masks[base], few, seed=seed)
        small[name] = structure.shrink(repaired, masks[base], example)
    return {name: optimal_threshold.recalibrated(network, few) for name, network in small.items()}


def race(model, splits, share, scores, rounded=1, tune=True):
    """Name -> accuracies (seeds,), before and after fine-tuning; and the networks of the first seed."""
    before, after, kept = {}, {}, {}
    for seed in range(seeds):
        small = cut(model, scores[seed], share, seed, splits.train, rounded)
        few = drawn(splits.train, tuning, 200 + seed)
        for name, network in small.items():
            before.setdefault(name, []).append(accuracy(network, splits.test))
        for name, network in ({"dense": model} | small).items() if tune else ():
            after.setdefault(name, []).append(accuracy(tuned(network, few, seed), splits.test))
        kept = kept or small
    return before, after, kept


# %%
options = {"epochs": epochs, "seed": 0, "learning_rate": learning_rate}
options["batch_size"] = batch_size
resnet8 = models.resnet8(0, width=width, channels=color.train.images.shape[1])
resnet8 = cached(training.fit, resnet8, split=color.train, **options)
scores = [ranked(resnet8, color.train, seed) for seed in range(seeds)]
before, after, small = race(resnet8, color, work, scores, multiple_of)

# %% tags=["remove-input"]
DOT = {"linestyle": "none", "markersize": 7}


def dots(before, after, dense, name, network, what):
    order = sorted(before, key=lambda name: np.mean(before[name]))
    figure, ax = figures.axes()
    figure.set_size_inches(6, 5.6)
    for look, values, label in (
        (figures.PRUNING | {"markerfacecolor": "none"}, before, "just cut"),
        (figures.RETRAINED, after, "fine-tuned"),
    ):
        means = [np.mean(values[criterion]) for criterion in order]
        ax.plot(means, range(len(order)), label=label, **look | DOT)
        draws = [(value, i) for i, criterion in enumerate(order) for value in values[criterion]]
        ax.plot(*zip(*draws, strict=True), **look | DOT | {"markersize": 3, "alpha": 0.6})
    ax.axvline(dense, **figures.DENSE | {"marker": ""}, label="dense network")
    ax.set(xlabel="test accuracy (%)", yticks=range(len(order)), yticklabels=order, xlim=(0, 100))
    figure.legend(loc="outside upper right", ncols=3, borderaxespad=0)
    low, high = order[0], order[-1]
    figures.show(
        figure,
        name=name,
        caption=f"Test accuracy of {network} {what}, straight after the cut and after the same fine-tuning: means over {seeds} draws, and a small marker for each draw.",
        alt=f"Dot plot of {len(order)} criteria. Straight after the cut accuracies go from {np.mean(before[low]):.1f} % ({low}) to {np.mean(before[high]):.1f} % ({high}); "
        f"after fine-tuning from {min(map(np.mean, (after[n] for n in order))):.1f} % to {max(map(np.mean, (after[n] for n in order))):.1f} %; the dense network has {dense:.1f} %.",
    )


dense_accuracy = accuracy(resnet8, color.test)
shape = tuple(color.train.images.shape[1:])
share = measure.multiply_adds(small["random"], shape) / measure.multiply_adds(resnet8, shape)
dots(
    before, after, dense_accuracy, "fig-resnet8", "ResNet-8", f"at {share:.0%} of its multiply-adds"
)

# %% tags=["remove-cell"]
record("resnet8.multiply_adds_pct", 100 * share, digits=0)
record("resnet8.dense_pct", dense_accuracy)
record("resnet8.dense_after_pct", after["dense"])
for when, values in (("before", before), ("after", after)):
    best = max((name for name in before), key=lambda name: np.mean(values[name]))
    record(f"resnet8.best_{when}_pct", values[best])
    for name in before:
        record(
            f"resnet8.{''.join(c if c.isalnum() else '_' for c in name.lower())}_{when}_pct",
            values[name],
        )
gaps = np.array(
    [[np.ptp([v[n][s] for n in criteria]) for s in range(seeds)] for v in (before, after)]
)
record("resnet8.spread_before_pct", gaps[0])
record("resnet8.spread_after_pct", gaps[1])

# %% [markdown]
# **What to see.** Between the best and the worst choice lie {glue:text}`pruning_comparison.resnet8.spread_before_pct` points straight after the cut, and {glue:text}`pruning_comparison.resnet8.spread_after_pct` after the fine-tuning.
# Compare the rows with and without a reconstruction: least squares on random filters gives {glue:text}`pruning_comparison.resnet8.random__least_squares_before_pct` before any training.
#
# ### What the smaller network costs

# %%
image = color.test.images[:64]
masks = structure.keep(
    scores[0]["l1 norm"],
    fraction=structure.fraction_for(resnet8, image, multiply_adds=work, multiple_of=multiple_of),
    groups=structure.groups(resnet8, image),
    multiple_of=multiple_of,
)
networks = {
    "dense": resnet8,
    "masked": structure.mask(resnet8, masks, image),
    "shrunk": small["l1 norm"],
}
latency = {
    n: measure.latency_ms({k: lambda m=m, n=n: m(image[:n]) for k, m in networks.items()})
    for n in (1, 64)
}

# %% tags=["remove-input"]
rows = []
for name, network in networks.items():
    row = {"network": name, "multiply-adds": f"{measure.multiply_adds(network, shape):,}"}
    row["parameters"] = f"{measure.parameters(network):,}"
    row["file (bytes)"] = f"{len(storage.dumps(network)):,}"
    row["test accuracy (%)"] = f"{accuracy(network, color.test):.1f}"
    for n, times in latency.items():
        row[f"latency, batch {n} (ratio)"] = f"{times[name].median / times['dense'].median:.2f}"
    rows.append(row)
figures.table(rows, caption="ResNet-8, filters by their l1 norm: zeros in place, or gone")

# %% tags=["remove-cell"]
times = latency[64]
record("resnet8.masked_latency_ratio", times["masked"].median / times["dense"].median, "x", 2)
record("resnet8.cut_latency_ratio", times["shrunk"].median / times["dense"].median, "x", 2)
print({name: removed for name, removed in masks.removed.items() if removed})

# %% [markdown]
# **What to see.** The masked and the shrunk network give the same answers.
# At a batch of 64 the masked one takes {glue:text}`pruning_comparison.resnet8.masked_latency_ratio` the time of the dense network, the shrunk one {glue:text}`pruning_comparison.resnet8.cut_latency_ratio`.
# How far latency follows multiply-adds is measured, with nothing else running, in {ref}`sec-pruning-speed`.
#
# ### The one that is kept
#
# The choice among the criteria is made on the validation split, after the short fine-tuning of the first seed.
# That network is then fine-tuned on all training images, in several orders, and so is the dense one, once, so that the two have seen the same data.

# %%
few = drawn(color.train, tuning, 200)
judged = {name: accuracy(tuned(model, few, 0), color.validation) for name, model in small.items()}
chosen = max(judged, key=judged.get)
final = []
for seed in range(seeds):
    network = tuned(small[chosen], color.train, 300 + seed, final_epochs, final_rate)
    final.append(accuracy(network, color.test))
longer = tuned(resnet8, color.train, 300, final_epochs, final_rate)
longer, final = accuracy(longer, color.test), np.array(final)
record("resnet8.shrunk_accuracy_pct", final)
record("resnet8.dense_longer_pct", longer)
record("resnet8.shrunk_accuracy_drop_pct", dense_accuracy - final)
record("resnet8.shrunk_behind_pct", longer - final)
print("chosen on the validation split:", chosen)

# %% [markdown]
# The dense network had {glue:text}`pruning_comparison.resnet8.dense_pct`; the shrunk one reaches {glue:text}`pruning_comparison.resnet8.shrunk_accuracy_pct`, a drop of {glue:text}`pruning_comparison.resnet8.shrunk_accuracy_drop_pct` points.
# Against the dense network that was trained on as long, with {glue:text}`pruning_comparison.resnet8.dense_longer_pct`, the difference is {glue:text}`pruning_comparison.resnet8.shrunk_behind_pct` points: a comparison with the first figure alone credits the pruning with the extra training.
#
# ## The same on LeNet-5
#
# LeNet-5 is small enough to go further: several cuts, each with every criterion.

# %%
gray_scores = [ranked(lenet5, gray.train, seed, ["batch norm scale"]) for seed in range(seeds)]
middle = len(gray_works) // 2
races = [
    race(lenet5, gray, share, gray_scores, tune=i == middle) for i, share in enumerate(gray_works)
]

# %% tags=["remove-input"]
gray_dense = accuracy(lenet5, gray.test)
work_of = [
    100
    * measure.multiply_adds(kept["random"], (1, 28, 28))
    / measure.multiply_adds(lenet5, (1, 28, 28))
    for *_, kept in races
]
dots(
    *races[middle][:2],
    gray_dense,
    "fig-lenet5",
    "LeNet-5",
    f"at {work_of[middle]:.0f} % of its multiply-adds",
)

# %% tags=["remove-input"]
figure, ax = figures.axes()
lines = {
    "random": figures.DENSE,
    "l1 norm": figures.PRUNING,
    "Taylor": figures.QUANTIZATION,
    "LASSO, least squares": figures.COMBINED,
}
for name, look in lines.items():
    figures.line(ax, work_of, [before[name] for before, *_ in races], look, name)
ax.axhline(gray_dense, color="black", linewidth=1, linestyle=":", label="dense network")
ax.set(xlabel="multiply-adds kept (%)", ylabel="test accuracy (%)", ylim=(0, 102))
figures.logarithmic(ax, "x")
ax.invert_xaxis()
figures.legend(ax, columns=2)
last = {name: np.mean(races[-1][0][name]) for name in lines}
figures.show(
    figure,
    name="fig-lenet5-work",
    caption="LeNet-5 straight after the cut, without any training: test accuracy against the multiply-adds that are left.",
    alt=f"Four curves that fall with the multiply-adds. At {work_of[-1]:.0f} % of them accuracy is "
    + ", ".join(f"{value:.1f} % ({name})" for name, value in last.items())
    + f"; the dense network has {gray_dense:.1f} %.",
)

# %% tags=["remove-cell"]
record("lenet5.dense_pct", gray_dense)
record("lenet5.multiply_adds_pct", work_of[middle], digits=0)
record("lenet5.smallest_multiply_adds_pct", work_of[-1], digits=0)
for when, values in (("before", races[middle][0]), ("after", races[middle][1])):
    for name in values:
        record(
            f"lenet5.{''.join(c if c.isalnum() else '_' for c in name.lower())}_{when}_pct",
            values[name],
        )

# %% [markdown]
# **What to see.** At {glue:text}`pruning_comparison.lenet5.multiply_adds_pct` of the multiply-adds random filters have {glue:text}`pruning_comparison.lenet5.random_before_pct` before and {glue:text}`pruning_comparison.lenet5.random_after_pct` after the fine-tuning.
# The small markers are single draws: rows whose markers mix are not told apart by this experiment.
#
# ## Where it breaks
#
# **Criteria that lose to random.** For each criterion, the difference to random filters of the same seed, before and after fine-tuning.
# A criterion is worth its work only where the interval stays above zero.


# %%
def against_random(values, name):
    mean, half = evidence.interval(
        [a - b for a, b in zip(values[name], values["random"], strict=True)]
    )
    verdict = "better" if mean > half else "worse" if -mean > half else "not told apart"
    return f"{mean:+.1f} ± {half:.1f}", verdict


# %% tags=["remove-input"]
rows, lost = [], {}
for network, (b, a) in {"ResNet-8": (before, after), "LeNet-5": races[middle][:2]}.items():
    for name in (name for name in criteria if name != "random" and name in b):
        (cut_gain, cut_verdict), (gain, verdict) = against_random(b, name), against_random(a, name)
        lost[network, name] = (cut_verdict, verdict)
        cells = {"just cut (points)": cut_gain, "and": cut_verdict}
        cells |= {"fine-tuned (points)": gain, "and then": verdict}
        rows.append({"network": network, "criterion": name, **cells})
figures.table(rows, caption="Accuracy minus that of random filters, with 95 % intervals")

# %% tags=["remove-cell"]
for i, when in enumerate(("before", "after")):
    better = sum(verdicts[i] == "better" for verdicts in lost.values())
    record(f"criteria.better_than_random_{when}_pct", 100 * better / len(lost), digits=0)

# %% [markdown]
# Better than random are {glue:text}`pruning_comparison.criteria.better_than_random_before_pct` of these pairs of criterion and network straight after the cut, and {glue:text}`pruning_comparison.criteria.better_than_random_after_pct` after fine-tuning.
#
# **One cut or several.** The same filters go, by their l1 norm, in one cut or in three, with the same number of training steps in all.


# %%
def in_steps(model, share, steps, seed):
    for step in range(1, steps + 1):
        split = drawn(gray.train, tuning // steps, 400 + 10 * seed + step)
        example = split.images[:1]
        now = share ** (1 / steps)
        fraction = structure.fraction_for(model, example, multiply_adds=now)
        masks = structure.keep(filter_l1.scores(model, split), fraction=fraction)
        model = tuned(structure.shrink(model, masks, example), split, seed)
    return accuracy(model, gray.test)


for steps, name in ((1, "one_cut"), (3, "three_cuts")):
    values = [in_steps(lenet5, gray_works[-1], steps, seed) for seed in range(seeds)]
    record(f"lenet5.{name}_pct", values)

# %% [markdown]
# LeNet-5 at {glue:text}`pruning_comparison.lenet5.smallest_multiply_adds_pct` of its multiply-adds: {glue:text}`pruning_comparison.lenet5.one_cut_pct` after one cut, {glue:text}`pruning_comparison.lenet5.three_cuts_pct` after three.
#
# **A network that is small already.** Table 1 of the survey warns that pruning is not interesting where the model is sparse already.
# So the same cut is made twice: on the dense network, and on a network that an earlier cut has made small, each followed by the same fine-tuning.


# %%
def drop(model, seed):
    split = drawn(gray.train, tuning, 500 + seed)
    example = split.images[:1]
    fraction = structure.fraction_for(model, example, multiply_adds=gray_works[middle])
    masks = structure.keep(filter_l1.scores(model, split), fraction=fraction)
    smaller = tuned(structure.shrink(model, masks, example), split, seed)
    return smaller, accuracy(model, gray.test) - accuracy(smaller, gray.test)


once = [drop(lenet5, seed) for seed in range(seeds)]
twice = [drop(model, seed) for seed, (model, _) in enumerate(once)]
record("lenet5.first_drop_pct", [lost for _, lost in once])
record("lenet5.second_drop_pct", [lost for _, lost in twice])

# %% [markdown]
# The first cut costs {glue:text}`pruning_comparison.lenet5.first_drop_pct` points, the second {glue:text}`pruning_comparison.lenet5.second_drop_pct`: {verdict}`C2.3-43`.
#
# ## Exercises
#
# 1. Do two criteria choose the same filters? Correlate the ranks of the l1 norm and of Taylor in each layer of ResNet-8.

# %% tags=["hide-cell"]
from scipy.stats import spearmanr

for name in scores[0]["Taylor"]:
    correlation = spearmanr(scores[0]["l1 norm"][name], scores[0]["Taylor"][name]).statistic
    print(f"{name:20} {correlation:+.2f}")

# %% [markdown]
# 2. Use your own network: shrink torchvision's ResNet-18 to half of its multiply-adds, and check that it still answers.

# %% tags=["hide-cell"]
from lib.vision import torchvision

model = torchvision.models.resnet18(num_classes=10).eval()
example = torch.zeros(2, 3, 64, 64)
fraction = structure.fraction_for(model, example, multiply_adds=0.5, multiple_of=8)
few_images = Split(example, torch.zeros(2, dtype=torch.long))
masks = structure.keep(
    filter_l1.scores(model, few_images),
    fraction=fraction,
    groups=structure.groups(model, example),
    multiple_of=8,
)
half = structure.shrink(model, masks, example)
assert half(example).shape == (2, 10)
print(measure.multiply_adds(half, (3, 64, 64)) / measure.multiply_adds(model, (3, 64, 64)))

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`berthelier2020survey` is the survey; each criterion's source stands in its own chapter.
# - {cite:t}`he2016deep` is where the residual network comes from.
