# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   survey:
#     alone: true
# ---

# %% [markdown]
# (sec-pruning-speed)=
# # Pruning and speed: sparse products, structured sparsity, smaller networks
#
# Is a pruned network faster?
# Only if its zeros have a shape that the software can skip.
# Without some of its filters, ResNet-8, a small residual network, takes
# {mean}`pruning_speed.resnet8.shrunk_latency_ratio` its dense time; with the same filters set to zero, it takes
# {mean}`pruning_speed.resnet8.masked_latency_ratio`.
# Scattered zeros speed up the fully connected layers of AlexNet and VGG-16, two image classifiers, while AlexNet's
# convolutions take {mean}`pruning_speed.conv.sparse_latency_ratio` the time of dense ones.
#
# ```{claims} pruning_speed
# ```
#
# ```{cost} pruning_speed
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
train_samples = 500  # training images of the small network
test_samples = 450  # test images
seeds = 3  # networks trained from different starts
epochs = 8  # to train each
retrain_epochs = 2  # to retrain it after pruning
particles = 12  # masks that the particle filter carries
iterations = 5  # of resampling and moving them
filter_samples = 250  # validation images on which it measures a mask
runs = 20  # timings of each product, of which the median counts
batch = 16  # inputs in a batch
scale = 5  # divides the sides of AlexNet's and VGG's weights (1: the true shapes)
largest_batched = 50_000_000  # weights of the largest layer that is timed with a batch
sweep_side = 768  # rows and columns of the matrix in the sweep of densities
image_side = 64  # pixels, for ResNet-18
few_samples = 500  # training images of LeNet-300-100 and of ResNet-8

# %% tags=["hide-input"]
import copy
from math import ceil, prod

import torch
from torch import nn
from torch.fx.experimental import optimization

from lib import datasets, evidence, figures, measure, models, structure, training
from lib.cache import cached, trained
from lib.pruning import granularity, magnitude, particle_filter, sparse_speed
from lib.pruning.shared import block_sparse, selection
from lib.vision import torchvision
from lib.weights import decompress

dataset = datasets.load(data)
record = evidence.recorder("pruning_speed", dataset)
train = dataset.train.first(train_samples)
test = dataset.test.first(test_samples)
one = test.images[:1]
rated = dataset.validation.first(filter_samples)


def error(model):
    return training.error_pct(model, test)


# %% [markdown]
# (sec-granularity)=
# ## Zeros of four shapes
#
# **The idea.** Removing single weights leaves *irregular* connections, and a machine that computes many products side
# by side gains nothing from a zero here and there.
# {cite:t}`anwar2017structured` remove weights in shapes that the machine can skip: whole feature maps, whole {term}`kernels <kernel>`,
# and, inside the kernels, all but every s-th position.
# This chapter measures time, so it runs alone on the machine, on one thread.
#
# **The formula.** A convolution with $C_i$ source maps, $C_o$ {term}`filters <filter>` and $k \times k$ kernels is one matrix product.
# It multiplies the *kernel matrix* by the *feature matrix*, whose columns are patches of the input.
# In the kernels that read source map $i$, only the positions $o_i, o_i + s, o_i + 2s, \dots$ of the $k^2$ stay.
# If all these kernels share the stride $s$ and the offset $o_i$, the same rows vanish for every output, and the product
# becomes
#
# $$ \underbrace{C_o \times \textstyle\sum_i n_i}_{\text{kernel matrix}} \;\cdot\; \underbrace{\textstyle\sum_i n_i \times HW}_{\text{feature matrix}}, \qquad n_i = \left\lceil \frac{k^2 - o_i}{s} \right\rceil. $$ (eq-lowered)
#
# Here $n_i$ counts the rows that stay for map $i$; without strides it is $k^2$.
#
# **The code.** This makes the {term}`masks <mask>` of the strided level, and computes the product without the rows that no output
# needs:

# %% tags=["remove-input"]
figures.show_source(granularity.strided, granularity.LoweredConvolution.forward)

# %% [markdown]
# **An exact check.** The smaller product equals the masked convolution, and the two matrices shrink to the rows that
# the formula counts.
# If one filter chose other offsets than the rest, it would need the rows that the others skip.

# %%
torch.manual_seed(0)
layer, picture = nn.Conv2d(8, 16, 3, padding=1), torch.rand(2, 8, 12, 12)
mask = granularity.masks(layer, picture, level="stride", stride=2)[""]
with torch.no_grad():
    masked = magnitude.apply(copy.deepcopy(layer), {"": mask})(picture)
    small = granularity.LoweredConvolution(layer, mask)
    difference = ((small(picture) - masked).abs().max() / masked.abs().max()).item()
assert difference < 1e-5
offsets = [int(not mask[0, i, 0, 0]) for i in range(8)]
assert small.kernel.shape == (16, sum(ceil((9 - o) / 2) for o in offsets))
mixed = mask.clone()
mixed[0] = ~mask[0]  # the first filter takes the other offset everywhere
assert granularity.rows(mixed).all()

# %% tags=["remove-cell"]
rows = {
    name: granularity.rows(m).float().mean().item()
    for name, m in (("s", mask), ("m", mixed))
}
record("stride.difference", difference, digits=7, exact=True)
pair = nn.Sequential(layer, nn.Conv2d(16, 4, 1))  # maps go where a layer reads them
for level in ("map", "kernel", "stride"):
    how = {"stride": 2} if level == "stride" else {"density": 0.5}
    zeros = ~granularity.masks(pair, picture, level=level, **how)["0"]
    if level == "stride":  # all filters have the same holes
        assert (zeros == zeros[:1]).all()
    else:  # a filter or a kernel is there or not
        units = zeros.flatten(1 if level == "map" else 2).float().mean(-1)
        assert set(units.unique().tolist()) <= {0.0, 1.0}
    removed = 100 * zeros.float().mean().item()
    record(f"{level}.example_removed_pct", removed, digits=0, exact=True)
record("stride.shared_offset_rows_pct", 100 * rows["s"], digits=0, exact=True)
record("stride.mixed_offset_rows_pct", 100 * rows["m"], digits=0, exact=True)
smaller = small.kernel.numel() / layer.weight.numel()
record("stride.kernel_matrix_ratio", smaller, digits=2, exact=True)
features = small.features(picture).numel() / (picture.numel() * 9)
record("stride.feature_matrix_ratio", features, digits=2, exact=True)

