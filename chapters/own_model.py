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
# (sec-own-model)=
# # Shrink your own model
#
# You have a trained network, and it is too large or too slow. What should you do?
# Say what must get smaller, pick one of five recipes, and run one command.
# On MobileNet-v2, a small image classifier, eight-bit integers make the file
# {mean}`own_model.int8.file_ratio` smaller, and the error {glue:text}`own_model.int8.outcome`, against the same
# network trained as long.
# {finding}`The smallest file | own_model.coded.file_ratio > own_model.int8.file_ratio; own_model.coded.file_ratio > own_model.rounded.file_ratio; own_model.coded.file_ratio > own_model.filters.file_ratio; own_model.coded.file_ratio > own_model.factors.file_ratio`
# is {mean}`own_model.coded.file_ratio` smaller, and its error {glue:text}`own_model.coded.outcome`.
#
# ```{claims} own_model
# ```
#
# ```{cost} own_model
# ```

# %% tags=["parameters"]
images = "street-digits"  # a data set's name, or your folder or zip of images
size = None  # pixels to which the images of a folder are resized
network = "mobilenet_v2"  # of torchvision, or module:function of your own
seeds = 1  # networks trained from different starts
epochs = 6  # to train each
rate = 0.006  # first learning rate of Adam, chosen on validation images
retrain_rate = 0.001  # of retraining, and of the rival
retrain_epochs = 2  # after each recipe, and for the unchanged rival
coded_epochs = 2  # the same for the recipe that prunes
exported = [
    "given",
    "int8",
]  # networks that are written as ONNX files: given, filters, factors, int8
runs = 21  # timings of each ONNX file, of which the median counts

# %% tags=["hide-input"]
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from lib import datasets, evidence, figures, measure, storage, training
from lib.cache import trained
from lib.recipes import command, costs, inputs, methods, report
from lib.recipes.following import GIVEN, SHRUNK, trained_on
from lib.recipes.results import export
from lib.seeding import seeded

dataset = datasets.load(images, size=size)
record = evidence.recorder("own_model", dataset)


def length(method):  # epochs of retraining
    return coded_epochs if method == "coded" else retrain_epochs


def planned(method, seed, epochs, amount=None):
    return methods.plan_for(
        method,
        dataset.train,
        amount=amount,
        epochs=epochs,
        seed=seed,
        learning_rate=retrain_rate,
    )


def longer(epochs):  # the networks as given, trained on: fair rivals
    plans = [planned("filters", seed, epochs) for seed in range(seeds)]
    return [trained_on(*pair) for pair in zip(models, plans, strict=True)]


def shrunk(name, networks, amount=None):  # by a recipe
    plans = [planned(name, seed, length(name), amount) for seed in range(len(networks))]
    made = []
    for network, plan in zip(networks, plans, strict=True):
        with seeded(plan.seed):  # dropout draws from the global generator
            made.append(methods.METHODS[name].apply(network, plan))
    return made


def unshrunk(network):
    return methods.Made(network, network, network)


# %% [markdown]
# ## What must get smaller?
#
# | you need | may you retrain? | recipe | what it does |
# | --- | --- | --- | --- |
# | a smaller file, to send or to store | no, and no data but to measure with | `rounded` | rounds the weights to cells of one width and codes them: {doc}`quantization_entropy` |
# | the smallest file | yes | `coded` | removes most weights, lets the others share values, and codes them: {doc}`quantization` |
# | less time and less memory, with any software | yes | `filters` | removes whole filters: {doc}`pruning_filters` |
# | fewer multiply-adds in large dense or $1 \times 1$ layers | better | `factors` | replaces a layer by two thin ones: {doc}`pruning_factorization` |
# | less memory, and time where the processor helps | better | `int8` | computes in eight bits: {doc}`quantization_integers` |
#
# If you may choose the network, start from a cheap one: {doc}`architectures`.
# If you have a large teacher and few labels, let the small network learn from it: {doc}`distillation`.
# Weights of one bit pay only with kernels of your own: {doc}`binarization_speed`.
#
# ## One command
#
# ```bash
# python -m lib shrink --model resnet18 --weights mine.safetensors \
#     --data photos --size 96 --method filters
# ```
#
# It takes a classifier of torchvision or a network of your own (`--model my_network:build`), its weights as a
# safetensors file, and a folder with one folder of images for each class.
# It writes the shrunk network for `lib` (`network.slim`) and for other runtimes (`network.onnx`), a report and a figure.
# `lib.recipes.rebuilding.rebuild` reads `network.slim` back, bit for bit.
# Without weights, `--train` trains first; without `--data`, it takes small digits on photographs.
# Pixels come as values from 0 to 1, so a normalization belongs in the network.
#
# ## Five recipes of a few lines
#
# Each recipe is a few calls, which you can also make yourself.
# All leave your network as it was, and refuse in one sentence what they cannot do right.
#
# **Filters** go where the Taylor criterion says that the loss would change least.
# The smaller network is compared with the masked one before it is returned.

