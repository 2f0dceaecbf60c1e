"""NEAT on XOR: generations a second, and how often the task is solved, against neat-python and genoxide.

Each library runs its own XOR example as a reader would run it, with its own settings and fitness and a population of
150. All run in one process on one thread and take turns. The peers are optional:
``pip install "neat-python>=2" genoxide``. Run with ``make bench``; compiled code is warm before the clock starts.
"""

import importlib.util
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.neuroevolution import neat
from lib.neuroevolution.shared.genomes import Space
from lib.neuroevolution.shared.tasks import Xor

SEEDS, BUDGET, POPULATION = 20, 200, 150
CASES = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
EXAMPLE = """
[NEAT]
no_fitness_termination = False
fitness_criterion = max
fitness_threshold = 3.9
pop_size = 150
reset_on_extinction = False
[DefaultGenome]
activation_default = sigmoid
activation_mutate_rate = 0.0
activation_options = sigmoid
aggregation_default = sum
aggregation_mutate_rate = 0.0
aggregation_options = sum
bias_init_mean = 0.0
bias_init_stdev = 1.0
bias_max_value = 30.0
bias_min_value = -30.0
bias_mutate_power = 0.5
bias_mutate_rate = 0.7
bias_replace_rate = 0.1
compatibility_disjoint_coefficient = 1.0
compatibility_weight_coefficient = 0.5
conn_add_prob = 0.5
conn_delete_prob = 0.5
enabled_default = True
enabled_mutate_rate = 0.01
feed_forward = True
initial_connection = full_direct
node_add_prob = 0.2
node_delete_prob = 0.2
num_hidden = 0
num_inputs = 2
num_outputs = 1
response_init_mean = 1.0
response_init_stdev = 0.0
response_max_value = 30.0
response_min_value = -30.0
response_mutate_power = 0.0
response_mutate_rate = 0.0
response_replace_rate = 0.0
weight_init_mean = 0.0
weight_init_stdev = 1.0
weight_max_value = 30
weight_min_value = -30
weight_mutate_power = 0.5
weight_mutate_rate = 0.8
weight_replace_rate = 0.1
[DefaultSpeciesSet]
compatibility_threshold = 3.0
[DefaultStagnation]
species_fitness_func = max
max_stagnation = 20
species_elitism = 2
[DefaultReproduction]
elitism = 2
survival_threshold = 0.2
"""  # neat-python's examples/xor/config-feedforward


def ours(seed: int) -> tuple[int, bool]:
    """Generations, and whether one of them solved XOR."""
    history = neat.search(Space(2, 1), Xor(), budget=BUDGET, seed=seed, population=POPULATION)
    return len(history.rows), history.solved


def neat_python() -> Callable[[int], tuple[int, bool]]:
    """The same for neat-python's example."""
    import neat as peer

    path = Path(tempfile.mkdtemp()) / "config"
    path.write_text(EXAMPLE)
    parts = peer.DefaultGenome, peer.DefaultReproduction, peer.DefaultSpeciesSet, peer.DefaultStagnation
    config = peer.Config(*parts, str(path))

    def fitness(genomes, config) -> None:
        for _, genome in genomes:
            network = peer.nn.FeedForwardNetwork.create(genome, config)
            genome.fitness = 4 - sum((network.activate(case)[0] - (case[0] != case[1])) ** 2 for case in CASES)

    def run(seed: int) -> tuple[int, bool]:
        random.seed(seed)
        population = peer.Population(config)
        best = population.run(fitness, BUDGET)
        solved = best.fitness >= config.fitness_threshold
        return population.generation + solved, solved  # it does not count the generation of the solution

    return run


def genoxide() -> Callable[[int], tuple[int, bool]]:
    """The same for genoxide's example, with the fitness in Python, since it takes no other."""
    import genoxide as peer

    def fitness(network) -> float:
        outputs = [network.feed_forward().activate(case)[0] for case in CASES]
        right = all((output > 0.5) == (a != b) for output, (a, b) in zip(outputs, CASES, strict=True))
        return 16.0 if right else (4 - sum(abs(o - (a != b)) for o, (a, b) in zip(outputs, CASES, strict=True))) ** 2

    def run(seed: int) -> tuple[int, bool]:
        result = peer.Neat(2, 1, sharing="raw", seed=seed).run(fitness, target=16.0, generations=BUDGET - 1)
        return result.generations + 1, result.best_fitness >= 16  # it does not count the first population

    return run


def race() -> None:
    """Print generations a second of each, the ratio, and how many seeds solved XOR in how many generations."""
    runs: dict[str, Callable[[int], tuple[int, bool]]] = {"ours": ours}
    for name, make in {"neat-python": neat_python, "genoxide": genoxide}.items():
        if importlib.util.find_spec(make.__name__ if make is genoxide else "neat"):
            runs[name] = make()
    ours(0)
    taken: dict[str, list[tuple[float, int, bool]]] = {name: [] for name in runs}
    for seed in range(SEEDS):
        for name, run in runs.items():
            begin = time.process_time()
            generations, solved = run(seed)
            taken[name].append((time.process_time() - begin, generations, solved))
    speeds = {}
    for name, rows in taken.items():
        seconds, generations, solved = (np.array(column) for column in zip(*rows, strict=True))
        speeds[name] = generations.sum() / seconds.sum()
        print(
            f"{name:12}{speeds[name]:9.0f} generations/s{speeds['ours'] / speeds[name]:8.1f}x slower than ours"
            f"{solved.sum():5} of {SEEDS} solved in {BUDGET}, median {np.median(generations):.0f}"
        )


if __name__ == "__main__":
    race()
