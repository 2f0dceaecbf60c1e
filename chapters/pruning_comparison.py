# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-comparison)=
# # Filter criteria compared: L1, Taylor, ThiNet, LASSO, NISP
#
# Which criterion finds the filters that a network can lose with the least harm?
# We cut ResNet-8, a small residual network for color images, to {mean}`pruning_comparison.resnet8.multiply_adds_pct 0`
# of its multiply-adds, and train it no further.
# The method that ranks first on validation images, {glue:text}`pruning_comparison.resnet8.best_name`, keeps an accuracy
# of {mean}`pruning_comparison.resnet8.best_before_pct 0`.
# Random filters keep {mean}`pruning_comparison.resnet8.random_before_pct 0`, and
# {mean}`pruning_comparison.resnet8.random__least_squares_before_pct 0` if the next layers are refitted to their old
# outputs.
# After fine-tuning on all images, the small network is {glue:text}`pruning_comparison.resnet8.behind`.
#
# ```{claims} pruning_comparison
# ```
#
# ```{cost} pruning_comparison
# ```

# %% tags=["parameters"]
data = "street-digits"  # color images for ResNet-8: street-digits, cifar10, or a folder
first = [800, 150, 150]  # training, validation and test images of them that are used
width = 8  # channels in the first stage of ResNet-8 (16 in the literature)
multiple_of = 4  # the number of filters that a layer keeps is a multiple of this
epochs = 8  # to train ResNet-8
batch_size = 32  # images in a step of its training
learning_rate = 0.1  # at the start of its training
final_epochs = 2  # to fine-tune the network that is kept
final_rate = 0.03  # learning rate of that, chosen on the validation split
gray_data = "digits"  # gray images for LeNet-5: digits, mnist
gray_first = [300, 60, 150]  # of them: images to fine-tune, to validate and to test
gray_epochs = 5  # to train LeNet-5 on the whole training split
seeds = 1  # ResNet-8s trained from different starts, each with its own draws
gray_seeds = 3  # LeNet-5s trained from different starts, each with its own draws
calibration = 40  # images by which the criteria judge
tuning = 96  # images of the short fine-tuning that all have in common
rounds = 1  # portions in which the discrimination-aware criterion chooses
steps = 1  # of gradient descent after each portion
mask_epochs = 2  # in which the adversarial criterion learns its masks
work = 0.5  # share of the multiply-adds that ResNet-8 keeps at most
gray_works = [0.5, 0.2, 0.08]  # shares that LeNet-5 keeps
weights_kept = (
    0.1  # share of LeNet-5's weights that is kept each time it is made sparse
)

# %% tags=["hide-input"]
import copy
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr

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
from lib.cache import cached, trained
from lib.datasets import Split
from lib.pruning import (
    adversarial,
    channel_lasso,
    discrimination_aware,
    filter_l1,
    geometric_median,
    magnitude,
    molchanov,
    nisp,
    optimal_threshold,
    thinet,
)

color = datasets.load(data, first=first)
gray = datasets.load(gray_data)
record = evidence.recorder("pruning_comparison", color)
evidence.uses(gray)


def accuracy(model, split):
    # in small batches: the maps of 1,000 images at once take 300 MB
    return 100 - training.error_pct(model, split, batch_size=200)


def drawn(split, n, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)[:n]
    return Split(split.images[order], split.labels[order])


def copied(split, n):
    # a part of a split keeps all of its images in memory, a copy does not
    return Split(split.images[:n].clone(), split.labels[:n].clone())


