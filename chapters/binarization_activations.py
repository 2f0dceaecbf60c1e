# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization-activations)=
# # Signs in, signs out
#
# Once what flows between the layers is a sign, too, a product is one operation on two bits and a sum is a count.
# With signs for weights and signals a network of three hidden layers errs on {glue:text}`binarization_activations.mlp.bnn_error_pct` of the test images, with floats on {glue:text}`binarization_activations.mlp.float_error_pct`; counting bits, it gives another answer than its float simulation for {glue:text}`binarization_activations.bnn.different_answers` of them.
# LeNet-5 errs on {glue:text}`binarization_activations.lenet5.xnor_error_pct` as an XNOR-Net, on {glue:text}`binarization_activations.lenet5.abc3_error_pct` with three bases for each weight and signal, and on {glue:text}`binarization_activations.lenet5.float_error_pct` with floats.
# The survey {cite:p}`berthelier2020survey` says that training needs real weights: {verdict}`C2.6-07`.
# A network of three values that never has any errs on {glue:text}`binarization_activations.mlp.gxnor_error_pct`, and {glue:text}`binarization_activations.gxnor.resting_pct` of its operations rest.
# Signs for the weights alone are the subject of the [chapter before](binarization.py); [the next](binarization_speed.py) measures speed, and [the last](binarization_comparison.py) compares all methods.
#
# ## What the survey says, and what came out
#
# ```{claims} binarization_activations
# ```
#
# ## What this page needs
#
# ```{cost} binarization_activations
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks of each kind, trained from different starts
hidden = [128, 128, 128]  # units of the three hidden layers
epochs = 8  # to train them
learning_rate = 0.003  # of Adam, for them
batch_size = 50  # for them and for LeNet-5
ternary_epochs = 12  # to train networks of three values
ternary_batch = 100  # images in a batch, for them
ternary_rates = {"adam": 0.1, "sgd": 100.0}  # learning rates of their weights
real_rate = 0.01  # learning rate of batch norm, beside "sgd"
lenet5_images = 400  # training images of LeNet-5
lenet5_epochs = 4  # to train it
lenet5_rates = {"float": 0.003, "signs": 0.01}  # learning rates of Adam
lenet5_seeds = 1  # LeNet-5 networks of each kind
bases = [1, 3]  # matrices of signs for each weight, and signs for each signal
block_images = 200  # training images of the networks that find key points
block_epochs = 4  # to train them
block_batch = 8  # images in a batch, for them
block_rate = 0.01  # learning rate of Adam, for them
block_seeds = 1  # networks of each kind

# %% tags=["hide-input"]
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lib import datasets, evidence, figures, models, training
from lib.binarization import abc_net, binaryconnect, bnn, bwn, gxnor_dst, xnor_net
from lib.binarization import bulat_binary_block as bulat
from lib.binarization.shared import inference, state_optimizer, states, ternary_bits
from lib.binarization.shared.signs import EPSILON, LAYERS, Binarized, Sign, SignActivation
from lib.cache import cached
from lib.weights import layers

dataset = datasets.load(data)
evidence.uses(dataset)
train, test = dataset.train, dataset.test
draw = torch.Generator().manual_seed(0)


def record(key, values, unit="%", digits=2, exact=False):
    return evidence.record(
        f"binarization_activations.{key}", values, unit=unit, digits=digits, exact=exact
    )


def errors(nets, split=test):
    return [training.error_pct(net, split) for net in nets]


def mlps(change=lambda net: net, fit=binaryconnect.fit, count=seeds, units=hidden, **options):
    options = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size} | options
    nets = [change(models.mlp(seed, hidden=tuple(units))) for seed in range(count)]
    return [cached(fit, net, split=train, seed=seed, **options) for seed, net in enumerate(nets)]


# %% [markdown]
# (sec-bnn)=
# ## Signs of weights times signs of signals
#
# **The idea.** A binarized neural network takes the sign of what batch norm gives, and the next layer reads nothing else {cite:p}`courbariaux2016binarynet,hubara2016bnn`.
# The sign has no slope, so the gradient passes as if it were a line, but only where the signal is near zero: far away, a small step would not turn it.
#
# **The formula.** With the signs $W^b_k$ of the weights
#
# $$ \begin{aligned} z_k &= \mathrm{BatchNorm}(W^b_k\, a_{k-1}), \quad a_k = \operatorname{sign}(z_k), \\ \frac{\partial C}{\partial z_k} &= \frac{\partial C}{\partial a_k} \ \text{ where } |z_k| \le 1, \text{ and } 0 \text{ elsewhere} . \end{aligned} $$ (eq-bnn)
#
# Batch norm with the factor $\gamma$ and the shift $\beta$ and a sign behind it ask one question, whether a sum reaches a threshold:
#
# $$ \gamma \frac{x - \mu}{\sigma} + \beta \ge 0 \iff \begin{cases} x \ge t & \text{for } \gamma > 0 \\ x \le t & \text{for } \gamma < 0 \end{cases}, \qquad t = \mu - \frac{\beta \sigma}{\gamma} . $$ (eq-bnn-threshold)
#
# **The code.** The threshold is found among the floats themselves, so that rounding is part of the answer.

