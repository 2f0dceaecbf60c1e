# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-quantization)=
# # Quantization
#
# Let many weights share few values, and code what is left well.
# After pruning, sharing and Huffman coding, LeNet-300-100 fits a file {glue:text}`quantization.lenet300.file_ratio` smaller than its floats: its test error is {glue:text}`quantization.lenet300.error_pct`, where the dense network has {glue:text}`quantization.lenet300.baseline_error_pct`.
# LeNet-5 becomes {glue:text}`quantization.lenet5.file_ratio` smaller, at {glue:text}`quantization.lenet5.error_pct` after {glue:text}`quantization.lenet5.baseline_error_pct`.
# These are bytes of files that load back into the same networks, bit for bit.
# The survey reports 32 times without and 40 times with Huffman coding for "a LeNet5-like network" {cite:p}`berthelier2020survey`; these figures belong to LeNet-300-100 {cite:p}`han2016deep`.
#
# ## What the survey says, and what came out
#
# ```{claims} quantization
# ```
#
# ## What this page needs
#
# ```{cost} quantization
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
seeds = 3  # LeNet-300-100 networks, trained from different starts
epochs = 25  # to train each of them
kept = {"fc1": 0.06, "fc2": 0.1, "fc3": 0.3}  # shares of their weights that pruning keeps
final_epochs = 40  # to prune and retrain, the first half of them pruning
weight_bits = 5  # of each shared weight's code
share_epochs = 5  # to train the shared values
lenet5_seeds = 1  # LeNet-5 networks
lenet5_epochs = 8  # to train each of them
lenet5_kept = {"conv1": 0.66, "conv2": 0.15, "fc1": 0.05, "fc2": 0.2}  # shares that pruning keeps
lenet5_final_epochs = 10  # to prune and retrain
lenet5_share_epochs = 2  # to train the shared values

# %% tags=["hide-input"]
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.cache import cached
from lib.coding import coders, gaps
from lib.pruning import magnitude
from lib.quantization import deep_compression, scalar_kmeans
from lib.weights import layers

dataset = datasets.load(data)
evidence.uses(dataset)
folder = Path(tempfile.mkdtemp())


def record(key, values, unit="x", digits=1, exact=False):
    return evidence.record(f"quantization.{key}", values, unit=unit, digits=digits, exact=exact)


def error(model):
    return training.error_pct(model, dataset.test)


def smaller(model, coder="huffman"):
    return measure.dense_bytes(model) / len(storage.dumps(model, coder=coder))


# %% [markdown]
# Every technique starts from the same trained networks, dense or pruned as the [chapter on pruning](pruning.py) does it.
# How values are shared, by k-means and by three methods older than this one, is the subject of [another chapter](quantization_sharing.py).


# %%
def networks(build, rate, seed, epochs, kept, final_epochs):
    """A trained network, and the same after pruning and retraining."""
    common = {"split": dataset.train, "learning_rate": rate}
    dense = cached(training.fit, build(seed), epochs=epochs, seed=seed, **common)
    options = {
        "density": kept,
        "ramp": final_epochs // 2,
        "epochs": final_epochs,
        "seed": 1000 + seed,
    }
    return dense, cached(magnitude.gradual, copy.deepcopy(dense), **options, **common)


plan5, plan300 = (lenet5_epochs, lenet5_kept, lenet5_final_epochs), (epochs, kept, final_epochs)
lenet5 = [networks(models.lenet5, 0.05, seed, *plan5) for seed in range(lenet5_seeds)]
lenet300 = [networks(models.lenet_300_100, 0.1, seed, *plan300) for seed in range(seeds)]
for name, pairs in (("lenet300", lenet300), ("lenet5", lenet5)):
    record(f"{name}.baseline_error_pct", [error(dense) for dense, _ in pairs], "%", 2)
level = np.mean([error(dense) for dense, _ in lenet300])

# %% [markdown]
# (sec-deep-compression)=
# ## Deep Compression: prune, share and train, code
#
# **The idea.** Three stages that help each other {cite:p}`han2016deep`.
# Prune, so that few weights are left; let those share values, and train the values; code the numbers of the values, and the places of the survivors, with fewer bits for what is frequent.
#
# Stage one is the pruning of the chapter on it; its networks are used as they are.
#
# ### Stage two: shared values that learn
#
# **The formula.** With $W_{ij} = C_{I_{ij}}$ and the numbers $I$ fixed, the gradient of a shared value is the sum over its cluster,
#
# $$ \frac{\partial L}{\partial C_k} = \sum_{ij} \frac{\partial L}{\partial W_{ij}}\, \mathbb 1(I_{ij} = k) . $$ (eq-centroid)
#
# **The code.** Nothing has to be written for it: to look up a table is an operation that has this gradient.

