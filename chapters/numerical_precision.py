# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-numerical-precision)=
# # Training in fixed point
#
# A network can be *trained* in 16 bits and less, not only stored so.
# In 16-bit fixed point with 8 fractional bits LeNet-300-100 reaches an error of {glue:text}`numerical_precision.nearest8.error_pct` if numbers are rounded to nearest, and of {glue:text}`numerical_precision.stochastic8.error_pct` if they are rounded by chance; in 32-bit floats the same training reaches {glue:text}`numerical_precision.float.error_pct`.
# With a range of its own for each kind of number, 10 bits reach {glue:text}`numerical_precision.dynamic10.error_pct`; with one range for all, 10 bits reach {glue:text}`numerical_precision.fixed10.error_pct`.
# All networks start from the same weights and see the same images in the same order.
#
# ## What the survey says, and what came out
#
# ```{claims} numerical_precision
# ```
#
# ## What this page needs
#
# ```{cost} numerical_precision
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
train_images = 600  # of the training split, at most
test_images = 10_000  # of the test split, at most
side = 8  # pixels on a side, to which the images are averaged for LeNet-300-100
seeds = 2  # networks of each kind, from different starts
epochs = 4  # to train each of them
batch_size = 32  # images a step
learning_rate = 0.5  # of the first epoch
slow_rate = 0.1  # a smaller one, where it breaks
coarse_bits = 4  # of a word, the sign among them, where errors travel
decay = 0.6  # of the learning rate, after each epoch
fractions = [14, 12, 10, 8]  # fractional bits of a word of 16
move_every = 1  # steps between two moves of the dynamic ranges
widths = [10, 7]  # bits of dynamic fixed point, the sign among them
draws = 200_000  # of each stochastic rounding that is counted
updates = 2000  # of a weight, each less than half a step
lenet5_images = 200  # images for LeNet-5
lenet5_epochs = 1  # to train each of them
lenet5_rate = 0.2  # learning rate of its first epoch
lenet5_decay = 0.3  # of that learning rate, after each epoch

# %% tags=["hide-input"]
import copy

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.datasets import Split
from lib.precision import dynamic_fixed_point, fixed_point
from lib.precision.dynamic_fixed_point import DynamicFixedPoint, HalfFloat, find_ranges
from lib.precision.fixed_point import FixedPoint
from lib.precision.shared import formats, gradient_descent
from lib.precision.shared.arithmetic import Arithmetic, computing
from lib.precision.shared.formats import Format, rounded
from lib.quantization import scalar_kmeans

dataset = datasets.load(data)
evidence.uses(dataset)


def averaged(split):
    return Split(nn.functional.adaptive_avg_pool2d(split.images, side), split.labels)


train, test = averaged(dataset.train.first(train_images)), averaged(dataset.test.first(test_images))
options = {"learning_rate": learning_rate, "batch_size": batch_size, "decay": decay}


def network(seed):
    return models.lenet_300_100(seed, inputs=side**2)


def record(key, values, unit="%", digits=2, exact=False):
    return evidence.record(
        f"numerical_precision.{key}", values, unit=unit, digits=digits, exact=exact
    )


# %% [markdown]
# (sec-fixed-point)=
# ## Fixed point: everything in sixteen bits
# **The idea.** {cite:t}`gupta2015limited` keep every number of training, not only the weights, as a whole multiple of one small step: weights, biases, outputs, errors on their way back, gradients and updates.
# Such numbers need integer units alone, which are small and cheap in hardware.
#
# **The formula.** A format $\langle IL, FL \rangle$ has $IL$ integer bits, the sign among them, and $FL$ fractional bits.
# Its step is $\epsilon = 2^{-FL}$ and its range $[-2^{IL-1},\, 2^{IL-1} - \epsilon]$.
# A number $x$ lies between its neighbors $\lfloor x \rfloor$ and $\lfloor x \rfloor + \epsilon$, and two ways of rounding choose between them:
#
# $$ Q(x) = \begin{cases} \lfloor x \rfloor + \epsilon & \text{if } x - \lfloor x \rfloor \ge \tfrac{\epsilon}{2} \\ \lfloor x \rfloor & \text{else} \end{cases} \qquad \text{or} \qquad Q(x) = \begin{cases} \lfloor x \rfloor + \epsilon & \text{with probability } \tfrac{x - \lfloor x \rfloor}{\epsilon} \\ \lfloor x \rfloor & \text{else.} \end{cases} $$ (eq-two-roundings)
#
# What lies outside the range goes to the nearest rail.
# A dot product is summed in a wide accumulator and converted once, and a step of learning is
#
# $$ W \leftarrow Q\big(W - Q(\eta\, Q(g))\big). $$ (eq-fixed-point-update)
#
# **The code.** Any network of layers can be trained so; the first function is the rounding, the second the loop.