# %% tags=["remove-input"]
figures.show_source(Sign, bnn.threshold)

# %% [markdown]
# **An exact check.** The gate is open from minus one to one; for every sum that a layer of that width can have, and for either sign of $\gamma$, comparing answers as batch norm and sign do.

# %%
z = torch.linspace(-2, 2, 401, requires_grad=True)
Sign.apply(z).sum().backward()
assert torch.equal(z.grad, (z.abs() <= 1).float())
norm = nn.BatchNorm1d(64).eval()
for values, low in ((norm.weight, -1), (norm.bias, -9), (norm.running_mean, -9)):
    values.data.uniform_(low, -low, generator=draw)
norm.weight.data[0] = 0.0  # a channel that never changes its mind
sums = torch.arange(-100.0, 101.0)[:, None].expand(-1, 64)
t, below = bnn.threshold(norm, 64)
assert 0 < below.sum() < 64
compared = torch.where(below, sums <= t, sums >= t)
assert torch.equal(compared, norm(sums) >= 0)

# %% [markdown]
# **An experiment.** The network of the chapter before, with floats and with signs everywhere; then the same trained network on words of bits, for the whole test set.
# A network without hidden layers stands beside them: one that is no better has not learned to use its own.
# Of what its layers read, behind the first, {glue:text}`binarization_activations.bnn.signs_read_pct` are signs, and {glue:text}`binarization_activations.binaryconnect.signs_read_pct` where the weights alone are.


# %%
def signs_pct(net):  # the share of +1 and -1 in what the layers behind the first read
    seen, form = [], (nn.Linear, SignActivation)
    _, *readers = [m for m in net.eval().modules() if isinstance(m, form)]
    for m in readers:
        signed = isinstance(m, SignActivation)
        m.register_forward_hook(lambda _, x, y, signed=signed: seen.append(y if signed else x[0]))
    net(test.images[:200])
    return 100 * torch.cat([x.flatten() for x in seen]).abs().eq(1).float().mean().item()


for key, change in (("bnn", bnn.binarize), ("binaryconnect", binaryconnect.binarize)):
    record(f"{key}.signs_read_pct", signs_pct(change(models.mlp(hidden=tuple(hidden)))), digits=0)

# %%
networks = {"linear": mlps(units=()), "float": mlps(), "bnn": mlps(bnn.binarize)}
different = 0
for net in networks["bnn"]:
    counting = inference.convert(net)
    with torch.no_grad():
        pairs = [(net(part), counting(part)) for part in test.images.split(1000)]
    different += sum((a.argmax(1) != b.argmax(1)).sum().item() for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in pairs)  # not only the class: the ten numbers
record("bnn.different_answers", different, "", 0, exact=True)
mlp = {name: errors(nets) for name, nets in networks.items()}
for name, wrong in mlp.items():
    record(f"mlp.{name}_error_pct", wrong)

# %% [markdown]
# **What to see.** Signs everywhere err on {glue:text}`binarization_activations.mlp.bnn_error_pct`, floats on {glue:text}`binarization_activations.mlp.float_error_pct`, and no hidden layers on {glue:text}`binarization_activations.mlp.linear_error_pct`.
# Counting bits is no approximation of the trained network: it *is* the network, and {glue:text}`binarization_activations.bnn.different_answers` answers differ.
#
# (sec-xnor-net)=
# ## XNOR-Net: sizes for both signs
#
# **The idea.** A sign forgets a size.
# XNOR-Net gives one back to each filter, $\alpha$, and one to each place of the input, $K$; and it normalizes and takes signs right before a layer, not right behind one {cite:p}`rastegari2016xnor`.
#
# **The formula.** With $A$, the mean of $|I|$ over the $c$ channels, and a filter of $w \times h$ pixels
#
# $$ \begin{aligned} I * W &\approx \big(\operatorname{sign}(I) \circledast \operatorname{sign}(W)\big) \odot K \alpha, \\ K &= A * k, \quad A = \frac1c \sum_{i=1}^{c} |I_i|, \quad k_{ij} = \frac{1}{w h} . \end{aligned} $$ (eq-xnor)
#
# For a single product of vectors the best size of all is $\gamma^* = \tfrac1n \sum_i |X_i| |W_i|$, and $K \alpha$ is that only where the sizes of inputs and weights have nothing to do with each other.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(xnor_net.InputScale, Binarized.forward)

