# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-pruning-saliency)=
# # Optimal Brain Damage, Optimal Brain Surgeon and lottery tickets
#
# Which weights can a network lose at the least cost, and could the rest have been trained alone?
# Deleting half of the parameters of a small digit classifier by magnitude raises its training objective by
# {mean}`pruning_saliency.half.magnitude_increase 3` on average.
# If second derivatives choose the half and the other weights move to make up for it, the rise is
# {finding}`smaller | pruning_saliency.half.magnitude_over_surgeon_decades >> 0`,
# {mean}`pruning_saliency.half.surgeon_increase 3` (Optimal Brain Surgeon).
# A sparse LeNet-300-100, a digit classifier with two hidden layers, becomes
# {glue:text}`pruning_saliency.lottery.outcome` if it starts from its own first weights, a "lottery ticket", than from
# others.
#
# ```{claims} pruning_saliency
# ```
#
# ```{cost} pruning_saliency
# ```

# %% tags=["parameters"]
data = "digits"  # for the large networks: digits, mnist, or an image folder
seeds = 2  # large networks trained from different starts
epochs = 6  # to train one of them, in each round
rounds = 2  # of prune and rewind
share = 0.557  # of the surviving weights, removed in each round
learning_rate = 3e-3  # of Adam; chosen on the validation split
early_samples = 600  # seen once, in batches of 60, by the networks that get few steps
samples = 400  # for the second derivatives of the large networks
surgeon_layers = {"fc2": 0.1, "fc3": 0.2}  # kept by Optimal Brain Surgeon, of 1
surgeon_seeds = 1  # large networks that it prunes
small_seeds = 3  # small networks for the comparison of criteria
small_samples = 300  # images to train them
small_iterations = 150  # of L-BFGS, at most
problems = ["monks-3-rule"]  # of MONK: monks-1, or drawn from its rule: monks-1-rule
repeats = 1  # of each problem: the first on its sample, others on samples drawn alike
starts = 3  # networks trained in each repeat; the best in training is pruned

# %% tags=["hide-input"]
import copy
from itertools import product

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib import datasets, evidence, figures, measure, models, training
from lib.cache import cached
from lib.datasets import monks
from lib.pruning import lottery_ticket, magnitude
from lib.pruning import optimal_brain_damage as damage
from lib.pruning import optimal_brain_surgeon as surgeon
from lib.pruning.shared import squared
from lib.weights import layers

dataset = datasets.load(data)
record = evidence.recorder("pruning_saliency", dataset)


def accuracy(model, split=dataset.test):
    return 100 - training.error_pct(model, split)


# %% [markdown]
# (sec-damage)=
# ## Optimal Brain Damage
#
# **The idea.** A small weight may matter a lot, and a large one hardly at all: what counts is how much the {term}`loss` grows
# without it.
# Optimal Brain Damage estimates this from the {term}`second derivatives <Hessian>`, because at a minimum of the loss the slope is zero
# {cite:p}`lecun1989obd`.
#
# **The formula.** Let the objective $E$ be the loss on the training data plus weight decay.
# If the weights move by $\delta w$, it changes by
#
# $$ \begin{aligned}
# \delta E = {}& \underbrace{g^\top \delta w}_{\text{zero at a minimum}} + \tfrac12 \sum_k h_{kk}\, \delta w_k^2 \\
# &+ \underbrace{\tfrac12 \sum_{k \ne l} h_{kl}\, \delta w_k \delta w_l}_{\text{left out}} + \underbrace{O(\lVert \delta w \rVert^3)}_{\text{left out}} ,
# \end{aligned} $$ (eq-damage)
#
# with the gradient $g$ and the second derivatives $h_{kl}$.
# Without the terms in braces, deleting weight $k$ ($\delta w_k = -w_k$) costs its *{term}`saliency`*
# $s_k = \tfrac12 h_{kk} w_k^2$.
# The weights with the lowest saliency are deleted.
#
# **The code.** We take the second derivatives from the Gauss-Newton matrix, an approximation whose diagonal is never
# negative.
# One backward pass for each class gives its diagonal exactly:

# %% tags=["remove-input"]
figures.show_source(damage.factor, damage.add_diagonal, damage.saliencies)

# %% [markdown]
# **An exact check.** In a network of one linear layer the Gauss-Newton matrix is the matrix of second derivatives.
# So its diagonal must equal the one that automatic differentiation finds:

# %%
layer = nn.Linear(5, 3).double()
batch = datasets.Split(torch.rand(20, 5, dtype=torch.float64), torch.arange(20) % 3)


def loss(weight):
    return nn.functional.cross_entropy(
        batch.images @ weight.T + layer.bias, batch.labels
    )


whole = torch.autograd.functional.hessian(loss, layer.weight.detach()).reshape(15, 15)
torch.testing.assert_close(
    damage.curvature(layer, batch)[""].flatten(), whole.diagonal()
)

