# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-learned)=
# # Learned pruning: discrimination-aware, adversarial (GAL), at run time
#
# Can a network learn what to prune: from extra classifiers, from an opponent, or with a second network that decides for
# each image?
# With half of its channels gone, a small digit classifier has {mean}`pruning_learned.dcp.both_error_pct 0` error if
# extra classifiers take part in the choice, and {mean}`pruning_learned.dcp.random_error_pct 0` after a random choice.
# At this cut the extra classifiers are {glue:text}`pruning_learned.dcp.word` than rebuilding the next layer alone.
# Masks trained against an opponent leave {mean}`pruning_learned.gal.parameters_kept_pct 0` of the parameters of a
# residual network.
# The network that decides for each image removes none, and it {glue:text}`pruning_learned.runtime.opening` which images
# are hard.
#
# ```{claims} pruning_learned
# ```
#
# ```{cost} pruning_learned
# ```

# %% tags=["parameters"]
data = "digits"  # data set: digits, mnist, or the path of an image folder
samples = 1200  # training images at most
tested = 2000  # validation and test images at most, each
pooled = 2  # images are averaged over squares of this many pixels a side
seeds = 3  # networks of each kind, trained from different starts
width = 8  # channels of the first layer
epochs = 8  # to train a small network, and again under random actions
learning_rate = (
    0.1  # of the small networks; where it is too large, some of them do not learn
)
fractions = [0.5, 0.75]  # shares of channels removed
chosen_by = 200  # training images by which channels are chosen, at most
portion = 8  # channels that enter at once; the paper takes them one by one
steps = 2  # steps of gradient descent after each portion
finetune_epochs = 2  # to retrain after half of the channels are gone
residual = "resnet8"  # the residual network: resnet8 or resnet20
residual_epochs = 5  # to train it
mask_images = 256  # unlabeled images from which the masks are learned
mask_epochs = 12  # to learn them
mask_finetune_epochs = 4  # to retrain after the removal
sparsities = [0.008, 0.01]  # penalties on the masks
penalties = [0.01, 0.03]  # prices of one more group of channels
turns = 2  # how often the recurrent network and the one it steers learn in turn
turn_epochs = 1  # to train the steered network in each turn
decision_rounds = 3  # rounds of episodes for the recurrent network in each turn
decision_updates = 30  # steps of Q-learning in each round

# %% tags=["hide-input"]
import copy
import itertools
from math import ceil, exp, log

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from lib import datasets, evidence, figures, measure, models, structure, training
from lib.cache import cached, trained
from lib.datasets import Split
from lib.pruning import adversarial, discrimination_aware, runtime

dataset = datasets.load(data)
record = evidence.recorder("pruning_learned", dataset)


def small(split, n=None):
    some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:n]
    return Split(
        nn.functional.avg_pool2d(split.images[some], pooled), split.labels[some]
    )


train = small(dataset.train, samples)
validation, test = small(dataset.validation, tested), small(dataset.test, tested)
one = train.images[:1]
channels, classes = one.shape[1], len(dataset.classes)
shape = tuple(one.shape[1:])


# %% [markdown]
# ## The small network
#
# Two of the three methods prune a small digit classifier: a chain of three convolutions and one linear layer, trained
# from several random starts.
# All of these networks have learned: none has an error above {mean}`pruning_learned.small.worst_error_pct`.


