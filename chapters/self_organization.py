# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-self-organization)=
# # Networks that organize themselves
#
# Can the units of a network find the shape of their data by local rules, without labels and without a plan?
# Those of a neural gas can: on samples from two rings, their edges form two closed chains in
# {mean}`self_organization.gas.rings_right_pct 0` of the runs.
# A self-organizing map keeps the grid it was given, and leaves
# {mean}`self_organization.compare.rings_square_dead_pct 0` of its units between the rings, where there are no data.
#
# ```{claims} self_organization
# ```
#
# ```{cost} self_organization
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits, mnist, or the path of an image folder
first = [1078, 270, 449]  # of them: training, validation and test images
components = 10  # principal components that are left of an image
contrasts = [[0, 1], [3, 8]]  # classes that a perceptron tells apart
association = 128  # association units of a perceptron
perceptron_seeds = 5  # perceptrons for each pair of classes
few_units = [2, 4, 8, 16, 32]  # association units for exclusive or
xor_seeds = 50  # perceptrons for each of these numbers
presentations = 60_000  # pairs of cells that are active together
formed_after = [1, 20_000, 40_000, 60_000]  # presentations at which a map is looked at
sheet_seeds = 3  # maps between two sheets
map_side = 10  # rows, and columns, of a map of the unit square
map_steps = 10_000  # samples that are presented to it
map_seeds = 5  # such maps, from different starts
radii = [0.5, 1.0, 2.0, 5.0]  # of the neighborhood at the start, in units of the grid
samples = 2000  # points of a shape to learn from; as many to choose by, and to test
side = 6  # rows, and columns, of the maps that are compared; a gas has as many units
steps = 20_000  # samples that are presented to each of them
seeds = 5  # maps and gases of each kind
tuning_seeds = 3  # of them, those by which settings are chosen
restarts = 10  # runs of k-means of which the best one is kept
structure_seeds = 10  # gases whose edges are counted
early = 0.25  # share of its steps after which a gas is stopped
frames = 40  # of the animation

# %% tags=["hide-input"]
from itertools import pairwise, product

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from lib import datasets, evidence, figures, measure
from lib.figures import animation
from lib.self_organization import (
    neural_gas,
    perceptron,
    self_organizing_map,
    willshaw_malsburg,
)
from lib.self_organization.neural_gas import DEMO, PAPER, NeuralGas
from lib.self_organization.perceptron import RosenblattPerceptron
from lib.self_organization.self_organizing_map import SelfOrganizingMap
from lib.self_organization.shared.steps import neighborhood
from lib.self_organization.willshaw_malsburg import WillshawMalsburg

dataset = datasets.load(data, first=first)
record = evidence.recorder("self_organization", dataset)
units = side * side
GRAY = figures.look("dense")["color"]


def panel(ax, positions, edges, look, points=None):  # units, edges and samples
    if points is not None:
        ax.plot(*points.T, ".", color="#c8c8c8", markersize=2)
    lines = np.full((len(edges), 3, 2), np.nan)  # one line with gaps: a small file
    lines[:, :2] = positions[edges]
    ax.plot(*lines.reshape(-1, 2).T, color=look["color"], linewidth=1)
    size = 3 if len(positions) < 50 else 1.5
    ax.plot(*positions.T, "o", color=look["color"], markersize=size)
    ax.set_aspect("equal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


def grid_edges(rows, columns):  # neighbors in a grid whose units are counted by rows
    numbers = np.arange(rows * columns).reshape(rows, columns)
    across = np.stack([numbers[:, :-1], numbers[:, 1:]], axis=-1).reshape(-1, 2)
    down = np.stack([numbers[:-1], numbers[1:]], axis=-1).reshape(-1, 2)
    return np.concatenate([across, down])


def panels(rows, columns, height):
    figure = figures.axes()[0]
    figure.clear()
    figure.set_size_inches(6.0, height)
    with figures.style():
        return figure, figure.subplots(rows, columns)


# %% [markdown]
# (sec-perceptron)=
# ## Rosenblatt's perceptron: one trained unit after random ones
#
# **The idea.** A retina, that is the input, feeds association {term}`units <unit>` through connections that are drawn at random and
# never change.
# One response unit computes a weighted sum of their outputs, and changes its weights only when its answer is wrong
# {cite:p}`rosenblatt1958perceptron`.
# So only the weights of this one unit organize themselves, and they need a teacher that knows the labels.
#
# **The formula.** The input is $x$, the connections of the association units are sparse random signs $R$, their
# threshold is $\theta$, and the labels are $y = \pm 1$:
#
# $$ a = \mathbb 1[R x > \theta], \qquad \hat y = \operatorname{sign}(w \cdot a + b), \qquad \text{on an error: } w \leftarrow w + y\, a, \quad b \leftarrow b + y . $$ (eq-perceptron)
#
# If the two classes can be separated with a margin $\gamma$, learning makes at most $(\rho/\gamma)^2$ mistakes, where
# $\rho$ is the largest length of a vector $(a, 1)$.
# Novikoff proved this bound in 1962.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(perceptron.learn)

# %% [markdown]
# **Exact checks.** A straight line separates the cases of *and*, and those of *or*, so learning ends, within the bound.
# No straight line separates those of *exclusive or*: at least one of its four cases is wrong after any number of
# passes.

# %%
cases = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
truth = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "exclusive or": [0, 1, 1, 0]}
plain = {
    name: RosenblattPerceptron(units=None).fit(cases, labels)
    for name, labels in truth.items()
}
for name in ("and", "or"):
    assert plain[name].converged_
    assert plain[name].mistakes_ <= plain[name].mistake_bound_
