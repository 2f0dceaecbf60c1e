# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization-activations)=
# # Binary weights and activations: BNN, XNOR-Net, ABC-Net, GXNOR
#
# Can a network work if the values between its layers are signs, too, so that it only needs to count bits?
# It can.
# A digit classifier with three hidden layers then misclassifies {mean}`binarization_activations.mlp.bnn_error_pct 1` of
# the test images instead of {mean}`binarization_activations.mlp.float_error_pct 1`, and counting bits gives exactly the
# same answers.
# With zero as a third value, the error is {mean}`binarization_activations.mlp.gxnor_error_pct 1`, although the training
# keeps no real weights.
#
# ```{claims} binarization_activations
# ```
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
shift_rate = 0.0078125  # learning rate of shift-based AdaMax, a power of two
ternary_epochs = 12  # to train networks of three values
ternary_batch = 100  # images in a batch, for them
ternary_rates = {"adam": 0.1, "sgd": 100.0}  # learning rates of their weights
real_rate = 0.01  # learning rate of batch norm, beside "sgd"
lenet5_images = 400  # training images of LeNet-5
lenet5_epochs = 4  # to train it
lenet5_rate = 0.01  # of Adam, the same for floats and signs
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
from lib.binarization.shared import (
    inference,
    shifts,
    state_optimizer,
    states,
    ternary_bits,
)
from lib.binarization.shared.conversion import EPSILON
from lib.binarization.shared.signs import LAYERS, Binarized, Sign, SignActivation
from lib.cache import cached, trained
from lib.weights import layers

dataset = datasets.load(data)
record = evidence.recorder("binarization_activations", dataset)
train, test = dataset.train, dataset.test
draw = torch.Generator().manual_seed(0)


def errors(nets, split=test):
    return [training.error_pct(net, split) for net in nets]


def say(name, text):  # words that the result chooses
    evidence.phrase(f"binarization_activations.{name}", text)


def mlps(
    change=lambda net: net, fit=binaryconnect.fit, count=seeds, units=hidden, **options
):
    options = {
        "split": train,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    } | options
    return trained(
        fit,
        lambda seed: change(models.mlp(seed, hidden=tuple(units))),
        seeds=range(count),
        **options,
    )


# %% [markdown]
# (sec-bnn)=
# ## Binarized neural network: signs times signs
#
# **The idea.** Each layer of a binarized neural network (BNN) passes on only the signs of its {term}`batch norm`'s outputs, and
# the next layer reads nothing else {cite:p}`courbariaux2016binarynet,hubara2016bnn`.
# The sign has no slope, so in training the gradient passes as if the sign were a straight line.
# It passes only where the value is near zero: far away, a small step would not flip the sign.
#
# **The formula.** With the signs $W^b_k$ of the weights and the signs $a_k$ that layer $k$ passes on,
#
# $$ \begin{aligned} z_k &= \mathrm{BatchNorm}(W^b_k\, a_{k-1}), \quad a_k = \operatorname{sign}(z_k), \\ \frac{\partial C}{\partial z_k} &= \frac{\partial C}{\partial a_k} \ \text{ where } |z_k| \le 1, \text{ and } 0 \text{ elsewhere} . \end{aligned} $$ (eq-bnn)
#
# Batch norm has a mean $\mu$, a standard deviation $\sigma$, a factor $\gamma$ and a shift $\beta$.
# Followed by a sign, it asks one question: does a sum $x$ reach a threshold?
#
# $$ \gamma \frac{x - \mu}{\sigma} + \beta \ge 0 \iff \begin{cases} x \ge t & \text{for } \gamma > 0 \\ x \le t & \text{for } \gamma < 0 \end{cases}, \qquad t = \mu - \frac{\beta \sigma}{\gamma} . $$ (eq-bnn-threshold)
#
# **The code.** First the sign with its gradient, then the threshold.
# It is found by bisecting all floats, so that rounding cannot make a difference:

# %% tags=["remove-input"]
figures.show_source(Sign, bnn.threshold)

# %% [markdown]
# **An exact check.** The gradient passes from minus one to one and nowhere else.
# For every sum that a layer of 100 inputs can have, and for both signs of $\gamma$, the threshold gives the same answer
# as batch norm and sign:

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
# **An experiment.** We train a network of three hidden layers with floats and with signs everywhere.
# A third network has no hidden layer: a deep network that does no better has learned nothing in its hidden layers.
# Then we convert each trained BNN to words of bits; it must give the same ten outputs for every test image:

# %%
networks = {"linear": mlps(units=()), "float": mlps(), "bnn": mlps(bnn.binarize)}
different = 0
for net in networks["bnn"]:
    counting = inference.convert(net)
    with torch.no_grad():
        pairs = [(net(part), counting(part)) for part in test.images.split(1000)]
    different += sum((a.argmax(1) != b.argmax(1)).sum().item() for a, b in pairs)
    assert all(
        torch.equal(a, b) for a, b in pairs
    )  # not only the class: the ten numbers
mlp = {name: errors(nets) for name, nets in networks.items()}


