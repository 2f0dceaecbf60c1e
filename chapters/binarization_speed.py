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
# (sec-binarization-speed)=
# # Speed of binary networks: what 58 times faster means
#
# How much faster is a network on one core if its weights and inputs are signs?
# A convolution that counts bits is
# {finding}`faster than torch's convolution of floats | binarization.kernel.conv_ratio > 1`, by
# {mean}`binarization.kernel.conv_ratio 1`, and all of LeNet-5, a small digit classifier, runs
# {mean}`binarization_speed.lenet5.many_speedup_latency_ratio 1` as fast.
# The fair rival today is int8, integers of eight bits: against torch's convolution of those, the factor is
# {mean}`binarization_speed.convolution.int8_ratio 1`.
# The "58 times" of the survey {cite:p}`berthelier2020survey` is one convolution, without the time to read memory.
# By the clock, we reach as much
# {glue:text}`binarization_speed.rival.outcome`.
#
# ```{claims} binarization_speed
# ```
#
# ```{cost} binarization_speed
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
train_images = 1_000  # training images of the LeNet-5 of signs
epochs = 6  # to train it
learning_rate = 0.01  # of that training
batch_size = 50  # of that training
gemm_side = 1024  # rows and columns of the square product
linear_side = 2048  # inputs and outputs of the linear layer
channels = 256  # and filters, of the convolution
side = 14  # pixels, of its image
many = 16  # inputs at once
width = 32  # filters in the first layers of the VGG whose time is measured
bases = [1, 3, 5]  # of weights and of activations, in a layer of several bases
runs = 20  # timings, of which the median counts
least_ms = 2.0  # milliseconds that one timing lasts at least; short calls are repeated

# %% tags=["hide-input"]
import numba
import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, xnor_net
from lib.binarization.shared import dots, inference, kernels, speed, vector
from lib.cache import cached
from lib.figures.looks import BLUE
from lib.pruning import sparse_speed
from lib.quantization import affine
from lib.quantization.shared import precisions, torch_kernels

torch.set_grad_enabled(False)
dataset = datasets.load(data)
record = evidence.recorder("binarization", dataset)
record_speed = evidence.recorder("binarization_speed")


def timed(calls):  # milliseconds: medians, the calls taking turns
    return speed.timed(calls, runs=runs, least_ms=least_ms)


kernels_of_8_bits = torch_kernels.kernels_available()


def to_int8(network, images):  # on torch's kernels, where they add exactly
    return precisions.integers(affine.calibrate(affine.simulate(network), images))


# %% [markdown]
# (sec-kernels)=
# ## Counting instead of multiplying
#
# **The idea.** Write each sign as one bit: one for plus, zero for minus.
# The product of two signs is −1 exactly where their bits differ, so a sum of products is found by counting the bits
# that differ {cite:p}`rastegari2016xnor`.
# A processor does this for 64 signs at once, in one word.
#
# **The formula.** For two rows of $K$ signs
#
# $$ a \cdot b = K - 2\, \mathrm{popcount}(a \oplus b) . $$ (eq-popcount)
#
# Here $\oplus$ marks the bits that differ, and {term}`popcount` counts them.
# If the last word is not full, both rows are filled with zeros, which do not differ.
#
# **The code.** numba, a compiler for Python, cannot express vectors of 512 bits, so the inner loop is written in LLVM's
# intermediate representation, the language into which numba compiles.
# `count_differences` does not count: it *writes the instructions* that load a word of each row, take the exclusive or, count its ones, and add the count.
# Its two central lines are shown; `product` calls the compiled loop for all rows and filters:

# %% tags=["remove-input"]
figures.show_source(vector.count_differences, kernels.product)

# %% [markdown]
# **An exact check.** For rows of any length, for a single row and for none, the product is the one that floats give.

# %%
draw = torch.Generator().manual_seed(0)
for rows, filters, length in (
    (5, 3, 1),
    (1, 7, 63),
    (9, 17, 65),
    (0, 4, 9),
    (130, 33, 1000),
):
    a, b = (torch.randn(n, length, generator=draw).sign() for n in (rows, filters))
    assert torch.equal(
        kernels.product(kernels.pack(a), kernels.pack(b)), (a @ b.T).int()
    )

# %% [markdown]
# **Borders.** At the border of an image a convolution reads zeros, and zero is not a sign.
# There the packed bits say −1.
# What this adds depends on the weights alone, so we subtract it again:

# %%
layer = nn.Conv2d(20, 50, 5, stride=2, padding=2, bias=False)
layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw).sign())
x = torch.randn(3, 20, 13, 9, generator=draw)
options = {"stride": (2, 2), "border": (2, 2, 2, 2)}
counted = kernels.convolution(
    x, kernels.arrange(layer.weight), torch.zeros(20), **options
)
assert torch.equal(counted, layer(x.sign()))

