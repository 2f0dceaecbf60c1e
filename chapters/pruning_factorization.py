# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-factorization)=
# # Factorization
#
# A large layer can be written as a row of small ones that compute nearly the same.
# Cut to {glue:text}`pruning_factorization.lenet5.share_pct` of its weights, the second convolution of LeNet-5 leaves a test error of {glue:text}`pruning_factorization.lenet5.svd_retrained_error_pct`, {glue:text}`pruning_factorization.lenet5.spatial_retrained_error_pct`, {glue:text}`pruning_factorization.lenet5.cp_retrained_error_pct` and {glue:text}`pruning_factorization.lenet5.tucker_retrained_error_pct` with the four methods of this page, after one short retraining each; the dense network has {glue:text}`pruning_factorization.lenet5.baseline_error_pct`.
# The survey leaves these methods out: their decompositions are expensive, it says, and they need many retrainings {cite:p}`berthelier2020survey`.
# Measured here: the first is {verdict}`C2.3-33`, the second {verdict}`C2.3-34`.
# Other than a mask, factors save multiply-adds as well as bytes.
#
# ## What the survey says, and what came out
#
# ```{claims} pruning_factorization
# ```
#
# ## What this page needs
#
# ```{cost} pruning_factorization
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks trained from different starts
epochs = 25  # to train each of them
lenet5_epochs = 8  # to train LeNet-5
ranks = [2, 5, 10, 20, 43]  # of LeNet-300-100's first layer, the last one decides
shares = [0.05, 0.2]  # of the weights of LeNet-5's second convolution, the last one decides
tune_images = 10_000  # training images that a retraining sees, at most
tune_epochs = 3  # to retrain a factorized LeNet-300-100
lenet5_tune_epochs = 1  # to retrain a factorized LeNet-5
sweeps = 20  # of alternating least squares, in the CP decomposition

# %% tags=["hide-input"]
import copy
import tempfile
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached
from lib.factorization import cp, low_rank, spatial, tucker
from lib.vision import torchvision

dataset = datasets.load(data)
evidence.uses(dataset)
tune = dataset.train.first(tune_images)


def record(key, values, unit="x", digits=1):
    return evidence.record(f"pruning_factorization.{key}", values, unit=unit, digits=digits)


def error(model):
    return training.error_pct(model, dataset.test)


def retrained(model, epochs, seed, learning_rate):
    options = {"epochs": epochs, "seed": seed, "learning_rate": learning_rate}
    return cached(training.fit, copy.deepcopy(model), split=tune, **options)


# %% [markdown]
# (sec-low-rank)=
# ## Low rank: one matrix, two thin ones
#
# **The idea.** A layer of 784 inputs and 300 outputs mixes its inputs in 300 ways.
# If a few mixtures carry most of what it does, compute those first, and the 300 outputs from them.
#
# **The formula.** The truncated singular value decomposition is the matrix of rank $r$ that is nearest to $W \in \mathbb R^{m \times n}$:
#
# $$ W \approx \big(U_r \Sigma_r^{1/2}\big)\big(\Sigma_r^{1/2} V_r^\top\big), \qquad \lVert W - U_r \Sigma_r V_r^\top \rVert_F^2 = \sum_{i > r} \sigma_i^2. $$ (eq-low-rank)
#
# The layer becomes two, $n \to r \to m$, with $r(m+n)$ weights instead of $mn$: smaller where $r < mn/(m+n)$.
# For convolutions it is one of the ways of {cite:t}`denton2014exploiting`.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(low_rank.split, low_rank.factorize)

# %% [markdown]
# **An exact check.** The squared error of every rank must be the sum of the squared singular values that were cut.

# %%
weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
sigma = torch.linalg.svdvals(weight)
for rank in range(1, 7):
    left, right = low_rank.split(weight, rank)
    cut = sigma[rank:].square().sum()
    assert torch.isclose((weight - left @ right).square().sum(), cut, atol=1e-12)

