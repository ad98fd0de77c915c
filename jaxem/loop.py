"""The loop: E first, then (M, E) per turn, until a stopping rule is met. One bounded `while_loop` serves everything.

    turn t:   theta_t = M-step(stats_{t-1}),   stats_t = E-step(theta_t),   which yields l(theta_t) for free;

so the likelihood reported is that of the parameters returned. `advance` makes up to n turns of one climb, or of many
lanes at once under one scalar predicate; `fit` is one long advance. A lane that has stopped does not move again.

An accelerator is an optax transformation of the displacement f = M(theta) - theta in the chart: from the anchor theta,
at which the last pass was made, it proposes where to look next. The safeguard stands here once: if the objective at the
proposal is not finite or lower than at the anchor by more than rounding, the proposal is refused, the anchor kept (with
M(anchor), so it costs no pass), and the next turn is a plain EM step, of which the transformation hears by
`accepted=False`. Plain EM steps are never refused, and a refused one never ends the climb.

What is left to gain. Near the optimum the objective is quadratic with curvature I_c (I - J): I_c is the information of
the complete data, J the Jacobian of M (Dempster, Laird and Rubin 1977). So from theta with f = (I - J) e, e what is left
to go, f'I_c e / 2 is left to gain. Plain EM shrinks that by q, the square of the rate, from gain to gain, and what is left
is gain q / (1 - q) (Aitken's series; Boehning et al. 1994). An accelerator's state has an estimate `ahead` of e. From one
anchor to the next, s further on, the gain was (f + f_next)'I_c s / 2; so what is left is

    gain f_next'e / (f + f_next)'s,

where the metric I_c, unknown, all but cancels if coordinates are in natural units.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from jaxem.compiling import Compiled
from jaxem.display import readable, result_card
from jaxem.em import as_ready, m_step, objective, pass_over
from jaxem.families.base import epsilon
from jaxem.mixture import Mixture, take
from jaxem.priors import Prior
from jaxem.rows import Rows, as_components, as_count, is_traced, naming_memory, on_host, settled
from jaxem.stopping import GainBelow, Progress, RemainingGainBelow, Status, StoppingRule

MAX_ITER = 2000
"""turns a fit makes at most, by default"""
MAX_TURNS = 10**7
"""the largest `max_iter`: a trace of it must fit in memory"""
NOISE = 8
"""units of rounding of (|objective| + total weight) that a gain may be off by"""
FALL = {64: 1e-12, 32: 1e-5}
"""a fall by this part of (|objective| + total weight) is more than rounding, by bits of the dtype"""
RECEDING = 64
"""units of rounding below which the size of a step says nothing of the way"""
DEFAULT_TOL = {64: 1e-10, 32: 1e-5}
"""gain per unit of weight below which plain EM stops by default, by bits of the dtype"""
REMAINING = {64: (1e-8, 1e-12), 32: (1e-3, 1e-5)}
"""what may be left to gain, in nats and per unit of weight, where an accelerated fit stops by default"""


@readable(result_card)
class Result(NamedTuple):
    """A finished climb, or a batch of them with one more leading axis, of which `result[i]` is climb i.

    Attributes:
        mixture: the parameters at the end; always finite unless they were given otherwise.
        log_likelihood: `[]`, of this mixture; -inf if it could not be computed.
        objective: `[]`, log-likelihood plus log prior.
        n_iter: `[]`, turns of the loop, one pass over the data each; the first E-step is not counted.
        status: `[]`, a `Status`.
        trace: `[max_iter + 1]`, the objective at the start and after each turn, padded with NaN.
        rate: `[]`, estimated factor by which the distance to the optimum shrinks per EM step; NaN if unknown.
        remaining_gain: `[]`, estimated rise of the objective still to come; NaN if unknown.
    """

    mixture: Mixture
    log_likelihood: Array
    objective: Array
    n_iter: Array
    status: Array
    trace: Array
    rate: Array
    remaining_gain: Array

    def __getitem__(self, index: Any) -> "Result":  # type: ignore[override]  # a tuple's is by field
        """Climb `index` of a batch; a slice or an array of numbers gives a smaller batch."""
        if not self.status.ndim:
            raise TypeError(
                "this Result is of one climb, not of a batch; its fields have names, such as result.mixture"
            )
        return take(self, index)


class State(NamedTuple):
    """A climb under way, centred as the rows are. `objective`, `log_likelihood`, `counts` and `plain` belong to `mixture`."""

    mixture: Mixture  # the anchor: the best parameters so far, finite
    plain: Mixture  # M(anchor), the EM step from it; before the first E-step the start itself
    query: Any  # where the next pass is made; None without an accelerator: at `plain`
    log_likelihood: Array
    counts: Array  # [k]
    objective: Array
    gain: Array  # [], of the last accepted turn
    share: Array  # [], what was left to gain then, as a multiple of it; NaN if unknown
    remaining_gain: Array
    units: Any  # [p], natural units of the chart at the start; None without an accelerator
    free: Any  # [p], the anchor in the chart, in natural units; None without an accelerator
    displacement: Any  # [p], f there
    rate: Array  # [], of EM, as last estimated
    step: Array  # [], size of f
    hits: Array  # [], accepted turns in a row that met the rule
    accepted: Array  # [], whether the last turn was
    fell: Array  # [], whether a plain step ever fell
    n_iter: Array  # [], -1 before the first E-step
    status: Array
    trace: Any  # [max_iter + 1]; None where it is kept elsewhere
    memory: Any  # the accelerator's


def begin(mixture: Mixture, rows: Rows, max_iter: int | None, accelerator: Any = None) -> State:
    """The state before the first E-step; `mixture` centred as `rows`. No pass is made. Without `max_iter` no trace."""
    dtype = mixture.log_weights.dtype
    missing = jnp.full((), jnp.nan, dtype)
    return State(
        mixture=mixture,
        plain=mixture,
        query=None if accelerator is None else mixture,
        log_likelihood=jnp.full((), -jnp.inf, dtype),
        counts=jnp.zeros_like(mixture.log_weights),
        objective=jnp.full((), -jnp.inf, dtype),
        gain=missing,
        share=missing,
        remaining_gain=missing,
        units=None if accelerator is None else mixture.units(),
        free=None if accelerator is None else jnp.zeros_like(mixture.unconstrain()),
        displacement=None if accelerator is None else jnp.zeros_like(mixture.unconstrain()),
        rate=missing,
        step=jnp.full((), jnp.inf, dtype),
        hits=jnp.int32(0),
        accepted=jnp.bool_(True),
        fell=jnp.bool_(False),
        n_iter=jnp.int32(-1),
        status=jnp.int32(Status.RUNNING),
        trace=None if max_iter is None else jnp.full(max_iter + 1, jnp.nan, dtype),
        memory=None if accelerator is None else accelerator.init(mixture.unconstrain()),
    )


@functools.partial(jax.jit, static_argnames="accelerator")
def advance(
    state: State,
    rows: Rows,
    n_steps: ArrayLike,
    *,
    stop: StoppingRule,
    prior: Prior | None = None,
    accelerator: Any = None,
) -> State:
    """Up to `n_steps` turns (the first E-step is one), fewer if the climb ends; all lanes at once if `state` has lanes.

    Calling it again goes on where it stopped: any cutting into pieces gives the same climb.
    """
    max_iter = state.trace.shape[-1] - 1
    turn = turn_of(rows, stop, prior, accelerator, max_iter)

    def turn_and_record(state: State) -> State:
        new = turn(state)
        return new._replace(trace=state.trace.at[recorded(state, new, max_iter)].set(new.objective, mode="drop"))

    one_turn = jax.vmap(turn_and_record) if state.status.ndim else turn_and_record

    def unfinished(carry: tuple[State, Array]) -> Array:
        return (carry[1] < n_steps) & jnp.any(carry[0].status == Status.RUNNING)

    def step(carry: tuple[State, Array]) -> tuple[State, Array]:
        return one_turn(carry[0]), carry[1] + 1

    return jax.lax.while_loop(unfinished, step, (state, jnp.int32(0)))[0]


def finish(state: State, rows: Rows) -> Result:
    """The Result of a climb (one lane), back where the data lie."""
    return jax.tree.map(_forward_only, as_result(state, ended(state, rows), rows.centre))


def as_result(state: State, status: Any, centre: Any) -> Result:
    """The Result of climbs that ended in `status`, by nothing but sums: of arrays of jax or of numpy."""
    mixture = state.mixture
    return Result(
        mixture=mixture.shift(centre) if mixture.family.location else mixture,
        log_likelihood=state.log_likelihood,
        objective=state.objective,
        n_iter=state.n_iter + (state.n_iter < 0),
        status=status,
        trace=state.trace,
        rate=state.rate,
        remaining_gain=state.remaining_gain,
    )


def ended(state: State, rows: Rows) -> Array:
    """The `Status` that a climb has come to, `[]`."""
    broken = state.status == Status.NONFINITE
    status = jnp.where(state.status == Status.RUNNING, Status.MAX_ITER, state.status)
    status = jnp.where(state.fell & ~broken, Status.OBJECTIVE_FELL, status)
    finite = _all_finite(state.mixture.components)
    return jnp.where(collapsed(state, rows) & finite, Status.DEGENERATE, status).astype(jnp.int32)


def collapsed(state: State, rows: Rows) -> Array:
    """Whether a component has collapsed, `[]` of bool."""
    # counts in rows: weights that sum to less than one a row are scaled up
    counts = state.counts * jnp.maximum(1.0, jnp.sum(rows.weights > 0) / rows.total_weight)

    def degenerate(components: Any) -> Array:
        return jnp.any(state.mixture.family.degenerate(components, counts, rows.variance))

    # a turn that ended in NaN is told from the step it tried
    tried = (state.status == Status.NONFINITE) & (state.n_iter >= 0) & degenerate(state.plain.components)
    return degenerate(state.mixture.components) | tried


def fit(
    mixture: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = None,
    chunk_size: int | None = None,
) -> Result:
    """Climb from `mixture` to a maximum of the objective by EM.

    Pure: use it under jit, vmap (over `mixture`, or anything else), jvp and jacfwd. For many starts on one data set
    `fit_restarts` is faster than `vmap(fit)`. Reverse mode has no derivative yet and says so.

    Args:
        mixture: the start.
        x: `[n, d]`, or `Rows` made ready before.
        sample_weight: `[n]`, non-negative; a row of weight 0 is absent, one of weight 3 stands for three.
        prior: what is known of the parameters; the objective is then log-likelihood + log prior.
        stop: when the climb is over; by default `GainBelow(1e-10)`, in float32 `GainBelow(1e-5)`; with an accelerator
            `RemainingGainBelow(1e-8 + 1e-12 n)`, in float32 `RemainingGainBelow(1e-3 + 1e-5 n)`. Traced: another
            tolerance compiles nothing.
        max_iter: turns to make at most. Static.
        accelerator: `hybrid()`, `squarem()`, `anderson()`, or any `optax.GradientTransformationExtraArgs` of EM's
            displacement in the chart (see the head of loop.py); None for plain EM. Static.
        chunk_size: rows worked on at a time; computed from the shapes by default.

    Returns:
        A Result whose log-likelihood is that of the mixture in it. Failure is a status in it, not an exception.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
        MemoryError: naming `chunk_size`.

    Example:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.faithful()
        >>> start = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1)[0]
        >>> result = jaxem.fit(start, x)
        >>> print(f"{result.log_likelihood:.2f}", jaxem.Status(int(result.status)).name)
        -1130.26 CONVERGED
    """
    if mixture.log_weights.ndim != 1:
        raise ValueError(
            f"mixture has log_weights of shape {mixture.log_weights.shape}; fit takes one mixture, fit_restarts many"
        )
    rows = rows_to_fit(mixture, x, sample_weight, chunk_size=chunk_size)
    stop, prior = as_options(rows, stop, prior, accelerator)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    with computing(mixture, rows):
        work = turn_work(rows, mixture.n_components)
        result = _fit(mixture, rows, prior, stop, max_iter, accelerator, work=work)
        return settled(result, rows.weights.shape[-1] * mixture.n_components)


def _climb(
    mixture: Mixture, rows: Rows, prior: Prior | None, stop: StoppingRule, max_iter: int, accelerator: Any
) -> Result:
    prior = centred_prior(prior, mixture, rows)
    state = begin(centred(mixture, rows), rows, max_iter, accelerator)
    state = advance(state, rows, max_iter + 1, stop=stop, prior=prior, accelerator=accelerator)
    return finish(state, rows)


_fit = Compiled(_climb, static_argnums=(4, 5))


def turn_work(rows: Rows, k: int, lanes: int = 1) -> int:
    """Numbers that a turn of so many lanes touches: rows x features x components x lanes."""
    return rows.blocks.size * k * lanes


# -- one turn ------------------------------------------------------------------------------------------------------------


def turn_of(
    rows: Rows, stop: StoppingRule, prior: Prior | None, accelerator: Any, max_iter: int
) -> Callable[[State], State]:
    """One turn of a lane as a function of its state alone; the trace is the caller's."""
    return functools.partial(
        _turn, rows=_uncentred(rows), stop=stop, prior=prior, accelerator=accelerator, max_iter=max_iter
    )


