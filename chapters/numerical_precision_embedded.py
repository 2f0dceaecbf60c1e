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
# (sec-numerical-precision-embedded)=
# # Limited precision on small machines
#
# Long before deep networks, the cost of a number decided what could be built.
# This chapter repeats two chapters of that history.
# In the first, a network with one hidden layer *learns* in few bits: its error is {glue:text}`numerical_precision_embedded.float32.error_pct` in floats of 32 bits and {glue:text}`numerical_precision_embedded.float24.error_pct` in floats of 24; in fixed point it is {glue:text}`numerical_precision_embedded.learning16.error_pct` with 16 bits and {glue:text}`numerical_precision_embedded.learning8.error_pct` with 8.
# A network that has learned in floats and only *answers* in 8 bits errs on {glue:text}`numerical_precision_embedded.inference8.error_pct`.
# In the second, a convolution network computes without any float, on integers: {glue:text}`numerical_precision_embedded.face_finder.error_pct` error in floats become {glue:text}`numerical_precision_embedded.int16.error_pct` in 16 bits and {glue:text}`numerical_precision_embedded.int8.error_pct` in 8, and one change to the algorithm saves {glue:text}`numerical_precision_embedded.fused.multiply_adds_ratio` of its multiply-adds.
# The survey's sentence that 8 to 16 bits suffice for learning {cite:p}`berthelier2020survey`: {verdict}`C2.5-07`.
#
# ## What the survey says, and what came out
#
# ```{claims} numerical_precision_embedded
# ```
#
# ## What this page needs
#
# There are no images of faces here: handwritten digits stand in for them.
# The page measures time, so nothing else runs beside it, on one thread.
#
# ```{cost} numerical_precision_embedded
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 2  # networks of each kind, trained from different starts
learning_images = 1000  # of the training split, for the network with one hidden layer
learning_epochs = 8  # over them
learning_rate = 2.0  # of back-propagation, chosen on validation images
batch_size = 8  # images a step, of back-propagation
hidden = 32  # units in its hidden layer
learning_bits = [8, 12, 16]  # of a word in fixed point, when learning
inference_bits = [4, 5, 6, 7, 8, 10, 12, 14, 16]  # of a word, when answering only
finder_images = 2000  # of the training split, for the convolution network
finder_epochs = 8  # over them
network_bits = [2, 3, 4, 5, 6, 8, 10, 12, 16]  # of a code, in the integer network
range_images = 200  # training images on which the ranges of its layers are observed
runs = 20  # timings of each call, of which the median counts

# %% tags=["hide-input"]
import copy

import numpy as np
import torch
from torch import nn

from lib import data as datasets
from lib import evidence, figures, measure, storage, training
from lib.precision import _integer, embedded_cnn, fixed_point, limited_precision

dataset = datasets.load(data)
evidence.uses(dataset)


def record(key, values, unit="x", digits=2):
    return evidence.record(f"numerical_precision_embedded.{key}", values, unit=unit, digits=digits)


def error(model):
    return training.error_pct(model, dataset.test)


# %% [markdown]
# (sec-limited-precision)=
# ## Learning in few bits
#
# **The idea.** A processor computes with words of so many bits, and memory holds words of so many bits.
# Around 1990 three answers to the question "how many?" were tried.
# {cite:t}`iwata1989artificial` built an accelerator from signal processors with floats of 24 bits.
# {cite:t}`hammerstrom1990vlsi` designed a chip for learning in fixed point of 8 and 16 bits.
# {cite:t}`holt1993finite` analysed what the errors of rounding do in a network.
#
# **The formula.** A float of $e$ exponent and $m$ significand bits is, with $\beta = 2^{e-1} - 1$,
#
# $$ \pm \Big(1 + \frac{F}{2^m}\Big)\, 2^{E - \beta} \quad (0 < E < 2^e - 1), \qquad \pm \frac{F}{2^m}\, 2^{1 - \beta} \quad (E = 0), $$ (eq-short-float)
#
# and rounding errs by at most $2^{-(m+1)}$ of the number.
# In fixed point all numbers have one step, so the error is half of it, however small the number.
# How the 24 bits of 1989 were divided we do not know; here they are one for the sign, 7 for the exponent and 16 for the significand.
#
# **The code.** A number is rounded as the integer that its bits are:

# %% tags=["remove-input"]
figures.show_source(limited_precision._round)