# %% tags=["remove-input"]
figures.show_source(deep_compression.PrunedSharedWeight)

# %% [markdown]
# **An exact check.** Take the gradient of the dense weights, sum it by cluster, and compare.

# %%
model = deep_compression.share_survivors(copy.deepcopy(lenet300[0][1]), bits=weight_bits)
batch = dataset.train.first(256)
form = model.fc1.parametrizations.weight
weight = form[0](form.original).detach().requires_grad_()
hidden = torch.nn.functional.linear(batch.images.flatten(1), weight, model.fc1.bias)
torch.nn.functional.cross_entropy(model[2:](hidden), batch.labels).backward()
torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
moved = weight.grad.flatten()[form[0].places]
by_cluster = torch.zeros(len(form.original)).index_add(0, form[0].codes, moved)
torch.testing.assert_close(form.original.grad, by_cluster, rtol=1e-4, atol=1e-6)

# %% [markdown]
# **An experiment.** Which start is best, before and after training the shared values?
# The authors prefer the linear one, whatever its squared error, because it keeps the few large weights {cite:p}`han2016deep`.

# %%
tuning = {"learning_rate": 3e-4, "weight_decay": 0.0}
rows = []
for start in deep_compression.STARTS:
    shared, trained = [], []
    for seed, (_, pruned) in enumerate(lenet300):
        model = deep_compression.share_survivors(
            copy.deepcopy(pruned), bits=2, start=start, seed=seed
        )
        shared.append(error(model))
        training.fit(model, dataset.train, epochs=1, seed=seed, **tuning)
        trained.append(error(model))
    before = record(f"start_{start}.shared_error_pct", shared, "%", 2)
    after = record(f"start_{start}.trained_error_pct", trained, "%", 2)
    rows.append({"start": start, "error, just shared": before, "error, values trained": after})
figures.table(
    rows, caption="LeNet-300-100 with three values and zero; one epoch of training the values"
)

# %% [markdown]
# ### Stage three: places as gaps
#
# **The idea.** A survivor's place is stored as the distance from the one before, in $g$ bits.
# Where the distance does not fit, a *filler* is stored: a weight of value zero, $2^g$ places on.

# %% tags=["remove-input"]
figures.show_source(gaps.encode)

# %% [markdown]
# **An exact check.** Survivors at places 0, 1, 9 and 40, with gaps of three bits: the long gap needs fillers.

# %%
places = np.array([0, 1, 9, 40])
fields, kept_here = gaps.encode(places, bits=3)
assert gaps.positions(fields)[kept_here].tolist() == places.tolist()

# %% [markdown]
# **An experiment.** Short gap fields need many fillers, long ones waste bits, so there is a best width.
# Huffman's code, which comes next, all but removes the price of long fields.

# %%
widths = range(2, 11)
_, pruned = lenet300[0]
sizes = {"huffman": [], "fixed": []}
for bits in widths:
    model = deep_compression.share_survivors(copy.deepcopy(pruned), bits=weight_bits, gap_bits=bits)
    for coder, by_width in sizes.items():
        by_width.append(len(storage.dumps(model, coder=coder)))

# %% tags=["remove-input"]
figure, ax = figures.axes()
for coder, look, label in (
    ("fixed", figures.QUANTIZATION, "codes of one length"),
    ("huffman", figures.COMBINED, "Huffman codes"),
):
    ax.plot(widths, np.array(sizes[coder]) / 1000, **look, label=label)
ax.set(xlabel="bits of a gap field", ylabel="file (kB)", ylim=(0, None))
figures.legend(ax)
kb = {coder: min(by_width) / 1000 for coder, by_width in sizes.items()}
at = {coder: widths[int(np.argmin(by_width))] for coder, by_width in sizes.items()}
figures.show(
    figure,
    name="fig-gaps",
    caption="Size of the file of one LeNet-300-100 against the width of the gap fields.",
    alt=f"Two curves of file size against gap width, each with a minimum: {kb['fixed']:.1f} kB at {at['fixed']} bits with codes of "
    f"one length, {kb['huffman']:.1f} kB at {at['huffman']} bits with Huffman codes.",
)

