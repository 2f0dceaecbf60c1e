# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning)=
# # Pruning: train, prune, retrain
#
# How many weights can a network lose before its answers get worse?
# Most of them: a small digit classifier lost {mean}`pruning.lenet300.removed_pct 0` of its weights, and after
# retraining its error {glue:text}`pruning.lenet300.outcome` that of the dense network trained as long.
# Without retraining, a cut to {mean}`pruning.lenet300.compared_density_pct 0` of the weights already
# {finding}`ruins the network | pruning.lenet300.unretrained_error_pct - pruning.lenet300.baseline_error_pct > 10`.
#
# ```{claims} pruning
# ```
#
# ```{cost} pruning
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks trained from different starts
epochs = 25  # to train each LeNet-300-100
retrain_epochs = 6  # to retrain it, in one go or over all rounds together
rounds = 3  # of prune and retrain, in the iterative variant
densities = [0.08, 0.03]  # shares of weights kept in the comparison
kept = {
    "fc1": 0.06,
    "fc2": 0.1,
    "fc3": 0.3,
}  # shares of weights kept in the networks that are passed on
sparser = {"fc1": 0.025, "fc2": 0.06, "fc3": 0.3}  # shares kept in sparser ones
final_epochs = 40  # to prune and retrain both, the first half of them pruning
quality = 1.75  # takes 92 % of normal weights, the share of Han et al. (2015)
tolerance = 1.0  # points of error that a removal may cost on the validation split
lenet5_seeds = 1  # LeNet-5 networks
lenet5_images = 55_000  # training images for them, at most
lenet5_epochs = 8  # to train each LeNet-5
lenet5_kept = {
    "conv1": 0.66,
    "conv2": 0.15,
    "fc1": 0.05,
    "fc2": 0.2,
}  # shares of weights kept in LeNet-5
lenet5_final_epochs = 10  # to prune and retrain it

# %% tags=["hide-input"]
import copy
import tempfile
from math import erf, sqrt

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached, trained
from lib.pruning import magnitude
from lib.weights import layers

dataset = datasets.load(data)
record = evidence.recorder("pruning", dataset)


def errors(networks, split=dataset.test):
    return [training.error_pct(network, split) for network in networks]


# %% [markdown]
# (sec-magnitude)=
# ## Train, prune, retrain
#
# **The idea.** A trained network does not need all of its weights.
# The small ones change its answers least, so they are removed first, and {term}`retraining <fine-tuning>` lets the others take over their
# work.
# The survey credits this three-step method to "Signorini et al.", but it comes from {cite:t}`han2015learning`.
# The seven chapters that follow refine it: which weights, filters or factors to remove, and what that gains in speed.
#
# **The formula.** A weight $w_{ij}$ is kept if its {term}`magnitude` reaches a threshold,
#
# $$ m_{ij} = \mathbb 1\big(\lvert w_{ij} \rvert \ge s\,\sigma\big), \qquad \hat w_{ij} = m_{ij}\, w_{ij}, $$ (eq-magnitude)
#
# where $m_{ij}$ is the {term}`mask`, $\hat w_{ij}$ is the {term}`pruned <pruning>` weight, and $\sigma$ is the standard deviation of the layer's
# weights.
# The *quality parameter* $s$ sets how much is removed: the larger it is, the sparser the network.
# Because $\sigma$ differs between layers, one $s$ prunes each layer at its own scale.
# Instead of $s$ you can set a *{term}`density`*, the share of weights that stay.
#
# **The code.** These functions choose the mask:

# %% tags=["remove-input"]
figures.show_source(magnitude.threshold, magnitude.masks)

# %% [markdown]
# The layer then computes with the masked weight, so training changes only the weights that are left:

# %% tags=["remove-input"]
figures.show_source(magnitude.PrunedWeight)

# %% [markdown]
# **An exact check.** If weights are normally distributed, the threshold $s\sigma$ removes the share
# $\operatorname{erf}(s / \sqrt 2)$ of them.
# We check this on a layer with a million such weights: the mask is that of the formula, and the share agrees to the
# third digit.

