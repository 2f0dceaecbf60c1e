r"""A Gaussian process with a given kernel: what is known about a function from a few of its values.

.. math:: \mu_* = K_* (K + \sigma^2 I)^{-1} y, \qquad
    \sigma_*^2 = \operatorname{diag}\big(K_{**} - K_* (K + \sigma^2 I)^{-1} K_*^\top\big)

It is computed from a Cholesky factor, without an inverse.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular


@dataclass(frozen=True)
class GaussianProcess:
    """What :func:`fit` returns.

    factor: (n, n), the lower Cholesky factor of K + noise I.
    weights: (n,), (K + noise I)^-1 y.
    """

    factor: np.ndarray
    weights: np.ndarray

    def predict(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give mean and standard deviation of the function at m new points, whose own kernel is 1.

        kernel: (m, n), of the new points with the known ones.

        Returns (m,) and (m,).
        """
        # method
        reduced = solve_triangular(self.factor, kernel.T, lower=True, check_finite=False)
        variance = 1 - np.square(reduced).sum(0)
        return kernel @ self.weights, np.sqrt(variance.clip(min=0))  # rounding makes a zero negative
        # end of method


def fit(kernel: np.ndarray, values: np.ndarray, *, noise: float) -> GaussianProcess:
    """Fit a Gaussian process of mean 0.

    kernel: K, (n, n), positive semidefinite, with ones on its diagonal.
    values: y, (n,), finite.
    noise: variance of the noise of a value, above 0.

    Raises ValueError for noise that is not above 0, for values that are not finite, and for a kernel that is not
    positive definite with this noise.

    >>> known = fit(np.eye(2), np.array([1.0, -1.0]), noise=1e-10)
    >>> [values.round(3).tolist() for values in known.predict(np.array([[1.0, 0.0], [0.0, 0.0]]))]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not 0 < noise < np.inf:
        raise ValueError(f"noise must be a finite number above 0, not {noise!r}")
    if not (np.isfinite(values).all() and np.isfinite(kernel).all()):
        raise ValueError("kernel and values must be finite")
    try:
        factor = cholesky(kernel + noise * np.eye(len(kernel)), lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"the kernel is not positive definite with a noise of {noise}: give more noise") from error
    return GaussianProcess(factor, cho_solve((factor, True), values, check_finite=False))