# %% tags=["remove-input"]
figures.show_source(methods.filters)

# %% [markdown]
# **Factors** replace each layer by two thin ones, where these have fewer parameters.

# %% tags=["remove-input"]
figures.show_source(methods.factors)

# %% [markdown]
# **Integers** of eight bits need ranges, which a few hundred images give; then the network learns to live with its
# rounding.

# %% tags=["remove-input"]
figures.show_source(methods.integers)

# %% [markdown]
# **Coding** prunes a little before each epoch, shares 32 values in each layer, and trains these.

# %% tags=["remove-input"]
figures.show_source(methods.coded)

# %% [markdown]
# **Rounding** needs neither data nor training.

# %% tags=["remove-input"]
figures.show_source(methods.rounded)

# %% [markdown]
# ## What to expect
#
# We train the network on {mean}`own_model.setting.images` small color images, and shrink it by each recipe.
# Every recipe that retrains has a rival: the unchanged network, trained further for as many epochs.
# `rounded` trains nothing, so its rival is the network as given.

# %%
models = trained(
    training.fit,
    lambda seed: inputs.network(network, len(dataset.classes), seed=seed),
    range(seeds),
    split=dataset.train,
    epochs=epochs,
    learning_rate=rate,
    **methods.LEARNING,
)
models = [model.eval() for model in models]

# %%
networks = {GIVEN: [unshrunk(model) for model in models]}
for n in {retrain_epochs, coded_epochs}:
    networks[f"{n} epochs more"] = [unshrunk(model) for model in longer(n)]
recipes = ["filters", "factors", "rounded", "int8", "coded"]
rivals = {
    name: f"{length(name)} epochs more" if methods.METHODS[name].trains else GIVEN
    for name in recipes
}

# %%
networks |= {name: shrunk(name, models) for name in recipes[:3]}

# %%
networks |= {name: shrunk(name, models) for name in recipes[3:]}

# %%
results = [  # of each seed: all its networks, timed in turn
    costs.measured({name: made[seed] for name, made in networks.items()}, dataset.test)
    for seed in range(seeds)
]

# %% tags=["remove-input"]
record("setting.images", len(dataset.train), digits=0, exact=True)
given = [one[GIVEN] for one in results]
record("given.error_pct", [one.error_pct for one in given], digits=1)
record("given.file_bytes", [one.file_bytes for one in given])
rows = [
    {
        "recipe": "as given",
        "test error (%)": evidence.formatted(
            [one.error_pct for one in given], unit="", digits=1
        ),
        "rival's error (%)": "–",
        "file": "1×",
        "multiply-adds": "1×",
        "activations": "1×",
        "time": "1.00",
    }
]
shares, losses, smaller = {}, {}, {}
for name in recipes:
    times = [report.ratios(one[GIVEN], one[name]) for one in results]
    errors = [one[name].error_pct for one in results]
    record(f"{name}.error_pct", errors, digits=1)
    theirs = [one[rivals[name]].error_pct for one in results]
    record(f"{name}.rival_error_pct", theirs, digits=1)
    change = [a - b for a, b in zip(errors, theirs, strict=True)]
    record(f"{name}.loss_points", change, digits=1)
    losses[name], mean = change, np.mean(change)
    evidence.phrase(
        f"own_model.{name}.outcome",
        f"rises by {mean:.1f} points" if mean >= 0.05 else "does not rise",
    )
    row = {
        "recipe": name,
        "test error (%)": evidence.formatted(errors, unit="", digits=1),
        "rival's error (%)": evidence.formatted(theirs, unit="", digits=1),
    }
    for key, title in (
        ("file", "file"),
        ("multiply_adds", "multiply-adds"),
        ("activation", "activations"),
    ):
        full = {"file": "file_bytes", "activation": "activation_bytes"}.get(key, key)
        values = [one[full] for one in times]
        row[title] = record(f"{name}.{key}_ratio", values, digits=1)
    slower = [1 / one["latency_ms"] for one in times]
    row["time"] = record(
        f"{name}.latency_ratio", slower, unit="", digits=2, timing=True
    )
    rows.append(row)
    smaller[name] = [one["file_bytes"] for one in times]
    shares[name] = np.mean(change), np.mean(smaller[name])