# %% [markdown]
# **One pass.** The paper needs only one backward pass.
# It sends second derivatives back through the network as backpropagation sends the first ones, but squares every
# weight, slope and input on the way:
#
# $$ \frac{\partial^2 E}{\partial a_i^2} = f'(a_i)^2 \sum_l w_{li}^2\, \frac{\partial^2 E}{\partial a_l^2} , \qquad h_{ij} = \frac{\partial^2 E}{\partial a_i^2}\, x_j^2 , $$ (eq-one-pass)
#
# where neuron $i$ adds up its weighted inputs $x_j$ to $a_i$, outputs $f(a_i)$, and feeds the neurons $l$.
# The rule ignores that several neurons of a layer act on the same outputs, so it is exact for the last layer only.
# Our version adds the two rules to automatic differentiation:

# %% tags=["remove-input"]
figures.show_source(squared.Weighted, squared.Elementwise, squared.second_derivatives)

# %% [markdown]
# **An exact check.** The network of one linear layer consists of a last layer only, so here the single pass must be
# exact:

# %%
torch.testing.assert_close(
    damage.curvature(layer, batch, one_pass=True)[""].flatten(), whole.diagonal()
)

# %% [markdown]
# (sec-surgeon)=
# ## Optimal Brain Surgeon
#
# **The idea.** When a weight is deleted, the other weights can move to make up for part of the loss
# {cite:p}`hassibi1992obs`.
#
# **The formula.** Keep the cross terms, so that $H$ is the whole matrix of second derivatives.
# Then find the cheapest $\delta w$ that makes weight $q$ zero, where $e_q$ is the unit vector of that weight:
#
# $$ \delta w = -\frac{w_q}{[H^{-1}]_{qq}} H^{-1} e_q, \qquad L_q = \frac{w_q^2}{2\,[H^{-1}]_{qq}} . $$ (eq-surgeon)
#
# Delete the weight with the smallest $L_q$, move all others by $\delta w$, take $q$ out of the inverse, and repeat.
# Because $1 / [H^{-1}]_{qq} \le h_{qq}$, no deletion is ever predicted to cost more than the saliency of its weight.
#
# **The code.** One function deletes one weight, or several together; another builds the inverse, a few rows at a time:

# %% tags=["remove-input"]
figures.show_source(surgeon.remove, surgeon.inverse_hessian)

# %% [markdown]
# **An exact check.** On a quadratic function the true cost must equal the predicted one, and the other weights must end
# where a linear solver finds the constrained minimum:

# %%
generator = torch.Generator().manual_seed(0)
half = torch.randn(6, 6, generator=generator, dtype=torch.float64)
bowl, w = half @ half.T, torch.randn(6, generator=generator, dtype=torch.float64)
moved, _, cost = surgeon.remove(w, torch.linalg.inv(bowl), torch.tensor([2]))
others = torch.tensor([0, 1, 3, 4, 5])
best = torch.linalg.solve(bowl[others][:, others], (bowl @ w)[others])
torch.testing.assert_close(moved[others], best)
torch.testing.assert_close((moved - w) @ bowl @ (moved - w) / 2, cost)
assert moved[2] == 0 and cost <= bowl[2, 2] * w[2] ** 2 / 2

# %% [markdown]
# ### Four criteria on one small network
#
# The theory assumes a minimum, so we take a network small enough to reach one.
# It has ten hidden $\tanh$ neurons and 760 parameters, and classifies scikit-learn's digits of 8 by 8 pixels.
# L-BFGS, an optimizer for smooth functions, minimizes cross-entropy plus weight decay in double precision.
# Then each criterion deletes a share of the parameters at once, with no training afterwards.

# %% tags=["hide-input"]
raw = load_digits()
some = np.random.RandomState(0).permutation(len(raw.target))[:small_samples]
pixels = torch.from_numpy(raw.images)[some, None].double() / 16
small_set = datasets.Split(pixels, torch.from_numpy(raw.target)[some])
decay, shares = 1e-3, [0.3, 0.4, 0.5, 0.6, 0.7]
criteria = ("surgeon", "damage", "magnitude", "random")


def perceptron(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10)
        ).double()


scratch = perceptron(0)  # takes any values


@torch.no_grad()
def objective(weights):
    nn.utils.vector_to_parameters(weights, scratch.parameters())
    fit = nn.functional.cross_entropy(scratch(small_set.images), small_set.labels)
    return float(fit + decay / 2 * weights.square().sum())


