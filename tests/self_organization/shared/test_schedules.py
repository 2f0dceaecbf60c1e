"""Schedules: their ends, the same factor at each step, and the refusal of those that rise."""

import numpy as np
import pytest

from lib.self_organization.shared import schedules


@pytest.mark.parametrize(("initial", "final"), [(0.5, 0.01), (20.0, 200.0), (3.0, 3.0)])
def test_power_changes_by_one_factor_from_end_to_end(initial, final):
    values = schedules.power(initial, final, np.arange(101), 100)
    assert values[0] == initial and values[-1] == pytest.approx(final, rel=1e-14)
    np.testing.assert_allclose(values[1:] / values[:-1], (final / initial) ** 0.01, rtol=1e-12)


def test_both_schedules_stay_where_they_ended():
    late = np.array([100, 101, 10_000])
    np.testing.assert_allclose(schedules.power(0.5, 0.01, late, 100), 0.01)
    np.testing.assert_allclose(schedules.asymptotic(0.6, late, 100), 0.2)


def test_asymptotic_is_the_formula_of_minisom():
    values = schedules.asymptotic(0.5, np.arange(1000), 1000)
    assert values.tolist() == [0.5 / (1 + t / (1000 / 2)) for t in range(1000)]


def test_a_rising_schedule_is_refused_and_a_level_one_is_not():
    with pytest.raises(ValueError, match=r"radius rises from 1\.0 to 2\.0; it must fall"):
        schedules.check_falling("radius", 1.0, 2.0)
    schedules.check_falling("radius", 2.0, 2.0)
