"""Newton's method inside an M-step: the minimum of a smooth function on a curved set, to rounding.

About a point p the set has coordinates c `[q]`, and p is c = 0. With gradient g and Hessian H of the loss there, the step is
-inv(H + mu max|diag H| I) g; mu grows until the loss falls and shrinks when it has (Levenberg 1944, Marquardt 1963). The loss
never rises above that of the start by more than rounding.

The minimum as a function of the data has the derivative -inv(H) dg (the implicit function theorem), forward and reverse,
whatever the way there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.linalg import cholesky_factors
from jaxem.primitives import dot, epsilon, select

STEPS = 100
"""steps at most, those that are refused included"""
RIDGE = 1e-9
"""share of the largest curvature that is added to all, so that a direction without curvature is no fault; in float32 1e-5"""


class Problem(NamedTuple):
    """A loss on a set of points; the functions are those of a module, so that equal problems share a program.

    Attributes:
        loss: (point, data) -> `[]`.
        near: (point, c `[q]`) -> point, right to second order about c = 0.
        move: the same, but within the set to rounding at any c.
        size: point -> q.
    """

    loss: Callable[[Any, Any], Array]
    near: Callable[[Any, Array], Any]
    move: Callable[[Any, Array], Any]
    size: Callable[[Any], int]


class _Search(NamedTuple):
    point: Any
    value: Array  # []
    damping: Array  # []
    moved: Array  # [], the largest coordinate of the last step
    tries: Array  # []


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def minimise(problem: Problem, start: Any, data: Any) -> Any:
    """The point where the loss is least, searched from `start`."""
    value = problem.loss(start, data)
    dtype = value.dtype
    if problem.size(start) == 0:
        return start
    eps = epsilon(dtype)
    slack, tolerance = 8 * eps, eps**0.5

    def step(at: _Search) -> _Search:
        g, hessian = _derivatives(problem, at.point, data)
        c = -_solve(hessian, g, at.damping + _ridge(dtype))
        sound = jnp.all(jnp.isfinite(c))
        c = jnp.where(sound, c, 0.0)
        point = problem.move(at.point, c)
        value = problem.loss(point, data)
        better = sound & (value <= at.value + slack * (1.0 + jnp.abs(at.value)))
        eased = jnp.where(at.damping > 1e-3, 0.1 * at.damping, 0.0)
        return _Search(
            select(better, point, at.point),
            jnp.where(better, value, at.value),
            jnp.where(better, eased, jnp.maximum(10.0 * at.damping, 1e-3)),
            jnp.where(better, jnp.max(jnp.abs(c)), jnp.inf).astype(dtype),
            at.tries + 1,
        )

    def goes_on(at: _Search) -> Array:
        return (at.moved > tolerance) & (at.tries < STEPS) & (at.damping < 1e9)

    first = _Search(start, value, jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), int))
    return jax.lax.while_loop(goes_on, step, first).point


@minimise.defjvp
def _minimise_jvp(problem: Problem, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    point, data = minimise(problem, *primals), primals[1]
    q = problem.size(point)
    if q == 0:
        return point, jax.tree.map(jnp.zeros_like, point)
    hessian = _derivatives(problem, point, data)[1]
    turned = jax.jvp(lambda data: _derivatives(problem, point, data, second=False)[0], (data,), (tangents[1],))[1]
    c = -_solve(hessian, turned, 64 * epsilon(hessian.dtype))
    zero = jnp.zeros(q, hessian.dtype)
    return point, jax.jvp(lambda c: problem.near(point, c), (zero,), (c,))[1]


def _derivatives(problem: Problem, point: Any, data: Any, *, second: bool = True) -> tuple[Array, Any]:
    """Gradient `[q]` and Hessian `[q, q]` of the loss at a point."""

    def loss(c: Array) -> Array:
        return problem.loss(problem.near(point, c), data)

    zero = jnp.zeros(problem.size(point), jax.tree.leaves(point)[0].dtype)
    g = jax.grad(loss)
    return g(zero), jax.jacfwd(g)(zero) if second else None


def _solve(hessian: Array, g: Array, ridge: Array | float) -> Array:
    """inv(H + ridge max|diag H| I) g; NaN where that is not positive definite."""
    q = hessian.shape[0]
    size = jnp.max(jnp.abs(jnp.diagonal(hessian)))
    root = cholesky_factors(0.5 * (hessian + hessian.T) + ridge * size * jnp.eye(q, dtype=hessian.dtype))[1]
    return dot("ji,jk,k->i", root, root, g)


def _ridge(dtype: Any) -> float:
    return RIDGE if epsilon(dtype) < 1e-9 else 1e-5
