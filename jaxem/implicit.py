"""Derivatives of an optimum, from the optimum and not from the way there.

An optimum theta* of the objective L(theta, phi), where phi is the data, their weights and the prior, has the score
s(theta*, phi) = 0. Moved with phi it obeys

    d theta* = inv(I) d_phi s,   I = -Hessian of L at theta*    (the implicit function theorem; Griewank and Walther 2008, 15),

and the objective there has the derivative d_phi L (the envelope theorem). So memory does not depend on the number of turns, and
no turn is differentiated. The same linear map serves forward and reverse mode, and it may be differentiated again.

A climb ends a little below its optimum. Newton's method goes the rest of the way before derivatives are taken there. If it
does not arrive quickly there is no isolated maximum nearby: components coincide, a parameter sits on a bound, or the fit
had not converged. Then derivatives are NaN.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.curvature import (
    Factor,
    conjugate_gradients,
    factor_of,
    information_at,
    information_times,
    log_prior_at,
    objective_at,
    score,
)
from jaxem.em import to_frame
from jaxem.holding import restore
from jaxem.mixture import Mixture
from jaxem.primitives import epsilon, is_traced
from jaxem.priors import Prior
from jaxem.program import Program
from jaxem.rows import Rows, turn_work
from jaxem.stopping import Status

DENSE = 512
"""coordinates up to which the information is made as a matrix; above, its products with vectors serve"""
NEWTON_STEPS = 8
"""steps of Newton's method from the end of a climb to the optimum, at most"""
QUICK = 0.25
"""part of what is left to gain that a step of Newton's method may leave"""
ROUNDING = 4
"""nats that rounding hides, in eps (|objective| + total weight)"""
LEFT = 1e-3
"""nats that may be left to gain at the end of a climb whose rule was not met, for it to pass as converged"""
FLAT = {64: 1e-9, 32: 1e-5}
"""smallest eigenvalue of the information, scaled to a unit diagonal, at an isolated maximum, by bits of the dtype"""
LONG = 1e-3
"""part of a coordinate, or of 1, that a step of Newton's method moves at most where nothing is left to gain"""
FAR = 100
"""times the nats that rounding hides, below which nothing is said of what is left to gain"""
SOUND = (Status.CONVERGED, Status.PRECISION_LIMITED)
UNFINISHED = (Status.MAX_ITER, Status.OBJECTIVE_FELL)

Optimum = tuple[Mixture, Array, Array, Array]
"""mixture, log-likelihood `[]`, objective `[]` and status `[]`"""


@jax.custom_jvp
def with_derivatives(optimum: Optimum, start: Any, rows: Rows, prior: Prior | None) -> Optimum:
    """The same optimum, with derivatives by the rows, their weights and the prior; those by the start are 0.

    Mixture and prior lie where the data lie, not in the frame of the rows.
    """
    del start, rows, prior
    return optimum


@with_derivatives.defjvp
def _with_derivatives_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Optimum, Optimum]:
    optimum = with_derivatives(*primals)
    mixture, _, objective, status = optimum
    _, start, rows, prior = primals
    arrival = jax.lax.stop_gradient(_arrive(*jax.lax.stop_gradient((mixture, rows, prior, objective, status))))
    mixture_dot, *sums_dot = _tangents(mixture, arrival, (start, rows, prior), tangents[1:])
    return optimum, (mixture_dot, *sums_dot, np.zeros(status.shape, jax.dtypes.float0))


