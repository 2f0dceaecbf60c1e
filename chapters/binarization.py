# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization)=
# # Binary weights: BinaryConnect and binary weight networks
#
# Can a network work if each of its weights is only +1 or −1?
# Yes, {finding}`almost as well as with floats | binarization.mlp.binaryconnect_error_pct - binarization.mlp.float_error_pct <= 1`.
# A digit classifier with three hidden layers misclassifies {mean}`binarization.mlp.binaryconnect_error_pct 1` of the
# test images instead of {mean}`binarization.mlp.float_error_pct 1`, and its file is
# {mean}`binarization.mlp.binaryconnect_file_ratio 0`
# {finding}`smaller | binarization.mlp.binaryconnect_file_ratio > 1`.
# Training still needs the real weights, and on this processor a training step takes
# {glue:text}`binarization.training.duration` one with floats.
#
# ```{claims} binarization
# ```
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
lenet5_rates = [0.003, 0.01]  # of Adam, from which validation images choose
few_images = 150  # in the experiment on generalization
few_epochs = 40  # of it
few_batch = 50  # images in a step of it
push_images = 1_000  # in the experiment with the bipolar regularizer
push_epochs = 6  # of it
push_strengths = [-0.001, 0.0, 0.001]  # of it; negative ones are weight decay
runs = 20  # timings, of which the median counts

# %% tags=["hide-input"]
import copy

import torch
from torch import nn
from torch.nn import functional

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, bipolar_regularizer, bwn
from lib.binarization.shared.conversion import inner
from lib.binarization.shared.signs import Sign
from lib.cache import trained
from lib.coding import coders
from lib.vision import torchvision
from lib.weights import layers

dataset = datasets.load(data)
record = evidence.recorder("binarization", dataset)
train, test = dataset.train, dataset.test
draw = torch.Generator().manual_seed(0)


def errors(nets, split=test):
    return [training.error_pct(net, split) for net in nets]


def mean(values):
    return sum(values) / len(values)


def smaller(net):
    return measure.dense_bytes(net) / len(storage.dumps(net))


def mlps(change=lambda net, seed: net, **options):
    def build(seed):
        net = change(models.mlp(seed, hidden=tuple(hidden)), seed)
        torch.manual_seed(seed)  # dropout draws from here
        return net

    options = {
        "split": train,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    } | options
    return trained(binaryconnect.fit, build, seeds=range(seeds), **options)


# %% [markdown]
# (sec-binaryconnect)=
# ## BinaryConnect: compute with signs, update real weights
#
# **The idea.** One training step changes a weight too little to flip its sign, so many small steps must add up
# somewhere.
# BinaryConnect keeps a real weight for that purpose, but the forward and the backward pass see only its sign {cite:p}`courbariaux2015binaryconnect`.
#
# **The formula.** The {term}`binary weight <binary weights>` $w_b$ is the sign of a real weight $w \in [-1, 1]$, or it is drawn at random, +1
# with a probability that grows with $w$:
#
# $$ \begin{aligned} w_b &= \operatorname{sign}(w) \quad\text{or}\quad P(w_b = 1) = \mathrm{clip}\big(\tfrac{w + 1}{2}, 0, 1\big), \\ w &\leftarrow \mathrm{clip}\Big(w - \eta \frac{\partial C}{\partial w_b}, -1, 1\Big) , \end{aligned} $$ (eq-binaryconnect)
#
# where $C$ is the loss and $\eta$ the {term}`learning rate`.
# We say that signs are *taken* in the first case, the deterministic one, and *drawn* in the second, the stochastic one.
# The sign of zero is +1.
#
# **The code.** `Sign.apply` takes the sign and passes the gradient on as if it had done nothing:

# %% tags=["remove-input"]
figures.show_source(binaryconnect.BinaryConnectWeight)

# %% [markdown]
# **An exact check.** A weight receives the gradient of its sign, whatever its value.
# The mean of many drawn signs is the weight, up to four standard errors.
# And a layer of signs needs only additions and subtractions:

# %%
taken, drawn = (
    binaryconnect.BinaryConnectWeight(limit=1.0, stochastic=s) for s in (False, True)
)
w = torch.linspace(-1, 1, 9).repeat(10_000, 1).requires_grad_()
assert taken(w)[0].tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
(gradient,) = torch.autograd.grad((taken(w) * w.detach()).sum(), w)
assert torch.equal(gradient, w)
noise = ((1 - w[0].square()) / len(w)).sqrt().clamp(min=1e-6)
away = ((drawn(w).mean(0) - w[0]).abs() / noise).max()
assert away <= 4
x = torch.randint(-9, 10, (1, 9))
added = x[:, taken(w)[0] > 0].sum() - x[:, taken(w)[0] < 0].sum()
assert added == (x @ taken(w)[0].long()).item()

