r"""Two poles on a cart: the control task on which NEAT was compared (stanley2002evolving, section 4.3).

A network pushes a cart on a track so that neither of two poles of different lengths falls. With the cart at x, the
poles at the angles :math:`\theta_i` from upright, their half-lengths :math:`l_i` and masses :math:`m_i`,

.. math::
    \ddot x = \frac{F + \sum_i m_i l_i \dot\theta_i^2 \sin\theta_i
              + \frac34 m_i \cos\theta_i \left(\frac{\mu \dot\theta_i}{m_i l_i} + g \sin\theta_i\right)}
              {M + \sum_i m_i (1 - \frac34 \cos^2\theta_i)}, \qquad
    \ddot\theta_i = -\frac{3}{4 l_i}\left(\ddot x \cos\theta_i + g \sin\theta_i
              + \frac{\mu \dot\theta_i}{m_i l_i}\right)

(stanley2002evolving, appendix B). One step is 0.02 s: two steps of the fourth-order Runge-Kutta method. A state is (x,
its velocity, the angle of the long pole, its velocity, the angle of the short pole, its velocity), in m and rad.
"""

from dataclasses import dataclass

import numba
import numpy as np

from lib.neuroevolution.shared.genomes import STEEPNESS, Genome, Programs, Space
from lib.neuroevolution.shared.tasks import Population

FORCE, GRAVITY, FRICTION = 10.0, -9.8, 0.000002  # N, m/s^2, Nms: of the hinges
CART, TRACK = 1.0, 2.4  # kg, m: the track's end on either side
LENGTHS, MASSES = (0.5, 0.05), (0.1, 0.01)  # m, from the hinge to the middle of the pole; kg
FALLEN = np.deg2rad(36)
TAU = 0.01  # s
SCALES = np.array([4.8, 2.0, 0.52, 2.0, 0.52, 2.0])  # inputs are the state divided by these
SEEN = np.array([0, 2, 4])  # the inputs without velocities
START = np.array([0.0, 0.0, 0.07, 0.0, 0.0, 0.0])  # 4 degrees
RECENT = 100  # steps whose movement counts in the fitness without velocities
STARTS_TO_PASS, STEPS_TO_PASS = 200, 1000


@dataclass(frozen=True)
class DoublePole:
    r"""Keep both poles up for 100,000 steps, about half an hour, knowing how fast they move.

    The fitness is the number of steps, and a network that makes all of them solves the task (stanley2002evolving,
    section 4.3).

    steps: for how long to balance, 1 or more.

    Raises ValueError for fewer steps.
    """

    steps: int = 100_000

    def __post_init__(self) -> None:
        _check(self.steps)

    @property
    def space(self) -> Space:
        """Six inputs; one output: the force, from full left to full right."""
        return Space(6, 1, bias=0.5)

    def evaluate(self, population: Population) -> tuple[np.ndarray, int | None]:
        """Return the fitness of each network, and the number of one that makes all steps, or None."""
        population.check(self.space.inputs, 1)
        balanced, _ = balance(population.networks(), population.space, START[None], self.steps)
        fitness = balanced[:, 0].astype(np.float64)
        return fitness, int(fitness.argmax()) if fitness.max() >= self.steps else None


@dataclass(frozen=True)
class HiddenVelocities:
    r"""Keep both poles up for 100,000 steps without being told how fast they and the cart move.

    A network then needs recurrence, which remembers where the poles were, and one that only jitters must not win. If it
    balances for t of 1,000 steps, its fitness is

    .. math:: F = 0.1 \frac{t}{1000} + 0.9 f, \qquad
        f = \frac{0.75}{\sum_{i=t-99}^{t} |x_i| + |\dot x_i| + |\theta_{1,i}| + |\dot\theta_{1,i}|}

    with f = 0 for t < 100. It solves the task if it balances for all 100,000 steps, and for 1,000 steps from 200 or
    more of 625 other starts (gruau1996comparison; stanley2002evolving, section 4.3). In each generation one network
    takes this test, and the test does not count as an evaluation.

    steps: of the test, 1 or more.

    Raises ValueError for fewer steps.

    >>> from lib.neuroevolution import neat
    >>> task = HiddenVelocities()
    >>> found = neat.search(task.space, task, budget=200, seed=4, population=1000, settings=neat.HIDDEN_VELOCITIES)
    >>> found.solved, generalization(found.winner) >= 200
    (True, True)
    """

    steps: int = 100_000

    def __post_init__(self) -> None:
        _check(self.steps)

    @property
    def space(self) -> Space:
        """Three inputs, the positions; one output, as with velocities; connections that may close cycles."""
        return Space(len(SEEN), 1, recurrent=True, bias=0.5)

    def evaluate(self, population: Population) -> tuple[np.ndarray, int | None]:
        """Return the fitness of each network, and None: which one solves the task is for :meth:`passes` to say."""
        population.check(self.space.inputs, 1)
        balanced, movement = balance(population.networks(), population.space, START[None], STEPS_TO_PASS)
        still = np.where(balanced >= RECENT, 0.75 / np.maximum(movement, 1e-12), 0.0)
        # F = 0.1 t / 1000 + 0.9 f
        return (0.1 * balanced / STEPS_TO_PASS + 0.9 * still)[:, 0], None

    def passes(self, genome: Genome) -> bool:
        """Tell whether a network balances for all steps, and from enough other starts."""
        return trial(genome, self.steps) >= self.steps and generalization(genome) >= STARTS_TO_PASS


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")