# %% [markdown]
# ### Stage four: Huffman's code
#
# **The idea.** Give frequent symbols short codewords {cite:p}`huffman1952method`.
# Merge the two rarest symbols into one, again and again; a symbol's word is as long as it is deep in the tree.
#
# **The formula.** No code of one word per symbol is shorter, and its mean length $\bar L$ is near the entropy $H$ of the symbols' shares $p_i$:
#
# $$ H = \sum_i p_i \log_2 \frac{1}{p_i} \;\le\; \bar L \;<\; H + 1 . $$ (eq-entropy)

# %% tags=["remove-input"]
figures.show_source(coders.code_lengths, coders.canonical)

# %% [markdown]
# The words follow from their lengths, so a file needs to hold only those.
#
# **An exact check.** Five symbols, of which one makes half of the text.

# %%
text = np.array([0] * 16 + [1] * 8 + [2] * 4 + [3] * 2 + [4] * 2)
lengths = coders.code_lengths(np.bincount(text))
assert lengths.tolist() == [1, 2, 3, 4, 4]  # the shares are powers of a half
assert lengths[text].sum() == coders.entropy_bits(np.bincount(text))
assert coders.unhuffman(coders.huffman(text, lengths), len(text), lengths).tolist() == text.tolist()

# %% [markdown]
# ### All stages
#
# Now the whole: pruned networks, shared values trained for some epochs, written to a file, and read back into a new network that must compute the same.


# %%
def deep_compressed(sparse, epochs, seed):
    model = deep_compression.share_survivors(copy.deepcopy(sparse), bits=weight_bits)
    training.fit(model, dataset.train, epochs=epochs, seed=2000 + seed, **tuning)
    return model


def measured(name, build, pairs, epochs):
    """Compress, write, read back, and record; the first compressed network is returned."""
    compressed = [deep_compressed(sparse, epochs, seed) for seed, (_, sparse) in enumerate(pairs)]
    files = [folder / f"{name}{seed}.slim" for seed in range(len(compressed))]
    sizes = [storage.save(*pair, coder="huffman") for pair in zip(compressed, files, strict=True)]
    loaded = [storage.load(file, build(99)) for file in files]
    images = dataset.test.first(500).images
    assert all(torch.equal(a(images), b(images)) for a, b in zip(compressed, loaded, strict=True))
    record(f"{name}.error_pct", [error(model) for model in loaded], "%", 2)
    dense = measure.dense_bytes(loaded[0])
    record(f"{name}.file_ratio", [dense / size for size in sizes])
    record(f"{name}.file_bytes", sizes, "bytes", 0)
    record(f"{name}.dense_bytes", dense, "bytes", 0, exact=True)
    return compressed


compressed300 = measured("lenet300", models.lenet_300_100, lenet300, share_epochs)
compressed5 = measured("lenet5", models.lenet5, lenet5, lenet5_share_epochs)

# %% [markdown]
# **What to see.** LeNet-300-100 takes {glue:text}`quantization.lenet300.file_bytes`, {glue:text}`quantization.lenet300.file_ratio` less than its {glue:text}`quantization.lenet300.dense_bytes` of floats.
# LeNet-5 takes {glue:text}`quantization.lenet5.file_bytes` where it had {glue:text}`quantization.lenet5.dense_bytes`.
# {cite:t}`han2016deep` report 40 times at 1.58 % error for the first and 39 times at 0.74 % for the second.

# %% tags=["remove-input"]
named = {"LeNet-300-100": compressed300[0], "LeNet-5": compressed5[0]}
rows = [
    {"network": name} | row for name, model in named.items() for row in measure.by_stream(model)
]
figures.table(rows, caption="Bits for each entry: codes of one length, Huffman's, and the entropy")

# %% [markdown]
# The corresponding table of {cite:t}`han2016deep` has 4.4 and 3.7 bits after Huffman coding for the first layer of LeNet-300-100.
# It holds slips of its own: for one layer of LeNet-5 it gives 5.2 bits after coding where 5 bits without coding would do {cite:p}`han2016deep`.
#
# ### Four ways to count
#
# The literature calls four different numbers a compression ratio, and compares them with each other.
# Here they are for the same networks: count only what is not zero; count codes and gaps of one length and the codebook; count the lengths of Huffman's words; weigh the file.


