"""Gaussian components that share one covariance: Tied, a matrix, and mclust's EII and EEI, TiedSpherical and TiedDiagonal.

    Sigma = sum_j S_j / sum_j N_j, or its diagonal, or the mean of that                (Celeux and Govaert 1995)

No k second moments are taken. With posteriors p_ij of a row of weight w_i and its expected mean e_i = sum_j p_ij m_j,

    sum_ij w_i p_ij (x_i - m_j)(x_i - m_j)' = sum_i w_i (x_i - e_i)(x_i - e_i)' + sum_jl G_jl (m_j - m_l)(m_j - m_l)' / 2,

G_jl = sum_i w_i p_ij p_il: nothing is subtracted but numbers of one cluster, and the work is that of three products.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxem.distances import difference, distances_by_products, whitened_squares
from jaxem.families.base import Family
from jaxem.families.diagonal import AxisParallel
from jaxem.families.gaussian import (
    FirstMoments,
    GaussianParams,
    GaussianStats,
    Isotropic,
    rounding_margin,
)
from jaxem.families.matrices import ByMatrices, covariance_about_new_mean
from jaxem.linalg import from_log_cholesky, log_cholesky, log_cholesky_units
from jaxem.primitives import dot


@dataclasses.dataclass(frozen=True, repr=False)
class Tied(ByMatrices):
    """N(x; mu_j, Sigma): one covariance matrix `[d, d]` shared by all components.

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    shared: ClassVar[bool] = True

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return (d, d)

    def subset(self, params: GaussianParams, index: Any) -> tuple[Family, GaussianParams]:
        return self, params._replace(means=params.means[index])

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return whitened_squares(means, jnp.broadcast_to(precisions[None], (means.shape[0], *precisions.shape)), x)

    def squares_by_products(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        del norms
        white = dot("ij,jb->ib", precisions, x)
        return distances_by_products(dot("ij,kj->ki", precisions, means), white, jnp.sum(white**2, axis=0))

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        w, residual, shared, apart = _about_expected_means(means, x, resp)
        between = 0.5 * dot("jli,jlm->im", shared[:, :, None] * apart, apart)
        second = dot("ib,jb->ij", w[None, :] * residual, residual) + between
        return first_moments(means, x, resp), second

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        total = jnp.sum(stats.degrees)
        return covariance_about_new_mean(
            stats.second / total, dot("ki,kj->ij", (stats.counts / total)[:, None] * delta, delta)
        )

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return jnp.sum(weights) * matrix

    def outer(self, moves: Array) -> Array:
        return dot("ki,kj->ij", moves, moves)

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return covariance

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(covariances[None], (k, d, d))

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return log_cholesky(covariances)

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return from_log_cholesky(free, d)

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return log_cholesky_units(covariances)


@dataclasses.dataclass(frozen=True)
class TiedSpherical(Isotropic):
    """N(x; mu_j, sigma^2 I): one variance `[]` shared by all components and features; mclust's EII."""

    shared: ClassVar[bool] = True

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return ()

    def subset(self, params: GaussianParams, index: Any) -> tuple[Family, GaussianParams]:
        return self, params._replace(means=params.means[index])

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        total = jnp.sum(stats.degrees)
        moved = jnp.sum(stats.counts / total * jnp.sum(delta**2, axis=1))
        return (stats.second / total - moved + rounding_margin(moved)) / delta.shape[1]

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return jnp.sum(weights) * jnp.trace(matrix)

    def outer(self, moves: Array) -> Array:
        return jnp.sum(moves**2)

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.trace(covariance) / covariance.shape[0]

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(covariances, (k, d))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(covariances * jnp.eye(d, dtype=covariances.dtype), (k, d, d))

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jnp.full(1, math.sqrt(2.0 / d), covariances.dtype)


@dataclasses.dataclass(frozen=True)
class TiedDiagonal(AxisParallel):
    """N(x; mu_j, diag(v)): one variance `[d]` for each feature, shared by all components; mclust's EEI."""

    shared: ClassVar[bool] = True

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return (d,)

    def subset(self, params: GaussianParams, index: Any) -> tuple[Family, GaussianParams]:
        return self, params._replace(means=params.means[index])

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        w, residual, shared, apart = _about_expected_means(means, x, resp)
        between = 0.5 * dot("jl,jli->i", shared, apart**2)
        return first_moments(means, x, resp), dot("ib,b->i", residual**2, w) + between

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        total = jnp.sum(stats.degrees)
        moved = dot("k,kd->d", stats.counts / total, delta**2)
        return stats.second / total - moved + rounding_margin(moved)

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return jnp.sum(weights) * jnp.diagonal(matrix)

    def outer(self, moves: Array) -> Array:
        return jnp.sum(moves**2, axis=0)

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.diagonal(covariance)

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(covariances[None], (k, d))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(jnp.diag(covariances)[None], (k, d, d))

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jnp.full(d, math.sqrt(2.0), covariances.dtype)


# -- steps ---------------------------------------------------------------------------------------------------------------


def _about_expected_means(means: Array, x: Array, resp: Array) -> tuple[Array, Array, Array, Array]:
    """Of columns `x` `[d, b]`: w_i `[b]`, x_i - e_i `[d, b]`, G_jl `[k, k]` and m_j - m_l `[k, k, d]` (the head has them)."""
    w = jnp.sum(resp, axis=0)
    posterior = resp * (1.0 / jnp.where(w > 0, w, 1.0))[None, :]
    # about one of the means: an offset common to all rows costs no digit
    residual = difference(means[0], x) - dot("kd,kb->db", means - means[:1], posterior)
    return w, residual, dot("jb,lb->jl", resp, posterior), means[:, None, :] - means[None, :, :]