# %% tags=["remove-input"]
figures.show_source(formats.rounded, formats.round_each, gradient_descent.train)

# %% [markdown]
# The wide accumulator is simulated with 32-bit floats, which round a long sum at its 24th bit; in a `float64` network it is exact, and a test holds it against whole numbers.
# The loss and its softmax are computed in floats.
# We divide by the size of the batch in the accumulator, and use no momentum, for which one more format would be needed.
#
# **An exact check.** Which of the two neighbors is taken, and how often?

# %%
format = Format(8, 8, word=16)
places = torch.linspace(0.1, 0.9, 9)  # between two neighbors, in steps
values, generator = (places + 3) * format.step, torch.Generator().manual_seed(0)
many = values.repeat(draws, 1)
up = rounded(many, format, rounding="stochastic", generator=generator) / format.step > 3.5
sigma = (places * (1 - places) / draws).sqrt()
from_frequency = (up.double().mean(dim=0) - places).abs() / sigma
from_mean = abs(up.double().mean() - 0.5) * 9 / sigma.square().sum().sqrt()
line = torch.linspace(-4, 4, 100_001)
worst = (rounded(line, format) - line).abs().max() / format.step
assert torch.equal(rounded(values, format), ((places >= 0.5) + 3) * format.step)

# %% tags=["remove-cell"]
record("stochastic.frequency_sigmas", from_frequency.max(), "standard deviations", 1)
record("stochastic.bias_sigmas", from_mean, "standard deviations", 1)
record("nearest.worst_steps", worst, "steps", 3)

# %% [markdown]
# Rounded to nearest, no number moves by more than {glue:text}`numerical_precision.nearest.worst_steps`.
# Rounded by chance, the share that goes up is the distance from the lower neighbor: at nine places the counts deviate from that by at most {glue:text}`numerical_precision.stochastic.frequency_sigmas`, and the mean of all by {glue:text}`numerical_precision.stochastic.bias_sigmas`.
#
# ### The update that is swallowed
# A weight is to be moved by less than half a step, again and again.

# %%
small = torch.tensor([0.4 * format.step])
weights = {rounding: torch.ones(1) for rounding in formats.ROUNDINGS}
for _ in range(updates):
    for rounding in weights:
        change = rounded(small, format, rounding=rounding, generator=generator)
        weights[rounding] = rounded(weights[rounding] - change, format)
moved = {rounding: (1 - weight.item()) / format.step for rounding, weight in weights.items()}
assert moved["nearest"] == 0
assert abs(moved["stochastic"] - 0.4 * updates) < 4 * np.sqrt(updates * 0.4 * 0.6)
for rounding, steps in moved.items():
    record(f"{rounding}.moved_steps", steps, "steps", 0)
record("setting.updates", updates, "updates", 0, exact=True)

# %% [markdown]
# After {glue:text}`numerical_precision.setting.updates` the weight has moved {glue:text}`numerical_precision.nearest.moved_steps` to nearest, and by chance {glue:text}`numerical_precision.stochastic.moved_steps`.
# Each update is too small for a step, and rounding to nearest forgets it every time.
#
# ### Sixteen bits, shared out differently
# More fractional bits make the step finer and the range narrower.


# %%
class Watched(FixedPoint):
    kinds, off_grid = (), 0  # what was rounded, and how many numbers were not in the format

    def rounded(self, values, place):
        result = super().rounded(values, place)
        self.kinds = {*self.kinds, ".".join(place.split(".")[1:]) or place}
        self.off_grid += int((result / self.format.step).frac().count_nonzero())
        return result


