"""The loop: E first, then (M, E) per turn, until a stopping rule is met. One body of a `while_loop` serves everything.

    turn t:   theta_t = M-step(stats_{t-1}),   stats_t = E-step(theta_t),   which yields l(theta_t) for free;

so the likelihood reported is that of the parameters returned. A turn has two halves. `look` is one pass: a mixture and
rows in, a Point out. `decide` takes a State and a Point and gives the next State: accept or refuse, propose, stop. Only
`look` reads data. If you add up Stats yourself, `point_of` makes a Point of them, and `decide` does the rest. `advance`
makes turns of one climb, or of many lanes at once under one scalar predicate; `fit` is one long advance. One select
freezes a lane that has stopped.

An accelerator is an optax transformation of the displacement f = M(theta) - theta in the chart: from the anchor theta,
at which the last pass was made, it proposes where to look next. The safeguard stands here once: if the objective at the
proposal is not finite or lower than at the anchor by more than rounding, the proposal is refused and the anchor kept.
The next turn is then a plain EM step to M(anchor), which is known already. `accepted=False` tells the transformation.
A finite plain EM step is never refused, if the family's M-step is exact; the step of another is halved until it rises. A
refused proposal never meets the stopping rule.

What is left to gain. Near the optimum the objective is quadratic with curvature I_c (I - J): I_c is the information of
the complete data, J the Jacobian of M (Dempster, Laird and Rubin 1977). From theta the way left is e, with f = (I - J) e,
and f'I_c e / 2 is left to gain. Plain EM shrinks that by q, the square of the rate, from gain to gain, and what is left
is gain q / (1 - q) (Aitken's series; Boehning et al. 1994). An accelerator's state has an estimate `ahead` of e. From one
anchor to the next, s further on, the gain was (f + f_next)'I_c s / 2; so what is left is

    gain f_next'e / (f + f_next)'s,

where the metric I_c, which is unknown, nearly cancels if coordinates are in natural units.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import as_count, as_mixture, check_from_host, check_options, on_host
from jaxem.display import Axes, picture, readable, result_card
from jaxem.em import m_step, objective, pass_over, to_frame
from jaxem.families.base import Family
from jaxem.held import with_held
from jaxem.holding import may_collapse, restored
from jaxem.implicit import from_optimum
from jaxem.journal import journal_at
from jaxem.mixture import Mixture
from jaxem.moments import zeros_like_result
from jaxem.parts import Passed, is_by_parts, pass_in_parts
from jaxem.primitives import alive, all_finite, compact, epsilon, is_traced, select, take
from jaxem.priors import Prior
from jaxem.program import Program, in_pieces
from jaxem.progress import FitProgress, of_fit, watched
from jaxem.rows import Frame, Rows, as_rows, turn_seconds, turn_work
from jaxem.saddles import components_coincide
from jaxem.source import Source
from jaxem.stats import Stats
from jaxem.stopping import GainBelow, Progress, RemainingGainBelow, Status, StoppingRule

MAX_ITER = 2000
"""turns a fit makes at most, by default"""
MAX_TURNS = 10**7
"""the largest `max_iter`: a trace of it must fit in memory"""
NO_LIMIT = 2**31 - 1
"""a turn that no climb reaches"""
NOISE = 8
"""rounding error of a gain, in eps (|objective| + total weight)"""
FALL = {64: 1e-12, 32: 1e-5}
"""a fall by this part of (|objective| + total weight) is more than rounding, by bits of the dtype"""
STEP_NOISE = 64
"""a step shorter than this many eps is rounding: its growth means nothing"""
DEFAULT_TOL = {64: 1e-10, 32: 1e-5}
"""gain per unit of weight below which plain EM stops by default, by bits of the dtype"""
REMAINING = {64: (1e-8, 1e-12), 32: (1e-3, 1e-5)}
"""what may be left to gain, in nats and per unit of weight, where an accelerated fit stops by default"""


@readable(result_card)
class Result(NamedTuple):
    """A finished climb, or a batch of them with one more leading axis, of which `result[i]` is climb i.

    Mixture, log-likelihood and objective have derivatives; those of the others are 0.

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
            raise TypeError("this Result is of one climb, not of a batch; fields have names, such as result.mixture")
        return take(self, index)

    @property
    def converged(self) -> Array:
        """Whether the stopping rule was met, `[]` of bool, be it as far as rounding allows."""
        return (self.status == Status.CONVERGED) | (self.status == Status.PRECISION_LIMITED)

    def plot(self, x: ArrayLike | None = None, **options: Any) -> Axes:
        """`jaxem.plots.plot_trace`, with rows `plot_responsibilities`; returns the axes."""
        return picture("plot_trace" if x is None else "plot_responsibilities", self, x, **options)


