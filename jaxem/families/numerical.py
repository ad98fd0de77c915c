"""Numerical: any density of one row, whose M-step is a step of Newton's method on the proxy.

With l(phi, x) the log density of a row and phi_j the parameters of component j, one pass sums

    g_j = sum r_ij grad l(phi_j, x_i),   H_j = -sum r_ij hess l(phi_j, x_i),   B_j = sum r_ij grad l grad l',

all by autodiff, all additive; the step is phi_j + inv(H_j) g_j, or inv(B_j) g_j where H_j is not positive definite (Lange
1995, the EM gradient algorithm; Berndt, Hall, Hall and Hausman 1974). One pass a turn, and near the optimum EM's own rate.
The step may overshoot: the family is not `exact`, and a climb halves a step that lowers the objective (loop.py).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.linalg import whitener
from jaxem.primitives import alive, compact, dot, epsilon

LOOKED_AT = 256
"""rows at which a density is tried before a fit"""
RIDGE = 64
"""units of rounding of each entry of the diagonal of H or B that are added to it"""


@compact
class NumericalParams(NamedTuple):
    """Unconstrained parameters, `[k, q]`."""

    free: Array


class NumericalStats(NamedTuple):
    """g `[k, q]`, H and B `[k, q, q]`, and the counts `[k]`."""

    slope: Array
    curvature: Array
    squares: Array
    counts: Array


@dataclasses.dataclass(frozen=True)
class Numerical(Family):
    """Components of any density: `Numerical(log_prob, init, sample=None)`.

    It promises that the objective never falls and that a climb ends where the gradient is zero, at EM's rate near the
    optimum. It promises no closed form: far from the optimum it may take more passes than an exact M-step would, and the
    density must be smooth, with two derivatives. Functions are compared by identity: define them once, not in a loop. A
    component may reach any parameters for which the density is finite; keep variances from zero by a prior of your own.

    Attributes:
        log_prob: (params `[q]`, row `[d]`) to the log density `[]` of the row under one component, any JAX function.
        init: (x `[n, d]`, sample_weight `[n]`) to the params `[q]` of one component fitted to all rows, roughly.
        sample: (key, params `[q]`) to one row `[d]`; None if rows cannot be drawn.

    Example:
        >>> import jax, jax.numpy as jnp, jaxem
        >>> def log_prob(params, row):  # exponential waiting times, by the logarithm of the rate
        ...     return params[0] - jnp.exp(params[0]) * row[0]
        >>> def init(x, sample_weight):
        ...     return -jnp.log(jnp.sum(sample_weight[:, None] * x, axis=0) / jnp.sum(sample_weight))
        >>> family = jaxem.Numerical(log_prob, init)
        >>> x = jax.random.exponential(jax.random.key(0), (100, 1))
        >>> jaxem.search(jax.random.key(1), family, x, 1).best.mixture.components.free.shape
        (1, 1)
    """

    log_prob_of_row: Callable[[Array, Array], Array]
    init_from: Callable[[Array, Array], Array]
    sample_row: Callable[[Array, Array], Array] | None = None

    exact = False

    def __init__(
        self,
        log_prob: Callable[[Array, Array], Array],
        init: Callable[[Array, Array], Array],
        sample: Callable[[Array, Array], Array] | None = None,
    ) -> None:
        for name, value in (("log_prob", log_prob), ("init", init), ("sample", sample)):
            if not callable(value) and not (value is None and name == "sample"):
                raise TypeError(f"{name} = {value!r} cannot be called; give a function")
        object.__setattr__(self, "log_prob_of_row", log_prob)
        object.__setattr__(self, "init_from", init)
        object.__setattr__(self, "sample_row", sample)

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> NumericalParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        x = jnp.where(w[:, None] > 0, x, x[jnp.argmax(w > 0)][None, :])
        one = jnp.asarray(self.init_from(x, w), x.dtype)
        if one.ndim != 1:
            raise ValueError(f"init gives params of shape {one.shape}; give one component's, [q]")
        return NumericalParams(jnp.broadcast_to(one[None, :], (n_components, one.shape[0])))

    def log_prob(self, params: NumericalParams, x: Array) -> Array:
        of_row = jax.vmap(self._of_one, (0, None))  # of all components
        return jax.vmap(of_row, (None, 0))(params.free, x)

    def suff_stats(self, params: NumericalParams, x: Array, resp: Array) -> NumericalStats:
        def of_component(free: Array, resp: Array) -> tuple[Array, Array, Array]:
            used = resp > 0  # a row far away may have no finite derivative

            def total(free: Array) -> Array:
                values = jax.vmap(self._of_one, (None, 0))(free, x)
                return jnp.sum(jnp.where(used, resp * values, 0.0))

            scores = jax.vmap(jax.grad(self._of_one), (None, 0))(free, x)  # [n, q]
            scores = jnp.where(used[:, None], scores, 0.0)
            slope, squares = dot("n,nq->q", resp, scores), dot("np,nq->pq", resp[:, None] * scores, scores)
            return slope, -jax.jacfwd(jax.grad(total))(free), squares

        return NumericalStats(*jax.vmap(of_component, (0, 1))(params.free, resp), jnp.sum(resp, axis=0))

    def m_step(self, params: NumericalParams, stats: NumericalStats) -> NumericalParams:
        newton, scoring = (_solve(matrix, stats.slope) for matrix in (stats.curvature, stats.squares))
        step = jnp.where(jnp.isfinite(newton).all(axis=1, keepdims=True), newton, scoring)
        return NumericalParams(params.free + jnp.where(alive(stats.counts)[:, None], step, 0.0))

    def unconstrain(self, params: NumericalParams) -> Array:
        return params.free.ravel()

    def constrain(self, params: NumericalParams, free: Array) -> NumericalParams:
        return NumericalParams(free.reshape(params.free.shape))

    def sample(self, key: Array, params: NumericalParams, labels: Array) -> Array:
        if self.sample_row is None:
            raise NotImplementedError("Numerical draws no rows: it was given no sample=")
        rows = jax.vmap(self.sample_row)(jax.random.split(key, labels.shape[0]), params.free[labels])
        return rows.astype(params.free.dtype)

    def objection(self, x: Any) -> str | None:
        values = np.asarray(_tried(self, jnp.asarray(x[:LOOKED_AT])))
        bad = np.flatnonzero(np.isnan(values))
        if not bad.size:
            return None
        return (
            f"log_prob is NaN at {np.asarray(x[bad[0]]).tolist()} and the params of init; mend one of the two functions"
        )

    def row_floats(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * 8  # scores and derivatives of a row

    def _of_one(self, free: Array, row: Array) -> Array:
        value = jnp.asarray(self.log_prob_of_row(free, row), row.dtype)
        if value.ndim:
            raise ValueError(f"log_prob gives an array of shape {value.shape} for one row; give a number, []")
        return value


@jax.jit
def _solve(matrices: Array, slopes: Array) -> Array:
    """inv(matrix) slope of each component, `[k, q]`; NaN where it is not positive definite."""
    diagonal = jnp.diagonal(matrices, axis1=1, axis2=2)
    still = (diagonal == 0) & (slopes == 0)  # a parameter that nothing depends on does not move
    scale = jnp.sqrt(jnp.where(still, 1.0, jnp.where(diagonal > 0, diagonal, jnp.nan)))
    eye = jnp.eye(scale.shape[1], dtype=bool)[None]
    unit = jnp.where(eye, 1.0 + RIDGE * epsilon(scale.dtype), matrices / (scale[:, :, None] * scale[:, None, :]))
    white = whitener(jnp.where(jnp.isnan(scale)[:, :, None] & eye, jnp.nan, unit))
    return dot("kji,kj->ki", white, dot("kij,kj->ki", white, slopes / scale)) / scale


def _tried_at_init(family: Numerical, x: Array) -> Array:
    return family.log_prob(family.init(x, 1), x)[:, 0]


_tried = jax.jit(_tried_at_init, static_argnums=0)
