# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (sec-hashing-search)=
# # Hash tables that find the neurons to compute
#
# Can a layer compute only the units that matter for an input, without computing them all to find out which?
# For each image, our digit classifier lets hash tables choose {mean}`hashing_search.layers.active_pct 0` of its hidden
# units, and then needs {mean}`hashing_search.layers.work_pct 0` of the multiply-adds.
# It gets {mean}`hashing_search.layers.lsh_accuracy_pct 1` of the test images right, and with all units
# {mean}`hashing_search.layers.dense_accuracy_pct 1`.
# But this saving is a count: by the clock, hashing in Python {glue:text}`hashing_search.layers.clock`.
#
# ```{claims} hashing_search
# ```
#
# ```{cost} hashing_search
# ```

# %% tags=["parameters"]
data = "digits"  # gray images: digits, mnist, or the path of an image folder
first = [800, 250, 400]  # of them: training, validation and test images
seeds = 3  # networks of each kind, trained from different starts
hidden = 400  # units of the hidden layer
epochs = 7  # to train each network
batch_size = 32  # images in a step
rates = [0.05]  # of learning, from which validation images choose
active = 0.05  # share of the hidden units that are computed for an image
more_active = [0.2]  # other shares, for the curves
bits = 4  # of a key of the layer's hash tables
tables = 100  # of the layer
pool = 14  # neighboring pixels that are added up before they are hashed
rebuild = 10  # steps after which the tables are rebuilt
ages = [0, 10, 40, 80]  # steps without rebuilding after which recall is measured
beta = -3.0  # of adaptive dropout: the smaller it is, the fewer units are kept
draws = 6  # sets of tables, to see how often a unit is chosen
drawn_images = 100  # for which that is seen
flips = 20_000  # planes, to see how often two vectors are on the same side
repeats = 8  # of both counts, with other planes
trials = 400  # pairs of vectors, to see how often they share a bucket
shapes = [[6, 5], [6, 100], [10, 50]]  # bits of a key and tables, for the pairs
search_tables = 128  # of one bit each, for the search
queries = 200  # images with which the search is tried
retrieved = [0.05, 0.1, 0.2, 0.4]  # shares of the database that a search looks at
judged = 0.2  # the one of them that decides
wide = 8000  # units of a layer whose rows are gathered
gathered = [0.01, 0.05, 0.25]  # shares of its rows

# %% tags=["hide-input"]
import copy
from functools import cache
from itertools import cycle, product

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from lib import datasets, evidence, figures, measure, models, training
from lib.cache import cached
from lib.hashing import inner_product_search as search
from lib.hashing import simhash
from lib.hashing import sparse_layers as sparse
from lib.hashing.shared import active_products, adaptive_dropout, linear_layers

dataset = datasets.load(data, first=first)
record = evidence.recorder("hashing_search", dataset)
shape = tuple(dataset.train.images.shape[1:])
pixels = dataset.train.images[0].numel()


def accuracy(network, split):
    return 100 - training.error_pct(network, split)


def differences(ones, others):  # of networks with the same seeds
    return [a - b for a, b in zip(ones, others, strict=True)]


# %% [markdown]
# (sec-simhash)=
# ## SimHash: near vectors meet in a bucket
#
# **The idea.** Draw a plane at random through the origin, and note in one bit on which side of it a vector lies.
# Two vectors at a small angle are rarely separated, so they usually have the same bit {cite:p}`charikar2002similarity`.
# Several bits together are the key of a {term}`bucket` in a {term}`hash table`.
# With several tables, a vector has several chances to meet its neighbors {cite:p}`indyk1998approximate`.
#
# **The formula.** For a direction $r$ drawn from a normal distribution, and vectors $x$ and $y$ at the angle $\theta$,
#
# $$ h_r(x) = [\,r^\top x \ge 0\,], \qquad P\big[h_r(x) = h_r(y)\big] = p = 1 - \theta / \pi . $$ (eq-simhash)
#
# With $K$ bits in a key and $L$ tables, the two vectors share a bucket in at least one table with probability
#
# $$ 1 - (1 - p^K)^L . $$ (eq-retrieval)
#
# More bits keep distant vectors out of the bucket, and more tables let near ones in.
#
# **The code.** This method computes the keys of a vector; with *probes*, it also returns the buckets that differ in the
# least certain bits:

# %% tags=["remove-input"]
figures.show_source(simhash.Tables.keys)

# %% [markdown]
# **An exact check.** Only the direction of a vector counts, and the opposite vector has the opposite bits.

# %%
generator = torch.Generator().manual_seed(0)
vectors = torch.randn(50, 8, generator=generator)
index = simhash.Tables(vectors, bits=6, tables=10, seed=0)
keys = index.keys(vectors)
assert torch.equal(index.keys(1000 * vectors), keys)
assert torch.equal(index.keys(-vectors), 2**6 - 1 - keys)

# %% [markdown]
# **An experiment.** How often do two vectors have the same bit, and how often do they meet in one of the tables?
# Pairs of vectors in planes that are orthogonal to each other are independent trials, so one set of tables can test
# many pairs.


# %% tags=["hide-input"]
angles = torch.arange(1, 11, dtype=torch.float64) * torch.pi / 11


def turned(count):  # vectors, and each of them turned by all angles in its own plane
    one = torch.eye(2 * count, dtype=torch.float64).view(count, 2, 2 * count)
    cosines, sines = angles.cos()[:, None], angles.sin()[:, None]
    return one[:, 0], torch.cat([cosines * u + sines * v for u, v in one])


def same_bits(seed):  # share of the planes, for each angle
    vector, others = turned(1)
    index = simhash.Tables(others, bits=1, tables=flips, seed=seed)
    return index.query(vector)[0] / flips