# %%
words = {
    "nonzeros": "non-zeros only",
    "fixed_codes": "with index bits",
    "code_lengths": "computed code lengths",
    "file": "bytes of the file",
}
rows = [{"what is counted": text} for text in words.values()]
for label, name, compressed in zip(
    named, ("lenet300", "lenet5"), (compressed300, compressed5), strict=True
):
    # Codes of one length want the short gaps of the paper's tables.
    plain = [deep_compression.set_gap_bits(copy.deepcopy(model), 5) for model in compressed]
    for row, kind in zip(rows, words, strict=True):
        counted = plain if kind == "fixed_codes" else compressed
        sizes = [getattr(measure.accountings(model, coder="huffman"), kind) for model in counted]
        ratio = [
            measure.dense_bytes(model) / size for model, size in zip(compressed, sizes, strict=True)
        ]
        row[label] = record(f"{name}.{kind}_accounting_ratio", ratio)
    before, after = [smaller(m, "fixed") for m in plain], [smaller(m) for m in compressed]
    record(f"{name}.uncoded_file_ratio", before)
    gain = [b / a for a, b in zip(before, after, strict=True)]
    record(f"{name}.huffman_gain_ratio", gain, digits=2)
figures.table(rows, caption="The same networks, four compression ratios")

# %% [markdown]
# **What to see.** Only the last line is one that a device could store.
# It counts the biases, the codebooks, the code tables and a checksum, which the line above leaves out.
# In files, Huffman's code by itself gains a factor of {glue:text}`quantization.lenet300.huffman_gain_ratio` on LeNet-300-100 and {glue:text}`quantization.lenet5.huffman_gain_ratio` on LeNet-5.
#
# ## All techniques on one baseline
#
# Prune alone, share alone, or both; nothing is trained after the last step, and every size is that of a file with Huffman codes.


# %%
def pruned_only(share, dense, sparse):
    density = share * magnitude.density(sparse)
    return magnitude.prune(copy.deepcopy(sparse), density=density, scope="global")


def shared_only(bits, dense, sparse):
    return scalar_kmeans.share(copy.deepcopy(dense), bits=bits)


def both(bits, dense, sparse):
    return deep_compression.share_survivors(copy.deepcopy(sparse), bits=bits, start="optimal")


def curve(change, settings):
    """For each setting the mean times smaller, and the error of each seed's network."""
    changed = [[change(setting, *pair) for pair in lenet300] for setting in settings]
    return [(np.mean([*map(smaller, models)]), [*map(error, models)]) for models in changed]


curves = {
    "prune": curve(pruned_only, (1.0, 0.8, 0.6, 0.45, 0.35)),
    "share": curve(shared_only, range(6, 0, -1)),
    "both": curve(both, range(6, 1, -1)),
}

# %% tags=["remove-input"]
figure, ax = figures.axes()
looks = {"prune": figures.PRUNING, "share": figures.QUANTIZATION, "both": figures.COMBINED}
labels = {"prune": "prune alone", "share": "share alone", "both": "prune, then share"}
within = {}
for name, points in curves.items():
    figures.line(ax, *zip(*points, strict=True), looks[name], labels[name])
    within[name] = max([times for times, errors in points if np.mean(errors) <= level + 1] or [1.0])
ax.axhline(level, **figures.DENSE | {"marker": ""}, label="dense network")
if dataset.name == "mnist":
    ax.plot([40], [1.58], **figures.REPORTED, label="Deep Compression, as reported")
ax.set(xlabel="times smaller (file)", ylabel="test error (%)")
figures.logarithmic(ax, "x", "y")
figures.legend(ax)
figures.show(
    figure,
    name="fig-curves",
    caption="Error against size for pruning, sharing, and both, without training after the last step; means with 95 % intervals.",
    alt=f"Three curves of test error against times smaller. Within one point of the dense network pruning alone reaches {within['prune']:.0f} times, "
    f"sharing alone {within['share']:.0f} times, both together {within['both']:.0f} times.",
)

