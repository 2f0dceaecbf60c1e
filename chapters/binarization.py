# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization)=
# # Binary weights
#
# A sign takes one bit where a float takes 32, and multiplying with it is adding or subtracting.
# With signs for weights from the first step on, a network of three hidden layers errs on {glue:text}`binarization.mlp.binaryconnect_error_pct` of the test images, with floats on {glue:text}`binarization.mlp.float_error_pct`, and its file is {glue:text}`binarization.mlp.binaryconnect_file_ratio` smaller.
# With a sign and a scale for each filter LeNet-5 errs on {glue:text}`binarization.lenet5.bwn_error_pct`, with floats on {glue:text}`binarization.lenet5.float_error_pct`.
# A step of training takes {glue:text}`binarization.training.step_latency_ratio` the time of one with floats, where the survey {cite:p}`berthelier2020survey` says a third: {verdict}`C2.6-15`.
# What happens when signs flow between the layers, too, is the subject of the [next chapter](binarization_activations.py); [one more](binarization_speed.py) measures speed, and [the last](binarization_comparison.py) compares all methods.
#
# ## What the survey says, and what came out
#
# ```{claims} binarization
# ```
#
# ## What this page needs
#
# ```{cost} binarization
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks of each kind, trained from different starts
hidden = [128, 128, 128]  # units of the three hidden layers
epochs = 8  # to train them
learning_rate = 0.003  # of Adam, for them
batch_size = 50  # for them, and for the others
draws = 5  # networks drawn from a stochastic one, whose answers are averaged
lenet5_images = 500  # training images of LeNet-5
lenet5_epochs = 5  # to train it
lenet5_batch_size = 50  # for it
lenet5_rates = {"float": 0.003, "bwn": 0.01}  # learning rates of Adam
few_images = 150  # in the experiment on generalization
few_epochs = 30  # of it
push_images = 1_000  # in the experiment with the bipolar regularizer
push_epochs = 6  # of it
push_strengths = [-0.001, 0.0, 0.001]  # of the regularizer; negative ones are weight decay
runs = 20  # timings, of which the median counts

# %% tags=["hide-input"]
import copy

import torch
from torch import nn
from torch.nn import functional

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, bipolar_regularizer, bwn
from lib.binarization.shared.signs import Sign, inner
from lib.cache import cached
from lib.coding import coders
from lib.vision import torchvision
from lib.weights import layers

dataset = datasets.load(data)
evidence.uses(dataset)
train, test = dataset.train, dataset.test
draw = torch.Generator().manual_seed(0)


def record(key, values, unit="%", digits=2, exact=False):
    return evidence.record(f"binarization.{key}", values, unit=unit, digits=digits, exact=exact)


def errors(nets, split=test):
    return [training.error_pct(net, split) for net in nets]


def smaller(net):
    return measure.dense_bytes(net) / len(storage.dumps(net))


def mlps(change=lambda net, seed: net, **options):
    options = {
        "split": train,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    } | options
    nets = [change(models.mlp(seed, hidden=tuple(hidden)), seed) for seed in range(seeds)]
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)  # dropout draws from here
        cached(binaryconnect.fit, net, seed=seed, **options)
    return nets


# %% [markdown]
# (sec-binaryconnect)=
# ## BinaryConnect: signs on the way, floats behind them
#
# **The idea.** Small steps of training must add up somewhere, so real weights are kept; but both the forward and the backward pass see their signs alone {cite:p}`courbariaux2015binaryconnect`.
#
# **The formula.** The sign of a weight $w \in [-1, 1]$ is taken, or drawn with the hard sigmoid as probability,
#
# $$ \begin{aligned} w_b &= \operatorname{sign}(w) \quad\text{or}\quad P(w_b = 1) = \mathrm{clip}\big(\tfrac{w + 1}{2}, 0, 1\big), \\ w &\leftarrow \mathrm{clip}\Big(w - \eta \frac{\partial C}{\partial w_b}, -1, 1\Big) . \end{aligned} $$ (eq-binaryconnect)
#
# The sign of zero is +1.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(Sign, binaryconnect.BinaryConnectWeight)

