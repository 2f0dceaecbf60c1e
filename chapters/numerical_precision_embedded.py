# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-numerical-precision-embedded)=
# # Limited precision on embedded processors: short floats and integer networks
#
# How many bits does a network need where 32-bit floats cost too much?
# Once it is trained, eight bits {glue:text}`numerical_precision_embedded.inference8.outcome`: a digit classifier with
# one hidden layer misclassifies {mean}`numerical_precision_embedded.inference8.error_pct 1` in 8-bit fixed point and
# {mean}`numerical_precision_embedded.float32.error_pct 1` in floats.
# When it learns in eight bits, {glue:text}`numerical_precision_embedded.ranged8.outcome`.
# In a wide range,
# {finding}`most updates get lost | numerical_precision_embedded.learning8.swallowed_pct > 50`, and the error is
# {mean}`numerical_precision_embedded.learning8.error_pct 0`; in a chosen one it is
# {mean}`numerical_precision_embedded.ranged8.error_pct 0`.
#
# ```{claims} numerical_precision_embedded
# ```
#
# ```{cost} numerical_precision_embedded
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # networks of each kind, trained from different starts
learning_images = 600  # of the training split, for the network with one hidden layer
learning_epochs = 8  # over them
learning_rate = 2.0  # of back-propagation, chosen on validation images
batch_size = 10  # images in a step of back-propagation
hidden = 32  # units in its hidden layer
learning_bits = [8, 12, 16]  # of a word in fixed point, when learning
ranged_bits = [8]  # those for which the range of the weights is chosen, too
weight_ranges = [1, 2, 3, 4]  # integer bits of a weight that are tried there
inference_bits = [4, 5, 6, 8, 10, 12, 16]  # of a word, when answering only
finder_images = 2000  # of the training split, for the convolutional network
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
from lib.cache import trained
from lib.precision import embedded_cnn, fixed_point, limited_precision
from lib.precision.shared import formats, integers, short_floats

dataset = datasets.load(data)
record = evidence.recorder("numerical_precision_embedded", dataset)


def error(model):
    return training.error_pct(model, dataset.test)


# %% [markdown]
# (sec-limited-precision)=
# ## Learning in few bits
#
# **The idea.** Long before deep networks, the number of bits decided what hardware could be built.
# {cite:t}`iwata1989artificial` built an accelerator from signal processors with 24-bit floats.
# {cite:t}`hammerstrom1990vlsi` designed a chip for learning in {term}`fixed point` of 8 and 16 bits.
# {cite:t}`holt1993finite` analyzed what rounding errors do in a network.
#
# **The formula.** A float with $e$ bits for the exponent $E$, $m$ bits for the significand $F$, and the bias $\beta = 2^{e-1} - 1$
# is
#
# $$
# \begin{aligned}
# &\pm \Big(1 + \frac{F}{2^m}\Big)\, 2^{E - \beta} && \text{for } 0 < E < 2^e - 1, \\
# &\pm \frac{F}{2^m}\, 2^{1 - \beta} && \text{for } E = 0,
# \end{aligned}
# $$ (eq-short-float)
#
# and where the first line holds, rounding changes a number by at most $2^{-(m+1)}$ of its size.
# In fixed point the numbers are evenly spaced, so rounding errs by up to half a step, however small the number.
# We do not know how the machine of 1989 divided its 24 bits.
# Here the sign has one bit, the exponent 7 and the significand 16.
#
# **The code.** The bits of a 32-bit float are read as an integer, and that integer is rounded:

# %% tags=["remove-input"]
figures.show_source(short_floats.round_bits)

# %% [markdown]
# **An exact check.** For three formats that PyTorch has, the result agrees bit for bit: half precision, bfloat16 and an
# 8-bit float.

# %%
short, size = short_floats.rounded, torch.logspace(-24, 18, 6300, base=2.0)
types = {(5, 10): torch.half, (8, 7): torch.bfloat16, (5, 2): torch.float8_e5m2}
for (e, m), dtype in types.items():
    assert torch.equal(short(size, exponent=e, significand=m), size.to(dtype).float())

