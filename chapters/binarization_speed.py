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
# # What 58 times faster means
#
# A product of signs needs no multiplication, and a processor works on 64 signs in one word.
# On one core of this machine a square product of {glue:text}`binarization.kernel.gemm1024_side` is {glue:text}`binarization.kernel.gemm1024_ratio` as fast on bits as torch's on floats, a linear layer with one input {glue:text}`binarization.kernel.linear_batch1_ratio`, and a whole convolution {glue:text}`binarization.kernel.conv_ratio`.
# Against floats one at a time the same convolution is {glue:text}`binarization.kernel.scalar_conv_ratio` as fast, and against the most that this core's float units can do, {glue:text}`binarization.kernel.float_peak_ratio`.
# A whole LeNet-5 of signs gives the float graph's answers, bit for bit, {glue:text}`binarization_speed.lenet5.many_speedup_latency_ratio` as fast as LeNet-5 in floats, from a file {glue:text}`binarization_speed.lenet5.file_ratio` smaller.
# The survey's "58 times on GPU" {cite:p}`berthelier2020survey`: {verdict}`C2.6-23`.
#
# ## What the survey says, and what came out
#
# ```{claims} binarization_speed
# ```
#
# ## What this page needs
#
# It measures time, so nothing else runs beside it, on one thread.
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

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, xnor_net
from lib.binarization.shared import inference, kernels, speed, vector
from lib.cache import cached
from lib.pruning import sparse_speed

torch.set_grad_enabled(False)
dataset = datasets.load(data)
evidence.uses(dataset)


def record(key, values, unit="x", digits=1, exact=False):
    return evidence.record(f"binarization.{key}", values, unit=unit, digits=digits, exact=exact)


def record_speed(key, values, unit="x", digits=1, exact=False):
    return evidence.record(
        f"binarization_speed.{key}", values, unit=unit, digits=digits, exact=exact
    )


def timed(calls):  # milliseconds: medians, the calls taking turns
    return speed.timed(calls, runs=runs, least_ms=least_ms)


# %% [markdown]
# (sec-kernels)=
# ## Counting instead of multiplying
#
# **The idea.** Write +1 as the bit 1 and −1 as the bit 0.
# Two signs have the product −1 just where their bits differ, so a row of products is added up by counting the bits that differ {cite:p}`rastegari2016xnor`.
#
# **The formula.** For two rows of $K$ signs
#
# $$ a \cdot b = K - 2\, \mathrm{popcount}(a \oplus b) . $$ (eq-popcount)
#
# A last word that is not full holds zeros in both rows, which do not differ.
#
# **The code.** Python has no word for a vector of 512 bits, so the inner loop is written in the language of the compiler below numba: for each word it loads, differs, counts and adds.

# %% tags=["remove-input"]
figures.show_source(vector.count_differences, kernels.product)

# %% [markdown]
# **An exact check.** Rows of any length, one row, no row at all: each product is the one that floats give.

# %%
draw = torch.Generator().manual_seed(0)
for rows, filters, length in ((5, 3, 1), (1, 7, 63), (9, 17, 65), (0, 4, 9), (130, 33, 1000)):
    a, b = (torch.randn(n, length, generator=draw).sign() for n in (rows, filters))
    assert torch.equal(kernels.product(kernels.pack(a), kernels.pack(b)), (a @ b.T).int())

# %% [markdown]
# **Borders.** A convolution sees zeros behind the border of an image, and zero is no sign.
# There the packed bits say −1; what that adds is known from the weights alone, and is taken off again.

# %%
layer = nn.Conv2d(20, 50, 5, stride=2, padding=2, bias=False)
layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw).sign())
x = torch.randn(3, 20, 13, 9, generator=draw)
options = {"stride": (2, 2), "border": (2, 2, 2, 2)}
counted = kernels.convolution(x, kernels.arrange(layer.weight), torch.zeros(20), **options)
assert torch.equal(counted, layer(x.sign()))

