# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-architectures-dense)=
# # Segmentation and landmarks with small networks
#
# How small can a network be that labels every pixel of an image?
# Squeeze-SegNet does this for street scenes.
# Our light version of it has {mean}`architectures_dense.segnet.parameters_ratio 1`
# {finding}`fewer parameters | architectures_dense.segnet.parameters_ratio > 1` than SegNet, and after the same training
# it reaches {mean}`architectures_dense.segnet.miou_ratio 2` the score of SegNet.
# A network that finds landmarks in an image can use one bit per weight and signal.
# With a block made for signs, it {glue:text}`architectures_dense.hourglass.opening`.
#
# ```{claims} architectures_dense
# ```
#
# ```{cost} architectures_dense
# ```

# %% tags=["parameters"]
scene_data = "digits"  # camvid: street scenes; digits: scenes made of them
scene_first = [330, 100, 150]  # of it: training, validation and test images
scene_digits = 3  # made-up scenes show the digits below this one
shrink = 2  # pixels on each side of a street scene that become one
width = 0.125  # factor of all numbers of filters, in all networks for scenes
seeds = 1  # networks of each kind for scenes
scene_epochs = 9  # to train each of them
long_epochs = 9  # of one network of each kind, to see what more training does
scene_batch = 8  # scenes in a step
balance = 0.5  # power of the class weights, chosen on validation scenes
scene_rates = {
    "segnet": 0.01,
    "public": 0.02,
    "light": 0.02,
}  # learning rates for Adam, chosen on validation scenes
rare = 0.5  # of an even share of the pixels: a class with less counts as rare
point_data = "digits"  # images whose points are to be found: digits or mnist
point_first = [340, 100, 300]  # of them: training, validation and test images
point_seeds = 1  # networks of each kind for points
point_epochs = 6  # to train each of them
point_batch = 25  # images in a step
point_rates = {
    "real": 0.003,
    "block": 0.05,
    "bottleneck": 0.03,
}  # learning rates for Adam, chosen on validation images
features = 16  # channels of the hourglass
depth = 2  # how often it pools
distance = 2  # pixels within which a point counts as found
distances = [1, 2, 3, 4, 5]  # pixels, for the curves
objects = ["0", "1", "2"]  # classes of the scenes whose objects are to be found
object_seeds = 1  # networks of each kind for objects
object_epochs = 5  # to train each of them
object_batch = 9  # scenes in a step
object_stride = 2  # of the first convolution
object_depth = 2  # how often these hourglasses pool
object_rates = {
    "real": 0.003,
    "block": 0.02,
    "bottleneck": 0.02,
}  # learning rates for Adam, chosen on validation scenes

# %% tags=["hide-input"]
from functools import partial
from itertools import pairwise
from unittest import mock

import numpy as np
import torch
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patches import Patch
from torch import nn

from lib import (
    cache,
    datasets,
    evidence,
    figures,
    measure,
    segmentation,
    storage,
    training,
)
from lib.architectures import hourglass as glasses
from lib.architectures import squeeze_segnet as scenery
from lib.architectures.shared import encoder_decoder, key_points, landmarks
from lib.architectures.squeezenet import fire_sizes
from lib.binarization import bulat_binary_block as bulat
from lib.binarization.shared import inference
from lib.datasets import Split
from lib.weights import layers

scenes = datasets.load(scene_data, first=scene_first)
record = evidence.recorder("architectures_dense", scenes)
generator = torch.Generator().manual_seed(0)


def say(key, text):
    evidence.phrase(f"architectures_dense.{key}", text)


def differences(ones, others):  # of networks with the same seeds
    return [a - b for a, b in zip(ones, others, strict=True)]


def decided(values):  # whether seeds leave the sign open
    mean, half = evidence.interval(values)
    return len(values) >= 3 and abs(mean) > half


# %% [markdown]
# (sec-squeeze-segnet)=
# ## Squeeze-SegNet: a class for each pixel
#
# **The idea.** SegNet {cite:p}`badrinarayanan2017segnet` has an encoder, the convolutions of the image classifier VGG16, and a decoder that mirrors them.
# Each pool remembers where its maxima were, and the decoder puts its values back in these places.
# So edges stay sharp without a copy of the large maps.
# Squeeze-SegNet {cite:p}`nanfack2018squeezesegnet` does the same with the classifier SqueezeNet
# {cite:p}`iandola2016squeezenet`.
# SqueezeNet is made of *fire modules*: a few $1 \times 1$ filters squeeze the channels, then $1 \times 1$ and
# $3 \times 3$ filters expand them.
# The decoder mirrors each fire module by a *DFire module*, which expands first and then squeezes.
#
# **The formula.** A pool gives values $p$ and places $i$; unpooling puts other values $y$ in these places, and adds
# those that meet:
#
# $$ (p, i) = \operatorname{pool}(x), \qquad u_j = \sum_{k :\, i_k = j} y_k . $$ (eq-unpool)
#
# With $\sigma$ for ReLU, a DFire module is
#
# $$ \operatorname{DFire}(x) = \sigma\big(W_s * [\,\sigma(W_1 * x),\ \sigma(W_3 * x)\,]\big) . $$ (eq-dfire)
#
# Its $3 \times 3$ filters $W_3$ read the wide input, which SqueezeNet is careful to avoid.
# We had no access to the paper's list of layers, so our layout is that of a public implementation.
# The *light* layout is our own: a whole fire module, which squeezes to an eighth of the channels, followed by the
# squeeze.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(
    encoder_decoder.unpool,
    encoder_decoder.EncoderDecoder.forward,
    scenery.DFire.forward,
    scenery.LightDFire,
)

# %% [markdown]
# **Exact checks.** Unpooling is the transpose of the pool at its places, even where windows overlap:
# $\langle u, x \rangle = \langle y, p \rangle$ for all $y$.
# SegNet has as many parameters as its formula says: $9 a b$ weights from $a$ to $b$ channels, a bias, and two numbers for each {term}`batch norm`.

