# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-search-compared)=
# # Architecture searches compared
#
# Which search should you use for your budget, and is any better than drawing networks at random?
# We compare five searches where the accuracy of each network is known: {glue:text}`search_compared.outcome.opening`.
# One training is a noisy judge: even a search that trains them all {finding}`misses the best | search_compared.exhaustive.regret_points > 0` network by {mean}`search_compared.exhaustive.regret_points 1`.
#
# ```{claims} search_compared
# ```
#
# ```{cost} search_compared
# ```

# %% tags=["parameters"]
again = 2  # networks of the table that are trained again
again_seeds = [0]  # of the table, with which they are
budgets = [5, 10, 20, 40]  # evaluations after which searches are compared
repeats = 8  # searches by each method
draws = 120  # of evolution and of the controller, until enough of them are new
other_repeats = 3  # searches of each kind in the section on where it breaks
shared_seeds = 1  # supergraphs whose weights are shared
shared_epochs = [12]  # passes over the training images for each of them
rate = 0.05  # learning rate of both
batch_size = 16  # images in a step, of shared weights and of gates
finalists = 5  # of a supergraph, that are also trained alone
gated_seeds = 1  # budgeted super networks
gated_epochs = [10]  # passes over the training images for each of them
gate_rate = 0.1  # learning rate of gates
timed = 30  # whole networks that the latency table is compared with

# %% tags=["hide-input"]
import math
from functools import cache, partial

import numpy as np
import torch
from scipy import stats
from torch import nn

from lib import evidence, figures
from lib.morphism import auto_keras
from lib.morphism.shared.edit_distance import Description
from lib.search import exhaustive, random_search, regret, regularized_evolution, table
from lib.search.chains import Chain
from lib.search.constrained import Within
from lib.search.history import Evaluation, History
from lib.search.latency_table import latency_table
from lib.seeding import seeded
from lib.supergraphs import budgeted, mnasnet
from lib.supergraphs.shared import costs
from lib.supergraphs.shared.graph import Edge, Graph
from lib.supergraphs.shared.supernetwork import SuperNetwork
from lib.supergraphs.shared.weight_sharing import (
    SharedWeights,
    accuracy_pct,
    train_shared,
)

images = table.dataset()
record = evidence.recorder("search_compared", images)
NAMES = {
    "random": "random search",
    "largest": "largest first",
    "evolution": "regularized evolution",
    "auto_keras": "Auto-Keras",
    "mnasnet": "MnasNet's controller",
}
SUPER = {"shared": "shared weights", "budgeted": "budgeted super network"}
LOOKS = {
    "random": figures.look("random"),
    "largest": {"color": "black", "marker": "s", "linestyle": ":"},
    "evolution": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "auto_keras": figures.look("auto-keras"),
    "mnasnet": figures.look("mnasnet"),
    # not the look of ENAS, which is that of Auto-Keras
    "shared": {"color": "#e69f00", "marker": "P", "linestyle": "-"},
    "budgeted": figures.look("budgeted-super-networks"),
}


def apart(points):  # by the 95 % interval of their mean
    mean, half = evidence.interval(list(points))
    return len(points) >= evidence.FEW and abs(mean) > half


def said(points):  # a difference of accuracies, in words
    word = "more" if np.mean(points) > 0 else "less"
    sure = "" if apart(points) else " (these runs do not decide it)"
    return f"{abs(np.mean(points)):.1f} points {word} accurate{sure}"


def listing(names):
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


# %% [markdown]
# (sec-search-table)=
# ## The space, and the truth about it
#
# **The idea.** A search can only be judged where the best network is known.
# So all networks of a small space were trained beforehand, and a table with their accuracies comes with the book.
# A network is a chain of four operations, each a $3 \times 3$ convolution, a $1 \times 1$ convolution, a separable one, or none.
# Some chains are the same network, since it does not matter where nothing is done.
# Each network learned small images of digits on photographs, with three seeds.
# A search sees the accuracy on {term}`validation` images of *one* of these trainings, as if it had trained the network itself.
# The *truth* is the mean accuracy on test images over the three.
#
# **An exact check.** A search that evaluates everything finds the largest fitness, and no search finds more.

# %%
truths, space = table.load(), table.SPACE
truth = truths.truth()
one_of = {space.network(chain): chain for chain in reversed([*space])}
networks = [chain for chain in space if one_of[space.network(chain)] == chain]
first_seed = partial(truths.validation, seed=0)
everything = exhaustive.search(space, first_seed, budget=len(space))
some = random_search.search(space, first_seed, budget=60, seed=0)
assert everything.best.fitness == max(map(first_seed, networks)) >= some.best.fitness
assert regret.regret_points(everything, truth).min() >= 0

# %% [markdown]
# **An experiment.** How does accuracy depend on the size of a network?
# And does the table hold on this machine?
# We draw {mean}`search_compared.table.again` networks by a fixed seed and train them again.
#
# ```{predict} size-and-accuracy
# ```

# %% tags=["hide-input"]
work = {chain: space.multiply_adds(chain) for chain in networks}
parameters = {chain: space.parameters(chain) for chain in networks}
limit = float(np.median([space.multiply_adds(chain) for chain in space]))
within = [chain for chain in networks if work[chain] <= limit]
picked = np.random.default_rng(0).permutation(len(networks))[:again]
repeated = table.measure([networks[i] for i in picked], again_seeds)
columns = [table.SEEDS.index(seed) for seed in again_seeds]
shifts = [
    np.mean(row.test) - np.mean(np.array(truths.row(row.candidate).test)[columns])
    for row in repeated
]


