"""The problems that experiments on accelerators and optima share: small real data whose best optimum is known.

Old Faithful is bundled with jaxem, iris with scikit-learn. `best` is the log-likelihood of the best non-degenerate maximum
known, from 30 to 90 diverse starts climbed to a residual of 1e-12.
"""

from typing import Any, Literal

import numpy as np
from sklearn.datasets import load_iris

import jaxem
from experiments.common import Config, Positive

Covariance = Literal["full", "tied", "diag", "spherical"]
FAMILIES = {"full": jaxem.Full(), "tied": jaxem.Tied(), "diag": jaxem.Diagonal(), "spherical": jaxem.Spherical()}


class Problem(Config):
    """Data, the number of components, the covariances, and the best log-likelihood known."""

    data: Literal["faithful", "iris"]
    k: Positive
    covariance: Covariance
    best: float

    @property
    def name(self) -> str:
        """What figures and tables call it."""
        return f"{self.data}, K = {self.k}, {self.covariance}"

    @property
    def x(self) -> Any:
        """Rows `[n, d]`."""
        return jaxem.datasets.faithful() if self.data == "faithful" else np.asarray(load_iris().data)

    @property
    def family(self) -> jaxem.Family:
        """The family of the components."""
        return FAMILIES[self.covariance]
