"""Incomplete: families whose rows may miss values, which NaN marks if `missing=True`.

The likelihood is that of what was observed, exactly; nothing is filled in. Where features are independent a missing value is
left out. Where they are not, the M-step takes the expected moments of what is missing (observed.py).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Params
from jaxem.families.movable import Movable
from jaxem.observed import filled, log_prob_of_features, moments_of_features
from jaxem.primitives import dot, normalise, weighted_sum
from jaxem.stats import Stats


class Incomplete(Movable):
    """A family that takes what was observed of a row."""

    missing = False
    """Whether NaN is a value that was not observed."""

    def __post_init__(self) -> None:
        if not isinstance(self.missing, (bool, np.bool_)):
            raise ValueError(f"missing = {self.missing!r}; give True or False")
        if "missing" in vars(self):
            object.__setattr__(self, "missing", bool(self.missing))

    @property
    def holes(self) -> bool:
        return self.missing

    @property
    def movable(self) -> bool:
        return not self.missing

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        return filled(x, sample_weight) if self.missing else x


class Seeing(Incomplete):
    """One that works out what was seen of a block of rows before anything else."""

    def see(self, params: Params, x: Array, run: int) -> tuple[Array, Callable[[Array], Any]]:
        """Log densities `[k, b]` of what was observed of columns `x` `[d, b]`, and what makes statistics of `resp` `[k, b]`."""
        raise NotImplementedError(f"{self!r} has no missing values")

    def log_prob_of_runs(self, params: Params, x: Array, run: int) -> Array:
        return self.see(params, x.T, run)[0].T

    def stats_of_runs(self, prepared: Any, x: Array, w: Array, run: int) -> Stats:
        params, log_weights = prepared
        log_prob, stats_of = self.see(params, x, run)
        log_prob, resp = normalise(log_weights[:, None] + log_prob, axis=0)
        resp = resp * w[None, :]  # [k, b]
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), stats_of(resp))

    def prepare_seeing(self, params: Params, log_weights: Array | None) -> Any:
        """What `stats_of_runs` is given: nothing can be worked out before the patterns are known."""
        return params, jnp.zeros(self.length(params), params[0].dtype) if log_weights is None else log_weights


class ByFeature(Seeing):
    """Gaussians; by default of independent features, where a missing value is left out."""

    def see(self, params: Any, x: Array, run: int) -> tuple[Array, Callable[[Array], Any]]:
        del run
        variances = self.variances(params.covariances, *params.means.shape)

        def stats(resp: Array) -> Any:
            return self.of_features(*moments_of_features(params.means, x, resp))

        return log_prob_of_features(params.means, variances, x), stats

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        """The variance of each component and feature, `[k, d]`."""
        return jnp.broadcast_to(covariances.reshape(k, -1), (k, d))

    def of_features(self, counts: Array, first: Array, second: Array) -> Any:
        """Statistics of moments `[k, d]` of independent features."""
        raise NotImplementedError(f"{self!r} has no missing values")

    def impute(self, params: Any, resp: Array, x: Array, run: int = 1) -> Array:
        return jnp.where(x == x, x, dot("nk,kd->nd", resp, params.means)) if self.missing else x
