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
# (sec-quantization-integers)=
# # 8-bit integers (int8) and quantization-aware training
#
# Can a trained network compute with 8-bit integers in place of floats, without being trained again?
# Yes: in LeNet-300-100, a small digit classifier, the error {glue:text}`quantization_integers.lenet300.outcome`, and
# the file is {mean}`quantization_integers.lenet300.file_ratio 1` smaller.
# Two bits need training: the network misclassifies {mean}`quantization_integers.lenet300_channel2.error_pct 0` of the
# images without it, and {mean}`quantization_integers.lenet300_qat2.error_pct 0` if it was trained with the rounding in
# place.
#
# ```{claims} quantization_integers
# ```
#
# ```{cost} quantization_integers
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
lenet5_seeds = 3  # LeNet-5 networks
lenet5_epochs = 6  # to train each of them
calibration = 200  # training images from which the ranges of activations are taken
bits = [8, 4, 3, 2]  # of weights, and of what flows between the layers
trained_bits = [8, 2]  # those with which networks are trained, too
tune_images = {"lenet300": 2_000, "lenet5": 600}  # for that training, at most
tune_epochs = {"lenet300": 5, "lenet5": 4}  # of that training
tune_rate = 0.02  # learning rate of that training
factor = 50  # by which one unit of each layer is stretched
runs = 20  # timings, of which the median counts
many = 64  # images at once
sides = {"resnet18": [32, 16], "mobilenet": [64, 32]}  # pixels: one image, many images
also = ["mobilenet_v3_small", "convnext_tiny"]  # networks of torchvision to convert

# %% tags=["hide-input"]
import copy
from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, running, storage, training
from lib.cache import cached, trained
from lib.quantization import affine
from lib.quantization import quantization_aware_training as qat
from lib.quantization.shared import (
    grids,
    integer_arithmetic,
    integer_network,
    precisions,
    torch_kernels,
)
from lib.vision import torchvision
from lib.weights import decompress, layers

dataset = datasets.load(data)
record = evidence.recorder("quantization_integers", dataset)
test, calibrating = dataset.test, dataset.train.images[:calibration]
NAMES = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5", "resnet8": "ResNet-8"}
NAMES |= {"resnet18": "ResNet-18", "mobilenet": "MobileNetV2"}


def phrase(key, text):
    return evidence.phrase(f"quantization_integers.{key}", text)


def errors(nets):
    nets = [net.to(memory_format=running.layout(net, test.images)) for net in nets]
    return [training.error_pct(net, test, batch_size=200) for net in nets]


def smaller(net, coder="fixed"):
    return measure.dense_bytes(net) / len(storage.dumps(net, coder=coder))


def simulated(net, bits=8, per_channel=True, **options):
    net = affine.simulate(net, bits=bits, per_channel=per_channel)
    return affine.calibrate(net, calibrating, **options)


# %% [markdown]
# The {term}`baselines <baseline>` are two digit classifiers in floats {cite:p}`lecun1998gradient`: LeNet-300-100, which has two hidden
# layers, and LeNet-5, which has two convolutions.
# Both are trained from several starts.

# %% tags=["hide-input"]
options = {"split": dataset.train, "epochs": epochs, "learning_rate": 0.1}
dense = {
    "lenet300": trained(
        training.fit, models.lenet_300_100, seeds=range(seeds), **options
    )
}
options |= {"epochs": lenet5_epochs, "learning_rate": 0.05}
dense["lenet5"] = trained(
    training.fit, models.lenet5, seeds=range(lenet5_seeds), **options
)
baseline = {name: errors(nets) for name, nets in dense.items()}
for name, wrong in baseline.items():
    record(f"{name}.baseline_error_pct", wrong)

# %% [markdown]
# (sec-affine)=
# ## An evenly spaced grid
#
# **The idea.** The [chapter on quantization](quantization.py) lets weights share a few arbitrary values.
# Frameworks use evenly spaced values instead, because then the arithmetic can be done in integers.
# A small integer $q$ represents the real number $S(q - Z)$, where $S$ is the {term}`step <quantization step>` and $Z$ the {term}`zero point`,
# the integer that represents zero.
# Zero must be exact, because ReLU and the padding of images produce it {cite:p}`jacob2018quantization`.
#
# **The formula.** For a real value $r$ in $[a, b]$ and integers from $q_{min}$ to $q_{max}$,
#
# $$
# \begin{aligned}
# q &= \mathrm{clip}\big(\mathrm{round}(r / S) + Z,\ q_{min},\ q_{max}\big), \\
# S &= \frac{b - a}{q_{max} - q_{min}}, \qquad Z = \mathrm{round}\Big(q_{min} - \frac{a}{S}\Big).
# \end{aligned}
# $$ (eq-affine)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(affine.Grid, affine.grid)