def ranks(size, chains):  # rank correlation of a size with the truth
    pairs = [size[c] for c in chains], [truth[c] for c in chains]
    return stats.spearmanr(*pairs).statistic


largest = max(within, key=parameters.get)
best = max(truth[chain] for chain in within)
average = np.mean([truth[chain] for chain in within])

# %% tags=["remove-input"]
record("table.chains", len(space), exact=True)
record("table.networks", len(networks), exact=True)
record("table.within", len(within), exact=True)
record("table.again", again, exact=True)
record("table.mean_difference_points", np.mean(shifts), timing=True)
record("table.largest_difference_points", max(map(abs, shifts)), timing=True)
record("table.reliability_pct", 100 * truths.reliability(), digits=0, exact=True)
record("table.limit", limit, digits=0, exact=True)
record("table.best_accuracy_pct", best, digits=1, exact=True)
record("table.average_regret_points", best - average, digits=1, exact=True)
record("table.largest_regret_points", best - truth[largest], digits=1, exact=True)
SIZES = {"parameters": parameters, "multiply_adds": work}
for name, size in SIZES.items():
    key = f"table.{name}"
    rank = {"digits": 2, "exact": True}
    record(f"{key}_rank_correlation", ranks(size, networks), **rank)
    record(f"{key}_within_rank_correlation", ranks(size, within), **rank)
figure, axes = figures.axes(2, sharey=True)
for ax, size, label in zip(
    axes, SIZES.values(), ("parameters", "multiply-adds (thousands)"), strict=True
):
    unit = 1 if size is parameters else 1000
    for chains, color, name in (
        ([c for c in networks if c not in within], "#c8c8c8", "above the limit"),
        (within, "#0072b2", "within it"),
    ):
        x = [size[c] / unit for c in chains]
        ax.plot(
            x, [truth[c] for c in chains], "o", color=color, markersize=4, label=name
        )
    ax.set_xlabel(label)
axes[1].axvline(limit / 1000, color="black", linestyle=":")
axes[0].set_ylabel("test accuracy (%)")
figures.legend(axes[0], columns=1)
figures.show(
    figure,
    finding=f"Parameters alone rank all networks with a correlation of {ranks(parameters, networks):.2f}, multiply-adds with {ranks(work, networks):.2f}",
    name="fig-search-space",
    caption="All networks of the space: test accuracy, mean of three seeds, against parameters and multiply-adds of one image. Dotted: the limit for searches.",
    alt=f"Two clouds of points of accuracy against size. Accuracy rises with parameters, rank correlation {ranks(parameters, networks):.2f}, and less clearly with multiply-adds, {ranks(work, networks):.2f}.",
)

# %% [markdown]
# **What to see.** Parameters alone rank the {mean}`search_compared.table.networks` networks with a correlation of {mean}`search_compared.table.parameters_rank_correlation`.
# So without a limit {finding}`there is nothing to search | search_compared.table.parameters_rank_correlation > 0.8`: take the largest.
# Searches may therefore use at most {mean}`search_compared.table.limit` multiply-adds, the median of all chains, which leaves {mean}`search_compared.table.within` networks.
# It is the limit of {ref}`the search by Auto-Keras <sec-auto-keras>`, and was fixed before any search of this page was run.
#
# Within the limit, multiply-adds rank with {mean}`search_compared.table.multiply_adds_within_rank_correlation`, and parameters {finding}`still tell much | search_compared.table.parameters_within_rank_correlation > 0.8`, {mean}`search_compared.table.parameters_within_rank_correlation`.
# Whoever compares searches should thus also try a rule that needs none: take the network with the most parameters that the limit allows.
# Here it is {mean}`search_compared.table.largest_regret_points` {finding}`behind the best | search_compared.table.largest_regret_points >= 0` network, and a random one {mean}`search_compared.table.average_regret_points`.
#
# The table can be trusted.
# Of the variance of the truths, {mean}`search_compared.table.reliability_pct` lies between networks and not between seeds.
# The networks that we trained again differ from it by {mean}`search_compared.table.mean_difference_points` in the mean, {finding}`none by many points | search_compared.table.largest_difference_points <= 10`: {mean}`search_compared.table.largest_difference_points` at the most.
#
# (sec-equal-evaluations)=
# ## Equal evaluations
#
# **The idea.** {term}`Random search <random search>` draws different networks and keeps the best {cite:p}`li2019random`.
# Regularized evolution mutates the best of a few, and the oldest of all dies {cite:p}`real2019regularized`.
# {ref}`Auto-Keras <sec-auto-keras>` predicts accuracies from the edit distance of architectures {cite:p}`jin2019autokeras`.
# {ref}`MnasNet's controller <sec-mnasnet>` learns from the accuracies of what it draws {cite:p}`tan2019mnasnet`.
# *Largest first* is the rule above as a search: it evaluates the network with the most parameters first, then the next.
#
# **The formula.** The choice $m_t$ after $t$ evaluations is the network with the largest fitness so far.
# Its *{term}`regret`* is what it lacks of the best one within the limit,
#
# $$ r_t = \max_m a(m) - a(m_t), $$ (eq-regret)
#
# with the truth $a$.
# A search chooses by one noisy accuracy, so more evaluations can make its regret larger.
#
# **The code.** The limit is a space of its own, so that no evaluation is spent on a network that costs too much:

# %%
allowed = Within(space, lambda chain: work.get(chain, math.inf), limit=limit)

# %% tags=["remove-input"]
figures.show_source(random_search.search, regularized_evolution.search)