# %% [markdown]
# **An exact check.** $K$ is the mean of $|I|$ over what each output sees, place by place, with a border of zeros and a stride; and of all patterns of signs for eight products none, with its own best size, is nearer than the signs themselves with $\gamma^*$.
# The largest deviation of $K$ is {glue:text}`binarization_activations.xnor.input_scale_deviation`.

# %%
conv = nn.Conv2d(6, 2, (3, 5), stride=2, padding=(1, 2))
image = torch.randn(4, 6, 11, 9, generator=draw)
K, wide = xnor_net.InputScale(conv)(image), functional.pad(image, (2, 2, 1, 1)).abs()
brute = wide.unfold(2, 3, 2).unfold(3, 5, 2).mean((1, 4, 5))  # window by window
deviation = (K[:, 0] - brute).abs().max()
record("xnor.input_scale_deviation", deviation, "", 7)
X, W = torch.randn(2, 8, generator=draw, dtype=torch.float64)
patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
missed = (X * W).square().sum() - (patterns @ (X * W)).square() / 8
gamma = (X.abs() * W.abs()).mean()
assert torch.allclose(((X * W) - gamma * X.sign() * W.sign()).square().sum(), missed.min())

# %% [markdown]
# **An experiment.** LeNet-5 with floats, and batch norm before the same layers; as an XNOR-Net without $K$, as in the authors' released code, and with it; and in the order that used to be common, convolution, batch norm, sign and then pooling (C-B-A-P), where XNOR-Net has batch norm, sign, convolution and pooling.


# %%
def lenets(change, kind="signs"):
    options = {
        "split": train.first(lenet5_images),
        "epochs": lenet5_epochs,
        "loss": "cross_entropy",
    }
    options |= {"batch_size": batch_size, "learning_rate": lenet5_rates[kind]}
    nets = [change(models.lenet5(seed)) for seed in range(lenet5_seeds)]
    return [cached(binaryconnect.fit, net, seed=seed, **options) for seed, net in enumerate(nets)]


def with_norm(net):  # floats, with the batch norm that the layers of signs get
    norms = nn.BatchNorm2d(20, eps=EPSILON), xnor_net.MapNorm(50, eps=EPSILON)
    parts = [net.conv1, net.pool1, norms[0], net.conv2, net.pool2, net.flatten, norms[1]]
    return nn.Sequential(*parts, net.fc1, net.relu1, net.fc2)


def signs_before_pooling(net):  # C-B-A-P: convolution, batch norm, sign, pooling
    net = bwn.binarize(net)
    one, two = ([nn.BatchNorm2d(n, eps=EPSILON), SignActivation()] for n in (20, 50))
    parts = [net.conv1, *one, net.pool1, net.conv2, *two, net.pool2]
    return nn.Sequential(*parts, net.flatten, net.fc1, net.relu1, net.fc2)


# %%
XNOR = {"maps": {"fc1": 50}}  # the input of fc1 is 50 maps: one batch norm for each
networks["lenet5"] = lenets(with_norm, "float")
networks["xnor"] = lenets(lambda net: xnor_net.binarize(net, **XNOR))
networks["xnor_k"] = lenets(lambda net: xnor_net.binarize(net, input_scale=True, **XNOR))
networks["signs_first"] = lenets(signs_before_pooling)
lenet = {"float": errors(networks["lenet5"])}
lenet |= {name: errors(networks[name]) for name in ("xnor", "xnor_k", "signs_first")}
random = torch.randn(100, 10, 28, 28, generator=draw).sign()
pooled = functional.max_pool2d(random, 2)
noise = (0.9375 * 0.0625 / pooled.numel()) ** 0.5
assert abs((pooled == 1).float().mean() - (1 - 2**-4)) < 4 * noise
with torch.no_grad():
    maps = [net[:4](test.images[:500]) for net in networks["signs_first"]]
