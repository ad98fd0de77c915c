"""Many climbs at once: starts, `fit_restarts`, the best of them and the landscape of optima they found.

EM ends in a local optimum that depends on where it started, so we start often. Start i depends on the data and (key, i)
alone: more starts do not change the earlier ones. Climbs wait in a queue. A fixed number of them runs in the lanes of
one loop: x is shared, the parameters carry a leading axis, and a lane whose climb is over takes the next from the
queue. So no pass is spent on climbs that are over, except at the end, when none waits.

One queue serves all: a restart runs until it stops, a rung of a race is a queue of its climbs with a limit of turns, and
scikit-learn's `n_init` are restarts too. A queue is a pytree, so it can be saved as a checkpoint. Each device has a queue.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxem.checks import (
    as_count,
    as_family,
    as_key,
    as_mixture,
    check_callback,
    check_from_host,
    check_initializer,
    on_host,
)
from jaxem.display import landscape_card, readable
from jaxem.em import to_frame
from jaxem.families.base import Family
from jaxem.init import EQUIVARIANT, FromResponsibilities, Initializer, KMeansPlusPlus
from jaxem.loop import (
    MAX_ITER,
    MAX_TURNS,
    NO_LIMIT,
    NOISE,
    Result,
    State,
    as_options,
    begin,
    depart,
    finish,
    is_going,
    rows_to_fit,
    trace_index,
    turn,
)
from jaxem.mixture import Mixture
from jaxem.moments import zeros_like_result
from jaxem.primitives import is_traced, take
from jaxem.priors import Prior
from jaxem.program import BRISK, FIRST_SECONDS, THOROUGH, Pace, Program, is_staging
from jaxem.recipes import Recipe
from jaxem.rows import Frame, Rows, as_rows, on_one_device, turn_seconds, turn_work
from jaxem.stopping import Status, StoppingRule, has_failed

WIDTH, WIDTH_ELSEWHERE = 8, 64
"""restarts that climb at once on one device: few on a CPU, where more lanes are not faster and some are idle at the end"""
STARTS_AT_ONCE, LIVE_FLOATS = 64, 2**24
"""the most starts that are drawn at once on a GPU or TPU, and the most numbers in one array of theirs"""
LANES_AXIS = "lanes"
"""name of the axis of a mesh along which restarts lie"""
SECONDS_A_START = 5e-9
"""rough cost of drawing a start, for each number that a turn of it touches"""
SAME = 1e-3
"""nats within which two climbs are taken to have ended in one optimum"""
MAX_RESTARTS, MAX_TRACES = 2**24, 2**30
"""the most restarts of one call, and the most numbers in all their traces"""


class RestartsProgress(NamedTuple):
    """How far `fit_restarts` is; its callback receives it.

    Attributes:
        finished: restarts that have stopped.
        total: restarts in all.
        passes: turns made so far by all restarts; the first E-steps are not counted.
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
        saddles: restarts that ended at a saddle, not among them either.
    """

    log_likelihood: np.ndarray
    objective: np.ndarray
    counts: np.ndarray
    best_restart: np.ndarray
    degenerate: int
    failed: int
    saddles: int = 0


def starts(
    key: Array,
    family: Family | str,
    x: ArrayLike | Rows,
    n_components: int,
    n_restarts: int,
    initializer: Initializer | None = None,
    sample_weight: ArrayLike | None = None,
) -> Mixture:
    """Mixtures to start from: leaves `[r, ...]`, the i-th a function of (key, i) alone.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`, or `Rows` made ready before.
        n_components: k, at most n.
        n_restarts: r.
        initializer: a value from `jaxem.init`, by default `KMeansPlusPlus()`.
        sample_weight: `[n]`, non-negative; rows of weight 0 are never drawn.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    key, family = as_key(key), as_family(family)
    k = as_count("n_components", n_components, most=10**18)
    r = as_count("n_restarts", n_restarts, most=MAX_RESTARTS)
    rows = as_rows(family, x, sample_weight, k)
    rows.check_components(k)
    initializer = KMeansPlusPlus() if initializer is None else initializer
    check_initializer(initializer)
    if isinstance(initializer, FromResponsibilities):
        initializer = initializer.padded(x, k, rows)
    rows, index = on_one_device(rows), np.arange(r)
    at_once = max(1, int(FIRST_SECONDS / (SECONDS_A_START * turn_work(rows, k))))
    if at_once >= r or is_traced(key, rows, initializer) or is_staging():
        return _draw(key, family, rows, k, index, initializer)
    # in pieces of one size, so that Ctrl-C is heard
    pieces = np.arange(-(-r // at_once) * at_once).reshape(-1, at_once)
    drawn = [jax.block_until_ready(_draw(key, family, rows, k, piece, initializer)) for piece in pieces]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:r], *drawn)


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

    Pure under jit. Called from the host the climbs are made in pieces of a fraction of a second, with the same result. The
    callback receives the progress after each piece; an exception in it, or Ctrl-C, ends the climbs.

    Where JAX has several devices, and neither x nor the mixtures were put on one, each device works on a queue of its
    own; an x whose rows are spread over devices is used where it lies, all devices then working on the same lanes.

    Args:
        mixtures: the starts, leaves `[r, ...]`.
        x: `[n, d]`, shared by all, or `Rows`.
        callback: called with `RestartsProgress` between pieces.
        sample_weight, prior, stop, max_iter, accelerator, chunk_size: as for `fit`.

    Returns:
        A Result with leaves `[r, ...]`. A restart that fails says so in its status and spoils no other.
    """
    mixtures = as_mixture(mixtures, x)
    if callback is not None:
        check_callback(callback)
        check_from_host("fit_restarts with a callback", mixtures, x, sample_weight)
    if mixtures.log_weights.ndim != 2:
        raise ValueError(
            f"mixtures have log_weights of shape {mixtures.log_weights.shape}; give [r, k], as starts does, or use fit"
        )
    r = mixtures.log_weights.shape[0]
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), mixtures)
    rows = rows_to_fit(one, x, sample_weight, lanes=lane_count(r), chunk_size=chunk_size)
    settings = _settings(r, rows, mixtures, max_iter, accelerator)
    stop, prior = as_options(mixtures.family, rows, stop, prior, accelerator)
    if settings.mesh is not None:
        rows = jax.device_put(rows, NamedSharding(settings.mesh, PartitionSpec()))
    if is_traced(mixtures, rows, prior, stop) or is_staging():
        return open_and_run(mixtures, rows, prior, stop, np.int32(NO_LIMIT), np.int32(NO_LIMIT), settings)[1]
    useful, executed = 0, 0

    def look(queue: Queue) -> None:
        nonlocal useful, executed
        seen = _progress(queue, r, useful, executed)
        useful, executed = seen.useful, seen.executed
        if callback is not None:
            callback(seen)

    _, results = run_through(mixtures, rows, prior, stop, settings, look=look if callback else None)
    if settings.mesh is None:
        return results
    # from several devices to arrays of the default one, without the padding
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[:r]), results)


# -- the queue -----------------------------------------------------------------------------------------------------------


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
    traces: Array  # [r, max_iter + 1]
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
    rows: Rows,
    settings: Settings,
    limit: Array | int,
    *,
    resumes: bool = False,
    framed: bool = False,
) -> Queue:
    """All climbs waiting, all lanes empty; climbs that are not `real` `[r]` (padding) never run.

    If accelerated climbs resume, after a rung, their states keep what the accelerator needs. `framed` mixtures lie in the
    frame of the rows already.
    """
    r, accelerator = mixtures.log_weights.shape[0], settings.accelerator
    mixtures = mixtures if framed else jax.vmap(lambda one: one.to_frame(rows.frame))(mixtures)
    states = jax.vmap(lambda one: begin(one, None, accelerator if resumes else None))(mixtures)
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
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> Queue:
    """Up to `n_steps` turns of all lanes, or all there are to make.

    The lanes turn until one is vacant; then it is refilled. There are two loops, one in the other: the outer one alone
    carries the climbs that rest, so that no turn pays for them.
    """
    r, width = queue.order.shape[0], queue.climb.shape[0]
    options = {"stop": stop, "prior": prior, "accelerator": settings.accelerator, "max_iter": settings.max_iter}
    turn_all = jax.vmap(lambda state, limit: turn(state, rows, limit, **options))
    index_all = jax.vmap(functools.partial(trace_index, max_iter=settings.max_iter))

    def fill_and_turn(carry: tuple[Queue, Array]) -> tuple[Queue, Array]:
        queue, step = carry
        queue = _refill(queue, settings.accelerator)
        limits = _lane_limits(queue)
        # climbs that wait need one vacant lane; once none waits, the lanes turn until all are vacant
        enough = jnp.where(_one_waits(queue), 1, width)

        def few_vacant(inner: tuple[State, Array, Array, Array]) -> Array:
            return (jnp.sum(~is_going(inner[0], limits)) < enough) & (inner[3] < n_steps)

        def one_turn(inner: tuple[State, Array, Array, Array]) -> tuple[State, Array, Array, Array]:
            lanes, traces, useful, step = inner
            new = turn_all(lanes, limits)
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
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> tuple[Queue, Result]:
    """Some turns, and the Results if those were the last; zeros before. The prior is where the data lie."""
    prior = to_frame(prior, rows.frame)
    queue = _advance(queue, rows, prior, stop, n_steps, settings)
    close = functools.partial(_results, queue.states, queue.traces, rows.frame, prior)
    return queue, jax.lax.cond(_is_busy(queue), lambda: zeros_like_result(close), close)


def _run(
    queue: Queue, rows: Rows, prior: Prior | None, stop: StoppingRule, n_steps: Array, settings: Settings
) -> tuple[Queue, Result]:
    made = _on_each_device(functools.partial(_piece, settings=settings), settings, queue, rows, prior, stop, n_steps)
    if rows.mesh is None:
        return made
    # rows are spread over devices, each of which keeps all climbs; XLA would choose otherwise, and differently each time
    return jax.lax.with_sharding_constraint(made, NamedSharding(rows.mesh, PartitionSpec()))


def _open_and_run(
    mixtures: Mixture,
    rows: Rows,
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
        return _piece(queue_of(*part, rows, settings, limit), rows, prior, stop, n_steps, settings)

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


def _work(climbs: Queue | Mixture, rows: Rows, *options: Any) -> int:
    mixture = climbs if isinstance(climbs, Mixture) else climbs.lanes.here.mixture
    return turn_work(rows, mixture.n_components, options[-1].width)


open_and_run = Program(_open_and_run, (6,), work=_work, nan_is_data=True)
"""(mixtures `[r, ...]`, rows, prior, stop, limit `[]`, n_steps, settings) -> (Queue, Result): turns of new climbs, up to turn
`limit` of each and `n_steps` in all"""
run = Program(_run, (5,), work=_work, nan_is_data=True)
"""(queue, rows, prior, stop, n_steps, settings) -> (Queue, Result): up to `n_steps` turns more"""


def run_through(
    climbs: Mixture | Queue,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    settings: Settings,
    *,
    limit: int = NO_LIMIT,
    look: Callable[[Queue], None] | None = None,
) -> tuple[Queue, Result]:
    """All turns there are to make, of new climbs up to turn `limit` of each or of a queue, from the host in bounded pieces.

    Between two pieces Ctrl-C is heard; after each `look` sees the queue.
    """
    mixture = climbs if isinstance(climbs, Mixture) else climbs.lanes.here.mixture
    pace = Pace(turn_seconds(rows, mixture, settings.width))
    if isinstance(climbs, Mixture):
        queue, results = open_and_run(climbs, rows, prior, stop, np.int32(limit), pace.turns(), settings)
    else:
        queue, results = run(climbs, rows, prior, stop, pace.turns(), settings)
    while True:
        if look is not None:
            look(queue)
        if not _has_more(queue):
            return queue, results
        queue, results = run(queue, rows, prior, stop, pace.turns(), settings)


def _has_more(queue: Queue) -> bool:
    """`_is_busy` of a queue after a piece, by numpy: then no lane holds a climb that is over."""
    waiting, climb = np.asarray(queue.waiting), np.asarray(queue.climb)
    order = np.asarray(queue.order).reshape(len(waiting), -1)  # of each device
    size = order.shape[1]
    following = order[np.arange(len(waiting)), np.minimum(waiting, size - 1)]
    return bool(np.any(climb < size) or np.any((waiting < size) & (following < size)))


def _progress(queue: Queue, r: int, useful: int, executed: int) -> RestartsProgress:
    """What a callback receives, read from the climbs that rest and those in lanes; a piece adds to the two counts."""
    states, lanes, size = queue.states, queue.lanes, queue.order.shape[0] // queue.waiting.shape[0]
    in_lane = np.asarray(queue.climb) < size  # the others are empty
    n_iter = [np.asarray(states.n_iter), np.asarray(lanes.n_iter)[in_lane]]  # -1 before the first pass
    best = [np.asarray(states.here.objective), np.asarray(lanes.here.objective)[in_lane]]
    rests = np.asarray(states.status) == Status.RUNNING
    return RestartsProgress(
        finished=r - int(np.sum(rests[:r])),
        total=r,
        passes=int(np.sum(np.maximum(np.concatenate(n_iter), 0))),
        best=float(np.max(np.concatenate(best))),
        useful=useful + int(np.sum(np.asarray(queue.useful))),
        executed=executed + int(np.sum(np.asarray(queue.executed))),
    )


def _settings(r: int, rows: Rows, mixtures: Mixture, max_iter: int, accelerator: Any) -> Settings:
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
        return Settings(lane_count(-(-r // len(devices))), max_iter, accelerator, mesh)
    return Settings(lane_count(r), max_iter, accelerator)


def lane_count(r: int) -> int:
    """How many of r restarts climb at once on one device."""
    return min(r, WIDTH if jax.default_backend() == "cpu" else WIDTH_ELSEWHERE)


# -- starts --------------------------------------------------------------------------------------------------------------


def draw(key: Array, family: Family, rows: Rows, k: int, index: Array, initializer: Initializer) -> Mixture:
    """The starts of number `index` `[r]`, by one initialiser.

    Kinds of start that move with the data are drawn in the frame of the rows, where no digit is lost.
    """
    data, weight = rows.as_matrix()
    moves = isinstance(initializer, (*EQUIVARIANT, Recipe))
    if not moves:
        data = data + rows.frame.centre[None, :]

    def start(i: Array) -> Mixture:
        return initializer(jax.random.fold_in(key, i), family, data, k, weight)

    drawn = map_starts(start, index, data)
    return jax.vmap(lambda one: one.from_frame(rows.frame))(drawn) if moves else drawn


def map_starts(start: Callable[[Any], Mixture], lanes: Any, data: Array) -> Mixture:
    """`start` of each of `lanes`, leaves `[r, ...]`: one after the other on a CPU, many at once elsewhere."""
    together = min(STARTS_AT_ONCE, LIVE_FLOATS // (data.size + 4 * data.shape[0]))
    batched = together > 1 and jax.default_backend() != "cpu"
    return jax.lax.map(start, lanes, batch_size=together if batched else None)


def _draw_all(key: Array, family: Family, rows: Rows, k: int, index: Array, initializer: Initializer) -> Mixture:
    return draw(key, family, rows, k, index, initializer)


_draw = Program(_draw_all, (1, 3), small=BRISK, large=BRISK, nan_is_data=True)  # runs once


# -- what they found -----------------------------------------------------------------------------------------------------


def best(results: Result) -> Result:
    """The restart with the highest finite objective among those that did not collapse.

    If all collapsed it is the highest finite one, which says so in its status; if none is finite, the first.
    """
    if all(on_host(leaf) for leaf in jax.tree.leaves(results)):  # there numpy has nothing to compile
        chosen = _best(jax.tree.map(np.asarray, results), np)
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)), chosen)
    return _best_on_device(results)


def _best(results: Result, xp: Any) -> Result:
    finite = xp.isfinite(results.objective) & (results.status != Status.NONFINITE)
    sound = finite & ~has_failed(results.status)
    eligible = xp.where(xp.any(sound), sound, finite)
    i = xp.argmax(xp.where(eligible, results.objective, -xp.inf))
    return take(results, i)


_best_on_device = Program(functools.partial(_best, xp=jnp), small=THOROUGH, nan_is_data=True)


def optimum_tol(objectives: np.ndarray) -> float:
    """Nats within which two objectives are taken to belong to one optimum: `SAME`, or what rounding hides if that is more."""
    largest = float(np.max(np.abs(objectives), initial=0.0))
    return max(SAME, 100 * NOISE * float(np.finfo(objectives.dtype).eps) * largest)


def landscape(results: Result, tol: float | None = None) -> Landscape:
    """Group restarts by the optimum they ended in.

    Restarts whose objectives lie within `tol` nats of the best of a group are taken to have ended in the same optimum
    (whatever the order of its components). Those that collapsed, failed or ended at a saddle are counted apart.

    Args:
        results: leaves `[r, ...]`.
        tol: nats, more than the stopping rule leaves to gain; by default 1e-3, or what rounding hides if that is more.
    """
    value, status = np.asarray(results.objective), np.asarray(results.status)
    log_likelihood = np.asarray(results.log_likelihood)
    failed = ~np.isfinite(value) | (status == Status.NONFINITE)
    degenerate, saddle = (~failed & (status == one) for one in (Status.DEGENERATE, Status.SADDLE))
    order = np.flatnonzero(~failed & ~degenerate & ~saddle)
    order = order[np.argsort(-value[order], kind="stable")]
    tol = optimum_tol(value[order]) if tol is None else tol
    leaders: list[int] = []
    counts: list[int] = []
    for i in order.tolist():
        if leaders and value[leaders[-1]] - value[i] <= tol:
            counts[-1] += 1
        else:
            leaders.append(i)
            counts.append(1)
    index = np.asarray(leaders, int)
    lost = (int(np.sum(which)) for which in (degenerate, failed, saddle))
    return Landscape(log_likelihood[index], value[index], np.asarray(counts, int), index, *lost)