# %% [markdown]
# **An exact check.** Rounding moves no value in the range by more than half a step, and zero stays zero.
# Each of the 256 integers comes back from the number that it represents.

# %%
grid, values = affine.grid(-0.7, 2.1, bits=8), torch.linspace(-0.7, 2.1, 10_001)
moved = (grid.dequantize(grid.quantize(values)) - values).abs().max()
assert moved <= 0.5001 * grid.scale
assert grid.dequantize(grid.quantize(torch.zeros(1))).item() == 0
integers = torch.arange(grid.low, grid.high + 1)
assert torch.equal(grid.quantize(grid.dequantize(integers)), integers)

# %% [markdown]
# ### One step per layer, or one per channel
#
# All weights of a layer can share one step, or each output channel can have its own, at the price of one float per
# channel {cite:p}`krishnamoorthi2018whitepaper`.
# Networks as small as ours hardly show the difference, so we make it visible.
# In each hidden layer we take the unit whose range is widest.
# We multiply its weights and its bias by {glue:text}`quantization_integers.stretch.factor`, and divide the weights that
# read it by the same number.
# The network still computes the same function.


# %% tags=["hide-input"]
def stretched(model, by):
    model = copy.deepcopy(model)
    for (_, first), (_, second) in pairwise(list(layers(model))):
        unit = first.weight.abs().flatten(1).amax(1).argmax()
        first.weight.data[unit] *= by
        first.bias.data[unit] *= by
        reading = second.weight.data.reshape(len(second.weight), len(first.weight), -1)
        reading[:, unit] /= by
    return model


record("stretch.factor", factor, exact=True)
wide = [stretched(net, factor) for net in dense["lenet300"]]

# %% [markdown]
# **An exact check.** The stretched network gives the same answers.
# With one step per channel, all other units of the first layer keep their values.
# With one step per layer, the step becomes as many times coarser as the unit was stretched.

# %%
answers = [net(calibrating[:50]) for net in (wide[0], dense["lenet300"][0])]
assert torch.allclose(*answers, rtol=1e-3, atol=1e-3)
own, one = affine.AffineWeight(8, axis=0), affine.AffineWeight(8, axis=None)
was, now = (net.fc1.weight.detach() for net in (dense["lenet300"][0], wide[0]))
assert (own(now) == own(was)).all(1).sum() >= len(was) - 1
assert torch.allclose(one.grid(now).scale, factor * one.grid(was).scale)

# %% tags=["remove-input"]
rows = []
for key in ("tensor", "channel"):
    row = {"weights": "one step per " + {"tensor": "layer"}.get(key, key)}
    for what, nets in (("as_trained", dense["lenet300"]), ("stretched", wide)):
        coarse = [
            affine.quantize(copy.deepcopy(n), per_channel=key == "channel")
            for n in nets
        ]
        text = record(f"{what}.{key}_error_pct", errors(coarse))
        row[f"error {what.replace('_', ' ')}"] = text
    rows.append(row)
figures.table(
    rows, caption="LeNet-300-100 with 8-bit weights and float activations: test error"
)

# %% [markdown]
# **What to see.** A stretched unit harms a network with one step per layer, but not a network with one step per
# channel.
# With one step per layer the range must cover the stretched unit, so all other units share a few of the 256 levels.
# The error
# {finding}`rises | quantization_integers.stretched.tensor_error_pct > quantization_integers.lenet300.baseline_error_pct`
# to {mean}`quantization_integers.stretched.tensor_error_pct 1`.
# With one step per channel it is {mean}`quantization_integers.stretched.channel_error_pct 1`.
#
# ### The range of activations
#
# Weights are known in advance, but {term}`activations <activation>` are not, so we *{term}`calibrate <calibration>`* their ranges on some training images.
# We can take the extremes, a moving average of the extremes of each batch, or a percentile, which leaves out the
# largest values.
# The rest of this chapter takes the extremes.

# %% tags=["hide-input"]
ways = {
    "extremes": {},
    "moving average": {"decay": 0.9},
    "all but 0.1 %": {"percentile": 99.9},
}
rows, means = [], {8: {}, 4: {}}
for text, options in ways.items():
    row = {"range": text}
    for b, by_way in means.items():
        wrong = errors([simulated(net, b, **options) for net in dense["lenet300"]])
        row[f"error, {b} bits"] = evidence.formatted(wrong, unit="%", digits=2)
        by_way[text] = sum(wrong) / len(wrong)
    rows.append(row)