def trial(genome: Genome, steps: int, start: np.ndarray = START) -> int:
    """Count the steps for which a network balances the poles.

    genome: of a space with 6 inputs, or 3 without velocities, and one output.
    steps: the largest number of steps.
    start: (6,) the first state.
    """
    return int(balance(genome.programs(), genome.space, start[None], steps)[0][0, 0])


def generalization(genome: Genome) -> int:
    """Count from how many of the 625 starts a network balances the poles for 1,000 steps.

    genome: as for :func:`trial`.
    """
    return int((balance(genome.programs(), genome.space, starts(), STEPS_TO_PASS)[0] >= STEPS_TO_PASS).sum())


def starts() -> np.ndarray:
    """Return the 625 starts: cart and long pole at 5, 25, 50, 75 and 95 % of a range each, with the short pole upright.

    Returns (625, 6).
    """
    parts = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    ranges = [4.32, 2.70, np.deg2rad(7.2), np.deg2rad(17.2)]
    grid = np.meshgrid(*((2 * parts - 1) / 2 * size for size in ranges), indexing="ij")
    return np.stack([*(axis.ravel() for axis in grid), np.zeros(625), np.zeros(625)], 1)


def trajectory(genome: Genome, steps: int, start: np.ndarray = START) -> np.ndarray:
    """Return the states that a network leads the cart through, for a picture.

    genome, steps, start: as for :func:`trial`.

    Returns (n, 6) states, the first of them ``start``; n is steps + 1, or less if a pole falls or the track ends: the
    last state is then the first one out of bounds.
    """
    states = np.empty((steps + 1, 6))
    states[0] = start
    arguments = _arguments(genome.space, steps)
    made = _roll(genome.programs(), 0, *arguments, states)
    return states[: made + 1 + (made < steps)]


def accelerations(state: np.ndarray, force: float) -> tuple[float, float, float]:
    """Return the accelerations of the cart, the long and the short pole.

    state: (6,). force: in N.
    """
    out = np.empty(6)
    _derivatives(np.asarray(state, np.float64), float(force), out)
    return float(out[1]), float(out[3]), float(out[5])


def advance(state: np.ndarray, action: float) -> np.ndarray:
    """Return the state after one step of 0.02 s.

    state: (6,). action: between 0, full force to the left, and 1, full force to the right.
    """
    state = np.array(state, np.float64)
    _advance(state, float(action), np.empty((5, 6)))
    return state