assert not plain["exclusive or"].converged_
assert plain["exclusive or"].score(cases, truth["exclusive or"]) <= 3 / 4

# %% [markdown]
# **An experiment.** How many random association units make *exclusive or* separable?
# And can a perceptron distinguish two digits in images that it has not seen?


# %% tags=["hide-input"]
def of_two(split, pair):  # images of two classes, and their labels
    chosen = np.isin(split.labels, pair)
    return split.images.flatten(1).numpy()[chosen], split.labels.numpy()[chosen]


def tells_apart(pair, seed):
    learner = RosenblattPerceptron(association, random_state=seed)
    learner.fit(*of_two(dataset.train, pair))
    wrong = 100 - 100 * learner.score(*of_two(dataset.test, pair))
    return learner.mistakes_, learner.mistake_bound_, wrong


solved = {
    n: [
        100.0
        * RosenblattPerceptron(n, random_state=seed)
        .fit(cases, truth["exclusive or"])
        .converged_
        for seed in range(xor_seeds)
    ]
    for n in few_units
}
told = {
    tuple(pair): [tells_apart(pair, seed) for seed in range(perceptron_seeds)]
    for pair in contrasts
}

# %% tags=["remove-input"]
figures.table(
    [
        {
            "association units": n,
            "solved": record(f"perceptron.xor{n}_solved_pct", runs, digits=0),
        }
        for n, runs in solved.items()
    ],
    caption=f"Share of {xor_seeds} perceptrons that learn exclusive or",
)
record("perceptron.few_solved_pct", solved[few_units[0]], digits=0)
record("perceptron.most_solved_pct", solved[few_units[-1]], digits=0)
record("perceptron.few_units", few_units[0], exact=True)
record("perceptron.most_units", few_units[-1], exact=True)
rows = []
for (one, other), runs in told.items():
    mistakes, bounds, wrong = map(list, zip(*runs, strict=True))
    assert all(m <= b for m, b in zip(mistakes, bounds, strict=True))
    key = f"perceptron.digits{one}{other}"
    rows.append(
        {
            "digits": f"{one} and {other}",
            "mistakes while learning": record(f"{key}_mistakes", mistakes, digits=0),
            "test error": record(f"{key}_error_pct", wrong, digits=1),
        }
    )
figures.table(
    rows, caption=f"Perceptrons with {association} association units on two digits"
)
record(
    "perceptron.easy_error_pct",
    list(zip(*told[tuple(contrasts[0])], strict=True))[2],
    digits=1,
)
record(
    "perceptron.hard_error_pct",
    list(zip(*told[tuple(contrasts[-1])], strict=True))[2],
    digits=1,
)

# %% [markdown]
# **What to see.** Random units make a problem separable that was not:
# {finding}`with more of them, more perceptrons learn exclusive or | self_organization.perceptron.most_solved_pct > self_organization.perceptron.few_solved_pct`.
# With {mean}`self_organization.perceptron.few_units` association units
# {mean}`self_organization.perceptron.few_solved_pct` of the perceptrons do.
# With {mean}`self_organization.perceptron.most_units` units {mean}`self_organization.perceptron.most_solved_pct` do.
# A perceptron that learned to distinguish zeros from ones misclassifies
# {mean}`self_organization.perceptron.easy_error_pct` of new images.
# For threes and eights, which look alike, it is {mean}`self_organization.perceptron.hard_error_pct`.
# The number of mistakes stayed within its bound in every run.
#
# (sec-willshaw)=
# ## Maps between two sheets of cells
#
# **The idea.** The retina of the eye sends nerve fibers to the brain, and fibers that start as neighbors also end as
# neighbors.
# How do they know where to go?
# {cite:t}`willshaw1976patterned` show that activity can tell them.
# Neighboring cells of the first sheet are active together, and neighboring cells of the second sheet excite each other.
# Connections between active cells then grow at the cost of the others.
#
# **The formula.** Two influences set the potential $H_j$ of a cell $j$ in the second sheet.
# The active cells $A$ of the first sheet reach it through connections of strength $s$.
# The other cells of its own sheet excite it from nearby, $e > 0$, and inhibit it from farther away, $e < 0$:
#
# $$ \dot H_j = -\alpha H_j + \sum_i A_i s_{ij} + \sum_k e_{kj} H^*_k, \qquad H^* = \max(0, H - \theta) . $$ (eq-willshaw)
#
# When the potentials have settled, $s_{ij} \leftarrow s_{ij} + h A_i H^*_j$, and the strengths of each cell $j$ are
# scaled back to their mean.
# A few connections in the middle are stronger from the start; these *markers* fix the orientation of the map.
#
# **The code.** First the potentials settle, then the connections grow:

# %% tags=["remove-input"]
figures.show_source(willshaw_malsburg.settled, willshaw_malsburg.present)

# %% [markdown]
# **Exact checks.** The mean strength of the connections of each cell stays the same.
# Without markers nothing grows at all: two active cells raise a potential to the threshold, but not above it.

# %%
pairs = willshaw_malsburg.neighboring_pairs(6, 6)  # side by side in the first sheet
model = WillshawMalsburg(rate=0.1).fit(pairs)
assert np.allclose(model.weights_.mean(axis=0), model.strength)
once, often = (WillshawMalsburg(marker=1.0, presentations=n) for n in (1, 1000))
assert np.allclose(once.fit(pairs).weights_, often.fit(pairs).weights_)

