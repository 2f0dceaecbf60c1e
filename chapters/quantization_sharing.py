# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-quantization-sharing)=
# # Weight sharing: k-means, product and residual quantization
#
# Can the weights of a trained network share a few values, without any training afterwards?
# Yes: with sixteen values per layer, the file of LeNet-300-100, a small digit classifier, gets
# {mean}`quantization.scalar4.file_ratio 0` smaller, and its error {glue:text}`quantization_sharing.scalar4.outcome`.
# If short vectors are shared instead of values, the file gets
# {finding}`smaller still | quantization_sharing.product.chosen_file_ratio > quantization.scalar4.file_ratio`:
# {mean}`quantization_sharing.product.chosen_file_ratio 0`, at an error of
# {mean}`quantization_sharing.product.chosen_error_pct 1`.
# Four values per layer
# {finding}`are worse | quantization.scalar2.error_pct > quantization_sharing.product.chosen_error_pct`, with an error of
# {mean}`quantization.scalar2.error_pct 1`.
#
# ```{claims} quantization_sharing
# ```
#
# ```{cost} quantization_sharing
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
kept = {
    "fc1": 0.06,
    "fc2": 0.1,
    "fc3": 0.3,
}  # shares of their weights that pruning keeps
final_epochs = 40  # to prune and retrain, the first half of them pruning
clusters = 31  # for the survivors of pruning
lengths = [2, 4]  # weights in a piece, for product quantization
product_bits = [2, 3, 4]  # of the code of a piece
residual_bits = 4  # of the code of a row in each stage of residual quantization
stages = [1, 3]  # of residual quantization
lenet5_seeds = 1  # LeNet-5 networks
lenet5_epochs = 8  # to train each of them

# %% tags=["hide-input"]
import copy
from itertools import cycle

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached, trained
from lib.pruning import magnitude
from lib.quantization import (
    deep_compression,
    optimal_kmeans,
    scalar_kmeans,
    sign_quantization,
)
from lib.quantization import product_quantization as pq
from lib.quantization import residual_quantization as rq
from lib.weights import layers

dataset = datasets.load(data)
record = evidence.recorder("quantization_sharing", dataset)
record_scalar = evidence.recorder("quantization")


def errors(networks, split=dataset.test):
    return [training.error_pct(network, split) for network in networks]


def smaller(network):  # in files with codes of one length, as the formulas count
    size = len(storage.dumps(network, coder="fixed"))
    return measure.dense_bytes(network) / size


def coded(method, model, **options):  # a copy
    return method(copy.deepcopy(model), **options)


@torch.no_grad()
def missing(layer, other):  # squared error of the weights, in percent of their energy
    lost = (layer.weight - other.weight).square().sum()
    return 100 * float(lost / layer.weight.square().sum())


# %% [markdown]
# **A baseline.** {cite:t}`gong2014vq` compared four ways of sharing weights in networks that are already trained.
# We apply all four to the same LeNet-300-100 networks, which have two hidden layers {cite:p}`lecun1998gradient`.
# At the end we apply them to LeNet-5, a digit classifier with two convolutions.
# All sizes are bytes of files that load back bit for bit, and they include {term}`codebooks <codebook>` and biases.

# %%
fit = {"split": dataset.train, "epochs": epochs, "learning_rate": 0.1}
dense = trained(training.fit, models.lenet_300_100, range(seeds), **fit)
fit = {"split": dataset.train, "epochs": lenet5_epochs, "learning_rate": 0.05}
lenet5 = trained(training.fit, models.lenet5, range(lenet5_seeds), **fit)
baseline = errors(dense)
record("lenet300.baseline_error_pct", baseline)
record("lenet5.baseline_error_pct", errors(lenet5))

