# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-factorization)=
# # Factorization: SVD, separable filters, CP and Tucker
#
# Can a few small layers replace a large one, and compute nearly the same?
# Four methods can.
# Each of them keeps {mean}`pruning_factorization.lenet5.share_pct` of the weights in one layer of LeNet-5, a small
# digit classifier; after a short retraining, its error {glue:text}`pruning_factorization.lenet5.outcome`.
# Unlike a mask, factorization
# {finding}`saves both computation and storage | pruning_factorization.lenet5.network_multiply_adds_ratio > 1; pruning_factorization.lenet5.network_file_ratio > 1`:
# with its two large layers factorized, LeNet-5 needs {mean}`pruning_factorization.lenet5.network_multiply_adds_ratio 1`
# fewer multiply-adds.
#
# ```{claims} pruning_factorization
# ```
#
# ```{cost} pruning_factorization
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks of each kind, trained from different starts
epochs = 25  # to train each of them
lenet5_epochs = 8  # to train LeNet-5
ranks = [2, 5, 10, 20, 43]  # of LeNet-300-100's first layer; the last one is recorded
shares = [0.05, 0.2]  # of the weights of LeNet-5's second convolution
tune_images = 10_000  # training images that a retraining sees, at most
tune_epochs = 3  # to retrain a factorized LeNet-300-100
lenet5_tune_epochs = 1  # to retrain a factorized LeNet-5
more_retrainings = 2  # of the pair of low rank at the smallest share, after the first
sweeps = 20  # of alternating least squares, in the CP decomposition

# %% tags=["hide-input"]
import copy
import tempfile
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached, trained
from lib.factorization import cp, low_rank, spatial, tucker
from lib.vision import torchvision

dataset = datasets.load(data)
tune = dataset.train.first(tune_images)
record = evidence.recorder("pruning_factorization", dataset)


def error(model):
    return training.error_pct(model, dataset.test)


def retrained(model, epochs, seed, learning_rate):
    options = {"epochs": epochs, "seed": seed, "learning_rate": learning_rate}
    return cached(training.fit, copy.deepcopy(model), split=tune, **options)


# %% [markdown]
# The survey that this book tests leaves these methods out, for two reasons {cite:p}`berthelier2020survey`.
# It says that decompositions are expensive, and our measurements say {verdict}`C2.3-33`.
# It says that a factorized network needs many retrainings, and our measurements say {verdict}`C2.3-34`.
#
# (sec-low-rank)=
# ## Low rank: one matrix, two thin ones
#
# **The idea.** A layer with 784 inputs and 300 outputs mixes its inputs in 300 ways.
# If a few mixtures carry most of what the layer does, compute those first, and then the 300 outputs from them.
#
# **The formula.** Cut the {term}`singular value decomposition` of the weight $W \in \mathbb R^{m \times n}$ after the $r$
# largest singular values.
# The result is the matrix of {term}`rank` $r$ that is nearest to $W$, and its squared error is the sum of the squared singular
# values $\sigma_i$ that were cut:
#
# $$
# \begin{aligned}
# W &\approx \big(U_r \Sigma_r^{1/2}\big)\big(\Sigma_r^{1/2} V_r^\top\big), \\
# \lVert W - U_r \Sigma_r V_r^\top \rVert_F^2 &= \sum_{i > r} \sigma_i^2.
# \end{aligned}
# $$ (eq-low-rank)
#
# The layer becomes two, $n \to r \to m$, with $r(m+n)$ weights instead of $mn$.
# This saves weights if $r < mn/(m+n)$.
# {cite:t}`denton2014exploiting` use such decompositions for convolutions.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(low_rank.split)

# %% [markdown]
# **An exact check.** At every rank, the squared error equals the sum of the squared singular values that were cut.