# %% [markdown]
# ## The criteria
#
# A criterion takes the network, a few {term}`calibration images <calibration>` and a seed, and gives every {term}`filter` a score; the filters with
# low scores go.
#
# | criterion | a filter matters if ... | explained in |
# | --- | --- | --- |
# | random | it is drawn at random | {ref}`sec-pruning-filters` |
# | L1 norm, mean square weight | its weights are large | {ref}`sec-filter-l1` |
# | mean activation, deviation of activation | its output is large, or varies | {ref}`sec-molchanov` |
# | mutual information | its output tells about the label | {ref}`sec-molchanov` |
# | Taylor | the loss would change without it, to first order | {ref}`sec-molchanov` |
# | geometric median | other filters cannot stand in for it | {ref}`sec-geometric-median` |
# | batch norm scale | batch norm multiplies it by a large factor | {ref}`sec-optimal-threshold` |
# | ThiNet, LASSO | the next layer cannot be rebuilt without it | {ref}`sec-pruning-reconstruction` |
# | NISP | the final responses depend on it | {ref}`sec-nisp` |
# | discrimination-aware | it helps extra classifiers to tell the classes apart | {ref}`sec-discrimination-aware` |
# | adversarial (GAL) | a learned factor on it stays large | {ref}`sec-adversarial` |


# %% tags=["hide-input"]
def by(criterion):
    return lambda model, split, seed: molchanov.scores(
        model, split, criterion=criterion, seed=seed
    )


def seedless(scores):
    return lambda model, split, seed: scores(model, split)


def seeded(scores, **options):
    return lambda model, split, seed: scores(model, split, seed=seed, **options)


criteria = {
    "random": by("random"),
    "l1 norm": seedless(filter_l1.scores),
    "mean square weight": by("weight"),
    "mean activation": by("mean"),
    "deviation of activation": by("deviation"),
    "mutual information": by("information"),
    "Taylor": by("taylor"),
    "geometric median": seedless(geometric_median.scores),
    "batch norm scale": seedless(optimal_threshold.scores),
    "ThiNet": seeded(thinet.scores),
    "LASSO": seeded(channel_lasso.scores),
    "NISP": seeded(nisp.scores),
    "discrimination-aware": seeded(
        discrimination_aware.scores, rounds=rounds, steps=steps
    ),
    "adversarial (GAL)": seeded(adversarial.scores, epochs=mask_epochs),
}

# %% [markdown]
# ThiNet {cite:p}`luo2017thinet` and the LASSO {cite:p}`he2017channel` do more than choose: they also change the weights
# of the next layers so that their outputs stay close to the old ones.
# This repair works after any choice, so we also apply it after a random one.
# Any difference that remains is due to the choice alone.

# %%
refits = {
    "random, least squares": ("random", channel_lasso.refit),
    "ThiNet, rescaled": ("ThiNet", thinet.rescale),
    "LASSO, least squares": ("LASSO", channel_lasso.refit),
}

# %% [markdown]
# A criterion refuses a network that lacks what it reads.
# LeNet-5, a digit classifier with two convolutions, has no batch norm, so the criterion that reads its scales must
# refuse:

# %%
options = {"epochs": gray_epochs, "learning_rate": 0.05}
options |= {"split": gray.train, "seeds": range(gray_seeds)}
lenets = trained(training.fit, models.lenet5, **options)
try:
    optimal_threshold.scores(lenets[0], gray.train.first(1))
    raise AssertionError("LeNet-5 has no scales, and got scores")
except ValueError as error:
    print(error)

# %% tags=["remove-cell"]
# From here on a few gray images are enough, and the others leave the memory.
gray = datasets.Dataset(
    gray.name,
    gray.source,
    drawn(gray.train, gray_first[0], 1),
    *map(copied, (gray.validation, gray.test), gray_first[1:]),
    gray.classes,
)

# %% [markdown]
# ## Equal terms
#
# For each seed we train a dense network, and draw its calibration images, the random filters and the order of images in
# {term}`fine-tuning`.
# All criteria get the same networks and the same draws, so we can compare them in pairs.
# Whatever we choose below, such as the best criterion, we choose on {term}`validation` images and report on test images.
# Every criterion removes the same number of filters from every layer, so all pruned networks have one shape and differ
# only in the choice.
# Batch norm's means and variances are measured again on the calibration images, because removing channels changes them.


