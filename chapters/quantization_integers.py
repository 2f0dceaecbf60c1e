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
# # Quantization to integers
#
# Frameworks do not share values, as the [chapter on quantization](quantization.py) does: they put them on an even grid of small integers, and compute with the integers.
# With eight bits for weights and activations, and no training, LeNet-300-100 errs on {glue:text}`quantization_integers.lenet300_channel8.error_pct` of the test images (float: {glue:text}`quantization_integers.lenet300.baseline_error_pct`) and LeNet-5 on {glue:text}`quantization_integers.lenet5_channel8.error_pct` (float: {glue:text}`quantization_integers.lenet5.baseline_error_pct`), from files {glue:text}`quantization_integers.lenet300.file_ratio` and {glue:text}`quantization_integers.lenet5.file_ratio` smaller.
# On this machine one image takes {glue:text}`quantization_integers.lenet300.one_int8_latency_ratio` (LeNet-300-100), {glue:text}`quantization_integers.lenet5.one_int8_latency_ratio` (LeNet-5) and {glue:text}`quantization_integers.mobilenet.one_int8_latency_ratio` (MobileNetV2) of the float network's time, many images at once {glue:text}`quantization_integers.lenet300.many_int8_latency_ratio`, {glue:text}`quantization_integers.lenet5.many_int8_latency_ratio` and {glue:text}`quantization_integers.mobilenet.many_int8_latency_ratio`.
# With two bits and no training LeNet-300-100 errs on {glue:text}`quantization_integers.lenet300_channel2.error_pct`, and on {glue:text}`quantization_integers.lenet300_qat2.error_pct` if it is trained with the rounding in place.
#
# ## What the survey says, and what came out
#
# ```{claims} quantization_integers
# ```
#
# ## What this page needs
#
# ```{cost} quantization_integers
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
lenet5_epochs = 8  # to train the one LeNet-5
calibration = 200  # training images from which the ranges of activations are taken
bits = [8, 4, 3, 2]  # of weights, and of what flows between the layers
trained_bits = [8, 3, 2]  # those with which networks are trained, too
tune_images = {"lenet300": 2_000, "lenet5": 1_000}  # for that training, at most
tune_epochs = {"lenet300": 3, "lenet5": 1}  # of that training
tune_rate = 0.02  # learning rate of that training
factor = 50  # by which one unit of each layer is stretched
runs = 20  # timings, of which the median counts
many = 32  # images at once
mobilenet_sides = [64, 32]  # pixels, for MobileNetV2 with one image and with many

# %% tags=["hide-input"]
import copy
from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, running, storage, training
from lib.cache import cached
from lib.quantization import affine
from lib.quantization import quantization_aware_training as qat
from lib.quantization.shared import graph, integer_network, torch_kernels
from lib.vision import torchvision
from lib.weights import decompress, layers

dataset = datasets.load(data)
evidence.uses(dataset)
test, calibrating = dataset.test, dataset.train.images[:calibration]


def record(key, values, unit="x", digits=2):
    return evidence.record(f"quantization_integers.{key}", values, unit=unit, digits=digits)


def errors(nets):
    nets = [net.to(memory_format=running.layout(net, test.images)) for net in nets]
    return [training.error_pct(net, test, batch_size=200) for net in nets]


def smaller(net, coder="fixed"):
    return measure.dense_bytes(net) / len(storage.dumps(net, coder=coder))


# %% tags=["hide-input"]
def trained(build, rate, seed, epochs):
    options = {"split": dataset.train, "learning_rate": rate, "epochs": epochs, "seed": seed}
    return cached(training.fit, build(seed), **options)


def simulated(net, bits=8, per_channel=True, **options):
    net = affine.simulate(net, bits=bits, per_channel=per_channel)
    return affine.calibrate(net, calibrating, **options)


dense = {"lenet300": [trained(models.lenet_300_100, 0.1, seed, epochs) for seed in range(seeds)]}
dense["lenet5"] = [trained(models.lenet5, 0.05, 0, lenet5_epochs)]
baseline = {name: errors(nets) for name, nets in dense.items()}
for name, wrong in baseline.items():
    record(f"{name}.baseline_error_pct", wrong, "%")