# %% tags=["hide-input"]
widths = {"half, 16 bits": (5, 10), "bfloat16": (8, 7), "24-bit float": (7, 16)}
rounded = {
    name: short(size, exponent=e, significand=m) for name, (e, m) in widths.items()
}
rounded["fixed point, 16 bits"] = formats.rounded(size, formats.Format(4, 12))
lost = {name: (values - size).abs() / size for name, values in rounded.items()}

# %% tags=["remove-input"]
figure, ax = figures.axes()
looks = [figures.RETRAINED, figures.COMBINED, figures.PRUNING, figures.QUANTIZATION]
for (name, value), look in zip(lost.items(), looks, strict=True):
    worst = (
        100 * value.clamp(max=1).reshape(-1, 150).max(1).values
    )  # between powers of two
    place = size.log2().reshape(-1, 150).mean(1)
    ax.plot(place, worst, color=look["color"], linestyle=look["linestyle"], label=name)
ax.set(
    xlabel="size of the number (power of 2)", ylabel="largest error (% of the number)"
)
ax.set(yscale="log", ylim=(3e-4, 200), xticks=range(-24, 19, 6))
ax.set_yticks(
    [0.001, 0.01, 0.1, 1, 10, 100], ["0.001", "0.01", "0.1", "1", "10", "100"]
)
figures.legend(ax)
near = {
    name: 100 * float(value[size.log2().abs() < 2].max())
    for name, value in lost.items()
}
small = {
    name: 100 * float(value[(size.log2() + 10).abs() < 1].max())
    for name, value in lost.items()
}
figures.show(
    figure,
    finding=f"Around 1/1000, a number loses up to {small['fixed point, 16 bits']:.0f} % in 16-bit fixed point "
    f"and {small['half, 16 bits']:.2f} % in a 16-bit float",
    name="fig-number-formats",
    caption="The largest relative error of rounding a number to four formats, by the size of the number.",
    alt="Four curves of relative error by the size of the number. Near one the formats lose at most "
    + ", ".join(f"{value:.2g} % ({name})" for name, value in near.items())
    + ". The floats are flat over their range; fixed point loses more the smaller the number, until nothing is left of it.",
)

# %% [markdown]
# **What to see.** In a float, the rounding error is at most the same share of every number in the range; in fixed point
# that share doubles whenever the number halves.
# Fixed point of 16 bits matches half precision only near the top of its range.
# Half precision, in turn, fails at both ends of the figure, where numbers are too small or too large for it.
#
# ### A network of that time
#
# The network has one hidden layer, sigmoids everywhere and the squared error; plain back-propagation trains it:

# %% tags=["remove-input"]
figures.show_source(limited_precision.learn)

# %% [markdown]
# Every variable in memory is rounded to nearest: weights, {term}`activations <activation>`, errors and updates.
# In fixed point, signals lie between −1 and 1.
# Weights lie between −8 and 8, which takes four integer bits, one of them for the sign.
# A shorter word may do better with a narrower range of weights.
# For words of {glue:text}`numerical_precision_embedded.setting.ranged` we therefore choose the range as well.
# We try {glue:text}`numerical_precision_embedded.setting.weight_ranges` integer bits and keep the number with the best
# validation error of the first network.
# Sums of products and the sigmoid are computed in floats and then rounded, so we simulate the memory but not every
# adder.
#
# **The experiment.** Networks with the same initial weights and the same order of images learn in words of different
# lengths.
# For comparison, we round the network that learned in 32-bit floats once, so that it only answers in few bits.

# %%
train = dataset.train.first(learning_images)
inputs, classes = train.images[0].numel(), len(dataset.classes)
options = {"epochs": learning_epochs, "learning_rate": learning_rate}
options |= {"batch_size": batch_size}


def learned(words, seed):
    shape = {"hidden": hidden, "classes": classes, "seed": seed}
    model = limited_precision.Perceptron(inputs, **shape)
    model.words = words
    return model, limited_precision.learn(model, train, seed=seed, **options)


fixed, words = limited_precision.fixed, {"float32": limited_precision.single()}
words |= {"float24": limited_precision.floating()}
words |= {f"learning{bits}": fixed(bits) for bits in learning_bits}
best_range = {}
for bits in ranged_bits:
    tried = {i: learned(fixed(bits, integer=i), 0)[0] for i in weight_ranges}
    validated = {i: training.error_pct(m, dataset.validation) for i, m in tried.items()}
    best_range[bits] = min(validated, key=validated.get)
    words[f"ranged{bits}"] = fixed(bits, integer=best_range[bits])
