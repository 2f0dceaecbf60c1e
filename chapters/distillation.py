# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-distillation)=
# # Knowledge distillation: soft targets, mimic learning, unlabeled data
#
# When does a small network (the student) learn more from a large one (the teacher) than from labels?
# When labels are few.
# With {mean}`distillation.few.samples` color images, a student that copies its teacher's softened probabilities is
# right on {mean}`distillation.few.soft4_accuracy_pct 0` of the test images, and on
# {mean}`distillation.few.hard_accuracy_pct 0` with labels alone.
# If the student has all the images and labels that the teacher had, the teacher
# {glue:text}`distillation.all.outcome`.
#
# ```{claims} distillation
# ```
#
# ```{cost} distillation
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits or mnist
first = [1000, 100, 300]  # of them: training, validation and test images
color_data = "street-digits"  # color images, 32 x 32: street-digits or cifar10
color_first = [800, 100, 300]  # of them: training, validation and test images
other_data = "street-digits"  # second set of Figure 2: spoken-digits or images
other_first = [500, 100, 200]  # of it: training, validation and test samples
seeds = 3  # students of each kind, trained from different starts
color_epochs = 12  # to train the teacher of color images
teacher_width = 16  # filters in the first layer of that teacher
few = 100  # color images that the students have
few_seeds = 3  # such students of each kind
few_epochs = 16  # to train each of them
all_epochs = 5  # to train a student on all the teacher's images
temperature = 4.0  # of the soft targets
gray_epochs = 8  # to train LeNet-5, the teacher of gray images
transfer = 500  # gray images from which students learn without labels
missing_epochs = 20  # to train a student that never sees one digit
missing_temperature = 8.0  # of the soft targets for it
left_out = 3  # the digit that it never sees
changed = 1.0  # share of the transfer set's answers that a shift may change (%)
labeled = 100  # gray images with a label
mimic_epochs = 15  # to train a shallow student on the unlabeled images
batch_size = 32  # images in a step of its training
width = 500  # hidden units of the shallow student
rank = 30  # units of its linear bottleneck
figure_steps = 110  # to train each network of Figure 2
widths = [30, 100]  # hidden units of the shallow networks there
filters = [2, 4]  # of the deep networks there, in their first layer
other_labeled = 100  # samples of the second set with a label
members = 3  # networks in the ensemble that labels made-up images
copies = 5  # made-up images for each real one
made_epochs = 15  # to train a student on made-up images

# %% tags=["hide-input"]
from functools import partial

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, training
from lib.cache import cached
from lib.datasets import Split
from lib.distillation import (
    ensemble,
    linear_bottleneck,
    logit_mimic,
    model_compression,
    soft_targets,
)
from lib.distillation.shared.agreement import agreement_pct, shared_mistakes_pct
from lib.distillation.shared.distiller import answers

gray = datasets.load(data, first=first)
color = datasets.load(color_data, first=color_first)
record = evidence.recorder("distillation", gray)
evidence.uses(color)


def accuracies(networks, split):
    # in small batches: the maps of many images at once leave the processor's cache
    return [100 - training.error_pct(net, split, batch_size=200) for net in networks]


def gains(better, worse):  # of networks with the same seeds
    return [b - w for b, w in zip(better, worse, strict=True)]


def taught(build, teaching, count=None, **options):  # one student for each seed
    networks = [build(seed) for seed in range(count or seeds)]
    for seed, network in enumerate(networks):
        training.fit(network, seed=seed, teaching=teaching, **options)
    return networks


# %% [markdown]
# (sec-soft-targets)=
# ## Soft targets: what the wrong classes tell
#
# **The idea.** A label says "cat". A trained network says "cat, perhaps dog, surely not truck", and there is more to
# learn from that {cite:p}`hinton2015distilling`.
# The *{term}`teacher`* is a large network that is already trained, the *{term}`student`* a small one.
#
# **The formula.** The {term}`logits <logit>` $z$ of a network, its outputs before the {term}`softmax`, are divided by a {term}`temperature` $T$, so
# that small probabilities count:
#
# $$ p_i^{(T)}(z) = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)} . $$ (eq-temperature)
#
# With the logits $v$ of the teacher and $z$ of the student, the label $y$ and its weight $w$, the student minimizes
#
# $$ L = (1 - w)\, T^2\, \mathrm{KL}\big(p^{(T)}(v) \,\big\Vert\, p^{(T)}(z)\big) + w\, \mathrm{CE}\big(y, p^{(1)}(z)\big) . $$ (eq-soft-targets)
#
# The factor $T^2$ makes up for gradients that shrink with $1 / T^2$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(soft_targets.loss)