# %% tags=["remove-cell"]
record("draw.standard_errors", away.item(), "standard errors", 1, exact=True)
zeros = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0])
wrong = (Sign.apply(zeros) != torch.tensor([1, 1, 1, -1, 1, -1])).sum()
record("sign.wrong", wrong, "signs", exact=True)

# %% [markdown]
# **An experiment.** The network of the source has three hidden layers with {term}`batch norm`, and is trained with the squared
# hinge loss.
# We train it in three ways: with floats, with signs that are taken, and with signs that are drawn again for each batch.
# A network trained with drawn signs can answer with its real weights, as in the source, or with their signs.
# It can also average the answers of several networks drawn from it.

# %%
dense, taken = mlps(), mlps(lambda net, seed: binaryconnect.binarize(net))
drawn = mlps(
    lambda net, seed: binaryconnect.binarize(net, stochastic=True, seed=100 * seed)
)


# %% tags=["hide-input"]
def averaged(net):  # the error of the mean answer of networks that are drawn
    total = 0
    for layer in net.modules():
        if isinstance(layer, binaryconnect.BinaryConnectWeight):
            layer.training = True
            # the same draws after training and from the cache
            layer.generator.manual_seed(layer.seed)
    with torch.no_grad():
        for _ in range(draws):
            total = total + torch.cat([net(part) for part in test.images.split(1000)])
    net.eval()
    return 100 * (total.argmax(1) != test.labels).float().mean().item()


signed = [copy.deepcopy(net) for net in drawn]
for layer in (layer for net in signed for layer in net.modules()):
    if isinstance(layer, binaryconnect.BinaryConnectWeight):
        layer.inference = "sign"
test_errors = {
    "float": errors(dense),
    "binaryconnect": errors(taken),
    "stochastic": errors(drawn),
    "stochastic_sign": errors(signed),
    "stochastic_mean": [averaged(net) for net in drawn],
}

# %% tags=["remove-input"]
names = (
    "floats",
    "signs\ntaken",
    "drawn,\nreal weights",
    "drawn,\ntheir signs",
    "drawn,\nmean answer",
)
looks = ["float", "binaryconnect", *["stochastic rounding"] * 3]
figure, ax = figures.axes()
for i, (wrong, name) in enumerate(zip(test_errors.values(), looks, strict=True)):
    look = figures.look(name) | {"linestyle": "none"}
    figures.line(ax, [i], [wrong], look, "_", bounds=figures.PERCENT)
if dataset.name == "MNIST":
    reported = figures.look("reported")
    ax.plot([1, 2], [1.29, 1.18], label="reported, full length", **reported)
    figures.legend(ax)
ax.set(xticks=range(5), xticklabels=names, ylabel="test error (%)", ylim=(0, None))
ax.tick_params(axis="x", labelsize=10)
means = {name: mean(wrong) for name, wrong in test_errors.items()}
more = means["stochastic"] > means["binaryconnect"]
drawing = "drawing them at random costs more" if more else "drawn ones are as good"
figures.show(
    figure,
    lead=True,
    finding=f"Signs for weights: {means['binaryconnect']:.1f} % error instead of {means['float']:.1f} % with floats; {drawing}",
    name="fig-binaryconnect",
    caption="Five ways to train and to use a network of three hidden layers; means over seeds with 95 % intervals.",
    alt="Test errors: "
    + "; ".join(
        f"{name} {value:.2f} %"
        for name, value in zip(names, means.values(), strict=True)
    ).replace("\n", " ")
    + f". With signs for weights {drawing}.",
)

# %% tags=["remove-cell"]
for name, wrong in test_errors.items():
    record(f"mlp.{name}_error_pct", wrong)
for name, nets in (("float", dense), ("binaryconnect", taken)):
    record(f"mlp.{name}_training_error_pct", errors(nets, train.first(10_000)))
start = binaryconnect.binarize(models.mlp(hidden=tuple(hidden)))
form, latent, _ = bipolar_regularizer.forms(start)[0]
record("connect.values_in_passes", len(form(latent).unique()), "values", exact=True)
record("connect.values_stored", len(latent.unique()), "values", exact=True)
bits = 8 * len(coders.pack((latent >= 0).flatten().numpy(), 1)) / latent.numel()
record("connect.bits_in_file", bits, "bits", 1, exact=True)
record("mlp.binaryconnect_file_ratio", [smaller(net) for net in taken])
sizes = [len(storage.dumps(net)) for net in taken]
record("mlp.binaryconnect_file_bytes", sizes)
evidence.phrase("binarization.draw.outcome", "worse" if more else "no worse")

