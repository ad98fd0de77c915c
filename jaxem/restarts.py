"""Many climbs at once: starts, `fit_restarts`, the best of them and the landscape of optima they found.

EM ends in a local optimum that depends on where it started, so one starts often. Restart i depends on (key, i) alone:
asking for more never changes the ones there were. Restarts climb in the lanes of one loop: x is shared, the parameters
carry a leading axis, and a lane whose climb has ended is handed the next restart of a queue, so that no pass is spent on
climbs that are over (but at the end, when none waits). Each device has a queue of its own.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxem.compiling import Compiled
from jaxem.display import landscape_card, readable
from jaxem.em import as_rows, made_ready
from jaxem.families.base import Family
from jaxem.init import FromResponsibilities, Initializer, KMeansPlusPlus, Recipe
from jaxem.loop import (
    MAX_ITER,
    MAX_TURNS,
    NOISE,
    Result,
    State,
    as_options,
    begin,
    centred,
    centred_prior,
    computing,
    finish,
    recorded,
    rows_to_fit,
    turn_of,
    turn_work,
)
from jaxem.mixture import Mixture
from jaxem.priors import Prior
from jaxem.rows import Rows, as_components, as_count, gathered, is_traced, on_host, zeros_like_result
from jaxem.stopping import Status, StoppingRule, has_failed

WIDTH, WIDTH_ELSEWHERE = 8, 64
"""restarts that climb at once on one device: few on a CPU, where width only adds idle lanes at the end, more elsewhere"""
TOGETHER, LIVE_FLOATS = 64, 2**24
"""starts that are drawn at once, at most, and floats they may keep alive in one array"""
LANES_AXIS = "lanes"
"""name of the axis of a mesh along which restarts lie"""
PIECE_SECONDS, FIRST_SECONDS = 0.25, 1.0
"""time between two calls of a callback, where a turn takes no longer, and before the first"""
SECONDS_A_TURN, SECONDS_A_NUMBER = 1e-4, 1e-9
"""rough cost of a turn, and of each number it touches; short climbs end in the first piece, long ones are not held up"""
MAX_STEPS = 2**31 - 1
MAX_RESTARTS, MAX_TRACES = 2**24, 2**30


class RestartsProgress(NamedTuple):
    """How far `fit_restarts` is, as its callback sees it.

    Attributes:
        finished: restarts that have stopped.
        total: restarts in all.
        passes: turns made so far, over all restarts.
        best: the highest objective so far, or -inf.
        useful: passes made so far for a climb under way, the first E-steps among them.
        executed: passes made so far, those of idle lanes among them.
    """

    finished: int
    total: int
    passes: int
    best: float
    useful: int
    executed: int

    @property
    def efficiency(self) -> float:
        """Share of the passes made that moved a climb."""
        return self.useful / max(self.executed, 1)


@readable(landscape_card)
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
    x: ArrayLike | Rows,
    n_components: int,
    n_restarts: int,
    initializer: Initializer | None = None,
    sample_weight: ArrayLike | None = None,
) -> Mixture:
    """Mixtures to start from: leaves `[r, ...]`, the i-th a function of (key, i) alone.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()`.
        x: `[n, d]`, or `Rows` made ready before.
        n_components: k, at most n.
        n_restarts: r.
        initializer: a value from `jaxem.init`, by default `KMeansPlusPlus()`.
        sample_weight: `[n]`, non-negative; rows of weight 0 are never drawn.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    rows, k = _rows_to_start(family, x, sample_weight, n_components)
    r = as_count("n_restarts", n_restarts, most=MAX_RESTARTS)
    initializer = KMeansPlusPlus() if initializer is None else initializer
    if isinstance(initializer, FromResponsibilities):
        initializer = initializer.padded(np.shape(x)[0] if not isinstance(x, Rows) else rows.weights.size, k, rows)
    with computing(rows):
        return _starts(key, family, gathered(rows), k, r, initializer, work=0)  # thorough code would be no faster


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
    callback: Callable[[RestartsProgress], None] | None = None,
) -> Result:
    """`fit` from every mixture of a batch, leaves `[r, ...]`, at once.

    Pure without `callback`. With it the climb is made in bounded pieces, with the same result: the callback hears of
    the progress after each, and an exception raised in it, or Ctrl-C, ends the climb.

    Where JAX has several devices, and neither x nor the mixtures were put on one, each device works on a queue of its
    own; an x whose rows are spread over devices is used as it lies, all devices then working on the same lanes.

    Args:
        mixtures: the starts, leaves `[r, ...]`.
        x: `[n, d]`, shared by all, or `Rows`.
        callback: called with `RestartsProgress` between pieces.
        sample_weight, prior, stop, max_iter, accelerator, chunk_size: as for `fit`.

    Returns:
        A Result with leaves `[r, ...]`. A restart that fails says so in its status and spoils no other.
    """
    if mixtures.log_weights.ndim != 2:
        raise ValueError(
            f"mixtures have log_weights of shape {mixtures.log_weights.shape}; give [r, k], as starts does, or use fit"
        )
    r = mixtures.log_weights.shape[0]
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), mixtures)
    rows = rows_to_fit(one, x, sample_weight, lanes=lane_count(r), chunk_size=chunk_size)
    plan = _plan(r, rows, mixtures, max_iter, accelerator)
    stop, prior = as_options(rows, stop, prior, accelerator)
    with computing(mixtures, rows):
        if callback is None and plan.mesh is None:
            work = turn_work(rows, one.n_components, plan.width)
            return _fit_restarts(mixtures, rows, prior, stop, plan, work=work)
        prior = centred_prior(prior, mixtures, rows)
        return _climb(functools.partial(_open, mixtures), rows, prior, stop, plan, r, one.n_components, callback)


def fit_from_starts(
    key: Array,
    family: Family,
    rows: Rows,
    n_components: int,
    n_restarts: int,
    initializer: Initializer,
    *,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = None,
    callback: Callable[[RestartsProgress], None] | None = None,
) -> Result:
    """`fit_restarts` of `starts` on ready rows, in one program where the climbs are short; arguments as for those."""
    if rows.mesh is not None:
        drawn = starts(key, family, rows, n_components, n_restarts, initializer)
        options = {"stop": stop, "max_iter": max_iter, "accelerator": accelerator, "callback": callback}
        return fit_restarts(drawn, rows, **options)
    plan = _plan(n_restarts, rows, None, max_iter, accelerator)
    stop, _ = as_options(rows, stop, None, accelerator)
    with computing(rows):
        begin_with = functools.partial(_draw_and_open, key, family, n_components, n_restarts, initializer)
        return _climb(begin_with, rows, None, stop, plan, n_restarts, n_components, callback)


# -- the queue -----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What is fixed about a climb of many; static."""

    width: int
    max_iter: int
    accelerator: Any
    mesh: Mesh | None  # devices with a queue each; None for one queue


class Queue(NamedTuple):
    """Restarts waiting, climbing and finished: `width` lanes, refilled until none waits. One queue; all leaves lead with
    an axis, so that the queues of several devices are one array each.
    """

    states: State  # [r, ...] before the first pass, or finished; without traces
    traces: Array  # [r, max_iter + 1]
    lanes: State  # [w, ...]
    restart: Array  # [w], which is in the lane; r for none
    waiting: Array  # [1], the next restart to climb
    useful: Array  # [1], lane-turns of the last piece that a climb was under way in
    executed: Array  # [1], lane-turns of the last piece


def _queue(mixtures: Mixture, real: Array, rows: Rows, plan: Plan) -> Queue:
    """All waiting, lanes empty; restarts that are not `real` `[r]` (padding) never climb."""
    r = mixtures.log_weights.shape[0]
    states = jax.vmap(lambda mixture: begin(centred(mixture, rows), rows, None))(mixtures)
    status = jnp.where(real, states.status, Status.MAX_ITER).astype(states.status.dtype)
    states = states._replace(status=status)
    lanes = jax.tree.map(lambda leaf: leaf[jnp.zeros(plan.width, int)], states)
    lanes = lanes._replace(status=jnp.full(plan.width, int(Status.MAX_ITER), status.dtype))
    lanes = _armed(lanes, plan)
    none = jnp.zeros(1, jnp.int32)
    traces = jnp.full((r, plan.max_iter + 1), jnp.nan, states.objective.dtype)
    return Queue(states, traces, lanes, jnp.full(plan.width, r, jnp.int32), none, none, none)


def _armed(lanes: State, plan: Plan) -> State:
    """Lanes before their first pass, with what the accelerator needs."""
    if plan.accelerator is None:
        return lanes
    free = jax.vmap(Mixture.unconstrain)(lanes.mixture)
    nowhere, memory = jnp.zeros_like(free), jax.vmap(plan.accelerator.init)(free)
    units = jax.vmap(Mixture.units)(lanes.mixture)
    return lanes._replace(query=lanes.mixture, units=units, free=nowhere, displacement=nowhere, memory=memory)


def _refilled(queue: Queue, plan: Plan) -> Queue:
    """Finished lanes put away and the next restarts put in their place."""
    states, lanes, r = queue.states, queue.lanes, queue.states.status.shape[0]
    stopped = lanes.status != Status.RUNNING  # [w]
    states = _put(states, lanes, jnp.where(stopped, queue.restart, r))
    rank = queue.waiting[0] + jnp.cumsum(stopped.astype(jnp.int32)) - 1
    index = jnp.where(stopped, jnp.minimum(rank, r), queue.restart)
    fresh = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, r - 1)], states)
    fresh = fresh._replace(status=jnp.where(index < r, fresh.status, Status.MAX_ITER).astype(fresh.status.dtype))
    fresh = _armed(fresh, plan)
    lanes = jax.tree.map(lambda a, b: jnp.where(_column(stopped, a), a, b), fresh, lanes)
    waiting = jnp.minimum(queue.waiting + jnp.sum(stopped).astype(jnp.int32), r)
    return queue._replace(states=states, lanes=lanes, restart=index, waiting=waiting)


def _put(states: State, lanes: State, index: Array) -> State:
    """`lanes` `[w, ...]` written to rows `index` `[w]` of `states` `[r, ...]`; those out of bounds are dropped."""
    lanes = lanes._replace(query=None, units=None, free=None, displacement=None, memory=None)
    return jax.tree.map(lambda leaf, lane: leaf.at[index].set(lane, mode="drop"), states, lanes)


def _column(flags: Array, like: Array) -> Array:
    return flags.reshape(-1, *(1,) * (like.ndim - 1))


def _advance(
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array | int | None, plan: Plan
) -> Queue:
    """Up to `n_steps` turns of all lanes, or all there are to make.

    The lanes turn until one has stopped; then it is put away and refilled. Two loops, one in the other: what is put
    away is carried by the outer one alone, and no turn pays for it.
    """
    r, width = queue.states.status.shape[0], plan.width
    turn = jax.vmap(turn_of(rows, stop, prior, plan.accelerator, plan.max_iter))
    place = jax.vmap(functools.partial(recorded, max_iter=plan.max_iter))

    def may_go_on(step: Array) -> Array | bool:
        return True if n_steps is None else step < n_steps

    def turns(carry: tuple[Queue, Array]) -> tuple[Queue, Array]:
        queue, step = carry
        queue = _refilled(queue, plan)
        # restarts that wait need one free lane; once none waits, the lanes turn until all have stopped
        enough = jnp.where(queue.waiting[0] < r, 1, width)

        def none_stopped(inner: tuple[State, Array, Array, Array]) -> Array:
            stopped = jnp.sum(inner[0].status != Status.RUNNING)
            return (stopped < enough) & may_go_on(inner[3])

        def one_turn(inner: tuple[State, Array, Array, Array]) -> tuple[State, Array, Array, Array]:
            lanes, traces, useful, step = inner
            new = turn(lanes)
            traces = traces.at[queue.restart, place(lanes, new)].set(new.objective, mode="drop")
            return new, traces, useful + jnp.sum(lanes.status == Status.RUNNING, dtype=jnp.int32), step + 1

        lanes, traces, useful, after = jax.lax.while_loop(
            none_stopped, one_turn, (queue.lanes, queue.traces, queue.useful, step)
        )
        executed = queue.executed + (after - step) * width
        return queue._replace(lanes=lanes, traces=traces, useful=useful, executed=executed), after

    def unfinished(carry: tuple[Queue, Array]) -> Array:
        queue, step = carry
        return ((queue.waiting[0] < r) | jnp.any(queue.lanes.status == Status.RUNNING)) & may_go_on(step)

    return jax.lax.while_loop(unfinished, turns, (queue, jnp.int32(0)))[0]


def _close(queue: Queue, rows: Rows) -> Result:
    """The Results of all restarts, as far as they are."""
    states = _put(queue.states, queue.lanes, queue.restart)._replace(trace=queue.traces)
    return jax.vmap(lambda state: finish(state, rows))(states)


# -- programs ------------------------------------------------------------------------------------------------------------


def _climb_all(mixtures: Mixture, rows: Rows, prior: Prior | None, stop: StoppingRule, plan: Plan) -> Result:
    prior = centred_prior(prior, mixtures, rows)
    real = jnp.ones(mixtures.log_weights.shape[0], bool)
    queue = _advance(_queue(mixtures, real, rows, plan), rows, prior, stop, None, plan)
    return _close(queue, rows)


_fit_restarts = Compiled(_climb_all, static_argnums=(4,))


def _on_each_device(function: Callable[..., Any], plan: Plan, spread: Any, *shared: Any) -> Any:
    """`function(spread, *shared)`, for each device with its part of `spread`, whose leaves lead with the restarts."""
    if plan.mesh is None:
        return function(spread, *shared)
    lanes, all_of_it = PartitionSpec(plan.mesh.axis_names), PartitionSpec()
    specs = (lanes, *(all_of_it for _ in shared))
    return jax.shard_map(function, mesh=plan.mesh, in_specs=specs, out_specs=lanes, check_vma=False)(spread, *shared)


def _open_given(
    mixtures: Mixture, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, plan: Plan
) -> tuple[Queue, Result]:
    r = mixtures.log_weights.shape[0]
    index = jnp.arange(_padded(r, plan))
    filled = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, r - 1)], mixtures)

    def on_one(
        part: tuple[Mixture, Array], rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array
    ) -> tuple[Queue, Result]:
        return _piece(_queue(*part, rows, plan), rows, prior, stop, n_steps, plan)

    return _on_each_device(on_one, plan, (filled, index < r), rows, prior, stop, n_steps)


def _open_drawn(
    key: Array,
    family: Family,
    k: int,
    r: int,
    initializer: Initializer,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    n_steps: Array,
    plan: Plan,
) -> tuple[Queue, Result]:
    index = jnp.arange(_padded(r, plan))

    def on_one(
        index: Array,
        rows: Rows,
        key: Array,
        initializer: Initializer,
        prior: Prior | None,
        stop: StoppingRule,
        n_steps: Array,
    ) -> tuple[Queue, Result]:
        mixtures = draw(key, family, rows, k, index, initializer)
        return _piece(_queue(mixtures, index < r, rows, plan), rows, prior, stop, n_steps, plan)

    return _on_each_device(on_one, plan, index, rows, key, initializer, prior, stop, n_steps)


def _continue(
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, plan: Plan
) -> tuple[Queue, Result]:
    return _on_each_device(functools.partial(_piece, plan=plan), plan, queue, rows, prior, stop, n_steps)


_open = Compiled(_open_given, static_argnums=(5,))
_draw_and_open = Compiled(_open_drawn, static_argnums=(1, 2, 3, 9))
_go_on = Compiled(_continue, static_argnums=(5,))


def _piece(
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, plan: Plan
) -> tuple[Queue, Result]:
    """Some turns, and the Results if those were the last; zeros before."""
    none = jnp.zeros(1, jnp.int32)
    queue = _advance(queue._replace(useful=none, executed=none), rows, prior, stop, n_steps, plan)
    close = functools.partial(_close, queue, rows)
    over = ~jnp.any(queue.lanes.status == Status.RUNNING) & (queue.waiting[0] >= queue.states.status.shape[0])
    return queue, jax.lax.cond(over, close, lambda: zeros_like_result(close))


def _climb(
    begin_with: Callable[..., tuple[Queue, Result]],
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    plan: Plan,
    r: int,
    k: int,
    callback: Callable[[RestartsProgress], None] | None,
) -> Result:
    """Bounded pieces from the host: between two of them the callback hears of the progress, and Ctrl-C is heard."""
    if plan.mesh is not None:
        rows = jax.device_put(rows, NamedSharding(plan.mesh, PartitionSpec()))
    work = turn_work(rows, k, plan.width)
    seconds = SECONDS_A_TURN + SECONDS_A_NUMBER * work
    n_steps = MAX_STEPS if callback is None else max(1, int(FIRST_SECONDS / seconds))
    useful, executed, begun = 0, 0, time.perf_counter()
    queue, results = begin_with(rows, prior, stop, np.int32(n_steps), plan, work=work)
    while True:
        seen = _seen(queue, r, useful, executed)
        unfinished, useful, executed = seen.total - seen.finished, seen.useful, seen.executed
        if callback is not None:
            callback(seen)
        if unfinished == 0:
            return results if plan.mesh is None else _gathered(results, r)
        pace = PIECE_SECONDS / max(time.perf_counter() - begun, 1e-6)
        n_steps = max(1, int(n_steps * min(2.0, pace)))
        begun = time.perf_counter()
        queue, results = _go_on(queue, rows, prior, stop, np.int32(n_steps), plan, work=work)


def _seen(queue: Queue, r: int, useful: int, executed: int) -> RestartsProgress:
    """What a callback is told, read from the restarts put away and those in lanes; a piece adds to the two counts."""
    states, lanes = queue.states, queue.lanes
    in_lane = np.asarray(queue.restart) < states.status.shape[0] // queue.waiting.shape[0]  # the others are empty
    n_iter = [np.asarray(states.n_iter), np.asarray(lanes.n_iter)[in_lane]]  # -1 before the first pass
    best = [np.asarray(states.objective), np.asarray(lanes.objective)[in_lane]]
    running = int(np.sum(np.asarray(lanes.status) == Status.RUNNING))
    unfinished = states.status.shape[0] - int(np.sum(np.asarray(queue.waiting))) + running
    return RestartsProgress(
        finished=max(0, r - unfinished),
        total=r,
        passes=int(np.sum(np.maximum(np.concatenate(n_iter), 0))),
        best=float(np.max(np.concatenate(best))),
        useful=useful + int(np.sum(np.asarray(queue.useful))),
        executed=executed + int(np.sum(np.asarray(queue.executed))),
    )


def _gathered(results: Result, r: int) -> Result:
    """Results from several devices as arrays of the default one, without the padding."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[:r]), results)


def _plan(r: int, rows: Rows, mixtures: Mixture | None, max_iter: int, accelerator: Any) -> Plan:
    """What `fit_restarts` fixes: checked numbers, and a queue for each device if nothing was put on one."""
    as_count("the number of mixtures", r, most=MAX_RESTARTS)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    if r * (max_iter + 1) > MAX_TRACES:
        raise ValueError(
            f"max_iter = {max_iter} for {r} restarts makes traces of {r * max_iter:.0e} numbers; lower one"
        )
    devices, leaves = jax.local_devices(), jax.tree.leaves((rows, mixtures))
    free = rows.mesh is None and not is_traced(rows, mixtures) and jax.config.values["jax_default_device"] is None
    if r > 1 and len(devices) > 1 and free and not any(isinstance(a, jax.Array) and a.committed for a in leaves):
        devices = devices[:r]
        mesh = Mesh(np.asarray(devices), (LANES_AXIS,), axis_types=(AxisType.Auto,))
        return Plan(lane_count(-(-r // len(devices))), max_iter, accelerator, mesh)
    return Plan(lane_count(r), max_iter, accelerator, None)


def lane_count(r: int) -> int:
    """How many of r restarts climb at once on one device."""
    return min(r, WIDTH if jax.default_backend() == "cpu" else WIDTH_ELSEWHERE)


def _padded(r: int, plan: Plan) -> int:
    """The number of restarts that all devices share evenly."""
    size = 1 if plan.mesh is None else plan.mesh.size
    return -(-r // size) * size


def _rows_to_start(
    family: Family, x: ArrayLike | Rows, sample_weight: ArrayLike | None, n_components: int
) -> tuple[Rows, int]:
    """Ready rows, and the number of components checked against them."""
    if isinstance(x, Rows):
        return x, as_components(n_components, x.weights.size)
    data, weights = as_rows(family, x, sample_weight)
    k = as_components(n_components, data.shape[0])
    return made_ready(family, data, weights, k), k


def _draw_all(key: Array, family: Family, rows: Rows, k: int, r: int, initializer: Initializer) -> Mixture:
    return draw(key, family, rows, k, jnp.arange(r), initializer)


_starts = Compiled(_draw_all, static_argnums=(1, 3, 4))


def draw(key: Array, family: Family, rows: Rows, k: int, index: Array, initializer: Initializer) -> Mixture:
    """The starts of number `index` `[r]`, by one initialiser; `Recipe` may have leaves `[r]`, one for each."""
    data, weight = rows.as_matrix()
    data = data + rows.centre[None, :]
    own = isinstance(initializer, Recipe)

    def start(at: tuple[Array, Any]) -> Mixture:
        return (at[1] if own else initializer)(jax.random.fold_in(key, at[0]), family, data, k, weight)

    together = min(TOGETHER, LIVE_FLOATS // (data.size + 4 * data.shape[0]))
    lanes = (index, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, index.shape), initializer) if own else None)
    return jax.lax.map(start, lanes, batch_size=together if together > 1 else None)


def best(results: Result) -> Result:
    """The restart with the highest finite objective among those that did not collapse.

    If all collapsed it is the highest finite one, which says so in its status; if none is finite, the first.
    """
    if all(on_host(leaf) for leaf in jax.tree.leaves(results)):  # there numpy has nothing to compile
        best = _best(jax.tree.map(np.asarray, results), np)
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)), best)
    with computing(results):
        return _best_on_device(results)


def _best(results: Result, xp: Any) -> Result:
    finite = xp.isfinite(results.objective) & (results.status != Status.NONFINITE)
    sound = finite & ~has_failed(results.status)
    eligible = xp.where(xp.any(sound), sound, finite)
    i = xp.argmax(xp.where(eligible, results.objective, -xp.inf))
    return jax.tree.map(lambda leaf: leaf[i], results)


_best_on_device = jax.jit(functools.partial(_best, xp=jnp))


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