# %% [markdown]
# **An exact check.** The formats that torch has come out bit for bit: half precision, bfloat16, an 8-bit float.
# With all bits of float32 nothing changes.

# %%
x = torch.cat([torch.randn(10_000) * scale for scale in (1e-7, 1e-3, 1.0, 1e4)])
known = {
    (5, 10): torch.float16,
    (8, 7): torch.bfloat16,
    (5, 2): torch.float8_e5m2,
    (8, 23): torch.float32,
}
for (e, m), dtype in known.items():
    short = limited_precision.float_format(x, exponent=e, significand=m)
    assert torch.equal(short, x.to(dtype).float())

# %% [markdown]
# What a number loses, by its size:

# %%
size = torch.logspace(-24, 18, 6000, base=2.0)
short, convert = limited_precision.float_format, fixed_point.convert
rounded = {
    "half, 16 bits": short(size, exponent=5, significand=10),
    "bfloat16": short(size, exponent=8, significand=7),
    "24-bit float": short(size, exponent=7, significand=16),
    "fixed point, 16 bits": convert(size, fixed_point.Format(4, 12)),
}
lost = {name: (values - size).abs() / size for name, values in rounded.items()}

# %% tags=["remove-input"]
figure, ax = figures.axes()
looks = [figures.RETRAINED, figures.COMBINED, figures.PRUNING, figures.QUANTIZATION]
for (name, value), look in zip(lost.items(), looks, strict=True):
    worst = value.clamp(max=1).reshape(-1, 60).max(1).values * 100  # of sixty neighbours
    place = size.log2().reshape(-1, 60).mean(1)
    ax.plot(place, worst, color=look["color"], linestyle=look["linestyle"], label=name)
ax.set(xlabel="size of the number (power of 2)", ylabel="largest error (% of the number)")
ax.set(yscale="log", ylim=(3e-4, 200), xticks=range(-24, 19, 6))
figures.legend(ax)
inside = size.log2().abs() < 2  # numbers near one
near = {name: 100 * float(value[inside].max()) for name, value in lost.items()}
figures.show(
    figure,
    name="fig-number-formats",
    caption="The largest relative error of rounding a number to four formats, by the size of the number.",
    alt="Four curves of relative error by the size of the number. Near one the formats lose at most "
    + ", ".join(f"{value:.2g} % ({name})" for name, value in near.items())
    + ". The floats are flat over their range; fixed point loses more the smaller the number, until nothing is left of it.",
)

# %% [markdown]
# **What to see.** The floats are level where they are normal, and half precision leaves its range at both ends.
# Fixed point is as good as half precision for its largest numbers only.
#
# ### The network of that time
#
# One hidden layer, sigmoids everywhere, the squared error, and plain back-propagation:

# %% tags=["remove-input"]
figures.show_source(limited_precision.learn)

# %% [markdown]
# Every variable that memory holds is rounded to the nearest: weights, activations, errors, and the updates.
# In fixed point weights lie between −8 and 8, and signals between −1 and 1, whatever the number of bits.
# Sums of products and the sigmoid are computed in floats before they are rounded, so this is a simulation of memory, and not of every adder.
#
# **The experiment.** The same starts and the same order of images, in words of different length.
# Beside it, the network that learned in float32 is rounded once, and only answers in few bits.

# %%
train = dataset.train.first(learning_images)
inputs, classes = train.images[0].numel(), len(dataset.classes)


