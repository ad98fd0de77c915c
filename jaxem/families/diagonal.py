"""Gaussian components with axis-parallel ellipsoids: a variance for each feature.

Sigma_j = diag(v_j),   v_j = diag(S_j) / N_j          (the head of gaussian.py has S_j and N_j)
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.distances import difference, moments_by_products, over_components
from jaxem.families.gaussian import (
    FirstMoments,
    Gaussian,
    GaussianStats,
    move_ratio,
    per_feature,
    rounding_margin,
)
from jaxem.primitives import dot, positive


class AxisParallel(Gaussian):
    """What Diagonal and TiedDiagonal share: a variance for each feature."""

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return jnp.sum(jnp.log(covariances), axis=-1)

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        def of_one(mean: Array, inverse: Array) -> Array:
            return jnp.sum(difference(mean, x) ** 2 * inverse[:, None], axis=0)

        return over_components(of_one, x.shape[0])(means, _rows_like(precisions, means))

    def squares_by_products(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        del norms
        precisions = _rows_like(precisions, means)
        scaled = precisions * means
        products = dot("kd,db->kb", precisions, x**2) - 2.0 * dot("kd,db->kb", scaled, x)
        return jnp.maximum(products + jnp.sum(scaled * means, axis=1)[:, None], 0.0)

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.sum(precisions * _rows_like(jnp.diagonal(scatter), precisions), axis=-1)

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        d = scale.shape[0]
        return degrees + 2.0, jnp.eye(d, dtype=scale.dtype) * (jnp.trace(scale) / d)

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        alone = jnp.where(covariances < least, 0.0, 1.0)
        inverse_scale = _rows_like(inverse_scale, covariances)
        return jnp.min(jnp.where(inverse_scale > 0, covariances * inverse_scale**2, alone), axis=-1)


@dataclasses.dataclass(frozen=True, repr=False)
class Diagonal(AxisParallel):
    """N(x; mu_j, diag(v_j)): a variance `[k, d]` for each component and feature.

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    def of_features(self, counts: Array, first: Array, second: Array) -> GaussianStats:
        return GaussianStats(counts, counts, first, second)

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d)

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        def of_one(mean: Array, resp: Array) -> Array:
            return dot("db,b->d", difference(mean, x) ** 2, resp)

        second = over_components(of_one, x.shape[0])(means, resp)
        return first_moments(means, x, resp), second

    def moments_by_products(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array
    ) -> tuple[Array, Array]:
        """The same; second moments are products where each variance is precise, see the head of distances.py."""

        by_differences = super().moments_by_products
        return moments_by_products(
            means, precisions, x, resp, lambda: by_differences(means, precisions, x, resp, squares)
        )

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        moved = move_ratio(stats) * delta**2
        return stats.second / positive(per_feature(stats.degrees)) - moved + rounding_margin(moved)

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return weights[:, None] * jnp.diagonal(matrix)[None, :]

    def outer(self, moves: Array) -> Array:
        return moves**2

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.broadcast_to(jnp.diagonal(covariance)[None, :], (k, covariance.shape[0]))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances[:, :, None] * jnp.eye(d, dtype=covariances.dtype)[None]

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jnp.repeat(jax.lax.rsqrt(0.5 * weights), d)


def _rows_like(row: Array, matrix: Array) -> Array:
    """A row `[d]` in the shape of `matrix`, `[k, d]` or `[d]`; what has that shape stays as it is."""
    return jnp.broadcast_to(row.reshape(*(1,) * (matrix.ndim - row.ndim), *row.shape), matrix.shape)