# %%
def cut(model, scores, share, seed, split, rounded=1):
    example, few = split.images[:1], drawn(split, calibration, 100 + seed)
    fraction = structure.fraction_for(
        model, example, multiply_adds=share, multiple_of=rounded
    )
    options = {"fraction": fraction, "multiple_of": rounded}
    options["groups"] = structure.groups(model, example)
    small = {}
    for name in (*scores, *(n for n in refits if refits[n][0] in scores)):
        base, refit = refits.get(name, (name, None))
        masks = structure.keep(scores[base], **options)
        repaired = refit(model, masks, few, seed=seed) if refit else model
        network = structure.shrink(repaired, masks, example)
        small[name] = optimal_threshold.recalibrated(network, few)
    return small


# %% tags=["hide-input"]
def tuned(model, split, seed, epochs=1, rate=0.01):
    model = copy.deepcopy(model)
    options = {"epochs": epochs, "seed": seed, "learning_rate": rate, "batch_size": 64}
    training.fit(model, split, **options)
    return model


def ranked(model, split, seed, left_out=()):
    few = drawn(split, calibration, 100 + seed)
    used = {name: score for name, score in criteria.items() if name not in left_out}
    return {name: score(model, few, seed) for name, score in used.items()}


def race(networks, splits, share, scores, rounded=1, tune=True, judged=("test",)):
    """(when, split) -> name -> accuracies; and what is left of each."""
    found, cuts = {}, []

    def note(when, models):
        for split in judged:
            rows = found.setdefault((when, split), {})
            for name, model in models.items():
                rows.setdefault(name, []).append(
                    accuracy(model, getattr(splits, split))
                )

    for seed, model in enumerate(networks):
        cuts.append(cut(model, scores[seed], share, seed, splits.train, rounded))
        note("before", cuts[-1])
        if tune:
            few = drawn(splits.train, tuning, 200 + seed)
            rivals = {"dense": model} | cuts[-1]
            note("after", {name: tuned(m, few, seed) for name, m in rivals.items()})
    return found, cuts


def first_of(accuracies, names):
    return max(names, key=lambda name: np.mean(accuracies[name]))  # not chosen by test


def key(name):
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def spoken(name):
    return name.replace(", ", " + ").replace("l1", "L1")


# %%
options = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
build = partial(models.resnet8, width=width, channels=color.train.images.shape[1])
options |= {"split": color.train, "seeds": range(seeds)}
resnets = trained(training.fit, build, **options)
scores = [ranked(model, color.train, seed) for seed, model in enumerate(resnets)]
both = "validation", "test"
found, cuts = race(resnets, color, work, scores, multiple_of, judged=both)
before, after = found["before", "test"], found["after", "test"]
best = {
    when: first_of(found[when, "validation"], before) for when in ("before", "after")
}


# %% tags=["remove-input"]
def show(before, after, dense, network, share, **words):
    runs = len(before["random"])
    of = f"means over {runs} trained networks" if runs > 1 else "one trained network"
    of += " with 95 % intervals" if runs >= evidence.FEW else ""
    of += ", and a small dot for each" if 1 < runs < evidence.FEW else ""
    order = sorted(before, key=lambda name: np.mean(before[name]))  # not chosen by test
    figure, ax = figures.axes()
    figure.set_size_inches(6, 4.7)
    looks = figures.look("pruned"), figures.look("retrained")
    labels = "just cut", "fine-tuned"
    for move, look, values, label in zip(
        (0.16, -0.16), looks, (before, after), labels, strict=True
    ):
        shown, rows = [values[name] for name in order], np.arange(len(order)) + move
        figures.dots(ax, rows, shown, look, label, bounds=figures.PERCENT)
    ax.axvline(dense, **figures.DENSE | {"marker": ""}, label="dense network")
    ax.set(xlabel="test accuracy (%)", xlim=(0, 100), yticks=range(len(order)))
    ax.set_yticklabels(map(spoken, order))
    figures.legend(ax, columns=3, narrow=True)
    low, high = (np.mean(before[order[i]]) for i in (0, -1))
    later = [np.mean(after[name]) for name in order]
    figures.show(
        figure,
        caption=f"Test accuracy of {network} at {share:.0f} % of its multiply-adds, straight after the cut and after the same short fine-tuning; {of}.",
        alt=f"Dot plot of {len(order)} choices. Straight after the cut accuracies go from {low:.1f} % ({spoken(order[0])}) to {high:.1f} % ({spoken(order[-1])}); "
        f"after fine-tuning from {min(later):.1f} % to {max(later):.1f} %; the dense network has {dense:.1f} %.",
        **words,
    )


