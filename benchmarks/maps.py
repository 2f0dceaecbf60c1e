"""The self-organizing map against minisom: the time of the same steps, from the same start, to the same weights.

Both use minisom's schedule and present the samples in the order given. Before a race the weights are compared: none may
differ by more than 1e-12. All is measured in one process on one thread. Run with ``make bench``; minisom is raced if it
is installed (the extra ``peers``).
"""

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris

from lib import measure
from lib.self_organization.self_organizing_map import SelfOrganizingMap

STEPS, RADIUS, RUNS = 1000, 3.0, 20
GRIDS = ((10, 10), (20, 20))

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


def times_of(calls: dict) -> tuple[str, dict[str, float]]:
    """The median microseconds per step of each call, as text and as numbers."""
    times = measure.latency_ms(calls, runs=RUNS)
    medians = {name: 1000 * time.median / STEPS for name, time in times.items()}
    return "".join(f"{median:11.2f} us" for median in medians.values()), medians


if __name__ == "__main__":
    torch.set_num_threads(1)
    race()