# %% [markdown]
# **What to see.** One bit per weight costs little accuracy: the error is
# {glue:text}`binarization.mlp.binaryconnect_error_pct` with signs that are taken and
# {glue:text}`binarization.mlp.float_error_pct` with floats.
# The source reports 1.29 % on MNIST after many times as much training {cite:p}`courbariaux2015binaryconnect`.
# Drawn signs do {glue:text}`binarization.draw.outcome` here: the error is
# {glue:text}`binarization.mlp.stochastic_error_pct` if the network answers with its real weights.
# In the source, after hundreds of {term}`epochs <epoch>`, drawn signs are the better ones.
# On the training images, the error with signs that are taken is
# {glue:text}`binarization.mlp.binaryconnect_training_error_pct`.
# With floats it is {glue:text}`binarization.mlp.float_training_error_pct`.
#
# ### What signs save in training
#
# In each layer, a training step takes three matrix products: one forward, one backward to the inputs, and one for the
# gradient of the weights.
# The first two multiply by a matrix of signs; the third does not.
# So two of three products need no multiplication, except in the first layer, which passes no gradient on.
# The file needs one bit for each weight, but training needs the real weights *and* their signs.


# %% tags=["hide-input"]
def step(net):
    images, labels = train.images[:batch_size], train.labels[:batch_size]

    def run():
        with torch.enable_grad():
            training.squared_hinge(net(images), labels).backward()

    return run


def weight_bytes(net):  # of the weights, and of what the backward pass keeps of them
    sizes = {layer.weight.numel() for _, layer in layers(net)}
    seen = {
        p.untyped_storage().data_ptr(): p
        for p in net.parameters()
        if p.numel() in sizes
    }

    def keep(tensor):
        if tensor.numel() in sizes:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = net(train.images[:7])
    held = sum(4 * tensor.numel() for tensor in seen.values())
    return held if outputs.requires_grad else 0


work = [layer.weight.numel() for _, layer in layers(models.mlp(hidden=tuple(hidden)))]
forward, backward, update = sum(work), sum(work[1:]), sum(work)
gone = 100 * (forward + backward) / (forward + backward + update)
inner_gone = 100 * 2 / 3  # of a layer with another before it: two products of three
pair = [copy.deepcopy(dense[0]).train(), copy.deepcopy(taken[0]).train()]
times = measure.latency_ms({"float": step(pair[0]), "signs": step(pair[1])}, runs=runs)
slower = times["signs"].median / times["float"].median
held = [weight_bytes(net) for net in pair]
weight = torch.rand(512, 512) * 2 - 1
forms = {"taken": binaryconnect.BinaryConnectWeight(limit=1.0)}
forms["drawn"] = binaryconnect.BinaryConnectWeight(limit=1.0, stochastic=True)
times = measure.latency_ms(
    {name: lambda f=form: f(weight) for name, form in forms.items()}, runs=runs
)

