# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-quantization-sharing)=
# # Sharing values and vectors
#
# Write each weight, or each group of weights, as the number of an entry in a small table.
# {cite:t}`gong2014vq` compared four ways to do that to networks that are trained already, and train nothing afterwards.
# On LeNet-300-100, whose test error is {glue:text}`quantization_sharing.lenet300.baseline_error_pct`, sixteen shared values a layer give a file {glue:text}`quantization.scalar4.file_ratio` smaller at {glue:text}`quantization.scalar4.error_pct`, four shared values {glue:text}`quantization.scalar2.file_ratio` at {glue:text}`quantization.scalar2.error_pct`.
# Short vectors instead of values (product quantization) take {glue:text}`quantization_sharing.product.chosen_file_ratio` at {glue:text}`quantization_sharing.product.chosen_error_pct`, whole rows in stages (residual quantization) {glue:text}`quantization_sharing.residual.chosen_file_ratio` at {glue:text}`quantization_sharing.residual.chosen_error_pct`, and bare signs {glue:text}`quantization_sharing.sign_none.file_ratio` at {glue:text}`quantization_sharing.sign_none.error_pct`.
# All sizes are bytes of files that load back bit for bit, codebooks and biases included.
#
# ## What the survey says, and what came out
#
# ```{claims} quantization_sharing
# ```
#
# ## What this page needs
#
# ```{cost} quantization_sharing
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
kept = {"fc1": 0.06, "fc2": 0.1, "fc3": 0.3}  # shares of their weights that pruning keeps
final_epochs = 40  # to prune and retrain, the first half of them pruning
clusters = 31  # for the survivors of pruning
lengths = [2, 4]  # weights in a piece, for product quantization
product_bits = [2, 3, 4]  # of the code of a piece
residual_bits = 4  # of the code of a row in each stage of residual quantization
stages = [1, 3, 6]  # of residual quantization
lenet5_seeds = 1  # LeNet-5 networks
lenet5_epochs = 8  # to train each of them

# %% tags=["hide-input"]
import copy

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached
from lib.pruning import magnitude
from lib.quantization import deep_compression, optimal_kmeans, scalar_kmeans, sign_quantization
from lib.quantization import product_quantization as pq
from lib.quantization import residual_quantization as rq
from lib.weights import layers

dataset = datasets.load(data)
evidence.uses(dataset)


def record(key, values, unit="x", digits=1):
    return evidence.record(key, values, unit=unit, digits=digits)


def error(model, split=dataset.test):
    return training.error_pct(model, split)


def smaller(model):  # in files with codes of one length, as the formulas count
    return measure.dense_bytes(model) / len(storage.dumps(model, coder="fixed"))


def coded(method, model, **options):  # a copy
    return method(copy.deepcopy(model), **options)


@torch.no_grad()
def missing(layer, other):  # squared error of the weights, in percent of their energy
    return 100 * float((layer.weight - other.weight).square().sum() / layer.weight.square().sum())


# %%
def trained(build, rate, seed, epochs):
    options = {"split": dataset.train, "learning_rate": rate, "epochs": epochs, "seed": seed}
    return cached(training.fit, build(seed), **options)


dense = [trained(models.lenet_300_100, 0.1, seed, epochs) for seed in range(seeds)]
lenet5 = [trained(models.lenet5, 0.05, seed, lenet5_epochs) for seed in range(lenet5_seeds)]
for name, nets in (("lenet300", dense), ("lenet5", lenet5)):
    record(f"quantization_sharing.{name}.baseline_error_pct", [*map(error, nets)], "%", 2)

# %% [markdown]
# (sec-optimal-kmeans)=
# ## The best k values on a line
#
# **The idea.** To share k values among n weights, choose the k that lose the least.
# That is k-means, and for weights, which are single numbers, it can be solved exactly.
# Almost everyone uses Lloyd's iteration all the same {cite:p}`lloyd1982least`, which stops at the first arrangement that no single move improves.
#
# **The formula.** The best clusters are intervals of the sorted weights.
# With $c(i, j)$ the squared error of one cluster that holds the weights after the $i$-th up to the $j$-th,
#
# $$ D_m(j) = \min_{i < j} D_{m-1}(i) + c(i, j) $$ (eq-intervals)
#
# is the least error of the first $j$ weights in $m$ clusters.
# A price on each cluster turns the layers $m$ into one pass over the weights; the right price is found by bisection.

