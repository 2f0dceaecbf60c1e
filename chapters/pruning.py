# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning)=
# # Pruning
#
# Train a network, remove its small weights, and train what is left.
# Of LeNet-300-100 this takes away {glue:text}`pruning.lenet300.removed_pct` of the weights: the test error is {glue:text}`pruning.lenet300.baseline_error_pct` before and {glue:text}`pruning.lenet300.error_pct` after.
# A cut to {glue:text}`pruning.lenet300.compared_density_pct` of the weights without retraining leaves an error of {glue:text}`pruning.lenet300.unretrained_error_pct`.
# The survey writes that pruning eliminates 10 to 30 percent of the weights {cite:p}`berthelier2020survey`; what is measured here: {verdict}`C2.3-38`.
# A masked network is smaller on disk, not faster: it does as many multiply-adds as before.
#
# This chapter holds the loop on which most of section 2.3 of the survey is built.
# Its sub-chapters go on with second derivatives and lottery tickets, with whole filters, with speed, and with factorization.
#
# ## What the survey says, and what came out
#
# ```{claims} pruning
# ```
#
# ## What this page needs
#
# ```{cost} pruning
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks trained from different starts
epochs = 25  # to train each LeNet-300-100
retrain_epochs = 6  # to retrain it, in one go or over all rounds together
rounds = 3  # of prune and retrain, in the iterative variant
densities = [0.3, 0.08, 0.03]  # shares of weights kept in the comparison
kept = {
    "fc1": 0.06,
    "fc2": 0.1,
    "fc3": 0.3,
}  # shares of weights kept in the networks that are passed on
final_epochs = 40  # to prune and retrain those, the first half of them pruning
lenet5_epochs = 8  # to train LeNet-5
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
from lib.cache import cached
from lib.pruning import magnitude
from lib.weights import layers

dataset = datasets.load(data)
evidence.uses(dataset)


def record(key, values, unit="x", digits=1, exact=False):
    return evidence.record(f"pruning.{key}", values, unit=unit, digits=digits, exact=exact)


def error(model, split=dataset.test):
    return training.error_pct(model, split)


# %% [markdown]
# (sec-magnitude)=
# ## Train, prune, retrain
#
# **The idea.** A trained network does not need all of its weights.
# Those of small magnitude change its answers least, so they go first, and the others learn to do their work.
# The survey credits this three-step method to "Signorini et al."; it is that of {cite:t}`han2015learning`.
#
# **The formula.** A weight $w_{ij}$ is kept where its magnitude reaches a threshold,
#
# $$ m_{ij} = \mathbb 1\big(\lvert w_{ij} \rvert \ge s\,\sigma\big), \qquad \hat w_{ij} = m_{ij}\, w_{ij}, $$ (eq-magnitude)
#
# where $\sigma$ is the standard deviation of the weights of the layer, and $s$ is the *quality parameter*: the larger, the sparser.
# One $s$ for all layers thus prunes each layer at its own scale.
# Instead of $s$ one may ask for a *density*, the share of weights that stay.
#
# **The code.** The mask is chosen here:

# %% tags=["remove-input"]
figures.show_source(magnitude.threshold, magnitude.masks)

# %% [markdown]
# and the layer computes with the masked weight, so that training changes the survivors alone:

# %% tags=["remove-input"]
figures.show_source(magnitude.PrunedWeight)

# %% [markdown]
# **An exact check.** Of normally distributed weights the threshold $s\sigma$ removes the share $\operatorname{erf}(s / \sqrt 2)$.
# A layer of a million such weights should agree to the third digit.

# %%
layer = torch.nn.Linear(1000, 1000)
torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
rows = []
for s in (0.5, 1.0, 1.5, 2.0):
    removed = 1 - magnitude.masks(layer, quality=s)[""].float().mean().item()
    assert abs(removed - erf(s / sqrt(2))) < 2e-3
    rows.append(
        {
            "quality s": f"{s:.1f}",
            "removed here": f"{removed:.3%}",
            "erf(s / √2)": f"{erf(s / sqrt(2)):.3%}",
        }
    )