# %% [markdown]
# (sec-optimal-kmeans)=
# ## The best k values on a line
#
# **The idea.** Replace $n$ weights by $k$ {term}`shared values <weight sharing>` so that the squared error is as small as possible.
# This is the problem of {term}`k-means`, and because weights are single numbers, it can be solved exactly.
# Most software uses Lloyd's iteration instead {cite:p}`lloyd1982least`, which stops at the first arrangement that no
# single move improves.
#
# **The formula.** The best clusters are intervals of the sorted weights.
# Let $c(i, j)$ be the squared error of one cluster that holds the sorted weights $i+1$ to $j$.
# Then the least error for the first $j$ weights in $m$ clusters is
#
# $$ D_m(j) = \min_{i < j} D_{m-1}(i) + c(i, j). $$ (eq-intervals)
#
# If each cluster has a price, one pass over the weights replaces the recursion over $m$.
# Bisection then finds the price at which exactly $k$ clusters are cheapest.
#
# **The code.** The function merges equal weights, finds the intervals, and takes the mean of each interval:

# %% tags=["remove-input"]
figures.show_source(optimal_kmeans.optimal)

# %% [markdown]
# **An exact check.** Ten numbers can be cut into three intervals in so few ways that we can try them all.

# %%
values = np.sort(np.random.default_rng(0).normal(size=10))
parts = [np.split(values, [a, b]) for a in range(1, 9) for b in range(a + 1, 10)]
brute = min(sum(((part - part.mean()) ** 2).sum() for part in cut) for cut in parts)
assert abs(optimal_kmeans.optimal(values, 3).squared_error - brute) < 1e-12

# %% [markdown]
# **An experiment.** How far from the best clusters does Lloyd's iteration stop?
# We prune the network and cluster the weights that are left in its first layer, from the three starts of
# {cite:t}`han2016deep`.
# The starting values are evenly spaced (linear), evenly spaced in rank (density), or drawn at random.