# %% tags=["remove-input"]
figures.show_source(optimal_kmeans.optimal, optimal_kmeans.priced)

# %% [markdown]
# **An exact check.** Ten numbers can be cut into three intervals in few enough ways to try them all.

# %%
values = np.sort(np.random.default_rng(0).normal(size=10))
parts = [np.split(values, [a, b]) for a in range(1, 9) for b in range(a + 1, 10)]
brute = min(sum(((part - part.mean()) ** 2).sum() for part in cut) for cut in parts)
assert abs(optimal_kmeans.optimal(values, 3).squared_error - brute) < 1e-12

# %% [markdown]
# **An experiment.** The survivors of the first layer of pruned networks, with Lloyd's iteration from the three starts of {cite:t}`han2016deep`: values evenly spaced, evenly spaced in rank, or drawn at random.

# %%
options = {
    "split": dataset.train,
    "density": kept,
    "epochs": final_epochs,
    "ramp": final_epochs // 2,
}
survivors, rows = [], []
for seed, net in enumerate(dense):
    net, more = copy.deepcopy(net), {"learning_rate": 0.1, "seed": 1000 + seed}
    weights = cached(magnitude.gradual, net, **options, **more).fc1.weight.detach().double()
    survivors.append(weights[weights != 0].numpy())
best = [optimal_kmeans.optimal(weights, clusters).squared_error for weights in survivors]
for start in deep_compression.LLOYD_STARTS:
    books = [deep_compression.cluster(weights, clusters, start=start) for weights in survivors]
    excess = [100 * (a.squared_error / b - 1) for a, b in zip(books, best, strict=True)]
    text = record(f"quantization.start_{start}.excess_pct", excess, "%")
    rows.append({"start of Lloyd's iteration": start, "squared error above the optimum": text})
figures.table(rows, caption=f"{clusters} clusters of the survivors of the first layer")

# %% [markdown]
# **What to see.** A start that finds the optimum would show zero; the chapter on [Deep Compression](quantization.py) trains on from such starts.
#
# (sec-scalar-kmeans)=
# ## Scalar k-means: share without training
#
# **The idea.** Cluster the weights of each layer once, store each weight as the number of its centroid, and stop there {cite:p}`gong2014vq`.
#
# **The formula.** With $q$ bits for each of $n$ weights and $k = 2^q$ floats for the centroids, the compression rate is
#
# $$ r = \frac{32\, n}{q\, n + 32\, k} \approx \frac{32}{q}. $$ (eq-rate)
#
# **The code.** The layer computes with `centroids[codes]`; nothing else changes.

# %% tags=["remove-input"]
figures.show_source(scalar_kmeans.SharedWeight)

# %% [markdown]
# **An exact check.** The file with codes of one length should be as large as the formula says, but for biases and header.

# %%
shared = coded(scalar_kmeans.share, dense[0], bits=4)
content = storage.dumps(shared, coder="fixed")
weights = [layer.weight.numel() for _, layer in layers(shared)]
formula = sum(4 * n / scalar_kmeans.compression_rate(n, 4) for n in weights)
biases = 4 * (measure.parameters(shared) - sum(weights))
assert 0 <= len(content) - formula - biases < 250
assert torch.equal(storage.loads(content, models.lenet_300_100())[1], shared.fc1.weight)

# %% [markdown]
# **An experiment.** One to six bits a weight, for the dense networks, without any training afterwards.


# %%
def all_coded(method, **options):  # of the dense networks, coded
    return [coded(method, net, **options) for net in dense]


scalar, rows = {bits: all_coded(scalar_kmeans.share, bits=bits) for bits in range(6, 0, -1)}, []
for bits, shared in scalar.items():
    ratio = record(f"quantization.scalar{bits}.file_ratio", [*map(smaller, shared)])
    wrong = record(f"quantization.scalar{bits}.error_pct", [*map(error, shared)], "%", 2)
    rows.append({"bits a weight": bits, "times smaller (file)": ratio, "test error": wrong})
