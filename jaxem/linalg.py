"""Linear algebra of small matrices without LAPACK: factors, determinants, smallest eigenvalues, log-Cholesky coordinates.

Beware: on a CPU no pass may call LAPACK. Its batched calls wait for XLA's threads on one of those threads, so that two
devices can deadlock; its triangular solver starts OpenBLAS threads, which spin for many passes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.primitives import dot, epsilon, tiny

SINGULAR = 64
"""a conditional variance (given the features before) below this many units of rounding of the variance is noise: the
matrix is singular"""
ASYMMETRY = 1e-4
"""difference of two entries that should be equal, relative to the deviations, that a file may have"""
LEAF = 16
"""number of features up to which a matrix is factored column by column"""
SQUARINGS = 14
"""squarings of a matrix that find its largest eigenvalue; the relative error is at most 2 log(d) / 2**14"""


def whitener(covariances: Array) -> Array:
    """inv(L) for Sigma = L L' `[..., d, d]`; NaN where Sigma is not positive definite."""
    return cholesky_factors(covariances)[1]


def smallest_eigenvalue(covariances: Array, inverse_scale: Array, least: Array) -> Array:
    """Smallest eigenvalue `[...]` of S Sigma S, S = diag(inverse_scale), to 1e-3; 0 if it is singular to rounding.

    It is 1 / lambda of the inverse B, and lambda = lim tr(B^(2^m))^(1 / 2^m): squarings, each scaled to trace 1; m of
    them leave a relative error of at most 2 log(d) / 2^m.
    """
    whiteners, variances = whitener(covariances), jnp.diagonal(covariances, axis1=-2, axis2=-1)
    constant = jnp.broadcast_to(inverse_scale == 0, variances.shape)
    own = jax.lax.rsqrt(jnp.maximum(variances, least))
    scale = jnp.where(constant, own, jnp.broadcast_to(inverse_scale, variances.shape))
    rooted = whiteners / scale[..., None, :]
    inverse = dot("...ji,...jk->...ik", rooted, rooted)

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log_largest = carry
        trace = jnp.trace(power, axis1=-2, axis2=-1)
        power = power / trace[..., None, None]
        return _square(power), log_largest + jnp.log(trace) * 0.5**i

    log_largest = jax.lax.fori_loop(0, SQUARINGS, square, (inverse, jnp.zeros(inverse.shape[:-2], inverse.dtype)))[1]
    lost = jnp.any(constant & (variances < least), axis=-1)
    singular = jnp.isnan(log_det(covariances, whiteners)) | lost | ~jnp.isfinite(log_largest)
    return jnp.where(singular, 0.0, jnp.exp(-log_largest))


def _square(matrices: Array) -> Array:
    """The squares of `[..., d, d]`: of small ones by sums, which XLA makes on a CPU up to five times faster."""
    if matrices.shape[-1] > LEAF:
        return dot("...ij,...jk->...ik", matrices, matrices)
    return jnp.sum(matrices[..., :, :, None] * matrices[..., None, :, :], axis=-2)


def log_det(covariances: Array, whiteners: Array) -> Array:
    """log |Sigma| of `[..., d, d]`, given inv(L); NaN where Sigma is not positive definite, to rounding."""
    inverse = jnp.diagonal(whiteners, axis1=-2, axis2=-1)  # [..., d], of deviations given the features before
    given = jnp.diagonal(covariances, axis1=-2, axis2=-1)
    proper = jnp.all(inverse**2 * given * SINGULAR * epsilon(given.dtype) < 1.0, axis=-1)
    return jnp.where(proper, -2.0 * jnp.sum(jnp.log(inverse), axis=-1), jnp.nan)


@jax.custom_jvp
def cholesky_factors(matrices: Array) -> tuple[Array, Array]:
    """L and inv(L) of symmetric `[..., d, d]` = L L'; NaN where they are not positive definite."""
    if jax.default_backend() != "cpu":
        factors = jnp.linalg.cholesky(matrices)
        identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)
        return factors, jax.lax.linalg.triangular_solve(factors, identity, left_side=True, lower=True)
    return _factors_by_halves(matrices)


@cholesky_factors.defjvp
def _factors_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    factors, inverses = cholesky_factors(*primals)
    # dL = L low(inv(L) dSigma inv(L)'), low: the lower triangle with half the diagonal (Murray 2016, equation 8)
    white = dot("...ij,...jk,...lk->...il", inverses, tangents[0], inverses)
    moved = dot("...ij,...jk->...ik", factors, jnp.tril(white) - 0.5 * _diagonal_part(white))
    return (factors, inverses), (moved, -dot("...ij,...jk,...kl->...il", inverses, moved, inverses))


def _diagonal_part(matrices: Array) -> Array:
    return matrices * jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)


