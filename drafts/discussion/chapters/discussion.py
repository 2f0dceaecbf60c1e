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
# Among those as accurate as the full network, the winner by file is {glue:text}`discussion.best.file_name`:
# {mean}`discussion.best.file_ratio` smaller.
# The winner by work is {glue:text}`discussion.best.multiply_adds_name`: {mean}`discussion.best.multiply_adds_ratio`
# fewer {term}`multiply-adds <multiply-add>`.
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
retrain_epochs = 2  # after a technique, and for the unchanged rival
density = 0.2  # share of the weights that pruning keeps
work = 0.5  # share of the multiply-adds that pruning of filters keeps
learning_rate = 0.01  # of a new network, chosen on the validation split
tune_rate = 0.003  # after a technique, chosen likewise
tolerance = 1.0  # points of validation accuracy that count as no loss
calibration = 100  # images by which a criterion judges
runs = 21  # timings of each network, of which the median counts

# %% tags=["hide-input"]
import copy
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
#   {mean}`discussion.setting.epochs` epochs, and trains {mean}`discussion.setting.retrain_epochs` more.
# - **What is a new network** (students, binary networks, designed modules) trains for the sum of both.
# - **The rival** is the baseline, trained for the sum as well. What needs no training is applied to this rival.
#
# Each technique is one call, at one sensible setting.
# Pruning keeps {mean}`discussion.setting.density_pct` of the weights, and pruning of filters keeps
# {mean}`discussion.setting.work_pct` of the multiply-adds.


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
        self.small = self.trained(network(seed, width=4), epochs)

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

    def student(self, teaching, **options):
        return same(
            self.trained(network(self.seed, width=4), teaching=teaching, **options)
        )

    def cut(self, scores):  # the filters with the lowest scores
        groups = structure.groups(self.base, one)
        fraction = structure.fraction_for(self.base, one, multiply_adds=work)
        masks = structure.keep(scores, fraction=fraction, groups=groups)
        return same(self.fit(structure.shrink(self.base, masks, one)))

    def masked(self, masks, net=None):
        return unpacked(self.fit(magnitude.apply(net or self.given(), masks)))

    def built(self, middle, pool=None, **options):  # not the second 5 x 5 convolution
        with seeded(self.seed):
            inside = middle()
        net = network(self.seed, middle=inside, pool=pool)
        return same(self.trained(net, **options))

    def signs(
        self, net, fit=binaryconnect.fit, **options
    ):  # from the start, by its own optimizer
        fit(net, train, epochs=whole, seed=self.seed, batch_size=32, **options)
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
# The calls, section by section.


# %% tags=["hide-input"]
def bottleneck(s):
    net = linear_bottleneck.bottleneck(
        s.given(), "fc1", rank=8, start="svd", seed=s.seed
    )
    return same(s.fit(net, teaching=logit_mimic.distiller(s.rival)))


