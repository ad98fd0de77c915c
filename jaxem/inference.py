"""How sure is the fit? Errors of an estimate and the rate of EM, all by autodiff.

With l the objective, s_i the gradient of log p(x_i) and I = -Hessian of l at the estimate, in the chart,

    I                       the observed information; inv(I) is the covariance of the estimate if the family is right
                                                                                     (Efron and Hinkley 1978)
    inv(I) B inv(I)         the sandwich, B = sum_i w_i s_i s_i' about their mean: right if the family is wrong  (Huber 1967)
    J = I - inv(I_c) I      the Jacobian of EM; its largest eigenvalue is EM's rate         (Dempster, Laird and Rubin 1977)

The delta method gives errors of natural parameters. An interval ends where the chart is left by z standard errors in the
direction in which the parameter moves most for its distance. So it stays in the parameter's range, and where a parameter
is a function of one coordinate it is that coordinate's interval, transformed.

A direction without information (an unidentified parameter, a probability of 0) has no error: what it moves is NaN.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from jaxem.checks import as_mixture, as_sample_size, check_from_host, warn_user
from jaxem.curvature import (
    conjugate_gradients,
    information_at,
    information_times,
    log_prior_at,
    log_prob_of,
    objective_at,
    score,
    scores_at,
)
from jaxem.display import picture, readable, summary_card
from jaxem.em import chart_map, objective, pass_over, to_frame
from jaxem.families.base import Family
from jaxem.implicit import FLAT, negligible
from jaxem.mixture import Mixture
from jaxem.parts import n_parts
from jaxem.primitives import compact, dot, is_traced
from jaxem.priors import Prior
from jaxem.program import Program
from jaxem.rows import Rows, as_rows, sum_blocks, turn_work
from jaxem.source import Source, Stream
from jaxem.threads import run_all

DENSE = 2000
"""coordinates up to which the information is a matrix; above, what is asked for is solved for"""
OVERLAP = 1e-4
"""part of a parameter's movement that may lie in directions without information"""
LONGEST = 1e3
"""times what an error alone would make it that an interval may be long: beyond, the parameter sits at its bound"""
POWERS = 5000
"""steps of the power method, at most"""


@compact
class Parameters(NamedTuple):
    """Numbers in the shape of a mixture: those of the weights `[k]`, and those of the components, as the family has them."""

    weights: Array
    components: Any


@readable(summary_card)
class Summary(NamedTuple):
    """Estimates and how sure they are; NaN where the data do not tell.

    Attributes:
        estimate: the mixture's own `Parameters`.
        standard_error: by the observed information; right if the family is.
        robust_error: by the sandwich; right for the best fit of a wrong family too.
        lower, upper: the ends of the intervals, from `standard_error`, within the parameters' ranges.
        level: the probability with which an interval covers.
        counts: `[k]`, effective weights of the components.
        family: the kind of component.
        cautions: what to beware of, in words.
    """

    estimate: Parameters
    standard_error: Parameters
    robust_error: Parameters
    lower: Parameters
    upper: Parameters
    level: float
    counts: Array
    family: Family
    cautions: tuple[str, ...] = ()

    def plot(self, **options: Any) -> Any:
        """`jaxem.plots.plot_intervals`; returns the axes of its panels, `[p]`."""
        return picture("plot_intervals", self, **options)


