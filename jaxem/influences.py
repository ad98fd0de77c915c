"""Rows: what each row says of the estimate, and what the estimate would be without it. All by autodiff, in the chart.

With s_i the gradient of log p(x_i) and I the observed information,

    inv(I) s_i                        the influence of row i: the derivative of the estimate by its weight      (Hampel 1974)
    log p(x_i | theta - inv(I) s_i)   the log density of row i by a fit without it, to first order   (Giordano et al. 2019)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import as_mixture, as_supported, as_weights, check_from_host
from jaxem.curvature import log_prob_of, scores_at
from jaxem.inference import Solved, given, information_of, warn_of
from jaxem.mixture import Mixture
from jaxem.primitives import dot, is_traced
from jaxem.priors import Prior
from jaxem.program import Program
from jaxem.rows import Rows, block_size, bucket, map_host_rows, map_rows


def scores(
    mixture: Mixture, x: ArrayLike, sample_weight: ArrayLike | None = None, *, chunk_size: int | None = None
) -> Array:
    """Gradient of w_i log p(x_i) in the chart for each row, `[n, p]`.

    The arguments are those of `information`, but `x` is an array.
    """
    weights, values = _by_rows(_scores, mixture, x, sample_weight, (), chunk_size)
    return values if weights is None else jnp.where(weights[:, None] > 0, values * weights[:, None], 0.0)


def influence(
    mixture: Mixture,
    x: ArrayLike,
    sample_weight: ArrayLike | None = None,
    prior: Prior | None = None,
    *,
    chunk_size: int | None = None,
) -> Array:
    """Derivative of the estimate, in the chart, by each row's weight, `[n, p]`; the arguments are those of `information`.

    A row far out along a direction pulls the estimate there: large ones are worth a look.
    """
    covariance, cautions = _covariance(mixture, x, sample_weight, prior, chunk_size)
    warn_of(cautions)
    return _by_rows(_influence, mixture, x, sample_weight, (covariance,), chunk_size)[1]


def leave_one_out(
    mixture: Mixture,
    x: ArrayLike,
    sample_weight: ArrayLike | None = None,
    prior: Prior | None = None,
    *,
    chunk_size: int | None = None,
) -> Array:
    """Log density of each row by a fit without it, `[n]`, to first order in one row; the arguments are those of `information`.

    A row of weight 3 loses one of its three copies. The sum over rows, times weights, scores a model by rows that it has not
    seen. It is rough where few rows hold a component.
    """
    values, cautions = left_out(mixture, x, sample_weight, prior, chunk_size)
    warn_of(cautions)
    return values


def left_out(
    mixture: Mixture, x: ArrayLike, sample_weight: Any, prior: Prior | None, chunk_size: int | None = None
) -> tuple[Array, tuple[str, ...]]:
    """What `leave_one_out` gives, and what to beware of, in words."""
    covariance, cautions = _covariance(mixture, x, sample_weight, prior, chunk_size)
    weights = np.ones(np.shape(x)[0]) if sample_weight is None else np.asarray(sample_weight)
    held_out = np.minimum(weights, 1.0)
    return _by_rows(_held_out, mixture, x, sample_weight, (covariance,), chunk_size, held_out)[1], cautions


def _covariance(
    mixture: Mixture, x: Any, sample_weight: Any, prior: Any, chunk_size: Any
) -> tuple[Array, tuple[str, ...]]:
    """inv(I) `[p, p]` in the chart where the data lie, and what speaks against taking the mixture for a maximum."""
    mixture, rows, prior = given(mixture, x, sample_weight, prior, chunk_size)
    check_from_host("a solve for rows", mixture, rows, prior, instead="use jaxem.information and jaxem.scores there")
    matrix, slope, value = information_of(mixture, rows, prior)
    solved = Solved(matrix, slope, value)
    covariance = solved.inverse() if solved.good.all() else np.full_like(solved.matrix, np.nan)
    return jnp.asarray(covariance, mixture.log_weights.dtype), solved.cautions()


# -- by rows -------------------------------------------------------------------------------------------------------------


def _scores(mixture: Mixture, x: Array) -> Array:
    return scores_at(mixture, mixture.unconstrain(), x[:, :-1])


def _influence(mixture: Mixture, x: Array, covariance: Array) -> Array:
    return dot("bp,pq->bq", _scores(mixture, x), covariance)


def _held_out(mixture: Mixture, x: Array, covariance: Array) -> Array:
    free, part = mixture.unconstrain(), x[:, -1:]
    moves = jnp.where(part > 0, part * _influence(mixture, x, covariance), 0.0)
    return jax.vmap(lambda row, move: log_prob_of(mixture, free - move, row[None])[0])(x[:, :-1], moves)


def _mapped(per_row: Any, block: int, mixture: Mixture, x: Array, more: tuple[Array, ...]) -> Array:
    return map_rows(lambda rows: per_row(mixture, rows, *more), x, block)


_map = Program(_mapped, (0, 1), work=lambda _, block, mixture, *__: block * mixture.n_components)


def _by_rows(
    per_row: Any, mixture: Any, x: Any, sample_weight: Any, more: tuple[Array, ...], chunk_size: Any, column: Any = None
) -> tuple[Any, Array]:
    """A function of rows, some of them at a time; the last column that it gets is `column` `[n]`."""
    mixture = as_mixture(mixture, x)
    if isinstance(x, Rows):
        raise TypeError("x is Rows, which are cut and padded; give the array [n, d] that they were made from")
    data = as_supported(mixture.family, x, mixture.n_components, mixture.family.n_features(mixture.components))
    dtype = jnp.promote_types(data.dtype, mixture.log_weights.dtype)
    data, n = data.astype(dtype), data.shape[0]
    weights = as_weights(sample_weight, n, dtype)
    xp = np if isinstance(data, np.ndarray) else jnp
    whole = xp.concatenate(
        [data, (xp.zeros(n) if column is None else xp.asarray(column))[:, None].astype(dtype)], axis=1
    )
    block = block_size((bucket(n), whole.shape[1]), max(1, mixture.n_parameters), dtype, chunk_size=chunk_size)
    apply = functools.partial(_map, per_row, block, mixture)
    if isinstance(whole, np.ndarray) and not is_traced(mixture, *more):
        return weights, map_host_rows(lambda chunk: apply(chunk, more), whole)
    return weights, apply(whole, more)
