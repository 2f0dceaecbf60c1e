# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization-comparison)=
# # Binary networks compared: BinaryConnect, BWN, BNN, XNOR-Net, ABC-Net, GXNOR-Net
#
# How much accuracy does a binary network lose, and how small does its file get?
# A network for color images, with three convolutions, misclassifies
# {mean}`binarization_comparison.cnn.float_error_pct 0` with floats.
# With signs for weights and inputs (XNOR-Net), it misclassifies
# {mean}`binarization_comparison.cnn.xnor_error_pct 0`; binary weights with scales (BWN) alone
# {glue:text}`binarization_comparison.cnn.weights`.
# For LeNet-5, which reads gray digits with two convolutions, XNOR-Net
# {glue:text}`binarization_comparison.lenet5.signs`, and makes the file
# {mean}`binarization_comparison.lenet5.xnor_file_ratio 0` smaller.
#
# ```{claims} binarization_comparison
# ```
#
# ```{cost} binarization_comparison
# ```

# %% tags=["parameters"]
data = "digits"  # gray images, for LeNet-5: digits, mnist, or the path of a folder
first = [500, 100, 300]  # of it: training, validation and test images
color_data = "street-digits"  # color images, 32 x 32: street-digits or cifar10
color_first = [600, 100, 200]  # of it: training, validation and test images
seeds = 1  # networks of each kind, trained from different starts
width = 16  # filters in the first layer of the network for color images
epochs = {"lenet5": 4, "cnn": 5}  # to train each network
rates = {"lenet5": 0.01, "cnn": 0.003}  # of Adam, the same for floats and signs
state_rates = {"lenet5": 0.1, "cnn": 0.1}  # the same, for discrete states
batch_size = 50  # gray images in a step
color_batch_size = 16  # color images in a step
bases = [1, 3]  # of ABC-Net
runs = 20  # timings, of which the median counts
many = 16  # images at once, when time is measured

# %% tags=["hide-input"]
import copy
from collections import OrderedDict

import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, bnn, bwn, gxnor_dst, xnor_net
from lib.binarization.shared import inference
from lib.binarization.shared.conversion import inner, norm_before
from lib.binarization.shared.signs import NORMS, Binarized, BinaryForm
from lib.cache import trained
from lib.weights import compressed_form, decompress, layer_named, replace

gray = datasets.load(data, first=first)
color = datasets.load(color_data, first=color_first)
record = evidence.recorder("binarization_comparison", gray)
evidence.uses(color)
sets = {"lenet5": gray, "cnn": color}


def cnn(seed):  # three convolutions, each with a pool, batch norm and ReLU
    layers, inputs = OrderedDict(), 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, filters in enumerate((width, 2 * width, 4 * width), 1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, filters, 3, padding=1, bias=False)
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"bn{i}"] = nn.BatchNorm2d(filters)
            layers[f"relu{i}"], inputs = nn.ReLU(), filters
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(16 * inputs, 10)}
        return nn.Sequential(layers)


NETWORKS = {"lenet5": models.lenet5, "cnn": cnn}
TITLES = {"lenet5": "LeNet-5, digits", "cnn": "color images"}

# %% [markdown]
# ## The methods
#
# We apply all methods of this section to the same two networks.
# One is LeNet-5, for digits.
# The other, for color images, has three convolutions of 3 by 3 pixels, each followed by pooling, {term}`batch norm` and ReLU,
# and then a linear layer.
# All forms of a network get the same images, the same number of {term}`epochs <epoch>` and the same learning rate of Adam.
# Only the discrete weights of GXNOR have a rate of their own, since there it sets a probability.
#
# | method | weights | inputs of a layer | layers |
# | --- | --- | --- | --- |
# | BinaryConnect {cite:p}`courbariaux2015binaryconnect` | signs | floats | all |
# | BWN {cite:p}`rastegari2016xnor` | signs with a scale for each filter | floats | all but first and last |
# | ABC-Net {cite:p}`lin2017abcnet` | a sum of several signs with scales | floats (color images) or a sum of signs (LeNet-5) | all but first and last |
# | XNOR-Net {cite:p}`rastegari2016xnor` | signs with a scale for each filter | signs | all but first and last |
# | BNN {cite:p}`courbariaux2016binarynet` | signs | signs | all |
# | GXNOR-Net {cite:p}`deng2018gxnor` | three values | three values | all |
#
# In code, each method is one call on a network of floats.
# Where even the output is a sum of signs, we add a batch norm if there is none.