def learned(words, seed):
    model = limited_precision.Perceptron(inputs, hidden=hidden, classes=classes, seed=seed)
    model.words = words
    how = {"epochs": learning_epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    return model, limited_precision.learn(model, train, seed=seed, **how)


fixed = limited_precision.fixed
words = {"float32": limited_precision.single(), "float24": limited_precision.floating()}
words |= {f"learning{bits}": fixed(bits) for bits in learning_bits}
networks = {name: [learned(w, seed) for seed in range(seeds)] for name, w in words.items()}

# %%
errors = {name: [error(model) for model, _ in found] for name, found in networks.items()}
for bits in inference_bits:
    retrieved = [limited_precision.retrieve(m, fixed(bits)) for m, _ in networks["float32"]]
    errors[f"inference{bits}"] = [error(model) for model in retrieved]
for name, values in errors.items():
    record(f"{name}.error_pct", values, "%", 2)
for name, found in networks.items():
    record(f"{name}.swallowed_pct", [100 * share for _, share in found], "%", 1)

# %% tags=["remove-input"]
figure, ax = figures.axes()
baseline = float(np.mean(errors["float32"]))
for kind, widths, look, text in (
    ("learning", learning_bits, figures.QUANTIZATION, "learning and answering"),
    ("inference", inference_bits, figures.PRUNING, "answering only"),
):
    figures.line(ax, widths, [errors[f"{kind}{bits}"] for bits in widths], look, text)
ax.axhline(baseline, color="#b0b0b0", linewidth=1, label="floats of 32 bits")
ax.set(xlabel="bits of a word in fixed point", ylabel="test error (%)", ylim=(0, 100))
ax.set_xticks(sorted({*learning_bits, *inference_bits} - {5, 7}))
figures.legend(ax)
mean = {name: float(np.mean(values)) for name, values in errors.items()}
figures.show(
    figure,
    name="fig-learning-bits",
    caption="Test error of a network with one hidden layer, whose words have so many bits in learning, or in answering only. Means over seeds with 95 % intervals.",
    alt="Test error against bits. Learning: "
    + ", ".join(f"{mean[f'learning{b}']:.1f} % with {b}" for b in learning_bits)
    + "; answering only: "
    + ", ".join(f"{mean[f'inference{b}']:.1f} % with {b}" for b in (inference_bits[0], 6, 8, 16))
    + f"; floats: {baseline:.1f} %.",
)

# %% tags=["remove-input"]
rows = [{"words": name} for name in networks]
for row, (name, found) in zip(rows, networks.items(), strict=True):
    row["test error (%)"] = evidence.formatted(errors[name], unit="", digits=2)
    row["updates swallowed (%)"] = evidence.formatted(
        [100 * s for _, s in found], unit="", digits=1
    )
figures.table(rows, caption="Learning in few bits: test error, and updates that rounding undid")

# %% [markdown]
# **What to see.** First the two floats: {glue:text}`numerical_precision_embedded.float32.error_pct` and {glue:text}`numerical_precision_embedded.float24.error_pct`.
# The verdict on the sentence that back-propagation ran on 24-bit floats: {verdict}`C2.5-05`.
# Then follow the two curves to the left, and see where each of them leaves the line.
# The last column of the table tells why they part: an update smaller than half a step changes nothing.
# In floats of 32 bits rounding swallows {glue:text}`numerical_precision_embedded.float32.swallowed_pct` of the updates, with 16 bits {glue:text}`numerical_precision_embedded.learning16.swallowed_pct`, with 8 bits {glue:text}`numerical_precision_embedded.learning8.swallowed_pct`.
# Answering has no updates to lose.
# The [chapter on training in fixed point](numerical_precision.py) shows the cure, rounding by chance.
#
# (sec-embedded-cnn)=
# ## A network of integers
#
# **The idea.** {cite:t}`mamalet2007realtime` and {cite:t}`roux2007embedded` put networks that find faces and their features on processors without floats.
# Every layer gets its own fixed-point format, chosen from the ranges seen on images; what is left are products of integers, shifts, and a table for tanh.
# They report 35 small video images a second on a signal processor of 275 MHz {cite:p}`mamalet2007realtime` and, for facial features, a gain of 700 over the float reference without a loss {cite:p}`roux2007embedded`.
# The network here is of the kind of the Convolutional Face Finder {cite:p}`garcia2004cff`: 4 maps of 5 × 5, mean of 2 × 2 with a factor and a bias, tanh, 14 maps of 3 × 3, the same again, one neuron for each map.
#
# **The formula.** With integer codes for weights, $w = W 2^{-f_w}$, and for signals, $x = X 2^{-f_x}$,
#
# $$ A = B + \sum_i W_i X_i, \qquad Y = \big(A + 2^{s-1}\big) \gg s, \qquad s = f_x + f_w - f_y . $$ (eq-integer-sum)
#
# With codes of $b$ bits no sum leaves 32 bits, whatever the image, if for every output
#
# $$ 2^{b-1} \sum_i \lvert W_i \rvert + \lvert B \rvert + 2^{s-1} < 2^{31} . $$ (eq-no-overflow)
#
# Where this fails, $f_w$ gives up bits until it holds.
#
# **The code.** What chooses the formats, and the loop that does the work:

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.IntegerSum.__init__, _integer._convolve)