# %% [markdown]
# **The experiment.** The first layer of each LeNet-300-100 {cite:p}`lecun1998gradient` is factorized at several ranks, and tested at once and after one short retraining.

# %%
rate = {models.lenet_300_100: 0.1, models.lenet5: 0.05}  # learning rates


def trained(build, seed, epochs):
    options = {"epochs": epochs, "seed": seed, "learning_rate": rate[build]}
    return cached(training.fit, build(seed), split=dataset.train, **options)


dense = [trained(models.lenet_300_100, seed, epochs) for seed in range(seeds)]
baseline = [error(model) for model in dense]
record("lenet300.baseline_error_pct", baseline, "%", 2)
cut = [[low_rank.factorize_model(model, rank={"fc1": r})[0] for model in dense] for r in ranks]
again = [[retrained(m, tune_epochs, 10 + i, 0.02) for i, m in enumerate(row)] for row in cut]
before = [[error(model) for model in row] for row in cut]
after = [[error(model) for model in row] for row in again]
record("lenet300.svd_cut_error_pct", before[-1], "%", 2)
record("lenet300.svd_retrained_error_pct", after[-1], "%", 2)
record("lenet300.share_pct", 100 * ranks[-1] * (784 + 300) / (784 * 300), "%", 0)

# %% tags=["remove-input"]
figure, ax = figures.axes()
figures.line(ax, ranks, before, figures.PRUNING, "cut")
figures.line(ax, ranks, after, figures.RETRAINED, "cut and retrained")
ax.axhline(sum(baseline) / seeds, **figures.DENSE | {"marker": ""}, label="dense network")
ax.set(xlabel="rank of the first layer", ylabel="test error (%)")
figures.logarithmic(ax, "x", "y")
figures.legend(ax)
ends = [sum(errors[i]) / seeds for i in (0, -1) for errors in (before, after)]
figures.show(
    figure,
    name="fig-low-rank",
    caption="Test error of LeNet-300-100 against the rank of its first layer, means over seeds with 95 % intervals.",
    alt=f"Two curves of test error against rank. At rank {ranks[0]} the error is {ends[0]:.1f} % as cut and {ends[1]:.1f} % "
    f"retrained, at rank {ranks[-1]} it is {ends[2]:.1f} % and {ends[3]:.1f} %; the dense network has {sum(baseline) / seeds:.1f} %.",
)

# %% [markdown]
# **What to see.** The highest rank of the figure keeps {glue:text}`pruning_factorization.lenet300.share_pct` of the layer's weights.
# There the error is {glue:text}`pruning_factorization.lenet300.svd_cut_error_pct` as cut and {glue:text}`pruning_factorization.lenet300.svd_retrained_error_pct` retrained, beside {glue:text}`pruning_factorization.lenet300.baseline_error_pct` of the dense network.
# Look for the rank below which the two curves leave the dotted line.
#
# (sec-spatial)=
# ## Columns and rows: separable filters
#
# **The idea.** A kernel that is a column times a row can be applied as two passes over the image, one down and one across.
# Few kernels are of this form, but each is a sum of some.
#
# **The formula.** The kernel from input $i$ to output $o$ is approximated by $R$ such products, whose columns $v$ all outputs share and whose rows $h$ all inputs share {cite:p}`jaderberg2014speeding`:
#
# $$ W_{o,i,:,:} \approx \sum_{k=1}^{R} h_{o,k}\, v_{k,i}^\top. $$ (eq-spatial)
#
# Written as a matrix with a row for each $(i, y)$ and a column for each $(o, x)$, this is a product of rank $R$ again, and the singular value decomposition gives the best one.
# A $d \times 1$ convolution to $R$ channels and a $1 \times d$ one to the outputs have $Rd(C_i + C_o)$ weights.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(spatial.matrix, spatial.factorize)

# %% [markdown]
# **An exact check.** Sobel's edge filter is a column times a row, so one term reproduces it; Laplace's needs two.