def _factors_by_halves(matrices: Array) -> tuple[Array, Array]:
    """`cholesky_factors` by halves down to `LEAF`, then column by column (Golub and Van Loan 2013, 4.2 and 3.1)."""
    d = matrices.shape[-1]
    if d <= LEAF:
        return _factors_by_columns(matrices)
    h = d // 2
    top, inverse_top = _factors_by_halves(matrices[..., :h, :h])
    across = dot("...ij,...kj->...ik", matrices[..., h:, :h], inverse_top)
    rest = matrices[..., h:, h:] - dot("...ij,...kj->...ik", across, across)
    bottom, inverse_bottom = _factors_by_halves(rest)
    below = -dot("...ij,...jk,...kl->...il", inverse_bottom, across, inverse_top)
    zeros = jnp.zeros((*matrices.shape[:-2], h, d - h), matrices.dtype)
    return _of_quarters(top, zeros, across, bottom), _of_quarters(inverse_top, zeros, below, inverse_bottom)


def _of_quarters(top: Array, zeros: Array, below: Array, bottom: Array) -> Array:
    upper, lower = jnp.concatenate([top, zeros], axis=-1), jnp.concatenate([below, bottom], axis=-1)
    return jnp.concatenate([upper, lower], axis=-2)


def _factors_by_columns(matrices: Array) -> tuple[Array, Array]:
    d = matrices.shape[-1]
    index = jnp.arange(d)
    identity = jnp.broadcast_to(jnp.eye(d, dtype=matrices.dtype), matrices.shape)

    def add(j: Array, both: tuple[Array, Array]) -> tuple[Array, Array]:
        factors, inverse = both
        column = matrices[..., :, j] - dot("...ik,...k->...i", factors, factors[..., j, :])
        column = column / jnp.sqrt(column[..., j])[..., None]
        factors = factors.at[..., :, j].set(jnp.where(jnp.broadcast_to(index >= j, column.shape), column, 0.0))
        row = identity[..., j, :] - dot(
            "...j,...jk->...k", factors[..., j, :], inverse
        )  # row j of the factor is complete
        return factors, inverse.at[..., j, :].set(row / factors[..., j, j][..., None])

    return jax.lax.fori_loop(0, d, add, (jnp.zeros_like(matrices), jnp.zeros_like(matrices)))


def log_cholesky(covariance: Array) -> Array:
    """The lower Cholesky factor of a `[d, d]` matrix, diagonal logged, `[d (d + 1) / 2]` (Pinheiro and Bates 1996)."""
    factor = cholesky_factors(covariance)[0]
    deviations = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), tiny(covariance.dtype)))
    # a matrix that is not positive definite still has coordinates: those of its diagonal
    factor = jnp.where(jnp.all(jnp.isfinite(factor)), factor, jnp.diag(deviations))
    rows, columns = jnp.tril_indices(covariance.shape[0])
    entries = factor[rows, columns]
    return jnp.where(rows == columns, jnp.log(jnp.where(rows == columns, entries, 1.0)), entries)


def log_cholesky_units(covariance: Array) -> Array:
    """Standard errors of `log_cholesky`'s coordinates from one row: 1 / sqrt(2) of a logarithm, else L_ii."""
    rows, columns = jnp.tril_indices(covariance.shape[0])
    own = jnp.diagonal(cholesky_factors(covariance)[0])  # [d]
    own = jnp.where(own > 0, own, jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), tiny(covariance.dtype))))
    return jnp.where(rows == columns, math.sqrt(0.5), own[rows])


def from_log_cholesky(free: Array, d: int) -> Array:
    """Inverse of `log_cholesky`: the matrix `[d, d]` at coordinates `free` `[d (d + 1) / 2]`."""
    rows, columns = jnp.tril_indices(d)
    entries = jnp.where(rows == columns, jnp.exp(jnp.where(rows == columns, free, 0.0)), free)
    factor = jnp.zeros((d, d), free.dtype).at[rows, columns].set(entries)
    return dot("ij,kj->ik", factor, factor)


def make_proper(covariance: Array) -> Array:
    """A pooled covariance `[d, d]` that has a density: constant features get variance 1, collinear ones a little noise.

    Only a start is made proper like this; what the data cannot determine ends as a DEGENERATE status, not as a guess.
    """
    variances = jnp.diagonal(covariance)
    constant = jnp.diag(jnp.where(variances > 0, 0.0, 1.0)).astype(covariance.dtype)
    noise = jnp.diag(max(1e-6, 16 * SINGULAR * epsilon(covariance.dtype)) * variances)
    covariance = covariance + constant
    proper = jnp.isfinite(log_det(covariance, whitener(covariance)))
    return covariance + jnp.where(proper, 0.0, noise)


def is_positive_definite(matrices: np.ndarray) -> bool:
    """Whether matrices `[..., d, d]` of numpy are symmetric, to `ASYMMETRY`, and positive definite."""
    deviations = np.sqrt(np.maximum(np.diagonal(matrices, axis1=-2, axis2=-1), 0))
    unit = deviations[..., :, None] * deviations[..., None, :]
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(np.abs(matrices - np.swapaxes(matrices, -1, -2)) <= ASYMMETRY * unit))
