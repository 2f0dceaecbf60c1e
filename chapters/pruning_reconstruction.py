# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-reconstruction)=
# # Pruning by what the next layer needs
#
# A filter matters only through what later layers make of it.
# The three methods of this chapter therefore look ahead: two at the layer that reads a channel, one at the last responses of the network.
# With {glue:text}`pruning_reconstruction.setting.removed_pct` of the filters of every layer gone and nothing repaired, LeNet-5 errs on {glue:text}`pruning_reconstruction.lasso.error_pct` (LASSO), {glue:text}`pruning_reconstruction.thinet.error_pct` (ThiNet) and {glue:text}`pruning_reconstruction.nisp.error_pct` (NISP) of the test images, and on {glue:text}`pruning_reconstruction.random.error_pct` if chance chooses; the dense network errs on {glue:text}`pruning_reconstruction.lenet5.baseline_error_pct`.
# Then the next layers are fitted to their old answers, by least squares and without a label: {glue:text}`pruning_reconstruction.thinet.refit_error_pct` with ThiNet's choice, {glue:text}`pruning_reconstruction.random.refit_error_pct` with a choice of chance.
# Compare the two pairs: what the choice gains, and what the repair does for a bad choice.
#
# ## What the survey says, and what came out
#
# ```{claims} pruning_reconstruction
# ```
#
# ## What this page needs
#
# ```{cost} pruning_reconstruction
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
training_images = 10_000  # of the training split, at most
test_images = 5_000  # of the test split, at most
seeds = 3  # networks trained from different starts
epochs = 2  # to train each LeNet-5
learning_rate = 0.05  # of that training
batch_size = 32  # images a step, of that training
fractions = [0.5, 0.75, 0.9]  # shares of the filters removed from every layer
fraction = 0.75  # the one at which repairs are compared
draws = 2  # random choices for each network, whose mean is the floor
images = 100  # training images from which scores and new weights are computed
tuning_epochs = 1  # of fine-tuning, for comparison
few = [10]  # images in its stead, where the fit breaks

# %% tags=["hide-input"]
import copy

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, structure, training
from lib.cache import cached
from lib.datasets import Split
from lib.pruning import channel_lasso, filter_l1, nisp, thinet
from lib.pruning.shared import reconstruction

dataset = datasets.load(data)
evidence.uses(dataset)
train = dataset.train.first(training_images)
example = train.images[:1]


def record(key, values, unit="x", digits=1, exact=False):
    return evidence.record(
        f"pruning_reconstruction.{key}", values, unit=unit, digits=digits, exact=exact
    )


def error(model, mask=None):
    small = model if mask is None else structure.shrink(model, mask, example)
    return training.error_pct(small, dataset.test.first(test_images))


# %% [markdown]
# (sec-next-layer)=
# ## What the next layer reads
#
# **The idea.** A layer adds up what its input channels contribute.
# Take a channel away and its contribution is missing from the sum, no more and no less.
# So the damage can be computed where it is done, without running the rest of the network.
#
# **The formula.** Output $o$ of the next layer is $y_o = \sum_c \hat x_{o,c} + b_o$ with the contribution $\hat x_{o,c} = \sum_k W_{o,c,k}\, x_{c,k}$ of channel $c$; $k$ runs over the positions of the kernel.
# Multiply each contribution by $\beta_c$, zero for a channel that is gone.
# Summed over images, places and outputs the squared error is
#
# $$ E(\beta) = \sum_i \Big( \sum_c (1-\beta_c)\, \hat x_{i,c} \Big)^2 = (1-\beta)^\top G\, (1-\beta), \qquad G_{cd} = \sum_i \hat x_{i,c}\, \hat x_{i,d}. $$ (eq-gram)
#
# One small matrix $G$ for each layer holds all that the first two methods need; it is divided by the energy of the answer, $\sum_i (y_i - b)^2$, so that $E$ is a relative error.
#
# **The code.** The contributions, and what a layer answers with them:

# %% tags=["remove-input"]
figures.show_source(reconstruction.contributions)


