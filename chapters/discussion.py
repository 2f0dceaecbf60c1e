# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-discussion)=
# # Which technique for what? All techniques on one network
#
# You have a trained network and a small device. Which technique should you use?
# We applied {mean}`discussion.figure.techniques` techniques of this book to one small digit reader, on equal terms.
# Of those that lose at most {glue:text}`discussion.setting.tolerance` on validation images,
# {glue:text}`discussion.best.file_name` gives the smallest file, {mean}`discussion.best.file_ratio` smaller, and
# {glue:text}`discussion.best.multiply_adds_name` needs the least work: {mean}`discussion.best.multiply_adds_ratio` fewer
# {term}`multiply-adds <multiply-add>`.
#
# ```{claims} discussion
# ```
#
# ```{cost} discussion
# ```

# %% tags=["parameters"]
data = "digits"  # gray images of 28 x 28 pixels: digits, mnist
first = [320, 200, 200]  # training, validation and test images of them that are used
seeds = 1  # networks trained from different starts
epochs = 5  # to train each network
retrain_epochs = 3  # after a technique, and for the unchanged rival
learning_rate = 0.01  # of a new network (Adam), by validation: 0.003, 0.01 or 0.03
tune_rate = 0.01  # after a technique (Adam), by validation: 0.001, 0.003 or 0.01
own_rates = {
    "fixed point": 0.02,
    "hash tables": 0.01,
    "bnn": 2**-4,
    "gxnor": 0.03,
}  # of techniques with optimizers of their own, by validation, each of three
choose = False  # each technique's setting by validation images; False: the middle one
tolerance = 1.0  # points of validation accuracy that count as no loss
densities = [0.4, 0.2, 0.1]  # settings, mild to strong: share of weights kept
works = [0.6, 0.4, 0.2]  # share of multiply-adds kept
widths = [6, 4, 2]  # filters in the first layer; the full network has 8
fractions = [0.25, 0.125, 0.0625]  # values that hashing stores for each weight
units = [0.5, 0.25, 0.125]  # share of units that hash tables look up
energies = [0.9, 0.8, 0.7]  # share of squared singular values that factors keep
ranks = [16, 8, 4]  # of factors that have no energy
bits = [6, 4, 2]  # of a code of shared values
prices = [1e-4, 3e-4, 1e-3]  # of a bit, in squared weights
words = [16, 12, 8]  # bits of a number in fixed point or of a short float
bases = [3, 2, 1]  # binary networks added up
scales = [0.125, 0.0625, 0.03125]  # width of MobileNet, as a share of the paper's
channels = [8, 4, 2]  # of a node of a fabric
penalties = [0.03, 0.1, 0.3]  # of each group of channels computed at run time
calibration = 100  # images by which a criterion judges
runs = 21  # timings of each network, of which the median counts

# %% tags=["hide-input"]
import copy
import functools
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib import (
    datasets,
    evidence,
    figures,
    measure,
    storage,
    structure,
    training,
    weights,
)
from lib.architectures.dense_block import DenseBlock
from lib.architectures.depthwise_separable import DepthwiseSeparable
from lib.architectures.filter_sizes import lines, stack
from lib.architectures.inception import Inception, Sizes
from lib.architectures.mobilenet import mobilenet
from lib.architectures.residual_block import BasicBlock
from lib.architectures.shufflenet import Unit
from lib.architectures.spatially_separable import Separable
from lib.architectures.squeezenet import Fire
from lib.binarization import (
    abc_net,
    binaryconnect,
    bipolar_regularizer,
    bnn,
    bwn,
    gxnor_dst,
    xnor_net,
)
from lib.binarization.bulat_binary_block import BinaryBlock
from lib.datasets import Split
from lib.distillation import (
    darkrank,
    ensemble,
    label_smoothing,
    linear_bottleneck,
    logit_mimic,
    model_compression,
    neuron_selectivity,
    singular_vectors,
    soft_targets,
)
from lib.factorization import cp, low_rank, spatial, tucker
from lib.figures.costs import Cost, Point, choosable
from lib.hashing import hashed_nets, sparse_layers
from lib.morphism import network_morphism, path_level
from lib.precision import (
    dynamic_fixed_point,
    embedded_cnn,
    fixed_point,
    limited_precision,
)
from lib.precision.shared import gradient_descent
from lib.precision.shared.formats import Format
from lib.pruning import (
    adversarial,
    channel_lasso,
    discrimination_aware,
    filter_l1,
    geometric_median,
    granularity,
    lottery_ticket,
    magnitude,
    molchanov,
    nisp,
    optimal_brain_damage,
    optimal_brain_surgeon,
    optimal_threshold,
    particle_filter,
    runtime,
    sparse_speed,
    thinet,
)
from lib.quantization import (
    affine,
    deep_compression,
    entropy_constrained,
    hessian_weighted_kmeans,
    product_quantization,
    quantization_aware_training,
    residual_quantization,
    scalar_kmeans,
    sign_quantization,
    uniform_quantization,
)
from lib.quantization.shared import hessian_diagonal, torch_kernels
from lib.recipes import costs
from lib.recipes.methods import Made
from lib.seeding import seeded
from lib.supergraphs import budgeted
from lib.supergraphs.fabric import fabric
from lib.supergraphs.shared.costs import Sum
from lib.supergraphs.shared.costs import multiply_adds as edge_costs

dataset = datasets.load(data, first=first)
record = evidence.recorder("discussion", dataset)
train, validation, test = dataset.train, dataset.validation, dataset.test
shape, whole = tuple(train.images.shape[1:]), epochs + retrain_epochs
few, one = train.first(calibration), train.images[:1]
FIT = {"learning_rate": learning_rate, "optimizer": "adam", "batch_size": 32}

# %% [markdown]
# ## One network, equal terms
#
# The baseline is a small LeNet-5: two 5 x 5 convolutions with {term}`batch norm`, and two linear layers.
# It is small enough to apply every technique, and it is not a large network: look at the order of the techniques, not at
# the last point.
#
# Every technique gets the same training.
#
# - **What changes a trained network** (pruning, factors, shared weights) starts from the baseline after
#   {mean}`discussion.setting.epochs` epochs, and is then retrained for {mean}`discussion.setting.retrain_epochs`.
# - **What is a new network** (students, binary networks, designed modules) trains for the sum of both.
# - **The rival** is the baseline, trained for the sum as well. What needs no training is applied to this rival.
#
# How strongly should each technique compress?
# A technique with a strength, such as the share of the weights that pruning keeps, has three settings from mild to
# strong. All techniques of a kind share one list.
# On the first network we take the strongest setting that loses at most {glue:text}`discussion.setting.tolerance` of
# validation accuracy against the rival, or the mildest where all lose more.
# The other networks use the same setting, and no test image decides anything.
# {glue:text}`discussion.setting.rule`