watched = Watched(format, rounding="stochastic")
part = train.first(256)
gradient_descent.train(network(0), part, arithmetic=watched, epochs=1, seed=0, **options)
record("kinds.off_grid", watched.off_grid, "numbers", 0, exact=True)
record("kinds.watched", len(watched.kinds), "kinds", 0)

# %% [markdown]
# Nothing escapes the format: of {glue:text}`numerical_precision.kinds.watched` of numbers (input, weights, biases, outputs, and the errors, gradients and updates of these), {glue:text}`numerical_precision.kinds.off_grid` were off the grid in an epoch.
# Now the experiment: the same training for each format and each rounding.


# %%
errors, nets = {}, {}


def learn(name, make, *, build=network, splits=(train, test), epochs=epochs, **changes):
    """A network trained in the arithmetic ``make(seed)`` for each seed, and its error in that arithmetic."""
    nets[name], errors[name] = [], []
    for seed in range(seeds):
        model, arithmetic, own = build(seed), make(seed), options | changes
        if getattr(arithmetic, "every", None):
            find_ranges(model, splits[0], arithmetic=arithmetic, epochs=1, seed=seed, **own)
        own |= {"arithmetic": arithmetic, "epochs": epochs, "seed": seed}
        gradient_descent.train(model, splits[0], **own)
        with computing(model, arithmetic):
            errors[name].append(training.error_pct(model, splits[1]))
        nets[name].append((model, arithmetic))
    record(f"{name}.error_pct", errors[name])


# %%
def fixed(word, **kind):
    return lambda seed: FixedPoint(word, seed=seed, **kind)


words = {fl: Format(16 - fl, fl, word=16) for fl in fractions}
record("formats.word_bits", [words[fl].word for fl in (8, 10, 14)], "bits", 0, exact=True)
learn("float", lambda seed: Arithmetic())
for fl, word in words.items():
    for rounding in formats.ROUNDINGS:
        learn(f"{rounding}{fl}", fixed(word, rounding=rounding))

# %% tags=["remove-input"]
mean = {name: float(np.mean(values)) for name, values in errors.items()}
figure, ax = figures.axes()
LINES = {"nearest": (-0.08, figures.QUANTIZATION), "stochastic": (0.08, figures.PRUNING)}
for rounding, (shift, look) in LINES.items():
    x, curve = (
        np.array(fractions) + shift,
        np.array([errors[f"{rounding}{fl}"] for fl in fractions]),
    )
    ax.plot(x, curve.mean(axis=1), label=rounding, **look)
    ax.plot(x, curve, **look | {"linestyle": "none", "markersize": 4, "alpha": 0.6})
ax.axhline(mean["float"], color="#808080", linewidth=1.2, label="32-bit floats")
figures.logarithmic(ax, "y")
ax.set(xticks=fractions, xticklabels=[f"{fl}\n⟨{16 - fl}, {fl}⟩" for fl in fractions])
ax.set(xlabel="fractional bits of 16, and the format", ylabel="test error (%)", ylim=(None, 100))
figures.legend(ax, 3)
figures.show(
    figure,
    name="fig-fractional-bits",
    caption="Test error of LeNet-300-100 trained in 16-bit fixed point, by the number of fractional bits: each seed, and the mean as a line.",
    alt=f"Two lines of test error. With 8 fractional bits {mean['nearest8']:.1f} % rounded to nearest and {mean['stochastic8']:.1f} % "
    f"stochastically, with 14 {mean['nearest14']:.1f} and {mean['stochastic14']:.1f} %; floats {mean['float']:.1f} %.",
)

# %% [markdown]
# **What to see.** Read the two lines from right to left.
# With 12 fractional bits the error is {glue:text}`numerical_precision.nearest12.error_pct` to nearest and {glue:text}`numerical_precision.stochastic12.error_pct` by chance, with 10 it is {glue:text}`numerical_precision.nearest10.error_pct` and {glue:text}`numerical_precision.stochastic10.error_pct`, with 8 {glue:text}`numerical_precision.nearest8.error_pct` and {glue:text}`numerical_precision.stochastic8.error_pct`; floats reach {glue:text}`numerical_precision.float.error_pct`.
# The claims of the survey on this: {verdict}`C2.5-12`, {verdict}`C2.5-13`.
#
# ### Two ways to fail, and their cures
# **Too few fractional bits**: updates are swallowed.
# Three cures: rounding by chance; a wider storage for gradients, updates and kept weights, 24 bits here, with all else in 16; or 20 bits, ⟨4, 16⟩, in the last epoch, as {cite:t}`gupta2015limited` do.
#
# **Too few integer bits**: outputs meet the rails.
# A unit at the rail still receives an error, which can push it further out and never back in.
# The cure is our addition, and on by default: the error of a saturated output is zero.