# %%
def with_norm(net):  # floats, with the batch norm that XNOR-Net puts before its layers
    for name in inner(net):
        layer = layer_named(net, name)
        replace(net, name, nn.Sequential(norm_before(layer), layer))
    return net


def last(net):  # the width of an output that has no batch norm after it, else None
    return None if isinstance(list(net.modules())[-1], NORMS) else 10


def closed(net):
    return net if last(net) is None else nn.Sequential(net, nn.BatchNorm1d(10))


METHODS = {
    "float": ("floats", lambda net: net),
    "float_norm": ("floats, batch norm", with_norm),
    "binaryconnect": ("BinaryConnect", lambda net: closed(binaryconnect.binarize(net))),
    "bwn": ("BWN", bwn.binarize),
}
for m in bases:
    METHODS[f"weights{m}"] = (
        f"ABC-Net, weights: {m}",
        lambda net, m=m: abc_net.binarize(net, bases=m),
    )
for m in bases:
    METHODS[f"abc{m}"] = (
        f"ABC-Net, {m} × {m}",
        lambda net, m=m: abc_net.binarize(net, bases=m, activation_bases=m),
    )
METHODS |= {
    "xnor": ("XNOR-Net", xnor_net.binarize),
    "bnn": ("BNN", lambda net: bnn.binarize(net, classes=last(net))),
    "gxnor": ("GXNOR", lambda net: gxnor_dst.ternarize(net, classes=last(net))),
}

# %% [markdown]
# **The experiment.** We train both networks in every form, on equal terms.
# LeNet-5 has no batch norm, so we also train it with floats and batch norm; the other network has its own.
# On color images, the several matrices of signs of ABC-Net (its *bases*) replace the weights alone, so that nothing
# else differs.
# In LeNet-5 they replace the inputs, too.

# %%
LEFT_OUT = {"cnn": {"float_norm", *(f"abc{m}" for m in bases)}}
LEFT_OUT["lenet5"] = {f"weights{m}" for m in bases}


def learned(network, method):
    options = {
        "split": sets[network].train,
        "epochs": epochs[network],
        "batch_size": color_batch_size if network == "cnn" else batch_size,
        "loss": "cross_entropy",
    }
    states = method == "gxnor"
    fit = gxnor_dst.fit if states else binaryconnect.fit
    rate = (state_rates if states else rates)[network]

    def build(seed):
        return METHODS[method][1](NETWORKS[network](seed))

    return trained(fit, build, seeds=range(seeds), learning_rate=rate, **options)


def wrong(networks, split):
    return [training.error_pct(net, split, batch_size=200) for net in networks]


nets, errors, rated = {}, {}, {}


def compare(network):
    for method in METHODS:
        if method not in LEFT_OUT[network]:
            networks, dataset = learned(network, method), sets[network]
            nets[network, method] = networks[0]
            errors[network, method] = wrong(networks, dataset.test)
            rated[network, method] = wrong(networks, dataset.validation)


compare("lenet5")

# %%
compare("cnn")

# %% tags=["remove-cell"]
mean = {key: sum(values) / seeds for key, values in errors.items()}
for network, method in errors:
    record(f"{network}.{method}_error_pct", errors[network, method])
    record(f"{network}.{method}_validation_error_pct", rated[network, method])