@jax.jit
def _tangents(
    mixture: Mixture, arrival: "Arrival", primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Mixture, Array, Array]:
    """How mixture, log-likelihood and objective move with start, rows and prior."""
    (start, rows, prior), (start_dot, rows_dot, prior_dot) = primals, tangents

    def like_at(start: Any, frame: Any) -> Mixture:  # what is held moves with the start
        return cast(Mixture, restore(mixture, start)).to_frame(frame)

    like = mixture.to_frame(rows.frame)
    free = like.unconstrain()
    free = free + jax.lax.stop_gradient(arrival.free - free)
    # NaN times anything is NaN in reverse mode too, where a select would let zeros through
    factor = jnp.where(arrival.sound, 1.0, jnp.nan)

    def by_data(function: Callable[..., Array]) -> Array:
        if mixture.held is None:
            at = lambda rows, prior: function(like, free, rows, to_frame(prior, rows.frame))  # noqa: E731
            return jax.jvp(at, (rows, prior), (rows_dot, prior_dot))[1]

        def with_start(start: Any, rows: Rows, prior: Any) -> Array:
            return function(like_at(start, rows.frame), free, rows, to_frame(prior, rows.frame))

        return jax.jvp(with_start, (start, rows, prior), (start_dot, rows_dot, prior_dot))[1]

    def back(free: Array, start: Any, frame: Any) -> Mixture:
        return (like if mixture.held is None else like_at(start, frame)).constrain(free).from_frame(frame)

    def log_prior(free: Array, start: Any, rows: Rows, prior: Any) -> Array:
        own = like if mixture.held is None else like_at(start, rows.frame)
        return log_prior_at(own, free, to_frame(prior, rows.frame))

    free_dot = factor * _solve(like, free, rows, to_frame(prior, rows.frame), arrival, by_data(score))
    mixture_dot = jax.jvp(back, (free, start, rows.frame), (free_dot, start_dot, rows_dot.frame))[1]
    objective_dot = factor * by_data(objective_at)
    log_prior_dot = jax.jvp(log_prior, (free, start, rows, prior), (free_dot, start_dot, rows_dot, prior_dot))[1]
    of_start = 0.0 * factor * _total(start_dot)
    objective_dot = objective_dot + of_start
    mixture_dot = jax.tree.map(lambda leaf: leaf + of_start if _is_real(leaf) else leaf, mixture_dot)
    return mixture_dot, objective_dot - log_prior_dot, objective_dot


def from_optimum(find: Callable[..., Any], start: Mixture, rows: Rows, prior: Prior | None, stop: Any) -> Any:
    """`find(start, rows, prior, stop)`, a Result or a batch of them, with derivatives by rows and prior."""
    if not is_traced(start, rows, prior):
        return find(start, rows, prior, stop)
    if not isinstance(rows, Rows):
        raise TypeError(
            "a Source is passed over from the host and has no derivatives; give rows in memory under grad and jit"
        )
    # under grad these are numbers again
    result = find(*jax.lax.stop_gradient((start, rows, prior, stop)))
    return attach_derivatives(result, start, rows, prior)


def attach_derivatives(result: Any, start: Mixture, rows: Rows, prior: Prior | None) -> Any:
    """A Result that was found from fixed values, or a batch of them, with derivatives by these."""
    optimum = result.mixture, result.log_likelihood, result.objective, result.status
    attach = jax.vmap(with_derivatives, in_axes=(0, 0, None, None)) if result.status.ndim else with_derivatives
    mixture, log_likelihood, objective, _ = attach(optimum, start, rows, prior)
    return result._replace(mixture=mixture, log_likelihood=log_likelihood, objective=objective)


def negligible(value: float, dtype: Any) -> float:
    """Nats that may be left to gain where the objective has this value, before a mixture is called no maximum."""
    return max(LEFT, FAR * ROUNDING * epsilon(dtype) * abs(value))


def _is_real(leaf: Any) -> bool:
    return leaf.dtype != jax.dtypes.float0


def _total(tree: Any) -> Array | float:
    """The sum of all tangents of a pytree: it is linear, and not finite if one of them is not."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree) if _is_real(leaf)), 0.0)


class Arrival(NamedTuple):
    """Where Newton's method arrived from the end of a climb."""

    free: Array  # [p], in the frame of the rows
    factor: Factor | None  # of the information there; None where its products serve
    sound: Array  # [], whether that is an isolated maximum