# %% [markdown]
# With shared offsets, {glue:text}`pruning_speed.stride.shared_offset_rows_pct` of the rows stay; with one filter that
# differs, {glue:text}`pruning_speed.stride.mixed_offset_rows_pct` do.
# The survey says that the kernels of a source map have a similar stride and offset, which makes the product small:
# {verdict}`C2.3-15`.
# But similar is not enough: they have to be identical.
#
# **What a shape costs.** We prune a small network of three convolutions at each level (single weights, kernels, strides
# or feature maps) to the same number of
# multiply-adds, and retrain it briefly.
# The weights to remove are chosen by magnitude or at random.
# The dense networks are trained on for as many epochs, with the same options.


# %% tags=["hide-input"]
def network(seed):
    torch.manual_seed(seed)
    parts = []
    for inputs, outputs, stride in ((one.shape[1], 8, 2), (8, 16, 2), (16, 32, 1)):
        parts.append(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False))
        parts += [nn.BatchNorm2d(outputs), nn.ReLU()]
    tail = [nn.MaxPool2d(2), nn.Flatten()]
    places = prod(nn.Sequential(*parts, *tail)(one).shape)
    return nn.Sequential(*parts, *tail, nn.Linear(places, len(dataset.classes)))


options = {"split": train, "epochs": epochs, "learning_rate": 0.05}
dense = trained(training.fit, network, seeds=range(seeds), **options)
baseline = [error(model) for model in dense]
record("network.baseline_error_pct", baseline, digits=1)


# %% tags=["hide-input"]
def holes(model, level, select, seed):
    stride = granularity.masks(
        model, one, level="stride", stride=2, select=select, seed=seed
    )
    if level == "stride":
        return stride
    share = work(model, stride)
    if level == "map":
        share = 1 - structure.fraction_for(model, one, multiply_adds=share)
    return granularity.masks(
        model, one, level=level, density=share, select=select, seed=seed
    )


def work(model, masks, example=one):
    masks = {
        n: m for n, m in masks.items() if isinstance(model.get_submodule(n), nn.Conv2d)
    }
    full = {name: torch.ones_like(mask) for name, mask in masks.items()}
    left, whole = (granularity.multiply_adds(model, m, example) for m in (masks, full))
    return left / whole


# %%
fine = {"split": train, "epochs": retrain_epochs, "learning_rate": 0.02}
trained_on = [
    error(cached(training.fit, copy.deepcopy(model), seed=seed, **fine))
    for seed, model in enumerate(dense)
]
record("network.trained_on_error_pct", trained_on, digits=1)
outcome = {}
for level in granularity.LEVELS:
    shares, needed = [], [[] for _ in dense]
    for select in ("magnitude", "random"):
        before, after = [], []
        for seed, model in enumerate(dense):
            masks = holes(model, level, select, seed)
            cut = magnitude.apply(copy.deepcopy(model), masks)
            before.append(error(cut))
            after.append(error(cached(training.fit, cut, seed=seed, **fine)))
            shares.append(work(model, masks))
            needed[seed] += [
                100 * granularity.rows(masks[n]).float().mean().item()
                for n in ("3", "6")
            ]
        outcome[level, select] = before, after
    record(f"{level}.multiply_adds_ratio", shares[:seeds], digits=2)
    record(f"{level}.rows_pct", [sum(n) / len(n) for n in needed], digits=0)

# %% tags=["remove-input"]
for (level, select), (before, after) in outcome.items():
    record(f"{level}.{select}_pruned_error_pct", before, digits=1)
    record(f"{level}.{select}_retrained_error_pct", after, digits=1)
    back = [
        100 * (b - a) / max(b - d, 0.1)
        for b, a, d in zip(before, after, trained_on, strict=True)
    ]
    record(f"{level}.{select}_recovered_pct", back, digits=0)
figure, ax = figures.axes()
names = {
    "weight": "single weights",
    "kernel": "kernels",
    "stride": "stride 2",
    "map": "feature maps",
}
series = [("magnitude", 0, "just pruned"), ("random", 0, "just pruned")]
series += [("magnitude", 1, "retrained"), ("random", 1, "retrained")]
for k, (select, part, step) in enumerate(series):
    look = figures.look(("pruned", "retrained")[part]) | {"linestyle": "none"}
    if select == "random":
        look["markerfacecolor"] = "none"
    values = [
        (v, y + 0.18 * k - 0.27)
        for y, n in enumerate(names)
        for v in outcome[n, select][part]
    ]
    ax.plot(*zip(*values, strict=True), **look, label=f"{step}, {select}")
level = sum(trained_on) / seeds
ax.axvline(level, **figures.DENSE | {"marker": ""}, label="dense network")
ax.set(
    yticks=range(len(names)), yticklabels=list(names.values()), xlabel="test error (%)"
)
figures.logarithmic(ax, "x")
ax.invert_yaxis()
figures.legend(ax)
mean = {k: [sum(v) / seeds for v in outcome[k, "magnitude"]] for k in names}
lowest = min(mean, key=lambda k: mean[k][1])  # not chosen by test
figures.show(
    figure,
    finding=f"Retrained, {names[lowest]} leave the lowest error, {mean[lowest][1]:.1f}\u00a0%; strides leave {mean['stride'][1]:.1f}\u00a0%",
    name="fig-granularity",
    caption="Test error with the same share of multiply-adds removed in four shapes, chosen by magnitude (filled) or at random (hollow), before and after brief retraining. One point for each network; the dense network has been trained on for as long.",
    alt="Error by the shape of the zeros, chosen by magnitude, before and after retraining: "
    + "; ".join(f"{names[k]} {m[0]:.1f} % and {m[1]:.1f} %" for k, m in mean.items())
    + f". The dense network has {level:.1f} %.",
)

# %% tags=["remove-cell"]
evidence.phrase("pruning_speed.shape.lowest", names[lowest])
highest = max(mean, key=lambda k: mean[k][1])  # not chosen by test
spoken = "strides" if highest == "stride" else names[highest]
evidence.phrase("pruning_speed.shape.highest", spoken)
back = [100 * (b - a) / (b - level) for b, a in mean.values()]
part = "more than half" if min(back) > 50 else "a part"
evidence.phrase("pruning_speed.shape.part", part)