# %%
options = {"split": dataset.train, "density": kept, "epochs": final_epochs}
options |= {"ramp": final_epochs // 2, "learning_rate": 0.1}
left = []
for seed, net in enumerate(dense):
    net = copy.deepcopy(net)
    net = cached(magnitude.gradual, net, seed=1000 + seed, **options)
    weights = net.fc1.weight.detach().double()
    left.append(weights[weights != 0].numpy())
best = [optimal_kmeans.optimal(weights, clusters).squared_error for weights in left]
excess = {}
for start in deep_compression.LLOYD_STARTS:
    books = [deep_compression.cluster(w, clusters, start=start) for w in left]
    pairs = zip(books, best, strict=True)
    excess[start] = [100 * (book.squared_error / least - 1) for book, least in pairs]

# %% tags=["remove-input"]
rows = []
for start, above in excess.items():
    text = record_scalar(f"start_{start}.excess_pct", above, digits=1)
    rows.append({"start of Lloyd's iteration": start, "above the least error": text})
figures.table(rows, caption=f"Squared error of {clusters} clusters of the weights left")
nearest = min(np.mean(above) for above in excess.values())
record("start.nearest_excess_pct", nearest, digits=0)

# %% [markdown]
# **What to see.** Lloyd's iteration does not find the best clusters: even from its best start, the squared error is on
# average {mean}`quantization_sharing.start.nearest_excess_pct`
# {finding}`above the least possible | quantization_sharing.start.nearest_excess_pct > 0`.
# The chapter on [Deep Compression](quantization.py) trains the shared values further, from each of these starts.
#
# (sec-scalar-kmeans)=
# ## Scalar k-means: share without training
#
# **The idea.** Cluster the weights of each layer once, and store each weight as the index of its cluster
# {cite:p}`gong2014vq`.
# The shared values are the *{term}`centroids <centroid>`*, the means of the clusters.
#
# **The formula.** With $q$ bits for each of $n$ weights and $k = 2^q$ floats for the centroids, the compression rate is
#
# $$ r = \frac{32\, n}{q\, n + 32\, k} \approx \frac{32}{q}. $$ (eq-rate)
#
# **The code.** The layer computes with `centroids[codes]`:

# %% tags=["remove-input"]
figures.show_source(scalar_kmeans.SharedWeight)

# %% [markdown]
# **An exact check.** If all codes have one length, the file is as large as the formula says, plus the biases and a
# short header.

# %%
shared = coded(scalar_kmeans.share, dense[0], bits=4)
content = storage.dumps(shared, coder="fixed")
weights = [layer.weight.numel() for _, layer in layers(shared)]
formula = sum(4 * n / scalar_kmeans.compression_rate(n, 4) for n in weights)
biases = 4 * (measure.parameters(shared) - sum(weights))
assert 0 <= len(content) - formula - biases < 250
assert torch.equal(storage.loads(content, models.lenet_300_100())[1], shared.fc1.weight)

# %% [markdown]
# **An experiment.** We share values at one to six bits per weight, and train nothing.
#
# ```{predict} two-values
# ```


# %%
def all_coded(method, **options):  # of the dense networks, coded
    return [coded(method, net, **options) for net in dense]


scalar = {bits: all_coded(scalar_kmeans.share, bits=bits) for bits in range(6, 0, -1)}

# %% tags=["remove-input"]
rows = []
for bits, nets in scalar.items():
    (times,) = {smaller(net) for net in nets}  # codes of one length: equal in all
    ratio = record_scalar(f"scalar{bits}.file_ratio", times, exact=True)
    wrong = record_scalar(f"scalar{bits}.error_pct", errors(nets))
    rows.append(
        {
            "bits per weight": bits,
            "values per layer": 2**bits,
            "smaller (file)": ratio,
            "test error": wrong,
        }
    )
figures.table(rows, caption="Scalar k-means without training, LeNet-300-100")
rise = np.mean(errors(scalar[4])) - np.mean(baseline)
outcome = f"rises by {rise:.1f} points" if rise > 0 else "does not rise"
evidence.phrase("quantization_sharing.scalar4.outcome", outcome)

# %% tags=["remove-cell"]
(density,) = {100 * magnitude.density(net) for net in scalar[4]}
record_scalar("scalar4.density_pct", density, digits=1, exact=True)
(same,) = {measure.parameters(net) / measure.parameters(dense[0]) for net in scalar[4]}
record_scalar("scalar4.parameters_ratio", same, digits=2, exact=True)
for bits in (4, 2):
    neurons = [net.fc1.weight for net in scalar[bits]]
    distinct = [len(rows.unique(dim=0)) / len(rows) for rows in neurons]
    record_scalar(f"scalar{bits}.distinct_neurons_ratio", distinct, digits=2)
distinct = [
    layer.weight.unique().numel() for net in scalar[4] for _, layer in layers(net)
]
record_scalar("scalar4.distinct_values", max(distinct), exact=True)

# %% [markdown]
# **What to see.** Four bits per weight cost little, two bits
# {finding}`cost much more | quantization.scalar2.error_pct - quantization.scalar4.error_pct > 1`: the error is
# {mean}`quantization.scalar4.error_pct` with sixteen values and {mean}`quantization.scalar2.error_pct` with four.
# The survey that this book tests {cite:p}`berthelier2020survey` promises 8 to 16 times without a huge loss {cite:p}`gong2014vq`; our measurements say {verdict}`C2.4-06`.
# The survey also says that quantization easily makes a network sparse ({verdict}`C4-03`), but
# {mean}`quantization.scalar4.density_pct` of the weights here are still not zero.
# Its Table 1 says that quantization leaves fewer distinct neurons ({verdict}`C2.4-21`), but even with four values the
# first layer has {mean}`quantization.scalar2.distinct_neurons_ratio` as many distinct neurons as before.
#
# (sec-sign-quantization)=
# ## Signs: one bit per weight
#
# **The idea.** The crudest code keeps one bit: whether a weight is positive {cite:p}`gong2014vq`.
#
# **The formula.** In the published method all weights become $\pm 1$, without a scale: $\alpha_i = 1$.
# The scale with the least squared error is the mean magnitude of the weights, over the layer or over row $i$:
#
# $$ \hat W_{ij} = \alpha_i\,\mathrm{sign}(W_{ij}), \qquad \alpha_i \in \Big\{\, 1,\; \overline{\lvert W \rvert},\; \overline{\lvert W_i \rvert} \,\Big\} $$ (eq-gong-signs)
#
# with $\mathrm{sign}(0) = 1$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(
    sign_quantization.SignWeight.right_inverse, sign_quantization.signed
)