# %% [markdown]
# **An experiment.** The *{term}`receptive field`* of a cell in the second sheet consists of the cells of the first sheet that
# are connected to it.
# In a map, cells that are near each other have fields that are near each other.
# We measure this by the rank correlation of the two distances.
# We let maps form in three ways: as published, without the interaction within the second sheet, and without markers.


# %% tags=["hide-input"]
def formed(seed, **without):  # middles of the fields, and the correlation, over time
    model = WillshawMalsburg(random_state=seed, **without)
    order = np.random.default_rng(seed).integers(len(pairs), size=presentations)
    fields, correlations = [], []
    for begin, end in pairwise([0, *formed_after]):
        model.partial_fit(pairs[order[begin:end]])
        fields.append(model.receptive_fields())
        correlations.append(model.rank_correlation())
    return fields, correlations


arms = {"full": {}, "no_lateral": {"lateral": ()}, "no_markers": {"marker": 1.0}}
sheets = {
    arm: [formed(seed, **without) for seed in range(sheet_seeds)]
    for arm, without in arms.items()
}

# %% tags=["remove-input"]
names = {
    "full": "as published",
    "no_lateral": "without lateral interaction",
    "no_markers": "without markers",
}
last = {arm: [found[-1] for _, found in runs] for arm, runs in sheets.items()}
record("willshaw.rank_correlation", last["full"], digits=2)
record("willshaw.no_lateral_rank_correlation", last["no_lateral"], digits=2)
record("willshaw.no_markers_rank_correlation", last["no_markers"], digits=2)
record("willshaw.presentations", presentations, exact=True)
rows = []
for i, n in enumerate(formed_after):
    row = {"presentations": f"{n:,}"}
    for arm, runs in sheets.items():
        values = [found[i] for _, found in runs]
        row[names[arm]] = record(
            f"willshaw.{arm}_after{n}_correlation", values, digits=2
        )
    rows.append(row)
figures.table(rows, caption="Rank correlation of a map as it forms")
figure, axes = panels(1, 5, 2.2)
shown = [("full", i) for i in (0, 1, len(formed_after) - 1)]
shown += [("no_lateral", -1), ("no_markers", -1)]
labels = [f"{formed_after[i]:,}\npresentations" for _, i in shown[:3]]
labels = [labels[0].replace("ations", "ation"), *labels[1:]]
labels += ["no lateral\ninteraction", "no markers"]
for ax, (arm, i), label in zip(axes, shown, labels, strict=True):
    fields = sheets[arm][0][0][i]
    panel(ax, fields[:, ::-1], grid_edges(6, 6), figures.look("willshaw-malsburg"))
    ax.set(xlim=(-0.4, 5.4), ylim=(5.4, -0.4))
    ax.set_xlabel(label, fontsize=9)
axes[0].set_ylabel("first sheet", fontsize=9)
mean = {arm: evidence.number(np.mean(values), 2) for arm, values in last.items()}
figures.show(
    figure,
    finding=f"An ordered map forms: rank correlation {mean['full']}, and {mean['no_lateral']} without lateral interaction",
    name="fig-willshaw",
    caption="Middles of the receptive fields, in the first sheet; lines join neighboring cells of the second sheet.",
    alt=f"The middles of the fields begin in one knot and unfold into a grid, with a rank correlation of {mean['full']}. Without lateral interaction it is {mean['no_lateral']}, without markers {mean['no_markers']}.",
)

# %% [markdown]
# **What to see.** A map forms, but only with both parts of the model.
# After {mean}`self_organization.willshaw.presentations` presentations its rank correlation is
# {mean}`self_organization.willshaw.rank_correlation`.
# Without lateral interaction it is {mean}`self_organization.willshaw.no_lateral_rank_correlation`, and without markers
# {mean}`self_organization.willshaw.no_markers_rank_correlation`.
# The survey says that the works of this section look to the organization of the brain for self-organizing processes
# ({verdict}`C3.2-01`); this one does, and so does the next.
#
# (sec-som)=
# ## The self-organizing map
#
# **The idea.** {cite:t}`kohonen1982self` drops the nerve cells and keeps the process.
# The units form a grid, and each unit is also a point among the data.
# For each sample, the nearest unit wins and moves toward it, and its neighbors on the grid follow.
# At first the neighborhood is wide, and the grid unfolds; then it shrinks, and each unit settles among its samples.
#
# **The formula.** Unit $i$ has the place $r_i$ on the grid and the weights $w_i$, a point among the samples $x$.
# The step size $\eta$ and the radius $\sigma$ fall with time:
#
# $$ c = \arg\min_i \lVert x - w_i \rVert, \qquad w_i \leftarrow w_i + \eta(t)\, e^{-\lVert r_c - r_i \rVert^2 / 2 \sigma(t)^2}\, (x - w_i) . $$ (eq-som)
#
# **The code.** It takes one step after the other.
# A large map of samples with many features takes many steps at once, by matrix products, with the same result.

# %% tags=["remove-input"]
figures.show_source(self_organizing_map.train, neighborhood)

# %% [markdown]
# **Exact checks.** With radius zero only the winner moves: this is online k-means.
# And no unit ever leaves the convex hull of the samples and its starting point.