# %%
weight = torch.randn(
    8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
sigma = torch.linalg.svdvals(weight)
for rank in range(1, 7):
    left, right = low_rank.split(weight, rank)
    cut = sigma[rank:].square().sum()
    assert torch.isclose((weight - left @ right).square().sum(), cut, atol=1e-12)

# %% [markdown]
# **The experiment.** LeNet-300-100 is a digit classifier with two hidden layers {cite:p}`lecun1998gradient`.
# We factorize its first layer at several ranks and measure the error twice: right after the cut, and after one short
# retraining.
# To be fair, the dense networks are also trained on for as many epochs, with the same images and options.

# %%
fit = {"split": dataset.train, "epochs": epochs, "learning_rate": 0.1}
dense = trained(training.fit, models.lenet_300_100, range(seeds), **fit)
baseline = [error(model) for model in dense]
on = [retrained(net, tune_epochs, 10 + i, 0.02) for i, net in enumerate(dense)]
trained_on = [error(model) for model in on]
before, after = [], []
for r in ranks:
    nets = [low_rank.factorize_model(net, rank={"fc1": r})[0] for net in dense]
    again = [retrained(net, tune_epochs, 10 + i, 0.02) for i, net in enumerate(nets)]
    before.append([error(model) for model in nets])
    after.append([error(model) for model in again])

# %% tags=["remove-cell"]
record("lenet300.baseline_error_pct", baseline)
record("lenet300.trained_on_error_pct", trained_on)
record("lenet300.svd_cut_error_pct", before[-1])
record("lenet300.svd_retrained_error_pct", after[-1])
record("lenet300.svd_lowest_error_pct", after[0])
share = 100 * ranks[-1] * (784 + 300) / (784 * 300)
record("lenet300.share_pct", share, digits=0, exact=True)
record("lenet300.retraining_epochs", tune_epochs, exact=True)

# %% tags=["remove-input"]
level = sum(trained_on) / seeds
ends = [sum(errors[i]) / seeds for i in (0, -1) for errors in (before, after)]
figures.curves(
    {
        "cut": (figures.look("pruned"), ranks, before),
        "cut and retrained": (figures.look("retrained"), ranks, after),
    },
    xlabel="rank of the first layer",
    ylabel="test error (%)",
    log="xy",
    bounds=figures.PERCENT,
    level=("dense, trained on", level),
    finding=f"Rank {ranks[-1]} of 300 gives {ends[3]:.1f} % error after retraining, rank {ranks[0]} gives {ends[1]:.1f} % (dense: {level:.1f} %)",
    name="fig-low-rank",
    caption="Test error of LeNet-300-100 against the rank of its first layer; means over seeds with 95 % intervals. The dense network has been trained on for as many epochs as the factors.",
    alt=f"Two curves of test error against rank. At rank {ranks[0]} the error is {ends[0]:.1f} % as cut and {ends[1]:.1f} % "
    f"retrained, at rank {ranks[-1]} it is {ends[2]:.1f} % and {ends[3]:.1f} %; the dense network has {level:.1f} %.",
)

# %% [markdown]
# **What to see.** The highest rank here, which keeps {glue:text}`pruning_factorization.lenet300.share_pct` of the
# layer's weights,
# {finding}`costs less than one point of error | pruning_factorization.lenet300.svd_retrained_error_pct - pruning_factorization.lenet300.trained_on_error_pct < 1`.
# The error is {mean}`pruning_factorization.lenet300.svd_cut_error_pct` right after the cut, and
# {mean}`pruning_factorization.lenet300.svd_retrained_error_pct` after another
# {mean}`pruning_factorization.lenet300.retraining_epochs` epochs.
# The dense networks, trained on for as many epochs, have an error of
# {mean}`pruning_factorization.lenet300.trained_on_error_pct`.
# At the lowest rank, the short retraining
# {finding}`does not make up for what was cut | pruning_factorization.lenet300.svd_lowest_error_pct > pruning_factorization.lenet300.trained_on_error_pct`.
#
# (sec-spatial)=
# ## Columns and rows: separable filters
#
# **The idea.** If a {term}`kernel` is a column times a row, it can be applied in two passes over the image, one down and one
# across.
# Few kernels have this form, but every kernel is a sum of such products.
#
# **The formula.** We approximate the kernel from input $i$ to output $o$ by a sum of $R$ such products.
# All outputs share the columns $v$, and all inputs share the rows $h$ {cite:p}`jaderberg2014speeding`:
#
# $$ W_{o,i,:,:} \approx \sum_{k=1}^{R} v_{k,i}\, h_{o,k}^\top. $$ (eq-spatial)
#
# Arrange the weights as a matrix, with one row for each input $i$ and height $y$, and one column for each output $o$
# and width $x$.
# Then the sum is a matrix of rank $R$, and the singular value decomposition finds the best one.
# The layer becomes two: a $d \times 1$ convolution from $C_i$ inputs to $R$ channels, and a $1 \times d$ convolution to
# $C_o$ outputs.
# Together they have $Rd(C_i + C_o)$ weights.
#
# **The code.** `low_rank.split` is the singular value decomposition from above:

# %% tags=["remove-input"]
figures.show_source(spatial.factorize)

# %% [markdown]
# **An exact check.** Sobel's edge filter is a column times a row, so one term reproduces it; Laplace's filter needs
# two.

# %%
sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
picture = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
for kernel, needed in ((sobel, 1), (laplace, 2)):
    layer = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data[0, 0] = kernel
    wrong = [
        (spatial.factorize(layer, r)(picture) - layer(picture)).abs().max()
        for r in (1, 2)
    ]
    assert [bool(w < 1e-5) for w in wrong] == [needed == 1, True]

# %% [markdown]
# (sec-cp)=
# ## CP: four vectors per term
#
# **The idea.** Take this step in all four dimensions of a convolution: outputs, inputs, rows and columns.
# Each term is then a product of four vectors, one for each dimension.
#
# **The formula.** With $R$ terms, and one matrix $A$ of vectors for each dimension {cite:p}`lebedev2015speeding`,
#
# $$ W_{tsij} \approx \sum_{r=1}^{R} A^t_{tr}\, A^s_{sr}\, A^y_{ir}\, A^x_{jr}. $$ (eq-cp)
#
# Four layers compute this: a $1 \times 1$ convolution, two depthwise ones (each channel by itself), and another
# $1 \times 1$ convolution.
# With $S$ inputs, $T$ outputs and kernels of $d \times d$, they have $R(S + 2d + T)$ weights.
# No formula gives the best terms.
# But if three of the four matrices are fixed, finding the fourth is a least squares problem, so we solve for each in
# turn.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(cp.decompose)

# %% [markdown]
# **An exact check.** We make a kernel from three terms; a decomposition into three terms gives the same kernel back.

# %%
generator = torch.Generator().manual_seed(0)
planted = [
    torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (8, 6, 3, 3)
]
kernel = torch.einsum("tr,sr,yr,xr->tsyx", *planted)
fitted = cp.decompose(kernel, 3, starts=5, ridge=1e-9)
assert (fitted.kernel - kernel).norm() < 1e-6 * kernel.norm()

# %% [markdown]
# (sec-tucker)=
# ## Tucker: a small core between the channels
#
# **The idea.** Leave the height and width of the kernel alone, and let the convolution work on fewer channels.
# A first layer mixes the inputs down to a few channels, a small convolution works on those, and a last layer mixes the
# result up to the outputs.
#
# **The formula.** Two matrices with orthonormal columns, $U^{(s)}$ and $U^{(t)}$, mix the channels; the small kernel
# between them is the core $\mathcal C$ {cite:p}`kim2016compression`:
#
# $$ W_{tsij} \approx \sum_{a=1}^{R_4} \sum_{b=1}^{R_3} U^{(t)}_{ta}\, \mathcal C_{abij}\, U^{(s)}_{sb}, $$ (eq-tucker)
#
# with $SR_3 + d^2 R_3 R_4 + R_4 T$ weights.
# {cite:t}`kim2016compression` choose the two ranks by a Bayesian rule, which models the kernel as a matrix of low rank
# plus noise.
# Then they factorize the whole network in one go.
#
# **The code.** We solve for the two matrices in turn, each time for the best one given the other:

# %% tags=["remove-input"]
figures.show_source(tucker.decompose)

# %% [markdown]
# **An exact check.** Given a matrix of known rank plus noise, the Bayesian rule finds the rank; given only noise, it
# finds rank zero.

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
# LeNet-5 is a digit classifier with two convolutions and two linear layers.
# Each method replaces its second convolution, which has $50 \times 20 \times 5 \times 5$ weights, and all methods get
# the same number of weights.
# We take the largest ranks that fit; Tucker's two ranks keep the ratio that the Bayesian rule finds in the first
# network.
# We compare with the dense network, trained on for as many epochs with the same images and the same learning rate.


# %% tags=["hide-input"]
def largest(method, weights, layer):
    """The rank, or pair of ranks, with which the factors of the layer have at most so many weights."""
    outputs, inputs, d, _ = layer.weight.shape
    one = {"SVD": inputs * d * d + outputs, "spatial": d * (inputs + outputs)}
    one["CP"] = inputs + 2 * d + outputs
    if method in one:
        return int(weights // one[method])
    r3, r4 = tucker.ranks_for(layer)
    pairs = ((max(1, k * r3 // 20), max(1, k * r4 // 20)) for k in range(1, 400))
    fit = [
        (a, b)
        for a, b in pairs
        if inputs * a + d * d * a * b + b * outputs <= weights  # not chosen by test
    ]
    return fit[-1]


factorize = {
    "SVD": lambda net, r: low_rank.factorize_model(net, rank={"conv2": r})[0],
    "spatial": lambda net, r: spatial.factorize_model(net, rank={"conv2": r})[0],
    "CP": lambda net, r: cp.factorize_model(net, rank={"conv2": r}, sweeps=sweeps)[0],
    "Tucker": lambda net, r: tucker.factorize_model(net, ranks={"conv2": r})[0],
}

# %% [markdown]
# We retrain CP at a lower learning rate: at the rate of the others, some CP networks diverged in trials on the
# validation images.

# %%
fit = {"split": dataset.train, "epochs": lenet5_epochs, "learning_rate": 0.05}
dense5 = trained(training.fit, models.lenet5, range(seeds), **fit)
lenet5 = dense5[0]  # of the tables of sizes and times
baseline5 = [error(net) for net in dense5]


def tuned(nets, rate=0.01, seed=1):
    return [retrained(net, lenet5_tune_epochs, seed + i, rate) for i, net in nets]


def errors(nets):
    return [error(net) for net in nets]


rates = {method: 0.002 if method == "CP" else 0.01 for method in factorize}
on5 = {r: errors(tuned(enumerate(dense5), r)) for r in sorted(set(rates.values()))}
chosen = {
    s: {m: largest(m, s * 25_000, lenet5.conv2) for m in factorize} for s in shares
}
again5, errors5 = {}, {}
for share in shares:
    for method, rank in chosen[share].items():
        cut5 = [factorize[method](net, rank) for net in dense5]
        again5[method, share] = tuned(enumerate(cut5), rates[method])
        errors5[method, share] = errors(cut5), errors(again5[method, share])
more = again5["SVD", shares[0]]
for turn in range(more_retrainings):
    more = tuned(enumerate(more), seed=10 + 10 * turn)

# %% tags=["remove-cell"]
record("lenet5.baseline_error_pct", baseline5)
slow, fast = (on5[rate] for rate in sorted(on5))
record("lenet5.trained_on_error_pct", fast)
record("lenet5.trained_on_slowly_error_pct", slow)
for share, word in zip(shares, ("small_", ""), strict=True):
    record(f"lenet5.{word}share_pct", 100 * share, digits=0, exact=True)
    for method in factorize:
        pair = zip(("cut", "retrained"), errors5[method, share], strict=True)
        for name, values in pair:
            record(f"lenet5.{method.lower()}_{word}{name}_error_pct", values)
record("lenet5.svd_small_retrained_often_error_pct", errors(more))
record("lenet5.retrainings", 1 + more_retrainings, exact=True)
often = [a - b for a, b in zip(errors5["SVD", shares[0]][1], errors(more), strict=True)]
gain, half = evidence.interval(often)
word = "more of them help" if gain > half else "more of them make no clear difference"
evidence.phrase("pruning_factorization.lenet5.often", word)
images = 100 * lenet5_tune_epochs * len(tune) / (lenet5_epochs * len(dataset.train))
record("lenet5.retraining_pct", images, digits=0, exact=True)


def average(values):
    return sum(values) / len(values)


first = {key: average(values) for key, (values, _) in errors5.items()}
final = {key: average(values) for key, (_, values) in errors5.items()}
level5 = average(fast)
rise = max(final[m, shares[-1]] - average(on5[rates[m]]) for m in factorize)
outcome = f"rises by at most {rise:.1f} points" if rise > 0.05 else "does not rise"
evidence.phrase("pruning_factorization.lenet5.outcome", outcome)
for share, word in zip(shares, ("small_", ""), strict=True):
    ends = [final[m, share] for m in factorize]
    record(f"lenet5.{word}spread_points", max(ends) - min(ends), digits=1)
gained = {m: first[m, shares[0]] - final[m, shares[0]] for m in factorize}
most = max(gained, key=gained.get)  # not chosen by test
evidence.phrase("pruning_factorization.lenet5.repaired", most)
worst = max(factorize, key=lambda m: first[m, shares[0]])  # not chosen by test
where = (
    "most where the cut hurt most"
    if most == worst
    else "the error, but not most where the cut hurt most"
)
evidence.phrase("pruning_factorization.lenet5.repaired_where", where)
repaired = zip(*errors5[most, shares[0]], strict=True)
record("lenet5.repaired_points", [a - b for a, b in repaired], digits=1)

# %% tags=["remove-input"]
figure, panels = figures.axes(2, sharex=True, sharey=True)
methods = list(reversed(factorize))
dots = {"linestyle": "none"}
for ax, share in zip(panels, shares, strict=True):
    places = range(len(methods))
    ends = ([way[m, share] for m in methods] for way in (first, final))
    ax.hlines(places, *ends, color="#b0b0b0", linewidth=1)
    for part, look in enumerate(("pruned", "retrained")):
        for i in range(seeds):
            dot = figures.look(look) | dots | {"label": ("cut", "retrained")[part]}
            values = [errors5[m, share][part][i] for m in methods]
            ax.plot(values, places, **dot | ({"label": None} if i else {}))
    ax.axvline(level5, **figures.look("dense") | {"marker": ""}, label="dense")
    ax.set(xlabel=f"test error (%)\nwith {100 * share:.0f} % of the weights")
    ax.set_yticks(places, methods)
    ax.set_ylim(-0.5, len(methods) - 0.5)
    figures.logarithmic(ax, "x")
shown = [level5, *(v for pair in errors5.values() for part in pair for v in part)]
ax.set_xlim(min(shown) / 1.6, 1.3 * max(shown))
handles = ax.get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
ends = [final[m, shares[-1]] for m in methods]
errors_by_method = (
    f"{m} {a:.1f} and {final[m, s]:.1f} at {100 * s:.0f} %"
    for (m, s), a in first.items()
)
figures.show(
    figure,
    lead=True,
    finding=f"With {100 * shares[-1]:.0f} % of the weights, all four methods end at {min(ends):.1f} to {max(ends):.1f} % error (dense: {level5:.1f} %)",
    name="fig-four",
    caption="LeNet-5 with its second convolution factorized in four ways, at equal numbers of weights: test error right after the cut, and after one short retraining. One dot for each network; the dense network has been trained on for as long.",
    alt=f"Dot plot of test errors in percent, as cut and retrained, means: {'; '.join(errors_by_method)}. The dense network has {level5:.1f}.",
)

# %% [markdown]
# **What to see.** The harder the cut, the
# {finding}`more the method matters | pruning_factorization.lenet5.small_spread_points > pruning_factorization.lenet5.spread_points`.
# With {glue:text}`pruning_factorization.lenet5.share_pct` of the weights, the errors of the four methods end within
# {mean}`pruning_factorization.lenet5.spread_points` of each other.
# With {glue:text}`pruning_factorization.lenet5.small_share_pct` of the weights, they end within
# {mean}`pruning_factorization.lenet5.small_spread_points`.
# At this hard cut the short retraining repairs {glue:text}`pruning_factorization.lenet5.repaired_where`: it takes away
# {mean}`pruning_factorization.lenet5.repaired_points` of error with {glue:text}`pruning_factorization.lenet5.repaired`.
# The retraining sees {glue:text}`pruning_factorization.lenet5.retraining_pct` as many images as the training did.
# The dense network, trained on for as long, has an error of {mean}`pruning_factorization.lenet5.trained_on_error_pct`.
#
# **Does it take many retrainings?** With SVD at the hard cut, the error is
# {mean}`pruning_factorization.lenet5.svd_small_retrained_error_pct` after one retraining and
# {mean}`pruning_factorization.lenet5.svd_small_retrained_often_error_pct` after
# {mean}`pruning_factorization.lenet5.retrainings`: {glue:text}`pruning_factorization.lenet5.often`.
#
# ### The whole network in one go
#
# Like {cite:t}`kim2016compression`, we now take every rank from the Bayesian rule, factorize all large layers at once,
# and retrain once.
# The second convolution becomes Tucker's three layers, and the large linear layer becomes two layers of low rank.
# The first convolution and the last layer are small, so we keep them.


# %%
def in_one_go(net):
    rank = max(1, tucker.bayesian_rank(net.fc1.weight.detach()))
    small, report = tucker.factorize_model(net, layers=["conv2"])
    small, more = low_rank.factorize_model(small, rank={"fc1": rank})
    return small, report + more


whole5, reports = zip(*map(in_one_go, dense5), strict=True)
whole5_again = tuned(enumerate(whole5))
network_errors = errors(whole5_again)
record("lenet5.network_cut_error_pct", errors(whole5))
record("lenet5.network_retrained_error_pct", network_errors)

# %% tags=["remove-input"]
rows = []
for replaced in reports[0]:
    ranks_of = " and ".join(map(str, replaced.ranks))
    counts = {"parameters": f"{replaced.before:,}", "after": f"{replaced.after:,}"}
    rows.append({"layer": replaced.layer, "ranks": ranks_of, **counts})
figures.table(rows, caption="Ranks that the Bayesian rule finds in the first LeNet-5")

# %% tags=["remove-input"]
one, last = dataset.test.images[:1], shares[-1]
nets = {"dense, trained on": (lenet5, level5)}
nets |= {
    f"{m}, {100 * last:.0f} %": (again5[m, last][0], final[m, last]) for m in factorize
}
nets["whole network"] = whole5_again[0], average(network_errors)
variants, wrong = ({n: pair[i] for n, pair in nets.items()} for i in (0, 1))
latency = measure.latency_ms(
    {n: lambda m=m: m(one) for n, m in variants.items()}, runs=51
)
rows = []
for name, model in variants.items():
    adds = measure.multiply_adds(model, one.shape[1:])
    ratio = latency[name].median / latency["dense, trained on"].median
    row = {"network": name, "error (%)": f"{wrong[name]:.2f}"}
    row |= {
        "parameters": f"{measure.parameters(model):,}",
        "multiply-adds": f"{adds:,}",
    }
    row |= {
        "file (bytes)": f"{len(storage.dumps(model)):,}",
        "latency (ratio)": f"{ratio:.2f}",
    }
    rows.append(row)
figures.table(
    rows,
    caption="LeNet-5 dense and factorized, all trained on for as long: mean error of the networks, sizes and times of the first",
)

# %% tags=["remove-cell"]
for name, cost in (
    ("multiply_adds", lambda model: measure.multiply_adds(model, one.shape[1:])),
    ("file", lambda model: len(storage.dumps(model))),
    ("fewer_parameters", measure.parameters),
):
    ratios = [cost(a) / cost(b) for a, b in zip(dense5, whole5_again, strict=True)]
    record(f"lenet5.network_{name}_ratio", ratios)
record("lenet5.network_latency_ratio", ratio, digits=2)
adds = [measure.multiply_adds(m, one.shape[1:]) for m in (lenet5, whole5_again[0])]
falls = "less than" if ratio > adds[1] / adds[0] else "as much as"
evidence.phrase("pruning_factorization.lenet5.falls", falls)

# %% [markdown]
# **What to see.** The time falls {glue:text}`pruning_factorization.lenet5.falls` the {term}`multiply-adds <multiply-add>` do: the factorized
# network needs {mean}`pruning_factorization.lenet5.network_multiply_adds_ratio` fewer of them and takes
# {glue:text}`pruning_factorization.lenet5.network_latency_ratio` the time.
# It has more layers, and calling a layer takes time of its own.
# Its file is {mean}`pruning_factorization.lenet5.network_file_ratio`
# {finding}`smaller | pruning_factorization.lenet5.network_file_ratio > 1`.
# Its error is {mean}`pruning_factorization.lenet5.network_cut_error_pct` right after the cut and
# {mean}`pruning_factorization.lenet5.network_retrained_error_pct` after one retraining.
# The dense network, trained on for as long, has an error of {mean}`pruning_factorization.lenet5.trained_on_error_pct`.
#
# ## What a decomposition costs
#
# The survey calls decompositions expensive, but {cite:t}`han2016deep` call the singular value decomposition cheap.
# To see who is right, we count the floating-point operations while the code runs, and compare with one epoch of
# training, counted in the same way.
# The counter does not know matrix decompositions, so we use textbook estimates for these.
# An epoch costs more on a larger data set, so we also count one layer at full scale.
# This is the first fully connected layer of AlexNet, an image classifier, against one epoch on the training images of
# ImageNet {cite:p}`krizhevsky2012imagenet`.


# %% tags=["hide-input"]
def svd_flops(shape, *_, **__):
    short, long = sorted(shape[-2:])
    return 14 * long * short**2 + 8 * short**3


ops = torch.ops.aten
also = {
    ops._linalg_svd: svd_flops,
    ops._linalg_eigh: lambda shape, *_, **__: 9 * shape[-1] ** 3,
}
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
final_ranks = chosen[shares[-1]]
runs = {
    ("lenet5", m): [lambda n=n, m=m: factorize[m](n, final_ranks[m]) for n in dense5]
    for m in factorize
}
runs["lenet300", "SVD"] = [
    lambda n=n: low_rank.factorize(n.fc1, ranks[-1]) for n in dense
]
one_epoch = {"lenet5": epoch(lenet5), "lenet300": epoch(dense[0])}
spoken = {"lenet5": "LeNet-5", "lenet300": "LeNet-300-100", "alexnet": "AlexNet"}
rows, epochs_of = [], {}
for (network, method), calls in runs.items():
    key = f"cost.{network}_{method.lower()}_epochs"
    own = [costs(run) for run in calls]
    work, (operations, seconds) = own[0][0], one_epoch[network]
    assert all(cost[0] == work for cost in own)  # the shapes decide, not the weights
    counted, timed = work / operations, [cost[1] / seconds for cost in own]
    record(key, counted, unit="epochs", digits=6, exact=True)
    record(f"{key}_of_seconds", timed, unit="epochs", digits=4)
    epochs_of[network, method] = counted
    rows.append(
        {
            "network": spoken[network],
            "method": method,
            "operations": f"{work:,.0f}",
            "share of an epoch (%)": f"{100 * counted:.3g}",
            "share of its time (%)": f"{100 * average(timed):.2g}",
        }
    )
with torch.device("meta"):  # shapes, no weights
    alexnet = torchvision.models.alexnet()
    adds = measure.multiply_adds(alexnet, (3, 224, 224))
layer_flops = svd_flops(alexnet.classifier[1].weight.shape)
imagenet = 1_281_167  # training images of ImageNet's challenge
share = layer_flops / (imagenet * 3 * 2 * adds)  # forward, and twice as much backward
record("cost.alexnet_svd_epochs", share, unit="epochs", digits=6, exact=True)
rows.append(
    {
        "network": spoken["alexnet"],
        "method": "SVD",
        "operations": f"{layer_flops:,.0f}",
        "share of an epoch (%)": f"{100 * share:.3g}",
        "share of its time (%)": "-",
    }
)
figures.table(
    rows,
    caption="One decomposition, compared with one epoch of training: on this data, and on ImageNet for AlexNet",
)
largest_share = max(epochs_of.values())
less = "fewer" if largest_share < 1 else "more"
evidence.phrase("pruning_factorization.cost.less", less)
record("cost.largest_pct", 100 * largest_share, digits=1, exact=True)
record("cost.alexnet_pct", 100 * share, digits=3, exact=True)

# %% [markdown]
# **What to see.** Even the most expensive of these decompositions takes {glue:text}`pruning_factorization.cost.less`
# operations than one epoch of training, namely {glue:text}`pruning_factorization.cost.largest_pct` of that number.
# The larger the data set, the smaller these shares: an epoch grows with the number of images, a decomposition does not.
# The work of a decomposition grows with the cube of a layer's width.
# Even so, the wide layer of AlexNet costs only {mean}`pruning_factorization.cost.alexnet_pct` of an epoch on ImageNet.
# Are decompositions expensive when we measure time? Our clock says {verdict}`C2.3-65`.
#
# ## Where it breaks
#
# **Energy is not error.** The *energy* of a matrix is the sum of its squared singular values, and a common rule takes
# the smallest rank that keeps nine tenths of it.
# In the first network of each kind we cut one layer at a time, once to that rank and once to the rank that the Bayesian
# rule finds.

# %%
places = [(dense[0], "fc1"), (dense[0], "fc2"), (lenet5, "conv2"), (lenet5, "fc1")]
rules = {
    "energy": lambda layer: low_rank.rank_for(layer, 0.9),
    "Bayes": lambda layer: max(1, tucker.bayesian_rank(layer.weight.flatten(1))),
}
rows = []
for network, name in places:
    layer = network.get_submodule(name)
    matrix = layer.weight.detach().flatten(1)
    pays = (matrix.numel() - 1) // sum(matrix.shape)
    row = {"layer": f"{name}, {'LeNet-5' if network is lenet5 else 'LeNet-300-100'}"}
    row["smaller up to rank"] = pays
    for rule, choose in rules.items():
        rank = choose(layer)
        cut_here = copy.deepcopy(network)
        left, right = low_rank.split(matrix, rank)
        weight = (left @ right).reshape(layer.weight.shape)
        cut_here.get_submodule(name).weight.data = weight
        row |= {f"rank, {rule}": rank, f"error, {rule} (%)": f"{error(cut_here):.2f}"}
    rows.append(row)

# %% tags=["remove-input"]
figures.table(
    rows, caption="Two rules for the rank, one layer cut at a time, not retrained"
)
wasted = sum(row["rank, energy"] > row["smaller up to rank"] for row in rows)
lower = sum(row["rank, Bayes"] < row["rank, energy"] for row in rows)
counts = ["none", "one", "two", "three", "all"]
evidence.phrase("pruning_factorization.energy.wasted", counts[wasted])
evidence.phrase("pruning_factorization.energy.lower", counts[lower])

# %% [markdown]
# **What to see.** The two rules disagree: the Bayesian rank is the lower one in
# {glue:text}`pruning_factorization.energy.lower` of the four layers.
# The energy rule chooses a rank at which the factors are larger than the layer in
# {glue:text}`pruning_factorization.energy.wasted` of the four.
# Much of the energy of a weight matrix is left over from its random initialization, and the network may not need it.
#
# **CP without a best answer.** For some kernels there is no best fit.
# Take a tensor of $2 \times 2 \times 2$ zeros, and put a one at the places $(0, 0, 1)$, $(0, 1, 0)$ and $(1, 0, 0)$.
# It is a sum of three terms.
# Two terms can come as near to it as you like but never reach it: they grow without bound and cancel each other.

# %%
tensor = torch.zeros(2, 2, 2, 1)
tensor[0, 0, 1], tensor[0, 1, 0], tensor[1, 0, 0] = 1, 1, 1
steps, fits = (1, 3, 10, 30, 100), {}
for ridge in (1e-12, 1e-3):
    runs = [cp.decompose(tensor, 2, sweeps=n, ridge=ridge) for n in steps]
    away = [float((run.kernel - tensor).norm() / tensor.norm()) for run in runs]
    lengths = [torch.stack([f.norm(dim=0) for f in run.factors]) for run in runs]
    fits[ridge] = away, [float(length.prod(0).max()) for length in lengths]
three = cp.decompose(tensor, 3, ridge=1e-12)
assert (three.kernel - tensor).norm() < 1e-6 < fits[1e-12][0][-1]
for away, terms in fits.values():  # every sweep: a better fit with longer terms
    assert away == sorted(away, reverse=True) and terms == sorted(terms)

# %% tags=["remove-input"]
figure, ax = figures.axes()
thin = figures.look("factorize-cp")
ridged = thin | {"linestyle": "--", "markerfacecolor": "white"}
for look, label, (away, terms) in zip(
    (thin, ridged),
    ("almost no ridge", "ridge of a thousandth"),
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
    finding=f"Almost without a ridge, terms grow to length {terms[-1]:.1f} and cancel; a ridge holds them at {terms_ridge[-1]:.1f} and fits worse",
    name="fig-degenerate",
    caption="Two terms for a tensor that needs three: each point is a number of sweeps, from 1 at the upper left.",
    alt=f"Two falling paths. With almost no ridge the residual ends at {away[-1]:.3f} with terms of length {terms[-1]:.1f}; "
    f"with a ridge of a thousandth at {away_ridge[-1]:.3f} with terms of length {terms_ridge[-1]:.1f}.",
)

# %% [markdown]
# **What to see.** With every sweep, the residual goes down and the terms get longer.
# A ridge, which is a penalty on long terms, stops this growth, at the price of a worse fit.
# Long terms that cancel each other can make the retraining of such networks unstable.
#
# ## Exercises
#
# 1. For each layer of LeNet-300-100: up to which rank do its two low-rank factors have fewer weights than the layer?

# %% tags=["hide-cell"]
pays = {}
for name in ("fc1", "fc2", "fc3"):
    m, n = getattr(dense[0], name).weight.shape
    pays[name] = (m * n - 1) // (m + n)
evidence.answer(
    f"Up to rank {pays['fc1']} for the first layer, {pays['fc2']} for the second and {pays['fc3']} for the third."
)

# %% [markdown]
# 2. Factorize SqueezeNet, an image classifier from torchvision, with Tucker: at full ranks it must compute the same.
#    How many multiply-adds does it take at half of the ranks, and can its file be read back?

# %% tags=["hide-cell"]
squeezenet = torchvision.models.squeezenet1_1(num_classes=10).eval()
wide = {
    n: m.weight.shape for n, m in squeezenet.named_modules() if n.endswith("expand3x3")
}
image = torch.rand(1, 3, 64, 64)
for part in (1, 2):
    pairs = {name: (shape[1] // part, shape[0] // part) for name, shape in wide.items()}
    smaller, _ = tucker.factorize_model(squeezenet, ranks=pairs, sweeps=1)
    if part == 1:
        assert torch.allclose(smaller(image), squeezenet(image), atol=1e-4)
    saved = measure.multiply_adds(smaller, (3, 64, 64)) / measure.multiply_adds(
        squeezenet, (3, 64, 64)
    )
with tempfile.NamedTemporaryFile() as file:
    storage.save(smaller, file.name)
    again, _ = tucker.factorize_model(squeezenet, ranks=pairs, sweeps=0)
    assert torch.equal(storage.load(file.name, again).eval()(image), smaller(image))
evidence.answer(
    f"At half of the ranks it takes {100 * saved:.0f} % of the multiply-adds, and the network that is read back computes the same, bit for bit."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 2.3
# ```
#
# ## In short
#
# - A few small layers, with a fraction of the weights, can replace a large trained layer, and any software can run
#   them.
# - At moderate cuts the choice of the method matters little, and one short retraining is enough; at hard cuts the
#   choice matters more.
# - The time shrinks less than the number of multiply-adds: calling a layer takes time of its own.
#
# ## Sources of this chapter
#
# - {cite:t}`denton2014exploiting`, {cite:t}`jaderberg2014speeding`, {cite:t}`lebedev2015speeding` and
#   {cite:t}`kim2016compression` are the four methods; {cite:t}`berthelier2020survey` is the survey.
# - {cite:t}`cheng2017survey` is an overview that includes them.
# - {cite:t}`han2016deep` compare the singular value decomposition with pruning; the networks come from
#   {cite:t}`lecun1998gradient`.