figures.table(
    rows,
    caption=f"LeNet-300-100 calibrated in three ways on {calibration} images: test error",
)
spread = {b: max(by_way.values()) - min(by_way.values()) for b, by_way in means.items()}
for b, points in spread.items():
    record(f"calibration.spread{b}_points", points)

# %% [markdown]
# **What to see.** The mean errors of the three ways differ by
# {glue:text}`quantization_integers.calibration.spread8_points` with eight bits, and by
# {glue:text}`quantization_integers.calibration.spread4_points` with four.
#
# %% [markdown]
# (sec-integer-network)=
# ## Inference with integers only
#
# **The idea.** Multiplying two quantized numbers is an integer multiplication, times one constant.
# So a layer multiplies 8-bit integers and adds the products in 32 bits.
# Then it multiplies the sum by that constant, which is itself held as an integer, and so brings it to the grid of the
# output.
#
# **The formula.** With index 1 for the input, 2 for the weights and 3 for the output, and with $N$ products per sum,
#
# $$
# \begin{aligned}
# q_3 &= Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \\
# M &= \frac{S_1 S_2}{S_3} = 2^{-n} M_0, \qquad q_b = \mathrm{round}\Big(\frac{b}{S_1 S_2}\Big),
# \end{aligned}
# $$ (eq-integer-product)
#
# where $b$ is the bias, and $M_0 \in [\tfrac12, 1)$ is held as the 32-bit integer nearest to $2^{31} M_0$
# {cite:p}`jacob2018quantization`.
# Batch norm is folded into the layer before it, ReLU clips at $Z_3$, and max pooling needs no change.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(integer_arithmetic.accumulate, integer_arithmetic.rescale)

# %% [markdown]
# **An exact check.** One unit of the first layer agrees with a computation in Python's own integers and fractions.

# %%
ready = {name: [simulated(net) for net in nets] for name, nets in dense.items()}
whole = {
    name: [integer_network.convert(net) for net in nets] for name, nets in ready.items()
}
layer, unit = whole["lenet300"][0].get_submodule("fc1_integer"), 7
pixels = (
    affine.activations(ready["lenet300"][0])[0]
    .grid()
    .quantize(test.images[:20])
    .flatten(1)
)
total = layer.bias[unit].item()
for q1, q2 in zip(pixels[0].tolist(), layer.q2[unit].tolist(), strict=True):
    total += (q1 - layer.z1) * q2
half, n = Fraction(1, 2), -layer.exponent[unit].item()
inner = floor(Fraction(total * layer.m0[unit].item(), 2**31) + half)
exact = floor(abs(Fraction(inner, 2**n)) + half) * (1 if inner >= 0 else -1) + layer.z3
computed = layer(pixels[:1].int())[0, unit].item()
assert computed == min(layer.high, max(layer.low, exact))

# %% [markdown]
# **An experiment.** Does the integer network give the same answers as the float network that only *simulates* the
# rounding?
# And do the *kernels*, PyTorch's own int8 implementation, give them, too?

# %% tags=["hide-input"]
kernels = torch_kernels.kernels_available()


def agreement(pair):  # percent of the images that get the same answer from both
    few = test.images[:2000].split(200)
    with torch.no_grad():
        one, other = (torch.cat([net(part).argmax(1) for part in few]) for net in pair)
    return 100 * (one == other).float().mean().item()


# %% tags=["remove-input"]
rows = []
for name in dense:
    fast = [precisions.integers(net) for net in ready[name]]
    same = [agreement(pair) for pair in zip(ready[name], whole[name], strict=True)]
    texts = [record(f"{name}.agreement_pct", same)]
    same = [agreement(pair) for pair in zip(fast, whole[name], strict=True)]
    texts += [record(f"{name}.kernel_agreement_pct", same)]
    (ratio,) = {smaller(net) for net in ready[name]}  # no seed changes it
    texts += [record(f"{name}.file_ratio", ratio, digits=2, exact=True)]
    coded = [smaller(net, "best") for net in ready[name]]
    texts += [record(f"{name}.coded_file_ratio", coded, digits=2)]
    columns = ("same answer as simulation", "as kernels", "file smaller", "coded file")
    rows.append({"network": NAMES[name], **dict(zip(columns, texts, strict=True))})
figures.table(
    rows,
    caption="The integer networks: images with the same answer, and size of files; means over seeds",
)