# %% [markdown]
# **An exact check.** A positive factor passes through ReLU unchanged.
# So without biases, the scale of a layer multiplies all outputs by the same number, and no decision changes.


# %%
def signs(net, scale, zero_biases=False):
    net = coded(sign_quantization.quantize, net, scale=scale)
    for _, layer in layers(net) if zero_biases else ():
        torch.nn.init.zeros_(layer.bias)
    return net


nets = [
    signs(dense[0], scale, zero_biases=True).double() for scale in ("none", "layer")
]
one, other = (net(dataset.test.images.double()).argmax(1) for net in nets)
assert torch.equal(one, other)

# %% [markdown]
# **An experiment.** We try no scale, as published, and both scales, each with the trained biases and with all biases
# set to zero.

# %%
by_scale = {}
for scale in sign_quantization.SCALES:
    nets = [signs(net, scale) for net in dense]
    bare = [signs(net, scale, zero_biases=True) for net in dense]
    by_scale[scale] = [*map(smaller, nets)], errors(nets), errors(bare)

# %% tags=["remove-input"]
rows = []
for scale, (times, wrong, unbiased) in by_scale.items():
    key = f"sign_{scale}"
    rows.append(
        {
            "scale": scale,
            "smaller (file)": record(f"{key}.file_ratio", times),
            "test error": record(f"{key}.error_pct", wrong, digits=1),
            "with zero biases": record(f"{key}.unbiased_error_pct", unbiased, digits=1),
        }
    )
figures.table(rows, caption="Signs without training, LeNet-300-100")
means = {scale: np.mean(wrong) for scale, (_, wrong, _) in by_scale.items()}
effect = "raises" if min(means["layer"], means["row"]) > means["none"] else "lowers"
evidence.phrase("quantization_sharing.sign.effect", effect)

# %% [markdown]
# **What to see.** A scale lowers the squared error of the weights.
# It {glue:text}`quantization_sharing.sign.effect` the test error here.
# With zero biases the scale hardly matters. The section "Where it breaks" explains both.
#
# (sec-product-quantization)=
# ## Product quantization: share short vectors
#
# **The idea.** Cut the rows of a weight matrix into short pieces, and let the pieces in the same columns share a few
# codewords {cite:p}`gong2014vq,jegou2011product`.
# One code then stands for several weights.
#
# **The formula.** An $m \times n$ weight is cut into $s$ segments, $W = [W^1, \dots, W^s]$, each with its own $k = 2^q$
# codewords.
# In segment $i$, row $z$ gets the codeword $c^i_{a^i(z)}$, and $r$ is the compression rate:
#
# $$ \min_{c^i,\, a^i} \sum_{z=1}^{m} \big\lVert w^i_z - c^i_{a^i(z)} \big\rVert^2, \qquad r = \frac{32\, m n}{32\, k n + q\, m s} . $$ (eq-product)
#
# The first term of the denominator is the size of the codebooks, which longer pieces do not reduce.
# A row can hold the weights into one output or out of one input.
# The weight of a convolution is treated as a matrix (outputs, inputs × height × width).
#
# **The code.** For vectors, k-means finds only a local optimum, so `kmeans` keeps the best of three runs from
# spread-out starts (k-means++).

# %% tags=["remove-input"]
figures.show_source(pq.ProductWeight.right_inverse)

# %% [markdown]
# **Exact checks.** With pieces of one weight and one codebook for all, product quantization is scalar k-means.
# With as many codewords as rows, nothing is lost.

# %%
layer = dense[0].fc3
values = coded(scalar_kmeans.share, layer, bits=3)
pieces = coded(pq.quantize, layer, bits=3, length=1, shared=True)
whole = coded(pq.quantize, layer, bits=4, length=4)
assert torch.equal(values.weight, pieces.weight)
assert torch.equal(whole.weight, layer.weight)