# %% [markdown]
# **What to see.** Scattered zeros free nothing: single weights and kernels keep {mean}`pruning_speed.weight.rows_pct`
# and {mean}`pruning_speed.kernel.rows_pct` of the rows of the feature matrix in use.
# After retraining, {glue:text}`pruning_speed.shape.lowest` leave the lowest error and
# {glue:text}`pruning_speed.shape.highest` the highest.
# Only strides and feature maps
# {finding}`make the matrices smaller | pruning_speed.stride.rows_pct < pruning_speed.kernel.rows_pct; pruning_speed.map.rows_pct < pruning_speed.kernel.rows_pct; pruning_speed.weight.rows_pct >= pruning_speed.kernel.rows_pct`,
# to {mean}`pruning_speed.stride.rows_pct` and {mean}`pruning_speed.map.rows_pct` of their rows: {verdict}`C2.3-62`.
# When magnitude chooses, retraining takes back {glue:text}`pruning_speed.shape.part` of the error that each shape adds;
# with strides it takes back {mean}`pruning_speed.stride.magnitude_recovered_pct`.
#
# (sec-particle-filter)=
# ## Which filters? A particle filter
#
# **The idea.** The survey calls the method of Anwar et al. similar to pruning by thresholds: {verdict}`C2.3-17`.
# But the paper does not look at weights at all {cite:p}`anwar2017structured`.
# Its particle filter tries many masks at once, measures each on validation data, copies the good ones and changes the
# copies a little.
#
# **The formula.** Let $\mathrm{MCR}_n$ be the misclassification rate of the network under mask $n$, one of $N$ masks.
# This mask is copied about $N w_n$ times, with
#
# $$ w_n = \frac{(1 - \mathrm{MCR}_n)^{1/T}}{\sum_j (1 - \mathrm{MCR}_j)^{1/T}}. $$ (eq-particles)
#
# The temperature $T$ spreads out accuracies that lie close together.
# An evolutionary variant also crosses the copies.
#
# **The code.** These functions weigh the particles, choose the copies, and change each copy:

# %% tags=["remove-input"]
figures.show_source(
    particle_filter.likelihoods, particle_filter.systematic, particle_filter.moved
)

# %% [markdown]
# **An exact check.** There are only twenty ways to keep three of six {term}`channels <channel>`, and the particle filter must find the
# best of them:

# %%
value = torch.tensor([0.05, 0.22, 0.08, 0.2, 0.11, 0.3])
tiny = particle_filter.search(
    lambda mask: 1 - value[mask].sum().item(), channels=6, keep=3, seed=0, particles=8
)
assert tiny.best.tolist() == [False, True, False, True, False, True]

# %% [markdown]
# **An experiment.** We remove half of the last convolution's filters, without retraining.
# The layers before it are computed once for all masks.
# The particle filter, its evolutionary variant and a random search each measure the same number of masks.


# %% tags=["hide-input"]
def searched(model, seed, **options):
    with torch.no_grad():
        maps = model[:9](
            rated.images
        )  # of the last convolution, as the next layer reads them

    def evaluate(mask):
        with torch.no_grad():
            answers = model[9:](maps * mask[:, None, None]).argmax(1)
        return (answers != rated.labels).float().mean().item()

    general, channels = particle_filter.evaluator(
        model, "6", rated
    )  # for any network and layer
    half = torch.arange(channels) % 2 == 0
    assert abs(general(half) - evaluate(half)) < 1e-6
    options = {
        "keep": channels // 2,
        "particles": particles,
        "iterations": iterations,
    } | options
    return particle_filter.search(evaluate, channels=channels, seed=seed, **options)


# %%
def cut_error(model, mask):
    return error(structure.mask(model, {"6": mask}, one))


filtered = [searched(model, s) for s, model in enumerate(dense)]
evolved = [searched(model, s, evolutionary=True) for s, model in enumerate(dense)]
many = {"particles": particles * (iterations + 1), "iterations": 0}
guessed = [searched(model, 100 + s, **many) for s, model in enumerate(dense)]
norms = [model[6].weight.detach().abs().sum((1, 2, 3)) for model in dense]
by_norm = [selection.largest(norm, 0.5) for norm in norms]

# %% tags=["remove-cell"]
results, searches = {}, {"filter": filtered, "evolutionary": evolved, "random": guessed}
for name, histories in searches.items():
    carried = [100 * f.errors[-1].mean().item() for f in histories]
    best_errors = [100 * f.best_error for f in histories]
    tested = [
        cut_error(model, f.best) for model, f in zip(dense, histories, strict=True)
    ]
    record(f"{name}.population_error_pct", carried, digits=1)
    record(f"{name}.best_error_pct", best_errors, digits=1)
    record(f"{name}.test_error_pct", tested, digits=1)
    results[name] = carried, best_errors, tested
tested = [cut_error(*pair) for pair in zip(dense, by_norm, strict=True)]
record("norm.test_error_pct", tested, digits=1)
results["norm"] = None, None, tested
same = [
    100 * (f.best & largest).sum().item() / largest.sum().item()
    for f, largest in zip(filtered, by_norm, strict=True)
]
record("filter.same_as_norm_pct", same, digits=0)
found, luck = (sum(results[name][2]) / seeds for name in ("filter", "random"))
better = "lower" if found < luck else "no lower"
evidence.phrase("pruning_speed.filter.better", better)

# %% tags=["remove-input"]
figure, ax = figures.axes()
curves = 100 * torch.stack([f.errors for f in filtered])  # seeds, iterations, particles
steps, bounds = range(iterations + 1), figures.PERCENT
look = figures.look("prune-particle-filter") | {"marker": "o"}
values = curves.mean(2).T.tolist()
figures.line(ax, steps, values, look, "particles, mean", bounds=bounds)
values = curves.min(2).values.T.tolist()
look = look | {"linestyle": "--", "markerfacecolor": "none"}
figures.line(ax, steps, values, look, "particles, best", bounds=bounds)
average = 100 * sum(f.errors.mean().item() for f in guessed) / seeds
lucky = 100 * sum(f.best_error for f in guessed) / seeds
gray = figures.look("random")["color"]
ax.axhline(average, color=gray, linestyle=":", label="random masks, mean")
ax.axhline(lucky, color=gray, linestyle="--", label="random masks, best")
ax.set(xlabel="iteration", ylabel="validation error (%)", ylim=(0, None))
figures.legend(ax)
last = 100 * sum(f.errors[-1].mean().item() for f in filtered) / seeds
figures.show(
    figure,
    finding=f"The particles end at {last:.1f}\u00a0% error on average; random masks average {average:.1f}\u00a0%",
    name="fig-particles",
    caption="Validation error of the masks that the particle filter carries, and of as many random masks; means over seeds with 95 % intervals.",
    alt=f"The mean error of the carried masks ends at {last:.1f} %, where random masks have {average:.1f} % on average; the best of as many random masks has {lucky:.1f} %.",
)

