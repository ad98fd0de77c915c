"""Gaussian components whose covariances are matrices, measured with inv(L), Sigma = L L': Full, a matrix for each component.

What they share with all other Gaussians is in gaussian.py.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.distances import difference, over_components, whitened_squares
from jaxem.families.base import Family
from jaxem.families.gaussian import (
    NOT_PROPER,
    FirstMoments,
    Gaussian,
    GaussianParams,
    GaussianStats,
    move_ratio,
    rounding_margin,
)
from jaxem.linalg import (
    from_log_cholesky,
    is_positive_definite,
    log_cholesky,
    log_cholesky_units,
    log_det,
    smallest_eigenvalue,
    whitener,
)
from jaxem.observed import LOG_2PI, bound_of_seen, expected_rows, moments_of_seen, see
from jaxem.primitives import dot, positive


class ByMatrices(Gaussian):
    """What Full and Tied share: covariances are matrices, measured with inv(L)."""

    by_matrices: ClassVar[bool] = True

    def see(self, params: GaussianParams, x: Array, run: int) -> tuple[Array, Callable[[Array], GaussianStats]]:
        seen = see(*params, x, run)

        def stats(resp: Array) -> GaussianStats:
            counts = jnp.sum(resp, axis=1)
            first, second = moments_of_seen(seen, resp, resp)
            return GaussianStats(counts, counts, first, jnp.sum(second, axis=0) if self.shared else second)

        return -0.5 * (seen.squares + seen.log_dets + LOG_2PI * seen.counts[None, :]), stats

    @property
    def by_pattern(self) -> bool:
        return self.missing

    def row_floats(self, n_components: int, n_features: int) -> int:
        plain = super().row_floats(n_components, n_features)
        return n_components * n_features**2 if self.missing else plain  # each row may have a pattern of its own

    def bound(self, new: GaussianParams, old: GaussianParams, x: Array) -> Array:
        if not self.missing:
            return self.log_prob(new, x)
        return bound_of_seen(*new, old.means, see(*old, x.T, 1)).T

    def impute(self, params: GaussianParams, resp: Array, x: Array, run: int = 1) -> Array:
        if not self.missing:
            return x
        expected = expected_rows(params.means, see(*params, x.T, run))
        return jnp.where(x == x, x, dot("nk,kdn->nd", resp, expected))

    def precisions(self, covariances: Array) -> Array:
        return whitener(covariances)

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return log_det(covariances, precisions)

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.sum(dot("...ij,jk->...ik", precisions, scatter) * precisions, axis=(-2, -1))

    def on_diagonal(self, second: Array) -> Array:
        return second * jnp.broadcast_to(jnp.eye(second.shape[-1], dtype=second.dtype), second.shape)

    def distance_sum(self, precisions: Array, second: Array) -> Array:
        return jnp.sum(dot("...ij,...ik->...jk", precisions, precisions) * second)

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        return degrees + scale.shape[0] + 1.0, scale

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(jnp.diagonal(covariances, axis1=-2, axis2=-1), (k, d))

    def sizes(self, covariances: Array) -> Array:
        deviations = jnp.sqrt(jnp.diagonal(covariances, axis1=-2, axis2=-1))
        return deviations[..., :, None] * deviations[..., None, :]

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        return smallest_eigenvalue(covariances, inverse_scale, least)

    def of_columns(self, covariances: Array, columns: np.ndarray) -> Array:
        return covariances[..., columns, :][..., columns]

    def conditional(
        self, params: GaussianParams, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, GaussianParams, Array]:
        _, given = self.marginal(params, columns)
        white, away = self.precisions(given.covariances), values[None, :] - given.means
        rooted = dot("...ij,...kj->...ik", white, params.covariances[..., others, :][..., columns])  # [..., m, others]
        means = params.means[:, others] + dot("...ji,...j->...i", rooted, dot("...ij,...j->...i", white, away))
        covariances = self.of_columns(params.covariances, others) - dot("...ji,...jk->...ik", rooted, rooted)
        return self, GaussianParams(means, covariances), self.log_prob(given, values[None, :])[0]

    def check(self, params: GaussianParams) -> str | None:
        return None if is_positive_definite(np.asarray(params.covariances)) else NOT_PROPER


@dataclasses.dataclass(frozen=True, repr=False)
class Full(ByMatrices):
    """N(x; mu_j, Sigma_j): a covariance matrix `[k, d, d]` for each component.

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d, d)

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return whitened_squares(means, precisions, x)

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        def of_one(mean: Array, resp: Array) -> tuple[Array, Array]:
            diff = difference(mean, x)
            weighted = resp[None, :] * diff
            return jnp.sum(weighted, axis=1), dot("ib,jb->ij", weighted, diff)

        return over_components(of_one, x.shape[0])(means, resp)

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        second = stats.second / positive(stats.degrees)[:, None, None]
        return covariance_about_new_mean(second, move_ratio(stats)[:, :, None] * self.outer(delta))

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return weights[:, None, None] * matrix[None]

    def outer(self, moves: Array) -> Array:
        return moves[:, :, None] * moves[:, None, :]

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.broadcast_to(covariance[None], (k, *covariance.shape))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return jax.vmap(log_cholesky)(covariances).ravel()

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return jax.vmap(lambda row: from_log_cholesky(row, d))(free.reshape(k, -1))

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return (jax.vmap(log_cholesky_units)(covariances) * jax.lax.rsqrt(weights)[:, None]).ravel()


# -- steps ---------------------------------------------------------------------------------------------------------------


def covariance_about_new_mean(second: Array, moved: Array) -> Array:
    """Covariance matrices `[..., d, d]` from moments about the old mean and the outer product of the mean's move."""
    identity = jnp.broadcast_to(jnp.eye(moved.shape[-1], dtype=moved.dtype), moved.shape)
    covariances = second - moved + identity * rounding_margin(moved)
    return 0.5 * (covariances + jnp.swapaxes(covariances, -1, -2))