# %% [markdown]
# **An exact check.** A pixel of a convolution in Python's integers, which know no overflow.

# %%
draw = np.random.default_rng(0)
codes = draw.integers(-(2**15), 2**15, (1, 3, 8, 8)).astype(np.int16)
kernel, bias = draw.integers(-500, 500, (2, 3, 3, 3)), np.array([7, -7], np.int32)
pixel = _integer.convolve(codes, kernel, bias, shift=10, bits=16)[0, 1, 4, 2]
window = codes[0, :, 4:7, 2:5].flatten().tolist()
total = int(bias[1]) + sum(w * x for w, x in zip(kernel[1].flatten().tolist(), window, strict=True))
assert pixel == min(max((total + 2**9) >> 10, -(2**15)), 2**15 - 1)

# %% [markdown]
# ### Convolution and pooling in one
#
# The mean of four neighbouring sums is one sum over a larger window.
# With the kernel $k$ and the stride 2,
#
# $$ \bar k = \tfrac14 \big( k * \mathbb 1_{2 \times 2} \big), $$ (eq-fused-kernel)
#
# so four times 25 products become 36.
# The factor of the map goes into the kernel too.

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.fused_kernel)

# %% [markdown]
# **An exact check.** In integers, before the shift, the fused sums *are* the sums of four; in floats they agree to rounding.

# %%
none = np.zeros(2, np.int32)
wide = embedded_cnn.fused_kernel(torch.from_numpy(kernel)).numpy()
apart = _integer.convolve(codes, kernel, none).reshape(1, 2, 3, 2, 3, 2).sum((3, 5))
assert (_integer.convolve(codes, wide, none, stride=(2, 2)) == apart).all()


def finder(seed):
    model = embedded_cnn.face_finder(seed, channels=train.images.shape[1], classes=classes)
    how = {"epochs": finder_epochs, "learning_rate": 0.05, "batch_size": 32, "seed": seed}
    return training.cached(training.fit, model, split=dataset.train.first(finder_images), **how)


finders = [finder(seed) for seed in range(seeds)]
fused = [embedded_cnn.fuse(model) for model in finders]
images = dataset.test.first(200).images
assert torch.allclose(finders[0](images), fused[0](images), atol=1e-4)

# %% [markdown]
# ### tanh from a table
#
# The table holds tanh at equal distances $h$ between 0 and 8, and a straight line runs between two entries.
# That errs by at most $\tfrac{h^2}{8} \max \lvert \tanh'' \rvert$ and half a unit for rounding; where tanh reaches the largest code, by one unit.

# %%
every, rows = np.arange(-(2**15), 2**15).astype(np.int16), []
exact = np.tanh(every / 2.0**_integer.TANH_FRACTION)
for bits, entries in ((16, 6), (16, 8), (16, 10), (8, 4), (8, 6)):
    table, unit = _integer.tanh_table(bits, entries), 2.0 ** (1 - bits)
    worst = np.abs(_integer.tanh(every, table, 0, 2 ** (bits - 1) - 1) * unit - exact).max()
    bound = _integer.tanh_error(bits, entries)
    assert worst <= bound
    row = {"bits of the result": bits, "entries": len(table), "bytes": table.nbytes}
    row |= {"largest error (units)": f"{worst / unit:.2f}", "bound (units)": f"{bound / unit:.2f}"}
    rows.append(row)
figures.table(rows, caption="A table of tanh, tried with all 65,536 codes; a unit is the last bit")

# %% [markdown]
# ### Sixteen bits, eight, and fewer
#
# The trained network, with convolution and pooling fused, in integers of different widths.
# Each width chooses its formats anew, from the ranges on training images.


# %%
def integers(models, bits):
    seen = dataset.train.first(range_images)
    return [embedded_cnn.integer(model, seen, bits=bits) for model in models]


twins = [error(model) for model in finders]
in_bits = {bits: integers(fused, bits) for bits in network_bits}
integer_errors = {bits: [error(model) for model in found] for bits, found in in_bits.items()}
record("face_finder.error_pct", twins, "%", 2)
for bits, values in integer_errors.items():
    record(f"int{bits}.error_pct", values, "%", 2)