figures.table(rows, caption="Scalar k-means without training, LeNet-300-100")

# %% tags=["remove-cell"]
four, of = scalar[4], "quantization.scalar4"
record(f"{of}.density_pct", [100 * magnitude.density(net) for net in four], "%")
same = [measure.parameters(net) / measure.parameters(dense[0]) for net in four]
record(f"{of}.parameters_ratio", same, digits=2)
neurons = [len(net.fc1.weight.unique(dim=0)) / len(net.fc1.weight) for net in four]
record(f"{of}.distinct_neurons_ratio", neurons, digits=2)
distinct = [layer.weight.unique().numel() for net in four for _, layer in layers(net)]
record(f"{of}.distinct_values", max(distinct), "", 0)

# %% [markdown]
# **What to see.** Four bits give a file {glue:text}`quantization.scalar4.file_ratio` smaller at {glue:text}`quantization.scalar4.error_pct` error, two bits {glue:text}`quantization.scalar2.file_ratio` at {glue:text}`quantization.scalar2.error_pct`.
# The survey's sentence, 8 to 16 times without a huge loss {cite:p}`gong2014vq`, gets this verdict: {verdict}`C2.4-06`.
# Of the weights {glue:text}`quantization.scalar4.density_pct` are still not zero: sharing does not make a network sparse, whatever the survey's section 4 says ({verdict}`C4-03`).
#
# (sec-sign-quantization)=
# ## Signs: one bit a weight
#
# **The idea.** The crudest code keeps one bit, whether a weight is positive {cite:p}`gong2014vq`.
#
# **The formula.** As published there is no scale, $\alpha_i = 1$; the one that loses the least is the mean size of the weights, over the layer or over row $i$.
#
# $$ \hat W_{ij} = \alpha_i\,\mathrm{sign}(W_{ij}), \qquad \mathrm{sign}(0) = 1, \qquad \alpha_i \in \Big\{\, 1,\; \overline{\lvert W \rvert},\; \overline{\lvert W_i \rvert} \,\Big\} $$ (eq-gong-signs)

# %% tags=["remove-input"]
figures.show_source(sign_quantization.SignWeight, sign_quantization.signed)

# %% [markdown]
# **An exact check.** ReLU passes a positive factor on, so without biases a layer's scale multiplies all outputs alike, and no decision changes.


# %%
def signs(net, scale, zero_biases=False):
    net = coded(sign_quantization.quantize, net, scale=scale)
    for _, layer in layers(net) if zero_biases else ():
        torch.nn.init.zeros_(layer.bias)
    return net


nets = [signs(dense[0], scale, zero_biases=True).double() for scale in ("none", "layer")]
one, other = (net(dataset.test.images.double()).argmax(1) for net in nets)
assert torch.equal(one, other)

# %% [markdown]
# **An experiment.** The published form and two scales, with the biases as trained and with all biases set to zero.

# %%
rows = []
for scale in sign_quantization.SCALES:
    key, nets = f"quantization_sharing.sign_{scale}", [signs(net, scale) for net in dense]
    bare = [error(signs(net, scale, True)) for net in dense]
    row = {"times smaller (file)": record(f"{key}.file_ratio", [*map(smaller, nets)])}
    row |= {"test error": record(f"{key}.error_pct", [*map(error, nets)], "%")}
    row |= {"with zero biases": record(f"{key}.unbiased_error_pct", bare, "%")}
    rows.append({"scale": scale} | row)
figures.table(rows, caption="Signs without training, LeNet-300-100")

# %% [markdown]
# **What to see.** Does the scale that lowers the squared error lower the test error, and what have the biases to do with it?
#
# (sec-product-quantization)=
# ## Product quantization: share short vectors
#
# **The idea.** Cut all rows after every few columns, and let the pieces of each segment share a few codewords: one code then stands for several weights {cite:p}`gong2014vq,jegou2011product`.
#
# **The formula.** An $m \times n$ weight in $s$ segments, $W = [W^1, \dots, W^s]$, with $k = 2^q$ codewords in each of them:
#
# $$ \min_{c^i,\, a^i} \sum_{z=1}^{m} \big\lVert w^i_z - c^i_{a^i(z)} \big\rVert^2, \qquad r = \frac{32\, m n}{32\, k n + q\, m s} . $$ (eq-product)
#
# The first term below the line is the codebooks, which longer pieces do not make smaller.
# A row can hold the weights into an output, or out of an input; a convolution's weight is the matrix (outputs, inputs × height × width).
#
# **The code.** k-means of vectors finds a local optimum only, so the best of three runs from spread-out starts (k-means++) is kept.

