"""The self-organizing map against minisom: the time of the same steps, from the same start, to the same weights.

Both use minisom's schedule and present the samples in the order given. Before a race the weights are compared: none may
differ by more than 1e-12. Then the two ways in which we take steps, one by one and in blocks, from a few weights to
many: ``blocks.WEIGHTS`` is about where blocks begin to win. All is measured in one process on one thread. Run with
``make bench``; minisom is raced where it is installed (the extra ``peers``).
"""

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris
from threadpoolctl import threadpool_limits

from lib import measure
from lib.self_organization import self_organizing_map
from lib.self_organization.self_organizing_map import SelfOrganizingMap
from lib.self_organization.shared import blocks, steps

STEPS, RADIUS, RUNS = 1000, 3.0, 20
GRIDS = ((10, 10), (20, 20))
SIDES, FEATURES = (5, 7, 10, 20), (16, 32, 64, 128, 784)  # of the maps on which blocks race the loop

try:
    import minisom
except ImportError:
    minisom = None


def sets() -> dict[str, np.ndarray]:
    """Samples of 2, 4, 64 and 784 features."""
    random = np.random.default_rng(0)
    return {
        "unit square": random.random((1000, 2)),
        "iris": load_iris().data,
        "digits": load_digits().data / 16,
        "noise": random.random((1000, 784)),
    }


def race() -> None:
    """Print the median microseconds of a step, the ratio, and the largest difference of weights."""
    print(f"{'':14}{'features':>9}{'grid':>9}{'ours':>14}{'minisom':>14}{'ratio':>8}{'difference':>13}")
    for name, samples in sets().items():
        for grid in GRIDS:
            start = np.random.default_rng(1).random((*grid, samples.shape[1]))
            options = {"steps": STEPS, "schedule": "asymptotic", "radius": RADIUS, "shuffle": False}
            ours = SelfOrganizingMap(grid, start=start, **options)
            calls = {"ours": lambda m=ours, x=samples: m.fit(x)}
            row = f"{name:14}{samples.shape[1]:9}{'x'.join(map(str, grid)):>9}"
            if minisom is None:
                print(row + times_of(calls)[0])
                continue
            theirs = minisom.MiniSom(*grid, samples.shape[1], sigma=RADIUS, learning_rate=0.5)
            theirs._weights = start.copy()  # minisom offers no other way to set its weights
            theirs.train(samples, STEPS)
            difference = np.abs(theirs.get_weights() - ours.fit(samples).weights_).max()
            assert difference <= 1e-12, f"the weights differ by {difference}"
            calls["minisom"] = lambda m=theirs, x=samples: m.train(x, STEPS)
            text, medians = times_of(calls)
            print(f"{row}{text}{medians['minisom'] / medians['ours']:7.1f}x{difference:13.1e}")
    if minisom is None:
        print("minisom is not installed: left out")


def race_blocks() -> None:
    """Print the median microseconds of a step in the loop and in blocks, and the ratio."""
    print(f"\n{'units':>6}{'features':>10}{'weights':>9}{'loop':>14}{'blocks':>14}{'ratio':>8}  used")
    for side in SIDES:
        down, across = np.divmod(np.arange(side * side), side)
        squares = np.arange(side) ** 2.0
        grid = steps.Grid(across, down, squares, squares)
        for features in FEATURES:
            random = np.random.default_rng(0)
            samples, start = random.random((STEPS, features)), random.random((side * side, features))
            rates, radii = np.linspace(0.5, 0.2, STEPS), np.linspace(RADIUS, 1, STEPS)
            ways = {"loop": self_organizing_map.train, "blocks": blocks.train}
            own = {name: blocks.aligned(start) for name in ways}  # each goes on with its own from run to run
            rest = (samples, np.arange(STEPS), rates, radii, grid)
            calls = {name: partial(way, own[name], *rest) for name, way in ways.items()}
            text, medians = times_of(calls)
            assert np.array_equal(own["loop"], own["blocks"]), "blocks have other weights than the loop"
            used = "blocks" if blocks.pay(STEPS, *start.shape) else "loop"
            ratio = medians["loop"] / medians["blocks"]
            print(f"{side * side:6}{features:10}{start.size:9}{text}{ratio:7.1f}x  {used}")


def times_of(calls: dict) -> tuple[str, dict[str, float]]:
    """Median microseconds of a step of each call, and as text."""
    times = measure.latency_ms(calls, runs=RUNS)
    medians = {name: 1000 * time.median / STEPS for name, time in times.items()}
    return "".join(f"{median:11.2f} us" for median in medians.values()), medians


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        race()
        race_blocks()