# %% tags=["remove-input"]
spoken = {"filter": "particle filter", "evolutionary": "particle filter, crossed"}
spoken |= {"random": "random masks", "norm": "largest L1 norm, no search"}


def cells(numbers):
    return "-" if numbers is None else f"{sum(numbers) / seeds:.1f}"


rows = [
    {
        "filters chosen by": spoken[name],
        "validation, all carried (%)": cells(carried),
        "validation, best (%)": cells(top),
        "test (%)": cells(tested),
    }
    for name, (carried, top, tested) in results.items()
]
figures.table(rows, caption="Errors without half of the last convolution's filters")

# %% [markdown]
# **What to see.** The particle filter improves the masks that it carries.
# On test data, the error of its best mask is {glue:text}`pruning_speed.filter.better` than that of the best of as many
# random masks.
# Either search pays off: the filters of largest norm, for which nothing has to be searched,
# {finding}`leave the highest error | pruning_speed.norm.test_error_pct > pruning_speed.filter.test_error_pct; pruning_speed.norm.test_error_pct > pruning_speed.random.test_error_pct`,
# {mean}`pruning_speed.norm.test_error_pct`.
# Of the filters that the particle filter keeps, {mean}`pruning_speed.filter.same_as_norm_pct` are among those that
# magnitude keeps; chance alone would give half.
#
# (sec-sparse-speed)=
# ## Figure 4 again: sparse products
#
# **The idea.** Store only the nonzero weights, row by row, and multiply only with these.
#
# **The formula.** Let $\rho$ be the {term}`density`, and $r$ the rate at which each product does its multiply-adds. Then
#
# $$ \frac{t_{\text{sparse}}}{t_{\text{dense}}} = \rho\, \frac{r_{\text{dense}}}{r_{\text{sparse}}}, $$ (eq-break-even)
#
# so the {term}`sparse` product is faster below the *break-even density* $\rho^* = r_{\text{sparse}} / r_{\text{dense}}$.
# The survey's Figure 4 shows AlexNet and VGG "before and after pruning".
# Its source measured only the fully connected layers, one input at a time {cite:p}`han2016deep`.
#
# **The code.** We use two sparse products, scipy's and torch's; a convolution is first written as a product of
# matrices:

# %% tags=["remove-input"]
figures.show_source(sparse_speed.products)

# %% [markdown]
# **An exact check.** All three products must give the same outputs, and the layer must have the requested density:

# %%
thin = sparse_speed.thinned(nn.Linear(300, 200), density=0.1, seed=0)
results = [call() for call in sparse_speed.products(thin, torch.rand(5, 300)).values()]
assert all(torch.allclose(results[0], result, atol=1e-5) for result in results)
assert abs(thin.weight.count_nonzero() / thin.weight.numel() - 0.1) < 0.01

# %% [markdown]
# **The experiment.** The layers of AlexNet and VGG-16 get zeros at random positions.
# The shares kept are those of {cite:t}`han2015learning`: in AlexNet a third or more of the convolutions' weights, and
# about a tenth of those of the fully connected layers.
# VGG-16's last layer has the same shape as AlexNet's, and gets the same density here.
# All sides of the weight matrices are divided by {glue:text}`pruning_speed.shapes.scale`, where 1 means the true
# shapes.
# Of the two sparse products, the faster one counts.