# %%
random = np.random.default_rng(0)
points, start = random.random((300, 2)), random.random((12, 2))
alone = {"radius": 1e-200, "final_radius": 1e-200, "shuffle": False}
som = SelfOrganizingMap((3, 4), steps=300, start=start.reshape(3, 4, 2), **alone)
centers = start.copy()
for t, x in enumerate(points):
    nearest = np.linalg.norm(x - centers, axis=1).argmin()
    rate = 0.5 * (0.01 / 0.5) ** (t / 300)
    centers[nearest] += rate * (x - centers[nearest])
assert np.allclose(som.fit(points).weights_.reshape(12, 2), centers)
hull = SelfOrganizingMap(steps=2000, learning_rate=1.0).fit(points).weights_
assert (hull.min((0, 1)) >= points.min(0)).all()
assert (hull.max((0, 1)) <= points.max(0)).all()

# %% [markdown]
# **An experiment.** Does a map unfold over a square?
# Its *topographic error* is the share of samples whose two nearest units are not neighbors on the grid.
# Its *quantization error* is the mean distance of a sample to its nearest unit.
# The same map then gets samples of a ring, a shape that no square grid fits.


# %% tags=["hide-input"]
def ring(n, random, across=0.0):
    angle = random.uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle) + across, np.sin(angle)])