def cost(network, method, rival="float"):
    points = mean[network, method] - mean[network, rival]
    return f"costs {points:.1f} points" if points >= 0.05 else "costs nothing"


weights = cost("cnn", "bwn").replace("costs", "cost")
evidence.phrase("binarization_comparison.cnn.weights", weights)
signs = cost("lenet5", "xnor", "float_norm")
evidence.phrase("binarization_comparison.lenet5.signs", signs)


# %% tags=["hide-input"]
def reads_signs(net):
    return any(isinstance(module, Binarized) for module in net.modules())


figure, panels = figures.axes(2, sharey=True)
figure.set_size_inches(8, 4.4)
order = list(METHODS)
for ax, (network, title) in zip(panels, TITLES.items(), strict=True):
    for i, method in enumerate(order):
        if (network, method) not in errors:
            continue
        look = figures.look("bnn" if reads_signs(nets[network, method]) else "bwn")
        look = figures.look("float") if method.startswith("float") else look
        figures.dots(
            ax, [i], [errors[network, method]], look, None, bounds=figures.PERCENT
        )
    ax.set(title=title, xlabel="test error (%)", yticks=range(len(order)))
    ax.set_yticklabels([METHODS[method][0] for method in order])
    most = max(max(errors[key]) for key in mean if key[0] == network)
    ax.set_xlim(0, min(100, 1.2 * most))
panels[0].invert_yaxis()
spread = "means over seeds with 95 % intervals"
spread = spread if seeds >= evidence.FEW else "means over seeds"
spread = spread if seeds > 1 else "one network of each kind"
figures.show(
    figure,
    lead=True,
    finding=f"On color images floats have {mean['cnn', 'float']:.0f} % error, binary weights {mean['cnn', 'bwn']:.0f} %, "
    f"binary weights and inputs {mean['cnn', 'xnor']:.0f} % (XNOR-Net)",
    name="fig-binarization-compared",
    caption=f"Test errors, {spread}. Squares: floats; triangles: binary weights; circles: binary or ternary inputs, too.",
    alt="Mean test errors. "
    + ". ".join(
        f"{title}: "
        + ", ".join(
            f"{METHODS[m][0]} {mean[n, m]:.1f} %" for m in order if (n, m) in errors
        )
        for n, title in TITLES.items()
    ),
)

# %% tags=["remove-input"]
figures.table(
    [
        {"method": METHODS[method][0]}
        | {
            title: evidence.formatted(
                errors[n, method], unit="", digits=2, bounds=(0, 100)
            )
            if (n, method) in errors
            else "–"
            for n, title in TITLES.items()
        }
        for method in METHODS
    ],
    caption="Test errors (%)",
)
inputs = (
    mean["cnn", "xnor"] - mean["cnn", "bwn"] > mean["cnn", "bwn"] - mean["cnn", "float"]
)
price = "cost more than" if inputs else "cost no more than"
evidence.phrase("binarization_comparison.cnn.inputs", price)
one, several = (f"weights{m}" for m in (bases[0], bases[-1]))
gain = mean["cnn", one] - mean["cnn", several]
bought = "buy accuracy back" if gain > 0 else "buy no accuracy back"
evidence.phrase("binarization_comparison.cnn.bases", bought)
gain = mean["lenet5", "float"] - mean["lenet5", "float_norm"]
norm = "lowers the error of floats" if gain > 0 else "does not help floats"
evidence.phrase("binarization_comparison.lenet5.norm", norm)