# %%
sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
picture = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
for kernel, needed in ((sobel, 1), (laplace, 2)):
    layer = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data[0, 0] = kernel
    wrong = [(spatial.factorize(layer, r)(picture) - layer(picture)).abs().max() for r in (1, 2)]
    assert [bool(w < 1e-5) for w in wrong] == [needed == 1, True]

# %% [markdown]
# (sec-cp)=
# ## Four vectors to a term: CP
#
# **The idea.** Take the same step for all four ways of a kernel: each term is a vector over the outputs, times one over the inputs, one over the rows and one over the columns.
#
# **The formula.** With $R$ terms {cite:p}`lebedev2015speeding`,
#
# $$ W_{tsij} \approx \sum_{r=1}^{R} A^t_{tr}\, A^s_{sr}\, A^y_{ir}\, A^x_{jr}. $$ (eq-cp)
#
# That is a $1 \times 1$ convolution, two depthwise ones of one channel each, and a $1 \times 1$ one: $R(S + 2d + T)$ weights.
# There is no formula for the best terms.
# Three of the four factors fixed, the fourth is a least squares problem, and one solves for each in turn.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(cp.decompose, cp.factorize)

# %% [markdown]
# **An exact check.** A kernel that is made of three terms is found again from the kernel alone.

# %%
generator = torch.Generator().manual_seed(0)
planted = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (8, 6, 3, 3)]
kernel = torch.einsum("tr,sr,yr,xr->tsyx", *planted)
fitted = cp.decompose(kernel, 3, starts=5, ridge=1e-9)
assert (fitted.kernel - kernel).norm() < 1e-6 * kernel.norm()

# %% [markdown]
# (sec-tucker)=
# ## A small core between channels: Tucker
#
# **The idea.** Leave the places of the kernel alone, and let the convolution work on fewer channels: mix the inputs down to a few, convolve those, mix the result up to the outputs.
#
# **The formula.** The channels get two matrices with orthonormal columns, and what is left in the middle is the core {cite:p}`kim2016compression`:
#
# $$ W_{tsij} \approx \sum_{a=1}^{R_4} \sum_{b=1}^{R_3} U^{(t)}_{ta}\, \mathcal C_{abij}\, U^{(s)}_{sb}, $$ (eq-tucker)
#
# with $SR_3 + d^2 R_3 R_4 + R_4 T$ weights.
# {cite:t}`kim2016compression` choose the two ranks by a Bayesian model that takes the kernel for a matrix of low rank plus noise, and then factorize the whole network in one go.
#
# **The code.** First the factors, then the rank behind the noise, in closed form:

# %% tags=["remove-input"]
figures.show_source(tucker.decompose, tucker.bayesian_rank)

# %% [markdown]
# **An exact check.** Matrices of known rank, noise added: the rule should find the rank, and none where all is noise.

# %%
generator = torch.Generator().manual_seed(0)
for rank in (0, 1, 5, 12):
    left, right = (torch.randn(n, rank, generator=generator) for n in (40, 300))
    noisy = left @ right.T + 0.5 * torch.randn(40, 300, generator=generator)
    assert tucker.bayesian_rank(noisy) == rank

# %% [markdown]
# (sec-factorization-comparison)=
# ## The four on one layer
#
# Each method replaces the second convolution of LeNet-5, of $50 \times 20 \times 5 \times 5$ weights, at the same number of weights.
# The ranks are the largest that fit; Tucker's two keep the proportion of those that the Bayesian rule finds.