# %%
def network(seed, *, width=8, middle=None, pool=None):
    with seeded(seed):
        inside = middle or nn.Sequential(
            nn.Conv2d(width, 2 * width, 5, padding=2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        layers = OrderedDict(
            conv1=nn.Conv2d(shape[0], width, 5, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            middle=inside,
            pool2=pool or nn.MaxPool2d(3),
            flatten=nn.Flatten(),
            fc1=nn.Linear(32 * width, 8 * width),
            relu2=nn.ReLU(),
            fc2=nn.Linear(8 * width, len(dataset.classes)),
        )
        return nn.Sequential(layers)


# %% tags=["hide-input"]
class At:
    """One seed: its trained networks, and the steps that many techniques share."""

    def __init__(self, seed):
        self.seed = seed
        self.base = self.trained(network(seed), epochs)
        self.rival = self.fit(self.given())
        self.small = {}

    def narrow(self, width):  # what grows
        if width not in self.small:
            net = network(self.seed, width=width)
            self.small[width] = self.trained(net, epochs)
        return self.small[width]

    @functools.cached_property
    def second(self):
        return self.trained(network(self.seed + 100))

    @functools.cached_property
    def smoothed(self):
        return self.trained(fresh(self), loss=label_smoothing.Smoothed(0.1))

    def trained(self, net, n=whole, split=train, **options):
        training.fit(net, split, epochs=n, seed=self.seed, **FIT | options)
        return net

    def fit(self, net, **options):
        return self.trained(
            net, retrain_epochs, **{"learning_rate": tune_rate} | options
        )

    def given(self):
        return copy.deepcopy(self.base)

    def longer(self):
        return copy.deepcopy(self.rival)

    def student(self, width, teaching, **options):
        net = network(self.seed, width=width)
        return same(self.trained(net, teaching=teaching, **options))

    def fraction(self, work):
        return structure.fraction_for(self.base, one, multiply_adds=work)

    def cut(self, scores, work):  # the filters with the lowest scores
        groups = structure.groups(self.base, one)
        masks = structure.keep(scores, fraction=self.fraction(work), groups=groups)
        return same(self.fit(structure.shrink(self.base, masks, one)))

    def masked(self, masks, net=None):
        return unpacked(self.fit(magnitude.apply(net or self.given(), masks)))

    def built(self, middle, pool=None, **options):  # not the second 5 x 5 convolution
        with seeded(self.seed):
            inside = middle()
        net = network(self.seed, middle=inside, pool=pool)
        return same(self.trained(net, **options))

    def signs(self, net, fit=binaryconnect.fit, **options):  # by its own optimizer
        options = {"learning_rate": learning_rate, "batch_size": 32} | options
        fit(net, train, epochs=whole, seed=self.seed, **options)
        return unpacked(net)


def same(net):
    return Made(net, net, net)


def unpacked(net):  # small in the file, computed with plain weights
    plain = weights.decompress(copy.deepcopy(net))
    return Made(plain, net, plain)


def folded(net):  # the same network without batch norm
    net = copy.deepcopy(net).eval()
    net.conv1, net.bn1 = fuse_conv_bn_eval(net.conv1, net.bn1), nn.Identity()
    net.middle = nn.Sequential(fuse_conv_bn_eval(*net.middle[:2]), nn.ReLU())
    return net


def fresh(s):
    return network(s.seed)


def normed(layer):
    return nn.Sequential(layer, nn.BatchNorm2d(16), nn.ReLU())


# %% [markdown]
# The calls, section by section; a call with a strength names its list of settings.

# %%
SETTINGS = {  # what is set -> mild to strong
    "density": densities,
    "work": works,
    "width": widths,
    "values per weight": fractions,
    "share of units": units,
    "energy": energies,
    "rank": ranks,
    "bits": bits,
    "density and bits": list(zip(densities, bits, strict=True)),
    "price of a bit": prices,
    "bits of a number": words,
    "bases": bases,
    "scale": scales,
    "channels": channels,
    "penalty": penalties,
}


# %% tags=["hide-input"]
def bottleneck(s, rank):
    net = linear_bottleneck.bottleneck(
        s.given(), "fc1", rank=rank, start="svd", seed=s.seed
    )
    return same(s.fit(net, teaching=logit_mimic.distiller(s.rival)))


def made_up(s, width):  # twice the images, half the epochs
    images = model_compression.munge(
        train.images, copies=1, probability=0.5, spread=1.0, seed=s.seed
    )
    split = model_compression.labeled(s.rival, torch.cat([train.images, images]))
    teaching = model_compression.distiller(s.rival)
    return s.student(width, teaching, split=split, n=whole // 2)


def smoothed(s, width):
    return s.student(width, soft_targets.distiller(s.smoothed))


def ensembled(s, width):
    return s.student(width, ensemble.distiller([s.rival, s.second]))


def taught(distiller):
    return "width", lambda s, width: s.student(width, distiller(s.rival))


TAPS = [("pool1", "pool1"), ("middle", "middle")]
DISTILLATION = {
    "kd-soft-targets": taught(soft_targets.distiller),
    "kd-logit-mimic": taught(logit_mimic.distiller),
    "kd-linear-bottleneck": ("rank", bottleneck),
    "kd-model-compression": ("width", made_up),
    "kd-ensemble": ("width", ensembled),
    "kd-label-smoothing": ("width", smoothed),
    "kd-nst": taught(lambda rival: neuron_selectivity.distiller(rival, TAPS[1:])),
    "kd-darkrank": taught(
        lambda rival: darkrank.distiller(rival, ("flatten", "flatten"))
    ),
    "kd-svd": lambda s: s.built(  # its maps must have as many channels as the teacher's
        lambda: normed(DepthwiseSeparable(8, 16)),
        teaching=singular_vectors.distiller(s.rival, TAPS),
    ),
}


def hashed(s, fraction):
    net = hashed_nets.compress(fresh(s), fraction=fraction, seed=s.seed)
    return unpacked(s.trained(net))


def by_hash_tables(s, share):
    net = sparse_layers.select(
        s.given(), ["fc1"], fraction=share, tables=10, seed=s.seed
    )
    options = {"learning_rate": own_rates["hash tables"], "batch_size": 32}
    sparse_layers.fit(net, train, epochs=retrain_epochs, seed=s.seed, **options)
    return same(net.eval())


HASHING = {
    "hash-hashednets": ("values per weight", hashed),
    "hash-lsh-sparse-layers": ("share of units", by_hash_tables),
}


# %% tags=["hide-input"]
def surgeon(s, density):
    net = s.given()
    masks = optimal_brain_surgeon.operate_by_layer(net, few, density=density)
    return s.masked(masks, net)


def damage(s, density):
    saliencies = optimal_brain_damage.saliencies(s.base, few)
    return s.masked(optimal_brain_damage.masks(saliencies, density=density))


def ticket(s, density):
    masks = magnitude.masks(s.base, density=density, scope="global")
    net = lottery_ticket.rewind(fresh(s), masks)
    lottery_ticket.train(net, train, masks=masks, epochs=whole, seed=s.seed, **FIT)
    return unpacked(magnitude.apply(net, masks))


def largest(s, density):
    return s.masked(magnitude.masks(s.base, density=density, scope="global"))


def kernels(s, density):
    return s.masked(granularity.masks(s.base, one, level="kernel", density=density))


def particles(s, work):
    masks, groups = {}, structure.groups(s.base, one)
    for group in groups:
        evaluate, count = particle_filter.evaluator(s.base, group.producers[0], few)
        kept = max(1, round((1 - s.fraction(work)) * count))
        best_found = particle_filter.search(
            evaluate, channels=count, keep=kept, particles=6, iterations=3, seed=s.seed
        )
        masks |= dict.fromkeys(group.producers, best_found.best)
    return same(s.fit(structure.shrink(s.base, masks, one)))


def at_run_time(s, penalty):
    net = runtime.RuntimeNetwork(s.base, one, seed=s.seed)
    options = {"epochs": retrain_epochs, "seed": s.seed, "learning_rate": tune_rate}
    runtime.nest(net, train, optimizer="adam", batch_size=32, **options)
    runtime.learn(net, train, penalty=penalty, seed=s.seed, rounds=3, updates=30)
    return same(net.eval())


def smaller(s, work):
    net = sparse_speed.shrunk(s.base, one, fraction=s.fraction(work), multiple_of=1)
    return same(s.fit(net))


def refitted(s, work):
    scores = channel_lasso.scores(s.base, few, seed=s.seed)
    masks = structure.keep(scores, fraction=s.fraction(work))
    net = channel_lasso.refit(s.base, masks, few, seed=s.seed)
    return same(s.fit(structure.shrink(net, masks, one)))


def cut(scores):  # by the scores that a criterion gives to the filters
    return "work", lambda s, work: s.cut(scores(s), work)


def factors(module):
    return "energy", lambda s, energy: same(
        s.fit(module.factorize_model(s.base, energy=energy)[0])
    )


def outer_products(s, rank):
    options = {"sweeps": 20, "starts": 1, "seed": s.seed}
    return same(s.fit(cp.factorize_model(s.base, rank=rank, **options)[0]))


PRUNING = {
    "prune-magnitude-iterative": ("density", largest),
    "prune-obd": ("density", damage),
    "prune-obs": ("density", surgeon),
    "prune-lottery-ticket": ("density", ticket),
    "prune-structured-granularity": ("density", kernels),
    "prune-filter-l1": cut(lambda s: filter_l1.scores(s.base, few)),
    "prune-molchanov-criteria": cut(lambda s: molchanov.scores(s.base, few)),
    "prune-fpgm": cut(lambda s: geometric_median.scores(s.base, few)),
    "prune-channel-threshold": cut(lambda s: optimal_threshold.scores(s.base, few)),
    "prune-thinet": cut(lambda s: thinet.scores(s.base, few, seed=s.seed)),
    "prune-channel-lasso": ("work", refitted),
    "prune-nisp": cut(lambda s: nisp.scores(s.base, few, seed=s.seed)),
    "prune-dcp": cut(
        lambda s: discrimination_aware.scores(
            s.base, few, rounds=1, steps=1, seed=s.seed
        )
    ),
    "prune-gal": cut(lambda s: adversarial.scores(s.base, few, epochs=2, seed=s.seed)),
    "prune-particle-filter": ("work", particles),
    "prune-runtime-rnn": ("penalty", at_run_time),
    "prune-sparse-speed": ("work", smaller),
    "factorize-svd": factors(low_rank),
    "factorize-spatial": factors(spatial),
    "factorize-cp": ("rank", outer_products),
    "factorize-tucker": factors(tucker),
}


# %% tags=["hide-input"]
def shared(change, kind="bits"):  # shared values are trained
    return kind, lambda s, setting: unpacked(s.fit(change(s.given(), setting, s)))


def integers(s, trained):  # of eight bits, as the processor's kernels take them
    net = affine.simulate(s.given() if trained else s.rival)
    affine.calibrate(net, train.images)
    if trained:
        options = {"epochs": retrain_epochs, "seed": s.seed, **FIT}
        options["learning_rate"] = tune_rate
        quantization_aware_training.fit(net, train, **options)
    fast = torch_kernels.kernels_available()
    converted = torch_kernels.convert_to_kernels(net) if fast else net
    return Made(converted, net, s.rival, value_bytes=1)


def deep(s, net, setting, **options):  # prunes, trains, shares and trains
    density, size = setting
    net = magnitude.prune(net, density=density, scope="global")
    early = {"learning_rate": tune_rate} | options
    s.trained(net, retrain_epochs - retrain_epochs // 2, **early)
    net = deep_compression.share_survivors(net, bits=size)
    return s.trained(net, retrain_epochs // 2, **early)


def hessian(net, size, s):
    importance = hessian_diagonal.gauss_newton_diagonal(net, few, seed=s.seed)
    return hessian_weighted_kmeans.share(net, k=2**size, importance=importance)


QUANTIZATION = {
    "gong-scalar-kmeans": shared(lambda net, b, s: scalar_kmeans.share(net, bits=b)),
    "optimal-kmeans-1d": shared(  # of all layers together
        lambda net, b, s: hessian_weighted_kmeans.share(net, k=2**b)
    ),
    "gong-binary": lambda s: unpacked(
        sign_quantization.quantize(s.longer(), scale="row")
    ),
    "gong-product-quantization": shared(
        lambda net, b, s: product_quantization.quantize(
            net, bits=b, length=5, seed=s.seed
        )
    ),
    "gong-residual-quantization": shared(
        lambda net, b, s: residual_quantization.quantize(
            net, bits=b, stages=2, seed=s.seed
        )
    ),
    "deep-compression": (
        "density and bits",
        lambda s, setting: unpacked(deep(s, s.given(), setting)),
    ),
    "hessian-weighted-kmeans": shared(hessian),
    "ecsq-uniform": shared(lambda net, b, s: uniform_quantization.share(net, bits=b)),
    "ecsq-lloyd": shared(
        lambda net, price, s: entropy_constrained.share(net, penalty=price),
        "price of a bit",
    ),
    "affine-int8": lambda s: integers(s, False),
    "qat-int8": lambda s: integers(s, True),
}


def descend(s, arithmetic, form):
    net, rate = s.given(), own_rates["fixed point"]
    options = {"epochs": retrain_epochs, "seed": s.seed, "learning_rate": rate}
    gradient_descent.train(net, train, arithmetic=arithmetic, batch_size=32, **options)
    return unpacked(fixed_point.quantize(net, form))


def stochastic(s, word):
    form = Format(6, word - 6)
    rounding = {"rounding": "stochastic", "seed": s.seed}
    return descend(s, fixed_point.FixedPoint(form, **rounding), form)


def moving(s, word):  # the kept weights have two bits more, as in the paper
    arithmetic = dynamic_fixed_point.DynamicFixedPoint(
        bits=word - 3, storage_bits=word - 1
    )
    return descend(s, arithmetic, Format(3, word - 3))


def in_integers(s, word):
    net = embedded_cnn.convert(folded(s.rival), few, bits=word)
    return Made(net, net, s.rival, value_bytes=2 if word > 8 else 1)


PRECISION = {
    "fixed-point-gupta": ("bits of a number", stochastic),
    "courbariaux-low-precision-multiplications": ("bits of a number", moving),
    "early-limited-precision": shared(
        lambda net, word, s: limited_precision.store(
            net, exponent=4, significand=word - 5
        ),
        "bits of a number",
    ),
    "embedded-fixed-point-face-cnn": ("bits of a number", in_integers),
}


# %% tags=["hide-input"]
def closed(net):  # the norm that follows an output made of signs
    return nn.Sequential(net, nn.BatchNorm1d(len(dataset.classes)))


def pushed(net, split, **options):
    return bipolar_regularizer.fit(net, split, strength=1e-4, **options)


def added_up(s, count):
    net = abc_net.binarize(
        fresh(s), bases=count, activation_bases=count, example=few.images
    )
    return s.signs(net)


classes = len(dataset.classes)
BINARIZATION = {
    "binaryconnect": lambda s: s.signs(closed(binaryconnect.binarize(fresh(s)))),
    "bipolar-regularizer": lambda s: s.signs(
        closed(binaryconnect.binarize(fresh(s))), pushed
    ),
    "bwn": lambda s: unpacked(s.trained(bwn.binarize(fresh(s)))),
    "bnn": lambda s: s.signs(
        bnn.binarize(fresh(s), classes=classes), bnn.fit, learning_rate=own_rates["bnn"]
    ),
    "xnor-net": lambda s: s.signs(xnor_net.binarize(fresh(s), example=few.images)),
    "abc-net": ("bases", added_up),
    "gxnor-dst": lambda s: s.signs(
        gxnor_dst.ternarize(fresh(s), classes=classes),
        gxnor_dst.fit,
        learning_rate=own_rates["gxnor"],
    ),
    "bulat-binary-block": lambda s: s.built(lambda: BinaryBlock(8, 16)),
}


# %% tags=["hide-input"]
def woven(s, width):
    small = nn.AdaptiveAvgPool2d(8)  # a fabric takes images of 8 x 8
    net = nn.Sequential(small, fabric(s.seed, layers=3, size=8, width=width))
    return same(s.trained(net))


def within_budget(s, work):
    pool = nn.AdaptiveAvgPool2d(8)
    small = Split(pool(train.images), train.labels)
    model = budgeted.Gated(fabric(s.seed, layers=3, size=8, width=channels[0]))
    cost = Sum(model.network.graph, edge_costs(model.network, (shape[0], 8, 8)))
    options = {"epochs": whole, "seed": s.seed, "batch_size": 32}
    budgeted.fit(model, small, cost=cost, budget=work * cost.full, **options)
    return same(nn.Sequential(pool, model.plain()))


def widened(s, width):  # the narrow network grows
    possible = network_morphism.operations(s.narrow(width), one)
    widen = next(o for o in possible if str(o).startswith("widen middle"))
    return same(s.fit(widen.apply(s.narrow(width))))


def branched(s, width):
    net = path_level.grow(s.narrow(width), "fc1", one, steps=3, seed=s.seed)
    return same(s.fit(net))


def separable_blocks(s, scale):
    strides = (2, 1, 2, 2, 2)
    sizes = {"channels": shape[0], "classes": classes, "width": scale}
    return same(s.trained(mobilenet(s.seed, strides=strides, middle=1, **sizes)))


DESIGN = {
    "filter-size-factorization": lambda s: s.built(lambda: stack(8, 16, lines(5))),
    "inception-module": lambda s: s.built(
        lambda: Inception(8, Sizes(4, 4, 6, 2, 3, 3), batch_norm=True)
    ),
    "residual-block": lambda s: s.built(lambda: BasicBlock(8, 16)),
    "dense-block": lambda s: s.built(lambda: DenseBlock(8, 2, 4)),
    "spatially-separable-filters": lambda s: s.built(
        lambda: normed(Separable(8, 16, 5, padding=2))
    ),
    "depthwise-separable": lambda s: s.built(lambda: normed(DepthwiseSeparable(8, 16))),
    "squeezenet": lambda s: s.built(lambda: Fire(8, 4, 8, 8, batch_norm=True)),
    "mobilenet-v1": ("scale", separable_blocks),
    "shufflenet-v1": lambda s: s.built(
        lambda: Unit(8, 16, groups=2, stride=2), nn.MaxPool2d(3, stride=1)
    ),
    "network-morphism": ("width", widened),
    "path-level-morphism": ("width", branched),
    "convolutional-neural-fabrics": ("channels", woven),
    "budgeted-super-networks": ("work", within_budget),
}

# %% [markdown]
# Eighteen techniques are not in the comparison, each for a reason.

# %% tags=["hide-input"]
EXCUSED = {
    "kd-internal-representations": "its loss compares the attention of transformers, and this network has none",
    "hash-feature-hashing": "it hashes inputs, and changes no network",
    "hash-simhash-lsh": "it finds similar vectors, and changes no network",
    "hash-mips-alsh": "it finds large inner products; layers that use it are in the comparison",
    "squeeze-segnet": "it labels each pixel of a picture",
    "binarized-hourglass": "it draws a heat map for each point of a body",
    "rosenblatt-perceptron": "it separates two classes, by one trained unit",
    "willshaw-malsburg": "it maps one sheet of cells onto another",
    "self-organizing-map": "a map without classes",
    "neural-gas": "a map without classes",
    "growing-cell-structures": "it grows units of another kind, and changes no network",
    "growing-neural-gas": "a map without classes",
    "neat": "it evolves small controllers, not classifiers of images",
    "competing-conventions": "it studies how encodings cross, and changes no network",
    "codeepneat": "a search over many trainings: the comparison would be of budgets",
    "auto-keras": "a search over many trainings: the comparison would be of budgets",
    "enas": "a search over many trainings: the comparison would be of budgets",
    "mnasnet": "a search over many trainings: the comparison would be of budgets",
}

# %% mystnb={"code_prompt_show": "Show what is left out", "code_prompt_hide": "Hide what is left out"} tags=["remove-input", "hide-output"]
figures.table(
    [
        {
            "techniques": ", ".join(n for n, why in EXCUSED.items() if why == reason),
            "why they are not compared": reason,
        }
        for reason in dict.fromkeys(EXCUSED.values())
    ],
    caption="Techniques of this book that do not compress or replace this network",
)

# %% [markdown]
# The searches are compared at equal budgets in {doc}`search_compared`.
#
# ## The result
#
# For each network we measure the accuracy on test images and four costs: the bytes of its coded file, its
# multiply-adds, the peak memory of its activations, and its time.
# The time is that of one image on one thread.
# Times are shares of the rival's time in the same process.

# %%
FAMILIES = {
    "2.1": DISTILLATION,
    "2.2": HASHING,
    "2.3": PRUNING,
    "2.4": QUANTIZATION,
    "2.5": PRECISION,
    "2.6": BINARIZATION,
    "3": DESIGN,
}
CALLS = {name: call for calls in FAMILIES.values() for name, call in calls.items()}
assert not CALLS.keys() & EXCUSED.keys()


def per_image(made):  # channels that are skipped for an image are not counted
    if not isinstance(made.network, runtime.RuntimeNetwork):
        return None
    made.network(validation.images)
    spent = made.network.multiply_adds(made.network.actions).double().mean().item()
    return round(spent) + made.network.overhead()


def slower(net, rival):  # times that one image takes as long; only these two take turns
    calls = {"rival": lambda: rival(one), "own": lambda: net(one)}
    taken = measure.latency_ms(calls, runs=runs)
    return taken["own"].median / taken["rival"].median


def accuracy(made, split):
    return 100 - training.error_pct(made.network, split)


# %% [markdown]
# This chooses the setting of a technique, by validation images.


# %%
def strongest(call, place):  # its setting and network, of those that lose nothing
    if not isinstance(call, tuple):
        return None, call(place)
    kind, make = call
    settings = SETTINGS[kind]
    if not choose:
        setting = settings[len(settings) // 2]
        return setting, make(place, setting)
    least = accuracy(same(place.rival), validation) - tolerance
    for setting in reversed(settings):  # the mildest comes last
        made = make(place, setting)
        if accuracy(made, validation) >= least:
            break
    return setting, made


# %% tags=["hide-input"]
found = {name: [] for name in ("dense", *CALLS)}  # costs of each seed
judged = {name: [] for name in found}  # accuracies on validation images
chosen, places = {}, []  # settings; one place for each seed


def again(call, place, setting):
    return call[1](place, setting) if isinstance(call, tuple) else call(place)


def measure_all(made, place):
    made = {"dense": same(place.rival)} | made
    for name, cost in costs.measured(made, test, runs=runs).items():
        work_done = per_image(made[name]) or cost.multiply_adds
        share = slower(made[name].network, place.rival)
        found[name].append(replace(cost, multiply_adds=work_done, latency_ms=share))
        judged[name].append(accuracy(made[name], validation))
    places.append(place)


place, made = At(0), {}
for name, call in CALLS.items():
    chosen[name], made[name] = strongest(call, place)
measure_all(made, place)

# %% tags=["hide-input"]
for seed in range(1, seeds):
    place = At(seed)
    made = {name: again(call, place, chosen[name]) for name, call in CALLS.items()}
    measure_all(made, place)


# %% tags=["remove-cell"]
def key(name):
    return name.replace("-", "_")


def spoken(name):
    first, _, rest = name.partition("-")
    return NAMES.get(name) or (rest if first in PREFIXES else name).replace("-", " ")


PREFIXES = {"kd", "prune", "hash", "gong", "factorize"}
NAMES = {
    "dense": "the full network",
    "prune-magnitude-iterative": "magnitude",
    "prune-obd": "OBD",
    "prune-obs": "OBS",
    "prune-filter-l1": "L1 filters",
    "prune-molchanov-criteria": "Taylor",
    "prune-fpgm": "geometric median",
    "prune-channel-threshold": "batch norm scales",
    "prune-channel-lasso": "LASSO",
    "prune-thinet": "ThiNet",
    "prune-nisp": "NISP",
    "prune-dcp": "DCP",
    "prune-gal": "GAL",
    "prune-runtime-rnn": "runtime pruning",
    "prune-sparse-speed": "small filters",
    "prune-structured-granularity": "whole kernels",
    "hash-hashednets": "HashedNets",
    "hash-lsh-sparse-layers": "hash tables",
    "kd-nst": "NST",
    "kd-darkrank": "DarkRank",
    "kd-svd": "singular vectors",
    "factorize-svd": "SVD",
    "factorize-cp": "CP",
    "factorize-tucker": "Tucker",
    "gong-binary": "signs, untrained",
    "optimal-kmeans-1d": "exact k-means",
    "affine-int8": "int8",
    "qat-int8": "int8, trained",
    "deep-compression": "Deep Compression",
    "ecsq-uniform": "uniform cells",
    "ecsq-lloyd": "ECSQ",
    "fixed-point-gupta": "fixed point",
    "courbariaux-low-precision-multiplications": "dynamic fixed point",
    "early-limited-precision": "short floats",
    "embedded-fixed-point-face-cnn": "integers alone",
    "binaryconnect": "BinaryConnect",
    "bwn": "BWN",
    "bnn": "BNN",
    "xnor-net": "XNOR-Net",
    "abc-net": "ABC-Net",
    "gxnor-dst": "GXNOR",
    "mobilenet-v1": "MobileNet",
    "shufflenet-v1": "ShuffleNet",
    "squeezenet": "Fire module",
    "inception-module": "Inception module",
    "depthwise-separable": "depthwise module",
    "budgeted-super-networks": "budgeted network",
    "convolutional-neural-fabrics": "fabric",
    "bulat-binary-block": "binary block",
    "bipolar-regularizer": "bipolar",
    "hessian-weighted-kmeans": "Hessian k-means",
    "gong-scalar-kmeans": "k-means",
}
COSTS = {  # key -> field of the costs
    "file": "file_bytes",
    "multiply_adds": "multiply_adds",
    "activation": "activation_bytes",
    "latency": "latency_ms",  # in units of the time of the full network
}


def values(name, cost):
    return [getattr(one, COSTS[cost]) for one in found[name]]


def ratios(name, cost):  # how many times less than the full network, seed by seed
    pairs = zip(values("dense", cost), values(name, cost), strict=True)
    return [full / own for full, own in pairs]


def right(name):
    return [100 - one.error_pct for one in found[name]]


def drops(name):
    return [full - own for full, own in zip(right("dense"), right(name), strict=True)]


def within(names):  # by validation images, those that lose nothing
    least = np.mean(judged["dense"]) - tolerance
    return [n for n in names if np.mean(judged[n]) >= least]  # not chosen by test


def leanest(names, cost):  # of those that lose nothing; the full network where all lose
    allowed = within(names) or ["dense"]
    # of equal ones a designed module, which others only use, and then the most accurate
    ranks = {
        n: (np.mean(values(n, cost)), n not in DESIGN, -np.mean(judged[n]))
        for n in allowed
    }
    return min(allowed, key=ranks.get)  # not chosen by test


record("figure.techniques", len(CALLS), exact=True)
record("figure.excused", len(EXCUSED), exact=True)
record("setting.epochs", epochs, exact=True)
record("setting.retrain_epochs", retrain_epochs, exact=True)
evidence.phrase(
    "discussion.setting.rule",
    "The folded table of all techniques shows the settings that were chosen."
    if choose
    else "This quick run takes the middle setting of each list instead, and chooses nothing.",
)
evidence.phrase(
    "discussion.setting.tolerance",
    f"{tolerance:g} point{'s' if tolerance != 1 else ''}",
)
for name in found:
    record(f"{key(name)}.accuracy_pct", right(name), digits=1)
    if name == "dense":
        continue
    record(f"{key(name)}.drop_points", drops(name), digits=1)
    for cost in ("file", "multiply_adds", "activation"):
        record(f"{key(name)}.{cost}_ratio", ratios(name, cost), digits=1)
    record(
        f"{key(name)}.latency_ratio",
        values(name, "latency"),
        unit="",
        digits=2,
        timing=True,
    )
best = {cost: leanest(CALLS, cost) for cost in COSTS}
for cost, name in best.items():
    evidence.phrase(f"discussion.best.{cost}_name", spoken(name))
    if cost != "latency":
        record(f"best.{cost}_ratio", ratios(name, cost), digits=1)
        record(f"best.{cost}_drop_points", drops(name), digits=1)

lost = np.mean(drops(best["file"]))
evidence.phrase(
    "discussion.best.file_loss",
    f"{abs(lost):.1f} points {'less' if lost > 0 else 'more'}",
)
count = len(set(best.values()))
evidence.phrase(
    "discussion.best.winners",
    f"{['two', 'three', 'four'][count - 2]} different winners"
    if count > 1
    else "one winner",
)

# %% tags=["remove-input"]
LOOKS = {
    "full": figures.look("dense"),
    "2.1": figures.look("kd-logit-mimic"),
    "2.2": figures.look("hash-hashednets"),
    "2.3": figures.look("kd-model-compression"),
    "2.4": {"color": "#cc79a7", "marker": "s"},
    "2.5": {"color": "#e69f00", "marker": "D"},
    "2.6": {"color": "#56b4e9", "marker": "^"},
    "3": {"color": "black", "marker": "o"},
}
WORDS = {
    "full": "full network",
    "2.1": "distillation",
    "2.2": "hashing",
    "2.3": "pruning",
    "2.4": "quantization",
    "2.5": "precision",
    "2.6": "binarization",
    "3": "architecture",
}
family = {"dense": "full"} | {n: f for f, calls in FAMILIES.items() for n in calls}
UNITS = {
    "file": ("file (kB)", 1000),
    "multiply_adds": ("multiply-adds (thousands)", 1000),
}
# what lies far below would press all others together
lowest = np.mean(right("dense")) - 10
shown = [n for n in found if np.mean(right(n)) >= lowest]  # not chosen by test
ROOM = 5  # points between a mark and its name


def front(points):  # name -> (cost, error) of those that no other beats in both
    return [
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())
    ]  # not chosen by test


def free_place(x, y, wide, taken, inside):
    """The nearest place for a name around a mark, in points, that covers nothing."""
    places = (
        (x + dx * reach - wide * (1 - dx) / 2, y + dy * reach - 4.5)
        for reach in (ROOM, 10, 18, 28)
        for dx, dy in ((-1, 0), (-1, -1), (0, -2), (1, -1), (-1, 1), (1, 0), (1, 1))
    )
    for left, low in places:
        box = left, low, left + wide, low + 9
        fits = inside[0] < box[0] and inside[1] < box[1]
        fits = fits and box[2] < inside[2] and box[3] < inside[3]
        if fits and not any(overlap(box, other) for other in taken):
            return box
    return None


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def name_front(ax, points, winner):  # writes the names beside their marks
    scale = 72 / ax.figure.dpi
    marks = {n: ax.transData.transform(xy) * scale for n, xy in points.items()}
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in marks.values()]
    inside = [side * scale for side in ax.bbox.extents]
    others = sorted(front(points), key=points.get)  # not chosen by test
    for name in dict.fromkeys([winner, *others]):
        x, y = marks[name]
        box = free_place(x, y, 5.2 * len(spoken(name)), taken, inside)
        if box is None:
            continue
        taken.append(box)
        middle = (box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y
        text = {"ha": "center", "va": "center", "fontsize": 8.5}
        text["weight"] = "bold" if name == winner else "normal"
        gaps = max(box[0] - x, x - box[2]), max(box[1] - y, y - box[3])
        if max(gaps) > 8:  # a line leads to a mark that is not beside its name
            text["arrowprops"] = {"arrowstyle": "-", "lw": 0.5, "color": "gray"}
        ax.annotate(
            spoken(name), points[name], middle, textcoords="offset points", **text
        ).set_in_layout(False)


figure, _ = figures.axes()
figure.clear()
figure.set_size_inches(6.4, 5.3)
with figures.style():
    axes = figure.subplots(2, 1, sharey=True)
# a logarithm needs more than no error: half an image
wrong = {n: max(100 - np.mean(right(n)), 50 / len(test)) for n in found}
places_in = {}
for ax, (cost, (label, unit)) in zip(axes, UNITS.items(), strict=True):
    spots = {n: (np.mean(values(n, cost)) / unit, wrong[n]) for n in shown}
    places_in[cost] = spots
    for group, look in reversed(LOOKS.items()):  # the full network on top
        names = [name for name in shown if family[name] == group]
        style = {"color": look["color"], "marker": look["marker"]}
        label_of = WORDS[group] if ax is axes[0] else None
        x, y = [spots[n][0] for n in names], [spots[n][1] for n in names]
        ax.plot(x, y, linestyle="none", markersize=5, label=label_of, **style)
    figures.logarithmic(ax, "x", "y")
    ax.margins(x=0.12, y=0.12)
    ax.set_xlabel(label)
    ax.set_ylabel("test error (%)")
figure.legend(loc="outside lower center", ncols=4)
figure.draw_without_rendering()  # now the axes have their places
for ax, cost in zip(axes, UNITS, strict=True):
    name_front(ax, places_in[cost], best[cost])
says = f"Smallest file: {spoken(best['file'])}, {np.mean(ratios(best['file'], 'file')):.0f} times smaller; least work: {spoken(best['multiply_adds'])}, {np.mean(ratios(best['multiply_adds'], 'multiply_adds')):.1f} times less"
figures.show(
    figure,
    lead=True,
    finding=says,
    name="fig-discussion",
    caption=f"Every technique on one small digit reader, with the same training: test error against the file and the multiply-adds; lower left is better. {'One trained network' if seeds == 1 else f'Means of {seeds} trained networks'}. Those that lose more than ten points ({len(found) - len(shown)}) are only in the folded table. Named are the techniques that no other beats in both, and in bold the one with the least cost among those that lose at most {tolerance:g} point on validation images.",
    alt=f"Two panels of {len(shown)} points, test error against a cost. Of the networks that lose at most {tolerance:g} point on validation images, {says}. The full network misreads {wrong['dense']:.1f} %.",
)

# %% [markdown]
# Choose the cost yourself, and which sections of the survey are shown.

# %% tags=["remove-input"]
CHOICES = {
    "file": ("file", "bytes of the coded file"),
    "multiply_adds": ("multiply-adds", "multiply-adds for one image"),
    "activation": ("memory", "bytes of the activations at their peak"),
    "latency": ("time", "time for one image (full network: 1)"),
}
order = [*dict.fromkeys([*best.values(), "dense"])]
order += [name for name in shown if name not in order]


def place_of(name):
    return tuple(np.mean(values(name, cost)) for cost in COSTS)


choosable(
    [
        Point(spoken(name), family[name], float(np.mean(right(name))), place_of(name))
        for name in order
    ],
    costs=[
        Cost(
            choice,
            label,
            f"Of those that lose at most {tolerance:g} point on validation images, {spoken(best[cost])} costs least: {np.mean(ratios(best[cost], cost)):.1f} times less",
        )
        for cost, (choice, label) in CHOICES.items()
    ],
    looks=LOOKS,
    ylabel="test accuracy (%)",
    name="fig-discussion-costs",
    caption="Accuracy against a cost of your choice. Sections of the survey: 2.1 distillation, 2.2 hashing, 2.3 pruning, 2.4 quantization, 2.5 precision, 2.6 binarization, 3 architecture. Point at a mark to read its name; the folded table has all values.",
    alt=f"Points of accuracy against four costs. {says}.",
)


# %% mystnb={"code_prompt_show": "Show all techniques", "code_prompt_hide": "Hide all techniques"} tags=["remove-input", "hide-output"]
def row(name):
    texts = {"section": family[name], "technique": spoken(name)}
    texts["setting"] = setting_of(name)
    texts["accuracy (%)"] = evidence.formatted(right(name), unit="", digits=1)
    for cost, title in zip(
        COSTS, ("file", "multiply-adds", "activations", "time"), strict=True
    ):
        texts[title] = f"{np.mean(ratios(name, cost)):.1f}×"
    return texts


def setting_of(name):
    if chosen.get(name) is None:
        return ""
    kind, setting = CALLS[name][0], chosen[name]
    if isinstance(setting, tuple):
        return f"{kind}: {' and '.join(f'{one:g}' for one in setting)}"
    return f"{kind}: {setting:g}"


figures.table(
    [row(name) for name in found],
    caption="All techniques on one network: test accuracy, and how many times less of each cost than the full network needs",
)

# %% [markdown]
# **What to see.** The four costs have {glue:text}`discussion.best.winners`, so ask first which one your device is short
# of.
# Of techniques with equal costs, the most accurate on validation images counts as the winner.
# By file, {glue:text}`discussion.best.file_name` wins; by multiply-adds, {glue:text}`discussion.best.multiply_adds_name`;
# by memory, {glue:text}`discussion.best.activation_name`.
# Pruning single weights makes the file
# {finding}`smaller, and saves no multiply-adds | discussion.prune_magnitude_iterative.file_ratio > 1; discussion.prune_magnitude_iterative.multiply_adds_ratio ~ 1`:
# its file is {mean}`discussion.prune_magnitude_iterative.file_ratio` smaller.
# A cheaper module
# {finding}`saves both | discussion.depthwise_separable.file_ratio > 1; discussion.depthwise_separable.multiply_adds_ratio > 1`.
# With a depthwise separable convolution the file is {mean}`discussion.depthwise_separable.file_ratio` smaller, and there
# are {finding}`fewer | discussion.depthwise_separable.multiply_adds_ratio > 1` multiply-adds by
# {mean}`discussion.depthwise_separable.multiply_adds_ratio`.
#
# The survey calls a well-designed architecture the first key: {verdict}`C4-19`.
# Of the designed networks, {glue:text}`discussion.designed.name` needs the least work without compression:
# {mean}`discussion.designed.multiply_adds_ratio` fewer multiply-adds.
# Its loss of accuracy on test images is {mean}`discussion.designed.drop_points`.
#
# ## Table 1, measured
#
# The survey's Table 1 {cite:p}`berthelier2020survey` gives each family of methods a rate of compression.
# Beside its words, in ours, are the ranges on this network: how many times smaller the file is, and the time, where the
# full network needs one.
#
# | family | what Table 1 says, in our words | file, times smaller | time |
# | --- | --- | --- | --- |
# | distillation | a smaller network, comparably good {verdict}`T1-19`; hard outside classification {verdict}`T1-01` | {glue:text}`discussion.family.f21_file` | {glue:text}`discussion.family.f21_time` |
# | hashing | less time {verdict}`C2.2-06`; easy to run in parallel {verdict}`T1-02`; slow if too sparse {verdict}`T1-03` | {glue:text}`discussion.family.f22_file` | {glue:text}`discussion.family.f22_time` |
# | pruning | ten to fifteen times smaller {verdict}`C2.3-39`, up to thirty {verdict}`C2.3-44`; of no interest if the model is sparse {verdict}`C2.3-43` | {glue:text}`discussion.family.f23_file` | {glue:text}`discussion.family.f23_time` |
# | quantization | ten to fifteen times smaller {verdict}`C2.4-22`; couples with pruning {verdict}`C2.4-19`; slow if too sparse {verdict}`C2.4-23` | {glue:text}`discussion.family.f24_file` | {glue:text}`discussion.family.f24_time` |
# | precision | high compression {verdict}`T1-10` and speed {verdict}`C4-17`; may need special hardware {verdict}`T1-12` | {glue:text}`discussion.family.f25_file` | {glue:text}`discussion.family.f25_time` |
# | binarization | thirty times smaller {verdict}`T1-14`, fifty to sixty times faster {verdict}`T1-15` | {glue:text}`discussion.family.f26_file` | {glue:text}`discussion.family.f26_time` |
#
# Binary networks are timed as PyTorch computes them, in floats.
# With kernels for bits they are faster: {doc}`binarization_speed`.

# %% tags=["remove-cell"]
for number, calls in FAMILIES.items():
    shares = [np.mean(ratios(name, "file")) for name in calls]
    times = [np.mean(values(name, "latency")) for name in calls]
    word = f"f{number.replace('.', '')}"
    evidence.phrase(
        f"discussion.family.{word}_file", f"{min(shares):.1f} to {max(shares):.1f}"
    )
    evidence.phrase(
        f"discussion.family.{word}_time", f"{min(times):.1f} to {max(times):.1f}"
    )
plain = hashed_nets.compress(network(0), fraction=fractions[1])
plain = weights.decompress(plain)
sizes = measure.nonzero_parameters(plain), measure.parameters(plain)
record("hashed.density_pct", 100 * sizes[0] / sizes[1], digits=1, exact=True)
designed = leanest(
    [name for name in DESIGN if not name.endswith("morphism")], "multiply_adds"
)
record("designed.multiply_adds_ratio", ratios(designed, "multiply_adds"), digits=1)
record("designed.drop_points", drops(designed), digits=1)
evidence.phrase("discussion.designed.name", spoken(designed))

# %% [markdown]
# ## What combines with what
#
# Distillation makes a smaller network, pruning removes weights, quantization lets the others share a few values, and
# coding writes frequent values with few bits.
# Each works on what the one before it leaves.
# All rows have the same number of epochs; binary weights, those of BWN, replace pruning and sharing.


# %%
def combined(s, taught, change):
    teaching = soft_targets.distiller(s.rival) if taught else None
    if change is bwn.binarize:
        return s.trained(
            change(network(s.seed, width=widths[1] if taught else 8)), teaching=teaching
        )
    net = s.taught() if taught else s.given()
    if change is deep:
        return deep(s, net, (densities[1], bits[1]), teaching=teaching)
    return s.fit(change(net), teaching=teaching)


def taught_once(s):
    teaching = soft_targets.distiller(s.rival)
    net = s.trained(network(s.seed, width=widths[1]), epochs, teaching=teaching)
    return lambda: copy.deepcopy(net)


CHANGES = {
    "none": lambda net: net,
    "pruned": lambda net: magnitude.prune(net, density=densities[1], scope="global"),
    "shared": lambda net: scalar_kmeans.share(net, bits=bits[1]),
    "pruned_shared": deep,
    "signs": bwn.binarize,
}
TITLES = {
    "none": "as it is",
    "pruned": "pruned",
    "shared": "values shared",
    "pruned_shared": "pruned, values shared",
    "signs": "binary weights",
}
for place in places:
    place.taught = taught_once(place)
pairs = {
    (taught, change): [combined(place, taught, CHANGES[change]) for place in places]
    for taught in (False, True)
    for change in CHANGES
}

# %% tags=["remove-input"]
rows, coded = [], {}
for (taught, change), nets in pairs.items():
    word = f"combined.{'taught' if taught else 'full'}_{change}"
    fixed = [len(storage.dumps(net, coder="fixed")) for net in nets]
    coded[taught, change] = [len(storage.dumps(net)) for net in nets]
    rows.append(
        {
            "network": "student" if taught else "full network",
            "weights": TITLES[change],
            "file (bytes)": f"{np.mean(fixed):,.0f}",
            "coded file (bytes)": f"{np.mean(coded[taught, change]):,.0f}",
            "smaller": record(
                f"{word}_file_ratio",
                [
                    a / b
                    for a, b in zip(
                        values("dense", "file"), coded[taught, change], strict=True
                    )
                ],
                digits=1,
            ),
            "accuracy (%)": record(
                f"{word}_accuracy_pct",
                [100 - training.error_pct(net, test) for net in nets],
                digits=1,
            ),
        }
    )
figures.table(
    rows,
    caption="What combines: the file with codes of one length and with entropy coding, how many times it is smaller than that of the full network, and the test accuracy",
)

# %% [markdown]
# **What to see.** The techniques combine.
# Pruning and sharing together give
# {finding}`a smaller file than either alone | discussion.combined.full_pruned_shared_file_ratio > discussion.combined.full_pruned_file_ratio; discussion.combined.full_pruned_shared_file_ratio > discussion.combined.full_shared_file_ratio`:
# {mean}`discussion.combined.full_pruned_shared_file_ratio` smaller.
# On a student the file is
# {finding}`smaller still | discussion.combined.taught_pruned_shared_file_ratio > discussion.combined.full_pruned_shared_file_ratio`,
# {mean}`discussion.combined.taught_pruned_shared_file_ratio`.
# It {finding}`costs accuracy | discussion.combined.taught_pruned_shared_accuracy_pct < discussion.combined.full_none_accuracy_pct`:
# {mean}`discussion.combined.taught_pruned_shared_accuracy_pct` of the test images are right, and
# {mean}`discussion.combined.full_none_accuracy_pct` without any technique.
#
# Signs are the other way to few bits.
# Binary weights make the file {mean}`discussion.combined.full_signs_file_ratio`
# {finding}`smaller | discussion.combined.full_signs_file_ratio > 1`, with an accuracy of
# {mean}`discussion.combined.full_signs_accuracy_pct`.
#
# ## Which technique for which device
#
# The measurements decide: the table names the leanest network among those that lose at most
# {glue:text}`discussion.setting.tolerance` on validation images.

# %% tags=["remove-input"]
DEVICES = {
    "file": ("a network that is sent, or stored in flash", "file"),
    "multiply_adds": ("a processor without special software", "multiply-adds"),
    "activation": ("a microcontroller with little memory", "memory of activations"),
    "latency": ("this machine, one image at a time", "time"),
}
figures.table(
    [
        {
            "device": device,
            "short of": short,
            "use": spoken(best[cost]),
            "gain": f"{np.mean(ratios(best[cost], cost)):.1f}×",
            "accuracy (%)": evidence.formatted(right(best[cost]), unit="", digits=1),
        }
        for cost, (device, short) in DEVICES.items()
    ],
    caption="The technique that costs least, by what the device is short of",
)

# %% [markdown]
# Validation images only estimate the loss.
# On test images the winner by file is {glue:text}`discussion.best.file_loss` accurate than the full network.
#
# Where a processor has no floats, eight-bit integers are the way: they reach {mean}`discussion.qat_int8.accuracy_pct`
# here, with a file {mean}`discussion.qat_int8.file_ratio` {finding}`smaller | discussion.qat_int8.file_ratio > 1`.
# For a network of your own, {doc}`own_model` has five recipes and one command.
#
# ## Where it breaks
#
# **On small layers a codebook is a burden.** Product quantization stores many codewords, and this network has few
# weights.
# Its file is {mean}`discussion.gong_product_quantization.file_ratio`
# {finding}`smaller | discussion.gong_product_quantization.file_ratio > 1`.
# Single shared values save
# {finding}`more | discussion.gong_scalar_kmeans.file_ratio > discussion.gong_product_quantization.file_ratio`:
# {mean}`discussion.gong_scalar_kmeans.file_ratio`.
#
# **Hash tables cost memory.** The layer that looks its units up needs a
# {finding}`larger file | discussion.hash_lsh_sparse_layers.file_ratio < 1` than the full network.
#
# **This is one small network, on easy images.** Larger networks can be compressed further: {doc}`quantization`.
#
# ## Exercises
#
# 1. Your application can lose three points of accuracy. Which technique now gives the smallest file?

# %% tags=["hide-cell"]
least = np.mean(judged["dense"]) - 3
allowed = [n for n in CALLS if np.mean(judged[n]) >= least]  # not chosen by test
allowed = allowed or ["dense"]
smallest = min(allowed, key=lambda n: np.mean(values(n, "file")))  # not chosen by test
evidence.answer(
    f"Now it is {spoken(smallest)}, whose file is {np.mean(ratios(smallest, 'file')):.1f} times smaller."
)

# %% [markdown]
# 2. How many techniques are beaten by another one in accuracy and in file size at once?

# %% tags=["hide-cell"]
points = {
    name: (np.mean(judged[name]), np.mean(values(name, "file"))) for name in CALLS
}
beaten = [
    name
    for name, (a, b) in points.items()
    if any(x >= a and y <= b and (x, y) != (a, b) for x, y in points.values())
]  # not chosen by test
left = ", ".join(spoken(name) for name in points if name not in beaten)
evidence.answer(
    f"{len(beaten)} of {len(points)} are beaten. Those that are not: {left}."
)

# %% [markdown]
# ## In short
#
# - Ask first what your device is short of: here file, work, memory and time have {glue:text}`discussion.best.winners`.
# - Compare techniques at their own best settings, chosen on validation images: each has a strength that suits it.
# - Masks and codes make only the file small; to save work, remove whole filters or use cheaper modules.
#
# ## Sources of this chapter
#
# - {cite:t}`berthelier2020survey` is the survey; the chapter of each technique names its source.
# - The baseline is a smaller LeNet-5 {cite:p}`lecun1998gradient`.
