"""The best optimum for the fewest passes: `search` races diverse starts.

Which optimum EM ends in depends on the start, and no way of starting is best for all data. So a search goes in rounds of
diverse starts, of which few climb to the end (rounds.py).

Ranking starts needs few rows. Of large data the rounds are made on a sample. The best optima found there climb on larger
samples, of which each has `GROWTH` times the rows and half the climbs of the one before, so that each costs about the
same. The last two climb on all rows, to the end. A rung on a sample counts as its share of a pass.

If every climb of the likelihood collapses, there is no maximum to give. For a Gaussian family `search` then races again
under a penalty that keeps covariances away from zero (`chen_tan` and `variance_floor`), and gives that fit the status
DEGENERATE.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.accelerate import hybrid
from jaxem.checks import (
    as_count,
    as_family,
    as_key,
    check_from_host,
)
from jaxem.collapse import collapse_of
from jaxem.devices import mesh_of, mesh_under
from jaxem.display import Axes, picture, readable, search_card
from jaxem.families.base import Family
from jaxem.held import values_of
from jaxem.holding import restored
from jaxem.implicit import attach_derivatives
from jaxem.journal import journal_at
from jaxem.lanes import Settings, lane_count
from jaxem.loop import MAX_ITER, MAX_TURNS, Result, as_options
from jaxem.parts import Sample
from jaxem.penalties import chen_tan, variance_floor
from jaxem.primitives import is_traced
from jaxem.priors import NormalInverseWishart, Prior
from jaxem.progress import watched
from jaxem.queue import Landscape, best, landscape
from jaxem.reasons import Collapse
from jaxem.recipes import MOST_ROWS
from jaxem.rounds import ARMS, LARGE_TURN, SHORT, STARTS, Field, Found, Race, SearchProgress, run_rounds, starts_of
from jaxem.rows import Rows, as_rows, centred_columns, is_source, on_one_device, turn_work
from jaxem.slots import without_absent
from jaxem.source import Source, Stream, sample_order
from jaxem.stopping import RemainingGainBelow, Status, StoppingRule, has_failed

WORK, LEAST_BUDGET, MOST_BUDGET = 3e9, 300, 4000
"""numbers that the passes of a search may touch, by default, and the fewest and most passes that this may mean"""
SAMPLE, LARGE = 2**14, 2**16
"""rows of the first sample, and of all rows that are searched without a sample, at most"""
GROWTH, CONTENDERS, LAST = 4, 8, 2
"""by how much samples grow, how many optima climb on the second, and how many on all rows"""
SAMPLED_TURNS, SAMPLED_GAIN = 24, 1e-4
"""turns on each larger sample, and the nats that may be left to gain where a climb on the first ends"""
FLOOR = 1e-6
"""smallest variance in a penalised fit, as a part of the data's largest variance"""


@readable(search_card)
class Search(NamedTuple):
    """What `search` found.

    Attributes:
        best: a `Result`, the best optimum; its status says whether it is one.
        landscape: the distinct optima of the likelihood that finalists ended in, and how many ended in each. With
            `penalised`, the finalists and arms are those of the penalised race, the landscape that of the race before.
        finalists: a `Result` with leaves `[m, ...]`: all lanes that were polished, best first.
        arms: the kind of start that each finalist came from.
        passes: passes over the data made in all, the first E-step of every lane among them.
        penalised: the fit under a penalty, where every climb of the likelihood collapsed; else None.
        collapse: why, if every climb failed, by the best of them; else None.
    """

    best: Result
    landscape: Landscape
    finalists: Result
    arms: tuple[str, ...]
    passes: int
    penalised: Result | None
    collapse: Collapse | None = None

    def plot(self, x: ArrayLike | None = None, **options: Any) -> Axes:
        """`jaxem.plots.plot_landscape`, with rows `plot_responsibilities` of the best; returns the axes."""
        return picture("plot_landscape" if x is None else "plot_responsibilities", self, x, **options)


