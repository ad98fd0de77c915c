"""Movable: families whose statistics can be moved, so that batches seen under different parameters add up.

Stats add if they are taken about the same mixture. EM over batches adds those of batches that were seen at different times, so
statistics about old parameters must become those about new ones, of the same rows at the same responsibilities and latent
scales. For N_j rows whose moments were taken about m_j, with their mean at m_j + o_j, and a new mean at m_j + delta_j:

    first_j  becomes  first_j - N_j delta_j,
    S_j      becomes  S_j - N_j o_j o_j' + N_j (o_j - delta_j)(o_j - delta_j)'.

As in an M-step, the subtraction loses no digits once o_j is small against sigma. Beside that a family tells the part of the
proxy that depends on its parameters, from statistics alone: so the bound of rows seen long ago is known at parameters of today
without another pass (online.py).
"""

import abc
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.families.base import Family, Params
from jaxem.primitives import epsilon, positive

CANCELLATION = 8
"""units of rounding of delta^2 that a variance is raised by, so that cancelled digits cannot make it negative"""


class Movable(Family):
    """A family that can be fitted batch by batch: it moves its statistics, and tells the proxy from them."""

    @property
    def movable(self) -> bool:
        """Whether it can be done with these settings; a family of families asks its parts."""
        return True

    @abc.abstractmethod
    def move_stats(self, old: Params, new: Params, stats: Any) -> Any:
        """The statistics about `new` of the rows whose statistics about `old` are `stats`, at the same responsibilities.

        Linear in `stats`. If `suff_stats` does not depend on parameters, this returns `stats`.
        """

    @abc.abstractmethod
    def expected(self, params: Params, stats: Any) -> Array:
        """sum_ij r_ij log p(x_i | params_j), `[]`, of `stats` taken about `params`, without terms that do not depend on these.

        With latent variables of its own a family takes the sum of `bound` at the same latents instead. Linear in `stats`.
        """


class AboutMeans(Movable):
    """What Gaussians share: moments about means, whose `second` has a form that `outer` knows."""

    @abc.abstractmethod
    def outer(self, moves: Array) -> Array:
        """`second` of GaussianStats for one row of weight 1 in each component, at differences `moves` `[k, d]`."""

    @abc.abstractmethod
    def precisions(self, covariances: Array) -> Array:
        """What distances are measured with."""

    @abc.abstractmethod
    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        """Log determinants, `[k]` or `[]`; NaN where there is no density."""

    def on_diagonal(self, second: Array) -> Array:
        """The entries of `second` that are variances, 0 elsewhere; by default all are."""
        return second

    def distance_sum(self, precisions: Array, second: Array) -> Array:
        """The sum over rows and components of squared distances, `[]`, from `second`."""
        return jnp.sum(precisions * second)

    def move_stats(self, old: Any, new: Any, stats: Any) -> Any:
        counts, delta = stats.counts[:, None], new.means - old.means
        own, root = stats.first / positive(counts), jnp.sqrt(counts)
        taken = self.outer(root * own)
        second = stats.second - taken + self.outer(root * (own - delta))
        second += CANCELLATION * epsilon(taken.dtype) * self.on_diagonal(taken)  # err upwards
        return stats._replace(first=stats.first - counts * delta, second=second)

    def expected(self, params: Any, stats: Any) -> Array:
        precisions, d = self.precisions(params.covariances), params.means.shape[1]
        volumes = jnp.sum(stats.degrees * self.log_det(params.covariances, precisions, d))
        return -0.5 * (volumes + self.distance_sum(precisions, stats.second))