# %% [markdown]
# (sec-roofline)=
# ## The limits of one core
#
# How fast can one core be at all?
# Loops measure its limits: one multiplies and adds floats without touching memory, one compares, counts and adds
# words of bits, and one only reads floats from memory.
# Two more rivals have limits of their own: bfloat16, a float of 16 bits, and int8, an integer of eight bits.
# Theirs are measured by {glue:text}`binarization_speed.limits.measured`.
# Then we time four operations: a large and a small matrix product, a linear layer with one input, and a convolution.
# All times of this chapter are medians on one thread, and nothing else runs at the same time.

# %%
roof = speed.peaks(runs=runs)
large, small = (gemm_side,) * 3, (256, 256, 2304)
calls = {
    "product": speed.matrices(*large) | speed.low_products(*large),
    "small product": speed.matrices(*small) | speed.low_products(*small),
    "linear, one input": speed.linear(1, linear_side, linear_side, to_int8=to_int8),
    "convolution": speed.convolution(channels, side, to_int8=to_int8),
}
times = {name: timed(ways) for name, ways in calls.items()}

# %% tags=["hide-input"]
work = {  # operations of one call, and the numbers it must read and write
    "product": (2 * gemm_side**3, 2 * gemm_side**2, gemm_side**2),
    "small product": (2 * 256 * 256 * 2304, 512 * 2304, 256 * 256),
    "linear, one input": (2 * linear_side**2, linear_side**2, 2 * linear_side),
    "convolution": (
        2 * 9 * channels**2 * side**2,
        9 * channels**2,
        2 * channels * side**2,
    ),
}
ratio = {
    name: {way: ms["float"] / t for way, t in ms.items()} for name, ms in times.items()
}
reached = {
    name: work[name][0] / min(ms.get("packed", 9e9), ms["bits"]) / 1e6
    for name, ms in times.items()
}
floats, short, whole = (
    {name: work[name][0] / ms[way] / 1e6 for name, ms in times.items()}
    for way in ("float", "bfloat16", "int8")
)
rows = []
for name, ms in times.items():
    row = {"operation": name, "float (ms)": f"{ms['float']:.3g}"}
    row |= {"bits (ms)": f"{ms['bits']:.3g}", "faster": f"{ratio[name]['bits']:.1f}×"}
    row["bits (billion/s)"] = f"{reached[name]:,.0f}"
    rows.append(row | {"of the limit": f"{100 * reached[name] / roof.bits:.0f} %"})
figures.table(
    rows,
    caption="Floats and bits; the rates leave out packing where it was timed separately",
)

# %% tags=["remove-cell"]
record("kernel.peak_bits", roof.bits, "billion operations/s", timing=True)
record("kernel.peak_floats", roof.floats, "billion operations/s", timing=True)
record_speed("memory.bandwidth", roof.memory, "GB/s", timing=True)
record("kernel.roof_ratio", roof.bits / roof.floats, timing=True)
for name, peak in (("bfloat16", roof.bfloat16), ("int8", roof.int8)):
    record(f"kernel.peak_{name}", peak, "billion operations/s", timing=True)
    record_speed(f"limit.{name}_ratio", roof.bits / peak, timing=True)
by_product = " and ".join(roof.by_product)
evidence.phrase(
    "binarization_speed.limits.measured",
    f"torch's product of large matrices (for {by_product}), as no loop here does more"
    if by_product
    else "loops of dot products",
)
record("kernel.gemm1024_side", gemm_side, "rows and columns", exact=True)
record("kernel.gemm1024_ratio", ratio["product"]["packed"], timing=True)
record("kernel.gemm1024_with_packing_ratio", ratio["product"]["bits"], timing=True)
record("kernel.gemm256_ratio", ratio["small product"]["packed"], timing=True)
record("kernel.linear_batch1_ratio", ratio["linear, one input"]["bits"], timing=True)
record("kernel.conv_ratio", ratio["convolution"]["bits"], timing=True)
record("kernel.conv_with_k_ratio", ratio["convolution"]["bits and K"], timing=True)
record("kernel.peak_pct", 100 * reached["product"] / roof.bits, digits=0, timing=True)
record(
    "kernel.float_peak_pct",
    100 * floats["product"] / roof.floats,
    digits=0,
    timing=True,
)
record("kernel.float_peak_ratio", reached["convolution"] / roof.floats, timing=True)