figures.table(rows, caption="Share of normally distributed weights below the threshold")

# %% [markdown]
# **A baseline.** LeNet-300-100 has two hidden layers and 266,610 parameters {cite:p}`lecun1998gradient`.
# Every network of this chapter starts from one of these, trained from a different random start each.

# %%
rate = {models.lenet_300_100: 0.1, models.lenet5: 0.05}  # learning rates


def trained(build, seed, epochs):
    options = {"epochs": epochs, "seed": seed, "learning_rate": rate[build]}
    return cached(training.fit, build(seed), split=dataset.train, **options)


dense = [trained(models.lenet_300_100, seed, epochs) for seed in range(seeds)]
baseline = [error(model) for model in dense]
record("lenet300.baseline_error_pct", baseline, "%", 2)

# %% [markdown]
# (sec-loop)=
# ### The loop of the survey's Figure 3
#
# The survey draws pruning as a loop: train, evaluate, remove, fine-tune, and again.
# Here it runs, a few weights at a time, and we look at the error on the validation split before and after each retraining.

# %%
model = copy.deepcopy(dense[0])
steps, smallest = 2 * rounds, densities[-1]
history = [(1.0, error(model, dataset.validation))]
for step in range(1, steps + 1):
    magnitude.prune(model, density=smallest ** (step / steps), scope="global")
    history.append((magnitude.density(model), error(model, dataset.validation)))
    training.fit(model, dataset.train, epochs=retrain_epochs // rounds, seed=step)
    history.append((magnitude.density(model), error(model, dataset.validation)))

# %% tags=["remove-input"]
figure, ax = figures.axes()
shares, errors = zip(*[(100 * share, wrong) for share, wrong in history], strict=True)
ax.plot(shares, errors, color="#b0b0b0", linewidth=1)
ax.plot(shares[1::2], errors[1::2], **figures.PRUNING | {"linestyle": "none"}, label="just pruned")
ax.plot(
    shares[0::2],
    errors[0::2],
    **figures.RETRAINED | {"linestyle": "none"},
    label="trained or retrained",
)
ax.set(xlabel="weights kept (%)", ylabel="validation error (%)")
figures.logarithmic(ax, "x")
ax.invert_xaxis()
figures.legend(ax)
jump = max(before - after for before, after in zip(errors[1::2], errors[2::2], strict=True))
figures.show(
    figure,
    name="fig-loop",
    caption="The loop of prune and retrain on one LeNet-300-100: validation error just after each removal, and after the retraining that follows it.",
    alt=f"Saw-tooth line of validation error against weights kept. Pruning from 100 % to {shares[-1]:.1f} % in {steps} steps, "
    f"each retraining takes back up to {jump:.1f} points; the error begins at {errors[0]:.1f} % and ends at {errors[-1]:.1f} %.",
)

# %% [markdown]
# **What to see.** Compare the two points at each density: the distance between them is what one removal cost and what the retraining gave back.
#
# ### One step or many, with and without retraining
#
# Three variants end at the same density: prune in one step and stop; prune in one step and retrain; prune in several rounds.
# The second and the third spend the same number of epochs on retraining.


# %%
def compare(model, density, seed):
    once = magnitude.prune(copy.deepcopy(model), density=density)
    errors = [error(once)]
    for parts in (1, rounds):
        options = {
            "density": density,
            "rounds": parts,
            "epochs": retrain_epochs // parts,
            "seed": 100 * (seed + 1),
        }
        one = cached(magnitude.iterative, copy.deepcopy(model), split=dataset.train, **options)
        errors.append(error(one))
    return errors


errors = np.array(
    [[compare(model, d, seed) for seed, model in enumerate(dense)] for d in densities]
)
unretrained, retrained, iterative = np.moveaxis(errors, 2, 0)  # each: densities x seeds

# %% tags=["remove-input"]
figure, ax = figures.axes()
shares = [100 * d for d in densities]
figures.line(
    ax,
    [100.0, *shares],
    [baseline, *unretrained.tolist()],
    figures.PRUNING,
    "one step, no retraining",
)
figures.line(ax, shares, retrained.tolist(), figures.RETRAINED, "one step, retrained")
figures.line(ax, shares, iterative.tolist(), figures.COMBINED, f"{rounds} rounds, retrained")
ax.axhline(sum(baseline) / seeds, **figures.DENSE | {"marker": ""}, label="dense network")
ax.set(xlabel="weights kept (%)", ylabel="test error (%)")
figures.logarithmic(ax, "x", "y")
ax.invert_xaxis()
figures.legend(ax)
low = [float(e[-1].mean()) for e in (unretrained, retrained, iterative)]
figures.show(
    figure,
    name="fig-retraining",
    caption="Test error against the share of weights kept in every layer, means over seeds with 95 % intervals.",
    alt=f"Three curves of test error against weights kept. At {shares[-1]:.0f} % kept the error is {low[0]:.1f} % without "
    f"retraining, {low[1]:.1f} % with retraining after one step, {low[2]:.1f} % after {rounds} rounds.",
)

# %% tags=["remove-cell"]
at = min(range(len(densities)), key=lambda i: abs(densities[i] - 0.08))
for name, value in (
    ("unretrained", unretrained),
    ("retrained", retrained),
    ("iterative", iterative),
):
    record(f"lenet300.{name}_error_pct", value[at], "%", 2)
    record(f"lenet300.{name}_extreme_error_pct", value[-1], "%", 2)
record("lenet300.compared_density_pct", 100 * densities[at], "%", 0)
record("lenet300.extreme_density_pct", 100 * densities[-1], "%", 0)

# %% [markdown]
# **What to see.** With {glue:text}`pruning.lenet300.compared_density_pct` of the weights kept, the error is {glue:text}`pruning.lenet300.unretrained_error_pct` without retraining and {glue:text}`pruning.lenet300.retrained_error_pct` with it, where the dense network has {glue:text}`pruning.lenet300.baseline_error_pct`.
# At {glue:text}`pruning.lenet300.extreme_density_pct` it is {glue:text}`pruning.lenet300.retrained_extreme_error_pct` after one step and {glue:text}`pruning.lenet300.iterative_extreme_error_pct` after several.
# The survey's sentence on retraining: {verdict}`C2.3-11`.
#
# ### As far as it goes without loss
#
# Taken to its end, the loop prunes a little before every epoch of one long run while the learning rate falls, and then only retrains.
# Each layer has its own share to keep: the small layers, of which each weight does more, keep more.

# %% tags=["remove-input"]
figures.show_source(magnitude.gradual)


# %%
def pruned(build, model, density, epochs, seed):
    options = {
        "density": density,
        "ramp": epochs // 2,
        "epochs": epochs,
        "seed": 1000 + seed,
        "learning_rate": rate[build],
    }
    return cached(magnitude.gradual, copy.deepcopy(model), split=dataset.train, **options)


sparse = [
    pruned(models.lenet_300_100, model, kept, final_epochs, seed)
    for seed, model in enumerate(dense)
]
record("lenet300.error_pct", [error(model) for model in sparse], "%", 2)
removed = [100 * (1 - magnitude.density(model)) for model in sparse]
record("lenet300.removed_pct", removed, "%", 1)
fewer = [measure.parameters(model) / measure.nonzero_parameters(model) for model in sparse]
record("lenet300.fewer_parameters_ratio", fewer, exact=True)

# %% [markdown]
# The same on LeNet-5, the small convolutional network with 431,080 parameters {cite:p}`lecun1998gradient`:

# %%
lenet5 = trained(models.lenet5, 0, lenet5_epochs)
sparse5 = pruned(models.lenet5, lenet5, lenet5_kept, lenet5_final_epochs, 0)
record("lenet5.baseline_error_pct", error(lenet5), "%", 2)
record("lenet5.error_pct", error(sparse5), "%", 2)
record("lenet5.removed_pct", 100 * (1 - magnitude.density(sparse5)), "%", 1)
fewer5 = measure.parameters(sparse5) / measure.nonzero_parameters(sparse5)
record("lenet5.fewer_parameters_ratio", fewer5, exact=True)

# %% tags=["remove-input"]
rows = []
for network, model in (("LeNet-300-100", sparse[0]), ("LeNet-5", sparse5)):
    for row in measure.by_layer(model):
        share = f"{100 * row['kept'] / row['weights']:.1f}"
        numbers = {"weights": f"{row['weights']:,}", "kept": f"{row['kept']:,}", "kept (%)": share}
        rows.append({"network": network, "layer": row["layer"], **numbers})
figures.table(rows, caption="Where the survivors are")

# %% [markdown]
# **What to see.** The number of parameters falls by {glue:text}`pruning.lenet300.fewer_parameters_ratio` for LeNet-300-100 and by {glue:text}`pruning.lenet5.fewer_parameters_ratio` for LeNet-5, counted with the biases.
# The shares follow {cite:t}`han2015learning`, who tuned a threshold for each layer and kept 8, 9 and 26 % of the three layers of LeNet-300-100.
#
# The first layer shows what the network looks at.
# Each picture element has as many weights as there are neurons; here is how many of them are left.

# %% tags=["remove-input"]
alive = sparse[0].fc1.weight.detach().count_nonzero(dim=0).reshape(28, 28)
ink = dataset.train.images.mean(dim=(0, 1))
figure, (left, right) = figures.axes(2)
for ax, image, label in (
    (left, ink, "mean ink"),
    (right, alive, "weights kept"),
):
    shown = ax.imshow(image, cmap="cividis")
    ax.grid(False)
    ax.set(xticks=[], yticks=[], xlabel=label)
    figure.colorbar(shown, ax=ax, shrink=0.8)
border = 100 * (alive[:, [0, -1]].sum() + alive[[0, -1]].sum()) / alive.sum()
figures.show(
    figure,
    name="fig-pixels",
    caption="Left: where the training images have ink. Right: how many first-layer weights survive for each picture element.",
    alt=f"Two maps of 28 by 28 picture elements. Survivors crowd where the digits have ink: the outermost ring, where there is "
    f"almost none, keeps {border:.1f} % of them.",
)

# %% [markdown]
# ## All variants on one baseline
#
# The files are those that `lib.storage` writes: floats of the survivors, their places, biases, tables, checksum.
# Latency is that of one input on one thread, as a ratio to the dense network in the same process.

# %%
one = dataset.test.images[:1]
variants = {
    "dense": dense[0],
    f"one step to {densities[at]:.0%}": magnitude.prune(
        copy.deepcopy(dense[0]), density=densities[at]
    ),
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
            "test error (%)": f"{error(model):.2f}",
            "kept (%)": f"{100 * magnitude.density(model):.1f}",
            "file (bytes)": f"{size:,}",
            "smaller (×)": f"{measure.dense_bytes(model) / size:.1f}",
            "multiply-adds": f"{measure.multiply_adds(model, one.shape[1:]):,}",
            "latency (ratio)": f"{latency[name].median / latency['dense'].median:.2f}",
        }
    )