# %% [markdown]
# (sec-affine)=
# ## An even grid
#
# **The idea.** A small integer $q$ stands for the real number $S(q - Z)$: a step $S$ and an integer $Z$ that stands for zero, which borders of images and ReLU need exactly {cite:p}`jacob2018quantization`.
#
# **The formula.** For values in $[a, b]$ and integers from $q_{min}$ to $q_{max}$
#
# $$ q = \mathrm{clip}\big(\mathrm{round}(r / S) + Z,\ q_{min},\ q_{max}\big), \quad S = \frac{b - a}{q_{max} - q_{min}}, \quad Z = \mathrm{round}\Big(q_{min} - \frac{a}{S}\Big). $$ (eq-affine)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(affine.Grid, affine.grid)

# %% [markdown]
# **An exact check.** No value of the range moves by more than half a step, zero does not move at all, and each of the 256 integers comes back.

# %%
grid, values = affine.grid(-0.7, 2.1, bits=8), torch.linspace(-0.7, 2.1, 10_001)
moved = (grid.dequantize(grid.quantize(values)) - values).abs().max()
assert moved <= 0.5001 * grid.scale
assert grid.dequantize(grid.quantize(torch.zeros(1))).item() == 0
integers = torch.arange(grid.low, grid.high + 1)
assert torch.equal(grid.quantize(grid.dequantize(integers)), integers)

# %% [markdown]
# ### One grid for a layer, or one for each channel
#
# A layer can have one step for all of its weights, or one for each output channel, at the price of one float a channel {cite:p}`krishnamoorthi2018whitepaper`.
# To see what that buys, the unit with the largest weight of every hidden layer is stretched: its weights and bias times {glue:text}`quantization_integers.stretch.factor`, and what reads it divided by the same.
# The function of the network stays what it was, and nothing here is random.


# %%
def stretched(model, by):
    model = copy.deepcopy(model)
    for (_, first), (_, second) in pairwise(list(layers(model))):
        unit = first.weight.abs().flatten(1).amax(1).argmax()
        first.weight.data[unit] *= by
        first.bias.data[unit] *= by
        second.weight.data.reshape(len(second.weight), len(first.weight), -1)[:, unit] /= by
    return model


record("stretch.factor", factor, "", 0)
wide = [stretched(net, factor) for net in dense["lenet300"]]

# %%
rows = []
for key, text in (("tensor", "one for a layer"), ("channel", "one for each channel")):
    row = {"steps of the weights": text}
    for what, nets in (("as_trained", dense["lenet300"]), ("stretched", wide)):
        nets = [affine.quantize(copy.deepcopy(n), per_channel=key == "channel") for n in nets]
        row[what.replace("_", " ")] = record(f"{what}.{key}_error_pct", errors(nets), "%")
    rows.append(row)
figures.table(rows, caption="Test error with weights of eight bits and float activations")

# %% [markdown]
# **An exact check.** The stretched network answers as before; with a step for each channel all other units of the first layer keep their values, and one step for all grows as the stretched unit does.

# %%
answers = [net(calibrating[:50]) for net in (wide[0], dense["lenet300"][0])]
assert torch.allclose(*answers, rtol=1e-3, atol=1e-3)
own, one = affine.AffineWeight(8, axis=0), affine.AffineWeight(8, axis=None)
was, now = (net.fc1.weight.detach() for net in (dense["lenet300"][0], wide[0]))
assert (own(now) == own(was)).all(1).sum() >= len(was) - 1
assert torch.allclose(one.grid(now).scale, factor * one.grid(was).scale)

# %% [markdown]
# **What to see.** One step for a layer must reach to the stretched unit, and leaves few integers to all others.
# With one step the error goes from {glue:text}`quantization_integers.as_trained.tensor_error_pct` to {glue:text}`quantization_integers.stretched.tensor_error_pct`, with one for each channel from {glue:text}`quantization_integers.as_trained.channel_error_pct` to {glue:text}`quantization_integers.stretched.channel_error_pct`.
#
# ### Where do activations end?
#
# The range of an activation is *calibrated*: some training images go through, and the extremes, a moving average over batches of them, or a percentile is taken; below, it is the extremes.

