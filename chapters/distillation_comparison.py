# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-distillation-comparison)=
# # Distillation compared: ensembles, features, rankings, attention, singular vectors
#
# What should a small network copy from its teacher, a larger one: only the answers, or also what happens inside?
# We train it on {mean}`distillation_comparison.race.samples` color images in seven ways.
# It is right on {mean}`distillation_comparison.race.labels_accuracy_pct 0` of the test images with labels alone, and on
# {mean}`distillation_comparison.race.soft_accuracy_pct 0` with soft targets, the teacher's softened answers.
# In equal training time, {glue:text}`distillation_comparison.race.outcome`.
#
# ```{claims} distillation_comparison
# ```
#
# ```{cost} distillation_comparison
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits or mnist
first = [1000, 100, 300]  # of them: training, validation and test images
color_data = "street-digits"  # color images, 32 x 32: street-digits or cifar10
color_first = [800, 100, 300]  # of them: training, validation and test images
scene_data = "digits"  # images with a class for each pixel: camvid, or digits
scene_first = [40, 10, 30]  # of them: training, validation and test images
seeds = 3  # students of each kind, trained from different starts
gray_epochs = 5  # to train LeNet-5, the teacher of gray images
labeled = 100  # gray images with a label
transfer = 400  # gray images from which students learn without labels
member_images = 100  # labeled gray images for an ensemble
members = 5  # networks in it
member_epochs = 20  # to train each of them
student_epochs = 15  # to train a student of the ensemble
smoothing = 0.4  # share of the label that is spread over all classes
smooth_images = 600  # gray images to train the teachers
smooth_seeds = 3  # teachers with and without, each with its student
smooth_epochs = 15  # to train them
ranking_images = 100  # labeled gray images for an embedding
ranking_epochs = 20  # to train it
layers = [3, 2]  # of the transformers, teacher and student
transformer_images = 800  # gray images for the teacher
transformer_epochs = 6  # to train it
layer_images = 180  # gray images for its students, without labels
layer_epochs = 2  # for each internal layer of the student
color_epochs = 12  # to train the teacher of color images
teacher_width = 16  # filters in the first layer of that teacher
few = 100  # color images that the students have
race_seeds = 1  # students of each kind in the comparison of all losses
race_epochs = 10  # to train each student there
batch_size = 20  # images in a step there
density = 0.1  # share of the weights that pruning keeps
tune_epochs = 10  # to train the pruned network
scene_epochs = 12  # to train a network for scenes
scene_width = 8  # filters of the teacher of scenes; its student has half

# %% tags=["hide-input"]
import copy
import time
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

from lib import datasets, evidence, figures, measure, models, training
from lib.cache import cached
from lib.datasets import Split
from lib.distillation import (
    darkrank,
    ensemble,
    internal_representations,
    label_smoothing,
    logit_mimic,
    neuron_selectivity,
    singular_vectors,
    soft_targets,
)
from lib.distillation.shared import retrieval
from lib.distillation.shared.distiller import answers
from lib.distillation.shared.row_transformer import row_transformer
from lib.pruning import magnitude

gray = datasets.load(data, first=first)
color = datasets.load(color_data, first=color_first)
record = evidence.recorder("distillation_comparison", gray)
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


few_gray, unlabeled = gray.train.first(labeled), gray.train.first(transfer)

# %% [markdown]
# (sec-ensemble)=
# ## An ensemble in one student
#
# **The idea.** Several networks that differ only in their seeds are more accurate together than each of them alone, but
# they also cost several times as much.
# One {term}`student` of the same size can learn their mean answer {cite:p}`hinton2015distilling`.
#
# **The formula.** The target is the mean of the $M$ members' probabilities, softened by a temperature $T$.
# Alternatively, it is the softmax of their mean {term}`logits <logit>`, which amounts to the geometric mean of the probabilities:
#
# $$ \bar p = \frac{1}{M} \sum_{m=1}^M p^{(T)}(v_m) \qquad\text{or}\qquad \bar p \propto \Big(\prod_{m=1}^M p^{(T)}(v_m)\Big)^{1/M} . $$ (eq-ensemble)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(ensemble.Ensemble)

# %% [markdown]
# **An exact check.** The {term}`cross-entropy` of the mean probabilities is at most the mean cross-entropy of the members, for every sample (Jensen's inequality).

# %%
generator = torch.Generator().manual_seed(0)
logits = torch.randn(5, 100, 10, generator=generator).log_softmax(2)
labels = torch.randint(0, 10, (100,), generator=generator)
of_mean = nn.functional.nll_loss(logits.exp().mean(0).log(), labels, reduction="none")
each = [nn.functional.nll_loss(one, labels, reduction="none") for one in logits]
assert (of_mean <= torch.stack(each).mean(0) + 1e-6).all()