# %% [markdown]
# **An exact check.** The gradient of a weight is that of its sign, wherever the weight is; drawn signs have the weight as their mean, up to four standard errors; and a layer of signs is computed by adding and subtracting.

# %%
w = torch.linspace(-1, 1, 9).repeat(10_000, 1).requires_grad_()
zeros = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0])
record(
    "sign.wrong",
    (Sign.apply(zeros) != torch.tensor([1, 1, 1, -1, 1, -1])).sum(),
    "signs",
    0,
    exact=True,
)
taken, drawn = (binaryconnect.BinaryConnectWeight(limit=1.0, stochastic=s) for s in (False, True))
assert taken(w)[0].tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
(gradient,) = torch.autograd.grad((taken(w) * w.detach()).sum(), w)
assert torch.equal(gradient, w)
noise = ((1 - w[0].square()) / len(w)).sqrt()
away = (drawn(w).mean(0) - w[0]).abs() / noise.clamp(min=1e-6)
record("draw.standard_errors", away.max().item(), "standard errors", 1)
assert away.max() <= 4
x = torch.randint(-9, 10, (1, 9))
added = x[:, taken(w)[0] > 0].sum() - x[:, taken(w)[0] < 0].sum()
assert added == (x @ taken(w)[0].long()).item()

# %% [markdown]
# **An experiment.** The network of the source, three hidden layers with batch norm and the squared hinge loss: with floats, with signs that are taken, and with signs that are drawn anew for each batch.
# A network trained with drawn signs can answer with its real weights, as in the source, with their signs, or with the mean of several networks drawn from it.

# %%
dense, taken = mlps(), mlps(lambda net, seed: binaryconnect.binarize(net))
drawn = mlps(lambda net, seed: binaryconnect.binarize(net, stochastic=True, seed=100 * seed))


def averaged(net):  # the error of the mean answer of networks that are drawn
    total = 0
    for layer in net.modules():
        if isinstance(layer, binaryconnect.BinaryConnectWeight):
            layer.training = True
            layer.generator.manual_seed(
                layer.seed
            )  # the same draws after training and from the cache
    with torch.no_grad():
        for _ in range(draws):
            total = total + torch.cat([net(part) for part in test.images.split(1000)])
    net.eval()
    return 100 * (total.argmax(1) != test.labels).float().mean().item()


signed = [copy.deepcopy(net) for net in drawn]
for layer in (layer for net in signed for layer in net.modules()):
    if isinstance(layer, binaryconnect.BinaryConnectWeight):
        layer.inference = "sign"

# %% tags=["hide-input"]
test_errors = {"float": errors(dense), "binaryconnect": errors(taken), "stochastic": errors(drawn)}
test_errors |= {
    "stochastic_sign": errors(signed),
    "stochastic_mean": [averaged(net) for net in drawn],
}
learned = {
    name: errors(nets, train.first(10_000))
    for name, nets in (("float", dense), ("binaryconnect", taken))
}
for name, wrong in test_errors.items():
    record(f"mlp.{name}_error_pct", wrong)
form, latent, _ = bipolar_regularizer.forms(taken[0])[0]
record("connect.values_in_passes", len(form(latent).unique()), "values", 0, exact=True)
record("connect.values_stored", len(latent.unique()), "values", 0)
bits = 8 * len(coders.pack((latent >= 0).flatten().numpy(), 1)) / latent.numel()
record("connect.bits_in_file", bits, "bits", 1, exact=True)
for name, wrong in learned.items():
    record(f"mlp.{name}_training_error_pct", wrong)
record("mlp.binaryconnect_file_ratio", [smaller(net) for net in taken], "x", 1)
record("mlp.binaryconnect_file_bytes", [len(storage.dumps(net)) for net in taken], "bytes", 0)