# %% [markdown]
# **An exact check.** At a high temperature, {term}`soft targets` compare logits from which their mean is subtracted.
# For $C$ classes, the gradient tends to $\frac{1}{C}\big[(z - \bar z) - (v - \bar v)\big]$, and the distance to it
# falls with $1/T$.

# %%
generator = torch.Generator().manual_seed(0)
z, v = torch.randn(2, 1, 10, generator=generator, dtype=torch.float64)
z.requires_grad_()
limit = ((z - z.mean()) - (v - v.mean())).detach() / 10
away = []
for t in (100.0, 1000.0):
    (slope,) = torch.autograd.grad(soft_targets.loss(z, v, temperature=t), z)
    away.append(float((slope - limit).norm() / limit.norm()))
assert away[0] < 0.05 and 8 < away[0] / away[1] < 12

# %% [markdown]
# **An experiment.** The teacher has three convolutions and is trained on all color images; the student has the same
# layers with only a few filters in each.
# It gets a few images, shifted at random and, unless they show digits, also mirrored.
# It learns from their labels, from the teacher at $T = 1$, or from the teacher at a higher temperature.
# All three students train for the same number of steps.

# %%
augmented = {"shift": 2, "flip": color_data == "cifar10"}
color_net = {"side": color.train.images.shape[-1], "classes": len(color.classes)}
options = {"epochs": color_epochs, "seed": 0, "learning_rate": 0.05} | augmented
teacher = models.cnn(0, width=teacher_width, **color_net)
teacher = cached(training.fit, teacher, split=color.train, **options)


def student(seed):
    return models.cnn(100 + seed, width=8, **color_net)


def softened(t):
    return soft_targets.distiller(teacher, temperature=t, labels_weight=0.1)


ways = {"hard": None, "soft1": softened(1.0), "soft4": softened(temperature)}
few_options = {"split": color.train.first(few), "epochs": few_epochs} | augmented
few_options |= {"learning_rate": 0.05, "count": few_seeds}
students = {way: taught(student, by, **few_options) for way, by in ways.items()}
right = {way: accuracies(nets, color.test) for way, nets in students.items()}

# %% [markdown]
# **The control.** Does a teacher always help, or only where labels are few?
# Here the same student gets every image and label that the teacher had.

# %%
all_options = {"split": color.train, "epochs": all_epochs, "learning_rate": 0.05}
known = answers(teacher, color.train.images)  # stored once
by_known = soft_targets.distiller(known, temperature=temperature, labels_weight=0.1)
ways_all = {"hard": None, "soft4": by_known}
whole = {way: taught(student, by, **all_options) for way, by in ways_all.items()}
right_all = {way: accuracies(nets, color.test) for way, nets in whole.items()}

# %% tags=["remove-input"]
record("few.samples", few, exact=True)
record("few.teacher_accuracy_pct", accuracies([teacher], color.test))
gain = gains(right["soft4"], right["hard"])
record("few.gain_points", gain, digits=1)
record("few.temperature_gain_points", gains(right["soft4"], right["soft1"]), digits=1)
record("all.gain_points", gains(right_all["soft4"], right_all["hard"]), digits=1)
told = answers(teacher, color.test.images)
for way in ("hard", "soft4"):
    agree = [agreement_pct(net, told, color.test) for net in students[way]]
    record(f"few.{way}_agreement_pct", agree)
names = {
    "hard": "labels",
    "soft1": "teacher, T = 1",
    "soft4": f"teacher, T = {temperature:g}",
}
rows = []
for way, name in names.items():
    row = {"student learns from": name}
    row["few images"] = record(f"few.{way}_accuracy_pct", right[way], digits=1)
    row["all images"] = (
        record(f"all.{way}_accuracy_pct", right_all[way], digits=1)
        if way in right_all
        else "-"
    )
    rows.append(row)
figures.table(
    rows,
    caption=f"Test accuracy with {few:,} and with {len(color.train):,} training images",
)
difference = np.mean(gains(right_all["soft4"], right_all["hard"]))
outcome = (
    "adds less than a point"
    if abs(difference) < 1
    else f"{'adds' if difference > 0 else 'costs'} {abs(difference):.1f} points"
)
evidence.phrase("distillation.all.outcome", outcome)