# %% [markdown]
# **An experiment.** Each member is a LeNet-300-100, a digit classifier with two hidden layers, trained on few labeled
# images.
# The student has the same shape and learns from the {term}`ensemble` on images without labels.
# There is one ensemble and one student for each seed.

# %%
options = {"epochs": member_epochs, "learning_rate": 0.05, "batch_size": 32}
alone, together, pupils = [], [], []
for seed in range(seeds):
    starts = range(members * seed, members * (seed + 1))
    group = [models.lenet_300_100(start) for start in starts]
    for start, net in zip(starts, group, strict=True):
        training.fit(net, gray.train.first(member_images), seed=start, **options)
    crowd = ensemble.Ensemble(group, temperature=2.0)
    pupil = models.lenet_300_100(1000 + seed)
    teaching = soft_targets.distiller(crowd, temperature=2.0)
    fit = options | {"split": unlabeled, "epochs": student_epochs}
    training.fit(pupil, seed=seed, teaching=teaching, **fit)
    alone.append(float(np.mean(accuracies(group, gray.test))))
    together += accuracies([crowd], gray.test)
    pupils += accuracies([pupil], gray.test)

# %% tags=["remove-input"]
gain, kept = gains(together, alone), gains(pupils, alone)
rows = [
    {
        "network": "one member",
        "test accuracy": record("ensemble.single_accuracy_pct", alone),
    },
    {
        "network": f"all {members}",
        "test accuracy": record("ensemble.all_accuracy_pct", together),
    },
    {
        "network": "one student of all",
        "test accuracy": record("ensemble.student_accuracy_pct", pupils),
    },
]
figures.table(rows, caption=f"LeNet-300-100 with {member_images:,} labeled images")
record("ensemble.gain_points", gain)
record("ensemble.student_gain_points", kept)
shares = [100 * k / g for k, g in zip(kept, gain, strict=True) if g > 0]
record("ensemble.transferred_pct", shares or [0.0], digits=0)

# %% [markdown]
# **What to see.** The ensemble is better than its members by {mean}`distillation_comparison.ensemble.gain_points`, and one student of their size keeps {mean}`distillation_comparison.ensemble.transferred_pct` of that, averaged over the ensembles ({verdict}`C2.1-16`).
# The student saw more images than the members did, but no labels.
#
# (sec-label-smoothing)=
# ## Label smoothing: does it make a worse teacher?
#
# **The idea.** Labels of almost one and almost zero, instead of one and zero, often make a network more accurate.
# {cite:t}`muller2019when` find that such a network teaches worse, since its answers no longer say which wrong class an
# image resembles.
#
# **The formula.** For a share $\alpha$ and $K$ classes,
#
# $$ y^{LS}_k = (1 - \alpha)\, y_k + \alpha / K . $$ (eq-smoothing)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(label_smoothing.smoothed)

# %% [markdown]
# **An exact check.** The loss is a mix of two cross-entropies: with the label and with the uniform distribution.

# %%
outputs, labels = torch.randn(6, 10, generator=generator), torch.arange(6)
soft = label_smoothing.smoothed(labels, classes=10, smoothing=0.3)
mixed = 0.7 * nn.functional.cross_entropy(outputs, labels)
mixed += 0.3 * nn.functional.cross_entropy(outputs, torch.full((6, 10), 0.1))
torch.testing.assert_close(nn.functional.cross_entropy(outputs, soft), mixed)

# %% [markdown]
# **An experiment.** We train {term}`teachers <teacher>` with and without smoothing; each teaches a small student, which learns from it
# alone, at $T = 4$.
# The student can learn from how the teacher's logits of the wrong classes vary among images of one class.


# %% tags=["hide-input"]
def little(seed):
    return models.mlp(seed, hidden=(16,), batch_norm=False)


def master(seed):
    return models.mlp(seed, hidden=(200, 200), batch_norm=False)


smooth = {}
fit = {"split": gray.train.first(smooth_images), "epochs": smooth_epochs}
fit |= {"learning_rate": 0.05, "batch_size": 64}
for alpha in (0.0, smoothing):
    by = label_smoothing.Smoothed(alpha)
    masters = [master(seed) for seed in range(smooth_seeds)]
    for seed, net in enumerate(masters):
        training.fit(net, seed=seed, **fit, loss=by)
    found = {"teacher": accuracies(masters, gray.test), "student": []}
    found["spread"] = [
        label_smoothing.wrong_logit_variance(net, gray.validation) for net in masters
    ]
    for seed, net in enumerate(masters):
        teaching = soft_targets.distiller(net, temperature=4.0)
        options = fit | {"split": unlabeled, "epochs": 2 * smooth_epochs}
        options |= {"optimizer": "adam", "learning_rate": 0.003}
        pupil = little(seed)
        training.fit(pupil, seed=seed, teaching=teaching, **options)
        found["student"] += accuracies([pupil], gray.test)
    smooth[alpha] = found