# %% [markdown]
# **An experiment.** Each search runs {mean}`search_compared.equal.repeats` times, in turns with the accuracies of each of the three seeds.
# All draw from the same networks, and a network that comes up again costs nothing, since it was trained before.
# We compare the regrets of searches with the same seed.


# %% tags=["hide-input"]
@cache
def described(chain):  # by the weights of each layer
    operations = space.operations_of(chain)
    return Description(tuple(o.parameters for o in operations if o.parameters))


def first_new(history, most):  # a network that comes up again costs nothing
    rows = {row.candidate: row for row in reversed(history.rows)}
    order = dict.fromkeys(row.candidate for row in history.rows)
    return History(tuple(rows[chain] for chain in [*order][:most]))


def in_order(size, chains, fitness, **_):  # largest first
    ordered = sorted(chains, key=lambda chain: -size[chain])
    return History(tuple(Evaluation(chain, fitness(chain)) for chain in ordered))


def by_controller(of, fitness, *, seed):
    options = {"latency": work.get, "target": limit, "exponents": mnasnet.HARD}
    return mnasnet.search(of, fitness, budget=draws, seed=seed, **options)


def regrets(search, times, of=None, most=budgets[-1]):  # (searches, evaluations)
    of, rows = of or {chain: truth[chain] for chain in within}, []
    for seed in range(times):
        fitness = partial(truths.validation, seed=seed % len(table.SEEDS))
        history = first_new(search(fitness, seed=seed), most)
        row = regret.regret_points(history, of)
        rows.append(np.pad(row, (0, most - len(row)), mode="edge"))
    return np.array(rows)


def randomly(fitness, seed, of=allowed, budget=None):
    budget = budget or len(within)
    return random_search.search(of, fitness, budget=budget, seed=seed)


def evolving(fitness, seed, of=allowed):
    return regularized_evolution.search(of, fitness, budget=draws, seed=seed)


SEARCHES = {
    "random": randomly,
    "largest": partial(in_order, parameters, within),
    "evolution": evolving,
    "auto_keras": partial(
        auto_keras.search, allowed, budget=budgets[-1], describe=described
    ),
    "mnasnet": partial(by_controller, allowed),
}
lacks = {name: regrets(search, repeats) for name, search in SEARCHES.items()}
all_random = regrets(randomly, repeats, most=len(within))
floor = all_random[:, -1]  # every network was evaluated; ties go to the first drawn
bare = partial(evidence.formatted, unit="", digits=1)  # unit: caption or head

# %% tags=["remove-input"]
record("equal.repeats", repeats, exact=True)
record("exhaustive.regret_points", floor, digits=1)
gains = {name: lacks["random"] - values for name, values in lacks.items()}
rows, told = [], {}
for name, title in NAMES.items():
    row = {"search": title}
    for n in budgets:
        values = lacks[name][:, n - 1]
        record(f"{name}.regret_{n}_points", values, digits=1)
        row[f"{n} evaluations"] = bare(values.tolist())
    rows.append(row)
rows.append(
    {"search": f"every network ({len(within)})"}
    | {f"{n} evaluations": "–" for n in budgets[:-1]}
    | {f"{budgets[-1]} evaluations": bare(floor.tolist())}
)
figures.table(
    rows, caption=f"Regret in points, means of {repeats} searches with 95 % intervals"
)
rows = []
for name in [*NAMES][1:]:
    row = {"search": NAMES[name]}
    for n in budgets:
        values = gains[name][:, n - 1]
        record(f"{name}.gain_{n}_points", values, digits=1)
        row[f"{n} evaluations"] = bare(values.tolist())
    rows.append(row)
figures.table(
    rows,
    caption="How far each search is ahead of random search with the same seed, in points; above zero is better",
)
for n in budgets:
    ahead, behind = [], []
    for name in [*NAMES][1:]:
        values = gains[name][:, n - 1]
        if apart(values):
            (ahead if np.mean(values) > 0 else behind).append(NAMES[name])
    parts = []
    if ahead:
        parts.append(
            f"{listing(ahead)} {'are' if ahead[1:] else 'is'} better than random search"
        )
    if behind:
        parts.append(f"{listing(behind)} {'are' if behind[1:] else 'is'} worse")
    told[n] = " and ".join(parts) or "no method can be told from random search"
    if behind and not ahead:
        told[n] += " than random search"