# %% [markdown]
# **What to see.** With few images, the teacher {finding}`adds | distillation.few.gain_points > 0` {mean}`distillation.few.gain_points`.
# The student then agrees with its teacher on {mean}`distillation.few.soft4_agreement_pct 0` of the test images instead of {mean}`distillation.few.hard_agreement_pct 0`.
# With all the images, the teacher {glue:text}`distillation.all.outcome`: most of what it knows is also in the labels
# that the student has.
#
# ### A digit that the student never saw
#
# **An experiment.** {cite:t}`hinton2015distilling` take one digit out of the images from which the student learns.
# The teacher's small probabilities still say which images resemble the missing digit.
# But the student answers with it too rarely, because its bias for the missing class has learned that the class is rare.
# So we raise that bias, as far as this changes at most {mean}`distillation.missing_class.changed_pct 0` of the
# student's answers to its own training images.
# The teacher is LeNet-5, a classifier with two convolutions; the student is LeNet-300-100, which has two hidden layers.

# %% tags=["hide-input"]
options = {"epochs": gray_epochs, "learning_rate": 0.05, "seed": 0}
lenet5 = cached(training.fit, models.lenet5(0), split=gray.train, **options)


def only(split, digits):
    chosen = torch.isin(split.labels, torch.tensor(digits))
    return Split(split.images[chosen], split.labels[chosen])


@torch.no_grad()
def shifted(network, split, classes, sign):
    """Move the bias of some classes as far as few answers change."""
    logits = answers(network, split.images)
    before, chosen = logits.argmax(1), 0.0
    for shift in np.arange(0.25, 20, 0.25):
        moved = logits.clone()
        moved[:, classes] += sign * shift
        if 100 * (moved.argmax(1) != before).float().mean() > changed:
            break
        chosen = float(shift)
    network.fc3.bias[classes] += sign * chosen
    return network, chosen


digits = list(range(len(gray.classes)))
missing = only(gray.train.first(transfer), [d for d in digits if d != left_out])
pair = only(gray.train, [7, 8]).first(transfer)
soft = soft_targets.distiller(lenet5, temperature=missing_temperature)
options = {"epochs": missing_epochs, "learning_rate": 0.01}
unseen = taught(models.lenet_300_100, soft, split=missing, **options)
by_labels = taught(models.lenet_300_100, None, split=missing, **options)
two = taught(models.lenet_300_100, soft, split=pair, **options)
never = only(gray.test, [left_out])
recall = {"labels": accuracies(by_labels, never), "soft": accuracies(unseen, never)}
whole_test = {"soft": accuracies(unseen, gray.test), "two": accuracies(two, gray.test)}
shifts = [shifted(net, missing, [left_out], +1)[1] for net in unseen]
recall["shifted"] = accuracies(unseen, never)
whole_test["shifted"] = accuracies(unseen, gray.test)
for net in two:
    shifted(net, pair, [7, 8], -1)
whole_test["two_shifted"] = accuracies(two, gray.test)

# %% tags=["remove-input"]
record("missing_class.changed_pct", changed, exact=True)
record("missing_class.labels_recall_pct", recall["labels"], digits=1)
record("missing_class.recall_pct", recall["soft"], digits=1)
record("missing_class.shifted_recall_pct", recall["shifted"], digits=1)
record(
    "missing_class.shift_gain_points",
    gains(recall["shifted"], recall["soft"]),
    digits=1,
)
record("missing_class.shift", shifts, unit="", digits=1)
rows = [
    {
        "the student saw": f"all digits except {left_out}",
        "accuracy on all digits": record(
            "missing_class.accuracy_pct", whole_test["soft"], digits=1
        ),
        "after the shift": record(
            "missing_class.shifted_accuracy_pct", whole_test["shifted"], digits=1
        ),
    },
    {
        "the student saw": "only 7 and 8",
        "accuracy on all digits": record(
            "two_classes.accuracy_pct", whole_test["two"], digits=1
        ),
        "after the shift": record(
            "two_classes.shifted_accuracy_pct", whole_test["two_shifted"], digits=1
        ),
    },
]
figures.table(rows, caption="Digits that the student never saw; three students each")