# %% [markdown]
# **What to see.** On color images, signs for the inputs {glue:text}`binarization_comparison.cnn.inputs` signs for the weights.
# The error is {mean}`binarization_comparison.cnn.float_error_pct` with floats, {mean}`binarization_comparison.cnn.bwn_error_pct` with {term}`binary weights` (BWN) and {mean}`binarization_comparison.cnn.xnor_error_pct` with XNOR-Net.
# BWN and XNOR-Net binarize the same layers and scale each filter; BinaryConnect binarizes all layers, without scales.
# The survey says that XNOR-Net is as accurate as single precision {cite:p}`berthelier2020survey`: {verdict}`C2.6-22`.
#
# A second and a third matrix of signs for the weights {glue:text}`binarization_comparison.cnn.bases`: ABC-Net has an
# error of {mean}`binarization_comparison.cnn.weights1_error_pct` with one matrix and
# {mean}`binarization_comparison.cnn.weights3_error_pct` with three.
# The survey says that several bases make a network more accurate: {verdict}`C2.6-06`.
#
# On digits, the fair rival of a binary LeNet-5 is LeNet-5 with floats *and* batch norm, since binary layers bring batch
# norm with them.
# Here batch norm {glue:text}`binarization_comparison.lenet5.norm`: the error is
# {mean}`binarization_comparison.lenet5.float_norm_error_pct` with it and
# {mean}`binarization_comparison.lenet5.float_error_pct` without.
#
# ## Bytes, work and time
#
# We write every network to a file.
# Networks whose layers read signs are then converted to the kernels that count bits; all others compute with floats,
# even if their weights are signs.
# We time many images at once on one thread, relative to the float network.


# %% tags=["hide-input"]
def work(network, method):
    count = {"floats": 0, "float × sign": 0, "sign × sign": 0}
    shape = sets[network].test.images.shape[1:]
    places = measure.multiply_adds_by_layer(NETWORKS[network](0), shape)
    modules = {
        name.removeprefix("0."): module
        for name, module in nets[network, method].named_modules()
    }
    for name, multiply_adds in places.items():
        module = modules.get(name, modules.get(f"{name}.1"))
        module = module[-1] if isinstance(module, nn.Sequential) else module
        layer = module.layer if isinstance(module, Binarized) else module
        form = compressed_form(layer)
        if form is None or not isinstance(form[0], BinaryForm):
            count["floats"] += multiply_adds
            continue
        pairs = len(form[0].bases(*form[1])[0])
        if isinstance(module, Binarized):
            pairs *= len(module.activation.bases())
        count["sign × sign" if isinstance(module, Binarized) else "float × sign"] += (
            pairs * multiply_adds
        )
    return count


def ready(net):
    """On bits where the layers read signs, dense where only the weights are signs."""
    if reads_signs(net):
        return inference.convert(net)
    return decompress(copy.deepcopy(net))


ratios, relative = {}, {}
for network in NETWORKS:
    x = sets[network].test.images[:many]
    fast = {m: ready(nets[network, m]) for name, m in errors if name == network}
    calls = {method: lambda f=f, x=x: f(x) for method, f in fast.items()}
    times = measure.latency_ms(calls, runs=runs)
    full = measure.dense_bytes(nets[network, "float"])
    for method in fast:
        key = network, method
        ratios[key] = full / len(storage.dumps(nets[key]))
        record(f"{network}.{method}_file_ratio", ratios[key])
        relative[key] = times[method].median / times["float"].median
        if method != "float":
            record(f"{network}.{method}_latency_ratio", relative[key], digits=2)

# %% tags=["remove-input"]
for values, digits, caption in (
    (ratios, 1, "How many times smaller the file is than that of the float network"),
    (relative, 2, f"Time of {many} images; relative to floats"),
):
    rows = []
    for method, (text, _) in METHODS.items():
        cells = {title: values.get((n, method)) for n, title in TITLES.items()}
        row = {
            title: "–" if v is None else f"{v:.{digits}f}" for title, v in cells.items()
        }
        rows.append({"method": text} | row)
    figures.table(rows, caption=caption)
figures.table(
    [
        {"method": METHODS[m][0]}
        | {kind: f"{n / 1e6:.2f}" for kind, n in work("cnn", m).items()}
        for network, m in errors
        if network == "cnn"
    ],
    caption="Million multiply-adds of the network for color images, for one image and by kind; a layer of several bases counts once for each pair of them",
)