# %%
learn("wide8", fixed(words[8], storage=Format(8, 16)))
for fl in (14, 12):
    learn(f"unmasked{fl}", fixed(words[fl], rounding="stochastic", mask=False))
learn("begun", fixed(words[8]), epochs=epochs - 1)
last = {"epochs": 1, "learning_rate": learning_rate * decay ** (epochs - 1)}
begun = [model for model, _ in nets["begun"]]
learn("finished20", fixed(Format(4, 16, word=20)), build=begun.__getitem__, **last)

# %% [markdown]
# **What to see.** Swallowed updates: {glue:text}`numerical_precision.nearest8.error_pct` become, in the order of the cures, {glue:text}`numerical_precision.stochastic8.error_pct`, {glue:text}`numerical_precision.wide8.error_pct` or {glue:text}`numerical_precision.finished20.error_pct`.
# Is a higher precision for updates a must, as the survey says? {verdict}`C2.5-24`.
# Saturated outputs: without the mask the error is {glue:text}`numerical_precision.unmasked14.error_pct` with two integer bits and {glue:text}`numerical_precision.unmasked12.error_pct` with four; with the mask {glue:text}`numerical_precision.stochastic14.error_pct` and {glue:text}`numerical_precision.stochastic12.error_pct`.
#
# ### A convolutional network
# The paper trains convolutional networks as well.
# The layers of LeNet-5 are wrapped in the same way, in ⟨4, 12⟩, for a short training on {glue:text}`numerical_precision.lenet5.images`.

# %%
parts = dataset.train.first(lenet5_images), dataset.test.first(test_images // 2)
record("lenet5.images", len(parts[0]), "images", 0)
short = {"build": models.lenet5, "splits": parts, "batch_size": 32}
short |= {"epochs": lenet5_epochs, "learning_rate": lenet5_rate, "decay": lenet5_decay}
learn("lenet5_float", lambda seed: Arithmetic(), **short)
for rounding in formats.ROUNDINGS:
    learn(f"lenet5_{rounding}", fixed(words[12], rounding=rounding), **short)

# %% [markdown]
# Floats err on {glue:text}`numerical_precision.lenet5_float.error_pct`, 16 bits on {glue:text}`numerical_precision.lenet5_stochastic.error_pct` with stochastic rounding and on {glue:text}`numerical_precision.lenet5_nearest.error_pct` to nearest.
# For its own convolutional networks the paper reports, as we remember its tables, on MNIST 0.77 % in floats and 0.90 % in ⟨4, 12⟩, on CIFAR-10 24.6 % and 28.8 % {cite:p}`gupta2015limited`.
# The first pair is near, the second is not.
#
# (sec-dynamic-fixed-point)=
# ## Dynamic fixed point: a range for each kind of number
# **The idea.** Outputs, weights and gradients are of very different size, and one range for all of them wastes bits.
# {cite:t}`courbariaux2014low` give each kind of number in each layer its own range, and move it now and then, as numbers overflow or leave it empty.
#
# **The formula.** With $B$ bits beside the sign and the range $I$, which may be negative,
#
# $$ q(x) = \operatorname{clip}\big(\operatorname{round}(x\, 2^{B-I}),\, \pm(2^B - 1)\big)\, 2^{I-B} . $$ (eq-dynamic-fixed-point)
#
# Every so many steps $I$ grows by one if more than a share $r$ of the numbers have reached the end of the range, and shrinks by one if no more than $r$ would reach the end of half the range.
# Kept parameters have more bits than those that are multiplied, here two more.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(
    dynamic_fixed_point.Range, DynamicFixedPoint.rounded, DynamicFixedPoint.end_of_step
)

# %% [markdown]
# **An exact check.** Numbers up to $m$ belong in the range $\lceil \log_2 (m / (1 - 2^{-B})) \rceil$; the controller goes there, one bit at a time, and stays.