# %%
x = torch.randn(2, 3, 9, 7, generator=generator, dtype=torch.float64)
for kernel in (2, 3):
    options = {"stride": 2, "ceil_mode": True, "return_indices": True}
    p, places = nn.functional.max_pool2d(x, kernel, **options)
    y = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    u = encoder_decoder.unpool(y, places, x.shape)
    torch.testing.assert_close((u * x).sum(), (y * p).sum())
with torch.device("meta"):  # layers without numbers, to count them
    whole = {
        "segnet": scenery.segnet(),
        "public": scenery.squeeze_segnet(),
        "light": scenery.squeeze_segnet(light=True, batch_norm=True),
    }
there = list(pairwise([3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]))
back = [(b, a) for a, b in there[:0:-1]]
formula = sum(9 * a * b + 3 * b for a, b in there + back) + 9 * 64 * 11 + 11
assert measure.parameters(whole["segnet"]) == formula

# %% [markdown]
# ### What is counted
#
# **An experiment without training.** We count the parameters of all three networks at full width, and the multiply-adds
# for a street scene of $360 \times 480$ pixels.
# Then we follow a scene through the decoder of the public layout, and check whether the layers of each module alternate
# as the survey says: expand, squeeze, expand, squeeze.

# %% tags=["hide-input"]
sizes = {kind: measure.parameters(net) for kind, net in whole.items()}
work = {
    kind: measure.multiply_adds(net, (3, 360, 480)) / 1e9 for kind, net in whole.items()
}
ran = []
follow = scenery.squeeze_segnet(width=1 / 8).eval()
for module in follow.modules():
    if isinstance(module, scenery.DFire):
        parts = {
            "expand": [module.expand1x1, module.expand3x3],
            "squeeze": [module.squeeze],
        }
        for what, some in parts.items():
            for part in some:
                part.register_forward_hook(lambda *_, what=what: ran.append(what))
with torch.no_grad():
    follow(torch.zeros(1, 3, 64, 64))
expected = ["expand", "expand", "squeeze"]  # 1 x 1 and 3 x 3 filters expand together
modules = [ran[i : i + 3] for i in range(0, len(ran), 3)]

# %% tags=["remove-input"]
NAMES = {
    "segnet": "SegNet",
    "public": "Squeeze-SegNet, public layout",
    "light": "Squeeze-SegNet, light (ours)",
}
rows = []
for kind, name in NAMES.items():
    row = {"network": name}
    row["parameters"] = record(f"segnet.{kind}_parameters", sizes[kind], exact=True)
    fewer = sizes["segnet"] / sizes[kind]
    keys = {"public": "segnet.public_parameters_ratio"}
    key = keys.get(kind, "segnet.full_parameters_ratio")
    same = kind == "segnet"
    row["fewer"] = "1×" if same else record(key, fewer, digits=2, exact=True)
    found = record(f"segnet.{kind}_giga", work[kind], digits=1, exact=True)
    rows.append(row | {"multiply-adds (10⁹)": found})
figures.table(rows, caption="At full width, for eleven classes and 360 × 480 pixels")
record("segnet.work_ratio", work["segnet"] / work["light"], digits=1, exact=True)
alternate = 100 * np.mean([module == expected for module in modules])
record("segnet.alternating_pct", alternate, digits=0, exact=True)
record("segnet.dfire_modules", len(modules), exact=True)
wide = [
    m.expand3x3.conv.weight.numel()
    for m in whole["public"].modules()
    if isinstance(m, scenery.DFire)
]
record("segnet.wide_pct", 100 * sum(wide) / sizes["public"], digits=0, exact=True)

# %% [markdown]
# **What to see.** The public layout has {mean}`architectures_dense.segnet.public_parameters_ratio 1`
# {finding}`fewer parameters | architectures_dense.segnet.public_parameters_ratio > 1` than SegNet, not ten times fewer.
# The reason is the $3 \times 3$ filters that read wide inputs: they hold {mean}`architectures_dense.segnet.wide_pct` of
# its parameters.
# The abstract of {cite:t}`nanfack2018squeezesegnet` only promises "less than 10 times fewer parameters".
# The light layout has {mean}`architectures_dense.segnet.full_parameters_ratio 1` fewer, and needs {mean}`architectures_dense.segnet.work_ratio 1` {finding}`fewer multiply-adds | architectures_dense.segnet.work_ratio > 1` ({verdict}`C3.1-12`).
# All {mean}`architectures_dense.segnet.dfire_modules` DFire modules expand and then squeeze, so the decoder alternates,
# as the survey says ({verdict}`C3.1-14`).
# The survey misspells the first author's name, which is Nanfack ({verdict}`C3.1-13`).
#
# ### Trained on the same scenes
#
# **An experiment.** All three networks learn from the same scenes, for the same number of steps with Adam, from random weights.
# In the standard profile these are street scenes of CamVid, at $90 \times 120$ pixels and with eleven classes.
# The quick profile has no street scenes: there, each scene consists of two digits on an empty canvas, and each pixel of
# ink has the class of its digit.
# All three networks have a fraction of the filters of the papers.
# Batch norm follows each convolution, in Squeeze-SegNet too, because without it this network is hard to train from
# scratch.
#
# Rare classes weigh more in the loss, by the square root of *median-frequency balancing*
# {cite:p}`badrinarayanan2017segnet`.
# The weight of class $c$ is $(\operatorname{median} f / f_c)^{1/2}$, where $f_c$ is its share of the pixels in the
# scenes that show it.
# The power, one half, was chosen on validation scenes, as were the learning rates.
# The score is the *{term}`mIoU`*, the mean intersection over union.
# For each class, it divides the pixels rightly given to this class by all pixels that are given to it or belong to it.
# Then it takes the mean over classes.