def information(
    mixture: Mixture,
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None = None,
    prior: Prior | None = None,
    *,
    chunk_size: int | None = None,
) -> Array:
    """The observed information `[p, p]` in the chart: minus the Hessian of log-likelihood + log prior.

    Pure: use it under jit, vmap and grad. Memory is bounded by `[p, p]` and a block of rows.

    Args:
        mixture: a maximum for these data; a warning says if it is none.
        x: `[n, d]`, `Rows` made ready before, or a `Source`.
        sample_weight: `[n]`, non-negative.
        prior: what is known of the parameters.
        chunk_size: rows worked on at a time; computed from the shapes by default.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    mixture, rows, prior = given(mixture, x, sample_weight, prior, chunk_size, streams=True)
    matrix, slope, value = information_of(mixture, rows, prior)
    if not is_traced(matrix):
        warn_of(Solved(matrix, slope, value).cautions())
    return matrix


def em_rate(
    mixture: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None = None,
    prior: Prior | None = None,
    *,
    chunk_size: int | None = None,
) -> Array:
    """Largest eigenvalue of the Jacobian of EM's map at a maximum, `[]`: the factor by which a turn shrinks the distance to it.

    One minus this is the part of the information that is left in the worst direction, once the components of the rows are
    unknown. Near 1 there are too many components. The arguments are those of `information`.
    """
    mixture, rows, prior = given(mixture, x, sample_weight, prior, chunk_size)
    check_from_host("em_rate", mixture, rows, prior, instead="take jax.jacfwd of an EM step there")
    warn_of(cautions_of_a_step(mixture, rows, prior))
    if not np.all(np.asarray(mixture.weights) > 0):
        warn_of(("a component has a weight of 0, which EM never moves: leave it out first",))
    if mixture.n_parameters > DENSE:
        return _largest(mixture, rows, prior)
    jacobian = np.asarray(_jacobian(mixture, rows, prior), np.float64)
    largest = np.max(np.linalg.eigvals(jacobian).real, initial=0.0) if np.isfinite(jacobian).all() else np.nan
    return jnp.asarray(largest, mixture.log_weights.dtype)


def summary(
    mixture: Mixture,
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None = None,
    *,
    level: float = 0.95,
    prior: Prior | None = None,
    only: Iterable[str] | None = None,
    chunk_size: int | None = None,
) -> Summary:
    """Estimates with standard errors and intervals; `print` shows a table.

    Args:
        mixture: a maximum for these data; a warning says if it is none.
        x: `[n, d]`, `Rows` made ready before, or a `Source`.
        sample_weight: `[n]`, non-negative. Weights count rows: one of weight 3 stands for three.
        level: the probability with which an interval is to cover, between 0 and 1.
        prior: what is known of the parameters; the estimate is then the maximum of log-likelihood + log prior.
        only: names of parameters, such as `["weights", "means"]`; the errors of others are NaN. Above 2,000 parameters each
            costs a solve.
        chunk_size: rows worked on at a time; computed from the shapes by default.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.

    Example:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.faithful()
        >>> found = jaxem.search(jax.random.key(0), "full", x, 2).best
        >>> errors = jaxem.summary(found.mixture, x).standard_error
        >>> print(errors.components.means[:, 0].round(2))
        [0.03 0.03]
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.0 < level < 1.0:
        raise ValueError(f"level = {level!r}; give a probability between 0 and 1, such as 0.95")
    mixture, rows, prior = given(mixture, x, sample_weight, prior, chunk_size, streams=True)
    check_from_host("summary", mixture, rows, prior, instead="use jaxem.information there")
    wanted = _wanted(mixture, only)
    z = float(norm.ppf(0.5 + 0.5 * level))
    if mixture.n_parameters > DENSE and isinstance(rows, Stream):
        raise ValueError(
            f"the mixture has {mixture.n_parameters} parameters, and errors from a Source are known up to {DENSE}; give rows in "
            "memory, such as x.sample(100_000)"
        )
    if mixture.n_parameters > DENSE:
        flat, counts, cautions = _by_solves(mixture, rows, prior, wanted, z)
    else:
        flat, counts, cautions = _by_matrix(mixture, rows, prior, wanted, z)
    cautions += _about_counts(mixture, rows, np.asarray(counts))
    warn_of(cautions)
    estimate, error, robust, lower, upper = (
        Parameters(*unflatten(mixture, values)) for values in (flatten(mixture), *flat)
    )
    return Summary(estimate, error, robust, lower, upper, float(level), counts, mixture.family, cautions)


# -- natural parameters --------------------------------------------------------------------------------------------------


def flatten(mixture: Mixture) -> Array:
    """The natural parameters of a mixture in one array `[q]`: its weights, then the numbers of its components."""
    return jnp.concatenate([mixture.weights, *(jnp.ravel(leaf) for leaf in _reals(mixture.components))])


def unflatten(mixture: Mixture, values: Array) -> tuple[Array, Any]:
    """Numbers `[q]` in the shape of weights and components."""
    k = mixture.n_components
    leaves, structure = jax.tree.flatten(mixture.components)
    parts, at = [], k
    for leaf in leaves:
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        parts.append(jnp.asarray(values[at : at + leaf.size]).reshape(leaf.shape) if real else leaf)
        at += leaf.size if real else 0
    return jnp.asarray(values[:k]), jax.tree.unflatten(structure, parts)


