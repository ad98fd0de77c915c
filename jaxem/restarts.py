"""Many climbs at once: starts, `fit_restarts`, the best of them and the landscape of optima they found.

EM ends in a local optimum that depends on where it started, so one starts often. Restart i depends on (key, i) alone:
asking for more never changes the ones there were. Restarts are lanes of one loop: x is shared, the parameters carry a
leading axis, and lanes that have stopped stay as they are until the last of their batch has.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.em import as_rows
from jaxem.families.base import Family
from jaxem.init import Initializer, KMeansPlusPlus
from jaxem.loop import (
    MAX_ITER,
    MAX_TURNS,
    NOISE,
    Result,
    State,
    advance,
    as_options,
    as_ready,
    begin,
    centred,
    centred_prior,
    computing,
    finish,
)
from jaxem.mixture import Mixture
from jaxem.priors import Prior
from jaxem.rows import MIN_BLOCK, Rows, as_components, as_count, lanes_of, ready
from jaxem.stopping import Status, StoppingRule

PIECE_SECONDS = 0.25
"""time between two calls of a callback, where a turn takes no longer"""
MAX_RESTARTS, MAX_TRACES = 2**24, 2**30


class Lanes(NamedTuple):
    """How far `fit_restarts` is, as its callback sees it.

    Attributes:
        finished: restarts that have stopped.
        total: restarts in all.
        passes: turns made so far, over all restarts.
        best: the highest objective so far, or -inf.
    """

    finished: int
    total: int
    passes: int
    best: float


class Landscape(NamedTuple):
    """The distinct optima that restarts ended in, best first; arrays of numpy.

    Attributes:
        log_likelihood: `[m]`, of each optimum's best restart.
        objective: `[m]`, likewise; optima are told apart by it.
        counts: `[m]`, restarts that ended there.
        best_restart: `[m]`, which restart that is.
        degenerate: restarts that collapsed, not among the optima.
        failed: restarts without a finite objective, not among them either.
    """

    log_likelihood: np.ndarray
    objective: np.ndarray
    counts: np.ndarray
    best_restart: np.ndarray
    degenerate: int
    failed: int


def starts(
    key: Array,
    family: Family,
    x: ArrayLike,
    n_components: int,
    n_restarts: int,
    initializer: Initializer | None = None,
    sample_weight: ArrayLike | None = None,
) -> Mixture:
    """Mixtures to start from: leaves `[r, ...]`, the i-th a function of (key, i) alone.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()`.
        x: `[n, d]`.
        n_components: k, at most n.
        n_restarts: r.
        initializer: a value from `jaxem.init`, by default `KMeansPlusPlus()`.
        sample_weight: `[n]`, non-negative; rows of weight 0 are never drawn.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    data, weights = as_rows(family, x, sample_weight)
    k = as_components(n_components, data.shape[0])
    r = as_count("n_restarts", n_restarts, most=MAX_RESTARTS)
    initializer = KMeansPlusPlus() if initializer is None else initializer
    # ones as an argument, not a constant, or XLA spends seconds folding what follows from them
    weights = jnp.ones(data.shape[0], data.dtype) if weights is None else weights
    with computing(data):
        return _starts(key, family, data, weights, k, r, initializer)


@functools.partial(jax.jit, static_argnums=(1, 4, 5))
def _starts(key: Array, family: Family, x: Array, weights: Array, k: int, r: int, initializer: Initializer) -> Mixture:
    n, d = x.shape
    rows = ready(x, weights, centred=False, block=n)  # rows of weight 0 replaced
    data, weight = rows.blocks[0].T, rows.weights[0]

    def start(i: Array) -> Mixture:
        return initializer(jax.random.fold_in(key, i), family, data, k, weight)

    return jax.lax.map(start, jnp.arange(r), batch_size=lanes_of(r, n * (d + 4)))


def fit_restarts(
    mixtures: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = None,
    chunk_size: int | None = None,
    callback: Callable[[Lanes], None] | None = None,
) -> Result:
    """`fit` from every mixture of a batch, leaves `[r, ...]`, at once.

    Pure without `callback`. With it the climb is made in bounded pieces, with the same result: the callback hears of
    the progress after each, and an exception raised in it, or Ctrl-C, ends the climb.

    Args:
        mixtures: the starts, leaves `[r, ...]`.
        x: `[n, d]`, shared by all, or `Rows`.
        callback: called with `Lanes` between pieces.
        sample_weight, prior, stop, max_iter, accelerator, chunk_size: as for `fit`.

    Returns:
        A Result with leaves `[r, ...]`. A restart that fails says so in its status and spoils no other.
    """
    if mixtures.log_weights.ndim != 2:
        raise ValueError(
            f"mixtures have log_weights of shape {mixtures.log_weights.shape}; give [r, k], as starts does, or use fit"
        )
    r = mixtures.log_weights.shape[0]
    as_count("the number of mixtures", r, most=MAX_RESTARTS)
    one = jax.tree.map(lambda leaf: leaf[0], mixtures)
    rows = as_ready(one, x, sample_weight, restarts=r, chunk_size=chunk_size)
    width = lanes_of(r, MIN_BLOCK * one.n_components * rows.centre.size)
    stop, prior = as_options(rows, stop, prior)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    if r * (max_iter + 1) > MAX_TRACES:
        raise ValueError(
            f"max_iter = {max_iter} for {r} restarts makes traces of {r * max_iter:.0e} numbers; lower one"
        )
    with computing(mixtures, rows):
        if callback is None:
            return _fit_restarts(mixtures, rows, prior, stop, width, max_iter, accelerator)
        return _fit_in_pieces(mixtures, rows, prior, stop, width, max_iter, accelerator, callback)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _fit_restarts(
    mixtures: Mixture,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    width: int,
    max_iter: int,
    accelerator: Any,
) -> Result:
    r = mixtures.log_weights.shape[0]

    def fit_batch(batch: tuple[Mixture, Array]) -> Result:
        state = _begin(*batch, rows, max_iter, accelerator)
        moved = centred_prior(prior, batch[0], rows)
        state = advance(state, rows, max_iter + 1, stop=stop, prior=moved, accelerator=accelerator)
        return _finish(state, rows, moved)

    batches = _batches(mixtures, width)
    if batches[1].shape[0] == 1:
        results = fit_batch(jax.tree.map(lambda leaf: leaf[0], batches))
    else:
        results = jax.lax.map(fit_batch, batches)
        results = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)
    return jax.tree.map(lambda leaf: leaf[:r], results)


def _fit_in_pieces(
    mixtures: Mixture,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    width: int,
    max_iter: int,
    accelerator: Any,
    callback: Callable[[Lanes], None],
) -> Result:
    r = mixtures.log_weights.shape[0]
    prior = centred_prior(prior, mixtures, rows)
    batches = _batches(mixtures, width)
    results, finished, passes, best_so_far, n_steps = [], 0, 0, -np.inf, 1
    for i in range(batches[1].shape[0]):
        state = _begin_jit(*jax.tree.map(lambda leaf, i=i: leaf[i], batches), rows, max_iter, accelerator)
        real = min(width, r - i * width)
        while True:
            begun = time.perf_counter()
            state = advance(state, rows, n_steps, stop=stop, prior=prior, accelerator=accelerator)
            status, n_iter, value = (np.asarray(leaf)[:real] for leaf in (state.status, state.n_iter, state.objective))
            done = int(np.sum(status != Status.RUNNING))
            top = max(best_so_far, float(np.max(value)))
            callback(Lanes(finished + done, r, passes + int(np.sum(np.maximum(n_iter, 0))), top))
            if done == real:
                break
            pace = PIECE_SECONDS / max(time.perf_counter() - begun, 1e-6)
            n_steps = max(1, int(n_steps * min(2.0, pace)))
        finished, passes, best_so_far = finished + real, passes + int(np.sum(np.maximum(n_iter, 0))), top
        results.append(jax.tree.map(lambda leaf, real=real: leaf[:real], _finish_jit(state, rows, prior)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results) if len(results) > 1 else results[0]


def _batches(mixtures: Mixture, width: int) -> tuple[Mixture, Array]:
    """Mixtures `[m, width, ...]` and which of them are real `[m, width]`; the last batch is filled up with the first."""
    r = mixtures.log_weights.shape[0]
    m = -(-r // width)
    index = jnp.arange(m * width)
    filled = jax.tree.map(lambda leaf: leaf[jnp.where(index < r, index, 0)], mixtures)
    batched = jax.tree.map(lambda leaf: leaf.reshape(m, width, *leaf.shape[1:]), filled)
    return batched, (index < r).reshape(m, width)


def _begin(mixtures: Mixture, real: Array, rows: Rows, max_iter: int, accelerator: Any) -> State:
    state = jax.vmap(lambda mixture: begin(centred(mixture, rows), rows, max_iter, accelerator))(mixtures)
    idle = jnp.where(real, state.status, Status.MAX_ITER)  # a filled-up lane never runs
    return state._replace(status=idle.astype(state.status.dtype))


def _finish(state: State, rows: Rows, prior: Prior | None) -> Result:
    return jax.vmap(lambda lane: finish(lane, rows, prior))(state)


_begin_jit = jax.jit(_begin, static_argnums=(3, 4))
_finish_jit = jax.jit(_finish)


def best(results: Result) -> Result:
    """The restart with the highest finite objective among those that did not collapse.

    If all collapsed it is the highest finite one, which says so in its status; if none is finite, the first.
    """
    with computing(results):
        return _best(results)


@jax.jit
def _best(results: Result) -> Result:
    finite = jnp.isfinite(results.objective) & (results.status != Status.NONFINITE)
    sound = finite & (results.status != Status.DEGENERATE)
    eligible = jnp.where(jnp.any(sound), sound, finite)
    i = jnp.argmax(jnp.where(eligible, results.objective, -jnp.inf))
    return jax.tree.map(lambda leaf: leaf[i], results)


def landscape(results: Result, tol: float | None = None) -> Landscape:
    """Group restarts by the optimum they ended in.

    Restarts whose objectives lie within `tol` nats of the best of a group are taken to have ended in the same optimum
    (whatever the order of its components). Those that collapsed or failed are counted apart.

    Args:
        results: leaves `[r, ...]`.
        tol: nats, more than the stopping rule leaves to gain; by default 1e-3, or what rounding hides if that is more.
    """
    value, status = np.asarray(results.objective), np.asarray(results.status)
    log_likelihood = np.asarray(results.log_likelihood)
    failed = ~np.isfinite(value) | (status == Status.NONFINITE)
    degenerate = ~failed & (status == Status.DEGENERATE)
    order = np.flatnonzero(~failed & ~degenerate)
    order = order[np.argsort(-value[order], kind="stable")]
    if tol is None:
        largest = np.max(np.abs(value[order]), initial=0.0)
        tol = max(1e-3, 100 * NOISE * float(np.finfo(value.dtype).eps) * float(largest))
    leaders: list[int] = []
    counts: list[int] = []
    for i in order.tolist():
        if leaders and value[leaders[-1]] - value[i] <= tol:
            counts[-1] += 1
        else:
            leaders.append(i)
            counts.append(1)
    index = np.asarray(leaders, int)
    return Landscape(
        log_likelihood[index], value[index], np.asarray(counts, int), index, int(degenerate.sum()), int(failed.sum())
    )