# %% tags=["hide-input"]
def made_up(split):  # two digits on a canvas of 32 x 64 pixels
    some = split.labels < scene_digits
    ink = nn.functional.pad(split.images[some], (2, 2, 2, 2))
    order = torch.randperm(len(ink), generator=generator)
    images, classes = [], []
    for side in (torch.arange(len(ink)), order):
        moved = training.shifted(ink[side], 2, generator)
        digit = split.labels[some][side][:, None, None]
        images.append(moved)
        classes.append(torch.where(moved[:, 0] > 0.5, digit, scene_digits))
    return Split(torch.cat(images, 3), torch.cat(classes, 2))


def smaller(split):  # of k x k pixels the mean, and the class of one of them
    k = shrink
    images = nn.functional.avg_pool2d(split.images, k)
    return Split(images, split.labels[:, k // 2 :: k, k // 2 :: k].contiguous())


streets = scene_data == "camvid"
change, void = (smaller, 11) if streets else (made_up, None)
classes = [*scenes.classes] if streets else [*map(str, range(scene_digits)), "canvas"]
train, check, test = map(change, (scenes.train, scenes.validation, scenes.test))
channels = train.images.shape[1]
del scenes  # the large images leave the memory
labeled = {"classes": len(classes), "void": void}
weights = segmentation.class_weights(train.labels, **labeled) ** balance
loss = segmentation.PixelCrossEntropy(**labeled, weights=weights)

# %% tags=["hide-input"]
shape = {"channels": channels, "classes": len(classes), "width": width}
ours = {"light": True, "batch_norm": True}
build = {
    "segnet": partial(scenery.segnet, **shape),
    "public": partial(scenery.squeeze_segnet, batch_norm=True, **shape),
    "light": partial(scenery.squeeze_segnet, **ours, **shape),
}
fit_scenes = {"split": train, "epochs": scene_epochs, "batch_size": scene_batch}
fit_scenes |= {"optimizer": "adam", "weight_decay": 0.0, "loss": loss}
nets, scores = {}, {}
for kind, make in build.items():
    options = fit_scenes | {"learning_rate": scene_rates[kind]}
    nets[kind] = cache.trained(training.fit, make, range(seeds), **options)
    scores[kind] = [segmentation.evaluate(n, test, **labeled) for n in nets[kind]]
image = test.images[:1]
calls = {kind: lambda net=some[0]: net(image) for kind, some in nets.items()}
times = measure.latency_ms(calls)

# %% tags=["remove-input"]
inside = test.labels != void if streets else torch.ones_like(test.labels, dtype=bool)
counts = torch.stack([(test.labels == c).sum() for c in range(len(classes))])
shares = 100 * counts / counts.sum()
record("segnet.majority_pct", shares.max(), digits=0, exact=True)
rows, miou = [], {}
for kind, name in NAMES.items():
    row, found = {"network": name}, scores[kind]
    row["parameters"] = f"{measure.parameters(nets[kind][0]):,}"
    right = [one.global_accuracy_pct for one in found]
    text = record(f"segnet.{kind}_global_accuracy_pct", right, digits=1)
    row["right pixels (%)"] = text.removesuffix(" %")
    mean = [one.class_accuracy_pct for one in found]
    text = record(f"segnet.{kind}_class_accuracy_pct", mean, digits=1)
    row["mean of classes (%)"] = text.removesuffix(" %")
    miou[kind] = [one.mean_iou_pct for one in found]
    key = "segnet.miou_pct" if kind == "segnet" else f"segnet.{kind}_miou_pct"
    row["mIoU (%)"] = record(key, miou[kind], digits=1).removesuffix(" %")
    ratio = times[kind].median / times["segnet"].median
    key = f"segnet.{kind}_latency_ratio"
    own = kind == "segnet"
    row["time, of SegNet's"] = "1×" if own else record(key, ratio, digits=2)
    rows.append(row)
figures.table(
    rows,
    caption=f"{len(train)} training and {len(test)} test scenes of {train.images.shape[2]} × {train.images.shape[3]} pixels; the most frequent class has {shares.max():.0f} % of the test pixels",
)
pairs = {
    kind: [a / b for a, b in zip(miou[kind], miou["segnet"], strict=True)]
    for kind in ("public", "light")
}
record("segnet.miou_ratio", pairs["light"], digits=2)
record("segnet.public_miou_ratio", pairs["public"], digits=2)
counted = {kind: measure.parameters(some[0]) for kind, some in nets.items()}
fewer = counted["segnet"] / counted["light"]
record("segnet.parameters_ratio", fewer, digits=1, exact=True)
record("segnet.scenes", len(train), exact=True)

# %% tags=["remove-input"]
COLORS = ["#56b4e9", "#8c4a2f", "#111111", "#6b6b6b", "#cc79a7", "#009e73"]
COLORS += ["#f0e442", "#e69f00", "#0072b2", "#d55e00", "#7b3fb5"]
if not streets:
    COLORS = [*["#d55e00", "#0072b2", "#009e73", "#cc79a7"][:scene_digits], "#e9e9e9"]
palette = ListedColormap([to_rgb(color) for color in COLORS[: len(classes)]])
chosen = test.first(3)
with torch.no_grad():
    answers = {kind: nets[kind][0](chosen.images).argmax(1) for kind in nets}
truth = chosen.labels.double()
truth[chosen.labels == (void if streets else -1)] = float("nan")
columns = {
    "image": chosen.images,
    "truth": truth,
    "SegNet": answers["segnet"],
    "light": answers["light"],
}
figure, _ = figures.axes()
figure.clear()
grid = figure.subplots(3, 4)
for row, axes in enumerate(grid):
    for ax, (label, pictures) in zip(axes, columns.items(), strict=True):
        picture = pictures[row].permute(1, 2, 0) if label == "image" else pictures[row]
        look = {"cmap": palette, "vmin": -0.5, "vmax": len(classes) - 0.5}
        look |= {"interpolation": "nearest"}
        look = {"cmap": "gray_r"} if label == "image" else look
        ax.imshow(picture, **look)
        ax.grid(False)
        ax.set(xticks=[], yticks=[])
        if row == 2:
            ax.set_xlabel(label)
patches = [
    Patch(color=color, label=name)
    for color, name in zip(COLORS[: len(classes)], classes, strict=True)
]
figure.legend(
    handles=patches,
    loc="outside lower center",
    ncols=6 if streets else 5,
    fontsize=8,
    handlelength=1,
    columnspacing=1,
)
means = {kind: np.mean(values) for kind, values in miou.items()}
text = f"an mIoU of {means['light']:.0f} %, and SegNet, with {fewer:.1f} times as many parameters, of {means['segnet']:.0f} %"
figures.show(
    figure,
    lead=True,
    finding=f"The light Squeeze-SegNet has {text}",
    name="fig-scenes",
    caption="Three test scenes, their true classes, and what SegNet and the light Squeeze-SegNet see in them. White pixels of the truth have no class.",
    alt=f"Three scenes as images, with the true class of each pixel, and as seen by both networks. The light network has {text}.",
)

# %% [markdown]
# **What to see.** At this width, the light layout has {mean}`architectures_dense.segnet.parameters_ratio 1`
# {finding}`fewer parameters | architectures_dense.segnet.parameters_ratio > 1` than SegNet, and reaches
# {glue:text}`architectures_dense.segnet.miou_ratio` its mIoU ({verdict}`C3.1-12`).
# The public layout reaches {glue:text}`architectures_dense.segnet.public_miou_ratio`.
# The light network takes {mean}`architectures_dense.segnet.light_latency_ratio 2` SegNet's time.
# It classifies {mean}`architectures_dense.segnet.light_global_accuracy_pct 0` of all pixels correctly,
# {finding}`more than | architectures_dense.segnet.light_global_accuracy_pct > architectures_dense.segnet.majority_pct`
# the {mean}`architectures_dense.segnet.majority_pct` that belong to the most frequent class.
# These networks are at an early stage of learning: both papers start with weights from ImageNet and train far longer.
#
# All three networks can be written to ONNX files, in which unpooling becomes a scatter: `export` in
# `lib.exporting` writes a file only if onnxruntime computes the same from it.
#
# (sec-binarized-hourglass)=
# ## The binarized hourglass: points from signs
#
# **The idea.** To find the joints of a body, a network must see both the whole and the details.
# An *{term}`hourglass`* {cite:p}`newell2016stacked` pools its input several times, comes back up, and at each size adds what
# was there before.
# Its output is a *heat map* for each point, which is largest where the point is.
# {cite:t}`bulat2017binarized` build an hourglass from convolutions of signs, with one bit for each weight and each
# input.
# The usual bottleneck block squeezes everything through $1 \times 1$ filters, which can express little with signs.
# So the authors replace it by [a block without them](binarization_activations.py), whose three convolutions all reach
# the output.
#
# **The formula.** With blocks $S$, $A$, $B$ and $C$ that keep the size and the channels, an hourglass of depth $d$ is
#
# $$ H_d(x) = S(x) + \operatorname{up}\Big(B\big(H_{d-1}(A(\operatorname{pool}(x)))\big)\Big), \qquad H_0(x) = C(x) , $$ (eq-hourglass)
#
# and training minimizes the squared distance of its maps from Gaussians around the true points.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(glasses.Hourglass.forward, landmarks.heatmaps, key_points.pck)

# %% [markdown]
# **An exact check.** If each block only multiplies by a number, an hourglass of depth one is
# $s\, x + \operatorname{up}(b\, c\, a \operatorname{pool}(x))$.


# %%
class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


factors = iter((2.0, 3.0, 5.0, 7.0))  # S, A, C and B, in the order they are made
glass = glasses.Hourglass(1, 1, lambda channels: Times(next(factors)))
x = torch.randn(1, 1, 6, 8, generator=generator)
low = 3 * 5 * 7 * nn.functional.max_pool2d(x, 2)
torch.testing.assert_close(
    glass(x), 2 * x + nn.functional.interpolate(low, scale_factor=2)
)

# %% [markdown]
# ### Fewer 1 × 1 filters, more skips
#
# **An experiment without training.** How many convolutions lie on the paths from a block's input to its output?
# We double the output of each convolution, so a path with $n$ convolutions gives $2^n$ times as much.
# The bottleneck gets the width at which it has as many weights as the block.


# %% tags=["hide-input"]
def ways(part, x):  # numbers of convolutions on the ways from input to output
    found = []
    for factor in (1, 2):
        hooks = [
            layer.register_forward_hook(lambda *given, f=factor: f * given[2])
            for _, layer in layers(part)
        ]
        found.append(part(x) - x)
        for hook in hooks:
            hook.remove()
    powers = (found[1] / found[0]).log2().nan_to_num()
    return {0, *powers.round().int().flatten().tolist()}


def pointwise_pct(part):  # of all weights, those of 1 x 1 filters
    weights = [layer.weight for _, layer in layers(part)]
    ones = sum(w.numel() for w in weights if w.shape[2:] == (1, 1))
    return 100 * ones / sum(w.numel() for w in weights)


real = {"block": bulat.BinaryBlock(256, 256, binary=False).eval()}
real["bottleneck"] = bulat.Bottleneck(256, bulat.equal_width(256), binary=False).eval()
x = torch.randn(1, 256, 8, 8, generator=generator)
with torch.no_grad():
    found = {kind: ways(part, x) for kind, part in real.items()}

# %% tags=["remove-input"]
rows = []
for kind, part in real.items():
    row = {"of 256 channels": kind}
    row["weights"] = f"{sum(layer.weight.numel() for _, layer in layers(part)):,}"
    share = pointwise_pct(part)
    key = f"hourglass.{kind}_pointwise_pct"
    row["in 1 × 1 filters"] = record(key, share, digits=0, exact=True)
    row["ways"] = record(f"hourglass.{kind}_paths", len(found[kind]), exact=True)
    row["convolutions on them"] = ", ".join(map(str, sorted(found[kind])))
    rows.append(row)
figures.table(rows, caption="The block and the bottleneck that it replaces")

# %% [markdown]
# **What to see.** The block has {mean}`architectures_dense.hourglass.block_paths` paths with different numbers of
# convolutions, and no $1 \times 1$ filters; the bottleneck has {mean}`architectures_dense.hourglass.bottleneck_paths`
# paths.
#
# ### Points of a digit
#
# **An experiment.** The points here are a toy: the topmost, bottommost, leftmost and rightmost pixels of a digit's
# stroke, computed from the image.
# A network must look at the whole digit to find them, and there is a right answer.
# But no person marked these points, as people marked the joints of human poses.
# We train three small hourglasses: one with real-valued blocks, one with the same blocks in signs, and one with
# bottlenecks in signs that has about as many weights.
# A point counts as found if it is at most {mean}`architectures_dense.hourglass.distance` pixels away (*PCK*, percentage of correct key points).
# As a baseline, we also score a guess that knows the mean place of each point, and no image.


# %% tags=["hide-input"]
digits = datasets.load(point_data, first=point_first)
evidence.uses(digits)
truths = {
    name: landmarks.extreme_points(getattr(digits, name).images)
    for name in ("train", "test")
}
kinds = {
    "real": lambda c: bulat.BinaryBlock(c, c, binary=False),
    "block": lambda c: bulat.BinaryBlock(c, c),
    "bottleneck": lambda c: bulat.Bottleneck(c, bulat.equal_width(c)),
}


def trained(images, truth, seeds, rates, *, sigma, features, depth, stride, **options):
    size = tuple(-(-side // stride) for side in truth.size)
    split = Split(images, landmarks.heatmaps(truth, size=size, sigma=sigma))
    shape = {"channels": images.shape[1], "maps": truth.points.shape[1]}
    shape |= {"features": features, "depth": depth, "stride": stride}
    options |= {"split": split, "optimizer": "adam", "weight_decay": 0.0}
    options |= {"loss": glasses.squared_error}
    nets = {}
    for kind, block in kinds.items():
        make = partial(glasses.hourglass, block=block, **shape)
        rate = {"learning_rate": rates[kind]}
        nets[kind] = cache.trained(training.fit, make, range(seeds), **options, **rate)
    return nets


@torch.no_grad()
def maps_of(nets, images):  # of all images, for each network
    return [torch.cat([net(part) for part in images.split(100)]) for net in nets]


def mean_place_pct(train, test, distance):  # found by a guess that sees no image
    seen = train.visible[..., None]
    far = (test.points - (train.points * seen).sum(0) / seen.sum(0)).norm(dim=2)
    return 100 * (far <= distance)[test.visible].double().mean().item()


finders = trained(
    digits.train.images,
    truths["train"],
    point_seeds,
    point_rates,
    epochs=point_epochs,
    batch_size=point_batch,
    sigma=1.0,
    features=features,
    depth=depth,
    stride=2,
)
seen = {kind: maps_of(nets, digits.test.images) for kind, nets in finders.items()}
curves = {
    kind: [
        [key_points.pck(maps, truths["test"], distance=d) for maps in seen[kind]]
        for d in distances
    ]
    for kind in kinds
}
pck = {
    kind: [
        key_points.pck(maps, truths["test"], distance=distance) for maps in seen[kind]
    ]
    for kind in kinds
}
blind = {
    d: mean_place_pct(truths["train"], truths["test"], d)
    for d in (*distances, distance)
}

# %% [markdown]
# Computed with bits, the trained network gives exactly the same maps.
# We time it against the same network in floats and against the real-valued network.

# %%
net = finders["block"][0]
counting = inference.convert(net)
image = digits.test.images[:1].to(memory_format=torch.channels_last)
some = digits.test.images[:20].to(memory_format=torch.channels_last)
with torch.no_grad():
    assert torch.equal(counting(some), net(some))
calls = {"bits": counting, "floats": net, "real": finders["real"][0]}
times = measure.latency_ms({name: partial(m, image) for name, m in calls.items()})

# %% tags=["remove-input"]
WORDS = {
    "real": "block, real",
    "block": "block, signs",
    "bottleneck": "bottleneck, signs",
}
record("hourglass.distance", distance, exact=True)
bytes_of = {kind: len(storage.dumps(some[0])) for kind, some in finders.items()}
rows = []
for kind, name in WORDS.items():
    row = {"hourglass of": name}
    row["parameters"] = f"{measure.parameters(finders[kind][0]):,}"
    row["file (bytes)"] = f"{bytes_of[kind]:,}"
    row["points found"] = record(f"hourglass.{kind}_pck_pct", pck[kind], digits=1)
    rows.append(row)
figures.table(
    rows,
    caption=f"Points found within {distance} pixels, after {len(digits.train):,} training images",
)
record("hourglass.blind_pck_pct", blind[distance], digits=0, exact=True)
gain = differences(pck["block"], pck["bottleneck"])
record("hourglass.block_gain_points", gain, digits=1)
behind = differences(pck["real"], pck["block"])
record("hourglass.binary_loss_points", behind, digits=1)
for name in ("floats", "real"):
    ratio = times[name].median / times["bits"].median
    record(f"hourglass.{name}_over_bits_latency_ratio", ratio, digits=2)
record("hourglass.file_ratio", bytes_of["real"] / bytes_of["block"], digits=1)


def against(values, name):
    mean = np.mean(values)
    side = "more" if mean > 0 else "fewer"
    text = f"{abs(mean):.1f} percentage points {side} than {name}"
    unsettled = len(values) >= 3 and not decided(values)
    open_end = f", a difference that {len(values)} seeds do not settle"
    return f"finds {text}" + (open_end if unsettled else "")


say("hourglass.block_outcome", against(gain, "the bottleneck"))
say("hourglass.real_outcome", against(behind, "the same network in signs"))
missed = round(np.mean(behind))
side = "more" if missed > 0 else "fewer"
opening = f"misses {abs(missed)} {side} points in a hundred than with real numbers"
say(
    "hourglass.opening",
    opening if missed else "finds as many points as with real numbers",
)
slow = times["real"].median < times["bits"].median
few_channels = f"with {features} channels, packing and gathering bits {{}}"
saved = "cost more than counting saves" if slow else "cost less than counting saves"
say("hourglass.bits_outcome", few_channels.format(saved))

# %% tags=["remove-input"]
looks = {
    "real": figures.look("float"),
    "block": figures.look("binarized-hourglass"),
    "bottleneck": figures.look("bulat-binary-block"),
}
figure, ax = figures.axes()
for kind, name in WORDS.items():
    figures.line(ax, distances, curves[kind], looks[kind], name, bounds=figures.PERCENT)
guess = figures.look("random") | {"marker": "", "linestyle": "-", "alpha": 0.5}
figures.line(ax, distances, [[blind[d]] for d in distances], guess, "mean place")
ax.set(xlabel="distance (pixels)", ylabel="points found (%)", xticks=distances)
figures.legend(ax)
mean = {kind: np.mean(values) for kind, values in pck.items()}
text = f"{mean['real']:.0f} % with real blocks, {mean['block']:.0f} % with blocks in signs, {mean['bottleneck']:.0f} % with bottlenecks in signs"
figures.show(
    figure,
    finding=f"Found within {distance} pixels: {text}",
    name="fig-points",
    caption="Share of the four points of a digit that are found within a distance; means over networks, with 95 % intervals where there are three or more.",
    alt=f"Rising curves of the share of points that are found against the distance. Within {distance} pixels it is {text}, and {blind[distance]:.0f} % at the points' mean places.",
)

# %% [markdown]
# **What to see.** With real-valued blocks the network {glue:text}`architectures_dense.hourglass.real_outcome`
# ({verdict}`C3.1-22`).
# In signs, the block without $1 \times 1$ filters {glue:text}`architectures_dense.hourglass.block_outcome`
# ({verdict}`C3.1-20`).
# All three find
# {finding}`more | architectures_dense.hourglass.bottleneck_pck_pct > architectures_dense.hourglass.blind_pck_pct; architectures_dense.hourglass.block_pck_pct > architectures_dense.hourglass.blind_pck_pct`
# than the guess of the mean places, which finds {mean}`architectures_dense.hourglass.blind_pck_pct`.
# The file of the binary network is {mean}`architectures_dense.hourglass.file_ratio 1`
# {finding}`smaller | architectures_dense.hourglass.file_ratio > 1` than that of the real-valued one.
# For one image, its speed with bits is {mean}`architectures_dense.hourglass.floats_over_bits_latency_ratio 1` that of
# the same signs in floats, and {mean}`architectures_dense.hourglass.real_over_bits_latency_ratio 1` that of the
# real-valued network.
# The reason: {glue:text}`architectures_dense.hourglass.bits_outcome`.
#
# ## Where it breaks
#
# **More training.** The training above is short, and a network with ten times as many parameters may gain more from
# longer training.
# {glue:text}`architectures_dense.segnet.long_outcome`.
# So our verdict on "the same level of accuracy" holds for this short training.

# %% tags=["hide-input"]
longer = {}
for kind in ("segnet", "light"):
    options = fit_scenes | {"epochs": long_epochs, "learning_rate": scene_rates[kind]}
    net = cache.cached(training.fit, build[kind](0), seed=0, **options)
    longer[kind] = segmentation.evaluate(net, test, **labeled).mean_iou_pct

# %% tags=["remove-input"]
for kind, value in longer.items():
    record(f"segnet.{kind}_long_miou_pct", value, digits=1)
share = longer["light"] / longer["segnet"]
record("segnet.long_miou_ratio", share, digits=2)
grown = long_epochs / scene_epochs
text = "Longer training is tried in the standard profile alone, with one network of each kind"
if grown > 1:
    text = f"After {grown:g} times the training, one SegNet has an mIoU of {longer['segnet']:.1f} % and one light Squeeze-SegNet {longer['light']:.1f} %. That is {100 * share:.0f} % of SegNet's, against {100 * pairs['light'][0]:.0f} % after the short training. One network of each kind decides nothing"
say("segnet.long_outcome", text)

# %% [markdown]
# **What is rare.** The three networks for scenes do badly on classes that cover few pixels.
# We split the classes by their share of the training pixels.


# %% tags=["hide-input"]
seen_pixels = torch.stack([(train.labels == c).sum() for c in range(len(classes))])
few = seen_pixels / seen_pixels.sum() < rare / len(classes)
groups = {"rare": few, "frequent": ~few}


def overlaps(kind, group):  # mean IoU of these classes, for each network
    ious = torch.tensor([one.iou_pct for one in scores[kind]])
    return ious[:, groups[group]].nanmean(1)


by_class = {
    kind: [[one.iou_pct[c] for one in scores[kind]] for c in range(len(classes))]
    for kind in nets
}

# %% tags=["remove-input"]
for kind in ("segnet", "light"):
    for group in groups:
        record(f"segnet.{kind}_{group}_iou_pct", overlaps(kind, group), digits=1)
record("segnet.rare_classes", int(few.sum()), exact=True)
record("segnet.rare_below_pct", 100 * rare / len(classes), digits=1, exact=True)
order = seen_pixels.argsort().tolist()
figure, ax = figures.axes()
looks = {
    "segnet": (figures.look("dense"), "SegNet", 0.25),
    "public": (figures.look("squeezenet"), "public layout", 0.0),
    "light": (figures.look("squeeze-segnet"), "light layout", -0.25),
}
for kind, (look, name, shift) in looks.items():
    heights = [at + shift for at in range(len(order))]
    runs = [by_class[kind][c] for c in order]
    figures.dots(ax, heights, runs, look, name, bounds=figures.PERCENT)
ax.set_yticks(range(len(order)), [classes[c] for c in order], fontsize=9)
ax.set(xlabel="IoU on test scenes (%)", ylabel="class, rarest below")
figures.legend(ax, columns=3)
low = {kind: float(overlaps(kind, "rare").mean()) for kind in ("segnet", "light")}
high = {kind: float(overlaps(kind, "frequent").mean()) for kind in ("segnet", "light")}
text = f"{low['segnet']:.0f}\u00a0% for SegNet and {low['light']:.0f}\u00a0% for the light network; of the others {high['segnet']:.0f}\u00a0% and {high['light']:.0f}\u00a0%"
figures.show(
    figure,
    finding=f"IoU of classes with less than {100 * rare / len(classes):.1f}\u00a0% of the pixels: {text}",
    name="fig-classes",
    caption="Intersection over union of each class, from the rarest at the bottom to the most frequent; means over networks, with 95 % intervals where there are three or more.",
    alt=f"Dots for each class and network. Of classes with less than {100 * rare / len(classes):.1f}\u00a0% of the pixels the mean IoU is {text}.",
)

# %% [markdown]
# We call a class rare if it has under half of an even share of the training pixels,
# {mean}`architectures_dense.segnet.rare_below_pct`.
# The {mean}`architectures_dense.segnet.rare_classes` rare classes
# {finding}`come out worse | architectures_dense.segnet.segnet_rare_iou_pct < architectures_dense.segnet.segnet_frequent_iou_pct; architectures_dense.segnet.light_rare_iou_pct < architectures_dense.segnet.light_frequent_iou_pct`:
# SegNet's mean IoU is {mean}`architectures_dense.segnet.segnet_rare_iou_pct 0` for them and
# {mean}`architectures_dense.segnet.segnet_frequent_iou_pct 0` for the others.
# A likely reason is that every value passes through three pools or more, and that no copy of the large maps reaches the
# decoder.
#
# **Few real images.** Photographs are harder than digits, and few of them are labeled.
# The same three hourglasses look for objects in the scenes from above: {glue:text}`architectures_dense.objects.kinds`.
# The right answer is the center of the largest object of its class, computed from the true classes of the pixels.
# It counts as found within a tenth of the image's height.
# In the quick profile, the objects are the digits of the made-up scenes.

# %% tags=["hide-input"]
asked = {"kinds": [classes.index(name) for name in objects], "pixels": 15, **labeled}
centers = {
    name: landmarks.object_centers(split.labels, **asked)
    for name, split in (("train", train), ("test", test))
}
height = train.images.shape[2]
seekers = trained(
    train.images,
    centers["train"],
    object_seeds,
    object_rates,
    epochs=object_epochs,
    batch_size=object_batch,
    sigma=height / object_stride / 15,
    features=16,
    depth=object_depth,
    stride=object_stride,
)
at = {kind: maps_of(nets, test.images) for kind, nets in seekers.items()}
near = {
    kind: [
        key_points.pck(maps, centers["test"], distance=height / 10) for maps in at[kind]
    ]
    for kind in kinds
}

# %% tags=["remove-input"]
rows = []
for kind, name in WORDS.items():
    row = {"hourglass of": name}
    row["parameters"] = f"{measure.parameters(seekers[kind][0]):,}"
    row["centers found"] = record(f"objects.{kind}_pck_pct", near[kind], digits=1)
    rows.append(row)
blind_pct = mean_place_pct(centers["train"], centers["test"], height / 10)
found = record("objects.blind_pck_pct", blind_pct, digits=1, exact=True)
rows.append(
    {"hourglass of": "none: mean places", "parameters": "", "centers found": found}
)
figures.table(
    rows,
    caption=f"Centers found within {height / 10:g} pixels, after {len(train)} training scenes",
)
gain = differences(near["block"], near["bottleneck"])
record("objects.block_gain_points", gain, digits=1)
behind = differences(near["real"], near["block"])
record("objects.binary_loss_points", behind, digits=1)
say("objects.block_outcome", against(gain, "the bottleneck"))
say("objects.real_outcome", against(behind, "the same network in signs"))
names = [name.lower() for name in objects]
say("objects.kinds", ", ".join(names[:-1]) + f" and {names[-1]}")

figure, _ = figures.axes()
figure.clear()
figure.set_figheight(2.6)
shown = {
    "true center": ({"marker": "o", "color": "#f0e442", "markersize": 9}, None),
    "block, real": (figures.look("float"), at["real"][0]),
    "block, signs": (figures.look("binarized-hourglass"), at["block"][0]),
}
for column, ax in enumerate(figure.subplots(1, 3)):
    ax.imshow(test.images[column].permute(1, 2, 0), cmap="gray_r")
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    there = centers["test"].visible[column]
    true = centers["test"].points[column][there]
    for name, (look, maps) in shown.items():
        points = true
        if maps is not None:
            points = landmarks.positions(maps, size=centers["test"].size)[column][there]
        look = look | {"linestyle": "none", "markeredgecolor": "black"}
        ax.plot(points[:, 1], points[:, 0], **look, label=name)
        # a line from the true center to the found one
        for path in zip(true, points, strict=True):
            y, x = torch.stack(path, 1)
            ax.plot(x, y, color=look["color"], linewidth=1, zorder=1)
lines, names = ax.get_legend_handles_labels()
figure.legend(lines, names, loc="outside lower center", ncols=3)
mean = {kind: np.mean(values) for kind, values in near.items()}
text = f"{mean['real']:.0f} % with real blocks, {mean['block']:.0f} % with blocks in signs, {mean['bottleneck']:.0f} % with bottlenecks in signs"
PLURAL = {
    "real": "real blocks",
    "block": "blocks in signs",
    "bottleneck": "bottlenecks in signs",
}
below = [PLURAL[k] for k in kinds if mean[k] <= blind_pct]  # not chosen by test
outcome = "All three learn more than where such objects usually are"
if below:
    outcome = f"A guess of the mean places finds {blind_pct:.0f} %, more than {' and '.join(below)} do"
outcome += f", after {len(train)} training scenes"
say("objects.outcome", outcome)
figures.show(
    figure,
    finding=f"Centers found: {text}",
    name="fig-objects",
    caption="Three test scenes with the true centers of their objects, and where two of the networks find them.",
    alt=f"Three scenes with marks at true and found centers. Of all centers in test scenes, the networks find {text}; the mean places are right for {blind_pct:.0f} %.",
)

# %% [markdown]
# {glue:text}`architectures_dense.objects.outcome`.
# In the same scenes, the network with real-valued blocks {glue:text}`architectures_dense.objects.real_outcome`.
# In signs, the block without $1 \times 1$ filters {glue:text}`architectures_dense.objects.block_outcome`.
# The survey's other sentence, on faces in three dimensions, would need photographs of faces with points that people
# marked ({verdict}`C3.1-21`).
#
# **Unpooling where windows overlap.** SqueezeNet pools windows of $3 \times 3$ with stride two, so one maximum is often
# shared by several windows.
# torch's `max_unpool2d` then overwrites one value with the other, but sends the gradient to both.
# A check by finite differences finds this gradient wrong, and ours right.

# %%
x = torch.randn(1, 1, 9, 9, generator=generator, dtype=torch.float64)
p, places = nn.functional.max_pool2d(x, 3, 2, return_indices=True)
p.requires_grad_()
adds = partial(encoder_decoder.unpool, places=places, size=x.shape)
options = {"indices": places, "kernel_size": 3, "stride": 2, "output_size": (9, 9)}
writes = partial(nn.functional.max_unpool2d, **options)
assert torch.autograd.gradcheck(adds, p)
assert not torch.autograd.gradcheck(writes, p, raise_exception=False)

# %% [markdown]
# ## Exercises
#
# 1. What share of the values is not zero after a pool and an unpool, with windows of two pixels on each side, and with
#    overlapping windows of three?

# %% tags=["hide-cell"]
x, left = torch.randn(1, 50, 63, 63, generator=generator), {}
for kernel in (2, 3):
    p, places = nn.functional.max_pool2d(x, kernel, 2, return_indices=True)
    back = encoder_decoder.unpool(p, places, x.shape)
    left[kernel] = 100 * back.count_nonzero().item() / back.numel()
evidence.answer(
    f"With two pixels, one in four: {left[2]:.0f} % here, where the last row and column are in no window. With three, {left[3]:.0f} %, since windows share maxima. The filters after an unpool fill the gaps."
)

# %% [markdown]
# 2. How much does a trained network rely on the remembered places? Give SegNet's decoder each value in its whole window
#    instead, without training it again.


# %% tags=["hide-cell"]
def everywhere(values, places, size):
    return nn.functional.interpolate(values, size[2:])


with mock.patch.object(encoder_decoder, "unpool", everywhere):
    lost = segmentation.evaluate(nets["segnet"][0], check, **labeled)
kept = segmentation.evaluate(nets["segnet"][0], check, **labeled)
evidence.answer(
    f"A lot: on the validation scenes the mIoU is {kept.mean_iou_pct:.0f} % with the places and {lost.mean_iou_pct:.0f} % without them. The filters were trained on maps that are mostly zero, and now get several times as much. A decoder without places must be trained as one."
)

# %% [markdown]
# 3. A script that names the paper's first author as its origin differs in two ways. Each DFire module expands with only
#    half as many filters of each kind as its fire module squeezes to, and the detour through 1000 maps ends with
#    $3 \times 3$ filters. How many times fewer parameters than SegNet would that give, with and without the detour?

# %% tags=["hide-cell"]
expanded = [size.expand1x1 + size.expand3x3 for size in fire_sizes()]
inputs, total = [96, *expanded[:-1]], 0
for into, out, size in zip(expanded, inputs, fire_sizes(), strict=True):
    half = size.squeeze // 2
    total += measure.parameters(scenery.DFire(into, half, half, out))
encoder = *whole["public"].encoder, *whole["public"].middle[:2]
total += sum(map(measure.parameters, encoder))
back = 9 * 1000 * 512 + 512
with_it = total + back + 2 * 2 * 96 * 11 + 11  # its last layer has 2 x 2 filters
detour = 512 * 1000 + 1000 + back
without = with_it - detour
evidence.answer(
    f'{sizes["segnet"] / with_it:.1f} times fewer with the detour, which has {100 * detour / with_it:.0f} % of the parameters, and {sizes["segnet"] / without:.0f} times fewer without it. So ten times fewer was within reach, and the abstract\'s "less than 10 times" fits that script.'
)

# %% [markdown]
# 4. What does depth cost an hourglass? Compare the multiply-adds of depths one to four.

# %% tags=["hide-cell"]
cost = [
    measure.multiply_adds(
        glasses.Hourglass(d, 16, lambda c: bulat.BinaryBlock(c, c, binary=False)),
        (16, 64, 64),
    )
    for d in (1, 2, 3, 4)
]
more = [100 * (b / a - 1) for a, b in pairwise(cost)]
evidence.answer(
    f"Little: depths two, three and four add {more[0]:.0f}, {more[1]:.0f} and {more[2]:.0f} %, since each level has a quarter of the pixels. Its parameters grow by the same number at each level."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 3.1
# ```
#
# ## In short
#
# - Squeezing before expanding makes a network for scenes ten times smaller, if the decoder does it too; mirroring the
#   fire module alone does not.
# - Remembered places replace copies of large maps; where windows overlap, values that meet have to be added.
# - For one bit per weight and signal, build from blocks without $1 \times 1$ filters, and measure on your own images
#   what the signs cost.
#
# ## Sources of this chapter
#
# - {cite:t}`badrinarayanan2017segnet` introduce SegNet, {cite:t}`nanfack2018squeezesegnet` Squeeze-SegNet, and
#   {cite:t}`iandola2016squeezenet` SqueezeNet.
# - {cite:t}`newell2016stacked` propose the hourglass, {cite:t}`bulat2017binarized` its binary form;
#   {cite:t}`berthelier2020survey` is the survey.