class Point(NamedTuple):
    """What one pass tells of one mixture, and the EM step from it."""

    mixture: Mixture
    plain: Mixture  # M(mixture)
    log_likelihood: Array
    counts: Array  # [k]
    objective: Array
    step: Array  # size of the EM step


class Route(NamedTuple):
    """What an accelerator needs to go on; a climb by plain EM has none. Chart coordinates are in natural units."""

    query: Mixture  # where the next pass is made
    units: Array  # [p], natural units at the start
    free: Array  # [p], the anchor
    displacement: Array  # [p], f there
    memory: Any  # the accelerator's


@compact
class State(NamedTuple):
    """A climb under way, in the frame of the rows."""

    here: Point  # the anchor: the point accepted last; before the first pass the start
    route: Route | None
    gain: Array  # of the last accepted turn
    remaining_ratio: Array  # remaining gain / gain, at that turn; NaN if unknown
    rate: Array  # of EM, as last estimated
    remaining_gain: Array
    hits: Array  # accepted turns in a row that met the rule
    accepted: Array  # whether the last turn was
    fell: Array  # whether a plain step ever fell
    n_iter: Array  # -1 before the first pass
    status: Array
    present: Array  # [k], of bool: the others only fill a shape that several numbers of components share, and stay at 0
    trace: Any  # [max_iter + 1]; None where it is kept elsewhere


def begin(mixture: Mixture, max_iter: int | None = None, accelerator: Any = None, present: Any = None) -> State:
    """The state before the first pass; `mixture` in the frame of the rows. Without `max_iter` there is no trace, without
    `present` all components are."""
    dtype = mixture.log_weights.dtype
    unknown, lowest = jnp.full((), jnp.nan, dtype), jnp.full((), -jnp.inf, dtype)
    here = Point(mixture, mixture, lowest, jnp.zeros_like(mixture.log_weights), lowest, -lowest)
    trace = None if max_iter is None else jnp.full(max_iter + 1, jnp.nan, dtype)
    route, unknowns, none = depart(mixture, accelerator), (unknown,) * 4, jnp.int32(0)
    present = jnp.ones(mixture.log_weights.shape, bool) if present is None else present
    return State(here, route, *unknowns, none, jnp.bool_(True), jnp.bool_(False), none - 1, none, present, trace)


def depart(mixture: Mixture, accelerator: Any) -> Route | None:
    """The route of a climb from `mixture`; None without an accelerator."""
    if accelerator is None:
        return None
    free = mixture.unconstrain()
    return Route(mixture, mixture.units(), jnp.zeros_like(free), jnp.zeros_like(free), accelerator.init(free))


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
    """Make at most `n_steps` passes, the first E-step among them; all lanes at once if `state` has lanes.

    A second call goes on where the first stopped. Many short calls give the same climb as a long one.
    """
    limit = state.n_iter + n_steps
    max_iter = state.trace.shape[-1] - 1

    def one_turn(state: State, limit: Array) -> State:
        new = turn(state, rows, limit, stop=stop, prior=prior, accelerator=accelerator, max_iter=max_iter)
        return new._replace(
            trace=state.trace.at[trace_index(state, new, max_iter)].set(new.here.objective, mode="drop")
        )

    turn_all = jax.vmap(one_turn) if state.status.ndim else one_turn
    any_going = lambda state: jnp.any(is_going(state, limit))  # noqa: E731
    return jax.lax.while_loop(any_going, lambda state: turn_all(state, limit), state)


def finish(state: State, frame: Frame, prior: Prior | None = None) -> Result:
    """The Result of a climb, back where the data lie."""
    here, n_iter = state.here, state.n_iter + (state.n_iter < 0)
    seen = here.mixture.from_frame(frame), here.log_likelihood, here.objective, n_iter
    return Result(*seen, final_status(state, frame, prior), state.trace, state.rate, state.remaining_gain)