networks = {name: [learned(w, s) for s in range(seeds)] for name, w in words.items()}

# %%
errors = {name: [error(m) for m, _ in pairs] for name, pairs in networks.items()}
for bits in inference_bits:
    errors[f"inference{bits}"] = [
        error(limited_precision.retrieve(model, fixed(bits)))
        for model, _ in networks["float32"]
    ]

# %% tags=["remove-cell"]
for name, values in errors.items():
    record(f"{name}.error_pct", values)
for name, pairs in networks.items():
    record(f"{name}.swallowed_pct", [100 * share for _, share in pairs], digits=1)
for bits, chosen in best_range.items():
    record(f"ranged{bits}.integer_bits", chosen, "integer bits", 0, exact=True)
evidence.phrase(
    "numerical_precision_embedded.setting.ranged",
    " and ".join(str(bits) for bits in ranged_bits) + " bits",
)
evidence.phrase(
    "numerical_precision_embedded.setting.weight_ranges",
    f"{min(weight_ranges)} to {max(weight_ranges)}",
)
mean = {name: float(np.mean(values)) for name, values in errors.items()}
helped = mean["learning8"] - mean["ranged8"] > 5
evidence.phrase(
    "numerical_precision_embedded.ranged8.outcome",
    "the range of the weights decides" if helped else "no range of the weights helps",
)
enough = mean["inference8"] - mean["float32"] <= 1
evidence.phrase(
    "numerical_precision_embedded.inference8.outcome",
    "are enough" if enough else "are too few",
)

# %% tags=["remove-input"]
figure, ax = figures.axes()
for kind, lengths, id, text in (
    ("learning", learning_bits, "early-limited-precision", "learning and answering"),
    ("inference", inference_bits, "embedded-fixed-point-face-cnn", "answering only"),
):
    places = [bits + (0.1 if kind == "learning" else -0.1) for bits in lengths]
    runs_of = [errors[f"{kind}{bits}"] for bits in lengths]
    figures.line(ax, places, runs_of, figures.look(id), text, bounds=figures.PERCENT)
look = figures.look("early-limited-precision") | {"linestyle": "none", "marker": "x"}
chosen = [errors[f"ranged{bits}"] for bits in ranged_bits]
text = "learning, range chosen"
figures.line(ax, ranged_bits, chosen, look, text, bounds=figures.PERCENT)
level = figures.DENSE | {"marker": ""}
ax.axhline(mean["float32"], **level, label="floats of 32 bits")
ax.set(xlabel="bits of a word in fixed point", ylabel="test error (%)", ylim=(0, 100))
ax.set_xticks(inference_bits)
figures.legend(ax)
by_word = {
    re.sub(r"(?<=[a-z])(?=[0-9])", " with ", name): value
    for name, value in mean.items()
}
figures.show(
    figure,
    lead=True,
    finding=f"In 8 bits, a trained network answers with {mean['inference8']:.1f} % error; "
    f"one that learns in them has {mean['learning8']:.0f}\u00a0%, "
    f"and {mean['ranged8']:.0f}\u00a0% in a range chosen for them",
    name="fig-learning-bits",
    caption="Test error of a network with one hidden layer, by the bits of its words: in learning and answering, with weights between −8 and 8 or in a chosen range, or in answering only. Means over seeds with 95 % intervals.",
    alt="Test error by the bits of a word. "
    + ", ".join(f"{name} bits: {value:.1f} %" for name, value in by_word.items()),
)

