# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-quantization-entropy)=
# # Entropy-coded quantization: Hessian-weighted, uniform, entropy-constrained
#
# Which shared values make a network's file small without making its answers worse?
# With eight values in LeNet-300-100, a small digit classifier, the error is
# {mean}`quantization_entropy.dense_plain8.error_pct 1` by k-means, and
# {mean}`quantization_entropy.dense_hessian8.error_pct 1` if each weight counts by its effect on the loss.
# This is {glue:text}`quantization_entropy.eight.told`.
# With as many bits per weight, evenly spaced values give
# {mean}`quantization_entropy.dense_equal_uniform.error_pct 1` in the dense network, but
# {mean}`quantization_entropy.pruned_equal_uniform.error_pct 0` after pruning.
#
# ```{claims} quantization_entropy
# ```
#
# ```{cost} quantization_entropy
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 1  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
kept = {
    "fc1": 0.06,
    "fc2": 0.1,
    "fc3": 0.3,
}  # shares of their weights that pruning keeps
final_epochs = 40  # to prune and retrain, the first half of them pruning
samples = 200  # training images from which second derivatives are estimated
more_samples = 500  # images for a second estimate, to compare
loss_samples = 1000  # training images on which the loss is measured
values = [4, 8, 64]  # numbers of shared values, powers of two
rates = [1.2, 3.0]  # bits per weight, for evenly spaced and entropy-constrained cells
moment_steps = 5  # of each optimizer
tune_epochs = 2  # to train the shared values
source_symbols = 100_000  # draws from a Gaussian source
source_draws = 3  # such sources

# %% tags=["hide-input"]
import copy

import numpy as np
import torch
from scipy.stats import norm, spearmanr
from torch.nn.functional import cross_entropy

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached, trained
from lib.coding import coders
from lib.datasets import Split
from lib.pruning import magnitude, optimal_brain_damage
from lib.quantization import (
    deep_compression,
    entropy_constrained,
    optimal_kmeans,
    scalar_kmeans,
)
from lib.quantization import hessian_weighted_kmeans as hessian_weighted
from lib.quantization import uniform_quantization as uniform
from lib.quantization.shared import hessian_diagonal, joint_codebook
from lib.weights import compressed_form, layers

dataset = datasets.load(data)
record = evidence.recorder("quantization_entropy", dataset)
DRAWN = {1: "One network of each kind", 2: "Two networks of each kind, and their means"}
DRAWN = DRAWN.get(seeds, "Means over seeds with 95 % intervals")


def told(gains):
    """Words for a gain of one way over another, in points of error of each network."""
    mean, half = evidence.interval(list(gains))
    if mean <= 0:
        return "no gain"
    settled = len(gains) >= evidence.FEW and mean > half
    return "a gain" if settled else "a gain, but too few networks to be sure"


# %% [markdown]
# Every technique of this chapter starts from the same trained networks: dense, or pruned and retrained as in the
# [chapter on pruning](pruning.py).
# {cite:t}`choi2017towards` propose all three techniques for networks; the survey that this book tests describes only
# the first {cite:p}`berthelier2020survey`.