# %% [markdown]
# (sec-roofline)=
# ## The roof above it
#
# How fast can one core be at all?
# Loops that touch no memory tell: one multiplies and adds floats, one differs, counts and adds words.
# A third reads floats from memory.

# %%
roof = speed.peaks(runs=runs)
record("kernel.peak_bits", roof.bits, "billion operations/s", 0)
record("kernel.peak_floats", roof.floats, "billion operations/s", 0)
record_speed("memory.bandwidth", roof.memory, "GB/s", 0)
record("kernel.roof_ratio", roof.bits / roof.floats)
work = {  # operations of one call, and the numbers it must read and write
    "product": (2 * gemm_side**3, 2 * gemm_side**2, gemm_side**2),
    "small product": (2 * 256 * 256 * 2304, 512 * 2304, 256 * 256),
    "linear, one input": (2 * linear_side**2, linear_side**2, 2 * linear_side),
    "convolution": (2 * 9 * channels**2 * side**2, 9 * channels**2, 2 * channels * side**2),
}
calls = {
    "product": speed.matrices(gemm_side, gemm_side, gemm_side),
    "small product": speed.matrices(256, 256, 2304),
    "linear, one input": speed.linear(1, linear_side, linear_side),
    "convolution": speed.convolution(channels, side),
}
times = {name: timed(ways) for name, ways in calls.items()}

# %% tags=["hide-input"]
ratio = {name: {way: ms["float"] / t for way, t in ms.items()} for name, ms in times.items()}
record("kernel.gemm1024_side", gemm_side, "rows and columns", 0)
record("kernel.gemm1024_ratio", ratio["product"]["packed"])
record("kernel.gemm1024_with_packing_ratio", ratio["product"]["bits"])
record("kernel.gemm256_ratio", ratio["small product"]["packed"])
record("kernel.linear_batch1_ratio", ratio["linear, one input"]["bits"])
record("kernel.conv_ratio", ratio["convolution"]["bits"])
record("kernel.conv_with_k_ratio", ratio["convolution"]["bits and K"])
reached = {
    name: work[name][0] / min(ms.get("packed", 9e9), ms["bits"]) / 1e6 for name, ms in times.items()
}
record("kernel.peak_pct", 100 * reached["product"] / roof.bits, "%", 0)
floats = {name: work[name][0] / ms["float"] / 1e6 for name, ms in times.items()}
record("kernel.float_peak_pct", 100 * floats["product"] / roof.floats, "%", 0)
record("kernel.float_peak_ratio", reached["convolution"] / roof.floats)
rows = []
for name, ms in times.items():
    row = {"operation": name, "float (ms)": f"{ms['float']:.3g}"}
    row |= {"bits (ms)": f"{ms['bits']:.3g}", "ratio": f"{ratio[name]['bits']:.1f}×"}
    row["bits, billion/s"] = f"{reached[name]:,.0f}"
    rows.append(row | {"of peak": f"{reached[name] / roof.bits:.0%}"})
figures.table(
    rows, caption="One thread, medians; rate of bits without packing where that was timed apart"
)

# %% tags=["remove-input"]
figure, ax = figures.axes()
intensity = np.geomspace(0.2, 30_000, 200)
for peak, look, text in (
    (roof.floats, figures.DENSE, "floats"),
    (roof.bits, figures.PRUNING, "bits"),
):
    line = {"color": look["color"], "linewidth": 1.8}
    ax.plot(intensity, np.minimum(peak, roof.memory * intensity), **line, label=f"roof of {text}")