figures.table(rows, caption="LeNet-300-100, first seed: dense and pruned")

# %% tags=["remove-cell"]
stored = [storage.dumps(magnitude.prune(copy.deepcopy(model), density=1.0)) for model in sparse]
record("lenet300.file_ratio", [measure.dense_bytes(dense[0]) / len(file) for file in stored])
masked = variants["gradual"]
work = measure.multiply_adds(masked, one.shape[1:]) / measure.multiply_adds(dense[0], one.shape[1:])
record("masked.multiply_adds_ratio", work, "x", 2, exact=True)
slower = latency["gradual"].median / latency["dense"].median
record("masked.latency_ratio", slower, "x", 2)
share = 100 * final_epochs / (epochs + final_epochs)
record("lenet300.retraining_share_pct", share, "%", 0)

# %% [markdown]
# **What to see.** Removing {glue:text}`pruning.lenet300.removed_pct` of the weights makes the file {glue:text}`pruning.lenet300.file_ratio` smaller, not as much as the count of weights says: each survivor still takes a float, and a note of its place.
# Most of the epochs, {glue:text}`pruning.lenet300.retraining_share_pct`, went into pruning and retraining.
#
# ## Where it breaks
#
# **A mask saves no time.** The masked network does {glue:text}`pruning.masked.multiply_adds_ratio` the multiply-adds of the dense one, and one input took {glue:text}`pruning.masked.latency_ratio` the time: the zeros are multiplied like any number, and the mask is applied on top.
# Speed needs sparse kernels or a physically smaller network: {ref}`sec-pruning-speed` measures both.
#
# **One step too far.** With {glue:text}`pruning.lenet300.extreme_density_pct` of the weights and no retraining the error is {glue:text}`pruning.lenet300.unretrained_extreme_error_pct`; ten classes guessed at random would give nine wrong of ten.
#
# **Which layer pays.** The sparse networks are cut once more, without retraining, in two ways: the same share of every layer, or the same quality parameter for all.