dense_accuracy = [accuracy(model, color.test) for model in resnets]
shape = tuple(color.train.images.shape[1:])
works = [measure.multiply_adds(m, shape) for m in (cuts[0]["random"], resnets[0])]
share = 100 * works[0] / works[1]
show(
    before,
    after,
    np.mean(dense_accuracy),
    "ResNet-8",
    share,
    name="fig-resnet8",
    lead=True,
    finding=f"Straight after the cut {spoken(best['before'])} keeps {np.mean(before[best['before']]):.0f}\u00a0% accuracy, "
    f"random filters {np.mean(before['random']):.0f} %",
)

# %% tags=["remove-cell"]
record("resnet8.multiply_adds_pct", share, digits=0, exact=True)
record("resnet8.dense_pct", dense_accuracy, digits=1)
record("resnet8.dense_after_pct", after["dense"], digits=1)
evidence.phrase("pruning_comparison.resnet8.best_name", spoken(best["before"]))
gaps = {}
for when, values in (("before", before), ("after", after)):
    record(f"resnet8.best_{when}_pct", values[best[when]], digits=1)
    for name in before:
        record(f"resnet8.{key(name)}_{when}_pct", values[name], digits=1)
    gaps[when] = [np.ptp([values[n][s] for n in criteria]) for s in range(seeds)]
    record(f"resnet8.spread_{when}_pct", gaps[when], digits=1)
closer = "narrows" if np.mean(gaps["after"]) < np.mean(gaps["before"]) else "widens"
evidence.phrase("pruning_comparison.resnet8.gap", closer)
judged = found["before", "validation"]
rival = first_of(judged, criteria)
record("resnet8.best_unrepaired_pct", before[rival], digits=1)
evidence.phrase("pruning_comparison.resnet8.rival", spoken(rival))

# %% [markdown]
# **What to see.** A repair
# {finding}`helps even a random choice | pruning_comparison.resnet8.random__least_squares_before_pct > pruning_comparison.resnet8.random_before_pct`:
# refitted by least squares, random filters go from an accuracy of {mean}`pruning_comparison.resnet8.random_before_pct`
# to {mean}`pruning_comparison.resnet8.random__least_squares_before_pct` without any training.
# That is
# {finding}`more than the best choice without a repair keeps | pruning_comparison.resnet8.random__least_squares_before_pct > pruning_comparison.resnet8.best_unrepaired_pct`
# ({glue:text}`pruning_comparison.resnet8.rival`, {mean}`pruning_comparison.resnet8.best_unrepaired_pct`).
# A choice and the repair can also be combined: the LASSO keeps {mean}`pruning_comparison.resnet8.lasso_before_pct`
# alone and {mean}`pruning_comparison.resnet8.lasso__least_squares_before_pct` with the refit.
# The dense network has {mean}`pruning_comparison.resnet8.dense_pct`.
# The short fine-tuning {glue:text}`pruning_comparison.resnet8.gap` the gap between the best and the worst choice.
#
# ### What the smaller network costs
#
# Filters can be set to zero and stay in the network, or they can be removed physically.

# %%
image, few = color.test.images[:64], drawn(color.train, calibration, 100)
fraction = structure.fraction_for(
    resnets[0], image, multiply_adds=work, multiple_of=multiple_of
)
options = {"fraction": fraction, "multiple_of": multiple_of}
options["groups"] = structure.groups(resnets[0], image)
masks = structure.keep(scores[0]["l1 norm"], **options)
masked = structure.mask(resnets[0], masks, image)
networks = {
    "dense": resnets[0],
    "masked": optimal_threshold.recalibrated(masked, few),
    "shrunk": cuts[0]["l1 norm"],
}
latency = {}
for n in (1, 64):
    calls = {k: lambda m=m, n=n: m(image[:n]) for k, m in networks.items()}
    latency[n] = measure.latency_ms(calls)