def balance(networks: Programs, space: Space, starts: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Let networks balance the poles.

    networks: from :func:`lib.neuroevolution.shared.genomes.programs`.
    space: what they have in common: 6 inputs, or 3 without velocities, and one output.
    starts: (k, 6) first states, for each network.
    steps: the largest number of steps.

    Returns (n, k) the steps for which each network balances from each start, and (n, k) the sum of
    :math:`|x| + |\\dot x| + |\\theta_1| + |\\dot\\theta_1|` over the last 100 of them.
    """
    balanced = np.empty((len(networks.nodes), len(starts)), np.int64)
    movement = np.empty(balanced.shape)
    _balance(networks, np.ascontiguousarray(starts, np.float64), *_arguments(space, steps), balanced, movement)
    return balanced, movement


def _arguments(space: Space, steps: int) -> tuple[tuple[int, int, bool], float, np.ndarray, int]:
    if space.inputs not in (6, len(SEEN)) or space.outputs != 1:
        raise ValueError(
            f"networks for poles have 6 or 3 inputs and one output, not {space.inputs} and {space.outputs}"
        )
    seen = np.arange(6) if space.inputs == 6 else SEEN
    return (space.senses, space.fixed, space.recurrent), space.bias, seen, steps


@numba.njit(cache=True)
def _derivatives(state: np.ndarray, force: float, out: np.ndarray) -> None:
    (long, short), (heavy, light) = LENGTHS, MASSES
    sine, sine2, cosine, cosine2 = np.sin(state[2]), np.sin(state[4]), np.cos(state[2]), np.cos(state[4])
    pull = FRICTION * state[3] / (heavy * long) + GRAVITY * sine
    pull2 = FRICTION * state[5] / (light * short) + GRAVITY * sine2
    whirl = heavy * long * state[3] * state[3] * sine + light * short * state[5] * state[5] * sine2
    above = force + whirl + 0.75 * (heavy * cosine * pull + light * cosine2 * pull2)
    below = CART + heavy * (1 - 0.75 * cosine * cosine) + light * (1 - 0.75 * cosine2 * cosine2)
    out[0], out[2], out[4] = state[1], state[3], state[5]
    out[1] = above / below
    out[3] = -0.75 / long * (out[1] * cosine + pull)
    out[5] = -0.75 / short * (out[1] * cosine2 + pull2)


@numba.njit(cache=True)
def _advance(state: np.ndarray, action: float, room: np.ndarray) -> None:
    """Two steps of Runge and Kutta, in place. room: (5, 6)."""
    force = (action - 0.5) * 2 * FORCE
    first, second, third, fourth, between = room
    for _ in range(2):
        _derivatives(state, force, first)
        for i in range(6):
            between[i] = state[i] + TAU / 2 * first[i]
        _derivatives(between, force, second)
        for i in range(6):
            between[i] = state[i] + TAU / 2 * second[i]
        _derivatives(between, force, third)
        for i in range(6):
            between[i] = state[i] + TAU * third[i]
        _derivatives(between, force, fourth)
        for i in range(6):
            state[i] += TAU / 6 * (first[i] + 2 * (second[i] + third[i]) + fourth[i])


@numba.njit(cache=True)
def _force(
    networks: Programs, i: int, sizes: tuple[int, int, bool], seen: np.ndarray, state: np.ndarray, values: np.ndarray
) -> float:
    """What network i does in a state. Compiled code is cached by file, so this repeats a loop of genomes.py."""
    senses, _, recurrent = sizes
    now, into = values[0], values[1] if recurrent else values[0]
    for s in range(senses - 1):
        now[s] = state[seen[s]] / SCALES[seen[s]]
    for n in range(networks.nodes[i] - senses):
        j = networks.order[i, n]
        total = 0.0
        for e in range(networks.start[i, j], networks.start[i, j + 1]):
            total += networks.weight[i, e] * now[networks.source[i, e]]
        into[j] = 1.0 / (1.0 + np.exp(-STEEPNESS * total))
    if recurrent:
        for j in range(senses, networks.nodes[i]):
            now[j] = into[j]
    return now[senses]


@numba.njit(cache=True)
def _roll(
    networks: Programs,
    i: int,
    sizes: tuple[int, int, bool],
    bias: float,
    seen: np.ndarray,
    steps: int,
    states: np.ndarray,
) -> int:
    """Let network i balance from the first of the states; the others are filled in turn, again and again.

    Returns the number of steps before a pole falls or the track ends; the state after them is out of bounds.
    """
    values, room = np.zeros((2, networks.start.shape[1])), np.empty((5, 6))
    values[0, sizes[0] - 1] = bias
    state = states[0].copy()
    for step in range(steps):
        _advance(state, _force(networks, i, sizes, seen, state, values), room)
        states[(step + 1) % len(states)] = state
        if not (abs(state[0]) <= TRACK and abs(state[2]) <= FALLEN and abs(state[4]) <= FALLEN):
            return step
    return steps


@numba.njit(cache=True)
def _balance(
    networks: Programs,
    starts: np.ndarray,
    sizes: tuple[int, int, bool],
    bias: float,
    seen: np.ndarray,
    steps: int,
    balanced: np.ndarray,
    movement: np.ndarray,
) -> None:
    states = np.zeros((RECENT + 2, 6))  # the last hundred, and the one out of bounds
    for i in range(len(networks.nodes)):
        for k in range(len(starts)):
            states[0] = starts[k]
            made = _roll(networks, i, sizes, bias, seen, steps, states)
            balanced[i, k], movement[i, k] = made, 0.0
            for step in range(max(1, made - RECENT + 1), made + 1):
                movement[i, k] += np.abs(states[step % len(states)][:4]).sum()