# %%
share = densities[-1]
for scope in ("layer", "global"):
    cut = [magnitude.prune(copy.deepcopy(model), density=share, scope=scope) for model in sparse]
    errors = [error(model) for model in cut]
    record(f"scope.{scope}_error_pct", errors, "%", 1)

# %% [markdown]
# With {glue:text}`pruning.lenet300.extreme_density_pct` of the weights left the error is {glue:text}`pruning.scope.layer_error_pct` with equal shares and {glue:text}`pruning.scope.global_error_pct` with one quality parameter.
# The same number of weights, two networks: what is removed counts, not only how much.
#
# ## Exercises
#
# 1. A neuron all of whose incoming weights are pruned is a constant. How many such neurons does the sparse network have?

# %% tags=["hide-cell"]
silent = [int((layer.weight.count_nonzero(dim=1) == 0).sum()) for _, layer in layers(sparse[0])]
print("neurons without input, layer by layer:", silent)

# %% [markdown]
# 2. And how many hidden neurons reach no neuron of the next layer, so that their incoming weights could go as well?

# %% tags=["hide-cell"]
nets = [layer.weight for _, layer in layers(sparse[0])]
unheard = [after.count_nonzero(dim=0) == 0 for after in nets[1:]]
wasted = [int(before[mute].count_nonzero()) for before, mute in zip(nets, unheard, strict=False)]
print("weights into neurons that nobody hears:", wasted)

# %% [markdown]
# 3. Prune a network that nobody here wrote: torchvision's SqueezeNet. Does it compute the same after a round trip through a file?

# %% tags=["hide-cell"]
from lib.vision import torchvision

squeezenet = torchvision.models.squeezenet1_1(num_classes=10).eval()
magnitude.prune(squeezenet, density=0.1, scope="global")
image = torch.rand(1, 3, 64, 64)
before = squeezenet(image)
with tempfile.NamedTemporaryFile() as file:
    storage.save(squeezenet, file.name)
    again = storage.load(file.name, torchvision.models.squeezenet1_1(num_classes=10)).eval()
assert torch.equal(again(image), before)

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`han2015learning` is the method; {cite:t}`berthelier2020survey` is the survey.
# - {cite:t}`molchanov2017pruning` is where the loop of the survey's Figure 3 comes from.
# - {cite:t}`lecun1998gradient` is where the two networks come from.