# %% tags=["remove-input"]
rows = []
for name, network in networks.items():
    row = {
        "network": name,
        "multiply-adds": f"{measure.multiply_adds(network, shape):,}",
        "file (bytes)": f"{len(storage.dumps(network)):,}",
        "accuracy (%)": f"{accuracy(network, color.test):.1f}",
    }
    for n, times in latency.items():
        ratio = times[name].median / times["dense"].median
        row[f"time ({n})"] = f"{ratio:.2f}"
    rows.append(row)
figures.table(
    rows,
    caption="ResNet-8, just cut by L1 norm; times for 1 and 64 images relative to the dense network",
)

# %% tags=["remove-cell"]
times = latency[64]
for name, word in (("masked", "masked"), ("shrunk", "cut")):
    ratio = times[name].median / times["dense"].median
    record(f"resnet8.{word}_latency_ratio", ratio, digits=2)

# %% [markdown]
# **What to see.** The shrunk network
# {finding}`is faster than the masked one | pruning_comparison.resnet8.cut_latency_ratio < pruning_comparison.resnet8.masked_latency_ratio`,
# though both give the same outputs.
# With 64 images at once, the masked network takes {glue:text}`pruning_comparison.resnet8.masked_latency_ratio` the time
# of the dense one and the shrunk network {glue:text}`pruning_comparison.resnet8.cut_latency_ratio`.
# {ref}`sec-pruning-speed` measures how far time follows {term}`multiply-adds <multiply-add>`.
#
# ### The network that is kept
#
# After the short fine-tuning we rank the criteria and repairs on the validation split.
# The networks of the first choice are then fine-tuned on all training images for
# {glue:text}`pruning_comparison.setting.final_epochs`.
# So are the dense networks, and those of the criterion that ranks last, not counting the random choice.
# All of them have then seen the same data equally often.

# %%
judged = found["after", "validation"]
chosen = best["after"]
last = min(
    (n for n in criteria if n != "random"), key=lambda n: np.mean(judged[n])
)  # not chosen by test
options = {"split": color.train, "epochs": final_epochs, "learning_rate": final_rate}
options["batch_size"] = 64


def finished(model, seed):
    model = cached(training.fit, copy.deepcopy(model), seed=300 + seed, **options)
    return accuracy(model, color.test)


final = {
    name: np.array([finished(network[name], seed) for seed, network in enumerate(cuts)])
    for name in (chosen, last)
}
longer = np.array([finished(model, seed) for seed, model in enumerate(resnets)])

# %% tags=["remove-cell"]
record("setting.final_epochs", final_epochs, "epochs", exact=True)
record("resnet8.shrunk_accuracy_pct", final[chosen], digits=1)
record("resnet8.last_accuracy_pct", final[last], digits=1)
record("resnet8.dense_longer_pct", longer, digits=1)
record("resnet8.shrunk_accuracy_drop_pct", dense_accuracy - final[chosen], digits=1)
record("resnet8.shrunk_behind_pct", longer - final[chosen], digits=1)
record("resnet8.last_behind_pct", longer - final[last], digits=1)
evidence.phrase("pruning_comparison.resnet8.chosen", spoken(chosen))
evidence.phrase("pruning_comparison.resnet8.last", spoken(last))


def difference(points):
    return f"{abs(points):.1f} points {'below' if points > 0 else 'above'}"


behind = difference(np.mean(longer - final[chosen]))
evidence.phrase(
    "pruning_comparison.resnet8.behind",
    f"{behind} the dense one that was trained as long",
)
drop = difference(np.mean(dense_accuracy - final[chosen]))
evidence.phrase("pruning_comparison.resnet8.drop", drop)
evidence.phrase(
    "pruning_comparison.resnet8.last_behind", difference(np.mean(longer - final[last]))
)