# %%
ways = {"extremes": {}, "moving average": {"decay": 0.9}, "all but 0.1 %": {"percentile": 99.9}}
rows = []
for text, options in ways.items():
    row = {"range": text}
    for b in (8, 4):
        wrong = errors([simulated(net, b, **options) for net in dense["lenet300"]])
        row[f"error, {b} bits"] = evidence.formatted(wrong, unit="%", digits=2)
    rows.append(row)
figures.table(rows, caption=f"Three ways to calibrate LeNet-300-100, {calibration} images")

# %% [markdown]
# (sec-integer-network)=
# ## A network of integers
#
# **The idea.** The product of two numbers on grids is, but for one real factor, a product of integers.
# So a layer multiplies 8-bit integers, adds in 32 bits, and brings the sum to the grid of its output by one multiplication, which is again one of integers.
#
# **The formula.** With 1 for the input, 2 for the weights, 3 for the output and $N$ products in a sum
#
# $$ q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0, \quad q_b = \mathrm{round}\Big(\frac{b}{S_1 S_2}\Big), $$ (eq-integer-product)
#
# and $M_0 \in [\tfrac12, 1)$ is held as the 32-bit integer nearest to $2^{31} M_0$ {cite:p}`jacob2018quantization`.
# Batch norm is folded into the layer before it, ReLU is a clip at $Z_3$, and the maximum of integers needs nothing new.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(integer_network.accumulate, integer_network.rescale)

# %% [markdown]
# **An exact check.** One unit of the first layer, computed with Python's integers and fractions.

# %%
ready = {name: [simulated(net) for net in nets] for name, nets in dense.items()}
whole = {name: [integer_network.convert(net) for net in nets] for name, nets in ready.items()}
layer, unit = whole["lenet300"][0].get_submodule("fc1_integer"), 7
pixels = affine.activations(ready["lenet300"][0])[0].grid().quantize(test.images[:20]).flatten(1)
total = layer.bias[unit].item()
for q1, q2 in zip(pixels[0].tolist(), layer.q2[unit].tolist(), strict=True):
    total += (q1 - layer.z1) * q2
half, n = Fraction(1, 2), -layer.exponent[unit].item()
inner = floor(Fraction(total * layer.m0[unit].item(), 2**31) + half)
exact = floor(abs(Fraction(inner, 2**n)) + half) * (1 if inner >= 0 else -1) + layer.z3
computed = layer(pixels[:1].int())[0, unit].item()
assert computed == min(layer.high, max(layer.low, exact))

# %% [markdown]
# **An experiment.** Does the integer network answer as the float network that only *simulates* the rounding?
# And as a library's own kernels, which compute the same with uint8 and int8?

# %%
kernels = torch_kernels.kernels_available()
backend = torch_kernels.convert_to_kernels if kernels else integer_network.convert


def agreement(pair):  # percent of the images that get the same answer from both
    few = test.images[:2000].split(200)
    with torch.no_grad():
        one, other = (torch.cat([net(part).argmax(1) for part in few]) for net in pair)
    return 100 * (one == other).float().mean().item()


# %%
for name in dense:
    fast = [backend(net) for net in ready[name]]
    same = [agreement(pair) for pair in zip(ready[name], whole[name], strict=True)]
    record(f"{name}.agreement_pct", same, "%")
    same = [agreement(pair) for pair in zip(fast, whole[name], strict=True)]
    record(f"{name}.kernel_agreement_pct", same, "%")
    record(f"{name}.file_ratio", smaller(ready[name][0]))
    record(f"{name}.coded_file_ratio", smaller(ready[name][0], "best"))

# %% [markdown]
# **What to see.** The simulated and the integer LeNet-300-100 agree on {glue:text}`quantization_integers.lenet300.agreement_pct` of the images, LeNet-5's on {glue:text}`quantization_integers.lenet5.agreement_pct`; the integer network and the kernels on {glue:text}`quantization_integers.lenet300.kernel_agreement_pct` and {glue:text}`quantization_integers.lenet5.kernel_agreement_pct`.
# The file holds the integers, a step for each channel, ranges and float biases, and is {glue:text}`quantization_integers.lenet300.file_ratio` smaller than the floats; an entropy coder makes that {glue:text}`quantization_integers.lenet300.coded_file_ratio`.
#
# (sec-qat)=
# ## Train with the rounding in place
#
# **The idea.** Round in the forward pass as the integer network will, and let the gradient pass as if nothing had happened, so that the weights learn to live with it {cite:p}`jacob2018quantization`.
#
# **The formula.** With the range $[a, b]$ of a grid, nudged so that zero is on it,
#
# $$ \hat r = S\big(\mathrm{clip}(\mathrm{round}(r / S) + Z) - Z\big), \qquad \frac{\partial L}{\partial r} = \frac{\partial L}{\partial \hat r}\; \mathbb 1[a \le r \le b]. $$ (eq-straight-through)
#
# A weight's range is taken anew at every step, an activation's is a moving average, and its rounding starts in the last part of the training.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(affine.StraightThrough, qat.fit)