# %%
def trained(seed):
    options = {"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    return cached(training.fit, models.lenet5(seed), split=train, epochs=epochs, **options)


dense = [trained(seed) for seed in range(seeds)]
groups = structure.groups(dense[0], example)
baselines = [error(model) for model in dense]
record("lenet5.baseline_error_pct", baselines, "%", 2)

# %% [markdown]
# **An exact check.** Seven channels of the first layer are removed from the network itself, and the second layer is asked at every place of twenty images.
# Its error is the one that $G$ tells.

# %%
model, split = (
    copy.deepcopy(dense[0]).double(),
    Split(train.images[:20].double(), train.labels[:20]),
)
gram = reconstruction.grams(model, split, places=10**6)["conv1"]
mask = torch.arange(20) >= 7
masked = structure.mask(model, {"conv1": mask}, split.images[:1])
with torch.no_grad():
    first, second = (net.conv2(net.pool1(net.conv1(split.images))) for net in (model, masked))
    answer = first - model.conv2.bias[:, None, None]
predicted = (1 - mask.double()) @ gram @ (1 - mask.double())
assert torch.isclose(predicted, ((first - second) ** 2).sum() / (answer**2).sum())

# %% [markdown]
# (sec-thinet)=
# ## ThiNet: remove what is missed least
#
# **The idea.** {cite:t}`luo2017thinet` choose the set $T$ of channels whose contributions sum to the least, so that channels which cancel each other can go together.
# All sets are too many, so the search is greedy: one channel after the other, each time the one that leaves the smallest error.
#
# **The formula.** $\min_T \sum_{c,d \in T} G_{cd}$; adding $j$ to $T$ costs $G_{jj} + 2\sum_{c \in T} G_{jc}$.
# The channels that stay then get one factor each, $\min_w \sum_i \big(y_i - \sum_{c \notin T} w_c\, \hat x_{i,c}\big)^2$, multiplied into the next layer's kernels.
# The paper draws one output at each place; with $G$ we can afford many.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(thinet.removal_order, thinet.factors)

# %% [markdown]
# **An exact check.** Of six channels, the second and the fifth contribute opposite amounts.
# Once one is gone, the other is next, and the error of the two together is zero.

# %%
rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
rows[:, 4] = -rows[:, 1]
gram = rows.T @ rows
order = thinet.removal_order(gram).tolist()
assert abs(order.index(1) - order.index(4)) == 1
assert abs(thinet.objective(gram, torch.tensor([1, 4]))) < 1e-9

# %% [markdown]
# (sec-channel-lasso)=
# ## LASSO: let a penalty choose
#
# **The idea.** {cite:t}`he2017channel` choose all channels at once.
# A penalty on $\lvert\beta_c\rvert$ drives the coefficients of dispensable channels to exactly zero, while the others adapt; it is raised until few enough are left.
#
# **The formula.** With $Z_c$ the contribution of channel $c$ and $Y = \sum_c Z_c$,
#
# $$ \min_\beta \tfrac{1}{2N} \Big\lVert Y - \sum_c \beta_c Z_c \Big\rVert^2 + \lambda \lVert\beta\rVert_1, \qquad \text{then} \qquad W' = \arg\min_W \lVert Y - X' W^\top \rVert^2, $$ (eq-channel-lasso)
#
# where $X'$ are the patches of the channels that stay.
# The second step fits *all weights* of the next layer anew, not one factor for each channel.
# It goes through the network from first to last layer and always aims at the answers of the original network, so that it corrects what earlier layers got wrong.
#
# **The code.** The whole path in $\lambda$ comes from $G$ at once, by least angle regression:

# %% tags=["remove-input"]
figures.show_source(channel_lasso.path, channel_lasso.least_squares)

# %% [markdown]
# **An exact check.** If no two channels overlap, $G$ is diagonal and the solution is known: $\beta_c = \max(0,\, 1 - \lambda / G_{cc})$.

# %%
size = np.array([1.0, 4.0, 9.0])
penalties, path = channel_lasso.path(torch.from_numpy(np.diag(size)))
beta = [np.interp(2.0, penalties[::-1], row[::-1]) for row in path]
assert np.allclose(beta, np.maximum(0, 1 - 2.0 / size))

# %% [markdown]
# ### One matrix, three choices
#
# How much of its answer does the next layer lose, as channels disappear?
# The two methods above choose, and beside them chance and the smallest $\ell_1$ norm of the filter, which looks at the current layer only.
# All are judged by matrices $G$ of validation images, which none of them has seen.

# %%
looking = {"l1": filter_l1.scores, "thinet": thinet.scores, "lasso": channel_lasso.scores}
scores = [{name: make(model, train) for name, make in looking.items()} for model in dense]
for seed, criteria in enumerate(scores):
    criteria["nisp"] = nisp.scores(dense[seed], train, images=images)
    generator = torch.Generator().manual_seed(seed)
    for draw in range(draws):
        values = {n: torch.rand(len(s), generator=generator) for n, s in criteria["l1"].items()}
        criteria[f"random {draw}"] = values
judges = [reconstruction.grams(model, dataset.validation) for model in dense]


def lost(name, seed, layer, n):  # with n channels gone, in percent of the next layer's energy
    order = scores[seed][name][layer].argsort()
    return 100 * thinet.objective(judges[seed][layer], order[:n])


def mean(of, name, *where):
    names = [f"random {draw}" for draw in range(draws)] if name == "random" else [name]
    return np.mean([of(choice, *where) for choice in names], axis=0)


# %% tags=["remove-input"]
LOOKS = {
    "random": ("random", figures.DENSE),
    "l1": ("ℓ1 norm of the filter", figures.QUANTIZATION),
    "nisp": ("NISP", figures.COMBINED),
    "thinet": ("ThiNet", figures.PRUNING),
    "lasso": ("LASSO", figures.RETRAINED),
}
figure, ax = figures.axes()
shown, half = list(range(2, 20, 2)), {}
for shift, name in enumerate(("random", "l1", "thinet", "lasso")):
    text, look = LOOKS[name]
    curve = [[mean(lost, name, seed, "conv1", n) for seed in range(seeds)] for n in shown]
    figures.line(ax, [n + 0.2 * (shift - 1.5) for n in shown], curve, look, text)
    half[name] = float(np.mean(curve[shown.index(10)]))
ax.set(xlabel="channels of the first layer removed (of 20)", ylabel="error of the second layer (%)")
ax.set(xticks=shown, ylim=(0, None))
figures.legend(ax)
figures.show(
    figure,
    name="fig-next-layer-error",
    caption="Squared error of the second layer's answers, in percent of their energy, as channels of the first layer go and nothing is repaired. Validation images, means over seeds with 95 % intervals.",
    alt=f"Four rising curves. With 10 of 20 channels gone the second layer errs by {half['random']:.0f} % of its energy after random "
    f"removal, {half['l1']:.0f} % by l1 norm, {half['thinet']:.1f} % by ThiNet and {half['lasso']:.1f} % by LASSO.",
)


# %% tags=["remove-cell"]
def lost_by_half(name, seed):
    halves = {layer: g.channels // 2 for g in groups for layer in g.producers}
    return np.mean([lost(name, seed, layer, n) for layer, n in halves.items()])


for name in LOOKS:
    values = [mean(lost_by_half, name, seed) for seed in range(seeds)]
    record(f"{name}.response_error_pct", values, "%", 1)

# %% [markdown]
# **What to see.** With half of the channels of a layer gone, the layer behind misses, in the mean over the three layers, {glue:text}`pruning_reconstruction.thinet.response_error_pct` of its energy with ThiNet's choice, {glue:text}`pruning_reconstruction.lasso.response_error_pct` with the LASSO's, {glue:text}`pruning_reconstruction.l1.response_error_pct` with the smallest norms and {glue:text}`pruning_reconstruction.random.response_error_pct` with random ones.
# The LASSO is measured here without the coefficients with which it would repair.
#
# (sec-nisp)=
# ## NISP: ask the end of the network
#
# **The idea.** {cite:t}`yu2018nisp` do not stop at the next layer: they rank the features which the classifier reads, and send that importance back through the network: a neuron matters as much as what it feeds.
# The ranking is {cite:t}`roffo2015infinite`'s: features are nodes of a graph whose edges are heavy between features that vary much and resemble each other little, and a feature's rank is the weight of all paths that start at it.
#
# **The formula.** $s_k = \lvert W^{(k+1)}\rvert^\top s_{k+1}$ from layer to layer; a convolution uses its transposed form, pooling gives a score to its whole window, and the score of a filter is the sum over its map.
# That is the gradient of a linear network with the weights' magnitudes, so autograd does it, through additions and concatenations too.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(nisp.ranking, nisp.propagate)

# %% [markdown]
# **An exact check.** Pruning neurons of a ReLU layer changes the final responses, weighted by their importance, by no more than the sum of the pruned neurons' scores times their activations; the recursion minimizes this bound.

# %%
net = models.lenet_300_100().double()
importance = torch.rand(100, generator=torch.Generator().manual_seed(0)).double()
score = nisp.propagate(net, importance, example)["fc1"]
hidden, gone = torch.rand(1000, 300).double(), torch.arange(300) < 150
with torch.no_grad():
    first, second = (torch.relu(net.fc2(h)) for h in (hidden, hidden * ~gone))
change = (first - second).abs() @ importance
assert (change <= hidden[:, gone] @ score[gone]).all()

# %% [markdown]
# ## All criteria, one network
#
# Every layer of LeNet-5 but the last loses the same share of its filters.
# Nothing is retrained or repaired yet, and no criterion sees a label.


# %%
def choice(name, share, seed):
    return structure.keep(scores[seed][name], fraction=share, groups=groups)


def pruned_error(name, share, seed):
    return error(dense[seed], choice(name, share, seed))


unrepaired = {
    name: [[mean(pruned_error, name, f, seed) for seed in range(seeds)] for f in fractions]
    for name in LOOKS
}

# %% tags=["remove-input"]
figure, ax = figures.axes()
percent, baseline = [100 * f for f in fractions], float(np.mean(baselines))
for shift, (name, (text, look)) in enumerate(LOOKS.items()):
    figures.line(ax, [p + 0.5 * (shift - 2) for p in percent], unrepaired[name], look, text)
ax.axhline(baseline, color="#b0b0b0", linewidth=1, label="dense network")
ax.set(xlabel="filters removed from every layer (%)", ylabel="test error (%)")
ax.set(xticks=percent, ylim=(0, 100))
figures.legend(ax, 3)
last = ", ".join(f"{LOOKS[name][0]} {np.mean(e[-1]):.0f} %" for name, e in unrepaired.items())
figures.show(
    figure,
    name="fig-criteria-ahead",
    caption="Test error of LeNet-5 after removing filters, without any repair. Means over seeds with 95 % intervals; the points of a share stand side by side.",
    alt=f"Five curves of test error against filters removed. With {percent[-1]:.0f} % gone: {last}; dense {baseline:.1f} %.",
)

# %% tags=["remove-cell"]
for key, share in (("removed_pct", fraction), ("most_removed_pct", fractions[-1])):
    record(f"setting.{key}", 100 * share, "%", 0, exact=True)
for name, values in unrepaired.items():
    record(f"{name}.error_pct", values[fractions.index(fraction)], "%", 1)
    record(f"{name}.most_error_pct", values[-1], "%", 1)
for criteria, model in zip(scores, dense, strict=True):
    criteria["unranked"] = nisp.propagate(model, torch.ones(500), example)
alike = [pruned_error("unranked", fraction, seed) for seed in range(seeds)]
record("nisp.unranked_error_pct", alike, "%", 1)

# %% [markdown]
# **What to see.** At {glue:text}`pruning_reconstruction.setting.removed_pct` compare each with chance ({glue:text}`pruning_reconstruction.random.error_pct`), and with the $\ell_1$ norm ({glue:text}`pruning_reconstruction.l1.error_pct`), which looks at nothing but the filter itself.
# For NISP there is a second question: is it the ranking of the last features that helps, or the way back through the weights?
# With all last features taken as equally important its error is {glue:text}`pruning_reconstruction.nisp.unranked_error_pct`, with the ranking {glue:text}`pruning_reconstruction.nisp.error_pct`.
#
# (sec-repair)=
# ## The repair
#
# The choice is half of the method.
# Three repairs: one least-squares factor for each channel (ThiNet), least squares on all weights of the next layer (LASSO), and a little fine-tuning with labels on the shrunk network.
# The first two read {glue:text}`pruning_reconstruction.setting.images` training images and no label.


# %%
def repaired(name, seed):
    model, mask = dense[seed], choice(name, fraction, seed)
    factor = thinet.rescale(model, mask, train, images=images)
    fitted = channel_lasso.refit(model, mask, train, images=images)
    options = {"epochs": tuning_epochs, "seed": seed, "learning_rate": learning_rate / 5}
    tuned = cached(training.fit, structure.shrink(model, mask, example), split=train, **options)
    return error(model, mask), error(factor, mask), error(fitted, mask), error(tuned)


names = {"lasso": "lasso", "thinet": "thinet", "nisp": "nisp", "random": "random 0"}
errors = {name: [repaired(score, seed) for seed in range(seeds)] for name, score in names.items()}
repairs = {name: np.array(runs).T for name, runs in errors.items()}

# %% tags=["remove-input"]
REPAIRS = {
    "nothing": figures.DENSE,
    "one factor a channel": figures.QUANTIZATION,
    "least squares": figures.RETRAINED,
    f"{tuning_epochs} epoch of fine-tuning": figures.COMBINED,
}
figure, ax = figures.axes()
for row, (text, look) in enumerate(REPAIRS.items()):
    means, halves = zip(*(evidence.interval(repairs[n][row].tolist()) for n in names), strict=True)
    heights = [i + 0.13 * (1.5 - row) for i in range(len(names))]
    bars, look = halves if any(halves) else None, look | {"linestyle": "none"}
    ax.errorbar(means, heights, xerr=bars, capsize=3, label=text, **look)
ax.axvline(baseline, color="#b0b0b0", linewidth=1, label="dense network")
ax.set_yticks(range(len(names)), [LOOKS[name][0] for name in names])
ax.set(xlabel="test error (%)", xlim=(0, None))
figures.legend(ax)
mid = {name: values.mean(axis=1) for name, values in repairs.items()}
figures.show(
    figure,
    name="fig-repair",
    caption=f"Test error with {100 * fraction:.0f} % of the filters of every layer gone, for four choices and four repairs. Means over seeds with 95 % intervals.",
    alt=f"Four rows of four points. Random choice: {mid['random'][0]:.0f} % without repair and {mid['random'][2]:.1f} % after least squares; "
    f"ThiNet: {mid['thinet'][0]:.0f} % and {mid['thinet'][2]:.1f} %; dense {baseline:.1f} %.",
)

# %% tags=["remove-cell"]
shrunk = structure.shrink(dense[0], choice("lasso", fraction, 0), example)
record("setting.images", images, "images", 0, exact=True)
for name, values in repairs.items():
    for what, value in zip(("unrepaired", "rescaled", "refit", "tuned"), values, strict=True):
        record(f"{name}.{what}_error_pct", value, "%", 1)
before, after = (measure.multiply_adds(net, example.shape[1:]) for net in (dense[0], shrunk))
record("shrunk.multiply_adds_ratio", before / after, exact=True)
record(
    "shrunk.bytes_ratio", measure.dense_bytes(dense[0]) / measure.dense_bytes(shrunk), exact=True
)

# %% [markdown]
# **What to see.** Read a row from right to left: what each repair takes away.
# Then look how far the four choices lie apart before the repair, and how far after.
# Least squares brings the random choice (the first draw) from {glue:text}`pruning_reconstruction.random.unrepaired_error_pct` to {glue:text}`pruning_reconstruction.random.refit_error_pct` and the LASSO's from {glue:text}`pruning_reconstruction.lasso.error_pct` to {glue:text}`pruning_reconstruction.lasso.refit_error_pct`; fine-tuning brings the LASSO's to {glue:text}`pruning_reconstruction.lasso.tuned_error_pct`.
# All of these networks are of one size: {glue:text}`pruning_reconstruction.shrunk.multiply_adds_ratio` fewer multiply-adds than the dense one and {glue:text}`pruning_reconstruction.shrunk.bytes_ratio` fewer bytes.
#
# ## Where it breaks
#
# **Too few images.** A least-squares fit with fewer samples than weights can answer every sample exactly and be wrong everywhere else.
# The `ridge` of `refit` holds the weights near those they were, so that they are at least not thrown about.

# %%
model, mask = dense[0], choice("random 0", fraction, 0)
errors = {"0": error(model, mask)}
for n in sorted({*few, images}):
    errors[f"{n}"] = error(channel_lasso.refit(model, mask, train, images=n), mask)
rows = [{"images": n, "test error (%)": f"{e:.1f}"} for n, e in errors.items()]
figures.table(rows, caption="Least squares on few images, first seed, random choice")
record("few.images", few[0], "images", 0)
record("few.error_pct", list(errors.values())[1], "%", 1)

# %% [markdown]
# After a fit to {glue:text}`pruning_reconstruction.few.images` the error is {glue:text}`pruning_reconstruction.few.error_pct`; compare the first row, without repair, and the last.
#
# **Too much at once.** With {glue:text}`pruning_reconstruction.setting.most_removed_pct` of the filters gone and no repair, ThiNet's network errs on {glue:text}`pruning_reconstruction.thinet.most_error_pct`, NISP's on {glue:text}`pruning_reconstruction.nisp.most_error_pct`, and the one of chance on {glue:text}`pruning_reconstruction.random.most_error_pct`.
# Each layer was judged on maps that the other cuts have changed since.
#
# **What neither sees.** The error of the next layer is not the error of the network: an answer that the layers behind ignore counts as much as one that decides.
# And NISP's bound adds up magnitudes, so two contributions that always cancel count twice instead of not at all.
#
# ## Exercises
#
# 1. Copy a filter, and halve what the next layer takes from each of the twins: the network computes the same. One twin goes: do the factors give back all that is lost?

# %% tags=["hide-cell"]
twin = copy.deepcopy(dense[0]).double()
with torch.no_grad():
    for values in (twin.conv1.weight, twin.conv1.bias):
        values[1] = values[0]
    twin.conv2.weight[:, 0] /= 2
    twin.conv2.weight[:, 1] = twin.conv2.weight[:, 0]
gone = {"conv1": torch.arange(20) != 1}
fixed = thinet.rescale(twin, gone, split)
assert torch.allclose(fixed(split.images), twin(split.images))

# %% [markdown]
# 2. Score the filters of a network that nobody here wrote, and shrink it: torchvision's SqueezeNet with its concatenations.

# %% tags=["hide-cell"]
from lib.vision import torchvision

squeezenet = torchvision.models.squeezenet1_1(num_classes=10).eval()
pictures = Split(torch.rand(4, 3, 64, 64), torch.zeros(4, dtype=torch.long))
half = structure.keep(thinet.scores(squeezenet, pictures, places=5), fraction=0.5)
small = structure.shrink(squeezenet, half, pictures.images[:1])
print(f"parameters: {measure.parameters(squeezenet):,} before, {measure.parameters(small):,} after")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`luo2017thinet`, {cite:t}`he2017channel` and {cite:t}`yu2018nisp` are the methods, {cite:t}`roffo2015infinite` is NISP's ranking.
# - {cite:t}`li2017pruning` prune by the norm of the filter, LeNet-5 is by {cite:t}`lecun1998gradient`, {cite:t}`berthelier2020survey` is the survey.