def rings(n, random):
    return np.concatenate([ring(n // 2, random, across) for across in (-1.5, 1.5)])


def square_line(n, random):  # a surface and a line that begins at its edge
    square = random.random((7 * n // 10, 2))
    across = random.uniform(1, 2.5, n - len(square))
    return np.concatenate([square, np.column_stack([across, 0 * across + 0.5])])


def square(n, random):
    return random.random((n, 2))


def drawn(shape, seed, part):  # 0: to learn from, 1: to choose by, 2: to test
    return shape(samples, np.random.default_rng([seed, part]))


def dead_pct(model, points, n):  # units that are nearest to no sample
    return 100 * np.mean(np.bincount(model.predict(points), minlength=n) == 0)


def unfolded(shape, seed, **options):
    options = {"steps": map_steps, "random_state": seed} | options
    som = SelfOrganizingMap((map_side, map_side), **options)
    return som.fit(drawn(shape, seed, 0))


def growing_map(points, grid, stops, seed, **options):  # its units at these steps
    random = np.random.default_rng(seed)
    start = random.choice(points, grid[0] * grid[1], replace=False)
    start = start.reshape(*grid, -1)
    som = SelfOrganizingMap(grid, steps=stops[-1], start=start, **options)
    order = random.integers(len(points), size=stops[-1])
    taken = []
    for begin, end in pairwise([0, *stops]):
        som.partial_fit(points[order[begin:end]])
        taken.append(som.weights_.reshape(-1, 2).copy())
    return taken


on_square = [unfolded(square, seed) for seed in range(map_seeds)]
on_ring = [unfolded(ring, seed) for seed in range(map_seeds)]
unseen = [drawn(square, seed, 2) for seed in range(map_seeds)]
topographic = [
    100 * som.topographic_error(points)
    for som, points in zip(on_square, unseen, strict=True)
]
quantization = [
    som.quantization_error(points)
    for som, points in zip(on_square, unseen, strict=True)
]
dead = [
    dead_pct(som, drawn(ring, seed, 0), map_side**2) for seed, som in enumerate(on_ring)
]
unfolding = np.geomspace(1, map_steps, 4).astype(int).tolist()
taken = growing_map(drawn(square, 0, 0), (map_side, map_side), unfolding, 0)

# %% tags=["remove-input"]
record("som.topographic_pct", topographic, digits=1)
record("som.quantization_error", quantization, digits=3)
record("som.ring_dead_pct", dead, digits=0)
record("som.units", map_side**2, exact=True)
figure, axes = panels(1, 5, 2.2)
look, edges = figures.look("self-organizing-map"), grid_edges(map_side, map_side)
for ax, n, positions in zip(axes, unfolding, taken, strict=False):
    panel(ax, positions, edges, look)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel(f"{n:,}\nsample{'s' * (n > 1)}", fontsize=9)
panel(axes[4], on_ring[0].weights_.reshape(-1, 2), edges, look)
axes[4].set_xlabel("on a ring", fontsize=9)
axes[0].set_ylabel("unit square", fontsize=9)
figures.show(
    figure,
    finding=f"The map unfolds over a square; on a ring {np.mean(dead):.0f} % of its units have no sample",
    name="fig-som",
    caption="Units of a map in the plane of the samples, and the lines of its grid.",
    alt=f"A tangle of units becomes a regular grid over the square, with a topographic error of {np.mean(topographic):.1f} %. The same map on a ring leaves {np.mean(dead):.0f} % of its units inside it.",
)

# %% [markdown]
# **What to see.** The map starts as a tangle and becomes a grid.
# On new samples the topographic error is {mean}`self_organization.som.topographic_pct`, and the quantization error is
# {mean}`self_organization.som.quantization_error` sides of the square.
# On a ring, {mean}`self_organization.som.ring_dead_pct` of its {mean}`self_organization.som.units` units are nearest to
# no sample.
# So you need to know the shape of the data before you choose the grid.
#
# (sec-neural-gas)=
# ## Neural gas: units without a grid
#
# **The idea.** {cite:t}`martinetz1991neural` remove the grid.
# For each sample, all units are ranked by their distance to it, and all move toward it, the nearest by the largest
# step.
# Which units move together depends on the samples alone.
# Edges then show the shape of the data: each sample connects its two nearest units, and edges that are no longer used
# disappear.
# This is *competitive Hebbian learning*.
# Where there are enough units, these edges connect exactly the units that are neighbors in the data
# {cite:p}`martinetz1994topology`.
#
# **The formula.** Unit $i$ has rank $k_i = 0, 1, 2, \dots$, and the step size $\epsilon$ and the range $\lambda$ fall
# with time {cite:p}`martinetz1993neural`:
#
# $$ w_i \leftarrow w_i + \epsilon(t)\, e^{-k_i / \lambda(t)}\, (x - w_i), \qquad
# g(t) = g_i\, (g_f / g_i)^{t / t_{\max}} . $$ (eq-neural-gas)
#
# Here $g$ stands for $\epsilon$, for $\lambda$ and for the lifetime $T$ of an edge.
# The age of an edge grows each time one of its units wins and the edge is not used; an edge older than $T(t)$ is
# removed.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(neural_gas.present)

# %% [markdown]
# **Exact checks.** Units on a line that hardly move become a chain: each is connected to the next one and to no other.
# With a range near zero, a gas is online k-means as well.

# %%
line = random.random((3000, 1))
still = {"learning_rate": (1e-12, 1e-12), "lifetime": (1e6, 1e6)}
gas = NeuralGas(20, steps=3000, **still).fit(line)
order = gas.positions_[:, 0].argsort()
chain = {frozenset(pair) for pair in pairwise(order.tolist())}
assert {frozenset(edge) for edge in gas.graph_.edges.tolist()} == chain
winner = {"neighborhood": (1e-4, 1e-4)}  # only the nearest unit moves
gas = NeuralGas(12, steps=300, snapshots=(0,), **winner).partial_fit(points)
centers = gas.snapshots_[0].positions.copy()
for t, x in enumerate(points):
    nearest = np.linalg.norm(x - centers, axis=1).argmin()
    centers[nearest] += 0.5 * 0.01 ** (t / 300) * (x - centers[nearest])
assert np.allclose(gas.positions_, centers)

# %% [markdown]
# **An experiment.** Do the edges of a gas have the shape of the data?
# On a ring they should make one closed chain, and on two rings two.
# On a square with a line attached they should make one piece, in which units on the square have many neighbors and
# units on the line two.

# %% tags=["hide-input"]
shapes = {"ring": ring, "rings": rings, "square_line": square_line}


def has_shape(graph, name):
    closed = len(graph.edges) == units and set(graph.degrees.tolist()) == {2}
    expected = {"ring": (1, True), "rings": (2, True), "square_line": (1, closed)}
    return (graph.components, closed) == expected[name]


gases = {
    name: [
        NeuralGas(units, steps=steps, random_state=seed).fit(drawn(shape, seed, 0))
        for seed in range(structure_seeds)
    ]
    for name, shape in shapes.items()
}
right = {
    name: [100.0 * has_shape(gas.graph_, name) for gas in found]
    for name, found in gases.items()
}
neighbors = {"square": [], "line": []}
for graph in (gas.graph_ for gas in gases["square_line"]):
    across = graph.positions[:, 0]
    neighbors["square"].append(graph.degrees[across < 0.95].mean())
    neighbors["line"].append(graph.degrees[across > 1.05].mean())

# %% tags=["remove-input"]
for name, runs in right.items():
    record(f"gas.{name}_right_pct", runs, digits=0)
for place, degrees in neighbors.items():
    record(f"gas.{place}_neighbors", degrees, digits=1)
record("gas.units", units, exact=True)
shares = np.mean(list(right.values()))
figure, axes = panels(1, 3, 2.1)
said = {"ring": "ring", "rings": "two rings", "square_line": "square and line"}
for ax, name in zip(axes, shapes, strict=True):
    graph, points = gases[name][0].graph_, drawn(shapes[name], 0, 0)[::20]
    panel(ax, graph.positions, graph.edges, figures.look("neural-gas"), points)
    ax.set_xlabel(said[name], fontsize=9)
figures.show(
    figure,
    finding=f"The edges of a gas take the shape of the data: right in {shares:.0f} % of {len(shapes) * structure_seeds} runs",
    name="fig-gas",
    caption=f"Gases of {units} units after {steps:,} samples; gray dots are samples.",
    alt=f"The edges of a gas make a closed chain on a ring, two on two rings, and a net with a tail on a square with a line; they are right in {shares:.0f} % of the runs.",
)

# %% [markdown]
# **What to see.** The edges recover the shape of the data ({verdict}`C3.2.1-09`).
# They are right in {mean}`self_organization.gas.ring_right_pct` of the runs on the ring, in
# {mean}`self_organization.gas.rings_right_pct` on two rings, and in {mean}`self_organization.gas.square_line_right_pct`
# on the square with its line.
# They also show the dimension: a unit has {mean}`self_organization.gas.square_neighbors` neighbors on the square and
# {mean}`self_organization.gas.line_neighbors` on the line.
#
# (sec-self-organization-compared)=
# ## Map, gas and k-means with equal units and samples
#
# **An experiment.** Each technique gets the same number of units and of samples, and starts with its units at randomly
# drawn samples.
# Each has two settings, and we take the one with the lower quantization error on validation samples.
# The settings of the gas are the schedules of its papers and of DemoGNG, a well-known program.
# Online k-means uses the same step sizes, but moves only the nearest unit.
# The settings of the maps are two final radii.
# One map is a square grid; in the other, all units are in a row.
# The yardstick is ordinary k-means, which sees all training samples at once and runs
# {mean}`self_organization.compare.restarts` times from different starts.
# Its best run counts.
# All errors are measured on new samples.
# Besides the three shapes there is a fourth data set, images of digits, reduced to
# {mean}`self_organization.compare.components` principal components.

# %% tags=["hide-input"]
splits = ("train", "validation", "test")
pixels = {name: getattr(dataset, name).images.flatten(1).numpy() for name in splits}
pca = PCA(components, random_state=0).fit(pixels["train"])
digits = {name: pca.transform(part).astype(float) for name, part in pixels.items()}
sets = ("ring", "rings", "square_line", "digits")
winner = {"neighborhood": (1e-4, 1e-4)}  # only the nearest unit moves
grids = {"map": (side, side), "row": (1, units)}
settings = {"gas": [PAPER, DEMO], "kmeans": [PAPER | winner, DEMO | winner]}
for kind, grid in grids.items():
    settings[kind] = [
        {"grid": grid, "final_radius": radius, "final_learning_rate": 0.005}
        for radius in (0.5, 0.1)
    ]


def part(name, split, seed):
    if name == "digits":
        return digits[split]
    return drawn(shapes[name], seed, splits.index(split))


def trained(kind, name, setting, seed):
    options = {"steps": steps, "random_state": seed, **setting}
    kinds = {"map": SelfOrganizingMap, "row": SelfOrganizingMap}
    options |= {} if kind in kinds else {"units": units}
    return kinds.get(kind, NeuralGas)(**options).fit(part(name, "train", seed))


def validation_error(kind, name, setting):
    return np.mean(
        [
            trained(kind, name, setting, seed).quantization_error(
                part(name, "validation", seed)
            )
            for seed in range(tuning_seeds)
        ]
    )


def best_kmeans(name, seed):
    kmeans = KMeans(units, n_init=restarts, random_state=seed)
    kmeans.fit(part(name, "train", seed))
    return kmeans.transform(part(name, "test", seed)).min(1).mean()


chosen, found, unused = {}, {}, {}
for kind, name in product(settings, sets):
    by_validation = [validation_error(kind, name, one) for one in settings[kind]]
    chosen[kind, name] = settings[kind][int(np.argmin(by_validation))]
    models = [trained(kind, name, chosen[kind, name], seed) for seed in range(seeds)]
    found[kind, name] = [
        model.quantization_error(part(name, "test", seed))
        for seed, model in enumerate(models)
    ]
    unused[kind, name] = [
        dead_pct(model, part(name, "train", seed), units)
        for seed, model in enumerate(models)
    ]
for name in sets:
    found["best", name] = [best_kmeans(name, seed) for seed in range(seeds)]
points = part("rings", "train", 0)
gas = NeuralGas(units, steps=10_000)
som = SelfOrganizingMap((side, side), steps=10_000)
times = measure.latency_ms(
    {"gas": lambda: gas.fit(points), "map": lambda: som.fit(points)}
)


def ratios(kind, other, name):
    pairs = zip(found[kind, name], found[other, name], strict=True)
    return [one / two for one, two in pairs]


# %% tags=["remove-input"]
record("compare.restarts", restarts, exact=True)
record("compare.components", components, exact=True)
said = {
    "ring": "ring",
    "rings": "two rings",
    "square_line": "square and line",
    "digits": "digits",
}
kinds = {
    "gas": ("neural gas", figures.look("neural-gas")),
    "kmeans": ("online k-means", figures.look("random")),
    "map": ("square map", figures.look("self-organizing-map")),
    "row": (
        "units in a row",
        figures.look("self-organizing-map") | {"markerfacecolor": "white"},
    ),
}
rows = []
for name in sets:
    for other in ("kmeans", "map", "row", "best"):
        record(
            f"compare.{name}_over_{other}_ratio", ratios("gas", other, name), digits=3
        )
    record(f"compare.{name}_misfit_ratio", ratios("map", "row", name), digits=2)
    row = {"samples of": said[name]}
    for kind, (title, _) in kinds.items():
        key = {"map": "square"}.get(kind, kind)
        row[title] = record(
            f"compare.{name}_{key}_dead_pct", unused[kind, name], digits=0
        )
    rows.append(row)
figures.table(
    rows, caption=f"Share of {units} units that are nearest to no training sample"
)
record("compare.gas_latency_ratio", times["gas"].median / times["map"].median, digits=1)
record("compare.units", units, exact=True)
gains = {name: np.mean(ratios("gas", "kmeans", name)) for name in sets}
evidence.phrase(
    "self_organization.compare.kmeans_phrase",
    "the two are within two percent of each other on every set"
    if max(abs(gain - 1) for gain in gains.values()) <= 0.02
    else "the gas is ahead by more than two percent on some sets, and nowhere behind by as much"
    if max(gains.values()) <= 1.02
    else "neither is ahead on all sets",
)
figure, ax = figures.axes()
height = np.arange(len(sets))[::-1]
for i, (kind, (title, look)) in enumerate(kinds.items()):
    runs = [
        [100 * (ratio - 1) for ratio in ratios(kind, "best", name)] for name in sets
    ]
    figures.dots(ax, height + 0.24 - 0.16 * i, runs, look, title)
ax.axvline(0, color="black", linewidth=1)
ax.set_yticks(height, [said[name] for name in sets])
ax.set_xlabel("quantization error above the best k-means (%)")
figures.legend(ax, columns=2)
figures.show(
    figure,
    finding=f"Neural gas represents every set within {np.ceil(max(100 * abs(np.mean(ratios('gas', 'best', name)) - 1) for name in sets)):.0f} % of the best k-means",
    name="fig-quantization",
    caption=f"Quantization error of {units} units on new samples, relative to the best of {restarts} runs of k-means; means over {seeds} seeds with 95 % intervals.",
    alt=f"Dots of the gas lie at the line of the best k-means on all four sets; those of the square map lie {100 * (np.mean(ratios('map', 'best', 'rings')) - 1):.0f} % to the right of it on two rings.",
)

# %% [markdown]
# **What to see.** The gas represents its samples
# {finding}`as well as the best k-means, within five percent | self_organization.compare.ring_over_best_ratio < 1.05; self_organization.compare.rings_over_best_ratio < 1.05; self_organization.compare.square_line_over_best_ratio < 1.05; self_organization.compare.digits_over_best_ratio < 1.05`.
# Its error is {mean}`self_organization.compare.ring_over_best_ratio` that of the yardstick on a ring, and
# {mean}`self_organization.compare.digits_over_best_ratio` on digits.
# The survey says that {term}`neural gas` aims at an optimal representation ({verdict}`C3.2.1-01`).
# Is the gas ahead of online k-means? In this run, {glue:text}`self_organization.compare.kmeans_phrase`.
#
# A map pays for a grid that does not fit the data: on rings, a square map
# {finding}`has a larger error than as many units in a row | self_organization.compare.ring_misfit_ratio > 1; self_organization.compare.rings_misfit_ratio > 1`.
# Its quantization error is {mean}`self_organization.compare.ring_misfit_ratio` theirs on one ring, and {mean}`self_organization.compare.rings_misfit_ratio` on two.
# The survey makes the same point about hard tasks: the key is an architecture that fits them ({verdict}`C3.2-04`).
#
# The gas pays in time, because it ranks all units for each sample: the same number of samples takes it
# {mean}`self_organization.compare.gas_latency_ratio`
# {finding}`as long as | self_organization.compare.gas_latency_ratio > 1` the map.
#
# ## A map and a gas as they learn
#
# Both get samples from the same two rings, and start with their units at randomly drawn samples.

# %% tags=["hide-input"]
moments = np.unique(np.geomspace(1, steps, frames).astype(int)).tolist()
options = {"steps": steps, "snapshots": moments, **chosen["gas", "rings"]}
gas = NeuralGas(units, **options).fit(points)
of_gas = [(graph.positions, graph.edges) for graph in gas.snapshots_]
edges = grid_edges(side, side)
options = {k: v for k, v in chosen["map", "rings"].items() if k != "grid"}
of_map = growing_map(points, (side, side), moments, 0, **options)
of_map = [(positions, edges) for positions in of_map]

# %% tags=["remove-input"]
grown = {"self-organizing-map": of_map, "neural-gas": of_gas}
titles = {"self-organizing-map": "square map", "neural-gas": "neural gas"}
lost = np.mean(unused["map", "rings"])
few = [0, 2 * len(moments) // 3, 5 * len(moments) // 6, len(moments) - 1]
figure, axes = panels(2, 4, 2.6)
for row, (name, graphs) in zip(axes, grown.items(), strict=True):
    for ax, i in zip(row, few, strict=True):
        panel(ax, *graphs[i], figures.look(name), points[::20])
    row[0].set_ylabel(titles[name], fontsize=9)
for ax, i in zip(axes[1], few, strict=True):
    ax.set_xlabel(f"{moments[i]:,} sample{'s' * (i > 0)}", fontsize=9)
figures.show(
    figure,
    finding=f"A square map leaves {lost:.0f} % of its units without data; a gas takes the shape of its data",
    name="fig-growing",
    caption=f"A square map and a neural gas, {units} units each, over two rings of samples (gray).",
    alt=f"Four steps of learning on two rings: the map stays in one piece and leaves {lost:.0f} % of its units without samples; the gas parts into two closed chains.",
    lead=True,
)
animation.graphs(
    {
        titles[name]: (figures.look(name), points[::5], graphs)
        for name, graphs in grown.items()
    },
    steps=moments,
    unit="samples",
    alt=f"A square map and a neural gas of {units} units unfold over two rings; the map stays one piece, the gas parts into two closed chains.",
    name="fig-animation",
    caption="The same, step by step: press Play, or move the slider.",
)

# %% [markdown]
# **What to see.** The map stays in one piece, and the units that join its two halves end where there are no samples.
# Early on, the gas is a cloud with edges everywhere.
# As its range shrinks, the edges between the rings are no longer used, and they disappear.
#
# None of the four techniques of this chapter adds a unit; the table shows what each of them is given and what it
# learns.

# %% tags=["remove-input"]
columns = ("technique", "given", "learned", "labels")
given = [
    ("perceptron", "random connections", "weights of one unit", "yes"),
    ("map between sheets", "cells, interactions, markers", "connections", "no"),
    ("self-organizing map", "units and their grid", "where units are", "no"),
    ("neural gas", "units, number of steps", "where units are, edges", "no"),
]
figures.table(
    [dict(zip(columns, row, strict=True)) for row in given],
    caption="What is given beforehand, and what is learned",
)

# %% [markdown]
# The survey groups these works, and those that followed, under *neural architecture search* ({verdict}`C3.2-02`).
# That is a choice of words: of the four, only the gas finds a structure, its edges.
#
# ## Where it breaks
#
# **A neighborhood that is narrow from the start.** A map whose radius begins too small stays tangled, because only a
# wide neighborhood can put the grid in order.
#
# **A gas that is stopped early.** All schedules of a gas need the number of steps beforehand.

# %% tags=["hide-input"]
tangled = {
    radius: [
        100
        * unfolded(square, seed, radius=radius).topographic_error(
            drawn(square, seed, 2)
        )
        for seed in range(map_seeds)
    ]
    for radius in radii
}
stop = int(early * steps)


def stopped(seed):  # error of a gas that was to go on, by that of one that was not
    train, test = (part("rings", split, seed) for split in ("train", "test"))
    order = np.random.default_rng(seed).integers(len(train), size=stop)
    halted = NeuralGas(units, steps=steps, random_state=seed)
    halted.partial_fit(train[order])
    planned = NeuralGas(units, steps=stop, random_state=seed).fit(train)
    return halted.quantization_error(test) / planned.quantization_error(test)


halted = [stopped(seed) for seed in range(seeds)]

# %% tags=["remove-input"]
figures.table(
    [
        {
            "radius at the start": f"{radius:g}",
            "topographic error": record(
                f"breaks.radius{10 * radius:.0f}_topographic_pct", runs, digits=1
            ),
        }
        for radius, runs in tangled.items()
    ],
    caption=f"Maps of {map_side} by {map_side} units on the unit square",
)
record("breaks.narrow_topographic_pct", tangled[radii[0]], digits=0)
record("breaks.wide_topographic_pct", tangled[radii[-1]], digits=1)
record("breaks.early_error_ratio", halted, digits=1)
record("breaks.early_pct", 100 * early, digits=0, exact=True)

# %% [markdown]
# With the narrowest radius, the topographic error is {mean}`self_organization.breaks.narrow_topographic_pct`,
# {finding}`far more than | self_organization.breaks.narrow_topographic_pct - self_organization.breaks.wide_topographic_pct > 10`
# the {mean}`self_organization.breaks.wide_topographic_pct` with the widest.
# A gas cannot be {finding}`cut short without loss | self_organization.breaks.early_error_ratio > 1.2`: stopped after
# {mean}`self_organization.breaks.early_pct` of its steps, it has {mean}`self_organization.breaks.early_error_ratio` the
# error of a gas that was planned for so few.
#
# ## Exercises
#
# 1. Which of these can a perceptron without association units learn: at least two of three inputs are active, exactly one is, all are?

# %% tags=["hide-cell"]
cube = np.array(list(product([0, 1], repeat=3)))
active = cube.sum(1)
questions = {
    "at least two": active >= 2,
    "exactly one": active == 1,
    "all": active == 3,
}
learned = [
    question
    for question, answers in questions.items()
    if RosenblattPerceptron(None).fit(cube, answers).converged_
]
evidence.answer(
    f"It learns {' and '.join(learned)}. Where exactly one is active, the answer changes from no to yes and back to no as inputs are added, but a plane can be crossed only once."
)

# %% [markdown]
# 2. Twelve small clusters are far apart, and there are twelve units. How many clusters have a unit after online k-means, and after neural gas?

# %% tags=["hide-cell"]
random = np.random.default_rng(0)
middles = 10.0 * np.array(list(product(range(4), range(3))))
clusters = np.repeat(middles, 50, axis=0) + random.normal(size=(600, 2))


def occupied(options, seed):  # clusters in which a unit is
    found = NeuralGas(12, steps=10_000, random_state=seed, **options).fit(clusters)
    apart = found.positions_[:, None] - middles
    return (np.linalg.norm(apart, axis=-1).min(0) < 3).sum()


alone, together = (
    np.mean([occupied(options, seed) for seed in range(10)])
    for options in (winner, PAPER)
)
evidence.answer(
    f"On average {alone:.1f} after online k-means, and {together:.1f} after neural gas. A unit of k-means that wins nothing never moves, and two that begin in one cluster both stay there; in a gas all units move at first, so the start is forgotten."
)

# %% [markdown]
# 3. Move two rings closer together. Down to which gap do the edges of a gas still separate them?

# %% tags=["hide-cell"]
gaps = [0.8, 0.4, 0.2, 0.1, 0.05]


def parted(gap, seed):
    random = np.random.default_rng(seed)
    both = [ring(1000, random, across) for across in (0, 2 + gap)]
    found = NeuralGas(units, steps=20_000, random_state=seed).fit(np.concatenate(both))
    return found.graph_.components == 2


told = [gap for gap in gaps if all(parted(gap, seed) for seed in range(5))]
apart = 4 * np.pi / units
evidence.answer(
    f"In all of five runs down to a gap of {min(told)}, of those that were tried; neighbors on a ring are {apart:.2f} apart. Where the gap is smaller than that, a sample at the gap has its nearest two units on different rings."
)

# %% [markdown]
# ## In short
#
# - Local rules create order: a wide neighborhood untangles the units, and a narrow one fits them to the data.
# - A map keeps the grid that it is given, and has idle units where the data have another shape.
# - A gas needs no grid, and its edges find the shape of the data; but the number of units and of steps must be known
#   beforehand.
#
# ## Sources of this chapter
#
# - {cite:t}`rosenblatt1958perceptron` introduces the perceptron.
# - {cite:t}`willshaw1976patterned` describe the map between two sheets of cells; our constants are those of a public
#   reimplementation.
# - {cite:t}`kohonen1982self` introduces the self-organizing map.
# - {cite:t}`martinetz1991neural` and {cite:t}`martinetz1993neural` introduce neural gas, and
#   {cite:t}`martinetz1994topology` show what its edges find.
# - {cite:t}`berthelier2020survey` is the survey.