# %%
largest = 0.003
steady = DynamicFixedPoint(bits=9, integer_bits=5, every=1)
steady.learning, visited = True, []
for _ in range(30):
    steady.rounded(torch.tensor([largest, -largest / 2]), "gradient")
    steady.end_of_step()
    visited.append(steady.ranges["gradient"].integer_bits)
target = int(np.ceil(np.log2(largest / (1 - 2.0**-9))))
assert visited == [max(4 - step, target) for step in range(30)]

# %% [markdown]
# **An experiment.** Six arithmetics: 32-bit and 16-bit floats, fixed point of 20 and of 10 bits with one range of five integer bits, and dynamic fixed point.
# The ranges settle in an epoch of training with 31 bits, after which training starts anew from the first weights.
# The paper moves its ranges every 100 steps; our trainings are short, so ours move every {glue:text}`numerical_precision.setting.move_every`.
# Our networks have ReLU and no dropout, the paper's maxout units and dropout.


# %%
def dynamic(bits):
    """``bits`` to multiply with and two more to keep parameters, the sign among them."""
    return lambda seed: DynamicFixedPoint(bits=bits - 1, storage_bits=bits + 1, every=move_every)


learn("half", lambda seed: HalfFloat())
learn("fixed20", lambda seed: DynamicFixedPoint(bits=19, every=None))
learn("fixed10", lambda seed: DynamicFixedPoint(bits=9, storage_bits=11, every=None))
for bits in widths:
    learn(f"dynamic{bits}", dynamic(bits))

# %% tags=["remove-input"]
record("setting.move_every", move_every, "steps", 0, exact=True)
ranges, layers = [arithmetic.ranges for _, arithmetic in nets["dynamic10"]], ["fc1", "fc2", "fc3"]
record("dynamic10.ranges", len(ranges[0]), "ranges", 0)
distinct = [len({known.integer_bits for known in own.values()}) for own in ranges]
record("dynamic10.distinct_ranges", distinct, "different values", 1)
moves = [sum(known.moves for known in own.values()) for own in ranges]
record("dynamic10.moves", moves, "moves", 0)
KINDS = ["output", "output.error", "weight", "weight.gradient", "weight.update", "bias"]
rows = [
    {"layer": name} | {kind: str(ranges[0][f"{name}.{kind}"].integer_bits) for kind in KINDS}
    for name in layers
]
figures.table(
    rows,
    caption="The ranges I of 10-bit dynamic fixed point after training, first seed; numbers reach up to 2 to the power of I",
)

# %% [markdown]
# **What to see.** Compare a row's entries: one bit more is twice the range.
# There are {glue:text}`numerical_precision.dynamic10.ranges` with {glue:text}`numerical_precision.dynamic10.distinct_ranges`, and in training they made {glue:text}`numerical_precision.dynamic10.moves` in all.
#
# ## All arithmetics, one network
# A network trained in fixed point is stored as it is: whole numbers of so many bits, in a file from which the same network loads, bit for bit.
# Biases stay floats in the file.


# %%
def sizes(name):
    """Bytes of a network's file, with codes of one length and with the best coder."""
    model, arithmetic = copy.deepcopy(nets[name][0])
    word = getattr(arithmetic, "format", None)
    word = arithmetic.formats() if hasattr(arithmetic, "formats") else word
    model = fixed_point.quantize(model, word) if word else model
    return [len(storage.dumps(model, coder=coder)) for coder in ("fixed", "best")]


dense = measure.dense_bytes(nets["float"][0][0])
for name in ("stochastic8", "dynamic10"):
    for key, size in zip(("bytes_ratio", "coded_bytes_ratio"), sizes(name), strict=True):
        record(f"{name}.{key}", dense / size, "x", 2)

# %% tags=["remove-input"]
LOOKS = [figures.DENSE, figures.QUANTIZATION, figures.PRUNING, figures.RETRAINED]
FLOAT, NEAREST, STOCHASTIC, DYNAMIC = (look | {"linestyle": "none"} for look in LOOKS)
ALL = {"float": ("32-bit floats", FLOAT), "half": ("16-bit floats", FLOAT)}
ALL |= {
    "nearest8": ("⟨8, 8⟩, to nearest", NEAREST),
    "wide8": ("the same, 24 bits for updates", NEAREST),
}
ALL |= {
    "finished20": ("the same, 20 bits at the end", NEAREST),
    "stochastic8": ("⟨8, 8⟩, stochastic", STOCHASTIC),
}
for fl in (12, 14):
    ALL[f"stochastic{fl}"] = f"⟨{16 - fl}, {fl}⟩, stochastic", STOCHASTIC
    ALL[f"unmasked{fl}"] = "the same without mask", STOCHASTIC