# %% tags=["remove-cell"]
def signs_pct(net):  # the share of +1 and -1 in what the layers after the first read
    seen, form = [], (nn.Linear, SignActivation)
    _, *readers = [m for m in net.eval().modules() if isinstance(m, form)]
    for m in readers:
        signed = isinstance(m, SignActivation)
        m.register_forward_hook(
            lambda _, x, y, signed=signed: seen.append(y if signed else x[0])
        )
    net(test.images[:200])
    values = torch.cat([x.flatten() for x in seen])
    return 100 * values.abs().eq(1).float().mean().item()


for key, change in (("bnn", bnn.binarize), ("binaryconnect", binaryconnect.binarize)):
    share = signs_pct(change(models.mlp(hidden=tuple(hidden))))
    record(f"{key}.signs_read_pct", share, digits=0, exact=True)
record("bnn.different_answers", different, exact=True)
for name, wrong in mlp.items():
    record(f"mlp.{name}_error_pct", wrong)

# %% [markdown]
# **What to see.** Counting bits is not an approximation of the trained network; it *is* the network:
# {glue:text}`binarization_activations.bnn.different_answers` answers differ.
# The error is {glue:text}`binarization_activations.mlp.bnn_error_pct` with signs,
# {glue:text}`binarization_activations.mlp.float_error_pct` with floats and
# {glue:text}`binarization_activations.mlp.linear_error_pct` without hidden layers.
# Of the values that the layers after the first read, {glue:text}`binarization_activations.bnn.signs_read_pct` are
# signs.
# In BinaryConnect, where only the weights are signs, it is
# {glue:text}`binarization_activations.binaryconnect.signs_read_pct`.
#
# **Shifts instead of products.** In training, batch norm and the optimizer Adam still multiply by real numbers.
# The authors also train with factors that are powers of two, so that shifting bits replaces multiplication
# {cite:p}`courbariaux2016binarynet`.
# With the nearest power of two, $\mathrm{AP2}(x) = \operatorname{sign}(x)\, 2^{\mathrm{round}(\log_2 |x|)}$, batch norm
# and a step of AdaMax, a relative of Adam, become
#
# $$ y = (x - \mu)\, \mathrm{AP2}(1 / \sigma)\, \mathrm{AP2}(\gamma) + \beta, \qquad w \leftarrow w - \mathrm{AP2}(\eta_t)\, \frac{m}{\mathrm{AP2}(v)} $$ (eq-shifts)
#
# where $m$ is a running mean of the gradients, $v$ their recent maximum, and $\eta_t$ the learning rate:

# %% tags=["remove-input"]
figures.show_source(shifts.ShiftNorm, shifts.ShiftAdaMax)

# %% [markdown]
# The factors of such a batch norm are powers of two, whatever its statistics are.
# Networks with it can count bits just as exactly:

# %%
norm = shifts.ShiftBatchNorm1d(64, eps=0).eval()
norm.running_var.copy_(torch.linspace(0.01, 99, 64))
part, _ = torch.frexp(norm(torch.ones(1, 64)))  # the mean is 0: this is the factor
assert (part == 0.5).all()
shifted = mlps(
    lambda net: shifts.shift_norms(bnn.binarize(net)),
    bnn.fit,
    count=1,
    learning_rate=shift_rate,
)
for net in shifted:
    with torch.no_grad():
        first = test.images[:1000]
        assert torch.equal(inference.convert(net)(first), net(first))

# %% tags=["remove-cell"]
record("mlp.bnn_shifts_error_pct", errors(shifted))

# %% [markdown]
# Trained with shifts, one network has an error of {glue:text}`binarization_activations.mlp.bnn_shifts_error_pct`; with real factors and Adam it was {glue:text}`binarization_activations.mlp.bnn_error_pct`.
#
# (sec-xnor-net)=
# ## XNOR-Net: scales for weights and inputs
#
# **The idea.** A sign forgets how large a value was.
# XNOR-Net therefore keeps one scale $\alpha$ for each filter and one scale $K$ for each place of the input
# {cite:p}`rastegari2016xnor`.
# It also normalizes and takes signs right before a layer, not right after one.
#
# **The formula.** For an input $I$ with $c$ channels, the mean $A$ of $|I|$ over them, and a filter $W$ of $w \times h$
# pixels,
#
# $$ \begin{aligned} I * W &\approx \big(\operatorname{sign}(I) \circledast \operatorname{sign}(W)\big) \odot K \alpha, \\ K &= A * k, \quad A = \frac1c \sum_{i=1}^{c} |I_i|, \quad k_{ij} = \frac{1}{w h} . \end{aligned} $$ (eq-xnor)
#
# Here $\circledast$ is a convolution of signs, which counts bits, and $\odot$ multiplies place by place.
# For a single product of vectors the best scale of all is $\gamma^* = \tfrac1n \sum_i |X_i| |W_i|$.
# $K \alpha$ equals it only where the magnitudes of inputs and weights are uncorrelated.
#
# **The code.** The scale of the input, and the layer that uses both scales:

# %% tags=["remove-input"]
figures.show_source(xnor_net.InputScale, Binarized.forward)