# %% [markdown]
# **What to see.** In the same range, learning
# {finding}`needs more bits than answering | numerical_precision_embedded.learning8.error_pct - numerical_precision_embedded.inference8.error_pct > 5`:
# an update smaller than half a step changes nothing, and answering has no updates.
# In the last {term}`epoch`, learning in 8 bits lost {mean}`numerical_precision_embedded.learning8.swallowed_pct 2` of its
# updates in this way.
# Learning in 16 bits lost {mean}`numerical_precision_embedded.learning16.swallowed_pct`.
# A narrower range has finer steps.
# In the range chosen for short words ({glue:text}`numerical_precision_embedded.ranged8.integer_bits`),
# {mean}`numerical_precision_embedded.ranged8.swallowed_pct` of the updates are lost and the error is
# {mean}`numerical_precision_embedded.ranged8.error_pct`.
# The survey says that 8 to 16 bits are enough for learning {cite:p}`berthelier2020survey`: {verdict}`C2.5-07`.
#
# 24-bit floats learn
# {finding}`as well as 32-bit floats | numerical_precision_embedded.float24.error_pct ~ numerical_precision_embedded.float32.error_pct`.
# Their errors are {mean}`numerical_precision_embedded.float24.error_pct` and
# {mean}`numerical_precision_embedded.float32.error_pct`.
# The survey reports back-propagation on 24-bit floating-point units: {verdict}`C2.5-05`.
# The [chapter on training in fixed point](numerical_precision.py) shows how stochastic rounding saves the small updates.
#
# (sec-embedded-cnn)=
# ## A network of integers
#
# **The idea.** {cite:t}`mamalet2007realtime` and {cite:t}`roux2007embedded` found faces and facial features in images
# with networks on processors without floating point.
# Each layer gets its own fixed-point format, chosen from the range of its values on sample images.
# The processor then only multiplies and shifts integers, and looks tanh up in a table.
# The first authors report 35 small video images per second on a signal processor with 275 MHz
# {cite:p}`mamalet2007realtime`.
# For facial features, the second report a speed-up of 700 over the float reference, without loss
# {cite:p}`roux2007embedded`.
#
# Our network is similar to the Convolutional Face Finder {cite:p}`garcia2004cff`, which has two stages.
# Each stage is a convolution, a mean over windows of $2 \times 2$ with a factor and a bias, and tanh.
# The first stage has 4 maps and {term}`kernels <kernel>` of $5 \times 5$ pixels, the second 14 maps and kernels of $3 \times 3$.
# One neuron for each of these maps follows, and then the output layer.
# We have no images of faces, so handwritten digits stand in for them.
#
# **The formula.** With integer codes $W$ for the weights, $w = W 2^{-f_w}$, and $X$ for the signals, $x = X 2^{-f_x}$,
# a layer computes a sum $A$ and its output $Y$:
#
# $$ A = B + \sum_i W_i X_i, \qquad Y = \big(A + 2^{s-1}\big) \gg s, \qquad s = f_x + f_w - f_y . $$ (eq-integer-sum)
#
# Here $B$ is the bias as an integer, and the shift by $s$ bits brings the sum into the format of the output.
# With codes of $b$ bits, every sum fits into 32 bits, whatever the image, if $2^{b-1} \sum_i \lvert W_i \rvert + \lvert B \rvert + 2^{s-1} < 2^{31}$.
# Where this fails, $f_w$ is lowered until it holds.
#
# **The code.** The first function chooses the formats, the second computes the sums:

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.IntegerSum.__init__, integers.convolve_codes)

# %% [markdown]
# ### Convolution and pooling in one
#
# The mean of four neighboring sums is one sum over a larger window, with stride 2 and the kernel
#
# $$ \bar k = \tfrac14 \big( k * \mathbb 1_{2 \times 2} \big) : $$ (eq-fused-kernel)
#
# for a kernel of side 5, four sums of 25 products become one sum of 36.
# The factor of each map is multiplied into the kernel, too.

# %% tags=["remove-input"]
figures.show_source(embedded_cnn.fused_kernel)

# %% [markdown]
# **Two exact checks.** One output pixel agrees with Python's integers, which cannot overflow.
# And before the shift, each fused sum *is* the sum of four.

# %%
draw, none = np.random.default_rng(0), np.zeros(2, np.int32)
codes = draw.integers(-(2**15), 2**15, (1, 3, 8, 8)).astype(np.int16)
kernel = draw.integers(-500, 500, (2, 3, 3, 3))
window = codes[0, :, 4:7, 2:5].flatten().tolist()
weights = kernel[1].flatten().tolist()
total = sum(w * x for w, x in zip(weights, window, strict=True))
pixel = integers.convolve(codes, kernel, none, shift=10, bits=16)[0, 1, 4, 2]
assert pixel == min(max((total + 2**9) >> 10, -(2**15)), 2**15 - 1)
wide = embedded_cnn.fused_kernel(torch.from_numpy(kernel)).numpy()
apart = integers.convolve(codes, kernel, none).reshape(1, 2, 3, 2, 3, 2).sum((3, 5))
assert (integers.convolve(codes, wide, none, stride=(2, 2)) == apart).all()

