# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
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
# No images of faces are at hand: handwritten digits stand in for them.
# Times are compared within one process, call by call in turns, on one thread.
#
# ```{cost} numerical_precision_embedded
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks of each kind, trained from different starts
learning_images = 600  # of the training split, for the network with one hidden layer
learning_epochs = 8  # over them
learning_rate = 2.0  # of back-propagation, chosen on validation images
batch_size = 10  # images a step, of back-propagation
hidden = 32  # units in its hidden layer
learning_bits = [8, 12, 16]  # of a word in fixed point, when learning
inference_bits = [4, 5, 6, 8, 10, 12, 16]  # of a word, when answering only
finder_images = 2000  # of the training split, for the convolution network
finder_epochs = 5  # over them
network_bits = [16, 12, 8, 6, 5, 4, 3, 2]  # of a code, in the integer network
range_images = 200  # training images on which the ranges of its layers are observed
runs = 20  # timings of each call, of which the median counts

# %% tags=["hide-input"]
import copy
import re

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, storage, training
from lib.cache import cached
from lib.precision import embedded_cnn, fixed_point, limited_precision
from lib.precision.shared import formats, integers, short_floats

dataset = datasets.load(data)
evidence.uses(dataset)


def record(key, values, unit="x", digits=2, exact=False):
    return evidence.record(
        f"numerical_precision_embedded.{key}", values, unit=unit, digits=digits, exact=exact
    )


def error(model):
    return training.error_pct(model, dataset.test)


# %% [markdown]
# (sec-limited-precision)=
# ## Learning in few bits
#
# **The idea.** How many bits does a word need?
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
figures.show_source(short_floats.round_bits)

# %% [markdown]
# **An exact check.** The formats that torch has come out bit for bit: half precision, bfloat16, and an 8-bit float.

# %%
short, size = short_floats.rounded, torch.logspace(-24, 18, 6300, base=2.0)
types = {(5, 10): torch.half, (8, 7): torch.bfloat16, (5, 2): torch.float8_e5m2}
for (e, m), dtype in types.items():
    assert torch.equal(short(size, exponent=e, significand=m), size.to(dtype).float())
widths = {"half, 16 bits": (5, 10), "bfloat16": (8, 7), "24-bit float": (7, 16)}
rounded = {name: short(size, exponent=e, significand=m) for name, (e, m) in widths.items()}
rounded["fixed point, 16 bits"] = formats.rounded(size, formats.Format(4, 12))
lost = {name: (values - size).abs() / size for name, values in rounded.items()}

# %% tags=["remove-input"]
figure, ax = figures.axes()
looks = [figures.RETRAINED, figures.COMBINED, figures.PRUNING, figures.QUANTIZATION]
for (name, value), look in zip(lost.items(), looks, strict=True):
    worst = 100 * value.clamp(max=1).reshape(-1, 150).max(1).values  # between powers of two
    place = size.log2().reshape(-1, 150).mean(1)
    ax.plot(place, worst, color=look["color"], linestyle=look["linestyle"], label=name)