def _newton(mixture: Mixture, rows: Rows, prior: Prior | None, objective: Array, status: Array) -> Arrival:
    """The optimum that a climb ended close to."""
    like, prior = mixture.to_frame(rows.frame), to_frame(prior, rows.frame)
    free = like.unconstrain()
    least = ROUNDING * epsilon(free.dtype) * (jnp.abs(objective) + rows.frame.total_weight)
    finished = jnp.any(jnp.stack([status == one for one in SOUND]))
    unfinished = jnp.any(jnp.stack([status == one for one in UNFINISHED]))
    if not free.size:
        return Arrival(free, None, finished | unfinished)

    def move(at: tuple[Arrival, Array, Array, Array]) -> tuple[Arrival, Array, Array, Array]:
        before, step, left, n = at
        there = before.free + step
        slope = score(like, there, rows, prior)
        factor, solve, curved = _solver(like, there, rows, prior)
        step = solve(slope)
        gain = 0.5 * jnp.sum(slope * step)
        begins = finished | (unfinished & (gain <= jnp.maximum(LEFT, least)))
        goes_on = jnp.where(n == 0, begins, gain <= jnp.maximum(QUICK * left, least))
        # where a probability is 0 there is nothing left to gain, and yet the step is long
        settles = jnp.all(jnp.abs(step) <= LONG * jnp.maximum(1.0, jnp.abs(there))) | (gain > least)
        sound = before.sound & curved & (gain >= 0) & goes_on & settles
        arrival = Arrival(there, factor, sound)
        return arrival, step, gain, n + 1

    def is_away(at: tuple[Arrival, Array, Array, Array]) -> Array:
        arrival, _, left, n = at
        return arrival.sound & (left > least) & (n < NEWTON_STEPS)

    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: _solver(like, free, rows, prior)[0]))
    first = Arrival(free, nothing, jnp.bool_(True))
    infinite = jnp.full((), jnp.inf, free.dtype)
    arrival, _, left, _ = jax.lax.while_loop(is_away, move, (first, jnp.zeros_like(free), infinite, jnp.int32(0)))
    return arrival._replace(sound=arrival.sound & (left <= least))


_arrive = Program(_newton, work=lambda mixture, rows, *_: turn_work(rows, mixture.n_components), nan_is_data=True)


def _solver(
    like: Mixture, free: Array, rows: Rows, prior: Prior | None
) -> tuple[Factor | None, Callable[[Array], Array], Array]:
    """The factor of the information I if that is made, the function inv(I) b, and whether I is that of a maximum, as far as is
    known."""
    if free.shape[0] > DENSE:
        return None, functools.partial(_iterate, like, free, rows, prior), jnp.bool_(True)
    factor = factor_of(information_at(like, free, rows, prior))
    return factor, factor.solve, factor.least > FLAT[jnp.finfo(free.dtype).bits]


def _iterate(like: Mixture, free: Array, rows: Rows, prior: Prior | None, b: Array) -> Array:
    """inv(I) b by products alone; NaN where I is found not to be positive definite."""
    units = like.constrain(free).units() * jax.lax.rsqrt(rows.frame.total_weight)
    return conjugate_gradients(lambda v: information_times(like, free, rows, prior, v), b, units)


def _solve(like: Mixture, free: Array, rows: Rows, prior: Prior | None, arrival: Arrival, b: Array) -> Array:
    """inv(I) b with derivatives by all that I depends on, and with a transpose."""
    if not free.size:
        return b
    by_hand: Any = functools.partial(_iterate, *jax.lax.stop_gradient((like, free, rows, prior)))
    solve = by_hand if arrival.factor is None else arrival.factor.solve
    times = functools.partial(information_times, like, free, rows, prior)
    solved: Array = jax.lax.custom_linear_solve(times, b, lambda _, b: solve(b), symmetric=True)
    return solved