def recorded(state: State, new: State, max_iter: int) -> Array:
    """Where in the trace a turn from `state` to `new` belongs, `[]`; out of bounds, to be dropped, if none was made.

    So a trace is written in place, never copied.
    """
    return jnp.where(new.n_iter > state.n_iter, new.n_iter, max_iter + 1)


def _turn(
    state: State, *, rows: Rows, stop: StoppingRule, prior: Prior | None, accelerator: Any, max_iter: int
) -> State:
    """One turn of one lane: one pass, accept or refuse, stop or go on, propose. A stopped lane stays as it is."""
    old, running, first = state.mixture, state.status == Status.RUNNING, state.n_iter < 0
    query = state.plain if accelerator is None else state.query
    is_plain = first | ~state.accepted if accelerator is not None else jnp.bool_(True)

    stats = pass_over(query, rows)
    plain = m_step(query, stats, prior)
    value = objective(query, stats, prior)
    scale = jnp.abs(value) + rows.total_weight
    fallen = value < state.objective - FALL[jnp.finfo(value.dtype).bits] * scale
    finite = jnp.isfinite(value) & _all_finite(query.components) & ~jnp.any(jnp.isnan(query.log_weights))
    accepted = finite & (is_plain | ~fallen)

    gain = jnp.where(first, jnp.inf, value - state.objective)
    noise = NOISE * epsilon(value.dtype) * scale
    step = jnp.maximum(
        jnp.max(jnp.abs(plain.weights - query.weights)), query.family.step_size(query.components, plain.components)
    )
    moved = running & accepted
    anchor, plain, log_likelihood, counts, value = _where(
        moved,
        (query, plain, stats.log_likelihood, stats.counts, value),
        (old, state.plain, state.log_likelihood, state.counts, state.objective),
    )

    memory, free, displacement = state.memory, state.free, state.displacement
    if accelerator is None:
        clear = (state.gain > 4 * noise) & (gain > 4 * noise) & jnp.isfinite(state.gain)
        ratio = jnp.where(clear, gain / state.gain, jnp.nan)
        known = (ratio > 0) & (ratio < 1)
        ratio = jnp.where(known, ratio, 0.5)
        share = jnp.where(known, ratio / (1.0 - ratio), state.share)
        rate = jnp.where(known, jnp.sqrt(ratio), state.rate)
    else:
        import optax  # here: it takes as long to import as the rest of the package

        units = state.units
        free = anchor.unconstrain() / units
        displacement = plain.unconstrain() / units - free
        updates, memory = optax.with_extra_args_support(accelerator).update(
            displacement, memory, free, value=value, accepted=accepted
        )
        query = _where(accepted, anchor.constrain(units * (free + updates)), plain)
        share, rate = state.share, state.rate
        ahead = getattr(memory, "ahead", None)
        if ahead is not None:
            metric = (units / anchor.units()) ** 2
            climbed = jnp.sum(metric * (state.displacement + displacement) * (free - state.free))
            left, length = jnp.sum(metric * displacement * ahead), jnp.sum(metric * ahead**2)
            known = (climbed > 0) & (left > 0)
            share = jnp.where(known, left / jnp.where(known, climbed, 1.0), jnp.nan)
            rate = jnp.where(length > 0, jnp.clip(1.0 - left / jnp.where(length > 0, length, 1.0), 0.0, 1.0), jnp.nan)
        query, memory = _where(running, (query, memory), (state.query, state.memory))

    remaining_gain = jnp.where(jnp.isfinite(gain), jnp.maximum(gain, noise) * share, jnp.nan)
    progress = Progress(
        gain=gain / rows.total_weight,
        step=step,
        noise=noise / rows.total_weight,
        objective=value,
        total_weight=rows.total_weight,
        previous_gain=state.gain / rows.total_weight,
        remaining_gain=remaining_gain,
        receding=step > jnp.maximum(state.step, RECEDING * epsilon(value.dtype)),
    )
    verdict = jnp.where(accepted, stop(progress), Status.RUNNING)
    hits = jnp.where(verdict == Status.RUNNING, 0, state.hits + 1).astype(jnp.int32)
    verdict = jnp.where(hits >= getattr(stop, "patience", 1), verdict, Status.RUNNING)
    verdict = jnp.where(finite | ~is_plain, verdict, Status.NONFINITE)
    n_iter = state.n_iter + 1
    verdict = jnp.where((verdict == Status.RUNNING) & (n_iter >= max_iter), Status.MAX_ITER, verdict)

    climb = (gain, share, remaining_gain, free, displacement, rate, step)
    before = (
        state.gain, state.share, state.remaining_gain, state.free, state.displacement, state.rate, state.step,
    )  # fmt: skip
    gain, share, remaining_gain, free, displacement, rate, step = _where(moved, climb, before)
    return State(
        mixture=anchor,
        plain=plain,
        query=None if accelerator is None else query,
        log_likelihood=log_likelihood,
        counts=counts,
        objective=value,
        gain=gain,
        share=share,
        remaining_gain=remaining_gain,
        units=state.units,
        free=free,
        displacement=displacement,
        rate=rate,
        step=step,
        hits=jnp.where(running, hits, state.hits),
        accepted=jnp.where(running, accepted, state.accepted),
        fell=state.fell | (moved & is_plain & fallen),
        n_iter=jnp.where(running & (finite | ~is_plain), n_iter, state.n_iter),
        status=jnp.where(running, verdict, state.status).astype(jnp.int32),
        trace=state.trace,
        memory=memory,
    )


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