# %%
layer = torch.nn.Linear(1000, 1000)
torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
rows = []
for s in (0.5, 1.0, 1.5, 2.0):
    removed = 1 - magnitude.masks(layer, quality=s)[""].float().mean().item()
    assert abs(removed - erf(s / sqrt(2))) < 2e-3
    kept_here = layer.weight.abs() >= s * layer.weight.std(correction=0)
    assert torch.equal(magnitude.masks(layer, quality=s)[""], kept_here)
    rows.append(
        {
            "quality s": f"{s:.1f}",
            "removed here": f"{removed:.3%}",
            "erf(s / √2)": f"{erf(s / sqrt(2)):.3%}",
        }
    )
figures.table(rows, caption="Share of normally distributed weights below the threshold")

# %% [markdown]
# **A baseline.** LeNet-300-100 is a digit classifier with two hidden layers and 266,610 parameters
# {cite:p}`lecun1998gradient`.
# We train several of them from different random starts, and every sparse network of this chapter begins as one of
# these.

# %%
dense = trained(
    training.fit,
    models.lenet_300_100,
    seeds=range(seeds),
    split=dataset.train,
    epochs=epochs,
    learning_rate=0.1,
)
baseline = errors(dense)
record("lenet300.baseline_error_pct", baseline)


def trained_on(networks, split=dataset.train, **options):
    """The dense networks, trained on: the fair rivals of pruned ones."""
    return [
        cached(training.fit, copy.deepcopy(m), split=split, seed=1000 + i, **options)
        for i, m in enumerate(networks)
    ]


# %% [markdown]
# Retraining is more training, and a dense network may profit from that too.
# So we compare each retrained network with its dense rival, which is *trained on* for as many epochs.
#
# **What training has learned.** The survey says that training tells which weights matter.
# As a test we cut the trained networks to {glue:text}`pruning.lenet300.compared_density_pct` of their weights, without
# retraining.
# One cut keeps the weights that are largest after training; the other keeps those that were largest at the random
# start.
# We also prune with a quality parameter of {glue:text}`pruning.lenet300.quality`.
# It takes 92 % of normally distributed weights, the share that {cite:t}`han2015learning` removed from this network.
#
# ```{predict} weights-of-the-start
# ```

# %%
at = min(range(len(densities)), key=lambda i: abs(densities[i] - 0.08))
record("lenet300.compared_density_pct", 100 * densities[at], digits=0, exact=True)
record("lenet300.quality", quality, digits=2, exact=True)
starts = [
    magnitude.masks(models.lenet_300_100(i), density=densities[at])
    for i in range(seeds)
]
by_start = [
    magnitude.apply(copy.deepcopy(m), mask)
    for m, mask in zip(dense, starts, strict=True)
]
by_training = [magnitude.prune(copy.deepcopy(m), density=densities[at]) for m in dense]
record("lenet300.by_start_error_pct", errors(by_start))
record("lenet300.unretrained_error_pct", errors(by_training))
cut = [magnitude.prune(copy.deepcopy(m), quality=quality) for m in dense]
below = [100 * (1 - magnitude.density(m)) for m in cut]
record("lenet300.below_threshold_pct", below)

# %% [markdown]
# **What to see.** Training separates the weights that matter from the others.
# Cut by their trained magnitudes, the networks have {glue:text}`pruning.lenet300.unretrained_error_pct` error; cut by
# their magnitudes at the start, they have
# {finding}`more | pruning.lenet300.by_start_error_pct > pruning.lenet300.unretrained_error_pct`,
# {glue:text}`pruning.lenet300.by_start_error_pct`.
# The threshold alone makes the dense networks sparse: it removes {glue:text}`pruning.lenet300.below_threshold_pct` of
# the weights.
#
# (sec-loop)=
# ### The loop of the survey's Figure 3
#
# The survey draws pruning as a loop: train, evaluate, remove, fine-tune, and repeat.
# Here the loop removes a few weights at a time, and we measure the error on the validation split before and after each
# retraining.

