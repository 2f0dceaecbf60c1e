"""The exact 1-D k-means against others, in time and in error; and the time to save and load LeNet-5.

Times are medians on one thread; the ways take turns in one process. Compare ratios: milliseconds depend on the machine.
Run with ``make bench``; with ckwrap installed (the extra ``peers``), that is raced too.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from lib import measure, models, storage
from lib.pruning import magnitude
from lib.quantization import deep_compression
from lib.quantization.optimal_kmeans import lloyd, optimal

CLUSTERS, RUNS = 32, 20

try:
    import ckwrap
except ImportError:
    ckwrap = None


def clusterings(values: np.ndarray) -> None:
    """Median time and squared error of each way to cluster the values."""
    column, start = values[:, None], np.linspace(values.min(), values.max(), CLUSTERS)
    errors = {}
    ways = {
        "optimal (exact)": lambda: optimal(values, CLUSTERS).squared_error,
        "Lloyd, linear start": lambda: lloyd(values, start).squared_error,
        "scikit-learn KMeans, n_init=10": lambda: KMeans(CLUSTERS, n_init=10, random_state=0).fit(column).inertia_,
    }
    if ckwrap is not None:
        ways["ckwrap (exact)"] = lambda: float(np.sum(ckwrap.ckmeans(values, CLUSTERS).withinss))
    slow = {name for name in ways if name.startswith("scikit")}
    times = measure.latency_ms(
        {name: lambda n=name, w=way: errors.update({n: w()}) for name, way in ways.items() if name not in slow},
        runs=RUNS,
    )
    spent = {name: time.median for name, time in times.items()}
    for name in slow:  # these take seconds a run: three are enough
        spent[name] = float(np.median([timed(lambda n=name: errors.update({n: ways[n]()})) for _ in range(3)]))
    ours = "optimal (exact)"
    print(f"\n{len(values):,} values, {CLUSTERS} clusters")
    print(f"{'':34}{'ms':>10}{'time ratio':>12}{'squared error':>20}{'error ratio':>13}")
    for name in ways:
        ratio, excess = spent[name] / spent[ours], errors[name] / errors[ours]
        print(f"{name:34}{spent[name]:10.1f}{ratio:12.2f}{errors[name]:20.9f}{excess:13.6f}")
    if ckwrap is None:
        print("ckwrap is not installed: left out")


def timed(call) -> float:
    from time import perf_counter

    begin = perf_counter()
    call()
    return 1000 * (perf_counter() - begin)


def files() -> None:
    """Median time to save and to load LeNet-5, pruned to 8 % with 31 shared values a layer."""
    model = deep_compression.share_survivors(magnitude.prune(models.lenet5(), density=0.08), bits=5)
    target = models.lenet5(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet5.slim"
        size = storage.save(model, path)
        calls = {"save": lambda: storage.save(model, path), "load": lambda: storage.load(path, target)}
        times = measure.latency_ms(calls, runs=RUNS)
    print(f"\nLeNet-5, {size:,} bytes: " + ", ".join(f"{name} {time.median:.1f} ms" for name, time in times.items()))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with threadpool_limits(1):
        clusterings(np.random.default_rng(0).normal(scale=0.05, size=266_200))
        clusterings(np.random.default_rng(0).normal(scale=0.05, size=20_000))
        files()