# %% [markdown]
# From here on, each row holds the weights out of one input.
# Every layer of LeNet-300-100 has more inputs than outputs, so there are many short rows, and the codebooks take less
# of the file.
# Exercise 3 compares the two choices on validation images.
#
# (sec-residual-quantization)=
# ## Residual quantization: whole rows, in stages
#
# **The idea.** Let whole rows share codewords.
# The error that remains is again a matrix, so quantize it in the same way, stage after stage {cite:p}`gong2014vq`.
#
# **The formula.** Let $R_0 = W$, and let $\hat R_{t-1}$ be $R_{t-1}$ with each row replaced by its nearest codeword.
# Then
#
# $$ R_t = R_{t-1} - \hat R_{t-1}, \qquad \hat w_z = \sum_{t=1}^{T} c^t_{a_t(z)}, \qquad r = \frac{32\, m n}{T\,(32\, k n + q\, m)} . $$ (eq-residual)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(rq.ResidualWeight.right_inverse)

# %% [markdown]
# **An exact check.** One stage is product quantization with one segment, and each further stage leaves a smaller error.

# %%
layer, options = dense[0].fc2, {"vectors": "inputs", "bits": residual_bits}
left = [coded(rq.quantize, layer, stages=count, **options) for count in (1, 2, 3)]
assert missing(layer, left[0]) > missing(layer, left[1]) > missing(layer, left[2])
whole = coded(pq.quantize, layer, length=100, **options)
assert torch.equal(left[0].weight, whole.weight)

# %% [markdown]
# ## All techniques on one baseline
#
# We code every layer of the dense networks with each method, and train nothing.

# %%
m, n = pq.sizes(dense[0].fc1.weight.shape, "inputs")
runs, by_input = [], {"vectors": "inputs"}


def run(kind, line, rate, nets):
    lost = [missing(a.fc1, b.fc1) for a, b in zip(dense, nets, strict=True)]
    point = {"kind": kind, "line": line, "bits": 32 / rate, "missing": lost}
    point |= {"times": [*map(smaller, nets)], "errors": errors(nets)}
    runs.append(point | {"judged": np.mean(errors(nets, dataset.validation))})


for bits, nets in scalar.items():
    run("scalar", "single weights", scalar_kmeans.compression_rate(m * n, bits), nets)
for length in lengths:
    for bits in sorted(product_bits, reverse=True):
        options = {"bits": bits, "length": length}
        nets = all_coded(pq.quantize, **options, **by_input)
        rate = pq.compression_rate(m, n, **options)
        run("product", f"pieces of {length}", rate, nets)
for count in sorted(stages, reverse=True):
    options = {"bits": residual_bits, "stages": count}
    nets = all_coded(rq.quantize, **options, **by_input)
    run("residual", "rows in stages", rq.compression_rate(m, n, **options), nets)
run("signs", "signs", 32, all_coded(sign_quantization.quantize))

# %% [markdown]
# **Squared error at equal bits.** We measure the squared error of the first layer's weights at the same number of bits
# per weight, codebooks included.
# It is given as a share of their energy, the sum of the squared weights.

# %% tags=["remove-input"]
styles = [{}, {"linestyle": "--", "markerfacecolor": "white"}, {"linestyle": ":"}]
product = figures.look("gong-product-quantization")
looks = {"single weights": figures.look("gong-scalar-kmeans")}
for length, style in zip(lengths, cycle(styles), strict=False):
    looks[f"pieces of {length}"] = product | style
looks["rows in stages"] = figures.look("gong-residual-quantization")
looks["signs"] = figures.look("gong-binary") | {"linestyle": "none"}
kinds = ("scalar", "product", "residual")
within = {}
for bits in (1, 2, 3):
    limit = 32 / scalar_kmeans.compression_rate(m * n, bits)
    for kind in kinds:
        fits = [
            p["missing"] for p in runs if p["kind"] == kind and p["bits"] <= limit
        ]  # not chosen by test
        if fits:
            within[kind, bits] = min(fits, key=np.mean)  # not chosen by test
            key = f"{kind}.within{bits}_squared_error_pct"
            record(key, within[kind, bits], digits=1)