def search(
    key: Array,
    family: Family | str,
    x: ArrayLike | Rows | Source,
    n_components: int,
    sample_weight: ArrayLike | None = None,
    *,
    budget: int | None = None,
    arms: Sequence[str] | None = None,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = hybrid(),
    chunk_size: int | None = None,
    held: Mapping[str, Any] | None = None,
    callback: Callable[[SearchProgress], None] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Search:
    """The best optimum that a budget of passes finds: diverse starts, raced, the last ones polished.

    Under `jax.grad` and the like, but not under jit, `best` has the derivatives of `fit`: those of the optimum that was chosen.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`, `Rows` made ready before, or a `Source`.
        n_components: k, at most n.
        sample_weight: `[n]`, non-negative.
        budget: passes over the data to make, at least 1; by default 300 to 4,000, the more the less a pass costs, and fewer
            if five rounds in a row find nothing better. Those that make starts are not counted. The best of a round is
            polished to the end even if that goes beyond. A second race, under a penalty, may make as many again.
        arms: kinds of start, of `jaxem.rounds.ARMS`; all by default.
        prior: with one, log-likelihood + log prior is climbed and ranked.
        stop, max_iter, chunk_size: as for `fit`.
        accelerator: as for `fit`; by default `hybrid()`.
        held: parameters that stay as they are: values by name, NaN where free, such as {"weights": [0.5, nan]}. {"weights":
            True} is equal proportions. Each start is made as usual; its component next to a held mean takes that.
        callback: called with `SearchProgress` between pieces; an exception raised in it, or Ctrl-C, ends the search.
        progress: whether to show a bar in a terminal or a notebook.
        checkpoint: a file, written every few seconds; if it is there, the search goes on from it, to the same numbers.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    given = x, sample_weight, prior
    if is_traced(given):  # under grad these are numbers again
        x, sample_weight, prior = jax.lax.stop_gradient(given)
    check_from_host("search", key, x, sample_weight, prior)
    key, family = as_key(key), as_family(family)
    k = as_count("n_components", n_components, most=10**18)
    with watched("search", progress, callback) as hear:
        options = (budget, arms, prior, stop, max_iter, accelerator, chunk_size, hear)
        found = search_with_slots(key, family, x, k, sample_weight, k, *options, checkpoint=checkpoint, held=held)
    if not is_traced(given):
        return found
    rows = as_rows(family, *given[:2], k, like=found.best.mixture, chunk_size=chunk_size)
    known = as_options(family, rows, stop, given[2], accelerator)[1]
    return found._replace(best=attach_derivatives(found.best, found.best.mixture, rows, known))


def search_with_slots(
    key: Array,
    family: Family,
    x: ArrayLike | Rows | Source,
    k: int,
    sample_weight: Any,
    slots: int,
    budget: int | None,
    arms: Sequence[str] | None,
    prior: Prior | None,
    stop: StoppingRule | None,
    max_iter: int,
    accelerator: Any,
    chunk_size: int | None,
    callback: Callable[[SearchProgress], None] | None,
    checkpoint: str | os.PathLike[str] | None = None,
    held: Mapping[str, Any] | None = None,
) -> Search:
    """`search`, by programs that have room for `slots` components."""
    given = None if budget is None else as_count("budget", budget)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    names = _arm_names(arms)
    rows, drawn_from = _rows_to_race(family, x, sample_weight, slots, lane_count(STARTS), chunk_size)
    rows.check_components(k)
    rule, known = as_options(family, rows, stop, prior, accelerator)
    passes = default_budget(turn_work(rows, k)) if given is None else given
    settings = Settings(lane_count(1 if slots == 1 else starts_of(passes)), max_iter, accelerator)
    values = values_of(
        family, k, drawn_from.blocks.shape[1], drawn_from.dtype, held
    )  # k is slots where something is held
    race = Race(family, k, slots, names, passes, rows, drawn_from, known, rule, settings, callback, values)
    about = key, family, k, slots, names, passes, known, rule, settings, values
    with journal_at(checkpoint, "search", rows, *about) as journal:
        race = race._replace(journal=journal)
        found = _run_race(key, race, 0)
        if not has_failed(int(found.best.status)):
            return found
        if slots == k:
            return _after_failure(key, race, found, x, sample_weight)
    # a family may not suffer components without rows, and penalties count them
    options = (given, arms, prior, stop, max_iter, accelerator, chunk_size, callback)
    return search_with_slots(key, family, x, k, sample_weight, k, *options)


def _after_failure(key: Array, race: Race, found: Search, x: Any, sample_weight: Any) -> Search:
    """What to give where every climb of the likelihood failed, and why they did."""
    rows, family = race.rows, race.family
    data = rows.sampled if isinstance(rows, Stream) else x
    found = found._replace(collapse=collapse_of(found.best.mixture, data, sample_weight))
    bounded = NormalInverseWishart in family.conjugate and np.isfinite(np.asarray(rows.frame.variance)).all()
    return _under_penalty(key, race, found) if bounded else found


def _under_penalty(key: Array, race: Race, found: Search) -> Search:
    """What to give where every climb of the likelihood failed: the best fit of a second race, under a penalty."""
    every = race.rows.sampled if isinstance(race.rows, Stream) else race.rows
    penalty = _penalty(race.family, on_one_device(cast(Rows, every)))
    penalty = penalty if race.prior is None else race.prior + penalty
    offered = _run_race(key, race._replace(prior=penalty), found.passes)
    if has_failed(int(offered.best.status)):
        return found._replace(passes=offered.passes)
    degenerate = jnp.full_like(offered.best.status, int(Status.DEGENERATE))
    return offered._replace(
        best=offered.best._replace(status=degenerate),
        penalised=offered.best,
        landscape=found.landscape,
        collapse=found.collapse,
    )


def _run_race(key: Array, race: Race, passes: float) -> Search:
    """The best of the rounds, of large data on samples first; `passes` were made before."""
    found = None if race.rows is race.drawn_from else _climb_samples(key, race, passes)
    found = run_rounds(key, race, passes) if found is None else found
    finalists = jax.tree.map(jax.device_put, without_absent(found.results, race.k))
    finalists = finalists if race.values is None else restored(finalists, race.values)
    passes = math.ceil(passes + found.passes)
    return Search(best(finalists), landscape(finalists), finalists, found.arms, passes, None)


def _climb_samples(key: Array, race: Race, passes: float) -> Found | None:
    """Rounds on a sample, whose optima climb on larger samples and then on all rows; None if the sample has no optimum."""
    every: Any = race.rows
    n, dtype = int(np.asarray(every.frame.n)), every.dtype

    def on(size: int) -> Race:
        return race._replace(rows=Sample.of(every, size, whole=race.prior is not None))

    first = on(SAMPLE)
    stop = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), RemainingGainBelow(SAMPLED_GAIN))
    share = first.share
    most = min(share * default_budget(turn_work(first.rows, race.k)), race.budget / 2)
    tell: Any = race.callback
    hear = None if tell is None else (lambda seen: tell(seen._replace(budget=math.ceil(race.budget))))
    found = run_rounds(key, first._replace(budget=most, stop=stop, callback=hear), passes)
    contenders, made = found.optima[:CONTENDERS], found.passes
    if contenders.size == 0:
        return None
    mixtures, names = jax.tree.map(lambda leaf: leaf[contenders], found.mixtures), [found.arms[i] for i in contenders]
    size, climbing = SAMPLE * GROWTH, len(names)
    in_memory = int(np.count_nonzero(np.asarray(every.sampled.weights))) if isinstance(every, Stream) else n
    while GROWTH * size <= 2 * n and climbing > LAST and size <= in_memory:
        field = Field.start(mixtures, on(size), passes + made).climb(np.arange(climbing), SAMPLED_TURNS)
        order = field.order(np.arange(len(names)))
        mixtures = jax.tree.map(lambda leaf: np.asarray(leaf)[order], field.queue.states.here.mixture)  # noqa: B023
        names, made = [names[i] for i in order], made + field.race.share * field.scores.passes
        size, climbing = size * GROWTH, max(LAST, climbing // 2)
    field, last = Field.start(mixtures, race, passes + made), np.arange(min(LAST, len(names)))
    found = field.climb(last, SHORT).found(last, names, moves=False)
    return found._replace(passes=made + found.passes)


def default_budget(work: float) -> int:
    """Passes that a search makes by default if each touches `work` numbers: many where they are cheap."""
    return int(np.clip(WORK / work, LEAST_BUDGET, MOST_BUDGET))


# -- the edge ------------------------------------------------------------------------------------------------------------


def _arm_names(arms: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(ARMS) if arms is None else (arms,) if isinstance(arms, str) else tuple(arms)
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms names {name!r}, which is no kind of start; choose from {', '.join(ARMS)}")
    if not names:
        raise ValueError(f"arms is empty; choose from {', '.join(ARMS)}")
    return names


def _rows_to_race(
    family: Family, x: ArrayLike | Rows | Source, sample_weight: ArrayLike | None, k: int, lanes: int, chunk_size: Any
) -> tuple[Rows, Rows]:
    """Ready rows, and those that starts are made from: of large data in the host's memory the first of a random order.

    If there are several devices with memory of their own and there is much to do, the rows are spread over them.
    """
    lanes = LAST if is_source(x) else lanes
    devices, options = jax.local_devices(), dict[str, Any]({"lanes": lanes, "chunk_size": chunk_size})
    found: Any = x
    weight: Any = sample_weight
    size = 0 if isinstance(x, Rows) or is_source(x) or np.ndim(found) != 2 else np.shape(found)[0]
    on_host = size > 0 and (not isinstance(x, jax.Array) or devices[0].platform == "cpu")
    if devices[0].platform != "cpu" and len(devices) > 1 and on_host and np.size(found) * k * lanes > LARGE_TURN:
        options["mesh"] = mesh_of(devices)
    elif k > 1 and size > LARGE and on_host and mesh_under(x) is None:
        # arrays of JAX's that lie in the host's memory, so that numpy makes them ready
        found, weight = (np.asarray(a) if isinstance(a, jax.Array) else a for a in (found, weight))
        options |= {"order": sample_order(size, np.shape(found)[1], weight), "lanes": LAST}
    rows = as_rows(family, found, weight, k, streams=True, **options)
    if not isinstance(rows, Stream) and ("order" not in options or int(np.asarray(rows.frame.n)) <= LARGE):
        return rows, rows
    return rows, Sample.of(rows, 2 * MOST_ROWS, whole=False).copy()


def _penalty(family: Family, rows: Rows) -> Prior:
    """What keeps every covariance away from zero, for the rows as they are given."""
    data, weight = rows.as_matrix()  # in their frame, where no digit is lost; neither prior speaks of the place
    moving = centred_columns(family.location, data.shape[1])
    largest = float(np.max(np.asarray(rows.frame.variance)[moving if moving.any() else ...]))
    unit = largest if largest > 0 else 1.0
    return chen_tan(data, weight) + variance_floor(data, FLOOR * unit, weight)