# %% tags=["remove-input"]
rows = []
for alpha, name in ((0.0, "hard"), (smoothing, "smooth")):
    found = smooth[alpha]
    rows.append(
        {
            "teacher's labels": name,
            "teacher": record(
                f"smoothing.{name}_teacher_accuracy_pct", found["teacher"]
            ),
            "student": record(
                f"smoothing.{name}_student_accuracy_pct", found["student"]
            ),
        }
    )
figures.table(rows, caption="Test accuracy of teachers and of their students")
worse = gains(smooth[0.0]["student"], smooth[smoothing]["student"])
record("smoothing.worse_points", worse)
mean = np.mean(worse)
word = f"are right {'less' if mean > 0 else 'more'} often, by {abs(mean):.1f} points"
evidence.phrase("distillation_comparison.smoothing.outcome", word)
pairs = zip(smooth[smoothing]["spread"], smooth[0.0]["spread"], strict=True)
record("smoothing.variance_ratio", [a / b for a, b in pairs], digits=2)

# %% [markdown]
# **What to see.** The students of smoothed teachers {glue:text}`distillation_comparison.smoothing.outcome` ({verdict}`C2.1-25`).
# Within a class, the wrong logits of a smoothed teacher vary {mean}`distillation_comparison.smoothing.variance_ratio`
# as much, so they {finding}`say less | distillation_comparison.smoothing.variance_ratio < 1` about an image.
#
# (sec-nst)=
# ## Neuron selectivity: where do the channels respond?
#
# **The idea.** Each channel of a convolution responds to some places of an image.
# {cite:t}`huang2017nst` treat the channels' patterns as samples of a distribution, and train the student to match the
# teacher's distribution.
#
# **The formula.** Take the patterns $f_T^i$ of the teacher's $C_T$ channels and $f_S^j$ of the student's $C_S$, each
# scaled to length one, and a kernel $k$.
# The squared *maximum mean discrepancy* is
#
# $$ \mathrm{MMD}^2 = \frac{1}{C_T^2} \sum_{i, i'} k(f_T^i, f_T^{i'}) + \frac{1}{C_S^2} \sum_{j, j'} k(f_S^j, f_S^{j'}) - \frac{2}{C_T C_S} \sum_{i, j} k(f_T^i, f_S^j) . $$ (eq-mmd)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(neuron_selectivity.discrepancy)

# %% [markdown]
# **An exact check.** The order of the channels does not matter, and neither do their strengths.

# %%
maps = torch.rand(2, 6, 4, 4, generator=generator)
mixed = maps.flip(1) * torch.rand(1, 6, 1, 1, generator=generator)
for kernel in ("linear", "polynomial", "gaussian"):
    away = neuron_selectivity.discrepancy(mixed, maps, kernel=kernel)
    assert away.abs().max() < 1e-5

# %% [markdown]
# The comparison of seven losses below tests this method.
# The survey says that this method and the next employ pruning ({verdict}`C2.1-19`).
# Neither their papers nor their code do so.
#
# (sec-darkrank)=
# ## DarkRank: who resembles whom?
#
# **The idea.** For search, the outputs of a network are *embeddings*: samples of one class should lie close together.
# {cite:t}`chen2018darkrank` teach a ranking: for each sample of a batch, which of the others is nearest, which next,
# and so on.
#
# **The formula.** Seen from a query $q$, a candidate $x$ has the score $S(x) = -\alpha \lVert q - x \rVert^\beta$.
# An order $\pi$ of $n$ candidates has the probability
#
# $$ P(\pi) = \prod_{i=1}^n \frac{\exp S(x_{\pi(i)})}{\sum_{k \ge i} \exp S(x_{\pi(k)})} . $$ (eq-orders)
#
# The hard loss is $-\log P$ of the teacher's order.
# The soft loss is the divergence between teacher and student over the probabilities of all orders, which we can afford
# for the four nearest candidates ($4! = 24$ orders).
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(darkrank.log_probability)

# %% [markdown]
# **An exact check.** The probabilities of all orders sum to one.

# %%
from itertools import permutations

marks = torch.randn(4, generator=generator, dtype=torch.float64)
orders = torch.tensor(list(permutations(range(4))))
total = darkrank.log_probability(marks[orders]).exp().sum()
torch.testing.assert_close(total, torch.ones_like(total))

# %% [markdown]
# **An experiment.** The teacher's embedding is the hidden layer of LeNet-5, a digit classifier with two convolutions.
# The student's is the second hidden layer of LeNet-300-100, trained on few labels, with and without DarkRank.
# How similarly do they rank the test images, and how often does the nearest neighbor have the right class?