# %% tags=["remove-cell"]
record("training.products_gone_pct", gone, digits=1, exact=True)
record("training.inner_products_gone_pct", inner_gone, digits=1, exact=True)
record("training.step_latency_ratio", slower, digits=2)
record("training.weights_bytes_ratio", held[0] / held[1], digits=2, exact=True)
record("draw.latency_ratio", times["drawn"].median / times["taken"].median)
numbers = sum(work) * -(-len(train) // batch_size)
record("draw.numbers_for_an_epoch", numbers, "random numbers", exact=True)
longer = "longer than" if slower > 1.05 else "as long as"
evidence.phrase(
    "binarization.training.duration", longer if slower > 0.95 else "less time than"
)

# %% tags=["remove-input"]
rows = [
    {
        "with signs instead of floats": "multiplications of a training step that become additions",
        "measured": f"{gone:.1f} %",
    },
    {
        "with signs instead of floats": "time of a training step",
        "measured": f"{slower:.2f}×",
    },
    {
        "with signs instead of floats": "memory for the weights in training",
        "measured": f"{held[1] / held[0]:.2f}×",
    },
    {
        "with signs instead of floats": "file of the trained network",
        "measured": f"1/{mean([smaller(net) for net in taken]):.0f}",
    },
]
figures.table(
    rows,
    caption="What signs save in training and in storage, for the network with three hidden layers",
)

# %% [markdown]
# **What to see.** {finding}`Signs pay off when the network is stored, not while it is trained | binarization.mlp.binaryconnect_file_ratio > 16; binarization.training.weights_bytes_ratio < 1`.
# Of the multiplications, {glue:text}`binarization.training.products_gone_pct` become additions.
# But a processor multiplies and adds in one instruction, so a step takes
# {glue:text}`binarization.training.step_latency_ratio` the time of one with floats.
# The survey {cite:p}`berthelier2020survey` says that it takes a third of the time: {verdict}`C2.6-15`.
# Drawing a sign takes {glue:text}`binarization.draw.latency_ratio` as long as taking it.
#
# (sec-bwn)=
# ## Binary weight networks: one scale for each filter
#
# **The idea.** Signs alone have the wrong magnitude, which batch norm must correct.
# A binary weight network (BWN) multiplies the signs of each filter $W$, which has $n$ weights, by the scale that fits
# the filter best {cite:p}`rastegari2016xnor`.
#
# **The formula.** The best scale $\alpha$ is the mean of the absolute weights:
#
# $$ \begin{aligned} W &\approx \alpha B, \qquad B = \operatorname{sign}(W), \qquad \alpha = \tfrac1n \lVert W \rVert_1, \\ \lVert W - \alpha B \rVert^2 &= \lVert W \rVert^2 - n \alpha^2 . \end{aligned} $$ (eq-bwn)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(bwn.BinaryWeight, bwn.scale)

# %% [markdown]
# **An exact check.** Eight weights have 256 patterns of signs, so we can try them all, each with its own best scale.
# No pattern comes closer than the signs themselves.
# And a convolution with $B$ needs no multiplication: the sum of the pixels under +1, minus the sum of those under −1,
# is the same:

# %%
w = torch.randn(8, generator=draw, dtype=torch.float64)
patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
# the best scale of a pattern b is w b / n
distances = w.square().sum() - (patterns @ w).square() / 8
alpha = bwn.scale(w[None]).item()
best = distances.min()
assert torch.allclose((w - alpha * w.sign()).square().sum(), best)
assert torch.allclose(best, w.square().sum() - 8 * alpha**2)
image = torch.randint(-9, 10, (1, 3, 8, 8), generator=draw).float()
B = torch.randn(4, 3, 3, 3, generator=draw).sign()
seen = functional.unfold(image, 3)[0].T  # a row of pixels for each place
added = [seen[:, b > 0].sum(1) - seen[:, b < 0].sum(1) for b in B.flatten(1)]
convolved = functional.conv2d(image, B)[0].flatten(1)
assert torch.equal(torch.stack(added), convolved)

# %% tags=["remove-cell"]
nearer = (w.square().sum() - (patterns @ w).square() / 8 < best - 1e-9).sum()
record("bwn.patterns_nearer", nearer, "patterns", exact=True)
different = (torch.stack(added) != convolved).sum()
record("bwn.different_sums", different, "sums", exact=True)

# %% [markdown]
# **An experiment.** LeNet-5 is a digit classifier with two convolutions and two linear layers.
# We train it with floats, and with signs and scales for all layers except the first and the last.
# Both get the same images and epochs, and both choose from the same learning rates by the validation error of their
# first network.


# %%
def lenets(change):
    def nets(rate, seeds):
        return trained(
            binaryconnect.fit,
            lambda seed: change(models.lenet5(seed)),
            seeds=seeds,
            split=train.first(lenet5_images),
            epochs=lenet5_epochs,
            learning_rate=rate,
            batch_size=lenet5_batch_size,
            loss="cross_entropy",
        )

    def validation_error(rate):
        return training.error_pct(nets(rate, [0])[0], dataset.validation)

    return nets(min(lenet5_rates, key=validation_error), range(seeds))


lenet = {"float": lenets(lambda net: net), "bwn": lenets(bwn.binarize)}

# %% tags=["remove-cell"]
for name, nets in lenet.items():
    record(f"lenet5.{name}_error_pct", errors(nets))
record("lenet5.bwn_file_ratio", [smaller(net) for net in lenet["bwn"]])
size = lenet["bwn"][0].conv2.weight[0].numel()
# a float for each weight, against a bit for each and a float for the filter
record("bwn.conv2_filter_ratio", 32 * size / (size + 32), exact=True)
more = mean(errors(lenet["bwn"])) - mean(errors(lenet["float"]))
near = f"{more:.2f} points more than" if more > 0 else "no more than"
evidence.phrase("binarization.lenet5.outcome", near)

# %% [markdown]
# **AlexNet in seven megabytes?** The survey gives this size for AlexNet, an image classifier with five convolutions; it
# counts one bit for each weight.
# But the method keeps the first and the last layer in floats, and AlexNet's last layer is large.
# The table counts every part:

# %% tags=["hide-input"]
with torch.device("meta"):  # shapes without numbers
    alexnet = torchvision.models.alexnet()
binary = set(inner(alexnet))
shapes = {name: layer.weight.shape for name, layer in layers(alexnet)}
in_bits = sum(shapes[name].numel() / 8 for name in binary)
real = sum(4 * shapes[name].numel() for name in shapes if name not in binary)
scales = sum(4 * shapes[name][0] for name in binary)
biases = sum(4 * shape[0] for shape in shapes.values())
whole, small = measure.dense_bytes(alexnet), in_bits + real + scales + biases
part = [
    ("one bit for each inner weight", in_bits),
    ("first and last layer, in floats", real),
    ("scales and biases", scales + biases),
    ("all of it", small),
    ("AlexNet in floats", whole),
]
figures.table(
    [{"part of the file": name, "size (MB)": f"{n / 1e6:.1f}"} for name, n in part],
    caption="AlexNet as a binary weight network",
)

# %% tags=["remove-cell"]
record("alexnet.float_mb", whole / 1e6, "MB", exact=True)
record("alexnet.binary_part_mb", in_bits / 1e6, "MB", 1, exact=True)
record("alexnet.whole_mb", small / 1e6, "MB", 1, exact=True)
record("alexnet.file_ratio", whole / small, exact=True)

# %% [markdown]
# **What to see.** With signs and scales, the digit classifier has an error of
# {glue:text}`binarization.lenet5.bwn_error_pct`, {glue:text}`binarization.lenet5.outcome` the
# {glue:text}`binarization.lenet5.float_error_pct` of floats.
# {finding}`The whole file shrinks less than a single filter | binarization.lenet5.bwn_file_ratio < binarization.bwn.conv2_filter_ratio; binarization.alexnet.file_ratio < binarization.bwn.conv2_filter_ratio`:
# a filter becomes {glue:text}`binarization.bwn.conv2_filter_ratio` smaller, LeNet-5's file
# {glue:text}`binarization.lenet5.bwn_file_ratio`, and AlexNet's {glue:text}`binarization.alexnet.file_ratio`.
#
# (sec-bipolar)=
# ## Bipolar regularizer: push weights toward ±1
#
# **The idea.** Weight decay pulls weights to zero, where a small step flips a sign.
# A bipolar regularizer pulls them to ±1 instead {cite:p}`tang2017compact`.
#
# **The formula.** The penalty is $P = \tfrac{\lambda}{2} \sum_i (1 - w_i^2)$.
# Its gradient, $-\lambda w_i$, is that of weight decay with the opposite sign.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(bipolar_regularizer.penalty, bipolar_regularizer.push)

# %% [markdown]
# **An exact check.** The gradient that `push` adds is the derivative of the penalty:

# %%
net = binaryconnect.binarize(nn.Linear(5, 3), limit=1.0)
latent = net.parametrizations.weight.original
(exact,) = torch.autograd.grad(0.1 * bipolar_regularizer.penalty(net), latent)
latent.grad = torch.zeros_like(latent)
bipolar_regularizer.push(net, 0.1)
assert torch.allclose(latent.grad, exact) and torch.allclose(exact, -0.1 * latent)

# %% [markdown]
# **An experiment.** We train the network of three hidden layers on a few images with weight decay, with no penalty, and with the regularizer.
# A fourth training has no penalty but ten times the learning rate.


# %%
def pushed(strength, rate, seed):
    net, seen = binaryconnect.binarize(models.mlp(seed, hidden=tuple(hidden))), []
    bipolar_regularizer.fit(
        net,
        train.first(push_images),
        strength=strength,
        epochs=push_epochs,
        seed=seed,
        learning_rate=rate,
        batch_size=batch_size,
        before_epoch=lambda _: seen.append(bipolar_regularizer.signs(net)),
    )
    return net, 100 * bipolar_regularizer.flips(
        seen[-1], bipolar_regularizer.signs(net)
    )


# %% tags=["remove-input"]
def kind(strength):
    return {-1: "decay", 0: "none", 1: "bipolar"}[(strength > 0) - (strength < 0)]


texts = {"decay": "weight decay", "none": "none", "bipolar": "bipolar"}
rows, push_errors = [], {}
for strength, factor in [(strength, 1) for strength in push_strengths] + [(0.0, 10)]:
    rate = factor * learning_rate / 10
    nets, flipped = zip(*[pushed(strength, rate, s) for s in range(seeds)], strict=True)
    name = kind(strength) + ("_fast" if factor > 1 else "")
    size = [bipolar_regularizer.mean_size(net) for net in nets]
    push_errors[name] = errors(nets)
    text = texts[kind(strength)] + (f", {factor}× the rate" if factor > 1 else "")
    row = {"penalty": text, "mean |w|": record(f"{name}.mean_size", size, digits=3)}
    row["signs flipped"] = record(f"{name}.flipped_pct", flipped)
    rows.append(row | {"test error": record(f"{name}.error_pct", push_errors[name])})
figures.table(
    rows, caption="Size of the weights, and signs that flip in the last epoch"
)

# %% [markdown]
# **What to see.** The regularizer does what it promises: {finding}`weights are larger than without a penalty, and fewer signs flip | binarization.bipolar.mean_size > binarization.none.mean_size; binarization.bipolar.flipped_pct < binarization.none.flipped_pct`.
# In this short training it does not help: at the same learning rate, {finding}`the error is highest with the regularizer and lowest with weight decay | binarization.bipolar.error_pct > binarization.none.error_pct > binarization.decay.error_pct`.
# One reason may be that a weight learns no more once its sign has stopped flipping.
# Without a penalty,
# {finding}`ten times the learning rate helps more than any penalty | binarization.none_fast.error_pct < binarization.decay.error_pct`.
#
# (sec-abc-weights)=
# ## ABC-Net: several signs for one weight
#
# **The idea.** One matrix of signs is coarse; several, each with its own scale, are finer.
# ABC-Net shifts the weights by several multiples of their standard deviation, takes the signs each time, and finds the
# scales by least squares {cite:p}`lin2017abcnet`.
#
# **The formula.** With $M$ matrices of signs $B_m$, their scales $\alpha_m$ and shifts $u_m$,
#
# $$ \begin{aligned} W &\approx \sum_{m=1}^{M} \alpha_m B_m, \qquad u_m = -1 + \tfrac{2 (m - 1)}{M - 1}, \\ B_m &= \operatorname{sign}\big(W - \overline W + u_m \operatorname{std}(W)\big) . \end{aligned} $$ (eq-abc)
#
# **The code, and an exact check.** Written out, the method takes four lines, and `lib` gives the same weights without
# building all the matrices.
# All matrices compare a weight with different thresholds, so $M$ of them distinguish only $M + 1$ ranges:

# %%
w = torch.randn(50, 40, generator=draw, dtype=torch.float64)
for count in (1, 3, 5):
    u = torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)
    matrices = [(w - w.mean() + shift * w.std(correction=0)).sign() for shift in u]
    columns = torch.stack([matrix.flatten() for matrix in matrices], 1)
    alpha = torch.linalg.lstsq(columns, w.flatten()).solution

    signs, scales = abc_net.approximate(w, count)
    near = abc_net.combine(signs, scales)
    assert torch.allclose(columns @ alpha, near.flatten())
    assert len(near.unique()) <= count + 1

