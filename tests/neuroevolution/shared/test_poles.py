"""Two poles on a cart: the equations against their mass matrix, the steps against SciPy, episodes against Python."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lib.neuroevolution import neat
from lib.neuroevolution.neat import Evolution
from lib.neuroevolution.shared import poles
from lib.neuroevolution.shared.genomes import Space
from lib.neuroevolution.shared.poles import DoublePole, HiddenVelocities

STATES = np.random.default_rng(0).uniform(-0.6, 0.6, (20, 6))


def by_mass_matrix(state, force):
    """Newton's equations of a cart and two rods (moment of inertia m l^2 / 3 about the middle), solved as three."""
    g, mu = 9.8, 2e-6
    matrix, right = np.zeros((3, 3)), np.zeros(3)
    matrix[0, 0], right[0] = 1.0, force
    for i, (m, length) in enumerate([(0.1, 0.5), (0.01, 0.05)], 1):
        angle, speed = state[2 * i : 2 * i + 2]
        matrix[0, 0] += m
        matrix[0, i] = matrix[i, 0] = m * length * np.cos(angle)
        matrix[i, i] = 4 / 3 * m * length**2
        right[0] += m * length * speed**2 * np.sin(angle)
        right[i] = m * g * length * np.sin(angle) - mu * speed
    return np.linalg.solve(matrix, right)


def energy(state):
    """Kinetic and potential energy of cart and rods."""
    x, v = state[:2]
    total = 0.5 * v**2 + 0 * x
    for i, (m, length) in enumerate([(0.1, 0.5), (0.01, 0.05)], 1):
        angle, speed = state[2 * i : 2 * i + 2]
        across, up = v + length * speed * np.cos(angle), -length * speed * np.sin(angle)
        total += 0.5 * m * (across**2 + up**2 + length**2 * speed**2 / 3) + m * 9.8 * length * np.cos(angle)
    return total


@pytest.mark.parametrize("force", [0.0, 10.0, -3.7])
def test_accelerations_solve_the_equations_of_motion(force):
    for state in STATES:
        np.testing.assert_allclose(poles.accelerations(state, force), by_mass_matrix(state, force), rtol=1e-10)