figures.table(
    rows,
    caption="Each recipe on one network: how many times smaller its file, its multiply-adds and its activations are, and its time for one image as a share of the network as given",
)
figure, axes = figures.axes(2, sharey=True)
names = recipes[::-1]
for height, name in enumerate(names):
    figures.dots(axes[0], [height], [smaller[name]], figures.COMBINED, None)
    figures.dots(axes[1], [height], [losses[name]], figures.COMBINED, None)
axes[0].set_xlabel("times smaller file")
axes[1].set_xlabel("points more error")
axes[1].axvline(0, color="black", linewidth=1)
axes[0].set_yticks(range(len(names)), names)
best = max(
    shares, key=lambda name: shares[name][1]
)  # not chosen by test: by the size of its file
figures.show(
    figure,
    lead=True,
    finding=f"'{best}' makes the file {shares[best][1]:.1f} times smaller ({shares[best][0]:+.1f} points of error), 'int8' {shares['int8'][1]:.1f} times ({shares['int8'][0]:+.1f})",
    name="fig-own-model",
    caption="Five recipes on one network: how many times smaller the file is (left), and how the test error changes against the unchanged network that was trained as long, or, for `rounded`, the network as given (right).",
    alt="Two panels with a row for each recipe. "
    + "; ".join(
        f"{name}: file {ratio:.1f} times smaller, error {change:+.1f} points"
        for name, (change, ratio) in shares.items()
    )
    + ".",
)

# %% [markdown]
# **What to see.** The recipe `coded` gives a file {mean}`own_model.coded.file_ratio` smaller, and its error
# {glue:text}`own_model.coded.outcome` against the rival.
# Its multiply-adds {finding}`stay the same | own_model.coded.multiply_adds_ratio >= 1; own_model.coded.multiply_adds_ratio <= 1`: only the file is small.
# `filters` needs {finding}`fewer multiply-adds | own_model.filters.multiply_adds_ratio > 1.5`,
# {mean}`own_model.filters.multiply_adds_ratio` fewer, and its error {glue:text}`own_model.filters.outcome`.
# One image takes {mean}`own_model.filters.latency_ratio` of the time with fewer filters, and
# {mean}`own_model.int8.latency_ratio` in integers, where the processor has exact kernels for them ({verdict}`C1-09`).
# Multiply-adds are not the whole cost: moving data between the layers takes time too.
# By count, `int8` keeps each weight and each activation in one byte instead of four.
# Whether all recipes but `factors` halve the file and stay within two points of their rivals: {verdict}`C1-10`.
#
# ## For other runtimes
#
# A phone runs a file, not Python.
# `network.onnx` is such a file, and it is kept only if onnxruntime answers as the shrunk network does.
# The network of integers is stored in it as integers, and its outputs may differ by a tenth of their range at most,
# since each layer rounds a little differently.

# %%
sizes, sessions = {}, {}
single = onnxruntime.SessionOptions()
single.intra_op_num_threads = 1
with tempfile.TemporaryDirectory() as folder:
    for kind in exported:
        path = Path(folder, f"{kind}.onnx")
        made = networks[GIVEN if kind == "given" else kind][0]
        sizes[kind] = export(made, dataset.test.images[:8], path)
        sessions[kind] = onnxruntime.InferenceSession(
            path, single, providers=["CPUExecutionProvider"]
        )
one = {"images": dataset.test.images[:1].numpy()}
calls = {k: lambda s=session: s.run(None, one) for k, session in sessions.items()}
taken = measure.latency_ms(calls, runs=runs)

# %% tags=["remove-input"]
titles = {
    "given": "as given",
    "filters": "fewer filters",
    "factors": "factors",
    "int8": "integers",
}
rows = []
for kind in exported:
    row = {"network": titles[kind]}
    row["file (kB)"] = f"{sizes[kind] / 1000:.0f}"
    share = taken[kind].median / taken["given"].median
    row["time"] = record(
        f"onnx.{kind}_latency_ratio", share, unit="", digits=2, timing=True
    )
    ratio = sizes["given"] / sizes[kind]
    row["smaller"] = record(f"onnx.{kind}_file_ratio", ratio, digits=1)
    rows.append(row)