# %% [markdown]
# **An exact check.** The rounded values are those of the integers, bit for bit, and the gradient is one inside the range and zero outside.

# %%
grid, r = affine.grid(-1.0, 2.0, bits=3), torch.linspace(-2, 3, 1001, requires_grad=True)
grid.fake(r).sum().backward()
a, b = grid.bounds()
assert torch.equal(grid.fake(r), grid.dequantize(grid.quantize(r)))
assert torch.equal(r.grad, ((r >= a) & (r <= b)).float())

# %% [markdown]
# (sec-bits)=
# ## How few bits?
#
# All networks again, with fewer bits for the weights and for what flows between the layers.
# The image and the last layer's answers keep eight: with two bits ten classes could not be told apart.

# %%
curves = {}
for name, key in ((name, key) for name in dense for key in ("tensor", "channel", "qat")):
    part = dataset.train.first(tune_images[name])
    options = {"split": part, "epochs": tune_epochs[name], "learning_rate": tune_rate}
    for b in trained_bits if key == "qat" else bits:
        nets = [simulated(net, b, key != "tensor") for net in dense[name]]
        if key == "qat":
            nets = [cached(qat.fit, net, seed=i, **options) for i, net in enumerate(nets)]
        curves[name, key, b] = errors(nets), nets[0]
        record(f"{name}_{key}{b}.error_pct", curves[name, key, b][0], "%")

# %% tags=["remove-input"]
WAYS = {
    "tensor": ("one step a layer", figures.QUANTIZATION),
    "channel": ("one step a channel", figures.PRUNING),
    "qat": ("trained with rounding", figures.RETRAINED),
}
NAMES = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5", "mobilenet": "MobileNetV2"}
figure, panels = figures.axes(2, sharey=True)
for ax, name in zip(panels, dense, strict=True):
    for shift, (key, (text, look)) in enumerate(WAYS.items()):
        shown = sorted(b for n, k, b in curves if (n, k) == (name, key))
        points = [curves[name, key, b][0] for b in shown]
        figures.line(ax, [b + 0.08 * (shift - 1) for b in shown], points, look, text)
    ax.axhline(np.mean(baseline[name]), color="#6b6b6b", linestyle=":", label="float")
    ax.set(xlabel="bits", xticks=range(2, 9), title=NAMES[name])
    figures.logarithmic(ax, "y")
panels[0].set(ylabel="test error (%)", ylim=(min(map(min, baseline.values())) / 2, 130))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
few = {(n, k): np.mean(curves[n, k, min(bits)][0]) for n, k, _ in curves}
figures.show(
    figure,
    name="fig-bits",
    caption="Test error against the bits of weights and activations. LeNet-300-100: means over seeds with 95 % intervals; LeNet-5: one network.",
    alt=f"Two panels, three curves each, from {max(bits)} to {min(bits)} bits. With {min(bits)}: "
    + "; ".join(f"{NAMES[n]}, {WAYS[k][0]}, {e:.1f} %" for (n, k), e in few.items()),
)
rows = []
for (name, key, b), (wrong, net) in curves.items():
    if key == "qat" or b == 8:
        work = measure.multiply_adds(dense[name][0], test.images.shape[1:])
        row = {"network": NAMES[name], "way": WAYS[key][0], "multiply-adds": f"{work:,}, {b} bits"}
        row["times smaller (file)"] = record(f"{name}_{key}{b}.file_ratio", smaller(net))
        rows.append(row | {"test error": evidence.formatted(wrong, unit="%", digits=2)})
figures.table(rows, caption="Files of integers without entropy coding, and test error")