# %% [markdown]
# **What to see.** At {mean}`pruning_comparison.resnet8.multiply_adds_pct 0` of its multiply-adds, the choice that ranks
# first on validation images, {glue:text}`pruning_comparison.resnet8.chosen`, reaches an accuracy of
# {glue:text}`pruning_comparison.resnet8.shrunk_accuracy_pct`.
# That is {glue:text}`pruning_comparison.resnet8.drop` the dense network it came from, and
# {glue:text}`pruning_comparison.resnet8.behind`.
# Only the second comparison is fair: the first credits pruning with the extra training.
# The last criterion, {glue:text}`pruning_comparison.resnet8.last`, ends
# {glue:text}`pruning_comparison.resnet8.last_behind` the equally trained dense network.
# The survey says that accuracy does not drop significantly, whatever the method: {verdict}`C2.3-46`.
#
# ## The same on LeNet-5
#
# LeNet-5 is small enough to try several cuts.

# %%
gray_scores = [
    ranked(model, gray.train, seed, ["batch norm scale"])
    for seed, model in enumerate(lenets)
]
middle = len(gray_works) // 2
shown = "random", "l1 norm", "Taylor", "LASSO"  # at the other cuts, for a figure
few_scores = [{name: score[name] for name in shown} for score in gray_scores]
races = [
    race(
        lenets,
        gray,
        share,
        gray_scores if i == middle else few_scores,
        tune=i == middle,
    )
    for i, share in enumerate(gray_works)
]
gray_cuts = [found["before", "test"] for found, _ in races]

# %% tags=["remove-input"]
gray_dense = [accuracy(model, gray.test) for model in lenets]
gray_shape = gray.train.images.shape[1:]
whole = measure.multiply_adds(lenets[0], gray_shape)
work_of = [
    100 * measure.multiply_adds(kept[0]["random"], gray_shape) / whole
    for _, kept in races
]
gray_before, gray_after = gray_cuts[middle], races[middle][0]["after", "test"]
show(
    gray_before,
    gray_after,
    np.mean(gray_dense),
    "LeNet-5",
    work_of[middle],
    name="fig-lenet5",
    finding=f"Refitted by least squares, even random filters of LeNet-5 reach {np.mean(gray_before['random, least squares']):.0f} %",
)

# %% tags=["remove-input"]
lines = {
    "random": figures.look("random"),
    "l1 norm": figures.look("prune-filter-l1"),
    "Taylor": figures.look("prune-molchanov-criteria"),
    "LASSO, least squares": figures.look("prune-channel-lasso"),
}
ends = {name: np.mean(gray_cuts[-1][name]) for name in lines}
figures.curves(
    {
        spoken(name): (look, work_of, [kept[name] for kept in gray_cuts])
        for name, look in lines.items()
    },
    xlabel="multiply-adds kept (%)",
    ylabel="test accuracy (%)",
    log="x",
    falling=True,
    bounds=figures.PERCENT,
    level=("dense network", np.mean(gray_dense)),
    finding=f"With {work_of[-1]:.0f} % of the multiply-adds left, a refitted choice keeps {ends['LASSO, least squares']:.0f} %, random filters {ends['random']:.0f} %",
    name="fig-lenet5-work",
    caption="LeNet-5 straight after the cut, without any training: test accuracy against the multiply-adds that are left.",
    alt=f"Four curves that fall with the multiply-adds. At {work_of[-1]:.0f} % of them accuracy is "
    + ", ".join(f"{value:.1f} % ({spoken(name)})" for name, value in ends.items())
    + f"; the dense network has {np.mean(gray_dense):.1f} %.",
)

# %% tags=["remove-cell"]
record("lenet5.dense_pct", gray_dense, digits=1)
record("lenet5.multiply_adds_pct", work_of[middle], digits=0, exact=True)
record("lenet5.smallest_multiply_adds_pct", work_of[-1], digits=0, exact=True)
for name, word in (("random", "random"), ("LASSO, least squares", "lasso_refit")):
    record(f"lenet5.{word}_smallest_pct", gray_cuts[-1][name], digits=1)
    record(f"lenet5.{word}_largest_pct", gray_cuts[0][name], digits=1)
for when, values in (("before", gray_before), ("after", gray_after)):
    for name in values:
        record(f"lenet5.{key(name)}_{when}_pct", values[name], digits=1)