ALL |= {"fixed20": ("20 bits, one range", NEAREST), "fixed10": ("10 bits, one range", NEAREST)}
ALL |= {f"dynamic{bits}": (f"{bits} bits, dynamic", DYNAMIC) for bits in widths}
figure, ax = figures.axes()
figure.set_figheight(5.4)
mean = {name: float(np.mean(values)) for name, values in errors.items()}
for height, (name, (_, look)) in enumerate(ALL.items()):
    ax.plot(errors[name], [height] * seeds, **look | {"markersize": 4, "alpha": 0.6})
    ax.plot([mean[name]], [height], **look | {"markersize": 8})
ax.axvline(mean["float"], color="#808080", linewidth=1.2)
ax.set_yticks(range(len(ALL)), [text for text, _ in ALL.values()])
ax.invert_yaxis()
figures.logarithmic(ax, "x")
ax.set(xlabel="test error (%); the line: 32-bit floats", xlim=(None, 100))
errors_by_arithmetic = ", ".join(f"{text} {mean[name]:.1f} %" for name, (text, _) in ALL.items())
figures.show(
    figure,
    name="fig-arithmetics",
    caption="LeNet-300-100 trained in each arithmetic: each seed, and the mean as a larger marker.",
    alt=f"Rows of test errors on a logarithmic axis: {errors_by_arithmetic}.",
)
rows, work = [], measure.multiply_adds(nets["float"][0][0], train.images.shape[1:])
for name, (text, _) in ALL.items():
    plain, best = ("–", "–") if name == "half" else (f"{size:,}" for size in sizes(name))
    error = evidence.formatted(errors[name], unit="", digits=2)
    row = {"arithmetic": text, "test error (%)": error, "multiply-adds": f"{work:,}"}
    rows.append(row | {"file (bytes)": plain, "coded file (bytes)": best})
figures.table(
    rows,
    caption="Means over seeds with 95 % intervals; files of the first seed, with codes of one length and with the best coder",
)

# %% [markdown]
# **What to see.** With 10 bits, compare {glue:text}`numerical_precision.fixed10.error_pct` in one range with {glue:text}`numerical_precision.dynamic10.error_pct` in many; floats reach {glue:text}`numerical_precision.float.error_pct` and 16-bit floats {glue:text}`numerical_precision.half.error_pct`.
# The file of 16-bit words is {glue:text}`numerical_precision.stochastic8.bytes_ratio` smaller than the floats, or {glue:text}`numerical_precision.stochastic8.coded_bytes_ratio` if its words are coded by how often they occur; that of 10-bit words {glue:text}`numerical_precision.dynamic10.bytes_ratio` and {glue:text}`numerical_precision.dynamic10.coded_bytes_ratio`.
# The number of multiply-adds is the same everywhere; each one is cheaper only on hardware that has such units, and our simulation in floats is slower than floats.
#
# ## Where it breaks
# **A smaller learning rate.** Whether an update is swallowed depends on its size.
# The learning rate above was chosen on validation images for floats; at {glue:text}`numerical_precision.setting.slow_rate` instead, 8 fractional bits reach {glue:text}`numerical_precision.slow_nearest8.error_pct` to nearest and {glue:text}`numerical_precision.slow_stochastic8.error_pct` by chance.

# %%
record("setting.slow_rate", slow_rate, "", 1, exact=True)
for rounding in formats.ROUNDINGS:
    learn(f"slow_{rounding}8", fixed(words[8], rounding=rounding), learning_rate=slow_rate)

# %% [markdown]
# **Errors that travel.** Do errors of rounding grow on their way through a network?
# The trained float networks now answer with weights and output of the first layer in words of {glue:text}`numerical_precision.setting.coarse_bits`, each with a range that just holds it, and all else in floats; then with all layers so.