# %% [markdown]
# **An exact check.** $K$ is the mean of $|I|$ over the window that each output sees, also with a border of zeros and a
# stride.
# And of all patterns of signs for eight products, none comes closer than the signs themselves with $\gamma^*$:

# %%
conv = nn.Conv2d(6, 2, (3, 5), stride=2, padding=(1, 2))
image = torch.randn(4, 6, 11, 9, generator=draw)
K, wide = xnor_net.InputScale(conv)(image), functional.pad(image, (2, 2, 1, 1)).abs()
brute = wide.unfold(2, 3, 2).unfold(3, 5, 2).mean((1, 4, 5))  # window by window
deviation = (K[:, 0] - brute).abs().max()
assert deviation < 1e-5
X, W = torch.randn(2, 8, generator=draw, dtype=torch.float64)
patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
missed = (X * W).square().sum() - (patterns @ (X * W)).square() / 8
rest = X * W - (X.abs() * W.abs()).mean() * X.sign() * W.sign()
assert torch.allclose(rest.square().sum(), missed.min())

# %% tags=["remove-cell"]
record("xnor.input_scale_deviation", deviation, digits=7, exact=True)

# %% [markdown]
# **An experiment.** LeNet-5 is a digit classifier with two convolutions and two linear layers.
# We train it in three forms: with floats and batch norm before the inner layers, as an XNOR-Net without $K$, and as one
# with $K$.
# The authors' released code leaves $K$ out.
# A fourth form has the order that used to be common: convolution, batch norm, {term}`activation` (here the sign), pooling, or
# C-B-A-P for short.
# XNOR-Net takes the signs after pooling.


# %% tags=["hide-input"]
def lenets(change):
    return trained(
        binaryconnect.fit,
        lambda seed: change(models.lenet5(seed)),
        seeds=range(lenet5_seeds),
        split=train.first(lenet5_images),
        epochs=lenet5_epochs,
        loss="cross_entropy",
        batch_size=batch_size,
        learning_rate=lenet5_rate,
    )


def with_norm(net):  # floats, with the batch norm that the layers of signs get
    norms = nn.BatchNorm2d(20, eps=EPSILON), xnor_net.MapNorm(50, eps=EPSILON)
    parts = [
        net.conv1,
        net.pool1,
        norms[0],
        net.conv2,
        net.pool2,
        net.flatten,
        norms[1],
    ]
    return nn.Sequential(*parts, net.fc1, net.relu1, net.fc2)


def signs_before_pooling(net):  # C-B-A-P: convolution, batch norm, sign, pooling
    net = bwn.binarize(net)
    one, two = ([nn.BatchNorm2d(n, eps=EPSILON), SignActivation()] for n in (20, 50))
    parts = [net.conv1, *one, net.pool1, net.conv2, *two, net.pool2]
    return nn.Sequential(*parts, net.flatten, net.fc1, net.relu1, net.fc2)


# %%
XNOR = {"maps": {"fc1": 50}}  # the input of fc1 is 50 maps: one batch norm for each
networks["lenet5"] = lenets(with_norm)
networks["xnor"] = lenets(lambda net: xnor_net.binarize(net, **XNOR))
networks["xnor_k"] = lenets(
    lambda net: xnor_net.binarize(net, input_scale=True, **XNOR)
)
networks["signs_first"] = lenets(signs_before_pooling)

# %% tags=["remove-cell"]
lenet = {"float": errors(networks["lenet5"])}
lenet |= {name: errors(networks[name]) for name in ("xnor", "xnor_k", "signs_first")}
random = torch.randn(100, 10, 28, 28, generator=draw).sign()
pooled = functional.max_pool2d(random, 2)
noise = (0.9375 * 0.0625 / pooled.numel()) ** 0.5
assert abs((pooled == 1).float().mean() - (1 - 2**-4)) < 4 * noise
with torch.no_grad():
    maps = [net[:4](test.images[:500]) for net in networks["signs_first"]]
positive = 100 * (pooled == 1).float().mean().item()
record("pooled.random_positive_pct", positive, digits=1)
positive = [100 * (m == 1).float().mean() for m in maps]
record("pooled.trained_positive_pct", positive, digits=1)
kinds = [m for _, m in layers(networks["xnor"][0]) if isinstance(m, LAYERS)]
reading = [m.layer for m in networks["xnor"][0].modules() if isinstance(m, Binarized)]
for name, every in (("inner", kinds[1:-1]), ("all", kinds)):
    share = 100 * len(reading) / len(every)
    record(f"xnor.{name}_layers_binary_pct", share, digits=0, exact=True)
parts = [sum(m.weight.numel() for m in some) for some in (reading, kinds)]
record("xnor.weights_binary_pct", 100 * parts[0] / parts[1], digits=1, exact=True)
better = np.mean(lenet["xnor_k"]) < np.mean(lenet["xnor"])
say("xnor.scale", "lowers the error" if better else "does not help here")