record("pooled.random_positive_pct", 100 * (pooled == 1).float().mean().item(), digits=1)
record("pooled.trained_positive_pct", [100 * (m == 1).float().mean() for m in maps], digits=1)

# %%
kinds = [m for _, m in layers(networks["xnor"][0]) if isinstance(m, LAYERS)]
reading = [m.layer for m in networks["xnor"][0].modules() if isinstance(m, Binarized)]
record("xnor.inner_layers_binary_pct", 100 * len(reading) / len(kinds[1:-1]), digits=0, exact=True)
record("xnor.all_layers_binary_pct", 100 * len(reading) / len(kinds), digits=0, exact=True)
parts = [sum(m.weight.numel() for m in some) for some in (reading, kinds)]
record("xnor.weights_binary_pct", 100 * parts[0] / parts[1], digits=1, exact=True)

# %% [markdown]
# **What to see.** Without $K$ the error is {glue:text}`binarization_activations.lenet5.xnor_error_pct`, with it {glue:text}`binarization_activations.lenet5.xnor_k_error_pct`; floats have {glue:text}`binarization_activations.lenet5.float_error_pct`.
# With signs before the pooling it is {glue:text}`binarization_activations.lenet5.signs_first_error_pct`.
# The largest of four random signs is +1 in {glue:text}`binarization_activations.pooled.random_positive_pct` of the cases, as $1 - 2^{-4}$ says, and such a map tells little; training can avoid that, and behind the first pooling of the trained networks {glue:text}`binarization_activations.pooled.trained_positive_pct` are +1.
# Signs reach {glue:text}`binarization_activations.xnor.inner_layers_binary_pct` of the inner layers, which hold {glue:text}`binarization_activations.xnor.weights_binary_pct` of the weights: the first and the last layer stay real.
#
# (sec-abc-net)=
# ## ABC-Net: several signs for one signal
#
# **The idea.** Several signs with different thresholds and sizes add up to a finer staircase, for signals as for weights ({ref}`sec-abc-weights`) {cite:p}`lin2017abcnet`.
#
# **The formula.** With trained $v_n$ and $\beta_n$ a signal $R$ and a layer become
#
# $$ \begin{aligned} R &\approx \sum_{n=1}^{N} \beta_n A_n, \quad A_n = \operatorname{sign}\big(\mathrm{clip}(R + v_n, 0, 1) - \tfrac12\big), \\ W * R &\approx \sum_{m=1}^{M} \sum_{n=1}^{N} \alpha_m \beta_n\, (B_m \circledast A_n) . \end{aligned} $$ (eq-abc-activations)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(abc_net.AbcActivation)

# %% [markdown]
# **An exact check.** A layer with three bases of the weights and two of the signals is the sum of six products of signs.

# %%
net = abc_net.binarize(nn.Sequential(nn.Conv2d(8, 4, 3)), names=["0"], activation_bases=2).eval()
image, (layer,) = torch.randn(5, 8, 9, 9, generator=draw), net
signs, alphas = inference.bases(layer.layer)
with torch.no_grad():
    R, total = layer.norm(image), layer.layer.bias.reshape(-1, 1, 1)
    for B, alpha in zip(signs, alphas, strict=True):
        for threshold, beta in layer.activation.bases():
            A = 2.0 * (threshold <= R) - 1
            total = total + beta * alpha[:, None, None] * functional.conv2d(A, B)
    assert torch.allclose(net(image), total, atol=1e-4)

# %% [markdown]
# **An experiment.** LeNet-5 with as many bases of the weights as of the signals.

# %%
for n in bases:
    nets = lenets(lambda net, n=n: abc_net.binarize(net, bases=n, activation_bases=n))
    lenet[f"abc{n}"] = errors(nets)
    record(f"abc{n}.products", n * n, "products of signs", 0, exact=True)
for name, wrong in lenet.items():
    record(f"lenet5.{name}_error_pct", wrong)

# %% [markdown]
# **What to see.** One base errs on {glue:text}`binarization_activations.lenet5.abc1_error_pct`, three on {glue:text}`binarization_activations.lenet5.abc3_error_pct`, and in place of {glue:text}`binarization_activations.abc1.products` there are {glue:text}`binarization_activations.abc3.products` for each layer, while its three bits tell but four values apart.
#
# (sec-gxnor)=
# ## GXNOR: three values, and no real weights behind them
#
# **The idea.** A zero costs nothing: an operation with a zero rests.
# And weights that have three states need no real numbers behind them if an increment too small for a step becomes a step *with a small probability* {cite:p}`deng2018gxnor`.
#
# **The formula.** Signals are $\varphi_r(x) = 1$ for $x > r$, $-1$ for $x < -r$, and 0 between.
# An increment $\Delta W$ is cut to $\rho$, so that $W + \rho$ stays in $[-1, 1]$, and taken apart into whole steps and a rest, $\rho = \kappa\, \Delta z + \nu$:
#
# $$ \begin{aligned} W &\leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \\ b &\sim \mathrm{Bernoulli}\big(\tanh(m |\nu| / \Delta z)\big), \quad m = 3 . \end{aligned} $$ (eq-gxnor)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(gxnor_dst.TernaryActivation, states.transition)