# %% [markdown]
# **What to see.** A student that has never seen a {glue:text}`distillation.missing_class.digit` recognizes
# {mean}`distillation.missing_class.recall_pct 0` of them, and {mean}`distillation.missing_class.shifted_recall_pct 0`
# after its bias was raised.
# Trained on the labels of the same images, it
# {finding}`recognizes none | distillation.missing_class.labels_recall_pct < 0.5`.
# A student that saw nothing but sevens and eights is right on {mean}`distillation.two_classes.accuracy_pct 0` of all digits, and on {mean}`distillation.two_classes.shifted_accuracy_pct 0` after its two biases were lowered.

# %% tags=["remove-cell"]
evidence.phrase("distillation.missing_class.digit", str(left_out))

# %% [markdown]
# (sec-logit-mimic)=
# ## Mimic learning: match the logits, on images without labels
#
# **The idea.** In mimic learning, a shallow network copies the teacher's logits by least squares {cite:p}`ba2014deep`.
# It uses no labels, so any image will do, and unlabeled images are cheap.
#
# **The formula.** For the student's logits $g(x)$ and the teacher's $z$,
#
# $$ L = \frac{1}{2N} \sum_{t=1}^N \big\lVert g(x_t) - z_t \big\rVert^2 . $$ (eq-mimic)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(logit_mimic.loss)

# %% [markdown]
# **An exact check.** The gradient of the loss is the difference of the logits divided by the number of samples, and for
# a copy of the teacher the loss is zero.

# %%
g = torch.randn(4, 10, generator=generator, requires_grad=True)
target = torch.randn(4, 10, generator=generator)
logit_mimic.loss(g, target).backward()
torch.testing.assert_close(g.grad, (g.detach() - target) / 4)
assert logit_mimic.loss(target, target) == 0

# %% [markdown]
# **An experiment.** A shallow student copies LeNet-5 on all training images, without their labels.
# It has one hidden layer after a linear bottleneck (next section).
# Its rival has the same shape and learns from the few labels that we pretend to have, for as many steps.
# The student copies logits that are scaled to mean zero and spread one; a last layer undoes the scaling.


# %% tags=["hide-input"]
def shallow(seed, hidden=width, narrow=rank):
    net = models.mlp(200 + seed, hidden=(hidden,), batch_norm=False)
    if not narrow:
        return net
    return linear_bottleneck.bottleneck(net, "fc1", rank=narrow, seed=seed)


def copying(network, split):
    """A distiller of logits, and the layer that undoes their scale."""
    logits = answers(network, split.images)
    condition, undo = logit_mimic.conditioning(logits)
    return logit_mimic.distiller(condition(logits)), undo


def mimicking(build, network, split, **options):
    teaching, undo = copying(network, split)
    return [
        nn.Sequential(net, undo)
        for net in taught(build, teaching, split=split, **options)
    ]


few_gray = gray.train.first(labeled)
rates = {"optimizer": "adam", "learning_rate": 0.002, "batch_size": batch_size}
hard_mimic = taught(
    shallow,
    None,
    split=few_gray,
    epochs=mimic_epochs * len(gray.train) // labeled,  # as many steps
    **rates,
)
options = {"split": gray.train, "epochs": mimic_epochs, **rates}
mimics = mimicking(shallow, lenet5, **options)

# %% tags=["remove-input"]
record("mimic.labeled", labeled, exact=True)
record("mimic.unlabeled", len(gray.train) - labeled, exact=True)
record("mimic.teacher_accuracy_pct", accuracies([lenet5], gray.test))
scores = {
    "labels": accuracies(hard_mimic, gray.test),
    "mimic": accuracies(mimics, gray.test),
}
record("mimic.labels_accuracy_pct", scores["labels"], digits=1)
record("mimic.accuracy_pct", scores["mimic"], digits=1)
record("mimic.gain_points", gains(scores["mimic"], scores["labels"]), digits=1)
record(
    "mimic.behind_points",
    [accuracies([lenet5], gray.test)[0] - s for s in scores["mimic"]],
)
told = answers(lenet5, gray.test.images)
agree = [agreement_pct(net, told, gray.test) for net in mimics]
record("mimic.agreement_pct", agree, digits=1)
for name, nets in (("mimic.", mimics), ("mimic.labels_", hard_mimic)):
    alike = [shared_mistakes_pct(net, told, gray.test) for net in nets]
    record(f"{name}shared_mistakes_pct", alike, digits=0)
ratio = measure.parameters(shallow(0)) / measure.parameters(lenet5)
record("mimic.parameters_ratio", ratio, digits=2, exact=True)