middle = budgets[len(budgets) // 2]


def ahead_after(n):  # the searches that are ahead of random search for certain
    differences = {name: values[:, n - 1] for name, values in gains.items()}
    sure = {
        name: values.mean() for name, values in differences.items() if apart(values)
    }
    return [
        NAMES[name] for name, mean in sure.items() if mean > 0
    ]  # not chosen by test


winners = {n: ahead_after(n) for n in budgets}
won = [n for n in budgets if winners[n]][:3]  # budgets at which some search is ahead
if won:
    parts = [f"{listing(winners[n])} after {n}" for n in won[1:]]
    verb = "are" if winners[won[0]][1:] else "is"
    first = f"{listing(winners[won[0]])} {verb} ahead of random search after {won[0]} evaluations"
    later = ["later none"] if won[-1] < budgets[-1] else []
    opening = listing([first, *parts, *later])
else:
    opening = "no search can be told from random search"
grouped = {}
for n, text in told.items():
    grouped.setdefault(text, []).append(str(n))
when = {text: f"After {listing(ns)} evaluations" for text, ns in grouped.items()}
if len(grouped) == 1:
    when = dict.fromkeys(grouped, "At each of these budgets")
sentences = " ".join(f"{at} {text}." for text, at in when.items())
evidence.phrase("search_compared.outcome.winners", sentences)
evidence.phrase("search_compared.outcome.opening", opening)
reached = next(
    (
        n
        for n in range(1, budgets[-1] + 1)
        if lacks["random"][:, n - 1].mean()
        <= best - truth[largest]  # not chosen by test
    ),
    None,
)
evidence.phrase(
    "search_compared.outcome.reached",
    f"needs {reached} evaluations to be as good"
    if reached
    else f"is not as good after {budgets[-1]} evaluations",
)

# %% [markdown]
# **What to see.** {glue:text}`search_compared.outcome.winners`
# Evolution begins with ten random networks, so until then it is random search.
# The intervals are about the draws of the searches; the table itself is one sample of three trainings.
#
# All of them end where noise decides: the choice after *every* network was evaluated still lacks {mean}`search_compared.exhaustive.regret_points`.
# Evaluating more networks cannot help there; whether it helps to evaluate the best few again is tested at the end of this page.
#
# Random search {glue:text}`search_compared.outcome.reached` as the network with the most parameters, which costs no evaluation at all.
# That rule is a property of this space and of this limit, as the end of this page shows.
#
# (sec-equal-passes)=
# ## Equal passes
#
# **The idea.** An evaluation is not the unit that you pay for.
# A *pass* is one image that goes forward and backward through a network; a forward pass alone counts as a third.
# Training one network for the table takes {mean}`search_compared.passes.alone` passes.
#
# {ref}`Shared weights <sec-enas>` are trained once, and then every network is evaluated with forward passes alone.
# Here each batch trains another random network within the limit: random search with shared weights {cite:p}`li2019random`.
# A {ref}`budgeted super network <sec-bsn>` learns gates for all operations {cite:p}`veniat2018learning`.
# We take the network within the limit whose gates are the most probable.
#
# **The code.** The chains of the space become a supergraph with one edge for each operation at each position, and the budget is the limit.

# %% tags=["hide-input"]
alike = [
    space.operations_of(Chain((kind,) * space.positions)) for kind in space.operations
]


def supergraph(seed):  # every chain is a path of it
    edges, layers = [], {}
    with seeded(seed):
        stem, head = alike[0][0].module(), alike[0][-1].module()
        for kind, operations in zip(space.operations, alike, strict=True):
            position, before = 0, []
            for operation in operations[1:-1]:
                if operation.kind == "pool":
                    before = [operation.module()]
                    continue
                name = f"at{position}_{kind}"
                layers[name] = nn.Sequential(*before, operation.module())
                edges.append(Edge(name, str(position), str(position + 1)))
                position, before = position + 1, []
    graph = Graph(tuple(edges), "0", str(space.positions))
    sizes = {"channels": space.channels, "size": space.size}
    return SuperNetwork(graph, layers, stem=stem, head=head, **sizes)


def path(graph, chain):  # the mask of a chain
    names = {f"at{i}_{kind}" for i, kind in enumerate(chain.operations)}
    return torch.tensor([edge.name in names for edge in graph.edges])


# %% [markdown]
# **Exact checks.** A path through the supergraph answers as the chain of its operations, and costs as many multiply-adds.

# %%
network = supergraph(0).eval()
shape = tuple(images.test.images.shape[1:])
cost = costs.Sum(network.graph, costs.multiply_adds(network, shape))
for chain in within[::20]:
    mask = path(network.graph, chain)
    names = [f"at{i}_{kind}" for i, kind in enumerate(chain.operations)]
    layers = [network.layers[name] for name in names]
    alone = nn.Sequential(network.stem, *layers, network.head)
    few = images.test.images[:20]
    assert torch.equal(network(few, mask), alone(few))
    assert cost(mask[None]) == work[chain]

# %% [markdown]
# **An experiment.** All passes are counted: those that train the shared weights or the gates, and the evaluations.
# One training alone of the network that is chosen is added.
# Random search may train as many networks as the same passes pay for, rounded up.


# %% tags=["hide-input"]
one = table.EPOCHS * len(images.train) + len(images.validation) / 3


def by_sharing(seed, epochs):  # networks within the limit, the best first
    shared = SharedWeights(space.build, within, seed=seed)
    random = np.random.default_rng(seed)

    def draw(n):
        return [within[i] for i in random.integers(len(within), size=n)]

    options = {"learning_rate": rate, "batch_size": batch_size}
    train_shared(shared, draw, images.train, epochs=epochs, seed=seed, **options)
    seen = {chain: accuracy_pct(shared, chain, images.validation) for chain in within}
    return sorted(within, key=lambda chain: -seen[chain]), seen


class Watched:  # the cost of masks, which adds up what they cost
    def __init__(self):
        self.full, self.cheapest = cost.full, cost.cheapest
        self.spent = self.masks = 0.0

    def __call__(self, masks):
        spent = cost(masks)
        self.spent, self.masks = (
            self.spent + float(spent.sum()),
            self.masks + len(masks),
        )
        return spent


def by_gates(seed, epochs):  # the most probable network within the limit
    model, watched = budgeted.Gated(supergraph(seed)), Watched()
    options = {"learning_rate": rate, "batch_size": batch_size}
    options |= {"gate_rate": gate_rate, "epochs": epochs, "seed": seed}
    budgeted.fit(model, images.train, cost=watched, budget=limit, **options)
    logits, graph = model.logits, model.network.graph
    chosen = max(within, key=lambda chain: float(logits[path(graph, chain)].sum()))
    sampled = watched.spent / watched.masks / np.mean([work[c] for c in within])
    return chosen, sampled, int(graph.live(model.mask).sum())


shared = {
    epochs: [by_sharing(seed, epochs) for seed in range(shared_seeds)]
    for epochs in shared_epochs
}
gated = {
    epochs: [by_gates(seed, epochs) for seed in range(gated_seeds)]
    for epochs in gated_epochs
}


def random_regrets(passes, parts):  # of random search, one mean for each part
    trained = min(math.ceil(passes / one), all_random.shape[1])
    values = all_random[:, trained - 1]
    return [values[part::parts].mean() for part in range(parts)]


def best_alone(order):  # of the first few, by one training each; mean over its seed
    chosen = [
        max(order[:finalists], key=partial(truths.validation, seed=seed))
        for seed in table.SEEDS
    ]
    return best - np.mean([truth[chain] for chain in chosen])


points = {"shared": {}, "budgeted": {}}  # passes -> regrets, one for each seed
for epochs, runs in shared.items():
    passes = epochs * len(images.train) + len(within) * len(images.validation) / 3
    points["shared"][passes + one] = [best - truth[order[0]] for order, _ in runs]
for epochs, runs in gated.items():
    passes = epochs * len(images.train) + one
    points["budgeted"][passes] = [best - truth[chosen] for chosen, *_ in runs]
last_shared, last_gated = shared[shared_epochs[-1]], gated[gated_epochs[-1]]
final_passes = max(points["shared"]) + (finalists - 1) * one
with_finalists = [best_alone(order) for order, _ in last_shared]

# %% tags=["remove-input"]
record("passes.alone", one, exact=True)
record("passes.finalists", finalists, exact=True)
rank = [
    stats.spearmanr([*seen.values()], [truth[c] for c in seen]).statistic
    for _, seen in last_shared
]
record("shared.rank_correlation", rank, digits=2)
entries = [
    (SUPER[name], epochs, passes, values)
    for name, epochs_of in (("shared", shared_epochs), ("budgeted", gated_epochs))
    for epochs, (passes, values) in zip(epochs_of, points[name].items(), strict=True)
]
entries.append(
    (
        f"shared weights, and {finalists} networks trained",
        shared_epochs[-1],
        final_passes,
        with_finalists,
    )
)
figures.table(
    [
        {
            "search": title,
            "epochs": epochs,
            "passes (thousands)": f"{passes / 1000:.0f}",
            "trainings alone": f"{math.ceil(passes / one)}",
            "regret (points)": bare(list(values)),
            "random search (points)": f"{np.mean(random_regrets(passes, 1)):.1f}",
        }
        for title, epochs, passes, values in entries
    ],
    caption="Regret of supergraphs, and of random search for as many passes",
)
for name, chosen in points.items():
    passes, values = list(chosen.items())[-1]
    rivals = random_regrets(passes, len(values))
    record(f"{name}.regret_points", values, digits=1)
    record(f"{name}.gain_points", [best - average - v for v in values], digits=1)
    record(f"passes.{name}", passes, exact=True)
    record(f"passes.{name}_trainings", math.ceil(passes / one), exact=True)
    ahead = [r - v for r, v in zip(rivals, values, strict=True)]
    record(f"passes.{name}_gain_points", ahead, digits=1)
    record(f"passes.{name}_random_regret_points", rivals, digits=1)
    evidence.phrase(f"search_compared.passes.{name}_outcome", said(ahead))
    over = [best - average - value for value in values]
    evidence.phrase(f"search_compared.{name}.gain_outcome", said(over))
ahead = [
    r - v
    for r, v in zip(
        random_regrets(final_passes, len(with_finalists)), with_finalists, strict=True
    )
]
record("passes.finalists_regret_points", with_finalists, digits=1)
record("passes.finalists_gain_points", ahead, digits=1)
evidence.phrase("search_compared.passes.finalists_outcome", said(ahead))
record(
    "budgeted.sampled_work_ratio", [sampled for _, sampled, _ in last_gated], digits=1
)
record("budgeted.open", [live for *_, live in last_gated], digits=1)
record("budgeted.positions", space.positions, exact=True)
lowest = 0.3  # points at which bands and bars are cut off, on a logarithmic axis


def band(ax, x, runs, look, label, alpha=1.0, width=True):
    spread = [evidence.interval([*map(float, run)]) for run in runs]
    means = np.array([mean for mean, _ in spread])
    every = max(1, len(x) // 4)
    ax.plot(x, means, **look, label=label, markevery=every, markersize=5, alpha=alpha)
    if width and min(map(len, runs)) >= evidence.FEW:
        halves = np.array([half for _, half in spread])
        low = np.maximum(means - halves, lowest)
        ax.fill_between(
            x, low, means + halves, color=look["color"], alpha=0.13, linewidth=0
        )


figure, (left, right) = figures.axes(2, sharey=True)
figure.set_size_inches(7.0, 5.4)
counts = np.arange(1, budgets[-1] + 1)
for name in NAMES:
    band(left, counts, lacks[name].T, LOOKS[name], NAMES[name])
    alone = name == "random"
    band(
        right,
        counts * one / 1000,
        lacks[name].T,
        LOOKS[name],
        None,
        alpha=1 if alone else 0.45,
        width=alone,
    )
hollow = LOOKS["shared"] | {"markerfacecolor": "none", "markersize": 9}
found_by = [(LOOKS[name], SUPER[name], chosen) for name, chosen in points.items()]
also = f"... the first {finalists} trained alone"
found_by.insert(1, (hollow, also, {final_passes: with_finalists}))
for look, label, chosen in found_by:
    x = [passes / 1000 for passes in chosen]
    bounds = (lowest, math.inf)
    figures.line(right, x, list(chosen.values()), look, label, bounds=bounds)
    left.plot([], [], **look, label=label)
for ax in (left, right):
    ax.axhline(
        floor.mean(), color="black", linewidth=1, label="every network evaluated"
    )
    figures.logarithmic(ax, "x", "y")
left.set(xlabel="evaluations", ylabel="regret (points)")
right.set_xlabel("passes (thousands)")
entries = left.get_legend_handles_labels()
figure.legend(*entries, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
finish = ", ".join(
    f"{NAMES[name]} {lacks[name][:, middle - 1].mean():.1f}" for name in NAMES
)
one_shot = np.mean([*points["shared"].values()][-1])
trainings = math.ceil([*points["shared"]][-1] / one)
figures.show(
    figure,
    lead=True,
    finding=f"{opening[0].upper()}{opening[1:]}",
    name="fig-search-compared",
    caption=f"How much the chosen network lacks of the best one within the limit: against the number of networks that were evaluated (left), and against passes, images that went forward and backward (right; a forward pass counts as a third). Means; bands and bars are 95 % intervals. Both axes are logarithmic, so what would reach below {lowest} points is cut off there.",
    alt=f"Falling curves of regret against evaluations and against passes. {opening[0].upper()}{opening[1:]}. After {middle} evaluations in points: {finish}. Shared weights, for the passes of {trainings} trainings, {one_shot:.1f}.",
)

# %% [markdown]
# **What to see.** For the passes of {mean}`search_compared.passes.shared_trainings` trainings, shared weights rank all networks with a correlation of {mean}`search_compared.shared.rank_correlation 2`.
# The network that they choose is {glue:text}`search_compared.passes.shared_outcome` than the choice of random search ({verdict}`C3.2.4-19`).
# One pick from a ranking of many is a matter of luck.
# When their first {mean}`search_compared.passes.finalists` are trained alone, and validation images choose among them, the regret is {mean}`search_compared.passes.finalists_regret_points`.
# That choice is {glue:text}`search_compared.passes.finalists_outcome` than random search for as many passes.
#
# The budgeted super network pays for {mean}`search_compared.passes.budgeted_trainings` trainings, and its choice is {glue:text}`search_compared.passes.budgeted_outcome` than that of random search.
# It was made for another question.
# It keeps {mean}`search_compared.budgeted.open 0` operations at {mean}`search_compared.budgeted.positions` positions, and is a network as it is, while we make it name one operation for each.
# A pass through it is also {finding}`dearer | search_compared.budgeted.sampled_work_ratio > 1`: its random networks take {mean}`search_compared.budgeted.sampled_work_ratio` the multiply-adds of an average chain.
#
# Against a random network within the limit, the choice of shared weights is {glue:text}`search_compared.shared.gain_outcome`.
# That of the gates is {glue:text}`search_compared.budgeted.gain_outcome`.
# The test of a structure that is optimized under a limit is the largest network within it, which costs no training ({verdict}`C3.2-05`).
#
# (sec-latency-limit)=
# ## A latency limit of your own device
#
# **The idea.** What you know of your device is how many milliseconds a network may take.
# A table of operations, timed once on the device, predicts the {term}`latency` of each candidate ({ref}`sec-latency-table`), and the limit becomes part of the space.
# Any search then runs as before.
#
# **The code.** This is all that you write.
# Save the table on the device with `board.save("board.json")`, and read it with `load` where you train.

# %%
board = latency_table(space)  # on the device: each operation is timed once
slowest = float(np.median([board.latency_ms(chain) for chain in space]))
fast = Within(space, board.latency_ms, limit=slowest)  # milliseconds
found = random_search.search(fast, first_seed, budget=20, seed=0).best

# %% [markdown]
# **An experiment.** We time {mean}`search_compared.device.timed` whole networks, and ask two questions.
# Does the table, or do multiply-adds, admit the networks that are fast?
# And which search is best under a limit of latency that half of the chains meet?

# %% tags=["hide-input"]
sample = np.random.default_rng(1).permutation(len(networks))[:timed]
sampled = [networks[i] for i in sample]
check = board.validate(sampled, runs=21)
predicted, measured = map(np.array, (check.predicted_ms, check.measured_ms))
counted = np.array([work[chain] for chain in sampled])
slow = measured > np.median(measured)


def missed(size):  # of the faster half by a size, the share that is slow
    return 100 * np.mean(slow[size <= np.median(size)])


fast_once = {c: ms for c in networks if (ms := board.latency_ms(c)) <= slowest}
fast_truth = {chain: truth[chain] for chain in fast_once}
fast_space = Within(space, lambda c: fast_once.get(c, math.inf), limit=slowest)
most = min(budgets[2], len(fast_once))
under = {
    "random": regrets(
        partial(randomly, of=fast_space, budget=most), repeats, fast_truth, most
    ),
    "evolution": regrets(partial(evolving, of=fast_space), repeats, fast_truth, most),
    "largest": regrets(
        partial(in_order, parameters, [*fast_once]), repeats, fast_truth, most
    ),
}

# %% tags=["remove-input"]
record("device.timed", timed, exact=True)
record("latency.rank_correlation", check.rank_correlation, digits=2)
by_count = float(stats.spearmanr(counted, measured).statistic)
record("latency.multiply_adds_rank_correlation", by_count, digits=2)
record("latency.table_missed_pct", missed(predicted), digits=0)
record("latency.multiply_adds_missed_pct", missed(counted), digits=0)
record(
    "latency.whole_over_table_ratio", float(np.median(measured / predicted)), digits=2
)
record("device.evaluations", most, exact=True)
rows = []
for name, values in under.items():
    record(f"latency.{name}_regret_points", values[:, -1], digits=1)
    row = {"search": NAMES[name], "regret": bare(values[:, -1].tolist()), "ahead": "–"}
    if name != "random":
        ahead = (under["random"] - values)[:, -1]
        record(f"latency.{name}_gain_points", ahead, digits=1)
        row["ahead"] = bare(ahead.tolist())
    rows.append(row)
figures.table(
    rows,
    caption=f"Regret under a limit of latency, after {most} evaluations, and how far each search is ahead of random search; both in points",
)
figure, axes = figures.axes(2, sharey=True)
unit = np.median(measured)
for ax, size, label in (
    (axes[0], predicted, "sum of the table"),
    (axes[1], counted, "multiply-adds"),
):
    x = size / np.median(size)
    for chosen, look in ((~slow, LOOKS["evolution"]), (slow, LOOKS["auto_keras"])):
        ax.plot(
            x[chosen],
            measured[chosen] / unit,
            **look | {"linestyle": "none", "markersize": 5},
        )
    ax.axvline(1, color="black", linestyle=":")
    ax.axhline(1, color="black", linestyle=":")
    ax.set_xlabel(f"{label} (median = 1)")
axes[0].set_ylabel("measured time (median = 1)")
text = f"{missed(predicted):.0f} % of what the table admits is too slow, and {missed(counted):.0f} % of what multiply-adds admit"
figures.show(
    figure,
    finding=text[0].upper() + text[1:],
    name="fig-latency-limit",
    caption="Measured time of whole networks on this processor, one image and one thread, against the sum of the table (left) and multiply-adds (right). Left of the dotted line a network is admitted; above it is slower than half of the networks (triangles).",
    alt=f"Two clouds of points. {text[0].upper() + text[1:]}; rank correlations {check.rank_correlation:.2f} and {evidence.number(by_count, 2)}.",
)
word = "fewer than" if missed(predicted) < missed(counted) else "no fewer than"
evidence.phrase("search_compared.latency.word", word)
sure = [
    f"{NAMES[name]} is {'better' if np.mean(v) > 0 else 'worse'} than random search"
    for name, values in under.items()
    if name != "random" and apart(v := (under["random"] - values)[:, -1])
]
evidence.phrase(
    "search_compared.latency.outcome",
    listing(sure) or "no method can be told from random search",
)

# %% [markdown]
# **What to see.** The table ranks whole networks with a correlation of {mean}`search_compared.latency.rank_correlation 2`, multiply-adds with {mean}`search_compared.latency.multiply_adds_rank_correlation 2`.
# Of the networks that the table admits, {mean}`search_compared.latency.table_missed_pct` miss a limit that half of all networks meet.
# That is {glue:text}`search_compared.latency.word` the {mean}`search_compared.latency.multiply_adds_missed_pct` of those that multiply-adds admit.
# The sum is not the time of the whole: a whole network takes {mean}`search_compared.latency.whole_over_table_ratio 2` of it.
# So time a few whole networks on your device, divide your limit by this ratio, and search under the result.
#
# Under this limit, after {mean}`search_compared.device.evaluations` evaluations, {glue:text}`search_compared.latency.outcome`.
#
# ## Where it breaks
#
# **A limit as a reward.** MnasNet as it was published searches the whole space, with a reward that falls beyond the limit.
# How many of its evaluations are spent on networks that cost too much?

# %% tags=["hide-input"]
wasted, whole_regret = [], []
everywhere = Within(space, lambda c: 1.0 if c in work else math.inf, limit=1.0)
for seed in range(other_repeats):
    fitness = partial(truths.validation, seed=seed % len(table.SEEDS))
    rows = first_new(by_controller(everywhere, fitness, seed=seed), budgets[-1]).rows
    kept = [row for row in rows if work[row.candidate] <= limit]
    wasted.append(100 * (1 - len(kept) / len(rows)))
    choice = max(kept, key=lambda made: made.fitness).candidate
    whole_regret.append(best - truth[choice])
record("reward.wasted_pct", wasted, digits=0)
record("reward.regret_points", whole_regret, digits=1)

# %% [markdown]
# They are {mean}`search_compared.reward.wasted_pct` of its different networks.
# Its choice within the limit has a regret of {mean}`search_compared.reward.regret_points`.
# Where a cost is known before the training, as multiply-adds and a table of latencies are, put it into the space.
#
# **One training is no truth.** The searches end at the regret of the noise.
# We let random search evaluate {mean}`search_compared.noise.evaluations` networks, and then train its first {mean}`search_compared.passes.finalists` with the two other seeds.
# The choice is the largest mean of three.
# The truth is about the same trainings, on other images, which flatters the choice a little.

# %% tags=["hide-input"]
evaluations = budgets[2]
once_more, at_once = [], []
for seed in range(repeats):
    fitness = partial(truths.validation, seed=seed % len(table.SEEDS))
    rows = randomly(fitness, seed).rows
    order = sorted(rows[:evaluations], key=lambda made: -made.fitness)[:finalists]
    tried = [made.candidate for made in order]
    by_three = {c: np.mean(truths.row(c).validation) for c in tried}
    most_sure = max(by_three, key=by_three.get)  # not chosen by test
    once_more.append(best - truth[most_sure])
    spent = evaluations + (len(table.SEEDS) - 1) * len(order)
    history = History(rows[:spent])
    at_once.append(best - truth[history.best.candidate])
record("noise.evaluations", evaluations, exact=True)
record("noise.trainings", spent, exact=True)
record("noise.again_regret_points", once_more, digits=1)
record("noise.more_regret_points", at_once, digits=1)
gain = [more - again_ for more, again_ in zip(at_once, once_more, strict=True)]
record("noise.gain_points", gain, digits=1)
three = {chain: np.mean(truths.row(chain).validation) for chain in within}
of_three = best - truth[max(within, key=three.get)]
record("noise.all_regret_points", of_three, digits=1, exact=True)
word = "is ahead" if np.mean(gain) > 0 else "is behind"
evidence.phrase(
    "search_compared.noise.outcome",
    word if apart(gain) else f"{word} (these runs do not decide it)",
)

# %% [markdown]
# With {mean}`search_compared.noise.trainings` trainings each, repeating the first few {glue:text}`search_compared.noise.outcome`.
# Its regret is {mean}`search_compared.noise.again_regret_points`, and that of trying {finding}`other networks | search_compared.noise.trainings > search_compared.noise.evaluations` instead {mean}`search_compared.noise.more_regret_points`.
# When *every* network has three trainings, the choice by their mean lacks {mean}`search_compared.noise.all_regret_points`; a single training of each lacks {mean}`search_compared.exhaustive.regret_points` on average.
#
# **Another limit.** *Largest first* lives on a coincidence: within a limit of multiply-adds, parameters still tell.
# With a limit on parameters, and the most multiply-adds first, does the rule hold?

# %% tags=["hide-input"]
tight = float(np.median([space.parameters(chain) for chain in space]))
light = [chain for chain in networks if parameters[chain] <= tight]
light_truth = {chain: truth[chain] for chain in light}
light_space = Within(space, lambda c: parameters.get(c, math.inf), limit=tight)
light_random = partial(randomly, of=light_space, budget=evaluations)
other = {
    "random": regrets(light_random, repeats, light_truth, evaluations)[:, -1],
    "largest": regrets(
        partial(in_order, work, light), repeats, light_truth, evaluations
    )[:, -1],
}
behind = max(light_truth.values()) - truth[max(light, key=work.get)]

# %% tags=["remove-input"]
record("parameters.largest_regret_points", behind, digits=1, exact=True)
record("parameters.random_regret_points", other["random"], digits=1)
record("parameters.first_regret_points", other["largest"], digits=1)

# %% [markdown]
# The rule fails: the network with the most multiply-adds lacks {mean}`search_compared.parameters.largest_regret_points`, {finding}`more | search_compared.parameters.largest_regret_points > search_compared.table.largest_regret_points` than the largest did above.
# After {mean}`search_compared.noise.evaluations` evaluations the rule as a search has a regret of {mean}`search_compared.parameters.first_regret_points`, and random search of {mean}`search_compared.parameters.random_regret_points`.
#
# ## Exercises
#
# 1. A search draws networks at random. How many must it draw to have one of the best twentieth, with a probability of nineteen in twenty?

# %% tags=["hide-cell"]
needed = math.ceil(math.log(0.05) / math.log(0.95))
evidence.answer(
    f"It needs {needed} draws: each misses with a probability of 0.95, and 0.95 to the power of {needed} is {0.95**needed:.3f}. This holds for a space of any size, which is why random search is hard to beat."
)

# %% [markdown]
# 2. How many networks must be judged before training shared weights for forty epochs takes fewer passes than training each network alone?

# %% tags=["hide-cell"]
forward = len(images.validation) / 3
even = math.ceil(40 * len(images.train) / (one - forward))
evidence.answer(
    f"From {even} networks on: the shared weights take {40 * len(images.train):,} passes and {forward:.0f} for each network, and a training alone {one:,.0f}."
)

# %% [markdown]
# 3. The searches chose by the accuracy of one training. How well does that rank the networks within the limit, and how well the best fifth of them?

# %% tags=["hide-cell"]
ranked = sorted(within, key=lambda chain: -truth[chain])  # not chosen by test
top = ranked[: len(within) // 5]


def agreement(chains):
    return np.mean(
        [
            stats.spearmanr(
                [truths.validation(c, seed=seed) for c in chains],
                [truth[c] for c in chains],
            ).statistic
            for seed in table.SEEDS
        ]
    )


evidence.answer(
    f"All of them with a rank correlation of {agreement(within):.2f}, the best fifth with {agreement(top):.2f}: one training finds the good networks and cannot tell which of them is best."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 3.2.4
# ```
#
# ## In short
#
# - Compare with random search, and with the largest network that your limit allows: neither needs a method.
# - Put the cost into the space, from a latency table of your own device, and check the table on a few whole networks.
# - Let shared weights rank, and train the first few of the ranking alone.
# - One training finds good networks and cannot tell the best few apart, whatever the search.
#
# ## Sources of this chapter
#
# - {cite:t}`li2019random` ask for random search as a rival, with and without shared weights;
#   {cite:t}`real2019regularized` introduce regularized evolution.
# - {cite:t}`jin2019autokeras` introduce Auto-Keras, {cite:t}`tan2019mnasnet` MnasNet, {cite:t}`pham2018efficient` ENAS
#   and {cite:t}`veniat2018learning` budgeted super networks; {cite:t}`berthelier2020survey` is the survey.
