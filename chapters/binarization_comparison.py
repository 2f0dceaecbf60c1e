# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-binarization-comparison)=
# # Binarization compared
#
# All methods of this section on the same three networks, with the same images and the same number of epochs.
# LeNet-5 errs on {glue:text}`binarization_comparison.lenet5.float_error_pct` with floats and on {glue:text}`binarization_comparison.lenet5.float_norm_error_pct` with floats and the batch norm that the binary networks have.
# Binary weights give {glue:text}`binarization_comparison.lenet5.bwn_error_pct`, signs for weights and inputs {glue:text}`binarization_comparison.lenet5.xnor_error_pct` (XNOR-Net) and {glue:text}`binarization_comparison.lenet5.bnn_error_pct` (BNN, all layers), three values {glue:text}`binarization_comparison.lenet5.gxnor_error_pct`.
# On color images, where there is more to lose, floats err on {glue:text}`binarization_comparison.vgg.float_error_pct`, binary weights on {glue:text}`binarization_comparison.vgg.bwn_error_pct` and XNOR-Net on {glue:text}`binarization_comparison.vgg.xnor_error_pct`.
# Is XNOR-Net as accurate as single precision, as the survey says {cite:p}`berthelier2020survey`? {verdict}`C2.6-22`.
#
# ## What the survey says, and what came out
#
# ```{claims} binarization_comparison
# ```
#
# ## What this page needs
#
# ```{cost} binarization_comparison
# ```

# %% tags=["parameters"]
data = "digits"  # gray data set, for the first two networks: digits, mnist, or the path of an image folder
first = [400, 100, 300]  # of it: training, validation and test images
color_data = (
    "street-digits"  # color data set of 32 x 32 pixels, for the third: street-digits or cifar10
)
color_first = [200, 50, 200]  # of it: training, validation and test images
seeds = 1  # networks of each kind, trained from different starts
hidden = [64, 64, 64]  # units of the first network
width = 8  # filters in the first layers of the third
epochs = {"mlp": 8, "lenet5": 3, "vgg": 2}  # to train each
rates = {
    "mlp": 0.003,
    "lenet5": 0.003,
    "vgg": 0.003,
}  # learning rate of Adam, for floats and batch norm
sign_rates = {
    "mlp": 0.003,
    "lenet5": 0.01,
    "vgg": 0.003,
}  # the same, where weights or inputs are signs
state_rates = {"mlp": 0.1, "lenet5": 0.1, "vgg": 0.1}  # the same, for discrete states
batch_size = 50  # images in a step
bases = [1, 3, 5]  # of ABC-Net, for weights and for inputs
runs = 20  # timings, of which the median counts
many = 16  # images at once, when time is measured

# %% tags=["hide-input"]
import copy
from itertools import product

from torch import nn

from lib import datasets, evidence, figures, measure, models, storage, training
from lib.binarization import abc_net, binaryconnect, bnn, bwn, gxnor_dst, xnor_net
from lib.binarization.shared import inference
from lib.binarization.shared.signs import NORMS, Binarized, BinaryForm, inner, norm_before
from lib.cache import cached
from lib.weights import compressed_form, decompress, layer_named, replace

gray, color = datasets.load(data, first=first), datasets.load(color_data, first=color_first)
evidence.uses(gray)
evidence.uses(color)
sets = {"mlp": gray, "lenet5": gray, "vgg": color}
NETWORKS = {
    "mlp": lambda seed: models.mlp(seed, hidden=tuple(hidden)),
    "lenet5": models.lenet5,
    "vgg": lambda seed: models.vgg_small(seed, width=width),
}
TITLES = {"mlp": "three hidden layers", "lenet5": "LeNet-5", "vgg": "VGG, color images"}


def record(key, values, unit="%", digits=2):
    return evidence.record(f"binarization_comparison.{key}", values, unit=unit, digits=digits)


# %% [markdown]
# ## The methods
#
# One line for each: what is done to a network of floats.
# BinaryConnect, BNN and the discrete states of GXNOR-Net reach into all layers, as in their sources; the others leave the first and the last as they are.
# A network without batch norm of its own gets one behind its output where even that is a sum of signs.


# %%
def with_norm(net):  # floats, with the batch norm that XNOR-Net puts before its layers
    for name in inner(net):
        layer = layer_named(net, name)
        replace(net, name, nn.Sequential(norm_before(layer), layer))
    return net


def last(net):  # the width of an output that has no batch norm behind it, else None
    return None if isinstance(list(net.modules())[-1], NORMS) else 10