# %% [markdown]
# Now we train the networks in floats and fuse them:


# %%
def face_finder(seed):
    channels = train.images.shape[1]
    return embedded_cnn.face_finder(seed, channels=channels, classes=classes)


finders = trained(
    training.fit,
    face_finder,
    seeds=range(seeds),
    split=dataset.train.first(finder_images),
    epochs=finder_epochs,
    learning_rate=0.05,
    batch_size=32,
)
fused = [embedded_cnn.fuse(model) for model in finders]
images = dataset.test.first(200).images
assert torch.allclose(finders[0](images), fused[0](images), atol=1e-4)

# %% [markdown]
# ### tanh from a table
#
# A table holds tanh at points that are $h$ apart, and straight lines connect its entries.
# The error is at most $\tfrac{h^2}{8} \max \lvert \tanh'' \rvert$ plus half a unit of the last bit for rounding.
# Where tanh reaches the largest code, the error is at most one unit.

# %% tags=["hide-input"]
all_codes, rows = np.arange(-(2**15), 2**15).astype(np.int16), []
exact = np.tanh(all_codes / 2.0**integers.TANH_FRACTION)
for bits, entries in ((16, 6), (16, 8), (16, 10), (8, 4), (8, 6)):
    table, unit = integers.tanh_table(bits, entries), 2.0 ** (1 - bits)
    highest = 2 ** (bits - 1) - 1
    answers = integers.tanh(all_codes, table, 0, highest) * unit
    worst, bound = np.abs(answers - exact).max(), integers.tanh_error(bits, entries)
    assert worst <= bound
    row = {"bits": bits, "entries": len(table), "table (bytes)": table.nbytes}
    row["largest error (units)"] = f"{worst / unit:.2f}"
    rows.append(row | {"bound (units)": f"{bound / unit:.2f}"})
figures.table(
    rows,
    caption="tanh from a table, tried with all 65,536 codes; a unit is the last bit",
)

# %% [markdown]
# No code exceeds the bound, and a table of about a thousand entries keeps the error of 16-bit codes within one unit.
#
# ### 16 bits, 8, and fewer
#
# The trained network, with convolution and pooling fused, now computes in integers of different widths, each with its
# own formats.


# %%
def in_integers(models, bits):
    seen = dataset.train.first(range_images)
    return [embedded_cnn.convert(model, seen, bits=bits) for model in models]


twins = [error(model) for model in finders]
in_bits = {bits: in_integers(fused, bits) for bits in network_bits}

# %% tags=["remove-input"]
record("face_finder.error_pct", twins)
rows, changes = [{"bits of a code": bits} for bits in network_bits], {}
for row, (bits, copies) in zip(rows, in_bits.items(), strict=True):
    values = [error(model) for model in copies]
    change = np.subtract(values, twins).tolist()
    changes[bits] = float(np.mean(change))
    row["test error (%)"] = record(f"int{bits}.error_pct", values).removesuffix(" %")
    row["change (points)"] = evidence.formatted(change, unit="", digits=2)
figures.table(
    rows,
    caption="One network in integers of different width: test error, and its change from floats",
)
same = max(abs(changes[16]), abs(changes[8])) <= 0.5
evidence.phrase(
    "numerical_precision_embedded.int8.outcome",
    "cost next to nothing" if same else "cost accuracy",
)

# %% [markdown]
# **What to see.** Sixteen and eight bits {glue:text}`numerical_precision_embedded.int8.outcome`: the error is
# {mean}`numerical_precision_embedded.face_finder.error_pct` in floats,
# {mean}`numerical_precision_embedded.int16.error_pct` in sixteen bits and
# {mean}`numerical_precision_embedded.int8.error_pct` in eight.
# The survey cites networks for faces that run in fixed point and in real time on embedded processors:
# {verdict}`C2.5-22`.
#
# ## What is saved
#
# We compare all formats on the same trained networks.
# Short floats and fixed point are *simulated*: the weights are rounded, but the arithmetic is that of floats.
# A processor without floating point could run the integer networks as they are, with convolution and pooling apart or
# fused.
# We time one image of 176 by 144 pixels, over which the network slides.
# The calls take turns, in one process and on one thread.

