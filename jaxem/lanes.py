"""Lanes: climbs that wait in a queue, run in the lanes of one loop, and rest.

A fixed number of climbs runs at once: x is shared, the parameters carry a leading axis, and a lane whose climb is over
takes the next from the queue. So no pass is spent on climbs that are over, except at the end, when none waits.

One queue serves all: a restart runs until it stops, a rung of a race is a queue of its climbs with a limit of turns, and
scikit-learn's `n_init` are restarts too. A queue is a pytree, so it can be saved as a checkpoint. Each device has a queue.

Where passes are cheap the whole loop is one program, and each thread has a queue of its own. Where they are not, all lanes
make their turns together, each thread passes over its part of the rows, and lanes without a climb are left out.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxem.em import pass_over, to_frame
from jaxem.loop import (
    NO_LIMIT,
    Result,
    State,
    begin,
    decide,
    depart,
    finish,
    is_going,
    point_of,
    query,
    trace_index,
    turn,
)
from jaxem.mixture import Mixture
from jaxem.moments import zeros_like_result
from jaxem.parts import Passed, Sample, is_by_parts, pass_in_parts
from jaxem.priors import Prior
from jaxem.program import BRISK, HASTY, PIECE_SECONDS, Pace, Program
from jaxem.replicas import Replicas, lanes_of
from jaxem.rows import Frame, Rows, turn_seconds, turn_work
from jaxem.source import Stream
from jaxem.stats import Stats
from jaxem.stopping import StoppingRule
from jaxem.threads import n_threads, run_all

WIDTH, WIDTH_ELSEWHERE = 8, 64
"""restarts that climb at once on one device: few on a CPU, where more lanes are not faster and some are idle at the end"""
FEWER = 4
"""lanes without a climb are left out where the others are this many times fewer"""
SHARED = 2**20
"""numbers that a turn of all climbs touches, above which threads share the climbs"""


class Settings(NamedTuple):
    """What is fixed about a queue; static."""

    width: int
    max_iter: int
    accelerator: Any
    mesh: Mesh | None = None  # devices with a queue each; None for one queue


class Queue(NamedTuple):
    """Climbs that wait, run and rest. Every leaf has a leading axis, along which the leaves of several devices' queues
    are joined.
    """

    states: State  # [r, ...], of climbs that are in no lane; without traces, and without routes if no climb resumes
    traces: Any  # [r, max_iter + 1]; None where they are kept elsewhere
    order: Array  # [r], the climbs to run, in this order; r for none
    limit: Array  # [r], the turn at which a climb leaves its lane though it has not stopped
    waiting: Array  # [1], the place in `order` of the next climb
    lanes: State  # [w, ...]
    climb: Array  # [w], which climb is in the lane; r for none
    useful: Array  # [1], lane-turns of the last piece that moved a climb
    executed: Array  # [1], lane-turns of the last piece

    def rung(self, order: np.ndarray, limit: int | np.ndarray) -> "Queue":
        """The same climbs, to be run again: those of `order`, each up to turn `limit`. No lane may be busy."""
        r = self.order.shape[0]
        padded: Any = np.full(r, r, np.int32)
        padded[: len(order)] = order
        limits: Any = np.broadcast_to(np.asarray(limit, np.int32), r)
        first: Any = np.zeros(1, np.int32)
        return self._replace(order=padded, limit=limits, waiting=first)

    def with_width(self, width: int) -> "Queue":
        """The same climbs in fewer lanes. No lane may be busy."""
        lanes, climb = jax.tree.map(lambda leaf: np.asarray(leaf)[:width], (self.lanes, self.climb))
        return self._replace(lanes=lanes, climb=climb)


def queue_of(
    mixtures: Mixture,
    real: Array,
    frame: Frame,
    settings: Settings,
    limit: Array | int,
    *,
    resumes: bool = False,
    framed: bool = False,
    present: Array | None = None,
) -> Queue:
    """All climbs waiting, all lanes empty; climbs that are not `real` `[r]` (padding) never run.

    If accelerated climbs resume, after a rung, their states keep what the accelerator needs. `framed` mixtures lie in the
    frame of the rows already. All components are `present`, unless that is given, `[k]` of bool.
    """
    r, accelerator = mixtures.log_weights.shape[0], settings.accelerator
    mixtures = mixtures if framed else jax.vmap(lambda one: one.to_frame(frame))(mixtures)
    states = jax.vmap(lambda one: begin(one, None, accelerator if resumes else None, present))(mixtures)
    index = jnp.zeros(settings.width, int)
    lanes = jax.tree.map(lambda leaf: leaf[index], states)
    if accelerator is not None and not resumes:
        lanes = lanes._replace(route=jax.vmap(lambda one: depart(one, accelerator))(lanes.here.mixture))
    none = jnp.zeros(1, jnp.int32)
    return Queue(
        states,
        jnp.full((r, settings.max_iter + 1), jnp.nan, states.here.objective.dtype),
        order=jnp.where(real, jnp.arange(r), r).astype(jnp.int32),
        limit=jnp.full(r, limit, jnp.int32),
        waiting=none,
        lanes=lanes,
        climb=jnp.full(settings.width, r, jnp.int32),
        useful=none,
        executed=none,
    )


def _lane_limits(queue: Queue) -> Array:
    """The turn at which each lane is to be vacated, `[w]`; -1 of an empty lane."""
    r = queue.order.shape[0]
    return jnp.where(queue.climb < r, queue.limit[jnp.minimum(queue.climb, r - 1)], -1)


def _refill(queue: Queue, accelerator: Any) -> Queue:
    """Climbs that are over, or at their limit, are put back, and the next in order take their lanes."""
    r = queue.order.shape[0]
    vacant = ~is_going(queue.lanes, _lane_limits(queue))  # [w]
    back = jnp.where(vacant, queue.climb, r)
    resting = queue.lanes if queue.states.route is not None else queue.lanes._replace(route=None)
    states = jax.tree.map(lambda leaf, lane: leaf.at[back].set(lane, mode="drop"), queue.states, resting)
    place = queue.waiting[0] + jnp.cumsum(vacant.astype(jnp.int32)) - 1
    following = jnp.where(place < r, queue.order[jnp.minimum(place, r - 1)], r)
    climb = jnp.where(vacant, following, queue.climb)
    fresh = jax.tree.map(lambda leaf: leaf[jnp.minimum(climb, r - 1)], states)
    if accelerator is not None and states.route is None:
        fresh = fresh._replace(route=jax.vmap(lambda one: depart(one, accelerator))(fresh.here.mixture))
    lanes = jax.tree.map(lambda a, b: jnp.where(vacant.reshape(-1, *(1,) * (a.ndim - 1)), a, b), fresh, queue.lanes)
    waiting = jnp.minimum(queue.waiting + jnp.sum(vacant).astype(jnp.int32), r)
    return queue._replace(states=states, lanes=lanes, climb=climb, waiting=waiting)


def _one_waits(queue: Queue) -> Array:
    """Whether a climb waits for a lane, `[]` of bool."""
    r = queue.order.shape[0]
    return (queue.waiting[0] < r) & (queue.order[jnp.minimum(queue.waiting[0], r - 1)] < r)


def _is_busy(queue: Queue) -> Array:
    """Whether a climb waits or runs, `[]` of bool."""
    return _one_waits(queue) | jnp.any(is_going(queue.lanes, _lane_limits(queue)))


def _advance(
    queue: Queue, rows: Rows | Replicas, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> Queue:
    """Up to `n_steps` turns of all lanes, or all there are to make.

    The lanes turn until one is vacant; then it is refilled. There are two loops, one in the other: the outer one alone
    carries the climbs that rest, so that no turn pays for them.
    """
    r, width = queue.order.shape[0], queue.climb.shape[0]
    options = {"stop": stop, "prior": prior, "accelerator": settings.accelerator, "max_iter": settings.max_iter}

    def turn_one(shared: Rows, state: State, limit: Array, own: dict[str, Any]) -> State:
        return turn(state, dataclasses.replace(shared, **own), limit, **options)

    index_all = jax.vmap(functools.partial(trace_index, max_iter=settings.max_iter))

    def fill_and_turn(carry: tuple[Queue, Array]) -> tuple[Queue, Array]:
        queue, step = carry
        queue = _refill(queue, settings.accelerator)
        limits = _lane_limits(queue)
        shared, own = lanes_of(rows, queue.climb)
        turn_all = jax.vmap(functools.partial(turn_one, shared))
        # climbs that wait need one vacant lane; once none waits, the lanes turn until all are vacant
        enough = jnp.where(_one_waits(queue), 1, width)

        def few_vacant(inner: tuple[State, Array, Array, Array]) -> Array:
            return (jnp.sum(~is_going(inner[0], limits)) < enough) & (inner[3] < n_steps)

        def one_turn(inner: tuple[State, Array, Array, Array]) -> tuple[State, Array, Array, Array]:
            lanes, traces, useful, step = inner
            new = turn_all(lanes, limits, own)
            traces = traces.at[queue.climb, index_all(lanes, new)].set(new.here.objective, mode="drop")
            return new, traces, useful + jnp.sum(is_going(lanes, limits), dtype=jnp.int32), step + 1

        carried = (queue.lanes, queue.traces, queue.useful, step)
        lanes, traces, useful, after = jax.lax.while_loop(few_vacant, one_turn, carried)
        executed = queue.executed + (after - step) * width
        return queue._replace(lanes=lanes, traces=traces, useful=useful, executed=executed), after

    def unfinished(carry: tuple[Queue, Array]) -> Array:
        queue, step = carry
        to_put_back = (queue.climb < r) & ~is_going(queue.lanes, _lane_limits(queue))
        return (_is_busy(queue) & (step < n_steps)) | jnp.any(to_put_back)

    none = jnp.zeros(1, jnp.int32)
    queue = queue._replace(useful=none, executed=none)
    return jax.lax.while_loop(unfinished, fill_and_turn, (queue, jnp.int32(0)))[0]


@jax.jit  # traced once, though `_piece` asks for its shapes as well
def _results(states: State, traces: Array, frame: Frame, prior: Prior | None) -> Result:
    """The Results of all climbs, as far as they are."""
    return jax.vmap(lambda state: finish(state, frame, prior))(states._replace(route=None, trace=traces))


# -- programs ------------------------------------------------------------------------------------------------------------


def _piece(
    queue: Queue, rows: Rows | Replicas, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> tuple[Queue, Result]:
    """Some turns, and the Results if those were the last; zeros before. The prior is where the data lie."""
    prior = to_frame(prior, rows.frame)
    queue = _advance(queue, rows, prior, stop, n_steps, settings)
    close = functools.partial(_results, queue.states, queue.traces, rows.frame, prior)
    return queue, jax.lax.cond(_is_busy(queue), lambda: zeros_like_result(close), close)


def _run(
    queue: Queue, rows: Rows | Replicas, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> tuple[Queue, Result]:
    made = _on_each_device(functools.partial(_piece, settings=settings), settings, queue, rows, prior, stop, n_steps)
    if rows.mesh is None:
        return made
    # rows are spread over devices, each of which keeps all climbs; XLA would choose otherwise, and differently each time
    return jax.lax.with_sharding_constraint(made, NamedSharding(rows.mesh, PartitionSpec()))


def _open_and_run(
    mixtures: Mixture,
    rows: Rows | Replicas,
    prior: Prior | None,
    stop: StoppingRule,
    limit: Array,
    n_steps: Array,
    settings: Settings,
) -> tuple[Queue, Result]:
    r, devices = mixtures.log_weights.shape[0], 1 if settings.mesh is None else settings.mesh.size
    index = jnp.arange(-(-r // devices) * devices)  # as many for each device
    padded = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, r - 1)], mixtures)

    def of_device(part: tuple[Mixture, Array], limit: Array, rows: Rows, prior: Any, stop: Any, n_steps: Array) -> Any:
        return _piece(queue_of(*part, rows.frame, settings, limit), rows, prior, stop, n_steps, settings)

    return _on_each_device(of_device, settings, (padded, index < r), limit, rows, prior, stop, n_steps)


def _on_each_device(function: Callable[..., Any], settings: Settings, spread: Any, *shared: Any) -> Any:
    """`function(spread, *shared)`, for each device with its part of `spread`, whose leaves lead with the climbs."""
    if settings.mesh is None:
        return function(spread, *shared)
    lanes, whole = PartitionSpec(settings.mesh.axis_names), PartitionSpec()
    specs = (lanes, *(whole for _ in shared))
    return jax.shard_map(function, mesh=settings.mesh, in_specs=specs, out_specs=lanes, check_vma=False)(
        spread, *shared
    )


def _filled(climbs: Mixture | Queue, frame: Frame, limit: Array, settings: Settings) -> tuple[Queue, Array, Array]:
    """A queue whose lanes hold climbs, which of them have turns to make, and up to which turn, `[w]` each."""
    if isinstance(climbs, Mixture):
        every = jnp.ones(climbs.log_weights.shape[0], bool)
        climbs = queue_of(climbs, every, frame, settings, limit)._replace(traces=None)
    queue = _refill(climbs, settings.accelerator)
    limits = _lane_limits(queue)
    return queue, is_going(queue.lanes, limits), limits


def _settled(
    lanes: State, limits: Array, stats: Stats, frame: Frame, prior: Prior | None, stop: StoppingRule, settings: Settings
) -> tuple[State, Array, Array, Array]:
    """The turn that the Stats of all rows make: the lanes after it and which have turns to make `[w]`; of each lane the
    place of the turn in the trace, and the objective.
    """
    prior, max_iter = to_frame(prior, frame), settings.max_iter

    def one(state: State, stats: Stats, limit: Array) -> State:
        there = point_of(query(state), stats, prior)
        return decide(state, there, frame, limit, stop=stop, max_iter=max_iter, accelerator=settings.accelerator)

    new = jax.vmap(one)(lanes, stats, limits)
    places = jax.vmap(functools.partial(trace_index, max_iter=max_iter))(lanes, new)
    return new, is_going(new, limits), places, new.here.objective


def _work(climbs: Queue | Mixture, rows: Rows | Replicas, *options: Any) -> int:
    mixture = climbs if isinstance(climbs, Mixture) else climbs.lanes.here.mixture
    return turn_work(rows.rows if isinstance(rows, Replicas) else rows, mixture.n_components, options[-1].width)


open_and_run = Program(_open_and_run, (6,), work=_work, nan_is_data=True)
"""(mixtures `[r, ...]`, rows, prior, stop, limit `[]`, n_steps, settings) -> (Queue, Result): turns of new climbs, up to turn
`limit` of each and `n_steps` in all"""
run = Program(_run, (5,), work=_work, nan_is_data=True)
"""(queue, rows, prior, stop, n_steps, settings) -> (Queue, Result): up to `n_steps` turns more"""


_fill = Program(_filled, (3,), small=HASTY, large=HASTY, nan_is_data=True)
_settle = Program(_settled, (6,), large=BRISK, nan_is_data=True)
_close = Program(_results, small=HASTY, large=HASTY, nan_is_data=True)


def run_through(
    climbs: Mixture | Queue,
    rows: Passed,
    prior: Prior | None,
    stop: StoppingRule,
    settings: Settings,
    *,
    limit: Any = NO_LIMIT,
    look: Callable[[Queue], None] | None = None,
    entry: Any = None,
) -> tuple[Queue, Result]:
    """All turns there are to make, of new climbs up to turn `limit` of each or of a queue, from the host in bounded pieces.

    Between two pieces Ctrl-C is heard; after each `look` sees the queue, and an `entry` of a journal remembers it.
    """
    mixture = climbs if isinstance(climbs, Mixture) else climbs.lanes.here.mixture
    if settings.mesh is None and is_by_parts(rows, mixture.n_components, settings.width):
        return _run_by_parts(climbs, rows, prior, stop, settings, limit, look, entry)
    rows = cast(Rows, rows)
    pace = Pace(turn_seconds(rows, mixture, settings.width))
    first = np.int32(0) if entry is not None else pace.turns()  # of no turns, for the kind of pytree that a queue is
    if isinstance(climbs, Mixture):
        queue, results = open_and_run(climbs, rows, prior, stop, np.asarray(limit, np.int32), first, settings)
    else:
        queue, results = run(climbs, rows, prior, stop, first, settings)
    if entry is not None:
        queue, results = run(entry.restore(queue), rows, prior, stop, pace.turns(), settings)
    while True:
        if entry is not None:
            entry.save(queue)
        if look is not None:
            look(queue)
        if not _has_more(queue):
            return queue, results
        queue, results = run(queue, rows, prior, stop, pace.turns(), settings)


def run_by_threads(
    mixtures: Mixture,
    rows: Rows | Replicas,
    prior: Prior | None,
    stop: StoppingRule,
    settings: Settings,
    look: Callable[[list[Queue]], None] | None = None,
    entry: Any = None,
) -> Result:
    """All turns of new climbs, of which each thread has a queue of its own; `look` and `entry` see the queues after each
    piece."""
    r, k = mixtures.log_weights.shape
    shared, of_replicas = (rows.rows, True) if isinstance(rows, Replicas) else (rows, False)
    threads = min(n_threads(), r) if r * turn_work(shared, k) > SHARED and jax.default_backend() == "cpu" else 1
    if not of_replicas and (threads == 1 or settings.mesh is not None or is_by_parts(shared, k, settings.width)):
        of_one = None if look is None else lambda queue: look([queue])
        return run_through(mixtures, shared, prior, stop, settings, look=of_one, entry=entry)[1]
    mine = np.arange(-(-r // threads) * threads).reshape(-1, threads).T  # in turn; those of number r and above are none
    own = settings._replace(width=min(settings.width, mine.shape[1]))
    pace = Pace(turn_seconds(shared, mixtures, own.width))
    turns = np.int32(0) if entry is not None else pace.turns()

    data = [rows.of(np.minimum(index, r - 1)) if isinstance(rows, Replicas) else rows for index in mine]

    def begin_climbs(index: np.ndarray, rows: Any) -> tuple[Queue, Result]:
        starts = jax.tree.map(lambda leaf: np.asarray(leaf)[np.minimum(index, r - 1)], mixtures)
        return open_and_run(starts, rows, prior, stop, np.where(index < r, NO_LIMIT, -1).astype(np.int32), turns, own)

    made = run_all([functools.partial(begin_climbs, *of_one) for of_one in zip(mine, data, strict=True)])
    if entry is not None:
        queues = entry.restore([queue for queue, _ in made])
        made = [run(queue, data[i], prior, stop, turns, own) for i, queue in enumerate(queues)]
    while True:
        if entry is not None:
            entry.save([queue for queue, _ in made])
        if look is not None:
            look([queue for queue, _ in made])
        busy = [i for i, (queue, _) in enumerate(made) if _has_more(queue)]
        if not busy:
            break
        turns = pace.turns()
        more = run_all([functools.partial(run, made[i][0], data[i], prior, stop, turns, own) for i in busy])
        for i, one in zip(busy, more, strict=True):
            made[i] = one
    place = np.argsort(mine.ravel(), kind="stable")[:r]
    join = lambda *leaves: jax.device_put(np.concatenate([np.asarray(leaf) for leaf in leaves])[place])  # noqa: E731
    return jax.tree.map(join, *(results for _, results in made))


def _run_by_parts(
    climbs: Mixture | Queue,
    rows: Passed,
    prior: Prior | None,
    stop: StoppingRule,
    settings: Settings,
    limit: Any,
    look: Any,
    entry: Any,
) -> tuple[Queue, Result]:
    """`run_through` whose passes are made by several threads and whose decisions by one program."""
    if isinstance(climbs, Queue):
        climbs, traces = climbs._replace(traces=None), np.array(climbs.traces)
    else:
        r, dtype = climbs.log_weights.shape[0], climbs.log_weights.dtype
        traces = np.full((r, settings.max_iter + 1), np.nan, dtype)
    queue, going, limits = _fill(climbs, rows.frame, limit, settings)
    if entry is not None:
        queue, traces = entry.restore((queue, traces))
        queue, going, limits = _fill(queue, rows.frame, limit, settings)
    width, useful, executed, told = settings.width, 0, 0, time.perf_counter()
    while True:
        if entry is not None:
            entry.save((queue, traces))
        if look is not None and (time.perf_counter() - told > PIECE_SECONDS or not _has_more(queue)):
            counts = [np.full(1, count, np.int32) for count in (useful, executed)]
            look(queue._replace(traces=traces, useful=counts[0], executed=counts[1]))
            useful, executed, told = 0, 0, time.perf_counter()
        lanes = np.flatnonzero(going)
        if lanes.size:
            looked = next(size for size in (1, width // FEWER, width) if size >= lanes.size)
            stats = pass_in_parts(query(queue.lanes), rows, np.resize(lanes, looked))
            state, going, places, objectives = _settle(queue.lanes, limits, stats, rows.frame, prior, stop, settings)
            queue, climb = queue._replace(lanes=state), np.asarray(queue.climb)
            made = np.flatnonzero(np.asarray(places) <= settings.max_iter)
            traces[climb[made], np.asarray(places)[made]] = np.asarray(objectives)[made]
            useful, executed = useful + lanes.size, executed + looked
        if not np.asarray(going)[lanes].all() or lanes.size == 0:  # a climb is over, perhaps before it began
            if not _has_more(queue):
                break
            queue, going, limits = _fill(queue, rows.frame, limit, settings)
    queue = queue._replace(traces=jax.device_put(traces))
    return queue, _close(queue.states, queue.traces, rows.frame, to_frame(prior, rows.frame))


def compile_ahead(queue: Any, rows: Passed, prior: Prior | None, stop: StoppingRule, settings: Settings) -> Any:
    """Begin to compile what runs a queue of these shapes; a thread to join."""
    if settings.mesh is not None or not is_by_parts(rows, queue.lanes.here.mixture.n_components, settings.width):
        return run.compile_ahead(queue, rows, prior, stop, np.int32(NO_LIMIT), settings)
    whole = rows.rows if isinstance(rows, Sample) else rows.sampled if isinstance(rows, Stream) else rows
    stats = jax.eval_shape(jax.vmap(lambda one: pass_over(one, whole)), query(queue.lanes))
    limits = jax.ShapeDtypeStruct(queue.climb.shape, queue.climb.dtype)
    return _settle.compile_ahead(queue.lanes, limits, stats, rows.frame, prior, stop, settings)


def _has_more(queue: Queue) -> bool:
    """`_is_busy` of a queue after a piece, by numpy: then no lane holds a climb that is over."""
    waiting, climb = np.asarray(queue.waiting), np.asarray(queue.climb)
    order = np.asarray(queue.order).reshape(len(waiting), -1)  # of each device
    size = order.shape[1]
    following = order[np.arange(len(waiting)), np.minimum(waiting, size - 1)]
    return bool(np.any(climb < size) or np.any((waiting < size) & (following < size)))


def lane_count(r: int) -> int:
    """How many of r restarts climb at once on one device."""
    return min(r, WIDTH if jax.default_backend() == "cpu" else WIDTH_ELSEWHERE)