# %%
def convolutions(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, inputs = [], channels
        for outputs in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            inputs = outputs
        places = (one.shape[2] // 8) * (one.shape[3] // 8)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * places, classes))


options = {"split": train, "learning_rate": learning_rate, "batch_size": 64}
dense = trained(training.fit, convolutions, range(seeds), epochs=epochs, **options)
baseline = [training.error_pct(model, test) for model in dense]
record("small.baseline_error_pct", baseline)
record("small.worst_error_pct", max(baseline))

# %% [markdown]
# (sec-discrimination-aware)=
# ## Discrimination-aware: channels that tell the classes apart
#
# **The idea.** A {term}`channel` is worth keeping if the next layer can rebuild its output from it, *and* if it helps to tell
# the classes apart.
# For the second purpose, extra classifiers are attached to layers in the middle of the network {cite:p}`zhuang2018dcp`.
#
# **The formula.** Let $O$, with $Q$ values, be the output of the layers that read the channels, and $\hat O$ the same
# output after pruning.
# The loss of these layers' weights $W$ is
#
# $$ L(W) = \frac{1}{2Q}\lVert O - \hat O\rVert_F^2 + \lambda\, L_S(W), $$ (eq-discrimination)
#
# where $L_S$ is the {term}`cross-entropy` of the next extra classifier, and $\lambda$ its weight.
# The set $A$ of channels that stay begins empty, and the weights of all channels outside it are zero.
# The channel with the largest $\lVert \partial L / \partial W_k \rVert_F$ enters the set, a few steps of gradient
# descent follow, and so on.
# The fitted weights stay in the network when the channels of the next layer are chosen.
# Before the channels in front of an extra classifier are chosen, the network is tuned briefly on that classifier's {term}`loss`
# and on its own.
#
# **The code.** This is the greedy choice; several channels may enter at once, which makes it affordable:

# %% tags=["remove-input"]
figures.show_source(discrimination_aware.greedy)

# %% [markdown]
# **An exact check.** With $\lambda = 0$ and an exact fit in place of the few steps, this is orthogonal matching
# pursuit, channel by channel.
# The residual must then be orthogonal to every channel chosen so far, and shrink with each choice:

# %%
generator = torch.Generator().manual_seed(0)
x, w = (torch.randn(n, 6, generator=generator).double() for n in (50, 2))
output, numbers = x @ w.T, torch.arange(6).expand(2, 6)


def loss(weights):
    return (output - x @ weights["layer"].T).square().mean() / 2


def exact(weights, inside):
    chosen, fitted = inside["layer"][0].bool(), torch.zeros_like(w)
    fitted[:, chosen] = torch.linalg.lstsq(x[:, chosen], output).solution.T
    return {"layer": fitted}


order, fits = discrimination_aware.greedy(loss, {"layer": w}, {"layer": numbers}, exact)
left = [output - x @ fit["layer"].T for fit in fits]
assert all((x[:, order[: i + 1]].T @ r).abs().max() < 1e-9 for i, r in enumerate(left))
assert all(
    after <= before + 1e-12 for before, after in itertools.pairwise(map(loss, fits))
)

# %% [markdown]
# **The experiment.** We remove channels from the small network by four choices: at random, by the rebuilt output alone
# ($\lambda = 0$), by the extra classifiers alone, and by both.
# All four get the same tuning before the choice and the same steps for the weights that stay.
# At first nothing is retrained after the choice.
# Then each network is retrained briefly, and the dense one is trained on for as many epochs with the same options.

# %% tags=["hide-input"]
choices = {
    "random": {"choose": "random"},
    "rebuilding": {"discrimination": 0.0},
    "classes": {"reconstruction": 0.0},
    "both": {},
}
seen = Split(train.images[:chosen_by], train.labels[:chosen_by])


def cut(model, seed, fraction, choice):
    model = copy.deepcopy(model)
    masks = discrimination_aware.select(
        model,
        seen,
        fraction=fraction,
        portion=portion,
        steps=steps,
        seed=seed,
        **choices[choice],
    )
    return structure.shrink(model, masks, one).eval()


def tuned(model, seed):
    rate = options | {"learning_rate": options["learning_rate"] / 4}
    training.fit(model, epochs=finetune_epochs, seed=seed, **rate)
    return training.error_pct(model, test)


# %%
half = min(range(len(fractions)), key=lambda i: abs(fractions[i] - 0.5))
errors, finetuned = {}, {}
for choice in choices:
    pruned = [
        [cut(model, seed, fraction, choice) for seed, model in enumerate(dense)]
        for fraction in fractions
    ]
    errors[choice] = np.array(
        [[training.error_pct(model, test) for model in row] for row in pruned]
    )
    halved = pruned[half]
    finetuned[choice] = [tuned(model, seed) for seed, model in enumerate(halved)]
trained_on = [tuned(copy.deepcopy(model), seed) for seed, model in enumerate(dense)]

# %% tags=["remove-input"]
figure, ax = figures.axes()
names = ["at random", "rebuilding alone", "classes alone", "both"]
looks = [
    figures.look("random"),
    figures.look("prune-thinet"),
    figures.look("prune-gal"),
    figures.look("prune-dcp"),
]
for i, (values, name, look) in enumerate(
    zip(errors.values(), names, looks, strict=True)
):
    places = [
        100 * f + i - 1.5 for f in fractions
    ]  # side by side: no bar hides another
    figures.line(ax, places, values.tolist(), look, name, bounds=figures.PERCENT)
ax.set(xlabel="channels removed from every layer (%)", ylabel="test error (%)")
ax.set_xticks([100 * f for f in fractions])
ax.set_ylim(0, 100)
figures.legend(ax)
means = [float(values[half].mean()) for values in errors.values()]
gone_pct = f"{100 * fractions[half]:.0f}"
spread = "95 % intervals" if seeds >= evidence.FEW else "a small dot for each network"
figures.show(
    figure,
    lead=True,
    finding=f"Without {gone_pct}\u00a0% of the channels: {means[0]:.0f}\u00a0% error with a random choice, {means[1]:.0f}\u00a0% rebuilding, {means[3]:.0f}\u00a0% with classes too",
    name="fig-discrimination",
    caption=f"Test error after removing channels, without retraining afterwards: means over seeds with {spread}.",
    alt=f"Four curves of test error against channels removed. With {gone_pct} % gone the error is {means[0]:.0f} % for a random choice, "
    f"{means[1]:.0f} % for rebuilding alone, {means[2]:.0f} % for the classes alone and {means[3]:.0f} % for both.",
)

# %% tags=["remove-input"]
figures.table(
    [
        {
            "choice": name,
            "not retrained": f"{values[half].mean():.1f}",
            "retrained": f"{np.mean(finetuned[choice]):.1f}",
        }
        for name, (choice, values) in zip(names, errors.items(), strict=True)
    ],
    caption=f"Test error (%) without {gone_pct} % of the channels, means over seeds; the dense networks have {np.mean(baseline):.1f} %, and trained on for as long as the retraining {np.mean(trained_on):.1f} %",
)

# %% tags=["remove-cell"]
for choice, values in errors.items():
    record(f"dcp.{choice}_error_pct", values[half], digits=1)
    record(f"dcp.{choice}_finetuned_error_pct", finetuned[choice], digits=1)
record("small.trained_on_error_pct", trained_on, digits=1)
record("dcp.removed_pct", 100 * fractions[half], digits=0, exact=True)
share = measure.parameters(halved[0]) / measure.parameters(dense[0])
record("dcp.parameters_kept_pct", 100 * share, digits=0, exact=True)
gain, half_width = evidence.interval(
    (errors["rebuilding"][half] - errors["both"][half]).tolist()
)
word = "better" if gain > half_width else "worse" if -gain > half_width else "no better"
evidence.phrase("pruning_learned.dcp.word", word)


def apart(table):
    means = [float(np.mean(values)) for values in table.values()]
    return max(means) - min(means)


spreads = [apart({c: v[half] for c, v in errors.items()}), apart(finetuned)]
closer = "closer together" if spreads[1] < spreads[0] else "no closer together"
evidence.phrase("pruning_learned.dcp.closer", closer)

# %% [markdown]
# **What to see.** In the table, choosing by the rebuilt output alone leaves an error of
# {mean}`pruning_learned.dcp.rebuilding_error_pct`, and a random choice {mean}`pruning_learned.dcp.random_error_pct`.
# With the extra classifiers as well, the error is {mean}`pruning_learned.dcp.both_error_pct`, which is
# {glue:text}`pruning_learned.dcp.word`.
# Retraining brings the choices {glue:text}`pruning_learned.dcp.closer`.
# The error of the choice by both is then {mean}`pruning_learned.dcp.both_finetuned_error_pct`; the dense networks
# trained on for as long have {mean}`pruning_learned.small.trained_on_error_pct`.
# In the paper, the loss on the classes helps before any retraining.
# With 30 % of the channels gone, {cite:t}`zhuang2018dcp` have 12.2 % error without that loss and 7.8 % with it.
# The survey says that such losses find the most useful channels: {verdict}`C2.3-30`.
#
# (sec-adversarial)=
# ## Adversarial (GAL): masks that fool an opponent
#
# **The idea.** Give every channel a factor that starts at one, and push all factors toward zero while the network
# learns to give the same outputs as before.
# Useless factors reach zero, and whatever they multiply can be removed.
# A factor may sit on a channel, on one of two branches that are added, or on a whole block that a shortcut bypasses
# {cite:p}`lin2019gal`.
# No label is needed, because the trained network supplies the outputs to imitate.
# An opponent, the *discriminator*, learns to tell these outputs from those of the masked copy.
#
# **The formula.** The masked copy $f_g$ of the trained network $f_b$, with its factors $m$, plays against the
# discriminator $D$:
#
# $$
# \begin{aligned}
# \min_{W,m}\,\max_D\;\; & \mathbb E\log D(f_b) + \mathbb E\log\big(1-D(f_g)\big) \\
# & + \frac{\mu}{2n}\sum\lVert f_b-f_g\rVert^2 + \lambda\lVert m\rVert_1.
# \end{aligned}
# $$ (eq-adversarial)
#
# The penalty $\lambda$ sets how much is removed.
#
# **The code.** The factors take steps of FISTA, an accelerated gradient method that can set them to exactly zero:

# %% tags=["remove-input"]
figures.show_source(adversarial.Fista.step)

# %% [markdown]
# **An exact check.** A block whose factor is zero passes its input through.
# The network without the block must then give the same outputs, bit for bit, with fewer parameters:

# %%
net = getattr(models, residual)(channels=channels, classes=classes, width=width).eval()
block = next(names[0] for names in adversarial.summands(net) if len(names) == 1)
masked = copy.deepcopy(net)
masked.load_state_dict(
    adversarial.weights(net, [], [], {block: torch.tensor(0.0)}), strict=False
)
smaller = adversarial.without(net, [block])
assert torch.equal(masked(test.images[:50]), smaller(test.images[:50]))
assert measure.parameters(smaller) < measure.parameters(net)

# %% [markdown]
# **The experiment.** We train residual networks from several random starts and put factors on all channels, branches
# and blocks, with several penalties.
# Everything whose factor is zero is removed, and the rest is retrained briefly.
# The whole network is trained on for {glue:text}`pruning_learned.gal.more_epochs` epochs with the same options, so it
# sees as many images as learning the {term}`masks <mask>` and retraining take together.
# The {term}`validation` images decide which penalty we report.

# %%
fit = {"split": train, "learning_rate": 0.1, "batch_size": 64}
sizes = {"channels": channels, "classes": classes, "width": width}
whole = trained(
    training.fit,
    lambda seed: getattr(models, residual)(seed, **sizes),
    range(seeds),
    epochs=residual_epochs,
    **fit,
)
sums = adversarial.summands(net)
budget = {"parts": list(itertools.chain(*sums))}
budget |= {"epochs": mask_epochs, "batch_size": 32}
learned, smaller, before = ({price: [] for price in sparsities} for _ in range(3))
for price, seed in itertools.product(sparsities, range(seeds)):
    masks = adversarial.learn_masks(
        whole[seed], train.images[:mask_images], seed=seed, sparsity=price, **budget
    )
    cut_out = masks.removed(one).eval()
    before[price].append(training.error_pct(cut_out, test))
    training.fit(cut_out, epochs=mask_finetune_epochs, seed=seed, **fit)
    learned[price].append(masks)
    smaller[price].append(cut_out)
more_epochs = mask_finetune_epochs + ceil(mask_epochs * mask_images / len(train))
on = [
    cached(training.fit, copy.deepcopy(model), epochs=more_epochs, seed=seed, **fit)
    for seed, model in enumerate(whole)
]

# %% tags=["remove-input"]
kinds = {"branches": [n for ns in sums if len(ns) > 1 for n in ns]}
kinds["blocks"] = [ns[0] for ns in sums if len(ns) == 1]


def gone(masks):  # how many factors of each kind are zero
    channels = sum(int((m == 0).sum()) for m in masks.channels)
    parts = {
        k: sum(int(masks.parts[n] == 0) for n in names) for k, names in kinds.items()
    }
    return {"channels": channels, **parts}


def mean(values):
    return sum(values) / len(values)


def errors_of(networks, split=test):
    return [training.error_pct(network, split) for network in networks]


columns = {"whole network": (whole, None, None), "trained on": (on, None, None)}
columns |= {f"λ = {p:g}": (smaller[p], learned[p], before[p]) for p in sparsities}
counts = {
    name: [gone(m) for m in masks]
    for name, (_, masks, _) in columns.items()
    if masks is not None
}
rows = []
for kind in ("channels", *kinds):
    rows.append({"": f"{kind} removed"} | dict.fromkeys(columns, "0"))
    rows[-1] |= {n: f"{mean([g[kind] for g in gs]):.1f}" for n, gs in counts.items()}
lines = {
    "parameters": lambda ms, _: f"{mean([measure.parameters(m) for m in ms]):,.0f}",
    "multiply-adds": lambda ms, _: (
        f"{mean([measure.multiply_adds(m, shape) for m in ms]):,.0f}"
    ),
    "error, not retrained (%)": lambda _, w: "-" if w is None else f"{mean(w):.1f}",
    "error (%)": lambda ms, _: f"{mean(errors_of(ms)):.1f}",
}
for line, cell in lines.items():
    row = {name: cell(models_, w) for name, (models_, _, w) in columns.items()}
    rows.append({"": line} | row)
network_name = residual.replace("resnet", "ResNet-")
figures.table(
    rows,
    caption=f"What the masks remove from a {network_name}, by the penalty λ; means over {seeds} networks",
)

# %% tags=["remove-cell"]
limit = mean(errors_of(on, validation)) + 1.5  # the choice: on validation images alone
some = [p for p in sparsities if all(any(gone(m).values()) for m in learned[p])]
good = [p for p in some if mean(errors_of(smaller[p], validation)) <= limit]
best = max(good, default=min(some, default=max(sparsities)))
with torch.no_grad():
    pair = learned[best][0].removed(one).eval(), learned[best][0].folded().eval()
    assert (pair[0](test.images) - pair[1](test.images)).abs().max() < 1e-3
chosen = [gone(masks) for masks in learned[best]]
record("gal.more_epochs", more_epochs, exact=True)
evidence.phrase("pruning_learned.gal.sparsity", f"{best:g}")
record("gal.baseline_error_pct", errors_of(whole))
record("gal.trained_on_error_pct", errors_of(on))
record("gal.unretrained_error_pct", before[best])
record("gal.error_pct", errors_of(smaller[best]))
kept = [
    100 * measure.parameters(small_one) / measure.parameters(large)
    for small_one, large in zip(smaller[best], whole, strict=True)
]
record("gal.parameters_kept_pct", kept, digits=0)
for kind in ("channels", *kinds):
    record(f"gal.removed_{kind}", [count[kind] for count in chosen], digits=1)
    lose = [100 * (count[kind] > 0) for count in chosen]  # some, or none
    record(f"gal.lost_{kind}_pct", lose, digits=0)
record("gal.blocks", len(kinds["blocks"]), exact=True)
spared = [kind for kind in chosen[0] if not any(count[kind] for count in chosen)]
lost = [kind for kind in chosen[0] if kind not in spared]
words = " and ".join(filter(None, [", ".join(lost[:-1]), *lost[-1:]])) or "nothing"
words += f", but no {' and no '.join(spared)}" if spared else ""
evidence.phrase("pruning_learned.gal.lost", words)
gain, half_width = evidence.interval(
    [b - a for b, a in zip(before[best], errors_of(smaller[best]), strict=True)]
)
needed = "is necessary" if gain > 1 else "changes little"
evidence.phrase("pruning_learned.gal.needed", needed)

# %% tags=["remove-input"]
figure, axes = figures.axes(len(sparsities), sharex=True, sharey=True)
figure.set_size_inches(6.0, 4.0)
first = {price: learned[price][0] for price in sparsities}  # of the first network
groups = first[sparsities[0]].groups
names = [group.producers[-1].replace("stage", "") for group in groups]
for ax, (price, masks) in zip(np.atleast_1d(axes), first.items(), strict=True):
    for i, m in enumerate(masks.channels):
        ax.plot(m, [i] * len(m), "|", color=figures.look("prune-gal")["color"])
        ax.plot(float(m.mean()), i, "D", color=figures.look("dense")["color"])
    ax.set(yticks=range(len(names)), yticklabels=names)
    ax.set_title(f"λ = {price:g}", fontsize=11)
    ax.set_xlabel("factor")
ax.invert_yaxis()
means = {p: float(torch.cat(masks.channels).mean()) for p, masks in first.items()}
zero = {p: gone(masks)["channels"] for p, masks in first.items()}
everything = sum(group.channels for group in groups)
largest = max(sparsities)
figures.show(
    figure,
    finding=f"The largest penalty takes {zero[largest]} of {everything} channel factors to exactly zero",
    name="fig-masks",
    caption="Learned factors of the channels of the first network, layer by layer: a tick for each channel, a diamond for their mean.",
    alt="Rows of ticks, one row for each layer. "
    + "; ".join(
        f"with a penalty of {p:g} the mean factor is {means[p]:.2f} and {zero[p]} of {everything} are exactly zero"
        for p in sparsities
    )
    + ".",
)

# %% [markdown]
# **What to see.** The masks remove {glue:text}`pruning_learned.gal.lost`, and leave
# {mean}`pruning_learned.gal.parameters_kept_pct 0` of the parameters.
# Retraining {glue:text}`pruning_learned.gal.needed`: the error is {mean}`pruning_learned.gal.unretrained_error_pct`
# just after the removal and {mean}`pruning_learned.gal.error_pct` after retraining.
# The whole network, trained on for as long, has {mean}`pruning_learned.gal.trained_on_error_pct`.
# The penalty is {glue:text}`pruning_learned.gal.sparsity`.
# It is the largest with which the mean validation error stays within one and a half points of that of the whole network
# trained on.
# If no penalty does that, we take the smallest that removes something from every network.
# In {cite:t}`lin2019gal`, ResNet-56 has 7.0 % error with nine tenths of its parameters, and 6.7 % with all of them.
# The survey says that filters, branches and blocks are removed: {verdict}`C2.3-32`.
# A block can go as a whole only if a plain shortcut bypasses it; the number of such blocks here is
# {mean}`pruning_learned.gal.blocks`.
#
# (sec-runtime)=
# ## Run-time pruning: a decision for every image
#
# **The idea.** An easy image needs less of a network than a hard one.
# The channels of each convolution form four groups, and a small recurrent network, the *{term}`controller`*, decides how many
# of them are computed.
# It does so layer by layer and image by image {cite:p}`lin2017rnp`.
#
# **The formula.** The action $a_i$ in layer $i$ computes groups $1, \dots, a_i$.
# The reward $r_i$ charges $p$ for each further group, and the cross-entropy $L_{cls}$ after the last layer.
# The value $Q$ of an action adds up the rewards that follow:
#
# $$ r_i = -p\,(a_i - 1) - [i = \text{last}]\; L_{cls}, \qquad Q(s_i, a_i) \leftarrow r_i + \max_a Q(s_{i+1}, a). $$ (eq-runtime)
#
# The state $s_i$, which the controller sees, is the mean of every map that the layer reads.
#
# **The code.** One function runs a convolution that computes only the requested groups; the other gives the values from
# which decisions are learned:

# %% tags=["remove-input"]
figures.show_source(runtime.Grouped.forward, runtime.targets)

# %% [markdown]
# **An exact check.** With all groups, the network must be the dense one; with fewer, it must compute the first channels
# of each layer and no others:

# %%
network = runtime.RuntimeNetwork(dense[0], one)
network.forced = torch.tensor([4, 4, 4])
assert torch.equal(network(test.images), dense[0](test.images))
full = measure.multiply_adds(dense[0], shape)
assert network.multiply_adds(network.actions[:1]) == full
network.forced = torch.tensor([2, 4, 4])
first = network.network[0](test.images)
part = width // 2
assert torch.allclose(first[:, :part], dense[0][0](test.images)[:, :part], atol=1e-6)
assert (first[:, part:] == 0).all()

# %% [markdown]
# **The experiment.** The small networks are first trained with random actions, so that the first groups can do without
# the rest.
# Then the controller and the network that it steers learn in turn, the network under the controller's decisions.
# We repeat this for several prices $p$ of a group.
# We compare it with two rivals.
# One computes the same number of groups for every image.
# The other gets the controller's *own decisions, given to other images*: in each layer they are shuffled.
# It does exactly the same work, and only the match between image and decision is lost.


# %% tags=["hide-input"]
def nested(seed, epochs=epochs):
    network = runtime.RuntimeNetwork(dense[seed], one, seed=seed)
    return cached(runtime.nest, network, epochs=epochs, seed=seed, **options)


def dealt(network, actions, times=5):
    generator, wrong = torch.Generator().manual_seed(0), []
    for _ in range(times):
        shuffled = [
            taken[torch.randperm(len(taken), generator=generator)]
            for taken in actions.T
        ]
        network.forced = torch.stack(shuffled, dim=1)
        wrong.append(training.error_pct(network, test, batch_size=len(test)))
    network.forced = None
    return sum(wrong) / times


# %%
with torch.no_grad():  # how hard an image is: the loss of the dense network
    loss = nn.CrossEntropyLoss(reduction="none")
    hard = [loss(model(test.images), test.labels) for model in dense]
budget = {"turns": turns, "rounds": decision_rounds, "updates": decision_updates}
budget |= options | {"learning_rate": options["learning_rate"] / 2}
del budget["split"]
results, networks = np.zeros((4, len(penalties), seeds)), {}
for (i, penalty), seed in itertools.product(enumerate(penalties), range(seeds)):
    network = runtime.alternate(
        nested(seed), train, penalty=penalty, epochs=turn_epochs, seed=seed, **budget
    )
    wrong = training.error_pct(network, test, batch_size=len(test))
    actions, networks[i, seed] = network.actions, network
    spent = network.multiply_adds(actions).double()
    share = 100 * (float(spent.mean()) + network.overhead()) / full
    rank = spearmanr(spent, hard[seed])[0] if spent.std() > 0 else 0.0
    results[:, i, seed] = share, wrong, dealt(network, actions), rank

# %%
alike = np.zeros((4, seeds))
for groups, seed in itertools.product(range(4), range(seeds)):
    network = nested(
        seed, epochs + turns * turn_epochs
    )  # trained as long as the others
    network.forced = torch.full((3,), groups + 1)
    alike[groups, seed] = training.error_pct(network, test)
prices = [
    100 * int(network.multiply_adds(torch.full((1, 3), n + 1))) / full for n in range(4)
]

# %% tags=["remove-cell"]
middle = len(penalties) // 2
worth, half_width = evidence.interval(
    (results[2, middle] - results[1, middle]).tolist()
)
learns = worth > half_width

# %% tags=["remove-input"]
figure, ax = figures.axes()
figures.line(
    ax,
    prices,
    alike.tolist(),
    figures.look("dense"),
    "the same groups for all images",
    bounds=figures.PERCENT,
)
spent = results[0].mean(axis=1)
for values, look, move, name in (
    (results[2], figures.look("random"), -0.5, "decisions given to other images"),
    (results[1], figures.look("prune-runtime-rnn"), 0.5, "decided image by image"),
):
    look = look | {"linestyle": "none"}
    figures.line(ax, spent + move, values.tolist(), look, name, bounds=figures.PERCENT)
ax.set(xlabel="multiply-adds (% of the dense network)", ylabel="test error (%)")
ax.set_ylim(0, 100)
figures.legend(ax, columns=1)
figures.show(
    figure,
    finding=f"Giving the decisions to other images changes the error by {abs(worth):.1f} points"
    + ("" if learns else ": no clear difference"),
    name="fig-runtime",
    caption=f"Test error against the mean multiply-adds of an image, the recurrent network's own included: means over seeds with {spread}.",
    alt=f"Test error against multiply-adds. At a price of {penalties[middle]:g}, with {spent[middle]:.0f} % of them, the learned decisions have {results[1, middle].mean():.1f} % error, "
    f"and {results[2, middle].mean():.1f} % when given to other images; all groups for every image have {alike[3].mean():.1f} %.",
)

# %% tags=["remove-cell"]
record("runtime.multiply_adds_kept_pct", results[0, middle], digits=0)
record("runtime.error_pct", results[1, middle])
record("runtime.dealt_error_pct", results[2, middle])
record("runtime.matched_points", results[2, middle] - results[1, middle])
record("runtime.rank_correlation", results[3, middle], digits=2)
record("runtime.all_groups_error_pct", alike[3])
network, part = networks[middle, 0], measure.parameters(dense[0]) / 100
own = measure.parameters(network.network)
record("runtime.network_parameters_kept_pct", own / part, digits=0, exact=True)
total = measure.parameters(network) / part
record("runtime.parameters_kept_pct", total, digits=0, exact=True)
record("runtime.overhead_pct", 100 * network.overhead() / full, digits=1, exact=True)
latency = measure.latency_ms(
    {"dense": lambda: dense[0](one), "decided": lambda: network(one)}
)
record("runtime.latency_ratio", latency["decided"].median / latency["dense"].median)
evidence.phrase("pruning_learned.runtime.price", f"{penalties[middle]:g}")
evidence.phrase(
    "pruning_learned.runtime.opening", "has learned" if learns else "has not learned"
)
evidence.phrase(
    "pruning_learned.runtime.matched",
    "raises the error" if learns else "makes no clear difference",
)

# %% [markdown]
# **What to see.** Giving each image the decisions made for another image {glue:text}`pruning_learned.runtime.matched`:
# the controller {glue:text}`pruning_learned.runtime.opening` which images are hard.
# At a price of {glue:text}`pruning_learned.runtime.price`, it spends
# {mean}`pruning_learned.runtime.multiply_adds_kept_pct 0` of the multiply-adds and has an error of
# {mean}`pruning_learned.runtime.error_pct`.
# With all groups the error is {mean}`pruning_learned.runtime.all_groups_error_pct`.
# Shuffling the decisions costs {glue:text}`pruning_learned.runtime.matched_points`.
# We call an image difficult if the dense network has a large loss on it; the rank correlation of an image's work with
# its difficulty is {mean}`pruning_learned.runtime.rank_correlation`.
#
# The survey says that such techniques prune "during training", and that all methods reduce the number of parameters
# {cite:p}`berthelier2020survey`.
# This method skips channels at run time but stores every weight.
# With the controller, the model has {mean}`pruning_learned.runtime.parameters_kept_pct 0` of the parameters of the
# dense network.
# On pruning during training, the verdict is {verdict}`C2.3-36`.
# On all methods it is {verdict}`C2.3-37`, and on the adversarial masks alone {verdict}`C2.3-63`.
#
# ## Where it breaks
#
# **Multiply-adds are not time.** One image takes {glue:text}`pruning_learned.runtime.latency_ratio` the time of the
# dense network, because each group is a separate convolution and each decision a step of the recurrent network.
# The decisions add {glue:text}`pruning_learned.runtime.overhead_pct` to the dense network's multiply-adds.
#
# **The loss on the classes is not convex.** The paper on discrimination-aware pruning proves that it is, for its choice
# of channels {cite:p}`zhuang2018dcp`.
# A ReLU between the weight and the loss breaks the proof: halfway between two weights, the loss can lie above the mean
# of its values at both.


# %%
def through_a_rectifier(w):
    return log(1 + exp(-2 * max(w, 0)))


ends = (through_a_rectifier(-1) + through_a_rectifier(1)) / 2
assert through_a_rectifier(0) > ends

# %% [markdown]
# ## Exercises
#
# 1. How well do the first groups work alone in a network that was *not* trained under random actions?

# %% tags=["hide-cell"]
wrong = []
for network in (runtime.RuntimeNetwork(dense[0], one), nested(0)):
    network.forced = torch.tensor([2, 2, 2])
    wrong.append(training.error_pct(network, test))
evidence.answer(
    f"With half of the groups its error is {wrong[0]:.0f} %, "
    f"and {wrong[1]:.0f} % after training under random actions."
)

# %% [markdown]
# 2. Shuffle the labels of the training images. Do the adversarial masks change?

# %% tags=["hide-cell"]
few = Split(train.images[:64], train.labels[:64])
shuffled = Split(few.images, few.labels.flip(0))
first, second = (
    adversarial.scores(dense[0], labeled, epochs=2) for labeled in (few, shuffled)
)
assert all(torch.equal(first[name], second[name]) for name in first)
evidence.answer(
    f"No: the scores of all {len(first)} layers are the same, bit for bit, because no label is read."
)

# %% [markdown]
# ## In short
#
# - Discrimination-aware pruning goes layer by layer, and keeps the weights that it fits while it chooses.
# - Adversarial masks need no labels, but they need the right penalty and retraining afterwards.
# - Decisions at run time save multiply-adds, but not parameters, and not always time.
#
# ## Sources of this chapter
#
# - {cite:t}`zhuang2018dcp` introduced the discrimination-aware choice, {cite:t}`lin2019gal` the adversarial masks, and
#   {cite:t}`lin2017rnp` the decisions at run time.
# - {cite:t}`zhong2018where` may be the other work that the survey means by recurrent networks; there, an LSTM chooses
#   the layers to prune.
# - {cite:t}`berthelier2020survey` is the survey.