def names_of(mixture: Mixture) -> list[str]:
    """The name of each natural parameter `[q]`, without its indices: "weights", then those of the components' fields."""
    names = ["weights"] * mixture.n_components
    for path, leaf in jax.tree_util.tree_flatten_with_path(mixture.components)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            names += [jax.tree_util.keystr(path, simple=True, separator=".")] * leaf.size
    return names


def _reals(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _wanted(mixture: Mixture, only: Iterable[str] | None) -> np.ndarray:
    """Which natural parameters are asked for, `[m]` of int."""
    names = np.asarray(names_of(mixture))
    if only is None:
        return np.arange(len(names))
    asked = [only] if isinstance(only, str) else list(only)
    for name in asked:
        if name not in names:
            raise ValueError(f"only holds {name!r}; choose from {', '.join(dict.fromkeys(names.tolist()))}")
    return np.flatnonzero(np.isin(names, asked))


def _natural(like: Mixture, free: Array, frame: Any) -> Array:
    return flatten(like.constrain(free).from_frame(frame))


# -- the matrix of information -------------------------------------------------------------------------------------------


class Solved:
    """An information matrix `[p, p]` and its eigenvalues once it is scaled to a unit diagonal, in float64 on the host; the score
    `[p]` and the objective's value."""

    def __init__(self, matrix: Any, slope: Any, value: Any) -> None:
        self.matrix, self.slope = np.asarray(matrix, np.float64), np.asarray(slope, np.float64)
        self.dtype = np.asarray(matrix).dtype
        self.flat = FLAT[np.finfo(self.dtype).bits]
        diagonal = np.diagonal(self.matrix)
        largest = np.max(np.abs(diagonal), initial=0.0)
        self.value = float(np.asarray(value))
        self.known = bool(np.isfinite(self.matrix).all() and np.isfinite(self.value))
        # a coordinate without information has no scale of its own
        self.scale = 1.0 / np.sqrt(np.where(diagonal > 1e-30 * largest, diagonal, largest or 1.0))
        scaled = self.matrix * self.scale[:, None] * self.scale[None, :] if self.known else np.eye(len(diagonal))
        self.values, self.vectors = np.linalg.eigh(scaled)
        self.good = self.values > self.flat

    def inverse(self) -> np.ndarray:
        """inv(I) `[p, p]` where there is information, and 0 elsewhere; NaN where a direction leads up."""
        if not self.known or self.leads_up:
            return np.full_like(self.matrix, np.nan)
        own = self.vectors[:, self.good] * self.scale[:, None]
        covariance: np.ndarray = (own / self.values[self.good]) @ own.T
        return covariance

    @property
    def leads_up(self) -> bool:
        """Whether the objective rises along some direction: then this is no maximum."""
        return bool((self.values < -self.flat).any())

    def unknown(self, jacobian: np.ndarray) -> np.ndarray:
        """Which of the parameters with this Jacobian `[q, p]` move along directions without information, `[q]` of bool."""
        moved = (jacobian * self.scale[None, :]) @ self.vectors
        total = np.sqrt(np.sum(moved**2, axis=1))
        lost: np.ndarray = np.sqrt(np.sum(moved[:, ~self.good] ** 2, axis=1)) > OVERLAP * total
        return lost

    def cautions(self) -> tuple[str, ...]:
        """What matrix, score and the objective's value say against taking this for a maximum, in words."""
        if not self.known:
            return ("the information is not finite: these data are impossible under the mixture, or nearly so",)
        if self.leads_up:
            return ("mixture is no maximum for these data: a direction leads up, so nothing is known of its errors",)
        found = []
        left = 0.5 * float(self.slope @ self.inverse() @ self.slope)
        if left > negligible(self.value, self.dtype):
            found.append(
                f"mixture is no maximum for these data: about {left:.2g} nats are left to gain; fit it to them first"
            )
        if not self.good.all():
            n = int(np.sum(~self.good))
            found.append(
                f"the information is singular in {n} of {len(self.good)} directions: what they move has no error (NaN); a "
                "parameter sits at its bound, or there are too many components"
            )
        return tuple(found)


def _by_matrix(
    mixture: Mixture, rows: Rows, prior: Prior | None, wanted: np.ndarray, z: float
) -> tuple[tuple[Array, ...], Array, tuple[str, ...]]:
    """Standard errors, robust errors and ends of intervals, `[q]` each; counts `[k]`; cautions."""
    matrix = matrix_of(mixture, rows, prior)
    slope, value, scatter, counts, jacobian = _curvature_from(mixture, rows, prior)
    solved = Solved(matrix, slope, value)
    covariance, by_free = solved.inverse(), np.asarray(jacobian, np.float64)[wanted]
    moves = by_free @ covariance  # [m, p]
    variances = np.sum(moves * by_free, axis=1)
    robust = np.einsum("mp,pq,mq->m", moves, np.asarray(scatter, np.float64), moves, optimize=True)
    unknown = solved.unknown(by_free) | np.isnan(variances)
    error = np.where(unknown, np.nan, np.sqrt(np.maximum(variances, 0.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(error[:, None] > 0, z * moves / error[:, None], 0.0)
    dtype = mixture.log_weights.dtype
    ends = np.asarray(_ends(mixture, rows.frame, steps.astype(dtype), wanted))
    robust_error = np.where(unknown, np.nan, np.sqrt(np.maximum(robust, 0.0)))
    flat, bounded = _spread(mixture, wanted, error, robust_error, ends, z)
    return flat, counts, solved.cautions() + bounded


def _spread(
    mixture: Mixture, wanted: np.ndarray, error: np.ndarray, robust: np.ndarray, ends: np.ndarray, z: float
) -> tuple[tuple[Array, ...], tuple[str, ...]]:
    """The four kinds of numbers `[q]` from those asked for, the others are NaN; cautions."""
    lower, upper = np.min(ends, axis=0), np.max(ends, axis=0)
    with np.errstate(invalid="ignore"):
        bounded = (error > 0) & (upper - lower > 2.0 * LONGEST * z * error)
    k, own = mixture.n_components, np.asarray(flatten(mixture))[wanted]
    bounded |= (k > 1) & (wanted < k) & ((own == 0) | (own == 1))  # a weight
    unknown = bounded | np.isnan(error)
    whole = np.full((4, len(names_of(mixture))), np.nan)
    whole[:, wanted] = [np.where(unknown, np.nan, values) for values in (error, robust, lower, upper)]
    found: tuple[str, ...] = ()
    if bounded.any():
        names = dict.fromkeys(np.asarray(names_of(mixture))[wanted[bounded]].tolist())
        found = (f"some of {', '.join(names)} sit at their bounds: they have no error (NaN)",)
    return tuple(jnp.asarray(whole, mixture.log_weights.dtype)), found


def _about_counts(mixture: Mixture, rows: Rows, counts: np.ndarray) -> tuple[str, ...]:
    """What the number of rows says against the errors, in words."""
    found = []
    k, p, n = mixture.n_components, mixture.n_parameters, int(np.asarray(rows.frame.n))
    scaled = counts * max(1.0, n / float(np.asarray(rows.frame.total_weight)))
    lost = np.asarray(_lost(mixture, rows.frame, scaled))
    if lost.any():
        found.append(f"component {int(np.argmax(lost))} has collapsed: the likelihood has no maximum here")
    if p > n:
        found.append(f"there are {p} parameters for {n} rows: errors that assume many rows per parameter mean little")
    few = (p - k + 1) / k + 1
    for j in np.flatnonzero((scaled < few) & ~lost):
        found.append(f"component {j} holds {scaled[j]:.2g} rows for about {few:.0f} parameters: its errors mean little")
    return tuple(found)


def given(
    mixture: Any, x: Any, sample_weight: Any, prior: Any, chunk_size: Any, *, streams: bool = False
) -> tuple[Mixture, Rows, Prior | None]:
    """Checked arguments."""
    mixture = as_mixture(mixture, x)
    if mixture.log_weights.ndim != 1:
        raise ValueError(
            f"mixture has log_weights of shape {mixture.log_weights.shape}; give one mixture, such as mixtures[0]"
        )
    if prior is not None:
        if not hasattr(prior, "imagined"):
            raise TypeError(
                f"prior is a {type(prior).__name__}; give a jaxem.Prior, such as jaxem.chen_tan(x), or None"
            )
        prior.check(mixture.family)
    options = dict[str, Any]({"like": mixture, "chunk_size": chunk_size, "streams": streams})
    rows = as_rows(mixture.family, x, sample_weight, mixture.n_components, **options)
    if not (sample_weight is None or isinstance(x, Rows) or is_traced(sample_weight)):
        as_sample_size(None, sample_weight, np.shape(x)[0], "errors take", "give weights")
    prior = jax.tree.map(lambda leaf: jnp.asarray(leaf, rows.dtype), prior)
    return jax.tree.map(jnp.asarray, mixture.astype(rows.dtype)), rows, prior


def warn_of(cautions: tuple[str, ...]) -> None:
    for caution in cautions:
        warn_user(caution)


# -- programs ------------------------------------------------------------------------------------------------------------


def _work(mixture: Mixture, rows: Rows, *_: Any) -> int:
    return turn_work(rows, mixture.n_components) * mixture.n_parameters


def _framed(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Mixture, Array, Prior | None]:
    like = mixture.to_frame(rows.frame)
    return like, like.unconstrain(), to_frame(prior, rows.frame)


def _columns_of(mixture: Mixture, rows: Rows, prior: Prior | None, columns: Array) -> Array:
    like, free, own = _framed(mixture, rows, prior)
    return information_at(like, free, rows, own, columns)


def matrix_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> Array:
    """The information `[p, p]` in the frame. Threads share its columns where the rows are many; the numbers are the same."""
    p, dtype = mixture.n_parameters, mixture.log_weights.dtype
    if not p:
        return jnp.zeros((0, 0), dtype)
    if isinstance(rows, Stream):
        matrix = rows.sum(_columns_of_block, mixture, np.eye(p, dtype=dtype))
        return 0.5 * (matrix + matrix.T) + _prior_information(mixture, rows.frame, prior)
    threads = 1 if is_traced(mixture, prior) else min(n_parts(rows, mixture.n_components), p)
    parts = np.eye(-(-p // threads) * threads, p, dtype=dtype).reshape(threads, -1, p)
    made = run_all([functools.partial(_columns, mixture, rows, prior, part) for part in parts])
    matrix = jnp.concatenate(made)[:p]
    return 0.5 * (matrix + matrix.T)


def information_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Array, Array, Array]:
    """Information `[p, p]` and score `[p]` in the chart where the data lie, and the objective."""
    slope, value = _slope(mixture, rows, prior) if isinstance(rows, Rows) else _curvature_from(mixture, rows, prior)[:2]
    found: tuple[Array, Array] = _turned(mixture, rows.frame, matrix_of(mixture, rows, prior), slope)
    return *found, value


def _turned_of(mixture: Mixture, frame: Any, matrix: Array, slope: Array) -> tuple[Array, Array]:
    if mixture.family.location:  # coordinates such as intercepts move with the centre
        turn = jax.jacfwd(lambda at: mixture.constrain(at).to_frame(frame).unconstrain())(mixture.unconstrain())
        matrix, slope = dot("pq,pr,rs->qs", turn, matrix, turn), slope @ turn
    return matrix, slope


def _slope_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Array, Array]:
    """Score `[p]` in the frame, and the objective."""
    like, free, own = _framed(mixture, rows, prior)
    return score(like, free, rows, own), objective(like, pass_over(like, rows), own)


def _columns_of_block(mixture: Mixture, columns: Array, rows: Rows) -> Array:
    found: Array = _columns(mixture, rows, None, columns)
    return found


def _sums_of_block(mixture: Mixture, rows: Rows) -> tuple[Array, ...]:
    found: tuple[Array, ...] = _sums(mixture, rows)
    return found


def _curvature_from(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Array, ...]:
    """`_curvature_of_sums`, from one pass."""
    if not isinstance(rows, Stream):
        return _curvature(mixture, rows, prior)
    return _of_sums(mixture, rows.frame, prior, rows.sum(_sums_of_block, mixture))


def _prior_information_at(mixture: Mixture, frame: Any, prior: Prior | None) -> Array:
    """Minus the Hessian of the log prior in the frame, `[p, p]`."""
    like = mixture.to_frame(frame)
    return -jax.hessian(log_prior_at, 1)(like, like.unconstrain(), to_frame(prior, frame))


def _sums_over(mixture: Mixture, rows: Rows) -> tuple[Array, ...]:
    """What rows add to the curvature: sum_i w_i s_i s_i' `[p, p]`, sum_i w_i s_i `[p]`, log-likelihood, counts `[k]`."""
    like, free, _ = _framed(mixture, rows, None)

    def of_block(x: Array, w: Array, _: Array) -> tuple[Array, Array]:
        by_row = scores_at(like, free, x.T)  # [b, p]
        weighed = w[:, None] * by_row
        return dot("bp,bq->pq", weighed, by_row), jnp.sum(weighed, axis=0)

    outer, total = sum_blocks(of_block, rows)
    stats = pass_over(like, rows)
    return outer, total, stats.log_likelihood, stats.counts


def _curvature_of_sums(mixture: Mixture, frame: Any, prior: Prior | None, sums: tuple[Array, ...]) -> tuple[Array, ...]:
    """Score and objective in the frame; the scatter of the scores `[p, p]`, counts `[k]`, and the derivative of natural
    parameters by coordinates `[q, p]`."""
    like, own = mixture.to_frame(frame), to_frame(prior, frame)
    free, (outer, total, value, counts) = like.unconstrain(), sums
    scatter = outer - jnp.outer(total, total) / frame.total_weight
    slope = total if own is None else total + jax.grad(log_prior_at, 1)(like, free, own)
    jacobian = jax.jacfwd(lambda at: _natural(like, at, frame))(free)
    return slope, value + log_prior_at(like, free, own), scatter, counts, jacobian


def _curvature_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Array, ...]:
    return _curvature_of_sums(mixture, rows.frame, prior, _sums_over(mixture, rows))


def _ends_of(mixture: Mixture, frame: Any, steps: Array, wanted: Array) -> Array:
    """Each natural parameter where the chart is left by its step `[m, p]`, up and down, `[2, m]`."""
    like = mixture.to_frame(frame)
    free = like.unconstrain()

    def of_one(step_and_place: tuple[Array, Array]) -> Array:
        step, place = step_and_place
        return jnp.stack([_natural(like, free + step, frame)[place], _natural(like, free - step, frame)[place]])

    return jax.lax.map(of_one, (steps, wanted)).T


def _jacobian_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> Array:
    like, free, own = _framed(mixture, rows, prior)
    em = chart_map(like, rows, own)
    along = lambda v: jax.jvp(em, (free,), (v,))[1]  # noqa: E731
    return jax.lax.map(along, jnp.eye(free.shape[0], dtype=free.dtype)).T


def _largest_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> Array:
    """The largest eigenvalue of EM's Jacobian by powers of it; it has no negative ones."""
    like, free, own = _framed(mixture, rows, prior)
    em, units = chart_map(like, rows, own), like.units()

    def step(at: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        v, value, _, n = at
        image = jax.jvp(em, (free,), (v * units,))[1] / units
        size = jnp.sqrt(jnp.sum(image**2))
        return image / jnp.where(size > 0, size, 1.0), size, jnp.abs(size - value), n + 1

    def moves(at: tuple[Array, Array, Array, Array]) -> Array:
        return (at[2] > 1e-9) & (at[3] < POWERS)

    v = jax.random.normal(jax.random.key(0), free.shape, free.dtype)
    infinite = jnp.full((), jnp.inf, free.dtype)
    start = (v / jnp.sqrt(jnp.sum(v**2)), jnp.zeros((), free.dtype), infinite, jnp.int32(0))
    _, value, change, _ = jax.lax.while_loop(moves, step, start)
    return jnp.where(change <= 1e-6, value, jnp.nan)


def _lost_of(mixture: Mixture, frame: Any, counts: Array) -> Array:
    """Which components have collapsed, or lost their rows, `[k]` of bool."""
    there = mixture.to_frame(frame).components
    return jnp.broadcast_to(mixture.family.degenerate(there, counts, frame.variance), counts.shape)


def _gain_of(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[Array, Array]:
    like, free, own = _framed(mixture, rows, prior)
    value = objective_at(like, free, rows, own)
    return objective_at(like, chart_map(like, rows, own)(free), rows, own) - value, value


def cautions_of_a_step(mixture: Mixture, rows: Rows, prior: Prior | None) -> tuple[str, ...]:
    """What an EM step says against taking a mixture for a maximum, in words."""
    gain, value = map(float, _gain_of_a_step(mixture, rows, prior))
    if gain <= negligible(value, rows.dtype):
        return ()
    return (f"mixture is no maximum for these data: one more EM step gains {gain:.2g} nats; fit it to them first",)


_columns = Program(_columns_of, work=_work)
_turned = Program(_turned_of)
_slope = Program(_slope_of, work=_work)
_sums = Program(_sums_over, work=_work)
_of_sums = Program(_curvature_of_sums)
_prior_information = Program(_prior_information_at)
_curvature = Program(_curvature_of, work=_work)
_ends = Program(_ends_of)
_jacobian = Program(_jacobian_of, work=_work)
_largest = Program(_largest_of, work=_work)
_lost = Program(_lost_of)
_gain_of_a_step = Program(_gain_of, work=_work)


# -- many parameters -----------------------------------------------------------------------------------------------------


def _by_solves(
    mixture: Mixture, rows: Rows, prior: Prior | None, wanted: np.ndarray, z: float
) -> tuple[tuple[Array, ...], Array, tuple[str, ...]]:
    """`_by_matrix` where the matrix is too large: one solve for each parameter that is asked for."""
    solved: Any = [np.asarray(leaf) for leaf in _solves(mixture, rows, prior, wanted)]
    variances, robust, steps, left, counts, value = solved
    error = np.where(variances >= 0, np.sqrt(np.maximum(variances, 0.0)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        moves: Any = np.where(error[:, None] > 0, z * steps / error[:, None], 0.0)
    ends: Any = np.asarray(_ends(mixture, rows.frame, moves.astype(steps.dtype), wanted))
    cautions: tuple[str, ...] = ()
    if not float(left) <= negligible(float(value), rows.dtype):
        cautions += (
            f"mixture is no maximum for these data: about {float(left):.2g} nats are left to gain; fit it to them first",
        )
    if np.isnan(error).any():
        cautions += (
            "the information is singular, or nearly so: some errors could not be found (NaN); there may be too many components",
        )
    robust_error = np.where(np.isnan(error), np.nan, np.sqrt(np.maximum(robust, 0.0)))
    flat, bounded = _spread(mixture, wanted, error, robust_error, ends, z)
    return flat, jnp.asarray(counts), cautions + bounded


def _solves_of(mixture: Mixture, rows: Rows, prior: Prior | None, wanted: Array) -> tuple[Array, ...]:
    """Variances and robust variances `[m]`, inv(I) times each parameter's gradient `[m, p]`, what is left to gain, counts."""
    like, free, own = _framed(mixture, rows, prior)
    units = like.units() * jax.lax.rsqrt(rows.frame.total_weight)
    times = functools.partial(information_times, like, free, rows, own)
    pull = jax.vjp(lambda at: _natural(like, at, rows.frame), free)[1]
    q = jax.eval_shape(lambda: _natural(like, free, rows.frame)).shape[0]

    def of_one(place: Array) -> tuple[Array, Array, Array]:
        gradient = pull(jnp.zeros(q, free.dtype).at[place].set(1.0))[0]
        step = conjugate_gradients(times, gradient, units)

        def along(x: Array, w: Array, _: Array) -> tuple[Array, Array]:
            by_row = jax.jvp(lambda at: log_prob_of(like, at, x.T), (free,), (step,))[1]
            return jnp.sum(w * by_row**2), jnp.sum(w * by_row)

        squares, total = sum_blocks(along, rows)
        return jnp.sum(gradient * step), squares - total**2 / rows.frame.total_weight, step

    variances, robust, steps = jax.lax.map(of_one, wanted)
    slope = score(like, free, rows, own)
    left = 0.5 * jnp.sum(slope * conjugate_gradients(times, slope, units))
    stats = pass_over(like, rows)
    return variances, robust, steps, left, stats.counts, objective(like, stats, own)


_solves = Program(_solves_of, work=_work)