# %% tags=["remove-input"]
figures.show_source(pq.kmeans, pq.ProductWeight)

# %% [markdown]
# **Exact checks.** Pieces of one weight with one codebook for all are scalar k-means; as many codewords as rows lose nothing.

# %%
layer = dense[0].fc3
values = coded(scalar_kmeans.share, layer, bits=3)
pieces = coded(pq.quantize, layer, bits=3, length=1, shared=True)
whole = coded(pq.quantize, layer, bits=4, length=4)
assert torch.equal(values.weight, pieces.weight) and torch.equal(whole.weight, layer.weight)

# %% [markdown]
# LeNet-300-100 narrows from layer to layer; with a row for each input there are more and shorter rows, and the codebooks take less of the file, so the comparison below has rows of inputs; in exercise 2 validation images judge that.
#
# (sec-residual-quantization)=
# ## Residual quantization: whole rows, in stages
#
# **The idea.** Let whole rows share codewords; what is then missing is a matrix again, and is quantized in the same way, stage after stage {cite:p}`gong2014vq`.
#
# **The formula.** With $R_0 = W$, and $\hat R_{t-1}$ the rows of $R_{t-1}$ replaced by their nearest codewords,
#
# $$ R_t = R_{t-1} - \hat R_{t-1}, \qquad \hat w_z = \sum_{t=1}^{T} c^t_{a_t(z)}, \qquad r = \frac{32\, m n}{T\,(32\, k n + q\, m)} . $$ (eq-residual)

# %% tags=["remove-input"]
figures.show_source(rq.ResidualWeight.right_inverse, rq.summed)

# %% [markdown]
# **An exact check.** One stage is product quantization with one segment, and each stage leaves less than the one before.

# %%
layer, options = dense[0].fc2, {"vectors": "inputs", "bits": residual_bits}
left = [coded(rq.quantize, layer, stages=count, **options) for count in (1, 2, 3)]
assert missing(layer, left[0]) > missing(layer, left[1]) > missing(layer, left[2])
assert torch.equal(left[0].weight, coded(pq.quantize, layer, length=100, **options).weight)

# %% [markdown]
# ## All techniques on one baseline
#
# Every layer of the dense networks is coded, and nothing is trained.

# %%
m, n = pq.sizes(dense[0].fc1.weight.shape, "inputs")
runs, by_input = [], {"vectors": "inputs"}


def run(kind, line, rate, nets):
    point = {"kind": kind, "line": line, "bits": 32 / rate}  # of a weight of fc1, by the formula
    point["missing"] = [missing(a.fc1, b.fc1) for a, b in zip(dense, nets, strict=True)]
    point["judged"] = np.mean([error(net, dataset.validation) for net in nets])
    runs.append(point | {"times": [*map(smaller, nets)], "errors": [*map(error, nets)]})


# %%
for bits, nets in scalar.items():
    rate = scalar_kmeans.compression_rate(m * n, bits)
    run("scalar", "single weights", rate, nets)
for length in lengths:
    for bits in sorted(product_bits, reverse=True):
        options = {"bits": bits, "length": length}
        rate = pq.compression_rate(m, n, **options)
        run("product", f"pieces of {length}", rate, all_coded(pq.quantize, **options, **by_input))
for count in sorted(stages, reverse=True):
    options = {"bits": residual_bits, "stages": count}
    rate = rq.compression_rate(m, n, **options)
    run("residual", "rows in stages", rate, all_coded(rq.quantize, **options, **by_input))
run("signs", "signs", 32, all_coded(sign_quantization.quantize))

# %% [markdown]
# **Squared error at equal bits.** Within the bits that two, four or eight shared values take for the first layer, codebooks included, what is the least that each method leaves missing of its weights?