# %% tags=["hide-input"]
options = {"epochs": gray_epochs, "learning_rate": 0.05, "seed": 0}
lenet5 = cached(training.fit, models.lenet5(0), split=gray.train, **options)
fit = {"split": few_gray.first(ranking_images), "epochs": ranking_epochs}
fit |= {"batch_size": 20, "optimizer": "adam", "learning_rate": 0.003}
parts = ("fc2", "fc1")  # the embeddings of student and teacher
everyone = {"kind": "hard", "candidates": None, "weight": 0.2}  # ranks the whole batch
rankings = {
    "labels": None,
    "soft": darkrank.distiller(lenet5, parts, kind="soft", weight=0.5),
    "hard": darkrank.distiller(lenet5, parts, **everyone),
}
queries = gray.test.first(300)
told = retrieval.embeddings(lenet5, "fc1", queries)
ranked = {}
for name, teaching in rankings.items():
    nets = taught(models.lenet_300_100, teaching, **fit)
    seen = [retrieval.embeddings(net, "fc2", queries) for net in nets]
    ranked[name] = {
        "tau": [retrieval.rank_correlation(e, told) for e in seen],
        "recall": [retrieval.recall_at_1_pct(e, queries.labels) for e in seen],
        "map": [retrieval.mean_average_precision_pct(e, queries.labels) for e in seen],
    }

# %% tags=["remove-input"]
names = {"labels": "labels", "soft": "and DarkRank, soft", "hard": "and DarkRank, hard"}
rows = []
for name, text in names.items():
    found = ranked[name]
    row = {"student learns from": text}
    row["Kendall's τ"] = record(f"darkrank.{name}_tau", found["tau"], unit="", digits=2)
    row["nearest has the class"] = record(
        f"darkrank.{name}_recall_pct", found["recall"], digits=1
    )
    row["mean average precision"] = record(
        f"darkrank.{name}_precision_pct", found["map"], digits=1
    )
    rows.append(row)
figures.table(
    rows,
    caption="Rankings of test images by their embeddings, compared with the teacher's (τ) and with the labels",
)
for kind in ("soft", "hard"):
    more = gains(ranked[kind]["tau"], ranked["labels"]["tau"])
    record(f"darkrank.{kind}_gain_tau", more, unit="", digits=3)

# %% [markdown]
# **What to see.** With the hard loss, the student's ranking comes closer to its teacher's: Kendall's $\tau$, which is 1
# for equal orders and 0 for unrelated ones, {finding}`rises | distillation_comparison.darkrank.hard_gain_tau > 0` by
# {mean}`distillation_comparison.darkrank.hard_gain_tau`.
# The soft loss, which only knows the order of four candidates, changes $\tau$ by
# {mean}`distillation_comparison.darkrank.soft_gain_tau`.
#
# (sec-internal-representations)=
# ## Internal representations: how does the teacher attend?
#
# **The idea.** {cite:t}`aguilar2020internal` make BERT, a transformer for text, shallower.
# Layer by layer, the student copies the attention and the state of a layer of the teacher; only then does it learn the
# answers.
# The survey speaks of models in general, but the paper is about text; here each "text" is a gray image, read row by
# row.
#
# **The formula.** For the attention probabilities $A$ and the state $h$ of the token that carries the class, of teacher
# ($T$) and student ($S$),
#
# $$ L = \frac{1}{\text{heads} \cdot \text{rows}} \sum_{\text{heads}} \sum_{\text{rows}} A^T \log \frac{A^T}{A^S} + 1 - \cos(h^T, h^S) . $$ (eq-internal)
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(internal_representations.attention_loss)

# %% [markdown]
# **An exact check.** A copy of the teacher has nothing to learn.

# %%
attention = torch.rand(2, 4, 5, 5, generator=generator).softmax(-1)
state = torch.randn(2, 8, generator=generator)
assert internal_representations.loss((attention, 3 * state), (attention, state)) < 1e-6

# %% [markdown]
# **An experiment.** The student is a transformer with fewer layers than its teacher.
# It starts from copies of some of the teacher's layers, so much of what the teacher learned from many images is already
# there.
# It then learns from images without labels: from the teacher's answers alone, or layer by layer first, with as many
# epochs in all.

# %% tags=["hide-input"]
deep, shallow = layers
options = {"epochs": transformer_epochs, "seed": 0, "optimizer": "adam"}
options |= {"learning_rate": 0.003, "split": gray.train.first(transformer_images)}
tall = cached(training.fit, row_transformer(layers=deep), **options)


def short(seed):
    return internal_representations.initialized(
        row_transformer(seed, layers=shallow), tall
    )


@torch.no_grad()
def apart(nets):  # the internal losses of students, on test images
    pairs = internal_representations.matched(shallow, deep)
    internal = internal_representations.distiller(tall, pairs)
    images, labels = gray.test.images[:200], gray.test.labels[:200]
    losses = []
    for net in nets:
        with internal.lesson(net, gray.test, augmented=True) as lesson:
            answered = net.eval()(images)
            losses.append(float(lesson(answered, labels, images, torch.arange(200))))
    return losses