# %% [markdown]
# **What to see.** The smaller the network gets,
# {finding}`the more the choice and the repair matter | pruning_comparison.lenet5.lasso_refit_smallest_pct - pruning_comparison.lenet5.random_smallest_pct > pruning_comparison.lenet5.lasso_refit_largest_pct - pruning_comparison.lenet5.random_largest_pct`.
# At {mean}`pruning_comparison.lenet5.multiply_adds_pct 0` of the multiply-adds and without any training, random filters
# keep an accuracy of {mean}`pruning_comparison.lenet5.random_before_pct`, and the refitted LASSO keeps
# {mean}`pruning_comparison.lenet5.lasso__least_squares_before_pct`.
#
# ## Where it breaks
#
# **Chance is a serious rival.** The table shows each accuracy minus that of random filters in the same network.
# A star marks a difference whose confidence interval, over three networks or more, does not contain zero.
# With this many intervals, expect one or two stars from chance alone.

# %% tags=["remove-input"]
rows, clear = [], {"before": [], "after": []}
networks = {"ResNet-8": (before, after), "LeNet-5": (gray_before, gray_after)}
for name in (name for name in criteria if name != "random"):
    row = {"criterion": spoken(name)}
    for network, pair in networks.items():
        for when, values in zip(clear, pair, strict=True):
            cell = "-"
            if name in values:
                gains = np.subtract(values[name], values["random"]).tolist()
                mean, half = evidence.interval(gains)
                cell = evidence.number(mean, 1)
                if len(gains) >= evidence.FEW:
                    clear[when].append(mean > half)
                    cell += "*" if abs(mean) > half else ""
            label = "just cut" if when == "before" else "tuned"
            row[f"{network}, {label}"] = cell
    rows.append(row)
figures.table(
    rows,
    caption="Accuracy minus that of random filters (points); * where the interval excludes zero",
)

# %% tags=["remove-cell"]
for when, better in clear.items():
    share = 100 * sum(better) / max(1, len(better))
    record(f"criteria.better_than_random_{when}_pct", share, digits=0)
    evidence.phrase(
        f"pruning_comparison.criteria.{when}", f"{sum(better)} of {len(better)}"
    )

# %% [markdown]
# Right after the cut, {glue:text}`pruning_comparison.criteria.before` pairs of criterion and network are clearly better
# than random ({glue:text}`pruning_comparison.criteria.better_than_random_before_pct`).
# After fine-tuning, {glue:text}`pruning_comparison.criteria.after` are.
# So compare every new criterion with random filters.
#
# **One cut or several.** LeNet-5 loses the filters of smallest L1 norm in one cut or in three, with the same number of
# training images in all.


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


several = {
    n: [in_steps(net, gray_works[-1], n, seed) for seed, net in enumerate(lenets)]
    for n in (1, 3)
}

# %% tags=["remove-cell"]
record("lenet5.one_cut_pct", several[1], digits=1)
record("lenet5.three_cuts_pct", several[3], digits=1)
gained = np.mean(several[3]) - np.mean(several[1])
better = f"{abs(gained):.1f} points {'better' if gained > 0 else 'worse'}"
evidence.phrase("pruning_comparison.lenet5.cuts", better)

# %% [markdown]
# With so little training, three cuts are {glue:text}`pruning_comparison.lenet5.cuts` than one.
# At {mean}`pruning_comparison.lenet5.smallest_multiply_adds_pct 0` of the multiply-adds, the accuracy is
# {mean}`pruning_comparison.lenet5.three_cuts_pct` after three cuts and {mean}`pruning_comparison.lenet5.one_cut_pct`
# after one.
# {ref}`sec-filter-loop` makes the same comparison with only half of the filters removed.
# Together they decide what the survey says about pruning at each iteration: {verdict}`C2.3-24`.
#
# **A network that is sparse already.** Table 1 of the survey warns that pruning is not interesting where the model is
# sparse already.
# So we prune twice by the same share, each time with the same fine-tuning: first the dense network, then the network
# that the first cut left.
# We do this with filters, which leaves a small network, and with single weights, which leaves a sparse one.