def meetings(bits, tables, seed, count=100):  # share of the pairs, for each angle
    vectors, others = turned(count)
    met = torch.zeros(len(angles))
    for part in range(trials // count):
        drawn = 10_000 * seed + part
        index = simhash.Tables(others, bits=bits, tables=tables, seed=drawn)
        shared = index.query(vectors).view(count, count, -1)
        met += (shared[range(count), range(count)] > 0).sum(0)
    return met / (trials // count * count)


def worst(found, expected, n):  # standard errors away, where counts are not rare
    variance = expected * (1 - expected)
    seen = n * variance >= 5
    return float(((found - expected) / (variance / n).sqrt())[seen].abs().max())


p = simhash.collision_probability(angles)
same = [same_bits(seed) for seed in range(repeats)]
met = {tuple(kl): [meetings(*kl, seed) for seed in range(repeats)] for kl in shapes}
expected = {
    (k, n): simhash.retrieval_probability(angles, bits=k, tables=n) for k, n in met
}

# %% tags=["remove-input"]
record("simhash.collision_worst_z", [worst(run, p, flips) for run in same], digits=1)
away = [
    max(worst(met[kl][seed], expected[kl], trials) for kl in met)
    for seed in range(repeats)
]
record("simhash.retrieval_worst_z", away, digits=1)
figure, axes = figures.axes(2, sharey=True)
fine = torch.linspace(0, torch.pi, 100, dtype=torch.float64)
degrees, curve = angles.rad2deg().tolist(), fine.rad2deg()
looks = [figures.look(n) for n in ("pruned", "hash-simhash-lsh", "hash-mips-alsh")]
figures.line(
    axes[0],
    degrees,
    (100 * torch.stack(same)).T.tolist(),
    figures.look("hash-lsh-sparse-layers") | {"linestyle": "none"},
    "one bit",
    bounds=figures.PERCENT,
)
axes[0].plot(curve, 100 * simhash.collision_probability(fine), color="black", lw=1)
for (k, n), look in zip(met, cycle(looks)):
    runs = (100 * torch.stack(met[k, n])).T.tolist()
    look = look | {"linestyle": "none"}
    name = f"{k} bits, {n} tables"
    figures.line(axes[1], degrees, runs, look, name, bounds=figures.PERCENT)
    formula = simhash.retrieval_probability(fine, bits=k, tables=n)
    axes[1].plot(curve, 100 * formula, color="black", lw=1)
axes[0].set(xlabel="angle (degrees)", ylabel="how often (%)")
axes[1].set(xlabel="angle (degrees)")
figures.legend(axes[0], columns=1)
figures.legend(axes[1], columns=1)
figures.show(
    figure,
    finding=f"Vectors meet as often as the formulas say: within {max(away):.1f} standard errors",
    name="fig-simhash",
    caption="How often two vectors have the same bit (left) and share a bucket of some table (right), against their angle; marks are counts, lines are formulas.",
    alt=f"Counts lie on the curves of the formulas, at most {max(away):.1f} standard errors away; tables turn the straight line into a steep step.",
)

# %% [markdown]
# **What to see.** The counts agree with the formulas: the largest deviation of a run is, on average,
# {mean}`hashing_search.simhash.retrieval_worst_z` standard errors ({verdict}`C2.2-14`).
# The title of the figure has the largest of all runs.
# The probability that one bit agrees falls in a straight line with the angle.
# Keys and tables bend this line into a step, and $K$ and $L$ set the angle at which it falls.
#
# (sec-inner-products)=
# ## Search for large inner products
#
# **The idea.** A {term}`unit` of a network is active when the inner product of its weights with the input is large.
# A small angle is not enough for that: a longer vector at a wider angle can have the larger inner product.
# Three transforms therefore append a few values to both vectors, so that the largest inner product becomes the smallest
# distance or angle.
#
# **The formula.** The vectors $x$ of the database are scaled so that $U$ is the largest norm, and the query $q$ is
# scaled to norm 1.
# Neither changes the order of the inner products.
#
# - L2-ALSH {cite:p}`shrivastava2014alsh` appends powers of the norm, $\lVert x\rVert^2, \dots, \lVert x\rVert^{2^m}$, to $x$, and $m$ halves to $q$:
#
# $$ \lVert Q(q) - P(x) \rVert^2 = 1 + \tfrac{m}{4} - 2\, q^\top x + \lVert x\rVert^{2^{m+1}} . $$ (eq-l2-alsh)
#
# - Sign-ALSH {cite:p}`shrivastava2015improved` appends $\frac12$ minus each of these powers to $x$, and zeros to $q$:
#
# $$ \cos\big(Q(q), P(x)\big) = q^\top x \Big/ \sqrt{\tfrac{m}{4} + \lVert x\rVert^{2^{m+1}}} . $$ (eq-sign-alsh)
#
# - Simple-LSH {cite:p}`neyshabur2015symmetric` takes $U = 1$ and appends $\sqrt{1 - \lVert x\rVert^2}$ to $x$ and zero
#   to $q$:
#
# $$ \cos\big(Q(q), P(x)\big) = q^\top x . $$ (eq-simple-lsh)
#
# **The code.** Candidates $x$ are ranked by the number of tables in which they share a bucket with the query:

# %% tags=["remove-input"]
figures.show_source(
    search.simple_database, search.simple_queries, search.Candidates.retrieve
)

# %% [markdown]
# **Exact checks.** The three equations hold to rounding.

# %% tags=["hide-input"]
x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
q = torch.randn(20, 6, generator=generator, dtype=torch.float64)
unit = nn.functional.normalize(q)


def inner(norm):  # inner products, and the norms of the scaled database
    scaled = search.scaled(x, norm)
    return unit @ scaled.T, scaled.norm(dim=1)


def cosines(queries, database):
    return nn.functional.normalize(queries) @ nn.functional.normalize(database).T


inners, norms = inner(0.83)
distances = torch.cdist(search.l2_queries(q), search.l2_database(x)).square()
assert torch.allclose(distances, 1 + 3 / 4 - 2 * inners + norms**16)
inners, norms = inner(0.75)
found = cosines(search.sign_queries(q), search.sign_database(x))
assert torch.allclose(found, inners / (2 / 4 + norms**8).sqrt())
found = cosines(search.simple_queries(q), search.simple_database(x))
assert torch.allclose(found, inner(1.0)[0])

# %% [markdown]
# **A planted case.** A short vector points exactly where the query points.
# A long one is sixty degrees off, but its inner product with the query is ten times as large.
# SimHash returns the short vector, and Simple-LSH the long one.

# %%
database = torch.tensor([[0.1, 0.0], [1.0, 3**0.5]])
query = torch.tensor([[1.0, 0.0]])
assert search.exact(database, query, 1).numbers.item() == 1
planted = {}
for transform in search.TRANSFORMS:
    options = {"transform": transform, "bits": 1, "tables": 2000, "seed": 0}
    planted[transform] = search.Index(database, **options).retrieve(query, 1).item()
assert planted["simhash"] == 0 and planted["simple-lsh"] == 1

# %% [markdown]
# **An experiment.** The database is the hidden layer of a trained digit classifier: one vector for each unit, with its
# bias as the last value.
# The queries are images.
# How many of the ten units with the largest inner products are among those that the search retrieves?


# %% tags=["hide-input"]
def classifier(seed):
    return models.mlp(seed, inputs=pixels, hidden=(hidden,), batch_norm=False)


options = {"split": dataset.train, "epochs": epochs, "batch_size": batch_size}


@cache
def network(way, share, rate, seed):
    build = {
        "dense": classifier,
        "adaptive": lambda s: adaptive_dropout.drop_adaptively(
            classifier(s), ["fc1"], beta=beta, seed=s
        ),
    }
    hashing = {"bits": bits, "tables": tables, "pool": pool}

    def selected(s):
        given = {"fraction": share, "selection": way, "seed": s}
        given |= hashing if way == "lsh" else {}
        return sparse.select(classifier(s), ["fc1"], **given)

    net = build.get(way, selected)(seed)
    fit = options | {"learning_rate": rate, "rebuild": rebuild}
    return cached(sparse.fit, net, seed=seed, **fit)


def best_rate(way):  # on validation images, of the first network
    def judged_by(rate):
        return accuracy(network(way, active, rate, 0), dataset.validation)

    return max(rates, key=judged_by)


def chosen(way, share=active):
    return [network(way, share, best_rate(way), seed) for seed in range(seeds)]


dense = chosen("dense")
images = dataset.test.images[:queries].flatten(1)


def with_one(vectors, last):
    return torch.cat([vectors, last[:, None]], dim=1)


asked = with_one(images, torch.ones(len(images)))
rows = [with_one(net.fc1.weight.detach(), net.fc1.bias.detach()) for net in dense]
truths = [search.exact(database, asked, 10) for database in rows]
recalls = {kind: [] for kind in product(search.TRANSFORMS, retrieved)}


def recall(numbers, truth):  # of the ten largest, in percent
    hits = (numbers[:, :, None] == truth.numbers[:, None, :]).any(1)
    return 100 * hits.double().mean().item()


for seed, (database, truth) in enumerate(zip(rows, truths, strict=True)):
    for transform in search.TRANSFORMS:
        given = {"transform": transform, "bits": 1, "tables": search_tables}
        index = search.Candidates(database, seed=seed, **given)
        ranked = index.retrieve(asked, search.share(hidden, max(retrieved)))
        for share in retrieved:
            some = ranked[:, : search.share(hidden, share)]
            recalls[transform, share].append(recall(some, truth))
lucky = {share: [] for share in retrieved}
for seed, truth in enumerate(truths):
    random = torch.Generator().manual_seed(seed)
    ranks = torch.rand(len(asked), hidden, generator=random).argsort(1)
    for share in retrieved:
        some = ranks[:, : search.share(hidden, share)]
        lucky[share].append(recall(some, truth))

# %% tags=["remove-input"]
names = {
    "simhash": ("SimHash", "hash-simhash-lsh"),
    "l2-alsh": ("L2-ALSH", "gong-scalar-kmeans"),
    "sign-alsh": ("Sign-ALSH", "pruned"),
    "simple-lsh": ("Simple-LSH", "hash-mips-alsh"),
}
lines = {
    label: (
        figures.look(look),
        [100 * share for share in retrieved],
        [recalls[transform, share] for share in retrieved],
    )
    for transform, (label, look) in names.items()
}
lines["random"] = (
    figures.look("random"),
    [100 * share for share in retrieved],
    [lucky[share] for share in retrieved],
)
record("mips.random_recall_pct", lucky[judged], digits=1)
for transform in names:
    key = transform.replace("-", "_")
    record(f"mips.{key}_recall_pct", recalls[transform, judged], digits=1)
simple = recalls["simple-lsh", judged]
gain = differences(simple, lucky[judged])
record("mips.recall_gain_pct", gain, unit="points", digits=1)
over = differences(simple, recalls["simhash", judged])
record("mips.over_simhash_points", over, digits=1)
record("mips.retrieved_pct", 100 * judged, digits=0, exact=True)
best = max(names, key=lambda t: np.mean(recalls[t, judged]))  # not chosen by test
evidence.phrase("hashing_search.mips.best", names[best][0])
evidence.phrase(
    "hashing_search.mips.needed",
    "it does better than plain SimHash"
    if np.mean(over) - evidence.interval(over)[1] > 0
    else "plain SimHash does better"
    if np.mean(over) + evidence.interval(over)[1] < 0
    else "it does as well as plain SimHash",
)
figures.curves(
    lines,
    xlabel="share of the units that is retrieved (%)",
    ylabel="recall of the ten largest (%)",
    bounds=figures.PERCENT,
    finding=f"Among {100 * judged:.0f} % of the units, Simple-LSH finds {np.mean(simple):.0f} % of the ten largest inner products",
    name="fig-inner-products",
    caption=f"Share of the ten largest inner products that is found, against the share of the hidden units that is retrieved, with {search_tables} hash tables of one bit; means over three networks with 95 % intervals.",
    alt=f"All four curves are above that of random choice. At {100 * judged:.0f} % retrieved, Simple-LSH finds {np.mean(simple):.0f} %, plain SimHash {np.mean(recalls['simhash', judged]):.0f} %, random choice {np.mean(lucky[judged]):.0f} %.",
)

# %% [markdown]
# **What to see.** When it retrieves {mean}`hashing_search.mips.retrieved_pct` of the units, Simple-LSH
# {finding}`finds far more than random choice | hashing_search.mips.simple_lsh_recall_pct - hashing_search.mips.random_recall_pct > 20`:
# {mean}`hashing_search.mips.simple_lsh_recall_pct 0` of the ten largest inner products ({verdict}`C2.2-15`).
# On the weights of this network and with the same number of hashes, {glue:text}`hashing_search.mips.needed`.
# The planted case shows what can happen, not what happens in every network.
# Of the four searches, {glue:text}`hashing_search.mips.best` has the highest mean recall here.
#
# **What it costs.** We compare the search with brute force, which is one matrix product and a selection of the ten
# largest results.
# This is also what `IndexFlatIP` of faiss, a library for similarity search, computes; `benchmarks/search.py` races
# faiss itself where it is installed.

# %%
index = search.Index(rows[0], bits=1, tables=search_tables, seed=0)
calls = {
    "search": lambda: index.search(asked[:25], 10, fraction=judged),
    "brute": lambda: search.exact(rows[0], asked[:25], 10),
}
times = measure.latency_ms(calls)
slower = times["search"].median / times["brute"].median
width = rows[0].shape[1]
by_hashing = index.tables.multiply_adds + width * search.share(hidden, judged)

# %% tags=["remove-input"]
record("mips.latency_ratio", slower, digits=0)
record("mips.multiply_adds_ratio", by_hashing / (width * hidden), digits=2, exact=True)
texts = "takes longer" if slower > 1 else "is faster"
evidence.phrase("hashing_search.mips.clock", texts)
figures.table(
    [
        {
            "search": "brute force",
            "multiply-adds of a query": f"{width * hidden:,}",
            "time": f"{times['brute'].median:.1f} ms",
        },
        {
            "search": "hash tables",
            "multiply-adds of a query": f"{by_hashing:,}",
            "time": f"{times['search'].median:.1f} ms",
        },
    ],
    caption=f"Ten largest of {hidden:,} inner products, 25 queries, {100 * judged:.0f} % retrieved; one thread",
)

# %% [markdown]
# By count, the search needs {mean}`hashing_search.mips.multiply_adds_ratio` as many {term}`multiply-adds <multiply-add>` as brute force.
# By the clock it {glue:text}`hashing_search.mips.clock` here, with {mean}`hashing_search.mips.latency_ratio` the time
# of brute force.
# The database of one layer is small, and a matrix product makes better use of a processor than counting shared buckets
# does.
#
# (sec-sparse-layers)=
# ## Layers whose active units are found by hashing
#
# **The idea.** *Dropout* computes a random part of the units in training, and all of them afterwards.
# *Adaptive dropout* keeps a unit with a probability that grows with its {term}`activation` {cite:p}`ba2013adaptive`, but it
# must compute all activations first.
# {cite:t}`spring2017scalable` put the weight vectors of the units into hash tables and hash the input.
# The units that share a bucket with the input are, with high probability, those with large activations.
# Only these units are computed, in training and in use, and only their weights are updated.
#
# **The formula.** A unit $j$ with weights $w_j$ and bias $b_j$ is active with a probability that grows with its
# activation $z_j = w_j^\top x + b_j$:
#
# $$ \begin{aligned} p_j &= \sigma(\alpha z_j + \beta) && \text{(adaptive dropout)}, \\ p_j &= 1 - \big(1 - (1 - \theta_j / \pi)^K\big)^L && \text{(hash tables)}, \end{aligned} $$ (eq-active)
#
# where $\theta_j$ is the angle between $w_j$ and $x$, biases included, and $\sigma$ is the logistic function, with two
# constants $\alpha$ and $\beta$.
# Our layer always computes the same number of units: those that share the most buckets with the input.
# As in the authors' code, there is no transform of inner products, and neighboring pixels are summed before hashing.
#
# **The code.**

# %% tags=["remove-input"]
figures.show_source(
    sparse.SelectedLinear.choose,
    active_products.ActiveProducts,
    adaptive_dropout.AdaptiveLinear.forward,
)

# %% [markdown]
# **Exact checks.** Active units have the same outputs as in the dense layer, and no gradient reaches the others.
# With all units active, the layer is the dense layer.

# %%
plain, x = dense[0].fc1, images[:20]
layer = sparse.SelectedLinear(copy.deepcopy(plain), fraction=active, pool=pool)
outputs = layer(x)
outputs.square().sum().backward()
on = torch.zeros_like(outputs, dtype=torch.bool).scatter(1, layer.active, True)
torch.testing.assert_close(outputs[on], plain(x)[on], rtol=1e-4, atol=1e-4)
assert not outputs[~on].any()
assert not layer.weight.grad[~on.any(0)].any()
whole = sparse.SelectedLinear(copy.deepcopy(plain), fraction=1.0)
assert torch.equal(whole(x), plain(x))

# %% [markdown]
# Two updates that touch different rows of the weight matrix give the same weights in either order, bit for bit, so they
# may also run at the same time.


# %%
def updated(order):
    weight = plain.weight.detach().clone()
    for image in order:
        rows = weight.clone().requires_grad_()
        active_units = torch.arange(20 * image, 20 * image + 20)[None]
        z = active_products.ActiveProducts.apply(
            images[image, None], rows, None, active_units
        )
        z.square().sum().backward()
        weight -= 1e-3 * rows.grad
    return weight


assert torch.equal(updated([0, 1]), updated([1, 0]))
assert not torch.equal(updated([0, 1]), plain.weight)

# %% [markdown]
# Adaptive dropout keeps units as often as its formula says.

# %%
layer = adaptive_dropout.AdaptiveLinear(copy.deepcopy(plain), beta=beta).train()
with torch.no_grad():
    kept = layer.eval()(x[:1]) / plain(x[:1])  # the probabilities
    layer.train()(x[:1].expand(4000, -1))
frequencies = layer.masks.double().mean(0)
errors = (kept[0].double() * (1 - kept[0].double()) / 4000).sqrt()
assert ((frequencies - kept[0]).abs() <= 5 * errors + 1e-3).all()

# %% [markdown]
# **An experiment.** Are the units that hash tables choose as good as those with the largest outputs?
# We train a network with one hidden layer in five ways.
# One computes all units, and one uses adaptive dropout.
# The other three compute the same share of the units: those found by hashing, those with the largest outputs, or random
# ones.
# All five use the optimizer Adagrad {cite:p}`duchi2011adagrad` and the same number of epochs; the learning rate of each
# is the best on validation images of those we tried.

# %%
ways = ("lsh", "top", "random")
nets = {(way, active): chosen(way) for way in ways}
nets |= {kind: chosen(*kind) for kind in product(("lsh", "random"), more_active)}
nets["dense", 1.0] = dense
nets["adaptive", 1.0] = chosen("adaptive")
right = {
    kind: [accuracy(net, dataset.test) for net in found] for kind, found in nets.items()
}
works = {kind: linear_layers.work(found[0], shape) for kind, found in nets.items()}


def of_training(net):  # multiply-adds of an image, backward and rebuilding included
    work = linear_layers.work(net, shape)
    rows = getattr(net.fc1, "size", hidden)
    last = net.fc2.weight.numel()
    total = work.products + work.selection + rows * pixels + 2 * last
    if getattr(net.fc1, "selection", "") == "lsh":
        hashed = hidden * net.fc1.index.tables.multiply_adds
        total += hashed / (rebuild * batch_size)
    return total


# %% tags=["remove-input"]
lsh = nets["lsh", active]
work, full = works["lsh", active], works["lsh", active].dense
ratio = (work.products + work.selection) / full
record("layers.active_pct", 100 * lsh[0].fc1.size / hidden, digits=0, exact=True)
record("layers.multiply_adds_ratio", work.products / full, digits=3, exact=True)
record("layers.with_hashing_ratio", ratio, digits=3, exact=True)
record("layers.work_pct", 100 * ratio, digits=1, exact=True)
train_ratio = of_training(lsh[0]) / of_training(dense[0])
record("layers.training_ratio", train_ratio, digits=3, exact=True)
record("layers.training_pct", 100 * train_ratio, digits=1, exact=True)
base, ours = right["dense", 1.0], right["lsh", active]
record("layers.behind_points", differences(base, ours))
record("layers.behind_top_points", differences(right["top", active], ours))
record("layers.over_random_points", differences(ours, right["random", active]))
words = {
    ("dense", 1.0): "all",
    ("adaptive", 1.0): "adaptive dropout",
    ("top", active): "largest outputs",
    ("lsh", active): "by hashing",
    ("random", active): "random",
}
rows_shown = []
for (way, share), text in words.items():
    counted = works[way, share]
    total = (counted.products + counted.selection) / full
    rows_shown.append(
        {
            "units that are computed": text,
            "multiply-adds": f"{counted.products:,}",
            "to choose": f"{counted.selection:,}",
            "of dense": f"{100 * total:.1f} %",
            "test accuracy": record(
                f"layers.{way}_accuracy_pct", right[way, share], digits=1
            ),
        }
    )
figures.table(
    rows_shown,
    caption=f"A network with {hidden:,} hidden units; {100 * active:.0f} % of them are active, all with adaptive dropout. Multiply-adds of one image in use",
)

# %% tags=["remove-input"]
looks = {
    "lsh": ("by hashing", "hash-lsh-sparse-layers"),
    "top": ("largest outputs", "hash-mips-alsh"),
    "random": ("random", "random"),
    "adaptive": ("adaptive dropout", "pruned"),
}
lines = {}
for way, (label, look) in looks.items():
    kinds = sorted(kind for kind in nets if kind[0] == way)
    x = [100 * (works[k].products + works[k].selection) / full for k in kinds]
    lines[label] = (figures.look(look), x, [right[k] for k in kinds])
figures.curves(
    lines,
    xlabel="multiply-adds, choosing included (% of dense)",
    ylabel="test accuracy (%)",
    log="x",
    bounds=figures.PERCENT,
    level=("all units", np.mean(base)),
    lead=True,
    finding=f"Hash tables: {np.mean(ours):.1f} % right with {100 * ratio:.0f} % of the multiply-adds; all units: {np.mean(base):.1f} %",
    name="fig-sparse-layers",
    caption="Test accuracy against the multiply-adds of one image, those of choosing the units included; means over three networks with 95 % intervals.",
    alt=f"At {100 * active:.0f} % of the units, hashing reaches {np.mean(ours):.1f} %, the largest outputs {np.mean(right['top', active]):.1f} % at more than the dense cost, random units {np.mean(right['random', active]):.1f} %, all units {np.mean(base):.1f} %.",
)

# %% [markdown]
# **What to see.** Hashing {finding}`is far better than random units | hashing_search.layers.over_random_points > 10`
# for about the same work: {mean}`hashing_search.layers.lsh_accuracy_pct` accuracy against
# {mean}`hashing_search.layers.random_accuracy_pct`.
# It {finding}`loses | hashing_search.layers.dense_accuracy_pct > hashing_search.layers.lsh_accuracy_pct`
# {mean}`hashing_search.layers.behind_points` against the dense network, and
# {mean}`hashing_search.layers.behind_top_points` against the largest outputs, which can only be chosen after all units
# have been computed.
# Training takes {mean}`hashing_search.layers.training_pct` of the multiply-adds of dense training, hashing and rebuilding included ({verdict}`C2.2-10`).
#
# ### Do active units have large activations?
#
# **An experiment.** We hash the units of a trained layer many times, each time in other random directions.
# For each unit we count how often it shares a bucket with an image, and how often it is chosen.
# All units are ranked by their activations for the image, and divided into tenths.
# We test tables like those of the layer, which use no transform, and tables of Simple-LSH.


# %% tags=["hide-input"]
@torch.no_grad()
def tenths(net):  # for units ranked by activation, what happens to each tenth (%)
    x = images[:drawn_images]
    z = nn.functional.linear(x, net.fc1.weight, net.fc1.bias)
    order = z.argsort(1)

    def by_tenth(values):
        parts = values.gather(1, order).tensor_split(10, dim=1)
        return [100 * part.double().mean().item() for part in parts]

    found = {"kept": by_tenth(torch.sigmoid(z + beta))}
    rows = with_one(net.fc1.weight, net.fc1.bias)
    given = {"bits": bits, "tables": tables}
    for transform in ("simhash", "simple-lsh"):
        met, chosen = torch.zeros_like(z), torch.zeros_like(z)
        for draw in range(draws):
            index = search.Candidates(rows, transform=transform, seed=draw, **given)
            on = index.retrieve(asked[:drawn_images], net.fc1.size)
            chosen.scatter_add_(1, on, torch.ones_like(z))
            met += index.counts(asked[:drawn_images]) / tables
        pairs = zip(z, met, strict=True)
        found[transform] = {
            "chosen": by_tenth(chosen / draws),
            "met": by_tenth(met / draws),
            "ranks": np.mean([spearmanr(a, b).statistic for a, b in pairs]),
        }
    return found


seen = [tenths(net) for net in lsh]

# %% tags=["remove-input"]
looks = {"simhash": "hash-lsh-sparse-layers", "simple-lsh": "hash-simhash-lsh"}
x = list(range(1, 11))
lines = {}
for transform, look in looks.items():
    found, key = [one[transform] for one in seen], transform.replace("-", "_")
    record(f"rank.{key}_correlation", [one["ranks"] for one in found], digits=2)
    steps = [min(np.diff(one["met"])) for one in found]
    record(f"rank.{key}_least_step_points", steps, digits=2)
    tops = [one["chosen"][-1] for one in found]
    record(f"rank.{key}_top_tenth_pct", tops, digits=0)
    label = "by hashing" if transform == "simhash" else "by Simple-LSH"
    runs = [[one["chosen"][t] for one in found] for t in range(10)]
    lines[label] = (figures.look(look), x, runs)
runs = [[one["kept"][t] for one in seen] for t in range(10)]
lines["adaptive dropout"] = (figures.look("pruned"), x, runs)
lines["random"] = (figures.look("random"), x, [[100 * active] * seeds for t in x])
tops = np.mean([one["simhash"]["chosen"][-1] for one in seen])
lows = np.mean([one["simhash"]["chosen"][0] for one in seen])
figures.curves(
    lines,
    xlabel="tenth of the units, by activation",
    ylabel="how often chosen (%)",
    bounds=figures.PERCENT,
    finding=f"Hash tables choose units of the most active tenth {tops:.0f} % of the time",
    name="fig-chosen",
    caption="How often a unit is chosen against its rank by activation, over many sets of hash tables, and how often adaptive dropout would keep the same units; means over three networks with 95 % intervals.",
    alt=f"The curve of hashing rises: units of the last tenth are chosen {tops:.0f} % of the time, those of the first tenth {lows:.1f} %, at random {100 * active:.0f} %.",
)
all_rise = min(min(np.diff(one["simhash"]["met"])) for one in seen) >= 0
evidence.phrase(
    "hashing_search.rank.outcome",
    "meet the image in more tables than the tenth below"
    if all_rise
    else "do not always meet the image in more tables than the tenth below",
)

# %% [markdown]
# **What to see.** Units of the most active tenth are chosen {mean}`hashing_search.rank.simhash_top_tenth_pct` of the time, {finding}`more often than by chance | hashing_search.rank.simhash_top_tenth_pct > hashing_search.layers.active_pct`.
# The units of each tenth {glue:text}`hashing_search.rank.outcome` ({verdict}`C2.2-09`).
# Plain SimHash chooses by the angle, not by the inner product.
# Its rank correlation between activations and shared buckets is {mean}`hashing_search.rank.simhash_correlation`; that
# of Simple-LSH is {mean}`hashing_search.rank.simple_lsh_correlation`.
#
# ### Sparse updates
#
# **An experiment.** How many rows of the weight matrix does an update change, and how often do two consecutive updates
# change the same ones?


# %%
def touched(net, count):  # share of the rows with a gradient, in percent
    net, found = copy.deepcopy(net), []
    starts = range(0, len(dataset.test.images) - count, count)
    for start in starts[:50]:
        net.zero_grad()
        part = slice(start, start + count)
        logits = net(dataset.test.images[part])
        nn.functional.cross_entropy(logits, dataset.test.labels[part]).backward()
        rows = net.fc1.weight.grad.ne(0).any(1)
        found.append(100 * rows.double().mean().item())
    return np.mean(found)


acting = {
    way: [net.fc1.choose(images) for net in nets[way, active]]
    for way in ("lsh", "top", "random")
}
overlaps = {
    way: [100 * sparse.overlap(one) for one in sets] for way, sets in acting.items()
}
used = [100 * len(one.unique()) / hidden for one in acting["lsh"]]

# %% tags=["remove-input"]
rows_shown = []
for text, key, count in (
    ("one image", "touched_pct", 1),
    (f"a batch of {batch_size}", "batch_touched_pct", batch_size),
):
    row = {"update after": text}
    values = [touched(net, count) for net in lsh]
    row["by hashing: rows touched"] = record(f"layers.{key}", values, digits=1)
    values = [touched(net, count) for net in dense]
    row["dense: rows touched"] = record(f"layers.dense_{key}", values, digits=1)
    rows_shown.append(row)
figures.table(rows_shown, caption="Share of the hidden layer's rows with a gradient")
record("layers.overlap_pct", overlaps["lsh"], digits=1)
record("layers.top_overlap_pct", overlaps["top"], digits=1)
record("layers.random_overlap_pct", overlaps["random"], digits=1)
record("layers.used_pct", used, digits=0)

# %% [markdown]
# **What to see.** An update after one image changes {mean}`hashing_search.layers.touched_pct` of the rows
# ({verdict}`C2.2-11`), and one after a batch of images changes
# {finding}`more | hashing_search.layers.batch_touched_pct > hashing_search.layers.touched_pct`:
# {mean}`hashing_search.layers.batch_touched_pct`.
# Without hashing, an update after one image changes {mean}`hashing_search.layers.dense_touched_pct` of the rows, those
# with a positive output.
# But sparse updates still collide: two consecutive images
# {finding}`share far more units than random choice would give them | hashing_search.layers.overlap_pct - hashing_search.layers.random_overlap_pct > 5`
# ({verdict}`C2.2-12`).
# Of the units that either of them chooses, they share {mean}`hashing_search.layers.overlap_pct`; by random choice they
# would share {mean}`hashing_search.layers.random_overlap_pct`.
# A chosen unit learns, and is then chosen again: all images together use {mean}`hashing_search.layers.used_pct` of the
# units.
#
# ### Tables become outdated
#
# **An experiment.** Training moves the weight vectors, but the tables still hold their old places until they are
# rebuilt.
# We train the same networks without rebuilding the tables, and measure how many of the units with the largest outputs
# the layer still finds.
# The first row of the table is the layer before training, the last one the trained layer with new tables.


# %% tags=["hide-input"]
def aging(seed):
    given = {"fraction": active, "bits": bits, "tables": tables, "pool": pool}
    net = sparse.select(classifier(seed), ["fc1"], seed=seed, **given)
    found = {0: 100 * sparse.recall(net.fc1, images)}

    def watch():
        if int(net.fc1.age) in ages:
            found[int(net.fc1.age)] = 100 * sparse.recall(net.fc1, images)

    def adagrad(groups):
        return torch.optim.Adagrad(groups, lr=best_rate("lsh"), fused=True)

    given = {"weight_decay": 0.0, "optimizer": adagrad, "after_step": watch}
    training.fit(net, seed=seed, **options, **given)
    found["old"], reached = (
        accuracy(net, dataset.test),
        100 * sparse.recall(net.fc1, images),
    )
    net.fc1.rebuild()
    return found, reached, 100 * sparse.recall(net.fc1, images)


aged = [aging(seed) for seed in range(seeds)]

# %% tags=["remove-input"]
rows_shown = [
    {
        "steps without rebuilding": age,
        "recall": record(
            f"age.steps{age}_recall_pct", [found[age] for found, _, _ in aged], digits=1
        ),
    }
    for age in ages
]
olds, fresh = [old for _, old, _ in aged], [new for _, _, new in aged]
rows_shown += [
    {
        "steps without rebuilding": "all",
        "recall": record("age.old_recall_pct", olds, digits=1),
    },
    {
        "steps without rebuilding": "rebuilt",
        "recall": record("age.rebuilt_recall_pct", fresh, digits=1),
    },
]
figures.table(
    rows_shown,
    caption="Share of the units with the largest outputs that the layer finds",
)
never = [found["old"] for found, _, _ in aged]
record("age.never_accuracy_pct", never, digits=1)
record("age.lost_points", differences(ours, never), digits=1)

# %% [markdown]
# **What to see.** Tables that were never rebuilt find {mean}`hashing_search.age.old_recall_pct` of these units at the
# end of training.
# After rebuilding, the layer finds
# {finding}`far more | hashing_search.age.rebuilt_recall_pct - hashing_search.age.old_recall_pct > 20`:
# {mean}`hashing_search.age.rebuilt_recall_pct`.
#
# ### The clock
#
# **An experiment.** How long does the layer take for one image, and for one training step on a batch?
# And what does it cost that the active rows are scattered over memory?


# %% tags=["hide-input"]
def stepped(net):
    with torch.enable_grad():
        logits = net(dataset.train.images[:batch_size])
        nn.functional.cross_entropy(
            logits, dataset.train.labels[:batch_size]
        ).backward()


one = dataset.test.images[:1]
mine, theirs = copy.deepcopy(lsh[0]), copy.deepcopy(dense[0])
times = measure.latency_ms(
    {
        "lsh": lambda: mine(one),
        "dense": lambda: theirs(one),
        "lsh step": lambda: stepped(mine),
        "dense step": lambda: stepped(theirs),
    }
)
large = torch.randn(wide, pixels, generator=generator)
vector = torch.randn(pixels, generator=generator)


def gathering(share):  # milliseconds of a product with this share of the rows
    k = int(share * wide)
    starts = torch.randint(wide - k, (10,), generator=generator).tolist()
    scattered = [torch.randperm(wide, generator=generator)[:k] for _ in starts]
    near = [torch.arange(start, start + k) for start in starts]
    turns = [cycle(draws) for draws in (starts, near, scattered)]

    def contiguous():
        start = next(turns[0])
        return large[start : start + k] @ vector

    return measure.latency_ms(
        {
            "contiguous": contiguous,
            "near": lambda: large[next(turns[1])] @ vector,
            "scattered": lambda: large[next(turns[2])] @ vector,
            "whole": lambda: large @ vector,
        },
        runs=31,
    )


spread = {share: gathering(share) for share in gathered}

# %% tags=["remove-input"]
slower = times["lsh"].median / times["dense"].median
record("layers.forward_latency_ratio", slower, digits=1)
record(
    "layers.step_latency_ratio",
    times["lsh step"].median / times["dense step"].median,
    digits=1,
)
clock = (
    f"takes {slower:.1f} times as long as computing all units"
    if slower > 1
    else f"takes {slower:.1f} times the time of computing all units"
)
evidence.phrase("hashing_search.layers.clock", clock)
rows_shown = []
for share, found in spread.items():
    row = {"share of the rows": f"{100 * share:.0f} %"}
    medians = {name: time.median for name, time in found.items()}
    for name, text in (
        ("near", "neighbors, copied"),
        ("scattered", "scattered, copied"),
        ("whole", "all rows"),
    ):
        key = f"scatter.{name}{100 * share:.0f}_latency_ratio"
        row[text] = record(key, medians[name] / medians["contiguous"], digits=1)
    rows_shown.append(row)
figures.table(
    rows_shown,
    caption=f"Time of a product with rows of a layer of {wide:,} units, against a product with as many contiguous rows in place; one thread",
)
medians = {name: time.median for name, time in spread[gathered[1]].items()}
record("scatter.latency_ratio", medians["scattered"] / medians["contiguous"], digits=1)
record("scatter.same_latency_ratio", medians["scattered"] / medians["near"], digits=1)

# %% [markdown]
# **What to see.** Saving multiply-adds does not save time here: one image takes
# {mean}`hashing_search.layers.forward_latency_ratio`
# {finding}`as long as | hashing_search.layers.forward_latency_ratio > 1` with the dense layer, and a training step
# {mean}`hashing_search.layers.step_latency_ratio`.
# A product with scattered rows takes {mean}`hashing_search.scatter.latency_ratio` the time of one with as many contiguous rows ({verdict}`C2.2-13`).
# Part of this time is for copying, because a matrix product needs its rows in one piece.
# Where both are copied, scattered rows take {mean}`hashing_search.scatter.same_latency_ratio` the time of neighboring
# ones.
#
# ## Where it breaks
#
# **Tables that are never rebuilt.** Without rebuilding, the layer keeps using the units that were near the images at
# the start.
# Its accuracy is {mean}`hashing_search.age.never_accuracy_pct`,
# {finding}`less than | hashing_search.age.never_accuracy_pct < hashing_search.layers.lsh_accuracy_pct` the
# {mean}`hashing_search.layers.lsh_accuracy_pct` with rebuilding.
#
# **Hashing that costs more than it saves.** The layer sums neighboring pixels before it hashes them; without this
# pooling, hashing an image can cost as much as computing many units.

# %%
layer = sparse.SelectedLinear(
    copy.deepcopy(dense[0].fc1), fraction=active, bits=bits, tables=tables
)
units = layer.work.selection / pixels
record("layers.unpooled_units", units, digits=0, exact=True)
record("layers.pooled_units", work.selection / pixels, digits=0, exact=True)

# %% [markdown]
# Hashing an image costs as many multiply-adds as {mean}`hashing_search.layers.unpooled_units` units without pooling,
# and as many as {mean}`hashing_search.layers.pooled_units` units with it.
#
# ## Exercises
#
# 1. A neighbor is at an angle of $0.3$ radians. How many tables with ten-bit keys find it nineteen times out of twenty,
#    and how often do they also return a vector at a right angle?

# %% tags=["hide-cell"]
n = next(
    n
    for n in range(1, 1000)
    if simhash.retrieval_probability(0.3, bits=10, tables=n) >= 0.95
)
stranger = float(simhash.retrieval_probability(torch.pi / 2, bits=10, tables=n))
evidence.answer(
    f"{n} tables; the stranger is returned with a probability of {100 * stranger:.1f} %."
)

# %% [markdown]
# 2. Pixels are never negative. How often do two images have the same bit, before and after the mean image is subtracted?

# %% tags=["hide-cell"]
half = len(images) // 2
centered = images - dataset.train.images.flatten(1).mean(0)
agree = []
for vectors in (images, centered):
    index = simhash.Tables(vectors[:half], bits=1, tables=200, seed=0)
    agree.append(100 * index.query(vectors[half:]).double().mean() / 200)
evidence.answer(
    f"{agree[0]:.0f} % of the time before, and {agree[1]:.0f} % after: vectors in one corner of the space are all near each other, and a bit says little about them."
)

# %% [markdown]
# 3. Count the multiply-adds: at which share of active units does the layer, hashing included, need as many as all
#    units?

# %% tags=["hide-cell"]
limit = 100 * (1 - work.selection / (pixels * hidden))
evidence.answer(
    f"At {limit:.1f} % of the {hidden:,} units: hashing takes as many multiply-adds as the other {100 - limit:.1f} %."
)

# %% [markdown]
# ## Three questions
#
# ```{quiz} 2.2
# ```
#
# ## In short
#
# - Random planes give bits that agree for near vectors; keys and tables turn them into a sharp choice of neighbors.
# - Large inner products become small angles when a few values are appended to the vectors.
# - Hash tables find the active units of a layer with a small part of the multiply-adds, but not in a small part of the
#   time.
# - Updates are sparse, but they hit the same few rows again and again.
#
# ## Sources of this chapter
#
# - {cite:t}`charikar2002similarity` introduces SimHash, and {cite:t}`indyk1998approximate` search with hash tables.
# - {cite:t}`shrivastava2014alsh`, {cite:t}`shrivastava2015improved` and {cite:t}`neyshabur2015symmetric` propose the
#   three transforms.
# - {cite:t}`spring2017scalable` choose units by hashing, {cite:t}`ba2013adaptive` describe adaptive dropout, and
#   {cite:t}`duchi2011adagrad` the optimizer Adagrad.
# - {cite:t}`berthelier2020survey` is the survey.