whole = 4 * layer_epochs  # epochs on the answers
few_rows = gray.train.first(layer_images)
fit = {"split": few_rows, "optimizer": "adam", "learning_rate": 0.003}
total = {"progressive": shallow, "stacked": shallow, "answers": 0}
inside, far = {}, {"start": apart([short(seed) for seed in range(seeds)])}
for name, stages in total.items():
    inside[name] = [short(seed) for seed in range(seeds)]
    schedule = "stacked" if name == "answers" else name
    teach = partial(
        internal_representations.fit, teacher=tall, schedule=schedule, **fit
    )
    lengths = {"epochs_per_layer": layer_epochs if stages else 0}
    for seed, net in enumerate(inside[name]):
        teach(net, epochs=0, seed=seed, **lengths)
    far[name] = apart(inside[name])  # before the last stage
    last = whole if stages else whole + shallow * layer_epochs
    for seed, net in enumerate(inside[name]):
        teach(net, epochs_per_layer=0, epochs=last, seed=10 + seed)

# %% tags=["remove-input"]
names = {
    "answers": "answers alone",
    "progressive": "layer by layer, then answers",
    "stacked": "layers together, then answers",
}
rows = []
reached = {name: accuracies(nets, gray.test) for name, nets in inside.items()}
for name, text in names.items():
    rows.append(
        {
            "student learns from": text,
            "internal loss before the answers": record(
                f"internal.{name}_loss", far[name], unit="", digits=3
            ),
            "test accuracy": record(
                f"internal.{name}_accuracy_pct", reached[name], digits=1
            ),
        }
    )
figures.table(
    rows, caption=f"Transformers of {shallow} layers with a teacher of {deep}"
)
fall = [100 * (1 - a / b) for a, b in zip(far["stacked"], far["start"], strict=True)]
record("internal.fall_pct", fall, digits=0)
record("internal.teacher_accuracy_pct", accuracies([tall], gray.test), digits=1)
better = gains(reached["stacked"], reached["answers"])
record("internal.gain_points", better, digits=2)
change = np.mean(better)
word = f"{'gains' if change > 0 else 'loses'} {abs(change):.1f} points"
evidence.phrase("distillation_comparison.internal.outcome", word)

# %% [markdown]
# **What to see.** While the layers are taught together, the internal loss
# {finding}`falls | distillation_comparison.internal.fall_pct > 0` by {mean}`distillation_comparison.internal.fall_pct`
# of its value at the start.
# At equal epochs, this {glue:text}`distillation_comparison.internal.outcome` of accuracy compared with the answers
# alone ({verdict}`C2.1-22`).
#
# (sec-kd-svd)=
# ## Singular vectors: how do layers relate?
#
# **The idea.** {cite:t}`lee2018selfsupervised` compress the maps of each teacher layer to their first singular vectors,
# and teach the student how those of one layer relate to those of the next.
# They call this "self-supervised", because the target needs no labels.
#
# **The formula.** The maps of a layer form a matrix of places and channels, $X \approx U \Sigma V^\top$.
# With the weighted right singular vectors $f^l$ of map $l$,
#
# $$ D_{m, n} = \exp\big(-(f^l_m - f^{l+1}_n)^2 / 8\big), \qquad L = \tfrac{1}{2} \lVert D_S - D_T \rVert^2 . $$ (eq-svd)
#
# Where the gradient of this loss is longer than that of the labels' loss, it is cut to the same length.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(singular_vectors.loss)

# %% [markdown]
# **An exact check.** The sign of a singular vector is arbitrary, and so is the scale of a map: neither changes the
# loss.

# %%
one = torch.rand(3, 4, 5, 5, generator=generator, dtype=torch.float64)
two = torch.rand(3, 6, 3, 3, generator=generator, dtype=torch.float64)
assert singular_vectors.loss((5 * one, -two), (one, two)) < 1e-12

# %% [markdown]
# ## One teacher, one student, seven losses
#
# **Equal terms.** The teacher has three convolutions with batch norm and is trained on all color images.
# The student has as many channels, but each of its last two convolutions is split into one per channel and one across
# channels.
# It gets few images.
# All losses use the same networks, the same images and the same order of images.
# The weight and the learning rate of each loss were chosen on validation images.
# In the column "equal epochs" all students train for the same number of epochs.
# In the column "equal time" they train for as many epochs as fit into the time that {term}`soft targets` need.

# %% tags=["hide-input"]
augmented = {"shift": 2, "flip": color_data == "cifar10"}
side, classes = color.train.images.shape[-1], len(color.classes)
options = {"split": color.train, "epochs": color_epochs, "seed": 0} | augmented
options |= {"learning_rate": 0.05}
wide = {"width": teacher_width, "side": side, "classes": classes}
teacher = cached(training.fit, models.cnn(0, **wide), **options)