# %% [markdown]
# **An experiment.** How much of normally distributed weights do such sums miss?
# The weights are 400,000 quantiles of the normal distribution, so nothing is random.
# We compare ABC-Net with a greedy choice, in which each matrix holds the signs of what the matrices before it leave
# over {cite:p}`tang2017compact`.
# Then we give such weights to the inner layers of the trained LeNet-5, without further training.

# %%
normal = torch.special.ndtri((torch.arange(400_000).double() + 0.5) / 400_000)[None]
counts, kinds = (1, 3, 5), ("abc", "greedy")
missed, untrained = {}, {}
for kind, count in [(kind, count) for kind in kinds for count in counts]:
    rest = normal - abc_net.combine(*abc_net.approximate(normal, count, kind))
    missed[kind, count] = 100 * (rest.square().sum() / normal.square().sum()).item()
    untrained[kind, count] = errors(
        abc_net.binarize(copy.deepcopy(net), bases=count, kind=kind)
        for net in lenet["float"]
    )

# %% tags=["remove-input"]
rows = []
for count in counts:
    row = {"matrices of signs": count}
    for kind, text in (("abc", "ABC-Net"), ("greedy", "greedy")):
        row[text] = record(f"{kind}{count}.untrained_error_pct", untrained[kind, count])
        record(f"{kind}{count}.missed_pct", missed[kind, count], exact=True)
    rows.append(row)