# %% tags=["remove-input"]
dense, sparse = lenet300[0]
variants = {
    "dense": dense,
    "pruned": pruned_only(1.0, dense, sparse),
    "scalar k-means, 4 bits": scalar_kmeans.share(copy.deepcopy(dense), bits=4),
    "Deep Compression": compressed300[0],
}
one = dataset.test.images[:1]
latency = measure.latency_ms(
    {name: lambda m=model: m(one) for name, model in variants.items()}, runs=51
)
rows = [
    {
        "network": name,
        "test error (%)": f"{error(model):.2f}",
        "file (bytes)": f"{len(storage.dumps(model, coder='huffman')):,}",
        "times smaller": f"{smaller(model):.1f}",
        "multiply-adds": f"{measure.multiply_adds(model, one.shape[1:]):,}",
        "latency (ratio)": f"{latency[name].median / latency['dense'].median:.2f}",
    }
    for name, model in variants.items()
]
figures.table(rows, caption="LeNet-300-100, first seed; latency of one input on one thread")

# %% tags=["remove-cell"]
for name, reached in within.items():
    record(f"{name}.within_point_ratio", reached, digits=0)
distinct = max(model.fc1.weight.unique().numel() for model in compressed300)
record("lenet300.distinct_values", distinct, "", 0)

# %% [markdown]
# **What to see.** Within one point of the dense error, pruning alone reaches {glue:text}`quantization.prune.within_point_ratio`, sharing alone {glue:text}`quantization.share.within_point_ratio`, and both together {glue:text}`quantization.both.within_point_ratio`.
# None of this saves time by itself: the weight is rebuilt from its codes at every use, and the multiply-adds stay.
#
# ## Where it breaks
#
# **Huffman on zeros.** Why gaps at all, and not one stream of codes with many zeros in it?
# Huffman's shortest word has one bit, and a zero that fills nine tenths of a stream is worth far less.

# %%
codes = np.zeros(compressed300[0].fc1.weight.numel(), dtype=np.int64)
form = compressed300[0].fc1.parametrizations.weight[0]
codes[form.places.numpy()] = form.codes.numpy() + 1
counts = np.bincount(codes)
wasted = 100 * (coders.huffman_bits(counts) / coders.entropy_bits(counts) - 1)
record("dense_stream.overhead_pct", wasted, "%", 0)
gain = [100 * (1 - smaller(model) / smaller(model, "best")) for model in compressed300]
record("lenet300.range_gain_pct", gain, "%")

# %% [markdown]
# One Huffman code for the first layer, zeros included, takes {glue:text}`quantization.dense_stream.overhead_pct` more than the entropy.
# The two streams of Deep Compression avoid that by never writing a zero.
# A range code can spend less than a bit on a symbol; with it, which is what `save` does unless told otherwise, the file is another {glue:text}`quantization.lenet300.range_gain_pct` smaller.
#
# ## Exercises
#
# 1. How far is the file from the entropy of its streams, and what makes up the difference?

# %% tags=["hide-cell"]
encodings = [encoding for _, encoding in storage.streams(compressed300[0])]
streams = [np.bincount(symbols) for encoding in encodings for symbols in encoding.symbols.values()]
least = sum(coders.entropy_bits(counts) for counts in streams) / 8
tables = sum(4 * len(encoding.tables["centroid"]) for encoding in encodings)
biases = sum(4 * layer.bias.numel() for _, layer in layers(compressed300[0]))
print(
    f"file {len(storage.dumps(compressed300[0], coder='huffman')):,} bytes: streams {least:,.0f}, codebooks {tables:,}, biases {biases:,}"
)

# %% [markdown]
# 2. Compress a network that nobody here wrote, and load it into a fresh one.

# %% tags=["hide-cell"]
from lib.vision import torchvision

mobilenet = torchvision.models.mobilenet_v2(num_classes=10).eval()
magnitude.prune(mobilenet, density=0.1, scope="global")
deep_compression.share_survivors(mobilenet, bits=4)
size = storage.save(mobilenet, folder / "mobilenet.slim")
image, fresh = torch.rand(1, 3, 64, 64), torchvision.models.mobilenet_v2(num_classes=10)
assert torch.equal(storage.load(folder / "mobilenet.slim", fresh).eval()(image), mobilenet(image))
print(f"{measure.dense_bytes(mobilenet) / size:.1f} times smaller")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`gong2014vq` is scalar k-means; {cite:t}`han2016deep` is Deep Compression; {cite:t}`berthelier2020survey` is the survey.
# - {cite:t}`lloyd1982least` is the iteration; {cite:t}`huffman1952method` is the code.