# -- the edge ------------------------------------------------------------------------------------------------------------


def rows_to_fit(
    mixture: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None,
    *,
    lanes: int = 1,
    chunk_size: int | None = None,
) -> Rows:
    """`as_ready`, and a ValueError if there are more components than rows."""
    rows = as_ready(mixture, x, sample_weight, lanes=lanes, chunk_size=chunk_size)
    if not isinstance(x, Rows):
        as_components(mixture.n_components, np.shape(x)[0])
    return rows


def as_options(
    rows: Rows, stop: StoppingRule | None, prior: Prior | None, accelerator: Any
) -> tuple[StoppingRule, Prior | None]:
    """The stopping rule, the default one if None, and the prior, with numbers of one dtype: one program for all."""
    dtype = rows.blocks.dtype
    bits = jnp.finfo(dtype).bits
    if stop is None and accelerator is None:
        stop = GainBelow(DEFAULT_TOL[bits])
    elif stop is None:
        absolute, relative = REMAINING[bits]
        w = rows.weights
        total = np.sum(np.asarray(w)) if on_host(w) else rows.total_weight  # numpy has nothing to compile
        stop = RemainingGainBelow(absolute + relative * total)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (stop, prior))


def centred(mixture: Mixture, rows: Rows) -> Mixture:
    """The mixture where the rows are, in their dtype."""
    mixture = mixture.astype(rows.blocks.dtype)
    return mixture.shift(-rows.centre) if mixture.family.location else mixture