# %% tags=["remove-input"]
figure, (ax, other) = figures.axes(2)
x = torch.linspace(-1.5, 1.5, 601, requires_grad=True)
looks = {"rectangular": figures.QUANTIZATION, "triangular": figures.RETRAINED}
ternary = gxnor_dst.TernaryActivation()(x).detach()
ax.plot(x.detach(), ternary, color="#6b6b6b", label="value")
for kind, look in looks.items():
    (slope,) = torch.autograd.grad(gxnor_dst.TernaryActivation(derivative=kind)(x).sum(), x)
    ax.plot(x.detach(), slope, color=look["color"], linestyle=look["linestyle"], label=kind)
ax.set(xlabel="signal x", ylabel="value, and slope for training")
sizes, taken = torch.linspace(0, 1, 21), {}
middle = torch.ones(4000, 21, dtype=torch.int8)
for kind, look in (("tanh", figures.PRUNING), ("linear", figures.DENSE)):
    moved = states.transition(middle, sizes.expand(4000, 21), generator=draw, probability=kind)
    taken[kind] = (moved - middle).float().mean(0)
    other.plot(sizes, taken[kind], label=kind, **look)
other.set(xlabel="increment of the weight", ylabel="mean step (drawn)")
for panel in (ax, other):
    figures.legend(panel, columns=1)
figures.show(
    figure,
    name="fig-gxnor",
    caption="Left: the ternary function and its two slopes. Right: how far a weight of 0 moves in the mean.",
    alt=f"Left: a staircase with steps at ±{x[ternary > 0].min().item():.1f} and two slopes around them. Right: an increment of {sizes[6]:.1f} becomes a mean step of {taken['tanh'][6]:.2f} with tanh, {taken['linear'][6]:.2f} with the linear probability",
)

# %% [markdown]
# **An exact check.** Weights stay in their space, and one at its end is not pushed beyond; a linear probability moves the mean by the increment itself, tanh by more; and products on two planes of bits are those of floats.

# %%
before = torch.randint(0, 3, (100_000,), generator=draw).to(torch.int8)
increments = torch.randn(len(before), generator=draw)
after = states.transition(before, increments, generator=draw)
assert set(after.tolist()) == {0, 1, 2}
assert (after[(before == 2) & (increments > 0)] == 2).all()
assert ((after - before) * increments >= 0).all()  # never against the increment
noise = (sizes * (1 - sizes) / 4000).sqrt() + 1e-6
assert ((taken["linear"] - sizes).abs() <= 4.5 * noise).all()
assert (taken["tanh"][1:15] > sizes[1:15] + noise[1:15]).all()
a, w = (torch.randint(-1, 2, (n, 150), generator=draw).float() for n in (20, 30))
products, active = ternary_bits.ternary_dot(a, w)
assert torch.equal(products, (a @ w.T).long()) and torch.equal(active, (a.abs() @ w.abs().T).long())

# %% [markdown]
# **An audit.** After one step of training, what do the network and its optimizer hold with the shape of a weight, and what else?


# %%
def audit(key, change, make):
    net = change(models.mlp(hidden=tuple(hidden)))
    update, held = make(net), dict.fromkeys(("real_weights", "moments", "states", "batch_norm"), 0)
    training.squared_hinge(net(train.images[:100]), train.labels[:100]).backward()
    update.step()
    update.zero_grad()
    kept = [("states", t) for t in net.state_dict().values() if t.dtype == torch.int8]
    kept += [("real_weights", t) for t in net.state_dict().values() if t.dtype != torch.int8]
    kept += [
        ("moments", t) for s in update.state.values() for t in s.values() if torch.is_tensor(t)
    ]
    for kind, t in kept:
        held[kind if t.dim() > 1 else "batch_norm"] += t.numel() * t.element_size()
    row = {
        kind.replace("_", " "): record(f"{key}.{kind}_bytes", n, "bytes", 0)
        for kind, n in held.items()
    }
    per_weight = (held["real_weights"] + held["moments"]) / sum(
        m.weight.numel() for _, m in layers(net)
    )
    return row | {
        "real, for each weight": record(
            f"{key}.bytes_for_each_weight", per_weight, "bytes", 0, exact=True
        )
    }