def final_status(state: State, frame: Frame, prior: Prior | None) -> Array:
    """The `Status` of a climb that ends here, `[]`."""
    broken = state.status == Status.NONFINITE
    status = jnp.where(state.status == Status.RUNNING, Status.MAX_ITER, state.status)
    status = jnp.where(state.fell & ~broken, Status.OBJECTIVE_FELL, status)
    finite = all_finite(state.here.mixture.components)
    status = jnp.where(components_coincide(state.here.mixture, state.present) & ~broken, Status.SADDLE, status)
    return jnp.where(has_collapsed(state, frame, prior) & finite, Status.DEGENERATE, status).astype(jnp.int32)


def has_collapsed(state: State, frame: Frame, prior: Prior | None) -> Array:
    """Whether a component has lost its rows, or has collapsed and no prior bounds the objective, `[]` of bool."""
    # counts in rows: weights that sum to less than one a row are scaled up
    counts = state.here.counts * jnp.maximum(1.0, frame.n / frame.total_weight)

    here = state.here
    # where it ended in NaN, the step that was tried tells why
    tried = (state.status == Status.NONFINITE) & (state.n_iter >= 0)
    components = select(tried, here.plain.components, here.mixture.components)
    lost = here.mixture.family.degenerate(components, counts, frame.variance) & may_collapse(here.mixture)
    lost = jnp.any(lost & state.present)
    bounded = False if prior is None else prior.bounds(here.mixture, frame.variance)
    return (lost & ~jnp.asarray(bounded)) | jnp.any(~alive(here.counts) & state.present & (state.n_iter >= 0))