def student(seed):
    net = models.cnn(500 + seed, **wide)
    parts = OrderedDict(net.named_children())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(500 + seed)
        for name in ("conv2", "conv3"):
            full = parts[name]
            n, m = full.in_channels, full.out_channels
            each = nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False)
            parts[name] = nn.Sequential(each, nn.Conv2d(n, m, 1, bias=False))
    return nn.Sequential(parts)


condition, undo = logit_mimic.conditioning(answers(teacher, color.train.images))
maps = [(f"relu{i}", f"relu{i}") for i in (1, 2, 3)]
ways = {
    "labels": ("labels", "dense", None),
    "soft": (
        "soft targets",
        "kd-soft-targets",
        soft_targets.distiller(teacher, labels_weight=0.1),
    ),
    "mimic": (
        "logits",
        "kd-logit-mimic",
        logit_mimic.distiller(nn.Sequential(teacher, condition).eval()),
    ),
    "nst": (
        "neuron selectivity",
        "kd-nst",
        neuron_selectivity.distiller(teacher, maps[2:], weight=1.0),
    ),
    "nst_soft": (
        "and soft targets",
        "kd-nst",
        neuron_selectivity.distiller(teacher, maps[2:], weight=1.0, soft_weight=1.0),
    ),
    "darkrank": (
        "DarkRank",
        "kd-darkrank",
        darkrank.distiller(teacher, ("relu3", "relu3"), weight=0.1),
    ),
    "svd": ("singular vectors", "kd-svd", singular_vectors.distiller(teacher, maps)),
}
fit = {"split": color.train.first(few), "learning_rate": 0.02, "batch_size": batch_size}
fit |= augmented
rates = {"mimic": {"learning_rate": 0.002}}  # its loss is a sum over classes


def of(name):  # options and teaching of one way
    return fit | {"teaching": ways[name][2]} | rates.get(name, {})


def seconds(name):  # of an epoch
    begin, net = time.perf_counter(), student(0)
    training.fit(net, epochs=1, seed=0, **of(name))
    return time.perf_counter() - begin


costs = {name: min(seconds(name) for _ in range(3)) for name in ways}
lengths = {
    name: max(1, round(race_epochs * costs["soft"] / cost))
    for name, cost in costs.items()
}


def race(epochs):  # way -> students
    found = {}
    for name in ways:
        nets = taught(student, count=race_seeds, epochs=epochs[name], **of(name))
        found[name] = (
            [nn.Sequential(n, undo) for n in nets] if name == "mimic" else nets
        )
    return found


equal_epochs = race(dict.fromkeys(ways, race_epochs))
equal_time = race(lengths)

# %% tags=["remove-input"]
right = {name: accuracies(nets, color.test) for name, nets in equal_epochs.items()}
timed = {name: accuracies(nets, color.test) for name, nets in equal_time.items()}
rows = []
for name, (text, _, _) in ways.items():
    row = {"student learns from": text}
    row["time of an epoch"] = record(
        f"race.{name}_epoch_latency_ratio", costs[name] / costs["labels"], digits=1
    )
    row["equal epochs"] = record(f"race.{name}_accuracy_pct", right[name], digits=1)
    row["equal time"] = record(
        f"race.{name}_timed_accuracy_pct", timed[name], digits=1, timing=True
    )
    rows.append(row)
figures.table(
    rows,
    caption=f"Test accuracy of a student with {few:,} color images, and the time of an epoch compared with labels",
)
record("race.samples", few, exact=True)
record("race.teacher_accuracy_pct", accuracies([teacher], color.test), digits=1)
ratio = measure.parameters(teacher) / measure.parameters(student(0))
record("race.parameters_ratio", ratio, exact=True)
record("race.soft_gain_points", gains(right["soft"], right["labels"]), digits=1)
record("race.svd_gain_points", gains(right["svd"], right["soft"]), digits=1)
record("race.nst_gain_points", gains(right["nst"], right["labels"]), digits=1)
first_of = max(timed, key=lambda name: np.mean(timed[name]))  # not chosen by test
ahead = np.mean(timed[first_of]) - np.mean(timed["soft"])
outcome = (
    "no other loss is better than plain soft targets"
    if first_of == "soft"
    else f"{ways[first_of][0].removeprefix('and ')} reach {ahead:.1f} points more than soft targets"
    if first_of != "nst_soft"
    else f"neuron selectivity with soft targets reaches {ahead:.1f} points more than soft targets alone"
)
evidence.phrase("distillation_comparison.race.outcome", outcome)