# %%
def transitions(increment):
    return lambda net: state_optimizer.DiscreteStateTransition(net, increment=increment)


held = audit("bnn", bnn.binarize, lambda net: torch.optim.Adam(net.parameters()))
rows = [{"network": "BNN, Adam"} | held]
for text, increment in (("GXNOR, Adam", "adam"), ("GXNOR, plain gradient", "sgd")):
    held = audit(f"gxnor_{increment}", gxnor_dst.ternarize, transitions(increment))
    rows.append({"network": text} | held)
figures.table(
    rows,
    caption="Bytes kept between two steps of training; batch norm: all without a weight's shape",
)

# %% [markdown]
# **An experiment.** The same network with three values: with increments by Adam, as published, and by the gradient alone, which keeps no real number for any weight.
# For some steps it is watched closely: does any weight or signal leave the three values?

# %%
watched, seen = gxnor_dst.ternarize(models.mlp(hidden=tuple(hidden))), set()
update = transitions("adam")(watched)
for m in watched.modules():
    if isinstance(m, gxnor_dst.TernaryActivation):
        m.register_forward_hook(lambda _, __, out: seen.update(out.unique().tolist()))
for images, labels in zip(train.images.split(50)[:12], train.labels.split(50), strict=False):
    update.zero_grad()
    training.squared_hinge(watched(images), labels).backward()
    update.step()
    seen.update(v for _, m in layers(watched) for v in m.weight.unique().tolist())
record("gxnor.values_seen", len(seen), "values", 0)
record("gxnor.largest_value_seen", max(map(abs, seen)), "", 0)

# %%
options = {"fit": gxnor_dst.fit, "epochs": ternary_epochs, "batch_size": ternary_batch}
for name, rate in ternary_rates.items():
    own = {"real_learning_rate": real_rate, "increment": name} if name == "sgd" else {}
    networks[name] = mlps(gxnor_dst.ternarize, learning_rate=rate, **options, **own)
    mlp[name] = errors(networks[name])
record("mlp.gxnor_error_pct", mlp["adam"])
record("mlp.gxnor_sgd_error_pct", mlp["sgd"])
zeros = [torch.cat([m.weight.flatten() for _, m in layers(net)]) == 0 for net in networks["adam"]]
record("gxnor.zero_weights_pct", [100 * z.float().mean() for z in zeros], digits=1)
resting = []
for net in networks["adam"]:
    active, whole = np.sum(list(ternary_bits.gated_operations(net, test.images[:500]).values()), 0)
    resting.append(100 * (1 - active / whole))
record("gxnor.resting_pct", resting, digits=1)

# %% tags=["remove-input"]
figure, panels = figures.axes(2)
NAMES = {"linear": "no hidden", "float": "floats", "bnn": "BNN", "adam": "GXNOR, Adam"}
NAMES |= {"sgd": "GXNOR, plain", "xnor": "XNOR", "xnor_k": "XNOR, K", "signs_first": "C-B-A-P"}
NAMES |= {f"abc{n}": f"ABC {n}×{n}" for n in bases}
looks = dict.fromkeys(("float", "linear"), figures.DENSE)
looks |= dict.fromkeys(("adam", "sgd"), figures.RETRAINED)
for ax, wrong, title in zip(panels, (mlp, lenet), ("three hidden layers", "LeNet-5"), strict=True):
    for i, (name, values) in enumerate(wrong.items()):
        look = looks.get(name, figures.QUANTIZATION) | {"linestyle": "none"}
        figures.line(ax, [i], [values], look, "")
    ax.set(xticks=range(len(wrong)), title=title, ylim=(0, None))
    ax.set_xticklabels([NAMES[name] for name in wrong], rotation=60, ha="right")
panels[0].set_ylabel("test error (%)")
figures.show(
    figure,
    name="fig-signs-out",
    caption="Test errors of the networks of this chapter; means over seeds with 95 % intervals.",
    alt="Test errors. Three hidden layers: "
    + "; LeNet-5: ".join(
        ", ".join(f"{NAMES[n]} {np.mean(e):.2f} %" for n, e in part.items())
        for part in (mlp, lenet)
    ),
)