def fit(
    mixture: Mixture,
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = None,
    chunk_size: int | None = None,
    held: Mapping[str, Any] | None = None,
    callback: Callable[[FitProgress], None] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Result:
    """Climb from `mixture` to a maximum of the objective by EM.

    Pure: use it under jit, vmap, grad and jvp. Derivatives by `x`, `sample_weight` and `prior` are those of the optimum
    (implicit.py), NaN if there is no isolated maximum. For many starts `fit_restarts` is faster than `vmap(fit)`.

    Args:
        mixture: the start.
        x: `[n, d]`, `Rows` made ready before, or a `Source`.
        sample_weight: `[n]`, non-negative; a row of weight 0 is absent, one of weight 3 stands for three.
        prior: what is known of the parameters; the objective is then log-likelihood + log prior.
        stop: when the climb is over; by default `GainBelow(1e-10)`, in float32 `GainBelow(1e-5)`; with an accelerator
            `RemainingGainBelow(1e-8 + 1e-12 n)`, in float32 `RemainingGainBelow(1e-3 + 1e-5 n)`, n the total weight. Traced.
        max_iter: turns to make at most. Static.
        accelerator: `hybrid()`, `squarem()`, `anderson()`, any `optax.GradientTransformationExtraArgs` of EM's displacement in
            the chart (see the head of loop.py), or None for plain EM. Static.
        chunk_size: rows worked on at a time; computed from the shapes by default.
        held: what stays as it is, such as {"means": [True, False]} (docs/held.md); by default `mixture.held`, {} for nothing.
        callback, progress: a function called with `FitProgress` now and then; whether to show a bar. Ctrl-C ends the climb.
        checkpoint: a file, written every few seconds; if it is there, the climb goes on from it.

    Returns:
        A Result with the log-likelihood of its mixture. Failure is a status in it, not an exception.

    Raises:
        ValueError: the argument, the value found and the remedy; a MemoryError names `chunk_size`.

    Example:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.faithful()
        >>> start = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1)[0]
        >>> result = jaxem.fit(start, x)
        >>> print(f"{result.log_likelihood:.2f}", jaxem.Status(int(result.status)).name)
        -1130.26 CONVERGED
    """
    mixture = with_held(_one_mixture(mixture, x), held)
    rows = rows_to_fit(mixture, x, sample_weight, chunk_size=chunk_size)
    stop, prior = as_options(mixture.family, rows, stop, prior, accelerator)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    about, watch = (mixture, prior, stop, max_iter, accelerator), watched("fit", progress, callback, of_fit)
    with journal_at(checkpoint, "fit", rows, mixture.family, *about) as journal, watch as hear:
        entry = None if journal is None else journal.entry()
        find = functools.partial(_climb_to_end, fixed=(max_iter, accelerator), entry=entry, hear=hear)
        return cast(Result, restored(from_optimum(find, mixture, rows, prior, stop), mixture))


def _one_mixture(mixture: Any, x: Any) -> Mixture:
    mixture = as_mixture(mixture, x)
    if (shape := mixture.log_weights.shape) != (mixture.n_components,):
        raise ValueError(f"mixture has log_weights of shape {shape}; fit takes one mixture, fit_restarts many")
    return cast(Mixture, mixture)


def _climb_to_end(
    mixture: Mixture, rows: Rows, prior: Any, stop: StoppingRule, fixed: tuple[int, Any], entry: Any, hear: Any
) -> Result:
    """`fit` of checked arguments, without derivatives."""
    if hear is not None:
        check_from_host("fit with a callback or progress", mixture, rows, instead="leave it out there")
    if not is_traced(mixture, stop, prior) and is_by_parts(rows, mixture.n_components):
        return _fit_in_parts(mixture, rows, prior, stop, fixed, entry, hear)
    seconds = turn_seconds(rows, mixture)
    return cast(Result, in_pieces(_fit, mixture, (rows, prior, stop), fixed, fixed[0] + 1, seconds, entry, hear))


def _climb(
    climb: Any, rows: Rows, prior: Any, stop: StoppingRule, n_steps: Any, max_iter: int, accelerator: Any
) -> Any:
    """Some turns from a mixture or a State: the State after them, its Result, and whether there are more to make."""
    state = begin(climb.to_frame(rows.frame), max_iter, accelerator) if isinstance(climb, Mixture) else climb
    prior = to_frame(prior, rows.frame)
    state = advance(state, rows, n_steps, stop=stop, prior=prior, accelerator=accelerator)
    return state, finish(state, rows.frame, prior), is_going(state)


def _fit_in_parts(
    mixture: Mixture, rows: Passed, prior: Any, stop: StoppingRule, fixed: tuple[int, Any], entry: Any, hear: Any
) -> Result:
    """The same climb, its passes driven by the host and its decisions made by one program."""
    max_iter, accelerator = fixed
    state, prior = _begin(mixture, rows.frame, prior, accelerator)
    trace, going = np.full(max_iter + 1, np.nan, state.here.objective.dtype), True
    if entry is not None:
        state, trace = entry.restore((state, trace))
    while going:
        if entry is not None:  # a state that has a turn to make
            entry.save((state, trace))
        stats = pass_in_parts(query(state), rows)
        state, result, going, place = _settle(state, stats, rows.frame, prior, stop, max_iter, accelerator)
        trace[place : place + 1] = state.here.objective
        if hear is not None:
            hear(state)
    return result._replace(trace=jax.device_put(trace))


def _begin_in_frame(mixture: Mixture, frame: Frame, prior: Any, accelerator: Any) -> tuple[State, Any]:
    return begin(mixture.to_frame(frame), None, accelerator), to_frame(prior, frame)


def _settle_turn(
    state: State, stats: Stats, frame: Frame, prior: Any, stop: StoppingRule, max_iter: int, accelerator: Any
) -> tuple[State, Result, Array, Array]:
    """The turn that the Stats of all rows make: the State after it, its Result if it is the last, whether there are more to
    make, and its place in the trace.
    """
    there = point_of(query(state), stats, prior)
    new = decide(state, there, frame, stop=stop, max_iter=max_iter, accelerator=accelerator)
    close = functools.partial(finish, new, frame, prior)
    result = jax.lax.cond(is_going(new), lambda: zeros_like_result(close), close)
    return new, result, is_going(new), trace_index(state, new, max_iter)


_begin = Program(_begin_in_frame, (3,), nan_is_data=True)
_settle = Program(_settle_turn, (5, 6), nan_is_data=True)
_fit = Program(_climb, (5, 6), work=lambda at, rows, *_: turn_work(rows, jax.tree.leaves(at)[0].size), nan_is_data=True)


# -- one turn ------------------------------------------------------------------------------------------------------------


def turn(
    state: State,
    rows: Rows,
    limit: ArrayLike = NO_LIMIT,
    *,
    stop: StoppingRule,
    prior: Prior | None,
    accelerator: Any,
    max_iter: int,
) -> State:
    """One turn of one lane: `decide` on what `look` sees at the state's `query`. The trace is the caller's."""
    there = look(query(state), rows, prior)
    return decide(state, there, rows.frame, limit, stop=stop, accelerator=accelerator, max_iter=max_iter)


def query(state: State) -> Mixture:
    """Where the next pass is made: at M(anchor), or where the accelerator proposes."""
    return state.here.plain if state.route is None else state.route.query


def look(mixture: Mixture, rows: Rows, prior: Prior | None) -> Point:
    """One pass: all that the data say of a mixture, and where EM would go from it."""
    return point_of(mixture, pass_over(mixture, rows), prior)


def point_of(mixture: Mixture, stats: Stats, prior: Prior | None) -> Point:
    """The Point of a mixture from the Stats of all rows about it."""
    plain = m_step(mixture, stats, prior)
    of_components = mixture.family.step_size(mixture.components, plain.components)
    step = jnp.maximum(jnp.max(jnp.abs(plain.weights - mixture.weights)), of_components)
    return Point(mixture, plain, stats.log_likelihood, stats.counts, objective(mixture, stats, prior), step)


def is_going(state: State, limit: ArrayLike = NO_LIMIT) -> Array:
    """Whether a climb has not stopped and has turns left before turn `limit`, of bool."""
    return (state.status == Status.RUNNING) & (state.n_iter < limit)


def decide(
    state: State,
    there: Point,
    frame: Frame,
    limit: ArrayLike = NO_LIMIT,
    *,
    stop: StoppingRule,
    max_iter: int,
    accelerator: Any = None,
) -> State:
    """The next state, given what a pass at `query(state)` told: accept or refuse, propose, stop or go on.

    A climb that has stopped, or has reached turn `limit`, stays as it is.
    """
    first, old, total_weight = state.n_iter < 0, state.here, frame.total_weight
    is_plain = jnp.bool_(True) if state.route is None else first | ~state.accepted

    scale = jnp.abs(there.objective) + total_weight
    noise = NOISE * epsilon(scale.dtype) * scale
    fallen = there.objective < old.objective - FALL[jnp.finfo(scale.dtype).bits] * scale
    finite, exact = _is_finite(there), there.mixture.family.exact
    accepted = finite & (is_plain | ~fallen) if exact else finite & ~fallen
    gain = jnp.where(first, jnp.inf, there.objective - old.objective)
    here = select(accepted, there, old)
    if not exact:  # a step that fell is tried again, half as long
        here = here._replace(plain=select(is_plain & ~accepted, _halfway(old), here.plain))

    if state.route is None:
        route, (ratio, rate) = None, _ratio_and_rate(state, gain, noise)
    else:
        route, ratio, rate = _next_route(state, here, accepted, accelerator)
    remaining_gain = jnp.where(jnp.isfinite(gain), jnp.maximum(gain, noise) * ratio, jnp.nan)
    progress = Progress(
        gain=gain / total_weight,
        step=there.step,
        noise=noise / total_weight,
        objective=here.objective,
        total_weight=total_weight,
        previous_gain=state.gain / total_weight,
        remaining_gain=remaining_gain,
        receding=there.step > jnp.maximum(old.step, STEP_NOISE * epsilon(scale.dtype)),
    )
    met = jnp.where(accepted, stop(progress), Status.RUNNING)
    hits = jnp.where(met == Status.RUNNING, 0, state.hits + 1).astype(jnp.int32)
    status = jnp.where(hits >= getattr(stop, "patience", 1), met, Status.RUNNING)
    goes_on = finite | ~is_plain
    if not exact:  # while there is a step to halve
        goes_on |= ~first & all_finite((here.plain.components, here.plain.weights))
    status = jnp.where(goes_on, status, Status.NONFINITE)
    n_iter = state.n_iter + goes_on
    status = jnp.where((status == Status.RUNNING) & (n_iter >= max_iter), Status.MAX_ITER, status).astype(jnp.int32)
    fell = state.fell | (accepted & is_plain & fallen)
    before = state.gain, state.remaining_ratio, state.rate, state.remaining_gain
    gain, ratio, rate, remaining_gain = select(accepted, (gain, ratio, rate, remaining_gain), before)
    new = State(
        here, route, gain, ratio, rate, remaining_gain, hits, accepted, fell, n_iter, status, state.present, None
    )
    return select(is_going(state, limit), new, state._replace(trace=None))._replace(trace=state.trace)


def _halfway(point: Point) -> Mixture:
    """The mixture halfway along the step from a point, in the chart."""
    free = 0.5 * (point.mixture.unconstrain() + point.plain.unconstrain())
    return point.mixture.constrain(free)


def trace_index(state: State, new: State, max_iter: int) -> Array:
    """Where in the trace a turn from `state` to `new` belongs, `[]`; out of bounds, to be dropped, if none was made.

    So a trace is written in place, never copied.
    """
    return jnp.where(new.n_iter > state.n_iter, new.n_iter, max_iter + 1)


def _ratio_and_rate(state: State, gain: Array, noise: Array) -> tuple[Array, Array]:
    """Remaining gain / gain, and EM's rate, from two gains in a row (Aitken)."""
    clear = (state.gain > 4 * noise) & (gain > 4 * noise) & jnp.isfinite(state.gain)
    ratio = jnp.where(clear, gain / state.gain, jnp.nan)
    known = (ratio > 0) & (ratio < 1)
    ratio = jnp.where(known, ratio, 0.5)
    return jnp.where(known, ratio / (1.0 - ratio), state.remaining_ratio), jnp.where(known, jnp.sqrt(ratio), state.rate)


def _next_route(state: State, here: Point, accepted: Array, accelerator: Any) -> tuple[Route, Array, Array]:
    """Where an accelerator goes on from `here`, and what it sees ahead: remaining gain / gain, and EM's rate."""
    import optax  # here: it takes as long to import as the rest of the package

    old: Any = state.route
    pair = jax.tree.map(lambda *two: jnp.stack(two), here.mixture, here.plain)  # one piece of program for both
    free, beyond = jax.vmap(Mixture.unconstrain)(pair) / old.units[None, :]
    displacement = beyond - free
    updates, memory = optax.with_extra_args_support(accelerator).update(
        displacement, old.memory, free, value=here.objective, accepted=accepted
    )
    proposed = here.mixture.constrain(old.units * (free + updates))
    log_weights = jnp.where(state.present, proposed.log_weights, -jnp.inf)
    proposal = select(accepted, dataclasses.replace(proposed, log_weights=log_weights), here.plain)
    route, ahead = Route(proposal, old.units, free, displacement, memory), getattr(memory, "ahead", None)
    if ahead is None:
        return route, state.remaining_ratio, state.rate
    metric = (old.units / here.mixture.units()) ** 2
    climbed = jnp.sum(metric * (old.displacement + displacement) * (free - old.free))
    left, length = jnp.sum(metric * displacement * ahead), jnp.sum(metric * ahead**2)
    known = (climbed > 0) & (left > 0)
    rate = jnp.where(length > 0, jnp.clip(1.0 - left / jnp.where(length > 0, length, 1.0), 0.0, 1.0), jnp.nan)
    return route, jnp.where(known, left / jnp.where(known, climbed, 1.0), jnp.nan), rate


def _is_finite(point: Point) -> Array:
    """Whether the mixture and the objective of a point are finite, `[]` of bool; a log weight may be -inf."""
    return all_finite((point.mixture.components, point.objective, point.mixture.weights))


# -- the edge ------------------------------------------------------------------------------------------------------------


def rows_to_fit(
    mixture: Mixture,
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None,
    *,
    lanes: int = 1,
    chunk_size: int | None = None,
) -> Rows:
    """Ready rows (or a Stream) to climb on from `mixture`; a ValueError if fewer rows count than there are components."""
    k, options = mixture.n_components, dict[str, Any]({"lanes": lanes, "chunk_size": chunk_size})
    rows = as_rows(mixture.family, x, sample_weight, k, like=mixture, streams=True, **options)
    rows.check_components(k)
    return rows


def as_options(
    family: Family, rows: Rows, stop: StoppingRule | None, prior: Prior | None, accelerator: Any
) -> tuple[StoppingRule, Prior | None]:
    """The stopping rule (a default for None) and the prior, in the dtype of the rows, so that one program serves all."""
    check_options(prior, stop, accelerator)
    if prior is not None:
        prior.check(family)
    dtype = rows.dtype
    bits = jnp.finfo(dtype).bits
    if stop is None and accelerator is None:
        stop = GainBelow(DEFAULT_TOL[bits])
    elif stop is None:
        absolute, relative = REMAINING[bits]
        total = rows.frame.total_weight
        stop = RemainingGainBelow(absolute + relative * cast(Array, np.asarray(total) if on_host(total) else total))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (stop, prior))