# %% [markdown]
# **What to see.**
# {finding}`Take signs after pooling, not before | binarization_activations.lenet5.xnor_error_pct < binarization_activations.lenet5.signs_first_error_pct`:
# the error is {glue:text}`binarization_activations.lenet5.xnor_error_pct` as an XNOR-Net and
# {glue:text}`binarization_activations.lenet5.signs_first_error_pct` in the old order.
# With floats it is {glue:text}`binarization_activations.lenet5.float_error_pct`.
# The scale $K$ {glue:text}`binarization_activations.xnor.scale`: with $K$, the error is
# {glue:text}`binarization_activations.lenet5.xnor_k_error_pct`.
#
# The order matters because a pool of four random signs gives +1 in
# {glue:text}`binarization_activations.pooled.random_positive_pct` of the cases, so a pooled map of signs tells little.
# Training avoids this in part: after the first pooling of the trained networks,
# {glue:text}`binarization_activations.pooled.trained_positive_pct` of the signs are +1.
# XNOR-Net binarizes {glue:text}`binarization_activations.xnor.inner_layers_binary_pct` of the inner layers, which hold
# {glue:text}`binarization_activations.xnor.weights_binary_pct` of the weights; the first and the last layer stay real.
#
# (sec-abc-net)=
# ## ABC-Net: several signs for one value
#
# **The idea.** Several signs with different thresholds and scales add up to a staircase with more steps.
# ABC-Net replaces weights by such sums ({ref}`sec-abc-weights`), and the values between layers, too
# {cite:p}`lin2017abcnet`.
# The matrices of signs in a sum are its *bases*.
#
# **The formula.** With trained shifts $v_n$ and scales $\beta_n$, a real input $R$ and a layer become
#
# $$ \begin{aligned} R &\approx \sum_{n=1}^{N} \beta_n A_n, \quad A_n = \operatorname{sign}\big(\mathrm{clip}(R + v_n, 0, 1) - \tfrac12\big), \\ W * R &\approx \sum_{m=1}^{M} \sum_{n=1}^{N} \alpha_m \beta_n\, (B_m \circledast A_n) . \end{aligned} $$ (eq-abc-activations)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(abc_net.AbcActivation)

# %% [markdown]
# **An exact check.** A layer with three bases for its weights and two for its inputs is the sum of six products of signs:

# %%
net = abc_net.binarize(
    nn.Sequential(nn.Conv2d(8, 4, 3)), names=["0"], activation_bases=2
).eval()
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
# **An experiment.** We train LeNet-5 with as many bases for the inputs as for the weights.

# %%
for n in bases:
    nets = lenets(lambda net, n=n: abc_net.binarize(net, bases=n, activation_bases=n))
    lenet[f"abc{n}"] = errors(nets)

# %% tags=["remove-cell"]
for n in bases:
    record(f"abc{n}.products", n * n, "products of signs", exact=True)
for name, wrong in lenet.items():
    record(f"lenet5.{name}_error_pct", wrong)
gain = np.mean(lenet["abc1"]) - np.mean(lenet["abc3"])
small = "by less than half a point" if gain < 0.5 else f"by {gain:.1f} points"
say(
    "abc3.outcome", f"lower the error {small}" if gain > 0 else "do not lower the error"
)

# %% [markdown]
# **What to see.** Three bases instead of one {glue:text}`binarization_activations.abc3.outcome`: it is
# {glue:text}`binarization_activations.lenet5.abc1_error_pct` with one and
# {glue:text}`binarization_activations.lenet5.abc3_error_pct` with three.
# The price is {glue:text}`binarization_activations.abc3.products` for each layer instead of one.
# And the three bits of a value distinguish only four levels.
#
# (sec-gxnor)=
# ## GXNOR: three values, trained without real weights
#
# **The idea.** An operation with a zero can be skipped, so a third value, zero, saves work.
# GXNOR also trains without real weights: an update that is too small for a step becomes a step *with a small
# probability* {cite:p}`deng2018gxnor`.
#
# **The formula.** A layer passes on $\varphi_r(x) = 1$ for $x > r$, $-1$ for $x < -r$, and 0 in between.
# An increment $\Delta W$ of a weight $W$ is cut to $\rho$, so that $W + \rho$ stays in $[-1, 1]$.
# It is then split into $\kappa$ whole steps of size $\Delta z$ and a rest $\nu$, so $\rho = \kappa\, \Delta z + \nu$:
#
# $$ \begin{aligned} W &\leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \\ b &\sim \mathrm{Bernoulli}\big(\tanh(m |\nu| / \Delta z)\big), \quad m = 3 . \end{aligned} $$ (eq-gxnor)
#
# **The code.** One update of the weights, which are counted in steps:

# %% tags=["remove-input"]
figures.show_source(states.transition)

# %% tags=["remove-input"]
figure, (ax, other) = figures.axes(2)
x = torch.linspace(-1.5, 1.5, 601, requires_grad=True)
looks = {
    "rectangular": figures.look("nearest rounding"),
    "triangular": figures.look("retrained"),
}
ternary = gxnor_dst.TernaryActivation()(x).detach()
ax.plot(x.detach(), ternary, color=figures.DENSE["color"], label="value")
for kind, look in looks.items():
    passed = gxnor_dst.TernaryActivation(derivative=kind)(x).sum()
    (slope,) = torch.autograd.grad(passed, x)
    ax.plot(x.detach(), slope, **look | {"marker": ""}, label=f"{kind} slope")