# %% tags=["remove-input"]
figure, ax = figures.axes()
order = list(ways)[::-1]
for height, name in enumerate(order):
    look = figures.look(ways[name][1])
    figures.dots(ax, [height + 0.12], [right[name]], look, None, bounds=figures.PERCENT)
    hollow = look | {"markerfacecolor": "none"}
    figures.dots(
        ax, [height - 0.12], [timed[name]], hollow, None, bounds=figures.PERCENT
    )
level = np.mean(right["soft"])
ax.axvline(level, **figures.look("dense") | {"marker": ""})
ax.set_yticks(range(len(order)), [ways[name][0] for name in order])
ax.set(xlabel="test accuracy (%); hollow: at equal time")
means = {name: np.mean(values) for name, values in right.items()}
figures.show(
    figure,
    lead=True,
    finding=f"Labels reach {means['labels']:.0f} %, soft targets {means['soft']:.0f} %; at equal time, {outcome}",
    name="fig-distillation-race",
    caption="Test accuracy of one student taught by seven losses, at equal epochs and at equal time; means over three seeds with 95 % intervals.",
    alt=f"One row for each loss. Labels reach {means['labels']:.0f} %, soft targets {means['soft']:.0f} %, singular vectors {means['svd']:.0f} %, neuron selectivity {means['nst']:.0f} %; at equal time, {outcome}.",
)

# %% [markdown]
# **What to see.** Soft targets {finding}`beat labels | distillation_comparison.race.soft_gain_points > 0` by {mean}`distillation_comparison.race.soft_gain_points`.
# At equal time, {glue:text}`distillation_comparison.race.outcome`.
# An epoch with singular vectors
# {finding}`takes longer than one with soft targets | distillation_comparison.race.svd_epoch_latency_ratio > distillation_comparison.race.soft_epoch_latency_ratio`.
# The survey says that singular vectors improve transfer learning; we judge this against soft targets
# ({verdict}`C2.1-23`).
#
# ## Together with pruning
#
# **An experiment.** After pruning {cite:p}`han2015learning`, the dense network can teach the pruned one, so a teacher
# is already there.
# We retrain a pruned network with few labels, or with the dense network as its teacher.

# %%
dense = models.lenet_300_100(0)
training.fit(dense, gray.train, epochs=3 * gray_epochs, learning_rate=0.05, seed=0)
cut = magnitude.prune(copy.deepcopy(dense), density=density)
fit = {"epochs": tune_epochs, "learning_rate": 0.02, "batch_size": 32}
pruned = {"labels": [], "soft": []}
for seed in range(seeds):
    part = Split(
        unlabeled.images.roll(seed * labeled, 0)[:labeled],
        unlabeled.labels.roll(seed * labeled, 0)[:labeled],
    )
    for name, teaching in (("labels", None), ("soft", soft_targets.distiller(dense))):
        net = copy.deepcopy(cut)
        training.fit(net, part, seed=seed, teaching=teaching, **fit)
        pruned[name] += accuracies([net], gray.test)

# %% tags=["remove-input"]
rows = [
    {
        "network": "dense",
        "test accuracy": record(
            "pruning.dense_accuracy_pct", accuracies([dense], gray.test), digits=1
        ),
    },
    {
        "network": "pruned",
        "test accuracy": record(
            "pruning.cut_accuracy_pct", accuracies([cut], gray.test), digits=1
        ),
    },
    {
        "network": "retrained with labels",
        "test accuracy": record(
            "pruning.labels_accuracy_pct", pruned["labels"], digits=1
        ),
    },
    {
        "network": "retrained by the dense network",
        "test accuracy": record("pruning.soft_accuracy_pct", pruned["soft"], digits=1),
    },
]
figures.table(
    rows,
    caption=f"LeNet-300-100 with {100 * density:g} % of its weights, and {labeled:,} images to retrain on",
)
record("pruning.gain_points", gains(pruned["soft"], pruned["labels"]), digits=2)

# %% [markdown]
# **What to see.** The pruned network {finding}`learns more | distillation_comparison.pruning.gain_points > 0` from the
# dense network than from the labels of the same images: the difference is
# {mean}`distillation_comparison.pruning.gain_points`.
#
# ## Where it breaks: a class for each pixel
#
# The survey warns that tasks like segmentation are difficult to distill ({verdict}`C2.1-24`).
# Here the students give a class to each pixel of a street scene, or of a digit.
# Their score is the intersection over the union, averaged over the classes (mIoU).

# %% tags=["hide-input"]
VOID = -100  # pixels of no class: cross-entropy leaves them out


def scenes(split):
    images, classes = split.images, split.labels
    if classes.dim() == 1:  # a digit: its ink has its class, all else another one
        ink = images[:, 0] > 0.5
        classes = torch.where(ink, classes[:, None, None], 10)
        return Split(images, classes)
    small = nn.functional.avg_pool2d(images, 3)
    return Split(small, torch.where(classes == 11, VOID, classes)[:, 1::3, 1::3])