lost = {key: float(np.mean(values)) for key, values in within.items()}
lines = {}
for line in [line for line in looks if line != "signs"]:
    points = [p for p in runs if p["line"] == line]
    bits, values = [p["bits"] for p in points], [p["missing"] for p in points]
    lines[line] = looks[line], bits, values
words = {"residual": "whole rows", "product": "pieces", "scalar": "single values"}
texts = [f"{words[k]} {lost[k, 2]:.0f} %" for k in words if (k, 2) in lost]
figures.curves(
    lines,
    xlabel="bits per weight, codebooks included",
    ylabel="squared error (%)",
    log="xy",
    bounds=figures.PERCENT,
    finding=f"Energy missed within two bits per weight: {', '.join(texts)}",
    name="fig-sharing-missing",
    caption="Squared error of the first layer's weights, as a share of their energy (the sum of their squares), against bits per weight by the formulas; means over seeds with 95 % intervals.",
    alt=f"Falling curves of squared error against bits per weight. Within two bits the least is: {', '.join(texts)}.",
)
less = "less" if lost["product", 2] < lost["scalar", 2] else "no less"
evidence.phrase("quantization_sharing.product.misses", less)

# %% [markdown]
# **What to see.** Within two bits per weight, whole rows miss
# {finding}`far more | quantization_sharing.residual.within2_squared_error_pct - quantization_sharing.product.within2_squared_error_pct > 10; quantization_sharing.residual.within2_squared_error_pct - quantization_sharing.scalar.within2_squared_error_pct > 10`
# than the other two, because each of their codewords is as long as a row and has to be stored.
# Pieces of rows miss {glue:text}`quantization_sharing.product.misses` than single values:
# {mean}`quantization_sharing.product.within2_squared_error_pct` of the energy and
# {mean}`quantization_sharing.scalar.within2_squared_error_pct`.
#
# **Error against bytes.** Now we look at whole networks.
# For each method we take the smallest file whose validation error is at most one point above that of the dense
# networks.
# If there is none, we take the file with the least validation error.

# %%
allowed = 1 + np.mean(errors(dense, dataset.validation))
picked = {}
for kind in kinds:
    points = [p for p in runs if p["kind"] == kind]
    least = min(points, key=lambda p: p["judged"])
    fits = [p for p in points if p["judged"] <= allowed] or [least]
    picked[kind] = max(fits, key=lambda p: np.mean(p["times"]))

# %% tags=["remove-input"]
figure, ax = figures.axes()
for line, look in looks.items():
    points = [p for p in runs if p["line"] == line]
    times, wrong = [np.mean(p["times"]) for p in points], [p["errors"] for p in points]
    figures.line(ax, times, wrong, look, line, bounds=figures.PERCENT)
level = np.mean(baseline)
ax.axhline(level, **figures.look("dense") | {"marker": ""}, label="dense network")
ax.set(xlabel="times smaller (file)", ylabel="test error (%)", ylim=(level / 2, 105))
figures.logarithmic(ax, "x", "y")
figures.legend(ax, columns=3, narrow=True)
texts = [
    f"{np.mean(p['times']):.1f} times at {np.mean(p['errors']):.1f} %"
    for p in (*picked.values(), runs[-1])
]
times, wrong = (np.mean(picked["product"][name]) for name in ("times", "errors"))
two = np.mean(errors(scalar[2])), np.mean([*map(smaller, scalar[2])])
figures.show(
    figure,
    lead=True,
    finding=f"Pieces that share: {times:.0f}× smaller at {wrong:.1f} % error; single values: {two[1]:.0f}× at {two[0]:.1f} %",
    name="fig-sharing-curves",
    caption="Test error of LeNet-300-100 against the size of its file for four ways to share weights, without training; means over seeds with 95 % intervals.",
    alt="Curves of test error against times smaller. Picked on validation: single weights {}, pieces of rows {}, rows in stages {}; signs {}; ".format(
        *texts
    )
    + f"the dense network has {level:.1f} %.",
)

