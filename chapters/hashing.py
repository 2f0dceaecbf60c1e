# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-hashing)=
# # Hashing: weights that share values by chance
#
# How small can a network's file be if a hash function decides which of its weights are equal?
# We store one value for every sixty-four weights of a digit classifier with one hidden layer: its file gets
# {mean}`hashing.nets.file_ratio 0` {finding}`smaller | hashing.nets.file_ratio > 1`, and its error is
# {mean}`hashing.nets.error_pct 1`.
# A dense network that fits into the same file
# {finding}`misclassifies more | hashing.nets.smaller64_error_pct > hashing.nets.error_pct`:
# {mean}`hashing.nets.smaller64_error_pct 1`.
# But hashing saves no time: for one image, the hashed layer
# {finding}`takes longer | hashing.layer.latency_ratio > 1` than the dense one.
#
# ```{claims} hashing
# ```
#
# ```{cost} hashing
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
first = [1078, 270, 449]  # of it: training, validation and test images
seeds = 3  # networks of each kind, trained from different starts
width = 200  # hidden units of the network that is compressed
weights_per_value = [8, 16, 64]  # weights of a layer for each value that is stored
epochs = 10  # to train each network
batch_size = 50  # images in a step
rates = {
    "dense": 0.01,
    "hashed": 0.04,
    "smaller": 0.005,
    "edges": 0.04,
    "low_rank": 0.02,
}  # learning rates for Adam, chosen on validation images from 0.005, 0.01, 0.02, 0.04
widths = [100, 300]  # hidden units that the values of a small network are spread over
hashes = 100  # hash functions whose buckets are counted
combined_seeds = 3  # networks that are combined with other methods, at least as many
temperature = 4.0  # of the soft targets
value_bits = 4  # of the code of a value, where the values share values in turn
contrast_seeds = 1  # LeNet-5 networks of each kind
contrast_images = 700  # to train them
contrast_epochs = 4  # passes over these images
contrast_rate = 0.01  # learning rate, chosen on validation images
sums = [16, 32, 64, 256]  # K, the dimensions that feature hashing leaves
regression_images = 1000  # to train a logistic regression
maps = 3  # seeds of feature hashing and of random projections

# %% tags=["hide-input"]
import copy
import math

import numpy as np
import torch
from scipy.stats import chisquare
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.random_projection import GaussianRandomProjection
from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.distillation import linear_bottleneck, soft_targets
from lib.hashing import hashed_nets
from lib.hashing.feature_hashing import FeatureHashing
from lib.hashing.shared import hashed_layers, lookup
from lib.quantization import scalar_kmeans
from lib.weights import decompress, layers

dataset = datasets.load(data, first=first)
record = evidence.recorder("hashing", dataset)
inputs, classes = dataset.train.images[0].numel(), len(dataset.classes)
generator = torch.Generator().manual_seed(0)


def errors(networks, split=dataset.test):
    return [training.error_pct(network, split) for network in networks]


def gains(worse, better):  # in points, of networks with the same seeds
    return [w - b for w, b in zip(worse, better, strict=True)]


# %% [markdown]
# (sec-feature-hashing)=
# ## Feature hashing: fewer inputs, the same inner products
#
# **The idea.** Feature hashing replaces the inputs of a model by a few sums {cite:p}`weinberger2009feature`.
# A {term}`hash function` deals the inputs into $K$ {term}`buckets <bucket>` at random, and only the sum of each bucket is kept.
# A second hash chooses half of the inputs to be subtracted instead of added, so that inputs that share a bucket by
# chance cancel on average.
# Nothing is learned, and no matrix is stored.
#
# **The formula.** With the bucket $h(j)$ and the sign $\xi(j)$ of input $j$,
#
# $$ \phi_k(x) = \sum_{j:\, h(j) = k} \xi(j)\, x_j, \qquad \mathbb E\, \langle \phi(x), \phi(y) \rangle = \langle x, y \rangle . $$ (eq-feature-hashing)
#
# The variance is $\frac1K \sum_{i \ne j} \big( x_i^2 y_j^2 + x_i y_i x_j y_j \big) .$
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(FeatureHashing.transform)

# %% [markdown]
# **Exact checks.** Feature hashing is linear.
# Over many seeds, the mean inner product agrees with the true one, within the error that the variance allows.

# %%
x, y = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
phi = FeatureHashing(4, seed=0).transform
torch.testing.assert_close(phi(2 * x - y), 2 * phi(x) - phi(y))
pair, n = torch.cat([x, y]), 500
products = []
for seed in range(n):
    one, other = FeatureHashing(4, seed=seed).transform(pair)
    products.append(float(one @ other))