ax.set(xlabel="input x", ylabel="value, and slope in training")
sizes, taken = torch.linspace(0, 1, 21), {}
middle = torch.ones(4000, 21, dtype=torch.int8)
for kind, name in (("tanh", "gxnor-dst"), ("linear", "dense")):
    moved = states.transition(
        middle, sizes.expand(4000, 21), generator=draw, probability=kind
    )
    taken[kind] = (moved - middle).float().mean(0)
    other.plot(sizes, taken[kind], label=kind, **figures.look(name))
other.set(xlabel="increment of the weight", ylabel="mean step (drawn)")
for panel in (ax, other):
    figures.legend(panel, columns=1)
figures.show(
    figure,
    finding=f"An increment of {sizes[6]:.1f} becomes a whole step in {100 * taken['tanh'][6]:.0f} % of the draws (tanh) or {100 * taken['linear'][6]:.0f} % (linear)",
    name="fig-gxnor",
    caption="Left: the ternary function and its two slopes for training. Right: how far a weight of 0 moves on average.",
    alt=f"Left: a staircase with steps at ±{x[ternary > 0].min().item():.1f} and two slopes around them. Right: an increment of {sizes[6]:.1f} becomes a mean step of {taken['tanh'][6]:.2f} with tanh, {taken['linear'][6]:.2f} with the linear probability",
)

# %% [markdown]
# **An exact check.** Weights stay in their three states, and none moves against its increment.
# With a linear probability, the mean step is the increment itself; with tanh it is larger.
# And products computed on two planes of bits are those of floats:

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
assert torch.equal(products, (a @ w.T).long()) and torch.equal(
    active, (a.abs() @ w.abs().T).long()
)

# %% [markdown]
# **An audit.** Does the training really keep no real weights?
# We make one training step and list what the network and its optimizer keep after it.
# In the first row, for comparison, a BNN keeps its real weights, and its optimizer Adam keeps two running means
# (moments) for each.


# %% tags=["hide-input"]
def audit(key, change, make):
    net = change(models.mlp(hidden=tuple(hidden)))
    update = make(net)
    held = dict.fromkeys(("real_weights", "moments", "states", "batch_norm"), 0)
    training.squared_hinge(net(train.images[:100]), train.labels[:100]).backward()
    update.step()
    update.zero_grad()
    tensors = net.state_dict().values()
    kept = [("states", t) for t in tensors if t.dtype == torch.int8]
    kept += [("real_weights", t) for t in tensors if t.dtype != torch.int8]
    kept += [
        ("moments", t)
        for s in update.state.values()
        for t in s.values()
        if torch.is_tensor(t)
    ]
    for kind, t in kept:
        held[kind if t.dim() > 1 else "batch_norm"] += t.numel() * t.element_size()
    weights = sum(m.weight.numel() for _, m in layers(net))
    for kind, n in held.items():
        record(f"{key}.{kind}_bytes", n, exact=True)
    real = (held["real_weights"] + held["moments"]) / weights
    record(f"{key}.bytes_for_each_weight", real, "bytes", exact=True)
    return {kind.replace("_", " "): f"{n:,}" for kind, n in held.items()}


# %% tags=["remove-input"]
def transitions(increment):
    return lambda net: state_optimizer.DiscreteStateTransition(net, increment=increment)


held = audit("bnn", bnn.binarize, lambda net: torch.optim.Adam(net.parameters()))
rows = [{"network": "BNN, Adam"} | held]
for text, increment in (("GXNOR, Adam", "adam"), ("GXNOR, plain gradient", "sgd")):
    held = audit(f"gxnor_{increment}", gxnor_dst.ternarize, transitions(increment))
    rows.append({"network": text} | held)
figures.table(rows, caption="Bytes kept between two steps of training")

# %% [markdown]
# **An experiment.** We train the same network with three values in two ways: with increments from Adam, as published,
# and with increments from the gradient alone.

# %%
options = {"fit": gxnor_dst.fit, "epochs": ternary_epochs, "batch_size": ternary_batch}
for name, rate in ternary_rates.items():
    own = {"real_learning_rate": real_rate, "increment": name} if name == "sgd" else {}
    networks[name] = mlps(gxnor_dst.ternarize, learning_rate=rate, **options, **own)
    mlp[name] = errors(networks[name])

# %% tags=["remove-cell"]
watched, seen = gxnor_dst.ternarize(models.mlp(hidden=tuple(hidden))), set()
update = transitions("adam")(watched)
for m in watched.modules():
    if isinstance(m, gxnor_dst.TernaryActivation):
        m.register_forward_hook(lambda _, __, out: seen.update(out.unique().tolist()))
for images, labels in zip(
    train.images.split(50)[:12], train.labels.split(50), strict=False
):
    update.zero_grad()
    training.squared_hinge(watched(images), labels).backward()
    update.step()
    seen.update(v for _, m in layers(watched) for v in m.weight.unique().tolist())