# %% tags=["hide-input"]
stored = {"float32": finders, "float32, fused": fused}
forms = {"float24": (7, 16), "float16": (5, 10), "bfloat16": (8, 7), "float8": (5, 2)}
for name, (e, m) in forms.items():
    copies = copy.deepcopy(finders)
    stored[name] = [
        limited_precision.store(f, exponent=e, significand=m) for f in copies
    ]
word = formats.Format(4, 12)
stored["fixed16"] = [fixed_point.quantize(f, word) for f in copy.deepcopy(finders)]
stored["int16, apart"] = in_integers(finders, 16)
stored |= {"int16, fused": in_bits[16], "int8, fused": in_bits[8]}
ends = {name: [error(model) for model in copies] for name, copies in stored.items()}
files = {
    n: [len(storage.dumps(model)) for model in copies] for n, copies in stored.items()
}

# %% tags=["hide-input"]
frame = torch.rand(
    1, images.shape[1], 144, 176, generator=torch.Generator().manual_seed(0)
)
first = {name: copies[0] for name, copies in stored.items()}
calls = {
    name: lambda network=network: network(frame) for name, network in first.items()
}
times = {name: t.median for name, t in measure.latency_ms(calls, runs=runs).items()}
apart, one = first["int16, apart"].steps, first["int16, fused"].steps[0]
codes = first["int16, apart"].trace(frame)[0][0]
calls = {"apart": lambda: apart[2](integers.mean_pool(apart[0](codes)))}
stage = measure.latency_ms(calls | {"fused": lambda: one(codes)}, runs=runs)
layers = [
    measure.multiply_adds_by_layer(net[0], images.shape[1:]) for net in (finders, fused)
]
work = [sum(by_layer.values()) for by_layer in layers]

# %% tags=["remove-input"]
record("fused.multiply_adds_ratio", work[0] / work[1], digits=2, exact=True)
stages = layers[0]["c1"] + layers[0]["s1"], next(iter(layers[1].values()))
fewer = stages[0] / stages[1]
record("fused.stage_multiply_adds_ratio", fewer, digits=2, exact=True)
faster = stage["apart"].median / stage["fused"].median
record("fused.stage_latency_ratio", faster, digits=2)
quicker = "faster" if faster > 1 else "not faster"
evidence.phrase("numerical_precision_embedded.fused.outcome", quicker)
faster = times["int16, apart"] / times["int16, fused"]
record("fused.network_latency_ratio", faster, digits=2)
memory = {
    name: embedded_cnn.memory_bytes(model, frame) for name, model in first.items()
}
ratio = memory["int16, fused"][1] / memory["int16, apart"][1]
record("fused.maps_ratio", ratio, digits=2, exact=True)
for name in stored:
    key = name.replace(", ", "_")
    record(f"{key}.file_bytes", files[name])
    record(f"{key}.parameters_bytes", memory[name][0], exact=True)
    record(f"{key}.maps_bytes", memory[name][1], exact=True)
    record(f"{key}.latency_ratio", times[name] / times["float32"], digits=2)
    record(f"finder_{key}.error_pct", ends[name])
figure, ax = figures.axes()
marks = [
    figures.DENSE,
    figures.PRUNING,
    figures.RETRAINED,
    figures.COMBINED,
    figures.RETRAINED,
]
marks += [figures.PRUNING, figures.QUANTIZATION, figures.QUANTIZATION]
shown = [name for name in stored if name not in ("float32, fused", "int16, apart")]
for name, look in zip(shown, marks, strict=True):
    hollow = (
        {"markerfacecolor": "none"}
        if name in ("float8", "fixed16", "int8, fused")
        else {}
    )
    change, place = np.subtract(ends[name], twins), [np.mean(files[name]) / 1000]
    figures.line(ax, place, [change], look | {"linestyle": "none"} | hollow, name)