squares = x.square().T @ y.square() + (x * y).T @ (x * y)
variance = float(squares.sum() - squares.trace()) / 4
assert abs(np.mean(products) - float(x @ y.T)) < 4 * (variance / n) ** 0.5

# %% [markdown]
# **An experiment.** A logistic regression classifies digits from $K$ numbers instead of all pixels.
# We compare three sources of these numbers: feature hashing, a Gaussian random projection, which stores a dense matrix,
# and principal components, which are learned from the images.

# %% tags=["hide-input"]
train, test = dataset.train.first(regression_images), dataset.test
pixels = {"train": train.images.flatten(1), "test": test.images.flatten(1)}


def accuracy(transform):  # of a logistic regression on transformed pixels, in %
    x, unseen = (np.asarray(transform(part)) for part in pixels.values())
    scale = x.std()  # one number, so that the penalty means the same for all
    regression = LogisticRegression(C=0.1, tol=1e-3, max_iter=500).fit(
        x / scale, train.labels
    )
    return 100 * regression.score(unseen / scale, test.labels)


right = {"hashed": [], "projected": [], "principal": []}
for k in sums:
    made = [FeatureHashing(k, seed=seed) for seed in range(maps)]
    right["hashed"].append([accuracy(one.transform) for one in made])
    made = [GaussianRandomProjection(k, random_state=seed) for seed in range(maps)]
    made = [one.fit(pixels["train"]) for one in made]
    right["projected"].append([accuracy(one.transform) for one in made])
    principal = PCA(k, random_state=0).fit(pixels["train"])
    right["principal"].append([accuracy(principal.transform)])
whole = accuracy(lambda part: part)

# %% tags=["remove-input"]
svd = figures.look("factorize-svd") | {"markerfacecolor": "white"}
looks = {
    "hashed": ("feature hashing", figures.look("hash-feature-hashing")),
    "projected": ("random projection", figures.look("random")),
    "principal": ("principal components", svd | {"linestyle": ":"}),
}
at32 = sums.index(32)
record("features.pixels", inputs, exact=True)
record("features.most_sums", sums[-1], exact=True)
record("features.pixels_accuracy_pct", whole, digits=1)
for line, runs in right.items():
    record(f"features.{line}32_accuracy_pct", runs[at32], digits=1)
behind = gains(right["projected"][at32], right["hashed"][at32])
record("features.behind_points", behind, digits=1)
gap = {
    line: np.mean(right[line][at32]) - np.mean(right["hashed"][at32]) for line in right
}
for line, key in (("projected", "behind"), ("principal", "behind_principal")):
    text = f"{abs(gap[line]):.1f} points {'behind' if gap[line] > 0 else 'ahead of'}"
    text = "as good as" if abs(gap[line]) < 0.5 else text
    evidence.phrase(f"hashing.features.{key}", text)
record(
    "features.loss_points", [whole - found for found in right["hashed"][-1]], digits=1
)
record("features.most_accuracy_pct", right["hashed"][-1], digits=1)
means = {line: np.mean(runs[at32]) for line, runs in right.items()}
text = f"feature hashing is right on {means['hashed']:.0f} % of the images, a random projection on {means['projected']:.0f} %"
figures.curves(
    {label: (look, sums, right[line]) for line, (label, look) in looks.items()},
    xlabel="numbers in place of the pixels",
    ylabel="test accuracy (%)",
    log="x",
    bounds=figures.PERCENT,
    level=("all pixels", whole),
    finding=f"With 32 sums, {text}",
    name="fig-feature-hashing",
    caption="Test accuracy of a logistic regression on few numbers made of all pixels; means over seeds with 95 % intervals. Principal components have no seed.",
    alt=f"Rising curves of accuracy against the number of sums. With 32, {text}, and principal components on {means['principal']:.0f} %; with all pixels it is {whole:.0f} %.",
)