figure, ax = figures.axes()
for kind, text, look in (
    ("abc", "ABC-Net", "abc-net"),
    ("greedy", "greedy", "bipolar-regularizer"),
):
    runs = [[missed[kind, count]] for count in counts]
    figures.line(ax, counts, runs, figures.look(look), text, bounds=figures.PERCENT)
ax.set(xticks=counts, xlabel="matrices of signs", ylabel="squared error (%)")
figures.logarithmic(ax, "y")
figures.legend(ax)
figures.show(
    figure,
    finding=f"Three greedy matrices miss {missed['greedy', 3]:.1f} % of normal weights, five of ABC-Net {missed['abc', 5]:.1f} %",
    name="fig-abc-weights",
    caption="Squared error of sums of sign matrices, as a share of the square of normally distributed weights.",
    alt=f"Two falling curves of squared error against the number of sign matrices. Both begin at {missed['abc', 1]:.0f} %; with five, "
    f"ABC-Net misses {missed['abc', 5]:.1f} % and the greedy choice {missed['greedy', 5]:.1f} %.",
)
figures.table(
    rows,
    caption="Test error of LeNet-5 with its inner layers replaced, not trained again",
)

# %% [markdown]
# **What to see.**
# {finding}`The greedy choice approximates better | binarization.greedy3.missed_pct < binarization.abc3.missed_pct; binarization.greedy5.missed_pct < binarization.abc5.missed_pct`:
# three of its matrices give up to eight different values, three of ABC-Net's only four.
# For the error of LeNet-5 the difference hardly matters.
# Whether several matrices make a *trained* network more accurate is measured
# [on color images](binarization_comparison.py).
# More matrices also mean more products: the chapter on [speed](binarization_speed.py) measures what they cost.
#
# ## Do binary weights regularize?
#
# The survey says that noise on weights helps a network to generalize, and that binarization is a kind of
# regularization.
# If so, training on only {glue:text}`binarization.few.images` images should show it.
# We compare floats, signs that are taken, signs that are drawn, and floats with dropout:

# %%
part = train.first(few_images)


def with_dropout(net, seed):
    return nn.Sequential(
        *[nn.Sequential(m, nn.Dropout()) if isinstance(m, nn.ReLU) else m for m in net]
    )


ways = {
    "float": lambda net, seed: net,
    "taken": lambda net, seed: binaryconnect.binarize(net),
    "drawn": lambda net, seed: binaryconnect.binarize(
        net, stochastic=True, seed=100 * seed
    ),
    "dropout": with_dropout,
}
few = {
    name: mlps(way, split=part, epochs=few_epochs, batch_size=few_batch)
    for name, way in ways.items()
}

# %% tags=["remove-input"]
record("few.images", few_images, exact=True)
texts = {"float": "floats", "taken": "signs taken", "drawn": "signs drawn"}
rows, few_errors = [], {}
for name, nets in few.items():
    with torch.no_grad():
        losses = [
            [
                training.squared_hinge(net(s.images), s.labels).item()
                for s in (part, test)
            ]
            for net in nets
        ]
    few_errors[name] = errors(nets)
    row = {"weights": texts.get(name, "floats, dropout")}
    row["training error"] = record(f"few.{name}_training_error_pct", errors(nets, part))
    row["test error"] = record(f"few.{name}_error_pct", few_errors[name])
    record(f"few.{name}_training_loss", [a for a, _ in losses], digits=3)
    gap = record(f"few.{name}_gap", [b - a for a, b in losses], digits=3)
    rows.append(row | {"loss: test − training": gap})
figures.table(rows, caption="Errors and losses with few training images")

# %% tags=["remove-cell"]
best = min(few_errors, key=lambda name: mean(few_errors[name]))  # not chosen by test
outcome = "neither signs nor noise lower the test error below that of floats"
if best != "float":
    outcome = f"the lowest test error is that of {texts.get(best, 'dropout')}"
    lower = [a - b for a, b in zip(few_errors["float"], few_errors[best], strict=True)]
    center, half = evidence.interval(lower)
    unsure = seeds < evidence.FEW or center <= half
    outcome += ", but within the variation between seeds" if unsure else ""
evidence.phrase("binarization.few.outcome", outcome)