ax.set(xlabel="size of the number (power of 2)", ylabel="largest error (% of the number)")
ax.set(yscale="log", ylim=(3e-4, 200), xticks=range(-24, 19, 6))
ax.set_yticks([0.001, 0.01, 0.1, 1, 10, 100], ["0.001", "0.01", "0.1", "1", "10", "100"])
figures.legend(ax)
near = {name: 100 * float(value[size.log2().abs() < 2].max()) for name, value in lost.items()}
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
    options = {"epochs": learning_epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    return model, limited_precision.learn(model, train, seed=seed, **options)


fixed, words = limited_precision.fixed, {"float32": limited_precision.single()}
words |= {"float24": limited_precision.floating()}
words |= {f"learning{bits}": fixed(bits) for bits in learning_bits}
networks = {name: [learned(w, seed) for seed in range(seeds)] for name, w in words.items()}

# %%
errors = {name: [error(model) for model, _ in pairs] for name, pairs in networks.items()}
for bits in inference_bits:
    retrieved = [limited_precision.retrieve(m, fixed(bits)) for m, _ in networks["float32"]]
    errors[f"inference{bits}"] = [error(model) for model in retrieved]
for name, values in errors.items():
    record(f"{name}.error_pct", values, "%", 2)
for name, pairs in networks.items():
    record(f"{name}.swallowed_pct", [100 * share for _, share in pairs], "%", 1)

# %% tags=["remove-input"]
figure, ax = figures.axes()
baseline = float(np.mean(errors["float32"]))
for kind, lengths in (("learning", learning_bits), ("inference", inference_bits)):
    look = figures.QUANTIZATION if kind == "learning" else figures.PRUNING
    text = "learning and answering" if kind == "learning" else "answering only"
    places = [bits + (0.1 if kind == "learning" else -0.1) for bits in lengths]
    figures.line(ax, places, [errors[f"{kind}{bits}"] for bits in lengths], look, text)
ax.axhline(baseline, color="#b0b0b0", linewidth=1, label="floats of 32 bits")
ax.set(xlabel="bits of a word in fixed point", ylabel="test error (%)", ylim=(0, 100))
ax.set_xticks(inference_bits)
figures.legend(ax)
by_word = {re.sub(r"(?<=[a-z])(?=[0-9])", " with ", name): np.mean(e) for name, e in errors.items()}
figures.show(
    figure,
    name="fig-learning-bits",
    caption="Test error of a network with one hidden layer, whose words have so many bits in learning, or in answering only. Means over seeds with 95 % intervals.",
    alt="Test error by the bits of a word. "
    + ", ".join(f"{name} bits: {value:.1f} %" for name, value in by_word.items()),
)

# %% [markdown]
# **What to see.** First the two floats: {glue:text}`numerical_precision_embedded.float32.error_pct` and {glue:text}`numerical_precision_embedded.float24.error_pct`.
# The verdict on the sentence that back-propagation ran on 24-bit floats: {verdict}`C2.5-05`.
# Then follow the two curves to the left, and see where each of them leaves the line.
# What parts them: an update smaller than half a step changes nothing, and answering has no updates to lose.
# In floats of 24 bits {glue:text}`numerical_precision_embedded.float24.swallowed_pct` of the last epoch's updates are swallowed.
# In fixed point of 16 bits it is {glue:text}`numerical_precision_embedded.learning16.swallowed_pct`, of 8 bits {glue:text}`numerical_precision_embedded.learning8.swallowed_pct`.
# The [chapter on training in fixed point](numerical_precision.py) tries another rounding, by chance.
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
# No sum of codes of $b$ bits leaves 32 bits, whatever the image, if $2^{b-1} \sum_i \lvert W_i \rvert + \lvert B \rvert + 2^{s-1} < 2^{31}$; where this fails, $f_w$ gives up bits until it holds.
#
# **The code.** What chooses the formats, and the loop that does the work:

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.IntegerSum.__init__, integers.convolve_codes)

# %% [markdown]
# ### Convolution and pooling in one
#
# The mean of four neighboring sums is one sum over a larger window, with the stride 2 and the kernel
#
# $$ \bar k = \tfrac14 \big( k * \mathbb 1_{2 \times 2} \big) : $$ (eq-fused-kernel)
#
# four times 25 products become 36.
# The factor of the map goes into the kernel too.

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.fused_kernel)

# %% [markdown]
# **Two exact checks.** One pixel in Python's integers, which know no overflow; and the fused sums, which before the shift *are* the sums of four.

# %%
draw, none = np.random.default_rng(0), np.zeros(2, np.int32)
codes = draw.integers(-(2**15), 2**15, (1, 3, 8, 8)).astype(np.int16)
kernel = draw.integers(-500, 500, (2, 3, 3, 3))
window, weights = codes[0, :, 4:7, 2:5].flatten().tolist(), kernel[1].flatten().tolist()
total = sum(w * x for w, x in zip(weights, window, strict=True))
pixel = integers.convolve(codes, kernel, none, shift=10, bits=16)[0, 1, 4, 2]
assert pixel == min(max((total + 2**9) >> 10, -(2**15)), 2**15 - 1)
wide = embedded_cnn.fused_kernel(torch.from_numpy(kernel)).numpy()
apart = integers.convolve(codes, kernel, none).reshape(1, 2, 3, 2, 3, 2).sum((3, 5))
assert (integers.convolve(codes, wide, none, stride=(2, 2)) == apart).all()