# %% [markdown]
# **What to see.** The integer LeNet-300-100 gives the same answer as its simulation on
# {mean}`quantization_integers.lenet300.agreement_pct 1` of the images, and the same answer as the kernels on
# {mean}`quantization_integers.lenet300.kernel_agreement_pct 1`.
# So what we measure with the fast simulation also holds for the integers.
# The file holds 8-bit integers, a step for each channel, the ranges, and float biases.
# An entropy code on top makes it somewhat smaller.
#
# (sec-qat)=
# ## Quantization-aware training
#
# **The idea.** {term}`Train with the rounding <quantization-aware training>` that the integer network will do, and compute the gradient as if nothing had
# been rounded (the {term}`straight-through estimator`).
# The weights then learn to work with the rounding {cite:p}`jacob2018quantization`.
#
# **The formula.** With the range $[a, b]$ of a grid, shifted slightly so that zero lies on it,
#
# $$
# \begin{aligned}
# \hat r &= S\,\big(\mathrm{clip}(\mathrm{round}(r / S) + Z,\ q_{min},\ q_{max}) - Z\big), \\
# \frac{\partial L}{\partial r} &= \frac{\partial L}{\partial \hat r}\; \mathbb 1[a \le r \le b].
# \end{aligned}
# $$ (eq-straight-through)
#
# The range of the weights is computed again at every step, and the range of an activation is a moving average.
# Activations are rounded only in the last part of the training, when their ranges have settled.
#
# **The code.** In the forward pass a value is rounded as above; in the backward pass a saved mask says which values
# were in the range:

# %% tags=["remove-input"]
figures.show_source(grids.StraightThrough, qat.fit)

# %% [markdown]
# **An exact check.** The rounded values are exactly those that the integers represent, and the gradient is one inside
# the range and zero outside.

# %%
grid, r = (
    affine.grid(-1.0, 2.0, bits=3),
    torch.linspace(-2, 3, 1001, requires_grad=True),
)
grid.fake(r).sum().backward()
a, b = grid.bounds()
assert torch.equal(grid.fake(r), grid.dequantize(grid.quantize(r)))
assert torch.equal(r.grad, ((r >= a) & (r <= b)).float())

# %% [markdown]
# (sec-bits)=
# ## How few bits?
#
# We quantize both networks in three ways: with one step per layer, with one step per channel, and with one step per
# channel and training.
# Training alone can lower an error, so we also train the float networks on, for as many epochs on the same images with
# the same options.
# The image and the answers of the last layer keep eight bits, because two bits could not tell ten classes apart.

# %%
curves, trained_on = {}, {}
for name, nets in dense.items():
    part = dataset.train.first(tune_images[name])
    options = {"split": part, "epochs": tune_epochs[name], "learning_rate": tune_rate}
    copies = enumerate(copy.deepcopy(nets))
    trained_on[name] = errors(
        [cached(training.fit, net, seed=i, **options) for i, net in copies]
    )
    record(f"{name}.trained_on_error_pct", trained_on[name])
    record(f"{name}.setting.tune_epochs", tune_epochs[name], "epochs", 0, exact=True)
for name, key in (
    (name, key) for name in dense for key in ("tensor", "channel", "qat")
):
    part = dataset.train.first(tune_images[name])
    options = {"split": part, "epochs": tune_epochs[name], "learning_rate": tune_rate}
    for b in trained_bits if key == "qat" else bits:
        nets = [simulated(net, b, key != "tensor") for net in dense[name]]
        if key == "qat":
            nets = [
                cached(qat.fit, net, seed=i, **options) for i, net in enumerate(nets)
            ]
        curves[name, key, b] = errors(nets), nets[0]

# %% tags=["remove-cell"]
for (name, key, b), (wrong, net) in curves.items():
    record(f"{name}_{key}{b}.error_pct", wrong)
    if key == "qat" or b == 8:
        record(f"{name}_{key}{b}.file_ratio", smaller(net), digits=2, exact=True)
cost = np.mean(curves["lenet300", "channel", 8][0]) - np.mean(baseline["lenet300"])
outcome = "does not rise" if cost <= 0 else f"rises by {cost:.2f} points"
phrase("lenet300.outcome", outcome)

# %% tags=["remove-input"]
WAYS = {
    "tensor": (
        "one step per layer",
        figures.look("affine-int8") | {"marker": "x", "linestyle": ":"},
    ),
    "channel": ("one step per channel", figures.look("affine-int8")),
    "qat": ("trained with rounding", figures.look("qat-int8")),
}
figure, panels = figures.axes(2, sharey=True)
for ax, name in zip(panels, dense, strict=True):
    for shift, (key, (text, look)) in enumerate(WAYS.items()):
        shown = sorted(b for n, k, b in curves if (n, k) == (name, key))
        points = [curves[name, key, b][0] for b in shown]
        places = [b + 0.08 * (shift - 1) for b in shown]
        figures.line(ax, places, points, look, text, bounds=figures.PERCENT)
    level = np.mean(baseline[name])
    ax.axhline(level, **figures.look("float") | {"marker": ""}, label="float")
    ax.set(xlabel="bits", xticks=range(2, 9), title=NAMES[name])
    figures.logarithmic(ax, "y")