# %% tags=["remove-input"]
names = {
    "scalar": "single weights",
    "product": "pieces of rows",
    "residual": "rows in stages",
}
rows = []
for kind, point in picked.items():
    rows.append(
        {
            "method": names[kind],
            "smaller (file)": record(f"{kind}.chosen_file_ratio", point["times"]),
            "test error": record(f"{kind}.chosen_error_pct", point["errors"]),
        }
    )
figures.table(rows, caption="Picked on validation images, LeNet-300-100")
first = max(
    picked, key=lambda kind: np.mean(picked[kind]["times"])
)  # not chosen by test
evidence.phrase("quantization_sharing.picked.smallest", names[first])

# %% [markdown]
# **What to see.** The smallest file within a point of the dense validation error comes from
# {glue:text}`quantization_sharing.picked.smallest`.
# {cite:t}`gong2014vq` report 16 to 24 times for product quantization, with one point lost on ImageNet; they code only the dense layers.
# We code LeNet-5 both ways: all four layers, or only its two dense layers.

# %%
by_sign = {"method": lambda net, bits: sign_quantization.quantize(net, names=bits)}
changes = {
    "sign": ("signs", 1, by_sign),
    "scalar4": ("16 shared values", 4, {"method": scalar_kmeans.share}),
    "scalar2": ("4 shared values", 2, {"method": scalar_kmeans.share}),
    "product": (
        "pieces of 2, 8 codewords",
        3,
        {"method": pq.quantize, "length": 2} | by_input,
    ),
    "residual": (
        "rows in 3 stages",
        residual_bits,
        {"method": rq.quantize, "stages": 3} | by_input,
    ),
}
parts = {"all": ["conv1", "conv2", "fc1", "fc2"], "dense": ["fc1", "fc2"]}
coded5 = {
    (key, part): [
        coded(model=net, bits=dict.fromkeys(names, bits), **options) for net in lenet5
    ]
    for key, (_, bits, options) in changes.items()
    for part, names in parts.items()
}

# %% tags=["remove-input"]
rows = []
for key, (text, _, _) in changes.items():
    row = {"LeNet-5": text}
    for part in parts:
        nets, of = coded5[key, part], f"lenet5.{key}_{part}"
        row[f"{part}: smaller"] = record(f"{of}_file_ratio", [*map(smaller, nets)])
        row[f"{part}: error"] = record(f"{of}_error_pct", errors(nets))
    rows.append(row)
figures.table(
    rows, caption="LeNet-5 without training: all layers coded, or the dense layers only"
)

# %% [markdown]
# **What to see.** Coding the convolutions, too,
# {finding}`saves many bytes | quantization_sharing.lenet5.scalar4_all_file_ratio - quantization_sharing.lenet5.scalar4_dense_file_ratio > 1`,
# because otherwise they stay floats.
# With sixteen values the file is {mean}`quantization_sharing.lenet5.scalar4_all_file_ratio`
# {finding}`smaller | quantization_sharing.lenet5.scalar4_all_file_ratio > 1` if all layers are coded, and
# {mean}`quantization_sharing.lenet5.scalar4_dense_file_ratio` if only the dense layers are.
# With all layers coded the error is {mean}`quantization_sharing.lenet5.scalar4_all_error_pct` with sixteen values and
# {mean}`quantization_sharing.lenet5.scalar2_all_error_pct` with four; without coding it is
# {mean}`quantization_sharing.lenet5.baseline_error_pct`.
# None of the four methods saves time by itself: the weights are rebuilt from their codes at every use.
# Exercise 2 shows where time could be saved.
#
# ## Where it breaks
#
# **Signs and biases.** Weights of $\pm 1$ are many times larger than the trained weights, so the biases hardly count
# any more.
# A scale makes the weights small again, and the biases count again, although they were trained for weights that are now
# distorted.
# The error is {mean}`quantization_sharing.sign_none.error_pct` without a scale and
# {mean}`quantization_sharing.sign_layer.error_pct` with one per layer; with that scale and zero biases it is
# {mean}`quantization_sharing.sign_layer.unbiased_error_pct`.
#
# **A codebook larger than the layer.** We give the first layer a row for each of its 300 outputs, cut the rows into
# pieces of four, and allow 512 codewords per segment.