# %% tags=["remove-input"]
names = (
    "floats",
    "signs taken",
    "drawn,\nreal weights",
    "drawn,\nsigns of them",
    "drawn,\nmean answer",
)
figure, ax = figures.axes()
looks = [figures.DENSE, figures.PRUNING, *[figures.QUANTIZATION] * 3]
for i, (wrong, look) in enumerate(zip(test_errors.values(), looks, strict=True)):
    figures.line(ax, [i], [wrong], {"color": look["color"], "marker": look["marker"]}, "_")
ax.plot([1, 2], [1.29, 1.18], label="reported, MNIST, full length", **figures.REPORTED)
ax.set(xticks=range(5), xticklabels=names, ylabel="test error (%)", ylim=(0, None))
ax.tick_params(axis="x", labelsize=10)
figures.legend(ax)
figures.show(
    figure,
    name="fig-binaryconnect",
    caption="Five ways to train and to use the same network; means over seeds with 95 % intervals.",
    alt="Test errors: "
    + "; ".join(
        f"{n} {sum(e) / len(e):.2f} %" for n, e in zip(names, test_errors.values(), strict=True)
    ).replace("\n", " "),
)

# %% [markdown]
# **What to see.** Signs that are taken err on {glue:text}`binarization.mlp.binaryconnect_error_pct`, floats on {glue:text}`binarization.mlp.float_error_pct`; the source reports 1.29 after a training many times as long {cite:p}`courbariaux2015binaryconnect`.
# Drawn signs give {glue:text}`binarization.mlp.stochastic_error_pct` with the real weights, {glue:text}`binarization.mlp.stochastic_sign_error_pct` with their signs and {glue:text}`binarization.mlp.stochastic_mean_error_pct` as a mean; in the source, after hundreds of epochs, they are the better ones.
# On the training images signs err on {glue:text}`binarization.mlp.binaryconnect_training_error_pct`, floats on {glue:text}`binarization.mlp.float_training_error_pct`.
#
# ### What is saved, and when
#
# Of the three products of a step of training, two have a matrix of signs as a factor; that of the weights' gradient has not.
# The file needs a bit for each weight; training needs the real weights *and* their signs.


# %% tags=["hide-input"]
def step(net):
    images, labels = train.images[:batch_size], train.labels[:batch_size]

    def run():
        with torch.enable_grad():
            training.squared_hinge(net(images), labels).backward()

    return run


def weight_bytes(net):  # of the weights, and of what the backward pass keeps of them
    sizes = {layer.weight.numel() for _, layer in layers(net)}
    seen = {p.untyped_storage().data_ptr(): p for p in net.parameters() if p.numel() in sizes}

    def keep(tensor):
        if tensor.numel() in sizes:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = net(train.images[:7])
    return sum(4 * tensor.numel() for tensor in seen.values()) if outputs.requires_grad else 0