panels[0].set(ylabel="test error (%)", ylim=(min(map(min, baseline.values())) / 2, 100))
handles = panels[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
few = {(n, k): np.mean(curves[n, k, min(bits)][0]) for n, k, _ in curves}
figures.show(
    figure,
    lead=True,
    finding=f"Eight bits cost {max(cost, 0):.2f} points; with {min(bits)} bits, training lowers the error "
    f"from {few['lenet300', 'channel']:.0f} to {few['lenet300', 'qat']:.0f} %",
    name="fig-bits",
    caption="Test error against the bits of weights and activations. Means over seeds with 95 % intervals.",
    alt=f"Two panels, three curves each, from {max(bits)} to {min(bits)} bits. With {min(bits)}: "
    + "; ".join(f"{NAMES[n]}, {WAYS[k][0]}, {e:.1f} %" for (n, k), e in few.items()),
)
STEPS = {"tensor": "per layer", "channel": "per channel", "qat": "trained"}
rows = []
for key, b in [
    (k, b) for n, k, b in curves if n == "lenet300" and (k == "qat" or b == 8)
]:
    row = {"bits": b, "steps": STEPS[key]}
    for name, short in (("lenet300", "300-100"), ("lenet5", "LeNet-5")):
        wrong, net = curves[name, key, b]
        row[f"{short}: file (×)"] = f"{smaller(net):.2f}"
        row[f"{short}: error (%)"] = evidence.formatted(wrong, unit="", digits=2)
    rows.append(row)
figures.table(
    rows,
    caption="LeNet-300-100 and LeNet-5: how much smaller the files are, and test error",
)

# %% [markdown]
# **What to see.** Eight bits hardly change the error, whichever way the steps are chosen.
# With three bits LeNet-300-100 misclassifies {mean}`quantization_integers.lenet300_tensor3.error_pct 1` of the images
# with one step per layer and {mean}`quantization_integers.lenet300_channel3.error_pct 1` with one per channel.
# With two bits it needs training: the error is {mean}`quantization_integers.lenet300_channel2.error_pct 0` before and
# {mean}`quantization_integers.lenet300_qat2.error_pct 0` after.
# The training takes {glue:text}`quantization_integers.lenet300.setting.tune_epochs`.
# The float networks have an error of {mean}`quantization_integers.lenet300.baseline_error_pct`, and of
# {mean}`quantization_integers.lenet300.trained_on_error_pct` if they are trained on for as many epochs.
# The file shrinks with the bits; the number of multiply-adds stays the same.
#
# (sec-int8-networks)=
# ## Which networks convert?
#
# Networks of convolutions convert to int8 from end to end: {glue:text}`quantization_integers.conversion.count` networks
# in the table below do.
# Residual sums, concatenations, gates and functions such as hard-swish convert, too; layer norm and attention do not.
# Where one operation has no integer form, the whole network is refused: a detour through floats would cost time, and
# nobody would notice it.
#
# We add three image classifiers to the two digit classifiers: ResNet-8 and ResNet-18, which have residual blocks
# {cite:p}`he2016deep`, and MobileNetV2, which is made for phones {cite:p}`sandler2018mobilenet`.
# Their weights are random, which changes neither times nor sizes.

# %% tags=["hide-input"]
torch.manual_seed(0)
added = {
    "resnet8": (models.resnet8(), [32, 32]),
    "resnet18": (torchvision.models.resnet18(), sides["resnet18"]),
    "mobilenet": (torchvision.models.mobilenet_v2(), sides["mobilenet"]),
}
several = many if kernels else 2  # int32 without kernels is slow
batches = [test.images[:1], test.images[:several]]
racers = {name: (dense[name][0], ready[name][0], batches) for name in dense}
for name, (net, (one, all_)) in added.items():
    batches = [torch.rand(1, 3, one, one), torch.rand(several, 3, all_, all_)]
    low = affine.calibrate(affine.simulate(net), batches[1][:4])
    racers[name] = (net.eval(), low, batches)


# %% tags=["hide-input"]
def of_torchvision(name):
    options = {"image_size": 64} if name.startswith("vit") else {}
    options |= {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, num_classes=10, **options).eval()


reasons = {NAMES[name]: "" for name in racers}
for name in also:
    reasons[name] = precisions.refusal(of_torchvision(name), torch.rand(2, 3, 64, 64))
rows = [
    {
        "network": name,
        "converts": "no" if reason else "yes",
        "why not": reason.partition(":")[0] or "–",  # after the colon: what is accepted
    }
    for name, reason in reasons.items()
]
figures.table(rows, caption="Networks that int8 takes from end to end, and refusals")
phrase("conversion.count", f"{list(reasons.values()).count('')} of {len(reasons)}")

# %% [markdown]
# (sec-int8-speed)=
# ## Is int8 faster?
#
# We time each network in 32-bit floats, in bfloat16 and in int8, in turn, on one thread.
# bfloat16 is a float of 16 bits: it has the exponent of the 32-bit float, and a third of its digits.
# So it needs no calibration, and this processor {glue:text}`quantization_integers.bfloat16.here`.
# All three read and answer in 32-bit floats.
# Those in floats, too, have their {term}`batch norm` folded, and their channels last in memory where that is safe, so
# int8 gains nothing from either.

# %% tags=["hide-input"]
figures.table([torch_kernels.processor()], caption="What computes in int8 here")
phrase("bfloat16.here", precisions.bfloat16_here())

# %%
times, rows = {}, []
for name, (net, low, images) in racers.items():
    forms = precisions.forms(net, low, images[1][:2])
    sizes = {"bfloat16": smaller(forms["bfloat16"]), "int8": smaller(low)}
    record(f"{name}.bfloat16_file_ratio", sizes["bfloat16"], digits=2, exact=True)
    if name not in dense:
        record(f"{name}.file_ratio", sizes["int8"], digits=2, exact=True)
    row = {"network": NAMES[name], "float32": f"{measure.dense_bytes(net):,} bytes"}
    rows.append(row | {f"{form} (×)": f"{size:.2f}" for form, size in sizes.items()})
    if name == "lenet300":
        forms |= {"int32": whole[name][0], "simulated": decompress(copy.deepcopy(low))}
    layout = {"memory_format": running.layout(forms["float32"], images[1][:2])}
    for count, x in zip(("one", "many"), images, strict=True):
        x = x.contiguous(**layout)
        calls = {form: lambda f=f, x=x: f(x) for form, f in forms.items()}
        times[name, count] = measure.latency_ms(calls, runs=runs)

# %% tags=["remove-input"]
figures.table(
    rows, caption="Files: size in float32, and how much smaller the others are"
)
FORMS = {
    "bfloat16": figures.look("float") | {"marker": "o"},
    "int8": figures.look("affine-int8"),
}
ratios = {(form, case): 0.0 for form in FORMS for case in times}
figure, panels = figures.axes(2, sharey=True)
rows = []
for (name, count), by_form in times.items():
    usual = by_form["float32"].median
    texts = {
        form: record(
            f"{name}.{count}_{form}_latency_ratio", time.median / usual, digits=2
        )
        for form, time in by_form.items()
        if form != "float32"
    }
    n, *_, side = racers[name][2][count == "many"].shape
    row = {"network": NAMES[name], "images": f"{n} of {side} × {side}"}
    rows.append(row | {"float32 (ms)": f"{usual:.3g}"} | {f: texts[f] for f in FORMS})
    ratios |= {(form, (name, count)): by_form[form].median / usual for form in FORMS}
for ax, count in zip(panels, ("one", "many"), strict=True):
    shown = list(racers)
    end = 1.15 * max(1, *(r for (_, case), r in ratios.items() if case[1] == count))
    for shift, (form, look) in zip((-0.15, 0.15), FORMS.items(), strict=True):
        at = [times[name, count][form] for name in shown]
        usual = [times[name, count]["float32"].median for name in shown]
        middle, low, high = (
            np.array([getattr(time, q) for time in at]) / usual
            for q in ("median", "lower", "upper")
        )
        # a few slow runs must not squeeze the rest
        bars = [middle - low, np.minimum(high, end) - middle]
        y, look = np.arange(len(shown)) + shift, look | {"linestyle": "none"}
        ax.errorbar(middle, y, xerr=bars, capsize=3, label=form, **look)
    ax.axvline(1, color=figures.look("float")["color"], linewidth=1, label="float32")
    ax.set(xlabel="time (float32 = 1)", xlim=(0, end))
    ax.set(title="one image" if count == "one" else f"{several} images")
panels[0].set(yticks=range(len(racers)), yticklabels=[NAMES[name] for name in racers])
panels[0].set(ylim=(len(racers) - 0.5, -0.5))
handles = panels[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
int8 = {case: ratio for (form, case), ratio in ratios.items() if form == "int8"}
wins = sum(ratio < 1 for ratio in int8.values())
first = sum(ratio < min(1, ratios["bfloat16", case]) for case, ratio in int8.items())
best = min(int8, key=int8.get)  # not chosen by test
phrase("speed.wins", f"{wins} of {len(int8)}")
phrase("speed.first", f"{first} of {len(int8)}")
figures.show(
    figure,
    finding=f"int8 is the fastest of three forms in {first} of {len(int8)} cases, "
    f"and up to {1 / int8[best]:.1f} times as fast as float32",
    name="fig-int8-speed",
    caption="Time of the bfloat16 and int8 networks relative to float32, median and quartiles. "
    f"int8 is faster than float32 in {wins} of {len(int8)} cases, and gains most in "
    f"{NAMES[best[0]]} with {'one image' if best[1] == 'one' else 'many images'}.",
    alt="Ratios of time to float32: "
    + "; ".join(
        f"{row['network']}, {row['images']}: bfloat16 {row['bfloat16']}, int8 {row['int8']}"
        for row in rows
    ),
)
figures.table(rows, caption="Median time on one thread; bfloat16 and int8 to float32")

# %% [markdown]
# **What to see.** int8 is faster than float32 in {glue:text}`quantization_integers.speed.wins` cases.
# It is the fastest of the three in {glue:text}`quantization_integers.speed.first`.
# It gains most where there is much to compute.
# For many images, MobileNetV2 takes {mean}`quantization_integers.mobilenet.many_int8_latency_ratio` the float time in
# int8, and {mean}`quantization_integers.mobilenet.many_bfloat16_latency_ratio` in bfloat16.
# For one image, LeNet-300-100 takes {mean}`quantization_integers.lenet300.one_int8_latency_ratio` the float time: so
# small a network is busy with calls and with rounding its input.
#
# Integers alone are not fast; they need kernels that use the processor's 8-bit instructions.
# If ordinary code multiplies the same integers as int32, they take
# {mean}`quantization_integers.lenet300.many_int32_latency_ratio` the float time for many images, and the network that
# only simulates the rounding takes {mean}`quantization_integers.lenet300.many_simulated_latency_ratio`.
# That code is generic and the kernels are tuned, so this compares software, too, and not only instructions.
#
# The survey that this book tests says four things about speed {cite:p}`berthelier2020survey`, and our measurements
# judge them:
#
# - Limited precision can be efficient if it is paired with specific hardware: {verdict}`C2.5-20`.
# - It saves computation time, even more with dedicated hardware: {verdict}`C2.5-23`.
# - The speed gained is important, especially if the structure is well designed: {verdict}`C4-05`.
# - Reduced precision brings a high speed-up: {verdict}`C4-17`.
#
# ## Where it breaks
#
# **Bias correction without a check.** Rounded weights shift the mean output of a layer.
# Calibration images show the size of this shift, and *bias correction* subtracts it from the biases, layer by layer and
# without training.
# The table shows the errors with two bits, before and after this correction:

# %% tags=["hide-input"]
rows, changes = [], {}
for name, nets in dense.items():
    low = [(simulated(net, 2), net) for net in nets]
    before = curves[name, "channel", 2][0]
    after = errors([affine.correct_biases(*pair, calibrating) for pair in low])
    row = {
        "network": NAMES[name],
        "two bits": evidence.formatted(before, unit="%", digits=2),
    }
    rows.append(
        row | {"biases corrected": record(f"{name}.corrected_error_pct", after)}
    )
    changes[name] = np.mean(after) - np.mean(before)
figures.table(rows, caption="Test error with two bits, and after bias correction")
for name, change in changes.items():
    phrase(f"{name}.correction", "lowers" if change < 0 else "raises")

# %% [markdown]
# With two bits, bias correction {glue:text}`quantization_integers.lenet300.correction` the error of LeNet-300-100 from
# {mean}`quantization_integers.lenet300_channel2.error_pct 0` to
# {mean}`quantization_integers.lenet300.corrected_error_pct 0`.
# It {glue:text}`quantization_integers.lenet5.correction` the error of LeNet-5 from
# {mean}`quantization_integers.lenet5_channel2.error_pct 0` to
# {mean}`quantization_integers.lenet5.corrected_error_pct 0`.
# When the rounding is this coarse, not only the mean has changed, so check the error before you keep a correction.
#
# **An activation range that one channel sets.** Activations have one step per layer, so they do not benefit if the
# weights have one step per channel.
# If the activations have eight bits, too, the stretched networks misclassify
# {mean}`quantization_integers.stretched.activations_error_pct`; with float activations they misclassify
# {mean}`quantization_integers.stretched.channel_error_pct`.
#
# **Two bits, and the simulation is no longer exact.** Training does not round the biases, and it rounds each sum once,
# but the integer network rounds twice.
# With two bits the sums are so small that this matters.
# The integer LeNet-300-100, trained with two bits, gives the same answer as its simulation on
# {mean}`quantization_integers.two_bits.agreement_pct` of the images.
# If the biases are rounded in both and each sum is rounded once, they agree on
# {mean}`quantization_integers.two_bits.once_agreement_pct`.
#
# **Sums in 16 bits.** Processors without 8-bit dot products first add two products in 16 bits, and then go on in 32.
# Two products of the largest uint8 and the largest int8 do not fit into 16 bits.
# They fit if the activations have only seven bits, at the price of one bit of precision.
# In the first layer, {mean}`quantization_integers.eight_bits.saturated_pct 0` of the outputs contain a pair that
# overflows with eight bits, and {mean}`quantization_integers.seven_bits.saturated_pct 0` with seven.

# %% tags=["remove-cell"]
record("stretched.activations_error_pct", errors([simulated(net) for net in wide]))
net = copy.deepcopy(curves["lenet300", "qat", 2][1])
record("two_bits.agreement_pct", agreement((net, integer_network.convert(net))))
once = integer_network.convert(integer_network.round_biases(net), rounding="once")
record("two_bits.once_agreement_pct", agreement((net, once)))
assert 2 * 127 * 127 <= 2**15 - 1 < 2 * 255 * 127
for key, q in (("eight", pixels - layer.low), ("seven", (pixels - layer.low) // 2)):
    products = (q[:, None] * layer.q2).reshape(len(q), len(layer.q2), -1, 2).sum(-1)
    lost = (products != products.clamp(-(2**15), 2**15 - 1)).any(-1)
    record(f"{key}_bits.saturated_pct", 100 * lost.float().mean().item())

# %% [markdown]
# ## Exercises
#
# 1. How many products of 8-bit integers can a 32-bit sum hold before it may overflow? Is that enough for MobileNetV2?

# %% tags=["hide-cell"]
most = (2**31 - 1) // (255 * 127)  # the largest distances from Z and from zero
longest = max(layer.weight[0].numel() for _, layer in layers(racers["mobilenet"][0]))
assert most > longest
evidence.answer(
    f"A 32-bit sum holds {most:,} products; the longest sum of MobileNetV2 has {longest:,}."
)

# %% [markdown]
# 2. *Dynamic* quantization takes the range of every activation from the images that the network is just answering.
#    Which settings of `affine.Activation` do this, and what is the error?

# %% tags=["hide-cell"]
dynamic = copy.deepcopy(ready["lenet300"][0])
for activation in affine.activations(dynamic):
    activation.observing = True  # follow the images, also after the calibration
    activation.decay = 0.0  # a moving average that forgets everything
evidence.answer(
    f"`observing = True` and `decay = 0`: the error is {errors([dynamic])[0]:.2f} %, "
    f"and {errors(ready['lenet300'][:1])[0]:.2f} % with calibrated ranges."
)

# %% [markdown]
# 3. Quantize ResNet-18, an image classifier from torchvision, to eight bits and compare its outputs with those of the
#    float network. How large is the difference, relative to the outputs?

# %% tags=["hide-cell"]
resnet, low, (_, images) = racers["resnet18"]
with torch.no_grad():
    exact, rounded = resnet(images[:4]), precisions.integers(low)(images[:4])
difference = (rounded - exact).norm() / exact.norm()
assert difference < 0.2
evidence.answer(
    f"The outputs differ by {100 * difference:.1f} % of their norm, on the images of the calibration."
)

# %% [markdown]
# ## In short
#
# - Eight bits need no training: calibrate the ranges on some images, and give each output channel its own step.
# - With two bits, train with the rounding in place.
# - The file always shrinks; the time shrinks only with int8 kernels and enough work, so measure it.
#
# ## Sources of this chapter
#
# - {cite:t}`jacob2018quantization` describe the scheme, the integer network and the training;
#   {cite:t}`krishnamoorthi2018whitepaper` has the steps per channel.
# - {cite:t}`lecun1998gradient` and {cite:t}`sandler2018mobilenet` are the networks; {cite:t}`berthelier2020survey` is
#   the survey.
