r"""Step sizes, radii and ages that change from one value to another as learning goes on."""

import numpy as np


def power(initial: float, final: float, steps: np.ndarray, total: int) -> np.ndarray:
    r"""Return a schedule that changes by the same factor at each step (martinetz1991neural).

    .. math:: g(t) = g_i \left(\frac{g_f}{g_i}\right)^{t / T}

    initial: value at step 0, above 0.
    final: value at step ``total``, above 0; smaller or larger than the initial one.
    steps: (n,) steps t, from 0; those after ``total`` get the final value.
    total: T, the number of steps from the initial to the final value, 1 or more.

    Returns (n,) float64.

    >>> power(8.0, 0.5, np.arange(6), total=4).tolist()
    [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    """
    # g(t) = g_i (g_f / g_i)^(t/T)
    return initial * (final / initial) ** (np.minimum(steps, total) / total)


def asymptotic(initial: float, steps: np.ndarray, total: int) -> np.ndarray:
    r"""Return a schedule that falls as 1/t, to a third of the initial value, as in the package minisom.

    .. math:: g(t) = \frac{g_i}{1 + t / (T/2)}

    initial: value at step 0.
    steps: (n,) steps t, from 0; those after ``total`` get the value at ``total``.
    total: T, the step at which a third is left, 1 or more.

    Returns (n,) float64.

    >>> asymptotic(6.0, np.arange(0, 9, 2), total=4).tolist()
    [6.0, 3.0, 2.0, 2.0, 2.0]
    """
    # g(t) = g_i / (1 + t / (T/2))
    return initial / (1 + np.minimum(steps, total) / (total / 2))


def check_falling(name: str, initial: float, final: float) -> None:
    """Refuse a schedule that rises.

    name: the parameter, as the user writes it.
    initial: value at the first step.
    final: value at the last step.

    Raises ValueError if the final value is larger.
    """
    if final > initial:
        raise ValueError(f"{name} rises from {initial} to {final}; it must fall or stay as it is")