# %% tags=["hide-input"]
dense = trained(
    training.fit,
    models.lenet_300_100,
    seeds=range(seeds),
    split=dataset.train,
    epochs=epochs,
    learning_rate=0.1,
)
options = {"density": kept, "ramp": final_epochs // 2, "epochs": final_epochs}
options |= {"split": dataset.train, "learning_rate": 0.1}
pruned = [
    cached(magnitude.gradual, copy.deepcopy(net), seed=1000 + seed, **options)
    for seed, net in enumerate(dense)
]
nets = {"dense": dense, "pruned": pruned}
part, seen = dataset.train.first(samples), dataset.train.first(loss_samples)
baseline = {
    n: [training.error_pct(m, dataset.test) for m in group] for n, group in nets.items()
}
for net, wrong in baseline.items():
    record(f"{net}.baseline_error_pct", wrong)

# %% [markdown]
# (sec-hessian-weighted)=
# ## Hessian-weighted k-means
#
# **The idea.** The {term}`k-means` of the [chapter on weight sharing](quantization_sharing.py) makes the squared error of the
# weights small, as if all weights were equally important.
# But some matter more to the {term}`loss` $L$ than others {cite:p}`choi2017towards`.
# At a minimum of the loss the slope is zero, so the curvature says what a small error of a weight costs.
# A weight in a flat direction may move far; a weight in a steep direction must stay.
#
# **The formula.** The second derivatives of the loss form a matrix, the *{term}`Hessian`*, of which we keep only the diagonal
# $h_{ii}$.
# If each weight $w_i$ moves by $\delta w_i$, the loss rises by $\delta L$, and the clusters $C_j$ with their {term}`centroids <centroid>`
# $c_j$ keep this rise small:
#
# $$
# \begin{aligned}
# \delta L &\approx \tfrac12 \sum_i h_{ii}\, \delta w_i^2, \\
# \min_{C}\ & \sum_{j=1}^{k} \sum_{w_i \in C_j} h_{ii} (w_i - c_j)^2, \qquad
# c_j = \frac{\sum_{C_j} h_{ii} w_i}{\sum_{C_j} h_{ii}} .
# \end{aligned}
# $$ (eq-hessian-weighted)
#
# A weight still goes to its nearest centroid, but the centroids move to where errors cost most.
# Each term of the sum is in units of the loss, so layers of very different scales can share *one* {term}`codebook`.
#
# **The code.** k-means runs on the weights of all layers at once, and each weight counts by its importance.
# The curvature comes from squared gradients.

# %% tags=["remove-input"]
figures.show_source(
    joint_codebook.share_together, hessian_diagonal.gauss_newton_diagonal
)

# %% [markdown]
# **An exact check.** A point with importance 3 counts like three equal points.
# If the logits are linear in the weights, the curvature is $\mathbb E[p_c (1 - p_c)\, x_j^2]$, where $p_c$ is the
# probability of class $c$ and $x_j$ the input.

# %%
random = np.random.default_rng(0)
points, times = random.normal(size=50), random.integers(1, 5, size=50)
once = optimal_kmeans.optimal(points, 4, times)
assert np.allclose(
    once.centroids, optimal_kmeans.optimal(np.repeat(points, times), 4).centroids
)
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
inputs = Split(torch.rand(20, 4), torch.randint(3, (20,)))
p = linear(inputs.images).softmax(dim=1)
by_hand = (p * (1 - p)).T @ inputs.images.square() / 20
assert torch.allclose(
    hessian_diagonal.exact_diagonal(linear, inputs)["1"], by_hand, atol=1e-6
)

# %% [markdown]
# **Where the curvature comes from.** Exact second derivatives take one backward pass for each weight, which only toy
# networks can afford.
# The Gauss-Newton diagonal approximates them near a minimum, and it is never negative.
# It takes one pass per class ({cite:t}`lecun1989obd`, in the [chapter on saliency](pruning_saliency.py)), or a single
# pass if labels are drawn from the network's own answers.

# %% tags=["hide-input"]
curvature = {
    n: [optimal_brain_damage.curvature(m, part) for m in group]
    for n, group in nets.items()
}
more = optimal_brain_damage.curvature(
    nets["dense"][0], dataset.train.first(more_samples)
)


def flat(importance, net, seed):  # of the weights that are not pruned
    kept_weights = [
        importance[name][layer.weight != 0] for name, layer in layers(nets[net][seed])
    ]
    return torch.cat(kept_weights).double().numpy()


def alike(importance, net, seed):  # rank correlation with the diagonal
    return spearmanr(*(flat(h, net, seed) for h in (importance, curvature[net][seed])))[
        0
    ]


record("samples.spearman", alike(more, "dense", 0), digits=3)
for name, count in (("few", samples), ("more", more_samples)):
    record(f"samples.{name}", count, "images", exact=True)
dead = [
    100 * np.mean(flat(h, "dense", s) == 0) for s, h in enumerate(curvature["dense"])
]
record("dead.share_pct", dead, digits=1)

# %% [markdown]
# A few images are enough: the curvature from {glue:text}`quantization_entropy.samples.few` ranks the weights nearly
# like the curvature from {glue:text}`quantization_entropy.samples.more`, with a rank correlation (Spearman) of
# {glue:text}`quantization_entropy.samples.spearman`.
#
# ### Does the prediction hold?
#
# We quantize from coarse to fine, and compare the rise of the loss that the formula predicts with the rise that we
# measure.
# In pruned networks the zeros stay zero and count as one of the $k$ values.


# %% tags=["hide-input"]
def kmeans(net, seed, k, importance=None, **options):  # all layers together
    model = copy.deepcopy(nets[net][seed])
    return hessian_weighted.share(
        model, k=k - (net == "pruned"), importance=importance, **options
    )


def weighted(net, seed, k, **options):
    return kmeans(net, seed, k, curvature[net][seed], **options)


def layer_by_layer(net, seed, k):
    model, bits = copy.deepcopy(nets[net][seed]), int(np.log2(k))
    if net == "dense":
        return scalar_kmeans.share(model, bits=bits)
    return deep_compression.share_survivors(model, bits=bits, start="optimal")


def measured(model, net, seed):
    """What is read off one quantized network; sizes of its file in kB."""
    before, bends, row = nets[net][seed], curvature[net][seed], {"predicted": 0.0}
    with torch.no_grad():
        for name, layer in layers(model):
            moved = layer.weight - before.get_submodule(name).weight
            row["predicted"] += (bends[name] * moved**2).sum().item() / 2
        losses = [
            cross_entropy(m(seen.images), seen.labels).item() for m in (model, before)
        ]
    codes = torch.cat([compressed_form(layer)[0].codes for _, layer in layers(model)])
    row |= {"loss": losses[0] - losses[1], "bits": uniform.rate(codes.numpy())}
    row |= {c: len(storage.dumps(model, coder=c)) / 1000 for c in ("fixed", "huffman")}
    return row | {"error": training.error_pct(model, dataset.test)}


def sweep(make, net, settings):
    """Name -> what is measured, (settings, seeds). A setting may be a list, of one for each seed."""
    rows = [s if isinstance(s, list) else [s] * seeds for s in settings]
    results = [
        [measured(make(net, s, row[s]), net, s) for s in range(seeds)] for row in rows
    ]
    return {
        key: np.array([[one[key] for one in row] for row in results])
        for key in results[0][0]
    }


# %%
WAYS = {"plain": kmeans, "hessian": weighted, "layers": layer_by_layer}
swept = {
    (way, net): sweep(make, net, values) for way, make in WAYS.items() for net in nets
}

# %% tags=["remove-cell"]
for (way, net), results in swept.items():
    for i, k in enumerate(values):
        record(f"{net}_{way}{k}.error_pct", results["error"][i])
        record(f"{net}_{way}{k}.loss_rise", results["loss"][i], digits=3)
off = {
    net: swept["hessian", net]["loss"] / swept["hessian", net]["predicted"]
    for net in nets
}
wrong4, wrong8 = (
    {way: swept[way, "dense"]["error"][values.index(k)] for way in WAYS} for k in (4, 8)
)
evidence.phrase(
    "quantization_entropy.eight.told", told(wrong8["plain"] - wrong8["hessian"])
)
worse = wrong4["hessian"].mean() > wrong4["plain"].mean()
evidence.phrase("quantization_entropy.four.effect", "raises" if worse else "lowers")
for net, ratios in off.items():
    pairs = zip(
        *(swept["hessian", net][what].T for what in ("predicted", "loss")), strict=True
    )
    record(f"{net}.prediction_spearman", [spearmanr(*pair)[0] for pair in pairs], "", 2)
    for name, row in (("coarse", 0), ("fine", -1)):
        record(f"{net}.{name}_measured_ratio", ratios[row])

# %% tags=["remove-input"]
VARIANT = {"marker": "x", "linestyle": ":"}  # of the technique whose color it has
LOOK = {
    "plain": figures.look("gong-scalar-kmeans"),
    "hessian": figures.look("hessian-weighted-kmeans"),
    "layers": figures.look("gong-scalar-kmeans") | VARIANT,
    "fixed": figures.look("gong-scalar-kmeans") | VARIANT,
    "uniform": figures.look("ecsq-uniform"),
    "ecsq": figures.look("ecsq-lloyd"),
    "bent": figures.look("ecsq-lloyd") | VARIANT,
}
TEXT = {
    "plain": "k-means",
    "hessian": "Hessian-weighted",
    "layers": "k-means per layer",
    "fixed": "k-means, fixed length",
    "uniform": "uniform",
    "ecsq": "entropy-constrained",
    "bent": "with curvature",
}
figure, ax = figures.axes()
for way, net in [(way, net) for way, net in swept if way != "layers"]:
    x, y = (
        np.maximum(swept[way, net][what], 1e-6).ravel()
        for what in ("predicted", "loss")
    )
    face = "none" if net == "dense" else LOOK[way]["color"]
    look = LOOK[way] | {"linestyle": "none", "mfc": face}
    ax.plot(x, y, **look, label=f"{TEXT[way]}, {net}")
ax.axline((1, 1), slope=1, color="#b0b0b0", linewidth=1, zorder=0)
ax.set(xscale="log", yscale="log", xlabel="predicted rise of the loss (nats)")
ax.set(ylabel="measured rise (nats)")
figures.legend(ax)
mean = {net: ratios[0].mean() for net, ratios in off.items()}
figures.show(
    figure,
    finding=f"The prediction ranks the codebooks, but the coarsest cost {mean['dense']:.0f} times what it says",
    name="fig-predicted-loss",
    caption="Rise of the cross-entropy on training images, predicted from the diagonal and measured. Each mark is one network with one number of values; on the gray line, prediction and measurement are equal.",
    alt=f"Marks around a rising diagonal line. At the coarsest weighted codebooks the measured rise is {mean['dense']:.1f} times the predicted one in dense and {mean['pruned']:.1f} times in pruned networks.",
)
rows = []
for i, k in enumerate(values):
    row = {"values": k}
    for text, way, what in (
        ("k-means", "plain", "loss"),
        ("Hessian-weighted", "hessian", "loss"),
        ("the latter, predicted", "hessian", "predicted"),
    ):
        rise = swept[way, "dense"][what][i].tolist()
        row[text] = evidence.formatted(rise, unit="", digits=4)
    rows.append(row)
figures.table(rows, caption="Rise of the loss in dense networks (nats)")

# %% [markdown]
# **What to see.** The prediction gets the order right and the size wrong.
# In dense networks the rank correlation between prediction and measurement is
# {mean}`quantization_entropy.dense.prediction_spearman`; any prediction that shrinks as values are added reaches that.
# But with the coarsest codebook the loss rises
# {finding}`far more than predicted | quantization_entropy.dense.coarse_measured_ratio > 2`:
# {mean}`quantization_entropy.dense.coarse_measured_ratio` the predicted rise.
# With the finest codebook it is {mean}`quantization_entropy.dense.fine_measured_ratio`.
# The formula leaves out the slope, the cross terms, and everything beyond the second order.
# The survey says that the weighting lowers the loss of quantization; our measurements say {verdict}`C2.4-14`.
#
# ### One codebook for all layers


# %% tags=["remove-input"]
def panelled(curves, labels, **shown):
    """Two panels of curves, name -> (x, errors), that share their axis of errors and a legend."""
    figure, panels = figures.axes(2, sharey=True)
    for ax, lines, label in zip(panels, curves, labels, strict=True):
        for way, (x, errors) in lines.items():
            order = np.argsort(x)
            runs = [errors[i] for i in order]
            x = np.asarray(x)[order]
            figures.line(ax, x, runs, LOOK[way], TEXT[way], bounds=figures.PERCENT)
        figures.logarithmic(ax, "y")
        ax.set(xlabel=label, ylim=(0.7 * min(map(np.mean, baseline.values())), 100))
    panels[0].set(ylabel="test error (%)")
    handles = panels[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "columnspacing": 1}
    figure.legend(*handles, **place, ncols=3, frameon=False, fontsize=10)
    figures.show(figure, **shown)


errors_at = {
    key: results["error"][:2].mean(axis=1) for key, results in swept.items()
}  # of the first two numbers of values
best = min(WAYS, key=lambda way: errors_at[way, "dense"][0])  # not chosen by test
texts = ", ".join(
    f"{TEXT[way]} {wrong[0]:.1f} % ({net})" for (way, net), wrong in errors_at.items()
)
panelled(
    [
        {way: (np.log2(values), swept[way, net]["error"]) for way in WAYS}
        for net in nets
    ],
    [f"bits per code, {net}" for net in nets],
    finding=f"With {values[0]} values, {TEXT[best]} is best in dense networks: {errors_at[best, 'dense'][0]:.1f} % error",
    name="fig-joint-codebook",
    caption=f"Test error against the logarithm of the number of shared values: one codebook for all layers, or one for each. {DRAWN}.",
    alt=f"Three falling curves in each of two panels. With {values[0]} values: {texts}.",
)

# %% [markdown]
# **What to see.** With eight values that all layers share, weighting brings
# {glue:text}`quantization_entropy.eight.told`.
# The error of dense networks is {mean}`quantization_entropy.dense_plain8.error_pct` by k-means and
# {mean}`quantization_entropy.dense_hessian8.error_pct` weighted.
# With four values, weighting {glue:text}`quantization_entropy.four.effect` the mean error, from
# {mean}`quantization_entropy.dense_plain4.error_pct` to {mean}`quantization_entropy.dense_hessian4.error_pct`.
# A codebook of four values for each layer
# {finding}`is better | quantization_entropy.dense_layers4.error_pct < quantization_entropy.dense_hessian4.error_pct; quantization_entropy.dense_layers4.error_pct < quantization_entropy.dense_plain4.error_pct`
# than either: it reaches {mean}`quantization_entropy.dense_layers4.error_pct`.
# The survey says that with the Hessian all layers can be quantized together; our measurements say {verdict}`C2.4-17`.
#
# ### Curvature from the optimizer
#
# **The idea.** The optimizer Adam keeps a running mean $v$ of each weight's squared gradient, and so do its relatives
# AdaGrad, Adadelta and RMSProp.
# Near a minimum, squared gradients can replace the curvature.
# {cite:t}`choi2017towards` take $\sqrt{v}$ of Adam, and mention the other three as possible.
#
# **An experiment.** We try the optimizers of {cite:t}`kingma2015adam`, {cite:t}`duchi2011adagrad`,
# {cite:t}`zeiler2012adadelta` and {cite:t}`tieleman2012rmsprop`.
# Each runs for some steps with a learning rate of zero, so its averages fill up while the weights stay.
# If you trained your network with one of them, `read_moments` reads the averages from the optimizer, at no cost.


# %% tags=["hide-input"]
def stand_in(name, net, seed):
    model = nets[net][seed]
    if name == "labels":
        return hessian_diagonal.gauss_newton_diagonal(model, part, seed=seed)
    options = {"optimizer": name, "seed": seed, "steps": moment_steps}
    return hessian_diagonal.second_moment_roots(model, dataset.train, **options)


# %% tags=["remove-input"]
IMPORTANCE = {"labels": "drawn labels", "adam": "Adam", "adagrad": "AdaGrad"}
IMPORTANCE |= {"adadelta": "Adadelta", "rmsprop": "RMSProp"}
rows, worse = [], []
for name in ("labels", *hessian_diagonal.OPTIMIZERS):
    row = {"importance": IMPORTANCE[name]}
    for net in nets:
        given = [stand_in(name, net, seed) for seed in range(seeds)]
        ranks = [alike(h, net, seed) for seed, h in enumerate(given)]
        text = record(f"{net}_{name}.spearman", ranks, digits=2)
        row[f"rank corr., {net}"] = text
        wrong = [
            training.error_pct(kmeans(net, s, 8, given[s]), dataset.test)
            for s in range(seeds)
        ]
        row[f"error, {net}"] = record(f"{net}_{name}8.error_pct", wrong)
        if net == "dense" and name != "labels":
            own = swept["hessian", net]["error"][values.index(8)]
            worse.append(np.mean(wrong) - own.mean())
    rows.append(row)
figures.table(
    rows,
    caption="Substitutes for the diagonal: rank correlation with it, and error with eight values",
)
record("moments.above_points", max(worse))
record("plain.above_points", wrong8["plain"] - wrong8["hessian"])

# %% [markdown]
# **What to see.** These averages, the *moments*, rank the weights much as the diagonal does: the rank correlation is
# {mean}`quantization_entropy.dense_adam.spearman` for Adam in dense networks.
# With any of them in place of the diagonal, the mean error of dense networks is
# {finding}`at most | quantization_entropy.moments.above_points < 2` {mean}`quantization_entropy.moments.above_points`
# above that with the diagonal.
# The error of k-means without any importance is {mean}`quantization_entropy.plain.above_points` above it.
# The square root keeps the ranks but narrows the range, which changes how much is given up for the steepest weights.
# The survey says that optimizers provide alternatives to the Hessian; our measurements say {verdict}`C2.4-16`.
#
# **What do they save?** We count and time the backward passes of the diagonal and of the moments, for the same images.

# %%
sample, size = part.first(200), 100  # images, and how many of them at a time
WAYS_TO_WEIGH = {
    "diagonal": torch.enable_grad()(  # times are taken without gradients
        lambda: optimal_brain_damage.curvature(dense[0], sample, batch_size=size)
    )
}
for name in hessian_diagonal.OPTIMIZERS:
    options = {"optimizer": name, "seed": 0, "steps": 2, "batch_size": size}
    WAYS_TO_WEIGH[name] = torch.enable_grad()(
        lambda o=options: hessian_diagonal.second_moment_roots(dense[0], sample, **o)
    )
times = measure.latency_ms(WAYS_TO_WEIGH, runs=21)


def backward_passes(weigh):
    """How often the first layer's outputs get a gradient while ``weigh`` runs."""
    count = []

    def watch(layer, inputs, output):
        first = isinstance(layer, torch.nn.Linear) and layer.out_features == 300
        if first and output.requires_grad:
            output.register_hook(count.append)

    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    weigh()
    hook.remove()
    return len(count)


# %% tags=["remove-input"]
rows = []
counts = {name: backward_passes(weigh) for name, weigh in WAYS_TO_WEIGH.items()}
for name, count in counts.items():
    slower = times["diagonal"].median / times[name].median
    row = {"importance": IMPORTANCE.get(name, "diagonal, all classes")}
    row |= {"backward passes": record(f"cost_{name}.passes", count, exact=True)}
    if name != "diagonal":
        fewer = counts["diagonal"] / count
        record(f"cost_{name}.gain_passes_ratio", fewer, exact=True)
        text = record(f"cost_{name}.gain_latency_ratio", slower)
        row["the diagonal takes longer by"] = text
    rows.append(row)
figures.table(
    rows,
    caption="Cost of an importance for each weight, from the same images in batches of equal size, one thread",
)

# %% [markdown]
# **What to see.** The diagonal takes {mean}`quantization_entropy.cost_diagonal.passes` backward passes, one per class
# and batch.
# Adam takes {mean}`quantization_entropy.cost_adam.passes`, and one of these only finds out which weights the loss
# depends on.
# The diagonal {finding}`takes longer | quantization_entropy.cost_adam.gain_latency_ratio > 1`:
# {mean}`quantization_entropy.cost_adam.gain_latency_ratio` the time of Adam.
# The survey says that optimizers reduce the cost: counted in passes, our measurements say {verdict}`C2.4-31`, and
# measured in time, {verdict}`C2.4-32`.
#
# (sec-uniform-quantization)=
# ## Uniform quantization
#
# **The idea.** k-means puts its few values where most weights are.
# But if an {term}`entropy` code follows, the number of values costs nothing.
# Only the entropy of the codes costs bits, and rare codes add little to it.
# In the limit of small cells, the best cells are then simply all equally wide {cite:p}`gish1968asymptotically`.
#
# **The formula.** With cells of width $\Delta$, a weight falls into cell $a_i = \operatorname{round}(w_i / \Delta)$,
# and each cell keeps the weighted mean of its members.
# If the cells are small, a source of differential entropy $\eta$ takes $\eta - \log_2 \Delta$ bits per value and has
# the squared error $\Delta^2 / 12$.
# For a Gaussian source of variance $\sigma^2$, no code at all reaches a squared error $D$ with fewer bits than
#
# $$ R(D) = \tfrac12 \log_2 \frac{\sigma^2}{D}, $$ (eq-rate-distortion)
#
# and equal cells need $\tfrac12 \log_2 \frac{\pi e}{6}$ bits more than this bound.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(uniform.codebook, uniform.step_for)

# %% [markdown]
# **An exact check.** We draw from a Gaussian, quantize with three widths of cells, and write the cells with a range
# code, an entropy code that spends fractions of bits.
# The bytes decode to the same cells, and their number, with the table included, agrees with the theory.


# %% tags=["hide-input"]
def rated(draws, codes):
    """Bits a symbol in the bytes of a range code and its table, after reading them back."""
    table = coders.shares(np.bincount(codes))
    content = coders.range_code(codes, table)
    assert np.array_equal(coders.unrange(content, len(codes), table), codes)
    return (
        8
        * (len(content) + len(coders.pack(table, int(table.max()).bit_length())))
        / len(draws)
    )


def gaps(step, draws):
    """Bits above the exact entropy of the cells, and above the rate-distortion bound."""
    p = np.diff(norm.cdf((np.arange(-80, 82) - 0.5) * step))
    book = uniform.codebook(draws, step)
    bits, error = rated(draws, book.codes), book.squared_error / len(draws)
    return bits + (p[p > 0] * np.log2(p[p > 0])).sum(), bits - 0.5 * np.log2(
        draws.var() / error
    )


# %%
gaussians = [
    np.random.default_rng(s).normal(size=source_symbols) for s in range(source_draws)
]
excess = np.array(
    [[gaps(step, draws) for draws in gaussians] for step in (1, 0.5, 0.25)]
)
assert np.abs(excess[..., 0]).max() < 0.02  # bits, from the theory

# %% tags=["remove-cell"]
record("gaussian.rate_gap_bits", np.abs(excess[..., 0]).max(axis=0), "bits", 4)
record("gaussian.bound_gap_bits", excess[..., 1].max(axis=0), "bits", 3)
record(
    "gaussian.theory_gap_bits", 0.5 * np.log2(np.pi * np.e / 6), "bits", 3, exact=True
)

# %% [markdown]
# **What to see.** Equal cells leave {finding}`little to gain | quantization_entropy.gaussian.bound_gap_bits < 0.3`.
# Over three widths of the cells, the bytes differ from the theory by
# {finding}`at most | quantization_entropy.gaussian.rate_gap_bits < 0.02`
# {mean}`quantization_entropy.gaussian.rate_gap_bits` per value.
# The distance to the bound is {mean}`quantization_entropy.gaussian.bound_gap_bits`, and the theory for small cells says
# {mean}`quantization_entropy.gaussian.theory_gap_bits`.
# Cleverer cells for single values can save
# {finding}`no more | quantization_entropy.gaussian.bound_gap_bits - quantization_entropy.gaussian.theory_gap_bits < 0.02`
# than that.
# These are means over draws of the source, not over networks.
#
# (sec-entropy-constrained)=
# ## Entropy-constrained quantization
#
# **The idea.** Let k-means itself pay for bits {cite:p}`chou1989entropy`.
# A weight may then go to a centroid that is not the nearest, if that centroid is chosen more often and so has a shorter
# code.
#
# **The formula.** With the price $\lambda$ of a bit and the share $p_j$ of cluster $j$, the cost is
#
# $$
# \begin{aligned}
# J_\lambda &= \frac1N \sum_i h_{ii} (w_i - c_{a(i)})^2 + \lambda \sum_j p_j \log_2 \frac{1}{p_j}, \\
# a(i) &= \arg\min_j\ h_{ii} (w_i - c_j)^2 - \lambda \log_2 p_j .
# \end{aligned}
# $$ (eq-entropy-constrained)
#
# We update assignments $a(i)$, means and shares in turn, and $J$ never rises.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(entropy_constrained.iterated)

# %% [markdown]
# **An exact check.** $J$ never rises from one step to the next.
# If bits are free, the method is k-means; if they are very expensive, a single cluster is left.

# %%
few = gaussians[0][:2000]
begin, price = np.linspace(-3, 3, 40), 0.05
books = [
    entropy_constrained.codebook(few, price, start=begin, iterations=n)
    for n in range(20)
]
course = [entropy_constrained.objective(book, price) for book in books]
assert (np.diff(course) <= 0).all()
free = entropy_constrained.codebook(few, 0, start=np.linspace(-2, 2, 7))
assert np.allclose(
    free.centroids, optimal_kmeans.lloyd(few, np.linspace(-2, 2, 7)).centroids
)
assert len(entropy_constrained.codebook(few, 1e9).centroids) == 1

# %% [markdown]
# **An experiment.** We quantize the Gaussian source from coarse to fine, and measure every rate in real bytes.

# %%
draws, above = gaussians[0], {"fixed": [], "plain": [], "uniform": [], "ecsq": []}
for bits in (1, 2, 3, 4, 5):
    step = uniform.step_for(draws, bits)
    books = {
        "plain": optimal_kmeans.optimal(draws, 2**bits),
        "uniform": uniform.codebook(draws, step),
    }
    books["ecsq"] = entropy_constrained.codebook(draws, np.log(2) * step**2 / 6)
    for name, book in (books | {"fixed": books["plain"]}).items():
        bound = 0.5 * np.log2(draws.var() / (book.squared_error / len(draws)))
        spent = bits if name == "fixed" else rated(draws, book.codes)
        above[name].append((bound, spent - bound))

# %% tags=["remove-input"]
figure, ax = figures.axes()
for name, points in above.items():
    ax.plot(*zip(*points, strict=True), **LOOK[name], label=TEXT[name])
for height, text in (
    (0.5 * np.log2(np.pi * np.e / 6), "uniform, in theory"),
    (0, "bound"),
):
    ax.axhline(height, color="#8a8a8a" if height else "black", linewidth=1.2)
    ax.text(
        above["fixed"][-1][0], height - 0.01, text, fontsize=10, va="top", ha="right"
    )
ax.set(
    xlabel="bits that the bound allows at the error reached",
    ylabel="bits spent above it",
)
ax.set(ylim=(-0.1, None))
figures.legend(ax)
last = ", ".join(f"{TEXT[name]} {points[-1][1]:.2f}" for name, points in above.items())
ends = {name: points[-1][1] for name, points in above.items()}
figures.show(
    figure,
    finding=f"An entropy code saves k-means up to {ends['fixed'] - ends['plain']:.2f} bits; uniform cells save {ends['plain'] - ends['uniform']:.2f} more",
    name="fig-gaussian-rate",
    caption="A Gaussian source, quantized and coded: bits per value above the rate-distortion bound, from the bytes of a range code, or of codes of one length.",
    alt=f"Four curves above the bound, which is a line at zero. Bits above it at the finest setting: {last}.",
)

# %% [markdown]
# **What to see.** Uniform cells are as far from the bound as the theory says, and k-means is farther, because it spends
# centroids, and thus bits, on values that are rare.
# Paying for bits gains something only if cells are coarse, at the left end of the figure.
#
# %% [markdown]
# ## All techniques on one baseline
#
# We quantize the same dense and pruned networks, all layers together, and write files with codes of one length or with
# Huffman codes.
# The means of uniform cells are weighted by the curvature; entropy-constrained cells are tried without and with the
# curvature.
# To compare at one rate, we also give uniform cells the entropy of eight Hessian-weighted values.
# The price of a bit that suits these cells is the price for entropy-constrained cells, too, which then take fewer bits.


# %% tags=["hide-input"]
def celled(net, seed, bits):
    options = {"bits": bits, "importance": curvature[net][seed]}
    return uniform.share(copy.deepcopy(nets[net][seed]), **options)


def constrained(net, seed, bits, importance=None):
    """The price of a bit is the one that suits uniform cells of so many bits."""
    model = copy.deepcopy(nets[net][seed])
    survivors = torch.cat(
        [layer.weight[layer.weight != 0] for _, layer in layers(model)]
    )
    price = np.log(2) / 6 * uniform.step_for(survivors.detach().numpy(), bits) ** 2
    return entropy_constrained.share(model, penalty=price, importance=importance)


def bent(net, seed, bits):
    return constrained(net, seed, bits, curvature[net][seed])


# %%
RATED = {"uniform": celled, "ecsq": constrained, "bent": bent}
swept |= {
    (way, net): sweep(make, net, rates) for way, make in RATED.items() for net in nets
}
equal = {}  # (technique, network) -> what is measured at the rate of eight values
for net in nets:
    for way in ("plain", "hessian"):
        row8 = values.index(8)
        equal[way, net] = {key: v[row8] for key, v in swept[way, net].items()}
    bits = equal["hessian", net]["bits"].tolist()
    for way in ("uniform", "ecsq"):
        results = sweep(RATED[way], net, [bits])
        equal[way, net] = {key: value[0] for key, value in results.items()}

# %% tags=["remove-cell"]
UNITS = {"bits": ("", 2), "huffman": ("", 1), "loss": ("", 3), "error": ("%", 2)}
texts = {}
for (way, net), measures in equal.items():
    for what, (unit, digits) in UNITS.items():
        key = f"{net}_equal_{way}.{'error_pct' if what == 'error' else what}"
        texts[way, net, what] = record(key, measures[what], unit, digits)
    gain = measures["fixed"] / measures["huffman"]
    record(f"{net}_equal_{way}.huffman_gain_ratio", gain, digits=2)

# %% tags=["remove-input"]
for net in nets:
    results = {way: swept[way, net] for way in ("plain", "hessian", *RATED)}
    for way in ("uniform", "ecsq"):
        one = equal[way, net]
        results[way] = {
            key: np.vstack([value, one[key][None]])
            for key, value in results[way].items()
        }
    ends = {
        way: [equal[way, net][what].mean() for what in ("error", "huffman")]
        for way in ("plain", "uniform", "ecsq", "hessian")
    }
    alt = [f"{TEXT[w]} {e:.1f} % at {size:.0f} kB" for w, (e, size) in ends.items()]
    error, size = zip(*ends.values(), strict=True)
    finding = {
        "dense": f"With Huffman codes, uniform cells give {error[1]:.1f} % error in {size[1]:.0f} kB, "
        f"k-means {error[0]:.1f} % in {size[0]:.0f} kB",
        "pruned": f"After pruning, coarse uniform cells give {error[1]:.0f} % error, "
        f"eight Hessian-weighted values {error[3]:.1f} %",
    }
    titles = {"fixed": "codes of one length", "huffman": "Huffman codes"}
    panelled(
        [
            {w: (r[c].mean(axis=1), r["error"]) for w, r in results.items()}
            for c in titles
        ],
        [f"file (kB), {text}" for text in titles.values()],
        lead=net == "dense",
        finding=finding[net],
        name=f"fig-rate-{net}",
        caption=f"Test error against the size of the file, {net} networks: with codes of one length, and with Huffman codes. Crosses: entropy-constrained cells with the curvature. {DRAWN}.",
        alt=f"Five curves in each of two panels. At the rate of eight values, with Huffman codes: {', '.join(alt)}.",
    )
    rows = [
        {
            "technique": TEXT[way],
            "bits per weight": texts[way, net, "bits"],
            "file (kB)": texts[way, net, "huffman"],
            "rise of the loss": texts[way, net, "loss"],
            "test error": texts[way, net, "error"],
        }
        for way in ("plain", "hessian", "uniform", "ecsq")
    ]
    figures.table(
        rows,
        caption=f"{net.capitalize()} networks: eight values, or cells with the entropy of eight Hessian-weighted values; Huffman codes",
    )

# %% [markdown]
# **What to see.** In dense networks, uniform cells and Hessian-weighted k-means need
# {finding}`clearly smaller files | quantization_entropy.dense_equal_plain.huffman - quantization_entropy.dense_equal_uniform.huffman > 10; quantization_entropy.dense_equal_plain.huffman - quantization_entropy.dense_equal_hessian.huffman > 10`
# than k-means.
# A Huffman code makes the file of uniform cells {mean}`quantization_entropy.dense_equal_uniform.huffman_gain_ratio`
# smaller than codes of one length, and the file of eight k-means values
# {finding}`only | quantization_entropy.dense_equal_plain.huffman_gain_ratio < quantization_entropy.dense_equal_uniform.huffman_gain_ratio`
# {mean}`quantization_entropy.dense_equal_plain.huffman_gain_ratio`.
# In pruned networks the order is different: uniform cells misclassify
# {mean}`quantization_entropy.pruned_equal_uniform.error_pct 0`, entropy-constrained cells
# {mean}`quantization_entropy.pruned_equal_ecsq.error_pct 1`, and Hessian-weighted values
# {mean}`quantization_entropy.pruned_hessian8.error_pct 1`.
# The survey says that Hessian-weighted k-means minimizes the loss of performance; our measurements say
# {verdict}`C2.4-15`.
#
# At equal accuracy with Huffman codes, {cite:t}`choi2017towards` report LeNet files 51.25 times smaller with uniform cells, 47.16 with Hessian-weighted k-means, and 44.58 with k-means.
# No technique of this chapter saves multiply-adds: a weight is looked up and then used as before.
#
# ### Train the shared values
#
# As in Deep Compression, we can keep the codes and train the shared values.
# There is only one codebook, so all layers pull at the same few values.

# %% tags=["hide-input"]
rows, leads = [], []
for way in ("plain", "hessian"):
    tuned = []
    for seed in range(seeds):
        model = WAYS[way]("pruned", seed, 8)
        options = {"epochs": tune_epochs, "learning_rate": 1e-3, "weight_decay": 0.0}
        training.fit(model, dataset.train, seed=2000 + seed, **options)
        tuned.append(training.error_pct(model, dataset.test))
    before = swept[way, "pruned"]["error"][values.index(8)].tolist()
    row = {"shared values": TEXT[way]}
    row |= {"before training": evidence.formatted(before, unit="%", digits=2)}
    after = record(f"pruned_{way}8.trained_error_pct", tuned)
    rows.append(row | {"after training": after})
    leads.append((np.array(before), np.array(tuned)))
figures.table(rows, caption="Pruned networks, eight values: test error")
for key, (plain, hessian) in zip(
    ("lead", "trained_lead"), zip(*leads, strict=True), strict=True
):
    record(f"pruned.{key}_points", plain - hessian)
ahead, still = (np.mean(plain - hessian) for plain, hessian in zip(*leads, strict=True))
outcome = "does not change which values are ahead"
if ahead > 0:
    part_of = "all" if still <= 0 else "part"
    outcome = f"makes up for {part_of} of the worse start" if still < ahead else outcome
evidence.phrase("quantization_entropy.training.outcome", outcome)

# %% [markdown]
# Training {glue:text}`quantization_entropy.training.outcome`.
# On average, Hessian-weighted values lead over unweighted values by {mean}`quantization_entropy.pruned.lead_points`
# before training, and by {mean}`quantization_entropy.pruned.trained_lead_points` after it.
#
# ## Where it breaks
#
# **Inputs that are always dark.** {mean}`quantization_entropy.dead.share_pct 0` of the dense network's weights have a
# curvature of exactly zero.
# They read pixels that are black in every image that we looked at, or units that none of these images activates.
# Weighted k-means would ignore such weights, so `share_together` adds a *floor* to each importance, in units of their
# mean.
# To see whether this matters, we move the test images by up to three pixels, so that the dark inputs are used.


# %% tags=["hide-input"]
moved = training.shifted(dataset.test.images, 3, torch.Generator().manual_seed(0))
splits = {"error": dataset.test, "moved_error": Split(moved, dataset.test.labels)}
FLOORS = {"floor0": 0.0, "floor1": 1e-3, "floor2": 0.1, "floor3": 1e3}
rows = []
for key, floor in FLOORS.items():
    shared = [weighted("dense", seed, 8, floor=floor) for seed in range(seeds)]
    row = {"floor": f"{floor:g}"}
    for what, split in splits.items():
        wrong = [training.error_pct(model, split) for model in shared]
        row[what.replace("_error", " images")] = record(f"{key}.{what}_pct", wrong)
    rows.append(row)
wrong = [training.error_pct(model, splits["moved_error"]) for model in nets["dense"]]
row = {"floor": "not quantized", "moved images": record("dense.moved_error_pct", wrong)}
row["error"] = evidence.formatted(baseline["dense"], unit="%", digits=2)
rows.append(row)
figures.table(
    rows, caption="Dense networks, eight values: test error, also on moved images"
)

# %% [markdown]
# A small floor changes little: the error on moved images is {mean}`quantization_entropy.floor0.moved_error_pct 1`
# without one and {mean}`quantization_entropy.floor1.moved_error_pct 1` with the default.
# With a floor so high that weighted k-means becomes plain k-means, the error is
# {mean}`quantization_entropy.floor3.moved_error_pct 1`.
#
# **Many values.** With sixty-four values, every weight has one nearby, whether we weight or not: plain k-means
# misclassifies {mean}`quantization_entropy.dense_plain64.error_pct`, and weighted k-means
# {mean}`quantization_entropy.dense_hessian64.error_pct`.
#
# **One codebook of few values for all layers.** With four values for all layers, k-means misclassifies
# {mean}`quantization_entropy.dense_plain4.error_pct 1`; with four values per layer, it misclassifies
# {mean}`quantization_entropy.dense_layers4.error_pct 1`.
# A large layer of small weights attracts the centroids, and too few are left for small layers of large weights.
# The curvature does not cure this: with it, the error is {mean}`quantization_entropy.dense_hessian4.error_pct 1`.
#
# **Uniform cells on pruned weights.** Pruning leaves a gap around zero, which uniform cells do not know of.
# If the cells are wide, the middle one takes remaining weights of both signs and sets them to nearly zero.
# This explains the error of {mean}`quantization_entropy.pruned_equal_uniform.error_pct 0` in the table, where
# entropy-constrained cells have {mean}`quantization_entropy.pruned_equal_ecsq.error_pct 1`.
#
# **Curvature and the price of bits together.** In the figures above, entropy-constrained cells with the curvature push
# all unimportant weights to the cheapest code at once.
# Then the cross terms add up, which the diagonal leaves out.
#
# ## Exercises
#
# 1. Four values occur in one half, a quarter, an eighth and an eighth of all weights. How many bits per weight does a
#    Huffman code take, and how many do codes of one length take?

# %% tags=["hide-cell"]
bits = coders.huffman_bits(np.array([4, 2, 1, 1])) / 8
assert bits == uniform.rate(np.array([0] * 4 + [1] * 2 + [2, 3]))
evidence.answer(
    f"A Huffman code takes {bits:.2f} bits, exactly the entropy; codes of one length take {np.log2(4):.0f}."
)

# %% [markdown]
# 2. A file cannot share tables between layers. What does it cost to repeat the codebook and the code for each layer,
#    compared with one of each for all?

# %% tags=["hide-cell"]
model = weighted("dense", 0, 16)
encodings = [encoding for _, encoding in storage.streams(model)]
tables = sum(4 * len(encoding.tables["centroid"]) for encoding in encodings)
apart = sum(coders.huffman_bits(np.bincount(e.symbols["code"])) for e in encodings) / 8
codes = torch.cat([compressed_form(layer)[0].codes for _, layer in layers(model)])
together = coders.huffman_bits(np.bincount(codes)) / 8
evidence.answer(
    f"With tables for each layer the codebooks take {tables} bytes and the codes {apart:,.0f}; "
    f"with one for all they would take {4 * 16} and {together:,.0f} bytes."
)

# %% [markdown]
# 3. Quantize ShuffleNet, an image classifier from torchvision, with the curvature from drawn labels.
#    Store it, and load it into a new network. How much smaller is the file?

# %% tags=["hide-cell"]
from lib.vision import torchvision

torch.manual_seed(0)
build = torchvision.models.shufflenet_v2_x0_5
network, pictures = (
    build(num_classes=10).eval(),
    Split(torch.rand(4, 3, 32, 32), torch.arange(4)),
)
importance = hessian_diagonal.gauss_newton_diagonal(network, pictures, seed=0)
uniform.share(network, bits=3.0, importance=importance)
content, fresh = storage.dumps(network), build(num_classes=10)
weights = dict(layers(network)).values()
loaded = [
    value for value in storage.loads(content, fresh) if value.dim() > 1
]  # not chosen by test
assert all(torch.equal(a, b.weight) for a, b in zip(loaded, weights, strict=True))
ratio = measure.dense_bytes(network) / len(content)
evidence.answer(
    f"The file is {ratio:.1f} times smaller, and every weight comes back exactly."
)

# %% [markdown]
# ## In short
#
# - If all layers share eight values, weighting their errors by the curvature of the loss brings
#   {glue:text}`quantization_entropy.eight.told`. With four values, give each layer a codebook of its own.
# - If an entropy code follows, evenly spaced values are hard to beat in dense networks, but in pruned networks they
#   fail if they are coarse.
# - With sixty-four values the methods hardly differ.
#
# ## Sources of this chapter
#
# - {cite:t}`choi2017towards` introduce Hessian-weighted k-means and use both other quantizers for networks;
#   {cite:t}`lecun1989obd` is the diagonal.
# - {cite:t}`gish1968asymptotically` is the theory of uniform cells, {cite:t}`chou1989entropy` entropy-constrained
#   quantization, {cite:t}`cover2012elements` the bound.
# - {cite:t}`kingma2015adam`, {cite:t}`duchi2011adagrad`, {cite:t}`zeiler2012adadelta` and {cite:t}`tieleman2012rmsprop`
#   are the optimizers, {cite:t}`berthelier2020survey` is the survey.