# %% [markdown]
# **What to see.** Compare each curve with the float line.
# LeNet-300-100 has {glue:text}`quantization_integers.lenet300_tensor8.error_pct`, {glue:text}`quantization_integers.lenet300_channel8.error_pct` and {glue:text}`quantization_integers.lenet300_qat8.error_pct` at eight bits, {glue:text}`quantization_integers.lenet300_tensor3.error_pct`, {glue:text}`quantization_integers.lenet300_channel3.error_pct` and {glue:text}`quantization_integers.lenet300_qat3.error_pct` at three, {glue:text}`quantization_integers.lenet300_tensor2.error_pct`, {glue:text}`quantization_integers.lenet300_channel2.error_pct` and {glue:text}`quantization_integers.lenet300_qat2.error_pct` at two, in the order of the legend.
#
# (sec-int8-speed)=
# ## Is it faster?
#
# The float network and the integers take turns, on one thread.

# %%
figures.table([torch_kernels.processor()], caption="What computes with the integers here")
last = {"memory_format": torch.channels_last}
mobilenet = graph.traced(torchvision.models.mobilenet_v2()).to(**last)
shapes = zip((1, many), mobilenet_sides, strict=True) if kernels else [(1, 32), (2, 32)]
wide_images = [torch.rand(n, 3, side, side).contiguous(**last) for n, side in shapes]
small = affine.calibrate(affine.simulate(mobilenet), wide_images[1][:4])
record("mobilenet.file_ratio", smaller(small))
batches = [test.images[:1], test.images[:many]]
racers = {name: (dense[name][0], ready[name][0], batches) for name in dense}
racers["mobilenet"] = (mobilenet, small, wide_images)

# %%
times = {}
for name, (net, low, images) in racers.items():
    forms = {"float": net, "int8": backend(low)}
    if name == "lenet300":
        forms |= {"int32": whole[name][0], "simulated": decompress(copy.deepcopy(low))}
    for count, x in zip(("one", "many"), images, strict=True):
        calls = {form: lambda f=f, x=x: f(x) for form, f in forms.items()}
        times[name, count] = measure.latency_ms(calls, runs=runs)

# %% tags=["remove-input"]
figure, ax = figures.axes()
columns, rows = ("network", "images", "float (ms)", "int8 (ms)", "int8 / float", "quartiles"), []
looks = {"one": ("one image", figures.PRUNING), "many": ("many images", figures.QUANTIZATION)}
for y, ((name, count), by_form) in enumerate(times.items()):
    (text, look), usual = looks[count], by_form.pop("float").median
    texts = {
        form: record(f"{name}.{count}_{form}_latency_ratio", time.median / usual)
        for form, time in by_form.items()
    }
    n, *_, side = racers[name][2][count == "many"].shape
    middle, low, high = (getattr(by_form["int8"], q) / usual for q in ("median", "lower", "upper"))
    row = NAMES[name], f"{n} of {side} × {side}", f"{usual:.3g}", f"{middle * usual:.3g}"
    row += str(texts["int8"]), f"{low:.2f} to {high:.2f}"
    rows.append(dict(zip(columns, row, strict=True)))
    bars, at = [[middle - low], [high - middle]], look | {"linestyle": "none"}
    ax.errorbar(middle, y, xerr=bars, capsize=3, label=None if y > 1 else text, **at)
figures.table(rows, caption="Median time on one thread, quartiles of int8 over the median of float")
ax.axvline(1, color="black", linewidth=1)
ax.set(yticks=[0.5, 2.5, 4.5], yticklabels=[NAMES[name] for name in racers], ylim=(5.5, -0.5))
ax.set(xlabel="time, int8 to float (ratio)", xlim=(0, 1.13 * ax.get_xlim()[1]))
figures.legend(ax)
figures.show(
    figure,
    name="fig-int8-speed",
    caption="Time of the int8 network relative to float; left of the line it is faster. Bars: quartiles.",
    alt=f"Ratios of time: {', '.join(f'{row[columns[0]]}, {row[columns[1]]}, {row[columns[4]]}' for row in rows)}",
)