work = [layer.weight.numel() for _, layer in layers(models.mlp(hidden=tuple(hidden)))]
forward, backward, update = sum(work), sum(work[1:]), sum(work)  # nothing is behind the first layer
record(
    "training.products_gone_pct",
    100 * (forward + backward) / (forward + backward + update),
    digits=1,
)
pair = [copy.deepcopy(dense[0]).train(), copy.deepcopy(taken[0]).train()]
times = measure.latency_ms({"float": step(pair[0]), "signs": step(pair[1])}, runs=runs)
record("training.step_latency_ratio", times["signs"].median / times["float"].median, "x")
held = [weight_bytes(net) for net in pair]
record("training.weights_bytes_ratio", held[0] / held[1], "x")
weight = torch.rand(512, 512) * 2 - 1
forms = {"taken": binaryconnect.BinaryConnectWeight(limit=1.0)}
forms["drawn"] = binaryconnect.BinaryConnectWeight(limit=1.0, stochastic=True)
times = measure.latency_ms(
    {name: lambda f=form: f(weight) for name, form in forms.items()}, runs=runs
)
record("draw.latency_ratio", times["drawn"].median / times["taken"].median, "x", 1)
record("draw.numbers_for_an_epoch", sum(work) * -(-len(train) // batch_size), "random numbers", 0)

# %% [markdown]
# **What to see.** {glue:text}`binarization.training.products_gone_pct` of the multiplications of a step become additions, which is worth nothing on a processor that adds and multiplies in one instruction: the step takes {glue:text}`binarization.training.step_latency_ratio` the time.
# Drawing a sign takes {glue:text}`binarization.draw.latency_ratio` the time of taking it.
#
# (sec-bwn)=
# ## Binary weight networks: a scale for each filter
#
# **The idea.** Signs alone have the wrong size, which batch norm must repair.
# A binary weight network gives each filter $W$ of $n$ weights the best size for its signs {cite:p}`rastegari2016xnor`.
#
# **The formula.**
#
# $$ \begin{aligned} W &\approx \alpha B, \qquad B = \operatorname{sign}(W), \qquad \alpha = \tfrac1n \lVert W \rVert_1, \\ \lVert W - \alpha B \rVert^2 &= \lVert W \rVert^2 - n \alpha^2 . \end{aligned} $$ (eq-bwn)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(bwn.BinaryWeight, bwn.scale)

# %% [markdown]
# **An exact check.** For eight weights all 256 patterns of signs can be tried, each with its own best scale: none is nearer.

# %%
w = torch.randn(8, generator=draw, dtype=torch.float64)
patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
best = (w.square().sum() - (patterns @ w).square() / 8).min()  # alpha = w b / n for a pattern b
alpha = bwn.scale(w[None]).item()
assert torch.allclose((w - alpha * w.sign()).square().sum(), best)
assert torch.allclose(best, w.square().sum() - 8 * alpha**2)
record(
    "bwn.patterns_nearer",
    (w.square().sum() - (patterns @ w).square() / 8 < best - 1e-9).sum(),
    "patterns",
    0,
)

# %% [markdown]
# **An experiment.** LeNet-5 with floats, and with all but its first and last layer in signs and scales.


# %%
def lenets(change, rate):
    options = {"split": train.first(lenet5_images), "epochs": lenet5_epochs, "learning_rate": rate}
    options |= {"batch_size": lenet5_batch_size, "loss": "cross_entropy"}
    nets = [change(models.lenet5(seed)) for seed in range(seeds)]
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)  # dropout draws from here
        cached(binaryconnect.fit, net, seed=seed, **options)
    return nets


lenet = {
    "float": lenets(lambda net: net, lenet5_rates["float"]),
    "bwn": lenets(bwn.binarize, lenet5_rates["bwn"]),
}
for name, nets in lenet.items():
    record(f"lenet5.{name}_error_pct", errors(nets))
record("lenet5.bwn_file_ratio", [smaller(net) for net in lenet["bwn"]], "x", 1)
filters = lenet["bwn"][0].fc1.weight
record("bwn.filter_ratio", 32 * filters[0].numel() / (filters[0].numel() + 32), "x", 1, exact=True)

# %% [markdown]
# **AlexNet in seven megabytes?** The survey's figure is one bit for each weight.
# The method keeps the first and the last layer in floats, and the last layer of AlexNet is large.

# %%
with torch.device("meta"):  # shapes without numbers
    alexnet = torchvision.models.alexnet()
binary = set(inner(alexnet))
shapes = {name: layer.weight.shape for name, layer in layers(alexnet)}
in_bits = sum(shapes[name].numel() / 8 for name in binary)
rest = sum(4 * shapes[name].numel() for name in shapes if name not in binary)
rest += sum(4 * shapes[name][0] for name in binary) + sum(
    4 * shape[0] for shape in shapes.values()
)  # alpha, biases
whole = measure.dense_bytes(alexnet)
record("alexnet.float_mb", whole / 1e6, "MB", 0, exact=True)
record("alexnet.binary_part_mb", in_bits / 1e6, "MB", 1, exact=True)
record("alexnet.whole_mb", (in_bits + rest) / 1e6, "MB", 1, exact=True)
record("alexnet.file_ratio", whole / (in_bits + rest), "x", 1, exact=True)

# %% [markdown]
# **What to see.** LeNet-5 errs on {glue:text}`binarization.lenet5.bwn_error_pct` with signs and scales, on {glue:text}`binarization.lenet5.float_error_pct` with floats.
# A filter of its large layer shrinks {glue:text}`binarization.bwn.filter_ratio`, the whole file {glue:text}`binarization.lenet5.bwn_file_ratio`.
# The bits of AlexNet take {glue:text}`binarization.alexnet.binary_part_mb`, all of it {glue:text}`binarization.alexnet.whole_mb` of {glue:text}`binarization.alexnet.float_mb`: {glue:text}`binarization.alexnet.file_ratio` smaller.
#
# (sec-bipolar)=
# ## Pushed towards the signs
#
# **The idea.** Weight decay draws weights to zero, where a small step turns a sign.
# A bipolar regularizer draws them to ±1 instead {cite:p}`tang2017compact`.
#
# **The formula.** $P = \tfrac{\lambda}{2} \sum_i (1 - w_i^2)$, whose gradient $-\lambda w_i$ is that of weight decay with the other sign.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(bipolar_regularizer.penalty, bipolar_regularizer.push)

# %% [markdown]
# **An exact check.** The gradient that is added is the penalty's derivative.

# %%
net = binaryconnect.binarize(nn.Linear(5, 3), limit=1.0)
latent = net.parametrizations.weight.original
(exact,) = torch.autograd.grad(0.1 * bipolar_regularizer.penalty(net), latent)
latent.grad = torch.zeros_like(latent)
bipolar_regularizer.push(net, 0.1)
assert torch.allclose(latent.grad, exact) and torch.allclose(exact, -0.1 * latent)

# %% [markdown]
# **An experiment.** The same network with weight decay, without anything, and with the regularizer; and without anything at ten times the learning rate.

# %%
rows, sizes = [], {}
settings = [(strength, 1) for strength in push_strengths] + [(0.0, 10)]
for strength, factor in settings:
    flipped, size, wrong = [], [], []
    for seed in range(seeds):
        net, seen = binaryconnect.binarize(models.mlp(seed, hidden=tuple(hidden))), []
        options = {
            "epochs": push_epochs,
            "seed": seed,
            "learning_rate": factor * learning_rate / 10,
        }
        options |= {
            "batch_size": batch_size,
            "before_epoch": lambda _, n=net, s=seen: s.append(bipolar_regularizer.signs(n)),
        }
        bipolar_regularizer.fit(net, train.first(push_images), strength=strength, **options)
        flipped.append(100 * bipolar_regularizer.flips(seen[-1], bipolar_regularizer.signs(net)))
        size.append(bipolar_regularizer.mean_size(net))
        wrong += errors([net])
    name = {-1: "decay", 0: "none", 1: "bipolar"}[(strength > 0) - (strength < 0)] + (
        "_fast" if factor > 1 else ""
    )
    row = {"strength": f"{strength:g}", "learning rate": f"{factor * learning_rate / 10:g}"}
    row["mean |w|"] = record(f"{name}.mean_size", size, "", 3)
    row["signs turned in the last epoch"] = record(f"{name}.flipped_pct", flipped)
    rows.append(row | {"test error": record(f"{name}.error_pct", wrong)})
figures.table(rows, caption="Weight decay (below zero) and the bipolar regularizer (above)")

# %% [markdown]
# **What to see.** Compare the mean size {glue:text}`binarization.bipolar.mean_size` with {glue:text}`binarization.none.mean_size` and, with weight decay, {glue:text}`binarization.decay.mean_size`.
# In the last epoch {glue:text}`binarization.bipolar.flipped_pct`, {glue:text}`binarization.none.flipped_pct` and {glue:text}`binarization.decay.flipped_pct` of the signs turn.
#
# (sec-abc-weights)=
# ## Several signs for one weight
#
# **The idea.** One matrix of signs is coarse; several, each with its own scale, are finer.
# ABC-Net takes the signs of the weights shifted by multiples of their deviation, and finds the scales by least squares {cite:p}`lin2017abcnet`.
#
# **The formula.**
#
# $$ \begin{aligned} W &\approx \sum_{m=1}^{M} \alpha_m B_m, \qquad u_m = -1 + \tfrac{2 (m - 1)}{M - 1}, \\ B_m &= \operatorname{sign}\big(W - \overline W + u_m \operatorname{std}(W)\big) . \end{aligned} $$ (eq-abc)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(abc_net.approximate)

# %% [markdown]
# **An exact check.** All the matrices compare the same weight with different thresholds, so that M of them tell only M + 1 ranges apart; what is missed is at a right angle to each of them.

# %%
w = torch.randn(50, 40, generator=draw, dtype=torch.float64)
for count in (1, 3, 5):
    signs, scales = abc_net.approximate(w, count)
    near = abc_net.combine(signs, scales)
    assert len(near.unique()) <= count + 1
    assert (signs * (w - near)).sum((1, 2)).abs().max() < 1e-8

# %% [markdown]
# **An experiment.** What is missed of many normal weights, by ABC-Net's matrices and by greedy ones, each the sign of what those before it leave; and the error of the trained LeNet-5 with such weights, without further training.

# %%
normal = torch.randn(400_000, 1, generator=draw).T
rows = []
for count in (1, 3, 5):
    row = {"matrices of signs": count}
    for kind in ("abc", "greedy"):
        signs, scales = abc_net.approximate(normal, count, kind)
        missed = (normal - abc_net.combine(signs, scales)).square().sum() / normal.square().sum()
        row[f"{kind}: missed"] = record(f"{kind}{count}.missed_pct", 100 * missed.item(), digits=2)
        nets = [
            abc_net.binarize(copy.deepcopy(net), bases=count, kind=kind) for net in lenet["float"]
        ]
        row[f"{kind}: error"] = record(f"{kind}{count}.untrained_error_pct", errors(nets))
    rows.append(row)
figures.table(
    rows,
    caption="Squared distance to normal weights, and test error of LeNet-5, inner layers replaced",
)

# %% [markdown]
# **What to see.** Five matrices of ABC-Net miss {glue:text}`binarization.abc5.missed_pct`, three greedy ones {glue:text}`binarization.greedy3.missed_pct`.
# The price is paid in products: the chapter on [speed](binarization_speed.py) measures it.
#
# ## Does it regularize?
#
# The survey says that noise on weights helps to generalize, and that binarization is a regularization.
# A training set of {glue:text}`binarization.few.images` images shows it if anything does.

# %%
record("few.images", few_images, "", 0)
ways = {
    "float": lambda net, seed: net,
    "taken": lambda net, seed: binaryconnect.binarize(net),
    "drawn": lambda net, seed: binaryconnect.binarize(net, stochastic=True, seed=100 * seed),
    "dropout": lambda net, seed: nn.Sequential(
        *[nn.Sequential(m, nn.Dropout()) if isinstance(m, nn.ReLU) else m for m in net]
    ),
}
part, rows = train.first(few_images), []
for name, change in ways.items():
    nets = mlps(change, split=part, epochs=few_epochs)
    with torch.no_grad():
        losses = [
            [training.squared_hinge(net(s.images), s.labels).item() for s in (part, test)]
            for net in nets
        ]
    row = {
        "weights": name,
        "training error": record(f"few.{name}_training_error_pct", errors(nets, part)),
    }
    row["test error"] = record(f"few.{name}_error_pct", errors(nets))
    row["training loss"] = record(f"few.{name}_training_loss", [a for a, _ in losses], "", 3)
    rows.append(
        row | {"gap of the loss": record(f"few.{name}_gap", [b - a for a, b in losses], "", 3)}
    )
figures.table(
    rows,
    caption="Few training images; the gap is the loss on the test images less that on the training images",
)

# %% [markdown]
# **What to see.** Test errors: floats {glue:text}`binarization.few.float_error_pct`, signs taken {glue:text}`binarization.few.taken_error_pct`, signs drawn {glue:text}`binarization.few.drawn_error_pct`, dropout {glue:text}`binarization.few.dropout_error_pct`.
#
# ## Where it breaks
#
# **Without limits.** Real weights that may grow without end turn their signs ever more rarely.
# Without the clipping {glue:text}`binarization.unclipped.outside_pct` of them end outside the limits; the error is {glue:text}`binarization.unclipped.error_pct`.
#
# **Rounded updates.** If the weights are rounded to signs after each update, a small step never gets anywhere.
# Then {glue:text}`binarization.rounded.turned_pct` of the signs turn in the whole training, and the error is {glue:text}`binarization.rounded.error_pct`, where real weights give {glue:text}`binarization.none_fast.error_pct`: what is learned is batch norm.
#
# **Drawn signs in a short training.** See the figure above: the noise that regularizes is also noise.


# %% tags=["hide-input"]
def fresh():
    return [binaryconnect.binarize(models.mlp(s, hidden=tuple(hidden))) for s in range(seeds)]


def round_weights(net):
    with torch.no_grad():
        for form, latent, limit in bipolar_regularizer.forms(net):
            latent.copy_(limit * form(latent))


nets, options = fresh(), {"epochs": push_epochs, "batch_size": batch_size, "weight_decay": 0.0}
options |= {"learning_rate": learning_rate, "optimizer": "adam", "loss": "squared_hinge"}
for seed, net in enumerate(nets):
    training.fit(net, train.first(push_images), seed=seed, **options)
outside = [
    torch.cat([(w.abs() > form.limit).flatten() for form, w, _ in bipolar_regularizer.forms(net)])
    .float()
    .mean()
    for net in nets
]
record("unclipped.outside_pct", [100 * share.item() for share in outside], digits=1)
record("unclipped.error_pct", errors(nets))
turned, nets = [], fresh()
for seed, net in enumerate(nets):
    before = bipolar_regularizer.signs(net)
    round_weights(net)
    options["after_step"] = lambda net=net: round_weights(net)
    training.fit(net, train.first(push_images), seed=seed, **options)
    turned.append(100 * bipolar_regularizer.flips(before, bipolar_regularizer.signs(net)))
record("rounded.turned_pct", turned, exact=True)
record("rounded.error_pct", errors(nets))

# %% [markdown]
# ## Exercises
#
# 1. The paper's gradient of a binary weight network leaves out a term. Which share of the gradient is it, for one filter and a random gradient of its output?

# %% tags=["hide-cell"]
w, g = torch.randn(2, 1, 100, generator=draw)
w = (0.1 * w).requires_grad_()
(exact,) = torch.autograd.grad((bwn.BinaryWeight()(w) * g).sum(), w)
printed = g * (1 / w.numel() + bwn.scale(w).detach())
print(f"{(exact - printed).norm() / exact.norm():.0%} of its length")

# %% [markdown]
# 2. A network of signs has a scale too many: which weights does batch norm make superfluous?

# %% tags=["hide-cell"]
x, bn = torch.randn(64, 20, generator=draw), nn.BatchNorm1d(30)
sums = functional.linear(x, torch.randn(30, 20, generator=draw).sign())
assert torch.allclose(
    bn(sums), bn(3 * sums), atol=1e-4
)  # any scale of a filter with batch norm behind it

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2015binaryconnect` is BinaryConnect, {cite:t}`rastegari2016xnor` has binary weight networks, {cite:t}`tang2017compact` the bipolar regularizer, {cite:t}`lin2017abcnet` several bases.
# - {cite:t}`berthelier2020survey` is the survey.