# %%
rows, kinds = [], ("scalar", "product", "residual")
for bits in (1, 2, 3):
    limit = 32 / scalar_kmeans.compression_rate(m * n, bits)
    rows.append({"bits a weight, at most": f"{limit:.3f}"})
    for kind in kinds:
        fits = [p["missing"] for p in runs if p["kind"] == kind and p["bits"] <= limit]
        key = f"quantization_sharing.{kind}.within{bits}_squared_error_pct"
        rows[-1][kind] = record(key, min(fits, key=np.mean), "%") if fits else "none fits"
figures.table(rows, caption="Squared error of the first layer, share of its energy")

# %% [markdown]
# **What to see.** In the middle row: {glue:text}`quantization_sharing.scalar.within2_squared_error_pct`, {glue:text}`quantization_sharing.product.within2_squared_error_pct` and {glue:text}`quantization_sharing.residual.within2_squared_error_pct`.
# Vectors fill space better than single numbers do, even where the weights of a piece do not depend on each other; but every longer codeword has to be stored too.
#
# **Error against bytes.** For whole networks, of each method the smallest file is picked whose validation error is at most one point above that of the dense networks; if there is none, the one with the least validation error.

# %%
picked, allowed = {}, 1 + np.mean([error(net, dataset.validation) for net in dense])
for kind in kinds:
    points = [p for p in runs if p["kind"] == kind]
    fits = [p for p in points if p["judged"] <= allowed] or [min(points, key=lambda p: p["judged"])]
    picked[kind] = max(fits, key=lambda p: np.mean(p["times"]))
    record(f"quantization_sharing.{kind}.chosen_file_ratio", picked[kind]["times"])
    record(f"quantization_sharing.{kind}.chosen_error_pct", picked[kind]["errors"], "%", 2)

# %% tags=["remove-input"]
figure, ax = figures.axes()
pieces = [figures.RETRAINED, figures.PRUNING, figures.PRUNING | {"color": "#56b4e9", "marker": "P"}]
last = [figures.COMBINED, figures.DENSE | {"linestyle": "none", "marker": "X"}]
looks = [figures.QUANTIZATION, *pieces[: len(lengths)], *last]
for line, look in zip(dict.fromkeys(p["line"] for p in runs), looks, strict=True):
    points = [p for p in runs if p["line"] == line]
    figures.line(
        ax, [np.mean(p["times"]) for p in points], [p["errors"] for p in points], look, line
    )
level = np.mean([*map(error, dense)])
ax.axhline(level, **figures.DENSE | {"marker": ""}, label="dense network")
ax.set(xlabel="times smaller (file)", ylabel="test error (%)", ylim=(level / 2, 105))
figures.logarithmic(ax, "x", "y")
figures.legend(ax, columns=3)
shown = [*picked.values(), runs[-1]]
texts = [f"{np.mean(p['times']):.1f} times at {np.mean(p['errors']):.1f} %" for p in shown]
figures.show(
    figure,
    name="fig-sharing-curves",
    caption="Test error of LeNet-300-100 against the size of its file, for all four methods and without training; means over seeds with 95 % intervals.",
    alt="Curves of test error against times smaller. Picked on validation: single weights {}, pieces of rows {}, rows in stages {}; signs {}; ".format(
        *texts
    )
    + f"the dense network errs on {level:.1f} %.",
)

# %% [markdown]
# **What to see.** The picks are {glue:text}`quantization_sharing.scalar.chosen_file_ratio` at {glue:text}`quantization_sharing.scalar.chosen_error_pct` for single weights, {glue:text}`quantization_sharing.product.chosen_file_ratio` at {glue:text}`quantization_sharing.product.chosen_error_pct` for pieces, and {glue:text}`quantization_sharing.residual.chosen_file_ratio` at {glue:text}`quantization_sharing.residual.chosen_error_pct` for rows in stages.
# {cite:t}`gong2014vq` report 16 to 24 times, with one point lost on ImageNet, for product quantization; they coded the dense layers only, so here is LeNet-5 with all layers coded, and with its two dense ones.

