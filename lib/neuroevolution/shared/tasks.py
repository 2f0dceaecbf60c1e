"""Tasks for the networks of a population: XOR, or any Python function of a network.

A task gives the fitness of all networks of a population at once, and says which of them solves it.
The tasks of :mod:`lib.neuroevolution.shared.poles` are others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import joblib
import numba
import numpy as np

from lib.neuroevolution.shared.genomes import Genome, Network, Programs, Space, answers, programs

CASES = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # of exclusive or
ANSWERS = np.array([0.0, 1.0, 1.0, 0.0])


@dataclass
class Population:
    """All genomes of one generation, as arrays.

    space: what their networks have in common.
    genes: (population, capacity) of type :data:`lib.neuroevolution.shared.genomes.GENE`; the rest of a row is unused.
    counts: (population,) number of genes of each genome.
    """

    space: Space
    genes: np.ndarray
    counts: np.ndarray

    def genome(self, index: int) -> Genome:
        """Copy one genome out of the arrays."""
        return Genome.of_genes(self.space, self.genes[index, : self.counts[index]])

    def genomes(self) -> list[Genome]:
        """Copy all genomes."""
        return [self.genome(i) for i in range(len(self.counts))]

    def check(self, inputs: int, outputs: int) -> None:
        """Raise ValueError unless the networks have as many inputs and outputs as a task needs."""
        if (self.space.inputs, self.space.outputs) != (inputs, outputs):
            given = f"{self.space.inputs} and {self.space.outputs}"
            raise ValueError(f"the task needs networks of {inputs} inputs and {outputs} outputs, not {given}")

    def networks(self) -> Programs:
        """Build all networks, for compiled code."""
        return programs(self.space, self.genes, self.counts)


@runtime_checkable
class Task(Protocol):
    """What a search asks its networks to do."""

    def evaluate(self, population: Population) -> tuple[np.ndarray, int | None]:
        """Try all networks.

        Returns the fitness of each, (population,) float64, finite and not negative, larger = better; and the index of a
        network that solves the task, or None if none does.
        """


@runtime_checkable
class TaskWithTest(Task, Protocol):
    """A task that a network solves by passing a test, which takes too long for all of them.

    In each generation one network takes the test: see :meth:`lib.neuroevolution.neat.Evolution.candidate`. What
    ``evaluate`` says of a network that solves the task does not count.
    """

    def passes(self, genome: Genome) -> bool:
        """Tell whether the network of a genome solves the task."""


@dataclass(frozen=True)
class Xor:
    r"""Exclusive or of two inputs, which a network without hidden nodes cannot compute.

    The fitness is :math:`(4 - \sum |y - t|)^2` over the four cases. A network solves the task if its outputs are on the
    right side of 0.5 in all of them (stanley2002evolving, section 4.2).
    """

    def evaluate(self, population: Population) -> tuple[np.ndarray, int | None]:
        """Return the fitness of each network, and the number of the best that is right in all four cases, or None."""
        population.check(2, 1)
        outputs = answers(population.networks(), population.space, CASES)
        fitness, right = np.empty(len(outputs)), np.empty(len(outputs), np.bool_)
        _score(outputs[:, :, 0], fitness, right)
        return fitness, int(np.where(right, fitness, -1.0).argmax()) if right.any() else None


@dataclass(frozen=True)
class Scored:
    """A task from a Python function.

    function: takes a :class:`lib.neuroevolution.shared.genomes.Network` and returns its fitness, finite and not
        negative.
    goal: a network with this fitness or more solves the task; default: none does, and the search spends its budget.
    jobs: number of processes, through joblib, whose backends also reach Dask and Ray; default 1, this process. The
        function must be one that can be sent to another process.
    """

    function: Callable[[Network], float]
    goal: float = np.inf
    jobs: int = 1

    def evaluate(self, population: Population) -> tuple[np.ndarray, int | None]:
        """Return the fitness of each network, and the number of the best one if it reaches the goal, or None."""
        networks = [genome.network() for genome in population.genomes()]
        if self.jobs == 1:
            fitness = np.array([float(self.function(network)) for network in networks])
        else:
            calls = (joblib.delayed(self.function)(network) for network in networks)
            fitness = np.array(joblib.Parallel(n_jobs=self.jobs)(calls), np.float64)
        return fitness, int(fitness.argmax()) if fitness.max() >= self.goal else None


@numba.njit(cache=True)
def _score(outputs: np.ndarray, fitness: np.ndarray, right: np.ndarray) -> None:
    for i in range(len(outputs)):
        wrong, right[i] = 0.0, True
        for case in range(4):
            error = abs(outputs[i, case] - ANSWERS[case])
            wrong += error
            right[i] = right[i] and error < 0.5
        fitness[i] = (4 - wrong) ** 2