# %%
def largest(method, weights, layer):
    """The rank, or pair of ranks, with which the factors of the layer have at most so many weights."""
    outputs, inputs, d, _ = layer.weight.shape
    one = {"SVD": inputs * d * d + outputs, "spatial": d * (inputs + outputs)}
    one["CP"] = inputs + 2 * d + outputs
    if method in one:
        return int(weights // one[method])
    r3, r4 = tucker.ranks_for(layer)
    pairs = ((max(1, k * r3 // 20), max(1, k * r4 // 20)) for k in range(1, 400))
    fit = [(a, b) for a, b in pairs if inputs * a + d * d * a * b + b * outputs <= weights]
    return fit[-1]


factorize = {
    "SVD": lambda r: low_rank.factorize_model(lenet5, rank={"conv2": r})[0],
    "spatial": lambda r: spatial.factorize_model(lenet5, rank={"conv2": r})[0],
    "CP": lambda r: cp.factorize_model(lenet5, rank={"conv2": r}, sweeps=sweeps)[0],
    "Tucker": lambda r: tucker.factorize_model(lenet5, ranks={"conv2": r})[0],
}

# %% [markdown]
# The learning rate of CP is lower, because at the others' rate some of its rows of four factors diverged in trials on the validation images.

# %%
lenet5 = trained(models.lenet5, 0, lenet5_epochs)
record("lenet5.baseline_error_pct", baseline5 := error(lenet5), "%", 2)
chosen = {s: {m: largest(m, s * 25_000, lenet5.conv2) for m in factorize} for s in shares}
again5, errors5 = {}, {}
for share, word in zip(shares, ("small_", ""), strict=True):
    for method, rank in chosen[share].items():
        model = factorize[method](rank)
        slow = 0.002 if method == "CP" else 0.01
        again5[method, share] = tuned = retrained(model, lenet5_tune_epochs, 1, slow)
        errors5[method, share] = pair = error(model), error(tuned)
        for name, value in zip(("cut", "retrained"), pair, strict=True):
            record(f"lenet5.{method.lower()}_{word}{name}_error_pct", value, "%", 2)
    record(f"lenet5.{word}share_pct", 100 * share, "%", 0)
images = 100 * lenet5_tune_epochs * len(tune) / (lenet5_epochs * len(dataset.train))
record("lenet5.retraining_pct", images, "%", 0)

# %% tags=["remove-input"]
figure, panels = figures.axes(2, sharex=True, sharey=True)
methods = list(reversed(factorize))
for ax, share in zip(panels, shares, strict=True):
    first, second = zip(*(errors5[m, share] for m in methods), strict=True)
    places = range(len(methods))
    ax.hlines(places, first, second, color="#b0b0b0", linewidth=1)
    ax.plot(first, places, **figures.PRUNING | {"linestyle": "none"}, label="cut")
    ax.plot(second, places, **figures.RETRAINED | {"linestyle": "none"}, label="cut and retrained")
    ax.axvline(baseline5, **figures.DENSE | {"marker": ""}, label="dense")
    ax.set(xlabel="test error (%)", title=f"{share:.0%} of the weights")
    ax.set_yticks(places, methods)
    figures.logarithmic(ax, "x")
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
errors_by_method = (f"{m} {a:.1f} and {b:.1f} at {s:.0%}" for (m, s), (a, b) in errors5.items())
figures.show(
    figure,
    name="fig-four",
    caption="LeNet-5 with its second convolution factorized four ways at equal numbers of weights: test error as cut, and after one short retraining.",
    alt=f"Dot plot of test errors in percent, as cut and retrained: {'; '.join(errors_by_method)}. The dense network has {baseline5:.1f}.",
)

# %% [markdown]
# **What to see.** At {glue:text}`pruning_factorization.lenet5.small_share_pct` of the weights the errors as cut are {glue:text}`pruning_factorization.lenet5.svd_small_cut_error_pct` (SVD), {glue:text}`pruning_factorization.lenet5.spatial_small_cut_error_pct` (spatial), {glue:text}`pruning_factorization.lenet5.cp_small_cut_error_pct` (CP) and {glue:text}`pruning_factorization.lenet5.tucker_small_cut_error_pct` (Tucker).
# For the same number of weights, compare how far each method starts from the dense network, and how much of that one retraining takes back.
# The retraining is short: it sees {glue:text}`pruning_factorization.lenet5.retraining_pct` as many images as the training did.
#
# ### The whole network in one go
#
# Now as {cite:t}`kim2016compression` do it: every rank from the Bayesian rule, all large layers at once, one retraining.
# The second convolution becomes Tucker's three, the large linear layer two of low rank; the first convolution and the last layer are small and stay.

# %%
rank = max(1, tucker.bayesian_rank(lenet5.fc1.weight.detach()))
small, report = tucker.factorize_model(lenet5, layers=["conv2"])
small, more = low_rank.factorize_model(small, rank={"fc1": rank})
tuned = retrained(small, lenet5_tune_epochs, 1, 0.01)
record("lenet5.network_cut_error_pct", error(small), "%", 2)
record("lenet5.network_retrained_error_pct", error(tuned), "%", 2)

# %% tags=["remove-input"]
rows = []
for replaced in report + more:
    ranks_of = " and ".join(map(str, replaced.ranks))
    counts = {"parameters": f"{replaced.before:,}", "after": f"{replaced.after:,}"}
    rows.append({"layer": replaced.layer, "ranks": ranks_of, **counts})
figures.table(rows, caption="Ranks that the Bayesian rule finds in LeNet-5")

# %% tags=["remove-input"]
one, last = dataset.test.images[:1], shares[-1]
variants = {"dense": lenet5, **{f"{m}, {last:.0%}": again5[m, last] for m in factorize}}
variants["whole network"] = tuned
wrong = [baseline5, *(errors5[m, last][1] for m in factorize), error(tuned)]
latency = measure.latency_ms({n: lambda m=m: m(one) for n, m in variants.items()}, runs=51)
rows = []
for (name, model), percent in zip(variants.items(), wrong, strict=True):
    adds = measure.multiply_adds(model, one.shape[1:])
    ratio = latency[name].median / latency["dense"].median
    row = {"network": name, "test error (%)": f"{percent:.2f}"}
    row |= {"parameters": f"{measure.parameters(model):,}", "multiply-adds": f"{adds:,}"}
    row |= {"file (bytes)": f"{len(storage.dumps(model)):,}", "latency (ratio)": f"{ratio:.2f}"}
    rows.append(row)
figures.table(rows, caption="LeNet-5 dense and factorized, after retraining")

# %% tags=["remove-cell"]
for name, cost in (
    ("multiply_adds", lambda model: measure.multiply_adds(model, one.shape[1:])),
    ("file", lambda model: len(storage.dumps(model))),
    ("fewer_parameters", measure.parameters),
):
    record(f"lenet5.network_{name}_ratio", cost(lenet5) / cost(tuned))
record("lenet5.network_latency_ratio", ratio, "x", 2)

# %% [markdown]
# **What to see.** The whole network has {glue:text}`pruning_factorization.lenet5.network_fewer_parameters_ratio` fewer parameters, a file {glue:text}`pruning_factorization.lenet5.network_file_ratio` smaller, and {glue:text}`pruning_factorization.lenet5.network_multiply_adds_ratio` fewer multiply-adds.
# Its error is {glue:text}`pruning_factorization.lenet5.network_cut_error_pct` as cut and {glue:text}`pruning_factorization.lenet5.network_retrained_error_pct` after one retraining, beside {glue:text}`pruning_factorization.lenet5.baseline_error_pct` dense.
# One input takes {glue:text}`pruning_factorization.lenet5.network_latency_ratio` the time of the dense network.
# Compare that with the multiply-adds: each layer also costs a call of its own, and there are more of them.
#
# ## What a decomposition costs
#
# The survey calls decompositions expensive; {cite:t}`han2016deep` call the singular value decomposition cheap.
# We count floating-point operations while the code runs, and compare with one epoch of training, counted the same way.
# For the decompositions inside, which the counter does not know, the usual estimates of a textbook stand in.


# %%
def svd_flops(shape, *_, **__):
    short, long = sorted(shape[-2:])
    return 14 * long * short**2 + 8 * short**3


ops = torch.ops.aten
also = {ops._linalg_svd: svd_flops, ops._linalg_eigh: lambda shape, *_, **__: 9 * shape[-1] ** 3}
also[ops._linalg_solve_ex] = lambda shape, *_, **__: shape.numel() * shape[-1] * 2 / 3


def costs(run):
    """Floating-point operations of a call, counted, and its seconds, in a second call."""
    with FlopCounterMode(display=False, custom_mapping=also) as counter:
        run()
    begin = time.perf_counter()
    run()
    return counter.get_total_flops(), time.perf_counter() - begin


def epoch(model):
    """The same for one epoch of training, from one batch."""
    part, model = dataset.train.first(128), copy.deepcopy(model)
    options = {"epochs": 1, "seed": 0, "learning_rate": 0.0}
    batch = min(costs(lambda: training.fit(model, part, **options)) for _ in range(2))
    return [len(dataset.train) / len(part) * cost for cost in batch]


# %% tags=["remove-input"]
runs = {(lenet5, m): lambda m=m: factorize[m](chosen[shares[-1]][m]) for m in factorize}
runs[dense[0], "SVD"] = lambda: low_rank.factorize(dense[0].fc1, ranks[-1])
one_epoch, rows = {model: epoch(model) for model in (lenet5, dense[0])}, []
for (model, method), run in runs.items():
    network = "LeNet-5" if model is lenet5 else "LeNet-300-100"
    key = f"cost.{'lenet5' if model is lenet5 else 'lenet300'}_{method.lower()}_epochs"
    own = costs(run)
    counted, timed = (a / b for a, b in zip(own, one_epoch[model], strict=True))
    record(key, counted, "epochs", 6)
    record(f"{key}_of_seconds", timed, "epochs", 4)
    shown = {"operations": f"{own[0]:,.0f}", "in epochs": f"{counted:.6f}"}
    rows.append({"network": network, "method": method, **shown, "time, in epochs": f"{timed:.4f}"})
figures.table(rows, caption="One decomposition, beside one epoch of training on this data")

# %% [markdown]
# **What to see.** CP, which iterates, takes {glue:text}`pruning_factorization.cost.lenet5_cp_epochs` by its operations, the singular value decomposition of the same layer {glue:text}`pruning_factorization.cost.lenet5_svd_epochs`.
# The larger the data set, the smaller these shares: an epoch grows with the number of images, a decomposition does not.
# It grows with the cube of a layer's width, though, and layers of thousands of channels are another matter than these.
#
# ## Where it breaks
#
# **Energy is not error.** A common rule takes the rank that holds nine tenths of the sum of squared singular values.
# Here one layer at a time is cut to that rank, and to the rank that Bayes' rule finds.

# %%
rows = []
for network, name in ((dense[0], "fc1"), (dense[0], "fc2"), (lenet5, "conv2"), (lenet5, "fc1")):
    layer = network.get_submodule(name)
    most, bayes = layer.weight.flatten(1), tucker.bayesian_rank(layer.weight.detach().flatten(1))
    row = {"layer": f"{name}, {'LeNet-5' if network is lenet5 else 'LeNet-300-100'}"}
    row["smaller up to rank"] = (most.numel() - 1) // sum(most.shape)
    for rule, rank in (("energy", low_rank.rank_for(layer, 0.9)), ("Bayes", max(1, bayes))):
        cut_here = copy.deepcopy(network)
        left, right = low_rank.split(most.detach(), rank)
        cut_here.get_submodule(name).weight.data = (left @ right).reshape(layer.weight.shape)
        row |= {f"rank, {rule}": rank, f"error, {rule} (%)": f"{error(cut_here):.2f}"}
    rows.append(row)
figures.table(rows, caption="Two rules for the rank, one layer cut at a time, not retrained")

# %% [markdown]
# Compare the two ranks of a layer with the rank up to which factors are smaller at all, and then the errors.
# The squared entries of a trained weight count what its random start left in it, and the network may not need that.
#
# **CP without a best answer.** Place a one among two zeros in each of the three possible ways, and add: that is a tensor of three terms.
# Two terms come as near as one likes, but never reach it: they grow without bound and cancel each other.

# %%
tensor = torch.zeros(2, 2, 2, 1)
tensor[0, 0, 1], tensor[0, 1, 0], tensor[1, 0, 0] = 1, 1, 1
steps, fits = (1, 3, 10, 30, 100), {}
for ridge in (1e-12, 1e-3):
    runs = [cp.decompose(tensor, 2, sweeps=n, ridge=ridge) for n in steps]
    away = [float((run.kernel - tensor).norm() / tensor.norm()) for run in runs]
    terms = [torch.stack([f.norm(dim=0) for f in run.factors]).prod(0).max() for run in runs]
    fits[ridge] = away, [float(term) for term in terms]
three = cp.decompose(tensor, 3, ridge=1e-12)
assert (three.kernel - tensor).norm() < 1e-6 < fits[1e-12][0][-1]

# %% tags=["remove-input"]
figure, ax = figures.axes()
for look, label, (away, terms) in zip(
    (figures.PRUNING, figures.COMBINED),
    ("hardly a ridge", "ridge of a thousandth"),
    fits.values(),
    strict=True,
):
    ax.plot(terms, away, **look, label=label)
    note = {"xytext": (4, 14), "textcoords": "offset points", "ha": "left"}
    ax.annotate(f"{steps[-1]} sweeps", (terms[-1], away[-1]), **note)
ax.margins(x=0.15)
ax.set(xlabel="length of the largest term", ylabel="relative residual")
figures.logarithmic(ax, "y")
figures.legend(ax)
(away, terms), (away_ridge, terms_ridge) = fits.values()
figures.show(
    figure,
    name="fig-degenerate",
    caption="Two terms for a tensor that needs three: each point is a number of sweeps, from 1 at the upper left.",
    alt=f"Two falling paths. With hardly a ridge the residual ends at {away[-1]:.3f} with terms of length {terms[-1]:.1f}; "
    f"with a ridge of a thousandth at {away_ridge[-1]:.3f} with terms of length {terms_ridge[-1]:.1f}.",
)

# %% [markdown]
# Large terms that cancel are what makes retraining of such networks unstable.
# The ridge keeps them short, and pays with a worse fit.
#
# ## Exercises
#
# 1. Up to which rank does a low-rank pair have fewer weights than the layer, for each layer of LeNet-300-100?

# %% tags=["hide-cell"]
for name in ("fc1", "fc2", "fc3"):
    m, n = getattr(dense[0], name).weight.shape
    print(name, "up to rank", (m * n - 1) // (m + n))

# %% [markdown]
# 2. Factorize a network that nobody here wrote, torchvision's SqueezeNet: at full ranks it must compute the same.
#    How many multiply-adds does it save at half of them, and does the file come back?

# %% tags=["hide-cell"]
squeezenet = torchvision.models.squeezenet1_1(num_classes=10).eval()
wide = {n: m.weight.shape for n, m in squeezenet.named_modules() if n.endswith("expand3x3")}
image = torch.rand(1, 3, 64, 64)
for part in (1, 2):
    pairs = {name: (shape[1] // part, shape[0] // part) for name, shape in wide.items()}
    smaller, _ = tucker.factorize_model(squeezenet, ranks=pairs, sweeps=1)
    if part == 1:
        assert torch.allclose(smaller(image), squeezenet(image), atol=1e-4)
    saved = measure.multiply_adds(smaller, (3, 64, 64)) / measure.multiply_adds(
        squeezenet, (3, 64, 64)
    )
    print(f"ranks divided by {part}: {saved:.2f} of the multiply-adds")
with tempfile.NamedTemporaryFile() as file:
    storage.save(smaller, file.name)
    again, _ = tucker.factorize_model(squeezenet, ranks=pairs, sweeps=0)
    assert torch.equal(storage.load(file.name, again).eval()(image), smaller(image))

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`denton2014exploiting`, {cite:t}`jaderberg2014speeding`, {cite:t}`lebedev2015speeding` and {cite:t}`kim2016compression` are the four methods; {cite:t}`berthelier2020survey` is the survey.
# - {cite:t}`cheng2017survey` is an overview that includes them.
# - {cite:t}`han2016deep` compare the singular value decomposition with pruning; {cite:t}`lecun1998gradient` is where the networks come from.