# %% [markdown]
# **What to see.** With {mean}`hashing.features.most_sums` sums in place of {mean}`hashing.features.pixels` pixels, the
# regression classifies {mean}`hashing.features.most_accuracy_pct` of the test images correctly.
# With all pixels it classifies {mean}`hashing.features.pixels_accuracy_pct` correctly.
# At thirty-two sums, feature hashing is {glue:text}`hashing.features.behind` the random projection, whose matrix has a
# number for each pixel and sum.
# It is {glue:text}`hashing.features.behind_principal` principal components, which are learned.
# The survey calls hashing an effective strategy for dimensionality reduction ({verdict}`C2.2-02`).
#
# (sec-hashednets)=
# ## HashedNets: a hash in place of an index
#
# **The idea.** The weights of a layer share $K$ values, as they do after k-means.
# But nobody chooses which weights share: a hash of a weight's position in the matrix says which value it takes
# {cite:p}`chen2015compressing`.
# So a file holds the values and one seed, and no code for any weight.
# The network is trained with its {term}`shared values <weight sharing>` from the start.
# The survey calls the method Nvidia's; most of its authors were at Washington University in St. Louis ({verdict}`C2.2-03`).
#
# **The formula.** Let $h(i, j)$ be the bucket and $\xi(i, j)$ the sign of the weight from input $j$ to output $i$.
# A layer with $n$ inputs and $m$ outputs computes with a virtual matrix,
#
# $$ V_{ij} = \xi(i, j)\, w_{h(i, j)}, \qquad \frac{\partial L}{\partial w_k} = \sum_{h(i, j) = k} \xi(i, j)\, \frac{\partial L}{\partial V_{ij}}, $$ (eq-hashednets)
#
# where $w$ holds the $K = \lceil c\, n m \rceil$ stored values, and $L$ is the loss.
# Each output is an inner product with hashed inputs, $w^\top \phi_i(x)$.
# HashedNets can work because feature hashing keeps inner products on average.
#
# **The code.** One integer, the code of a weight, holds both its bucket and its sign:

# %% tags=["remove-input"]
figures.show_source(lookup.codes, hashed_nets.HashedWeight)

# %% [markdown]
# **Exact checks.** Each output is $w^\top \phi_i(x)$.
# The gradient of a value is the signed sum of the gradients of all weights that share it.
# A file with the values and the seed restores all weights, bit for bit.