def segmenter(seed, width):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(700 + seed)
        return nn.Sequential(
            nn.Conv2d(views.train.images.shape[1], width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=2, dilation=2),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, kinds, 1),
            nn.Upsample(size=views.train.images.shape[2:], mode="bilinear"),
        )


def overlap(net, split):  # mIoU in percent
    chosen, true = answers(net, split.images, batch_size=50).argmax(1), split.labels
    chosen = torch.where(true == VOID, VOID, chosen)
    shares = []
    for kind in range(kinds):
        both = ((chosen == kind) & (true == kind)).sum()
        either = ((chosen == kind) | (true == kind)).sum()
        if either:
            shares.append(float(both / either))
    return 100 * float(np.mean(shares))


del color  # its images leave the memory
views = datasets.load(scene_data, first=scene_first)
kinds = 11
evidence.uses(views)
views = datasets.Dataset(
    views.name,
    views.source,
    *map(scenes, (views.train, views.validation, views.test)),
    views.classes,
)

# %%
fit = {
    "split": views.train,
    "batch_size": 8,
    "optimizer": "adam",
    "learning_rate": 0.005,
}
big = segmenter(0, scene_width)
training.fit(big, epochs=2 * scene_epochs, seed=0, **fit)
lean = partial(segmenter, width=scene_width // 2)
by = soft_targets.distiller(big, temperature=2.0, labels_weight=0.0)
plain = taught(lean, None, epochs=scene_epochs, **fit)
pupils = taught(lean, by, epochs=scene_epochs, **fit)

# %% tags=["remove-input"]
scores = {
    name: [overlap(net, views.test) for net in nets]
    for name, nets in (("labels", plain), ("teacher", pupils))
}
rows = [
    {
        "network": "teacher",
        "mIoU": record("scenes.big_pct", overlap(big, views.test), digits=1),
    },
    {
        "network": "student, labels",
        "mIoU": record("scenes.labels_pct", scores["labels"], digits=1),
    },
    {
        "network": "student, teacher",
        "mIoU": record("scenes.teacher_pct", scores["teacher"], digits=1),
    },
]
figures.table(
    rows,
    caption=f"A class for each pixel, {scene_data}: {len(views.train)} training images",
)
gap = record("scenes.gain_points", gains(scores["teacher"], scores["labels"]), digits=1)
sign = np.mean(scores["teacher"]) - np.mean(scores["labels"])
evidence.phrase(
    "distillation_comparison.scenes.outcome",
    f"{'gains' if sign > 0 else 'loses'} {abs(sign):.1f} points",
)

# %% [markdown]
# With its teacher's answers instead of labels, the student {glue:text}`distillation_comparison.scenes.outcome`.
# In the comparison above, where each image has one class, soft targets add
# {mean}`distillation_comparison.race.soft_gain_points`.
#
# ## Exercises
#
# 1. Does it matter whether an ensemble's probabilities or its logits are averaged?

# %% tags=["hide-cell"]
means = {
    kind: ensemble.Ensemble(group, mean=kind) for kind in ("arithmetic", "geometric")
}
right_here = {
    kind: accuracies([crowd], gray.validation)[0] for kind, crowd in means.items()
}
evidence.answer(
    f"Hardly: the last ensemble is right on {right_here['arithmetic']:.1f} % of the validation images with the mean of probabilities, and on {right_here['geometric']:.1f} % with the mean of logits."
)

# %% [markdown]
# 2. How smooth are the answers of a teacher that was trained on hard labels, at $T = 1$ and at $T = 4$?

# %% tags=["hide-cell"]
gammas = [
    label_smoothing.equivalent_smoothing(lenet5, gray.validation, temperature=t)
    for t in (1.0, 4.0)
]
evidence.answer(
    f"As smooth as labels with a share of {100 * gammas[0]:.1f} % spread over the classes at T = 1, and of {100 * gammas[1]:.0f} % at T = 4."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 2.1
# ```
#
# ## In short
#
# - Plain soft targets are the baseline to beat, and they cost little time.
# - A teacher with smoothed labels says less about the wrong classes.
# - Copying internal layers changes the inside of the student, but does not always make it more accurate.
#
# ## Sources of this chapter
#
# - {cite:t}`hinton2015distilling` has ensembles, {cite:t}`muller2019when` label smoothing, {cite:t}`huang2017nst`
#   neuron selectivity, and {cite:t}`chen2018darkrank` rankings.
# - {cite:t}`aguilar2020internal` has internal representations, {cite:t}`lee2018selfsupervised` singular vectors, and
#   {cite:t}`ba2014deep` logits.
# - {cite:t}`han2015learning` is the pruning that is combined here, {cite:t}`berthelier2020survey` is the survey.