# %% [markdown]
# **What to see.** Left of the line int8 is faster; the float networks have batch norm folded and channels last in memory, so that int8 wins nothing from either.
# A small network spends part of its time on calls and on rounding its input, whatever the bits.
# The same integers, multiplied as int32 by ordinary code, take {glue:text}`quantization_integers.lenet300.many_int32_latency_ratio` the float time for many images, and the network that only simulates the rounding {glue:text}`quantization_integers.lenet300.many_simulated_latency_ratio`.
# The survey's sentences on hardware: {verdict}`C2.5-20` and {verdict}`C2.5-23`.
#
# ## Where it breaks
#
# **A range that one channel owns.** Activations have one step for a whole layer, and the stretched networks need a large one.
# With activations of eight bits, too, and a step for each channel of the weights, they err on {glue:text}`quantization_integers.stretched.activations_error_pct`.
#
# **A mean that moves.** Rounded weights change the mean of what a layer answers.
# The calibration images show by how much, and the biases can take it off, from layer to layer and without training.
# At two bits LeNet-300-100 goes from {glue:text}`quantization_integers.lenet300_channel2.error_pct` to {glue:text}`quantization_integers.lenet300.corrected_error_pct` and LeNet-5 from {glue:text}`quantization_integers.lenet5_channel2.error_pct` to {glue:text}`quantization_integers.lenet5.corrected_error_pct`.
#
# **Small sums.** Training rounds neither the biases, nor twice as the integer network does, and with two bits its sums are small.
# LeNet-300-100, trained with two bits, answers as its simulation on {glue:text}`quantization_integers.two_bits.agreement_pct` of the images; with rounded biases in the simulation and one rounding in place of two, on {glue:text}`quantization_integers.two_bits.once_agreement_pct`.
#
# **Sixteen bits in between.** Processors without 8-bit dot products add two products in 16 bits before they add in 32.
# Two products of the largest uint8 and int8 do not fit there; with seven bits for activations they do, and one bit is given up.
# In the first layer {glue:text}`quantization_integers.eight_bits.saturated_pct` of the sums would lose something with eight bits, and {glue:text}`quantization_integers.seven_bits.saturated_pct` with seven.

# %% tags=["hide-input"]
record("stretched.activations_error_pct", errors([simulated(net) for net in wide]), "%")
for name, nets in dense.items():
    low = [(simulated(net, 2), net) for net in nets]
    fixed = [affine.correct_biases(*pair, calibrating) for pair in low]
    record(f"{name}.corrected_error_pct", errors(fixed), "%")
net = copy.deepcopy(curves["lenet300", "qat", 2][1])
record("two_bits.agreement_pct", agreement((net, integer_network.convert(net))), "%")
once = integer_network.convert(integer_network.round_biases(net), rounding="once")
record("two_bits.once_agreement_pct", agreement((net, once)), "%")
assert 2 * 127 * 127 <= 2**15 - 1 < 2 * 255 * 127
for key, q in (("eight", pixels - layer.low), ("seven", (pixels - layer.low) // 2)):
    products = (q[:, None] * layer.q2).reshape(len(q), len(layer.q2), -1, 2).sum(-1)
    lost = (products != products.clamp(-(2**15), 2**15 - 1)).any(-1)
    record(f"{key}_bits.saturated_pct", 100 * lost.float().mean().item(), "%")

# %% [markdown]
# ## Exercises
#
# 1. Take the range of every activation from the very images that flow (*dynamic* quantization). Which settings do it?

# %% tags=["hide-cell"]
for activation in affine.activations(net := copy.deepcopy(ready["lenet300"][0])):
    activation.observing, activation.decay = True, 0.0  # a moving average that forgets everything
print(f"test error {errors([net])[0]:.2f} %")

# %% [markdown]
# 2. How many products of 8-bit integers may a 32-bit sum hold before it can overflow?

# %% tags=["hide-cell"]
longest = (2**31 - 1) // (255 * 127)  # the largest distances from Z and from zero
assert longest > max(layer.weight[0].numel() for _, layer in layers(mobilenet))
print(f"{longest:,}, more than any layer here needs")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`jacob2018quantization` is the scheme, the integer network and the training; {cite:t}`krishnamoorthi2018whitepaper` has the steps for each channel.
# - {cite:t}`sandler2018mobilenet` is MobileNetV2; {cite:t}`berthelier2020survey` is the survey.
