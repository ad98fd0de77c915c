"""Many climbs at once: starts, `fit_restarts`, the best of them and the landscape of optima they found.

EM ends in a local optimum that depends on where it started, so we start often. Start i depends on the data and (key, i)
alone: more starts do not change the earlier ones. The climbs run in the lanes of one loop (lanes.py).
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

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
    check_from_host,
    check_initializer,
    on_host,
)
from jaxem.display import Axes, landscape_card, picture, readable
from jaxem.families.base import Family
from jaxem.held import with_held
from jaxem.holding import restored
from jaxem.implicit import from_optimum
from jaxem.init import EQUIVARIANT, FromResponsibilities, Initializer, KMeansPlusPlus
from jaxem.journal import journal_at
from jaxem.lanes import Queue, Settings, lane_count, open_and_run, run_by_threads
from jaxem.loop import MAX_ITER, MAX_TURNS, NO_LIMIT, NOISE, Result, as_options, rows_to_fit
from jaxem.mixture import Mixture
from jaxem.primitives import is_traced, take
from jaxem.priors import Prior
from jaxem.program import BRISK, FIRST_SECONDS, THOROUGH, Program, is_staging
from jaxem.progress import watched
from jaxem.recipes import Recipe
from jaxem.rows import Rows, as_rows, is_source, on_one_device, turn_work
from jaxem.source import Source, Stream
from jaxem.stopping import Status, StoppingRule, has_failed

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
    def shown(self) -> tuple[int, int, str]:
        """What a bar shows."""
        return self.finished, self.total, f"{self.finished} of {self.total} climbs, best {self.best:.4f}"

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

    def plot(self, **options: Any) -> Axes:
        """`jaxem.plots.plot_landscape`; returns the axes."""
        return picture("plot_landscape", self, **options)


def starts(
    key: Array,
    family: Family | str,
    x: ArrayLike | Rows | Source,
    n_components: int,
    n_restarts: int,
    initializer: Initializer | None = None,
    sample_weight: ArrayLike | None = None,
) -> Mixture:
    """Mixtures to start from: leaves `[r, ...]`, the i-th a function of (key, i) alone.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`, `Rows` made ready before, or a `Source`, whose sample the starts are made from.
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
    in_order = isinstance(initializer, FromResponsibilities)
    rows = as_rows(family, x, sample_weight, k, streams=True, in_order=in_order)
    rows.check_components(k)
    initializer = KMeansPlusPlus() if initializer is None else initializer
    if isinstance(rows, Stream):
        if isinstance(initializer, FromResponsibilities):
            raise ValueError(
                "FromResponsibilities needs rows in memory, and x is a Source of many; give another initializer"
            )
        rows = rows.sampled
    check_initializer(initializer)
    if isinstance(initializer, FromResponsibilities):
        initializer = initializer.padded(rows if is_source(x) else x, k, rows)
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
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = None,
    chunk_size: int | None = None,
    held: Mapping[str, Any] | None = None,
    callback: Callable[[RestartsProgress], None] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Result:
    """`fit` from every mixture of a batch, leaves `[r, ...]`, at once.

    Pure under jit, with the derivatives of `fit`. From the host the climbs are made in pieces, with the same result. The
    callback receives the progress after each piece; an exception in it, or Ctrl-C, ends the climbs.

    Threads of a CPU share the restarts, or the rows where these are many. Of several GPUs or TPUs each has a queue of its
    own, unless x or the mixtures were put on one. Devices over which the rows of x are spread work on the same lanes.

    Args:
        mixtures: the starts, leaves `[r, ...]`.
        x: `[n, d]`, shared by all, `Rows`, or a `Source`, of which all climbs share each block.
        callback: called with `RestartsProgress` between pieces.
        sample_weight, prior, stop, max_iter, accelerator, chunk_size, held, progress, checkpoint: as for `fit`.

    Returns:
        A Result with leaves `[r, ...]`. A restart that fails says so in its status and spoils no other.
    """
    mixtures = with_held(as_mixture(mixtures, x), held)
    if callback is not None or progress:
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
    about = mixtures.family, mixtures, prior, stop, settings
    with journal_at(checkpoint, "fit_restarts", rows, *about) as journal, watched("fit", progress, callback) as hear:
        entry = None if journal is None else journal.entry()
        find = functools.partial(_climb_all, settings=settings, callback=hear, entry=entry)
        return cast(Result, restored(from_optimum(find, mixtures, rows, prior, stop), mixtures))


def _climb_all(
    mixtures: Mixture,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    settings: Settings,
    callback: Any,
    entry: Any,
) -> Result:
    """`fit_restarts` of checked arguments, without derivatives."""
    r = mixtures.log_weights.shape[0]
    if is_traced(mixtures, rows, prior, stop) or is_staging():
        return open_and_run(mixtures, rows, prior, stop, np.int32(NO_LIMIT), np.int32(NO_LIMIT), settings)[1]
    useful, executed = 0, 0

    def look(queues: list[Queue]) -> None:
        nonlocal useful, executed
        seen = _progress(queues, r, useful, executed)
        useful, executed = seen.useful, seen.executed
        if callback is not None:
            callback(seen)

    results = run_by_threads(mixtures, rows, prior, stop, settings, look if callback else None, entry)
    if settings.mesh is None:
        return results
    # from several devices to arrays of the default one, without the padding
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[:r]), results)


def _progress(queues: list[Queue], r: int, useful: int, executed: int) -> RestartsProgress:
    """What a callback receives, read from the climbs that rest and those in lanes; a piece adds to the two counts."""
    n_iter, best, rest = [], [], 0
    for queue in queues:
        states, lanes, size = queue.states, queue.lanes, queue.order.shape[0] // queue.waiting.shape[0]
        in_lane = np.asarray(queue.climb) < size  # the others are empty
        real = np.asarray(queue.limit) >= 0  # the others are padding
        n_iter += [np.asarray(states.n_iter), np.asarray(lanes.n_iter)[in_lane]]  # -1 before the first pass
        best += [np.asarray(states.here.objective), np.asarray(lanes.here.objective)[in_lane]]
        rest += int(np.sum((np.asarray(states.status) == Status.RUNNING) & real))
        useful, executed = (
            useful + int(np.sum(np.asarray(queue.useful))),
            executed + int(np.sum(np.asarray(queue.executed))),
        )
    return RestartsProgress(
        finished=r - min(r, rest),
        total=r,
        passes=int(np.sum(np.maximum(np.concatenate(n_iter), 0))),
        best=float(np.max(np.concatenate(best))),
        useful=useful,
        executed=executed,
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
    if (
        r > 1
        and len(devices) > 1
        and devices[0].platform != "cpu"
        and free
        and not any(isinstance(a, jax.Array) and a.committed for a in leaves)
    ):
        devices = devices[:r]
        mesh = Mesh(np.asarray(devices), (LANES_AXIS,), axis_types=(AxisType.Auto,))
        return Settings(lane_count(-(-r // len(devices))), max_iter, accelerator, mesh)
    return Settings(lane_count(r), max_iter, accelerator)


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
        drawn = initializer(jax.random.fold_in(key, i), family, data, k, weight)
        return drawn.settle(rows.frame.centre) if moves else drawn

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