# %% tags=["remove-input"]
figure, ax = figures.axes()
figure.set_size_inches(6, 4.4)
intensity = np.geomspace(0.2, 30_000, 200)
colors = {
    "bits": figures.look("xnor-net")["color"],
    "int8": figures.look("affine-int8")["color"],
    "bfloat16": BLUE,
    "floats": figures.DENSE["color"],
}
for name, color in colors.items():
    peak = getattr(roof, name)
    most = np.minimum(peak, roof.memory * intensity)
    ax.plot(intensity, most, color=color)
    ax.annotate(
        f"{name}: {peak:,.0f}",
        (0.98, peak),
        (0, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=color,
        fontsize=9,
    )
markers = dict(zip(work, "os^D", strict=True))
kinds = {
    "floats": (floats, 4, 4),
    "bfloat16": (short, 2, 2),
    "int8": (whole, 1, 4),
    "bits": (reached, 1 / 8, 4),
}
for name, (operations, inputs, outputs) in work.items():
    for kind, (rate, size, out_size) in kinds.items():
        at = operations / (size * inputs + out_size * outputs)
        dot = {"color": colors[kind], "marker": markers[name], "linestyle": "none"}
        ax.plot(at, rate[name], markersize=8, **dot)
    black = {"color": "black", "marker": markers[name], "linestyle": "none"}
    ax.plot([], [], **black, label=name)
figures.logarithmic(ax, "x", "y")
ax.set_xticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
ax.set_yticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
ax.set(
    xlabel="operations for each byte that must move",
    ylabel="billion operations per second",
    ylim=(2, 12_000),
    xlim=(0.2, 30_000),
)
figures.legend(ax, 2, narrow=True)
figures.show(
    figure,
    finding=f"One core does {roof.bits / roof.floats:.0f} times as many operations on bits as on floats, and {roof.bits / roof.int8:.1f} times as many as on int8",
    name="fig-roofline",
    caption="What four operations reach (points, in the color of their limit), and what memory (slopes) and the core (flat lines) allow. A point above the slope reads from a cache.",
    alt="The limits, in billion operations per second: "
    + ", ".join(f"{name} {getattr(roof, name):,.0f}" for name in colors)
    + ". Points, for floats, bfloat16, int8 and bits: "
    + "; ".join(
        f"{name} " + ", ".join(f"{rate[name]:,.0f}" for rate, *_ in kinds.values())
        for name in work
    )
    + ".",
)

# %% [markdown]
# **What to see.** The core can do {glue:text}`binarization.kernel.roof_ratio` as many operations per second on bits as
# on floats: this is the distance between the highest flat line and the lowest.
# Bits are {glue:text}`binarization_speed.limit.bfloat16_ratio` above bfloat16, and
# {glue:text}`binarization_speed.limit.int8_ratio` above int8.
# If both codes reach their limits, an operation that is bound by arithmetic cannot gain more.
# Any larger speed-up therefore also says that the float code was slow, or that it waited for memory.
# In the square product, bits reach {glue:text}`binarization.kernel.peak_pct` of their limit, and torch's floats
# {glue:text}`binarization.kernel.float_peak_pct` of theirs.
# A linear layer with one input does wait for memory, since it reads each weight only once.
# Its bits are a thirty-second of the bytes, and they fit into a cache where the floats do not.
#
# ## Which rival?
#
# **The count of the source.** The authors of XNOR-Net count one step for a product of floats and one for 64 products of
# signs, and leave out what it costs to read memory {cite:p}`rastegari2016xnor`:

# %% tags=["remove-input"]
figures.show_source(xnor_net.speedup)

# %% tags=["remove-cell"]
record("xnor.counted_ratio", xnor_net.speedup(256, 9), digits=2, exact=True)
record("xnor.counted_few_ratio", xnor_net.speedup(3, 1), digits=2, exact=True)
counted = xnor_net.speedup(256, 9, bits=roof.bits / roof.floats)
record("kernel.counted_here_ratio", counted, timing=True)

# %% [markdown]
# **Several rivals on the clock.** We also time the same convolution with floats multiplied one at a time, without
# vector instructions, and two of the layers with several inputs at once.

# %% tags=["hide-input"]
weight = np.ascontiguousarray(speed.random_normal(channels, 3, 3, channels).numpy())
image = np.zeros((side + 2, side + 2, channels), np.float32)
image[1:-1, 1:-1] = speed.random_normal(side, side, channels).numpy()
out = np.empty((side, side, channels), np.float32)
scalar = timed({"scalar": lambda: speed.scalar_convolution(image, weight, out)})
scalar_ratio = scalar["scalar"] / times["convolution"]["bits"]
batch = {
    "linear": speed.linear(many, linear_side, linear_side, to_int8=to_int8),
    "convolution": speed.convolution(channels, side, batch=many, to_int8=to_int8),
}
many_times = {name: timed(ways) for name, ways in batch.items()}
many_ratio = {name: ms["float"] / ms["bits"] for name, ms in many_times.items()}

# %% tags=["remove-cell"]
record("kernel.scalar_conv_ratio", scalar_ratio, digits=0, timing=True)
for name, value in many_ratio.items():
    record(f"kernel.{name}_many_ratio", value, timing=True)

# %% [markdown]
# **Whole networks.** We train LeNet-5, which has two convolutions and two linear layers, as an XNOR-Net.
# Weights and inputs of its inner layers are signs; the first and the last layer stay real.
# One call converts it to bits.
# The second network is a small VGG, a stack of convolutions for color images; its weights are random, since only its
# time matters.

# %%
options = {
    "split": dataset.train.first(train_images),
    "epochs": epochs,
    "seed": 0,
    "learning_rate": learning_rate,
    "batch_size": batch_size,
    "loss": "cross_entropy",
}
with torch.enable_grad():
    net = xnor_net.binarize(models.lenet5(0), maps={"fc1": 50})
    net = cached(binaryconnect.fit, net, **options)
bits = inference.convert(net)
images = dataset.test.images.split(250)
different = sum((net(part) != bits(part)).sum().item() for part in images)

# %% tags=["remove-cell"]
record_speed("lenet5.different_answers", different, exact=True)
record_speed("lenet5.error_pct", training.error_pct(bits, dataset.test))
size = len(storage.dumps(net))
record_speed("lenet5.file_bytes", size)
record_speed("lenet5.file_ratio", measure.dense_bytes(models.lenet5()) / size)

# %% tags=["hide-input"]
vgg, sign_vgg = (
    models.vgg_small(width=width).to(memory_format=torch.channels_last).eval()
    for _ in range(2)
)
bit_vgg = inference.convert(xnor_net.binarize(sign_vgg))
pictures = torch.rand(many, 3, 32, 32, generator=draw).contiguous(
    memory_format=torch.channels_last
)
pairs = {
    "lenet5": (models.lenet5(0).eval(), bits, dataset.test.images[:many]),
    "vgg": (vgg, bit_vgg, pictures),
}
whole_networks = {}
for name, (dense, low, x) in pairs.items():
    for count, part in (("one", x[:1]), ("many", x)):
        ways = {
            "float": lambda f=dense, x=part: f(x),
            "bits": lambda f=low, x=part: f(x),
        }
        ways |= speed.low_networks(dense, part, to_int8)
        whole_networks[name, count] = timed(ways)
speedups = {key: ms["float"] / ms["bits"] for key, ms in whole_networks.items()}

# %% tags=["remove-cell"]
for (name, count), value in speedups.items():
    record_speed(f"{name}.{count}_speedup_latency_ratio", value)
adds = measure.multiply_adds_by_layer(vgg, (3, 32, 32))
part = sum(n for layer, n in adds.items() if layer not in ("conv1", "fc"))
share = 100 * part / measure.multiply_adds(vgg, (3, 32, 32))
record_speed("vgg.binary_work_pct", share, digits=1, exact=True)

# %% tags=["remove-cell"]
against = {  # subject of the key, word before the rival's name -> label, times, and the bits that are compared
    ("product", ""): ("square product", times["product"], "packed"),
    ("linear", "one_"): ("linear layer, one input", times["linear, one input"], "bits"),
    ("linear", "many_"): (f"linear layer, {many} inputs", many_times["linear"], "bits"),
    ("convolution", ""): ("convolution, one image", times["convolution"], "bits"),
    ("convolution", "many_"): (
        f"convolution, {many} images",
        many_times["convolution"],
        "bits",
    ),
}
for (name, count), ms in whole_networks.items():
    title = {"vgg": "VGG", "lenet5": "LeNet-5"}[name]
    label = f"{title}, one image" if count == "one" else f"{title}, {many} images"
    against[name, f"{count}_"] = label, ms, "bits"
rivals = {  # label -> how many times as fast bits are, rival by rival
    label: {way: ms[way] / ms[bits] for way in ("float", "bfloat16", "int8")}
    for label, ms, bits in against.values()
}
for (name, word), (label, *_) in against.items():
    for way in ("bfloat16", "int8"):
        record_speed(f"{name}.{word}{way}_ratio", rivals[label][way], timing=True)
    fair = min(rivals[label].values())  # the fastest of the three
    record_speed(f"{name}.{word}fair_ratio", fair, timing=True)

# %% tags=["remove-input"]
bars = [
    ("convolution, floats one at a time", scalar_ratio),
    ("linear layer, one input", ratio["linear, one input"]["bits"]),
    (f"linear layer, {many} inputs", many_ratio["linear"]),
    ("square product", ratio["product"]["packed"]),
    ("square product with packing", ratio["product"]["bits"]),
    ("convolution, one image", ratio["convolution"]["bits"]),
    (f"convolution, {many} images", many_ratio["convolution"]),
    ("convolution, with K", ratio["convolution"]["bits and K"]),
    ("convolution, peak of floats", reached["convolution"] / roof.floats),
    ("VGG, one image", speedups["vgg", "one"]),
    (f"VGG, {many} images", speedups["vgg", "many"]),
    ("LeNet-5, one image", speedups["lenet5", "one"]),
    (f"LeNet-5, {many} images", speedups["lenet5", "many"]),
]
against_torch = [v for name, v in bars if "one at a time" not in name]
figure, ax = figures.axes()
figure.set_size_inches(6, 4.5)
look = figures.look("xnor-net") | {"linestyle": "none"}
ax.plot([v for _, v in bars], range(len(bars)), **look, label="float32")
places = [i for i, (name, _) in enumerate(bars) if name in rivals]
least = [rivals[bars[i][0]]["int8"] for i in places]
look = figures.look("affine-int8") | {"linestyle": "none"}
ax.plot(least, places, **look, label="int8")
ax.plot([58], [-1], **figures.look("reported"), label="reported")
for i, (_, value) in enumerate(bars):
    text = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    place = {"textcoords": "offset points", "fontsize": 9, "va": "center"}
    ax.annotate(text, (value, i), (8, 0), **place)
ax.axvline(1, color="black", linewidth=1)
figures.logarithmic(ax, "x")
ax.set(
    yticks=range(-1, len(bars)),
    yticklabels=["XNOR-Net", *[name for name, _ in bars]],
    ylim=(len(bars) - 0.4, -1.6),
    xlim=(min(0.7, 0.8 * min(against_torch + least)), 4 * max(scalar_ratio, 100)),
    xlabel="times as fast on bits as on the rival",
)
ticks = [1, 3, 10, 30, 100, 300]
ax.set_xticks(ticks, [str(tick) for tick in ticks])
ax.tick_params(axis="y", labelsize=10)
slow = max(against_torch) < 58
figures.legend(ax, 3, narrow=True)
figures.show(
    figure,
    lead=True,
    finding=f"Bits are {min(against_torch):.1f} to {max(against_torch):.0f} times as fast as good float code, and {min(least):.1f} to {max(least):.1f} times as fast as int8",
    name="fig-which-rival",
    caption="How many times as fast bits are as floats and as integers of eight bits. The rival is torch on one thread, unless the label says otherwise.",
    alt="Times as fast on bits, against floats: "
    + "; ".join(f"{name} {value:.1f}" for name, value in bars)
    + ". Against int8: "
    + "; ".join(f"{bars[i][0]} {rivals[bars[i][0]]['int8']:.1f}" for i in places)
    + ". XNOR-Net reports 58.",
)
evidence.phrase(
    "binarization_speed.rival.outcome",
    "only against floats that are multiplied one at a time"
    if slow
    else "even against torch",
)

# %% [markdown]
# **What to see.** The speed-up depends on the rival.
# Against floats multiplied one at a time, which no library does, the {term}`kernel` is
# {glue:text}`binarization.kernel.scalar_conv_ratio` as fast; against torch it is
# {glue:text}`binarization.kernel.conv_ratio` as fast.
# The source counts {glue:text}`binarization.xnor.counted_ratio` for 256 channels and
# {glue:text}`binarization.xnor.counted_few_ratio` for a color image with filters of one pixel.
# The authors measured 58, on a CPU, for one convolution {cite:p}`rastegari2016xnor`.
# With the ratio of this core's limits in place of 64, the same count gives
# {glue:text}`binarization.kernel.counted_here_ratio`.
#
# In a whole network, binary layers hand bits to each other.
# Pooling and {term}`batch norm` only decide which bit follows from which count, so one pass counts, compares with a
# threshold and packs; the first and the last layer stay real.
# A single layer is left in floats where counting would take longer, by a measurement on this machine.
# With one image, VGG is {glue:text}`binarization_speed.vgg.one_speedup_latency_ratio` as fast and LeNet-5
# {glue:text}`binarization_speed.lenet5.one_speedup_latency_ratio`.
# With {glue:text}`binarization_speed.many.images` images at once, the two factors are
# {glue:text}`binarization_speed.vgg.many_speedup_latency_ratio` and
# {glue:text}`binarization_speed.lenet5.many_speedup_latency_ratio`.
# The converted LeNet-5 is exact: {glue:text}`binarization_speed.lenet5.different_answers` of its outputs differ from
# those of the network in floats.
# Its file is {finding}`smaller | binarization_speed.lenet5.file_ratio > 16` by
# {glue:text}`binarization_speed.lenet5.file_ratio`.
#
# (sec-fair-rivals)=
# ## Fair rivals: bfloat16 and int8
#
# A network can leave float32 without being binarized.
# torch also multiplies bfloat16 and int8, and {glue:text}`binarization_speed.rival.short`.
# Their weights are converted beforehand, as those of the bits are.
# A network in int8 has its batch norm folded, and runs on {glue:text}`binarization_speed.rival.kernels`.

# %% tags=["remove-input"]
columns = {"float": "float32", "bfloat16": "bfloat16", "int8": "int8"}
figures.table(
    [
        {"bits against": label} | {columns[way]: f"{v:.1f}×" for way, v in row.items()}
        for label, row in rivals.items()
    ],
    caption="How many times as fast bits are; below 1 they are slower. In the product and in bfloat16 the numbers are ready; layers on bits and on int8 read and give float32",
)
slower = [
    way
    for way in ("bfloat16", "int8")
    if rivals["square product"][way] >= ratio["product"]["packed"]  # not chosen by test
]
evidence.phrase(
    "binarization_speed.rival.short",
    f"here {' and '.join(slower)} gain{'s' * (len(slower) == 1)} nothing, so float32 stays the rival"
    if slower
    else "both are faster in the square product",
)
evidence.phrase(
    "binarization_speed.rival.kernels",
    "torch's kernels"
    if kernels_of_8_bits
    else "integers of 32 bits, as no kernels of this torch add exactly on this processor",
)

# %% tags=["remove-cell"]
# By count, in one cycle: a whole vector of 512 bits, against Intel's matrix unit, which multiplies tiles of 16 x 64 and
# 64 x 16 integers of eight bits in 16 cycles.
counted_bits, matrix_unit = 2 * 512, 2 * 16 * 64 * 16 // 16
record_speed("cycle.bits", counted_bits, exact=True)
record_speed("cycle.matrix_unit", matrix_unit, exact=True)
record_speed("cycle.matrix_unit_ratio", matrix_unit / counted_bits, exact=True)
record_speed("cycle.instructions_ratio", 8 / 3, exact=True)
has_unit = bool(dots.features() & set(dots.MATRIX_UNITS))
evidence.phrase(
    "binarization_speed.core.kind",
    "unlike the one measured here" if has_unit else "like the one measured here",
)
evidence.phrase(
    "binarization_speed.core.unit",
    f"This processor has a matrix unit: its int8 product reaches {whole['product']:,.0f} and its bits {reached['product']:,.0f} billion operations per second"
    if has_unit
    else "We find none in this processor, so only the count can say",
)

# %% [markdown]
# **What to see.** In the square product, bits have {glue:text}`binarization_speed.product.bfloat16_ratio` the speed of
# bfloat16 and {glue:text}`binarization_speed.product.int8_ratio` that of int8.
# The whole VGG
# {finding}`gains less | binarization_speed.vgg.one_int8_ratio < binarization_speed.product.int8_ratio`:
# with one image it has {glue:text}`binarization_speed.vgg.one_int8_ratio` its speed in int8, and LeNet-5
# {glue:text}`binarization_speed.lenet5.one_int8_ratio`.
# These are our verdicts on the two numbers of the survey {cite:p}`berthelier2020survey`, by count and by the clock:
#
# | by | 58 times faster {cite:p}`berthelier2020survey` | 50 to 60 times, Table 1 {cite:p}`berthelier2020survey` |
# | --- | --- | --- |
# | count | {verdict}`C2.6-31` | {verdict}`T1-18` |
# | clock, float32 | {verdict}`C2.6-23` | {verdict}`T1-15` |
# | clock, fastest rival | {verdict}`C2.6-34` | {verdict}`T1-20` |
#
# **Binarize? On a phone, perhaps.** A phone's core usually has vectors and no matrix unit,
# {glue:text}`binarization_speed.core.kind`.
# Here, bits can do {glue:text}`binarization_speed.limit.int8_ratio` as many operations as int8.
# Counted in instructions it is {glue:text}`binarization_speed.cycle.instructions_ratio`, for vectors of any width.
# A vector holds eight times as many bits, but they need three instructions (exclusive or, count, add), and int8 one.
# Integers of eight bits rarely need training ({doc}`quantization_integers`); signs always do.
# So begin with int8, and binarize if it is still too slow or too large.
#
# **On a server, hardly for speed.** Many servers have matrix units.
# Intel's does {glue:text}`binarization_speed.cycle.matrix_unit` operations on int8 in a cycle
# {cite:p}`intel2023optimization`.
# A core that counted a full vector of 512 bits in each cycle would do {glue:text}`binarization_speed.cycle.bits`, and
# int8 would be {glue:text}`binarization_speed.cycle.matrix_unit_ratio` as fast.
# {glue:text}`binarization_speed.core.unit`.
# A library need not reach the limit of such a unit, so by the clock the two can be close.
# What bits still save there is memory.
#
# ## Where the time goes
#
# We time the convolution of one image step by step.

# %% tags=["hide-input"]
x = speed.random_normal(1, channels, side, side).contiguous(
    memory_format=torch.channels_last
)
filters = kernels.arrange(speed.signs_of(speed.random_normal(channels, channels, 3, 3)))
zeros = torch.zeros(channels)
pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
packed = kernels.pack(pixels, zeros)
steps = {"pack the signs of the image": lambda: kernels.pack(pixels, zeros)}
gathered = kernels.Bits(
    np.zeros((side**2, filters.bits.words.shape[1]), np.uint64), 9 * channels
)
steps["count"] = lambda: kernels.product(gathered, filters, dtype=torch.float32)
steps["all of it"] = calls["convolution"]["bits"]
ms = timed(steps)
ms["gather, border, scale, calls"] = 2 * ms["all of it"] - sum(ms.values())
total = ms.pop("all of it")
rows = [
    {"step": name, "share of the time": f"{100 * t / total:.0f} %"}
    for name, t in ms.items()
]
figures.table(
    rows,
    caption="A 3 × 3 convolution on bits, one image, batch norm folded into thresholds",
)

# %% tags=["remove-cell"]
record_speed("many.images", many, exact=True)
record_speed("count.latency_pct", 100 * ms["count"] / total, digits=0)
# one real product for each output, beside 9 * channels products of signs
real = 100 / (9 * channels)
record("xnor.real_products_pct", real, digits=3, exact=True)
shared = 9 / channels  # for K: nine products for each place, which all filters share
record("xnor.real_products_with_k_pct", (2 + shared) * real, digits=3, exact=True)

# %% [markdown]
# **What to see.** Counting takes {glue:text}`binarization_speed.count.latency_pct` of the time; the rest goes into
# packing, gathering and scaling, although only {glue:text}`binarization.xnor.real_products_pct` of the products are
# real.
# With K, XNOR-Net's scale of the inputs, {glue:text}`binarization.xnor.real_products_with_k_pct` of them are real.
# The speed-up over torch is then {glue:text}`binarization.kernel.conv_with_k_ratio`, and without K
# {glue:text}`binarization.kernel.conv_ratio`.
#
# ## Where it breaks
#
# **Signs times floats.** In a binary weight network only the weights are signs, so products become additions.
# A processor that multiplies and adds in one instruction need not gain from that.
# With signs for weights, torch, which still multiplies, takes {glue:text}`binarization.signs.latency_ratio` the time.
# A loop that only adds and subtracts takes {glue:text}`binarization.signs.additions_latency_ratio` the time of the same
# loop with products.
#
# **Several bases.** A layer of ABC-Net with M matrices of signs (bases) for its weights and M for its inputs takes M²
# products of signs {cite:p}`lin2017abcnet`.
#
# ```{predict} five-bases
# ```
#
# With one, three and five bases, the convolution has {glue:text}`binarization.abc1.speedup_latency_ratio`,
# {glue:text}`binarization.abc3.speedup_latency_ratio` and {glue:text}`binarization.abc5.speedup_latency_ratio` the
# speed of torch's convolution of floats:
# {finding}`with five it is slower | binarization.abc5.speedup_latency_ratio < 1`.
# By the limits of the core alone, five bases could reach {glue:text}`binarization.abc5.roof_ratio` the speed of floats.
#
# **Few channels.** With {glue:text}`binarization_speed.few.channels` channels, the convolution has
# {glue:text}`binarization.few.speedup_latency_ratio` the speed of torch's,
# {finding}`far less than with many | binarization.few.speedup_latency_ratio < binarization.kernel.conv_ratio`:
# packing and gathering cost about as much time as counting saves.
#
# **Sparse weights of the same size.** The survey suggests binarization where sparse models are slow.
# A sparse matrix with as many bytes as the linear layer's bits keeps only
# {glue:text}`binarization_speed.sparse.kept_pct` of the weights, and takes
# {glue:text}`binarization.sparse.latency_ratio` the time of the bits.

# %% tags=["hide-input"]
a = speed.random_normal(many, linear_side)
b = speed.random_normal(linear_side, linear_side)
signs = speed.signs_of(b)
sign_ms = timed(
    {
        "float": lambda: nn.functional.linear(a, b),
        "signs": lambda: nn.functional.linear(a, signs),
    }
)


@numba.njit(fastmath=True)
def multiplied(columns, weight, out):
    for j in range(len(weight)):
        out[j] = 0
        for k in range(len(columns)):
            for i in range(columns.shape[1]):
                out[j, i] += weight[j, k] * columns[k, i]


@numba.njit(fastmath=True)
def only_added(columns, places, positive, out):  # of each row, first those under +1
    for j in range(len(places)):
        out[j] = 0
        for n in range(positive[j]):
            for i in range(columns.shape[1]):
                out[j, i] += columns[places[j, n], i]
        for n in range(positive[j], places.shape[1]):
            for i in range(columns.shape[1]):
                out[j, i] -= columns[places[j, n], i]


rows = signs[:256].numpy()  # a part of the layer is enough for a ratio
columns = np.ascontiguousarray(a.mul(100).round().T.numpy())
places = np.argsort(-rows, axis=1, kind="stable").astype(np.int32)
positive = (rows > 0).sum(1)
outs = np.empty((2, len(rows), many), np.float32)
loops = {
    "products": lambda: multiplied(columns, rows, outs[0]),
    "additions": lambda: only_added(columns, places, positive, outs[1]),
}
loop_ms = timed(loops)
assert np.array_equal(outs[0], outs[1])
whole = a.mul(100).round().long()  # the same sums without any product, of whole numbers
added = [whole[:, row > 0].sum(1) - whole[:, row < 0].sum(1) for row in signs[:20]]
wrong = (torch.stack(added, 1) != whole @ signs[:20].long().T).sum().item()
base_ratio = {}
for count in bases:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    conv.weight.copy_(speed.random_normal(*conv.weight.shape))
    several = abc_net.binarize(
        nn.Sequential(conv), names=["0"], bases=count, activation_bases=count
    )
    several = inference.convert(several.eval())
    ms = timed(
        {"float": calls["convolution"]["float"], "bases": lambda f=several: f(x)}
    )
    base_ratio[count] = ms["float"] / ms["bases"]
few = 8
few_ms = timed(speed.convolution(few, 2 * side))
# a value and a column, 4 bytes each, where a sign takes an eighth of a byte
kept = linear_side**2 // 64
weight = torch.zeros(linear_side**2)
weight[torch.randperm(linear_side**2, generator=draw)[:kept]] = 1.0
sparse = sparse_speed.csr(weight.reshape(linear_side, linear_side))
one = speed.random_normal(linear_side).numpy()
sparse_ms = timed(
    {"bits": calls["linear, one input"]["bits"], "sparse": lambda: sparse @ one}
)

# %% tags=["remove-cell"]
record("signs.latency_ratio", sign_ms["signs"] / sign_ms["float"], digits=2)
record(
    "signs.additions_latency_ratio",
    loop_ms["additions"] / loop_ms["products"],
    digits=2,
)
record("signs.different_sums", wrong, exact=True)
for count, value in base_ratio.items():
    record(f"abc{count}.speedup_latency_ratio", value)
record("abc5.roof_ratio", roof.bits / roof.floats / 25, digits=2, timing=True)
record_speed("few.channels", few, exact=True)
record("few.speedup_latency_ratio", few_ms["float"] / few_ms["bits"], digits=2)
record_speed("sparse.kept_pct", 100 * kept / linear_side**2, exact=True)
record("sparse.latency_ratio", sparse_ms["sparse"] / sparse_ms["bits"])
size = 8 * kept / (linear_side**2 / 8)
record_speed("sparse.bytes_ratio", size, digits=2, exact=True)

# %% [markdown]
# ## Exercises
#
# 1. From how many channels on does the count of the source reach half of its limit of 64, for filters of nine places?

# %% tags=["hide-cell"]
fewest = next(c for c in range(1, 100) if xnor_net.speedup(c, 9) >= 32)
assert 9 * fewest >= 64 > 9 * (fewest - 1)
evidence.answer(
    f"From {fewest} channels on: then a filter has {9 * fewest} weights, and its signs fill a word of 64 bits for the first time."
)

# %% [markdown]
# 2. Inputs must be packed into bits before they can be counted. With how many filters does packing take less than a tenth of a matrix product?

# %% tags=["hide-cell"]
shares = {}
for count in (64, 256, 1024, 4096):
    ms = timed(speed.matrices(256, count, 1024))
    shares[count] = 1 - ms["packed"] / ms["bits"]
enough = [
    str(count) for count, share in shares.items() if share < 0.1
]  # not chosen by test
listed = ", ".join(
    f"{100 * share:.0f} % with {count:,}" for count, share in shares.items()
)
evidence.answer(
    f"Packing takes {listed} filters; below a tenth it is with {', '.join(enough) or 'more'}."
)

# %% [markdown]
# ## In short
#
# - A sum of products of signs is a count of bits that differ, exact to the last digit.
# - A speed-up says as much about the rival as about the method: ask how fast the float code was, and how fast it could
#   be.
# - The fair rival is int8, and matrix units make it faster still.
# - A network gains if its layers hand on bits, not floats; several bases can cost more time than floats.
#
# The [last chapter](binarization_comparison.py) on binary networks compares all methods.
#
# ## Sources of this chapter
#
# - {cite:t}`rastegari2016xnor` is XNOR-Net; its factor of 58 is in section 4.1.
# - {cite:t}`lin2017abcnet` has several bases; {cite:t}`courbariaux2016binarynet` measured kernels on a GPU.
# - {cite:t}`intel2023optimization` says what a matrix unit does in a cycle.
# - {cite:t}`berthelier2020survey` is the survey.