# %%
layer = hashed_nets.compress(nn.Linear(12, 5), fraction=0.25)
form, w = layer.parametrizations.weight[0], layer.parametrizations.weight.original
buckets, signs = (
    (form.codes // 2).reshape(5, 12),
    1 - 2 * (form.codes % 2).reshape(5, 12),
)
x, out = torch.randn(12, generator=generator), torch.randn(5, generator=generator)
for i in range(5):
    phi = torch.zeros(len(w)).index_add(0, buckets[i], signs[i] * x)
    torch.testing.assert_close(w @ phi + layer.bias[i], layer(x)[i])
(gradient,) = torch.autograd.grad(layer(x) @ out, w)
dense = out[:, None] * x  # the gradient of a dense weight
summed = torch.zeros(len(w)).index_add(0, buckets.flatten(), (signs * dense).flatten())
torch.testing.assert_close(gradient, summed)
content = storage.dumps(layer)
_, weight = storage.loads(content, nn.Linear(12, 5))
assert torch.equal(weight, layer.weight)

# %% [markdown]
# ### Error against stored values
#
# **An experiment.** We train a network with one hidden layer that stores one value for eight weights, and then for more
# and more of them.
# Three rivals store as many numbers: a dense network with fewer hidden units, a network with randomly removed edges,
# and a low-rank network.
# Each layer of the low-rank network is the product of two thin matrices.
# All are trained from the start, for the same number of steps with Adam; the learning rate of each kind was chosen on validation images.
# In {cite:t}`chen2015compressing` only one factor of the low-rank rival is trained; here both are.


# %% tags=["hide-input"]
def build(seed, units=width):
    sizes = {"inputs": inputs, "hidden": (units,), "classes": classes}
    return models.mlp(seed, batch_norm=False, **sizes)


def stored(n):  # values of both layers, for n weights each
    return math.ceil(inputs * width / n) + math.ceil(width * classes / n)


def hashed(seed, n):
    return hashed_nets.compress(build(seed), fraction=1 / n, seed=seed)


def edges(seed, n):
    return hashed_nets.remove_edges(build(seed), fraction=1 / n, seed=seed)


def smaller(seed, n):
    room = stored(n) + width + classes  # its rivals have as many biases
    units = hashed_nets.equal_width(room, inputs=inputs, outputs=classes)
    return build(seed, units)


def low_rank(seed, n):  # the same rank in both layers, the largest that fits
    def weights_at(rank):
        output = min(rank * (width + classes), width * classes)
        return rank * (inputs + width) + output

    rank = max(r for r in range(1, width) if weights_at(r) <= stored(n))
    net = linear_bottleneck.bottleneck(build(seed), "fc1", rank=rank, seed=seed)
    if rank >= classes:
        return net
    return linear_bottleneck.bottleneck(net, "fc2", rank=rank, seed=seed)


fit = {"split": dataset.train, "epochs": epochs, "batch_size": batch_size}
fit |= {"optimizer": "adam", "weight_decay": 0.0}


def trained(networks, rate, start=0, **options):
    for seed, network in enumerate(networks, start):
        training.fit(network, seed=seed, learning_rate=rate, **fit | options)
    return networks


dense = trained([build(seed) for seed in range(seeds)], rates["dense"])
kinds = {"hashed": hashed, "smaller": smaller, "edges": edges, "low_rank": low_rank}
nets = {
    (kind, n): trained([make(seed, n) for seed in range(seeds)], rates[kind])
    for kind, make in kinds.items()
    for n in weights_per_value
}
wrong = {key: errors(networks) for key, networks in nets.items()}
mild, strong = weights_per_value[0], weights_per_value[-1]

# %% tags=["remove-input"]
names = {
    "hashed": "HashedNets",
    "smaller": "smaller dense network",
    "edges": "random edges removed",
    "low_rank": "low rank",
}
baseline = record("nets.dense_error_pct", errors(dense))
rows = []
for kind, name in names.items():
    row = {"network": name}
    for n in weights_per_value:
        row[f"1/{n}"] = record(f"nets.{kind}{n}_error_pct", wrong[kind, n], digits=1)
    size = len(storage.dumps(nets[kind, strong][0]))
    row[f"bytes at 1/{strong}"] = record(f"nets.{kind}_file_bytes", size, exact=True)
    rows.append(row)
figures.table(
    rows,
    caption=f"Test error by stored values per weight, {width:,} hidden units; with a value for each weight it is {baseline}",
)
record("nets.error_pct", wrong["hashed", strong], digits=2)
record("nets.gain_points", gains(wrong["smaller", strong], wrong["hashed", strong]))
mild_gain = gains(wrong["smaller", mild], wrong["hashed", mild])
record("nets.mild_gain_points", mild_gain)
units = nets["smaller", strong][0].fc1.out_features
record("nets.smaller_units", units, exact=True)
net = nets["hashed", strong][0]
ratio = measure.dense_bytes(net) / len(storage.dumps(net))
record("nets.file_ratio", ratio, exact=True)
density = 100 * measure.nonzero_parameters(net) / measure.parameters(net)
record("nets.density_pct", density, digits=1, exact=True)
least = min(kinds, key=lambda kind: np.mean(wrong[kind, mild]))  # not chosen by test
phrases = {"hashed": "HashedNets", "smaller": "the smaller dense network"}
phrases |= {"edges": "random edges", "low_rank": "low rank"}
evidence.phrase("hashing.nets.mild_least", phrases[least])

# %% tags=["remove-input"]
looks = {
    "hashed": figures.look("hash-hashednets"),
    "smaller": figures.look("dense"),
    "edges": figures.look("random"),
    "low_rank": figures.look("factorize-svd"),
}
figure, ax = figures.axes()
for kind, look in looks.items():
    runs = [wrong[kind, n] for n in weights_per_value]
    figures.line(ax, weights_per_value, runs, look, names[kind], bounds=figures.PERCENT)
level = np.mean(errors(dense))
full = figures.look("teacher") | {"marker": ""}
ax.axhline(level, **full, label="dense, a value for each weight")
figures.logarithmic(ax, "x", "y")
lowest = min(np.mean(run) for run in wrong.values())
ax.set(xlabel="weights for each stored value", ylabel="test error (%)")
ax.set_ylim(lowest / 2, max(40, 1.5 * np.mean(wrong["smaller", strong])))
ax.set_xticks(weights_per_value, map(str, weights_per_value))
figures.legend(ax)
best, rival = (np.mean(wrong[kind, strong]) for kind in ("hashed", "smaller"))
figures.show(
    figure,
    lead=True,
    finding=f"One value for {strong} weights: {best:.1f} % error; a dense network of that size: {rival:.1f} %",
    name="fig-hashednets",
    caption="Test error of networks with one hidden layer against the number of weights for each stored value, for four ways to store few values; means over seeds with 95 % intervals.",
    alt="Curves of test error against weights for each stored value. "
    + f"At {strong}: "
    + ", ".join(f"{names[kind]} {np.mean(wrong[kind, strong]):.1f} %" for kind in kinds)
    + f"; with a value for each weight, {level:.1f} %.",
)

# %% [markdown]
# **What to see.** HashedNets {finding}`win | hashing.nets.gain_points > 0` where little is stored.
# With one value for sixty-four weights, a dense network that fits into a file of the same size has only
# {mean}`hashing.nets.smaller_units` hidden units.
# The error of HashedNets is {finding}`lower | hashing.nets.gain_points > 0` by {mean}`hashing.nets.gain_points`.
# Random edges and low rank
# {finding}`lose more | hashing.nets.edges64_error_pct > hashing.nets.error_pct; hashing.nets.low_rank64_error_pct > hashing.nets.error_pct`,
# too: they misclassify {mean}`hashing.nets.edges64_error_pct` and {mean}`hashing.nets.low_rank64_error_pct`.
# The survey calls hashing especially efficient on fully connected networks ({verdict}`C2.2-07`).
#
# ### What is in a bucket
#
# **Are connections grouped uniformly and at random?**
# We count the weights in each bucket of the first layer.
# A chi-square test then says whether the counts differ from each other as much as those of fair dice do.
# For dice, the p value is equally likely to be anywhere between zero and one.
# It would be near zero for uneven buckets, and near one for buckets that are filled in turn.

# %%
count, values = inputs * width, math.ceil(inputs * width / strong)
chances = []
for seed in range(hashes):
    found = lookup.codes(count, values, seed) // 2
    loads = np.bincount(found.numpy(), minlength=values)
    chances.append(float(chisquare(loads).pvalue))
record("buckets.p_value", chances, digits=2)
turns = np.bincount(np.arange(count) % values, minlength=values)
assert chisquare(turns).pvalue > 0.999 and loads.sum() == count

# %% [markdown]
# **Does a bucket hold one value?**
# For each bucket of a trained layer, we count the different weights in it, and their different magnitudes.


# %%
def most_in_a_bucket(layer, seen=lambda weights: weights):
    codes = layer.parametrizations.weight[0].codes.numpy()
    weights = seen(layer.weight.detach().flatten().numpy().astype(float))
    pairs = np.unique(codes // 2 + 1j * weights)  # each bucket with each of its weights
    return int(np.bincount(pairs.real.astype(int)).max())


layer = nets["hashed", strong][0].fc1
record("buckets.values", most_in_a_bucket(layer), exact=True)
record("buckets.magnitudes", most_in_a_bucket(layer, np.abs), exact=True)
unsigned = hashed_nets.compress(build(0), fraction=1 / strong, signed=False)
record("buckets.unsigned_values", most_in_a_bucket(unsigned.fc1), exact=True)

# %% [markdown]
# **What to see.** The buckets look {finding}`as if dice had filled them | 0.001 < hashing.buckets.p_value < 0.999`: the
# mean p value is {mean}`hashing.buckets.p_value 2` ({verdict}`C2.2-04`).
# A bucket holds {mean}`hashing.buckets.values` values, $w_i$ and $-w_i$, and {mean}`hashing.buckets.magnitudes`
# magnitude.
# So the survey's "same weight value" is right up to the sign ({verdict}`C2.2-05`).
# Without the second hash, a bucket holds {mean}`hashing.buckets.unsigned_values` value.
#
# ### More units for the same values
#
# **An experiment.** A layer can grow while its number of stored values stays the same.
# We take as many values as a network with a hundred hidden units has at one value for eight weights, and spread them
# over wider and wider layers.

# %%
room = {"fc1": math.ceil(inputs * 100 / 8), "fc2": math.ceil(classes * 100 / 8)}


def spread(seed, units):
    return hashed_nets.compress(build(seed, units), buckets=room, seed=seed)


wide = {
    units: trained([spread(seed, units) for seed in range(seeds)], rates["hashed"])
    for units in widths
}
spread_errors = {units: errors(networks) for units, networks in wide.items()}

# %% tags=["remove-input"]
record("expansion.values", sum(room.values()), exact=True)
record("expansion.first_units", widths[0], exact=True)
record("expansion.last_units", widths[-1], exact=True)
record("expansion.first_error_pct", spread_errors[widths[0]])
record("expansion.last_error_pct", spread_errors[widths[-1]])
gain = gains(spread_errors[widths[0]], spread_errors[widths[-1]])
record("expansion.gain_points", gain)
ends = [np.mean(spread_errors[units]) for units in (widths[0], widths[-1])]
outcome = f"{'falls' if ends[1] < ends[0] else 'rises'} by {abs(ends[0] - ends[1]):.1f} points"
evidence.phrase("hashing.expansion.outcome", outcome)
figures.curves(
    {"HashedNets": (looks["hashed"], widths, [*spread_errors.values()])},
    xlabel=f"hidden units that share {sum(room.values()):,} values",
    ylabel="test error (%)",
    log="x",
    bounds=figures.PERCENT,
    finding=f"From {widths[0]} to {widths[-1]} hidden units with the same values, the error {outcome}",
    name="fig-expansion",
    caption="Test error against the number of hidden units, for a fixed number of stored weights; means over seeds with 95 % intervals.",
    alt=f"A curve of test error against hidden units: {ends[0]:.1f} % with {widths[0]} and {ends[1]:.1f} % with {widths[-1]}.",
)

# %% [markdown]
# **What to see.** Between {mean}`hashing.expansion.first_units` and {mean}`hashing.expansion.last_units` hidden units
# with the same number of values, the error {glue:text}`hashing.expansion.outcome`.
# All these networks share {mean}`hashing.expansion.values` values.
# The file grows only by the biases of the added units, but the computation grows with the units.
#
# ### What it costs in time
#
# **An experiment.** The hashed layer multiplies as often as the dense one, and it also looks up its weights.
# While it is trained, it writes its whole matrix in every forward pass.
# A trained layer can be converted: for a few images, it then looks up each weight where it is needed, and writes no
# matrix.
# We time a layer with 784 inputs and 1,000 outputs, and one value for sixty-four weights, in one process on one thread.

# %%
dense_layer = nn.Linear(784, 1000)
hashed_layer = hashed_nets.compress(copy.deepcopy(dense_layer))
converted_layer = hashed_layers.convert(hashed_layer)
pair = {"dense": dense_layer, "hashed": hashed_layer}
work = {name: measure.multiply_adds(layer, (784,)) for name, layer in pair.items()}
ratios = {}
for n in (1, 100):
    images = torch.randn(n, 784, generator=generator)
    torch.testing.assert_close(converted_layer(images), hashed_layer(images).detach())
    for name, layer in {"hashed": hashed_layer, "converted": converted_layer}.items():
        calls = {"dense": dense_layer, name: layer}
        calls = {key: lambda m=m, x=images: m(x) for key, m in calls.items()}
        times = measure.latency_ms(calls, runs=40)
        ratios[n, name] = times[name].median / times["dense"].median
held = {"converted": list(converted_layer.buffers())}
held["hashed"] = [*hashed_layer.parameters(), *hashed_layer.buffers()]
memory = {name: sum(tensor.nbytes for tensor in held[name]) for name in held}

# %% tags=["remove-input"]
rows = []
for n, prefix in ((1, "layer."), (100, "layer.batch_")):
    row = {"images": n}
    row["as trained"] = record(f"{prefix}latency_ratio", ratios[n, "hashed"])
    key = f"{prefix}converted_latency_ratio"
    row["converted"] = record(key, ratios[n, "converted"])
    rows.append(row)
figures.table(rows, caption="Time of a forward pass, hashed over dense")
record("layer.multiply_adds", work["hashed"], exact=True)
record("layer.dense_multiply_adds", work["dense"], exact=True)
for name, prefix in (("hashed", ""), ("converted", "converted_")):
    share = 100 * memory[name] / measure.dense_bytes(dense_layer)
    record(f"layer.{prefix}memory_pct", share, digits=0, exact=True)

# %% [markdown]
# **What to see.** For one image, the hashed layer takes {mean}`hashing.layer.latency_ratio`
# {finding}`as long as | hashing.layer.latency_ratio > 1` the dense one.
# Converting it {finding}`helps | hashing.layer.converted_latency_ratio < hashing.layer.latency_ratio`, but it still
# takes {mean}`hashing.layer.converted_latency_ratio` {finding}`as long | hashing.layer.converted_latency_ratio > 1`.
# A batch of a hundred images needs only one look-up: there the ratio is {mean}`hashing.layer.batch_latency_ratio`, and
# {mean}`hashing.layer.batch_converted_latency_ratio` for the converted layer.
# The dense and the hashed layer take
# {finding}`the same number | hashing.layer.multiply_adds ~ hashing.layer.dense_multiply_adds` of multiply-adds for an
# image, {mean}`hashing.layer.multiply_adds`.
# Table 1 of the survey promises less computation time ({verdict}`C2.2-06`), and its text faster access to the data ({verdict}`C2.2-01`).
# Hashing shrinks what is stored and sent much more than the memory in use: while it computes, our layer also holds a
# code for each weight.
# With these codes it takes {mean}`hashing.layer.memory_pct` of the dense layer's memory, and
# {mean}`hashing.layer.converted_memory_pct` once it is converted, with shorter codes.
#
# ### Together with other compression
#
# **An experiment.** A dense network teaches the hashed ones with [soft targets](distillation.py), that is with its own
# outputs as labels {cite:p}`hinton2015distilling`.
# Then the last two steps of [Deep Compression](quantization.py) follow, without training {cite:p}`han2016deep`.
# K-means replaces the $K$ values of each layer by sixteen, and the file stores for each of the $K$ which one it is, in
# a {term}`Huffman code`.

# %% tags=["hide-input"]
teaching = soft_targets.distiller(dense[0], temperature=temperature)
students = [hashed(seed, strong) for seed in range(combined_seeds)]
taught = trained(students, rates["hashed"], teaching=teaching)
more = [hashed(seed, strong) for seed in range(seeds, combined_seeds)]
alone = nets["hashed", strong] + trained(more, rates["hashed"], start=seeds)


def rows_of(network):  # a holder of the stored values: each layer's as one row
    holder = nn.ModuleDict()
    for name, layer in layers(network):
        values = layer.parametrizations.weight.original.detach()
        row = holder[name] = nn.Linear(len(values), 1)
        row.weight = nn.Parameter(values[None].clone())
        row.bias = nn.Parameter(layer.bias.detach().clone())
    return holder


@torch.no_grad()
def coded(network):  # a copy, read from a file of codes, and the bytes of this file
    network = copy.deepcopy(network)
    holder = scalar_kmeans.share(rows_of(network), bits=value_bits)
    content = storage.dumps(holder, coder="huffman")
    read = storage.loads(content, holder)[1::2]  # after each bias its weight
    for row, (_, layer) in zip(read, layers(network), strict=True):
        layer.parametrizations.weight.original.copy_(row[0])
    return network, len(content) + 8  # and the seed


both = {"hashed": alone, "taught": taught}
full_size = measure.dense_bytes(dense[0])
combined = {}
for name, networks in both.items():
    sizes = [len(storage.dumps(network)) for network in networks]
    combined[name] = errors(networks), [full_size / size for size in sizes]
    copies, sizes = zip(*map(coded, networks), strict=True)
    combined[f"{name}_coded"] = errors(copies), [full_size / size for size in sizes]

# %% tags=["remove-input"]
words = {
    "hashed": "HashedNets",
    "taught": "with a teacher",
    "hashed_coded": "with codes of the values",
    "taught_coded": "with both",
}
rows = []
for name, text in words.items():
    missed, ratios = combined[name]
    row = {f"at 1/{strong}": text}
    row["smaller (file)"] = record(f"combined.{name}_file_ratio", ratios, digits=0)
    row["test error"] = record(f"combined.{name}_error_pct", missed)
    rows.append(row)
figures.table(rows, caption="HashedNets with a teacher and with coded values")
teacher_gain = gains(combined["hashed"][0], combined["taught"][0])
record("combined.teacher_gain_points", teacher_gain)
record(
    "combined.code_loss_points",
    gains(combined["hashed_coded"][0], combined["hashed"][0]),
)
difference = np.mean(teacher_gain)
outcome = f"{'lowers' if difference > 0 else 'raises'} the error by {abs(difference):.1f} points"
evidence.phrase("hashing.combined.teacher_outcome", outcome)

# %% [markdown]
# **What to see.** The teacher {glue:text}`hashing.combined.teacher_outcome`.
# Coding the values makes the file
# {finding}`smaller again | hashing.combined.hashed_coded_file_ratio > hashing.combined.hashed_file_ratio`.
# With both, the file is {mean}`hashing.combined.taught_coded_file_ratio`
# {finding}`smaller | hashing.combined.taught_coded_file_ratio > 1` than that of the dense network, at an error of
# {mean}`hashing.combined.taught_coded_error_pct`.
# The survey says that hashing can be used in conjunction with other methods ({verdict}`C2.2-08`).
#
# ### Convolutions against linear layers
#
# **An experiment.** LeNet-5 is a digit classifier with two convolutions and two linear layers
# {cite:p}`lecun1998gradient`.
# We give it one value for sixty-four weights, once in its convolutions alone and once in its linear layers alone.

# %%
contrast = {"dense": [], "convolutions": ["conv1", "conv2"], "linear": ["fc1", "fc2"]}
lenet5 = {}
for part, chosen in contrast.items():
    lenet5[part] = [
        models.lenet5(seed, classes=classes) for seed in range(contrast_seeds)
    ]
    for seed, net in enumerate(lenet5[part] if chosen else []):
        hashed_nets.compress(net, fraction=1 / strong, layers=chosen, seed=seed)
    options = {"split": dataset.train.first(contrast_images), "epochs": contrast_epochs}
    trained(lenet5[part], contrast_rate, **options)

# %% tags=["remove-input"]
rows = []
for part, networks in lenet5.items():
    ratio = measure.dense_bytes(networks[0]) / len(storage.dumps(networks[0]))
    row = {"hashed layers": "none" if part == "dense" else part}
    row["smaller (file)"] = record(f"lenet5.{part}_file_ratio", ratio, exact=True)
    row["test error"] = record(f"lenet5.{part}_error_pct", errors(networks))
    rows.append(row)
figures.table(rows, caption="LeNet-5 with hashed convolutions or hashed linear layers")
size = {part: len(storage.dumps(networks[0])) for part, networks in lenet5.items()}
ratio = size["convolutions"] / size["linear"]
record("lenet5.linear_over_convolutions_ratio", ratio, exact=True)

# %% [markdown]
# **What to see.** Hashed linear layers make the file of LeNet-5 {mean}`hashing.lenet5.linear_file_ratio` smaller,
# hashed convolutions
# {finding}`only | hashing.lenet5.convolutions_file_ratio < 1.1; hashing.lenet5.linear_file_ratio > hashing.lenet5.convolutions_file_ratio`
# {mean}`hashing.lenet5.convolutions_file_ratio`.
# A convolution shares its weights over all positions already, so it has few.
# The error is {mean}`hashing.lenet5.linear_error_pct` with hashed linear layers,
# {mean}`hashing.lenet5.convolutions_error_pct` with hashed convolutions, and {mean}`hashing.lenet5.dense_error_pct`
# with neither.
#
# ## Where it breaks
#
# **Where more is stored.** HashedNets gain {finding}`less | hashing.nets.gain_points > hashing.nets.mild_gain_points`
# over the smaller dense network when both may store more.
# The difference is {mean}`hashing.nets.gain_points` with one value for sixty-four weights, and
# {mean}`hashing.nets.mild_gain_points` with one for eight.
# At one for eight, the lowest error is that of {glue:text}`hashing.nets.mild_least`.
#
# **After training.** Chance decides which weights share a value, so a trained network does not survive hashing.
# We try it with the values that lose the least squared error: each is the mean of its trained weights, with their
# signs.

# %%
projected = []
for seed, network in enumerate(dense):
    options = {"fraction": 1 / mild, "seed": seed, "start": "project"}
    projected.append(hashed_nets.compress(copy.deepcopy(network), **options))
record("projected.error_pct", errors(projected), digits=0)

# %% [markdown]
# Even with one value for eight weights, the error
# {finding}`jumps | hashing.projected.error_pct - hashing.nets.dense_error_pct > 5` from
# {mean}`hashing.nets.dense_error_pct` to {mean}`hashing.projected.error_pct`.
# K-means can share values after training, because it chooses which weights share; see
# [the chapter on weight sharing](quantization_sharing.py).
#
# ## Exercises
#
# 1. A layer has as many stored values as weights. How many of the values does no weight use?

# %% tags=["hide-cell"]
n = 100_000
used = len(np.unique(lookup.codes(n, n, seed=0) // 2))
evidence.answer(
    f"{100 * (1 - used / n):.1f} % are unused: each bucket is missed with probability (1 − 1/n)ⁿ, which is close to 1/e, or {100 / math.e:.1f} %. So hashing wastes values where many are stored."
)

# %% [markdown]
# 2. The gradient of a value is a sum over its weights. How much further does a step of plain gradient descent move the weights of a hashed layer than those of a dense layer with the same weights?

# %% tags=["hide-cell"]
net = hashed(0, strong)
plain = decompress(copy.deepcopy(net))
images, labels = dataset.train.images[:100], dataset.train.labels[:100]
for network in (net, plain):
    nn.functional.cross_entropy(network(images), labels).backward()
chain = net.fc1.parametrizations.weight
moved = chain[0](chain.original.grad)  # how far each weight of the hashed layer moves
times = float(moved.norm() / plain.fc1.weight.grad.norm())
evidence.answer(
    f"{times:.1f} times as far, since {strong} gradients of random signs add up to about √{strong} = {strong**0.5:.0f} of them. Descent therefore needs a lower learning rate; Adam, which the chapter uses, divides by the size of the gradient."
)

# %% [markdown]
# 3. What goes wrong in feature hashing without the signs?

# %% tags=["hide-cell"]
x = dataset.validation.images.flatten(1)[:100]
true = (x[:50] * x[50:]).sum(1)
ratios = {}
for signed in (True, False):
    phis = [
        FeatureHashing(64, seed=seed, signed=signed).transform(x) for seed in range(50)
    ]
    products = torch.stack([(phi[:50] * phi[50:]).sum(1) for phi in phis]).mean(0)
    ratios[signed] = float(products.sum() / true.sum())
evidence.answer(
    f"Inner products of images get {ratios[False]:.1f} times too large on average, because pixels are never negative and nothing cancels; with signs the factor is {ratios[True]:.2f}."
)

# %% [markdown]
# ## In short
#
# - Feature hashing keeps inner products on average, without a matrix and without learning.
# - HashedNets store a few values and a seed. They are worth it where very few values are stored, and they must be
#   trained from the start.
# - They save storage, not time: every multiplication remains, and a look-up is added.
#
# ## Sources of this chapter
#
# - {cite:t}`weinberger2009feature` introduces feature hashing, and {cite:t}`chen2015compressing` HashedNets, with the
#   rivals of this chapter.
# - {cite:t}`hinton2015distilling` is about distillation with a temperature, and {cite:t}`han2016deep` about Deep
#   Compression.
# - {cite:t}`lecun1998gradient` describes LeNet-5, and {cite:t}`berthelier2020survey` is the survey.