# %%
changes = {
    "sign": ("signs", lambda net, bits: sign_quantization.quantize(net, names=bits), 1, {}),
    "scalar4": ("16 shared values", scalar_kmeans.share, 4, {}),
    "scalar2": ("4 shared values", scalar_kmeans.share, 2, {}),
    "product": ("pieces of 2, 8 codewords", pq.quantize, 3, {"length": 2} | by_input),
    "residual": ("rows in 3 stages", rq.quantize, residual_bits, {"stages": 3} | by_input),
}

# %%
rows, of = [], "quantization_sharing.lenet5"
for key, (text, method, bits, options) in changes.items():
    rows.append({"LeNet-5": text})
    for part, names in (("all", ["conv1", "conv2", "fc1", "fc2"]), ("dense", ["fc1", "fc2"])):
        nets = [coded(method, net, bits=dict.fromkeys(names, bits), **options) for net in lenet5]
        times = record(f"{of}.{key}_{part}_file_ratio", [*map(smaller, nets)])
        wrong = record(f"{of}.{key}_{part}_error_pct", [*map(error, nets)], "%", 2)
        rows[-1] |= {f"{part} layers: smaller": times, f"{part} layers: test error": wrong}
figures.table(rows, caption="LeNet-5 without training, all layers coded or the dense ones")

# %% [markdown]
# **What to see.** The dense network errs on {glue:text}`quantization_sharing.lenet5.baseline_error_pct`; read across what it costs to code the convolutions, and how few bytes that saves.
# None of the four saves time by itself, for the weights are rebuilt from their codes at every use; exercise 1 shows where a saving could come from.
#
# ## Where it breaks
#
# **Signs and biases.** A sign without scale is many times larger than the weight it stands for, so that biases hardly count any more.
# A scale brings them back, into a network whose weights are all distorted: the error is {glue:text}`quantization_sharing.sign_none.error_pct` without and {glue:text}`quantization_sharing.sign_layer.error_pct` with the layer's scale, and {glue:text}`quantization_sharing.sign_layer.unbiased_error_pct` with that scale and all biases zero.
#
# **A codebook larger than the layer.** Let the first layer have a row for each of its 300 outputs, in pieces of four, and up to 512 codewords a segment.

# %%
whole = coded(pq.quantize, dense[0].fc1, bits=9, length=4)
assert torch.equal(whole.weight, dense[0].fc1.weight)
record("quantization_sharing.large_codebook.file_ratio", smaller(whole), digits=2)

# %% [markdown]
# With as many codewords as rows nothing is lost, and the file is {glue:text}`quantization_sharing.large_codebook.file_ratio` "smaller" than the floats.
#
# ## Exercises
#
# 1. Product quantization need not decode: multiply the input with the codewords, then look products up. Check it, and count.

# %% tags=["hide-cell"]
layer = coded(pq.quantize, dense[0].fc1, bits=4, length=4)
form, x = layer.parametrizations.weight, dataset.test.images[:100].flatten(1)
books = form.original.reshape(196, 16, 4)  # segments, codewords, columns
tables = torch.einsum("nst,skt->snk", x.reshape(-1, 196, 4), books)
looked_up = sum(tables[s][:, form[0].codes[:, s]] for s in range(196)) + layer.bias
torch.testing.assert_close(looked_up, layer(x), rtol=1e-4, atol=1e-4)
print(f"{300 * 784:,} multiply-adds, or {16 * 784:,} and {300 * 196:,} additions")

# %% [markdown]
# 2. Which way should rows run, and how long should a piece be? That is a choice, so validation images judge.

# %% tags=["hide-cell"]
rows = []
for vectors, length in [(vectors, length) for vectors in pq.VECTORS for length in lengths]:
    net = coded(pq.quantize, dense[0], bits=4, length=length, vectors=vectors)
    judged = error(net, dataset.validation)
    row = {"a row for each of the": vectors, "weights in a piece": length}
    rows.append(row | {"times smaller": f"{smaller(net):.1f}", "error (%)": f"{judged:.2f}"})
figures.table(
    rows, caption="Product quantization of one LeNet-300-100, 16 codewords; validation error"
)

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`gong2014vq` compares the four methods, {cite:t}`jegou2011product` is product quantization for search, {cite:t}`lloyd1982least` the iteration, {cite:t}`han2016deep` the starts, {cite:t}`lecun1998gradient` LeNet-5, {cite:t}`berthelier2020survey` the survey.
