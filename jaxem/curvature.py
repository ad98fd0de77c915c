"""Curvature: first and second derivatives of the objective in the chart, added up over blocks of rows.

The objective is L(free) = sum_i w_i log p(x_i | free) + log prior(free), where `free` `[p]` are a mixture's coordinates in its
chart. Its gradient is the score, its negative Hessian the observed information. Both are sums over rows, so no array of
rows and coordinates is kept. Products of the information with a vector cost a few passes (Pearlmutter 1994); the whole
matrix costs p of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.mixture import Mixture
from jaxem.pointwise import log_joint
from jaxem.primitives import normalise
from jaxem.priors import Prior
from jaxem.rows import Rows, sum_blocks

MOST_PRODUCTS = 1000
"""products that one solve by conjugate gradients may take"""
RESIDUAL = {64: 1e-10, 32: 1e-5}
"""part of the right side that a solve by conjugate gradients leaves, by bits of the dtype"""


def log_prob_of(like: Mixture, free: Array, x: Array) -> Array:
    """log p(x_i) of rows `[b, d]` under the mixture at coordinates `free`, `[b]`."""
    return normalise(log_joint(like.constrain(free), x), axis=1)[0]


def _of_block(like: Mixture, free: Array, x: Array, w: Array) -> Array:
    """sum_i w_i log p(x_i) of columns `x` `[d, b]`, `[]`; its derivative by a weight of 0 is that row's log p."""
    values = log_prob_of(like, free, x.T)
    return jnp.sum(w * jnp.where(jnp.isfinite(values), values, 0.0))


def objective_at(like: Mixture, free: Array, rows: Rows, prior: Prior | None = None) -> Array:
    """The objective at coordinates `free` `[p]`, `[]`; mixture and prior lie in the frame of the rows."""
    total = sum_blocks(jax.checkpoint(lambda x, w, _: _of_block(like, free, x, w)), rows)
    return total + log_prior_at(like, free, prior)


def log_prior_at(like: Mixture, free: Array, prior: Prior | None) -> Array:
    """The log prior at coordinates `free`, `[]`; 0 without one. The prior lies in the frame of the mixture."""
    return jnp.zeros((), free.dtype) if prior is None else prior.log_prob(like.constrain(free))


def score(like: Mixture, free: Array, rows: Rows, prior: Prior | None = None) -> Array:
    """Gradient `[p]` of the objective at coordinates `free` `[p]`; mixture and prior lie in the frame of the rows.

    It may be differentiated, forward and reverse, by `free`, the rows, their weights and the prior: a block's derivatives are
    worked out again when they are needed, so none are kept.
    """
    of_rows = jax.checkpoint(lambda x, w, _: jax.grad(_of_block, 1)(like, free, x, w))
    total = sum_blocks(of_rows, rows)
    return total if prior is None else total + jax.grad(log_prior_at, 1)(like, free, prior)


def information_times(like: Mixture, free: Array, rows: Rows, prior: Prior | None, vector: Array) -> Array:
    """The observed information at `free` times a vector, `[p]`."""
    return -jax.jvp(lambda at: score(like, at, rows, prior), (free,), (vector,))[1]


def information_at(
    like: Mixture, free: Array, rows: Rows, prior: Prior | None = None, columns: Array | None = None
) -> Array:
    """The observed information `[p, p]` at coordinates `free` `[p]`: minus the Hessian of the objective.

    With `columns` `[c, p]`, its products with these.
    """
    vectors = jnp.eye(free.shape[0], dtype=free.dtype) if columns is None else columns
    # one column at a time: products of small matrices in batches are slow on a CPU, and slow to compile
    matrix = jax.lax.map(lambda v: information_times(like, free, rows, prior, v), vectors)
    return matrix if columns is not None else 0.5 * (matrix + matrix.T)


def scores_at(like: Mixture, free: Array, x: Array) -> Array:
    """Gradients of log p(x_i) at coordinates `free` `[p]`, of rows `[b, d]`: `[b, p]`."""
    of_row = jax.grad(lambda free, row: log_prob_of(like, free, row[None])[0])
    return jax.vmap(of_row, in_axes=(None, 0))(free, x)


class Factor(NamedTuple):
    """A symmetric matrix A `[p, p]`, scaled to a unit diagonal so that units do not matter, and ready to be solved with.

    Attributes:
        scale: `[p]`, 1 / sqrt(diag A); NaN where that is not positive.
        root: `[p, p]`, the lower Cholesky factor of the scaled matrix; NaN where it is not positive definite.
        least: `[]`, the smallest eigenvalue of the scaled matrix.
    """

    scale: Array
    root: Array
    least: Array

    def solve(self, b: Array) -> Array:
        """inv(A) b for `b` `[p]` or `[p, m]`; NaN where A is not positive definite."""
        scale = self.scale if b.ndim == 1 else self.scale[:, None]
        return scale * jax.scipy.linalg.cho_solve((self.root, True), scale * b)


def factor_of(matrix: Array) -> Factor:
    """The factor of a symmetric matrix `[p, p]`."""
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), jnp.nan)
    scaled = matrix * scale[:, None] * scale[None, :]
    return Factor(scale, jnp.linalg.cholesky(scaled), jnp.min(jnp.linalg.eigvalsh(scaled), initial=jnp.inf))


def conjugate_gradients(times: Callable[[Array], Array], b: Array, units: Array) -> Array:
    """inv(A) b for a positive definite A given by its products, `[p]` (Hestenes and Stiefel 1952).

    `units` `[p]` are roughly 1 / sqrt(diag A). NaN where a direction without positive curvature is met, or where the
    residual does not get small.
    """
    square, tolerance = units**2, RESIDUAL[jnp.finfo(b.dtype).bits]

    def step(at: tuple[Array, Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array, Array]:
        x, residual, direction, size, sound, n = at
        image = times(direction)
        bend = jnp.sum(direction * image)
        sound &= bend > 0
        length = jnp.where(sound, size / jnp.where(sound, bend, 1.0), 0.0)
        x, residual = x + length * direction, residual - length * image
        new = jnp.sum(square * residual**2)
        direction = square * residual + new / jnp.where(size > 0, size, 1.0) * direction
        return x, residual, direction, new, sound, n + 1

    first = jnp.sum(square * b**2)

    def goes_on(at: tuple[Array, Array, Array, Array, Array, Array]) -> Array:
        return at[4] & (at[3] > tolerance**2 * first) & (at[5] < MOST_PRODUCTS)

    start = (jnp.zeros_like(b), b, square * b, first, jnp.isfinite(first), jnp.int32(0))
    x, _, _, size, sound, _ = jax.lax.while_loop(goes_on, step, start)
    return jnp.where(sound & (size <= tolerance**2 * first), x, jnp.nan)