# %%
whole = coded(pq.quantize, dense[0].fc1, bits=9, length=4)
assert torch.equal(whole.weight, dense[0].fc1.weight)
record("large_codebook.file_ratio", smaller(whole), digits=2, exact=True)

# %% [markdown]
# With as many codewords as rows, nothing is lost and nothing is saved: the file is
# {finding}`larger | quantization_sharing.large_codebook.file_ratio < 1` than that of the floats, which has
# {mean}`quantization_sharing.large_codebook.file_ratio` of its size.
#
# ## Exercises
#
# 1. By the formula, how many times smaller does scalar k-means with four bits make a layer of a million weights, and
#    one of a thousand weights?

# %% tags=["hide-cell"]
large, little = (scalar_kmeans.compression_rate(n, 4) for n in (1_000_000, 1_000))
evidence.answer(
    f"{large:.2f}× and {little:.2f}×: in a small layer the sixteen floats of the codebook matter."
)

# %% [markdown]
# 2. Product quantization can compute without rebuilding the weights: multiply the input by the codewords, then look up
#    the products. Check this, and count the operations.

# %% tags=["hide-cell"]
layer = coded(pq.quantize, dense[0].fc1, bits=4, length=4)
form, x = layer.parametrizations.weight, dataset.test.images[:100].flatten(1)
books = form.original.reshape(196, 16, 4)  # segments, codewords, columns
tables = torch.einsum("nst,skt->snk", x.reshape(-1, 196, 4), books)
looked_up = sum(tables[s][:, form[0].codes[:, s]] for s in range(196)) + layer.bias
torch.testing.assert_close(looked_up, layer(x), rtol=1e-4, atol=1e-4)
evidence.answer(
    f"The results agree. Instead of {300 * 784:,} multiply-adds it takes {16 * 784:,}, and {300 * 196:,} additions of looked-up products."
)

# %% [markdown]
# 3. Should a row hold the weights into an output or out of an input, and how long should a piece be? Decide on
#    validation images, because this is a choice.

# %% tags=["hide-cell"]
rows = []
for vectors in pq.VECTORS:
    for length in lengths:
        net = coded(pq.quantize, dense[0], bits=4, length=length, vectors=vectors)
        (judged,) = errors([net], dataset.validation)
        row = {"a row for each of the": vectors, "weights in a piece": length}
        row |= {"smaller (×)": f"{smaller(net):.1f}", "error (%)": f"{judged:.2f}"}
        rows.append(row)
figures.table(
    rows,
    caption="Product quantization of one LeNet-300-100, 16 codewords; validation error",
)
most = max(rows, key=lambda row: float(row["smaller (×)"]))  # not chosen by test
evidence.answer(
    f"The smallest file, {most['smaller (×)']}×, has a row for each of the {most['a row for each of the']} and pieces of {most['weights in a piece']}, at an error of {most['error (%)']} %."
)

# %% [markdown]
# ## In short
#
# - Four bits per weight, without any training, cost little accuracy; one or two bits cost much.
# - To go further without training, let short vectors share codewords, and count the codebooks.
# - For single numbers the best clusters can be found exactly; Lloyd's iteration stops short of them.
#
# ## Sources of this chapter
#
# - {cite:t}`gong2014vq` compares the four methods; {cite:t}`berthelier2020survey` is the survey.
# - {cite:t}`jegou2011product` is product quantization for search; {cite:t}`lloyd1982least` is the iteration.
# - The starts come from {cite:t}`han2016deep`, the networks from {cite:t}`lecun1998gradient`.