def test_a_step_is_what_scipy_integrates():
    def motion(_, state, force):
        cart, long, short = by_mass_matrix(state, force)
        return [state[1], cart, state[3], long, state[5], short]

    for state, action in zip(STATES[:4], (0.0, 0.3, 0.5, 1.0), strict=True):
        exact = solve_ivp(motion, (0, 0.02), state, args=((action - 0.5) * 20,), rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(poles.advance(state, action), exact, atol=2e-4)


def test_without_force_the_energy_stays():
    state = np.array([0.0, 0.3, 0.2, -0.1, 0.05, 0.1])
    begin = energy(state)
    for _ in range(15):
        state = poles.advance(state, 0.5)
    assert energy(state) == pytest.approx(begin, rel=1e-4)


def test_upright_stays_and_left_mirrors_right():
    assert not poles.advance(np.zeros(6), 0.5).any()
    for state in STATES:
        np.testing.assert_allclose(poles.advance(-state, 0.8), -poles.advance(state, 0.2), atol=1e-14)


def test_poles_fall_faster_the_shorter_they_are():
    _, long, short = poles.accelerations(np.array([0, 0, 0.1, 0, 0.1, 0]), 0.0)
    assert short > 5 * long > 0


@cache
def controller(velocities=True):
    """A network that keeps the poles up for a while."""
    task = DoublePole() if velocities else HiddenVelocities()
    if velocities:
        return neat.search(task.space, DoublePole(steps=200), budget=30, seed=0).winner
    people = Evolution(task.space, population=200, seed=0).population
    return max(people.genomes(), key=lambda genome: poles.trial(genome, 200))


@pytest.mark.parametrize("velocities", [True, False])
def test_an_episode_is_the_network_and_the_cart_in_turn(velocities):
    genome = controller(velocities)
    network, state, made = genome.network(), poles.START, 0
    seen, scales = (slice(None), [4.8, 2, 0.52, 2, 0.52, 2]) if velocities else ([0, 2, 4], [4.8, 0.52, 0.52])
    path = [state]
    for _ in range(300):
        state = poles.advance(state, network.step(state[seen] / scales)[0])
        path.append(state)
        if abs(state[0]) > 2.4 or np.abs(state[[2, 4]]).max() > np.deg2rad(36):
            break
        made += 1
    np.testing.assert_allclose(poles.trajectory(genome, 300), path, atol=1e-7)
    assert poles.trial(genome, 300) == made and made > 20


def test_movement_is_summed_over_the_last_hundred_steps():
    evolution = Evolution(DoublePole().space, population=60, seed=2)
    people = evolution.population
    balanced, movement = poles.balance(people.networks(), people.space, poles.START[None], 400)
    longest = int(balanced[:, 0].argmax())
    path = poles.trajectory(people.genome(longest), 400)[1 : balanced[longest, 0] + 1]
    assert movement[longest, 0] == pytest.approx(np.abs(path[-100:, :4]).sum(), rel=1e-12)


def test_fitness_without_velocities_is_the_formula():
    people = Evolution(HiddenVelocities().space, population=50, seed=0).population
    people.genes["weight"] *= 0.02  # such networks push little, and some poles stay up for a while
    fitness, winner = HiddenVelocities().evaluate(people)
    for genome, value in zip(people.genomes(), fitness, strict=True):
        path = poles.trajectory(genome, 1000)
        t = poles.trial(genome, 1000)
        still = 0.75 / np.abs(path[1 : t + 1][-100:, :4]).sum() if t >= 100 else 0.0
        assert value == pytest.approx(0.1 * t / 1000 + 0.9 * still, rel=1e-12)
    assert winner is None


def test_fitness_with_velocities_is_the_number_of_steps():
    people = Evolution(DoublePole().space, population=20, seed=0).population
    fitness, winner = DoublePole(steps=5).evaluate(people)
    assert (fitness == 5).any() and fitness[winner] == 5
    assert DoublePole(steps=2000).evaluate(people)[1] is None


def test_the_starts_are_those_of_the_paper():
    starts = poles.starts()
    assert starts.shape == (625, 6) and len(np.unique(starts, axis=0)) == 625 and not starts[:, 4:].any()
    np.testing.assert_allclose(np.abs(starts).max(0)[:4], [1.944, 1.215, 0.9 * np.deg2rad(3.6), 0.9 * np.deg2rad(8.6)])
    alone = [poles.trial(controller(), 1000, start) >= 1000 for start in starts[::25]]
    assert sum(alone) <= poles.generalization(controller()) <= 600 + sum(alone)


@cache
def without_velocities():
    """A network that solves the task without velocities."""
    task = HiddenVelocities()
    options = {"budget": 200, "population": 1000, "settings": neat.HIDDEN_VELOCITIES}
    return neat.search(task.space, task, seed=4, **options).winner


def test_a_network_without_velocities_passes_the_long_test_and_the_starts():
    winner, task = without_velocities(), HiddenVelocities()
    assert task.passes(winner) and poles.trial(winner, 100_000) == 100_000
    assert 200 <= poles.generalization(winner) < 625
    path = poles.trajectory(winner, 100_000)
    assert np.abs(path[:, 0]).max() < 2.4 and np.abs(path[:, [2, 4]]).max() < np.deg2rad(36)


def test_the_test_without_velocities_needs_both_of_its_parts(monkeypatch):
    winner = without_velocities()
    monkeypatch.setattr(poles, "generalization", lambda genome: 199)
    assert not HiddenVelocities().passes(winner)
    monkeypatch.setattr(poles, "generalization", lambda genome: 200)
    assert HiddenVelocities().passes(winner)
    monkeypatch.setattr(poles, "trial", lambda genome, steps: 99_999)
    assert not HiddenVelocities().passes(winner)


def test_without_loops_no_network_can_know_the_velocities():
    winner = without_velocities()
    loops = winner.genes["source"] >= winner.space.senses
    assert loops.any()
    task = replace(HiddenVelocities().space, recurrent=False)
    people = Evolution(task, population=1000, seed=0).population
    people.genes["weight"] *= 8
    fitness, _ = HiddenVelocities().evaluate(people)
    assert fitness.max() < 0.1 * 200 / 1000  # all fall within four seconds


@pytest.mark.parametrize("task", [DoublePole, HiddenVelocities])
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(task, steps):
    with pytest.raises(ValueError, match=f"steps must be 1 or more, not {steps}"):
        task(steps=steps)


@pytest.mark.parametrize("space", [Space(4, 1), Space(6, 2)])
def test_networks_of_other_sizes_are_refused(space):
    people = Evolution(space, population=2, seed=0).population
    with pytest.raises(ValueError, match="needs networks of 6 inputs"):
        DoublePole().evaluate(people)
    with pytest.raises(ValueError, match="needs networks of 3 inputs"):
        HiddenVelocities().evaluate(people)
    with pytest.raises(ValueError, match="6 or 3 inputs and one output"):
        poles.trial(people.genome(0), 10)