words = {"linear, one input": "linear"}
places = {  # of the words: beside the floats, beside the bits
    "product": ((8, -4), (-52, -6)),
    "small product": ((-50, -16), (-20, 8)),
    "linear, one input": ((8, -4), (8, -4)),
    "convolution": ((-60, 6), (8, -10)),
}
for name, (operations, inputs, outputs) in work.items():
    sides = ((floats, 4, figures.DENSE), (reached, 1 / 8, figures.PRUNING))
    for place, (rate, size, look) in zip(places[name], sides, strict=True):
        at = operations / (size * inputs + 4 * outputs)
        dot = {"color": look["color"], "marker": look["marker"]}
        ax.plot(at, rate[name], markersize=7, linestyle="none", **dot)
        options = {"textcoords": "offset points", "fontsize": 9}
        ax.annotate(words.get(name, name), (at, rate[name]), place, **options)
figures.logarithmic(ax, "x", "y")
ax.set_xticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
ax.set_yticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
ax.set(xlabel="operations for each byte that must move", ylabel="billion operations a second")
ax.set(ylim=(2, 12_000), xlim=(0.2, 30_000))
figures.legend(ax)
figures.show(
    figure,
    name="fig-roofline",
    caption="What four operations reach (points), and what memory (slopes) and the core (flats) allow. A point above the slope reads from a cache.",
    alt=f"Two roofs: floats end at {roof.floats:,.0f}, bits at {roof.bits:,.0f} billion operations a second. Points, floats and bits: "
    + "; ".join(f"{name} {floats[name]:,.0f} and {reached[name]:,.0f}" for name in work),
)

# %% [markdown]
# **What to see.** The two flats lie {glue:text}`binarization.kernel.roof_ratio` apart, and no layer that is limited by arithmetic can gain more, if both sides reach their roof.
# The bits reach {glue:text}`binarization.kernel.peak_pct` of theirs in the square product; torch's floats reach {glue:text}`binarization.kernel.float_peak_pct` of theirs.
# A ratio above the distance of the roofs is thus in part a statement about the rival.
# With one input a linear layer reads each weight once: it is limited by memory, its bits are a thirty-second of the bytes, and they fit into a cache where the floats do not.
#
# ## Which rival?
#
# **The count of the source.** The authors charge one step for a float and one for 64 signs, and leave out what it costs to read memory {cite:p}`rastegari2016xnor`:

# %% tags=["remove-input"]
figures.show_source(xnor_net.speedup)

# %% tags=["hide-input"]
record("xnor.counted_ratio", xnor_net.speedup(256, 9), digits=2, exact=True)
record("xnor.counted_few_ratio", xnor_net.speedup(3, 1), digits=2, exact=True)
record("kernel.counted_here_ratio", xnor_net.speedup(256, 9, bits=roof.bits / roof.floats))
weight = np.ascontiguousarray(speed.random_normal(channels, 3, 3, channels).numpy())
image = np.zeros((side + 2, side + 2, channels), np.float32)
image[1:-1, 1:-1] = speed.random_normal(side, side, channels).numpy()
out = np.empty((side, side, channels), np.float32)
scalar = timed({"scalar": lambda: speed.scalar_convolution(image, weight, out)})["scalar"]
record("kernel.scalar_conv_ratio", scalar / times["convolution"]["bits"], digits=0)
batch = {
    "linear": speed.linear(many, linear_side, linear_side),
    "convolution": speed.convolution(channels, side, batch=many),
}
for name, ways in batch.items():
    ms = times[name, many] = timed(ways)
    record(f"kernel.{name}_many_ratio", ms["float"] / ms["bits"])

# %% [markdown]
# **Whole networks.** LeNet-5 in XNOR-Net's way, trained for a moment: its first and last layer stay real.
# One call converts it.

# %%
with torch.enable_grad():
    net = xnor_net.binarize(models.lenet5(0), maps={"fc1": 50})
    options = {
        "epochs": epochs,
        "seed": 0,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }
    options |= {"split": dataset.train.first(train_images), "loss": "cross_entropy"}
    net = cached(binaryconnect.fit, net, **options)