# %%
def drop(model, seed):
    split = drawn(gray.train, tuning, 500 + seed)
    example = split.images[:1]
    fraction = structure.fraction_for(model, example, multiply_adds=gray_works[middle])
    masks = structure.keep(filter_l1.scores(model, split), fraction=fraction)
    smaller = tuned(structure.shrink(model, masks, example), split, seed)
    return smaller, accuracy(model, gray.test) - accuracy(smaller, gray.test)


def thinner(model, density, seed):
    """Fewer weights of the same network, fine-tuned."""
    sparse = magnitude.prune(copy.deepcopy(model), density=density)
    options = {"epochs": 1, "seed": seed, "learning_rate": 0.01, "batch_size": 64}
    training.fit(sparse, drawn(gray.train, tuning, 500 + seed), **options)
    return sparse, accuracy(model, gray.test) - accuracy(sparse, gray.test)


once = [drop(model, seed) for seed, model in enumerate(lenets)]
twice = [drop(model, seed) for seed, (model, _) in enumerate(once)]
thin = [thinner(model, weights_kept, seed) for seed, model in enumerate(lenets)]
thin_twice = [
    thinner(model, weights_kept**2, seed) for seed, (model, _) in enumerate(thin)
]

# %% tags=["remove-cell"]
record("setting.weights_kept_pct", 100 * weights_kept, digits=0, exact=True)
drops = {"first_drop": once, "second_drop": twice}
drops |= {"first_weights_drop": thin, "second_weights_drop": thin_twice}
for name, pairs in drops.items():
    lost = [points for _, points in pairs]
    record(f"lenet5.{name}_pct", lost, "points", 1)

# %% [markdown]
# With filters, the first cut costs {mean}`pruning_comparison.lenet5.first_drop_pct` of accuracy and the second
# {mean}`pruning_comparison.lenet5.second_drop_pct`.
# With single weights, each cut keeps {mean}`pruning_comparison.setting.weights_kept_pct`: the first costs
# {mean}`pruning_comparison.lenet5.first_weights_drop_pct` and the second
# {mean}`pruning_comparison.lenet5.second_weights_drop_pct`.
# The verdict on this warning is {verdict}`C2.3-43`.
#
# ## Exercises
#
# 1. Use your own network: shrink torchvision's ResNet-18 to half of its multiply-adds, and check that it still runs.

# %% tags=["hide-cell"]
from lib.vision import torchvision

model = torchvision.models.resnet18(num_classes=10).eval()
example = torch.zeros(2, 3, 64, 64)
fraction = structure.fraction_for(model, example, multiply_adds=0.5, multiple_of=8)
few_images = Split(example, torch.zeros(2, dtype=torch.long))
options = {"fraction": fraction, "multiple_of": 8}
options["groups"] = structure.groups(model, example)
masks = structure.keep(filter_l1.scores(model, few_images), **options)
half = structure.shrink(model, masks, example)
assert half(example).shape == (2, 10)
works = [measure.multiply_adds(m, (3, 64, 64)) for m in (half, model)]
evidence.answer(
    f"It runs, with {100 * works[0] / works[1]:.0f} % of the multiply-adds: less than half, "
    "because each layer keeps a multiple of eight filters."
)

# %% [markdown]
# 2. Do two criteria choose the same filters? Correlate the ranks of the L1 norm and of Taylor in each layer of
#    ResNet-8.

# %% tags=["hide-cell"]
ranks = {
    name: spearmanr(scores[0]["l1 norm"][name], taylor).statistic
    for name, taylor in scores[0]["Taylor"].items()
}
values = sorted(ranks.values())
evidence.answer(
    f"Only partly: the rank correlation goes from {values[0]:.2f} to {values[-1]:.2f} "
    f"over the {len(values)} layers, with a mean of {np.mean(values):.2f}."
)

# %% [markdown]
# ## In short
#
# - Refit the next layers by least squares: this repair helps even a random choice.
# - Compare a criterion with random filters, and a pruned network with a dense one that was trained as long.
# - A mask saves nothing; a physically smaller network saves time and bytes.
#
# ## Sources of this chapter
#
# - {cite:t}`berthelier2020survey` is the survey; the chapter of each criterion names its source.
# - The residual network comes from {cite:t}`he2016deep`.