# %%
def coarse(values):
    range = int(values.abs().max().log2().ceil())
    return dynamic_fixed_point.rounded(values, bits=coarse_bits - 1, integer_bits=range)


@torch.no_grad()
def travelled(model, names):
    """The error of each layer's output, in percent of its energy; and the answers."""
    x, y, lost = test.images, test.images, {}
    for name, layer in model.named_children():
        x, own = layer(x), copy.deepcopy(layer)
        if name in names:
            own.weight.copy_(coarse(layer.weight))
        y = coarse(own(y)) if name in names else own(y)
        lost[name] = 100 * ((x - y).square().sum() / x.square().sum()).item()
    return lost, y.argmax(dim=1)


# %% tags=["remove-cell"]
record("setting.coarse_bits", coarse_bits, "bits", 0, exact=True)
for name, chosen in (("first_rounded", ["fc1"]), ("all_rounded", layers)):
    results = [travelled(model, chosen) for model, _ in nets["float"]]
    for layer in layers:
        record(f"{name}.{layer}_error_pct", [lost[layer] for lost, _ in results])
    wrong = [100 * (answers != test.labels).double().mean().item() for _, answers in results]
    record(f"{name}.error_pct", wrong)

# %% [markdown]
# With the first layer rounded, its output is wrong by {glue:text}`numerical_precision.first_rounded.fc1_error_pct` of its energy, that of the second by {glue:text}`numerical_precision.first_rounded.fc2_error_pct` and that of the last by {glue:text}`numerical_precision.first_rounded.fc3_error_pct`.
# With all layers rounded it is {glue:text}`numerical_precision.all_rounded.fc1_error_pct`, {glue:text}`numerical_precision.all_rounded.fc2_error_pct` and {glue:text}`numerical_precision.all_rounded.fc3_error_pct`, and {glue:text}`numerical_precision.all_rounded.error_pct` of the images are classified wrongly; floats misclassify {glue:text}`numerical_precision.float.error_pct`.
# The survey's sentence on this: {verdict}`C2.5-04`.
#
# **Work that stays.** Sharing weights makes a file small and leaves every product to be computed, which is why precision matters: with weights of four bits shared by k-means, the multiply-adds are {glue:text}`numerical_precision.shared.multiply_adds_ratio` those of the dense network.

# %%
shared, dense = scalar_kmeans.share(network(0), bits=4), network(0)
ratio = measure.multiply_adds(shared, train.images.shape[1:]) / work
record("shared.multiply_adds_ratio", ratio, "x", 0, exact=True)
record(
    "shared.parameters_ratio",
    measure.parameters(shared) / measure.parameters(dense),
    "x",
    0,
    exact=True,
)

# %% [markdown]
# ## Exercises
# 1. Is the dot product in 32-bit floats the one of the wide accumulator? Compare it with `float64` for 784 products of ⟨2, 14⟩.

# %% tags=["hide-cell"]
a, b = rounded(torch.rand(2, 1000, 784, generator=generator), words[14]).double()
exact = rounded((a * b).sum(dim=1), Format(10, 14))
single = rounded((a.float() * b.float()).sum(dim=1).double(), Format(10, 14))
print(f"of 1,000 sums {(exact != single).sum()} differ", end=", ")
print(f"by at most {(exact - single).abs().max() * 2**14:.0f} steps")

# %% [markdown]
# 2. Train a network with batch norm and shortcuts in fixed point. What is on the grid behind a shortcut's addition, and what might leave it?

# %% tags=["hide-cell"]
residual, pictures = models.resnet8(channels=1), dataset.train.first(4)
sixteen = FixedPoint(Format(6, 10, word=16), rounding="stochastic")
gradient_descent.train(residual, pictures, arithmetic=sixteen, epochs=1, seed=0, learning_rate=0.01)
assert all(torch.equal(rounded(p, sixteen.format), p) for p in residual.parameters())
print("a sum of two numbers of the grid is on the grid, but may lie beyond its rails")

# %% [markdown]
# ## Sources of this chapter
# - {cite:t}`gupta2015limited` is training in fixed point with stochastic rounding, {cite:t}`courbariaux2014low` dynamic fixed point.
# - LeNet-300-100 and LeNet-5 are by {cite:t}`lecun1998gradient`, {cite:t}`berthelier2020survey` is the survey.