# %% tags=["remove-input"]
figure, ax = figures.axes()
change = {b: [e - t for e, t in zip(v, twins, strict=True)] for b, v in integer_errors.items()}
shown = [bits for bits in network_bits if bits > 2]
figures.line(ax, shown, [change[b] for b in shown], figures.QUANTIZATION, "integers less floats")
ax.axhline(0, color="#b0b0b0", linewidth=1)
ax.set(xlabel="bits of a code", ylabel="change of test error (points)", xticks=shown)
figures.legend(ax)
change_text = ", ".join(f"{np.mean(change[b]):+.2f} points with {b} bits" for b in network_bits)
figures.show(
    figure,
    name="fig-integer-bits",
    caption="What the test error of the network changes by when it computes in integers. Means over seeds with 95 % intervals; two bits lie outside.",
    alt=f"Change of test error against the bits of a code: {change_text}.",
)

# %% tags=["remove-input"]
rows = [{"layer": name} for name in ("c1, s1", "c2, s2", "n1", "n2")]
sums = [step for step in in_bits[16][0].steps if hasattr(step, "kernel")]
for row, step in zip(rows, sums, strict=True):
    row |= {"products in a sum": step.kernel[0].numel()}
    row |= dict(zip(("input", "weights", "output"), step.formats.tolist()[:3], strict=True))
    largest = np.abs(step.kernel.numpy().astype(np.int64)).sum((1, 2, 3)).max() * 2**15
    row["largest sum, of the 32-bit range (%)"] = f"{100 * largest / 2**31:.0f}"
figures.table(rows, caption="Bits of fraction of each layer of the 16-bit network, first seed")

# %% [markdown]
# **What to see.** In floats the network errs on {glue:text}`numerical_precision_embedded.face_finder.error_pct`, in 16 bits on {glue:text}`numerical_precision_embedded.int16.error_pct`, in 8 on {glue:text}`numerical_precision_embedded.int8.error_pct`.
# The verdict on networks for embedded processors: {verdict}`C2.5-22`.
# The last column of the table says how near the worst image could bring a sum to the end of 32 bits.
#
# ## What is saved
#
# Four ways to run the same network, on one image of 176 × 144, over which it slides: floats, *simulated* fixed point (floats that are rounded after each layer), integers, integers with fused pooling.

# %%
word = fixed_point.Format(4, 12)
simulated = fixed_point.quantize(copy.deepcopy(finders[0]), word)
apart = integers(finders[:1], 16)[0]
frame = torch.rand(1, images.shape[1], 144, 176, generator=torch.Generator().manual_seed(0))
networks = {"float32": finders[0], "fused_float32": fused[0], "apart16": apart}
networks |= {"int16": in_bits[16][0], "int8": in_bits[8][0]}
with fixed_point.computing(simulated, fixed_point.FixedPoint(word)):
    calls = {"simulated16": lambda: simulated(frame)}
    calls |= {name: lambda net=net: net(frame) for name, net in networks.items()}
    times = measure.latency_ms(calls, runs=runs)
stage, codes = apart.steps, apart.trace(frame)[0][0]
calls = {"apart": lambda: stage[2](stage[1](stage[0](codes)))}
calls |= {"fused": lambda: in_bits[16][0].steps[0](codes)}
stages = measure.latency_ms(calls, runs=runs)

# %% tags=["remove-input"]
shape = images.shape[1:]
before, after = (measure.multiply_adds(model, shape) for model in (finders[0], fused[0]))
record("fused.multiply_adds_ratio", before / after)
layers = measure.multiply_adds_by_layer(finders[0], shape)
first = next(iter(measure.multiply_adds_by_layer(fused[0], shape).values()))
record("fused.stage_multiply_adds_ratio", (layers["c1"] + layers["s1"]) / first)
record("fused.stage_latency_ratio", stages["apart"].median / stages["fused"].median)
record("fused.network_latency_ratio", times["apart16"].median / times["int16"].median)
record("simulated16.latency_ratio", times["simulated16"].median / times["float32"].median)