bits = inference.convert(net)
images = dataset.test.images.split(250)
different = sum((net(part) != bits(part)).sum().item() for part in images)
record_speed("lenet5.different_answers", different, "", 0, exact=True)
record_speed("lenet5.error_pct", training.error_pct(bits, dataset.test), "%", 2)
size = len(storage.dumps(net))
record_speed("lenet5.file_bytes", size, "bytes", 0)
record_speed("lenet5.file_ratio", measure.dense_bytes(models.lenet5()) / size)

# %% tags=["hide-input"]
vgg, sign_vgg = (
    models.vgg_small(width=width).to(memory_format=torch.channels_last).eval() for _ in range(2)
)
bit_vgg = inference.convert(xnor_net.binarize(sign_vgg))
pictures = torch.rand(many, 3, 32, 32, generator=draw).contiguous(memory_format=torch.channels_last)
pairs = {
    "lenet5": (models.lenet5(0).eval(), bits, dataset.test.images[:many]),
    "vgg": (vgg, bit_vgg, pictures),
}
speedups = {}
for name, (dense, low, x) in pairs.items():
    for count, part in (("one", x[:1]), ("many", x)):
        ms = timed({"float": lambda f=dense, x=part: f(x), "bits": lambda f=low, x=part: f(x)})
        speedups[name, count] = ms["float"] / ms["bits"]
        record_speed(f"{name}.{count}_speedup_latency_ratio", speedups[name, count])
part = sum(
    v
    for k, v in measure.multiply_adds_by_layer(vgg, (3, 32, 32)).items()
    if k not in ("conv1", "fc")
)
record_speed(
    "vgg.binary_work_pct",
    100 * part / measure.multiply_adds(vgg, (3, 32, 32)),
    "%",
    exact=True,
)

# %% tags=["remove-input"]
bars = [
    ("convolution, floats one at a time", scalar / times["convolution"]["bits"]),
    ("linear layer, one input", ratio["linear, one input"]["bits"]),
    (
        f"linear layer, {many} inputs",
        times["linear", many]["float"] / times["linear", many]["bits"],
    ),
    ("square product, packed", ratio["product"]["packed"]),
    ("square product with packing", ratio["product"]["bits"]),
    ("convolution, one image", ratio["convolution"]["bits"]),
    (
        f"convolution, {many} images",
        times["convolution", many]["float"] / times["convolution", many]["bits"],
    ),
    ("convolution, K too", ratio["convolution"]["bits and K"]),
    ("convolution, peak of floats", reached["convolution"] / roof.floats),
    ("VGG, one image", speedups["vgg", "one"]),
    (f"VGG, {many} images", speedups["vgg", "many"]),
    ("LeNet-5, one image", speedups["lenet5", "one"]),
    (f"LeNet-5, {many} images", speedups["lenet5", "many"]),
]
figure, ax = figures.axes()
figure.set_size_inches(6, 5)
look = {"color": figures.PRUNING["color"], "marker": "o", "linestyle": "none", "markersize": 8}
ax.plot([v for _, v in bars], range(len(bars)), **look, label="measured here")
ax.plot([58], [-1], **figures.REPORTED, label="reported, one convolution on a CPU")
ax.axvline(1, color="black", linewidth=1)
figures.logarithmic(ax, "x")
ax.set(
    yticks=range(-1, len(bars)),
    yticklabels=["XNOR-Net", *[name for name, _ in bars]],
    ylim=(len(bars) - 0.4, -1.6),
)
ax.set(xlabel="times as fast on bits")
ax.set_xticks([1, 2, 5, 10, 20, 50, 100, 500], ["1", "2", "5", "10", "20", "50", "100", "500"])
figures.legend(ax, 1)
figures.show(
    figure,
    name="fig-which-rival",
    caption="One kernel, many ratios. Rival: torch on one thread, unless the line says otherwise.",
    alt="Times as fast on bits: " + "; ".join(f"{name} {value:.1f}" for name, value in bars),
)