# %% [markdown]
# **What to see.** Three values err on {glue:text}`binarization_activations.mlp.gxnor_error_pct` with Adam's increments and on {glue:text}`binarization_activations.mlp.gxnor_sgd_error_pct` with those of the plain gradient, which leave nothing real of a weight's shape between two steps, and cost more errors.
# The table above shows what the survey's sentence leaves out: Adam keeps {glue:text}`binarization_activations.gxnor_adam.moments_bytes` of moments where {glue:text}`binarization_activations.bnn.real_weights_bytes` of real weights went, and batch norm is real in any case.
# Within a step, layers still multiply with floats and gradients have a weight's shape; here a state takes a byte, and in a file two bits or fewer.
# Of the weights {glue:text}`binarization_activations.gxnor.zero_weights_pct` are zero, and of the operations {glue:text}`binarization_activations.gxnor.resting_pct` rest; with values drawn evenly it would be five in nine.
#
# (sec-bulat)=
# ## A block made for signs
#
# **The idea.** Networks that find joints or landmarks, such as the stacked hourglass {cite:p}`newell2016stacked`, are built of bottlenecks: their $1 \times 1$ filters squeeze all features through few channels, and in signs they have little to say.
# A block without them, whose three convolutions follow one another and are all heard at the end, suits signs better {cite:p}`bulat2017binarized`.
#
# **The formula.** With $f(x) = \alpha \big(\operatorname{sign}(W) \circledast \operatorname{sign}(\mathrm{BatchNorm}(x))\big)$ of $3 \times 3$ pixels, and $C/2$, $C/4$ and $C/4$ channels,
#
# $$ a = f_1(x), \quad b = f_2(a), \quad c = f_3(b), \qquad y = [a, b, c] + x . $$ (eq-bulat)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(bulat.BinaryBlock.forward, bulat.Bottleneck, bulat.unit)

# %% [markdown]
# **An exact check.** A block, and a bottleneck as wide as makes the two equal, for a width that is published for networks of that kind; and without sizes of the filters a block passes on what it reads.

# %%
block, neck = bulat.BinaryBlock(256, 256), bulat.Bottleneck(256, bulat.equal_width(256))
counts = [sum(m.weight.numel() for _, m in layers(part)) for part in (block, neck)]
assert abs(counts[1] - counts[0]) < 0.003 * counts[0]
small, image = bulat.BinaryBlock(8, 8), torch.randn(2, 8, 6, 6, generator=draw)
for _, layer in layers(small):
    layer.parametrizations.weight.original.data.zero_()  # alpha = 0
assert torch.equal(small.eval()(image), image)

# %% [markdown]
# **An experiment.** Four key points of a digit of $14 \times 14$ pixels: the topmost, bottommost, leftmost and rightmost of its stroke.
# Two blocks, or two bottlenecks with as many weights, stand between a real first and a real last layer; each in signs, and one in floats.
# A control has six narrow bottlenecks, again with as many weights.


# %%
WIDTHS = {"block": [None] * 2, "bottleneck": [bulat.equal_width(32)] * 2, "narrow": [12] * 6}


def finder(kind, seed, binary=True, channels=32):
    def middle(width):
        if width is None:
            return bulat.BinaryBlock(channels, channels, binary=binary)
        return bulat.Bottleneck(channels, width, binary=binary)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ends = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4, 1)]
        parts = [middle(width) for width in WIDTHS[kind]]
        return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), *parts, *ends)


def reach(kind):  # how many rows of pixels one value of a map depends on
    net, image = finder(kind, 0, binary=False).eval(), torch.rand(1, 1, 41, 41, generator=draw)
    net(image.requires_grad_())[0, :, 20, 20].sum().backward()
    rows = image.grad[0, 0].ne(0).any(1).nonzero()
    return (rows.max() - rows.min() + 1).item()


# %%
halved = [functional.max_pool2d(s.images, 2) for s in (train.first(block_images), test)]
targets = [bulat.keypoints(images) for images in halved]
options = {"epochs": block_epochs, "learning_rate": block_rate, "batch_size": block_batch}
options |= {"images": halved[0], "targets": targets[0]}
NAMES = {"block": "two blocks", "bottleneck": "two bottlenecks", "narrow": "six narrow bottlenecks"}
rows, cases = [], [(kind, "signs") for kind in WIDTHS]
for kind, of in [*cases, ("block", "floats"), ("bottleneck", "floats")]:
    count = 1 if kind == "narrow" or of == "floats" else block_seeds
    far, nets = [], [finder(kind, seed, of == "signs") for seed in range(count)]
    for seed, net in enumerate(nets):
        cached(bulat.fit_heatmaps, net, seed=seed, **options)
        with torch.no_grad():
            maps = torch.cat([net(part) for part in halved[1].split(250)])
        far.append(bulat.heatmap_error(maps, targets[1]))
    row = {"network": NAMES[kind], "numbers are": of, "rows of pixels seen": reach(kind)}
    row["weights"] = f"{sum(m.weight.numel() for _, m in layers(nets[0])):,}"
    rows.append(row | {"distance": record(f"{kind}.{of}_distance", far, "pixels")})