# %%
def finder(seed):
    model = embedded_cnn.face_finder(seed, channels=train.images.shape[1], classes=classes)
    options = {"epochs": finder_epochs, "learning_rate": 0.05, "batch_size": 32, "seed": seed}
    return cached(training.fit, model, split=dataset.train.first(finder_images), **options)


finders = [finder(seed) for seed in range(seeds)]
fused = [embedded_cnn.fuse(model) for model in finders]
images = dataset.test.first(200).images
assert torch.allclose(finders[0](images), fused[0](images), atol=1e-4)

# %% [markdown]
# ### tanh from a table
#
# A table holds tanh at equal distances $h$, and a straight line runs between two entries: that errs by at most $\tfrac{h^2}{8} \max \lvert \tanh'' \rvert$ and half a unit for rounding; where tanh reaches the largest code, by one unit.

# %%
all_codes, rows = np.arange(-(2**15), 2**15).astype(np.int16), []
exact = np.tanh(all_codes / 2.0**integers.TANH_FRACTION)
for bits, entries in ((16, 6), (16, 8), (16, 10), (8, 4), (8, 6)):
    table, unit = integers.tanh_table(bits, entries), 2.0 ** (1 - bits)
    worst = np.abs(integers.tanh(all_codes, table, 0, 2 ** (bits - 1) - 1) * unit - exact).max()
    bound = integers.tanh_error(bits, entries)
    assert worst <= bound
    row = {"bits": bits, "entries": len(table), "largest error (units)": f"{worst / unit:.2f}"}
    rows.append(row | {"bound (units)": f"{bound / unit:.2f}", "table (bytes)": table.nbytes})
figures.table(rows, caption="A table of tanh, tried with all 65,536 codes; a unit is the last bit")

# %% [markdown]
# ### Sixteen bits, eight, and fewer
#
# The trained network, with convolution and pooling fused, in integers of different widths, each with its own formats.


# %%
def in_integers(models, bits):
    seen = dataset.train.first(range_images)
    return [embedded_cnn.convert(model, seen, bits=bits) for model in models]


twins = [error(model) for model in finders]
in_bits = {bits: in_integers(fused, bits) for bits in network_bits}
record("face_finder.error_pct", twins, "%", 2)
rows = [{"bits of a code": bits} for bits in network_bits]
for row, (bits, copies) in zip(rows, in_bits.items(), strict=True):
    values = [error(model) for model in copies]
    change = np.subtract(values, twins).tolist()
    row["test error (%)"] = record(f"int{bits}.error_pct", values, "%", 2).removesuffix(" %")
    row["change (points)"] = evidence.formatted(change, unit="", digits=2)
figures.table(rows, caption="One network in integers of different width")

# %% [markdown]
# **What to see.** In floats the network errs on {glue:text}`numerical_precision_embedded.face_finder.error_pct`, in 16 bits on {glue:text}`numerical_precision_embedded.int16.error_pct`, in 8 on {glue:text}`numerical_precision_embedded.int8.error_pct`.
# The verdict on networks for embedded processors: {verdict}`C2.5-22`.
#
# ## What is saved
#
# All formats on the same trained networks: short floats and fixed point are *simulated*, weights are rounded and floats compute with them.
# The integer networks are what a processor without floats would run, with pooling on its own or fused.
# Time is that of one image of 176 by 144 pixels, over which the network slides.

# %%
stored = {"float32": finders, "float32, fused": fused}
forms = {"float24": (7, 16), "float16": (5, 10), "bfloat16": (8, 7), "float8": (5, 2)}
for name, (e, m) in forms.items():
    copies = copy.deepcopy(finders)
    stored[name] = [limited_precision.store(f, exponent=e, significand=m) for f in copies]
word = formats.Format(4, 12)
stored["fixed16"] = [fixed_point.quantize(f, word) for f in copy.deepcopy(finders)]
stored["int16, apart"] = in_integers(finders, 16)
stored |= {"int16, fused": in_bits[16], "int8, fused": in_bits[8]}
ends = {name: [error(model) for model in copies] for name, copies in stored.items()}
files = {n: [len(storage.dumps(model)) for model in copies] for n, copies in stored.items()}