texts = {
    "float32": "float32",
    "simulated16": "16 bits, simulated in floats",
    "fused_float32": "float32, fused",
    "apart16": "int16, one after the other",
    "int16": "int16, fused",
    "int8": "int8, fused",
}
rows = [{"network": text} for text in texts.values()]
for row, name in zip(rows, texts, strict=True):
    parameters, maps = embedded_cnn.memory_bytes(networks.get(name, simulated), frame)
    record(f"{name}.parameters_bytes", parameters, "bytes", 0)
    record(f"{name}.maps_bytes", maps, "bytes", 0)
    row |= {"parameters (bytes)": f"{parameters:,}", "two maps (bytes)": f"{maps:,}"}
    row["multiply-adds, 28 × 28"] = (
        f"{after if name in ('fused_float32', 'int16', 'int8') else before:,}"
    )
    row["time / float32"] = f"{times[name].median / times['float32'].median:.2f}"
figures.table(rows, caption="Memory, work and time of one network in six forms, first seed")

# %% [markdown]
# **What to see.** Simulated fixed point holds {glue:text}`numerical_precision_embedded.simulated16.parameters_bytes` of parameters where floats hold {glue:text}`numerical_precision_embedded.float32.parameters_bytes`, for it keeps the float and the rounded copy, and it takes {glue:text}`numerical_precision_embedded.simulated16.latency_ratio` the time.
# It tells what an integer machine would answer; it is none.
# The integers hold {glue:text}`numerical_precision_embedded.int16.parameters_bytes` with 16 bits and {glue:text}`numerical_precision_embedded.int8.parameters_bytes` with 8.
# Maps are kept in 16 bits in both, as this is what a tanh reads.
# Fusing saves {glue:text}`numerical_precision_embedded.fused.stage_multiply_adds_ratio` of the multiply-adds of the first stage, and the stage becomes {glue:text}`numerical_precision_embedded.fused.stage_latency_ratio` faster on this machine; the whole network {glue:text}`numerical_precision_embedded.fused.network_latency_ratio`.
# Times are those of our own loops against a tuned library for floats: only the rows of integers compare an algorithm with another.
#
# ## All formats, one network
#
# The same trained networks, written to files in six formats: weights as short floats (biases stay as they are), or the integer network as a whole.

# %%
floats = {"float24": (7, 16), "float16": (5, 10), "bfloat16": (8, 7), "float8": (5, 2)}
stored = {"float32": finders}
for name, (e, m) in floats.items():
    make = limited_precision.store
    stored[name] = [make(copy.deepcopy(f), exponent=e, significand=m) for f in finders]
stored |= {"int16": in_bits[16], "int8": in_bits[8]}
ends = {name: [error(model) for model in found] for name, found in stored.items()}
bytes_of = {name: [len(storage.dumps(model)) for model in found] for name, found in stored.items()}

# %% tags=["remove-input"]
for name, values in bytes_of.items():
    record(f"{name}.file_bytes", values, "bytes", 0)
for name in floats:
    record(f"finder_{name}.error_pct", ends[name], "%", 2)
figure, ax = figures.axes()
looks = [figures.DENSE, figures.PRUNING, figures.RETRAINED, figures.COMBINED, figures.RETRAINED]
looks += [figures.QUANTIZATION, figures.QUANTIZATION]
for (name, values), look in zip(ends.items(), looks, strict=True):
    hollow = {"markerfacecolor": "none"} if name in ("float8", "int8") else {}
    found = [e - t for e, t in zip(values, twins, strict=True)]
    place = [float(np.mean(bytes_of[name])) / 1000]
    figures.line(ax, place, [found], look | {"linestyle": "none"} | hollow, name)
ax.axhline(0, color="#b0b0b0", linewidth=1)
ax.set(xlabel="file (kB)", ylabel="change of test error (points)", xlim=(0, None))
figures.legend(ax, 4, handletextpad=0.2, columnspacing=1)
told = ", ".join(
    f"{n} {np.mean(bytes_of[n]):,.0f} bytes and {np.mean(ends[n]):.2f} %" for n in ends
)
figures.show(
    figure,
    name="fig-formats-compared",
    caption="Change of the test error against the size of the file, for one network in seven formats. Means over seeds with 95 % intervals.",
    alt=f"File size and test error by format: {told}.",
)
rows = [{"format": name} for name in ends]
for row, (name, values) in zip(rows, ends.items(), strict=True):
    row["file (bytes)"] = evidence.formatted(bytes_of[name], unit="", digits=0)
    row["test error (%)"] = evidence.formatted(values, unit="", digits=2)
    row["computes in"] = "integers" if name.startswith("int") else "float32"
figures.table(rows, caption="One network in seven formats")