# %% [markdown]
# **What to see.** The count gives {glue:text}`binarization.xnor.counted_ratio` for 256 channels and {glue:text}`binarization.xnor.counted_few_ratio` for a color image with filters of one pixel; the authors measured 58, on a CPU, for one convolution.
# With the distance of the roofs in place of 64 the same count gives {glue:text}`binarization.kernel.counted_here_ratio`.
# Floats one at a time are the rival that nobody would use; against them the kernel is {glue:text}`binarization.kernel.scalar_conv_ratio` as fast.
# In the converted LeNet-5 {glue:text}`binarization_speed.lenet5.different_answers` of all its answers for the test set differ from the float graph's.
# Whole networks keep real first and last layers, pooling and batch norm: with one image VGG gains {glue:text}`binarization_speed.vgg.one_speedup_latency_ratio`, with many {glue:text}`binarization_speed.vgg.many_speedup_latency_ratio`, LeNet-5 {glue:text}`binarization_speed.lenet5.one_speedup_latency_ratio` and {glue:text}`binarization_speed.lenet5.many_speedup_latency_ratio`.
#
# ## Where the time goes
#
# The convolution of one image, step by step.

# %% tags=["hide-input"]
x = speed.random_normal(1, channels, side, side).contiguous(memory_format=torch.channels_last)
filters, zeros = (
    kernels.arrange(speed.signs_of(speed.random_normal(channels, channels, 3, 3))),
    torch.zeros(channels),
)
pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
packed = kernels.pack(pixels, zeros)
steps = {"pack the signs of the image": lambda: kernels.pack(pixels, zeros)}
gathered = kernels.Bits(np.zeros((side**2, filters.bits.words.shape[1]), np.uint64), 9 * channels)
steps["count"] = lambda: kernels.product(gathered, filters, dtype=torch.float32)
steps["all of it"] = calls["convolution"]["bits"]
ms = timed(steps)
ms["gather, border, scale, calls"] = 2 * ms["all of it"] - sum(ms.values())
total = ms.pop("all of it")
rows = [{"step": name, "share of the time": f"{100 * t / total:.0f} %"} for name, t in ms.items()]
figures.table(
    rows, caption="A 3 × 3 convolution on bits, one image, batch norm folded into thresholds"
)
record_speed("count.latency_pct", 100 * ms["count"] / total, "%", 0)
real = 100 / (9 * channels)  # one real product for each output, beside 9 · channels of signs
record("xnor.real_products_pct", real, "%", 3, exact=True)
shared = 9 / channels  # for K: nine products for each place, which all filters share
record("xnor.real_products_with_k_pct", (2 + shared) * real, "%", 3, exact=True)

# %% [markdown]
# **What to see.** Counting takes {glue:text}`binarization_speed.count.latency_pct` of the time, although real numbers are only {glue:text}`binarization.xnor.real_products_pct` of the products, and {glue:text}`binarization.xnor.real_products_with_k_pct` with K, which makes the convolution {glue:text}`binarization.kernel.conv_with_k_ratio` as fast as torch's in place of {glue:text}`binarization.kernel.conv_ratio`.
#
# ## Where it breaks
#
# **Signs times floats.** In a binary weight network only the weights are signs, and products become additions.
# A processor that multiplies and adds in one instruction does not care: torch takes {glue:text}`binarization.signs.latency_ratio` of the time with signs for weights.
#
# **Several bases.** A layer of ABC-Net with M bases for weights and M for activations is M² products of signs {cite:p}`lin2017abcnet`.
# With one, three and five bases the convolution is {glue:text}`binarization.abc1.speedup_latency_ratio`, {glue:text}`binarization.abc3.speedup_latency_ratio` and {glue:text}`binarization.abc5.speedup_latency_ratio` as fast as torch's in floats.
# By the roofs alone, five bases would be {glue:text}`binarization.abc5.roof_ratio` as fast as floats.
#
# **Few channels.** With {glue:text}`binarization_speed.few.channels` channels the convolution is {glue:text}`binarization.few.speedup_latency_ratio` as fast as torch's.
#
# **Sparse weights of the same size.** The survey names binarization as a way out where sparse models are slow.
# A sparse matrix of as many bytes as the linear layer's bits keeps {glue:text}`binarization_speed.sparse.kept_pct` of the weights, and takes {glue:text}`binarization.sparse.latency_ratio` the time of the bits.