# %%
frame = torch.rand(1, images.shape[1], 144, 176, generator=torch.Generator().manual_seed(0))
first = {name: copies[0] for name, copies in stored.items()}
calls = {name: lambda network=network: network(frame) for name, network in first.items()}
times = {name: t.median for name, t in measure.latency_ms(calls, runs=runs).items()}
apart, one = first["int16, apart"].steps, first["int16, fused"].steps[0]
codes = first["int16, apart"].trace(frame)[0][0]
calls = {"apart": lambda: apart[2](integers.mean_pool(apart[0](codes)))}
stage = measure.latency_ms(calls | {"fused": lambda: one(codes)}, runs=runs)
layers = [measure.multiply_adds_by_layer(net[0], images.shape[1:]) for net in (finders, fused)]
work = [sum(by_layer.values()) for by_layer in layers]

# %% tags=["remove-input"]
record("fused.multiply_adds_ratio", work[0] / work[1], exact=True)
stages = layers[0]["c1"] + layers[0]["s1"], next(iter(layers[1].values()))
record("fused.stage_multiply_adds_ratio", stages[0] / stages[1], exact=True)
record("fused.stage_latency_ratio", stage["apart"].median / stage["fused"].median)
record("fused.network_latency_ratio", times["int16, apart"] / times["int16, fused"])
memory = {name: embedded_cnn.memory_bytes(model, frame) for name, model in first.items()}
for name in stored:
    key = name.replace(", ", "_")
    record(f"{key}.file_bytes", files[name], "bytes", 0)
    record(f"{key}.parameters_bytes", memory[name][0], "bytes", 0, exact=True)
    record(f"{key}.maps_bytes", memory[name][1], "bytes", 0, exact=True)
    record(f"{key}.latency_ratio", times[name] / times["float32"])
    record(f"finder_{key}.error_pct", ends[name], "%", 2)
figure, ax = figures.axes()
marks = [figures.DENSE, figures.PRUNING, figures.RETRAINED, figures.COMBINED, figures.RETRAINED]
marks += [figures.PRUNING, figures.QUANTIZATION, figures.QUANTIZATION]
shown = [name for name in stored if name not in ("float32, fused", "int16, apart")]
for name, look in zip(shown, marks, strict=True):
    hollow = {"markerfacecolor": "none"} if name in ("float8", "fixed16", "int8, fused") else {}
    change, place = np.subtract(ends[name], twins), [np.mean(files[name]) / 1000]
    figures.line(ax, place, [change], look | {"linestyle": "none"} | hollow, name)
ax.axhline(0, color="#b0b0b0", linewidth=1)
ax.set(xlabel="file (kB)", ylabel="change of test error (points)", xlim=(0, None))
figures.legend(ax, 4, narrow=True)
points = "; ".join(f"{n}: {np.mean(files[n]):,.0f} bytes, {np.mean(ends[n]):.2f} %" for n in shown)
figures.show(
    figure,
    name="fig-formats-compared",
    caption="Change of the test error against the size of the file, for one network in eight formats. Means over seeds with 95 % intervals.",
    alt=f"File size and test error by format. {points}.",
)
rows = [{"format": name} for name in stored]
for row, (name, values) in zip(rows, ends.items(), strict=True):
    row["test error (%)"] = evidence.formatted(values, unit="", digits=2)
    row["file (bytes)"] = f"{np.mean(files[name]):,.0f}"
    row["parameters (bytes)"], row["two maps (bytes)"] = (f"{size:,}" for size in memory[name])
    row["multiply-adds, 28 × 28"] = f"{work['fused' in name]:,}"
    row["time / float32"] = f"{times[name] / times['float32']:.2f}"
figures.table(rows, caption="One network in ten forms; memory and time for the larger image")