# %% [markdown]
# **What to see.** The file of a short float is smaller than its bits promise, as the exponents of weights are few and are entropy-coded: 24-bit floats take {glue:text}`numerical_precision_embedded.float24.file_bytes` where 32 bits take {glue:text}`numerical_precision_embedded.float32.file_bytes`.
# The integer networks take {glue:text}`numerical_precision_embedded.int16.file_bytes` and {glue:text}`numerical_precision_embedded.int8.file_bytes`; their codes are written as they are.
# Then compare the two formats of 8 bits in the height.
#
# ## Where it breaks
#
# **Learning in 8 bits.** The figure above: {glue:text}`numerical_precision_embedded.learning8.error_pct`, as nearly all updates are swallowed.
#
# **Sums that overflow.** Choose formats by the range of the weights alone, and a sum of many products no longer fits.
# The same sum, of more and more inputs, all of them bright:

# %%
rows, weight = [], round(0.9 * 2**15)
for n in (16, 64, 256, 784):
    light, layer = np.full((1, n), 2**15 - 1, np.int16), nn.Linear(n, 1, bias=False)
    nn.init.constant_(layer.weight, 0.9)
    greedy = np.full((1, n, 1, 1), weight, np.int16)
    wrapped = _integer.convolve(light[:, :, None, None], greedy, none[:1]).item() / 2.0**30
    how = {"bits": 16, "fraction": 15, "wanted": 0, "output_bits": 32}
    careful = embedded_cnn.IntegerSum(layer, **how)
    row = {"inputs": n, "exact": f"{0.9 * n:.1f}", "formats by range only": f"{wrapped:.2f}"}
    row["with the guarantee"] = f"{careful(light).item() / 2.0**careful.fraction:.2f}"
    rows.append(row | {"fraction of a weight (bits)": int(careful.formats[1])})
figures.table(rows, caption="A sum of products of 16-bit codes in 32 bits, weights 0.9, inputs 1")

# %% [markdown]
# A sum that has wrapped around is not wrong by a little.
# The guarantee costs one bit of the weights for each doubling of the inputs: in a wide layer, 16-bit weights are no 16-bit weights.
#
# **Few bits.** With 4 bits the network errs on {glue:text}`numerical_precision_embedded.int4.error_pct`, with 3 on {glue:text}`numerical_precision_embedded.int3.error_pct`, with 2 on {glue:text}`numerical_precision_embedded.int2.error_pct`: formats chosen after training are at their end there.
#
# ## Exercises
#
# 1. For which kernels does fusing pay? Derive the ratio of multiply-adds for a kernel of side $k$, and check it.

# %% tags=["hide-cell"]
for k in (1, 3, 5, 7):
    pair = nn.Sequential(nn.Conv2d(1, 1, k, padding=k // 2), nn.AvgPool2d(2))
    both = [measure.multiply_adds(net, (1, 28, 28)) for net in (pair, embedded_cnn.fuse(pair))]
    assert both[0] * (k + 1) ** 2 == both[1] * 4 * k**2  # 1, 2.25, 2.78, 3.06: never more than 4
    print(f"side {k}: {both[0] / both[1]:.2f} times fewer")

# %% [markdown]
# 2. Run the convolutions of a network that nobody here wrote, torchvision's AlexNet, in integers.

# %% tags=["hide-cell"]
from lib.data import Split
from lib.vision import torchvision

alexnet = torchvision.models.alexnet().features.eval()
pictures = Split(torch.rand(2, 3, 64, 64), torch.zeros(2, dtype=torch.long))
network = embedded_cnn.integer(alexnet, pictures)
with torch.no_grad():
    exact = alexnet(pictures.images)
far = (network(pictures.images) - exact).abs().max() / exact.abs().max()
print(f"largest difference: {100 * far:.1f} % of the largest output")
print(
    "fraction of the weights:", [int(s.formats[1]) for s in network.steps if hasattr(s, "kernel")]
)

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`iwata1989artificial`, {cite:t}`hammerstrom1990vlsi` and {cite:t}`holt1993finite` are the early works; we know them by their titles and abstracts.
# - {cite:t}`mamalet2007realtime` and {cite:t}`roux2007embedded` built the embedded networks, {cite:t}`garcia2004cff` designed the face finder.
# - {cite:t}`berthelier2020survey` is the survey.