def closed(net):
    return net if last(net) is None else nn.Sequential(net, nn.BatchNorm1d(10))


METHODS = {
    "float": ("floats", lambda net: net),
    "float_norm": ("floats, batch norm", with_norm),
    "binaryconnect": ("BinaryConnect", lambda net: closed(binaryconnect.binarize(net))),
    "bwn": ("binary weights (BWN)", bwn.binarize),
    **{
        f"abc{m}": (
            f"ABC-Net, {m} × {m}",
            lambda net, m=m: abc_net.binarize(net, bases=m, activation_bases=m),
        )
        for m in bases
    },
    "xnor": ("XNOR-Net", xnor_net.binarize),
    "bnn": ("BNN", lambda net: bnn.binarize(net, classes=last(net))),
    "gxnor": ("three values (GXNOR)", lambda net: gxnor_dst.ternarize(net, classes=last(net))),
}


def trained(network, method, seed):
    net = METHODS[method][1](NETWORKS[network](seed))
    options = {
        "split": sets[network].train,
        "epochs": epochs[network],
        "seed": seed,
        "batch_size": batch_size,
    }
    options["loss"] = "squared_hinge" if network == "mlp" else "cross_entropy"
    if method == "gxnor":
        return cached(gxnor_dst.fit, net, learning_rate=state_rates[network], **options)
    rate = (rates if method.startswith("float") else sign_rates)[network]
    return cached(binaryconnect.fit, net, learning_rate=rate, **options)


# %% [markdown]
# Every network is trained, written to a file, and, where its layers read signs, converted to the kernels that count bits.

# %%
# A network with batch norm of its own is not tried with more of it.
tried = [(n, m) for n, m in product(NETWORKS, METHODS) if m != "float_norm" or n == "lenet5"]
nets, errors = {}, {}
for network, method in tried:
    networks = [trained(network, method, seed) for seed in range(seeds)]
    wrong = [training.error_pct(net, sets[network].test, batch_size=200) for net in networks]
    errors[network, method], nets[network, method] = wrong, networks[0]
    record(f"{network}.{method}_error_pct", wrong)
    rated = [training.error_pct(net, sets[network].validation, batch_size=200) for net in networks]
    record(f"{network}.{method}_validation_error_pct", rated)


# %% [markdown]
# ## Error, bytes, work and time
#
# Multiply-adds are told by kind: of floats, of a float with a sign, of two signs; a layer of several bases counts once for each pair of them.
# Time is that of many images at once on one thread, relative to the float network; a network with real inputs and signs for weights computes with floats.