# %% [markdown]
# **What to see.** Compare the memory and the time of simulated words with those of floats: {glue:text}`numerical_precision_embedded.fixed16.parameters_bytes` of parameters are held where floats hold {glue:text}`numerical_precision_embedded.float32.parameters_bytes`, the dense weight and its rounded copy, in {glue:text}`numerical_precision_embedded.fixed16.latency_ratio` the time.
# What they save is the file; exponents are entropy-coded there: 24-bit floats take {glue:text}`numerical_precision_embedded.float24.file_bytes` where 32 bits take {glue:text}`numerical_precision_embedded.float32.file_bytes`.
# The integers hold {glue:text}`numerical_precision_embedded.int16_fused.parameters_bytes` in 16 bits and {glue:text}`numerical_precision_embedded.int8_fused.parameters_bytes` in 8; the maps are held in 16 bits in both, as that is what a tanh reads.
# Fusing makes kernels larger, {glue:text}`numerical_precision_embedded.int16_apart.parameters_bytes` become {glue:text}`numerical_precision_embedded.int16_fused.parameters_bytes`, and saves {glue:text}`numerical_precision_embedded.fused.stage_multiply_adds_ratio` of the multiply-adds of the first stage.
# The stage becomes {glue:text}`numerical_precision_embedded.fused.stage_latency_ratio` as fast on this machine, the whole network {glue:text}`numerical_precision_embedded.fused.network_latency_ratio`.
# Times of integers are those of our own loops, times of floats those of a tuned library: compare rows of one kind.
#
# ## Where it breaks
#
# **Learning in 8 bits.** Its error is {glue:text}`numerical_precision_embedded.learning8.error_pct`.
#
# **Sums that overflow.** Choose formats by the range of the weights alone, and a sum of many products no longer fits.
# Here more and more bright inputs are summed, exactly, in such formats, and in those of the network:

# %%
rows, options = [], {"bits": 16, "fraction": 15, "wanted": 0, "output_bits": 32}
for n in (16, 64, 256, 784):
    light, layer = np.full((1, n), 2**15 - 1, np.int16), nn.Linear(n, 1, bias=False)
    nn.init.constant_(layer.weight, 0.9)
    greedy = np.full((1, n, 1, 1), round(0.9 * 2**15), np.int16)
    wrapped = integers.convolve(light[:, :, None, None], greedy, none[:1]).item() / 2.0**30
    careful = embedded_cnn.IntegerSum(layer, **options)
    kept = careful(light).item() / 2.0**careful.fraction
    row = {"inputs": n, "exact": f"{0.9 * n:.1f}", "formats by range only": f"{wrapped:.2f}"}
    row |= {"with the guarantee": f"{kept:.2f}"}
    rows.append(row | {"fraction of a weight (bits)": int(careful.formats[1])})
figures.table(rows, caption="A sum of products of 16-bit codes in 32 bits, weights 0.9, inputs 1")

# %% [markdown]
# A sum that has wrapped around is not wrong by a little.
# The guarantee costs one bit of the weights for each doubling of the inputs: in a wide layer, 16-bit weights are no 16-bit weights.
#
# **Few bits.** With 4 bits the network errs on {glue:text}`numerical_precision_embedded.int4.error_pct`, with 3 on {glue:text}`numerical_precision_embedded.int3.error_pct`, with 2 on {glue:text}`numerical_precision_embedded.int2.error_pct`; nothing was trained after the formats were chosen.
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
from lib.datasets import Split
from lib.vision import torchvision

alexnet = torchvision.models.alexnet().features.eval()
picture = Split(torch.rand(1, 3, 64, 64), torch.zeros(1, dtype=torch.long))
network, exact = embedded_cnn.convert(alexnet, picture), alexnet(picture.images).detach()
far = (network(picture.images) - exact).abs().max() / exact.abs().max()
fractions = [int(step.formats[1]) for step in network.steps if hasattr(step, "formats")]
print(
    f"off by {100 * far:.1f} % of the largest output; bits of fraction of the weights: {fractions}"
)

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`iwata1989artificial`, {cite:t}`hammerstrom1990vlsi` and {cite:t}`holt1993finite` are the early works; we know them by their titles and abstracts.
# - {cite:t}`mamalet2007realtime` and {cite:t}`roux2007embedded` built the embedded networks, {cite:t}`garcia2004cff` designed the face finder.
# - {cite:t}`berthelier2020survey` is the survey.