def vector(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def curvature(model):
    """The second derivative of the objective by each parameter, and the rows it comes from."""
    rows = surgeon.gauss_newton_rows(model, small_set)
    return rows.square().sum(dim=0) / len(small_set) + decay, rows


def orders(model, seed, h):
    """Criterion -> the numbers of the parameters, the first to go first."""
    w = vector(model)
    options = {"delete": round(shares[-1] * len(w)), "alpha": decay, "refresh": len(w)}
    surgery = surgeon.operate(copy.deepcopy(model), small_set, **options)
    generator = torch.Generator().manual_seed(seed)
    return {
        "surgeon": surgery.deleted,
        "damage": (h * w**2).argsort(),
        "magnitude": w.abs().argsort(),
        "random": torch.randperm(len(w), generator=generator),
    }


# %%
def increases(model, seed):
    """Criterion -> for each share, the predicted and the true increase."""
    w, (h, rows) = vector(model), curvature(model)
    order = orders(model, seed, h)
    inverse = surgeon.inverse_hessian(rows, samples=len(small_set), alpha=decay)
    costs = {name: [] for name in criteria}
    for name, part in product(criteria, shares):
        gone, left = order[name][: round(part * len(w))], w.clone()
        left[gone] = 0
        predicted = (h * w**2 / 2)[gone].sum()
        if name == "surgeon":  # the others move
            left, _, predicted = surgeon.remove(w, inverse, gone)
        costs[name].append([float(predicted), objective(left) - objective(w)])
    return costs


options = {"split": small_set, "weight_decay": decay, "iterations": small_iterations}
networks = [perceptron(seed) for seed in range(small_seeds)]
small = [cached(training.minimize, network, **options) for network in networks]
outcome = [increases(model, seed) for seed, model in enumerate(small)]

# %% tags=["remove-input"]
cost_of = {name: np.array([run[name] for run in outcome]) for name in criteria}
half = {name: cost_of[name][:, shares.index(0.5)] for name in criteria}  # seeds, 2
labels = dict(
    zip(
        criteria,
        ("Optimal Brain Surgeon", "Optimal Brain Damage", "magnitude", "random"),
        strict=True,
    )
)
looks = ("prune-obs", "prune-obd", "prune-magnitude-iterative", "random")
figure, ax = figures.axes()
for name, look in zip(criteria, looks, strict=True):
    true = cost_of[name][:, :, 1]
    middle = np.median(true, axis=0)
    bars = [middle - true.min(axis=0), true.max(axis=0) - middle]
    at = [100 * s for s in shares]
    options = {"capsize": 3, "label": labels[name], **figures.look(look)}
    ax.errorbar(at, middle, yerr=bars, **options)
ax.set(
    xlabel="parameters deleted (%)", ylabel="increase of the objective", yscale="log"
)
figures.legend(ax)
middle = {name: float(np.median(half[name][:, 1])) for name in criteria}
figures.show(
    figure,
    lead=True,
    finding="Half of the parameters deleted: Optimal Brain Surgeon costs "
    f"{middle['magnitude'] / middle['surgeon']:.0f} times less than deletion by magnitude",
    name="fig-criteria",
    caption="The cost of deleting parameters at once, without training: median of the networks, with bars from the lowest to the highest.",
    alt="Four rising curves on a logarithmic axis. With half of the parameters deleted the median objective grows by "
    + ", ".join(f"{middle[name]:.2g} ({labels[name]})" for name in criteria)
    + ".",
)

# %% tags=["remove-cell"]
for name in criteria:
    digits = 2 if name == "random" else 4
    record(f"half.{name}_increase", half[name][:, 1], digits=digits)
for worse, better in (
    ("damage", "surgeon"),
    ("magnitude", "surgeon"),
    ("magnitude", "damage"),
    ("random", "magnitude"),
):
    decades = np.log10(half[worse][:, 1] / half[better][:, 1])
    record(f"half.{worse}_over_{better}_decades", decades, "powers of ten", 2)
    times = 10 ** decades.mean()
    words = f"{times:.1f} times" if times < 5 else f"{times:.0f} times"
    evidence.phrase(f"pruning_saliency.half.{worse}_over_{better}", words)
for name in ("surgeon", "damage"):
    record(
        f"half.{name}_predicted_ratio", half[name][:, 0] / half[name][:, 1], digits=2
    )
flat = [vector(model) for model in small]
zeros = [100 * float((w == 0).double().mean()) for w in flat]
record("decay.zeros_pct", zeros, digits=1, exact=True)

# %% [markdown]
# **What to see.** Moving the other weights
# {finding}`gains more than choosing by second derivatives instead of size | pruning_saliency.half.damage_over_surgeon_decades > pruning_saliency.half.magnitude_over_damage_decades`.
# With half of the parameters deleted, Optimal Brain Damage costs {glue:text}`pruning_saliency.half.damage_over_surgeon`
# as much as Optimal Brain Surgeon.
# Magnitude costs {glue:text}`pruning_saliency.half.magnitude_over_damage` as much as Optimal Brain Damage.
# Random deletion costs {glue:text}`pruning_saliency.half.random_over_magnitude` as much as {term}`magnitude`.
# The survey ranks second derivatives above magnitude: {verdict}`C2.3-06`.
#
# The survey also names weight decay as an example of pruning by magnitude.
# All of these networks were trained with weight decay, and {glue:text}`pruning_saliency.decay.zeros_pct` of their
# parameters became zero.
# A penalty on squares makes weights small, but deletes none ({verdict}`C2.3-07`).
#
# ### Is the prediction right?
#
# To check the saliencies, we delete each parameter on its own and measure how much the objective grows.


# %%
def one_by_one(model):
    w, (h, _) = vector(model), curvature(model)
    cuts = w.repeat(len(w), 1).fill_diagonal_(0)
    return h * w**2 / 2, torch.tensor([objective(cut) for cut in cuts]) - objective(w)


pairs = [one_by_one(model) for model in small[:3]]
correlations = [spearmanr(*pair).statistic for pair in pairs]
record("single.rank_correlation", correlations, digits=3)

# %% tags=["remove-input"]
figure, ax = figures.axes()
saliency, true = (values.clamp_min(1e-7).numpy() for values in pairs[0])
color = figures.look("prune-obd")["color"]
ax.plot(saliency, true, "o", color=color, markersize=3, alpha=0.5)
ends = [1e-7, saliency.max()]
ax.plot(ends, ends, color="black", linewidth=1, label="prediction = truth")
ax.set(xscale="log", yscale="log", xlabel="predicted: saliency", ylabel="true increase")
figures.legend(ax)
right = np.mean(np.abs(np.log2(true / saliency)) < 1)
figures.show(
    figure,
    finding=f"{100 * right:.0f} % of the single deletions cost what the saliency predicts, within a factor of two",
    name="fig-prediction",
    caption="Each point is one parameter deleted on its own from the first network; values below 1e-7 are drawn at the edge.",
    alt=f"Scatter plot of {len(true)} points along the diagonal: {100 * right:.0f} % of the predictions are right to a factor of two.",
)

# %% [markdown]
# **What to see.** For single deletions the prediction is right: its rank correlation with the true increase is
# {glue:text}`pruning_saliency.single.rank_correlation`.
# The survey says that the saliency finds the cheapest deletions: {verdict}`C2.3-03`.
# For many deletions together the prediction is too low, because the network moves away from the point where the
# derivatives were taken.
# With half of the parameters deleted, Optimal Brain Damage, which leaves out the cross terms, predicts
# {glue:text}`pruning_saliency.half.damage_predicted_ratio` the true increase.
# Optimal Brain Surgeon predicts {glue:text}`pruning_saliency.half.surgeon_predicted_ratio`.
#
# ### MONK's problems
#
# MONK's problems are three small classification tasks with six attributes; in the third, some training labels are
# wrong.
# In networks for them {cite:t}`hassibi1992obs` removed 76, 62 and 90 % of the weights that weight decay had left.
# Our networks have 17 inputs and two or three hidden neurons.
# Of several random starts we take the network with the lowest *training* objective.
# We delete its parameters one after the other, and train to the next minimum after each.
# The dense network is at a minimum too, so it has nothing to gain from further training.
# Other starts on the same sample end in the same network, so a repeat uses another training sample.
# That sample is drawn from the problem's rule, with as many rows and as many wrong labels.
# The number of samples of each problem in the table is {glue:text}`pruning_saliency.monks.repeats`.
# The training set alone decides where to stop: a parameter stays only if it shortens the description of the training
# labels by more than it takes to write down.

# %% tags=["remove-input"]
figures.show_source(surgeon.shortest)


# %% tags=["hide-input"]
def monk(problem, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = 3 if problem.startswith("monks-1") else 2
    pad = nn.ConstantPad1d((1, 0), 0.0)  # one output z becomes the two logits 0 and z
    net = nn.Sequential(
        nn.Linear(17, hidden), nn.Tanh(), nn.Linear(hidden, 1), pad
    ).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return net


def sample(problem, repeat):
    random, labels = np.random.RandomState(100 + repeat), monks.rule(problem)
    rows = random.permutation(len(labels))[: monks.ROWS[problem]]
    wrong = np.arange(len(rows)) < monks.NOISE[problem]
    return monks.coded(rows, np.where(wrong, 1 - labels[rows], labels[rows]))


def best_start(problem, train, repeat):
    nets = [monk(problem, starts * repeat + i) for i in range(starts)]
    return min(nets, key=lambda net: training.minimize(net, train, weight_decay=decay))


# %%
def pruned(net, train, test, by):
    stages = surgeon.path(net, train, weight_decay=decay, choose_by=by)
    full, best = stages[0], surgeon.shortest(stages, len(train))
    free = min(
        stage.size for stage in stages if stage.error_pct <= full.error_pct
    )  # not chosen by test
    before, after = (accuracy(surgeon.put(net, stage), test) for stage in (full, best))
    gaps = [100 - full.error_pct - before, 100 - best.error_pct - after]
    gone = [100 * (1 - size / full.size) for size in (best.size, free)]
    return [before, after, *gaps, *gone]


# %% tags=["remove-input"]
rows = []
columns = {  # metric -> heading
    "dense_accuracy": "accuracy (%)",
    "obs_accuracy": "pruned (%)",
    "dense_gap": "gap",
    "obs_gap": "pruned, gap",
    "obs_removed": "removed (%)",
    "obs_free": "free (%)",
}
for problem in problems:
    robots = datasets.load(problem)
    evidence.uses(robots)
    name = problem.removesuffix("-rule")
    drawn = [sample(name, repeat) for repeat in range(1, repeats)]
    test, *trains = (
        datasets.Split(s.images.double(), s.labels)
        for s in (robots.test, robots.train, *drawn)
    )
    nets = [best_start(problem, train, repeat) for repeat, train in enumerate(trains)]
    for by in surgeon.CHOICES:
        runs = [
            pruned(copy.deepcopy(net), train, test, by)
            for net, train in zip(nets, trains, strict=True)
        ]
        values = dict(zip(columns, np.array(runs).T, strict=True))
        if by == "surgeon":
            for metric, value in values.items():
                key = f"{name.replace('-', '')}.{metric}_pct"
                record(key, value, digits=1)
        texts = {
            columns[metric]: evidence.formatted(list(value), unit="", digits=1)
            for metric, value in values.items()
        }
        rows.append({"problem": problem, "chosen by": labels[by], **texts})
record("monks.repeats", repeats, exact=True)
figures.table(
    rows,
    caption="MONK's problems: test accuracy of the whole and of the pruned network, how far it lies below the training accuracy (gap, points), and the share of parameters removed",
)

# %% [markdown]
# **What to see.** On the third problem, Optimal Brain Surgeon removes
# {finding}`most of the parameters, and the network does not get worse | pruning_saliency.monks3.obs_removed_pct > 50; pruning_saliency.monks3.obs_accuracy_pct >= pruning_saliency.monks3.dense_accuracy_pct`.
# It deletes {glue:text}`pruning_saliency.monks3.obs_removed_pct` of the parameters, and the test accuracy goes from
# {glue:text}`pruning_saliency.monks3.dense_accuracy_pct` to {glue:text}`pruning_saliency.monks3.obs_accuracy_pct`.
# In the table, "free" is the share that can be removed before the network makes one more training error.
# The gap, training accuracy minus test accuracy, measures over-fitting.
# It is negative if the network does not learn the wrong training labels.
# The gap {finding}`shrinks | pruning_saliency.monks3.obs_gap_pct < pruning_saliency.monks3.dense_gap_pct` from
# {glue:text}`pruning_saliency.monks3.dense_gap_pct` to {glue:text}`pruning_saliency.monks3.obs_gap_pct`
# ({verdict}`C2.3-02`).
# Here, training follows every deletion, so even a bad choice can be repaired.
#
# ### What it costs
#
# The second derivatives of $n$ parameters form an $n \times n$ matrix.
# Optimal Brain Surgeon needs its inverse; Optimal Brain Damage needs only the $n$ numbers of its diagonal.
# A compromise is to run Optimal Brain Surgeon *layer by layer* {cite:p}`dong2017learning`: a row of a linear layer
# affects one output only, so all rows share one small matrix.
# Each row then deletes its own weights, as in Optimal Brain Compression {cite:p}`frantar2022optimal`.

# %% tags=["hide-input"]
net, few = perceptron(0), small_set.first(100)
rows = surgeon.gauss_newton_rows(net, few)
works = {
    "gradient": lambda: nn.functional.cross_entropy(
        net(few.images), few.labels
    ).backward(),
    "one_pass": lambda: damage.curvature(net, few, one_pass=True),
    "damage": lambda: damage.curvature(net, few),
    "surgeon": lambda: surgeon.inverse_hessian(rows, samples=len(few), alpha=decay),
}
counts = {}
for name, work in works.items():
    with FlopCounterMode(display=False) as counter:
        work()
    counts[name] = counter.get_total_flops()
large = models.lenet_300_100()
n, weights = measure.parameters(large), [layer.weight for _, layer in layers(large)]
sizes = {
    "one_pass": n,
    "damage": n,
    "layerwise": sum((w.shape[1] + 1) ** 2 for w in weights),
    "surgeon": n**2,
}
titles = {
    "one_pass": "Optimal Brain Damage: the paper's one pass",
    "damage": "Optimal Brain Damage: exact diagonal",
    "layerwise": "Optimal Brain Surgeon: one matrix per layer",
    "surgeon": "Optimal Brain Surgeon: one matrix",
}
rows = []
for name, title in titles.items():
    memory = 8 * sizes[name] / measure.dense_bytes(large)
    record(
        f"cost.{name}_memory_ratio", memory, digits=int(name != "surgeon"), exact=True
    )
    work = counts[name] / counts["gradient"] if name in counts else None
    if work is not None:
        record(f"cost.{name}_operations_ratio", work, digits=0, exact=True)
    times = f"{work:,.0f}" if work else "–"
    memory = f"{memory:,.0f}" if memory > 100 else f"{memory:.1f}"
    rows.append(
        {
            "second derivatives": title,
            "multiply-adds (gradients)": times,
            "memory (networks)": memory,
        }
    )
agreement = []
for model in small:
    pair = [
        damage.saliencies(model, small_set, weight_decay=decay, one_pass=one_pass)
        for one_pass in (False, True)
    ]
    exact, paper = (torch.cat([s.flatten() for s in part.values()]) for part in pair)
    agreement.append(spearmanr(exact, paper).statistic)
record("cost.one_pass_rank_correlation", agreement, digits=3)
figures.table(
    rows,
    caption="Multiply-adds for the small network, in gradients; memory for LeNet-300-100 in double precision, in copies of the network",
)

# %% [markdown]
# **What to see.** The matrix rules out large networks: for LeNet-300-100 it takes
# {glue:text}`pruning_saliency.cost.surgeon_memory_ratio` the memory of the network.
# The diagonal takes only {glue:text}`pruning_saliency.cost.damage_memory_ratio`.
# In multiply-adds, the paper's single pass costs
# {glue:text}`pruning_saliency.cost.one_pass_operations_ratio` the work of a gradient.
# The exact diagonal, with a pass for each class, costs {glue:text}`pruning_saliency.cost.damage_operations_ratio`.
# The survey says that second derivatives cost extra computation: {verdict}`C2.3-08`.
# Pruning needs only the order of the saliencies, and on the small networks the single pass and the exact diagonal order
# them with a rank correlation of {glue:text}`pruning_saliency.cost.one_pass_rank_correlation`.
# For a network with many classes, the exact diagonal can draw some of them for each image (`classes`), which is right
# on average.
#
# ### LeNet-300-100
#
# Next we cut trained LeNet-300-100 networks without retraining.
# One cut is by magnitude, with equal shares for all layers or with one quality parameter (see {ref}`sec-magnitude`),
# the other by Optimal Brain Damage.
# Optimal Brain Surgeon then prunes some layers, each with its own matrix, and we test its {term}`masks <mask>` with and without moving
# the weights that stay.


# %%
def start(seed):
    return lottery_ticket.glorot(models.lenet_300_100(seed), seed)


def learn(model, seed, masks, split=dataset.train, passes=epochs):
    options = {"learning_rate": learning_rate, "batch_size": 60, "weight_decay": 0.0}
    options |= {"optimizer": "adam", "epochs": passes, "seed": seed}
    return cached(lottery_ticket.train, model, split=split, masks=masks, **options)


dense = [learn(start(seed), seed, {}) for seed in range(seeds)]
probe = dataset.train.first(samples)
cuts = {"dense": dense, "equal_shares": [], "one_quality": [], "damage": []}
for model in dense:
    saliency = damage.saliencies(model, probe)
    masks = {
        "equal_shares": magnitude.masks(model, density=0.1),
        "one_quality": magnitude.masks(model, density=0.1, scope="global"),
        "damage": damage.masks(saliency, density=0.1),
    }
    for name, mask in masks.items():
        cuts[name].append(lottery_ticket.rewind(model, mask))

# %%
cuts |= {"layers_magnitude": [], "layers_mask": [], "layers": []}
for model in dense[:surgeon_seeds]:
    moved = copy.deepcopy(model)
    cached(surgeon.operate_by_layer, moved, split=probe, density=surgeon_layers)
    mask = {name: getattr(moved, name).weight != 0 for name in surgeon_layers}
    by_size = magnitude.masks(model, density=surgeon_layers)
    cuts["layers_magnitude"].append(lottery_ticket.rewind(model, by_size))
    cuts["layers_mask"].append(lottery_ticket.rewind(model, mask))
    cuts["layers"].append(moved)

# %% tags=["remove-input"]
removed = 100 * (1 - magnitude.density(moved))
record("lenet300.layers_removed_pct", removed, digits=1, exact=True)
titles = {
    "dense": "dense network",
    "equal_shares": "magnitude, equal shares",
    "one_quality": "magnitude, one quality parameter",
    "damage": "Optimal Brain Damage",
    "layers_magnitude": "some layers by magnitude",
    "layers_mask": "some layers, Optimal Brain Surgeon's masks",
    "layers": "some layers, its masks, others moved",
}
rows = []
for name, networks in cuts.items():
    wrong = record(
        f"lenet300.{name}_error_pct", [100 - accuracy(model) for model in networks]
    )
    kept = f"{100 * magnitude.density(networks[0]):.1f}"
    rows.append({"criterion": titles[name], "kept (%)": kept, "test error": wrong})
text = ", ".join(f"{name} {100 * part:.0f} %" for name, part in surgeon_layers.items())
figures.table(
    rows,
    caption=f"LeNet-300-100 cut without retraining; of some layers we kept: {text}",
)

# %% [markdown]
# **What to see.** With a tenth of the weights left, Optimal Brain Damage
# {finding}`makes fewer errors | pruning_saliency.lenet300.damage_error_pct < pruning_saliency.lenet300.equal_shares_error_pct; pruning_saliency.lenet300.damage_error_pct < pruning_saliency.lenet300.one_quality_error_pct`
# than magnitude.
# Its test error is {glue:text}`pruning_saliency.lenet300.damage_error_pct`.
# Magnitude with an equal share for each layer has {glue:text}`pruning_saliency.lenet300.equal_shares_error_pct`.
# Saliencies are measured in units of the loss, so weights of different layers can be ranked together.
#
# Moving the other weights
# {finding}`repairs most of the damage | pruning_saliency.lenet300.layers_mask_error_pct - pruning_saliency.lenet300.layers_error_pct > pruning_saliency.lenet300.layers_error_pct - pruning_saliency.lenet300.dense_error_pct`.
# With the masks of Optimal Brain Surgeon alone, the error of the first network is
# {glue:text}`pruning_saliency.lenet300.layers_mask_error_pct`.
# When the other weights move as well, it is {glue:text}`pruning_saliency.lenet300.layers_error_pct`.
# The dense networks have {glue:text}`pruning_saliency.lenet300.dense_error_pct`.
# In all, {glue:text}`pruning_saliency.lenet300.layers_removed_pct` of the weights are deleted.
#
# (sec-lottery)=
# ## Lottery tickets
#
# **The idea.** Retraining starts from trained values. Could the sparse network have been trained from the beginning?
# Yes, say {cite:t}`frankle2019lottery`, if each weight starts again from the value that it had *at the beginning*: the
# dense network contained a winning {term}`ticket <lottery ticket>` all along.
#
# **The formula.** Draw the weights $\theta_0$, train them to $\theta_j$, let the masks $m$ keep the largest weights of
# $\theta_j$, and train again
#
# $$ f(x;\; m \odot \theta_0), \qquad m_{t+1} \le m_t, $$ (eq-ticket)
#
# round by round. As a control, we train the same masks with other random weights.
#
# **The code.** A round trains, prunes, and resets the weights that are left:

# %% tags=["remove-input"]
figures.show_source(lottery_ticket.rewind, lottery_ticket.find)

# %% [markdown]
# **An exact check.** After the reset, each weight is zero or, bit for bit, what it was at the start:

# %%
masks = magnitude.masks(dense[0], density=0.2)
ticket = lottery_ticket.rewind(start(0), masks)
for name, mask in masks.items():
    weight, first = getattr(ticket, name).weight, getattr(start(0), name).weight
    assert torch.equal(weight[mask], first[mask]) and not weight[~mask].any()

# %% [markdown]
# **The experiment.** Every network, ticket or control, is trained for the same number of steps and, in a second trial,
# for only {glue:text}`pruning_saliency.lottery.early_steps`.
# The paper trains for 50,000 steps in each round {cite:p}`frankle2019lottery`; we take fewer steps, with a larger
# learning rate that falls to zero.

# %%
tickets = [
    lottery_ticket.find(
        start(seed),
        lambda model, masks, seed=seed: learn(model, seed, masks),
        rounds=rounds,
        share=share,
    )
    for seed in range(seeds)
]
percent = [100 * ticket.density for ticket in tickets[0]]
about_21 = min(
    range(rounds + 1), key=lambda i: abs(percent[i] - 21)
)  # not chosen by test
tested = sorted({about_21, rounds})  # rounds at which there is a control
few, curves = dataset.train.first(early_samples), np.zeros((4, rounds + 1, seeds))
for seed, series in enumerate(tickets):
    for i, ticket in enumerate(series):
        curves[0, i, seed] = accuracy(ticket.trained)
        again = lottery_ticket.rewind(start(seed), ticket.masks)
        curves[2, i, seed] = accuracy(learn(again, seed, ticket.masks, few, 1))
        if i in tested:
            control = lottery_ticket.rewind(start(1000 + seed), ticket.masks)
            early = learn(copy.deepcopy(control), seed, ticket.masks, few, 1)
            curves[3, i, seed] = accuracy(early)
            curves[1, i, seed] = accuracy(learn(control, seed, ticket.masks))
full, other, full_early, other_early = curves  # ticket and control; each: rounds, seeds

# %% tags=["remove-input"]
figure, both = figures.axes(2)
at = [percent[i] for i in tested]
steps = f"{early_samples // 60} steps"
for ax, ticket, control, title in (
    (both[0], full, other, "all steps"),
    (both[1], full_early, other_early, steps),
):
    look, bounds = figures.look("prune-lottery-ticket"), figures.PERCENT
    figures.line(ax, percent, ticket, look, "ticket", bounds=bounds)
    look = figures.look("random")
    label = "same masks, other start"
    figures.line(ax, at, control[tested], look, label, bounds=bounds)
    ax.set(xlabel="weights kept (%)", title=title)
    figures.logarithmic(ax, "x")
    ax.invert_xaxis()
both[0].set(ylabel="test accuracy (%)")
handles = both[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower left", ncols=2, frameon=False)
last = curves[:, -1].mean(axis=1)
figures.show(
    figure,
    finding=f"With {percent[-1]:.0f} % of the weights the original start reaches {last[0]:.1f} %, another start {last[1]:.1f} %",
    name="fig-lottery",
    caption="Test accuracy of tickets and controls after the same training, all steps or few. Means over seeds: with three seeds or more there are 95 % intervals, with two the runs as dots.",
    alt=f"Two panels of test accuracy against weights kept. At {percent[-1]:.1f} % kept the ticket reaches {last[0]:.1f} % and the control {last[1]:.1f} %; "
    f"after {steps} {last[2]:.1f} % and {last[3]:.1f} %.",
)

# %% tags=["remove-cell"]
record("lottery.density_pct", percent[about_21], digits=1, exact=True)
record("lottery.smallest_density_pct", percent[-1], digits=1, exact=True)
record("lottery.dense_accuracy_pct", full[0])
record("lottery.ticket_accuracy_pct", full[about_21])
record("lottery.control_accuracy_pct", other[about_21])
gain, drop = (full - other)[about_21], full[0] - full[-1]
record("lottery.ticket_gain_pct", gain, "", 2)
record("lottery.ticket_early_gain_pct", (full_early - other_early)[about_21], "", 2)
record("lottery.early_over_dense_pct", full_early[about_21] - full_early[0], "", 2)
record("lottery.smallest_ticket_drop_pct", drop, "", 2)
record("lottery.smallest_ticket_gain_pct", (full - other)[-1], "", 2)
record("lottery.early_steps", early_samples // 60, "steps", 0, exact=True)
better = gain.mean() > 0
outcome = f"{gain.mean():.1f} points more accurate" if better else "no more accurate"
evidence.phrase("pruning_saliency.lottery.outcome", outcome)
place = "below" if drop.mean() > 0 else "above"
evidence.phrase(
    "pruning_saliency.lottery.place", f"{abs(drop.mean()):.1f} points {place}"
)

# %% [markdown]
# **What to see.** A sparse network
# {finding}`learns better from its own start | pruning_saliency.lottery.ticket_gain_pct > 0; pruning_saliency.lottery.ticket_early_gain_pct > 0`:
# with {glue:text}`pruning_saliency.lottery.density_pct` of the weights, the ticket is
# {glue:text}`pruning_saliency.lottery.outcome` than the control.
# The masks are the same, so only the start can make the difference: {verdict}`C4-08`.
#
# - With few steps the lead
#   {finding}`is larger | pruning_saliency.lottery.ticket_early_gain_pct > pruning_saliency.lottery.ticket_gain_pct`:
#   {glue:text}`pruning_saliency.lottery.ticket_early_gain_pct` points over the control. Over the whole network it is
#   {glue:text}`pruning_saliency.lottery.early_over_dense_pct` points.
# - The ticket of the last round keeps {glue:text}`pruning_saliency.lottery.smallest_density_pct` of the weights. Its
#   accuracy is {glue:text}`pruning_saliency.lottery.place` that of the whole network,
#   {glue:text}`pruning_saliency.lottery.dense_accuracy_pct`.
# - {cite:t}`frankle2019lottery` report a lead of 0.5 points of the ticket over the control, with 21.1 % of the weights.
#
# ## Where it breaks
#
# **A ticket saves no training.** To find it, you must train several times, beginning with the whole network.
#
# **Away from a minimum.** The formula drops the slope, which is zero only at a minimum. To see what that costs, we stop
# L-BFGS after a few steps.

# %%
hasty = perceptron(0)
training.minimize(hasty, small_set, weight_decay=decay, iterations=20)
predicted, true = one_by_one(hasty)
record("hasty.helpful_pct", 100 * float((true < 0).double().mean()), digits=1)
record("hasty.rank_correlation", spearmanr(predicted, true).statistic, digits=3)

# %% [markdown]
# A saliency is never negative, yet {glue:text}`pruning_saliency.hasty.helpful_pct` of the single deletions
# {finding}`lower the objective | pruning_saliency.hasty.helpful_pct > 0`.
# The rank correlation
# {finding}`falls | pruning_saliency.hasty.rank_correlation < pruning_saliency.single.rank_correlation` to
# {glue:text}`pruning_saliency.hasty.rank_correlation`.
# Large networks are never trained to a minimum, so for them the saliency is a rule of thumb.
#
# ## Exercises
#
# 1. Delete half of the parameters of the first small network by saliency, and half by magnitude. How many of the
#    parameters are deleted by both?

# %% tags=["hide-cell"]
saliency, w = pairs[0][0], flat[0]
first = [set(v.argsort()[: len(w) // 2].tolist()) for v in (saliency, w.abs())]
common = len(first[0] & first[1]) / (len(w) // 2)
evidence.answer(
    f"{100 * common:.0f} % of the parameters that one deletes, the other deletes too; by chance it would be half."
)

# %% [markdown]
# 2. Do two starts find the same ticket? Compare the share of weights that both masks of the first layer keep with the
#    share expected for two random masks.

# %% tags=["hide-cell"]
one, two = (tickets[seed][-1].masks["fc1"] for seed in (0, -1))
p = float(one.float().mean())
shared = float((one & two).sum() / (one | two).sum())
evidence.answer(
    f"They do not: of the weights that either mask keeps, both keep {shared:.1%}; two random masks would share {p / (2 - p):.1%}."
)

# %% [markdown]
# 3. Prune torchvision's SqueezeNet by Optimal Brain Damage, to half of its weights. How much do the layers differ in
#    what they keep?

# %% tags=["hide-cell"]
from lib.vision import torchvision

squeezenet = torchvision.models.squeezenet1_1(num_classes=3).eval()
noise = datasets.Split(torch.rand(2, 3, 48, 48), torch.tensor([0, 1]))
masks = damage.masks(damage.saliencies(squeezenet, noise), density=0.5)
magnitude.apply(squeezenet, masks)
part = [float(mask.float().mean()) for mask in masks.values()]
assert magnitude.density(squeezenet) < 0.51
evidence.answer(
    f"A lot: one layer keeps {100 * min(part):.0f} % of its weights, another {100 * max(part):.0f} %."
)

# %% [markdown]
# ## In short
#
# - Second derivatives predict what a deletion costs, as long as the network is at a minimum of its training objective.
# - At such a minimum, moving the other weights (Optimal Brain Surgeon) gains more than choosing by second derivatives
#   instead of size.
# - A sparse network learns better from its original start than from another one, but to find it you must first train
#   the whole network.
#
# ## Sources of this chapter
#
# - {cite:t}`lecun1989obd` introduced Optimal Brain Damage, and {cite:t}`hassibi1992obs` Optimal Brain Surgeon.
# - {cite:t}`dong2017learning` and {cite:t}`frantar2022optimal` apply Optimal Brain Surgeon to single layers and to
#   their rows.
# - {cite:t}`frankle2019lottery` introduced lottery tickets; {cite:t}`berthelier2020survey` is the survey.