figures.table(
    rows,
    caption="Files in the ONNX format, first seed: size, and time of one image in onnxruntime as a share of the network as given",
)

# %% [markdown]
# The file of integers is {mean}`own_model.onnx.int8_file_ratio`
# {finding}`smaller than that of floats | own_model.onnx.int8_file_ratio > 1`.
# In onnxruntime one image takes {mean}`own_model.onnx.int8_latency_ratio` of the time of floats.
#
# ## What to check
#
# - Compare with the *unchanged network trained as long*. A few more epochs alone can make a network better or worse.
# - Choose the amount by the validation error, which the report shows too, and look at the test error once.
# - Time the network on your device, one image at a time. Multiply-adds predict time badly: {doc}`pruning_speed`.
# - Look at the classes that matter to you: a mean error hides the class that a smaller network gives up.
# - Load the file you will ship, and test that. `network.onnx` needs nothing else; `network.slim` needs
#   `costs.json` beside it, and the code of the network that was shrunk.
#
# ## Where it breaks
#
# What a recipe cannot do right, it refuses before anything is changed.

# %%
cases = {
    "a network without a spare filter": ("filters", torch.nn.Linear(3072, 10)),
    "one that is small already": ("factors", torch.nn.Linear(3072, 2)),
}
refused = {}
for what, (name, layer) in cases.items():
    model = torch.nn.Sequential(torch.nn.Flatten(), layer)
    try:
        methods.METHODS[name].apply(model, planned(name, 0, 0, amount=1))
    except ValueError as error:
        refused[what] = str(error)
assert set(refused) == set(cases)
for what, sentence in refused.items():
    print(f"{what}: {sentence}")

# %% [markdown]
# ## Exercises
#
# 1. How small does the file get if `rounded` keeps two bits for each weight, and what happens to the error?

# %% tags=["hide-cell"]
(two,) = shrunk("rounded", models[:1], amount=2)
ratio = given[0].file_bytes / len(storage.dumps(two.stored))
error = training.error_pct(two.network, dataset.test)
evidence.answer(
    f"The file is {ratio:.1f} times smaller, and the error goes from {given[0].error_pct:.0f} to {error:.0f} %."
)

# %% [markdown]
# 2. Combine two recipes: make integers of the network that has fewer filters. Do the gains multiply?

# %% tags=["hide-cell"]
(both,) = shrunk("int8", [networks["filters"][0].network])
ratio = given[0].file_bytes / len(storage.dumps(both.stored))
alone = [shares[name][1] for name in ("filters", "int8")]
error = training.error_pct(both.network, dataset.test)
evidence.answer(
    f"The file is {ratio:.1f} times smaller; {alone[0]:.1f} times {alone[1]:.1f} would be {alone[0] * alone[1]:.1f}. The error is {error:.0f} %."
)

# %% [markdown]
# 3. Run the command itself from Python, and read its report.

# %% tags=["hide-cell", "remove-stdout"]
with tempfile.TemporaryDirectory() as folder:
    words = ["--model", network, "--data", images, "--first", "100", "50", "100"]
    words += ["--size", str(size)] if size else []
    words += ["--method", "rounded", "--epochs", "0", "--no-onnx", "--out", folder]
    with contextlib.redirect_stderr(io.StringIO()):  # what it says while it works
        status = command.main(words)
    found = json.loads(Path(folder, "costs.json").read_text())["costs"]
assert status == 0
evidence.answer(
    f"The report holds {len(found)} networks; the file went from {found[GIVEN]['file_bytes']:,} to {found[SHRUNK]['file_bytes']:,} bytes."
)

# %% [markdown]
# ## In short
#
# - Say first what must get smaller: the file, the memory, or the time. Then hold the error against the rival's: the
#   smallest file is no gain if the network no longer answers well.
# - Integers of eight bits are the first thing to try: they save file and memory, and time where
#   the processor has kernels for them.
# - A small file alone does not make a network faster.
#
# ## Sources of this chapter
#
# - The recipes use {cite:t}`molchanov2017pruning`, {cite:t}`han2016deep`, {cite:t}`choi2017towards` and
#   {cite:t}`jacob2018quantization`; the network is that of {cite:t}`sandler2018mobilenet`.
# - {cite:t}`berthelier2020survey` is the survey.