def made_up(s):  # twice the images, half the epochs
    images = model_compression.munge(
        train.images, copies=1, probability=0.5, spread=1.0, seed=s.seed
    )
    split = model_compression.labeled(s.rival, torch.cat([train.images, images]))
    teaching = model_compression.distiller(s.rival)
    return s.student(teaching, split=split, n=whole // 2)


def smoothed(s):
    teacher = s.trained(fresh(s), loss=label_smoothing.Smoothed(0.1))
    return s.student(soft_targets.distiller(teacher))


def ensembled(s):
    second = s.trained(network(s.seed + 100))
    return s.student(ensemble.distiller([s.rival, second]))


TAPS = [("pool1", "pool1"), ("middle", "middle")]
DISTILLATION = {
    "kd-soft-targets": lambda s: s.student(soft_targets.distiller(s.rival)),
    "kd-logit-mimic": lambda s: s.student(logit_mimic.distiller(s.rival)),
    "kd-linear-bottleneck": bottleneck,
    "kd-model-compression": made_up,
    "kd-ensemble": ensembled,
    "kd-label-smoothing": smoothed,
    "kd-nst": lambda s: s.student(neuron_selectivity.distiller(s.rival, TAPS[1:])),
    "kd-darkrank": lambda s: s.student(
        darkrank.distiller(s.rival, ("flatten", "flatten"))
    ),
    "kd-svd": lambda s: s.built(  # its maps must have as many channels as the teacher's
        lambda: normed(DepthwiseSeparable(8, 16)),
        teaching=singular_vectors.distiller(s.rival, TAPS),
    ),
}


def by_hash_tables(s):
    net = sparse_layers.select(s.given(), ["fc1"], fraction=0.5, tables=10, seed=s.seed)
    sparse_layers.fit(
        net,
        train,
        epochs=retrain_epochs,
        seed=s.seed,
        learning_rate=tune_rate,
        batch_size=32,
    )
    return same(net.eval())


HASHING = {
    "hash-hashednets": lambda s: unpacked(
        s.trained(hashed_nets.compress(fresh(s), fraction=0.125, seed=s.seed))
    ),
    "hash-lsh-sparse-layers": by_hash_tables,
}


# %% tags=["hide-input"]
def surgeon(s):
    net = s.given()
    masks = optimal_brain_surgeon.operate_by_layer(net, few, density=density)
    return s.masked(masks, net)


def ticket(s):
    masks = magnitude.masks(s.base, density=density, scope="global")
    net = lottery_ticket.rewind(fresh(s), masks)
    lottery_ticket.train(net, train, masks=masks, epochs=whole, seed=s.seed, **FIT)
    return unpacked(magnitude.apply(net, masks))


def particles(s):
    masks, groups = {}, structure.groups(s.base, one)
    for group in groups:
        evaluate, channels = particle_filter.evaluator(s.base, group.producers[0], few)
        options = {"keep": round(0.7 * channels), "seed": s.seed}
        found = particle_filter.search(
            evaluate, channels=channels, particles=6, iterations=3, **options
        )
        masks |= dict.fromkeys(group.producers, found.best)
    return same(s.fit(structure.shrink(s.base, masks, one)))


def at_run_time(s):
    net = runtime.RuntimeNetwork(s.base, one, seed=s.seed)
    options = {"epochs": retrain_epochs, "seed": s.seed, "learning_rate": tune_rate}
    runtime.nest(net, train, optimizer="adam", batch_size=32, **options)
    runtime.learn(net, train, penalty=0.1, seed=s.seed, rounds=3, updates=30)
    return same(net.eval())


def smaller(s):
    fraction = structure.fraction_for(s.base, one, multiply_adds=work)
    return same(
        s.fit(sparse_speed.shrunk(s.base, one, fraction=fraction, multiple_of=1))
    )


def refitted(s):
    masks = structure.keep(
        channel_lasso.scores(s.base, few, seed=s.seed),
        fraction=structure.fraction_for(s.base, one, multiply_adds=work),
    )
    net = channel_lasso.refit(s.base, masks, few, seed=s.seed)
    return same(s.fit(structure.shrink(net, masks, one)))


PRUNING = {
    "prune-magnitude-iterative": lambda s: s.masked(
        magnitude.masks(s.base, density=density, scope="global")
    ),
    "prune-obd": lambda s: s.masked(
        optimal_brain_damage.masks(
            optimal_brain_damage.saliencies(s.base, few), density=density
        )
    ),
    "prune-obs": surgeon,
    "prune-lottery-ticket": ticket,
    "prune-structured-granularity": lambda s: s.masked(  # of few kernels fewer can go
        granularity.masks(s.base, one, level="kernel", density=0.5)
    ),
    "prune-filter-l1": lambda s: s.cut(filter_l1.scores(s.base, few)),
    "prune-molchanov-criteria": lambda s: s.cut(molchanov.scores(s.base, few)),
    "prune-fpgm": lambda s: s.cut(geometric_median.scores(s.base, few)),
    "prune-channel-threshold": lambda s: s.cut(optimal_threshold.scores(s.base, few)),
    "prune-thinet": lambda s: s.cut(thinet.scores(s.base, few, seed=s.seed)),
    "prune-channel-lasso": refitted,
    "prune-nisp": lambda s: s.cut(nisp.scores(s.base, few, seed=s.seed)),
    "prune-dcp": lambda s: s.cut(
        discrimination_aware.scores(s.base, few, rounds=1, steps=1, seed=s.seed)
    ),
    "prune-gal": lambda s: s.cut(
        adversarial.scores(s.base, few, epochs=2, seed=s.seed)
    ),
    "prune-particle-filter": particles,
    "prune-runtime-rnn": at_run_time,
    "prune-sparse-speed": smaller,
    "factorize-svd": lambda s: same(
        s.fit(low_rank.factorize_model(s.base, energy=0.8)[0])
    ),
    "factorize-spatial": lambda s: same(
        s.fit(spatial.factorize_model(s.base, energy=0.8)[0])
    ),
    "factorize-cp": lambda s: same(
        s.fit(cp.factorize_model(s.base, rank=12, sweeps=20, starts=1, seed=s.seed)[0])
    ),
    "factorize-tucker": lambda s: same(
        s.fit(tucker.factorize_model(s.base, energy=0.8)[0])
    ),
}


# %% tags=["hide-input"]
def shared(change):  # shared values are trained
    return lambda s: unpacked(s.fit(change(s.given(), s)))


def integers(s, trained):
    net = affine.simulate(s.given() if trained else s.rival)
    affine.calibrate(net, train.images)
    if trained:
        options = {"epochs": retrain_epochs, "seed": s.seed, **FIT}
        quantization_aware_training.fit(
            net, train, **options | {"learning_rate": tune_rate}
        )
    fast = torch_kernels.kernels_available()
    kernels = torch_kernels.convert_to_kernels(net) if fast else net
    return Made(kernels, net, s.rival, value_bytes=1)


def deep(net, s):
    return deep_compression.share_survivors(
        magnitude.prune(net, density=density, scope="global"), bits=4
    )


QUANTIZATION = {
    "gong-scalar-kmeans": shared(lambda net, s: scalar_kmeans.share(net, bits=4)),
    "optimal-kmeans-1d": shared(lambda net, s: scalar_kmeans.share(net, bits=3)),
    "gong-binary": lambda s: unpacked(
        sign_quantization.quantize(s.longer(), scale="row")
    ),
    "gong-product-quantization": shared(
        lambda net, s: product_quantization.quantize(net, bits=4, length=5, seed=s.seed)
    ),
    "gong-residual-quantization": shared(
        lambda net, s: residual_quantization.quantize(
            net, bits=3, stages=2, seed=s.seed
        )
    ),
    "deep-compression": shared(deep),
    "hessian-weighted-kmeans": shared(
        lambda net, s: hessian_weighted_kmeans.share(
            net,
            k=16,
            importance=hessian_diagonal.gauss_newton_diagonal(net, few, seed=s.seed),
        )
    ),
    "ecsq-uniform": shared(lambda net, s: uniform_quantization.share(net, bits=3)),
    "ecsq-lloyd": shared(lambda net, s: entropy_constrained.share(net, penalty=3e-4)),
    "affine-int8": lambda s: integers(s, False),
    "qat-int8": lambda s: integers(s, True),
}


def descend(s, arithmetic):
    net = s.given()
    options = {"epochs": retrain_epochs, "seed": s.seed, "learning_rate": 0.02}
    gradient_descent.train(net, train, arithmetic=arithmetic, batch_size=32, **options)
    return net


PRECISION = {
    "fixed-point-gupta": lambda s: unpacked(
        fixed_point.quantize(
            descend(
                s,
                fixed_point.FixedPoint(
                    Format(6, 10), rounding="stochastic", seed=s.seed
                ),
            ),
            Format(3, 9),
        )
    ),
    "courbariaux-low-precision-multiplications": lambda s: unpacked(
        fixed_point.quantize(
            descend(s, dynamic_fixed_point.DynamicFixedPoint(bits=12, storage_bits=14)),
            Format(3, 7),
        )
    ),
    "early-limited-precision": shared(
        lambda net, s: limited_precision.store(net, exponent=4, significand=3)
    ),
    "embedded-fixed-point-face-cnn": lambda s: Made(
        net := embedded_cnn.convert(folded(s.rival), few), net, s.rival, value_bytes=2
    ),
}


# %% tags=["hide-input"]
def closed(net):  # the norm that follows an output made of signs
    return nn.Sequential(net, nn.BatchNorm1d(len(dataset.classes)))


def pushed(net, split, **options):
    return bipolar_regularizer.fit(net, split, strength=1e-4, **options)


classes = len(dataset.classes)
BINARIZATION = {
    "binaryconnect": lambda s: s.signs(
        closed(binaryconnect.binarize(fresh(s))), learning_rate=learning_rate
    ),
    "bipolar-regularizer": lambda s: s.signs(
        closed(binaryconnect.binarize(fresh(s))), pushed
    ),
    "bwn": lambda s: unpacked(s.trained(bwn.binarize(fresh(s)))),
    "bnn": lambda s: s.signs(
        bnn.binarize(fresh(s), classes=classes), bnn.fit, learning_rate=2**-6
    ),
    "xnor-net": lambda s: s.signs(
        xnor_net.binarize(fresh(s), example=few.images), learning_rate=learning_rate
    ),
    "abc-net": lambda s: s.signs(
        abc_net.binarize(fresh(s), bases=2, activation_bases=2, example=few.images)
    ),
    "gxnor-dst": lambda s: s.signs(
        gxnor_dst.ternarize(fresh(s), classes=classes), gxnor_dst.fit
    ),
    "bulat-binary-block": lambda s: s.built(lambda: BinaryBlock(8, 16)),
}


# %% tags=["hide-input"]
def woven(s):
    small = nn.AdaptiveAvgPool2d(8)  # a fabric takes images of 8 x 8
    return same(
        s.trained(nn.Sequential(small, fabric(s.seed, layers=3, size=8, width=4)))
    )


def within_budget(s):
    pool = nn.AdaptiveAvgPool2d(8)
    small = Split(pool(train.images), train.labels)
    model = budgeted.Gated(fabric(s.seed, layers=3, size=8, width=4))
    cost = Sum(model.network.graph, edge_costs(model.network, (shape[0], 8, 8)))
    options = {"epochs": whole, "seed": s.seed, "batch_size": 32}
    budgeted.fit(model, small, cost=cost, budget=0.5 * cost.full, **options)
    return same(nn.Sequential(pool, model.plain()))


def morphed(s):  # the narrow network grows
    chosen = network_morphism.operations(s.small, one)
    return same(s.fit(chosen[len(chosen) // 2].apply(s.small)))


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
    "mobilenet-v1": lambda s: same(
        s.trained(
            mobilenet(
                s.seed,
                channels=shape[0],
                classes=classes,
                width=1 / 16,
                strides=(2, 1, 2, 2, 2),
                middle=1,
            )
        )
    ),
    "shufflenet-v1": lambda s: s.built(
        lambda: Unit(8, 16, groups=2, stride=2), nn.MaxPool2d(3, stride=1)
    ),
    "network-morphism": morphed,
    "path-level-morphism": lambda s: same(
        s.fit(path_level.grow(s.small, "fc1", one, steps=3, seed=s.seed))
    ),
    "convolutional-neural-fabrics": woven,
    "budgeted-super-networks": within_budget,
}

# %% [markdown]
# Eighteen techniques are not in the comparison, each for a reason.

# %%
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
    "growing-cell-structures": "a map without classes",
    "growing-neural-gas": "a map without classes",
    "neat": "it evolves small controllers, not classifiers of images",
    "competing-conventions": "it studies how encodings cross, and changes no network",
    "codeepneat": "a search over many trainings: the comparison would be of budgets",
    "auto-keras": "a search over many trainings: the comparison would be of budgets",
    "enas": "a search over many trainings: the comparison would be of budgets",
    "mnasnet": "a search over many trainings: the comparison would be of budgets",
}

# %% tags=["remove-input"]
figures.table(
    [
        {"technique": name, "why it is not compared": why}
        for name, why in EXCUSED.items()
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
CALLS = {name: call for family in FAMILIES.values() for name, call in family.items()}
assert not CALLS.keys() & EXCUSED.keys()


def per_image(made):  # channels that are skipped for an image are not counted
    if not isinstance(made.network, runtime.RuntimeNetwork):
        return None
    made.network(test.images)
    spent = made.network.multiply_adds(made.network.actions).double().mean().item()
    return round(spent) + made.network.overhead()


def slower(net, rival):  # times that one image takes as long; only these two take turns
    calls = {"rival": lambda: rival(one), "own": lambda: net(one)}
    taken = measure.latency_ms(calls, runs=runs)
    return taken["own"].median / taken["rival"].median


def accuracy(made, split):
    return 100 - training.error_pct(made.network, split)


# %% tags=["hide-input"]
places = [At(seed) for seed in range(seeds)]
found = {name: [] for name in ("dense", *CALLS)}  # costs of each seed
judged = {name: [] for name in found}  # accuracies on validation images
for place in places:
    made = {"dense": same(place.rival)} | {n: call(place) for n, call in CALLS.items()}
    for name, cost in costs.measured(made, test).items():
        work_done = per_image(made[name]) or cost.multiply_adds
        share = slower(made[name].network, place.rival)
        found[name].append(replace(cost, multiply_adds=work_done, latency_ms=share))
        judged[name].append(accuracy(made[name], validation))


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
    "embedded-fixed-point-face-cnn": "16-bit integers",
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
record("setting.density_pct", 100 * density, digits=0, exact=True)
record("setting.work_pct", 100 * work, digits=0, exact=True)
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
    "activation": ("activations (kB)", 1000),
}
figure, axes = figures.axes(3, sharey=True)
figure.set_size_inches(7.2, 4.4)
for ax, (cost, (label, unit)) in zip(axes, UNITS.items(), strict=True):
    for group, look in reversed(LOOKS.items()):  # the full network on top
        names = [name for name in found if family[name] == group]
        across = [np.mean(values(name, cost)) / unit for name in names]
        up = [np.mean(right(name)) for name in names]
        style = {"color": look["color"], "marker": look["marker"]}
        label_of = WORDS[group] if ax is axes[0] else None
        ax.plot(across, up, linestyle="none", markersize=5, label=label_of, **style)
    figures.logarithmic(ax, "x")
    ax.set_xlabel(label)
    ax.tick_params(axis="x", labelrotation=45)
axes[0].set_ylabel("test accuracy (%)")
figure.legend(loc="outside lower center", ncols=4)
says = f"Smallest file: {spoken(best['file'])}, {np.mean(ratios(best['file'], 'file')):.0f} times smaller; least work: {spoken(best['multiply_adds'])}, {np.mean(ratios(best['multiply_adds'], 'multiply_adds')):.1f} times less"
figures.show(
    figure,
    lead=True,
    finding=says,
    name="fig-discussion",
    caption=f"Every technique on one small digit reader, with the same training: test accuracy against the file, the multiply-adds and the memory of activations. {'One trained network' if seeds == 1 else f'Means of {seeds} trained networks'}.",
    alt=f"Three panels of {len(found)} points, accuracy against a cost. Of the networks that lose at most {tolerance:g} point on validation images, {says}. The full network reaches {np.mean(right('dense')):.1f} %.",
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
order += [name for name in found if name not in order]


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
            f"As accurate as the full network, and the least of this cost: {spoken(best[cost])}, {np.mean(ratios(best[cost], cost)):.1f} times less",
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
    texts["accuracy (%)"] = evidence.formatted(right(name), unit="", digits=1)
    for cost, title in zip(
        COSTS, ("file", "multiply-adds", "activations", "time"), strict=True
    ):
        texts[title] = f"{np.mean(ratios(name, cost)):.1f}×"
    return texts


figures.table(
    [row(name) for name in found],
    caption="All techniques on one network: test accuracy, and how many times less of each cost than the full network needs",
)

# %% [markdown]
# **What to see.** The four costs have different winners, so ask first which one your device is short of.
# By file, {glue:text}`discussion.best.file_name` wins; by multiply-adds, {glue:text}`discussion.best.multiply_adds_name`;
# by memory, {glue:text}`discussion.best.activation_name`.
# Pruning single weights {finding}`saves no multiply-adds | discussion.prune_magnitude_iterative.multiply_adds_ratio == 1`,
# though its file is {mean}`discussion.prune_magnitude_iterative.file_ratio` smaller.
# Shared values {finding}`save none either | discussion.gong_scalar_kmeans.multiply_adds_ratio == 1`.
# A cheaper module saves both: with a depthwise separable convolution the file is
# {mean}`discussion.depthwise_separable.file_ratio` smaller, with {mean}`discussion.depthwise_separable.multiply_adds_ratio`
# fewer multiply-adds.
# The survey calls a well-designed architecture the first key: {verdict}`C4-19`.
#
# ## Table 1, measured
#
# The survey's Table 1 gives each family of methods a rate of compression.
# Beside its words, in ours, are the ranges on this network: file and time of all techniques of the family.
#
# | family | what Table 1 says, in our words | times smaller file | time of the full network = 1 | verdicts |
# | --- | --- | --- | --- | --- |
# | distillation | a smaller network, comparably good; hard outside classification | {glue:text}`discussion.family.f21_file` | {glue:text}`discussion.family.f21_time` | {verdict}`T1-19`, {verdict}`T1-01` |
# | hashing | easy to run in parallel, less time; slow if the model is too sparse | {glue:text}`discussion.family.f22_file` | {glue:text}`discussion.family.f22_time` | {verdict}`C2.2-06`, {verdict}`T1-02`, {verdict}`T1-03` |
# | pruning | 10 to 15 times smaller, up to 30; of no interest if the model is sparse | {glue:text}`discussion.family.f23_file` | {glue:text}`discussion.family.f23_time` | {verdict}`C2.3-39`, {verdict}`C2.3-44`, {verdict}`C2.3-43` |
# | quantization | 10 to 15 times smaller; couples with pruning; slow if too sparse | {glue:text}`discussion.family.f24_file` | {glue:text}`discussion.family.f24_time` | {verdict}`C2.4-22`, {verdict}`C2.4-19`, {verdict}`C2.4-23` |
# | precision | high compression and speed; may need special hardware | {glue:text}`discussion.family.f25_file` | {glue:text}`discussion.family.f25_time` | {verdict}`T1-10`, {verdict}`T1-12` |
# | binarization | 30 times smaller, 50 to 60 times faster | {glue:text}`discussion.family.f26_file` | {glue:text}`discussion.family.f26_time` | {verdict}`T1-14`, {verdict}`T1-15` |
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
hashed = weights.decompress(hashed_nets.compress(network(0), fraction=0.125))
sizes = measure.nonzero_parameters(hashed), measure.parameters(hashed)
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
# Distillation makes a smaller network, pruning removes weights, quantization lets the others share sixteen values, and
# coding writes frequent values with few bits.
# Each works on what the one before it leaves.
# All rows have the same number of epochs; binary weights, those of BWN, replace pruning and sharing.


# %%
def combined(s, taught, change):
    teaching = soft_targets.distiller(s.rival) if taught else None
    if change is bwn.binarize:
        return s.trained(
            change(network(s.seed, width=4 if taught else 8)), teaching=teaching
        )
    net = s.taught() if taught else s.given()
    return s.fit(change(net), teaching=teaching)


def taught_once(s):
    teaching = soft_targets.distiller(s.rival)
    net = s.trained(network(s.seed, width=4), epochs, teaching=teaching)
    return lambda: copy.deepcopy(net)


CHANGES = {
    "none": lambda net: net,
    "pruned": lambda net: magnitude.prune(net, density=density, scope="global"),
    "shared": lambda net: scalar_kmeans.share(net, bits=4),
    "pruned_shared": lambda net: deep(net, None),
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
# **What to see.** The techniques combine: taught, pruned, shared and coded, the file is
# {mean}`discussion.combined.taught_pruned_shared_file_ratio` smaller, and the accuracy is
# {mean}`discussion.combined.taught_pruned_shared_accuracy_pct`.
# That is
# {finding}`a smaller file than pruning and sharing alone give | discussion.combined.taught_pruned_shared_file_ratio > discussion.combined.full_pruned_shared_file_ratio`,
# {mean}`discussion.combined.full_pruned_shared_file_ratio`.
#
# Signs are the other way to few bits.
# Binary weights make the file {mean}`discussion.combined.full_signs_file_ratio` smaller, with an accuracy of
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
# Where a processor has no floats, eight-bit integers are the way: they reach {mean}`discussion.qat_int8.accuracy_pct`
# here, with a file {mean}`discussion.qat_int8.file_ratio` smaller.
# For a network of your own, {doc}`own_model` has five recipes and one command.
#
# ## Where it breaks
#
# **On small layers a codebook is a burden.** Product quantization stores many codewords, and this network has few
# weights.
# Its file is {mean}`discussion.gong_product_quantization.file_ratio` smaller.
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
# - Ask first what your device is short of: file, work, memory and time have different winners.
# - Combine: pruning, shared values and coding work on a distilled student as well.
# - Masks and codes make only the file small; to save work, remove whole filters or use cheaper modules.
#
# ## Sources of this chapter
#
# - {cite:t}`berthelier2020survey` is the survey; the chapter of each technique names its source.
# - The baseline is a smaller LeNet-5 {cite:p}`lecun1998gradient`.