record("gxnor.values_seen", len(seen), "values", exact=True)
record("gxnor.largest_value_seen", max(map(abs, seen)), exact=True)
record("mlp.gxnor_error_pct", mlp["adam"])
record("mlp.gxnor_sgd_error_pct", mlp["sgd"])
zeros = [
    torch.cat([m.weight.flatten() for _, m in layers(net)]) == 0
    for net in networks["adam"]
]
record("gxnor.zero_weights_pct", [100 * z.float().mean() for z in zeros], digits=1)
resting = []
for net in networks["adam"]:
    operations = ternary_bits.gated_operations(net, test.images[:500]).values()
    active, whole = np.sum(list(operations), 0)
    resting.append(100 * (1 - active / whole))
record("gxnor.resting_pct", resting, digits=1)

# %% tags=["remove-input"]
NAMES = {"linear": "no hidden layer", "float": "floats", "bnn": "BNN"}
NAMES |= {"adam": "GXNOR, Adam", "sgd": "GXNOR, plain"}
NAMES |= {"xnor": "XNOR-Net", "xnor_k": "XNOR-Net, K", "signs_first": "C-B-A-P"}
NAMES |= {f"abc{n}": f"ABC-Net, {n} × {n}" for n in bases}
looks = {"linear": "random", "float": "float", "bnn": "bnn", "signs_first": "bnn"}
looks |= dict.fromkeys(("adam", "sgd"), "gxnor-dst")
looks |= dict.fromkeys(("xnor", "xnor_k"), "xnor-net")
looks |= {f"abc{n}": "abc-net" for n in bases}
figure, panels = figures.axes(2)
figure.set_size_inches(6, 4)
for ax, wrong, title in zip(
    panels, (mlp, lenet), ("three hidden layers", "LeNet-5"), strict=True
):
    for i, (name, values) in enumerate(wrong.items()):
        look = figures.look(looks[name]) | {"linestyle": "none"}
        figures.line(ax, [i], [values], look, "", bounds=figures.PERCENT)
    ax.set_title(title, fontsize=11)
    ax.set(xticks=range(len(wrong)), ylim=(0, None), xlim=(-0.5, len(wrong) - 0.5))
    ax.set_xticklabels(
        [NAMES[name] for name in wrong], rotation=50, ha="right", fontsize=10
    )
panels[0].set_ylabel("test error (%)")
means = {name: np.mean(values) for name, values in mlp.items()}
spread = "means over seeds with 95 % intervals" if lenet5_seeds > 2 else "one run each"
figures.show(
    figure,
    lead=True,
    finding=f"Signs everywhere: {means['bnn']:.1f} % error instead of {means['float']:.1f} % with floats; three values (GXNOR): {means['adam']:.1f} %",
    name="fig-signs-out",
    caption=f"Test errors of the networks of this chapter. Left: means over seeds with 95 % intervals; right: {spread}.",
    alt="Test errors. Three hidden layers: "
    + "; LeNet-5: ".join(
        ", ".join(f"{NAMES[n]} {np.mean(e):.2f} %" for n, e in part.items())
        for part in (mlp, lenet)
    )
    + ".",
)

# %% [markdown]
# **What to see.** A network can learn without real weights: with three values and Adam's increments the error is {glue:text}`binarization_activations.mlp.gxnor_error_pct`, {finding}`far below that of a network without hidden layers | binarization_activations.mlp.linear_error_pct - binarization_activations.mlp.gxnor_error_pct > 2`.
# The survey {cite:p}`berthelier2020survey` says that training requires real weights: {verdict}`C2.6-07`.
# But only the {glue:text}`binarization_activations.bnn.real_weights_bytes` of real weights are gone: Adam still keeps
# moments of {glue:text}`binarization_activations.gxnor_adam.moments_bytes`, and batch norm is real in any case.
# With the plain gradient, the training keeps no real number for any weight, and this
# {finding}`costs accuracy | binarization_activations.mlp.gxnor_sgd_error_pct > binarization_activations.mlp.gxnor_error_pct`:
# the error is {glue:text}`binarization_activations.mlp.gxnor_sgd_error_pct`.
#
# Many operations can be skipped: {glue:text}`binarization_activations.gxnor.zero_weights_pct` of the weights are zero,
# and {glue:text}`binarization_activations.gxnor.resting_pct` of the operations have a zero as a factor.
# If all three values were equally frequent, it would be five in nine.
#
# (sec-bulat)=
# ## A block made for signs
#
# **The idea.** Networks that find joints or landmarks, such as the stacked hourglass {cite:p}`newell2016stacked`, are
# built of bottlenecks.
# Their $1 \times 1$ filters squeeze all features through few channels, and with signs such a filter can tell little.
# A block without them suits signs better: its three convolutions follow one another, and all three results are passed
# on {cite:p}`bulat2017binarized`.
#
# **The formula.** With units $f(x) = \alpha \big(\operatorname{sign}(W) \circledast \operatorname{sign}(\mathrm{BatchNorm}(x))\big)$
# of $3 \times 3$ pixels, which give $C/2$, $C/4$ and $C/4$ channels,
#
# $$ a = f_1(x), \quad b = f_2(a), \quad c = f_3(b), \qquad y = [a, b, c] + x . $$ (eq-bulat)
#
# **The code.** The block, and the unit $f$ of which it consists:

# %% tags=["remove-input"]
figures.show_source(bulat.BinaryBlock, bulat.unit)

# %% [markdown]
# **An exact check.** For 256 channels, a width used in such networks, a bottleneck can be made as large as a block, to
# within 0.3 % of the weights {cite:p}`bulat2017binarized`.
# With filters of scale zero, a block passes on its input unchanged:

# %%
block = bulat.BinaryBlock(256, 256)
neck = bulat.Bottleneck(256, bulat.equal_width(256))
counts = [sum(m.weight.numel() for _, m in layers(part)) for part in (block, neck)]
assert abs(counts[1] - counts[0]) < 0.003 * counts[0]
small, image = bulat.BinaryBlock(8, 8), torch.randn(2, 8, 6, 6, generator=draw)
for _, layer in layers(small):
    layer.parametrizations.weight.original.data.zero_()  # alpha = 0
assert torch.equal(small.eval()(image), image)

# %% [markdown]
# **An experiment.** The networks find four key points of a digit of $14 \times 14$ pixels: the topmost, bottommost,
# leftmost and rightmost point of its stroke.
# Between a first and a last layer of floats we place two blocks, or two bottlenecks with as many weights, and train
# both with signs and with floats.
# As a control, six narrow bottlenecks, again with as many weights, see as many pixels as the blocks do.


# %% tags=["hide-input"]
WIDTHS = {
    "block": [None] * 2,
    "bottleneck": [bulat.equal_width(32)] * 2,
    "narrow": [12] * 6,
}


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
    net, image = (
        finder(kind, 0, binary=False).eval(),
        torch.rand(1, 1, 41, 41, generator=draw),
    )
    net(image.requires_grad_())[0, :, 20, 20].sum().backward()
    rows = image.grad[0, 0].ne(0).any(1).nonzero()
    return (rows.max() - rows.min() + 1).item()


# %%
halved = [functional.max_pool2d(s.images, 2) for s in (train.first(block_images), test)]
targets = [bulat.keypoints(images) for images in halved]


def finders(kind, of):
    return trained(
        bulat.fit_heatmaps,
        lambda seed: finder(kind, seed, of == "signs"),
        seeds=range(block_seeds),
        images=halved[0],
        targets=targets[0],
        epochs=block_epochs,
        learning_rate=block_rate,
        batch_size=block_batch,
    )


# %% tags=["remove-input"]
NAMES = {
    "block": "two blocks",
    "bottleneck": "two bottlenecks",
    "narrow": "six narrow bottlenecks",
}
rows, far, cases = [], {}, [(kind, "signs") for kind in WIDTHS]
for kind, of in [*cases, ("block", "floats"), ("bottleneck", "floats")]:
    nets, distances = finders(kind, of), []
    for net in nets:
        with torch.no_grad():
            maps = torch.cat([net(part) for part in halved[1].split(250)])
        distances.append(bulat.heatmap_error(maps, targets[1]))
    far[kind, of] = np.mean(distances)
    row = {"network": NAMES[kind], "in": of, "rows of pixels seen": reach(kind)}
    row["weights"] = f"{sum(m.weight.numel() for _, m in layers(nets[0])):,}"
    found = record(f"{kind}.{of}_distance", distances, "pixels", 2)
    rows.append(row | {"distance (pixels)": found.removesuffix(" pixels")})
figures.table(
    rows,
    caption="Mean distance of the key points found from the true ones, test images",
)

# %% tags=["remove-cell"]
block, neck, narrow = (far[kind, "signs"] for kind in WIDTHS)
say("block.outcome", "closer" if block < neck else "no closer")
share = (neck - narrow) / (neck - block) if neck > block else 0.0
explained = "explains a part of the gain" if share > 0.1 else "explains none of it"
say("narrow.outcome", "explains the gain" if share > 0.9 else explained)
several = f"{block_seeds} networks" if block_seeds > 1 else "one network"
say("block.networks", several)