# %% [markdown]
# **What to see.** The mimic is right on {mean}`distillation.mimic.accuracy_pct` of the test images, its rival with
# {mean}`distillation.mimic.labeled` labels on {mean}`distillation.mimic.labels_accuracy_pct`.
# The mimic gives the same answer as its teacher in {mean}`distillation.mimic.agreement_pct` of the cases.
# The survey expects it to make the same mistakes, too ({verdict}`C2.1-09`).
# It repeats {mean}`distillation.mimic.shared_mistakes_pct` of the teacher's mistakes with the same wrong answer; its
# rival, which never met the teacher, repeats {mean}`distillation.mimic.labels_shared_mistakes_pct`.
#
# ### The survey's Figure 2, drawn again
#
# We draw accuracy against parameters for deep networks, for shallow networks, and for shallow networks that mimic a
# deep one.
# Deep and shallow networks learn from the same few labels.
# The teacher is another, wider deep network, trained on all labels; the mimics copy it without labels.

# %% tags=["hide-input"]
other = datasets.load(other_data, first=other_first)
evidence.uses(other)
WINDOW = 256  # samples of a sound that share one spectrum


def pictures(split):
    """Pictures of 28 x 28: of a sound, how loud each pitch is over time."""
    images = split.images
    if images.dim() == 3:
        sounds, window = images[:, 0], torch.hann_window(WINDOW)
        spectra = torch.stft(
            sounds, WINDOW, WINDOW // 2, window=window, return_complex=True
        )
        images = (spectra.abs().square() + 1e-3).log()[:, None] / 10
    small = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 28)
    return Split(small, split.labels)


def cut(dataset, n):  # a training part of n samples, and the test split
    return pictures(dataset.train.first(n)), pictures(dataset.test)


sets = {
    data: (*cut(gray, transfer), labeled),
    other_data: (*cut(other, len(other.train)), other_labeled),
}


# %% tags=["hide-input"]
def deep(seed, narrow):
    return models.cnn(300 + seed, channels=1, width=narrow, side=28)