# %% [markdown]
# **What to see.** A float has 32 bits, but {finding}`no file is 32 times smaller | binarization_comparison.lenet5.binaryconnect_file_ratio < 32; binarization_comparison.lenet5.bnn_file_ratio < 32; binarization_comparison.lenet5.xnor_file_ratio < 32`; whether a network is faster depends on its shape and its number of bases.
# The file of LeNet-5 is {finding}`smaller | binarization_comparison.lenet5.bwn_file_ratio > 10` by
# {glue:text}`binarization_comparison.lenet5.bwn_file_ratio` with binary weights in its inner layers.
# For XNOR-Net, which adds batch norm for each input, the factor is
# {glue:text}`binarization_comparison.lenet5.xnor_file_ratio`; for BNN, with signs in all layers, it is
# {glue:text}`binarization_comparison.lenet5.bnn_file_ratio`.
#
# Several bases have a price: three for weights and three for inputs take nine products of signs.
# LeNet-5 then takes {glue:text}`binarization_comparison.lenet5.abc3_latency_ratio` the time of floats, and
# {glue:text}`binarization_comparison.lenet5.abc1_latency_ratio` with one base of each kind.
#
# ## Where it breaks
#
# **Small networks.** The first and the last layer, batch norm and scales stay real, and in a small network they are a large part of the file.
# As XNOR-Net, our network for color images has a file that is
# {finding}`less than ten times smaller | binarization_comparison.cnn.xnor_file_ratio < 10`: the factor is
# {glue:text}`binarization_comparison.cnn.xnor_file_ratio`.
#
# **Short trainings.** All networks get the same few epochs, which should hurt methods with noisy gradients most; the
# papers train ten to a hundred times as long.
#
# ## Exercises
#
# 1. Choose one binary method for each network by the validation images. Which is it, and what is its test error?

# %% tags=["hide-cell"]
chosen = {}
for network, title in TITLES.items():
    keys = [key for key in rated if key[0] == network and "float" not in key[1]]
    _, best = min(keys, key=lambda key: sum(rated[key]))  # not chosen by test
    chosen[title] = f"{METHODS[best][0]} ({mean[network, best]:.2f} %)"
told = "; ".join(f"for {title}, {text}" for title, text in chosen.items())
evidence.answer(f"The best choice is, {told}.")

# %% [markdown]
# 2. Which share of the bytes of LeNet-5 as XNOR-Net is spent on numbers that are not signs?

# %% tags=["hide-cell"]
net = nets["lenet5", "xnor"]
signed = [module for module in net.modules() if isinstance(module, Binarized)]
signs = sum(module.layer.weight.numel() for module in signed) / 8
evidence.answer(
    f"{100 * (1 - signs / len(storage.dumps(net))):.0f} % of the file are not signs: first and last layer, batch norm and scales."
)

# %% [markdown]
# 3. How much smaller is that file if the batch norm before the first linear layer has one scale for each map instead of
#    one for each input?

# %% tags=["hide-cell"]
by_map = xnor_net.binarize(models.lenet5(), maps={"fc1": 50})
saved = len(storage.dumps(net)) / len(storage.dumps(by_map))
evidence.answer(f"The file is then {saved:.2f} times smaller.")

# %% [markdown]
# ## Three questions
#
# ```{quiz} 2.6
# ```
#
# ## In short
#
# - Binary weights make files many times smaller, but by less than the bits of a float suggest: the first and the last
#   layer, batch norm and scales stay real.
# - Signs for the inputs allow kernels that count bits; the harder the task, the more accuracy they cost.
# - Compare a binary network with floats that have the same batch norm and the same training.
#
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2015binaryconnect`, {cite:t}`rastegari2016xnor`, {cite:t}`lin2017abcnet`, {cite:t}`courbariaux2016binarynet` and {cite:t}`deng2018gxnor` are the methods.
# - {cite:t}`berthelier2020survey` is the survey.