# %% [markdown]
# **What to see.** With signs, the blocks come {glue:text}`binarization_activations.block.outcome`: on average they miss
# a key point by {glue:text}`binarization_activations.block.signs_distance`, the bottlenecks by
# {glue:text}`binarization_activations.bottleneck.signs_distance`.
# {finding}`With floats the two differ less | binarization_activations.bottleneck.signs_distance - binarization_activations.block.signs_distance > binarization_activations.bottleneck.floats_distance - binarization_activations.block.floats_distance`:
# they miss by {glue:text}`binarization_activations.block.floats_distance` and
# {glue:text}`binarization_activations.bottleneck.floats_distance`.
# The block itself need not be the reason, since two blocks also see more rows of pixels than two bottlenecks.
# The control has the wider view without the block and misses by
# {glue:text}`binarization_activations.narrow.signs_distance`: the view
# {glue:text}`binarization_activations.narrow.outcome`.
# This rests on {glue:text}`binarization_activations.block.networks` of each kind and few images: take it as a hint, not
# as a measurement.
#
# ## Where it breaks
#
# **ReLU before a sign.** After ReLU nothing is negative, so every sign is +1 and the layer gives the same output for
# every image.
# If ReLU is left in place, {glue:text}`binarization_activations.relu.positive_pct` of the signs are +1, and the trained
# network has an error of {glue:text}`binarization_activations.relu.error_pct`.
#
# **Increments that are too large.** In GXNOR the learning rate sets a probability.
# At ten times the rate, where an increment is about a whole step, the error is
# {glue:text}`binarization_activations.fast.error_pct` instead of
# {glue:text}`binarization_activations.mlp.gxnor_error_pct`.
#
# **Inputs that match the filter.** If inputs are large exactly where weights are large, $K \alpha$ is
# {finding}`too small | binarization_activations.together.size_ratio < 1`: for a filter that reads its own pattern it is
# {glue:text}`binarization_activations.together.size_ratio` the best scale.

# %% tags=["hide-input"]
net = bnn.binarize(models.mlp(hidden=tuple(hidden)))
for name in ("relu1", "relu2", "relu3"):
    setattr(net, name, nn.ReLU())
short = {"epochs": max(1, epochs // 4), "batch_size": batch_size, "seed": 0}
short |= {"split": train.first(2000), "learning_rate": learning_rate}
net = cached(binaryconnect.fit, net, **short)
with torch.no_grad():
    positive = net[:4](test.images[:500]) >= 0
rate = 10 * ternary_rates["adam"]
options = {"epochs": ternary_epochs, "batch_size": ternary_batch, "count": 1}
fast = mlps(gxnor_dst.ternarize, gxnor_dst.fit, learning_rate=rate, **options)
W = torch.randn(1000, 200, generator=draw)
ratio = W.abs().mean(1).square() / W.square().mean(1)  # X = W: K alpha over gamma

# %% tags=["remove-cell"]
record("relu.positive_pct", 100 * positive.float().mean().item(), digits=0)
record("relu.error_pct", errors([net]))
record("fast.error_pct", errors(fast))
record("together.size_ratio", ratio.mean(), digits=2)

# %% [markdown]
# ## Exercises
#
# 1. How many different values can five bases of ABC-Net give, and how many could five bits distinguish?

# %% tags=["hide-cell"]
values = abc_net.AbcActivation(5)(torch.randn(10_000, generator=draw)).detach()
count = len(values.round(decimals=4).unique())
evidence.answer(
    f"Five bases give {count} values, one more than there are thresholds; five bits could distinguish {2**5}."
)

# %% [markdown]
# 2. The first layer reads pixels of eight bits, not signs. Can it count bits as well?

# %% tags=["hide-cell"]
pixels = torch.randint(0, 256, (20, 784), generator=draw)
W = torch.randn(30, 784, generator=draw).sign().long()
planes = [(pixels >> n) & 1 for n in range(8)]  # a pixel is the sum of 2^n times a bit
total = sum(2**n * (bit @ W.T) for n, bit in enumerate(planes))
wrong = (total != pixels @ W.T).sum().item()
assert wrong == 0
evidence.answer(
    f"It can: each pixel is a sum of {len(planes)} bits with weights, so {len(planes)} counts, shifted and added, give the layer's sums, and {wrong} of {total.numel()} sums differ."
)

# %% [markdown]
# 3. The signals of GXNOR can have more levels than three: $2^N + 1$, from $-1$ to $1$. How many products of signs does
#    a layer with ternary weights take then?

# %% tags=["hide-cell"]
spaces, weight = (1, 2, 3), nn.Linear(8, 4)
ternary = gxnor_dst.ternarize(weight, names=[""])
products = {
    n: len(inference.bases(ternary)[0])
    * len(gxnor_dst.TernaryActivation(space=n).bases())
    for n in spaces
}
listed = ", ".join(
    f"{count} products for {2**n + 1} levels" for n, count in products.items()
)
evidence.answer(
    f"Each threshold is one more matrix of signs, and so is each step of the weights: {listed}."
)

# %% [markdown]
# ## In short
#
# - Where weights and inputs are signs, a sum is a count of bits, and the count gives exactly the answers of the network
#   in floats.
# - Normalize and take signs right before a layer; never after ReLU, and not before pooling.
# - Weights with three states can be trained without real weights; giving up the moments of the optimizer, too, costs
#   accuracy.
#
# The [next chapter](binarization_speed.py) measures how much faster counting is.
#
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2016binarynet` and {cite:t}`hubara2016bnn` are binarized neural networks, {cite:t}`rastegari2016xnor` is XNOR-Net, {cite:t}`lin2017abcnet` ABC-Net, {cite:t}`deng2018gxnor` GXNOR.
# - {cite:t}`bulat2017binarized` has the block, {cite:t}`newell2016stacked` the hourglass; {cite:t}`berthelier2020survey` is the survey.