# %% tags=["hide-input"]
a, b = speed.random_normal(many, linear_side), speed.random_normal(linear_side, linear_side)
signs = speed.signs_of(b)
ms = timed(
    {"float": lambda: nn.functional.linear(a, b), "signs": lambda: nn.functional.linear(a, signs)}
)
record("signs.latency_ratio", ms["signs"] / ms["float"], digits=2)
whole = a.mul(100).round().long()  # the same sums without any product, of whole numbers
added = [whole[:, row > 0].sum(1) - whole[:, row < 0].sum(1) for row in signs[:20]]
wrong = (torch.stack(added, 1) != whole @ signs[:20].long().T).sum().item()
record("signs.different_sums", wrong, "", 0, exact=True)
for count in bases:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    conv.weight.copy_(speed.random_normal(*conv.weight.shape))
    several = abc_net.binarize(
        nn.Sequential(conv), names=["0"], bases=count, activation_bases=count
    )
    several = inference.convert(several.eval())
    ms = timed({"float": calls["convolution"]["float"], "bases": lambda f=several: f(x)})
    record(f"abc{count}.speedup_latency_ratio", ms["float"] / ms["bases"])
record("abc5.roof_ratio", roof.bits / roof.floats / 25, digits=2)
few = 8
record_speed("few.channels", few, "", 0, exact=True)
ms = timed(speed.convolution(few, 2 * side))
record("few.speedup_latency_ratio", ms["float"] / ms["bits"], digits=2)

# %% tags=["hide-input"]
kept = (
    linear_side**2 // 64
)  # a value and a column, 4 bytes each, where a sign takes an eighth of one
weight = torch.zeros(linear_side**2)
weight[torch.randperm(linear_side**2, generator=draw)[:kept]] = 1.0
sparse = sparse_speed.csr(weight.reshape(linear_side, linear_side))
one = speed.random_normal(linear_side).numpy()
ms = timed({"bits": calls["linear, one input"]["bits"], "sparse": lambda: sparse @ one})
record_speed("sparse.kept_pct", 100 * kept / linear_side**2, "%", 2, exact=True)
record("sparse.latency_ratio", ms["sparse"] / ms["bits"], digits=1)
record_speed("sparse.bytes_ratio", 8 * kept / (linear_side**2 / 8), digits=2, exact=True)

# %% [markdown]
# ## Exercises
#
# 1. From how many channels on does the count of the source reach half of its limit, for filters of nine places?

# %% tags=["hide-cell"]
fewest = next(c for c in range(1, 100) if xnor_net.speedup(c, 9) >= 32)
assert 9 * fewest >= 64 > 9 * (fewest - 1)
print(f"{fewest} channels: from 64 products on")

# %% [markdown]
# 2. How many rows must a product have before packing them costs less than a tenth of it?

# %% tags=["hide-cell"]
for count in (64, 256, 1024):
    ms = timed(speed.matrices(256, count, 1024))
    print(f"{count:5} columns: packing takes {1 - ms['packed'] / ms['bits']:.0%} of the product")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`rastegari2016xnor` is XNOR-Net; its 58 is of section 4.1.
# - {cite:t}`lin2017abcnet` has several bases; {cite:t}`courbariaux2016binarynet` measured kernels on a GPU.
# - {cite:t}`berthelier2020survey` is the survey.
