"""The factor against numpy's, after every row that came or went."""

import numpy as np
import pytest

from lib.pruning.shared.cholesky import Cholesky


def upper(factor):
    """R as a square matrix."""
    columns = [factor.packed[c * (c + 1) // 2 :][: c + 1] for c in range(factor.size)]
    return np.array([np.pad(column, (0, factor.size - len(column))) for column in columns]).T


@pytest.mark.parametrize("seed", range(5))
def test_rows_come_and_go_and_the_factor_follows(seed):
    draw = np.random.default_rng(seed)
    z = draw.standard_normal((30, 20)) * np.exp(draw.standard_normal(20))
    matrix, factor, there = z.T @ z, Cholesky(20), []
    for _ in range(80):
        away = [j for j in range(20) if j not in there]
        if away and (not there or draw.random() < 0.6):
            new = int(draw.choice(away))
            factor.append(matrix[new, there], matrix[new, new])
            there.append(new)
        else:
            place = int(draw.integers(len(there)))
            factor.remove(place)
            there.pop(place)
        part = matrix[np.ix_(there, there)]
        assert factor.size == len(there)
        if there:
            np.testing.assert_allclose(upper(factor), np.linalg.cholesky(part).T, atol=1e-10)
            x = draw.standard_normal(len(there))
            np.testing.assert_allclose(factor.solve(x), np.linalg.solve(part, x), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(upper(factor).T @ factor.forward(x), x, atol=1e-10)


def test_without_rows_there_is_nothing_to_solve():
    factor = Cholesky(2)
    assert factor.solve(np.zeros(0)).shape == factor.forward(np.zeros(0)).shape == (0,)
    factor.append(np.zeros(0), 9.0)
    factor.remove(0)
    assert factor.size == 0
    factor.append(np.zeros(0), 4.0)
    assert factor.solve(np.array([8.0])).tolist() == [2.0]