figures.table(rows, caption="Mean distance of the key points found from the true ones, test images")

# %% [markdown]
# **What to see.** In signs the blocks are off by {glue:text}`binarization_activations.block.signs_distance`, the bottlenecks by {glue:text}`binarization_activations.bottleneck.signs_distance`; in floats by {glue:text}`binarization_activations.block.floats_distance` and {glue:text}`binarization_activations.bottleneck.floats_distance`.
# Not all of this is due to the $1 \times 1$ filters: two blocks have more $3 \times 3$ filters in a row than two bottlenecks, and see further.
# The control sees as far as the blocks, and is off by {glue:text}`binarization_activations.narrow.signs_distance`: what it gains on the two bottlenecks comes with the wider view, not with the block.
#
# ## Where it breaks
#
# **ReLU before a sign.** Behind ReLU nothing is negative, so that every sign is +1 and the layer says the same of every image.
# With ReLU left in its place, {glue:text}`binarization_activations.relu.positive_pct` of the signs are +1, and the trained network errs on {glue:text}`binarization_activations.relu.error_pct`.
#
# **Increments that are too large.** The learning rate of GXNOR is a probability.
# At ten times the rate, where increments are about a whole step, the error is {glue:text}`binarization_activations.fast.error_pct`.
#
# **Sizes that go together.** Where inputs are large just where weights are, $K \alpha$ is too small: for a filter that reads its own pattern it is {glue:text}`binarization_activations.together.size_ratio` the best size.

# %% tags=["hide-input"]
net = bnn.binarize(models.mlp(hidden=tuple(hidden)))
for name in ("relu1", "relu2", "relu3"):
    setattr(net, name, nn.ReLU())
short = {"epochs": max(1, epochs // 4), "learning_rate": learning_rate, "batch_size": batch_size}
net = cached(binaryconnect.fit, net, split=train.first(2000), seed=0, **short)
with torch.no_grad():
    positive = net[:4](test.images[:500]) >= 0
record("relu.positive_pct", 100 * positive.float().mean().item(), digits=0)
record("relu.error_pct", errors([net]))
options = {"epochs": ternary_epochs, "batch_size": ternary_batch, "count": 1}
fast = mlps(gxnor_dst.ternarize, gxnor_dst.fit, learning_rate=10 * ternary_rates["adam"], **options)
record("fast.error_pct", errors(fast))
W = torch.randn(1000, 200, generator=draw)
ratio = W.abs().mean(1).square() / W.square().mean(1)  # X = W: K alpha over gamma
record("together.size_ratio", ratio.mean(), "x")

# %% [markdown]
# ## Exercises
#
# 1. The first layer reads pixels of eight bits, no signs. Can it count bits, too?

# %% tags=["hide-cell"]
pixels = torch.randint(0, 256, (20, 784), generator=draw)
W = torch.randn(30, 784, generator=draw).sign().long()
planes = [(pixels >> n) & 1 for n in range(8)]  # each pixel is the sum of 2^n times a bit
assert torch.equal(sum(2**n * (bit @ W.T) for n, bit in enumerate(planes)), pixels @ W.T)

# %% [markdown]
# 2. How many different values has a signal of five bases, and how many could five bits tell apart?

# %% tags=["hide-cell"]
values = abc_net.AbcActivation(5)(torch.randn(10_000, generator=draw)).detach()
print(f"{len(values.round(decimals=4).unique())} of {2**5}")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2016binarynet` and {cite:t}`hubara2016bnn` are binarized neural networks, {cite:t}`rastegari2016xnor` is XNOR-Net, {cite:t}`lin2017abcnet` ABC-Net, {cite:t}`deng2018gxnor` GXNOR.
# - {cite:t}`bulat2017binarized` has the block, {cite:t}`newell2016stacked` the hourglass; {cite:t}`berthelier2020survey` is the survey.