def centred_prior(prior: Prior | None, mixture: Mixture, rows: Rows) -> Prior | None:
    """The prior where the rows are."""
    return prior.shift(-rows.centre) if prior is not None and mixture.family.location else prior


def _uncentred(rows: Rows) -> Rows:
    """The same rows as data about the origin: inside the loop the mixture has moved to them."""
    return dataclasses.replace(rows, centre=jnp.zeros_like(rows.centre))


@contextlib.contextmanager
def computing(*values: Any) -> Iterator[None]:
    """Run a fit: the NaN that pads a trace is no fault for `jax_debug_nans`; no memory is one that names its remedy."""
    if is_traced(*values):
        yield
        return
    with jax.debug_nans(False), naming_memory():
        yield


# An identity with a derivative but no transpose: reverse mode meets one clear line instead of the loop's own.
_forward_only_p = Primitive("forward_only")
_forward_only_p.def_impl(lambda x: x)
_forward_only_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(_forward_only_p, lambda _, x: [x])
batching.primitive_batchers[_forward_only_p] = lambda args, dims: (_forward_only_p.bind(args[0]), dims[0])


def _no_reverse(cotangent: Any, x: Any) -> Any:
    raise NotImplementedError(
        "fit has no reverse-mode derivative (jax.grad, jax.vjp); use forward mode, jax.jvp or jax.jacfwd"
    )


ad.deflinear2(_forward_only_p, _no_reverse)


def _forward_only(leaf: Array) -> Array:
    return _forward_only_p.bind(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