ax.axhline(0, color="#b0b0b0", linewidth=1)
ax.set(xlabel="file (kB)", ylabel="change of test error (points)", xlim=(0, None))
figures.legend(ax, 4, narrow=True)
points = "; ".join(
    f"{n}: {np.mean(files[n]):,.0f} bytes, {np.mean(ends[n]):.2f} %" for n in shown
)
kb = {n: np.mean(files[n]) / 1000 for n in shown}
moved = f"{changes[8]:+.2f}".replace("-", "−")
figures.show(
    figure,
    finding=f"8-bit integers: a file of {kb['int8, fused']:.1f} instead of {kb['float32']:.1f}\u00a0kB, "
    f"error {moved}\u00a0points",
    name="fig-formats-compared",
    caption="Change of the test error against the size of the file, for one network in eight formats. Means over seeds with 95 % intervals.",
    alt=f"File size and test error by format. {points}.",
)
rows = [
    {
        "format": name,
        "file": f"{np.mean(files[name]):,.0f}",
        "parameters": f"{memory[name][0]:,}",
        "maps": f"{memory[name][1]:,}",
        "multiply-adds": f"{work['fused' in name]:,}",
        "time": f"{times[name] / times['float32']:.2f}",
    }
    for name in stored
]
figures.table(
    rows,
    caption="One network in ten forms: bytes of the file, of parameters in memory and of the two largest maps; multiply-adds for one digit; time for the larger image, relative to float32",
)

# %% [markdown]
# **What to see.** Integers save memory; simulated words only shrink the file.
# In memory, the parameters of the 16-bit integers take
# {glue:text}`numerical_precision_embedded.int16_apart.parameters_bytes`, and those of the floats
# {glue:text}`numerical_precision_embedded.float32.parameters_bytes`.
# Simulated 16-bit words keep each weight and its rounded copy,
# {glue:text}`numerical_precision_embedded.fixed16.parameters_bytes` in all, and take
# {glue:text}`numerical_precision_embedded.fixed16.latency_ratio` the time of floats.
# Their file
# {finding}`is smaller than that of floats | numerical_precision_embedded.fixed16.file_bytes < numerical_precision_embedded.float32.file_bytes`.
# So
# {finding}`is the file of 24-bit floats | numerical_precision_embedded.float24.file_bytes < numerical_precision_embedded.float32.file_bytes`:
# it takes {mean}`numerical_precision_embedded.float24.file_bytes` instead of
# {mean}`numerical_precision_embedded.float32.file_bytes`, because its exponents are entropy-coded.
# The maps take 16 bits per value in all integer networks, since tanh reads 16-bit codes.
#
# Fusing makes the kernels
# {finding}`larger | numerical_precision_embedded.int16_fused.parameters_bytes > numerical_precision_embedded.int16_apart.parameters_bytes`:
# the parameters then take {glue:text}`numerical_precision_embedded.int16_fused.parameters_bytes`.
# It makes the work {finding}`smaller | numerical_precision_embedded.fused.stage_multiply_adds_ratio > 1`: the first
# stage has {glue:text}`numerical_precision_embedded.fused.stage_multiply_adds_ratio` fewer multiply-adds.
# The two biggest maps take {glue:text}`numerical_precision_embedded.int16_fused.maps_bytes` with convolution and
# pooling fused, and {glue:text}`numerical_precision_embedded.int16_apart.maps_bytes` with them apart.
# On this machine the fused stage is {glue:text}`numerical_precision_embedded.fused.outcome`: it runs
# {glue:text}`numerical_precision_embedded.fused.stage_latency_ratio` as fast, and the whole network
# {glue:text}`numerical_precision_embedded.fused.network_latency_ratio`.
# Integers run in our own loops and floats in a tuned library, so their times cannot be compared with each other.
# The survey says that algorithms can be fitted to a processor ({verdict}`C2.5-28`) and can use the locality of its
# memory ({verdict}`C2.5-33`).
#
# ## Where it breaks
#
# **Learning in 8 bits, in a wide range.** With weights between −8 and 8, almost no update is large enough to move a
# weight.
# The error is {glue:text}`numerical_precision_embedded.learning8.error_pct`.
#
# **Sums that overflow.** If formats are chosen by the range of the weights alone, a sum of many products no longer fits
# into 32 bits.
# The table sums more and more bright inputs, in such formats and in those of our network:

# %% tags=["hide-input"]
rows, options = [], {"bits": 16, "fraction": 15, "wanted": 0, "output_bits": 32}
for n in (16, 64, 256, 784):
    light, layer = np.full((1, n), 2**15 - 1, np.int16), nn.Linear(n, 1, bias=False)
    nn.init.constant_(layer.weight, 0.9)
    greedy = np.full((1, n, 1, 1), round(0.9 * 2**15), np.int16)
    wrapped = integers.convolve(light[:, :, None, None], greedy, none[:1]).item()
    careful = embedded_cnn.IntegerSum(layer, **options)
    kept = careful(light).item() / 2.0**careful.fraction
    row = {"inputs": n, "exact": f"{0.9 * n:.1f}"}
    row |= {"by range alone": f"{wrapped / 2.0**30:.2f}".replace("-", "−")}
    row |= {"with our formats": f"{kept:.2f}"}
    rows.append(row | {"fraction of a weight (bits)": int(careful.formats[1])})
figures.table(
    rows, caption="A sum of products of 16-bit codes in 32 bits, weights 0.9, inputs 1"
)

# %% [markdown]
# A sum that wraps around is not slightly wrong but completely wrong.
# Our formats avoid this, but each doubling of the inputs costs one bit of the weights.
# In a wide layer, a weight therefore does not use all of its 16 bits.
#
# **Few bits.** The error is {mean}`numerical_precision_embedded.int4.error_pct` with four bits,
# {mean}`numerical_precision_embedded.int3.error_pct` with three and
# {mean}`numerical_precision_embedded.int2.error_pct` with two.
# Nothing was trained after the formats were chosen.
#
# ## Exercises
#
# 1. What is the largest number of our 24-bit float, and how many decimal digits of a number does it keep?

# %% tags=["hide-cell"]
top, digits = short_floats.largest(exponent=7, significand=16), 17 * np.log10(2)
evidence.answer(
    f"The largest number is about {top:.3g}; the 17 bits of the significand, with the implicit leading one, hold {digits:.1f} decimal digits."
)

# %% [markdown]
# 2. For which kernels does fusing pay? Derive the ratio of multiply-adds for a kernel of side $k$, and check it.

# %% tags=["hide-cell"]
saved = {}
for k in (1, 3, 5, 7):
    pair = nn.Sequential(nn.Conv2d(1, 1, k, padding=k // 2), nn.AvgPool2d(2))
    nets = pair, embedded_cnn.fuse(pair)
    before, after = (measure.multiply_adds(net, (1, 28, 28)) for net in nets)
    assert before * (k + 1) ** 2 == after * 4 * k**2  # never more than 4 times
    saved[k] = before / after
evidence.answer(
    "The ratio is $4 k^2 / (k + 1)^2$, so fusing pays for all kernels larger than one pixel: "
    + ", ".join(f"{ratio:.2f}× for side {k}" for k, ratio in saved.items())
    + "."
)

# %% [markdown]
# 3. Run the convolutions of torchvision's AlexNet, with random weights, in integers. How far are its outputs from those in floats?

# %% tags=["hide-cell"]
from lib.datasets import Split
from lib.vision import torchvision

alexnet = torchvision.models.alexnet().features.eval()
picture = Split(torch.rand(1, 3, 64, 64), torch.zeros(1, dtype=torch.long))
network = embedded_cnn.convert(alexnet, picture)
exact = alexnet(picture.images).detach()
far = (network(picture.images) - exact).abs().max() / exact.abs().max()
fractions = [int(step.formats[1]) for step in network.steps if hasattr(step, "formats")]
evidence.answer(
    f"They are off by at most {100 * far:.1f} % of the largest output; the weights of its {len(fractions)} layers have {min(fractions)} to {max(fractions)} bits of fraction."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 2.5
# ```
#
# ## In short
#
# - A trained network answers well in 8-bit fixed point. Learning in 8 bits fails when the weights have a wide range,
#   because most updates are rounded away.
# - With a format for each layer, a convolutional network runs on integers alone, without retraining; choose the formats so that no sum can overflow.
# - Fusing a convolution with the pooling after it takes away more than half of the multiply-adds.
#
# ## Sources of this chapter
#
# - {cite:t}`iwata1989artificial`, {cite:t}`hammerstrom1990vlsi` and {cite:t}`holt1993finite` are the early works; we
#   know only their titles and abstracts.
# - {cite:t}`mamalet2007realtime` and {cite:t}`roux2007embedded` built the embedded networks, {cite:t}`garcia2004cff` designed the face finder.
# - {cite:t}`berthelier2020survey` is the survey.