def points(train, test, n):
    """Line -> (parameters, accuracies of the seeds at each of them)."""
    labels = train.first(n)
    hard = {"split": labels, "epochs": max(1, figure_steps * batch_size // n)}
    hard |= {"batch_size": batch_size}
    length = max(1, figure_steps * batch_size // len(train))
    options = {"split": train, "epochs": 2 * length, "seed": 0}
    master = cached(training.fit, deep(0, 2 * filters[-1]), **options)
    lines = {"deep": ([], []), "shallow": ([], []), "mimic": ([], [])}
    for narrow in filters:
        build = partial(deep, narrow=narrow)
        lines["deep"][0].append(measure.parameters(build(0)))
        lines["deep"][1].append(accuracies(taught(build, None, **hard), test))
    for hidden in widths:
        build = partial(shallow, hidden=hidden, narrow=0)
        plain = taught(build, None, **hard | rates)
        copies = mimicking(build, master, train, epochs=length, **rates)
        for line, nets in (("shallow", plain), ("mimic", copies)):
            lines[line][0].append(measure.parameters(plain[0]))
            lines[line][1].append(accuracies(nets, test))
    return lines


found = {name: points(*parts) for name, parts in sets.items()}

# %% tags=["remove-input"]
looks = {
    "deep": (figures.look("teacher"), "deep, labels"),
    "shallow": (figures.look("dense"), "shallow, labels"),
    "mimic": (figures.look("kd-logit-mimic"), "shallow, mimic"),
}
figure, axes = figures.axes(2)
above = []
for ax, (name, lines) in zip(axes, found.items(), strict=True):
    for line, (x, runs) in lines.items():
        look, label = looks[line]
        figures.line(ax, x, runs, look, label, bounds=figures.PERCENT)
    ax.set(xlabel=f"parameters, {name}", xscale="log")
    gap = [
        gains(m, s) for m, s in zip(lines["mimic"][1], lines["shallow"][1], strict=True)
    ]
    above += [min(np.mean(g) for g in gap)]
    which = "gray" if name == data else "other"
    for hidden, g in zip(widths, gap, strict=True):
        record(f"figure2.{which}_{hidden}_gain_points", g, digits=1)
    least = min(gap, key=np.mean)  # not chosen by test
    record(f"figure2.{which}_least_gain_points", least, digits=1)
    best = {
        line: max(runs, key=np.mean) for line, (_, runs) in lines.items()
    }  # not chosen by test
    for line, values in best.items():
        record(f"figure2.{which}_{line}_accuracy_pct", values, digits=1)
axes[0].set(ylabel="test accuracy (%)")
handles = axes[0].get_legend_handles_labels()
place = {"loc": "outside lower center", "columnspacing": 1}
figure.legend(*handles, **place, ncols=3, frameon=False, fontsize=10)
gap_of = dict(zip(sets, above, strict=True))
ahead = [name for name in gap_of if gap_of[name] > 0]  # not chosen by test
won = " and ".join(ahead)
lost = " and ".join(name for name in gap_of if name not in ahead)
outcome = f"Mimics beat shallow networks of every size on {won or 'neither set'}"
outcome += f", not on {lost}" if won and lost else ""
others = (
    "a mimic is better at every size, too"
    if above[1] > 0
    else "a mimic is not better at every size"
)
evidence.phrase("distillation.figure2.other_outcome", others)
gaps = " and ".join(f"{gap:.1f} points on {name}" for name, gap in gap_of.items())
figures.show(
    figure,
    lead=True,
    finding=outcome,
    name="fig-mimic",
    caption="Test accuracy against parameters, for deep and shallow networks with few labels and for shallow networks that copy a deep one without labels; means over three seeds with 95 % intervals.",
    alt=f"Two plots of accuracy against parameters. {outcome}: the least that a mimic gains over a shallow network of its size is {gaps}.",
)

# %% [markdown]
# **What to see.** On gray digits, as in the survey's Figure 2, a mimic
# {finding}`is better | distillation.figure2.gray_least_gain_points > 0` than a shallow network of its size that learned
# from the few labels.
# On the second data set: {glue:text}`distillation.figure2.other_outcome` ({verdict}`C2.1-17`).
# Part of any gain comes from labels: the teacher was trained on many that the shallow network never had.
#
# (sec-linear-bottleneck)=
# ## A linear bottleneck makes wide layers cheap
#
# **The idea.** A shallow student has to be wide, and a wide first layer is costly.
# {cite:t}`ba2014deep` write its weight matrix as a product of two narrow ones, with no activation in between.
# The survey leaves this bottleneck out ({verdict}`C2.1-13`).
#
# **The formula.** $W \in \mathbb{R}^{H \times D}$ becomes $U V$ with $U \in \mathbb{R}^{H \times k}$ and $V \in \mathbb{R}^{k \times D}$: $k (H + D)$ weights instead of $H D$.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(linear_bottleneck.bottleneck)

# %% [markdown]
# **An exact check.** Multiplied out again, the two layers answer as before, and the weight has rank $k$.

# %%
narrow = shallow(0)
merged = linear_bottleneck.merged(narrow, "fc1")
images = gray.test.images[:20]
torch.testing.assert_close(merged(images), narrow(images), rtol=1e-4, atol=1e-4)
assert torch.linalg.matrix_rank(merged.fc1.weight.double(), rtol=1e-5) == rank

# %% [markdown]
# **An experiment.** We train the same mimic with and without the bottleneck, for the same number of steps.

# %%
plain = partial(shallow, narrow=0)
options = {"split": gray.train, "epochs": mimic_epochs, **rates}
wide = mimicking(plain, lenet5, **options)

# %% tags=["remove-input"]
shape = (1, *gray.test.images.shape[1:])
rows = []
for name, build, nets in (("without", plain, wide), ("with", shallow, mimics)):
    right_here = accuracies(nets, gray.test)
    work = measure.multiply_adds(build(0), shape)
    rows.append(
        {
            "bottleneck": name,
            "parameters": f"{measure.parameters(build(0)):,}",
            "multiply-adds": f"{work:,}",
            "test accuracy": record(
                f"bottleneck.{name}_accuracy_pct", right_here, digits=1
            ),
        }
    )
figures.table(
    rows,
    caption=f"A mimic with {width} hidden units, with and without a bottleneck of {rank}",
)
work = [measure.multiply_adds(build(0), shape) for build in (plain, shallow)]
record("bottleneck.multiply_adds_ratio", work[0] / work[1], exact=True)
losses = gains(accuracies(wide, gray.test), accuracies(mimics, gray.test))
record("bottleneck.loss_points", losses, digits=2)

# %% [markdown]
# **What to see.** With the bottleneck, the student takes {mean}`distillation.bottleneck.multiply_adds_ratio`
# {finding}`fewer multiply-adds | distillation.bottleneck.multiply_adds_ratio > 1`.
# Without it, the accuracy differs by {mean}`distillation.bottleneck.loss_points`.
#
# (sec-model-compression)=
# ## Model compression: make the images up
#
# **The idea.** What if there are no unlabeled images?
# {cite:t}`bucila2006model` make up samples from the few that exist, let an ensemble label them, and train one small
# network on the result.
# There are three ways to make up an image.
# RANDOM draws each pixel from the distribution of that pixel, NBE does so within each class, and MUNGE mixes each image
# with its nearest neighbor.
#
# **The formula.** For an image $e$ and its nearest neighbor $e'$, MUNGE changes each pixel $a$ with probability $p$; a
# parameter $s$ sets the spread:
#
# $$ e_a \leftarrow \mathcal N\big(e'_a, \mathit{sd}\big), \qquad e'_a \leftarrow \mathcal N\big(e_a, \mathit{sd}\big), \qquad \mathit{sd} = \lvert e_a - e'_a \rvert / s . $$ (eq-munge)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(model_compression.munge)

# %% [markdown]
# **An exact check.** With $p = 0$, the made-up images are copies of the real ones.

# %%
real = few_gray.images
same = model_compression.munge(real, copies=2, probability=0.0, spread=1.0, seed=0)
assert torch.equal(same, torch.cat([real, real]))

# %% [markdown]
# **An experiment.** We train an ensemble, several networks whose answers are averaged, on the few labeled images.
# A small student copies it on these images alone, or also on made-up ones, for the same number of steps.
# How often MUNGE changes a pixel is chosen on validation images.

# %% tags=["hide-input"]
options = {"split": few_gray, "epochs": 40, "learning_rate": 0.05, "batch_size": 32}
panel = [
    models.mlp(seed, hidden=(400, 400), batch_norm=False) for seed in range(members)
]
for seed, net in enumerate(panel):
    training.fit(net, seed=seed, **options)
crowd = ensemble.Ensemble(panel)
n = copies * labeled
made = {
    "real": real,
    "random": model_compression.marginals(real, n, seed=0),
    "nbe": model_compression.naive_bayes(real, few_gray.labels, n, seed=0),
}
little = partial(models.mlp, hidden=(16,), batch_norm=False)


def copied(images):  # students of the ensemble, for as many steps whatever the images
    split = model_compression.labeled(crowd, images)
    by_crowd = model_compression.distiller(crowd)
    epochs = max(1, made_epochs * (n + labeled) // len(images))
    return taught(little, by_crowd, split=split, epochs=epochs, **rates)


small = {
    name: copied(real if name == "real" else torch.cat([real, images]))
    for name, images in made.items()
}
tried = []
for options in ({"probability": 0.1}, {"probability": 0.3}, {"probability": 0.5}):
    images = model_compression.munge(real, copies=copies, spread=2.0, seed=0, **options)
    nets = copied(torch.cat([real, images]))
    tried.append((np.mean(accuracies(nets, gray.validation)), nets))
small["munge"] = max(tried, key=lambda candidate: candidate[0])[1]
epochs = made_epochs * (n + labeled) // labeled
small["labels"] = taught(little, None, split=few_gray, epochs=epochs, **rates)

# %% tags=["remove-input"]
names = {
    "labels": "the labels of the real images",
    "real": "the ensemble, on the real images",
    "random": "and on pixels drawn one by one (RANDOM)",
    "nbe": "and on pixels drawn by class (NBE)",
    "munge": "and on mixed images (MUNGE)",
}
rows = []
reached = {name: accuracies(nets, gray.test) for name, nets in small.items()}
for name, text in names.items():
    right_here = record(f"made.{name}_accuracy_pct", reached[name], digits=1)
    rows.append({"a student learns from": text, "test accuracy": right_here})
figures.table(
    rows,
    caption=f"A network with 16 hidden units, {labeled:,} labeled images and an ensemble of {members}",
)
record("made.ensemble_accuracy_pct", accuracies([crowd], gray.test), digits=1)
record("made.munge_gain_points", gains(reached["munge"], reached["real"]), digits=1)
record(
    "made.munge_over_random_points",
    gains(reached["munge"], reached["random"]),
    digits=1,
)
behind = [accuracies([crowd], gray.test)[0] - value for value in reached["munge"]]
record("made.behind_points", behind, digits=1)
ratio = measure.parameters(crowd) / measure.parameters(little(0))
record("made.parameters_ratio", ratio, digits=0, exact=True)

# %% [markdown]
# **What to see.** The student has {mean}`distillation.made.parameters_ratio` {finding}`fewer parameters | distillation.made.parameters_ratio > 1` than the ensemble.
# With mixed images it reaches {mean}`distillation.made.munge_accuracy_pct`, and with pixels drawn one by one
# {mean}`distillation.made.random_accuracy_pct`; the ensemble itself reaches
# {mean}`distillation.made.ensemble_accuracy_pct`.
# The thousandfold compression that the survey reports ({verdict}`C2.1-10`) comes from this work.
# It is about tables of numbers; the survey places it on CIFAR-10, a set of color images ({verdict}`C2.1-11`).
#
# ## Where it breaks
#
# **With all the data.** If the student has all images and labels, there is less left to copy: see the right column of
# the first table.
#
# **Deep, but small.** The survey says that "a deeper network has more parameters" ({verdict}`C2.1-01`).
# This is not so in general: six hidden layers of sixteen units have fewer than one layer of sixty-four.

# %%
slim = measure.parameters(models.mlp(inputs=64, hidden=(16,) * 6, batch_norm=False))
flat = measure.parameters(models.mlp(inputs=64, hidden=(64,), batch_norm=False))
record("depth.deep_parameters", slim, exact=True)
record("depth.shallow_parameters", flat, exact=True)
assert slim < flat

# %% [markdown]
# **A shallow student on color images.** The CIFAR-10 student of {cite:t}`ba2014deep` has a convolution, a bottleneck of 1,200 units and 30,000 hidden units.
# Is it smaller than a deep network?

# %%
convolution = measure.parameters(nn.Conv2d(3, 128, 5))
inside = 128 * 14 * 14 * 1200 + 1200 * 30_000 + 30_000 + 30_000 * 10 + 10
resnet = measure.parameters(models.resnet20())
record(
    "shallow.parameters_ratio", (convolution + inside) / resnet, digits=0, exact=True
)

# %% [markdown]
# It has {mean}`distillation.shallow.parameters_ratio` {finding}`as many parameters as | distillation.shallow.parameters_ratio > 1` ResNet-20, a network of twenty layers for the same images.
#
# ## Exercises
#
# 1. What happens to the gradient of soft targets at $T = 10$ if the factor $T^2$ is forgotten?

# %% tags=["hide-cell"]
z, v = torch.randn(2, 1, 10, generator=generator)
z.requires_grad_()
norms = []
for t in (1.0, 10.0):
    (slope,) = torch.autograd.grad(soft_targets.loss(z, v, temperature=t), z)
    norms.append((float(slope.norm()), float(slope.norm() / t**2)))
evidence.answer(
    f"With the factor its length is {norms[0][0]:.2f} at T = 1 and {norms[1][0]:.2f} at T = 10; without it, {norms[1][1]:.4f}, so the soft term would hardly count beside the labels."
)

# %% [markdown]
# 2. Teach with the wrong answers alone: set the teacher's probability of the true class to zero. Does the student still learn?

# %% tags=["hide-cell"]
blind = answers(teacher, color.train.first(few).images)
blind[torch.arange(len(blind)), color.train.labels[:few]] = -20.0
split = color.train.first(few)
net = student(0)
teaching = soft_targets.distiller(blind, temperature=temperature)
training.fit(
    net, split, epochs=few_epochs // 2, seed=0, learning_rate=0.05, teaching=teaching
)
logits = answers(net, color.test.images)
last = 100 * (logits.argmin(1) == color.test.labels).float().mean()
best = 100 * (logits.argmax(1) == color.test.labels).float().mean()
evidence.answer(
    f"It learns what the image resembles apart from what it is: its highest answer is right for {best:.0f} % of the test images and its lowest for {last:.0f} %; chance is {100 / len(color.classes):.0f} %."
)

# %% [markdown]
# ## In short
#
# - A teacher helps most when the student has few labels, or unlabeled images of its own.
# - With all the teacher's data, there is less to gain.
# - A student can learn to recognize a class that it has never seen.
#
# ## Sources of this chapter
#
# - {cite:t}`hinton2015distilling` is distillation with a temperature, {cite:t}`ba2014deep` is mimic learning with the
#   linear bottleneck, and {cite:t}`bucila2006model` is model compression.
# - {cite:t}`urban2017deep` asks later whether convolutional students can be shallow; {cite:t}`dauphin2013big` is the shallow network on SIFT features.
# - {cite:t}`lecun1998gradient` has the networks, {cite:t}`berthelier2020survey` is the survey.