# %% tags=["hide-input"]
def work(network, method):
    count = {"floats": 0, "float × sign": 0, "sign × sign": 0}
    shape = sets[network].test.images.shape[1:]
    places = measure.multiply_adds_by_layer(NETWORKS[network](0), shape)
    modules = {
        name.removeprefix("0."): module for name, module in nets[network, method].named_modules()
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


def reads_signs(net):
    return any(isinstance(module, Binarized) for module in net.modules())


# %% tags=["hide-input"]
def ready(net):  # on bits where the layers read signs, dense where only the weights are signs
    return inference.convert(net) if reads_signs(net) else decompress(copy.deepcopy(net))


ratios, table = {}, {}
for network in NETWORKS:
    x = sets[network].test.images[:many]
    fast = {method: ready(nets[network, method]) for name, method in tried if name == network}
    calls = {method: lambda f=f, x=x: f(x) for method, f in fast.items()}
    times = measure.latency_ms(calls, runs=runs)
    full = measure.dense_bytes(nets[network, "float"])
    for method in fast:
        size = len(storage.dumps(nets[network, method]))
        ratios[network, method] = record(f"{network}.{method}_file_ratio", full / size, "x", 1)
        relative = times[method].median / times["float"].median
        table[network, method] = work(network, method), size, relative
        if method != "float":
            record(f"{network}.{method}_latency_ratio", relative, "x")

# %% tags=["remove-input"]
for network, title in TITLES.items():
    rows = []
    for (name, method), (counts, size, relative) in table.items():
        if name == network:
            wrong = evidence.formatted(errors[network, method], unit="%", digits=2)
            row = {"method": METHODS[method][0], "test error": wrong.replace(" ", "\u00a0")}
            row |= {
                "smaller": ratios[network, method],
                "time": f"{relative:.2f}",
                "bytes": f"{size:,}",
            }
            row["million multiply-adds"] = " / ".join(f"{n / 1e6:.2f}" for n in counts.values())
            rows.append(row)
    figures.table(
        rows,
        caption=f"{title}. Multiply-adds of one image: floats / float × sign / sign × sign. Time of {many} images, floats: 1",
    )

# %% tags=["remove-input"]
figure, panels = figures.axes(3, sharey=True)
figure.set_size_inches(8, 4.4)
order = list(METHODS)
missing = [(n, m) for n, m in product(NETWORKS, METHODS) if (n, m) not in errors]
for ax, (network, title) in zip(panels, TITLES.items(), strict=True):
    for i, method in enumerate(order):
        if (network, method) in missing:
            continue
        kind = (figures.PRUNING if reads_signs(nets[network, method]) else figures.QUANTIZATION) | {
            "linestyle": "none"
        }
        look = figures.DENSE | {"linestyle": "none"} if method.startswith("float") else kind
        mean, half = evidence.interval(errors[network, method])
        ax.errorbar(mean, i, xerr=half or None, capsize=3, **look)
    ax.set(title=title, xlabel="test error (%)", yticks=range(len(order)))
    ax.set_yticklabels([METHODS[method][0] for method in order])
    means = [sum(errors[n, m]) / seeds for n, m in errors if n == network]
    ax.set_xlim(0, 1.2 * max(means))
panels[0].invert_yaxis()
figures.show(
    figure,
    name="fig-binarization-compared",
    caption="Test errors, means over seeds with 95 % intervals. Squares: floats; triangles: weights of signs; circles: what flows is binary or ternary, too.",
    alt="Mean test errors. "
    + ". ".join(
        f"{title}: "
        + ", ".join(
            f"{METHODS[m][0]} {sum(errors[n, m]) / seeds:.1f} %" for m in order if (n, m) in errors
        )
        for n, title in TITLES.items()
    ),
)

# %% [markdown]
# **What to see.** Compare triangles with circles, the price of signs for weights with that of signs for what flows; and digits with color images.
# On the digits LeNet-5 with floats *and* batch norm is the fair rival, with {glue:text}`binarization_comparison.lenet5.float_norm_error_pct`: part of what a binary network seems to win over plain LeNet-5 is its batch norm.
#
# Several bases buy accuracy back: on color images ABC-Net errs on {glue:text}`binarization_comparison.vgg.abc1_error_pct` with one base each, {glue:text}`binarization_comparison.vgg.abc3_error_pct` with three and {glue:text}`binarization_comparison.vgg.abc5_error_pct` with five.
# The bill is the number of products: many images take {glue:text}`binarization_comparison.vgg.abc1_latency_ratio`, {glue:text}`binarization_comparison.vgg.abc3_latency_ratio` and {glue:text}`binarization_comparison.vgg.abc5_latency_ratio` of the float network's time.
#
# The files of LeNet-5 are {glue:text}`binarization_comparison.lenet5.bwn_file_ratio` smaller with binary weights, {glue:text}`binarization_comparison.lenet5.xnor_file_ratio` with XNOR-Net, which adds batch norm for each of the inputs, and {glue:text}`binarization_comparison.lenet5.bnn_file_ratio` with all layers in signs; nowhere as many times as a float has bits.
#
# ## Where it breaks
#
# **Small networks.** The first and the last layer, batch norm and scales stay real, and in a narrow network they weigh.
# The VGG here is {glue:text}`binarization_comparison.vgg.xnor_file_ratio` smaller in XNOR-Net's form.
#
# **Short trainings.** All networks get the same few epochs, which hurts noisy gradients most; the sources train ten to a hundred times as long.
#
# ## Exercises
#
# 1. Which share of the bytes of LeNet-5 in XNOR-Net's form is spent on numbers that are no signs?

# %% tags=["hide-cell"]
net = nets["lenet5", "xnor"]
signs = (
    sum(module.layer.weight.numel() for module in net.modules() if isinstance(module, Binarized))
    / 8
)
print(f"{1 - signs / len(storage.dumps(net)):.0%}")

# %% [markdown]
# 2. Batch norm for each map, not for each input, before the first linear layer: how much smaller is the file?

# %% tags=["hide-cell"]
by_map = xnor_net.binarize(models.lenet5(), maps={"fc1": 50})
print(f"{len(storage.dumps(net)) / len(storage.dumps(by_map)):.2f} times")

# %% [markdown]
# ## Sources of this chapter
#
# - {cite:t}`courbariaux2015binaryconnect`, {cite:t}`rastegari2016xnor`, {cite:t}`lin2017abcnet`, {cite:t}`courbariaux2016binarynet` and {cite:t}`deng2018gxnor` are the methods.
# - {cite:t}`berthelier2020survey` is the survey.