# %%
model = copy.deepcopy(dense[0])
steps, smallest = 2 * rounds, densities[-1]
history = [(1.0, training.error_pct(model, dataset.validation))]
for step in range(1, steps + 1):
    magnitude.prune(model, density=smallest ** (step / steps), scope="global")
    history += [
        (magnitude.density(model), training.error_pct(model, dataset.validation))
    ]
    training.fit(model, dataset.train, epochs=retrain_epochs // rounds, seed=step)
    history += [
        (magnitude.density(model), training.error_pct(model, dataset.validation))
    ]

# %% tags=["remove-input"]
figure, ax = figures.axes()
shares, wrong = zip(*[(100 * share, error) for share, error in history], strict=True)
dots = {"linestyle": "none"}
ax.plot(shares, wrong, color=figures.DENSE["color"], linewidth=1)
ax.plot(shares[1::2], wrong[1::2], **figures.look("pruned") | dots, label="just pruned")
ax.plot(
    shares[0::2], wrong[0::2], **figures.look("retrained") | dots, label="retrained"
)
ax.set(xlabel="weights kept (%)", ylabel="validation error (%)")
figures.logarithmic(ax, "x")
ax.invert_xaxis()
figures.legend(ax)
jump = max(
    before - after for before, after in zip(wrong[1::2], wrong[2::2], strict=True)
)
figures.show(
    figure,
    finding=f"Each removal hurts; each retraining repairs up to {jump:.0f} points of error",
    name="fig-loop",
    caption="The loop of pruning and retraining on one LeNet-300-100: validation error just after each removal, and after the retraining that follows.",
    alt=f"Saw-tooth line of validation error against weights kept. Pruning from 100 % to {shares[-1]:.1f} % in {steps} steps, "
    f"each retraining takes back up to {jump:.1f} points; the error begins at {wrong[0]:.1f} % and ends at {wrong[-1]:.1f} %.",
)
record("loop.repaired_points", jump, digits=1)

# %% [markdown]
# **What to see.** Retraining repairs what a removal breaks: it takes back up to
# {glue:text}`pruning.loop.repaired_points` of error.
# At each density, one point shows the network just after the removal, and the other shows it after retraining.
#
# ### One step or many, with and without retraining
#
# Three variants end at the same density: prune in one step and stop; prune in one step and retrain; prune in several
# rounds.
# The second and the third are retrained for {glue:text}`pruning.lenet300.retrain_epochs`, and their dense rival is
# trained on for as many.


# %%
def compare(model, density, seed):
    networks = [magnitude.prune(copy.deepcopy(model), density=density)]
    for parts in (1, rounds):
        options = {
            "density": density,
            "rounds": parts,
            "epochs": retrain_epochs // parts,
            "seed": 100 * (seed + 1),
        }
        start = copy.deepcopy(model)
        networks += [cached(magnitude.iterative, start, split=dataset.train, **options)]
    return errors(networks)


found = np.array(
    [[compare(model, d, seed) for seed, model in enumerate(dense)] for d in densities]
)
unretrained, retrained, iterative = np.moveaxis(found, 2, 0)  # densities x seeds
rival = errors(trained_on(dense, epochs=retrain_epochs))
record("lenet300.retrain_epochs", retrain_epochs, "epochs", exact=True)
record("lenet300.briefly_trained_on_error_pct", rival)

# %% tags=["remove-input"]
shares = [100 * d for d in densities]
low = [float(e[-1].mean()) for e in (unretrained, retrained, iterative)]
figures.curves(
    {
        "one step, no retraining": (
            figures.look("pruned"),
            [100.0, *shares],
            [baseline, *unretrained.tolist()],
        ),
        "one step, retrained": (figures.look("retrained"), shares, retrained.tolist()),
        f"{rounds} rounds, retrained": (
            figures.look("iterated"),
            shares,
            iterative.tolist(),
        ),
    },
    xlabel="weights kept (%)",
    ylabel="test error (%)",
    log="xy",
    falling=True,
    bounds=figures.PERCENT,
    level=("dense, trained on", sum(rival) / seeds),
    lead=True,
    finding=f"With {shares[-1]:.0f} % of the weights the error is {low[0]:.0f} % without retraining, {low[1]:.1f} % with it",
    name="fig-retraining",
    caption="Test error against the share of weights kept in every layer; means over seeds with 95 % intervals.",
    alt=f"Three curves of test error against weights kept. At {shares[-1]:.0f} % kept the error is {low[0]:.1f} % without "
    f"retraining, {low[1]:.1f} % with retraining after one step, {low[2]:.1f} % after {rounds} rounds.",
)

# %% tags=["remove-cell"]
for name, value in (
    ("unretrained", unretrained),
    ("retrained", retrained),
    ("iterative", iterative),
):
    if name != "unretrained":  # recorded above
        record(f"lenet300.{name}_error_pct", value[at])
    record(f"lenet300.{name}_extreme_error_pct", value[-1])
steps = "better" if iterative[-1].mean() < retrained[-1].mean() else "no better"
evidence.phrase("pruning.lenet300.steps", steps)
record("lenet300.extreme_density_pct", 100 * densities[-1], digits=0, exact=True)

# %% [markdown]
# **What to see.** Retraining
# {finding}`makes the difference | pruning.lenet300.unretrained_error_pct >> pruning.lenet300.retrained_error_pct; pruning.lenet300.unretrained_extreme_error_pct >> pruning.lenet300.retrained_extreme_error_pct`,
# and with few weights left, several small steps end {glue:text}`pruning.lenet300.steps` than one large step.
# With {glue:text}`pruning.lenet300.compared_density_pct` of the weights, the error is
# {glue:text}`pruning.lenet300.unretrained_error_pct` without retraining and
# {glue:text}`pruning.lenet300.retrained_error_pct` with it.
# The dense network trained on for as long has {glue:text}`pruning.lenet300.briefly_trained_on_error_pct`.
# The last density of the comparison is {glue:text}`pruning.lenet300.extreme_density_pct`.
# There, the error is {glue:text}`pruning.lenet300.retrained_extreme_error_pct` after one step.
# After several steps it is {glue:text}`pruning.lenet300.iterative_extreme_error_pct`.
# The survey says that accuracy is considerably lower without retraining: {verdict}`C2.3-11`.
#
# ### How far pruning goes without loss
#
# In its best form, the loop removes a few weights before every epoch of one long run, while the learning rate falls;
# the last epochs only retrain.
# We set the share that each layer keeps: the small layers, which have few weights to spare, keep a larger one.

# %% tags=["remove-input"]
figures.show_source(magnitude.gradual)


# %%
def pruned(model, density, epochs, seed, learning_rate, split=dataset.train):
    options = {"density": density, "ramp": epochs // 2, "epochs": epochs}
    options |= {"seed": 1000 + seed, "learning_rate": learning_rate}
    start = copy.deepcopy(model)
    return cached(magnitude.gradual, start, split=split, **options)


sparse = [pruned(model, kept, final_epochs, i, 0.1) for i, model in enumerate(dense)]
longer = trained_on(dense, epochs=final_epochs, learning_rate=0.1)
final, rival = errors(sparse), errors(longer)
record("lenet300.error_pct", final)
record("lenet300.trained_on_error_pct", rival)
record("lenet300.final_epochs", final_epochs, "epochs", exact=True)
removed = [100 * (1 - magnitude.density(model)) for model in sparse]
record("lenet300.removed_pct", removed, digits=1, exact=True)
fewer = [measure.parameters(m) / measure.nonzero_parameters(m) for m in sparse]
record("lenet300.fewer_parameters_ratio", fewer, exact=True)
rise = np.mean(final) - np.mean(rival)
outcome = f"is {abs(rise):.2f} points {'above' if rise > 0 else 'below'}"
evidence.phrase("pruning.lenet300.outcome", outcome)

# %% [markdown]
# How far can this go?
# A second set of networks aims at a reduction of {mean}`pruning.lenet300.sparser_ratio 0`, in as many epochs.
# For each random start we then choose the *smallest good* network.
# It is the one with the fewest parameters whose validation error is close enough to that of the dense network trained
# on.
# Close enough means within {glue:text}`pruning.lenet300.tolerance_points`; if no sparse network comes that close, we
# choose the dense one.

# %%
smaller = [
    pruned(model, sparser, final_epochs, i, 0.1) for i, model in enumerate(dense)
]
best = []
for tried in zip(longer, sparse, smaller, strict=True):
    wrong = errors(tried, dataset.validation)
    best += [
        [m for m, e in zip(tried, wrong, strict=True) if e <= wrong[0] + tolerance][-1]
    ]
record("lenet300.tolerance_points", tolerance, digits=1, exact=True)
for name, networks in (("sparser", smaller), ("smallest", best)):
    fewer = [measure.parameters(m) / measure.nonzero_parameters(m) for m in networks]
    record(f"lenet300.{name}_ratio", fewer, exact=name == "sparser")
    record(f"lenet300.{name}_error_pct", errors(networks))
gone = [100 * (1 - magnitude.density(model)) for model in best]
record("lenet300.smallest_removed_pct", gone, digits=1)

# %% [markdown]
# We do the same on LeNet-5, a convolutional network for digits with 431,080 parameters {cite:p}`lecun1998gradient`:

# %% tags=["hide-input"]
part = dataset.train.first(min(lenet5_images, len(dataset.train)))
fit = {"split": part, "learning_rate": 0.05}
lenet5 = trained(
    training.fit, models.lenet5, range(lenet5_seeds), epochs=lenet5_epochs, **fit
)
sparse5 = [
    pruned(model, lenet5_kept, lenet5_final_epochs, i, 0.05, part)
    for i, model in enumerate(lenet5)
]
longer5 = trained_on(lenet5, epochs=lenet5_final_epochs, **fit)
record("lenet5.baseline_error_pct", errors(lenet5))
record("lenet5.error_pct", errors(sparse5))
record("lenet5.trained_on_error_pct", errors(longer5))
record("lenet5.final_epochs", lenet5_final_epochs, "epochs", exact=True)
record("lenet5.images", len(part), "images", exact=True)
gone = [100 * (1 - magnitude.density(model)) for model in sparse5]
record("lenet5.removed_pct", gone, digits=1, exact=True)
fewer = [measure.parameters(m) / measure.nonzero_parameters(m) for m in sparse5]
record("lenet5.fewer_parameters_ratio", fewer, exact=True)

# %% tags=["remove-input"]
rows = []
for network, model in (("LeNet-300-100", sparse[0]), ("LeNet-5", sparse5[0])):
    for row in measure.by_layer(model):
        share = f"{100 * row['kept'] / row['weights']:.1f}"
        numbers = {
            "weights": f"{row['weights']:,}",
            "kept": f"{row['kept']:,}",
            "kept (%)": share,
        }
        rows.append({"network": network, "layer": row["layer"], **numbers})
figures.table(rows, caption="Weights kept in each layer")

# %% [markdown]
# **What to see.** Both networks lose nearly all of their weights at little cost: {verdict}`C2.3-01`.
#
# - LeNet-300-100 ends with {mean}`pruning.lenet300.fewer_parameters_ratio 0`
#   {finding}`fewer parameters | pruning.lenet300.fewer_parameters_ratio > 10`, biases included. After
#   {glue:text}`pruning.lenet300.final_epochs` of pruning and retraining its error is
#   {glue:text}`pruning.lenet300.error_pct`. The dense network had {glue:text}`pruning.lenet300.baseline_error_pct`
#   before that time, and has {glue:text}`pruning.lenet300.trained_on_error_pct` if it is trained on as long.
# - LeNet-5, trained on {glue:text}`pruning.lenet5.images`, ends with {mean}`pruning.lenet5.fewer_parameters_ratio 0`
#   {finding}`fewer | pruning.lenet5.fewer_parameters_ratio > 10`. After {glue:text}`pruning.lenet5.final_epochs` its
#   error is {glue:text}`pruning.lenet5.error_pct`, and that of the dense network trained on is
#   {glue:text}`pruning.lenet5.trained_on_error_pct`.
# - The smallest good LeNet-300-100 has {glue:text}`pruning.lenet300.smallest_ratio`
#   {finding}`fewer parameters | pruning.lenet300.smallest_ratio > 10` than the dense one. Its error on the test split
#   is {glue:text}`pruning.lenet300.smallest_error_pct`.
#
# The small layers keep a larger share of their weights because we chose so.
# We follow {cite:t}`han2015learning`, who tuned a threshold for each layer and kept 8, 9 and 26 % of the three layers.
#
# The first layer shows what the network looks at.
# Each pixel feeds 300 neurons; the map on the right shows how many of those weights survived.

# %% tags=["remove-input"]
alive = sparse[0].fc1.weight.detach().count_nonzero(dim=0).reshape(28, 28)
ink = dataset.train.images.mean(dim=(0, 1))
figure, (left, right) = figures.axes(2)
for ax, image, label in ((left, ink, "mean ink"), (right, alive, "weights kept")):
    shown = ax.imshow(image, cmap="cividis")
    ax.grid(False)
    ax.set(xticks=[], yticks=[], xlabel=label)
    figure.colorbar(shown, ax=ax, shrink=0.8)
border = 100 * (alive[:, [0, -1]].sum() + alive[[0, -1]].sum()) / alive.sum()
figures.show(
    figure,
    name="fig-pixels",
    finding=f"The weights that survive look at the ink: the outermost ring keeps {border:.1f} % of them",
    caption="Left: where the training images have ink. Right: how many first-layer weights survive for each pixel.",
    alt=f"Two maps of 28 by 28 pixels. Survivors crowd where the digits have ink: the outermost ring, where there is "
    f"almost none, keeps {border:.1f} % of them.",
)

# %% [markdown]
# ## All variants on one baseline
#
# `lib.storage` writes the files: the surviving weights as floats, their positions, the biases, tables and a checksum.
# Latency is the time for one input on one thread, divided by that of the dense network in the same process.

# %%
one = dataset.test.images[:1]
variants = {
    "dense": dense[0],
    f"one step to {100 * densities[at]:.0f} %": magnitude.prune(
        copy.deepcopy(dense[0]), density=densities[at]
    ),
    "dense, trained on": longer[0],
    "gradual": magnitude.prune(copy.deepcopy(sparse[0]), density=1.0),
}
latency = measure.latency_ms(
    {name: lambda m=model: m(one) for name, model in variants.items()}, runs=101
)

# %% tags=["remove-input"]
rows = []
for name, model in variants.items():
    size = len(storage.dumps(model))
    rows.append(
        {
            "network": name,
            "test error (%)": f"{errors([model])[0]:.2f}",
            "kept (%)": f"{100 * magnitude.density(model):.1f}",
            "file (bytes)": f"{size:,}",
            "smaller (×)": f"{measure.dense_bytes(model) / size:.1f}",
            "multiply-adds": f"{measure.multiply_adds(model, one.shape[1:]):,}",
            "latency (ratio)": f"{latency[name].median / latency['dense'].median:.2f}",
        }
    )
figures.table(rows, caption="LeNet-300-100, first seed: dense and pruned")

# %% tags=["remove-cell"]
stored = [
    storage.dumps(magnitude.prune(copy.deepcopy(model), density=1.0))
    for model in sparse
]
record(
    "lenet300.file_ratio",
    [measure.dense_bytes(dense[0]) / len(file) for file in stored],
)
masked = variants["gradual"]
work = measure.multiply_adds(masked, one.shape[1:]) / measure.multiply_adds(
    dense[0], one.shape[1:]
)
record("masked.multiply_adds_ratio", work, digits=2, exact=True)
slower = latency["gradual"].median / latency["dense"].median
record("masked.latency_ratio", slower, digits=2)
share = 100 * final_epochs / (epochs + final_epochs)
record("lenet300.retraining_share_pct", share, digits=0, exact=True)

# %% [markdown]
# **What to see.** The file of the sparse network shrinks by {glue:text}`pruning.lenet300.file_ratio`,
# {finding}`less than the number of parameters does | pruning.lenet300.file_ratio < pruning.lenet300.fewer_parameters_ratio`.
# The reason is that each surviving weight takes a float and a note of its position.
# Pruning and retraining took {glue:text}`pruning.lenet300.retraining_share_pct` of all epochs; that share is our
# choice.
#
# ## Where it breaks
#
# **A mask saves no time.** The masked network does {glue:text}`pruning.masked.multiply_adds_ratio` the multiply-adds of
# the dense one and takes {glue:text}`pruning.masked.latency_ratio` its time.
# Zeros are multiplied like any other number, and applying the mask comes on top.
# Speed needs sparse kernels or a physically smaller network: {ref}`sec-pruning-speed` measures both.
#
# **One step too far.** With {glue:text}`pruning.lenet300.extreme_density_pct` of the weights and no retraining, the
# error is {glue:text}`pruning.lenet300.unretrained_extreme_error_pct`.
# For comparison, guessing among ten classes would be wrong nine times out of ten.
#
# **Which layer pays.** We cut the sparse networks once more, without retraining, in two ways: the same share of every
# layer, or the same quality parameter for all layers.

# %%
share = densities[-1]
cuts = {}
for scope in ("layer", "global"):
    cut = [
        magnitude.prune(copy.deepcopy(model), density=share, scope=scope)
        for model in sparse
    ]
    cuts[scope] = errors(cut)
    record(f"scope.{scope}_error_pct", cuts[scope], digits=1)
better = "lower" if sum(cuts["layer"]) < sum(cuts["global"]) else "no lower"
evidence.phrase("pruning.scope.better", better)

# %% [markdown]
# It matters which weights you remove, and not only how many.
# With {glue:text}`pruning.lenet300.extreme_density_pct` of the weights left, the error is
# {glue:text}`pruning.scope.better` with equal shares than with one quality parameter.
# Equal shares lead to {glue:text}`pruning.scope.layer_error_pct`.
# One quality parameter leads to {glue:text}`pruning.scope.global_error_pct`.
#
# ## Exercises
#
# 1. A neuron that has lost all its incoming weights is a constant. How many such neurons does the sparse network have?

# %% tags=["hide-cell"]
silent = [
    int((layer.weight.count_nonzero(dim=1) == 0).sum())
    for _, layer in layers(sparse[0])
]
evidence.answer(
    f"{sum(silent)} neurons have no input any more; layer by layer these are {silent}."
)

# %% [markdown]
# 2. Some hidden neurons reach no neuron of the next layer. How many weights lead into them, which could be removed as
#    well?

# %% tags=["hide-cell"]
nets = [layer.weight for _, layer in layers(sparse[0])]
unheard = [after.count_nonzero(dim=0) == 0 for after in nets[1:]]
wasted = [
    int(before[mute].count_nonzero())
    for before, mute in zip(nets, unheard, strict=False)
]
evidence.answer(
    f"{sum(wasted)} weights lead into neurons that nothing reads, {wasted} in the first two layers."
)

# %% [markdown]
# 3. Prune torchvision's SqueezeNet to a tenth of its weights. Does it give the same outputs after it was stored and
#    loaded?

# %% tags=["hide-cell"]
from lib.vision import torchvision

squeezenet = torchvision.models.squeezenet1_1(num_classes=10).eval()
magnitude.prune(squeezenet, density=0.1, scope="global")
image = torch.rand(1, 3, 64, 64)
before = squeezenet(image)
with tempfile.NamedTemporaryFile() as file:
    storage.save(squeezenet, file.name)
    again = storage.load(
        file.name, torchvision.models.squeezenet1_1(num_classes=10)
    ).eval()
assert torch.equal(again(image), before)
evidence.answer(
    f"It does, bit for bit, with {100 * magnitude.density(again):.0f} % of its weights left."
)

# %% [markdown]
# ## In short
#
# - A trained network can lose most of its weights and keep its accuracy, if it is retrained after the removal.
# - Remove small weights first, in several steps, and let each layer keep its own share.
# - A sparse file is smaller; a masked network is not faster.
#
# ## Sources of this chapter
#
# - {cite:t}`han2015learning` introduced the method; {cite:t}`berthelier2020survey` is the survey.
# - The loop of the survey's Figure 3 comes from {cite:t}`molchanov2017pruning`.
# - Both networks come from {cite:t}`lecun1998gradient`.