# %% [markdown]
# **What to see.** In this experiment, {glue:text}`binarization.few.outcome`.
# The error is {glue:text}`binarization.few.float_error_pct` with floats, {glue:text}`binarization.few.drawn_error_pct`
# with drawn signs and {glue:text}`binarization.few.dropout_error_pct` with dropout.
# The gap between the training loss and the test loss proves little: noise that keeps a network from learning narrows
# it, too.
# Our verdict on noise is {verdict}`C2.6-08`, and on binarization {verdict}`C2.6-09`.
#
# ## Where it breaks
#
# **Rounded updates.** If weights are rounded to signs after each update, small steps never add up.
# Then {glue:text}`binarization.rounded.turned_pct` of the signs flip in the whole training, and only batch norm learns.
# The error is {glue:text}`binarization.rounded.error_pct`; with real weights that collect the steps it is
# {glue:text}`binarization.none_fast.error_pct`.
#
# **Without limits.** If a real weight can grow without end, its sign should flip more and more rarely.
# Without clipping, {glue:text}`binarization.unclipped.outside_pct` of the weights end outside the limits, and the error
# is {glue:text}`binarization.unclipped.error_pct`.
# With clipping, all else equal, the error is {glue:text}`binarization.none_fast.error_pct`,
# {glue:text}`binarization.unclipped.outcome`.
#
# **Drawn signs in a short training.** Drawing signs slows learning:
# {finding}`a network that is trained with drawn signs and answers with their signs makes more errors | binarization.mlp.stochastic_sign_error_pct > binarization.mlp.binaryconnect_error_pct`.
# It misclassifies {glue:text}`binarization.mlp.stochastic_sign_error_pct`, and a network with taken signs
# {glue:text}`binarization.mlp.binaryconnect_error_pct`.


# %% tags=["hide-input"]
def fresh():
    units = tuple(hidden)
    return [binaryconnect.binarize(models.mlp(s, hidden=units)) for s in range(seeds)]


def round_weights(net):
    with torch.no_grad():
        for form, latent, limit in bipolar_regularizer.forms(net):
            latent.copy_(limit * form(latent))


def outside(net):
    beyond = [
        (w.abs() > form.limit).flatten()
        for form, w, _ in bipolar_regularizer.forms(net)
    ]
    return 100 * torch.cat(beyond).float().mean().item()


options = {
    "epochs": push_epochs,
    "batch_size": batch_size,
    "weight_decay": 0.0,
    "learning_rate": learning_rate,
    "optimizer": "adam",
    "loss": "squared_hinge",
}
unclipped, rounded, turned = fresh(), fresh(), []
for seed, net in enumerate(unclipped):
    training.fit(net, train.first(push_images), seed=seed, **options)
for seed, net in enumerate(rounded):
    before = bipolar_regularizer.signs(net)
    round_weights(net)
    options["after_step"] = lambda net=net: round_weights(net)
    training.fit(net, train.first(push_images), seed=seed, **options)
    turned.append(
        100 * bipolar_regularizer.flips(before, bipolar_regularizer.signs(net))
    )

# %% tags=["remove-cell"]
record("unclipped.outside_pct", [outside(net) for net in unclipped], digits=1)
record("unclipped.error_pct", errors(unclipped))
apart = mean(errors(unclipped)) - mean(push_errors["none_fast"])
other = f"{abs(apart):.1f} points {'higher' if apart < 0 else 'lower'}"
same = "hardly different" if abs(apart) < 0.5 else other
evidence.phrase("binarization.unclipped.outcome", same)
record("rounded.turned_pct", turned)
record("rounded.error_pct", errors(rounded))

# %% [markdown]
# ## Exercises
#
# 1. Batch norm follows each layer of signs. Show that it makes any positive scale of the signs superfluous.

# %% tags=["hide-cell"]
x, bn = torch.randn(64, 20, generator=draw), nn.BatchNorm1d(30)
sums = functional.linear(x, torch.randn(30, 20, generator=draw).sign())
change = (bn(sums) - bn(3 * sums)).abs().max().item()
assert change < 1e-4
evidence.answer(
    f"Batch norm divides by the standard deviation of the sums, and the scale with it: three times the signs change its output by at most {change:.0e}."
)

# %% [markdown]
# 2. The paper's gradient of a binary weight network leaves out a term. How large is that term, compared with the gradient, for one filter and a random gradient of its output?

# %% tags=["hide-cell"]
w, g = torch.randn(2, 1, 100, generator=draw)
w = (0.1 * w).requires_grad_()
(exact,) = torch.autograd.grad((bwn.BinaryWeight()(w) * g).sum(), w)
printed = g * (1 / w.numel() + bwn.scale(w).detach())
share = ((exact - printed).norm() / exact.norm()).item()
evidence.answer(
    f"What is left out has {100 * share:.0f} % of the length of the gradient."
)

# %% [markdown]
# ## In short
#
# - Compute with the signs of the weights, but let the updates add up in real weights.
# - One bit for each weight costs little accuracy; a scale for each filter restores the magnitude that the signs lose.
# - The file becomes much smaller, but training does not become faster. If the values between the layers are signs, too,
#   sums become counts: see the [next chapter](binarization_activations.py).
#
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2015binaryconnect` is BinaryConnect, {cite:t}`rastegari2016xnor` has binary weight networks, {cite:t}`tang2017compact` the bipolar regularizer, {cite:t}`lin2017abcnet` several bases.
# - {cite:t}`berthelier2020survey` is the survey.