# %% tags=["hide-input"]
races, shapes, kernels = {}, sparse_speed.LINEAR, sparse_speed.CONVOLUTIONS
for name, (outputs, inputs, density) in shapes.items():
    layer = nn.utils.skip_init(nn.Linear, inputs // scale, outputs // scale, bias=False)
    sparse_speed.thinned(layer, density=density, seed=0)
    for n in (1, batch):
        if n == 1 or layer.weight.numel() <= largest_batched:
            races[name, n] = sparse_speed.race(
                layer, torch.rand(n, inputs // scale), runs=runs
            )
for name, (outputs, inputs, side, stride, place, density) in kernels.items():
    inputs = max(3, inputs // scale)
    layer = nn.Conv2d(inputs, outputs // scale, side, stride, side // 2, bias=False)
    sparse_speed.thinned(layer, density=density, seed=0)
    races[name, 1] = sparse_speed.race(
        layer, torch.rand(1, inputs, place, place), runs=runs
    )
ratio = {key: race.ratio for key, race in races.items()}
record("shapes.scale", scale, exact=True)


# %% tags=["remove-cell"]
def mean_ratio(names, n):
    values = [ratio[name, n] for name in names if (name, n) in ratio]
    return prod(values) ** (1 / len(values))


def left(names):
    sparse = sum(races[n, 1].sparse_work for n in names)
    return sparse / sum(races[n, 1].dense_work for n in names)


both = [name for name in shapes if (name, batch) in ratio]
record("fc.batch1_latency_ratio", mean_ratio(shapes, 1), digits=2)
alone, batched = (mean_ratio(both, n) for n in (1, batch))
record("fc.batch1_of_batched_latency_ratio", alone, digits=2)
record("fc.batched_latency_ratio", batched, digits=2)
word = "gains more" if batched < alone else "gains less"
evidence.phrase("pruning_speed.fc.batch_word", word)
record("fc.multiply_adds_ratio", left(shapes), digits=2, exact=True)
record("fc8.batch1_latency_ratio", ratio["fc8 of both", 1], digits=2)
record("fc8.batched_latency_ratio", ratio["fc8 of both", batch], digits=2)
record("fc8.multiply_adds_ratio", left(["fc8 of both"]), digits=2, exact=True)
worse = ratio["fc8 of both", batch] / left(["fc8 of both"])  # an efficient one: 1
record("fc8.latency_to_work_ratio", worse, digits=1)
pruned = [name for name in kernels if name.startswith("AlexNet")]
sparse_ms, dense_ms = (
    sum(getattr(races[name, 1], kind) for name in pruned)
    for kind in ("sparse_ms", "dense_ms")
)
conv_ratio = sparse_ms / dense_ms
record("conv.sparse_latency_ratio", conv_ratio, digits=2)
record("conv.multiply_adds_ratio", left(pruned), digits=2, exact=True)
record("conv.latency_to_work_ratio", conv_ratio / left(pruned), digits=1)

# %% tags=["remove-input"]
figure, ax = figures.axes()
figure.set_size_inches(6.0, 4.6)
names = [*shapes, *kernels]
looks = figures.look("pruned"), figures.look("iterated")
for n, look in zip((1, batch), looks, strict=True):
    points = [(ratio[name, n], y) for y, name in enumerate(names) if (name, n) in ratio]
    look = look | {"linestyle": "none"}
    ax.plot(*zip(*points, strict=True), **look, label=f"{n} input{'s' * (n > 1)}")
work_left = [races[name, 1].sparse_work / races[name, 1].dense_work for name in names]
bar = {"color": "#6b6b6b", "marker": "|", "markersize": 10, "linestyle": "none"}
ax.plot(work_left, range(len(names)), **bar, label="multiply-adds left")
reported = [(1418 / 318, 0), (777 / 774, 4)]
look = figures.look("reported")
ax.plot(*zip(*reported, strict=True), **look, label="reported")
ax.axvline(1, color="black", linewidth=1)
ax.set(
    yticks=range(len(names)), yticklabels=names, xlabel="time, sparse to dense (ratio)"
)
figures.logarithmic(ax, "x")
ax.invert_yaxis()
figures.legend(ax, columns=2)
figures.show(
    figure,
    lead=True,
    finding=f"With one input, sparse linear layers take {mean_ratio(shapes, 1):.2f}× the time of dense ones, AlexNet's sparse convolutions {conv_ratio:.1f}×",
    name="fig-sparse-speed",
    caption="Time of the faster sparse product relative to the dense one; left of the line sparse is faster. Stars: reported for AlexNet's fc6 with a batch and VGG-16's fc8 with one input.",
    alt="Ratios of time, sparse to dense, for one input: "
    + ", ".join(f"{name} {ratio[name, 1]:.2f}" for name in names)
    + f". With {batch} inputs: "
    + ", ".join(
        f"{name} {ratio[name, batch]:.2f}" for name in shapes if (name, batch) in ratio
    )
    + ".",
)

# %% [markdown]
# **What to see.** Scattered zeros save time in the fully connected layers and not in convolutions.
# With {glue:text}`pruning_speed.fc.multiply_adds_ratio` the multiply-adds, the fully connected layers take
# {glue:text}`pruning_speed.fc.batch1_latency_ratio` the time for one input (geometric mean).
# A dense layer has to read all of its weights from memory for a single input, and a sparse one reads fewer.
# In a batch, each weight is used many times.
# Among the layers that are timed both ways, a batch {glue:text}`pruning_speed.fc.batch_word`: they take
# {glue:text}`pruning_speed.fc.batched_latency_ratio` the dense time with a batch and
# {glue:text}`pruning_speed.fc.batch1_of_batched_latency_ratio` for one input.
# The source reports a threefold speed on average for one input on a CPU, and no advantage in a batch
# {cite:p}`han2016deep`.
# Convolutions use each weight many times even for one input: AlexNet's five, with
# {glue:text}`pruning_speed.conv.multiply_adds_ratio` the multiply-adds, take
# {glue:text}`pruning_speed.conv.sparse_latency_ratio` the time.
# Even one core computes in parallel, on vectors of many numbers, and irregular zeros leave these vectors half empty.
# Both sparse products come from general libraries; code written for one layer can do better.
# The survey says that pruning makes connections irregular ({verdict}`C2.3-13`) and that this is inefficient in parallel
# ({verdict}`C2.3-61`).
# Its Figure 4 compares speeds before and after pruning on a CPU ({verdict}`C2.3-27`), on a GPU and on a mobile GPU
# ({verdict}`C2.3-60`).
#
# **Whole networks.** The convolutions do nearly all multiply-adds; the fully connected layers do
# {glue:text}`pruning_speed.alexnet.fully_connected_multiply_adds_pct` of AlexNet's and
# {glue:text}`pruning_speed.vgg16.fully_connected_multiply_adds_pct` of VGG-16's.
# AlexNet's time is the sum over its layers.
# Of VGG-16's convolutions we measure one, and assume that the others run at its rate.

# %% tags=["hide-input"]
whole, groups = {}, {"alexnet": list(kernels)[:5], "vgg16": ["VGG-16 conv5"]}
for name, convolutions in groups.items():
    with torch.device("meta"):  # shapes, no weights
        work_all = measure.multiply_adds(
            getattr(torchvision.models, name)(), (3, 224, 224)
        )
    linear = [
        races[n, 1]
        for n in shapes
        if n.replace("-", "").lower().startswith((name, "fc8"))
    ]
    conv = [races[n, 1] for n in convolutions]
    work_linear = scale**2 * sum(race.dense_work for race in linear)
    linear_share = 100 * work_linear / work_all
    record(
        f"{name}.fully_connected_multiply_adds_pct", linear_share, digits=1, exact=True
    )
    factor = 1.0
    if name == "vgg16":  # as many times the one measured as there are multiply-adds
        factor = (work_all - work_linear) / scale**2 / conv[0].dense_work
    dense_ms, sparse_ms, best_ms = (
        factor * sum(pick(r.dense_ms, r.sparse_ms) for r in conv)
        + sum(pick(r.dense_ms, r.sparse_ms) for r in linear)
        for pick in (lambda d, s: d, lambda d, s: s, min)
    )
    whole[name] = sparse_ms / dense_ms, best_ms / dense_ms
    record(f"{name}.all_sparse_latency_ratio", whole[name][0], digits=2)
    record(f"{name}.best_of_both_latency_ratio", whole[name][1], digits=2)

# %% tags=["remove-input"]
rows = [
    {"network": title, "all layers sparse": f"{whole[name][0]:.2f}"}
    | {"each layer in its faster form": f"{whole[name][1]:.2f}"}
    for name, title in (("alexnet", "AlexNet"), ("vgg16", "VGG-16"))
]
figures.table(rows, caption="Time for one input, relative to the dense network")

# %% [markdown]
# **What to see.** Making every layer sparse slows both networks down, so choose the form of each layer separately.
#
# **Zeros in blocks.** A sparse product can gain with more weights left if its zeros come in blocks that fill a vector.
# Here sixteen outputs that lie together share an input, or none of them reads it:
#
# $$ y_{16 r + j} = \sum_{c \in C_r} V_{r, c, j}\, x_c, \qquad 0 \le j < 16. $$ (eq-blocks)
#
# $C_r$ are the inputs that group $r$ of the outputs reads, and $V$ holds its weights.
# One index serves sixteen weights, and each multiply-add of vectors uses all of its lanes.
# The blocks of smallest mean magnitude go:

# %% tags=["remove-input"]
figures.show_source(block_sparse.mask)

# %% [markdown]
# **An exact check.** The product in blocks is the dense product of the masked weight, also where the last group is not
# full:

# %%
weight, columns = torch.randn(200, 300), torch.rand(300, 5)
weight *= block_sparse.mask(weight, density=0.3)
blocks = block_sparse.Blocks(weight)
assert len(blocks.values) == round(0.3 * 13 * 300)  # 200 rows make 13 groups
assert torch.allclose(blocks @ columns, weight @ columns, atol=1e-4)

# %% [markdown]
# **How sparse is sparse enough?** We time one square matrix at several densities, with scattered zeros and with blocks.
#
# ```{predict} sparse-enough
# ```

# %%
densities = [0.01, 0.03, 0.1, 0.3, 0.6, 1.0]
sweep = {(kind, n): [] for kind in ("scattered", "blocks") for n in (1, batch)}
for density in densities:
    thin = nn.utils.skip_init(nn.Linear, sweep_side, sweep_side, bias=False)
    sparse_speed.thinned(thin, density=density, seed=0)
    held = sparse_speed.thinned(copy.deepcopy(thin), density=1.0, seed=0)
    held.weight.data *= block_sparse.mask(held.weight, density=density)
    for n in (1, batch):
        x = torch.rand(n, sweep_side)
        race = sparse_speed.race(thin, x, runs=runs)
        sweep["scattered", n].append(race.ratio)
        race = sparse_speed.race(held, x, runs=runs, blocks=True)
        sweep["blocks", n].append(race.ratio)
found = {key: sparse_speed.break_even(densities, r) for key, r in sweep.items()}
even, in_blocks = (
    {n: found[kind, n] for n in (1, batch)} for kind in ("scattered", "blocks")
)

# %% tags=["remove-cell"]
record("sweep.batch1_latency_break_even_pct", 100 * even[1], digits=0)
record("sweep.batched_latency_break_even_pct", 100 * even[batch], digits=0)
record("sweep.blocks_batch1_latency_break_even_pct", 100 * in_blocks[1], digits=0)
record("sweep.blocks_batched_latency_break_even_pct", 100 * in_blocks[batch], digits=0)
at = {density: sweep["scattered", batch][i] for i, density in enumerate(densities)}
record("sweep.three_tenths_to_tenth_latency_ratio", at[0.3] / at[0.1], digits=1)
must_lose = f"{100 * (1 - max(even.values())):.0f} %"
evidence.phrase("pruning_speed.sweep.must_lose", must_lose)

# %% tags=["remove-input"]
figure, ax = figures.axes()
figure.set_size_inches(6, 4.4)
shares = [100 * d for d in densities]
for (kind, n), ratios in sweep.items():
    look = figures.look("pruned" if kind == "scattered" else "iterated")
    look = look | ({} if n == 1 else {"linestyle": "--", "markerfacecolor": "none"})
    ax.plot(shares, ratios, **look, label=f"{kind}, {n} input{'s' * (n > 1)}")
ax.plot(shares, densities, color="#6b6b6b", linestyle=":", label="multiply-adds")
ax.axhline(1, color="black", linewidth=1)
ax.set(xlabel="weights kept (%)", ylabel="time, sparse to dense (ratio)")
figures.logarithmic(ax, "x", "y")
figures.legend(ax, columns=2)


def crossing(density):
    return "at any density" if density == 1 else f"below {100 * density:.0f}\u00a0%"


figures.show(
    figure,
    finding=f"In a batch, blocks of zeros are faster than dense {crossing(in_blocks[batch])} of the weights; scattered zeros {crossing(even[batch])}",
    name="fig-break-even",
    caption="Time of a sparse product relative to the dense one, by the share of weights kept: scattered weights (the faster of two libraries) and blocks of sixteen.",
    alt="The ratios rise with the share of weights kept. They reach 1 at "
    + "; ".join(
        f"{100 * density:.0f} % of the weights ({kind}, inputs: {n})"
        for (kind, n), density in found.items()
    )
    + ".",
)

# %% [markdown]
# **What to see.** With scattered zeros, a matrix must lose {glue:text}`pruning_speed.sweep.must_lose` of its weights or
# more before a sparse product gains.
# The lines cross the dense time at {glue:text}`pruning_speed.sweep.batch1_latency_break_even_pct` of the weights for
# one input and at {glue:text}`pruning_speed.sweep.batched_latency_break_even_pct` for a batch.
# With blocks they cross it at {glue:text}`pruning_speed.sweep.blocks_batch1_latency_break_even_pct` and
# {glue:text}`pruning_speed.sweep.blocks_batched_latency_break_even_pct`.
# Speed thus depends on the sparsity: {verdict}`C2.3-42`.
#
# **What blocks cost.** Blocks have a price: with each of them go weights that matter.
# LeNet-300-100, a digit classifier with two hidden layers, keeps a tenth of the weights of these layers, scattered or
# in blocks, and is retrained briefly.
# The dense networks are trained on for as long.


# %% tags=["hide-input"]
def tenth(model, kind):
    hidden = {name: model.get_submodule(name).weight for name in ("fc1", "fc2")}
    if kind == "scattered":
        return magnitude.masks(model, density=dict.fromkeys(hidden, 0.1))
    return {n: block_sparse.mask(w, density=0.1) for n, w in hidden.items()}


few = train.first(few_samples)
long = {"split": few, "epochs": 30, "learning_rate": 0.1}
brief = {"split": few, "epochs": 10, "learning_rate": 0.05}
perceptrons = trained(training.fit, models.lenet_300_100, seeds=range(seeds), **long)
for kind in ("dense", "scattered", "blocks"):
    errors = []
    for seed, model in enumerate(perceptrons):
        cut = copy.deepcopy(model)
        if kind != "dense":
            magnitude.apply(cut, tenth(model, kind))
        errors.append(error(cached(training.fit, cut, seed=seed, **brief)))
    record(f"lenet300.{kind}_error_pct", errors, digits=1)

# %% [markdown]
# Retrained, blocks
# {finding}`leave a higher error than scattered weights | pruning_speed.lenet300.blocks_error_pct > pruning_speed.lenet300.scattered_error_pct`:
# {mean}`pruning_speed.lenet300.blocks_error_pct` against {mean}`pruning_speed.lenet300.scattered_error_pct`, where the
# dense networks have {mean}`pruning_speed.lenet300.dense_error_pct`.
#
# (sec-shrunk)=
# ## Whole filters: a smaller network
#
# A network from which filters are physically removed is dense, and every library computes it well.
# But libraries work on blocks of channels, so not every removed channel saves time.
# We time one convolution with as many filters as source maps, for every width:

# %%
widths = range(17, 65)
calls = {}
for c in widths:
    layer, x = nn.Conv2d(c, c, 3, padding=1), torch.rand(1, c, 28, 28)
    calls[c] = lambda layer=layer, x=x: layer(x)
stairs = [t.median for t in measure.latency_ms(calls, runs=runs).values()]

# %% tags=["remove-input"]
figure, ax = figures.axes()
eights = [i for i, c in enumerate(widths) if c % 8 == 0]
color = figures.look("pruned")["color"]
ax.plot(widths, stairs, color=color, marker=".", label="any width")
look = figures.look("retrained") | {"linestyle": "none"}
ax.plot(
    [widths[i] for i in eights],
    [stairs[i] for i in eights],
    **look,
    label="multiples of 8",
)
ax.set(
    xlabel="channels in and out",
    ylabel="time (ms)",
    ylim=(0, None),
    xticks=range(16, 65, 8),
)
figures.legend(ax)
jumps = {widths[i]: stairs[i + 1] / stairs[i] - 1 for i in eights[:-1]}
at = max(jumps, key=jumps.get)  # not chosen by test
figures.show(
    figure,
    finding=f"One channel more than {at} costs {100 * jumps[at]:.0f}\u00a0% more time",
    name="fig-stairs",
    caption="Time of one 3 × 3 convolution on maps of 28 × 28, by its number of channels.",
    alt="A line that rises in steps. One channel more than a multiple of eight adds "
    + ", ".join(f"{100 * jump:.0f} % at {c}" for c, jump in jumps.items())
    + f"; {widths[0]} channels take {stairs[0]:.2f} ms and {widths[-1]} take {stairs[-1]:.2f} ms.",
)

# %% tags=["remove-cell"]
evidence.phrase("pruning_speed.stairs.at", f"{at} to {at + 1}")
evidence.phrase("pruning_speed.stairs.jump", f"{100 * jumps[at]:.0f} %")

# %% [markdown]
# **What to see.** Time rises in steps: going from {glue:text}`pruning_speed.stairs.at` channels adds
# {glue:text}`pruning_speed.stairs.jump` to the time.
# The steps begin just above some multiples of eight, so pruning should leave such a multiple.
#
# Two residual networks lose the filters of least magnitude.
# Either every layer loses the same share, without and with rounding to multiples of eight, or those filters go that
# save the most time.
# For these, the multiply-adds $W$ are counted as the library computes them, with the outputs filled up to blocks of
# sixteen. The filters $j$ of one layer go next that have the largest
#
# $$ \frac{W_{\text{before}} - W_{\text{after}}}{\sum_j v_j}, $$ (eq-saving)
#
# where $v_j$ is the magnitude of filter $j$ relative to its layer. Each layer keeps half of its filters or more.

# %% tags=["remove-input"]
figures.show_source(sparse_speed.shrunk_to)

# %% [markdown]
# Another copy of ResNet-8 keeps the filters of the first choice, but they are zero.
# All networks, dense or not, store their channels last in memory, as in training.
# Their {term}`batch norm` is folded into the convolutions, as one would do for inference.

# %% tags=["hide-input"]
cut = 5 / 16  # of the filters of every layer: just under half of the work is left
half = 0.45  # of the multiply-adds may be left where time decides
resnets = {"resnet8": models.resnet8(), "resnet18": torchvision.models.resnet18()}
wide = torch.rand(1, 3, image_side, image_side)
batches = {"resnet8": torch.rand(batch, 3, 32, 32), "resnet18": wide}
rows = []
for name, model in resnets.items():
    model, tiny, x = model.eval(), torch.zeros(1, 3, 32, 32), batches[name]
    variants = {"dense": model}
    for key, multiple in (("odd", 1), ("shrunk", 8)):
        variants[key] = sparse_speed.shrunk(
            model, tiny, fraction=cut, multiple_of=multiple
        )
    variants["timely"] = sparse_speed.shrunk_to(model, x[:1], multiply_adds=half)
    if name == "resnet8":
        zeros = granularity.masks(model, tiny, level="map", density=1 - cut)
        variants["masked"] = decompress(magnitude.apply(copy.deepcopy(model), zeros))
    shares = {k: measure.multiply_adds(v, x.shape[1:]) for k, v in variants.items()}
    shares = {k: v / shares["dense"] for k, v in shares.items()}
    assert max(shares["odd"], shares["shrunk"], shares["timely"]) <= 0.5
    x = x.to(memory_format=torch.channels_last)
    folded = {
        k: optimization.fuse(v).to(memory_format=torch.channels_last)
        for k, v in variants.items()
    }
    with torch.no_grad():
        assert all(
            torch.allclose(f(x[:2]), variants[k](x[:2]), atol=1e-3)
            for k, f in folded.items()
        )
    calls = {k: lambda m=m, x=x: m(x) for k, m in folded.items()}
    times = measure.latency_ms(calls, runs=runs)
    rows += [
        (name, k, shares[k], t.median / times["dense"].median) for k, t in times.items()
    ]

# %% tags=["remove-input"]
ways = {"dense": "dense", "odd": "any number of filters", "shrunk": "multiples of 8"}
ways |= {"timely": "those that save most", "masked": "filters zero"}
places = {"resnet8": f"ResNet-8, {batch} inputs", "resnet18": "ResNet-18, 1 input"}
columns = "network", "variant", "multiply-adds (ratio)", "latency (ratio)"
table = []
for name, key, share, taken in rows:
    values = places[name], ways[key], f"{share:.2f}", f"{taken:.2f}"
    table.append(dict(zip(columns, values, strict=True)))
    if key != "dense":
        record(f"{name}.{key}_multiply_adds_ratio", share, digits=2, exact=True)
        record(f"{name}.{key}_latency_ratio", taken, digits=2)
figures.table(table, caption="Multiply-adds and time, relative to the dense network")
taken = {(name, key): latency for name, key, _, latency in rows}
faster = [
    n for n in resnets if taken[n, "shrunk"] < taken[n, "odd"]
]  # not chosen by test
where = ["neither network", "one of the two networks", "both networks"][len(faster)]
evidence.phrase("pruning_speed.shrunk.rounding", where)
saved = [taken[n, "timely"] < taken[n, "shrunk"] for n in resnets]  # not chosen by test
where = ["neither network", "one of the two networks", "both networks"][sum(saved)]
evidence.phrase("pruning_speed.timely.where", where)
less = all(t > share for _, k, share, t in rows if k == "shrunk")
evidence.phrase("pruning_speed.shrunk.falls", "less than" if less else "as much as")

# %% [markdown]
# **What to see.** Removed filters save time, while zeroed filters are still computed:
# {glue:text}`pruning_speed.resnet8.shrunk_latency_ratio` against
# {glue:text}`pruning_speed.resnet8.masked_latency_ratio` the time of the dense ResNet-8.
# Time falls {glue:text}`pruning_speed.shrunk.falls` the multiply-adds:
# {glue:text}`pruning_speed.resnet8.shrunk_multiply_adds_ratio` of them are left without the filters, and
# {glue:text}`pruning_speed.resnet8.masked_multiply_adds_ratio` with zeros in their place.
# Keeping multiples of eight filters is faster than keeping any number in {glue:text}`pruning_speed.shrunk.rounding`.
# Choosing filters by what they save leaves ResNet-8 {glue:text}`pruning_speed.resnet8.timely_multiply_adds_ratio` of
# the multiply-adds and {glue:text}`pruning_speed.resnet8.timely_latency_ratio` of the time.
# This choice takes less time than multiples of eight in {glue:text}`pruning_speed.timely.where`.
# The count leaves out the reading of weights, which takes long in layers with many weights and small maps.
#
# One ResNet-8, trained on the digits at half their resolution, shows the price of this choice.
# It is cut in the same way and retrained briefly, and a dense copy is trained on for as long.


# %% tags=["hide-input"]
def halved(split):
    return datasets.Split(nn.functional.avg_pool2d(split.images, 2), split.labels)


long = {"split": halved(few), "epochs": 12, "learning_rate": 0.05, "batch_size": 32}
brief = long | {"epochs": 6, "learning_rate": 0.025}
start = models.resnet8(0, channels=one.shape[1])
start = cached(training.fit, start, seed=0, **long)
small = sparse_speed.shrunk_to(start, halved(few).images[:1], multiply_adds=half)
for key, model in (("dense", start), ("timely", small)):
    after = cached(training.fit, copy.deepcopy(model), seed=0, **brief)
    record(f"resnet8.{key}_error_pct", [training.error_pct(after, halved(test))])

# %% [markdown]
# The cut network has an error of {glue:text}`pruning_speed.resnet8.timely_error_pct`, the dense one of
# {glue:text}`pruning_speed.resnet8.dense_error_pct`.
# The survey says that pruned models are faster {cite:p}`berthelier2020survey`: {verdict}`C2.3-41`.
#
# ## Where it breaks
#
# **Not sparse enough.** The last fully connected layer keeps a quarter of its weights, but its time does not fall to a
# quarter.
# Its sparse product takes {glue:text}`pruning_speed.fc8.batch1_latency_ratio` the dense time for one input and
# {glue:text}`pruning_speed.fc8.batched_latency_ratio` with a batch.
# So a batch takes {glue:text}`pruning_speed.fc8.latency_to_work_ratio` as long as its multiply-adds promise, and
# AlexNet's convolutions take {glue:text}`pruning_speed.conv.latency_to_work_ratio` ({verdict}`C4-01`).
#
# **The wrong rival.** Strides make both matrices smaller, but a library's convolution need not write a feature matrix
# at all.
# We time one layer as a product of matrices, with and without strides, against the library's own convolution.

# %%
n = 256 // scale
layer, x = nn.Conv2d(n, n, 3, padding=1), torch.rand(1, n, 14, 14)
holey = granularity.masks(layer, x, level="stride", stride=2)[""]
forms = {"library": layer, "strided": granularity.LoweredConvolution(layer, holey)}
forms["lowered"] = granularity.LoweredConvolution(layer, torch.ones_like(holey))
times = measure.latency_ms({k: lambda f=f: f(x) for k, f in forms.items()}, runs=runs)

# %% tags=["remove-cell"]
for key, rival in (("strided", "lowered"), ("library", "library")):
    taken = times["strided"].median / times[rival].median
    record(f"lowered.{key}_latency_ratio", taken, digits=2)

# %% [markdown]
# With strides, the product takes {glue:text}`pruning_speed.lowered.strided_latency_ratio` the time of the full product,
# and {glue:text}`pruning_speed.lowered.library_latency_ratio` that of the library's convolution.
# A speed-up says little unless it names what it is compared with.
#
# ## Exercises
#
# 1. How many positions of a five-by-five kernel stay with a stride of 3, for each offset? Check the formula against
#    masks.

# %% tags=["hide-cell"]
counts = []
for offset in range(3):
    layer = nn.Conv2d(1, 2, 5)
    layer.weight.data.zero_().flatten(1)[:, offset::3] = 1
    image = torch.rand(1, 1, 9, 9)
    mask = granularity.masks(layer, image, level="stride", stride=3)[""]
    counts.append(int(granularity.rows(mask).sum()))
    assert counts[-1] == ceil((25 - offset) / 3)
evidence.answer(
    f"With offsets 0, 1 and 2 there stay {counts[0]}, {counts[1]} and {counts[2]} of the 25 places."
)

# %% [markdown]
# 2. A layer takes a third of a network's time and keeps a tenth of its weights. How much faster can its sparse product
#    make the network, with the larger of the break-even densities above? And if the layer took no time at all?

# %% tags=["hide-cell"]
part = min(1, 0.1 / max(even.values()))  # of the layer's time, by the formula
faster = 1 / (2 / 3 + part / 3)
assert 1 <= faster < 1.5
evidence.answer(
    f"The network becomes {faster:.2f} times as fast, and 1.5 times if the layer took no time."
)

# %% [markdown]
# ## In short
#
# - Remove whole filters, in multiples of eight: the smaller network is faster with any library.
# - Scattered zeros need sparse products, which gain on large fully connected layers and lose on convolutions.
# - In a batch, zeros in blocks of sixteen outputs
#   {finding}`pay off with more weights left than scattered ones | pruning_speed.sweep.blocks_batched_latency_break_even_pct > pruning_speed.sweep.batched_latency_break_even_pct`.
# - Zeros that are stored and multiplied save nothing.
#
# ## Sources of this chapter
#
# - {cite:t}`anwar2017structured` introduced the shapes and the particle filter; {cite:t}`han2016deep` made the
#   measurements of the survey's Figure 4.
# - The densities come from {cite:t}`han2015learning`, the networks from {cite:t}`krizhevsky2012imagenet`,
#   {cite:t}`simonyan2015very` and {cite:t}`he2016deep`.
# - {cite:t}`berthelier2020survey` is the survey.
